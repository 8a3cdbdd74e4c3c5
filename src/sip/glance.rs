//! What a datagram is, at a glance: as much as it takes to refuse new work for a fraction of what reading
//! a message costs.
//!
//! Only what is written plainly is seen. Of anything else nothing is said here, and it is read whole.

use std::net::SocketAddr;

use memchr::{memchr, memchr_iter};
use smallvec::SmallVec;

use crate::sip::dialog::{OWN_CONTACT, OWN_ROUTE};
use crate::sip::digest::MOST_CREDENTIALS;
use crate::sip::header::{NameAddr, Via};
use crate::sip::message::{HeaderName, Method};
use crate::sip::plain_via::{PlainVia, return_port};
use crate::sip::reply;
use crate::sip::transaction::branch::{has_magic_cookie, is_unique, shard_of};

/// What a datagram is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and memory for it would cost more than moving it"
)]
pub enum Glance<'a> {
    /// Part of something that has begun: a response to a request of ours, a request in a dialog that we are in,
    /// an ACK or CANCEL.
    GoesOn,
    /// A response to a request that is none of ours (RFC 3261 §18.1.2: discarded).
    Stray,
    /// The first request of something, so that nothing breaks if it is refused.
    Begins(Beginning<'a>),
    /// It has to be read.
    Unclear,
}

/// What an answer to a request repeats (RFC 3261 §8.2.6), and what tells how to meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning<'a> {
    /// The credentials it brings, which may answer a challenge.
    pub credentials: SmallVec<[&'a str; 1]>,
    /// A REGISTER that takes bindings away.
    pub makes_room: bool,
    method: &'a str,
    vias: SmallVec<[&'a str; 4]>,
    /// The topmost one, if it is plain.
    top: Option<PlainVia<'a>>,
    from: &'a str,
    to: &'a str,
    has_tag: bool,
    call_id: &'a str,
    cseq: &'a str,
}

/// Looks at the head of a datagram.
pub fn look(octets: &[u8]) -> Glance<'_> {
    let seen = match is_response(octets) {
        true => read_response(octets),
        false => read(octets),
    };
    seen.unwrap_or(Glance::Unclear)
}

/// Whether a request inside a dialog is inside one of ours, as far as its address and its Route fields tell: the
/// first is our Contact, or one of the others a Record-Route of ours. Both are read with care later.
pub fn is_in_own_dialog<'a>(uri: &str, mut routes: impl Iterator<Item = &'a str>) -> bool {
    let user = uri.split_once(':').map_or("", |(_, user)| user);
    let names_us = |user: &str| user.starts_with(OWN_CONTACT) || user.starts_with(OWN_ROUTE);
    names_us(user) || routes.any(|route| route.split(':').any(|part| part.starts_with(OWN_ROUTE)))
}

/// What is the same in a request and in its retransmissions, and in no other request: its method and
/// topmost Via (RFC 3261 §17.2.3). `None` for responses, where that is not plain, and where the branch is not
/// unique: other fields would have to be compared.
pub fn identity(octets: &[u8]) -> Option<[&str; 2]> {
    if is_response(octets) {
        return None;
    }
    let (start, rest) = next_line(octets)?;
    let via = top_via(rest)?;
    identity_of(method_of(start)?, via, PlainVia::read(via))
}

fn identity_of<'a>(
    method: &'a str,
    via: &'a str,
    plain: Option<PlainVia<'a>>,
) -> Option<[&'a str; 2]> {
    let branch = match plain {
        Some(plain) => plain.branch,
        None => Via::parse(via).ok()?.branch,
    };
    is_unique(branch?).then_some([method, via])
}

fn top_via(head: &[u8]) -> Option<&str> {
    let via = fields(head).find_map(|field| match field?.0 {
        HeaderName::Via => Some(field?.1),
        _ => None,
    })?;
    text(via)
}

fn is_response(octets: &[u8]) -> bool {
    octets.starts_with(b"SIP/2.0 ")
}

/// RFC 3261 §18.1.2: the topmost Via of a response is ours.
fn read_response(octets: &[u8]) -> Option<Glance<'_>> {
    let (_, rest) = next_line(octets)?;
    let via = Via::parse(top_via(rest)?).ok()?;
    Some(match via.branch.and_then(shard_of) {
        Some(_) => Glance::GoesOn,
        None => Glance::Stray,
    })
}

fn read(octets: &[u8]) -> Option<Glance<'_>> {
    let (start, rest) = next_line(octets)?;
    let (method, uri) = start_of(start)?;
    if matches!(
        Method::parse(method.as_bytes()),
        Method::Ack | Method::Cancel
    ) {
        return Some(Glance::GoesOn);
    }
    let (mut from, mut to, mut call_id, mut cseq) = (None, None, None, None);
    let mut ends = false;
    let mut credentials = SmallVec::new();
    let mut vias = SmallVec::<[&str; 4]>::new();
    let mut routes = SmallVec::<[&str; 4]>::new();
    for field in fields(rest) {
        let (name, value) = field?;
        let place = match name {
            HeaderName::Via => {
                vias.push(text(value)?);
                continue;
            }
            HeaderName::Route => {
                routes.push(text(value)?);
                continue;
            }
            HeaderName::From => &mut from,
            HeaderName::To => &mut to,
            HeaderName::CallId => &mut call_id,
            HeaderName::CSeq => &mut cseq,
            HeaderName::Authorization | HeaderName::ProxyAuthorization => {
                if credentials.len() < MOST_CREDENTIALS {
                    credentials.extend(text(value));
                }
                continue;
            }
            HeaderName::Expires => {
                ends = value == b"0";
                continue;
            }
            _ => continue,
        };
        if place.replace(text(value)?).is_some() {
            return None;
        }
    }
    let to = to?;
    let has_tag = NameAddr::parse(to).ok()?.tag().is_some();
    if has_tag && is_in_own_dialog(uri, routes.into_iter()) {
        return Some(Glance::GoesOn);
    }
    Some(Glance::Begins(Beginning {
        credentials,
        makes_room: ends && method == "REGISTER",
        method,
        top: vias.first().and_then(|via| PlainVia::read(via)),
        vias,
        from: from?,
        to,
        has_tag,
        call_id: call_id?,
        cseq: cseq?,
    }))
}

/// The fields up to the empty line; `None` for one that is not plain, and behind it nothing.
fn fields(head: &[u8]) -> impl Iterator<Item = Option<(HeaderName, &[u8])>> {
    let mut begin = 0;
    let mut has_ended = false;
    // All line ends in one search: a search for each would cost more in beginning than in searching.
    let mut ends = memchr_iter(b'\n', head);
    std::iter::from_fn(move || {
        if has_ended {
            return None;
        }
        let Some(line) = ends.next().and_then(|end| {
            let line = head[begin..end].strip_suffix(b"\r");
            begin = end + 1;
            line
        }) else {
            has_ended = true;
            return Some(None);
        };
        (!line.is_empty()).then(|| field(line))
    })
}

/// A name that an answer or its refusal has to do with, else [`HeaderName::Other`].
fn field(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let colon = colon_of(line)?;
    let name = line[..colon].trim_ascii_end();
    // Folded: the value goes on here.
    if name.is_empty() || matches!(name[0], b' ' | b'\t') {
        return None;
    }
    Some(match name_of(name) {
        HeaderName::Other => (HeaderName::Other, &[]),
        name => (name, line[colon + 1..].trim_ascii()),
    })
}

/// Where the first colon is. Names are so short that a search for many octets at a time would have no time to pay,
/// and long enough to be gone through by words.
fn colon_of(line: &[u8]) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = line.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let other = u64::from_le_bytes(*word) ^ (EACH * b':' as u64);
        // The lowest octet that is zero, found by what subtracting borrows.
        let colons = other.wrapping_sub(EACH) & !other & (EACH << 7);
        if colons != 0 {
            return Some(index * 8 + colons.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|octet| *octet == b':')?;
    Some(words.len() * 8 + at)
}

/// Nearly all other names are told by their first letter and their length.
fn name_of(name: &[u8]) -> HeaderName {
    let (it, long) = match (name[0] | 0x20, name.len()) {
        (b'v', 1) => return HeaderName::Via,
        (b'f', 1) => return HeaderName::From,
        (b't', 1) => return HeaderName::To,
        (b'i', 1) => return HeaderName::CallId,
        (b'v', 3) => (HeaderName::Via, "Via"),
        (b'f', 4) => (HeaderName::From, "From"),
        (b't', 2) => (HeaderName::To, "To"),
        (b'c', 7) => (HeaderName::CallId, "Call-ID"),
        (b'c', 4) => (HeaderName::CSeq, "CSeq"),
        (b'r', 5) => (HeaderName::Route, "Route"),
        (b'e', 7) => (HeaderName::Expires, "Expires"),
        (b'a', 13) => (HeaderName::Authorization, "Authorization"),
        (b'p', 19) => (HeaderName::ProxyAuthorization, "Proxy-Authorization"),
        _ => return HeaderName::Other,
    };
    match name.eq_ignore_ascii_case(long.as_bytes()) {
        true => it,
        false => HeaderName::Other,
    }
}

/// The line up to CR LF, and what is behind it.
fn next_line(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', octets)?;
    let line = octets[..end].strip_suffix(b"\r")?;
    Some((line, &octets[end + 1..]))
}

fn method_of(start: &[u8]) -> Option<&str> {
    start_of(start).map(|(method, _)| method)
}

/// The method and the Request-URI.
fn start_of(start: &[u8]) -> Option<(&str, &str)> {
    let (method, uri) = text(start.strip_suffix(b" SIP/2.0")?)?.split_once(' ')?;
    (!method.is_empty()).then_some((method, uri))
}

/// As text without what could end a line early.
fn text(value: &[u8]) -> Option<&str> {
    // To the end in any case: so it takes many octets at a time.
    let is_controlled = |found, octet: &u8| found | octet.is_ascii_control();
    let is_plain = !value.iter().fold(false, is_controlled);
    is_plain.then(|| std::str::from_utf8(value).ok())?
}

impl Beginning<'_> {
    /// See [`identity`].
    pub fn identity(&self) -> Option<[&str; 2]> {
        identity_of(self.method, self.vias.first()?, self.top)
    }

    /// Writes the answer that it is refused for now, in the place of what is in `out`; returns where it goes. The
    /// tag is the same for each retransmission (RFC 3261 §8.2.7). `None` if its Via is not plain.
    pub fn refuse(
        &self,
        out: &mut String,
        source: SocketAddr,
        tag: u64,
        retry_after: u16,
    ) -> Option<SocketAddr> {
        let (top, others) = self.vias.split_first()?;
        out.clear();
        out.push_str("SIP/2.0 503 Service Unavailable\r\nVia: ");
        let port = match self.top {
            Some(via) => {
                via.branch.filter(|branch| has_magic_cookie(branch))?;
                via.push_stamped(out, source);
                via.return_port(source)
            }
            None => push_stamped_with_care(out, top, source)?,
        };
        for other in others {
            out.push_str("\r\nVia: ");
            out.push_str(other);
        }
        out.push_str("\r\nFrom: ");
        out.push_str(self.from);
        out.push_str("\r\nTo: ");
        out.push_str(self.to);
        if !self.has_tag {
            out.push_str(";tag=");
            push_hex(out, tag);
        }
        out.push_str("\r\nCall-ID: ");
        out.push_str(self.call_id);
        out.push_str("\r\nCSeq: ");
        out.push_str(self.cseq);
        out.push_str("\r\nRetry-After: ");
        reply::push_decimal(out, retry_after);
        out.push_str("\r\nContent-Length: 0\r\n\r\n");
        Some(SocketAddr::new(source.ip(), port))
    }
}

/// Appends a Via that is not plain; returns the port that an answer along it goes to.
fn push_stamped_with_care(out: &mut String, text: &str, source: SocketAddr) -> Option<u16> {
    // Several elements in one field are legal, and rare.
    if memchr(b',', text.as_bytes()).is_some() {
        return None;
    }
    let via = Via::parse(text).ok()?;
    via.branch.filter(|branch| has_magic_cookie(branch))?;
    match reply::needs_stamp(&via, source) {
        true => _ = reply::push_stamped_via(out, &via, text, source),
        false => out.push_str(text),
    }
    Some(return_port(via.rport.is_some(), via.port, source))
}

/// Sixteen digits.
fn push_hex(out: &mut String, number: u64) {
    let digits: [u8; 16] = std::array::from_fn(|place| {
        b"0123456789abcdef"[(number >> (60 - 4 * place) & 0xf) as usize]
    });
    out.push_str(std::str::from_utf8(&digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    const SOURCE: &str = "192.0.2.7:4711";
    const MESSAGE: &str = "MESSAGE sip:bob@im.test SIP/2.0\r\n\
        Via: SIP/2.0/UDP host.test:5080;rport;branch=z9hG4bKone\r\n\
        v: SIP/2.0/UDP other.test;branch=z9hG4bKtwo\r\nMax-Forwards: 70\r\n\
        From: \"A\" <sip:alice@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\ni: call\r\n\
        CSeq: 7 MESSAGE\r\nContent-Length: 5\r\n\r\nhello";

    fn refusal(
        beginning: &Beginning<'_>,
        source: SocketAddr,
        tag: u64,
    ) -> Option<(SocketAddr, String)> {
        let mut out = "left over".to_owned();
        let to = beginning.refuse(&mut out, source, tag, 3)?;
        Some((to, out))
    }

    fn begins(text: &str) -> Beginning<'_> {
        match look(text.as_bytes()) {
            Glance::Begins(beginning) => beginning,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_is_what_a_reader_of_the_whole_request_would_answer() {
        let beginning = begins(MESSAGE);
        let source = SOURCE.parse().expect("an address");
        let (to, octets) = refusal(&beginning, source, 0xab).expect("it is plain");
        assert_eq!(to, source);
        let request = wire::parse(MESSAGE.into()).expect("a message");
        let request = reply::stamp_source(request, source).expect("stamped");
        let tag = format!("{:016x}", 0xab);
        let whole = reply::response(&request, 503, "Service Unavailable", Some(&tag));
        assert_eq!(octets, whole.header("Retry-After", "3").build());
    }

    #[test]
    fn a_response_goes_on_with_a_request_of_ours_or_with_none() {
        let response = |via: &str| format!("SIP/2.0 200 OK\r\nVia: {via}\r\n\r\n");
        let ours = response("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK-3-abcdef");
        assert_eq!(look(ours.as_bytes()), Glance::GoesOn);
        for via in [
            "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKabcdef",
            "SIP/2.0/UDP 192.0.2.1",
        ] {
            let stray = response(via);
            assert_eq!(look(stray.as_bytes()), Glance::Stray, "{via}");
        }
        assert_eq!(look(b"SIP/2.0 200 OK\r\n\r\n"), Glance::Unclear);
    }

    #[test]
    fn a_refusal_adds_no_second_tag() {
        let text = MESSAGE.replace("<sip:bob@im.test>", "<sip:bob@im.test>;tag=9");
        let source = SOURCE.parse().expect("an address");
        let (_, octets) = refusal(&begins(&text), source, 1).expect("it is plain");
        assert!(
            octets.contains("\r\nTo: <sip:bob@im.test>;tag=9\r\n"),
            "{octets}"
        );
    }

    #[test]
    fn without_rport_it_goes_to_the_port_of_the_via() {
        let text = MESSAGE.replace(";rport", "");
        let source = SOURCE.parse().expect("an address");
        let (to, _) = refusal(&begins(&text), source, 1).expect("it is plain");
        assert_eq!(to.to_string(), "192.0.2.7:5080");
    }

    #[test]
    fn what_goes_on_is_known_from_what_begins() {
        let goes_on = |text: &str| look(text.as_bytes()) == Glance::GoesOn;
        let tagged = MESSAGE.replace("<sip:bob@im.test>", "<sip:bob@im.test>;tag=9");
        for method in ["ACK", "CANCEL"] {
            assert!(goes_on(&MESSAGE.replace("MESSAGE", method)), "{method}");
        }
        for method in ["BYE", "PRACK", "UPDATE", "MESSAGE"] {
            let text = tagged.replace("MESSAGE", method);
            assert!(
                matches!(look(text.as_bytes()), Glance::Begins(_)),
                "{method} of no dialog of ours"
            );
            let ours = text.replace("sip:bob@im.test SIP", "sip:pf-3@192.0.2.1:5060 SIP");
            assert!(goes_on(&ours), "{method}");
            let route = "Route: <sip:other.test;lr>, <sip:rr-3-n--0123@192.0.2.1;lr>\r\nMax-F";
            assert!(goes_on(&text.replace("Max-F", route)), "{method}");
        }
        let text = MESSAGE.replace("MESSAGE", "REGISTER");
        assert!(!begins(&text).makes_room && begins(&text).credentials.is_empty());
        let fields = "\r\nExpires: 0\r\nAuthorization: Digest x=y\r\nCSeq";
        let text = text.replace("\r\nCSeq", fields);
        assert!(begins(&text).makes_room);
        assert_eq!(begins(&text).credentials[..], ["Digest x=y"]);
        let many = "\r\nAuthorization: Digest x=y".repeat(500) + "\r\nCSeq";
        let text = MESSAGE.replace("\r\nCSeq", &many);
        assert_eq!(begins(&text).credentials.len(), MOST_CREDENTIALS);
    }

    #[test]
    fn what_is_not_plain_is_left_to_a_reader() {
        for (plain, other) in [
            (" SIP/2.0\r\n", " SIP/3.0\r\n"),
            ("Max-Forwards: 70", "Max-Forwards:\r\n 70"),
            ("Max-Forwards: 70", "To: <sip:carol@im.test>"),
            ("To: <sip:bob@im.test>\r\n", ""),
            ("CSeq: 7", "CSeq: \u{7}7"),
            ("\r\n\r\nhello", "\r\n"),
            ("Max-Forwards: 70\r\n", "Max-Forwards: 70\n"),
        ] {
            let text = MESSAGE.replace(plain, other);
            assert_eq!(look(text.as_bytes()), Glance::Unclear, "{text}");
        }
        let source = SOURCE.parse().expect("an address");
        for (plain, other) in [
            ("z9hG4bKone", "one"),
            ("z9hG4bKone", "z9hG4bKone, SIP/2.0/UDP x"),
        ] {
            let text = MESSAGE.replace(plain, other);
            assert_eq!(refusal(&begins(&text), source, 1), None, "{text}");
        }
    }

    #[test]
    fn a_request_is_the_same_whether_it_is_read_or_not() {
        let beginning = begins(MESSAGE);
        assert_eq!(identity(MESSAGE.as_bytes()), beginning.identity());
        let later = MESSAGE.replace("Via:", "X: y\r\nVia:");
        assert_eq!(identity(later.as_bytes()), beginning.identity());
        assert_eq!(identity(b"SIP/2.0 200 OK\r\n\r\n"), None);
        assert_eq!(identity(b"\r\n\r\n"), None);
    }

    #[test]
    fn a_branch_that_is_not_unique_identifies_nothing() {
        for other in [
            "branch=one",
            "branch=z9hG4bK",
            "branch=z9hG4bK, SIP/2.0/UDP x",
            "x=z9hG4bKone",
        ] {
            let text = MESSAGE.replace("branch=z9hG4bKone", other);
            assert_eq!(identity(text.as_bytes()), None, "{other}");
            assert_eq!(begins(&text).identity(), None, "{other}");
        }
        let text = MESSAGE.replace(";rport;", ", SIP/2.0/UDP x;");
        assert_eq!(identity(text.as_bytes()), None, "the first has none");
    }

    #[test]
    fn a_colon_is_found_wherever_it_stands() {
        for length in 0..40 {
            for octet in [b' ', b'9', b';', 0xba, 0xff, 0] {
                let mut line = vec![octet; length];
                assert_eq!(colon_of(&line), None);
                for at in (0..length).rev() {
                    line[at] = b':';
                    assert_eq!(colon_of(&line), Some(at), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn names_are_told_as_a_reader_tells_them() {
        let ours = [
            "Via",
            "From",
            "To",
            "Call-ID",
            "CSeq",
            "Route",
            "Expires",
            "Authorization",
            "Proxy-Authorization",
            "v",
            "f",
            "t",
            "i",
        ];
        for name in ours {
            for name in [name.to_owned(), name.to_uppercase(), name.to_lowercase()] {
                let name = name.as_bytes();
                assert_eq!(name_of(name), HeaderName::parse(name));
                assert_ne!(name_of(name), HeaderName::Other);
            }
        }
        for name in ["Contact", "Content", "r", "Vxa", "Xia", "Tp", "s"] {
            assert_eq!(name_of(name.as_bytes()), HeaderName::Other, "{name}");
        }
    }

    const VIAS: [&str; 7] = [
        "Via: SIP/2.0/UDP host.test:5080;rport;branch=z9hG4bKone",
        "v:SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKone",
        "VIA : SIP/2.0/UDP 192.0.2.7:5070;x=y;branch=z9hG4bKone;RPort",
        "Via: SIP/2.0/UDP h;branch=\"z9hG4bKone\";rport=7;received=192.0.2.1",
        "Via: SIP / 2.0 / UDP h ; branch=z9hG4bKone",
        "Via: SIP/2.0/UDP h;branch=z9hG4bK",
        "Via: SIP/2.0/UDP h;branch=z9hG4bKone, SIP/2.0/UDP i;branch=z9hG4bKtwo",
    ];
    const TOS: [&str; 5] = [
        "To: <sip:bob@im.test>",
        "t: \"B; <\" <sip:bob@im.test;x=y>;tag=9",
        "To: sip:bob@im.test;tag=9",
        "to: tel:+1",
        "To: <bob",
    ];
    const OTHERS: [&str; 10] = [
        "Max-Forwards: 70",
        "Subject: a:b",
        "s:",
        "Route: <sip:other.test;lr>",
        "Expires: 0",
        "Authorization: Digest username=\"bob\"",
        "User-Agent: \u{e9}",
        "Accept-Contact: *;+g.oma.sip-im",
        "Folded: x\r\n y",
        "no colon",
    ];

    fn lines() -> impl Strategy<Value = Vec<&'static str>> {
        let seldom = prop_oneof![9 => Just("CSeq: 7 MESSAGE"), 1 => Just("CSeq: \t7 MESSAGE")];
        let fields = (vec(select(&VIAS[..]), 1..3), select(&TOS[..]), seldom);
        let others = vec(select(&OTHERS[..]), 0..4);
        (fields, others).prop_flat_map(|((mut lines, to, cseq), others)| {
            lines.extend([to, cseq, "F: <sip:alice@im.test>;tag=1", "Call-ID : call"]);
            lines.extend(others);
            Just(lines).prop_shuffle()
        })
    }

    proptest! {
        #[test]
        fn what_is_refused_at_a_glance_is_answered_as_a_reader_of_it_would(lines in lines()) {
            let head = lines.join("\r\n");
            let text = format!("MESSAGE sip:bob@im.test SIP/2.0\r\n{head}\r\nl: 0\r\n\r\n");
            let source = SOURCE.parse().expect("an address");
            let Glance::Begins(beginning) = look(text.as_bytes()) else {
                return Ok(());
            };
            prop_assert_eq!(identity(text.as_bytes()), beginning.identity());
            let Ok(request) = wire::parse(text.clone().into()) else {
                return Ok(());
            };
            let via = request.top_via().expect("a Via");
            prop_assert_eq!(beginning.identity().is_some(), via.branch.is_some_and(is_unique));
            let Some((to, octets)) = refusal(&beginning, source, 0xab) else {
                return Ok(());
            };
            prop_assert_eq!(to.port(), return_port(via.rport.is_some(), via.port, source));
            let request = match reply::needs_stamp(&via, source) {
                true => reply::stamp_source(request.clone(), source).expect("stamped"),
                false => request.clone(),
            };
            let tag = format!("{:016x}", 0xab);
            let whole = reply::response(&request, 503, "Service Unavailable", Some(&tag));
            let whole = whole.header("Retry-After", "3").build();
            let whole = str::from_utf8(&whole).expect("text");
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            prop_assert_eq!(sorted(&octets), sorted(whole));
        }
    }
}
