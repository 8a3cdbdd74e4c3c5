//! Requests inside a dialog that passes through us: which way they go, and what makes them come.

use std::net::{IpAddr, SocketAddr};

use super::dialog_end::DialogEnd;
use super::knowledge::{Destination, Passing};
use super::{Parties, Router};
use crate::clock::Now;
use crate::identity::{Identity, shard_of};
use crate::participating::contacts::Target;
use crate::participating::forward;
use crate::participating::next_hop::HopName;
use crate::participating::relay::Passage;
use crate::participating::service::Service;
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::ServerId;
use crate::sip::transport::flow::{Flow, Transport};
use crate::uri::{Scheme, Uri};

/// Where a request inside a dialog goes next.
enum Hop {
    /// To a device or server whose address is known.
    To(Flow),
    /// To a host whose address must be looked up.
    Named(HopName),
}

impl Router {
    /// Our Record-Route for a request on its way to each of `targets`, if it begins a dialog: then we
    /// stay on its path (RFC 3261 §16.6 step 4).
    pub(super) fn record_routes(
        &self,
        service: &Service,
        request: &Message,
        parties: &Parties,
        targets: &[Target],
    ) -> Vec<String> {
        let begins = matches!(
            request.method(),
            Method::Invite | Method::Subscribe | Method::Refer
        );
        let Some(call_id) = request.call_id().ok().filter(|_| begins) else {
            return Vec::new();
        };
        let key = &self.knowledge().route_key;
        let near = self.caller_end(service, request, parties.flow, &parties.author);
        let near = service.own_route(&near.write(key, call_id), &parties.flow);
        let far = |target: &Target| {
            let end = DialogEnd {
                shard: service.shard(),
                user: Some(parties.user.clone()),
                flow: Some(target.flow)
                    .filter(|flow| flow.transport == Transport::Tcp && target.path.is_empty()),
            };
            let route = service.own_route(&end.write(key, call_id), &target.flow);
            format!("{route}, {near}")
        };
        targets.iter().map(far).collect()
    }

    /// The end the request came from. Its flow is the way back to it when it holds a connection, or
    /// sends from another address than it knows itself by.
    fn caller_end(
        &self,
        service: &Service,
        request: &Message,
        flow: Flow,
        author: &Identity,
    ) -> DialogEnd {
        let direct = request.values(HeaderName::Via).count() == 1;
        let translated = request.top_via().is_ok_and(|via| {
            let host = via.host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<IpAddr>()
                .is_ok_and(|ip| SocketAddr::new(ip, via.port.unwrap_or(5060)) != flow.remote)
        });
        let needed = flow.transport == Transport::Tcp || translated;
        // The other side reads these routes: who hides is not named in them, his flow leads to him.
        let hidden = forward::wants_privacy(request);
        let local = service.is_local(author);
        DialogEnd {
            shard: if local {
                shard_of(author, self.knowledge().shards)
            } else {
                service.shard()
            },
            user: (local && !hidden).then(|| author.clone()),
            flow: (direct && (needed || hidden)).then_some(flow),
        }
    }

    /// A request inside a dialog that we let begin: on along its route.
    pub(super) fn pass_in_dialog(
        &self,
        service: &mut Service,
        request: Message,
        server: ServerId,
        passing: &Passing,
        now: Now,
    ) {
        let popped = passing.popped;
        match self.hop(service, &request, passing) {
            Some(Hop::To(flow)) => {
                let target = Target::elsewhere(request.request_uri().to_owned(), flow);
                service.relay(request, server, &[target], &Passage::in_dialog(popped), now);
            }
            Some(Hop::Named(name)) => {
                service.relay_by_name(request, Some(server), name, popped, now);
            }
            None => service.reject(&request, server, &Rejection::new(404, "Not Found"), now),
        }
    }

    /// The ACK of a 2xx: for a session of ours, or on along its route (RFC 3261 §16.11).
    pub(super) fn pass_ack(&self, service: &mut Service, ack: Message, now: Now) {
        if service.handle_ack(&ack, now) {
            return;
        }
        let Some(passing) = self.knowledge().passing(&ack).filter(|it| it.trusted) else {
            return;
        };
        let popped = passing.popped;
        match self.hop(service, &ack, &passing) {
            Some(Hop::To(flow)) => {
                let target = Target::elsewhere(ack.request_uri().to_owned(), flow);
                service.relay_ack(&ack, &target, &Passage::in_dialog(popped));
            }
            Some(Hop::Named(name)) => service.relay_by_name(ack, None, name, popped, now),
            None => {}
        }
    }

    /// Its next Route, else its Request-URI: a device of a user of ours over the flow it registered
    /// or called over, anybody else by the address.
    fn hop(&self, service: &Service, request: &Message, passing: &Passing) -> Option<Hop> {
        let mut routes = request.values(HeaderName::Route).skip(passing.popped);
        if let Some(next) = routes.next() {
            return by_address(service, &Uri::parse(NameAddr::parse(next).ok()?.uri).ok()?);
        }
        let uri = request.uri().ok()?;
        let end = &passing.end;
        let registered = end.user.as_ref();
        let registered = registered.and_then(|user| service.flow_of_device(user, &uri));
        if let Some(flow) = registered.or(end.flow) {
            return Some(Hop::To(flow));
        }
        if let Destination::User(user) = self.knowledge().destination(&uri) {
            let targets = service.relay_targets(&user, request).ok()?;
            return Some(Hop::To(targets.first()?.flow));
        }
        by_address(service, &uri)
    }
}

/// By the host of a URI (RFC 3263 §4.1 and §4.2, without SRV and NAPTR).
fn by_address(service: &Service, uri: &Uri<'_>) -> Option<Hop> {
    if uri.scheme() != Scheme::Sip || uri.host().is_empty() {
        return None;
    }
    let asked = uri.parameter("transport").flatten();
    let transport = match asked {
        Some(name) if name.eq_ignore_ascii_case("tcp") => Transport::Tcp,
        _ => Transport::Udp,
    };
    let port = uri.port().unwrap_or(5060);
    match uri.host().parse::<IpAddr>() {
        Ok(ip) => {
            let flow = service.flow_to_address(SocketAddr::new(ip, port), transport);
            flow.map(Hop::To)
        }
        Err(_) => Some(Hop::Named(HopName {
            host: uri.host().to_owned(),
            port,
            transport,
        })),
    }
}
