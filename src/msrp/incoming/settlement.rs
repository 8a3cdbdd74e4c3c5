//! How messages that arrived leave the books: answered, given up, refused, and what is remembered.

use super::{Addresses, Frame, Incoming, REMEMBERED, Reportable, Settled};
use crate::msrp::event::{ChunkId, InboundId, SessionEvent};
use crate::msrp::outbox::Outbox;

impl Incoming {
    /// The peer gave the message up: what it sent of it is answered and forgotten.
    pub(super) fn abort(&mut self, id: InboundId, to: Addresses<'_>, out: &mut Outbox) {
        let complete = self.messages.get(&id).is_none_or(|m| m.complete);
        if complete {
            return;
        }
        self.settle(id, 200, to, out);
        // A later SEND with the same Message-ID is a new attempt (RFC 4975 §5.4).
        self.settled.retain(|settled| settled.id != id);
        out.tell(SessionEvent::MessageAborted {
            message: id,
            status: None,
        });
    }

    pub(super) fn break_off(
        &mut self,
        id: InboundId,
        status: u16,
        to: Addresses<'_>,
        out: &mut Outbox,
    ) {
        self.settle(id, status, to, out);
        out.tell(SessionEvent::MessageAborted {
            message: id,
            status: Some(status),
        });
    }

    /// Answers one chunk; a second answer, and one that Failure-Report forbids, is not sent.
    pub(in crate::msrp) fn answer(
        &mut self,
        chunk: ChunkId,
        status: u16,
        to: Addresses<'_>,
        out: &mut Outbox,
    ) {
        let Some(inbound) = self.messages.get_mut(&chunk.message) else {
            return;
        };
        let place = inbound
            .unanswered
            .binary_search_by_key(&chunk.serial, |pending| pending.serial);
        let Some(pending) = place.ok().and_then(|at| inbound.unanswered.remove(at)) else {
            return;
        };
        self.unanswered -= 1;
        if inbound.failure_report.answers(status) {
            out.respond(&pending.transaction, status, to.hop, to.local);
        }
    }

    /// Answers all chunks that are still unanswered, also the one that is arriving unless it may be of another
    /// message, and forgets the message but for its fate: chunks that come later are answered alike.
    pub(in crate::msrp) fn settle(
        &mut self,
        id: InboundId,
        status: u16,
        to: Addresses<'_>,
        out: &mut Outbox,
    ) {
        let Some(inbound) = self.messages.remove(&id) else {
            return;
        };
        self.by_message_id.remove(&inbound.message_id);
        self.unanswered -= inbound.unanswered.len();
        self.arriving -= usize::from(!inbound.complete);
        let chunks = inbound.unanswered.iter().map(|chunk| &chunk.transaction);
        let mut transactions: Vec<&str> = chunks.map(AsRef::as_ref).collect();
        let arriving = match &self.frame {
            Frame::Chunk(chunk) if chunk.message == id => Some(chunk.transaction.clone()),
            _ => None,
        };
        if let Some(repetition) = self.repetition_of(id, &inbound, status) {
            self.frame = Frame::Repeated(repetition);
        } else if let Some(transaction) = &arriving {
            transactions.push(transaction);
            self.frame = Frame::after(status);
        }
        if inbound.failure_report.answers(status) {
            for transaction in transactions {
                out.respond(transaction, status, to.hop, to.local);
            }
        }
        self.remember(Settled {
            id,
            length: inbound.length.unwrap_or_else(|| inbound.here.end()),
            checksum: inbound.checksum,
            sum: crc32c::crc32c(inbound.message_id.as_bytes()),
            message_id: inbound.message_id,
            status,
            success_report: inbound.success_report,
            failure_report: inbound.failure_report,
        });
    }

    /// Another connection: what is not complete counts as given up, and may come again under its
    /// Message-ID; what is complete waits for its fate, and is answered when it comes again.
    pub(in crate::msrp) fn restart(&mut self, out: &mut Outbox) {
        self.frame = Frame::Skipped;
        let (complete, partial): (Vec<_>, Vec<_>) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(_, inbound)| inbound.complete);
        self.messages = complete.into_iter().collect();
        for inbound in self.messages.values_mut() {
            inbound.unanswered.clear();
        }
        self.unanswered = 0;
        self.arriving = 0;
        for (message, inbound) in partial {
            self.by_message_id.remove(&inbound.message_id);
            out.tell(SessionEvent::MessageAborted {
                message,
                status: None,
            });
        }
    }

    pub(super) fn remember(&mut self, settled: Settled) {
        if self.settled.len() == REMEMBERED {
            self.settled.pop_front();
        }
        self.settled.push_back(settled);
    }

    /// What a REPORT about a message needs, as long as the message is known.
    pub(in crate::msrp) fn reportable(&self, id: InboundId) -> Option<Reportable> {
        if let Some(inbound) = self.messages.get(&id) {
            return Some(Reportable {
                message_id: inbound.message_id.clone(),
                success_report: inbound.success_report,
                failure_report: inbound.failure_report,
                length: inbound.length.unwrap_or_else(|| inbound.here.end()),
            });
        }
        let settled = self.settled.iter().find(|settled| settled.id == id)?;
        Some(Reportable {
            message_id: settled.message_id.clone(),
            success_report: settled.success_report,
            failure_report: settled.failure_report,
            length: settled.length,
        })
    }
}
