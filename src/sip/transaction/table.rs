//! All live transactions of a shard, their deadlines, and who gets what.
//!
//! A request goes in by [`TransactionTable::handle_request`], which says whether it is news; the user
//! answers with [`TransactionTable::respond`]. The other way round [`TransactionTable::request`] sends
//! and [`TransactionTable::handle_response`] says whose response came. What the table wants done comes
//! out of [`TransactionTable::poll_event`], in order.

use bytes::Bytes;

use super::action::GoneReason;
use super::branch;
use super::clients::{Clients, User};
use super::key::Keys;
use super::outbox::{Owner, Pending};
use super::servers::{Role, Servers};
use super::slab::SlotId;
use super::timer::TimerConfig;
use crate::clock::{Instant, Now};
use crate::sip::message::{Message, Method};
use crate::sip::transport::flow::Flow;
use crate::token::Tokens;

/// Names a server transaction of one table; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub(super) SlotId);

/// Names a client transaction of one table; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) SlotId);

/// Which of the two client machines a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// INVITE.
    Invite,
    /// Everything else but ACK, which has no transaction.
    NonInvite,
}

/// What a request turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// A new request; the user owes a response.
    New(ServerId),
    /// New as well, but an equal request that came by another path is being served: a user agent
    /// answers 482 (RFC 3261 §8.2.2.2), a proxy treats it as `New` (§16.3).
    Merged(ServerId),
    /// A retransmission; nothing to do.
    Absorbed,
    /// The ACK to a non-2xx response; nothing to do.
    Ack(ServerId),
    /// An ACK to a 2xx: belongs to a dialog or is proxied (RFC 6026 §7.1). The user that finds its
    /// 2xx calls [`TransactionTable::ack_received_for_2xx`].
    AckTo2xx,
    /// A CANCEL: to be answered 200 if it cancels something, else 481 (RFC 3261 §9.2).
    CancelOf {
        /// The transaction of the CANCEL itself.
        cancel: ServerId,
        /// The INVITE; it may have been answered already.
        cancelled: Option<ServerId>,
    },
    /// The table is full; to be answered 503 statelessly, or not at all if it is an overload.
    Busy,
}

/// Whose response came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseOutcome {
    /// For the user of this transaction. Each 2xx to an INVITE is delivered, also a repeated one.
    Deliver(ClientId),
    /// A retransmission, or a response to a CANCEL; nothing to do.
    Absorbed,
    /// Stray; to be dropped (RFC 6026 §7.2, RFC 4320 §4.2).
    Unmatched,
}

/// What the table wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionEvent {
    /// Send a message.
    Transmit {
        /// Where to.
        flow: Flow,
        /// The message.
        octets: Bytes,
    },
    /// A server transaction is over.
    ServerGone(ServerId, GoneReason),
    /// No response came in time: counts as 408 (RFC 3261 §8.1.3.1).
    TimedOut(ClientId),
    /// The flow was lost before the final response: counts as 503 (RFC 3261 §8.1.3.1).
    Unreachable(ClientId),
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transaction table is full")]
pub struct Busy;

/// See the module.
#[derive(Debug)]
pub struct TransactionTable {
    max_transactions: usize,
    shard: u16,
    keys: Keys,
    servers: Servers,
    clients: Clients,
    pending: Pending,
}

impl TransactionTable {
    /// An empty table of `shard` that holds at most `max_transactions`.
    pub fn new(config: TimerConfig, max_transactions: usize, shard: u16) -> Self {
        Self {
            max_transactions,
            shard,
            keys: Keys::default(),
            servers: Servers::new(),
            clients: Clients::new(),
            pending: Pending::new(config.bounded()),
        }
    }

    /// Transactions alive.
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// Whether nothing is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A branch for [`Self::request`], unique and naming this shard.
    pub fn fresh_branch(&self, tokens: &mut Tokens) -> String {
        branch::fresh(self.shard, tokens)
    }

    /// Takes a request that passed `validate`; `flow` is where it came from.
    pub fn handle_request(&mut self, request: &Message, flow: Flow, now: Now) -> RequestOutcome {
        if request.method() == Method::Ack {
            let out = &mut self.pending.outbox(now);
            return self.servers.handle_ack(request, &self.keys, out);
        }
        let key = self.keys.server(request);
        if let Some(id) = self.servers.find(key) {
            self.servers.absorb(id, flow, &mut self.pending.outbox(now));
            return RequestOutcome::Absorbed;
        }
        if self.len() >= self.max_transactions {
            return RequestOutcome::Busy;
        }
        let out = &mut self.pending.outbox(now);
        if request.method() != Method::Cancel {
            let merge = self.keys.merge(request);
            return self.servers.begin(request, key, merge, flow, out);
        }
        let cancelled = self.servers.find(self.keys.cancelled_invite(request));
        match self.servers.begin(request, key, None, flow, out) {
            RequestOutcome::New(cancel) => RequestOutcome::CancelOf { cancel, cancelled },
            other => other,
        }
    }

    /// Sends the user's response. A 2xx to INVITE is repeated until [`Self::ack_received_for_2xx`] or
    /// until 64*T1 have gone by ([`GoneReason::NoAck`]). Responses after a final one, and those that
    /// RFC 4320 §4 forbids, are dropped.
    pub fn respond(&mut self, id: ServerId, status: u16, octets: Bytes, now: Now) {
        let out = &mut self.pending.outbox(now);
        self.servers
            .respond(id, status, octets, Role::UserAgent, out);
    }

    /// As [`Self::respond`], for a proxy: a 2xx to INVITE is not repeated, because its sender does that.
    pub fn relay(&mut self, id: ServerId, status: u16, octets: Bytes, now: Now) {
        let out = &mut self.pending.outbox(now);
        self.servers.respond(id, status, octets, Role::Proxy, out);
    }

    /// Ends the repetition of a 2xx to INVITE (RFC 3261 §13.3.1.4).
    pub fn ack_received_for_2xx(&mut self, id: ServerId, now: Now) {
        self.servers.acknowledge_success(id, &mut self.pending.outbox(now));
    }

    /// Sends a request whose topmost Via holds `branch`.
    pub fn request(
        &mut self,
        kind: Kind,
        branch: &str,
        octets: Bytes,
        flow: Flow,
        now: Now,
    ) -> Result<ClientId, Busy> {
        if self.len() >= self.max_transactions {
            return Err(Busy);
        }
        let key = self.keys.client(branch, kind == Kind::Invite);
        let out = &mut self.pending.outbox(now);
        Ok(self
            .clients
            .begin(kind, key, octets, flow, User::Caller, out))
    }

    /// Takes a response.
    pub fn handle_response(&mut self, response: &Message, now: Now) -> ResponseOutcome {
        let out = &mut self.pending.outbox(now);
        let outcome = self.clients.handle_response(response, &self.keys, out);
        if let ResponseOutcome::Deliver(id) = outcome {
            self.send_cancel_if_due(id, now);
        }
        outcome
    }

    /// Cancels an INVITE: at once if a provisional response came, else when one comes. The outcome is
    /// the INVITE's own: its final response, or `TimedOut` 64*T1 after the CANCEL (RFC 3261 §9.1).
    pub fn cancel(&mut self, id: ClientId, now: Now) {
        self.clients.want_cancel(id);
        self.send_cancel_if_due(id, now);
    }

    /// Takes the loss of a connection, or the failure to open one. Clients that wait for a response on
    /// it are told; server transactions will answer over a new connection.
    pub fn handle_flow_lost(&mut self, flow: Flow, now: Now) {
        self.servers.lose_flow(flow);
        self.clients.lose_flow(flow, &mut self.pending.outbox(now));
    }

    /// The next thing to do, in order.
    pub fn poll_event(&mut self) -> Option<TransactionEvent> {
        self.pending.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`]. It may come up with nothing to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pending.timers.next_deadline()
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(record) = self.pending.timers.pop_due(now.instant) {
            match record.owner {
                Owner::Server(id) => self.servers.fire(id, record.timer, &mut self.pending.outbox(now)),
                Owner::Client(id) => self.clients.fire(id, record.timer, &mut self.pending.outbox(now)),
            }
        }
        let (servers, clients) = (&self.servers, &self.clients);
        let live = servers.len() + clients.len();
        self.pending.timers.compact(live, |owner| match owner {
            Owner::Server(id) => servers.is_alive(id),
            Owner::Client(id) => clients.is_alive(id),
        });
    }

    /// A CANCEL does not count against the bound, or a full table could not empty itself; there is at
    /// most one for each INVITE.
    fn send_cancel_if_due(&mut self, id: ClientId, now: Now) {
        let out = &mut self.pending.outbox(now);
        let Some(cancel) = self.clients.take_cancel(id, out) else {
            return;
        };
        let via = cancel.branch_of.top_via().ok();
        let Some(branch) = via.and_then(|via| via.branch) else {
            return;
        };
        let key = self.keys.client(branch, false);
        let (octets, flow) = (cancel.octets, cancel.flow);
        self.clients
            .begin(Kind::NonInvite, key, octets, flow, User::Table, out);
    }
}
