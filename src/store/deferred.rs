//! Opening and closing the store; the threads it runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::answer::{Bounds, Desk};
use super::body::{Bodies, BodyJob};
use super::client::StoreClient;
use super::compact::{Keeper, KeeperJob};
use super::files::{DiskFiles, Files};
use super::log::{Log, LogJob, Onward};
use super::log_queue::{LogSender, log_queue};
use super::reader::{self, ReadJob, What};
use super::recover;
use super::request::{Quota, Seq, StoreEvent, StoreToken, Usage};
use super::shared::Shared;
use crate::clock::{self, UnixMillis};
use crate::identity::Identity;
use crate::limits::memory::Account;

/// How the store is to work.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's own folder; made if it is not there.
    pub data_dir: PathBuf,
    /// A segment that reached so many octets is sealed.
    pub segment_bytes: u64,
    /// Room put by for settlements on a full disk; less is taken from a small disk.
    pub reserve_bytes: u64,
    /// Writes, and reads, that a shard may have under way.
    pub credits: usize,
    /// Octets of messages that a shard may have waiting for the log.
    pub put_octets: usize,
    /// Octets of appends that a shard may have waiting.
    pub append_octets: usize,
    /// What may wait in all.
    pub quota: Quota,
    /// Where the memory in use is written down.
    pub memory: Account,
    /// A log segment stays for so long after it took its last message, of use or not: with its records the
    /// keys would go by which a start knows requests that come again.
    pub compact_after: Duration,
    /// The time of the start; decides which duplicate keys still matter.
    pub now: UnixMillis,
}

/// How long a request may be retransmitted (RFC 3261 §17.1.2.2: 64 × T1).
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(32);

impl StoreConfig {
    /// The defaults for a folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            segment_bytes: 64 * 1024 * 1024,
            reserve_bytes: 32 * 1024 * 1024,
            credits: 1024,
            put_octets: 16 * 1024 * 1024,
            append_octets: 8 * 1024 * 1024,
            quota: Quota::NONE,
            memory: Account::detached(),
            compact_after: DUPLICATE_WINDOW,
            now: clock::now().wall,
        }
    }
}

/// Whether the store takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Serving,
    /// No room: intake is refused, everything else goes on; this ends by itself.
    Full,
    /// A write or sync failed: nothing is acknowledged until a restart.
    Poisoned,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A later version of this program wrote the folder.
    #[error("{}: format {format} is newer than this program knows", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// There is no store in the folder.
    #[error("{}: there is no store here (no folder `log`)", .0.display())]
    Missing(PathBuf),
    /// A segment has the name of another; it would be written over as damage.
    #[error("{}: its header says it is segment {number}: give it back its name, or move it away", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// Its own number.
        number: u64,
    },
    /// A segment of another folder.
    #[error("{}: this segment is of another data folder: move it away", .0.display())]
    Elsewhere(PathBuf),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// A binding as it was last put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredBinding {
    /// Whose.
    pub user: Identity,
    /// Which.
    pub key: Box<str>,
    /// As the registrar wrote it.
    pub value: Bytes,
}

/// A message that was taken shortly before the start, delivered since or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateKey {
    /// Whose shard must know.
    pub recipient: Identity,
    /// `DeferredMessage::duplicate_key`.
    pub key: u128,
    /// When it was taken.
    pub accepted_at: UnixMillis,
}

/// How a start found the index on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewFound {
    /// No segment was full yet: there is nothing in it.
    #[default]
    Unused,
    /// As the log says.
    Sound,
    /// Behind the log, and caught up from the footers.
    Behind,
    /// Missing, damaged or wrong, and built anew from the footers.
    Rebuilt,
    /// It cannot be built: all is in memory until the next start.
    Off,
}

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// All bindings, by user and key.
    pub bindings: Vec<RecoveredBinding>,
    /// All documents, by name ([`StoreRequest::PutDocument`](super::request::StoreRequest)).
    pub documents: Vec<(Box<str>, Bytes)>,
    /// Messages taken within the last 32 s, to recognise their retransmissions.
    pub duplicate_keys: Vec<DuplicateKey>,
    /// Damaged places; each was reported and set aside.
    pub damaged: u64,
    /// Octets after the last record, as a power cut leaves them.
    pub torn_octets: u64,
    /// Messages in custody.
    pub messages: usize,
    /// Users for whom messages wait, in order.
    pub waiting: Vec<Identity>,
    /// The next place in the order.
    pub next_seq: Seq,
    /// How the index on disk was.
    pub view: ViewFound,
}

/// Where a shard's events go. Called on the store's threads; must not block and must have room for
/// everything the shard has credits for.
pub type Answers = Vec<Answer>;
/// Takes what is told at once.
pub type Answer = Box<dyn Fn(Vec<StoreEvent>) + Send + Sync>;

/// The running store.
pub struct Store {
    pub(super) shared: Arc<Shared>,
    log: LogSender,
    body: Sender<BodyJob>,
    reader: Sender<ReadJob>,
    keeper: Sender<KeeperJob>,
    threads: Threads,
    _lock: Box<dyn Send + Sync>,
}

struct Threads {
    log: JoinHandle<()>,
    body: JoinHandle<()>,
    reader: JoinHandle<()>,
    keeper: JoinHandle<()>,
}

impl Store {
    /// Opens the folder, makes it whole and starts the threads. There is a client a shard, in order;
    /// `placement` names the shard of a user.
    pub fn open(
        config: &StoreConfig,
        placement: impl Fn(&Identity) -> u16 + Send + 'static,
        answers: Answers,
    ) -> Result<(Self, Vec<StoreClient>, Recovered), StoreError> {
        Self::open_with(config, Arc::new(DiskFiles), placement, answers)
    }

    /// The same on other files.
    pub fn open_with(
        config: &StoreConfig,
        files: Arc<dyn Files>,
        placement: impl Fn(&Identity) -> u16 + Send + 'static,
        answers: Answers,
    ) -> Result<(Self, Vec<StoreClient>, Recovered), StoreError> {
        let lock = lock(config, &*files)?;
        let mut found = recover::recover(config, &files, Box::new(placement))?;
        let recovered = std::mem::take(&mut found.recovered);
        let bounds = Bounds {
            credits: config.credits,
            put_octets: config.put_octets,
            append_octets: config.append_octets,
        };
        let desks: Vec<_> = answers
            .into_iter()
            .map(|answer| Desk::new(answer, bounds))
            .collect();
        let shards = u16::try_from(desks.len()).unwrap_or(u16::MAX);
        let store = Self::start(config, found, recovered.next_seq, desks, lock)?;
        let clients = (0..shards).map(|shard| store.client(shard)).collect();
        Ok((store, clients, recovered))
    }

    fn start(
        config: &StoreConfig,
        found: recover::Found,
        next_seq: Seq,
        desks: Vec<Desk>,
        lock: Box<dyn Send + Sync>,
    ) -> Result<Self, StoreError> {
        let shared = Shared::new(found.index, desks, next_seq.0, found.damages, config.quota);
        let shared = Arc::new(shared);
        let (log, log_jobs) = log_queue();
        let (body, body_jobs) = mpsc::channel();
        let (reader, read_jobs) = mpsc::channel();
        let (keeper, keeper_jobs) = mpsc::channel();
        let next_body = Arc::new(AtomicU64::new(found.body.segment.number + 1));
        let onward = Onward {
            reader: reader.clone(),
            body: body.clone(),
            keeper: keeper.clone(),
        };
        let writer = Log::new(
            shared.clone(),
            log_jobs,
            onward,
            found.log,
            found.reserve,
            config.compact_after,
        );
        let bodies = Bodies::new(
            shared.clone(),
            body_jobs,
            log.clone(),
            keeper.clone(),
            found.body,
            next_body.clone(),
        );
        let keep = Keeper::new(
            shared.clone(),
            keeper_jobs,
            log.clone(),
            found.log_folder,
            found.body_folder,
            next_body,
        );
        let (reading, rewrites) = (shared.clone(), log.clone());
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.into()).spawn(run);
            thread.map_err(|e| StoreError::io(&config.data_dir, e))
        };
        let threads = Threads {
            log: spawn("store-log", Box::new(move || writer.run()))?,
            body: spawn("store-body", Box::new(move || bodies.run()))?,
            reader: spawn(
                "store-reader",
                Box::new(move || reader::run(&reading, &read_jobs, &rewrites)),
            )?,
            keeper: spawn("store-keeper", Box::new(move || keep.run()))?,
        };
        let _ = keeper.send(KeeperJob::Look);
        Ok(Self {
            shared,
            log,
            body,
            reader,
            keeper,
            threads,
            _lock: lock,
        })
    }

    fn client(&self, shard: u16) -> StoreClient {
        StoreClient {
            shard,
            shared: self.shared.clone(),
            log: self.log.clone(),
            body: self.body.clone(),
            reader: self.reader.clone(),
        }
    }

    /// Whether the store takes messages.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Damaged places met since the start, and at it.
    pub fn damaged(&self) -> u64 {
        self.shared.damages.count()
    }

    /// Messages in custody.
    pub fn messages(&self) -> usize {
        self.shared.index().messages()
    }

    /// How much waits in all.
    pub fn usage(&self) -> Usage {
        self.shared.index().holdings.total()
    }

    /// Entries of the index that are in memory: messages in segments that were not applied to the
    /// index on disk, and what it has not heard of yet.
    pub fn in_memory(&self) -> usize {
        self.shared.index().recent.len()
    }

    /// Octets in all segment files, and octets in them that are of use.
    pub fn disk_use(&self) -> (u64, u64) {
        let index = self.shared.index();
        let (log, bodies) = (index.log.sums(), index.bodies.sums());
        (log.0 + bodies.0, log.1 + bodies.1)
    }

    /// Finishes what was asked, makes it durable and ends the threads. What clients ask later goes
    /// unanswered.
    pub fn close(self) {
        // In the order the work flows, so that each thread has heard all when it ends.
        let _ = self.keeper.send(KeeperJob::Close);
        let _ = self.threads.keeper.join();
        let _ = self.body.send(BodyJob::Close);
        let _ = self.threads.body.join();
        let _ = self.log.send(LogJob::Close);
        let _ = self.threads.log.join();
        let _ = self.reader.send(ReadJob {
            shard: 0,
            token: StoreToken(0),
            what: What::Close,
        });
        let _ = self.threads.reader.join();
    }
}

fn lock(config: &StoreConfig, files: &dyn Files) -> Result<Box<dyn Send + Sync>, StoreError> {
    let folder = &config.data_dir;
    files
        .make_dir(folder)
        .map_err(|e| StoreError::io(folder, e))?;
    let path = folder.join("lock");
    files.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::Locked(folder.clone()),
        _ => StoreError::io(&path, error),
    })
}
