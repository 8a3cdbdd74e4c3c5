//! Refreshes of our own (RFC 4028 §10): UPDATE where the peer takes it, else an INVITE that offers
//! what stands already. A refusal for the moment is asked again; silence ends the leg.

use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::participating::callee;
use crate::participating::chat::Side;
use crate::participating::dialogs::DialogUse;
use crate::participating::leg::{Asked, Leg};
use crate::participating::offer;
use crate::participating::outgoing::ALLOW;
use crate::participating::reason::Reason;
use crate::participating::service::{Service, Usage};
use crate::sip::message::Message;
use crate::sip::retry_after::retry_after;
use crate::sip::session_timer::Due;
use crate::sip::transaction::table::Kind;
use crate::sip::transport::flow::Flow;

/// A peer whose own INVITE is under way, or who has no time, is asked again after this.
const A_MOMENT: Duration = Duration::from_secs(2);
/// The longest that a peer may put us off.
const PUT_OFF: Duration = Duration::from_secs(30);

impl Service {
    /// Every leg that stands, in no order.
    pub(super) fn legs(&self) -> impl Iterator<Item = (DialogUse, &Leg)> {
        let chats = self.chats.iter().flat_map(|(id, chat)| {
            let sides = [Side::Caller, Side::Callee].into_iter();
            sides.filter_map(|side| Some((DialogUse::Chat(*id, side), chat.leg(side)?)))
        });
        let replays = self.deliveries.iter().filter_map(|(id, delivery)| {
            Some((DialogUse::Replay(*id), delivery.session()?.leg.as_ref()?))
        });
        chats.chain(replays)
    }

    pub(super) fn handle_leg_timeouts(&mut self, now: Now) {
        let due = |leg: &Leg| leg.next_deadline().is_some_and(|at| at <= now.instant);
        let mut late: Vec<DialogUse> = self
            .legs()
            .filter(|(_, leg)| due(leg))
            .map(|(usage, _)| usage)
            .collect();
        late.sort();
        for usage in late {
            self.handle_leg_timeout(usage, now);
        }
    }

    fn handle_leg_timeout(&mut self, usage: DialogUse, now: Now) {
        let Some(leg) = self.leg(usage) else { return };
        match leg.timer.handle_timeout(now.instant) {
            Some(Due::Expired) => {
                tracing::debug!(?usage, "a session was not refreshed");
                self.end_leg(usage, &Reason::TimedOut, now);
            }
            Some(Due::Refresh) => self.refresh(usage, now),
            None => {
                if leg.ask_again.take_if(|at| *at <= now.instant).is_some() {
                    self.refresh(usage, now);
                }
            }
        }
    }

    /// Asks the peer to go on.
    fn refresh(&mut self, usage: DialogUse, now: Now) {
        let Some(leg) = self.leg(usage) else { return };
        if leg.asked.is_some() {
            return;
        }
        let invites = !leg.takes_update;
        if invites && leg.unacknowledged.is_some() {
            // RFC 3261 §14.1: not while an INVITE of the peer is under way.
            leg.ask_again = Some(now.instant + A_MOMENT);
            return;
        }
        let (flow, media) = (leg.flow, leg.media);
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let service = self.session_service(usage);
        let contact = callee::contact(&self.settings, self.sip.advertised(&flow), &flow, service);
        let description = invites.then(|| self.media.offer(media));
        let Some(leg) = self.leg(usage) else { return };
        let method = if invites { "INVITE" } else { "UPDATE" };
        let mut request = leg
            .dialog
            .next_request(method, &via.value)
            .header("Contact", &contact)
            .header("Allow", ALLOW)
            .header("Supported", "timer");
        for (name, value) in leg.timer.offer_again() {
            request = request.header(name, &value);
        }
        if let Some(description) = description {
            request = request.body("application/sdp", description.as_bytes());
        }
        let cseq = leg.dialog.local_cseq;
        leg.asked = Some(Asked { invites, cseq });
        leg.ask_again = None;
        let kind = if invites {
            Kind::Invite
        } else {
            Kind::NonInvite
        };
        let octets = request.build();
        let usage_of_it = Usage::Leg(usage, cseq);
        let sent = self.sip.send(kind, via, octets, flow, usage_of_it, now);
        if sent.is_err()
            && let Some(leg) = self.leg(usage)
        {
            leg.asked = None;
            leg.ask_again = Some(now.instant + A_MOMENT);
        }
    }

    /// The peer answered a refresh.
    pub(super) fn handle_leg_response(
        &mut self,
        usage: DialogUse,
        cseq: u32,
        response: &Message,
        flow: Flow,
        now: Now,
    ) {
        let status = response.status();
        let Some(leg) = self.leg(usage) else {
            // RFC 3261 §13.3.1.4: an INVITE that crossed the end of its dialog is acknowledged.
            return self.end_late_dialog(response, flow, now);
        };
        if let Some((acknowledged, ack)) = &leg.ack
            && *acknowledged == cseq
            && (200..300).contains(&status)
        {
            let (ack, flow) = (ack.clone(), leg.flow);
            return self.sip.send_ack(ack, flow);
        }
        if status < 200 {
            return;
        }
        let Some(asked) = leg.asked.take_if(|asked| asked.cseq == cseq) else {
            return;
        };
        match status {
            200..300 => self.refreshed(usage, asked, response, now),
            408 | 481 => self.end_leg(usage, &Reason::TimedOut, now),
            422 if leg.timer.refused(response) => self.refresh(usage, now),
            405 | 501 if !asked.invites => {
                leg.takes_update = false;
                self.refresh(usage, now);
            }
            491 => {
                let pause = self.glare_pause(usage);
                self.ask_again_at(usage, now.instant + pause);
            }
            500 | 503 | 504 | 480 => {
                let pause = retry_after(response).unwrap_or(A_MOMENT);
                self.ask_again_at(usage, now.instant + pause.clamp(A_MOMENT, PUT_OFF));
            }
            // Nothing that asking again would change: the session ends when it expires.
            _ => tracing::debug!(status, "a session refresh was refused"),
        }
    }

    fn ask_again_at(&mut self, usage: DialogUse, at: Instant) {
        if let Some(leg) = self.leg(usage) {
            leg.ask_again = Some(at);
        }
    }

    /// RFC 3261 §14.1: who made the Call-ID waits 2.1 to 4 s, the other up to 2 s.
    fn glare_pause(&mut self, usage: DialogUse) -> Duration {
        let random = self.tokens.number();
        match usage {
            DialogUse::Chat(_, Side::Caller) => Duration::from_millis(random % 201 * 10),
            DialogUse::Chat(_, Side::Callee) | DialogUse::Replay(_) => {
                Duration::from_millis(2_100 + random % 191 * 10)
            }
        }
    }

    /// The peer goes on.
    fn refreshed(&mut self, usage: DialogUse, asked: Asked, response: &Message, now: Now) {
        let Some(leg) = self.leg(usage) else { return };
        leg.dialog.refresh_target(response);
        leg.learn_methods(response);
        leg.timer.accepted(response, now.instant);
        if !asked.invites {
            return;
        }
        let (flow, media) = (leg.flow, leg.media);
        let via = self.sip.via(&flow, None, &mut self.tokens);
        if let Some(leg) = self.leg(usage) {
            let ack = leg.dialog.ack(asked.cseq, &via.value).build();
            leg.ack = Some((asked.cseq, ack.clone()));
            self.sip.send_ack(ack, flow);
        }
        let answer = offer::description(response).ok();
        let tokens = &mut self.tokens;
        let taken = answer
            .is_some_and(|answer| self.media.accept_again(media, &answer, now, tokens).is_ok());
        if taken {
            self.resume_sending(usage, now);
        } else {
            self.end_leg(usage, &Reason::NotAcceptable, now);
        }
    }

    /// The peer does not answer a refresh: the session is over (RFC 4028 §10).
    pub(super) fn handle_leg_silence(&mut self, usage: DialogUse, cseq: u32, now: Now) {
        let waits = |leg: &&mut Leg| leg.asked.is_some_and(|asked| asked.cseq == cseq);
        if self.leg(usage).filter(waits).is_some() {
            self.end_leg(usage, &Reason::TimedOut, now);
        }
    }
}
