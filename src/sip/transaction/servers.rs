//! The server half of the table: requests that came in, and what we answered.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::action::{GoneReason, ServerAction};
use super::index::Index;
use super::invite_server::Event as InviteEvent;
use super::key::{Key, Keys};
use super::outbox::{FlowIndex, Outbox, Started};
use super::packed_flow::PackedFlow;
use super::reply_flow::{reply_flow, sent_by_port, without_connection};
use super::server_machine::{Event, Machine, Role};
use super::slab::{Slab, SlotId};
use super::table::{RequestOutcome, ServerId, TransactionEvent};
use super::timer::{Timer, give_back};
use super::{invite_server, server};
use crate::limits::reflection::Allowance;
use crate::sip::message::{Message, Method};
use crate::sip::transport::flow::{Flow, Transport};
use crate::sip::{reply, wire};

/// What a transaction keeps: the request until something was sent, from then on the latest response, in a
/// piece of memory of its own that is no larger.
#[derive(Debug)]
enum Kept {
    Request(Message),
    Response(Box<[u8]>),
}

/// A hundred thousand of them are kept for 32 s, so each octet counts.
#[derive(Debug)]
struct Server {
    key: Key,
    merge: Option<Key>,
    kept: Kept,
    flow: PackedFlow,
    /// What may still be sent to who asked.
    allowance: Allowance,
    /// The last retransmission interval, in microseconds.
    interval: u32,
    sent_by_port: u16,
    machine: Machine,
}

#[derive(Debug)]
pub(super) struct Servers {
    slab: Slab<Server>,
    by_key: Index,
    by_merge: Index,
    by_flow: FlowIndex,
    /// Those of other methods than INVITE that were refused (3xx to 6xx), oldest first; some of them are gone.
    refused: VecDeque<SlotId>,
    /// Those that were accepted (2xx), likewise.
    accepted: VecDeque<SlotId>,
    /// Of all that is kept.
    octets: usize,
}

impl Kept {
    fn octets(&self) -> usize {
        match self {
            Self::Request(request) => request.bytes().len(),
            Self::Response(octets) => octets.len(),
        }
    }
}

impl Servers {
    pub fn new() -> Self {
        Self {
            slab: Slab::new(),
            by_key: Index::default(),
            by_merge: Index::default(),
            by_flow: FlowIndex::default(),
            refused: VecDeque::new(),
            accepted: VecDeque::new(),
            octets: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Octets of the requests and responses that are kept.
    pub fn octets(&self) -> usize {
        self.octets
    }

    pub fn is_alive(&self, id: SlotId) -> bool {
        self.slab.find(id).is_some()
    }

    pub fn find(&self, key: Key) -> Option<ServerId> {
        self.holder(key).map(ServerId)
    }

    /// Takes the retransmission of a request.
    pub fn absorb(&mut self, id: ServerId, length: usize, flow: Flow, out: &mut Outbox<'_>) {
        self.adopt_flow(id.0, flow);
        if let Some(server) = self.slab.find_mut(id.0) {
            server.allowance.grow(length);
        }
        self.handle(id.0, Event::Retransmission, out);
    }

    /// Only so many octets may go to who asked.
    pub fn limit(&mut self, id: ServerId, allowance: Allowance) {
        if let Some(server) = self.slab.find_mut(id.0) {
            server.allowance = allowance;
        }
    }

    pub fn allowance(&self, id: ServerId) -> Allowance {
        let server = self.slab.find(id.0);
        server.map_or(Allowance::Unbounded, |server| server.allowance)
    }

    /// Starts the transaction of a request that matched none.
    pub fn begin(
        &mut self,
        request: &Message,
        key: Key,
        merge: Option<Key>,
        flow: Flow,
        out: &mut Outbox<'_>,
    ) -> RequestOutcome {
        let (machine, actions) = if request.method() == Method::Invite {
            (
                Machine::Invite(invite_server::START.0),
                invite_server::START.1,
            )
        } else {
            (Machine::Other(server::START.0), server::START.1)
        };
        let merged =
            merge.is_some_and(|merge| self.by_merge.find(merge, merge_in(&self.slab)).is_some());
        let via = request.top_via().ok();
        let id = self.insert(Server {
            key,
            merge: merge.filter(|_| !merged),
            kept: Kept::Request(request.clone()),
            flow: via
                .as_ref()
                .map_or(flow, |via| reply_flow(via, flow))
                .into(),
            allowance: Allowance::Unbounded,
            interval: 0,
            sent_by_port: via.as_ref().map_or(flow.remote.port(), sent_by_port),
            machine,
        });
        self.perform(id, actions, None, out);
        if merged {
            RequestOutcome::Merged(ServerId(id))
        } else {
            RequestOutcome::New(ServerId(id))
        }
    }

    pub fn handle_ack(
        &mut self,
        ack: &Message,
        keys: &Keys,
        out: &mut Outbox<'_>,
    ) -> RequestOutcome {
        use invite_server::State::{Accepted, Answered, Completed};
        let Some(id) = self.acknowledged(ack, keys) else {
            return RequestOutcome::AckTo2xx;
        };
        match self.slab.find(id).map(|server| server.machine) {
            // RFC 6026 §7.1: passed to the user, not absorbed.
            Some(Machine::Invite(Answered | Accepted)) => RequestOutcome::AckTo2xx,
            Some(Machine::Invite(Completed)) => {
                self.handle(id, Event::Invite(InviteEvent::Ack), out);
                RequestOutcome::Ack(ServerId(id))
            }
            _ => RequestOutcome::Absorbed,
        }
    }

    /// Takes the user's response; one that the figure or RFC 4320 has no place for is dropped.
    pub fn respond(
        &mut self,
        id: ServerId,
        status: u16,
        octets: Bytes,
        role: Role,
        out: &mut Outbox<'_>,
    ) {
        let Some(server) = self.slab.find_mut(id.0) else {
            return;
        };
        let transport = server.flow.transport();
        let Some(event) = server.machine.response_event(status, role, transport) else {
            return;
        };
        let Some((machine, actions)) = server.machine.step(event) else {
            return;
        };
        server.machine = machine;
        self.octets = self.octets + octets.len() - server.kept.octets();
        server.kept = Kept::Response(octets[..].into());
        // Who was challenged asks again, and may do so with the same CSeq: that is no merged request.
        if matches!(status, 401 | 407)
            && let Some(merge) = server.merge.take()
        {
            self.by_merge.remove(merge, id.0, merge_in(&self.slab));
        }
        self.perform(id.0, actions, Some(octets), out);
        // Over a stream it is over at once.
        if machine.has_finished() && self.is_alive(id.0) {
            match status {
                200..300 => self.accepted.push_back(id.0),
                _ => self.refused.push_back(id.0),
            }
        }
    }

    /// Ends the absorption of retransmissions for whom was answered longest ago; false if there is nobody. Who
    /// was refused is forgotten first: to do again what was accepted costs more than to refuse again.
    pub fn forget_finished(&mut self, out: &mut Outbox<'_>) -> bool {
        let oldest = self.refused.front().or_else(|| self.accepted.front());
        let Some(oldest) = oldest.copied() else {
            return false;
        };
        self.fire(oldest, Timer::J, out);
        true
    }

    pub fn acknowledge_success(&mut self, id: ServerId, out: &mut Outbox<'_>) {
        self.handle(id.0, Event::Invite(InviteEvent::SuccessAcknowledged), out);
    }

    pub fn fire(&mut self, id: SlotId, timer: Timer, out: &mut Outbox<'_>) {
        self.handle(id, Event::Fired(timer), out);
    }

    /// Turns the transactions of a lost connection towards a new one (RFC 3261 §18.2.2). They live on,
    /// so that a retransmission is still absorbed (RFC 6026 §7.1).
    pub fn lose_flow(&mut self, flow: Flow) {
        for id in self.by_flow.on(flow) {
            if let Some(server) = self.slab.find(id) {
                let new = without_connection(server.flow.unpack(), server.sent_by_port);
                self.turn(id, new);
            }
        }
    }

    /// A client that lost its connection and repeats its request over a new one is answered there.
    fn adopt_flow(&mut self, id: SlotId, flow: Flow) {
        let lost = self.slab.find(id).is_some_and(|server| {
            server.flow.transport() == Transport::Tcp && server.flow.unpack().connection.is_none()
        });
        if lost && flow.connection.is_some() {
            self.turn(id, flow);
        }
    }

    fn turn(&mut self, id: SlotId, flow: Flow) {
        if let Some(server) = self.slab.find_mut(id) {
            self.by_flow.remove(server.flow.unpack(), id);
            self.by_flow.insert(flow, id);
            server.flow = flow.into();
        }
    }

    fn acknowledged(&self, ack: &Message, keys: &Keys) -> Option<SlotId> {
        if let Some(id) = self.holder(keys.server(ack)) {
            return Some(id);
        }
        let id = self.holder(keys.initial_invite_of_old_ack(ack)?)?;
        // RFC 3261 §17.2.3: the To tag of the ACK matches that of the response sent.
        let Kept::Response(octets) = &self.slab.find(id)?.kept else {
            return None;
        };
        let response = wire::parse(Bytes::copy_from_slice(octets)).ok()?;
        (response.to_tag() == ack.to_tag()).then_some(id)
    }

    fn handle(&mut self, id: SlotId, event: Event, out: &mut Outbox<'_>) {
        let Some(server) = self.slab.find_mut(id) else {
            return;
        };
        if let Some((machine, actions)) = server.machine.step(event) {
            server.machine = machine;
            self.perform(id, actions, None, out);
        }
    }

    /// Does what an arrow says. `response` is what the user gave, if he did: what is kept is a copy of it.
    fn perform(
        &mut self,
        id: SlotId,
        actions: &[ServerAction],
        mut response: Option<Bytes>,
        out: &mut Outbox<'_>,
    ) {
        let Some(server) = self.slab.find_mut(id) else {
            return;
        };
        let mut due = None;
        for action in actions {
            match *action {
                ServerAction::SendResponse => server.send(response.take(), out),
                ServerAction::SendTrying => {
                    let before = server.kept.octets();
                    server.send_trying(out);
                    self.octets = self.octets + server.kept.octets() - before;
                }
                ServerAction::Start(timer) => {
                    if server.start(id, timer, out) == Started::FiresAtOnce {
                        due = Some(timer);
                    }
                }
                ServerAction::Gone(reason) => gone(id, reason, out),
            }
        }
        if server.machine.is_terminated() {
            self.remove(id);
        }
        if let Some(timer) = due {
            self.fire(id, timer, out);
        }
    }

    fn insert(&mut self, server: Server) -> SlotId {
        let (key, merge, flow) = (server.key, server.merge, server.flow.unpack());
        self.octets += server.kept.octets();
        let id = self.slab.insert(server);
        let slab = &self.slab;
        self.by_key.insert(key, id, key_in(slab));
        if let Some(merge) = merge {
            self.by_merge.insert(merge, id, merge_in(slab));
        }
        self.by_flow.insert(flow, id);
        id
    }

    fn remove(&mut self, id: SlotId) {
        let Some(server) = self.slab.remove(id) else {
            return;
        };
        self.octets -= server.kept.octets();
        self.by_key.remove(server.key, id, key_in(&self.slab));
        if let Some(merge) = server.merge {
            self.by_merge.remove(merge, id, merge_in(&self.slab));
        }
        self.by_flow.remove(server.flow.unpack(), id);
        let gone = |slab: &Slab<Server>, id: SlotId| slab.find(id).is_none();
        for finished in [&mut self.refused, &mut self.accepted] {
            while (finished.pop_front_if(|id| gone(&self.slab, *id))).is_some() {}
            give_back(finished);
        }
    }

    fn holder(&self, key: Key) -> Option<SlotId> {
        let slot = self.by_key.find(key, key_in(&self.slab))?;
        self.slab.at(slot).map(|(id, _)| id)
    }
}

fn key_in(slab: &Slab<Server>) -> impl Fn(u32) -> Option<Key> {
    |slot| slab.at(slot).map(|(_, server)| server.key)
}

fn merge_in(slab: &Slab<Server>) -> impl Fn(u32) -> Option<Key> {
    |slot| slab.at(slot).and_then(|(_, server)| server.merge)
}

impl Server {
    /// Sends the response that is kept; `octets` are those of it, if somebody else holds them already.
    fn send(&mut self, octets: Option<Bytes>, out: &mut Outbox<'_>) {
        let Kept::Response(kept) = &self.kept else {
            return;
        };
        let flow = self.flow.unpack();
        let event = if self.allowance.spend(kept.len()) {
            let octets = octets.unwrap_or_else(|| Bytes::copy_from_slice(kept));
            match self.allowance {
                Allowance::Unbounded => TransactionEvent::Transmit { flow, octets },
                Allowance::Octets { .. } => TransactionEvent::Answer { flow, octets },
            }
        } else {
            TransactionEvent::Withheld
        };
        out.events.push_back(event);
    }

    fn send_trying(&mut self, out: &mut Outbox<'_>) {
        let Kept::Request(request) = &self.kept else {
            return;
        };
        // RFC 3261 §17.2.1: a 100 gets no To tag.
        let octets = reply::response(request, 100, "Trying", None).build();
        self.kept = Kept::Response(octets[..].into());
        self.send(Some(octets), out);
    }

    fn start(&mut self, id: SlotId, timer: Timer, out: &mut Outbox<'_>) -> Started {
        let reliable = self.flow.transport().is_reliable();
        let mut interval = Duration::from_micros(self.interval.into());
        let started = out.start(id, timer, &mut interval, reliable);
        self.interval = interval.as_micros().try_into().unwrap_or(u32::MAX);
        started
    }
}

fn gone(id: SlotId, reason: GoneReason, out: &mut Outbox<'_>) {
    let event = TransactionEvent::ServerGone(ServerId(id), reason);
    out.events.push_back(event);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::sip::transaction::outbox::Pending;
    use crate::sip::transaction::timer::TimerConfig;
    use crate::sip::transport::flow::ConnectionId;

    #[test]
    fn a_transaction_takes_no_more_than_it_must() {
        assert_eq!(size_of::<Server>(), 88);
    }

    #[test]
    fn a_finished_transaction_leaves_nothing_in_any_index() {
        let text = "MESSAGE sip:bob@example.com SIP/2.0\r\n\
                    Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\n\
                    From: <sip:alice@example.com>;tag=1\r\n\
                    To: <sip:bob@example.com>\r\n\
                    Call-ID: call\r\n\
                    CSeq: 1 MESSAGE\r\n\
                    Content-Length: 0\r\n\r\n";
        let request = wire::parse(Bytes::from_static(text.as_bytes())).unwrap();
        let flow = Flow {
            transport: Transport::Tcp,
            listener: 0,
            remote: "192.0.2.1:49152".parse().unwrap(),
            connection: Some(ConnectionId::new(0, 1)),
        };
        let keys = Keys::default();
        let (key, merge) = (keys.server(&request), keys.merge(&request));
        let mut servers = Servers::new();
        let mut pending = Pending::new(TimerConfig::default());
        let out = &mut pending.outbox(Now::default());
        let RequestOutcome::New(id) = servers.begin(&request, key, merge, flow, out) else {
            panic!("a new request");
        };
        assert_eq!(servers.by_flow.on(flow), [id.0]);
        servers.lose_flow(flow);
        assert_eq!(servers.by_flow.on(flow), []);
        servers.adopt_flow(id.0, flow);
        servers.respond(id, 200, Bytes::new(), Role::UserAgent, out);
        assert_eq!(servers.by_flow.on(flow), []);
        assert!(servers.by_key.is_empty() && servers.by_merge.is_empty());
        assert_eq!(servers.len(), 0);
    }
}
