//! One end of one MSRP session with one peer (RFC 4975): a machine without sockets and clocks.
//!
//! It is fed the frames its connection reads ([`super::reader`]), tells what they mean
//! ([`Session::poll_event`]), and gives the frames to be written ([`Session::poll_transmit`]), which
//! [`super::connection_queue`] mixes fairly with those of other sessions. `C` names a connection.

use std::collections::VecDeque;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};

use super::event::{ChunkId, EndReason, InboundId, OutboundId, SessionEvent};
use super::frame::{ByteRange, FrameEvent, Method, RequestHead};
use super::incoming::{Addresses, Incoming, IncomingLimits, Reportable};
use super::outbox::{Outbox, Tag};
use super::outgoing::{OutboundMessage, Outgoing, OutgoingLimits, Route, Want};
use super::uri::{MsrpPath, MsrpUri, new_transaction_id, shard_of_session_id};
use super::writer::{ReportHead, refuse, write_report};
use crate::clock::Instant;
use crate::net::pieces::Pieces;
use crate::token::Tokens;

/// What was negotiated, and the bounds.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Our URI.
    pub local: MsrpUri,
    /// The peer's path.
    pub remote: MsrpPath,
    /// Types we take unwrapped; all else is answered 415.
    pub accept_types: Vec<String>,
    /// Bounds of the receiving half.
    pub incoming: IncomingLimits,
    /// Pace of the sending half.
    pub outgoing: OutgoingLimits,
}

/// A whole frame to be written.
#[derive(Clone, Debug)]
pub struct Transmit<C> {
    /// On which connection.
    pub connection: C,
    /// The frame.
    pub octets: Pieces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State<C> {
    /// No connection has been shown to be ours.
    Unbound,
    /// We opened the connection; the peer has not spoken on it.
    Opened(C),
    /// The peer has spoken on it.
    Bound(C),
    /// Over; frames are answered 481.
    Ended,
}

/// Our end of a session.
#[derive(Debug)]
pub struct Session<C> {
    local: MsrpUri,
    remote: MsrpPath,
    /// The remote path as it is written.
    to_path: String,
    shard: u16,
    state: State<C>,
    incoming: Incoming,
    outgoing: Outgoing,
    outbox: Outbox,
    /// Refusals for frames that came on a connection that is not ours.
    strays: VecDeque<Transmit<C>>,
    /// Frames that have been taken and have not been reported as written.
    taken: VecDeque<Tag>,
}

/// Refusals to other connections that wait to be taken; more are dropped.
const MAX_STRAYS: usize = 16;

impl<C: Copy + Eq + Debug> Session<C> {
    /// A session that has been negotiated and has no connection yet.
    pub fn new(config: SessionConfig) -> Self {
        let shard = config.local.session_id().and_then(shard_of_session_id);
        Self {
            to_path: config.remote.to_string(),
            shard: shard.unwrap_or_default(),
            state: State::Unbound,
            incoming: Incoming::new(config.incoming, config.accept_types),
            outgoing: Outgoing::new(config.outgoing),
            outbox: Outbox::default(),
            strays: VecDeque::new(),
            taken: VecDeque::new(),
            local: config.local,
            remote: config.remote,
        }
    }

    /// The connection this session uses.
    pub fn connection(&self) -> Option<C> {
        match self.state {
            State::Opened(connection) | State::Bound(connection) => Some(connection),
            State::Unbound | State::Ended => None,
        }
    }

    /// Whether the peer has spoken on the connection.
    pub fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound(_))
    }

    /// As the active side: this connection leads to the peer. A SEND has to follow at once (RFC 4975
    /// §5.4); with `bodiless` the session writes one without content.
    pub fn handle_connected(&mut self, connection: C, bodiless: bool, tokens: &mut Tokens) {
        if self.state != State::Unbound {
            return;
        }
        self.state = State::Opened(connection);
        if bodiless {
            self.send_bodiless(tokens);
        }
    }

    /// A changed offer or answer narrowed or widened what we take.
    pub fn set_accept_types(&mut self, accept_types: Vec<String>) {
        self.incoming.set_accept_types(accept_types);
    }

    /// The peer's path.
    pub fn remote(&self) -> &MsrpPath {
        &self.remote
    }

    /// Descriptions exchanged anew gave this session other paths (RFC 4975 §5.4, §8.4): it leaves its
    /// connection, which comes back, and waits for another. What is not known to have arrived is asked
    /// for and sent again under its Message-ID; what was still arriving counts as given up.
    pub fn rebind(&mut self, local: MsrpUri, remote: MsrpPath, tokens: &mut Tokens) -> Option<C> {
        let left = self.connection();
        self.state = State::Unbound;
        self.outbox.clear_frames();
        self.taken.clear();
        self.to_path = remote.to_string();
        self.local = local;
        self.remote = remote;
        self.incoming.restart(&mut self.outbox);
        let (to, outgoing, outbox) = self.sending();
        outgoing.restart(to, tokens, outbox);
        left
    }

    /// A connection has ended; if it is ours, so has the session (RFC 4975 §5.4).
    pub fn handle_connection_lost(&mut self, connection: C) {
        if self.connection() == Some(connection) {
            self.fail(EndReason::ConnectionLost);
        }
    }

    /// Whether the peer goes on sending what was refused (RFC 4975 §10.5): its connection is to be closed.
    pub fn is_abused(&self) -> bool {
        self.incoming.is_abused()
    }

    /// A piece of a frame that names this session came on `connection`.
    pub fn handle_frame(&mut self, connection: C, event: FrameEvent) {
        match event {
            FrameEvent::Request(head) => self.handle_request(connection, &head),
            FrameEvent::Response(head) if self.connection() == Some(connection) => {
                let (status, outbox) = (head.status(), &mut self.outbox);
                let (ours, end) = self.outgoing.response(head.transaction(), status, outbox);
                match end {
                    Some(reason) => self.fail(reason),
                    None if ours => self.bind(connection),
                    None => {}
                }
            }
            FrameEvent::Data(octets) if self.connection() == Some(connection) => {
                let (to, incoming, outbox) = self.receiving();
                incoming.data(octets, to, outbox);
            }
            FrameEvent::End(flag) if self.connection() == Some(connection) => {
                let (to, incoming, outbox) = self.receiving();
                incoming.end(flag, to, outbox);
            }
            FrameEvent::Response(_) | FrameEvent::Data(_) | FrameEvent::End(_) => {}
        }
    }

    fn handle_request(&mut self, connection: C, head: &RequestHead) {
        if self.connection().is_none_or(|ours| ours == connection) {
            self.incoming.skip();
        }
        if let Err(status) = self.check(connection, head) {
            self.refuse(connection, head, status);
            return;
        }
        self.bind(connection);
        match head.method() {
            Method::Send => {
                let (to, incoming, outbox) = self.receiving();
                incoming.begin(head, to, outbox);
            }
            Method::Report => {
                let fields = head.report();
                let end = fields.map(|fields| self.outgoing.report(&fields, &mut self.outbox));
                if let Ok(Some(reason)) = end {
                    self.fail(reason);
                }
            }
            // RFC 4975 §12
            Method::Other => self.refuse(connection, head, 501),
        }
    }

    /// RFC 4975 §5.4, §7.3: the request has to name this session, and come from its peer, on its
    /// connection.
    fn check(&self, connection: C, head: &RequestHead) -> Result<(), u16> {
        if self.state == State::Ended
            || !self.local.matches(head.to_path())
            || !self.remote.matches(head.from_path())
        {
            return Err(481);
        }
        match self.connection() {
            Some(ours) if ours != connection => Err(506),
            _ => Ok(()),
        }
    }

    fn refuse(&mut self, connection: C, head: &RequestHead, status: u16) {
        let Some(octets) = refuse(head, status) else {
            return;
        };
        if self.connection() == Some(connection) {
            self.outbox.write(octets, Tag::Plain);
        } else if self.strays.len() < MAX_STRAYS {
            let octets = octets.into();
            self.strays.push_back(Transmit { connection, octets });
        }
    }

    fn bind(&mut self, connection: C) {
        if matches!(self.state, State::Unbound | State::Opened(_)) {
            self.state = State::Bound(connection);
            self.outbox.tell(SessionEvent::Bound);
        }
    }

    fn fail(&mut self, reason: EndReason) {
        self.state = State::Ended;
        self.outbox.clear_frames();
        self.taken.clear();
        self.outbox.tell(SessionEvent::Ended { reason });
    }

    /// The session was closed by signalling: nothing more is written, and late frames get 481.
    pub fn close(&mut self) {
        self.state = State::Ended;
        self.outbox.clear_frames();
        self.taken.clear();
    }

    /// Answers one chunk, if Failure-Report allows (RFC 4975 §7.2).
    pub fn answer(&mut self, chunk: ChunkId, status: u16) {
        let (to, incoming, outbox) = self.receiving();
        incoming.answer(chunk, status, to, outbox);
    }

    /// Decides the fate of a message: every chunk still unanswered, also the one that is arriving,
    /// gets `status`; so will every chunk of it that comes later. May be called at any time, to refuse
    /// a message before it is complete.
    pub fn settle(&mut self, message: InboundId, status: u16) {
        let (to, incoming, outbox) = self.receiving();
        incoming.settle(message, status, to, outbox);
    }

    /// Sends a success REPORT for the whole message, if the peer asked for it (RFC 4975 §7.1.3).
    pub fn report_success(&mut self, message: InboundId, tokens: &mut Tokens) {
        self.report(message, 200, None, tokens);
    }

    /// Sends a REPORT about a message, or about a range of it, if the peer asked for one of that kind
    /// (RFC 4975 §7.1.3, §7.1.4). Works for a while after the message was settled.
    pub fn report(
        &mut self,
        message: InboundId,
        status: u16,
        range: Option<ByteRange>,
        tokens: &mut Tokens,
    ) {
        let Some(about) = self.incoming.reportable(message) else {
            return;
        };
        let wanted = match status {
            200 => about.success_report,
            status => about.failure_report.answers(status),
        };
        if wanted && self.connection().is_some() {
            self.write_report(&about, status, range, tokens);
        }
    }

    fn write_report(
        &mut self,
        about: &Reportable,
        status: u16,
        range: Option<ByteRange>,
        tokens: &mut Tokens,
    ) {
        let whole = ByteRange {
            start: 1,
            end: Some(about.length),
            total: Some(about.length),
        };
        let mut frame = BytesMut::with_capacity(320);
        let head = ReportHead {
            transaction: &new_transaction_id(self.shard, tokens),
            to_path: &self.to_path,
            from_path: self.local.as_str(),
            message_id: &about.message_id,
            byte_range: range.unwrap_or(whole),
            status,
        };
        write_report(&mut frame, &head);
        self.outbox.write(frame.freeze(), Tag::Plain);
    }

    /// Begins to send a message; its octets are pulled through [`Self::wants`].
    pub fn send(&mut self, message: OutboundMessage, tokens: &mut Tokens) -> OutboundId {
        let (to, outgoing, outbox) = self.sending();
        outgoing.send(message, to, tokens, outbox)
    }

    /// Sends a request without content: it binds the connection or keeps it alive (RFC 4975 §7.1).
    pub fn send_bodiless(&mut self, tokens: &mut Tokens) {
        let (to, outgoing, outbox) = self.sending();
        outgoing.send_bodiless(to, tokens, outbox);
    }

    /// The oldest message that has room for octets; `None` while the window of unanswered chunks is full
    /// or the session has no connection.
    pub fn wants(&self) -> Option<Want> {
        self.connection().and_then(|_| self.outgoing.wants().next())
    }

    /// Every message that has room for octets, oldest first.
    pub fn all_wants(&self) -> impl Iterator<Item = Want> {
        let connected = self.connection().is_some();
        self.outgoing.wants().filter(move |_| connected)
    }

    /// The room of one message, for a user who has octets for it but not for the oldest.
    pub fn wants_of(&self, message: OutboundId) -> Option<Want> {
        self.all_wants().find(|want| want.message == message)
    }

    /// Gives a message its next octets, at most as many as it wants. Of a message that is over by now
    /// nothing is taken.
    pub fn supply(&mut self, message: OutboundId, octets: &Bytes, tokens: &mut Tokens) {
        let (to, outgoing, outbox) = self.sending();
        outgoing.supply(message, octets, to, tokens, outbox);
    }

    /// Sends what was supplied without waiting for a full chunk: its author waits for an answer before
    /// there is more.
    pub fn flush(&mut self, message: OutboundId, tokens: &mut Tokens) {
        let (to, outgoing, outbox) = self.sending();
        outgoing.flush(message, to, tokens, outbox);
    }

    /// Whether the peer owes an answer for some part of a message.
    pub fn awaits_answer(&self, message: OutboundId) -> bool {
        self.outgoing.awaits_answer(message)
    }

    /// All octets of a message of unknown length have been supplied.
    pub fn end(&mut self, message: OutboundId, tokens: &mut Tokens) {
        let (to, outgoing, outbox) = self.sending();
        outgoing.end(message, to, tokens, outbox);
    }

    /// Gives a message up; the peer is told if it has any of it. Nothing more is heard of it.
    pub fn abort(&mut self, message: OutboundId, tokens: &mut Tokens) {
        let (to, outgoing, outbox) = self.sending();
        outgoing.abort(message, to, tokens, outbox);
    }

    /// The next thing that has happened.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.outbox.events.pop_front()
    }

    /// The next frame to be written.
    pub fn poll_transmit(&mut self) -> Option<Transmit<C>> {
        if let Some(stray) = self.strays.pop_front() {
            return Some(stray);
        }
        let connection = self.connection()?;
        let (octets, tag) = self.outbox.next_frame()?;
        self.taken.push_back(tag);
        Some(Transmit { connection, octets })
    }

    /// `frames` of this session's frames on `connection` have left, in the order they were taken.
    pub fn handle_written(&mut self, connection: C, frames: usize, now: Instant) {
        if self.connection() != Some(connection) {
            return;
        }
        for _ in 0..frames {
            if let Some(Tag::Request { serial, .. }) = self.taken.pop_front() {
                self.outgoing.left(serial, now, &mut self.outbox);
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Ended => None,
            _ => self.outgoing.next_deadline(),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Ended {
            return;
        }
        if let Some(reason) = self.outgoing.handle_timeout(now, &mut self.outbox) {
            self.fail(reason);
        }
    }

    /// Messages we sent that are not known to have arrived, oldest first.
    pub fn unconfirmed(&self) -> impl Iterator<Item = OutboundId> {
        self.outgoing.unconfirmed()
    }

    /// Octets that wait in this session: held, or in frames that have not been taken.
    pub fn buffered(&self) -> usize {
        self.outbox.octets() + self.outgoing.held()
    }

    fn receiving(&mut self) -> (Addresses<'_>, &mut Incoming, &mut Outbox) {
        let to = Addresses {
            hop: self.remote.first().as_str(),
            local: self.local.as_str(),
        };
        (to, &mut self.incoming, &mut self.outbox)
    }

    fn sending(&mut self) -> (Route<'_>, &mut Outgoing, &mut Outbox) {
        let to = Route {
            to_path: &self.to_path,
            local: self.local.as_str(),
            shard: self.shard,
        };
        (to, &mut self.outgoing, &mut self.outbox)
    }
}
