//! What the view does not know yet, in memory: messages of segments that were not applied to it, and
//! which of its own messages have left custody since.

use std::collections::{BTreeMap, HashMap, HashSet};

use foldhash::fast::RandomState;

use super::manifest::{Place, Share};
use super::request::Seq;
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// A live message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) expires_at: UnixMillis,
    /// Octets of its body.
    pub(super) length: u64,
    /// What its body has in body segments.
    pub(super) shares: Box<[Share]>,
}

/// A message that the view may still have, though it left.
pub(super) struct Gone {
    pub(super) recipient: Identity,
    pub(super) entry: Entry,
    /// The view may have it at an older place, or by an older date.
    pub(super) shadowed: bool,
    /// Where its settlement is: once that segment is applied the view has heard of it.
    pub(super) segment: Option<u64>,
}

/// The messages in memory.
#[derive(Default)]
pub(super) struct Recent {
    users: HashMap<Identity, BTreeMap<Seq, Entry>, RandomState>,
    due: BTreeMap<u16, BTreeMap<(UnixMillis, Seq), Identity>>,
    /// By body segment.
    large: BTreeMap<(u64, Seq), Identity>,
    pub(super) gone: HashMap<Seq, Gone, RandomState>,
    /// Messages here that the view may have at an older place.
    pub(super) shadows: HashSet<Seq, RandomState>,
    count: usize,
}

impl Recent {
    /// How many messages and departures there are.
    pub(super) fn len(&self) -> usize {
        self.count + self.gone.len()
    }

    /// Users with messages here.
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn entry(&self, recipient: &Identity, seq: Seq) -> Option<&Entry> {
        self.users.get(recipient)?.get(&seq)
    }

    /// Adds a message of a user of `shard`, or replaces it.
    pub(super) fn insert(&mut self, shard: u16, recipient: &Identity, seq: Seq, entry: Entry) {
        self.remove(shard, recipient, seq);
        let due = self.due.entry(shard).or_default();
        due.insert((entry.expires_at, seq), recipient.clone());
        for share in &entry.shares {
            self.large.insert((share.segment, seq), recipient.clone());
        }
        let queue = match self.users.get_mut(recipient) {
            Some(queue) => queue,
            None => self.users.entry(recipient.clone()).or_default(),
        };
        queue.insert(seq, entry);
        self.count += 1;
    }

    pub(super) fn remove(&mut self, shard: u16, recipient: &Identity, seq: Seq) -> Option<Entry> {
        let queue = self.users.get_mut(recipient)?;
        let entry = queue.remove(&seq)?;
        if queue.is_empty() {
            self.users.remove(recipient);
        }
        if let Some(due) = self.due.get_mut(&shard) {
            due.remove(&(entry.expires_at, seq));
        }
        for share in &entry.shares {
            self.large.remove(&(share.segment, seq));
        }
        self.count -= 1;
        Some(entry)
    }

    /// What waits for a user from a place in the order on.
    pub(super) fn queue(
        &self,
        recipient: &Identity,
        first: Seq,
    ) -> impl Iterator<Item = (Seq, &Entry)> {
        let queue = self.users.get(recipient).into_iter();
        let queue = queue.flat_map(move |queue| queue.range(first..));
        queue.map(|(seq, entry)| (*seq, entry))
    }

    /// What of a shard's expired by `now`, the longest first.
    pub(super) fn due(
        &self,
        shard: u16,
        now: UnixMillis,
    ) -> impl Iterator<Item = (UnixMillis, Seq, &Identity)> {
        let due = self.due.get(&shard).into_iter();
        let due = due.flat_map(move |due| due.range(..=(now, Seq(u64::MAX))));
        due.map(|((expires_at, seq), recipient)| (*expires_at, *seq, recipient))
    }

    /// Messages with something in a body segment.
    pub(super) fn bodies_in(&self, segment: u64) -> impl Iterator<Item = (Identity, Seq)> {
        self.large
            .range((segment, Seq(0))..=(segment, Seq(u64::MAX)))
            .map(|((_, seq), recipient)| (recipient.clone(), *seq))
    }
}
