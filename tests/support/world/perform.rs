//! What the server wants done, done; every promise it gives is noticed here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use restante::demo::SipText;
use restante::net::ConnectionId;
use restante::participating::internal::InternalMessage;
use restante::shard::core_trait::ShardCore;
use restante::shard::port::{Action, Input};
use restante::sip::transport::flow::{Flow, Transport};
use restante::store::request::{Body, MessageKind, StoreRequest};

use super::agent::{Packet, Purpose};
use super::deliver::flow_of;
use super::ledger::Word;
use super::{Event, Line, World, internal, unreachable};

impl World {
    /// Performs everything a core asked for.
    pub(super) fn perform(&mut self, shard: u16) {
        let life = self.life;
        while life == self.life
            && let Some(action) = self.cores[usize::from(shard)].poll_action()
        {
            if let Some(left) = self.fuse {
                self.fuse = left.checked_sub(1);
                if left == 0 {
                    return self.crash();
                }
            }
            match action {
                Action::SendSip { flow, octets } => self.sip_to_agent(shard, flow, octets),
                Action::ConnectMsrp {
                    attempt, remote, ..
                } => {
                    let wait = self.some_delay();
                    let input = match self.line_to(remote, shard) {
                        Some(connection) => Input::MsrpConnected {
                            attempt,
                            connection,
                        },
                        None => unreachable(attempt),
                    };
                    self.input_after(wait, shard, input);
                }
                Action::SendMsrp { connection, octets } => {
                    self.msrp_to_agent(shard, connection, octets.joined());
                }
                Action::CloseMsrp { connection } => self.release_line(shard, connection),
                Action::EndMsrp { connection } => self.break_line(connection, true),
                Action::Store(request) => self.ask_store(request),
                Action::Resolve { attempt, .. } => {
                    let resolved = Input::Resolved {
                        attempt,
                        addresses: Vec::new(),
                    };
                    self.input_after(Duration::from_millis(1), shard, resolved);
                }
                Action::Forward { shard: to, message } => self.forward(shard, to, message),
                // Nobody asks as an operator in this world, and nobody guesses.
                Action::Answer { .. } | Action::StrayMsrp { .. } => {}
                Action::Drained => {}
            }
        }
    }

    /// What one shard tells another comes in order, and late if the other has much to do.
    fn forward(&mut self, from: u16, to: u16, message: Box<InternalMessage>) {
        let most = 500 + self.faults.crowding * 1000;
        let wait = Duration::from_micros(self.rng.random_range(1..most));
        let last = self.forward_at.get(&(from, to)).copied();
        let at = (self.now.instant + wait).max(last.unwrap_or_default() + Duration::from_micros(1));
        self.forward_at.insert((from, to), at);
        let (life, input) = (self.life, Box::new(internal(message)));
        let event = Event::Input {
            shard: to,
            life,
            input,
        };
        self.at(at, event);
    }

    /// What the store is asked says what the server believes.
    fn note_request(&mut self, request: &StoreRequest) {
        match request {
            StoreRequest::Put { message, body, .. } => {
                if let Some(id) = self.ledger.named(&message.message_id) {
                    self.ledger.entries[id].kept_until = Some(message.expires_at);
                }
                if let Body::Inline(octets) = body
                    && message.kind == MessageKind::Notification
                    && self.ledger.find(octets).is_none()
                {
                    let xml = String::from_utf8_lossy(octets).into_owned();
                    for word in Word::read(&xml)
                        .iter()
                        .filter(|word| word.status == "failed")
                    {
                        self.ledger.telling(&word.message_id);
                    }
                }
            }
            StoreRequest::Settle {
                seq, settlement, ..
            } => {
                let Some((body, expires_at)) = self.disk.kept(*seq) else {
                    return;
                };
                let now = self.now.instant;
                match self.ledger.find(body) {
                    Some(id) => {
                        let line = format!("{now:?} message {id} leaves the store: {settlement:?}");
                        self.ledger.tell(line);
                        self.ledger.settled(id, *settlement, expires_at);
                    }
                    None => {
                        let xml = String::from_utf8_lossy(body).into_owned();
                        for word in Word::read(&xml) {
                            self.ledger.word_settled(&word.message_id);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn ask_store(&mut self, request: StoreRequest) {
        self.note_request(&request);
        if let Some(line) = self.disk.ask(request) {
            let most = self.faults.store_delay.max(1);
            let wait = Duration::from_micros(self.rng.random_range(50..=most * 1000));
            let life = self.life;
            self.after(wait, Event::StoreWorks { life, line });
        }
    }

    fn sip_to_agent(&mut self, shard: u16, flow: Flow, octets: Bytes) {
        let Some(agent) = self
            .agents
            .iter()
            .position(|agent| agent.address == flow.remote)
        else {
            return self.lost(shard, flow, &octets);
        };
        let now = self.now.instant;
        let message = SipText::read(&octets).expect("the server writes SIP");
        self.note_sip(agent, &message);
        let begun = *self.begun.entry(message.branch().to_owned()).or_insert(now);
        match flow.transport {
            Transport::Udp => {
                if self.chance(self.faults.loss) {
                    return self.disturb_agent(agent);
                }
                let copies = 1 + u32::from(self.chance(self.faults.repeats));
                for _ in 0..copies {
                    let (octets, wait) = (octets.clone(), self.some_delay());
                    self.after(
                        wait,
                        Event::SipOut {
                            agent,
                            connection: None,
                            octets,
                            begun,
                        },
                    );
                }
            }
            Transport::Tcp => {
                let known = flow.connection.filter(|id| self.streams.contains_key(id));
                let Some(connection) = known.or_else(|| self.stream_to(agent, flow, shard)) else {
                    let lost = Input::FlowLost { flow };
                    return self.input_after(Duration::from_micros(10), shard, lost);
                };
                let at = self.in_order(connection, false);
                self.at(
                    at,
                    Event::SipOut {
                        agent,
                        connection: Some(connection),
                        octets,
                        begun,
                    },
                );
            }
        }
    }

    /// Nobody is at this address: a device was there once.
    fn lost(&mut self, shard: u16, flow: Flow, octets: &[u8]) {
        let line = octets.split(|octet| *octet == b'\r').next();
        let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
        let at = self.now.instant;
        self.ledger
            .tell(format!("{at:?} -> nobody at {} {line}", flow.remote));
        let is_ours = matches!(flow.remote.ip(), IpAddr::V4(ip) if ip.octets()[0] == 127);
        if !is_ours || flow.remote.ip().is_unspecified() {
            return self.ledger.fault(format!("SIP to nobody: {}", flow.remote));
        }
        if flow.transport == Transport::Tcp {
            self.input_after(Duration::from_micros(10), shard, Input::FlowLost { flow });
        }
    }

    /// Over TCP what was sent first comes first.
    pub(super) fn in_order(
        &mut self,
        connection: ConnectionId,
        to_server: bool,
    ) -> restante::clock::Instant {
        let arrives = self.now.instant + self.some_delay();
        let last = self
            .sip_at
            .entry((connection, to_server))
            .or_insert(arrives);
        *last = arrives.max(*last + Duration::from_micros(1));
        *last
    }

    /// A connection the server opens to a device that listens.
    fn stream_to(&mut self, agent: usize, flow: Flow, shard: u16) -> Option<ConnectionId> {
        if flow.connection.is_some() || !self.agents[agent].is_stream {
            return None;
        }
        let mut open = self.streams.iter_mut();
        if let Some((connection, (_, shards))) = open.find(|(_, (owner, _))| *owner == agent) {
            shards.insert(shard);
            return Some(*connection);
        }
        let connection = self.new_connection(shard);
        self.streams.insert(connection, (agent, [shard].into()));
        Some(connection)
    }

    /// Looks at what the server says: which dialogs end, which promises are given.
    fn note_sip(&mut self, agent: usize, message: &SipText) {
        let line = format!(
            "{:?} -> {} {}",
            self.now.instant,
            self.agents[agent].label(),
            message.start_line()
        );
        let call_id = message.header_or_empty("Call-ID").to_owned();
        self.ledger.tell(format!(
            "{line} {} {call_id}",
            message.header_or_empty("CSeq")
        ));
        if message.method().is_none()
            && message.status() >= 300
            && let Some(Purpose::Message(id)) = self.agents[agent].purpose(message.branch())
        {
            self.ledger.entries[id].turned_away = true;
        }
        if matches!(message.method(), Some("BYE" | "CANCEL")) {
            self.ended.insert(call_id);
        }
    }

    fn line_to(&mut self, remote: SocketAddr, shard: u16) -> Option<ConnectionId> {
        let agent = self
            .agents
            .iter()
            .position(|agent| agent.address.ip() == remote.ip())?;
        if self.faults.breakage && self.chance(5) {
            self.disturb_agent(agent);
            return None;
        }
        let mut lines = self.lines.iter_mut();
        let shared =
            lines.find(|(_, line)| line.agent == agent && line.open && line.users.contains(&shard));
        if let Some((connection, _)) = shared {
            return Some(*connection);
        }
        let connection = self.new_connection(shard);
        let mut line = Line::new(agent, shard, self.now.instant);
        line.users.insert(shard);
        self.lines.insert(connection, line);
        Some(connection)
    }

    fn msrp_to_agent(&mut self, shard: u16, connection: ConnectionId, octets: Bytes) {
        let wait = self.some_delay();
        let now = self.now.instant;
        let Some(line) = self.lines.get_mut(&connection).filter(|line| line.open) else {
            let lost = Input::MsrpLost { connection };
            return self.input_after(Duration::from_micros(10), shard, lost);
        };
        line.users.insert(shard);
        line.out_at = (now + wait).max(line.out_at + Duration::from_micros(1));
        let (at, written) = (line.out_at, octets.len());
        self.at(
            at,
            Event::MsrpOut {
                connection,
                octets,
                sent: now,
            },
        );
        let input = Input::MsrpWritten {
            connection,
            octets: written,
        };
        self.input_after(wait, shard, input);
    }

    pub(super) fn msrp_to_server(&mut self, connection: ConnectionId, packet: Packet) {
        let wait = self.some_delay();
        let now = self.now.instant;
        if let Some(line) = self.lines.get_mut(&connection).filter(|line| line.open) {
            line.in_at = (now + wait).max(line.in_at + Duration::from_micros(1));
            let at = line.in_at;
            self.at(at, Event::MsrpIn { connection, packet });
        }
    }

    /// A shard needs the connection no more: when none does, it is closed behind what was written.
    fn release_line(&mut self, shard: u16, connection: ConnectionId) {
        if let Some(line) = self.lines.get_mut(&connection) {
            line.users.remove(&shard);
            if line.users.is_empty() && line.open {
                line.open = false;
                let at = line.out_at + Duration::from_micros(1);
                self.at(
                    at,
                    Event::MsrpEnds {
                        connection,
                        at_server: false,
                    },
                );
            }
        }
    }

    /// The device closes a connection behind what it sent.
    pub(super) fn close_line(&mut self, connection: ConnectionId) {
        if let Some(line) = self.lines.get_mut(&connection).filter(|line| line.open) {
            let at = line.in_at + Duration::from_micros(1);
            self.at(
                at.max(self.now.instant),
                Event::MsrpEnds {
                    connection,
                    at_server: true,
                },
            );
        }
    }

    /// A connection breaks at some octet of what the device has sent last.
    pub fn cut_line(&mut self, connection: ConnectionId) {
        let on_its_way = self.queue.values().find_map(|event| match event {
            Event::MsrpIn {
                connection: own,
                packet,
            } if *own == connection => Some(packet.octets.clone()),
            _ => None,
        });
        if let Some(octets) = on_its_way {
            let end = self.rng.random_range(0..octets.len());
            self.take_msrp(connection, &Packet::plain(octets[..end].to_vec()));
        }
        self.break_line(connection, true);
    }

    /// A connection breaks: what is under way is lost, both ends hear of it.
    pub fn break_line(&mut self, connection: ConnectionId, tell_server: bool) {
        let Some(line) = self.lines.remove(&connection) else {
            return;
        };
        self.disturb_agent(line.agent);
        if tell_server {
            for shard in line.concerned() {
                self.input_after(
                    Duration::from_micros(10),
                    shard,
                    Input::MsrpLost { connection },
                );
            }
        }
        self.with_agent(line.agent, |agent, sight| {
            agent.handle_connection_lost(connection, sight)
        });
    }

    /// A SIP connection breaks.
    pub fn break_stream(&mut self, connection: ConnectionId, tell_server: bool) {
        let Some((agent, shards)) = self.streams.remove(&connection) else {
            return;
        };
        let flow = flow_of(self.agents[agent].address, Some(connection));
        if tell_server {
            for shard in shards {
                self.input_after(Duration::from_micros(10), shard, Input::FlowLost { flow });
            }
        }
        self.disturb_agent(agent);
        self.agents[agent].handle_flow_lost();
    }
}
