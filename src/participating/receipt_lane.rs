//! Receipts on their way to an author of this shard: judged by the table of [`super::receipts`], one
//! after the other for each sender.
//!
//! The next receipt of a sender begins when the one before it has been answered. So `delivered` and
//! `displayed` arrive in that order by whatever way each came, and of two devices that say the same the
//! second is judged when it is known what became of the first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::clock::Now;
use crate::identity::Identity;
use crate::msrp::event::InboundId;
use crate::participating::chat::{ChatId, Side};
use crate::participating::delivery::DeliveryId;
use crate::participating::internal::{InternalMessage, Origin, ReceiptOutcome};
use crate::participating::pager::PagerId;
use crate::participating::receipts::{Receipt, Receipts, Verdict};
use crate::participating::service::{Service, Waiter};
use crate::participating::spool::BodySize;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::ServerId;
use crate::store::request::{Body, DeferredMessage, Refusal, Seq};

/// Receipts of one sender for one author that wait for each other.
const MOST_WAITING: usize = 256;

/// 403 for a receipt of somebody else's message (cpm-facts §8, §11).
pub(super) const NOT_THE_RECIPIENT: Rejection =
    Rejection::new(403, "Forbidden").with_warning("127 Service not authorised");

/// A receipt that came from another shard or from another part of this one.
#[derive(Clone, Debug)]
pub struct HandedReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// As it is kept.
    pub message: Arc<DeferredMessage>,
    /// Its octets.
    pub body: Body,
    /// Who waits for [`InternalMessage::Receipted`].
    pub origin: Option<Origin>,
}

/// A receipt that is being stored.
#[derive(Clone, Debug)]
pub struct StoringReceipt {
    receipt: Receipt,
    message: Arc<DeferredMessage>,
    size: BodySize,
    origin: Option<Origin>,
}

/// Who says it, and for whom.
type LaneKey = (Identity, Identity);

#[derive(Debug)]
enum Job {
    Message(PagerId, Receipt),
    Handed(Box<HandedReceipt>),
    Ask(Box<Receipt>, Origin),
}

/// A MESSAGE with a receipt that has no answer yet.
#[derive(Debug)]
struct Out {
    receipt: Receipt,
    taken: bool,
}

/// Who waits for what another shard says of a receipt.
#[derive(Debug)]
pub(super) enum Asker {
    /// A device that sent it inside a replay.
    Replay(DeliveryId, InboundId),
    /// One side of a live chat.
    Chat(ChatId, Side, InboundId),
    /// A MESSAGE that was not addressed to the author.
    Request(Box<Message>, ServerId),
}

/// The receipts of a shard's users.
#[derive(Debug)]
pub(super) struct ReceiptDesk {
    pub(super) table: Receipts,
    /// A lane exists while a receipt of it is under way; the others wait in it.
    lanes: HashMap<LaneKey, VecDeque<Job>, foldhash::fast::RandomState>,
    out: HashMap<PagerId, Out, foldhash::fast::RandomState>,
    pub(super) askers: HashMap<u64, Asker, foldhash::fast::RandomState>,
}

impl ReceiptDesk {
    pub(super) fn new(most: usize) -> Self {
        Self {
            table: Receipts::new(most),
            lanes: HashMap::default(),
            out: HashMap::default(),
            askers: HashMap::default(),
        }
    }

    /// Senders a receipt of whom is under way.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Senders that have a receipt under way, and who waits for another shard.
    pub(super) fn under_way(&self) -> usize {
        self.lanes.len() + self.askers.len()
    }
}

fn lane_of(receipt: &Receipt) -> LaneKey {
    (receipt.speaker.clone(), receipt.author.clone())
}

impl Service {
    /// A MESSAGE carries a receipt.
    pub(super) fn take_receipt(&mut self, id: PagerId, receipt: Receipt, now: Now) {
        let key = lane_of(&receipt);
        self.join_lane(key, Job::Message(id, receipt), now);
    }

    /// A receipt that came by another way than a MESSAGE to its author.
    pub(super) fn handle_handed_receipt(&mut self, handed: Box<HandedReceipt>, now: Now) {
        let key = lane_of(&handed.receipt);
        self.join_lane(key, Job::Handed(handed), now);
    }

    fn join_lane(&mut self, key: LaneKey, job: Job, now: Now) {
        match self.receipts.lanes.get_mut(&key) {
            None => {
                let lane = VecDeque::from([job]);
                self.receipts.lanes.insert(key.clone(), lane);
                self.run_lane(&key, now);
            }
            Some(lane) if lane.len() < MOST_WAITING => lane.push_back(job),
            Some(_) => self.turn_away(job, now),
        }
    }

    fn turn_away(&mut self, job: Job, now: Now) {
        match job {
            Job::Message(id, _) => self.refuse_overloaded(id, now),
            Job::Handed(handed) => self.tell_outcome(handed.origin, ReceiptOutcome::NotKept),
            Job::Ask(_, origin) => self.tell_outcome(Some(origin), ReceiptOutcome::NotKept),
        }
    }

    /// Begins with what waits until something is under way.
    fn run_lane(&mut self, key: &LaneKey, now: Now) {
        while let Some(job) = self
            .receipts
            .lanes
            .get_mut(key)
            .and_then(VecDeque::pop_front)
        {
            let goes_on = match job {
                Job::Message(id, receipt) => self.begin_message(id, receipt, now),
                Job::Handed(handed) => self.begin_handed(*handed, now),
                Job::Ask(receipt, origin) => self.answer_ask(&receipt, origin, now),
            };
            if goes_on {
                return;
            }
        }
        self.receipts.lanes.remove(key);
    }

    fn verdict(&mut self, receipt: &Receipt) -> Verdict {
        let verdict = self.receipts.table.judge(receipt);
        match verdict {
            Verdict::Pass => self.cancel_confirmed(receipt),
            Verdict::Duplicate => self.metrics.receipts_duplicate.count(),
            Verdict::NotTheRecipient => {
                self.metrics.receipts_refused.count();
                tracing::info!(sender = %receipt.speaker, "a receipt of somebody else's message");
            }
        }
        verdict
    }

    /// Whether the MESSAGE is under way.
    fn begin_message(&mut self, id: PagerId, receipt: Receipt, now: Now) -> bool {
        match self.verdict(&receipt) {
            Verdict::NotTheRecipient => self.refuse(id, &NOT_THE_RECIPIENT, now),
            Verdict::Duplicate => self.accept_without_effect(id, now),
            Verdict::Pass => {
                let taken = false;
                self.receipts.out.insert(id, Out { receipt, taken });
                self.start_pager(id, now);
                return self.finish_out(id, now).is_none();
            }
        }
        false
    }

    /// A MESSAGE was answered with 2xx: by a device, or because it is durable here.
    pub(super) fn receipt_taken(&mut self, id: PagerId) {
        if let Some(out) = self.receipts.out.get_mut(&id) {
            out.taken = true;
        }
    }

    /// Something happened to a MESSAGE; if it carries a receipt and has been answered, the next begins.
    pub(super) fn after_pager(&mut self, id: PagerId, now: Now) {
        if let Some(key) = self.finish_out(id, now) {
            self.run_lane(&key, now);
        }
    }

    /// The lane of a MESSAGE that has just been answered.
    fn finish_out(&mut self, id: PagerId, now: Now) -> Option<LaneKey> {
        if self.is_unanswered(id) {
            return None;
        }
        let Out { receipt, taken } = self.receipts.out.remove(&id)?;
        if taken {
            self.receipt_heard(&receipt, now);
        }
        Some(lane_of(&receipt))
    }

    /// May a receipt go to an author of this shard by the way it came?
    pub(super) fn handle_ask(&mut self, receipt: Box<Receipt>, origin: Origin, now: Now) {
        let key = lane_of(&receipt);
        self.join_lane(key, Job::Ask(receipt, origin), now);
    }

    fn answer_ask(&mut self, receipt: &Receipt, origin: Origin, now: Now) -> bool {
        let outcome = match self.verdict(receipt) {
            Verdict::Pass => {
                self.receipt_heard(receipt, now);
                ReceiptOutcome::Passed
            }
            Verdict::Duplicate => ReceiptOutcome::Taken,
            Verdict::NotTheRecipient => ReceiptOutcome::NotTheRecipient,
        };
        self.tell_outcome(Some(origin), outcome);
        false
    }

    /// Whether the receipt is on its way to the disk.
    fn begin_handed(&mut self, handed: HandedReceipt, now: Now) -> bool {
        let origin = handed.origin;
        match self.verdict(&handed.receipt) {
            Verdict::NotTheRecipient => {
                self.tell_outcome(origin, ReceiptOutcome::NotTheRecipient);
                return false;
            }
            Verdict::Duplicate => {
                self.tell_outcome(origin, ReceiptOutcome::Taken);
                return false;
            }
            Verdict::Pass => {}
        }
        let storing = StoringReceipt {
            receipt: handed.receipt,
            message: handed.message.clone(),
            size: BodySize::of(&handed.body),
            origin,
        };
        let waiter = Waiter::Receipt(Box::new(storing));
        let begun = self.begin_custody(&handed.message, handed.body, waiter, now);
        if !begun {
            tracing::warn!(recipient = %handed.message.recipient, "no room to accept a receipt");
            self.tell_outcome(origin, ReceiptOutcome::NotKept);
        }
        begun
    }

    /// The receipt is durable.
    pub(super) fn handle_receipt_stored(&mut self, storing: StoringReceipt, seq: Seq, now: Now) {
        self.receipt_heard(&storing.receipt, now);
        self.tell_outcome(storing.origin, ReceiptOutcome::Taken);
        self.hold(&storing.message, seq, storing.size, false, now);
        self.run_lane(&lane_of(&storing.receipt), now);
    }

    /// The receipt could not be stored: its sender still has it.
    pub(super) fn handle_receipt_not_stored(
        &mut self,
        storing: StoringReceipt,
        refusal: Refusal,
        now: Now,
    ) {
        let is_dropped = self.drop_own_receipt(&storing.message, refusal);
        self.end_storing(&storing.message, storing.size, now);
        let outcome = match is_dropped {
            true => ReceiptOutcome::Taken,
            false => ReceiptOutcome::NotKept,
        };
        self.tell_outcome(storing.origin, outcome);
        self.run_lane(&lane_of(&storing.receipt), now);
    }

    fn receipt_heard(&mut self, receipt: &Receipt, now: Now) {
        self.metrics.receipts_passed.count();
        let until = now.wall.plus(self.settings.lifetimes.receipts);
        let before = self.receipts.table.len();
        let forgotten = self.receipts.table.heard(receipt, until, now.wall);
        self.count_rows(before, forgotten);
    }

    /// Tells the metrics what became of the table.
    pub(super) fn count_rows(&self, before: usize, forgotten: usize) {
        let after = self.receipts.table.len();
        (before..after).for_each(|_| self.metrics.receipt_rows.rise());
        (after..before).for_each(|_| self.metrics.receipt_rows.fall());
        self.metrics.receipt_rows_forgotten.add(forgotten as u64);
    }

    /// Hands a receipt to the shard of its author; `asker` hears what becomes of it.
    pub(super) fn hand_receipt(
        &mut self,
        receipt: Receipt,
        message: DeferredMessage,
        body: Body,
        asker: Asker,
    ) {
        let number = self.next_number();
        self.receipts.askers.insert(number, asker);
        let shard = self.settings.shard;
        let author = receipt.author.clone();
        let handed = HandedReceipt {
            receipt,
            message: Arc::new(message),
            body,
            origin: Some(Origin { shard, number }),
        };
        self.tell_shard_of(&author, InternalMessage::Receipt(Box::new(handed)));
    }

    /// The author's shard has decided.
    pub(super) fn handle_receipted(&mut self, number: u64, outcome: ReceiptOutcome, now: Now) {
        if self.handle_author_told(number, outcome != ReceiptOutcome::NotKept, now) {
            return;
        }
        match self.receipts.askers.remove(&number) {
            Some(Asker::Replay(id, inbound)) => {
                self.settle_inbound(id, inbound, outcome.msrp_status());
            }
            Some(Asker::Chat(id, side, inbound)) => {
                self.handle_chat_receipt(id, side, inbound, outcome, now);
            }
            Some(Asker::Request(request, server)) => {
                self.handle_handed_on(&request, server, outcome, now);
            }
            None => {}
        }
    }

    fn tell_outcome(&mut self, origin: Option<Origin>, outcome: ReceiptOutcome) {
        if let Some(Origin { shard, number }) = origin {
            let answer = InternalMessage::Receipted { number, outcome };
            self.forwards.push_back((shard, Box::new(answer)));
        }
    }
}
