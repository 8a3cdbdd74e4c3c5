//! How much memory is in use, by what, and whether there is room for more.
//!
//! Everything that peers or users can make grow is accounted: either as it comes and goes ([`Held`]),
//! or by counting the tables of a shard a hundred times a second. Each shard writes a row of its own,
//! so that accounting moves no cache line between CPUs; a reader adds the rows up.
//!
//! What the allocator keeps beside that, and what is accounted at too little, shows in what the system
//! says the process has ([`Ledger::set_resident`]): while that is more than the bound, new work is
//! refused earlier. What was freed stays with the allocator for what comes next, so the process does
//! not shrink by itself, and its size alone refuses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the process has before anybody asks anything of it.
    Process,
    /// Buffers that connections read into, and the connections themselves.
    Connections,
    /// Octets that wait to be written to connections.
    WriteQueues,
    /// What peers and other shards sent and a shard has not looked at yet.
    Inboxes,
    /// SIP transactions, with the requests and responses they keep.
    Transactions,
    /// MESSAGEs, relayed requests, deliveries and chats under way.
    Work,
    /// MSRP sessions, with what waits in them.
    Media,
    /// Octets of messages on their way through MSRP sessions.
    Spools,
    /// Bindings, and the users they are of.
    Bindings,
    /// Machines of served users, and who has messages waiting.
    Users,
    /// Messages whose receipts are kept track of, and the authors who hide.
    Receipts,
    /// What was taken a moment ago, to know retransmissions.
    Duplicates,
    /// Requests on their way to the store, and its buffers.
    StoreQueues,
    /// The index of messages in custody, as far as it is in memory.
    StoreIndex,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::Process,
        Self::Connections,
        Self::WriteQueues,
        Self::Inboxes,
        Self::Transactions,
        Self::Work,
        Self::Media,
        Self::Spools,
        Self::Bindings,
        Self::Users,
        Self::Receipts,
        Self::Duplicates,
        Self::StoreQueues,
        Self::StoreIndex,
    ];

    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Connections => "connections",
            Self::WriteQueues => "write-queues",
            Self::Inboxes => "inboxes",
            Self::Transactions => "transactions",
            Self::Work => "work",
            Self::Media => "media",
            Self::Spools => "spools",
            Self::Bindings => "bindings",
            Self::Users => "users",
            Self::Receipts => "receipts",
            Self::Duplicates => "duplicates",
            Self::StoreQueues => "store-queues",
            Self::StoreIndex => "store-index",
        }
    }
}

/// The octets of one shard by kind, on cache lines of their own. A row may wrap below zero where one
/// shard adds and another takes away; the sum of all rows is right.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Row([AtomicU64; Kind::ALL.len()]);

/// What is in use, and the bound.
#[derive(Debug)]
pub struct Ledger {
    rows: Box<[Row]>,
    limit: u64,
    /// What the process has of the system's memory.
    resident: AtomicU64,
    room: AtomicU8,
}

impl Ledger {
    /// For `shards` shards and the store. New work is refused from nine tenths of `limit` octets on;
    /// from three quarters while the process has `limit` octets.
    pub fn new(shards: u16, limit: u64) -> Self {
        Self {
            rows: (0..=shards).map(|_| Row::default()).collect(),
            limit,
            resident: AtomicU64::new(0),
            room: AtomicU8::new(Room::Ample as u8),
        }
    }

    /// The bound.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is in use for one purpose.
    pub fn of(&self, kind: Kind) -> u64 {
        let cells = self.rows.iter().map(|row| &row.0[kind as usize]);
        let sum = cells.fold(0_u64, |sum, cell| {
            sum.wrapping_add(cell.load(Ordering::Relaxed))
        });
        // While another shard is between adding and taking away, a sum can be short of nothing.
        if sum > i64::MAX as u64 { 0 } else { sum }
    }

    /// What is in use in all.
    pub fn total(&self) -> u64 {
        Kind::ALL.into_iter().map(|kind| self.of(kind)).sum()
    }

    /// The process has so many octets of the system's memory; 0 if the system does not say.
    pub fn set_resident(&self, octets: u64) {
        self.resident.store(octets, Ordering::Relaxed);
    }

    /// Adds up how much room there is.
    pub fn look(&self) -> Room {
        let total = self.total();
        let is_large = self.resident.load(Ordering::Relaxed) >= self.limit;
        let room = if total >= self.limit / 10 * 9 {
            Room::None
        } else if total < self.limit / 4 * 3 {
            Room::Ample
        } else if is_large {
            Room::None
        } else {
            Room::Scarce
        };
        self.room.store(room as u8, Ordering::Relaxed);
        room
    }

    /// How much room there was at the last look.
    pub fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Ample,
            1 => Room::Scarce,
            _ => Room::None,
        }
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Under three quarters of the limit are accounted for.
    #[default]
    Ample,
    /// Under nine tenths: what can be put to disk is.
    Scarce,
    /// New work is refused.
    None,
}

/// Where one shard, or the store, writes down what it uses; cheap to clone.
#[derive(Clone, Debug)]
pub struct Account {
    ledger: Arc<Ledger>,
    row: usize,
}

impl Account {
    /// The row of `shard`.
    pub fn of_shard(ledger: &Arc<Ledger>, shard: u16) -> Self {
        let last = ledger.rows.len() - 1;
        Self {
            ledger: Arc::clone(ledger),
            row: usize::from(shard).min(last),
        }
    }

    /// The row of what belongs to no shard.
    pub fn of_process(ledger: &Arc<Ledger>) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            row: ledger.rows.len() - 1,
        }
    }

    /// An account that nobody reads, for parts that are tested alone.
    pub fn detached() -> Self {
        Self::of_process(&Arc::new(Ledger::new(0, u64::MAX)))
    }

    /// The ledger it is part of.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn cell(&self, kind: Kind) -> &AtomicU64 {
        &self.ledger.rows[self.row].0[kind as usize]
    }

    /// So much more.
    pub fn add(&self, kind: Kind, octets: usize) {
        self.cell(kind).fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// So much less.
    pub fn take(&self, kind: Kind, octets: usize) {
        self.cell(kind).fetch_sub(octets as u64, Ordering::Relaxed);
    }

    /// Nothing yet, to be given back when it is dropped.
    pub fn hold(&self, kind: Kind, octets: usize) -> Held {
        self.add(kind, octets);
        Held {
            account: self.clone(),
            kind,
            octets,
        }
    }
}

/// Octets in use until this is dropped.
#[derive(Debug)]
pub struct Held {
    account: Account,
    kind: Kind,
    octets: usize,
}

impl Held {
    /// It is so much now.
    pub fn set(&mut self, octets: usize) {
        if octets > self.octets {
            self.account.add(self.kind, octets - self.octets);
        } else if octets < self.octets {
            self.account.take(self.kind, self.octets - octets);
        }
        self.octets = octets;
    }

    /// How much it is.
    pub fn octets(&self) -> usize {
        self.octets
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.take(self.kind, self.octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let ledger = Arc::new(Ledger::new(2, 1000));
        let (one, other) = (Account::of_shard(&ledger, 0), Account::of_shard(&ledger, 1));
        let mut held = one.hold(Kind::Media, 100);
        held.set(300);
        other.add(Kind::Media, 50);
        assert_eq!(ledger.of(Kind::Media), 350);
        held.set(10);
        assert_eq!((held.octets(), ledger.total()), (10, 60));
        drop(held);
        one.take(Kind::Media, 50);
        assert_eq!(ledger.total(), 0, "another shard gave it back");
    }

    #[test]
    fn there_is_no_room_from_nine_tenths_on() {
        let ledger = Arc::new(Ledger::new(1, 1000));
        let account = Account::of_shard(&ledger, 0);
        let mut held = account.hold(Kind::Work, 749);
        assert_eq!(ledger.look(), Room::Ample);
        held.set(750);
        assert_eq!(ledger.look(), Room::Scarce);
        held.set(899);
        assert_eq!(ledger.look(), Room::Scarce);
        held.set(900);
        assert_eq!(ledger.look(), Room::None);
        held.set(0);
        assert_eq!(ledger.look(), Room::Ample);
    }

    #[test]
    fn a_process_that_is_larger_than_the_limit_refuses_from_three_quarters_on() {
        let ledger = Arc::new(Ledger::new(1, 1000));
        let mut held = Account::of_shard(&ledger, 0).hold(Kind::Work, 750);
        ledger.set_resident(999);
        assert_eq!(ledger.look(), Room::Scarce);
        ledger.set_resident(1000);
        assert_eq!(ledger.look(), Room::None);
        held.set(749);
        assert_eq!(ledger.look(), Room::Ample, "what was freed is used again");
    }

    #[test]
    fn no_two_kinds_share_a_place_or_a_name() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            let same = Kind::ALL.iter().filter(|other| other.name() == kind.name());
            assert_eq!(same.count(), 1);
        }
    }
}
