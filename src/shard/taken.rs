//! Which requests that came as datagrams were let in a moment ago.
//!
//! While new work is refused, a retransmission of what was taken must not be: its sender would take the
//! refusal for the answer. It comes to the socket that the first one came to, so each shard remembers its
//! own, in two halves of which the older is forgotten. A request may belong to another shard, or its transaction
//! may have been forgotten to make room: what is known here goes with it ([`crate::limits::load::Entry`]).

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::clock::Instant;

/// Nobody repeats a request for longer (RFC 3261 §17: 64 times T1).
const REPEATED_FOR: Duration = Duration::from_secs(32);
/// Requests in one half, at most, however much memory there is; then it is forgotten sooner.
const MOST: usize = 1 << 20;
/// A half that is forgotten keeps room for so many, and any may have so many.
const FEW: usize = 1024;
/// All shards together take at most this part of the memory.
const PART: u64 = 64;
/// Octets that one request takes while its half grows: a key and its mark, at half load, in the old table and
/// in the new one.
const EACH: u64 = 48;

type Set = HashSet<u64, foldhash::fast::RandomState>;

/// See the module's text.
#[derive(Debug)]
pub struct Taken {
    most: usize,
    keyed: SipHasher13,
    young: Set,
    old: Set,
    turned_at: Instant,
}

impl Taken {
    /// For one of so many shards, where `memory` octets are for all of them.
    pub fn new(memory: u64, shards: usize) -> Self {
        let each = memory / PART / shards.max(1) as u64 / 2 / EACH;
        let most = usize::try_from(each).unwrap_or(MOST);
        let random = || RandomState::new().hash_one(0);
        Self {
            most: most.clamp(FEW, MOST),
            keyed: SipHasher13::new_with_keys(random(), random()),
            young: Set::default(),
            old: Set::default(),
            turned_at: Instant::default(),
        }
    }

    /// What stands for a request, by what is the same in its retransmissions: a SipHash under random keys, since
    /// it leaves the process as the tag of a refusal, of text that peers choose.
    pub fn key(&self, identity: [&str; 2]) -> u64 {
        let mut hasher = self.keyed;
        identity.hash(&mut hasher);
        hasher.finish()
    }

    /// A request was let in; `false` if one like it was a moment ago.
    pub fn remember(&mut self, key: u64) -> bool {
        self.young.insert(key) && !self.old.contains(&key)
    }

    /// Whether it was let in a moment ago.
    pub fn knows(&self, key: u64) -> bool {
        self.young.contains(&key) || self.old.contains(&key)
    }

    /// Forgets what nobody repeats any more.
    pub fn forget(&mut self, now: Instant) {
        if now.since(self.turned_at) < REPEATED_FOR && self.young.len() < self.most {
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
        let mut taken = Taken::new(1 << 30, 2);
        let key = taken.key(["MESSAGE", "SIP/2.0/UDP a;branch=z9hG4bK1"]);
        assert!(!taken.knows(key));
        taken.forget(at(33));
        assert!(taken.remember(key) && !taken.remember(key));
        assert_ne!(key, taken.key(["CANCEL", "SIP/2.0/UDP a;branch=z9hG4bK1"]));
        taken.forget(at(64));
        assert!(taken.knows(key));
        taken.forget(at(65));
        assert!(taken.knows(key) && !taken.remember(key));
        taken.forget(at(97));
        assert!(taken.knows(key), "it came again");
        taken.forget(at(129));
        assert!(!taken.knows(key));
    }

    #[test]
    fn a_key_is_a_keyed_siphash() {
        let mut taken = Taken::new(0, 1);
        let identity = ["MESSAGE", "SIP/2.0/UDP a;branch=z9hG4bK1"];
        let other = Taken::new(0, 1);
        assert_ne!(taken.key(identity), other.key(identity), "no two are alike");
        taken.keyed = SipHasher13::new_with_keys(1, 2);
        let mut expected = SipHasher13::new_with_keys(1, 2);
        identity.hash(&mut expected);
        assert_eq!(taken.key(identity), expected.finish());
    }

    #[test]
    fn it_takes_its_part_of_the_memory_and_gives_back_what_a_flood_has_left() {
        let memory = 256 << 20;
        let mut taken = Taken::new(memory, 2);
        let most = taken.most;
        taken.forget(at(33));
        for key in 0..2 * most as u64 {
            taken.forget(at(34));
            taken.remember(key);
        }
        assert!(taken.young.len() <= most && taken.old.len() <= most);
        let footprint = taken.footprint() as u64;
        assert!(footprint <= memory / PART / 2, "{footprint}");
        assert_eq!(Taken::new(1 << 40, 1).most, MOST);
        assert_eq!(Taken::new(0, 1).most, FEW);
        taken.forget(at(70));
        taken.forget(at(110));
        taken.forget(at(150));
        assert!(taken.footprint() < 64 << 10, "{}", taken.footprint());
    }
}
