//! Where a peer is reached, and by what: RFC 5626 calls it a flow.

use std::fmt;
use std::net::SocketAddr;

use crate::limits::source::Way;
pub use crate::net::ConnectionId;

/// The transport protocols of the SIP listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams; retransmission is ours.
    Udp,
    /// A byte stream; framed by Content-Length (RFC 3261 §18.3).
    Tcp,
}

impl Transport {
    /// The token of a Via header field.
    pub const fn via_token(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// What limits take it as.
    pub const fn way(self) -> Way {
        match self {
            Self::Udp => Way::Datagrams,
            Self::Tcp => Way::Connections,
        }
    }

    /// Whether the transport itself retransmits (RFC 3261 §17: timers A, E, G, and zero D, I, J, K).
    pub const fn is_reliable(self) -> bool {
        matches!(self, Self::Tcp)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// A way to reach one peer: over UDP an address and the local listener that talks to it, over TCP a
/// connection, or an address to connect to when `connection` is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// By what.
    pub transport: Transport,
    /// Which of our SIP listeners (index into `[sip] listen`) the peer knows us by.
    pub listener: u16,
    /// The peer's address as the socket gives it.
    pub remote: SocketAddr,
    /// The TCP connection, if one is known.
    pub connection: Option<ConnectionId>,
}
