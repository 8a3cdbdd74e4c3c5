//! The store seen from outside its shards: for metrics, and for who asks whether all is well.

use std::sync::Arc;

use super::archive::Archive;
use super::deferred::{Health, Store};
use super::request::Usage;
use super::shared::Shared;
use crate::identity::Identity;
use crate::metrics::Histogram;

/// Looks at a store, also when that is closed already. Cheap to clone.
#[derive(Clone)]
pub struct StoreWatch(Arc<Shared>);

impl Store {
    /// A look at it for others.
    pub fn watch(&self) -> StoreWatch {
        StoreWatch(self.shared.clone())
    }
}

impl StoreWatch {
    /// Whether the store takes messages.
    pub fn health(&self) -> Health {
        self.0.health()
    }

    /// How much waits in all.
    pub fn usage(&self) -> Usage {
        self.0.index().holdings.total()
    }

    /// How much waits for one user.
    pub fn usage_of(&self, user: &Identity) -> Usage {
        self.0.index().holdings.of(user)
    }

    /// Entries of the index that are in memory.
    pub fn in_memory(&self) -> usize {
        self.0.index().recent.len()
    }

    /// Octets in all segment files, and octets in them that are of use.
    pub fn disk_use(&self) -> (u64, u64) {
        let index = self.0.index();
        let (log, bodies) = (index.log.sums(), index.bodies.sums());
        (log.0 + bodies.0, log.1 + bodies.1)
    }

    /// Segment files of the log, and of large bodies.
    pub fn segments(&self) -> (usize, usize) {
        let index = self.0.index();
        (index.log.0.len(), index.bodies.0.len())
    }

    /// Damaged places met since the start, and at it.
    pub fn damaged(&self) -> u64 {
        self.0.damages.count()
    }

    /// Octets of unfinished writes that the start found and set aside.
    pub fn torn(&self) -> u64 {
        self.0.damages.torn_octets()
    }

    /// The store as it is now, held open: everything that was acknowledged before this was called. Room
    /// of segments that are dropped meanwhile comes back when it is dropped.
    pub fn archive(&self) -> Archive {
        Archive::of_running(&self.0.index())
    }

    /// How long the commits of the log took.
    pub fn commits(&self) -> Arc<Histogram> {
        self.0.commits.clone()
    }
}
