//! From the configuration's keys to the bounds of the parts, and the bounds that have no key.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::limits::memory::{Account, Kind, Ledger};
use crate::msrp::{listener as msrp, reader};
use crate::net::tls::Tls;
use crate::resolve;
use crate::shard::assembly::Settings;
use crate::shard::inbox::Sizes;
use crate::sip::transport::tcp;
use crate::store::StoreConfig;
use crate::store::request::Quota;

/// RFC 3261 §18.4 leaves it open; a peer that cannot be reached in this time counts as gone.
const CONNECT: Duration = Duration::from_secs(5);
/// A whole SIP message, however slow its sender.
const MESSAGE: Duration = Duration::from_secs(30);
/// Below the 30 s after which an MSRP sender gives a transaction up (RFC 4975 §7.1.4).
const STALL: Duration = Duration::from_secs(20);
/// A peer refreshes its registration before it ends; its connection lives that long and a bit.
const GRACE: Duration = Duration::from_secs(300);

/// What the process has before anybody asks anything of it: code, threads, tables that are empty, the
/// cache of the store's view (measured at `ready`, optimised, with one, two and eight shards).
const PROCESS: usize = 14 * 1024 * 1024;
/// What each shard adds: its sockets' buffers and its runtime.
const SHARD: usize = 2 * 1024 * 1024;

/// Where all parts write down what memory they use.
pub(super) fn ledger(config: &Config, shards: u16) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::new(shards, config.limits.memory.get()));
    let fixed = PROCESS + usize::from(shards) * SHARD;
    Account::of_process(&ledger).add(Kind::Process, fixed);
    ledger
}

/// How many shards: the key, or as many as the process has CPUs, quotas of its group included.
pub(super) fn shards(config: &Config) -> u16 {
    match config.shards {
        0 => std::thread::available_parallelism()
            .map_or(1, |cpus| u16::try_from(cpus.get()).unwrap_or(u16::MAX)),
        shards => shards,
    }
}

/// The room in each shard's inbox.
pub(super) fn sizes(config: &Config) -> Sizes {
    let inbox = usize::try_from(config.limits.inbox).unwrap_or(usize::MAX);
    Sizes {
        work: inbox,
        notices: inbox,
        internal: inbox,
    }
}

/// The bounds of the shells.
pub(super) fn shells(config: &Config, tls: Option<Tls>) -> Settings {
    let limits = &config.limits;
    let queue = limits.connection_backlog.as_usize();
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Settings {
        sip: tcp::Settings {
            idle: config.registrar.default_expires.duration() + GRACE,
            message: MESSAGE,
            connect: CONNECT,
            stall: STALL,
            queue: queue.max(config.sip.max_message_size.as_usize()),
            body: config.sip.max_message_size.as_usize(),
        },
        msrp: msrp::Settings {
            first: config.msrp.binding_timeout.duration() * 2,
            idle: config.msrp.idle_timeout.duration() + GRACE,
            connect: CONNECT,
            stall: STALL,
            queue: queue.max(config.msrp.chunk_size.as_usize() * 4),
            frames: reader::Limits::default(),
        },
        connections: count(limits.connections),
        connections_per_address: count(limits.connections_per_address),
        resolver: resolve::Settings::default(),
        tls,
    }
}

/// The bounds of the store.
pub(super) fn store(config: &Config, memory: &Arc<Ledger>) -> StoreConfig {
    StoreConfig {
        memory: Account::of_process(memory),
        segment_bytes: config.store.segment_size.get(),
        reserve_bytes: config.store.reserve.get(),
        credits: usize::try_from(config.store.credits).unwrap_or(usize::MAX),
        quota: Quota {
            messages: config.deferral.max_messages.into(),
            octets: config.deferral.max_total_size.get(),
        },
        ..StoreConfig::new(&config.data_dir)
    }
}
