//! What a request looks like when it leaves: RFC 3261 §16.6, RFC 5393 §4.2.1 and §5.

use bytes::Bytes;

use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::splice::Edit;
use crate::sip::target::{as_request_uri, is_loose_route};

/// How many branches at once a request may have at most (RFC 5393 §5.3.3).
pub const MAX_BREADTH: u16 = 60;

/// Max-Forwards of a request that had none (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u8 = 70;

/// One copy of a request.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The new Request-URI.
    pub target: &'a str,
    /// The whole value of our Via, with a fresh branch.
    pub via: &'a str,
    /// The whole value of our Record-Route, if we want to stay in the path.
    pub record_route: Option<&'a str>,
    /// Whether the first Route value is ours and has done its duty (RFC 3261 §16.4).
    pub pop_route: bool,
    /// Route values to visit before those of the request, such as a binding's Path (RFC 3327 §5.3).
    pub push_routes: &'a [String],
    /// This branch's share, from [`breadth_shares`].
    pub max_breadth: u16,
}

/// Makes the copy. Header fields that are not ours stay as they are, octet for octet, and so does the
/// body. The request has passed [`super::check_forwardable`].
pub fn prepare_forward(request: &Message, forward: &Forward<'_>) -> Bytes {
    let mut edit = Edit::new(request);
    route(&mut edit, request, forward);
    let hops = request.max_forwards().ok().flatten();
    let hops = hops.map_or(MAX_FORWARDS, |hops| hops.saturating_sub(1));
    set(&mut edit, request, MAX_FORWARDS_FIELD, &hops.to_string());
    let breadth = forward.max_breadth.to_string();
    set(&mut edit, request, MAX_BREADTH_FIELD, &breadth);
    if request.count(HeaderName::ContentLength) == 0 {
        edit.append("Content-Length", &request.body().len().to_string());
    }
    if let Some(value) = forward.record_route {
        edit.prepend("Record-Route", value);
    }
    edit.prepend("Via", forward.via);
    edit.finish()
}

const MAX_FORWARDS_FIELD: (HeaderName, &str) = (HeaderName::MaxForwards, "Max-Forwards");
const MAX_BREADTH_FIELD: (HeaderName, &str) = (HeaderName::MaxBreadth, "Max-Breadth");

fn set(edit: &mut Edit<'_>, request: &Message, field: (HeaderName, &str), value: &str) {
    if request.count(field.0) == 0 {
        edit.append(field.1, value);
    } else {
        edit.replace(field.0, value);
    }
}

/// Where a prepared request goes next (RFC 3261 §16.6 step 7): its first route, or its target.
pub fn next_hop<'a>(request: &'a Message, forward: &'a Forward<'_>) -> &'a str {
    let first = forward.push_routes.first().map(String::as_str);
    let first = first.or_else(|| own_routes(request, forward).next());
    first
        .and_then(|value| Some(NameAddr::parse(value).ok()?.uri))
        .unwrap_or(forward.target)
}

/// RFC 3261 §16.4 and §16.6 steps 2 and 6.
fn route(edit: &mut Edit<'_>, request: &Message, forward: &Forward<'_>) {
    let pushed = forward.push_routes.iter().map(String::as_str);
    let mut routes = pushed.chain(own_routes(request, forward));
    let strict = routes.next().filter(|value| !is_loose_route(value));
    if let Some(first) = strict.and_then(|value| NameAddr::parse(value).ok()) {
        // A strict router takes its own URI from the Request-URI and the target from the last Route.
        let target = format!("<{}>", forward.target);
        let rest: Vec<&str> = routes.chain([target.as_str()]).collect();
        edit.request_uri(&as_request_uri(first.uri));
        edit.remove(HeaderName::Route);
        edit.prepend("Route", &rest.join(", "));
        return;
    }
    edit.request_uri(&as_request_uri(forward.target));
    if forward.pop_route {
        edit.remove_first_value(HeaderName::Route);
    }
    if !forward.push_routes.is_empty() {
        edit.prepend("Route", &forward.push_routes.join(", "));
    }
}

fn own_routes<'a>(
    request: &'a Message,
    forward: &Forward<'_>,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let skip = usize::from(forward.pop_route);
    request.values(HeaderName::Route).skip(skip)
}

/// The second part of our branch (RFC 5393 §4.2.1): equal if and only if the request comes back with
/// everything unchanged that decides where it goes. `own` names this server (its sent-by), so that
/// another server with the same software does not see its own loop in ours. The method stays out.
pub fn loop_hash(request: &Message, own: &str) -> u32 {
    const DECIDING: [HeaderName; 9] = [
        HeaderName::Route,
        HeaderName::AcceptContact,
        HeaderName::RejectContact,
        HeaderName::RequestDisposition,
        HeaderName::ContentType,
        HeaderName::ProxyRequire,
        HeaderName::ProxyAuthorization,
        HeaderName::CallId,
        HeaderName::From,
    ];
    let mut hash = crc32c::crc32c(own.as_bytes());
    let mut feed = |text: &str| {
        hash = crc32c::crc32c_append(hash, &text.len().to_be_bytes());
        hash = crc32c::crc32c_append(hash, text.as_bytes());
    };
    feed(request.request_uri());
    for name in DECIDING {
        request.headers(name).for_each(&mut feed);
        feed("");
    }
    feed(&request.cseq().map_or(0, |cseq| cseq.number).to_string());
    hash
}

/// Divides the breadth that `request` allows among `branches` at once (RFC 5393 §5.3.3); 440 if it
/// does not suffice.
pub fn breadth_shares(request: &Message, branches: usize) -> Result<Vec<u16>, Rejection> {
    let allowed = usize::from(incoming_breadth(request));
    if branches > allowed {
        return Err(Rejection::new(440, "Max-Breadth Exceeded"));
    }
    let share = |index| allowed / branches + usize::from(index < allowed % branches);
    let narrow = |share: usize| u16::try_from(share).unwrap_or(MAX_BREADTH);
    Ok((0..branches).map(share).map(narrow).collect())
}

/// A value that cannot be read allows no fork.
fn incoming_breadth(request: &Message) -> u16 {
    match request.header(HeaderName::MaxBreadth) {
        None => MAX_BREADTH,
        Some(text) => text.trim().parse().unwrap_or(1).clamp(1, MAX_BREADTH),
    }
}
