//! The only reader of clocks. Machines get time as an argument, so that a test can move it.
//!
//! Two clocks exist because they answer two questions: [`Instant`] never steps and drives timers;
//! [`UnixMillis`] is what people and other hosts call the time and dates messages.

use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on the monotonic clock, in microseconds since the process first asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// A point `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(micros))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z. It may step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This time moved forward, without wrapping.
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// For dates and expiry.
    pub wall: UnixMillis,
}

impl Now {
    /// Both clocks moved forward; what a simulated world does instead of sleeping.
    pub fn plus(self, duration: Duration) -> Self {
        Self {
            instant: self.instant + duration,
            wall: self.wall.plus(duration),
        }
    }
}

/// Reads both clocks.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        instant: instant(),
        wall: UnixMillis::default().plus(wall),
    }
}

/// Reads the one for timers alone.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn instant() -> Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(std::time::Instant::now);
    Instant::default() + origin.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_never_wrap() {
        let late = Instant::from_micros(u64::MAX) + Duration::from_secs(1);
        assert_eq!(late, Instant::from_micros(u64::MAX));
        assert_eq!(
            Instant::default() - Duration::from_secs(1),
            Instant::default()
        );
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = now();
        let second = now();
        assert!(second.instant >= first.instant);
        assert!(first.wall > UnixMillis(1_700_000_000_000));
    }
}
