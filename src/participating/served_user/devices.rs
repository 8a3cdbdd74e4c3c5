//! Each device for itself: copies for every one, and how many sessions one may have.

use std::collections::BTreeSet;

use crate::participating::conversation::{Conversation, State};
use crate::participating::copies::DeviceReach;
use crate::participating::delivery::DeliveryId;
use crate::store::request::{ConversationKey, Seq};

use super::{Carrier, Claim, Loading, RunEnd, RunId, ServedUser, UserAction};

impl ServedUser {
    /// Every device that is there has all that it can take.
    pub(super) fn has_copied_all(&self) -> bool {
        let mut all = self.conversations.values();
        self.loading == Loading::Complete && all.all(|each| self.is_at_rest(each))
    }

    /// Whether all that a conversation holds is only kept for devices that may come, or has come to one of those
    /// that are there.
    pub(super) fn is_at_rest(&self, conversation: &Conversation) -> bool {
        let Some(devices) = &self.copies else {
            return false;
        };
        conversation.state == State::Ready
            && conversation.storing == 0
            && conversation
                .next_copy(devices, false, &BTreeSet::new())
                .is_none()
            && !conversation.has_come_to_none(devices)
    }

    /// From here on each of these devices gets its own copy; `None`: one device is enough.
    pub fn set_copies(&mut self, devices: Option<Vec<DeviceReach>>) {
        self.copies = devices;
        let devices = self.copies.iter().flatten();
        let known: BTreeSet<u64> = devices.map(|each| each.device).collect();
        self.failing.retain(|device| known.contains(device));
        self.order_devices();
    }

    /// A run to a device ended: one that took nothing gets its copies after the others.
    pub(super) fn note_device(&mut self, device: u64, end: RunEnd) {
        match end {
            RunEnd::Parked | RunEnd::Busy | RunEnd::PutOff(_) | RunEnd::Declined => {
                self.failing.insert(device)
            }
            RunEnd::Done => self.failing.remove(&device),
            RunEnd::OtherWay | RunEnd::Shortage => return,
        };
        self.order_devices();
    }

    fn order_devices(&mut self) {
        let failing = &self.failing;
        let devices = self.copies.iter_mut();
        devices.for_each(|all| all.sort_by_key(|each| failing.contains(&each.device)));
    }

    /// The devices to which a MESSAGE of some run is under way.
    pub(super) fn busy_devices(&self) -> BTreeSet<u64> {
        let runs = self.runs.values();
        let by_message = runs.filter(|run| run.carrier == Carrier::Message);
        by_message.filter_map(|run| run.copies_for).collect()
    }

    /// A session run wants to call a device; false if that one has as many as it may, and then
    /// [`UserAction::Resume`] says when it has room.
    pub fn claim_device(&mut self, run: RunId, device: u64, delivery: DeliveryId) -> bool {
        let Some(own) = self.runs.get_mut(&run) else {
            return true;
        };
        if own.claim == Claim::Has(device) {
            return true;
        }
        own.claim = Claim::None;
        let has_room = self.claims(device) < self.policy.per_device;
        if let Some(own) = self.runs.get_mut(&run) {
            own.claim = match has_room {
                true => Claim::Has(device),
                false => Claim::Waits(device, delivery),
            };
        }
        self.grant_devices();
        has_room
    }

    pub(super) fn claims(&self, device: u64) -> usize {
        let runs = self.runs.values();
        runs.filter(|run| run.claim == Claim::Has(device)).count()
    }

    /// Lets runs go on whose device has room now, the oldest first.
    pub(super) fn grant_devices(&mut self) {
        let waiting: Vec<(RunId, u64, DeliveryId)> = self
            .runs
            .iter()
            .filter_map(|(id, run)| match run.claim {
                Claim::Waits(device, delivery) => Some((*id, device, delivery)),
                _ => None,
            })
            .collect();
        for (id, device, delivery) in waiting {
            if self.claims(device) >= self.policy.per_device {
                continue;
            }
            if let Some(run) = self.runs.get_mut(&id) {
                run.claim = Claim::Has(device);
                self.actions.push_back(UserAction::Resume { delivery });
            }
        }
    }

    /// A device got its copy of a message, which stays for the others.
    pub fn handle_marked(&mut self, key: &ConversationKey, seq: Seq, device: u64) {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return;
        };
        let position = conversation.held.iter().position(|held| held.seq == seq);
        if let Some(position) = position {
            conversation.mark(position, device);
            conversation.forgive();
            conversation.shortages = 0;
        }
    }

    /// Whether some device has got a copy of this message.
    pub fn is_marked(&self, key: &ConversationKey, seq: Seq) -> bool {
        let conversation = self.conversations.get(key);
        let mut held = conversation.into_iter().flat_map(|each| &each.held);
        held.any(|held| held.seq == seq && !held.marks.is_empty())
    }
}
