//! A binding as the store keeps it: a version octet, then fields, each text with its length.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Now, UnixMillis};
use crate::config::Tagless;
use crate::registrar::binding::{Binding, Facts};
use crate::sip::transport::flow::{Flow, Transport};

const VERSION: u8 = 2;
/// Without the User-Agent and what the device stated before; still read.
const FIRST_VERSION: u8 = 1;
/// Path values in one record; more than a REGISTER can bring.
const MOST_PATHS: u32 = 64;

/// The octets are no binding this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a binding record of this version")]
pub struct DecodeError;

impl Binding {
    /// For [`StoreRequest::PutBinding`](crate::store::request::StoreRequest::PutBinding).
    pub fn encode(&self) -> Bytes {
        let facts = &self.facts;
        let mut out = vec![VERSION];
        put_text(&mut out, &facts.uri);
        put_text(&mut out, &facts.parameters);
        out.extend(facts.q.to_be_bytes());
        put_option(&mut out, facts.instance.as_deref(), put_text);
        put_option(&mut out, facts.reg_id, |out, id| {
            out.extend(id.to_be_bytes())
        });
        put_text(&mut out, &facts.call_id);
        out.extend(facts.cseq.to_be_bytes());
        out.extend((facts.path.len() as u32).to_be_bytes());
        facts.path.iter().for_each(|path| put_text(&mut out, path));
        put_flow(&mut out, &facts.flow);
        out.extend(facts.registered_at.0.to_be_bytes());
        out.extend((facts.lifetime.as_millis() as u64).to_be_bytes());
        put_option(&mut out, facts.user_agent.as_deref(), put_text);
        out.push(u8::from(facts.had_service));
        out.into()
    }

    /// Back from the store; `Ok(None)` if its time is over.
    ///
    /// A UDP flow is as good as before. A TCP connection is not: the binding is suspended until it
    /// registers again. Because a refresh is not always written, a binding read back lives half a
    /// lifetime longer than its record says.
    pub fn decode(octets: &[u8], tagless: Tagless, now: Now) -> Result<Option<Self>, DecodeError> {
        let facts = decode_facts(&mut Reader(octets)).ok_or(DecodeError)?;
        let allowed = facts.lifetime + facts.lifetime / 2;
        let left = allowed.saturating_sub(now.wall.since(facts.registered_at));
        if left.is_zero() {
            return Ok(None);
        }
        let mut binding = Self::from_facts(facts, now.instant + left, now, tagless);
        binding.suspended = binding.hangs_on_connection();
        binding.stored_at = None;
        Ok(Some(binding))
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_flow(out: &mut Vec<u8>, flow: &Flow) {
    out.push(match flow.transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
    });
    out.extend(flow.listener.to_be_bytes());
    match flow.remote.ip() {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend(address.octets());
        }
    }
    out.extend(flow.remote.port().to_be_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take::<1>().map(|[octet]| octet)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.octet()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn flow(&mut self) -> Option<Flow> {
        let transport = match self.octet()? {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            _ => return None,
        };
        let listener = self.u16()?;
        let address = match self.octet()? {
            4 => IpAddr::from(self.take::<4>()?),
            6 => IpAddr::from(self.take::<16>()?),
            _ => return None,
        };
        Some(Flow {
            transport,
            listener,
            remote: SocketAddr::new(address, self.u16()?),
            connection: None,
        })
    }
}

fn decode_facts(reader: &mut Reader<'_>) -> Option<Facts> {
    let version = reader.octet()?;
    if ![FIRST_VERSION, VERSION].contains(&version) {
        return None;
    }
    let mut facts = Facts {
        uri: reader.text()?,
        parameters: reader.text()?,
        q: reader.u16()?,
        instance: reader.option(Reader::text)?,
        reg_id: reader.option(Reader::u32)?,
        call_id: reader.text()?,
        cseq: reader.u32()?,
        path: {
            let count = reader.u32().filter(|count| *count <= MOST_PATHS)?;
            (0..count).map(|_| reader.text()).collect::<Option<_>>()?
        },
        flow: reader.flow()?,
        registered_at: UnixMillis(reader.u64()?),
        lifetime: Duration::from_millis(reader.u64()?),
        user_agent: None,
        had_service: false,
    };
    if version > FIRST_VERSION {
        facts.user_agent = reader.option(Reader::text)?.map(Into::into);
        facts.had_service = match reader.octet()? {
            0 => false,
            1 => true,
            _ => return None,
        };
    }
    reader.0.is_empty().then_some(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;
    use crate::sip::transport::flow::ConnectionId;
    use proptest::prelude::*;

    const NOW: Now = Now {
        instant: Instant::from_micros(5_000_000),
        wall: UnixMillis(1_700_000_000_000),
    };

    fn binding(transport: Transport) -> Binding {
        let facts = Facts {
            uri: "sip:bob@192.0.2.1:5060".to_owned(),
            parameters: ";+g.oma.sip-im;+sip.instance=\"<urn:uuid:1>\"".to_owned(),
            q: 700,
            instance: Some("<urn:uuid:1>".to_owned()),
            reg_id: Some(2),
            call_id: "c".to_owned(),
            cseq: 7,
            path: Vec::new(),
            flow: Flow {
                transport,
                listener: 1,
                remote: "[2001:db8::1]:40000".parse().unwrap(),
                connection: (transport == Transport::Tcp).then(|| ConnectionId::new(1, 2)),
            },
            registered_at: NOW.wall,
            lifetime: Duration::from_secs(600),
            user_agent: Some("Phone/1".into()),
            had_service: true,
        };
        let deadline = NOW.instant + facts.lifetime;
        Binding::from_facts(facts, deadline, NOW, Tagless::Message)
    }

    fn decode(binding: &Binding, now: Now) -> Option<Binding> {
        Binding::decode(&binding.encode(), Tagless::Message, now).unwrap()
    }

    #[test]
    fn a_udp_binding_survives_with_its_flow_and_half_a_lifetime_more() {
        let before = binding(Transport::Udp);
        let after = decode(&before, NOW.plus(Duration::from_secs(10))).unwrap();
        assert_eq!(after.facts, before.facts);
        assert_eq!(after.key(), before.key());
        assert_eq!(after.capability(), before.capability());
        assert!(!after.is_suspended());
        assert_eq!(after.deadline(), NOW.instant + Duration::from_secs(900));
    }

    #[test]
    fn a_tcp_binding_comes_back_suspended_and_without_its_connection() {
        let after = decode(&binding(Transport::Tcp), NOW).unwrap();
        assert!(after.is_suspended());
        assert_eq!(after.flow().connection, None);
        assert_eq!(after.flow().remote, binding(Transport::Tcp).flow().remote);
        let mut proxied = binding(Transport::Tcp);
        proxied.facts.path = vec!["<sip:edge.test;lr>".to_owned()];
        assert!(!decode(&proxied, NOW).unwrap().is_suspended());
    }

    #[test]
    fn a_binding_whose_time_is_over_does_not_come_back() {
        let later = NOW.plus(Duration::from_secs(900));
        assert_eq!(decode(&binding(Transport::Udp), later), None);
    }

    #[test]
    fn a_record_of_the_first_version_is_still_read() {
        let before = binding(Transport::Udp);
        let mut octets = before.encode().to_vec();
        octets[0] = FIRST_VERSION;
        octets.truncate(octets.len() - 1 - (1 + 4 + "Phone/1".len()));
        let after = Binding::decode(&octets, Tagless::Message, NOW);
        let after = after.unwrap().unwrap();
        assert_eq!(after.uri(), before.uri());
        assert_eq!(after.user_agent(), None);
        assert!(!after.is_paused());
    }

    #[test]
    fn what_was_cut_or_extended_is_refused() {
        let octets = binding(Transport::Udp).encode();
        for length in 0..octets.len() {
            assert!(Binding::decode(&octets[..length], Tagless::Message, NOW).is_err());
        }
        let longer = [&octets[..], &[0]].concat();
        assert!(Binding::decode(&longer, Tagless::Message, NOW).is_err());
    }

    proptest! {
        #[test]
        fn no_octets_make_decoding_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut octets = octets;
            let _ = Binding::decode(&octets, Tagless::Message, NOW);
            octets.insert(0, VERSION);
            let _ = Binding::decode(&octets, Tagless::Message, NOW);
        }

        #[test]
        fn a_changed_octet_never_makes_decoding_panic(at in 0usize..200, octet in any::<u8>()) {
            let mut octets = binding(Transport::Udp).encode().to_vec();
            let at = at % octets.len();
            octets[at] = octet;
            let _ = Binding::decode(&octets, Tagless::Message, NOW);
        }
    }
}
