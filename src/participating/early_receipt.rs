//! A notification that a device has a message cancels the copy that is held of it: RCS clients
//! confirm the message of an INVITE while they ring, even if they refuse the INVITE afterwards
//! (cpm-facts §6).

use crate::clock::Now;
use crate::identity::Identity;
use crate::imdn::{Kind, Status};
use crate::participating::chat::ChatId;
use crate::participating::internal::InternalMessage;
use crate::participating::receipts::Receipt;
use crate::participating::service::Service;
use crate::store::request::Settlement;

impl Service {
    /// A notification passes by: the shard of the message's recipient hears that a device has it.
    pub(super) fn note_receipt(&mut self, receipt: &Receipt) {
        let confirms = matches!(
            (receipt.kind, receipt.status),
            (Kind::Delivery, Status::Delivered) | (Kind::Display, Status::Displayed)
        );
        if !confirms || !self.is_local(&receipt.recipient) {
            return;
        }
        let shard = crate::identity::shard_of(&receipt.recipient, self.settings.shards);
        let confirmed = InternalMessage::Confirmed {
            recipient: receipt.recipient.clone(),
            author: receipt.author.clone(),
            message_id: receipt.message_id.clone(),
        };
        self.forwards.push_back((shard, Box::new(confirmed)));
    }

    /// A chat whose INVITE carries a message that a receipt may speak of.
    pub(super) fn await_receipt(&mut self, id: ChatId) {
        if self.firsts.len() > 2 * self.chats.len() + 16 {
            let chats = &self.chats;
            let waits = |id: &ChatId| chats.get(id).is_some_and(|chat| chat.first.is_some());
            self.firsts.retain(waits);
        }
        self.firsts.push(id);
    }

    /// A device of `recipient` has the message: no copy of it is owed.
    pub(super) fn handle_confirmed(
        &mut self,
        recipient: &Identity,
        author: &Identity,
        message_id: &str,
        now: Now,
    ) {
        for id in &self.firsts {
            let chat = self.chats.get_mut(id);
            if let Some(chat) = chat.filter(|it| it.callee == *recipient && it.caller == *author)
                && let Some(first) = chat.first.as_mut()
                && first.message.message_id() == Some(message_id)
            {
                first.confirmed = true;
            }
        }
        let machine = self.users.get(recipient);
        let held = machine.and_then(|machine| machine.waiting_message(author, message_id));
        if let Some((key, seq)) = held {
            tracing::debug!(%recipient, seq = seq.0, "confirmed before it was delivered again");
            self.take_out(recipient, &key, seq, Settlement::Delivered);
            self.run_user(recipient, now);
        }
    }
}
