//! Users whose waiting messages are to be offered stand in line, so that a hundred thousand who
//! register at once do not take everything at once. Pure.
//!
//! So many users are being served at the same time, and so many begin within a second; the others
//! wait in the order in which they came, without a timer each. Nobody is in line twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::identity::Identity;
use crate::limits::rate::{Bucket, Rate};

/// While the shard is behind, the line is looked at again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why a user stands in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// A pause after a refusal is over.
    Retry,
    /// He has registered, or what he may get has changed.
    Registered,
}

/// See the module's text.
#[derive(Debug)]
pub struct ReplayLine {
    at_once: usize,
    rate: Rate,
    bucket: Bucket,
    order: VecDeque<Identity>,
    waiting: HashMap<Identity, Occasion, foldhash::fast::RandomState>,
    served: HashSet<Identity, foldhash::fast::RandomState>,
    /// Nobody begins before.
    not_before: Instant,
}

impl ReplayLine {
    /// `at_once` users are served at the same time, `per_second` begin within a second.
    pub fn new(at_once: usize, per_second: u32) -> Self {
        Self {
            at_once: at_once.max(1),
            rate: Rate::new(per_second, (per_second / 10).max(1)),
            bucket: Bucket::default(),
            order: VecDeque::new(),
            waiting: HashMap::default(),
            served: HashSet::default(),
            not_before: Instant::default(),
        }
    }

    /// Whether a user stands in line: what waits for him has not been looked at yet.
    pub fn has(&self, user: &Identity) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(user)
    }

    /// How many stand in line.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many are being served.
    pub fn served(&self) -> usize {
        self.served.len()
    }

    /// Whether a user is being served.
    pub fn serves(&self, user: &Identity) -> bool {
        self.served.contains(user)
    }

    /// A user comes. `true`: it is his turn at once, or he is being served already.
    pub fn come(&mut self, user: &Identity, occasion: Occasion, now: Instant) -> bool {
        if self.served.contains(user) {
            return true;
        }
        if let Some(known) = self.waiting.get_mut(user) {
            *known = occasion.max(*known);
            return false;
        }
        if self.order.is_empty() && self.begin(now) {
            self.served.insert(user.clone());
            return true;
        }
        self.order.push_back(user.clone());
        self.waiting.insert(user.clone(), occasion);
        false
    }

    /// The next whose turn it is, and why he came; nobody while the shard is behind, but for one that
    /// is served alone.
    pub fn next(&mut self, is_busy: bool, now: Instant) -> Option<(Identity, Occasion)> {
        if self.order.is_empty() || self.not_before > now {
            return None;
        }
        if is_busy && !self.served.is_empty() {
            self.not_before = now + BUSY_PAUSE;
            return None;
        }
        if !self.begin(now) {
            return None;
        }
        let user = self.order.pop_front()?;
        let occasion = self.waiting.remove(&user)?;
        self.served.insert(user.clone());
        Some((user, occasion))
    }

    /// A user needs nothing more for now.
    pub fn leave(&mut self, user: &Identity) {
        if !self.served.is_empty() {
            self.served.remove(user);
        }
    }

    /// When to ask for the next; `None` if somebody has to leave first.
    pub fn next_deadline(&self) -> Option<Instant> {
        let has_room = self.served.len() < self.at_once;
        (has_room && !self.order.is_empty()).then_some(self.not_before)
    }

    fn begin(&mut self, now: Instant) -> bool {
        if self.served.len() >= self.at_once {
            return false;
        }
        match self.bucket.take(self.rate, 1, now) {
            Ok(()) => true,
            Err(wait) => {
                self.not_before = now + wait;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> Identity {
        Identity::new(&format!("u{number}"), "im.test")
    }

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    #[test]
    fn so_many_are_served_at_once_and_the_others_in_the_order_they_came() {
        let mut line = ReplayLine::new(2, 1000);
        let came: Vec<bool> = (0..5)
            .map(|number| line.come(&user(number), Occasion::Registered, at(0)))
            .collect();
        assert_eq!(came, [true, true, false, false, false]);
        assert!(line.has(&user(2)) && line.serves(&user(0)));
        assert!(
            line.come(&user(1), Occasion::Registered, at(0)),
            "served already"
        );
        assert!(
            !line.come(&user(3), Occasion::Registered, at(0)),
            "once in line"
        );
        assert_eq!((line.len(), line.served()), (3, 2));
        assert_eq!(line.next(false, at(1)), None);
        assert_eq!(line.next_deadline(), None);
        line.leave(&user(1));
        assert_eq!(
            line.next(false, at(1)),
            Some((user(2), Occasion::Registered))
        );
        line.leave(&user(0));
        assert_eq!(
            line.next(false, at(1)),
            Some((user(3), Occasion::Registered))
        );
        assert_eq!(line.len(), 1);
    }

    #[test]
    fn so_many_begin_within_a_second() {
        let mut line = ReplayLine::new(10_000, 100);
        let mut begun = (0..500)
            .filter(|number| line.come(&user(*number), Occasion::Registered, at(0)))
            .count();
        assert_eq!(begun, 10, "a tenth of a second's share at once");
        let mut now = at(0);
        while let Some(next) = line.next_deadline().filter(|next| *next <= at(1000)) {
            now = next.max(now);
            while line.next(false, now).is_some() {
                begun += 1;
            }
        }
        assert!((100..=111).contains(&begun), "{begun}");
    }

    #[test]
    fn while_the_shard_is_behind_one_is_served_alone() {
        let mut line = ReplayLine::new(1, 1000);
        assert!(line.come(&user(0), Occasion::Retry, at(0)));
        assert!(!line.come(&user(1), Occasion::Retry, at(0)));
        assert!(!line.come(&user(1), Occasion::Registered, at(0)));
        line.leave(&user(0));
        assert_eq!(
            line.next(true, at(5)),
            Some((user(1), Occasion::Registered))
        );
        let mut line = ReplayLine::new(2, 1000);
        for number in 0..3 {
            line.come(&user(number), Occasion::Retry, at(0));
        }
        line.leave(&user(0));
        assert_eq!(line.next(true, at(5)), None);
        assert_eq!(line.next_deadline(), Some(at(25)));
        assert_eq!(line.next(false, at(25)), Some((user(2), Occasion::Retry)));
    }
}
