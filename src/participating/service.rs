//! The participating function of one shard: the machines of its served users, what is under way for
//! them, and who waits for which answer. Pure; the shard's shell performs what comes out.
//!
//! The other files of this folder add to [`Service`] what their names say: `pager` takes MESSAGE,
//! `chat` INVITE, `bridge` the MSRP of a chat, `message_run` and `session_run` deliver what was kept.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::msrp::event::InboundId;
use crate::participating::arrival::Lifetimes;
use crate::participating::chat::{Chat, ChatId, Side};
use crate::participating::custody::{Custody, CustodyEvent};
use crate::participating::delivery::{Delivery, DeliveryId};
use crate::participating::expiry::ExpiryClock;
use crate::participating::internal::{InternalMessage, Origin};
use crate::participating::media::{AttemptId, Media, MediaAction, MediaId, MediaUse};
use crate::participating::next_hop::Unresolved;
use crate::participating::pager::{Pager, PagerId};
use crate::participating::relay::{Relay, RelayId};
use crate::participating::served_user::{RetrySchedule, ServedUser};
use crate::participating::spool::BodySize;
use crate::registrar::Registrar;
use crate::sip::endpoint::{Endpoint, EndpointEvent};
use crate::sip::message::Message;
use crate::sip::transaction::GoneReason;
use crate::sip::transport::flow::{ConnectionId, Flow};
use crate::store::request::{Body, DeferredMessage, Refusal, Seq, StoreEvent, StoreRequest};
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
    /// When a parked replay is offered again.
    pub retry: RetrySchedule,
    /// A MESSAGE without a final answer by then is kept and answered 202 (decision 2).
    pub answer_within: Duration,
    /// How long a replay INVITE may ring before it is cancelled (decision 17).
    pub ring: Duration,
    /// A device silent for so long on MSRP turns a live message into custody (decision 1).
    pub custody_after: Duration,
    /// An MSRP session without traffic ends after this (decision 17).
    pub idle: Duration,
    /// The largest body of a SIP MESSAGE, in octets.
    pub largest_message: u64,
    /// Chat sessions, deliveries, relayed requests and MESSAGEs under way, each.
    pub most_under_way: usize,
}

/// Which of our doings a SIP answer belongs to.
#[derive(Clone, Debug)]
pub enum Usage {
    /// A MESSAGE on its way to one of the recipient's contacts.
    Pager(PagerId),
    /// The MESSAGE or INVITE of a run.
    Delivery(DeliveryId),
    /// An INVITE on its way to one of the recipient's contacts.
    Chat(ChatId, usize),
    /// A relayed request's branch.
    Relay(RelayId, usize),
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
    /// A user's queue being read.
    Load(Identity),
    /// A message of a run, or a piece of it.
    Delivery(DeliveryId, Seq),
    /// What has expired.
    Due,
    /// A message accepted from another part or shard.
    Internal(Box<DeferredMessage>, BodySize, Option<Origin>),
}

/// How often expired messages are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the time limits of sessions are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(200);

/// See the module's text.
pub struct Service {
    pub(crate) settings: Settings,
    pub(crate) tokens: Tokens,
    pub(crate) sip: Endpoint<Usage>,
    pub(crate) media: Media,
    pub(crate) registrar: Registrar,
    pub(crate) custody: Custody<Waiter>,
    pub(super) users: HashMap<Identity, ServedUser, foldhash::fast::RandomState>,
    /// Users of this shard for whom messages wait in the store while no machine exists.
    pub(super) waiting: HashSet<Identity, foldhash::fast::RandomState>,
    pub(super) pagers: HashMap<PagerId, Pager, foldhash::fast::RandomState>,
    pub(super) pager_deadlines: VecDeque<(Instant, PagerId)>,
    pub(super) chats: HashMap<ChatId, Chat, foldhash::fast::RandomState>,
    pub(super) deliveries: HashMap<DeliveryId, Delivery, foldhash::fast::RandomState>,
    pub(super) relays: HashMap<RelayId, Relay, foldhash::fast::RandomState>,
    /// Requests that wait for the address of their next hop, and the names to be looked up.
    pub(super) look_ups: HashMap<u64, Unresolved, foldhash::fast::RandomState>,
    pub(super) questions: VecDeque<(u64, String, u16)>,
    pub(super) dialogs: super::dialogs::Dialogs,
    pub(super) user_deadlines: BTreeSet<(Instant, Identity)>,
    pub(super) postponed_loads: VecDeque<(Identity, Option<Seq>)>,
    /// Users whose machines have something to say, once what runs now is done.
    pub(super) restless: VecDeque<Identity>,
    expiry: ExpiryClock,
    next_expiry: Instant,
    next_sweep: Instant,
    pub(super) due_in_flight: HashMap<(Identity, Seq), Box<DeferredMessage>>,
    /// Expired messages on their way out of the store; with a time, once they have been settled.
    pub(super) expiring: HashMap<(Identity, Seq), Option<Instant>>,
    /// Expired messages whose authors are being told, by the number of the question.
    pub(super) telling: HashMap<u64, (Identity, Seq)>,
    forwards: VecDeque<(u16, Box<InternalMessage>)>,
    pub(super) foreign: HashMap<u64, (ChatId, Side, InboundId)>,
    /// Sessions of legs that hung up while something of theirs was being stored.
    pub(super) parted: Vec<(ChatId, Side, MediaId)>,
    /// Chunks that arrived and may not have ended their message.
    pub(super) chunks_to_settle: Vec<(ChatId, Side, InboundId)>,
    /// When the present event came; the registrar's bindings are judged by it.
    pub(super) time: Instant,
    pub(super) recent: super::recent::RecentlyAccepted,
    last_number: u64,
    pub(super) draining: bool,
}

/// What a service is built from.
pub struct Parts {
    /// What it goes by.
    pub settings: Settings,
    /// Randomness.
    pub tokens: Tokens,
    /// Its SIP user agent core.
    pub sip: Endpoint<Usage>,
    /// Its MSRP endpoint.
    pub media: Media,
    /// The bindings of its users.
    pub registrar: Registrar,
    /// Its way into the store.
    pub custody: Custody<Waiter>,
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
        Self {
            settings: parts.settings,
            tokens: parts.tokens,
            sip: parts.sip,
            media: parts.media,
            registrar: parts.registrar,
            custody: parts.custody,
            users: HashMap::default(),
            waiting: parts.waiting.into_iter().collect(),
            pagers: HashMap::default(),
            pager_deadlines: VecDeque::new(),
            chats: HashMap::default(),
            deliveries: HashMap::default(),
            relays: HashMap::default(),
            look_ups: HashMap::default(),
            questions: VecDeque::new(),
            dialogs: super::dialogs::Dialogs::default(),
            user_deadlines: BTreeSet::new(),
            postponed_loads: VecDeque::new(),
            restless: VecDeque::new(),
            expiry: ExpiryClock::new(now),
            next_expiry: now.instant,
            next_sweep: now.instant,
            due_in_flight: HashMap::default(),
            expiring: HashMap::default(),
            telling: HashMap::default(),
            forwards: VecDeque::new(),
            foreign: HashMap::default(),
            parted: Vec::new(),
            chunks_to_settle: Vec::new(),
            time: now.instant,
            recent,
            last_number: 0,
            draining: false,
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

    /// Answers what the store says.
    pub fn handle_store(&mut self, event: StoreEvent, now: Now) {
        let Some(event) = self.custody.handle_event(event) else {
            return;
        };
        match event {
            CustodyEvent::Stored(waiter, seq) => self.handle_stored(waiter, seq, now),
            CustodyEvent::Refused(waiter, refusal) => self.handle_refused(waiter, refusal, now),
            CustodyEvent::Answer(waiter, answer) => self.handle_read(waiter, answer, now),
            CustodyEvent::Appended(_, _) => {}
        }
        self.resume_loads(now);
        self.run_restless(now);
    }

    fn handle_stored(&mut self, waiter: Waiter, seq: Seq, now: Now) {
        match waiter {
            Waiter::Pager(id) => self.handle_pager_stored(id, seq, now),
            Waiter::Transit(chat, side, number) => {
                self.handle_transit_stored(chat, side, number, seq, now)
            }
            Waiter::Internal(message, size, origin) => {
                self.answer_origin(origin, true);
                self.hold(&message, seq, size, false, now);
            }
            Waiter::Chunk(..) | Waiter::Load(_) | Waiter::Delivery(..) | Waiter::Due => {}
        }
    }

    fn handle_refused(&mut self, waiter: Waiter, refusal: Refusal, now: Now) {
        match waiter {
            Waiter::Pager(id) => self.handle_pager_not_stored(id, now),
            Waiter::Transit(chat, side, number) => {
                self.handle_transit_not_stored(chat, side, number, now)
            }
            Waiter::Chunk(chat, side, number) => {
                self.handle_transit_not_stored(chat, side, number, now)
            }
            Waiter::Delivery(id, seq) => self.handle_delivery_unread(id, seq, refusal, now),
            Waiter::Internal(message, size, origin) => {
                self.answer_origin(origin, false);
                self.end_storing(&message, size, now);
            }
            Waiter::Load(identity) => self.postponed_loads.push_back((identity, None)),
            Waiter::Due => {}
        }
    }

    fn handle_read(&mut self, waiter: Waiter, answer: StoreEvent, now: Now) {
        match (waiter, answer) {
            (Waiter::Load(user), StoreEvent::Loaded { held, more, .. }) => {
                self.handle_loaded(&user, held, more, now);
            }
            (Waiter::Due, StoreEvent::Due { due, .. }) => self.handle_due(due, now),
            (Waiter::Delivery(id, seq), answer) => self.handle_delivery_read(id, seq, answer, now),
            (Waiter::Chunk(chat, side, number), StoreEvent::Synced { .. }) => {
                self.handle_chunk_synced(chat, side, number, now);
            }
            (Waiter::Transit(chat, side, number), StoreEvent::Piece { octets, .. }) => {
                self.handle_transit_piece(chat, side, number, &octets, now);
            }
            _ => {}
        }
    }

    /// Answers what the SIP endpoint says; what is to be sent comes back.
    pub fn poll_transmit(&mut self, now: Now) -> Option<(Flow, Bytes)> {
        loop {
            let event = self.sip.poll_event()?;
            match event {
                EndpointEvent::Transmit(flow, octets) => return Some((flow, octets)),
                EndpointEvent::Response(usage, response, flow) => {
                    self.handle_response(usage, response, flow, now);
                }
                EndpointEvent::TimedOut(usage) => self.handle_silence(usage, false, now),
                EndpointEvent::Unreachable(usage) => self.handle_silence(usage, true, now),
                EndpointEvent::ServerGone(server, GoneReason::NoAck) => {
                    self.handle_chat_unacknowledged(server, now);
                }
                EndpointEvent::ServerGone(..) => {}
            }
            self.run_restless(now);
        }
    }

    fn handle_response(&mut self, usage: Usage, response: Message, flow: Flow, now: Now) {
        match usage {
            Usage::Pager(id) => self.handle_pager_response(id, response, now),
            Usage::Delivery(id) => self.handle_delivery_response(id, &response, flow, now),
            Usage::Chat(id, branch) => self.handle_chat_response(id, branch, response, flow, now),
            Usage::Relay(id, branch) => self.handle_relay_response(id, branch, &response, now),
            Usage::Nobody => {}
        }
    }

    fn handle_silence(&mut self, usage: Usage, unreachable: bool, now: Now) {
        match usage {
            Usage::Pager(id) => self.handle_pager_silence(id, now),
            Usage::Delivery(id) => self.handle_delivery_silence(id, now),
            Usage::Chat(id, branch) => self.handle_chat_silence(id, branch, now),
            Usage::Relay(id, branch) => self.handle_relay_silence(id, branch, unreachable, now),
            Usage::Nobody => {}
        }
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

    /// An MSRP connection we asked for stands.
    pub fn media_connected(&mut self, attempt: AttemptId, connection: ConnectionId) {
        self.media
            .handle_connected(attempt, connection, &mut self.tokens);
    }

    /// Octets have left on an MSRP connection: there may be room for more.
    pub fn media_written(&mut self, connection: ConnectionId, octets: usize, now: Now) {
        for (_, usage) in self.media.handle_written(connection, octets, now) {
            match usage {
                MediaUse::Chat(chat, side) => self.pump(chat, side, now),
                MediaUse::Replay(delivery) => self.pump_replay(delivery, now),
            }
        }
    }

    /// Answers what the MSRP sessions say.
    pub fn run_media(&mut self, now: Now) {
        while let Some((_, usage, event)) = self.media.poll_event() {
            match usage {
                MediaUse::Chat(chat, side) => self.handle_chat_media(chat, side, event, now),
                MediaUse::Replay(delivery) => self.handle_replay_media(delivery, event, now),
            }
            self.run_restless(now);
        }
        // Only now is it known which of them ended their message.
        for (chat, side, message) in std::mem::take(&mut self.chunks_to_settle) {
            self.settle_chunk(chat, side, message, now);
        }
    }

    /// A message from another shard, or from another part of this one.
    pub fn handle_internal(&mut self, message: InternalMessage, now: Now) {
        match message {
            InternalMessage::Accept {
                message,
                body,
                origin,
            } => self.accept(message, body, origin, now),
            InternalMessage::Accepted { number, durable } => {
                if !self.handle_author_told(number, durable, now) {
                    self.handle_accepted(number, durable, now);
                }
            }
        }
        self.run_restless(now);
    }

    fn accept(
        &mut self,
        message: Box<DeferredMessage>,
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

    fn answer_origin(&mut self, origin: Option<Origin>, durable: bool) {
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

    fn run_restless(&mut self, now: Now) {
        while let Some(user) = self.restless.pop_front() {
            self.run_user(&user, now);
        }
    }

    /// No new work; what runs may end.
    pub fn drain(&mut self, now: Now) {
        self.draining = true;
        self.end_all_chats(now);
    }

    /// Whether everything that had to end before a stop has ended.
    pub fn is_drained(&self) -> bool {
        self.draining
            && self.pagers.is_empty()
            && self.chats.is_empty()
            && self.deliveries.is_empty()
            && self.custody.open() == 0
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        [
            self.sip.next_deadline(),
            self.custody.next_deadline(),
            self.registrar.next_deadline(),
            self.pager_deadlines.front().map(|(at, _)| *at),
            self.user_deadlines.first().map(|(at, _)| *at),
            self.has_sessions().then_some(self.next_sweep),
            Some(self.next_expiry),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Lets what is due happen.
    pub fn handle_timeout(&mut self, now: Now) {
        self.sip.handle_timeout(now);
        self.time = now.instant;
        self.sweep_sessions(now);
        for registered in self.registrar.handle_timeout(now.instant) {
            self.handle_registered(registered, now);
        }
        for waiter in self.custody.handle_timeout(now) {
            self.handle_refused(waiter, Refusal::Full, now);
        }
        self.handle_pager_timeouts(now);
        self.handle_user_timeouts(now);
        self.look_for_expired(now);
        self.run_restless(now);
    }

    /// Whether anything is under way whose time limits are looked after by the sweep.
    fn has_sessions(&self) -> bool {
        !(self.chats.is_empty()
            && self.deliveries.is_empty()
            && self.relays.is_empty()
            && self.media.is_empty())
    }

    /// Sessions are limited by seconds and minutes: one look at all of them now and then costs less
    /// than an ordered set of their deadlines would with every frame.
    fn sweep_sessions(&mut self, now: Now) {
        if self.next_sweep > now.instant {
            return;
        }
        self.next_sweep = now.instant + SWEEP_INTERVAL;
        self.media.handle_timeout(now);
        self.run_media(now);
        self.handle_chat_timeouts(now);
        self.handle_replay_timeouts(now);
        self.handle_relay_timeouts(now);
    }

    fn handle_user_timeouts(&mut self, now: Now) {
        while self
            .user_deadlines
            .first()
            .is_some_and(|(at, _)| *at <= now.instant)
        {
            let Some((_, identity)) = self.user_deadlines.pop_first() else {
                return;
            };
            if let Some(user) = self.users.get_mut(&identity) {
                user.handle_timeout(now);
                self.run_user(&identity, now);
            }
        }
    }

    fn look_for_expired(&mut self, now: Now) {
        if self.next_expiry > now.instant {
            return;
        }
        self.next_expiry = now.instant + EXPIRY_INTERVAL;
        self.forget_expired(now);
        let time = Now {
            wall: self.expiry.read(now),
            ..now
        };
        if self.custody.take_due(Waiter::Due, time).is_err() {
            tracing::debug!("no credit to look for expired messages; asking again");
        }
    }
}
