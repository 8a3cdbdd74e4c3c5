//! A notification that a device has a message cancels the copy that is held of it: RCS clients
//! confirm the message of an INVITE while they ring, even if they refuse the INVITE afterwards
//! (cpm-facts §6).

use crate::clock::Now;
use crate::cpim::Envelope;
use crate::identity::Identity;
use crate::imdn::{DispositionNotification, Kind, Status};
use crate::participating::chat::ChatId;
use crate::participating::internal::InternalMessage;
use crate::participating::service::Service;
use crate::store::request::Settlement;

/// The `imdn.Message-ID` of the message that a notification reports as delivered or displayed.
pub(super) fn confirmed_by(envelope: &[u8]) -> Option<String> {
    let parsed = Envelope::parse(envelope).ok()?;
    let document = envelope.get(parsed.content())?;
    let notification = DispositionNotification::parse(document).ok()?;
    let confirms = matches!(
        (notification.kind, notification.status),
        (Kind::Delivery, Status::Delivered) | (Kind::Display, Status::Displayed)
    );
    confirms.then_some(notification.message_id)
}

impl Service {
    /// A notification from `recipient` to `author` passes by: the recipient's shard hears of it.
    pub(super) fn note_receipt(&mut self, recipient: &Identity, author: &Identity, body: &[u8]) {
        if !self.is_local(recipient) {
            return;
        }
        let Some(message_id) = confirmed_by(body) else {
            return;
        };
        let shard = crate::identity::shard_of(recipient, self.settings.shards);
        let confirmed = InternalMessage::Confirmed {
            recipient: recipient.clone(),
            author: author.clone(),
            message_id,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpim;

    fn notification(kind: Kind, status: Status) -> Vec<u8> {
        let document = DispositionNotification {
            message_id: "m1".to_owned(),
            date_time: None,
            recipient_uri: None,
            kind,
            status,
        };
        let (from, to, at) = ("<sip:b@d>", "<sip:a@d>", "2026-03-02T09:15:04Z");
        cpim::wrap_notification(&document, from, to, at, "n1")
    }

    #[test]
    fn delivered_and_displayed_confirm_a_message_and_nothing_else_does() {
        let confirms = |kind, status| confirmed_by(&notification(kind, status)).is_some();
        assert!(confirms(Kind::Delivery, Status::Delivered));
        assert!(confirms(Kind::Display, Status::Displayed));
        assert!(!confirms(Kind::Delivery, Status::Failed));
        assert!(!confirms(Kind::Processing, Status::Stored));
        assert_eq!(confirmed_by(b"no envelope"), None);
    }
}
