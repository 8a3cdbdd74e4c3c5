//! Memory that the connections of a shard read into.
//!
//! What is read is handed on as slices of the buffer it came in. A connection that has nothing unfinished holds
//! no buffer: what is left of it serves the next one that reads, and one whose slices are all gone serves again.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::BytesMut;

/// Octets of a buffer; a slice keeps as many.
pub const BUFFER: usize = 64 * 1024;
/// Octets that a socket is asked for at least.
const READ: usize = 16 * 1024;
/// Buffers that are kept for whoever reads next.
const KEPT: usize = 8;

/// See the module's text.
#[derive(Debug, Default)]
pub struct ReadBuffers(RefCell<VecDeque<BytesMut>>);

impl ReadBuffers {
    /// Puts `unfinished` where there is room to read behind it.
    pub fn lend(&self, unfinished: &mut BytesMut) {
        let least = unfinished.len() + READ;
        let mut buffer = self.find(least);
        buffer.extend_from_slice(unfinished);
        *unfinished = buffer;
    }

    fn find(&self, least: usize) -> BytesMut {
        let mut kept = self.0.borrow_mut();
        let fits = |buffer: &mut BytesMut| {
            buffer.capacity() >= least || (least <= BUFFER && buffer.try_reclaim(BUFFER))
        };
        let found = kept.iter_mut().position(fits);
        let found = found.and_then(|at| kept.remove(at));
        found.unwrap_or_else(|| BytesMut::with_capacity(BUFFER.max(least)))
    }

    /// Takes back what is not used; `unfinished` stays, in memory of its own.
    pub fn take_back(&self, unfinished: &mut BytesMut) {
        let rest = unfinished.split_off(unfinished.len());
        let own = BytesMut::from(&unfinished[..]);
        *unfinished = own;
        let mut kept = self.0.borrow_mut();
        kept.push_front(rest);
        kept.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_leaves_the_next_one_reads_into() {
        let buffers = ReadBuffers::default();
        let mut first = BytesMut::new();
        buffers.lend(&mut first);
        first.extend_from_slice(b"whole and beg");
        let whole = first.split_to(5).freeze();
        buffers.take_back(&mut first);
        assert_eq!((&whole[..], &first[..]), (&b"whole"[..], &b" and beg"[..]));
        assert!(first.capacity() < READ);
        let mut second = BytesMut::new();
        buffers.lend(&mut second);
        assert_eq!(second.as_ptr(), whole.as_ptr().wrapping_add(13));
        buffers.lend(&mut first);
        assert_eq!(&first[..], b" and beg");
        assert!(first.capacity() >= READ + 8);
    }

    #[test]
    fn a_buffer_whose_slices_are_gone_serves_again() {
        let buffers = ReadBuffers::default();
        let mut buffer = BytesMut::new();
        buffers.lend(&mut buffer);
        let place = buffer.as_ptr();
        for _ in 0..10 {
            buffer.resize(BUFFER - 10, 7);
            let slice = buffer.split().freeze();
            buffers.take_back(&mut buffer);
            drop(slice);
            buffers.lend(&mut buffer);
            assert_eq!(buffer.as_ptr(), place);
        }
    }

    #[test]
    fn few_are_kept() {
        let buffers = ReadBuffers::default();
        let mut lent: Vec<_> = (0..KEPT + 5).map(|_| BytesMut::new()).collect();
        lent.iter_mut().for_each(|buffer| buffers.lend(buffer));
        lent.iter_mut().for_each(|buffer| buffers.take_back(buffer));
        assert_eq!(buffers.0.borrow().len(), KEPT);
        assert!(lent.iter().all(|buffer| buffer.capacity() == 0));
    }

    #[test]
    fn more_than_a_buffer_can_be_unfinished() {
        let buffers = ReadBuffers::default();
        let mut buffer = BytesMut::from(&vec![1; 2 * BUFFER][..]);
        buffers.lend(&mut buffer);
        assert!(buffer.len() == 2 * BUFFER && buffer.capacity() >= 2 * BUFFER + READ);
    }
}
