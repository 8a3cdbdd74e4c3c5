//! Which octets of a large body lie where in the body segments.
//!
//! A spool remembers its pieces in the order they came; a message keeps the flattened form, where
//! every octet has exactly one place, in its own log record. So a start need not read body segments.

use std::collections::BTreeMap;

use super::coding::{Decoder, Encoder};

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Number of the segment.
    pub(super) segment: u64,
    /// First octet of the record in it.
    pub(super) position: u64,
    /// Octets of the record with its header.
    pub(super) length: u32,
}

/// A piece of a body as it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Of its first octet in the body.
    pub(super) offset: u64,
    /// Octets of the body in it.
    pub(super) length: u32,
    /// Its record.
    pub(super) place: Place,
}

/// A run of the body that one piece holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Of its first octet in the body.
    pub(super) offset: u64,
    /// Octets.
    pub(super) length: u32,
    /// Octets of the piece before the run.
    pub(super) skip: u32,
    /// The piece's record.
    pub(super) place: Place,
}

/// What a body has in one body segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) segment: u64,
    /// Octets of records.
    pub(super) octets: u64,
}

/// All of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Octets of the body.
    pub(super) length: u64,
    /// In order, without holes or overlaps.
    pub(super) extents: Vec<Extent>,
}

impl Manifest {
    /// Lays pieces over each other, later ones on top; `None` if octets of `0..length` are missing.
    pub(super) fn flatten(pieces: &[Piece], length: u64) -> Option<Self> {
        let mut runs = BTreeMap::new();
        for piece in pieces {
            lay(&mut runs, *piece, length);
        }
        let mut reached = 0;
        for extent in runs.values() {
            if extent.offset != reached {
                return None;
            }
            reached += u64::from(extent.length);
        }
        (reached == length).then(|| Self {
            length,
            extents: runs.into_values().collect(),
        })
    }

    /// The records it needs, each once.
    pub(super) fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.extents.iter().map(|extent| extent.place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// What it has in each body segment.
    pub(super) fn shares(&self) -> Box<[Share]> {
        let mut shares: Vec<Share> = Vec::new();
        for place in self.places() {
            let octets = u64::from(place.length);
            match shares.last_mut() {
                Some(last) if last.segment == place.segment => last.octets += octets,
                _ => shares.push(Share {
                    segment: place.segment,
                    octets,
                }),
            }
        }
        shares.into()
    }

    /// The extents that touch `length` octets from `offset`.
    pub(super) fn overlapping(&self, offset: u64, length: u64) -> &[Extent] {
        let end = offset.saturating_add(length);
        let first = self
            .extents
            .partition_point(|extent| extent.offset + u64::from(extent.length) <= offset);
        let last = self.extents.partition_point(|extent| extent.offset < end);
        self.extents.get(first..last).unwrap_or_default()
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.u64(self.length);
        out.count(self.extents.len());
        for extent in &self.extents {
            out.u64(extent.offset);
            out.u32(extent.length);
            out.u32(extent.skip);
            out.u64(extent.place.segment);
            out.u64(extent.place.position);
            out.u32(extent.place.length);
        }
    }

    pub(super) fn decode(from: &mut Decoder) -> Option<Self> {
        let length = from.u64()?;
        let count = from.u32()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push(Extent {
                offset: from.u64()?,
                length: from.u32()?,
                skip: from.u32()?,
                place: Place {
                    segment: from.u64()?,
                    position: from.u64()?,
                    length: from.u32()?,
                },
            });
        }
        Some(Self { length, extents })
    }
}

/// Puts a piece on top of what is there; nothing reaches beyond `limit`.
fn lay(runs: &mut BTreeMap<u64, Extent>, piece: Piece, limit: u64) {
    let start = piece.offset;
    let end = start.saturating_add(piece.length.into()).min(limit);
    if start >= end {
        return;
    }
    let covered: Vec<u64> = runs
        .range(..end)
        .rev()
        .take_while(|(_, run)| run.offset + u64::from(run.length) > start)
        .map(|(offset, _)| *offset)
        .collect();
    for offset in covered {
        let Some(run) = runs.remove(&offset) else {
            continue;
        };
        for kept in [cut(run, 0, start), cut(run, end, u64::MAX)]
            .into_iter()
            .flatten()
        {
            runs.insert(kept.offset, kept);
        }
    }
    let whole = Extent {
        offset: start,
        length: piece.length,
        skip: 0,
        place: piece.place,
    };
    if let Some(extent) = cut(whole, start, end) {
        runs.insert(start, extent);
    }
}

/// The part of a run between two offsets of the body.
fn cut(run: Extent, from: u64, to: u64) -> Option<Extent> {
    let start = run.offset.max(from);
    let end = (run.offset + u64::from(run.length)).min(to);
    let length = u32::try_from(end.checked_sub(start)?).ok()?;
    let skip = run.skip + u32::try_from(start - run.offset).ok()?;
    (length > 0).then_some(Extent {
        offset: start,
        length,
        skip,
        place: run.place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, length: u32, position: u64) -> Piece {
        let place = Place {
            segment: 1,
            position,
            length: length + 20,
        };
        Piece {
            offset,
            length,
            place,
        }
    }

    /// Which record gives each octet, found the slow way.
    fn by_octet(pieces: &[Piece], length: u64) -> Vec<Option<(u64, u32)>> {
        let mut octets = vec![None; length as usize];
        for piece in pieces {
            for step in 0..piece.length {
                if let Some(octet) = octets.get_mut((piece.offset + u64::from(step)) as usize) {
                    *octet = Some((piece.place.position, step));
                }
            }
        }
        octets
    }

    #[test]
    fn later_pieces_win_where_they_overlap() {
        let pieces = [
            piece(0, 10, 1),
            piece(10, 10, 2),
            piece(5, 10, 3),
            piece(7, 2, 4),
        ];
        let manifest = Manifest::flatten(&pieces, 20).expect("no holes");
        let mut octets = Vec::new();
        for extent in &manifest.extents {
            for step in 0..extent.length {
                octets.push(Some((extent.place.position, extent.skip + step)));
            }
        }
        assert_eq!(octets, by_octet(&pieces, 20));
    }

    #[test]
    fn a_hole_or_a_short_end_is_not_a_body() {
        assert_eq!(
            Manifest::flatten(&[piece(0, 4, 1), piece(5, 5, 2)], 10),
            None
        );
        assert_eq!(Manifest::flatten(&[piece(0, 4, 1)], 5), None);
        assert_eq!(Manifest::flatten(&[piece(1, 4, 1)], 5), None);
    }

    #[test]
    fn a_manifest_survives_its_encoding_and_finds_ranges() {
        let pieces = [piece(0, 10, 1), piece(10, 10, 2), piece(20, 10, 3)];
        let manifest = Manifest::flatten(&pieces, 30).expect("no holes");
        let mut out = Encoder::default();
        manifest.encode(&mut out);
        assert_eq!(
            Manifest::decode(&mut Decoder(&out.0)),
            Some(manifest.clone())
        );
        assert_eq!(manifest.overlapping(9, 2).len(), 2);
        assert_eq!(manifest.overlapping(10, 10).len(), 1);
        assert_eq!(manifest.overlapping(30, 10).len(), 0);
    }
}
