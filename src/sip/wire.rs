//! Bytes to message (RFC 3261 §7, §18.3). Nothing is copied unless a header field is folded.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memchr2};

use crate::sip::header::decimal;
use crate::sip::message::{Field, HeaderName, Message, Method, Parts, StartLine};
use crate::span::run_length;

/// Octets from the start line to the empty line.
pub const MAX_HEAD: usize = 64 * 1024;
/// Header fields in one message.
pub const MAX_FIELDS: usize = 512;
/// Octets in one line.
pub const MAX_LINE: usize = 16 * 1024;

/// Why octets are no message, and what a sender could be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct WireError {
    /// The status of an answer.
    pub status: u16,
    /// Its reason phrase.
    pub reason: &'static str,
    /// What was understood, if it is a request that can be answered.
    pub partial: Option<Box<Message>>,
}

impl WireError {
    pub(super) const fn new(status: u16, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            partial: None,
        }
    }

    fn with(self, parts: Parts) -> Self {
        let message = Message::new(parts);
        let partial = message.is_request().then(|| Box::new(message));
        Self { partial, ..self }
    }
}

/// Reads a datagram, or one message that a stream was cut into. Octets behind the body's announced
/// end are dropped; without Content-Length the body is the rest (RFC 3261 §18.3).
pub fn parse(octets: Bytes) -> Result<Message, WireError> {
    let octets = skip_leading_line_ends(octets);
    let head_end = find_head_end(&octets).map_err(|error| with_unended_head(error, &octets))?;
    let mut parts = read_head(octets, head_end)?;
    let rest = parts.octets.slice(head_end..);
    match content_length(&parts) {
        Ok(None) => parts.body = rest,
        Ok(Some(length)) if length <= rest.len() => {
            parts.body = rest.slice(..length);
            parts.octets.truncate(head_end + length);
        }
        Ok(Some(_)) => {
            let short = WireError::new(400, "Body Shorter Than Content-Length");
            return Err(short.with(parts));
        }
        Err(error) => return Err(error.with(parts)),
    }
    Ok(Message::new(parts))
}

/// RFC 3261 §7.5: line ends before the start line are ignored.
fn skip_leading_line_ends(octets: Bytes) -> Bytes {
    if !matches!(octets.first(), Some(b'\r' | b'\n')) {
        return octets;
    }
    let start = octets
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    octets.slice(start..)
}

/// Where the body begins.
fn find_head_end(octets: &[u8]) -> Result<usize, WireError> {
    let most = octets.len().min(MAX_HEAD + 4);
    static END: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
    match END.find(&octets[..most]) {
        Some(at) => Ok(at + 4),
        None if octets.len() > MAX_HEAD => Err(WireError::new(513, "Message Too Large")),
        None => Err(WireError::new(400, "No End Of Header Fields")),
    }
}

/// A datagram cut off within its head, or a head that is too large, can be answered by what came of it.
pub(super) fn with_unended_head(error: WireError, octets: &[u8]) -> WireError {
    let most = octets.len().min(MAX_HEAD);
    match memchr::memmem::rfind(&octets[..most], b"\r\n") {
        Some(last) => {
            let ended = [&octets[..last], b"\r\n\r\n"].concat();
            with_head(error, ended.into())
        }
        None => error,
    }
}

/// A folded line continues the one before (RFC 3261 §7.3.1): its line end becomes blanks of the same
/// length, so that every range stays.
fn unfold(octets: Bytes, head_end: usize) -> Bytes {
    let head = &octets[..head_end];
    let is_fold =
        |at: usize| matches!(head.get(at + 1), Some(b' ' | b'\t')) && head[..at].ends_with(b"\r");
    let mut copy = octets.to_vec();
    for at in memchr_iter(b'\n', head).filter(|at| is_fold(*at)) {
        copy[at - 1..=at].copy_from_slice(b"  ");
    }
    copy.into()
}

/// The error with what a head tells of its sender, for a message whose body is not read.
pub(super) fn with_head(error: WireError, head: Bytes) -> WireError {
    let outcome = find_head_end(&head).and_then(|end| read_head(head, end));
    match outcome {
        Ok(parts) => error.with(parts),
        Err(worse) => WireError {
            partial: worse.partial,
            ..error
        },
    }
}

/// A fault does not end the reading: what is sound is needed to answer the rest.
fn read_head(octets: Bytes, head_end: usize) -> Result<Parts, WireError> {
    let (line_end, _) = next_line_end(&octets, 0, head_end).ok_or(MALFORMED_START)?;
    if is_folded(&octets, line_end, head_end) {
        return read_head(unfold(octets, head_end), head_end);
    }
    let start = read_start_line(&octets, line_end).or_else(|| broken_request(&octets, line_end));
    let (start, mut outcome) = start.ok_or(MALFORMED_START)?;
    let fields_at = line_end + 2;
    let mut parts = Parts::new(octets, head_end, start, fields_at);
    match read_fields(&mut parts, fields_at, head_end) {
        Reading::Done(read) => outcome = outcome.and(read),
        Reading::Folded => return read_head(unfold(parts.octets, head_end), head_end),
    }
    match outcome {
        Ok(()) => Ok(parts),
        Err(error) => Err(error.with(parts)),
    }
}

/// Whether the line that ends there goes on in the next one.
fn is_folded(octets: &[u8], line_end: usize, head_end: usize) -> bool {
    let next = octets.get(line_end + 2).copied();
    line_end + 2 < head_end && next.is_some_and(is_blank)
}

/// What came of reading the header fields.
enum Reading {
    Done(Result<(), WireError>),
    /// A line is folded, which is rare: the head is to be unfolded and read again.
    Folded,
}

/// Where the line ends, and whether a lone CR or LF stands in it.
#[inline]
fn next_line_end(octets: &[u8], from: usize, head_end: usize) -> Option<(usize, bool)> {
    let (mut at, mut is_torn) = (from, false);
    loop {
        let found = at + memchr2(b'\r', b'\n', octets.get(at..head_end)?)?;
        if octets[found] == b'\r' && octets.get(found + 1) == Some(&b'\n') {
            return Some((found, is_torn));
        }
        is_torn = true;
        at = found + 1;
    }
}

const MALFORMED_START: WireError = WireError::new(400, "Malformed Start Line");
const OTHER_VERSION: WireError = WireError::new(505, "Version Not Supported");

/// The start line as far as it is one, and what is wrong with it.
fn read_start_line(octets: &[u8], end: usize) -> Option<(StartLine, Result<(), WireError>)> {
    let line = octets.get(..end)?;
    let is_control = |byte: u8| byte < b' ' && byte != b'\t';
    // It is short: many octets at a time are quicker than a stop at the first one.
    if end > MAX_LINE || line.iter().fold(false, |any, byte| any | is_control(*byte)) {
        return None;
    }
    if line.len() > 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
        return read_status_line(line);
    }
    let method_end = memchr(b' ', line)?;
    let uri_end = method_end + 1 + memchr::memrchr(b' ', &line[method_end + 1..])?;
    let (method, uri) = (&line[..method_end], &line[method_end + 1..uri_end]);
    let version = &line[uri_end + 1..];
    let is_sip = version.len() > 4 && version[..4].eq_ignore_ascii_case(b"SIP/");
    let uri_is_whole =
        !uri.is_empty() && memchr2(b' ', b'\t', uri).is_none() && std::str::from_utf8(uri).is_ok();
    let is_method = !method.is_empty() && run_length(method, &TOKEN) == method.len();
    if !is_method || (!is_sip && is_like_response(line)) {
        return None;
    }
    let outcome = match version {
        _ if !uri_is_whole || !is_sip => Err(MALFORMED_START),
        _ => check_version(version),
    };
    let start = StartLine::Request {
        method: Method::parse(method),
        name: range(0, method_end),
        uri: range(method_end + 1, uri_end),
    };
    Some((start, outcome))
}

/// What a start line that cannot be read is answered as: a request, for nothing may answer a response (RFC 3261
/// §8.1.3.1), and what is like one may be one. Its method is its first word, if that may be one.
fn broken_request(octets: &[u8], end: usize) -> Option<(StartLine, Result<(), WireError>)> {
    let line = octets.get(..end)?;
    if line.is_empty() || is_like_response(line) {
        return None;
    }
    let word = run_length(line, &TOKEN);
    let start = StartLine::Request {
        method: Method::parse(&line[..word]),
        name: range(0, word),
        uri: range(word, word),
    };
    let fault = match line.len() > MAX_LINE {
        true => WireError::new(513, "Message Too Large"),
        false => MALFORMED_START,
    };
    Some((start, Err(fault)))
}

fn is_like_response(line: &[u8]) -> bool {
    let start = line.trim_ascii_start().get(..3);
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"SIP"))
}

fn check_version(version: &[u8]) -> Result<(), WireError> {
    if version.eq_ignore_ascii_case(b"SIP/2.0") {
        Ok(())
    } else {
        Err(OTHER_VERSION)
    }
}

fn read_status_line(line: &[u8]) -> Option<(StartLine, Result<(), WireError>)> {
    let version_end = memchr(b' ', line)?;
    let code = line.get(version_end + 1..version_end + 4)?;
    if !code.iter().all(u8::is_ascii_digit)
        || !matches!(line.get(version_end + 4), None | Some(b' '))
    {
        return None;
    }
    let status = code
        .iter()
        .fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    if !(100..700).contains(&status) {
        return None;
    }
    let start = StartLine::Response {
        status,
        reason: range((version_end + 5).min(line.len()), line.len()),
    };
    Some((start, check_version(&line[..version_end])))
}

fn read_fields(parts: &mut Parts, from: usize, head_end: usize) -> Reading {
    let Parts { octets, fields, .. } = parts;
    let mut outcome = Ok(());
    let mut at = from;
    while at + 2 < head_end {
        let Some((end, is_torn)) = next_line_end(octets, at, head_end) else {
            return Reading::Done(Err(WireError::new(400, "Malformed Header")));
        };
        if end == at {
            break;
        }
        if is_folded(octets, end, head_end) {
            return Reading::Folded;
        }
        if end - at > MAX_LINE || fields.len() >= MAX_FIELDS {
            return Reading::Done(outcome.and(Err(WireError::new(513, "Message Too Large"))));
        }
        match read_field(octets, at, end) {
            // A lone CR or LF would end the line for another parser. Any other control character may
            // stand behind a backslash in a quoted string (RFC 4475 §3.1.1.2).
            Some(field) if !is_torn => fields.push(field),
            _ => outcome = outcome.and(Err(WireError::new(400, "Malformed Header"))),
        }
        at = end + 2;
    }
    Reading::Done(outcome)
}

/// `name HCOLON value`; blanks before the colon are legal and do not make another name.
fn read_field(octets: &[u8], at: usize, end: usize) -> Option<Field> {
    let line = octets.get(at..end)?;
    let name_end = run_length(line, &TOKEN);
    let behind_name = &line[name_end..];
    let colon = name_end + behind_name.iter().position(|byte| !is_blank(*byte))?;
    if name_end == 0 || line[colon] != b':' {
        return None;
    }
    let value = &line[colon + 1..];
    let value_at = colon
        + 1
        + value
            .iter()
            .position(|byte| !is_blank(*byte))
            .unwrap_or(value.len());
    let value_end = line[value_at..].iter().rposition(|byte| !is_blank(*byte));
    let value_end = value_end.map_or(value_at, |last| value_at + last + 1);
    let id = HeaderName::parse(&line[..name_end]);
    let value = at + value_at..at + value_end;
    Some(Field::new(id, at, at + name_end, value, end + 2))
}

/// The one Content-Length; several that differ would let a message be cut in two ways.
fn content_length(parts: &Parts) -> Result<Option<usize>, WireError> {
    let mut length = None;
    for field in parts.fields.named(HeaderName::ContentLength) {
        let malformed = WireError::new(400, "Malformed Content-Length");
        let value = parts.slice(&field.value());
        let text = std::str::from_utf8(value).unwrap_or_default();
        let number: usize = decimal(text).ok_or(malformed)?;
        if length.is_some_and(|earlier| earlier != number) {
            return Err(WireError::new(400, "Several Content-Length"));
        }
        length = Some(number);
    }
    Ok(length)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 3261 §25.1 `token`.
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// The octets of a token.
pub(super) static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        table[byte] = it.is_ascii_alphanumeric()
            || matches!(
                it,
                b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
            );
        byte += 1;
    }
    table
};

/// Messages are bounded far below 4 GiB by the readers of both transports.
fn range(start: usize, end: usize) -> Range<u32> {
    start as u32..end as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, WireError> {
        parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_request_keeps_every_octet_and_its_order() {
        let text = "MESSAGE sip:bob@[2001:db8::1];gr=urn:uuid:1 SIP/2.0\r\nv: SIP/2.0/UDP h\r\nX-Odd :  a  \r\nl: 3\r\n\r\n\0\r\n";
        let message = read(text).expect("legal");
        assert_eq!(message.method(), Method::Message);
        assert_eq!(message.request_uri(), "sip:bob@[2001:db8::1];gr=urn:uuid:1");
        assert_eq!(message.body().as_ref(), b"\0\r\n");
        assert_eq!(message.bytes().as_ref(), text.as_bytes());
        assert_eq!(message.other_header("x-odd"), Some("a"));
    }

    #[test]
    fn an_unknown_method_is_a_request_all_the_same() {
        let message =
            read("!interesting-Method0123456789_*+`.%indeed'~ tel:+1-201 SIP/2.0\r\nf: x\r\n\r\n")
                .expect("legal");
        assert_eq!(message.method(), Method::Other);
        assert!(message.method_str().starts_with("!interesting"));
    }

    #[test]
    fn folded_fields_are_read_as_one_line() {
        let message =
            read("OPTIONS sip:a SIP/2.0\r\nSubject: one\r\n  two\r\nTo:\r\n\t<sip:x@y>\r\n\r\n")
                .expect("legal");
        assert_eq!(message.header(HeaderName::Subject), Some("one    two"));
        assert_eq!(message.header(HeaderName::To), Some("<sip:x@y>"));
    }

    #[test]
    fn octets_behind_the_body_are_dropped_and_missing_ones_refused() {
        let message =
            read("OPTIONS sip:a SIP/2.0\r\nContent-Length: 2\r\n\r\nabcd").expect("legal");
        assert_eq!(message.body().as_ref(), b"ab");
        let error =
            read("OPTIONS sip:a SIP/2.0\r\nContent-Length: 9\r\n\r\nabcd").expect_err("short");
        assert_eq!(error.status, 400);
        assert!(error.partial.is_some());
    }

    #[test]
    fn a_length_that_could_be_read_two_ways_is_refused() {
        for length in ["1\r\nl: 2", "-1", "99999999999", "1x", ""] {
            let text = format!("OPTIONS sip:a SIP/2.0\r\nContent-Length: {length}\r\n\r\nab");
            assert_eq!(read(&text).expect_err(length).status, 400, "{length}");
        }
    }

    #[test]
    fn another_version_is_named_in_the_answer() {
        assert_eq!(
            read("OPTIONS sip:a SIP/7.0\r\nTo: x\r\n\r\n")
                .expect_err("version")
                .status,
            505
        );
    }

    #[test]
    fn broken_start_lines_are_refused() {
        for line in [
            "OPTIONS",
            "OPTIONS sip:a",
            "OPTIONS  sip:a SIP/2.0",
            "OPTIONS sip:a  SIP/2.0",
            "OPTIONS <sip:a b> SIP/2.0",
            "SIP/2.0 99 Low",
            "SIP/2.0 4294967301 x",
        ] {
            assert!(read(&format!("{line}\r\nTo: x\r\n\r\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn a_fault_leaves_enough_to_answer_it() {
        let via = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
        for (start, field, status) in [
            ("OPTIONS sip:a b SIP/2.0", "To: x", 400),
            ("OPTIONS sip:a SIP/2.0  ", "To: x", 400),
            ("OPTIONS sip:a SIP/7.0", "To: x", 505),
            ("OPTIONS sip:a SIP/2.0", "No Colon", 400),
            ("OPTIONS sip:a SIP/2.0", "To: x\ny: z", 400),
            ("OPTIONS sip:a SIP/2.0", "To: x\ry: z", 400),
        ] {
            let error = read(&format!("{start}\r\n{field}\r\n{via}\r\n")).expect_err(start);
            assert_eq!(error.status, status, "{start}");
            let partial = error.partial.expect("a request");
            assert_eq!(partial.method(), Method::Options);
            assert!(partial.top_via().is_ok(), "{start} {field:?}");
        }
    }

    #[test]
    fn a_request_whose_start_line_is_no_such_line_can_be_answered() {
        let via = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
        let long = "x".repeat(MAX_LINE + 1);
        for (start, method, status) in [
            ("MESSAGE", Method::Message, 400),
            ("MESSAGE sip:bob@im.test", Method::Message, 400),
            ("MESSAGE\tsip:bob@im.test\tSIP/2.0", Method::Message, 400),
            ("ACK", Method::Ack, 400),
            ("<MESSAGE> sip:bob@im.test SIP/2.0", Method::Other, 400),
            (" MESSAGE sip:bob@im.test SIP/2.0", Method::Other, 400),
            ("MESSAGE sip:b\0b@im.test SIP/2.0", Method::Message, 400),
            ("\u{e4}", Method::Other, 400),
            (&long, Method::Other, 513),
        ] {
            let error = read(&format!("{start}\r\n{via}\r\n")).expect_err(start);
            assert_eq!(error.status, status, "{start}");
            let partial = error.partial.expect("a request");
            assert_eq!(partial.method(), method, "{start}");
            assert!(partial.top_via().is_ok(), "{start}");
        }
    }

    #[test]
    fn what_may_be_a_response_is_nothing_to_answer() {
        let via = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
        for start in [
            "SIP/2.0",
            "SIP/2.0 99 Low",
            "SIP/2.0 abc OK",
            "sip/2.0 20",
            "SIP 2.0 200 OK",
            "  SIP/2.0 200 OK",
        ] {
            let error = read(&format!("{start}\r\n{via}\r\n")).expect_err(start);
            assert_eq!(error.partial, None, "{start}");
        }
    }

    #[test]
    fn octets_that_are_no_text_do_not_spoil_the_message() {
        let octets = b"OPTIONS sip:a SIP/2.0\r\nSubject: \xe4\r\nTo: \"\\\0\" <sip:a@b>\r\n\r\n";
        let message = parse(Bytes::from_static(octets)).expect("legal");
        assert_eq!(message.header(HeaderName::Subject), None);
        assert_eq!(message.to().map(|to| to.uri), Ok("sip:a@b"));
        let raw = message.all_headers().next().map(|field| field.2);
        assert_eq!(raw, Some(b"\xe4".as_slice()));
    }

    #[test]
    fn too_many_and_too_long_fields_are_refused() {
        let many = "X: y\r\n".repeat(MAX_FIELDS + 1);
        let long = format!("X: {}\r\n", "y".repeat(MAX_LINE));
        let huge = "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"
            .repeat(MAX_HEAD / 60);
        for fields in [many, long, huge] {
            let error = read(&format!("OPTIONS sip:a SIP/2.0\r\n{fields}\r\n")).expect_err("big");
            assert_eq!(error.status, 513);
        }
    }

    #[test]
    fn a_response_keeps_its_reason() {
        let message = read("SIP/2.0 202 Taken In\r\nCSeq: 1 MESSAGE\r\n\r\n").expect("legal");
        assert_eq!(
            (message.status(), message.reason(), message.method()),
            (202, "Taken In", Method::Message)
        );
        assert_eq!(
            read("SIP/2.0 100 \r\nCSeq: 1 A\r\n\r\n")
                .expect("legal")
                .reason(),
            ""
        );
    }

    #[test]
    fn a_blank_before_the_colon_does_not_smuggle_a_header() {
        let message = read("OPTIONS sip:a SIP/2.0\r\nP-Asserted-Identity \t: <sip:x@y>\r\n\r\n")
            .expect("legal");
        assert_eq!(
            message.header(HeaderName::PAssertedIdentity),
            Some("<sip:x@y>")
        );
    }
}
