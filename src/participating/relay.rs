//! Requests that are neither kept nor anchored: SUBSCRIBE, NOTIFY, INFO, INVITE for other media. They
//! are proxied to the user's devices by RFC 3261 §16.

use crate::clock::Now;
use crate::identity::Identity;
use crate::limits::memory::{self, Held};
use crate::participating::contacts::Target;
use crate::participating::forward;
use crate::participating::service::{Service, Usage};
use crate::sip::message::{Message, Method};
use crate::sip::proxy::breadth_shares;
use crate::sip::proxy::fork::{ForkAction, ForkContext};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::{ClientId, Kind, ServerId};

/// Names a proxied request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u64);

/// A proxied request: its response context and where it came from.
#[derive(Debug)]
pub struct Relay {
    request: Message,
    server: ServerId,
    fork: ForkContext,
    /// The branches by the number their answers come back with.
    branches: Vec<ClientId>,
    /// What its octets take of memory.
    _held: Held,
}

/// How a request is proxied.
#[derive(Debug)]
pub struct Passage<'a> {
    /// Whose identity is asserted; `None` inside a dialog.
    pub author: Option<&'a Identity>,
    /// For each target the Record-Route with which we stay on the dialog's path; none if we do not.
    pub record_routes: Vec<String>,
    /// How many of the first routes were ours.
    pub popped: usize,
}

impl Passage<'_> {
    /// Of a request inside a dialog.
    pub fn in_dialog(popped: usize) -> Self {
        Self {
            author: None,
            record_routes: Vec::new(),
            popped,
        }
    }
}

impl Service {
    /// Proxies a request to these targets and its best answer back.
    pub fn relay(
        &mut self,
        request: Message,
        server: ServerId,
        targets: &[Target],
        passage: &Passage<'_>,
        now: Now,
    ) {
        if self.relays.len() >= self.settings.most_under_way {
            return self.overloaded(&request, server, now);
        }
        if targets.is_empty() {
            let unavailable = Rejection::new(480, "Temporarily Unavailable");
            return self.reject(&request, server, &unavailable, now);
        }
        let shares = match breadth_shares(&request, targets.len()) {
            Ok(shares) => shares,
            Err(rejection) => return self.reject(&request, server, &rejection, now),
        };
        let kind = if request.method() == Method::Invite {
            Kind::Invite
        } else {
            Kind::NonInvite
        };
        if kind == Kind::Invite {
            let trying = self.reply(&request, 100, "Trying", None).build();
            self.sip.respond(server, 100, trying, now);
        }
        let id = RelayId(self.next_number());
        let mut fork = ForkContext::new(kind);
        let mut branches = Vec::new();
        let hash = self.loop_hash(&request);
        for (index, (target, share)) in targets.iter().zip(shares).enumerate() {
            let via = self.sip.via(&target.flow, Some(hash), &mut self.tokens);
            let copy = forward::Copy {
                target,
                via: &via.value,
                record_route: passage.record_routes.get(index).map(String::as_str),
                max_breadth: share,
            };
            let octets = forward::through(&request, passage, &copy);
            let usage = Usage::Relay(id, branches.len());
            match self
                .sip
                .send_as_is(kind, &via, octets, target.flow, usage, now)
            {
                Ok(client) => {
                    fork.add_branch(client, now);
                    branches.push(client);
                }
                Err(_) => fork.add_failed_target(503, "Service Unavailable"),
            }
        }
        fork.seal();
        self.relays.insert(
            id,
            Relay {
                _held: self.memory.hold(memory::Kind::Work, request.bytes().len()),
                request,
                server,
                fork,
                branches,
            },
        );
        self.run_relay(id, now);
    }

    /// The ACK of a 2xx passes without a transaction (RFC 3261 §16.11).
    pub fn relay_ack(&mut self, ack: &Message, target: &Target, passage: &Passage<'_>) {
        let via = self.sip.via(&target.flow, None, &mut self.tokens);
        let copy = forward::Copy {
            target,
            via: &via.value,
            record_route: None,
            max_breadth: 1,
        };
        let octets = forward::through(ack, passage, &copy);
        self.sip.send_ack(octets, target.flow);
    }

    pub(super) fn handle_relay_response(
        &mut self,
        id: RelayId,
        branch: usize,
        response: &Message,
        now: Now,
    ) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        if let Some(client) = relay.branches.get(branch) {
            relay.fork.handle_response(*client, response, now);
        }
        self.run_relay(id, now);
    }

    pub(super) fn handle_relay_silence(
        &mut self,
        id: RelayId,
        branch: usize,
        unreachable: bool,
        now: Now,
    ) {
        let Some(relay) = self.relays.get_mut(&id) else {
            return;
        };
        match (relay.branches.get(branch), unreachable) {
            (Some(client), true) => relay.fork.handle_unreachable(*client),
            (Some(client), false) => relay.fork.handle_timed_out(*client),
            (None, _) => {}
        }
        self.run_relay(id, now);
    }

    /// A CANCEL for a proxied INVITE; false if it is none of ours.
    pub fn cancel_relay(&mut self, server: ServerId, now: Now) -> bool {
        let found = self.relays.iter().find(|(_, relay)| relay.server == server);
        let Some(id) = found.map(|(id, _)| *id) else {
            return false;
        };
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.fork.handle_cancel();
        }
        self.run_relay(id, now);
        true
    }

    pub(super) fn handle_relay_timeouts(&mut self, now: Now) {
        let due = |relay: &Relay| {
            relay
                .fork
                .next_deadline()
                .is_some_and(|at| at <= now.instant)
        };
        let mut late: Vec<RelayId> = self
            .relays
            .iter()
            .filter(|(_, relay)| due(relay))
            .map(|(id, _)| *id)
            .collect();
        late.sort();
        for id in late {
            if let Some(relay) = self.relays.get_mut(&id) {
                relay.fork.handle_timeout(now);
            }
            self.run_relay(id, now);
        }
    }

    fn run_relay(&mut self, id: RelayId, now: Now) {
        while let Some(relay) = self.relays.get_mut(&id) {
            let server = relay.server;
            match relay.fork.poll_action() {
                Some(ForkAction::Relay { status, octets }) => {
                    self.sip.relay(server, status, octets, now)
                }
                Some(ForkAction::Respond { status, reason }) => {
                    let request = relay.request.clone();
                    self.reject(&request, server, &Rejection::new(status, reason), now);
                }
                Some(ForkAction::Cancel(client)) => self.sip.cancel(client, now),
                None => break,
            }
        }
        if self
            .relays
            .get(&id)
            .is_some_and(|relay| relay.fork.is_over())
        {
            self.relays.remove(&id);
        }
    }
}
