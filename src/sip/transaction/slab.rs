//! Slots for transactions: reused, given back in pieces, and named by identifiers that are not used twice.

use std::collections::BTreeSet;
use std::fmt;

/// Slots of one piece.
const PIECE: usize = 256;
const PIECE_BITS: u32 = PIECE.trailing_zeros();
/// Empty pieces that keep their memory for what comes next.
const SPARE: usize = 4;
/// Bits of an identifier that say which slot.
const SLOT_BITS: u32 = 24;

/// How many values a [`Slab`] may hold.
pub(super) const MOST_VALUES: usize = 1 << SLOT_BITS;

/// Names one value of a [`Slab`]: a serial number, since the slot alone is reused, and the slot. The older of
/// two is the smaller. Serial numbers begin anew after 2^40, months at the highest rate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotId(u64);

impl SlotId {
    pub const MIN: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    fn new(serial: u64, slot: u32) -> Self {
        Self(serial << SLOT_BITS | u64::from(slot))
    }

    /// Where its value is, as long as it lives.
    pub fn slot(self) -> u32 {
        (self.0 & (MOST_VALUES as u64 - 1)) as u32
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0 >> SLOT_BITS, self.slot())
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the value that is here, or of the one that was.
    id: SlotId,
    value: Option<T>,
}

/// Slots that lie together; without memory while all of them are free.
#[derive(Debug)]
struct Piece<T> {
    slots: Vec<Slot<T>>,
    /// Of `slots`, those that are free.
    free: Vec<u8>,
}

/// Values that come and go by the hundred thousand; a storm's memory is given back once it is over.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pieces: Vec<Piece<T>>,
    /// The pieces that have room. The first of them is filled, so that the others become empty.
    open: BTreeSet<u32>,
    /// Empty pieces that have kept their memory.
    spare: usize,
    len: usize,
    next_serial: u64,
}

impl<T> Piece<T> {
    fn take_memory(&mut self) {
        self.slots.reserve_exact(PIECE);
        self.free.reserve_exact(PIECE);
    }

    fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == PIECE
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Self {
            pieces: Vec::new(),
            open: BTreeSet::new(),
            spare: 0,
            len: 0,
            next_serial: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes a value; there are fewer than [`MOST_VALUES`].
    pub fn insert(&mut self, value: T) -> SlotId {
        let number = self.open.first().copied().unwrap_or_else(|| {
            let number = self.pieces.len() as u32;
            self.pieces.push(Piece {
                slots: Vec::new(),
                free: Vec::new(),
            });
            self.open.insert(number);
            number
        });
        let piece = &mut self.pieces[number as usize];
        if piece.is_empty() {
            match piece.slots.capacity() {
                0 => piece.take_memory(),
                _ => self.spare -= 1,
            }
        }
        let place = piece.free.pop().map_or(piece.slots.len(), usize::from);
        let id = SlotId::new(self.next_serial, number << PIECE_BITS | place as u32);
        let slot = Slot {
            id,
            value: Some(value),
        };
        match piece.slots.get_mut(place) {
            Some(free) => *free = slot,
            None => piece.slots.push(slot),
        }
        if piece.is_full() {
            self.open.remove(&number);
        }
        self.next_serial += 1;
        self.len += 1;
        id
    }

    pub fn find(&self, id: SlotId) -> Option<&T> {
        let slot = self.slot(id.slot())?;
        slot.value.as_ref().filter(|_| slot.id == id)
    }

    pub fn find_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let (piece, place) = split(id.slot());
        let slot = self.pieces.get_mut(piece)?.slots.get_mut(place)?;
        slot.value.as_mut().filter(|_| slot.id == id)
    }

    /// What is in a slot now.
    pub fn at(&self, slot: u32) -> Option<(SlotId, &T)> {
        let slot = self.slot(slot)?;
        Some((slot.id, slot.value.as_ref()?))
    }

    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let (number, place) = split(id.slot());
        let piece = self.pieces.get_mut(number)?;
        let slot = piece.slots.get_mut(place)?;
        if slot.id != id {
            return None;
        }
        let value = slot.value.take()?;
        self.len -= 1;
        if piece.is_full() {
            self.open.insert(number as u32);
        }
        piece.free.push(place as u8);
        if piece.is_empty() {
            match self.spare < SPARE {
                true => self.spare += 1,
                false => (piece.slots, piece.free) = (Vec::new(), Vec::new()),
            }
        }
        Some(value)
    }

    fn slot(&self, slot: u32) -> Option<&Slot<T>> {
        let (piece, place) = split(slot);
        self.pieces.get(piece)?.slots.get(place)
    }
}

/// The piece, and the place in it.
fn split(slot: u32) -> (usize, usize) {
    ((slot >> PIECE_BITS) as usize, slot as usize % PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_and_an_identifier_is_not() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.remove(first), None);
        let second = slab.insert("second");
        assert_eq!(second.slot(), first.slot());
        assert!(first < second);
        assert_eq!(slab.find(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.find_mut(second), Some(&mut "second"));
        assert_eq!(slab.at(second.slot()), Some((second, &"second")));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn the_memory_of_a_storm_is_given_back() {
        let mut slab = Slab::new();
        let storm: Vec<_> = (0..100 * PIECE).map(|number| slab.insert(number)).collect();
        let (last, gone) = storm.split_last().expect("a storm");
        for id in gone {
            slab.remove(*id);
        }
        let slots = |slab: &Slab<usize>| -> usize {
            let pieces = slab.pieces.iter();
            pieces.map(|piece| piece.slots.capacity()).sum()
        };
        assert!(slots(&slab) <= (SPARE + 1) * PIECE, "{}", slots(&slab));
        assert_eq!(slab.find(*last), Some(&(100 * PIECE - 1)));
        let again: Vec<_> = gone.iter().map(|_| slab.insert(0)).collect();
        assert_eq!(slab.len(), 100 * PIECE);
        assert_eq!(slab.pieces.len(), 100);
        assert!(again.iter().all(|id| slab.find(*id) == Some(&0)));
    }
}
