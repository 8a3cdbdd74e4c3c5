//! What a device sends inside a replay: notifications are routed, chat content is refused, BYE ends it.

use crate::clock::Now;
use crate::msrp::event::InboundId;
use crate::participating::arrival::Content;
use crate::participating::delivery::DeliveryId;
use crate::participating::internal::InternalMessage;
use crate::participating::served_user::RunEnd;
use crate::participating::service::Service;
use crate::store::request::{Body, DeferredMessage, MessageKind};
use bytes::Bytes;

/// Octets of a notification that comes on the replay session.
const LARGEST_NOTIFICATION: usize = 32 * 1024;

impl Service {
    pub(super) fn gather_inbound(&mut self, id: DeliveryId, message: InboundId, octets: &Bytes) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let media = run.media;
        if let Some((own, buffer)) = &mut run.inbound
            && *own == message
            && buffer.len() + octets.len() <= LARGEST_NOTIFICATION
        {
            return buffer.extend_from_slice(octets);
        }
        run.inbound = None;
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(message, 403);
        }
    }

    /// A SEND wrapping a notification is a disposition; one with chat content is refused
    /// (cpm-facts §7.3.9).
    pub(super) fn inbound_done(&mut self, id: DeliveryId, message: InboundId, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let media = run.media;
        let octets = run
            .inbound
            .take()
            .filter(|(own, _)| *own == message)
            .map(|(_, octets)| octets);
        let octets = octets.unwrap_or_default();
        let is_notification =
            Content::read("message/cpim", &octets).is_ok_and(|content| content.is_notification);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(message, if is_notification { 200 } else { 403 });
        }
        if is_notification {
            self.route_notification(id, octets, now);
        }
    }

    /// The notification goes to the author like one that came by MESSAGE.
    fn route_notification(&mut self, id: DeliveryId, octets: Vec<u8>, now: Now) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let (user, key) = (delivery.user.clone(), delivery.key.clone());
        if !self.is_local(&key.author) {
            return;
        }
        let content = Content::read("message/cpim", &octets).unwrap_or_default();
        let message_id = content.message_id.unwrap_or_else(|| self.tokens.token());
        let notification = DeferredMessage {
            from: format!("<sip:{user}>"),
            to: format!("<sip:{}>", key.author),
            recipient: key.author,
            kind: MessageKind::Notification,
            conversation: key.conversation.to_string(),
            contribution: self.tokens.token(),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: "message/cpim".to_owned(),
            duplicate_key: 0,
            author: user,
            message_id,
            date_time: content.date_time,
            dispositions: crate::imdn::Dispositions::default(),
            accepted_at: now.wall,
            expires_at: now.wall.plus(self.settings.lifetimes.default),
        };
        self.forward(InternalMessage::Accept {
            message: Box::new(notification),
            body: Body::Inline(octets.into()),
            origin: None,
        });
    }

    /// The device hung up: what it has not confirmed stays.
    pub(super) fn handle_replay_bye(&mut self, id: DeliveryId, now: Now) {
        if let Some(leg) = self.session_run(id).and_then(|run| run.leg.take()) {
            self.dialogs.remove(&leg.key);
        }
        self.end_session_run(id, RunEnd::Parked, now);
    }
}
