//! What a URI must be like to stand in a Request-URI or to be visited on the way.

use std::borrow::Cow;

use crate::sip::header::NameAddr;
use crate::uri::{Scheme, Uri};

/// `uri` without what a Request-URI must not hold: headers and the `method` parameter (RFC 3261
/// §19.1.1, table 1).
pub fn as_request_uri(uri: &str) -> Cow<'_, str> {
    let Ok(parsed) = Uri::parse(uri) else {
        return Cow::Borrowed(uri);
    };
    if !matches!(parsed.scheme(), Scheme::Sip | Scheme::Sips) {
        return Cow::Borrowed(uri);
    }
    let host_at = uri.rfind('@').unwrap_or_default();
    let end = uri[host_at..]
        .find('?')
        .map_or(uri.len(), |at| host_at + at);
    if !parsed.has_parameter("method") {
        return Cow::Borrowed(&uri[..end]);
    }
    let (user, rest) = uri[..end].split_at(host_at);
    let is_method = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default();
        name.eq_ignore_ascii_case("method")
    };
    let kept: Vec<&str> = rest.split(';').filter(|part| !is_method(part)).collect();
    Cow::Owned(format!("{user}{}", kept.join(";")))
}

/// Whether the element that a Route value names routes loosely (RFC 3261 §16.6 step 6).
pub fn is_loose_route(route: &str) -> bool {
    NameAddr::parse(route)
        .is_ok_and(|route| Uri::parse(route.uri).is_ok_and(|uri| uri.has_parameter("lr")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_the_method_parameter_are_left_out() {
        for (written, expected) in [
            ("sip:bob@example.com", "sip:bob@example.com"),
            (
                "sip:bob@h;transport=tcp?Subject=x",
                "sip:bob@h;transport=tcp",
            ),
            ("sip:bob@h;method=BYE;lr", "sip:bob@h;lr"),
            ("sip:b?b;method=x@h;METHOD=BYE", "sip:b?b;method=x@h"),
            (
                "tel:+1-201;phone-context=a?b",
                "tel:+1-201;phone-context=a?b",
            ),
        ] {
            assert_eq!(as_request_uri(written), expected);
        }
    }

    #[test]
    fn lr_makes_a_route_loose() {
        assert!(is_loose_route("<sip:p1.example.com;lr>"));
        assert!(is_loose_route("\"P\" <sip:p1.example.com;lr=on>;x=y"));
        assert!(!is_loose_route("<sip:p1.example.com>"));
        assert!(!is_loose_route("<sip:p1.example.com>;lr"));
    }
}
