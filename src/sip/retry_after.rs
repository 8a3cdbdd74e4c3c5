//! For how long whoever answers wants to be left alone (RFC 3261 §20.33).

use std::time::Duration;

use crate::sip::message::{HeaderName, Message};

/// What a response says of it, if anything that can be read.
pub fn retry_after(response: &Message) -> Option<Duration> {
    let value = response.header(HeaderName::RetryAfter)?;
    let digits = value.split([';', '(', ' ']).next()?;
    digits.parse().ok().map(Duration::from_secs)
}
