//! A part of a text by its place, to be taken from there again, and how far octets of one kind reach.

/// Where a part lies in the text that it was taken from. Nothing here is longer than a line of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// The place of `part`, which is a slice of `whole`; `None` where it is none or lies too far behind.
    pub fn of(part: &str, whole: &str) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
        let end = start + part.len();
        let place = Self {
            start: u16::try_from(start).ok()?,
            end: u16::try_from(end).ok()?,
        };
        (end <= whole.len()).then_some(place)
    }

    /// How far behind the beginning it lies, in octets.
    pub fn start(self) -> usize {
        usize::from(self.start)
    }

    /// The place of the same part where so much stands before the text.
    pub fn behind(self, octets: usize) -> Option<Self> {
        let moved = |place: u16| u16::try_from(usize::from(place) + octets).ok();
        Some(Self {
            start: moved(self.start)?,
            end: moved(self.end)?,
        })
    }

    /// The part again.
    pub fn text(self, whole: &str) -> Option<&str> {
        whole.get(usize::from(self.start)..usize::from(self.end))
    }
}

/// How many octets at the beginning of a text are of a kind. Not inlined: as a loop in another function it would
/// carry along what that counts.
#[inline(never)]
pub fn run_length(text: &[u8], is_of_kind: &[bool; 256]) -> usize {
    let is_other = |octet: &u8| !is_of_kind[usize::from(*octet)];
    text.iter().position(is_other).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_again() {
        let whole = "sip:bob@im.test";
        let place = Span::of(&whole[4..7], whole).expect("a part of it");
        assert_eq!(place.text(whole), Some("bob"));
        assert_eq!(place.text("sip:al"), None);
        let behind = place.behind(1).expect("near");
        assert_eq!(behind.text("<sip:bob@im.test>"), Some("bob"));
        assert_eq!(place.behind(65_530), None);
        let empty = Span::of(&whole[15..], whole).expect("a part of it");
        assert_eq!(empty.text(whole), Some(""));
    }

    #[test]
    fn what_is_no_part_or_lies_too_far_behind_has_no_place() {
        let whole = "x".repeat(70_000);
        assert_eq!(Span::of("y", "z"), None);
        assert_eq!(Span::of(&whole[65_536..65_537], &whole), None);
    }
}
