//! Kept pager messages leave as SIP MESSAGE, oldest first, the next after the answer to the last
//! (RFC 3428 §8).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::clock::Now;
use crate::participating::delivery::{DeliveryBy, DeliveryId};
use crate::participating::outgoing;
use crate::participating::read_ahead::TOGETHER;
use crate::participating::refusal::Left;
use crate::participating::replay_table::{ReplayAnswer, refuses_message_for_good};
use crate::participating::served_user::RunEnd;
use crate::participating::service::{Service, Usage, Waiter};
use crate::sip::message::Message;
use crate::sip::retry_after::retry_after;
use crate::sip::transaction::table::Kind;
use crate::store::request::{BodySource, DeferredMessage, Held, Refusal, Seq, StoreEvent};

/// Octets asked for at a time when a long body is read back.
const PIECE: usize = 256 * 1024;

/// The message under way.
#[derive(Debug, Default)]
pub(super) struct MessageRun {
    held: Option<Held>,
    message: Option<Arc<DeferredMessage>>,
    body: BytesMut,
    length: u64,
    /// What was confirmed before must be durable before the next message goes out.
    waits_for_sync: bool,
}

impl MessageRun {
    /// Whether its next message waits for the sync of those before it.
    pub(super) fn waits_for_sync(&self) -> bool {
        self.waits_for_sync
    }

    fn carries(&self, seq: Seq) -> bool {
        self.held.as_ref().is_some_and(|held| held.seq == seq)
    }
}

impl Service {
    fn message_run(&mut self, id: DeliveryId) -> Option<&mut MessageRun> {
        match &mut self.deliveries.get_mut(&id)?.carrier {
            DeliveryBy::Message(run) => Some(run),
            DeliveryBy::Session(_) => None,
        }
    }

    /// Sends the run's next message, fetched unless it was read with an earlier one, or ends the run.
    pub(super) fn take_next_message(&mut self, id: DeliveryId, now: Now) {
        if self.goes_to_gone(id) {
            // The devices that are there now get the rest.
            return self.end_delivery(id, RunEnd::Parked, now);
        }
        if !self.may_hand_out(id, 0) {
            if let Some(run) = self.message_run(id) {
                run.waits_for_sync = true;
            }
            return;
        }
        let Some(held) = self.next_of_run(id, now) else {
            return self.end_delivery(id, RunEnd::Done, now);
        };
        let seq = held.seq;
        if let Some(run) = self.message_run(id) {
            *run = MessageRun {
                held: Some(held),
                ..MessageRun::default()
            };
        }
        if self.take_read_ahead(id, seq) {
            self.send_message_of_run(id, now);
        } else if !self.fetch_of_run(id, seq, TOGETHER, now) {
            self.end_delivery(id, RunEnd::Shortage, now);
        }
    }

    /// Whether the message was read with an earlier one: then the run has it now.
    fn take_read_ahead(&mut self, id: DeliveryId, seq: Seq) -> bool {
        let user = self.deliveries.get(&id).map(|delivery| &delivery.user);
        let Some(found) = user.and_then(|user| self.ahead.take(user, seq)) else {
            return false;
        };
        self.expect_receipts_of_kept(&found.message);
        let Some(run) = self.message_run(id) else {
            return false;
        };
        run.length = found.body.len() as u64;
        run.body = found.body.into();
        run.message = Some(found.message);
        true
    }

    /// The message or a piece of its body came from the store.
    pub(super) fn handle_run_read(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        event: StoreEvent,
        now: Now,
    ) {
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        let DeliveryBy::Message(run) = &mut delivery.carrier else {
            return;
        };
        if !run.carries(seq) {
            return;
        }
        match event {
            StoreEvent::Fetched {
                message,
                body,
                length,
                together,
                ..
            } => {
                self.ahead.put(&delivery.user, together);
                run.message = Some(message);
                run.length = length;
                run.body = body.map(BytesMut::from).unwrap_or_default();
            }
            StoreEvent::Piece { octets, .. } if octets.is_empty() => {
                return self.skip_unread_message(id, seq, Refusal::Damaged, now);
            }
            StoreEvent::Piece { octets, .. } => run.body.extend_from_slice(&octets),
            _ => return,
        }
        if (run.body.len() as u64) < run.length {
            self.read_more(id, now);
        } else {
            self.send_in_time(id, now);
        }
    }

    /// Sends the message, unless its time was over before it could leave, or it has come by another way: the disk
    /// or another device was slow.
    fn send_in_time(&mut self, id: DeliveryId, now: Now) {
        if self.has_come_meanwhile(id) {
            return self.take_next_message(id, now);
        }
        let Some(run) = self.message_run(id) else {
            return;
        };
        let expires_at = run.message.as_ref().map(|message| message.expires_at);
        let seq = run.held.as_ref().map(|held| held.seq);
        match seq {
            Some(seq) if expires_at.is_some_and(|at| self.has_expired(at, now)) => {
                self.skip_unread_message(id, seq, Refusal::Unknown, now);
            }
            _ => self.send_message_of_run(id, now),
        }
    }

    fn has_come_meanwhile(&self, id: DeliveryId) -> bool {
        let carried = self.deliveries.get(&id).and_then(|delivery| {
            let DeliveryBy::Message(run) = &delivery.carrier else {
                return None;
            };
            Some((delivery, run.held.as_ref()?.seq))
        });
        carried.is_some_and(|(delivery, seq)| {
            self.told.has_come(&delivery.user, seq, delivery.copies_for)
        })
    }

    fn read_more(&mut self, id: DeliveryId, now: Now) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let DeliveryBy::Message(run) = &delivery.carrier else {
            return;
        };
        let Some(held) = &run.held else { return };
        let source = BodySource::Message {
            recipient: delivery.user.clone(),
            seq: held.seq,
        };
        let offset = run.body.len() as u64;
        let waiter = Waiter::Delivery(id, held.seq);
        if self
            .custody
            .read(source, offset, PIECE, waiter, now)
            .is_err()
        {
            self.end_delivery(id, RunEnd::Shortage, now);
        }
    }

    fn send_message_of_run(&mut self, id: DeliveryId, now: Now) {
        let Some(delivery) = self.deliveries.get(&id) else {
            return;
        };
        let (DeliveryBy::Message(run), Some(target)) =
            (&delivery.carrier, delivery.targets.get(delivery.target))
        else {
            return;
        };
        let (Some(message), flow) = (&run.message, target.flow) else {
            return;
        };
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let domain = &self.settings.domain;
        let body: Bytes = run.body.clone().freeze();
        let octets =
            outgoing::message(message, &body, target, &via.value, domain, &mut self.tokens);
        let usage = Usage::Delivery(id);
        if self
            .sip
            .send(Kind::NonInvite, via, octets, flow, usage, now)
            .is_err()
        {
            self.end_delivery(id, RunEnd::Shortage, now);
        }
    }

    /// The device answered the MESSAGE.
    pub(super) fn handle_run_message_response(
        &mut self,
        id: DeliveryId,
        response: &Message,
        now: Now,
    ) {
        match response.status() {
            ..200 => {}
            200..300 => {
                let held = self.message_run(id).and_then(|run| run.held.take());
                if let Some(held) = held {
                    self.confirm(id, held.seq, now);
                }
                self.take_next_message(id, now);
            }
            status if refuses_message_for_good(status) => {
                self.message_refused_for_good(id, status, now);
            }
            status => {
                let asked = retry_after(response);
                self.message_refused(id, ReplayAnswer::of(status), asked, now);
            }
        }
    }

    /// This device will not take the message, whenever it is asked. If none is left that may, it has failed, and the
    /// next one leaves.
    fn message_refused_for_good(&mut self, id: DeliveryId, status: u16, now: Now) {
        let run = self.message_run(id).map(|run| &run.held);
        let Some(seq) = run.and_then(|held| held.as_ref()).map(|held| held.seq) else {
            return;
        };
        self.note_refusal(id, seq, status);
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        if delivery.copies_for.is_some() {
            return self.take_next_message(id, now);
        }
        if delivery.target + 1 < delivery.targets.len() {
            delivery.target += 1;
            return self.send_in_time(id, now);
        }
        let run = self
            .message_run(id)
            .map(|run| (run.message.take(), run.length));
        let Some((Some(message), length)) = run else {
            return self.end_delivery(id, RunEnd::Parked, now);
        };
        match self.left_to_try(id, seq, message.kind, length) {
            Left::Try(end) => self.end_delivery(id, end, now),
            Left::Nothing => {
                self.end_refused(seq, message, now);
                if let Some(delivery) = self.deliveries.get_mut(&id) {
                    delivery.target = 0;
                }
                self.take_next_message(id, now);
            }
        }
    }

    /// The device did not take the message.
    pub(super) fn message_refused(
        &mut self,
        id: DeliveryId,
        answer: ReplayAnswer,
        asked: Option<Duration>,
        now: Now,
    ) {
        if answer == ReplayAnswer::Gone {
            self.forget_gone_device(id);
        }
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        match answer {
            ReplayAnswer::NextDevice | ReplayAnswer::Gone
                if delivery.target + 1 < delivery.targets.len() =>
            {
                delivery.target += 1;
                self.send_in_time(id, now);
            }
            ReplayAnswer::Decline | ReplayAnswer::Keep => {
                self.end_delivery(id, RunEnd::Declined, now)
            }
            _ => self.end_delivery(id, RunEnd::Parked.after(asked), now),
        }
    }

    /// A message that the store lost track of is left out; a damaged one has been ended by `handle_ruined`.
    pub(super) fn skip_unread_message(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        refusal: Refusal,
        now: Now,
    ) {
        let Some(run) = self.message_run(id).filter(|run| run.carries(seq)) else {
            return;
        };
        let held = run.held.take();
        let key = self
            .deliveries
            .get(&id)
            .map(|d| (d.user.clone(), d.key.clone()));
        match (held, key, refusal) {
            (Some(held), Some((user, key)), Refusal::Unknown | Refusal::Damaged) => {
                self.leave_out(&user, &key, held.seq);
                self.take_next_message(id, now);
            }
            _ => self.end_delivery(id, RunEnd::Parked, now),
        }
    }
}
