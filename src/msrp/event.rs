//! What an MSRP session tells its user, and the names it gives to things.

use bytes::Bytes;

use super::frame::{ByteRange, FailureReport};

/// A message the peer sends us. Never reused within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundId(pub(super) u64);

impl InboundId {
    /// A message that came by another way than a session.
    pub const OUTSIDE: Self = Self(u64::MAX);
}

/// A message we send. Never reused within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundId(pub(super) u64);

/// A chunk that has arrived and may have to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    pub(super) message: InboundId,
    pub(super) serial: u64,
}

impl ChunkId {
    /// The message it is part of.
    pub const fn message(self) -> InboundId {
        self.message
    }
}

/// Why a session is over before it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its connection ended (RFC 4975 §5.4).
    ConnectionLost,
    /// The peer answered 481: it knows no such session.
    Unknown,
    /// The peer answered 506: it holds the session on another connection.
    Elsewhere,
    /// The SEND that should bind the connection was not answered within 30 s.
    Silent,
}

/// What has happened in a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// The peer has shown that the connection is this session's: we may send.
    Bound,
    /// The first octets of a message are about to come.
    MessageBegun {
        /// Which.
        message: InboundId,
        /// Content-Type, as written.
        content_type: String,
        /// Octets it will have, if the peer knows.
        total: Option<u64>,
        /// Message-ID: a repeated value is a duplicate (RFC 4975 §5.4).
        message_id: String,
        /// Whether the peer wants a REPORT of success.
        success_report: bool,
        /// Which failures the peer wants to hear of.
        failure_report: FailureReport,
    },
    /// Octets of a message, in any order; those that come later win where they overlap
    /// (RFC 4975 §7.3.1).
    Data {
        /// Which.
        message: InboundId,
        /// Where they belong, from 0.
        offset: u64,
        /// The octets; never empty.
        octets: Bytes,
    },
    /// A chunk is over and waits for [`answer`](super::session::Session::answer). After `MessageDone`
    /// it is a repetition, without data.
    ChunkDone {
        /// Of which message.
        message: InboundId,
        /// Which.
        chunk: ChunkId,
        /// The octets it really had.
        range: ByteRange,
    },
    /// Every octet of the message is here. It waits for
    /// [`settle`](super::session::Session::settle).
    MessageDone {
        /// Which.
        message: InboundId,
        /// Octets.
        length: u64,
    },
    /// The message will not be completed: the peer gave it up, or it broke a bound and was refused.
    MessageAborted {
        /// Which.
        message: InboundId,
        /// The status it was refused with; `None` if the peer gave it up.
        status: Option<u16>,
    },
    /// The peer has confirmed every octet before `confirmed`, and more of the message is to come. Also
    /// for the chunks of a message that was given up, with 0: they leave room for another.
    Progress {
        /// Which.
        message: OutboundId,
        /// Octets from the start.
        confirmed: u64,
    },
    /// The peer has the whole message: 200 for every chunk, or success REPORTs for every octet. With
    /// Failure-Report partial or no and no Success-Report: it has left without complaint.
    Delivered {
        /// Which.
        message: OutboundId,
    },
    /// The peer refused the message; no more of it is sent.
    Refused {
        /// Which.
        message: OutboundId,
        /// With what (RFC 4975 §10).
        status: u16,
    },
    /// A chunk was not answered within 30 s, or 408 came from a relay.
    TimedOut {
        /// Which.
        message: OutboundId,
    },
    /// A REPORT came for a message we sent; a refusal follows as `Refused`, `TimedOut` or `Ended`.
    Report {
        /// Which.
        message: OutboundId,
        /// 200, or how it failed.
        status: u16,
        /// The octets it speaks of; all of them, if `None`.
        range: Option<ByteRange>,
    },
    /// The session is over; what is unconfirmed stays so.
    Ended {
        /// Why.
        reason: EndReason,
    },
}
