//! What the store was told of last: a queue that is read meanwhile may come without it. Pure.
//!
//! The store answers questions from what is durable, and does not say when it has made a mark or a
//! settlement so. A user's machine that was forgotten and is made again within that time would give a
//! device what it has just confirmed.

use std::collections::{HashSet, VecDeque};

use crate::identity::Identity;
use crate::participating::copies::add_mark;
use crate::store::request::{Held, Seq};

/// Marks, and settlements, that are remembered.
const MOST: usize = 4_096;

type Place = (Identity, Seq);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Told {
    marks: VecDeque<(Identity, Seq, u64)>,
    settled: HashSet<Place, foldhash::fast::RandomState>,
    in_order: VecDeque<Place>,
}

impl Told {
    /// A device has its copy.
    pub(super) fn mark(&mut self, user: Identity, seq: Seq, device: u64) {
        if self.marks.len() == MOST {
            self.marks.pop_front();
        }
        self.marks.push_back((user, seq, device));
    }

    /// A message has left the queue.
    pub(super) fn settle(&mut self, user: Identity, seq: Seq) {
        if self.in_order.len() == MOST
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.settled.remove(&oldest);
        }
        let place = (user, seq);
        if self.settled.insert(place.clone()) {
            self.in_order.push_back(place);
        }
    }

    /// Adds the marks that a page of this user's queue lacks.
    pub(super) fn complete(&self, user: &Identity, page: &mut [Held]) {
        for (_, seq, device) in self.marks.iter().filter(|(of, ..)| of == user) {
            if let Some(held) = page.iter_mut().find(|held| held.seq == *seq) {
                add_mark(held, *device);
            }
        }
    }

    /// Whether some device has its copy, as far as is remembered.
    pub(super) fn has_mark(&self, user: &Identity, seq: Seq) -> bool {
        let mut marks = self.marks.iter();
        marks.any(|(of, marked, _)| *marked == seq && of == user)
    }

    /// Whether a run for `device`, or without one for whichever takes it, need not carry a message any more.
    pub(super) fn has_come(&self, user: &Identity, seq: Seq, device: Option<u64>) -> bool {
        let has_mark = |device: u64| {
            let mut marks = self.marks.iter();
            marks.any(|(of, marked, by)| (*marked, *by) == (seq, device) && of == user)
        };
        self.has_settled(user, seq) || device.is_some_and(has_mark)
    }

    /// Whether a message has left the queue, though a page may still show it.
    pub(super) fn has_settled(&self, user: &Identity, seq: Seq) -> bool {
        !self.settled.is_empty() && self.settled.contains(&(user.clone(), seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u64) -> Identity {
        Identity::new(&format!("user{number}"), "im.test")
    }

    #[test]
    fn a_mark_is_known_of_its_message_alone() {
        let mut told = Told::default();
        told.mark(user(0), Seq(1), 7);
        assert!(told.has_mark(&user(0), Seq(1)));
        assert!(!told.has_mark(&user(0), Seq(2)));
        assert!(!told.has_mark(&user(1), Seq(1)));
        assert!(told.has_come(&user(0), Seq(1), Some(7)));
        assert!(!told.has_come(&user(0), Seq(1), Some(8)));
        assert!(!told.has_come(&user(0), Seq(1), None));
    }

    #[test]
    fn what_was_settled_is_known_of_its_user_and_so_many_are_remembered() {
        let mut told = Told::default();
        told.settle(user(0), Seq(0));
        told.settle(user(0), Seq(0));
        assert!(told.has_settled(&user(0), Seq(0)));
        assert!(!told.has_settled(&user(1), Seq(0)));
        assert!(!told.has_settled(&user(0), Seq(1)));
        (1..MOST as u64).for_each(|number| told.settle(user(number), Seq(number)));
        assert!(told.has_settled(&user(0), Seq(0)));
        told.settle(user(1), Seq(MOST as u64));
        assert!(!told.has_settled(&user(0), Seq(0)));
        assert!(told.has_settled(&user(1), Seq(1)));
        assert_eq!(told.settled.len(), MOST);
    }
}
