//! Nonces: made without memory, remembered once used.
//!
//! A nonce is time, randomness and a mark of who gets it, with a MAC over all (RFC 7616 §5.4 suggests the
//! like), so a challenge costs no memory. It may be used from elsewhere, too: requests of one client can go
//! by several proxies. The mark only says whom a wrong answer counts against ([`crate::limits::logins`]). The first accepted request puts it into a bounded table with the
//! counts that were used. RFC 7616 §3.4 wants each count once; because UDP reorders, a count up to
//! 63 below the highest is taken if it is new. A nonce the table had to forget is stale from then
//! on, so forgetting never opens a way to replay.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::clock::UnixMillis;
use crate::limits::logins::SourceTag;
use crate::token::Tokens;

/// Time, mark, randomness, MAC. Each octet of a challenge counts: what may be sent to somebody who has proved
/// nothing is little.
const OCTETS: usize = 24;
const TIME: Range<usize> = 0..6;
const TAG: Range<usize> = 6..10;
const RANDOM: Range<usize> = 10..15;
const MAC: Range<usize> = 15..OCTETS;
/// Locks, so that shards rarely meet at one.
const PARTS: usize = 64;
/// How far ahead of the clock a nonce may be: the clock stepped back a little since it was made.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// What a nonce of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NonceId {
    made_at: UnixMillis,
    tag: u32,
    random: u64,
}

impl NonceId {
    /// To whom it was given.
    pub(super) fn tag(self) -> SourceTag {
        SourceTag(self.tag)
    }

    /// The octets that the MAC covers, and room for it.
    fn octets(self) -> [u8; OCTETS] {
        let mut octets = [0; OCTETS];
        octets[TIME].copy_from_slice(&self.made_at.0.to_be_bytes()[2..]);
        octets[TAG].copy_from_slice(&self.tag.to_be_bytes());
        octets[RANDOM].copy_from_slice(&self.random.to_be_bytes()[3..]);
        octets
    }

    fn read(octets: &[u8; OCTETS]) -> Self {
        let number = |range: Range<usize>| {
            let octets = octets[range].iter();
            octets.fold(0, |number, octet| number << 8 | u64::from(*octet))
        };
        Self {
            made_at: UnixMillis(number(TIME)),
            tag: number(TAG) as u32,
            random: number(RANDOM),
        }
    }
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

    pub(super) fn make(&self, tag: SourceTag, now: UnixMillis, tokens: &mut Tokens) -> String {
        let id = NonceId {
            made_at: now,
            tag: tag.0,
            random: tokens.number() >> 24,
        };
        let mut octets = id.octets();
        self.seal(&mut octets);
        URL_SAFE_NO_PAD.encode(octets)
    }

    /// Whether it is ours, still young, and was given to this source. Of another source's nothing is computed.
    pub(super) fn is_for(&self, nonce: &str, tag: SourceTag, now: UnixMillis) -> bool {
        decoded(nonce).is_some_and(|octets| NonceId::read(&octets).tag() == tag)
            && self.recognise(nonce, now).is_some()
    }

    /// `None` unless it is ours and still young.
    pub(super) fn recognise(&self, nonce: &str, now: UnixMillis) -> Option<NonceId> {
        let octets = decoded(nonce)?;
        let id = NonceId::read(&octets);
        let mut sealed = id.octets();
        self.seal(&mut sealed);
        let young = id.made_at >= self.started_at
            && now.since(id.made_at) <= self.lifetime
            && id.made_at.since(now) <= CLOCK_SLACK;
        (constant_time_eq(&octets, &sealed) && young).then_some(id)
    }

    fn seal(&self, octets: &mut [u8; OCTETS]) {
        let mut mac = self.mac.clone();
        mac.update(&octets[..MAC.start]);
        let full = mac.finalize().into_bytes();
        octets[MAC].copy_from_slice(&full[..MAC.len()]);
    }
}

/// The octets of what is written like a nonce of ours.
fn decoded(nonce: &str) -> Option<[u8; OCTETS]> {
    let mut octets = [0; OCTETS];
    let length = URL_SAFE_NO_PAD.decode_slice(nonce, &mut octets).ok()?;
    (length == OCTETS).then_some(octets)
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
    let mut out = String::with_capacity(2 * octets.len());
    for octet in octets {
        for nibble in [octet >> 4, octet & 15] {
            out.push(char::from(DIGITS[usize::from(nibble)]));
        }
    }
    out
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
    const HERE: SourceTag = SourceTag(0xfeed_beef);

    fn maker() -> NonceMaker {
        NonceMaker::new(&[7; 32], MINUTE, NOW)
    }

    fn id(made_at: u64, random: u64) -> NonceId {
        let made_at = NOW.plus(Duration::from_millis(made_at));
        let tag = 7;
        NonceId {
            made_at,
            tag,
            random,
        }
    }

    #[test]
    fn a_nonce_is_ours_until_its_lifetime_is_over() {
        let nonce = maker().make(HERE, NOW, &mut Tokens::from_seed(1));
        let id = maker().recognise(&nonce, NOW).expect("it is ours");
        assert_eq!((id.made_at, id.tag()), (NOW, HERE));
        assert!(maker().recognise(&nonce, NOW.plus(MINUTE)).is_some());
        assert!(maker().recognise(&nonce, NOW.plus(MINUTE * 2)).is_none());
    }

    #[test]
    fn a_changed_or_foreign_nonce_is_not_ours() {
        let nonce = maker().make(HERE, NOW, &mut Tokens::from_seed(1));
        for at in 0..nonce.len() {
            let mut changed = nonce.clone();
            let other = if nonce[at..].starts_with('A') {
                "B"
            } else {
                "A"
            };
            changed.replace_range(at..=at, other);
            assert!(maker().recognise(&changed, NOW).is_none(), "{at}");
        }
        let other = NonceMaker::new(&[8; 32], MINUTE, NOW);
        assert!(other.recognise(&nonce, NOW).is_none());
        assert!(maker().recognise("", NOW).is_none());
    }

    #[test]
    fn a_nonce_from_before_the_start_or_from_the_future_is_not_taken() {
        let early = UnixMillis(NOW.0 - 1);
        let mut tokens = Tokens::from_seed(1);
        let nonce = maker().make(HERE, early, &mut tokens);
        assert!(maker().recognise(&nonce, NOW).is_none());
        let nonce = maker().make(HERE, NOW.plus(MINUTE), &mut tokens);
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
