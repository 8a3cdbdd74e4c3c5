//! Where the responses to a request go: RFC 3261 §18.2.2 and RFC 3581 §4.

use std::net::{IpAddr, SocketAddr};

use crate::sip::header::Via;
use crate::sip::transport::flow::{Flow, Transport};

/// The port of a sent-by that names none.
const DEFAULT_PORT: u16 = 5060;

/// The way back to the sender of a request whose topmost Via is `via` and which came over `arrived`.
/// The source address is what a `received` parameter says or would say, so it need not be there.
pub fn reply_flow(via: &Via<'_>, arrived: Flow) -> Flow {
    if arrived.transport == Transport::Tcp {
        return arrived;
    }
    if let Some(address) = unicast_maddr(via) {
        let remote = SocketAddr::new(address, sent_by_port(via));
        return Flow { remote, ..arrived };
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

/// A name would need a look-up and a multicast group a TTL; both are treated as if absent.
fn unicast_maddr(via: &Via<'_>) -> Option<IpAddr> {
    let text = via.param("maddr")??;
    let text = text.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = text.parse().ok()?;
    (!address.is_multicast() && !address.is_unspecified()).then_some(address)
}
