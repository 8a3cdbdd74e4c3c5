//! Every listener bound once a shard, before anything else starts.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::{Config, HostPort, Listener, Protocol};
use crate::net::bind;
use crate::shard::assembly::Supplies;
use crate::shard::thread::SipSocket;
use crate::sip::transport::flow::Transport;

/// A listener of the configuration cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {listener} cannot be bound: {error}")]
pub struct BindError {
    /// The key that holds it.
    pub key: &'static str,
    /// The listener as it was written.
    pub listener: Listener,
    /// What the operating system said.
    pub error: io::Error,
}

/// Where the server is reached; ports as they were bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By index into `[sip] listen`.
    pub sip: Vec<(Transport, SocketAddr)>,
    /// By index into `[msrp] listen`.
    pub msrp: Vec<SocketAddr>,
    /// By index into `[admin] listen`.
    pub admin: Vec<SocketAddr>,
}

impl Addresses {
    /// `host:port` by which peers know SIP listener number `index`.
    pub fn advertised_sip(&self, config: &Config, index: usize) -> String {
        let bound = self.sip.get(index).map(|(_, bound)| *bound);
        let (host, port) = known_as(bound, config.sip.advertised(index));
        format!("{}:{port}", in_brackets(&host))
    }

    /// Host, IPv6 without brackets, and port by which peers know MSRP listener number `index`.
    pub fn advertised_msrp(&self, config: &Config, index: usize) -> (String, u16) {
        known_as(self.msrp.get(index).copied(), config.msrp.advertised(index))
    }
}

/// The advertised name, else the address.
fn known_as(bound: Option<SocketAddr>, named: Option<&HostPort>) -> (String, u16) {
    let port = bound.map_or(0, |bound| bound.port());
    match (named, bound.map(|bound| bound.ip())) {
        (Some(named), _) => (named.host.clone(), named.port.unwrap_or(port)),
        (None, Some(ip)) => (ip.to_string(), port),
        (None, None) => (String::new(), port),
    }
}

fn in_brackets(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host.to_owned(),
    }
}

impl fmt::Display for Addresses {
    /// As in the `ready` line: `sip=udp://127.0.0.1:5060,tcp://... msrp=tcp://... admin=tcp://...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sip: Vec<_> = (self.sip.iter())
            .map(|(transport, address)| format!("{transport}://{address}"))
            .collect();
        let msrp: Vec<_> = (self.msrp.iter())
            .map(|address| format!("tcp://{address}"))
            .collect();
        write!(f, "sip={} msrp={}", sip.join(","), msrp.join(","))?;
        if self.admin.is_empty() {
            return Ok(());
        }
        let admin: Vec<_> = (self.admin.iter())
            .map(|address| format!("tcp://{address}"))
            .collect();
        write!(f, " admin={}", admin.join(","))
    }
}

/// All listeners, bound.
pub(super) struct Sockets {
    pub(super) addresses: Addresses,
    /// By listener, then by shard.
    sip: Vec<Vec<SipSocket>>,
    /// By listener, then by shard.
    msrp: Vec<Vec<TcpListener>>,
    /// By listener.
    pub(super) admin: Vec<TcpListener>,
}

impl Sockets {
    pub(super) fn bind(config: &Config, shards: u16) -> Result<Self, BindError> {
        let mut sockets = Self {
            addresses: Addresses::default(),
            sip: Vec::new(),
            msrp: Vec::new(),
            admin: Vec::new(),
        };
        for listener in &config.sip.listen {
            let blame = |error| BindError {
                key: "sip.listen",
                listener: *listener,
                error,
            };
            let address = listener.address;
            let (transport, bound, address) = match listener.protocol {
                Protocol::Udp => bind_udp(address, shards).map_err(blame)?,
                Protocol::Tcp => bind_tcp(address, shards).map_err(blame)?,
            };
            sockets.addresses.sip.push((transport, address));
            sockets.sip.push(bound);
        }
        for listener in &config.msrp.listen {
            let blame = |error| BindError {
                key: "msrp.listen",
                listener: *listener,
                error,
            };
            let bound = bind::tcp(listener.address, shards).map_err(blame)?;
            let address = bound.first().map(TcpListener::local_addr).transpose();
            let address = address.map_err(blame)?.unwrap_or(listener.address);
            sockets.addresses.msrp.push(address);
            sockets.msrp.push(bound);
        }
        for listener in &config.admin.listen {
            let blame = |error| BindError {
                key: "admin.listen",
                listener: *listener,
                error,
            };
            for socket in bind::tcp(listener.address, 1).map_err(blame)? {
                let address = socket.local_addr().map_err(blame)?;
                sockets.addresses.admin.push(address);
                sockets.admin.push(socket);
            }
        }
        Ok(sockets)
    }

    /// Deals the sockets out to the shards.
    pub(super) fn supplies<G>(self, gates: Vec<G>) -> Vec<Supplies<G>> {
        let mut supplies: Vec<_> = gates
            .into_iter()
            .map(|store| Supplies {
                sip: Vec::new(),
                msrp: Vec::new(),
                store,
            })
            .collect();
        for listener in self.sip {
            for (socket, supply) in listener.into_iter().zip(&mut supplies) {
                supply.sip.push(socket);
            }
        }
        for listener in self.msrp {
            for (socket, supply) in listener.into_iter().zip(&mut supplies) {
                supply.msrp.push(socket);
            }
        }
        supplies
    }
}

type Bound = (Transport, Vec<SipSocket>, SocketAddr);

fn bind_udp(address: SocketAddr, shards: u16) -> io::Result<Bound> {
    let sockets = bind::udp(address, shards)?;
    let bound = sockets.first().map(std::net::UdpSocket::local_addr);
    let bound = bound.transpose()?.unwrap_or(address);
    let sockets = sockets.into_iter().map(SipSocket::Udp).collect();
    Ok((Transport::Udp, sockets, bound))
}

fn bind_tcp(address: SocketAddr, shards: u16) -> io::Result<Bound> {
    let sockets = bind::tcp(address, shards)?;
    let bound = sockets.first().map(TcpListener::local_addr);
    let bound = bound.transpose()?.unwrap_or(address);
    let source = Some(bound.ip()).filter(|ip| !ip.is_unspecified());
    let sockets = sockets.into_iter();
    let sockets = sockets.map(|socket| SipSocket::Tcp(socket, source));
    Ok((Transport::Tcp, sockets.collect(), bound))
}
