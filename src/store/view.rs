//! The view: what is known of messages in applied segments, in a table on disk.
//!
//! Keys, numbers big-endian so that they are in order:
//! `q` recipient `Seq` holds where the message is; `d` expiry `Seq` recipient, what expires next;
//! `b` body segment `Seq` recipient, which bodies lie where; `stamp`, the folder's salt and the last
//! segment applied. A value has 256 octets at most, since sled puts large ones into files of their
//! own; what does not fit stays in memory.
//!
//! Nothing here is believed: a table that fails or panics is [`Broken`], and so is one that holds
//! what this code never writes. `rebuild` tells what happens then.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use foldhash::quality::FixedState;
use smallvec::SmallVec;

use super::coding::Decoder;
use super::manifest::{Place, Share};
use super::recent::Entry;
use super::record;
use super::request::Seq;
use super::table::{Change, Table};
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// Octets of a value, and what it has for each body segment besides.
const FIXED: usize = 36;
const SHARE: usize = 16;
/// Body segments in a value, at most.
const SHARES: usize = 13;
/// Octets of a recipient in a key, at most.
const RECIPIENT: usize = 1024;
const STAMP: &[u8] = b"stamp";
const FORMAT: u8 = 2;
/// What keys of messages begin with; those of everything else but the stamp lie before them.
const QUEUE: u8 = b'q';

/// A key or value: on the stack, unless a name is long or many body segments are named.
type Octets = SmallVec<[u8; 96]>;

/// The table cannot be used any more, and why.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl Broken {
    fn nonsense(what: &str) -> Self {
        Self(format!("it holds {what} that was never written"))
    }
}

/// A count and a sum over keys and values, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    count: u64,
    sum: u64,
}

/// The view.
pub(super) struct View {
    /// Until dropped.
    table: Option<Box<dyn Table>>,
    panicked: AtomicBool,
    salt: u64,
}

/// Whether the view can hold a message.
pub(super) fn fits(recipient: &Identity, entry: &Entry) -> bool {
    entry.shares.len() <= SHARES && recipient.as_str().len() <= RECIPIENT
}

/// The changes that add a message, or remove it.
pub(super) fn changes(recipient: &Identity, seq: Seq, entry: &Entry, add: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    pairs(recipient, seq, entry, &mut |key, value| {
        changes.push((key.to_vec(), add.then(|| value.to_vec())));
    });
    changes
}

/// Shows the keys that a message has, and their values. A start does this for every message, so that it
/// asks for no memory.
fn pairs(recipient: &Identity, seq: Seq, entry: &Entry, show: &mut dyn FnMut(&[u8], &[u8])) {
    show(&queue_key(recipient, seq), &encode(entry));
    show(&numbered_key(b'd', entry.expires_at.0, seq, recipient), &[]);
    for share in &entry.shares {
        show(&numbered_key(b'b', share.segment, seq, recipient), &[]);
    }
}

/// A message as the view has it. What is rarely needed is made when it is.
pub(super) struct Kept<'a> {
    pub(super) seq: Seq,
    pub(super) place: Place,
    name: &'a str,
    value: &'a [u8],
}

impl<'a> Kept<'a> {
    /// `None` if this was never written.
    fn of(key: &'a [u8], value: &'a [u8]) -> Option<Self> {
        let (name, seq) = split_queue_key(key)?;
        let kept = Self {
            seq,
            place: decode_place(&mut Decoder(value))?,
            name,
            value,
        };
        let shares = value.len().checked_sub(FIXED)?;
        let is_whole = shares % SHARE == 0 && name.contains('@');
        is_whole.then_some(kept)
    }

    /// Whose, and all that is known of it.
    pub(super) fn whole(&self) -> Option<(Identity, Entry)> {
        Some((record::identity(self.name)?, decode(self.value)?))
    }
}

impl View {
    pub(super) fn new(table: Box<dyn Table>, salt: u64) -> Self {
        Self {
            table: Some(table),
            panicked: AtomicBool::new(false),
            salt,
        }
    }

    /// Asks the table; whatever goes wrong in it ends here.
    fn ask<T>(&self, ask: impl FnOnce(&dyn Table) -> io::Result<T>) -> Result<T, Broken> {
        let table = self.table.as_deref().ok_or(Broken("closed".into()))?;
        match catch_unwind(AssertUnwindSafe(|| ask(table))) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Broken(error.to_string())),
            Err(_) => {
                self.panicked.store(true, Ordering::Relaxed);
                Err(Broken("it panicked".into()))
            }
        }
    }

    /// The last segment applied; 0 for none, or for a view of another folder.
    pub(super) fn applied(&self) -> Result<u64, Broken> {
        let stamp = self.ask(|table| table.read(STAMP))?;
        Ok(stamp
            .and_then(|stamp| self.decode_stamp(&stamp))
            .unwrap_or(0))
    }

    /// Says durably that everything up to a segment was applied, after making that durable.
    pub(super) fn stamp(&self, applied: u64) -> Result<(), Broken> {
        let mut stamp = vec![FORMAT];
        stamp.extend(self.salt.to_be_bytes());
        stamp.extend(applied.to_be_bytes());
        stamp.extend(crc32c::crc32c(&stamp).to_be_bytes());
        self.ask(|table| {
            table.sync()?;
            table.write(vec![(STAMP.to_vec(), Some(stamp))])?;
            table.sync()
        })
    }

    fn decode_stamp(&self, stamp: &[u8]) -> Option<u64> {
        let (said, crc) = stamp.split_last_chunk::<4>()?;
        let said = said.strip_prefix(&[FORMAT])?;
        let (salt, applied) = said.split_first_chunk::<8>()?;
        let sound = crc32c::crc32c(stamp.get(..stamp.len() - 4)?).to_be_bytes() == *crc;
        let ours = u64::from_be_bytes(*salt) == self.salt;
        let applied = u64::from_be_bytes(applied.try_into().ok()?);
        (sound && ours).then_some(applied)
    }

    /// Makes changes. They are not seen before [`Self::sync`] or [`Self::stamp`].
    pub(super) fn write(&self, changes: Vec<Change>) -> Result<(), Broken> {
        self.ask(|table| table.write(changes))
    }

    /// Makes all changes seen, and durable.
    pub(super) fn sync(&self) -> Result<(), Broken> {
        self.ask(|table| table.sync())
    }

    pub(super) fn entry(&self, recipient: &Identity, seq: Seq) -> Result<Option<Entry>, Broken> {
        let value = self.ask(|table| table.read(&queue_key(recipient, seq)))?;
        value
            .map(|value| decode(&value).ok_or(Broken::nonsense("a value")))
            .transpose()
    }

    /// Shows what waits for a user from a place in the order on, until `visit` says false.
    pub(super) fn queue(
        &self,
        recipient: &Identity,
        first: Seq,
        visit: &mut dyn FnMut(Seq, Entry) -> bool,
    ) -> Result<(), Broken> {
        let first = queue_key(recipient, first);
        let prefix = first.len() - 8;
        let mut wrong = None;
        let mut last = None;
        self.ask(|table| {
            table.scan(&first, &mut |key, value| {
                if key.get(..prefix) != first.get(..prefix) {
                    return false;
                }
                match (split_queue_key(key), decode(value)) {
                    (Some((_, seq)), _) if Some(seq) <= last => true,
                    (Some((_, seq)), Some(entry)) => {
                        last = Some(seq);
                        visit(seq, entry)
                    }
                    _ => {
                        wrong = Some(Broken::nonsense("a waiting message"));
                        false
                    }
                }
            })
        })?;
        wrong.map_or(Ok(()), Err)
    }

    /// Shows what expires from a moment on, until `visit` says false.
    pub(super) fn due(
        &self,
        from: (UnixMillis, Seq),
        visit: &mut dyn FnMut(UnixMillis, Seq, Identity) -> bool,
    ) -> Result<(), Broken> {
        self.numbered(b'd', from.0.0, from.1, &mut |at, seq, recipient| {
            visit(UnixMillis(at), seq, recipient)
        })
    }

    /// Messages with something in a body segment.
    pub(super) fn bodies_in(&self, segment: u64) -> Result<Vec<(Identity, Seq)>, Broken> {
        let mut found = Vec::new();
        self.numbered(b'b', segment, Seq(0), &mut |of, seq, recipient| {
            let here = of == segment;
            if here {
                found.push((recipient, seq));
            }
            here
        })?;
        Ok(found)
    }

    fn numbered(
        &self,
        kind: u8,
        number: u64,
        seq: Seq,
        visit: &mut dyn FnMut(u64, Seq, Identity) -> bool,
    ) -> Result<(), Broken> {
        let mut first = vec![kind];
        first.extend(number.to_be_bytes());
        first.extend(seq.0.to_be_bytes());
        let mut wrong = None;
        let mut last = None;
        self.ask(|table| {
            table.scan(&first, &mut |key, _| {
                if key.first() != Some(&kind) {
                    return false;
                }
                match decode_numbered(key) {
                    Some((number, seq, _)) if Some((number, seq)) <= last => true,
                    Some((number, seq, recipient)) => {
                        last = Some((number, seq));
                        visit(number, seq, recipient)
                    }
                    None => {
                        wrong = Some(Broken::nonsense("a key"));
                        false
                    }
                }
            })
        })?;
        wrong.map_or(Ok(()), Err)
    }

    /// Sums up all there is but the stamp, and shows every message. What is no message is read by another
    /// thread meanwhile: a start waits for this.
    pub(super) fn audit(&self, visit: &mut dyn FnMut(&Kept<'_>)) -> Result<Sum, Broken> {
        let others = || self.sum_up(b"", Some(QUEUE), &mut |_, _| true);
        let mut messages = |key: &[u8], value: &[u8]| {
            // The stamp lies behind them.
            let kept = match key.first() {
                Some(&QUEUE) => Kept::of(key, value),
                _ => return true,
            };
            kept.is_some_and(|kept| {
                visit(&kept);
                true
            })
        };
        let (others, mut sum) = thread::scope(|scope| {
            let helper = thread::Builder::new().spawn_scoped(scope, others);
            let sum = self.sum_up(&[QUEUE], None, &mut messages);
            let others = helper.map_or_else(
                |_| others(),
                |helper| helper.join().unwrap_or(Err(Broken("it panicked".into()))),
            );
            (others, sum)
        });
        if let (Ok(sum), Ok(others)) = (&mut sum, &others) {
            sum.plus(*others);
        }
        others.and(sum)
    }

    /// Sums up what lies between two kinds of keys; fails where `accept` does not take an entry.
    fn sum_up(
        &self,
        first: &[u8],
        end: Option<u8>,
        accept: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Sum, Broken> {
        let mut sum = Sum::default();
        let mut wrong = false;
        self.ask(|table| {
            table.scan(first, &mut |key, value| {
                if end.is_some_and(|end| key.first() >= Some(&end)) {
                    return false;
                }
                if key == STAMP {
                    return true;
                }
                sum.add(self.salt, key, value);
                wrong = !accept(key, value);
                !wrong
            })
        })?;
        match wrong {
            true => Err(Broken::nonsense("a message")),
            false => Ok(sum),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let table = self.table.take();
        if self.panicked.load(Ordering::Relaxed) {
            // Who knows what it still waits for; closing it could take for ever.
            std::mem::forget(table);
        } else if catch_unwind(AssertUnwindSafe(|| drop(table))).is_err() {
            tracing::warn!("the index on disk panicked as it was closed");
        }
    }
}

impl Sum {
    /// What a message adds to the sum.
    pub(super) fn of(salt: u64, recipient: &Identity, seq: Seq, entry: &Entry) -> Self {
        let mut sum = Self::default();
        pairs(recipient, seq, entry, &mut |key, value| {
            sum.add(salt, key, value)
        });
        sum
    }

    fn add(&mut self, salt: u64, key: &[u8], value: &[u8]) {
        let mut hasher = FixedState::with_seed(salt).build_hasher();
        hasher.write(key);
        hasher.write_u8(0xFF);
        hasher.write(value);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }

    pub(super) fn plus(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    pub(super) fn minus(&mut self, other: Self) {
        self.count = self.count.wrapping_sub(other.count);
        self.sum = self.sum.wrapping_sub(other.sum);
    }
}

fn queue_key(recipient: &Identity, seq: Seq) -> Octets {
    let name = recipient.as_str().as_bytes();
    // Longer ones never get here; see `fits`.
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    joined([&[QUEUE], &length.to_be_bytes(), name, &seq.0.to_be_bytes()])
}

fn numbered_key(kind: u8, number: u64, seq: Seq, recipient: &Identity) -> Octets {
    let name = recipient.as_str().as_bytes();
    joined([&[kind], &number.to_be_bytes(), &seq.0.to_be_bytes(), name])
}

fn joined(parts: [&[u8]; 4]) -> Octets {
    let mut all = Octets::new();
    parts
        .into_iter()
        .for_each(|part| all.extend_from_slice(part));
    all
}

fn split_queue_key(key: &[u8]) -> Option<(&str, Seq)> {
    let rest = key.strip_prefix(&[QUEUE])?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (name, seq) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let name = std::str::from_utf8(name).ok()?;
    Some((name, Seq(u64::from_be_bytes(seq.try_into().ok()?))))
}

fn decode_numbered(key: &[u8]) -> Option<(u64, Seq, Identity)> {
    let (number, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let (seq, name) = rest.split_first_chunk::<8>()?;
    let recipient = record::identity(std::str::from_utf8(name).ok()?)?;
    let seq = Seq(u64::from_be_bytes(*seq));
    Some((u64::from_be_bytes(*number), seq, recipient))
}

fn encode(entry: &Entry) -> Octets {
    let mut out = Octets::new();
    out.extend_from_slice(&entry.place.segment.to_le_bytes());
    out.extend_from_slice(&entry.place.position.to_le_bytes());
    out.extend_from_slice(&entry.place.length.to_le_bytes());
    out.extend_from_slice(&entry.expires_at.0.to_le_bytes());
    out.extend_from_slice(&entry.length.to_le_bytes());
    for share in &entry.shares {
        out.extend_from_slice(&share.segment.to_le_bytes());
        out.extend_from_slice(&share.octets.to_le_bytes());
    }
    out
}

fn decode_place(from: &mut Decoder<'_>) -> Option<Place> {
    Some(Place {
        segment: from.u64()?,
        position: from.u64()?,
        length: from.u32()?,
    })
}

fn decode(value: &[u8]) -> Option<Entry> {
    let mut from = Decoder(value);
    let place = decode_place(&mut from)?;
    let expires_at = UnixMillis(from.u64()?);
    let length = from.u64()?;
    let mut shares = Vec::new();
    while !from.0.is_empty() {
        shares.push(Share {
            segment: from.u64()?,
            octets: from.u64()?,
        });
    }
    Some(Entry {
        place,
        expires_at,
        length,
        shares: shares.into(),
    })
}
