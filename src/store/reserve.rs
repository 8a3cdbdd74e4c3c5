//! Room put by for the day the disk is full.
//!
//! Intake may fill the disk; what makes room again (settlements, copies of a compaction) must still
//! be written then. A file of nothing holds that room and is cut shorter, step by step, when needed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::{File, Files};

/// The file of nothing.
pub(super) struct Reserve {
    file: Arc<dyn File>,
    wanted: u64,
    held: u64,
}

impl Reserve {
    /// Opens the reserve of a log folder; it may begin short on a full disk.
    pub(super) fn open(files: &dyn Files, folder: &Path, wanted: u64) -> io::Result<Self> {
        let path = folder.join("reserve");
        let file = match files.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.create(&path)?,
            other => other?,
        };
        let free = files.free_space(folder).unwrap_or(u64::MAX);
        let present = file.length()?;
        let wanted = wanted.min(((free + present) / 8).max(256 * 1024));
        if present > wanted {
            file.truncate(wanted)?;
        }
        let mut reserve = Self {
            file,
            wanted,
            held: present.min(wanted),
        };
        reserve.refill();
        Ok(reserve)
    }

    /// Frees up to `octets`; false if nothing was left.
    pub(super) fn give(&mut self, octets: u64) -> bool {
        let left = self.held.saturating_sub(octets);
        if self.held == 0 || self.file.truncate(left).is_err() {
            return false;
        }
        self.held = left;
        true
    }

    /// Takes the room back that was given; true when all of it is there.
    pub(super) fn refill(&mut self) -> bool {
        if self.held < self.wanted && self.file.allocate(self.wanted).is_ok() {
            self.held = self.wanted;
        }
        self.held == self.wanted
    }
}
