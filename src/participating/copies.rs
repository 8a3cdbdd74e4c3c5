//! Copies of kept messages for every device of a user (`copy_to = "every"`): which device gets which
//! message next. Pure; a part of the machine in `served_user`.
//!
//! A run carries what one device has not got; a message that a device confirmed is marked for it and
//! stays, for devices that register later, until it expires or its recipient's quota needs the room.

use std::collections::{BTreeMap, BTreeSet};

use crate::participating::conversation::{Conversation, choose_carrier, leaves_by_itself};
use crate::participating::served_user::{Carrier, Reach, RunEnd};
use crate::store::request::Held;

/// A device of the user as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceReach {
    /// Its number in the marks of messages.
    pub device: u64,
    /// What it takes.
    pub reach: Reach,
}

/// What keeps a device of one conversation from being tried.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    /// It refused: true until the next registration, false until the retry step.
    away: BTreeMap<u64, bool>,
    /// It takes no session for this conversation.
    no_session: BTreeSet<u64>,
}

impl Obstacles {
    /// A run to this device ended so.
    pub(super) fn note(&mut self, device: u64, end: RunEnd) {
        match end {
            RunEnd::Parked | RunEnd::Busy | RunEnd::PutOff(_) => {
                self.away.insert(device, false);
            }
            RunEnd::Declined => drop(self.away.insert(device, true)),
            RunEnd::OtherWay => drop(self.no_session.insert(device)),
            RunEnd::Done | RunEnd::Shortage => {}
        }
    }

    /// The retry step has come.
    pub(super) fn retry(&mut self) {
        self.away
            .retain(|_, until_registration| *until_registration);
    }

    /// Whether a retry step would help.
    pub(super) fn are_passing(&self) -> bool {
        self.away
            .values()
            .any(|until_registration| !until_registration)
    }
}

impl Conversation {
    /// By which way a message leaves for a device that lacks it; `None` if it has it or cannot take it.
    pub(super) fn copy_way(&self, held: &Held, to: &DeviceReach) -> Option<Carrier> {
        if held.marks.contains(&to.device) || self.is_refused_by(held.seq, to.device) {
            return None;
        }
        let refused = self.obstacles.no_session.contains(&to.device);
        choose_carrier(held, to.reach, self.session_refused || refused)
    }

    /// The next device that lacks a message, and the way its oldest one leaves; `unasked` leaves out
    /// what the user has to fetch. To a device in `busy` another MESSAGE is under way (RFC 3428 §8).
    pub(super) fn next_copy(
        &self,
        devices: &[DeviceReach],
        unasked: bool,
        busy: &BTreeSet<u64>,
    ) -> Option<(u64, Carrier)> {
        devices.iter().find_map(|to| {
            if self.obstacles.away.contains_key(&to.device) {
                return None;
            }
            let leaving = self.held.iter();
            let leaving = leaving.filter(|held| !unasked || leaves_by_itself(held));
            let mut ways = leaving.map(|held| (held, self.copy_way(held, to)));
            let (held, carrier) = ways.find_map(|(held, way)| Some((held, way?)))?;
            let waits = carrier == Carrier::Message && busy.contains(&to.device);
            (!waits && self.may_leave(held)).then_some((to.device, carrier))
        })
    }

    /// Whether something waits here that one of these devices could take and none has got: they put it off.
    pub(super) fn has_come_to_none(&self, devices: &[DeviceReach]) -> bool {
        let takes = |held: &Held| devices.iter().any(|to| self.copy_way(held, to).is_some());
        let mut held = self.held.iter();
        held.any(|held| held.marks.is_empty() && takes(held))
    }

    /// A device has this message.
    pub(super) fn mark(&mut self, position: usize, device: u64) {
        if let Some(held) = self.held.get_mut(position) {
            add_mark(held, device);
        }
    }
}

/// A device has it.
pub(super) fn add_mark(held: &mut Held, device: u64) {
    if !held.marks.contains(&device) {
        let mut marks = std::mem::take(&mut held.marks).into_vec();
        marks.push(device);
        held.marks = marks.into();
    }
}
