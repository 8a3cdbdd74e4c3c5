//! MSRP URIs and paths (RFC 4975 §6, §9): parsed, compared by rule, kept as they were written.
//!
//! A session-id is a secret between two peers (RFC 4975 §14.1), so it is compared with case and never
//! logged by this module. The session-ids and transaction identifiers made here also name the shard
//! that serves the session, which is how [`super::frame::shard_of`] routes what a connection reads.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memchr2};

use crate::token::{TOKEN_LENGTH, Tokens};

/// Longest URI that is accepted, in octets.
pub const MAX_URI: usize = 1024;
/// Most URIs in one path; relays are rare, chains of them rarer.
pub const MAX_PATH: usize = 16;

/// Why a URI or path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsrpUriError {
    /// Neither `msrp:` nor `msrps:`.
    #[error("not an msrp or msrps URI")]
    Scheme,
    /// No host, or a character that a host cannot hold.
    #[error("bad authority")]
    Authority,
    /// Not a number from 1 to 65535.
    #[error("bad port")]
    Port,
    /// Empty, or a character outside RFC 4975 §9.
    #[error("bad session-id")]
    SessionId,
    /// The transport parameter is missing or malformed.
    #[error("bad transport")]
    Transport,
    /// Over [`MAX_URI`] octets, or over [`MAX_PATH`] URIs.
    #[error("too long")]
    TooLong,
    /// A path without a URI.
    #[error("empty path")]
    EmptyPath,
}

/// One MSRP URI. Cheap to clone. Equality is RFC 4975 §6.1, not equality of text.
#[derive(Clone)]
pub struct MsrpUri {
    text: Arc<str>,
    secure: bool,
    host: Range<u16>,
    port: Option<u16>,
    session_id: Option<Range<u16>>,
    transport: Range<u16>,
}

impl MsrpUri {
    /// Parses `msrp[s]://[userinfo@]host[:port][/session-id];transport[;parameter...]`.
    pub fn parse(text: &str) -> Result<Self, MsrpUriError> {
        let parts = Parts::split(text)?;
        let range = |part: &str| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            // Both ends are at most MAX_URI, which `split` has checked.
            start as u16..(start + part.len()) as u16
        };
        Ok(Self {
            secure: parts.secure,
            host: range(parts.host),
            port: parts.port,
            session_id: parts.session_id.map(range),
            transport: range(parts.transport),
            text: text.into(),
        })
    }

    /// Our own URI for a session: `msrp://host:port/session-id;tcp`. `host` is a name or a numeric
    /// address without brackets.
    pub fn of_session(host: &str, port: u16, session_id: &str) -> Result<Self, MsrpUriError> {
        Self::own("msrp", host, port, session_id)
    }

    /// The same of a session over TLS: `msrps://host:port/session-id;tcp`.
    pub fn of_secure_session(
        host: &str,
        port: u16,
        session_id: &str,
    ) -> Result<Self, MsrpUriError> {
        Self::own("msrps", host, port, session_id)
    }

    fn own(scheme: &str, host: &str, port: u16, session_id: &str) -> Result<Self, MsrpUriError> {
        let (open, close) = if host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        Self::parse(&format!(
            "{scheme}://{open}{host}{close}:{port}/{session_id};tcp"
        ))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the scheme is `msrps`, so that TLS is a must (RFC 4975 §6).
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host name or numeric address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        self.part(&self.host)
    }

    /// The explicit port; there is no default in use (RFC 4975 §6).
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The session at that host, if the URI names one.
    pub fn session_id(&self) -> Option<&str> {
        self.session_id.as_ref().map(|range| self.part(range))
    }

    /// The transport parameter, `tcp` for everything known.
    pub fn transport(&self) -> &str {
        self.part(&self.transport)
    }

    /// Whether `text` is a URI equivalent to this one (RFC 4975 §6.1); identical text is cheap.
    pub fn matches(&self, text: &str) -> bool {
        *self.text == *text || Self::parse(text).is_ok_and(|other| *self == other)
    }

    fn part(&self, range: &Range<u16>) -> &str {
        self.text
            .get(usize::from(range.start)..usize::from(range.end))
            .unwrap_or_default()
    }
}

/// RFC 4975 §6.1: userinfo and further parameters do not count.
impl PartialEq for MsrpUri {
    fn eq(&self, other: &Self) -> bool {
        self.secure == other.secure
            && self.port == other.port
            && self.session_id() == other.session_id()
            && self.transport().eq_ignore_ascii_case(other.transport())
            && hosts_match(self.host(), other.host())
    }
}

impl Eq for MsrpUri {}

impl fmt::Display for MsrpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Without the session-id: it is a secret (RFC 4975 §14.1) and debug output ends in logs.
impl fmt::Debug for MsrpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MsrpUri({}:{:?})", self.host(), self.port)
    }
}

fn hosts_match(one: &str, other: &str) -> bool {
    if one.eq_ignore_ascii_case(other) {
        return true;
    }
    if let (Ok(one), Ok(other)) = (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        return one == other;
    }
    (one.contains('%') || other.contains('%'))
        && percent_decoded(one).eq_ignore_ascii_case(&percent_decoded(other))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%')
            .then(|| text_hex(tail.first()?, tail.get(1)?))
            .flatten();
        if let Some(octet) = escape {
            out.push(octet);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn text_hex(high: &u8, low: &u8) -> Option<u8> {
    let digit = |octet: &u8| char::from(*octet).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The URI cut into pieces, borrowed.
struct Parts<'a> {
    secure: bool,
    host: &'a str,
    port: Option<u16>,
    session_id: Option<&'a str>,
    transport: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, MsrpUriError> {
        if text.len() > MAX_URI {
            return Err(MsrpUriError::TooLong);
        }
        let (secure, rest) = split_scheme(text)?;
        let end = rest.find(['/', ';']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (host, port) = split_authority(authority)?;
        let (locator, parameters) = rest.split_once(';').ok_or(MsrpUriError::Transport)?;
        let session_id = locator.strip_prefix('/');
        if session_id.is_some_and(|id| !is_session_id(id)) {
            return Err(MsrpUriError::SessionId);
        }
        let mut parameters = parameters.split(';');
        let transport = parameters.next().unwrap_or_default();
        let alphanumeric = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
        if transport.is_empty() || !alphanumeric(transport) {
            return Err(MsrpUriError::Transport);
        }
        if !parameters.all(|parameter| parameter.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(MsrpUriError::Transport);
        }
        Ok(Self {
            secure,
            host,
            port,
            session_id,
            transport,
        })
    }
}

fn split_scheme(text: &str) -> Result<(bool, &str), MsrpUriError> {
    let (scheme, rest) = text.split_once("://").ok_or(MsrpUriError::Scheme)?;
    if scheme.eq_ignore_ascii_case("msrp") {
        Ok((false, rest))
    } else if scheme.eq_ignore_ascii_case("msrps") {
        Ok((true, rest))
    } else {
        Err(MsrpUriError::Scheme)
    }
}

fn split_authority(authority: &str) -> Result<(&str, Option<u16>), MsrpUriError> {
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let (host, port) = if let Some(rest) = host_port.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(MsrpUriError::Authority)?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(MsrpUriError::Authority);
        }
        let port = match port {
            "" => None,
            port => Some(port.strip_prefix(':').ok_or(MsrpUriError::Port)?),
        };
        (host, port)
    } else {
        match host_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        }
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,=:".contains(&b);
    if host.is_empty() || !host.bytes().all(legal) {
        return Err(MsrpUriError::Authority);
    }
    let port = port.map(parse_port).transpose()?;
    Ok((host, port))
}

fn parse_port(text: &str) -> Result<u16, MsrpUriError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(MsrpUriError::Port),
    }
}

/// RFC 4975 §9: `1*( unreserved / "+" / "=" / "/" )`.
fn is_session_id(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~+=/".contains(&b);
    !text.is_empty() && text.bytes().all(legal)
}

/// A To-Path, From-Path or `a=path`: never empty, first hop first, the session's own URI last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrpPath(Vec<MsrpUri>);

impl MsrpPath {
    /// Parses URIs separated by blanks.
    pub fn parse(text: &str) -> Result<Self, MsrpUriError> {
        let mut uris = Vec::with_capacity(1);
        for uri in text.split_ascii_whitespace() {
            if uris.len() == MAX_PATH {
                return Err(MsrpUriError::TooLong);
            }
            uris.push(MsrpUri::parse(uri)?);
        }
        if uris.is_empty() {
            return Err(MsrpUriError::EmptyPath);
        }
        Ok(Self(uris))
    }

    /// The hop to connect to.
    pub fn first(&self) -> &MsrpUri {
        self.0.first().expect("a path is never empty")
    }

    /// The session itself.
    pub fn last(&self) -> &MsrpUri {
        self.0.last().expect("a path is never empty")
    }

    /// All hops in order.
    pub fn uris(&self) -> &[MsrpUri] {
        &self.0
    }

    /// Whether `text` is an equivalent path, hop by hop.
    pub fn matches(&self, text: &str) -> bool {
        let mut written = text.split_ascii_whitespace();
        self.0
            .iter()
            .all(|uri| written.next().is_some_and(|text| uri.matches(text)))
            && written.next().is_none()
    }
}

impl From<MsrpUri> for MsrpPath {
    fn from(uri: MsrpUri) -> Self {
        Self(vec![uri])
    }
}

impl fmt::Display for MsrpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, uri) in self.0.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            write!(f, "{blank}{uri}")?;
        }
        Ok(())
    }
}

/// A fresh session-id that names `shard`: over 80 bits random, as RFC 4975 §14.1 demands.
pub fn new_session_id(shard: u16, tokens: &mut Tokens) -> String {
    format!("{shard}.{}", tokens.token())
}

/// The shard that made a session-id, if it has the form of [`new_session_id`].
pub fn shard_of_session_id(session_id: &str) -> Option<u16> {
    let (shard, token) = session_id.split_once('.')?;
    (!token.is_empty()).then(|| parse_shard(shard)).flatten()
}

/// A fresh transaction identifier that names `shard` (RFC 4975 §7.1 wants 64 random bits).
pub fn new_transaction_id(shard: u16, tokens: &mut Tokens) -> String {
    let mut id = String::with_capacity(TOKEN_LENGTH + ".0".len());
    tokens.push_to(&mut id);
    id.push('.');
    push_shard(&mut id, shard);
    id
}

/// Written a hundred thousand times a second, and nearly always one digit.
fn push_shard(out: &mut String, shard: u16) {
    match u8::try_from(shard) {
        Ok(digit @ 0..10) => out.push(char::from(b'0' + digit)),
        _ => out.push_str(&shard.to_string()),
    }
}

/// The shard that made a transaction identifier, if it has the form of [`new_transaction_id`].
pub fn shard_of_transaction_id(transaction: &str) -> Option<u16> {
    let (token, shard) = transaction.rsplit_once('.')?;
    (!token.is_empty()).then(|| parse_shard(shard)).flatten()
}

fn parse_shard(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The first URI of a path as it was written: where a frame goes next.
pub fn first_in_path(path: &str) -> Option<&str> {
    let path = path.trim_ascii_start();
    let end = memchr2(b' ', b'\t', path.as_bytes()).unwrap_or(path.len());
    path.get(..end).filter(|first| !first.is_empty())
}

/// The session-id within the text of a URI, without parsing the rest of it.
pub fn session_id_in(uri: &str) -> Option<&str> {
    let octets = uri.as_bytes();
    let scheme = memchr(b':', octets)?;
    let rest = octets.get(scheme + 1..)?.strip_prefix(b"//")?;
    let end = memchr(b';', rest)?;
    let slash = memchr(b'/', rest.get(..end)?)?;
    let start = octets.len() - rest.len();
    uri.get(start + slash + 1..start + end)
}

/// RFC 4975 §9 `ident`: transaction identifiers, and Message-IDs of ours; 4 to 32 characters.
pub fn is_ident(text: &[u8]) -> bool {
    (4..=32).contains(&text.len())
        && text.first().is_some_and(u8::is_ascii_alphanumeric)
        && text.iter().all(|octet| kind_of(*octet) & OF_IDENT != 0)
}

/// A Message-ID that can be taken: 1 to 64 characters where RFC 4975 §9 has 4 to 32, because senders
/// count their messages from 0 or use UUIDs, and besides those of an `ident` the marks that they use.
pub fn is_message_id(text: &[u8]) -> bool {
    let is_legal = |octet: &u8| kind_of(*octet) & (OF_IDENT | OF_MESSAGE_ID) != 0;
    (1..=64).contains(&text.len()) && text.iter().all(is_legal)
}

/// Octets that an `ident` has.
const OF_IDENT: u8 = 1;
/// Octets that a Message-ID has besides.
const OF_MESSAGE_ID: u8 = 2;

/// What may be in what, looked up: every head has identifiers of some dozen octets.
static KINDS: [u8; 256] = kinds();

fn kind_of(octet: u8) -> u8 {
    KINDS[usize::from(octet)]
}

const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        kinds[octet] = match octet as u8 {
            b'.' | b'-' | b'+' | b'%' | b'=' => OF_IDENT,
            b'_' | b'@' | b':' | b'~' => OF_MESSAGE_ID,
            other if other.is_ascii_alphanumeric() => OF_IDENT,
            _ => 0,
        };
        octet += 1;
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(text: &str) -> MsrpUri {
        MsrpUri::parse(text).expect(text)
    }

    #[test]
    fn every_part_of_a_uri_is_found() {
        let uri = uri("MSRPS://bob@[2001:db8::1]:2855/iau39/soe+=;TCP;x=1");
        assert!(uri.is_secure());
        assert_eq!(uri.host(), "2001:db8::1");
        assert_eq!(uri.port(), Some(2855));
        assert_eq!(uri.session_id(), Some("iau39/soe+="));
        assert_eq!(uri.transport(), "TCP");
        assert_eq!(session_id_in(uri.as_str()), Some("iau39/soe+="));
    }

    /// RFC 4975 §6.1, rule by rule.
    #[test]
    fn uris_compare_by_rule() {
        let ours = uri("msrp://host.example.com:8493/asfd34;tcp");
        for same in [
            "MSRP://HOST.example.com:8493/asfd34;TCP",
            "msrp://user@host.example.com:8493/asfd34;tcp",
            "msrp://host.example.com:8493/asfd34;tcp;extra=1",
            "msrp://%68ost.example.com:8493/asfd34;tcp",
        ] {
            assert!(ours.matches(same), "{same}");
        }
        for other in [
            "msrps://host.example.com:8493/asfd34;tcp",
            "msrp://host.example.com:8493/ASFD34;tcp",
            "msrp://host.example.com:8494/asfd34;tcp",
            "msrp://host.example.com/asfd34;tcp",
            "msrp://host.example.com:8493;tcp",
            "msrp://host.example.com:8493/asfd34;udp",
            "msrp://other.example.com:8493/asfd34;tcp",
        ] {
            assert!(!ours.matches(other), "{other}");
        }
    }

    #[test]
    fn addresses_compare_by_value() {
        assert!(uri("msrp://[2001:db8:0:0::1]:1/s;tcp").matches("msrp://[2001:DB8::1]:1/s;tcp"));
        assert!(!uri("msrp://192.0.2.1:1/s;tcp").matches("msrp://192.0.2.2:1/s;tcp"));
    }

    #[test]
    fn malformed_uris_are_refused_by_kind() {
        for (text, error) in [
            ("sip:bob@host", MsrpUriError::Scheme),
            ("http://host:1/s;tcp", MsrpUriError::Scheme),
            ("msrp://:1/s;tcp", MsrpUriError::Authority),
            ("msrp://h ost:1/s;tcp", MsrpUriError::Authority),
            ("msrp://[::1:1/s;tcp", MsrpUriError::Authority),
            ("msrp://host:0/s;tcp", MsrpUriError::Port),
            ("msrp://host:70000/s;tcp", MsrpUriError::Port),
            ("msrp://host:+1/s;tcp", MsrpUriError::Port),
            ("msrp://host:1/;tcp", MsrpUriError::SessionId),
            ("msrp://host:1/a b;tcp", MsrpUriError::SessionId),
            ("msrp://host:1/s", MsrpUriError::Transport),
            ("msrp://host:1/s;", MsrpUriError::Transport),
            ("msrp://host:1/s;t-p", MsrpUriError::Transport),
        ] {
            assert_eq!(MsrpUri::parse(text), Err(error), "{text}");
        }
        let long = format!("msrp://h:1/{};tcp", "a".repeat(MAX_URI));
        assert_eq!(MsrpUri::parse(&long), Err(MsrpUriError::TooLong));
    }

    #[test]
    fn paths_keep_their_order_and_compare_hop_by_hop() {
        let text = "msrp://relay.example:1/r;tcp msrp://bob.example:2/b;tcp";
        let path = MsrpPath::parse(text).unwrap();
        assert_eq!(path.first().host(), "relay.example");
        assert_eq!(path.last().session_id(), Some("b"));
        assert_eq!(path.to_string(), text);
        assert!(path.matches("msrp://RELAY.example:1/r;tcp  msrp://bob.example:2/b;tcp"));
        assert!(!path.matches("msrp://relay.example:1/r;tcp"));
        assert_eq!(MsrpPath::parse("  "), Err(MsrpUriError::EmptyPath));
        let many = vec!["msrp://h:1/s;tcp"; MAX_PATH + 1].join(" ");
        assert_eq!(MsrpPath::parse(&many), Err(MsrpUriError::TooLong));
    }

    #[test]
    fn our_identifiers_are_legal_and_name_their_shard() {
        let mut tokens = Tokens::from_seed(1);
        for shard in [0, 3, u16::MAX] {
            let session_id = new_session_id(shard, &mut tokens);
            assert!(is_session_id(&session_id));
            assert_eq!(shard_of_session_id(&session_id), Some(shard));
            let transaction = new_transaction_id(shard, &mut tokens);
            assert!(is_ident(transaction.as_bytes()));
            assert_eq!(shard_of_transaction_id(&transaction), Some(shard));
        }
        for foreign in ["", "3", "x.y", "3.", "65536.a", "+1.a"] {
            assert_eq!(shard_of_session_id(foreign), None, "{foreign}");
        }
        assert_eq!(shard_of_transaction_id("d93kswow"), None);
    }

    #[test]
    fn a_message_id_may_be_short_or_a_uuid_but_not_empty_or_in_words() {
        for id in [
            "0",
            "7.1",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "a_b@host",
        ] {
            assert!(is_message_id(id.as_bytes()), "{id}");
        }
        for id in ["", "two words", "tab\t", "\u{e9}", &"x".repeat(65)] {
            assert!(!is_message_id(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn our_uri_for_an_ipv6_address_is_bracketed() {
        let uri = MsrpUri::of_session("2001:db8::1", 2855, "0.abc").unwrap();
        assert_eq!(uri.as_str(), "msrp://[2001:db8::1]:2855/0.abc;tcp");
    }

    #[test]
    fn debug_output_does_not_tell_the_session_id() {
        let debug = format!("{:?}", uri("msrp://host:1/s3cret;tcp"));
        assert!(!debug.contains("s3cret"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            let _ = MsrpPath::parse(&text);
            let _ = session_id_in(&text);
        }

        #[test]
        fn what_looks_like_a_uri_never_panics(text in "msrps?://[a-z@:\\[\\]%0-9./;=]{0,40}") {
            if let Ok(uri) = MsrpUri::parse(&text) {
                prop_assert_eq!(uri.as_str(), &text);
                prop_assert!(uri.matches(&text));
                let session_id = uri.session_id();
                prop_assert_eq!(session_id, session_id_in(&text));
            }
        }
    }
}
