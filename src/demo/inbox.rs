//! What arrived at an agent and was not asked for yet.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;

/// A queue from which the first item that fits is taken, waiting for it if need be.
pub(super) struct Inbox<T> {
    items: Mutex<VecDeque<T>>,
    arrived: Condvar,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self {
            items: Mutex::new(VecDeque::new()),
            arrived: Condvar::new(),
        }
    }

    pub(super) fn push(&self, item: T) {
        self.items().push_back(item);
        self.arrived.notify_all();
    }

    /// The oldest item that `fits`, or `None` when none came within `patience`.
    pub(super) fn take(&self, patience: Duration, fits: impl Fn(&T) -> bool) -> Option<T> {
        let deadline = clock::now().instant + patience;
        let mut items = self.items();
        loop {
            if let Some(at) = items.iter().position(&fits) {
                return items.remove(at);
            }
            let left = deadline.since(clock::now().instant);
            if left.is_zero() {
                return None;
            }
            items = self
                .arrived
                .wait_timeout(items, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
