//! What a conversation waits for at an agent.

use std::time::Duration;

use super::envelope::Envelope;
use super::exchange::IncomingRequest;
use super::failure::Failure;
use super::line::Arrived;
use super::sip_text::SipText;
use super::user_agent::{PATIENCE, UserAgent};

/// How long an agent that expects nothing listens after its round trip to the server.
const QUIET: Duration = Duration::from_millis(500);

impl UserAgent {
    /// The next request of this method.
    pub fn expect_request(&self, method: &str) -> Result<IncomingRequest<'_>, Failure> {
        self.expect_request_within(method, PATIENCE)
    }

    /// The next request of this method, waiting so long for it.
    pub fn expect_request_within(
        &self,
        method: &str,
        patience: Duration,
    ) -> Result<IncomingRequest<'_>, Failure> {
        self.line
            .requests
            .take(patience, |arrived| arrived.request.method() == Some(method))
            .map(|arrived| IncomingRequest::new(self, arrived))
            .ok_or_else(|| self.failure(format!("{} got no {method}", self.line.name)))
    }

    /// An answer of this status that nobody else waits for.
    pub fn expect_answer(&self, status: u16) -> Result<SipText, Failure> {
        let found = self
            .line
            .responses
            .take(PATIENCE, |answer| answer.status() == status);
        found.ok_or_else(|| self.failure(format!("{} got no {status}", self.line.name)))
    }

    /// The next MESSAGE; it was answered as the reaction says.
    pub fn expect_message(&self) -> Result<IncomingRequest<'_>, Failure> {
        self.expect_request("MESSAGE")
    }

    /// The next MESSAGE wraps this text.
    pub fn expect_text(&self, text: &str) -> Result<Envelope, Failure> {
        let envelope = self.expect_message()?.envelope()?;
        self.expect_wrapped(&envelope, text)?;
        Ok(envelope)
    }

    /// This envelope wraps this text.
    pub fn expect_wrapped(&self, envelope: &Envelope, text: &str) -> Result<(), Failure> {
        match envelope.content_text() == text {
            true => Ok(()),
            false => Err(self.failure(format!(
                "{} expected \"{text}\" and got \"{}\"",
                self.line.name,
                envelope.content_text()
            ))),
        }
    }

    /// The next MESSAGE notifies this status of the message called `message_id`.
    pub fn expect_notification(&self, status: &str, message_id: &str) -> Result<Envelope, Failure> {
        let envelope = self.expect_message()?.envelope()?;
        match envelope.notifies(status, message_id) {
            true => Ok(envelope),
            false => Err(self.failure(format!(
                "{} expected \"{status}\" of {message_id} and got \"{}\"",
                self.line.name,
                envelope.content_text()
            ))),
        }
    }

    /// Nothing of this method comes. A round trip to the server is followed by a short wait, since
    /// what comes by another way than the round trip may arrive a little after it.
    pub fn expect_no(&self, method: &str) -> Result<(), Failure> {
        self.asks_options()?;
        let arrived = self
            .line
            .requests
            .take(QUIET, |arrived| arrived.request.method() == Some(method));
        match arrived {
            None => Ok(()),
            Some(Arrived { request, .. }) => Err(self.failure(format!(
                "{} expected no {method} and got {}",
                self.line.name,
                request.start_line()
            ))),
        }
    }
}
