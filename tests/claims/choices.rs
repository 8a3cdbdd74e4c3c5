//! Decisions read from octets: what a machine is put through is told by the input of its claim.

/// Octets not yet used up; at their end every choice is the first one.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Whether nothing is left to decide by.
    pub fn is_over(self) -> bool {
        self.0.is_empty()
    }

    /// The next octet, or 0.
    pub fn octet(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// One of `count` choices; `count` is 1 to 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.octet()) % count
    }

    /// Yes or no.
    pub fn yes(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    /// Two octets as a number.
    pub fn number(&mut self) -> u64 {
        u64::from(self.octet()) << 8 | u64::from(self.octet())
    }
}
