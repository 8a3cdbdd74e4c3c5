//! One-to-one chat: an INVITE with `m=message` is anchored here. Towards the author we are the
//! recipient's side, towards the recipient's device the author's; both MSRP legs end here, and
//! `bridge` carries what passes between them.
//!
//! Nobody at home, or the device's leg lost: the author's leg goes on and everything he sends is
//! taken into custody (cpm-facts §6).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::msrp::event::InboundId;
use crate::msrp::sdp::{Direction, SessionDescription};
use crate::participating::arrival::ConversationHeaders;
use crate::participating::callee;
use crate::participating::contacts::Target;
use crate::participating::deferral::{self, Deferral, Outcome};
use crate::participating::dialogs::DialogKey;
use crate::participating::media::{MediaId, MediaUse};
use crate::participating::service::{Service, Usage};
use crate::participating::transit::Transit;
use crate::sip::dialog::Dialog;
use crate::sip::endpoint::Via;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
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
    /// Both legs stand.
    Live,
    /// Only the caller's leg stands; what he sends is kept.
    Custody,
    /// Both ends have been told; what is being stored is waited for.
    Ending,
}

/// One leg that stands.
#[derive(Debug)]
pub(super) struct Leg {
    pub dialog: Dialog,
    pub key: DialogKey,
    pub flow: Flow,
    pub media: MediaId,
    /// Our session description, repeated when the session is refreshed.
    pub description: String,
}

/// An INVITE to one of the recipient's devices.
#[derive(Debug)]
pub(super) struct Branch {
    pub client: Option<ClientId>,
    pub flow: Flow,
    pub media: MediaId,
    pub request: Message,
    pub description: String,
    pub ended: bool,
    /// The ACK of its 2xx, sent again with each repetition of the 2xx.
    pub ack: Option<Bytes>,
}

/// A chat session anchored here.
#[derive(Debug)]
pub struct Chat {
    pub(super) invite: Message,
    pub(super) server: ServerId,
    pub(super) flow: Flow,
    pub(super) offer: SessionDescription,
    pub(super) ids: ConversationHeaders,
    pub(super) caller: Identity,
    pub(super) callee: Identity,
    /// Our tag towards the caller.
    pub(super) tag: String,
    pub(super) state: ChatState,
    pub(super) caller_leg: Option<Leg>,
    pub(super) callee_leg: Option<Leg>,
    pub(super) branches: Vec<Branch>,
    pub(super) best: Option<Message>,
    pub(super) rings_until: Option<Instant>,
    pub(super) quiet_since: Instant,
    pub(super) transits: BTreeMap<(Side, InboundId), Transit>,
    pub(super) acknowledged: bool,
    /// RFC 4028: the caller must refresh before then.
    pub(super) expires: Option<Instant>,
    pub(super) interval: Option<Duration>,
}

impl Chat {
    /// Which conversation the messages of `side` belong to.
    pub(super) fn conversation_of(&self, side: Side) -> ConversationKey {
        ConversationKey {
            author: self.person(side).clone(),
            conversation: self.ids.conversation.as_str().into(),
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
        if self.chats.len() >= self.settings.most_under_way || self.draining {
            return self.overloaded(&invite, server, now);
        }
        let id = ChatId(self.next_number());
        let chat = Chat {
            invite,
            server,
            flow,
            offer,
            ids,
            caller,
            callee,
            tag: self.tokens.token(),
            state: ChatState::Inviting,
            caller_leg: None,
            callee_leg: None,
            branches: Vec::new(),
            best: None,
            rings_until: None,
            quiet_since: now.instant,
            transits: BTreeMap::new(),
            acknowledged: false,
            expires: None,
            interval: None,
        };
        let trying = self.reply(&chat.invite, 100, "Trying", None).build();
        self.sip.respond(server, 100, trying, now);
        let key = chat.conversation_of(Side::Caller);
        let free = self
            .users
            .get(&chat.callee)
            .is_none_or(|user| user.may_pass(&key));
        let targets = self.session_targets_for(&chat.callee, &chat.invite);
        self.chats.insert(id, chat);
        if free && !targets.is_empty() {
            self.fork_invite(id, &targets, now);
        } else {
            self.without_device(id, Outcome::NoContact, now);
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
            self.without_device(id, Outcome::NoAnswer, now);
        }
    }

    fn invite_device(&mut self, id: ChatId, target: &Target, now: Now) {
        let media_use = MediaUse::Chat(id, Side::Callee);
        let remote = target.flow.remote.ip();
        let known_as = self.sip.advertised(&target.flow);
        let direction = Direction::SendRecv;
        let opened = self
            .media
            .open(media_use, remote, known_as, direction, &mut self.tokens);
        let (Some(media), Some(chat)) = (opened, self.chats.get(&id)) else {
            return;
        };
        if let Some((_, offered)) = chat.offer.usable() {
            let (accept, wrapped) = (
                offered.accept_types.clone(),
                offered.accept_wrapped_types.clone(),
            );
            self.media.offer_types(media, accept, wrapped);
        }
        let description = self.media.offer(media);
        let via: Via = self.sip.via(&target.flow, None, &mut self.tokens);
        let local_tag = self.tokens.token();
        let call_id = callee::call_id(&self.settings.domain, &mut self.tokens);
        let advertised = self.sip.advertised(&target.flow);
        let contact = callee::contact(&self.settings, advertised, &target.flow);
        let octets = callee::invite(
            chat,
            target,
            &via.value,
            &contact,
            &local_tag,
            &description,
            &call_id,
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
                client: Some(client),
                flow: target.flow,
                media,
                request,
                description,
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
        if !self.chats.contains_key(&id) {
            return self.end_late_dialog(&response, flow, now);
        }
        match status {
            ..=100 => {}
            101..200 => self.ringing(id, &response, now),
            200..300 => self.device_answered(id, index, &response, now),
            _ => {
                if let Some(chat) = self.chats.get_mut(&id) {
                    let better = chat
                        .best
                        .as_ref()
                        .is_none_or(|best| status < best.status() || status >= 600);
                    if better {
                        chat.best = Some(response);
                    }
                }
                self.branch_over(id, index, now);
            }
        }
    }

    /// A device gave no answer.
    pub(super) fn handle_chat_silence(&mut self, id: ChatId, index: usize, now: Now) {
        self.branch_over(id, index, now);
    }

    fn ringing(&mut self, id: ChatId, response: &Message, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        if chat.state != ChatState::Inviting {
            return;
        }
        let (status, reason) = (response.status(), response.reason());
        let reply = crate::sip::reply::response(&chat.invite, status, reason, Some(&chat.tag));
        self.sip.respond(chat.server, status, reply.build(), now);
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
        let outcome = match &chat.best {
            Some(best) => Outcome::Status(best.status()),
            None => Outcome::NoAnswer,
        };
        self.media.close(media);
        if all && inviting {
            self.without_device(id, outcome, now);
        }
    }

    /// No device took the session: by the table, we do, or the caller hears why not.
    pub(super) fn without_device(&mut self, id: ChatId, outcome: Outcome, now: Now) {
        let Some(chat) = self.chats.get(&id) else {
            return;
        };
        let keep = deferral::of_chat(outcome) == Deferral::Keep;
        if keep && self.settings.deferral && self.custody.has_room() {
            if let Some(chat) = self.chats.get_mut(&id) {
                chat.state = ChatState::Custody;
            }
            return self.answer_caller(id, now);
        }
        let rejection = match (&chat.best, keep, self.settings.deferral) {
            (_, true, true) => Rejection::new(503, "Service Unavailable"),
            (Some(best), false, _) => {
                let (status, octets) = (best.status(), callee::refusal(chat, best));
                self.sip.respond(chat.server, status, octets, now);
                self.chats.remove(&id);
                return;
            }
            _ => Rejection::new(480, "Temporarily Unavailable"),
        };
        self.refuse_chat(id, &rejection, now);
    }

    pub(super) fn refuse_chat(&mut self, id: ChatId, rejection: &Rejection, now: Now) {
        if let Some(chat) = self.chats.remove(&id) {
            for branch in &chat.branches {
                self.media.close(branch.media);
            }
            self.reject(&chat.invite, chat.server, rejection, now);
        }
    }

    /// The caller took the INVITE back before it was answered.
    pub fn handle_chat_cancel(&mut self, server: ServerId, now: Now) -> bool {
        let found = self
            .chats
            .iter()
            .find(|(_, chat)| chat.server == server && chat.state == ChatState::Inviting)
            .map(|(id, _)| *id);
        let Some(id) = found else { return false };
        self.cancel_branches(id, None, now);
        self.refuse_chat(id, &Rejection::new(487, "Request Terminated"), now);
        true
    }

    /// Ends a leg with BYE.
    pub(super) fn hang_up(&mut self, mut leg: Leg, reason: Option<&str>, now: Now) {
        self.dialogs.remove(&leg.key);
        self.media.close(leg.media);
        self.send_bye(&mut leg.dialog, leg.flow, reason, now);
    }
}
