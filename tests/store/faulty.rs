//! A table that misbehaves on purpose.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use restante::store::files::{DiskFiles, File, Files};
use restante::store::table::{Change, Table};

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// At the n-th call, counted over all tables.
    PanicAt(usize),
    FailAt(usize),
    PanicAlways,
    FailAlways,
    /// The n-th value that is read names another place.
    LieAt(usize),
    /// Every fourth message is not written.
    Forget,
}

/// Real files with such tables.
#[derive(Clone)]
pub struct FaultyFiles {
    fault: Fault,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    calls: AtomicUsize,
    struck: AtomicUsize,
    added: AtomicUsize,
    fresh: AtomicUsize,
}

impl FaultyFiles {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            counts: Arc::default(),
        }
    }

    pub fn has_struck(&self) -> bool {
        self.counts.struck.load(Ordering::SeqCst) > 0
    }

    /// Messages written to a table.
    pub fn added(&self) -> usize {
        self.counts.added.load(Ordering::SeqCst)
    }

    /// Tables begun anew.
    pub fn fresh(&self) -> usize {
        self.counts.fresh.load(Ordering::SeqCst)
    }

    /// True for the n-th of what is counted.
    fn counts_to(&self, call: usize) -> bool {
        let now = self.counts.calls.fetch_add(1, Ordering::SeqCst) + 1 == call;
        if now {
            self.strike();
        }
        now
    }

    fn strike(&self) {
        self.counts.struck.fetch_add(1, Ordering::SeqCst);
    }

    fn call(&self) -> io::Result<()> {
        let (panics, fails) = match self.fault {
            Fault::PanicAt(call) => (self.counts_to(call), false),
            Fault::FailAt(call) => (false, self.counts_to(call)),
            Fault::PanicAlways => (self.counts_to(1) || self.has_struck(), false),
            Fault::FailAlways => (false, self.counts_to(1) || self.has_struck()),
            Fault::None | Fault::LieAt(_) | Fault::Forget => (false, false),
        };
        if panics {
            // Without the hook that prints it.
            std::panic::resume_unwind(Box::new("an injected panic"));
        }
        match fails {
            true => Err(io::Error::other("an injected failure")),
            false => Ok(()),
        }
    }
}

impl Files for FaultyFiles {
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        DiskFiles.lock(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DiskFiles.make_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        DiskFiles.list(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        DiskFiles.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        DiskFiles.open(path)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        DiskFiles.unlink(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        DiskFiles.sync_dir(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        DiskFiles.free_space(path)
    }

    fn table(&self, data_dir: &Path, fresh: bool) -> io::Result<Box<dyn Table>> {
        if fresh {
            self.counts.fresh.fetch_add(1, Ordering::SeqCst);
        }
        self.call()?;
        Ok(Box::new(FaultyTable {
            table: DiskFiles.table(data_dir, fresh)?,
            files: self.clone(),
        }))
    }
}

struct FaultyTable {
    table: Box<dyn Table>,
    files: FaultyFiles,
}

impl Table for FaultyTable {
    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.files.call()?;
        let mut value = self.table.read(key)?;
        if let (Fault::LieAt(call), Some(octets)) = (self.files.fault, &mut value)
            && key.first() == Some(&b'q')
            && self.files.counts_to(call)
        {
            // The record's position.
            octets[9] ^= 1;
        }
        Ok(value)
    }

    fn scan(&self, first: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        self.files.call()?;
        self.table.scan(first, visit)
    }

    fn write(&self, mut changes: Vec<Change>) -> io::Result<()> {
        self.files.call()?;
        let is_message = |change: &Change| change.0.first() == Some(&b'q') && change.1.is_some();
        let messages = changes.iter().filter(|change| is_message(change)).count();
        self.files
            .counts
            .added
            .fetch_add(messages, Ordering::SeqCst);
        if self.files.fault == Fault::Forget {
            let mut nth = 0;
            changes.retain(|change| {
                nth += usize::from(is_message(change));
                let forgotten = is_message(change) && nth % 4 == 0;
                if forgotten {
                    self.files.strike();
                }
                !forgotten
            });
        }
        self.table.write(changes)
    }

    fn sync(&self) -> io::Result<()> {
        self.files.call()?;
        self.table.sync()
    }
}
