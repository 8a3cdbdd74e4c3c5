//! One token bucket that all shards take from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::rate::{Bucket, Rate};

/// A [`Bucket`] in one word, so that shards share it without a lock.
#[derive(Debug, Default)]
pub struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// What [`Self::take`] would say, without taking.
    pub fn try_take(&self, rate: Rate, cost: u32, now: Instant) -> Result<(), Duration> {
        let micros = self.0.load(Ordering::Relaxed);
        Bucket::full_at(Instant::from_micros(micros)).take(rate, cost, now)
    }

    /// As [`Bucket::take`].
    pub fn take(&self, rate: Rate, cost: u32, now: Instant) -> Result<(), Duration> {
        let mut wait = Duration::ZERO;
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |micros| {
                let mut bucket = Bucket::full_at(Instant::from_micros(micros));
                match bucket.take(rate, cost, now) {
                    Ok(()) => Some(bucket.is_full_at().as_micros()),
                    Err(longer) => {
                        wait = longer;
                        None
                    }
                }
            });
        taken.map(drop).map_err(|_| wait)
    }

    /// As [`Bucket::is_full`].
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at() <= now
    }

    /// When it is as if nothing had ever been taken.
    pub fn full_at(&self) -> Instant {
        Instant::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// As if nothing had ever been taken.
    pub fn refill(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn whoever_takes_together_gets_no_more_than_the_burst() {
        let bucket = Arc::new(SharedBucket::default());
        let taken = Arc::new(AtomicU32::new(0));
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let (bucket, taken) = (Arc::clone(&bucket), Arc::clone(&taken));
                std::thread::spawn(move || {
                    for _ in 0..1_000 {
                        let now = Instant::from_micros(5);
                        if bucket.take(Rate::new(100, 50), 1, now).is_ok() {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for taker in takers {
            taker.join().unwrap();
        }
        assert_eq!(taken.load(Ordering::Relaxed), 50);
    }

    #[test]
    fn who_gets_nothing_hears_how_long_to_wait() {
        let bucket = SharedBucket::default();
        let rate = Rate::new(2, 1);
        let start = Instant::default();
        assert_eq!(bucket.take(rate, 1, start), Ok(()));
        let wait = Duration::from_millis(500);
        assert_eq!(bucket.take(rate, 1, start), Err(wait));
        assert_eq!(bucket.take(rate, 1, start + wait), Ok(()));
    }
}
