//! The two client figures as one: what the table holds for a request that we sent.

use super::action::ClientAction;
use super::client::Event as OtherEvent;
use super::invite_client::Event as InviteEvent;
use super::timer::Timer;
use super::{client, invite_client};

/// Which figure a transaction follows, and where in it it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Invite(invite_client::State),
    Other(client::State),
}

/// What can happen to either.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Response(u16),
    Fired(Timer),
    TransportError,
}

impl Machine {
    pub fn step(self, event: Event) -> Option<(Self, &'static [ClientAction])> {
        match self {
            Self::Invite(state) => {
                let event = match event {
                    Event::Response(..200) => InviteEvent::Provisional,
                    Event::Response(200..300) => InviteEvent::Success,
                    Event::Response(300..) => InviteEvent::Failure,
                    Event::Fired(timer) => InviteEvent::Fired(timer),
                    Event::TransportError => InviteEvent::TransportError,
                };
                let (state, actions) = invite_client::transition(state, event)?;
                Some((Self::Invite(state), actions))
            }
            Self::Other(state) => {
                let event = match event {
                    Event::Response(..200) => OtherEvent::Provisional,
                    Event::Response(200..) => OtherEvent::Final,
                    Event::Fired(timer) => OtherEvent::Fired(timer),
                    Event::TransportError => OtherEvent::TransportError,
                };
                let (state, actions) = client::transition(state, event)?;
                Some((Self::Other(state), actions))
            }
        }
    }

    pub fn is_terminated(self) -> bool {
        matches!(
            self,
            Self::Invite(invite_client::State::Terminated) | Self::Other(client::State::Terminated)
        )
    }

    /// Whether the request may still have to be sent, cancelled or acknowledged.
    pub fn needs_request(self) -> bool {
        use invite_client::State::{Calling, Proceeding};
        matches!(
            self,
            Self::Invite(Calling | Proceeding)
                | Self::Other(client::State::Trying | client::State::Proceeding)
        )
    }
}
