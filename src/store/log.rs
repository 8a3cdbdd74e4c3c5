//! The thread that writes the log: takes what waits, writes it at once, syncs once, answers all.
//!
//! Order of a commit: records, one sync, index, answers. A `Settle` is out of the index as soon as it
//! is taken from the queue, so a later `Load` of the same shard does not see the message.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use super::append::{Appender, Full};
use super::body::BodyJob;
use super::compact::{KeeperJob, Verdict};
use super::files;
use super::footer::{About, Line};
use super::index::{BindingEntry, Entry, Taken};
use super::manifest::{Manifest, Place};
use super::reader::ReadJob;
use super::record::{BindingRecord, Kind, MessageRecord, RecordBody, SettledRecord};
use super::request::{DeferredMessage, Refusal, Seq, Settlement, StoreEvent, StoreToken};
use super::reserve::Reserve;
use super::shared::Shared;
use crate::clock::{self, Instant};
use crate::identity::Identity;

/// A settlement waits for company at most so long.
const SETTLE_WITHIN: Duration = Duration::from_millis(50);
/// A binding, so long.
const BIND_WITHIN: Duration = Duration::from_millis(500);
/// One write takes at most so much, unless a single record is larger.
const BATCH_OCTETS: usize = 2 * 1024 * 1024;
/// On a full disk room is asked for again this often.
const RETRY_FULL: Duration = Duration::from_millis(250);
/// So many answered `Put`s of a shard can still be abandoned.
const ABANDONABLE: usize = 8192;

/// A message on its way into the log.
pub(super) struct Put {
    pub(super) shard: u16,
    pub(super) token: StoreToken,
    pub(super) seq: Seq,
    pub(super) message: Box<DeferredMessage>,
    pub(super) body: RecordBody,
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
    /// With the new manifest, if the body moved too.
    Message(Box<MessageRecord>, Option<Manifest>),
    Settled(SettledRecord),
    Binding(BindingRecord),
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
    /// Goes on to the reader behind everything that was asked before.
    Read(ReadJob),
    /// A verdict for each that is still current; the sender is dropped after the last.
    Copy(Vec<Copy>, Sender<Verdict>),
    Close,
}

/// What follows once a record is durable.
enum Effect {
    Stored(Put),
    Settled {
        shard: Option<u16>,
        taken: Taken,
    },
    Bound {
        shard: u16,
    },
    Copied(Copy, Sender<Verdict>),
    /// Taken back before it was written.
    None,
}

struct Item {
    kind: Kind,
    payload: Vec<u8>,
    about: About,
    effect: Effect,
}

/// Where the log thread's work goes on.
pub(super) struct Onward {
    pub(super) reader: Sender<ReadJob>,
    pub(super) body: Sender<BodyJob>,
    pub(super) keeper: Sender<KeeperJob>,
}

/// The log thread.
pub(super) struct Log {
    shared: Arc<Shared>,
    jobs: Receiver<LogJob>,
    onward: Onward,
    appender: Appender,
    reserve: Reserve,
    items: Vec<Item>,
    octets: usize,
    /// When the items must be written, at the latest.
    deadline: Option<Instant>,
    /// The next time to ask for room on a full disk.
    ask_again: Instant,
    stored: HashMap<(u16, StoreToken), (Identity, Seq), foldhash::fast::RandomState>,
    stored_order: VecDeque<(u16, StoreToken)>,
    next_segment: u64,
    /// Copies of a compaction are among the items.
    copying: bool,
    closing: bool,
}

impl Log {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<LogJob>,
        onward: Onward,
        appender: Appender,
        reserve: Reserve,
    ) -> Self {
        Self {
            copying: false,
            next_segment: appender.segment.number + 1,
            shared,
            jobs,
            onward,
            appender,
            reserve,
            items: Vec::new(),
            octets: 0,
            deadline: None,
            ask_again: Instant::default(),
            stored: HashMap::default(),
            stored_order: VecDeque::new(),
            closing: false,
        }
    }

    /// Runs until closed; everything asked before is written then.
    pub(super) fn run(mut self) {
        while !self.closing {
            self.gather();
            self.commit();
            self.roll_if_full();
        }
    }

    /// Takes jobs until something must be written now.
    fn gather(&mut self) {
        loop {
            let now = clock::now().instant;
            let wait = match self.deadline {
                Some(deadline) => deadline.since(now),
                None => Duration::from_secs(3600),
            };
            match self.jobs.recv_timeout(wait) {
                Ok(job) => self.absorb(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.closing = true,
            }
            while self.octets < BATCH_OCTETS {
                match self.jobs.try_recv() {
                    Ok(job) => self.absorb(job),
                    Err(_) => break,
                }
            }
            let now = clock::now().instant;
            let due = self.deadline.is_some_and(|deadline| deadline <= now);
            if due || self.closing || self.octets >= BATCH_OCTETS {
                return;
            }
        }
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
            } => self.bind(shard, user, key, value),
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

    fn absorb_put(&mut self, put: Put) {
        if self.shared.is_poisoned() {
            return self.refuse(&put, Refusal::Poisoned);
        }
        let record = MessageRecord {
            seq: put.seq,
            generation: 0,
            message: (*put.message).clone(),
            body: put.body.clone(),
        };
        let about = About::message(&record);
        self.add(Kind::Message, record.encode(), about, Effect::Stored(put));
        self.write_within(Duration::ZERO);
    }

    fn abandon(&mut self, shard: u16, token: StoreToken) {
        let waiting = self.items.iter_mut().find(|item| {
            matches!(&item.effect, Effect::Stored(put) if put.shard == shard && put.token == token)
        });
        if let Some(item) = waiting {
            if let Effect::Stored(put) = std::mem::replace(&mut item.effect, Effect::None) {
                self.refuse(&put, Refusal::Unknown);
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
            segment: taken.place.segment,
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
        if !self.copying {
            return;
        }
        for item in &mut self.items {
            let copied = match &item.effect {
                Effect::Copied(copy, _) => matches!(&copy.what,
                    Copied::Message(record, _) if record.seq == settled),
                _ => false,
            };
            if copied {
                item.effect = Effect::None;
            }
        }
    }

    fn bind(&mut self, shard: u16, user: Identity, key: Box<str>, value: Option<bytes::Bytes>) {
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
            Effect::Bound { shard },
        );
        self.write_within(BIND_WITHIN);
    }

    fn absorb_copy(&mut self, copy: Copy, verdict: &Sender<Verdict>) {
        let (kind, payload, about) = match &copy.what {
            Copied::Message(record, _) => {
                let index = self.shared.index();
                let entry = index.entry(&record.message.recipient, record.seq);
                if entry.is_none_or(|entry| entry.place != copy.from) {
                    return;
                }
                (Kind::Message, record.encode(), About::message(record))
            }
            Copied::Settled(record) => (Kind::Settled, record.encode(), About::settled(record)),
            Copied::Binding(record) => (record.kind(), record.encode(), About::binding(record)),
        };
        self.add(kind, payload, about, Effect::Copied(copy, verdict.clone()));
        self.copying = true;
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

    fn write_within(&mut self, wait: Duration) {
        let deadline = clock::now().instant + wait;
        self.deadline = Some(self.deadline.map_or(deadline, |known| known.min(deadline)));
    }

    /// Writes and syncs the items, then does what follows from them.
    fn commit(&mut self) {
        self.deadline = None;
        self.octets = 0;
        self.copying = false;
        let mut items = std::mem::take(&mut self.items);
        items.retain(|item| !matches!(item.effect, Effect::None));
        if self.shared.health() == super::Health::Full && !self.room_again() {
            items = self.refuse_intake(items);
        }
        if items.is_empty() {
            return;
        }
        if self.shared.is_poisoned() {
            return self.fail(items);
        }
        match self.write(&items) {
            Ok(places) => self.take_effect(items, &places),
            Err(error) if files::is_full(&error) => self.commit_on_full_disk(items),
            Err(error) => {
                self.shared.poison("write or sync of the log", &error);
                self.fail(items);
            }
        }
    }

    /// After an error nothing is left in the file but what was there before.
    fn write(&mut self, items: &[Item]) -> io::Result<Vec<Place>> {
        let records: Vec<_> = items
            .iter()
            .map(|item| (item.kind, item.payload.as_slice()))
            .collect();
        match self.appender.append(&records) {
            Ok(places) => self.appender.sync().map(|()| places),
            Err(error) if files::is_full(&error) => {
                self.appender.take_back()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the reserve is whole again, so that intake may go on.
    fn room_again(&mut self) -> bool {
        let now = clock::now().instant;
        if now < self.ask_again {
            return false;
        }
        self.ask_again = now + RETRY_FULL;
        let whole = self.reserve.refill();
        if whole {
            self.shared.set_full(false);
        }
        whole
    }

    /// Refuses what takes room for good and writes the rest, with room from the reserve.
    fn commit_on_full_disk(&mut self, items: Vec<Item>) {
        self.shared.set_full(true);
        self.ask_again = clock::now().instant + RETRY_FULL;
        let items = self.refuse_intake(items);
        let octets: usize = items.iter().map(|item| item.payload.len() + 64).sum();
        while !items.is_empty() {
            match self.write(&items) {
                Ok(places) => return self.take_effect(items, &places),
                Err(error) if files::is_full(&error) => {
                    if !self
                        .reserve
                        .give(octets.next_multiple_of(256 * 1024) as u64)
                    {
                        return self.keep_for_later(items);
                    }
                }
                Err(error) => {
                    self.shared.poison("write or sync of the log", &error);
                    return self.fail(items);
                }
            }
        }
    }

    /// Even the reserve is used up: settlements and bindings wait, copies are given up.
    fn keep_for_later(&mut self, mut items: Vec<Item>) {
        tracing::error!(waiting = items.len(), "no room even for settlements");
        items.retain(|item| match &item.effect {
            Effect::Copied(_, verdict) => {
                let _ = verdict.send(Verdict::Failed);
                false
            }
            _ => true,
        });
        self.octets = items.iter().map(|item| item.payload.len()).sum();
        self.items = items;
        self.write_within(RETRY_FULL);
    }

    fn refuse_intake(&mut self, items: Vec<Item>) -> Vec<Item> {
        let (puts, rest): (Vec<_>, Vec<_>) = items
            .into_iter()
            .partition(|item| matches!(item.effect, Effect::Stored(_)));
        for item in puts {
            if let Effect::Stored(put) = item.effect {
                self.refuse(&put, Refusal::Full);
            }
        }
        rest
    }

    fn refuse(&self, put: &Put, refusal: Refusal) {
        self.tell_body(put, false);
        if let Some(desk) = self.shared.desks.get(usize::from(put.shard)) {
            desk.refuse_write(put.cost, put.token, refusal);
        }
    }

    fn tell_body(&self, put: &Put, stored: bool) {
        if let Some(spool) = put.spool {
            let _ = self.onward.body.send(BodyJob::Outcome { spool, stored });
        }
    }

    fn note_done(&self, shard: u16) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.notes.give(1);
        }
    }

    /// Nothing of these will be durable.
    fn fail(&mut self, items: Vec<Item>) {
        for item in items {
            match item.effect {
                Effect::Stored(put) => self.refuse(&put, Refusal::Poisoned),
                Effect::Settled { shard, .. } => {
                    if let Some(shard) = shard {
                        self.note_done(shard);
                    }
                }
                Effect::Bound { shard } => self.note_done(shard),
                Effect::Copied(_, verdict) => {
                    let _ = verdict.send(Verdict::Failed);
                }
                Effect::None => {}
            }
        }
    }

    /// The records are durable: first the index learns it, then those who wait.
    fn take_effect(&mut self, items: Vec<Item>, places: &[Place]) {
        let mut done = Vec::with_capacity(items.len());
        {
            let shared = self.shared.clone();
            let mut index = shared.index();
            for (item, place) in items.into_iter().zip(places) {
                apply(&mut index, &item, *place);
                self.appender.lines.push(Line {
                    position: place.position,
                    length: place.length,
                    about: item.about,
                });
                done.push(item.effect);
            }
            index
                .log
                .grew(self.appender.segment.number, self.appender.end);
        }
        for effect in done {
            self.answer(effect);
        }
        let _ = self.onward.keeper.send(KeeperJob::Look);
    }

    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::Stored(put) => {
                self.tell_body(&put, true);
                self.remember(&put);
                if let Some(desk) = self.shared.desks.get(usize::from(put.shard)) {
                    let (token, seq) = (put.token, put.seq);
                    desk.wrote(put.cost, StoreEvent::Stored { token, seq });
                }
            }
            Effect::Settled { shard, .. } => {
                if let Some(shard) = shard {
                    self.note_done(shard);
                }
            }
            Effect::Bound { shard } => self.note_done(shard),
            Effect::Copied(_, verdict) => {
                let _ = verdict.send(Verdict::Durable);
            }
            Effect::None => {}
        }
    }

    /// Until its answer has surely been read, a shard may still abandon a `Put`.
    fn remember(&mut self, put: &Put) {
        let key = (put.shard, put.token);
        self.stored
            .insert(key, (put.message.recipient.clone(), put.seq));
        self.stored_order.push_back(key);
        if self.stored_order.len() > ABANDONABLE * self.shared.desks.len()
            && let Some(oldest) = self.stored_order.pop_front()
        {
            self.stored.remove(&oldest);
        }
    }

    fn roll_if_full(&mut self) {
        if !self.appender.is_full() || self.shared.is_poisoned() {
            return;
        }
        let next_seq = self.shared.peek_seq();
        match self.appender.roll(self.next_segment, next_seq) {
            Ok(full) => self.rolled(full),
            Err(error) if files::is_full(&error) => {
                self.shared.set_full(true);
                // The old segment takes what is essential meanwhile.
                self.reserve.give(256 * 1024);
            }
            Err(error) => self.shared.poison("birth of a log segment", &error),
        }
    }

    fn rolled(&mut self, full: Full) {
        self.next_segment += 1;
        let segment = self.appender.segment.clone();
        self.shared
            .index()
            .log
            .insert(segment, self.appender.end, false);
        let _ = self.onward.keeper.send(KeeperJob::Seal(full));
    }
}

/// What the index learns of one durable record.
fn apply(index: &mut super::index::Index, item: &Item, place: Place) {
    match &item.effect {
        Effect::Stored(put) => {
            let entry = Entry {
                place,
                generation: 0,
                expires_at: put.message.expires_at,
            };
            let manifest = match &put.body {
                RecordBody::Large(manifest) => Some(Arc::new(manifest.clone())),
                RecordBody::Inline(_) => None,
            };
            index.put(&put.message.recipient, put.seq, entry, manifest);
        }
        Effect::Settled { taken, .. } => {
            index.settled(taken.place.segment, place);
            index.release(taken);
        }
        Effect::Bound { .. } => apply_binding(index, &item.about, place),
        Effect::Copied(copy, _) => match &copy.what {
            Copied::Message(record, manifest) => {
                let entry = Entry {
                    place,
                    generation: record.generation,
                    expires_at: record.message.expires_at,
                };
                let recipient = &record.message.recipient;
                index.moved(recipient, record.seq, copy.from, entry, manifest.clone());
            }
            Copied::Settled(record) => index.settled(record.segment, place),
            Copied::Binding(_) => apply_binding(index, &item.about, place),
        },
        Effect::None => {}
    }
}

fn apply_binding(index: &mut super::index::Index, about: &About, place: Place) {
    if let About::Binding {
        revision,
        first,
        user,
        key,
        removed,
    } = about
    {
        let entry = BindingEntry {
            place,
            revision: *revision,
            first: *first,
            removed: *removed,
        };
        index.bind(user.clone(), key.clone(), entry);
    }
}
