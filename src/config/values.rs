//! The values a configuration is written in: durations and sizes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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

/// Gives a type that is written as a string its serde form, errors included.
macro_rules! written_as_string {
    ($type:ident, $expecting:literal $(, $integer:path)?) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    $(fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
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

pub(super) use written_as_string;

written_as_string!(Period, "a duration such as \"30s\" or \"1h30m\"");
written_as_string!(Size, "a size such as \"64 KiB\" or 65536", Size);

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
        }
    }
}
