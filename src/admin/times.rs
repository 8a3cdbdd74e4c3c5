//! How times are written in answers: RFC 3339, in UTC, with milliseconds.

use crate::clock::UnixMillis;

/// `2026-11-21T07:20:00.125Z`.
pub(super) fn written(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let stamp = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{stamp:.3}")
}

/// The time that a text in this form means.
pub(super) fn read(text: &str) -> Option<UnixMillis> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(stamp.as_millisecond()).ok().map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_and_read() {
        let at = UnixMillis(1_795_245_600_125);
        assert_eq!(written(at), "2026-11-21T07:20:00.125Z");
        assert_eq!(read(&written(at)), Some(at));
        assert_eq!(read("2026-11-21T08:20:00.125+01:00"), Some(at));
        assert_eq!(read("soon"), None);
        assert!(written(UnixMillis(u64::MAX)).starts_with("9999-"));
    }
}
