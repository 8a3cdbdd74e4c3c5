//! Which messages are in custody, in what order, and which segments they keep alive.
//!
//! What is recent is in memory; what lies in applied segments is in the view on disk, and `rebuild`
//! tells how it gets there. A question is answered from both: what memory says of a message, that it
//! is there or that it is gone, goes before what the view says. Readers see an entry from the moment
//! its record is durable, and no longer once it is settled.
//!
//! The view is believed only as far as the log confirms it. An entry that it gives is compared with
//! the record's first octets; if they disagree and the segment's footer does too, the view is thrown
//! away. That it misses nothing is seen at a start, by a sum over all entries; and while running a
//! segment is dropped only if as many messages were moved out of it as the log says it held.

use std::collections::{BTreeMap, HashMap, HashSet};

use foldhash::fast::RandomState;

use super::footer::Line;
use super::holdings::Holdings;
use super::manifest::Place;
use super::marks::Marks;
use super::rebuild::Shelf;
use super::recent::{Entry, Gone, Recent};
use super::record::{self, HEADER, Kind, MarksRecord};
use super::request::{Seq, Usage};
use super::survey::MessageLine;
use super::usage::Segments;
use super::view::{Broken, View};
use crate::clock::{Instant, UnixMillis};
use crate::identity::Identity;
use crate::limits::memory::{Account, Held, Kind as MemoryKind};

/// A message that left custody: what it kept alive.
pub(super) struct Taken {
    pub(super) entry: Entry,
    /// The record of its marks.
    marks: Option<Place>,
}

/// The latest record of a binding.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindingEntry {
    pub(super) place: Place,
    pub(super) revision: u64,
    /// The oldest segment that may hold an earlier record of the key.
    pub(super) first: u64,
    pub(super) removed: bool,
}

/// All that is known of the log.
pub(super) struct Index {
    placement: Box<dyn Fn(&Identity) -> u16 + Send>,
    pub(super) recent: Recent,
    pub(super) shelf: Shelf,
    pub(super) bindings: BTreeMap<(Identity, Box<str>), BindingEntry>,
    pub(super) log: Segments,
    pub(super) bodies: Segments,
    pub(super) holdings: Holdings,
    pub(super) marks: Marks,
    /// Messages that are damaged and whose shards know it.
    ruined: HashSet<Seq, RandomState>,
    /// Messages with an older record in further segments: a copy was made and the original is still
    /// there. A settlement must outlive all of them.
    pub(super) twice: HashMap<Seq, Vec<u64>, RandomState>,
    /// By shard: nothing in the view expires before this that is still there.
    pub(super) due_from: HashMap<u16, (UnixMillis, Seq), RandomState>,
    held: Held,
}

/// What entries cost in memory, measured with 6,000 users for each of whom one message waits (valgrind's dhat,
/// octets by the place that asked for them): a tree begins with a node for eleven, whatever is in it.
const ENTRY: usize = 280;
const QUEUE: usize = 720;
const HOLDING: usize = 128;
const BINDING: usize = 192;
const MARKS: usize = 160;

impl Index {
    pub(super) fn new(
        placement: Box<dyn Fn(&Identity) -> u16 + Send>,
        shelf: Shelf,
        memory: &Account,
    ) -> Self {
        Self {
            placement,
            recent: Recent::default(),
            shelf,
            bindings: BTreeMap::new(),
            log: Segments::default(),
            bodies: Segments::default(),
            holdings: Holdings::default(),
            marks: Marks::default(),
            ruined: HashSet::default(),
            twice: HashMap::default(),
            due_from: HashMap::default(),
            held: memory.hold(MemoryKind::StoreIndex, 0),
        }
    }

    /// Writes down what is in use now, with so many lines of the footer to come.
    pub(super) fn account(&mut self, lines: usize) {
        let recent = self.recent.len() + self.recent.shadows.len() + self.twice.len();
        let octets = recent * ENTRY
            + self.recent.users() * QUEUE
            + self.holdings.len() * HOLDING
            + self.bindings.len() * BINDING
            + self.marks.len() * MARKS
            + lines * size_of::<Line>();
        self.held.set(octets);
    }

    /// A message is durable. Its body is counted already, and so is what waits for its recipient. The
    /// request it came with may come again until `repeated_until`.
    pub(super) fn put(
        &mut self,
        recipient: &Identity,
        seq: Seq,
        entry: Entry,
        repeated_until: Instant,
    ) {
        self.log.hold(entry.place);
        self.log.repeated_until(entry.place.segment, repeated_until);
        self.remember(recipient, seq, entry);
    }

    /// Takes a message into memory.
    pub(super) fn remember(&mut self, recipient: &Identity, seq: Seq, entry: Entry) {
        let shard = (self.placement)(recipient);
        self.recent.insert(shard, recipient, seq, entry);
    }

    /// Takes a message out of memory.
    pub(super) fn forget(&mut self, recipient: &Identity, seq: Seq) -> Option<Entry> {
        let shard = (self.placement)(recipient);
        self.recent.remove(shard, recipient, seq)
    }

    /// A message leaves custody: it is seen no more. Its room is of use until `release`.
    pub(super) fn take(&mut self, recipient: &Identity, seq: Seq) -> Option<Taken> {
        let entry = self.entry(recipient, seq)?;
        self.forget(recipient, seq);
        self.holdings.remove(recipient, entry.length);
        let shadowed = self.recent.shadows.remove(&seq);
        if shadowed || self.shelf.may_have(entry.place.segment) {
            let gone = Gone {
                recipient: recipient.clone(),
                entry: entry.clone(),
                shadowed,
                segment: None,
            };
            self.recent.gone.insert(seq, gone);
        }
        if let Some(usage) = self.log.0.get_mut(&entry.place.segment) {
            usage.leaving += 1;
        }
        let marks = self.marks.remove(seq);
        if self.ruined.remove(&seq) {
            self.log.unpin(entry.place);
        }
        Some(Taken { entry, marks })
    }

    /// A message turned out to be damaged: the shard to be told, if that is news. Until it is settled
    /// its segment stays.
    pub(super) fn ruin(&mut self, recipient: &Identity, seq: Seq) -> Option<u16> {
        let entry = self.entry(recipient, seq)?;
        let is_news = self.ruined.insert(seq);
        if is_news {
            self.log.pin(entry.place);
        }
        is_news.then(|| (self.placement)(recipient))
    }

    /// It is durable that a message left, so its record and body may go. Not before: a power cut
    /// would bring back a message without its body.
    pub(super) fn release(&mut self, taken: &Taken) {
        if let Some(usage) = self.log.0.get_mut(&taken.entry.place.segment) {
            usage.leaving = usage.leaving.saturating_sub(1);
        }
        self.log.let_go(taken.entry.place);
        self.bodies.release_shares(&taken.entry.shares);
        if let Some(place) = taken.marks {
            self.log.release(place);
        }
    }

    /// A record of marks is durable; an older one of the same message is of no use.
    pub(super) fn marked(&mut self, record: &MarksRecord, place: Place) {
        self.log.keep(place);
        if let Some(useless) = self.marks.written(record, place) {
            self.log.release(useless);
        }
    }

    /// A settlement is durable; it is needed as long as the message's record exists.
    pub(super) fn settled(&mut self, seq: Seq, record_in: u64, place: Place) {
        if let Some(gone) = self.recent.gone.get_mut(&seq) {
            gone.segment = Some(place.segment);
        }
        self.settlement(record_in, place);
    }

    /// Counts a settlement.
    pub(super) fn settlement(&mut self, record_in: u64, place: Place) {
        let Some(usage) = self.log.0.get_mut(&record_in) else {
            return;
        };
        *usage.settlements.entry(place.segment).or_default() += u64::from(place.length);
        self.log.keep(place);
    }

    /// A record was copied: the copy counts, if the original still did. Pieces of the body that were
    /// copied with it are not counted yet.
    pub(super) fn moved(&mut self, recipient: &Identity, seq: Seq, from: Place, to: Entry) {
        let Some(old) = self.entry(recipient, seq).filter(|e| e.place == from) else {
            return;
        };
        self.twice.entry(seq).or_default().push(from.segment);
        self.log.let_go(from);
        self.log.hold(to.place);
        if old.length != to.length {
            // Only now is it known; see `footer`.
            self.holdings.remove(recipient, old.length);
            self.holdings.add(recipient, to.length);
        }
        if old.shares != to.shares {
            self.bodies.keep_shares(&to.shares);
            self.bodies.release_shares(&old.shares);
        }
        if self.shelf.may_have(from.segment) {
            self.recent.shadows.insert(seq);
        }
        self.remember(recipient, seq, to);
    }

    /// A binding's record is durable. An older one than the known is of no use.
    pub(super) fn bind(&mut self, user: Identity, key: Box<str>, entry: BindingEntry) {
        self.log.keep(entry.place);
        let old = match self.bindings.entry((user, key)) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
                return;
            }
            std::collections::btree_map::Entry::Occupied(mut known) => {
                // A copy has the same revision; the later place counts.
                let rank = |entry: &BindingEntry| (entry.revision, entry.place);
                if rank(known.get()) > rank(&entry) {
                    entry
                } else {
                    known.insert(entry)
                }
            }
        };
        self.log.release(old.place);
    }

    /// Where a message is.
    pub(super) fn entry(&mut self, recipient: &Identity, seq: Seq) -> Option<Entry> {
        if let Some(entry) = self.recent.entry(recipient, seq) {
            return Some(entry.clone());
        }
        if self.recent.gone.contains_key(&seq) {
            return None;
        }
        let entry = self.ask(|_, view| view.entry(recipient, seq)).flatten();
        match entry {
            Some(entry) if self.log_agrees(recipient, seq, &entry) => return Some(entry),
            Some(_) => self.replace_view(&Broken("an entry is not what the log says".into())),
            None => {}
        }
        // Without a view everything is in memory.
        let entry = self.ask(|_, view| view.entry(recipient, seq)).flatten();
        entry.or_else(|| self.recent.entry(recipient, seq).cloned())
    }

    /// Whether the log has this message at this place; its record may be damaged.
    fn log_agrees(&self, recipient: &Identity, seq: Seq, entry: &Entry) -> bool {
        let Some(segment) = self.log.segment(entry.place.segment) else {
            return false;
        };
        let mut octets = vec![0; HEADER + record::says_length(recipient)];
        let place = entry.place;
        let begins = segment.file.read_at(&mut octets, place.position).is_ok()
            && segment
                .seal
                .header(place.position, &octets)
                .is_some_and(|header| {
                    let length = u64::from(place.length);
                    header.kind == Kind::Message && header.record_length() == length
                });
        let payload = octets.get(HEADER..).unwrap_or_default();
        if begins && record::says(payload, seq, entry.expires_at, recipient) {
            return true;
        }
        let lines = segment.lines().unwrap_or_default();
        let mut messages = lines
            .iter()
            .filter_map(|line| MessageLine::of(segment.number, line));
        messages.any(|m| m.seq == seq && m.recipient == recipient && m.entry == *entry)
    }

    /// Asks the view; a broken one is replaced and asked again. `None` if there is none.
    pub(super) fn ask<T>(
        &mut self,
        question: impl Fn(&Self, &View) -> Result<T, Broken>,
    ) -> Option<T> {
        loop {
            let view = self.shelf.view()?;
            match question(self, &view) {
                Ok(answer) => return Some(answer),
                // This ends: a view is replaced a few times at most.
                Err(broken) => self.replace_view(&broken),
            }
        }
    }

    /// The messages whose bodies need a body segment.
    pub(super) fn bodies_in(&mut self, segment: u64) -> Vec<(Identity, Seq)> {
        let mut found = self
            .ask(|_, view| view.bodies_in(segment))
            .unwrap_or_default();
        found.extend(self.recent.bodies_in(segment));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What waits for a user after a message, at most `limit`.
    pub(super) fn queue(
        &mut self,
        recipient: &Identity,
        after: Option<Seq>,
        limit: usize,
    ) -> Vec<Seq> {
        let first = Seq(after.map_or(0, |seq| seq.0.saturating_add(1)));
        let mut queue = self
            .ask(|index, view| {
                let mut found = Vec::new();
                view.queue(recipient, first, &mut |seq, _| {
                    if found.len() < limit && !index.recent.gone.contains_key(&seq) {
                        found.push(seq);
                    }
                    found.len() < limit
                })?;
                Ok(found)
            })
            .unwrap_or_default();
        let recent = self.recent.queue(recipient, first).take(limit);
        queue.extend(recent.map(|(seq, _)| seq));
        queue.sort_unstable();
        queue.dedup();
        queue.truncate(limit);
        queue
    }

    /// What of a shard's expired by `now`, the longest first, at most `limit`.
    pub(super) fn due(
        &mut self,
        shard: u16,
        now: UnixMillis,
        limit: usize,
    ) -> Vec<(Identity, Seq)> {
        let from = self.due_from.get(&shard).copied().unwrap_or_default();
        let seen = self.ask(|index, view| {
            let mut found = BTreeMap::new();
            let mut reached = from;
            view.due(from, &mut |at, seq, recipient| {
                if at > now || found.len() == limit {
                    return false;
                }
                let ours = (index.placement)(&recipient) == shard;
                // What memory has may expire at another time by now.
                let known =
                    index.recent.gone.contains_key(&seq) || index.recent.shadows.contains(&seq);
                if ours && !known {
                    found.insert((at, seq), recipient);
                } else if found.is_empty() {
                    reached = (at, seq);
                }
                true
            })?;
            Ok((found, reached))
        });
        let (mut found, reached) = seen.unwrap_or_default();
        self.due_from.insert(shard, reached);
        let recent = self.recent.due(shard, now).take(limit);
        found.extend(recent.map(|(at, seq, recipient)| ((at, seq), recipient.clone())));
        let found = found.into_iter().take(limit);
        found
            .map(|((_, seq), recipient)| (recipient, seq))
            .collect()
    }

    /// A shard's users for whom messages wait, after one of them, at most `limit`.
    pub(super) fn users(
        &self,
        shard: u16,
        after: Option<&Identity>,
        limit: usize,
    ) -> Vec<(Identity, Usage)> {
        let users = self.holdings.after(after);
        let own = users.filter(|(user, _)| (self.placement)(user) == shard);
        own.map(|(user, usage)| (user.clone(), *usage))
            .take(limit)
            .collect()
    }

    /// A log segment is gone for good, and with it the need for the settlements of its messages.
    pub(super) fn dropped(&mut self, number: u64) {
        let Some(usage) = self.log.0.remove(&number) else {
            return;
        };
        for (segment, octets) in usage.settlements {
            if let Some(usage) = self.log.0.get_mut(&segment) {
                usage.live = usage.live.saturating_sub(octets);
            }
        }
        for usage in self.log.0.values_mut() {
            usage.settlements.remove(&number);
        }
        self.twice.retain(|_, segments| {
            segments.retain(|segment| *segment != number);
            !segments.is_empty()
        });
    }

    /// The segment for whose sake a settlement must outlive the segment it is in.
    pub(super) fn settlement_needed(&self, seq: Seq, record_in: u64, own: u64) -> Option<u64> {
        let others = self.twice.get(&seq).into_iter().flatten().copied();
        std::iter::once(record_in)
            .chain(others)
            .find(|number| *number != own && self.log.0.contains_key(number))
    }

    /// Whether the record of a removed binding must outlive the segment it is in.
    pub(super) fn removal_needed(&self, entry: BindingEntry) -> bool {
        let own = entry.place.segment;
        self.log.0.range(entry.first.min(own)..own).next().is_some()
    }

    /// How many messages are in custody.
    pub(super) fn messages(&self) -> usize {
        self.log.messages()
    }
}
