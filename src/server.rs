//! Builds every part from the configuration, starts them, and ends them in order.
//!
//! Start: listeners, store, shards, then the `ready` line. End: drain within the time allowed, shards,
//! store; so what a peer was promised is durable before the process goes.

use bytes::Bytes;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, AccountBook, Admin, AdminThread, Parts, Token};
use crate::config::Config;
use crate::identity::Identity;
use crate::identity::shard_of;
use crate::limits::memory::{Account, Ledger};
use crate::metrics::{Metrics, ShardMetrics};
use crate::msrp::fingerprint::fingerprint_of;
use crate::net::sys;
use crate::net::tls::{Tls, TlsError};
use crate::router::Knowledge;
use crate::shard::assembly::{Inboxes, Shards};
use crate::shard::core_trait::ShardCore;
use crate::store::deferred::{Answer, Answers, DuplicateKey};
use crate::store::{Recovered, RecoveredBinding, Store, StoreClient, StoreConfig, StoreError};

mod knowledge;
mod listeners;
mod settings;

use listeners::Sockets;
pub use listeners::{Addresses, BindError};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener of the configuration cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate of the `tls://` listeners, or its key.
    #[error("msrp.certificate: {0}")]
    Certificate(#[from] TlsError),
    /// The data folder belongs to another process.
    #[error("data_dir: {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The store did not open.
    #[error("data_dir: {0}")]
    Store(StoreError),
    /// The system refused a thread or a runtime.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

impl ServerError {
    /// 2 where the configuration has to change, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(_) | Self::Locked(_) | Self::Certificate(_) => 2,
            // A restart would find the same: somebody has to look.
            Self::Store(
                StoreError::Newer { .. } | StoreError::Misnamed { .. } | StoreError::Elsewhere(_),
            ) => 2,
            Self::Store(_) | Self::Start(_) => 1,
        }
    }
}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Locked(folder) => Self::Locked(folder),
            error => Self::Store(error),
        }
    }
}

/// What a shard's core is made from.
#[derive(Clone)]
pub struct CoreContext {
    /// Which shard it decides for.
    pub shard: u16,
    /// How many there are.
    pub shards: u16,
    /// The configuration.
    pub config: Arc<Config>,
    /// Where the server is reached.
    pub addresses: Arc<Addresses>,
    /// What all shards know alike.
    pub knowledge: Knowledge,
    /// What this shard counts into.
    pub metrics: Arc<ShardMetrics>,
    /// Where it writes down what memory it uses.
    pub memory: Account,
    /// The bindings of this shard's users.
    pub bindings: Vec<RecoveredBinding>,
    /// All documents of the operator's, by name: the accounts made while running, say.
    pub documents: Vec<(Box<str>, Bytes)>,
    /// Messages this shard's users were sent shortly before the start.
    pub duplicate_keys: Vec<DuplicateKey>,
    /// This shard's users for whom messages wait.
    pub waiting: Vec<Identity>,
}

/// A server that runs. Dropping it ends it without a drain.
pub struct Running {
    addresses: Arc<Addresses>,
    metrics: Arc<Metrics>,
    shards: Shards,
    store: Store,
    config: Arc<Config>,
    admin: Arc<Admin>,
    /// Ends last: who asks whether the server drains is answered until it has ended.
    _interface: Option<AdminThread>,
}

/// The server.
pub struct Server;

impl Server {
    /// Starts the server; returns once it accepts traffic. `core` makes the core of a shard, on the
    /// shard's thread. Must not be called from a runtime.
    pub fn start<C: ShardCore + 'static>(
        config: Config,
        core: impl Fn(CoreContext) -> C + Send + Sync + 'static,
    ) -> Result<Running, ServerError> {
        match sys::raise_open_files() {
            Ok(limit) => tracing::debug!(limit, "open files"),
            Err(error) => tracing::warn!(%error, "the limit of open files stays"),
        }
        if let Err(error) = sys::refuse_huge_pages() {
            tracing::warn!(%error, "huge pages may be used: limits.memory may not be kept");
        }
        let config = Arc::new(config);
        let shards = settings::shards(&config);
        let mut sockets = Sockets::bind(&config, shards)?;
        let admin = Arc::new(Admin::new(Arc::clone(&config)));
        let interface = match sockets.admin.is_empty() {
            true => None,
            false => {
                let sockets = std::mem::take(&mut sockets.admin);
                Some(admin::start(Arc::clone(&admin), sockets)?)
            }
        };
        let tls = tls(&config, &sockets.addresses)?;
        let fingerprint = tls.as_ref().map(|tls| fingerprint_of(tls.certificate()));
        sockets.addresses.fingerprint = fingerprint;
        let addresses = Arc::new(sockets.addresses.clone());
        let inboxes = Inboxes::new(shards, settings::sizes(&config));
        let memory = settings::ledger(&config, shards);
        let (store, clients, recovered) = open_store(&config, shards, &inboxes, &memory)?;
        tracing::info!(
            messages = recovered.messages,
            bindings = recovered.bindings.len(),
            damaged = recovered.damaged,
            "store opened"
        );
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let metrics = Arc::new(Metrics::new(shards));
        let token = (interface.is_some()).then(|| Token::obtain(&config));
        let token = token.transpose()?;
        let accounts = accounts(&config, &recovered);
        let guards = settings::guards(&config);
        let directory = accounts.directory();
        let knowledge = knowledge::gather(&config, directory, &addresses, shards, &guards)?;
        let desk = Arc::clone(&inboxes.desk);
        let meters = Arc::clone(&knowledge.meters);
        let context = contexts(&config, &addresses, &metrics, &memory, knowledge, recovered);
        let started = Shards::start(
            settings::shells(&config, tls, &guards),
            inboxes,
            sockets.supplies(clients),
            &metrics,
            &memory,
            move |shard| core(context(shard)),
        );
        match started {
            Ok(shards) => {
                shards.helper().spawn(weigh_process(Arc::clone(&memory)));
                if let Some(token) = token {
                    admin.set_ready(Parts {
                        token,
                        desk,
                        store: store.watch(),
                        metrics: Arc::clone(&metrics),
                        memory,
                        accounts,
                        sources: guards.sources,
                        logins: guards.logins,
                        meters,
                        drain: shards.begin_drain(),
                    });
                }
                Ok(Running {
                    addresses,
                    metrics,
                    shards,
                    store,
                    config,
                    admin,
                    _interface: interface,
                })
            }
            Err(error) => {
                store.close();
                Err(error.into())
            }
        }
    }

    /// Starts the server, says so in one line on stdout, runs until SIGTERM or SIGINT, drains and
    /// ends. Must not be called from a runtime.
    pub fn run<C: ShardCore + 'static>(
        config: Config,
        core: impl Fn(CoreContext) -> C + Send + Sync + 'static,
    ) -> Result<(), ServerError> {
        let running = Self::start(config, core)?;
        let stopped = {
            // Before the ready line, so that a signal that follows it is not lost.
            let _helper = running.shards.helper().enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )
        };
        let mut out = io::stdout().lock();
        writeln!(out, "ready {}", running.addresses)?;
        out.flush()?;
        drop(out);
        let (mut terminate, mut interrupt) = stopped;
        running.shards.helper().block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        running.stop();
        Ok(())
    }
}

/// How often the system is asked what memory the process has.
const WEIGH: Duration = Duration::from_millis(100);

/// Tells the ledger what the process has, so that what the allocator keeps counts too.
async fn weigh_process(ledger: Arc<Ledger>) {
    loop {
        ledger.set_resident(sys::resident_memory().unwrap_or_default());
        tokio::time::sleep(WEIGH).await;
    }
}

/// What each shard's core is made from: its own users' share of what the store found.
fn contexts(
    config: &Arc<Config>,
    addresses: &Arc<Addresses>,
    metrics: &Arc<Metrics>,
    memory: &Arc<Ledger>,
    knowledge: Knowledge,
    recovered: Recovered,
) -> impl Fn(u16) -> CoreContext + use<> {
    let (config, addresses) = (Arc::clone(config), Arc::clone(addresses));
    let (metrics, memory) = (Arc::clone(metrics), Arc::clone(memory));
    let shards = knowledge.shards;
    move |shard| {
        let own = |user: &Identity| shard_of(user, shards) == shard;
        let bindings = recovered.bindings.iter();
        let duplicate_keys = recovered.duplicate_keys.iter();
        CoreContext {
            shard,
            shards,
            config: Arc::clone(&config),
            addresses: Arc::clone(&addresses),
            knowledge: knowledge.clone(),
            metrics: metrics.shard(shard),
            memory: Account::of_shard(&memory, shard),
            bindings: bindings
                .filter(|binding| own(&binding.user))
                .cloned()
                .collect(),
            documents: recovered.documents.clone(),
            duplicate_keys: duplicate_keys
                .filter(|key| own(&key.recipient))
                .cloned()
                .collect(),
            waiting: recovered
                .waiting
                .iter()
                .filter(|user| own(user))
                .cloned()
                .collect(),
        }
    }
}

impl Running {
    /// Where it is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes no new work, lets running work end within `shutdown_timeout`, then ends everything.
    /// Must not be called from a runtime.
    pub fn stop(mut self) {
        let limit = self.config.shutdown_timeout.duration();
        tracing::info!("draining");
        self.admin.set_draining();
        if !self.shards.drain(limit) {
            tracing::warn!("not everything ended in time; it is left for the next start");
        }
        self.shards.stop();
        self.store.close();
        tracing::info!("stopped");
    }
}

/// The accounts of the file and of the store.
fn accounts(config: &Arc<Config>, recovered: &Recovered) -> AccountBook {
    let (book, errors) = AccountBook::restore(Arc::clone(config), &recovered.documents);
    for error in errors {
        tracing::error!(%error, "an account of the store");
    }
    book
}

/// Our certificate, if any listener speaks TLS: from the files, or made for the names we go by.
fn tls(config: &Config, addresses: &Addresses) -> Result<Option<Tls>, TlsError> {
    if addresses.msrps.is_empty() {
        return Ok(None);
    }
    let msrp = &config.msrp;
    if !msrp.certificate.as_os_str().is_empty() {
        let tls = Tls::load(&msrp.certificate, &msrp.private_key, &msrp.authorities)?;
        return Ok(Some(tls));
    }
    let hosts = addresses.msrps.iter();
    let names = hosts.map(|index| addresses.advertised_msrp(config, *index).0);
    Ok(Some(Tls::self_signed(names.collect(), &msrp.authorities)?))
}

type OpenStore = (Store, Vec<StoreClient>, Recovered);

fn open_store(
    config: &Config,
    shards: u16,
    inboxes: &Inboxes,
    memory: &Arc<Ledger>,
) -> Result<OpenStore, StoreError> {
    let answers: Answers = (inboxes.lanes.iter())
        .map(|lanes| {
            let lane = lanes.store.clone();
            // A shard that has ended needs no answer.
            let answer: Answer = Box::new(move |events| drop(lane.send(events)));
            answer
        })
        .collect();
    let config: StoreConfig = settings::store(config, memory);
    Store::open(&config, move |user| shard_of(user, shards), answers)
}
