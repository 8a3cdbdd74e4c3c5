//! A full queue that makes room ("drop-oldest"): the oldest waiting messages go, their authors are told,
//! and only then the new message is put again.
//!
//! What is out with a delivery stays. New messages for such a user stand in line, in their order, and
//! are refused if room is not made in time; so the bound is never exceeded, not even for a moment.

use std::collections::{HashMap, VecDeque};

use crate::clock::{Instant, Now};
use crate::config::{CopyTo, WhenFull};
use crate::identity::Identity;
use crate::participating::arrival;
use crate::participating::custody::{Bounds, Retained};
use crate::participating::service::{Service, Waiter};
use crate::store::request::{
    Body, DeferredMessage, Held, MessageKind, Quota, Refusal, Seq, Settlement, StoreEvent,
    StoreRequest,
};

/// Messages that may stand in line for one user.
const LINE: usize = 64;
/// Queues that make room at the same time.
const CROWDS: usize = 256;

/// A message that waits for room in its recipient's queue.
#[derive(Debug)]
struct InLine {
    waiter: Waiter,
    retained: Retained,
    /// Refused from then on.
    until: Instant,
}

/// What is done about a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The store is asked for the oldest message that may go.
    Choosing,
    /// Its author is being told.
    Telling,
    /// The first in line is put again.
    Putting,
}

/// The messages that wait for room in one queue.
#[derive(Debug)]
pub(super) struct Crowd {
    line: VecDeque<InLine>,
    step: Step,
}

/// The crowds of a shard's users.
pub(super) type Crowds = HashMap<Identity, Crowd, foldhash::fast::RandomState>;

impl Service {
    /// What may wait for the recipient of a message, and whether it makes room for itself. A
    /// notification never pushes anything out; it has some room of its own instead.
    pub(super) fn bounds_for(&self, message: &DeferredMessage) -> Bounds {
        let settings = &self.settings_of(&message.recipient).settings;
        Bounds {
            quota: Quota {
                messages: settings.max_messages.into(),
                octets: settings.max_size.get(),
            },
            // What a device has got is kept for others only as long as there is room.
            makes_room: (settings.when_full == WhenFull::DropOldest
                || settings.copy_to == CopyTo::Every)
                && message.kind != MessageKind::Notification,
        }
    }

    /// Whether others wait for room already, so that a new message must stand behind them.
    pub(super) fn is_crowded(&self, message: &DeferredMessage) -> bool {
        message.kind != MessageKind::Notification && self.crowds.contains_key(&message.recipient)
    }

    /// Puts a message in line behind others; false if the line is too long.
    pub(super) fn stand_in_line(&mut self, waiter: Waiter, retained: Retained, now: Now) -> bool {
        let until = now.instant + self.custody.timeout();
        let crowd = self.crowds.get_mut(&retained.message.recipient);
        if let Some(crowd) = crowd.filter(|crowd| crowd.line.len() < LINE) {
            crowd.line.push_back(InLine {
                waiter,
                retained,
                until,
            });
            return true;
        }
        self.drop_body(&retained);
        false
    }

    fn drop_body(&mut self, retained: &Retained) {
        if let Body::Spooled { spool, .. } = retained.body {
            self.custody.tell(StoreRequest::Drop { spool });
        }
    }

    /// The store had no room for a message that makes room for itself.
    pub(super) fn handle_crowded(&mut self, waiter: Waiter, retained: Retained, now: Now) {
        let user = retained.message.recipient.clone();
        let (waiter, until) = match waiter {
            Waiter::InLine(_, waiter, until) => (*waiter, until),
            waiter => (waiter, now.instant + self.custody.timeout()),
        };
        let first = InLine {
            waiter,
            retained,
            until,
        };
        let may_begin = self.crowds.len() < CROWDS;
        match self.crowds.get_mut(&user) {
            // Two were put before the first of them came back: the line keeps their order.
            Some(crowd) if crowd.step != Step::Putting => crowd.line.push_back(first),
            Some(crowd) => {
                crowd.line.push_front(first);
                self.choose_oldest(&user, now);
            }
            None if !may_begin => self.refuse_in_line(first, Refusal::Full, now),
            None => {
                let crowd = Crowd {
                    line: VecDeque::from([first]),
                    step: Step::Choosing,
                };
                self.crowds.insert(user.clone(), crowd);
                self.choose_oldest(&user, now);
            }
        }
    }

    fn choose_oldest(&mut self, user: &Identity, now: Now) {
        self.set_step(user, Step::Choosing);
        let waiter = Waiter::Oldest(user.clone());
        if self.custody.load(user.clone(), None, waiter, now).is_err() {
            self.refuse_line(user, Refusal::Full, now);
        }
    }

    fn set_step(&mut self, user: &Identity, step: Step) {
        if let Some(crowd) = self.crowds.get_mut(user) {
            crowd.step = step;
        }
    }

    /// The oldest messages of a full queue.
    pub(super) fn handle_oldest(&mut self, user: &Identity, mut held: Vec<Held>, now: Now) {
        self.told.complete(user, &mut held);
        let may_go = |held: &&Held| {
            let leaves = self.is_on_its_way_out(user, held.seq);
            let machine = self.users.get(user);
            let is_out = machine.is_some_and(|m| m.is_out(&held.conversation, held.seq));
            !leaves && !is_out
        };
        let drops_unread = self.settings_of(user).settings.when_full == WhenFull::DropOldest;
        let copied = held
            .iter()
            .filter(may_go)
            .find(|held| !held.marks.is_empty());
        let oldest = || held.iter().find(may_go).filter(|_| drops_unread);
        let Some(oldest) = copied.or_else(oldest) else {
            return self.refuse_line(user, Refusal::OverQuota, now);
        };
        let (seq, delivered) = (oldest.seq, !oldest.marks.is_empty());
        let waiter = Waiter::Evicted(user.clone(), seq, delivered);
        if self
            .custody
            .fetch(user.clone(), seq, 0, waiter, now)
            .is_err()
        {
            self.refuse_line(user, Refusal::Full, now);
        }
    }

    /// The message that is to go.
    pub(super) fn handle_evicted(
        &mut self,
        user: &Identity,
        seq: Seq,
        delivered: bool,
        answer: StoreEvent,
        now: Now,
    ) {
        let StoreEvent::Fetched { message, .. } = answer else {
            return;
        };
        let key = arrival::conversation_key(&message);
        let machine = self.users.get(user);
        if machine.is_some_and(|machine| machine.is_out(&key, seq)) {
            return self.choose_oldest(user, now);
        }
        // It was confirmed while the store read it: there is room.
        if self.is_on_its_way_out(user, seq) {
            return self.put_next_in_line(user, now);
        }
        tracing::info!(recipient = %user, seq = seq.0, "a kept message makes room for newer ones");
        self.metrics.messages_evicted.count();
        self.set_step(user, Step::Telling);
        self.end_waiting(seq, message, Settlement::Evicted, delivered, now);
    }

    /// A message that was to go has gone by itself or cannot be read; or there was no answer.
    pub(super) fn handle_not_evicted(&mut self, user: &Identity, refusal: Refusal, now: Now) {
        match refusal {
            Refusal::Unknown | Refusal::Damaged => self.put_next_in_line(user, now),
            refusal => self.refuse_line(user, refusal, now),
        }
    }

    /// An evicted message has left the store.
    pub(super) fn handle_room_made(&mut self, user: &Identity, now: Now) {
        let crowd = self.crowds.get(user);
        if crowd.is_some_and(|crowd| crowd.step == Step::Telling) {
            self.put_next_in_line(user, now);
        }
    }

    /// Puts the first in line again; without a line there is no crowd.
    pub(super) fn put_next_in_line(&mut self, user: &Identity, now: Now) {
        while let Some(crowd) = self.crowds.get_mut(user) {
            let Some(first) = crowd.line.pop_front() else {
                self.crowds.remove(user);
                return;
            };
            crowd.step = Step::Putting;
            let Retained { message, body } = first.retained;
            let bounds = self.bounds_for(&message);
            let waiter = Waiter::InLine(user.clone(), Box::new(first.waiter), first.until);
            match self.custody.put(message, body, bounds, waiter, now) {
                Ok(()) => return,
                Err(Waiter::InLine(_, waiter, _)) => {
                    self.handle_refused(*waiter, Refusal::Full, now);
                }
                Err(_) => {}
            }
        }
    }

    /// No room can be made: everybody in line hears so.
    fn refuse_line(&mut self, user: &Identity, refusal: Refusal, now: Now) {
        let Some(crowd) = self.crowds.remove(user) else {
            return;
        };
        for waiting in crowd.line {
            self.refuse_in_line(waiting, refusal, now);
        }
    }

    fn refuse_in_line(&mut self, waiting: InLine, refusal: Refusal, now: Now) {
        self.drop_body(&waiting.retained);
        self.handle_refused(waiting.waiter, refusal, now);
    }

    /// Refuses those that have stood in line too long: the store is too slow.
    pub(super) fn handle_line_timeouts(&mut self, now: Now) {
        let mut late = Vec::new();
        for crowd in self.crowds.values_mut() {
            let is_late = |waiting: &&InLine| waiting.until <= now.instant;
            let count = crowd.line.iter().take_while(is_late).count();
            late.extend(crowd.line.drain(..count));
        }
        for waiting in late {
            self.refuse_in_line(waiting, Refusal::Full, now);
        }
    }
}
