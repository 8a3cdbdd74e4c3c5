//! Everything that is drawn comes from one printed seed: each role of an episode has dice of its own, so
//! that what one draws does not depend on how fast another is.

use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The dice of one role.
pub struct Dice(StdRng);

impl Dice {
    /// Of this role in an episode with this seed.
    pub fn of(seed: u64, role: &str) -> Self {
        let salt = role.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3)
        });
        Self(StdRng::seed_from_u64(seed ^ salt))
    }

    pub fn between(&mut self, range: Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.between(range))
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, share: u64) -> bool {
        self.between(0..100) < share
    }

    /// One of them, as often as its weight says.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let sum: u64 = choices.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.between(0..sum.max(1));
        for (weight, choice) in choices {
            match drawn.checked_sub(*weight) {
                None => return *choice,
                Some(left) => drawn = left,
            }
        }
        choices[0].1
    }

    /// So many octets of any value.
    pub fn octets(&mut self, length: usize) -> Vec<u8> {
        let mut octets = vec![0; length];
        self.0.fill(&mut octets[..]);
        octets
    }
}
