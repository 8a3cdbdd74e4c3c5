//! The thread for large bodies: their own segments and their own syncs, so that a large body never
//! delays a small message.
//!
//! A `Put` with a large body passes here first: its octets are durable before its record is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;

use super::append::Appender;
use super::body_put::Arriving;
use super::compact::KeeperJob;
use super::log::{LogJob, Put};
use super::log_queue::LogSender;
use super::reader;
use super::request::{Body, Refusal, SpoolId, StoreEvent, StoreToken};
use super::shared::Shared;
use super::spool::{Owner, Spool};

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
    Put(Arriving, Body),
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
pub(super) enum Waiting {
    Put(Put),
    Synced { shard: u16, token: StoreToken },
    Forward(LogJob),
}

/// The body thread.
pub(super) struct Bodies {
    pub(super) shared: Arc<Shared>,
    jobs: Receiver<BodyJob>,
    log: LogSender,
    pub(super) keeper: Sender<KeeperJob>,
    pub(super) appender: Appender,
    /// Shared with the keeper, which copies into segments of its own.
    pub(super) next_segment: Arc<AtomicU64>,
    pub(super) names: BTreeMap<Owner, u64>,
    pub(super) spools: BTreeMap<u64, (Owner, Spool)>,
    pub(super) next_spool: u64,
    pub(super) buffered: usize,
    pub(super) waiting: Vec<Waiting>,
    closing: bool,
}

impl Bodies {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<BodyJob>,
        log: LogSender,
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
                let id = self.spool(Owner::Client(spool));
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
                if let Some(id) = self.names.remove(&Owner::Client(spool)) {
                    self.drop_spool(id);
                }
                self.note_done(shard);
            }
            BodyJob::Put(arriving, body) => self.put(arriving, body),
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

    fn want_sync(&mut self, shard: u16, token: StoreToken, spool: SpoolId) {
        let id = self.names.get(&Owner::Client(spool)).copied();
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

    pub(super) fn refuse(&self, shard: u16, cost: usize, token: StoreToken, refusal: Refusal) {
        if let Some(desk) = self.shared.desks.get(usize::from(shard)) {
            desk.refuse_write(cost, token, refusal);
        }
    }

    fn read(&self, shard: u16, token: StoreToken, spool: SpoolId, offset: u64, length: usize) {
        let Some(desk) = self.shared.desks.get(usize::from(shard)) else {
            return;
        };
        let known = self
            .names
            .get(&Owner::Client(spool))
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
