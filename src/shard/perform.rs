//! What the core wants done, done. Nothing here waits: what cannot leave now is queued within
//! bounds, and what fails at once comes back as an input.

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::spawn_local;

use super::core_trait::ShardCore;
use super::port::{Action, Attempt, Input};
use super::shell::Shell;
use super::store_queue::StoreGate;
use crate::clock::Now;
use crate::msrp::listener as msrp;
use crate::net::ConnectionId;
use crate::net::pieces::Pieces;
use crate::net::tls::Check;
use crate::participating::media::SecurePeer;
use crate::sip::transport::flow::{Flow, Transport};
use crate::store::request::StoreRequest;

/// Inputs of our own making taken in one turn.
const LOCAL: usize = 256;

impl<C: ShardCore + 'static, G: StoreGate> Shell<C, G> {
    /// Performs all actions, and those that follow from what failed at once.
    pub(super) fn perform(&mut self, now: Now) {
        for _ in 0..LOCAL {
            self.perform_actions(now);
            let Some(input) = self.local.pop_front() else {
                return;
            };
            self.take(input, now);
        }
        self.perform_actions(now);
    }

    fn perform_actions(&mut self, now: Now) {
        loop {
            let action = self.core.borrow_mut().poll_action();
            let Some(action) = action else { return };
            match action {
                Action::SendSip { flow, octets } => self.send_sip(flow, octets),
                Action::ConnectMsrp {
                    attempt,
                    remote,
                    secure,
                } => self.connect_msrp(attempt, remote, secure),
                Action::SendMsrp { connection, octets } => self.send_msrp(connection, octets),
                Action::CloseMsrp { connection } => self.msrp.close(connection),
                Action::EndMsrp { connection } => self.msrp.end(connection),
                Action::StrayMsrp { connection } => self.msrp.stray(connection, now.instant),
                Action::Store(request) => self.ask_store(request),
                Action::Resolve {
                    attempt,
                    host,
                    port,
                } => self.resolve(attempt, host, port),
                Action::Forward { shard, message } => {
                    self.forward(shard, Input::Internal(message));
                }
                Action::Answer { ticket, answer } => self.operator.answer(ticket, answer),
                // Nobody waits if the server was told to stop at once.
                Action::Drained => drop(self.drained.send(self.shard)),
            }
        }
    }

    fn forward(&mut self, shard: u16, message: Input) {
        if shard == self.shard {
            self.local.push_back(message);
        } else if let Some(outbox) = self.outboxes.get_mut(usize::from(shard)) {
            outbox.push(message);
        }
    }

    fn send_sip(&mut self, flow: Flow, octets: Bytes) {
        match flow.transport {
            Transport::Udp => match self.udp.get_mut(usize::from(flow.listener)) {
                Some(Some(transport)) => transport.send(flow.remote, octets),
                _ => self.metrics.unsent.count(),
            },
            Transport::Tcp => {
                if self.sip.send(flow, octets).is_err() {
                    self.local.push_back(Input::FlowLost { flow });
                }
            }
        }
    }

    fn connect_msrp(&mut self, attempt: Attempt, remote: SocketAddr, secure: Option<SecurePeer>) {
        let secure = secure.map(|peer| msrp::SecurePeer {
            name: peer.name,
            check: peer.fingerprint.map(|fingerprint| -> Check {
                Arc::new(move |certificate| fingerprint.matches(certificate))
            }),
        });
        let Some(writer) = self.msrp.connect(remote, secure) else {
            self.local.push_back(Input::MsrpUnreachable { attempt });
            return;
        };
        let connection = writer.id();
        let connected = Input::MsrpConnected {
            attempt,
            connection,
        };
        if writer.is_open() {
            self.local.push_back(connected);
            return;
        }
        let lanes = self.lanes.get(usize::from(self.shard)).cloned();
        spawn_local(async move {
            let outcome = match writer.opened().await {
                Ok(()) => connected,
                Err(_) => Input::MsrpUnreachable { attempt },
            };
            if let Some(lanes) = lanes {
                let _ = lanes.notices.send(outcome).await;
            }
        });
    }

    fn send_msrp(&mut self, connection: ConnectionId, octets: Pieces) {
        if self.msrp.send(connection, octets).is_err() {
            self.local.push_back(Input::MsrpLost { connection });
        }
    }

    fn ask_store(&mut self, request: StoreRequest) {
        if let Some(refused) = self.store.submit(request) {
            self.local.push_back(Input::Store(refused));
        }
    }

    /// Looks a name up on the helper's threads.
    fn resolve(&mut self, attempt: Attempt, host: String, port: u16) {
        let lanes = self.lanes.get(usize::from(self.shard)).cloned();
        let place = Arc::clone(&self.look_ups).try_acquire_owned();
        let (Some(lanes), Ok(place)) = (lanes, place) else {
            self.metrics.resolutions_refused.count();
            let addresses = Vec::new();
            self.local.push_back(Input::Resolved { attempt, addresses });
            return;
        };
        let resolver = self.resolver.clone();
        self.helper.spawn(async move {
            let addresses = resolver.look_up(&host, port).await;
            let _ = lanes
                .notices
                .send(Input::Resolved { attempt, addresses })
                .await;
            drop(place);
        });
    }
}
