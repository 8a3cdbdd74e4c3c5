//! What stands in our Record-Route: who is at one end of a dialog, and how that end is reached.
//!
//! A request that begins a dialog leaves with two values of ours (RFC 5658 §5), one for each side,
//! because the sides may differ in transport, address family and shard. The value of the other side
//! comes second in every later request, and says where that request goes: as the flow token of
//! RFC 5626 §5.2 does, with the user besides, whose device may have registered over another flow.

use std::net::{IpAddr, SocketAddr};

use sha2::{Digest as _, Sha256};

use crate::identity::Identity;
use crate::sip::dialog::OWN_ROUTE;
use crate::sip::transport::flow::{ConnectionId, Flow, Transport};

/// Octets of a mark.
const MARK: usize = 10;

/// What the values are written with.
#[derive(Clone, Copy, Debug)]
pub struct RouteKey {
    /// Nobody else has it; the same after a restart, so that dialogs live on.
    pub secret: [u8; 32],
    /// This run of the server: connections of another one mean nothing.
    pub run: u32,
}

/// One end of a dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialogEnd {
    /// The shard that serves it.
    pub shard: u16,
    /// The user, if it is one of ours.
    pub user: Option<Identity>,
    /// The only way to its device, if the device cannot be reached by its Contact.
    pub flow: Option<Flow>,
}

impl DialogEnd {
    /// The user part of a route in the dialog with this Call-ID.
    pub fn write(&self, key: &RouteKey, call_id: &str) -> String {
        let flow = match &self.flow {
            Some(flow) => write_flow(flow, key.run),
            None => "n".to_owned(),
        };
        let user = self.user.as_ref().map_or("", Identity::as_str);
        let facts = format!("{}-{flow}-{}", self.shard, hex(user.as_bytes()));
        let mark = mark(key, call_id, &facts);
        format!("{OWN_ROUTE}{facts}-{mark}")
    }

    /// The end that the user part of a route names, and whether we wrote it for this Call-ID: then we
    /// let the dialog begin.
    pub fn read(user: &str, key: &RouteKey, call_id: &str) -> Option<(Self, bool)> {
        let (facts, written) = user.strip_prefix(OWN_ROUTE)?.rsplit_once('-')?;
        let mut parts = facts.splitn(3, '-');
        let (shard, flow, user) = (parts.next()?, parts.next()?, parts.next()?);
        let user = String::from_utf8(unhex(user)?).ok()?;
        let end = Self {
            shard: shard.parse().ok()?,
            user: user
                .rsplit_once('@')
                .map(|(user, host)| Identity::new(user, host)),
            flow: read_flow(flow, key.run),
        };
        Some((end, written == mark(key, call_id, facts)))
    }
}

/// Only we can make it.
fn mark(key: &RouteKey, call_id: &str, facts: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(key.secret);
    hash.update(call_id.len().to_be_bytes());
    hash.update(call_id.as_bytes());
    hash.update(facts.as_bytes());
    hash.update(key.secret);
    let digest = hash.finalize();
    hex(digest.get(..MARK).unwrap_or_default())
}

fn write_flow(flow: &Flow, run: u32) -> String {
    let transport = match flow.transport {
        Transport::Udp => 'u',
        Transport::Tcp => 't',
    };
    let connection = flow.connection.map_or(0, ConnectionId::number);
    let address = match flow.remote.ip() {
        IpAddr::V4(ip) => hex(&ip.octets()),
        IpAddr::V6(ip) => hex(&ip.octets()),
    };
    let (listener, port) = (flow.listener, flow.remote.port());
    format!("{transport}{listener}.{run:x}.{connection:x}.{address}.{port}")
}

fn read_flow(text: &str, run: u32) -> Option<Flow> {
    let mut parts = text.split('.');
    let listener = parts.next()?;
    let (transport, listener) = match (listener.strip_prefix('u'), listener.strip_prefix('t')) {
        (Some(listener), _) => (Transport::Udp, listener),
        (_, Some(listener)) => (Transport::Tcp, listener),
        _ => return None,
    };
    let same_run = u32::from_str_radix(parts.next()?, 16) == Ok(run);
    let connection = u64::from_str_radix(parts.next()?, 16).ok()?;
    let address = unhex(parts.next()?)?;
    let ip = match <[u8; 4]>::try_from(address.as_slice()) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    let connection = (connection != 0).then(|| ConnectionId::from_number(connection));
    // A connection of an earlier run is gone, and its peer did not listen where it came from.
    (connection.is_none() || same_run).then_some(Flow {
        transport,
        listener: listener.parse().ok()?,
        remote: SocketAddr::new(ip, parts.next()?.parse().ok()?),
        connection,
    })
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| match pair {
            [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RouteKey = RouteKey {
        secret: [7; 32],
        run: 3,
    };

    fn end(remote: &str, connection: Option<ConnectionId>) -> DialogEnd {
        DialogEnd {
            shard: 2,
            user: Some(Identity::new("a-b@c", "im.test")),
            flow: Some(Flow {
                transport: match connection {
                    Some(_) => Transport::Tcp,
                    None => Transport::Udp,
                },
                listener: 1,
                remote: remote.parse().expect("an address"),
                connection,
            }),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let connection = Some(ConnectionId::new(3, 77));
        let nowhere = DialogEnd {
            shard: 0,
            user: None,
            flow: None,
        };
        for end in [
            end("192.0.2.7:5071", None),
            end("[2001:db8::7]:5071", connection),
            nowhere,
        ] {
            let written = end.write(&KEY, "call");
            assert!(
                written
                    .bytes()
                    .all(|octet| octet.is_ascii_alphanumeric() || b"-.".contains(&octet))
            );
            assert_eq!(DialogEnd::read(&written, &KEY, "call"), Some((end, true)));
        }
    }

    #[test]
    fn nobody_else_can_write_one_and_it_serves_one_dialog() {
        let written = end("192.0.2.7:5071", None).write(&KEY, "call");
        let trusted = |text: &str, call_id| DialogEnd::read(text, &KEY, call_id).map(|it| it.1);
        assert_eq!(trusted(&written, "other"), Some(false));
        let changed = written.replacen("rr-2", "rr-1", 1);
        assert_eq!(trusted(&changed, "call"), Some(false));
        for broken in [
            "rr-",
            "rr-1",
            "rr-1-n--",
            "rr-x-n--00",
            "rr-1-n-0-00",
            "bob",
        ] {
            assert_ne!(trusted(broken, "call"), Some(true), "{broken}");
        }
    }

    #[test]
    fn a_connection_of_an_earlier_run_means_nothing() {
        let end = end("192.0.2.7:49152", Some(ConnectionId::new(0, 1)));
        let written = end.write(&KEY, "call");
        let later = RouteKey { run: 4, ..KEY };
        let (read, trusted) = DialogEnd::read(&written, &later, "call").expect("legal");
        assert!(trusted);
        assert_eq!(read.flow, None);
        assert_eq!(read.user, end.user);
    }
}
