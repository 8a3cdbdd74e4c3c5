//! `sip:`, `sips:` and `tel:` URIs (RFC 3261 §19.1, RFC 3966): kept as written, compared by rule.

use std::borrow::Cow;
use std::cmp::Ordering;

use memchr::memchr;
use smallvec::SmallVec;

use crate::span::{Span, run_length};

/// Octets within a part of a URI: all but what ends one, blanks, control characters and what encloses a URI.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        table[byte] = !matches!(
            it,
            0..=b' ' | 0x7f | b'<' | b'>' | b'"' | b':' | b'@' | b';' | b'?'
        );
        byte += 1;
    }
    table
};

/// Octets of a host that is no IPv6 address.
static IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        table[byte] = it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_');
        byte += 1;
    }
    table
};

/// Where the parts of a `sip:` URI end, found in one pass over all of it.
#[derive(Default)]
struct Ends {
    scheme: Option<usize>,
    /// The last `@`: a user part may hold `;` and `?`.
    user: Option<usize>,
    /// Behind the `@`: the first `;` before any `?`, and the first `?`.
    parameters: Option<usize>,
    headers: Option<usize>,
}

impl Ends {
    /// `None` where something stands that is never legal.
    fn find(text: &str) -> Option<Self> {
        let mut ends = Self::default();
        let (octets, mut at) = (text.as_bytes(), 0);
        loop {
            at += run_length(&octets[at..], &PLAIN);
            let Some(byte) = octets.get(at) else {
                return Some(ends);
            };
            ends.take(*byte, at)?;
            at += 1;
        }
    }

    fn take(&mut self, byte: u8, at: usize) -> Option<()> {
        match byte {
            b':' => self.scheme = self.scheme.or(Some(at)),
            b'@' => (self.user, self.parameters, self.headers) = (Some(at), None, None),
            b';' if self.headers.is_none() => self.parameters = self.parameters.or(Some(at)),
            b';' => {}
            b'?' => self.headers = self.headers.or(Some(at)),
            _ => return None,
        }
        Some(())
    }
}

/// What a URI begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// Anything else.
    Other,
}

/// The text is no URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URI")]
pub struct UriError;

/// A view of a URI; borrows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    text: &'a str,
    scheme: Scheme,
    user: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    parameters: &'a str,
    headers: Option<&'a str>,
}

impl<'a> Uri<'a> {
    /// Reads a URI; blanks and control characters are never legal.
    pub fn parse(text: &'a str) -> Result<Self, UriError> {
        Self::read(text).ok_or(UriError)
    }

    fn read(text: &'a str) -> Option<Self> {
        let ends = Ends::find(text)?;
        let colon = ends.scheme?;
        let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
        let scheme = match scheme {
            "sip" => Scheme::Sip,
            _ if scheme.eq_ignore_ascii_case("sip") => Scheme::Sip,
            _ if scheme.eq_ignore_ascii_case("sips") => Scheme::Sips,
            _ if scheme.eq_ignore_ascii_case("tel") => Scheme::Tel,
            _ if is_scheme(scheme) => Scheme::Other,
            _ => return None,
        };
        match scheme {
            Scheme::Sip | Scheme::Sips => Self::read_sip(text, scheme, &ends),
            Scheme::Tel | Scheme::Other => Self::read_opaque(text, scheme, rest),
        }
    }

    fn read_sip(text: &'a str, scheme: Scheme, ends: &Ends) -> Option<Self> {
        let begin = ends.scheme? + 1;
        let user = ends.user.map(|at| &text[begin..at]);
        if user.is_some_and(str::is_empty) {
            return None;
        }
        let host_at = ends.user.map_or(begin, |at| at + 1);
        let end = ends.headers.unwrap_or(text.len());
        let address_end = ends.parameters.unwrap_or(end);
        let (host, port) = host_port(&text[host_at..address_end])?;
        let parameters = &text[address_end..end];
        let headers = ends.headers.map(|at| &text[at + 1..]);
        Some(Self {
            text,
            scheme,
            user,
            host,
            port,
            parameters,
            headers,
        })
    }

    fn read_opaque(text: &'a str, scheme: Scheme, rest: &'a str) -> Option<Self> {
        let (subject, parameters) = before_parameters(rest);
        if subject.is_empty() {
            return None;
        }
        let user = (scheme == Scheme::Tel).then_some(subject);
        Some(Self {
            text,
            scheme,
            user,
            host: if user.is_none() {
                subject
            } else {
                &subject[..0]
            },
            port: None,
            parameters,
            headers: None,
        })
    }

    /// What it begins with.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The user part as written, without a password; of a `tel:` URI the number.
    pub fn user(&self) -> Option<&'a str> {
        let user = self.user?;
        match self.scheme {
            Scheme::Tel => Some(user),
            _ => Some(split_at_byte(user, b':').map_or(user, |(user, _)| user)),
        }
    }

    /// The host; IPv6 without its brackets. Empty for `tel:`.
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// The port, if written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// A parameter by its name, without case: `Some(None)` where it has no value.
    pub fn parameter(&self, name: &str) -> Option<Option<&'a str>> {
        self.all_parameters()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Whether it has this parameter.
    pub fn has_parameter(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    /// What stands behind `?`.
    pub fn headers(&self) -> Option<&'a str> {
        self.headers
    }

    /// As written.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// Where its parts lie in its text, to be taken from there again.
    pub fn places(&self) -> Option<UriPlaces> {
        let place = |part| Span::of(part, self.text);
        Some(UriPlaces {
            scheme: self.scheme,
            user: self.user.and_then(place),
            host: place(self.host)?,
            port: self.port,
            parameters: place(self.parameters)?,
            headers: self.headers.and_then(place),
        })
    }

    fn all_parameters(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        let parameters = self
            .parameters
            .split(';')
            .filter(|parameter| !parameter.is_empty());
        parameters.map(|parameter| match split_at_byte(parameter, b'=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        })
    }
}

/// A [`Uri`] by the places of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UriPlaces {
    scheme: Scheme,
    user: Option<Span>,
    host: Span,
    port: Option<u16>,
    parameters: Span,
    headers: Option<Span>,
}

impl UriPlaces {
    /// The URI again, in the text that it was read from.
    pub fn of<'a>(&self, text: &'a str) -> Option<Uri<'a>> {
        Some(Uri {
            text,
            scheme: self.scheme,
            user: self.user.and_then(|place| place.text(text)),
            host: self.host.text(text)?,
            port: self.port,
            parameters: self.parameters.text(text)?,
            headers: self.headers.and_then(|place| place.text(text)),
        })
    }
}

/// As `split_once`, for an ASCII delimiter.
fn split_at_byte(text: &str, delimiter: u8) -> Option<(&str, &str)> {
    let at = memchr(delimiter, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

fn before_parameters(text: &str) -> (&str, &str) {
    text.split_at(memchr(b';', text.as_bytes()).unwrap_or(text.len()))
}

fn is_scheme(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(legal)
}

fn host_port(address: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        let port = match tail {
            "" => None,
            _ => Some(port(tail.strip_prefix(':')?)?),
        };
        return host
            .parse::<std::net::Ipv6Addr>()
            .is_ok()
            .then_some((host, port));
    }
    match address.split_at_checked(run_length(address.as_bytes(), &IN_HOST))? {
        ("", _) => None,
        (host, "") => Some((host, None)),
        (host, rest) => Some((host, Some(port(rest.strip_prefix(':')?)?))),
    }
}

/// Digits only: `str::parse` alone would take a sign too.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Undoes `%HH` escapes; what is no escape, or would not be UTF-8, stays.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if memchr(b'%', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// A telephone number without its visual separators (RFC 3966 §5.1.1).
pub fn tel_digits(number: &str) -> String {
    number
        .chars()
        .filter(|c| !matches!(c, '-' | '.' | '(' | ')'))
        .collect()
}

/// Whether two URIs are equal by rule (RFC 3261 §19.1.4; for `tel:` RFC 3966 §4).
///
/// What is written alike is equal, even where a parameter is repeated, which §19.1.1 forbids.
pub fn equivalent(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    if a.scheme != b.scheme {
        return false;
    }
    if a.text == b.text {
        return true;
    }
    match a.scheme {
        Scheme::Tel => {
            tel_digits(a.host_or_user()) == tel_digits(b.host_or_user()) && same_set(a, b)
        }
        Scheme::Other => a.text == b.text,
        Scheme::Sip | Scheme::Sips => {
            a.user.map(unescape) == b.user.map(unescape)
                && same_host(a.host, b.host)
                && a.port == b.port
                && parameters_agree(a, b)
                && parameters_agree(b, a)
                && same_headers(a.headers, b.headers)
        }
    }
}

impl<'a> Uri<'a> {
    fn host_or_user(&self) -> &'a str {
        self.user.unwrap_or(self.host)
    }
}

fn same_host(a: &str, b: &str) -> bool {
    match (a.parse::<std::net::IpAddr>(), b.parse::<std::net::IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a.eq_ignore_ascii_case(b),
    }
}

/// A parameter in both must agree; `user`, `ttl`, `method`, `maddr` and `transport` in one alone never
/// do, and any other one alone does not count.
fn parameters_agree(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    // Looked up in order: a line has room for thousands of them, in each URI.
    let others = first_of_each_name(b);
    a.all_parameters().all(|(name, value)| {
        match others.binary_search_by(|(other, _)| without_case(other, name)) {
            Ok(at) => {
                let own = value.map(unescape).unwrap_or_default();
                let other = others[at].1.map(unescape).unwrap_or_default();
                own.eq_ignore_ascii_case(&other)
            }
            Err(_) => !["user", "ttl", "method", "maddr", "transport"]
                .iter()
                .any(|strict| strict.eq_ignore_ascii_case(name)),
        }
    })
}

/// The parameters by their names; of those of one name the first, as [`Uri::parameter`] finds it.
fn first_of_each_name<'a>(uri: &Uri<'a>) -> SmallVec<[(&'a str, Option<&'a str>); 8]> {
    let mut all: SmallVec<[(&str, Option<&str>); 8]> = uri.all_parameters().collect();
    all.sort_by(|(one, _), (other, _)| without_case(one, other));
    all.dedup_by(|(later, _), (first, _)| later.eq_ignore_ascii_case(first));
    all
}

fn without_case(one: &str, other: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    one.bytes().map(lower).cmp(other.bytes().map(lower))
}

fn same_set(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let all = |uri: &Uri<'_>| {
        let parameters = uri.all_parameters();
        let mut all: Vec<String> = parameters
            .map(|(name, value)| {
                format!("{name}={}", value.unwrap_or_default()).to_ascii_lowercase()
            })
            .collect();
        all.sort();
        all
    };
    all(a) == all(b)
}

fn same_headers(a: Option<&str>, b: Option<&str>) -> bool {
    let all = |headers: Option<&str>| {
        let mut all: Vec<String> = headers
            .unwrap_or_default()
            .split('&')
            .map(|header| unescape(header).into_owned())
            .collect();
        all.sort();
        all
    };
    all(a) == all(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(a: &str, b: &str) -> bool {
        equivalent(&Uri::parse(a).expect(a), &Uri::parse(b).expect(b))
    }

    #[test]
    fn a_uri_with_a_repeated_parameter_equals_itself() {
        assert!(equal("sip:h;q=1;q=2", "sip:h;q=1;q=2"));
    }

    #[test]
    fn parameters_agree_in_any_order_and_case_and_repeated_ones_only_with_themselves() {
        assert!(equal("sip:h;b=1;A=2;c;d=%61", "sip:h;C;a=2;x;D=a;B=1"));
        assert!(!equal("sip:h;b=1;a=2", "sip:h;a=2;b=2"));
        assert!(!equal("sip:h;a=2", "sip:h;a=2;a=3") && !equal("sip:h;a=3", "sip:h;a=2;a=3"));
        assert!(equal("sip:h;a=2;x", "sip:h;a=2;A=2"));
    }

    #[test]
    fn the_parts_of_a_uri_are_found() {
        let uri = Uri::parse("sip:a;x=y?z:pw@[2001:DB8::1]:5061;transport=tcp;lr?Subject=hi")
            .expect("legal");
        assert_eq!(
            (uri.user(), uri.host(), uri.port()),
            (Some("a;x=y?z"), "2001:DB8::1", Some(5061))
        );
        assert_eq!(uri.parameter("Transport"), Some(Some("tcp")));
        assert_eq!(uri.parameter("lr"), Some(None));
        assert_eq!(uri.headers(), Some("Subject=hi"));
        let tel = Uri::parse("tel:+46-70-000;phone-context=x").expect("legal");
        assert_eq!(
            (tel.scheme(), tel.user()),
            (Scheme::Tel, Some("+46-70-000"))
        );
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in [
            "",
            "sip:",
            "bob",
            "sip:@host",
            "sip:a@b:99999",
            "sip:a@b:+5060",
            "sip:a@b:",
            "sip:a@[::1",
            "sip:a b@c",
            "sip:a@b>",
            "sip:a@h ost",
            ":x",
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_uri_is_found_again_by_its_places() {
        for text in [
            "sip:a;x=y?z:pw@[2001:DB8::1]:5061;transport=tcp;lr?Subject=hi",
            "sips:h",
            "tel:+46-70-000;phone-context=x",
            "urn:uuid:1",
        ] {
            let uri = Uri::parse(text).expect(text);
            assert_eq!(uri.places().and_then(|places| places.of(text)), Some(uri));
        }
    }

    #[test]
    fn uris_compare_as_rfc_3261_says() {
        assert!(equal(
            "sip:%61lice@atlanta.com;transport=TCP",
            "sip:alice@AtLanTa.CoM;Transport=tcp"
        ));
        assert!(equal(
            "sip:carol@chicago.com",
            "sip:carol@chicago.com;newparam=5"
        ));
        assert!(equal(
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com"
        ));
        assert!(!equal("sip:alice@atlanta.com", "sip:ALICE@atlanta.com"));
        assert!(!equal("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"));
        assert!(!equal(
            "sip:bob@biloxi.com",
            "sip:bob@biloxi.com;transport=udp"
        ));
        assert!(!equal(
            "sip:carol@chicago.com;security=on",
            "sip:carol@chicago.com;security=off"
        ));
        assert!(!equal("sip:a@b", "sips:a@b"));
        assert!(equal("tel:+1-201-555-0123", "tel:+12015550123"));
    }

    #[test]
    fn escapes_are_undone_where_they_are_escapes() {
        assert_eq!(unescape("a%40b%zz%4"), "a@b%zz%4");
        assert_eq!(unescape("%ff"), "%ff");
    }
}
