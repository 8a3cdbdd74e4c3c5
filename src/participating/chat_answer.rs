//! The answers of a chat: a device takes it, the caller hears of it, the other branches end.

use crate::clock::Now;
use crate::msrp::negotiation::SdpRefusal;
use crate::participating::chat::{Chat, ChatId, ChatState, Side};
use crate::participating::deferral::Condition;
use crate::participating::dialogs::DialogUse;
use crate::participating::large::SessionService;
use crate::participating::leg::{Leg, Unacknowledged};
use crate::participating::media::{MediaId, MediaUse};
use crate::participating::reason::Reason;
use crate::participating::service::Service;
use crate::participating::submission;
use crate::participating::{callee, offer, outgoing};
use crate::sip::dialog::Dialog;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::session_timer::{Field, SessionTimer};
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
        let Ok(mut dialog) = Dialog::as_uac(&branch.request, response) else {
            return self.branch_over(id, index, now);
        };
        let (flow, media, carried) = (branch.flow, branch.media, branch.carries_first);
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let ack = dialog.ack(dialog.local_cseq, &via.value).build();
        branch.ack = Some(ack.clone());
        branch.ended = true;
        branch.early.carry_on(&mut dialog);
        let mut leg = Leg::new(dialog, flow, media, branch.timer);
        leg.learn_methods(response);
        leg.timer.accepted(response, now.instant);
        self.sip.send_ack(ack, flow);
        if self
            .chats
            .get(&id)
            .is_none_or(|chat| chat.state != ChatState::Inviting)
        {
            return self.hang_up(leg, &Reason::Completed, now);
        }
        let answer = offer::description(response).ok();
        let accepted = answer.is_some_and(|answer| self.media.accept(media, &answer, now).is_ok());
        if !accepted {
            self.hang_up(leg, &Reason::NotAcceptable, now);
            return self.branch_answer_unusable(id, now);
        }
        self.dialogs
            .insert(leg.key.clone(), DialogUse::Chat(id, Side::Callee));
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.callee_leg = Some(leg);
            chat.state = ChatState::Live;
        }
        self.cancel_branches(id, Some(index), now);
        if !self.send_first(id, carried, now) {
            self.answer_caller(id, now);
        }
    }

    /// Nobody took the call in time: the branches are cancelled and the caller served without them.
    pub(super) fn stop_ringing(&mut self, id: ChatId, now: Now) {
        self.cancel_branches(id, None, now);
        if let Some(chat) = self.chats.get_mut(&id) {
            for branch in &mut chat.branches {
                branch.ended = true;
            }
        }
        self.without_device(id, Condition::Unreachable, now);
    }

    fn branch_answer_unusable(&mut self, id: ChatId, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.answers.unusable();
        let condition = chat.answers.condition(chat.form());
        if chat.branches.iter().all(|branch| branch.ended) {
            self.without_device(id, condition, now);
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
        let Ok(mut dialog) = Dialog::as_uas(&chat.invite, 200, &chat.tag) else {
            self.media.close(media);
            return self.refuse_chat(id, &Rejection::new(400, "Missing Contact"), now);
        };
        let (flow, server) = (chat.flow, chat.server);
        let advertised = self.sip.advertised(&flow);
        let contact = callee::contact(&self.settings, advertised, &flow, chat.service);
        let mut timer = SessionTimer::new(self.settings.timer);
        let fields = timer.answer(&chat.invite, now.instant).unwrap_or_default();
        chat.quiet_since = now.instant;
        let reply = answer_head(chat, &contact, &fields);
        let octets = reply
            .body("application/sdp", description.as_bytes())
            .build();
        if let Some(early) = chat.early.take() {
            dialog.remote_cseq = early.remote_cseq;
        }
        if let Some(reliable) = &mut chat.reliable {
            reliable.stop();
        }
        let mut leg = Leg::new(dialog, flow, media, timer);
        leg.learn_methods(&chat.invite);
        leg.unacknowledged = Some(Unacknowledged {
            server,
            cseq: chat.invite.cseq().map_or(0, |cseq| cseq.number),
            offered: false,
        });
        self.dialogs
            .insert(leg.key.clone(), DialogUse::Chat(id, Side::Caller));
        chat.caller_leg = Some(leg);
        match chat.service {
            SessionService::Chat => self.metrics.sessions_chat.count(),
            SessionService::Large => self.metrics.sessions_large.count(),
        }
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
        let secure = self.media.answers_tls(&offer).map_err(Some)?;
        let (direction, tokens) = (chat.service.from_author(), &mut self.tokens);
        let opened = self
            .media
            .open_over(secure, media_use, remote, known_as, direction, tokens);
        let media = opened.ok_or(None)?;
        let settings = &self.directory.settings(&chat.caller).settings;
        let (most, wrapped) = submission::told_in_session(settings);
        self.media.take_only(media, most, wrapped);
        if let Some(device) = &chat.callee_leg {
            self.media.take_what(device.media, media);
        }
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
            self.hang_up(leg, &Reason::NotAcceptable, now);
        }
        let Some(chat) = self.forget_chat(id) else {
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

fn answer_head(chat: &Chat, contact: &str, fields: &[Field]) -> crate::sip::reply::ResponseBuilder {
    let reply = crate::sip::reply::response(&chat.invite, 200, "OK", Some(&chat.tag))
        .header("Contact", contact)
        .header("Allow", outgoing::ALLOW)
        .header("Supported", "timer, 100rel")
        .header("Conversation-ID", &chat.ids.conversation)
        .header("Contribution-ID", &chat.ids.contribution);
    let all = fields.iter();
    all.fold(reply, |reply, (name, value)| reply.header(name, value))
}
