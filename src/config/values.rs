//! The values a configuration is written in: durations, sizes, listeners, advertised addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// A length of time, written as `"500ms"`, `"4s"`, `"1h30m"` or `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// `seconds` seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// `millis` milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// For computing.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_period(text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a duration; allowed: numbers with units d, h, m, s, ms, \
                 such as \"30s\" or \"1h30m\""
            )
        })
    }
}

fn parse_period(text: &str) -> Option<Period> {
    let mut rest = text;
    let mut millis = 0u64;
    while !rest.is_empty() {
        let (number, tail) = leading_number(rest)?;
        let end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.checked_mul(*factor)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(Period::millis(millis))
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in DURATION_UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

/// A number of octets, written as `"64 KiB"`, `"100 MB"` or a plain integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many octets.
    pub const fn octets(octets: u64) -> Self {
        Self(octets)
    }

    /// So many times 1024 octets.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many times 1024 × 1024 octets.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// For computing.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// For lengths in memory; saturates where a `usize` is too small.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_size(text).ok_or_else(|| {
            format!(
                "\"{text}\" is not a size; allowed: an integer, or a number with a unit \
                 B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, such as \"64 KiB\""
            )
        })
    }
}

fn parse_size(text: &str) -> Option<Size> {
    let (number, rest) = leading_number(text)?;
    let unit = rest.trim_start_matches(' ');
    if unit.is_empty() {
        return Some(Size(number));
    }
    let (_, factor) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor).map(Size)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

/// The transports a listener can be written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// A byte stream.
    Tcp,
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

/// Gives a type that is written as a string its serde form, errors included.
macro_rules! written_as_string {
    ($type:ident, $expecting:literal $(, $integer:path)?) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    $(fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        u64::try_from(number)
                            .map($integer)
                            .map_err(|_| E::custom("a negative size is not allowed"))
                    })?
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

written_as_string!(Period, "a duration such as \"30s\" or \"1h30m\"");
written_as_string!(Size, "a size such as \"64 KiB\" or 65536", Size);
written_as_string!(Listener, "a listener such as \"udp://127.0.0.1:5060\"");
written_as_string!(HostPort, "a host such as \"sip.example.com:5060\"");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_add_up_and_print_in_the_largest_units() {
        assert_eq!("1h30m".parse(), Ok(Period::seconds(5_400)));
        assert_eq!("500ms".parse(), Ok(Period::millis(500)));
        assert_eq!(Period::seconds(604_800).to_string(), "7d");
        assert_eq!(Period::seconds(70).to_string(), "1m10s");
        assert_eq!(Period::seconds(0).to_string(), "0s");
    }

    #[test]
    fn a_wrong_duration_says_what_is_allowed() {
        for wrong in ["", "4", "4 s", "s", "1y", "-1s", "99999999999999999999d"] {
            let error = wrong.parse::<Period>().unwrap_err();
            assert!(error.contains("such as \"30s\""), "{wrong}: {error}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        assert_eq!("64 KiB".parse(), Ok(Size::kib(64)));
        assert_eq!("64kib".parse(), Ok(Size::kib(64)));
        assert_eq!("100 MB".parse(), Ok(Size::octets(100_000_000)));
        assert_eq!("1300".parse(), Ok(Size::octets(1_300)));
        assert_eq!(Size::octets(100_000_000).to_string(), "100 MB");
        assert_eq!(Size::mib(64).to_string(), "64 MiB");
        assert_eq!(Size::octets(0).to_string(), "0 B");
        assert!("1 XB".parse::<Size>().is_err());
        assert!("99999999999 TiB".parse::<Size>().is_err());
    }

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
        fn what_is_printed_is_read_back(millis in any::<u32>(), octets in any::<u64>()) {
            let period = Period::millis(u64::from(millis));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            let size = Size::octets(octets);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn nothing_written_makes_the_parsers_panic(text in "\\PC*") {
            let _ = text.parse::<Period>();
            let _ = text.parse::<Size>();
            let _ = text.parse::<Listener>();
            let _ = text.parse::<HostPort>();
        }
    }
}
