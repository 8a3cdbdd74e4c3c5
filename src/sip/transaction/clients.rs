//! The client half of the table: requests that we sent, and what came back.

use std::time::Duration;

use bytes::Bytes;

use super::action::ClientAction;
use super::client_machine::{Event, Machine};
use super::index::Index;
use super::key::{Key, Keys};
use super::outbox::{FlowIndex, Outbox, Started};
use super::slab::{Slab, SlotId};
use super::table::{ClientId, Kind, ResponseOutcome, TransactionEvent};
use super::timer::Timer;
use super::{client, invite_client};
use crate::sip::message::Message;
use crate::sip::transport::flow::Flow;
use crate::sip::{reply, wire};

/// Who wants to know what becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    Caller,
    /// Nobody: a CANCEL, whose outcome shows in its INVITE's.
    Table,
}

/// RFC 3261 §9.1: a CANCEL is not sent before a provisional response came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    NotWanted,
    Wanted,
    Sent,
}

#[derive(Debug)]
struct Client {
    machine: Machine,
    key: Key,
    user: User,
    cancel: Cancel,
    flow: Flow,
    interval: Duration,
    /// The request; once an INVITE failed, the ACK; empty when neither is needed any more.
    octets: Bytes,
}

/// A CANCEL to be sent as a transaction of its own.
#[derive(Debug)]
pub(super) struct PendingCancel {
    pub branch_of: Message,
    pub octets: Bytes,
    pub flow: Flow,
}

#[derive(Debug)]
pub(super) struct Clients {
    slab: Slab<Client>,
    by_key: Index,
    by_flow: FlowIndex,
    /// Of all that is kept.
    kept: usize,
}

impl Clients {
    pub fn new() -> Self {
        Self {
            slab: Slab::new(),
            by_key: Index::default(),
            by_flow: FlowIndex::default(),
            kept: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Octets of the requests that are kept.
    pub fn octets(&self) -> usize {
        self.kept
    }

    pub fn is_alive(&self, id: SlotId) -> bool {
        self.slab.find(id).is_some()
    }

    pub fn begin(
        &mut self,
        kind: Kind,
        key: Key,
        octets: Bytes,
        flow: Flow,
        user: User,
        out: &mut Outbox<'_>,
    ) -> ClientId {
        let (machine, actions) = match kind {
            Kind::Invite => (
                Machine::Invite(invite_client::START.0),
                invite_client::START.1,
            ),
            Kind::NonInvite => (Machine::Other(client::START.0), client::START.1),
        };
        self.kept += octets.len();
        let id = self.slab.insert(Client {
            machine,
            key,
            user,
            cancel: Cancel::NotWanted,
            flow,
            interval: Duration::ZERO,
            octets,
        });
        let key_at = |slot| self.slab.at(slot).map(|(_, client)| client.key);
        self.by_key.insert(key, id, key_at);
        self.by_flow.insert(flow, id);
        self.perform(id, actions, None, out);
        ClientId(id)
    }

    pub fn handle_response(
        &mut self,
        response: &Message,
        keys: &Keys,
        out: &mut Outbox<'_>,
    ) -> ResponseOutcome {
        let Some(id) = self.matching(response, keys) else {
            return ResponseOutcome::Unmatched;
        };
        match self.step(id, Event::Response(response.status()), Some(response), out) {
            Some(User::Caller) => ResponseOutcome::Deliver(ClientId(id)),
            Some(User::Table) | None => ResponseOutcome::Absorbed,
        }
    }

    pub fn fire(&mut self, id: SlotId, timer: Timer, out: &mut Outbox<'_>) {
        self.step(id, Event::Fired(timer), None, out);
    }

    pub fn lose_flow(&mut self, flow: Flow, out: &mut Outbox<'_>) {
        for id in self.by_flow.on(flow) {
            self.step(id, Event::TransportError, None, out);
        }
    }

    /// Notes that the user does not want an answer any more.
    pub fn want_cancel(&mut self, id: ClientId) {
        if let Some(client) = self.slab.find_mut(id.0)
            && client.cancel == Cancel::NotWanted
        {
            client.cancel = Cancel::Wanted;
        }
    }

    /// The CANCEL that is wanted and allowed, if any; it is given once.
    pub fn take_cancel(&mut self, id: ClientId, out: &mut Outbox<'_>) -> Option<PendingCancel> {
        let client = self.slab.find_mut(id.0)?;
        let proceeding = Machine::Invite(invite_client::State::Proceeding);
        if client.cancel != Cancel::Wanted || client.machine != proceeding {
            return None;
        }
        client.cancel = Cancel::Sent;
        let reliable = client.flow.transport.is_reliable();
        out.start(id.0, Timer::Cancelled, &mut client.interval, reliable);
        let invite = wire::parse(client.octets.clone()).ok()?;
        Some(PendingCancel {
            octets: reply::cancel_for(&invite)?,
            branch_of: invite,
            flow: client.flow,
        })
    }

    /// RFC 3261 §17.1.3.
    fn matching(&self, response: &Message, keys: &Keys) -> Option<SlotId> {
        let via = response.top_via().ok()?;
        let cseq = response.cseq().ok()?;
        let is_invite = cseq.method == "INVITE";
        let key = keys.client(via.branch?, is_invite);
        let key_at = |slot| self.slab.at(slot).map(|(_, client)| client.key);
        let (id, client) = self.slab.at(self.by_key.find(key, key_at)?)?;
        let same_method = client.octets.starts_with(cseq.method.as_bytes());
        (same_method || !client.machine.needs_request()).then_some(id)
    }

    /// Takes one arrow of the figure; tells whom a response is to be delivered to.
    fn step(
        &mut self,
        id: SlotId,
        event: Event,
        response: Option<&Message>,
        out: &mut Outbox<'_>,
    ) -> Option<User> {
        let client = self.slab.find_mut(id)?;
        let (machine, actions) = client.machine.step(event)?;
        client.machine = machine;
        let user = client.user;
        self.perform(id, actions, response, out);
        actions.contains(&ClientAction::Deliver).then_some(user)
    }

    fn perform(
        &mut self,
        id: SlotId,
        actions: &[ClientAction],
        response: Option<&Message>,
        out: &mut Outbox<'_>,
    ) {
        let Some(client) = self.slab.find_mut(id) else {
            return;
        };
        let before = client.octets.len();
        let mut due = None;
        for action in actions {
            match *action {
                ClientAction::SendRequest => out.transmit(client.flow, client.octets.clone()),
                ClientAction::SendAck => client.send_ack(response, out),
                ClientAction::Start(timer) => {
                    let reliable = client.flow.transport.is_reliable();
                    if out.start(id, timer, &mut client.interval, reliable) == Started::FiresAtOnce
                    {
                        due = Some(timer);
                    }
                }
                // The response stays with the caller, who is told by the return value.
                ClientAction::Deliver => {}
                ClientAction::TimedOut => {
                    client.tell(TransactionEvent::TimedOut(ClientId(id)), out);
                }
                ClientAction::Unreachable => {
                    client.tell(TransactionEvent::Unreachable(ClientId(id)), out);
                }
            }
        }
        client.forget_request();
        self.kept = self.kept + client.octets.len() - before;
        if client.machine.is_terminated() {
            self.remove(id);
        }
        if let Some(timer) = due {
            self.fire(id, timer, out);
        }
    }

    fn remove(&mut self, id: SlotId) {
        let Some(client) = self.slab.remove(id) else {
            return;
        };
        self.kept -= client.octets.len();
        let key_at = |slot| self.slab.at(slot).map(|(_, client)| client.key);
        self.by_key.remove(client.key, id, key_at);
        self.by_flow.remove(client.flow, id);
    }
}

impl Client {
    /// The first failure turns the stored request into its ACK; later ones repeat that.
    fn send_ack(&mut self, response: Option<&Message>, out: &mut Outbox<'_>) {
        if !self.octets.starts_with(b"ACK ") {
            let Ok(request) = wire::parse(self.octets.clone()) else {
                return;
            };
            let Some(response) = response else {
                return;
            };
            let Some(ack) = reply::ack_for(&request, response) else {
                return;
            };
            self.octets = ack;
        }
        out.transmit(self.flow, self.octets.clone());
    }

    fn forget_request(&mut self) {
        let completed = Machine::Invite(invite_client::State::Completed);
        if !self.machine.needs_request() && self.machine != completed {
            self.octets = Bytes::new();
        }
    }

    fn tell(&self, event: TransactionEvent, out: &mut Outbox<'_>) {
        if self.user == User::Caller {
            out.events.push_back(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::sip::transaction::outbox::Pending;
    use crate::sip::transaction::timer::TimerConfig;
    use crate::sip::transport::flow::{ConnectionId, Transport};

    #[test]
    fn a_finished_transaction_leaves_nothing_in_any_index() {
        let flow = Flow {
            transport: Transport::Tcp,
            listener: 0,
            remote: "192.0.2.1:5060".parse().unwrap(),
            connection: Some(ConnectionId::new(0, 1)),
        };
        let key = Keys::default().client("z9hG4bK1", false);
        let mut clients = Clients::new();
        let mut pending = Pending::new(TimerConfig::default());
        let out = &mut pending.outbox(Now::default());
        let octets = Bytes::from_static(b"MESSAGE");
        let id = clients.begin(Kind::NonInvite, key, octets, flow, User::Caller, out);
        assert_eq!(clients.by_flow.on(flow), [id.0]);
        clients.fire(id.0, Timer::F, out);
        assert_eq!(clients.by_flow.on(flow), []);
        assert!(clients.by_key.is_empty());
        assert_eq!(clients.len(), 0);
    }
}
