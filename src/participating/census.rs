//! How much is under way on a shard: for metrics, and for tests that want to see nothing left behind.

use std::fmt;

use crate::participating::service::Service;

/// Declares the census: a struct of counts that can be added and shown.
macro_rules! census {
    ($(#[doc = $about:literal])+ { $( $(#[doc = $comment:literal])+ $name:ident, )+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Census {
            $( $(#[doc = $comment])+ pub $name: usize, )+
        }

        impl Census {
            /// Adds what another shard counted.
            pub fn add(&mut self, other: &Self) {
                $( self.$name += other.$name; )+
            }

            fn all(&self) -> impl Iterator<Item = (&'static str, usize)> {
                [$( (stringify!($name), self.$name) ),+].into_iter()
            }
        }
    };
}

census! {
    /// Sizes of everything that must become empty when nothing happens any more.
    {
        /// SIP transactions, finished ones that absorb retransmissions included.
        transactions,
        /// Requests of ours that somebody may still get an answer to.
        askers,
        /// Dialogs in which we are the user agent.
        dialogs,
        /// MESSAGEs without a final answer, or with branches that still run.
        pagers,
        /// Senders of receipts that have one under way.
        receipt_lanes,
        /// Chat sessions.
        chats,
        /// Running deliveries.
        deliveries,
        /// Proxied requests.
        relays,
        /// Requests that wait for the address of their next hop.
        look_ups,
        /// Machines of served users.
        users,
        /// Their deadlines.
        user_deadlines,
        /// Users for whom messages wait in the store.
        waiting,
        /// Users for whom perhaps nothing waits any more.
        doubtful,
        /// Queues that are still to be read, for want of a credit.
        postponed_loads,
        /// Users of whom the store is still to be asked whether what they confirmed is durable, for want of one.
        postponed_flushes,
        /// Messages of INVITEs that a device may still take.
        late_firsts,
        /// Fetches that wait until a queue has been read.
        fetches,
        /// Revocations that wait for the same.
        revocations,
        /// Full queues that make room.
        crowds,
        /// Dropped MESSAGEs that are still to be answered.
        silences,
        /// MSRP sessions.
        media_sessions,
        /// MSRP connections in use.
        media_connections,
        /// Requests the store has not answered.
        store_requests,
        /// Messages another shard is storing for a chat of this one.
        foreign,
        /// Chats of other shards that are told whether their messages may pass.
        grants,
        /// Expired messages that a delivery has at the moment.
        due_in_flight,
        /// Expired messages on their way out of the store.
        expiring,
        /// Sessions of legs that hung up and wait for the store.
        parted,
        /// Chunks that may have ended their message.
        chunks_to_settle,
    }
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
    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Census {
    /// What there is, as `name=number`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present = self.all().filter(|(_, number)| *number > 0);
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
            receipt_lanes: self.receipts.under_way(),
            chats: self.chats.len(),
            deliveries: self.deliveries.len(),
            relays: self.relays.len(),
            look_ups: self.look_ups.len() + self.questions.len(),
            users: self.users.len(),
            user_deadlines: self.user_deadlines.len(),
            waiting: self.waiting.len(),
            doubtful: self.doubtful.len(),
            postponed_loads: self.postponed_loads.len(),
            postponed_flushes: self.postponed_flushes.len(),
            late_firsts: self.late_firsts.len(),
            fetches: self.fetches.len(),
            revocations: self.revocations.len(),
            crowds: self.crowds.len(),
            silences: self.silences.len(),
            media_sessions: self.media.len(),
            media_connections: self.media.connections(),
            store_requests: self.custody.open(),
            foreign: self.foreign.len(),
            grants: self.grants.len(),
            due_in_flight: self.due_in_flight.len(),
            expiring: self.expiring.len() + self.telling.len() + self.untold.len(),
            parted: self.parted.len(),
            chunks_to_settle: self.chunks_to_settle.len(),
        }
    }
}
