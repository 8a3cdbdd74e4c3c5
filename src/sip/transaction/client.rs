//! The non-INVITE client transaction: RFC 3261 §17.1.2, figure 6.
//!
//! The figure keeps a finished transaction for Timer K to absorb repetitions of the final response. Here
//! it ends with that response: one that matches no transaction is dropped just the same (RFC 4320 §4.2).

use super::action::ClientAction::{Deliver, SendRequest, Start, TimedOut, Unreachable};
use super::action::{ClientAction, Transition};
use super::timer::Timer;

/// The boxes of the figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Sent, nothing came back.
    Trying,
    /// A provisional response came.
    Proceeding,
    /// The final response came: forgotten.
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A 1xx came.
    Provisional,
    /// A 2xx to 6xx came.
    Final,
    /// A timer fired.
    Fired(Timer),
    /// The flow is lost.
    TransportError,
}

/// What the user's request begins with.
pub const START: (State, &[ClientAction]) = (
    State::Trying,
    &[SendRequest, Start(Timer::E), Start(Timer::F)],
);

/// The arrows of the figure.
pub fn transition(state: State, event: Event) -> Transition<State, ClientAction> {
    use Event::{Final, Fired, Provisional, TransportError};
    use State::{Proceeding, Terminated, Trying};
    Some(match (state, event) {
        (Trying, Fired(Timer::E)) => (Trying, &[SendRequest, Start(Timer::E)]),
        (Proceeding, Fired(Timer::E | Timer::EProceeding)) => {
            (Proceeding, &[SendRequest, Start(Timer::EProceeding)])
        }
        (Trying | Proceeding, Fired(Timer::F)) => (Terminated, &[TimedOut]),
        (Trying | Proceeding, Provisional) => (Proceeding, &[Deliver]),
        (Trying | Proceeding, Final) => (Terminated, &[Deliver]),
        (Trying | Proceeding, TransportError) => (Terminated, &[Unreachable]),
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
    fn a_request_is_sent_with_timers_e_and_f() {
        assert_eq!(START.0, Trying);
        assert_eq!(START.1, [SendRequest, Start(Timer::E), Start(Timer::F)]);
    }

    #[test]
    fn timer_e_retransmits_while_trying() {
        assert_eq!(
            after(Trying, Fired(Timer::E)),
            (Trying, vec![SendRequest, Start(Timer::E)])
        );
    }

    #[test]
    fn timer_e_keeps_retransmitting_at_t2_while_proceeding() {
        for timer in [Timer::E, Timer::EProceeding] {
            assert_eq!(
                after(Proceeding, Fired(timer)),
                (Proceeding, vec![SendRequest, Start(Timer::EProceeding)])
            );
        }
    }

    #[test]
    fn timer_f_gives_up() {
        for state in [Trying, Proceeding] {
            assert_eq!(after(state, Fired(Timer::F)), (Terminated, vec![TimedOut]));
        }
    }

    #[test]
    fn provisional_responses_are_delivered() {
        for state in [Trying, Proceeding] {
            assert_eq!(after(state, Provisional), (Proceeding, vec![Deliver]));
        }
    }

    #[test]
    fn the_final_response_is_delivered_once() {
        for state in [Trying, Proceeding] {
            assert_eq!(after(state, Final), (Terminated, vec![Deliver]));
        }
        assert_eq!(transition(Terminated, Final), None);
        assert_eq!(transition(Terminated, Provisional), None);
    }

    #[test]
    fn a_lost_flow_is_told_while_the_final_response_is_missing() {
        for state in [Trying, Proceeding] {
            assert_eq!(
                after(state, TransportError),
                (Terminated, vec![Unreachable])
            );
        }
        assert_eq!(transition(Terminated, TransportError), None);
    }

    #[test]
    fn older_timers_mean_nothing_when_it_is_over() {
        assert_eq!(transition(Terminated, Fired(Timer::E)), None);
        assert_eq!(transition(Terminated, Fired(Timer::F)), None);
    }
}
