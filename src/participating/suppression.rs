//! Errors that the operator does not want told, and failures that come too fast to be told at once.
//!
//! The order is: the recipient's rules, then the error, then the switch. So what a recipient refuses as if
//! nobody were there looks like nobody being there, with the switch as without it.

use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::participating::service::Service;
use crate::sip::message::{Message, Method};
use crate::sip::rejection::Rejection;

/// How often the log tells that errors are being suppressed.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How many errors were suppressed, and when the log tells again.
#[derive(Debug, Default)]
pub(super) struct Suppressed {
    number: u64,
    told_again_at: Instant,
}

impl Suppressed {
    /// One more; how many there were, when it is time to tell.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.number += 1;
        (self.told_again_at <= now).then(|| {
            self.told_again_at = now + TOLD_EVERY;
            std::mem::take(&mut self.number)
        })
    }
}

/// Whether this answer speaks of a failure of ours to take a MESSAGE, or of nobody being there; what a
/// sender may not do, and what he has to wait for, is no such failure.
fn is_failure(request: &Message, rejection: &Rejection) -> bool {
    request.method() == Method::Message
        && matches!(rejection.status, 480 | 500 | 503)
        && rejection.retry_after.is_none()
}

impl Service {
    /// What a request is answered with instead of this error: 202 if the operator wants no errors told.
    /// What could not be kept is lost, and counted.
    pub(super) fn suppressed(
        &mut self,
        request: &Message,
        rejection: &Rejection,
        now: Now,
    ) -> Option<Rejection> {
        if !self.traffic.suppress_errors || !is_failure(request, rejection) {
            return None;
        }
        self.metrics.errors_suppressed.count();
        self.tell_suppressed(now);
        Some(Rejection::new(202, "Accepted"))
    }

    /// Whether nobody is told that a message failed.
    pub(super) fn suppresses_failure(&mut self, now: Now) -> bool {
        let suppresses = self.traffic.suppress_errors;
        if suppresses {
            self.metrics.failures_suppressed.count();
            self.tell_suppressed(now);
        }
        suppresses
    }

    /// Whether an author can be told at once that his message failed; if not, a second later perhaps.
    pub(super) fn may_tell_failure(&mut self, now: Now) -> bool {
        let most = self.traffic.failures_per_second;
        let may = self.meters.take_failure(most, now.instant);
        if !may {
            self.metrics.failures_delayed.count();
        }
        may
    }

    fn tell_suppressed(&mut self, now: Now) {
        if let Some(number) = self.suppressed.add(now.instant) {
            tracing::warn!(
                number,
                "errors are not told to senders: traffic.suppress_errors is on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    fn request(method: &str) -> Message {
        let text = format!(
            "{method} sip:b@d SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
             From: <sip:a@d>;tag=1\r\nTo: <sip:b@d>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        wire::parse(text.into()).unwrap()
    }

    #[test]
    fn only_what_a_message_fails_by_is_a_failure() {
        let message = request("MESSAGE");
        for status in [480, 500, 503] {
            assert!(is_failure(&message, &Rejection::new(status, "x")));
            assert!(!is_failure(
                &request("INVITE"),
                &Rejection::new(status, "x")
            ));
        }
        for status in [400, 403, 404, 413, 415, 433] {
            assert!(!is_failure(&message, &Rejection::new(status, "x")));
        }
        let later = Rejection::new(503, "x").with_retry_after(Duration::from_secs(1));
        assert!(!is_failure(&message, &later));
    }

    #[test]
    fn the_log_tells_once_a_while() {
        let mut suppressed = Suppressed::default();
        let now = Instant::from_micros(1);
        assert_eq!(suppressed.add(now), Some(1));
        assert_eq!(suppressed.add(now), None);
        assert_eq!(suppressed.add(now + TOLD_EVERY), Some(2));
    }
}
