//! Files that know what a power cut would leave.
//!
//! Everything lies in memory twice: as the process sees it, and as the disk surely has it. A sync
//! moves a file's octets and length over, a folder sync its names. A cut writes to a real folder what
//! the disk has, and of the rest nothing or a random half: page by page, length by length, name by
//! name. A mutant leaves out the syncs of one kind.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use restante::store::files::{File, Files};
use restante::store::table::{Change, SledTable, Table};

#[path = "view.rs"]
pub mod view;
use view::ViewWorld;

const PAGE: usize = 4096;

/// Which syncs are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// Every sync of a log segment but those of its footer and its birth.
    LogData,
    BodyData,
    /// The folder at a segment's birth.
    LogFolder,
    BodyFolder,
    /// Copies of bodies that a compaction makes.
    BodyCopies,
    /// The folder after a segment of the log was dropped.
    Unlink,
    /// The index on disk, after its creation.
    ViewData,
}

#[derive(Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that differ, or may.
    dirty: BTreeSet<usize>,
    syncs: usize,
}

#[derive(Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Octets that may still be allocated; `None` is no limit.
    room: Option<u64>,
    syncs: usize,
    /// Writes and syncs so far; the one with this number fails.
    calls: usize,
    fail_at: Option<(usize, io::ErrorKind)>,
    failed: bool,
    frozen: bool,
    /// Folder syncs after a segment of the log was dropped, whether left out or not.
    drops: usize,
    view: ViewWorld,
}

/// A folder that can be cut.
#[derive(Clone)]
pub struct CutFiles {
    world: Arc<Mutex<World>>,
    mutant: Mutant,
    /// Held closed, no sync returns.
    gate: Arc<Mutex<()>>,
    dropped: Arc<Condvar>,
    /// Where the index on disk really is.
    home: Arc<tempfile::TempDir>,
}

impl CutFiles {
    pub fn new(mutant: Mutant) -> Self {
        Self {
            world: Arc::default(),
            mutant,
            gate: Arc::default(),
            dropped: Arc::default(),
            home: Arc::new(tempfile::tempdir().expect("a folder")),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics under it")
    }

    /// Octets that files may grow by from now on.
    pub fn set_room(&self, room: Option<u64>) {
        self.world().room = room;
    }

    /// Fails the n-th write or sync from now, once, with this.
    pub fn fail_at(&self, call: Option<(usize, io::ErrorKind)>) {
        let mut world = self.world();
        world.calls = 0;
        world.failed = false;
        world.fail_at = call;
    }

    /// Whether the failure asked for has happened.
    pub fn has_failed(&self) -> bool {
        self.world().failed
    }

    /// Until the guard is dropped no sync returns.
    pub fn close_gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().expect("no test panics under it")
    }

    pub fn syncs(&self) -> usize {
        self.world().syncs
    }

    /// From here on nothing reaches the disk.
    pub fn freeze(&self) {
        let mut world = self.world();
        world.frozen = true;
        world.view.seen = view::read_files(self.home.path());
    }

    /// How many files a folder has, as the process sees it.
    pub fn files_in(&self, folder: &Path) -> usize {
        let world = self.world();
        let names = world.names.keys();
        names.filter(|name| name.parent() == Some(folder)).count()
    }

    /// Waits until so many segments of the log have been dropped.
    pub fn await_drops(&self, count: usize) {
        let patience = Duration::from_secs(60);
        let (world, _) = self
            .dropped
            .wait_timeout_while(self.world(), patience, |world| world.drops < count)
            .expect("no test panics under it");
        assert!(world.drops >= count, "only {} are dropped", world.drops);
    }

    /// How often the index on disk was synced.
    pub fn view_syncs(&self) -> usize {
        self.world().view.syncs
    }

    /// The index on disk as it was after its first syncs.
    pub fn older_view(&self) -> view::Contents {
        self.world().view.older.clone()
    }

    /// Writes what the process saw into a real folder of the same shape: it was killed, the power stayed.
    /// Without the index on disk.
    pub fn materialise_seen(&self, root: &Path, target: &Path) {
        let world = self.world();
        for folder in ["log", "body", "damaged"] {
            std::fs::create_dir_all(target.join(folder)).expect("a folder");
        }
        for (path, inode) in &world.names {
            let place = target.join(path.strip_prefix(root).expect("below the root"));
            std::fs::write(place, &world.inodes[*inode].seen).expect("a file");
        }
    }

    /// Writes what a cut leaves into a real folder of the same shape.
    pub fn materialise(&self, root: &Path, target: &Path, seed: Option<u64>) {
        let world = self.world();
        let mut coin = Coin(seed);
        let mut names = world.durable_names.clone();
        for (path, inode) in &world.names {
            if names.get(path) != Some(inode) && coin.keeps() {
                names.insert(path.clone(), *inode);
            }
        }
        for path in world.durable_names.keys() {
            if !world.names.contains_key(path) && coin.keeps() {
                names.remove(path);
            }
        }
        for folder in ["log", "body", "damaged"] {
            std::fs::create_dir_all(target.join(folder)).expect("a folder");
        }
        for (path, inode) in names {
            let place = target.join(path.strip_prefix(root).expect("below the root"));
            let octets = world.inodes[inode].after_cut(&mut coin);
            std::fs::write(place, octets).expect("a file");
        }
        let left = world.view.after_cut(|| coin.keeps());
        view::write_files(&left, target);
    }
}

impl Inode {
    fn after_cut(&self, coin: &mut Coin) -> Vec<u8> {
        let mut left = self.durable.clone();
        if self.seen.len() != self.durable.len() && coin.keeps() {
            left.resize(self.seen.len(), 0);
        }
        for page in &self.dirty {
            if !coin.keeps() {
                continue;
            }
            let from = page * PAGE;
            let to = (from + PAGE).min(self.seen.len()).min(left.len());
            if from < to {
                left[from..to].copy_from_slice(&self.seen[from..to]);
            }
        }
        left
    }
}

/// Heads with even odds from a seed; without one always tails.
struct Coin(Option<u64>);

impl Coin {
    fn keeps(&mut self) -> bool {
        let Some(state) = &mut self.0 else {
            return false;
        };
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *state >> 63 == 1
    }
}

impl World {
    /// Counts a write or sync and fails it if it is its turn.
    fn call(&mut self) -> io::Result<()> {
        if self.frozen {
            return Err(io::Error::other("the power is off"));
        }
        self.calls += 1;
        if let Some((call, kind)) = self.fail_at
            && call == self.calls
        {
            self.failed = true;
            return Err(kind.into());
        }
        Ok(())
    }

    fn grow(&mut self, inode: usize, length: usize) -> io::Result<()> {
        let present = self.inodes[inode].seen.len();
        let more = length.saturating_sub(present) as u64;
        if let Some(room) = &mut self.room {
            *room = room
                .checked_sub(more)
                .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        if more > 0 {
            self.inodes[inode].seen.resize(length, 0);
        }
        Ok(())
    }
}

impl Files for CutFiles {
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        let inside = world
            .names
            .keys()
            .filter(|name| name.parent() == Some(path));
        Ok(inside
            .filter_map(|name| Some(name.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut world = self.world();
        world.call()?;
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.names.insert(path.to_path_buf(), inode);
        Ok(self.file(inode, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let inode = self.world().names.get(path).copied();
        let inode = inode.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.file(inode, path))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.call()?;
        let inode = world.names.remove(path);
        let inode = inode.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let freed = world.inodes[inode].seen.len() as u64;
        if let Some(room) = &mut world.room {
            *room += freed;
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.call()?;
        let folder = path.file_name().and_then(|name| name.to_str());
        // The keeper makes no segment of the log: it only drops them.
        let is_drop = folder == Some("log") && is_keeper();
        if is_drop {
            world.drops += 1;
            self.dropped.notify_all();
        }
        match (self.mutant, folder) {
            (Mutant::LogFolder, Some("log")) | (Mutant::BodyFolder, Some("body")) => return Ok(()),
            (Mutant::Unlink, _) if is_drop => return Ok(()),
            _ => {}
        }
        let inside = |name: &PathBuf| name.parent() == Some(path);
        world.durable_names.retain(|name, _| !inside(name));
        let now: Vec<_> = world
            .names
            .iter()
            .filter(|(name, _)| inside(name))
            .map(|(name, inode)| (name.clone(), *inode))
            .collect();
        world.durable_names.extend(now);
        Ok(())
    }

    fn table(&self, _: &Path, fresh: bool) -> io::Result<Box<dyn Table>> {
        if !matches!(self.mutant, Mutant::None | Mutant::ViewData) {
            // All in memory: compaction keeps up with intake then, and there is more of it to cut.
            return Err(io::Error::other("not in this test"));
        }
        let mut world = self.world();
        world.call()?;
        let table = SledTable::open(&self.home.path().join("view"), fresh)?;
        world.view.durable = view::read_files(self.home.path());
        drop(world);
        Ok(Box::new(CutTable {
            table,
            files: self.clone(),
        }))
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(self.world().room.unwrap_or(u64::MAX / 2))
    }
}

impl CutFiles {
    fn file(&self, inode: usize, path: &Path) -> Arc<dyn File> {
        let folder = path.parent().and_then(|folder| folder.file_name());
        let folder = folder.unwrap_or_default().to_string_lossy().into_owned();
        Arc::new(CutFile {
            files: self.clone(),
            inode,
            folder,
            by_keeper: is_keeper(),
        })
    }
}

fn is_keeper() -> bool {
    std::thread::current().name() == Some("store-keeper")
}

struct CutFile {
    files: CutFiles,
    inode: usize,
    folder: String,
    by_keeper: bool,
}

impl CutFile {
    /// Whether the mutant leaves this sync out. A segment's first sync is that of its birth.
    fn is_left_out(&self, earlier: usize) -> bool {
        match self.files.mutant {
            Mutant::LogData => self.folder == "log" && earlier > 0,
            Mutant::BodyData => self.folder == "body" && earlier > 0,
            Mutant::BodyCopies => self.folder == "body" && self.by_keeper && earlier > 0,
            _ => false,
        }
    }
}

impl File for CutFile {
    fn write_at(&self, octets: &[u8], position: u64) -> io::Result<()> {
        let mut world = self.files.world();
        world.call()?;
        let from = position as usize;
        let to = from + octets.len();
        world.grow(self.inode, to)?;
        let inode = &mut world.inodes[self.inode];
        inode.seen[from..to].copy_from_slice(octets);
        inode
            .dirty
            .extend(from / PAGE..=to.saturating_sub(1) / PAGE);
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let world = self.files.world();
        let seen = &world.inodes[self.inode].seen;
        let from = (position as usize).min(seen.len());
        let count = into.len().min(seen.len() - from);
        into[..count].copy_from_slice(&seen[from..from + count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.files.gate.lock().expect("no test panics under it"));
        let mut world = self.files.world();
        world.call()?;
        world.syncs += 1;
        let inode = &mut world.inodes[self.inode];
        inode.syncs += 1;
        if self.is_left_out(inode.syncs - 1) {
            return Ok(());
        }
        let length = inode.seen.len();
        inode.durable.resize(length, 0);
        for page in std::mem::take(&mut inode.dirty) {
            let from = (page * PAGE).min(length);
            let to = (from + PAGE).min(length);
            inode.durable[from..to].copy_from_slice(&inode.seen[from..to]);
        }
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut world = self.files.world();
        if world.frozen {
            return Err(io::Error::other("the power is off"));
        }
        world.grow(self.inode, length as usize)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut world = self.files.world();
        world.call()?;
        let freed = world.inodes[self.inode].seen.len() as u64 - length;
        if let Some(room) = &mut world.room {
            *room += freed;
        }
        let inode = &mut world.inodes[self.inode];
        inode.seen.truncate(length as usize);
        // What grows over the cut is zero, also in the part of a page that was durable.
        inode.dirty.insert(length as usize / PAGE);
        let after = length as usize / PAGE + 1;
        inode
            .dirty
            .extend(after..inode.durable.len().div_ceil(PAGE).max(after));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.files.world().inodes[self.inode].seen.len() as u64)
    }

    fn drop_cache(&self) {}
}

/// The real table, whose octets count as durable once it was synced.
struct CutTable {
    table: SledTable,
    files: CutFiles,
}

impl Table for CutTable {
    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.table.read(key)
    }

    fn scan(&self, first: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        self.table.scan(first, visit)
    }

    fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        self.files.world().call()?;
        self.table.write(changes)
    }

    fn sync(&self) -> io::Result<()> {
        self.files.world().call()?;
        self.table.flush()?;
        let left_out = self.files.mutant == Mutant::ViewData;
        let files = match left_out {
            true => view::Contents::new(),
            false => view::read_files(self.files.home.path()),
        };
        let mut world = self.files.world();
        world.call()?;
        world.view.synced((!left_out).then_some(files));
        Ok(())
    }
}
