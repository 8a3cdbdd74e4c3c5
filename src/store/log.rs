//! The thread that writes the log: takes what waits, writes it at once, syncs once, answers all.
//!
//! Order of a commit: records, one sync, index, answers. A `Settle` is out of the index as soon as it
//! is taken from the queue, so a later `Load` of the same shard does not see the message.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use super::append::Appender;
use super::body::BodyJob;
use super::commit::RETRY_FULL;
use super::compact::{KeeperJob, Verdict};
use super::deferred::Health;
use super::footer::About;
use super::index::Taken;
use super::log_queue::LogQueue;
use super::manifest::Place;
use super::reader::{ReadJob, What};
use super::record::{
    self, BindingRecord, Kind, MarksRecord, MessageRecord, RecordBody, SettledRecord,
};
use super::request::{DeferredMessage, Quota, Refusal, Seq, Settlement, StoreToken};
use super::reserve::Reserve;
use super::seldom::Seldom;
use super::shared::Shared;
use crate::clock::{self, Instant};
use crate::identity::Identity;

/// A settlement waits so long for company: what devices confirm before it is durable comes twice if we are
/// killed, but a sync for each costs a replay more than all the rest. Who has enough asks for a sync at once
/// ([`LogJob::Flush`]).
const SETTLE_WITHIN: Duration = Duration::from_millis(2);
/// A binding, so long.
const BIND_WITHIN: Duration = Duration::from_millis(500);
/// Nothing has come for so long: the end of the log is marked. One who sends the next message as soon as he
/// has the answer to the last does not pay for a mark each time.
const QUIET: Duration = Duration::from_millis(20);
/// One write takes at most so much, unless a single record is larger.
const BATCH_OCTETS: usize = 2 * 1024 * 1024;

/// A message on its way into the log.
pub(super) struct Put {
    pub(super) shard: u16,
    pub(super) token: StoreToken,
    pub(super) seq: Seq,
    pub(super) message: Arc<DeferredMessage>,
    pub(super) body: RecordBody,
    pub(super) quota: Quota,
    /// Octets to give back to the shard's desk.
    pub(super) cost: usize,
    /// The body thread's name for the spool, to be told the outcome.
    pub(super) spool: Option<u64>,
}

/// A live record on its way from an old segment to the newest.
pub(super) struct Copy {
    pub(super) from: Place,
    pub(super) what: Copied,
}

pub(super) enum Copied {
    Message(Box<MessageRecord>),
    Settled(SettledRecord),
    Binding(BindingRecord),
    Marks(MarksRecord),
}

/// A changed record on its way into the log, and the question it answers.
pub(super) struct Rewrite {
    pub(super) shard: u16,
    pub(super) token: StoreToken,
    pub(super) from: Place,
    pub(super) record: Box<MessageRecord>,
}

impl Rewrite {
    /// Asks again, with what the record says by then.
    fn again(self) -> ReadJob {
        let message = self.record.message;
        ReadJob {
            shard: self.shard,
            token: self.token,
            what: What::Redate {
                recipient: message.recipient.clone(),
                seq: self.record.seq,
                expires_at: message.expires_at,
            },
        }
    }
}

/// What the log thread is asked.
pub(super) enum LogJob {
    Put(Put),
    Abandon {
        shard: u16,
        token: StoreToken,
    },
    Settle {
        shard: u16,
        recipient: Identity,
        seq: Seq,
        settlement: Settlement,
    },
    Bind {
        shard: u16,
        user: Identity,
        key: Box<str>,
        value: Option<bytes::Bytes>,
    },
    Mark {
        shard: u16,
        recipient: Identity,
        seq: Seq,
        device: u64,
    },
    Document {
        shard: u16,
        token: StoreToken,
        key: Box<str>,
        value: Option<bytes::Bytes>,
    },
    /// Answered once everything before it is durable.
    Flush {
        shard: u16,
        token: StoreToken,
    },
    /// A message's record with something changed in it, in place of the one it was made from.
    Rewrite(Rewrite),
    /// Goes on to the reader behind everything that was asked before.
    Read(ReadJob),
    /// A verdict for each that is still current; the sender is dropped after the last.
    Copy(Vec<Copy>, Sender<Verdict>),
    Close,
}

impl LogJob {
    /// Whether it is written some time later, together with others: nobody waits for it.
    pub(super) fn may_wait(&self) -> bool {
        matches!(
            self,
            Self::Settle { .. } | Self::Mark { .. } | Self::Bind { .. }
        )
    }
}

/// What follows once a record is durable.
pub(super) enum Effect {
    Stored(Put),
    Settled {
        shard: Option<u16>,
        taken: Taken,
    },
    Marked {
        shard: u16,
    },
    Bound {
        shard: u16,
        /// Somebody waits for it.
        token: Option<StoreToken>,
    },
    Rewritten(Rewrite),
    Copied(Copy, Sender<Verdict>),
    /// Taken back before it was written.
    None,
}

pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
    pub(super) about: About,
    pub(super) effect: Effect,
}

/// Where the log thread's work goes on.
pub(super) struct Onward {
    pub(super) reader: Sender<ReadJob>,
    pub(super) body: Sender<BodyJob>,
    pub(super) keeper: Sender<KeeperJob>,
}

/// The log thread.
pub(super) struct Log {
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: LogQueue,
    pub(super) onward: Onward,
    pub(super) appender: Appender,
    pub(super) reserve: Reserve,
    pub(super) items: Vec<Item>,
    pub(super) octets: usize,
    /// When the items must be written, at the latest.
    pub(super) deadline: Option<Instant>,
    /// The next time to ask for room on a full disk.
    pub(super) ask_again: Instant,
    /// That there is no room even for settlements is told.
    pub(super) settlements_wait: Seldom,
    pub(super) stored: HashMap<(u16, StoreToken), (Identity, Seq), foldhash::fast::RandomState>,
    pub(super) stored_order: VecDeque<(u16, StoreToken)>,
    pub(super) next_segment: u64,
    /// [`StoreConfig::compact_after`](super::deferred::StoreConfig).
    pub(super) compact_after: Duration,
    /// Messages whose records are rewritten by the items.
    pub(super) moving: HashSet<Seq, foldhash::fast::RandomState>,
    /// Questions that must be asked again after the commit.
    pub(super) again: Vec<ReadJob>,
    /// Who asked whether what came before is durable.
    pub(super) flushes: Vec<(u16, StoreToken)>,
    pub(super) closing: bool,
}

impl Log {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: LogQueue,
        onward: Onward,
        appender: Appender,
        reserve: Reserve,
        compact_after: Duration,
    ) -> Self {
        Self {
            moving: HashSet::default(),
            again: Vec::new(),
            next_segment: appender.segment.number + 1,
            compact_after,
            shared,
            jobs,
            onward,
            appender,
            reserve,
            items: Vec::new(),
            octets: 0,
            deadline: None,
            ask_again: Instant::default(),
            settlements_wait: Seldom::default(),
            stored: HashMap::default(),
            stored_order: VecDeque::new(),
            flushes: Vec::new(),
            closing: false,
        }
    }

    /// Runs until closed; everything asked before is written then.
    pub(super) fn run(mut self) {
        self.jobs.attend();
        while !self.closing {
            self.gather();
            self.commit();
            self.answer_flushes();
            self.shared.index().account(self.appender.lines.capacity());
            for job in self.again.drain(..) {
                let _ = self.onward.reader.send(job);
            }
            self.roll_if_full();
        }
        self.mark_synced();
        if let Err(error) = self.appender.sync() {
            tracing::error!(%error, "the end of the log is not marked");
        }
    }

    /// Nobody waits for this: it is done when there is nothing else to do.
    fn mark_synced(&mut self) {
        if let Err(error) = self.appender.mark_synced() {
            self.shared.poison("mark at the end of the log", &error);
        }
    }

    /// Takes jobs until something must be written now.
    fn gather(&mut self) {
        loop {
            let now = clock::now().instant;
            let full = self.shared.health() == Health::Full;
            match (self.deadline, full) {
                (Some(deadline), _) => self.jobs.rest(deadline.since(now)),
                // Somebody has to notice that there is room again.
                (None, true) if !self.receive(RETRY_FULL) => return,
                (None, true) => {}
                (None, false) => drop(self.receive(Duration::from_secs(3600))),
            }
            while self.octets < BATCH_OCTETS {
                match self.jobs.take() {
                    Ok(job) => self.absorb(job),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.closing = true;
                        break;
                    }
                }
            }
            let now = clock::now().instant;
            let due = self.deadline.is_some_and(|deadline| deadline <= now);
            if due || self.closing || self.octets >= BATCH_OCTETS {
                return;
            }
        }
    }

    /// Waits for one job; false if none came.
    fn receive(&mut self, within: Duration) -> bool {
        let at_once = self.jobs.take().ok();
        let soon = at_once.map_or_else(|| self.jobs.receive(QUIET), Ok);
        let job = soon.or_else(|_| {
            self.mark_synced();
            self.jobs.receive(within)
        });
        match job {
            Ok(job) => self.absorb(job),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
        true
    }

    fn absorb(&mut self, job: LogJob) {
        match job {
            LogJob::Put(put) => self.absorb_put(put),
            LogJob::Abandon { shard, token } => self.abandon(shard, token),
            LogJob::Settle {
                shard,
                recipient,
                seq,
                settlement,
            } => {
                if !self.settle(Some(shard), &recipient, seq, settlement) {
                    self.note_done(shard);
                }
            }
            LogJob::Bind {
                shard,
                user,
                key,
                value,
            } => {
                self.bind(shard, None, user, key, value);
                self.write_within(BIND_WITHIN);
            }
            LogJob::Document {
                shard,
                token,
                key,
                value,
            } => {
                self.bind(shard, Some(token), record::nobody(), key, value);
                self.write_within(Duration::ZERO);
            }
            LogJob::Mark {
                shard,
                recipient,
                seq,
                device,
            } => self.mark(shard, &recipient, seq, device),
            LogJob::Flush { shard, token } => {
                self.flushes.push((shard, token));
                self.write_within(Duration::ZERO);
            }
            LogJob::Rewrite(rewrite) => self.absorb_rewrite(rewrite),
            LogJob::Read(job) => {
                // The reader is joined after this thread.
                let _ = self.onward.reader.send(job);
            }
            LogJob::Copy(copies, verdict) => {
                for copy in copies {
                    self.absorb_copy(copy, &verdict);
                }
            }
            LogJob::Close => self.closing = true,
        }
    }

    fn absorb_put(&mut self, mut put: Put) {
        if self.shared.is_poisoned() {
            return self.refuse(&put, Refusal::Poisoned);
        }
        if let Err(refusal) = self.make_count(&put) {
            return self.refuse(&put, refusal);
        }
        let record = MessageRecord {
            seq: put.seq,
            generation: 0,
            message: Arc::clone(&put.message),
            body: put.body,
        };
        let (payload, about) = (record.encode(), About::message(&record));
        put.body = record.body;
        self.add(Kind::Message, payload, about, Effect::Stored(put));
        self.write_within(Duration::ZERO);
    }

    /// Counts a message among those that wait, unless there is no room for it.
    fn make_count(&self, put: &Put) -> Result<(), Refusal> {
        let (recipient, kind) = (&put.message.recipient, put.message.kind);
        let octets = put.body.length();
        let mut index = self.shared.index();
        let quota = put.quota.of_kind(kind);
        if octets > quota.octets {
            return Err(Refusal::TooLarge);
        }
        if !quota.has_room(index.holdings.of(recipient), octets) {
            return Err(Refusal::OverQuota);
        }
        let total = self.shared.quota.of_kind(kind);
        if !total.has_room(index.holdings.total(), octets) {
            return Err(Refusal::Full);
        }
        index.holdings.add(recipient, octets);
        Ok(())
    }

    fn abandon(&mut self, shard: u16, token: StoreToken) {
        let waiting = self.items.iter_mut().find(|item| {
            matches!(&item.effect, Effect::Stored(put) if put.shard == shard && put.token == token)
        });
        if let Some(item) = waiting {
            if let Effect::Stored(put) = std::mem::replace(&mut item.effect, Effect::None) {
                self.take_back(&put, Refusal::Unknown);
            }
        } else if let Some((recipient, seq)) = self.stored.remove(&(shard, token)) {
            self.settle(None, &recipient, seq, Settlement::Cancelled);
        }
        self.note_done(shard);
    }

    /// Takes a message out of the index and adds the record that says so; false if it was not there.
    fn settle(
        &mut self,
        shard: Option<u16>,
        recipient: &Identity,
        seq: Seq,
        settlement: Settlement,
    ) -> bool {
        let Some(taken) = self.shared.index().take(recipient, seq) else {
            return false;
        };
        self.forget_copy(seq);
        let record = SettledRecord {
            seq,
            segment: taken.entry.place.segment,
            settlement,
        };
        let about = About::settled(&record);
        // `None`: an abandoned Put, whose cancellation takes no credit of its own.
        let effect = Effect::Settled { shard, taken };
        self.add(Kind::Settled, record.encode(), about, effect);
        self.write_within(SETTLE_WITHIN);
        true
    }

    /// A copy that was not written yet must not outlive the settlement of its message.
    fn forget_copy(&mut self, settled: Seq) {
        if !self.moving.remove(&settled) {
            return;
        }
        let mut refused = None;
        for item in &mut self.items {
            match &item.effect {
                Effect::Copied(copy, _) => {
                    let copied = matches!(&copy.what,
                        Copied::Message(record) if record.seq == settled);
                    if copied {
                        item.effect = Effect::None;
                    }
                }
                Effect::Rewritten(rewrite) if rewrite.record.seq == settled => {
                    refused = Some((rewrite.shard, rewrite.token));
                    item.effect = Effect::None;
                }
                _ => {}
            }
        }
        if let Some((shard, token)) = refused {
            self.refuse_change(shard, token, Refusal::Unknown);
        }
    }

    /// A device has a message. Seen at once, like a settlement.
    fn mark(&mut self, shard: u16, recipient: &Identity, seq: Seq, device: u64) {
        let record = {
            let mut index = self.shared.index();
            let is_here = index.entry(recipient, seq).is_some();
            is_here.then(|| index.marks.add(seq, device)).flatten()
        };
        let Some(record) = record else {
            return self.note_done(shard);
        };
        let payload = record.encode();
        let about = About::Marks(record);
        self.add(Kind::Marks, payload, about, Effect::Marked { shard });
        self.write_within(SETTLE_WITHIN);
    }

    fn absorb_rewrite(&mut self, rewrite: Rewrite) {
        let record = &rewrite.record;
        let known = {
            let mut index = self.shared.index();
            index.entry(&record.message.recipient, record.seq)
        };
        match known {
            None => self.refuse_change(rewrite.shard, rewrite.token, Refusal::Unknown),
            Some(entry) if entry.place == rewrite.from && self.moving.insert(record.seq) => {
                let (payload, about) = (record.encode(), About::message(record));
                self.add(Kind::Message, payload, about, Effect::Rewritten(rewrite));
            }
            Some(_) => self.again.push(rewrite.again()),
        }
        self.write_within(Duration::ZERO);
    }

    fn bind(
        &mut self,
        shard: u16,
        token: Option<StoreToken>,
        user: Identity,
        key: Box<str>,
        value: Option<bytes::Bytes>,
    ) {
        let known = {
            let index = self.shared.index();
            index.bindings.get(&(user.clone(), key.clone())).copied()
        };
        let record = BindingRecord {
            revision: self.shared.next_seq().0,
            first: known.map_or(self.appender.segment.number, |entry| entry.first),
            user,
            key,
            value,
        };
        let about = About::binding(&record);
        self.add(
            record.kind(),
            record.encode(),
            about,
            Effect::Bound { shard, token },
        );
    }

    fn absorb_copy(&mut self, copy: Copy, verdict: &Sender<Verdict>) {
        let (kind, payload, about) = match &copy.what {
            Copied::Message(record) => {
                let mut index = self.shared.index();
                let entry = index.entry(&record.message.recipient, record.seq);
                if entry.is_none_or(|entry| entry.place != copy.from) {
                    return;
                }
                if !self.moving.insert(record.seq) {
                    // It is being rewritten: until that is durable its old record is needed.
                    let _ = verdict.send(Verdict::Failed);
                    return;
                }
                (Kind::Message, record.encode(), About::message(record))
            }
            Copied::Settled(record) => (Kind::Settled, record.encode(), About::settled(record)),
            Copied::Binding(record) => (record.kind(), record.encode(), About::binding(record)),
            Copied::Marks(record) => {
                if !self.shared.index().marks.is_at(record.seq, copy.from) {
                    return;
                }
                (Kind::Marks, record.encode(), About::Marks(record.clone()))
            }
        };
        self.add(kind, payload, about, Effect::Copied(copy, verdict.clone()));
        self.write_within(Duration::ZERO);
    }

    fn add(&mut self, kind: Kind, payload: Vec<u8>, about: About, effect: Effect) {
        self.octets += payload.len();
        self.items.push(Item {
            kind,
            payload,
            about,
            effect,
        });
    }

    pub(super) fn write_within(&mut self, wait: Duration) {
        let deadline = clock::now().instant + wait;
        self.deadline = Some(self.deadline.map_or(deadline, |known| known.min(deadline)));
    }
}
