//! How many chats each user has open, begun or taken, for all shards: a chat lies on the shard of who is called, so
//! no shard sees all those that one user begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::{Identity, shard_of};

/// Locks, so that shards rarely meet at one.
const STRIPES: u16 = 64;

type Stripe = HashMap<Identity, u32, foldhash::fast::RandomState>;

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
}

impl Chats {
    /// With so many for each user.
    pub fn new(most: u32) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            most,
        }
    }

    /// One more for a user, unless he has as many as he may.
    pub fn take(self: &Arc<Self>, user: &Identity) -> Option<Place> {
        let mut stripe = self.stripe(user);
        let open = stripe.get(user).copied().unwrap_or_default();
        if open >= self.most {
            return None;
        }
        stripe.insert(user.clone(), open + 1);
        Some(Place {
            chats: Arc::clone(self),
            user: user.clone(),
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
        if let Some(open) = stripe.get_mut(&self.user) {
            *open -= 1;
            if *open == 0 {
                stripe.remove(&self.user);
            }
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
        let places = chats.stripes.iter();
        assert!(
            places
                .into_iter()
                .all(|it| it.lock().expect("sound").is_empty())
        );
    }
}
