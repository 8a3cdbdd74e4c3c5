//! A body that is arriving: a buffer for what came last, and pieces on disk for what came before.
//!
//! A message that fits the buffer never touches a body segment.

use bytes::Bytes;

use super::manifest::{Piece, Place};
use super::record;
use super::request::{Refusal, SpoolId};

/// No segment has this number.
pub(super) const IN_MEMORY: u64 = 0;
/// Octets of a buffer, and of the largest piece; also the largest body inside a message record.
pub(super) const BUFFER: usize = 64 * 1024;
/// Pieces of one spool, at most: hostile byte ranges could make one of every octet.
const PIECES: usize = 65_536;

/// Whose spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A shard named it; no two name the same. Whichever shard takes the message asks for it by the name.
    Client(SpoolId),
    /// It came whole with a `Put`, and is gone with it.
    Whole(u64),
}

/// A body that is arriving.
#[derive(Default)]
pub(super) struct Spool {
    /// In the order they came.
    pub(super) pieces: Vec<Piece>,
    buffer: Vec<u8>,
    buffer_offset: u64,
    /// A `Put` is using so many octets of it; dropping waits for the outcome.
    pub(super) taken: Option<u64>,
    pub(super) dropped: bool,
    /// It is no longer whole.
    pub(super) failed: Option<Refusal>,
}

impl Spool {
    /// Octets in memory.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes octets that continue the buffer, as many as it has room for.
    pub(super) fn extend(&mut self, offset: u64, octets: &[u8]) -> usize {
        if self.buffer.is_empty() {
            self.buffer_offset = offset;
        }
        if offset != self.buffer_offset + self.buffer.len() as u64 {
            return 0;
        }
        let count = octets.len().min(BUFFER - self.buffer.len());
        self.buffer
            .extend_from_slice(octets.get(..count).unwrap_or_default());
        count
    }

    /// What must go to disk before more can be taken: offset and octets.
    pub(super) fn flush(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.buffer.is_empty() {
            return None;
        }
        Some((self.buffer_offset, std::mem::take(&mut self.buffer)))
    }

    /// A piece is on disk.
    pub(super) fn add(&mut self, piece: Piece) {
        self.pieces.push(piece);
        if self.pieces.len() > PIECES {
            self.failed = Some(Refusal::Full);
        }
    }

    /// The whole body, if it is in memory.
    pub(super) fn in_memory(&self, length: u64) -> Option<&[u8]> {
        if !self.pieces.is_empty() || (self.buffer_offset != 0 && length > 0) {
            return None;
        }
        self.buffer.get(..usize::try_from(length).ok()?)
    }

    /// All pieces with the buffer as the last, which lies in segment [`IN_MEMORY`]; and the buffer as
    /// the payload of a piece.
    pub(super) fn layers(&self) -> (Vec<Piece>, Bytes) {
        let payload = record::encode_piece(0, self.buffer_offset, &self.buffer);
        let length = u32::try_from(self.buffer.len()).unwrap_or(0);
        let place = Place {
            segment: IN_MEMORY,
            position: 0,
            length,
        };
        let buffer = Piece {
            offset: self.buffer_offset,
            length,
            place,
        };
        let mut pieces = self.pieces.clone();
        pieces.push(buffer);
        (pieces, payload.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_takes_what_continues_it_and_no_more() {
        let mut spool = Spool::default();
        assert_eq!(spool.extend(0, &[1; 10]), 10);
        assert_eq!(spool.extend(20, &[2; 10]), 0);
        assert_eq!(spool.extend(10, &vec![3; BUFFER]), BUFFER - 10);
        assert_eq!(spool.in_memory(11).map(<[u8]>::len), Some(11));
        let (offset, octets) = spool.flush().expect("full");
        assert_eq!((offset, octets.len()), (0, BUFFER));
    }
}
