//! Messages of a chat that the other side does not take: stored first, answered then.

use std::sync::Arc;

use crate::clock::Now;
use crate::msrp::event::InboundId;
use crate::participating::arrival::{self, Content};
use crate::participating::chat::{ChatId, Side};
use crate::participating::first_message::FIRST;
use crate::participating::internal::{InternalMessage, Origin};
use crate::participating::large::SessionService;
use crate::participating::receipts::MessageRef;
use crate::participating::service::{Service, Waiter};
use crate::participating::spool::BodySize;
use crate::participating::transit::Fate;
use crate::sip::message::HeaderName;
use crate::sip::rejection::Rejection;
use crate::store::request::{
    Body, DeferredMessage, MessageKind, Seq, Settlement, SpoolId, StoreRequest,
};

/// MSRP status for a message that cannot be kept: the sender is to stop sending it (RFC 4975 §10.5).
pub(super) const CANNOT_KEEP: u16 = 413;

impl Service {
    /// A chunk that did not end its message waits for an answer: live, the other side must see it now;
    /// in custody it must be durable.
    pub(super) fn settle_chunk(&mut self, id: ChatId, side: Side, inbound: InboundId, now: Now) {
        let peer = self.media_of(id, side.other());
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        if transit.complete.is_some() || transit.unanswered.is_empty() {
            return;
        }
        match transit.fate {
            Fate::Live(_) | Fate::Unread if !transit.is_cleared() => {
                self.keep_uncleared(id, side, inbound, now);
            }
            Fate::Live(out) => {
                if let Some(session) = peer.and_then(|peer| self.media.session(peer)) {
                    session.flush(out, &mut self.tokens);
                }
            }
            Fate::Unread => self.settle_unread(id, side, inbound, now),
            _ => self.sync_chunks(id, side, inbound, now),
        }
    }

    /// Nothing of a message goes on before it is known that it may, but its sender waits for an answer: it
    /// is kept.
    fn keep_uncleared(&mut self, id: ChatId, side: Side, inbound: InboundId, now: Now) {
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        if let Fate::Live(out) = std::mem::replace(&mut transit.fate, Fate::Custody) {
            self.give_up(id, side.other(), out);
        }
        self.sync_chunks(id, side, inbound, now);
    }

    /// The rest of a short message is still to come, and its sender may wait for an answer: a receipt
    /// is taken into custody chunk by chunk, anything else goes on as it is.
    fn settle_unread(&mut self, id: ChatId, side: Side, inbound: InboundId, now: Now) {
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        let read = Content::read(&transit.content_type, &transit.head);
        if read.is_ok_and(|content| content.is_notification) {
            transit.fate = Fate::Custody;
        } else {
            self.go_on(id, side, inbound, now);
        }
        self.settle_chunk(id, side, inbound, now);
    }

    /// A chunk of a message that is not complete must be durable before it is answered.
    pub(super) fn sync_chunks(&mut self, id: ChatId, side: Side, inbound: InboundId, now: Now) {
        let custody = &mut self.custody;
        let Some(transit) = self
            .chats
            .get_mut(&id)
            .and_then(|chat| chat.transits.get_mut(&(side, inbound)))
        else {
            return;
        };
        let waits = matches!(transit.fate, Fate::Custody) && transit.complete.is_none();
        // A chunk behind a gap waits until the one that fills it is whole.
        let prefix = transit.covered.prefix();
        let next = transit.unanswered.front();
        let is_ready = next.is_some_and(|(_, end)| *end <= prefix);
        if !waits || transit.syncing.is_some() || !is_ready {
            return;
        }
        if transit.discarded || transit.spool.length() == 0 {
            // Nothing of it is to be durable.
            transit.syncing = Some(transit.covered.prefix());
            return self.handle_chunk_synced(id, side, inbound, now);
        }
        for request in transit.spool.spill(|| custody.new_spool()) {
            custody.tell(request);
        }
        let Some(spool) = transit.spool.id() else {
            return;
        };
        transit.syncing = Some(transit.covered.prefix());
        let waiter = Waiter::Chunk(id, side, inbound);
        if custody.sync(spool, waiter, now).is_err() {
            self.end_transit(id, side, inbound, CANNOT_KEEP);
        }
    }

    /// The octets of some chunks are durable.
    pub(super) fn handle_chunk_synced(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        now: Now,
    ) {
        let media = self.media_of(id, side);
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        let durable = transit.syncing.take().unwrap_or_default();
        let mut ready = Vec::new();
        while let Some((chunk, _)) = transit
            .unanswered
            .front()
            .filter(|(_, end)| *end <= durable)
        {
            ready.push(*chunk);
            transit.unanswered.pop_front();
        }
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            for chunk in ready {
                session.answer(chunk, 200);
            }
        }
        self.sync_chunks(id, side, inbound, now);
    }

    /// Takes a complete message into custody for the person on the other side.
    pub(super) fn store_transit(&mut self, id: ChatId, side: Side, inbound: InboundId, now: Now) {
        if inbound == FIRST {
            return self.store_first(id, now);
        }
        let message = match self.kept_message(id, side, inbound, now) {
            Ok(Some(message)) => Arc::new(message),
            Ok(None) => return self.end_transit(id, side, inbound, 200),
            Err(rejection) => return self.end_transit(id, side, inbound, rejection.status),
        };
        if self.recent.find(message.duplicate_key).is_some() {
            return self.end_transit(id, side, inbound, 200);
        }
        let Some(body) = self.begin_storing(id, side, inbound, &message) else {
            return;
        };
        let here = crate::identity::shard_of(&message.recipient, self.settings.shards)
            == self.settings.shard;
        if here {
            let waiter = Waiter::Transit(id, side, inbound);
            if !self.begin_custody(&message, body, waiter, now) {
                self.end_transit(id, side, inbound, CANNOT_KEEP);
            }
            return;
        }
        match body {
            Body::Inline(_) => self.hand_over(id, side, inbound, message, body),
            Body::Spooled { spool, .. } => {
                // The other shard's requests reach the store by another way than these octets.
                let waiter = Waiter::HandOver(id, side, inbound, spool);
                if self.custody.sync(spool, waiter, now).is_err() {
                    self.custody.tell(StoreRequest::Drop { spool });
                    self.end_transit(id, side, inbound, CANNOT_KEEP);
                }
            }
        }
    }

    /// The octets of a message for a user of another shard are durable.
    pub(super) fn handle_body_synced(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        spool: SpoolId,
        now: Now,
    ) {
        let transit = self.transit(id, side, inbound);
        let storing = transit.and_then(|transit| match &transit.fate {
            Fate::Storing(message, size) if !transit.is_taken => {
                Some((message.clone(), size.octets))
            }
            _ => None,
        });
        if let Some((message, length)) = storing {
            let body = Body::Spooled { spool, length };
            return self.hand_over(id, side, inbound, message, body);
        }
        // The recipient has it after all, or nobody waits for the answer any more.
        self.custody.tell(StoreRequest::Drop { spool });
        if self.transit(id, side, inbound).is_some() {
            self.end_transit(id, side, inbound, 200);
            self.end_if_settled(id, now);
        }
    }

    /// Asks the recipient's shard to take a message into custody.
    fn hand_over(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        message: Arc<DeferredMessage>,
        body: Body,
    ) {
        let spool = match body {
            Body::Spooled { spool, .. } => Some(spool),
            Body::Inline(_) => None,
        };
        let number = self.next_number();
        self.foreign.insert(number, (id, side, inbound, spool));
        let origin = Some(Origin {
            shard: self.settings.shard,
            number,
        });
        self.forward(InternalMessage::Accept {
            message,
            body,
            origin,
        });
    }

    /// Takes the octets out of a message that is on its way to the disk from now on.
    pub(super) fn begin_storing(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        message: &Arc<DeferredMessage>,
    ) -> Option<Body> {
        let custody = &mut self.custody;
        let transits = &mut self.chats.get_mut(&id)?.transits;
        let transit = transits.get_mut(&(side, inbound))?;
        let (requests, body) = transit.spool.take_body(|| custody.new_spool());
        for request in requests {
            custody.tell(request);
        }
        transit.fate = Fate::Storing(Arc::clone(message), BodySize::of(&body));
        Some(body)
    }

    /// Whether a short message was kept a moment ago: its author lost the answer with his session and says it
    /// again, while the recipient may have it already (decision 12).
    pub(super) fn is_repeated(&self, id: ChatId, side: Side, inbound: InboundId) -> bool {
        let repeated = || {
            let chat = self.chats.get(&id)?;
            let transit = chat.transits.get(&(side, inbound))?;
            let length = transit.complete?;
            let content = Content::read(&transit.content_type, &transit.head).ok()?;
            self.recent
                .find(arrival::chat_duplicate_key(&arrival::ChatMessage {
                    author: chat.person(side),
                    recipient: chat.person(side.other()),
                    message_id: &content.message_id?,
                    head: &transit.head,
                    length,
                }))
        };
        !self.recent.is_empty() && repeated().is_some()
    }

    /// The message as it is kept; `None` for what is never kept: somebody is typing, or
    /// is blocked without a word.
    pub(super) fn kept_message(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        now: Now,
    ) -> Result<Option<DeferredMessage>, Rejection> {
        let refused = Rejection::new(CANNOT_KEEP, "Not Kept");
        let chat = self.chats.get(&id).ok_or(refused)?;
        let transit = chat.transits.get(&(side, inbound)).ok_or(refused)?;
        let content = Content::read(&transit.content_type, &transit.head)?;
        if content.is_composing || transit.discarded {
            return Ok(None);
        }
        let (author, recipient) = (chat.person(side).clone(), chat.person(side.other()).clone());
        if !self.settings.deferral || !self.is_local(&recipient) {
            return Err(refused);
        }
        let value = |name| arrival::without_tag(chat.invite.header(name).unwrap_or_default());
        let (from, to) = (value(HeaderName::From), value(HeaderName::To));
        let (from, to) = if side == Side::Caller {
            (from, to)
        } else {
            (to, from)
        };
        let message_id = content.message_id.unwrap_or_else(|| self.tokens.token());
        Ok(Some(DeferredMessage {
            duplicate_key: arrival::chat_duplicate_key(&arrival::ChatMessage {
                author: &author,
                recipient: &recipient,
                message_id: &message_id,
                head: &transit.head,
                length: transit.complete.unwrap_or_default(),
            }),
            recipient,
            author,
            from,
            to,
            kind: match chat.service {
                _ if content.is_notification => MessageKind::Notification,
                SessionService::Large => MessageKind::Large,
                SessionService::Chat => MessageKind::Chat,
            },
            conversation: chat.ids.conversation.clone(),
            contribution: chat.ids.contribution.clone(),
            in_reply_to: chat.ids.in_reply_to.clone(),
            headers: arrival::headers_of_session(&chat.invite),
            content_type: transit.content_type.clone(),
            message_id,
            date_time: content.date_time,
            dispositions: content.dispositions,
            accepted_at: now.wall,
            expires_at: now.wall.plus(self.settings.lifetimes.default),
        }))
    }

    /// The store has the message: only now its sender hears 200.
    pub(super) fn handle_transit_stored(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        seq: Seq,
        now: Now,
    ) {
        if inbound == FIRST {
            return self.first_stored(id, seq, now);
        }
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        if let Fate::Storing(message, size) = std::mem::replace(&mut transit.fate, Fate::Custody) {
            let (is_taken, sent_as) = (transit.is_taken, transit.was_sent_as);
            self.recent.add(message.duplicate_key, seq, now);
            self.end_transit(id, side, inbound, 200);
            if is_taken {
                self.settle(&message.recipient, seq, Settlement::Delivered);
                self.end_storing(&message, size, now);
            } else {
                self.tell_stored(&message, now);
                if let Some(sent_as) = sent_as {
                    self.await_confirmation(id, side.other(), sent_as, &message, Some(seq));
                }
                self.hold(&message, seq, size, false, now);
            }
        }
        self.end_if_settled(id, now);
    }

    /// The other shard has, or has not, taken a message into custody.
    pub(super) fn handle_accepted(&mut self, number: u64, durable: bool, now: Now) {
        let Some((id, side, inbound, spool)) = self.foreign.remove(&number) else {
            return;
        };
        if let Some(spool) = spool.filter(|_| !durable) {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        let transit = self.transit(id, side, inbound).filter(|_| durable);
        let kept = transit.and_then(|transit| match &transit.fate {
            Fate::Storing(message, _) => {
                Some((message.clone(), transit.was_sent_as?, transit.is_taken))
            }
            _ => None,
        });
        self.end_transit(id, side, inbound, if durable { 200 } else { CANNOT_KEEP });
        match kept {
            Some((message, _, true)) => self.tell_keeper(MessageRef::of(&message)),
            Some((message, sent_as, false)) => {
                self.await_confirmation(id, side.other(), sent_as, &message, None);
            }
            None => {}
        }
        self.end_if_settled(id, now);
    }

    /// The message cannot be kept: its sender still has it.
    pub(super) fn handle_transit_not_stored(
        &mut self,
        id: ChatId,
        side: Side,
        inbound: InboundId,
        now: Now,
    ) {
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        if let Fate::Storing(message, size) = std::mem::replace(&mut transit.fate, Fate::Custody) {
            self.end_storing(&message, size, now);
        }
        self.end_transit(id, side, inbound, CANNOT_KEEP);
        self.end_if_settled(id, now);
    }
}
