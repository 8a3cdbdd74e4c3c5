//! Which time counts for expiry when the wall clock steps.
//!
//! A backward step revives nothing; a forward step of over an hour expires nothing until it has held
//! for ten minutes, because a clock that is wrong for a moment must not destroy mail.

use std::time::Duration;

use crate::clock::{Instant, Now, UnixMillis};

const SUSPICIOUS_STEP: Duration = Duration::from_secs(3600);
const MUST_HOLD: Duration = Duration::from_secs(600);

/// The clock that expiry follows.
#[derive(Debug)]
pub struct ExpiryClock {
    shown: UnixMillis,
    seen: Now,
    /// Since when the wall clock has been far ahead.
    ahead_since: Option<Instant>,
}

impl ExpiryClock {
    /// Starts at the wall clock's time.
    pub fn new(now: Now) -> Self {
        Self {
            shown: now.wall,
            seen: now,
            ahead_since: None,
        }
    }

    /// The time by which messages expire; never goes back.
    pub fn read(&mut self, now: Now) -> UnixMillis {
        let elapsed = now.instant.since(self.seen.instant);
        let expected = self.shown.plus(elapsed);
        self.seen = now;
        if now.wall.since(expected) <= SUSPICIOUS_STEP {
            self.ahead_since = None;
            // After a backward step time stands still until the wall clock has caught up.
            self.shown = self.shown.max(now.wall);
            return self.shown;
        }
        let since = *self.ahead_since.get_or_insert(now.instant);
        self.shown = if now.instant.since(since) >= MUST_HOLD {
            self.ahead_since = None;
            now.wall
        } else {
            expected
        };
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Now {
        Now {
            instant: Instant::from_micros(0),
            wall: UnixMillis(1_800_000_000_000),
        }
    }

    #[test]
    fn it_follows_a_clock_that_behaves() {
        let mut clock = ExpiryClock::new(start());
        let later = start().plus(Duration::from_secs(5));
        assert_eq!(clock.read(later), later.wall);
    }

    #[test]
    fn a_backward_step_revives_nothing() {
        let mut clock = ExpiryClock::new(start());
        let mut back = start().plus(Duration::from_secs(60));
        assert_eq!(clock.read(back), back.wall);
        let before = back.wall;
        back.wall = UnixMillis(before.0 - 30_000);
        assert_eq!(clock.read(back), before);
        let caught_up = back.plus(Duration::from_secs(40));
        assert_eq!(clock.read(caught_up), caught_up.wall);
    }

    #[test]
    fn a_forward_step_counts_only_after_ten_minutes() {
        let mut clock = ExpiryClock::new(start());
        let mut ahead = start();
        ahead.wall = ahead.wall.plus(Duration::from_secs(86_400));
        assert_eq!(clock.read(ahead), start().wall);
        let still = ahead.plus(Duration::from_secs(599));
        assert_eq!(
            clock.read(still),
            start().wall.plus(Duration::from_secs(599))
        );
        let held = ahead.plus(Duration::from_secs(600));
        assert_eq!(clock.read(held), held.wall);
    }
}
