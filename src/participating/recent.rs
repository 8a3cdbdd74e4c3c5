//! Which messages were accepted a moment ago: a retransmission that finds no transaction, after a
//! restart say, is answered again and not kept again (decision 12).

use std::collections::{HashMap, VecDeque};

use crate::clock::{Instant, Now};
use crate::store::deferred::DUPLICATE_WINDOW;
use crate::store::request::Seq;

/// Most messages remembered; beyond it the oldest are forgotten early.
const MOST: usize = 500_000;

/// The messages of the last 32 seconds by their duplicate key.
#[derive(Debug, Default)]
pub struct RecentlyAccepted {
    seqs: HashMap<u128, Seq, foldhash::fast::RandomState>,
    order: VecDeque<(Instant, u128)>,
}

impl RecentlyAccepted {
    /// Remembers a message.
    pub fn add(&mut self, key: u128, seq: Seq, now: Now) {
        while let Some((until, oldest)) = self.order.front().copied() {
            if until > now.instant && self.order.len() < MOST {
                break;
            }
            self.order.pop_front();
            self.seqs.remove(&oldest);
        }
        if self.seqs.insert(key, seq).is_none() {
            self.order.push_back((now.instant + DUPLICATE_WINDOW, key));
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The message with this key, if it was accepted a moment ago.
    pub fn find(&self, key: u128) -> Option<Seq> {
        self.seqs.get(&key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_remembered_for_32_seconds() {
        let mut recent = RecentlyAccepted::default();
        recent.add(1, Seq(10), Now::default());
        assert_eq!(recent.find(1), Some(Seq(10)));
        let later = Now::default().plus(DUPLICATE_WINDOW);
        recent.add(2, Seq(11), later);
        assert_eq!(recent.find(1), None);
        assert_eq!(recent.find(2), Some(Seq(11)));
    }
}
