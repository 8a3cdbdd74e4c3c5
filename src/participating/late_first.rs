//! Messages of INVITEs that are kept while a device may still take them. CANCEL has no effect on who has accepted
//! already (RFC 3261 §9.1), so a 2xx that comes after it, or after another device's, says that this device has the
//! message inside; its session is ended at once (§13.2.2.4). Until each has answered, or its transaction is over,
//! the message goes to nobody else (decision 2).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Now;
use crate::config::CopyTo;
use crate::identity::Identity;
use crate::participating::arrival;
use crate::participating::chat::{Branch, ChatId, ChatState};
use crate::participating::service::Service;
use crate::participating::spool::BodySize;
use crate::sip::transport::flow::Flow;
use crate::store::request::{DeferredMessage, Seq, Settlement};

/// Messages that wait for such answers; the oldest waits no longer than the others let it.
const MOST: usize = 1_024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct LateFirsts {
    kept: BTreeMap<ChatId, KeptFirst>,
}

/// The message of an INVITE that some device has not answered.
#[derive(Debug)]
struct KeptFirst {
    message: Arc<DeferredMessage>,
    seq: Seq,
    size: BodySize,
    /// The branches without an answer, and the devices they carried it to.
    carriers: Vec<(usize, u64)>,
    /// The flows of all branches.
    ways: Vec<Flow>,
    /// The devices that took it, where each gets a copy.
    taken: Vec<u64>,
    /// It goes to others all the same: the user has come back by another way.
    is_offered: bool,
}

impl LateFirsts {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Gives back the oldest if there are too many.
    fn add(&mut self, id: ChatId, kept: KeptFirst) -> Option<KeptFirst> {
        let is_full = self.kept.len() >= MOST;
        let oldest = is_full.then(|| self.kept.pop_first()).flatten();
        self.kept.insert(id, kept);
        oldest.map(|(_, kept)| kept)
    }

    /// This branch of a chat is answered or over: to which device it carried the message.
    fn end_branch(&mut self, id: ChatId, branch: usize) -> Option<u64> {
        let carriers = &mut self.kept.get_mut(&id)?.carriers;
        let at = carriers.iter().position(|(index, _)| *index == branch)?;
        Some(carriers.remove(at).1)
    }

    /// What no device may take any more.
    fn take_answered(&mut self, id: ChatId) -> Option<KeptFirst> {
        let is_answered = self.kept.get(&id)?.carriers.is_empty();
        is_answered.then(|| self.kept.remove(&id)).flatten()
    }
}

impl Service {
    /// The message of a chat's INVITE is durable. `tried` says a device just failed to take it.
    pub(super) fn hold_first(
        &mut self,
        id: ChatId,
        message: Arc<DeferredMessage>,
        (seq, size): (Seq, BodySize),
        tried: bool,
        now: Now,
    ) {
        let branches = self.chats.get(&id).map(|chat| chat.branches.as_slice());
        let branches = branches.unwrap_or_default();
        let may_take = |(_, branch): &(usize, &Branch)| branch.is_out && branch.carries_first;
        let carriers = branches.iter().enumerate().filter(may_take);
        let carriers: Vec<_> = carriers
            .map(|(index, branch)| (index, branch.device))
            .collect();
        if carriers.is_empty() {
            return self.hold(&message, seq, size, tried, now);
        }
        let ways = branches.iter().map(|branch| branch.flow).collect();
        if let Some(user) = self.users.get_mut(&message.recipient) {
            user.handle_trying(&arrival::conversation_key(&message), seq);
        }
        let kept = KeptFirst {
            message,
            seq,
            size,
            carriers,
            ways,
            taken: Vec::new(),
            is_offered: false,
        };
        if let Some(mut oldest) = self.late_firsts.add(id, kept) {
            self.offer_first(&mut oldest, now);
        }
    }

    /// A branch of a chat has its final answer, or gets none any more; `taken` says that it was a 2xx.
    pub(super) fn branch_answered(&mut self, id: ChatId, branch: usize, taken: bool, now: Now) {
        if let Some(chat) = self.chats.get_mut(&id)
            && let Some(own) = chat.branches.get_mut(branch)
        {
            own.is_out = false;
            let is_late = chat.state != ChatState::Inviting;
            let has_it = taken && is_late && own.carries_first;
            if let Some(first) = chat.first.as_mut().filter(|_| has_it) {
                first.confirmed = true;
            }
        }
        if let Some(device) = self.late_firsts.end_branch(id, branch) {
            if taken {
                self.first_taken_late(id, device, now);
            }
            if let Some(mut kept) = self.late_firsts.take_answered(id) {
                self.offer_first(&mut kept, now);
            }
        }
    }

    fn first_taken_late(&mut self, id: ChatId, device: u64, now: Now) {
        let Some(kept) = self.late_firsts.kept.get_mut(&id) else {
            return;
        };
        let (recipient, seq) = (kept.message.recipient.clone(), kept.seq);
        let key = arrival::conversation_key(&kept.message);
        tracing::debug!(%recipient, seq = seq.0, "a device has it after all");
        if kept.is_offered {
            return self.taken_late(&recipient, &key, seq, device);
        }
        let settings = &self.directory.settings(&recipient).settings;
        if settings.copy_to == CopyTo::Every {
            kept.taken.push(device);
            return self.tell_mark(recipient, seq, device);
        }
        if let Some(kept) = self.late_firsts.kept.remove(&id) {
            self.take_out(&recipient, &key, seq, Settlement::Delivered);
            self.end_storing(&kept.message, kept.size, now);
        }
    }

    /// The message goes the way of all that is kept.
    fn offer_first(&mut self, kept: &mut KeptFirst, now: Now) {
        if !std::mem::replace(&mut kept.is_offered, true) {
            let taken = std::mem::take(&mut kept.taken);
            self.hold_marked(&kept.message, kept.seq, kept.size, (taken, false), now);
            self.expire_due_of(&kept.message.recipient, now);
        }
    }

    /// The user registered: see [`Self::give_up_silent_branches`].
    pub(super) fn offer_late_firsts(&mut self, user: &Identity, now: Now) {
        let targets = self.session_targets(user);
        let all = self.late_firsts.kept.iter();
        let waits_in_vain = |kept: &KeptFirst| {
            let is_new = |way: &Flow| !kept.ways.contains(way);
            kept.message.recipient == *user && targets.iter().any(|it| is_new(&it.flow))
        };
        let vain = all.filter(|(_, kept)| waits_in_vain(kept));
        let vain: Vec<ChatId> = vain.map(|(id, _)| *id).collect();
        for id in vain {
            if let Some(mut kept) = self.late_firsts.kept.remove(&id) {
                self.offer_first(&mut kept, now);
                self.late_firsts.kept.insert(id, kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::request::MessageKind;

    fn kept(seq: u64, carriers: &[(usize, u64)]) -> KeptFirst {
        let message = DeferredMessage::empty("alice", "bob", MessageKind::Chat);
        KeptFirst {
            message: Arc::new(message),
            seq: Seq(seq),
            size: BodySize {
                octets: 1,
                is_spooled: false,
            },
            carriers: carriers.to_vec(),
            ways: Vec::new(),
            taken: Vec::new(),
            is_offered: false,
        }
    }

    #[test]
    fn a_message_waits_until_each_device_that_had_it_inside_has_answered() {
        let (id, mut late) = (ChatId(1), LateFirsts::default());
        late.add(id, kept(5, &[(0, 70), (2, 72)]));
        assert_eq!(late.end_branch(id, 1), None, "it had nothing inside");
        assert_eq!(late.end_branch(ChatId(2), 0), None);
        assert_eq!(late.end_branch(id, 2), Some(72));
        assert_eq!(late.end_branch(id, 2), None, "once");
        assert!(late.take_answered(id).is_none());
        assert_eq!(late.end_branch(id, 0), Some(70));
        assert_eq!(late.take_answered(id).map(|kept| kept.seq), Some(Seq(5)));
        assert!(late.kept.is_empty());
    }

    #[test]
    fn of_too_many_the_oldest_waits_no_longer() {
        let mut late = LateFirsts::default();
        let mut given_back = Vec::new();
        for number in 0..MOST as u64 + 2 {
            let oldest = late.add(ChatId(number), kept(number, &[(0, 7)]));
            given_back.extend(oldest.map(|kept| kept.seq));
        }
        assert_eq!(given_back, [Seq(0), Seq(1)]);
        assert_eq!(late.kept.len(), MOST);
    }
}
