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
use super::outbox::Pending;
use super::server_machine::Role;
use super::servers::Servers;
use super::slab::{MOST_VALUES, SlotId};
use super::timer::{Timer, TimerConfig};
use crate::clock::{Instant, Now};
use crate::limits::reflection::Allowance;
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
    /// Send an answer to an address that only a datagram has named.
    Answer {
        /// Where to.
        flow: Flow,
        /// The message.
        octets: Bytes,
    },
    /// An answer to such an address would have been too much.
    Withheld,
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
    forgotten: u64,
}

impl TransactionTable {
    /// An empty table of `shard` that holds at most `max_transactions`, and never more than eight million.
    pub fn new(config: TimerConfig, max_transactions: usize, shard: u16) -> Self {
        Self {
            // A CANCEL does not count, and there is one for each INVITE at most.
            max_transactions: max_transactions.min(MOST_VALUES / 2),
            shard,
            keys: Keys::default(),
            servers: Servers::new(),
            clients: Clients::new(),
            pending: Pending::new(config.bounded()),
            forgotten: 0,
        }
    }

    /// Transactions alive.
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// Answered transactions that were forgotten early to make room, since the last call.
    pub fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether nothing is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a request belongs to a transaction that is alive.
    pub fn knows(&self, request: &Message) -> bool {
        self.servers.find(self.keys.server(request)).is_some()
    }

    /// A tag that is the same for each retransmission of a request (RFC 3261 §8.2.7).
    pub fn stateless_tag(&self, request: &Message) -> String {
        self.keys.server(request).as_tag()
    }

    /// Memory in use, about: what a transaction costs with its places in the tables and its timers,
    /// and the octets that are kept.
    pub fn footprint(&self) -> usize {
        const TRANSACTION: usize = 512;
        self.len() * TRANSACTION + self.servers.octets() + self.clients.octets()
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
            let length = request.bytes().len();
            let out = &mut self.pending.outbox(now);
            self.servers.absorb(id, length, flow, out);
            return RequestOutcome::Absorbed;
        }
        if !self.has_room(now) {
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

    /// Bounds the octets of all responses, repeated ones included; each retransmission of the request adds
    /// to it. Without a call there is no bound.
    pub fn limit(&mut self, id: ServerId, allowance: Allowance) {
        self.servers.limit(id, allowance);
    }

    /// How much may still be sent.
    pub fn allowance(&self, id: ServerId) -> Allowance {
        self.servers.allowance(id)
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
        self.servers
            .acknowledge_success(id, &mut self.pending.outbox(now));
    }

    /// Sends a request whose topmost Via holds `branch`. An INVITE that got a provisional response waits
    /// for its final one without end: how long is its user's decision, carried out by [`Self::cancel`].
    pub fn request(
        &mut self,
        kind: Kind,
        branch: &str,
        octets: Bytes,
        flow: Flow,
        now: Now,
    ) -> Result<ClientId, Busy> {
        if !self.has_room(now) {
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
            let out = &mut self.pending.outbox(now);
            if record.timer.is_clients() {
                self.clients.fire(record.owner, record.timer, out);
            } else {
                self.servers.fire(record.owner, record.timer, out);
            }
        }
        let (servers, clients) = (&self.servers, &self.clients);
        let live = servers.len() + clients.len();
        let is_alive = |timer: Timer, id| match timer.is_clients() {
            true => clients.is_alive(id),
            false => servers.is_alive(id),
        };
        self.pending.timers.compact(live, is_alive);
    }

    /// Makes room where it can: what has been answered is forgotten before what is new is refused, refusals
    /// before what was accepted. A retransmission of a forgotten request counts as new; the older the answer,
    /// the less likely that is.
    fn has_room(&mut self, now: Now) -> bool {
        while self.len() >= self.max_transactions {
            let out = &mut self.pending.outbox(now);
            if !self.servers.forget_finished(out) {
                return false;
            }
            self.forgotten += 1;
        }
        true
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sip::transport::flow::{ConnectionId, Transport};
    use crate::sip::{reply, wire};

    const BRANCH: &str = "z9hG4bK-0-token";

    /// One table with a clock that stands still until it is moved.
    struct Bench {
        table: TransactionTable,
        now: Now,
    }

    impl Bench {
        fn new() -> Self {
            Self::with_room_for(100)
        }

        fn with_room_for(max_transactions: usize) -> Self {
            Self {
                table: TransactionTable::new(TimerConfig::default(), max_transactions, 0),
                now: Now::default(),
            }
        }

        fn receive(&mut self, request: &Message) -> RequestOutcome {
            self.table.handle_request(request, udp(), self.now)
        }

        fn receive_new(&mut self, request: &Message) -> ServerId {
            match self.receive(request) {
                RequestOutcome::New(id) => id,
                other => panic!("expected a new request, got {other:?}"),
            }
        }

        fn respond(&mut self, id: ServerId, request: &Message, status: u16) {
            let octets = response_text(request, status);
            self.table.respond(id, status, octets, self.now);
        }

        fn ask(&mut self, method: &str, flow: Flow) -> (ClientId, Message) {
            let request = message(method, BRANCH, "");
            let kind = match method {
                "INVITE" => Kind::Invite,
                _ => Kind::NonInvite,
            };
            let octets = request.bytes().clone();
            let id = self.table.request(kind, BRANCH, octets, flow, self.now);
            (id.unwrap(), request)
        }

        fn hear(&mut self, request: &Message, status: u16) -> ResponseOutcome {
            let response = wire::parse(response_text(request, status)).unwrap();
            self.table.handle_response(&response, self.now)
        }

        /// Moves the clock step by step, so that every timer fires at its own time.
        fn wait(&mut self, millis: u64) {
            let end = self.now.plus(Duration::from_millis(millis));
            while let Some(at) = self.table.next_deadline().filter(|at| *at <= end.instant) {
                self.now.instant = at;
                self.table.handle_timeout(self.now);
            }
            self.now = end;
        }

        /// The first words of what was sent since the last look.
        fn sent(&mut self) -> Vec<String> {
            let transmissions = self.events().into_iter().filter_map(|event| match event {
                TransactionEvent::Transmit { octets, .. } => Some(first_words(&octets)),
                _ => None,
            });
            transmissions.collect()
        }

        fn events(&mut self) -> Vec<TransactionEvent> {
            std::iter::from_fn(|| self.table.poll_event()).collect()
        }

        fn news(&mut self) -> Vec<TransactionEvent> {
            let mut events = self.events();
            events.retain(|event| !matches!(event, TransactionEvent::Transmit { .. }));
            events
        }
    }

    fn first_words(octets: &[u8]) -> String {
        let text = String::from_utf8_lossy(octets);
        let line = text.lines().next().unwrap_or_default();
        let line = line.strip_prefix("SIP/2.0 ").unwrap_or(line);
        line.split(' ').next().unwrap_or_default().to_owned()
    }

    fn udp() -> Flow {
        Flow {
            transport: Transport::Udp,
            listener: 0,
            remote: "192.0.2.1:5060".parse().unwrap(),
            connection: None,
        }
    }

    fn tcp(connection: Option<u64>) -> Flow {
        Flow {
            transport: Transport::Tcp,
            listener: 0,
            remote: "192.0.2.1:49152".parse().unwrap(),
            connection: connection.map(|serial| ConnectionId::new(0, serial)),
        }
    }

    fn message(method: &str, branch: &str, to_tag: &str) -> Message {
        let branch = match branch {
            "" => String::new(),
            _ => format!(";branch={branch}"),
        };
        let text = format!(
            "{method} sip:bob@example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.1:5062{branch}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:alice@example.com>;tag=alice\r\n\
             To: <sip:bob@example.com>{to_tag}\r\n\
             Call-ID: call\r\n\
             CSeq: 1 {method}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    fn response_text(request: &Message, status: u16) -> Bytes {
        reply::response(request, status, "Reason", Some("bob")).build()
    }

    #[test]
    fn a_retransmitted_request_is_absorbed_and_answered_again() {
        let mut bench = Bench::new();
        let request = message("MESSAGE", BRANCH, "");
        let id = bench.receive_new(&request);
        assert_eq!(bench.receive(&request), RequestOutcome::Absorbed);
        assert_eq!(bench.sent(), [""; 0]);
        bench.respond(id, &request, 202);
        assert_eq!(bench.receive(&request), RequestOutcome::Absorbed);
        assert_eq!(bench.sent(), ["202", "202"]);
        bench.wait(32_000);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn the_branch_the_sent_by_and_the_method_tell_transactions_apart() {
        let mut bench = Bench::new();
        let first = message("MESSAGE", BRANCH, ";tag=bob");
        bench.receive_new(&first);
        bench.receive_new(&message("MESSAGE", "z9hG4bK-0-other", ";tag=bob"));
        bench.receive_new(&message("INFO", BRANCH, ";tag=bob"));
        let text = String::from_utf8_lossy(first.bytes()).replace(":5062", ":5063");
        bench.receive_new(&wire::parse(Bytes::from(text)).unwrap());
        assert_eq!(bench.table.len(), 4);
    }

    #[test]
    fn a_request_that_comes_by_two_paths_is_merged_unless_the_first_was_challenged() {
        for (status, expected) in [(202, true), (401, false), (407, false)] {
            let mut bench = Bench::new();
            let first = message("MESSAGE", BRANCH, "");
            let id = bench.receive_new(&first);
            bench.respond(id, &first, status);
            let outcome = bench.receive(&message("MESSAGE", "z9hG4bK-0-other", ""));
            let merged = matches!(outcome, RequestOutcome::Merged(_));
            assert_eq!(merged, expected, "{status}");
            bench.wait(32_000);
            assert!(bench.table.is_empty());
        }
    }

    #[test]
    fn a_user_that_is_silent_for_200_ms_makes_the_table_send_100() {
        let mut bench = Bench::new();
        let request = message("INVITE", BRANCH, "");
        bench.receive_new(&request);
        bench.wait(199);
        assert_eq!(bench.sent(), [""; 0]);
        bench.wait(1);
        let events = bench.events();
        let [TransactionEvent::Transmit { octets, .. }] = &events[..] else {
            panic!("one 100: {events:?}");
        };
        let trying = wire::parse(octets.clone()).unwrap();
        assert_eq!(trying.status(), 100);
        assert_eq!(trying.to().unwrap().tag(), None);
        bench.receive(&request);
        assert_eq!(bench.sent(), ["100"]);
    }

    #[test]
    fn a_failed_invite_is_repeated_until_its_ack() {
        let mut bench = Bench::new();
        let request = message("INVITE", BRANCH, "");
        let id = bench.receive_new(&request);
        bench.respond(id, &request, 486);
        bench.wait(3_500);
        assert_eq!(bench.sent(), ["486", "486", "486", "486"]);
        let ack = message("ACK", BRANCH, ";tag=bob");
        assert_eq!(bench.receive(&ack), RequestOutcome::Ack(id));
        assert_eq!(bench.receive(&ack), RequestOutcome::Absorbed);
        bench.wait(5_000);
        assert_eq!(
            bench.events(),
            [TransactionEvent::ServerGone(id, GoneReason::Ended)]
        );
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_failed_invite_without_an_ack_is_given_up_with_timer_h() {
        let mut bench = Bench::new();
        let request = message("INVITE", BRANCH, "");
        let id = bench.receive_new(&request);
        bench.respond(id, &request, 486);
        bench.wait(32_000);
        assert_eq!(
            bench.news(),
            [TransactionEvent::ServerGone(id, GoneReason::NoAck)]
        );
    }

    #[test]
    fn our_own_2xx_is_repeated_over_any_transport_until_its_ack() {
        for flow in [udp(), tcp(Some(1))] {
            let mut bench = Bench::new();
            let request = message("INVITE", BRANCH, "");
            let RequestOutcome::New(id) = bench.table.handle_request(&request, flow, bench.now)
            else {
                panic!("a new request");
            };
            bench.respond(id, &request, 200);
            bench.wait(3_500);
            assert_eq!(bench.sent(), ["200", "200", "200", "200"]);
            let ack = message("ACK", "z9hG4bK-0-ack", ";tag=bob");
            assert_eq!(bench.receive(&ack), RequestOutcome::AckTo2xx);
            bench.table.ack_received_for_2xx(id, bench.now);
            bench.wait(60_000);
            assert_eq!(bench.sent(), [""; 0]);
            assert!(bench.table.is_empty());
        }
    }

    #[test]
    fn our_own_2xx_without_an_ack_is_given_up_after_64_t1() {
        let mut bench = Bench::new();
        let request = message("INVITE", BRANCH, "");
        let id = bench.receive_new(&request);
        bench.respond(id, &request, 200);
        bench.wait(32_000);
        assert_eq!(
            bench.news(),
            [TransactionEvent::ServerGone(id, GoneReason::NoAck)]
        );
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_relayed_2xx_is_sent_as_often_as_it_is_relayed() {
        let mut bench = Bench::new();
        let request = message("INVITE", BRANCH, "");
        let id = bench.receive_new(&request);
        for _ in 0..2 {
            let octets = response_text(&request, 200);
            bench.table.relay(id, 200, octets, bench.now);
        }
        bench.wait(10_000);
        assert_eq!(bench.sent(), ["200", "200"]);
        assert_eq!(bench.receive(&request), RequestOutcome::Absorbed);
        assert_eq!(bench.sent(), [""; 0]);
    }

    #[test]
    fn a_non_invite_request_gets_no_provisional_response_over_udp_before_t2() {
        let mut bench = Bench::new();
        let request = message("MESSAGE", BRANCH, "");
        let id = bench.receive_new(&request);
        bench.respond(id, &request, 100);
        bench.respond(id, &request, 180);
        assert_eq!(bench.sent(), [""; 0]);
        bench.wait(3_500);
        assert_eq!(bench.sent(), ["100"]);
        bench.respond(id, &request, 180);
        assert_eq!(bench.sent(), [""; 0]);
    }

    #[test]
    fn a_non_invite_request_never_gets_a_408_nor_a_late_final_response() {
        let mut bench = Bench::new();
        let request = message("MESSAGE", BRANCH, "");
        let id = bench.receive_new(&request);
        bench.respond(id, &request, 408);
        bench.wait(32_000);
        assert_eq!(
            bench.news(),
            [TransactionEvent::ServerGone(id, GoneReason::Unanswered)]
        );
        bench.respond(id, &request, 200);
        assert_eq!(bench.events(), []);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_reliable_transport_lets_go_of_a_finished_request_at_once() {
        let mut bench = Bench::new();
        let request = message("MESSAGE", BRANCH, "");
        let RequestOutcome::New(id) = bench
            .table
            .handle_request(&request, tcp(Some(1)), bench.now)
        else {
            panic!("a new request");
        };
        bench.respond(id, &request, 200);
        assert!(bench.table.is_empty());
        assert_eq!(bench.sent(), ["200"]);
    }

    #[test]
    fn a_cancel_finds_its_invite() {
        let mut bench = Bench::new();
        let invite = bench.receive_new(&message("INVITE", BRANCH, ""));
        let outcome = bench.receive(&message("CANCEL", BRANCH, ""));
        let RequestOutcome::CancelOf { cancelled, .. } = outcome else {
            panic!("a CANCEL: {outcome:?}");
        };
        assert_eq!(cancelled, Some(invite));
        let outcome = bench.receive(&message("CANCEL", "z9hG4bK-0-other", ""));
        let RequestOutcome::CancelOf { cancelled, .. } = outcome else {
            panic!("a CANCEL: {outcome:?}");
        };
        assert_eq!(cancelled, None);
    }

    #[test]
    fn the_same_request_by_another_path_is_merged() {
        let mut bench = Bench::new();
        let request = message("INVITE", BRANCH, "");
        bench.receive_new(&request);
        let again = message("INVITE", "z9hG4bK-0-fork", "");
        let RequestOutcome::Merged(second) = bench.receive(&again) else {
            panic!("the same From tag, Call-ID and CSeq");
        };
        bench.respond(second, &again, 482);
        assert_eq!(bench.sent(), ["482"]);
        bench.receive_new(&message("INVITE", "z9hG4bK-0-inside", ";tag=bob"));
    }

    #[test]
    fn an_rfc_2543_invite_is_matched_by_its_fields() {
        let mut bench = Bench::new();
        let invite = message("INVITE", "", "");
        let id = bench.receive_new(&invite);
        assert_eq!(bench.receive(&invite), RequestOutcome::Absorbed);
        bench.respond(id, &invite, 486);
        let stranger = message("ACK", "", ";tag=mallory");
        assert_eq!(bench.receive(&stranger), RequestOutcome::AckTo2xx);
        let ack = message("ACK", "", ";tag=bob");
        assert_eq!(bench.receive(&ack), RequestOutcome::Ack(id));
    }

    #[test]
    fn an_rfc_2543_ack_to_a_2xx_goes_to_the_user() {
        let mut bench = Bench::new();
        let invite = message("INVITE", "", "");
        let id = bench.receive_new(&invite);
        bench.respond(id, &invite, 200);
        let ack = message("ACK", "", ";tag=bob");
        assert_eq!(bench.receive(&ack), RequestOutcome::AckTo2xx);
    }

    #[test]
    fn a_full_table_says_busy_and_still_absorbs() {
        let mut bench = Bench::with_room_for(1);
        let request = message("MESSAGE", BRANCH, "");
        bench.receive_new(&request);
        let other = message("MESSAGE", "z9hG4bK-0-other", "");
        assert_eq!(bench.receive(&other), RequestOutcome::Busy);
        assert_eq!(bench.receive(&request), RequestOutcome::Absorbed);
        let octets = request.bytes().clone();
        let outcome =
            bench
                .table
                .request(Kind::NonInvite, "z9hG4bK-0-out", octets, udp(), bench.now);
        assert_eq!(outcome, Err(Busy));
    }

    #[test]
    fn in_a_full_table_what_was_answered_makes_room_the_oldest_first() {
        let mut bench = Bench::with_room_for(2);
        let requests = ["z9hG4bK-0-1", "z9hG4bK-0-2", "z9hG4bK-0-3"];
        let requests = requests.map(|branch| message("MESSAGE", branch, &format!(";tag={branch}")));
        for request in &requests {
            let id = bench.receive_new(request);
            bench.respond(id, request, 200);
        }
        assert_eq!(bench.table.len(), 2);
        assert_eq!(bench.table.take_forgotten(), 1);
        assert_eq!(bench.receive(&requests[1]), RequestOutcome::Absorbed);
        assert_eq!(bench.receive(&requests[2]), RequestOutcome::Absorbed);
        bench.receive_new(&requests[0]);
    }

    #[test]
    fn in_a_full_table_refusals_make_room_before_what_was_accepted() {
        let mut bench = Bench::with_room_for(3);
        let answers = [
            ("z9hG4bK-0-1", 202),
            ("z9hG4bK-0-2", 404),
            ("z9hG4bK-0-3", 202),
            ("z9hG4bK-0-4", 401),
            ("z9hG4bK-0-5", 200),
            ("z9hG4bK-0-6", 200),
        ];
        let requests = answers.map(|(branch, status)| {
            let request = message("MESSAGE", branch, &format!(";tag={branch}"));
            let id = bench.receive_new(&request);
            bench.respond(id, &request, status);
            request
        });
        assert_eq!(bench.table.take_forgotten(), 3);
        for absorbed in [2, 4, 5] {
            let outcome = bench.receive(&requests[absorbed]);
            assert_eq!(outcome, RequestOutcome::Absorbed, "{absorbed}");
        }
    }

    #[test]
    fn a_request_is_repeated_with_growing_intervals_and_times_out() {
        let mut bench = Bench::new();
        let (id, _) = bench.ask("MESSAGE", udp());
        bench.wait(32_000);
        let events = bench.events();
        assert_eq!(events.len(), 12, "11 transmissions and the timeout");
        assert_eq!(events.last(), Some(&TransactionEvent::TimedOut(id)));
        assert!(bench.table.is_empty());
    }

    #[test]
    fn an_invite_is_sent_seven_times_at_most() {
        let mut bench = Bench::new();
        let (id, _) = bench.ask("INVITE", udp());
        bench.wait(32_000);
        let events = bench.events();
        assert_eq!(events.len(), 8, "seven transmissions and the timeout");
        assert_eq!(events.last(), Some(&TransactionEvent::TimedOut(id)));
    }

    #[test]
    fn a_failed_invite_is_acknowledged_by_the_table() {
        let mut bench = Bench::new();
        let (id, request) = bench.ask("INVITE", udp());
        assert_eq!(bench.hear(&request, 180), ResponseOutcome::Deliver(id));
        assert_eq!(bench.hear(&request, 486), ResponseOutcome::Deliver(id));
        assert_eq!(bench.hear(&request, 486), ResponseOutcome::Absorbed);
        assert_eq!(bench.sent(), ["INVITE", "ACK", "ACK"]);
        bench.wait(32_000);
        assert!(bench.table.is_empty());
        assert_eq!(bench.hear(&request, 486), ResponseOutcome::Unmatched);
    }

    #[test]
    fn every_2xx_to_an_invite_is_delivered_and_none_acknowledged() {
        let mut bench = Bench::new();
        let (id, request) = bench.ask("INVITE", udp());
        for _ in 0..3 {
            assert_eq!(bench.hear(&request, 200), ResponseOutcome::Deliver(id));
        }
        assert_eq!(bench.sent(), ["INVITE"]);
        bench.wait(32_000);
        assert_eq!(bench.hear(&request, 200), ResponseOutcome::Unmatched);
    }

    #[test]
    fn a_response_with_another_method_belongs_to_nobody() {
        let mut bench = Bench::new();
        bench.ask("MESSAGE", udp());
        let other = message("INFO", BRANCH, "");
        assert_eq!(bench.hear(&other, 200), ResponseOutcome::Unmatched);
        let invite = message("INVITE", BRANCH, "");
        assert_eq!(bench.hear(&invite, 200), ResponseOutcome::Unmatched);
    }

    #[test]
    fn a_cancel_waits_for_a_provisional_response() {
        let mut bench = Bench::new();
        let (id, request) = bench.ask("INVITE", udp());
        bench.table.cancel(id, bench.now);
        bench.table.cancel(id, bench.now);
        assert_eq!(bench.sent(), ["INVITE"]);
        bench.hear(&request, 180);
        bench.hear(&request, 180);
        assert_eq!(bench.sent(), ["CANCEL"]);
        let cancel = message("CANCEL", BRANCH, "");
        assert_eq!(bench.hear(&cancel, 200), ResponseOutcome::Absorbed);
        assert_eq!(bench.hear(&request, 487), ResponseOutcome::Deliver(id));
        bench.wait(32_000);
        assert_eq!(bench.sent(), ["ACK"]);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_cancelled_invite_that_stays_silent_times_out() {
        let mut bench = Bench::new();
        let (id, request) = bench.ask("INVITE", tcp(Some(1)));
        bench.hear(&request, 180);
        bench.table.cancel(id, bench.now);
        bench.wait(32_000);
        assert_eq!(bench.news(), [TransactionEvent::TimedOut(id)]);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_request_that_is_no_invite_is_not_cancelled() {
        let mut bench = Bench::new();
        let (id, request) = bench.ask("MESSAGE", udp());
        bench.hear(&request, 100);
        bench.table.cancel(id, bench.now);
        assert_eq!(bench.sent(), ["MESSAGE"]);
    }

    #[test]
    fn the_loss_of_a_connection_is_told_to_those_who_wait_on_it() {
        let mut bench = Bench::new();
        let (id, request) = bench.ask("INVITE", tcp(Some(1)));
        bench.hear(&request, 180);
        bench.table.handle_flow_lost(tcp(Some(2)), bench.now);
        assert_eq!(bench.news(), []);
        bench.table.handle_flow_lost(tcp(Some(1)), bench.now);
        assert_eq!(bench.news(), [TransactionEvent::Unreachable(id)]);
        assert!(bench.table.is_empty());
    }

    #[test]
    fn a_connection_that_cannot_be_opened_is_told() {
        let mut bench = Bench::new();
        let (id, _) = bench.ask("MESSAGE", tcp(None));
        bench.table.handle_flow_lost(tcp(None), bench.now);
        assert_eq!(bench.news(), [TransactionEvent::Unreachable(id)]);
    }

    #[test]
    fn a_response_goes_over_a_new_connection_when_the_old_one_is_lost() {
        let mut bench = Bench::new();
        let request = message("MESSAGE", BRANCH, "");
        let RequestOutcome::New(id) = bench
            .table
            .handle_request(&request, tcp(Some(1)), bench.now)
        else {
            panic!("a new request");
        };
        bench.table.handle_flow_lost(tcp(Some(1)), bench.now);
        bench.respond(id, &request, 200);
        let events = bench.events();
        let TransactionEvent::Transmit { flow, .. } = &events[0] else {
            panic!("the response: {events:?}");
        };
        assert_eq!(flow.connection, None);
        assert_eq!(flow.remote, "192.0.2.1:5062".parse().unwrap());
    }

    #[test]
    fn a_repeated_request_over_a_new_connection_is_answered_there() {
        let mut bench = Bench::new();
        let request = message("MESSAGE", BRANCH, "");
        let RequestOutcome::New(id) = bench
            .table
            .handle_request(&request, tcp(Some(1)), bench.now)
        else {
            panic!("a new request");
        };
        bench.table.handle_flow_lost(tcp(Some(1)), bench.now);
        let again = bench
            .table
            .handle_request(&request, tcp(Some(2)), bench.now);
        assert_eq!(again, RequestOutcome::Absorbed);
        bench.respond(id, &request, 200);
        let octets = response_text(&request, 200);
        let flow = tcp(Some(2));
        assert_eq!(
            bench.events()[0],
            TransactionEvent::Transmit { flow, octets }
        );
    }

    #[test]
    fn deadlines_of_finished_transactions_are_forgotten() {
        let mut bench = Bench::new();
        for index in 0..2_000 {
            let request = message("MESSAGE", &format!("z9hG4bK-0-{index}"), ";tag=bob");
            let flow = tcp(Some(1));
            let RequestOutcome::New(id) = bench.table.handle_request(&request, flow, bench.now)
            else {
                panic!("a new request");
            };
            bench.respond(id, &request, 200);
        }
        bench.table.handle_timeout(bench.now);
        assert_eq!(bench.table.next_deadline(), None);
    }
}
