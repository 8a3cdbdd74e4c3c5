//! How a chat ends: BYE from either side, a lost leg, silence, a session interval that ran out.

use crate::clock::{Instant, Now};
use crate::participating::chat::{ChatId, ChatState, Side};
use crate::participating::leg::Leg;
use crate::participating::reason::Reason;
use crate::participating::service::{Service, Usage};
use crate::participating::transit::{Fate, Transit};
use crate::sip::dialog::Dialog;
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::Kind;
use crate::sip::transport::flow::Flow;
use crate::store::request::StoreRequest;

impl Service {
    /// One side hung up: what it has not confirmed is kept, then the other side is told. What it has
    /// sent goes on to the other side first.
    pub(super) fn handle_bye(&mut self, id: ChatId, side: Side, reason: Reason, now: Now) {
        if self.refuse_when_safe(id, 486, now) {
            return;
        }
        let leg = self.take_leg(id, side);
        if let Some(leg) = leg {
            self.dialogs.remove(&leg.key);
            self.keep_unconfirmed(id, side, now);
            self.parted.push((id, side, leg.media));
            self.pump(id, side.other(), now);
        }
        let keeps = self.settings.deferral;
        if let Some(chat) = self.chats.get_mut(&id) {
            // What the device has not confirmed of a large message is collected (cpm-facts §6 row 12).
            chat.state = match side {
                Side::Callee if keeps && chat.collects() => ChatState::Custody,
                _ => ChatState::Ending,
            };
            chat.ends_because = reason;
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
    pub(super) fn break_leg(&mut self, id: ChatId, side: Side, reason: &Reason, now: Now) {
        if self.first_leg_lost(id, now) {
            return;
        }
        let Some(leg) = self.take_leg(id, side) else {
            return;
        };
        self.keep_unconfirmed(id, side, now);
        self.hang_up(leg, reason, now);
        self.pump(id, side.other(), now);
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
            if !matches!(transit.fate, Fate::Live(_) | Fate::Unread) {
                continue;
            }
            transit.was_sent_as = transit.outbound();
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

    /// Ends what is left of a chat that is ending, once nothing of it is on its way: to the disk, or to
    /// a side that is still there, or as a confirmation that we wait for.
    pub(super) fn end_if_settled(&mut self, id: ChatId, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let is_busy = |from: Side, transit: &Transit| match transit.fate {
            Fate::Storing(..) | Fate::Asking => true,
            Fate::Live(_) => transit.complete.is_some() && chat.leg(from.other()).is_some(),
            Fate::Unread | Fate::Custody => false,
        };
        let mut transits = chat.transits.iter();
        let busy = transits.any(|((from, _), transit)| is_busy(*from, transit));
        if chat.state != ChatState::Ending || busy || chat.lingers(now) {
            return;
        }
        let reason = chat.ends_because.clone();
        for side in [Side::Caller, Side::Callee] {
            if let Some(leg) = self.take_leg(id, side) {
                self.hang_up(leg, &reason, now);
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
        let Some(chat) = self.forget_chat(id) else {
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
        reason: Option<&Reason>,
        now: Now,
    ) {
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let mut bye = dialog.next_request("BYE", &via.value);
        if let Some(reason) = reason {
            bye = bye.header("Reason", reason.value());
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
        if self.refuse_when_safe(id, 503, now) {
            return;
        }
        if inviting {
            self.cancel_branches(id, None, now);
            self.refuse_chat(id, &Rejection::new(503, "Service Unavailable"), now);
            return;
        }
        self.keep_unconfirmed(id, Side::Callee, now);
        self.keep_unconfirmed(id, Side::Caller, now);
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.state = ChatState::Ending;
            chat.linger(now);
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
        self.keep_held(id, now);
        if let Some(side) = self.silent_side(id, now) {
            tracing::debug!(?side, "a device confirms nothing; its leg counts as lost");
            return self.break_leg(id, side, &Reason::TimedOut, now);
        }
        let idle = self.settings.idle;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        if chat.state == ChatState::Ending {
            return self.end_if_settled(id, now);
        }
        if chat.quiet_since + idle > now.instant {
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
    /// The next point in time at which something is due.
    fn deadline(&self, idle: std::time::Duration) -> Option<Instant> {
        match self.state {
            ChatState::Inviting => self.rings_until,
            ChatState::Ending => {
                let all = [self.live_deadline(), self.lingers_until()];
                all.into_iter().flatten().min()
            }
            ChatState::Settling | ChatState::Live | ChatState::Custody => {
                let quiet = self.quiet_since + idle;
                self.live_deadline().into_iter().chain([quiet]).min()
            }
        }
    }

    /// When the other side must have confirmed more of what is on its way.
    fn live_deadline(&self) -> Option<Instant> {
        let live = self.transits.values().filter(|transit| transit.is_live());
        live.map(|transit| transit.deadline).min()
    }
}
