//! Nonces: made without memory, remembered once used.
//!
//! A nonce is time and randomness with a MAC over both (RFC 7616 §5.4 suggests the like), so a
//! challenge costs no memory. The first accepted request puts it into a bounded table with the
//! counts that were used. RFC 7616 §3.4 wants each count once; because UDP reorders, a count up to
//! 63 below the highest is taken if it is new. A nonce the table had to forget is stale from then
//! on, so forgetting never opens a way to replay.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::clock::UnixMillis;
use crate::token::Tokens;

const OCTETS: usize = 32;
const MAC_OCTETS: usize = 16;
/// Locks, so that shards rarely meet at one.
const PARTS: usize = 64;
/// How far ahead of the clock a nonce may be: the clock stepped back a little since it was made.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// What a nonce of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NonceId {
    made_at: UnixMillis,
    random: u64,
}

/// Makes and recognises nonces.
#[derive(Clone)]
pub(super) struct NonceMaker {
    mac: Hmac<Sha256>,
    lifetime: Duration,
    /// Nonces from before the process started are stale: which of their counts were used is not known.
    started_at: UnixMillis,
}

impl NonceMaker {
    pub(super) fn new(key: &[u8; 32], lifetime: Duration, started_at: UnixMillis) -> Self {
        Self {
            mac: Hmac::new_from_slice(key).expect("HMAC takes a key of any length"),
            lifetime,
            started_at,
        }
    }

    pub(super) fn make(&self, now: UnixMillis, tokens: &mut Tokens) -> String {
        let id = NonceId {
            made_at: now,
            random: tokens.number(),
        };
        let mut octets = [0; OCTETS];
        octets[..8].copy_from_slice(&id.made_at.0.to_be_bytes());
        octets[8..16].copy_from_slice(&id.random.to_be_bytes());
        octets[16..].copy_from_slice(&self.seal(id));
        to_hex(&octets)
    }

    /// `None` unless it is ours and still young.
    pub(super) fn recognise(&self, nonce: &str, now: UnixMillis) -> Option<NonceId> {
        let octets: [u8; OCTETS] = from_hex(nonce)?;
        let number = |range: std::ops::Range<usize>| -> Option<u64> {
            Some(u64::from_be_bytes(octets.get(range)?.try_into().ok()?))
        };
        let id = NonceId {
            made_at: UnixMillis(number(0..8)?),
            random: number(8..16)?,
        };
        let young = id.made_at >= self.started_at
            && now.since(id.made_at) <= self.lifetime
            && id.made_at.since(now) <= CLOCK_SLACK;
        (constant_time_eq(&octets[16..], &self.seal(id)) && young).then_some(id)
    }

    fn seal(&self, id: NonceId) -> [u8; MAC_OCTETS] {
        let mut mac = self.mac.clone();
        mac.update(&id.made_at.0.to_be_bytes());
        mac.update(&id.random.to_be_bytes());
        let full = mac.finalize().into_bytes();
        std::array::from_fn(|at| full[at])
    }
}

/// Which counts of which nonces were used; shared by all shards.
pub(super) struct UsedCounts {
    parts: Vec<Mutex<Part>>,
    nonces_in_part: usize,
    lifetime: Duration,
}

#[derive(Default)]
struct Part {
    nonces: BTreeMap<NonceId, Window>,
    /// A nonce made up to here and not in the table may have been in it.
    forgotten_until: UnixMillis,
}

/// The highest count, and which of the 64 counts up to it were used.
#[derive(Clone, Copy, Default)]
struct Window {
    highest: u32,
    used: u64,
}

impl UsedCounts {
    /// Remembers about `most_nonces` nonces at once.
    pub(super) fn new(most_nonces: usize, lifetime: Duration) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            nonces_in_part: most_nonces.div_ceil(PARTS).max(1),
            lifetime,
        }
    }

    /// Marks `count` of this nonce as used; false if it was, or may have been.
    pub(super) fn admit(&self, id: NonceId, count: u32, now: UnixMillis) -> bool {
        let part = &self.parts[(id.random % PARTS as u64) as usize];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        part.drop_expired(now, self.lifetime);
        if let Some(window) = part.nonces.get_mut(&id) {
            return window.admit(count);
        }
        if part.nonces.len() >= self.nonces_in_part {
            part.forget_oldest();
        }
        if id.made_at <= part.forgotten_until {
            return false;
        }
        let mut window = Window::default();
        window.admit(count);
        part.nonces.insert(id, window);
        true
    }
}

impl Part {
    fn drop_expired(&mut self, now: UnixMillis, lifetime: Duration) {
        while let Some((id, _)) = self.nonces.first_key_value() {
            if now.since(id.made_at) <= lifetime {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((id, _)) = self.nonces.pop_first() {
            self.forgotten_until = self.forgotten_until.max(id.made_at);
        }
    }
}

impl Window {
    fn admit(&mut self, count: u32) -> bool {
        if count > self.highest {
            let shift = count - self.highest;
            self.used = self.used.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = count;
            return true;
        }
        let Some(bit) = 1u64.checked_shl(self.highest - count) else {
            return false;
        };
        let new = self.used & bit == 0;
        self.used |= bit;
        new
    }
}

/// Compares without telling by its duration where a difference is; lengths are not secret.
pub(super) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

/// Lower-case hex.
pub(super) fn to_hex(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    octets
        .iter()
        .flat_map(|octet| [digit(octet >> 4), digit(*octet)])
        .collect()
}

/// Reads exactly `N` octets of hex in either case.
pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        let (high, low) = (value(pair[0])?, value(pair[1])?);
        *octet = u8::try_from(high << 4 | low).ok()?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn maker() -> NonceMaker {
        NonceMaker::new(&[7; 32], MINUTE, NOW)
    }

    fn id(made_at: u64, random: u64) -> NonceId {
        let made_at = NOW.plus(Duration::from_millis(made_at));
        NonceId { made_at, random }
    }

    #[test]
    fn a_nonce_is_ours_until_its_lifetime_is_over() {
        let nonce = maker().make(NOW, &mut Tokens::from_seed(1));
        assert!(maker().recognise(&nonce, NOW).is_some());
        assert!(maker().recognise(&nonce, NOW.plus(MINUTE)).is_some());
        assert!(maker().recognise(&nonce, NOW.plus(MINUTE * 2)).is_none());
    }

    #[test]
    fn a_changed_or_foreign_nonce_is_not_ours() {
        let nonce = maker().make(NOW, &mut Tokens::from_seed(1));
        let last = if nonce.ends_with('0') { "1" } else { "0" };
        let changed = format!("{}{last}", &nonce[..nonce.len() - 1]);
        assert!(maker().recognise(&changed, NOW).is_none());
        let other = NonceMaker::new(&[8; 32], MINUTE, NOW);
        assert!(other.recognise(&nonce, NOW).is_none());
        assert!(maker().recognise("", NOW).is_none());
    }

    #[test]
    fn a_nonce_from_before_the_start_or_from_the_future_is_not_taken() {
        let early = UnixMillis(NOW.0 - 1);
        let mut tokens = Tokens::from_seed(1);
        let nonce = maker().make(early, &mut tokens);
        assert!(maker().recognise(&nonce, NOW).is_none());
        let nonce = maker().make(NOW.plus(MINUTE), &mut tokens);
        assert!(maker().recognise(&nonce, NOW).is_none());
    }

    #[test]
    fn a_count_is_taken_once_and_may_be_a_little_out_of_order() {
        let counts = UsedCounts::new(64, MINUTE);
        let nonce = id(0, 1);
        for (count, taken) in [
            (1, true),
            (1, false),
            (3, true),
            (2, true),
            (2, false),
            (100, true),
            (37, true),
            (36, false),
            (37, false),
            (3, false),
            (u32::MAX, true),
            (100, false),
        ] {
            assert_eq!(counts.admit(nonce, count, NOW), taken, "{count}");
        }
        assert!(counts.admit(id(0, 2), 1, NOW));
    }

    #[test]
    fn a_forgotten_nonce_is_stale_and_does_not_come_back() {
        let counts = UsedCounts::new(PARTS, MINUTE);
        let (old, new) = (id(10, 0), id(20, PARTS as u64));
        assert!(counts.admit(old, 1, NOW));
        assert!(counts.admit(new, 1, NOW));
        assert!(!counts.admit(old, 1, NOW));
        assert!(!counts.admit(old, 2, NOW));
    }

    #[test]
    fn expired_nonces_leave_the_table() {
        let counts = UsedCounts::new(PARTS * 10, MINUTE);
        assert!(counts.admit(id(0, 0), 1, NOW));
        let later = NOW.plus(MINUTE * 3);
        assert!(counts.admit(id(180_000, 0), 1, later));
        assert_eq!(counts.parts[0].lock().unwrap().nonces.len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_recognition_panic(text in "\\PC{0,70}") {
            let _ = maker().recognise(&text, NOW);
        }

        #[test]
        fn no_count_is_ever_taken_twice(counts in proptest::collection::vec(1u32..200, 0..100)) {
            let table = UsedCounts::new(64, MINUTE);
            let mut taken = std::collections::BTreeSet::new();
            for count in counts {
                if table.admit(id(0, 1), count, NOW) {
                    prop_assert!(taken.insert(count));
                }
            }
        }

        #[test]
        fn hex_is_read_back(octets in any::<[u8; 9]>()) {
            prop_assert_eq!(from_hex(&to_hex(&octets)), Some(octets));
        }
    }
}
