//! A commit of the log: one write, one sync, then the index, then the answers.
//!
//! On a full disk intake is refused and the rest is written with room from the reserve. After any
//! other failure nothing is written or acknowledged any more.

use std::io;
use std::time::Duration;

use super::append::Full;
use super::body::BodyJob;
use super::compact::{KeeperJob, Verdict};
use super::deferred::Health;
use super::files;
use super::footer::{About, Line};
use super::index::{BindingEntry, Index};
use super::log::{Copied, Effect, Item, Log, Put};
use super::manifest::Place;
use super::recent::Entry;
use super::record::{Kind, MessageRecord};
use super::request::{Refusal, StoreEvent, StoreToken};
use crate::clock::{self, Instant};

/// On a full disk room is asked for again this often.
pub(super) const RETRY_FULL: Duration = Duration::from_millis(250);
/// So many answered `Put`s of a shard can still be abandoned.
const ABANDONABLE: usize = 8192;

impl Item {
    /// Whether it is refused on a full disk: everything is that takes room for long.
    fn takes_room(&self) -> bool {
        match &self.effect {
            Effect::Stored(_) | Effect::Rewritten(_) => true,
            Effect::Bound { token, .. } => token.is_some() && self.kind == Kind::PutBinding,
            _ => false,
        }
    }
}

impl Log {
    /// Writes and syncs the items, then does what follows from them.
    pub(super) fn commit(&mut self) {
        self.deadline = None;
        self.octets = 0;
        self.moving.clear();
        let mut items = std::mem::take(&mut self.items);
        items.retain(|item| !matches!(item.effect, Effect::None));
        if self.shared.health() == Health::Full && !self.room_again() {
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
        let began = clock::now().instant;
        match self.appender.append(&records) {
            Ok(places) => {
                self.appender.sync()?;
                let took = clock::now().instant.since(began);
                self.shared.commits.observe(took);
                Ok(places)
            }
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
            self.shared.set_roomy();
        }
        whole
    }

    /// There is no room: the keeper gives back what it can.
    fn is_full(&mut self) {
        self.shared.set_full();
        self.ask_again = clock::now().instant + RETRY_FULL;
        let _ = self.onward.keeper.send(KeeperJob::Look);
    }

    /// Refuses what takes room for good and writes the rest, with room from the reserve.
    fn commit_on_full_disk(&mut self, items: Vec<Item>) {
        self.is_full();
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
        if self.settlements_wait.is_due(clock::now().instant) {
            tracing::error!(waiting = items.len(), "no room even for settlements");
        }
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
        let (puts, rest): (Vec<_>, Vec<_>) = items.into_iter().partition(Item::takes_room);
        for item in puts {
            self.fail_one(item.effect, Refusal::Full);
        }
        rest
    }

    /// Refuses a message that was counted already.
    pub(super) fn take_back(&self, put: &Put, refusal: Refusal) {
        let recipient = &put.message.recipient;
        let length = put.body.length();
        self.shared.index().holdings.remove(recipient, length);
        self.refuse(put, refusal);
    }

    pub(super) fn refuse_change(&self, shard: u16, token: StoreToken, refusal: Refusal) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.refuse_write(0, token, refusal);
        }
    }

    fn change_done(&self, shard: u16, token: StoreToken) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.wrote(0, StoreEvent::Changed { token });
        }
    }

    /// A commit is over: what was asked for before it is durable, or it could not be written.
    pub(super) fn answer_flushes(&mut self) {
        let refusal = match self.shared.is_poisoned() {
            true => Some(Refusal::Poisoned),
            false => (!self.items.is_empty()).then_some(Refusal::Full),
        };
        for (shard, token) in std::mem::take(&mut self.flushes) {
            let event = match refusal {
                Some(refusal) => StoreEvent::Refused { token, refusal },
                None => StoreEvent::Synced { token },
            };
            if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
                desk.wrote(0, event);
            }
        }
    }

    pub(super) fn refuse(&self, put: &Put, refusal: Refusal) {
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

    pub(super) fn note_done(&self, shard: u16) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.notes.give(1);
        }
    }

    /// Nothing of these will be durable.
    fn fail(&mut self, items: Vec<Item>) {
        for item in items {
            self.fail_one(item.effect, Refusal::Poisoned);
        }
    }

    fn fail_one(&self, effect: Effect, refusal: Refusal) {
        match effect {
            Effect::Stored(put) => self.take_back(&put, refusal),
            Effect::Rewritten(rewrite) => {
                self.refuse_change(rewrite.shard, rewrite.token, refusal);
            }
            Effect::Bound {
                shard,
                token: Some(token),
            } => self.refuse_change(shard, token, refusal),
            Effect::Bound { shard, token: None }
            | Effect::Marked { shard }
            | Effect::Settled {
                shard: Some(shard), ..
            } => self.note_done(shard),
            Effect::Copied(_, verdict) => {
                let _ = verdict.send(Verdict::Failed);
            }
            Effect::Settled { shard: None, .. } | Effect::None => {}
        }
    }

    /// The records are durable: first the index learns it, then those who wait.
    fn take_effect(&mut self, items: Vec<Item>, places: &[Place]) {
        let mut done = Vec::with_capacity(items.len());
        let repeated_until = clock::now().instant + self.compact_after;
        let has_victims = {
            let shared = self.shared.clone();
            let mut index = shared.index();
            for (item, place) in items.into_iter().zip(places) {
                apply(&mut index, &item, *place, repeated_until);
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
            // What was only stored leaves no useless room.
            let is_all_new = done.iter().all(|it| matches!(it, Effect::Stored(_)));
            !is_all_new && (index.log.has_victims() || index.bodies.has_victims())
        };
        self.answer_all(done);
        if has_victims {
            let _ = self.onward.keeper.send(KeeperJob::Look);
        }
    }

    /// Each shard hears of all its messages at once.
    fn answer_all(&mut self, done: Vec<Effect>) {
        let shards = self.shared.desks.len();
        let mut stored: Vec<(usize, Vec<StoreEvent>)> = vec![Default::default(); shards];
        for effect in done {
            let Effect::Stored(put) = effect else {
                self.answer(effect);
                continue;
            };
            self.tell_body(&put, true);
            self.remember(&put);
            if let Some((octets, events)) = stored.get_mut(usize::from(put.shard)) {
                let (token, seq) = (put.token, put.seq);
                *octets += put.cost;
                events.push(StoreEvent::Stored { token, seq });
            }
        }
        for (desk, (octets, events)) in self.shared.desks.iter().zip(stored) {
            if !events.is_empty() {
                desk.wrote_all(octets, events);
            }
        }
    }

    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::Settled { shard, .. } => {
                if let Some(shard) = shard {
                    self.note_done(shard);
                }
            }
            Effect::Bound {
                shard,
                token: Some(token),
            } => self.change_done(shard, token),
            Effect::Rewritten(rewrite) => self.change_done(rewrite.shard, rewrite.token),
            Effect::Bound { shard, token: None } | Effect::Marked { shard } => {
                self.note_done(shard);
            }
            Effect::Copied(_, verdict) => {
                let _ = verdict.send(Verdict::Durable);
            }
            Effect::Stored(_) | Effect::None => {}
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

    pub(super) fn roll_if_full(&mut self) {
        // On a full disk the old segment goes on with what is essential.
        if !self.appender.is_full() || self.shared.health() != Health::Serving {
            return;
        }
        let next_seq = self.shared.peek_seq();
        match self.appender.roll(self.next_segment, next_seq) {
            Ok(full) => self.rolled(full),
            Err(error) if files::is_full(&error) => {
                self.is_full();
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

/// What the index learns of one durable record; requests with new messages may come again until then.
fn apply(index: &mut Index, item: &Item, place: Place, repeated_until: Instant) {
    match &item.effect {
        Effect::Stored(put) => {
            let entry = Entry {
                place,
                expires_at: put.message.expires_at,
                length: put.body.length(),
                shares: put.body.shares(),
            };
            index.put(&put.message.recipient, put.seq, entry, repeated_until);
        }
        Effect::Settled { taken, .. } => {
            if let About::Settled { seq, segment, .. } = item.about {
                index.settled(seq, segment, place);
            }
            index.release(taken);
        }
        Effect::Bound { .. } => apply_binding(index, &item.about, place),
        Effect::Rewritten(rewrite) => apply_move(index, &rewrite.record, rewrite.from, place),
        Effect::Marked { .. } => {
            if let About::Marks(record) = &item.about {
                index.marked(record, place);
            }
        }
        Effect::Copied(copy, _) => match &copy.what {
            Copied::Message(record) => apply_move(index, record, copy.from, place),
            Copied::Marks(record) => index.marked(record, place),
            Copied::Settled(record) => index.settlement(record.segment, place),
            Copied::Binding(_) => apply_binding(index, &item.about, place),
        },
        Effect::None => {}
    }
}

fn apply_move(index: &mut Index, record: &MessageRecord, from: Place, place: Place) {
    let entry = Entry {
        place,
        expires_at: record.message.expires_at,
        length: record.body.length(),
        shares: record.body.shares(),
    };
    index.moved(&record.message.recipient, record.seq, from, entry);
}

fn apply_binding(index: &mut Index, about: &About, place: Place) {
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
