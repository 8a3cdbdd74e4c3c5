//! Octets that leave together though they lie apart: what only passes through is not copied to stand
//! behind its head.

use bytes::{Bytes, BytesMut};

/// One piece at least, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    first: Bytes,
    rest: Box<[Bytes]>,
}

impl Pieces {
    /// `first`, and what follows it.
    pub fn new(first: Bytes, rest: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            first,
            rest: rest.into_iter().collect(),
        }
    }

    /// Octets in all.
    pub fn len(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().all(Bytes::is_empty)
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// In one piece, copied if there are several.
    pub fn joined(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        let mut all = BytesMut::with_capacity(self.len());
        self.iter().for_each(|piece| all.extend_from_slice(piece));
        all.freeze()
    }
}

impl From<Bytes> for Pieces {
    fn from(octets: Bytes) -> Self {
        Self {
            first: octets,
            rest: Box::default(),
        }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::iter::Once<Bytes>, std::vec::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest.into_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_in_order() {
        let piece = Bytes::from_static;
        let pieces = Pieces::new(
            piece(b"head "),
            [piece(b""), piece(b"body "), piece(b"end")],
        );
        assert_eq!((pieces.len(), pieces.is_empty()), (13, false));
        assert_eq!(pieces.joined(), "head body end");
        assert_eq!(pieces.into_iter().count(), 4);
        assert!(Pieces::default().is_empty());
        assert_eq!(Pieces::from(piece(b"one")).joined(), "one");
    }
}
