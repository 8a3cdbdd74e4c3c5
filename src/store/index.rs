//! Which messages are in custody, in what order, and which segments they keep alive.
//!
//! A view of the log, in memory: one entry a live message, some hundred octets with its user's name.
//! Readers see an entry from the moment its record is durable, and no longer once it is settled.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::manifest::{Manifest, Place};
use super::request::Seq;
use super::segment::Segment;
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// A live message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) generation: u32,
    pub(super) expires_at: UnixMillis,
}

/// A message that left custody: what it kept alive.
pub(super) struct Taken {
    pub(super) place: Place,
    manifest: Option<Arc<Manifest>>,
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

/// A segment and how much of it is of use.
pub(super) struct Use {
    pub(super) segment: Arc<Segment>,
    /// Octets of the file.
    pub(super) total: u64,
    /// Octets of records that are still needed.
    pub(super) live: u64,
    /// Nothing is appended any more.
    pub(super) sealed: bool,
    /// Pieces in it that belong to a spool, which nobody but the body thread may move.
    pub(super) pins: u64,
    /// Octets of settlements, by their segment, that are needed as long as this one exists.
    settlements: BTreeMap<u64, u64>,
}

/// The segments of one folder.
#[derive(Default)]
pub(super) struct Segments(pub(super) BTreeMap<u64, Use>);

impl Segments {
    /// A new or found segment.
    pub(super) fn insert(&mut self, segment: Arc<Segment>, total: u64, sealed: bool) {
        let number = segment.number;
        let usage = Use {
            segment,
            total,
            live: 0,
            sealed,
            pins: 0,
            settlements: BTreeMap::new(),
        };
        self.0.insert(number, usage);
    }

    /// A segment that is appended to; unknown, or known from before the start.
    pub(super) fn insert_new(&mut self, segment: &Arc<Segment>, end: u64) {
        if !self.0.contains_key(&segment.number) {
            self.insert(segment.clone(), end, false);
        }
    }

    pub(super) fn keep(&mut self, place: Place) {
        if let Some(usage) = self.0.get_mut(&place.segment) {
            usage.live += u64::from(place.length);
        }
    }

    pub(super) fn release(&mut self, place: Place) {
        if let Some(usage) = self.0.get_mut(&place.segment) {
            usage.live = usage.live.saturating_sub(place.length.into());
        }
    }

    pub(super) fn pin(&mut self, place: Place) {
        if let Some(usage) = self.0.get_mut(&place.segment) {
            usage.pins += 1;
        }
    }

    pub(super) fn unpin(&mut self, place: Place) {
        if let Some(usage) = self.0.get_mut(&place.segment) {
            usage.pins = usage.pins.saturating_sub(1);
        }
    }

    pub(super) fn grew(&mut self, number: u64, total: u64) {
        if let Some(usage) = self.0.get_mut(&number) {
            usage.total = total;
        }
    }

    pub(super) fn sealed(&mut self, number: u64, total: u64) {
        if let Some(usage) = self.0.get_mut(&number) {
            usage.total = total;
            usage.sealed = true;
        }
    }

    pub(super) fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        Some(self.0.get(&number)?.segment.clone())
    }

    /// The sealed segment with the least use, if under half of it is of use.
    pub(super) fn victim(&self) -> Option<u64> {
        self.0
            .iter()
            .filter(|(_, usage)| usage.sealed && usage.pins == 0)
            .filter(|(_, usage)| usage.live.saturating_mul(2) < usage.total)
            .min_by_key(|(_, usage)| usage.live)
            .map(|(number, _)| *number)
    }

    /// Octets in all files, and octets of use.
    pub(super) fn sums(&self) -> (u64, u64) {
        self.0.values().fold((0, 0), |(total, live), usage| {
            (total + usage.total, live + usage.live)
        })
    }
}

/// All that is known of the log.
pub(super) struct Index {
    placement: Box<dyn Fn(&Identity) -> u16 + Send>,
    users: HashMap<Identity, BTreeMap<Seq, Entry>, RandomState>,
    due: BTreeMap<u16, BTreeMap<(UnixMillis, Seq), Identity>>,
    manifests: HashMap<Seq, (Identity, Arc<Manifest>), RandomState>,
    pub(super) bindings: BTreeMap<(Identity, Box<str>), BindingEntry>,
    pub(super) log: Segments,
    pub(super) bodies: Segments,
    /// Messages with an older record in further segments: a copy was made and the original is still
    /// there. A settlement must outlive all of them.
    pub(super) twice: HashMap<Seq, Vec<u64>, RandomState>,
}

impl Index {
    pub(super) fn new(placement: Box<dyn Fn(&Identity) -> u16 + Send>) -> Self {
        Self {
            placement,
            users: HashMap::default(),
            due: BTreeMap::new(),
            manifests: HashMap::default(),
            bindings: BTreeMap::new(),
            log: Segments::default(),
            bodies: Segments::default(),
            twice: HashMap::default(),
        }
    }

    /// A message is durable.
    pub(super) fn put(
        &mut self,
        recipient: &Identity,
        seq: Seq,
        entry: Entry,
        manifest: Option<Arc<Manifest>>,
    ) {
        self.log.keep(entry.place);
        if let Some(manifest) = manifest {
            self.manifests.insert(seq, (recipient.clone(), manifest));
        }
        let queue = match self.users.get_mut(recipient) {
            Some(queue) => queue,
            None => self.users.entry(recipient.clone()).or_default(),
        };
        queue.insert(seq, entry);
        let shard = (self.placement)(recipient);
        self.due
            .entry(shard)
            .or_default()
            .insert((entry.expires_at, seq), recipient.clone());
    }

    /// A message leaves custody: it is seen no more. Its room is of use until `release`.
    pub(super) fn take(&mut self, recipient: &Identity, seq: Seq) -> Option<Taken> {
        let queue = self.users.get_mut(recipient)?;
        let entry = queue.remove(&seq)?;
        if queue.is_empty() {
            self.users.remove(recipient);
        }
        if let Some(due) = self.due.get_mut(&(self.placement)(recipient)) {
            due.remove(&(entry.expires_at, seq));
        }
        let manifest = self.manifests.remove(&seq).map(|(_, manifest)| manifest);
        Some(Taken {
            place: entry.place,
            manifest,
        })
    }

    /// It is durable that a message left, so its record and body may go. Not before: a power cut
    /// would bring back a message without its body.
    pub(super) fn release(&mut self, taken: &Taken) {
        self.log.release(taken.place);
        for place in taken.manifest.iter().flat_map(|manifest| manifest.places()) {
            self.bodies.release(place);
        }
    }

    /// A settlement is durable; it is needed as long as the message's record exists.
    pub(super) fn settled(&mut self, record_in: u64, place: Place) {
        let Some(usage) = self.log.0.get_mut(&record_in) else {
            return;
        };
        *usage.settlements.entry(place.segment).or_default() += u64::from(place.length);
        self.log.keep(place);
    }

    /// A record was copied: the copy counts, if the original still did.
    pub(super) fn moved(
        &mut self,
        recipient: &Identity,
        seq: Seq,
        from: Place,
        to: Entry,
        manifest: Option<Manifest>,
    ) {
        let entry = self.users.get_mut(recipient).and_then(|q| q.get_mut(&seq));
        let Some(entry) = entry.filter(|entry| entry.place == from) else {
            return;
        };
        *entry = to;
        self.twice.entry(seq).or_default().push(from.segment);
        self.log.release(from);
        self.log.keep(to.place);
        let Some(manifest) = manifest else { return };
        for place in manifest.places() {
            self.bodies.keep(place);
        }
        let known = (recipient.clone(), Arc::new(manifest));
        if let Some((_, old)) = self.manifests.insert(seq, known) {
            for place in old.places() {
                self.bodies.release(place);
            }
        }
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
                if known.get().revision > entry.revision {
                    entry
                } else {
                    known.insert(entry)
                }
            }
        };
        self.log.release(old.place);
    }

    /// Where a message is.
    pub(super) fn entry(&self, recipient: &Identity, seq: Seq) -> Option<Entry> {
        self.users.get(recipient)?.get(&seq).copied()
    }

    /// The body of a large message.
    pub(super) fn manifest(&self, seq: Seq) -> Option<Arc<Manifest>> {
        Some(self.manifests.get(&seq)?.1.clone())
    }

    /// The messages whose bodies need a body segment.
    pub(super) fn bodies_in(&self, segment: u64) -> Vec<(Identity, Seq)> {
        let needs = |manifest: &Manifest| {
            let mut extents = manifest.extents.iter();
            extents.any(|extent| extent.place.segment == segment)
        };
        self.manifests
            .iter()
            .filter(|(_, (_, manifest))| needs(manifest))
            .map(|(seq, (recipient, _))| (recipient.clone(), *seq))
            .collect()
    }

    /// What waits for a user after a message, at most `limit`.
    pub(super) fn queue(
        &self,
        recipient: &Identity,
        after: Option<Seq>,
        limit: usize,
    ) -> Vec<(Seq, Entry)> {
        let first = Seq(after.map_or(0, |seq| seq.0.saturating_add(1)));
        self.users
            .get(recipient)
            .into_iter()
            .flat_map(|queue| queue.range(first..))
            .take(limit)
            .map(|(seq, entry)| (*seq, *entry))
            .collect()
    }

    /// What of a shard's expired by `now`, the longest first, at most `limit`.
    pub(super) fn due(&self, shard: u16, now: UnixMillis, limit: usize) -> Vec<(Identity, Seq)> {
        self.due
            .get(&shard)
            .into_iter()
            .flat_map(|due| due.range(..=(now, Seq(u64::MAX))))
            .take(limit)
            .map(|((_, seq), recipient)| (recipient.clone(), *seq))
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
        self.users.values().map(BTreeMap::len).sum()
    }

    /// Users for whom something waits, in order.
    pub(super) fn recipients(&self) -> Vec<Identity> {
        let mut recipients: Vec<Identity> = self.users.keys().cloned().collect();
        recipients.sort();
        recipients
    }
}
