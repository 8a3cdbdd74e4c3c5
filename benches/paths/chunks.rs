//! An MSRP session that receives: chunks off the wire, each answered.

use restante::clock::Instant;
use restante::msrp::event::SessionEvent;
use restante::msrp::incoming::IncomingLimits;
use restante::msrp::outgoing::OutgoingLimits;
use restante::msrp::reader::{FrameReader, Limits};
use restante::msrp::session::{Session, SessionConfig};
use restante::msrp::uri::{MsrpPath, MsrpUri};

const ALICE: &str = "msrp://192.0.2.9:7777/0.alice;tcp";
const BOB: &str = "msrp://192.0.2.1:2855/0.bob;tcp";
/// What is read from a connection at once.
const READ: usize = 64 * 1024;

/// A message of `length` octets in chunks of `chunk`, as it comes off the wire.
pub fn message(name: &str, length: usize, chunk: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(length * 2);
    for start in (0..length).step_by(chunk) {
        let end = (start + chunk).min(length);
        let flag = if end == length { '$' } else { '+' };
        let head = format!(
            "MSRP t{start:08x} SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n\
             Message-ID: {name}\r\nByte-Range: {}-{end}/{length}\r\n\
             Content-Type: text/plain\r\n\r\n",
            start + 1
        );
        all.extend_from_slice(head.as_bytes());
        all.resize(all.len() + end - start, b'x');
        all.extend_from_slice(format!("\r\n-------t{start:08x}{flag}\r\n").as_bytes());
    }
    all
}

/// How many frame events octets are cut into.
pub fn cut(octets: &[u8]) -> usize {
    let mut reader = FrameReader::new(Limits::default());
    reader.push(octets);
    std::iter::from_fn(|| reader.next().expect("legal")).count()
}

/// Our end.
pub struct Receiver {
    session: Session<u8>,
    reader: FrameReader,
}

impl Receiver {
    /// Before the first octet.
    pub fn new() -> Self {
        let config = SessionConfig {
            local: MsrpUri::parse(BOB).expect("legal"),
            remote: MsrpPath::parse(ALICE).expect("legal"),
            accept_types: vec!["text/plain".into()],
            incoming: IncomingLimits::default(),
            outgoing: OutgoingLimits::default(),
        };
        Self {
            session: Session::new(config),
            reader: FrameReader::new(Limits::default()),
        }
    }

    /// Takes whole messages; says how many chunks were answered.
    pub fn take(&mut self, octets: &[u8]) -> usize {
        let mut answered = 0;
        for piece in octets.chunks(READ) {
            self.reader.push(piece);
            while let Some(event) = self.reader.next().expect("legal") {
                self.session.handle_frame(1, event);
                answered += self.answer();
            }
        }
        answered
    }

    fn answer(&mut self) -> usize {
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::ChunkDone { chunk, .. } => self.session.answer(chunk, 200),
                SessionEvent::MessageDone { message, .. } => self.session.settle(message, 200),
                _ => {}
            }
        }
        let mut answered = 0;
        while self.session.poll_transmit().is_some() {
            self.session.handle_written(1, 1, Instant::default());
            answered += 1;
        }
        answered
    }
}
