//! The octets of a message that is arriving over MSRP, kept until the other side has confirmed them
//! or the store has taken them.
//!
//! A message stays in memory while there is room; one that outgrows it goes to the store piece by piece,
//! without a sync, so that a message of any size passes in bounded memory. A sync turns it into custody.

mod parts;

use bytes::Bytes;

use self::parts::Parts;
use crate::limits::memory::Held;
use crate::store::request::{Body, SpoolId, StoreRequest};

/// Up to here a body is stored inside its record (decision 6).
pub const IN_MEMORY: u64 = 64 * 1024;
/// Octets of a message in the store that wait in memory as well until they go on.
const AHEAD: u64 = 512 * 1024;

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
    /// The store's name for it, once it has outgrown memory.
    id: Option<SpoolId>,
    /// Until then all that has come; from then on what came last and is still to go on.
    parts: Parts,
    /// Up to here it has gone on.
    passed: u64,
    /// The end of what has arrived, from 0.
    length: u64,
    held: Held,
}

impl Spool {
    /// Nothing has arrived yet; what is in memory is accounted for in `held`.
    pub fn new(held: Held) -> Self {
        Self {
            id: None,
            parts: Parts::default(),
            passed: 0,
            length: 0,
            held,
        }
    }

    /// Octets up to the end of what has arrived.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The store's name for it, once it has outgrown memory.
    pub fn id(&self) -> Option<SpoolId> {
        self.id
    }

    /// Puts octets at their place; what arrives later wins (RFC 4975 §7.3.1). At most `most` octets stay
    /// in memory. Returns what the store must be told.
    pub fn write(
        &mut self,
        offset: u64,
        octets: Bytes,
        most: u64,
        new_id: impl FnOnce() -> SpoolId,
    ) -> Vec<StoreRequest> {
        let count = octets.len() as u64;
        if count == 0 {
            return Vec::new();
        }
        self.length = self.length.max(offset.saturating_add(count));
        if self.id.is_none() && self.parts.have_room_for(count, most) {
            self.parts.write(offset, octets);
            self.weigh();
            return Vec::new();
        }
        let ahead = most.min(AHEAD);
        let mut requests = self.move_to_store(ahead, new_id);
        if let Some(spool) = self.id {
            self.keep_ahead(offset, &octets, ahead);
            requests.push(append(spool, offset, octets));
        }
        self.weigh();
        requests
    }

    /// Keeps a whole message that is short and of which nothing was kept so far.
    pub fn keep(&mut self, octets: &[u8]) {
        self.length = octets.len() as u64;
        self.parts.write(0, Bytes::copy_from_slice(octets));
        self.weigh();
    }

    /// Moves what is in memory to the store, so that a sync can cover it.
    pub fn spill(&mut self, new_id: impl FnOnce() -> SpoolId) -> Vec<StoreRequest> {
        let requests = self.move_to_store(0, new_id);
        self.weigh();
        requests
    }

    fn move_to_store(&mut self, ahead: u64, new_id: impl FnOnce() -> SpoolId) -> Vec<StoreRequest> {
        if self.id.is_some() {
            return Vec::new();
        }
        let spool = new_id();
        self.id = Some(spool);
        let mut requests = Vec::new();
        for (offset, octets) in std::mem::take(&mut self.parts).into_octets() {
            self.keep_ahead(offset, &octets, ahead);
            requests.push(append(spool, offset, octets));
        }
        requests
    }

    /// Of what goes to the store, that which is still to go on stays in memory too: so many octets.
    fn keep_ahead(&mut self, offset: u64, octets: &Bytes, most: u64) {
        let count = octets.len() as u64;
        let end = offset.saturating_add(count);
        // Even of what has gone on: it may go on once more, from its beginning.
        self.parts.cut_out(offset, end);
        if end > self.passed && self.parts.have_room_for(count, most) {
            self.parts.write(offset, octets.clone());
        }
    }

    /// Octets from `offset`, if they are in memory.
    pub fn read(&mut self, offset: u64, most: usize) -> Option<Bytes> {
        self.pass(offset);
        self.parts.read(offset, most)
    }

    /// Everything before `offset` has gone on.
    pub fn pass(&mut self, offset: u64) {
        self.passed = offset;
        if self.id.is_some() {
            self.parts.forget_before(offset);
            self.weigh();
        }
    }

    /// Takes the whole message out, as the store takes it, and what the store must be told before.
    pub fn take_body(&mut self, new_id: impl FnOnce() -> SpoolId) -> (Vec<StoreRequest>, Body) {
        let requests = match self.length > IN_MEMORY {
            true => self.spill(new_id),
            false => Vec::new(),
        };
        let parts = std::mem::take(&mut self.parts);
        self.weigh();
        let body = match self.id.take() {
            None => Body::Inline(parts.joined()),
            Some(spool) => Body::Spooled {
                spool,
                length: self.length,
            },
        };
        (requests, body)
    }

    fn weigh(&mut self) {
        self.held.set(self.parts.cost());
    }
}

fn append(spool: SpoolId, offset: u64, octets: Bytes) -> StoreRequest {
    StoreRequest::Append {
        spool,
        offset,
        octets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory::{Account, Kind};
    use proptest::prelude::*;

    const MOST: u64 = 1024 * 1024;

    fn no_id() -> SpoolId {
        panic!("stays in memory")
    }

    fn spool() -> (Account, Spool) {
        let account = Account::detached();
        let spool = Spool::new(account.hold(Kind::Spools, 0));
        (account, spool)
    }

    fn octets(value: u8, count: usize) -> Bytes {
        Bytes::from(vec![value; count])
    }

    /// What the store was told to append, put together.
    fn appended(requests: &[StoreRequest], length: usize) -> Vec<u8> {
        let mut all = vec![0; length];
        for request in requests {
            let StoreRequest::Append { offset, octets, .. } = request else {
                panic!("{request:?}");
            };
            all[*offset as usize..][..octets.len()].copy_from_slice(octets);
        }
        all
    }

    #[test]
    fn a_small_message_stays_in_memory_and_later_octets_win() {
        let (_, mut spool) = spool();
        let mut write = |offset, octets: &'static [u8]| {
            let requests = spool.write(offset, Bytes::from_static(octets), MOST, no_id);
            assert!(requests.is_empty());
        };
        write(3, b"def");
        write(0, b"abcD");
        let (requests, body) = spool.take_body(no_id);
        assert!(requests.is_empty());
        assert_eq!(body, Body::Inline(Bytes::from_static(b"abcDef")));
    }

    #[test]
    fn a_long_message_moves_to_the_store_when_it_outgrows_its_memory() {
        let (_, mut spool) = spool();
        let none = spool.write(0, octets(1, 60_000), 64_000, no_id);
        assert!(none.is_empty());
        let mut requests = spool.write(60_000, octets(2, 10_000), 64_000, || SpoolId(7));
        assert_eq!(spool.id(), Some(SpoolId(7)));
        requests.extend(spool.write(70_000, octets(3, 5), 64_000, no_id));
        assert_eq!(requests.len(), 3);
        let expected = [vec![1; 60_000], vec![2; 10_000], vec![3; 5]].concat();
        assert_eq!(appended(&requests, 70_005), expected);
        let body = Body::Spooled {
            spool: SpoolId(7),
            length: 70_005,
        };
        let (nothing, taken) = spool.take_body(no_id);
        assert!(nothing.is_empty());
        assert_eq!(taken, body);
    }

    #[test]
    fn a_long_message_in_memory_goes_to_the_store_when_it_is_kept() {
        let (_, mut spool) = spool();
        let whole = octets(5, 100_000);
        for from in (0..100_000).step_by(10_000) {
            let piece = whole.slice(from..from + 10_000);
            assert!(spool.write(from as u64, piece, MOST, no_id).is_empty());
        }
        let (requests, body) = spool.take_body(|| SpoolId(2));
        assert_eq!(appended(&requests, 100_000), whole);
        let expected = Body::Spooled {
            spool: SpoolId(2),
            length: 100_000,
        };
        assert_eq!(body, expected);
    }

    #[test]
    fn what_is_still_to_go_on_is_read_from_memory_even_if_the_store_has_it() {
        let (_, mut spool) = spool();
        spool.write(0, octets(1, 50_000), MOST, no_id);
        spool.pass(50_000);
        spool.write(50_000, octets(2, 50_000), 60_000, || SpoolId(1));
        assert_eq!(spool.read(50_000, 10), Some(octets(2, 10)));
        assert_eq!(spool.read(99_999, 10), Some(octets(2, 1)));
        assert_eq!(spool.read(100_000, 10), None);
        // There is no room for more ahead; it comes back from the store.
        spool.write(100_000, octets(3, 50_000), 0, no_id);
        assert_eq!(spool.read(100_000, 10), None);
        // Who sends something again has the last word.
        spool.write(150_000, octets(4, 5_000), 60_000, no_id);
        spool.write(150_000, octets(5, 5_000), 0, no_id);
        assert_eq!(spool.read(150_000, 10), None);
    }

    #[test]
    fn what_is_in_memory_is_accounted_for_until_it_leaves() {
        let (account, mut spool) = spool();
        let in_use = || account.ledger().of(Kind::Spools);
        let long = spool.write(0, octets(1, 100_000), MOST, no_id);
        assert!(long.is_empty() && in_use() > 100_000);
        // A slice may keep a larger buffer.
        spool.write(100_000, octets(1, 20_000), MOST, no_id);
        assert!(in_use() > 160_000);
        let _ = spool.spill(|| SpoolId(1));
        assert_eq!(in_use(), 0);
        spool.write(120_000, octets(1, 100_000), MOST, no_id);
        assert!(in_use() > 100_000);
        spool.pass(220_000);
        assert_eq!(in_use(), 0);
        spool.write(220_000, octets(1, 100_000), MOST, no_id);
        drop(spool);
        assert_eq!(in_use(), 0);
    }

    #[test]
    fn what_comes_again_after_it_has_gone_on_is_not_read_as_it_was() {
        let (_, mut spool) = spool();
        let _ = spool.spill(|| SpoolId(1));
        spool.write(0, octets(1, 10_000), MOST, no_id);
        spool.pass(5_000);
        spool.write(1_000, octets(2, 2_000), MOST, no_id);
        // The other side has lost it and takes it from the beginning.
        assert_eq!(spool.read(0, 10_000), Some(octets(1, 1_000)));
        assert_ne!(spool.read(1_000, 10), Some(octets(1, 10)));
    }

    #[test]
    fn of_an_empty_piece_nothing_stays() {
        let (account, mut spool) = spool();
        spool.write(0, octets(1, 10), MOST, no_id);
        spool.write(0, Bytes::new(), MOST, no_id);
        spool.write(500, Bytes::new(), 0, no_id);
        assert_eq!(spool.length(), 10);
        assert_eq!(spool.take_body(no_id).1, Body::Inline(octets(1, 10)));
        assert_eq!(account.ledger().of(Kind::Spools), 0);
    }

    const LENGTH: usize = 40_000;

    /// What may happen to a message on its way.
    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, usize, u8, u64),
        Read(usize),
        Pass(usize),
        Spill,
    }

    fn step() -> impl Strategy<Value = Step> {
        let most = prop_oneof![Just(0), Just(10_000), Just(30_000), Just(MOST)];
        let write = (0..LENGTH, 1..20_000usize, any::<u8>(), most);
        prop_oneof![
            6 => write.prop_map(|(at, count, value, most)| Step::Write(at, count.min(LENGTH - at), value, most)),
            3 => (0..LENGTH).prop_map(Step::Read),
            1 => Just(Step::Read(0)),
            2 => (0..LENGTH).prop_map(Step::Pass),
            1 => Just(Step::Spill),
        ]
    }

    proptest! {
        /// Memory and the store together say what was written last, wherever one begins to read.
        #[test]
        fn a_spool_is_read_as_it_was_written(steps in proptest::collection::vec(step(), 1..30)) {
            let (_, mut spool) = spool();
            let (mut written, mut stored) = (vec![9; LENGTH], vec![0; LENGTH]);
            let mut store = |requests: Vec<StoreRequest>| {
                for request in requests {
                    if let StoreRequest::Append { offset, octets, .. } = request {
                        stored[offset as usize..][..octets.len()].copy_from_slice(&octets);
                    }
                }
                stored.clone()
            };
            store(spool.write(0, octets(9, LENGTH), MOST, || SpoolId(1)));
            for step in steps {
                match step {
                    Step::Write(at, count, value, most) => {
                        written[at..at + count].fill(value);
                        store(spool.write(at as u64, octets(value, count), most, || SpoolId(1)));
                    }
                    Step::Pass(at) => spool.pass(at as u64),
                    Step::Spill => drop(store(spool.spill(|| SpoolId(1)))),
                    Step::Read(at) => match spool.read(at as u64, LENGTH) {
                        Some(octets) => prop_assert!(octets[..] == written[at..at + octets.len()]),
                        None => {
                            prop_assert!(spool.id().is_some());
                            prop_assert!(store(Vec::new())[at..] == written[at..]);
                        }
                    },
                }
            }
            let (requests, body) = spool.take_body(|| SpoolId(1));
            let stored = store(requests);
            match body {
                Body::Inline(octets) => prop_assert!(octets == written),
                Body::Spooled { .. } => prop_assert!(stored == written),
            }
        }
    }
}
