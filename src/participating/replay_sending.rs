//! The messages of a replay on their way through its MSRP session.

use crate::clock::Now;
use crate::msrp::event::{OutboundId, SessionEvent};
use crate::msrp::frame::FailureReport;
use crate::msrp::outgoing::OutboundMessage;
use crate::participating::delivery::{DeliveryBy, DeliveryId};
use crate::participating::media::MediaId;
use crate::participating::reason::Reason;
use crate::participating::refusal::Left;
use crate::participating::replay_table::refuses_send_for_good;
use crate::participating::served_user::RunEnd;
use crate::participating::service::{Service, Waiter};
use crate::participating::session_run::{Phase, Sending};
use crate::store::request::{BodySource, Seq};
use bytes::Bytes;

/// Octets asked for at a time when a long body is read back.
const PIECE: usize = 64 * 1024;
impl Service {
    /// Hands what was read to the MSRP session.
    pub(super) fn send_ready(&mut self, id: DeliveryId, now: Now) {
        self.leave_out_vain(id, now);
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        let DeliveryBy::Session(run) = &mut delivery.carrier else {
            return;
        };
        let Some(session) = run.media.and_then(|media| self.media.session(media)) else {
            return;
        };
        for sending in run
            .sending
            .iter_mut()
            .filter(|sending| sending.out.is_none())
        {
            let outbound = OutboundMessage {
                message_id: None,
                content_type: "message/cpim".to_owned(),
                length: Some(sending.head.len() as u64 + sending.length),
                success_report: false,
                failure_report: FailureReport::Yes,
            };
            sending.out = Some(session.send(outbound, &mut self.tokens));
        }
        self.pump_replay(id, now);
    }

    /// What expired while the device rang is left to the next look for such ([`Self::look_for_expired`]); what has
    /// come to the device by another way meanwhile is carried no further.
    pub(super) fn leave_out_vain(&mut self, id: DeliveryId, now: Now) {
        let time = self.expiry.read(now);
        let told = &self.told;
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        let DeliveryBy::Session(run) = &mut delivery.carrier else {
            return;
        };
        let mut over = Vec::new();
        let (user, copies_for) = (delivery.user.clone(), delivery.copies_for);
        run.sending.retain(|sending| {
            if sending.out.is_some() {
                return true;
            }
            let is_over = sending.message.expires_at <= time;
            if is_over {
                over.push(sending.seq);
            }
            !is_over && !told.has_come(&user, sending.seq, copies_for)
        });
        for seq in over {
            if let Some(key) = self
                .deliveries
                .get(&id)
                .map(|delivery| delivery.key_of(seq))
            {
                self.leave_out(&user, &key, seq);
            }
        }
    }

    /// Supplies the session with as many octets as it takes; with none while the device holds it.
    pub(super) fn pump_replay(&mut self, id: DeliveryId, now: Now) {
        loop {
            let run = self.session_run(id);
            let sends = run.filter(|run| run.phase != Phase::Closing);
            let Some(media) = sends.and_then(|run| run.media) else {
                return;
            };
            if !self.media.has_room_for(media) || !self.media.may_send(media) {
                return;
            }
            let wanted = self
                .media
                .session(media)
                .and_then(|session| session.wants());
            let Some(want) = wanted else { return };
            if !self.supply_replay(id, media, want.message, want.offset, want.max, now) {
                return;
            }
        }
    }

    /// A device that takes nothing for a while may do so for as long as a session may be idle.
    pub(super) fn note_hold(&mut self, id: DeliveryId, now: Now) {
        let Some(media) = self.session_run(id).and_then(|run| run.media) else {
            return;
        };
        let held = !self.media.may_send(media);
        if let Some(run) = self.session_run(id) {
            run.held_since = held.then(|| run.held_since.unwrap_or(now.instant));
        }
    }

    fn supply_replay(
        &mut self,
        id: DeliveryId,
        media: MediaId,
        out: OutboundId,
        offset: u64,
        most: usize,
        now: Now,
    ) -> bool {
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return false;
        };
        let DeliveryBy::Session(run) = &mut delivery.carrier else {
            return false;
        };
        let Some(sending) = run
            .sending
            .iter_mut()
            .find(|sending| sending.out == Some(out))
        else {
            return false;
        };
        if let Some(octets) = sending.octets(offset, most) {
            if let Some(session) = self.media.session(media) {
                session.supply(out, &octets, &mut self.tokens);
            }
            return !octets.is_empty();
        }
        if std::mem::replace(&mut sending.reading, true) {
            return false;
        }
        let source = BodySource::Message {
            recipient: delivery.user.clone(),
            seq: sending.seq,
        };
        let at = offset - sending.head.len() as u64;
        let waiter = Waiter::Delivery(id, sending.seq);
        let asked = self.custody.read(source, at, PIECE, waiter, now);
        if asked.is_err() {
            sending.reading = false;
            run.is_starved = true;
        }
        false
    }

    /// A piece of the one long message that is being read.
    pub(super) fn supply_piece(&mut self, id: DeliveryId, seq: Seq, octets: &Bytes, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let media = run.media;
        let mut all = run.sending.iter_mut();
        let Some(sending) = all.find(|sending| sending.seq == seq) else {
            return;
        };
        sending.reading = false;
        let out = sending.out;
        if octets.is_empty() {
            return self.end_session_run(id, RunEnd::Parked, now);
        }
        if let (Some(out), Some(session)) = (out, media.and_then(|media| self.media.session(media)))
        {
            session.supply(out, octets, &mut self.tokens);
        }
        self.pump_replay(id, now);
    }

    /// Something happened in the MSRP session of a replay.
    pub(super) fn handle_replay_media(&mut self, id: DeliveryId, event: SessionEvent, now: Now) {
        match event {
            SessionEvent::Bound | SessionEvent::Progress { .. } => self.pump_replay(id, now),
            SessionEvent::Delivered { message } => self.replay_delivered(id, message, now),
            SessionEvent::Refused { message, status } => {
                self.replay_declined(id, message, status, now);
            }
            SessionEvent::TimedOut { .. } => self.break_replay(id, &Reason::TimedOut, now),
            SessionEvent::Ended { .. } => self.break_replay(id, &Reason::BearerLost, now),
            SessionEvent::MessageBegun { message, .. } => {
                if let Some(run) = self.session_run(id) {
                    run.inbound = Some((message, Vec::new()));
                }
            }
            SessionEvent::Data {
                message, octets, ..
            } => self.gather_inbound(id, message, &octets),
            SessionEvent::MessageDone { message, .. } => self.inbound_done(id, message, now),
            SessionEvent::ChunkDone { .. }
            | SessionEvent::MessageAborted { .. }
            | SessionEvent::Report { .. } => {}
        }
    }

    /// The device does not take a message: it and those behind it wait.
    fn replay_declined(&mut self, id: DeliveryId, out: OutboundId, status: u16, now: Now) {
        if refuses_send_for_good(status) && self.replay_refused_for_good(id, out, status, now) {
            return;
        }
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        let DeliveryBy::Session(run) = &mut delivery.carrier else {
            return;
        };
        let mut sending = run.sending.iter_mut();
        if let Some(it) = sending.find(|sending| sending.out == Some(out)) {
            it.is_refused = true;
            let (user, seq) = (&delivery.user, it.seq.0);
            tracing::info!(%user, seq, status, "a device refused a message of a replay");
        }
        self.close_session_run(id, now);
    }

    /// The device will not take this message, whenever it is asked: if there is nothing else to try the session goes
    /// on without it. False if it waits; what a user fetches does.
    fn replay_refused_for_good(
        &mut self,
        id: DeliveryId,
        out: OutboundId,
        status: u16,
        now: Now,
    ) -> bool {
        let delivery = self.deliveries.get(&id);
        let Some(delivery) = delivery.filter(|delivery| delivery.pulled.is_none()) else {
            return false;
        };
        let is_copy = delivery.copies_for.is_some();
        let sending = delivery.session().map(|run| run.sending.iter());
        let mut sending = sending.into_iter().flatten();
        let Some(it) = sending.find(|sending| sending.out == Some(out)) else {
            return false;
        };
        let (seq, kind, length) = (it.seq, it.message.kind, it.length);
        self.note_refusal(id, seq, status);
        let left = self.left_to_try(id, seq, kind, length);
        let Some(run) = self.session_run(id) else {
            return false;
        };
        if let (Left::Try(end), false) = (left, is_copy) {
            run.end_as(seq, end);
            return false;
        }
        let place = run.sending.iter().position(|it| it.seq == seq);
        let refused = place.and_then(|place| run.sending.remove(place));
        if let Some(refused) = refused.filter(|_| !is_copy) {
            self.end_refused(seq, refused.message, now);
        }
        self.go_on_sending(id, now);
        true
    }

    /// A message has left the session, one way or the other.
    fn go_on_sending(&mut self, id: DeliveryId, now: Now) {
        let run = self.session_run(id);
        if run.is_some_and(|run| run.phase == Phase::Closing) {
            return self.close_session_run(id, now);
        }
        self.read_ahead(id, now);
        self.pump_replay(id, now);
        self.end_if_done(id, now);
    }

    fn replay_delivered(&mut self, id: DeliveryId, out: OutboundId, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let Some(at) = run
            .sending
            .iter()
            .position(|sending| sending.out == Some(out))
        else {
            return;
        };
        let Some(sending) = run.sending.remove(at) else {
            return;
        };
        self.confirm(id, sending.seq, now);
        self.go_on_sending(id, now);
    }
}

impl Sending {
    /// Octets that are in memory: of the envelope we put around, or of a short body.
    fn octets(&self, offset: u64, most: usize) -> Option<Bytes> {
        let at = usize::try_from(offset).ok()?;
        if at < self.head.len() {
            let end = at.saturating_add(most).min(self.head.len());
            return Some(self.head.slice(at..end));
        }
        let body = self.body.as_ref()?;
        let at = (at - self.head.len()).min(body.len());
        Some(body.slice(at..at.saturating_add(most).min(body.len())))
    }
}
