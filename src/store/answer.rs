//! Where a shard's answers go, and how much of its work the store has taken on.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::deferred::Answer;
use super::request::{Refusal, SpoolId, StoreEvent, StoreToken};

/// What one shard may have under way; every bound that `try_submit` holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) credits: usize,
    pub(super) put_octets: usize,
    pub(super) append_octets: usize,
}

/// Octets that an append costs beyond its own, so that tiny appends are bounded too.
pub(super) const APPEND_COST: usize = 512;

/// One shard's counter in the store.
pub(super) struct Desk {
    answer: Answer,
    /// `Put` and `Sync` under way.
    pub(super) writes: Room,
    /// `Load`, `Fetch`, `Read` and `TakeDue` under way.
    pub(super) reads: Room,
    /// Requests without an answer that wait for the log.
    pub(super) notes: Room,
    pub(super) put_octets: Room,
    pub(super) append_octets: Room,
}

impl Desk {
    pub(super) fn new(answer: Answer, bounds: Bounds) -> Self {
        Self {
            answer,
            writes: Room::new(bounds.credits),
            reads: Room::new(bounds.credits),
            notes: Room::new(bounds.credits.saturating_mul(16)),
            put_octets: Room::new(bounds.put_octets),
            append_octets: Room::new(bounds.append_octets),
        }
    }

    /// Answers a `Put` or `Sync`; the credit is back before the answer is seen.
    pub(super) fn wrote(&self, octets: usize, event: StoreEvent) {
        self.wrote_all(octets, vec![event]);
    }

    /// Answers several that ended together: the shard is woken once.
    pub(super) fn wrote_all(&self, octets: usize, events: Vec<StoreEvent>) {
        self.put_octets.give(octets);
        self.writes.give(events.len());
        (self.answer)(events);
    }

    /// Refuses a `Put` or `Sync`.
    pub(super) fn refuse_write(&self, octets: usize, token: StoreToken, refusal: Refusal) {
        self.wrote(octets, StoreEvent::Refused { token, refusal });
    }

    /// Answers a reading request.
    pub(super) fn read(&self, event: StoreEvent) {
        self.reads.give(1);
        (self.answer)(vec![event]);
    }

    /// Refuses a reading request.
    pub(super) fn refuse_read(&self, token: StoreToken, refusal: Refusal) {
        self.read(StoreEvent::Refused { token, refusal });
    }

    /// Says what was not asked for.
    pub(super) fn tell(&self, event: StoreEvent) {
        (self.answer)(vec![event]);
    }

    /// An append left the queue.
    pub(super) fn appended(&self, spool: SpoolId, length: usize) {
        self.append_octets.give(length + APPEND_COST);
        (self.answer)(vec![StoreEvent::Appended { spool, length }]);
    }
}

/// A bound and how much of it is taken. Only the shard takes, so what it sees free stays free.
#[derive(Debug)]
pub(super) struct Room {
    limit: usize,
    used: AtomicUsize,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// How much is free.
    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.used.load(Ordering::Acquire))
    }

    /// How much is taken.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Takes `count` if there is room; anything fits into an empty room, so nothing waits for ever.
    pub(super) fn take(&self, count: usize) -> bool {
        let used = self.used.load(Ordering::Acquire);
        if used > 0 && used.saturating_add(count) > self.limit {
            return false;
        }
        self.used.fetch_add(count, Ordering::AcqRel);
        true
    }

    /// Gives back what was taken.
    pub(super) fn give(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::AcqRel);
    }
}
