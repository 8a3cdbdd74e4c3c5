//! Which of several final responses goes upstream, and what it carries: RFC 3261 §16.7 steps 6 and 7.

use bytes::Bytes;

use crate::sip::message::{HeaderName, Message};
use crate::sip::splice::Edit;

/// A final response that may become the best.
#[derive(Debug)]
pub(super) enum Candidate {
    /// It came from a branch.
    Received(Box<Message>),
    /// What a branch that failed here counts as.
    Own(u16, &'static str),
}

impl Candidate {
    fn status(&self) -> u16 {
        match self {
            Self::Received(response) => response.status(),
            Self::Own(status, _) => *status,
        }
    }
}

/// The first of the best rank, so that the order of arrival decides between equals.
pub(super) fn best(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().min_by_key(|each| rank(each.status()))
}

/// Any 6xx, else the lowest class; within 4xx first what helps the sender to try again, within 5xx
/// anything before 503.
fn rank(status: u16) -> (u16, u8) {
    match status {
        600.. => (0, 0),
        401 | 407 | 415 | 420 | 484 => (4, 0),
        503 => (5, 2),
        _ => (status / 100, 1),
    }
}

/// The response as it goes upstream: our Via is off, and a challenge carries the challenges of all
/// other branches too.
pub(super) fn as_relayed(response: &Message, candidates: &[Candidate]) -> Bytes {
    let mut edit = Edit::new(response);
    edit.remove_first_value(HeaderName::Via);
    // RFC 3325 §5: what a device asserts of itself is not ours to pass on.
    edit.remove(HeaderName::PAssertedIdentity);
    if !is_challenge(response) {
        return edit.finish();
    }
    for candidate in candidates {
        let Candidate::Received(other) = candidate else {
            continue;
        };
        if std::ptr::eq(&**other, response) || !is_challenge(other) {
            continue;
        }
        for value in other.headers(HeaderName::WwwAuthenticate) {
            edit.append("WWW-Authenticate", value);
        }
        for value in other.headers(HeaderName::ProxyAuthenticate) {
            edit.append("Proxy-Authenticate", value);
        }
    }
    edit.finish()
}

fn is_challenge(response: &Message) -> bool {
    matches!(response.status(), 401 | 407)
}
