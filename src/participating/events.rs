//! Answers of the store, of SIP and of MSRP, each to the part that waits for it.

use crate::clock::Now;
use crate::participating::custody::CustodyEvent;
use crate::participating::first_message::FIRST;
use crate::participating::media::{AttemptId, MediaUse};
use crate::participating::service::{Service, Usage, Waiter};
use crate::sip::endpoint::EndpointEvent;
use crate::sip::message::Message;
use crate::sip::transaction::GoneReason;
use crate::sip::transport::flow::{ConnectionId, Flow};
use crate::store::request::{MessageKind, Refusal, Seq, StoreEvent, StoreRequest};
use bytes::Bytes;

impl Service {
    /// Answers what the store says.
    pub fn handle_store(&mut self, event: StoreEvent, now: Now) {
        let Some(event) = self.custody.handle_event(event) else {
            return;
        };
        match event {
            CustodyEvent::Stored(waiter, seq) => self.handle_stored(waiter, seq, now),
            CustodyEvent::Refused(waiter, refusal) => self.handle_refused(waiter, refusal, now),
            CustodyEvent::Answer(waiter, answer) => self.handle_read(waiter, answer, now),
            CustodyEvent::Appended(_, _) => {}
            CustodyEvent::Crowded(waiter, retained) => self.handle_crowded(waiter, retained, now),
            CustodyEvent::Ruined(user, seq, message, delivered) => {
                self.handle_ruined(&user, seq, message, delivered, now);
            }
        }
        self.resume_loads(now);
        self.resume_flushes(now);
        self.run_restless(now);
    }

    fn handle_stored(&mut self, waiter: Waiter, seq: Seq, now: Now) {
        match &waiter {
            Waiter::Pager(_) => self.metrics.stored_pager.count(),
            Waiter::Transit(..) => self.metrics.stored_session.count(),
            Waiter::Receipt(_) => self.metrics.stored_receipt.count(),
            Waiter::Internal(message, ..) => match message.kind {
                MessageKind::Notification => self.metrics.stored_receipt.count(),
                MessageKind::Chat | MessageKind::Large => self.metrics.stored_session.count(),
                MessageKind::Pager => self.metrics.stored_pager.count(),
            },
            _ => {}
        }
        match waiter {
            Waiter::Pager(id) => {
                self.handle_pager_stored(id, seq, now);
                self.after_pager(id, now);
            }
            Waiter::Transit(chat, side, number) => {
                self.handle_transit_stored(chat, side, number, seq, now)
            }
            Waiter::Internal(message, size, origin) => {
                self.answer_origin(origin, true);
                self.hold(&message, seq, size, false, now);
            }
            Waiter::Receipt(storing) => self.handle_receipt_stored(*storing, seq, now),
            Waiter::InLine(user, waiter, _) => {
                self.handle_stored(*waiter, seq, now);
                self.put_next_in_line(&user, now);
            }
            Waiter::Chunk(..)
            | Waiter::HandOver(..)
            | Waiter::Load(..)
            | Waiter::Delivery(..)
            | Waiter::Due
            | Waiter::Search(_)
            | Waiter::Oldest(_)
            | Waiter::Operator(..)
            | Waiter::Left(..)
            | Waiter::Flushed(..)
            | Waiter::Evicted(..) => {}
        }
    }

    pub(super) fn handle_refused(&mut self, waiter: Waiter, refusal: Refusal, now: Now) {
        let is_over = matches!(refusal, Refusal::OverQuota | Refusal::TooLarge);
        if is_over && !matches!(waiter, Waiter::InLine(..)) {
            self.metrics.refused_quota.count();
        }
        match waiter {
            Waiter::Pager(id) => {
                self.handle_pager_not_stored(id, refusal, now);
                self.after_pager(id, now);
            }
            Waiter::Transit(chat, _, FIRST) => self.first_not_stored(chat, Some(refusal), now),
            Waiter::Transit(chat, side, number) => {
                self.handle_transit_not_stored(chat, side, number, now)
            }
            Waiter::Chunk(chat, side, number) => {
                self.handle_transit_not_stored(chat, side, number, now)
            }
            Waiter::HandOver(chat, side, number, spool) => {
                self.custody.tell(StoreRequest::Drop { spool });
                self.handle_transit_not_stored(chat, side, number, now);
            }
            Waiter::Delivery(id, seq) => self.handle_delivery_unread(id, seq, refusal, now),
            Waiter::Internal(message, size, origin) => {
                let is_dropped = self.drop_own_receipt(&message, refusal);
                self.answer_origin(origin, is_dropped);
                self.end_storing(&message, size, now);
            }
            Waiter::Operator(ticket, _) => self.handle_operator_refused(ticket, refusal),
            Waiter::Receipt(storing) => self.handle_receipt_not_stored(*storing, refusal, now),
            Waiter::Load(identity, after) => self.postponed_loads.push_back((identity, after)),
            Waiter::Oldest(user) | Waiter::Evicted(user, ..) => {
                self.handle_not_evicted(&user, refusal, now);
            }
            Waiter::InLine(user, waiter, _) => {
                self.handle_refused(*waiter, refusal, now);
                self.put_next_in_line(&user, now);
            }
            Waiter::Left(user, number) => self.handle_left(&user, number, None),
            Waiter::Flushed(user, number) => self.handle_flushed(&user, number, now),
            Waiter::Due | Waiter::Search(_) => {}
        }
    }

    fn handle_read(&mut self, waiter: Waiter, answer: StoreEvent, now: Now) {
        match (waiter, answer) {
            (Waiter::Load(user, _), StoreEvent::Loaded { held, more, .. }) => {
                self.handle_loaded(&user, held, more, now);
            }
            (Waiter::Search(search), StoreEvent::Loaded { held, more, .. }) => {
                self.handle_searched(*search, &held, more, now);
            }
            (Waiter::Left(user, number), StoreEvent::Loaded { held, .. }) => {
                self.handle_left(&user, number, Some(held.is_empty()));
            }
            (Waiter::Flushed(user, number), _) => self.handle_flushed(&user, number, now),
            (Waiter::Operator(ticket, question), answer) => {
                self.handle_operator_read(ticket, question, answer, now);
            }
            (Waiter::Due, StoreEvent::Due { due, delivered, .. }) => {
                self.handle_due(due, &delivered, now);
            }
            (Waiter::Oldest(user), StoreEvent::Loaded { held, .. }) => {
                self.handle_oldest(&user, held, now);
            }
            (Waiter::Evicted(user, seq, delivered), answer) => {
                self.handle_evicted(&user, seq, delivered, answer, now);
            }
            (Waiter::Delivery(id, seq), answer) => self.handle_delivery_read(id, seq, answer, now),
            (Waiter::Chunk(chat, side, number), StoreEvent::Synced { .. }) => {
                self.handle_chunk_synced(chat, side, number, now);
            }
            (Waiter::HandOver(chat, side, number, spool), StoreEvent::Synced { .. }) => {
                self.handle_body_synced(chat, side, number, spool, now);
            }
            (Waiter::Transit(chat, side, number), StoreEvent::Piece { octets, .. }) => {
                self.handle_transit_piece(chat, side, number, &octets, now);
            }
            _ => {}
        }
    }

    /// Answers what the SIP endpoint says; what is to be sent comes back.
    pub fn poll_transmit(&mut self, now: Now) -> Option<(Flow, Bytes)> {
        loop {
            let event = self.sip.poll_event()?;
            match event {
                EndpointEvent::Transmit(flow, octets) => return Some((flow, octets)),
                EndpointEvent::Answer(flow, octets) => {
                    if self.sources.may_answer(flow.remote.ip(), now.instant) {
                        return Some((flow, octets));
                    }
                    self.metrics.withheld_rate.count();
                }
                EndpointEvent::Withheld => self.metrics.withheld_length.count(),
                EndpointEvent::Response(usage, response, flow) => {
                    self.handle_response(usage, response, flow, now);
                }
                EndpointEvent::TimedOut(usage) => self.handle_silence(usage, false, now),
                EndpointEvent::Unreachable(usage) => self.handle_silence(usage, true, now),
                EndpointEvent::ServerGone(server, GoneReason::NoAck) => {
                    self.handle_unacknowledged(server, now);
                }
                EndpointEvent::ServerGone(..) => {}
            }
            self.run_restless(now);
        }
    }

    fn handle_response(&mut self, usage: Usage, response: Message, flow: Flow, now: Now) {
        match usage {
            Usage::Pager(id, device) => {
                self.handle_pager_response(id, device, response, now);
                self.after_pager(id, now);
            }
            Usage::Delivery(id) => self.handle_delivery_response(id, &response, flow, now),
            Usage::Chat(id, branch) => self.handle_chat_response(id, branch, response, flow, now),
            Usage::Relay(id, branch) => self.handle_relay_response(id, branch, &response, now),
            Usage::Leg(leg, cseq) => self.handle_leg_response(leg, cseq, &response, flow, now),
            Usage::Nobody => {}
        }
    }

    fn handle_silence(&mut self, usage: Usage, unreachable: bool, now: Now) {
        match usage {
            Usage::Pager(id, _) => {
                self.handle_pager_silence(id, now);
                self.after_pager(id, now);
            }
            Usage::Delivery(id) => self.handle_delivery_silence(id, now),
            Usage::Chat(id, branch) => self.handle_chat_silence(id, branch, now),
            Usage::Relay(id, branch) => self.handle_relay_silence(id, branch, unreachable, now),
            Usage::Leg(leg, cseq) => self.handle_leg_silence(leg, cseq, now),
            Usage::Nobody => {}
        }
    }

    /// An MSRP connection we asked for stands.
    pub fn media_connected(&mut self, attempt: AttemptId, connection: ConnectionId) {
        self.media
            .handle_connected(attempt, connection, &mut self.tokens);
    }

    /// Octets have left on an MSRP connection: there may be room for more.
    pub fn media_written(&mut self, connection: ConnectionId, octets: usize, now: Now) {
        for (_, usage) in self.media.handle_written(connection, octets, now) {
            match usage {
                MediaUse::Chat(chat, side) => self.pump(chat, side, now),
                MediaUse::Replay(delivery) => self.pump_replay(delivery, now),
            }
        }
    }

    /// Answers what the MSRP sessions say.
    pub fn run_media(&mut self, now: Now) {
        while let Some((_, usage, event)) = self.media.poll_event() {
            match usage {
                MediaUse::Chat(chat, side) => self.handle_chat_media(chat, side, event, now),
                MediaUse::Replay(delivery) => self.handle_replay_media(delivery, event, now),
            }
            self.run_restless(now);
        }
        // Only now is it known which of them ended their message.
        for (chat, side, message) in std::mem::take(&mut self.chunks_to_settle) {
            self.settle_chunk(chat, side, message, now);
        }
    }
}
