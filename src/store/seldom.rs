//! What the log hears at most once a minute, however often it happens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;

/// Between two lines that say the same.
const PAUSE: Duration = Duration::from_secs(60);

/// When it may be told again.
#[derive(Debug, Default)]
pub(super) struct Seldom(AtomicU64);

impl Seldom {
    /// True once a minute at most, for one thread alone.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let next = self.0.load(Ordering::Relaxed);
        if now < Instant::from_micros(next) {
            return false;
        }
        let after = (now + PAUSE).as_micros();
        let change = (self.0).compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed);
        change.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute_and_no_more() {
        let seldom = Seldom::default();
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let told = [0, 1, 59, 60, 61, 200].map(|seconds| seldom.is_due(at(seconds)));
        assert_eq!(told, [true, false, false, true, false, true]);
    }
}
