//! A simulated device of a user: its SIP transactions, as RFC 3261 wants them, and its moods.
//!
//! It reads with the demo's parsers, which share nothing with the server's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use restante::clock::{Instant, Now};
use restante::demo::{Disposition, Envelope, PAGER_TAG, SESSION_TAG, SipText, services_tag};
use restante::net::ConnectionId;

use super::call::Call;
use super::credentials;
use super::disk::Disk;
use super::ledger::{Delivery, Device, Ledger, Word};

/// RFC 3261 Timer T1, and 64 of it.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVES_UP: Duration = Duration::from_secs(32);

/// How an agent takes what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Willing,
    /// Answers every request with this.
    Refusing(u16),
    /// Takes messages, but answers so much later.
    Slow(Duration),
    /// Answers nothing.
    Silent,
}

/// Octets, and what they tell the server.
#[derive(Clone, Debug)]
pub struct Packet {
    pub octets: Vec<u8>,
    /// The message that this answer confirms, and what the device was known by when it took it.
    pub confirms: Option<(usize, Device)>,
    /// When the server began to send what is answered.
    pub begun: Instant,
    /// The dialog of the session it was sent in.
    pub call_id: Option<String>,
}

impl Packet {
    pub fn plain(octets: Vec<u8>) -> Self {
        Self {
            octets,
            confirms: None,
            begun: Instant::default(),
            call_id: None,
        }
    }
}

/// What an agent wants the world to do.
#[derive(Debug)]
pub enum Out {
    Sip(Packet),
    /// Later than at once.
    SipLater(Duration, Packet),
    /// Open an MSRP connection for the call of this number.
    Connect(u64),
    Msrp(ConnectionId, Packet),
    Close(ConnectionId),
}

/// What an agent sees of the world.
pub struct Sight<'a> {
    pub now: Now,
    pub rng: &'a mut StdRng,
    pub ledger: &'a mut Ledger,
    pub disk: &'a Disk,
    pub out: Vec<Out>,
}

/// What a device says it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat sessions of CPM.
    Rcs,
    /// These, and large standalone messages.
    RcsLarge,
    /// Chats of RCS-e: the first message comes in the INVITE.
    RcsE,
    /// It says nothing, or only that it takes MESSAGE.
    Quiet,
}

impl Dialect {
    /// The feature tags of its Contact.
    fn tags(self) -> String {
        match self {
            Self::Rcs => format!(";{SESSION_TAG}"),
            Self::RcsLarge => format!(
                ";{}",
                services_tag(&["session", "msg", "largemsg", "deferred"])
            ),
            Self::RcsE => ";+g.oma.sip-im".to_owned(),
            Self::Quiet => String::new(),
        }
    }
}

/// Why a request was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    Register { expires: u32 },
    Message(usize),
    Invite(u64),
    Revoke(usize),
    Bye,
}

struct Client {
    request: Vec<u8>,
    purpose: Purpose,
    again_at: Option<Instant>,
    interval: Duration,
    until: Instant,
    /// A final answer came; the INVITE's ACK is repeated for its repetitions.
    ack: Option<Vec<u8>>,
    done: bool,
}

/// See the module's text.
pub struct Agent {
    /// Which device of all.
    pub index: usize,
    /// Whose it is.
    pub user: usize,
    pub name: String,
    pub dialect: Dialect,
    /// Its `+sip.instance`, if it states one.
    pub instance: Option<String>,
    /// How often it has got another address.
    pub moves: u8,
    /// It has taken its service tags back for the moment.
    pub paused: bool,
    /// It tells authors what became of their messages without being asked by this test.
    pub tells: bool,
    pub password: Option<String>,
    pub authorised: u32,
    pub address: SocketAddr,
    pub is_stream: bool,
    pub takes_sessions: bool,
    pub mood: Mood,
    pub registered: bool,
    pub calls: BTreeMap<u64, Call>,
    clients: BTreeMap<String, Client>,
    /// Answers given, by branch and method.
    answers: BTreeMap<(String, String), Option<Packet>>,
    /// Octets of unfinished frames, by MSRP connection.
    pub streams: BTreeMap<ConnectionId, Vec<u8>>,
    last_number: u64,
    register_cseq: u32,
}

impl Agent {
    /// The only device of a user.
    pub fn new(index: usize, is_stream: bool, takes_sessions: bool) -> Self {
        Self {
            index,
            user: index,
            name: format!("user{index}"),
            dialect: Dialect::Rcs,
            instance: None,
            moves: 0,
            paused: false,
            tells: false,
            password: None,
            authorised: 0,
            address: address_of(index, 0),
            is_stream,
            takes_sessions,
            mood: Mood::Willing,
            registered: false,
            calls: BTreeMap::new(),
            clients: BTreeMap::new(),
            answers: BTreeMap::new(),
            streams: BTreeMap::new(),
            last_number: 0,
            register_cseq: 0,
        }
    }

    pub fn uri(&self) -> String {
        uri_of(self.user)
    }

    /// What the marks of messages know it by: its instance, or its address.
    pub fn mark(&self) -> (usize, u8) {
        match self.instance {
            Some(_) => (self.index, 0),
            None => (self.index, self.moves),
        }
    }

    /// The same for what was sent to this address, perhaps before it moved.
    pub(super) fn mark_at(&self, uri: &str) -> Device {
        let is_there = |moves: &u8| uri.contains(&address_of(self.index, *moves).to_string());
        match self.instance {
            Some(_) => self.mark(),
            None => (
                self.index,
                (0..=self.moves).find(is_there).unwrap_or(self.moves),
            ),
        }
    }

    /// It is somewhere else from now on; whoever writes to its old address reaches nobody.
    pub fn moves_away(&mut self) {
        self.moves = self.moves.wrapping_add(1);
        self.address = address_of(self.index, self.moves);
        self.registered = false;
        // It binds its old address no more.
        let registers = |client: &Client| matches!(client.purpose, Purpose::Register { .. });
        self.clients.retain(|_, client| !registers(client));
    }

    /// What it is in a story.
    pub fn label(&self) -> String {
        format!("{}/{}", self.name, self.index)
    }

    /// A number this agent did not use before.
    pub fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// A transaction identifier of MSRP.
    pub fn transaction(&mut self) -> String {
        let number = self.number();
        format!("t{}x{number}", self.index)
    }

    pub fn branch(&mut self) -> String {
        let number = self.number();
        format!("z9hG4bKu{}n{number}", self.index)
    }

    pub fn via(&self, branch: &str) -> String {
        let token = if self.is_stream { "TCP" } else { "UDP" };
        format!(
            "Via: SIP/2.0/{token} {};branch={branch};rport\r\n",
            self.address
        )
    }

    pub fn contact(&self) -> String {
        let transport = if self.is_stream { ";transport=tcp" } else { "" };
        format!("<sip:{}@{}{transport}>", self.name, self.address)
    }

    /// Registers, refreshes or, with 0, unregisters.
    pub fn register(&mut self, expires: u32, sight: &mut Sight<'_>) {
        self.register_cseq += 1;
        // Until it is answered nobody knows whether the server has heard it.
        self.registered = false;
        let branch = self.branch();
        let mut tags = match &self.instance {
            Some(instance) => format!(";+sip.instance=\"<{instance}>\""),
            None => String::new(),
        };
        if self.takes_sessions && !self.paused {
            tags.push_str(&self.dialect.tags());
        } else if self.dialect == Dialect::Quiet {
            tags.push_str(&format!(";{PAGER_TAG}"));
        }
        let (uri, cseq) = (self.uri(), self.register_cseq);
        sight.ledger.tell(format!(
            "{:?} {} registers for {expires} s with {tags:?}",
            sight.now.instant,
            self.label()
        ));
        let request = format!(
            "REGISTER sip:im.test SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: <{uri}>;tag=r{}\r\n\
             To: <{uri}>\r\nCall-ID: reg-{}\r\nCSeq: {cseq} REGISTER\r\nContact: {}{tags}\r\n\
             Expires: {expires}\r\nContent-Length: 0\r\n\r\n",
            self.via(&branch),
            self.index,
            self.index,
            self.contact(),
        );
        self.start(
            branch,
            request.into_bytes(),
            Purpose::Register { expires },
            sight,
        );
    }

    /// Sends message `id` of the ledger as a MESSAGE.
    pub fn send_pager(
        &mut self,
        id: usize,
        headers: &str,
        content_type: &str,
        sight: &mut Sight<'_>,
    ) {
        let entry = &sight.ledger.entries[id];
        let body = entry.body.clone();
        let (to, from) = (uri_of(entry.recipient), self.uri());
        let conversation = entry.conversation.clone();
        let branch = self.branch();
        let number = self.number();
        let head = format!(
            "MESSAGE {to} SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: <{from}>;tag=m{number}\r\nTo: <{to}>\r\n\
             Call-ID: msg-{}-{number}\r\nCSeq: 1 MESSAGE\r\nConversation-ID: {conversation}\r\n\
             Contribution-ID: c{number}\r\n{headers}Accept-Contact: *;{PAGER_TAG}\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.via(&branch),
            self.index,
            body.len()
        );
        let request = [head.into_bytes(), body].concat();
        self.start(branch, request, Purpose::Message(id), sight);
    }

    pub fn start(
        &mut self,
        branch: String,
        request: Vec<u8>,
        purpose: Purpose,
        sight: &mut Sight<'_>,
    ) {
        let now = sight.now.instant;
        let client = Client {
            again_at: (!self.is_stream).then(|| now + T1),
            interval: T1,
            until: now + GIVES_UP,
            request: request.clone(),
            purpose,
            ack: None,
            done: false,
        };
        self.clients.insert(branch, client);
        sight.out.push(Out::Sip(Packet::plain(request)));
    }

    /// A whole SIP message came.
    pub fn handle_sip(&mut self, octets: &[u8], begun: Instant, sight: &mut Sight<'_>) {
        let Some(message) = SipText::read(octets) else {
            return sight
                .ledger
                .fault("unreadable SIP from the server".to_owned());
        };
        match message.method() {
            None => self.handle_response(&message, sight),
            Some("ACK") => self.handle_ack(&message),
            Some(method) => {
                let key = (message.branch().to_owned(), method.to_owned());
                match self.answers.get(&key) {
                    Some(answer) => sight.out.extend(answer.clone().map(Out::Sip)),
                    None => self.handle_request(&message, begun, sight),
                }
            }
        }
    }

    fn handle_request(&mut self, request: &SipText, begun: Instant, sight: &mut Sight<'_>) {
        let method = request.method().unwrap_or_default().to_owned();
        let key = (request.branch().to_owned(), method.clone());
        if method == "PRACK" || method == "UPDATE" {
            let answer = self.answer(request, 481, "", b"");
            return sight.out.push(Out::Sip(Packet::plain(answer)));
        }
        let (status, later) = match (method.as_str(), self.mood) {
            ("BYE" | "CANCEL", Mood::Silent) | (_, Mood::Silent) => return,
            ("BYE", _) => return self.handle_bye(request, sight),
            ("CANCEL", _) => return self.handle_cancel(request, sight),
            (_, Mood::Refusing(status)) => (status, Duration::ZERO),
            (_, Mood::Slow(wait)) => (200, wait),
            (_, Mood::Willing) => (200, Duration::ZERO),
        };
        if method == "INVITE" {
            return self.handle_invite(request, status, later, begun, sight);
        }
        if method == "MESSAGE" && status == 200 {
            let device = self.mark_at(request.request_uri());
            self.take_message(request.body(), begun, (None, device), sight);
        }
        if method == "MESSAGE" && status != 200 {
            sight
                .ledger
                .refused(request.body(), status, sight.now.instant);
        }
        let mut packet = Packet::plain(self.answer(request, status, "", b""));
        if method == "MESSAGE" && status == 200 {
            let id = sight.ledger.find(request.body());
            packet.confirms = id.map(|id| (id, self.mark_at(request.request_uri())));
            packet.begun = begun;
        }
        if later.is_zero() {
            self.answers.insert(key, Some(packet.clone()));
            sight.out.push(Out::Sip(packet));
        } else {
            self.answers.insert(key, None);
            sight.out.push(Out::SipLater(later, packet));
        }
    }

    /// What the marks know it by, of what comes in a call.
    pub(super) fn mark_in(&self, call: u64) -> Device {
        self.calls
            .get(&call)
            .map_or_else(|| self.mark(), |call| call.device)
    }

    /// The octets of a message that this device takes, in which call, and as whom the marks know it.
    pub fn take_message(
        &mut self,
        octets: &[u8],
        begun: Instant,
        (call, device): (Option<u64>, Device),
        sight: &mut Sight<'_>,
    ) {
        let now = sight.now.instant;
        let envelope = Envelope::read(octets);
        if is_from_the_server(octets, envelope.as_ref()) {
            return;
        }
        let is_notice = |envelope: &&Envelope| {
            envelope.is_notification() || envelope.content_disposition == "notification"
        };
        if let Some(envelope) = envelope.as_ref().filter(is_notice) {
            for word in Word::read(&envelope.content_text()) {
                sight
                    .ledger
                    .notified(self.user, &envelope.message_id, &word);
            }
            if sight.ledger.find(octets).is_none() {
                return;
            }
        }
        match sight.ledger.find(octets) {
            Some(id) => {
                let label = self.label();
                sight
                    .ledger
                    .tell(format!("{now:?} {label} takes message {id}"));
                let delivery = Delivery {
                    octets,
                    begun,
                    at: now,
                    wall: sight.now.wall,
                    unregistered_in_call: call.is_some() && (!self.registered || self.paused),
                    in_own_call: call
                        .and_then(|number| self.calls.get(&number))
                        .is_some_and(|call| call.kind.is_some()),
                };
                let first = sight.ledger.received(id, self.user, device, &delivery);
                if first && self.tells {
                    self.tell_author(id, envelope.as_ref(), call, sight);
                }
            }
            None => sight.ledger.fault("a message nobody wrote".to_owned()),
        }
    }

    /// "Delivered" for a message that asks for it: in the session it came in, or by MESSAGE.
    fn tell_author(
        &mut self,
        id: usize,
        envelope: Option<&Envelope>,
        call: Option<u64>,
        sight: &mut Sight<'_>,
    ) {
        let asks = |envelope: &&Envelope| envelope.asks.contains("positive-delivery");
        let Some(envelope) = envelope.filter(asks) else {
            return;
        };
        let receipt =
            sight
                .ledger
                .write_receipt(&[(id, envelope)], Disposition::Delivered, sight.now);
        match call.and_then(|number| self.calls.get_mut(&number)) {
            Some(call) if receipt.is_multiple_of(2) => call.queue.push_back(receipt),
            _ => self.send_pager(receipt, "", "message/cpim", sight),
        }
    }

    /// A response to `request`, remembered for its repetitions.
    pub fn answer(
        &mut self,
        request: &SipText,
        status: u16,
        headers: &str,
        body: &[u8],
    ) -> Vec<u8> {
        let mut text = format!("SIP/2.0 {status} Whatever\r\n");
        for via in request.headers("Via") {
            text.push_str(&format!("Via: {via}\r\n"));
        }
        let to = request.header_or_empty("To");
        let tag = match request.to_tag() {
            "" => format!(";tag=a{}", self.index),
            _ => String::new(),
        };
        text.push_str(&format!(
            "From: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{headers}Content-Length: {}\r\n\r\n",
            request.header_or_empty("From"),
            request.header_or_empty("Call-ID"),
            request.header_or_empty("CSeq"),
            body.len()
        ));
        let answer = [text.into_bytes(), body.to_vec()].concat();
        let method = request.method().unwrap_or_default();
        self.give_answer(request.branch(), method, answer.clone());
        answer
    }

    /// What it has sent a request with this branch for.
    pub fn purpose(&self, branch: &str) -> Option<Purpose> {
        let client = self.clients.get(branch)?;
        Some(client.purpose.clone())
    }

    /// The answer that repetitions of a request get.
    pub fn give_answer(&mut self, branch: &str, method: &str, answer: Vec<u8>) {
        let key = (branch.to_owned(), method.to_owned());
        self.answers.insert(key, Some(Packet::plain(answer)));
    }

    /// Repetitions of this request get no answer for the moment.
    pub fn hold_answer(&mut self, request: &SipText) {
        let method = request.method().unwrap_or_default().to_owned();
        self.answers
            .insert((request.branch().to_owned(), method), None);
    }

    fn handle_response(&mut self, response: &SipText, sight: &mut Sight<'_>) {
        let Some(client) = self.clients.get_mut(response.branch()) else {
            return;
        };
        let status = response.status();
        if response.cseq_method() == "CANCEL" {
            return;
        }
        if status < 200 {
            if matches!(client.purpose, Purpose::Invite(_)) {
                client.again_at = None;
            }
            return;
        }
        client.again_at = None;
        if client.done {
            if let Some(ack) = client.ack.clone() {
                sight.out.push(Out::Sip(Packet::plain(ack)));
            }
            return;
        }
        client.done = true;
        let purpose = client.purpose.clone();
        if matches!(status, 401 | 407) && self.answer_challenge(response, sight) {
            return;
        }
        match purpose {
            Purpose::Register { expires } => self.registered = status == 200 && expires > 0,
            Purpose::Message(id) if status / 100 == 2 => {
                let now = sight.now.instant;
                sight.ledger.tell(format!(
                    "{now:?} message {id} is acknowledged with {status}"
                ));
                sight
                    .ledger
                    .acknowledged(id, status == 202, sight.disk, now);
            }
            Purpose::Message(id) => sight
                .ledger
                .tell(format!("message {id} is refused: {status}")),
            Purpose::Revoke(id) => sight.ledger.tell(format!(
                "the revocation of message {id} is answered: {status}"
            )),
            Purpose::Invite(call) => {
                let ack = self.handle_invite_answer(call, response, sight);
                if let (Some(client), Some(ack)) = (self.clients.get_mut(response.branch()), ack) {
                    client.ack = Some(ack.clone());
                    sight.out.push(Out::Sip(Packet::plain(ack)));
                }
            }
            Purpose::Bye => {}
        }
    }

    /// The same request once more, with credentials; an INVITE's answer is acknowledged first.
    fn answer_challenge(&mut self, response: &SipText, sight: &mut Sight<'_>) -> bool {
        let Some(password) = self.password.clone() else {
            return false;
        };
        let Some(client) = self.clients.get(response.branch()) else {
            return false;
        };
        let (request, purpose) = (client.request.clone(), client.purpose.clone());
        let Some(text) = SipText::read(&request) else {
            return false;
        };
        if text
            .header("Authorization")
            .or(text.header("Proxy-Authorization"))
            .is_some()
        {
            return false;
        }
        if let Purpose::Invite(number) = purpose {
            let ack = self.refusal_ack(&text, response);
            if let Some(client) = self.clients.get_mut(response.branch()) {
                client.ack = Some(ack.clone());
            }
            sight.out.push(Out::Sip(Packet::plain(ack)));
            if !self.calls.contains_key(&number) {
                return true;
            }
        }
        self.authorised += 1;
        let who = (self.name.as_str(), password.as_str());
        let Some(line) = credentials::answer(response, &text, who, self.authorised) else {
            return false;
        };
        let branch = self.branch();
        let again = credentials::request_again(&request, text.branch(), &branch, &line);
        if let Purpose::Invite(number) = purpose
            && let Some(call) = self.calls.get_mut(&number)
        {
            call.invite_branch = branch.clone();
            call.cseq += 1;
        }
        self.start(branch, again, purpose, sight);
        true
    }

    /// Whether a provisional answer came, and no final one (RFC 3261 §9.1).
    pub fn is_proceeding(&self, branch: &str) -> bool {
        let client = self.clients.get(branch);
        client.is_some_and(|client| !client.done && client.again_at.is_none())
    }

    /// The request that a non-2xx ACK repeats (RFC 3261 §17.1.1.3).
    pub fn request_of(&self, branch: &str) -> Option<SipText> {
        SipText::read(&self.clients.get(branch)?.request)
    }

    /// When [`Agent::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let clients = self.clients.values().filter(|client| !client.done);
        let clients = clients.map(|client| {
            client
                .again_at
                .map_or(client.until, |at| at.min(client.until))
        });
        let calls = self.calls.values().filter_map(Call::next_deadline);
        clients.chain(calls).min()
    }

    /// Repeats what was not answered, and gives it up.
    pub fn handle_timeout(&mut self, sight: &mut Sight<'_>) {
        let now = sight.now.instant;
        for client in self.clients.values_mut().filter(|client| !client.done) {
            if client.until <= now {
                client.done = true;
                continue;
            }
            if client.again_at.is_some_and(|at| at <= now) {
                client.interval = match client.purpose {
                    Purpose::Invite(_) => client.interval * 2,
                    _ => (client.interval * 2).min(T2),
                };
                client.again_at = Some(now + client.interval);
                sight
                    .out
                    .push(Out::Sip(Packet::plain(client.request.clone())));
            }
        }
        self.handle_call_timeouts(sight);
    }

    /// The SIP connection is gone; what was asked over it is not answered any more.
    pub fn handle_flow_lost(&mut self) {
        self.registered = false;
        for client in self.clients.values_mut() {
            client.done = true;
        }
    }
}

/// What the server tells a user itself: that messages wait, that somebody tried, what became of a
/// revocation.
fn is_from_the_server(octets: &[u8], envelope: Option<&Envelope>) -> bool {
    let system = |envelope: &Envelope| envelope.from.contains("sip:system@im.test");
    let result = |envelope: &Envelope| envelope.content_type.contains("rcsrevoke");
    match envelope {
        Some(envelope) => system(envelope) || result(envelope),
        None => {
            let text = String::from_utf8_lossy(octets);
            let words = [" waits", " wait", "attempted contact from"];
            !text.contains("~#") && words.iter().any(|word| text.contains(word))
        }
    }
}

fn address_of(index: usize, moves: u8) -> SocketAddr {
    let octet = 10 + u8::try_from(index).expect("few agents");
    SocketAddr::from(([127, 0, 1 + moves % 200, octet], 5060))
}

pub fn uri_of(index: usize) -> String {
    format!("sip:user{index}@im.test")
}
