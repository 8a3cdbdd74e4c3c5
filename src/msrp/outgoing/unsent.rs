//! Octets of a message that are not in a chunk yet.
//!
//! Long pieces stay the slices they came as; short ones are gathered, because a slice keeps the whole
//! buffer that it is a part of.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Shorter pieces are gathered.
const SHORT: usize = 4 * 1024;

/// The octets of a chunk, in order.
pub(super) type Slices = SmallVec<[Bytes; 6]>;

#[derive(Debug, Default)]
pub(super) struct Unsent {
    slices: VecDeque<Bytes>,
    /// Behind the slices.
    gathered: BytesMut,
    length: usize,
}

impl Unsent {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, octets: Bytes) {
        self.length += octets.len();
        if octets.len() < SHORT {
            return self.gathered.extend_from_slice(&octets);
        }
        self.close_gathered();
        self.slices.push_back(octets);
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.slices.push_back(self.gathered.split().freeze());
        }
    }

    /// Takes the first `count` octets out, or all if there are less.
    pub(super) fn take(&mut self, count: usize) -> Slices {
        let mut left = count.min(self.length);
        self.length -= left;
        if self.slices.iter().map(Bytes::len).sum::<usize>() < left {
            self.close_gathered();
        }
        let mut taken = Slices::new();
        while left > 0 {
            let Some(front) = self.slices.front_mut() else {
                break;
            };
            let slice = front.split_to(left.min(front.len()));
            left -= slice.len();
            taken.push(slice);
            if front.is_empty() {
                self.slices.pop_front();
            }
        }
        taken
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn octets_come_out_in_order(
            steps in proptest::collection::vec((any::<bool>(), 0usize..10_000), 0..30),
        ) {
            let mut unsent = Unsent::default();
            let (mut next, mut expected) = (0_u8, VecDeque::new());
            for (is_pushed, count) in steps {
                if is_pushed {
                    next = next.wrapping_add(1);
                    unsent.push(Bytes::from(vec![next; count]));
                    expected.extend(std::iter::repeat_n(next, count));
                    continue;
                }
                let taken = unsent.take(count).concat();
                let wanted: Vec<u8> = expected.drain(..count.min(expected.len())).collect();
                prop_assert!(taken == wanted);
            }
            prop_assert_eq!(unsent.len(), expected.len());
        }
    }
}
