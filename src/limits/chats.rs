//! How many chats each user has open, begun or taken, for all shards: a chat lies on the shard of who is called, so
//! no shard sees all those that one user begins. One caller may have a part of a user's chats alone, so that he
//! keeps nobody else from calling.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::{Identity, shard_of};

/// Locks, so that shards rarely meet at one.
const STRIPES: u16 = 64;

/// Of the chats that a user may have one caller may have one in so many.
const SHARE: u32 = 4;
/// So many of them at least.
const LEAST_SHARE: u32 = 16;

type Counts<K> = HashMap<K, u32, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
struct Stripe {
    /// By user.
    all: Counts<Identity>,
    /// By user and who calls him.
    by_caller: Counts<(Identity, Identity)>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Chats {
    stripes: Box<[Mutex<Stripe>]>,
    most: u32,
}

/// One chat of a user; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    chats: Arc<Chats>,
    user: Identity,
    caller: Option<Identity>,
}

impl Chats {
    /// With so many for each user.
    pub fn new(most: u32) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            most,
        }
    }

    /// One more that a user begins, unless he has as many as he may.
    pub fn take(self: &Arc<Self>, user: &Identity) -> Option<Place> {
        self.take_for(user, None)
    }

    /// One more that a caller begins with a user, unless that has as many as he may, or as many with this caller.
    pub fn take_called(self: &Arc<Self>, user: &Identity, caller: &Identity) -> Option<Place> {
        self.take_for(user, Some(caller))
    }

    fn take_for(self: &Arc<Self>, user: &Identity, caller: Option<&Identity>) -> Option<Place> {
        let mut stripe = self.stripe(user);
        let Stripe { all, by_caller } = &mut *stripe;
        let open = all.get(user).copied().unwrap_or_default();
        if open >= self.most {
            return None;
        }
        if let Some(caller) = caller {
            let of_caller = by_caller.entry((user.clone(), caller.clone())).or_default();
            if *of_caller >= (self.most / SHARE).max(LEAST_SHARE) {
                return None;
            }
            *of_caller += 1;
        }
        all.insert(user.clone(), open + 1);
        Some(Place {
            chats: Arc::clone(self),
            user: user.clone(),
            caller: caller.cloned(),
        })
    }

    fn stripe(&self, user: &Identity) -> MutexGuard<'_, Stripe> {
        let stripe = &self.stripes[usize::from(shard_of(user, STRIPES))];
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut stripe = self.chats.stripe(&self.user);
        give_back(&mut stripe.all, &self.user);
        if let Some(caller) = self.caller.take() {
            give_back(&mut stripe.by_caller, &(self.user.clone(), caller));
        }
    }
}

fn give_back<K: Hash + Eq>(counts: &mut Counts<K>, key: &K) {
    if let Some(open) = counts.get_mut(key) {
        *open -= 1;
        if *open == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_and_again_when_one_ends() {
        let chats = Arc::new(Chats::new(2));
        let user = |name: &str| Identity::new(name, "im.test");
        let first = chats.take(&user("bob")).expect("none is open");
        let second = chats.take(&user("bob")).expect("one is open");
        assert!(chats.take(&user("bob")).is_none());
        let other = chats.take(&user("carol"));
        assert!(other.is_some());
        drop(first);
        let third = chats.take(&user("bob"));
        assert!(third.is_some() && chats.take(&user("bob")).is_none());
        drop((second, third, other));
        assert!(is_empty(&chats));
    }

    #[test]
    fn one_caller_leaves_room_for_others() {
        let user = |name: &str| Identity::new(name, "im.test");
        for (most, share) in [(100, 25), (40, 16), (3, 3)] {
            let chats = Arc::new(Chats::new(most));
            let take = |caller: &str| chats.take_called(&user("bob"), &user(caller));
            let mut places: Vec<_> = (0..share).map(|_| take("mallory").expect("room")).collect();
            assert!(take("mallory").is_none());
            assert_eq!(take("alice").is_some(), share < most);
            assert!(chats.take(&user("mallory")).is_some(), "he calls others");
            places.pop();
            places.push(take("mallory").expect("one has ended"));
            drop(places);
            assert!(is_empty(&chats));
        }
    }

    fn is_empty(chats: &Chats) -> bool {
        let mut stripes = chats.stripes.iter().map(|it| it.lock().expect("sound"));
        stripes.all(|it| it.all.is_empty() && it.by_caller.is_empty())
    }
}
