//! How a chat ends: BYE from either side, a lost leg, silence, a session interval that ran out.

use crate::clock::{Instant, Now};
use crate::participating::chat::{ChatId, ChatState, Leg, Side};
use crate::participating::service::{Service, Usage};
use crate::participating::transit::Fate;
use crate::sip::dialog::Dialog;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::{Kind, ServerId};
use crate::sip::transport::flow::Flow;
use crate::store::request::StoreRequest;

/// What handsets read as a normal end (cpm-facts §5).
const COMPLETED: &str = "SIP;cause=200;text=\"Call completed\"";

impl Service {
    /// A request inside one of the chat's dialogs.
    pub(super) fn handle_chat_request(
        &mut self,
        id: ChatId,
        side: Side,
        request: &Message,
        server: ServerId,
        now: Now,
    ) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return self.reject(
                request,
                server,
                &Rejection::new(481, "Call Does Not Exist"),
                now,
            );
        };
        chat.quiet_since = now.instant;
        let leg = match side {
            Side::Caller => chat.caller_leg.as_mut(),
            Side::Callee => chat.callee_leg.as_mut(),
        };
        let Some(leg) = leg else {
            return self.reject(
                request,
                server,
                &Rejection::new(481, "Call Does Not Exist"),
                now,
            );
        };
        if let Err(rejection) = leg.dialog.check_cseq(request) {
            return self.reject(request, server, &rejection, now);
        }
        match request.method() {
            Method::Bye => {
                let reply = self.reply(request, 200, "OK", None).build();
                self.sip.respond(server, 200, reply, now);
                self.handle_bye(id, side, now);
            }
            Method::Invite | Method::Update => self.refresh_chat(id, side, request, server, now),
            Method::Info | Method::Options => {
                let reply = self.reply(request, 200, "OK", None).build();
                self.sip.respond(server, 200, reply, now);
            }
            // Nobody would get it: a message of a chat goes over MSRP.
            Method::Message => {
                let refused = Rejection::new(488, "Not Acceptable Here");
                self.reject(request, server, &refused, now);
            }
            _ => self.not_allowed(request, server, now),
        }
    }

    /// A session refresh (RFC 4028 §7.4): the description stays as it was.
    fn refresh_chat(
        &mut self,
        id: ChatId,
        side: Side,
        request: &Message,
        server: ServerId,
        now: Now,
    ) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let interval = super::callee::session_interval(request).or(chat.interval);
        chat.expires = interval.map(|interval| now.instant + interval);
        let leg = match side {
            Side::Caller => chat.caller_leg.as_mut(),
            Side::Callee => chat.callee_leg.as_mut(),
        };
        let Some(leg) = leg else { return };
        leg.dialog.refresh_target(request);
        let (flow, description) = (leg.flow, leg.description.clone());
        let contact = super::callee::contact(&self.settings, self.sip.advertised(&flow), &flow);
        let mut reply = self
            .reply(request, 200, "OK", None)
            .header("Contact", &contact);
        if let Some(interval) = interval {
            reply = reply.header("Require", "timer").header(
                "Session-Expires",
                &format!("{};refresher=uac", interval.as_secs()),
            );
        }
        if request.method() == Method::Invite || !request.body().is_empty() {
            reply = reply.body("application/sdp", description.as_bytes());
        }
        self.sip.respond(server, 200, reply.build(), now);
    }

    /// One side hung up: what it has not confirmed is kept, then the other side is told.
    fn handle_bye(&mut self, id: ChatId, side: Side, now: Now) {
        let leg = self.take_leg(id, side);
        if let Some(leg) = leg {
            self.dialogs.remove(&leg.key);
            self.keep_unconfirmed(id, side, now);
            self.parted.push((id, side, leg.media));
        }
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.state = ChatState::Ending;
        }
        self.end_if_settled(id, now);
    }

    pub(super) fn take_leg(&mut self, id: ChatId, side: Side) -> Option<Leg> {
        let chat = self.chats.get_mut(&id)?;
        match side {
            Side::Caller => chat.caller_leg.take(),
            Side::Callee => chat.callee_leg.take(),
        }
    }

    /// A leg is lost. The caller's goes on in custody; without the caller the chat is over.
    pub(super) fn break_leg(&mut self, id: ChatId, side: Side, now: Now) {
        let Some(leg) = self.take_leg(id, side) else {
            return;
        };
        self.keep_unconfirmed(id, side, now);
        self.hang_up(leg, Some("SIP;cause=480;text=\"Bearer unavailable\""), now);
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.state = match (side, chat.state) {
            (Side::Callee, ChatState::Live) if self.settings.deferral => ChatState::Custody,
            _ => ChatState::Ending,
        };
        self.end_if_settled(id, now);
    }

    /// Everything on its way to `side`, which is gone, turns into custody; what came from it and is
    /// not complete never will be.
    fn keep_unconfirmed(&mut self, id: ChatId, gone: Side, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let mut complete = Vec::new();
        let mut partial = Vec::new();
        let mut broken = Vec::new();
        for ((from, inbound), transit) in &mut chat.transits {
            if *from == gone {
                if transit.complete.is_none() {
                    broken.push((*from, *inbound));
                }
                continue;
            }
            if !matches!(transit.fate, Fate::Live(_)) {
                continue;
            }
            transit.fate = Fate::Custody;
            if transit.complete.is_some() {
                complete.push(*inbound);
            } else {
                partial.push(*inbound);
            }
        }
        for (from, inbound) in broken {
            self.end_transit(id, from, inbound, 481);
        }
        for inbound in complete {
            self.store_transit(id, gone.other(), inbound, now);
        }
        for inbound in partial {
            self.sync_chunks(id, gone.other(), inbound, now);
        }
    }

    /// Ends what is left of a chat that is ending, once nothing of it is on its way to the disk.
    pub(super) fn end_if_settled(&mut self, id: ChatId, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let storing = |fate: &Fate| matches!(fate, Fate::Storing(..));
        let busy = chat.transits.values().any(|transit| storing(&transit.fate));
        if chat.state != ChatState::Ending || busy {
            return;
        }
        for side in [Side::Caller, Side::Callee] {
            if let Some(leg) = self.take_leg(id, side) {
                self.hang_up(leg, Some(COMPLETED), now);
            }
        }
        let parted: Vec<_> = self
            .parted
            .extract_if(.., |(chat, _, _)| *chat == id)
            .collect();
        for (_, _, media) in parted {
            self.media.close(media);
        }
        self.cancel_branches(id, None, now);
        let Some(chat) = self.chats.remove(&id) else {
            return;
        };
        // What never became complete is of no use to anybody.
        let spools = chat.transits.values().filter_map(|it| it.spool.id());
        for spool in spools {
            self.custody.tell(StoreRequest::Drop { spool });
        }
    }

    /// Sends BYE in a dialog.
    pub(super) fn send_bye(
        &mut self,
        dialog: &mut Dialog,
        flow: Flow,
        reason: Option<&str>,
        now: Now,
    ) {
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let mut bye = dialog.next_request("BYE", &via.value);
        if let Some(reason) = reason {
            bye = bye.header("Reason", reason);
        }
        let octets = bye.build();
        if self
            .sip
            .send(Kind::NonInvite, via, octets, flow, Usage::Nobody, now)
            .is_err()
        {
            tracing::warn!("no room to send a BYE");
        }
    }

    /// The ACK of our 2xx came.
    pub(super) fn handle_chat_ack(&mut self, id: ChatId, side: Side, now: Now) {
        if let Some(chat) = self.chats.get_mut(&id)
            && side == Side::Caller
        {
            chat.acknowledged = true;
            let server = chat.server;
            self.sip.acknowledged(server, now);
        }
    }

    /// Our 2xx was never acknowledged (RFC 3261 §13.3.1.4): the session ends.
    pub(super) fn handle_chat_unacknowledged(&mut self, server: ServerId, now: Now) {
        let waits = |chat: &&super::chat::Chat| chat.server == server && !chat.acknowledged;
        let found = self
            .chats
            .iter()
            .find(|(_, chat)| waits(chat))
            .map(|(id, _)| *id);
        if let Some(id) = found {
            self.break_leg(id, Side::Caller, now);
        }
    }

    /// Ends every chat: the server stops. What has arrived is kept first.
    pub(super) fn end_all_chats(&mut self, now: Now) {
        let mut all: Vec<ChatId> = self.chats.keys().copied().collect();
        all.sort();
        for id in all {
            self.end_chat(id, now);
        }
    }

    /// Ends a chat from our side.
    pub(super) fn end_chat(&mut self, id: ChatId, now: Now) {
        let inviting = self
            .chats
            .get(&id)
            .is_some_and(|chat| chat.state == ChatState::Inviting);
        if inviting {
            self.cancel_branches(id, None, now);
            self.refuse_chat(id, &Rejection::new(503, "Service Unavailable"), now);
            return;
        }
        self.keep_unconfirmed(id, Side::Callee, now);
        self.keep_unconfirmed(id, Side::Caller, now);
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.state = ChatState::Ending;
        }
        self.end_if_settled(id, now);
    }

    pub(super) fn handle_chat_timeouts(&mut self, now: Now) {
        let idle = self.settings.idle;
        let due =
            |chat: &super::chat::Chat| chat.deadline(idle).is_some_and(|at| at <= now.instant);
        let mut late: Vec<ChatId> = self
            .chats
            .iter()
            .filter(|(_, chat)| due(chat))
            .map(|(id, _)| *id)
            .collect();
        late.sort();
        for id in late {
            self.handle_chat_timeout(id, now);
        }
    }

    fn handle_chat_timeout(&mut self, id: ChatId, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        if chat.state == ChatState::Inviting {
            chat.rings_until = None;
            return self.stop_ringing(id, now);
        }
        if let Some(side) = self.silent_side(id, now) {
            tracing::debug!(?side, "a device confirms nothing; its leg counts as lost");
            return self.break_leg(id, side, now);
        }
        let idle = self.settings.idle;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        if chat.over_at(idle) > now.instant {
            return;
        }
        chat.state = ChatState::Ending;
        self.keep_unconfirmed(id, Side::Callee, now);
        self.keep_unconfirmed(id, Side::Caller, now);
        self.end_if_settled(id, now);
    }

    /// The side that owes an answer for some message for too long. A message whose author pauses has
    /// nothing to be answered; it is looked at again later.
    fn silent_side(&mut self, id: ChatId, now: Now) -> Option<Side> {
        let again = now.instant + self.settings.custody_after;
        let chat = self.chats.get_mut(&id)?;
        let medias = [Side::Caller, Side::Callee].map(|side| chat.leg(side).map(|leg| leg.media));
        let [caller, callee] = medias;
        for ((from, _), transit) in &mut chat.transits {
            let Fate::Live(out) = transit.fate else {
                continue;
            };
            if transit.deadline > now.instant {
                continue;
            }
            let peer = if *from == Side::Caller {
                callee
            } else {
                caller
            };
            let session = peer.and_then(|peer| self.media.session(peer));
            if session.is_none_or(|session| session.awaits_answer(out)) {
                return Some(from.other());
            }
            transit.deadline = again;
        }
        None
    }
}

impl super::chat::Chat {
    /// When it ends for want of traffic, or of a refresh.
    fn over_at(&self, idle: std::time::Duration) -> Instant {
        let quiet = self.quiet_since + idle;
        self.expires.map_or(quiet, |expires| expires.min(quiet))
    }

    /// The next point in time at which something is due.
    fn deadline(&self, idle: std::time::Duration) -> Option<Instant> {
        match self.state {
            ChatState::Inviting => self.rings_until,
            ChatState::Ending => None,
            ChatState::Live | ChatState::Custody => {
                let live = self.transits.values().filter(|transit| transit.is_live());
                let quiet = self.quiet_since + idle;
                let earliest = live.map(|transit| transit.deadline).min();
                earliest
                    .into_iter()
                    .chain(self.expires)
                    .chain([quiet])
                    .min()
            }
        }
    }
}
