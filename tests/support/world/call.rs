//! The chats of a simulated device: INVITE both ways. What passes over MSRP stands in `media`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::RngExt;
use restante::clock::Instant;
use restante::demo::{SESSION_TAG, SipText, address, attribute, services_tag};
use restante::net::ConnectionId;

use super::agent::{Agent, Out, Packet, Purpose, Sight, uri_of};
use super::ledger::Device;

/// How far a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Our INVITE is out.
    Inviting,
    /// It rings here; answered then.
    Ringing(Instant),
    /// Our 200 is out, sent again then until the ACK comes.
    Answered(Instant, Duration, Instant),
    Live,
}

/// What an INVITE of ours is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A chat with this user.
    Chat(usize),
    /// The same, with this message inside the INVITE.
    First(usize, usize),
    /// One large message to this user.
    Large(usize),
    /// What waits for ourselves: all of it, one conversation, or this message.
    Fetch(Option<String>),
}

impl Kind {
    fn peer(&self) -> Option<usize> {
        match self {
            Self::Chat(peer) | Self::First(peer, _) | Self::Large(peer) => Some(*peer),
            Self::Fetch(_) => None,
        }
    }
}

/// See the module's text.
pub struct Call {
    pub kind: Option<Kind>,
    /// What its device was known by when it began: later it may have another address.
    pub(super) device: Device,
    /// The message that came inside the INVITE, and when that was sent first.
    pub(super) first: Option<(usize, Instant)>,
    pub(super) first_octets: Vec<u8>,
    pub state: State,
    pub peer: Option<usize>,
    pub conversation: String,
    pub call_id: String,
    pub(super) local: String,
    pub(super) remote: String,
    pub(super) remote_target: String,
    pub(super) cseq: u32,
    pub(super) session: String,
    pub(super) remote_path: String,
    pub(super) connects: bool,
    pub(super) answer: Vec<u8>,
    pub(super) invite_branch: String,
    pub connection: Option<ConnectionId>,
    pub(super) bound: bool,
    /// Messages still to be sent, and whether they can be.
    pub queue: VecDeque<usize>,
    pub sends: bool,
    pub(super) unanswered: BTreeMap<String, usize>,
    pub(super) chunks_left: BTreeMap<usize, usize>,
    pub(super) failed: BTreeSet<usize>,
    pub(super) inbound: BTreeMap<String, (Vec<u8>, Instant)>,
}

impl Call {
    fn new(state: State, call_id: &str, session: String, device: Device) -> Self {
        Self {
            kind: None,
            device,
            first: None,
            first_octets: Vec::new(),
            state,
            peer: None,
            conversation: String::new(),
            call_id: call_id.to_owned(),
            local: String::new(),
            remote: String::new(),
            remote_target: String::new(),
            cseq: 1,
            session,
            remote_path: String::new(),
            connects: false,
            answer: Vec::new(),
            invite_branch: String::new(),
            connection: None,
            bound: false,
            queue: VecDeque::new(),
            sends: true,
            unanswered: BTreeMap::new(),
            chunks_left: BTreeMap::new(),
            failed: BTreeSet::new(),
            inbound: BTreeMap::new(),
        }
    }

    /// Whether it is for one large message.
    pub fn is_large(&self) -> bool {
        matches!(self.kind, Some(Kind::Large(_)))
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Ringing(at) | State::Answered(at, ..) => Some(at),
            State::Inviting | State::Live => None,
        }
    }
}

impl Agent {
    pub(super) fn path(&self, session: &str) -> String {
        format!("msrp://{}:2855/{session};tcp", self.address.ip())
    }

    fn describe(&self, session: &str, setup: &str, direction: &str) -> Vec<u8> {
        let ip = self.address.ip();
        format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=message 2855 TCP/MSRP *\r\n\
             a=accept-types:message/cpim application/im-iscomposing+xml\r\na=accept-wrapped-types:*\r\n\
             a=path:{}\r\na=setup:{setup}\r\na={direction}\r\n",
            self.path(session)
        )
        .into_bytes()
    }

    /// Calls another user, or fetches; messages queued in the call are sent once it stands.
    pub fn invite(&mut self, kind: Kind, conversation: &str, sight: &mut Sight<'_>) -> u64 {
        let number = self.number();
        let branch = self.branch();
        let session = format!("s{}n{number}", self.index);
        let call_id = format!("call-{}-{number}", self.index);
        let direction = match kind {
            Kind::Chat(_) | Kind::First(..) => "sendrecv",
            Kind::Large(_) => "sendonly",
            Kind::Fetch(_) => "recvonly",
        };
        let mut body = self.describe(&session, "actpass", direction);
        let mut content_type = "application/sdp".to_owned();
        if let Kind::First(_, id) = kind {
            let text = &sight.ledger.entries[id].body;
            (content_type, body) = beside(&body, text, number.is_multiple_of(2));
        }
        let to = kind
            .peer()
            .map_or("sip:deferred@im.test".to_owned(), uri_of);
        let from = self.uri();
        let tag = match kind {
            Kind::Large(_) => services_tag(&["largemsg"]),
            _ => SESSION_TAG.to_owned(),
        };
        let conversation_field = match &kind {
            Kind::Fetch(Some(wanted)) => format!("{wanted}\r\n"),
            Kind::Fetch(None) => String::new(),
            _ => format!("Conversation-ID: {conversation}\r\nContribution-ID: k{number}\r\n"),
        };
        let instance = match (&kind, &self.instance) {
            (Kind::Fetch(_), Some(instance)) => format!(";+sip.instance=\"<{instance}>\""),
            _ => String::new(),
        };
        let head = format!(
            "INVITE {to} SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: <{from}>;tag=i{number}\r\nTo: <{to}>\r\n\
             Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: {}{instance}\r\n{conversation_field}\
             Accept-Contact: *;{tag}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.via(&branch),
            self.contact(),
            body.len()
        );
        let mut call = Call::new(State::Inviting, &call_id, session, self.mark());
        call.peer = kind.peer();
        call.sends = !matches!(kind, Kind::Fetch(_));
        call.kind = Some(kind);
        call.conversation = conversation.to_owned();
        call.local = format!("<{from}>;tag=i{number}");
        call.invite_branch = branch.clone();
        self.calls.insert(number, call);
        let request = [head.into_bytes(), body].concat();
        self.start(branch, request, Purpose::Invite(number), sight);
        number
    }

    /// The final answer to our INVITE; its ACK comes back.
    pub fn handle_invite_answer(
        &mut self,
        number: u64,
        response: &SipText,
        sight: &mut Sight<'_>,
    ) -> Option<Vec<u8>> {
        let invite = self.request_of(response.branch())?;
        let status = response.status();
        let kind = self.calls.get(&number).and_then(|call| call.kind.clone());
        if let Some(Kind::First(_, id)) = kind
            && (status / 100 == 2 || status == 486)
        {
            let now = sight.now.instant;
            let line = format!("{now:?} message {id} is acknowledged: {status} to its INVITE");
            sight.ledger.tell(line);
            sight.ledger.acknowledged(id, false, sight.disk, now);
        }
        if status / 100 != 2 {
            self.calls.remove(&number);
            return Some(self.refusal_ack(&invite, response));
        }
        let branch = self.branch();
        let (uri, via) = (response.contact_uri().to_owned(), self.via(&branch));
        let ack = ack(&uri, &via, &invite, response);
        let sdp = String::from_utf8_lossy(response.body()).into_owned();
        if let Some(call) = self.calls.get_mut(&number) {
            call.state = State::Live;
            call.remote = response.header_or_empty("To").to_owned();
            call.remote_target = uri;
            call.remote_path = attribute(&sdp, "path").unwrap_or_default().to_owned();
            call.connects = attribute(&sdp, "setup") != Some("active");
            if call.connects {
                sight.out.push(Out::Connect(number));
            }
        }
        if kind == Some(Kind::Fetch(None)) && number.is_multiple_of(7) {
            // It has changed its mind before the first message.
            self.hang_up(number, true, sight);
        }
        Some(ack)
    }

    /// The ACK of a refusal, in the transaction of the INVITE (RFC 3261 §17.1.1.3).
    pub fn refusal_ack(&self, invite: &SipText, response: &SipText) -> Vec<u8> {
        let via = format!("Via: {}\r\n", invite.header_or_empty("Via"));
        ack(invite.request_uri(), &via, invite, response)
    }

    pub fn handle_invite(
        &mut self,
        request: &SipText,
        status: u16,
        later: Duration,
        begun: Instant,
        sight: &mut Sight<'_>,
    ) {
        let sdp = String::from_utf8_lossy(request.body()).into_owned();
        if status != 200 || !self.takes_sessions {
            let status = if status == 200 { 488 } else { status };
            sight
                .ledger
                .refused(request.body(), status, sight.now.instant);
            let answer = self.answer(request, status, "", b"");
            return sight.out.push(Out::Sip(Packet::plain(answer)));
        }
        let number = self.number();
        let session = format!("s{}n{number}", self.index);
        let now = sight.now.instant;
        let mut call = Call::new(
            State::Ringing(now + later),
            request.header_or_empty("Call-ID"),
            session,
            self.mark_at(request.request_uri()),
        );
        let offered = attribute(&sdp, "setup").unwrap_or("active");
        call.connects = match offered {
            "passive" => true,
            "active" => false,
            _ => sight.rng.random_bool(0.5),
        };
        call.sends = attribute(&sdp, "sendonly").is_none();
        call.remote_path = attribute(&sdp, "path").unwrap_or_default().to_owned();
        call.remote_target = request.contact_uri().to_owned();
        call.remote = request.header_or_empty("From").to_owned();
        call.conversation = request.header_or_empty("Conversation-ID").to_owned();
        call.peer = address(&call.remote)
            .strip_prefix("sip:user")
            .and_then(|rest| rest.split('@').next()?.parse().ok());
        call.invite_branch = request.branch().to_owned();
        if request
            .header_or_empty("Content-Type")
            .starts_with("multipart/")
        {
            call.first = sight.ledger.find(request.body()).map(|id| (id, begun));
            call.first_octets = inside(request.body());
        }
        let setup = if call.connects { "active" } else { "passive" };
        let direction = if call.sends { "sendrecv" } else { "recvonly" };
        let sdp = self.describe(&call.session, setup, direction);
        let headers = format!(
            "Contact: {}\r\nContent-Type: application/sdp\r\n",
            self.contact()
        );
        call.answer = self.answer(request, 200, &headers, &sdp);
        let answer = SipText::read(&call.answer).expect("we wrote it");
        call.local = answer.header_or_empty("To").to_owned();
        self.hold_answer(request);
        self.calls.insert(number, call);
        if later.is_zero() {
            self.pick_up(number, sight);
        }
    }

    fn pick_up(&mut self, number: u64, sight: &mut Sight<'_>) {
        let now = sight.now.instant;
        let interval = Duration::from_millis(500);
        let device = self.mark_in(number);
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        call.state = State::Answered(now + interval, interval, now + Duration::from_secs(32));
        let answer = call.answer.clone();
        let connects = call.connects;
        let branch = call.invite_branch.clone();
        let mut packet = Packet::plain(answer.clone());
        if let Some((id, begun)) = call.first.take() {
            packet.confirms = Some((id, device));
            packet.begun = begun;
            packet.call_id = Some(call.call_id.clone());
            let octets = std::mem::take(&mut call.first_octets);
            self.take_message(&octets, begun, (Some(number), device), sight);
        }
        self.give_answer(&branch, "INVITE", answer);
        sight.out.push(Out::Sip(packet));
        if connects {
            sight.out.push(Out::Connect(number));
        }
    }

    pub fn handle_ack(&mut self, ack: &SipText) {
        let call_id = ack.header_or_empty("Call-ID");
        let mut calls = self.calls.values_mut();
        if let Some(call) = calls.find(|call| call.call_id == call_id)
            && matches!(call.state, State::Answered(..))
        {
            call.state = State::Live;
        }
    }

    pub fn handle_cancel(&mut self, cancel: &SipText, sight: &mut Sight<'_>) {
        let ok = self.answer(cancel, 200, "", b"");
        sight.out.push(Out::Sip(Packet::plain(ok)));
        let ringing = |call: &Call| {
            call.invite_branch == cancel.branch() && matches!(call.state, State::Ringing(_))
        };
        let found = self
            .calls
            .iter()
            .find(|(_, call)| ringing(call))
            .map(|(number, _)| *number);
        if let Some(number) = found
            && let Some(call) = self.calls.remove(&number)
        {
            let terminated =
                String::from_utf8_lossy(&call.answer).replacen("200 Whatever", "487 Gone", 1);
            let end = terminated.find("Contact:").unwrap_or_default();
            let octets = format!("{}Content-Length: 0\r\n\r\n", &terminated[..end]).into_bytes();
            self.give_answer(cancel.branch(), "INVITE", octets.clone());
            sight.out.push(Out::Sip(Packet::plain(octets)));
        }
    }

    pub fn handle_bye(&mut self, bye: &SipText, sight: &mut Sight<'_>) {
        let call_id = bye.header_or_empty("Call-ID").to_owned();
        let found = self.calls.iter().find(|(_, call)| call.call_id == call_id);
        let found = found.map(|(number, _)| *number);
        let status = if found.is_some() { 200 } else { 481 };
        let answer = self.answer(bye, status, "", b"");
        sight.out.push(Out::Sip(Packet::plain(answer)));
        if let Some(call) = found.and_then(|number| self.calls.remove(&number))
            && let Some(connection) = call.connection
        {
            self.close(connection, sight);
        }
    }

    /// With the first session that ends a device closes its connection; if others share it (RFC 4975 §5.4), they
    /// break off, and what they carried may be overtaken until it is offered again.
    fn close(&self, connection: ConnectionId, sight: &mut Sight<'_>) {
        let mut others = self.calls.values();
        if others.any(|call| call.connection == Some(connection)) {
            let now = sight.now.instant;
            sight.ledger.disturbed.insert(self.user, now);
        }
        sight.out.push(Out::Close(connection));
    }

    /// Takes back an INVITE that has no final answer yet; the answer still comes.
    pub fn cancel(&mut self, number: u64, sight: &mut Sight<'_>) {
        let Some(call) = self.calls.get(&number) else {
            return;
        };
        let branch = call.invite_branch.clone();
        if call.state != State::Inviting || !self.is_proceeding(&branch) {
            return;
        }
        let Some(invite) = self.request_of(&branch) else {
            return;
        };
        let cancel = format!(
            "CANCEL {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {} CANCEL\r\nContent-Length: 0\r\n\r\n",
            invite.request_uri(),
            invite.header_or_empty("Via"),
            invite.header_or_empty("From"),
            invite.header_or_empty("To"),
            invite.header_or_empty("Call-ID"),
            invite.cseq_number(),
        );
        sight.out.push(Out::Sip(Packet::plain(cancel.into_bytes())));
    }

    /// Hangs up, politely or not.
    pub fn hang_up(&mut self, number: u64, with_bye: bool, sight: &mut Sight<'_>) {
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        if matches!(call.state, State::Inviting | State::Ringing(_)) {
            return;
        }
        call.cseq += 1;
        let (cseq, connection) = (call.cseq, call.connection);
        let head = format!(
            "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} BYE\r\nContent-Length: 0\r\n\r\n",
            call.local, call.remote, call.call_id
        );
        let target = call.remote_target.clone();
        self.calls.remove(&number);
        if with_bye {
            let branch = self.branch();
            let request = format!(
                "BYE {target} SIP/2.0\r\n{}Max-Forwards: 70\r\n{head}",
                self.via(&branch)
            );
            self.start(branch, request.into_bytes(), Purpose::Bye, sight);
        }
        if let Some(connection) = connection {
            self.close(connection, sight);
        }
    }

    pub fn handle_call_timeouts(&mut self, sight: &mut Sight<'_>) {
        let now = sight.now.instant;
        let due: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.next_deadline().is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(call) = self.calls.get_mut(&number) else {
                continue;
            };
            match call.state {
                State::Ringing(_) => self.pick_up(number, sight),
                State::Answered(_, _, until) if until <= now => self.hang_up(number, true, sight),
                State::Answered(_, interval, until) => {
                    let interval = (interval * 2).min(Duration::from_secs(4));
                    call.state = State::Answered(now + interval, interval, until);
                    sight.out.push(Out::Sip(Packet::plain(call.answer.clone())));
                }
                State::Inviting | State::Live => {}
            }
        }
    }
}

fn ack(uri: &str, via: &str, invite: &SipText, response: &SipText) -> Vec<u8> {
    format!(
        "ACK {uri} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\n\
         CSeq: {} ACK\r\nContent-Length: 0\r\n\r\n",
        invite.header_or_empty("From"),
        response.header_or_empty("To"),
        invite.header_or_empty("Call-ID"),
        invite.cseq_number(),
    )
    .into_bytes()
}

const CUT: &str = "cut-here";

/// A description and a message in one body, in either order: its Content-Type, and the body.
fn beside(sdp: &[u8], text: &[u8], text_first: bool) -> (String, Vec<u8>) {
    let mut parts = [("application/sdp", sdp), ("message/cpim", text)];
    if text_first {
        parts.reverse();
    }
    let mut body = Vec::new();
    for (kind, content) in parts {
        body.extend_from_slice(format!("--{CUT}\r\nContent-Type: {kind}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{CUT}--\r\n").as_bytes());
    (format!("multipart/mixed; boundary=\"{CUT}\""), body)
}

/// The message in such a body, whatever its boundary.
fn inside(body: &[u8]) -> Vec<u8> {
    let find = |from: usize, wanted: &[u8]| {
        memchr::memmem::find(&body[from..], wanted).map(|at| from + at)
    };
    let part = find(0, b"Content-Type: message/cpim").and_then(|at| find(at, b"\r\n\r\n"));
    let boundary = find(0, b"\r\n").map(|end| [b"\r\n", &body[..end]].concat());
    let (Some(part), Some(boundary)) = (part, boundary) else {
        return Vec::new();
    };
    let end = find(part + 4, &boundary).unwrap_or(body.len());
    body[part + 4..end].to_vec()
}
