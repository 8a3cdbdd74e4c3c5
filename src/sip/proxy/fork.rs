//! One request to several targets, one best answer: the response context of RFC 3261 §16.7.
//!
//! The context names its branches by their client transactions and never sends: it says what to relay
//! upstream, what to answer ourselves and which branches to cancel. Its user creates it with the first
//! branch, feeds it everything the table says about its branches, and drops it once it
//! [`ForkContext::is_over`].

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::sip::message::{HeaderName, Message};
use crate::sip::splice::Edit;
use crate::sip::transaction::table::{ClientId, Kind};

/// Timer C: how long a proxied INVITE may ring without a word. "Larger than 3 minutes" (RFC 3261
/// §16.6 step 11).
pub const TIMER_C: Duration = Duration::from_secs(185);

/// What the context wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForkAction {
    /// Relay a response upstream; our Via is already off.
    Relay {
        /// Its status.
        status: u16,
        /// The response.
        octets: Bytes,
    },
    /// Answer upstream with a response of our own.
    Respond {
        /// Its status.
        status: u16,
        /// Its reason phrase.
        reason: &'static str,
    },
    /// Cancel a branch; the table waits for its provisional response.
    Cancel(ClientId),
}

/// Whether a final response went upstream, and whether more branches make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No final response yet, branches may be added.
    Open,
    /// No final response yet, and no more branches: the user has added all.
    Sealed,
    /// No final response yet, and no more branches: a 6xx came.
    Refused,
    /// No final response yet, and no more branches: upstream sent CANCEL.
    Cancelled,
    /// A final response went upstream, or none ever will (RFC 4320 §4.2).
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BranchState {
    /// No response yet.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// We do not want its answer any more.
    Cancelling,
    /// It had a final response or failed.
    Over,
}

#[derive(Debug)]
struct Branch {
    id: ClientId,
    state: BranchState,
    timer_c: Option<Instant>,
}

/// A final response that may become the best.
#[derive(Debug)]
enum Candidate {
    Received(Message),
    Own(u16, &'static str),
}

/// See the module.
#[derive(Debug)]
pub struct ForkContext {
    kind: Kind,
    phase: Phase,
    branches: Vec<Branch>,
    candidates: Vec<Candidate>,
    actions: VecDeque<ForkAction>,
}

impl ForkContext {
    /// The context of a request of this kind, without branches yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            phase: Phase::Open,
            branches: Vec::new(),
            candidates: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// Adds a branch that was just sent. After a 6xx, a CANCEL or a final response it is cancelled
    /// again (RFC 3261 §16.7 step 5); [`Self::may_fork`] tells before.
    pub fn add_branch(&mut self, id: ClientId, now: Now) {
        let timer_c = (self.kind == Kind::Invite).then(|| now.instant + TIMER_C);
        self.branches.push(Branch {
            id,
            state: BranchState::Calling,
            timer_c,
        });
        if !self.may_fork() {
            self.cancel_pending();
        }
    }

    /// Notes a target that could not be tried: it counts as a branch that answered `status`.
    pub fn add_failed_target(&mut self, status: u16, reason: &'static str) {
        self.candidates.push(Candidate::Own(status, reason));
    }

    /// Says that no more branches come; the best answer is chosen once all are over.
    pub fn seal(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Sealed;
        }
        self.answer_if_all_over();
    }

    /// Whether another branch is of any use.
    pub fn may_fork(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether nothing can come of this context any more.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Answered && self.all_over() && self.actions.is_empty()
    }

    /// Takes what the table delivered for a branch (RFC 3261 §16.7 steps 2 to 5).
    pub fn handle_response(&mut self, id: ClientId, response: &Message, now: Now) {
        let Some(index) = self.branches.iter().position(|branch| branch.id == id) else {
            return;
        };
        // Step 3: without a second Via the response was meant for us, not for anyone upstream.
        if response.values(HeaderName::Via).nth(1).is_none() {
            self.end_branch(index);
            return;
        }
        match response.status() {
            ..200 => self.handle_provisional(index, response, now),
            200..300 => self.handle_success(index, response),
            300.. => self.handle_failure(index, response),
        }
    }

    /// Takes the timeout of a branch: as if it had answered 408, which is no candidate (§16.6 step 7).
    pub fn handle_timed_out(&mut self, id: ClientId) {
        self.handle_end(id, None);
    }

    /// Takes the loss of a branch's flow: as if it had answered 503 (RFC 3261 §16.9).
    pub fn handle_unreachable(&mut self, id: ClientId) {
        self.handle_end(id, Some(Candidate::Own(503, "Service Unavailable")));
    }

    /// Takes a CANCEL from upstream (RFC 3261 §16.10). It is answered 200 by the user.
    pub fn handle_cancel(&mut self) {
        if self.phase != Phase::Answered {
            self.phase = Phase::Cancelled;
            self.cancel_pending();
            self.answer_if_all_over();
        }
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<ForkAction> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn next_deadline(&self) -> Option<Instant> {
        self.branches.iter().filter_map(|each| each.timer_c).min()
    }

    /// Fires Timer C (RFC 3261 §16.8).
    pub fn handle_timeout(&mut self, now: Now) {
        for index in 0..self.branches.len() {
            let branch = &mut self.branches[index];
            if branch.timer_c.is_none_or(|at| at > now.instant) {
                continue;
            }
            branch.timer_c = None;
            let rings = branch.state == BranchState::Proceeding;
            self.actions.push_back(ForkAction::Cancel(branch.id));
            branch.state = BranchState::Cancelling;
            if !rings {
                self.end_branch(index);
            }
        }
    }

    fn handle_provisional(&mut self, index: usize, response: &Message, now: Now) {
        let branch = &mut self.branches[index];
        if branch.state == BranchState::Calling {
            branch.state = BranchState::Proceeding;
        }
        if response.status() == 100 {
            return;
        }
        if branch.timer_c.is_some() {
            branch.timer_c = Some(now.instant + TIMER_C);
        }
        // RFC 4320 §4.1: no provisional response but 100 to a non-INVITE request.
        if self.kind == Kind::Invite && self.phase != Phase::Answered {
            self.relay(response);
        }
    }

    fn handle_success(&mut self, index: usize, response: &Message) {
        // Every 2xx to an INVITE goes upstream, also a late or repeated one.
        if self.kind == Kind::Invite || self.phase != Phase::Answered {
            self.relay(response);
            self.phase = Phase::Answered;
            self.candidates.clear();
        }
        self.finish(index);
        self.cancel_pending();
    }

    fn handle_failure(&mut self, index: usize, response: &Message) {
        if self.branches[index].state == BranchState::Over {
            return;
        }
        self.finish(index);
        if self.phase == Phase::Answered {
            return;
        }
        self.candidates.push(Candidate::Received(response.clone()));
        if response.status() >= 600 {
            self.phase = Phase::Refused;
            self.cancel_pending();
        }
        self.answer_if_all_over();
    }

    fn handle_end(&mut self, id: ClientId, candidate: Option<Candidate>) {
        let Some(index) = self.branches.iter().position(|branch| branch.id == id) else {
            return;
        };
        if self.phase != Phase::Answered {
            self.candidates.extend(candidate);
        }
        self.end_branch(index);
    }

    fn end_branch(&mut self, index: usize) {
        self.finish(index);
        self.answer_if_all_over();
    }

    fn finish(&mut self, index: usize) {
        let branch = &mut self.branches[index];
        branch.state = BranchState::Over;
        branch.timer_c = None;
    }

    /// RFC 3261 §16.7 step 10. A branch without a provisional response is cancelled when it has one.
    fn cancel_pending(&mut self) {
        if self.kind == Kind::NonInvite {
            return;
        }
        for branch in &mut self.branches {
            if matches!(branch.state, BranchState::Calling | BranchState::Proceeding) {
                branch.state = BranchState::Cancelling;
                self.actions.push_back(ForkAction::Cancel(branch.id));
            }
        }
    }

    fn all_over(&self) -> bool {
        let mut states = self.branches.iter().map(|branch| branch.state);
        states.all(|state| state == BranchState::Over)
    }

    /// RFC 3261 §16.7 step 6.
    fn answer_if_all_over(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Answered) || !self.all_over() {
            return;
        }
        let cancelled = self.phase == Phase::Cancelled;
        self.phase = Phase::Answered;
        let candidates = std::mem::take(&mut self.candidates);
        match best(&candidates) {
            Some(Candidate::Received(response)) if response.status() != 503 => {
                self.relay_best(response, &candidates);
            }
            // A 503 would say that we cannot serve anything at all.
            Some(Candidate::Received(_) | Candidate::Own(503, _)) => {
                self.respond(500, "Server Internal Error");
            }
            Some(Candidate::Own(status, reason)) => self.respond(*status, reason),
            None if cancelled => self.respond(487, "Request Terminated"),
            None if self.kind == Kind::Invite => self.respond(408, "Request Timeout"),
            // RFC 4320 §4.2: a 408 to a non-INVITE request always comes too late.
            None => {}
        }
    }

    fn respond(&mut self, status: u16, reason: &'static str) {
        let action = ForkAction::Respond { status, reason };
        self.actions.push_back(action);
    }

    fn relay(&mut self, response: &Message) {
        let mut edit = Edit::new(response);
        edit.remove_first_value(HeaderName::Via);
        self.push_relay(response.status(), edit.finish());
    }

    /// RFC 3261 §16.7 step 7: a challenge carries the challenges of all other branches too.
    fn relay_best(&mut self, response: &Message, candidates: &[Candidate]) {
        let mut edit = Edit::new(response);
        edit.remove_first_value(HeaderName::Via);
        if is_challenge(response) {
            let others = candidates.iter().filter_map(|candidate| match candidate {
                Candidate::Received(other) if !std::ptr::eq(other, response) => Some(other),
                _ => None,
            });
            for other in others.filter(|other| is_challenge(other)) {
                for value in other.headers(HeaderName::WwwAuthenticate) {
                    edit.append("WWW-Authenticate", value);
                }
                for value in other.headers(HeaderName::ProxyAuthenticate) {
                    edit.append("Proxy-Authenticate", value);
                }
            }
        }
        self.push_relay(response.status(), edit.finish());
    }

    fn push_relay(&mut self, status: u16, octets: Bytes) {
        self.actions.push_back(ForkAction::Relay { status, octets });
    }
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
fn best(candidates: &[Candidate]) -> Option<&Candidate> {
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

fn is_challenge(response: &Message) -> bool {
    matches!(response.status(), 401 | 407)
}
