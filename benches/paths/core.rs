//! The pure core of a shard with nothing around it: no socket, no store, a clock that is moved.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use restante::clock::{Instant, Now, UnixMillis};
use restante::config::Config;
use restante::limits::memory::Account;
use restante::limits::meters::Meters;
use restante::limits::sources::Sources;
use restante::registrar::Directory;
use restante::router::{Knowledge, RouteKey};
use restante::server::{Addresses, CoreContext};
use restante::shard::core::Core;
use restante::shard::core_trait::ShardCore;
use restante::shard::port::{Action, Input};
use restante::sip::transport::flow::{Flow, Transport};
use restante::sip::wire;
use restante::store::request::{Seq, StoreEvent, StoreRequest};
use restante::token::Tokens;

use super::texts;

/// Where the authors' messages come from, and where the devices are.
pub const AUTHOR: &str = "192.0.2.9:6080";
/// See [`AUTHOR`].
pub const DEVICE: &str = "192.0.2.8:6090";
/// From one message to the next: transactions live for 32 s, so about a thousand are there at a time.
const STEP: Duration = Duration::from_millis(32);

/// A core, the time it thinks it is, and what it wanted.
pub struct Bench {
    core: Core,
    now: Now,
    number: u64,
    stored: u64,
    /// What left, and for whom.
    pub sent: VecDeque<(SocketAddr, Bytes)>,
    /// What is kept or settled.
    pub asked: Vec<StoreRequest>,
}

impl Bench {
    /// A server in open mode with one shard, and `users` of them registered.
    pub fn new(users: u64) -> Self {
        let own: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        let config = Config {
            domain: "im.test".to_owned(),
            ..Config::default()
        };
        let context = CoreContext {
            shard: 0,
            shards: 1,
            knowledge: Knowledge {
                directory: Arc::new(Directory::new(&config)),
                digest: None,
                meters: Arc::new(Meters::new(&config)),
                sources: Arc::new(Sources::without_limits()),
                own: Arc::new([("192.0.2.1".to_owned(), 5060)]),
                route_key: RouteKey {
                    secret: [7; 32],
                    run: 1,
                },
                shards: 1,
            },
            config: Arc::new(config),
            addresses: Arc::new(Addresses {
                sip: vec![(Transport::Udp, own)],
                msrp: vec!["192.0.2.1:2855".parse().expect("an address")],
                ..Addresses::default()
            }),
            metrics: Arc::default(),
            memory: Account::detached(),
            bindings: Vec::new(),
            documents: Vec::new(),
            duplicate_keys: Vec::new(),
            waiting: Vec::new(),
        };
        let now = Now {
            instant: Instant::from_micros(1_000_000),
            wall: UnixMillis(1_800_000_000_000),
        };
        let core = Core::new(context, Tokens::from_seed(1), now);
        let mut bench = Self {
            core,
            now,
            number: 0,
            stored: 0,
            sent: VecDeque::new(),
            asked: Vec::new(),
        };
        for number in 0..users {
            bench.register(&user(number));
        }
        bench
    }

    /// A REGISTER of a user's device, to its 200.
    pub fn register(&mut self, user: &str) {
        let number = self.next();
        let text = texts::register(user, DEVICE, number);
        self.hear(DEVICE, text.into());
        self.answered("200");
    }

    /// A MESSAGE to somebody who is there: to his device, its 200 to us, ours to the author.
    pub fn relay(&mut self, to: u64) {
        let number = self.next();
        let text = texts::message("alice", &user(to), number);
        self.hear(AUTHOR, text.into());
        let (_, copy) = self.sent.pop_front().expect("to the device");
        let copy = std::str::from_utf8(&copy).expect("text");
        self.hear(DEVICE, texts::taken(copy).into());
        self.answered("200");
    }

    /// A MESSAGE to somebody who is away: to the store, its answer to us, our 202 to the author.
    pub fn keep(&mut self, number: u64) {
        let text = texts::message("alice", &format!("away{number}"), self.next());
        self.hear(AUTHOR, text.into());
        self.answered("202");
    }

    /// What is asked of the store is done at once.
    fn ask(&mut self, request: StoreRequest) {
        let event = match &request {
            StoreRequest::Put { token, .. } => {
                self.stored += 1;
                StoreEvent::Stored {
                    token: *token,
                    seq: Seq(self.stored),
                }
            }
            StoreRequest::Load { token, .. } => StoreEvent::Loaded {
                token: *token,
                held: Vec::new(),
                more: false,
            },
            StoreRequest::TakeDue { token, .. } => StoreEvent::Due {
                token: *token,
                due: Vec::new(),
                delivered: Vec::new(),
            },
            _ => return self.asked.push(request),
        };
        self.asked.push(request);
        self.core.handle_input(Input::Store(event), self.now);
    }

    fn hear(&mut self, from: &str, octets: Bytes) {
        let flow = Flow {
            transport: Transport::Udp,
            listener: 0,
            remote: from.parse().expect("an address"),
            connection: None,
        };
        let message = wire::parse(octets).expect("legal");
        assert_eq!(self.core.owner_of(&message), 0);
        self.core.handle_input(
            Input::Sip {
                flow,
                message,
                is_again: false,
            },
            self.now,
        );
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::SendSip { flow, octets } => self.sent.push_back((flow.remote, octets)),
                Action::Store(request) => self.ask(request),
                Action::Forward { message, .. } => {
                    self.core.handle_input(Input::Internal(message), self.now);
                }
                other => panic!("not of these paths: {other:?}"),
            }
        }
    }

    fn answered(&mut self, status: &str) {
        let (_, answer) = self.sent.pop_front().expect("an answer");
        assert_eq!(&answer[8..11], status.as_bytes());
        assert!(self.sent.is_empty(), "nothing else left");
        self.asked.clear();
    }

    /// A number never used before; time goes on, and so do timers.
    fn next(&mut self) -> u64 {
        self.now = self.now.plus(STEP);
        while self
            .core
            .next_deadline()
            .is_some_and(|due| due <= self.now.instant)
        {
            self.core.handle_timeout(self.now);
            self.perform();
        }
        self.number += 1;
        self.number
    }
}

/// The name of a registered user.
pub fn user(number: u64) -> String {
    format!("u{number:06}")
}
