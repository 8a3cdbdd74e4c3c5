//! The seam between the store's view and what keeps it on disk, as thin as it can be: keys in order,
//! small values. A test puts a table here that panics, lies or forgets.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A key, and the value it shall have from now on, if any.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Keys and values on disk. Nobody trusts it: it may fail, panic, forget or make things up.
pub trait Table: Send + Sync {
    /// The value of a key.
    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Shows every key from `first` on, in order, until `visit` has seen enough and says false.
    fn scan(
        &self,
        first: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()>;
    /// Makes changes in order. Not durable before `sync`.
    fn write(&self, changes: Vec<Change>) -> io::Result<()>;
    /// Makes all earlier changes durable.
    fn sync(&self) -> io::Result<()>;
}

/// Octets of the table that are kept in memory.
const CACHE: u64 = 32 * 1024 * 1024;

/// sled, with the syncs that it leaves out: 0.34 calls `sync_file_range` alone, which promises
/// nothing after a power cut.
pub struct SledTable {
    database: sled::Db,
    folder: PathBuf,
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
        };
        if new {
            table.sync()?;
            fs::File::open(own.join("conf"))?.sync_all()?;
            fs::File::open(own)?.sync_all()?;
            if let Some(parent) = own.parent() {
                fs::File::open(parent)?.sync_all()?;
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
        self.database.flush()?;
        Ok(())
    }
}

impl Table for SledTable {
    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.database.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        first: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> io::Result<()> {
        for found in self.database.range(first..) {
            let (key, value) = found?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.database.apply_batch(batch)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.flush()?;
        fs::File::open(self.folder.join("db"))?.sync_data()
    }
}
