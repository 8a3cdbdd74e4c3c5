//! The border of a shard's pure core: what comes in, what it wants done.
//!
//! The shell ([`super::shell`]) turns sockets, store answers and other shards into [`Input`], and
//! performs every [`Action`] in the order given. Nothing here does I/O.

use bytes::Bytes;
use std::net::SocketAddr;

use crate::msrp::frame::FrameEvent;
use crate::net::pieces::Pieces;
use crate::participating::operator::{Answer, Question, Ticket};
use crate::sip::message::Message;
use crate::sip::transport::flow::{ConnectionId, Flow};
use crate::store::request::{StoreEvent, StoreRequest};

/// Names a connection attempt or a name look-up until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A whole SIP message for this shard, parsed once where it arrived.
    Sip {
        /// Where it came from; answers to a request go back there.
        flow: Flow,
        /// The message.
        message: Message,
        /// It is the retransmission of a request that was let in where it came in.
        is_again: bool,
    },
    /// A TCP flow was closed by either side, or could not be opened.
    FlowLost {
        /// The flow as it was given in `SendSip`, or as it came in.
        flow: Flow,
    },
    /// Pieces of MSRP frames whose To-Path (or transaction) belongs to this shard.
    Msrp {
        /// On which connection.
        connection: ConnectionId,
        /// Which pieces, as they came.
        events: Vec<FrameEvent>,
    },
    /// An MSRP connection speaks TLS; told to a shard before the first frame from it.
    MsrpSecured {
        /// Which.
        connection: ConnectionId,
        /// The certificate that the peer showed, in DER.
        certificate: Option<Bytes>,
    },
    /// An MSRP connection attempt succeeded.
    MsrpConnected {
        /// Of `ConnectMsrp`.
        attempt: Attempt,
        /// The connection, new or reused.
        connection: ConnectionId,
    },
    /// An MSRP connection attempt failed.
    MsrpUnreachable {
        /// Of `ConnectMsrp`.
        attempt: Attempt,
    },
    /// An MSRP connection ended; told to every shard that got frames from it or sent to it.
    MsrpLost {
        /// Which.
        connection: ConnectionId,
    },
    /// Octets handed over with `SendMsrp` have left for the kernel.
    MsrpWritten {
        /// On which connection.
        connection: ConnectionId,
        /// How many.
        octets: usize,
    },
    /// An answer of the store.
    Store(StoreEvent),
    /// A host name was looked up; empty if it has no address.
    Resolved {
        /// Of `Resolve`.
        attempt: Attempt,
        /// Best first.
        addresses: Vec<SocketAddr>,
    },
    /// A message for a user of this shard from another shard (a disposition notification, say).
    Internal(Box<crate::participating::internal::InternalMessage>),
    /// The operator asks; answered by `Action::Answer`.
    Operator {
        /// Returned with the answer.
        ticket: Ticket,
        /// What.
        question: Box<Question>,
    },
    /// No new work from here on; running replays may end.
    Drain,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Action {
    /// Send a whole SIP message. Over TCP without a connection the shell opens one (or reuses one to
    /// the same address) and keeps what waits for it within bounds.
    SendSip {
        /// Where to.
        flow: Flow,
        /// The message.
        octets: Bytes,
    },
    /// Open (or reuse) an MSRP connection.
    ConnectMsrp {
        /// Returned with the outcome.
        attempt: Attempt,
        /// Where to.
        remote: SocketAddr,
        /// To whom, over TLS.
        secure: Option<crate::participating::media::SecurePeer>,
    },
    /// Write octets to an MSRP connection; answered by `MsrpWritten`.
    SendMsrp {
        /// Which.
        connection: ConnectionId,
        /// What.
        octets: Pieces,
    },
    /// This shard needs an MSRP connection no more: close it once everything handed over is written,
    /// unless another shard still uses it.
    CloseMsrp {
        /// Which.
        connection: ConnectionId,
    },
    /// End an MSRP connection at once, whoever else uses it; `MsrpLost` follows.
    EndMsrp {
        /// Which.
        connection: ConnectionId,
    },
    /// An MSRP connection asked for a session that does not exist: that counts against its peer.
    StrayMsrp {
        /// Which.
        connection: ConnectionId,
    },
    /// Ask the store. The core never has more requests open than the credits it was given.
    Store(StoreRequest),
    /// Look up a host name.
    Resolve {
        /// Returned with the outcome.
        attempt: Attempt,
        /// The name.
        host: String,
        /// The port to put into the addresses.
        port: u16,
    },
    /// Hand a message to the shard of its recipient.
    Forward {
        /// Which shard.
        shard: u16,
        /// What.
        message: Box<crate::participating::internal::InternalMessage>,
    },
    /// Tell the operator.
    Answer {
        /// Of `Input::Operator`.
        ticket: Ticket,
        /// What.
        answer: Answer,
    },
    /// Everything that had to end before a stop has ended.
    Drained,
}
