//! What an agent does inside a chat's dialog: offers again, holds, moves to another address.

use super::call::Chat;
use super::envelope::Envelope;
use super::failure::Failure;
use super::msrp_agent::MsrpEnd;
use super::sdp_text::{self, Setup};
use super::sip_text::SipText;
use super::user_agent::{SESSION_TAG, UserAgent};

impl Chat<'_> {
    /// Its own description with another direction, as a new version of it (RFC 3264 §8).
    pub fn described(&mut self, direction: &str) -> String {
        let mut lines: Vec<String> = self.own_sdp.lines().map(str::to_owned).collect();
        for line in &mut lines {
            if let Some(origin) = line.strip_prefix("o=") {
                let mut words: Vec<&str> = origin.split(' ').collect();
                let version: u64 = words.get(2).and_then(|it| it.parse().ok()).unwrap_or(1);
                let next = (version + 1).to_string();
                words[2] = &next;
                *line = format!("o={}", words.join(" "));
            }
            if ["a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"].contains(&line.as_str()) {
                *line = format!("a={direction}");
            }
        }
        self.own_sdp = lines.join("\r\n") + "\r\n";
        self.own_sdp.clone()
    }

    /// A re-INVITE with this offer; the answer to it, acknowledged.
    pub fn offers(&self, sdp: &str) -> Result<String, Failure> {
        let draft = self.draft("INVITE").header("Contact", &self.contact());
        let sent = self
            .agent
            .sends(draft.body("application/sdp", sdp.as_bytes()))?;
        let answer = sent.expect_status(200)?;
        self.acknowledges(&answer, "")?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// A re-INVITE without an offer; the other side's offer is answered in the ACK.
    pub fn asks_for_offer(&self, answer: &str) -> Result<String, Failure> {
        let draft = self.draft("INVITE").header("Contact", &self.contact());
        let accepted = self.agent.sends(draft)?.expect_status(200)?;
        self.acknowledges(&accepted, answer)?;
        Ok(String::from_utf8_lossy(accepted.body()).into_owned())
    }

    /// An offer that is refused with this status; the session stays as it was.
    pub fn offers_in_vain(&self, sdp: &str, status: u16) -> Result<SipText, Failure> {
        let draft = self.draft("INVITE").header("Contact", &self.contact());
        let draft = draft.body("application/sdp", sdp.as_bytes());
        self.agent.sends(draft)?.expect_status(status)
    }

    fn acknowledges(&self, answer: &SipText, sdp: &str) -> Result<(), Failure> {
        let mut ack = self.draft("ACK").cseq(answer.cseq_number());
        if !sdp.is_empty() {
            ack = ack.body("application/sdp", sdp.as_bytes());
        }
        self.agent.sends(ack).map(|_| ())
    }

    /// Offers another path of its own and connects from there; the connection before is left.
    pub fn moves(&mut self) -> Result<(), Failure> {
        let line = &self.agent.line;
        let end = MsrpEnd::open_at(self.agent.address().ip(), &line.name, &line.transcript)?;
        let sdp = sdp_text::description(&end, Setup::Active, "sendrecv");
        let answer = self.offers(&sdp)?;
        let path = sdp_text::attribute(&answer, "path").unwrap_or_default();
        self.msrp = end.connects(path)?;
        self.own_sdp = sdp;
        self.sdp = answer;
        Ok(())
    }

    /// An envelope of its user around a text.
    pub fn msrp_envelope(&self, to: &str, text: &str) -> Envelope {
        self.agent.envelope(to, text)
    }

    /// Whose it is.
    pub fn agent(&self) -> &UserAgent {
        self.agent
    }

    /// Its Contact.
    pub fn contact(&self) -> String {
        format!("<{}>;{SESSION_TAG}", self.agent.contact_uri())
    }
}
