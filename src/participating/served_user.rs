//! One served user's messages in order: which wait, which are under way, when a refused replay is
//! offered again. Pure; the next stop is `service`, which performs what this decides.
//!
//! A machine exists only while something is held, pending or in flight for a user. One *run* at a
//! time delivers a conversation's messages, oldest first, by one carrier; a run that the device
//! refuses or breaks is *parked*: its messages stay until the next registration or retry (cpm-facts §7.3),
//! younger ones of the conversation behind them. Something new brings the next try forward.

mod devices;
mod fetching;
mod questions;
mod runs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::participating::conversation::{
    Conversation, Ready, State, leaves_by_itself, make_ready, note_put_off, own_carrier, park,
    step_aside,
};
pub use crate::participating::conversation::{ReplayPolicy, RetrySchedule};
pub use crate::participating::copies::DeviceReach;
use crate::participating::copies::Obstacles;
use crate::participating::delivery::DeliveryId;
use crate::participating::unsynced::Unsynced;
use crate::store::request::{ConversationKey, Held, Seq};

/// Names one run of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// How messages leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// One SIP MESSAGE each, the next after the answer to the last (RFC 3428 §8).
    Message,
    /// An MSRP session the participating function opens with `a=sendonly`.
    Session,
    /// The same for one standalone message alone (cpm-facts §4, large mode).
    Standalone,
}

/// What the user's devices can take at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Some contact takes MSRP sessions.
    pub session: bool,
    /// The largest body some contact takes by MESSAGE, in octets; `None`: none does.
    pub message: Option<u64>,
    /// Some contact takes a standalone message in an MSRP session of its own.
    pub standalone: bool,
    /// A larger standalone message leaves in such a session rather than by MESSAGE.
    pub switch_over: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Everything handed out was confirmed.
    Done,
    /// Refused or broken: try again at the next registration or retry.
    Parked,
    /// The same, and not before so long (Retry-After, RFC 3261 §20.33).
    PutOff(Duration),
    /// We had no room: soon again, before anything younger.
    Shortage,
    /// The same of who was called and had no time, or did not want to: he is not called again for each new message.
    Busy,
    /// Declined for good: not before the next registration.
    Declined,
    /// The device takes no session like this: use the other carrier.
    OtherWay,
}

/// No device is left alone for longer, whatever it asks for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

impl RunEnd {
    /// The same, of a device that wants to be left alone for so long if it said so.
    pub fn after(self, asked: Option<Duration>) -> Self {
        asked.map_or(self, |asked| Self::PutOff(asked.min(LONGEST_ASKED)))
    }
}

/// What the machine asks of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserAction {
    /// Read the queue from the store.
    Load {
        /// Only what comes after this.
        after: Option<Seq>,
    },
    /// Begin a run; its messages are taken with [`ServedUser::next_message`].
    Start {
        /// Names it from here on.
        run: RunId,
        /// Whose and which conversation.
        key: ConversationKey,
        /// By which way.
        carrier: Carrier,
        /// The one device it is for; `None`: the first that takes it.
        device: Option<u64>,
    },
    /// A device that a delivery waited for has room ([`ServedUser::claim_device`]).
    Resume {
        /// Which delivery.
        delivery: DeliveryId,
    },
}

/// Where one message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The machine has not loaded it.
    Unheard,
    /// Its turn has not come.
    InLine,
    /// A run has it.
    Running,
    /// No device takes it, of this kind and size.
    Incapable,
    /// Refused or broken, until then; without a time, until the next registration.
    Parked(Option<Instant>),
}

#[derive(Debug, PartialEq, Eq)]
enum Loading {
    /// The store may hold messages; it is asked once the user has a device.
    Needed,
    Asked,
    Complete,
}

#[derive(Debug)]
struct Run {
    key: ConversationKey,
    carrier: Carrier,
    /// Of which device it carries the copies.
    copies_for: Option<u64>,
    claim: Claim,
    /// It has been given a message.
    begun: bool,
    triggered_again: bool,
    /// The user fetches: what it carries is settled in any order.
    is_pull: bool,
    /// The user has not asked: it steps over what he has to fetch.
    unasked: bool,
    /// What waits aside, which it steps over.
    aside: Option<Carrier>,
}

impl Run {
    fn carries(&self, held: &Held) -> bool {
        (!self.unasked || leaves_by_itself(held)) && self.aside != Some(own_carrier(held.kind))
    }
}

/// What a run has of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    None,
    Has(u64),
    Waits(u64, DeliveryId),
}

/// The machine.
#[derive(Debug)]
pub struct ServedUser {
    reach: Option<Reach>,
    loading: Loading,
    last_loaded: Option<Seq>,
    /// Loaded while their `Stored` was still on its way.
    loaded_early: BTreeSet<Seq>,
    /// Durable since the queue was asked for. One of them that is long can be older than what a page has
    /// already told, so none is left to the next page.
    stored_late: BTreeMap<Seq, Held>,
    /// Messages on their way to the disk.
    storing: usize,
    /// Boxed: a tree begins with room for eleven, and nearly every user has one.
    conversations: BTreeMap<ConversationKey, Box<Conversation>>,
    ready: Ready,
    /// Some conversation may wait for its time.
    may_wait: bool,
    runs: BTreeMap<RunId, Run>,
    next_run: u64,
    policy: ReplayPolicy,
    /// The devices, where each gets a copy.
    copies: Option<Vec<DeviceReach>>,
    /// Those of them that took nothing when they were tried last.
    failing: BTreeSet<u64>,
    /// What waits is kept until the user asks; only what is no message to him leaves by itself.
    pull: bool,
    /// The operator lets nothing be delivered: runs carry nothing more.
    barred: bool,
    /// A fetch waits until what leaves unasked has ended.
    fetch_waits: bool,
    /// The user knows that messages wait.
    announced: bool,
    /// What devices have confirmed and the store has not made durable.
    pub(super) unsynced: Unsynced,
    actions: VecDeque<UserAction>,
}
impl ServedUser {
    /// A machine for a user whose queue may hold messages (`waiting`) or is known to be empty.
    pub fn new(waiting: bool, policy: ReplayPolicy) -> Self {
        let mut user = Self {
            reach: None,
            loading: Loading::Complete,
            last_loaded: None,
            loaded_early: BTreeSet::new(),
            stored_late: BTreeMap::new(),
            storing: 0,
            conversations: BTreeMap::new(),
            ready: Ready::default(),
            may_wait: false,
            runs: BTreeMap::new(),
            next_run: 0,
            policy,
            copies: None,
            failing: BTreeSet::new(),
            pull: false,
            fetch_waits: false,
            barred: false,
            announced: false,
            unsynced: Unsynced::default(),
            actions: VecDeque::new(),
        };
        if waiting {
            user.loading = Loading::Needed;
        }
        user
    }

    /// Whether a new message of this conversation may go straight to a device by `carrier`, MESSAGE or a session:
    /// nothing older of it is held, being stored or replayed. What no device can take does not count, nor what
    /// waits aside for the other carrier.
    pub fn may_pass(&self, key: &ConversationKey, carrier: Carrier) -> bool {
        self.loading == Loading::Complete
            && self.conversations.get(key).is_none_or(|conversation| {
                conversation.is_empty()
                    || self.is_at_rest(conversation)
                    || conversation.lets_by(carrier)
                    || (self.copies.is_none() && conversation.is_beyond_devices())
                    || (self.copies.is_some() && conversation.has_tried_patience())
            })
    }

    /// The same for a receipt, as far as messages of the conversation go: those that devices put off do not count.
    pub fn lets_receipts_by(&self, key: &ConversationKey) -> bool {
        let is_parked = |conversation: &Conversation| {
            matches!(conversation.state, State::Parked(_)) || conversation.aside.is_some()
        };
        let conversation = self.conversations.get(key);
        self.may_pass(key, Carrier::Message)
            || (self.loading == Loading::Complete
                && conversation.is_some_and(|each| is_parked(each)))
    }

    /// Whether a new receipt of this sender may go straight to a device, as far as his earlier ones go:
    /// none is held, not even in another conversation or in one that is parked.
    pub fn may_pass_receipt(&self, sender: &Identity) -> bool {
        let of_sender = self
            .conversations
            .iter()
            .filter(|(key, _)| key.author == *sender);
        self.loading == Loading::Complete
            && of_sender
                .map(|(_, conversation)| conversation)
                .all(|conversation| {
                    conversation.storing == 0 && conversation.first_receipt().is_none()
                })
    }

    /// Whether the operator lets nothing be delivered.
    pub fn set_barred(&mut self, barred: bool) {
        self.barred = barred;
    }

    /// Whether nothing is left to decide, so that the machine can be forgotten. Messages that wait
    /// for an absent user are the store's alone. While some wait, what others of them were confirmed must be durable
    /// first: the next machine would not know of it.
    pub fn is_idle(&self) -> bool {
        self.is_at_rest_but_for_sync() && (self.unsynced.is_empty() || self.holds_nothing())
    }

    /// The same, as far as it does not wait for the store.
    pub fn is_at_rest_but_for_sync(&self) -> bool {
        self.runs.is_empty()
            && self.actions.is_empty()
            && !matches!(self.loading, Loading::Asked)
            && self.conversations.values().all(|c| c.storing == 0)
            && (self.reach.is_none() || self.holds_nothing() || self.has_copied_all())
    }

    /// Whether nothing is held, as far as has been loaded.
    pub fn holds_nothing(&self) -> bool {
        self.loading == Loading::Complete && self.conversations.values().all(|c| c.is_empty())
    }

    /// The user's devices changed or registered again: every conversation is offered once more.
    pub fn handle_reach(&mut self, reach: Reach, now: Now) {
        self.reach = Some(reach);
        if self.loading == Loading::Needed {
            self.loading = Loading::Asked;
            self.actions.push_back(UserAction::Load { after: None });
        }
        for (key, conversation) in &mut self.conversations {
            conversation.session_refused = false;
            conversation.obstacles = Obstacles::default();
            conversation.forget_refusals(None);
            conversation.forgive();
            conversation.rejoin();
            conversation.registered_meanwhile = !conversation.trying.is_empty();
            if !matches!(conversation.state, State::Running(_)) {
                conversation.forget_beyond(None);
                make_ready(&mut self.ready, key, conversation);
            }
        }
        for run in self.runs.values_mut() {
            run.triggered_again = true;
        }
        self.start_runs(now);
    }

    /// The user's last contact is gone. Running deliveries end by themselves.
    pub fn handle_unreachable(&mut self) {
        self.announced = false;
        self.reach = None;
    }

    /// A page of the queue, oldest first.
    pub fn handle_loaded(&mut self, held: Vec<Held>, more: bool, now: Now) {
        for item in held {
            self.last_loaded = self.last_loaded.max(Some(item.seq));
            self.stored_late.remove(&item.seq);
            if self.storing > 0 {
                self.loaded_early.insert(item.seq);
            }
            self.add(item);
        }
        if more {
            let after = self.last_loaded;
            self.actions.push_back(UserAction::Load { after });
            return;
        }
        self.loading = Loading::Complete;
        for held in std::mem::take(&mut self.stored_late).into_values() {
            self.add(held);
        }
        self.start_runs(now);
    }

    /// Custody of a message begins: it is on its way to the disk. A long one can be overtaken there by
    /// a short one behind it, so nothing of the conversation leaves until it has arrived.
    pub fn handle_storing(&mut self, key: &ConversationKey, is_long: bool) {
        let conversation = self.conversations.entry(key.clone());
        let conversation = conversation.or_default();
        conversation.storing += 1;
        conversation.storing_long += usize::from(is_long);
        self.storing += 1;
    }

    /// A message is durable, but a device may still take it as it first came: until that is known,
    /// [`Self::handle_stored`] or [`Self::handle_settled`] says, nothing younger leaves.
    pub fn handle_trying(&mut self, key: &ConversationKey, seq: Seq) {
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.registered_meanwhile &= !conversation.trying.is_empty();
            conversation.trying.insert(seq);
        }
    }

    /// The message is durable. `tried` says that the devices have just failed to take it, so that its
    /// conversation is parked instead of offered at once.
    pub fn handle_stored(&mut self, held: Held, is_long: bool, tried: bool, now: Now) {
        let again = self.end_trying(&held.conversation, held.seq);
        self.end_storing(&held.conversation, is_long);
        self.leave_rest(&held.conversation);
        if tried && !again {
            // A session has rung, a MESSAGE has not.
            let end = match own_carrier(held.kind) {
                Carrier::Message => RunEnd::Parked,
                Carrier::Session | Carrier::Standalone => RunEnd::Busy,
            };
            self.park_ready(&held.conversation, end, now);
        }
        // It may have been read from the store before devices took it as it came.
        for device in &held.marks {
            self.handle_marked(&held.conversation, held.seq, *device);
        }
        match self.loading {
            Loading::Needed => {}
            Loading::Asked | Loading::Complete if self.loaded_early.remove(&held.seq) => {}
            Loading::Asked => {
                self.stored_late.insert(held.seq, held);
            }
            Loading::Complete => {
                let (key, carrier) = (held.conversation.clone(), own_carrier(held.kind));
                self.add(held);
                self.after_added(&key, carrier, tried, now);
            }
        }
        if self.storing == 0 {
            self.loaded_early.clear();
        }
        self.start_runs(now);
    }

    /// The devices that have just put a message off want to be left alone for so long.
    pub fn handle_asked(&mut self, key: &ConversationKey, asked: Duration, now: Now) {
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.leave_alone(asked.min(LONGEST_ASKED), now);
        }
    }

    /// The message could not be stored; its sender has been told.
    pub fn handle_not_stored(&mut self, key: &ConversationKey, is_long: bool, now: Now) {
        self.end_storing(key, is_long);
        self.start_runs(now);
    }

    /// Something new comes, and it waits behind nothing but what no device takes.
    fn leave_rest(&mut self, key: &ConversationKey) {
        if let Some(conversation) = self.conversations.get_mut(key)
            && conversation.is_beyond_devices()
        {
            conversation.state = State::Ready;
        }
    }

    /// What a new message means for those that it waits behind: they are tried again as soon as may be.
    fn after_added(&mut self, key: &ConversationKey, carrier: Carrier, tried: bool, now: Now) {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return;
        };
        if tried && matches!(conversation.state, State::Parked(_)) {
            note_put_off(conversation, now);
        } else if conversation.hasten(carrier, now) {
            conversation.rejoin();
            conversation.obstacles.retry();
            make_ready(&mut self.ready, key, conversation);
        }
    }

    /// The operator wants a parked conversation offered now.
    pub fn handle_retry(&mut self, key: &ConversationKey, now: Now) {
        if let Some(conversation) = self.conversations.get_mut(key)
            && !matches!(conversation.state, State::Running(_))
        {
            conversation.session_refused = false;
            conversation.obstacles = Obstacles::default();
            conversation.forget_beyond(None);
            conversation.rejoin();
            make_ready(&mut self.ready, key, conversation);
        }
        self.start_runs(now);
    }

    /// A device has refused a message for good, until it registers again.
    pub fn handle_refused(&mut self, key: &ConversationKey, seq: Seq, device: u64) {
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.refuse(seq, device);
        }
    }

    /// Whether a device has.
    pub fn is_refused_by(&self, key: &ConversationKey, seq: Seq, device: u64) -> bool {
        let conversation = self.conversations.get(key);
        conversation.is_some_and(|conversation| conversation.is_refused_by(seq, device))
    }

    /// A message left custody: a device confirmed it, it expired or was taken back.
    pub fn handle_settled(&mut self, key: &ConversationKey, seq: Seq) {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return;
        };
        self.stored_late.remove(&seq);
        if conversation.trying.remove(&seq) {
            self.ready.look_again();
        }
        if self.copies.is_some() && conversation.state == State::Ready {
            make_ready(&mut self.ready, key, conversation);
        }
        let Some(position) = conversation.held.iter().position(|held| held.seq == seq) else {
            return;
        };
        if position == 0 {
            self.ready.remove(seq);
        }
        conversation.held.remove(position);
        conversation.forget_refusals(Some(seq));
        conversation.forget_beyond(Some(seq));
        if position < conversation.handed {
            conversation.handed -= 1;
        }
        // What waits aside has its own schedule.
        if conversation.aside.is_none() {
            conversation.forgive();
        }
        conversation.shortages = 0;
        if conversation.state == State::Ready {
            make_ready(&mut self.ready, key, conversation);
        }
        self.forget_if_empty(key);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.reach.filter(|_| self.may_wait)?;
        let all = self.conversations.values();
        all.filter_map(|each| each.waits_until()).min()
    }

    /// Offers again what was parked long enough.
    pub fn handle_timeout(&mut self, now: Now) {
        for (key, conversation) in &mut self.conversations {
            let until = conversation.waits_until();
            if until.is_some_and(|until| until <= now.instant) {
                conversation.obstacles.retry();
                conversation.rejoin();
                make_ready(&mut self.ready, key, conversation);
            }
        }
        let mut all = self.conversations.values();
        self.may_wait = all.any(|each| each.may_wait());
        self.start_runs(now);
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<UserAction> {
        self.actions.pop_front()
    }

    fn add(&mut self, held: Held) {
        let key = held.conversation.clone();
        let conversation = self.conversations.entry(key.clone());
        let conversation = conversation.or_default();
        conversation.insert(held, &mut self.ready);
        if conversation.state == State::Ready {
            make_ready(&mut self.ready, &key, conversation);
        }
    }

    fn park_ready(&mut self, key: &ConversationKey, end: RunEnd, now: Now) {
        let conversation = self.conversations.entry(key.clone());
        let conversation = conversation.or_default();
        if conversation.state != State::Ready {
            return;
        }
        if let Some(first) = conversation.held.front() {
            self.ready.remove(first.seq);
        }
        self.may_wait = true;
        park(conversation, &self.policy.retry, end, now);
    }

    /// A run of a conversation was refused or broke.
    fn park_run(&mut self, key: &ConversationKey, end: RunEnd, now: Now) {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return;
        };
        self.may_wait = true;
        park(conversation, &self.policy.retry, end, now);
        if self.copies.is_none() && step_aside(conversation) {
            make_ready(&mut self.ready, key, conversation);
        }
    }

    /// Whether the user has registered since the devices were tried.
    fn end_trying(&mut self, key: &ConversationKey, seq: Seq) -> bool {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return false;
        };
        let was_tried = conversation.trying.remove(&seq);
        self.ready.look_again();
        was_tried && conversation.registered_meanwhile
    }

    fn end_storing(&mut self, key: &ConversationKey, is_long: bool) {
        if let Some(conversation) = self.conversations.get_mut(key)
            && conversation.storing > 0
        {
            self.ready.look_again();
            conversation.storing -= 1;
            let long = usize::from(is_long).min(conversation.storing_long);
            conversation.storing_long -= long;
            if self.copies.is_some() && conversation.state == State::Ready {
                make_ready(&mut self.ready, key, conversation);
            }
            self.storing = self.storing.saturating_sub(1);
        }
        self.forget_if_empty(key);
    }

    fn forget_if_empty(&mut self, key: &ConversationKey) {
        if self
            .conversations
            .get(key)
            .is_some_and(|each| each.is_empty())
        {
            self.conversations.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
