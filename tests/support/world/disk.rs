//! A store whose disk is slow, full, broken or cut off: requests wait in line, writes become durable
//! together at the next sync, answers of the log and of the readers come by different ways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use restante::clock::UnixMillis;
use restante::identity::{Identity, shard_of};
use restante::store::RecoveredBinding;
use restante::store::deferred::DuplicateKey;
use restante::store::memory::MemoryStore;
use restante::store::request::{BodySource, Refusal, Seq, StoreEvent, StoreRequest};

/// How long a start remembers the messages taken before it.
const DUPLICATE_WINDOW: u64 = 32_000;

/// What a start finds.
#[derive(Default)]
pub struct Found {
    pub bindings: Vec<RecoveredBinding>,
    pub documents: Vec<(Box<str>, Bytes)>,
    pub duplicate_keys: Vec<DuplicateKey>,
    pub waiting: Vec<Identity>,
}

/// See the module's text.
pub struct Disk {
    memory: MemoryStore,
    /// What the log and what the readers will do; they do not wait for each other.
    lines: [VecDeque<StoreRequest>; 2],
    taken: BTreeMap<Seq, DuplicateKey>,
    /// What has left custody. What is gone otherwise was given up, and its author has heard so.
    settled: BTreeSet<Seq>,
    /// Bodies that were durable at some time.
    committed: BTreeSet<Vec<u8>>,
    poisoned: bool,
    shards: u16,
}

impl Disk {
    /// Of a server with so many shards.
    pub fn new(shards: u16) -> Self {
        let mut memory = MemoryStore::default();
        memory.hold(true);
        Self {
            memory,
            lines: Default::default(),
            taken: BTreeMap::new(),
            settled: BTreeSet::new(),
            committed: BTreeSet::new(),
            poisoned: false,
            shards,
        }
    }

    /// A request stands in a line; the first one there calls for work.
    pub fn ask(&mut self, request: StoreRequest) -> Option<usize> {
        let line = usize::from(is_question(&request));
        self.lines[line].push_back(request);
        (self.lines[line].len() == 1).then_some(line)
    }

    /// Takes every request in a line; what is written waits for the sync.
    pub fn work(&mut self, line: usize) -> Vec<StoreEvent> {
        for request in std::mem::take(&mut self.lines[line]) {
            if let StoreRequest::Settle { seq, .. } = &request {
                self.settled.insert(*seq);
            }
            self.memory.handle(request);
        }
        self.answers()
    }

    /// Makes durable what was written.
    pub fn sync(&mut self) -> Vec<StoreEvent> {
        if self.poisoned {
            return Vec::new();
        }
        self.memory.commit();
        self.forget_given_up();
        for (seq, message, body) in self.memory.messages() {
            if self.taken.contains_key(&seq) {
                continue;
            }
            let key = DuplicateKey {
                recipient: message.recipient.clone(),
                key: message.duplicate_key,
                accepted_at: message.accepted_at,
            };
            self.taken.insert(seq, key);
            self.committed.insert(body.to_vec());
        }
        self.answers()
    }

    /// What was given up is known no more: its author may say it again.
    fn forget_given_up(&mut self) {
        let live: BTreeSet<Seq> = self.memory.messages().map(|(seq, ..)| seq).collect();
        let settled = &self.settled;
        let is_kept = |seq: &Seq| live.contains(seq) || settled.contains(seq);
        self.taken.retain(|seq, _| is_kept(seq));
    }

    /// No room for messages, or room again.
    pub fn fill(&mut self, full: bool) {
        if !self.poisoned {
            self.memory.refuse(full.then_some(Refusal::Full));
        }
    }

    /// A sync fails: nothing is acknowledged until a restart.
    pub fn poison(&mut self) {
        self.poisoned = true;
        self.memory.refuse(Some(Refusal::Poisoned));
    }

    /// Whether a sync has failed since the start.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// The power goes: what was not synced is gone.
    pub fn crash(&mut self) {
        self.lines = Default::default();
        self.memory.crash();
        self.forget_given_up();
        self.poisoned = false;
        self.memory.refuse(None);
    }

    /// What a start finds for a shard.
    pub fn recover(&self, shard: u16, now: UnixMillis) -> Found {
        let own = |user: &Identity| shard_of(user, self.shards) == shard;
        let mut waiting: Vec<Identity> = self
            .memory
            .messages()
            .map(|(_, message, _)| message.recipient.clone())
            .filter(own)
            .collect();
        waiting.sort();
        waiting.dedup();
        let recent = |key: &&DuplicateKey| {
            key.accepted_at.0 + DUPLICATE_WINDOW > now.0 && own(&key.recipient)
        };
        let bindings = self.memory.bindings.iter();
        Found {
            bindings: bindings
                .filter(|((user, _), _)| own(user))
                .map(|((user, key), value)| RecoveredBinding {
                    user: user.clone(),
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
            documents: self.memory.documents(),
            duplicate_keys: self.taken.values().filter(recent).cloned().collect(),
            waiting,
        }
    }

    /// Whether these octets were durable at some time.
    pub fn had(&self, body: &[u8]) -> bool {
        self.committed.contains(body)
    }

    /// Spools that nobody took or dropped.
    pub fn spools(&self) -> usize {
        self.memory.spools()
    }

    /// The body of a message in custody, and when its time is over.
    pub fn kept(&self, seq: Seq) -> Option<(&[u8], UnixMillis)> {
        let mut all = self.memory.messages();
        all.find(|(own, ..)| *own == seq)
            .map(|(_, message, body)| (&body[..], message.expires_at))
    }

    /// What waits: for whom, and its body.
    pub fn waiting(&self) -> impl Iterator<Item = (&Identity, &[u8])> {
        let all = self.memory.messages();
        all.map(|(_, message, body)| (&message.recipient, &body[..]))
    }

    /// The bodies of what is in custody.
    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.memory.messages().map(|(_, _, body)| &body[..])
    }

    fn answers(&mut self) -> Vec<StoreEvent> {
        let shards = self.shards;
        let of_its_own = |mut event: StoreEvent| {
            let shard = shard_of_answer(&event);
            if let StoreEvent::Due { due, .. } = &mut event {
                due.retain(|(_, message)| shard_of(&message.recipient, shards) == shard);
            }
            if let StoreEvent::Users { users, .. } = &mut event {
                users.retain(|(user, _)| shard_of(user, shards) == shard);
            }
            event
        };
        let events = std::iter::from_fn(|| self.memory.poll_event());
        events.map(of_its_own).collect()
    }
}

/// The shard an answer is for: it is written in the token.
pub fn shard_of_answer(event: &StoreEvent) -> u16 {
    let number = match event {
        StoreEvent::Appended { spool, .. } => spool.0,
        StoreEvent::Stored { token, .. }
        | StoreEvent::Refused { token, .. }
        | StoreEvent::Loaded { token, .. }
        | StoreEvent::Fetched { token, .. }
        | StoreEvent::Piece { token, .. }
        | StoreEvent::Synced { token }
        | StoreEvent::Changed { token }
        | StoreEvent::Users { token, .. }
        | StoreEvent::Due { token, .. } => token.0,
        // This disk damages nothing.
        StoreEvent::Ruined { .. } => 0,
    };
    (number >> 48) as u16
}

/// Whether a reader answers it. The octets of a spool are the log's.
fn is_question(request: &StoreRequest) -> bool {
    match request {
        StoreRequest::Read { source, .. } => matches!(source, BodySource::Message { .. }),
        StoreRequest::Load { .. }
        | StoreRequest::Fetch { .. }
        | StoreRequest::TakeDue { .. }
        | StoreRequest::ListUsers { .. } => true,
        _ => false,
    }
}
