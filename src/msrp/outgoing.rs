//! The sending half of a session (RFC 4975 §7.1.1): octets in as there is room, chunks out.
//!
//! Chunks of at most 2,048 octets go out with exact ranges, which every client can read and which need
//! no interruption (§7.1.1, second strategy); a larger configured size writes `*` for the end. The last
//! chunk is held back until it is known to be the last, so that a message can be passed on while it is
//! still arriving and its length is unknown.

mod confirmation;
mod unsent;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use self::unsent::{Slices, Unsent};
use super::event::OutboundId;
use super::frame::{ByteRange, Continuation, FailureReport};
use super::outbox::{Outbox, Tag};
use super::ranges::RangeSet;
use super::uri::new_transaction_id;
use super::writer::{SendHead, collides, write_end_line, write_send_head};
use crate::clock::Instant;
use crate::net::pieces::Pieces;
use crate::token::Tokens;

/// How long a request may go unanswered after its last octet has left (RFC 4975 §7.1.1).
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest chunk that need not be interruptible (RFC 4975 §7.1.1).
pub const SMALL_CHUNK: usize = 2048;
/// The largest chunk that can be configured: it delays what waits behind it on its connection.
pub const MAX_CHUNK: usize = 64 * 1024;
/// Bodies of chunks up to so many octets are copied behind their heads: that costs less than another piece.
const COPIED: usize = 4 * 1024;
/// Messages that wait for a REPORT after all else is confirmed, and quiet chunks that may yet be
/// refused: the oldest are forgotten.
const REMEMBERED: usize = 64;

/// How fast octets go out.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingLimits {
    /// Octets of a chunk, [`SMALL_CHUNK`] to [`MAX_CHUNK`].
    pub chunk: usize,
    /// Chunks that may be unanswered.
    pub window: usize,
}

impl Default for OutgoingLimits {
    fn default() -> Self {
        Self {
            chunk: SMALL_CHUNK,
            window: 8,
        }
    }
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct OutboundMessage {
    /// Message-ID; a fresh one if `None`. A message sent again after its session failed keeps its own
    /// (RFC 4975 §5.4).
    pub message_id: Option<String>,
    /// Content-Type.
    pub content_type: String,
    /// Octets, if known; else the end is told by `end`.
    pub length: Option<u64>,
    /// Whether we want a REPORT of success.
    pub success_report: bool,
    /// Which failures we want to hear of; anything but `Yes` means no timer.
    pub failure_report: FailureReport,
}

/// A message that has room for octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub message: OutboundId,
    /// Where the octets begin, from 0.
    pub offset: u64,
    /// At most so many.
    pub max: usize,
}

#[derive(Debug)]
struct Outbound {
    message_id: Box<str>,
    content_type: Box<str>,
    success_report: bool,
    failure_report: FailureReport,
    total: Option<u64>,
    /// Octets that are not yet in a chunk.
    held: Unsent,
    /// Octets given by the user.
    supplied: u64,
    /// Octets put into chunks.
    chunked: u64,
    /// The `$` chunk is written.
    ended: bool,
    /// Chunks without an answer, or, if none is due, that have not left.
    in_flight: usize,
    /// Octets from the start that the peer has confirmed.
    confirmed: u64,
    delivered: bool,
    reported: RangeSet,
}

#[derive(Debug)]
struct InFlight {
    serial: u64,
    transaction: Box<str>,
    /// `None`: a bodiless SEND.
    message: Option<OutboundId>,
    /// The first octet of its message that it carries, from 0.
    start: u64,
    failure_report: FailureReport,
    /// Set when the last octet has left.
    deadline: Option<Instant>,
}

impl Outbound {
    /// Writes one chunk of `length` held octets.
    fn chunk(
        &mut self,
        limits: OutgoingLimits,
        length: usize,
        flag: Continuation,
        to: Route<'_>,
        tokens: &mut Tokens,
    ) -> (Pieces, String) {
        let body = self.held.take(length);
        let transaction = loop {
            let transaction = new_transaction_id(to.shard, tokens);
            if !collides(&body, &transaction) {
                break transaction;
            }
        };
        let end = self.chunked + length as u64;
        let exact = limits.chunk <= SMALL_CHUNK && flag != Continuation::Aborted;
        let start = if self.total == Some(0) {
            1
        } else {
            self.chunked + 1
        };
        let head = SendHead {
            transaction: &transaction,
            to_path: to.to_path,
            from_path: to.local,
            message_id: &self.message_id,
            byte_range: range(start, exact.then_some(end), self.total),
            success_report: self.success_report,
            failure_report: self.failure_report,
            content_type: Some(&self.content_type),
        };
        let frame = frame(&head, body, flag);
        self.chunked = end;
        (frame, transaction)
    }
}

/// The addresses of our requests, fixed for a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    pub(super) to_path: &'a str,
    pub(super) local: &'a str,
    pub(super) shard: u16,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    limits: OutgoingLimits,
    messages: BTreeMap<OutboundId, Outbound>,
    /// How many of them are not in chunks to their end.
    open: usize,
    in_flight: VecDeque<InFlight>,
    /// Chunks with Failure-Report partial that have left: only a refusal is ever heard of them.
    quiet: VecDeque<(Box<str>, OutboundId)>,
    next_message: u64,
    next_serial: u64,
}

impl Outgoing {
    pub(super) fn new(limits: OutgoingLimits) -> Self {
        let chunk = limits.chunk.clamp(SMALL_CHUNK, MAX_CHUNK);
        let window = limits.window.max(1);
        Self {
            limits: OutgoingLimits { chunk, window },
            messages: BTreeMap::new(),
            open: 0,
            in_flight: VecDeque::new(),
            quiet: VecDeque::new(),
            next_message: 0,
            next_serial: 0,
        }
    }

    pub(super) fn send(
        &mut self,
        message: OutboundMessage,
        to: Route<'_>,
        tokens: &mut Tokens,
        out: &mut Outbox,
    ) -> OutboundId {
        let id = OutboundId(self.next_message);
        self.next_message += 1;
        let in_use = |wanted: &String| self.messages.values().any(|it| *it.message_id == **wanted);
        let wanted = message.message_id.filter(|wanted| !in_use(wanted));
        let message_id = wanted.unwrap_or_else(|| tokens.token());
        self.messages.insert(
            id,
            Outbound {
                message_id: message_id.into(),
                content_type: message.content_type.into(),
                success_report: message.success_report,
                failure_report: message.failure_report,
                total: message.length,
                held: Unsent::default(),
                supplied: 0,
                chunked: 0,
                ended: false,
                in_flight: 0,
                confirmed: 0,
                delivered: false,
                reported: RangeSet::default(),
            },
        );
        self.open += 1;
        if message.length == Some(0) {
            self.cut(id, to, tokens, out);
        }
        id
    }

    /// A SEND without a body: it binds the connection, or keeps it alive.
    pub(super) fn send_bodiless(&mut self, to: Route<'_>, tokens: &mut Tokens, out: &mut Outbox) {
        let transaction = new_transaction_id(to.shard, tokens);
        let mut frame = BytesMut::with_capacity(256);
        let head = SendHead {
            transaction: &transaction,
            to_path: to.to_path,
            from_path: to.local,
            message_id: &tokens.token(),
            byte_range: range(1, Some(0), Some(0)),
            success_report: false,
            failure_report: FailureReport::Yes,
            content_type: None,
        };
        write_send_head(&mut frame, &head);
        write_end_line(&mut frame, &transaction, false, Continuation::Last);
        let frame = frame.freeze().into();
        self.launch(frame, transaction, None, FailureReport::Yes, out);
    }

    /// Another connection: every message that is not known to have arrived is sent again from its
    /// first octet, under its Message-ID (RFC 4975 §5.4).
    pub(super) fn restart(&mut self, to: Route<'_>, tokens: &mut Tokens, out: &mut Outbox) {
        self.in_flight.clear();
        self.quiet.clear();
        let mut empty = Vec::new();
        for (id, message) in self.messages.iter_mut().filter(|(_, m)| !m.delivered) {
            message.held.clear();
            message.supplied = 0;
            message.chunked = 0;
            message.ended = false;
            message.in_flight = 0;
            message.confirmed = 0;
            message.reported = RangeSet::default();
            if message.total == Some(0) {
                empty.push(*id);
            }
        }
        self.open = self.messages.values().filter(|it| !it.ended).count();
        for id in empty {
            self.cut(id, to, tokens, out);
        }
    }

    /// A message is over.
    fn remove(&mut self, id: OutboundId) -> Option<Outbound> {
        let message = self.messages.remove(&id)?;
        self.open -= usize::from(!message.ended);
        Some(message)
    }

    /// Messages with room for octets, oldest first.
    pub(super) fn wants(&self) -> impl Iterator<Item = Want> {
        let room = self.open > 0 && self.in_flight.len() < self.limits.window;
        let open = |message: &Outbound| {
            !message.ended && message.total.is_none_or(|total| message.supplied < total)
        };
        let messages = room.then(|| self.messages.iter()).into_iter().flatten();
        let messages = messages.filter(move |(_, m)| open(m));
        messages.map(|(id, message)| {
            let left = message.total.map_or(u64::MAX, |t| t - message.supplied);
            let chunk = self.limits.chunk;
            Want {
                message: *id,
                offset: message.supplied,
                max: usize::try_from(left).unwrap_or(chunk).min(chunk),
            }
        })
    }

    pub(super) fn supply(
        &mut self,
        id: OutboundId,
        octets: &Bytes,
        to: Route<'_>,
        tokens: &mut Tokens,
        out: &mut Outbox,
    ) {
        let Some(message) = self.messages.get_mut(&id).filter(|m| !m.ended) else {
            return;
        };
        let left = message.total.map_or(u64::MAX, |t| t - message.supplied);
        let taken = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(octets.len());
        message.held.push(octets.slice(..taken));
        message.supplied += taken as u64;
        self.cut(id, to, tokens, out);
    }

    pub(super) fn end(
        &mut self,
        id: OutboundId,
        to: Route<'_>,
        tokens: &mut Tokens,
        out: &mut Outbox,
    ) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.total = Some(message.supplied);
        }
        self.cut(id, to, tokens, out);
    }

    /// Puts what is held into a chunk though it is not full.
    pub(super) fn flush(
        &mut self,
        id: OutboundId,
        to: Route<'_>,
        tokens: &mut Tokens,
        out: &mut Outbox,
    ) {
        let Some(message) = self.messages.get_mut(&id) else {
            return;
        };
        if !message.ended && !message.held.is_empty() {
            let part = Some((id, message.chunked));
            let (length, flag) = (message.held.len(), Continuation::More);
            let (frame, transaction) = message.chunk(self.limits, length, flag, to, tokens);
            message.in_flight += 1;
            let failure_report = message.failure_report;
            self.launch(frame, transaction, part, failure_report, out);
        }
    }

    /// Whether a chunk of a message waits for its answer.
    pub(super) fn awaits_answer(&self, id: OutboundId) -> bool {
        self.in_flight.iter().any(|part| part.message == Some(id))
    }

    /// Gives a message up: with `#` if any of it has been sent (RFC 4975 §7.1).
    pub(super) fn abort(
        &mut self,
        id: OutboundId,
        to: Route<'_>,
        tokens: &mut Tokens,
        out: &mut Outbox,
    ) {
        let Some(mut message) = self.remove(id) else {
            return;
        };
        if message.chunked > 0 && !message.ended {
            let length = message.held.len();
            let flag = Continuation::Aborted;
            let start = message.chunked;
            let (frame, transaction) = message.chunk(self.limits, length, flag, to, tokens);
            let part = Some((id, start));
            self.launch(frame, transaction, part, message.failure_report, out);
        }
    }

    /// Puts held octets into chunks, as long as there are more than one chunk takes or no more will
    /// come.
    fn cut(&mut self, id: OutboundId, to: Route<'_>, tokens: &mut Tokens, out: &mut Outbox) {
        while let Some(message) = self.messages.get_mut(&id).filter(|it| !it.ended) {
            let all = message.total == Some(message.supplied);
            let last = all && message.held.len() <= self.limits.chunk;
            if !last && message.held.len() <= self.limits.chunk {
                return;
            }
            let (length, flag) = if last {
                (message.held.len(), Continuation::Last)
            } else {
                (self.limits.chunk, Continuation::More)
            };
            let part = Some((id, message.chunked));
            let (frame, transaction) = message.chunk(self.limits, length, flag, to, tokens);
            message.ended = last;
            message.in_flight += 1;
            let failure_report = message.failure_report;
            self.open -= usize::from(last);
            self.launch(frame, transaction, part, failure_report, out);
        }
    }

    fn launch(
        &mut self,
        frame: Pieces,
        transaction: String,
        part: Option<(OutboundId, u64)>,
        failure_report: FailureReport,
        out: &mut Outbox,
    ) {
        let message = part.map(|(message, _)| message);
        let serial = self.next_serial;
        self.next_serial += 1;
        self.in_flight.push_back(InFlight {
            serial,
            transaction: transaction.into(),
            message,
            start: part.map_or(0, |(_, start)| start),
            failure_report,
            deadline: None,
        });
        out.write(frame, Tag::Request { serial, message });
    }

    /// Messages that are not known to have been delivered, oldest first.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = OutboundId> {
        let messages = self.messages.iter().filter(|(_, m)| !m.delivered);
        messages.map(|(id, _)| *id)
    }

    /// Octets that wait to be put into chunks.
    pub(super) fn held(&self) -> usize {
        self.messages
            .values()
            .map(|message| message.held.len())
            .sum()
    }
}

/// A SEND with this body. A short body is copied to stand between its head and its end; a long one goes
/// as it lies in memory.
fn frame(head: &SendHead<'_>, body: Slices, flag: Continuation) -> Pieces {
    const HEAD: usize = 512;
    let length: usize = body.iter().map(Bytes::len).sum();
    let is_copied = length <= COPIED;
    let room = if is_copied { length } else { 0 };
    let mut octets = BytesMut::with_capacity(HEAD + room);
    write_send_head(&mut octets, head);
    if is_copied {
        body.iter().for_each(|slice| octets.put_slice(slice));
        write_end_line(&mut octets, head.transaction, true, flag);
        return octets.freeze().into();
    }
    let first = octets.split().freeze();
    write_end_line(&mut octets, head.transaction, true, flag);
    Pieces::new(first, body.into_iter().chain([octets.freeze()]))
}

fn range(start: u64, end: Option<u64>, total: Option<u64>) -> ByteRange {
    ByteRange { start, end, total }
}
