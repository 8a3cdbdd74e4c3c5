//! The seam between the store's view and what keeps it on disk, as thin as it can be: keys in order,
//! small values. A test puts a table here that panics, lies or forgets.

use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::blocks::{self, Batch, Cursor, Sorted};

/// A key, and the value it shall have from now on, if any.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Keys and values on disk. Nobody trusts it: it may fail, panic, forget or make things up.
pub trait Table: Send + Sync {
    /// The value of a key.
    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Shows every key from `first` on, in order, until `visit` has seen enough and says false. What is changed
    /// meanwhile may be shown twice.
    fn scan(&self, first: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()>;
    /// Makes changes in order. Before `sync` they are not durable, and may not be seen yet.
    fn write(&self, changes: Vec<Change>) -> io::Result<()>;
    /// Makes all earlier changes durable.
    fn sync(&self) -> io::Result<()>;
}

/// Octets of the table that are kept in memory.
const CACHE: u64 = 4 * 1024 * 1024;
/// Octets of changes that are made together, at most.
const BATCH: usize = 8 * 1024 * 1024;
/// Changes made in one block at a time, at most.
const CHANGES: usize = 1000;

/// sled, given blocks of entries (`blocks`), and with the syncs that it leaves out: 0.34 calls
/// `sync_file_range` alone, which promises nothing after a power cut.
pub struct SledTable {
    database: sled::Db,
    folder: PathBuf,
    waiting: Mutex<Batch>,
}

impl SledTable {
    /// Opens the table below `folder`, or makes a new one in place of all that is there. A table that
    /// failed may still hold its files open, so a new one gets a folder of its own.
    pub fn open(folder: &Path, fresh: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        let mut numbers: Vec<u64> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let last = numbers.last().copied();
        let number = match last {
            Some(last) if !fresh => last,
            last => last.map_or(1, |last| last + 1),
        };
        let own = folder.join(number.to_string());
        let table = Self::open_own(&own, last != Some(number))?;
        for old in numbers.into_iter().filter(|old| *old != number) {
            fs::remove_dir_all(folder.join(old.to_string()))?;
        }
        Ok(table)
    }

    fn open_own(own: &Path, new: bool) -> io::Result<Self> {
        let database = sled::Config::new()
            .path(own)
            .cache_capacity(CACHE)
            .flush_every_ms(None)
            .open()?;
        fs::set_permissions(own, fs::Permissions::from_mode(0o700))?;
        let table = Self {
            database,
            folder: own.to_path_buf(),
            waiting: Mutex::default(),
        };
        if new {
            table.sync()?;
            fs::File::open(own.join("conf"))?.sync_all()?;
            fs::File::open(own)?.sync_all()?;
            for above in own.ancestors().skip(1).take(2) {
                fs::File::open(above)?.sync_all()?;
            }
        }
        Ok(table)
    }

    /// The folder with sled's files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Hands everything to the operating system, as far as sled knows how to.
    pub fn flush(&self) -> io::Result<()> {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.make(waiting)?;
        self.database.flush()?;
        Ok(())
    }

    fn make(&self, mut batch: Batch) -> io::Result<()> {
        let mut changes = batch.sort();
        while let Some(first) = changes.first() {
            let found = self.database.range(..=first).next_back().transpose()?;
            let (name, block) = match &found {
                Some((name, block)) => (&name[..], &block[..]),
                None => (blocks::LEFTMOST, blocks::EMPTY),
            };
            let behind = (Bound::Excluded(name), Bound::Unbounded);
            let next = self.database.range::<&[u8], _>(behind).next().transpose()?;
            let end = next.as_ref().map(|(name, _)| &name[..]);
            let here = changes.take_before(end, CHANGES);
            self.replace(name, block, here, end)?;
        }
        Ok(())
    }

    /// All pieces of a block at once: whoever reads meanwhile, or after a kill, sees none or all of them.
    fn replace(
        &self,
        name: &[u8],
        block: &[u8],
        changes: Sorted<'_>,
        end: Option<&[u8]>,
    ) -> io::Result<()> {
        let mut pieces = blocks::change((name, block), changes.iter(), end)?;
        match pieces.pop() {
            None => self.database.remove(name).map(|_| ())?,
            Some((name, block)) if pieces.is_empty() => {
                self.database.insert(name, block).map(|_| ())?;
            }
            Some(last) => {
                let mut batch = sled::Batch::default();
                for (name, block) in pieces.into_iter().chain([last]) {
                    batch.insert(name, block);
                }
                self.database.apply_batch(batch)?;
            }
        }
        Ok(())
    }
}

impl Table for SledTable {
    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.database.range(..=key).next_back().transpose()? {
            Some((_, block)) => Ok(blocks::find(&block, key)?.map(<[u8]>::to_vec)),
            None => Ok(None),
        }
    }

    fn scan(&self, first: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        let found = self.database.range(..=first).next_back().transpose()?;
        let from = found.map_or_else(|| first.into(), |(name, _)| name);
        for found in self.database.range(from..) {
            let (_, block) = found?;
            let mut cursor = Cursor::new(&block)?;
            while let Some(value) = cursor.advance()? {
                if cursor.key() >= first && !visit(cursor.key(), value) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            waiting.add(&key, value.as_deref())?;
        }
        if waiting.footprint() < BATCH {
            return Ok(());
        }
        let full = std::mem::take(&mut *waiting);
        drop(waiting);
        self.make(full)
    }

    fn sync(&self) -> io::Result<()> {
        self.flush()?;
        fs::File::open(self.folder.join("db"))?.sync_data()
    }
}
