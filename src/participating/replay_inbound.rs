//! What a device sends inside a replay: notifications are routed, chat content is refused, BYE ends it.

use crate::clock::Now;
use crate::cpim::{self, Envelope};
use crate::msrp::event::InboundId;
use crate::participating::arrival::{self, Content};
use crate::participating::delivery::{Delivery, DeliveryId};
use crate::participating::receipt_lane::Asker;
use crate::participating::receipts::{Notice, Receipt};
use crate::participating::service::Service;
use crate::registrar::Resolved;
use crate::store::request::{Body, ConversationKey, DeferredMessage, MessageKind};
use crate::uri::Uri;
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
        let octets = run
            .inbound
            .take()
            .filter(|(own, _)| *own == message)
            .map(|(_, octets)| octets);
        let octets = octets.unwrap_or_default();
        let content = Content::read(cpim::MEDIA_TYPE, &octets).ok();
        let Some(content) = content.filter(|content| content.is_notification) else {
            return self.settle_inbound(id, message, 403);
        };
        match Notice::read(cpim::MEDIA_TYPE, None, &octets) {
            Ok(notices) => self.route_notification(id, message, content, notices, octets, now),
            Err(_) => self.settle_inbound(id, message, 400),
        }
    }

    /// Answers what a device sent inside a replay, if the session still stands.
    pub(super) fn settle_inbound(&mut self, id: DeliveryId, message: InboundId, status: u16) {
        let media = self.session_run(id).and_then(|run| run.media);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(message, status);
        }
    }

    /// The notification goes to the author like one that came by MESSAGE; the device is answered when
    /// it is durable.
    fn route_notification(
        &mut self,
        id: DeliveryId,
        inbound: InboundId,
        content: Content,
        notices: Vec<Notice>,
        octets: Vec<u8>,
        now: Now,
    ) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let user = delivery.user.clone();
        let key = self.notified_conversation(delivery, &notices, &octets);
        let Some(key) = key.filter(|key| self.is_local(&key.author)) else {
            return self.settle_inbound(id, inbound, 403);
        };
        let message_id = content.message_id.unwrap_or_else(|| self.tokens.token());
        let notification = DeferredMessage {
            from: format!("<sip:{user}>"),
            to: format!("<sip:{}>", key.author),
            recipient: key.author.clone(),
            kind: MessageKind::Notification,
            conversation: key.conversation.to_string(),
            contribution: self.tokens.token(),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: cpim::MEDIA_TYPE.to_owned(),
            duplicate_key: 0,
            author: user.clone(),
            message_id,
            date_time: content.date_time,
            dispositions: crate::imdn::Dispositions::default(),
            accepted_at: now.wall,
            expires_at: now.wall.plus(self.settings.lifetimes.receipts),
        };
        let receipt = Receipt {
            author: key.author,
            speaker: user,
            own: false,
            notices,
        };
        let body = Body::Inline(octets.into());
        self.hand_receipt(receipt, notification, body, Asker::Replay(id, inbound));
    }

    /// Whom a notification is for. A replay speaks for one conversation; a fetch carries several, so
    /// that the message it names decides (RFC 5438 §7.2.1.1), else the `To` of its envelope.
    fn notified_conversation(
        &self,
        delivery: &Delivery,
        notices: &[Notice],
        octets: &[u8],
    ) -> Option<ConversationKey> {
        let Some(pulled) = &delivery.pulled else {
            return Some(delivery.key.clone());
        };
        let envelope = Envelope::parse(octets).ok()?;
        let named = envelope.to().map(cpim::uri_of);
        let named = named.and_then(|uri| match self.directory.resolve(&Uri::parse(uri).ok()?) {
            Resolved::Local(author) => Some(author),
            Resolved::Unknown | Resolved::Foreign => None,
        });
        let message_id = &notices.first()?.message_id;
        if let Some(key) = pulled.key_of_message(message_id, named.as_ref()) {
            return Some(key.clone());
        }
        let unnamed = self.hidden.author(&delivery.user, message_id);
        let author = unnamed.cloned().or(named)?;
        let conversation = arrival::standing_id(&delivery.user, &author);
        Some(ConversationKey {
            author,
            conversation: conversation.into(),
        })
    }

    /// The device hung up: what it has not confirmed stays.
    pub(super) fn handle_replay_bye(&mut self, id: DeliveryId, now: Now) {
        if let Some(leg) = self.session_run(id).and_then(|run| run.leg.take()) {
            self.dialogs.remove(&leg.key);
        }
        self.close_session_run(id, now);
    }
}
