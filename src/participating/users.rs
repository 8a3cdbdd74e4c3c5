//! The machines of the served users: made when something happens for a user, forgotten when nothing
//! is left to decide.

use std::sync::Arc;

use crate::clock::Now;
use crate::config::CopyTo;
use crate::identity::Identity;
use crate::participating::arrival;
use crate::participating::contacts::Target;
use crate::participating::custody::Retained;
use crate::participating::delivery::Way;
use crate::participating::replay_line::Occasion;
use crate::participating::served_user::{Carrier, DeviceReach, Reach, ServedUser, UserAction};
use crate::participating::service::{Service, Waiter};
use crate::participating::spool::BodySize;
use crate::store::request::{
    Body, ConversationKey, DeferredMessage, Held, Seq, Settlement, StoreRequest,
};

impl Service {
    /// The user's machine; made if there was none.
    pub(super) fn user(&mut self, identity: &Identity) -> &mut ServedUser {
        let waiting = self.waiting.contains(identity);
        let policy = &self.settings.replays;
        let user = self.users.entry(identity.clone());
        let user = user.or_insert_with(|| ServedUser::new(waiting, policy.clone()));
        let wants = &self.directory.settings(identity).settings;
        user.set_pull(wants.delivery == crate::config::Delivery::Pull);
        user
    }

    /// Performs what the user's machine wants, and forgets the machine when it is idle.
    pub(super) fn run_user(&mut self, identity: &Identity, now: Now) {
        loop {
            let Some(user) = self.users.get_mut(identity) else {
                return;
            };
            let Some(action) = user.poll_action() else {
                break;
            };
            match action {
                UserAction::Load { after } => self.load(identity, after, now),
                UserAction::Start {
                    run,
                    key,
                    carrier,
                    device,
                } => self.start_delivery(identity, run, key, Way { carrier, device }, now),
                UserAction::Resume { delivery } => self.invite_for_replay(delivery, now),
            }
        }
        self.forget_if_idle(identity, now);
        self.review_grants(identity);
    }

    fn forget_if_idle(&mut self, identity: &Identity, now: Now) {
        let Some(user) = self.users.get(identity) else {
            return;
        };
        if user.is_idle() || user.is_at_leisure() {
            self.line.leave(identity);
        }
        if !user.is_idle() && user.is_at_rest_but_for_sync() && user.unsynced.has_rest() {
            return self.ask_for_sync(identity, now);
        }
        if user.is_idle() {
            if user.holds_nothing() {
                self.waiting.remove(identity);
            } else {
                self.waiting.insert(identity.clone());
            }
            self.users.remove(identity);
            self.ahead.forget(identity);
        } else if let Some(deadline) = user.next_deadline() {
            self.user_deadlines.insert((deadline, identity.clone()));
        }
    }

    fn load(&mut self, identity: &Identity, after: Option<Seq>, now: Now) {
        let waiter = Waiter::Load(identity.clone(), after);
        if self
            .custody
            .load(identity.clone(), after, waiter, now)
            .is_err()
        {
            self.postponed_loads.push_back((identity.clone(), after));
        }
    }

    /// Asks again for the queues that there was no credit for.
    pub(super) fn resume_loads(&mut self, now: Now) {
        while self.custody.has_room() {
            let Some((identity, after)) = self.postponed_loads.pop_front() else {
                return;
            };
            self.load(&identity, after, now);
        }
    }

    /// A page of a user's queue came.
    pub(super) fn handle_loaded(
        &mut self,
        identity: &Identity,
        mut held: Vec<Held>,
        more: bool,
        now: Now,
    ) {
        self.told.complete(identity, &mut held);
        // What is on its way out is still in the store, and what has just left it may be.
        let is_leaving = |held: &&Held| self.is_on_its_way_out(identity, held.seq);
        let leaving: Vec<_> = held.iter().filter(is_leaving).cloned().collect();
        if let Some(user) = self.users.get_mut(identity) {
            user.handle_loaded(held, more, now);
            for held in leaving {
                user.handle_settled(&held.conversation, held.seq);
            }
            self.serve_revocations(identity, now);
            self.serve_fetches(identity, now);
            self.announce_waiting(identity, now);
            self.run_user(identity, now);
        }
    }

    /// The user's bindings changed or were refreshed: what waits is offered (again).
    pub fn handle_registration(&mut self, identity: &Identity, now: Now) {
        if !self.waiting.contains(identity) && !self.users.contains_key(identity) {
            return;
        }
        match self.reach(identity) {
            Some(reach) => {
                if !self.line.come(identity, Occasion::Registered, now.instant) {
                    return self.review_grants(identity);
                }
                self.tell_reach(identity, reach, now);
            }
            None => {
                let barred = !self.may_receive(identity);
                if let Some(user) = self.users.get_mut(identity) {
                    user.set_barred(barred);
                    user.handle_unreachable();
                }
            }
        }
        self.run_user(identity, now);
    }

    /// Those whose turn it is are offered what waits for them.
    pub(super) fn serve_line(&mut self, now: Now) {
        let is_busy = self.load.is_busy();
        while let Some((user, occasion)) = self.line.next(is_busy, now.instant) {
            match occasion {
                Occasion::Registered => self.handle_registration(&user, now),
                Occasion::Retry => self.retry_user(&user, now),
            }
            // Meanwhile he may be gone, or have nothing waiting.
            if !self.users.contains_key(&user) {
                self.line.leave(&user);
            }
        }
    }

    /// What a user's devices refused is offered again.
    pub(super) fn retry_user(&mut self, identity: &Identity, now: Now) {
        if let Some(user) = self.users.get_mut(identity) {
            user.handle_timeout(now);
            self.run_user(identity, now);
        }
    }

    /// Whether a message of a conversation may go to a user at once by MESSAGE or in a session, as far as what waits
    /// for him goes.
    pub(super) fn lets_pass(
        &self,
        user: &Identity,
        key: &ConversationKey,
        carrier: Carrier,
    ) -> bool {
        match self.users.get(user) {
            Some(machine) => machine.may_pass(key, carrier),
            None => !self.stands_in_line(user),
        }
    }

    /// Whether what waits for a user will be replayed once it is his turn: nothing may pass it.
    pub(super) fn stands_in_line(&self, user: &Identity) -> bool {
        self.line.has(user)
    }

    /// What the user's devices can take at the moment; `None` when there is none.
    pub(super) fn reach(&self, identity: &Identity) -> Option<Reach> {
        let session = !self.session_targets(identity).is_empty();
        let large = self.large_targets(identity, None);
        let standalone = !large.is_empty();
        let switch_over = self.settings.switch_over;
        let targets = self.message_targets(identity, None);
        let Some(first) = targets.first() else {
            let message = None;
            return (session || standalone).then_some(Reach {
                session,
                message,
                standalone,
                switch_over,
            });
        };
        // A device by a stream, if there is one: it takes what none by datagram takes.
        let message = targets
            .iter()
            .map(|target| self.largest_by_message(target))
            .max();
        // RFC 3428 §8 bounds what goes over paths without congestion control. A stream carries more,
        // unless a device says itself that it takes large messages in sessions.
        let states_large = large.iter().any(|target| target.states_large);
        let is_safe = first.flow.transport.is_reliable() && !states_large;
        Some(Reach {
            session,
            message,
            standalone,
            switch_over: message.filter(|_| is_safe).unwrap_or(switch_over),
        })
    }

    /// Begins to store a message for a user of this shard; false when there is no credit.
    pub(super) fn begin_custody(
        &mut self,
        message: &Arc<DeferredMessage>,
        body: Body,
        waiter: Waiter,
        now: Now,
    ) -> bool {
        let is_long = BodySize::of(&body).is_spooled;
        let bounds = self.bounds_for(message);
        let begun = if self.is_crowded(message) {
            let message = Arc::clone(message);
            self.stand_in_line(waiter, Retained { message, body }, now)
        } else {
            let custody = &mut self.custody;
            custody
                .put(Arc::clone(message), body, bounds, waiter, now)
                .is_ok()
        };
        if !begun {
            return false;
        }
        let key = arrival::conversation_key(message);
        self.user(&message.recipient).handle_storing(&key, is_long);
        self.review_grants(&message.recipient);
        self.give_reach(&message.recipient, now);
        true
    }

    /// A machine made while its user is reachable must know so.
    fn give_reach(&mut self, identity: &Identity, now: Now) {
        if self.stands_in_line(identity) {
            return;
        }
        let reach = self.reach(identity);
        if let (Some(reach), Some(user)) = (reach, self.users.get(identity))
            && !user.is_reachable()
        {
            self.tell_reach(identity, reach, now);
        }
    }

    /// The machine hears what the devices take, each for itself where each gets a copy.
    fn tell_reach(&mut self, identity: &Identity, reach: Reach, now: Now) {
        let copies = match self.settings_of(identity).settings.copy_to {
            CopyTo::First => None,
            CopyTo::Every => Some(self.devices(identity)),
        };
        let user = self.user(identity);
        user.set_barred(false);
        user.set_copies(copies);
        user.handle_reach(reach, now);
    }

    /// What each of the user's devices takes.
    fn devices(&self, identity: &Identity) -> Vec<DeviceReach> {
        let by_message = self.message_targets(identity, None);
        let by_session = self.session_targets(identity);
        let large = self.large_targets(identity, None);
        let mut devices: Vec<DeviceReach> = Vec::new();
        for Target { device, .. } in by_message.iter().chain(&by_session).chain(&large) {
            if devices.iter().any(|known| known.device == *device) {
                continue;
            }
            let is_it = |target: &&Target| target.device == *device;
            let taken = by_message.iter().find(is_it);
            let standalone = large.iter().find(is_it);
            let message = taken.map(|target| self.largest_by_message(target));
            let is_safe = taken.is_some_and(|target| target.flow.transport.is_reliable())
                && !standalone.is_some_and(|target| target.states_large);
            devices.push(DeviceReach {
                device: *device,
                reach: Reach {
                    session: by_session.iter().any(|target| target.device == *device),
                    message,
                    standalone: standalone.is_some(),
                    switch_over: message
                        .filter(|_| is_safe)
                        .unwrap_or(self.settings.switch_over),
                },
            });
        }
        devices
    }

    /// The largest body that a device takes by MESSAGE.
    pub(super) fn largest_by_message(&self, target: &Target) -> u64 {
        match target.flow.transport.is_reliable() {
            true => self.settings.largest_message,
            false => super::contacts::LARGEST_DATAGRAM.min(self.settings.largest_message),
        }
    }

    /// What was to be stored is not, or no longer has to be held.
    pub(super) fn end_storing(&mut self, message: &DeferredMessage, size: BodySize, now: Now) {
        let is_long = size.is_spooled;
        let key = arrival::conversation_key(message);
        if let Some(user) = self.users.get_mut(&message.recipient) {
            user.handle_not_stored(&key, is_long, now);
            self.run_user(&message.recipient, now);
        }
    }

    /// Gives a stored message to its recipient's machine; `tried` says a device just failed to take it.
    pub(super) fn hold(
        &mut self,
        message: &DeferredMessage,
        seq: Seq,
        size: BodySize,
        tried: bool,
        now: Now,
    ) {
        let held = arrival::held(seq, message, size.octets);
        self.hold_as(message, held, size, tried, now);
    }

    /// The same for a message that these devices have taken meanwhile.
    pub(super) fn hold_marked(
        &mut self,
        message: &DeferredMessage,
        seq: Seq,
        size: BodySize,
        (taken, tried): (Vec<u64>, bool),
        now: Now,
    ) {
        let held = Held {
            marks: taken.into(),
            ..arrival::held(seq, message, size.octets)
        };
        self.hold_as(message, held, size, tried, now);
    }

    fn hold_as(
        &mut self,
        message: &DeferredMessage,
        held: Held,
        size: BodySize,
        tried: bool,
        now: Now,
    ) {
        let is_long = size.is_spooled;
        self.doubtful.remove(&message.recipient);
        self.waiting.insert(message.recipient.clone());
        self.user(&message.recipient)
            .handle_stored(held, is_long, tried, now);
        self.announce_waiting(&message.recipient, now);
        self.run_user(&message.recipient, now);
        let key = arrival::conversation_key(message);
        let user = self.users.get(&message.recipient);
        if user.is_some_and(|user| user.is_running(&key)) {
            self.extend_delivery(&message.recipient, &key, now);
        }
    }

    /// A message has left the queue of a user who may have no machine to notice that it is empty now.
    pub(super) fn doubt(&mut self, user: &Identity) {
        if !self.users.contains_key(user) && self.waiting.contains(user) {
            self.doubtful.entry(user.clone()).or_default();
        }
    }

    /// Asks the store what is left for such users, as far as there are credits.
    pub(super) fn look_what_is_left(&mut self, now: Now) {
        let unasked =
            |(user, asked): (&Identity, &Option<u64>)| asked.is_none().then(|| user.clone());
        let unasked: Vec<Identity> = self.doubtful.iter().filter_map(unasked).collect();
        for user in unasked {
            let number = self.next_number();
            let waiter = Waiter::Left(user.clone(), number);
            if self
                .custody
                .page(user.clone(), None, 1, waiter, now)
                .is_err()
            {
                return;
            }
            self.doubtful.insert(user, Some(number));
        }
    }

    /// What is left for a user; `None`: the store could not say, and is asked again. What has been
    /// stored since the question was asked has ended the doubt.
    pub(super) fn handle_left(&mut self, user: &Identity, number: u64, is_empty: Option<bool>) {
        if self.doubtful.get(user) != Some(&Some(number)) {
            return;
        }
        match is_empty {
            None => drop(self.doubtful.insert(user.clone(), None)),
            Some(is_empty) => {
                self.doubtful.remove(user);
                if is_empty && !self.users.contains_key(user) {
                    self.waiting.remove(user);
                }
            }
        }
    }

    /// A message leaves the store for good.
    pub(super) fn settle(&mut self, recipient: &Identity, seq: Seq, settlement: Settlement) {
        self.told.settle(recipient.clone(), seq);
        self.custody.tell(StoreRequest::Settle {
            recipient: recipient.clone(),
            seq,
            settlement,
        });
    }
}
