//! Receipts inside a chat: what its messages ask for, and what passes between its legs.
//!
//! RFC 4975 §8.9 and RCS practice let receipts pass in the session whatever its direction. Each is
//! judged at its author's shard like one that comes by MESSAGE; fit ones go on in the session, or are
//! kept if the author's leg is gone.

use crate::clock::Now;
use crate::msrp::event::InboundId;
use crate::participating::arrival::Content;
use crate::participating::chat::{ChatId, Side};
use crate::participating::forward::wants_privacy;
use crate::participating::internal::{InternalMessage, Origin, ReceiptOutcome};
use crate::participating::receipt_lane::Asker;
use crate::participating::receipts::{MessageRef, Notice, Receipt};
use crate::participating::service::Service;
use crate::participating::transit::Fate;

impl Service {
    fn content_of(&mut self, id: ChatId, side: Side, inbound: InboundId) -> Option<Content> {
        let transit = self.transit(id, side, inbound)?;
        Content::read(&transit.content_type, &transit.head).ok()
    }

    /// A message of a chat is whole and may ask for receipts.
    pub(super) fn expect_receipts_of_chat(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        now: Now,
    ) {
        let content = self.content_of(id, side, inbound).unwrap_or_default();
        let (Some(chat), Some(message_id)) = (self.chats.get(&id), content.message_id) else {
            return;
        };
        if content.dispositions.is_empty() {
            return;
        }
        let message = MessageRef {
            author: chat.person(side).clone(),
            recipient: chat.person(side.other()).clone(),
            message_id: message_id.into(),
        };
        let is_private = side == Side::Caller && wants_privacy(&chat.invite);
        let expires = now.wall.plus(self.settings.lifetimes.default);
        self.expect_receipts(message, expires, is_private);
    }

    /// If a message that is whole is a receipt, its author's shard is asked whether it may go on; false
    /// for all else, and for authors elsewhere.
    pub(super) fn ask_for_receipt(&mut self, id: ChatId, side: Side, inbound: InboundId) -> bool {
        let content = self.content_of(id, side, inbound).unwrap_or_default();
        let Some(chat) = self.chats.get(&id).filter(|_| content.is_notification) else {
            return false;
        };
        let (author, speaker) = (chat.person(side.other()).clone(), chat.person(side).clone());
        if !self.is_local(&author) {
            return false;
        }
        let Some(transit) = self.transit(id, side, inbound) else {
            return false;
        };
        let Ok(notices) = Notice::read(&transit.content_type, None, &transit.head) else {
            self.end_transit(id, side, inbound, 400);
            return true;
        };
        let receipt = Box::new(Receipt {
            author: author.clone(),
            speaker,
            own: false,
            notices,
        });
        transit.fate = Fate::Asking;
        transit.receipt = Some(receipt.clone());
        let (number, shard) = (self.next_number(), self.settings.shard);
        let asker = Asker::Chat(id, side, inbound);
        self.receipts.askers.insert(number, asker);
        let ask = InternalMessage::Ask(receipt, Origin { shard, number });
        self.tell_shard_of(&author, ask);
        true
    }

    /// The author's shard has decided.
    pub(super) fn handle_chat_receipt(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        outcome: ReceiptOutcome,
        now: Now,
    ) {
        let transit = self.transit(id, side, inbound);
        match (transit, outcome) {
            (Some(_), ReceiptOutcome::Passed) => self.go_on(id, side, inbound, now),
            (Some(transit), _) => {
                transit.receipt = None;
                self.end_transit(id, side, inbound, outcome.msrp_status());
            }
            (None, _) => {}
        }
        self.end_if_settled(id, now);
    }

    /// A receipt that was fit to go to its author has been refused: its sender may try again.
    pub(super) fn take_receipt_back(&mut self, receipt: Box<Receipt>) {
        let author = receipt.author.clone();
        self.tell_shard_of(&author, InternalMessage::TakenBack(receipt));
    }
}
