//! Notifications the participating function makes itself (RFC 5438, cpm-facts §8): `stored` once when
//! asked, `failed` when a kept message ends undelivered and the author asked to know.

use std::time::Duration;

use crate::clock::Now;
use crate::cpim;
use crate::identity::Identity;
use crate::imdn::{DispositionNotification, Dispositions, Kind, Status};
use crate::participating::internal::InternalMessage;
use crate::participating::service::Service;
use crate::store::request::{Body, DeferredMessage, MessageKind, Seq, Settlement};

/// How long a notification is kept for an author who is away.
const RECEIPT_WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

impl Service {
    /// The author hears `processing/stored` if he asked for it (RFC 5438 §7.2.1.2: once).
    pub(super) fn tell_stored(&mut self, message: &DeferredMessage, now: Now) {
        if message.dispositions.contains(Dispositions::PROCESSING) {
            self.notify_author(message, Kind::Processing, Status::Stored, now);
        }
    }

    /// The author hears `failed` if he asked for it. A notification never begets another.
    pub(super) fn tell_failed(&mut self, message: &DeferredMessage, now: Now) {
        if message.dispositions.contains(Dispositions::NEGATIVE) {
            self.notify_author(message, Kind::Delivery, Status::Failed, now);
        }
    }

    fn notify_author(&mut self, about: &DeferredMessage, kind: Kind, status: Status, now: Now) {
        if about.kind == MessageKind::Notification || !self.is_local(&about.author) {
            return;
        }
        let function = Identity::new("pf", &self.settings.domain);
        let message_id = self.tokens.token();
        let date_time = cpim::format_date_time(now.wall);
        let about_date_time = about.date_time.clone();
        let document = DispositionNotification {
            message_id: about.message_id.clone(),
            date_time: about_date_time.or_else(|| Some(cpim::format_date_time(about.accepted_at))),
            recipient_uri: Some(format!("sip:{}", about.recipient)),
            kind,
            status,
        };
        let (from, to) = (
            format!("<sip:{function}>"),
            format!("<sip:{}>", about.author),
        );
        let body = cpim::wrap_notification(&document, &from, &to, &date_time, &message_id);
        let notification = DeferredMessage {
            recipient: about.author.clone(),
            author: function,
            from,
            to,
            kind: MessageKind::Notification,
            conversation: about.conversation.clone(),
            contribution: self.tokens.token(),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: "message/cpim".to_owned(),
            message_id,
            date_time: Some(date_time),
            dispositions: Dispositions::default(),
            accepted_at: now.wall,
            expires_at: now.wall.plus(RECEIPT_WINDOW),
            duplicate_key: 0,
        };
        self.forward(InternalMessage::Accept {
            message: Box::new(notification),
            body: Body::Inline(body.into()),
            origin: None,
        });
    }

    /// Messages whose time is over: gone from the queue, and the author told.
    pub(super) fn handle_due(&mut self, due: Vec<(Seq, Box<DeferredMessage>)>, now: Now) {
        for (seq, message) in due {
            let key = super::arrival::conversation_key(&message);
            let machine = self.users.get(&message.recipient);
            if machine.is_some_and(|machine| machine.is_in_flight(&key, seq)) {
                self.due_in_flight
                    .insert((message.recipient.clone(), seq), message);
            } else {
                self.expire(seq, &message, now);
            }
        }
    }

    /// What expired while it was out with a delivery that has now ended without it.
    pub(super) fn expire_due_of(&mut self, user: &Identity, now: Now) {
        let mut over: Vec<(Identity, Seq)> = self
            .due_in_flight
            .keys()
            .filter(|key| key.0 == *user)
            .cloned()
            .collect();
        over.sort();
        for key in over {
            if let Some(message) = self.due_in_flight.remove(&key) {
                self.expire(key.1, &message, now);
            }
        }
    }

    /// It was delivered after all.
    pub(super) fn forget_due(&mut self, user: &Identity, seq: Seq) {
        if !self.due_in_flight.is_empty() {
            self.due_in_flight.remove(&(user.clone(), seq));
        }
    }

    fn expire(&mut self, seq: Seq, message: &DeferredMessage, now: Now) {
        tracing::info!(recipient = %message.recipient, seq = seq.0, "a kept message expired");
        let key = super::arrival::conversation_key(message);
        self.take_out(&message.recipient, &key, seq, Settlement::Expired);
        self.tell_failed(message, now);
        self.run_user(&message.recipient, now);
    }
}
