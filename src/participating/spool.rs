//! The octets of a message that is arriving over MSRP, kept until the other side has confirmed them
//! or the store has taken them.
//!
//! Small messages stay in memory; a longer one goes to the store piece by piece, without a sync, so
//! that a message of any size passes in constant memory. A sync turns it into custody.

use bytes::{Bytes, BytesMut};

use crate::store::request::{Body, SpoolId, StoreRequest};

/// Up to here a body is kept in memory and stored inside its record (decision 6).
pub const IN_MEMORY: u64 = 64 * 1024;

/// How large a kept body is, and by which way it goes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodySize {
    /// Octets.
    pub octets: u64,
    /// Its octets go ahead of its record, which can be overtaken by one that holds its own.
    pub is_spooled: bool,
}

impl BodySize {
    /// Of a body as the store takes it.
    pub fn of(body: &Body) -> Self {
        match body {
            Body::Inline(octets) => Self {
                octets: octets.len() as u64,
                is_spooled: false,
            },
            Body::Spooled { length, .. } => Self {
                octets: *length,
                is_spooled: true,
            },
        }
    }

    /// Of a body that came in one piece.
    pub fn of_whole(octets: &[u8]) -> Self {
        let octets = octets.len() as u64;
        Self {
            octets,
            is_spooled: octets > IN_MEMORY,
        }
    }
}

/// One arriving message.
#[derive(Debug)]
pub struct Spool {
    place: Place,
    /// The end of what has arrived, from 0.
    length: u64,
}

#[derive(Debug)]
enum Place {
    Memory(BytesMut),
    Store(SpoolId),
}

impl Spool {
    /// Nothing has arrived yet.
    pub fn new() -> Self {
        Self {
            place: Place::Memory(BytesMut::new()),
            length: 0,
        }
    }

    /// A whole message that is short.
    pub fn in_memory(octets: &[u8]) -> Self {
        Self {
            place: Place::Memory(BytesMut::from(octets)),
            length: octets.len() as u64,
        }
    }

    /// Octets of memory in use.
    pub fn in_use(&self) -> usize {
        match &self.place {
            Place::Memory(buffer) => buffer.capacity(),
            Place::Store(_) => 0,
        }
    }

    /// Octets up to the end of what has arrived.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The store's name for it, once it has outgrown memory.
    pub fn id(&self) -> Option<SpoolId> {
        match self.place {
            Place::Memory(_) => None,
            Place::Store(spool) => Some(spool),
        }
    }

    /// Puts octets at their place; what arrives later wins (RFC 4975 §7.3.1). Returns what the store
    /// must be told.
    pub fn write(
        &mut self,
        offset: u64,
        octets: Bytes,
        new_id: impl FnOnce() -> SpoolId,
    ) -> Vec<StoreRequest> {
        let end = offset.saturating_add(octets.len() as u64);
        self.length = self.length.max(end);
        match &mut self.place {
            Place::Memory(buffer) if end <= IN_MEMORY => {
                write_at(buffer, offset as usize, &octets);
                Vec::new()
            }
            Place::Memory(buffer) => {
                let spool = new_id();
                let earlier = std::mem::take(buffer).freeze();
                self.place = Place::Store(spool);
                let mut requests = Vec::with_capacity(2);
                if !earlier.is_empty() {
                    requests.push(append(spool, 0, earlier));
                }
                requests.push(append(spool, offset, octets));
                requests
            }
            Place::Store(spool) => vec![append(*spool, offset, octets)],
        }
    }

    /// Moves what is in memory to the store, so that a sync can cover it.
    pub fn spill(&mut self, new_id: impl FnOnce() -> SpoolId) -> Option<StoreRequest> {
        let Place::Memory(buffer) = &mut self.place else {
            return None;
        };
        let spool = new_id();
        let earlier = std::mem::take(buffer).freeze();
        self.place = Place::Store(spool);
        Some(append(spool, 0, earlier))
    }

    /// Octets from `offset`, if they are in memory.
    pub fn read(&self, offset: u64, most: usize) -> Option<Bytes> {
        let Place::Memory(buffer) = &self.place else {
            return None;
        };
        let start = usize::try_from(offset).ok()?.min(buffer.len());
        let end = start.saturating_add(most).min(buffer.len());
        Some(Bytes::copy_from_slice(&buffer[start..end]))
    }

    /// The whole message, as the store takes it.
    pub fn into_body(self) -> Body {
        match self.place {
            Place::Memory(buffer) => Body::Inline(buffer.freeze()),
            Place::Store(spool) => Body::Spooled {
                spool,
                length: self.length,
            },
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self::new()
    }
}

fn append(spool: SpoolId, offset: u64, octets: Bytes) -> StoreRequest {
    StoreRequest::Append {
        spool,
        offset,
        octets,
    }
}

/// Writes at an offset that is at most [`IN_MEMORY`], filling a gap with zeros until it arrives.
fn write_at(buffer: &mut BytesMut, offset: usize, octets: &[u8]) {
    let end = offset + octets.len();
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    buffer[offset..end].copy_from_slice(octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_id() -> SpoolId {
        panic!("stays in memory")
    }

    #[test]
    fn a_small_message_stays_in_memory_and_later_octets_win() {
        let mut spool = Spool::new();
        assert!(spool.write(3, Bytes::from_static(b"def"), no_id).is_empty());
        assert!(
            spool
                .write(0, Bytes::from_static(b"abcD"), no_id)
                .is_empty()
        );
        assert_eq!(spool.read(2, 10), Some(Bytes::from_static(b"cDef")));
        assert_eq!(
            spool.into_body(),
            Body::Inline(Bytes::from_static(b"abcDef"))
        );
    }

    #[test]
    fn a_long_message_moves_to_the_store_in_order_of_arrival() {
        let mut spool = Spool::new();
        assert!(
            spool
                .write(0, Bytes::from(vec![1; 60_000]), no_id)
                .is_empty()
        );
        let requests = spool.write(60_000, Bytes::from(vec![2; 10_000]), || SpoolId(7));
        assert_eq!(requests.len(), 2);
        assert_eq!(spool.id(), Some(SpoolId(7)));
        assert_eq!(spool.read(0, 10), None);
        assert_eq!(spool.write(70_000, Bytes::from(vec![3; 5]), no_id).len(), 1);
        let body = Body::Spooled {
            spool: SpoolId(7),
            length: 70_005,
        };
        assert_eq!(spool.into_body(), body);
    }
}
