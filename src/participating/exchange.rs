//! INVITE and UPDATE of the peer inside a dialog of ours: the session is refreshed, and its
//! description exchanged again if there is one (RFC 3261 §14.2, RFC 3311 §5.2, RFC 4028 §9, RFC 6337).

use crate::clock::Now;
use crate::participating::callee;
use crate::participating::dialogs::DialogUse;
use crate::participating::leg::Unacknowledged;
use crate::participating::offer::{self, Unusable};
use crate::participating::outgoing::ALLOW;
use crate::participating::reason::Reason;
use crate::participating::service::Service;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::ServerId;

impl Service {
    /// A target refresh request of the peer.
    pub(super) fn exchange_again(
        &mut self,
        usage: DialogUse,
        request: &Message,
        server: ServerId,
        now: Now,
    ) {
        let Some(leg) = self.leg(usage) else { return };
        let invites = request.method() == Method::Invite;
        let offers = !request.body().is_empty();
        let we_ask = leg.asked.is_some_and(|asked| asked.invites);
        let we_offer = leg.unacknowledged.is_some_and(|it| it.offered);
        if (invites || offers) && (we_ask || we_offer) {
            let pending = Rejection::new(491, "Request Pending");
            return self.reject(request, server, &pending, now);
        }
        let mut timer = leg.timer;
        let fields = match timer.answer(request, now.instant) {
            Ok(fields) => fields,
            Err(too_small) => return self.interval_too_small(request, server, too_small, now),
        };
        let description = match self.describe_again(usage, request, now) {
            Ok(description) => description,
            Err(unusable) => return self.refuse_offer(request, server, unusable, now),
        };
        let Some(leg) = self.leg(usage) else { return };
        leg.timer = timer;
        leg.ask_again = None;
        leg.dialog.refresh_target(request);
        let flow = leg.flow;
        if invites {
            leg.unacknowledged = Some(Unacknowledged {
                server,
                cseq: request.cseq().map(|cseq| cseq.number).unwrap_or_default(),
                offered: !offers,
            });
        }
        let service = self.session_service(usage);
        let contact = callee::contact(&self.settings, self.sip.advertised(&flow), &flow, service);
        let mut reply = self
            .reply(request, 200, "OK", None)
            .header("Contact", &contact)
            .header("Allow", ALLOW)
            .header("Supported", "timer");
        for (name, value) in &fields {
            reply = reply.header(name, value);
        }
        if let Some(description) = description {
            reply = reply.body("application/sdp", description.as_bytes());
        }
        self.sip.respond(server, 200, reply.build(), now);
        self.resume_sending(usage, now);
    }

    /// What goes into the 2xx: an answer to an offer, an offer where an INVITE has none, else nothing.
    fn describe_again(
        &mut self,
        usage: DialogUse,
        request: &Message,
        now: Now,
    ) -> Result<Option<String>, Unusable> {
        let Some(media) = self.leg(usage).map(|leg| leg.media) else {
            return Ok(None);
        };
        if request.body().is_empty() {
            let invites = request.method() == Method::Invite;
            return Ok(invites.then(|| self.media.offer(media)));
        }
        let offer = offer::description(request)?;
        let answer = self
            .media
            .answer_again(media, &offer, now, &mut self.tokens);
        answer.map(Some).map_err(Unusable::Refused)
    }

    /// The ACK of a 2xx of ours: the answer in it, if that was an offer.
    pub(super) fn handle_leg_ack(&mut self, usage: DialogUse, ack: &Message, now: Now) {
        let cseq = ack.cseq().map(|cseq| cseq.number).unwrap_or_default();
        let Some(leg) = self.leg(usage) else { return };
        let Some(waiting) = leg.unacknowledged.take_if(|it| it.cseq == cseq) else {
            return;
        };
        let media = leg.media;
        self.sip.acknowledged(waiting.server, now);
        if let DialogUse::Replay(id) = usage {
            self.fetch_acknowledged(id, now);
        }
        if !waiting.offered || ack.body().is_empty() {
            return;
        }
        let answer = offer::description(ack).ok();
        let tokens = &mut self.tokens;
        let taken = answer
            .is_some_and(|answer| self.media.accept_again(media, &answer, now, tokens).is_ok());
        if taken {
            self.resume_sending(usage, now);
        } else {
            self.end_leg(usage, &Reason::NotAcceptable, now);
        }
    }

    /// Our 2xx was never acknowledged (RFC 3261 §13.3.1.4): the session ends.
    pub(super) fn handle_unacknowledged(&mut self, server: ServerId, now: Now) {
        let waits = |leg: &super::leg::Leg| {
            let waiting = leg.unacknowledged.as_ref();
            waiting.is_some_and(|waiting| waiting.server == server)
        };
        let found = self
            .legs()
            .find_map(|(usage, leg)| waits(leg).then_some(usage));
        if let Some(usage) = found {
            self.end_leg(usage, &Reason::TimedOut, now);
        }
    }

    /// One leg is over; what is unconfirmed is kept.
    pub(super) fn end_leg(&mut self, usage: DialogUse, reason: &Reason, now: Now) {
        match usage {
            DialogUse::Chat(id, side) => self.break_leg(id, side, reason, now),
            DialogUse::Replay(id) => self.break_replay(id, reason, now),
        }
    }

    /// The peer may take more than before, or on another connection.
    pub(super) fn resume_sending(&mut self, usage: DialogUse, now: Now) {
        match usage {
            DialogUse::Chat(id, side) => self.pump(id, side, now),
            DialogUse::Replay(id) => {
                self.note_hold(id, now);
                self.pump_replay(id, now);
            }
        }
    }
}
