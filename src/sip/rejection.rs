//! The peer's fault as a value: what a request is answered with.

use std::time::Duration;

/// A status code and a reason phrase; answered and counted, never logged as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Rejection {
    /// A SIP status code from 400 on.
    pub status: u16,
    /// The reason phrase.
    pub reason: &'static str,
    /// The warn-code and warn-text of a Warning header field (RFC 3261 §20.43), for clients that look there
    /// (cpm-facts §11).
    pub warning: Option<(u16, &'static str)>,
    /// After how many seconds it may be tried again, where that is known (RFC 3261 §20.33).
    pub retry_after: Option<u64>,
}

impl Rejection {
    /// Without a warning.
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            warning: None,
            retry_after: None,
        }
    }

    /// The same with a `Warning: 399` of this text, such as `127 Service not authorised`.
    pub const fn with_warning(self, text: &'static str) -> Self {
        self.with_warn_code(399, text)
    }

    /// The same with a Warning of this code.
    pub const fn with_warn_code(self, code: u16, text: &'static str) -> Self {
        Self {
            warning: Some((code, text)),
            ..self
        }
    }

    /// The same with the time after which to try again, in full seconds.
    pub const fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + (wait.subsec_nanos() > 0) as u64;
        Self {
            retry_after: Some(if seconds > 0 { seconds } else { 1 }),
            ..self
        }
    }
}
