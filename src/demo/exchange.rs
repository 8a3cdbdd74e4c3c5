//! One request and its answers: sent by an agent, or received by it.

use std::time::Duration;

use crate::clock::{self, Instant};

use super::digest_answer::{self, Question};
use super::draft::{self, Draft};
use super::envelope::{Envelope, fresh};
use super::failure::Failure;
use super::line::Arrived;
use super::sip_text::SipText;
use super::user_agent::{PATIENCE, UserAgent};
use super::wire::{Route, Transport};

/// RFC 3261 Table 4.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);

/// A request on its way. Waiting for its answer also repeats it over UDP, as Timers A and E do.
pub struct SentRequest<'a> {
    agent: &'a UserAgent,
    draft: Draft,
    text: SipText,
    provisional: Vec<SipText>,
    answered_challenge: bool,
}

impl<'a> SentRequest<'a> {
    pub(super) fn send(agent: &'a UserAgent, draft: Draft) -> Result<Self, Failure> {
        let mut draft = draft;
        draft.call_id.get_or_insert_with(|| fresh("call-"));
        draft.from.get_or_insert_with(|| {
            let tag = fresh("f");
            format!("<{}>;tag={tag}", agent.uri())
        });
        let text = Self::transmit(agent, &draft)?;
        Ok(Self {
            agent,
            draft,
            text,
            provisional: Vec::new(),
            answered_challenge: false,
        })
    }

    fn transmit(agent: &UserAgent, draft: &Draft) -> Result<SipText, Failure> {
        let transport = match agent.settings.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        let branch = draft.branch.clone().unwrap_or(fresh("z9hG4bK"));
        let via = format!(
            "SIP/2.0/{transport} {};branch={branch};rport",
            agent.address()
        );
        let octets = draft.to_octets(
            &via,
            draft.from.as_deref().unwrap_or(""),
            draft.call_id.as_deref().unwrap_or(""),
            draft.cseq.unwrap_or_else(|| agent.next_cseq()),
        );
        let text = SipText::read(&octets).expect("a draft is a message");
        agent.line.transmit(&octets)?;
        Ok(text)
    }

    /// As it was sent.
    pub fn request(&self) -> &SipText {
        &self.text
    }

    /// Provisional answers seen so far.
    pub fn provisional(&self) -> &[SipText] {
        &self.provisional
    }

    /// Sends the same octets once more, as a lost datagram makes a phone do.
    pub fn repeats(&self) -> Result<(), Failure> {
        self.agent.line.transmit(self.text.octets())
    }

    /// Its final answer is this.
    pub fn expect_status(self, status: u16) -> Result<SipText, Failure> {
        self.expect(&status.to_string(), |answer| answer == status)
    }

    /// Its final answer is a success.
    pub fn expect_2xx(self) -> Result<SipText, Failure> {
        self.expect("2xx", |answer| (200..300).contains(&answer))
    }

    fn expect(mut self, wanted: &str, fits: impl Fn(u16) -> bool) -> Result<SipText, Failure> {
        let answer = self.final_answer(PATIENCE)?;
        match fits(answer.status()) {
            true => Ok(answer),
            false => Err(self.agent.failure(format!(
                "{} expected {wanted} to {} and got {}",
                self.agent.line.name,
                self.text.start_line(),
                answer.start_line()
            ))),
        }
    }

    /// Its final answer, after one challenge was answered if the agent has a password.
    pub fn final_answer(&mut self, patience: Duration) -> Result<SipText, Failure> {
        let answer = self.next_final(patience)?;
        let Some((name, value)) = self.answer_to_challenge(&answer) else {
            return Ok(answer);
        };
        self.answered_challenge = true;
        self.draft.headers.push((name.to_owned(), value));
        self.draft.cseq = None;
        self.draft.branch = None;
        self.text = Self::transmit(self.agent, &self.draft)?;
        self.next_final(patience)
    }

    fn answer_to_challenge(&self, answer: &SipText) -> Option<(&'static str, String)> {
        let password = self.agent.settings.password.as_deref()?;
        if self.answered_challenge {
            return None;
        }
        let question = Question {
            user: &self.agent.settings.user,
            password,
            method: &self.draft.method,
            uri: &self.draft.uri,
        };
        digest_answer::answer(answer, &question)
    }

    fn next_final(&mut self, patience: Duration) -> Result<SipText, Failure> {
        let deadline = clock::now().instant + patience;
        let mut interval = T1;
        loop {
            let left = deadline.since(clock::now().instant);
            match self.next_answer(left.min(interval)) {
                Some(answer) if answer.status() < 200 => self.provisional.push(answer),
                Some(answer) => {
                    self.acknowledge_refusal(&answer)?;
                    return Ok(answer);
                }
                None if left.is_zero() => return Err(self.unanswered()),
                None if self.shall_repeat() => {
                    self.repeats()?;
                    interval = (interval * 2).min(T2);
                }
                None => {}
            }
        }
    }

    /// The next answer of any class within `patience`.
    pub(super) fn next_answer(&self, patience: Duration) -> Option<SipText> {
        let (branch, method) = (self.text.branch(), self.text.cseq_method());
        self.agent.line.responses.take(patience, |answer| {
            answer.branch() == branch && answer.cseq_method() == method
        })
    }

    pub(super) fn keep_provisional(&mut self, answer: SipText) {
        self.provisional.push(answer);
    }

    pub(super) fn unanswered(&self) -> Failure {
        self.agent.failure(format!(
            "{} got no answer to {}",
            self.agent.line.name,
            self.text.start_line()
        ))
    }

    fn shall_repeat(&self) -> bool {
        let quiet_invite = self.draft.method == "INVITE" && !self.provisional.is_empty();
        self.agent.settings.transport == Transport::Udp && !quiet_invite
    }

    /// RFC 3261 §17.1.1.3.
    fn acknowledge_refusal(&self, answer: &SipText) -> Result<(), Failure> {
        if self.draft.method != "INVITE" || answer.status() < 300 {
            return Ok(());
        }
        let ack = draft::hop_by_hop("ACK", &self.text, answer.header_or_empty("To"));
        self.agent.line.remember_ack(answer, &ack);
        self.agent.line.transmit(&ack)
    }
}

/// A request that reached an agent.
pub struct IncomingRequest<'a> {
    pub(super) agent: &'a UserAgent,
    text: SipText,
    pub(super) route: Route,
    arrived_at: Instant,
}

impl<'a> IncomingRequest<'a> {
    pub(super) fn new(agent: &'a UserAgent, arrived: Arrived) -> Self {
        Self {
            agent,
            text: arrived.request,
            route: arrived.route,
            arrived_at: arrived.at,
        }
    }

    /// When it came; an answer that the agent gives by itself has been sent by then.
    pub fn arrived_at(&self) -> Instant {
        self.arrived_at
    }

    /// As it came.
    pub fn text(&self) -> &SipText {
        &self.text
    }

    /// Its body as an envelope.
    pub fn envelope(&self) -> Result<Envelope, Failure> {
        Envelope::read(self.text.body())
            .ok_or_else(|| self.agent.failure("the body is not message/cpim"))
    }

    /// Answers it.
    pub fn answers(&self, status: u16) {
        self.answers_with(status, &[], &[]);
    }

    /// Answers it with these header fields and this body.
    pub fn answers_with(&self, status: u16, headers: &[(&str, String)], body: &[u8]) {
        let line = &self.agent.line;
        let octets = draft::response(&self.text, status, &line.tag, headers, body);
        line.answer(&self.text, &self.route, octets);
    }
}
