//! An MSRP endpoint (RFC 4975) over a real connection: one session, one connection, one thread.
//!
//! The thread answers what arrives as [`MsrpSession::answers_messages`] says and puts chunks
//! together. Next stop: [`super::msrp_sending`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::clock::{self, Instant};

use super::envelope::{Envelope, fresh};
use super::failure::Failure;
use super::inbox::Inbox;
use super::msrp_text::MsrpText;
use super::transcript::{Direction, Transcript};
use super::user_agent::PATIENCE;
use super::wire::{is_timeout, lock};

/// How often a waiting side looks whether the connection still stands.
const LOOK_UP: Duration = Duration::from_millis(50);

/// One end of a session before it has a connection: what its SDP offers.
pub struct MsrpEnd {
    name: String,
    transcript: Transcript,
    listener: TcpListener,
    path: String,
    answering: Answering,
}

impl MsrpEnd {
    /// Listens on a free loopback port.
    pub fn open(name: &str, transcript: &Transcript) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok(Self {
            name: name.to_owned(),
            transcript: transcript.clone(),
            listener,
            path: format!("msrp://{address}/{};tcp", fresh("s")),
            answering: Answering::Status(200),
        })
    }

    /// How its session answers SENDs from the first one on.
    pub fn answering(mut self, answering: Answering) -> Self {
        self.answering = answering;
        self
    }

    /// Its MSRP URI.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |local| local.port())
    }

    /// Connects to the first URI of the peer's path and binds the session with a bodiless SEND
    /// (RFC 6135 §4.2.1).
    pub fn connects(self, peer_path: &str) -> Result<MsrpSession, Failure> {
        let session = self.dials(peer_path)?;
        session.binds()?;
        Ok(session)
    }

    /// Connects, and says nothing yet.
    pub fn dials(self, peer_path: &str) -> Result<MsrpSession, Failure> {
        let address = path_address(peer_path)
            .ok_or_else(|| self.failure(&format!("\"{peer_path}\" names no address")))?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .map_err(|error| self.failure(&format!("could not connect to {address}: {error}")))?;
        self.run(stream, peer_path)
    }

    /// Waits for the peer to connect.
    pub fn accepts(self, peer_path: &str) -> Result<MsrpSession, Failure> {
        self.listener.set_nonblocking(true)?;
        let deadline = clock::now().instant + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return self.run(stream, peer_path),
                Err(_) if clock::now().instant < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return Err(self.failure("nobody connected to its MSRP path")),
            }
        }
    }

    fn run(&self, stream: TcpStream, peer_path: &str) -> Result<MsrpSession, Failure> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_UP))?;
        let state = Arc::new(SessionState {
            name: self.name.clone(),
            transcript: self.transcript.clone(),
            path: self.path.clone(),
            peer_path: peer_path.to_owned(),
            stream,
            responses: Inbox::new(),
            reports: Inbox::new(),
            messages: Inbox::new(),
            partial: Mutex::new(HashMap::new()),
            answering: Mutex::new(self.answering),
            closed: AtomicBool::new(false),
        });
        let reader = Arc::clone(&state);
        thread::spawn(move || reader.read());
        Ok(MsrpSession { state })
    }

    fn failure(&self, step: &str) -> Failure {
        Failure::new(format!("{}: {step}", self.name), &self.transcript)
    }
}

/// How a session answers SENDs with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// Each chunk with this status.
    Status(u16),
    /// So many whole messages with 200, then silence.
    Only(usize),
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

/// A session with its connection. Dropping it closes the connection.
pub struct MsrpSession {
    pub(super) state: Arc<SessionState>,
}

pub(super) struct SessionState {
    pub(super) name: String,
    pub(super) transcript: Transcript,
    pub(super) path: String,
    pub(super) peer_path: String,
    stream: TcpStream,
    pub(super) responses: Inbox<MsrpText>,
    pub(super) reports: Inbox<MsrpText>,
    messages: Inbox<ReceivedMessage>,
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

impl MsrpSession {
    /// How SENDs are answered from here on.
    pub fn answers_messages(&self, answering: Answering) {
        *lock(&self.state.answering) = answering;
    }

    /// The next whole message.
    pub fn expect_message(&self) -> Result<ReceivedMessage, Failure> {
        self.next_message(PATIENCE)
            .ok_or_else(|| self.failure("got no MSRP message"))
    }

    /// The next whole message, if one comes within `patience`.
    pub fn next_message(&self, patience: Duration) -> Option<ReceivedMessage> {
        self.state.messages.take(patience, |_| true)
    }

    /// The next whole message is an envelope around this text.
    pub fn expect_text(&self, text: &str) -> Result<Envelope, Failure> {
        let message = self.expect_message()?;
        let envelope = message
            .envelope()
            .ok_or_else(|| self.failure("got a message that is not message/cpim"))?;
        match envelope.content_text() == text {
            true => Ok(envelope),
            false => Err(self.failure(&format!(
                "expected \"{text}\" and got \"{}\"",
                envelope.content_text()
            ))),
        }
    }

    /// The peer closes the connection.
    pub fn expect_closed(&self) -> Result<(), Failure> {
        let deadline = clock::now().instant + PATIENCE;
        while !self.is_closed() {
            if clock::now().instant >= deadline {
                return Err(self.failure("the MSRP connection stayed open"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Relaxed)
    }

    /// Breaks the connection, as a lost network does.
    pub fn drops_connection(&self) {
        let _ = self.state.stream.shutdown(Shutdown::Both);
    }

    /// Its own MSRP URI.
    pub fn path(&self) -> &str {
        &self.state.path
    }

    /// The peer's path.
    pub fn peer_path(&self) -> &str {
        &self.state.peer_path
    }

    /// Sends octets as they are.
    pub fn sends_octets(&self, octets: &[u8]) -> Result<(), Failure> {
        self.state.transmit(octets)
    }

    /// The bodiless SEND that binds a connection; its answer is 200.
    pub fn binds(&self) -> Result<(), Failure> {
        let transaction = fresh("b");
        let octets = format!(
            "MSRP {transaction} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: {}\r\n\
             Byte-Range: 1-0/0\r\n-------{transaction}$\r\n",
            self.state.peer_path,
            self.state.path,
            fresh("m")
        );
        self.state.transmit(octets.as_bytes())?;
        self.expect_response(&transaction, 200)
    }

    /// The response to this transaction is this.
    pub fn expect_response(&self, transaction: &str, status: u16) -> Result<(), Failure> {
        let response = self
            .next_response(transaction)
            .ok_or_else(|| self.failure(&format!("got no response to {transaction}")))?;
        match response.status() == status {
            true => Ok(()),
            false => Err(self.failure(&format!(
                "expected {status} to {transaction} and got {}",
                response.status()
            ))),
        }
    }

    /// Waits no longer than the connection lasts.
    fn next_response(&self, transaction: &str) -> Option<MsrpText> {
        let deadline = clock::now().instant + PATIENCE;
        loop {
            let over = self.is_closed() || clock::now().instant >= deadline;
            let response = self
                .state
                .responses
                .take(LOOK_UP, |response| response.transaction() == transaction);
            if over || response.is_some() {
                return response;
            }
        }
    }

    pub(super) fn failure(&self, step: &str) -> Failure {
        Failure::new(
            format!("{}: {step}", self.state.name),
            &self.state.transcript,
        )
    }
}

impl Drop for MsrpSession {
    fn drop(&mut self) {
        self.drops_connection();
    }
}

impl SessionState {
    pub(super) fn transmit(&self, octets: &[u8]) -> Result<(), Failure> {
        self.transcript.record(&self.name, Direction::Sent, octets);
        (&self.stream).write_all(octets).map_err(|error| {
            let step = format!("{} could not send over MSRP: {error}", self.name);
            Failure::new(step, &self.transcript)
        })
    }

    fn read(&self) {
        let mut unread = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            match (&self.stream).read(&mut buffer) {
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
        let status = match (frame.body(), *lock(&self.answering)) {
            (None, _) => Some(200),
            (_, Answering::Status(status)) => Some(status),
            (_, Answering::Only(0)) => None,
            (_, Answering::Only(_)) => Some(200),
        };
        if let Some(status) = status {
            self.respond(frame, status);
        }
        let Some(body) = frame.body() else {
            return;
        };
        if let Some((data, chunks)) = self.put_together(frame, body) {
            self.complete(frame, data, chunks, status == Some(200));
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

    fn complete(&self, frame: &MsrpText, body: Vec<u8>, chunks: usize, confirmed: bool) {
        if confirmed && frame.header("Success-Report") == "yes" {
            self.report(frame, body.len());
        }
        if let Answering::Only(left) = &mut *lock(&self.answering) {
            *left = left.saturating_sub(1);
        }
        self.messages.push(ReceivedMessage {
            message_id: frame.header("Message-ID").to_owned(),
            content_type: frame.header("Content-Type").to_owned(),
            body,
            chunks,
            confirmed_at: confirmed.then(|| clock::now().instant),
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

/// The address in the first URI of a path.
fn path_address(path: &str) -> Option<SocketAddr> {
    let uri = path.split(' ').next()?.strip_prefix("msrp://")?;
    uri.split('/').next()?.parse().ok()
}
