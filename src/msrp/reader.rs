//! Cuts a byte stream into frames (RFC 4975 §5.1, §7.3.1).
//!
//! A frame ends where its own transaction identifier says so, not after a stated length: the reader
//! scans for CRLF, seven hyphens, the identifier, a flag and CRLF, in whatever pieces they arrive.
//! Data is handed on as it comes, so a chunk of any size passes in constant memory; at most a head,
//! or the beginnings of an end-line, wait inside.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use memchr::memchr;

use super::field::parse_status_code;
use super::frame::{Continuation, FrameEvent, Head, Method, RequestHead, ResponseHead};
use super::hyphens;
use super::uri::is_ident;

/// Bounds on what a peer can make us hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Octets of one line of a head.
    pub line: usize,
    /// Header fields of one frame.
    pub fields: usize,
    /// Octets of a whole head; at most 65,535.
    pub head: usize,
    /// Octets of the body of a request that is not a SEND (RFC 4975 §7.1).
    pub other_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 4096,
            fields: 64,
            head: 16 * 1024,
            other_body: 10_240,
        }
    }
}

/// The stream is not MSRP, or over a bound: where the next frame begins is unknown, so the connection
/// has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not `MSRP tid METHOD` and not `MSRP tid code`.
    #[error("malformed start line")]
    StartLine,
    /// Not `name: value`, or not ended by CRLF.
    #[error("malformed header field")]
    Field,
    /// MSRP is UTF-8 (RFC 4975 §9).
    #[error("not UTF-8")]
    NotUtf8,
    /// A line, a head or the number of header fields is over its bound.
    #[error("head too large")]
    HeadTooLarge,
    /// A request other than SEND with more than 10,240 octets of body.
    #[error("body of a non-SEND request too large")]
    BodyTooLarge,
    /// Responses have none (RFC 4975 §9).
    #[error("a response with a body")]
    ResponseBody,
}

/// CRLF, seven hyphens and the longest transaction identifier.
const NEEDLE: usize = 2 + 7 + 32;

/// The end-line of the frame being read, without flag.
#[derive(Clone, Copy, Debug)]
struct EndLine {
    octets: [u8; NEEDLE],
    length: usize,
}

impl EndLine {
    fn new(transaction: &[u8]) -> Self {
        let mut octets = [b'-'; NEEDLE];
        octets[..2].copy_from_slice(b"\r\n");
        // `is_ident` holds, so there are at most 32 octets.
        octets[9..9 + transaction.len()].copy_from_slice(transaction);
        let length = 9 + transaction.len();
        Self { octets, length }
    }

    fn with_crlf(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    fn line(&self) -> &[u8] {
        &self.octets[2..self.length]
    }
}

#[derive(Debug)]
enum State {
    /// Reading start line and header fields.
    Head,
    /// Reading data; `fresh` until the first octet has been looked at.
    Body {
        end: EndLine,
        fresh: bool,
        left: Option<usize>,
    },
    /// A fault was found: nothing more comes out.
    Failed(FrameError),
}

/// A stream cut into [`FrameEvent`]s.
#[derive(Debug)]
pub struct FrameReader {
    limits: Limits,
    buffer: BytesMut,
    state: State,
    /// Lines of the unfinished head, as positions in `buffer`, CRLF left out.
    lines: Vec<Range<u16>>,
    /// What the first of them says.
    start: Start,
    /// How far the unfinished head has been scanned for line ends.
    scanned: usize,
    ready: VecDeque<FrameEvent>,
}

impl FrameReader {
    /// A reader at the start of a connection.
    pub fn new(limits: Limits) -> Self {
        let head = limits.head.min(usize::from(u16::MAX));
        Self {
            limits: Limits { head, ..limits },
            buffer: BytesMut::new(),
            state: State::Head,
            lines: Vec::new(),
            start: Start::default(),
            scanned: 0,
            ready: VecDeque::with_capacity(2),
        }
    }

    /// Adds what was read, by copying.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// Where a socket can be read into without a copy. Octets may only be added at the end.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Octets that wait for more.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next piece, or `None` until more is pushed. To be called until `None`; after an error it
    /// returns the same error for ever.
    #[expect(clippy::should_implement_trait, reason = "it can fail and go on later")]
    pub fn next(&mut self) -> Result<Option<FrameEvent>, FrameError> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(Some(event));
        }
        let outcome = match self.state {
            State::Head => self.read_head(),
            State::Body { end, fresh, left } => self.read_body(end, fresh, left),
            State::Failed(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.state = State::Failed(error);
            self.buffer.clear();
        }
        outcome.map(|()| self.ready.pop_front())
    }

    fn read_head(&mut self) -> Result<(), FrameError> {
        loop {
            let from = self
                .lines
                .last()
                .map_or(0, |line| usize::from(line.end) + 2);
            let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(feed) = memchr(b'\n', unscanned) else {
                self.scanned = self.buffer.len();
                return self.check_size(from, self.buffer.len());
            };
            let next = self.scanned + feed + 1;
            self.check_size(from, next)?;
            self.scanned = next;
            let line = self.buffer.get(from..next).unwrap_or_default();
            let line = line.strip_suffix(b"\r\n").ok_or(FrameError::Field)?;
            if self.lines.is_empty() {
                self.start = Start::read(line).ok_or(FrameError::StartLine)?;
            } else if let Some(flag) = self.end_of_head(line) {
                return self.finish_head(next, Some(flag));
            } else if line.is_empty() {
                return self.finish_head(next, None);
            }
            // `check_size` keeps positions under 64 KiB.
            self.lines.push(from as u16..(next - 2) as u16);
            if self.lines.len() > self.limits.fields + 1 {
                return Err(FrameError::HeadTooLarge);
            }
        }
    }

    fn check_size(&self, line_start: usize, end: usize) -> Result<(), FrameError> {
        let line = end.saturating_sub(line_start);
        if line > self.limits.line || end > self.limits.head {
            return Err(FrameError::HeadTooLarge);
        }
        Ok(())
    }

    /// The flag, if `line` is the end-line of the head being read.
    fn end_of_head(&self, line: &[u8]) -> Option<Continuation> {
        let rest = line.strip_prefix(b"-------")?;
        let transaction = self.buffer.get(self.start.transaction())?;
        match rest.strip_prefix(transaction)? {
            [flag] => Continuation::from_flag(*flag),
            _ => None,
        }
    }

    /// The head is `..next`; with a flag the frame is over, without one a body follows.
    fn finish_head(&mut self, next: usize, flag: Option<Continuation>) -> Result<(), FrameError> {
        let octets = self.buffer.split_to(next).freeze();
        let lines = std::mem::take(&mut self.lines);
        self.scanned = 0;
        let start = self.start;
        let end = EndLine::new(octets.get(start.transaction()).unwrap_or_default());
        let text = ByteString::try_from(octets).map_err(|_| FrameError::NotUtf8)?;
        let mut lines_left = lines.iter();
        let start_line = lines_left.next().ok_or(FrameError::StartLine)?;
        let transaction = Start::PLACE..start.end;
        let what = start.end + 1..start_line.end;
        let mut head = Head::new(text, transaction, what);
        for line in lines_left {
            if !head.add_field(line.clone()) {
                return Err(FrameError::Field);
            }
        }
        // Keeps its allocation for the next head.
        self.lines = lines;
        self.lines.clear();
        match (start.status, flag) {
            (Some(_), None) => Err(FrameError::ResponseBody),
            (Some(status), Some(_)) => {
                let response = ResponseHead::new(head, status);
                self.ready.push_back(FrameEvent::Response(response));
                Ok(())
            }
            (None, flag) => {
                self.begin_request(RequestHead::new(head, flag.is_none()), flag, end);
                Ok(())
            }
        }
    }

    fn begin_request(&mut self, head: RequestHead, flag: Option<Continuation>, end: EndLine) {
        let left = (head.method() != Method::Send).then_some(self.limits.other_body);
        self.ready.push_back(FrameEvent::Request(head));
        match flag {
            Some(flag) => self.ready.push_back(FrameEvent::End(flag)),
            None => {
                let fresh = true;
                self.state = State::Body { end, fresh, left };
            }
        }
    }

    fn read_body(
        &mut self,
        end: EndLine,
        fresh: bool,
        left: Option<usize>,
    ) -> Result<(), FrameError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        // Some senders of an empty body leave out the CRLF that belongs to the end-line.
        let bare = end.line();
        if fresh && let Some(found) = end_line_at(&self.buffer, bare) {
            return self.cut(0, found, bare.len(), left);
        }
        let (data, found) = find_end(&self.buffer, end.with_crlf());
        self.state = State::Body {
            end,
            fresh: fresh && data == 0,
            left,
        };
        self.cut(data, found, end.length, left)
    }

    /// Emits `data` octets and, if `found` is complete, the end that follows them.
    fn cut(
        &mut self,
        data: usize,
        found: Found,
        marker: usize,
        left: Option<usize>,
    ) -> Result<(), FrameError> {
        if data > 0 {
            let octets: Bytes = self.buffer.split_to(data).freeze();
            if let (Some(left), State::Body { left: state, .. }) = (left, &mut self.state) {
                let rest = left.checked_sub(data).ok_or(FrameError::BodyTooLarge)?;
                *state = Some(rest);
            }
            self.ready.push_back(FrameEvent::Data(octets));
        }
        if let Found::Complete(flag) = found {
            self.buffer.advance(marker + 3);
            self.state = State::Head;
            self.ready.push_back(FrameEvent::End(flag));
        }
        Ok(())
    }
}

/// What stands where an end-line may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// All of it, with this flag.
    Complete(Continuation),
    /// A beginning of it, up to the end of what has arrived.
    Partial,
}

/// Whether `octets` begins with `marker`, a flag and CRLF, as far as it goes.
fn end_line_at(octets: &[u8], marker: &[u8]) -> Option<Found> {
    let shared = octets.len().min(marker.len());
    if octets.get(..shared) != marker.get(..shared) {
        return None;
    }
    match octets.get(marker.len()..).unwrap_or_default() {
        [] => Some(Found::Partial),
        [flag] | [flag, b'\r'] => Continuation::from_flag(*flag).map(|_| Found::Partial),
        [flag, b'\r', b'\n', ..] => Continuation::from_flag(*flag).map(Found::Complete),
        _ => None,
    }
}

/// How many octets are certainly data, and what follows them.
fn find_end(octets: &[u8], marker: &[u8]) -> (usize, Found) {
    let mut from = 0;
    while let Some(offset) = hyphens::find_after_line_end(octets.get(from..).unwrap_or_default()) {
        let at = from + offset;
        if let Some(found) = end_line_at(octets.get(at..).unwrap_or_default(), marker) {
            return (at, found);
        }
        from = at + 1;
    }
    // The marker has one CR, its first octet, so a split marker begins at the last CR.
    let tail = octets
        .len()
        .saturating_sub(marker.len().saturating_sub(1))
        .max(from);
    let rest = octets.get(tail..).unwrap_or_default();
    let split = memchr::memrchr(b'\r', rest)
        .filter(|at| marker.starts_with(rest.get(*at..).unwrap_or_default()));
    let data = split.map_or(octets.len(), |at| tail + at);
    (data, Found::Partial)
}

/// `MSRP tid METHOD` or `MSRP tid code [comment]`, cut.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    /// The code of a response.
    status: Option<u16>,
    /// Where the transaction identifier ends.
    end: u16,
}

impl Start {
    /// Where the transaction identifier begins: behind `MSRP `.
    const PLACE: u16 = 5;

    fn read(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"MSRP ")?;
        let blank = memchr(b' ', rest)?;
        let what = rest.get(blank + 1..)?;
        if !is_ident(rest.get(..blank)?) {
            return None;
        }
        // `is_ident` holds, so there are at most 32 octets.
        let end = Self::PLACE + blank as u16;
        let code = what
            .get(..3)
            .and_then(|code| std::str::from_utf8(code).ok());
        if let Some(status) = code.and_then(parse_status_code) {
            let ended = matches!(what.get(3), None | Some(b' '));
            let status = Some(status);
            return ended.then_some(Self { status, end });
        }
        let method = !what.is_empty() && what.iter().all(u8::is_ascii_uppercase);
        method.then_some(Self { status: None, end })
    }

    fn transaction(self) -> Range<usize> {
        usize::from(Self::PLACE)..usize::from(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::frame::{ByteRange, FieldName, shard_of};
    use proptest::prelude::*;

    const SAMPLES: &str = "MSRP k2Vb9sQ0wE7x SEND\r\n\
        To-Path: msrp://192.0.2.10:2855/3.9sKd83hdTr02bXq7;tcp\r\n\
        From-Path: msrp://198.51.100.20:9/jR4m9Yt0LwPz6cVa;tcp\r\n\
        Message-ID: bnd4Rz81KqTa\r\n\
        Byte-Range: 1-0/0\r\n\
        -------k2Vb9sQ0wE7x$\r\n\
        MSRP k2Vb9sQ0wE7x 200 OK\r\n\
        To-Path: msrp://198.51.100.20:9/jR4m9Yt0LwPz6cVa;tcp\r\n\
        From-Path: msrp://192.0.2.10:2855/9sKd83hdTr02bXq7;tcp\r\n\
        -------k2Vb9sQ0wE7x$\r\n\
        MSRP c1Fz8Hj5Wd0m SEND\r\n\
        To-Path: msrp://198.51.100.20:9/jR4m9Yt0LwPz6cVa;tcp\r\n\
        From-Path: msrp://192.0.2.10:2855/9sKd83hdTr02bXq7;tcp\r\n\
        Message-ID: rp02Bq3Mv9Ls\r\n\
        Byte-Range: 1-*/297\r\n\
        Content-Type: message/cpim\r\n\
        \r\n\
        From: <sip:alice@im.example>\r\n\
        -------c1Fz8Hj5Wd0n$\r\n\
        -------c1Fz8Hj5Wd0m \r\n\r\n-\r\n\
        -------c1Fz8Hj5Wd0m+\r\n";
    const DATA: &str = "From: <sip:alice@im.example>\r\n\
        -------c1Fz8Hj5Wd0n$\r\n\
        -------c1Fz8Hj5Wd0m \r\n\r\n-";

    /// What came out, with data joined.
    fn drain(reader: &mut FrameReader, told: &mut Vec<String>) -> Result<(), FrameError> {
        while let Some(event) = reader.next()? {
            match event {
                FrameEvent::Request(head) => told.push(format!("{head:?}")),
                FrameEvent::Response(head) => told.push(format!("{head:?}")),
                FrameEvent::End(flag) => told.push(format!("{flag:?}")),
                FrameEvent::Data(data) => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    match told.last_mut().and_then(|last| last.strip_prefix('=')) {
                        Some(before) => {
                            let joined = format!("={before}{text}");
                            *told.last_mut().unwrap() = joined;
                        }
                        None => told.push(format!("={text}")),
                    }
                }
            }
        }
        Ok(())
    }

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, FrameError> {
        let mut reader = FrameReader::new(Limits::default());
        let mut told = Vec::new();
        for piece in pieces {
            reader.push(piece);
            drain(&mut reader, &mut told)?;
        }
        assert_eq!(reader.buffered(), 0);
        Ok(told)
    }

    fn expected() -> Vec<String> {
        vec![
            "RequestHead(k2Vb9sQ0wE7x SEND)".into(),
            "Last".into(),
            "ResponseHead(k2Vb9sQ0wE7x 200)".into(),
            "RequestHead(c1Fz8Hj5Wd0m SEND)".into(),
            format!("={DATA}"),
            "More".into(),
        ]
    }

    #[test]
    fn the_samples_are_read_at_once() {
        assert_eq!(read(&[SAMPLES.as_bytes()]).unwrap(), expected());
    }

    #[test]
    fn frames_split_at_every_octet_are_read_alike() {
        let octets = SAMPLES.as_bytes();
        for cut in 0..octets.len() {
            let (one, other) = octets.split_at(cut);
            assert_eq!(read(&[one, other]).unwrap(), expected(), "cut at {cut}");
        }
        let single: Vec<&[u8]> = octets.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), expected());
    }

    #[test]
    fn every_field_of_a_head_is_found() {
        let mut reader = FrameReader::new(Limits::default());
        reader.push(
            b"MSRP abcd SEND\r\nto-path: msrp://h:1/7.s;tcp\r\nFrom-Path:msrp://p:1/t;tcp\r\n\
            Message-ID: m123\r\nX-Other: a: b\r\nByte-Range: 3-4/9\r\nSuccess-Report: yes\r\n\
            Failure-Report: partial\r\nContent-Type: a/b\r\n\r\nxy\r\n-------abcd#\r\n",
        );
        let event = reader.next().unwrap().unwrap();
        assert_eq!(shard_of(&event), Some(7));
        let FrameEvent::Request(head) = event else {
            panic!("a request");
        };
        assert!(head.has_body());
        assert_eq!(head.to_path(), "msrp://h:1/7.s;tcp");
        assert_eq!(head.from_path(), "msrp://p:1/t;tcp");
        let fields = head.send().unwrap();
        assert_eq!(fields.message_id, Some("m123"));
        assert_eq!(fields.byte_range, ByteRange::parse("3-4/9"));
        assert!(fields.success_report);
        assert_eq!(fields.failure_report.as_str(), "partial");
        assert_eq!(fields.content_type, Some("a/b"));
        assert!(head.fields().any(|field| field == ("X-Other", "a: b")));
        assert_eq!(head.field(FieldName::Status), None);
    }

    #[test]
    fn faults_a_session_can_answer_are_kept_in_the_head() {
        let fault = |fields: &str| {
            let mut reader = FrameReader::new(Limits::default());
            reader.push(format!("MSRP abcd SEND\r\n{fields}-------abcd$\r\n").as_bytes());
            match reader.next().unwrap() {
                Some(FrameEvent::Request(head)) => head.send().map(|_| ()).unwrap_err().0,
                other => panic!("{other:?}"),
            }
        };
        let paths = "To-Path: a\r\nFrom-Path: b\r\n";
        assert_eq!(
            fault("From-Path: b\r\nTo-Path: a\r\n"),
            "To-Path and From-Path"
        );
        assert_eq!(
            fault(&format!("{paths}To-Path: a\r\n")),
            "To-Path and From-Path"
        );
        assert_eq!(
            fault("To-Path: \r\nFrom-Path: b\r\n"),
            "To-Path and From-Path"
        );
        assert_eq!(
            fault("To-Path: a\r\nFrom-Path: \r\n"),
            "To-Path and From-Path"
        );
        assert_eq!(fault(&format!("{paths}Message-ID: x y\r\n")), "Message-ID");
        assert_eq!(
            fault(&format!("{paths}Byte-Range: 0-1/2\r\n")),
            "Byte-Range"
        );
        assert_eq!(
            fault(&format!("{paths}Success-Report: maybe\r\n")),
            "Success-Report"
        );
        assert_eq!(
            fault(&format!("{paths}Failure-Report: -\r\n")),
            "Failure-Report"
        );
        let twice = format!("{paths}Byte-Range: 1-1/2\r\nByte-Range: 1-1/2\r\n");
        assert_eq!(fault(&twice), "repeated header field");
    }

    #[test]
    fn a_body_of_nothing_is_told_from_no_body() {
        let frame = |rest: &str| format!("MSRP abcd SEND\r\nTo-Path: a\r\nFrom-Path: b\r\n{rest}");
        for (rest, body) in [
            ("-------abcd$\r\n", false),
            ("Content-Type: a/b\r\n\r\n\r\n-------abcd$\r\n", true),
            // Without the CRLF that belongs to the end-line, as some clients write it.
            ("Content-Type: a/b\r\n\r\n-------abcd$\r\n", true),
        ] {
            let frame = frame(rest);
            for cut in 0..frame.len() {
                let mut reader = FrameReader::new(Limits::default());
                let mut events = Vec::new();
                for piece in [&frame.as_bytes()[..cut], &frame.as_bytes()[cut..]] {
                    reader.push(piece);
                    while let Some(event) = reader.next().unwrap() {
                        events.push(event);
                    }
                }
                let [
                    FrameEvent::Request(head),
                    FrameEvent::End(Continuation::Last),
                ] = &events[..]
                else {
                    panic!("{events:?}");
                };
                assert_eq!(head.has_body(), body);
            }
        }
    }

    #[test]
    fn what_is_not_msrp_closes_the_connection() {
        let error = |octets: &[u8]| read(&[octets]).unwrap_err();
        for start in [
            "GET / HTTP/1.1\r\n",
            "MSRP abc SEND\r\n",
            "MSRP abcd\r\n",
            "MSRP abcd send\r\n",
            "MSRP abcd 2000\r\n",
            "MSRP abcd  SEND\r\n",
            "\r\n",
        ] {
            assert_eq!(error(start.as_bytes()), FrameError::StartLine, "{start:?}");
        }
        assert_eq!(error(b"MSRP abcd SEND\nTo-Path: a\r\n"), FrameError::Field);
        assert_eq!(
            error(b"MSRP abcd SEND\r\nno colon\r\n\r\n"),
            FrameError::Field
        );
        assert_eq!(
            error(b"MSRP abcd SEND\r\nTo-Path: \xff\r\n\r\n"),
            FrameError::NotUtf8
        );
        assert_eq!(
            error(b"MSRP abcd 200 OK\r\nTo-Path: a\r\n\r\nbody"),
            FrameError::ResponseBody
        );
    }

    #[test]
    fn heads_are_bounded() {
        let error = |octets: &[u8]| {
            let mut reader = FrameReader::new(Limits::default());
            reader.push(octets);
            let error = reader.next().unwrap_err();
            assert_eq!(reader.buffered(), 0);
            assert_eq!(reader.next().unwrap_err(), error);
            error
        };
        assert_eq!(error(&[b'M'; 5000]), FrameError::HeadTooLarge);
        let mut many = b"MSRP abcd SEND\r\n".to_vec();
        many.extend_from_slice(&b"A: b\r\n".repeat(65));
        assert_eq!(error(&many), FrameError::HeadTooLarge);
        let mut long = b"MSRP abcd SEND\r\n".to_vec();
        long.extend_from_slice(
            &[b"A: ".as_slice(), &[b'b'; 4000], b"\r\n"]
                .concat()
                .repeat(5),
        );
        assert_eq!(error(&long), FrameError::HeadTooLarge);
    }

    /// RFC 4975 §7.1
    #[test]
    fn only_a_send_may_have_a_large_body() {
        let frame = |method: &str| {
            let body = "x".repeat(10_241);
            format!("MSRP abcd {method}\r\nTo-Path: a\r\n\r\n{body}\r\n-------abcd$\r\n")
        };
        assert!(read(&[frame("SEND").as_bytes()]).is_ok());
        let report = read(&[frame("REPORT").as_bytes()]);
        assert_eq!(report, Err(FrameError::BodyTooLarge));
        let pieces = frame("REPORT");
        let pieces: Vec<&[u8]> = pieces.as_bytes().chunks(1000).collect();
        assert_eq!(read(&pieces), Err(FrameError::BodyTooLarge));
    }

    #[test]
    fn a_chunk_of_a_hundred_megabytes_passes_in_constant_memory() {
        let mut reader = FrameReader::new(Limits::default());
        reader.push(b"MSRP abcd SEND\r\nTo-Path: a\r\nFrom-Path: b\r\n\r\n");
        let piece = vec![b'\r'; 64 * 1024];
        let (mut octets, mut ended) = (0, false);
        for round in 0..=1600 {
            reader.push(if round == 1600 {
                b"\r\n-------abcd$\r\n"
            } else {
                &piece
            });
            while let Some(event) = reader.next().unwrap() {
                match event {
                    FrameEvent::Data(data) => octets += data.len(),
                    FrameEvent::End(_) => ended = true,
                    _ => {}
                }
            }
            assert!(reader.buffered() <= NEEDLE + 3);
        }
        assert!(ended);
        assert_eq!(octets, 1600 * 64 * 1024);
    }

    proptest! {
        #[test]
        fn any_stream_reads_alike_however_it_is_cut(
            stream in "(MSRP abcd (SEND|200)\r\n|To-Path: x\r\n|\r\n|-------abcd[$+#x]|-------abc|-|x|\r|\n){0,30}",
            cuts in proptest::collection::vec(0usize..400, 0..6),
        ) {
            let octets = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(octets.len())).collect();
            cuts.sort_unstable();
            cuts.push(octets.len());
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            let mut reader = FrameReader::new(Limits::default());
            reader.push(octets);
            let one = drain(&mut reader, &mut whole);
            let mut reader = FrameReader::new(Limits::default());
            let (mut from, mut other) = (0, Ok(()));
            for cut in cuts {
                reader.push(&octets[from..cut]);
                other = drain(&mut reader, &mut pieces);
                from = cut;
            }
            prop_assert_eq!(one, other);
            if one.is_ok() {
                prop_assert_eq!(whole, pieces);
            }
        }

        #[test]
        fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::new(Limits::default());
            reader.push(&octets);
            let _ = drain(&mut reader, &mut Vec::new());
        }

        #[test]
        fn a_damaged_stream_never_panics(at in 0usize..2000, octet: u8) {
            let mut octets = SAMPLES.as_bytes().to_vec();
            let length = octets.len();
            octets[at % length] = octet;
            let mut reader = FrameReader::new(Limits::default());
            reader.push(&octets);
            let _ = drain(&mut reader, &mut Vec::new());
        }
    }
}
