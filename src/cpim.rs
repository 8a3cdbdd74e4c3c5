//! The message/cpim envelope (RFC 3862), read without touching it.
//!
//! What a user wrote is kept and replayed octet for octet (RFC 3862 §2.2), so an [`Envelope`] is a view
//! of the original octets. It is read with the leniency that clients in the field need; what this
//! server writes itself ([`Envelope::wrap`]) is strict.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use crate::imdn::Dispositions;

mod wrap;

pub use wrap::{Wrapper, format_date_time, wrap_notification};

/// The media type of an envelope.
pub const MEDIA_TYPE: &str = "message/cpim";
/// The namespace of the headers of RFC 5438 §10.
pub const IMDN_NAMESPACE: &str = "urn:ietf:params:imdn";
/// The namespace of the headers of RFC 3862 itself (§4).
const CPIM_NAMESPACE: &str = "urn:ietf:params:cpim-headers:";
/// Most octets of both header sections together.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most headers of both sections together.
const MAX_HEADERS: usize = 64;

/// Why an envelope was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpimError {
    /// The header sections do not end within the octets given. Of a message that is still arriving,
    /// more octets may help.
    #[error("the headers do not end")]
    Incomplete,
    /// Over [`MAX_HEAD`] octets or 64 headers before the content.
    #[error("headers too large")]
    TooLarge,
    /// Not UTF-8, or not `Name: value`.
    #[error("malformed header")]
    Malformed,
    /// The content has no Content-Type (RFC 3862 §2.4).
    #[error("content without a Content-Type")]
    NoContentType,
}

/// Which vocabulary a header belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace<'a> {
    Cpim,
    Named(&'a str),
}

#[derive(Clone, Copy, Debug)]
struct Header<'a> {
    namespace: Namespace<'a>,
    name: &'a str,
    value: &'a str,
    /// Its line, with the line end.
    line: (usize, usize),
}

/// A read-only view of an envelope.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    headers: SmallVec<[Header<'a>; 10]>,
    required: SmallVec<[Required<'a>; 1]>,
    content_headers: SmallVec<[(&'a str, &'a str); 4]>,
    content: Range<usize>,
}

/// One name of a `Require` header.
#[derive(Clone, Copy, Debug)]
struct Required<'a> {
    written: &'a str,
    namespace: Namespace<'a>,
    name: &'a str,
}

impl<'a> Envelope<'a> {
    /// Reads the headers of `octets`. The content may still be arriving: only the header sections have
    /// to be there. Tolerated: LF alone as line end, blank lines in front, any number of blanks after a
    /// colon, `NS: prefix<uri>`, and a missing blank line before the MIME headers.
    pub fn parse(octets: &'a [u8]) -> Result<Self, CpimError> {
        let mut lines = Lines {
            octets,
            at: 0,
            begun: 0,
        };
        let mut envelope = Self {
            headers: SmallVec::new(),
            required: SmallVec::new(),
            content_headers: SmallVec::new(),
            content: 0..0,
        };
        let mut namespaces = Namespaces::default();
        let mut line = lines.first_line()?;
        let mut mime = None;
        while !line.is_empty() {
            let (name, value) = split_header(line)?;
            if name.len() >= 8
                && name
                    .get(..8)
                    .is_some_and(|n| n.eq_ignore_ascii_case("content-"))
            {
                mime = Some(line);
                break;
            }
            let range = (lines.begun, lines.at);
            envelope.add_header(name, value, range, &mut namespaces)?;
            line = lines.next_line()?;
        }
        let mut line = match mime {
            Some(line) => line,
            None => lines.next_line()?,
        };
        while !line.is_empty() {
            let (whole, next) = lines.unfold(line)?;
            envelope.add_content_header(split_header(whole)?)?;
            line = next;
        }
        if envelope.content_header("Content-Type").is_none() {
            return Err(CpimError::NoContentType);
        }
        envelope.content = lines.at..octets.len();
        Ok(envelope)
    }

    fn add_header(
        &mut self,
        name: &'a str,
        value: &'a str,
        line: (usize, usize),
        namespaces: &mut Namespaces<'a>,
    ) -> Result<(), CpimError> {
        if self.headers.len() == MAX_HEADERS {
            return Err(CpimError::TooLarge);
        }
        let (namespace, name) = namespaces.resolve(name);
        if namespace == Namespace::Cpim && name == "NS" {
            namespaces.declare(value);
        }
        if namespace == Namespace::Cpim && name == "Require" {
            for written in value.split(',').map(str::trim).filter(|r| !r.is_empty()) {
                let (namespace, name) = namespaces.resolve(written);
                self.required.push(Required {
                    written,
                    namespace,
                    name,
                });
            }
        }
        self.headers.push(Header {
            namespace,
            name,
            value,
            line,
        });
        Ok(())
    }

    fn add_content_header(&mut self, header: (&'a str, &'a str)) -> Result<(), CpimError> {
        if self.headers.len() + self.content_headers.len() >= MAX_HEADERS {
            return Err(CpimError::TooLarge);
        }
        self.content_headers.push(header);
        Ok(())
    }

    /// `From`, as written. Not to be believed: many clients write an anonymous URI here.
    pub fn from(&self) -> Option<&'a str> {
        self.header("From")
    }

    /// Every header that some device may take for `From`, as written: in any case of its name, and of any
    /// vocabulary, for not every device knows that names are case-sensitive and have namespaces.
    pub fn any_from(&self) -> impl Iterator<Item = &'a str> {
        let named = |header: &&Header<'a>| {
            let local = header.name.rsplit('.').next().unwrap_or_default();
            local.eq_ignore_ascii_case("From")
        };
        self.headers.iter().filter(named).map(|header| header.value)
    }

    /// The first `To`, as written.
    pub fn to(&self) -> Option<&'a str> {
        self.header("To")
    }

    /// `DateTime`, as written.
    pub fn date_time(&self) -> Option<&'a str> {
        self.header("DateTime")
    }

    /// The first header of RFC 3862 with this name, which is case-sensitive (§2.2).
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.named(Namespace::Cpim, name).next()
    }

    /// `imdn.Message-ID` (RFC 5438 §6.3), by whatever prefix.
    pub fn imdn_message_id(&self) -> Option<&'a str> {
        self.imdn("Message-ID").next().filter(|id| !id.is_empty())
    }

    /// The notifications the author asked for (RFC 5438 §7.1.1.3).
    pub fn dispositions(&self) -> Dispositions {
        self.imdn("Disposition-Notification")
            .map(Dispositions::parse)
            .fold(Dispositions::default(), Dispositions::union)
    }

    /// The addresses that want to see the notifications, top first (RFC 5438 §8).
    pub fn imdn_record_route(&self) -> impl Iterator<Item = &'a str> {
        self.imdn("IMDN-Record-Route")
    }

    /// The addresses a notification has yet to visit, top first (RFC 5438 §7.2.1).
    pub fn imdn_route(&self) -> impl Iterator<Item = &'a str> {
        self.imdn("IMDN-Route")
    }

    /// Where the line of the top `IMDN-Route` lies, with its line end: all that an intermediary takes
    /// out of a notification (RFC 5438 §8).
    pub fn imdn_route_line(&self) -> Option<Range<usize>> {
        let namespace = Namespace::Named(IMDN_NAMESPACE);
        let mut headers = self.headers.iter();
        let top = headers.find(|it| it.namespace == namespace && it.name == "IMDN-Route")?;
        Some(top.line.0..top.line.1)
    }

    /// A `Require`d feature this server does not know, as written (RFC 3862 §3.5). The headers of
    /// RFC 3862 and RFC 5438 are known.
    pub fn unknown_requirement(&self) -> Option<&'a str> {
        const CPIM: [&str; 8] = [
            "From",
            "To",
            "cc",
            "DateTime",
            "Subject",
            "NS",
            "Require",
            "Content-Type",
        ];
        const IMDN: [&str; 5] = [
            "Message-ID",
            "Disposition-Notification",
            "Original-To",
            "IMDN-Record-Route",
            "IMDN-Route",
        ];
        let known = |required: &&Required<'a>| match required.namespace {
            Namespace::Cpim => CPIM.contains(&required.name),
            Namespace::Named(uri) => uri == IMDN_NAMESPACE && IMDN.contains(&required.name),
        };
        let mut unknown = self.required.iter().filter(|required| !known(required));
        unknown.next().map(|required| required.written)
    }

    /// A MIME header of the content, by any case of its name.
    pub fn content_header(&self, name: &str) -> Option<&'a str> {
        let mut headers = self.content_headers.iter();
        headers
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// Content-Type of the content, as written.
    pub fn content_type(&self) -> &'a str {
        self.content_header("Content-Type").unwrap_or_default()
    }

    /// Where the content lies in the octets that were parsed.
    pub fn content(&self) -> Range<usize> {
        self.content.clone()
    }

    fn imdn(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.named(Namespace::Named(IMDN_NAMESPACE), name)
    }

    fn named(&self, namespace: Namespace<'a>, name: &str) -> impl Iterator<Item = &'a str> {
        let wanted = move |h: &&Header<'a>| h.namespace == namespace && h.name == name;
        self.headers
            .iter()
            .filter(wanted)
            .map(|header| header.value)
    }
}

/// The prefixes declared so far (RFC 3862 §3.4).
#[derive(Default)]
struct Namespaces<'a> {
    declared: SmallVec<[(&'a str, Namespace<'a>); 4]>,
}

impl<'a> Namespaces<'a> {
    /// Reads `prefix <uri>`, `prefix<uri>` or `<uri>`; anything else declares nothing.
    fn declare(&mut self, value: &'a str) {
        let Some((prefix, rest)) = value.split_once('<') else {
            return;
        };
        let uri = rest.split('>').next().unwrap_or_default().trim();
        let namespace = match uri {
            CPIM_NAMESPACE => Namespace::Cpim,
            uri => Namespace::Named(uri),
        };
        self.declared.push((prefix.trim(), namespace));
    }

    /// The namespace and local name of a header. The last declaration of a prefix counts.
    fn resolve(&self, name: &'a str) -> (Namespace<'a>, &'a str) {
        let (prefix, local) = name.split_once('.').unwrap_or(("", name));
        let mut declared = self.declared.iter().rev();
        let namespace = declared
            .find(|(known, _)| *known == prefix)
            .map(|(_, namespace)| *namespace);
        match (namespace, prefix) {
            // A default namespace must not hide the headers that declare and require.
            (_, "") if matches!(local, "NS" | "Require") => (Namespace::Cpim, local),
            (Some(namespace), _) => (namespace, local),
            (None, "") => (Namespace::Cpim, local),
            // Some clients use the customary prefix without declaring it.
            (None, "imdn") => (Namespace::Named(IMDN_NAMESPACE), local),
            (None, _) => (Namespace::Named(""), name),
        }
    }
}

/// Lines up to a bound, CRLF or LF left out.
struct Lines<'a> {
    octets: &'a [u8],
    at: usize,
    /// Where the last line began.
    begun: usize,
}

impl<'a> Lines<'a> {
    /// The first line that is not blank.
    fn first_line(&mut self) -> Result<&'a str, CpimError> {
        loop {
            let line = self.next_line()?;
            if !line.is_empty() {
                return Ok(line);
            }
        }
    }

    fn next_line(&mut self) -> Result<&'a str, CpimError> {
        let rest = self.octets.get(self.at..).unwrap_or_default();
        let room = MAX_HEAD.saturating_sub(self.at);
        let window = rest.get(..room).unwrap_or(rest);
        let Some(feed) = memchr::memchr(b'\n', window) else {
            let full = rest.len() >= room;
            return Err(if full {
                CpimError::TooLarge
            } else {
                CpimError::Incomplete
            });
        };
        self.begun = self.at;
        self.at += feed + 1;
        self.text(self.begun, self.at)
    }

    /// The line just read with those that continue it, which MIME allows (RFC 5322 §2.2.3), and the
    /// line behind them.
    fn unfold(&mut self, line: &'a str) -> Result<(&'a str, &'a str), CpimError> {
        let (start, mut end) = (self.begun, self.at);
        let mut next = self.next_line()?;
        while next.starts_with([' ', '\t']) && !next.trim().is_empty() {
            end = self.at;
            next = self.next_line()?;
        }
        let folded = end > start + line.len() + 2;
        let whole = if folded { self.text(start, end)? } else { line };
        Ok((whole, next))
    }

    /// Octets up to a line end, as text without it.
    fn text(&self, start: usize, end: usize) -> Result<&'a str, CpimError> {
        let line = self.octets.get(start..end).unwrap_or_default();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        std::str::from_utf8(line).map_err(|_| CpimError::Malformed)
    }
}

/// `Name: value` or `Name:;lang=fr value` (RFC 3862 §3.3); parameters are left out of the value.
fn split_header(line: &str) -> Result<(&str, &str), CpimError> {
    let colon = memchr::memchr(b':', line.as_bytes()).ok_or(CpimError::Malformed)?;
    let (name, value) = (line[..colon].trim_ascii_end(), &line[colon + 1..]);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CpimError::Malformed);
    }
    let value = match value.strip_prefix(';') {
        Some(parameters) => parameters.split_once(' ').map_or("", |(_, value)| value),
        None => value,
    };
    Ok((name, value.trim_ascii()))
}

/// The URI of a `From` or `To` value: inside the angle brackets, or all of it.
pub fn uri_of(value: &str) -> &str {
    match value.rsplit_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default().trim(),
        None => value.trim(),
    }
}

/// Undoes the escapes of a header value (RFC 3862 §2.3).
pub fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            None => {}
            Some('b') => out.push('\u{8}'),
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('u') => match code_point(chars.as_str()) {
                Some((character, rest)) => {
                    out.push(character);
                    chars = rest.chars();
                }
                None => out.push('u'),
            },
            Some(c) => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Four hexadecimal digits, and what follows them.
fn code_point(text: &str) -> Option<(char, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16).ok().filter(|_| hex)?;
    Some((char::from_u32(code)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = "From: <sip:alice@im.example>\r\n\
        To: <sip:bob@im.example>\r\n\
        DateTime: 2026-03-02T09:15:04Z\r\n\
        NS: imdn <urn:ietf:params:imdn>\r\n\
        imdn.Message-ID: Qm8v2RtK1zB4\r\n\
        imdn.Disposition-Notification: positive-delivery, negative-delivery, display\r\n\
        \r\n\
        Content-Type: text/plain; charset=UTF-8\r\n\
        Content-Length: 17\r\n\
        \r\n\
        Lunch on Tuesday?";

    #[test]
    fn the_replayed_sample_is_read() {
        assert_eq!(SAMPLE.len(), 312);
        let envelope = Envelope::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(envelope.from().map(uri_of), Some("sip:alice@im.example"));
        assert_eq!(envelope.to().map(uri_of), Some("sip:bob@im.example"));
        assert_eq!(envelope.date_time(), Some("2026-03-02T09:15:04Z"));
        assert_eq!(envelope.imdn_message_id(), Some("Qm8v2RtK1zB4"));
        let asked = envelope.dispositions();
        assert!(asked.contains(Dispositions::POSITIVE));
        assert!(asked.contains(Dispositions::NEGATIVE.union(Dispositions::DISPLAY)));
        assert!(!asked.contains(Dispositions::PROCESSING));
        assert_eq!(envelope.content_type(), "text/plain; charset=UTF-8");
        assert_eq!(&SAMPLE[envelope.content()], "Lunch on Tuesday?");
        assert_eq!(envelope.unknown_requirement(), None);
    }

    #[test]
    fn what_clients_get_wrong_is_tolerated() {
        let lenient = "\nFrom:  Bob <sip:bob@im.example>\nNS: x<urn:ietf:params:imdn>\n\
            x.Message-ID:abc\nx.IMDN-Record-Route: <sip:one>\nx.IMDN-Record-Route: <sip:two>\n\
            Content-type: text/plain\ncontent-length: 2\n\nhi";
        let envelope = Envelope::parse(lenient.as_bytes()).unwrap();
        assert_eq!(envelope.from().map(uri_of), Some("sip:bob@im.example"));
        assert_eq!(envelope.imdn_message_id(), Some("abc"));
        let route: Vec<_> = envelope.imdn_record_route().collect();
        assert_eq!(route, ["<sip:one>", "<sip:two>"]);
        assert_eq!(envelope.content_header("Content-Length"), Some("2"));
        assert_eq!(&lenient[envelope.content()], "hi");
    }

    /// RFC 3862 §3.4: the prefix has no meaning of its own.
    #[test]
    fn namespaces_count_not_prefixes() {
        let other = "NS: imdn <urn:other>\r\nimdn.Message-ID: no\r\n\
            NS: <urn:ietf:params:imdn>\r\nMessage-ID: yes\r\n\r\nContent-Type: a/b\r\n\r\n";
        let envelope = Envelope::parse(other.as_bytes()).unwrap();
        assert_eq!(envelope.imdn_message_id(), Some("yes"));
    }

    #[test]
    fn an_undeclared_customary_prefix_is_understood() {
        let text = "imdn.Message-ID: abcd\r\n\r\nContent-Type: a/b\r\n\r\n";
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(envelope.imdn_message_id(), Some("abcd"));
    }

    #[test]
    fn header_names_are_case_sensitive() {
        let text = "from: <sip:x>\r\n\r\nContent-Type: a/b\r\n\r\n";
        assert_eq!(Envelope::parse(text.as_bytes()).unwrap().from(), None);
    }

    /// The example of an aggregate in RFC 5438 §8.3 folds its Content-type.
    #[test]
    fn a_folded_header_of_the_content_is_one_header() {
        let text = "From: <sip:a>\r\n\r\nContent-type: multipart/mixed;\r\n\t boundary=\"b\"\r\n\
            Content-Disposition: notification\r\n\r\nhi";
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        let value = envelope.content_type();
        assert_eq!(crate::multipart::media_type(value), "multipart/mixed");
        let boundary = crate::multipart::parameter(value, "boundary");
        assert_eq!(boundary.as_deref(), Some("b"));
        let disposition = envelope.content_header("content-disposition");
        assert_eq!(disposition, Some("notification"));
        assert_eq!(&text[envelope.content()], "hi");
    }

    #[test]
    fn the_line_of_the_top_route_is_found_by_namespace() {
        let text = "IMDN-Route: <sip:no>\nNS: i <urn:ietf:params:imdn>\ni.IMDN-Route: <sip:one>\n\
            i.IMDN-Route: <sip:two>\n\nContent-Type: a/b\n\n";
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(envelope.imdn_route().next(), Some("<sip:one>"));
        let line = envelope.imdn_route_line().unwrap();
        assert_eq!(&text[line], "i.IMDN-Route: <sip:one>\n");
    }

    #[test]
    fn a_required_feature_is_known_by_its_namespace() {
        let text = |require: &str| {
            format!(
                "NS: i <urn:ietf:params:imdn>\r\nNS: m <urn:mine>\r\nRequire: {require}\r\n\r\n\
                 Content-Type: a/b\r\n\r\n"
            )
        };
        let known = text("Subject,i.Message-ID");
        let envelope = Envelope::parse(known.as_bytes()).unwrap();
        assert_eq!(envelope.unknown_requirement(), None);
        let unknown = text("Subject, m.Vital");
        let envelope = Envelope::parse(unknown.as_bytes()).unwrap();
        assert_eq!(envelope.unknown_requirement(), Some("m.Vital"));
    }

    #[test]
    fn envelopes_that_cannot_be_read_are_refused_by_kind() {
        let parse = |octets: &[u8]| Envelope::parse(octets).map(|_| ());
        assert_eq!(parse(b""), Err(CpimError::Incomplete));
        assert_eq!(parse(b"From: <sip:a>\r\n\r\n"), Err(CpimError::Incomplete));
        assert_eq!(parse(b"no colon\r\n\r\n"), Err(CpimError::Malformed));
        assert_eq!(parse(b"A: \xff\r\n\r\n"), Err(CpimError::Malformed));
        assert_eq!(
            parse(b"From: <sip:a>\r\n\r\nX: y\r\n\r\n"),
            Err(CpimError::NoContentType)
        );
        assert_eq!(parse(&b"A: b\r\n".repeat(65)), Err(CpimError::TooLarge));
        assert_eq!(parse(&[b'a'; MAX_HEAD]), Err(CpimError::TooLarge));
        assert_eq!(parse(&b"\n".repeat(MAX_HEAD)), Err(CpimError::TooLarge));
    }

    #[test]
    fn headers_are_found_while_the_content_is_still_arriving() {
        for cut in 0..SAMPLE.len() {
            let envelope = Envelope::parse(&SAMPLE.as_bytes()[..cut]);
            let head = SAMPLE.len() - "Lunch on Tuesday?".len();
            assert_eq!(envelope.is_ok(), cut >= head, "{cut}");
        }
    }

    /// RFC 3862 §2.3
    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"a\\b\u0041\n\x\"), "a\\bA\nx");
        assert_eq!(unescape(r"\u00"), "u00");
        assert_eq!(unescape("plain"), "plain");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(octets in "(From|NS|imdn|Content-Type|Require|[.:;<> a\\\\]|urn:x|\r\n|\n){0,40}") {
            if let Ok(envelope) = Envelope::parse(octets.as_bytes()) {
                let _ = (envelope.imdn_message_id(), envelope.dispositions(), envelope.unknown_requirement());
                prop_assert!(octets.as_bytes().get(envelope.content()).is_some());
            }
        }

        #[test]
        fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Envelope::parse(&octets);
        }
    }
}
