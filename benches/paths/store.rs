//! A store on disk, asked as a shard asks it.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use bytes::Bytes;
use restante::clock::UnixMillis;
use restante::identity::Identity;
use restante::imdn::Dispositions;
use restante::store::request::{
    Body, DeferredMessage, MessageKind, Quota, Seq, Settlement, StoreEvent, StoreRequest,
    StoreToken,
};
use restante::store::{Store, StoreClient, StoreConfig};

/// Messages that are handed over before the first answer is looked at.
pub const BATCH: u64 = 64;

/// One shard and its store, in a folder that goes away with it.
pub struct Desk {
    store: Option<Store>,
    client: StoreClient,
    events: Receiver<Vec<StoreEvent>>,
    number: u64,
    _folder: tempfile::TempDir,
}

impl Desk {
    /// An empty store.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, events) = mpsc::channel();
        let answer = Box::new(move |told| drop(sender.send(told)));
        let config = StoreConfig::new(folder.path());
        let (store, mut clients, _) = Store::open(&config, |_| 0, vec![answer]).expect("opens");
        Self {
            store: Some(store),
            client: clients.remove(0),
            events,
            number: 0,
            _folder: folder,
        }
    }

    /// A batch for Bob, from the first request to the last answer.
    pub fn put(&mut self) -> Vec<Seq> {
        for _ in 0..BATCH {
            self.number += 1;
            self.ask(StoreRequest::Put {
                token: StoreToken(self.number),
                message: Arc::new(message(self.number)),
                body: Body::Inline(Bytes::from_static(&[b'x'; 400])),
                quota: Quota::NONE,
            });
        }
        let told = self.hear(BATCH).into_iter();
        told.map(|event| match event {
            StoreEvent::Stored { seq, .. } => seq,
            other => panic!("{other:?}"),
        })
        .collect()
    }

    /// These leave; nobody waits for that.
    pub fn settle(&mut self, all: Vec<Seq>) {
        for seq in all {
            self.ask(StoreRequest::Settle {
                recipient: bob(),
                seq,
                settlement: Settlement::Delivered,
            });
        }
    }

    /// How many wait for Bob, of the first thousand.
    pub fn scan(&mut self) -> usize {
        self.number += 1;
        self.ask(StoreRequest::Load {
            token: StoreToken(self.number),
            recipient: bob(),
            after: None,
            limit: 1000,
        });
        match self.hear(1).pop() {
            Some(StoreEvent::Loaded { held, .. }) => held.len(),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, request: StoreRequest) {
        assert!(self.client.try_submit(request).is_ok(), "a credit");
    }

    fn hear(&self, count: u64) -> Vec<StoreEvent> {
        let mut all = Vec::new();
        while (all.len() as u64) < count {
            all.extend(self.events.recv().expect("an answer"));
        }
        all
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.close();
        }
    }
}

fn bob() -> Identity {
    Identity::new("bob", "im.test")
}

fn message(number: u64) -> DeferredMessage {
    DeferredMessage {
        recipient: bob(),
        author: Identity::new("alice", "im.test"),
        from: "<sip:alice@im.test>".into(),
        to: "<sip:bob@im.test>".into(),
        kind: MessageKind::Pager,
        conversation: format!("f81d4fae-7dec-11d0-a765-{number}"),
        contribution: format!("8fa24c01-93b1-4c5e-b5d2-{number}"),
        in_reply_to: None,
        headers: Vec::new(),
        content_type: "message/cpim".into(),
        message_id: number.to_string(),
        date_time: None,
        dispositions: Dispositions::POSITIVE,
        accepted_at: UnixMillis(1_000_000),
        expires_at: UnixMillis(2_000_000),
        duplicate_key: number.into(),
    }
}
