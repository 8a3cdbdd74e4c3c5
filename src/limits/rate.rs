//! How often something may happen: a token bucket kept as one time (the generic cell rate algorithm).

use std::time::Duration;

use crate::clock::Instant;

/// So many at once, and one more for each `interval` that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    tolerance: Duration,
}

impl Rate {
    /// `burst` at once, then `per_second` a second, both at least 1.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::over(per_second, Duration::from_secs(1), burst)
    }

    /// `burst` at once, then `number` in each `period`, all at least 1.
    pub fn over(number: u32, period: Duration, burst: u32) -> Self {
        let interval = period / number.max(1);
        let tolerance = interval.saturating_mul(burst.max(1) - 1);
        Self {
            interval,
            tolerance,
        }
    }
}

/// How far one source has used its [`Rate`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When it is as if nothing had ever been taken.
    full_at: Instant,
}

impl Bucket {
    /// One from which so much has been taken that it is full again only then.
    pub fn full_at(at: Instant) -> Self {
        Self { full_at: at }
    }

    /// When it is full again.
    pub fn is_full_at(&self) -> Instant {
        self.full_at
    }

    /// Takes `cost` at once, or says how long to wait for it. What costs more than a burst passes when
    /// nothing has been taken for long, so that it is not refused for ever.
    pub fn take(&mut self, rate: Rate, cost: u32, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now);
        let used = full_at.since(now);
        let more = rate.interval.saturating_mul(cost);
        let over = (used + more).saturating_sub(rate.tolerance + rate.interval);
        if over.is_zero() || used.is_zero() {
            self.full_at = full_at + more;
            return Ok(());
        }
        Err(over.min(used))
    }

    /// Whether this bucket says as much as a new one.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        Instant::default()
    }

    #[test]
    fn a_burst_passes_and_the_next_hears_how_long_to_wait() {
        let rate = Rate::new(2, 3);
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, 1, start()), Ok(()));
        }
        assert_eq!(bucket.take(rate, 1, start()), Err(SECOND / 2));
        assert_eq!(bucket.take(rate, 1, start() + SECOND / 2), Ok(()));
    }

    #[test]
    fn what_is_not_used_does_not_pile_up_beyond_the_burst() {
        let rate = Rate::new(2, 2);
        let mut bucket = Bucket::default();
        let later = start() + SECOND * 100;
        assert!(bucket.is_full(start()));
        assert_eq!(bucket.take(rate, 2, later), Ok(()));
        assert!(bucket.take(rate, 1, later).is_err());
        assert!(!bucket.is_full(later));
        assert!(bucket.is_full(later + SECOND));
    }

    #[test]
    fn what_costs_more_than_a_burst_passes_alone_and_is_paid_for() {
        let rate = Rate::new(10, 10);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(rate, 100, start()), Ok(()));
        assert!(bucket.take(rate, 1, start() + SECOND * 9).is_err());
        assert_eq!(bucket.take(rate, 1, start() + SECOND * 10), Ok(()));
    }
}
