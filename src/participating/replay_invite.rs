//! The INVITE of a replay and what the device answers (cpm-facts §7.2, §7.3).

use crate::clock::{Instant, Now};
use crate::msrp::sdp::Direction;
use crate::multipart::NewPart;
use crate::participating::callee;
use crate::participating::delivery::{
    Delivery, DeliveryBy, DeliveryId, ReplayAnswer, replay_answer,
};
use crate::participating::dialogs::{DialogKey, DialogUse};
use crate::participating::media::MediaUse;
use crate::participating::outgoing;
use crate::participating::served_user::RunEnd;
use crate::participating::service::{Service, Usage};
use crate::participating::session_run::{Phase, Sending};
use crate::registrar::Profile;
use crate::sip::dialog::Dialog;
use crate::sip::message::Message;
use crate::sip::transaction::table::Kind;

impl Service {
    pub(super) fn invite_for_replay(&mut self, id: DeliveryId, now: Now) {
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
        let known_as = self.sip.advertised(&flow);
        let direction = Direction::SendOnly;
        let media = self
            .media
            .open(media_use, remote, known_as, direction, &mut self.tokens)?;
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
        let key = DialogKey::of(&dialog);
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
