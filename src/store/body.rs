//! The thread for large bodies: their own segments and their own syncs, so that a large body never
//! delays a small message.
//!
//! A `Put` with a large body passes here first: its octets are durable before its record is written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;

use super::append::Appender;
use super::compact::KeeperJob;
use super::files;
use super::log::{LogJob, Put};
use super::manifest::{Manifest, Piece};
use super::reader;
use super::record::{Kind, RecordBody, encode_piece};
use super::request::{Body, DeferredMessage, Refusal, Seq, SpoolId, StoreEvent, StoreToken};
use super::shared::Shared;
use super::spool::{BUFFER, Owner, Spool};

/// Buffers of all spools together, at most; beyond it they go to disk at once.
const BUFFERS: usize = 16 * 1024 * 1024;
/// Jobs that one sync may cover.
const BATCH: usize = 256;

/// What the body thread is asked.
pub(super) enum BodyJob {
    Append {
        shard: u16,
        spool: SpoolId,
        offset: u64,
        octets: Bytes,
    },
    Sync {
        shard: u16,
        token: StoreToken,
        spool: SpoolId,
    },
    Drop {
        shard: u16,
        spool: SpoolId,
    },
    /// A message whose body is large or in a spool.
    Put {
        shard: u16,
        token: StoreToken,
        seq: Seq,
        message: Box<DeferredMessage>,
        body: Body,
        cost: usize,
    },
    Read {
        shard: u16,
        token: StoreToken,
        spool: SpoolId,
        offset: u64,
        length: usize,
    },
    /// What became of a `Put` that went on to the log.
    Outcome {
        spool: u64,
        stored: bool,
    },
    /// Goes on to the log behind every earlier `Put`.
    Forward(LogJob),
    Close,
}

/// What waits for the next sync.
enum Waiting {
    Put(Put),
    Synced { shard: u16, token: StoreToken },
    Forward(LogJob),
}

/// The body thread.
pub(super) struct Bodies {
    shared: Arc<Shared>,
    jobs: Receiver<BodyJob>,
    log: Sender<LogJob>,
    keeper: Sender<KeeperJob>,
    appender: Appender,
    /// Shared with the keeper, which copies into segments of its own.
    next_segment: Arc<AtomicU64>,
    names: BTreeMap<Owner, u64>,
    spools: BTreeMap<u64, (Owner, Spool)>,
    next_spool: u64,
    buffered: usize,
    waiting: Vec<Waiting>,
    closing: bool,
}

impl Bodies {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<BodyJob>,
        log: Sender<LogJob>,
        keeper: Sender<KeeperJob>,
        appender: Appender,
        next_segment: Arc<AtomicU64>,
    ) -> Self {
        Self {
            shared,
            jobs,
            log,
            keeper,
            appender,
            next_segment,
            names: BTreeMap::new(),
            spools: BTreeMap::new(),
            next_spool: 0,
            buffered: 0,
            waiting: Vec::new(),
            closing: false,
        }
    }

    /// Runs until closed; every `Put` asked before has gone on to the log then.
    pub(super) fn run(mut self) {
        while !self.closing {
            match self.jobs.recv() {
                Ok(job) => self.take(job),
                Err(_) => self.closing = true,
            }
            for _ in 0..BATCH {
                match self.jobs.try_recv() {
                    Ok(job) => self.take(job),
                    Err(_) => break,
                }
            }
            self.sync_and_answer();
        }
    }

    fn take(&mut self, job: BodyJob) {
        match job {
            BodyJob::Append {
                shard,
                spool,
                offset,
                octets,
            } => {
                let length = octets.len();
                let id = self.spool(Owner::Client(shard, spool));
                self.append(id, offset, &octets);
                drop(octets);
                if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
                    desk.appended(spool, length);
                }
            }
            BodyJob::Sync {
                shard,
                token,
                spool,
            } => self.want_sync(shard, token, spool),
            BodyJob::Drop { shard, spool } => {
                if let Some(id) = self.names.remove(&Owner::Client(shard, spool)) {
                    self.drop_spool(id);
                }
                self.note_done(shard);
            }
            BodyJob::Put {
                shard,
                token,
                seq,
                message,
                body,
                cost,
            } => self.put(shard, token, seq, message, body, cost),
            BodyJob::Read {
                shard,
                token,
                spool,
                offset,
                length,
            } => self.read(shard, token, spool, offset, length),
            BodyJob::Outcome { spool, stored } => self.outcome(spool, stored),
            BodyJob::Forward(job) => self.waiting.push(Waiting::Forward(job)),
            BodyJob::Close => self.closing = true,
        }
    }

    fn note_done(&self, shard: u16) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.notes.give(1);
        }
    }

    /// The spool of that name, a new one if there is none.
    fn spool(&mut self, owner: Owner) -> u64 {
        if let Some(id) = self.names.get(&owner) {
            return *id;
        }
        let id = self.next_spool;
        self.next_spool += 1;
        self.names.insert(owner, id);
        self.spools.insert(id, (owner, Spool::default()));
        id
    }

    fn append(&mut self, id: u64, mut offset: u64, mut octets: &[u8]) {
        if offset.checked_add(octets.len() as u64).is_none() {
            return self.spoil(id, Refusal::Full);
        }
        while !octets.is_empty() {
            let Some((_, spool)) = self.spools.get_mut(&id) else {
                return;
            };
            if spool.failed.is_some() {
                return;
            }
            let taken = spool.extend(offset, octets);
            self.buffered += taken;
            offset += taken as u64;
            octets = octets.get(taken..).unwrap_or_default();
            let full = spool.buffered() == BUFFER || self.buffered > BUFFERS;
            if full || !octets.is_empty() {
                self.flush(id);
            }
        }
    }

    /// Writes a spool's buffer as a piece; not durable before the next sync.
    fn flush(&mut self, id: u64) {
        let Some((offset, octets)) = self
            .spools
            .get_mut(&id)
            .and_then(|(_, spool)| spool.flush())
        else {
            return;
        };
        self.buffered -= octets.len();
        match self.write_piece(id, offset, &octets) {
            Ok(piece) => {
                if let Some((_, spool)) = self.spools.get_mut(&id) {
                    spool.add(piece);
                }
            }
            Err(error) if files::is_full(&error) => {
                if let Err(error) = self.appender.take_back() {
                    self.shared.poison("taking back a body", &error);
                }
                self.spoil(id, Refusal::Full);
            }
            Err(error) => {
                self.shared.poison("write of a body", &error);
                self.spoil(id, Refusal::Poisoned);
            }
        }
    }

    fn write_piece(&mut self, id: u64, offset: u64, octets: &[u8]) -> io::Result<Piece> {
        match self.shared.health() {
            super::Health::Serving => {}
            // What is left on the disk is for settlements.
            super::Health::Full => return Err(io::ErrorKind::StorageFull.into()),
            super::Health::Poisoned => return Err(io::Error::other("poisoned before")),
        }
        self.roll_if_full()?;
        let payload = encode_piece(id, offset, octets);
        let places = self.appender.append(&[(Kind::Piece, &payload)])?;
        let place = *places.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut index = self.shared.index();
        index.bodies.grew(place.segment, self.appender.end);
        index.bodies.keep(place);
        index.bodies.pin(place);
        Ok(Piece {
            offset,
            length: u32::try_from(octets.len()).map_err(io::Error::other)?,
            place,
        })
    }

    fn roll_if_full(&mut self) -> io::Result<()> {
        if !self.appender.is_full() {
            return Ok(());
        }
        let number = self.next_segment.fetch_add(1, Ordering::Relaxed);
        let full = self.appender.roll(number, 0)?;
        let segment = self.appender.segment.clone();
        let mut index = self.shared.index();
        index.bodies.insert(segment, self.appender.end, false);
        drop(index);
        let _ = self.keeper.send(KeeperJob::SealBody(full));
        Ok(())
    }

    fn spoil(&mut self, id: u64, why: Refusal) {
        if let Some((_, spool)) = self.spools.get_mut(&id) {
            spool.failed = Some(why);
        }
    }

    fn want_sync(&mut self, shard: u16, token: StoreToken, spool: SpoolId) {
        let id = self.names.get(&Owner::Client(shard, spool)).copied();
        if let Some(id) = id {
            self.flush(id);
        }
        let failed = match id.and_then(|id| self.spools.get(&id)) {
            Some((_, spool)) => spool.failed,
            None => Some(Refusal::Unknown),
        };
        match failed {
            Some(refusal) => self.refuse(shard, 0, token, refusal),
            None => self.waiting.push(Waiting::Synced { shard, token }),
        }
    }

    fn refuse(&self, shard: u16, cost: usize, token: StoreToken, refusal: Refusal) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.refuse_write(cost, token, refusal);
        }
    }

    fn put(
        &mut self,
        shard: u16,
        token: StoreToken,
        seq: Seq,
        message: Box<DeferredMessage>,
        body: Body,
        cost: usize,
    ) {
        let (id, length) = match body {
            Body::Inline(octets) => {
                let id = self.spool(Owner::Whole(self.next_spool));
                self.append(id, 0, &octets);
                (Some(id), octets.len() as u64)
            }
            Body::Spooled { spool, length } => {
                let id = self.names.get(&Owner::Client(shard, spool)).copied();
                (id, length)
            }
        };
        match self.body_of(id, length) {
            Ok(body) => {
                let put = Put {
                    shard,
                    token,
                    seq,
                    message,
                    body,
                    cost,
                    spool: id,
                };
                self.waiting.push(Waiting::Put(put));
            }
            Err(refusal) => {
                self.refuse(shard, cost, token, refusal);
                self.drop_if_whole(id);
            }
        }
    }

    /// The body as the message's record will hold it.
    fn body_of(&mut self, id: Option<u64>, length: u64) -> Result<RecordBody, Refusal> {
        let Some(id) = id else {
            return match length {
                0 => Ok(RecordBody::Inline(Bytes::new())),
                _ => Err(Refusal::Unknown),
            };
        };
        let (_, spool) = self.spools.get(&id).ok_or(Refusal::Unknown)?;
        if spool.taken.is_some() {
            return Err(Refusal::Unknown);
        }
        let inline = spool.in_memory(length).map(Bytes::copy_from_slice);
        if inline.is_none() {
            self.flush(id);
        }
        let (_, spool) = self.spools.get_mut(&id).ok_or(Refusal::Unknown)?;
        if let Some(refusal) = spool.failed {
            return Err(refusal);
        }
        let body = match inline {
            Some(octets) => RecordBody::Inline(octets),
            None => {
                RecordBody::Large(Manifest::flatten(&spool.pieces, length).ok_or(Refusal::Unknown)?)
            }
        };
        spool.taken = Some(length);
        Ok(body)
    }

    fn drop_if_whole(&mut self, id: Option<u64>) {
        let whole = id.filter(|id| {
            matches!(self.spools.get(id), Some((Owner::Whole(_), spool)) if spool.taken.is_none())
        });
        if let Some(id) = whole {
            self.drop_spool(id);
        }
    }

    fn outcome(&mut self, id: u64, stored: bool) {
        let Some((owner, spool)) = self.spools.get_mut(&id) else {
            return;
        };
        let length = spool.taken.take().unwrap_or(0);
        if !stored {
            if spool.dropped || matches!(owner, Owner::Whole(_)) {
                self.drop_spool(id);
            }
            return;
        }
        self.names.remove(owner);
        let Some((_, spool)) = self.spools.remove(&id) else {
            return;
        };
        self.buffered -= spool.buffered();
        let used = Manifest::flatten(&spool.pieces, length).unwrap_or_default();
        let used = used.places();
        let mut index = self.shared.index();
        for piece in &spool.pieces {
            index.bodies.unpin(piece.place);
            // Written over before the message was complete.
            if used.binary_search(&piece.place).is_err() {
                index.bodies.release(piece.place);
            }
        }
    }

    /// Releases a spool, or marks it if a `Put` is using it.
    fn drop_spool(&mut self, id: u64) {
        match self.spools.get_mut(&id) {
            Some((_, spool)) if spool.taken.is_some() => spool.dropped = true,
            Some(_) => {
                let Some((owner, spool)) = self.spools.remove(&id) else {
                    return;
                };
                self.names.remove(&owner);
                self.buffered -= spool.buffered();
                let mut index = self.shared.index();
                for piece in &spool.pieces {
                    index.bodies.release(piece.place);
                    index.bodies.unpin(piece.place);
                }
                drop(index);
                let _ = self.keeper.send(KeeperJob::Look);
            }
            None => {}
        }
    }

    fn read(&self, shard: u16, token: StoreToken, spool: SpoolId, offset: u64, length: usize) {
        let Some(desk) = self.shared.desks.get(usize::from(shard)) else {
            return;
        };
        let known = self
            .names
            .get(&Owner::Client(shard, spool))
            .and_then(|id| self.spools.get(id));
        let Some((_, spool)) = known else {
            return desk.refuse_read(token, Refusal::Unknown);
        };
        match reader::read_spool(&self.shared, spool, offset, length) {
            Ok(octets) => desk.read(StoreEvent::Piece { token, octets }),
            Err(refusal) => desk.refuse_read(token, refusal),
        }
    }

    /// One sync for all that waits, then the answers.
    fn sync_and_answer(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let synced = match self.shared.is_poisoned() {
            true => false,
            false => match self.appender.sync() {
                Ok(()) => true,
                Err(error) => {
                    self.shared.poison("sync of the bodies", &error);
                    false
                }
            },
        };
        for waiting in std::mem::take(&mut self.waiting) {
            self.answer(waiting, synced);
        }
    }

    fn answer(&mut self, waiting: Waiting, synced: bool) {
        match waiting {
            Waiting::Forward(job) => {
                let _ = self.log.send(job);
            }
            Waiting::Put(put) if synced => {
                let _ = self.log.send(LogJob::Put(put));
            }
            Waiting::Synced { shard, token } if synced => {
                if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
                    desk.wrote(0, StoreEvent::Synced { token });
                }
            }
            Waiting::Put(put) => {
                if let Some(id) = put.spool {
                    self.outcome(id, false);
                }
                self.refuse(put.shard, put.cost, put.token, Refusal::Poisoned);
            }
            Waiting::Synced { shard, token } => self.refuse(shard, 0, token, Refusal::Poisoned),
        }
    }
}
