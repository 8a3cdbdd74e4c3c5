//! MSRP sessions: one against a peer that writes anything, and two against each other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use restante::clock::Instant;
use restante::msrp::event::{InboundId, OutboundId, SessionEvent};
use restante::msrp::frame::FailureReport;
use restante::msrp::incoming::IncomingLimits;
use restante::msrp::outgoing::{OutboundMessage, OutgoingLimits, RESPONSE_TIMEOUT};
use restante::msrp::reader::{FrameReader, Limits};
use restante::msrp::session::{Session, SessionConfig};
use restante::msrp::uri::{MsrpPath, MsrpUri};
use restante::token::Tokens;

use super::choices::Choices;

/// As the seeds write the paths.
pub const ALICE: &str = "msrp://alice.example:7777/2.alice;tcp";
pub const BOB: &str = "msrp://bob.example:8888/5.bob;tcp";
/// Octets of the largest message the sessions take.
const LARGEST: u64 = 50_000;
/// Chunks that may wait for their answers.
const UNANSWERED: usize = 32;

fn session(local: &str, remote: &str) -> Session<u8> {
    Session::new(SessionConfig {
        local: MsrpUri::parse(local).expect("a URI"),
        remote: MsrpPath::parse(remote).expect("a path"),
        accept_types: vec!["message/cpim".into(), "text/plain".into()],
        incoming: IncomingLimits {
            message: LARGEST,
            arriving: 4,
            unsettled: 8,
            unanswered: UNANSWERED,
            pieces: 8,
            refused: 4 * 1024 * 1024,
        },
        outgoing: OutgoingLimits::default(),
    })
}

fn message(length: Option<u64>, failure_report: FailureReport) -> OutboundMessage {
    OutboundMessage {
        message_id: None,
        content_type: "text/plain".into(),
        length,
        success_report: failure_report == FailureReport::Yes,
        failure_report,
    }
}

/// Whatever a peer writes to Bob: no octet lies beyond the largest message, each message begins once and
/// ends once, what Bob writes can be read, and what he holds is bounded.
pub fn session_survives_any_peer(octets: &[u8]) {
    let mut bob = session(BOB, ALICE);
    let mut tokens = Tokens::from_seed(5);
    let mut reader = FrameReader::new(Limits::default());
    let mut echo = FrameReader::new(Limits::default());
    let mut open: BTreeMap<InboundId, bool> = BTreeMap::new();
    let (plan, octets) = octets.split_at(octets.len().min(8));
    let mut plan = Choices(plan);
    if plan.yes() {
        bob.handle_connected(1, plan.yes(), &mut tokens);
        let id = bob.send(message(Some(5), FailureReport::Yes), &mut tokens);
        bob.supply(id, &Bytes::from_static(b"hello"), &mut tokens);
    }
    let mut now = Instant::from_micros(1_000_000);
    for piece in octets.chunks(1 + plan.below(200)) {
        reader.push(piece);
        while let Ok(Some(event)) = reader.next() {
            bob.handle_frame(1, event);
            while let Some(event) = bob.poll_event() {
                heard(&mut bob, &event, &mut open, &mut plan, &mut tokens);
            }
        }
        while let Some(transmit) = bob.poll_transmit() {
            echo.push(&transmit.octets.joined());
            bob.handle_written(transmit.connection, 1, now);
        }
        while echo.next().expect("what is written can be read").is_some() {}
        assert!(bob.buffered() <= 200_000, "unbounded");
        if let Some(at) = bob.next_deadline() {
            assert!(at.since(now) <= RESPONSE_TIMEOUT);
            if plan.below(4) == 1 {
                now = at;
                bob.handle_timeout(now);
                assert!(
                    bob.next_deadline().is_none_or(|next| next > now),
                    "stands still"
                );
            }
        }
    }
}

fn heard(
    bob: &mut Session<u8>,
    event: &SessionEvent,
    open: &mut BTreeMap<InboundId, bool>,
    plan: &mut Choices<'_>,
    tokens: &mut Tokens,
) {
    match event {
        SessionEvent::MessageBegun { message, total, .. } => {
            assert!(open.insert(*message, true).is_none(), "begun twice");
            assert!(total.is_none_or(|total| total <= LARGEST));
            if plan.below(8) == 1 {
                bob.settle(*message, 413);
            }
        }
        SessionEvent::Data {
            message,
            offset,
            octets,
        } => {
            assert_eq!(open.get(message), Some(&true), "data of no message");
            let end = offset.checked_add(octets.len() as u64);
            assert!(end.is_some_and(|end| end <= LARGEST), "beyond the bound");
        }
        SessionEvent::ChunkDone { message, chunk, .. } => {
            assert!(open.contains_key(message));
            if plan.yes() {
                bob.answer(*chunk, 200);
            }
        }
        SessionEvent::MessageDone { message, length } => {
            assert_eq!(open.insert(*message, false), Some(true), "ended twice");
            assert!(*length <= LARGEST);
            bob.settle(*message, 200);
            bob.report_success(*message, tokens);
        }
        SessionEvent::MessageAborted { message, .. } => {
            assert_eq!(open.insert(*message, false), Some(true), "ended twice");
        }
        _ => {}
    }
}

/// One end of the pair.
struct End {
    session: Session<u8>,
    tokens: Tokens,
    reader: FrameReader,
    /// On their way to the other end.
    wire: VecDeque<u8>,
    sent: BTreeMap<OutboundId, Sent>,
    /// What has arrived, by Message-ID.
    inbox: BTreeMap<InboundId, Arrived>,
    over: bool,
}

struct Sent {
    serial: u8,
    length: u64,
    supplied: u64,
    outcomes: usize,
    is_known: bool,
}

#[derive(Default)]
struct Arrived {
    octets: Vec<u8>,
    done: bool,
    settled: Option<u16>,
}

/// The octet of a message at a place.
fn pattern(serial: u8, offset: u64) -> u8 {
    serial
        .wrapping_mul(31)
        .wrapping_add((offset % 251) as u8)
        .wrapping_add((offset / 251) as u8)
}

impl End {
    fn new(local: &str, remote: &str, seed: u64) -> Self {
        Self {
            session: session(local, remote),
            tokens: Tokens::from_seed(seed),
            reader: FrameReader::new(Limits::default()),
            wire: VecDeque::new(),
            sent: BTreeMap::new(),
            inbox: BTreeMap::new(),
            over: false,
        }
    }

    fn sends(&mut self, serial: u8, choices: &mut Choices<'_>) {
        let length = choices.number() % (LARGEST + 2_000);
        let is_known = choices.yes();
        let reports = [
            FailureReport::Yes,
            FailureReport::Partial,
            FailureReport::No,
        ];
        let report = reports[choices.below(3)];
        let new = message(is_known.then_some(length), report);
        let id = self.session.send(new, &mut self.tokens);
        let sent = Sent {
            serial,
            length,
            supplied: 0,
            outcomes: 0,
            is_known,
        };
        assert!(self.sent.insert(id, sent).is_none(), "named twice");
    }

    /// Gives the oldest what it wants.
    fn supplies(&mut self, most: usize) {
        let Some(want) = self.session.wants() else {
            return;
        };
        let sent = self.sent.get_mut(&want.message).expect("it was sent");
        assert_eq!(want.offset, sent.supplied, "octets out of turn");
        let left = usize::try_from(sent.length - sent.supplied).expect("small");
        let count = want.max.min(left).min(most);
        if count > 0 {
            let octets: Vec<u8> = (0..count as u64)
                .map(|at| pattern(sent.serial, sent.supplied + at))
                .collect();
            sent.supplied += count as u64;
            self.session
                .supply(want.message, &octets.into(), &mut self.tokens);
        }
        let sent = &self.sent[&want.message];
        if sent.supplied == sent.length && !sent.is_known {
            self.session.end(want.message, &mut self.tokens);
        }
    }

    fn writes(&mut self, now: Instant) {
        while let Some(transmit) = self.session.poll_transmit() {
            self.wire.extend(transmit.octets.joined());
            self.session.handle_written(transmit.connection, 1, now);
        }
    }

    fn reads(&mut self, octets: &[u8], peer: &BTreeMap<OutboundId, Sent>) {
        self.reader.push(octets);
        while let Some(event) = self.reader.next().expect("the other end writes MSRP") {
            self.session.handle_frame(1, event);
        }
        while let Some(event) = self.session.poll_event() {
            self.hears(event, peer);
        }
    }

    fn hears(&mut self, event: SessionEvent, peer: &BTreeMap<OutboundId, Sent>) {
        match event {
            SessionEvent::MessageBegun { message, .. } => {
                let known = self.inbox.insert(message, Arrived::default());
                assert!(known.is_none(), "begun twice");
            }
            SessionEvent::Data {
                message,
                offset,
                octets,
            } => {
                let arrived = self.inbox.get_mut(&message).expect("begun");
                assert_eq!(offset, arrived.octets.len() as u64, "a gap in a stream");
                arrived.octets.extend_from_slice(&octets);
            }
            SessionEvent::ChunkDone { message, chunk, .. } if !self.inbox[&message].done => {
                self.session.answer(chunk, 200);
            }
            SessionEvent::MessageDone { message, length } => {
                let arrived = self.inbox.get_mut(&message).expect("begun");
                assert!(!arrived.done, "done twice");
                arrived.done = true;
                assert_eq!(arrived.octets.len() as u64, length);
                let is_whole = |sent: &Sent| {
                    sent.length == length
                        && (0..length)
                            .all(|at| arrived.octets[at as usize] == pattern(sent.serial, at))
                };
                assert!(peer.values().any(is_whole), "nobody sent this");
            }
            SessionEvent::Delivered { message }
            | SessionEvent::Refused { message, .. }
            | SessionEvent::TimedOut { message } => {
                let outcomes = &mut self.sent.get_mut(&message).expect("sent").outcomes;
                *outcomes += 1;
                // A message without answers counts as delivered once it has left, and may yet fail.
                assert!(*outcomes <= 2, "outcomes without end");
            }
            SessionEvent::Ended { .. } => self.over = true,
            _ => {}
        }
    }

    /// Decides about what is done.
    fn settles(&mut self, choices: &mut Choices<'_>) {
        let waiting = self.inbox.iter_mut();
        let mut waiting = waiting.filter(|(_, arrived)| arrived.done && arrived.settled.is_none());
        let Some((message, arrived)) = waiting.nth(choices.below(3)) else {
            return;
        };
        let status = [200, 200, 200, 413][choices.below(4)];
        arrived.settled = Some(status);
        self.session.settle(*message, status);
        if status == 200 {
            self.session.report_success(*message, &mut self.tokens);
        }
    }
}

/// Between two of our ends, split anywhere, at any pace: what arrives whole is what was sent, in order
/// within the message, and in the end every message has an outcome.
pub fn pair_delivers_what_was_sent(octets: &[u8]) {
    let mut choices = Choices(octets);
    let mut ends = [End::new(ALICE, BOB, 1), End::new(BOB, ALICE, 2)];
    let mut now = Instant::from_micros(1_000_000);
    let [alice, _] = &mut ends;
    alice
        .session
        .handle_connected(1, choices.yes(), &mut alice.tokens);
    let mut serial = 0;
    for _ in 0..300 {
        if choices.is_over() {
            break;
        }
        let side = choices.below(2);
        match choices.below(6) {
            0 if serial < 12 => {
                serial += 1;
                ends[side].sends(serial, &mut choices);
            }
            1 => ends[side].supplies(1 + choices.number() as usize),
            2 => ends[side].settles(&mut choices),
            3 => {
                now = now + Duration::from_millis(choices.number());
                for end in &mut ends {
                    if end.session.next_deadline().is_some_and(|at| at <= now) {
                        end.session.handle_timeout(now);
                    }
                }
            }
            _ => carry(&mut ends, side, 1 + choices.number() as usize, now),
        }
    }
    finish(&mut ends, now);
}

fn carry(ends: &mut [End; 2], from: usize, most: usize, now: Instant) {
    let [alice, bob] = ends;
    let (from, to) = if from == 0 {
        (alice, bob)
    } else {
        (bob, alice)
    };
    from.writes(now);
    let count = most.min(from.wire.len());
    let octets: Vec<u8> = from.wire.drain(..count).collect();
    if !octets.is_empty() {
        to.reads(&octets, &from.sent);
    }
}

/// Everybody does his part until nothing moves any more.
fn finish(ends: &mut [End; 2], mut now: Instant) {
    for _ in 0..2_000 {
        for side in 0..2 {
            ends[side].supplies(usize::MAX);
            ends[side].settles(&mut Choices(&[]));
            carry(ends, side, usize::MAX, now);
        }
        let quiet = ends.iter().all(|end| {
            let settled = |arrived: &Arrived| !arrived.done || arrived.settled.is_some();
            // What is answered but not yet written makes room for more.
            let is_written = end.wire.is_empty() && end.session.buffered() == 0;
            is_written && end.session.wants().is_none() && end.inbox.values().all(settled)
        });
        if quiet {
            break;
        }
    }
    now = now + RESPONSE_TIMEOUT + Duration::from_secs(1);
    for end in ends.iter_mut() {
        end.session.handle_timeout(now);
        let none = BTreeMap::new();
        while let Some(event) = end.session.poll_event() {
            end.hears(event, &none);
        }
    }
    for end in ends.iter().filter(|end| !end.over) {
        let ready = end.session.connection().is_some();
        let undecided = end.sent.values().filter(|sent| sent.outcomes == 0).count();
        assert!(!ready || undecided == 0, "{undecided} without an outcome");
    }
}
