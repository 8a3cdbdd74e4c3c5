//! Which runs begin, what they carry, and what their end means.

use std::collections::BTreeSet;

use crate::clock::Now;
use crate::participating::conversation::{
    Conversation, Pause, State, choose_carrier, make_ready, park, pause,
};
use crate::participating::copies::{DeviceReach, Obstacles};
use crate::store::request::{ConversationKey, Held, Seq};

use super::{Carrier, Claim, Loading, Reach, Run, RunEnd, RunId, ServedUser, UserAction};

impl ServedUser {
    /// The next message of a run, oldest first; `None` when the run has nothing more to carry.
    pub fn next_message(&mut self, run: RunId) -> Option<Held> {
        if self.barred {
            return None;
        }
        let Run {
            key,
            carrier,
            begun,
            copies_for,
            unasked,
            aside,
            ..
        } = self.runs.get(&run)?;
        let (key, carrier, begun, aside) = (key.clone(), *carrier, *begun, *aside);
        let unasked = *unasked || self.pull;
        let held = match *copies_for {
            Some(device) => self.next_copy_of(&key, device, (carrier, unasked), begun)?,
            None => self.next_held_of(&key, (carrier, aside), unasked, begun)?,
        };
        self.runs.get_mut(&run)?.begun = true;
        Some(held)
    }

    /// The next message of a conversation for a run that is for the first device that takes it.
    pub(super) fn next_held_of(
        &mut self,
        key: &ConversationKey,
        (carrier, aside): (Carrier, Option<Carrier>),
        unasked: bool,
        begun: bool,
    ) -> Option<Held> {
        let reach = self.reach?;
        let conversation = self.conversations.get(key)?;
        let place = conversation.next_to_leave(conversation.handed, unasked, aside)?;
        let held = conversation.held.get(place)?;
        if begun && self.must_yield(carrier, held, reach) {
            return None;
        }
        if !conversation.may_leave(held) {
            return None;
        }
        if choose_carrier(held, reach, conversation.session_refused) != Some(carrier) {
            return None;
        }
        let held = held.clone();
        self.conversations.get_mut(key)?.handed = place + 1;
        Some(held)
    }

    /// The next message of a conversation that a device lacks.
    pub(super) fn next_copy_of(
        &mut self,
        key: &ConversationKey,
        device: u64,
        (carrier, unasked): (Carrier, bool),
        begun: bool,
    ) -> Option<Held> {
        if begun && carrier == Carrier::Standalone {
            return None;
        }
        let devices = self.copies.as_ref()?;
        let to = devices.iter().find(|each| each.device == device)?;
        next_copy_of_run(self.conversations.get_mut(key)?, to, carrier, unasked)
    }

    /// Whether a run that has carried something ends before `next`: a large message is alone in its
    /// session, and of the messages that leave by MESSAGE, one at a time (RFC 3428 §8), the oldest of
    /// all conversations is next.
    pub(super) fn must_yield(&self, carrier: Carrier, next: &Held, reach: Reach) -> bool {
        let leaves_by_message = |key: &ConversationKey| {
            self.conversations.get(key).is_some_and(|conversation| {
                self.first_to_leave(conversation).is_some_and(|held| {
                    let way = choose_carrier(held, reach, conversation.session_refused);
                    held.seq < next.seq
                        && conversation.may_leave(held)
                        && way == Some(Carrier::Message)
                })
            })
        };
        match carrier {
            Carrier::Session => false,
            Carrier::Standalone => true,
            Carrier::Message => {
                let mut older = self.ready.older_than(next.seq);
                older.any(leaves_by_message)
            }
        }
    }

    /// A run is over. What it had taken and not settled waits again.
    pub fn handle_run_ended(&mut self, run: RunId, end: RunEnd, now: Now) {
        let Some(Run {
            key,
            triggered_again,
            copies_for,
            ..
        }) = self.runs.remove(&run)
        else {
            return;
        };
        if let Some(device) = copies_for {
            self.note_device(device, end);
        }
        if let Some(conversation) = self.conversations.get_mut(&key) {
            conversation.handed = 0;
            if triggered_again {
                conversation.forget_beyond(None);
            }
            conversation.session_refused |= end == RunEnd::OtherWay && copies_for.is_none();
            match (copies_for, triggered_again) {
                (Some(_), true) => conversation.obstacles = Obstacles::default(),
                (Some(device), false) => conversation.obstacles.note(device, end),
                (None, _) => {}
            }
            match end {
                // Another device may want its copies; if none does, the retry step is set at the start.
                RunEnd::Parked | RunEnd::Busy | RunEnd::PutOff(_) | RunEnd::Declined
                    if copies_for.is_some() =>
                {
                    make_ready(&mut self.ready, &key, conversation);
                }
                RunEnd::Done | RunEnd::OtherWay => {
                    make_ready(&mut self.ready, &key, conversation);
                }
                RunEnd::Shortage => {
                    self.may_wait = true;
                    pause(conversation, &self.policy.retry, now);
                }
                RunEnd::Parked | RunEnd::Busy | RunEnd::PutOff(_) | RunEnd::Declined
                    if triggered_again =>
                {
                    make_ready(&mut self.ready, &key, conversation);
                }
                RunEnd::Parked | RunEnd::Busy | RunEnd::PutOff(_) => {
                    self.park_run(&key, end, now);
                }
                RunEnd::Declined => conversation.state = State::Parked(Pause::for_good(now)),
            }
        }
        self.forget_if_empty(&key);
        self.grant_devices();
        self.start_runs(now);
    }

    pub(super) fn start_runs(&mut self, now: Now) {
        let Some(reach) = self.reach else { return };
        if self.loading != Loading::Complete || (self.pull && self.fetch_waits) {
            return;
        }
        let candidates: Vec<(Seq, ConversationKey)> = self.startable(reach);
        for (seq, key) in candidates {
            self.ready.remove(seq);
            self.start(key, reach, now);
        }
    }

    /// The oldest ready conversations that there is room for.
    pub(super) fn startable(&mut self, reach: Reach) -> Vec<(Seq, ConversationKey)> {
        let by_message = |run: &&Run| run.carrier == Carrier::Message;
        let running = self.runs.values().filter(by_message).count();
        let mut sessions = self
            .policy
            .per_user
            .saturating_sub(self.runs.len() - running);
        let mut busy = self.busy_devices();
        let mut messages = match self.copies {
            Some(_) => usize::MAX,
            None => 1usize.saturating_sub(running),
        };
        // Of many that wait to leave by MESSAGE not all are looked at for each that left.
        let is_plain = self.copies.is_none() && !self.pull;
        if is_plain && self.ready.none_in_session {
            sessions = 0;
        }
        let mut chosen = Vec::new();
        let mut to_failing = Vec::new();
        let mut some_may_wait = false;
        for (seq, key, conversation) in self.in_turn() {
            if sessions == 0 && messages == 0 {
                return chosen;
            }
            let way = self.way_of(conversation, reach, &busy);
            if way.is_none() && self.waits_for_device(conversation) {
                continue;
            }
            if let Some((Some(device), carrier)) = way
                && self.failing.contains(&device)
            {
                // Another device may be busy only for a moment.
                if self.waits_for_sound_device(conversation) {
                    continue;
                }
                to_failing.push((seq, key.clone(), device, carrier));
                continue;
            }
            let carrier = way.map(|(_, carrier)| carrier);
            let room = match carrier {
                Some(Carrier::Session | Carrier::Standalone) => &mut sessions,
                Some(Carrier::Message) => &mut messages,
                None => &mut 1,
            };
            if *room > 0 {
                *room -= 1;
                chosen.push((seq, key.clone()));
                if let Some((Some(device), Carrier::Message)) = way {
                    busy.insert(device);
                }
            } else {
                some_may_wait |= carrier != Some(Carrier::Message);
            }
        }
        self.ready.none_in_session = is_plain && !some_may_wait;
        // A device that is gone without a word keeps its sessions for long: the others never wait for
        // the last place.
        let spare = usize::from(self.policy.per_user > 1);
        let mut sessions = sessions.saturating_sub(spare);
        for (seq, key, device, carrier) in to_failing {
            let has_room = match carrier {
                Carrier::Message => busy.insert(device),
                Carrier::Session | Carrier::Standalone => sessions > 0,
            };
            if has_room {
                sessions -= usize::from(carrier != Carrier::Message);
                chosen.push((seq, key));
            }
        }
        chosen
    }

    /// The ready conversations that something may leave of, by the oldest that does.
    fn in_turn(&self) -> Box<dyn Iterator<Item = (Seq, &ConversationKey, &Conversation)> + '_> {
        let leaving = self.ready.iter().filter_map(|(seq, key)| {
            let conversation = self.conversations.get(key)?;
            let first = self.first_to_leave(conversation)?;
            let may_leave = conversation.may_leave(first);
            may_leave.then_some((first.seq, (seq, key, &**conversation)))
        });
        if !self.pull {
            // They are in order already.
            return Box::new(leaving.map(|(_, each)| each));
        }
        let mut all: Vec<_> = leaving.collect();
        all.sort_by_key(|(first, _)| *first);
        Box::new(all.into_iter().map(|(_, each)| each))
    }

    /// The oldest message of a conversation that does not wait for a fetch.
    pub(super) fn first_to_leave<'a>(&self, conversation: &'a Conversation) -> Option<&'a Held> {
        let aside = conversation.carrier_aside();
        let place = conversation.next_to_leave(0, self.pull, aside)?;
        conversation.held.get(place)
    }

    /// Steps over what no device takes, so that what is behind it leaves.
    fn step_over_beyond(&mut self, key: &ConversationKey, reach: Reach) {
        if let Some(conversation) = self.conversations.get_mut(key) {
            let refused = conversation.session_refused;
            conversation.step_over(|held| choose_carrier(held, reach, refused).is_none());
        }
    }

    /// Whether only the MESSAGEs under way keep a conversation's copies from their devices.
    fn waits_for_device(&self, conversation: &Conversation) -> bool {
        let devices = self.copies.as_ref();
        devices.is_some_and(|devices| {
            let next = conversation.next_copy(devices, self.pull, &BTreeSet::new());
            next.is_some()
        })
    }

    /// Whether a device that took what it was last given lacks something of a conversation.
    fn waits_for_sound_device(&self, conversation: &Conversation) -> bool {
        let devices = self.copies.as_deref().unwrap_or_default();
        let next = conversation.next_copy(devices, self.pull, &BTreeSet::new());
        next.is_some_and(|(device, _)| !self.failing.contains(&device))
    }

    /// How what a conversation holds leaves next, and for which device if each gets a copy.
    pub(super) fn way_of(
        &self,
        conversation: &Conversation,
        reach: Reach,
        busy: &BTreeSet<u64>,
    ) -> Option<(Option<u64>, Carrier)> {
        if let Some(devices) = &self.copies {
            let (device, carrier) = conversation.next_copy(devices, self.pull, busy)?;
            return Some((Some(device), carrier));
        }
        let held = self.first_to_leave(conversation)?;
        let carrier = choose_carrier(held, reach, conversation.session_refused)?;
        Some((None, carrier))
    }

    pub(super) fn start(&mut self, key: ConversationKey, reach: Reach, now: Now) {
        let Some(conversation) = self.conversations.get(&key) else {
            return;
        };
        let mut way = self.way_of(conversation, reach, &self.busy_devices());
        if way.is_none() && self.copies.is_none() {
            self.step_over_beyond(&key, reach);
            let rest = self.conversations.get(&key);
            way = rest.and_then(|rest| self.way_of(rest, reach, &BTreeSet::new()));
        }
        let Some(conversation) = self.conversations.get_mut(&key) else {
            return;
        };
        let Some((device, carrier)) = way else {
            return match self.copies {
                Some(_) if conversation.obstacles.are_passing() => {
                    self.may_wait = true;
                    park(conversation, &self.policy.retry, RunEnd::Parked, now);
                }
                Some(_) => {}
                None => {
                    tracing::info!(author = %key.author,
                        "kept: no device takes a message of this form and size");
                    conversation.state = State::Parked(conversation.pause_beyond(now));
                }
            };
        };
        let run = RunId(self.next_run);
        self.next_run += 1;
        conversation.state = State::Running(run);
        conversation.handed = 0;
        let aside = conversation.carrier_aside();
        let started = Run {
            key: key.clone(),
            aside,
            carrier,
            copies_for: device,
            claim: Claim::None,
            begun: false,
            triggered_again: false,
            is_pull: false,
            unasked: self.pull,
        };
        self.runs.insert(run, started);
        self.actions.push_back(UserAction::Start {
            run,
            key,
            carrier,
            device,
        });
    }
}

/// The next message of a run that carries one device's copies: what it has or cannot take is passed over.
fn next_copy_of_run(
    conversation: &mut Conversation,
    to: &DeviceReach,
    carrier: Carrier,
    unasked: bool,
) -> Option<Held> {
    while let Some(place) = conversation.next_to_leave(conversation.handed, unasked, None) {
        conversation.handed = place;
        let held = conversation.held.get(place)?;
        match conversation.copy_way(held, to) {
            None => conversation.handed += 1,
            Some(way) if way != carrier || !conversation.may_leave(held) => return None,
            Some(_) => {
                let held = held.clone();
                conversation.handed += 1;
                return Some(held);
            }
        }
    }
    None
}
