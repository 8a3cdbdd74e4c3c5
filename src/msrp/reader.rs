//! Cuts a byte stream into frames (RFC 4975 §5.1, §7.3.1).
//!
//! A frame ends where its own transaction identifier says so, not after a stated length: the reader
//! scans for CRLF, seven hyphens, the identifier, a flag and CRLF, in whatever pieces they arrive.
//! Data is handed on as it comes, so a chunk of any size passes in constant memory; at most a head,
//! or the beginnings of an end-line, wait inside.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem};

use super::frame::{
    Continuation, FrameEvent, Head, Method, RequestHead, ResponseHead, parse_status_code,
};
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
                check_start(line)?;
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
        let start = self.lines.first()?;
        let start = self
            .buffer
            .get(usize::from(start.start)..usize::from(start.end))?;
        let (_, transaction, _) = split_start(start)?;
        let rest = line.strip_prefix(b"-------")?;
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
        let text = std::str::from_utf8(&octets).map_err(|_| FrameError::NotUtf8)?;
        let mut lines_left = lines.iter();
        let start_line = lines_left.next().ok_or(FrameError::StartLine)?;
        let start = text
            .get(..usize::from(start_line.end))
            .and_then(|line| split_start(line.as_bytes()))
            .ok_or(FrameError::StartLine)?;
        let (code, transaction, what) = start;
        let end = EndLine::new(transaction);
        // "MSRP " is five octets, the blank after the identifier one more.
        let transaction = 5..5 + transaction.len() as u16;
        let what = transaction.end + 1..transaction.end + 1 + what.len() as u16;
        let mut head = Head::new(octets.clone(), transaction, what);
        for line in lines_left {
            if !head.add_field(line.clone()) {
                return Err(FrameError::Field);
            }
        }
        // Keeps its allocation for the next head.
        self.lines = lines;
        self.lines.clear();
        match (code, flag) {
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
    while let Some(offset) = memmem::find(octets.get(from..).unwrap_or_default(), marker) {
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

/// Cuts `MSRP tid METHOD` or `MSRP tid code [comment]`: the code of a response, the transaction
/// identifier, and what follows it.
fn split_start(line: &[u8]) -> Option<(Option<u16>, &[u8], &[u8])> {
    let rest = line.strip_prefix(b"MSRP ")?;
    let blank = memchr(b' ', rest)?;
    let transaction = rest.get(..blank)?;
    let what = rest.get(blank + 1..)?;
    if !is_ident(transaction) {
        return None;
    }
    let code = what
        .get(..3)
        .and_then(|code| std::str::from_utf8(code).ok());
    if let Some(status) = code.and_then(parse_status_code) {
        let ended = matches!(what.get(3), None | Some(b' '));
        return ended.then_some((Some(status), transaction, what));
    }
    let method = !what.is_empty() && what.iter().all(u8::is_ascii_uppercase);
    method.then_some((None, transaction, what))
}

fn check_start(line: &[u8]) -> Result<(), FrameError> {
    split_start(line).map(|_| ()).ok_or(FrameError::StartLine)
}
