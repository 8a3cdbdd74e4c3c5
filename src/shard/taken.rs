//! Which requests that came as datagrams were let in a moment ago.
//!
//! While new work is refused, a retransmission of what was taken must not be: its sender would take the
//! refusal for the answer. It comes to the socket that the first one came to, so each shard remembers its
//! own, in two halves of which the older is forgotten.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::time::Duration;

use crate::clock::Instant;

/// Nobody repeats a request for longer (RFC 3261 §17: 64 times T1).
const REPEATED_FOR: Duration = Duration::from_secs(32);
/// Requests in one half, at most; then it is forgotten sooner.
const MOST: usize = 1 << 20;
/// A half that is forgotten keeps room for so many.
const FEW: usize = 1024;

type Set = HashSet<u64, foldhash::fast::RandomState>;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Taken {
    hasher: foldhash::quality::RandomState,
    young: Set,
    old: Set,
    turned_at: Instant,
}

impl Taken {
    /// What stands for a request, by what is the same in its retransmissions.
    pub fn key(&self, identity: [&str; 2]) -> u64 {
        self.hasher.hash_one(identity)
    }

    /// A request was let in.
    pub fn remember(&mut self, key: u64) {
        self.young.insert(key);
    }

    /// Whether it was let in a moment ago.
    pub fn knows(&self, key: u64) -> bool {
        self.young.contains(&key) || self.old.contains(&key)
    }

    /// Forgets what nobody repeats any more.
    pub fn forget(&mut self, now: Instant) {
        if now.since(self.turned_at) < REPEATED_FOR && self.young.len() < MOST {
            return;
        }
        self.turned_at = now;
        std::mem::swap(&mut self.young, &mut self.old);
        let needed = self.old.len().max(FEW);
        self.young.clear();
        self.young.shrink_to(needed);
    }

    /// Memory in use.
    pub fn footprint(&self) -> usize {
        // A key, and an octet that says whether there is one.
        (self.young.capacity() + self.old.capacity()) * (size_of::<u64>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_taken_is_known_for_as_long_as_it_is_repeated() {
        let mut taken = Taken::default();
        let key = taken.key(["MESSAGE", "SIP/2.0/UDP a;branch=z9hG4bK1"]);
        assert!(!taken.knows(key));
        taken.forget(at(33));
        taken.remember(key);
        assert_ne!(key, taken.key(["CANCEL", "SIP/2.0/UDP a;branch=z9hG4bK1"]));
        taken.forget(at(64));
        assert!(taken.knows(key));
        taken.forget(at(65));
        assert!(taken.knows(key));
        taken.forget(at(97));
        assert!(!taken.knows(key));
    }

    #[test]
    fn it_is_bounded_and_gives_back_what_a_flood_has_left() {
        let mut taken = Taken::default();
        taken.forget(at(33));
        for key in 0..2 * MOST as u64 {
            taken.forget(at(34));
            taken.remember(key);
        }
        assert!(taken.young.len() <= MOST && taken.old.len() <= MOST);
        assert!(taken.footprint() < 64 << 20);
        taken.forget(at(70));
        taken.forget(at(110));
        taken.forget(at(150));
        assert!(taken.footprint() < 64 << 10, "{}", taken.footprint());
    }
}
