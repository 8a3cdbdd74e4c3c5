//! Networks, written as an address and the length of its prefix (RFC 4632 §3.1, RFC 4291 §2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::values::written_as_string;

/// A network such as `192.0.2.0/24` or `2001:db8::/32`; without a length, one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// This host.
    pub(super) const LOOPBACK_V4: Self = Self {
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
        length: 8,
    };
    /// This host.
    pub(super) const LOOPBACK_V6: Self = Self {
        address: IpAddr::V6(Ipv6Addr::LOCALHOST),
        length: 128,
    };

    /// Whether `address` lies in it; an IPv4 address inside an IPv6 one is to be taken out before.
    pub fn contains(self, address: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= length
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= length
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a network; allowed: an address, or an address and the length of \
                 its prefix, such as \"192.0.2.0/24\" or \"2001:db8::/32\""
            )
        })
    }
}

fn parse(text: &str) -> Option<Network> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) => length.parse().ok().filter(|length| *length <= most)?,
        None => most,
    };
    Some(Network { address, length })
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

written_as_string!(Network, "a network such as \"192.0.2.0/24\"");

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        let network: Network = network.parse().expect("a network");
        network.contains(address.parse().expect("an address"))
    }

    #[test]
    fn an_address_lies_in_a_network_when_the_prefix_is_the_same() {
        assert!(contains("127.0.0.0/8", "127.255.0.1"));
        assert!(!contains("127.0.0.0/8", "128.0.0.1"));
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(!contains("192.0.2.1", "192.0.2.2"));
        assert!(contains("::1/128", "::1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "::1"));
    }

    #[test]
    fn what_is_no_network_is_told_apart() {
        for wrong in ["", "localhost", "127.0.0.1/33", "::1/129", "1.2.3/8", "1.2.3.4/"] {
            let error = wrong.parse::<Network>().unwrap_err();
            assert!(error.contains("such as"), "{error}");
        }
        let printed = "10.0.0.0/8".parse::<Network>().expect("a network");
        assert_eq!(printed.to_string(), "10.0.0.0/8");
    }
}
