//! Kept messages that devices refuse for good (`replay_table` says by which answers): each goes to the devices
//! that are left, and has failed once none is.

use std::sync::Arc;

use crate::clock::Now;
use crate::identity::Identity;
use crate::participating::contacts::Target;
use crate::participating::delivery::{Delivery, DeliveryBy, DeliveryId};
use crate::participating::served_user::RunEnd;
use crate::participating::service::Service;
use crate::store::request::{ConversationKey, DeferredMessage, MessageKind, Seq, Settlement};

/// What is left to try with a message that a device has refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// A device that takes it in this way, or in the other, as this end of the run says; or it may be taken later.
    Try(RunEnd),
    /// Nothing.
    Nothing,
}

impl Service {
    /// The device that is being tried will not take this message, whenever it is asked.
    pub(super) fn note_refusal(&mut self, id: DeliveryId, seq: Seq, status: u16) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let Some(target) = delivery.targets.get(delivery.target) else {
            return;
        };
        let (user, key, device) = (&delivery.user, delivery.key_of(seq), target.device);
        tracing::info!(%user, seq = seq.0, status, "a device refuses a kept message for good");
        if let Some(machine) = self.users.get_mut(user) {
            machine.handle_refused(&key, seq, device);
        }
    }

    /// What is left to try with a message of a run. Its devices are those that are there now: who was silent, or had
    /// no time, may still take it.
    pub(super) fn left_to_try(
        &self,
        id: DeliveryId,
        seq: Seq,
        kind: MessageKind,
        length: u64,
    ) -> Left {
        let Some(delivery) = self.deliveries.get(&id) else {
            return Left::Nothing;
        };
        let user = &delivery.user;
        let by_message = self.message_targets(user, None);
        let in_session = match kind {
            MessageKind::Chat | MessageKind::Notification => self.session_targets(user),
            MessageKind::Large | MessageKind::Pager => self.large_targets(user, None),
        };
        let willing = |targets: &[Target], fits: &dyn Fn(&Target) -> bool| {
            let mut targets = targets.iter();
            targets.any(|target| fits(target) && !self.has_refused(delivery, seq, target))
        };
        let fits = |target: &Target| length <= self.largest_by_message(target);
        match delivery.carrier {
            DeliveryBy::Message(_) if willing(&by_message, &fits) => Left::Try(RunEnd::Done),
            DeliveryBy::Session(_) if willing(&in_session, &|_| true) => Left::Try(RunEnd::Done),
            DeliveryBy::Session(_) if willing(&by_message, &fits) => Left::Try(RunEnd::OtherWay),
            // It went by MESSAGE because no session was taken: that may change.
            DeliveryBy::Message(_)
                if matches!(kind, MessageKind::Chat | MessageKind::Large)
                    && willing(&in_session, &|_| true) =>
            {
                Left::Try(RunEnd::Parked)
            }
            DeliveryBy::Message(_) | DeliveryBy::Session(_) => Left::Nothing,
        }
    }

    fn has_refused(&self, delivery: &Delivery, seq: Seq, target: &Target) -> bool {
        let machine = self.users.get(&delivery.user);
        machine.is_some_and(|it| it.is_refused_by(&delivery.key, seq, target.device))
    }

    /// A run does not begin at a device that has refused its first message for good, if there is another.
    pub(super) fn leave_out_refusing(
        &self,
        user: &Identity,
        key: &ConversationKey,
        targets: &mut Vec<Target>,
    ) {
        let Some(machine) = self.users.get(user) else {
            return;
        };
        let Some(first) = machine.first_of(key) else {
            return;
        };
        let refuses = |target: &Target| machine.is_refused_by(key, first, target.device);
        if targets.iter().any(|target| !refuses(target)) {
            targets.retain(|target| !refuses(target));
        }
    }

    /// No device is left that could take it: its author hears so if he asked, and those behind it go on.
    /// One that has left by another way meanwhile has not failed.
    pub(super) fn end_refused(&mut self, seq: Seq, message: Arc<DeferredMessage>, now: Now) {
        if self.is_on_its_way_out(&message.recipient, seq) {
            return;
        }
        self.metrics.messages_refused.count();
        self.forget_due(&message.recipient, seq);
        tracing::warn!(recipient = %message.recipient, author = %message.author, seq = seq.0,
            "a kept message ends: every device refuses it for good");
        self.end_undelivered(seq, message, Settlement::Failed, now);
    }
}
