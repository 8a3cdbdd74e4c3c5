//! One-to-one chat: an INVITE with `m=message` is anchored here. Towards the author we are the
//! recipient's side, towards the recipient's device the author's; both MSRP legs end here, and
//! `bridge` carries what passes between them.
//!
//! Nobody at home, or the device's leg lost: the author's leg goes on and everything he sends is
//! taken into custody (cpm-facts §6).

use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::msrp::event::InboundId;
use crate::msrp::sdp::SessionDescription;
use crate::participating::admission::Admission;
use crate::participating::arrival::ConversationHeaders;
use crate::participating::callee;
use crate::participating::chat_places::Places;
use crate::participating::contacts::Target;
use crate::participating::deferral::{Answer, Condition, DeviceAnswers, Form, Stored, verdict};
use crate::participating::dialogs::DialogKey;
use crate::participating::first_message::{First, FirstMessage, Then};
use crate::participating::forward;
use crate::participating::grants::Grant;
use crate::participating::large::SessionService;
use crate::participating::leg::Leg;
use crate::participating::media::{MediaId, MediaUse};
use crate::participating::of_users::ForUser;
use crate::participating::provisional::EarlyDialogs;
use crate::participating::reason::Reason;
use crate::participating::served_user::Carrier;
use crate::participating::service::{Service, Usage};
use crate::participating::transit::{Delivered, Transit};
use crate::participating::unconfirmed::Unconfirmed;
use crate::registrar::Profile;
use crate::sip::dialog::Dialog;
use crate::sip::endpoint::Via;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::sip::reliable::ReliableSender;
use crate::sip::reply;
use crate::sip::session_timer::SessionTimer;
use crate::sip::transaction::table::{ClientId, Kind, ServerId};
use crate::sip::transport::flow::Flow;
use crate::store::request::ConversationKey;

/// Names a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatId(pub u64);

/// Which of the two people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Who sent the INVITE.
    Caller,
    /// Whom it was for.
    Callee,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// How far the chat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChatState {
    /// The recipient's devices ring.
    Inviting,
    /// The message inside the INVITE is on its way to a device or to the disk; the caller waits.
    Settling,
    /// Both legs stand.
    Live,
    /// Only the caller's leg stands; what he sends is kept.
    Custody,
    /// Both ends have been told; what is being stored is waited for.
    Ending,
}

/// An INVITE to one of the recipient's devices.
#[derive(Debug)]
pub(super) struct Branch {
    pub client: Option<ClientId>,
    pub flow: Flow,
    /// What the marks of kept messages know its device by.
    pub device: u64,
    pub media: MediaId,
    pub request: Message,
    pub timer: SessionTimer,
    pub early: EarlyDialogs,
    pub ended: bool,
    /// Its INVITE has no final answer.
    pub is_out: bool,
    /// Its INVITE carries the first message.
    pub carries_first: bool,
    /// The ACK of its 2xx, sent again with each repetition of the 2xx.
    pub ack: Option<Bytes>,
}

/// A chat session anchored here.
#[derive(Debug)]
pub struct Chat {
    /// Given back with it.
    _places: Places,
    pub(super) invite: Message,
    pub(super) server: ServerId,
    pub(super) flow: Flow,
    pub(super) offer: SessionDescription,
    pub(super) service: SessionService,
    pub(super) ids: ConversationHeaders,
    pub(super) caller: Identity,
    pub(super) callee: Identity,
    /// The callee blocks the caller without a word: what he sends is taken and dropped.
    pub(super) silent: bool,
    /// The caller asked to stay unnamed.
    pub(super) hidden: bool,
    /// Our tag towards the caller.
    pub(super) tag: String,
    pub(super) state: ChatState,
    /// Whether the caller's machine lets messages of the callee pass.
    pub(super) grant: Grant,
    pub(super) caller_leg: Option<Leg>,
    pub(super) callee_leg: Option<Leg>,
    pub(super) branches: Vec<Branch>,
    pub(super) answers: DeviceAnswers,
    /// The message inside the INVITE, until it is safe.
    pub(super) first: Option<First>,
    pub(super) rings_until: Option<Instant>,
    pub(super) quiet_since: Instant,
    /// What the legs that still stand hear at the end.
    pub(super) ends_because: Reason,
    pub(super) transits: BTreeMap<(Side, InboundId), Box<Transit>>,
    /// What was kept while its recipient's side may still confirm it.
    pub(super) unconfirmed: Vec<Unconfirmed>,
    /// We end it: so long confirmations are waited for.
    pub(super) ends_at: Option<Instant>,
    /// What arrived at the other side last.
    pub(super) delivered: VecDeque<Delivered>,
    /// His dialog, from the first ringing of a device to our answer.
    pub(super) early: Option<Dialog>,
    /// Provisional responses to a caller who requires them to be reliable.
    pub(super) reliable: Option<ReliableSender>,
}

impl Chat {
    /// Which conversation the messages of `side` belong to.
    pub(super) fn conversation_of(&self, side: Side) -> ConversationKey {
        ConversationKey {
            author: self.person(side).clone(),
            conversation: self.ids.conversation.as_str().into(),
        }
    }

    /// Remembers a message for its REPORT; the latest few of them.
    pub(super) fn remember_delivered(&mut self, message: Delivered) {
        const REMEMBERED: usize = 32;
        if self.delivered.len() >= REMEMBERED {
            self.delivered.pop_front();
        }
        self.delivered.push_back(message);
    }

    /// Its column in the deferral table.
    pub(super) fn form(&self) -> Form {
        match (self.service, &self.first) {
            (SessionService::Large, _) => Form::Large,
            (SessionService::Chat, Some(_)) => Form::ChatWithText,
            (SessionService::Chat, None) => Form::Chat,
        }
    }

    /// Who is on that side.
    pub(super) fn person(&self, side: Side) -> &Identity {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    /// The leg on that side, if it stands.
    pub(super) fn leg(&self, side: Side) -> Option<&Leg> {
        match side {
            Side::Caller => self.caller_leg.as_ref(),
            Side::Callee => self.callee_leg.as_ref(),
        }
    }
}

impl ForUser for Chat {
    fn user(&self) -> &Identity {
        &self.callee
    }
}

impl Service {
    /// An INVITE for a chat from an authenticated caller to a user of this shard.
    #[expect(
        clippy::too_many_arguments,
        reason = "what the router knows of an INVITE"
    )]
    pub fn handle_chat_invite(
        &mut self,
        invite: Message,
        server: ServerId,
        flow: Flow,
        offer: SessionDescription,
        caller: Identity,
        callee: Identity,
        now: Now,
    ) {
        let ids = ConversationHeaders::read(&invite, &caller, &callee, &mut self.tokens);
        let ids = match ids {
            Ok(ids) => ids,
            Err(rejection) => return self.reject(&invite, server, &rejection, now),
        };
        let service = SessionService::of(&invite, &offer);
        // What stands beside the description of a large message are its CPIM headers, not a message.
        let first = match service {
            SessionService::Chat => FirstMessage::read(&invite),
            SessionService::Large => Ok(None),
        };
        let first = match first {
            Ok(first) => first,
            Err(rejection) => return self.reject(&invite, server, &rejection, now),
        };
        if self.chats.len() >= self.settings.most_under_way || self.draining {
            return self.overloaded(&invite, server, now);
        }
        if let Err(refused) = self.submit_session(&caller, &offer, first.as_ref(), now) {
            return self.reject(&invite, server, &refused.rejection(), now);
        }
        let mut timer = SessionTimer::new(self.settings.timer);
        if let Err(too_small) = timer.answer(&invite, now.instant) {
            return self.interval_too_small(&invite, server, too_small, now);
        }
        let silent = match self.admit(&invite, &caller, &callee, now) {
            Admission::Pass => false,
            Admission::Drop => true,
            Admission::Refuse(rejection) => {
                let trying = self.reply(&invite, 100, "Trying", None).build();
                self.sip.respond(server, 100, trying, now);
                return self.reject(&invite, server, &rejection, now);
            }
        };
        // What somebody blocked sends is dropped, and takes no place of who blocks him.
        let counted = (!silent).then_some(&callee);
        let places = match self.take_places(&caller, counted, first.is_some()) {
            Ok(places) => places,
            Err(refused) => return self.reject(&invite, server, &refused, now),
        };
        let hidden = forward::wants_privacy(&invite);
        let id = ChatId(self.next_number());
        let mut chat = Chat {
            _places: places,
            invite,
            server,
            flow,
            offer,
            service,
            ids,
            caller,
            callee,
            silent,
            hidden,
            tag: self.tokens.token(),
            state: ChatState::Inviting,
            grant: Grant::Nobody,
            caller_leg: None,
            callee_leg: None,
            branches: Vec::new(),
            answers: DeviceAnswers::default(),
            first: None,
            rings_until: None,
            quiet_since: now.instant,
            ends_because: Reason::Completed,
            transits: BTreeMap::new(),
            unconfirmed: Vec::new(),
            ends_at: None,
            delivered: VecDeque::new(),
            early: None,
            reliable: None,
        };
        chat.grant = self.ask_grant(id, &chat);
        let trying = self.reply(&chat.invite, 100, "Trying", None).build();
        self.sip.respond(server, 100, trying, now);
        let key = chat.conversation_of(Side::Caller);
        let free = self.lets_pass(&chat.callee, &key, Carrier::Session);
        let targets = match service {
            SessionService::Chat => self.session_targets_for(&chat.callee, &chat.invite),
            SessionService::Large => self.large_targets(&chat.callee, Some(&chat.invite)),
        };
        let absent = self.absence(&chat.callee);
        self.chats.insert(id, chat);
        if let Some(mut first) = first {
            if hidden {
                first.hide_author();
            }
            self.take_first(id, first, now);
        }
        if silent {
            self.without_device(id, Condition::DeferredByRule, now);
        } else if free && !targets.is_empty() {
            self.fork_invite(id, &targets, now);
        } else {
            self.without_device(id, absent, now);
        }
    }

    fn fork_invite(&mut self, id: ChatId, targets: &[Target], now: Now) {
        for target in targets {
            self.invite_device(id, target, now);
        }
        let ring = now.instant + self.settings.ring;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.rings_until = Some(ring);
        if chat.branches.iter().all(|branch| branch.ended) {
            self.without_device(id, Condition::Unreachable, now);
        }
    }

    fn invite_device(&mut self, id: ChatId, target: &Target, now: Now) {
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.answers.tried(target.profile);
        }
        let media_use = MediaUse::Chat(id, Side::Callee);
        let remote = target.flow.remote.ip();
        let known_as = self.sip.advertised(&target.flow);
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let direction = chat.service.to_device();
        let opened = self
            .media
            .open(media_use, remote, known_as, direction, &mut self.tokens);
        let Some(media) = opened else {
            return;
        };
        if let Some((_, offered)) = chat.offer.usable().next() {
            let (accept, wrapped) = (
                offered.accept_types.clone(),
                offered.accept_wrapped_types.clone(),
            );
            self.media.offer_types(media, accept, wrapped);
        }
        let description = self.media.offer(media);
        // RCS-e devices take the first message inside the INVITE (cpm-facts §7.2).
        let first = chat
            .first
            .as_ref()
            .filter(|first| target.profile == Profile::RcsE && !first.confirmed);
        let carries_first = first.is_some();
        let (content_type, body) = match first {
            Some(first) => first.message.beside(&description, &self.tokens.token()),
            None => (
                "application/sdp".to_owned(),
                description.as_bytes().to_vec(),
            ),
        };
        let via: Via = self.sip.via(&target.flow, None, &mut self.tokens);
        let local_tag = self.tokens.token();
        let call_id = callee::call_id(&self.settings.domain, &mut self.tokens);
        let advertised = self.sip.advertised(&target.flow);
        let contact = callee::contact(&self.settings, advertised, &target.flow, chat.service);
        let timer = SessionTimer::new(self.settings.timer);
        let octets = callee::invite(
            chat,
            target,
            &via.value,
            &contact,
            &local_tag,
            (&content_type, &body),
            &call_id,
            &timer.offer(),
        );
        let Ok(request) = crate::sip::wire::parse(octets.clone()) else {
            return self.media.close(media);
        };
        let usage = Usage::Chat(id, chat.branches.len());
        let sent = self
            .sip
            .send(Kind::Invite, via, octets, target.flow, usage, now);
        let Ok(client) = sent else {
            return self.media.close(media);
        };
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.branches.push(Branch {
                ended: false,
                is_out: true,
                client: Some(client),
                flow: target.flow,
                device: target.device,
                media,
                request,
                carries_first,
                timer,
                early: EarlyDialogs::default(),
                ack: None,
            });
        }
    }

    /// A device answered the INVITE.
    pub(super) fn handle_chat_response(
        &mut self,
        id: ChatId,
        index: usize,
        response: Message,
        flow: Flow,
        now: Now,
    ) {
        let status = response.status();
        if status >= 200 {
            self.branch_answered(id, index, status < 300, now);
        }
        if !self.chats.contains_key(&id) {
            return self.end_late_dialog(&response, flow, now);
        }
        match status {
            ..=100 => {}
            101..200 => {
                self.acknowledge_ringing(&Usage::Chat(id, index), &response, now);
                self.ring_caller(id, &response, now);
            }
            200..300 => self.device_answered(id, index, &response, now),
            422 if self.invite_longer(id, index, &response, now) => {}
            _ => {
                if let Some(chat) = self.chats.get_mut(&id) {
                    chat.answers.refused(response);
                }
                self.branch_over(id, index, now);
            }
        }
    }

    /// A device gave no answer.
    pub(super) fn handle_chat_silence(&mut self, id: ChatId, index: usize, now: Now) {
        self.branch_answered(id, index, false, now);
        self.branch_lost(id, index, now);
    }

    /// Nothing is waited for any more from a device.
    pub(super) fn branch_lost(&mut self, id: ChatId, index: usize, now: Now) {
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.answers.silent();
        }
        self.branch_over(id, index, now);
    }

    /// The device wants a longer session interval (RFC 4028 §7.3): it is invited again with that, unless it is not
    /// called any more.
    fn invite_longer(&mut self, id: ChatId, index: usize, response: &Message, now: Now) -> bool {
        let chat = self.chats.get_mut(&id);
        let chat = chat.filter(|chat| chat.state == ChatState::Inviting);
        let branch = chat.and_then(|chat| chat.branches.get_mut(index));
        let Some(branch) = branch.filter(|branch| !branch.ended) else {
            return false;
        };
        if !branch.timer.refused(response) {
            return false;
        }
        let flow = branch.flow;
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let octets = reply::repeated(&branch.request, &via.value, &branch.timer.offer());
        let Ok(request) = crate::sip::wire::parse(octets.clone()) else {
            return false;
        };
        branch.request = request;
        let usage = Usage::Chat(id, index);
        let sent = self
            .sip
            .send(Kind::Invite, via, octets, flow, usage, now)
            .ok();
        if let Some(branch) = self
            .chats
            .get_mut(&id)
            .and_then(|chat| chat.branches.get_mut(index))
        {
            branch.client = sent;
            branch.is_out = sent.is_some();
        }
        sent.is_some()
    }

    pub(super) fn branch_over(&mut self, id: ChatId, index: usize, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let Some(branch) = chat.branches.get_mut(index) else {
            return;
        };
        if std::mem::replace(&mut branch.ended, true) {
            return;
        }
        let media = branch.media;
        let all = chat.branches.iter().all(|branch| branch.ended);
        let inviting = chat.state == ChatState::Inviting;
        let condition = chat.answers.condition(chat.form());
        self.media.close(media);
        if all && inviting {
            self.without_device(id, condition, now);
        }
    }

    /// No device took the session: by the table, we do, or the caller hears why not.
    pub(super) fn without_device(&mut self, id: ChatId, condition: Condition, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let verdict = verdict(condition, chat.form());
        match (verdict.stored, verdict.answer, chat.answers.best()) {
            (Stored::Nothing, _, Some(best)) => {
                let (status, octets) = (best.status(), callee::refusal(chat, best));
                self.sip.respond(chat.server, status, octets, now);
                self.drop_first(id);
                self.forget_chat(id);
            }
            (Stored::Nothing, ..) => {
                self.refuse_chat(id, &Rejection::new(488, "Not Acceptable Here"), now);
            }
            _ if !self.settings.deferral => {
                self.refuse_chat(id, &Rejection::new(480, "Temporarily Unavailable"), now);
            }
            (Stored::Text, Answer::Status(status), _) => {
                self.keep_first(id, Then::Refuse(status), now);
            }
            _ => self.keep_first(id, Then::TakeSession, now),
        }
    }

    pub(super) fn refuse_chat(&mut self, id: ChatId, rejection: &Rejection, now: Now) {
        self.drop_first(id);
        if let Some(chat) = self.forget_chat(id) {
            for branch in &chat.branches {
                self.media.close(branch.media);
            }
            self.reject(&chat.invite, chat.server, rejection, now);
        }
    }

    /// The caller took the INVITE back before it was answered.
    pub fn handle_chat_cancel(&mut self, server: ServerId, now: Now) -> bool {
        let waits = |chat: &Chat| matches!(chat.state, ChatState::Inviting | ChatState::Settling);
        let found = self
            .chats
            .iter()
            .find(|(_, chat)| chat.server == server && waits(chat))
            .map(|(id, _)| *id);
        let Some(id) = found else { return false };
        self.take_back(id, now);
        true
    }

    /// The caller wants no answer to his INVITE any more.
    pub(super) fn take_back(&mut self, id: ChatId, now: Now) {
        let Some(form) = self.chats.get(&id).map(Chat::form) else {
            return;
        };
        if self.refuse_when_safe(id, 487, now) {
            return;
        }
        self.cancel_branches(id, None, now);
        if verdict(Condition::Cancelled, form).stored == Stored::Text && self.settings.deferral {
            self.keep_first(id, Then::Refuse(487), now);
        } else {
            self.refuse_chat(id, &Rejection::new(487, "Request Terminated"), now);
        }
    }

    /// The chat is over, and with it the dialog that may have begun with its ringing.
    pub(super) fn forget_chat(&mut self, id: ChatId) -> Option<Chat> {
        let chat = self.chats.remove(&id)?;
        self.return_grant(id, &chat);
        if let Some(early) = &chat.early {
            self.dialogs.remove(&DialogKey::of(early));
        }
        Some(chat)
    }

    /// Ends a leg with BYE.
    pub(super) fn hang_up(&mut self, mut leg: Leg, reason: &Reason, now: Now) {
        self.dialogs.remove(&leg.key);
        self.media.close(leg.media);
        self.send_bye(&mut leg.dialog, leg.flow, Some(reason), now);
    }
}
