//! The operator's questions about one shard, and what he may do to it: look at bindings, waiting messages
//! and sessions; retry, redate, cancel, end. Pure: a question comes with a ticket, and the answer leaves
//! with it, at once or when the store has answered.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::{Instant, Now, UnixMillis};
use crate::config::Traffic;
use crate::identity::Identity;
use crate::participating::census::{Census, Population};
use crate::participating::chat::{Chat, ChatId, ChatState, Side};
use crate::participating::delivery::{Delivery, DeliveryBy, DeliveryId};
use crate::participating::served_user::{RunEnd, ServedUser, Standing};
use crate::participating::service::{Service, Waiter};
use crate::participating::session_run::Phase;
use crate::registrar::{Binding, BindingKey, Directory, Profile};
use crate::store::request::{
    BodySource, ConversationKey, DeferredMessage, Held, Refusal, Seq, Settlement, StoreEvent,
};

/// Names a question until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the operator asks of a shard. What concerns a user is asked of the shard that owns the user.
#[derive(Clone, Debug)]
pub enum Question {
    /// What is under way.
    Census,
    /// Users of this shard with a binding or waiting messages, in order.
    Users {
        /// Only those after this one.
        after: Option<Identity>,
        /// At most so many.
        limit: usize,
    },
    /// The bindings of a user.
    Bindings(Identity),
    /// Takes bindings of a user away.
    Unbind {
        /// Whose.
        user: Identity,
        /// Which; all without.
        key: Option<String>,
    },
    /// A page of what waits for a user, oldest first.
    Messages {
        /// Whose.
        user: Identity,
        /// Only those after this one.
        after: Option<Seq>,
        /// At most so many.
        limit: usize,
    },
    /// One waiting message.
    Message(Identity, Seq),
    /// Part of its body.
    Body {
        /// Whose.
        user: Identity,
        /// Which.
        seq: Seq,
        /// First octet, from 0.
        offset: u64,
        /// At most so many octets.
        length: usize,
    },
    /// Offers the conversation of a message again, now.
    Retry(Identity, Seq),
    /// Takes a message out of the queue; the author is told as when it expires.
    Cancel(Identity, Seq),
    /// Gives a message another time to expire at.
    Redate(Identity, Seq, UnixMillis),
    /// Makes a document of the operator's durable; done once it is.
    PutDocument {
        /// Its name.
        key: Box<str>,
        /// Its octets.
        value: Bytes,
    },
    /// Removes one; done once that is durable.
    RemoveDocument(Box<str>),
    /// The users are these from here on.
    Directory(Arc<Directory>),
    /// What the operator lets through from here on.
    Traffic(Box<Traffic>),
    /// Whether a user may receive has changed, as the directory says.
    Reception(Identity),
    /// Chats and replays under way.
    Sessions,
    /// Ends one of them.
    EndSession(SessionId),
}

/// A session of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionId {
    /// A chat.
    Chat(u64),
    /// A replay.
    Replay(u64),
}

/// What the operator hears.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Census`].
    Census(Box<Census>, Population),
    /// To [`Question::Users`].
    Users(Vec<UserView>),
    /// To [`Question::Bindings`].
    Bindings(Vec<BindingView>),
    /// To [`Question::Unbind`]: how many there were.
    Unbound(usize),
    /// To [`Question::Messages`], and whether there are more.
    Messages(Vec<MessageView>, bool),
    /// To [`Question::Message`].
    Message(Box<FullMessage>),
    /// To [`Question::Body`]: as many octets as there were.
    Body(Bytes),
    /// To [`Question::Sessions`].
    Sessions(Vec<SessionView>),
    /// It is done, or begun.
    Done,
    /// It is not.
    Failed(Failure),
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such thing.
    Unknown,
    /// The user has no device that could take it.
    Unreachable,
    /// A device is being given the message at this moment.
    UnderWay,
    /// Too much is under way.
    Busy,
    /// The store refused.
    Store(Refusal),
}

/// A user with something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserView {
    /// Who.
    pub user: Identity,
    /// Bindings, suspended ones too.
    pub contacts: usize,
    /// Whether messages wait.
    pub waiting: bool,
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingView {
    /// Names it among the user's.
    pub key: String,
    /// The Contact URI.
    pub uri: String,
    /// Its parameters as they were registered.
    pub parameters: String,
    /// `+sip.instance`.
    pub instance: Option<String>,
    /// How requests reach it: transport and address.
    pub flow: String,
    /// In which dialect it is spoken to.
    pub profile: Profile,
    /// In thousandths.
    pub q: u16,
    /// Not reachable before it registers again.
    pub suspended: bool,
    /// When it ends.
    pub expires_at: UnixMillis,
}

/// A waiting message as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageView {
    /// What the store knows without reading more.
    pub held: Held,
    /// Where it stands.
    pub state: MessageState,
}

/// A waiting message in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullMessage {
    /// All but its body.
    pub message: DeferredMessage,
    /// Octets of the body.
    pub length: u64,
    /// Where it stands.
    pub state: MessageState,
}

/// Where a waiting message stands, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageState {
    /// Where.
    pub standing: StandingWord,
    /// Why.
    pub reason: Reason,
    /// Attempts of its conversation since the last registration or delivery.
    pub attempts: usize,
    /// When it is offered next without anything else happening.
    pub next_attempt: Option<UnixMillis>,
}

/// Where a waiting message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandingWord {
    /// Its turn has not come.
    Waiting,
    /// A device is being given it.
    Running,
    /// Refused or broken; tried again later.
    Parked,
    /// Not tried again before the next registration.
    Declined,
}

/// Why a waiting message stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The user has no device that can be reached.
    NoDevice,
    /// No device takes a message of this kind and size.
    NoCapableDevice,
    /// Others go before it, or its run is about to begin.
    InLine,
    /// It is on its way to a device.
    Offered,
    /// A device refused it, or the delivery broke.
    Refused,
}

/// A session under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Names it on its shard.
    pub id: SessionId,
    /// The caller of a chat; the author of what is replayed.
    pub from: Identity,
    /// The other one.
    pub to: Identity,
    /// How far it is.
    pub state: SessionState,
    /// Conversation-ID.
    pub conversation: String,
    /// Messages on their way in it.
    pub messages: usize,
    /// When something happened in it last; unknown for a replay.
    pub active_at: Option<UnixMillis>,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// A device rings, or the first message is being read.
    Inviting,
    /// It stands.
    Live,
    /// Only the caller's side stands; what comes is kept.
    Custody,
    /// It is ending.
    Ending,
}

impl Service {
    /// Answers the operator, or asks the store first.
    pub fn handle_question(&mut self, ticket: Ticket, question: Question, now: Now) {
        self.time = now.instant;
        let answer = match question {
            Question::Census => Answer::Census(Box::new(self.census()), self.population()),
            Question::Users { after, limit } => Answer::Users(self.list_users(after, limit)),
            Question::Bindings(user) => Answer::Bindings(self.list_bindings(&user, now)),
            Question::Unbind { user, key } => self.unbind(&user, key.as_deref(), now),
            Question::Directory(directory) => {
                self.directory = directory;
                Answer::Done
            }
            Question::Traffic(traffic) => {
                self.set_traffic(*traffic, now);
                Answer::Done
            }
            Question::Reception(user) => {
                self.handle_registration(&user, now);
                Answer::Done
            }
            Question::Sessions => Answer::Sessions(self.list_sessions(now)),
            Question::EndSession(id) => self.end_session(id, now),
            stored => match self.ask_for_operator(ticket, stored, now) {
                Ok(()) => return,
                Err(failure) => Answer::Failed(failure),
            },
        };
        self.answer_operator(ticket, answer);
        self.run_restless(now);
    }

    /// The next answer to a question.
    pub fn poll_answer(&mut self) -> Option<(Ticket, Answer)> {
        self.answers.pop_front()
    }

    fn answer_operator(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push_back((ticket, answer));
    }

    /// Questions that only the store can answer.
    fn ask_for_operator(
        &mut self,
        ticket: Ticket,
        question: Question,
        now: Now,
    ) -> Result<(), Failure> {
        let waiter = Waiter::Operator(ticket, question.clone());
        let asked = match question {
            Question::Messages { user, after, limit } => {
                self.custody.page(user, after, limit, waiter, now)
            }
            Question::Body {
                user,
                seq,
                offset,
                length,
            } => {
                let source = BodySource::Message {
                    recipient: user,
                    seq,
                };
                self.custody.read(source, offset, length, waiter, now)
            }
            Question::Redate(user, seq, at) => self.custody.redate(user, seq, at, waiter, now),
            Question::PutDocument { key, value } => {
                self.custody.put_document(key, value, waiter, now)
            }
            Question::RemoveDocument(key) => self.custody.remove_document(key, waiter, now),
            Question::Message(user, seq)
            | Question::Retry(user, seq)
            | Question::Cancel(user, seq) => self.custody.fetch(user, seq, 0, waiter, now),
            _ => return Err(Failure::Unknown),
        };
        asked.map_err(|_| Failure::Busy)
    }

    /// The store answered for the operator.
    pub(super) fn handle_operator_read(
        &mut self,
        ticket: Ticket,
        question: Question,
        event: StoreEvent,
        now: Now,
    ) {
        let answer = match (question, event) {
            (Question::Messages { user, .. }, StoreEvent::Loaded { held, more, .. }) => {
                let view = |held: Held| MessageView {
                    state: self.state_of(&user, &held.conversation, held.seq, now),
                    held,
                };
                Answer::Messages(held.into_iter().map(view).collect(), more)
            }
            (Question::Body { .. }, StoreEvent::Piece { octets, .. }) => Answer::Body(octets),
            (
                Question::Message(user, seq),
                StoreEvent::Fetched {
                    message, length, ..
                },
            ) => {
                let key = super::arrival::conversation_key(&message);
                Answer::Message(Box::new(FullMessage {
                    state: self.state_of(&user, &key, seq, now),
                    message: Arc::unwrap_or_clone(message),
                    length,
                }))
            }
            (Question::Retry(user, _), StoreEvent::Fetched { message, .. }) => {
                self.retry(&user, &message, now)
            }
            (
                Question::Cancel(user, seq),
                StoreEvent::Fetched {
                    message, delivered, ..
                },
            ) => self.cancel_kept(&user, seq, message, delivered, now),
            (Question::Redate(user, seq, _), StoreEvent::Changed { .. }) => {
                self.forget_due(&user, seq);
                self.ahead.forget(&user);
                Answer::Done
            }
            (_, StoreEvent::Changed { .. }) => Answer::Done,
            _ => Answer::Failed(Failure::Unknown),
        };
        self.answer_operator(ticket, answer);
    }

    /// The store refused what was asked for the operator.
    pub(super) fn handle_operator_refused(&mut self, ticket: Ticket, refusal: Refusal) {
        let failure = match refusal {
            Refusal::Unknown => Failure::Unknown,
            refusal => Failure::Store(refusal),
        };
        self.answer_operator(ticket, Answer::Failed(failure));
    }

    fn list_users(&self, after: Option<Identity>, limit: usize) -> Vec<UserView> {
        let is_after = |user: &&Identity| after.as_ref().is_none_or(|after| *user > after);
        let registered = self.registrar.users().filter(is_after);
        let waiting = self.waiting.iter().filter(is_after);
        let running = self.users.keys().filter(is_after);
        // Only as many as asked are kept at a time: a shard may have a million.
        let mut first = std::collections::BTreeSet::new();
        for user in registered.chain(waiting).chain(running) {
            if first.len() >= limit && first.last().is_some_and(|last| user >= *last) {
                continue;
            }
            first.insert(user);
            if first.len() > limit {
                first.pop_last();
            }
        }
        let view = |user: &Identity| UserView {
            user: user.clone(),
            contacts: self.registrar.bindings(user).len(),
            waiting: self.waiting.contains(user)
                || (self.users.get(user)).is_some_and(|machine| !machine.holds_nothing()),
        };
        first.into_iter().map(view).collect()
    }

    fn list_bindings(&self, user: &Identity, now: Now) -> Vec<BindingView> {
        let bindings = self.registrar.bindings(user).iter();
        let alive = bindings.filter(|binding| binding.deadline() > now.instant);
        alive.map(|binding| binding_view(binding, now)).collect()
    }

    fn unbind(&mut self, user: &Identity, key: Option<&str>, now: Now) -> Answer {
        let all = self.registrar.bindings(user).iter().map(Binding::key);
        let chosen = all.filter(|own| key.is_none_or(|key| own.as_str() == key));
        let chosen: Vec<BindingKey> = chosen.cloned().collect();
        if chosen.is_empty() && key.is_some() {
            return Answer::Failed(Failure::Unknown);
        }
        for key in &chosen {
            if let Some(registered) = self.registrar.forget(user, key) {
                self.handle_registered(registered, now);
            }
        }
        Answer::Unbound(chosen.len())
    }

    fn state_of(&self, user: &Identity, key: &ConversationKey, seq: Seq, now: Now) -> MessageState {
        let machine = self.users.get(user);
        let standing = machine.map_or(Standing::Unheard, |user| user.standing(key, seq));
        let no_device = self.reach(user).is_none();
        let (word, reason) = match standing {
            Standing::Running => (StandingWord::Running, Reason::Offered),
            _ if no_device => (StandingWord::Waiting, Reason::NoDevice),
            Standing::Unheard | Standing::InLine => (StandingWord::Waiting, Reason::InLine),
            Standing::Incapable => (StandingWord::Parked, Reason::NoCapableDevice),
            Standing::Parked(Some(_)) => (StandingWord::Parked, Reason::Refused),
            Standing::Parked(None) => (StandingWord::Declined, Reason::Refused),
        };
        let next = match standing {
            Standing::Parked(until) if !no_device => until,
            _ => None,
        };
        MessageState {
            standing: word,
            reason,
            attempts: machine.map_or(0, |user| user.attempts(key)),
            next_attempt: next.map(|at| wall(at, now)),
        }
    }

    fn retry(&mut self, user: &Identity, message: &DeferredMessage, now: Now) -> Answer {
        if self.reach(user).is_none() {
            return Answer::Failed(Failure::Unreachable);
        }
        let key = super::arrival::conversation_key(message);
        match self
            .users
            .get_mut(user)
            .filter(|machine| machine.is_reachable())
        {
            Some(machine) => {
                machine.handle_retry(&key, now);
                self.run_user_later(user);
            }
            // Nobody has offered it to this device so far.
            None => self.handle_registration(user, now),
        }
        Answer::Done
    }

    fn cancel_kept(
        &mut self,
        user: &Identity,
        seq: Seq,
        message: Arc<DeferredMessage>,
        delivered: bool,
        now: Now,
    ) -> Answer {
        if self.expiring.contains_key(&(user.clone(), seq)) {
            // It is leaving already; its author is told once.
            return Answer::Done;
        }
        if self.told.has_settled(user, seq) {
            return Answer::Failed(Failure::Unknown);
        }
        let key = super::arrival::conversation_key(&message);
        let in_flight = |machine: &ServedUser| machine.is_out(&key, seq);
        if self.users.get(user).is_some_and(in_flight) {
            return Answer::Failed(Failure::UnderWay);
        }
        tracing::info!(recipient = %user, seq = seq.0, "a kept message is cancelled by the operator");
        self.metrics.messages_cancelled.count();
        self.end_waiting(seq, message, Settlement::Withdrawn, delivered, now);
        Answer::Done
    }

    fn list_sessions(&self, now: Now) -> Vec<SessionView> {
        let chats = self.chats.iter();
        let replays = self.deliveries.iter();
        let mut sessions: Vec<SessionView> = chats
            .map(|(id, chat)| chat_view(*id, chat, now))
            .chain(replays.filter_map(|(id, delivery)| replay_view(*id, delivery)))
            .collect();
        sessions.sort_by_key(|session| session.id);
        sessions
    }

    fn end_session(&mut self, id: SessionId, now: Now) -> Answer {
        match id {
            SessionId::Chat(number) if self.chats.contains_key(&ChatId(number)) => {
                self.end_chat(ChatId(number), now);
            }
            SessionId::Replay(number) => {
                let id = DeliveryId(number);
                let phase = self.session_run(id).map(|run| run.phase);
                match phase {
                    None => return Answer::Failed(Failure::Unknown),
                    Some(
                        Phase::Reading
                        | Phase::Waiting
                        | Phase::Answering
                        | Phase::Pausing
                        | Phase::Live
                        | Phase::Closing,
                    ) => {
                        self.end_session_run(id, RunEnd::Parked, now);
                    }
                    // The sweep cancels what rings too long.
                    Some(Phase::Inviting | Phase::Cancelling) => {
                        if let Some(run) = self.session_run(id) {
                            run.rings_until = Some(now.instant);
                        }
                    }
                }
            }
            SessionId::Chat(_) => return Answer::Failed(Failure::Unknown),
        }
        Answer::Done
    }
}

/// What the wall clock says at `at`.
fn wall(at: Instant, now: Now) -> UnixMillis {
    now.wall.plus(at.since(now.instant))
}

fn binding_view(binding: &Binding, now: Now) -> BindingView {
    let flow = binding.flow();
    BindingView {
        key: binding.key().as_str().to_owned(),
        uri: binding.uri().to_owned(),
        parameters: binding.parameters().to_owned(),
        instance: binding.instance().map(str::to_owned),
        flow: format!("{}://{}", flow.transport, flow.remote),
        profile: binding.capability().profile,
        q: binding.q(),
        suspended: binding.is_suspended(),
        expires_at: wall(binding.deadline(), now),
    }
}

fn chat_view(id: ChatId, chat: &Chat, now: Now) -> SessionView {
    let quiet = now.instant.since(chat.quiet_since);
    let quiet = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
    SessionView {
        id: SessionId::Chat(id.0),
        from: chat.person(Side::Caller).clone(),
        to: chat.person(Side::Callee).clone(),
        state: match chat.state {
            ChatState::Inviting | ChatState::Settling => SessionState::Inviting,
            ChatState::Live => SessionState::Live,
            ChatState::Custody => SessionState::Custody,
            ChatState::Ending => SessionState::Ending,
        },
        conversation: chat.ids.conversation.clone(),
        messages: chat.transits.len(),
        active_at: Some(UnixMillis(now.wall.0.saturating_sub(quiet))),
    }
}

fn replay_view(id: DeliveryId, delivery: &Delivery) -> Option<SessionView> {
    let DeliveryBy::Session(run) = &delivery.carrier else {
        return None;
    };
    Some(SessionView {
        id: SessionId::Replay(id.0),
        from: delivery.key.author.clone(),
        to: delivery.user.clone(),
        state: match run.phase {
            Phase::Reading
            | Phase::Waiting
            | Phase::Answering
            | Phase::Inviting
            | Phase::Pausing => SessionState::Inviting,
            Phase::Cancelling | Phase::Closing => SessionState::Ending,
            Phase::Live => SessionState::Live,
        },
        conversation: delivery.key.conversation.to_string(),
        messages: run.fetching.len() + run.sending.len(),
        active_at: None,
    })
}
