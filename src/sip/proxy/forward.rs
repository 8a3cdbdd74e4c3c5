//! What a request looks like when it leaves: RFC 3261 §16.6, RFC 5393 §4.2.1 and §5.

use bytes::Bytes;
use smallvec::SmallVec;

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
    /// How many of the first Route values are ours and have done their duty (RFC 3261 §16.4).
    pub pop_routes: usize,
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

/// The request that a strict router took apart: its Request-URI is one that we put into Record-Route,
/// and its target is the last Route value (RFC 3261 §16.4). `None` if there is no such value.
pub fn undo_strict_routing(request: &Message) -> Option<Bytes> {
    let mut routes: Vec<&str> = request.values(HeaderName::Route).collect();
    let target = NameAddr::parse(routes.pop()?).ok()?.uri;
    let mut edit = Edit::new(request);
    edit.request_uri(&as_request_uri(target));
    if routes.is_empty() {
        edit.remove(HeaderName::Route);
    } else {
        edit.replace(HeaderName::Route, &routes.join(", "));
    }
    Some(edit.finish())
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
    for _ in 0..forward.pop_routes {
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
    request.values(HeaderName::Route).skip(forward.pop_routes)
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
    let mut deciding: SmallVec<[u8; 1024]> = SmallVec::new();
    let mut feed = |octets: &[u8]| {
        deciding.extend_from_slice(&octets.len().to_be_bytes());
        deciding.extend_from_slice(octets);
    };
    feed(own.as_bytes());
    feed(request.request_uri().as_bytes());
    for name in DECIDING {
        request
            .headers(name)
            .for_each(|value| feed(value.as_bytes()));
        feed(&[]);
    }
    feed(&request.cseq().map_or(0, |cseq| cseq.number).to_be_bytes());
    crc32c::crc32c(&deciding)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    const VIA: &str = "SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-0-token";

    fn request(more: &str) -> Message {
        let text = format!(
            "INVITE sip:bob@example.com SIP/2.0\r\n\
             v: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\n\
             From: <sip:alice@example.com>;tag=1\r\n\
             To: <sip:bob@example.com>\r\n\
             Call-ID: call\r\n\
             CSeq: 1 INVITE\r\n\
             X-Odd :  kept \r\n\
             {more}Content-Length: 4\r\n\r\nbody"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    fn plain(target: &str) -> Forward<'_> {
        Forward {
            target,
            via: VIA,
            record_route: None,
            pop_routes: 0,
            push_routes: &[],
            max_breadth: 60,
        }
    }

    fn forwarded(request: &Message, forward: &Forward<'_>) -> Message {
        wire::parse(prepare_forward(request, forward)).unwrap()
    }

    fn routes(message: &Message) -> Vec<&str> {
        message.values(HeaderName::Route).collect()
    }

    #[test]
    fn a_copy_has_our_via_on_top_and_everything_else_as_it_came() {
        let request = request("Max-Forwards: 70\r\n");
        let copy = forwarded(&request, &plain("sip:bob@192.0.2.9;transport=tcp"));
        assert_eq!(copy.request_uri(), "sip:bob@192.0.2.9;transport=tcp");
        let vias: Vec<&str> = copy.values(HeaderName::Via).collect();
        assert_eq!(vias, [VIA, "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1"]);
        assert_eq!(copy.max_forwards(), Ok(Some(69)));
        assert_eq!(copy.header(HeaderName::MaxBreadth), Some("60"));
        assert_eq!(&copy.body()[..], b"body");
        let text = String::from_utf8_lossy(copy.bytes()).into_owned();
        assert!(text.contains("\r\nX-Odd :  kept \r\n"));
    }

    #[test]
    fn a_request_without_max_forwards_gets_70() {
        let copy = forwarded(&request(""), &plain("sip:bob@192.0.2.9"));
        assert_eq!(copy.max_forwards(), Ok(Some(70)));
    }

    #[test]
    fn our_record_route_stands_before_the_others() {
        let request = request("Record-Route: <sip:p1;lr>\r\n");
        let copy = forwarded(
            &request,
            &Forward {
                record_route: Some("<sip:us;lr>"),
                ..plain("sip:bob@192.0.2.9")
            },
        );
        let values: Vec<&str> = copy.values(HeaderName::RecordRoute).collect();
        assert_eq!(values, ["<sip:us;lr>", "<sip:p1;lr>"]);
    }

    #[test]
    fn our_own_route_is_taken_off_and_a_path_goes_in_front() {
        let request = request("Route: <sip:us;lr>, <sip:p2;lr>\r\n");
        let path = ["<sip:edge;lr>".to_owned()];
        let forward = Forward {
            pop_routes: 1,
            push_routes: &path,
            ..plain("sip:bob@192.0.2.9")
        };
        let copy = forwarded(&request, &forward);
        assert_eq!(routes(&copy), ["<sip:edge;lr>", "<sip:p2;lr>"]);
        assert_eq!(next_hop(&request, &forward), "sip:edge;lr");
    }

    #[test]
    fn a_request_for_a_strict_router_has_its_uris_exchanged() {
        let request = request("Route: <sip:us;lr>\r\nRoute: <sip:strict>, <sip:p3;lr>\r\n");
        let forward = Forward {
            pop_routes: 1,
            ..plain("sip:bob@192.0.2.9")
        };
        let copy = forwarded(&request, &forward);
        assert_eq!(copy.request_uri(), "sip:strict");
        assert_eq!(routes(&copy), ["<sip:p3;lr>", "<sip:bob@192.0.2.9>"]);
        assert_eq!(next_hop(&request, &forward), "sip:strict");
    }

    #[test]
    fn what_a_strict_router_did_is_undone() {
        let mangled = request("Route: <sip:p3;lr>\r\nRoute: <sip:bob@192.0.2.9?x=y>\r\n");
        let restored = wire::parse(undo_strict_routing(&mangled).unwrap()).unwrap();
        assert_eq!(restored.request_uri(), "sip:bob@192.0.2.9");
        assert_eq!(routes(&restored), ["<sip:p3;lr>"]);
        let last = request("Route: <sip:bob@192.0.2.9>\r\n");
        let restored = wire::parse(undo_strict_routing(&last).unwrap()).unwrap();
        assert_eq!(routes(&restored), [""; 0]);
        assert_eq!(undo_strict_routing(&request("")), None);
    }

    #[test]
    fn without_routes_the_target_is_the_next_hop() {
        let request = request("Route: <sip:us;lr>\r\n");
        let forward = Forward {
            pop_routes: 1,
            ..plain("sip:bob@192.0.2.9")
        };
        assert_eq!(next_hop(&request, &forward), "sip:bob@192.0.2.9");
        assert_eq!(routes(&forwarded(&request, &forward)), [""; 0]);
    }

    #[test]
    fn the_loop_hash_knows_the_target_and_not_the_method_or_the_via() {
        let first = request("");
        let hash = loop_hash(&first, "us");
        let text = String::from_utf8_lossy(first.bytes()).into_owned();
        let parsed = |text: String| wire::parse(Bytes::from(text)).unwrap();
        let cancel = parsed(text.replace("INVITE", "CANCEL"));
        assert_eq!(loop_hash(&cancel, "us"), hash);
        assert_eq!(loop_hash(&parsed(text.replace("bK1", "bK2")), "us"), hash);
        assert_ne!(
            loop_hash(&parsed(text.replace("sip:bob@", "sip:bo@")), "us"),
            hash
        );
        assert_ne!(loop_hash(&first, "them"), hash);
    }

    #[test]
    fn breadth_is_divided_among_the_branches() {
        assert_eq!(breadth_shares(&request(""), 2), Ok(vec![30, 30]));
        let narrow = request("Max-Breadth: 5\r\n");
        assert_eq!(breadth_shares(&narrow, 3), Ok(vec![2, 2, 1]));
        let wide = request("Max-Breadth: 4000\r\n");
        assert_eq!(breadth_shares(&wide, 1), Ok(vec![60]));
        assert_eq!(breadth_shares(&narrow, 0), Ok(vec![]));
    }

    #[test]
    fn a_breadth_that_does_not_suffice_gets_440() {
        for value in ["1", "0", "much"] {
            let request = request(&format!("Max-Breadth: {value}\r\n"));
            assert_eq!(breadth_shares(&request, 2).unwrap_err().status, 440);
            assert_eq!(breadth_shares(&request, 1), Ok(vec![1]));
        }
    }
}
