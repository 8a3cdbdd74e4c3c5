//! Pure: kept messages that were read together with one that left by MESSAGE, because they are the next
//! to leave.
//!
//! Only copies: what is no longer here is read again, and whether a message leaves at all is decided by the
//! user's machine, from which one that has been settled is gone.

use std::collections::{HashMap, VecDeque};

use crate::identity::Identity;
use crate::store::request::{Seq, Together};

/// Messages that are read together with one.
pub(super) const TOGETHER: usize = 15;
/// Octets of all of them with their fields; over it they are read again.
const MOST: usize = 8 * 1024 * 1024;
/// What a message takes beside its octets; estimated.
const MESSAGE: usize = 1_024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    users: HashMap<Identity, VecDeque<Together>, foldhash::fast::RandomState>,
    octets: usize,
}

impl ReadAhead {
    /// Memory in use.
    pub(super) fn footprint(&self) -> usize {
        self.octets
    }

    /// These are the next for a user, in place of what was here.
    pub(super) fn put(&mut self, user: &Identity, next: Vec<Together>) {
        self.forget(user);
        if next.is_empty() {
            return;
        }
        let octets: usize = next.iter().map(weight).sum();
        if self.octets + octets > MOST {
            *self = Self::default();
        }
        self.octets += octets;
        self.users.insert(user.clone(), next.into());
    }

    /// Takes a message out. What comes before it has gone another way.
    pub(super) fn take(&mut self, user: &Identity, seq: Seq) -> Option<Together> {
        let next = self.users.get_mut(user)?;
        let mut found = None;
        while let Some(message) = next.pop_front_if(|message| message.seq <= seq) {
            self.octets -= weight(&message);
            found = Some(message).filter(|message| message.seq == seq);
        }
        if next.is_empty() {
            self.users.remove(user);
        }
        found
    }

    /// What is here of a user may not hold any more, or is not wanted.
    pub(super) fn forget(&mut self, user: &Identity) {
        let next = self.users.remove(user);
        self.octets -= next.iter().flatten().map(weight).sum::<usize>();
    }
}

fn weight(message: &Together) -> usize {
    message.body.len() + message.message.field_octets() + MESSAGE
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::request::{DeferredMessage, MessageKind};

    fn user(name: &str) -> Identity {
        Identity::new(name, "im.example")
    }

    fn messages(range: std::ops::Range<u64>, octets: usize) -> Vec<Together> {
        let message = DeferredMessage::empty("alice", "bob", MessageKind::Pager);
        let one = |seq| Together {
            seq: Seq(seq),
            message: Arc::new(message.clone()),
            body: vec![0; octets].into(),
        };
        range.map(one).collect()
    }

    #[test]
    fn a_message_is_given_once_and_those_before_it_are_forgotten() {
        let (bob, carol) = (user("bob"), user("carol"));
        let mut ahead = ReadAhead::default();
        ahead.put(&bob, messages(1..5, 10));
        assert!(ahead.take(&carol, Seq(1)).is_none());
        assert_eq!(ahead.take(&bob, Seq(2)).map(|it| it.seq), Some(Seq(2)));
        assert!(ahead.take(&bob, Seq(2)).is_none());
        assert!(ahead.take(&bob, Seq(1)).is_none());
        assert_eq!(ahead.take(&bob, Seq(4)).map(|it| it.seq), Some(Seq(4)));
        assert_eq!((ahead.footprint(), ahead.users.len()), (0, 0));
    }

    #[test]
    fn header_fields_are_accounted_for() {
        let bob = user("bob");
        let mut long = messages(1..2, 10);
        Arc::make_mut(&mut long[0].message).headers = vec![("Subject".into(), "x".repeat(60_000))];
        let mut ahead = ReadAhead::default();
        ahead.put(&bob, long);
        assert!(ahead.footprint() > 60_000);
        assert!(ahead.take(&bob, Seq(1)).is_some());
        assert_eq!(ahead.footprint(), 0);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let mut ahead = ReadAhead::default();
        for number in 0..1_000 {
            let user = user(&format!("u{number}"));
            ahead.put(&user, messages(0..2, 32 * 1024));
            assert!(ahead.footprint() <= MOST);
            assert!(ahead.take(&user, Seq(0)).is_some());
            ahead.put(&user, messages(0..2, 32 * 1024));
        }
        for number in 0..1_000 {
            ahead.forget(&user(&format!("u{number}")));
        }
        assert_eq!(ahead.footprint(), 0);
    }
}
