//! The peer's fault as a value: what a request is answered with.

/// A status code and a reason phrase; answered and counted, never logged as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Rejection {
    /// A SIP status code from 400 on.
    pub status: u16,
    /// The reason phrase.
    pub reason: &'static str,
    /// The text of a `Warning: 399` header field, for clients that look there (cpm-facts §11).
    pub warning: Option<&'static str>,
}

impl Rejection {
    /// Without a warning.
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            warning: None,
        }
    }

    /// The same with a warning text, such as `127 Service not authorised`.
    pub const fn with_warning(self, warning: &'static str) -> Self {
        Self {
            warning: Some(warning),
            ..self
        }
    }
}
