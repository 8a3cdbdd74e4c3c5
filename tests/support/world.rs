//! A world without sockets and without sleeping: the pure cores of a server, a store, users with
//! their devices, links that lose, repeat and reorder, and a clock we move.
//!
//! Everything that will happen stands in one queue by time. What happens is decided by one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use restante::clock::{Instant, Now, UnixMillis};
use restante::config::Config;
use restante::limits::meters::Meters;
use restante::limits::sources::Sources;
use restante::metrics::ShardMetrics;
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
#[path = "world/credentials.rs"]
mod credentials;
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
#[path = "world/scene.rs"]
mod scene;
#[path = "world/wild.rs"]
mod wild;

use agent::{Agent, Out, Packet, Sight};
use disk::Disk;
use driver::Script;
use ledger::Ledger;
use scene::Scene;

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
    /// Milliseconds by which a shard may look late at its deadlines.
    pub lateness: u64,
    /// Milliseconds a message from one shard to another may wait for room.
    pub crowding: u64,
    /// Whether connections break, devices refuse, the store fills and the server is killed.
    pub breakage: bool,
    /// Whether the wall clock is set by hours and days, and not only by seconds.
    pub time_travel: bool,
}

/// What will happen.
#[derive(Debug)]
enum Event {
    /// A datagram or a message over TCP reaches the server.
    SipIn {
        agent: usize,
        /// Where the device was when it sent this.
        from: SocketAddr,
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
    /// Shards that got something from it; they hear of its end, whether they use it or not.
    served: BTreeSet<u16>,
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
    users: usize,
    /// Authors ask for all receipts.
    asks_more: bool,
    pub agents: Vec<Agent>,
    pub disk: Disk,
    pub ledger: Ledger,
    shards: u16,
    config: Arc<Config>,
    has_digest: bool,
    addresses: Arc<Addresses>,
    knowledge: Knowledge,
    /// Bounds that must hold after every step.
    most_sessions: usize,
    /// After so many more actions of the server it is killed.
    pub fuse: Option<u32>,
    /// The deadline a shard has told, and when it is looked at.
    wakes: Vec<(Instant, Instant)>,
    /// From one shard to another what was sent first comes first.
    forward_at: BTreeMap<(u16, u16), Instant>,
    /// Events at the present instant.
    at_once: u32,
    /// The part of a millisecond that the wall clock has not shown.
    odd_micros: u64,
    pub cores: Vec<Core>,
    /// How often the server was started.
    life: u64,
    started_at: Instant,
    /// Of all shards, and all lives.
    metrics: Arc<ShardMetrics>,
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
    /// What a script begins with.
    pub fn new(seed: u64, script: &Script) -> Self {
        let Script {
            shards,
            users,
            faults,
            ..
        } = *script;
        let mut rng = StdRng::seed_from_u64(seed);
        let scene = match script.wild {
            true => Scene::wild(&mut rng, users),
            false => Scene::plain(&mut rng, users),
        };
        let server = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses {
            sip: vec![
                (Transport::Udp, server(5060)),
                (Transport::Tcp, server(5060)),
            ],
            msrp: vec![server(2855)],
            ..Addresses::default()
        };
        let has_digest = scene.has_digest;
        let Scene {
            mut config,
            agents,
            wishes,
            ..
        } = scene;
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
            sources: Arc::new(Sources::without_limits()),
        };
        let start = Now {
            instant: Instant::from_micros(1_000_000),
            wall: UnixMillis(1_800_000_000_000),
        };
        let mut world = Self {
            seed,
            now: start,
            rng,
            faults,
            users,
            asks_more: script.wild,
            agents,
            disk: Disk::new(shards),
            ledger: Ledger::new(
                seed,
                wishes,
                start.wall,
                Duration::from_millis(faults.lateness),
            ),
            shards,
            most_sessions: config.limits.sessions as usize,
            fuse: None,
            wakes: Vec::new(),
            forward_at: BTreeMap::new(),
            at_once: 0,
            odd_micros: 0,
            has_digest,
            config: Arc::new(config),
            addresses: Arc::new(addresses),
            knowledge,
            cores: Vec::new(),
            life: 0,
            started_at: start.instant,
            metrics: Arc::default(),
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
        self.fuse = None;
        self.wakes = vec![(Instant::default(), Instant::default()); usize::from(self.shards)];
        self.forward_at.clear();
        if self.has_digest {
            let directory = &self.knowledge.directory;
            let digest = scene::digest_of(&self.config, directory, self.now.wall);
            self.knowledge.digest = Some(digest);
        }
        self.cores = (0..self.shards)
            .map(|shard| {
                let found = self.disk.recover(shard, self.now.wall);
                let context = CoreContext {
                    shard,
                    shards: self.shards,
                    config: Arc::clone(&self.config),
                    addresses: Arc::clone(&self.addresses),
                    knowledge: self.knowledge.clone(),
                    metrics: Arc::clone(&self.metrics),
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
            let agents = agents.min();
            let cores = (0..self.shards).filter_map(|shard| self.wake(shard)).min();
            let Some(next) = queued.into_iter().chain(agents).chain(cores).min() else {
                break;
            };
            if next > end || !self.ledger.faults.is_empty() {
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
                self.at_once += 1;
            }
            self.look_at_bounds();
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
        if !span.is_zero() {
            self.at_once = 0;
        }
        let micros = self.odd_micros + u64::try_from(span.as_micros()).unwrap_or(0);
        self.odd_micros = micros % 1000;
        self.now = Now {
            instant: self.now.instant.max(at),
            wall: UnixMillis(self.now.wall.0 + micros / 1000),
        };
        self.ledger.latest_wall = self.ledger.latest_wall.max(self.now.wall);
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
            if self.wake(shard).is_none_or(|at| at > now.instant) {
                continue;
            }
            self.at_once += 1;
            let core = &mut self.cores[usize::from(shard)];
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

    /// When a shard looks at its next deadline: then, or late.
    fn wake(&mut self, shard: u16) -> Option<Instant> {
        let due = self.cores[usize::from(shard)].next_deadline()?;
        if self.faults.lateness == 0 {
            return Some(due);
        }
        let (known, at) = self.wakes[usize::from(shard)];
        if known == due {
            return Some(at);
        }
        let most = self.faults.lateness * 1000;
        // Mostly in time: a machine that is late is so for moments.
        let late = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(0..=most),
            _ => 0,
        };
        let at = due + Duration::from_micros(late);
        self.wakes[usize::from(shard)] = (due, at);
        Some(at)
    }

    /// What must hold after every step.
    fn look_at_bounds(&mut self) {
        /// Far more than happens at one instant in any conversation.
        const MOST_AT_ONCE: u32 = 20_000;
        if self.at_once > MOST_AT_ONCE {
            self.ledger.fault("time stands still".to_owned());
        }
        let mut over = Vec::new();
        for core in &self.cores {
            let census = core.census();
            let store = &self.config.store;
            let bounds = [
                ("pagers", census.pagers, self.most_sessions),
                ("deliveries", census.deliveries, self.most_sessions),
                ("relays", census.relays, self.most_sessions),
                ("look_ups", census.look_ups, self.most_sessions),
                ("chats", census.chats, self.most_sessions),
                ("media_sessions", census.media_sessions, self.most_sessions),
                (
                    "store_requests",
                    census.store_requests,
                    store.credits as usize,
                ),
                (
                    "transactions",
                    census.transactions,
                    self.config.sip.max_transactions as usize,
                ),
            ];
            let broken = bounds.iter().filter(|(_, number, most)| number > most);
            over.extend(broken.map(|(name, number, most)| format!("{name}: {number} of {most}")));
        }
        for text in over {
            self.ledger.fault(text);
        }
    }

    /// Whose device misbehaves, or is treated badly.
    fn disturb_agent(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        self.ledger.disturbed.insert(user, self.now.instant);
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
