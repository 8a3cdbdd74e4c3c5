//! Sending over MSRP: whole or in chunks, in or out of order, with the reports asked for.

use std::ops::Range;
use std::time::Duration;

use super::envelope::{Envelope, fresh};
use super::failure::Failure;
use super::msrp_agent::MsrpSession;
use super::user_agent::PATIENCE;

/// A message being written.
pub struct Sending<'a> {
    session: &'a MsrpSession,
    content_type: String,
    body: Vec<u8>,
    chunk: usize,
    backwards: bool,
    success_report: bool,
    failure_report: Option<String>,
    says_total: bool,
}

/// A message on its way.
pub struct SentMessage<'a> {
    session: &'a MsrpSession,
    message_id: String,
    transactions: Vec<String>,
}

impl MsrpSession {
    /// A message of any type, to be sent with [`Sending::send`].
    pub fn sending(&self, content_type: &str, body: &[u8]) -> Sending<'_> {
        Sending {
            session: self,
            content_type: content_type.to_owned(),
            body: body.to_vec(),
            chunk: usize::MAX,
            backwards: false,
            success_report: false,
            failure_report: None,
            says_total: true,
        }
    }

    /// Sends an envelope in one piece.
    pub fn sends(&self, envelope: &Envelope) -> Result<SentMessage<'_>, Failure> {
        self.sending("message/cpim", &envelope.to_octets()).send()
    }
}

impl<'a> Sending<'a> {
    /// In chunks of so many octets.
    pub fn in_chunks(mut self, octets: usize) -> Self {
        self.chunk = octets.max(1);
        self
    }

    /// Last chunk first.
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }

    /// Without a word of how long it will be (RFC 4975 §7.1.1).
    pub fn without_total(mut self) -> Self {
        self.says_total = false;
        self
    }

    /// Asks for a success REPORT.
    pub fn success_report(mut self) -> Self {
        self.success_report = true;
        self
    }

    /// `yes`, `no` or `partial`.
    pub fn failure_report(mut self, wish: &str) -> Self {
        self.failure_report = Some(wish.to_owned());
        self
    }

    /// Sends every chunk.
    pub fn send(self) -> Result<SentMessage<'a>, Failure> {
        let message_id = fresh("m");
        let mut ranges = self.ranges();
        if self.backwards {
            ranges.reverse();
        }
        let mut transactions = Vec::new();
        for range in ranges {
            let transaction = fresh("x");
            let octets = self.frame(&message_id, &transaction, range);
            self.session.sends_octets(&octets)?;
            transactions.push(transaction);
        }
        Ok(SentMessage {
            session: self.session,
            message_id,
            transactions,
        })
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        let length = self.body.len();
        let chunk = self.chunk.min(length.max(1));
        let starts = (0..length.max(1)).step_by(chunk);
        starts
            .map(|start| start..(start + chunk).min(length))
            .collect()
    }

    fn frame(&self, message_id: &str, transaction: &str, range: Range<usize>) -> Vec<u8> {
        let total = self.body.len();
        let flag = if range.end == total { '$' } else { '+' };
        let said = match self.says_total {
            true => total.to_string(),
            false => "*".to_owned(),
        };
        let mut head = format!(
            "MSRP {transaction} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: {message_id}\r\n",
            self.session.peer_path(),
            self.session.path(),
        );
        if self.success_report {
            head.push_str("Success-Report: yes\r\n");
        }
        if let Some(wish) = &self.failure_report {
            head.push_str(&format!("Failure-Report: {wish}\r\n"));
        }
        head.push_str(&format!(
            "Byte-Range: {}-{}/{said}\r\nContent-Type: {}\r\n\r\n",
            range.start + 1,
            range.end,
            self.content_type
        ));
        let end = format!("\r\n-------{transaction}{flag}\r\n");
        [head.as_bytes(), &self.body[range], end.as_bytes()].concat()
    }
}

impl SentMessage<'_> {
    /// The Message-ID of the MSRP headers.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// The transactions of its chunks, in the order they were sent.
    pub fn transactions(&self) -> &[String] {
        &self.transactions
    }

    /// Every chunk is answered so.
    pub fn expect_status(&self, status: u16) -> Result<(), Failure> {
        for transaction in &self.transactions {
            self.session.expect_response(transaction, status)?;
        }
        Ok(())
    }

    /// No chunk is answered within `patience`.
    pub fn expect_no_answer(&self, patience: Duration) -> Result<(), Failure> {
        let answer = self.session.state.responses.take(patience, |response| {
            self.transactions
                .iter()
                .any(|own| own == response.transaction())
        });
        match answer {
            None => Ok(()),
            Some(answer) => Err(self
                .session
                .failure(&format!("expected no answer and got {}", answer.status()))),
        }
    }

    /// The whole message is reported with this status.
    pub fn expect_report(&self, status: u16) -> Result<(), Failure> {
        let report = self
            .session
            .state
            .reports
            .take(PATIENCE, |report| {
                report.header("Message-ID") == self.message_id
            })
            .ok_or_else(|| self.session.failure("got no REPORT"))?;
        let wanted = format!("000 {status}");
        match report.header("Status").starts_with(&wanted) {
            true => Ok(()),
            false => Err(self.session.failure(&format!(
                "expected a REPORT of {status} and got {}",
                report.header("Status")
            ))),
        }
    }
}
