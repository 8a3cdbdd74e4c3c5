//! Writes frames (RFC 4975 §7.1, §7.2).
//!
//! Every value that comes from outside this server is an identifier or a path that has been parsed, or
//! is cut at the first control character, so that nothing can smuggle a header field into a frame.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::frame::{ByteRange, Continuation, FailureReport, Method, RequestHead};
use super::hyphens::{self, HYPHENS};

/// What stands before the body of a SEND.
#[derive(Clone, Copy, Debug)]
pub struct SendHead<'a> {
    /// Transaction identifier; see [`collides`].
    pub transaction: &'a str,
    /// The peer's path.
    pub to_path: &'a str,
    /// Our URI.
    pub from_path: &'a str,
    /// The message, over all its chunks.
    pub message_id: &'a str,
    /// Which octets these are.
    pub byte_range: ByteRange,
    /// Whether we want a REPORT of success.
    pub success_report: bool,
    /// Which failures we want to hear of.
    pub failure_report: FailureReport,
    /// `None`: no body at all (RFC 4975 §7.1, bodiless requests).
    pub content_type: Option<&'a str>,
}

/// What a REPORT says (RFC 4975 §7.1.2).
#[derive(Clone, Copy, Debug)]
pub struct ReportHead<'a> {
    /// Transaction identifier.
    pub transaction: &'a str,
    /// The full path back to the sender.
    pub to_path: &'a str,
    /// Our URI.
    pub from_path: &'a str,
    /// The message it speaks of.
    pub message_id: &'a str,
    /// The octets it speaks of.
    pub byte_range: ByteRange,
    /// How it fared.
    pub status: u16,
}

/// Writes a SEND up to the first octet of its body. With a body, the body and [`write_end_line`] follow;
/// without one, only the end-line.
pub fn write_send_head(out: &mut BytesMut, head: &SendHead<'_>) {
    put_start(out, head.transaction, "SEND");
    put_field(out, "To-Path", head.to_path);
    put_field(out, "From-Path", head.from_path);
    put_field(out, "Message-ID", head.message_id);
    put_range(out, head.byte_range);
    if head.success_report {
        put_field(out, "Success-Report", "yes");
    }
    if head.failure_report != FailureReport::Yes {
        put_field(out, "Failure-Report", head.failure_report.as_str());
    }
    if let Some(content_type) = head.content_type {
        put_field(out, "Content-Type", content_type);
        out.put_slice(b"\r\n");
    }
}

/// Ends a request. After a body, the CRLF that belongs to the end-line is written too.
pub fn write_end_line(out: &mut BytesMut, transaction: &str, body: bool, flag: Continuation) {
    if body {
        out.put_slice(b"\r\n");
    }
    out.put_slice(HYPHENS);
    out.put_slice(transaction.as_bytes());
    out.put_u8(flag.flag());
    out.put_slice(b"\r\n");
}

/// Writes a REPORT; it has no body and gets no response.
pub fn write_report(out: &mut BytesMut, head: &ReportHead<'_>) {
    put_start(out, head.transaction, "REPORT");
    put_field(out, "To-Path", head.to_path);
    put_field(out, "From-Path", head.from_path);
    put_field(out, "Message-ID", head.message_id);
    put_range(out, head.byte_range);
    out.put_slice(b"Status: 000 ");
    put_status(out, head.status);
    out.put_slice(b"\r\n");
    write_end_line(out, head.transaction, false, Continuation::Last);
}

/// Writes a response to the previous hop `to` (RFC 4975 §7.2).
pub fn write_response(out: &mut BytesMut, transaction: &str, status: u16, to: &str, from: &str) {
    out.put_slice(b"MSRP ");
    out.put_slice(transaction.as_bytes());
    out.put_u8(b' ');
    put_status(out, status);
    out.put_slice(b"\r\n");
    put_field(out, "To-Path", to);
    put_field(out, "From-Path", from);
    write_end_line(out, transaction, false, Continuation::Last);
}

/// The response to a request that no session of ours will answer: 481 for an unknown session, 506 for
/// one bound elsewhere (RFC 4975 §5.4). `None` if the request forbids a response (§7.1.2, §7.1.4), or
/// has no usable From-Path to answer to.
pub fn refuse(request: &RequestHead, status: u16) -> Option<Bytes> {
    let answered = match request.method() {
        Method::Report => false,
        Method::Send => request.failure_report().answers(status),
        Method::Other => true,
    };
    let to = response_path(request)?;
    let from = request.to_path().split_ascii_whitespace().next()?;
    answered.then(|| {
        let mut out = BytesMut::with_capacity(256);
        write_response(&mut out, request.transaction(), status, to, from);
        out.freeze()
    })
}

/// Where a response goes: to a SEND the previous hop, to all else the full path (RFC 4975 §7.2).
pub fn response_path(request: &RequestHead) -> Option<&str> {
    match request.method() {
        Method::Send => request.from_path().split_ascii_whitespace().next(),
        _ => Some(request.from_path()).filter(|path| !path.is_empty()),
    }
}

/// Whether the end-line of `transaction` would be found inside `body`, whose pieces stand one behind the
/// other; then another transaction identifier has to be chosen (RFC 4975 §7.1).
pub fn collides(body: &[Bytes], transaction: &str) -> bool {
    // Of what stands across two pieces so many octets are in one of them at most.
    let reach = HYPHENS.len() + transaction.len() - 1;
    let mut seam: SmallVec<[u8; 2 * SEAM]> = SmallVec::new();
    body.iter().any(|piece| {
        let (begins, ends) = (piece.len().min(reach), piece.len().saturating_sub(reach));
        seam.extend_from_slice(&piece[..begins]);
        let has_end_line = |octets: &[u8]| hyphens::precede(octets, transaction.as_bytes());
        // Where one piece is all there is, no seam has been made yet.
        let found = has_end_line(piece) || (seam.len() > begins && has_end_line(&seam));
        if ends > 0 {
            seam.clear();
            seam.extend_from_slice(&piece[ends..]);
        } else {
            let old = seam.len().saturating_sub(reach);
            seam.drain(..old);
        }
        found
    })
}

/// Octets of the hyphens and of the longest transaction identifier.
const SEAM: usize = 7 + 32;

/// The comment of a status code; for people only.
pub const fn comment(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        408 => "Request Timeout",
        413 => "Message Too Large",
        415 => "Unsupported Media Type",
        423 => "Parameter Out of Bounds",
        481 => "Session Does Not Exist",
        501 => "Not Implemented",
        506 => "Session Already in Use",
        _ => "Failed",
    }
}

fn put_start(out: &mut BytesMut, transaction: &str, what: &str) {
    out.put_slice(b"MSRP ");
    out.put_slice(transaction.as_bytes());
    out.put_u8(b' ');
    out.put_slice(what.as_bytes());
    out.put_slice(b"\r\n");
}

fn put_field(out: &mut BytesMut, name: &str, value: &str) {
    let is_control = |octet: &u8| octet.is_ascii_control() && *octet != b'\t';
    let value = value.as_bytes();
    // All of it is looked at before where the first one stands: nearly always there is none.
    let has_one = value
        .iter()
        .fold(false, |has, octet| has | is_control(octet));
    let end = if has_one {
        value.iter().position(is_control)
    } else {
        None
    };
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(&value[..end.unwrap_or(value.len())]);
    out.put_slice(b"\r\n");
}

fn put_range(out: &mut BytesMut, range: ByteRange) {
    out.put_slice(b"Byte-Range: ");
    put_number(out, range.start);
    out.put_u8(b'-');
    put_or_unknown(out, range.end);
    out.put_u8(b'/');
    put_or_unknown(out, range.total);
    out.put_slice(b"\r\n");
}

fn put_or_unknown(out: &mut BytesMut, number: Option<u64>) {
    match number {
        Some(number) => put_number(out, number),
        None => out.put_u8(b'*'),
    }
}

fn put_number(out: &mut BytesMut, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut left) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            return out.put_slice(&digits[at..]);
        }
    }
}

/// A status code has three digits (RFC 4975 §9).
fn put_status(out: &mut BytesMut, status: u16) {
    let digits = [status / 100 % 10, status / 10 % 10, status % 10];
    out.put_slice(&digits.map(|digit| b'0' + digit as u8));
    out.put_u8(b' ');
    out.put_slice(comment(status).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_is_written_as_the_rfc_shows_it() {
        let mut out = BytesMut::new();
        let head = SendHead {
            transaction: "d93kswow",
            to_path: "msrp://bob.example.com:8888/9di4eae923wzd;tcp",
            from_path: "msrp://alicepc.example.com:7777/iau39soe2843z;tcp",
            message_id: "12339sdqwer",
            byte_range: ByteRange::parse("1-16/16").unwrap(),
            success_report: false,
            failure_report: FailureReport::Yes,
            content_type: Some("text/plain"),
        };
        write_send_head(&mut out, &head);
        out.put_slice(b"Hi, I'm Alice!\r\n");
        write_end_line(&mut out, "d93kswow", true, Continuation::Last);
        let expected = "MSRP d93kswow SEND\r\n\
            To-Path: msrp://bob.example.com:8888/9di4eae923wzd;tcp\r\n\
            From-Path: msrp://alicepc.example.com:7777/iau39soe2843z;tcp\r\n\
            Message-ID: 12339sdqwer\r\n\
            Byte-Range: 1-16/16\r\n\
            Content-Type: text/plain\r\n\r\n\
            Hi, I'm Alice!\r\n\r\n\
            -------d93kswow$\r\n";
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn a_range_is_written_as_it_is_displayed() {
        for number in [0, 1, 9, 10, 2_049, 99_999_999, u64::MAX] {
            for end in [None, Some(number)] {
                let (start, total) = (number, end);
                let range = ByteRange { start, end, total };
                let mut out = BytesMut::new();
                put_range(&mut out, range);
                assert_eq!(out, format!("Byte-Range: {range}\r\n"));
            }
        }
    }

    #[test]
    fn an_end_line_inside_the_body_is_noticed() {
        let collides = |body: &'static [u8]| collides(&[Bytes::from_static(body)], "abcd");
        assert!(collides(b"x\r\n-------abcd$\r\n"));
        assert!(collides(b"-------abcd"));
        assert!(!collides(b"abcd ------abcd"));
        assert!(!collides(b""));
    }

    #[test]
    fn an_end_line_across_pieces_of_the_body_is_noticed() {
        let body =
            Bytes::from_static(b"some text\r\n-------abcd$\r\nand more of it, so that it is long");
        let tail = body.len();
        for first in 0..=tail {
            for second in first..=tail {
                let pieces = [
                    body.slice(..first),
                    body.slice(first..second),
                    body.slice(second..),
                ];
                assert!(collides(&pieces, "abcd"), "{first} {second}");
                assert!(!collides(&pieces, "abce"));
            }
        }
        let single: Vec<Bytes> = (0..tail).map(|at| body.slice(at..=at)).collect();
        assert!(collides(&single, "abcd"));
    }

    #[test]
    fn a_value_cannot_add_a_header_field() {
        let mut out = BytesMut::new();
        put_field(&mut out, "Content-Type", "text/plain\r\nStatus: 000 200");
        assert_eq!(&out[..], b"Content-Type: text/plain\r\n");
    }
}
