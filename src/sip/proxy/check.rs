//! Whether a request may be forwarded at all: RFC 3261 §16.3 with RFC 5393 §4.2.2.

use super::forward::loop_hash;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::branch;
use crate::uri::Scheme;

/// The checks of RFC 3261 §16.3 that need no configuration. `own` is the text that [`loop_hash`] gets
/// when this server forwards. A 483 to OPTIONS may be replaced by an answer of our own (§11); a 420
/// must carry [`unsupported_extensions`].
pub fn check_forwardable(request: &Message, own: &str) -> Result<(), Rejection> {
    let uri = request
        .uri()
        .map_err(|_| Rejection::new(400, "Malformed Request-URI"))?;
    if uri.scheme() == Scheme::Other {
        return Err(Rejection::new(416, "Unsupported URI Scheme"));
    }
    if request.max_forwards()? == Some(0) {
        return Err(Rejection::new(483, "Too Many Hops"));
    }
    if has_looped(request, own) {
        return Err(Rejection::new(482, "Loop Detected"));
    }
    if unsupported_extensions(request).is_some() {
        return Err(Rejection::new(420, "Bad Extension"));
    }
    Ok(())
}

/// The value of the Unsupported header field: this proxy understands no extension that a Proxy-Require
/// could ask for (RFC 3261 §16.3 step 5).
pub fn unsupported_extensions(request: &Message) -> Option<String> {
    let tags: Vec<&str> = request.values(HeaderName::ProxyRequire).collect();
    (!tags.is_empty()).then(|| tags.join(", "))
}

/// The value of the Unsupported header field: what `request` requires of its user agent server and is
/// not among `known` (RFC 3261 §8.2.2.3).
pub fn unsupported_requirements(request: &Message, known: &[&str]) -> Option<String> {
    let is_unknown = |tag: &&str| !known.iter().any(|own| own.eq_ignore_ascii_case(tag));
    let required = request.values(HeaderName::Require);
    let tags: Vec<&str> = required.filter(is_unknown).collect();
    (!tags.is_empty()).then(|| tags.join(", "))
}

/// RFC 5393 §4.2.2. That the Via is ours shows in the hash, which `own` went into.
fn has_looped(request: &Message, own: &str) -> bool {
    let mut carried = request
        .vias()
        .filter_map(|via| branch::loop_hash_of(via.ok()?.branch?))
        .peekable();
    if carried.peek().is_none() {
        return false;
    }
    let hash = loop_hash(request, own);
    carried.any(|each| each == hash)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::wire;
    use crate::token::Tokens;

    const OWN: &str = "192.0.2.2:5060";

    fn request(uri: &str, more: &str) -> Message {
        let text = format!(
            "INVITE {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\n\
             From: <sip:alice@example.com>;tag=1\r\n\
             To: <sip:bob@example.com>\r\n\
             Call-ID: call\r\n\
             CSeq: 1 INVITE\r\n\
             {more}Content-Length: 0\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    fn status(request: &Message) -> Option<u16> {
        check_forwardable(request, OWN)
            .err()
            .map(|rejection| rejection.status)
    }

    #[test]
    fn a_plain_request_may_be_forwarded() {
        assert_eq!(status(&request("sip:bob@example.com", "")), None);
        assert_eq!(
            status(&request("tel:+12015550123", "Max-Forwards: 1\r\n")),
            None
        );
    }

    #[test]
    fn a_scheme_that_nobody_knows_gets_416() {
        assert_eq!(
            status(&request("nobodyKnowsThisScheme:totallyopaquecontent", "")),
            Some(416)
        );
    }

    #[test]
    fn no_hop_left_gets_483() {
        let request = request("sip:bob@example.com", "Max-Forwards: 0\r\n");
        assert_eq!(status(&request), Some(483));
    }

    #[test]
    fn an_extension_asked_of_proxies_gets_420_and_is_listed() {
        let request = request("sip:bob@example.com", "Proxy-Require: foo, bar\r\n");
        assert_eq!(status(&request), Some(420));
        assert_eq!(
            unsupported_extensions(&request).as_deref(),
            Some("foo, bar")
        );
    }

    fn comes_back(first: &Message, changed: &str, more: &str) -> Message {
        let hash = loop_hash(first, OWN);
        let branch = branch::with_loop_hash(0, &mut Tokens::from_seed(1), hash);
        let vias = format!("Via: SIP/2.0/UDP {OWN};branch={branch}\r\n{more}");
        request(changed, &vias)
    }

    #[test]
    fn a_request_that_comes_back_unchanged_has_looped() {
        let first = request("sip:bob@example.com", "");
        let again = comes_back(&first, "sip:bob@example.com", "");
        assert_eq!(status(&again), Some(482));
    }

    #[test]
    fn a_request_that_comes_back_for_another_target_spirals() {
        let first = request("sip:bob@example.com", "");
        let again = comes_back(&first, "sip:carol@example.com", "");
        assert_eq!(status(&again), None);
        let routed = comes_back(&first, "sip:bob@example.com", "Route: <sip:p;lr>\r\n");
        assert_eq!(status(&routed), None);
    }

    #[test]
    fn another_server_with_the_same_software_is_not_our_loop() {
        let first = request("sip:bob@example.com", "");
        let again = comes_back(&first, "sip:bob@example.com", "");
        assert_eq!(check_forwardable(&again, "192.0.2.3:5060"), Ok(()));
    }
}
