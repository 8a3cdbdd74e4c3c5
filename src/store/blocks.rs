//! Blocks: many small entries of the view as one value of the table, and changes on their way there.
//!
//! A tree costs some microseconds for each key that is changed, however small, so it is given few keys
//! with much behind each. A block has the name that it begins at, and what lies from there to the name
//! of the next one, in order. In an entry a key is what it does not share with the one before:
//! three numbers (octets shared, octets of its own, octets of the value), then those octets.
//!
//! Pure: what is read and written where is `table`'s.

use std::io;

/// A block that grows beyond this many octets is cut into several.
const BLOCK: usize = 2048;
/// The first octet of each block.
const FORMAT: u8 = 1;
/// The name of the block before all others: no key is less.
pub(super) const LEFTMOST: &[u8] = &[0];

/// A block without entries.
pub(super) const EMPTY: &[u8] = &[FORMAT];

/// Octets that are no block.
fn damaged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it holds a block that was never written",
    )
}

/// Goes through a block's entries in order.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    key: Vec<u8>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(block: &'a [u8]) -> io::Result<Self> {
        let rest = block.strip_prefix(&[FORMAT]).ok_or_else(damaged)?;
        Ok(Self {
            rest,
            key: Vec::new(),
        })
    }

    /// The value of the next entry, whose key is [`Self::key`] from now on.
    pub(super) fn advance(&mut self) -> io::Result<Option<&'a [u8]>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (shared, own, value) = (self.number()?, self.number()?, self.number()?);
        let own = self.octets(own)?;
        let value = self.octets(value)?;
        if shared > self.key.len() {
            return Err(damaged());
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(own);
        Ok(Some(value))
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Seven bits an octet, the lowest first.
    fn number(&mut self) -> io::Result<usize> {
        let mut number = 0;
        for shift in [0, 7, 14] {
            let (octet, rest) = self.rest.split_first().ok_or_else(damaged)?;
            self.rest = rest;
            number |= usize::from(octet & 0x7F) << shift;
            if octet & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    fn octets(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (octets, rest) = self.rest.split_at_checked(count).ok_or_else(damaged)?;
        self.rest = rest;
        Ok(octets)
    }
}

/// The value of a key in its block.
pub(super) fn find<'a>(block: &'a [u8], key: &[u8]) -> io::Result<Option<&'a [u8]>> {
    let mut cursor = Cursor::new(block)?;
    while let Some(value) = cursor.advance()? {
        if cursor.key() >= key {
            return Ok((cursor.key() == key).then_some(value));
        }
    }
    Ok(None)
}

/// Writes a block, entry by entry.
struct Writer {
    block: Vec<u8>,
    last: Vec<u8>,
}

impl Writer {
    fn new() -> Self {
        Self {
            block: vec![FORMAT],
            last: Vec::new(),
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        let shared = std::iter::zip(&self.last, key).take_while(|(a, b)| a == b);
        let shared = shared.count();
        let own = &key[shared..];
        for number in [shared, own.len(), value.len()] {
            self.number(number);
        }
        self.block.extend_from_slice(own);
        self.block.extend_from_slice(value);
        self.last.truncate(shared);
        self.last.extend_from_slice(own);
    }

    fn number(&mut self, mut number: usize) {
        while number > 0x7F {
            self.block.push((number & 0x7F) as u8 | 0x80);
            number >>= 7;
        }
        self.block.push(number as u8);
    }
}

/// A block, and the name that it begins at.
pub(super) type Named = (Vec<u8>, Vec<u8>);

/// The block `name` with `changes`, which belong there and are in order: cut into several if it has become
/// large, none if it has become empty. The first one keeps the name. Nothing may lie at or behind `end`.
pub(super) fn change<'a>(
    (name, block): (&[u8], &[u8]),
    changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    end: Option<&[u8]>,
) -> io::Result<Vec<Named>> {
    let merged = merge(block, changes)?;
    if end.is_some_and(|end| merged.last.as_slice() >= end) {
        return Err(damaged());
    }
    match merged.block.len() {
        1 => Ok(Vec::new()),
        ..=BLOCK => Ok(vec![(name.to_vec(), merged.block)]),
        length => cut(name, &merged.block, length / length.div_ceil(BLOCK)),
    }
}

/// Of several changes of one key the last counts.
fn merge<'a>(
    block: &[u8],
    changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> io::Result<Writer> {
    let mut out = Writer::new();
    let mut old = Cursor::new(block)?;
    let mut old_value = old.advance()?;
    let mut changes = changes.peekable();
    while let Some((key, value)) = changes.next() {
        if changes.peek().is_some_and(|(next, _)| *next == key) {
            continue;
        }
        while let Some(value) = old_value.filter(|_| old.key() < key) {
            out.push(old.key(), value);
            old_value = old.advance()?;
        }
        if old_value.is_some() && old.key() == key {
            old_value = old.advance()?;
        }
        if let Some(value) = value {
            out.push(key, value);
        }
    }
    while let Some(value) = old_value {
        out.push(old.key(), value);
        old_value = old.advance()?;
    }
    Ok(out)
}

/// Cuts a large block into pieces of at least `target` octets, the last one excepted.
fn cut(name: &[u8], block: &[u8], target: usize) -> io::Result<Vec<Named>> {
    let mut pieces = Vec::new();
    let mut piece = (name.to_vec(), Writer::new());
    let mut cursor = Cursor::new(block)?;
    while let Some(value) = cursor.advance()? {
        if piece.1.block.len() >= target {
            let full = std::mem::replace(&mut piece, (cursor.key().to_vec(), Writer::new()));
            pieces.push((full.0, full.1.block));
        }
        piece.1.push(cursor.key(), value);
    }
    pieces.push((piece.0, piece.1.block));
    Ok(pieces)
}

/// Changes that wait to be made together, in little memory: their octets, and where each has its own.
#[derive(Default)]
pub(super) struct Batch {
    octets: Vec<u8>,
    changes: Vec<Packed>,
}

/// Where the octets of a key begin, and those of its value after it.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    start: u32,
    key: u16,
    /// None: to be removed.
    value: Option<u16>,
}

impl Batch {
    pub(super) fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "too long for the view");
        self.changes.push(Packed {
            start: u32::try_from(self.octets.len()).map_err(too_long)?,
            key: u16::try_from(key.len()).map_err(too_long)?,
            value: value
                .map(|value| u16::try_from(value.len()).map_err(too_long))
                .transpose()?,
        });
        self.octets.extend_from_slice(key);
        self.octets.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    /// Memory in use.
    pub(super) fn footprint(&self) -> usize {
        self.octets.len() + self.changes.len() * size_of::<Packed>()
    }

    /// The changes by their keys; those of one key as they were made.
    pub(super) fn sort(&mut self) -> Sorted<'_> {
        let octets = &self.octets;
        self.changes
            .sort_by(|one, other| one.key(octets).cmp(other.key(octets)));
        Sorted {
            octets,
            changes: &self.changes,
        }
    }
}

impl Packed {
    fn key<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &octets[start..start + usize::from(self.key)]
    }

    fn value<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        let start = self.start as usize + usize::from(self.key);
        self.value
            .map(|length| &octets[start..start + usize::from(length)])
    }
}

/// Changes in order.
#[derive(Clone, Copy)]
pub(super) struct Sorted<'a> {
    octets: &'a [u8],
    changes: &'a [Packed],
}

impl<'a> Sorted<'a> {
    /// The first key.
    pub(super) fn first(&self) -> Option<&'a [u8]> {
        self.changes.first().map(|change| change.key(self.octets))
    }

    /// Takes what lies before `end`, `limit` changes at most, off the front. One key's changes stay together.
    pub(super) fn take_before(&mut self, end: Option<&[u8]>, limit: usize) -> Self {
        let is_before = |change: &Packed| end.is_none_or(|end| change.key(self.octets) < end);
        let mut count = self
            .changes
            .iter()
            .take(limit)
            .take_while(|c| is_before(c))
            .count();
        let key_at = |index: usize| {
            self.changes
                .get(index)
                .map(|change| change.key(self.octets))
        };
        while count > 0 && key_at(count) == key_at(count - 1) {
            count += 1;
        }
        let (here, rest) = self.changes.split_at(count);
        self.changes = rest;
        Self {
            octets: self.octets,
            changes: here,
        }
    }

    /// Keys and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let octets = self.octets;
        let changes = self.changes.iter();
        changes.map(move |change| (change.key(octets), change.value(octets)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn key(number: u16) -> Vec<u8> {
        [b"q-some-user".as_slice(), &number.to_be_bytes()].concat()
    }

    /// Makes changes as a table does, block by block; each is seven changes at most.
    fn make(blocks: &mut Entries, changes: &[(u16, Option<Vec<u8>>)]) {
        let mut batch = Batch::default();
        for (number, value) in changes {
            batch.add(&key(*number), value.as_deref()).unwrap();
        }
        let mut sorted = batch.sort();
        while let Some(first) = sorted.first() {
            let found = blocks.range(..=first.to_vec()).next_back();
            let found = found.map(|(name, block)| (name.clone(), block.clone()));
            let (name, block) = found.unwrap_or((LEFTMOST.to_vec(), vec![FORMAT]));
            let mut names = blocks.range(name.clone()..).map(|(name, _)| name.clone());
            let end = names.find(|next| *next != name);
            let here = sorted.take_before(end.as_deref(), 7);
            blocks.remove(&name);
            blocks.extend(change((&name, &block), here.iter(), end.as_deref()).unwrap());
        }
    }

    fn entries_of(blocks: &Entries) -> Entries {
        let mut entries = Entries::new();
        for (name, block) in blocks {
            assert!(block.len() <= 2 * BLOCK, "{}", block.len());
            let mut cursor = Cursor::new(block).unwrap();
            while let Some(value) = cursor.advance().unwrap() {
                assert!(cursor.key() >= name.as_slice());
                assert_eq!(find(block, cursor.key()).unwrap(), Some(value));
                let before = entries.insert(cursor.key().to_vec(), value.to_vec());
                assert_eq!(before, None);
            }
        }
        entries
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn blocks_hold_what_was_put_there_last(
            rounds in prop::collection::vec(
                prop::collection::vec(
                    (0..400_u16, prop::option::of(prop::collection::vec(any::<u8>(), 0..200))),
                    0..80,
                ),
                1..20,
            ),
        ) {
            let (mut blocks, mut expected) = (Entries::new(), Entries::new());
            for changes in rounds {
                make(&mut blocks, &changes);
                for (number, value) in changes {
                    match value {
                        Some(value) => expected.insert(key(number), value),
                        None => expected.remove(&key(number)),
                    };
                }
                prop_assert_eq!(&entries_of(&blocks), &expected);
                prop_assert!(blocks.values().all(|block| block.len() > 1), "an empty block stays");
            }
        }

        #[test]
        fn octets_that_are_no_block_do_no_harm(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let block = [vec![FORMAT], octets].concat();
            let mut cursor = Cursor::new(&block).unwrap();
            while let Ok(Some(_)) = cursor.advance() {}
            let _ = find(&block, b"q");
            let _ = merge(&block, std::iter::empty());
        }
    }

    #[test]
    fn entries_that_come_in_order_fill_their_blocks() {
        let mut blocks = Entries::new();
        for batch in 0..10 {
            let changes: Vec<_> = (0..100)
                .map(|number| (batch * 100 + number, Some(vec![7; 36])))
                .collect();
            make(&mut blocks, &changes);
        }
        assert_eq!(entries_of(&blocks).len(), 1000);
        // 41 octets an entry.
        assert!(blocks.len() <= 40, "{}", blocks.len());
    }

    #[test]
    fn what_another_build_wrote_is_damage() {
        for octets in [&b""[..], b"\x02", b"\x01\x05\x01\x00a"] {
            assert!(find(octets, b"q").is_err(), "{octets:?}");
        }
    }

    #[test]
    fn a_block_with_what_belongs_to_the_next_one_is_damage() {
        let mut batch = Batch::default();
        batch.add(&key(9), Some(b"nine")).unwrap();
        let changes = batch.sort();
        let result = change((LEFTMOST, &[FORMAT]), changes.iter(), Some(&key(9)));
        assert!(result.is_err());
    }
}
