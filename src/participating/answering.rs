//! How requests are answered, and what the router asks of the participating function.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Now;
use crate::identity::Identity;
use crate::limits::load::retry_after;
use crate::limits::reflection::Allowance;
use crate::msrp::negotiation::SdpRefusal;
use crate::participating::callee;
use crate::participating::outgoing::ALLOW;
use crate::participating::service::Service;
use crate::registrar::{Binding, Directory, Registered, Registration};
use crate::sip::dialog::DialogId;
use crate::sip::digest::{Challenger, Digest};
use crate::sip::endpoint;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::reply::{self, ResponseBuilder, warning};
use crate::sip::session_timer::TooSmall;
use crate::sip::transaction::{RequestOutcome, ServerId, reply_flow};
use crate::sip::transport::flow::{Flow, Transport};
use crate::sip::warning as warning_text;
use crate::store::request::Refusal;
use crate::uri::{Uri, equivalent};

/// Seconds after which there may be room in a recipient's queue again.
const RETRY_AFTER_FULL: &str = "300";
/// The warning of a message that is over a quota (cpm-facts §11).
pub(super) const SIZE_EXCEEDED: &str = "133 Size exceeded";

/// A request that has been asked, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its transaction.
    pub server: ServerId,
    /// How it came.
    pub flow: Flow,
}

impl Service {
    /// A response being written; our tag is added where none is given.
    pub fn reply(
        &mut self,
        request: &Message,
        status: u16,
        reason: &str,
        tag: Option<&str>,
    ) -> ResponseBuilder {
        match tag {
            Some(tag) => reply::response(request, status, reason, Some(tag)),
            None => {
                let tag = self.tokens.token();
                reply::response(request, status, reason, Some(&tag))
            }
        }
    }

    /// Sends an answer.
    pub fn respond(&mut self, server: ServerId, status: u16, octets: Bytes, now: Now) {
        self.sip.respond(server, status, octets, now);
    }

    /// Refuses a request.
    pub fn reject(&mut self, request: &Message, server: ServerId, rejection: &Rejection, now: Now) {
        if request.method() == Method::Ack {
            return;
        }
        tracing::debug!(%rejection, call_id = request.call_id().unwrap_or_default(), "refused");
        let suppressed = self.suppressed(request, rejection, now);
        let rejection = suppressed.as_ref().unwrap_or(rejection);
        let allowance = self.sip.allowance(server);
        let octets = self.rejection(request, rejection, None, allowance);
        self.sip.respond(server, rejection.status, octets, now);
    }

    /// Refuses a request that gets no transaction; it was `came` octets long before its Via was stamped.
    pub fn reject_stateless(
        &mut self,
        request: &Message,
        came: usize,
        flow: Flow,
        rejection: &Rejection,
    ) {
        let Ok(via) = request.top_via() else { return };
        if request.method() == Method::Ack {
            return;
        }
        let to = reply_flow::reply_flow(&via, flow);
        // RFC 3261 §8.2.7: repeated, the request gets the same tag.
        let tag = self.sip.stateless_tag(request);
        let allowance = endpoint::allowance(&flow, request, came);
        let octets = self.rejection(request, rejection, Some(&tag), allowance);
        self.sip.answer_stateless(allowance, octets, to);
    }

    /// As much of an answer as may be sent.
    fn rejection(
        &mut self,
        request: &Message,
        rejection: &Rejection,
        tag: Option<&str>,
        allowance: Allowance,
    ) -> Bytes {
        let octets = self.whole_rejection(request, rejection, tag);
        if allowance.fits(octets.len()) {
            return octets;
        }
        let own = self.tokens.token();
        reply::terse(request, rejection.status, tag.unwrap_or(&own), None)
    }

    fn whole_rejection(
        &mut self,
        request: &Message,
        rejection: &Rejection,
        tag: Option<&str>,
    ) -> Bytes {
        let mut reply = self.reply(request, rejection.status, rejection.reason, tag);
        // A 403 without a warning makes some clients register again at once (cpm-facts §11).
        let default = (rejection.status == 403).then_some((399, warning_text::NOT_AUTHORISED));
        if let Some((code, text)) = rejection.warning.or(default) {
            reply = reply.header("Warning", &warning(code, &self.settings.domain, text));
        }
        match rejection.status {
            405 | 501 => reply = reply.header("Allow", ALLOW),
            503 => {
                let seconds = rejection.retry_after;
                let seconds = seconds.unwrap_or_else(|| retry_after(self.tokens.number()).into());
                reply = reply.header("Retry-After", &seconds.to_string());
            }
            415 => {
                let accept = match request.method() {
                    Method::Invite | Method::Update => {
                        "application/sdp, multipart/mixed, message/cpim"
                    }
                    _ => "message/cpim, text/plain, */*",
                };
                reply = reply
                    .header("Accept", accept)
                    .header("Accept-Encoding", "identity");
            }
            _ => {}
        }
        reply.build()
    }

    /// Nothing is taken on at the moment; never a 2xx (cpm-facts §11).
    pub(super) fn overloaded(&mut self, request: &Message, server: ServerId, now: Now) {
        self.metrics.refused_overload.count();
        self.reject(
            request,
            server,
            &Rejection::new(503, "Service Unavailable"),
            now,
        );
    }

    /// The store has not taken a message. Over the recipient's quota it is 413, as cpm-facts §6 row 15
    /// says, with the warning of §11; a full queue may have room later (RFC 3261 §21.4.11), a message
    /// larger than the whole quota never has. Anything else is 503.
    pub(super) fn not_stored(
        &mut self,
        request: &Message,
        server: ServerId,
        refusal: Refusal,
        now: Now,
    ) {
        let retry_after = match refusal {
            Refusal::TooLarge => None,
            Refusal::OverQuota => Some(RETRY_AFTER_FULL),
            _ => return self.overloaded(request, server, now),
        };
        let text = warning(399, &self.settings.domain, SIZE_EXCEEDED);
        let reply = self.reply(request, 413, "Request Entity Too Large", None);
        let mut reply = reply.header("Warning", &text);
        if let Some(seconds) = retry_after {
            reply = reply.header("Retry-After", seconds);
        }
        self.sip.respond(server, 413, reply.build(), now);
    }

    /// The method is known and not for this.
    pub fn not_allowed(&mut self, request: &Message, server: ServerId, now: Now) {
        self.reject(
            request,
            server,
            &Rejection::new(405, "Method Not Allowed"),
            now,
        );
    }

    /// Something must be understood that is not (RFC 3261 §8.2.2.3).
    pub fn bad_extension(&mut self, request: &Message, server: ServerId, tags: &str, now: Now) {
        let reply = self.reply(request, 420, "Bad Extension", None);
        let octets = reply.header("Unsupported", tags).build();
        self.sip.respond(server, 420, octets, now);
    }

    /// The session interval that was asked for is too short (RFC 4028 §6).
    pub(super) fn interval_too_small(
        &mut self,
        request: &Message,
        server: ServerId,
        TooSmall(least): TooSmall,
        now: Now,
    ) {
        let reply = self.reply(request, 422, "Session Interval Too Small", None);
        let octets = reply.header("Min-SE", &least.as_secs().to_string()).build();
        self.sip.respond(server, 422, octets, now);
    }

    /// No session can come of a description.
    pub(super) fn reject_description(
        &mut self,
        request: &Message,
        server: ServerId,
        refusal: SdpRefusal,
        now: Now,
    ) {
        let text = warning(refusal.warning, &self.settings.domain, refusal.text);
        let reply = self.reply(request, refusal.status, "Not Acceptable Here", None);
        let octets = reply.header("Warning", &text).build();
        self.sip.respond(server, refusal.status, octets, now);
    }

    /// The message is durable here: 202 and its conversation header fields, used or generated.
    pub(super) fn accepted(
        &mut self,
        request: &Message,
        server: ServerId,
        kept: Option<(&str, &str)>,
        now: Now,
    ) {
        let mut reply = self.reply(request, 202, "Accepted", None);
        if let Some((conversation, contribution)) = kept {
            reply = reply
                .header("Conversation-ID", conversation)
                .header("Contribution-ID", contribution);
        }
        self.sip.respond(server, 202, reply.build(), now);
    }

    /// Asks for credentials: one challenge for each algorithm, the best on top (RFC 8760 §2.3). Who may be sent
    /// little gets one alone, the last, which every client knows.
    pub fn challenge(
        &mut self,
        digest: &Digest,
        request: &Message,
        asked: Asked,
        challenger: Challenger,
        stale: bool,
        now: Now,
    ) {
        let (status, reason) = challenger.status();
        let name = challenger.challenge_header();
        let address = asked.flow.remote.ip();
        let challenges = digest.challenges(stale, address, now.wall, &mut self.tokens);
        let tag = self.tokens.token();
        let write = |challenges: &[String]| {
            let reply = reply::response(request, status, reason, Some(&tag));
            let add = |reply: ResponseBuilder, it: &String| reply.header(name, it);
            challenges.iter().fold(reply, add).build()
        };
        let allowance = self.sip.allowance(asked.server);
        let last = challenges.last().map_or(&[][..], std::slice::from_ref);
        let fits = |octets: &Bytes| allowance.fits(octets.len());
        let whole = Some(write(&challenges)).filter(fits);
        let one = || Some(write(last)).filter(fits);
        let octets = whole.or_else(one).unwrap_or_else(|| {
            let challenge = last.first().map(|it| (name, it.as_str()));
            reply::terse(request, status, &tag, challenge)
        });
        self.sip.respond(asked.server, status, octets, now);
    }

    /// Who guessed too often is told when he may try again.
    pub fn locked_out(&mut self, request: &Message, server: ServerId, left: Duration, now: Now) {
        self.metrics.refused_locked_out.count();
        let seconds = left.as_millis().div_ceil(1_000).to_string();
        let text = warning(399, &self.settings.domain, warning_text::NOT_AUTHORISED);
        let reply = self.reply(request, 403, "Forbidden", None);
        let reply = reply.header("Retry-After", &seconds);
        let octets = reply.header("Warning", &text).build();
        let octets = match self.sip.allowance(server).fits(octets.len()) {
            true => octets,
            false => reply::terse(request, 403, &self.tokens.token(), None),
        };
        self.sip.respond(server, 403, octets, now);
    }

    /// Answers a REGISTER and offers what waits to who came.
    pub fn register(
        &mut self,
        directory: &Directory,
        registration: &Registration<'_>,
        server: ServerId,
    ) {
        let now = registration.now;
        let handled = self.registrar.register(directory, registration);
        if handled.status == 200 {
            self.metrics.registrations.count();
        }
        self.sip
            .respond(server, handled.status, handled.response, now);
        if let Some(registered) = handled.registered {
            self.handle_registered(registered, now);
        }
    }

    pub(super) fn handle_registered(&mut self, registered: Registered, now: Now) {
        for request in registered.store {
            self.custody.tell(request);
        }
        // It looks through all that is under way: a plain refresh, of which there are most, must not.
        if registered.left {
            self.give_up_on_gone(&registered.user, now);
        }
        self.give_up_silent_branches(&registered.user, now);
        self.handle_registration(&registered.user, now);
    }

    /// A tag of our own.
    pub fn new_tag(&mut self) -> String {
        self.tokens.token()
    }

    /// Whoever sent this request is known to be there, or nobody here has to prove that.
    pub fn trust(&mut self, server: ServerId) {
        self.sip.trust(server);
    }

    /// Whether the request is news.
    pub fn receive(
        &mut self,
        request: &Message,
        came: usize,
        flow: Flow,
        now: Now,
    ) -> RequestOutcome {
        self.time = now.instant;
        self.sip.handle_request(request, came, flow, now)
    }

    /// A response came.
    pub fn handle_sip_response(&mut self, response: Message, flow: Flow, now: Now) {
        self.time = now.instant;
        self.sip.handle_response(response, flow, now);
    }

    /// The name that goes into loop hashes.
    pub fn own_name(&self) -> String {
        self.sip.own_name().to_owned()
    }

    pub(super) fn loop_hash(&self, request: &Message) -> u32 {
        crate::sip::proxy::loop_hash(request, self.sip.own_name())
    }

    /// A route to us for the peer behind `flow`.
    pub fn own_route(&self, user: &str, flow: &Flow) -> String {
        let transport = match flow.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        format!("<sip:{user}@{}{transport};lr>", self.sip.advertised(flow))
    }

    /// This shard.
    pub fn shard(&self) -> u16 {
        self.settings.shard
    }

    /// The flow over which a user of this shard registered this Contact.
    pub fn flow_of_device(&self, user: &Identity, uri: &Uri<'_>) -> Option<Flow> {
        let named =
            |binding: &&Binding| Uri::parse(binding.uri()).is_ok_and(|own| equivalent(&own, uri));
        let reachable = self.registrar.reachable(user, self.time);
        reachable.into_iter().find(named).map(Binding::flow)
    }

    /// A request in a dialog of ours; false if it is in none.
    pub fn handle_in_dialog(&mut self, request: &Message, server: ServerId, now: Now) -> bool {
        let Some(id) = DialogId::of_request(request) else {
            return false;
        };
        match self.dialogs.find(&id.call_id, &id.local_tag) {
            Some(usage) => {
                // Our tag is nothing one could guess.
                self.sip.trust(server);
                self.handle_leg_request(usage, request, server, now);
            }
            None if self.is_ours(request) => {
                self.reject(
                    request,
                    server,
                    &Rejection::new(481, "Call Does Not Exist"),
                    now,
                );
            }
            None => return false,
        }
        true
    }

    /// Whether the Request-URI is a Contact of ours.
    fn is_ours(&self, request: &Message) -> bool {
        let uri = request.uri().ok();
        uri.and_then(|uri| callee::shard_of_contact(uri.user()?))
            .is_some()
    }

    /// The ACK of a 2xx of ours; false if it is not.
    pub fn handle_ack(&mut self, ack: &Message, now: Now) -> bool {
        let Some(id) = DialogId::of_request(ack) else {
            return false;
        };
        match self.dialogs.find(&id.call_id, &id.local_tag) {
            Some(usage) => self.handle_leg_ack(usage, ack, now),
            None => return false,
        }
        true
    }

    /// RFC 3261 §9.2: the CANCEL is answered for itself, then what it cancels ends.
    pub fn handle_cancel(
        &mut self,
        request: &Message,
        cancel: ServerId,
        cancelled: Option<ServerId>,
        now: Now,
    ) {
        let Some(invite) = cancelled else {
            let unknown = Rejection::new(481, "Transaction Does Not Exist");
            return self.reject(request, cancel, &unknown, now);
        };
        let octets = self.reply(request, 200, "OK", None).build();
        if self.sip.allowance(invite) == Allowance::Unbounded {
            self.sip.trust(cancel);
        }
        self.sip.respond(cancel, 200, octets, now);
        if !self.handle_chat_cancel(invite, now) && !self.cancel_fetch(invite, now) {
            let _ = self.cancel_relay(invite, now) || self.cancel_unresolved(invite, now);
        }
    }

    /// A TCP flow is gone: bindings that hang on it are suspended (decision 13).
    pub fn handle_flow_lost(&mut self, flow: Flow, now: Now) {
        self.sip.handle_flow_lost(flow, now);
        let Some(connection) = flow.connection else {
            return;
        };
        let mut users: Vec<_> = self
            .registrar
            .suspend(connection)
            .into_iter()
            .map(|(user, _)| user)
            .collect();
        users.dedup();
        for user in users {
            if self.reach(&user).is_none() {
                self.handle_registration(&user, now);
            }
        }
    }
}
