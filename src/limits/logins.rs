//! Failed logins: who guesses passwords is locked out for a while.
//!
//! What counts is a wrong answer to a challenge of ours, and it counts against who got the challenge: a
//! nonce says to which source it was given, so nobody can lock others out by writing their address on his
//! guesses. Names that nobody has count like any other, so that a lockout gives nothing away.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::source::Source;
use crate::clock::Instant;

/// Locks, so that shards rarely meet at one.
const PARTS: usize = 16;
/// A lockout lasts at most this many times the first one.
const LONGEST: u32 = 64;
/// Octets of a name that are kept.
const LONGEST_NAME: usize = 128;
/// Failures this long ago are forgotten.
const MEMORY: Duration = Duration::from_secs(3_600);

/// When somebody is locked out.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Failed logins of one user from one source; 0 locks nobody out.
    pub failures: u32,
    /// Failed logins of one user from anywhere, after which one more is enough from each source.
    pub failures_per_user: u32,
    /// The first lockout; each further one is twice as long.
    pub lockout: Duration,
    /// Users and sources with failures that are remembered at once.
    pub most: usize,
}

/// To whom a challenge was given: a keyed hash of a [`Source`], as it stands in a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceTag(pub u32);

/// A lockout as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lockout {
    /// The name that was tried.
    pub user: Box<str>,
    /// Where the last try came from.
    pub source: Source,
    /// Until when.
    pub until: Instant,
    /// How often it was locked out, this time included.
    pub times: u32,
}

/// See the module.
pub struct Logins {
    settings: Settings,
    parts: Box<[Mutex<Part>]>,
    /// Users and sources with failures, so that nobody looks where there are none.
    remembered: AtomicUsize,
}

/// Some users' failures.
type Part = HashMap<Box<str>, User, foldhash::quality::RandomState>;

#[derive(Debug, Default)]
struct User {
    failures: u32,
    last: Instant,
    sources: HashMap<SourceTag, Tries, foldhash::quality::RandomState>,
}

#[derive(Debug)]
struct Tries {
    source: Source,
    failures: u32,
    last: Instant,
    until: Instant,
    times: u32,
}

impl Tries {
    fn is_old(&self, now: Instant) -> bool {
        now.since(self.last.max(self.until)) > MEMORY
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Logins");
        out.field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Logins {
    /// Nobody has tried anything yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            remembered: AtomicUsize::new(0),
        }
    }

    /// How long `user` stays locked out for the holder of a nonce.
    pub fn locked(&self, user: &str, tag: SourceTag, now: Instant) -> Option<Duration> {
        if self.is_quiet() {
            return None;
        }
        let part = self.part(user);
        let tries = part.get(key(user))?.sources.get(&tag)?;
        (tries.until > now).then(|| tries.until.since(now))
    }

    /// A wrong answer came; the lockout that follows, if one does.
    pub fn failed(
        &self,
        user: &str,
        tag: SourceTag,
        source: Source,
        now: Instant,
    ) -> Option<Lockout> {
        if self.settings.failures == 0 {
            return None;
        }
        let mut part = self.part(user);
        self.make_room(&mut part, now);
        let entry = part.entry(key(user).into()).or_default();
        if now.since(entry.last) > MEMORY {
            entry.failures = 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.last = now;
        let most = match entry.failures > self.settings.failures_per_user {
            true => 1,
            false => self.settings.failures,
        };
        let tries = entry.sources.entry(tag).or_insert_with(|| {
            self.remembered.fetch_add(1, Ordering::Relaxed);
            Tries {
                source,
                failures: 0,
                last: now,
                until: Instant::default(),
                times: 0,
            }
        });
        if tries.is_old(now) {
            (tries.failures, tries.times) = (0, 0);
        }
        (tries.source, tries.last) = (source, now);
        tries.failures += 1;
        if tries.failures < most {
            return None;
        }
        tries.failures = 0;
        tries.times = tries.times.saturating_add(1);
        let factor = 1_u32.checked_shl(tries.times - 1).unwrap_or(LONGEST);
        tries.until = now + self.settings.lockout.saturating_mul(factor.min(LONGEST));
        Some(Lockout {
            user: key(user).into(),
            source,
            until: tries.until,
            times: tries.times,
        })
    }

    /// The right answer came: what failed before from there is forgotten.
    pub fn succeeded(&self, user: &str, tag: SourceTag) {
        if self.is_quiet() {
            return;
        }
        if let Some(entry) = self.part(user).get_mut(key(user))
            && entry.sources.remove(&tag).is_some()
        {
            self.remembered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The lockouts that hold, by user.
    pub fn lockouts(&self, now: Instant) -> Vec<Lockout> {
        let mut all = Vec::new();
        for part in &self.parts {
            for (user, entry) in lock(part).iter() {
                let tries = entry.sources.values().filter(|tries| tries.until > now);
                all.extend(tries.map(|tries| Lockout {
                    user: user.clone(),
                    source: tries.source,
                    until: tries.until,
                    times: tries.times,
                }));
            }
        }
        all.sort_unstable_by(|a, b| (&a.user, a.source).cmp(&(&b.user, b.source)));
        all
    }

    /// Forgets what failed for a user; how many lockouts held.
    pub fn pardon(&self, user: &str, now: Instant) -> usize {
        let Some(entry) = self.part(user).remove(key(user)) else {
            return 0;
        };
        let forgotten = entry.sources.len();
        self.remembered.fetch_sub(forgotten, Ordering::Relaxed);
        let tries = entry.sources.values();
        tries.filter(|tries| tries.until > now).count()
    }

    fn is_quiet(&self) -> bool {
        self.remembered.load(Ordering::Relaxed) == 0
    }

    /// What is old goes, and where that is not enough, the user whose last failure is longest ago.
    fn make_room(&self, part: &mut Part, now: Instant) {
        let most = (self.settings.most / PARTS).max(1);
        let size = |user: &User| user.sources.len().max(1);
        let count = |part: &Part| -> usize { part.values().map(size).sum() };
        if count(part) < most {
            return;
        }
        for user in part.values_mut() {
            let before = user.sources.len();
            user.sources.retain(|_, tries| !tries.is_old(now));
            let forgotten = before - user.sources.len();
            self.remembered.fetch_sub(forgotten, Ordering::Relaxed);
        }
        part.retain(|_, user| !user.sources.is_empty());
        if count(part) >= most
            && let Some(oldest) =
                (part.iter().min_by_key(|(_, user)| user.last)).map(|(name, _)| name.clone())
            && let Some(user) = part.remove(&oldest)
        {
            let forgotten = user.sources.len();
            self.remembered.fetch_sub(forgotten, Ordering::Relaxed);
        }
    }

    fn part(&self, user: &str) -> MutexGuard<'_, Part> {
        let hash = crc32c::crc32c(key(user).as_bytes());
        lock(&self.parts[hash as usize % PARTS])
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As much of a name as is kept.
fn key(user: &str) -> &str {
    let mut end = user.len().min(LONGEST_NAME);
    while !user.is_char_boundary(end) {
        end -= 1;
    }
    &user[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HERE: SourceTag = SourceTag(1);
    const THERE: SourceTag = SourceTag(2);

    fn logins() -> Logins {
        Logins::new(Settings {
            failures: 5,
            failures_per_user: 20,
            lockout: SECOND * 60,
            most: 64 * PARTS,
        })
    }

    fn source() -> Source {
        Source::of("192.0.2.1".parse().expect("an address"))
    }

    fn start() -> Instant {
        Instant::default() + SECOND
    }

    /// Fails until locked out; how often it took.
    fn fail(logins: &Logins, user: &str, tag: SourceTag, now: Instant) -> usize {
        let mut tries = 1..1_000;
        let locked = tries.find(|_| logins.failed(user, tag, source(), now).is_some());
        locked.expect("locked out at last")
    }

    #[test]
    fn the_fifth_failure_locks_the_user_out_from_there_and_only_from_there() {
        let logins = logins();
        let now = start();
        assert_eq!(fail(&logins, "bob", HERE, now), 5);
        assert_eq!(logins.locked("bob", HERE, now), Some(SECOND * 60));
        assert_eq!(logins.locked("bob", THERE, now), None);
        assert_eq!(logins.locked("alice", HERE, now), None);
        assert_eq!(logins.locked("bob", HERE, now + SECOND * 60), None);
    }

    #[test]
    fn each_further_lockout_is_twice_as_long_up_to_a_bound() {
        let logins = logins();
        let mut now = start();
        for times in 0..9 {
            fail(&logins, "bob", HERE, now);
            let factor = 1 << times.min(6);
            assert_eq!(logins.locked("bob", HERE, now), Some(SECOND * 60 * factor));
            now = now + SECOND * 60 * factor;
        }
    }

    #[test]
    fn the_right_password_in_time_forgets_the_wrong_ones() {
        let logins = logins();
        for _ in 0..9 {
            for _ in 0..4 {
                assert_eq!(logins.failed("bob", HERE, source(), start()), None);
            }
            logins.succeeded("bob", HERE);
            // Beyond failures_per_user that would no longer hold.
            logins.pardon("bob", start());
        }
        assert!(logins.is_quiet());
    }

    #[test]
    fn guessing_from_many_places_gets_one_try_from_each_in_the_end() {
        let logins = logins();
        let now = start();
        for number in 10..14 {
            assert_eq!(fail(&logins, "bob", SourceTag(number), now), 5);
        }
        assert_eq!(fail(&logins, "bob", SourceTag(99), now), 1);
        assert_eq!(fail(&logins, "alice", SourceTag(99), now), 5);
    }

    #[test]
    fn the_operator_sees_lockouts_and_takes_them_back() {
        let logins = logins();
        let now = start();
        fail(&logins, "bob", HERE, now);
        let seen = logins.lockouts(now);
        assert_eq!((&*seen[0].user, seen[0].times), ("bob", 1));
        assert_eq!(seen[0].source, source());
        assert_eq!(logins.pardon("bob", now), 1);
        assert_eq!(logins.lockouts(now), []);
        assert_eq!(logins.locked("bob", HERE, now), None);
        assert!(logins.is_quiet());
    }

    #[test]
    fn names_that_nobody_has_do_not_fill_the_memory() {
        let logins = logins();
        for number in 0..20_000_u32 {
            let now = start() + SECOND * number;
            let name = format!("{number}-{}", "x".repeat(500));
            logins.failed(&name, SourceTag(number), source(), now);
        }
        let remembered = logins.remembered.load(Ordering::Relaxed);
        assert!(remembered <= 64 * PARTS, "{remembered}");
    }

    #[test]
    fn zero_locks_nobody_out() {
        let logins = Logins::new(Settings {
            failures: 0,
            ..logins().settings
        });
        let failed = |_| logins.failed("bob", HERE, source(), start());
        assert!((0..99).all(|index| failed(index).is_none()));
    }
}
