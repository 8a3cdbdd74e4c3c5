//! From the configuration's keys to the bounds of the parts, and the bounds that have no key.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::limits::logins::{self, Logins};
use crate::limits::memory::{Account, Kind, Ledger};
use crate::limits::sources::{self, Sources};
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

/// SIP messages in a shard's inbox at most: more would only wait longer than anybody waits.
const WORK: usize = 2_048;
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

/// Who sends too much, does harm, or guesses: known to all shards alike.
#[derive(Clone)]
pub(super) struct Guards {
    /// By source.
    pub sources: Arc<Sources>,
    /// By user.
    pub logins: Arc<Logins>,
}

/// Nobody has done anything yet.
pub(super) fn guards(config: &Config) -> Guards {
    let limits = &config.limits;
    let places = usize::try_from(limits.sources).unwrap_or(usize::MAX);
    Guards {
        sources: Arc::new(Sources::new(sources::Settings {
            trusted: limits.trusted.clone(),
            messages: limits.source_rate,
            answers: limits.unproven_rate,
            offences: limits.offences,
            ban: limits.ban.duration(),
            places,
        })),
        logins: Arc::new(Logins::new(logins::Settings {
            failures: limits.failed_logins,
            failures_per_user: limits.failed_logins_per_user,
            lockout: limits.lockout.duration(),
            most: places,
        })),
    }
}

/// The room in each shard's inbox.
pub(super) fn sizes(config: &Config) -> Sizes {
    let inbox = usize::try_from(config.limits.inbox).unwrap_or(usize::MAX);
    Sizes {
        work: inbox.min(WORK),
        notices: inbox,
        internal: inbox,
    }
}

/// The bounds of the shells.
pub(super) fn shells(config: &Config, tls: Option<Tls>, guards: &Guards) -> Settings {
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
        sources: Arc::clone(&guards.sources),
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
