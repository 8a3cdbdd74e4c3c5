//! A SIP user agent that talks to the server over real sockets, as a phone would.
//!
//! A thread reads; it answers by itself what a phone answers without asking its user (OPTIONS,
//! BYE, CANCEL, repeated requests) and keeps the rest until the conversation asks for it. So a
//! test is told in order: `alice.sends_message("bob", "hello")?.expect_status(202)?`.
//! Next stops: [`super::exchange`] for what was sent, [`super::call`] for sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::draft::Draft;
use super::envelope::{Disposition, Envelope, fresh};
use super::exchange::SentRequest;
use super::failure::Failure;
use super::line::Line;
use super::sip_text::SipText;
use super::transcript::Transcript;
use super::wire::{Receiver, Transport, Wire, lock};

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
    pub(super) line: Arc<Line>,
    pub(super) settings: Settings,
    registration: String,
    instance: String,
    cseq: AtomicU32,
}

impl UserAgent {
    /// An agent with its sockets open; it has not registered.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let line = Arc::new(Line::new(&settings.user, &settings.transcript));
        let reader = Arc::downgrade(&line);
        let receiver: Receiver = Arc::new(move |route, octets| {
            if let Some(line) = reader.upgrade() {
                line.receive(route, octets);
            }
        });
        let wire = Wire::open(settings.transport, settings.server, receiver)?;
        line.put_on(Some(wire));
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

    /// Registers with this Contact value and calls itself so (RFC 3261 §20.41).
    pub fn registers_as(&self, user_agent: &str, contact: &str) -> Result<SipText, Failure> {
        let draft = self
            .register_draft(contact)
            .header("User-Agent", user_agent);
        self.sends(draft)?.expect_status(200)
    }

    /// Sends a REGISTER with this Contact value; an empty one only asks.
    pub fn sends_register(&self, contact: &str) -> Result<SentRequest<'_>, Failure> {
        self.sends(self.register_draft(contact))
    }

    fn register_draft(&self, contact: &str) -> Draft {
        let mut draft = Draft::new("REGISTER", &format!("sip:{}", self.settings.domain))
            .to_value(&format!("<{}>", self.uri()))
            .call_id(&self.registration)
            .header("Supported", "path, outbound");
        if !contact.is_empty() {
            draft = draft.header("Contact", contact);
        }
        draft
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

    /// Its `+sip.instance`, with its brackets.
    pub(super) fn instance(&self) -> &str {
        &self.instance
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
        self.line.put_on(None);
    }
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
