//! Which function serves a request: the registrar, the participating function, a dialog, or the next
//! hop. Pure; the next stop for a MESSAGE is `participating::pager`, for a chat `participating::chat`.

mod dialog_end;
mod in_dialog;
mod knowledge;

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Now;
use crate::identity::Identity;
use crate::limits::logins::Lockout;
use crate::limits::peers::Barred;
use crate::limits::sources::Offence;
use crate::metrics::ShardMetrics;
use crate::participating::admission::{Admission, UNAVAILABLE};
use crate::participating::answering::Asked;
use crate::participating::forward;
use crate::participating::offer::{self, SESSION_EXTENSIONS};
use crate::participating::pull::{Fetch, Wanted};
use crate::participating::receipt_route::{ReceiptRoute, without_top_route};
use crate::participating::relay::Passage;
use crate::participating::service::Service;
use crate::registrar::{Directory, Registration};
use crate::sip::digest::{Challenger, Verdict};
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::proxy::{
    check_forwardable, undo_strict_routing, unsupported_extensions, unsupported_requirements,
};
use crate::sip::rejection::Rejection;
use crate::sip::reply;
use crate::sip::transaction::{RequestOutcome, ServerId};
use crate::sip::transport::flow::Flow;
use crate::sip::validate::validate;
use crate::sip::warning;
use crate::sip::wire;
use crate::uri::{Scheme, Uri};

pub use dialog_end::RouteKey;
use knowledge::Destination;
pub use knowledge::Knowledge;

/// 403 for what a user may not do; clients read the number in the warning (cpm-facts §11).
const CONTACT_IS_US: Rejection =
    Rejection::new(403, "Contact Is This Server").with_warning(warning::NOT_ALLOWED);
const NOT_AUTHORISED: Rejection =
    Rejection::new(403, "Forbidden").with_warning(warning::NOT_AUTHORISED);

/// No hop to us or from us is secured (RFC 3261 §26.2.2, RFC 5630 §5.1.2 and §5.3).
const NO_SIPS: Rejection =
    Rejection::new(480, "Temporarily Unavailable").with_warn_code(380, "SIPS Not Allowed");

/// What users may send to the server itself.
const OWN_METHODS: &str = "OPTIONS, REGISTER";
/// What they may send to it and through it.
const METHODS: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, MESSAGE, UPDATE, PRACK, INFO, \
                       SUBSCRIBE, NOTIFY, REFER, PUBLISH";

/// Sends every request of a shard where it belongs.
pub struct Router {
    knowledge: Knowledge,
}

/// Who asks whom, and by which way it came.
struct Parties {
    flow: Flow,
    author: Identity,
    user: Identity,
}

impl Router {
    /// A router for one shard.
    pub fn new(knowledge: Knowledge) -> Self {
        Self { knowledge }
    }

    /// What it knows.
    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// The users are these from here on.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        self.knowledge.directory = directory;
    }

    /// A message for this shard.
    pub fn handle(&self, service: &mut Service, message: Message, flow: Flow, now: Now) {
        if !message.is_request() {
            return match validate(&message) {
                Ok(()) => service.handle_sip_response(message, flow, now),
                Err(fault) => {
                    service.metrics.malformed_responses.count();
                    tracing::debug!(%fault, remote = %flow.remote, "malformed response");
                }
            };
        }
        let came = message.bytes().len();
        let Some(request) = stamped(message, &flow) else {
            return;
        };
        if let Err(rejection) = validate(&request) {
            return service.reject_stateless(&request, came, flow, &rejection);
        }
        if !self.knowledge.meters.peers.admits_address(flow.remote.ip()) {
            service.metrics.refused_peer.count();
            return service.reject_stateless(&request, came, flow, &NOT_AUTHORISED);
        }
        let address = flow.remote.ip();
        let is_answer = |value: &str| self.knowledge.is_answer(value, address, now.wall);
        if service.turns_away(&request, came, flow, is_answer, now) {
            return;
        }
        let request = self.loosely_routed(request);
        match service.receive(&request, came, flow, now) {
            RequestOutcome::New(server) => {
                count_request(&service.metrics, request.method());
                self.serve(service, request, server, flow, now);
            }
            // RFC 3261 §16.3: to a proxy a merged request is one like any other.
            RequestOutcome::Merged(server) if !self.may_end_here(&request) => {
                self.serve(service, request, server, flow, now);
            }
            RequestOutcome::Merged(server) => {
                let merged = Rejection::new(482, "Loop Detected");
                service.reject(&request, server, &merged, now);
            }
            RequestOutcome::AckTo2xx => self.pass_ack(service, request, now),
            RequestOutcome::CancelOf { cancel, cancelled } => {
                service.handle_cancel(&request, cancel, cancelled, now);
            }
            // Who was let in before would take it for the answer to that; his next one may find room.
            RequestOutcome::Busy if service.load.is_again() => service.metrics.ignored.count(),
            RequestOutcome::Busy => {
                service.metrics.refused_transactions.count();
                let busy = Rejection::new(503, "Service Unavailable");
                service.reject_stateless(&request, came, flow, &busy);
            }
            RequestOutcome::Absorbed | RequestOutcome::Ack(_) => {}
        }
    }

    /// Whether the server itself may be the user agent that answers: it keeps messages, anchors chats.
    fn may_end_here(&self, request: &Message) -> bool {
        match request.method() {
            Method::Message | Method::Register => true,
            Method::Invite if offer::of_session(request).is_ok() => true,
            _ => self.is_for_server(request),
        }
    }

    /// What a strict router before us did to the request is undone (RFC 3261 §16.4).
    fn loosely_routed(&self, request: Message) -> Message {
        if !self.knowledge.is_strictly_routed(&request) {
            return request;
        }
        let restored = undo_strict_routing(&request).and_then(|octets| wire::parse(octets).ok());
        restored.unwrap_or(request)
    }

    fn serve(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        flow: Flow,
        now: Now,
    ) {
        if service.handle_in_dialog(&request, server, now) {
            return;
        }
        if request.uri().is_ok_and(|uri| uri.scheme() == Scheme::Sips) {
            return service.reject(&request, server, &NO_SIPS, now);
        }
        if request.to_tag().is_none()
            && let Err(rejection) = self.admit_peer(service, &request, &flow, now)
        {
            return service.reject(&request, server, &rejection, now);
        }
        if request.method() == Method::Register {
            return self.register(service, &request, server, flow, now);
        }
        let passing = self.knowledge.passing(&request).filter(|it| it.trusted);
        let author = match passing {
            Some(_) => None,
            None => self.authenticate(service, &request, Asked { server, flow }, now),
        };
        if passing.is_none() && author.is_none() {
            return;
        }
        service.trust(server);
        if let Err(rejection) = self.forwardable(service, &request) {
            return self.refuse_forwarding(service, &request, server, rejection, now);
        }
        match (passing, author) {
            (Some(passing), _) => self.pass_in_dialog(service, request, server, &passing, now),
            (None, Some(author)) => self.serve_user(service, request, server, flow, author, now),
            (None, None) => {}
        }
    }

    /// Whether a request that begins something is let in by where it comes from, and by the domains
    /// that its sender says he is of.
    fn admit_peer(
        &self,
        service: &Service,
        request: &Message,
        flow: &Flow,
        now: Now,
    ) -> Result<(), Rejection> {
        let peers = &self.knowledge.meters.peers;
        let mut admitted = peers.take_address(flow.remote.ip(), now.instant);
        if peers.knows_domains() {
            for domain in sender_domains(request) {
                admitted = admitted.and_then(|()| peers.take_domain(&domain, now.instant));
            }
        }
        admitted.map_err(|barred| match barred {
            Barred::Denied => {
                service.metrics.refused_peer.count();
                NOT_AUTHORISED
            }
            Barred::TooMany(wait) => {
                service.metrics.refused_peer_rate.count();
                Rejection::new(503, "Service Unavailable").with_retry_after(wait)
            }
        })
    }

    /// RFC 3261 §16.3, as far as the request does not end here.
    fn forwardable(&self, service: &Service, request: &Message) -> Result<(), Rejection> {
        match check_forwardable(request, &service.own_name()) {
            Err(rejection) if rejection.status == 483 && self.is_for_server(request) => Ok(()),
            other => other,
        }
    }

    fn is_for_server(&self, request: &Message) -> bool {
        let uri = request.uri();
        uri.is_ok_and(|uri| matches!(self.knowledge.destination(&uri), Destination::Server))
    }

    fn refuse_forwarding(
        &self,
        service: &mut Service,
        request: &Message,
        server: ServerId,
        rejection: Rejection,
        now: Now,
    ) {
        match (rejection.status, unsupported_extensions(request)) {
            (420, Some(tags)) => service.bad_extension(request, server, &tags, now),
            _ => service.reject(request, server, &rejection, now),
        }
    }

    fn serve_user(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        flow: Flow,
        author: Identity,
        now: Now,
    ) {
        let (request, onward) = self.without_our_route(request);
        let Ok(uri) = request.uri() else {
            return service.reject(
                &request,
                server,
                &Rejection::new(400, "Malformed Request-URI"),
                now,
            );
        };
        if self.knowledge.is_deferred(&uri) && request.to_tag().is_none() {
            return self.fetch(service, request, server, flow, &author, now);
        }
        if let Some(to) = onward.filter(|to| self.knowledge.identity_of(&uri).as_ref() != Some(to))
        {
            return service.hand_on_receipt(request, server, &author, &to, now);
        }
        let user = match self.knowledge.destination(&uri) {
            Destination::User(user) => user,
            Destination::Server => return self.serve_self(service, &request, server, now),
            Destination::Unknown | Destination::Foreign => {
                if let Some(hidden) = service.hidden_author(&author, &request) {
                    return service.hand_on_receipt(request, server, &author, &hidden, now);
                }
                return service.reject(&request, server, &Rejection::new(404, "Not Found"), now);
            }
        };
        let in_dialog = request.to_tag().is_some();
        if !in_dialog && let Err(rejection) = service.take_request(&author, request.method(), now) {
            return service.reject(&request, server, &rejection, now);
        }
        match request.method() {
            Method::Message if !in_dialog => {
                service.handle_message(request, server, author, user, now)
            }
            Method::Invite if !in_dialog => {
                self.invite(
                    service,
                    request,
                    server,
                    Parties { flow, author, user },
                    now,
                );
            }
            Method::Bye | Method::Prack | Method::Update | Method::Invite | Method::Message => {
                service.reject(
                    &request,
                    server,
                    &Rejection::new(481, "Call Does Not Exist"),
                    now,
                );
            }
            _ => self.pass_on(
                service,
                request,
                server,
                &Parties { flow, author, user },
                now,
            ),
        }
    }

    /// A user asks for what waits for him (cpm-facts §7.1).
    fn fetch(
        &self,
        service: &mut Service,
        invite: Message,
        server: ServerId,
        flow: Flow,
        user: &Identity,
        now: Now,
    ) {
        if invite.method() != Method::Invite {
            return service.not_allowed(&invite, server, now);
        }
        // His shard was found by From; he has nobody to hide from.
        let from = invite
            .from_uri()
            .and_then(|uri| self.knowledge.identity_of(&uri));
        if !service.is_local(user) || from.as_ref() != Some(user) {
            return service.reject(&invite, server, &NOT_AUTHORISED, now);
        }
        if let Some(tags) = unsupported_requirements(&invite, &SESSION_EXTENSIONS) {
            return service.bad_extension(&invite, server, &tags, now);
        }
        let wanted = match Wanted::of(&invite) {
            Ok(wanted) => wanted,
            Err(rejection) => return service.reject(&invite, server, &rejection, now),
        };
        let offer = match offer::of_session(&invite) {
            Ok(offer) => offer,
            Err(unusable) => return service.refuse_offer(&invite, server, unusable, now),
        };
        let fetch = Fetch {
            invite,
            server,
            flow,
            offer,
            wanted,
        };
        service.handle_fetch(fetch, user, now);
    }

    /// A notification whose top IMDN-Route names us goes on without it, to whom the next one or the
    /// To of its envelope names (RFC 5438 §8).
    fn without_our_route(&self, request: Message) -> (Message, Option<Identity>) {
        let is_message = request.method() == Method::Message;
        let route = is_message.then(|| ReceiptRoute::read(&request)).flatten();
        let names_us = |it: &ReceiptRoute| {
            Uri::parse(&it.top).is_ok_and(|uri| self.knowledge.is_function(&uri))
        };
        let Some(route) = route.filter(names_us) else {
            return (request, None);
        };
        let next = route.next.as_deref().map(Uri::parse).and_then(Result::ok);
        let next = next.and_then(|uri| self.knowledge.identity_of(&uri));
        (without_top_route(&request).unwrap_or(request), next)
    }

    fn invite(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        parties: Parties,
        now: Now,
    ) {
        match offer::of_session(&request) {
            Ok(offer) => {
                if let Some(tags) = unsupported_requirements(&request, &SESSION_EXTENSIONS) {
                    return service.bad_extension(&request, server, &tags, now);
                }
                let Parties { flow, author, user } = parties;
                service.handle_chat_invite(request, server, flow, offer, author, user, now);
            }
            // Other media are the device's.
            Err(unusable) if unusable != offer::NO_MSRP && asks_for_session(&request) => {
                service.refuse_offer(&request, server, unusable, now);
            }
            Err(_) => self.pass_on(service, request, server, &parties, now),
        }
    }

    /// What is neither kept nor anchored goes to the user's devices (RFC 3261 §16).
    fn pass_on(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        parties: &Parties,
        now: Now,
    ) {
        match service.admit(&request, &parties.author, &parties.user, now) {
            Admission::Pass => {}
            Admission::Drop | Admission::Refuse(UNAVAILABLE) => {
                return nobody_takes(service, &request, server, now);
            }
            Admission::Refuse(rejection) => {
                return service.reject(&request, server, &rejection, now);
            }
        }
        let targets = match service.relay_targets(&parties.user, &request) {
            Ok(targets) => targets,
            Err(rejection) => return service.reject(&request, server, &rejection, now),
        };
        if targets.is_empty() {
            return nobody_takes(service, &request, server, now);
        }
        let record_routes = self.record_routes(service, &request, parties, &targets);
        let passage = Passage {
            author: Some(&parties.author),
            record_routes,
            popped: match self.knowledge.passing(&request) {
                Some(passing) => passing.popped,
                None => usize::from(self.routed_to_us(&request)),
            },
        };
        service.relay(request, server, &targets, &passage, now);
    }

    fn routed_to_us(&self, request: &Message) -> bool {
        let first = request.values(HeaderName::Route).next();
        let route = first.and_then(|value| NameAddr::parse(value).ok());
        let uri = route.and_then(|route| Uri::parse(route.uri).ok());
        uri.is_some_and(|uri| {
            self.knowledge.is_us(&uri)
                || uri
                    .host()
                    .eq_ignore_ascii_case(self.knowledge.directory.domain())
        })
    }

    /// Requests to the server itself.
    fn serve_self(&self, service: &mut Service, request: &Message, server: ServerId, now: Now) {
        if request.method() == Method::Other {
            // RFC 3261 §21.5.2: the method is not even known.
            let unknown = Rejection::new(501, "Not Implemented");
            return service.reject(request, server, &unknown, now);
        }
        if request.method() != Method::Options {
            let reply = service.reply(request, 405, "Method Not Allowed", None);
            let octets = reply.header("Allow", OWN_METHODS).build();
            return service.respond(server, 405, octets, now);
        }
        let reply = service
            .reply(request, 200, "OK", None)
            .header("Allow", METHODS)
            .header(
                "Accept",
                "application/sdp, message/cpim, multipart/mixed, text/plain",
            )
            .header("Supported", "path, timer, gruu, 100rel");
        service.respond(server, 200, reply.build(), now);
    }

    fn register(
        &self,
        service: &mut Service,
        request: &Message,
        server: ServerId,
        flow: Flow,
        now: Now,
    ) {
        let asked = Asked { server, flow };
        let authenticated = match self.prove(service, request, asked, Challenger::Server, now) {
            Proof::Open => None,
            Proof::Of(identity) => Some(identity),
            Proof::Answered => return,
        };
        service.trust(server);
        if self.names_us_as_device(request) {
            return service.reject(request, server, &CONTACT_IS_US, now);
        }
        let to_tag = service.new_tag();
        let registration = Registration {
            request,
            flow,
            authenticated: authenticated.as_ref(),
            to_tag: &to_tag,
            now,
        };
        service.register(&self.knowledge.directory, &registration, server);
    }

    /// Whether a Contact is an address of ours: what is kept for the user would come back to us without end, as
    /// new requests that no loop detection knows (RFC 3261 §16.3, RFC 5393).
    fn names_us_as_device(&self, request: &Message) -> bool {
        let mut contacts = request.contacts();
        contacts.any(|(_, address)| {
            // A name is not looked up: such a device is reached the way its REGISTER came (decision 13).
            let is_literal = |uri: &Uri<'_>| uri.host().parse::<IpAddr>().is_ok();
            address.is_some_and(|(_, uri)| self.knowledge.is_us(&uri) && is_literal(&uri))
        })
    }

    /// Who sent the request; `None` when it has been answered with a challenge or refused.
    fn authenticate(
        &self,
        service: &mut Service,
        request: &Message,
        asked: Asked,
        now: Now,
    ) -> Option<Identity> {
        let server = asked.server;
        // In open mode nobody is challenged.
        let challenges = self.knowledge.digest.is_some();
        let challenger = match challenges && self.is_for_server(request) {
            true => Challenger::Server,
            false => Challenger::Proxy,
        };
        let from = request.from().ok()?;
        let claimed = request.from_uri();
        let claimed = claimed.map(|uri| self.claimed_identity(&uri));
        match self.prove(service, request, asked, challenger, now) {
            // RFC 3325 §6: who hides says to his own server who he is.
            Proof::Open if forward::wants_privacy(request) => {
                let preferred = request.values(HeaderName::PPreferredIdentity).next();
                let preferred = preferred.and_then(|value| NameAddr::parse(value).ok());
                let uri = preferred.and_then(|address| Uri::parse(address.uri).ok());
                let preferred = uri.and_then(|uri| self.knowledge.identity_of(&uri));
                preferred.or(claimed.flatten())
            }
            Proof::Open => claimed.flatten(),
            Proof::Answered => None,
            Proof::Of(identity) => {
                let anonymous =
                    forward::wants_privacy(request) && from.uri.ends_with("anonymous.invalid");
                if claimed.flatten().as_ref() == Some(&identity) || anonymous {
                    return self
                        .preferred_fits(request, &identity)
                        .then_some(identity)
                        .or_else(|| {
                            service.reject(request, server, &NOT_AUTHORISED, now);
                            None
                        });
                }
                service.reject(request, server, &NOT_AUTHORISED, now);
                None
            }
        }
    }

    /// Who From says it is: a user of ours, or in open mode anybody.
    fn claimed_identity(&self, uri: &Uri<'_>) -> Option<Identity> {
        let own = self.knowledge.identity_of(uri);
        own.or_else(|| {
            let user = uri.user().unwrap_or("anonymous");
            let host = if uri.scheme() == Scheme::Tel {
                self.knowledge.directory.domain()
            } else {
                uri.host()
            };
            self.knowledge
                .directory
                .is_open()
                .then(|| Identity::new(&crate::uri::unescape(user), host))
        })
    }

    /// A preferred identity must be one of the user's own (RFC 3325 §6).
    fn preferred_fits(&self, request: &Message, identity: &Identity) -> bool {
        request.values(HeaderName::PPreferredIdentity).all(|value| {
            let uri = NameAddr::parse(value)
                .ok()
                .and_then(|address| Uri::parse(address.uri).ok());
            uri.is_some_and(|uri| self.knowledge.identity_of(&uri).as_ref() == Some(identity))
        })
    }

    fn prove(
        &self,
        service: &mut Service,
        request: &Message,
        asked: Asked,
        challenger: Challenger,
        now: Now,
    ) -> Proof {
        let Some(digest) = &self.knowledge.digest else {
            return Proof::Open;
        };
        let directory = &self.knowledge.directory;
        let lookup = |name: &str| directory.credentials(name);
        let address = asked.flow.remote.ip();
        let stale = match digest.check(request, address, challenger, lookup, now) {
            Verdict::Accepted {
                identity,
                is_from_here,
            } => {
                if is_from_here {
                    let way = asked.flow.transport.way();
                    (self.knowledge.sources).prove(address, way, now.instant);
                }
                return Proof::Of(identity);
            }
            Verdict::Malformed(rejection) => {
                service.reject(request, asked.server, &rejection, now);
                return Proof::Answered;
            }
            Verdict::Locked(left) => {
                service.locked_out(request, asked.server, left, now);
                return Proof::Answered;
            }
            Verdict::Failed(lockout) => {
                self.count_failure(service, asked.flow, lockout, now);
                false
            }
            Verdict::Challenge { stale } => stale,
        };
        let way = asked.flow.transport.way();
        (self.knowledge.sources).challenge(address, way, now.instant);
        service.challenge(digest, request, asked, challenger, stale, now);
        Proof::Answered
    }

    fn count_failure(&self, service: &Service, flow: Flow, lockout: Option<Lockout>, now: Now) {
        service.metrics.failed_logins.count();
        if let Some(lockout) = lockout {
            service.metrics.lockouts.count();
            let seconds = lockout.until.since(now.instant).as_secs();
            tracing::warn!(user = ?lockout.user, source = %lockout.source, seconds, "locked out");
        }
        let (address, way) = (flow.remote.ip(), flow.transport.way());
        let offence = Offence::FailedLogin;
        if let Some(ban) = (self.knowledge.sources).offend(address, way, offence, now.instant) {
            service.metrics.bans.count();
            ban.tell(now.instant);
        }
    }
}

enum Proof {
    /// Nobody has to prove anything.
    Open,
    /// It was this user.
    Of(Identity),
    /// The request has been answered.
    Answered,
}

fn count_request(metrics: &ShardMetrics, method: Method) {
    let counter = match method {
        Method::Register => &metrics.requests_register,
        Method::Message => &metrics.requests_message,
        Method::Invite => &metrics.requests_invite,
        Method::Bye => &metrics.requests_bye,
        Method::Options => &metrics.requests_options,
        Method::Publish => &metrics.requests_publish,
        Method::Subscribe => &metrics.requests_subscribe,
        Method::Notify => &metrics.requests_notify,
        _ => &metrics.requests_other,
    };
    counter.count();
}

/// The domains that the sender of a request says he is of, each once. A telephone number names none.
fn sender_domains(request: &Message) -> Vec<String> {
    let asserted = request.values(HeaderName::PAssertedIdentity);
    let asserted = asserted.filter_map(|value| NameAddr::parse(value).ok());
    let from = request.from().ok().into_iter();
    let mut domains = Vec::new();
    for address in from.chain(asserted) {
        let uri = Uri::parse(address.uri).ok();
        let uri = uri.filter(|uri| matches!(uri.scheme(), Scheme::Sip | Scheme::Sips));
        let domain = uri.map(|uri| uri.host().to_ascii_lowercase());
        domains.extend(domain.filter(|domain| !domains.contains(domain)));
    }
    domains
}

/// Nobody is there whom the request could be passed on to (RFC 3261 §16.5). Only we could take a session then: an
/// INVITE hears why we do not (cpm-facts §11).
fn nobody_takes(service: &mut Service, request: &Message, server: ServerId, now: Now) {
    let unusable = match request.method() {
        Method::Invite => offer::of_session(request).err(),
        _ => None,
    };
    match unusable {
        Some(unusable) => service.refuse_offer(request, server, unusable, now),
        None => service.reject(request, server, &UNAVAILABLE, now),
    }
}

/// Whether an INVITE from which no session of ours can come asks for one (cpm-facts §11): another may leave
/// the offer to the device.
fn asks_for_session(request: &Message) -> bool {
    let names = [
        HeaderName::PAssertedService,
        HeaderName::PPreferredService,
        HeaderName::AcceptContact,
    ];
    let mut values = names.into_iter().flat_map(|name| request.headers(name));
    values.any(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("oma.cpm.") || value.contains("+g.oma.sip-im")
    })
}

/// RFC 3261 §18.2.1, RFC 3581: what the Via claims about its source is written over.
fn stamped(request: Message, flow: &Flow) -> Option<Message> {
    let via = request.top_via().ok()?;
    if !reply::needs_stamp(&via, flow.remote) {
        return Some(request);
    }
    reply::stamp_source(request, flow.remote)
}
