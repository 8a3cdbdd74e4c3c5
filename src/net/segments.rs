//! Datagrams that go to the kernel as one: as many as have one destination and one length, of which the last may
//! be shorter. The kernel, or the network card, takes them apart again (UDP segmentation offload), and its way
//! is gone once for all of them.

use std::net::SocketAddr;

use bytes::Bytes;

use super::sys::SENT;

/// So many make one at most; older kernels take no more (`UDP_MAX_SEGMENTS`).
const MOST: usize = 64;
/// Their octets at most: less than what UDP can carry.
const OCTETS: usize = 65_000;
/// A datagram longer than this would perhaps have to be fragmented, which cannot be done to several at once.
const LONGEST: usize = 1400;
/// Groups that the kernel may refuse before no more are made: its device cannot take them apart.
const REFUSALS: u32 = 16;

/// How many of the first datagrams can go as one; at least 1 if there are any.
pub fn run(datagrams: &[(SocketAddr, Bytes)]) -> usize {
    let Some(((remote, first), rest)) = datagrams.split_first() else {
        return 0;
    };
    let size = first.len();
    if !(1..=LONGEST).contains(&size) {
        return 1;
    }
    let mut count = 1;
    for (other, octets) in rest.iter().take(MOST.min(OCTETS / size) - 1) {
        if other != remote || octets.is_empty() || octets.len() > size {
            break;
        }
        count += 1;
        if octets.len() < size {
            break;
        }
    }
    count
}

/// Brings those with one destination together; among them the order stays.
fn arrange(datagrams: &mut [(SocketAddr, Bytes)]) {
    if datagrams.len() > 2 && !datagrams.is_sorted_by_key(|(remote, _)| *remote) {
        datagrams.sort_by_key(|(remote, _)| *remote);
    }
}

/// Which datagrams are next, and whether groups are made of them.
#[derive(Debug, Default)]
pub struct Grouping {
    /// So many of the next datagrams have been brought together.
    arranged: usize,
    /// So many of the next datagrams go alone.
    alone: usize,
    refusals: u32,
    /// The last refusal may be no fault of the group: the first of it has not been tried alone.
    is_doubtful: bool,
}

impl Grouping {
    /// The first datagrams, those with one destination together. What comes later stands behind all of them until
    /// they have left, so that no destination waits for ever.
    pub fn next<'a>(
        &mut self,
        waiting: &'a mut [(SocketAddr, Bytes)],
    ) -> &'a [(SocketAddr, Bytes)] {
        if self.arranged == 0 {
            self.arranged = waiting.len().min(SENT);
            arrange(&mut waiting[..self.arranged]);
        }
        &waiting[..self.arranged.min(waiting.len())]
    }

    /// How many of the first datagrams go as one now.
    pub fn run(&self, datagrams: &[(SocketAddr, Bytes)]) -> usize {
        match self.alone > 0 || self.refusals >= REFUSALS {
            true => datagrams.len().min(1),
            false => run(datagrams),
        }
    }

    /// So many have left, or were dropped.
    pub fn sent(&mut self, datagrams: usize) {
        self.arranged = self.arranged.saturating_sub(datagrams);
        self.alone = self.alone.saturating_sub(datagrams);
        self.is_doubtful = false;
    }

    /// So many were refused as one: they are tried again, each alone. False if it was one only.
    pub fn refused(&mut self, datagrams: usize) -> bool {
        if datagrams < 2 {
            // Alone it has no way either, so that says nothing of groups.
            self.refusals -= u32::from(std::mem::take(&mut self.is_doubtful));
            return false;
        }
        self.alone = datagrams;
        self.refusals += 1;
        self.is_doubtful = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(last: u8, length: usize) -> (SocketAddr, Bytes) {
        (
            ([192, 0, 2, last], 5060).into(),
            Bytes::from(vec![last; length]),
        )
    }

    #[test]
    fn those_of_one_length_go_together_and_a_shorter_one_ends_them() {
        let datagrams =
            |lengths: &[usize]| -> Vec<_> { lengths.iter().map(|length| to(1, *length)).collect() };
        for (lengths, expected) in [
            (&[][..], 0),
            (&[500], 1),
            (&[500, 500, 500], 3),
            (&[500, 500, 400, 400], 3),
            (&[500, 501], 1),
            (&[500, 0, 500], 1),
            (&[0, 0], 1),
            (&[1400, 1400], 2),
            (&[1401, 1401], 1),
        ] {
            assert_eq!(run(&datagrams(lengths)), expected, "{lengths:?}");
        }
        assert_eq!(run(&datagrams(&[10; 100])), MOST);
        assert_eq!(run(&datagrams(&[1300; 100])), OCTETS / 1300);
    }

    #[test]
    fn only_what_goes_to_one_place_goes_together() {
        let mut datagrams = vec![to(2, 8), to(1, 5), to(2, 7), to(1, 5), to(1, 6)];
        assert_eq!(run(&datagrams), 1);
        arrange(&mut datagrams);
        assert_eq!(
            datagrams,
            [to(1, 5), to(1, 5), to(1, 6), to(2, 8), to(2, 7)]
        );
        assert_eq!((run(&datagrams), run(&datagrams[3..])), (2, 2));
    }

    #[test]
    fn what_comes_later_is_not_put_before_what_waits() {
        let mut waiting = vec![to(9, 1), to(8, 1), to(9, 2)];
        let mut grouping = Grouping::default();
        let first = [to(8, 1), to(9, 1), to(9, 2)];
        assert_eq!(grouping.next(&mut waiting), first);
        grouping.sent(1);
        waiting.remove(0);
        waiting.extend([to(9, 3), to(1, 1), to(9, 4)]);
        assert_eq!(grouping.next(&mut waiting), &first[1..]);
        grouping.sent(2);
        waiting.drain(..2);
        let later = [to(1, 1), to(9, 3), to(9, 4)];
        assert_eq!(grouping.next(&mut waiting), later);
        grouping.sent(3);
        assert_eq!(grouping.next(&mut vec![to(1, 7); 300]).len(), SENT);
    }

    #[test]
    fn what_is_refused_as_one_goes_alone_and_after_many_refusals_all_does() {
        let datagrams: Vec<_> = (0..10).map(|_| to(1, 9)).collect();
        let mut grouping = Grouping::default();
        assert!(!grouping.refused(1), "nobody made a group of it");
        for _ in 0..REFUSALS {
            assert_eq!(grouping.run(&datagrams), 10);
            assert!(grouping.refused(4));
            assert_eq!(grouping.run(&datagrams), 1);
            grouping.sent(3);
            assert_eq!(grouping.run(&datagrams), 1);
            grouping.sent(1);
        }
        assert_eq!((grouping.run(&datagrams), grouping.run(&[])), (1, 0));
    }

    #[test]
    fn a_destination_without_a_way_is_no_reason_to_make_no_groups() {
        let datagrams: Vec<_> = (0..10).map(|_| to(1, 9)).collect();
        let mut grouping = Grouping::default();
        for _ in 0..2 * REFUSALS {
            assert!(grouping.refused(10));
            for _ in 0..10 {
                assert!(!grouping.refused(1));
                grouping.sent(1);
            }
        }
        assert_eq!(grouping.run(&datagrams), 10);
    }
}
