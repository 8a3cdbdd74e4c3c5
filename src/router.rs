//! Which function serves a request: the registrar, the participating function, a dialog, or the next
//! hop. Pure; the next stop for a MESSAGE is `participating::pager`, for a chat `participating::chat`.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Now;
use crate::identity::{Identity, shard_of};
use crate::participating::callee;
use crate::participating::contacts::Target;
use crate::participating::forward;
use crate::participating::outgoing::ALLOW;
use crate::participating::relay::Passage;
use crate::participating::service::Service;
use crate::registrar::{Directory, Registration, Resolved};
use crate::sip::digest::{Challenger, Digest, Verdict};
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::proxy::{check_forwardable, unsupported_extensions};
use crate::sip::rejection::Rejection;
use crate::sip::reply;
use crate::sip::transaction::{RequestOutcome, ServerId, branch};
use crate::sip::transport::flow::{Flow, Transport};
use crate::sip::validate::validate;
use crate::uri::{Scheme, Uri};

/// 403 for what a user may not do; clients read the number in the warning (cpm-facts §11).
const NOT_AUTHORISED: Rejection =
    Rejection::new(403, "Forbidden").with_warning("127 Service not authorised");

/// What every shard knows alike.
#[derive(Clone)]
pub struct Knowledge {
    /// Who the users are.
    pub directory: Arc<Directory>,
    /// Checks credentials; `None` in open mode.
    pub digest: Option<Arc<Digest>>,
    /// `host:port` of our SIP listeners, bound and advertised.
    pub own: Arc<[(String, u16)]>,
    /// Keys the marks in our Record-Route.
    pub route_key: u64,
    /// Shards in this process.
    pub shards: u16,
}

/// Sends every request of a shard where it belongs.
pub struct Router {
    knowledge: Knowledge,
}

/// Whom a request is for.
enum Destination {
    /// This server.
    Server,
    /// A user of the domain.
    User(Identity),
    /// The domain has no such user.
    Unknown,
    /// Somebody elsewhere.
    Foreign,
}

impl Knowledge {
    /// The shard that owns a message: a response belongs to who made its branch, a request inside one
    /// of our dialogs to who holds it, every other one to its user.
    pub fn owner_of(&self, message: &Message) -> u16 {
        let named = if message.is_request() {
            self.owner_of_request(message)
        } else {
            let via = message.top_via().ok();
            via.and_then(|via| branch::shard_of(via.branch?))
        };
        named
            .filter(|shard| *shard < self.shards)
            .unwrap_or_default()
    }

    fn owner_of_request(&self, request: &Message) -> Option<u16> {
        if let Some((shard, _)) = self.own_route(request) {
            return Some(shard);
        }
        let uri = Uri::parse(request.request_uri()).ok()?;
        if self.is_us(&uri)
            && let Some(shard) = uri.user().and_then(callee::shard_of_contact)
        {
            return Some(shard);
        }
        let identity = if request.method() == Method::Register {
            self.identity_of(&Uri::parse(request.to().ok()?.uri).ok()?)?
        } else {
            self.identity_of(&uri)?
        };
        Some(shard_of(&identity, self.shards))
    }

    /// The user a URI names, by the domain or by our own address.
    fn identity_of(&self, uri: &Uri<'_>) -> Option<Identity> {
        match self.destination(uri) {
            Destination::User(identity) => Some(identity),
            _ => None,
        }
    }

    fn destination(&self, uri: &Uri<'_>) -> Destination {
        let domain = self.directory.domain();
        if self.is_us(uri) {
            return match uri.user() {
                None => Destination::Server,
                Some(user) => {
                    let written = format!("sip:{user}@{domain}");
                    Uri::parse(&written).map_or(Destination::Unknown, |uri| self.resolve(&uri))
                }
            };
        }
        if uri.user().is_none() && uri.host().eq_ignore_ascii_case(domain) {
            return Destination::Server;
        }
        self.resolve(uri)
    }

    fn resolve(&self, uri: &Uri<'_>) -> Destination {
        match self.directory.resolve(uri) {
            Resolved::Local(identity) => Destination::User(identity),
            Resolved::Unknown => Destination::Unknown,
            Resolved::Foreign => Destination::Foreign,
        }
    }

    fn is_us(&self, uri: &Uri<'_>) -> bool {
        let port = uri.port().unwrap_or(5060);
        let same = |host: &str| match (host.parse::<IpAddr>(), uri.host().parse::<IpAddr>()) {
            (Ok(own), Ok(other)) => own == other,
            _ => host.eq_ignore_ascii_case(uri.host()),
        };
        self.own
            .iter()
            .any(|(host, own_port)| *own_port == port && same(host))
    }

    /// The first Route, if it is one of ours: its shard, and whether it carries our mark for the
    /// dialog, which shows that we let the dialog begin.
    fn own_route(&self, request: &Message) -> Option<(u16, bool)> {
        let value = request.values(HeaderName::Route).next()?;
        let route = NameAddr::parse(value).ok()?;
        let uri = Uri::parse(route.uri).ok()?;
        if !self.is_us(&uri) {
            return None;
        }
        let (shard, mark) = uri.user()?.strip_prefix("rr-")?.split_once('-')?;
        let call_id = request.call_id().ok()?;
        Some((shard.parse().ok()?, mark == self.mark(call_id)))
    }

    /// Our mark on a dialog: only we can make it for a Call-ID.
    fn mark(&self, call_id: &str) -> String {
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        hash.update(self.route_key.to_be_bytes());
        hash.update(call_id.as_bytes());
        hash.update(self.route_key.to_be_bytes());
        let digest = hash.finalize();
        digest
            .iter()
            .take(10)
            .map(|octet| format!("{octet:02x}"))
            .collect()
    }
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

    /// A message for this shard.
    pub fn handle(&self, service: &mut Service, message: Message, flow: Flow, now: Now) {
        if !message.is_request() {
            return service.handle_sip_response(message, flow, now);
        }
        let Some(request) = stamped(message, &flow) else {
            return;
        };
        if let Err(rejection) = validate(&request) {
            return service.reject_stateless(&request, flow, &rejection);
        }
        match service.receive(&request, flow, now) {
            RequestOutcome::New(server) => self.serve(service, request, server, flow, now),
            RequestOutcome::Merged(server) => {
                let merged = Rejection::new(482, "Loop Detected");
                service.reject(&request, server, &merged, now);
            }
            RequestOutcome::AckTo2xx => self.pass_ack(service, &request, now),
            RequestOutcome::CancelOf { cancel, cancelled } => {
                service.handle_cancel(&request, cancel, cancelled, now);
            }
            RequestOutcome::Busy => {
                let busy = Rejection::new(503, "Service Unavailable");
                service.reject_stateless(&request, flow, &busy);
            }
            RequestOutcome::Absorbed | RequestOutcome::Ack(_) => {}
        }
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
        if request.method() == Method::Register {
            return self.register(service, &request, server, flow, now);
        }
        let route = self.knowledge.own_route(&request);
        let trusted = matches!(route, Some((_, true)));
        let author = if trusted {
            None
        } else {
            self.authenticate(service, &request, server, now)
        };
        if !trusted && author.is_none() {
            return;
        }
        if let Err(rejection) = self.forwardable(service, &request) {
            return self.refuse_forwarding(service, &request, server, rejection, now);
        }
        match author {
            None => self.pass_in_dialog(service, request, server, now),
            Some(author) => self.serve_user(service, request, server, flow, author, now),
        }
    }

    /// RFC 3261 §16.3, as far as the request does not end here.
    fn forwardable(&self, service: &Service, request: &Message) -> Result<(), Rejection> {
        let checked = check_forwardable(request, &service.own_name());
        let for_server = self.is_for_server(request);
        match checked {
            Err(rejection) if rejection.status == 483 && for_server => Ok(()),
            other => other,
        }
    }

    fn is_for_server(&self, request: &Message) -> bool {
        let uri = Uri::parse(request.request_uri());
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
            (420, Some(tags)) => {
                let reply = service.reply(request, 420, rejection.reason, None);
                let octets = reply.header("Unsupported", &tags).build();
                service.respond(server, 420, octets, now);
            }
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
        let Ok(uri) = Uri::parse(request.request_uri()) else {
            return service.reject(
                &request,
                server,
                &Rejection::new(400, "Malformed Request-URI"),
                now,
            );
        };
        let user = match self.knowledge.destination(&uri) {
            Destination::User(user) => user,
            Destination::Server => return self.serve_self(service, &request, server, now),
            Destination::Unknown | Destination::Foreign => {
                return service.reject(&request, server, &Rejection::new(404, "Not Found"), now);
            }
        };
        let in_dialog = request.to().is_ok_and(|to| to.tag().is_some());
        match request.method() {
            Method::Message if !in_dialog => {
                service.handle_message(request, server, author, user, now)
            }
            Method::Invite if !in_dialog => {
                self.invite(service, request, server, flow, author, user, now);
            }
            Method::Bye | Method::Prack | Method::Update | Method::Invite | Method::Message => {
                service.reject(
                    &request,
                    server,
                    &Rejection::new(481, "Call Does Not Exist"),
                    now,
                );
            }
            _ => self.pass_on(service, request, server, &author, &user, now),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one INVITE and all that is known of it"
    )]
    fn invite(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        flow: Flow,
        author: Identity,
        user: Identity,
        now: Now,
    ) {
        let offer = callee::description(&request);
        let chat =
            offer.filter(|offer| offer.sections.iter().any(|section| section.msrp.is_some()));
        match chat {
            Some(_) if callee::carries_message(&request) => {
                let whole = Rejection::new(415, "Unsupported Media Type");
                service.reject(&request, server, &whole, now);
            }
            Some(offer) => {
                service.handle_chat_invite(request, server, flow, offer, author, user, now);
            }
            None => self.pass_on(service, request, server, &author, &user, now),
        }
    }

    /// What is neither kept nor anchored goes to the user's devices (RFC 3261 §16).
    fn pass_on(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        author: &Identity,
        user: &Identity,
        now: Now,
    ) {
        let targets = match service.relay_targets(user, &request) {
            Ok(targets) => targets,
            Err(rejection) => return service.reject(&request, server, &rejection, now),
        };
        let record_route = self.record_route(service, &request);
        let passage = Passage {
            author: Some(author),
            record_route: record_route.as_deref(),
            pop_route: self.knowledge.own_route(&request).is_some() || self.routed_to_us(&request),
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

    /// Requests that begin a dialog keep us on its path (RFC 3261 §16.6 step 4).
    fn record_route(&self, service: &Service, request: &Message) -> Option<String> {
        let begins = matches!(
            request.method(),
            Method::Invite | Method::Subscribe | Method::Refer
        );
        let call_id = request.call_id().ok().filter(|_| begins)?;
        Some(service.record_route(&self.knowledge.mark(call_id)))
    }

    /// A request inside a dialog that we let begin: on along its route.
    fn pass_in_dialog(&self, service: &mut Service, request: Message, server: ServerId, now: Now) {
        let Some(target) = self.next_hop(service, &request) else {
            return service.reject(&request, server, &Rejection::new(404, "Not Found"), now);
        };
        let passage = Passage {
            author: None,
            record_route: None,
            pop_route: true,
        };
        service.relay(request, server, &[target], &passage, now);
    }

    fn pass_ack(&self, service: &mut Service, ack: &Message, now: Now) {
        if service.handle_ack(ack, now) || !matches!(self.knowledge.own_route(ack), Some((_, true)))
        {
            return;
        }
        if let Some(target) = self.next_hop(service, ack) {
            let passage = Passage {
                author: None,
                record_route: None,
                pop_route: true,
            };
            service.relay_ack(ack, &target, &passage);
        }
    }

    /// Where a request inside a dialog goes: to its next Route, else to its Request-URI. A device's
    /// Contact leads to the flow it registered over.
    fn next_hop(&self, service: &Service, request: &Message) -> Option<Target> {
        let mut routes = request.values(HeaderName::Route).skip(1);
        let next = routes.next().and_then(|value| NameAddr::parse(value).ok());
        let hop = next.map_or(request.request_uri(), |route| route.uri);
        let uri = Uri::parse(hop).ok()?;
        let flow = service
            .flow_to_contact(&uri)
            .or_else(|| direct_flow(service, &uri))?;
        Some(Target::elsewhere(request.request_uri().to_owned(), flow))
    }

    /// Requests to the server itself.
    fn serve_self(&self, service: &mut Service, request: &Message, server: ServerId, now: Now) {
        if request.method() != Method::Options {
            return service.not_allowed(request, server, now);
        }
        let reply = service
            .reply(request, 200, "OK", None)
            .header("Allow", ALLOW)
            .header(
                "Accept",
                "application/sdp, message/cpim, multipart/mixed, text/plain",
            )
            .header("Supported", "path, timer, gruu");
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
        let authenticated = match self.prove(service, request, server, Challenger::Server, now) {
            Proof::Open => None,
            Proof::Of(identity) => Some(identity),
            Proof::Answered => return,
        };
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

    /// Who sent the request; `None` when it has been answered with a challenge or refused.
    fn authenticate(
        &self,
        service: &mut Service,
        request: &Message,
        server: ServerId,
        now: Now,
    ) -> Option<Identity> {
        let challenger = if self.is_for_server(request) {
            Challenger::Server
        } else {
            Challenger::Proxy
        };
        let from = request.from().ok()?;
        let claimed = Uri::parse(from.uri).ok();
        let claimed = claimed.map(|uri| self.claimed_identity(&uri));
        match self.prove(service, request, server, challenger, now) {
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
        server: ServerId,
        challenger: Challenger,
        now: Now,
    ) -> Proof {
        let Some(digest) = &self.knowledge.digest else {
            return Proof::Open;
        };
        let directory = &self.knowledge.directory;
        let lookup = |name: &str| directory.credentials(name);
        match digest.check(request, challenger, lookup, now.wall) {
            Verdict::Accepted(identity) => return Proof::Of(identity),
            Verdict::Malformed(rejection) => service.reject(request, server, &rejection, now),
            Verdict::Challenge { stale } => {
                service.challenge(digest, request, server, challenger, stale, now)
            }
        }
        Proof::Answered
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

/// RFC 3261 §18.2.1, RFC 3581: what the Via claims about its source is written over.
fn stamped(request: Message, flow: &Flow) -> Option<Message> {
    let via = request.top_via().ok()?;
    if !reply::needs_stamp(&via, flow.remote) {
        return Some(request);
    }
    let octets = reply::stamp_source(&request, flow.remote)?;
    crate::sip::wire::parse(octets).ok()
}

/// By the address in a URI (RFC 3263 §4.1 and §4.2, for literal addresses).
fn direct_flow(service: &Service, uri: &Uri<'_>) -> Option<Flow> {
    let ip: IpAddr = uri.host().parse().ok()?;
    let remote = std::net::SocketAddr::new(ip, uri.port().unwrap_or(5060));
    let tcp = uri
        .parameter("transport")
        .flatten()
        .is_some_and(|value| value.eq_ignore_ascii_case("tcp"));
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    service
        .flow_to(remote, Some(transport))
        .or_else(|| service.flow_to(remote, None))
}
