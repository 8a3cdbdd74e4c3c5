//! Where traffic comes from, as far as limits tell sources apart.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Bits of an IPv6 address that name a network: a host picks the other half as it likes (RFC 4291 §2.5.4).
const IPV6_BITS: u32 = 64;

/// An IPv4 address, or the /64 an IPv6 address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source that `address` belongs to.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << (128 - IPV6_BITS));
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/{IPV6_BITS}"),
        }
    }
}

/// By which way it comes. Who sends datagrams may write any sender's address on them, who has a connection
/// has shown his: so what the former are accused of never touches the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Datagrams.
    Datagrams,
    /// Connections.
    Connections,
}

impl Way {
    /// As the operator reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Datagrams => "udp",
            Self::Connections => "tcp",
        }
    }
}

/// Whether an address that a peer names can be one host's: no group, no wildcard, no port 0.
pub fn is_one_host(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !broadcast && !ip.is_multicast() && !ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_wildcards_are_no_hosts() {
        for (address, one) in [
            ("192.0.2.1:5060", true),
            ("127.0.0.1:1", true),
            ("[2001:db8::1]:5060", true),
            ("192.0.2.1:0", false),
            ("224.0.1.75:5060", false),
            ("255.255.255.255:5060", false),
            ("0.0.0.0:5060", false),
            ("[::]:5060", false),
            ("[ff02::1]:5060", false),
            ("[::ffff:224.0.1.75]:5060", false),
        ] {
            assert_eq!(
                is_one_host(address.parse().expect(address)),
                one,
                "{address}"
            );
        }
    }

    fn source(address: &str) -> Source {
        Source::of(address.parse().expect("an address"))
    }

    #[test]
    fn all_addresses_of_a_host_with_ipv6_are_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:ffff:ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
    }

    #[test]
    fn ipv4_is_itself_however_it_is_written() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1").to_string(), "192.0.2.1");
    }
}
