//! One conversation of a served user: its messages in order, and whether it is ready, running or parked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::participating::copies::Obstacles;
use crate::participating::served_user::{Carrier, Reach, RunId};
use crate::participating::system_message::SYSTEM;
use crate::store::request::{ConversationKey, Held, MessageKind, Seq};

/// How soon a run that we had no room for is begun again, for so many times in a row; and after them.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(500);
const SHORT_PAUSES: u8 = 20;
const LONG_SHORTAGE_PAUSE: Duration = Duration::from_secs(10);
/// How often in all, ten minutes long, before it waits for the next retry step like a refused one: what never
/// finds room must not hold up its conversation for ever.
const MOST_SHORTAGES: u8 = 80;

/// The waiting times before a parked run is tried again; the last one repeats.
#[derive(Clone, Debug)]
pub struct RetrySchedule(Arc<[Duration]>);

impl RetrySchedule {
    /// In order; an empty list means "at the next registration only".
    pub fn new(waits: &[Duration]) -> Self {
        Self(waits.into())
    }

    pub(super) fn wait(&self, attempt: usize) -> Option<Duration> {
        self.0.get(attempt).or_else(|| self.0.last()).copied()
    }
}

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

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    Running(RunId),
    Parked {
        until: Option<Instant>,
    },
    /// We had no room for the run: it begins soon, and nothing younger passes.
    Short {
        until: Instant,
    },
}

#[derive(Debug)]
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
    pub(super) fn new() -> Self {
        Self {
            held: VecDeque::new(),
            handed: 0,
            storing: 0,
            storing_long: 0,
            trying: BTreeSet::new(),
            registered_meanwhile: false,
            state: State::Ready,
            attempt: 0,
            shortages: 0,
            session_refused: false,
            obstacles: Obstacles::default(),
        }
    }

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
    /// has to fetch.
    pub(super) fn next_to_leave(&self, from: usize, unasked: bool) -> Option<usize> {
        let mut rest = self.held.iter().enumerate().skip(from);
        let next = rest.find(|(_, held)| !unasked || leaves_by_itself(held));
        next.map(|(place, _)| place)
    }

    /// The oldest receipt that is held.
    pub(super) fn first_receipt(&self) -> Option<Seq> {
        let is_receipt = |held: &&Held| held.kind == MessageKind::Notification;
        self.held.iter().find(is_receipt).map(|held| held.seq)
    }

    /// When it is offered again by itself.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.state {
            State::Parked { until } => until,
            State::Short { until } => Some(until),
            State::Ready | State::Running(_) => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.storing == 0 && !matches!(self.state, State::Running(_))
    }
}

/// Our own shortage is not the device's refusal: order is kept for the while that it lasts.
pub(super) fn pause(conversation: &mut Conversation, retry: &RetrySchedule, now: Now) {
    if conversation.shortages >= MOST_SHORTAGES {
        return park(conversation, retry, now);
    }
    conversation.shortages += 1;
    let pause = match conversation.shortages {
        ..=SHORT_PAUSES => SHORTAGE_PAUSE,
        _ => LONG_SHORTAGE_PAUSE,
    };
    let until = now.instant + pause;
    conversation.state = State::Short { until };
}

pub(super) fn park(conversation: &mut Conversation, retry: &RetrySchedule, now: Now) {
    let wait = retry.wait(conversation.attempt);
    conversation.attempt += 1;
    conversation.shortages = 0;
    let until = wait.map(|wait| now.instant + wait);
    conversation.state = State::Parked { until };
}

pub(super) fn make_ready(
    ready: &mut Ready,
    key: &ConversationKey,
    conversation: &mut Conversation,
) {
    conversation.state = State::Ready;
    if let Some(first) = conversation.held.front() {
        ready.insert(first.seq, key.clone());
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
