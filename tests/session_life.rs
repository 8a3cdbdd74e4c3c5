//! The life of a session by the clock: refreshes, their absence, repeated ringing; and what is taken without
//! memory. A core is given SIP messages and time, so that half an hour takes no time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use restante::clock::{Instant, Now, UnixMillis};
use restante::config::{Config, Period};
use restante::limits::load::Entry;
use restante::limits::memory::Room;
use restante::limits::meters::Meters;
use restante::limits::sources::Sources;
use restante::msrp::reader::{FrameReader, Limits};
use restante::net::ConnectionId;
use restante::registrar::Directory;
use restante::router::{Knowledge, RouteKey};
use restante::server::{Addresses, CoreContext};
use restante::shard::core::Core;
use restante::shard::core_trait::ShardCore;
use restante::shard::port::{Action, Input};
use restante::sip::transport::flow::{Flow, Transport};
use restante::sip::wire;
use restante::store::memory::MemoryStore;
use restante::store::request::Refusal;
use restante::token::Tokens;

const ALICE: &str = "192.0.2.10:5060";
const BOB: &str = "192.0.2.20:5060";

/// A server of one shard, its store, and a clock that we move.
struct Bench {
    core: Core,
    store: MemoryStore,
    now: Now,
    sent: VecDeque<(SocketAddr, String)>,
    /// What left over MSRP, by the number of the connection.
    frames: VecDeque<(ConnectionId, String)>,
    branches: u32,
}

impl Bench {
    fn new() -> Self {
        let mut config = Config::default();
        // Nothing happens over MSRP for hours here.
        config.msrp.idle_timeout = Period::seconds(86_400);
        config.msrp.binding_timeout = Period::seconds(86_400);
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let addresses = Addresses {
            sip: vec![(Transport::Udp, at(5060))],
            msrp: vec![at(2855)],
            ..Addresses::default()
        };
        let knowledge = Knowledge {
            directory: Arc::new(Directory::new(&config)),
            digest: None,
            own: Arc::new([("192.0.2.1".to_owned(), 5060)]),
            route_key: RouteKey {
                secret: [7; 32],
                run: 1,
            },
            meters: Arc::new(Meters::new(&config)),
            shards: 1,
            sources: Arc::new(Sources::without_limits()),
        };
        let now = Now {
            instant: Instant::from_micros(1_000_000),
            wall: UnixMillis(1_800_000_000_000),
        };
        let context = CoreContext {
            shard: 0,
            shards: 1,
            config: Arc::new(config),
            addresses: Arc::new(addresses),
            knowledge,
            metrics: Arc::default(),
            memory: restante::limits::memory::Account::detached(),
            bindings: Vec::new(),
            duplicate_keys: Vec::new(),
            waiting: Vec::new(),
            documents: Vec::new(),
        };
        Self {
            core: Core::new(context, Tokens::from_seed(7), now),
            store: MemoryStore::default(),
            now,
            sent: VecDeque::new(),
            frames: VecDeque::new(),
            branches: 0,
        }
    }

    /// A SIP message reaches the server: a first line, then header fields, then a body.
    fn gets(&mut self, from: &str, first: &str, fields: &str, body: &str) {
        let text = format!(
            "{first}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let message = wire::parse(text.into()).expect("a message");
        let flow = Flow {
            transport: Transport::Udp,
            listener: 0,
            remote: from.parse().expect("an address"),
            connection: None,
        };
        self.core.handle_input(
            Input::Sip {
                flow,
                message,
                is_again: false,
            },
            self.now,
        );
        self.settle();
    }

    /// A request; its Via is written here.
    fn asked(&mut self, from: &str, first: &str, fields: &str, body: &str) {
        self.branches += 1;
        let via = format!(
            "Via: SIP/2.0/UDP {from};branch=z9hG4bKb{}\r\nMax-Forwards: 70\r\n{fields}",
            self.branches
        );
        self.gets(from, first, &via, body);
    }

    /// Answers a request of the server.
    fn answers(&mut self, request: &Sip, status: &str, more: &str, body: &str) {
        let tag = if request.field("To").contains("tag=") {
            ""
        } else {
            ";tag=device"
        };
        let fields = format!(
            "Via: {}\r\nFrom: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{more}",
            request.field("Via"),
            request.field("From"),
            request.field("To"),
            request.field("Call-ID"),
            request.field("CSeq"),
        );
        self.gets(&request.to, &format!("SIP/2.0 {status}"), &fields, body);
    }

    fn settle(&mut self) {
        loop {
            while let Some(action) = self.core.poll_action() {
                match action {
                    Action::SendSip { flow, octets } => {
                        let text = String::from_utf8(octets.to_vec()).expect("text");
                        self.sent.push_back((flow.remote, text));
                    }
                    Action::SendMsrp { connection, octets } => {
                        let text = String::from_utf8(octets.joined().to_vec()).expect("text");
                        self.frames.push_back((connection, text));
                    }
                    Action::Store(request) => self.store.handle(request),
                    _ => {}
                }
            }
            let Some(event) = self.store.poll_event() else {
                return;
            };
            self.core.handle_input(Input::Store(event), self.now);
        }
    }

    /// Lets time pass, with everything that falls due.
    fn waits(&mut self, seconds: f64) {
        let end = self.now.instant + Duration::from_secs_f64(seconds);
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            let step = at.since(self.now.instant).max(Duration::from_millis(1));
            self.now = self.now.plus(step);
            self.core.handle_timeout(self.now);
            self.settle();
        }
        self.now = self.now.plus(end.since(self.now.instant));
    }

    /// Lets time pass until a message to `to` leaves; it does within so many seconds.
    fn waits_for(&mut self, seconds: f64, to: &str, begins: &str) -> Sip {
        let end = self.now.instant + Duration::from_secs_f64(seconds);
        let address: SocketAddr = to.parse().expect("an address");
        while self.now.instant < end && self.sent.iter().all(|(own, _)| *own != address) {
            self.waits(0.1);
        }
        self.expect(to, begins)
    }

    /// The next message to `to`, whose first line begins so.
    fn expect(&mut self, to: &str, begins: &str) -> Sip {
        let address: SocketAddr = to.parse().expect("an address");
        let place = self.sent.iter().position(|(own, _)| *own == address);
        let Some((_, text)) = place.and_then(|at| self.sent.remove(at)) else {
            panic!("nothing was sent to {to}, let alone {begins}");
        };
        assert!(
            text.starts_with(begins),
            "expected {begins} and got\n{text}"
        );
        Sip {
            to: to.to_owned(),
            text,
        }
    }

    fn expect_nothing(&mut self) {
        assert_eq!(self.sent, []);
    }

    /// Alice invites Bob with these fields beside those every INVITE has.
    fn alice_invites(&mut self, more: &str) {
        let fields = format!("{}CSeq: 1 INVITE\r\n{DESCRIBED}{more}", alice(""));
        self.asked(
            ALICE,
            "INVITE sip:bob@im.test SIP/2.0",
            &fields,
            &sdp("alice"),
        );
    }

    /// Alice's chat with Bob, who is away: the server answers in his place.
    fn alice_opens_chat(&mut self, more: &str) -> Sip {
        self.alice_invites(more);
        self.expect(ALICE, "SIP/2.0 100");
        self.alice_is_answered()
    }

    fn alice_is_answered(&mut self) -> Sip {
        let answer = self.expect(ALICE, "SIP/2.0 200");
        let fields = format!("{}CSeq: 1 ACK\r\n", alice(answer.tag()));
        self.asked(
            ALICE,
            &format!("ACK {} SIP/2.0", answer.contact()),
            &fields,
            "",
        );
        self.msrp(&answer, "alice");
        answer
    }

    /// The MSRP connection of a phone stands: it binds its session.
    fn msrp(&mut self, description: &Sip, who: &str) {
        let path = description.attribute("path");
        let frame = format!(
            "MSRP tid{who} SEND\r\nTo-Path: {path}\r\nFrom-Path: {}\r\nMessage-ID: m{who}\r\n\
             Byte-Range: 1-0/0\r\n-------tid{who}$\r\n",
            path_of(who)
        );
        self.frame(who, &frame);
    }

    /// A frame of a phone's arrives.
    fn frame(&mut self, who: &str, frame: &str) {
        let mut reader = FrameReader::new(Limits::default());
        reader.push(frame.as_bytes());
        let mut events = Vec::new();
        while let Some(event) = reader.next().expect("a frame") {
            events.push(event);
        }
        let connection = connection_of(who);
        let input = Input::Msrp { connection, events };
        self.core.handle_input(input, self.now);
        self.settle();
    }

    /// The next frame to a phone that says so.
    fn expect_frame(&mut self, who: &str, says: &str) -> String {
        let found = self.next_frame(who, says);
        found.unwrap_or_else(|| panic!("{who} got no {says}: {:?}", self.frames))
    }

    fn next_frame(&mut self, who: &str, says: &str) -> Option<String> {
        let connection = connection_of(who);
        let is_it =
            |(own, text): &(ConnectionId, String)| *own == connection && text.contains(says);
        let found = self.frames.iter().position(is_it);
        found
            .and_then(|at| self.frames.remove(at))
            .map(|(_, text)| text)
    }

    /// Alice says something in a live chat, and the server is told to stop when Bob has it and has not
    /// confirmed it: what it sent him.
    fn stops_before_bob_confirms(&mut self) -> String {
        let (_, answer) = self.both_in_chat("");
        self.frame("alice", &said(&answer, 1));
        let sent = self.expect_frame("bob", "hello");
        self.core.handle_input(Input::Drain, self.now);
        self.settle();
        self.store.commit();
        self.settle();
        self.expect_frame("alice", "MSRP said1 200");
        assert_eq!(self.store.messages().count(), 1, "it is kept first");
        sent
    }

    fn bob_registers(&mut self) {
        let fields = format!(
            "From: <sip:bob@im.test>;tag=r\r\nTo: <sip:bob@im.test>\r\nCall-ID: reg\r\n\
             CSeq: 1 REGISTER\r\nContact: <sip:bob@{BOB}>;{TAG}\r\nExpires: 86000\r\n"
        );
        self.asked(BOB, "REGISTER sip:im.test SIP/2.0", &fields, "");
        self.expect(BOB, "SIP/2.0 200");
    }

    /// Alice's chat with Bob, whose device answers with these fields.
    fn live_chat(&mut self, more: &str) -> Sip {
        self.both_in_chat(more).0
    }

    /// The same: what the server sent to Bob, and to Alice.
    fn both_in_chat(&mut self, more: &str) -> (Sip, Sip) {
        self.bob_registers();
        self.alice_invites("");
        self.expect(ALICE, "SIP/2.0 100");
        let invite = self.expect(BOB, "INVITE");
        self.answers(&invite, "200 OK", &format!("{BOB_IS}{more}"), &sdp("bob"));
        self.expect(BOB, "ACK");
        self.msrp(&invite, "bob");
        let answer = self.alice_is_answered();
        (invite, answer)
    }
}

/// A message as it left the server.
struct Sip {
    to: String,
    text: String,
}

impl Sip {
    fn field(&self, name: &str) -> &str {
        let mut lines = self.text.split("\r\n");
        let prefix = format!("{name}: ");
        lines
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_default()
    }

    fn attribute(&self, name: &str) -> &str {
        let prefix = format!("a={name}:");
        let mut lines = self.text.split("\r\n");
        lines
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_default()
    }

    fn origin(&self) -> &str {
        let mut lines = self.text.split("\r\n");
        lines
            .find(|line| line.starts_with("o="))
            .unwrap_or_default()
    }

    fn tag(&self) -> &str {
        self.field("To").split("tag=").nth(1).unwrap_or_default()
    }

    fn contact(&self) -> &str {
        let value = self.field("Contact").trim_start_matches('<');
        value.split('>').next().unwrap_or_default()
    }
}

const TAG: &str = "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session\"";
const DESCRIBED: &str = "Contact: <sip:alice@192.0.2.10:5060>\r\nContent-Type: application/sdp\r\n\
    Conversation-ID: conversation\r\nContribution-ID: contribution\r\n";
const BOB_IS: &str = "Contact: <sip:bob@192.0.2.20:5060>\r\nContent-Type: application/sdp\r\n";

/// From, To and Call-ID of Alice's dialog.
fn alice(to_tag: &str) -> String {
    let to_tag = if to_tag.is_empty() {
        String::new()
    } else {
        format!(";tag={to_tag}")
    };
    format!(
        "From: <sip:alice@im.test>;tag=a\r\nTo: <sip:bob@im.test>{to_tag}\r\nCall-ID: alice-call\r\n"
    )
}

fn connection_of(who: &str) -> ConnectionId {
    ConnectionId::new(0, if who == "alice" { 1 } else { 2 })
}

/// What Alice says in her chat.
fn said(answer: &Sip, number: usize) -> String {
    let body = format!(
        "From: <sip:alice@im.test>\r\nTo: <sip:bob@im.test>\r\n\r\n\
         Content-Type: text/plain\r\n\r\nhello {number}"
    );
    let end = body.len();
    format!(
        "MSRP said{number} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: m{number}\r\n\
         Byte-Range: 1-{end}/{end}\r\nContent-Type: message/cpim\r\n\r\n{body}\r\n-------said{number}$\r\n",
        answer.attribute("path"),
        path_of("alice"),
    )
}

/// The answer to a SEND of the server's.
fn confirmation(send: &str) -> String {
    let transaction = send.split(' ').nth(1).unwrap_or_default();
    let field = |name: &str| {
        let mut lines = send.split("\r\n");
        let found = lines.find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().to_owned()
    };
    let (to, from) = (field("From-Path: "), field("To-Path: "));
    format!(
        "MSRP {transaction} 200 OK\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{transaction}$\r\n"
    )
}

fn path_of(who: &str) -> String {
    format!("msrp://192.0.2.9:7000/{who}-session;tcp")
}

fn sdp(who: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
         m=message 7000 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=path:{}\r\n\
         a=setup:active\r\na=sendrecv\r\n",
        path_of(who)
    )
}

#[test]
fn a_session_interval_below_ours_is_answered_422() {
    let mut bench = Bench::new();
    bench.alice_invites("Supported: timer\r\nSession-Expires: 89\r\n");
    let refusal = bench.expect(ALICE, "SIP/2.0 422 ");
    assert_eq!(refusal.field("Min-SE"), "90");
}

#[test]
fn a_caller_who_leaves_it_to_us_is_refreshed_by_update_at_half_time() {
    let mut bench = Bench::new();
    let answer = bench.alice_opens_chat(
        "Supported: timer\r\nAllow: INVITE, BYE, UPDATE\r\nSession-Expires: 1800;refresher=uas\r\n",
    );
    assert_eq!(answer.field("Require"), "timer");
    assert_eq!(answer.field("Session-Expires"), "1800;refresher=uas");
    for round in 0..3 {
        bench.waits(890.0);
        bench.expect_nothing();
        let update = bench.waits_for(11.0, ALICE, "UPDATE sip:alice@192.0.2.10:5060 ");
        assert_eq!(update.field("Session-Expires"), "1800;refresher=uac");
        assert_eq!(update.field("CSeq"), format!("{} UPDATE", round + 1));
        assert_eq!(update.field("Content-Length"), "0");
        let agreed = "Require: timer\r\nSession-Expires: 1800;refresher=uac\r\n";
        bench.answers(&update, "200 OK", agreed, "");
    }
}

#[test]
fn a_caller_without_update_is_refreshed_by_an_invite_that_changes_nothing() {
    let mut bench = Bench::new();
    let answer = bench.alice_opens_chat("Session-Expires: 1800\r\n");
    assert_eq!(answer.field("Session-Expires"), "1800;refresher=uas");
    assert_eq!(
        answer.field("Require"),
        "",
        "she could not make sense of it"
    );
    let mut origins = Vec::new();
    for _ in 0..2 {
        let invite = bench.waits_for(901.0, ALICE, "INVITE ");
        assert_eq!(invite.attribute("path"), answer.attribute("path"));
        origins.push(invite.origin().to_owned());
        let agreed = format!("{DESCRIBED}Session-Expires: 1800;refresher=uac\r\n");
        bench.answers(&invite, "200 OK", &agreed, &sdp("alice"));
        let ack = bench.expect(ALICE, "ACK ");
        assert_eq!(
            ack.field("CSeq").split(' ').next(),
            invite.field("CSeq").split(' ').next()
        );
    }
    assert_eq!(origins[0], origins[1], "the same offer has the same origin");
}

#[test]
fn a_session_that_nobody_refreshes_is_ended_before_it_expires() {
    let mut bench = Bench::new();
    let answer =
        bench.alice_opens_chat("Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\n");
    assert_eq!(answer.field("Session-Expires"), "1800;refresher=uac");
    bench.waits(1767.0);
    bench.expect_nothing();
    bench.waits(2.0);
    let bye = bench.expect(ALICE, "BYE ");
    assert!(bye.field("Reason").starts_with("SIP;cause=408;"));
}

#[test]
fn a_refresh_of_the_peer_prolongs_the_session() {
    let mut bench = Bench::new();
    let answer =
        bench.alice_opens_chat("Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\n");
    let contact = format!("UPDATE {} SIP/2.0", answer.contact());
    let fields = |cseq: u32, expires: u32| {
        format!(
            "{}CSeq: {cseq} UPDATE\r\nContact: <sip:alice@192.0.2.10:5060>\r\nSupported: timer\r\n\
             Session-Expires: {expires};refresher=uac\r\n",
            alice(answer.tag())
        )
    };
    bench.waits(1700.0);
    bench.asked(ALICE, &contact, &fields(2, 60), "");
    let refusal = bench.expect(ALICE, "SIP/2.0 422 ");
    assert_eq!(refusal.field("Min-SE"), "90");
    bench.asked(ALICE, &contact, &fields(3, 600), "");
    let agreed = bench.expect(ALICE, "SIP/2.0 200 ");
    assert_eq!(agreed.field("Session-Expires"), "600;refresher=uac");
    assert_eq!(agreed.field("Content-Length"), "0");
    bench.waits(567.0);
    bench.expect_nothing();
    bench.waits(2.0);
    bench.expect(ALICE, "BYE ");
}

#[test]
fn a_peer_that_does_not_answer_a_refresh_is_gone() {
    let mut bench = Bench::new();
    bench.alice_opens_chat(
        "Supported: timer\r\nAllow: UPDATE\r\nSession-Expires: 1800;refresher=uas\r\n",
    );
    bench.waits_for(901.0, ALICE, "UPDATE ");
    bench.waits(33.0);
    while bench
        .sent
        .front()
        .is_some_and(|(_, text)| text.starts_with("UPDATE"))
    {
        bench.sent.pop_front();
    }
    bench.expect(ALICE, "BYE ");
}

#[test]
fn a_device_is_offered_a_timer_and_gets_the_longer_one_it_asks_for() {
    let mut bench = Bench::new();
    bench.bob_registers();
    bench.alice_invites("");
    bench.expect(ALICE, "SIP/2.0 100");
    let first = bench.expect(BOB, "INVITE ");
    assert_eq!(first.field("Session-Expires"), "1800");
    assert_eq!(first.field("Supported"), "timer, 100rel");
    bench.answers(
        &first,
        "422 Session Interval Too Small",
        "Min-SE: 3600\r\n",
        "",
    );
    bench.expect(BOB, "ACK ");
    let second = bench.expect(BOB, "INVITE ");
    assert_eq!(second.field("Call-ID"), first.field("Call-ID"));
    assert_eq!(second.field("From"), first.field("From"));
    assert_eq!(second.field("CSeq"), "2 INVITE");
    assert_eq!(second.field("Session-Expires"), "3600");
    assert_eq!(second.field("Min-SE"), "3600");
    let agreed = format!("{BOB_IS}Require: timer\r\nSession-Expires: 3600;refresher=uac\r\n");
    bench.answers(&second, "200 OK", &agreed, &sdp("bob"));
    let ack = bench.expect(BOB, "ACK ");
    assert_eq!(ack.field("CSeq"), "2 ACK");
    bench.msrp(&second, "bob");
    bench.alice_is_answered();
    bench.waits(1790.0);
    bench.waits_for(11.0, BOB, "INVITE ");
}

#[test]
fn glare_is_answered_491_and_met_with_patience() {
    let mut bench = Bench::new();
    let agreed = "Session-Expires: 1800;refresher=uac\r\n";
    let first = bench.live_chat(agreed);
    let ours = bench.waits_for(901.0, BOB, "INVITE ");
    let fields = format!(
        "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 7 INVITE\r\n{BOB_IS}",
        ours.field("To"),
        ours.field("From"),
        ours.field("Call-ID"),
    );
    let target = format!("INVITE {} SIP/2.0", first.contact());
    bench.asked(BOB, &target, &fields, &sdp("bob"));
    bench.expect(BOB, "SIP/2.0 491 ");
    bench.answers(&ours, "491 Request Pending", "", "");
    bench.expect(BOB, "ACK ");
    // The ACK of a refusal has the branch of its INVITE.
    bench.branches -= 1;
    let ack = format!("ACK {} SIP/2.0", first.contact());
    bench.asked(BOB, &ack, &fields.replace("INVITE", "ACK"), "");
    bench.sent.clear();
    bench.waits(1.6);
    bench.expect_nothing();
    bench.waits_for(2.3, BOB, "INVITE ");
}

#[test]
fn an_invite_while_the_first_still_rings_is_told_to_come_later() {
    let mut bench = Bench::new();
    bench.bob_registers();
    bench.alice_invites("");
    bench.expect(ALICE, "SIP/2.0 100");
    let invite = bench.expect(BOB, "INVITE ");
    bench.answers(&invite, "180 Ringing", BOB_RINGS, "");
    let ringing = bench.expect(ALICE, "SIP/2.0 180 ");
    let target = ringing.contact().to_owned();
    for method in ["INVITE", "UPDATE"] {
        let cseq = if method == "INVITE" { 2 } else { 3 };
        let fields = format!(
            "{}CSeq: {cseq} {method}\r\n{DESCRIBED}",
            alice(ringing.tag())
        );
        let first = format!("{method} {target} SIP/2.0");
        bench.asked(ALICE, &first, &fields, &sdp("alice"));
        let refusal = bench.expect(ALICE, "SIP/2.0 500 ");
        let pause: u32 = refusal.field("Retry-After").parse().expect("a number");
        assert!(pause <= 10);
    }
}

const BOB_RINGS: &str = "Contact: <sip:bob@192.0.2.20:5060>\r\n";

#[test]
fn ringing_that_must_be_reliable_is_repeated_until_its_prack() {
    let mut bench = Bench::new();
    bench.bob_registers();
    bench.alice_invites("Require: 100rel\r\n");
    bench.expect(ALICE, "SIP/2.0 100");
    let invite = bench.expect(BOB, "INVITE ");
    bench.answers(&invite, "180 Ringing", BOB_RINGS, "");
    let ringing = bench.expect(ALICE, "SIP/2.0 180 ");
    assert_eq!(ringing.field("Require"), "100rel");
    bench.waits(2.0);
    for _ in 0..2 {
        let again = bench.expect(ALICE, "SIP/2.0 180 ");
        assert_eq!(again.text, ringing.text);
    }
    bench.expect_nothing();
    let prack = |bench: &mut Bench, cseq: u32, rseq: &str| {
        let first = format!("PRACK {} SIP/2.0", ringing.contact());
        let fields = format!(
            "{}CSeq: {cseq} PRACK\r\nRAck: {rseq} 1 INVITE\r\n",
            alice(ringing.tag())
        );
        bench.asked(ALICE, &first, &fields, "");
    };
    prack(&mut bench, 2, "0");
    bench.expect(ALICE, "SIP/2.0 481 ");
    prack(&mut bench, 3, ringing.field("RSeq"));
    bench.expect(ALICE, "SIP/2.0 200 ");
    bench.waits(20.0);
    bench.expect_nothing();
}

#[test]
fn ringing_that_is_never_acknowledged_ends_the_call() {
    let mut bench = Bench::new();
    bench.bob_registers();
    bench.alice_invites("Require: 100rel\r\n");
    bench.expect(ALICE, "SIP/2.0 100");
    let invite = bench.expect(BOB, "INVITE ");
    bench.answers(&invite, "180 Ringing", BOB_RINGS, "");
    bench.waits(33.0);
    bench.expect(BOB, "CANCEL ");
    let last = bench
        .sent
        .iter()
        .rfind(|(_, text)| text.starts_with("SIP/2.0 5"));
    assert!(last.is_some(), "the INVITE is refused with 5xx");
}

/// Alice's INVITE with its first message inside, behind the description.
fn first_message() -> (String, String) {
    let envelope = "From: <sip:alice@im.test>\r\nTo: <sip:bob@im.test>\r\nNS: imdn <urn:ietf:params:imdn>\r\n\
        imdn.Message-ID: first\r\n\r\nContent-Type: text/plain\r\n\r\nhello";
    let body = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{}\r\n--b\r\nContent-Type: message/cpim\r\n\r\n\
         {envelope}\r\n--b--\r\n",
        sdp("alice")
    );
    let described = DESCRIBED.replace("application/sdp", "multipart/mixed;boundary=b");
    let fields = format!("{}CSeq: 1 INVITE\r\n{described}", alice(""));
    (fields, body)
}

#[test]
fn a_first_message_that_a_device_takes_while_it_is_being_kept_is_not_kept() {
    let mut bench = Bench::new();
    let fields = format!(
        "From: <sip:bob@im.test>;tag=r\r\nTo: <sip:bob@im.test>\r\nCall-ID: reg\r\n\
         CSeq: 1 REGISTER\r\nContact: <sip:bob@{BOB}>;+g.oma.sip-im\r\nExpires: 86000\r\n"
    );
    bench.asked(BOB, "REGISTER sip:im.test SIP/2.0", &fields, "");
    bench.expect(BOB, "SIP/2.0 200");
    let (fields, body) = first_message();
    bench.asked(ALICE, "INVITE sip:bob@im.test SIP/2.0", &fields, &body);
    bench.expect(ALICE, "SIP/2.0 100");
    let invite = bench.expect(BOB, "INVITE");
    assert!(
        invite.text.contains("imdn.Message-ID: first"),
        "it is in it"
    );
    bench.answers(&invite, "180 Ringing", BOB_RINGS, "");
    bench.expect(ALICE, "SIP/2.0 180");
    // She gives up; before that has reached him, and while the message is being kept, he answers.
    bench.store.hold(true);
    let via = format!(
        "Via: SIP/2.0/UDP {ALICE};branch=z9hG4bKb{}\r\n",
        bench.branches
    );
    let cancel = format!("{via}Max-Forwards: 70\r\n{}CSeq: 1 CANCEL\r\n", alice(""));
    bench.gets(ALICE, "CANCEL sip:bob@im.test SIP/2.0", &cancel, "");
    bench.expect(ALICE, "SIP/2.0 200");
    bench.expect(BOB, "CANCEL");
    bench.answers(&invite, "200 OK", BOB_IS, &sdp("bob"));
    bench.expect(BOB, "ACK");
    bench.expect(BOB, "BYE");
    bench.store.hold(false);
    bench.store.commit();
    bench.settle();
    bench.expect(ALICE, "SIP/2.0 487");
    bench.store.commit();
    assert_eq!(bench.store.messages().count(), 0, "he has it");
}

#[test]
fn what_comes_once_everything_has_ended_before_a_stop_is_refused() {
    let mut bench = Bench::new();
    bench.bob_registers();
    let fields = |call: &str| {
        format!(
            "From: <sip:alice@im.test>;tag=a\r\nTo: <sip:bob@im.test>\r\nCall-ID: {call}\r\n\
             CSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\n"
        )
    };
    bench.asked(
        ALICE,
        "MESSAGE sip:bob@im.test SIP/2.0",
        &fields("one"),
        "hello",
    );
    let out = bench.expect(BOB, "MESSAGE");
    bench.core.handle_input(Input::Drain, bench.now);
    bench.settle();
    // What is out with a device is waited for, and so is what comes meanwhile.
    bench.asked(
        ALICE,
        "MESSAGE sip:bob@im.test SIP/2.0",
        &fields("two"),
        "hello",
    );
    let second = bench.expect(BOB, "MESSAGE");
    for message in [out, second] {
        bench.answers(&message, "200 OK", "", "");
        bench.expect(ALICE, "SIP/2.0 200");
    }
    bench.asked(
        ALICE,
        "MESSAGE sip:bob@im.test SIP/2.0",
        &fields("three"),
        "hello",
    );
    let refusal = bench.expect(ALICE, "SIP/2.0 503");
    assert!(!refusal.field("Retry-After").is_empty());
    bench.expect_nothing();
}

#[test]
fn what_is_confirmed_as_the_server_stops_does_not_come_again() {
    let mut bench = Bench::new();
    let sent = bench.stops_before_bob_confirms();
    bench.expect_nothing();
    bench.frame("bob", &confirmation(&sent));
    bench.expect(ALICE, "BYE");
    bench.expect(BOB, "BYE");
    bench.store.commit();
    assert_eq!(bench.store.messages().count(), 0, "he has it");
}

#[test]
fn a_stop_waits_only_a_moment_for_what_is_not_confirmed() {
    let mut bench = Bench::new();
    bench.stops_before_bob_confirms();
    bench.expect_nothing();
    bench.waits(0.5);
    bench.expect(ALICE, "BYE");
    bench.expect(BOB, "BYE");
    bench.store.commit();
    assert_eq!(bench.store.messages().count(), 1);
}

/// Messages that are kept for Bob, more than may come again after a kill.
const KEPT: usize = 50;
/// So many of one conversation may come again after a kill (RELIABILITY.md).
const FORGOTTEN: usize = 20;

/// Bob takes as much as he is given before each sync, until he has all that was kept.
fn takes_what_is_kept(bench: &mut Bench, takes_all: impl Fn(&mut Bench) -> usize) {
    let mut taken = 0;
    while taken < KEPT {
        let more = takes_all(bench);
        assert!((1..=FORGOTTEN).contains(&more), "{more} before a sync");
        taken += more;
        bench.store.commit();
        bench.settle();
    }
}

#[test]
fn by_message_only_so_many_leave_before_what_was_confirmed_is_durable() {
    let mut bench = Bench::new();
    for number in 0..KEPT {
        let fields = format!(
            "From: <sip:alice@im.test>;tag=a\r\nTo: <sip:bob@im.test>\r\nCall-ID: {number}\r\n\
             CSeq: 1 MESSAGE\r\nConversation-ID: c\r\nContent-Type: text/plain\r\n"
        );
        bench.asked(ALICE, "MESSAGE sip:bob@im.test SIP/2.0", &fields, "hello");
        bench.expect(ALICE, "SIP/2.0 202");
    }
    bench.store.hold(true);
    bench.bob_registers();
    let takes_all = |bench: &mut Bench| {
        let mut taken = 0;
        while !bench.sent.is_empty() {
            let message = bench.expect(BOB, "MESSAGE");
            bench.answers(&message, "200 OK", "", "");
            taken += 1;
        }
        taken
    };
    takes_what_is_kept(&mut bench, takes_all);
    assert_eq!(bench.store.messages().count(), 0);
}

#[test]
fn in_a_session_only_so_many_leave_before_what_was_confirmed_is_durable() {
    let mut bench = Bench::new();
    let answer = bench.alice_opens_chat("");
    for number in 0..KEPT {
        bench.frame("alice", &said(&answer, number));
        bench.expect_frame("alice", &format!("MSRP said{number} 200"));
    }
    bench.store.hold(true);
    bench.bob_registers();
    let invite = bench.expect(BOB, "INVITE");
    bench.answers(&invite, "200 OK", BOB_IS, &sdp("bob"));
    bench.expect(BOB, "ACK");
    bench.msrp(&invite, "bob");
    let takes_all = |bench: &mut Bench| {
        let mut taken = 0;
        while let Some(send) = bench.next_frame("bob", " SEND") {
            bench.frame("bob", &confirmation(&send));
            taken += 1;
        }
        taken
    };
    takes_what_is_kept(&mut bench, takes_all);
    bench.expect(BOB, "BYE");
    assert_eq!(bench.store.messages().count(), 0);
}

#[test]
fn in_a_session_a_store_that_cannot_say_what_is_durable_holds_up_nothing() {
    let mut bench = Bench::new();
    let answer = bench.alice_opens_chat("");
    for number in 0..KEPT {
        bench.frame("alice", &said(&answer, number));
        bench.expect_frame("alice", &format!("MSRP said{number} 200"));
    }
    bench.store.refuse(Some(Refusal::Full));
    bench.bob_registers();
    let invite = bench.expect(BOB, "INVITE");
    bench.answers(&invite, "200 OK", BOB_IS, &sdp("bob"));
    bench.expect(BOB, "ACK");
    bench.msrp(&invite, "bob");
    for _ in 0..KEPT {
        let send = bench.next_frame("bob", " SEND").expect("the next one");
        bench.frame("bob", &confirmation(&send));
    }
    bench.expect(BOB, "BYE");
    assert_eq!(bench.store.messages().count(), 0);
}

/// A request without a body, over and over the same.
fn plain(method: &str, branch: &str, more: &str) -> String {
    format!(
        "Via: SIP/2.0/UDP {BOB};branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\nFrom: <sip:bob@im.test>;tag=p\r\n\
         To: <sip:bob@im.test>\r\nCall-ID: plain\r\nCSeq: 7 {method}\r\n{more}"
    )
}

#[test]
fn a_retransmission_is_never_refused_and_gets_round_no_limit() {
    let mut bench = Bench::new();
    let options = "OPTIONS sip:im.test SIP/2.0";
    let mut comes = |branch: &str, room: Room, entry: Entry| {
        bench.core.load().set_room(room);
        bench.core.load().waited(Duration::ZERO, entry);
        bench.gets(BOB, options, &plain("OPTIONS", branch, ""), "");
        bench.sent.pop_front().map(|(_, answer)| answer)
    };
    let status = |answer: Option<String>| answer.map(|text| text[8..11].to_owned());
    let refused = comes("one", Room::None, Entry::Unjudged);
    assert_eq!(status(refused).as_deref(), Some("503"));
    assert_eq!(
        comes("one", Room::None, Entry::Again),
        None,
        "he was refused"
    );
    assert_eq!(
        comes("two", Room::None, Entry::Again),
        None,
        "it comes again"
    );
    let taken = comes("two", Room::Ample, Entry::Again);
    assert_eq!(status(taken.clone()).as_deref(), Some("200"));
    assert_eq!(comes("two", Room::None, Entry::Again), taken, "it is known");
}

#[test]
fn without_memory_who_goes_is_let_go() {
    let mut bench = Bench::new();
    bench.bob_registers();
    bench.core.load().set_room(Room::None);
    let mut register = |branch: &str, expires: u32| {
        let more = format!("Contact: <sip:bob@{BOB}>\r\nExpires: {expires}\r\n");
        let fields = plain("REGISTER", branch, &more);
        bench.gets(BOB, "REGISTER sip:im.test SIP/2.0", &fields, "");
        bench
            .sent
            .pop_front()
            .map(|(_, text)| text[8..11].to_owned())
    };
    assert_eq!(register("one", 600).as_deref(), Some("503"));
    assert_eq!(register("two", 0).as_deref(), Some("200"));
}
