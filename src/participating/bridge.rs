//! What passes between the two MSRP legs of a chat.
//!
//! While both live, the author's 200 follows the recipient's (decision 1): every message also lies in
//! an unsynced spool until the other side has confirmed it. A leg that is lost, or silent for too
//! long, turns what it did not confirm into custody: stored first, answered then.

use bytes::Bytes;

use crate::clock::Now;
use crate::msrp::event::{EndReason, InboundId, OutboundId, SessionEvent};
use crate::msrp::frame::FailureReport;
use crate::msrp::outgoing::OutboundMessage;
use crate::participating::arrival::{self, Content};
use crate::participating::chat::{ChatId, ChatState, Side};
use crate::participating::internal::{InternalMessage, Origin};
use crate::participating::media::MediaId;
use crate::participating::service::{Service, Waiter};
use crate::participating::spool::BodySize;
use crate::participating::transit::{Fate, Transit};
use crate::sip::message::HeaderName;
use crate::sip::rejection::Rejection;
use crate::store::request::{BodySource, DeferredMessage, MessageKind, Seq, StoreRequest};

/// MSRP status for a message that cannot be kept: the sender is to stop sending it (RFC 4975 §10.5).
const CANNOT_KEEP: u16 = 413;

impl Service {
    /// Something happened in the MSRP session of one side of a chat.
    pub(super) fn handle_chat_media(
        &mut self,
        id: ChatId,
        side: Side,
        event: SessionEvent,
        now: Now,
    ) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.quiet_since = now.instant;
        match event {
            SessionEvent::Bound => self.pump(id, side, now),
            SessionEvent::MessageBegun {
                message,
                content_type,
                total,
                success_report,
                ..
            } => {
                self.begin_transit(id, side, message, content_type, total, success_report, now);
            }
            SessionEvent::Data {
                message,
                offset,
                octets,
            } => {
                self.carry(id, side, message, offset, octets, now);
            }
            SessionEvent::ChunkDone {
                message,
                chunk,
                range,
            } => {
                let end = range.end.unwrap_or_default();
                if let Some(transit) = self.transit(id, side, message) {
                    transit.unanswered.push_back((chunk, end));
                }
                self.answer_confirmed(id, side, message);
                self.chunks_to_settle.push((id, side, message));
            }
            SessionEvent::MessageDone { message, length } => {
                self.complete(id, side, message, length, now)
            }
            SessionEvent::MessageAborted { message, .. } => self.abort_transit(id, side, message),
            SessionEvent::Progress { message, confirmed } => {
                self.handle_progress(id, side, message, confirmed, now);
            }
            SessionEvent::Delivered { message } => self.handle_delivered(id, side, message, now),
            SessionEvent::Refused { message, status } => {
                self.handle_refused_by_peer(id, side, message, status)
            }
            SessionEvent::TimedOut { .. } => self.break_leg(id, side, now),
            SessionEvent::Report {
                message,
                status,
                range,
            } => {
                if let Some((from, inbound)) = self.source_of(id, side, message) {
                    let (media, tokens) = (self.media_of(id, from), &mut self.tokens);
                    if let Some(session) = media.and_then(|media| self.media.session(media)) {
                        session.report(inbound, status, range, tokens);
                    }
                }
            }
            SessionEvent::Ended { reason } => self.handle_leg_ended(id, side, reason, now),
        }
    }

    fn handle_leg_ended(&mut self, id: ChatId, side: Side, reason: EndReason, now: Now) {
        tracing::debug!(?side, ?reason, "an MSRP leg of a chat is lost");
        self.break_leg(id, side, now);
    }

    pub(super) fn transit(
        &mut self,
        id: ChatId,
        side: Side,
        message: InboundId,
    ) -> Option<&mut Transit> {
        self.chats.get_mut(&id)?.transits.get_mut(&(side, message))
    }

    pub(super) fn media_of(&self, id: ChatId, side: Side) -> Option<MediaId> {
        self.chats.get(&id)?.leg(side).map(|leg| leg.media)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what a SEND says about its message"
    )]
    fn begin_transit(
        &mut self,
        id: ChatId,
        side: Side,
        message: InboundId,
        content_type: String,
        total: Option<u64>,
        success_report: bool,
        now: Now,
    ) {
        let out = if self.may_go_live(id, side) {
            let media = self.media_of(id, side.other());
            media.and_then(|media| {
                let session = self.media.session(media)?;
                let outbound = OutboundMessage {
                    message_id: None,
                    content_type: content_type.clone(),
                    length: total,
                    success_report,
                    failure_report: FailureReport::Yes,
                };
                Some(session.send(outbound, &mut self.tokens))
            })
        } else {
            None
        };
        let deadline = now.instant + self.settings.custody_after;
        let fate = out.map_or(Fate::Custody, Fate::Live);
        if let Some(chat) = self.chats.get_mut(&id) {
            let transit = Transit::new(content_type, fate, deadline);
            chat.transits.insert((side, message), transit);
        }
    }

    /// Decision 10: the recipient's machine lets a live message pass while nothing of its conversation
    /// is held or replayed.
    fn may_go_live(&self, id: ChatId, side: Side) -> bool {
        let Some(chat) = self.chats.get(&id) else {
            return false;
        };
        if chat.state != ChatState::Live {
            return false;
        }
        let earlier = chat.transits.iter().any(|((from, _), transit)| {
            *from == side && matches!(transit.fate, Fate::Custody | Fate::Storing(..))
        });
        let free = match side {
            Side::Caller => {
                let key = chat.conversation_of(side);
                self.users
                    .get(&chat.callee)
                    .is_none_or(|user| user.may_pass(&key))
            }
            Side::Callee => true,
        };
        free && !earlier
    }

    /// Octets of a message: into the spool, and on to the other side if it is their turn.
    fn carry(
        &mut self,
        id: ChatId,
        side: Side,
        message: InboundId,
        offset: u64,
        octets: Bytes,
        now: Now,
    ) {
        let custody = &mut self.custody;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let Some(transit) = chat.transits.get_mut(&(side, message)) else {
            return;
        };
        let requests = transit.write(offset, octets.clone(), || custody.new_spool());
        for request in requests {
            custody.tell(request);
        }
        let out = transit.outbound();
        let peer = chat.leg(side.other()).map(|leg| leg.media);
        if let (Some(out), Some(peer)) = (out, peer)
            && let Some(session) = self.media.session(peer)
        {
            let wanted = session.wants_of(out);
            if wanted.is_some_and(|want| want.offset == offset) {
                session.supply(out, &octets, &mut self.tokens);
                return;
            }
        }
        self.pump(id, side.other(), now);
    }

    /// Gives the session on `side` what it can take of the messages from the other side.
    pub(super) fn pump(&mut self, id: ChatId, side: Side, now: Now) {
        let Some(media) = self.media_of(id, side) else {
            return;
        };
        loop {
            if !self.media.has_room_for(media) {
                return;
            }
            let wanted = self
                .media
                .session(media)
                .and_then(|session| session.wants());
            let Some(want) = wanted else { return };
            if !self.supply(id, side, want.message, want.offset, want.max, now) {
                return;
            }
        }
    }

    fn supply(
        &mut self,
        id: ChatId,
        side: Side,
        out: OutboundId,
        offset: u64,
        most: usize,
        now: Now,
    ) -> bool {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return false;
        };
        let Some(media) = self.media_of(id, side) else {
            return false;
        };
        let Some(transit) = self.transit(id, from, inbound) else {
            return false;
        };
        let ready = transit.covered.prefix().saturating_sub(offset);
        let most = most.min(usize::try_from(ready).unwrap_or(most));
        if most == 0 {
            if transit.complete == Some(offset)
                && let Some(session) = self.media.session(media)
            {
                session.end(out, &mut self.tokens);
            }
            return false;
        }
        if let Some(octets) = transit.spool.read(offset, most) {
            if let Some(session) = self.media.session(media) {
                session.supply(out, &octets, &mut self.tokens);
            }
            return !octets.is_empty();
        }
        let spool = transit.spool.id();
        if !std::mem::replace(&mut transit.reading, true)
            && let Some(spool) = spool
        {
            let waiter = Waiter::Transit(id, from, inbound);
            let asked = self
                .custody
                .read(BodySource::Spool(spool), offset, most, waiter, now);
            if asked.is_err()
                && let Some(transit) = self.transit(id, from, inbound)
            {
                transit.reading = false;
            }
        }
        false
    }

    /// Octets that had gone to the store are back for the other side.
    pub(super) fn handle_transit_piece(
        &mut self,
        id: ChatId,
        from: Side,
        inbound: InboundId,
        octets: &Bytes,
        now: Now,
    ) {
        let Some(transit) = self.transit(id, from, inbound) else {
            return;
        };
        transit.reading = false;
        let out = transit.outbound();
        let media = self.media_of(id, from.other());
        if let (Some(out), Some(media)) = (out, media)
            && let Some(session) = self.media.session(media)
        {
            session.supply(out, octets, &mut self.tokens);
        }
        self.pump(id, from.other(), now);
    }

    /// The message that goes out as `out` on `side`.
    fn source_of(&self, id: ChatId, side: Side, out: OutboundId) -> Option<(Side, InboundId)> {
        let chat = self.chats.get(&id)?;
        let from = side.other();
        let matches = |transit: &Transit| transit.outbound() == Some(out);
        let mut all = chat.transits.iter();
        let found = all.find(|((own, _), transit)| *own == from && matches(transit));
        found.map(|((own, inbound), _)| (*own, *inbound))
    }

    fn handle_progress(
        &mut self,
        id: ChatId,
        side: Side,
        out: OutboundId,
        confirmed: u64,
        now: Now,
    ) {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return;
        };
        let deadline = now.instant + self.settings.custody_after;
        if let Some(transit) = self.transit(id, from, inbound) {
            transit.confirmed = confirmed;
            transit.deadline = deadline;
        }
        self.answer_confirmed(id, from, inbound);
        self.pump(id, side, now);
    }

    /// A chunk is answered 200 when the other side has confirmed all it held.
    fn answer_confirmed(&mut self, id: ChatId, from: Side, inbound: InboundId) {
        let media = self.media_of(id, from);
        let Some(transit) = self.transit(id, from, inbound) else {
            return;
        };
        let mut ready = Vec::new();
        if transit.is_live() {
            let confirmed = transit.confirmed;
            while let Some((chunk, _)) = transit
                .unanswered
                .front()
                .filter(|(_, end)| *end <= confirmed && *end > 0)
            {
                ready.push(*chunk);
                transit.unanswered.pop_front();
            }
        }
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            for chunk in ready {
                session.answer(chunk, 200);
            }
        }
    }

    fn handle_delivered(&mut self, id: ChatId, side: Side, out: OutboundId, now: Now) {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return;
        };
        let Some(transit) = self.transit(id, from, inbound) else {
            return;
        };
        let spool = transit.spool.id();
        transit.fate = Fate::Confirmed(out);
        transit.spool = super::spool::Spool::new();
        transit.unanswered.clear();
        if let Some(spool) = spool {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        let media = self.media_of(id, from);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(inbound, 200);
        }
        self.forget_confirmed(id);
        self.pump(id, side, now);
    }

    /// Confirmed messages are remembered for their REPORT, the latest few of them.
    fn forget_confirmed(&mut self, id: ChatId) {
        const REMEMBERED: usize = 32;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let confirmed = |transit: &Transit| matches!(transit.fate, Fate::Confirmed(_));
        let all: Vec<(Side, InboundId)> = chat
            .transits
            .iter()
            .filter(|(_, transit)| confirmed(transit))
            .map(|(key, _)| *key)
            .collect();
        for key in all.iter().take(all.len().saturating_sub(REMEMBERED)) {
            chat.transits.remove(key);
        }
    }

    /// Row 13 of cpm-facts §6: what the device refuses is refused to the author, and not kept.
    fn handle_refused_by_peer(&mut self, id: ChatId, side: Side, out: OutboundId, status: u16) {
        let Some((from, inbound)) = self.source_of(id, side, out) else {
            return;
        };
        self.end_transit(id, from, inbound, status);
    }

    /// Answers what is unanswered of a message with `status` and forgets it.
    pub(super) fn end_transit(&mut self, id: ChatId, from: Side, inbound: InboundId, status: u16) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let spool = chat
            .transits
            .remove(&(from, inbound))
            .and_then(|transit| transit.spool.id());
        if let Some(spool) = spool {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        let media = self.media_of(id, from);
        if let Some(session) = media.and_then(|media| self.media.session(media)) {
            session.settle(inbound, status);
            if status == 200 {
                session.report_success(inbound, &mut self.tokens);
            }
        }
    }

    fn abort_transit(&mut self, id: ChatId, side: Side, inbound: InboundId) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let Some(transit) = chat.transits.remove(&(side, inbound)) else {
            return;
        };
        if let Some(spool) = transit.spool.id() {
            self.custody.tell(StoreRequest::Drop { spool });
        }
        let peer = self.media_of(id, side.other());
        if let (Some(out), Some(session)) = (
            transit.outbound(),
            peer.and_then(|peer| self.media.session(peer)),
        ) {
            session.abort(out, &mut self.tokens);
        }
    }

    fn complete(&mut self, id: ChatId, side: Side, inbound: InboundId, length: u64, now: Now) {
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        transit.complete = Some(length);
        match transit.fate {
            Fate::Custody => self.store_transit(id, side, inbound, now),
            Fate::Live(_) => self.pump(id, side.other(), now),
            Fate::Confirmed(_) | Fate::Storing(..) => {}
        }
    }

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
            Fate::Live(out) => {
                if let Some(session) = peer.and_then(|peer| self.media.session(peer)) {
                    session.flush(out, &mut self.tokens);
                }
            }
            _ => self.sync_chunks(id, side, inbound, now),
        }
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
        if !waits || transit.syncing.is_some() || transit.unanswered.is_empty() {
            return;
        }
        if let Some(request) = transit.spool.spill(|| custody.new_spool()) {
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
        let message = match self.kept_message(id, side, inbound, now) {
            Ok(Some(message)) => Box::new(message),
            Ok(None) => return self.end_transit(id, side, inbound, 200),
            Err(rejection) => return self.end_transit(id, side, inbound, rejection.status),
        };
        if self.recent.find(message.duplicate_key).is_some() {
            return self.end_transit(id, side, inbound, 200);
        }
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        let body = std::mem::take(&mut transit.spool).into_body();
        transit.fate = Fate::Storing(message.clone(), BodySize::of(&body));
        let here = crate::identity::shard_of(&message.recipient, self.settings.shards)
            == self.settings.shard;
        if here {
            let waiter = Waiter::Transit(id, side, inbound);
            if !self.begin_custody(&message, body, waiter, now) {
                self.end_transit(id, side, inbound, CANNOT_KEEP);
            }
            return;
        }
        let number = self.next_number();
        self.foreign.insert(number, (id, side, inbound));
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

    /// The message as it is kept; `None` for what is never kept: somebody is typing.
    fn kept_message(
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
        if content.is_composing {
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
            kind: if content.is_notification {
                MessageKind::Notification
            } else {
                MessageKind::Chat
            },
            conversation: chat.ids.conversation.clone(),
            contribution: chat.ids.contribution.clone(),
            in_reply_to: chat.ids.in_reply_to.clone(),
            headers: arrival::privacy_of(&chat.invite),
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
        let Some(transit) = self.transit(id, side, inbound) else {
            return;
        };
        if let Fate::Storing(message, size) = std::mem::replace(&mut transit.fate, Fate::Custody) {
            self.recent.add(message.duplicate_key, seq, now);
            self.end_transit(id, side, inbound, 200);
            self.tell_stored(&message, now);
            self.hold(&message, seq, size, false, now);
        }
        self.end_if_settled(id, now);
    }

    /// The other shard has, or has not, taken a message into custody.
    pub(super) fn handle_accepted(&mut self, number: u64, durable: bool, now: Now) {
        let Some((id, side, inbound)) = self.foreign.remove(&number) else {
            return;
        };
        self.end_transit(id, side, inbound, if durable { 200 } else { CANNOT_KEEP });
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
