//! One conversation of a served user: its messages in order, and whether it is ready, running or parked.

mod put_off;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::clock::Instant;
use crate::participating::copies::Obstacles;
use crate::participating::served_user::{Carrier, Reach, RunId};
use crate::participating::system_message::SYSTEM;
use crate::store::request::{ConversationKey, Held, MessageKind, Seq};

pub use put_off::RetrySchedule;
pub(super) use put_off::{Aside, Pause, note_put_off, park, pause, step_aside};

/// How replays of one user are held back.
#[derive(Clone, Debug)]
pub struct ReplayPolicy {
    /// When a parked one is offered again.
    pub retry: RetrySchedule,
    /// Sessions to one device at the same time.
    pub per_device: usize,
    /// Sessions to all devices of a user at the same time.
    pub per_user: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Ready,
    Running(RunId),
    /// Put off by its devices: nothing younger passes.
    Parked(Pause),
    /// We had no room for the run: it begins soon, and nothing younger passes.
    Short {
        until: Instant,
    },
}

#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// Durable and unsettled, in order; the first `handed` are under way.
    pub(super) held: VecDeque<Held>,
    pub(super) handed: usize,
    pub(super) storing: usize,
    pub(super) storing_long: usize,
    /// Durable, while a device may still take them as they first came.
    pub(super) trying: BTreeSet<Seq>,
    /// The user registered while some were.
    pub(super) registered_meanwhile: bool,
    pub(super) state: State,
    pub(super) attempt: usize,
    /// Steps of the retry schedule that were taken, and when the last of them is over. A try that something new
    /// brought about takes none.
    steps: usize,
    step_ends: Option<Instant>,
    /// The message that devices put off, and since when.
    put_off: Option<(Seq, Instant)>,
    /// What the others go on without.
    pub(super) aside: Option<Aside>,
    /// Which no device there is takes, of this kind and size: the others go on without them.
    beyond: BTreeSet<Seq>,
    /// Which devices have refused which messages for good.
    refusals: BTreeMap<Seq, BTreeSet<u64>>,
    /// How often in a row there was no room.
    pub(super) shortages: u8,
    pub(super) session_refused: bool,
    /// Where every device gets a copy: which are not tried at the moment.
    pub(super) obstacles: Obstacles,
}

/// Conversations that could start, by their oldest message.
#[derive(Debug, Default)]
pub(super) struct Ready {
    by_oldest: BTreeMap<Seq, ConversationKey>,
    /// All have been looked at, and none of them leaves in a session.
    pub(super) none_in_session: bool,
}

impl Ready {
    pub(super) fn insert(&mut self, oldest: Seq, key: ConversationKey) {
        self.by_oldest.insert(oldest, key);
        self.look_again();
    }

    pub(super) fn remove(&mut self, oldest: Seq) {
        self.by_oldest.remove(&oldest);
    }

    /// Something changed in one of them.
    pub(super) fn look_again(&mut self) {
        self.none_in_session = false;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, &ConversationKey)> {
        self.by_oldest.iter().map(|(seq, key)| (*seq, key))
    }

    pub(super) fn older_than(&self, seq: Seq) -> impl Iterator<Item = &ConversationKey> {
        self.by_oldest.range(..seq).map(|(_, key)| key)
    }
}

impl Conversation {
    /// Puts a message in its place; one that comes late goes before those not yet handed out.
    pub(super) fn insert(&mut self, held: Held, ready: &mut Ready) {
        if let Some(first) = self.held.front() {
            ready.remove(first.seq);
        }
        let behind = self
            .held
            .iter()
            .rev()
            .take_while(|other| other.seq > held.seq)
            .count();
        let place = (self.held.len() - behind).max(self.handed);
        self.held.insert(place, held);
    }

    /// Whether nothing older than `held` is still on its way to the disk or to a device, nor it itself.
    pub(super) fn may_leave(&self, held: &Held) -> bool {
        let waits = self.trying.first().is_some_and(|seq| *seq <= held.seq);
        self.storing_long == 0 && !waits
    }

    /// Where the next message to leave stands, from `from` on; `unasked` steps over what the user
    /// has to fetch, and what leaves by the carrier `aside` is stepped over too, and what no device takes.
    pub(super) fn next_to_leave(
        &self,
        from: usize,
        unasked: bool,
        aside: Option<Carrier>,
    ) -> Option<usize> {
        let mut rest = self.held.iter().enumerate().skip(from);
        let leaves = |held: &Held| !unasked || leaves_by_itself(held);
        let is_aside = |held: &Held| aside == Some(own_carrier(held.kind));
        let is_beyond = |held: &Held| self.beyond.contains(&held.seq);
        let next = rest.find(|(_, held)| leaves(held) && !is_aside(held) && !is_beyond(held));
        next.map(|(place, _)| place)
    }

    /// The oldest message that some device takes, as far as is known.
    fn first_within_reach(&self) -> Option<&Held> {
        let mut held = self.held.iter();
        held.find(|held| !self.beyond.contains(&held.seq))
    }

    /// What no device takes is stepped over until the devices change.
    pub(super) fn step_over(&mut self, is_beyond: impl Fn(&Held) -> bool) {
        let beyond = self.held.iter().filter(|held| is_beyond(held));
        self.beyond = beyond.map(|held| held.seq).collect();
    }

    /// Whether something waits here, and no device takes anything of it.
    pub(super) fn is_beyond_devices(&self) -> bool {
        !matches!(self.state, State::Running(_))
            && self.storing == 0
            && !self.beyond.is_empty()
            && self.first_within_reach().is_none()
    }

    /// A message has left, or with `None` the devices have changed: what they do not take is seen anew.
    pub(super) fn forget_beyond(&mut self, of: Option<Seq>) {
        match of {
            Some(seq) => drop(self.beyond.remove(&seq)),
            None => self.beyond.clear(),
        }
    }

    /// Whether the others go on without this message, because no device takes it.
    pub(super) fn is_beyond(&self, seq: Seq) -> bool {
        self.beyond.contains(&seq)
    }

    /// Whether it has, or will have, something to do by itself.
    pub(super) fn may_wait(&self) -> bool {
        self.waits_until().is_some() || self.aside.is_some()
    }

    /// A device has refused a message for good.
    pub(super) fn refuse(&mut self, seq: Seq, device: u64) {
        self.refusals.entry(seq).or_default().insert(device);
    }

    pub(super) fn is_refused_by(&self, seq: Seq, device: u64) -> bool {
        let refusals = self.refusals.get(&seq);
        refusals.is_some_and(|devices| devices.contains(&device))
    }

    /// A message has left, or with `None` the devices have changed: who refused it is of no interest.
    pub(super) fn forget_refusals(&mut self, of: Option<Seq>) {
        match of {
            Some(seq) => drop(self.refusals.remove(&seq)),
            None => self.refusals.clear(),
        }
    }

    /// The oldest receipt that is held.
    pub(super) fn first_receipt(&self) -> Option<Seq> {
        let is_receipt = |held: &&Held| held.kind == MessageKind::Notification;
        self.held.iter().find(is_receipt).map(|held| held.seq)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.storing == 0 && !matches!(self.state, State::Running(_))
    }
}

pub(super) fn make_ready(
    ready: &mut Ready,
    key: &ConversationKey,
    conversation: &mut Conversation,
) {
    conversation.state = State::Ready;
    if conversation.first_within_reach().is_none() {
        return;
    }
    if let Some(first) = conversation.held.front() {
        ready.insert(first.seq, key.clone());
    }
}

/// By which of the two ways a message of this kind leaves, if the devices have the choice.
pub(super) fn own_carrier(kind: MessageKind) -> Carrier {
    match kind {
        MessageKind::Pager | MessageKind::Notification => Carrier::Message,
        MessageKind::Chat | MessageKind::Large => Carrier::Session,
    }
}

/// Receipts, and what the server itself has to say, are not what a user fetches (decision 24).
pub(super) fn leaves_by_itself(held: &Held) -> bool {
    held.kind == MessageKind::Notification || held.conversation.author.user() == SYSTEM
}

/// Pager messages leave as MESSAGE, large ones in a session of their own, and each the other way if it
/// is over or under the switch-over size; chat leaves over MSRP. What no device takes by its own way
/// leaves by the other if it fits.
pub(super) fn choose_carrier(held: &Held, reach: Reach, session_refused: bool) -> Option<Carrier> {
    let fits = reach.message.is_some_and(|largest| held.length <= largest);
    let is_small = fits && held.length <= reach.switch_over;
    let session = reach.session && !session_refused;
    let standalone = reach.standalone && !session_refused;
    match held.kind {
        MessageKind::Pager if is_small => Some(Carrier::Message),
        MessageKind::Pager if standalone => Some(Carrier::Standalone),
        MessageKind::Pager if fits => Some(Carrier::Message),
        MessageKind::Notification if fits => Some(Carrier::Message),
        MessageKind::Notification if session => Some(Carrier::Session),
        MessageKind::Chat if session => Some(Carrier::Session),
        MessageKind::Chat if fits => Some(Carrier::Message),
        MessageKind::Large if standalone => Some(Carrier::Standalone),
        MessageKind::Large if is_small => Some(Carrier::Message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::identity::Identity;

    /// By which way a message of this kind and length leaves, with and without devices that take
    /// sessions, and after they refused one.
    fn ways(kind: MessageKind, length: u64) -> [Option<Carrier>; 3] {
        let held = Held {
            seq: Seq(1),
            kind,
            conversation: ConversationKey {
                author: Identity::new("alice", "im.test"),
                conversation: "c".into(),
            },
            message_id: "m".into(),
            length,
            expires_at: UnixMillis(u64::MAX),
            marks: Box::default(),
        };
        let phone = Reach {
            session: true,
            message: Some(60_000),
            standalone: true,
            switch_over: 1300,
        };
        let plain = Reach {
            session: false,
            standalone: false,
            ..phone
        };
        let chosen = |reach, refused| choose_carrier(&held, reach, refused);
        [
            chosen(phone, false),
            chosen(plain, false),
            chosen(phone, true),
        ]
    }

    #[test]
    fn a_standalone_message_leaves_by_its_size_whichever_way_it_came() {
        use Carrier::{Message, Standalone};
        let small = [Some(Message); 3];
        assert_eq!(ways(MessageKind::Pager, 1300), small);
        let large = [Some(Standalone), Some(Message), Some(Message)];
        assert_eq!(ways(MessageKind::Pager, 1301), large);
        assert_eq!(
            ways(MessageKind::Pager, 70_000),
            [Some(Standalone), None, None]
        );
    }

    #[test]
    fn a_large_message_leaves_by_message_only_where_no_session_is_taken_and_it_is_small() {
        use Carrier::{Message, Standalone};
        let small = [Some(Standalone), Some(Message), Some(Message)];
        assert_eq!(ways(MessageKind::Large, 1300), small);
        assert_eq!(
            ways(MessageKind::Large, 1301),
            [Some(Standalone), None, None]
        );
    }

    #[test]
    fn chat_leaves_in_a_session_whatever_its_size_and_by_message_where_none_is_taken() {
        use Carrier::{Message, Session};
        let all = [Some(Session), Some(Message), Some(Message)];
        assert_eq!(ways(MessageKind::Chat, 10), all);
        assert_eq!(ways(MessageKind::Chat, 10_000), all);
    }
}
