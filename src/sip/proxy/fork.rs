//! One request to several targets, one best answer: the response context of RFC 3261 §16.7.
//!
//! The context names its branches by their client transactions and never sends: it says what to relay
//! upstream, what to answer ourselves and which branches to cancel. Its user creates it with the first
//! branch, feeds it everything the table says about its branches, and drops it once it
//! [`ForkContext::is_over`].

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::best::{Candidate, as_relayed, best};
use crate::clock::{Instant, Now};
use crate::sip::message::{HeaderName, Message};
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
            if response.status() >= 200 {
                self.end_branch(index);
            }
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
        let candidate = Candidate::Received(Box::new(response.clone()));
        self.candidates.push(candidate);
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
                // From here on the table ends the branch (RFC 3261 §9.1).
                branch.timer_c = None;
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
                self.push_relay(response.status(), as_relayed(response, &candidates));
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
        self.push_relay(response.status(), as_relayed(response, &[]));
    }

    fn push_relay(&mut self, status: u16, octets: Bytes) {
        self.actions.push_back(ForkAction::Relay { status, octets });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::table::TransactionTable;
    use crate::sip::transaction::timer::TimerConfig;
    use crate::sip::transport::flow::{Flow, Transport};
    use crate::sip::wire;

    /// A context with sealed branches, named 0, 1, ….
    struct Fork {
        context: ForkContext,
        ids: Vec<ClientId>,
        now: Now,
    }

    fn client_ids(count: usize) -> Vec<ClientId> {
        let mut table = TransactionTable::new(TimerConfig::default(), count, 0);
        let flow = Flow {
            transport: Transport::Udp,
            listener: 0,
            remote: "192.0.2.1:5060".parse().unwrap(),
            connection: None,
        };
        let name = |index: usize| format!("z9hG4bK-0-{index}");
        (0..count)
            .map(|index| {
                table.request(
                    Kind::Invite,
                    &name(index),
                    Bytes::new(),
                    flow,
                    Now::default(),
                )
            })
            .map(Result::unwrap)
            .collect()
    }

    impl Fork {
        fn of(kind: Kind, branches: usize) -> Self {
            let mut fork = Self {
                context: ForkContext::new(kind),
                ids: client_ids(branches),
                now: Now::default(),
            };
            for id in &fork.ids {
                fork.context.add_branch(*id, fork.now);
            }
            fork.context.seal();
            fork
        }

        fn hears(&mut self, branch: usize, status: u16) {
            self.hears_with(branch, status, "");
        }

        fn hears_with(&mut self, branch: usize, status: u16, more: &str) {
            let response = response(status, more);
            let id = self.ids[branch];
            self.context.handle_response(id, &response, self.now);
        }

        /// What it wants done, in short: `relay 180`, `respond 408`, `cancel 1`.
        fn wants(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.context.poll_action())
                .map(|action| match action {
                    ForkAction::Relay { status, .. } => format!("relay {status}"),
                    ForkAction::Respond { status, .. } => format!("respond {status}"),
                    ForkAction::Cancel(id) => {
                        let branch = self.ids.iter().position(|each| *each == id);
                        format!("cancel {}", branch.unwrap())
                    }
                })
                .collect()
        }
    }

    fn response(status: u16, more: &str) -> Message {
        let text = format!(
            "SIP/2.0 {status} Reason\r\n\
             Via: SIP/2.0/UDP us;branch=z9hG4bK-0-token, SIP/2.0/UDP them;branch=z9hG4bK1\r\n\
             From: <sip:alice@example.com>;tag=1\r\n\
             To: <sip:bob@example.com>;tag=2\r\n\
             Call-ID: call\r\n\
             CSeq: 1 INVITE\r\n\
             {more}Content-Length: 0\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn a_100_stays_here_and_a_180_goes_upstream() {
        let mut fork = Fork::of(Kind::Invite, 1);
        fork.hears(0, 100);
        assert_eq!(fork.wants(), NOTHING);
        fork.hears(0, 180);
        assert_eq!(fork.wants(), ["relay 180"]);
    }

    #[test]
    fn a_relayed_response_has_lost_our_via_only() {
        let mut fork = Fork::of(Kind::Invite, 1);
        fork.hears(0, 180);
        let Some(ForkAction::Relay { octets, .. }) = fork.context.poll_action() else {
            panic!("relayed");
        };
        let relayed = wire::parse(octets).unwrap();
        let vias: Vec<&str> = relayed.values(HeaderName::Via).collect();
        assert_eq!(vias, ["SIP/2.0/UDP them;branch=z9hG4bK1"]);
    }

    #[test]
    fn a_response_meant_for_us_is_not_relayed() {
        let mut fork = Fork::of(Kind::Invite, 1);
        let text = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP us;branch=z9hG4bK-0-token\r\n\r\n";
        let response = wire::parse(Bytes::from_static(text.as_bytes())).unwrap();
        let id = fork.ids[0];
        fork.context.handle_response(id, &response, fork.now);
        assert_eq!(fork.wants(), ["respond 408"]);
    }

    #[test]
    fn a_2xx_goes_upstream_at_once_and_cancels_the_others() {
        let mut fork = Fork::of(Kind::Invite, 3);
        fork.hears(1, 486);
        fork.hears(2, 200);
        assert_eq!(fork.wants(), ["relay 200", "cancel 0"]);
        assert!(!fork.context.is_over());
        fork.hears(0, 487);
        assert_eq!(fork.wants(), NOTHING);
        assert!(fork.context.is_over());
    }

    #[test]
    fn every_2xx_to_an_invite_goes_upstream() {
        let mut fork = Fork::of(Kind::Invite, 2);
        fork.hears(0, 200);
        fork.hears(0, 200);
        fork.hears(1, 200);
        assert_eq!(
            fork.wants(),
            ["relay 200", "cancel 1", "relay 200", "relay 200"]
        );
    }

    #[test]
    fn only_the_first_2xx_to_another_request_goes_upstream() {
        let mut fork = Fork::of(Kind::NonInvite, 2);
        fork.hears(0, 200);
        fork.hears(1, 202);
        assert_eq!(fork.wants(), ["relay 200"]);
        assert!(fork.context.is_over());
    }

    #[test]
    fn a_6xx_cancels_the_others_and_goes_upstream_when_they_have_ended() {
        let mut fork = Fork::of(Kind::Invite, 2);
        fork.hears(0, 603);
        assert_eq!(fork.wants(), ["cancel 1"]);
        fork.hears(1, 487);
        assert_eq!(fork.wants(), ["relay 603"]);
    }

    #[test]
    fn a_2xx_after_a_6xx_still_wins() {
        let mut fork = Fork::of(Kind::Invite, 2);
        fork.hears(0, 603);
        fork.hears(1, 200);
        assert_eq!(fork.wants(), ["cancel 1", "relay 200"]);
    }

    #[test]
    fn the_best_of_several_failures_is_chosen_by_class_and_use() {
        for (statuses, best) in [
            (&[503, 407, 501, 404][..], "relay 407"),
            (&[404, 486], "relay 404"),
            (&[486, 404, 484], "relay 484"),
            (&[500, 302], "relay 302"),
            (&[404, 302, 600], "relay 600"),
            (&[503, 501], "relay 501"),
            (&[503, 503], "respond 500"),
        ] {
            let mut fork = Fork::of(Kind::NonInvite, statuses.len());
            for (branch, status) in statuses.iter().enumerate() {
                assert_eq!(fork.wants(), NOTHING);
                fork.hears(branch, *status);
            }
            assert_eq!(fork.wants(), [best], "{statuses:?}");
        }
    }

    #[test]
    fn a_challenge_carries_the_challenges_of_all_branches() {
        let mut fork = Fork::of(Kind::NonInvite, 3);
        fork.hears_with(0, 401, "WWW-Authenticate: Digest realm=\"a\"\r\n");
        fork.hears_with(1, 404, "WWW-Authenticate: Digest realm=\"no\"\r\n");
        fork.hears_with(2, 407, "Proxy-Authenticate: Digest realm=\"b\"\r\n");
        let Some(ForkAction::Relay { status, octets }) = fork.context.poll_action() else {
            panic!("relayed");
        };
        let relayed = wire::parse(octets).unwrap();
        assert_eq!(status, 401);
        let www: Vec<&str> = relayed.headers(HeaderName::WwwAuthenticate).collect();
        assert_eq!(www, ["Digest realm=\"a\""]);
        let proxy: Vec<&str> = relayed.headers(HeaderName::ProxyAuthenticate).collect();
        assert_eq!(proxy, ["Digest realm=\"b\""]);
    }

    #[test]
    fn an_invite_whose_branches_all_time_out_gets_408() {
        let mut fork = Fork::of(Kind::Invite, 2);
        for id in fork.ids.clone() {
            fork.context.handle_timed_out(id);
        }
        assert_eq!(fork.wants(), ["respond 408"]);
        assert!(fork.context.is_over());
    }

    #[test]
    fn another_request_whose_branches_all_time_out_gets_nothing() {
        let mut fork = Fork::of(Kind::NonInvite, 2);
        for id in fork.ids.clone() {
            fork.context.handle_timed_out(id);
        }
        assert_eq!(fork.wants(), NOTHING);
        assert!(fork.context.is_over());
    }

    #[test]
    fn a_branch_whose_flow_is_lost_counts_as_503() {
        let mut fork = Fork::of(Kind::NonInvite, 2);
        fork.context.handle_unreachable(fork.ids[0]);
        fork.hears(1, 486);
        assert_eq!(fork.wants(), ["relay 486"]);
        let mut fork = Fork::of(Kind::NonInvite, 1);
        fork.context.handle_unreachable(fork.ids[0]);
        assert_eq!(fork.wants(), ["respond 500"]);
    }

    #[test]
    fn a_target_that_could_not_be_tried_counts_too() {
        let mut context = ForkContext::new(Kind::NonInvite);
        context.add_failed_target(480, "Temporarily Unavailable");
        context.seal();
        let expected = ForkAction::Respond {
            status: 480,
            reason: "Temporarily Unavailable",
        };
        assert_eq!(context.poll_action(), Some(expected));
    }

    #[test]
    fn a_cancel_from_upstream_cancels_all_branches() {
        let mut fork = Fork::of(Kind::Invite, 2);
        fork.hears(0, 180);
        fork.context.handle_cancel();
        fork.context.handle_cancel();
        assert_eq!(fork.wants(), ["relay 180", "cancel 0", "cancel 1"]);
        fork.hears(0, 487);
        fork.context.handle_timed_out(fork.ids[1]);
        assert_eq!(fork.wants(), ["relay 487"]);
    }

    #[test]
    fn a_cancelled_invite_whose_branches_stay_silent_gets_487() {
        let mut fork = Fork::of(Kind::Invite, 1);
        fork.context.handle_cancel();
        fork.context.handle_timed_out(fork.ids[0]);
        assert_eq!(fork.wants(), ["cancel 0", "respond 487"]);
    }

    #[test]
    fn no_branch_is_begun_after_a_6xx() {
        let ids = client_ids(2);
        let mut context = ForkContext::new(Kind::Invite);
        context.add_branch(ids[0], Now::default());
        assert!(context.may_fork());
        context.handle_response(ids[0], &response(600, ""), Now::default());
        assert!(!context.may_fork());
        context.poll_action();
    }

    #[test]
    fn an_unsealed_context_waits_for_more_branches() {
        let ids = client_ids(2);
        let mut context = ForkContext::new(Kind::NonInvite);
        context.add_branch(ids[0], Now::default());
        context.handle_response(ids[0], &response(404, ""), Now::default());
        assert_eq!(context.poll_action(), None);
        context.add_branch(ids[1], Now::default());
        context.seal();
        context.handle_response(ids[1], &response(200, ""), Now::default());
        let action = context.poll_action();
        assert!(matches!(
            action,
            Some(ForkAction::Relay { status: 200, .. })
        ));
    }

    #[test]
    fn timer_c_cancels_a_branch_that_rings_for_too_long() {
        let mut fork = Fork::of(Kind::Invite, 1);
        fork.now = fork.now.plus(Duration::from_secs(100));
        fork.hears(0, 180);
        fork.hears(0, 100);
        let deadline = fork.now.instant + TIMER_C;
        assert_eq!(fork.context.next_deadline(), Some(deadline));
        fork.now.instant = deadline;
        fork.context.handle_timeout(fork.now);
        assert_eq!(fork.wants(), ["relay 180", "cancel 0"]);
        assert_eq!(fork.context.next_deadline(), None);
        fork.hears(0, 487);
        assert_eq!(fork.wants(), ["relay 487"]);
    }

    #[test]
    fn timer_c_ends_a_branch_without_any_response() {
        let mut fork = Fork::of(Kind::Invite, 1);
        fork.now.instant = fork.context.next_deadline().unwrap();
        fork.context.handle_timeout(fork.now);
        assert_eq!(fork.wants(), ["cancel 0", "respond 408"]);
    }

    #[test]
    fn other_requests_have_no_timer_c_no_cancel_and_no_provisional_response() {
        let mut fork = Fork::of(Kind::NonInvite, 2);
        assert_eq!(fork.context.next_deadline(), None);
        fork.hears(0, 183);
        fork.hears(1, 600);
        assert_eq!(fork.wants(), NOTHING);
    }
}
