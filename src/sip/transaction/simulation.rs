//! A client's table and a server's table over a link that loses, repeats and reorders datagrams, with
//! time as a number. Whatever the link does, each request is handed up once, each gets one outcome,
//! and both tables are empty at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::action::GoneReason;
use super::table::{
    ClientId, Kind, RequestOutcome, ResponseOutcome, ServerId, TransactionEvent, TransactionTable,
};
use super::timer::TimerConfig;
use crate::clock::{Instant, Now};
use crate::sip::message::{Message, Method};
use crate::sip::transport::flow::{ConnectionId, Flow, Transport};
use crate::sip::{reply, wire};
use crate::token::Tokens;

const ALICE: &str = "192.0.2.1:5060";
const BOB: &str = "192.0.2.2:5060";
const REQUESTS: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Alice,
    Bob,
}

/// What can be seen of one request at both ends.
#[derive(Debug, Default)]
struct Story {
    handed_up: usize,
    finals: usize,
    distinct_finals: Vec<u16>,
    failures: usize,
}

struct Link {
    transport: Transport,
    loss_percent: u64,
    repeat_percent: u64,
    slowest: u64,
}

struct World {
    now: Now,
    dice: Tokens,
    link: Link,
    alice: TransactionTable,
    bob: TransactionTable,
    in_flight: BTreeMap<(Instant, u64), (Side, Bytes)>,
    plans: BTreeMap<(Instant, u64), (ServerId, u16, Message)>,
    serial: u64,
    asked: BTreeMap<ClientId, usize>,
    answered: BTreeMap<usize, ServerId>,
    stories: Vec<Story>,
    unacknowledged: usize,
}

impl World {
    fn new(seed: u64, link: Link) -> Self {
        let table = |shard| TransactionTable::new(TimerConfig::default(), 1000, shard);
        Self {
            now: Now::default(),
            dice: Tokens::from_seed(seed),
            link,
            alice: table(1),
            bob: table(2),
            in_flight: BTreeMap::new(),
            plans: BTreeMap::new(),
            serial: 0,
            asked: BTreeMap::new(),
            answered: BTreeMap::new(),
            stories: Vec::new(),
            unacknowledged: 0,
        }
    }

    fn play(&mut self) {
        for index in 0..REQUESTS {
            self.stories.push(Story::default());
            self.alice_asks(index);
        }
        while let Some(at) = self.next_moment() {
            self.now = Now {
                instant: at.max(self.now.instant),
                wall: self.now.wall,
            };
            self.step();
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice.number() % sides
    }

    fn flow_to(&self, side: Side) -> Flow {
        let remote = match side {
            Side::Alice => ALICE,
            Side::Bob => BOB,
        };
        Flow {
            transport: self.link.transport,
            listener: 0,
            remote: remote.parse().unwrap(),
            connection: (self.link.transport == Transport::Tcp).then(|| ConnectionId::new(0, 1)),
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let moments = [
            self.in_flight.keys().next().map(|(at, _)| *at),
            self.plans.keys().next().map(|(at, _)| *at),
            self.alice.next_deadline(),
            self.bob.next_deadline(),
        ];
        moments.into_iter().flatten().min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now.instant {
                break;
            }
            let (side, octets) = entry.remove();
            match side {
                Side::Alice => self.alice_hears(octets),
                Side::Bob => self.bob_hears(octets),
            }
        }
        while let Some(entry) = self.plans.first_entry() {
            if entry.key().0 > self.now.instant {
                break;
            }
            let (id, status, request) = entry.remove();
            let octets = reply::response(&request, status, "Reason", Some("bob")).build();
            self.bob.respond(id, status, octets, self.now);
        }
        self.alice.handle_timeout(self.now);
        self.bob.handle_timeout(self.now);
        self.take_events();
    }

    fn take_events(&mut self) {
        while let Some(event) = self.alice.poll_event() {
            match event {
                TransactionEvent::Transmit { octets, .. } => self.send(Side::Bob, octets),
                TransactionEvent::TimedOut(id) | TransactionEvent::Unreachable(id) => {
                    let index = self.asked[&id];
                    self.stories[index].failures += 1;
                }
                other => panic!("alice serves nothing: {other:?}"),
            }
        }
        while let Some(event) = self.bob.poll_event() {
            match event {
                TransactionEvent::Transmit { flow, octets } => {
                    assert_eq!(flow, self.flow_to(Side::Alice));
                    self.send(Side::Alice, octets);
                }
                TransactionEvent::ServerGone(_, GoneReason::NoAck) => self.unacknowledged += 1,
                TransactionEvent::ServerGone(..) => {}
                other => panic!("bob asks nothing: {other:?}"),
            }
        }
    }

    fn send(&mut self, to: Side, octets: Bytes) {
        if self.roll(100) < self.link.loss_percent {
            return;
        }
        let copies = 1 + u64::from(self.roll(100) < self.link.repeat_percent);
        for _ in 0..copies {
            let delay = match self.link.transport {
                Transport::Tcp => 20,
                Transport::Udp => 1 + self.roll(self.link.slowest),
            };
            let at = self.now.instant + Duration::from_millis(delay);
            self.serial += 1;
            self.in_flight
                .insert((at, self.serial), (to, octets.clone()));
        }
    }

    fn alice_asks(&mut self, index: usize) {
        let kind = if self.roll(2) == 0 {
            Kind::Invite
        } else {
            Kind::NonInvite
        };
        let method = match kind {
            Kind::Invite => "INVITE",
            Kind::NonInvite => "MESSAGE",
        };
        let branch = self.alice.fresh_branch(&mut self.dice);
        let octets = request_text(method, &branch, index, "");
        let flow = self.flow_to(Side::Bob);
        let id = self
            .alice
            .request(kind, &branch, octets, flow, self.now)
            .unwrap();
        self.asked.insert(id, index);
        self.take_events();
    }

    fn alice_hears(&mut self, octets: Bytes) {
        let response = wire::parse(octets).unwrap();
        let ResponseOutcome::Deliver(id) = self.alice.handle_response(&response, self.now) else {
            return;
        };
        let index = self.asked[&id];
        let status = response.status();
        if status >= 200 {
            let story = &mut self.stories[index];
            story.finals += 1;
            if !story.distinct_finals.contains(&status) {
                story.distinct_finals.push(status);
            }
        }
        if (200..300).contains(&status) && response.cseq().unwrap().method == "INVITE" {
            let branch = self.alice.fresh_branch(&mut self.dice);
            let ack = request_text("ACK", &branch, index, ";tag=bob");
            self.send(Side::Bob, ack);
        }
    }

    fn bob_hears(&mut self, octets: Bytes) {
        let request = wire::parse(octets).unwrap();
        let flow = self.flow_to(Side::Alice);
        let index: usize = request.call_id().unwrap().parse().unwrap();
        match self.bob.handle_request(&request, flow, self.now) {
            RequestOutcome::New(id) => {
                self.stories[index].handed_up += 1;
                self.answered.insert(index, id);
                self.plan_answer(id, request);
            }
            RequestOutcome::AckTo2xx => {
                let id = self.answered[&index];
                self.bob.ack_received_for_2xx(id, self.now);
            }
            RequestOutcome::Absorbed | RequestOutcome::Ack(_) => {}
            other => panic!("nothing else was sent: {other:?}"),
        }
    }

    fn plan_answer(&mut self, id: ServerId, request: Message) {
        let status = [200, 202, 404, 486, 603][self.roll(5) as usize];
        let rings = request.method() == Method::Invite && self.roll(2) == 0;
        let delay = self.roll(6000);
        if rings {
            self.plan(delay / 2, id, 180, request.clone());
        }
        self.plan(delay, id, status, request);
    }

    fn plan(&mut self, millis: u64, id: ServerId, status: u16, request: Message) {
        let at = self.now.instant + Duration::from_millis(millis);
        self.serial += 1;
        self.plans.insert((at, self.serial), (id, status, request));
    }
}

fn request_text(method: &str, branch: &str, index: usize, to_tag: &str) -> Bytes {
    Bytes::from(format!(
        "{method} sip:bob@example.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch={branch}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=alice\r\n\
         To: <sip:bob@example.com>{to_tag}\r\n\
         Call-ID: {index}\r\n\
         CSeq: 1 {method}\r\n\
         Contact: <sip:alice@192.0.2.1>\r\n\
         Content-Length: 0\r\n\r\n"
    ))
}

fn assert_forgotten(world: &World, seed: u64) {
    assert_eq!(world.alice.len(), 0, "seed {seed}: alice forgets");
    assert_eq!(world.bob.len(), 0, "seed {seed}: bob forgets");
}

#[test]
fn every_request_gets_its_one_answer_over_a_lossy_and_reordering_link() {
    for seed in 0..200 {
        let mut world = World::new(
            seed,
            Link {
                transport: Transport::Udp,
                loss_percent: 10,
                repeat_percent: 10,
                slowest: 800,
            },
        );
        world.play();
        for (index, story) in world.stories.iter().enumerate() {
            assert_eq!(story.handed_up, 1, "seed {seed}, request {index}");
            assert_eq!(story.failures, 0, "seed {seed}, request {index}");
            assert_eq!(
                story.distinct_finals.len(),
                1,
                "seed {seed}, request {index}"
            );
        }
        assert_eq!(world.unacknowledged, 0, "seed {seed}");
        assert_forgotten(&world, seed);
    }
}

#[test]
fn a_final_response_that_is_no_2xx_to_invite_is_delivered_once() {
    for seed in 0..200 {
        let mut world = World::new(
            seed,
            Link {
                transport: Transport::Udp,
                loss_percent: 0,
                repeat_percent: 50,
                slowest: 3000,
            },
        );
        world.play();
        for (index, story) in world.stories.iter().enumerate() {
            assert_eq!(story.handed_up, 1, "seed {seed}, request {index}");
            if story.distinct_finals[0] >= 300 {
                assert_eq!(story.finals, 1, "seed {seed}, request {index}");
            }
        }
        assert_forgotten(&world, seed);
    }
}

#[test]
fn a_link_that_loses_most_datagrams_ends_in_exactly_one_outcome() {
    for seed in 0..200 {
        let mut world = World::new(
            seed,
            Link {
                transport: Transport::Udp,
                loss_percent: 60,
                repeat_percent: 10,
                slowest: 400,
            },
        );
        world.play();
        for (index, story) in world.stories.iter().enumerate() {
            let outcomes = story.distinct_finals.len() + story.failures;
            // An INVITE that rang and lost its final response has no timer of its own (§17.1.1.2).
            assert!(outcomes <= 1, "seed {seed}, request {index}: {story:?}");
            assert!(story.handed_up <= 1, "seed {seed}, request {index}");
        }
        assert_eq!(world.bob.len(), 0, "seed {seed}: bob forgets");
    }
}

#[test]
fn a_reliable_link_carries_every_message_once() {
    for seed in 0..50 {
        let mut world = World::new(
            seed,
            Link {
                transport: Transport::Tcp,
                loss_percent: 0,
                repeat_percent: 0,
                slowest: 1,
            },
        );
        world.play();
        for (index, story) in world.stories.iter().enumerate() {
            assert_eq!(story.handed_up, 1, "seed {seed}, request {index}");
            assert_eq!(story.finals, 1, "seed {seed}, request {index}");
        }
        assert_eq!(world.unacknowledged, 0, "seed {seed}");
        assert_forgotten(&world, seed);
    }
}
