//! What the store's threads have in common.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::answer::Desk;
use super::deferred::Health;
use super::files::Files;
use super::index::Index;
use super::request::{DeferredMessage, Quota, Seq, StoreEvent};
use super::segment::Segment;
use super::seldom::Seldom;
use crate::clock;
use crate::identity::Identity;
use crate::metrics::Histogram;

/// Damaged octets kept for a closer look are cut to this.
const ASIDE: u64 = 1024 * 1024;

/// The index, the shards' desks, and whether all is well.
pub(super) struct Shared {
    index: Mutex<Index>,
    pub(super) desks: Vec<Desk>,
    health: AtomicU8,
    full_is_told: Seldom,
    room_is_told: Seldom,
    next_seq: AtomicU64,
    pub(super) damages: Damages,
    /// How long the commits of the log took.
    pub(super) commits: Arc<Histogram>,
    /// What may wait in all.
    pub(super) quota: Quota,
}

impl Shared {
    pub(super) fn new(
        index: Index,
        desks: Vec<Desk>,
        next_seq: u64,
        damages: Damages,
        quota: Quota,
    ) -> Self {
        Self {
            index: Mutex::new(index),
            desks,
            health: AtomicU8::new(0),
            full_is_told: Seldom::default(),
            room_is_told: Seldom::default(),
            next_seq: AtomicU64::new(next_seq),
            damages,
            commits: Arc::default(),
            quota,
        }
    }

    /// A message is damaged on disk: its recipient's shard is told once what is still known of it. It
    /// stays in the index until the shard has settled it.
    pub(super) fn ruined(
        &self,
        recipient: &Identity,
        seq: Seq,
        segment: &Segment,
        range: std::ops::Range<u64>,
        message: Option<Arc<DeferredMessage>>,
    ) {
        let Some(shard) = self.index().ruin(recipient, seq) else {
            return;
        };
        self.damages.report(segment, range);
        let delivered = !self.index().marks.devices(seq).is_empty();
        if let Some(desk) = self.desks.get(usize::from(shard)) {
            desk.tell(StoreEvent::Ruined {
                recipient: recipient.clone(),
                seq,
                message,
                delivered,
            });
        }
    }

    /// The index; held for lookups only, never over reading or writing a file.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        // A panic under the lock would be our fault; the index is whole between its calls.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next place in the order of custody.
    pub(super) fn next_seq(&self) -> Seq {
        Seq(self.next_seq.fetch_add(1, Ordering::Relaxed))
    }

    /// What `next_seq` would give.
    pub(super) fn peek_seq(&self) -> u64 {
        self.next_seq.load(Ordering::Relaxed)
    }

    pub(super) fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Serving,
            1 => Health::Full,
            _ => Health::Poisoned,
        }
    }

    /// There is no room for intake. It comes and goes many times a second on a disk that is all but full, so the
    /// log hears of it at most once a minute, and as long as it lasts.
    pub(super) fn set_full(&self) {
        self.turn(0, 1);
        if self.full_is_told.is_due(clock::now().instant) {
            tracing::warn!("no room for intake");
        }
    }

    /// There is room for intake again.
    pub(super) fn set_roomy(&self) {
        if self.turn(1, 0) && self.room_is_told.is_due(clock::now().instant) {
            tracing::warn!("room for intake again");
        }
    }

    fn turn(&self, from: u8, to: u8) -> bool {
        let change = (self.health).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        change.is_ok()
    }

    /// Nothing is acknowledged any more.
    pub(super) fn poison(&self, what: &str, error: &std::io::Error) {
        if self.health.swap(2, Ordering::AcqRel) != 2 {
            tracing::error!(what, %error, "the store failed and acknowledges nothing until a restart");
        }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.health() == Health::Poisoned
    }
}

/// Counts damage and puts damaged octets aside.
pub(super) struct Damages {
    files: Arc<dyn Files>,
    folder: PathBuf,
    count: AtomicU64,
    torn: AtomicU64,
}

impl Damages {
    pub(super) fn new(files: Arc<dyn Files>, folder: PathBuf) -> Self {
        Self {
            files,
            folder,
            count: AtomicU64::new(0),
            torn: AtomicU64::new(0),
        }
    }

    /// Octets of unfinished writes that were set aside.
    pub(super) fn torn_octets(&self) -> u64 {
        self.torn.load(Ordering::Relaxed)
    }

    /// Reports a message that the index on disk knows, and whose segment is not there.
    pub(super) fn missing(&self, segment: u64, recipient: &Identity, seq: Seq) {
        self.count.fetch_add(1, Ordering::Relaxed);
        tracing::error!(segment, %recipient, seq = seq.0, "a message is lost: its segment is missing");
    }

    /// Reports that the newest segments, which were begun, are not there. What was delivered of them is lost
    /// with the rest, so nobody can tell how much it was.
    pub(super) fn lost(&self, first: u64, last: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            first,
            last,
            "the newest of the log is missing: what was acknowledged in it is lost, how much is not known"
        );
    }

    /// How many damaged places were met.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Reports damaged octets of a segment and copies them to the folder for damage.
    pub(super) fn report(&self, segment: &Segment, range: std::ops::Range<u64>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            file = %segment.path.display(),
            position = range.start,
            octets = range.end.saturating_sub(range.start),
            "damaged on disk; set aside"
        );
        if let Err(error) = self.set_aside(segment, range) {
            tracing::error!(%error, "damaged octets could not be set aside");
        }
    }

    /// Reports what lies behind the last record of a segment that was not sealed.
    pub(super) fn torn(&self, segment: &Segment, range: std::ops::Range<u64>) {
        let octets = range.end.saturating_sub(range.start);
        self.torn.fetch_add(octets, Ordering::Relaxed);
        tracing::warn!(
            file = %segment.path.display(),
            position = range.start,
            octets,
            "an unfinished write at the end; set aside"
        );
        if let Err(error) = self.set_aside(segment, range) {
            tracing::error!(%error, "an unfinished write could not be set aside");
        }
    }

    fn set_aside(&self, segment: &Segment, range: std::ops::Range<u64>) -> std::io::Result<()> {
        let length = range.end.saturating_sub(range.start).min(ASIDE);
        let mut octets = vec![0; usize::try_from(length).unwrap_or(0)];
        let count = segment.file.read_at(&mut octets, range.start)?;
        octets.truncate(count);
        let parent = segment.path.parent().and_then(|parent| parent.file_name());
        let folder = parent.unwrap_or_default().to_string_lossy();
        let name = format!("{folder}-{:016}-{}.bad", segment.number, range.start);
        match self.files.create(&self.folder.join(name)) {
            Ok(file) => file.write_at(&octets, 0),
            // It was met before.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}
