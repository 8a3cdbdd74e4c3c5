//! One run of one user: the delivery of a conversation's kept messages to one device, and how it ended.
//!
//! `message_run` carries pager messages by SIP MESSAGE, `session_run` chat messages over MSRP.

use crate::clock::{Now, UnixMillis};
use crate::identity::Identity;
use crate::participating::contacts::Target;
use crate::participating::message_run::MessageRun;
use crate::participating::of_users::ForUser;
use crate::participating::pull::Pulled;
use crate::participating::replay_table::ReplayAnswer;
use crate::participating::served_user::Carrier;
use crate::participating::served_user::{RunEnd, RunId};
use crate::participating::service::{Service, Waiter};
use crate::participating::session_run::SessionRun;
use crate::sip::message::Message;
use crate::sip::transport::flow::Flow;
use crate::store::request::{
    ConversationKey, Held, Refusal, Seq, Settlement, StoreEvent, StoreRequest,
};

/// Names a run among all users of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// A running delivery.
#[derive(Debug)]
pub struct Delivery {
    /// Whose messages.
    pub(super) user: Identity,
    /// The user's own name for it.
    pub(super) run: RunId,
    /// Which conversation.
    pub(super) key: ConversationKey,
    /// The devices to try, best first.
    pub(super) targets: Vec<Target>,
    /// Which of them is being tried.
    pub(super) target: usize,
    /// The one device whose copies it carries; a message stays after it has got it.
    pub(super) copies_for: Option<u64>,
    /// What a fetch has been lent.
    pub(super) pulled: Option<Pulled>,
    pub(super) carrier: DeliveryBy,
}

impl Delivery {
    /// The conversation of one of its messages.
    pub(super) fn key_of(&self, seq: Seq) -> ConversationKey {
        let pulled = self.pulled.as_ref();
        let key = pulled.and_then(|pulled| pulled.key_of(seq));
        key.unwrap_or(&self.key).clone()
    }
}

/// How a run leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// By MESSAGE or in a session.
    pub(super) carrier: Carrier,
    /// The one device it is for; `None`: the first that takes it.
    pub(super) device: Option<u64>,
}

/// The part that differs.
#[derive(Debug)]
pub(super) enum DeliveryBy {
    Message(MessageRun),
    Session(Box<SessionRun>),
}

impl Delivery {
    /// The part that goes over MSRP, if it does.
    pub(super) fn session(&self) -> Option<&SessionRun> {
        match &self.carrier {
            DeliveryBy::Session(run) => Some(run),
            DeliveryBy::Message(_) => None,
        }
    }
}

impl ForUser for Delivery {
    fn user(&self) -> &Identity {
        &self.user
    }
}

impl Service {
    /// The machine of `user` wants a run.
    pub(super) fn start_delivery(
        &mut self,
        user: &Identity,
        run: RunId,
        key: ConversationKey,
        way: Way,
        now: Now,
    ) {
        let Way {
            carrier,
            device: copies_for,
        } = way;
        let mut targets = match carrier {
            Carrier::Message => self.message_targets(user, None),
            Carrier::Session => self.session_targets(user),
            Carrier::Standalone => self.large_targets(user, None),
        };
        targets.retain(|target| copies_for.is_none_or(|device| target.device == device));
        if copies_for.is_none() {
            self.leave_out_refusing(user, &key, &mut targets);
        }
        if targets.is_empty() {
            return self.end_run(user, run, RunEnd::Parked, now);
        }
        // While we drain, nothing may overtake what stays for the next start.
        if self.draining || self.deliveries.len() >= self.settings.most_under_way {
            return self.end_run(user, run, RunEnd::Shortage, now);
        }
        tracing::debug!(%user, author = %key.author, ?carrier, "replay begins");
        let id = DeliveryId(self.next_number());
        let by = match carrier {
            Carrier::Message => DeliveryBy::Message(MessageRun::default()),
            Carrier::Session | Carrier::Standalone => DeliveryBy::Session(Box::new(SessionRun {
                standalone: carrier == Carrier::Standalone,
                ..SessionRun::default()
            })),
        };
        let delivery = Delivery {
            user: user.clone(),
            run,
            key,
            targets,
            target: 0,
            copies_for,
            pulled: None,
            carrier: by,
        };
        self.deliveries.insert(id, delivery);
        match carrier {
            Carrier::Message => self.take_next_message(id, now),
            Carrier::Session | Carrier::Standalone => self.begin_session_run(id, now),
        }
    }

    /// The next message the run may carry, asked of the user's machine. What has expired since the last look
    /// for such is left to the next one ([`Self::look_for_expired`]), which tells its author.
    pub(super) fn next_of_run(&mut self, id: DeliveryId, now: Now) -> Option<Held> {
        loop {
            let delivery = self.deliveries.get_mut(&id)?;
            let held = match &mut delivery.pulled {
                Some(pulled) => pulled.next()?,
                None => self
                    .users
                    .get_mut(&delivery.user)?
                    .next_message(delivery.run)?,
            };
            if !self.has_expired(held.expires_at, now) {
                return Some(held);
            }
            let user = self.deliveries.get(&id)?.user.clone();
            self.leave_out(&user, &held.conversation, held.seq);
        }
    }

    /// Whether a message that expires at this time must not be handed to a device any more.
    pub(super) fn has_expired(&mut self, expires_at: UnixMillis, now: Now) -> bool {
        expires_at <= self.expiry.read(now)
    }

    /// Reads a message of the run, and at most `together` of those that follow; false without a credit.
    pub(super) fn fetch_of_run(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        together: usize,
        now: Now,
    ) -> bool {
        let Some(delivery) = self.deliveries.get(&id) else {
            return false;
        };
        let waiter = Waiter::Delivery(id, seq);
        self.custody
            .fetch(delivery.user.clone(), seq, together, waiter, now)
            .is_ok()
    }

    /// A device confirmed a message of the run.
    pub(super) fn confirm(&mut self, id: DeliveryId, seq: Seq, now: Now) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let (user, key) = (delivery.user.clone(), delivery.key_of(seq));
        tracing::debug!(%user, seq = seq.0, "delivered");
        self.metrics.delivered.count();
        if let Some(device) = delivery.copies_for {
            if let Some(machine) = self.users.get_mut(&user) {
                machine.handle_marked(&key, seq, device);
            }
            self.tell_mark(user.clone(), seq, device);
        } else {
            self.take_out(&user, &key, seq, Settlement::Delivered);
        }
        self.count_unsynced(&user, now);
    }

    /// A device has its copy of a message.
    pub(super) fn tell_mark(&mut self, recipient: Identity, seq: Seq, device: u64) {
        self.told.mark(recipient.clone(), seq, device);
        self.custody.tell(StoreRequest::Mark {
            recipient,
            seq,
            device,
        });
    }

    /// A message leaves the queue.
    pub(super) fn take_out(
        &mut self,
        user: &Identity,
        key: &ConversationKey,
        seq: Seq,
        settlement: Settlement,
    ) {
        self.settle(user, seq, settlement);
        self.leave_out(user, key, seq);
    }

    /// A message that the store cannot give is not part of the queue any more.
    pub(super) fn leave_out(&mut self, user: &Identity, key: &ConversationKey, seq: Seq) {
        self.forget_due(user, seq);
        if let Some(machine) = self.users.get_mut(user) {
            machine.handle_settled(key, seq);
        }
    }

    /// The run is over.
    pub(super) fn end_delivery(&mut self, id: DeliveryId, end: RunEnd, now: Now) {
        let Some(delivery) = self.deliveries.remove(&id) else {
            return;
        };
        tracing::debug!(user = %delivery.user, ?end, "replay ends");
        if end != RunEnd::Done {
            self.ahead.forget(&delivery.user);
        }
        match delivery.pulled {
            // What is left waits for the next fetch, or goes its usual way.
            Some(pulled) => {
                for run in pulled.into_runs() {
                    self.end_run(&delivery.user, run, RunEnd::Done, now);
                }
            }
            None => self.end_run(&delivery.user, delivery.run, end, now),
        }
        self.expire_due_of(&delivery.user, now);
    }

    fn end_run(&mut self, user: &Identity, run: RunId, end: RunEnd, now: Now) {
        if let Some(machine) = self.users.get_mut(user) {
            machine.handle_run_ended(run, end, now);
        }
        self.serve_fetches(user, now);
        self.run_user_later(user);
    }

    /// An answer to the MESSAGE or INVITE of a run.
    pub(super) fn handle_delivery_response(
        &mut self,
        id: DeliveryId,
        response: &Message,
        flow: Flow,
        now: Now,
    ) {
        match self.deliveries.get(&id).map(|delivery| &delivery.carrier) {
            Some(DeliveryBy::Message(_)) => self.handle_run_message_response(id, response, now),
            Some(DeliveryBy::Session(_)) => self.handle_replay_response(id, response, flow, now),
            None => self.end_late_dialog(response, flow, now),
        }
    }

    /// A device that is gone takes its binding with it.
    pub(super) fn forget_gone_device(&mut self, id: DeliveryId) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let user = delivery.user.clone();
        if let Some(target) = delivery.targets.get(delivery.target).cloned() {
            self.forget_device(&user, &target);
        }
    }

    /// The running session of a conversation, if there is one, takes what was just stored.
    pub(super) fn extend_delivery(&mut self, user: &Identity, key: &ConversationKey, now: Now) {
        let mut all = self.deliveries.of(user);
        let found = all.find(|(_, delivery)| delivery.key == *key);
        let found = found.map(|(id, _)| id);
        drop(all);
        if let Some(id) = found {
            self.read_ahead(id, now);
        }
    }

    /// No answer to the MESSAGE or INVITE of a run.
    pub(super) fn handle_delivery_silence(&mut self, id: DeliveryId, now: Now) {
        match self.deliveries.get(&id).map(|delivery| &delivery.carrier) {
            Some(DeliveryBy::Message(_)) => {
                self.message_refused(id, ReplayAnswer::NextDevice, None, now);
            }
            Some(DeliveryBy::Session(_)) => {
                self.replay_refused(id, ReplayAnswer::NextDevice, None, now);
            }
            None => {}
        }
    }

    /// An answer of the store for a run.
    pub(super) fn handle_delivery_read(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        event: StoreEvent,
        now: Now,
    ) {
        if let StoreEvent::Fetched { message, .. } = &event {
            self.expect_receipts_of_kept(message);
        }
        match self.deliveries.get(&id).map(|delivery| &delivery.carrier) {
            Some(DeliveryBy::Message(_)) => self.handle_run_read(id, seq, event, now),
            Some(DeliveryBy::Session(_)) => self.handle_replay_read(id, seq, event, now),
            None => {}
        }
    }

    /// The store cannot give a message of the run: it is gone, or damaged and set aside.
    pub(super) fn handle_delivery_unread(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        refusal: Refusal,
        now: Now,
    ) {
        tracing::warn!(%refusal, "a kept message could not be read");
        match self.deliveries.get(&id).map(|delivery| &delivery.carrier) {
            Some(DeliveryBy::Message(_)) => self.skip_unread_message(id, seq, refusal, now),
            Some(DeliveryBy::Session(_)) => self.skip_unread_chat(id, seq, refusal, now),
            None => {}
        }
    }
}
