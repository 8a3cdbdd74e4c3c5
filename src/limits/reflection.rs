//! How much may be sent to an address that only a datagram has named.
//!
//! Who writes a victim's address on a request makes the server send the answer there. What the victim gets
//! must not be worth the trouble: for each octet of a request at most one and a half octets of answers,
//! retransmissions included, until somebody has proved to be there.

/// Octets that may be sent for a request of `length` octets before anybody has proved who he is.
pub const fn allowance(length: usize) -> usize {
    length.saturating_add(length / 2)
}

/// What a server adds to the Via of a request at most: `received` and `rport` with their values.
const STAMP: usize = 64;

/// What may still be sent to the sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Somebody has proved to be there, or has a connection.
    Unbounded,
    /// So many octets.
    Octets {
        /// Left of what has come so far.
        left: u32,
        /// How long the request was when it came.
        came: u32,
        /// How long it was once its Via was stamped.
        stamped: u32,
    },
}

impl Allowance {
    /// For a request of `came` octets that are now `stamped`.
    pub const fn of(came: usize, stamped: usize) -> Self {
        Self::Octets {
            left: short(allowance(came)),
            came: short(came),
            stamped: short(stamped),
        }
    }

    /// It came again, and is `again` octets long with its stamp.
    pub fn grow(&mut self, again: usize) {
        if let Self::Octets {
            left,
            came,
            stamped,
        } = self
        {
            let length = match again == *stamped as usize {
                true => *came as usize,
                // Another one with the same branch: it may be all stamp.
                false => again.saturating_sub(STAMP),
            };
            *left = left.saturating_add(short(allowance(length)));
        }
    }

    /// Takes `length` octets; `false`, and nothing taken, where that is too much.
    pub fn spend(&mut self, length: usize) -> bool {
        let fits = self.fits(length);
        if let (Self::Octets { left, .. }, true) = (self, fits) {
            *left -= short(length);
        }
        fits
    }

    /// Whether `length` octets may be sent.
    pub fn fits(&self, length: usize) -> bool {
        match self {
            Self::Unbounded => true,
            Self::Octets { left, .. } => length <= *left as usize,
        }
    }
}

/// A length in four octets. No message is longer.
const fn short(length: usize) -> u32 {
    if length > u32::MAX as usize {
        u32::MAX
    } else {
        length as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_a_request_are_one_and_a_half_times_as_long_in_all() {
        let mut allowance = Allowance::of(400, 440);
        assert!(allowance.spend(500));
        assert!(!allowance.spend(101), "a retransmission counts as well");
        assert!(allowance.spend(100));
        assert!(!allowance.fits(1));
        allowance.grow(440);
        assert!(allowance.fits(600) && !allowance.fits(601));
    }

    #[test]
    fn short_requests_with_the_branch_of_a_long_one_buy_little() {
        let mut allowance = Allowance::of(1_000, 1_040);
        assert!(allowance.spend(1_500));
        allowance.grow(100);
        assert!(allowance.fits(54) && !allowance.fits(55));
    }

    #[test]
    fn who_is_known_to_be_there_gets_what_he_asks_for() {
        let mut allowance = Allowance::Unbounded;
        allowance.grow(1);
        assert!(allowance.spend(1 << 20) && allowance.fits(1 << 20));
    }
}
