//! The two server figures as one: what the table holds for a request that came in.

use super::action::ServerAction;
use super::invite_server::Event as InviteEvent;
use super::server::Event as OtherEvent;
use super::timer::Timer;
use super::{invite_server, server};
use crate::sip::transport::flow::Transport;

/// Which figure a transaction follows, and where in it it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Invite(invite_server::State),
    Other(server::State),
}

/// What the two figures have in common, each taking it as its own event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Retransmission,
    Fired(Timer),
    Invite(InviteEvent),
    Other(OtherEvent),
}

impl Machine {
    pub fn step(self, event: Event) -> Option<(Self, &'static [ServerAction])> {
        match self {
            Self::Invite(state) => {
                let event = match event {
                    Event::Retransmission => InviteEvent::Invite,
                    Event::Fired(timer) => InviteEvent::Fired(timer),
                    Event::Invite(event) => event,
                    Event::Other(_) => return None,
                };
                let (state, actions) = invite_server::transition(state, event)?;
                Some((Self::Invite(state), actions))
            }
            Self::Other(state) => {
                let event = match event {
                    Event::Retransmission => OtherEvent::Request,
                    Event::Fired(timer) => OtherEvent::Fired(timer),
                    Event::Other(event) => event,
                    Event::Invite(_) => return None,
                };
                let (state, actions) = server::transition(state, event)?;
                Some((Self::Other(state), actions))
            }
        }
    }

    /// The event of a user's response; `None` for one that RFC 4320 forbids.
    pub fn response_event(self, status: u16, role: Role, transport: Transport) -> Option<Event> {
        match self {
            Self::Invite(_) => Some(Event::Invite(invite_response(status, role))),
            Self::Other(state) => other_response(status, state, transport).map(Event::Other),
        }
    }

    /// Whether nothing is left to do but to absorb retransmissions.
    pub fn has_finished(self) -> bool {
        self == Self::Other(server::State::Completed)
    }

    pub fn is_terminated(self) -> bool {
        matches!(
            self,
            Self::Invite(invite_server::State::Terminated) | Self::Other(server::State::Terminated)
        )
    }
}

/// Who answers an INVITE with a 2xx, and so who repeats it until the ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    UserAgent,
    Proxy,
}

fn invite_response(status: u16, role: Role) -> InviteEvent {
    match (status, role) {
        (..200, _) => InviteEvent::Provisional,
        (200..300, Role::UserAgent) => InviteEvent::Answer,
        (200..300, Role::Proxy) => InviteEvent::RelayedSuccess,
        (300.., _) => InviteEvent::Failure,
    }
}

/// RFC 4320 §4: no provisional response but 100, that one over datagrams only once Timer E has reached
/// T2 (when we have sent one ourselves), and never a 408.
fn other_response(status: u16, state: server::State, transport: Transport) -> Option<OtherEvent> {
    match status {
        100 if transport.is_reliable() || state == server::State::Proceeding => {
            Some(OtherEvent::Provisional)
        }
        ..200 | 408 => None,
        200.. => Some(OtherEvent::Final),
    }
}
