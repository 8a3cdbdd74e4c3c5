//! Whether a request may be forwarded at all: RFC 3261 §16.3 with RFC 5393 §4.2.2.

use super::forward::loop_hash;
use crate::sip::header::Via;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::branch;
use crate::uri::{Scheme, Uri};

/// The checks of RFC 3261 §16.3 that need no configuration. `own` is the text that [`loop_hash`] gets
/// when this server forwards. A 483 to OPTIONS may be replaced by an answer of our own (§11); a 420
/// must carry [`unsupported_extensions`].
pub fn check_forwardable(request: &Message, own: &str) -> Result<(), Rejection> {
    let uri = Uri::parse(request.request_uri())
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

/// RFC 5393 §4.2.2. That the Via is ours shows in the hash, which `own` went into.
fn has_looped(request: &Message, own: &str) -> bool {
    let mut carried = request
        .values(HeaderName::Via)
        .filter_map(|value| branch::loop_hash_of(Via::parse(value).ok()?.branch?))
        .peekable();
    if carried.peek().is_none() {
        return false;
    }
    let hash = loop_hash(request, own);
    carried.any(|each| each == hash)
}
