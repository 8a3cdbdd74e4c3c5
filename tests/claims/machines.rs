//! Dialogs, session timers and the transaction table of SIP.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use restante::clock::{Instant, Now, UnixMillis};
use restante::sip::dialog::{Dialog, DialogId};
use restante::sip::message::Message;
use restante::sip::reply;
use restante::sip::session_timer::{FLOOR, Policy, SessionTimer};
use restante::sip::transaction::TimerConfig;
use restante::sip::transaction::table::{
    ClientId, Kind, RequestOutcome, ResponseOutcome, ServerId, TransactionEvent, TransactionTable,
};
use restante::sip::transport::flow::{ConnectionId, Flow, Transport};
use restante::sip::{validate, wire};
use restante::token::Tokens;

use super::choices::Choices;

/// The octets are two messages, one behind the other. Whatever dialog they make, requests inside it are
/// legal, count up, and hold no field that was not put there.
pub fn dialog_makes_legal_requests(octets: &[u8]) {
    let Ok(first) = wire::parse(Bytes::copy_from_slice(octets)) else {
        return;
    };
    if validate::validate(&first).is_err() {
        return;
    }
    let behind = octets.get(first.bytes().len()..).unwrap_or_default();
    let second = wire::parse(Bytes::copy_from_slice(behind)).ok();
    timed(&first, second.as_ref());
    if !first.is_request() {
        return;
    }
    let _ = DialogId::of_request(&first);
    if let Ok(dialog) = Dialog::as_uas(&first, 200, "own") {
        played(dialog, second.as_ref());
    }
    if let Some(response) = second.filter(|second| !second.is_request())
        && let Ok(dialog) = Dialog::as_uac(&first, &response)
    {
        played(dialog, Some(&response));
    }
}

fn played(mut dialog: Dialog, next: Option<&Message>) {
    if let Some(next) = next {
        if next.is_request() {
            let before = dialog.remote_cseq;
            let _ = dialog.check_cseq(next);
            assert!(dialog.remote_cseq >= before);
            dialog.refresh_target(next);
        } else {
            dialog.confirm(next);
        }
    }
    let routes = dialog.route_set.len();
    for expected in 1..=2 {
        let via = "SIP/2.0/UDP own.test;branch=z9hG4bKown";
        let number = dialog.local_cseq + 1;
        let built = dialog.next_request("BYE", via).build();
        let request = wire::parse(built).expect("a request is a message");
        assert!(expected > 2 || request.cseq().map(|cseq| cseq.number) == Ok(number));
        let all = request.all_headers().count();
        assert!(
            all <= 7 + routes.max(1),
            "{all} fields with {routes} routes"
        );
        assert_eq!(
            request
                .values(restante::sip::message::HeaderName::Via)
                .count(),
            1
        );
        assert!(!dialog.next_hop().is_empty());
    }
}

fn timed(first: &Message, second: Option<&Message>) {
    let start = Instant::from_micros(1_000_000);
    let mut timer = SessionTimer::new(Policy::default());
    let _ = timer.answer(first, start);
    if let Some(second) = second.filter(|second| !second.is_request()) {
        timer.accepted(second, start);
        let _ = timer.refused(second);
    }
    let _ = (timer.offer(), timer.offer_again());
    let mut last = start;
    for _ in 0..3 {
        let Some(at) = timer.next_deadline() else {
            break;
        };
        // RFC 4028 §11.1: nobody makes us refresh as often as he likes.
        assert!(last > start || at.since(start) >= FLOOR / 3, "too soon");
        let due = timer.handle_timeout(at);
        assert!(due.is_some(), "a deadline with nothing to do");
        if due == Some(restante::sip::session_timer::Due::Expired) {
            break;
        }
        assert!(
            timer.next_deadline().is_none_or(|next| next > at),
            "stands still"
        );
        last = at;
    }
}

/// Transactions a table of the claim holds.
const MOST: usize = 8;

struct Table {
    now: Now,
    table: TransactionTable,
    tokens: Tokens,
    /// Those that were handed up and have had no final response.
    owed: BTreeMap<ServerId, Message>,
    /// Our requests and how many outcomes they had.
    asked: BTreeMap<ClientId, (Message, usize)>,
    known: Vec<ServerId>,
}

fn flow(choice: usize) -> Flow {
    let reliable = choice & 1 == 1;
    Flow {
        transport: if reliable {
            Transport::Tcp
        } else {
            Transport::Udp
        },
        listener: 0,
        remote: ([192, 0, 2, choice as u8], 5060).into(),
        connection: reliable.then(|| ConnectionId::new(0, choice as u64)),
    }
}

fn request(method: &str, branch: &str, number: usize, to_tag: &str) -> Message {
    let text = format!(
        "{method} sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP h:5060;branch={branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@im.test>;tag=1\r\nTo: <sip:bob@im.test>{to_tag}\r\n\
         Call-ID: c\r\nCSeq: {number} {method}\r\nContent-Length: 0\r\n\r\n"
    );
    wire::parse(Bytes::from(text)).expect("a request")
}

const METHODS: [&str; 6] = ["INVITE", "MESSAGE", "REGISTER", "BYE", "ACK", "CANCEL"];
const STATUSES: [u16; 7] = [100, 180, 200, 202, 404, 486, 603];

/// Every request is handed up once, every request of ours has one failure at most and none behind a
/// final answer, deadlines move on, the bound holds, and once everybody has answered nothing stays.
pub fn transactions_end_once_and_all(octets: &[u8]) {
    let mut choices = Choices(octets);
    let mut table = Table {
        now: Now {
            instant: Instant::from_micros(1_000_000),
            wall: UnixMillis(1_800_000_000_000),
        },
        table: TransactionTable::new(TimerConfig::default(), MOST, 0),
        tokens: Tokens::from_seed(1),
        owed: BTreeMap::new(),
        asked: BTreeMap::new(),
        known: Vec::new(),
    };
    for _ in 0..200 {
        if choices.is_over() {
            break;
        }
        table.step(&mut choices);
        // A CANCEL does not count, or a full table could not empty itself.
        assert!(table.table.len() <= 2 * MOST, "unbounded");
        table.take_events();
    }
    table.ends();
}

impl Table {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(8) {
            0 | 1 => self.is_asked(choices),
            2 => self.answers(choices),
            3 => self.asks(choices),
            4 => self.hears(choices),
            5 => {
                let pick = choices.below(MOST);
                if let Some(id) = self.asked.keys().nth(pick).copied() {
                    self.table.cancel(id, self.now);
                }
            }
            6 => self
                .table
                .handle_flow_lost(flow(choices.below(4)), self.now),
            _ => {
                let millis = choices.number();
                self.pass(Duration::from_millis(millis));
            }
        }
    }

    fn is_asked(&mut self, choices: &mut Choices<'_>) {
        let method = METHODS[choices.below(METHODS.len())];
        let branch = format!("z9hG4bK{}", choices.below(5));
        let message = request(method, &branch, 1 + choices.below(2), "");
        let outcome = self
            .table
            .handle_request(&message, flow(choices.below(4)), self.now);
        let fresh = match outcome {
            RequestOutcome::New(id) | RequestOutcome::Merged(id) => id,
            RequestOutcome::CancelOf { cancel, .. } => cancel,
            RequestOutcome::AckTo2xx => {
                assert_eq!(method, "ACK");
                if let Some(id) = self.known.get(choices.below(MOST)).copied() {
                    self.table.ack_received_for_2xx(id, self.now);
                }
                return;
            }
            RequestOutcome::Ack(_) | RequestOutcome::Absorbed => return,
            RequestOutcome::Busy => {
                assert!(self.table.len() >= MOST);
                return;
            }
        };
        assert!(!self.known.contains(&fresh), "handed up twice");
        self.known.push(fresh);
        self.owed.insert(fresh, message);
    }

    fn answers(&mut self, choices: &mut Choices<'_>) {
        let (pick, status) = (choices.below(MOST), STATUSES[choices.below(STATUSES.len())]);
        let Some(id) = self.owed.keys().nth(pick).copied() else {
            return;
        };
        let octets = reply::response(&self.owed[&id], status, "R", Some("own")).build();
        match choices.yes() {
            true => self.table.respond(id, status, octets, self.now),
            false => self.table.relay(id, status, octets, self.now),
        }
        if status >= 200 {
            self.owed.remove(&id);
        }
    }

    fn asks(&mut self, choices: &mut Choices<'_>) {
        let branch = self.table.fresh_branch(&mut self.tokens);
        let invite = choices.yes();
        let (kind, method) = match invite {
            true => (Kind::Invite, "INVITE"),
            false => (Kind::NonInvite, "MESSAGE"),
        };
        let message = request(method, &branch, 1, "");
        let to = flow(choices.below(4));
        let octets = message.bytes().clone();
        match self.table.request(kind, &branch, octets, to, self.now) {
            Ok(id) => {
                assert!(self.asked.insert(id, (message, 0)).is_none(), "named twice");
            }
            Err(_) => assert!(self.table.len() >= MOST),
        }
    }

    fn hears(&mut self, choices: &mut Choices<'_>) {
        let pick = choices.below(MOST);
        let status = STATUSES[choices.below(STATUSES.len())];
        let Some((id, (sent, _))) = self.asked.iter().nth(pick) else {
            return;
        };
        let id = *id;
        let octets = reply::response(sent, status, "R", Some("peer")).build();
        let response = wire::parse(octets).expect("a response");
        if let ResponseOutcome::Deliver(whose) = self.table.handle_response(&response, self.now) {
            assert_eq!(whose, id, "somebody else's response");
            // RFC 6026 §7.2: every 2xx to an INVITE is handed up.
            let again = sent.method_str() == "INVITE" && (200..300).contains(&status);
            let outcomes = self.outcome(id);
            assert!(status < 200 || *outcomes == 0 || again, "two outcomes");
            *outcomes += usize::from(status >= 200);
        }
    }

    fn outcome(&mut self, id: ClientId) -> &mut usize {
        &mut self.asked.get_mut(&id).expect("we asked").1
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now.plus(span);
        let mut turns = 0;
        while let Some(at) = self.table.next_deadline().filter(|at| *at <= until.instant) {
            self.now = self.now.plus(at.since(self.now.instant));
            self.table.handle_timeout(self.now);
            self.take_events();
            let next = self.table.next_deadline();
            assert!(
                next.is_none_or(|next| next > self.now.instant),
                "stands still"
            );
            turns += 1;
            assert!(turns < 10_000, "no end");
        }
        self.now = until;
    }

    fn take_events(&mut self) {
        while let Some(event) = self.table.poll_event() {
            match event {
                TransactionEvent::Withheld => panic!("nothing is withheld without a bound"),
                TransactionEvent::Transmit { octets, .. }
                | TransactionEvent::Answer { octets, .. } => {
                    wire::parse(octets).expect("what is sent is a message");
                }
                TransactionEvent::ServerGone(id, _) => {
                    assert!(self.known.contains(&id));
                    self.owed.remove(&id);
                }
                TransactionEvent::TimedOut(id) | TransactionEvent::Unreachable(id) => {
                    let outcomes = self.outcome(id);
                    assert_eq!(*outcomes, 0, "a failure behind an outcome");
                    *outcomes += 1;
                }
            }
        }
    }

    fn ends(&mut self) {
        for (id, request) in std::mem::take(&mut self.owed) {
            let octets = reply::response(&request, 500, "R", Some("own")).build();
            self.table.respond(id, 500, octets, self.now);
        }
        for id in self.asked.keys().copied().collect::<Vec<_>>() {
            self.table.cancel(id, self.now);
        }
        self.take_events();
        self.pass(Duration::from_secs(600));
        assert!(self.table.is_empty(), "{} stay", self.table.len());
        let undecided = self.asked.values().filter(|(_, outcomes)| *outcomes == 0);
        assert_eq!(undecided.count(), 0, "requests without an outcome");
    }
}
