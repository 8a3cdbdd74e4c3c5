//! All shards of a process: their inboxes, their threads, their end.
//!
//! The inboxes exist before anything else, because the store answers into them; then the threads
//! start, each with its sockets and its part of the store.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::core_trait::ShardCore;
use super::inbox::{Inbox, Lanes, Sizes, inbox};
use super::operator_desk::Desk;
use super::port::Input;
use super::store_queue::StoreGate;
use super::thread::{self, Common, Own, SipSocket};
use crate::limits::memory::{Account, Ledger};
use crate::limits::sources::Sources;
use crate::metrics::Metrics;
use crate::msrp::listener as msrp;
use crate::net::accept::Gate;
use crate::net::tls::Tls;
use crate::resolve::{self, Resolver};
use crate::sip::transport::tcp;

/// Bounds of the shells.
#[derive(Clone)]
pub struct Settings {
    /// Of SIP connections.
    pub sip: tcp::Settings,
    /// Of MSRP connections.
    pub msrp: msrp::Settings,
    /// TCP connections of all shards together.
    pub connections: usize,
    /// TCP connections from one address.
    pub connections_per_address: usize,
    /// How busy and how harmful each source is.
    pub sources: Arc<Sources>,
    /// Of the resolver.
    pub resolver: resolve::Settings,
    /// Our certificate for MSRP over TLS.
    pub tls: Option<Tls>,
}

/// The inboxes of all shards.
#[derive(Debug)]
pub struct Inboxes {
    /// By shard, the sending ends.
    pub lanes: Arc<[Lanes]>,
    /// Where the operator asks.
    pub desk: Arc<Desk>,
    inboxes: Vec<Inbox>,
}

/// What is made for one shard from outside.
#[derive(Debug)]
pub struct Supplies<G> {
    /// Its socket of each SIP listener.
    pub sip: Vec<SipSocket>,
    /// Its socket of each MSRP listener, and whether it speaks TLS.
    pub msrp: Vec<(std::net::TcpListener, bool)>,
    /// Its access to the store.
    pub store: G,
}

/// Running shards. Dropping them ends them without a drain.
#[derive(Debug)]
pub struct Shards {
    lanes: Arc<[Lanes]>,
    threads: Vec<JoinHandle<()>>,
    helper: Handle,
    stop: watch::Sender<bool>,
    drained: mpsc::UnboundedReceiver<u16>,
}

impl Inboxes {
    /// For `shards` shards.
    pub fn new(shards: u16, sizes: Sizes) -> Self {
        let (lanes, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| inbox(sizes)).unzip();
        let lanes: Arc<[Lanes]> = lanes.into();
        Self {
            desk: Arc::new(Desk::new(Arc::clone(&lanes))),
            lanes,
            inboxes,
        }
    }
}

impl Shards {
    /// Starts a shard for each of `supplies`; returns once all of them accept traffic. `core` makes
    /// the core of a shard, on the shard's thread. Must not be called from a runtime.
    pub fn start<C, G>(
        settings: Settings,
        inboxes: Inboxes,
        supplies: Vec<Supplies<G>>,
        metrics: &Metrics,
        memory: &Arc<Ledger>,
        core: impl Fn(u16) -> C + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        C: ShardCore + 'static,
        G: StoreGate + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let (drained, drains) = mpsc::unbounded_channel();
        let (helper, thread) = start_helper(stopped.clone())?;
        let common = Common {
            lanes: Arc::clone(&inboxes.lanes),
            sip: Arc::default(),
            msrp: Arc::default(),
            gate: Gate::new(
                settings.connections,
                settings.connections_per_address,
                settings.sources,
            ),
            sip_settings: settings.sip,
            msrp_settings: settings.msrp,
            tls: settings.tls,
            resolver: Resolver::new(settings.resolver),
            helper: helper.clone(),
            operator: inboxes.desk,
            drained,
            stop: stopped,
        };
        // From here on an error drops this and so ends what was started.
        let mut shards = Self {
            lanes: inboxes.lanes,
            threads: vec![thread],
            helper,
            stop,
            drained: drains,
        };
        let core = Arc::new(core);
        let mut outcomes: Vec<oneshot::Receiver<io::Result<()>>> = Vec::new();
        for ((shard, inbox), supplies) in (0..).zip(inboxes.inboxes).zip(supplies) {
            let own = Own {
                shard,
                inbox,
                sip: supplies.sip,
                msrp: supplies.msrp,
                store: supplies.store,
                metrics: metrics.shard(shard),
                memory: Account::of_shard(memory, shard),
            };
            let core = Arc::clone(&core);
            let (thread, outcome) = thread::start(common.clone(), own, move || core(shard))?;
            shards.threads.push(thread);
            outcomes.push(outcome);
        }
        for outcome in outcomes {
            let gone = |_| io::Error::other("a shard ended while it started");
            outcome.blocking_recv().map_err(gone)??;
        }
        Ok(shards)
    }

    /// The runtime that waits for signals and look-ups.
    pub fn helper(&self) -> &Handle {
        &self.helper
    }

    /// What tells every shard to take no new work; nobody waits for the end.
    pub fn begin_drain(&self) -> Box<dyn Fn() + Send + Sync> {
        let (lanes, helper) = (Arc::clone(&self.lanes), self.helper.clone());
        Box::new(move || {
            let lanes = Arc::clone(&lanes);
            helper.spawn(async move {
                for lanes in lanes.iter() {
                    let _ = lanes.notices.send(Input::Drain).await;
                }
            });
        })
    }

    /// Tells every shard to take no new work and waits until all have drained, at most `limit`;
    /// `false` if they did not. Must not be called from a runtime.
    pub fn drain(&mut self, limit: Duration) -> bool {
        let drain = async {
            for lanes in self.lanes.iter() {
                let _ = lanes.notices.send(Input::Drain).await;
            }
            let mut waiting: Vec<u16> = (0..).take(self.lanes.len()).collect();
            while !waiting.is_empty() {
                let Some(shard) = self.drained.recv().await else {
                    return;
                };
                waiting.retain(|other| *other != shard);
            }
        };
        let limited = async { tokio::time::timeout(limit, drain).await };
        self.helper.block_on(limited).is_ok()
    }

    /// Ends all shards and waits for their threads. What is queued for a peer is still written if
    /// the peer takes it at once.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the server panicked");
            }
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.end();
    }
}

/// A runtime on a thread of its own, for what must not run on a shard.
fn start_helper(mut stop: watch::Receiver<bool>) -> io::Result<(Handle, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new()
        .name("helper".to_owned())
        .spawn(move || {
            let _ = runtime.block_on(stop.wait_for(|stop| *stop));
            // A look-up that hangs must not hold up the end.
            runtime.shutdown_background();
        })?;
    Ok((handle, thread))
}
