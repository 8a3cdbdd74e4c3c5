//! The values of MSRP header fields and flags (RFC 4975 §9). [`super::frame`] says where they stand.

use std::fmt;

/// The flag of an end-line (RFC 4975 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// `$`: these are the last octets of the message.
    Last,
    /// `+`: more chunks follow.
    More,
    /// `#`: the sender gave the message up.
    Aborted,
}

impl Continuation {
    /// The flag as it is written.
    pub const fn flag(self) -> u8 {
        match self {
            Self::Last => b'$',
            Self::More => b'+',
            Self::Aborted => b'#',
        }
    }

    /// The meaning of a flag.
    pub const fn from_flag(flag: u8) -> Option<Self> {
        match flag {
            b'$' => Some(Self::Last),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Aborted),
            _ => None,
        }
    }
}

/// A header field that keeps a request from being understood: 400 (RFC 4975 §10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed or missing: {0}")]
pub struct Malformed(pub &'static str);

/// What a SEND says besides its paths.
#[derive(Clone, Debug)]
pub struct SendFields<'a> {
    /// A must with a body; bodiless SENDs of some clients lack it.
    pub message_id: Option<&'a str>,
    /// Byte-Range, if present.
    pub byte_range: Option<ByteRange>,
    /// Success-Report, default no.
    pub success_report: bool,
    /// Failure-Report, default yes.
    pub failure_report: FailureReport,
    /// Content-Type, if present.
    pub content_type: Option<&'a str>,
}

/// What a REPORT says besides its paths.
#[derive(Clone, Debug)]
pub struct ReportFields<'a> {
    /// The message it speaks of.
    pub message_id: &'a str,
    /// The octets it speaks of; all, if missing.
    pub byte_range: Option<ByteRange>,
    /// `000` for the codes of RFC 4975 (§7.1.3).
    pub namespace: u16,
    /// The code.
    pub status: u16,
}

/// `Status: 000 200 OK`
pub(super) fn parse_status(value: &str) -> Option<(u16, u16)> {
    let mut words = value.split_ascii_whitespace();
    let namespace = parse_status_code(words.next()?)?;
    let status = parse_status_code(words.next()?)?;
    Some((namespace, status))
}

/// `3DIGIT`
pub(super) fn parse_status_code(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Failure-Report (RFC 4975 §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureReport {
    /// Every request is answered, failures are reported.
    #[default]
    Yes,
    /// Only failures are answered and reported.
    Partial,
    /// Nothing is answered or reported.
    No,
}

impl FailureReport {
    pub(super) fn parse(value: &str) -> Option<Self> {
        const NAMES: [(&str, FailureReport); 3] = [
            ("yes", FailureReport::Yes),
            ("partial", FailureReport::Partial),
            ("no", FailureReport::No),
        ];
        let named = |(name, _): &(&str, Self)| name.eq_ignore_ascii_case(value);
        NAMES.into_iter().find(named).map(|(_, report)| report)
    }

    /// Whether a request that fared so is answered (RFC 4975 §7.1.4, §7.2).
    pub const fn answers(self, status: u16) -> bool {
        match self {
            Self::Yes => true,
            Self::Partial => status != 200,
            Self::No => false,
        }
    }

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partial => "partial",
            Self::No => "no",
        }
    }
}

/// `Byte-Range: start-end/total`, 1-based (RFC 4975 §7.1.1). The end of a chunk that arrives is
/// computed from its data (§7.3.1), so `end` is only what was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Position of the first octet, from 1.
    pub start: u64,
    /// Position of the last octet; `None` for `*`. `start - 1` if there are no octets.
    pub end: Option<u64>,
    /// Octets of the message; `None` for `*`.
    pub total: Option<u64>,
}

impl ByteRange {
    /// Parses the value of a Byte-Range header field.
    pub fn parse(value: &str) -> Option<Self> {
        let (start, rest) = value.split_once('-')?;
        let (end, total) = rest.split_once('/')?;
        let range = Self {
            start: parse_number(start)?,
            end: parse_number_or_star(end)?,
            total: parse_number_or_star(total)?,
        };
        let ordered = range
            .end
            .is_none_or(|end| end >= range.start.wrapping_sub(1));
        (range.start > 0 && ordered).then_some(range)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.start)?;
        match self.end {
            Some(end) => write!(f, "{end}/")?,
            None => f.write_str("*/")?,
        }
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

fn parse_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn parse_number_or_star(text: &str) -> Option<Option<u64>> {
    if text == "*" {
        return Some(None);
    }
    parse_number(text).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn byte_ranges_of_every_form_are_read_and_written() {
        for text in ["1-312/312", "1-*/297", "105-297/297", "1-0/0", "1-*/*"] {
            assert_eq!(ByteRange::parse(text).expect(text).to_string(), text);
        }
        for text in [
            "",
            "0-1/1",
            "5-3/9",
            "1-2",
            "1/2",
            "a-b/c",
            "1--2/3",
            "+1-2/3",
            "1-18446744073709551616/*",
        ] {
            assert_eq!(ByteRange::parse(text), None, "{text}");
        }
    }

    #[test]
    fn failure_report_decides_what_is_answered() {
        assert!(FailureReport::Yes.answers(200) && FailureReport::Yes.answers(413));
        assert!(!FailureReport::Partial.answers(200) && FailureReport::Partial.answers(413));
        assert!(!FailureReport::No.answers(200) && !FailureReport::No.answers(413));
    }

    #[test]
    fn a_status_has_a_namespace_and_a_code() {
        assert_eq!(parse_status("000 200 OK"), Some((0, 200)));
        assert_eq!(parse_status("001 413"), Some((1, 413)));
        assert_eq!(parse_status("200"), None);
        assert_eq!(parse_status("000 2x0"), None);
    }

    proptest! {
        #[test]
        fn byte_ranges_never_panic(text in "[0-9*/-]{0,50}") {
            if let Some(range) = ByteRange::parse(&text) {
                prop_assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
            }
        }
    }
}
