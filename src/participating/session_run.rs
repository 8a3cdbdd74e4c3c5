//! The replay: kept chat messages leave over an MSRP session of our own with `a=sendonly`
//! (cpm-facts §7.2, §7.3).
//!
//! One INVITE speaks for one author and one conversation. A message is settled when its last chunk was
//! answered 200; after the last one we send BYE. Whatever goes wrong before, the rest stays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::cpim::{self, Envelope};
use crate::msrp::event::{InboundId, OutboundId};
use crate::participating::arrival::{self};
use crate::participating::delivery::{DeliveryBy, DeliveryId};
use crate::participating::leg::Leg;
use crate::participating::media::MediaId;
use crate::participating::outgoing::{self, CallNames};
use crate::participating::provisional::EarlyDialogs;
use crate::participating::reason::Reason;
use crate::participating::replay_table::Tried;
use crate::participating::served_user::RunEnd;
use crate::participating::service::Service;
use crate::sip::message::Message;
use crate::sip::session_timer::SessionTimer;
use crate::sip::transaction::table::ClientId;
use crate::sip::transport::flow::Flow;
use crate::store::request::{DeferredMessage, Held, Refusal, Seq, StoreEvent};

/// Messages read ahead or unconfirmed in one replay.
const AT_ONCE: usize = 16;
/// How long a session that has nothing more to send waits for confirmations.
const LINGERS: Duration = Duration::from_millis(200);

/// The part of a delivery that goes over MSRP.
#[derive(Debug, Default)]
pub(super) struct SessionRun {
    pub(super) phase: Phase,
    /// It carries one standalone message, by the service for those.
    pub(super) standalone: bool,
    pub(super) invite: Option<Message>,
    pub(super) client: Option<ClientId>,
    pub(super) flow: Option<Flow>,
    pub(super) media: Option<MediaId>,
    pub(super) ack: Option<Bytes>,
    pub(super) leg: Option<Leg>,
    pub(super) early: EarlyDialogs,
    /// Of the INVITE that is out.
    pub(super) timer: Option<SessionTimer>,
    /// Since when the device takes nothing (`a=inactive`, `a=sendonly`).
    pub(super) held_since: Option<Instant>,
    pub(super) rings_until: Option<Instant>,
    /// When the pause is over, or the wait for the last confirmations.
    pub(super) resumes_at: Option<Instant>,
    pub(super) tried: Tried,
    /// What the INVITEs to one device have in common (RFC 3261 §8.1.3.5).
    pub(super) call: Option<CallNames>,
    /// There was no credit to read on.
    pub(super) is_starved: bool,
    /// Asked of the store and not here yet.
    pub(super) fetching: VecDeque<Held>,
    /// Here, or on their way to the device; oldest first.
    pub(super) sending: VecDeque<Sending>,
    pub(super) inbound: Option<(InboundId, Vec<u8>)>,
    /// How it is to end if it breaks off at this message: what its device refused for good has another way to go.
    pub(super) ends_as: Option<(Seq, RunEnd)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first message is being read.
    #[default]
    Reading,
    /// The device rings.
    Inviting,
    /// The device has as many sessions as it may.
    Waiting,
    /// It asked for the session itself, and has not acknowledged our 200.
    Answering,
    /// The INVITE goes out again after a pause.
    Pausing,
    /// It rang too long, or its device left while it may have taken the message inside.
    Cancelling,
    /// The session stands.
    Live,
    /// Nothing more is sent: the device refused a message, or hung up. What it has had may be confirmed yet.
    Closing,
}

#[derive(Debug)]
pub(super) struct Sending {
    pub(super) seq: Seq,
    pub(super) message: Arc<DeferredMessage>,
    /// The envelope of a body that came without one.
    pub(super) head: Bytes,
    pub(super) body: Option<Bytes>,
    pub(super) length: u64,
    pub(super) out: Option<OutboundId>,
    pub(super) reading: bool,
    /// It went inside the INVITE.
    pub(super) in_invite: bool,
    /// The device does not take it.
    pub(super) is_refused: bool,
}

impl SessionRun {
    /// Messages that were taken from the queue and not confirmed.
    fn under_way(&self) -> usize {
        self.fetching.len() + self.sending.len()
    }

    /// Whether it has not been given its first message, because what was confirmed before must be durable first.
    pub(super) fn waits_for_first(&self) -> bool {
        self.phase == Phase::Reading && self.under_way() == 0
    }

    /// Whether a message is with the device that it has neither confirmed nor refused.
    fn awaits_answers(&self) -> bool {
        let mut sending = self.sending.iter();
        sending.any(|it| it.out.is_some() && !it.is_refused)
    }

    /// What its device refused for good is to leave in this way. Of two messages the older one says.
    pub(super) fn end_as(&mut self, seq: Seq, end: RunEnd) {
        if self.ends_as.is_none_or(|(known, _)| seq < known) {
            self.ends_as = Some((seq, end));
        }
    }

    /// How it ends if it breaks off. If an older message is left than the one with another way to go, the next run
    /// would be this one again.
    fn broken_off(&self) -> RunEnd {
        let oldest = self.sending.front().map(|sending| sending.seq);
        let other_way = self.ends_as.filter(|(seq, _)| Some(*seq) == oldest);
        other_way.map_or(RunEnd::Parked, |(_, end)| end)
    }

    /// Whether an INVITE is out that carries a message: who accepts it has that.
    pub(super) fn carries(&self) -> bool {
        let is_out = matches!(self.phase, Phase::Inviting | Phase::Cancelling);
        is_out && self.sending.front().is_some_and(|first| first.in_invite)
    }
}

impl Service {
    pub(super) fn session_run(&mut self, id: DeliveryId) -> Option<&mut SessionRun> {
        match &mut self.deliveries.get_mut(&id)?.carrier {
            DeliveryBy::Session(run) => Some(run),
            DeliveryBy::Message(_) => None,
        }
    }

    /// Reads the first message; its INVITE follows.
    pub(super) fn begin_session_run(&mut self, id: DeliveryId, now: Now) {
        if !self.may_hand_out(id, 0) {
            return;
        }
        // Without a credit "done" would begin the same run again at once, and so on for ever.
        let has_credit = self.custody.has_room();
        if !self.fetch_next(id, now) {
            let end = if has_credit {
                RunEnd::Done
            } else {
                RunEnd::Shortage
            };
            self.end_delivery(id, end, now);
        }
    }

    /// Asks the store for the run's next message; false if there is none or no credit.
    fn fetch_next(&mut self, id: DeliveryId, now: Now) -> bool {
        if !self.custody.has_room() {
            return false;
        }
        let Some(held) = self.next_of_run(id, now) else {
            return false;
        };
        let seq = held.seq;
        if let Some(run) = self.session_run(id) {
            run.fetching.push_back(held);
        }
        self.fetch_of_run(id, seq, 0, now)
    }

    /// Reads ahead as far as the window allows.
    pub(super) fn read_ahead(&mut self, id: DeliveryId, now: Now) {
        loop {
            let live = self
                .session_run(id)
                .filter(|run| run.phase == Phase::Live)
                .map(|run| run.under_way());
            let under_way = live.filter(|under_way| *under_way < AT_ONCE);
            let has_room = under_way.is_some_and(|under_way| self.may_hand_out(id, under_way));
            if !has_room || !self.fetch_next(id, now) {
                return;
            }
        }
    }

    /// The store gave a message or a piece of one.
    pub(super) fn handle_replay_read(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        event: StoreEvent,
        now: Now,
    ) {
        match event {
            StoreEvent::Fetched {
                message,
                body,
                length,
                ..
            } => self.fetched(id, seq, message, body, length, now),
            StoreEvent::Piece { octets, .. } => self.supply_piece(id, seq, &octets, now),
            _ => {}
        }
    }

    fn fetched(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        message: Arc<DeferredMessage>,
        body: Option<Bytes>,
        length: u64,
        now: Now,
    ) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let Some(at) = run.fetching.iter().position(|held| held.seq == seq) else {
            return;
        };
        run.fetching.remove(at);
        let head = envelope_head(&message, length);
        run.sending.push_back(Sending {
            seq,
            head,
            message,
            body,
            length,
            out: None,
            reading: false,
            in_invite: false,
            is_refused: false,
        });
        match run.phase {
            Phase::Reading => self.invite_for_replay(id, now),
            Phase::Live => {
                self.send_ready(id, now);
                self.read_ahead(id, now);
                self.end_if_done(id, now);
            }
            Phase::Waiting
            | Phase::Answering
            | Phase::Inviting
            | Phase::Pausing
            | Phase::Cancelling
            | Phase::Closing => {}
        }
    }

    pub(super) fn begin_sending(&mut self, id: DeliveryId, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        run.phase = Phase::Live;
        self.confirm_carried(id, now);
        self.send_ready(id, now);
        self.read_ahead(id, now);
        self.end_if_done(id, now);
    }

    /// The device accepted the INVITE, and with it the message inside.
    pub(super) fn confirm_carried(&mut self, id: DeliveryId, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let carried = run.sending.front().filter(|first| first.in_invite);
        if let Some(seq) = carried.map(|first| first.seq) {
            run.sending.pop_front();
            self.confirm(id, seq, now);
        }
    }

    /// After the last answer: BYE from us.
    pub(super) fn end_if_done(&mut self, id: DeliveryId, now: Now) {
        let done = self
            .session_run(id)
            .is_some_and(|run| run.phase == Phase::Live && run.under_way() == 0);
        // What waits for the sync of what was confirmed is still to come.
        if done && self.may_hand_out(id, 0) {
            self.end_session_run(id, RunEnd::Done, now);
        }
    }

    /// Nothing more is sent to a device that refused a message or hung up. It is given a moment to confirm what else
    /// it has had (cpm-facts §9.5), so that this does not come again.
    pub(super) fn close_session_run(&mut self, id: DeliveryId, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let is_up = matches!(run.phase, Phase::Live | Phase::Closing) && run.media.is_some();
        if !is_up || !run.awaits_answers() {
            return self.end_session_run(id, RunEnd::Parked, now);
        }
        if run.phase == Phase::Live {
            run.phase = Phase::Closing;
            run.resumes_at = Some(now.instant + LINGERS);
        }
    }

    /// The run is over: the session is closed, and the dialog if we are still in it.
    pub(super) fn end_session_run(&mut self, id: DeliveryId, end: RunEnd, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let (media, leg) = (run.media.take(), run.leg.take());
        let end = match end {
            RunEnd::Done if !run.sending.is_empty() => RunEnd::Parked,
            RunEnd::Parked
                if matches!(run.phase, Phase::Live | Phase::Closing)
                    && run.sending.is_empty()
                    && run.fetching.is_empty() =>
            {
                RunEnd::Done
            }
            RunEnd::Parked => run.broken_off(),
            end => end,
        };
        if let Some(leg) = leg {
            self.hang_up(leg, &Reason::Completed, now);
        }
        if let Some(media) = media {
            self.media.close(media);
        }
        self.end_delivery(id, end, now);
    }

    /// The device is lost: it is told why, and the rest stays.
    pub(super) fn break_replay(&mut self, id: DeliveryId, reason: &Reason, now: Now) {
        if let Some(leg) = self.session_run(id).and_then(|run| run.leg.take()) {
            self.hang_up(leg, reason, now);
        }
        self.end_session_run(id, RunEnd::Parked, now);
    }

    /// The store lost track of a message, or it is damaged and has been ended by `handle_ruined`. An answer about a
    /// message that has left meanwhile means nothing.
    pub(super) fn skip_unread_chat(
        &mut self,
        id: DeliveryId,
        seq: Seq,
        refusal: Refusal,
        now: Now,
    ) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let is_ours = run.fetching.iter().any(|held| held.seq == seq)
            || run.sending.iter().any(|sending| sending.seq == seq);
        if !is_ours {
            return;
        }
        run.fetching.retain(|held| held.seq != seq);
        let key = self
            .deliveries
            .get(&id)
            .map(|delivery| (delivery.user.clone(), delivery.key_of(seq)));
        if let (Some((user, key)), Refusal::Unknown | Refusal::Damaged) = (key, refusal) {
            self.leave_out(&user, &key, seq);
        }
        self.end_session_run(id, RunEnd::Parked, now);
    }
}

/// What goes before a body that came without an envelope; nothing before one that has its own.
fn envelope_head(message: &DeferredMessage, length: u64) -> Bytes {
    if arrival::is_type(&message.content_type, cpim::MEDIA_TYPE) {
        return Bytes::new();
    }
    let wrapper = cpim::Wrapper {
        from: &arrival::address_of(outgoing::shown_author(message)),
        to: &arrival::address_of(&message.to),
        date_time: &cpim::format_date_time(message.accepted_at),
        message_id: &message.message_id,
        dispositions: message.dispositions,
        content_headers: &[("Content-Type", &message.content_type)],
    };
    Envelope::wrap_head(&wrapper, length).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::request::MessageKind;

    fn sending(seq: u64) -> Sending {
        Sending {
            seq: Seq(seq),
            message: Arc::new(DeferredMessage::empty("alice", "bob", MessageKind::Chat)),
            head: Bytes::new(),
            body: None,
            length: 0,
            out: None,
            reading: false,
            in_invite: false,
            is_refused: false,
        }
    }

    #[test]
    fn what_has_another_way_to_go_takes_it_once_nothing_older_is_left() {
        let mut run = SessionRun::default();
        run.sending.extend([sending(1), sending(2), sending(3)]);
        run.end_as(Seq(3), RunEnd::OtherWay);
        run.end_as(Seq(2), RunEnd::Done);
        assert_eq!(
            run.broken_off(),
            RunEnd::Parked,
            "the device has not taken 1 either"
        );
        run.sending.pop_front();
        assert_eq!(run.broken_off(), RunEnd::Done);
    }
}
