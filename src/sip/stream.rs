//! Cuts a byte stream into SIP messages by Content-Length (RFC 3261 §18.3), and finds the keep-alives
//! between them (RFC 5626 §3.5.1).

use bytes::{Buf, Bytes, BytesMut};

use crate::sip::message::HeaderName;
use crate::sip::wire::{self, MAX_HEAD, WireError, is_token};

/// What the stream held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// One whole message.
    Message(Bytes),
    /// A double CRLF: the peer wants a single one back.
    KeepAlive,
}

/// The octets of a connection that are not a whole message yet.
#[derive(Debug)]
pub struct StreamFramer {
    buffer: BytesMut,
    max_body: usize,
    /// Up to here no end of the header fields was found.
    scanned: usize,
    /// How long the message is whose header fields have been read, so that they are read once, in however
    /// many pieces its body comes.
    awaited: Option<usize>,
}

impl StreamFramer {
    /// Bodies announced longer than `max_body` octets are refused before they are read.
    pub fn new(max_body: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max_body,
            scanned: 0,
            awaited: None,
        }
    }

    /// Adds what was read.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The buffer to read into; octets already in it must stay.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether a message has begun and is not whole.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next message or keep-alive. After an error nothing more can be read: where the next
    /// message begins is not known.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end where the stream only pauses"
    )]
    pub fn next(&mut self) -> Result<Option<Framed>, WireError> {
        if self.awaited.is_none() {
            if self.buffer.starts_with(b"\r\n\r\n") {
                self.buffer.advance(4);
                return Ok(Some(Framed::KeepAlive));
            }
            self.awaited = self.read_length()?;
        }
        match self.awaited {
            Some(length) if length <= self.buffer.len() => {
                self.scanned = 0;
                self.awaited = None;
                Ok(Some(Framed::Message(self.buffer.split_to(length).freeze())))
            }
            _ => Ok(None),
        }
    }

    /// The length of the message at the front, once its head is there.
    fn read_length(&mut self) -> Result<Option<usize>, WireError> {
        if !matches!(&self.buffer[..], b"\r" | b"\r\n" | b"\r\n\r") {
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
            }
        }
        // A head without an end in sight can be answered by what came of it.
        let head_end = self
            .find_head_end()
            .map_err(|error| wire::with_unended_head(error, &self.buffer))?;
        let Some(head_end) = head_end else {
            return Ok(None);
        };
        let body = self.announced_body(head_end).map_err(|error| {
            wire::with_head(error, Bytes::copy_from_slice(&self.buffer[..head_end]))
        })?;
        Ok(Some(head_end + body))
    }

    fn find_head_end(&mut self) -> Result<Option<usize>, WireError> {
        let from = self.scanned.saturating_sub(3).min(self.buffer.len());
        if let Some(at) = memchr::memmem::find(&self.buffer[from..], b"\r\n\r\n") {
            let end = from + at + 4;
            return if end > MAX_HEAD {
                Err(too_large())
            } else {
                Ok(Some(end))
            };
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() > MAX_HEAD {
            Err(too_large())
        } else {
            Ok(None)
        }
    }

    /// Content-Length, which a stream needs (RFC 3261 §18.3). Without one there is no body; a MESSAGE is one all the
    /// same, as is what names a type, and where it ends cannot be known.
    fn announced_body(&self, head_end: usize) -> Result<usize, WireError> {
        let head = &self.buffer[..head_end];
        let (mut length, mut has_body) = (None, head.starts_with(b"MESSAGE "));
        for line in Lines(head) {
            let value = match field_of(line) {
                Some((HeaderName::ContentLength, value)) => value,
                Some((HeaderName::ContentType, _)) => {
                    has_body = true;
                    continue;
                }
                _ => continue,
            };
            let text = std::str::from_utf8(value).unwrap_or_default().trim();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<usize> = if digits { text.parse().ok() } else { None };
            let number = number.ok_or(WireError::new(400, "Malformed Content-Length"))?;
            if length.is_some_and(|earlier| earlier != number) {
                return Err(WireError::new(400, "Several Content-Length"));
            }
            length = Some(number);
        }
        match length {
            Some(length) if length > self.max_body => {
                Err(WireError::new(413, "Request Entity Too Large"))
            }
            None if has_body => Err(WireError::new(400, "Content-Length Missing")),
            other => Ok(other.unwrap_or_default()),
        }
    }
}

fn too_large() -> WireError {
    WireError::new(513, "Message Too Large")
}

/// The name and value of a line, folded ones included.
fn field_of(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let is_name = name.iter().all(|byte| is_token(*byte));
    is_name.then(|| (HeaderName::parse(name), &line[colon + 1..]))
}

/// Logical lines: a line end before a blank does not end one.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let ends = memchr::memmem::find_iter(self.0, b"\r\n");
        let mut ends = ends.filter(|at| !matches!(self.0.get(at + 2), Some(b' ' | b'\t')));
        let end = ends.next().unwrap_or(self.0.len());
        drop(ends);
        let line = &self.0[..end];
        self.0 = self.0.get(end + 2..).unwrap_or_default();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"MESSAGE sip:a SIP/2.0\r\nl : \r\n 3\r\n\r\nabc";

    fn message(octets: &'static [u8]) -> Framed {
        Framed::Message(Bytes::from_static(octets))
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let mut framer = StreamFramer::new(100);
        for byte in ONE {
            assert_eq!(framer.next(), Ok(None));
            framer.push(&[*byte]);
        }
        assert_eq!(framer.next(), Ok(Some(message(ONE))));
        assert!(!framer.is_partial());
    }

    #[test]
    fn pipelined_messages_and_keep_alives_are_told_apart() {
        let mut framer = StreamFramer::new(100);
        framer.push(ONE);
        framer.push(b"\r\n\r\n");
        framer.push(b"\r\n");
        framer.push(ONE);
        assert_eq!(framer.next(), Ok(Some(message(ONE))));
        assert_eq!(framer.next(), Ok(Some(Framed::KeepAlive)));
        assert_eq!(framer.next(), Ok(Some(message(ONE))));
        assert_eq!(framer.next(), Ok(None));
    }

    #[test]
    fn half_a_keep_alive_waits_for_the_other() {
        let mut framer = StreamFramer::new(100);
        for octets in [&b"\r"[..], b"\n", b"\r"] {
            framer.push(octets);
            assert_eq!(framer.next(), Ok(None));
        }
        framer.push(b"\n");
        assert_eq!(framer.next(), Ok(Some(Framed::KeepAlive)));
    }

    #[test]
    fn an_announced_body_over_the_limit_is_refused_before_it_comes() {
        let mut framer = StreamFramer::new(100);
        framer.push(b"MESSAGE sip:a SIP/2.0\r\nVia: SIP/2.0/TCP h\r\nl: 101\r\n\r\n");
        let error = framer.next().expect_err("too long");
        assert_eq!(error.status, 413);
        let partial = error.partial.expect("enough to answer");
        assert!(partial.top_via().is_ok());
    }

    #[test]
    fn endless_header_fields_are_refused() {
        let mut framer = StreamFramer::new(100);
        framer.push(b"MESSAGE sip:a SIP/2.0\r\nX: ");
        framer.push(&vec![b'a'; MAX_HEAD]);
        assert_eq!(framer.next().map_err(|error| error.status), Err(513));
    }

    #[test]
    fn a_body_without_its_length_ends_the_stream_and_no_body_needs_none() {
        let mut framer = StreamFramer::new(100);
        framer.push(b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP h\r\n\r\n");
        assert!(matches!(framer.next(), Ok(Some(Framed::Message(_)))));
        for (method, line) in [("MESSAGE", ""), ("INFO", "c : text/plain\r\n")] {
            let head = format!("{method} sip:a SIP/2.0\r\nVia: SIP/2.0/TCP h\r\n{line}\r\nhello");
            let mut framer = StreamFramer::new(100);
            framer.push(head.as_bytes());
            let error = framer.next().expect_err("where it ends is not said");
            assert_eq!(error.status, 400, "{method}");
            assert_eq!(error.reason, "Content-Length Missing", "{method}");
            assert!(error.partial.is_some_and(|it| it.top_via().is_ok()));
        }
    }

    #[test]
    fn two_lengths_that_differ_end_the_stream() {
        let mut framer = StreamFramer::new(100);
        framer.push(b"MESSAGE sip:a SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(framer.next().map_err(|error| error.status), Err(400));
    }
}
