//! Where an end-line may begin: with seven hyphens (RFC 4975 §7.1, §7.3.1). What is searched for is the same in
//! every frame, so the search is prepared once.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// What stands before the transaction identifier in an end-line.
pub(super) const HYPHENS: &[u8] = b"-------";

static ANYWHERE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(HYPHENS));
static AFTER_LINE_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n-------"));

/// Where the first CRLF that the hyphens follow begins.
pub(super) fn find_after_line_end(octets: &[u8]) -> Option<usize> {
    AFTER_LINE_END.find(octets)
}

/// Whether the hyphens stand anywhere right before `transaction`.
pub(super) fn precede(octets: &[u8], transaction: &[u8]) -> bool {
    let mut from = 0;
    while let Some(offset) = ANYWHERE.find(octets.get(from..).unwrap_or_default()) {
        let at = from + offset;
        let rest = octets.get(at + HYPHENS.len()..).unwrap_or_default();
        if rest.starts_with(transaction) {
            return true;
        }
        from = at + 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_hyphens_than_seven_hide_nothing() {
        assert!(precede(b"x\r\n----------abcd$", b"abcd"));
        assert!(precede(b"-------abce-------abcd", b"abcd"));
        assert!(!precede(b"------abcd -------abc", b"abcd"));
        assert!(!precede(b"-------", b"abcd") && !precede(b"", b"abcd"));
    }

    #[test]
    fn a_line_end_has_to_stand_before_them() {
        assert_eq!(find_after_line_end(b"-------\r\n-------a"), Some(7));
        assert_eq!(find_after_line_end(b"-------\n-------"), None);
    }
}
