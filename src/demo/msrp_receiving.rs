//! What arrives at an MSRP session: answered as told, put together from its chunks (RFC 4975 §7).

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::{self, Instant};

use super::envelope::{Envelope, fresh};
use super::failure::Failure;
use super::inbox::Inbox;
use super::msrp_text::MsrpText;
use super::msrp_tls::MediaStream;
use super::transcript::{Direction, Transcript};
use super::wire::{is_timeout, lock};

/// How a session answers SENDs with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// Each chunk with this status.
    Status(u16),
    /// So many whole messages with 200, then silence.
    Only(usize),
    /// Each chunk with 200, after so long.
    After(Duration),
    /// So many whole messages with 200, the next one with this status, those behind it with 200 again.
    Except(usize, u16),
}

/// A message put together from its chunks.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// Of the MSRP headers, not of IMDN.
    pub message_id: String,
    /// Of the MSRP headers.
    pub content_type: String,
    /// To the last octet.
    pub body: Vec<u8>,
    /// In how many chunks it came.
    pub chunks: usize,
    /// When the last chunk was answered 200; `None` if it was not.
    pub confirmed_at: Option<Instant>,
}

impl ReceivedMessage {
    /// Its body as an envelope.
    pub fn envelope(&self) -> Option<Envelope> {
        Envelope::read(&self.body)
    }
}

pub(super) struct SessionState {
    pub(super) name: String,
    pub(super) transcript: Transcript,
    pub(super) path: String,
    pub(super) peer_path: String,
    stream: MediaStream,
    pub(super) responses: Inbox<MsrpText>,
    pub(super) reports: Inbox<MsrpText>,
    pub(super) messages: Inbox<ReceivedMessage>,
    partial: Mutex<HashMap<String, Partial>>,
    answering: Mutex<Answering>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Partial {
    data: Vec<u8>,
    /// Octet ranges that arrived, in any order.
    covered: Vec<(usize, usize)>,
    total: Option<usize>,
    chunks: usize,
}

impl SessionState {
    /// `paths` are its own and the peer's.
    pub(super) fn new(
        name: &str,
        transcript: &Transcript,
        paths: (&str, &str),
        stream: MediaStream,
        answering: Answering,
    ) -> Self {
        Self {
            name: name.to_owned(),
            transcript: transcript.clone(),
            path: paths.0.to_owned(),
            peer_path: paths.1.to_owned(),
            stream,
            responses: Inbox::new(),
            reports: Inbox::new(),
            messages: Inbox::new(),
            partial: Mutex::new(HashMap::new()),
            answering: Mutex::new(answering),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn answer_with(&self, answering: Answering) {
        *lock(&self.answering) = answering;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.stream.close();
    }

    pub(super) fn transmit(&self, octets: &[u8]) -> Result<(), Failure> {
        self.transcript.record(&self.name, Direction::Sent, octets);
        self.stream.write_all(octets).map_err(|error| {
            let step = format!("{} could not send over MSRP: {error}", self.name);
            Failure::new(step, &self.transcript)
        })
    }

    /// Reads until the connection ends.
    pub(super) fn read(&self) {
        let mut unread = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => unread.extend_from_slice(&buffer[..length]),
                Err(error) if is_timeout(&error) => continue,
                Err(_) => break,
            }
            while let Ok(Some(frame)) = MsrpText::take(&mut unread) {
                self.receive(frame);
            }
        }
        self.closed.store(true, Ordering::Relaxed);
    }

    fn receive(&self, frame: MsrpText) {
        self.transcript
            .record(&self.name, Direction::Received, frame.octets());
        if frame.is("SEND") {
            self.receive_send(&frame);
        } else if frame.is("REPORT") {
            self.reports.push(frame);
        } else if frame.status() > 0 {
            self.responses.push(frame);
        }
    }

    fn receive_send(&self, frame: &MsrpText) {
        let answering = *lock(&self.answering);
        let status = match (frame.body(), answering) {
            (None, _) => Some(200),
            (_, Answering::Status(status)) => Some(status),
            (_, Answering::Only(0)) => None,
            (_, Answering::Only(_)) => Some(200),
            (_, Answering::After(pause)) => {
                thread::sleep(pause);
                Some(200)
            }
            (_, Answering::Except(0, status)) => Some(status),
            (_, Answering::Except(..)) => Some(200),
        };
        // Before the peer can hear it: what follows from it is later.
        let now = clock::now().instant;
        if let Some(status) = status {
            self.respond(frame, status);
        }
        let Some(body) = frame.body() else {
            return;
        };
        if let Some((data, chunks)) = self.put_together(frame, body) {
            let confirmed_at = (status == Some(200)).then_some(now);
            self.complete(frame, data, chunks, confirmed_at);
        }
    }

    /// RFC 4975 §7.2; a sender that wants no responses gets none (§7.1.2).
    fn respond(&self, frame: &MsrpText, status: u16) {
        let wanted = match frame.header("Failure-Report") {
            "no" => false,
            "partial" => status != 200,
            _ => true,
        };
        let sender = frame.header("From-Path").split(' ').next().unwrap_or("");
        let transaction = frame.transaction();
        let octets = format!(
            "MSRP {transaction} {status} {}\r\nTo-Path: {sender}\r\nFrom-Path: {}\r\n\
             -------{transaction}$\r\n",
            if status == 200 { "OK" } else { "Refused" },
            self.path
        );
        if wanted {
            let _ = self.transmit(octets.as_bytes());
        }
    }

    fn put_together(&self, frame: &MsrpText, body: &[u8]) -> Option<(Vec<u8>, usize)> {
        let mut all = lock(&self.partial);
        let id = frame.header("Message-ID");
        if frame.flag() == '#' {
            all.remove(id);
            return None;
        }
        let partial = all.entry(id.to_owned()).or_default();
        partial.add(frame, body);
        if !partial.is_whole() {
            return None;
        }
        all.remove(id).map(|whole| (whole.data, whole.chunks))
    }

    fn complete(
        &self,
        frame: &MsrpText,
        body: Vec<u8>,
        chunks: usize,
        confirmed_at: Option<Instant>,
    ) {
        if confirmed_at.is_some() && frame.header("Success-Report") == "yes" {
            self.report(frame, body.len());
        }
        match &mut *lock(&self.answering) {
            Answering::Only(left) => *left = left.saturating_sub(1),
            now @ Answering::Except(0, _) => *now = Answering::Status(200),
            Answering::Except(left, _) => *left -= 1,
            Answering::Status(_) | Answering::After(_) => {}
        }
        self.messages.push(ReceivedMessage {
            message_id: frame.header("Message-ID").to_owned(),
            content_type: frame.header("Content-Type").to_owned(),
            body,
            chunks,
            confirmed_at,
        });
    }

    /// RFC 4975 §7.1.2: for the whole message, along the path it came.
    fn report(&self, frame: &MsrpText, length: usize) {
        let transaction = fresh("r");
        let octets = format!(
            "MSRP {transaction} REPORT\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: {}\r\n\
             Byte-Range: 1-{length}/{length}\r\nStatus: 000 200 OK\r\n-------{transaction}$\r\n",
            frame.header("From-Path"),
            self.path,
            frame.header("Message-ID"),
        );
        let _ = self.transmit(octets.as_bytes());
    }
}

impl Partial {
    fn add(&mut self, frame: &MsrpText, body: &[u8]) {
        let start = frame.offset();
        let end = start + body.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(body);
        self.covered.push((start, end));
        self.chunks += 1;
        self.total = self.total.or(frame.total());
        if frame.flag() == '$' {
            self.total = self.total.or(Some(end));
        }
    }

    fn is_whole(&mut self) -> bool {
        self.covered.sort_unstable();
        let reached = self.covered.iter().fold(0, |reached, (start, end)| {
            if *start <= reached {
                reached.max(*end)
            } else {
                reached
            }
        });
        self.total == Some(reached)
    }
}
