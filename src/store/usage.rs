//! How much of each segment is of use: what compaction decides by.
//!
//! Counted from the log alone, by its footers at a start and record by record from then on; a few
//! numbers a segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::{Place, Share};
use super::segment::Segment;
use crate::clock::Instant;

/// A segment and how much of it is of use.
pub(super) struct Use {
    pub(super) segment: Arc<Segment>,
    /// Octets of the file.
    pub(super) total: u64,
    /// Octets of records that are still needed.
    pub(super) live: u64,
    /// Nothing is appended any more.
    pub(super) sealed: bool,
    /// Pieces in it that belong to a spool, which nobody but the body thread may move; or damaged
    /// messages, which nobody can.
    pub(super) pins: u64,
    /// Messages whose current record is in it. The index knows them one by one, wherever it keeps
    /// them; this counts them apart, so that a segment with a message in it is never dropped.
    pub(super) messages: usize,
    /// Those of them that were taken and not yet released.
    pub(super) leaving: usize,
    /// Octets of settlements, by their segment, that are needed as long as this one exists.
    pub(super) settlements: BTreeMap<u64, u64>,
    /// Requests whose messages were taken into it may come again until then.
    pub(super) repeated_until: Instant,
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
            messages: 0,
            leaving: 0,
            settlements: BTreeMap::new(),
            repeated_until: Instant::default(),
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

    /// A message's record is here now.
    pub(super) fn hold(&mut self, place: Place) {
        self.keep(place);
        if let Some(usage) = self.0.get_mut(&place.segment) {
            usage.messages += 1;
        }
    }

    /// It is not any more.
    pub(super) fn let_go(&mut self, place: Place) {
        self.release(place);
        if let Some(usage) = self.0.get_mut(&place.segment) {
            usage.messages = usage.messages.saturating_sub(1);
        }
    }

    pub(super) fn keep_shares(&mut self, shares: &[Share]) {
        for share in shares {
            if let Some(usage) = self.0.get_mut(&share.segment) {
                usage.live += share.octets;
            }
        }
    }

    pub(super) fn release_shares(&mut self, shares: &[Share]) {
        for share in shares {
            if let Some(usage) = self.0.get_mut(&share.segment) {
                usage.live = usage.live.saturating_sub(share.octets);
            }
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

    /// What a start found.
    pub(super) fn read(&mut self, number: u64, total: u64, sealed: bool) {
        if let Some(usage) = self.0.get_mut(&number) {
            (usage.total, usage.sealed) = (total, sealed);
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

    /// A request whose message was taken into this segment may come again until then.
    pub(super) fn repeated_until(&mut self, number: u64, until: Instant) {
        if let Some(usage) = self.0.get_mut(&number) {
            usage.repeated_until = usage.repeated_until.max(until);
        }
    }

    /// The sealed segment with the least use, if under half of it is of use and no request that it knows
    /// may still come again.
    pub(super) fn victim(&self, now: Instant) -> Option<u64> {
        self.of_little_use()
            .filter(|(_, usage)| usage.repeated_until <= now)
            .min_by_key(|(_, usage)| usage.live)
            .map(|(number, _)| number)
    }

    /// When the next segment becomes a victim although nothing is settled.
    pub(super) fn next_victim_at(&self, now: Instant) -> Option<Instant> {
        self.of_little_use()
            .map(|(_, usage)| usage.repeated_until)
            .filter(|until| *until > now)
            .min()
    }

    /// Whether there is a victim, or will be one although nothing more is settled.
    pub(super) fn has_victims(&self) -> bool {
        self.of_little_use().next().is_some()
    }

    fn of_little_use(&self) -> impl Iterator<Item = (u64, &Use)> {
        self.0
            .iter()
            .filter(|(_, usage)| usage.sealed && usage.pins == 0)
            .filter(|(_, usage)| usage.live.saturating_mul(2) < usage.total)
            .map(|(number, usage)| (*number, usage))
    }

    /// How many messages have their record here and are not leaving.
    pub(super) fn messages(&self) -> usize {
        let staying = |usage: &Use| usage.messages.saturating_sub(usage.leaving);
        self.0.values().map(staying).sum()
    }

    /// Octets in all files, and octets of use.
    pub(super) fn sums(&self) -> (u64, u64) {
        self.0.values().fold((0, 0), |(total, live), usage| {
            (total + usage.total, live + usage.live)
        })
    }
}
