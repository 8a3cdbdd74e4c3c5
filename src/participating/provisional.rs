//! Reliable provisional responses (RFC 3262): ours to a caller who requires them, and those of
//! devices, which are owed a PRACK.

use crate::clock::Now;
use crate::participating::callee;
use crate::participating::chat::{ChatId, ChatState};
use crate::participating::dialogs::{DialogKey, DialogUse};
use crate::participating::in_dialog::UNKNOWN;
use crate::participating::outgoing::ALLOW;
use crate::participating::service::{Service, Usage};
use crate::sip::dialog::Dialog;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::reliable::{Due, ReliableReceiver, ReliableSender};
use crate::sip::session_timer::lists;
use crate::sip::transaction::table::{Kind, ServerId};
use crate::sip::transport::flow::Flow;

/// Early dialogs of one INVITE that are remembered; a device has one, a proxy before it may fork.
const EARLY_DIALOGS: usize = 8;

/// The early dialogs of an INVITE of ours.
#[derive(Debug, Default)]
pub(super) struct EarlyDialogs(Vec<(Dialog, ReliableReceiver)>);

impl EarlyDialogs {
    /// The PRACK that a response is owed, if it is.
    fn prack(&mut self, request: &Message, response: &Message, via: &str) -> Option<bytes::Bytes> {
        if !lists(response, HeaderName::Require, "100rel") {
            return None;
        }
        let fresh = Dialog::as_uac(request, response).ok()?;
        let known = self.0.iter().position(|(own, _)| own.id == fresh.id);
        let at = match known {
            Some(at) => at,
            None if self.0.len() < EARLY_DIALOGS => {
                self.0.push((fresh, ReliableReceiver::default()));
                self.0.len() - 1
            }
            None => return None,
        };
        let (dialog, receiver) = self.0.get_mut(at)?;
        let rack = receiver.handle_response(response)?;
        let prack = dialog.next_request("PRACK", via);
        Some(prack.header("RAck", &rack).build())
    }

    /// The dialog that a 2xx made goes on counting where its early form stopped.
    pub(super) fn carry_on(&self, dialog: &mut Dialog) {
        if let Some((early, _)) = self.0.iter().find(|(own, _)| own.id == dialog.id) {
            dialog.local_cseq = dialog.local_cseq.max(early.local_cseq);
        }
    }
}

impl Service {
    /// A device rings: a reliable response is acknowledged.
    pub(super) fn acknowledge_ringing(&mut self, usage: &Usage, response: &Message, now: Now) {
        let Some(flow) = self.ringing_flow(usage) else {
            return;
        };
        let via = self.sip.via(&flow, None, &mut self.tokens);
        let prack = match usage {
            Usage::Chat(id, index) => self.chats.get_mut(id).and_then(|chat| {
                let branch = chat.branches.get_mut(*index)?;
                branch.early.prack(&branch.request, response, &via.value)
            }),
            Usage::Delivery(id) => self.session_run(*id).and_then(|run| {
                let invite = run.invite.as_ref()?;
                run.early.prack(invite, response, &via.value)
            }),
            _ => None,
        };
        let Some(octets) = prack else { return };
        let sent = self
            .sip
            .send(Kind::NonInvite, via, octets, flow, Usage::Nobody, now);
        if sent.is_err() {
            tracing::warn!("no room to send a PRACK");
        }
    }

    fn ringing_flow(&mut self, usage: &Usage) -> Option<Flow> {
        match usage {
            Usage::Chat(id, index) => {
                let branch = self.chats.get(id)?.branches.get(*index)?;
                Some(branch.flow)
            }
            Usage::Delivery(id) => self.session_run(*id)?.flow,
            _ => None,
        }
    }

    /// The recipient's device rings, and the caller hears of it; reliably if he requires that.
    pub(super) fn ring_caller(&mut self, id: ChatId, response: &Message, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        if chat.state != ChatState::Inviting {
            return;
        }
        if chat.early.is_none() {
            let early = Dialog::as_uas(&chat.invite, 180, &chat.tag).ok();
            if let Some(early) = &early {
                let key = DialogKey::of(early);
                self.dialogs
                    .insert(key, DialogUse::Chat(id, super::chat::Side::Caller));
            }
            chat.early = early;
        }
        if chat.reliable.is_none() && lists(&chat.invite, HeaderName::Require, "100rel") {
            let cseq = chat.invite.cseq().map(|cseq| cseq.number);
            let (t1, first) = (self.settings.t1, self.tokens.number());
            chat.reliable = Some(ReliableSender::new(t1, cseq.unwrap_or_default(), first));
        }
        let (status, reason) = (response.status(), response.reason());
        let advertised = self.sip.advertised(&chat.flow);
        let contact = callee::contact(&self.settings, advertised, &chat.flow, chat.service);
        let mut reply = crate::sip::reply::response(&chat.invite, status, reason, Some(&chat.tag))
            .header("Contact", &contact)
            .header("Allow", ALLOW);
        let server = chat.server;
        let Some(reliable) = &mut chat.reliable else {
            return self.sip.respond(server, status, reply.build(), now);
        };
        reply = reply
            .header("Require", "100rel")
            .header("RSeq", &reliable.next_rseq().to_string());
        if let Some((status, octets)) = reliable.send(status, reply.build(), now.instant) {
            self.sip.respond(server, status, octets, now);
        }
    }

    /// A PRACK of the caller (RFC 3262 §3).
    pub(super) fn handle_prack(
        &mut self,
        usage: DialogUse,
        prack: &Message,
        server: ServerId,
        now: Now,
    ) {
        if !prack.body().is_empty() {
            // An offer here would need that we had answered his first one.
            let refused = Rejection::new(488, "Not Acceptable Here");
            return self.reject(prack, server, &refused, now);
        }
        let chat = match usage {
            DialogUse::Chat(id, _) => self.chats.get_mut(&id),
            DialogUse::Replay(_) => None,
        };
        let invite = chat.as_ref().map(|chat| chat.server);
        let reliable = chat.and_then(|chat| chat.reliable.as_mut());
        let matched = reliable.and_then(|it| it.handle_prack(prack, now.instant));
        let Some(next) = matched else {
            return self.reject(prack, server, &UNKNOWN, now);
        };
        self.agree(prack, server, now);
        if let (Some((status, octets)), Some(invite)) = (next, invite) {
            self.sip.respond(invite, status, octets, now);
        }
    }

    /// Reliable responses that no PRACK came for are sent again, or given up.
    pub(super) fn handle_provisional_timeouts(&mut self, now: Now) {
        let late = |chat: &super::chat::Chat| {
            let reliable = chat.reliable.as_ref();
            let at = reliable.and_then(ReliableSender::next_deadline);
            at.is_some_and(|at| at <= now.instant)
        };
        let all = self.chats.iter().filter(|(_, chat)| late(chat));
        let mut due: Vec<ChatId> = all.map(|(id, _)| *id).collect();
        due.sort();
        for id in due {
            let Some(chat) = self.chats.get_mut(&id) else {
                continue;
            };
            let server = chat.server;
            let reliable = chat.reliable.as_mut();
            match reliable.and_then(|it| it.handle_timeout(now.instant)) {
                Some(Due::Repeat(status, octets)) => {
                    self.sip.respond(server, status, octets, now);
                }
                // A first message on its way is made safe before the caller hears.
                Some(Due::GiveUp) if self.refuse_when_safe(id, 504, now) => {}
                Some(Due::GiveUp) => {
                    self.cancel_branches(id, None, now);
                    let unacknowledged = Rejection::new(504, "No PRACK");
                    self.refuse_chat(id, &unacknowledged, now);
                }
                None => {}
            }
        }
    }
}
