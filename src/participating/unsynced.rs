//! What devices have confirmed of a user's queue and the store has not made durable: after a kill it comes again.
//! So many may be at most, together with what is out with devices and has no answer; then the next message of the
//! conversation waits for the sync.

use crate::clock::Now;
use crate::identity::Identity;
use crate::participating::delivery::{DeliveryBy, DeliveryId};
use crate::participating::service::{Service, Waiter};

/// Messages of one conversation that may come again after a kill.
pub const MOST: usize = 20;
/// So many are gathered before the store is asked whether they are durable: a question for each would cost more
/// than it spares.
const ASKED_AT: usize = 4;

/// Of one user. Pure.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// Confirmed since the store was asked.
    since: usize,
    /// The question that is open, and how many it covers.
    asked: Option<(u64, usize)>,
    /// A run waits for the answer.
    is_awaited: bool,
}

impl Unsynced {
    /// A device has confirmed a message; whether the store is to be asked.
    pub fn add(&mut self) -> bool {
        self.since += 1;
        self.is_due()
    }

    /// Whether the store is to be asked: it has answered, and enough have gathered meanwhile.
    pub fn is_due(&self) -> bool {
        self.asked.is_none() && self.since >= ASKED_AT
    }

    /// The store is asked.
    pub fn ask(&mut self, number: u64) {
        self.asked = Some((number, std::mem::take(&mut self.since)));
    }

    /// Whether it is to be asked although few have gathered: nothing more will come.
    pub fn has_rest(&self) -> bool {
        self.asked.is_none() && self.since > 0
    }

    /// Whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.asked.is_none() && self.since == 0
    }

    /// It has answered, or cannot say: then nothing is bounded. False if that question is not open.
    pub fn answered(&mut self, number: u64) -> bool {
        let is_open = self.asked.is_some_and(|(open, _)| open == number);
        if is_open {
            self.asked = None;
        }
        is_open
    }

    /// Whether another message may go out beside `under_way`; if not, the run waits for the answer.
    pub fn has_room(&mut self, under_way: usize) -> bool {
        let covered = self.asked.map_or(0, |(_, covered)| covered);
        let has_room = under_way + covered + self.since < MOST;
        self.is_awaited |= !has_room;
        has_room
    }

    /// Whether a run has waited.
    pub fn take_awaited(&mut self) -> bool {
        std::mem::take(&mut self.is_awaited)
    }
}

impl Service {
    /// A device has confirmed a message of this user's.
    pub(super) fn count_unsynced(&mut self, user: &Identity, now: Now) {
        let machine = self.users.get_mut(user);
        if machine.is_some_and(|machine| machine.unsynced.add()) {
            self.ask_for_sync(user, now);
        }
    }

    /// Whether a run may be given another message beside those that it has under way.
    pub(super) fn may_hand_out(&mut self, id: DeliveryId, under_way: usize) -> bool {
        let user = self.deliveries.get(&id).map(|delivery| &delivery.user);
        let machine = user.and_then(|user| self.users.get_mut(user));
        machine.is_none_or(|machine| machine.unsynced.has_room(under_way))
    }

    /// Asks the store whether what was confirmed is durable; without a credit, as soon as there is one.
    pub(super) fn ask_for_sync(&mut self, user: &Identity, now: Now) {
        let number = self.next_number();
        let waiter = Waiter::Flushed(user.clone(), number);
        if self.custody.flush(waiter, now).is_err() {
            self.postponed_flushes.insert(user.clone());
        } else if let Some(machine) = self.users.get_mut(user) {
            machine.unsynced.ask(number);
        }
    }

    /// There is a credit again, perhaps.
    pub(super) fn resume_flushes(&mut self, now: Now) {
        while self.custody.has_room()
            && let Some(user) = self.postponed_flushes.pop_first()
        {
            let machine = self.users.get(&user);
            if machine.is_some_and(|machine| machine.unsynced.has_rest()) {
                self.ask_for_sync(&user, now);
            }
        }
    }

    /// What was confirmed before the store was asked is durable, or the store cannot say.
    pub(super) fn handle_flushed(&mut self, user: &Identity, number: u64, now: Now) {
        let Some(machine) = self.users.get_mut(user) else {
            return;
        };
        if !machine.unsynced.answered(number) {
            return;
        }
        let (is_due, is_awaited) = (machine.unsynced.is_due(), machine.unsynced.take_awaited());
        if is_due {
            // Perhaps nothing more is out with a device whose answer would ask.
            self.ask_for_sync(user, now);
        }
        if is_awaited {
            let of_user = self.deliveries.of(user);
            let mut ids: Vec<DeliveryId> = of_user.map(|(id, _)| id).collect();
            ids.sort();
            for id in ids {
                self.hand_out_on(id, now);
            }
        }
        self.run_user(user, now);
    }

    /// A run that may have waited goes on.
    fn hand_out_on(&mut self, id: DeliveryId, now: Now) {
        match self.deliveries.get(&id).map(|delivery| &delivery.carrier) {
            Some(DeliveryBy::Message(run)) if run.waits_for_sync() => {
                self.take_next_message(id, now);
            }
            Some(DeliveryBy::Session(run)) if run.waits_for_first() => {
                self.begin_session_run(id, now);
            }
            Some(DeliveryBy::Session(_)) => {
                self.read_ahead(id, now);
                self.end_if_done(id, now);
            }
            Some(DeliveryBy::Message(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_out_before_the_store_has_answered() {
        let mut unsynced = Unsynced::default();
        let mut asked = Vec::new();
        let mut out = 0;
        while unsynced.has_room(0) {
            if unsynced.add() {
                unsynced.ask(out);
                asked.push(out);
            }
            out += 1;
        }
        assert_eq!((out, asked.len()), (MOST as u64, 1));
        assert!(unsynced.take_awaited());
        assert!(!unsynced.answered(99), "that was not asked");
        assert!(!unsynced.has_room(0));
        assert!(unsynced.answered(asked[0]));
        let covered = ASKED_AT;
        assert!(unsynced.is_due(), "for those that came meanwhile");
        assert!(unsynced.has_room(covered - 1), "the others are not durable");
        assert!(!unsynced.has_room(covered));
    }

    #[test]
    fn what_is_under_way_counts_too() {
        let mut unsynced = Unsynced::default();
        assert!(unsynced.is_empty());
        assert!(!unsynced.add());
        assert!(unsynced.has_rest() && !unsynced.is_empty());
        assert!(unsynced.has_room(MOST - 2));
        assert!(!unsynced.has_room(MOST - 1));
        unsynced.ask(1);
        assert!(!unsynced.has_rest() && !unsynced.is_empty());
    }
}
