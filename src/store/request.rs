//! What a shard asks of the store, and what it hears back.
//!
//! Nothing here waits: a shard reserves a credit, hands a request over and goes on; the answer comes
//! as a [`StoreEvent`] in its inbox. An event that says "durable" is only sent after the sync that
//! covers it returned.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::identity::Identity;
pub use crate::imdn::Dispositions;

/// The order of custody: strictly increasing over the life of the data folder, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A body that arrives in pieces before its message is known to be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// Chosen by the shard; returned with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreToken(pub u64);

/// How a message came in, which decides how it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// SIP MESSAGE (RFC 3428).
    Pager,
    /// One message in an MSRP session of its own.
    Large,
    /// A message of a one-to-one chat session.
    Chat,
    /// A disposition notification (RFC 5438) for an author who is away.
    Notification,
}

/// A message in custody, without its body. Everything a replay after a restart needs is in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferredMessage {
    /// Whose queue it is in.
    pub recipient: Identity,
    /// Who wrote it, as established on arrival; never shown if the author asked for privacy.
    pub author: Identity,
    /// The author as the recipient may see it: a name-addr or addr-spec, verbatim from `From` without tag.
    pub from: String,
    /// The recipient as the author addressed it: verbatim from `To` without tag.
    pub to: String,
    /// How it came in.
    pub kind: MessageKind,
    /// `Conversation-ID`; the author's own value or a generated one.
    pub conversation: String,
    /// `Contribution-ID`, likewise.
    pub contribution: String,
    /// `InReplyTo-Contribution-ID`, if there was one.
    pub in_reply_to: Option<String>,
    /// Further header fields to give to the recipient, in order: name and value.
    pub headers: Vec<(String, String)>,
    /// `Content-Type` of the body as it came in.
    pub content_type: String,
    /// `imdn.Message-ID`; generated if the message had none.
    pub message_id: String,
    /// `DateTime` of the CPIM envelope, verbatim, for the notifications that must repeat it.
    pub date_time: Option<String>,
    /// Notifications the author asked for.
    pub dispositions: Dispositions,
    /// When custody began.
    pub accepted_at: UnixMillis,
    /// When it stops being worth delivering.
    pub expires_at: UnixMillis,
    /// Recognises the same transaction again after a restart (Via branch, Call-ID and CSeq of the
    /// MESSAGE; author and imdn.Message-ID over MSRP).
    pub duplicate_key: u128,
}

#[cfg(test)]
impl DeferredMessage {
    /// One of `author`'s for `recipient`, of `im.test` both, that says nothing.
    pub fn empty(author: &str, recipient: &str, kind: MessageKind) -> Self {
        Self {
            recipient: Identity::new(recipient, "im.test"),
            author: Identity::new(author, "im.test"),
            from: String::new(),
            to: String::new(),
            kind,
            conversation: String::new(),
            contribution: String::new(),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: String::new(),
            message_id: String::new(),
            date_time: None,
            dispositions: Dispositions::default(),
            accepted_at: UnixMillis(0),
            expires_at: UnixMillis(1),
            duplicate_key: 0,
        }
    }
}

impl DeferredMessage {
    /// Octets of its fields, the body apart.
    pub fn field_octets(&self) -> usize {
        let texts = [
            self.recipient.as_str(),
            self.author.as_str(),
            &self.from,
            &self.to,
            &self.conversation,
            &self.contribution,
            self.in_reply_to.as_deref().unwrap_or_default(),
            &self.content_type,
            &self.message_id,
            self.date_time.as_deref().unwrap_or_default(),
        ];
        let headers = self.headers.iter();
        let headers =
            headers.map(|(name, value)| name.len() + value.len() + size_of::<[String; 2]>());
        texts.into_iter().map(str::len).chain(headers).sum()
    }
}

/// The octets of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it.
    Inline(Bytes),
    /// Appended before under this spool; `length` octets from offset 0.
    Spooled {
        /// Which spool.
        spool: SpoolId,
        /// Octets.
        length: u64,
    },
}

/// A message that was read together with another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Together {
    /// Its place.
    pub seq: Seq,
    /// The message.
    pub message: Arc<DeferredMessage>,
    /// All its octets.
    pub body: Bytes,
}

/// Why a message left custody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// A device confirmed it.
    Delivered,
    /// Its time was over.
    Expired,
    /// Refused for good, damaged, or deleted with its account.
    Failed,
    /// The intake was answered with an error after all.
    Cancelled,
    /// Its recipient's quota was full, and it was the oldest.
    Evicted,
    /// Its author revoked it, or the recipient or the operator took it out.
    Withdrawn,
}

/// How much waits: for one user, or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Messages.
    pub messages: u64,
    /// Octets of their bodies.
    pub octets: u64,
}

/// A waiting message as its recipient's machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its place in the order.
    pub seq: Seq,
    /// How it came in.
    pub kind: MessageKind,
    /// `Conversation-ID` with the author, which together name one replay.
    pub conversation: ConversationKey,
    /// `imdn.Message-ID`.
    pub message_id: Box<str>,
    /// Octets of the body.
    pub length: u64,
    /// When it expires.
    pub expires_at: UnixMillis,
    /// The devices that have got it already ([`StoreRequest::Mark`]).
    pub marks: Box<[u64]>,
}

/// How much may wait. A disposition notification may go beyond by a quarter: an author must hear what
/// became of his messages even when others have filled his queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages.
    pub messages: u64,
    /// Octets of their bodies.
    pub octets: u64,
}

impl Quota {
    /// No bound.
    pub const NONE: Self = Self {
        messages: u64::MAX,
        octets: u64::MAX,
    };

    /// What holds for a message of this kind.
    pub fn of_kind(self, kind: MessageKind) -> Self {
        match kind {
            // At least a few short ones, whatever the bound.
            MessageKind::Notification => Self {
                messages: self.messages.saturating_add((self.messages / 4).max(4)),
                octets: self.octets.saturating_add((self.octets / 4).max(16_384)),
            },
            MessageKind::Pager | MessageKind::Large | MessageKind::Chat => self,
        }
    }

    /// Whether a message of so many octets fits beside what waits.
    pub fn has_room(self, used: Usage, octets: u64) -> bool {
        used.messages < self.messages && used.octets.saturating_add(octets) <= self.octets
    }
}

/// Octets of one document, and of its key, at most.
pub const DOCUMENT_LIMIT: usize = 64 * 1024;

/// Devices that can be marked on one message; those beyond it get the message again.
pub const MARKS_LIMIT: usize = 64;

/// One author and one conversation: what a replay INVITE speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationKey {
    /// The author.
    pub author: Identity,
    /// `Conversation-ID`.
    pub conversation: Box<str>,
}

/// What a shard asks.
#[derive(Clone, Debug)]
pub enum StoreRequest {
    /// Take a message into custody. Answered by [`StoreEvent::Stored`] once durable, else by
    /// [`StoreEvent::Refused`].
    Put {
        /// Returned with the answer.
        token: StoreToken,
        /// The message.
        message: Arc<DeferredMessage>,
        /// Its body.
        body: Body,
        /// What may wait for its recipient; counted in the order of the requests, so it is never
        /// exceeded.
        quota: Quota,
    },
    /// The shard gave up waiting for this `Put`: if it was or will be written, a cancelling record
    /// follows it, so that it is never delivered.
    Abandon {
        /// Of the `Put`.
        token: StoreToken,
    },
    /// A message leaves custody. Not answered; durable with the next sync.
    Settle {
        /// Whose.
        recipient: Identity,
        /// Which.
        seq: Seq,
        /// Why.
        settlement: Settlement,
    },
    /// A device has got this message, which stays in the queue for others. Not answered; durable soon
    /// (at the next sync, 1 ms at most). A device is marked once, whatever is said later.
    Mark {
        /// Whose message.
        recipient: Identity,
        /// Which.
        seq: Seq,
        /// Which device, by a number of the asker's.
        device: u64,
    },
    /// Whether everything that this shard has told of messages before is durable: settlements and marks. Answered
    /// by [`StoreEvent::Synced`] once it is, by [`StoreEvent::Refused`] if that cannot be said.
    Flush {
        /// Returned with the answer.
        token: StoreToken,
    },
    /// Another time at which a waiting message expires. Answered by [`StoreEvent::Changed`] once
    /// durable, else by [`StoreEvent::Refused`].
    Redate {
        /// Returned with the answer.
        token: StoreToken,
        /// Whose message.
        recipient: Identity,
        /// Which.
        seq: Seq,
        /// When it expires from now on.
        expires_at: UnixMillis,
    },
    /// A document of the operator's, such as an account: kept until it is removed, and handed over
    /// whole at a start. Answered by [`StoreEvent::Changed`] once durable, else by
    /// [`StoreEvent::Refused`].
    PutDocument {
        /// Returned with the answer.
        token: StoreToken,
        /// Its name; one put under the same name before is replaced.
        key: Box<str>,
        /// Opaque to the store; at most [`DOCUMENT_LIMIT`] octets with the key.
        value: Bytes,
    },
    /// A document is gone. Answered like [`StoreRequest::PutDocument`], whether it was there or not.
    RemoveDocument {
        /// Returned with the answer.
        token: StoreToken,
        /// Its name.
        key: Box<str>,
    },
    /// This shard's users for whom messages wait, by name. Answered by [`StoreEvent::Users`].
    ListUsers {
        /// Returned with the answer.
        token: StoreToken,
        /// Only those after this one.
        after: Option<Identity>,
        /// At most so many.
        limit: usize,
    },
    /// The messages waiting for `recipient`, oldest first. Answered by [`StoreEvent::Loaded`].
    Load {
        /// Returned with the answer.
        token: StoreToken,
        /// Whose.
        recipient: Identity,
        /// Only those after this one.
        after: Option<Seq>,
        /// At most so many.
        limit: usize,
    },
    /// A message in full; bodies over 64 KiB come without octets, see [`StoreRequest::Read`].
    /// Answered by [`StoreEvent::Fetched`].
    Fetch {
        /// Returned with the answer.
        token: StoreToken,
        /// Whose.
        recipient: Identity,
        /// Which.
        seq: Seq,
        /// At most so many of those that follow it in the user's queue, of whatever conversation but with none
        /// of another kind between, are read as well, if that is not much.
        together: usize,
    },
    /// Part of a large body. Answered by [`StoreEvent::Piece`].
    Read {
        /// Returned with the answer.
        token: StoreToken,
        /// Of what.
        source: BodySource,
        /// First octet, from 0.
        offset: u64,
        /// At most so many octets.
        length: usize,
    },
    /// Octets of a body that is arriving; later appends win where they overlap. Not durable by
    /// itself. Answered by [`StoreEvent::Appended`], which gives the room back.
    Append {
        /// Under which spool; a new one begins with its first append.
        spool: SpoolId,
        /// Where the octets belong, from 0.
        offset: u64,
        /// The octets.
        octets: Bytes,
    },
    /// Make all appends to this spool durable. Answered by [`StoreEvent::Synced`] or `Refused`.
    Sync {
        /// Returned with the answer.
        token: StoreToken,
        /// Which.
        spool: SpoolId,
    },
    /// The spool is of no more use; its room is reclaimed. Not answered. A spool that a `Put` took
    /// belongs to that message and is not dropped by this.
    Drop {
        /// Which.
        spool: SpoolId,
    },
    /// A binding as the registrar wants it back after a restart. Not answered; durable within 1 s.
    PutBinding {
        /// Whose.
        user: Identity,
        /// Which of the user's bindings.
        key: Box<str>,
        /// Opaque to the store.
        value: Bytes,
    },
    /// A binding is gone. Not answered; durable within 1 s.
    RemoveBinding {
        /// Whose.
        user: Identity,
        /// Which.
        key: Box<str>,
    },
    /// Which messages of this shard's users have expired by `now`, at most `limit`. Answered by
    /// [`StoreEvent::Due`]; each must then be settled.
    TakeDue {
        /// Returned with the answer.
        token: StoreToken,
        /// The time by which they expired.
        now: UnixMillis,
        /// At most so many.
        limit: usize,
    },
}

/// Where the octets of a large body lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodySource {
    /// Of a message in custody.
    Message {
        /// Whose.
        recipient: Identity,
        /// Which.
        seq: Seq,
    },
    /// Of a spool.
    Spool(SpoolId),
}

/// Why a request could not be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No room on the disk, or as much waits as may wait in all: try again later.
    #[error("no room in the store")]
    Full,
    /// A sync failed; nothing is acknowledged until a restart.
    #[error("the store has failed and accepts nothing until a restart")]
    Poisoned,
    /// No such message or spool.
    #[error("not in the store")]
    Unknown,
    /// The record is damaged on disk; it was set aside and reported.
    #[error("damaged on disk")]
    Damaged,
    /// The message or document alone has more octets than may be kept.
    #[error("too large")]
    TooLarge,
    /// As much waits for the recipient as may.
    #[error("the recipient's queue is full")]
    OverQuota,
}

/// What a shard hears.
#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// The message is durable.
    Stored {
        /// Of the `Put`.
        token: StoreToken,
        /// Its place in the order.
        seq: Seq,
    },
    /// The request failed; nothing of it will take effect.
    Refused {
        /// Of the request.
        token: StoreToken,
        /// Why.
        refusal: Refusal,
    },
    /// What waits.
    Loaded {
        /// Of the `Load`.
        token: StoreToken,
        /// Oldest first.
        held: Vec<Held>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// One message.
    Fetched {
        /// Of the `Fetch`.
        token: StoreToken,
        /// The message.
        message: Arc<DeferredMessage>,
        /// Its octets, if at most 64 KiB.
        body: Option<Bytes>,
        /// How many octets it has.
        length: u64,
        /// Some device has got it ([`StoreRequest::Mark`]).
        delivered: bool,
        /// Those that follow, as far as they were asked for, are of the same kind and have at most 64 KiB
        /// together.
        together: Vec<Together>,
    },
    /// Octets of a large body, as many as there were.
    Piece {
        /// Of the `Read`.
        token: StoreToken,
        /// The octets.
        octets: Bytes,
    },
    /// An append left the queue: that much room is free again.
    Appended {
        /// Under which spool.
        spool: SpoolId,
        /// Octets.
        length: usize,
    },
    /// The spool is durable up to all earlier appends.
    Synced {
        /// Of the `Sync`.
        token: StoreToken,
    },
    /// The change is durable.
    Changed {
        /// Of the `Redate`, `PutDocument` or `RemoveDocument`.
        token: StoreToken,
    },
    /// Users for whom messages wait.
    Users {
        /// Of the `ListUsers`.
        token: StoreToken,
        /// By name, with how much waits.
        users: Vec<(Identity, Usage)>,
        /// Whether more come after the last of these.
        more: bool,
    },
    /// A message in custody turned out to be damaged on disk. Told once, not asked for; it stays until it
    /// is settled, but is not loaded any more.
    Ruined {
        /// Whose.
        recipient: Identity,
        /// Which.
        seq: Seq,
        /// The message, if that much of it can be trusted.
        message: Option<Arc<DeferredMessage>>,
        /// Some device has got it ([`StoreRequest::Mark`]).
        delivered: bool,
    },
    /// Expired messages.
    Due {
        /// Of the `TakeDue`.
        token: StoreToken,
        /// Whose and which, with what the author may have to be told.
        due: Vec<(Seq, Arc<DeferredMessage>)>,
        /// Those of them that some device has got ([`StoreRequest::Mark`]).
        delivered: Vec<Seq>,
    },
}
