//! A world without sockets and without sleeping: the pure cores of a server, a store, users with
//! their devices, links that lose, repeat and reorder, and a clock we move.
//!
//! Everything that will happen stands in one queue by time. What happens is decided by one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use restante::clock::{Instant, Now, UnixMillis};
use restante::config::Config;
use restante::limits::meters::Meters;
use restante::msrp::reader::FrameReader;
use restante::net::ConnectionId;
use restante::participating::internal::InternalMessage;
use restante::registrar::Directory;
use restante::router::{Knowledge, RouteKey};
use restante::server::{Addresses, CoreContext};
use restante::shard::core::Core;
use restante::shard::core_trait::ShardCore;
use restante::shard::port::{Attempt, Input};
use restante::sip::transport::flow::Transport;
use restante::store::request::StoreEvent;
use restante::token::Tokens;

#[path = "world/agent.rs"]
pub mod agent;
#[path = "world/call.rs"]
pub mod call;
#[path = "world/deliver.rs"]
mod deliver;
#[path = "world/disk.rs"]
pub mod disk;
#[path = "world/driver.rs"]
pub mod driver;
#[path = "world/frames.rs"]
mod frames;
#[path = "world/ledger.rs"]
pub mod ledger;
#[path = "world/media.rs"]
mod media;
#[path = "world/perform.rs"]
mod perform;

use agent::{Agent, Out, Packet, Sight};
use disk::Disk;
use ledger::Ledger;

/// How badly the world behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Datagrams lost, of a hundred.
    pub loss: u32,
    /// Datagrams that come twice, of a hundred.
    pub repeats: u32,
    /// Milliseconds a datagram may take.
    pub delay: u64,
    /// Milliseconds the store may take.
    pub store_delay: u64,
    /// Requests the store takes from a shard at once; 0: as many as the default.
    pub credits: u32,
    /// SIP transactions a shard keeps at once; 0: as many as the default.
    pub transactions: u32,
    /// Whether connections break, devices refuse, the store fills and the server is killed.
    pub breakage: bool,
}

/// What will happen.
#[derive(Debug)]
enum Event {
    /// A datagram or a message over TCP reaches the server.
    SipIn {
        agent: usize,
        connection: Option<ConnectionId>,
        packet: Packet,
    },
    /// It reaches a device; `begun` is when its request was first sent.
    SipOut {
        agent: usize,
        connection: Option<ConnectionId>,
        octets: Bytes,
        begun: Instant,
    },
    /// A late answer of a device leaves.
    SipLater {
        agent: usize,
        connection: Option<ConnectionId>,
        packet: Packet,
    },
    MsrpIn {
        connection: ConnectionId,
        packet: Packet,
    },
    MsrpOut {
        connection: ConnectionId,
        octets: Bytes,
        sent: Instant,
    },
    /// Something for one shard, of this life of the server.
    Input {
        shard: u16,
        life: u64,
        input: Box<Input>,
    },
    MsrpOpened {
        agent: usize,
        call: u64,
    },
    /// The store takes what stands in line, then syncs.
    StoreWorks {
        life: u64,
        line: usize,
    },
    StoreSyncs {
        life: u64,
    },
    /// The end of a connection reaches one side.
    MsrpEnds {
        connection: ConnectionId,
        at_server: bool,
    },
}

/// An MSRP connection.
struct Line {
    agent: usize,
    open: bool,
    reader: FrameReader,
    /// The shard whose frame is arriving.
    current: u16,
    /// Shards that use it.
    users: BTreeSet<u16>,
    /// What was sent last in each direction arrives then.
    in_at: Instant,
    out_at: Instant,
}

/// See the module's text.
pub struct World {
    pub seed: u64,
    pub now: Now,
    pub rng: StdRng,
    pub faults: Faults,
    pub agents: Vec<Agent>,
    pub disk: Disk,
    pub ledger: Ledger,
    shards: u16,
    config: Arc<Config>,
    addresses: Arc<Addresses>,
    knowledge: Knowledge,
    pub cores: Vec<Core>,
    /// How often the server was started.
    life: u64,
    started_at: Instant,
    queue: BTreeMap<(Instant, u64), Event>,
    last_serial: u64,
    lines: BTreeMap<ConnectionId, Line>,
    /// SIP connections: whose, and which shards got something from them.
    streams: BTreeMap<ConnectionId, (usize, BTreeSet<u16>)>,
    last_connection: u64,
    /// When requests were first sent, by branch.
    begun: BTreeMap<String, Instant>,
    /// Dialogs that the server knows to be over.
    ended: BTreeSet<String>,
    store_at: [Instant; 2],
    sip_at: BTreeMap<(ConnectionId, bool), Instant>,
}

impl World {
    /// A server of `shards` shards and `users` users, each with one device.
    pub fn new(seed: u64, shards: u16, users: usize, faults: Faults) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let server = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses {
            sip: vec![
                (Transport::Udp, server(5060)),
                (Transport::Tcp, server(5060)),
            ],
            msrp: vec![server(2855)],
            ..Addresses::default()
        };
        let mut config = Config::default();
        if faults.credits > 0 {
            config.store.credits = faults.credits;
        }
        if faults.transactions > 0 {
            config.sip.max_transactions = faults.transactions;
        }
        let knowledge = Knowledge {
            directory: Arc::new(Directory::new(&config)),
            digest: None,
            own: Arc::new([("127.0.0.1".to_owned(), 5060)]),
            route_key: RouteKey {
                secret: [7; 32],
                run: 1,
            },
            meters: Arc::new(Meters::new(&config)),
            shards,
        };
        let agents = (0..users)
            .map(|index| Agent::new(index, rng.random_bool(0.3), rng.random_bool(0.7)))
            .collect();
        let start = Now {
            instant: Instant::from_micros(1_000_000),
            wall: UnixMillis(1_800_000_000_000),
        };
        let mut world = Self {
            seed,
            now: start,
            rng,
            faults,
            agents,
            disk: Disk::new(shards),
            ledger: Ledger::default(),
            shards,
            config: Arc::new(config),
            addresses: Arc::new(addresses),
            knowledge,
            cores: Vec::new(),
            life: 0,
            started_at: start.instant,
            queue: BTreeMap::new(),
            last_serial: 0,
            lines: BTreeMap::new(),
            streams: BTreeMap::new(),
            last_connection: 0,
            begun: BTreeMap::new(),
            ended: BTreeSet::new(),
            store_at: [start.instant; 2],
            sip_at: BTreeMap::new(),
        };
        world.boot();
        world
    }

    /// The server starts with what the store kept.
    fn boot(&mut self) {
        self.life += 1;
        self.started_at = self.now.instant;
        self.cores = (0..self.shards)
            .map(|shard| {
                let found = self.disk.recover(shard, self.now.wall);
                let context = CoreContext {
                    shard,
                    shards: self.shards,
                    config: Arc::clone(&self.config),
                    addresses: Arc::clone(&self.addresses),
                    knowledge: self.knowledge.clone(),
                    metrics: Arc::default(),
                    memory: restante::limits::memory::Account::detached(),
                    bindings: found.bindings,
                    documents: found.documents,
                    duplicate_keys: found.duplicate_keys,
                    waiting: found.waiting,
                };
                let seed = self.seed ^ (self.life << 32) ^ (u64::from(shard) << 16);
                Core::new(context, Tokens::from_seed(seed), self.now)
            })
            .collect();
        for shard in 0..self.shards {
            self.perform(shard);
        }
    }

    /// The server is killed and started again.
    pub fn crash(&mut self) {
        self.ledger
            .tell(format!("{:?} the server is killed", self.now.instant));
        self.disk.crash();
        self.ledger.crashed(&self.disk, self.now.instant);
        for connection in self.lines.keys().copied().collect::<Vec<_>>() {
            self.break_line(connection, false);
        }
        for connection in self.streams.keys().copied().collect::<Vec<_>>() {
            self.break_stream(connection, false);
        }
        self.boot();
    }

    /// The server is told to stop, drains for some seconds, and is started again.
    pub fn restart(&mut self) {
        self.ledger
            .tell(format!("{:?} the server drains", self.now.instant));
        for shard in 0..self.shards {
            self.input_after(Duration::from_micros(1), shard, Input::Drain);
        }
        self.pass(Duration::from_secs(8));
        self.crash();
    }

    /// Lets `span` pass with everything that happens in it.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now.instant + span;
        loop {
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let agents = self.agents.iter().filter_map(Agent::next_deadline);
            let cores = self.cores.iter().filter_map(Core::next_deadline);
            let Some(next) = queued.into_iter().chain(agents).chain(cores).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.advance_to(next);
            self.let_time_out();
            while let Some(first) = self.queue.first_entry() {
                if first.key().0 > self.now.instant {
                    break;
                }
                let event = first.remove();
                self.deliver(event);
            }
        }
        self.advance_to(end);
    }

    /// MSRP connections that the server keeps open.
    pub fn lines_in_use(&self) -> usize {
        self.lines
            .values()
            .filter(|line| !line.users.is_empty())
            .count()
    }

    fn advance_to(&mut self, at: Instant) {
        let span = at.since(self.now.instant);
        // The wall clock counts whole milliseconds; what is left over is of no matter here.
        self.now = Now {
            instant: self.now.instant.max(at),
            wall: UnixMillis(
                self.now.wall.0 + u64::try_from(span.as_micros()).unwrap_or(0).div_ceil(1000),
            ),
        };
    }

    fn let_time_out(&mut self) {
        let now = self.now;
        for index in 0..self.agents.len() {
            if self.agents[index]
                .next_deadline()
                .is_some_and(|at| at <= now.instant)
            {
                self.with_agent(index, |agent, sight| agent.handle_timeout(sight));
            }
        }
        for shard in 0..self.shards {
            let core = &mut self.cores[usize::from(shard)];
            if core.next_deadline().is_none_or(|at| at > now.instant) {
                continue;
            }
            core.handle_timeout(now);
            if core.next_deadline().is_some_and(|at| at <= now.instant) {
                let text = format!(
                    "shard {shard} has a deadline in the past: {}",
                    core.census()
                );
                self.ledger.fault(text);
                // One more turn may be owed to what the first one did.
                self.cores[usize::from(shard)].handle_timeout(now);
            }
            self.perform(shard);
        }
    }

    /// Asks an agent, and does what it wants.
    pub fn with_agent(&mut self, index: usize, ask: impl FnOnce(&mut Agent, &mut Sight<'_>)) {
        let mut sight = Sight {
            now: self.now,
            rng: &mut self.rng,
            ledger: &mut self.ledger,
            disk: &self.disk,
            out: Vec::new(),
        };
        ask(&mut self.agents[index], &mut sight);
        for out in sight.out {
            self.perform_of_agent(index, out);
        }
    }

    fn perform_of_agent(&mut self, agent: usize, out: Out) {
        match out {
            Out::Sip(packet) => self.sip_to_server(agent, packet),
            Out::SipLater(wait, packet) => {
                let connection = self.stream_of(agent);
                self.after(
                    wait,
                    Event::SipLater {
                        agent,
                        connection,
                        packet,
                    },
                );
            }
            Out::Connect(call) => {
                let wait = self.some_delay();
                self.after(wait, Event::MsrpOpened { agent, call });
            }
            Out::Msrp(connection, packet) => self.msrp_to_server(connection, packet),
            Out::Close(connection) => self.close_line(connection),
        }
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now.instant + wait, event);
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.last_serial += 1;
        self.queue.insert((at, self.last_serial), event);
    }

    fn some_delay(&mut self) -> Duration {
        let most = self.faults.delay.max(1);
        Duration::from_micros(self.rng.random_range(100..=most * 1000))
    }

    fn chance(&mut self, of_hundred: u32) -> bool {
        self.rng.random_range(0..100) < of_hundred
    }

    fn new_connection(&mut self, shard: u16) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId::new(shard, self.last_connection)
    }

    fn input_after(&mut self, wait: Duration, shard: u16, input: Input) {
        let (life, input) = (self.life, Box::new(input));
        self.after(wait, Event::Input { shard, life, input });
    }

    /// The story so far, when a promise was broken.
    pub fn check(&self) {
        if let Some(fault) = self.ledger.faults.first() {
            let others = self.ledger.faults.get(1..10).unwrap_or_default();
            panic!(
                "{}\nseed {}: {fault}\nand {others:?}",
                self.ledger.story(),
                self.seed,
            );
        }
    }
}
/// What one shard hands to another.
fn internal(message: Box<InternalMessage>) -> Input {
    Input::Internal(message)
}

/// Outcome of an attempt.
fn unreachable(attempt: Attempt) -> Input {
    Input::MsrpUnreachable { attempt }
}

fn from_store(event: StoreEvent) -> Input {
    Input::Store(event)
}
