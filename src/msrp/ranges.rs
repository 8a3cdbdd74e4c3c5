//! Which octets of a message are here (RFC 4975 §7.3.1: "keeping track of which bytes have been
//! received and which are missing").

/// Half-open ranges of octets, from 0, sorted, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<(u64, u64)>);

impl RangeSet {
    /// Adds `start..end`, joining what it touches.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // In order is the common case: the last range grows.
        if let Some(last) = self.0.last_mut()
            && last.1 == start
        {
            last.1 = end;
            return;
        }
        let first = self.0.partition_point(|range| range.1 < start);
        let after = self.0.partition_point(|range| range.0 <= end);
        let touched = self.0.get(first..after).unwrap_or_default();
        let start = touched.first().map_or(start, |range| range.0.min(start));
        let end = touched.last().map_or(end, |range| range.1.max(end));
        self.0.splice(first..after, [(start, end)]);
    }

    /// Whether every octet before `end` is here.
    pub(super) fn covers(&self, end: u64) -> bool {
        end == 0 || matches!(self.0.first(), Some((0, first)) if *first >= end)
    }

    /// One past the last octet that is here.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.1)
    }

    /// How many ranges there are; one more than there are holes between them.
    pub(super) fn pieces(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut set = RangeSet::default();
        for (start, end) in [(10, 20), (30, 40), (0, 5), (20, 30)] {
            set.insert(start, end);
        }
        assert_eq!(set.0, [(0, 5), (10, 40)]);
        assert!(set.covers(5) && !set.covers(6));
        set.insert(3, 12);
        assert_eq!(set.0, [(0, 40)]);
        set.insert(7, 7);
        assert_eq!((set.pieces(), set.end()), (1, 40));
    }

    proptest! {
        #[test]
        fn a_set_agrees_with_a_naive_model(
            inserts in proptest::collection::vec((0u64..60, 0u64..20), 0..30)
        ) {
            let mut set = RangeSet::default();
            let mut model = [false; 80];
            for (start, length) in inserts {
                set.insert(start, start + length);
                model[start as usize..(start + length) as usize].fill(true);
            }
            for end in 0..80u64 {
                let covered = model[..end as usize].iter().all(|here| *here);
                prop_assert_eq!(set.covers(end), covered);
            }
            let last = model.iter().rposition(|here| *here).map_or(0, |at| at as u64 + 1);
            prop_assert_eq!(set.end(), last);
            let starts = model.iter().enumerate()
                .filter(|(at, here)| **here && (*at == 0 || !model[at - 1]));
            prop_assert_eq!(set.pieces(), starts.count());
        }
    }
}
