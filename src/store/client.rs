//! A shard's end of the store: hands requests over without ever waiting.
//!
//! A request takes a credit of its kind; without one it comes back, and the shard answers 503 or
//! keeps it for later. Only the shard takes credits, so what `free_*` says stays true until it does.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::answer::{APPEND_COST, Desk};
use super::body::BodyJob;
use super::body_put::Arriving;
use super::log::{LogJob, Put};
use super::log_queue::LogSender;
use super::reader::{ReadJob, What};
use super::record::RecordBody;
use super::request::{
    Body, BodySource, DOCUMENT_LIMIT, DeferredMessage, Quota, Refusal, StoreRequest, StoreToken,
};
use super::shared::Shared;
use super::spool::BUFFER;

/// A shard's end of the store.
pub struct StoreClient {
    pub(super) shard: u16,
    pub(super) shared: Arc<Shared>,
    pub(super) log: LogSender,
    pub(super) body: Sender<BodyJob>,
    pub(super) reader: Sender<ReadJob>,
}

impl StoreClient {
    /// Hands a request over, or gives it back if there is no credit for it. Never blocks. Messages
    /// get their place in the order here: a `Put` that follows another has the larger `Seq`, even if
    /// it is stored earlier because the other's body is large.
    pub fn try_submit(&self, request: StoreRequest) -> Result<(), StoreRequest> {
        let Some(desk) = self.shared.desks.get(usize::from(self.shard)) else {
            return Err(request);
        };
        if !has_room(desk, &request) {
            return Err(request);
        }
        self.submit(request);
        Ok(())
    }

    /// How many `Put`, `Sync`, `Redate` and documents could be handed over.
    pub fn free_writes(&self) -> usize {
        self.desk().map_or(0, |desk| desk.writes.free())
    }

    /// How many `Load`, `Fetch`, `Read`, `TakeDue` and `ListUsers` could be handed over.
    pub fn free_reads(&self) -> usize {
        self.desk().map_or(0, |desk| desk.reads.free())
    }

    /// How many octets could be appended to spools.
    pub fn free_append_octets(&self) -> usize {
        self.desk().map_or(0, |desk| desk.append_octets.free())
    }

    /// Octets of messages and appends of this shard that the store has not dealt with.
    pub fn octets(&self) -> usize {
        self.desk()
            .map_or(0, |desk| desk.put_octets.used() + desk.append_octets.used())
    }

    fn desk(&self) -> Option<&Desk> {
        self.shared.desks.get(usize::from(self.shard))
    }

    fn submit(&self, request: StoreRequest) {
        let shard = self.shard;
        match request {
            StoreRequest::Put {
                token,
                message,
                body,
                quota,
            } => self.put(token, message, body, quota),
            // Behind the Put wherever that is: the body thread passes it on.
            StoreRequest::Abandon { token } => {
                self.body(BodyJob::Forward(LogJob::Abandon { shard, token }));
            }
            StoreRequest::Settle {
                recipient,
                seq,
                settlement,
            } => self.log(LogJob::Settle {
                shard,
                recipient,
                seq,
                settlement,
            }),
            StoreRequest::Load {
                token,
                recipient,
                after,
                limit,
            } => self.log(LogJob::Read(self.read_job(
                token,
                What::Load {
                    recipient,
                    after,
                    limit,
                },
            ))),
            StoreRequest::TakeDue { token, now, limit } => {
                self.log(LogJob::Read(self.read_job(token, What::Due { now, limit })));
            }
            StoreRequest::Fetch {
                token,
                recipient,
                seq,
                together,
            } => self.reader(self.read_job(
                token,
                What::Fetch {
                    recipient,
                    seq,
                    together,
                },
            )),
            StoreRequest::Read {
                token,
                source,
                offset,
                length,
            } => self.read(token, source, offset, length),
            StoreRequest::Append {
                spool,
                offset,
                octets,
            } => self.body(BodyJob::Append {
                shard,
                spool,
                offset,
                octets,
            }),
            StoreRequest::Sync { token, spool } => self.body(BodyJob::Sync {
                shard,
                token,
                spool,
            }),
            StoreRequest::Drop { spool } => self.body(BodyJob::Drop { shard, spool }),
            StoreRequest::Mark {
                recipient,
                seq,
                device,
            } => self.log(LogJob::Mark {
                shard,
                recipient,
                seq,
                device,
            }),
            StoreRequest::Redate {
                token,
                recipient,
                seq,
                expires_at,
            } => self.log(LogJob::Read(self.read_job(
                token,
                What::Redate {
                    recipient,
                    seq,
                    expires_at,
                },
            ))),
            StoreRequest::Flush { token } => self.log(LogJob::Flush { shard, token }),
            StoreRequest::PutDocument { token, key, value } => self.document(token, key, value),
            StoreRequest::RemoveDocument { token, key } => self.log(LogJob::Document {
                shard,
                token,
                key,
                value: None,
            }),
            StoreRequest::ListUsers {
                token,
                after,
                limit,
            } => self.log(LogJob::Read(
                self.read_job(token, What::Users { after, limit }),
            )),
            StoreRequest::PutBinding { user, key, value } => self.log(LogJob::Bind {
                shard,
                user,
                key,
                value: Some(value),
            }),
            StoreRequest::RemoveBinding { user, key } => self.log(LogJob::Bind {
                shard,
                user,
                key,
                value: None,
            }),
        }
    }

    fn put(&self, token: StoreToken, message: Arc<DeferredMessage>, body: Body, quota: Quota) {
        let shard = self.shard;
        let seq = self.shared.next_seq();
        let cost = cost(&message, &body);
        match body {
            Body::Inline(octets) if octets.len() <= BUFFER => self.log(LogJob::Put(Put {
                shard,
                token,
                seq,
                message,
                body: RecordBody::Inline(octets),
                quota,
                cost,
                spool: None,
            })),
            body => {
                let arriving = Arriving {
                    shard,
                    token,
                    seq,
                    message,
                    quota,
                    cost,
                };
                self.body(BodyJob::Put(arriving, body));
            }
        }
    }

    fn document(&self, token: StoreToken, key: Box<str>, value: bytes::Bytes) {
        if key.len() + value.len() > DOCUMENT_LIMIT {
            if let Some(desk) = self.desk() {
                desk.refuse_write(0, token, Refusal::TooLarge);
            }
            return;
        }
        self.log(LogJob::Document {
            shard: self.shard,
            token,
            key,
            value: Some(value),
        });
    }

    fn read(&self, token: StoreToken, source: BodySource, offset: u64, length: usize) {
        let shard = self.shard;
        match source {
            BodySource::Message { recipient, seq } => self.reader(self.read_job(
                token,
                What::Body {
                    recipient,
                    seq,
                    offset,
                    length,
                },
            )),
            BodySource::Spool(spool) => self.body(BodyJob::Read {
                shard,
                token,
                spool,
                offset,
                length,
            }),
        }
    }

    fn read_job(&self, token: StoreToken, what: What) -> ReadJob {
        ReadJob {
            shard: self.shard,
            token,
            what,
        }
    }

    // A closed store answers nothing; the shards are gone by then.

    fn log(&self, job: LogJob) {
        let _ = self.log.send(job);
    }

    fn body(&self, job: BodyJob) {
        let _ = self.body.send(job);
    }

    fn reader(&self, job: ReadJob) {
        let _ = self.reader.send(job);
    }
}

/// Octets of memory that a `Put` keeps while it waits.
fn cost(message: &DeferredMessage, body: &Body) -> usize {
    let body = match body {
        Body::Inline(octets) => octets.len(),
        Body::Spooled { .. } => 0,
    };
    body + message.headers.len() * 64 + 512
}

fn has_room(desk: &Desk, request: &StoreRequest) -> bool {
    match request {
        StoreRequest::Put { message, body, .. } => {
            if !desk.put_octets.take(cost(message, body)) {
                return false;
            }
            let credit = desk.writes.take(1);
            if !credit {
                desk.put_octets.give(cost(message, body));
            }
            credit
        }
        StoreRequest::Sync { .. }
        | StoreRequest::Flush { .. }
        | StoreRequest::Redate { .. }
        | StoreRequest::PutDocument { .. }
        | StoreRequest::RemoveDocument { .. } => desk.writes.take(1),
        StoreRequest::Load { .. }
        | StoreRequest::Fetch { .. }
        | StoreRequest::Read { .. }
        | StoreRequest::ListUsers { .. }
        | StoreRequest::TakeDue { .. } => desk.reads.take(1),
        StoreRequest::Append { octets, .. } => desk.append_octets.take(octets.len() + APPEND_COST),
        StoreRequest::Abandon { .. }
        | StoreRequest::Settle { .. }
        | StoreRequest::Mark { .. }
        | StoreRequest::Drop { .. }
        | StoreRequest::PutBinding { .. }
        | StoreRequest::RemoveBinding { .. } => desk.notes.take(1),
    }
}
