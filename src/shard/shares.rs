//! How much of what waits came from where: while there is more than can be served, nobody gets more of the
//! room than an equal share.
//!
//! Sources are told apart by a keyed hash alone, so the table is as small as it is fixed; two sources that
//! fall together share one share (P. McKenney, "Stochastic Fairness Queueing", 1990).

use std::hash::BuildHasher;
use std::net::IpAddr;

use crate::limits::source::Source;

/// Shares in a table.
const SLOTS: u16 = 8192;

/// Where a source is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

/// Datagrams that wait, by where they came from.
#[derive(Debug)]
pub struct Shares {
    waiting: Box<[u16]>,
    /// Slots with something.
    busy: usize,
    total: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            waiting: vec![0; usize::from(SLOTS)].into(),
            busy: 0,
            total: 0,
        }
    }
}

impl Slot {
    /// That of an address.
    pub fn of(address: IpAddr, hasher: &foldhash::quality::RandomState) -> Self {
        let hash = hasher.hash_one(Source::of(address));
        Self((hash % u64::from(SLOTS)) as u16)
    }
}

impl Shares {
    /// One more came.
    pub fn came(&mut self, slot: Slot) {
        if let Some(count) = self.waiting.get_mut(usize::from(slot.0)) {
            self.busy += usize::from(*count == 0);
            *count += 1;
            self.total += 1;
        }
    }

    /// One left.
    pub fn left(&mut self, slot: Slot) {
        if let Some(count) = self.waiting.get_mut(usize::from(slot.0)) {
            *count -= 1;
            self.busy -= usize::from(*count == 0);
            self.total -= 1;
        }
    }

    /// Whether at most half of an equal share of what waits is of this slot: who is equal among many that
    /// fill the line would else never be told from who has just come.
    pub fn is_modest(&self, slot: Slot) -> bool {
        let count = self.waiting.get(usize::from(slot.0)).copied();
        usize::from(count.unwrap_or_default()) * 2 * self.busy <= self.total
    }

    /// How many wait.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Memory in use.
    pub fn footprint(&self) -> usize {
        size_of_val(&*self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fills_the_line_has_more_than_his_share_and_who_comes_has_not() {
        let mut shares = Shares::default();
        let [one, two, new] = [Slot(1), Slot(2), Slot(3)];
        assert!(shares.is_modest(one), "nothing waits");
        for _ in 0..100 {
            shares.came(one);
            shares.came(two);
        }
        assert!(!shares.is_modest(one) && !shares.is_modest(two) && shares.is_modest(new));
        // Of 230 a third would be an equal share.
        for _ in 0..30 {
            shares.came(new);
        }
        assert!(shares.is_modest(new));
        for _ in 0..11 {
            shares.came(new);
        }
        assert!(!shares.is_modest(new));
        for _ in 0..95 {
            shares.left(one);
        }
        assert!(shares.is_modest(one));
        assert_eq!((shares.busy, shares.total), (3, 146));
    }

    #[test]
    fn a_source_has_one_slot_and_an_ipv6_network_is_one_source() {
        let hasher = foldhash::quality::RandomState::default();
        let of = |text: &str| Slot::of(text.parse().expect("an address"), &hasher);
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        let slots: Vec<Slot> = (0..8).map(|n| of(&format!("192.0.2.{n}"))).collect();
        assert!(slots.iter().any(|slot| *slot != slots[0]));
    }
}
