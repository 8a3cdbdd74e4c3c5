//! A shard of the test: asks the store and waits for the answers.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bytes::Bytes;
use restante::clock::UnixMillis;
use restante::identity::Identity;
use restante::store::deferred::Answers;
use restante::store::files::{DiskFiles, Files};
use restante::store::request::{
    Body, BodySource, DeferredMessage, Dispositions, Held, MessageKind, Quota, Refusal, Seq,
    Settlement, SpoolId, StoreEvent, StoreRequest, StoreToken,
};
use restante::store::{Recovered, Store, StoreClient, StoreConfig, StoreError};

/// The start's time in tests.
pub const NOW: UnixMillis = UnixMillis(1_000_000);
/// Long enough that only a lost answer runs into it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn name(user: &str) -> Identity {
    Identity::new(user, "im.test")
}

/// A message that can be told by its number.
pub fn message(recipient: &str, number: u64) -> DeferredMessage {
    DeferredMessage {
        recipient: name(recipient),
        author: name("alice"),
        from: "<sip:alice@im.test>".into(),
        to: format!("<sip:{recipient}@im.test>"),
        kind: MessageKind::Chat,
        conversation: "conversation".into(),
        contribution: "contribution".into(),
        in_reply_to: None,
        headers: vec![("Subject".into(), "a subject".into())],
        content_type: "message/cpim".into(),
        message_id: number.to_string(),
        date_time: None,
        dispositions: Dispositions::POSITIVE,
        accepted_at: NOW,
        expires_at: UnixMillis(2_000_000 + number),
        duplicate_key: number.into(),
    }
}

/// Octets that differ from message to message.
pub fn octets(number: u64, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// The small body that belongs to a number.
pub fn body(number: u64) -> Bytes {
    octets(number, 40 + (number as usize * 37) % 900)
}

/// One shard and its store.
pub struct Desk {
    store: Option<Store>,
    pub client: StoreClient,
    pub recovered: Recovered,
    events: Receiver<StoreEvent>,
    next_token: u64,
    /// What `try_store` asks with.
    pub quota: Quota,
    /// Messages that the store found damaged.
    pub ruined: RefCell<Vec<(Seq, Option<DeferredMessage>)>>,
}

impl Desk {
    pub fn open(folder: &Path) -> Self {
        Self::try_open(&config(folder), Arc::new(DiskFiles)).expect("the store opens")
    }

    pub fn try_open(config: &StoreConfig, files: Arc<dyn Files>) -> Result<Self, StoreError> {
        let (sender, events) = mpsc::channel();
        let answers: Answers = vec![Box::new(move |events| {
            for event in events {
                let _ = sender.send(event);
            }
        })];
        let (store, mut clients, recovered) = Store::open_with(config, files, |_| 0, answers)?;
        Ok(Self {
            store: Some(store),
            client: clients.remove(0),
            recovered,
            events,
            next_token: 0,
            quota: Quota::NONE,
            ruined: RefCell::default(),
        })
    }

    pub fn store_ref(&self) -> &Store {
        self.store.as_ref().expect("open until closed")
    }

    pub fn close(mut self) {
        self.store.take().expect("open until closed").close();
    }

    pub fn token(&mut self) -> StoreToken {
        self.next_token += 1;
        StoreToken(self.next_token)
    }

    pub fn ask(&self, request: StoreRequest) {
        self.client.try_submit(request).expect("a credit");
    }

    pub fn hear(&self) -> StoreEvent {
        self.events.recv_timeout(PATIENCE).expect("an answer")
    }

    /// The next event that is not about room for appends.
    pub fn answer(&self) -> StoreEvent {
        loop {
            match self.hear() {
                StoreEvent::Appended { .. } => {}
                StoreEvent::Ruined { seq, message, .. } => {
                    let message = message.map(Arc::unwrap_or_clone);
                    self.ruined.borrow_mut().push((seq, message));
                }
                event => return event,
            }
        }
    }

    pub fn try_store(&mut self, message: DeferredMessage, body: Body) -> Result<Seq, Refusal> {
        let token = self.token();
        let message = Arc::new(message);
        self.ask(StoreRequest::Put {
            token,
            message,
            body,
            quota: self.quota,
        });
        match self.answer() {
            StoreEvent::Stored { token: of, seq } if of == token => Ok(seq),
            StoreEvent::Refused { token: of, refusal } if of == token => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub fn store(&mut self, message: DeferredMessage, body: Body) -> Seq {
        self.try_store(message, body).expect("stored")
    }

    pub fn append(&self, spool: SpoolId, offset: u64, octets: Bytes) {
        self.ask(StoreRequest::Append {
            spool,
            offset,
            octets,
        });
    }

    pub fn settle(&self, user: &str, seq: Seq, settlement: Settlement) {
        self.ask(StoreRequest::Settle {
            recipient: name(user),
            seq,
            settlement,
        });
    }

    pub fn load(&mut self, user: &str) -> Vec<Held> {
        let token = self.token();
        self.ask(StoreRequest::Load {
            token,
            recipient: name(user),
            after: None,
            limit: 1_000_000,
        });
        match self.answer() {
            StoreEvent::Loaded { held, .. } => held,
            other => panic!("{other:?}"),
        }
    }

    pub fn fetch(&mut self, user: &str, seq: Seq) -> Result<(DeferredMessage, Bytes), Refusal> {
        let token = self.token();
        let recipient = name(user);
        self.ask(StoreRequest::Fetch {
            token,
            recipient: recipient.clone(),
            seq,
            together: 0,
        });
        match self.answer() {
            StoreEvent::Fetched {
                message,
                body: Some(body),
                ..
            } => Ok((Arc::unwrap_or_clone(message), body)),
            StoreEvent::Fetched {
                message, length, ..
            } => {
                let source = BodySource::Message { recipient, seq };
                Ok((Arc::unwrap_or_clone(message), self.read(source, length)?))
            }
            StoreEvent::Refused { refusal, .. } => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub fn read(&mut self, source: BodySource, length: u64) -> Result<Bytes, Refusal> {
        let mut whole = Vec::new();
        while (whole.len() as u64) < length {
            let token = self.token();
            self.ask(StoreRequest::Read {
                token,
                source: source.clone(),
                offset: whole.len() as u64,
                length: 100_000,
            });
            match self.answer() {
                StoreEvent::Piece { octets, .. } if !octets.is_empty() => whole.extend(octets),
                StoreEvent::Refused { refusal, .. } => return Err(refusal),
                other => panic!("{other:?}"),
            }
        }
        Ok(whole.into())
    }

    /// The numbers of a user's messages in order, after comparing every octet.
    pub fn delivered(&mut self, user: &str) -> Vec<u64> {
        let mut numbers = Vec::new();
        for held in self.load(user) {
            let Ok((message, octets)) = self.fetch(user, held.seq) else {
                continue;
            };
            let number: u64 = message.message_id.parse().expect("a number");
            assert_eq!(octets.len() as u64, held.length);
            assert!(octets == expected(number, octets.len()), "message {number}");
            numbers.push(number);
        }
        numbers
    }
}

/// What the body of a message with this number must be.
pub fn expected(number: u64, length: usize) -> Bytes {
    match number {
        LARGE.. => octets(number, length),
        _ => body(number),
    }
}

/// Numbers from here on have large bodies.
pub const LARGE: u64 = 1_000_000;

pub fn config(folder: &Path) -> StoreConfig {
    StoreConfig {
        now: NOW,
        // So that there is enough of it to see.
        compact_after: Duration::ZERO,
        ..StoreConfig::new(folder)
    }
}
