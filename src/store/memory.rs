//! A store without disk or threads, for simulated conversations. Test support: the server never
//! uses it.
//!
//! It answers like the real one, at once or when told: [`MemoryStore::hold`] keeps commits back,
//! [`MemoryStore::refuse`] refuses intake, [`MemoryStore::crash`] forgets what was not committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::request::{
    Body, BodySource, ConversationKey, DOCUMENT_LIMIT, DeferredMessage, Held, MARKS_LIMIT, Quota,
    Refusal, Seq, SpoolId, StoreEvent, StoreRequest, StoreToken, Together, Usage,
};
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// Larger bodies are fetched without octets, as [`StoreRequest::Fetch`] says.
const INLINE: usize = 64 * 1024;

/// What a crash keeps.
type Messages = BTreeMap<(Identity, Seq), (DeferredMessage, Bytes)>;

/// A change that is answered once durable.
#[derive(Debug)]
enum Change {
    Redate(Identity, Seq, UnixMillis),
    Document(Box<str>, Option<Bytes>),
    /// Whatever came before.
    Flush,
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    durable: Messages,
    /// Bindings as they were last committed.
    pub bindings: BTreeMap<(Identity, Box<str>), Bytes>,
    /// Documents as they were last committed.
    documents: BTreeMap<Box<str>, Bytes>,
    /// Devices that have got a message; durable or not.
    marks: BTreeMap<Seq, Vec<u64>>,
    durable_marks: BTreeMap<Seq, Vec<u64>>,
    changes: VecDeque<(StoreToken, Change)>,
    /// Settled, but not yet durably so: a crash brings them back.
    settled: Messages,
    spools: BTreeMap<SpoolId, Vec<u8>>,
    waiting: VecDeque<(StoreToken, Seq, DeferredMessage, Bytes)>,
    stored: BTreeMap<StoreToken, (Identity, Seq)>,
    events: VecDeque<StoreEvent>,
    last_seq: u64,
    held: bool,
    refusal: Option<Refusal>,
}

impl MemoryStore {
    /// While held, nothing is committed; letting go commits.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        if !held {
            self.commit();
        }
    }

    /// Refuses every later `Put` and `Sync` and every other change that is answered so, or none.
    pub fn refuse(&mut self, refusal: Option<Refusal>) {
        self.refusal = refusal;
    }

    /// Makes what waits durable and answers it.
    pub fn commit(&mut self) {
        self.settled.clear();
        while let Some((token, seq, message, body)) = self.waiting.pop_front() {
            let recipient = message.recipient.clone();
            self.stored.insert(token, (recipient.clone(), seq));
            self.durable.insert((recipient, seq), (message, body));
            self.events.push_back(StoreEvent::Stored { token, seq });
        }
        for (token, change) in std::mem::take(&mut self.changes) {
            let event = self.change(token, change);
            self.events.push_back(event);
        }
        let live: std::collections::BTreeSet<Seq> =
            self.durable.keys().map(|(_, seq)| *seq).collect();
        self.marks.retain(|seq, _| live.contains(seq));
        self.durable_marks.clone_from(&self.marks);
    }

    fn change(&mut self, token: StoreToken, change: Change) -> StoreEvent {
        match change {
            Change::Redate(recipient, seq, expires_at) => {
                let Some((message, _)) = self.durable.get_mut(&(recipient, seq)) else {
                    return unknown(token);
                };
                message.expires_at = expires_at;
            }
            Change::Flush => return StoreEvent::Synced { token },
            Change::Document(key, Some(value)) => {
                self.documents.insert(key, value);
            }
            Change::Document(key, None) => {
                self.documents.remove(&key);
            }
        }
        StoreEvent::Changed { token }
    }

    /// The documents as a start finds them.
    pub fn documents(&self) -> Vec<(Box<str>, Bytes)> {
        let documents = self.documents.iter();
        documents
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Back to what was durable: no answers, no spools, settlements without commit undone.
    pub fn crash(&mut self) {
        self.durable.append(&mut self.settled);
        self.waiting.clear();
        self.changes.clear();
        self.marks.clone_from(&self.durable_marks);
        self.stored.clear();
        self.spools.clear();
        self.events.clear();
    }

    /// The next answer, in order.
    pub fn poll_event(&mut self) -> Option<StoreEvent> {
        self.events.pop_front()
    }

    /// Spools that no message took and nobody dropped.
    pub fn spools(&self) -> usize {
        self.spools.len()
    }

    /// The messages in custody, in order.
    pub fn messages(&self) -> impl Iterator<Item = (Seq, &DeferredMessage, &Bytes)> {
        let mut all: Vec<_> = self
            .durable
            .iter()
            .map(|((_, seq), (message, body))| (*seq, message, body))
            .collect();
        all.sort_by_key(|(seq, ..)| *seq);
        all.into_iter()
    }

    /// At most `most` messages that follow one, up to the first of another kind and as far as they are short.
    fn following(&self, first: &DeferredMessage, after: Seq, most: usize) -> Vec<Together> {
        let theirs = self.messages();
        let theirs = theirs.filter(|(seq, m, _)| *seq > after && m.recipient == first.recipient);
        let mut room = INLINE;
        let short = theirs.take(most).map_while(|(seq, message, body)| {
            room = room.checked_sub(body.len() + message.field_octets())?;
            if message.kind != first.kind {
                return None;
            }
            let (message, body) = (Arc::new(message.clone()), body.clone());
            Some(Together { seq, message, body })
        });
        short.collect()
    }

    /// Takes a request; its answer, if any, comes from `poll_event`.
    pub fn handle(&mut self, request: StoreRequest) {
        match request {
            StoreRequest::Put {
                token,
                message,
                body,
                quota,
            } => self.put(token, Arc::unwrap_or_clone(message), body, quota),
            StoreRequest::Abandon { token } => self.abandon(token),
            StoreRequest::Settle { recipient, seq, .. } => self.settle(recipient, seq),
            StoreRequest::Append {
                spool,
                offset,
                octets,
            } => self.append(spool, offset, &octets),
            StoreRequest::Sync { token, spool } => {
                let event = match (self.refusal, self.spools.contains_key(&spool)) {
                    (Some(refusal), _) => StoreEvent::Refused { token, refusal },
                    (None, true) => StoreEvent::Synced { token },
                    (None, false) => unknown(token),
                };
                self.events.push_back(event);
            }
            StoreRequest::Drop { spool } => {
                self.spools.remove(&spool);
            }
            StoreRequest::Mark {
                recipient,
                seq,
                device,
            } => self.mark(recipient, seq, device),
            StoreRequest::Redate {
                token,
                recipient,
                seq,
                expires_at,
            } => self.ask_change(token, Change::Redate(recipient, seq, expires_at)),
            StoreRequest::Flush { token } => self.ask_change(token, Change::Flush),
            StoreRequest::PutDocument { token, key, value } => {
                if key.len() + value.len() > DOCUMENT_LIMIT {
                    let refusal = Refusal::TooLarge;
                    self.events
                        .push_back(StoreEvent::Refused { token, refusal });
                } else {
                    self.ask_change(token, Change::Document(key, Some(value)));
                }
            }
            StoreRequest::RemoveDocument { token, key } => {
                self.ask_change(token, Change::Document(key, None));
            }
            StoreRequest::PutBinding { user, key, value } => {
                self.bindings.insert((user, key), value);
            }
            StoreRequest::RemoveBinding { user, key } => {
                self.bindings.remove(&(user, key));
            }
            reading => {
                let event = self.read(reading);
                self.events.extend(event);
            }
        }
    }

    fn ask_change(&mut self, token: StoreToken, change: Change) {
        if let Some(refusal) = self.refusal {
            let refused = StoreEvent::Refused { token, refusal };
            return self.events.push_back(refused);
        }
        self.changes.push_back((token, change));
        if !self.held {
            self.commit();
        }
    }

    fn mark(&mut self, recipient: Identity, seq: Seq, device: u64) {
        if !self.durable.contains_key(&(recipient, seq)) {
            return;
        }
        let marks = self.marks.entry(seq).or_default();
        if !marks.contains(&device) && marks.len() < MARKS_LIMIT {
            marks.push(device);
        }
        if !self.held {
            self.commit();
        }
    }

    fn put(&mut self, token: StoreToken, message: DeferredMessage, body: Body, quota: Quota) {
        if let Some(refusal) = self.refusal {
            let refused = StoreEvent::Refused { token, refusal };
            return self.events.push_back(refused);
        }
        let octets = match &body {
            Body::Inline(octets) => octets.len() as u64,
            Body::Spooled { length, .. } => *length,
        };
        if let Some(refusal) = self.over_quota(&message, octets, quota) {
            let refused = StoreEvent::Refused { token, refusal };
            return self.events.push_back(refused);
        }
        let body = match body {
            Body::Inline(octets) => Some(octets),
            Body::Spooled { spool, length } => usize::try_from(length)
                .ok()
                .and_then(|length| Some(self.spools.remove(&spool)?.get(..length)?.to_vec()))
                .map(Bytes::from),
        };
        let Some(body) = body else {
            return self.events.push_back(unknown(token));
        };
        self.last_seq += 1;
        let seq = Seq(self.last_seq);
        self.waiting.push_back((token, seq, message, body));
        if !self.held {
            self.commit();
        }
    }

    /// What waits and what is being written count alike.
    fn over_quota(&self, message: &DeferredMessage, octets: u64, quota: Quota) -> Option<Refusal> {
        let quota = quota.of_kind(message.kind);
        let mut used = Usage::default();
        let durable = self.durable.values().map(|(message, body)| (message, body));
        let waiting = self
            .waiting
            .iter()
            .map(|(_, _, message, body)| (message, body));
        for (other, body) in durable.chain(waiting) {
            if other.recipient == message.recipient {
                used.messages += 1;
                used.octets += body.len() as u64;
            }
        }
        match octets > quota.octets {
            true => Some(Refusal::TooLarge),
            false => (!quota.has_room(used, octets)).then_some(Refusal::OverQuota),
        }
    }

    fn abandon(&mut self, token: StoreToken) {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, ..)| *waiting != token);
        if self.waiting.len() < before {
            self.events.push_back(unknown(token));
        } else if let Some(key) = self.stored.remove(&token) {
            self.durable.remove(&key);
        }
    }

    fn settle(&mut self, recipient: Identity, seq: Seq) {
        if let Some((key, value)) = self.durable.remove_entry(&(recipient, seq)) {
            self.settled.insert(key, value);
        }
        if !self.held {
            self.commit();
        }
    }

    fn append(&mut self, spool: SpoolId, offset: u64, octets: &[u8]) {
        let held = self.spools.entry(spool).or_default();
        let start = usize::try_from(offset).expect("a simulated body fits memory");
        let end = start + octets.len();
        held.resize(held.len().max(end), 0);
        held[start..end].copy_from_slice(octets);
        let length = octets.len();
        self.events
            .push_back(StoreEvent::Appended { spool, length });
    }

    fn read(&self, request: StoreRequest) -> Option<StoreEvent> {
        Some(match request {
            StoreRequest::Load {
                token,
                recipient,
                after,
                limit,
            } => self.load(token, &recipient, after, limit),
            StoreRequest::Fetch {
                token,
                recipient,
                seq,
                together,
            } => match self.durable.get(&(recipient.clone(), seq)) {
                Some((message, body)) => StoreEvent::Fetched {
                    together: self.following(message, seq, together),
                    token,
                    message: Arc::new(message.clone()),
                    body: (body.len() <= INLINE).then(|| body.clone()),
                    length: body.len() as u64,
                    delivered: self.marks.contains_key(&seq),
                },
                None => unknown(token),
            },
            StoreRequest::Read {
                token,
                source,
                offset,
                length,
            } => self
                .octets(source, offset, length)
                .map_or(unknown(token), |octets| StoreEvent::Piece { token, octets }),
            StoreRequest::ListUsers {
                token,
                after,
                limit,
            } => self.list(token, after.as_ref(), limit),
            StoreRequest::TakeDue { token, now, limit } => {
                let due = self.messages().filter(|(_, m, _)| m.expires_at <= now);
                let due: Vec<_> = due
                    .take(limit)
                    .map(|(seq, message, _)| (seq, Arc::new(message.clone())))
                    .collect();
                let marked = |seq: &Seq| self.marks.contains_key(seq);
                StoreEvent::Due {
                    token,
                    delivered: due.iter().map(|(seq, _)| *seq).filter(marked).collect(),
                    due,
                }
            }
            _ => return None,
        })
    }

    fn list(&self, token: StoreToken, after: Option<&Identity>, limit: usize) -> StoreEvent {
        let mut all: BTreeMap<Identity, Usage> = BTreeMap::new();
        for ((user, _), (_, body)) in &self.durable {
            let usage = all.entry(user.clone()).or_default();
            usage.messages += 1;
            usage.octets += body.len() as u64;
        }
        let mut users: Vec<_> = all
            .into_iter()
            .filter(|(user, _)| after.is_none_or(|after| user > after))
            .collect();
        let more = users.len() > limit;
        users.truncate(limit);
        StoreEvent::Users { token, users, more }
    }

    fn load(
        &self,
        token: StoreToken,
        recipient: &Identity,
        after: Option<Seq>,
        limit: usize,
    ) -> StoreEvent {
        let first = Seq(after.map_or(0, |seq| seq.0 + 1));
        let queue = (recipient.clone(), first)..=(recipient.clone(), Seq(u64::MAX));
        let mut waiting = self.durable.range(queue);
        let held = waiting
            .by_ref()
            .take(limit)
            .map(|((_, seq), (message, body))| Held {
                seq: *seq,
                kind: message.kind,
                conversation: ConversationKey {
                    author: message.author.clone(),
                    conversation: message.conversation.as_str().into(),
                },
                message_id: message.message_id.as_str().into(),
                length: body.len() as u64,
                expires_at: message.expires_at,
                marks: self.marks.get(seq).cloned().unwrap_or_default().into(),
            })
            .collect();
        StoreEvent::Loaded {
            token,
            held,
            more: waiting.next().is_some(),
        }
    }

    fn octets(&self, source: BodySource, offset: u64, length: usize) -> Option<Bytes> {
        let whole = match source {
            BodySource::Message { recipient, seq } => {
                self.durable.get(&(recipient, seq))?.1.clone()
            }
            BodySource::Spool(spool) => Bytes::from(self.spools.get(&spool)?.clone()),
        };
        let from = usize::try_from(offset).ok()?.min(whole.len());
        let to = from.saturating_add(length).min(whole.len());
        Some(whole.slice(from..to))
    }
}

fn unknown(token: StoreToken) -> StoreEvent {
    StoreEvent::Refused {
        token,
        refusal: Refusal::Unknown,
    }
}
