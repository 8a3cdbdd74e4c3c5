//! Next hops that are host names: the request waits for the address, which is looked up off the
//! shards (decision 13). A name without an address counts as a branch that answered 503.

use std::net::SocketAddr;

use crate::clock::Now;
use crate::limits::source::is_one_host;
use crate::participating::contacts::Target;
use crate::participating::relay::Passage;
use crate::participating::service::Service;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::sip::transaction::table::ServerId;
use crate::sip::transport::flow::{Flow, Transport};

/// A next hop without an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopName {
    /// The host.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// By what it wants to be reached.
    pub transport: Transport,
}

/// A request inside a dialog whose next hop is being looked up; an ACK has no transaction.
#[derive(Debug)]
pub struct Unresolved {
    request: Message,
    server: Option<ServerId>,
    transport: Transport,
    popped: usize,
}

impl Service {
    /// Passes a request on once the address of its next hop is known.
    pub fn relay_by_name(
        &mut self,
        request: Message,
        server: Option<ServerId>,
        name: HopName,
        popped: usize,
        now: Now,
    ) {
        if self.look_ups.len() >= self.settings.most_under_way {
            if let Some(server) = server {
                self.overloaded(&request, server, now);
            }
            return;
        }
        let number = self.next_number();
        let waiting = Unresolved {
            request,
            server,
            transport: name.transport,
            popped,
        };
        self.look_ups.insert(number, waiting);
        self.questions.push_back((number, name.host, name.port));
    }

    /// The next name to be looked up: a number for the answer, host and port.
    pub fn poll_question(&mut self) -> Option<(u64, String, u16)> {
        self.questions.pop_front()
    }

    /// A name was looked up; it may have no address.
    pub fn handle_resolved(&mut self, number: u64, addresses: &[SocketAddr], now: Now) {
        let Some(waiting) = self.look_ups.remove(&number) else {
            return;
        };
        let mut addresses = addresses.iter();
        let flow = addresses.find_map(|to| self.flow_to_address(*to, waiting.transport));
        let request = waiting.request;
        let passage = Passage::in_dialog(waiting.popped);
        let target = flow.map(|flow| Target::elsewhere(request.request_uri().to_owned(), flow));
        match (target, waiting.server) {
            (Some(target), Some(server)) => self.relay(request, server, &[target], &passage, now),
            (Some(target), None) => self.relay_ack(&request, &target, &passage),
            (None, Some(server)) => {
                // RFC 3261 §16.7 step 6: a 503 of a branch goes upstream as 500.
                let failed = Rejection::new(500, "Server Internal Error");
                self.reject(&request, server, &failed, now);
            }
            (None, None) => {}
        }
    }

    /// A CANCEL for an INVITE that still waits; false if there is none.
    pub(super) fn cancel_unresolved(&mut self, server: ServerId, now: Now) -> bool {
        let mut waiting = self.look_ups.iter();
        let found = waiting.find(|(_, waiting)| waiting.server == Some(server));
        let Some(waiting) = found
            .map(|(number, _)| *number)
            .and_then(|number| self.look_ups.remove(&number))
        else {
            return false;
        };
        let terminated = Rejection::new(487, "Request Terminated");
        self.reject(&waiting.request, server, &terminated, now);
        true
    }

    /// The flow to an address that only a request names, over this transport if some listener speaks it.
    /// Nobody there has asked for anything: such an address gets no more than answers without proof would.
    pub fn flow_to_address(&self, remote: SocketAddr, transport: Transport) -> Option<Flow> {
        if !is_one_host(remote) {
            return None;
        }
        if !self.sources.may_answer(remote.ip(), self.time) {
            self.metrics.withheld_rate.count();
            return None;
        }
        let wanted = self.sip.flow_to(remote, Some(transport));
        wanted.or_else(|| self.sip.flow_to(remote, None))
    }
}
