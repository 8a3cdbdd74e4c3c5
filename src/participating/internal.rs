//! What one shard tells another: a message for one of its users, and what became of it.

use std::sync::Arc;

use crate::identity::Identity;
pub use crate::participating::receipt_lane::HandedReceipt;
use crate::participating::receipts::{MessageRef, Receipt, Sent};
use crate::store::request::{Body, ConversationKey, DeferredMessage};

/// Travels between shards through their inboxes.
#[derive(Debug)]
pub enum InternalMessage {
    /// Take this message into custody for a user of the receiving shard and deliver it when possible.
    Accept {
        /// The message.
        message: Arc<DeferredMessage>,
        /// Its octets.
        body: Body,
        /// Who waits for [`InternalMessage::Accepted`]; `None` for notifications we make ourselves.
        origin: Option<Origin>,
    },
    /// Whether live messages of a conversation may pass to a user of the receiving shard: told once, and
    /// again whenever it changes, until [`InternalMessage::PassOver`].
    MayPass {
        /// To whom.
        user: Identity,
        /// Of which conversation.
        key: ConversationKey,
        /// The chat that asks.
        chat: Origin,
    },
    /// The answer to a `MayPass`.
    Pass {
        /// Of the chat.
        number: u64,
        /// Whether nothing older of the conversation waits.
        may_pass: bool,
    },
    /// The chat is over.
    PassOver {
        /// To whom.
        user: Identity,
        /// The chat that asked.
        chat: Origin,
    },
    /// The answer to an `Accept` that named an origin.
    Accepted {
        /// Of the `Accept`.
        number: u64,
        /// Whether the message is durable; otherwise nothing of it remains.
        durable: bool,
    },
    /// An author of the receiving shard has sent a message that asks for receipts.
    Sent(Box<Sent>),
    /// The same, to the recipient's shard, of an author who stays unnamed to him.
    Unnamed(Box<Sent>),
    /// A receipt for an author of the receiving shard: to be judged, stored and delivered.
    Receipt(Box<HandedReceipt>),
    /// May this receipt for an author of the receiving shard go to him by the way it came? If so, it
    /// counts as heard. Answered by `Receipted`.
    Ask(Box<Receipt>, Origin),
    /// A receipt that was to go to the author has not: it counts as not heard.
    TakenBack(Box<Receipt>),
    /// The answer to an `Ask`, and to a `Receipt` that named an origin.
    Receipted {
        /// Of the `Receipt`.
        number: u64,
        /// What became of it.
        outcome: ReceiptOutcome,
    },
    /// A user of the receiving shard has confirmed a message for him: no copy of it need wait.
    Confirmed(Box<MessageRef>),
}

/// What became of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// It is durable, or its author has had it before.
    Taken,
    /// It may go to the author by the way it came.
    Passed,
    /// It speaks of a message that was not for its sender.
    NotTheRecipient,
    /// Nothing of it remains: its sender still has it.
    NotKept,
}

impl ReceiptOutcome {
    /// What a sender over MSRP is answered (RFC 4975 §10).
    pub const fn msrp_status(self) -> u16 {
        match self {
            Self::Taken | Self::Passed => 200,
            Self::NotTheRecipient => 403,
            Self::NotKept => 413,
        }
    }
}

/// The asking shard and its own number for the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Which shard.
    pub shard: u16,
    /// Its number.
    pub number: u64,
}
