//! What is out with a device whose binding is gone, replaced or expired: an INVITE is given up at once, so that
//! the next device does not wait for an answer that will not come (RFC 3261 §17.1: up to 64 times T1).
//!
//! A session that stands is left to its own connection. A MESSAGE is waited for to the end of its transaction:
//! it cannot be cancelled (RFC 3261 §9.1), and a device that has taken it must not get it a second time because
//! it left before its answer came. So is an INVITE that carries a message, although it is cancelled: CANCEL has no
//! effect on who has accepted it, nor before anything was answered (the same section).

use crate::clock::Now;
use crate::identity::Identity;
use crate::participating::chat::{ChatId, ChatState};
use crate::participating::delivery::{Delivery, DeliveryBy, DeliveryId};
use crate::participating::served_user::RunEnd;
use crate::participating::service::Service;
use crate::participating::session_run::Phase;
use crate::sip::transport::flow::Flow;

impl Service {
    /// The user's bindings changed: offers to devices that are not among them end.
    pub(super) fn give_up_on_gone(&mut self, user: &Identity, now: Now) {
        for id in self.runs_for_gone(user) {
            let Some(run) = self.session_run(id) else {
                continue;
            };
            let (client, carries) = (run.client, run.carries());
            if carries {
                run.phase = Phase::Cancelling;
                run.rings_until = None;
            }
            if let Some(client) = client {
                self.sip.cancel(client, now);
            }
            if !carries {
                self.end_session_run(id, RunEnd::Parked, now);
            }
        }
        for (id, index) in self.branches_to_gone(user) {
            self.give_up_branch(id, index, now);
        }
    }

    fn is_gone(&self, user: &Identity, uri: &str, flow: Flow) -> bool {
        let mut bindings = self.registrar.bindings(user).iter();
        !bindings.any(|binding| binding.uri() == uri && binding.flow() == flow)
    }

    /// Whether what a delivery has still to send would go to a device that is not registered any more.
    pub(super) fn goes_to_gone(&self, id: DeliveryId) -> bool {
        let Some(delivery) = self.deliveries.get(&id) else {
            return false;
        };
        let target = delivery.targets.get(delivery.target);
        delivery.pulled.is_none()
            && target.is_some_and(|it| self.is_gone(&delivery.user, &it.uri, it.flow))
    }

    fn runs_for_gone(&self, user: &Identity) -> Vec<DeliveryId> {
        let is_pending = |delivery: &Delivery| match &delivery.carrier {
            DeliveryBy::Message(_) => false,
            DeliveryBy::Session(run) => match run.phase {
                Phase::Live | Phase::Answering | Phase::Closing => false,
                Phase::Cancelling => !run.carries(),
                Phase::Reading | Phase::Waiting | Phase::Inviting | Phase::Pausing => true,
            },
        };
        let all = self.deliveries.of(user);
        let vain = all.filter(|(id, it)| is_pending(it) && self.goes_to_gone(*id));
        let mut ids: Vec<DeliveryId> = vain.map(|(id, _)| id).collect();
        ids.sort();
        ids
    }

    fn branches_to_gone(&self, user: &Identity) -> Vec<(ChatId, usize)> {
        let ringing = self.chats.of(user);
        let ringing = ringing.filter(|(_, chat)| chat.state == ChatState::Inviting);
        let branches = ringing.flat_map(|(id, chat)| {
            let branches = chat.branches.iter().enumerate();
            branches.map(move |(index, branch)| (id, index, branch))
        });
        let vain = branches.filter(|(_, _, branch)| {
            !branch.ended && self.is_gone(user, branch.request.request_uri(), branch.flow)
        });
        let mut found: Vec<_> = vain.map(|(id, index, _)| (id, index)).collect();
        found.sort();
        found
    }

    fn give_up_branch(&mut self, id: ChatId, index: usize, now: Now) {
        let chat = self.chats.get(&id);
        let client = chat.and_then(|chat| chat.branches.get(index)?.client);
        if let Some(client) = client {
            self.sip.cancel(client, now);
        }
        self.branch_lost(id, index, now);
    }
}
