//! A request of an author as it goes to one of the recipient's devices (RFC 3261 §16.6).

use bytes::Bytes;

use crate::identity::Identity;
use crate::participating::contacts::Target;
use crate::participating::relay::Passage;
use crate::sip::message::HeaderName;
use crate::sip::message::Message;
use crate::sip::proxy::{Forward, prepare_forward};
use crate::sip::splice::Edit;

/// Where Max-Forwards starts when a request has none (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u8 = 70;

/// Splices our Via, the device's address and the author's asserted identity into the request; all
/// else stays octet by octet. What the author says of his own identity or service is only a hint to
/// us (RFC 3325 §5, RFC 6050 §4.3) and goes no further.
pub fn to_device(
    request: &Message,
    author: &Identity,
    target: &Target,
    via: &str,
    record_route: Option<&str>,
) -> Bytes {
    let mut edit = Edit::new(request);
    edit.request_uri(&target.uri);
    edit.prepend("Via", via);
    if let Some(record_route) = record_route {
        edit.prepend("Record-Route", record_route);
    }
    let hops = request
        .max_forwards()
        .ok()
        .flatten()
        .unwrap_or(MAX_FORWARDS);
    edit.remove(HeaderName::MaxForwards);
    edit.prepend("Max-Forwards", &hops.saturating_sub(1).to_string());
    edit.remove(HeaderName::Route);
    for path in target.path.iter().rev() {
        edit.prepend("Route", path);
    }
    assert_identity(&mut edit, request, author);
    edit.finish()
}

/// What is special to one copy of a request that passes by.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Where it goes.
    pub target: &'a Target,
    /// Our Via.
    pub via: &'a str,
    /// Our Record-Route, if we stay on the path.
    pub record_route: Option<&'a str>,
    /// Its share of the breadth.
    pub max_breadth: u16,
}

/// A request that passes by (RFC 3261 §16.6); inside a dialog nothing is asserted.
pub fn through(request: &Message, passage: &Passage<'_>, copy: &Copy<'_>) -> Bytes {
    let forward = Forward {
        target: &copy.target.uri,
        via: copy.via,
        record_route: copy.record_route,
        pop_routes: passage.popped,
        push_routes: &copy.target.path,
        max_breadth: copy.max_breadth,
    };
    let octets = prepare_forward(request, &forward);
    let Ok(copy) = crate::sip::wire::parse(octets.clone()) else {
        return octets;
    };
    let mut edit = Edit::new(&copy);
    match passage.author {
        Some(author) => assert_identity(&mut edit, request, author),
        None => drop_claims(&mut edit),
    }
    edit.finish()
}

/// Removes what only we may assert, and what only we had to read (RFC 3325 §5, RFC 6050 §4.3).
fn drop_claims(edit: &mut Edit<'_>) {
    edit.remove(HeaderName::PAssertedIdentity);
    edit.remove(HeaderName::PPreferredIdentity);
    edit.remove(HeaderName::PAssertedService);
    edit.remove(HeaderName::PPreferredService);
    edit.remove(HeaderName::ProxyAuthorization);
}

/// Replaces what the author claims by what we know.
fn assert_identity(edit: &mut Edit<'_>, request: &Message, author: &Identity) {
    drop_claims(edit);
    if !wants_privacy(request) {
        edit.append(
            "P-Asserted-Identity",
            &["<sip:", author.as_str(), ">"].concat(),
        );
    }
    if let Some(service) = request.header(HeaderName::PPreferredService) {
        edit.append("P-Asserted-Service", service);
    }
}

/// Whether the author asked to stay unnamed (RFC 3323 §4.2, RFC 3325 §9.3).
pub fn wants_privacy(request: &Message) -> bool {
    request
        .header(HeaderName::Privacy)
        .is_some_and(has_privacy_id)
}

/// Whether the author hides who he is: by Privacy, or by what he calls himself (RFC 3323 §4.1.1.3).
pub fn is_hidden(request: &Message) -> bool {
    wants_privacy(request)
        || request
            .from_uri()
            .is_some_and(|uri| uri.host().eq_ignore_ascii_case("anonymous.invalid"))
}

/// Whether a Privacy value holds `id` or asks for full anonymity.
pub fn has_privacy_id(value: &str) -> bool {
    value
        .split([';', ','])
        .any(|token| matches!(token.trim(), "id" | "user" | "header"))
}
