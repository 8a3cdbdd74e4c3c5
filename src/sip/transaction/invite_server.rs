//! The INVITE server transaction: RFC 3261 §17.2.1 figure 7, as replaced by RFC 6026 §8.6.
//!
//! RFC 6026 leaves retransmission of a 2xx to the user. That user would need timers of its own for
//! RFC 3261 §13.3.1.4, so this machine does it: [`State::Answered`] is the figure's Accepted of a user
//! agent whose 2xx is not acknowledged yet. A 2xx that a proxy relays goes to Accepted at once, because
//! its sender retransmits it.

use super::action::ServerAction::{Gone, SendResponse, SendTrying, Start};
use super::action::{GoneReason, ServerAction, Transition};
use super::timer::Timer;

/// The boxes of the figure, Accepted split in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Handed up, nothing sent.
    Received,
    /// A provisional response was sent.
    Proceeding,
    /// A non-2xx final response was sent, the ACK is missing.
    Completed,
    /// The ACK came.
    Confirmed,
    /// A 2xx of our own was sent, the ACK is missing.
    Answered,
    /// A 2xx was relayed, or ours was acknowledged.
    Accepted,
    /// Forgotten.
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The INVITE came again.
    Invite,
    /// An ACK with the INVITE's branch came.
    Ack,
    /// The user says that its 2xx was acknowledged.
    SuccessAcknowledged,
    /// The user sends a 1xx.
    Provisional,
    /// The user, being a user agent, sends a 2xx.
    Answer,
    /// The user, being a proxy, relays a 2xx.
    RelayedSuccess,
    /// The user sends a 3xx to 6xx.
    Failure,
    /// A timer fired.
    Fired(Timer),
}

/// What a received INVITE begins with.
pub const START: (State, &[ServerAction]) = (State::Received, &[Start(Timer::InviteTrying)]);

/// The arrows of the figure. A transport error changes nothing (RFC 6026 §7.1).
pub fn transition(state: State, event: Event) -> Transition<State, ServerAction> {
    use Event::{
        Ack, Answer, Failure, Fired, Invite, Provisional, RelayedSuccess, SuccessAcknowledged,
    };
    use State::{Accepted, Answered, Completed, Confirmed, Proceeding, Received, Terminated};
    Some(match (state, event) {
        (Received, Fired(Timer::InviteTrying)) => (Proceeding, &[SendTrying]),
        (Received | Proceeding, Provisional) => (Proceeding, &[SendResponse]),
        (Received | Proceeding, Answer) => (
            Answered,
            &[SendResponse, Start(Timer::Success), Start(Timer::L)],
        ),
        (Received | Proceeding, RelayedSuccess) => (Accepted, &[SendResponse, Start(Timer::L)]),
        (Received | Proceeding, Failure) => {
            (Completed, &[SendResponse, Start(Timer::G), Start(Timer::H)])
        }
        (Proceeding, Invite) => (Proceeding, &[SendResponse]),
        (Completed, Invite) => (Completed, &[SendResponse]),
        (Completed, Ack) => (Confirmed, &[Start(Timer::I)]),
        (Completed, Fired(Timer::G)) => (Completed, &[SendResponse, Start(Timer::G)]),
        (Completed, Fired(Timer::H)) => (Terminated, &[Gone(GoneReason::NoAck)]),
        (Confirmed, Fired(Timer::I)) => (Terminated, &[Gone(GoneReason::Ended)]),
        (Answered, Answer) => (Answered, &[SendResponse]),
        (Answered, SuccessAcknowledged) => (Accepted, &[]),
        (Answered, Fired(Timer::Success)) => (Answered, &[SendResponse, Start(Timer::Success)]),
        (Answered, Fired(Timer::L)) => (Terminated, &[Gone(GoneReason::NoAck)]),
        (Accepted, RelayedSuccess) => (Accepted, &[SendResponse]),
        (Accepted, Fired(Timer::L)) => (Terminated, &[Gone(GoneReason::Ended)]),
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
    fn a_100_is_sent_only_if_the_user_is_silent_for_200_ms() {
        assert_eq!(START, (Received, &[Start(Timer::InviteTrying)][..]));
        assert_eq!(
            after(Received, Fired(Timer::InviteTrying)),
            (Proceeding, vec![SendTrying])
        );
        assert_eq!(transition(Proceeding, Fired(Timer::InviteTrying)), None);
    }

    #[test]
    fn a_retransmission_before_any_response_is_absorbed() {
        assert_eq!(transition(Received, Invite), None);
    }

    #[test]
    fn provisional_responses_are_sent() {
        for state in [Received, Proceeding] {
            assert_eq!(after(state, Provisional), (Proceeding, vec![SendResponse]));
        }
    }

    #[test]
    fn a_retransmission_is_answered_with_the_latest_provisional_response() {
        assert_eq!(after(Proceeding, Invite), (Proceeding, vec![SendResponse]));
    }

    #[test]
    fn a_failure_is_sent_with_timers_g_and_h() {
        for state in [Received, Proceeding] {
            assert_eq!(
                after(state, Failure),
                (
                    Completed,
                    vec![SendResponse, Start(Timer::G), Start(Timer::H)]
                )
            );
        }
    }

    #[test]
    fn a_failure_is_repeated_on_timer_g_and_on_each_retransmission() {
        assert_eq!(after(Completed, Invite), (Completed, vec![SendResponse]));
        assert_eq!(
            after(Completed, Fired(Timer::G)),
            (Completed, vec![SendResponse, Start(Timer::G)])
        );
    }

    #[test]
    fn an_ack_ends_the_repetition_of_a_failure() {
        assert_eq!(after(Completed, Ack), (Confirmed, vec![Start(Timer::I)]));
        assert_eq!(transition(Confirmed, Fired(Timer::G)), None);
        assert_eq!(transition(Confirmed, Fired(Timer::H)), None);
    }

    #[test]
    fn a_failure_without_an_ack_ends_with_timer_h() {
        assert_eq!(
            after(Completed, Fired(Timer::H)),
            (Terminated, vec![Gone(GoneReason::NoAck)])
        );
    }

    #[test]
    fn a_confirmed_transaction_absorbs_until_timer_i() {
        assert_eq!(transition(Confirmed, Ack), None);
        assert_eq!(transition(Confirmed, Invite), None);
        assert_eq!(
            after(Confirmed, Fired(Timer::I)),
            (Terminated, vec![Gone(GoneReason::Ended)])
        );
    }

    #[test]
    fn a_success_of_our_own_is_repeated_until_it_is_acknowledged() {
        for state in [Received, Proceeding] {
            assert_eq!(
                after(state, Answer),
                (
                    Answered,
                    vec![SendResponse, Start(Timer::Success), Start(Timer::L)]
                )
            );
        }
        assert_eq!(
            after(Answered, Fired(Timer::Success)),
            (Answered, vec![SendResponse, Start(Timer::Success)])
        );
        assert_eq!(after(Answered, SuccessAcknowledged), (Accepted, vec![]));
        assert_eq!(transition(Accepted, Fired(Timer::Success)), None);
    }

    #[test]
    fn a_success_of_our_own_without_an_ack_is_given_up_after_64_t1() {
        assert_eq!(
            after(Answered, Fired(Timer::L)),
            (Terminated, vec![Gone(GoneReason::NoAck)])
        );
    }

    #[test]
    fn a_relayed_success_is_not_repeated_by_us() {
        for state in [Received, Proceeding] {
            assert_eq!(
                after(state, RelayedSuccess),
                (Accepted, vec![SendResponse, Start(Timer::L)])
            );
        }
    }

    #[test]
    fn every_further_success_of_the_user_is_sent() {
        assert_eq!(
            after(Accepted, RelayedSuccess),
            (Accepted, vec![SendResponse])
        );
        assert_eq!(after(Answered, Answer), (Answered, vec![SendResponse]));
    }

    #[test]
    fn retransmissions_after_a_success_are_absorbed() {
        assert_eq!(transition(Answered, Invite), None);
        assert_eq!(transition(Accepted, Invite), None);
    }

    #[test]
    fn other_responses_after_a_final_one_are_dropped() {
        for state in [Completed, Confirmed, Answered, Accepted] {
            assert_eq!(transition(state, Provisional), None);
            assert_eq!(transition(state, Failure), None);
        }
        assert_eq!(transition(Completed, Answer), None);
        assert_eq!(transition(Completed, RelayedSuccess), None);
    }

    #[test]
    fn timer_l_ends_an_accepted_transaction() {
        assert_eq!(
            after(Accepted, Fired(Timer::L)),
            (Terminated, vec![Gone(GoneReason::Ended)])
        );
    }
}
