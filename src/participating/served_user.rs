//! One served user's messages in order: which wait, which are under way, when a refused replay is
//! offered again. Pure; the next stop is `service`, which performs what this decides.
//!
//! A machine exists only while something is held, pending or in flight for a user. One *run* at a
//! time delivers a conversation's messages, oldest first, by one carrier; a run that the device
//! refuses or breaks is *parked*: its messages stay, and it blocks nothing until the next
//! registration or retry (cpm-facts §7.3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::participating::conversation::{
    Conversation, State, choose_carrier, make_ready, park, pause,
};
pub use crate::participating::conversation::{ReplayPolicy, RetrySchedule};
pub use crate::participating::copies::DeviceReach;
use crate::participating::copies::Obstacles;
use crate::participating::delivery::DeliveryId;
use crate::participating::pull::Wanted;
use crate::participating::system_message::SYSTEM;
use crate::store::request::{ConversationKey, Held, MessageKind, Seq};

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
    /// We had no room: soon again, before anything younger.
    Shortage,
    /// Declined for good: not before the next registration.
    Declined,
    /// The device takes no session like this: use the other carrier.
    OtherWay,
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
    Asked {
        again: bool,
    },
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
    /// Messages on their way to the disk.
    storing: usize,
    conversations: BTreeMap<ConversationKey, Conversation>,
    /// Conversations that could start, by their oldest message.
    ready: BTreeMap<Seq, ConversationKey>,
    runs: BTreeMap<RunId, Run>,
    next_run: u64,
    policy: ReplayPolicy,
    /// The devices, where each gets a copy.
    copies: Option<Vec<DeviceReach>>,
    /// What waits is kept until the user asks; only what is no message to him leaves by itself.
    pull: bool,
    /// The user knows that messages wait.
    announced: bool,
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
            storing: 0,
            conversations: BTreeMap::new(),
            ready: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_run: 0,
            policy,
            copies: None,
            pull: false,
            announced: false,
            actions: VecDeque::new(),
        };
        if waiting {
            user.loading = Loading::Needed;
        }
        user
    }

    /// Whether a new message of this conversation may go straight to a device: nothing older of it is
    /// held, being stored or replayed. A parked run does not count.
    pub fn may_pass(&self, key: &ConversationKey) -> bool {
        if self.loading != Loading::Complete {
            return false;
        }
        self.conversations.get(key).is_none_or(|conversation| {
            matches!(conversation.state, State::Parked { .. })
                || conversation.is_empty()
                || self.is_at_rest(conversation)
        })
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

    /// Whether the whole queue has been read, so that what is not known here is not held.
    pub fn has_all(&self) -> bool {
        self.loading == Loading::Complete
    }

    /// The held message of this author with this `imdn.Message-ID`.
    pub fn find_held(&self, author: &Identity, message_id: &str) -> Option<(ConversationKey, Seq)> {
        let of_author = self
            .conversations
            .iter()
            .filter(|(key, _)| key.author == *author);
        let mut held = of_author
            .flat_map(|(key, conversation)| conversation.held.iter().map(move |held| (key, held)));
        let (key, held) = held.find(|(_, held)| *held.message_id == *message_id)?;
        Some((key.clone(), held.seq))
    }

    /// Whether nothing is left to decide, so that the machine can be forgotten. Messages that wait
    /// for an absent user are the store's alone.
    pub fn is_idle(&self) -> bool {
        self.runs.is_empty()
            && self.actions.is_empty()
            && !matches!(self.loading, Loading::Asked { .. })
            && self.conversations.values().all(|c| c.storing == 0)
            && (self.reach.is_none() || self.holds_nothing() || self.has_copied_all())
    }

    /// Whether nothing is held, as far as has been loaded.
    pub fn holds_nothing(&self) -> bool {
        self.loading == Loading::Complete && self.conversations.values().all(Conversation::is_empty)
    }

    /// Every device that is there has all that it can take.
    fn has_copied_all(&self) -> bool {
        let mut all = self.conversations.values();
        self.loading == Loading::Complete && all.all(|each| self.is_at_rest(each))
    }

    /// Whether all that a conversation holds is only kept for devices that may come.
    fn is_at_rest(&self, conversation: &Conversation) -> bool {
        let Some(devices) = &self.copies else {
            return false;
        };
        conversation.state == State::Ready
            && conversation.storing == 0
            && conversation.next_copy(devices).is_none()
    }

    /// From here on each of these devices gets its own copy; `None`: one device is enough.
    pub fn set_copies(&mut self, devices: Option<Vec<DeviceReach>>) {
        self.copies = devices;
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

    fn claims(&self, device: u64) -> usize {
        let runs = self.runs.values();
        runs.filter(|run| run.claim == Claim::Has(device)).count()
    }

    /// Lets runs go on whose device has room now, the oldest first.
    fn grant_devices(&mut self) {
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

    /// The user's devices changed or registered again: every conversation is offered once more.
    pub fn handle_reach(&mut self, reach: Reach, now: Now) {
        self.reach = Some(reach);
        if self.loading == Loading::Needed {
            self.loading = Loading::Asked { again: false };
            self.actions.push_back(UserAction::Load { after: None });
        }
        for (key, conversation) in &mut self.conversations {
            conversation.session_refused = false;
            conversation.obstacles = Obstacles::default();
            conversation.attempt = 0;
            conversation.registered_meanwhile = !conversation.trying.is_empty();
            if !matches!(conversation.state, State::Running(_)) {
                make_ready(&mut self.ready, key, conversation);
            }
        }
        for run in self.runs.values_mut() {
            run.triggered_again = true;
        }
        self.start_runs(now);
    }

    /// Whether the user fetches what waits, from here on.
    pub fn set_pull(&mut self, pull: bool) {
        self.pull = pull;
    }

    /// Whether the queue is known; if not, it is read.
    pub fn wants_to_know(&mut self) -> bool {
        if self.loading == Loading::Needed {
            self.loading = Loading::Asked { again: false };
            self.actions.push_back(UserAction::Load { after: None });
        }
        self.loading == Loading::Complete
    }

    /// Lends what waits of `wanted` to a fetch, oldest first: no other run has it until
    /// [`Self::handle_run_ended`] gives each of these runs back. `None` when nothing of it waits.
    pub fn begin_pull(&mut self, wanted: &Wanted) -> Option<(Vec<RunId>, VecDeque<Held>)> {
        let mut lent: Vec<Held> = Vec::new();
        let mut runs = Vec::new();
        for (key, conversation) in &mut self.conversations {
            if matches!(conversation.state, State::Running(_)) {
                continue;
            }
            let before = lent.len();
            let all = conversation.held.iter();
            let fitting = all.filter(|held| wanted.fits(held) && conversation.may_leave(held));
            lent.extend(fitting.cloned());
            if lent.len() == before {
                continue;
            }
            if let Some(first) = conversation.held.front() {
                self.ready.remove(&first.seq);
            }
            let run = RunId(self.next_run);
            self.next_run += 1;
            conversation.state = State::Running(run);
            conversation.handed = 0;
            let started = Run {
                key: key.clone(),
                carrier: Carrier::Session,
                copies_for: None,
                claim: Claim::None,
                begun: true,
                triggered_again: false,
                is_pull: true,
            };
            self.runs.insert(run, started);
            runs.push(run);
        }
        lent.sort_by_key(|held| held.seq);
        (!runs.is_empty()).then(|| (runs, lent.into()))
    }

    /// How many messages wait for the user to fetch them, if he is there and does not know.
    pub fn news_of_waiting(&mut self) -> Option<usize> {
        if !self.pull || self.reach.is_none() || self.loading != Loading::Complete {
            return None;
        }
        let held = self.conversations.values().flat_map(|each| &each.held);
        let count = held.filter(|held| !leaves_by_itself(held)).count();
        let was_announced = std::mem::replace(&mut self.announced, count > 0);
        (count > 0 && !was_announced).then_some(count)
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
            if self.storing > 0 {
                self.loaded_early.insert(item.seq);
            }
            self.add(item);
        }
        let again = more || self.loading == Loading::Asked { again: true };
        if again {
            self.loading = Loading::Asked { again: false };
            let after = self.last_loaded;
            self.actions.push_back(UserAction::Load { after });
            return;
        }
        self.loading = Loading::Complete;
        self.start_runs(now);
    }

    /// Custody of a message begins: it is on its way to the disk. A long one can be overtaken there by
    /// a short one behind it, so nothing of the conversation leaves until it has arrived.
    pub fn handle_storing(&mut self, key: &ConversationKey, is_long: bool) {
        let conversation = self.conversations.entry(key.clone());
        let conversation = conversation.or_insert_with(Conversation::new);
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

    /// Whether the user has a device, as far as this machine was told.
    pub fn is_reachable(&self) -> bool {
        self.reach.is_some()
    }

    /// The message is durable. `tried` says that the devices have just failed to take it, so that its
    /// conversation is parked instead of offered at once.
    pub fn handle_stored(&mut self, held: Held, is_long: bool, tried: bool, now: Now) {
        let again = self.end_trying(&held.conversation, held.seq);
        self.end_storing(&held.conversation, is_long);
        if tried && !again {
            self.park_ready(&held.conversation, now);
        }
        match &mut self.loading {
            Loading::Needed => {}
            Loading::Asked { again } => *again = true,
            Loading::Complete if self.loaded_early.remove(&held.seq) => {}
            Loading::Complete => self.add(held),
        }
        if self.storing == 0 {
            self.loaded_early.clear();
        }
        self.start_runs(now);
    }

    /// The message could not be stored; its sender has been told.
    pub fn handle_not_stored(&mut self, key: &ConversationKey, is_long: bool, now: Now) {
        self.end_storing(key, is_long);
        self.start_runs(now);
    }

    /// The next message of a run, oldest first; `None` when the run has nothing more to carry.
    pub fn next_message(&mut self, run: RunId) -> Option<Held> {
        let Run {
            key,
            carrier,
            begun,
            copies_for,
            ..
        } = self.runs.get(&run)?;
        let (key, carrier, begun) = (key.clone(), *carrier, *begun);
        let held = match *copies_for {
            Some(device) => self.next_copy_of(&key, device, carrier, begun)?,
            None => self.next_held_of(&key, carrier, begun)?,
        };
        self.runs.get_mut(&run)?.begun = true;
        Some(held)
    }

    /// The next message of a conversation for a run that is for the first device that takes it.
    fn next_held_of(
        &mut self,
        key: &ConversationKey,
        carrier: Carrier,
        begun: bool,
    ) -> Option<Held> {
        let reach = self.reach?;
        let conversation = self.conversations.get(key)?;
        let held = conversation.held.get(conversation.handed)?;
        if begun && self.must_yield(carrier, held, reach) {
            return None;
        }
        if !conversation.may_leave(held) {
            return None;
        }
        if choose_carrier(held, reach, conversation.session_refused) != Some(carrier) {
            return None;
        }
        if self.pull && !leaves_by_itself(held) {
            return None;
        }
        let held = held.clone();
        self.conversations.get_mut(key)?.handed += 1;
        Some(held)
    }

    /// The next message of a conversation that a device lacks.
    fn next_copy_of(
        &mut self,
        key: &ConversationKey,
        device: u64,
        carrier: Carrier,
        begun: bool,
    ) -> Option<Held> {
        if begun && carrier == Carrier::Standalone {
            return None;
        }
        let devices = self.copies.as_ref()?;
        let to = devices.iter().find(|each| each.device == device)?;
        next_copy_of_run(self.conversations.get_mut(key)?, to, carrier)
    }

    /// Whether a run that has carried something ends before `next`: a large message is alone in its
    /// session, and of the messages that leave by MESSAGE, one at a time (RFC 3428 §8), the oldest of
    /// all conversations is next.
    fn must_yield(&self, carrier: Carrier, next: &Held, reach: Reach) -> bool {
        let leaves_by_message = |key: &ConversationKey| {
            self.conversations.get(key).is_some_and(|conversation| {
                conversation.held.front().is_some_and(|held| {
                    let way = choose_carrier(held, reach, conversation.session_refused);
                    conversation.may_leave(held) && way == Some(Carrier::Message)
                })
            })
        };
        match carrier {
            Carrier::Session => false,
            Carrier::Standalone => true,
            Carrier::Message => {
                let mut older = self.ready.range(..next.seq);
                older.any(|(_, key)| leaves_by_message(key))
            }
        }
    }

    /// Whether some stored message is still out with devices that have not answered.
    pub fn is_trying(&self) -> bool {
        self.conversations
            .values()
            .any(|conversation| !conversation.trying.is_empty())
    }

    /// Whether a run of this conversation is under way.
    pub fn is_running(&self, key: &ConversationKey) -> bool {
        self.runs.values().any(|run| run.key == *key)
    }

    /// Whether a message is out with a running delivery.
    pub fn is_in_flight(&self, key: &ConversationKey, seq: Seq) -> bool {
        let Some(conversation) = self.conversations.get(key) else {
            return false;
        };
        let is_pull = matches!(conversation.state, State::Running(run)
            if self.runs.get(&run).is_some_and(|run| run.is_pull));
        let mut handed = conversation.held.iter().take(conversation.handed);
        is_pull || handed.any(|held| held.seq == seq)
    }

    /// The message of this author and `imdn.Message-ID` that waits and is not out with a delivery.
    pub fn waiting_message(
        &self,
        author: &Identity,
        message_id: &str,
    ) -> Option<(ConversationKey, Seq)> {
        let own = self
            .conversations
            .iter()
            .filter(|(key, _)| key.author == *author);
        own.flat_map(|(key, conversation)| {
            let waiting = conversation.held.iter().skip(conversation.handed);
            waiting.map(move |held| (key, held))
        })
        .find(|(_, held)| *held.message_id == *message_id)
        .map(|(key, held)| (key.clone(), held.seq))
    }

    /// A device got its copy of a message, which stays for the others.
    pub fn handle_marked(&mut self, key: &ConversationKey, seq: Seq, device: u64) {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return;
        };
        let position = conversation.held.iter().position(|held| held.seq == seq);
        if let Some(position) = position {
            conversation.mark(position, device);
            conversation.attempt = 0;
            conversation.shortages = 0;
        }
    }

    /// Whether some device has got a copy of this message.
    pub fn is_marked(&self, key: &ConversationKey, seq: Seq) -> bool {
        let conversation = self.conversations.get(key);
        let mut held = conversation.into_iter().flat_map(|each| &each.held);
        held.any(|held| held.seq == seq && !held.marks.is_empty())
    }

    /// Where a message stands.
    pub fn standing(&self, key: &ConversationKey, seq: Seq) -> Standing {
        let Some(conversation) = self.conversations.get(key) else {
            return Standing::Unheard;
        };
        let position = conversation.held.iter().position(|held| held.seq == seq);
        let held = position.and_then(|position| conversation.held.get(position));
        let (Some(position), Some(held)) = (position, held) else {
            return Standing::Unheard;
        };
        let incapable = |reach| choose_carrier(held, reach, conversation.session_refused).is_none();
        match conversation.state {
            State::Running(_) if position < conversation.handed => Standing::Running,
            _ if self.reach.is_some_and(incapable) => Standing::Incapable,
            State::Parked { until } => Standing::Parked(until),
            State::Short { .. } | State::Ready | State::Running(_) => Standing::InLine,
        }
    }

    /// How often a conversation was offered in vain since it was last delivered or registered for.
    pub fn attempts(&self, key: &ConversationKey) -> usize {
        let conversation = self.conversations.get(key);
        conversation.map_or(0, |conversation| conversation.attempt)
    }

    /// The operator wants a parked conversation offered now.
    pub fn handle_retry(&mut self, key: &ConversationKey, now: Now) {
        if let Some(conversation) = self.conversations.get_mut(key)
            && let State::Parked { .. } | State::Short { .. } = conversation.state
        {
            conversation.session_refused = false;
            conversation.obstacles = Obstacles::default();
            make_ready(&mut self.ready, key, conversation);
        }
        self.start_runs(now);
    }

    /// Whether a message is out with a delivery, or with a device that was tried before it was kept.
    pub fn is_out(&self, key: &ConversationKey, seq: Seq) -> bool {
        let conversation = self.conversations.get(key);
        self.is_in_flight(key, seq) || conversation.is_some_and(|c| c.trying.contains(&seq))
    }

    /// A message left custody: a device confirmed it, it expired or was taken back.
    pub fn handle_settled(&mut self, key: &ConversationKey, seq: Seq) {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return;
        };
        conversation.trying.remove(&seq);
        if self.copies.is_some() && conversation.state == State::Ready {
            make_ready(&mut self.ready, key, conversation);
        }
        let Some(position) = conversation.held.iter().position(|held| held.seq == seq) else {
            return;
        };
        if position == 0 {
            self.ready.remove(&seq);
        }
        conversation.held.remove(position);
        if position < conversation.handed {
            conversation.handed -= 1;
        }
        conversation.attempt = 0;
        conversation.shortages = 0;
        if conversation.state == State::Ready {
            make_ready(&mut self.ready, key, conversation);
        }
        self.forget_if_empty(key);
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
        if let Some(conversation) = self.conversations.get_mut(&key) {
            conversation.handed = 0;
            conversation.session_refused |= end == RunEnd::OtherWay && copies_for.is_none();
            match (copies_for, triggered_again) {
                (Some(_), true) => conversation.obstacles = Obstacles::default(),
                (Some(device), false) => conversation.obstacles.note(device, end),
                (None, _) => {}
            }
            match end {
                // Another device may want its copies; if none does, the retry step is set at the start.
                RunEnd::Parked | RunEnd::Declined if copies_for.is_some() => {
                    make_ready(&mut self.ready, &key, conversation);
                }
                RunEnd::Done | RunEnd::OtherWay => {
                    make_ready(&mut self.ready, &key, conversation);
                }
                RunEnd::Shortage => pause(conversation, &self.policy.retry, now),
                RunEnd::Parked | RunEnd::Declined if triggered_again => {
                    make_ready(&mut self.ready, &key, conversation);
                }
                RunEnd::Parked => park(conversation, &self.policy.retry, now),
                RunEnd::Declined => conversation.state = State::Parked { until: None },
            }
        }
        self.forget_if_empty(&key);
        self.grant_devices();
        self.start_runs(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.reach?;
        let all = self.conversations.values();
        all.filter_map(Conversation::waits_until).min()
    }

    /// Offers again what was parked long enough.
    pub fn handle_timeout(&mut self, now: Now) {
        for (key, conversation) in &mut self.conversations {
            let until = conversation.waits_until();
            if until.is_some_and(|until| until <= now.instant) {
                conversation.obstacles.retry();
                make_ready(&mut self.ready, key, conversation);
            }
        }
        self.start_runs(now);
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<UserAction> {
        self.actions.pop_front()
    }

    fn add(&mut self, held: Held) {
        let key = held.conversation.clone();
        let conversation = self.conversations.entry(key.clone());
        let conversation = conversation.or_insert_with(Conversation::new);
        conversation.insert(held, &mut self.ready);
        if conversation.state == State::Ready {
            make_ready(&mut self.ready, &key, conversation);
        }
    }

    fn park_ready(&mut self, key: &ConversationKey, now: Now) {
        let conversation = self.conversations.entry(key.clone());
        let conversation = conversation.or_insert_with(Conversation::new);
        if conversation.state != State::Ready {
            return;
        }
        if let Some(first) = conversation.held.front() {
            self.ready.remove(&first.seq);
        }
        park(conversation, &self.policy.retry, now);
    }

    /// Whether the user has registered since the devices were tried.
    fn end_trying(&mut self, key: &ConversationKey, seq: Seq) -> bool {
        let Some(conversation) = self.conversations.get_mut(key) else {
            return false;
        };
        let was_tried = conversation.trying.remove(&seq);
        was_tried && conversation.registered_meanwhile
    }

    fn end_storing(&mut self, key: &ConversationKey, is_long: bool) {
        if let Some(conversation) = self.conversations.get_mut(key)
            && conversation.storing > 0
        {
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
            .is_some_and(Conversation::is_empty)
        {
            self.conversations.remove(key);
        }
    }

    fn start_runs(&mut self, now: Now) {
        let Some(reach) = self.reach else { return };
        if self.loading != Loading::Complete {
            return;
        }
        let candidates: Vec<(Seq, ConversationKey)> = self.startable(reach);
        for (seq, key) in candidates {
            self.ready.remove(&seq);
            self.start(key, reach, now);
        }
    }

    /// The oldest ready conversations that there is room for.
    fn startable(&self, reach: Reach) -> Vec<(Seq, ConversationKey)> {
        let by_message = |run: &&Run| run.carrier == Carrier::Message;
        let running = self.runs.values().filter(by_message).count();
        let mut sessions = self
            .policy
            .per_user
            .saturating_sub(self.runs.len() - running);
        let mut messages = 1usize.saturating_sub(running);
        let mut chosen = Vec::new();
        for (seq, key) in &self.ready {
            if sessions == 0 && messages == 0 {
                break;
            }
            let conversation = self.conversations.get(key);
            let may_leave = |c: &&Conversation| c.held.front().is_none_or(|held| c.may_leave(held));
            let waits = |c: &&Conversation| {
                self.pull && c.held.front().is_some_and(|held| !leaves_by_itself(held))
            };
            let Some(conversation) = conversation.filter(may_leave).filter(|c| !waits(c)) else {
                continue;
            };
            let carrier = self.way_of(conversation, reach).map(|(_, carrier)| carrier);
            let room = match carrier {
                Some(Carrier::Session | Carrier::Standalone) => &mut sessions,
                Some(Carrier::Message) => &mut messages,
                None => &mut 1,
            };
            if *room > 0 {
                *room -= 1;
                chosen.push((*seq, key.clone()));
            }
        }
        chosen
    }

    /// How what a conversation holds leaves next, and for which device if each gets a copy.
    fn way_of(&self, conversation: &Conversation, reach: Reach) -> Option<(Option<u64>, Carrier)> {
        if let Some(devices) = &self.copies {
            let (device, carrier) = conversation.next_copy(devices)?;
            return Some((Some(device), carrier));
        }
        let held = conversation.held.front()?;
        let carrier = choose_carrier(held, reach, conversation.session_refused)?;
        Some((None, carrier))
    }

    fn start(&mut self, key: ConversationKey, reach: Reach, now: Now) {
        let Some(conversation) = self.conversations.get(&key) else {
            return;
        };
        let way = self.way_of(conversation, reach);
        let Some(conversation) = self.conversations.get_mut(&key) else {
            return;
        };
        let Some((device, carrier)) = way else {
            return match self.copies {
                Some(_) if conversation.obstacles.are_passing() => {
                    park(conversation, &self.policy.retry, now);
                }
                Some(_) => {}
                None => {
                    tracing::info!(author = %key.author,
                        "kept: no device takes a message of this form and size");
                    conversation.state = State::Parked { until: None };
                }
            };
        };
        let run = RunId(self.next_run);
        self.next_run += 1;
        conversation.state = State::Running(run);
        conversation.handed = 0;
        let started = Run {
            key: key.clone(),
            carrier,
            copies_for: device,
            claim: Claim::None,
            begun: false,
            triggered_again: false,
            is_pull: false,
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

/// Receipts, and what the server itself has to say, are not what a user fetches.
fn leaves_by_itself(held: &Held) -> bool {
    held.kind == MessageKind::Notification || held.conversation.author.user() == SYSTEM
}

/// The next message of a run that carries one device's copies: what it has or cannot take is passed over.
fn next_copy_of_run(
    conversation: &mut Conversation,
    to: &DeviceReach,
    carrier: Carrier,
) -> Option<Held> {
    while let Some(held) = conversation.held.get(conversation.handed) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::identity::Identity;
    use crate::store::request::MessageKind;

    const BOTH: Reach = Reach {
        session: true,
        message: Some(60_000),
        standalone: true,
        switch_over: 1300,
    };

    fn key(author: &str) -> ConversationKey {
        ConversationKey {
            author: Identity::new(author, "im.test"),
            conversation: "c1".into(),
        }
    }

    fn held(seq: u64, author: &str, kind: MessageKind) -> Held {
        Held {
            seq: Seq(seq),
            kind,
            conversation: key(author),
            message_id: format!("m{seq}").into(),
            length: 100,
            expires_at: UnixMillis(u64::MAX),
            marks: Box::default(),
        }
    }

    fn policy(retry: RetrySchedule) -> ReplayPolicy {
        ReplayPolicy {
            retry,
            per_device: 2,
            per_user: 2,
        }
    }

    fn user() -> ServedUser {
        let retry = RetrySchedule::new(&[Duration::from_secs(30), Duration::from_secs(300)]);
        ServedUser::new(false, policy(retry))
    }

    fn started(user: &mut ServedUser) -> Vec<(RunId, String, Carrier)> {
        std::iter::from_fn(|| user.poll_action())
            .filter_map(|action| match action {
                UserAction::Start {
                    run, key, carrier, ..
                } => Some((run, key.author.to_string(), carrier)),
                UserAction::Load { .. } | UserAction::Resume { .. } => None,
            })
            .collect()
    }

    fn take_all(user: &mut ServedUser, run: RunId) -> Vec<u64> {
        std::iter::from_fn(|| user.next_message(run))
            .map(|held| held.seq.0)
            .collect()
    }

    /// A user with these devices, each of which gets copies.
    fn copying(devices: &[(u64, Reach)]) -> ServedUser {
        let mut user = user();
        let devices = devices.iter().map(|(device, reach)| DeviceReach {
            device: *device,
            reach: *reach,
        });
        user.set_copies(Some(devices.collect()));
        user
    }

    /// The device, conversation and messages of each run, all of them confirmed.
    fn copied(user: &mut ServedUser) -> Vec<(u64, Vec<u64>)> {
        let mut all = Vec::new();
        while let Some(action) = user.poll_action() {
            let UserAction::Start {
                run, key, device, ..
            } = action
            else {
                continue;
            };
            let device = device.expect("it is for one device");
            let seqs = take_all(user, run);
            for seq in &seqs {
                user.handle_marked(&key, Seq(*seq), device);
            }
            all.push((device, seqs));
            user.handle_run_ended(run, RunEnd::Done, Now::default());
        }
        all
    }

    #[test]
    fn each_device_gets_each_message_once() {
        let now = Now::default();
        let mut user = copying(&[(7, BOTH), (8, BOTH)]);
        for seq in 1..=2 {
            let held = held(seq, "alice", MessageKind::Chat);
            user.handle_stored(held, false, false, now);
        }
        user.handle_reach(BOTH, now);
        assert_eq!(copied(&mut user), [(7, vec![1, 2]), (8, vec![1, 2])]);
        assert!(user.is_idle(), "all that is there have all");
        assert!(!user.holds_nothing(), "others may come");
        assert!(user.may_pass(&key("alice")));
        user.handle_reach(BOTH, now);
        assert!(copied(&mut user).is_empty());
        user.handle_stored(held(3, "alice", MessageKind::Chat), false, false, now);
        assert_eq!(copied(&mut user), [(7, vec![3]), (8, vec![3])]);
    }

    #[test]
    fn a_device_passes_over_what_it_cannot_take() {
        let now = Now::default();
        let small = Reach {
            session: false,
            standalone: false,
            message: Some(100),
            ..BOTH
        };
        let mut user = copying(&[(7, small)]);
        let mut large = held(1, "alice", MessageKind::Pager);
        large.length = 101;
        user.handle_stored(large, false, false, now);
        user.handle_stored(held(2, "alice", MessageKind::Pager), false, false, now);
        user.handle_reach(BOTH, now);
        assert_eq!(copied(&mut user), [(7, vec![2])]);
    }

    #[test]
    fn a_device_that_refuses_waits_while_the_others_get_theirs() {
        let mut now = Now::default();
        let mut user = copying(&[(7, BOTH), (8, BOTH)]);
        user.handle_stored(held(1, "alice", MessageKind::Chat), false, false, now);
        user.handle_reach(BOTH, now);
        let Some(UserAction::Start { run, .. }) = user.poll_action() else {
            panic!("a run");
        };
        assert_eq!(take_all(&mut user, run), [1]);
        user.handle_run_ended(run, RunEnd::Parked, now);
        assert_eq!(copied(&mut user), [(8, vec![1])]);
        now.instant = user.next_deadline().expect("a retry step");
        user.handle_timeout(now);
        assert_eq!(copied(&mut user), [(7, vec![1])]);
    }

    #[test]
    fn a_device_has_so_many_sessions_and_the_next_waits_for_its_turn() {
        let now = Now::default();
        let mut user = user();
        user.policy.per_device = 1;
        for (seq, author) in [(1, "alice"), (2, "carol")] {
            let held = held(seq, author, MessageKind::Chat);
            user.handle_stored(held, false, false, now);
        }
        user.handle_reach(BOTH, now);
        let runs = started(&mut user);
        assert!(user.claim_device(runs[0].0, 7, DeliveryId(1)));
        assert!(!user.claim_device(runs[1].0, 7, DeliveryId(2)));
        assert!(
            user.claim_device(runs[0].0, 7, DeliveryId(1)),
            "it is its own"
        );
        assert_eq!(user.poll_action(), None);
        assert!(user.claim_device(runs[0].0, 8, DeliveryId(1)));
        let resume = UserAction::Resume {
            delivery: DeliveryId(2),
        };
        assert_eq!(user.poll_action(), Some(resume));
        assert!(user.claim_device(runs[1].0, 7, DeliveryId(2)));
    }

    #[test]
    fn receipts_leave_in_their_order_across_conversations() {
        let mut user = user();
        let receipt = |seq, conversation: &str| {
            let mut held = held(seq, "bob", MessageKind::Notification);
            held.conversation.conversation = conversation.into();
            held
        };
        user.handle_storing(&receipt(1, "c1").conversation, false);
        assert!(!user.may_pass_receipt(&key("bob").author));
        for held in [receipt(1, "c1"), receipt(2, "c2"), receipt(3, "c1")] {
            user.handle_stored(held, false, false, Now::default());
        }
        assert!(!user.may_pass_receipt(&key("bob").author));
        assert!(user.may_pass_receipt(&key("carol").author));
        user.handle_reach(BOTH, Now::default());
        let mut order = Vec::new();
        while let Some((run, _, _)) = started(&mut user).pop() {
            while let Some(held) = user.next_message(run) {
                user.handle_settled(&held.conversation, held.seq);
                order.push(held.seq.0);
            }
            user.handle_run_ended(run, RunEnd::Done, Now::default());
        }
        assert_eq!(order, [1, 2, 3]);
        assert!(user.may_pass_receipt(&key("bob").author));
    }

    #[test]
    fn a_held_message_is_found_by_its_author_and_identifier() {
        let mut user = user();
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        let (alice, bob) = (key("alice").author, key("bob").author);
        assert_eq!(user.find_held(&alice, "m1"), Some((key("alice"), Seq(1))));
        assert_eq!(user.find_held(&bob, "m1"), None);
        assert_eq!(user.find_held(&alice, "m2"), None);
    }

    #[test]
    fn a_run_without_room_begins_again_soon_and_nothing_passes_it() {
        let mut user = user();
        let mut now = Now::default();
        user.handle_stored(held(1, "alice", MessageKind::Chat), false, false, now);
        user.handle_reach(BOTH, now);
        let (run, ..) = started(&mut user)[0].clone();
        user.handle_run_ended(run, RunEnd::Shortage, now);
        assert!(started(&mut user).is_empty());
        assert!(!user.may_pass(&key("alice")));
        let soon = user.next_deadline().expect("it begins again by itself");
        assert!(soon.since(now.instant) <= Duration::from_secs(1));
        now.instant = soon;
        user.handle_timeout(now);
        assert_eq!(started(&mut user).len(), 1);
    }

    #[test]
    fn a_shortage_that_does_not_end_waits_for_the_retry_step() {
        let mut user = user();
        let mut now = Now::default();
        user.handle_stored(held(1, "alice", MessageKind::Chat), false, false, now);
        user.handle_reach(BOTH, now);
        for _ in 0..100 {
            for (run, ..) in started(&mut user) {
                user.handle_run_ended(run, RunEnd::Shortage, now);
            }
            if user.may_pass(&key("alice")) {
                let until = user.next_deadline().expect("a retry step");
                return assert_eq!(until.since(now.instant), Duration::from_secs(30));
            }
            now.instant = user.next_deadline().expect("a pause");
            user.handle_timeout(now);
        }
        panic!("it is tried for ever");
    }

    #[test]
    fn of_all_conversations_one_message_is_out_at_a_time_and_the_oldest_goes_first() {
        let now = Now::default();
        let mut user = user();
        for (seq, author) in [(1, "alice"), (2, "bob"), (3, "alice"), (4, "bob")] {
            user.handle_stored(held(seq, author, MessageKind::Pager), false, false, now);
        }
        user.handle_reach(BOTH, now);
        let mut order = Vec::new();
        loop {
            let runs = started(&mut user);
            let [(run, _, Carrier::Message)] = &runs[..] else {
                assert!(runs.is_empty(), "one at a time");
                break;
            };
            while let Some(next) = user.next_message(*run) {
                order.push(next.seq.0);
                user.handle_settled(&next.conversation, next.seq);
            }
            user.handle_run_ended(*run, RunEnd::Done, now);
        }
        assert_eq!(order, [1, 2, 3, 4]);
    }

    #[test]
    fn a_large_message_is_alone_in_its_session() {
        let now = Now::default();
        let mut user = user();
        for seq in [1, 2] {
            user.handle_stored(held(seq, "alice", MessageKind::Large), false, false, now);
        }
        user.handle_reach(BOTH, now);
        for seq in [1, 2] {
            let (run, _, carrier) = started(&mut user)[0].clone();
            assert_eq!(carrier, Carrier::Standalone);
            assert_eq!(user.next_message(run).map(|held| held.seq.0), Some(seq));
            user.handle_settled(&key("alice"), Seq(seq));
            assert_eq!(user.next_message(run), None);
            user.handle_run_ended(run, RunEnd::Done, now);
        }
        assert!(started(&mut user).is_empty());
    }

    #[test]
    fn what_was_kept_while_away_is_run_at_registration_oldest_first() {
        let mut user = user();
        for seq in 1..=3 {
            user.handle_stored(
                held(seq, "alice", MessageKind::Chat),
                false,
                false,
                Now::default(),
            );
        }
        assert!(started(&mut user).is_empty());
        user.handle_reach(BOTH, Now::default());
        let runs = started(&mut user);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].2, Carrier::Session);
        assert_eq!(take_all(&mut user, runs[0].0), [1, 2, 3]);
    }

    #[test]
    fn a_message_never_overtakes_one_that_is_being_stored_or_replayed() {
        let mut user = user();
        user.handle_reach(BOTH, Now::default());
        assert!(user.may_pass(&key("alice")));
        user.handle_storing(&key("alice"), false);
        assert!(!user.may_pass(&key("alice")));
        assert!(user.may_pass(&key("carol")));
        user.handle_stored(
            held(1, "alice", MessageKind::Pager),
            false,
            false,
            Now::default(),
        );
        let runs = started(&mut user);
        assert_eq!(take_all(&mut user, runs[0].0), [1]);
        assert!(!user.may_pass(&key("alice")));
        user.handle_settled(&key("alice"), Seq(1));
        user.handle_run_ended(runs[0].0, RunEnd::Done, Now::default());
        assert!(user.may_pass(&key("alice")));
        assert!(user.is_idle());
    }

    #[test]
    fn a_message_never_overtakes_one_a_device_may_still_take() {
        let pager = |seq| held(seq, "alice", MessageKind::Pager);
        let mut user = user();
        user.handle_reach(BOTH, Now::default());
        for seq in [1, 2] {
            user.handle_storing(&key("alice"), false);
            user.handle_trying(&key("alice"), Seq(seq));
        }
        user.handle_storing(&key("alice"), false);
        user.handle_stored(pager(3), false, false, Now::default());
        assert!(started(&mut user).is_empty());
        user.handle_settled(&key("alice"), Seq(1));
        user.handle_not_stored(&key("alice"), false, Now::default());
        assert!(started(&mut user).is_empty());
        user.handle_reach(BOTH, Now::default());
        user.handle_stored(pager(2), false, true, Now::default());
        let runs = started(&mut user);
        assert_eq!(take_all(&mut user, runs[0].0), [2, 3]);
    }

    #[test]
    fn a_refused_run_is_parked_and_blocks_nothing_until_retry_or_registration() {
        let mut user = user();
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        user.handle_stored(
            held(2, "carol", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        user.handle_reach(BOTH, Now::default());
        let runs = started(&mut user);
        assert_eq!(runs.len(), 2);
        assert_eq!(take_all(&mut user, runs[0].0), [1]);
        user.handle_run_ended(runs[0].0, RunEnd::Parked, Now::default());
        assert!(started(&mut user).is_empty());
        assert!(user.may_pass(&key("alice")));
        let after = Now::default().plus(Duration::from_secs(30));
        assert_eq!(user.next_deadline(), Some(after.instant));
        user.handle_timeout(after);
        let again = started(&mut user);
        assert_eq!(take_all(&mut user, again[0].0), [1]);
        user.handle_run_ended(again[0].0, RunEnd::Parked, after);
        assert_eq!(
            user.next_deadline(),
            Some(after.plus(Duration::from_secs(300)).instant)
        );
        user.handle_reach(BOTH, after);
        assert_eq!(started(&mut user).len(), 1);
    }

    #[test]
    fn a_declined_run_waits_for_the_next_registration() {
        let mut user = user();
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        user.handle_reach(BOTH, Now::default());
        let run = started(&mut user)[0].0;
        user.handle_run_ended(run, RunEnd::Declined, Now::default());
        assert_eq!(user.next_deadline(), None);
        user.handle_reach(BOTH, Now::default());
        assert_eq!(started(&mut user).len(), 1);
    }

    #[test]
    fn a_trigger_during_a_run_is_remembered() {
        let mut user = user();
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        user.handle_reach(BOTH, Now::default());
        let run = started(&mut user)[0].0;
        user.handle_reach(BOTH, Now::default());
        assert!(started(&mut user).is_empty());
        user.handle_run_ended(run, RunEnd::Parked, Now::default());
        assert_eq!(started(&mut user).len(), 1);
    }

    #[test]
    fn mixed_kinds_leave_as_alternating_runs_in_order() {
        let mut user = user();
        let kinds = [MessageKind::Chat, MessageKind::Pager, MessageKind::Chat];
        for (seq, kind) in (1..).zip(kinds) {
            user.handle_stored(held(seq, "alice", kind), false, false, Now::default());
        }
        user.handle_reach(BOTH, Now::default());
        for (seq, carrier) in (1..).zip([Carrier::Session, Carrier::Message, Carrier::Session]) {
            let runs = started(&mut user);
            assert_eq!((runs.len(), runs[0].2), (1, carrier));
            assert_eq!(take_all(&mut user, runs[0].0), [seq]);
            user.handle_settled(&key("alice"), Seq(seq));
            user.handle_run_ended(runs[0].0, RunEnd::Done, Now::default());
        }
        assert!(user.is_idle());
    }

    #[test]
    fn a_refused_session_leaves_by_message_if_it_fits() {
        let mut user = user();
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        user.handle_reach(BOTH, Now::default());
        let run = started(&mut user)[0].0;
        user.handle_run_ended(run, RunEnd::OtherWay, Now::default());
        let runs = started(&mut user);
        assert_eq!(runs[0].2, Carrier::Message);
    }

    #[test]
    fn what_no_device_can_take_waits_without_a_retry() {
        let mut user = user();
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        let small = Reach {
            session: false,
            message: Some(10),
            standalone: false,
            switch_over: 10,
        };
        user.handle_reach(small, Now::default());
        assert!(started(&mut user).is_empty());
        assert_eq!(user.next_deadline(), None);
        user.handle_reach(BOTH, Now::default());
        assert_eq!(started(&mut user).len(), 1);
    }

    #[test]
    fn a_message_stored_while_the_queue_is_loading_is_taken_once() {
        let retry = RetrySchedule::new(&[]);
        let mut user = ServedUser::new(true, policy(retry));
        user.handle_reach(BOTH, Now::default());
        assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
        assert!(!user.may_pass(&key("alice")));
        user.handle_storing(&key("alice"), false);
        user.handle_stored(
            held(2, "alice", MessageKind::Pager),
            false,
            false,
            Now::default(),
        );
        user.handle_loaded(
            vec![held(1, "alice", MessageKind::Pager)],
            false,
            Now::default(),
        );
        assert_eq!(
            user.poll_action(),
            Some(UserAction::Load {
                after: Some(Seq(1))
            })
        );
        user.handle_loaded(
            vec![held(2, "alice", MessageKind::Pager)],
            false,
            Now::default(),
        );
        let run = started(&mut user)[0].0;
        assert_eq!(take_all(&mut user, run), [1, 2]);
    }

    #[test]
    fn a_page_that_ran_ahead_of_the_answer_counts_once() {
        let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
        user.handle_reach(BOTH, Now::default());
        user.handle_storing(&key("alice"), false);
        user.handle_loaded(
            vec![held(1, "alice", MessageKind::Pager)],
            false,
            Now::default(),
        );
        let run = started(&mut user)[0].0;
        assert_eq!(take_all(&mut user, run), [1]);
        user.handle_settled(&key("alice"), Seq(1));
        user.handle_stored(
            held(1, "alice", MessageKind::Pager),
            false,
            false,
            Now::default(),
        );
        assert_eq!(user.next_message(run), None);
    }

    #[test]
    fn messages_taken_by_a_broken_run_come_again_except_the_confirmed() {
        let mut user = user();
        for seq in 1..=3 {
            user.handle_stored(
                held(seq, "alice", MessageKind::Chat),
                false,
                false,
                Now::default(),
            );
        }
        user.handle_reach(BOTH, Now::default());
        let run = started(&mut user)[0].0;
        assert_eq!(take_all(&mut user, run), [1, 2, 3]);
        user.handle_settled(&key("alice"), Seq(1));
        user.handle_run_ended(run, RunEnd::Parked, Now::default());
        user.handle_reach(BOTH, Now::default());
        let run = started(&mut user)[0].0;
        assert_eq!(take_all(&mut user, run), [2, 3]);
    }

    #[test]
    fn a_long_message_is_not_overtaken_on_its_way_to_the_disk() {
        let mut user = user();
        user.handle_reach(BOTH, Now::default());
        user.handle_storing(&key("alice"), true);
        user.handle_storing(&key("alice"), false);
        user.handle_stored(
            held(2, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
        assert!(started(&mut user).is_empty());
        user.handle_stored(
            held(1, "alice", MessageKind::Chat),
            true,
            false,
            Now::default(),
        );
        let run = started(&mut user)[0].0;
        assert_eq!(take_all(&mut user, run), [1, 2]);
    }

    #[test]
    fn the_queue_of_an_absent_user_is_not_read_and_never_read_twice() {
        let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
        user.handle_storing(&key("alice"), false);
        let stored = held(2, "alice", MessageKind::Chat);
        user.handle_stored(stored, false, false, Now::default());
        assert_eq!(user.poll_action(), None);
        assert!(user.is_idle());
        user.handle_reach(BOTH, Now::default());
        assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
        user.handle_unreachable();
        assert!(!user.is_idle(), "the answer must still find it");
    }
    fn pulling(held: Vec<Held>) -> ServedUser {
        let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
        user.set_pull(true);
        user.handle_reach(BOTH, Now::default());
        assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
        user.handle_loaded(held, false, Now::default());
        user
    }

    #[test]
    fn what_a_user_fetches_does_not_leave_by_itself_but_receipts_do() {
        let mut user = pulling(vec![
            held(1, "alice", MessageKind::Chat),
            held(2, "carol", MessageKind::Notification),
        ]);
        assert_eq!(user.news_of_waiting(), Some(1));
        assert_eq!(user.news_of_waiting(), None, "he knows");
        let run = started(&mut user)[0].0;
        assert_eq!(take_all(&mut user, run), [2]);
        assert!(started(&mut user).is_empty());
    }

    #[test]
    fn a_fetch_has_all_conversations_in_order_and_no_run_has_them_too() {
        let mut user = pulling(vec![
            held(1, "alice", MessageKind::Chat),
            held(2, "carol", MessageKind::Pager),
            held(3, "alice", MessageKind::Chat),
        ]);
        let (runs, queue) = user.begin_pull(&Wanted::Everything).expect("three wait");
        let order: Vec<u64> = queue.iter().map(|held| held.seq.0).collect();
        assert_eq!(order, [1, 2, 3]);
        assert!(user.begin_pull(&Wanted::Everything).is_none());
        assert!(!user.may_pass(&key("alice")));
        assert!(user.is_in_flight(&key("alice"), Seq(3)));
        user.handle_settled(&key("alice"), Seq(1));
        user.set_pull(false);
        for run in runs {
            user.handle_run_ended(run, RunEnd::Done, Now::default());
        }
        let (_, rest) = user
            .begin_pull(&Wanted::Messages(vec!["m3".into()]))
            .unwrap_or_default();
        assert!(rest.is_empty(), "a run has it again");
        assert_eq!(started(&mut user).len(), 2);
    }
}
