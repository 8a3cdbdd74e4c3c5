//! What a machine asks of the table that holds it.
//!
//! A transition names its actions as a static list, in the order they are done; what to send and
//! for how long a timer runs is the table's knowledge, so a machine is nothing but its figure.

use super::timer::Timer;

/// One thing to do on a transition of a client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Pass the stored request to the transport, for the first time or once more.
    SendRequest,
    /// Acknowledge a non-2xx final response to INVITE (RFC 3261 §17.1.1.3).
    SendAck,
    /// Hand the response to the user.
    Deliver,
    /// Start a timer; one that does not exist on this transport does not start, one of zero length
    /// fires at once.
    Start(Timer),
    /// Tell the user that nothing came.
    TimedOut,
    /// Tell the user that the request cannot be sent.
    Unreachable,
}

/// One thing to do on a transition of a server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAction {
    /// Pass the latest response to the transport, for the first time or once more.
    SendResponse,
    /// The user has been silent for too long, send a 100 (Trying) of our own.
    SendTrying,
    /// As for clients.
    Start(Timer),
    /// Tell the user that the transaction is over.
    Gone(GoneReason),
}

/// Why a server transaction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// It ran its course.
    Ended,
    /// A final response to an INVITE was never acknowledged: Timer H fired, or 64*T1 went by after
    /// a 2xx (RFC 3261 §13.3.1.4, where the session should then be ended with a BYE).
    NoAck,
    /// The user gave no final response to a non-INVITE request while its client still waited
    /// (RFC 4320 §4.2); one that comes later is dropped.
    Unanswered,
}

/// The next state and what to do, or `None` where the figure has no arrow: the event is absorbed.
pub type Transition<State, Action> = Option<(State, &'static [Action])>;
