//! What each user has sent: requests at the moment, messages and octets in the running period.
//!
//! Only users with a limit have a place, and only while it says more than an empty one would. The places lie
//! in stripes with a lock each, shared by all shards, because the messages of one author arrive on the
//! shards of all his recipients: so a limit holds exactly, whoever he writes to. A restart forgets all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::identity::Identity;
use crate::limits::rate::{Bucket, Rate};

const STRIPES: u16 = 64;

/// How much a user may send in a period; 0 means as much as he likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// How long a period lasts, from the first message in it.
    pub period: Duration,
    /// Messages in one.
    pub messages: u32,
    /// Octets of their bodies in one.
    pub octets: u64,
}

/// Why a user has to wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// He has sent as many messages as he may.
    Messages(Duration),
    /// These octets are more than are left to him.
    Octets(Duration),
    /// There is no place to count for him.
    NoPlace(Duration),
}

/// What a user has sent in the running period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Messages.
    pub messages: u32,
    /// Octets of their bodies.
    pub octets: u64,
    /// How long the period still lasts; zero: none has begun.
    pub left: Duration,
}

#[derive(Debug, Default)]
struct Place {
    requests: Bucket,
    ends_at: Instant,
    messages: u32,
    octets: u64,
}

impl Place {
    fn is_empty(&self, now: Instant) -> bool {
        self.requests.is_full(now) && self.ends_at <= now
    }
}

#[derive(Debug, Default)]
struct Stripe {
    places: HashMap<Identity, Place, foldhash::fast::RandomState>,
    /// At this many, empty places are looked for.
    sweep_at: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Ledger {
    stripes: Box<[Mutex<Stripe>]>,
    most: usize,
}

/// A user without a place is told to come back after this.
const NO_PLACE: Duration = Duration::from_secs(60);
/// Below this many places of a stripe it is not worth while to look for empty ones.
const FEW: usize = 64;

impl Ledger {
    /// With room for this many users.
    pub fn new(users: u32) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            most: (users as usize).div_ceil(usize::from(STRIPES)),
        }
    }

    /// One more request of a user.
    pub fn take_request(&self, user: &Identity, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut stripe = self.stripe(user);
        let place = stripe.place(user, self.most, now).ok_or(NO_PLACE)?;
        place.requests.take(rate, 1, now)
    }

    /// So much more of a user's messages; nothing if not all of it fits.
    pub fn take(
        &self,
        user: &Identity,
        quota: Quota,
        messages: u32,
        octets: u64,
        now: Instant,
    ) -> Result<(), Spent> {
        let mut stripe = self.stripe(user);
        let place = stripe.place(user, self.most, now);
        let place = place.ok_or(Spent::NoPlace(NO_PLACE))?;
        if place.ends_at <= now {
            (place.messages, place.octets) = (0, 0);
            place.ends_at = now + quota.period;
        }
        let wait = place.ends_at.since(now);
        let sum = (
            place.messages.saturating_add(messages),
            place.octets.saturating_add(octets),
        );
        if quota.messages > 0 && sum.0 > quota.messages {
            return Err(Spent::Messages(wait));
        }
        if quota.octets > 0 && sum.1 > quota.octets {
            return Err(Spent::Octets(wait));
        }
        (place.messages, place.octets) = sum;
        Ok(())
    }

    /// What was taken was not sent after all.
    pub fn give_back(&self, user: &Identity, messages: u32, octets: u64) {
        if let Some(place) = self.stripe(user).places.get_mut(user) {
            place.messages = place.messages.saturating_sub(messages);
            place.octets = place.octets.saturating_sub(octets);
        }
    }

    /// What a user has sent in his running period.
    pub fn used(&self, user: &Identity, now: Instant) -> Used {
        let stripe = self.stripe(user);
        let place = stripe.places.get(user);
        let place = place.filter(|place| place.ends_at > now);
        place.map_or_else(Used::default, |place| Used {
            messages: place.messages,
            octets: place.octets,
            left: place.ends_at.since(now),
        })
    }

    /// Users with a place.
    pub fn len(&self) -> usize {
        let stripes = self.stripes.iter();
        stripes.map(|stripe| lock(stripe).places.len()).sum()
    }

    /// Whether nobody has a place.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn stripe(&self, user: &Identity) -> MutexGuard<'_, Stripe> {
        let index = usize::from(crate::identity::shard_of(user, STRIPES));
        lock(&self.stripes[index])
    }
}

/// A stripe holds numbers alone: whoever panicked with it left none of them half written.
fn lock(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stripe {
    fn place(&mut self, user: &Identity, most: usize, now: Instant) -> Option<&mut Place> {
        if !self.places.contains_key(user) {
            if self.places.len() >= self.sweep_at.min(most) {
                self.places.retain(|_, place| !place.is_empty(now));
                self.sweep_at = (self.places.len() * 2).max(FEW);
            }
            if self.places.len() >= most {
                return None;
            }
        }
        Some(self.places.entry(user.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn user(name: &str) -> Identity {
        Identity::new(name, "im.test")
    }

    fn start() -> Instant {
        Instant::from_micros(1)
    }

    fn quota(messages: u32, octets: u64) -> Quota {
        Quota {
            period: DAY,
            messages,
            octets,
        }
    }

    #[test]
    fn one_more_than_the_quota_waits_for_the_next_period() {
        let ledger = Ledger::new(1_000);
        let alice = user("alice");
        for _ in 0..3 {
            assert_eq!(ledger.take(&alice, quota(3, 0), 1, 10, start()), Ok(()));
        }
        let later = start() + DAY / 4;
        let spent = Err(Spent::Messages(DAY * 3 / 4));
        assert_eq!(ledger.take(&alice, quota(3, 0), 1, 10, later), spent);
        assert_eq!(ledger.used(&alice, later).messages, 3);
        assert_eq!(ledger.take(&user("bob"), quota(3, 0), 1, 10, later), Ok(()));
        assert_eq!(
            ledger.take(&alice, quota(3, 0), 1, 10, start() + DAY),
            Ok(())
        );
    }

    #[test]
    fn octets_are_counted_for_themselves_and_what_is_given_back_can_be_used() {
        let ledger = Ledger::new(1_000);
        let alice = user("alice");
        assert_eq!(ledger.take(&alice, quota(0, 100), 1, 90, start()), Ok(()));
        let spent = Err(Spent::Octets(DAY));
        assert_eq!(ledger.take(&alice, quota(0, 100), 1, 11, start()), spent);
        assert_eq!(ledger.take(&alice, quota(0, 100), 1, 10, start()), Ok(()));
        ledger.give_back(&alice, 1, 10);
        let used = ledger.used(&alice, start());
        assert_eq!((used.messages, used.octets, used.left), (1, 90, DAY));
    }

    #[test]
    fn users_without_a_running_period_have_no_place() {
        let ledger = Ledger::new(u32::from(STRIPES));
        for number in 0..10_000_u64 {
            let now = start() + DAY * u32::try_from(number).unwrap();
            let alone = user(&number.to_string());
            assert_eq!(ledger.take(&alone, quota(1, 0), 1, 1, now), Ok(()));
        }
        assert!(ledger.len() <= usize::from(STRIPES));
    }

    #[test]
    fn whoever_finds_no_place_is_refused() {
        let ledger = Ledger::new(u32::from(STRIPES));
        let refused = (0..1_000).filter(|number| {
            let alone = user(&number.to_string());
            ledger.take(&alone, quota(9, 0), 1, 1, start()).is_err()
        });
        assert_eq!(refused.count(), 1_000 - ledger.len());
        assert!(ledger.len() <= usize::from(STRIPES));
    }

    #[test]
    fn requests_have_a_rate_of_their_own() {
        let ledger = Ledger::new(1_000);
        let (alice, rate) = (user("alice"), Rate::new(1, 2));
        assert_eq!(ledger.take_request(&alice, rate, start()), Ok(()));
        assert_eq!(ledger.take_request(&alice, rate, start()), Ok(()));
        assert!(ledger.take_request(&alice, rate, start()).is_err());
        assert_eq!(ledger.take_request(&user("bob"), rate, start()), Ok(()));
    }
}
