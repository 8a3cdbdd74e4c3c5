//! A message with a large body on its way through the body thread, and what becomes of its spool.

use std::sync::Arc;

use bytes::Bytes;

use super::body::{Bodies, Waiting};
use super::log::Put;
use super::manifest::Manifest;
use super::record::RecordBody;
use super::request::{Body, DeferredMessage, Quota, Refusal, Seq, StoreToken};
use super::spool::Owner;

/// A message whose body is not durable yet.
pub(super) struct Arriving {
    pub(super) shard: u16,
    pub(super) token: StoreToken,
    pub(super) seq: Seq,
    pub(super) message: Arc<DeferredMessage>,
    pub(super) quota: Quota,
    /// Octets to give back to the shard's desk.
    pub(super) cost: usize,
}

impl Bodies {
    pub(super) fn put(&mut self, arriving: Arriving, body: Body) {
        let (shard, token, cost) = (arriving.shard, arriving.token, arriving.cost);
        let (id, length) = match body {
            Body::Inline(octets) => {
                let id = self.spool(Owner::Whole(self.next_spool));
                self.append(id, 0, &octets);
                (Some(id), octets.len() as u64)
            }
            Body::Spooled { spool, length } => {
                let id = self.names.get(&Owner::Client(spool)).copied();
                (id, length)
            }
        };
        match self.body_of(id, length) {
            Ok(body) => {
                let put = Put {
                    shard,
                    token,
                    seq: arriving.seq,
                    message: arriving.message,
                    body,
                    quota: arriving.quota,
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

    pub(super) fn outcome(&mut self, id: u64, stored: bool) {
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
}
