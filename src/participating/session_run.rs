//! The replay: kept chat messages leave over an MSRP session of our own with `a=sendonly`
//! (cpm-facts §7.2, §7.3).
//!
//! One INVITE speaks for one author and one conversation. A message is settled when its last chunk was
//! answered 200; after the last one we send BYE. Whatever goes wrong before, the rest stays.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::cpim::{self, Envelope};
use crate::msrp::event::{InboundId, OutboundId, SessionEvent};
use crate::msrp::frame::FailureReport;
use crate::msrp::outgoing::OutboundMessage;
use crate::msrp::sdp::Direction;
use crate::multipart::NewPart;
use crate::participating::arrival::{self, Content};
use crate::participating::callee;
use crate::participating::delivery::{
    Delivery, DeliveryBy, DeliveryId, ReplayAnswer, replay_answer,
};
use crate::participating::dialogs::{DialogKey, DialogUse};
use crate::participating::internal::InternalMessage;
use crate::participating::media::{MediaId, MediaUse};
use crate::participating::outgoing;
use crate::participating::served_user::RunEnd;
use crate::participating::service::{Service, Usage, Waiter};
use crate::registrar::Profile;
use crate::sip::dialog::Dialog;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::{ClientId, Kind, ServerId};
use crate::sip::transport::flow::Flow;
use crate::store::request::{
    Body, BodySource, DeferredMessage, Held, MessageKind, Refusal, Seq, Settlement, StoreEvent,
};

/// Messages read ahead or unconfirmed in one replay.
const AT_ONCE: usize = 16;
/// Octets asked for at a time when a long body is read back.
const PIECE: usize = 64 * 1024;
/// Octets of a notification that comes on the replay session.
const LARGEST_NOTIFICATION: usize = 32 * 1024;

/// The part of a delivery that goes over MSRP.
#[derive(Debug, Default)]
pub(super) struct SessionRun {
    phase: Phase,
    invite: Option<Message>,
    client: Option<ClientId>,
    flow: Option<Flow>,
    media: Option<MediaId>,
    ack: Option<Bytes>,
    dialog: Option<(Dialog, DialogKey)>,
    rings_until: Option<Instant>,
    /// Asked of the store and not here yet.
    fetching: VecDeque<Held>,
    /// Here, or on their way to the device; oldest first.
    sending: VecDeque<Sending>,
    inbound: Option<(InboundId, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The first message is being read.
    #[default]
    Reading,
    /// The device rings.
    Inviting,
    /// It rang too long.
    Cancelling,
    /// The session stands.
    Live,
}

#[derive(Debug)]
struct Sending {
    seq: Seq,
    message: Box<DeferredMessage>,
    /// The envelope of a body that came without one.
    head: Bytes,
    body: Option<Bytes>,
    length: u64,
    out: Option<OutboundId>,
    reading: bool,
    /// It went inside the INVITE.
    in_invite: bool,
}

impl Service {
    fn session_run(&mut self, id: DeliveryId) -> Option<&mut SessionRun> {
        match &mut self.deliveries.get_mut(&id)?.carrier {
            DeliveryBy::Session(run) => Some(run),
            DeliveryBy::Message(_) => None,
        }
    }

    /// Reads the first message; its INVITE follows.
    pub(super) fn begin_session_run(&mut self, id: DeliveryId, now: Now) {
        // Without a credit "done" would begin the same run again at once, and so on for ever.
        let has_credit = self.custody.has_room();
        if !self.fetch_next(id, now) {
            let end = if has_credit {
                RunEnd::Done
            } else {
                RunEnd::Parked
            };
            self.end_delivery(id, end, now);
        }
    }

    /// Asks the store for the run's next message; false if there is none or no credit.
    fn fetch_next(&mut self, id: DeliveryId, now: Now) -> bool {
        if !self.custody.has_room() {
            return false;
        }
        let Some(held) = self.next_of_run(id) else {
            return false;
        };
        let seq = held.seq;
        if let Some(run) = self.session_run(id) {
            run.fetching.push_back(held);
        }
        self.fetch_of_run(id, seq, now)
    }

    /// Reads ahead as far as the window allows.
    pub(super) fn read_ahead(&mut self, id: DeliveryId, now: Now) {
        loop {
            let room = self.session_run(id).is_some_and(|run| {
                run.phase == Phase::Live && run.fetching.len() + run.sending.len() < AT_ONCE
            });
            if !room || !self.fetch_next(id, now) {
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
        message: Box<DeferredMessage>,
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
        });
        match run.phase {
            Phase::Reading => self.invite_for_replay(id, now),
            Phase::Live => self.send_ready(id, now),
            Phase::Inviting | Phase::Cancelling => {}
        }
    }

    fn invite_for_replay(&mut self, id: DeliveryId, now: Now) {
        if self.try_invite(id, now).is_none() {
            self.end_session_run(id, RunEnd::Parked, now);
        }
    }

    fn try_invite(&mut self, id: DeliveryId, now: Now) -> Option<()> {
        let delivery = self.deliveries.get(&id)?;
        let target = delivery.targets.get(delivery.target)?.clone();
        let flow = target.flow;
        let remote = flow.remote.ip();
        let media_use = MediaUse::Replay(id);
        let media = self
            .media
            .open(media_use, remote, Direction::SendOnly, &mut self.tokens)?;
        self.media
            .offer_types(media, vec!["message/cpim".into()], vec!["*".into()]);
        let sdp = self.media.offer(media);
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let advertised = self.sip.advertised(&flow);
        let contact = callee::contact_uri(&self.settings, advertised, &flow);
        let Some(DeliveryBy::Session(run)) = self
            .deliveries
            .get_mut(&id)
            .map(|delivery| &mut delivery.carrier)
        else {
            self.media.close(media);
            return None;
        };
        run.media = Some(media);
        let first = run.sending.front_mut()?;
        let boundary = self.tokens.token();
        let (content_type, body) = invite_body(first, target.profile, &sdp, &boundary);
        let what = outgoing::Replay {
            message: &first.message,
            target: &target,
            via: &via.value,
            contact: &contact,
            domain: &self.settings.domain,
            content_type: &content_type,
            body: &body,
        };
        let octets = outgoing::invite(&what, &mut self.tokens);
        run.invite = crate::sip::wire::parse(octets.clone()).ok();
        run.flow = Some(flow);
        run.phase = Phase::Inviting;
        run.rings_until = Some(now.instant + self.settings.ring);
        let usage = Usage::Delivery(id);
        let client = self
            .sip
            .send(Kind::Invite, via, octets, flow, usage, now)
            .ok()?;
        self.session_run(id)?.client = Some(client);
        Some(())
    }

    /// The device answered the INVITE.
    pub(super) fn handle_replay_response(&mut self, id: DeliveryId, response: &Message, now: Now) {
        match response.status() {
            ..200 => {}
            200..300 => self.replay_accepted(id, response, now),
            status => {
                self.forget_gone_device(id, status);
                self.replay_refused(id, replay_answer(status), now);
            }
        }
    }

    fn replay_accepted(&mut self, id: DeliveryId, response: &Message, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let (Some(invite), Some(flow), Some(media)) = (run.invite.clone(), run.flow, run.media)
        else {
            return;
        };
        if let Some(ack) = run.ack.clone() {
            return self.sip.send_ack(ack, flow);
        }
        let phase = run.phase;
        let Ok(dialog) = Dialog::as_uac(&invite, response) else {
            return self.end_session_run(id, RunEnd::Parked, now);
        };
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let ack = dialog.ack(dialog.local_cseq, &via.value).build();
        self.sip.send_ack(ack.clone(), flow);
        let key = DialogKey {
            call_id: dialog.id.call_id.clone(),
            local_tag: dialog.id.local_tag.clone(),
        };
        self.dialogs.insert(key.clone(), DialogUse::Replay(id));
        if let Some(run) = self.session_run(id) {
            run.ack = Some(ack);
            run.dialog = Some((dialog, key));
            run.rings_until = None;
        }
        let answer = callee::description(response);
        let accepted = answer.and_then(|answer| self.media.accept(media, &answer, now).ok());
        match (phase, accepted) {
            (Phase::Inviting, Some(direction)) if direction.sends() => self.begin_sending(id, now),
            _ => self.end_session_run(id, RunEnd::Parked, now),
        }
    }

    fn begin_sending(&mut self, id: DeliveryId, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        run.phase = Phase::Live;
        let carried = run
            .sending
            .front()
            .filter(|first| first.in_invite)
            .map(|first| first.seq);
        if let Some(seq) = carried {
            run.sending.pop_front();
            self.confirm(id, seq);
        }
        self.send_ready(id, now);
        self.read_ahead(id, now);
        self.end_if_done(id, now);
    }

    /// The device did not take the INVITE.
    pub(super) fn replay_refused(&mut self, id: DeliveryId, answer: ReplayAnswer, now: Now) {
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return;
        };
        let DeliveryBy::Session(run) = &mut delivery.carrier else {
            return;
        };
        let answer = if run.phase == Phase::Cancelling {
            ReplayAnswer::NextDevice
        } else {
            answer
        };
        if answer == ReplayAnswer::NextDevice && delivery.target + 1 < delivery.targets.len() {
            delivery.target += 1;
            let media = run.media.take();
            run.client = None;
            if let Some(first) = run.sending.front_mut() {
                first.in_invite = false;
            }
            if let Some(media) = media {
                self.media.close(media);
            }
            return self.invite_for_replay(id, now);
        }
        let end = match answer {
            ReplayAnswer::NextDevice | ReplayAnswer::Park => RunEnd::Parked,
            ReplayAnswer::Decline => RunEnd::Declined,
            ReplayAnswer::OtherWay => RunEnd::OtherWay,
        };
        self.end_session_run(id, end, now);
    }

    /// Hands what was read to the MSRP session.
    fn send_ready(&mut self, id: DeliveryId, now: Now) {
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

    /// Supplies the session with as many octets as it takes.
    pub(super) fn pump_replay(&mut self, id: DeliveryId, now: Now) {
        loop {
            let Some(media) = self.session_run(id).and_then(|run| run.media) else {
                return;
            };
            if !self.media.has_room_for(media) {
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
        }
        false
    }

    /// A piece of the one long message that is being read.
    fn supply_piece(&mut self, id: DeliveryId, seq: Seq, octets: &Bytes, now: Now) {
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
            SessionEvent::Refused { status, .. } => {
                tracing::info!(status, "a device refused a message of a replay");
                self.end_session_run(id, RunEnd::Parked, now);
            }
            SessionEvent::TimedOut { .. } | SessionEvent::Ended { .. } => {
                self.end_session_run(id, RunEnd::Parked, now);
            }
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
        self.confirm(id, sending.seq);
        self.read_ahead(id, now);
        self.pump_replay(id, now);
        self.end_if_done(id, now);
    }

    /// After the last answer: BYE from us.
    fn end_if_done(&mut self, id: DeliveryId, now: Now) {
        let done = self.session_run(id).is_some_and(|run| {
            run.phase == Phase::Live && run.sending.is_empty() && run.fetching.is_empty()
        });
        if done {
            self.end_session_run(id, RunEnd::Done, now);
        }
    }

    fn gather_inbound(&mut self, id: DeliveryId, message: InboundId, octets: &Bytes) {
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
    fn inbound_done(&mut self, id: DeliveryId, message: InboundId, now: Now) {
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

    /// A request inside the replay's dialog.
    pub(super) fn handle_replay_request(
        &mut self,
        id: DeliveryId,
        request: &Message,
        server: ServerId,
        now: Now,
    ) {
        let Some((dialog, _)) = self.session_run(id).and_then(|run| run.dialog.as_mut()) else {
            return self.reject(
                request,
                server,
                &Rejection::new(481, "Call Does Not Exist"),
                now,
            );
        };
        if let Err(rejection) = dialog.check_cseq(request) {
            return self.reject(request, server, &rejection, now);
        }
        match request.method() {
            Method::Bye => {
                let reply = self.reply(request, 200, "OK", None).build();
                self.sip.respond(server, 200, reply, now);
                if let Some(run) = self.session_run(id)
                    && let Some((_, key)) = run.dialog.take()
                {
                    self.dialogs.remove(&key);
                }
                self.end_session_run(id, RunEnd::Parked, now);
            }
            Method::Options | Method::Info | Method::Update => {
                let reply = self.reply(request, 200, "OK", None).build();
                self.sip.respond(server, 200, reply, now);
            }
            Method::Invite => self.reject(
                request,
                server,
                &Rejection::new(488, "Not Acceptable Here"),
                now,
            ),
            _ => self.not_allowed(request, server, now),
        }
    }

    /// The run is over: the session is closed, and the dialog if we are still in it.
    fn end_session_run(&mut self, id: DeliveryId, end: RunEnd, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        let (media, dialog, flow) = (run.media.take(), run.dialog.take(), run.flow);
        let end = match end {
            RunEnd::Done if !run.sending.is_empty() => RunEnd::Parked,
            RunEnd::Parked
                if run.phase == Phase::Live
                    && run.sending.is_empty()
                    && run.fetching.is_empty() =>
            {
                RunEnd::Done
            }
            end => end,
        };
        if let (Some((mut dialog, key)), Some(flow)) = (dialog, flow) {
            self.dialogs.remove(&key);
            self.send_bye(&mut dialog, flow, None, now);
        }
        if let Some(media) = media {
            self.media.close(media);
        }
        self.end_delivery(id, end, now);
    }

    /// The store lost track of a message, or it is damaged: it counts as failed. An answer about a
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
            .map(|delivery| (delivery.user.clone(), delivery.key.clone()));
        if let (Some((user, key)), Refusal::Unknown | Refusal::Damaged) = (key, refusal) {
            self.take_out(&user, &key, seq, Settlement::Failed);
        }
        self.end_session_run(id, RunEnd::Parked, now);
    }

    pub(super) fn handle_replay_timeouts(&mut self, now: Now) {
        let due = |delivery: &Delivery| rings_until(delivery).is_some_and(|at| at <= now.instant);
        let mut late: Vec<DeliveryId> = self
            .deliveries
            .iter()
            .filter(|(_, delivery)| due(delivery))
            .map(|(id, _)| *id)
            .collect();
        late.sort();
        for id in late {
            let Some(run) = self.session_run(id) else {
                continue;
            };
            run.rings_until = None;
            run.phase = Phase::Cancelling;
            if let Some(client) = run.client {
                self.sip.cancel(client, now);
            }
        }
    }
}

fn rings_until(delivery: &Delivery) -> Option<Instant> {
    match &delivery.carrier {
        DeliveryBy::Session(run) => run.rings_until,
        DeliveryBy::Message(_) => None,
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

/// RCS-e devices take the first message inside the INVITE (cpm-facts §7.2).
fn invite_body(
    first: &mut Sending,
    profile: Profile,
    sdp: &str,
    boundary: &str,
) -> (String, Vec<u8>) {
    let body = first.body.as_ref().filter(|_| profile == Profile::RcsE);
    let Some(body) = body else {
        return ("application/sdp".to_owned(), sdp.as_bytes().to_vec());
    };
    first.in_invite = true;
    let mut envelope = first.head.to_vec();
    envelope.extend_from_slice(body);
    let parts = [
        NewPart {
            headers: &[("Content-Type", "application/sdp")],
            content: sdp.as_bytes(),
        },
        NewPart {
            headers: &[("Content-Type", "message/cpim")],
            content: &envelope,
        },
    ];
    let octets = crate::multipart::write(boundary, &parts);
    (format!("multipart/mixed;boundary=\"{boundary}\""), octets)
}
