//! The receiving half of a session (RFC 4975 §7.3.1): chunks in, octets with their place out.
//!
//! Nothing is buffered: every octet goes to the user as it comes, with its offset, and only which
//! octets are here is remembered. A message is complete when all octets before the end that its `$`
//! chunk set are here. The user decides what every chunk is answered; Failure-Report decides whether
//! the answer is sent.

mod repetition;
mod settlement;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::event::{ChunkId, InboundId, SessionEvent};
use super::frame::{ByteRange, Continuation, FailureReport, RequestHead, SendFields};
use super::outbox::Outbox;
use super::ranges::RangeSet;
use super::sdp::accepts;
use repetition::{Checksum, Repetition};

/// Bounds on what a peer can make us remember in one session.
#[derive(Clone, Copy, Debug)]
pub struct IncomingLimits {
    /// Largest message, in octets; over it 413.
    pub message: u64,
    /// Messages that have begun and are not complete; over it 413.
    pub arriving: usize,
    /// Messages that have not been settled; over it 413.
    pub unsettled: usize,
    /// Chunks that have not been answered; over it 413.
    pub unanswered: usize,
    /// Separate ranges of octets in one message; over it 413.
    pub pieces: usize,
    /// Octets of refused messages that are read and dropped; over it the peer does not stop sending (RFC 4975
    /// §10.5), and its connection is closed. What it had handed to its system before it heard of the refusal
    /// comes all the same.
    pub refused: u64,
}

impl Default for IncomingLimits {
    fn default() -> Self {
        Self {
            message: 100 * 1024 * 1024,
            arriving: 16,
            unsettled: 1024,
            unanswered: 8192,
            pieces: 64,
            refused: 4 * 1024 * 1024,
        }
    }
}

/// Settled messages whose Message-ID is still known, so that late chunks and reports find them.
const REMEMBERED: usize = 64;

/// The addresses of our frames, fixed for a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses<'a> {
    /// First hop towards the peer, where responses go.
    pub(super) hop: &'a str,
    pub(super) local: &'a str,
}

#[derive(Debug)]
struct PendingChunk {
    serial: u64,
    transaction: Box<str>,
}

#[derive(Debug)]
struct Inbound {
    message_id: Box<str>,
    success_report: bool,
    failure_report: FailureReport,
    total: Option<u64>,
    /// What the `$` chunk said.
    length: Option<u64>,
    here: RangeSet,
    /// Of what is here, as far as it came in order.
    checksum: Checksum,
    complete: bool,
    unanswered: VecDeque<PendingChunk>,
}

impl Inbound {
    /// The `$` chunk sets the length (RFC 4975 §7.3.1), once; false if that contradicts what is here, or what
    /// the peer said that it would be.
    fn set_length(&mut self, length: u64) -> bool {
        let mut said = self.length.into_iter().chain(self.total);
        let other = said.any(|known| known != length);
        self.length = Some(length);
        !other && !self.overruns()
    }

    /// A chunk says how long the message is; false if another one said otherwise.
    fn set_total(&mut self, total: Option<u64>) -> bool {
        let other = total.is_some_and(|total| self.total.is_some_and(|known| known != total));
        self.total = self.total.or(total);
        !other
    }

    fn overruns(&self) -> bool {
        let mut bounds = self.length.into_iter().chain(self.total);
        bounds.any(|length| self.here.end() > length)
    }

    /// The length, if every octet is here for the first time.
    fn newly_complete(&mut self) -> Option<u64> {
        let length = self.length.filter(|length| self.here.covers(*length))?;
        let newly = !std::mem::replace(&mut self.complete, true);
        newly.then_some(length)
    }
}

#[derive(Debug)]
struct Settled {
    id: InboundId,
    message_id: Box<str>,
    /// A checksum of it: each new message is compared with all that are remembered.
    sum: u32,
    status: u16,
    success_report: bool,
    failure_report: FailureReport,
    length: u64,
    checksum: Checksum,
}

/// The SEND that is arriving.
#[derive(Debug)]
enum Frame {
    /// None, or one whose octets are not wanted.
    Skipped,
    /// One whose message was refused.
    Refused,
    /// Answered already; it may yet abort this message.
    Bodiless(Option<InboundId>),
    /// One of a message that has been taken, from its first octet; answered when it is over.
    Repeated(Repetition),
    Chunk(ArrivingChunk),
}

#[derive(Debug)]
struct ArrivingChunk {
    message: InboundId,
    transaction: Box<str>,
    /// Where its first octet belongs, from 0.
    start: u64,
    received: u64,
    /// Of what it holds, if the message is here already.
    checksum: Checksum,
    /// How long the whole message is, as this chunk has it.
    total: Option<u64>,
}

/// What a REPORT about a message needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reportable {
    pub(super) message_id: Box<str>,
    pub(super) success_report: bool,
    pub(super) failure_report: FailureReport,
    pub(super) length: u64,
}

#[derive(Debug)]
pub(super) struct Incoming {
    limits: IncomingLimits,
    accept_types: Vec<String>,
    messages: BTreeMap<InboundId, Inbound>,
    by_message_id: BTreeMap<Box<str>, InboundId>,
    settled: VecDeque<Settled>,
    frame: Frame,
    unanswered: usize,
    arriving: usize,
    /// Octets of refused messages that have come since one was taken.
    wasted: u64,
    next_message: u64,
    next_chunk: u64,
}

impl Frame {
    /// The rest of a frame that has been answered so.
    fn after(status: u16) -> Self {
        match status {
            ..300 => Self::Skipped,
            _ => Self::Refused,
        }
    }
}

impl Incoming {
    pub(super) fn new(limits: IncomingLimits, accept_types: Vec<String>) -> Self {
        Self {
            limits,
            accept_types,
            messages: BTreeMap::new(),
            by_message_id: BTreeMap::new(),
            settled: VecDeque::new(),
            frame: Frame::Skipped,
            unanswered: 0,
            arriving: 0,
            wasted: 0,
            next_message: 0,
            next_chunk: 0,
        }
    }

    pub(super) fn set_accept_types(&mut self, accept_types: Vec<String>) {
        self.accept_types = accept_types;
    }

    /// The rest of the frame that begins is of no interest.
    pub(super) fn skip(&mut self) {
        self.frame = Frame::Skipped;
    }

    /// A SEND begins.
    pub(super) fn begin(&mut self, head: &RequestHead, to: Addresses<'_>, out: &mut Outbox) {
        self.frame = Frame::Skipped;
        match self.open_frame(head, to, out) {
            Ok(frame) => self.frame = frame,
            Err(status) => {
                self.frame = Frame::after(status);
                if head.failure_report().answers(status) {
                    out.respond(head.transaction(), status, to.hop, to.local);
                }
            }
        }
    }

    fn open_frame(
        &mut self,
        head: &RequestHead,
        to: Addresses<'_>,
        out: &mut Outbox,
    ) -> Result<Frame, u16> {
        let fields = head.send().map_err(|_| 400u16)?;
        let known = fields
            .message_id
            .and_then(|id| self.by_message_id.get(id).copied());
        if !head.has_body() {
            // Answered before anything of ours follows: a peer that binds with it may take nothing else
            // until it has the answer.
            if fields.failure_report.answers(200) {
                out.respond(head.transaction(), 200, to.hop, to.local);
            }
            return Ok(Frame::Bodiless(known));
        }
        let message_id = fields.message_id.ok_or(400u16)?;
        let start = self.start_of(&fields, known)?;
        let message = match known {
            Some(message) => message,
            None => match self.find_settled(message_id) {
                Some(settled) => return settled.repeated(head, &fields, start),
                None => self.begin_message(message_id, &fields, out)?,
            },
        };
        if self.unanswered >= self.limits.unanswered {
            return Err(413);
        }
        Ok(Frame::Chunk(ArrivingChunk {
            message,
            transaction: head.transaction().into(),
            start,
            received: 0,
            checksum: Checksum::default(),
            total: fields.byte_range.and_then(|range| range.total),
        }))
    }

    /// Where the chunk belongs, from 0.
    fn start_of(&self, fields: &SendFields<'_>, known: Option<InboundId>) -> Result<u64, u16> {
        let Some(range) = fields.byte_range else {
            // Only the first chunk may leave the range out (RFC 4975 §7.1.1): a new message, or one
            // that is here already and comes again.
            let begins = |id| {
                self.messages
                    .get(&id)
                    .is_none_or(|inbound| inbound.complete)
            };
            return if known.is_none_or(begins) {
                Ok(0)
            } else {
                Err(400)
            };
        };
        let start = range.start - 1;
        let furthest = range.total.unwrap_or(start).max(start);
        if furthest > self.limits.message {
            return Err(413);
        }
        Ok(start)
    }

    fn begin_message(
        &mut self,
        message_id: &str,
        fields: &SendFields<'_>,
        out: &mut Outbox,
    ) -> Result<InboundId, u16> {
        let content_type = fields.content_type.ok_or(400u16)?;
        let id = InboundId(self.next_message);
        self.next_message += 1;
        if let Some(status) = self.unwelcome(content_type) {
            // Remembered, so that its other chunks fare alike.
            self.remember(Settled {
                id,
                message_id: message_id.into(),
                sum: crc32c::crc32c(message_id.as_bytes()),
                status,
                success_report: false,
                failure_report: fields.failure_report,
                length: 0,
                checksum: Checksum::default(),
            });
            return Err(status);
        }
        let total = fields.byte_range.and_then(|range| range.total);
        self.messages.insert(
            id,
            Inbound {
                message_id: message_id.into(),
                success_report: fields.success_report,
                failure_report: fields.failure_report,
                total,
                length: None,
                here: RangeSet::default(),
                checksum: Checksum::default(),
                complete: false,
                unanswered: VecDeque::new(),
            },
        );
        self.by_message_id.insert(message_id.into(), id);
        self.arriving += 1;
        out.tell(SessionEvent::MessageBegun {
            message: id,
            content_type: content_type.to_owned(),
            total,
            message_id: message_id.to_owned(),
            success_report: fields.success_report,
            failure_report: fields.failure_report,
        });
        Ok(id)
    }

    /// Why a new message of this type is refused, if it is.
    fn unwelcome(&self, content_type: &str) -> Option<u16> {
        if !accepts(&self.accept_types, content_type) {
            return Some(415);
        }
        let full =
            self.arriving >= self.limits.arriving || self.messages.len() >= self.limits.unsettled;
        full.then_some(413)
    }

    /// Octets of the SEND that began last.
    pub(super) fn data(&mut self, octets: Bytes, to: Addresses<'_>, out: &mut Outbox) {
        let chunk = match &mut self.frame {
            Frame::Chunk(chunk) => chunk,
            Frame::Refused => {
                self.wasted += octets.len() as u64;
                return;
            }
            Frame::Repeated(repetition) => return repetition.add(&octets),
            Frame::Skipped | Frame::Bodiless(_) => return,
        };
        let id = chunk.message;
        let Some(inbound) = self.messages.get_mut(&id) else {
            return;
        };
        let offset = chunk.start + chunk.received;
        let end = offset.saturating_add(octets.len() as u64);
        chunk.received = end - chunk.start;
        if inbound.complete {
            chunk.checksum.add(offset, &octets);
            return;
        }
        inbound.checksum.add(offset, &octets);
        inbound.here.insert(offset, end);
        if end > self.limits.message || inbound.here.pieces() > self.limits.pieces {
            self.break_off(id, 413, to, out);
            return;
        }
        out.tell(SessionEvent::Data {
            message: id,
            offset,
            octets,
        });
    }

    /// Whether the peer goes on sending what was refused.
    pub(super) fn is_abused(&self) -> bool {
        self.wasted > self.limits.refused
    }

    /// The SEND that began last is over.
    pub(super) fn end(&mut self, flag: Continuation, to: Addresses<'_>, out: &mut Outbox) {
        match std::mem::replace(&mut self.frame, Frame::Skipped) {
            Frame::Skipped | Frame::Refused => {}
            Frame::Repeated(repetition) => repetition.end(flag, to, out),
            Frame::Bodiless(message) => {
                if let (Continuation::Aborted, Some(message)) = (flag, message) {
                    self.abort(message, to, out);
                }
            }
            Frame::Chunk(chunk) => self.end_chunk(chunk, flag, to, out),
        }
    }

    fn end_chunk(
        &mut self,
        chunk: ArrivingChunk,
        flag: Continuation,
        to: Addresses<'_>,
        out: &mut Outbox,
    ) {
        let id = chunk.message;
        let Some(inbound) = self.messages.get_mut(&id) else {
            return;
        };
        let message = id;
        let serial = self.next_chunk;
        self.next_chunk += 1;
        self.unanswered += 1;
        inbound.unanswered.push_back(PendingChunk {
            serial,
            transaction: chunk.transaction,
        });
        let end = chunk.start + chunk.received;
        if inbound.complete {
            let is_whole = flag == Continuation::Last && chunk.start == 0;
            let is_other = inbound.length != Some(end) || inbound.checksum.differs(&chunk.checksum);
            if is_whole && is_other {
                return self.answer(ChunkId { message, serial }, 400, to, out);
            }
        } else {
            let is_sound = match flag {
                Continuation::Aborted => return self.abort(id, to, out),
                Continuation::Last => inbound.set_total(chunk.total) && inbound.set_length(end),
                Continuation::More => inbound.set_total(chunk.total) && !inbound.overruns(),
            };
            if !is_sound {
                return self.break_off(id, 400, to, out);
            }
        }
        self.wasted = 0;
        let Some(inbound) = self.messages.get_mut(&id) else {
            return;
        };
        out.tell(SessionEvent::ChunkDone {
            message,
            chunk: ChunkId { message, serial },
            range: ByteRange {
                start: chunk.start + 1,
                end: Some(end),
                total: inbound.length.or(inbound.total),
            },
        });
        if let Some(length) = inbound.newly_complete() {
            self.arriving -= 1;
            out.tell(SessionEvent::MessageDone { message, length });
        }
    }
}
