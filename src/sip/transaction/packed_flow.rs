//! A flow in sixteen octets, for those that are kept by the hundred thousand.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::sip::transport::flow::{Flow, Transport};

/// Datagrams over IPv4 take no memory beyond it; everything else does.
#[derive(Clone, Debug)]
pub(super) enum PackedFlow {
    Datagrams {
        listener: u16,
        port: u16,
        address: Ipv4Addr,
    },
    Other(Box<Flow>),
}

impl From<Flow> for PackedFlow {
    fn from(flow: Flow) -> Self {
        match flow {
            Flow {
                transport: Transport::Udp,
                listener,
                remote: SocketAddr::V4(remote),
                connection: None,
            } => Self::Datagrams {
                listener,
                port: remote.port(),
                address: *remote.ip(),
            },
            flow => Self::Other(Box::new(flow)),
        }
    }
}

impl PackedFlow {
    pub fn unpack(&self) -> Flow {
        match self {
            Self::Datagrams {
                listener,
                port,
                address,
            } => Flow {
                transport: Transport::Udp,
                listener: *listener,
                remote: SocketAddrV4::new(*address, *port).into(),
                connection: None,
            },
            Self::Other(flow) => **flow,
        }
    }

    pub fn transport(&self) -> Transport {
        match self {
            Self::Datagrams { .. } => Transport::Udp,
            Self::Other(flow) => flow.transport,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transport::flow::ConnectionId;

    #[test]
    fn what_was_packed_is_unpacked() {
        assert_eq!(size_of::<PackedFlow>(), 16);
        for (transport, remote, connection) in [
            (Transport::Udp, "192.0.2.1:5060", None),
            (Transport::Udp, "[2001:db8::1]:5060", None),
            (Transport::Tcp, "192.0.2.1:5060", None),
            (Transport::Tcp, "[2001:db8::1]:5060", Some(7)),
        ] {
            let flow = Flow {
                transport,
                listener: 3,
                remote: remote.parse().unwrap(),
                connection: connection.map(|serial| ConnectionId::new(0, serial)),
            };
            let packed = PackedFlow::from(flow);
            assert_eq!(packed.unpack(), flow);
            assert_eq!(packed.transport(), transport);
        }
    }
}
