//! The `Date` header field of SIP (RFC 3261 §20.17).

use jiff::Timestamp;
use jiff::fmt::rfc2822;

use crate::clock::UnixMillis;

/// Reads a SIP date, such as `Sat, 13 Nov 2010 23:29:00 GMT`.
pub fn parse(text: &str) -> Option<UnixMillis> {
    let zoned = rfc2822::parse(text.trim()).ok()?;
    u64::try_from(zoned.timestamp().as_millisecond())
        .ok()
        .map(UnixMillis)
}

/// Writes a SIP date.
pub fn sip(time: UnixMillis) -> String {
    static PRINTER: rfc2822::DateTimePrinter = rfc2822::DateTimePrinter::new();
    PRINTER
        .timestamp_to_rfc9110_string(&timestamp(time))
        .unwrap_or_default()
}

/// Writes the present time as a SIP date: many answers leave within a second, and all bear the same.
#[derive(Debug, Default)]
pub struct PresentDate {
    /// Seconds since 1970.
    second: u64,
    text: String,
}

impl PresentDate {
    /// The date of this time.
    pub fn at(&mut self, time: UnixMillis) -> &str {
        let second = time.0 / 1_000;
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text = sip(time);
        }
        &self.text
    }
}

fn timestamp(time: UnixMillis) -> Timestamp {
    i64::try_from(time.0)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sip_date_comes_back() {
        let time = UnixMillis(1_289_690_940_000);
        assert_eq!(sip(time), "Sat, 13 Nov 2010 23:29:00 GMT");
        assert_eq!(parse("Sat, 13 Nov 2010 23:29:00 GMT"), Some(time));
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn the_present_date_goes_on_and_back_with_the_clock() {
        let mut present = PresentDate::default();
        for millis in [0, 999, 1_000, 1_289_690_940_999, 1_289_690_941_000, 7_000] {
            assert_eq!(present.at(UnixMillis(millis)), sip(UnixMillis(millis)));
        }
    }
}
