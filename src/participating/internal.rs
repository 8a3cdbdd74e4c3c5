//! What one shard tells another: a message for one of its users, and what became of it.

use crate::identity::Identity;
use crate::store::request::{Body, DeferredMessage};

/// Travels between shards through their inboxes.
#[derive(Debug)]
pub enum InternalMessage {
    /// Take this message into custody for a user of the receiving shard and deliver it when possible.
    Accept {
        /// The message.
        message: Box<DeferredMessage>,
        /// Its octets.
        body: Body,
        /// Who waits for [`InternalMessage::Accepted`]; `None` for notifications we make ourselves.
        origin: Option<Origin>,
    },
    /// A device of a user of the receiving shard has this message: no copy of it is owed.
    Confirmed {
        /// Whose device.
        recipient: Identity,
        /// Who wrote the message.
        author: Identity,
        /// Its `imdn.Message-ID`.
        message_id: String,
    },
    /// The answer to an `Accept` that named an origin.
    Accepted {
        /// Of the `Accept`.
        number: u64,
        /// Whether the message is durable; otherwise nothing of it remains.
        durable: bool,
    },
}

/// The asking shard and its own number for the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which shard.
    pub shard: u16,
    /// Its number.
    pub number: u64,
}
