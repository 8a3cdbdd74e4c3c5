//! Where to listen, and by which host peers reach a listener.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;

use super::values::written_as_string;

/// The transports a listener can be written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// A byte stream.
    Tcp,
    /// A byte stream over TLS.
    Tls,
}

/// Where to listen, written as `"udp://127.0.0.1:5060"` or `"tcp://[::1]:5060"`; port 0 means any
/// free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// By what.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
}

impl Listener {
    /// A port of 127.0.0.1.
    pub(super) const fn loopback(protocol: Protocol, port: u16) -> Self {
        let address = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        Self { protocol, address }
    }
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, address) = if let Some(address) = text.strip_prefix("udp://") {
            (Protocol::Udp, address)
        } else if let Some(address) = text.strip_prefix("tcp://") {
            (Protocol::Tcp, address)
        } else if let Some(address) = text.strip_prefix("tls://") {
            (Protocol::Tls, address)
        } else {
            return Err(not_a_listener(text));
        };
        let address = address.parse().map_err(|_| not_a_listener(text))?;
        Ok(Self { protocol, address })
    }
}

fn not_a_listener(text: &str) -> String {
    format!(
        "\"{text}\" is not a listener; allowed: \"udp://ADDRESS:PORT\", \"tcp://ADDRESS:PORT\", \
         with a numeric IPv4 or [IPv6] address"
    )
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
        };
        write!(f, "{protocol}://{}", self.address)
    }
}

/// How peers reach a listener, written as `"sip.example.com"`, `"192.0.2.1:5060"` or `"[::1]"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A host name or an address, IPv6 without brackets.
    pub host: String,
    /// `None`: the port the listener has.
    pub port: Option<u16>,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_host_port(text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a host; allowed: a host name, an IPv4 or [IPv6] address, \
                 each with or without :PORT"
            )
        })
    }
}

fn parse_host_port(text: &str) -> Option<HostPort> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (
                host,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':')?)
                },
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if !is_host(host) {
        return None;
    }
    let port = match port {
        Some(digits) => Some(digits.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    Some(HostPort {
        host: host.to_owned(),
        port,
    })
}

/// Whether `text` can stand as the host of a URI (RFC 3261 §25.1): a name or an address.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(is_label))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

written_as_string!(Listener, "a listener such as \"udp://127.0.0.1:5060\"");
written_as_string!(HostPort, "a host such as \"sip.example.com:5060\"");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn listeners_name_a_transport_and_a_numeric_address() {
        let listener: Listener = "tcp://[::1]:0".parse().unwrap();
        assert_eq!(listener.protocol, Protocol::Tcp);
        assert_eq!(listener.to_string(), "tcp://[::1]:0");
        assert!("sip://127.0.0.1:5060".parse::<Listener>().is_err());
        assert!("udp://localhost:5060".parse::<Listener>().is_err());
    }

    #[test]
    fn an_advertised_host_may_be_a_name_or_an_address() {
        for good in [
            "sip.example.com",
            "192.0.2.1:5060",
            "[2001:db8::1]:5060",
            "[::1]",
        ] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for wrong in ["", "a b", "a:0", "a:b", "::1", "[a]:1", "[::1]x", "-a"] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_written_makes_the_parsers_panic(text in "\\PC*") {
            let _ = text.parse::<Listener>();
            let _ = text.parse::<HostPort>();
        }
    }
}
