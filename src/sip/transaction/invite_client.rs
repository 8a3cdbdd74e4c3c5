//! The INVITE client transaction: RFC 3261 §17.1.1 figure 5, as replaced by RFC 6026 §8.4.

use super::action::ClientAction::{Deliver, SendAck, SendRequest, Start, TimedOut, Unreachable};
use super::action::{ClientAction, Transition};
use super::timer::Timer;

/// The boxes of the figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Sent, nothing came back.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A non-2xx final response came and was acknowledged.
    Completed,
    /// A 2xx came; more may come (RFC 6026 §7.2).
    Accepted,
    /// Forgotten.
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A 1xx came.
    Provisional,
    /// A 2xx came.
    Success,
    /// A 3xx to 6xx came.
    Failure,
    /// A timer fired.
    Fired(Timer),
    /// The flow is lost.
    TransportError,
}

/// What the user's INVITE begins with.
pub const START: (State, &[ClientAction]) = (
    State::Calling,
    &[SendRequest, Start(Timer::A), Start(Timer::B)],
);

/// The arrows of the figure.
pub fn transition(state: State, event: Event) -> Transition<State, ClientAction> {
    use Event::{Failure, Fired, Provisional, Success, TransportError};
    use State::{Accepted, Calling, Completed, Proceeding, Terminated};
    Some(match (state, event) {
        (Calling, Fired(Timer::A)) => (Calling, &[SendRequest, Start(Timer::A)]),
        (Calling, Fired(Timer::B)) => (Terminated, &[TimedOut]),
        (Calling | Proceeding, Provisional) => (Proceeding, &[Deliver]),
        (Calling | Proceeding, Success) => (Accepted, &[Deliver, Start(Timer::M)]),
        (Calling | Proceeding, Failure) => (Completed, &[SendAck, Deliver, Start(Timer::D)]),
        // The figure has this arrow for Calling only; a flow lost later brings no response either.
        (Calling | Proceeding, TransportError) => (Terminated, &[Unreachable]),
        // RFC 3261 §9.1: no final response within 64*T1 of the CANCEL.
        (Proceeding, Fired(Timer::Cancelled)) => (Terminated, &[TimedOut]),
        (Completed, Failure) => (Completed, &[SendAck]),
        (Completed, Fired(Timer::D)) => (Terminated, &[]),
        (Completed, TransportError) => (Terminated, &[]),
        (Accepted, Success) => (Accepted, &[Deliver]),
        (Accepted, Fired(Timer::M)) => (Terminated, &[]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Event::*;
    use super::State::*;
    use super::*;

    fn after(state: State, event: Event) -> (State, Vec<ClientAction>) {
        let (state, actions) = transition(state, event).expect("an arrow");
        (state, actions.to_vec())
    }

    #[test]
    fn an_invite_is_sent_with_timers_a_and_b() {
        assert_eq!(START.0, Calling);
        assert_eq!(START.1, [SendRequest, Start(Timer::A), Start(Timer::B)]);
    }

    #[test]
    fn timer_a_retransmits_while_calling() {
        assert_eq!(
            after(Calling, Fired(Timer::A)),
            (Calling, vec![SendRequest, Start(Timer::A)])
        );
    }

    #[test]
    fn timer_b_gives_up_while_calling() {
        assert_eq!(
            after(Calling, Fired(Timer::B)),
            (Terminated, vec![TimedOut])
        );
    }

    #[test]
    fn a_provisional_response_ends_retransmission_and_the_timeout() {
        assert_eq!(after(Calling, Provisional), (Proceeding, vec![Deliver]));
        assert_eq!(transition(Proceeding, Fired(Timer::A)), None);
        assert_eq!(transition(Proceeding, Fired(Timer::B)), None);
    }

    #[test]
    fn further_provisional_responses_are_delivered() {
        assert_eq!(after(Proceeding, Provisional), (Proceeding, vec![Deliver]));
    }

    #[test]
    fn a_success_is_delivered_and_not_acknowledged_by_the_transaction() {
        for state in [Calling, Proceeding] {
            assert_eq!(
                after(state, Success),
                (Accepted, vec![Deliver, Start(Timer::M)])
            );
        }
    }

    #[test]
    fn a_failure_is_acknowledged_and_delivered() {
        for state in [Calling, Proceeding] {
            assert_eq!(
                after(state, Failure),
                (Completed, vec![SendAck, Deliver, Start(Timer::D)])
            );
        }
    }

    #[test]
    fn a_repeated_failure_is_acknowledged_and_not_delivered() {
        assert_eq!(after(Completed, Failure), (Completed, vec![SendAck]));
    }

    #[test]
    fn a_success_after_a_failure_is_absorbed() {
        assert_eq!(transition(Completed, Success), None);
        assert_eq!(transition(Completed, Provisional), None);
    }

    #[test]
    fn timer_d_ends_a_completed_transaction() {
        assert_eq!(after(Completed, Fired(Timer::D)), (Terminated, vec![]));
    }

    #[test]
    fn every_further_success_is_delivered() {
        assert_eq!(after(Accepted, Success), (Accepted, vec![Deliver]));
    }

    #[test]
    fn other_responses_after_a_success_are_absorbed() {
        assert_eq!(transition(Accepted, Provisional), None);
        assert_eq!(transition(Accepted, Failure), None);
        assert_eq!(transition(Accepted, TransportError), None);
    }

    #[test]
    fn timer_m_ends_an_accepted_transaction() {
        assert_eq!(after(Accepted, Fired(Timer::M)), (Terminated, vec![]));
    }

    #[test]
    fn a_lost_flow_is_told_while_a_response_is_missing() {
        for state in [Calling, Proceeding] {
            assert_eq!(
                after(state, TransportError),
                (Terminated, vec![Unreachable])
            );
        }
        assert_eq!(after(Completed, TransportError), (Terminated, vec![]));
    }

    #[test]
    fn a_cancelled_request_without_a_final_response_times_out() {
        assert_eq!(
            after(Proceeding, Fired(Timer::Cancelled)),
            (Terminated, vec![TimedOut])
        );
        assert_eq!(transition(Accepted, Fired(Timer::Cancelled)), None);
        assert_eq!(transition(Completed, Fired(Timer::Cancelled)), None);
    }
}
