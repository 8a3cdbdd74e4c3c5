//! What is under way for users: found by its number, and for one user without a look at what is under way for
//! others.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

use smallvec::SmallVec;

use crate::identity::Identity;

/// Something for one user, who stays the same.
pub trait ForUser {
    /// For whom.
    fn user(&self) -> &Identity;
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// All of one kind. To be read, it is a map by number.
#[derive(Debug)]
pub struct OfUsers<K, V> {
    all: Map<K, V>,
    of_user: Map<Identity, SmallVec<[K; 2]>>,
}

impl<K, V> Default for OfUsers<K, V> {
    fn default() -> Self {
        Self {
            all: HashMap::default(),
            of_user: HashMap::default(),
        }
    }
}

impl<K, V> Deref for OfUsers<K, V> {
    type Target = Map<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<K: Copy + Eq + Hash, V: ForUser> OfUsers<K, V> {
    /// Adds one under a number that nothing has.
    pub fn insert(&mut self, id: K, value: V) {
        let ids = self.of_user.entry(value.user().clone()).or_default();
        ids.push(id);
        self.all.insert(id, value);
    }

    /// Takes one out.
    pub fn remove(&mut self, id: &K) -> Option<V> {
        let value = self.all.remove(id)?;
        if let Some(ids) = self.of_user.get_mut(value.user()) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.of_user.remove(value.user());
            }
        }
        Some(value)
    }

    /// One, to be changed.
    pub fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        self.all.get_mut(id)
    }

    /// Those of one user.
    pub fn of<'a>(&'a self, user: &Identity) -> impl Iterator<Item = (K, &'a V)> + use<'a, K, V> {
        let ids = self.of_user.get(user).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.all.get(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Work(Identity, u8);

    impl ForUser for Work {
        fn user(&self) -> &Identity {
            &self.0
        }
    }

    #[test]
    fn what_is_for_one_user_is_found_without_that_of_others_and_forgotten_with_the_last() {
        let user = |name: &str| Identity::new(name, "im.test");
        let mut works = OfUsers::default();
        for (number, name) in ["bob", "carol", "bob"].into_iter().enumerate() {
            works.insert(number, Work(user(name), 0));
        }
        let of = |works: &OfUsers<usize, Work>, name: &str| {
            let found = works.of(&user(name)).map(|(id, work)| (id, work.1));
            found.collect::<Vec<_>>()
        };
        works.get_mut(&2).expect("there").1 = 7;
        assert_eq!(of(&works, "bob"), [(0, 0), (2, 7)]);
        assert!(works.remove(&0).is_some() && works.remove(&0).is_none());
        assert_eq!(of(&works, "bob"), [(2, 7)]);
        assert_eq!(of(&works, "dave"), []);
        works.remove(&2);
        works.remove(&1);
        assert!(works.is_empty() && works.of_user.is_empty());
    }
}
