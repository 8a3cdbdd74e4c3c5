//! The files of the index on disk, as a power cut or a hand may leave them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;
/// The copy after so many syncs is kept as the older one.
const OLDER: usize = 6;

/// Contents by path.
pub type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// The index on disk: as the process sees it, and as the disk surely has it.
#[derive(Default)]
pub struct ViewWorld {
    pub seen: Contents,
    pub durable: Contents,
    pub older: Contents,
    pub syncs: usize,
}

impl ViewWorld {
    pub fn synced(&mut self, files: Contents) {
        self.syncs += 1;
        if self.syncs == OLDER {
            self.older = files.clone();
        }
        self.durable = files;
    }

    /// Of what was not synced, what `keeps` keeps, page by page.
    pub fn after_cut(&self, mut keeps: impl FnMut() -> bool) -> Contents {
        let mut left = self.durable.clone();
        for (path, seen) in &self.seen {
            let known = left.contains_key(path);
            if !known && !keeps() {
                continue;
            }
            let file = left.entry(path.clone()).or_default();
            if file.len() != seen.len() && keeps() {
                file.resize(seen.len(), 0);
            }
            for from in (0..seen.len().min(file.len())).step_by(PAGE) {
                let to = (from + PAGE).min(seen.len()).min(file.len());
                if file[from..to] != seen[from..to] && keeps() {
                    file[from..to].copy_from_slice(&seen[from..to]);
                }
            }
        }
        left
    }
}

/// All files below `root/view`.
pub fn read_files(root: &Path) -> Contents {
    let mut found = Contents::new();
    collect(root, &root.join("view"), &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Contents) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if let Ok(octets) = std::fs::read(&path) {
            let name = path.strip_prefix(root).expect("below the root");
            found.insert(name.to_path_buf(), octets);
        }
    }
}

/// Writes files below `root`.
pub fn write_files(files: &Contents, root: &Path) {
    for (name, octets) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, octets).expect("a file");
    }
}

/// What may happen to the folder between two starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    None,
    Deleted,
    Truncated,
    Flipped,
    Older,
}

impl Harm {
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Deleted,
        Self::Truncated,
        Self::Flipped,
        Self::Older,
    ];

    /// Does it below `root`; `older` is an earlier copy, `dice` below any bound.
    pub fn befall(self, root: &Path, older: &Contents, mut dice: impl FnMut(u64) -> u64) {
        let present = read_files(root);
        match self {
            Self::None => {}
            Self::Deleted | Self::Older => {
                let _ = std::fs::remove_dir_all(root.join("view"));
                if self == Self::Older {
                    write_files(older, root);
                }
            }
            Self::Truncated | Self::Flipped => {
                let mut present = present;
                for octets in present.values_mut().filter(|octets| octets.len() > 8) {
                    let at = dice(octets.len() as u64) as usize;
                    if self == Self::Truncated {
                        octets.truncate(at);
                    } else {
                        octets[at] ^= 0x10;
                    }
                }
                write_files(&present, root);
            }
        }
    }
}
