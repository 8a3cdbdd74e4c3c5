//! Octets of a message in memory, each at its place.
//!
//! Long pieces stay the slices of the connection's buffer that they came as; short ones are gathered,
//! because a slice keeps the whole buffer.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::net::buffers::BUFFER;

/// Shorter pieces are gathered.
const SHORT: usize = 16 * 1024;
/// Up to so many octets.
const GATHERED: usize = 64 * 1024;
/// What a part costs beside its octets: its place in the table, and the allocator's share.
const PART: usize = 128;

#[derive(Debug)]
enum Part {
    Slice(Bytes),
    Gathered(BytesMut),
}

impl Part {
    fn octets(&self) -> &[u8] {
        match self {
            Self::Slice(octets) => octets,
            Self::Gathered(octets) => octets,
        }
    }

    /// A slice is counted with the buffer that it may be all there is left of.
    fn cost(&self) -> usize {
        PART + match self {
            Self::Slice(octets) => octets.len().max(BUFFER),
            Self::Gathered(octets) => octets.capacity(),
        }
    }

    /// What is left of a part; if it is short, without the rest of its buffer.
    fn rest(octets: Bytes) -> Self {
        match octets.len() < SHORT {
            true => Self::Gathered(BytesMut::from(&octets[..])),
            false => Self::Slice(octets),
        }
    }

    fn into_octets(self) -> Bytes {
        match self {
            Self::Slice(octets) => octets,
            Self::Gathered(octets) => octets.freeze(),
        }
    }
}

/// Parts of one message by their offsets; none overlaps another.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: BTreeMap<u64, Part>,
    octets: u64,
    cost: usize,
}

impl Parts {
    /// Whether `count` octets more are within `most`. Many small parts are more than their octets.
    pub(super) fn have_room_for(&self, count: u64, most: u64) -> bool {
        let parts = (self.parts.len() * PART) as u64;
        self.octets + parts + count <= most
    }

    /// Memory in use.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Puts octets at their place, over those that are there.
    pub(super) fn write(&mut self, offset: u64, octets: Bytes) {
        self.cut_out(offset, offset.saturating_add(octets.len() as u64));
        if octets.len() >= SHORT {
            return self.insert(offset, Part::Slice(octets));
        }
        if !self.gather(offset, &octets) {
            self.insert(offset, Part::Gathered(BytesMut::from(&octets[..])));
        }
    }

    /// Adds short octets to the gathered ones right before them, if there are any.
    fn gather(&mut self, offset: u64, octets: &[u8]) -> bool {
        let before = self.parts.range_mut(..offset).next_back();
        let Some((start, Part::Gathered(gathered))) = before else {
            return false;
        };
        let fits = gathered.len() + octets.len() <= GATHERED;
        if !fits || start + gathered.len() as u64 != offset {
            return false;
        }
        self.cost -= gathered.capacity();
        gathered.extend_from_slice(octets);
        self.cost += gathered.capacity();
        self.octets += octets.len() as u64;
        true
    }

    fn insert(&mut self, offset: u64, part: Part) {
        self.octets += part.octets().len() as u64;
        self.cost += part.cost();
        self.parts.insert(offset, part);
    }

    fn remove(&mut self, offset: u64) -> Option<Part> {
        let part = self.parts.remove(&offset)?;
        self.octets -= part.octets().len() as u64;
        self.cost -= part.cost();
        Some(part)
    }

    /// Leaves nothing between `start` and `end`.
    pub(super) fn cut_out(&mut self, start: u64, end: u64) {
        while let Some((at, part)) = self.parts.range(..end).next_back() {
            let at = *at;
            if at + part.octets().len() as u64 <= start {
                return;
            }
            let Some(part) = self.remove(at) else {
                return;
            };
            let mut left = part.into_octets();
            if at + left.len() as u64 > end {
                let right = left.split_off((end - at) as usize);
                self.insert(end, Part::rest(right));
            }
            if at < start {
                left.truncate((start - at) as usize);
                self.insert(at, Part::rest(left));
            }
        }
    }

    /// At most `most` octets from `offset`, as far as one part goes.
    pub(super) fn read(&self, offset: u64, most: usize) -> Option<Bytes> {
        let (start, part) = self.parts.range(..=offset).next_back()?;
        let octets = part.octets();
        let from = usize::try_from(offset - start).ok()?;
        if from >= octets.len() {
            return None;
        }
        let range = from..from.saturating_add(most).min(octets.len());
        Some(match part {
            Part::Slice(octets) => octets.slice(range),
            Part::Gathered(octets) => Bytes::copy_from_slice(&octets[range]),
        })
    }

    /// Parts that end before `offset` are needed no more.
    pub(super) fn forget_before(&mut self, offset: u64) {
        while let Some((start, part)) = self.parts.first_key_value() {
            if start + part.octets().len() as u64 > offset {
                return;
            }
            let start = *start;
            self.remove(start);
        }
    }

    /// All parts, in order.
    pub(super) fn into_octets(self) -> impl Iterator<Item = (u64, Bytes)> {
        let parts = self.parts.into_iter();
        parts.map(|(offset, part)| (offset, part.into_octets()))
    }

    /// All octets; there is no gap between them.
    pub(super) fn joined(mut self) -> Bytes {
        if self.parts.len() <= 1 {
            let only = self.parts.pop_first();
            return only.map(|(_, part)| part.into_octets()).unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(self.octets as usize);
        for part in self.parts.values() {
            all.extend_from_slice(part.octets());
        }
        all.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All octets as they would be read, with their places.
    fn read(parts: &Parts, length: usize) -> Vec<Option<u8>> {
        let mut all = vec![None; length];
        let mut at = 0;
        while at < length {
            let Some(octets) = parts.read(at as u64, length) else {
                at += 1;
                continue;
            };
            for octet in octets {
                all[at] = Some(octet);
                at += 1;
            }
        }
        all
    }

    proptest! {
        #[test]
        fn parts_say_what_was_written_last(
            writes in proptest::collection::vec((0usize..30_000, 1usize..9_000, any::<u8>(), any::<bool>()), 0..20),
        ) {
            let mut parts = Parts::default();
            let mut expected = vec![None; 40_000];
            for (offset, count, value, is_written) in writes {
                if is_written {
                    parts.write(offset as u64, Bytes::from(vec![value; count]));
                } else {
                    parts.cut_out(offset as u64, (offset + count) as u64);
                }
                let now = is_written.then_some(value);
                expected[offset..offset + count].fill(now);
            }
            prop_assert!(read(&parts, expected.len()) == expected);
            let count = expected.iter().flatten().count();
            prop_assert_eq!(parts.octets, count as u64);
            prop_assert!(parts.cost() >= count);
            parts.forget_before(u64::MAX);
            prop_assert_eq!((parts.octets, parts.cost()), (0, 0));
        }
    }

    #[test]
    fn short_pieces_are_gathered() {
        let mut parts = Parts::default();
        for at in 0..10_000 {
            parts.write(at, Bytes::from_static(b"x"));
        }
        assert_eq!(parts.parts.len(), 1);
        assert_eq!(parts.joined(), vec![b'x'; 10_000]);
    }

    #[test]
    fn a_part_costs_what_it_keeps_and_its_place() {
        let buffer = Bytes::from(vec![0; BUFFER]);
        let mut parts = Parts::default();
        parts.write(0, buffer.slice(..4096));
        assert_eq!(parts.cost(), 4096 + PART, "copied");
        parts.write(4096, buffer.slice(..SHORT));
        assert_eq!(parts.cost(), 4096 + BUFFER + 2 * PART, "kept");
        // One octet before the other: none is gathered with the next one.
        let mut parts = Parts::default();
        for at in (0..1_000).rev() {
            parts.write(at, Bytes::from_static(b"x"));
        }
        assert!(parts.cost() >= 1_000 * (PART + 1));
        assert!(!parts.have_room_for(1, 64 * 1024));
    }
}
