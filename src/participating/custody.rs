//! A shard's way into the store: who waits for which answer, credits and deadlines.
//!
//! A credit is taken before work starts that must be stored; without one the work is refused with
//! 503 and nothing blocks. A write that outlives `store.timeout` is given up: its asker hears
//! [`Refusal::Full`], and a cancelling record follows the write, so that it is never delivered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now, UnixMillis};
use crate::identity::Identity;
use crate::store::request::{
    Body, BodySource, DeferredMessage, Quota, Refusal, Seq, SpoolId, StoreEvent, StoreRequest,
    StoreToken,
};

/// The answer to a waiting `W`.
#[derive(Debug)]
pub enum CustodyEvent<W> {
    /// The message is durable.
    Stored(W, Seq),
    /// The request will take no effect.
    Refused(W, Refusal),
    /// Any other answer, as the store gave it.
    Answer(W, StoreEvent),
    /// Appended octets left the store's queue.
    Appended(SpoolId, usize),
    /// The recipient's queue is full, and the message was asked to make room: here it is again.
    Crowded(W, Retained),
    /// A message in custody is damaged; what is known of it, and whether some device has got it.
    Ruined(Identity, Seq, Option<Arc<DeferredMessage>>, bool),
}

/// A message that must be put again if its recipient's queue was full.
#[derive(Clone, Debug)]
pub struct Retained {
    /// The message.
    pub message: Arc<DeferredMessage>,
    /// Its body.
    pub body: Body,
}

/// How much may wait for a recipient, and what happens then.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How much.
    pub quota: Quota,
    /// The message comes back as [`CustodyEvent::Crowded`] instead of being refused.
    pub makes_room: bool,
}

/// Requests under way, with `W` saying who waits.
#[derive(Debug)]
pub struct Custody<W> {
    shard: u16,
    credits: usize,
    timeout: Duration,
    next_token: u64,
    next_spool: u64,
    waiting: HashMap<StoreToken, W, foldhash::fast::RandomState>,
    deadlines: VecDeque<(Instant, StoreToken)>,
    /// Bodies that lie in a spool until their `Put` is answered.
    spools: HashMap<StoreToken, SpoolId, foldhash::fast::RandomState>,
    retained: HashMap<StoreToken, Retained, foldhash::fast::RandomState>,
    requests: VecDeque<StoreRequest>,
}

impl<W> Custody<W> {
    /// At most `credits` requests are open at a time; spools are numbered from `first_spool`, which
    /// must not have been used in this data folder before.
    pub fn new(shard: u16, credits: usize, timeout: Duration, first_spool: u64) -> Self {
        Self {
            shard,
            credits,
            timeout,
            next_token: 0,
            next_spool: first_spool,
            waiting: HashMap::default(),
            deadlines: VecDeque::new(),
            spools: HashMap::default(),
            retained: HashMap::default(),
            requests: VecDeque::new(),
        }
    }

    /// How long a write may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether new work that must be stored can begin.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < self.credits
    }

    /// Requests the store has not answered yet.
    pub fn open(&self) -> usize {
        self.waiting.len()
    }

    /// A spool nobody used before.
    pub fn new_spool(&mut self) -> SpoolId {
        self.next_spool += 1;
        SpoolId((u64::from(self.shard) << 48) | self.next_spool)
    }

    /// Takes a message into custody; the waiter is given back when there is no credit. A spool that
    /// holds the body is dropped if the message cannot be kept.
    pub fn put(
        &mut self,
        message: Arc<DeferredMessage>,
        body: Body,
        bounds: Bounds,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        let spool = match body {
            Body::Spooled { spool, .. } => Some(spool),
            Body::Inline(_) => None,
        };
        let token = match self.reserve(waiter, true, now) {
            Ok(token) => token,
            Err(waiter) => {
                let dropped = spool.map(|spool| StoreRequest::Drop { spool });
                self.requests.extend(dropped);
                return Err(waiter);
            }
        };
        if let Some(spool) = spool {
            self.spools.insert(token, spool);
        }
        if bounds.makes_room {
            let (message, body) = (message.clone(), body.clone());
            self.retained.insert(token, Retained { message, body });
        }
        self.requests.push_back(StoreRequest::Put {
            token,
            message,
            body,
            quota: bounds.quota,
        });
        Ok(())
    }

    /// Makes what was appended to a spool durable.
    pub fn sync(&mut self, spool: SpoolId, waiter: W, now: Now) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::Sync { token, spool });
        Ok(())
    }

    /// Asks whether all that was told of messages is durable: settlements and marks.
    pub fn flush(&mut self, waiter: W, now: Now) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::Flush { token });
        Ok(())
    }

    /// Reads a page of a user's queue.
    pub fn load(
        &mut self,
        recipient: Identity,
        after: Option<Seq>,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        self.page(recipient, after, 256, waiter, now)
    }

    /// Reads a page of this size.
    pub fn page(
        &mut self,
        recipient: Identity,
        after: Option<Seq>,
        limit: usize,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::Load {
            token,
            recipient,
            after,
            limit,
        });
        Ok(())
    }

    /// Gives a waiting message another time to expire at.
    pub fn redate(
        &mut self,
        recipient: Identity,
        seq: Seq,
        expires_at: UnixMillis,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::Redate {
            token,
            recipient,
            seq,
            expires_at,
        });
        Ok(())
    }

    /// Makes a document of the operator's durable.
    pub fn put_document(
        &mut self,
        key: Box<str>,
        value: Bytes,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        let request = StoreRequest::PutDocument { token, key, value };
        self.requests.push_back(request);
        Ok(())
    }

    /// Removes one.
    pub fn remove_document(&mut self, key: Box<str>, waiter: W, now: Now) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        let request = StoreRequest::RemoveDocument { token, key };
        self.requests.push_back(request);
        Ok(())
    }

    /// Reads one message, and at most `together` of those that follow it.
    pub fn fetch(
        &mut self,
        recipient: Identity,
        seq: Seq,
        together: usize,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::Fetch {
            token,
            recipient,
            seq,
            together,
        });
        Ok(())
    }

    /// Reads part of a large body.
    pub fn read(
        &mut self,
        source: BodySource,
        offset: u64,
        length: usize,
        waiter: W,
        now: Now,
    ) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::Read {
            token,
            source,
            offset,
            length,
        });
        Ok(())
    }

    /// Asks for what has expired.
    pub fn take_due(&mut self, waiter: W, now: Now) -> Result<(), W> {
        let token = self.reserve(waiter, false, now)?;
        self.requests.push_back(StoreRequest::TakeDue {
            token,
            now: now.wall,
            limit: 128,
        });
        Ok(())
    }

    /// A request that has no answer.
    pub fn tell(&mut self, request: StoreRequest) {
        self.requests.push_back(request);
    }

    /// What to hand to the store.
    pub fn poll_request(&mut self) -> Option<StoreRequest> {
        self.requests.pop_front()
    }

    /// Finds who waited for an answer; `None` if nobody does any more.
    pub fn handle_event(&mut self, event: StoreEvent) -> Option<CustodyEvent<W>> {
        let token = match event {
            StoreEvent::Appended { spool, length } => {
                return Some(CustodyEvent::Appended(spool, length));
            }
            StoreEvent::Ruined {
                recipient,
                seq,
                message,
                delivered,
            } => return Some(CustodyEvent::Ruined(recipient, seq, message, delivered)),
            StoreEvent::Stored { token, .. }
            | StoreEvent::Refused { token, .. }
            | StoreEvent::Loaded { token, .. }
            | StoreEvent::Fetched { token, .. }
            | StoreEvent::Piece { token, .. }
            | StoreEvent::Synced { token }
            | StoreEvent::Changed { token }
            | StoreEvent::Users { token, .. }
            | StoreEvent::Due { token, .. } => token,
        };
        let retained = self.retained.remove(&token);
        let is_crowded = matches!(event, StoreEvent::Refused { refusal, .. }
            if refusal == Refusal::OverQuota);
        if is_crowded
            && let Some(retained) = retained
            && let Some(waiter) = self.waiting.remove(&token)
        {
            // Its spool is still there.
            self.spools.remove(&token);
            return Some(CustodyEvent::Crowded(waiter, retained));
        }
        match &event {
            StoreEvent::Refused { .. } => self.drop_spool(token),
            _ => drop(self.spools.remove(&token)),
        }
        let waiter = self.waiting.remove(&token)?;
        Some(match event {
            StoreEvent::Stored { seq, .. } => CustodyEvent::Stored(waiter, seq),
            StoreEvent::Refused { refusal, .. } => CustodyEvent::Refused(waiter, refusal),
            other => CustodyEvent::Answer(waiter, other),
        })
    }

    /// When a write will have taken too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Gives up the writes that took too long; their waiters are to be told.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<W> {
        let mut late = Vec::new();
        while let Some((deadline, token)) = self.deadlines.front().copied() {
            if deadline > now.instant {
                break;
            }
            self.deadlines.pop_front();
            if let Some(waiter) = self.waiting.remove(&token) {
                self.requests.push_back(StoreRequest::Abandon { token });
                self.retained.remove(&token);
                self.drop_spool(token);
                late.push(waiter);
            }
        }
        late
    }

    fn drop_spool(&mut self, token: StoreToken) {
        if let Some(spool) = self.spools.remove(&token) {
            self.requests.push_back(StoreRequest::Drop { spool });
        }
    }

    fn reserve(&mut self, waiter: W, with_deadline: bool, now: Now) -> Result<StoreToken, W> {
        if !self.has_room() {
            return Err(waiter);
        }
        self.next_token += 1;
        let token = StoreToken((u64::from(self.shard) << 48) | self.next_token);
        self.waiting.insert(token, waiter);
        if with_deadline {
            self.deadlines
                .push_back((now.instant + self.timeout, token));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custody(credits: usize) -> Custody<&'static str> {
        Custody::new(1, credits, Duration::from_secs(5), 0)
    }

    #[test]
    fn without_a_credit_nothing_begins() {
        let mut custody = custody(1);
        let bob = Identity::new("bob", "im.test");
        assert!(
            custody
                .load(bob.clone(), None, "first", Now::default())
                .is_ok()
        );
        assert_eq!(
            custody.load(bob, None, "second", Now::default()),
            Err("second")
        );
        let Some(StoreRequest::Load { token, .. }) = custody.poll_request() else {
            panic!("a load was asked");
        };
        let refused = StoreEvent::Refused {
            token,
            refusal: Refusal::Poisoned,
        };
        assert!(matches!(
            custody.handle_event(refused),
            Some(CustodyEvent::Refused("first", Refusal::Poisoned))
        ));
        assert!(custody.has_room());
    }

    #[test]
    fn spools_are_never_named_twice() {
        let mut custody = custody(1);
        assert_ne!(custody.new_spool(), custody.new_spool());
    }
}
