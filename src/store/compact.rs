//! The keeper's thread: seals full segments, and gives back the room of what was settled.
//!
//! A segment with under half of its octets of use is copied out and dropped. Copies of records go
//! through the log thread, which alone knows what is still current; pieces of bodies are copied here
//! into a segment of their own. The old file goes after the copies are durable, never before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use super::append::{Appender, Folder, Full};
use super::coding::Decoder;
use super::deferred::Health;
use super::footer::{About, Line};
use super::index::BindingEntry;
use super::log::{Copied, Copy, LogJob};
use super::log_queue::LogSender;
use super::manifest::Place;
use super::reader;
use super::record::{BindingRecord, Kind, MarksRecord, MessageRecord, SettledRecord};
use super::segment::{Segment, Unreadable};
use super::shared::Shared;
use super::view::Broken;
use crate::clock::{self, Instant};

/// Octets of copies handed to the log at once, so that intake goes on in between.
const BATCH_OCTETS: usize = 512 * 1024;

/// What the keeper is asked.
pub(super) enum KeeperJob {
    /// A log segment is full.
    Seal(Full),
    /// A body segment is full.
    SealBody(Full),
    /// Something was settled or dropped.
    Look,
    Close,
}

/// What became of a copy.
pub(super) enum Verdict {
    Durable,
    Failed,
}

/// Why a segment could not be compacted now.
pub(super) enum Stop {
    /// The log took no copies; later perhaps.
    Refused,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The keeper.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: Receiver<KeeperJob>,
    pub(super) log: LogSender,
    pub(super) log_folder: Folder,
    pub(super) body_folder: Folder,
    pub(super) next_body: Arc<AtomicU64>,
    /// Where copies of pieces go.
    pub(super) copies: Option<Appender>,
    /// Compaction failed and rests until a restart.
    pub(super) resting: bool,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<KeeperJob>,
        log: LogSender,
        log_folder: Folder,
        body_folder: Folder,
        next_body: Arc<AtomicU64>,
    ) -> Self {
        Self {
            shared,
            jobs,
            log,
            log_folder,
            body_folder,
            next_body,
            copies: None,
            resting: false,
        }
    }

    /// Runs until closed; segments that were full before are sealed then.
    pub(super) fn run(mut self) {
        let mut closing = false;
        while !closing {
            let Some(first) = self.next_job() else { return };
            closing = self.take(first);
            while let Ok(job) = self.jobs.try_recv() {
                closing |= self.take(job);
            }
            if !closing {
                self.compact_one();
            }
        }
    }

    /// What is asked, or a look when a segment may go by then; `None` if nobody can ask any more.
    fn next_job(&self) -> Option<KeeperJob> {
        let now = clock::now().instant;
        let Some(at) = self.shared.index().log.next_victim_at(now) else {
            return self.jobs.recv().ok();
        };
        match self.jobs.recv_timeout(at.since(now)) {
            Err(RecvTimeoutError::Timeout) => Some(KeeperJob::Look),
            asked => asked.ok(),
        }
    }

    /// True when asked to close.
    fn take(&mut self, job: KeeperJob) -> bool {
        match job {
            KeeperJob::Seal(full) => self.seal(&full),
            KeeperJob::SealBody(full) => self.seal_body(&full),
            KeeperJob::Look => {}
            KeeperJob::Close => return true,
        }
        false
    }

    /// Without a footer a start reads the records, so a failure costs time only.
    fn seal(&self, full: &Full) {
        if self.shared.is_poisoned() {
            return;
        }
        self.give_footer(full);
        self.feed(full);
    }

    fn give_footer(&self, full: &Full) {
        match full.segment.seal(full.end, &full.lines) {
            Ok(total) => self.shared.index().log.sealed(full.segment.number, total),
            Err(error) => tracing::warn!(%error, "a log segment has no footer"),
        }
    }

    fn seal_body(&self, full: &Full) {
        // Only gives back what was allocated too much.
        if let Err(error) = full.segment.file.truncate(full.end) {
            tracing::warn!(%error, "a body segment keeps unused room");
        }
        let mut index = self.shared.index();
        index.bodies.sealed(full.segment.number, full.end);
    }

    /// Compacts the segments that are worth it, until none is or one fails.
    fn compact_one(&mut self) {
        while !self.resting && !self.shared.is_poisoned() {
            let now = match self.shared.health() {
                // Room for what comes goes before knowing what has come.
                Health::Full => Instant::from_micros(u64::MAX),
                _ => clock::now().instant,
            };
            let (log, body) = {
                let index = self.shared.index();
                (index.log.victim(now), index.bodies.victim(now))
            };
            let result = match (log, body) {
                (Some(number), _) => self.compact_log(number),
                (None, Some(number)) => self.compact_body(number),
                (None, None) => return,
            };
            match result {
                Ok(()) => {}
                Err(Stop::Refused) => return,
                Err(Stop::Failed(error)) => {
                    tracing::error!(%error, "compaction rests until a restart");
                    self.resting = true;
                }
            }
        }
    }

    fn compact_log(&mut self, number: u64) -> Result<(), Stop> {
        let Some(segment) = self.shared.index().log.segment(number) else {
            return Ok(());
        };
        let lines = segment.lines()?;
        let mut batch = Vec::new();
        let mut octets = 0;
        for line in &lines {
            let Some(copy) = self.copy_of(&segment, line)? else {
                continue;
            };
            octets += line.length as usize;
            batch.push(copy);
            if octets >= BATCH_OCTETS {
                self.hand_over(std::mem::take(&mut batch))?;
                octets = 0;
            }
        }
        self.hand_over(batch)?;
        self.nothing_left(number)?;
        self.forget_removals(number, &lines);
        self.unlink(&self.log_folder, &segment)?;
        self.shared.index().dropped(number);
        Ok(())
    }

    /// Refuses to drop a segment that still holds messages, other than those on their way out: the
    /// view does not know them.
    fn nothing_left(&self, number: u64) -> Result<(), Stop> {
        let mut index = self.shared.index();
        let usage = index.log.0.get(&number);
        if usage.is_none_or(|usage| usage.messages <= usage.leaving) {
            return Ok(());
        }
        index.replace_view(&Broken("it has forgotten messages".into()));
        Err(Stop::Refused)
    }

    /// The record of a line, if it is still needed.
    fn copy_of(&self, segment: &Segment, line: &Line) -> Result<Option<Copy>, Stop> {
        let from = Place {
            segment: segment.number,
            position: line.position,
            length: line.length,
        };
        if !self.needed(from, &line.about) {
            return Ok(None);
        }
        let what = match read_record(segment, from) {
            Ok(Copied::Settled(record)) => Copied::Settled(self.now_for(record, from.segment)),
            Ok(what) => what,
            Err(Unreadable::Damaged) => {
                if let About::Message { seq, recipient, .. } = &line.about {
                    let head = reader::salvage(segment, from, recipient, *seq);
                    let shared = &self.shared;
                    shared.ruined(recipient, *seq, segment, from.range(), head);
                    // Its shard has to settle it first.
                    return Err(Stop::Refused);
                }
                self.shared.damages.report(segment, from.range());
                return Ok(None);
            }
            Err(Unreadable::Failed(error)) => return Err(error.into()),
        };
        Ok(Some(Copy { from, what }))
    }

    /// A settlement with the segment for whose sake it is kept.
    fn now_for(&self, record: SettledRecord, own: u64) -> SettledRecord {
        let index = self.shared.index();
        let segment = index.settlement_needed(record.seq, record.segment, own);
        SettledRecord {
            segment: segment.unwrap_or(record.segment),
            ..record
        }
    }

    fn needed(&self, from: Place, about: &About) -> bool {
        let mut index = self.shared.index();
        match about {
            About::Message { seq, recipient, .. } => index
                .entry(recipient, *seq)
                .is_some_and(|entry| entry.place == from),
            About::Settled { seq, segment, .. } => {
                let needed = index.settlement_needed(*seq, *segment, from.segment);
                needed.is_some()
            }
            About::Marks(record) => index.marks.is_at(record.seq, from),
            About::Binding { user, key, .. } => index
                .bindings
                .get(&(user.clone(), key.clone()))
                .is_some_and(|entry| {
                    entry.place == from && (!entry.removed || index.removal_needed(*entry))
                }),
        }
    }

    /// Waits until the log has written the copies.
    pub(super) fn hand_over(&self, copies: Vec<Copy>) -> Result<(), Stop> {
        if copies.is_empty() {
            return Ok(());
        }
        let (sender, verdicts) = mpsc::channel();
        let sent = self.log.send(LogJob::Copy(copies, sender));
        if sent.is_err() || verdicts.iter().any(|v| matches!(v, Verdict::Failed)) {
            return Err(Stop::Refused);
        }
        match self.shared.is_poisoned() {
            true => Err(Stop::Refused),
            false => Ok(()),
        }
    }

    /// Removals that no older record can contradict go with their segment.
    fn forget_removals(&self, number: u64, lines: &[Line]) {
        let mut index = self.shared.index();
        for line in lines {
            let About::Binding { user, key, .. } = &line.about else {
                continue;
            };
            let known = (user.clone(), key.clone());
            let here = |entry: &BindingEntry| {
                entry.removed
                    && entry.place.segment == number
                    && entry.place.position == line.position
            };
            if index.bindings.get(&known).is_some_and(here) {
                index.bindings.remove(&known);
            }
        }
    }

    /// It is gone for good before the next one goes: what settled its messages may stand in that one alone.
    pub(super) fn unlink(&self, folder: &Folder, segment: &Segment) -> io::Result<()> {
        folder.files.unlink(&segment.path)?;
        folder.files.sync_dir(&folder.path)
    }
}

fn read_record(segment: &Segment, place: Place) -> Result<Copied, Unreadable> {
    let (kind, payload) = segment.read(place.position, place.length)?;
    let what = match kind {
        Kind::Message => {
            MessageRecord::decode(&payload).map(|record| Copied::Message(Box::new(record)))
        }
        Kind::Settled => SettledRecord::decode(&payload).map(Copied::Settled),
        Kind::PutBinding | Kind::RemoveBinding => {
            BindingRecord::decode(kind, &payload).map(Copied::Binding)
        }
        Kind::Marks => MarksRecord::decode(&mut Decoder(&payload)).map(Copied::Marks),
        Kind::Piece | Kind::Footer | Kind::Synced => None,
    };
    what.ok_or(Unreadable::Damaged)
}
