//! Requests inside the dialogs of our sessions, chats and replays alike.

use crate::clock::Now;
use crate::participating::chat::{ChatId, ChatState, Side};
use crate::participating::dialogs::DialogUse;
use crate::participating::offer::SESSION_EXTENSIONS;
use crate::participating::reason::Reason;
use crate::participating::service::Service;
use crate::sip::message::{Message, Method};
use crate::sip::proxy::unsupported_requirements;
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::ServerId;

/// There is no such dialog, or it is over.
pub(super) const UNKNOWN: Rejection = Rejection::new(481, "Call Does Not Exist");
/// Longest pause asked for when two requests overlap, in seconds (RFC 3261 §14.2).
const RETRY_WITHIN: u64 = 10;

impl Service {
    /// A request in a dialog of ours.
    pub(super) fn handle_leg_request(
        &mut self,
        usage: DialogUse,
        request: &Message,
        server: ServerId,
        now: Now,
    ) {
        if let DialogUse::Chat(id, _) = usage
            && let Some(chat) = self.chats.get_mut(&id)
        {
            chat.quiet_since = now.instant;
        }
        let Some(leg) = self.leg(usage) else {
            return self.handle_early_request(usage, request, server, now);
        };
        if let Err(rejection) = leg.dialog.check_cseq(request) {
            return self.reject(request, server, &rejection, now);
        }
        leg.learn_methods(request);
        // A BYE is the end whatever it is answered (RFC 3261 §15.1.1).
        let unknown = match request.method() {
            Method::Bye => None,
            _ => unsupported_requirements(request, &SESSION_EXTENSIONS),
        };
        if let Some(tags) = unknown {
            return self.bad_extension(request, server, &tags, now);
        }
        match request.method() {
            Method::Bye => {
                self.agree(request, server, now);
                match usage {
                    DialogUse::Chat(id, side) => {
                        self.handle_bye(id, side, Reason::of_bye(request), now);
                    }
                    DialogUse::Replay(id) => self.handle_replay_bye(id, now),
                }
            }
            Method::Invite | Method::Update => self.exchange_again(usage, request, server, now),
            Method::Prack => self.handle_prack(usage, request, server, now),
            Method::Info | Method::Options => self.agree(request, server, now),
            // Nobody would get it: a message of a session goes over MSRP.
            Method::Message => {
                let refused = Rejection::new(488, "Not Acceptable Here");
                self.reject(request, server, &refused, now);
            }
            // RFC 3261 §21.5.2: the method is not even known.
            Method::Other => {
                let unknown = Rejection::new(501, "Not Implemented");
                self.reject(request, server, &unknown, now);
            }
            _ => self.not_allowed(request, server, now),
        }
    }

    /// A request of the caller while the recipient's devices ring.
    fn handle_early_request(
        &mut self,
        usage: DialogUse,
        request: &Message,
        server: ServerId,
        now: Now,
    ) {
        let early = match usage {
            DialogUse::Chat(id, Side::Caller) => self.early_chat(id),
            DialogUse::Chat(..) | DialogUse::Replay(_) => None,
        };
        let Some(id) = early else {
            return self.reject(request, server, &UNKNOWN, now);
        };
        let chat = self.chats.get_mut(&id);
        let early = chat.and_then(|chat| chat.early.as_mut());
        if let Some(Err(rejection)) = early.map(|early| early.check_cseq(request)) {
            return self.reject(request, server, &rejection, now);
        }
        match request.method() {
            Method::Prack => self.handle_prack(usage, request, server, now),
            // RFC 3311 §5.2: his first offer has no answer yet.
            Method::Update if !request.body().is_empty() => self.overlaps(request, server, now),
            // RFC 3261 §14.2: nor has his INVITE.
            Method::Invite => self.overlaps(request, server, now),
            Method::Update | Method::Info | Method::Options => self.agree(request, server, now),
            Method::Bye => {
                self.agree(request, server, now);
                self.take_back(id, now);
            }
            _ => self.not_allowed(request, server, now),
        }
    }

    fn early_chat(&self, id: ChatId) -> Option<ChatId> {
        let chat = self.chats.get(&id)?;
        let is_early = matches!(chat.state, ChatState::Inviting | ChatState::Settling);
        (is_early && chat.early.is_some()).then_some(id)
    }

    /// 200 without more.
    pub(super) fn agree(&mut self, request: &Message, server: ServerId, now: Now) {
        let reply = self.reply(request, 200, "OK", None).build();
        self.sip.respond(server, 200, reply, now);
    }

    /// The request before this one has no final answer yet: 500 with a random pause.
    pub(super) fn overlaps(&mut self, request: &Message, server: ServerId, now: Now) {
        let pause = (self.tokens.number() % (RETRY_WITHIN + 1)).to_string();
        let reply = self.reply(request, 500, "Request Overlaps", None);
        let octets = reply.header("Retry-After", &pause).build();
        self.sip.respond(server, 500, octets, now);
    }
}
