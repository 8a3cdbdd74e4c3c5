//! The seam between the store and the file system, as thin as it can be: a test puts another file
//! system here, which fails at the n-th call, or forgets what was never synced.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::table::{SledTable, Table};

/// What the store does with names and folders. A change of names is durable after `sync_dir`.
pub trait Files: Send + Sync {
    /// Takes the folder for this process alone; `WouldBlock` if another has it. Held until dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Makes a folder (0700) with its parents, or makes sure that an existing one is private.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// A new file (0600); fails if the name exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// An existing file, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Removes a name; what is open stays readable.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Octets that could still be written.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// The table for the index on disk that belongs to a data folder; in place of the one that is
    /// there, if `fresh`.
    fn table(&self, data_dir: &Path, fresh: bool) -> io::Result<Box<dyn Table>>;
}

/// What the store does with the octets of one file.
pub trait File: Send + Sync {
    /// Writes all of `octets`; the file grows as needed. Not durable before `sync`.
    fn write_at(&self, octets: &[u8], position: u64) -> io::Result<()>;
    /// Reads up to the length of `into`; fewer octets only at the end of the file.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;
    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes the file at least `length` octets long, zeros at the end, with room on the disk.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file to `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Octets in the file.
    fn length(&self) -> io::Result<u64>;
    /// Forgets cached octets, so that the next read tells what the disk has. Best effort.
    fn drop_cache(&self);
}

/// The operating system's files.
#[derive(Debug, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn table(&self, data_dir: &Path, fresh: bool) -> io::Result<Box<dyn Table>> {
        Ok(Box::new(SledTable::open(&data_dir.join("view"), fresh)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = options().create(true).truncate(false).open(path)?;
        file.try_lock()?;
        Ok(Box::new(file))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?
            .filter_map(|entry| match entry {
                Ok(entry) => entry.file_name().into_string().ok().map(Ok),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(options().create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(options().open(path)?)))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut answer = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `name` ends in NUL and lives over the call; `answer` has room for the result.
        let result = unsafe { libc::statvfs(name.as_ptr(), answer.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all zeros is a valid value, and the call succeeded.
        let answer = unsafe { answer.assume_init() };
        Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
    }
}

/// An existing file that nobody will write through this.
pub(super) fn open_to_read(path: &Path) -> io::Result<Arc<dyn File>> {
    Ok(Arc::new(DiskFile(fs::File::open(path)?)))
}

fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

struct DiskFile(fs::File);

impl File for DiskFile {
    fn write_at(&self, octets: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(octets, position)
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self
                .0
                .read_at(&mut into[filled..], position + filled as u64)
            {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let present = self.length()?;
        if present >= length {
            return Ok(());
        }
        let (from, by) = (signed(present)?, signed(length - present)?);
        // SAFETY: the descriptor is open as long as `self` lives.
        if unsafe { libc::fallocate(self.0.as_raw_fd(), 0, from, by) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The file system cannot; then a write may meet the full disk instead.
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => self.0.set_len(length),
            _ => Err(error),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn drop_cache(&self) {
        // SAFETY: the descriptor is open; the call is advice and its result does not matter.
        let _ = unsafe { libc::posix_fadvise(self.0.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

fn signed(length: u64) -> io::Result<i64> {
    i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

/// Whether an error says that there is no room, which passes, and not that the disk fails.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
