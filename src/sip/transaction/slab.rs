//! Slots for transactions: dense, reused, and named by identifiers that are never used twice.

/// Names one value of a [`Slab`] for ever: the slot alone would be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotId {
    serial: u64,
    slot: u32,
}

impl SlotId {
    pub const MIN: Self = Self { serial: 0, slot: 0 };
    pub const MAX: Self = Self {
        serial: u64::MAX,
        slot: u32::MAX,
    };
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<(u64, T)>>,
    free: Vec<u32>,
    next_serial: u64,
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            next_serial: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> SlotId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("the table is bounded far below")
        });
        self.slots[slot as usize] = Some((serial, value));
        SlotId { serial, slot }
    }

    pub fn find(&self, id: SlotId) -> Option<&T> {
        match self.slots.get(id.slot as usize)? {
            Some((serial, value)) if *serial == id.serial => Some(value),
            _ => None,
        }
    }

    pub fn find_mut(&mut self, id: SlotId) -> Option<&mut T> {
        match self.slots.get_mut(id.slot as usize)? {
            Some((serial, value)) if *serial == id.serial => Some(value),
            _ => None,
        }
    }

    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        self.find(id)?;
        let (_, value) = self.slots.get_mut(id.slot as usize)?.take()?;
        self.free.push(id.slot);
        Some(value)
    }
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
        assert_eq!(slab.slots.len(), 1);
        assert_ne!(first, second);
        assert_eq!(slab.find(first), None);
        assert_eq!(slab.find_mut(second), Some(&mut "second"));
        assert_eq!(slab.len(), 1);
    }
}
