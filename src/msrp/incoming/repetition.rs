//! A SEND under a Message-ID that was used: the same message again, or another. 200 would say that the other has
//! been taken.

use super::{Addresses, Frame, Inbound, Incoming, Settled};
use crate::msrp::event::InboundId;
use crate::msrp::frame::{Continuation, FailureReport, RequestHead, SendFields};
use crate::msrp::outbox::Outbox;

/// A checksum of the first octets of a message, as far as they came one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Checksum {
    octets: u64,
    crc: u32,
}

impl Checksum {
    /// What came at `offset`.
    pub(super) fn add(&mut self, offset: u64, octets: &[u8]) {
        if offset == self.octets {
            self.crc = crc32c::crc32c_append(self.crc, octets);
            self.octets += octets.len() as u64;
        }
    }

    /// Whether `other` is of something else, both being of messages of one length: where one of them did not come in
    /// order, that cannot be told.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self.octets == other.octets && self.crc != other.crc
    }
}

/// A SEND of a message that was taken, beginning with its first octet.
#[derive(Debug)]
pub(super) struct Repetition {
    transaction: Box<str>,
    failure_report: FailureReport,
    status: u16,
    /// What was taken.
    length: u64,
    taken: Checksum,
    come: Checksum,
}

impl Repetition {
    /// Octets of it.
    pub(super) fn add(&mut self, octets: &[u8]) {
        self.come.add(self.come.octets, octets);
    }

    /// The SEND is over: the rest of a message that comes in several is answered as the whole was.
    pub(super) fn end(self, flag: Continuation, to: Addresses<'_>, out: &mut Outbox) {
        let come = self.come.octets;
        let is_other = match flag {
            Continuation::Last => come != self.length || self.taken.differs(&self.come),
            Continuation::More | Continuation::Aborted => come > self.length,
        };
        let status = if is_other { 400 } else { self.status };
        if self.failure_report.answers(status) {
            out.respond(&self.transaction, status, to.hop, to.local);
        }
    }
}

impl Settled {
    /// What becomes of a SEND under its Message-ID; its first octet belongs at `start`.
    pub(super) fn repeated(
        &self,
        head: &RequestHead,
        fields: &SendFields<'_>,
        start: u64,
    ) -> Result<Frame, u16> {
        if self.status >= 300 {
            return Err(self.status);
        }
        let total = fields.byte_range.and_then(|range| range.total);
        if total.is_some_and(|total| total != self.length) {
            return Err(400);
        }
        if start > 0 {
            return Err(self.status);
        }
        Ok(Frame::Repeated(Repetition {
            transaction: head.transaction().into(),
            failure_report: fields.failure_report,
            status: self.status,
            length: self.length,
            taken: self.checksum.clone(),
            come: Checksum::default(),
        }))
    }
}

impl Incoming {
    /// The SEND that is arriving, if it repeats this message, which is about to be answered so.
    pub(super) fn repetition_of(
        &self,
        id: InboundId,
        inbound: &Inbound,
        status: u16,
    ) -> Option<Repetition> {
        let Frame::Chunk(chunk) = &self.frame else {
            return None;
        };
        let length = inbound.length.filter(|_| inbound.complete)?;
        let repeats = chunk.message == id && chunk.start == 0;
        (repeats && status < 300).then(|| Repetition {
            transaction: chunk.transaction.clone(),
            failure_report: inbound.failure_report,
            status,
            length,
            taken: inbound.checksum.clone(),
            come: chunk.checksum.clone(),
        })
    }

    /// The message of this name, if it was settled not long ago.
    pub(super) fn find_settled(&self, message_id: &str) -> Option<&Settled> {
        let sum = crc32c::crc32c(message_id.as_bytes());
        let mut settled = self.settled.iter();
        settled.find(|it| it.sum == sum && *it.message_id == *message_id)
    }
}
