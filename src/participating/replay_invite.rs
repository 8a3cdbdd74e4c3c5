//! The INVITE of a replay and what the device answers (cpm-facts §7.2, §7.3).

use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::msrp::sdp::Direction;
use crate::multipart::NewPart;
use crate::participating::callee;
use crate::participating::contacts::LARGEST_DATAGRAM;
use crate::participating::delivery::{Delivery, DeliveryBy, DeliveryId};
use crate::participating::dialogs::DialogUse;
use crate::participating::leg::Leg;
use crate::participating::media::MediaUse;
use crate::participating::offer;
use crate::participating::outgoing::{self, CallNames};
use crate::participating::provisional::EarlyDialogs;
use crate::participating::reason::Reason;
use crate::participating::replay_table::{ReplayAnswer, Step, Tried, next_step};
use crate::participating::served_user::RunEnd;
use crate::participating::service::{Service, Usage};
use crate::participating::session_run::{Phase, Sending};
use crate::registrar::Profile;
use crate::sip::dialog::{Dialog, DialogId};
use crate::sip::message::Message;
use crate::sip::retry_after::retry_after;
use crate::sip::session_timer::SessionTimer;
use crate::sip::transaction::table::Kind;
use crate::sip::transport::flow::Flow;

impl Service {
    /// Calls the present device; without room for that the run ends, to begin again soon. If nothing of what was
    /// read is left to carry, the next message is read first.
    pub(super) fn invite_for_replay(&mut self, id: DeliveryId, now: Now) {
        self.leave_out_vain(id, now);
        if let Some(run) = self.session_run(id)
            && run.sending.is_empty()
        {
            run.phase = Phase::Reading;
            return self.begin_session_run(id, now);
        }
        if self.claim_device(id) && self.try_invite(id, now).is_none() {
            self.end_session_run(id, RunEnd::Shortage, now);
        }
    }

    /// Whether the present device has room for another session; if not, the run waits for its turn.
    fn claim_device(&mut self, id: DeliveryId) -> bool {
        let Some(delivery) = self.deliveries.get_mut(&id) else {
            return false;
        };
        let Some(target) = delivery.targets.get(delivery.target) else {
            return false;
        };
        let user = delivery.user.clone();
        let machine = self.users.get_mut(&user);
        let has_room =
            machine.is_none_or(|user| user.claim_device(delivery.run, target.device, id));
        if let (false, DeliveryBy::Session(run)) = (has_room, &mut delivery.carrier) {
            run.phase = Phase::Waiting;
            run.rings_until = None;
        }
        // What it gave up for this may be another run's turn.
        self.run_user_later(&user);
        has_room
    }

    fn try_invite(&mut self, id: DeliveryId, now: Now) -> Option<()> {
        let delivery = self.deliveries.get(&id)?;
        let target = delivery.targets.get(delivery.target)?.clone();
        let flow = target.flow;
        let remote = flow.remote.ip();
        let media_use = MediaUse::Replay(id);
        let known_as = self.sip.advertised(&flow);
        let direction = Direction::SendOnly;
        let (is_altered, call, standalone) = match &delivery.carrier {
            DeliveryBy::Session(run) => (run.tried.altered, run.call.clone(), run.standalone),
            DeliveryBy::Message(_) => return None,
        };
        // The second offer promises the least that any client takes: no TLS where we have a listener
        // without, no CEMA, no other types.
        let tokens = &mut self.tokens;
        let media = match is_altered {
            true => self
                .media
                .open_plain(media_use, remote, known_as, direction, tokens)?,
            false => self
                .media
                .open(media_use, remote, known_as, direction, tokens)?,
        };
        let wrapped = if is_altered { "text/plain" } else { "*" };
        self.media
            .offer_types(media, vec!["message/cpim".into()], vec![wrapped.into()]);
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
        let domain = &self.settings.domain;
        let call = match call {
            Some(call) => call.next(),
            None => CallNames::new(domain, &mut self.tokens),
        };
        run.call = Some(call.clone());
        let timer = run.timer;
        let timer = timer.unwrap_or_else(|| SessionTimer::new(self.settings.timer));
        run.timer = Some(timer);
        let first = run.sending.front_mut()?;
        let boundary = self.tokens.token();
        // What no datagram holds would be refused by our own transport, again and again.
        let fits = flow.transport.is_reliable() || first.length <= LARGEST_DATAGRAM;
        let in_parts = target.profile == Profile::RcsE && !is_altered && !standalone && fits;
        let service = if standalone {
            target.large_service
        } else {
            "oma.cpm.session"
        };
        let (content_type, body) = invite_body(first, in_parts, &sdp, &boundary);
        let what = outgoing::Replay {
            message: &first.message,
            service,
            target: &target,
            via: &via.value,
            call: &call,
            contact: &contact,
            domain,
            content_type: &content_type,
            body: &body,
            timer: &timer.offer(),
        };
        let octets = outgoing::invite(&what);
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
    pub(super) fn handle_replay_response(
        &mut self,
        id: DeliveryId,
        response: &Message,
        flow: Flow,
        now: Now,
    ) {
        let answer = ReplayAnswer::of(response.status());
        if answer == ReplayAnswer::Take {
            return self.replay_accepted(id, response, flow, now);
        }
        let reason = response.reason();
        match answer {
            ReplayAnswer::Keep => {
                tracing::warn!(status = response.status(), reason, "a replay is refused");
            }
            ReplayAnswer::LongerInterval => {
                let run = self.session_run(id);
                if let Some(timer) = run.and_then(|run| run.timer.as_mut()) {
                    timer.refused(response);
                }
            }
            ReplayAnswer::Wait if response.status() > 100 => {
                return self.acknowledge_ringing(&Usage::Delivery(id), response, now);
            }
            _ => {}
        }
        self.replay_refused(id, answer, retry_after(response), now);
    }

    fn replay_accepted(&mut self, id: DeliveryId, response: &Message, from: Flow, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        // Of a forked INVITE the first 2xx is taken, and every other one ended (RFC 3261 §13.2.2.4).
        if let (Some(leg), Some(ack), Some(flow)) = (&run.leg, &run.ack, run.flow) {
            let is_ours = DialogId::of_response(response).is_some_and(|it| it == leg.dialog.id);
            let ack = ack.clone();
            return match is_ours {
                true => self.sip.send_ack(ack, flow),
                false => self.end_late_dialog(response, from, now),
            };
        }
        let (Some(invite), Some(flow), Some(media)) = (run.invite.clone(), run.flow, run.media)
        else {
            return self.end_late_dialog(response, from, now);
        };
        let phase = run.phase;
        let Ok(mut dialog) = Dialog::as_uac(&invite, response) else {
            return self.end_session_run(id, RunEnd::Parked, now);
        };
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let ack = dialog.ack(dialog.local_cseq, &via.value).build();
        self.sip.send_ack(ack.clone(), flow);
        let timer = SessionTimer::new(self.settings.timer);
        if let Some(run) = self.session_run(id) {
            run.early.carry_on(&mut dialog);
            let mut leg = Leg::new(dialog, flow, media, run.timer.unwrap_or(timer));
            leg.learn_methods(response);
            leg.timer.accepted(response, now.instant);
            run.ack = Some(ack);
            run.rings_until = None;
            let key = leg.key.clone();
            run.leg = Some(leg);
            self.dialogs.insert(key, DialogUse::Replay(id));
        }
        let answer = offer::description(response).ok();
        let accepted = answer.and_then(|answer| self.media.accept(media, &answer, now).ok());
        match (phase, accepted) {
            (Phase::Inviting, Some(direction)) if direction.sends() => self.begin_sending(id, now),
            _ => {
                self.confirm_carried(id, now);
                self.end_session_run(id, RunEnd::Parked, now);
            }
        }
    }

    /// The device did not take the INVITE.
    pub(super) fn replay_refused(
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
        let DeliveryBy::Session(run) = &mut delivery.carrier else {
            return;
        };
        let answer = match (run.phase, answer) {
            (_, ReplayAnswer::Wait) => return,
            (Phase::Cancelling, _) => ReplayAnswer::NextDevice,
            (_, answer) => answer,
        };
        let is_last = delivery.target + 1 >= delivery.targets.len();
        match next_step(answer, run.tried, is_last) {
            Step::Wait => {}
            Step::End(end @ (RunEnd::Parked | RunEnd::Busy)) => {
                self.end_session_run(id, end.after(asked), now);
            }
            Step::End(end) => self.end_session_run(id, end, now),
            Step::NextDevice(tried) => {
                delivery.target += 1;
                run.call = None;
                run.timer = None;
                self.call_again(id, tried, now);
            }
            Step::Again(tried) => self.call_again(id, tried, now),
            Step::Pause(tried) => {
                run.tried = tried;
                run.phase = Phase::Pausing;
                run.rings_until = None;
                run.resumes_at = Some(now.instant + glare_pause(self.tokens.number()));
            }
        }
    }

    /// A new INVITE of the same run.
    fn call_again(&mut self, id: DeliveryId, tried: Tried, now: Now) {
        let Some(run) = self.session_run(id) else {
            return;
        };
        run.tried = tried;
        run.client = None;
        run.early = EarlyDialogs::default();
        run.resumes_at = None;
        let media = run.media.take();
        if let Some(first) = run.sending.front_mut() {
            first.in_invite = false;
        }
        if let Some(media) = media {
            self.media.close(media);
        }
        self.invite_for_replay(id, now);
    }

    /// Ends pauses, reads on where there was no credit, and gives up on devices that ring too long.
    pub(super) fn handle_replay_timeouts(&mut self, now: Now) {
        let due = |delivery: &Delivery| {
            let (DeliveryBy::Session(run), now) = (&delivery.carrier, now.instant) else {
                return false;
            };
            let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            run.is_starved || is_over(run.rings_until) || is_over(run.resumes_at)
        };
        let all = self.deliveries.iter();
        let mut late: Vec<DeliveryId> = all
            .filter(|(_, delivery)| due(delivery))
            .map(|(id, _)| *id)
            .collect();
        late.sort();
        self.end_held_replays(now);
        for id in late {
            let Some(run) = self.session_run(id) else {
                continue;
            };
            match run.phase {
                Phase::Pausing => {
                    let tried = run.tried;
                    self.call_again(id, tried, now);
                }
                Phase::Inviting => {
                    run.rings_until = None;
                    run.phase = Phase::Cancelling;
                    if let Some(client) = run.client {
                        self.sip.cancel(client, now);
                    }
                }
                Phase::Closing => self.end_session_run(id, RunEnd::Parked, now),
                Phase::Reading
                | Phase::Waiting
                | Phase::Answering
                | Phase::Live
                | Phase::Cancelling => {
                    run.is_starved = false;
                    self.pump_replay(id, now);
                }
            }
        }
    }

    fn end_held_replays(&mut self, now: Now) {
        let idle = self.settings.idle;
        let held = |delivery: &Delivery| delivery.session().and_then(|run| run.held_since);
        let late = |since: Instant| since + idle <= now.instant;
        let mut over: Vec<DeliveryId> = self
            .deliveries
            .iter()
            .filter(|(_, delivery)| held(delivery).is_some_and(late))
            .map(|(id, _)| *id)
            .collect();
        over.sort();
        for id in over {
            self.break_replay(id, &Reason::Completed, now);
        }
    }
}

/// "A value between 2.1 and 4 seconds in units of 10 ms": we chose the Call-ID (RFC 3261 §14.1).
fn glare_pause(random: u64) -> Duration {
    Duration::from_millis(2_100 + random % 191 * 10)
}

/// RCS-e devices take the first message inside the INVITE (cpm-facts §7.2).
fn invite_body(
    first: &mut Sending,
    in_parts: bool,
    sdp: &str,
    boundary: &str,
) -> (String, Vec<u8>) {
    let body = first.body.as_ref().filter(|_| in_parts);
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
