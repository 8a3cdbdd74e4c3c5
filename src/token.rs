//! Unguessable tokens: tags, branches, Call-IDs, MSRP session-ids and Message-IDs.
//!
//! RFC 3261 §19.3 wants 32 random bits in a tag, RFC 4975 §14.1 wants 80 in a session-id, RFC 5438
//! wants 64 in a Message-ID; every token here carries at least 95. The generator is passed in, so
//! that a simulation seeded alike runs alike.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Letters and digits in one token: 16 × log2(62) ≈ 95 bits.
pub const TOKEN_LENGTH: usize = 16;
/// Letters taken from one random number: of 62^8 none is likelier than another by more than a part in 2^16.
const LETTERS: usize = 8;

/// A source of random tokens.
#[derive(Debug)]
pub struct Tokens(StdRng);

impl Tokens {
    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        Self(rand::make_rng())
    }

    /// The same seed gives the same tokens; for simulations only.
    pub fn from_seed(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A fresh token of letters and digits.
    pub fn token(&mut self) -> String {
        let mut text = String::with_capacity(TOKEN_LENGTH);
        self.push_to(&mut text);
        text
    }

    /// Appends a fresh token to `out`.
    pub fn push_to(&mut self, out: &mut String) {
        for _ in 0..TOKEN_LENGTH / LETTERS {
            // A number below 1, as a fraction: its digits to the base of the alphabet.
            let mut fraction = self.number();
            for _ in 0..LETTERS {
                let product = u128::from(fraction) * ALPHABET.len() as u128;
                out.push(char::from(ALPHABET[(product >> 64) as usize]));
                fraction = product as u64;
            }
        }
    }

    /// A random number, for numeric identifiers such as the SDP session id.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_a_seed_repeats_them() {
        let mut first = Tokens::from_seed(7);
        let mut second = Tokens::from_seed(7);
        let token = first.token();
        assert_eq!(token, second.token());
        assert_ne!(token, first.token());
        assert_eq!(token.len(), TOKEN_LENGTH);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
