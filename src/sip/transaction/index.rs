//! Which slot holds what belongs to a digest. An entry is the number of a slot, four octets: the digest to
//! compare with lies in the slot.

use hashbrown::HashTable;

use super::key::Key;
use super::slab::SlotId;

/// Tables that are no larger keep their size.
const SMALL: usize = 1024;

/// Slots by the digest of what they hold. Its calls are told how to see what is in a slot.
#[derive(Debug, Default)]
pub(super) struct Index(HashTable<u32>);

impl Index {
    /// The slot of `key`.
    pub fn find(&self, key: Key, key_at: impl Fn(u32) -> Option<Key>) -> Option<u32> {
        let found = self.0.find(key.hash(), |slot| key_at(*slot) == Some(key));
        found.copied()
    }

    /// Enters a slot that holds `key`, which no other does: of two it would be left open which is found.
    pub fn insert(&mut self, key: Key, id: SlotId, key_at: impl Fn(u32) -> Option<Key>) {
        let hash_of = |slot: &u32| hash_at(*slot, &key_at);
        self.0.insert_unique(key.hash(), id.slot(), hash_of);
    }

    /// Removes a slot that held `key`; with a storm gone, its memory too.
    pub fn remove(&mut self, key: Key, id: SlotId, key_at: impl Fn(u32) -> Option<Key>) {
        if let Ok(entry) = self.0.find_entry(key.hash(), |slot| *slot == id.slot()) {
            entry.remove();
        }
        if self.0.capacity() > SMALL.max(8 * self.0.len()) {
            let hash_of = |slot: &u32| hash_at(*slot, &key_at);
            self.0.shrink_to(2 * self.0.len(), hash_of);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn hash_at(slot: u32, key_at: impl Fn(u32) -> Option<Key>) -> u64 {
    key_at(slot).map_or(0, Key::hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::key::Keys;
    use crate::sip::transaction::slab::Slab;

    #[test]
    fn what_is_entered_is_found_until_it_is_removed_and_a_storm_leaves_no_memory() {
        let keys = Keys::default();
        let (mut slab, mut index) = (Slab::new(), Index::default());
        let held: Vec<_> = (0..10_000)
            .map(|number| {
                let key = keys.client(&format!("z9hG4bK{number}"), false);
                let id = slab.insert(key);
                index.insert(key, id, |slot| slab.at(slot).map(|(_, key)| *key));
                (key, id)
            })
            .collect();
        let (kept, gone) = held.split_at(10);
        for (key, id) in gone {
            slab.remove(*id);
            index.remove(*key, *id, |slot| slab.at(slot).map(|(_, key)| *key));
        }
        let find = |key| index.find(key, |slot| slab.at(slot).map(|(_, key)| *key));
        assert!(kept.iter().all(|(key, id)| find(*key) == Some(id.slot())));
        assert!(gone.iter().all(|(key, _)| find(*key).is_none()));
        assert!(index.0.capacity() <= 2 * SMALL);
    }

    #[test]
    fn what_is_removed_takes_no_other_with_it() {
        let key = Keys::default().client("z9hG4bK1", false);
        let (mut slab, mut index) = (Slab::new(), Index::default());
        let ids = [slab.insert(key), slab.insert(key)];
        for id in ids {
            index.insert(key, id, |slot| slab.at(slot).map(|(_, key)| *key));
        }
        slab.remove(ids[0]);
        index.remove(key, ids[0], |slot| slab.at(slot).map(|(_, key)| *key));
        let found = index.find(key, |slot| slab.at(slot).map(|(_, key)| *key));
        assert_eq!(found, Some(ids[1].slot()));
    }
}
