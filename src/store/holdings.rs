//! How much waits for each user and in all, kept as messages come and go.
//!
//! A message counts from the moment its `Put` is taken from the queue until its settlement is: so
//! what is counted never lags behind what was asked, and two messages never get one place.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::request::Usage;
use crate::identity::Identity;

/// What waits, by user.
#[derive(Default)]
pub(super) struct Holdings {
    users: BTreeMap<Identity, Usage>,
    total: Usage,
}

impl Usage {
    fn add(&mut self, octets: u64) {
        self.messages += 1;
        self.octets = self.octets.saturating_add(octets);
    }

    fn remove(&mut self, octets: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.octets = self.octets.saturating_sub(octets);
    }
}

impl Holdings {
    /// A message of so many octets for a user.
    pub(super) fn add(&mut self, user: &Identity, octets: u64) {
        self.total.add(octets);
        if let Some(usage) = self.users.get_mut(user) {
            usage.add(octets);
        } else {
            let usage = Usage {
                messages: 1,
                octets,
            };
            self.users.insert(user.clone(), usage);
        }
    }

    /// It is gone.
    pub(super) fn remove(&mut self, user: &Identity, octets: u64) {
        let Some(usage) = self.users.get_mut(user) else {
            return;
        };
        self.total.remove(octets);
        usage.remove(octets);
        if usage.messages == 0 {
            self.users.remove(user);
        }
    }

    /// How much waits for a user.
    pub(super) fn of(&self, user: &Identity) -> Usage {
        self.users.get(user).copied().unwrap_or_default()
    }

    /// For how many users anything waits.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// How much waits in all.
    pub(super) fn total(&self) -> Usage {
        self.total
    }

    /// The users for whom anything waits, by name.
    pub(super) fn users(&self) -> impl Iterator<Item = &Identity> {
        self.users.keys()
    }

    /// Those after one, with how much waits.
    pub(super) fn after(
        &self,
        user: Option<&Identity>,
    ) -> impl Iterator<Item = (&Identity, &Usage)> {
        let from = user.map_or(Bound::Unbounded, Bound::Excluded);
        self.users.range((from, Bound::Unbounded))
    }
}
