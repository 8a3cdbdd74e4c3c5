//! The answers of a chat: a device takes it, the caller hears of it, the other branches end.

use crate::clock::Now;
use crate::msrp::negotiation::SdpRefusal;
use crate::msrp::sdp::Direction;
use crate::participating::chat::{Chat, ChatId, ChatState, Leg, Side};
use crate::participating::deferral::Outcome;
use crate::participating::dialogs::{DialogKey, DialogUse};
use crate::participating::media::{MediaId, MediaUse};
use crate::participating::service::Service;
use crate::participating::{callee, outgoing};
use crate::sip::dialog::Dialog;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::ClientId;
use crate::sip::transport::flow::Flow;

impl Service {
    /// 2xx from a device: the first one wins, every further one is ended at once.
    pub(super) fn device_answered(
        &mut self,
        id: ChatId,
        index: usize,
        response: &Message,
        now: Now,
    ) {
        let Some(branch) = self
            .chats
            .get_mut(&id)
            .and_then(|chat| chat.branches.get_mut(index))
        else {
            return;
        };
        if let Some(ack) = &branch.ack {
            let (ack, flow) = (ack.clone(), branch.flow);
            return self.sip.send_ack(ack, flow);
        }
        let Ok(dialog) = Dialog::as_uac(&branch.request, response) else {
            return self.branch_over(id, index, now);
        };
        let (flow, media) = (branch.flow, branch.media);
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let ack = dialog.ack(dialog.local_cseq, &via.value).build();
        branch.ack = Some(ack.clone());
        branch.ended = true;
        let description = branch.description.clone();
        self.sip.send_ack(ack, flow);
        let key = DialogKey::of(&dialog);
        let leg = Leg {
            dialog,
            key,
            flow,
            media,
            description,
        };
        if self
            .chats
            .get(&id)
            .is_none_or(|chat| chat.state != ChatState::Inviting)
        {
            return self.hang_up(leg, None, now);
        }
        let answer = callee::description(response);
        let accepted = answer.is_some_and(|answer| self.media.accept(media, &answer, now).is_ok());
        if !accepted {
            self.hang_up(leg, Some("SIP;cause=488;text=\"Not Acceptable Here\""), now);
            return self.branch_answer_unusable(id, now);
        }
        self.dialogs
            .insert(leg.key.clone(), DialogUse::Chat(id, Side::Callee));
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.callee_leg = Some(leg);
            chat.state = ChatState::Live;
        }
        self.cancel_branches(id, Some(index), now);
        self.answer_caller(id, now);
    }

    /// Nobody took the call in time: the branches are cancelled and the caller served without them.
    pub(super) fn stop_ringing(&mut self, id: ChatId, now: Now) {
        self.cancel_branches(id, None, now);
        if let Some(chat) = self.chats.get_mut(&id) {
            for branch in &mut chat.branches {
                branch.ended = true;
            }
        }
        self.without_device(id, Outcome::NoAnswer, now);
    }

    fn branch_answer_unusable(&mut self, id: ChatId, now: Now) {
        let all = self
            .chats
            .get(&id)
            .is_some_and(|chat| chat.branches.iter().all(|b| b.ended));
        if all {
            self.without_device(id, Outcome::Status(488), now);
        }
    }

    pub(super) fn cancel_branches(&mut self, id: ChatId, but: Option<usize>, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let others: Vec<(Option<ClientId>, MediaId)> = chat
            .branches
            .iter()
            .enumerate()
            .filter(|(index, branch)| Some(*index) != but && !branch.ended)
            .map(|(_, branch)| (branch.client, branch.media))
            .collect();
        for (client, media) in others {
            if let Some(client) = client {
                self.sip.cancel(client, now);
            }
            self.media.close(media);
        }
    }

    /// 200 to the caller: with the device's leg behind it, or with custody.
    pub(super) fn answer_caller(&mut self, id: ChatId, now: Now) {
        let answered = self.describe_answer(id, now);
        let (media, description) = match answered {
            Ok(answered) => answered,
            Err(refusal) => return self.refuse_description(id, refusal, now),
        };
        let Some(chat) = self.chats.get_mut(&id) else {
            return self.media.close(media);
        };
        let Ok(dialog) = Dialog::as_uas(&chat.invite, 200, &chat.tag) else {
            self.media.close(media);
            return self.refuse_chat(id, &Rejection::new(400, "Missing Contact"), now);
        };
        let (flow, server) = (chat.flow, chat.server);
        let contact = callee::contact(&self.settings, self.sip.advertised(&flow), &flow);
        chat.interval = callee::session_interval(&chat.invite);
        chat.expires = chat.interval.map(|interval| now.instant + interval);
        chat.quiet_since = now.instant;
        let reply = answer_head(chat, &contact);
        let octets = reply
            .body("application/sdp", description.as_bytes())
            .build();
        let key = DialogKey::of(&dialog);
        self.dialogs
            .insert(key.clone(), DialogUse::Chat(id, Side::Caller));
        chat.caller_leg = Some(Leg {
            dialog,
            key,
            flow,
            media,
            description,
        });
        self.sip.respond(server, 200, octets, now);
    }

    /// Our answer to the caller's offer, and the session behind it.
    fn describe_answer(
        &mut self,
        id: ChatId,
        now: Now,
    ) -> Result<(MediaId, String), Option<SdpRefusal>> {
        let chat = self.chats.get(&id).ok_or(None)?;
        let (remote, offer) = (chat.flow.remote.ip(), chat.offer.clone());
        let known_as = self.sip.advertised(&chat.flow);
        let media_use = MediaUse::Chat(id, Side::Caller);
        let direction = Direction::SendRecv;
        let opened = self
            .media
            .open(media_use, remote, known_as, direction, &mut self.tokens);
        let media = opened.ok_or(None)?;
        match self.media.answer(media, &offer, now) {
            Ok(text) => Ok((media, text)),
            Err(refusal) => {
                self.media.close(media);
                Err(Some(refusal))
            }
        }
    }

    /// No session can come of the offer (or there is no room for one): the caller hears why.
    fn refuse_description(&mut self, id: ChatId, refusal: Option<SdpRefusal>, now: Now) {
        if let Some(leg) = self.take_leg(id, Side::Callee) {
            self.hang_up(leg, None, now);
        }
        let Some(chat) = self.chats.remove(&id) else {
            return;
        };
        for branch in &chat.branches {
            self.media.close(branch.media);
        }
        match refusal {
            Some(refusal) => self.reject_description(&chat.invite, chat.server, refusal, now),
            None => self.overloaded(&chat.invite, chat.server, now),
        }
    }

    /// A 2xx that nobody waits for any more: acknowledge and end the dialog it made (RFC 3261 §13.2.2.4).
    /// All that the dialog needs stands in the response.
    pub(super) fn end_late_dialog(&mut self, response: &Message, flow: Flow, now: Now) {
        let is_success =
            (200..300).contains(&response.status()) && response.method() == Method::Invite;
        let Ok(mut dialog) = Dialog::as_uac(response, response) else {
            return;
        };
        if is_success {
            let via = self.sip.via(&flow, None, &mut self.tokens);
            let ack = dialog.ack(dialog.local_cseq, &via.value).build();
            self.sip.send_ack(ack, flow);
            self.send_bye(&mut dialog, flow, None, now);
        }
    }
}

fn answer_head(chat: &Chat, contact: &str) -> crate::sip::reply::ResponseBuilder {
    let reply = crate::sip::reply::response(&chat.invite, 200, "OK", Some(&chat.tag))
        .header("Contact", contact)
        .header("Allow", outgoing::ALLOW)
        .header("Conversation-ID", &chat.ids.conversation)
        .header("Contribution-ID", &chat.ids.contribution);
    match chat.interval {
        Some(interval) => reply.header("Require", "timer").header(
            "Session-Expires",
            &format!("{};refresher=uac", interval.as_secs()),
        ),
        None => reply,
    }
}
