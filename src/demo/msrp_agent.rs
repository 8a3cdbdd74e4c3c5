//! An MSRP endpoint (RFC 4975) over a real connection: one session, one connection, one thread.
//!
//! The thread answers what arrives as [`MsrpSession::answers_messages`] says and puts chunks
//! together. Next stop: [`super::msrp_sending`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::clock;

use super::envelope::{Envelope, fresh};
use super::failure::Failure;
use super::msrp_receiving::{Answering, ReceivedMessage, SessionState};
use super::msrp_text::MsrpText;
use super::msrp_tls::{MediaStream, MediaTls};
use super::transcript::Transcript;
use super::user_agent::PATIENCE;

/// How often a waiting side looks whether the connection still stands.
const LOOK_UP: Duration = Duration::from_millis(50);

/// One end of a session before it has a connection: what its SDP offers.
pub struct MsrpEnd {
    name: String,
    transcript: Transcript,
    listener: TcpListener,
    path: String,
    answering: Answering,
    tls: Option<Arc<MediaTls>>,
    /// The fingerprint that the peer told.
    expected: String,
}

impl MsrpEnd {
    /// Listens on a free loopback port.
    pub fn open(name: &str, transcript: &Transcript) -> Result<Self, Failure> {
        Self::open_at(Ipv4Addr::LOCALHOST.into(), name, transcript)
    }

    /// Listens on a free port of this address.
    pub fn open_at(ip: IpAddr, name: &str, transcript: &Transcript) -> Result<Self, Failure> {
        let listener = TcpListener::bind((ip, 0))?;
        let address = listener.local_addr()?;
        Ok(Self {
            name: name.to_owned(),
            transcript: transcript.clone(),
            listener,
            path: format!("msrp://{address}/{};tcp", fresh("s")),
            answering: Answering::Status(200),
            tls: None,
            expected: String::new(),
        })
    }

    /// Its session goes over TLS.
    pub fn over_tls(mut self, tls: Option<Arc<MediaTls>>) -> Self {
        if tls.is_some() {
            self.path = self.path.replacen("msrp:", "msrps:", 1);
        }
        self.tls = tls;
        self
    }

    /// Its certificate, if its session goes over TLS.
    pub fn tls(&self) -> Option<&MediaTls> {
        self.tls.as_deref()
    }

    /// The peer told this fingerprint.
    pub fn expecting(mut self, fingerprint: &str) -> Self {
        self.expected = fingerprint.to_owned();
        self
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

    /// The address it listens on, as `c=` has it.
    pub fn connection_address(&self) -> String {
        match self.listener.local_addr().map(|local| local.ip()) {
            Ok(IpAddr::V6(ip)) => format!("IP6 {ip}"),
            Ok(IpAddr::V4(ip)) => format!("IP4 {ip}"),
            Err(_) => "IP4 0.0.0.0".to_owned(),
        }
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
        self.run(stream, peer_path, true)
    }

    /// Waits for the peer to connect.
    pub fn accepts(self, peer_path: &str) -> Result<MsrpSession, Failure> {
        self.listener.set_nonblocking(true)?;
        let deadline = clock::now().instant + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return self.run(stream, peer_path, false),
                Err(_) if clock::now().instant < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return Err(self.failure("nobody connected to its MSRP path")),
            }
        }
    }

    fn run(
        &self,
        stream: TcpStream,
        peer_path: &str,
        connects: bool,
    ) -> Result<MsrpSession, Failure> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            Some(tls) => MediaStream::secure(stream, tls, connects, &self.expected)?,
            None => MediaStream::plain(stream),
        };
        stream.tcp().set_read_timeout(Some(LOOK_UP))?;
        let state = Arc::new(SessionState::new(
            &self.name,
            &self.transcript,
            (&self.path, peer_path),
            stream,
            self.answering,
        ));
        let reader = Arc::clone(&state);
        thread::spawn(move || reader.read());
        Ok(MsrpSession { state })
    }

    fn failure(&self, step: &str) -> Failure {
        Failure::new(format!("{}: {step}", self.name), &self.transcript)
    }
}

/// A session with its connection. Dropping it closes the connection.
pub struct MsrpSession {
    pub(super) state: Arc<SessionState>,
}

impl MsrpSession {
    /// How SENDs are answered from here on.
    pub fn answers_messages(&self, answering: Answering) {
        self.state.answer_with(answering);
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
        self.state.is_closed()
    }

    /// Breaks the connection, as a lost network does.
    pub fn drops_connection(&self) {
        self.state.close();
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

    /// What a transaction was answered by the time that `later` was, if it was.
    pub fn status_of(&self, transaction: &str, later: &str) -> Option<u16> {
        let _ = self.next_response(later);
        let of_it = |response: &MsrpText| response.transaction() == transaction;
        let response = self.state.responses.take(LOOK_UP, of_it);
        response.map(|response| response.status())
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

/// The address in the first URI of a path, looked up if it is a name.
fn path_address(path: &str) -> Option<SocketAddr> {
    let first = path.split(' ').next()?;
    let uri = first
        .strip_prefix("msrps://")
        .or(first.strip_prefix("msrp://"))?;
    uri.split('/').next()?.to_socket_addrs().ok()?.next()
}
