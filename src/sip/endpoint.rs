//! The user agent core of a shard: transactions, who waits for which answer, and which transport a
//! request takes. Pure; the shell performs what [`Endpoint::poll_event`] says.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Instant, Now};
use crate::limits::reflection::Allowance;
use crate::sip::message::{Message, Method};
use crate::sip::transaction::action::GoneReason;
use crate::sip::transaction::branch;
use crate::sip::transaction::table::{
    ClientId, Kind, RequestOutcome, ResponseOutcome, ServerId, TransactionEvent, TransactionTable,
};
use crate::sip::transport::flow::{Flow, Transport};
use crate::token::Tokens;

/// Over UDP a longer request is first tried over TCP (RFC 3261 §18.1.1).
const CONGESTION_SAFE: usize = 1300;
/// A longer request fits into no datagram: over UDP it cannot be sent at all.
const LARGEST_DATAGRAM: usize = 65_000;
/// How long a peer that refused TCP is not tried again.
const TCP_REFUSED_FOR: Duration = Duration::from_secs(300);
/// Peers remembered as refusing TCP.
const TCP_REFUSED_MOST: usize = 10_000;
/// An INVITE's asker is remembered for retransmitted 2xx (RFC 6026 Timer M).
const LATE_ANSWERS: Duration = Duration::from_secs(32);

/// What one who waits for an answer costs in memory, beside the request that may be sent again.
const ASKER: usize = 384;

/// One of our SIP listeners as peers see it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// By what.
    pub transport: Transport,
    /// Where it is bound; its family decides which peers it can reach.
    pub bound: SocketAddr,
    /// `host:port` for Via, Contact and Record-Route.
    pub advertise: String,
}

/// What happened to the requests and answers of the users of this endpoint.
#[derive(Debug)]
pub enum EndpointEvent<U> {
    /// Send this.
    Transmit(Flow, Bytes),
    /// Send this answer to an address that only a datagram has named.
    Answer(Flow, Bytes),
    /// An answer to such an address would have been too much.
    Withheld,
    /// A response to a request, provisional or final, and how it came.
    Response(U, Message, Flow),
    /// No final answer came in time.
    TimedOut(U),
    /// The peer cannot be reached.
    Unreachable(U),
    /// A server transaction ended.
    ServerGone(ServerId, GoneReason),
}

/// A request was not sent: no room for its transaction, or no transport that takes its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

#[derive(Debug)]
struct Asker<U> {
    usage: U,
    fallback: Option<Fallback>,
    /// The transaction before it fell back, by which its asker knows it.
    known_as: Option<ClientId>,
}

#[derive(Debug)]
struct Fallback {
    kind: Kind,
    flow: Flow,
    octets: Bytes,
    branch: String,
}

/// The Via line of a request to be sent: the request must begin with it, right behind its first line.
#[derive(Clone, Debug)]
pub struct Via {
    /// The header field value.
    pub value: String,
    /// Its branch.
    pub branch: String,
}

/// See the module's text. `U` tells who asked.
#[derive(Debug)]
pub struct Endpoint<U> {
    shard: u16,
    listeners: Vec<Listener>,
    transactions: TransactionTable,
    askers: HashMap<ClientId, Asker<U>, foldhash::fast::RandomState>,
    /// Transactions that fell back, and what goes on in their place.
    fallen_back: HashMap<ClientId, ClientId, foldhash::fast::RandomState>,
    retiring: VecDeque<(Instant, ClientId)>,
    tcp_refused: HashMap<(IpAddr, u16), Instant, foldhash::fast::RandomState>,
    events: VecDeque<EndpointEvent<U>>,
}

impl<U: Clone> Endpoint<U> {
    /// An endpoint with at least one listener.
    pub fn new(shard: u16, listeners: Vec<Listener>, transactions: TransactionTable) -> Self {
        Self {
            shard,
            listeners,
            transactions,
            askers: HashMap::default(),
            fallen_back: HashMap::default(),
            retiring: VecDeque::new(),
            tcp_refused: HashMap::default(),
            events: VecDeque::new(),
        }
    }

    /// `host:port` that the peer behind `flow` knows us by.
    pub fn advertised(&self, flow: &Flow) -> &str {
        let index = usize::from(flow.listener).min(self.listeners.len().saturating_sub(1));
        self.listeners
            .get(index)
            .map_or("", |listener| &listener.advertise)
    }

    /// `host:port` of the first listener: the name of this server among others.
    pub fn own_name(&self) -> &str {
        self.listeners
            .first()
            .map_or("", |listener| &listener.advertise)
    }

    /// A flow to an address, by the first listener that can reach it: over `transport` if given.
    pub fn flow_to(&self, remote: SocketAddr, transport: Option<Transport>) -> Option<Flow> {
        let fits = |listener: &&(usize, &Listener)| {
            listener.1.bound.is_ipv4() == remote.is_ipv4()
                && transport.is_none_or(|wanted| wanted == listener.1.transport)
        };
        let listeners: Vec<(usize, &Listener)> = self.listeners.iter().enumerate().collect();
        let (index, listener) = listeners.iter().find(fits)?;
        Some(Flow {
            transport: listener.transport,
            listener: u16::try_from(*index).ok()?,
            remote,
            connection: None,
        })
    }

    /// A request arrived: absorbs retransmissions and the ACKs of refusals.
    /// It was `came` octets long before its Via was stamped.
    pub fn handle_request(
        &mut self,
        request: &Message,
        came: usize,
        flow: Flow,
        now: Now,
    ) -> RequestOutcome {
        let outcome = self.transactions.handle_request(request, flow, now);
        if let RequestOutcome::New(server)
        | RequestOutcome::Merged(server)
        | RequestOutcome::CancelOf { cancel: server, .. } = outcome
        {
            self.transactions
                .limit(server, allowance(&flow, request, came));
        }
        self.collect(now);
        outcome
    }

    /// Whoever sent this request is known to be there.
    pub fn trust(&mut self, server: ServerId) {
        self.transactions.limit(server, Allowance::Unbounded);
    }

    /// How much may still be sent to who sent this request.
    pub fn allowance(&self, server: ServerId) -> Allowance {
        self.transactions.allowance(server)
    }

    /// Answers a request that gets no transaction.
    pub fn answer_stateless(&mut self, allowance: Allowance, octets: Bytes, flow: Flow) {
        self.events.push_back(match allowance {
            Allowance::Unbounded => EndpointEvent::Transmit(flow, octets),
            bound if bound.fits(octets.len()) => EndpointEvent::Answer(flow, octets),
            Allowance::Octets { .. } => EndpointEvent::Withheld,
        });
    }

    /// A response arrived.
    pub fn handle_response(&mut self, response: Message, flow: Flow, now: Now) {
        let outcome = self.transactions.handle_response(&response, now);
        self.collect(now);
        let ResponseOutcome::Deliver(client) = outcome else {
            return;
        };
        let Some(asker) = self.askers.get_mut(&client) else {
            return;
        };
        asker.fallback = None;
        let usage = asker.usage.clone();
        // Of other methods nothing comes after the final response: its transaction is over.
        let is_invite = response.method() == Method::Invite;
        if response.status() >= 200 && is_invite {
            let until = now.instant + LATE_ANSWERS;
            self.retiring.push_back((until, client));
        } else if response.status() >= 200 {
            self.forget_asker(client);
        }
        self.events
            .push_back(EndpointEvent::Response(usage, response, flow));
    }

    /// Answers a request; provisional or final.
    pub fn respond(&mut self, server: ServerId, status: u16, octets: Bytes, now: Now) {
        self.transactions.respond(server, status, octets, now);
        self.collect(now);
    }

    /// The ACK of our 2xx arrived: stop sending it again.
    pub fn acknowledged(&mut self, server: ServerId, now: Now) {
        self.transactions.ack_received_for_2xx(server, now);
        self.collect(now);
    }

    /// Passes on a response of the next hop.
    pub fn relay(&mut self, server: ServerId, status: u16, octets: Bytes, now: Now) {
        self.transactions.relay(server, status, octets, now);
        self.collect(now);
    }

    /// The Via of a request that will go over `flow`. The loop hash of a forwarded request goes into its
    /// branch (RFC 5393 §4.2).
    pub fn via(&self, flow: &Flow, loop_hash: Option<u32>, tokens: &mut Tokens) -> Via {
        let branch = match loop_hash {
            Some(hash) => branch::with_loop_hash(self.shard, tokens, hash),
            None => branch::fresh(self.shard, tokens),
        };
        let value = self.via_value(flow, &branch);
        Via { value, branch }
    }

    fn via_value(&self, flow: &Flow, branch: &str) -> String {
        let (transport, own) = (flow.transport.via_token(), self.advertised(flow));
        [
            "SIP/2.0/", transport, " ", own, ";branch=", branch, ";rport",
        ]
        .concat()
    }

    /// Sends a request of a proxied transaction, whose first header field is `via`, over just this flow.
    pub fn send_as_is(
        &mut self,
        kind: Kind,
        via: &Via,
        octets: Bytes,
        flow: Flow,
        usage: U,
        now: Now,
    ) -> Result<ClientId, Busy> {
        self.start(kind, &via.branch, octets, flow, usage, None, now)
    }

    /// Sends a request of our own, whose first header field is `via`; a long one over TCP where the
    /// peer takes it.
    pub fn send(
        &mut self,
        kind: Kind,
        via: Via,
        octets: Bytes,
        flow: Flow,
        usage: U,
        now: Now,
    ) -> Result<ClientId, Busy> {
        match self.tcp_instead(&flow, octets.len(), now) {
            Some(tcp) => {
                let fallback = Fallback {
                    kind,
                    flow,
                    octets: octets.clone(),
                    branch: via.branch.clone(),
                };
                let (via, octets) = self.change_via(&via, &octets, &tcp);
                self.start(kind, &via.branch, octets, tcp, usage, Some(fallback), now)
            }
            None if flow.transport == Transport::Udp && octets.len() > LARGEST_DATAGRAM => {
                Err(Busy)
            }
            None => self.start(kind, &via.branch, octets, flow, usage, None, now),
        }
    }

    /// Sends what has no transaction: the ACK of a 2xx.
    pub fn send_ack(&mut self, octets: Bytes, flow: Flow) {
        self.events.push_back(EndpointEvent::Transmit(flow, octets));
    }

    /// Cancels an INVITE; its final answer still comes.
    pub fn cancel(&mut self, client: ClientId, now: Now) {
        let present = self.fallen_back.get(&client).copied();
        let client = present.unwrap_or(client);
        if let Some(asker) = self.askers.get_mut(&client) {
            // What is taken back is not tried by another way.
            asker.fallback = None;
        }
        self.transactions.cancel(client, now);
        self.collect(now);
    }

    /// A TCP flow was lost or could not be opened.
    pub fn handle_flow_lost(&mut self, flow: Flow, now: Now) {
        self.transactions.handle_flow_lost(flow, now);
        self.collect(now);
    }

    /// What happened or must be sent.
    pub fn poll_event(&mut self) -> Option<EndpointEvent<U>> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let retire = self.retiring.front().map(|(at, _)| *at);
        let transactions = self.transactions.next_deadline();
        retire.into_iter().chain(transactions).min()
    }

    /// Retransmits, gives up, forgets.
    pub fn handle_timeout(&mut self, now: Now) {
        while self
            .retiring
            .front()
            .is_some_and(|(at, _)| *at <= now.instant)
        {
            if let Some((_, client)) = self.retiring.pop_front() {
                self.forget_asker(client);
            }
        }
        self.tcp_refused.retain(|_, until| *until > now.instant);
        self.transactions.handle_timeout(now);
        self.collect(now);
    }

    /// Requests of ours whose asker is remembered.
    pub fn askers(&self) -> usize {
        self.askers.len()
    }

    /// Whether a request is a retransmission of one that is being served.
    pub fn knows(&self, request: &Message) -> bool {
        self.transactions.knows(request)
    }

    /// The To tag of an answer that is given without a transaction.
    pub fn stateless_tag(&self, request: &Message) -> String {
        self.transactions.stateless_tag(request)
    }

    /// Memory in use, about.
    pub fn footprint(&self) -> usize {
        self.transactions.footprint() + self.askers.len() * ASKER
    }

    /// Peers remembered as refusing TCP.
    pub fn peers_without_tcp(&self) -> usize {
        self.tcp_refused.len()
    }

    /// Answered transactions that made room for new ones, since the last call.
    pub fn take_forgotten_transactions(&mut self) -> u64 {
        self.transactions.take_forgotten()
    }

    /// Live transactions.
    pub fn transactions(&self) -> usize {
        self.transactions.len()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one private place where they meet"
    )]
    fn start(
        &mut self,
        kind: Kind,
        branch: &str,
        octets: Bytes,
        flow: Flow,
        usage: U,
        fallback: Option<Fallback>,
        now: Now,
    ) -> Result<ClientId, Busy> {
        let started = self.transactions.request(kind, branch, octets, flow, now);
        let client = started.map_err(|_| Busy)?;
        let known_as = None;
        let asker = Asker {
            usage,
            fallback,
            known_as,
        };
        self.askers.insert(client, asker);
        self.collect(now);
        Ok(client)
    }

    fn tcp_instead(&self, flow: &Flow, length: usize, now: Now) -> Option<Flow> {
        if flow.transport != Transport::Udp || length <= CONGESTION_SAFE {
            return None;
        }
        let remote = (flow.remote.ip(), flow.remote.port());
        let refused = self.tcp_refused.get(&remote);
        if refused.is_some_and(|until| *until > now.instant) {
            return None;
        }
        self.flow_to(flow.remote, Some(Transport::Tcp))
    }

    /// The same request with another transport, and so another branch, in its Via.
    fn change_via(&self, via: &Via, octets: &Bytes, flow: &Flow) -> (Via, Bytes) {
        let branch = format!("{}T", via.branch);
        let value = self.via_value(flow, &branch);
        let octets = replace_first(octets, via.value.as_bytes(), value.as_bytes());
        (Via { value, branch }, octets)
    }

    fn collect(&mut self, now: Now) {
        while let Some(event) = self.transactions.poll_event() {
            match event {
                TransactionEvent::Transmit { flow, octets } => {
                    self.events.push_back(EndpointEvent::Transmit(flow, octets));
                }
                TransactionEvent::Answer { flow, octets } => {
                    self.events.push_back(EndpointEvent::Answer(flow, octets));
                }
                TransactionEvent::Withheld => self.events.push_back(EndpointEvent::Withheld),
                TransactionEvent::ServerGone(server, reason) => {
                    self.events
                        .push_back(EndpointEvent::ServerGone(server, reason));
                }
                TransactionEvent::TimedOut(client) => {
                    if let Some(asker) = self.forget_asker(client) {
                        self.events.push_back(EndpointEvent::TimedOut(asker.usage));
                    }
                }
                TransactionEvent::Unreachable(client) => self.fall_back(client, now),
            }
        }
    }

    fn forget_asker(&mut self, client: ClientId) -> Option<Asker<U>> {
        let asker = self.askers.remove(&client)?;
        if let Some(known_as) = asker.known_as {
            self.fallen_back.remove(&known_as);
        }
        Some(asker)
    }

    /// RFC 3261 §18.1.1: when TCP cannot be had for a long request, UDP is tried after all.
    fn fall_back(&mut self, client: ClientId, now: Now) {
        let Some(asker) = self.forget_asker(client) else {
            return;
        };
        let Some(fallback) = asker.fallback else {
            self.events
                .push_back(EndpointEvent::Unreachable(asker.usage));
            return;
        };
        let Fallback {
            kind,
            flow,
            octets,
            branch,
        } = fallback;
        if self.tcp_refused.len() < TCP_REFUSED_MOST {
            let remote = (flow.remote.ip(), flow.remote.port());
            self.tcp_refused
                .insert(remote, now.instant + TCP_REFUSED_FOR);
        }
        let usage = asker.usage;
        let fits = octets.len() <= LARGEST_DATAGRAM;
        let started = match fits {
            true => self.start(kind, &branch, octets, flow, usage.clone(), None, now),
            false => Err(Busy),
        };
        let Ok(instead) = started else {
            return self.events.push_back(EndpointEvent::Unreachable(usage));
        };
        if let Some(asker) = self.askers.get_mut(&instead) {
            asker.known_as = Some(client);
            self.fallen_back.insert(client, instead);
        }
    }
}

/// What may be sent for a request before anybody has proved who he is.
pub fn allowance(flow: &Flow, request: &Message, came: usize) -> Allowance {
    match flow.transport {
        Transport::Tcp => Allowance::Unbounded,
        Transport::Udp => Allowance::of(came, request.bytes().len()),
    }
}

fn replace_first(octets: &Bytes, old: &[u8], new: &[u8]) -> Bytes {
    let Some(at) = memchr::memmem::find(octets, old) else {
        return octets.clone();
    };
    let mut out = Vec::with_capacity(octets.len() + new.len());
    out.extend_from_slice(&octets[..at]);
    out.extend_from_slice(new);
    out.extend_from_slice(&octets[at + old.len()..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::timer::TimerConfig;

    struct Bench {
        endpoint: Endpoint<&'static str>,
        tokens: Tokens,
        now: Now,
    }

    impl Bench {
        fn new() -> Self {
            let listener = |transport| Listener {
                transport,
                bound: "192.0.2.1:5060".parse().expect("an address"),
                advertise: "192.0.2.1:5060".to_owned(),
            };
            let listeners = vec![listener(Transport::Udp), listener(Transport::Tcp)];
            let table = TransactionTable::new(TimerConfig::default(), 100, 0);
            Self {
                endpoint: Endpoint::new(0, listeners, table),
                tokens: Tokens::from_seed(1),
                now: Now::default(),
            }
        }

        /// Sends a MESSAGE with so long a body to a device known by UDP.
        fn sends(&mut self, body: usize) {
            self.asks("MESSAGE", Kind::NonInvite, body);
        }

        /// The same with another method; the request without its body comes back.
        fn asks(&mut self, method: &str, kind: Kind, body: usize) -> (ClientId, String) {
            let remote = "192.0.2.9:5060".parse().expect("an address");
            let flow = self.endpoint.flow_to(remote, Some(Transport::Udp));
            let flow = flow.expect("a listener fits");
            let via = self.endpoint.via(&flow, None, &mut self.tokens);
            let head = format!(
                "{method} sip:bob@192.0.2.9 SIP/2.0\r\nVia: {}\r\nFrom: <sip:us@im.test>;tag=1\r\n\
                 To: <sip:bob@im.test>\r\nCall-ID: call\r\nCSeq: 1 {method}\r\n\r\n",
                via.value
            );
            let text = format!("{head}{}", "x".repeat(body));
            let sent = self
                .endpoint
                .send(kind, via, text.into(), flow, "bob", self.now);
            (sent.expect("there is room"), head)
        }

        /// What was sent by which transport, and the flow of the last.
        fn sent(&mut self) -> (Vec<Transport>, Option<Flow>) {
            let mut transports = Vec::new();
            let mut last = None;
            while let Some(event) = self.endpoint.poll_event() {
                if let EndpointEvent::Transmit(flow, octets) = event {
                    let named = format!("Via: SIP/2.0/{} ", flow.transport.via_token());
                    let text = String::from_utf8_lossy(&octets).into_owned();
                    assert!(text.contains(&named), "the Via says how it goes: {text}");
                    transports.push(flow.transport);
                    last = Some(flow);
                }
            }
            (transports, last)
        }
    }

    #[test]
    fn a_long_request_goes_over_tcp_and_over_udp_once_tcp_was_refused() {
        let mut bench = Bench::new();
        bench.sends(100);
        assert_eq!(bench.sent().0, [Transport::Udp]);
        bench.sends(2_000);
        let (sent, flow) = bench.sent();
        assert_eq!(sent, [Transport::Tcp]);
        let now = bench.now;
        bench.endpoint.handle_flow_lost(flow.expect("sent"), now);
        assert_eq!(bench.sent().0, [Transport::Udp]);
        bench.sends(2_000);
        assert_eq!(bench.sent().0, [Transport::Udp], "it is remembered");
        bench.now = now.plus(TCP_REFUSED_FOR);
        bench.endpoint.handle_timeout(bench.now);
        bench.sent();
        bench.sends(2_000);
        assert_eq!(bench.sent().0, [Transport::Tcp], "and tried again later");
    }

    #[test]
    fn a_call_that_went_over_udp_after_all_can_be_cancelled() {
        let mut bench = Bench::new();
        let (client, head) = bench.asks("INVITE", Kind::Invite, 2_000);
        let (_, flow) = bench.sent();
        let now = bench.now;
        bench.endpoint.handle_flow_lost(flow.expect("sent"), now);
        let (sent, flow) = bench.sent();
        assert_eq!(sent, [Transport::Udp]);
        let invite = crate::sip::wire::parse(head.into()).expect("a request");
        let ringing = crate::sip::reply::response(&invite, 180, "Ringing", Some("2")).build();
        let ringing = crate::sip::wire::parse(ringing).expect("a response");
        bench
            .endpoint
            .handle_response(ringing, flow.expect("sent"), now);
        bench.sent();
        bench.endpoint.cancel(client, now);
        assert_eq!(bench.sent().0, [Transport::Udp], "the CANCEL");
        bench.now = now.plus(Duration::from_secs(32));
        bench.endpoint.handle_timeout(bench.now);
        let events = std::iter::from_fn(|| bench.endpoint.poll_event());
        let is_over = |event| matches!(event, EndpointEvent::TimedOut("bob"));
        assert!(events.into_iter().any(is_over));
        assert!(bench.endpoint.askers.is_empty() && bench.endpoint.fallen_back.is_empty());
    }

    #[test]
    fn a_call_that_was_cancelled_is_not_tried_over_udp() {
        let mut bench = Bench::new();
        let (client, _) = bench.asks("INVITE", Kind::Invite, 2_000);
        let (_, flow) = bench.sent();
        let now = bench.now;
        bench.endpoint.cancel(client, now);
        bench.endpoint.handle_flow_lost(flow.expect("sent"), now);
        let first = bench.endpoint.poll_event();
        assert!(matches!(first, Some(EndpointEvent::Unreachable("bob"))));
        assert!(bench.endpoint.poll_event().is_none());
    }

    #[test]
    fn a_connection_that_merely_ends_is_no_refusal() {
        let mut bench = Bench::new();
        let remote = "192.0.2.9:5060".parse().expect("an address");
        let flow = bench.endpoint.flow_to(remote, Some(Transport::Tcp));
        let now = bench.now;
        bench.endpoint.handle_flow_lost(flow.expect("fits"), now);
        bench.sends(2_000);
        assert_eq!(bench.sent().0, [Transport::Tcp]);
    }
}
