//! What reaches whom: the server's side of the links.

use bytes::Bytes;
use rand::RngExt;
use restante::clock::Instant;
use restante::msrp::frame::{FrameEvent, shard_of};
use restante::msrp::reader::{FrameReader, Limits};
use restante::net::ConnectionId;
use restante::shard::core_trait::ShardCore;
use restante::shard::port::Input;
use restante::sip::transport::flow::{Flow, Transport};
use restante::sip::wire;
use restante::store::request::StoreEvent;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::agent::Packet;
use super::disk::shard_of_answer;
use super::{Event, Line, World, from_store};

/// How long the server waits for the answer to a request (RFC 3261 Timers B and F).
const TRANSACTION: Duration = Duration::from_secs(32);

impl Line {
    pub(super) fn new(agent: usize, shard: u16, now: Instant) -> Self {
        Self {
            agent,
            open: true,
            reader: FrameReader::new(Limits::default()),
            current: shard,
            users: BTreeSet::new(),
            served: BTreeSet::new(),
            in_at: now,
            out_at: now,
        }
    }

    /// The shards that hear of its end.
    pub(super) fn concerned(&self) -> BTreeSet<u16> {
        &self.users | &self.served
    }
}

/// What comes from this address, or over this connection.
pub(super) fn flow_of(remote: SocketAddr, connection: Option<ConnectionId>) -> Flow {
    let is_stream = connection.is_some();
    Flow {
        transport: if is_stream {
            Transport::Tcp
        } else {
            Transport::Udp
        },
        listener: u16::from(is_stream),
        remote,
        connection,
    }
}

impl World {
    pub(super) fn deliver(&mut self, event: Event) {
        match event {
            Event::SipIn {
                agent,
                from,
                connection,
                packet,
            } => {
                let flow = flow_of(from, connection);
                self.take_sip(agent, flow, packet);
            }
            Event::SipOut {
                agent,
                connection,
                octets,
                begun,
            } => {
                if connection.is_none_or(|id| self.streams.contains_key(&id)) {
                    self.with_agent(agent, |agent, sight| {
                        agent.handle_sip(&octets, begun, sight)
                    });
                }
            }
            Event::SipLater {
                agent,
                connection,
                packet,
            } => {
                if connection == self.stream_of(agent) {
                    self.sip_to_server(agent, packet);
                }
            }
            Event::MsrpIn { connection, packet } => self.take_msrp(connection, &packet),
            Event::MsrpOut {
                connection,
                octets,
                sent,
            } => {
                if let Some(agent) = self.lines.get(&connection).map(|line| line.agent) {
                    self.with_agent(agent, |agent, sight| {
                        agent.handle_msrp(connection, &octets, sent, sight)
                    });
                }
            }
            Event::Input { shard, life, input } => {
                if life == self.life {
                    self.give(shard, *input);
                }
            }
            Event::MsrpOpened { agent, call } => {
                let shard = self.rng.random_range(0..self.shards);
                let connection = self.new_connection(shard);
                self.lines
                    .insert(connection, Line::new(agent, shard, self.now.instant));
                self.with_agent(agent, |agent, sight| {
                    agent.handle_connected(call, connection, sight)
                });
            }
            Event::StoreWorks { life, line } if life == self.life => {
                let answers = self.disk.work(line);
                self.answer_from_store(line, answers);
                let most = self.faults.store_delay.max(1);
                let wait = Duration::from_micros(self.rng.random_range(50..=most * 1000));
                self.after(wait, Event::StoreSyncs { life });
            }
            Event::StoreSyncs { life } if life == self.life => {
                let answers = self.disk.sync();
                self.answer_from_store(0, answers);
            }
            Event::StoreWorks { .. } | Event::StoreSyncs { .. } => {}
            Event::MsrpEnds {
                connection,
                at_server,
            } => self.end_line(connection, at_server),
        }
    }

    /// Hands an input to a shard and does what follows.
    fn give(&mut self, shard: u16, input: Input) {
        let forgotten = self.metrics.receipt_rows_forgotten.value();
        self.cores[usize::from(shard)].handle_input(input, self.now);
        if self.metrics.receipt_rows_forgotten.value() > forgotten {
            self.ledger.forgot_at = Some(self.now.instant);
        }
        self.perform(shard);
    }

    /// The log answers in order, and so do the readers; they do not wait for each other.
    fn answer_from_store(&mut self, lane: usize, answers: Vec<StoreEvent>) {
        for event in answers {
            let most = self.faults.store_delay.max(1);
            let wait = Duration::from_micros(self.rng.random_range(10..=most * 300));
            let at = (self.now.instant + wait).max(self.store_at[lane] + Duration::from_micros(1));
            self.store_at[lane] = at;
            let (shard, life) = (shard_of_answer(&event), self.life);
            let input = Box::new(from_store(event));
            self.at(at, Event::Input { shard, life, input });
        }
    }

    /// The connection of an agent that speaks TCP.
    pub(super) fn stream_of(&self, agent: usize) -> Option<ConnectionId> {
        let mut all = self.streams.iter();
        all.find(|(_, (owner, _))| *owner == agent)
            .map(|(id, _)| *id)
    }

    pub(super) fn sip_to_server(&mut self, agent: usize, packet: Packet) {
        let from = self.agents[agent].address;
        if !self.agents[agent].is_stream {
            if self.chance(self.faults.loss) {
                return self.disturb_agent(agent);
            }
            let copies = 1 + u32::from(self.chance(self.faults.repeats));
            for _ in 0..copies {
                let (packet, wait) = (packet.clone(), self.some_delay());
                self.after(
                    wait,
                    Event::SipIn {
                        agent,
                        from,
                        connection: None,
                        packet,
                    },
                );
            }
            return;
        }
        let connection = self.stream_of(agent).unwrap_or_else(|| {
            let shard = self.rng.random_range(0..self.shards);
            let connection = self.new_connection(shard);
            self.streams.insert(connection, (agent, BTreeSet::new()));
            connection
        });
        let at = self.in_order(connection, true);
        self.at(
            at,
            Event::SipIn {
                agent,
                from,
                connection: Some(connection),
                packet,
            },
        );
    }

    fn take_sip(&mut self, agent: usize, flow: Flow, packet: Packet) {
        let connection = flow.connection;
        if connection.is_some_and(|id| !self.streams.contains_key(&id)) {
            return;
        }
        let first = packet
            .octets
            .split(|octet| *octet == b'\r')
            .next()
            .unwrap_or_default();
        let line = String::from_utf8_lossy(first).into_owned();
        self.ledger.tell(format!(
            "{:?} <- {} {line}",
            self.now.instant,
            self.agents[agent].label()
        ));
        let message = match wire::parse(Bytes::from(packet.octets.clone())) {
            Ok(message) => message,
            Err(error) => {
                return self
                    .ledger
                    .fault(format!("the server cannot read {line}: {error}"));
            }
        };
        let shard = self.cores[0].owner_of(&message);
        if let Some(connection) = connection
            && let Some((_, shards)) = self.streams.get_mut(&connection)
        {
            shards.insert(shard);
        }
        if line.starts_with("BYE")
            && let Ok(call_id) = message.call_id()
        {
            self.ended.insert(call_id.to_owned());
        }
        self.confirm(&packet);
        self.give(
            shard,
            Input::Sip {
                flow,
                message,
                is_again: false,
            },
        );
    }

    /// From here on the server knows what a device has taken.
    fn confirm(&mut self, packet: &Packet) {
        let Some((id, device)) = packet.confirms else {
            return;
        };
        let now = self.now.instant;
        let is_known = match &packet.call_id {
            Some(call_id) => !self.ended.contains(call_id),
            None => packet.begun + TRANSACTION > now,
        };
        if is_known && packet.begun > self.started_at {
            self.ledger.confirmed(id, device, now);
        }
    }

    pub(super) fn take_msrp(&mut self, connection: ConnectionId, packet: &Packet) {
        let Some(line) = self.lines.get_mut(&connection) else {
            return;
        };
        let mut readings: Vec<(u16, Vec<FrameEvent>)> = Vec::new();
        let cut = self.rng.random_range(0..=packet.octets.len());
        for part in [&packet.octets[..cut], &packet.octets[cut..]] {
            line.reader.push(part);
            let before = readings.len();
            while let Some(event) = line.reader.next().expect("a device writes MSRP") {
                if !matches!(event, FrameEvent::Data(_) | FrameEvent::End(_)) {
                    let shard = shard_of(&event).filter(|shard| *shard < self.shards);
                    line.current = shard.unwrap_or(connection.shard());
                }
                line.users.insert(line.current);
                line.served.insert(line.current);
                match readings[before..].last_mut() {
                    Some((shard, events)) if *shard == line.current => events.push(event),
                    _ => readings.push((line.current, vec![event])),
                }
            }
        }
        self.confirm(packet);
        let life = self.life;
        for (shard, events) in readings {
            // What is killed by one reading does not see the next.
            if life == self.life {
                self.give(shard, Input::Msrp { connection, events });
            }
        }
    }

    fn end_line(&mut self, connection: ConnectionId, at_server: bool) {
        if at_server {
            let Some(line) = self.lines.remove(&connection) else {
                return;
            };
            for shard in line.concerned() {
                let lost = Input::MsrpLost { connection };
                self.input_after(Duration::from_micros(1), shard, lost);
            }
            return;
        }
        self.break_line(connection, true);
    }
}
