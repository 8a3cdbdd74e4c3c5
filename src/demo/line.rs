//! What an agent's reading thread does by itself, and what it keeps for the conversation.
//!
//! A phone answers OPTIONS, BYE and CANCEL without asking its user, repeats its answer to a repeated
//! request and its ACK to a repeated answer. Everything else waits in an inbox.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::clock::{self, Instant};

use super::draft;
use super::envelope::fresh;
use super::failure::Failure;
use super::inbox::Inbox;
use super::sip_text::SipText;
use super::transcript::{Direction, Transcript};
use super::user_agent::Reaction;
use super::wire::{Route, Wire, lock};

/// What the reading thread and the conversation share.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) transcript: Transcript,
    pub(super) requests: Inbox<Arrived>,
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

/// A request that waits for the conversation.
pub(super) struct Arrived {
    pub(super) request: SipText,
    pub(super) route: Route,
    /// An answer that the agent gives by itself has been sent by then.
    pub(super) at: Instant,
}

impl Arrived {
    fn now(request: SipText, route: Route) -> Self {
        let at = clock::now().instant;
        Self { request, route, at }
    }
}

impl Line {
    /// Without a wire yet.
    pub(super) fn new(name: &str, transcript: &Transcript) -> Self {
        Self {
            name: name.to_owned(),
            transcript: transcript.clone(),
            requests: Inbox::new(),
            responses: Inbox::new(),
            tag: fresh("t"),
            answers: Mutex::new(HashMap::new()),
            ringing: Mutex::new(HashMap::new()),
            acks: Mutex::new(HashMap::new()),
            reaction: Mutex::new(Reaction::Answer(200)),
            wire: Mutex::new(None),
        }
    }

    /// Gives it its wire, or takes it away and thereby ends the reading thread.
    pub(super) fn put_on(&self, wire: Option<Wire>) {
        *lock(&self.wire) = wire.map(Arc::new);
    }

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

    /// Takes what the wire read.
    pub(super) fn receive(&self, route: Route, octets: &[u8]) {
        let Some(message) = SipText::read(octets) else {
            return;
        };
        self.transcript
            .record(&self.name, Direction::Received, octets);
        match message.method() {
            None => self.receive_response(message),
            Some("ACK") => self.requests.push(Arrived::now(message, route)),
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
        self.requests.push(Arrived::now(request, route));
    }

    /// A CANCEL of this INVITE comes too late from here on.
    pub(super) fn stops_ringing(&self, invite: &SipText) {
        lock(&self.ringing).remove(&transaction(invite));
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
