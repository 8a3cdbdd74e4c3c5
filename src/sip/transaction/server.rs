//! The non-INVITE server transaction: RFC 3261 §17.2.2 figure 8, as restricted by RFC 4320.
//!
//! The figure leaves a transaction that its user never answers alive for ever. RFC 4320 §4.2 says that
//! a final response is useless once the client's Timer F has fired, so the wait ends there. Most are answered
//! long before: the timer of that begins once the one of the 100 has come up.

use super::action::ServerAction::{Gone, SendResponse, SendTrying, Start};
use super::action::{GoneReason, ServerAction, Transition};
use super::timer::Timer;

/// The boxes of the figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Handed up, nothing sent.
    Trying,
    /// A 100 was sent.
    Proceeding,
    /// The final response was sent.
    Completed,
    /// Forgotten.
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The request came again.
    Request,
    /// The user sends a 100 that RFC 4320 §4.1 allows.
    Provisional,
    /// The user sends a 2xx to 6xx.
    Final,
    /// A timer fired.
    Fired(Timer),
}

/// What a received request begins with.
pub const START: (State, &[ServerAction]) = (State::Trying, &[Start(Timer::Trying)]);

/// The arrows of the figure. A lost flow ends nothing: a retransmission over a new connection must
/// not count as a new request, and timers end every transaction.
pub fn transition(state: State, event: Event) -> Transition<State, ServerAction> {
    use Event::{Final, Fired, Provisional, Request};
    use State::{Completed, Proceeding, Terminated, Trying};
    Some(match (state, event) {
        (Trying, Fired(Timer::Trying)) => (Proceeding, &[SendTrying, Start(Timer::Expiry)]),
        (Proceeding, Fired(Timer::Trying)) => (Proceeding, &[Start(Timer::Expiry)]),
        (Trying | Proceeding, Provisional) => (Proceeding, &[SendResponse]),
        (Trying | Proceeding, Final) => (Completed, &[SendResponse, Start(Timer::J)]),
        (Trying | Proceeding, Fired(Timer::Expiry)) => {
            (Terminated, &[Gone(GoneReason::Unanswered)])
        }
        (Proceeding, Request) => (Proceeding, &[SendResponse]),
        (Completed, Request) => (Completed, &[SendResponse]),
        (Completed, Fired(Timer::J)) => (Terminated, &[Gone(GoneReason::Ended)]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Event::*;
    use super::State::*;
    use super::*;

    fn after(state: State, event: Event) -> (State, Vec<ServerAction>) {
        let (state, actions) = transition(state, event).expect("an arrow");
        (state, actions.to_vec())
    }

    #[test]
    fn a_retransmission_before_any_response_is_absorbed() {
        assert_eq!(START.0, Trying);
        assert_eq!(transition(Trying, Request), None);
    }

    #[test]
    fn a_100_is_sent_only_if_the_user_is_silent_until_timer_e_reaches_t2() {
        assert_eq!(
            after(Trying, Fired(Timer::Trying)),
            (Proceeding, vec![SendTrying, Start(Timer::Expiry)])
        );
        assert_eq!(
            after(Proceeding, Fired(Timer::Trying)),
            (Proceeding, vec![Start(Timer::Expiry)])
        );
        assert_eq!(transition(Completed, Fired(Timer::Trying)), None);
    }

    #[test]
    fn provisional_responses_are_sent() {
        for state in [Trying, Proceeding] {
            assert_eq!(after(state, Provisional), (Proceeding, vec![SendResponse]));
        }
    }

    #[test]
    fn a_retransmission_is_answered_with_the_latest_response() {
        assert_eq!(after(Proceeding, Request), (Proceeding, vec![SendResponse]));
        assert_eq!(after(Completed, Request), (Completed, vec![SendResponse]));
    }

    #[test]
    fn the_final_response_is_sent_with_timer_j() {
        for state in [Trying, Proceeding] {
            assert_eq!(
                after(state, Final),
                (Completed, vec![SendResponse, Start(Timer::J)])
            );
        }
    }

    #[test]
    fn responses_after_the_final_one_are_dropped() {
        assert_eq!(transition(Completed, Final), None);
        assert_eq!(transition(Completed, Provisional), None);
    }

    #[test]
    fn a_user_that_never_answers_is_told_when_the_client_has_given_up() {
        for state in [Trying, Proceeding] {
            assert_eq!(
                after(state, Fired(Timer::Expiry)),
                (Terminated, vec![Gone(GoneReason::Unanswered)])
            );
        }
        assert_eq!(transition(Completed, Fired(Timer::Expiry)), None);
    }

    #[test]
    fn timer_j_ends_it() {
        assert_eq!(
            after(Completed, Fired(Timer::J)),
            (Terminated, vec![Gone(GoneReason::Ended)])
        );
    }
}
