//! Where the responses to a request go: RFC 3261 §18.2.2 and RFC 3581 §4.

use std::net::SocketAddr;

use crate::sip::header::Via;
use crate::sip::transport::flow::{Flow, Transport};

/// The port of a sent-by that names none.
const DEFAULT_PORT: u16 = 5060;

/// The way back to the sender of a request whose topmost Via is `via` and which came over `arrived`.
/// The source address is what a `received` parameter says or would say, so it need not be there. A `maddr`
/// is not followed, whatever RFC 3261 §18.2.2 says: anybody could have answers sent to anybody.
///
/// Not inlined: the compiler then takes the flow apart octet by octet.
#[inline(never)]
pub fn reply_flow(via: &Via<'_>, arrived: Flow) -> Flow {
    if arrived.transport == Transport::Tcp {
        return arrived;
    }
    if via.rport.is_some() {
        return arrived;
    }
    let remote = SocketAddr::new(arrived.remote.ip(), sent_by_port(via));
    Flow { remote, ..arrived }
}

/// The way back once the connection that a request came over is gone: a new one to the source address
/// and the sent-by port (RFC 3261 §18.2.2, first bullet).
pub fn without_connection(flow: Flow, sent_by_port: u16) -> Flow {
    Flow {
        connection: None,
        remote: SocketAddr::new(flow.remote.ip(), sent_by_port),
        ..flow
    }
}

/// The port of a sent-by, named or not.
pub fn sent_by_port(via: &Via<'_>) -> u16 {
    via.port.unwrap_or(DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transport::flow::ConnectionId;

    fn arrived(transport: Transport) -> Flow {
        Flow {
            transport,
            listener: 1,
            remote: "192.0.2.9:49152".parse().unwrap(),
            connection: (transport == Transport::Tcp).then(|| ConnectionId::new(0, 7)),
        }
    }

    fn reply_to(via: &str) -> String {
        let via = Via::parse(via).unwrap();
        let flow = reply_flow(&via, arrived(Transport::Udp));
        assert_eq!(flow.listener, 1);
        flow.remote.to_string()
    }

    #[test]
    fn a_connection_carries_its_own_responses() {
        let via = Via::parse("SIP/2.0/TCP 198.51.100.1:5070;branch=z9hG4bK1").unwrap();
        let flow = arrived(Transport::Tcp);
        assert_eq!(reply_flow(&via, flow), flow);
    }

    #[test]
    fn without_rport_the_source_address_and_the_sent_by_port_are_used() {
        let to = reply_to("SIP/2.0/UDP 198.51.100.1:5070;branch=z9hG4bK1");
        assert_eq!(to, "192.0.2.9:5070");
        let to = reply_to("SIP/2.0/UDP pc33.atlanta.com;branch=z9hG4bK1");
        assert_eq!(to, "192.0.2.9:5060");
    }

    #[test]
    fn with_rport_the_source_address_and_port_are_used() {
        for rport in ["rport", "rport=49152"] {
            let to = reply_to(&format!(
                "SIP/2.0/UDP 10.1.1.1:4540;{rport};branch=z9hG4bK1"
            ));
            assert_eq!(to, "192.0.2.9:49152");
        }
    }

    #[test]
    fn maddr_sends_answers_to_nobody_else() {
        let to = reply_to("SIP/2.0/UDP 10.1.1.1:4540;rport;maddr=192.0.2.77;branch=z9hG4bK1");
        assert_eq!(to, "192.0.2.9:49152");
        let to = reply_to("SIP/2.0/UDP 10.1.1.1:4540;maddr=192.0.2.77;branch=z9hG4bK1");
        assert_eq!(to, "192.0.2.9:4540");
    }

    #[test]
    fn a_lost_connection_is_replaced_by_the_source_address_and_the_sent_by_port() {
        let flow = without_connection(arrived(Transport::Tcp), 5080);
        assert_eq!(flow.connection, None);
        assert_eq!(flow.remote.to_string(), "192.0.2.9:5080");
    }
}
