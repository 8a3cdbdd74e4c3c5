//! A SIP user agent that talks to the server over real sockets, as a phone would.
//!
//! A thread reads; it answers by itself what a phone answers without asking its user (OPTIONS,
//! BYE, CANCEL, repeated requests) and keeps the rest until the conversation asks for it. So a
//! test is told in order: `alice.sends_message("bob", "hello")?.expect_status(202)?`.
//! Next stops: [`super::exchange`] for what was sent, [`super::call`] for sessions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::draft::{self, Draft};
use super::envelope::{Disposition, Envelope, fresh};
use super::exchange::{IncomingRequest, SentRequest};
use super::failure::Failure;
use super::inbox::Inbox;
use super::sip_text::SipText;
use super::transcript::{Direction, Transcript};
use super::wire::{Receiver, Route, Transport, Wire, lock};

/// How long an agent waits for what it expects.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The session feature tag of OMA CPM.
pub const SESSION_TAG: &str =
    "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session\"";
/// The pager-mode feature tag of OMA CPM.
pub const PAGER_TAG: &str = "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"";

/// What a device says of itself when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// An RCS phone: the CPM session tag and an instance.
    Rcs,
    /// An RCS-e phone: only `+g.oma.sip-im`.
    RcsE,
    /// A plain SIP phone: no feature tags.
    Plain,
}

/// What the agent does with a MESSAGE before anybody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Answers with this status.
    Answer(u16),
    /// Leaves it unanswered; the conversation may answer it later.
    StaySilent,
}

/// Who an agent is and whom it talks to.
#[derive(Clone)]
pub struct Settings {
    /// The user part of its identity.
    pub user: String,
    /// The domain of its identity.
    pub domain: String,
    /// For Digest; `None` never answers a challenge.
    pub password: Option<String>,
    /// By what it speaks.
    pub transport: Transport,
    /// What its contact says.
    pub profile: Profile,
    /// The server, or in tests without one the other agent.
    pub server: SocketAddr,
    /// Where everything is written down.
    pub transcript: Transcript,
}

/// One device of one user.
pub struct UserAgent {
    pub(super) line: Arc<LineState>,
    pub(super) settings: Settings,
    registration: String,
    instance: String,
    cseq: AtomicU32,
}

/// What the reading thread and the conversation share.
pub(super) struct LineState {
    pub(super) name: String,
    pub(super) transcript: Transcript,
    pub(super) requests: Inbox<(SipText, Route)>,
    pub(super) responses: Inbox<SipText>,
    pub(super) tag: String,
    /// Answers given, by transaction: a repeated request is answered identically.
    answers: Mutex<HashMap<String, Option<Vec<u8>>>>,
    /// INVITEs without a final answer, by transaction: a CANCEL ends them.
    ringing: Mutex<HashMap<String, (SipText, Route)>>,
    /// ACKs sent, by Call-ID and CSeq: a repeated final response is acknowledged again.
    acks: Mutex<HashMap<String, Vec<u8>>>,
    pub(super) reaction: Mutex<Reaction>,
    wire: Mutex<Option<Arc<Wire>>>,
}

impl UserAgent {
    /// An agent with its sockets open; it has not registered.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let line = Arc::new(LineState {
            name: settings.user.clone(),
            transcript: settings.transcript.clone(),
            requests: Inbox::new(),
            responses: Inbox::new(),
            tag: fresh("t"),
            answers: Mutex::new(HashMap::new()),
            ringing: Mutex::new(HashMap::new()),
            acks: Mutex::new(HashMap::new()),
            reaction: Mutex::new(Reaction::Answer(200)),
            wire: Mutex::new(None),
        });
        let reader = Arc::downgrade(&line);
        let receiver: Receiver = Arc::new(move |route, octets| {
            if let Some(line) = reader.upgrade() {
                line.receive(route, octets);
            }
        });
        let wire = Wire::open(settings.transport, settings.server, receiver)?;
        *lock(&line.wire) = Some(Arc::new(wire));
        Ok(Self {
            line,
            settings,
            registration: fresh("reg-"),
            instance: format!("<urn:uuid:{}>", uuid_text()),
            cseq: AtomicU32::new(1),
        })
    }

    /// Its address of record.
    pub fn uri(&self) -> String {
        self.uri_of(&self.settings.user)
    }

    /// The address of record of `user` in its domain; a whole URI stays as it is.
    pub fn uri_of(&self, user: &str) -> String {
        match user.contains(':') {
            true => user.to_owned(),
            false => format!("sip:{user}@{}", self.settings.domain),
        }
    }

    /// Where its sockets listen.
    pub fn address(&self) -> SocketAddr {
        self.wire().local()
    }

    /// The URI at which it can be reached directly.
    pub fn contact_uri(&self) -> String {
        let transport = match self.settings.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        format!("sip:{}@{}{transport}", self.settings.user, self.address())
    }

    /// Sends requests to another address from here on.
    pub fn use_server(&self, server: SocketAddr) {
        self.wire().use_server(server);
    }

    /// Breaks the TCP stream to the server.
    pub fn drops_connection(&self) {
        self.wire().drop_stream();
    }

    /// What it does with each MESSAGE from here on.
    pub fn reacts_to_messages(&self, reaction: Reaction) {
        *lock(&self.line.reaction) = reaction;
    }

    /// Registers its contact for an hour.
    pub fn registers(&self) -> Result<SipText, Failure> {
        self.registers_for(3600)
    }

    /// Registers its contact for so many seconds; 0 takes it away.
    pub fn registers_for(&self, seconds: u32) -> Result<SipText, Failure> {
        let contact = format!("{};expires={seconds}", self.contact());
        self.sends_register(&contact)?.expect_status(200)
    }

    /// Takes its contact away.
    pub fn unregisters(&self) -> Result<SipText, Failure> {
        self.registers_for(0)
    }

    /// Sends a REGISTER with this Contact value; an empty one only asks.
    pub fn sends_register(&self, contact: &str) -> Result<SentRequest<'_>, Failure> {
        let mut draft = Draft::new("REGISTER", &format!("sip:{}", self.settings.domain))
            .to_value(&format!("<{}>", self.uri()))
            .call_id(&self.registration)
            .header("Supported", "path, outbound");
        if !contact.is_empty() {
            draft = draft.header("Contact", contact);
        }
        self.sends(draft)
    }

    /// Its Contact value with the feature tags of its profile.
    pub fn contact(&self) -> String {
        let uri = self.contact_uri();
        let instance = &self.instance;
        match self.settings.profile {
            Profile::Rcs => format!("<{uri}>;+sip.instance=\"{instance}\";{SESSION_TAG}"),
            Profile::RcsE => format!("<{uri}>;+sip.instance=\"{instance}\";+g.oma.sip-im"),
            Profile::Plain => format!("<{uri}>"),
        }
    }

    /// Sends a text in pager mode.
    pub fn sends_message(&self, to: &str, text: &str) -> Result<SentRequest<'_>, Failure> {
        self.sends_envelope(to, &self.envelope(to, text))
    }

    /// An envelope from this user to another around a text.
    pub fn envelope(&self, to: &str, text: &str) -> Envelope {
        Envelope::text(&self.uri(), &self.uri_of(to), text)
    }

    /// Sends an envelope in pager mode.
    pub fn sends_envelope(
        &self,
        to: &str,
        envelope: &Envelope,
    ) -> Result<SentRequest<'_>, Failure> {
        self.sends_body(to, "message/cpim", &envelope.to_octets())
    }

    /// Sends any body in pager mode.
    pub fn sends_body(
        &self,
        to: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<SentRequest<'_>, Failure> {
        let draft = Draft::new("MESSAGE", &self.uri_of(to))
            .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
            .header("Conversation-ID", &self.conversation_with(to))
            .header("Contribution-ID", &fresh("contr-"))
            .body(content_type, body);
        self.sends(draft)
    }

    /// The Conversation-ID of its pager messages to this user.
    pub fn conversation_with(&self, to: &str) -> String {
        let peer = to.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        format!("{}-{peer}", self.registration)
    }

    /// Notifies the author of `message` of a disposition, by a MESSAGE of its own.
    pub fn notifies(
        &self,
        message: &Envelope,
        disposition: Disposition,
    ) -> Result<SipText, Failure> {
        let notification = message.notification(disposition);
        let author = super::sip_text::address(&notification.to).to_owned();
        self.sends_envelope(&author, &notification)?.expect_2xx()
    }

    /// Sends any request.
    pub fn sends(&self, draft: Draft) -> Result<SentRequest<'_>, Failure> {
        SentRequest::send(self, draft)
    }

    /// Sends octets as they are.
    pub fn sends_octets(&self, octets: &[u8]) -> Result<(), Failure> {
        self.line.transmit(octets)
    }

    /// Sends octets as they are and waits for an answer to them: one with their Call-ID.
    pub fn answer_to_octets(&self, octets: &[u8]) -> Result<SipText, Failure> {
        let sent = SipText::read(octets).ok_or_else(|| Failure::plain("no header section"))?;
        self.sends_octets(octets)?;
        self.line
            .responses
            .take(PATIENCE, |answer| {
                answer.header("Call-ID") == sent.header("Call-ID")
            })
            .ok_or_else(|| self.failure(format!("{} got no answer", self.line.name)))
    }

    /// A whole round trip through the server: what it sent before has arrived after this.
    pub fn asks_options(&self) -> Result<SipText, Failure> {
        let uri = format!("sip:{}", self.settings.domain);
        self.sends(Draft::new("OPTIONS", &uri))?.expect_status(200)
    }

    /// The next request of this method.
    pub fn expect_request(&self, method: &str) -> Result<IncomingRequest<'_>, Failure> {
        self.expect_request_within(method, PATIENCE)
    }

    /// The next request of this method, waiting so long for it.
    pub fn expect_request_within(
        &self,
        method: &str,
        patience: Duration,
    ) -> Result<IncomingRequest<'_>, Failure> {
        self.line
            .requests
            .take(patience, |(request, _)| request.method() == Some(method))
            .map(|(text, route)| IncomingRequest::new(self, text, route))
            .ok_or_else(|| self.failure(format!("{} got no {method}", self.line.name)))
    }

    /// The next MESSAGE; it was answered as the reaction says.
    pub fn expect_message(&self) -> Result<IncomingRequest<'_>, Failure> {
        self.expect_request("MESSAGE")
    }

    /// The next MESSAGE wraps this text.
    pub fn expect_text(&self, text: &str) -> Result<Envelope, Failure> {
        let envelope = self.expect_message()?.envelope()?;
        match envelope.content_text() == text {
            true => Ok(envelope),
            false => Err(self.failure(format!(
                "{} expected \"{text}\" and got \"{}\"",
                self.line.name,
                envelope.content_text()
            ))),
        }
    }

    /// The next MESSAGE notifies this status of the message called `message_id`.
    pub fn expect_notification(&self, status: &str, message_id: &str) -> Result<Envelope, Failure> {
        let envelope = self.expect_message()?.envelope()?;
        match envelope.notifies(status, message_id) {
            true => Ok(envelope),
            false => Err(self.failure(format!(
                "{} expected \"{status}\" of {message_id} and got \"{}\"",
                self.line.name,
                envelope.content_text()
            ))),
        }
    }

    /// Nothing of this method comes. A round trip to the server is followed by a short wait, since
    /// what comes by another way than the round trip may arrive a little after it.
    pub fn expect_no(&self, method: &str) -> Result<(), Failure> {
        self.asks_options()?;
        let arrived = self.line.requests.take(super::QUIET, |(request, _)| {
            request.method() == Some(method)
        });
        match arrived {
            None => Ok(()),
            Some((request, _)) => Err(self.failure(format!(
                "{} expected no {method} and got {}",
                self.line.name,
                request.start_line()
            ))),
        }
    }

    /// A failure that carries the conversation so far.
    pub fn failure(&self, step: impl Into<String>) -> Failure {
        Failure::new(step, &self.line.transcript)
    }

    pub(super) fn next_cseq(&self) -> u32 {
        self.cseq.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn wire(&self) -> Arc<Wire> {
        self.line
            .wire()
            .expect("the wire lives as long as its agent")
    }
}

impl Drop for UserAgent {
    fn drop(&mut self) {
        *lock(&self.line.wire) = None;
    }
}

impl LineState {
    pub(super) fn wire(&self) -> Option<Arc<Wire>> {
        lock(&self.wire).clone()
    }

    /// Sends a request to the server.
    pub(super) fn transmit(&self, octets: &[u8]) -> Result<(), Failure> {
        self.transcript.record(&self.name, Direction::Sent, octets);
        let Some(wire) = self.wire() else {
            return Ok(());
        };
        wire.send(octets).map_err(|error| {
            let step = format!("{} could not send: {error}", self.name);
            Failure::new(step, &self.transcript)
        })
    }

    /// Answers a request; provisional answers are not repeated.
    pub(super) fn answer(&self, request: &SipText, route: &Route, octets: Vec<u8>) {
        self.transcript.record(&self.name, Direction::Sent, &octets);
        if let Some(wire) = self.wire() {
            let _ = wire.send_back(route, &octets);
        }
        if !octets.starts_with(b"SIP/2.0 1") {
            lock(&self.ringing).remove(&transaction(request));
            lock(&self.answers).insert(transaction(request), Some(octets));
        }
    }

    /// Remembers the ACK of a final response, for when that is repeated.
    pub(super) fn remember_ack(&self, response: &SipText, ack: &[u8]) {
        lock(&self.acks).insert(acknowledged(response), ack.to_vec());
    }

    fn receive(&self, route: Route, octets: &[u8]) {
        let Some(message) = SipText::read(octets) else {
            return;
        };
        self.transcript
            .record(&self.name, Direction::Received, octets);
        match message.method() {
            None => self.receive_response(message),
            Some("ACK") => self.requests.push((message, route)),
            Some(_) => self.receive_request(message, route),
        }
    }

    fn receive_response(&self, response: SipText) {
        if response.cseq_method() == "INVITE" && response.status() >= 200 {
            let ack = lock(&self.acks).get(&acknowledged(&response)).cloned();
            if let Some(ack) = ack {
                let _ = self.transmit(&ack);
                return;
            }
        }
        self.responses.push(response);
    }

    fn receive_request(&self, request: SipText, route: Route) {
        let key = transaction(&request);
        let known = lock(&self.answers).get(&key).cloned();
        if let Some(answer) = known {
            if let (Some(octets), Some(wire)) = (answer, self.wire()) {
                self.transcript.record(&self.name, Direction::Sent, &octets);
                let _ = wire.send_back(&route, &octets);
            }
            return;
        }
        lock(&self.answers).insert(key, None);
        let status = match request.method() {
            Some("OPTIONS" | "BYE") => Some(200),
            Some("INVITE") => {
                let open = (request.clone(), route.clone());
                lock(&self.ringing).insert(transaction(&request), open);
                Some(100)
            }
            Some("CANCEL") => {
                self.end_cancelled(&request);
                Some(200)
            }
            Some("MESSAGE") => match *lock(&self.reaction) {
                Reaction::Answer(status) => Some(status),
                Reaction::StaySilent => None,
            },
            _ => None,
        };
        if let Some(status) = status {
            let octets = draft::response(&request, status, &self.tag, &[], &[]);
            self.answer(&request, &route, octets);
        }
        self.requests.push((request, route));
    }

    /// The INVITE a CANCEL names gets 487, if it was not answered (RFC 3261 §9.2).
    fn end_cancelled(&self, cancel: &SipText) {
        let key = format!("{} INVITE", cancel.branch());
        let ringing = lock(&self.ringing).remove(&key);
        if let Some((invite, route)) = ringing {
            let octets = draft::response(&invite, 487, &self.tag, &[], &[]);
            self.answer(&invite, &route, octets);
        }
    }
}

/// A request's transaction, as far as one peer's branches tell (RFC 3261 §17.2.3).
fn transaction(request: &SipText) -> String {
    format!("{} {}", request.branch(), request.method().unwrap_or(""))
}

fn acknowledged(response: &SipText) -> String {
    format!(
        "{} {} {}",
        response.header_or_empty("Call-ID"),
        response.cseq_number(),
        response.to_tag()
    )
}

fn uuid_text() -> String {
    let bits = rand::random::<u128>();
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
