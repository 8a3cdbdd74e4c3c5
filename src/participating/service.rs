//! The participating function of one shard: the machines of its served users, what is under way for
//! them, and who waits for which answer. Pure; the shard's shell performs what comes out.
//!
//! The other files of this folder add to [`Service`] what their names say: `pager` takes MESSAGE,
//! `chat` INVITE, `bridge` the MSRP of a chat, `message_run` and `session_run` deliver what was kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::config::{EffectiveSettings, Traffic};
use crate::identity::Identity;
use crate::limits::load::Load;
use crate::limits::memory::Account;
use crate::limits::meters::Meters;
use crate::limits::sources::Sources;
use crate::metrics::ShardMetrics;
use crate::msrp::event::InboundId;
use crate::participating::arrival::Lifetimes;
use crate::participating::chat::{Chat, ChatId, Side};
use crate::participating::confirmed::Search;
use crate::participating::custody::Custody;
use crate::participating::delivery::{Delivery, DeliveryId};
use crate::participating::dialogs::{DialogUse, Dialogs};
use crate::participating::expiry::ExpiryClock;
use crate::participating::hidden::HiddenAuthors;
use crate::participating::internal::{InternalMessage, Origin};
use crate::participating::media::{Media, MediaAction, MediaId};
use crate::participating::next_hop::Unresolved;
use crate::participating::of_users::OfUsers;
use crate::participating::operator::{Answer, Question, Ticket};
use crate::participating::pager::{Pager, PagerId};
use crate::participating::receipt_lane::{ReceiptDesk, StoringReceipt};
use crate::participating::relay::{Relay, RelayId};
use crate::participating::replay_line::ReplayLine;
use crate::participating::served_user::{ReplayPolicy, ServedUser};
use crate::participating::spool::BodySize;
use crate::participating::told::Told;
use crate::registrar::{Directory, Registrar};
use crate::sip::endpoint::Endpoint;
use crate::sip::session_timer;
use crate::store::request::{Body, DeferredMessage, Seq, SpoolId, StoreRequest};
use crate::token::Tokens;

/// What the participating function goes by; fixed while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This shard.
    pub shard: u16,
    /// All shards.
    pub shards: u16,
    /// The home domain.
    pub domain: String,
    /// Whether messages for people who are away are kept at all.
    pub deferral: bool,
    /// How long kept messages live.
    pub lifetimes: Lifetimes,
    /// When a parked replay is offered again, and how many run at once.
    pub replays: ReplayPolicy,
    /// A MESSAGE without a final answer by then is kept and answered 202 (decision 2).
    pub answer_within: Duration,
    /// How long a replay INVITE may ring before it is cancelled (decision 17).
    pub ring: Duration,
    /// A device silent for so long on MSRP turns a live message into custody (decision 1).
    pub custody_after: Duration,
    /// An MSRP session without traffic ends after this (decision 17).
    pub idle: Duration,
    /// What we want of session timers (RFC 4028).
    pub timer: session_timer::Policy,
    /// Timer T1.
    pub t1: Duration,
    /// The largest body of a SIP MESSAGE, in octets.
    pub largest_message: u64,
    /// A kept standalone message over this many octets leaves in a session of its own.
    pub switch_over: u64,
    /// Chat sessions, deliveries, relayed requests and MESSAGEs under way, each.
    pub most_under_way: usize,
    /// Messages whose receipts are kept track of.
    pub most_receipts: usize,
    /// Octets of messages on their way through sessions that may stay in memory, of all shards together.
    pub spools: u64,
    /// How long work may wait before new work is refused.
    pub queue_delay: Duration,
    /// Whether an envelope may name nobody but its author, where users prove who they are.
    pub checks_names: bool,
    /// Users to whom waiting messages are replayed at the same time.
    pub replays_at_once: usize,
    /// Users whose replay begins within a second.
    pub replays_per_second: u32,
}

/// Which of our doings a SIP answer belongs to.
#[derive(Clone, Debug)]
pub enum Usage {
    /// A MESSAGE on its way to one of the recipient's contacts, and the number of that device.
    Pager(PagerId, u64),
    /// The MESSAGE or INVITE of a run.
    Delivery(DeliveryId),
    /// An INVITE on its way to one of the recipient's contacts.
    Chat(ChatId, usize),
    /// A relayed request's branch.
    Relay(RelayId, usize),
    /// A request inside a dialog of ours, by its CSeq number.
    Leg(DialogUse, u32),
    /// Nobody waits: a BYE, say.
    Nobody,
}

/// Who waits for an answer of the store.
#[derive(Clone, Debug)]
pub enum Waiter {
    /// A MESSAGE being kept.
    Pager(PagerId),
    /// A message of a live or kept chat.
    Transit(ChatId, Side, InboundId),
    /// A chunk of it that must be durable before it is answered.
    Chunk(ChatId, Side, InboundId),
    /// A long body that must be durable before another shard takes the message.
    HandOver(ChatId, Side, InboundId, SpoolId),
    /// A user's queue being read, from behind this place.
    Load(Identity, Option<Seq>),
    /// A message of a run, or a piece of it.
    Delivery(DeliveryId, Seq),
    /// What has expired.
    Due,
    /// What the operator asked.
    Operator(Ticket, Question),
    /// Of a full queue that makes room: the oldest message that may go.
    Oldest(Identity),
    /// The message that goes, and whether some device has got it.
    Evicted(Identity, Seq, bool),
    /// A message that stood in line for that room, until then at most.
    InLine(Identity, Box<Waiter>, Instant),
    /// A message accepted from another part or shard.
    Internal(Arc<DeferredMessage>, BodySize, Option<Origin>),
    /// A receipt for an author of this shard.
    Receipt(Box<StoringReceipt>),
    /// A message that its recipient has confirmed is looked for.
    Search(Box<Search>),
    /// Whether anything is left for a user without a machine; the number tells questions apart.
    Left(Identity, u64),
    /// Whether what his devices have confirmed is durable; so does that number.
    Flushed(Identity, u64),
}

/// See the module's text.
pub struct Service {
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<ShardMetrics>,
    /// How much each source gets.
    pub(crate) sources: Arc<Sources>,
    /// Where the memory in use is written down.
    pub(crate) memory: Account,
    pub(super) footprint: super::footprint::Footprint,
    /// How far this shard keeps up.
    pub load: Load,
    pub(super) overload: super::overload::Overload,
    /// Users who wait until what waits for them is offered.
    pub(super) line: ReplayLine,
    pub(crate) tokens: Tokens,
    pub(crate) sip: Endpoint<Usage>,
    pub(crate) media: Media,
    pub(crate) registrar: Registrar,
    /// Who the users are and what they want.
    pub(crate) directory: Arc<Directory>,
    pub(crate) custody: Custody<Waiter>,
    /// What the operator lets through.
    pub(super) traffic: Traffic,
    /// What all shards measure together.
    pub(crate) meters: Arc<Meters>,
    /// Users who may receive again and have not been offered what waits for them.
    pub(super) reoffers: VecDeque<Identity>,
    /// Errors that were not told, since it was logged last.
    pub(super) suppressed: super::suppression::Suppressed,
    pub(super) users: HashMap<Identity, ServedUser, foldhash::fast::RandomState>,
    /// Users of this shard for whom messages wait in the store while no machine exists.
    pub(super) waiting: HashSet<Identity, foldhash::fast::RandomState>,
    /// Those of them whose last message may have left, with the number of the question to the store.
    pub(super) doubtful: BTreeMap<Identity, Option<u64>>,
    pub(super) pagers: HashMap<PagerId, Pager, foldhash::fast::RandomState>,
    pub(super) pager_deadlines: VecDeque<(Instant, PagerId)>,
    pub(super) receipts: ReceiptDesk,
    pub(super) hidden: HiddenAuthors,
    /// By callee.
    pub(super) chats: OfUsers<ChatId, Chat>,
    /// Chats whose INVITE carries a message; some may be over.
    pub(super) firsts: Vec<ChatId>,
    /// Messages of INVITEs that are kept while a device may still take them.
    pub(super) late_firsts: super::late_first::LateFirsts,
    pub(super) deliveries: OfUsers<DeliveryId, Delivery>,
    pub(super) relays: HashMap<RelayId, Relay, foldhash::fast::RandomState>,
    /// Requests that wait for the address of their next hop, and the names to be looked up.
    pub(super) look_ups: HashMap<u64, Unresolved, foldhash::fast::RandomState>,
    pub(super) questions: VecDeque<(u64, String, u16)>,
    pub(super) dialogs: Dialogs,
    pub(super) user_deadlines: BTreeSet<(Instant, Identity)>,
    pub(super) postponed_loads: VecDeque<(Identity, Option<Seq>)>,
    /// Users of whom the store is to be asked whether what they confirmed is durable.
    pub(super) postponed_flushes: BTreeSet<Identity>,
    /// Users whose machines have something to say, once what runs now is done.
    pub(super) restless: VecDeque<Identity>,
    pub(super) expiry: ExpiryClock,
    pub(super) next_expiry: Instant,
    pub(super) next_sweep: Instant,
    pub(super) due_in_flight: HashMap<(Identity, Seq), Arc<DeferredMessage>>,
    pub(super) told: Told,
    /// Undelivered messages on their way out of the store; with a time, once they have been settled.
    pub(super) expiring: HashMap<(Identity, Seq), Option<Instant>>,
    /// Those whose authors are being told, by the number of the question.
    pub(super) telling: HashMap<u64, super::disposition::Leaving>,
    /// Those whose authors could not be told: they are told again.
    pub(super) untold: Vec<super::disposition::Leaving>,
    /// Messages that wait for room in full queues.
    pub(super) crowds: super::eviction::Crowds,
    pub(super) forwards: VecDeque<(u16, Box<InternalMessage>)>,
    /// Messages another shard is storing for a chat of this one, and the spool a body lies in.
    pub(super) foreign: HashMap<u64, (ChatId, Side, InboundId, Option<SpoolId>)>,
    /// What was said about this shard's users to other shards' chats.
    pub(super) grants: super::grants::Grants,
    /// Sessions of legs that hung up while something of theirs was being stored.
    pub(super) parted: Vec<(ChatId, Side, MediaId)>,
    /// Chunks that arrived and may not have ended their message.
    pub(super) chunks_to_settle: Vec<(ChatId, Side, InboundId)>,
    /// When the present event came; the registrar's bindings are judged by it.
    pub(super) time: Instant,
    /// Fetches that wait until the user's queue has been read.
    pub(super) fetches: HashMap<Identity, Vec<super::pull::Fetch>, foldhash::fast::RandomState>,
    /// Revocations that wait for the same.
    pub(super) revocations:
        HashMap<Identity, Vec<super::revocation::Revocation>, foldhash::fast::RandomState>,
    /// Of which attempts to reach them users have been told.
    pub(super) attempts: super::admission::Attempts,
    /// What was dropped and is still to be answered.
    pub(super) silences: super::admission::Silences,
    pub(super) recent: super::recent::RecentlyAccepted,
    /// What was read together with messages that left by MESSAGE.
    pub(super) ahead: super::read_ahead::ReadAhead,
    pub(super) last_number: u64,
    pub(super) draining: bool,
    /// It has been said that everything has ended ([`Self::take_nothing_more`]).
    pub(super) has_drained: bool,
    /// To the operator.
    pub(super) answers: VecDeque<(Ticket, Answer)>,
}

/// What a service is built from.
pub struct Parts {
    /// What it goes by.
    pub settings: Settings,
    /// What it counts into.
    pub metrics: Arc<ShardMetrics>,
    /// How much each source gets.
    pub sources: Arc<Sources>,
    /// Where it writes down what memory it uses.
    pub memory: Account,
    /// Randomness.
    pub tokens: Tokens,
    /// Its SIP user agent core.
    pub sip: Endpoint<Usage>,
    /// Its MSRP endpoint.
    pub media: Media,
    /// The bindings of its users.
    pub registrar: Registrar,
    /// Who the users are and what they want.
    pub directory: Arc<Directory>,
    /// Its way into the store.
    pub custody: Custody<Waiter>,
    /// What the operator lets through.
    pub traffic: Traffic,
    /// What all shards measure together.
    pub meters: Arc<Meters>,
    /// Users for whom messages wait.
    pub waiting: Vec<Identity>,
    /// What was accepted just before a restart: duplicate key and place.
    pub recent: Vec<(u128, Seq)>,
}

impl Service {
    /// A service at work from `now` on.
    pub fn new(parts: Parts, now: Now) -> Self {
        let mut recent = super::recent::RecentlyAccepted::default();
        for (key, seq) in parts.recent {
            recent.add(key, seq, now);
        }
        let (most, queue_delay) = (parts.settings.most_receipts, parts.settings.queue_delay);
        let settings = &parts.settings;
        let line = ReplayLine::new(settings.replays_at_once, settings.replays_per_second);
        let (receipts, hidden) = (ReceiptDesk::new(most), HiddenAuthors::new(most));
        Self {
            settings: parts.settings,
            metrics: parts.metrics,
            sources: parts.sources,
            footprint: super::footprint::Footprint::new(&parts.memory),
            memory: parts.memory,
            load: Load::new(queue_delay),
            overload: super::overload::Overload::default(),
            line,
            tokens: parts.tokens,
            sip: parts.sip,
            media: parts.media,
            registrar: parts.registrar,
            directory: parts.directory,
            custody: parts.custody,
            traffic: parts.traffic,
            meters: parts.meters,
            ahead: super::read_ahead::ReadAhead::default(),
            reoffers: VecDeque::new(),
            suppressed: super::suppression::Suppressed::default(),
            users: HashMap::default(),
            waiting: parts.waiting.into_iter().collect(),
            doubtful: BTreeMap::new(),
            pagers: HashMap::default(),
            pager_deadlines: VecDeque::new(),
            receipts,
            hidden,
            chats: OfUsers::default(),
            firsts: Vec::new(),
            late_firsts: super::late_first::LateFirsts::default(),
            deliveries: OfUsers::default(),
            relays: HashMap::default(),
            look_ups: HashMap::default(),
            questions: VecDeque::new(),
            dialogs: Dialogs::default(),
            user_deadlines: BTreeSet::new(),
            postponed_loads: VecDeque::new(),
            postponed_flushes: BTreeSet::new(),
            restless: VecDeque::new(),
            expiry: ExpiryClock::new(now),
            next_expiry: now.instant,
            next_sweep: now.instant,
            due_in_flight: HashMap::default(),
            told: Told::default(),
            expiring: HashMap::default(),
            telling: HashMap::default(),
            untold: Vec::new(),
            crowds: HashMap::default(),
            forwards: VecDeque::new(),
            foreign: HashMap::default(),
            grants: super::grants::Grants::default(),
            parted: Vec::new(),
            chunks_to_settle: Vec::new(),
            time: now.instant,
            fetches: HashMap::default(),
            revocations: HashMap::default(),
            attempts: super::admission::Attempts::default(),
            silences: super::admission::Silences::new(),
            recent,
            last_number: 0,
            draining: false,
            has_drained: false,
            answers: VecDeque::new(),
        }
    }

    /// After a restart: users with bindings are offered what waits for them.
    pub fn resume(&mut self, now: Now) {
        let mut reachable: Vec<Identity> = self.waiting.iter().cloned().collect();
        reachable.retain(|user| self.reach(user).is_some());
        reachable.sort();
        for user in reachable {
            self.handle_registration(&user, now);
        }
    }

    /// A number never used before by this service.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Whether this identity is a user of the home domain.
    pub(crate) fn is_local(&self, identity: &Identity) -> bool {
        identity.host().eq_ignore_ascii_case(&self.settings.domain)
    }

    /// What a user wants; by default what `[users]` says.
    pub fn settings_of(&self, user: &Identity) -> &EffectiveSettings {
        self.directory.settings(user)
    }

    /// A request to the store that has no answer.
    pub fn tell_store(&mut self, request: StoreRequest) {
        self.custody.tell(request);
    }

    /// What to hand to the store.
    pub fn poll_store(&mut self) -> Option<StoreRequest> {
        self.custody.poll_request()
    }

    /// What to do on the MSRP connections.
    pub fn poll_media(&mut self) -> Option<MediaAction> {
        self.media.poll_action()
    }

    /// A message from another shard, or from another part of this one.
    pub fn handle_internal(&mut self, message: InternalMessage, now: Now) {
        match message {
            InternalMessage::Accept {
                message,
                body,
                origin,
            } => self.accept(message, body, origin, now),
            InternalMessage::MayPass { user, key, chat } => self.give_grant(user, key, chat),
            InternalMessage::Pass { number, may_pass } => self.handle_pass(number, may_pass),
            InternalMessage::PassOver { user, chat } => self.take_grant_back(&user, chat),
            InternalMessage::Accepted { number, durable } => {
                if !self.handle_author_told(number, durable, now) {
                    self.handle_accepted(number, durable, now);
                }
            }
            InternalMessage::Sent(sent) => self.handle_sent(&sent, now),
            InternalMessage::Unnamed(sent) => self.hidden.sent(&sent, now.wall),
            InternalMessage::Receipt(handed) => self.handle_handed_receipt(handed, now),
            InternalMessage::Ask(receipt, origin) => self.handle_ask(receipt, origin, now),
            InternalMessage::TakenBack(receipt) => self.receipts.table.not_heard(&receipt),
            InternalMessage::Receipted { number, outcome } => {
                self.handle_receipted(number, outcome, now);
            }
            InternalMessage::Confirmed(message) => self.handle_confirmed(*message, now),
        }
        self.run_restless(now);
    }

    fn accept(
        &mut self,
        message: Arc<DeferredMessage>,
        body: Body,
        origin: Option<Origin>,
        now: Now,
    ) {
        let waiter = Waiter::Internal(message.clone(), BodySize::of(&body), origin);
        if !self.begin_custody(&message, body, waiter, now) {
            tracing::warn!(recipient = %message.recipient, "no room to accept a message");
            self.answer_origin(origin, false);
        }
    }

    pub(super) fn answer_origin(&mut self, origin: Option<Origin>, durable: bool) {
        let Some(Origin { shard, number }) = origin else {
            return;
        };
        let answer = InternalMessage::Accepted { number, durable };
        self.forwards.push_back((shard, Box::new(answer)));
    }

    /// Sends a message to the shard of its recipient.
    pub(super) fn forward(&mut self, message: InternalMessage) {
        if let InternalMessage::Accept { message: inner, .. } = &message {
            let shard = crate::identity::shard_of(&inner.recipient, self.settings.shards);
            self.forwards.push_back((shard, Box::new(message)));
        }
    }

    /// The next message for another shard; those for this one are taken in on the way.
    pub fn poll_forward(&mut self, now: Now) -> Option<(u16, Box<InternalMessage>)> {
        while let Some((shard, message)) = self.forwards.pop_front() {
            if shard != self.settings.shard {
                return Some((shard, message));
            }
            self.handle_internal(*message, now);
        }
        None
    }

    /// A machine may have something to say; it is asked when the present work is done.
    pub(super) fn run_user_later(&mut self, user: &Identity) {
        self.restless.push_back(user.clone());
    }

    pub(super) fn run_restless(&mut self, now: Now) {
        while let Some(user) = self.restless.pop_front() {
            self.run_user(&user, now);
        }
    }
}
