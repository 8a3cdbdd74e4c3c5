//! How much is under way on a shard: for metrics, and for tests that want to see nothing left behind.

use std::fmt;

use crate::participating::service::Service;

/// Sizes of everything that must become empty when nothing happens any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// SIP transactions, finished ones that absorb retransmissions included.
    pub transactions: usize,
    /// Requests of ours that somebody may still get an answer to.
    pub askers: usize,
    /// Dialogs in which we are the user agent.
    pub dialogs: usize,
    /// MESSAGEs without a final answer, or with branches that still run.
    pub pagers: usize,
    /// Chat sessions.
    pub chats: usize,
    /// Running deliveries.
    pub deliveries: usize,
    /// Proxied requests.
    pub relays: usize,
    /// Machines of served users.
    pub users: usize,
    /// Users for whom messages wait in the store.
    pub waiting: usize,
    /// MSRP sessions.
    pub media_sessions: usize,
    /// MSRP connections in use.
    pub media_connections: usize,
    /// Requests the store has not answered.
    pub store_requests: usize,
    /// Messages another shard is storing for a chat of this one.
    pub foreign: usize,
    /// Expired messages on their way out of the store.
    pub expiring: usize,
    /// Sessions of legs that hung up and wait for the store.
    pub parted: usize,
}

/// What is there even when nothing happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Population {
    /// Users with a binding.
    pub users: usize,
    /// Bindings.
    pub contacts: usize,
}

impl Census {
    /// Adds what another shard counted.
    pub fn add(&mut self, other: &Self) {
        for (own, other) in [
            (&mut self.transactions, other.transactions),
            (&mut self.askers, other.askers),
            (&mut self.dialogs, other.dialogs),
            (&mut self.pagers, other.pagers),
            (&mut self.chats, other.chats),
            (&mut self.deliveries, other.deliveries),
            (&mut self.relays, other.relays),
            (&mut self.users, other.users),
            (&mut self.waiting, other.waiting),
            (&mut self.media_sessions, other.media_sessions),
            (&mut self.media_connections, other.media_connections),
            (&mut self.store_requests, other.store_requests),
            (&mut self.foreign, other.foreign),
            (&mut self.expiring, other.expiring),
            (&mut self.parted, other.parted),
        ] {
            *own += other;
        }
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Census {
    /// What there is, as `name=number`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("transactions", self.transactions),
            ("askers", self.askers),
            ("dialogs", self.dialogs),
            ("pagers", self.pagers),
            ("chats", self.chats),
            ("deliveries", self.deliveries),
            ("relays", self.relays),
            ("users", self.users),
            ("waiting", self.waiting),
            ("media_sessions", self.media_sessions),
            ("media_connections", self.media_connections),
            ("store_requests", self.store_requests),
            ("foreign", self.foreign),
            ("expiring", self.expiring),
            ("parted", self.parted),
        ];
        let present = all.iter().filter(|(_, number)| *number > 0);
        let words: Vec<String> = present
            .map(|(name, number)| format!("{name}={number}"))
            .collect();
        f.write_str(&words.join(" "))
    }
}

impl Service {
    /// Counts who is registered.
    #[must_use]
    pub fn population(&self) -> Population {
        Population {
            users: self.registrar.registered_users(),
            contacts: self.registrar.registered_contacts(),
        }
    }

    /// Counts what is under way.
    #[must_use]
    pub fn census(&self) -> Census {
        Census {
            transactions: self.sip.transactions(),
            askers: self.sip.askers(),
            dialogs: self.dialogs.len(),
            pagers: self.pagers.len(),
            chats: self.chats.len(),
            deliveries: self.deliveries.len(),
            relays: self.relays.len(),
            users: self.users.len(),
            waiting: self.waiting.len(),
            media_sessions: self.media.len(),
            media_connections: self.media.connections(),
            store_requests: self.custody.open(),
            foreign: self.foreign.len(),
            expiring: self.expiring.len() + self.telling.len() + self.untold.len(),
            parted: self.parted.len(),
        }
    }
}
