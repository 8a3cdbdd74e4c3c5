//! Typed views of header field values: Via, name-addr, CSeq and parameter lists. They borrow.

use memchr::{memchr, memchr2, memchr3};

use crate::sip::rejection::Rejection;
use crate::sip::wire::{TOKEN, is_token};
use crate::span::{Span, run_length};
use crate::uri::{Uri, UriPlaces};

/// The elements of a comma list; commas in quotes and angle brackets do not count.
pub fn split_list(value: &str) -> SplitList<'_> {
    SplitList { rest: Some(value) }
}

/// See [`split_list`].
#[derive(Clone, Debug)]
pub struct SplitList<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for SplitList<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = self.rest?;
            let element = match find_outside(rest, b',') {
                Some(at) => {
                    self.rest = Some(&rest[at + 1..]);
                    &rest[..at]
                }
                None => {
                    self.rest = None;
                    rest
                }
            };
            let element = element.trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

/// The first `wanted` that is in neither quotes nor angle brackets.
fn find_outside(text: &str, wanted: u8) -> Option<usize> {
    // Most values have no such octet at all, or nothing that could enclose it.
    let first = memchr(wanted, text.as_bytes())?;
    match memchr2(b'"', b'<', &text.as_bytes()[..first]) {
        Some(_) => find_outside_slowly(text, wanted),
        None => Some(first),
    }
}

/// From one octet that counts to the next. What is never closed encloses all the rest.
fn find_outside_slowly(text: &str, wanted: u8) -> Option<usize> {
    let octets = text.as_bytes();
    let mut at = 0;
    loop {
        at += memchr3(wanted, b'"', b'<', &octets[at..])?;
        at += match octets[at] {
            b'"' => quoted_end(&octets[at..])?,
            b'<' => bracket_end(&octets[at..])?,
            _ => return Some(at),
        };
    }
}

/// Where the angle brackets at the start of `text` end, the closing one included. There may be quotes in them.
fn bracket_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'>', &text[at..])?;
        match text[at] {
            b'"' => at += quoted_end(&text[at..])?,
            _ => return Some(at + 1),
        }
    }
}

/// The parameters behind a value: `;name`, `;name=value`, `;name="quoted"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    /// `text` begins with the first `;` or is empty.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// All of them in order, values without their quotes.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        self.with_text().map(|(_, name, value)| (name, value))
    }

    /// All of them in order, each as it is written, with its name and its value without quotes.
    pub fn with_text(&self) -> impl Iterator<Item = (&'a str, &'a str, Option<&'a str>)> + use<'a> {
        self.written().map(|parameter| {
            let (name, value) = split_parameter(parameter);
            (parameter, name, value.map(unquote))
        })
    }

    /// All of them in order, each as it is written, without its semicolon.
    pub fn written(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            rest = rest.trim_ascii_start();
            rest = match rest.as_bytes().first()? {
                b';' => &rest[1..],
                _ => return None,
            };
            let end = find_outside(rest, b';').unwrap_or(rest.len());
            let parameter = &rest[..end];
            rest = &rest[end..];
            Some(parameter.trim_ascii())
        })
    }

    /// Whether each is `token [EQUAL gen-value]` (RFC 3261 §25.1): none is empty, no quote is open.
    pub fn are_sound(&self) -> bool {
        are_plainly_sound(self.0.as_bytes()) || self.are_sound_with_care()
    }

    fn are_sound_with_care(&self) -> bool {
        self.written().all(|parameter| {
            let (name, value) = split_parameter(parameter);
            let value_is_sound = match value {
                None => true,
                Some(value) if value.starts_with('"') => {
                    quoted_end(value.as_bytes()) == Some(value.len())
                }
                Some(value) => {
                    let illegal = |byte| matches!(byte, b'"' | b' ' | b'\t' | b',');
                    !value.is_empty() && !value.bytes().any(illegal)
                }
            };
            !name.is_empty() && name.bytes().all(is_token) && value_is_sound
        })
    }

    /// The parameter of this name, without regard to case: `None` where there is none, `Some(None)`
    /// where it has no value.
    pub fn find(&self, name: &str) -> Option<Option<&'a str>> {
        let named = |parameter: &(&str, _)| parameter.0.eq_ignore_ascii_case(name);
        self.iter().find(named).map(|(_, value)| value)
    }

    /// As written.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// Whether they are sound at first sight: no blanks, no quotes, nothing missing.
fn are_plainly_sound(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let name = run_length(behind, &TOKEN);
        if *first != b';' || name == 0 {
            return false;
        }
        rest = &behind[name..];
        if let Some(value) = rest.strip_prefix(b"=") {
            let length = run_length(value, &PLAIN);
            if length == 0 {
                return false;
            }
            rest = &value[length..];
        }
    }
    true
}

/// What a value without quotes is made of, and nothing that ends it.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = !matches!(byte as u8, b'"' | b' ' | b'\t' | b',' | b';' | b'<');
        byte += 1;
    }
    table
};

fn split_parameter(text: &str) -> (&str, Option<&str>) {
    match memchr(b'=', text.as_bytes()) {
        Some(at) => (text[..at].trim_ascii(), Some(text[at + 1..].trim_ascii())),
        None => (text, None),
    }
}

/// Where the quoted string at the start of `text` ends, its closing quote included.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        match text[at] {
            // What stands behind it is not looked at.
            b'\\' => at += 2,
            _ => return Some(at + 1),
        }
    }
}

/// Digits only: `str::parse` alone would take a sign too.
pub(super) fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn unquote(value: &str) -> &str {
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// One Via element (RFC 3261 §20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, …; compare without case.
    pub transport: &'a str,
    /// The host of sent-by; IPv6 in brackets as written.
    pub host: &'a str,
    /// The port of sent-by.
    pub port: Option<u16>,
    /// `branch`
    pub branch: Option<&'a str>,
    /// `received`
    pub received: Option<&'a str>,
    /// `rport`: absent, without a value, or with one (RFC 3581).
    pub rport: Option<Option<u16>>,
    pub(super) parameters: Parameters<'a>,
}

impl<'a> Via<'a> {
    /// Reads one element; blanks around the slashes and the colon are legal.
    pub fn parse(value: &'a str) -> Result<Self, Rejection> {
        Self::read(value).ok_or(Rejection::new(400, "Malformed Via"))
    }

    fn read(value: &'a str) -> Option<Self> {
        let rest = match value.strip_prefix("SIP/2.0/") {
            Some(rest) => rest,
            None => after_version(value)?,
        }
        .trim_ascii_start();
        let (transport, rest) = rest.split_at(memchr2(b' ', b'\t', rest.as_bytes())?);
        let end = memchr(b';', rest.as_bytes()).unwrap_or(rest.len());
        let (host, port) = sent_by(rest[..end].trim_ascii())?;
        let parameters = Parameters::new(&rest[end..]);
        let (mut branch, mut received, mut rport) = (None, None, None);
        for (name, value) in parameters.iter() {
            // The first of a name counts.
            let place = match name.len() {
                6 if name.eq_ignore_ascii_case("branch") => &mut branch,
                8 if name.eq_ignore_ascii_case("received") => &mut received,
                5 if name.eq_ignore_ascii_case("rport") => &mut rport,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        let rport = match rport {
            Some(Some(port)) => Some(Some(decimal(port)?)),
            other => other.map(|_| None),
        };
        Some(Self {
            transport,
            host,
            port,
            branch: branch.flatten(),
            received: received.flatten(),
            rport,
            parameters,
        })
    }

    /// All parameters.
    pub fn parameters(&self) -> Parameters<'a> {
        self.parameters
    }

    /// Where its parts lie in the text that it was read from, to be taken from there again.
    pub(super) fn places(&self, text: &str) -> Option<ViaPlaces> {
        let place = |part| Span::of(part, text);
        Some(ViaPlaces {
            transport: place(self.transport)?,
            host: place(self.host)?,
            port: self.port,
            branch: self.branch.and_then(place),
            received: self.received.and_then(place),
            rport: self.rport,
            parameters: place(self.parameters.0)?,
        })
    }

    /// A parameter by its name.
    pub fn param(&self, name: &str) -> Option<Option<&'a str>> {
        self.parameters.find(name)
    }
}

/// A [`Via`] by the places of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ViaPlaces {
    transport: Span,
    host: Span,
    port: Option<u16>,
    branch: Option<Span>,
    received: Option<Span>,
    rport: Option<Option<u16>>,
    parameters: Span,
}

impl ViaPlaces {
    /// The places of the same parts where so much stands before the element.
    pub fn behind(self, octets: usize) -> Option<Self> {
        let moved = |place: Option<Span>| match place {
            Some(place) => place.behind(octets).map(Some),
            None => Some(None),
        };
        Some(Self {
            transport: self.transport.behind(octets)?,
            host: self.host.behind(octets)?,
            branch: moved(self.branch)?,
            received: moved(self.received)?,
            parameters: self.parameters.behind(octets)?,
            ..self
        })
    }

    /// The element again, in the text that it was read from.
    pub fn of<'a>(&self, text: &'a str) -> Option<Via<'a>> {
        Some(Via {
            transport: self.transport.text(text)?,
            host: self.host.text(text)?,
            port: self.port,
            branch: self.branch.and_then(|place| place.text(text)),
            received: self.received.and_then(|place| place.text(text)),
            rport: self.rport,
            parameters: Parameters(self.parameters.text(text)?),
        })
    }
}

/// What stands behind `SIP/2.0/` where that is written in another way.
fn after_version(value: &str) -> Option<&str> {
    let (name, rest) = value.split_once('/')?;
    let (version, rest) = rest.split_once('/')?;
    // The version is a token: a request of another one is answered 505 along this very Via.
    let version = version.trim_ascii();
    let version_is_token = version.bytes().all(is_token) && !version.is_empty();
    let is_sip = name.trim_ascii().eq_ignore_ascii_case("SIP") && version_is_token;
    is_sip.then_some(rest)
}

pub(super) fn sent_by(text: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match text.strip_prefix('[') {
        Some(_) => text.find(']')? + 1,
        None => memchr3(b':', b' ', b'\t', text.as_bytes()).unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(legal) {
        return None;
    }
    match rest.trim_ascii() {
        "" => Some((host, None)),
        rest => {
            let port = decimal(rest.strip_prefix(':')?.trim_ascii())?;
            Some((host, Some(port)))
        }
    }
}

/// A name-addr or addr-spec with header parameters: From, To, Contact, Route, … (RFC 3261 §20.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, with its quotes; empty if there is none.
    pub display: &'a str,
    /// The URI.
    pub uri: &'a str,
    /// The header parameters.
    pub parameters: Parameters<'a>,
}

/// The value is no name-addr and no addr-spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name-addr")]
pub struct NotNameAddr;

impl<'a> NameAddr<'a> {
    /// Reads one value.
    pub fn parse(value: &'a str) -> Result<Self, NotNameAddr> {
        Self::read(value.trim_ascii()).ok_or(NotNameAddr)
    }

    fn read(value: &'a str) -> Option<Self> {
        let (display, uri, rest) = match find_bracket(value) {
            Some(open) => {
                let close = open + memchr(b'>', &value.as_bytes()[open..])?;
                (&value[..open], &value[open + 1..close], &value[close + 1..])
            }
            // Without brackets the parameters belong to the header field.
            None => {
                let end = memchr(b';', value.as_bytes()).unwrap_or(value.len());
                (&value[..0], &value[..end], &value[end..])
            }
        };
        let (display, uri, rest) = (display.trim_ascii(), uri.trim_ascii(), rest.trim_ascii());
        let tail_is_parameters = rest.is_empty() || rest.starts_with(';');
        // Without brackets a question mark cannot be the URI's (RFC 3261 §20.10).
        let enclosed =
            value.starts_with('<') || !display.is_empty() || memchr(b'?', uri.as_bytes()).is_none();
        let named_well = enclosed && is_display_name(display);
        let illegal = |byte: u8| byte.is_ascii_control() || matches!(byte, b' ' | b'"' | b'<');
        // It is short: many octets at a time are quicker than a stop at the first illegal one.
        let has_illegal = uri.bytes().fold(false, |any, byte| any | illegal(byte));
        let uri_has_scheme = memchr(b':', uri.as_bytes()).is_some() && !has_illegal;
        (tail_is_parameters && named_well && uri_has_scheme).then_some(Self {
            display,
            uri,
            parameters: Parameters::new(rest),
        })
    }

    /// Where its parts lie in the text that it was read from, to be taken from there again.
    pub(super) fn places(&self, text: &str) -> Option<AddressPlaces> {
        let place = |part| Span::of(part, text);
        Some(AddressPlaces {
            display: place(self.display)?,
            uri: place(self.uri)?,
            parameters: place(self.parameters.0)?,
            uri_places: Uri::parse(self.uri).ok().and_then(|uri| uri.places()),
            tag: None,
        })
    }

    /// The same for a value that may have a tag.
    pub(super) fn places_with_tag(&self, text: &str) -> Option<AddressPlaces> {
        Some(AddressPlaces {
            tag: self.tag().and_then(|tag| Span::of(tag, text)),
            ..self.places(text)?
        })
    }

    /// The `tag` parameter.
    pub fn tag(&self) -> Option<&'a str> {
        self.parameters.find("tag").flatten()
    }

    /// A header parameter by its name.
    pub fn param(&self, name: &str) -> Option<Option<&'a str>> {
        self.parameters.find(name)
    }
}

/// A [`NameAddr`] by the places of its parts, and what is asked of it most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressPlaces {
    display: Span,
    uri: Span,
    parameters: Span,
    /// `None` where its URI is none.
    uri_places: Option<UriPlaces>,
    tag: Option<Span>,
}

impl AddressPlaces {
    /// The value again, in the text that it was read from.
    pub fn of<'a>(&self, text: &'a str) -> Option<NameAddr<'a>> {
        Some(NameAddr {
            display: self.display.text(text)?,
            uri: self.uri.text(text)?,
            parameters: Parameters(self.parameters.text(text)?),
        })
    }

    /// Its URI, read.
    pub fn uri<'a>(&self, text: &'a str) -> Option<Uri<'a>> {
        self.uri_places?.of(self.uri.text(text)?)
    }

    /// Its tag.
    pub fn tag<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.tag?.text(text)
    }
}

/// The `<` that opens the URI: the first one outside the quotes of the display name.
fn find_bracket(value: &str) -> Option<usize> {
    let first = memchr(b'<', value.as_bytes())?;
    if memchr(b'"', &value.as_bytes()[..first]).is_none() {
        return Some(first);
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// A quoted string, or text without quotes. That should be tokens, but names with a comma or a dot
/// occur (RFC 4475 §3.1.2.15); with a colon or semicolon it would be an address itself.
fn is_display_name(display: &str) -> bool {
    match display.strip_prefix('"') {
        Some(_) => quoted_end(display.as_bytes()) == Some(display.len()),
        None => !display.contains([':', ';', '"']),
    }
}

/// CSeq (RFC 3261 §20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Below 2^31.
    pub number: u32,
    /// The method as written.
    pub method: &'a str,
}

/// A [`CSeq`] by its number and the place of its method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CSeqPlaces {
    number: u32,
    method: Span,
}

impl CSeqPlaces {
    /// The value again, in the text that it was read from.
    pub fn of<'a>(&self, text: &'a str) -> Option<CSeq<'a>> {
        Some(CSeq {
            number: self.number,
            method: self.method.text(text)?,
        })
    }
}

impl<'a> CSeq<'a> {
    pub(super) const MALFORMED: Rejection = Rejection::new(400, "Malformed CSeq");

    /// Reads the value.
    pub fn parse(value: &'a str) -> Result<Self, Rejection> {
        let malformed = Self::MALFORMED;
        let blank = memchr2(b' ', b'\t', value.as_bytes()).ok_or(malformed)?;
        let (number, method) = value.split_at(blank);
        let number: u32 = decimal(number).ok_or(malformed)?;
        let method = method.trim_ascii();
        if number >= 1 << 31 || method.is_empty() || !method.bytes().all(is_token) {
            return Err(malformed);
        }
        Ok(Self { number, method })
    }

    /// Where its method lies in the text that it was read from, to be taken from there again.
    pub(super) fn places(&self, text: &str) -> Option<CSeqPlaces> {
        Some(CSeqPlaces {
            number: self.number,
            method: Span::of(self.method, text)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// [`find_outside`], octet by octet.
    fn find_by_octets(text: &str, wanted: u8) -> Option<usize> {
        let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'<' => bracketed = true,
                b'>' => bracketed = false,
                _ if byte == wanted && !bracketed => return Some(at),
                _ => {}
            }
        }
        None
    }

    proptest! {
        #[test]
        fn what_is_outside_is_found_as_octet_by_octet(text in "[a,;<>\"\\\\]{0,24}") {
            for wanted in *b",;" {
                prop_assert_eq!(find_outside(&text, wanted), find_by_octets(&text, wanted));
            }
        }
    }

    #[test]
    fn commas_in_quotes_and_brackets_do_not_separate() {
        let value = "\"a, \\\"b\" <sip:x@y;p=1,2>;q=1 , <sip:z> ,,";
        let elements: Vec<&str> = split_list(value).collect();
        assert_eq!(elements, ["\"a, \\\"b\" <sip:x@y;p=1,2>;q=1", "<sip:z>"]);
    }

    #[test]
    fn a_via_with_every_legal_blank() {
        let via = Via::parse(
            "SIP  / 2.0 /UDP [2001:db8::9:1] : 5061 ;branch=z9hG4bK1;rport;received=192.0.2.1",
        )
        .expect("legal");
        assert_eq!(
            (via.transport, via.host, via.port),
            ("UDP", "[2001:db8::9:1]", Some(5061))
        );
        assert_eq!(via.branch, Some("z9hG4bK1"));
        assert_eq!(via.rport, Some(None));
        assert_eq!(via.received, Some("192.0.2.1"));
        assert!(Via::parse("HTTP/2.0/UDP h").is_err());
        assert!(Via::parse("SIP//UDP h").is_err());
        assert!(Via::parse("SIP/2.0/UDP h;rport=+5").is_err());
        assert!(Via::parse("SIP/2.0/UDP ").is_err());
        assert!(Via::parse("SIP/2.0/UDP h:99999").is_err());
    }

    #[test]
    fn parameters_outside_brackets_belong_to_the_header() {
        let plain = NameAddr::parse("sip:a@b;tag=1").expect("legal");
        assert_eq!((plain.uri, plain.tag()), ("sip:a@b", Some("1")));
        let named = NameAddr::parse("\"x <y>\" <sip:a@b;lr>; tag = 2 ;q").expect("legal");
        assert_eq!(
            (named.uri, named.tag(), named.param("q")),
            ("sip:a@b;lr", Some("2"), Some(None))
        );
        let instance =
            NameAddr::parse("<sip:a@b>;+sip.instance=\"<urn:uuid:1>\";expires=7").expect("legal");
        assert_eq!(instance.param("+SIP.instance"), Some(Some("<urn:uuid:1>")));
        assert_eq!(instance.param("expires"), Some(Some("7")));
        assert!(NameAddr::parse("\"unterminated <sip:a@b>").is_err());
        assert!(NameAddr::parse("nothing").is_err());
    }

    #[test]
    fn a_cseq_number_is_below_two_to_the_31() {
        assert_eq!(CSeq::parse("0009  INVITE").map(|cseq| cseq.number), Ok(9));
        for bad in [
            "36893488147419103232 REGISTER",
            "2147483648 A",
            "1",
            "1 A B",
            "-1 A",
            "+1 A",
        ] {
            assert!(CSeq::parse(bad).is_err(), "{bad}");
        }
    }
}
