//! The whole pure core of a shard, fed a story: datagrams, frames, answers of devices and of the store,
//! and time.
//!
//! A story is paragraphs, separated by a line with `%`. The first octet of each says what happens; see
//! `World::happens`. What the core has told before can be put in: `{path}`, `{tag}`, `{contact}`, `{transaction}`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use restante::clock::{Instant, Now, UnixMillis};
use restante::config::Config;
use restante::limits::memory::Account;
use restante::limits::meters::Meters;
use restante::limits::sources::Sources;
use restante::msrp::frame::FrameEvent;
use restante::msrp::reader::{FrameReader, Limits};
use restante::net::ConnectionId;
use restante::registrar::Directory;
use restante::router::{Knowledge, RouteKey};
use restante::server::{Addresses, CoreContext};
use restante::shard::core::Core;
use restante::shard::core_trait::ShardCore;
use restante::shard::port::{Action, Attempt, Input};
use restante::sip::header::NameAddr;
use restante::sip::message::{HeaderName, Message, Method};
use restante::sip::transport::flow::{Flow, Transport};
use restante::sip::{reply, validate, wire};
use restante::store::memory::MemoryStore;
use restante::store::request::Refusal;
use restante::token::Tokens;

/// Transactions the core of the claim keeps.
const MOST_TRANSACTIONS: u32 = 64;
/// Paragraphs that are played.
const MOST_PARAGRAPHS: usize = 60;
/// Things a core may want done about one input.
const MOST_ACTIONS: usize = 4_000;

struct World {
    core: Core,
    now: Now,
    store: MemoryStore,
    /// Requests of the core that devices have not answered.
    asked: VecDeque<(Flow, Message)>,
    attempts: VecDeque<Attempt>,
    names: VecDeque<Attempt>,
    lines: BTreeMap<ConnectionId, FrameReader>,
    echoes: BTreeMap<ConnectionId, FrameReader>,
    path: String,
    tag: String,
    contact: String,
    transaction: String,
}

/// Whatever happens: what the core sends is legal SIP and MSRP, it wants a bounded number of things, its
/// tables stay within their bounds, and its deadlines move on.
pub fn survives_anything(octets: &[u8]) {
    let mut world = World::new();
    let mut paragraphs = Vec::new();
    let mut rest = octets;
    while let Some(at) = rest.windows(3).position(|window| window == b"\n%\n") {
        paragraphs.push(&rest[..at]);
        rest = &rest[at + 3..];
    }
    paragraphs.push(rest);
    for paragraph in paragraphs.into_iter().take(MOST_PARAGRAPHS) {
        if let Some((what, text)) = paragraph.split_first() {
            world.happens(*what, text);
            world.perform();
        }
    }
    world.pass(Duration::from_secs(100), 200);
}

fn flow(user: u8, connection: Option<ConnectionId>) -> Flow {
    let transport = match connection {
        Some(_) => Transport::Tcp,
        None => Transport::Udp,
    };
    Flow {
        transport,
        listener: u16::from(connection.is_some()),
        remote: ([192, 0, 2, user], 5060).into(),
        connection,
    }
}

impl World {
    fn new() -> Self {
        let server = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses {
            sip: vec![
                (Transport::Udp, server(5060)),
                (Transport::Tcp, server(5060)),
            ],
            msrp: vec![server(2855)],
            ..Addresses::default()
        };
        let mut config = Config::default();
        "im.test".clone_into(&mut config.domain);
        config.sip.max_transactions = MOST_TRANSACTIONS;
        let knowledge = Knowledge {
            meters: Arc::new(Meters::new(&config)),
            directory: Arc::new(Directory::new(&config)),
            digest: None,
            own: Arc::new([("127.0.0.1".to_owned(), 5060)]),
            route_key: RouteKey {
                secret: [7; 32],
                run: 1,
            },
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
            memory: Account::detached(),
            bindings: Vec::new(),
            documents: Vec::new(),
            duplicate_keys: Vec::new(),
            waiting: Vec::new(),
        };
        Self {
            core: Core::new(context, Tokens::from_seed(1), now),
            now,
            store: MemoryStore::default(),
            asked: VecDeque::new(),
            attempts: VecDeque::new(),
            names: VecDeque::new(),
            lines: BTreeMap::new(),
            echoes: BTreeMap::new(),
            path: String::new(),
            tag: String::new(),
            contact: String::new(),
            transaction: String::new(),
        }
    }

    fn happens(&mut self, what: u8, text: &[u8]) {
        let text = self.filled(text);
        let line = ConnectionId::new(0, 7);
        match what {
            b'A' => self.takes(flow(1, None), &text),
            b'B' => self.takes(flow(2, None), &text),
            b'T' => self.takes(flow(3, Some(line)), &text),
            b'R' => self.answers(&text),
            b'M' => self.reads(ConnectionId::new(0, 1), &text),
            b'N' => self.reads(ConnectionId::new(0, 2), &text),
            b'W' => self.pass(Duration::from_millis(number(&text)), 1_000),
            b'C' => {
                if let Some(attempt) = self.attempts.pop_front() {
                    let connection = ConnectionId::new(0, 1 + number(&text) % 4);
                    self.input(Input::MsrpConnected {
                        attempt,
                        connection,
                    });
                }
            }
            b'X' => {
                if let Some(attempt) = self.attempts.pop_front() {
                    self.input(Input::MsrpUnreachable { attempt });
                }
            }
            b'H' => {
                if let Some(attempt) = self.names.pop_front() {
                    let addresses = vec![([192, 0, 2, 9], 2855).into(); number(&text) as usize % 3];
                    self.input(Input::Resolved { attempt, addresses });
                }
            }
            b'L' => {
                let connection = ConnectionId::new(0, 1 + number(&text) % 4);
                self.lines.remove(&connection);
                self.input(Input::MsrpLost { connection });
            }
            b'F' => self.input(Input::FlowLost {
                flow: flow(3, Some(line)),
            }),
            b'S' => self.store.hold(number(&text) % 2 == 1),
            b'Z' => {
                let refusals = [None, Some(Refusal::Full), Some(Refusal::Poisoned)];
                self.store.refuse(refusals[number(&text) as usize % 3]);
            }
            b'D' => self.input(Input::Drain),
            _ => {}
        }
    }

    /// The text with what the core has told, and with the line ends of the wire.
    fn filled(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + 100);
        let mut rest = text;
        let bare = !text.contains(&b'\r');
        while let Some((first, after)) = rest.split_first() {
            let known = [
                (&b"{path}"[..], &self.path),
                (b"{tag}", &self.tag),
                (b"{contact}", &self.contact),
                (b"{transaction}", &self.transaction),
            ];
            if let Some((name, value)) = known.into_iter().find(|(name, _)| rest.starts_with(name))
            {
                out.extend_from_slice(value.as_bytes());
                rest = &rest[name.len()..];
                continue;
            }
            if *first == b'\n' && bare {
                out.push(b'\r');
            }
            out.push(*first);
            rest = after;
        }
        out
    }

    fn input(&mut self, input: Input) {
        self.core.handle_input(input, self.now);
    }

    fn takes(&mut self, flow: Flow, octets: &[u8]) {
        if let Ok(message) = wire::parse(Bytes::copy_from_slice(octets)) {
            assert_eq!(self.core.owner_of(&message), 0);
            self.input(Input::Sip {
                flow,
                message,
                is_again: false,
            });
        }
    }

    /// The oldest request of the core is answered: a status, then header fields and a body.
    fn answers(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let (status, rest) = text.split_once("\r\n").unwrap_or((&text, ""));
        let status = number(status.as_bytes()).clamp(100, 699) as u16;
        let Some((flow, request)) = self.asked.front() else {
            return;
        };
        let flow = *flow;
        let mut builder = reply::response(request, status, "R", Some("dev"));
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let mut kind = "application/sdp";
        for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
            match name {
                "Content-Type" => kind = value.trim(),
                name => builder = builder.header(name, value.trim()),
            }
        }
        if !body.is_empty() {
            builder = builder.body(kind, body.as_bytes());
        }
        if status >= 200 {
            self.asked.pop_front();
        }
        self.takes(flow, &builder.build());
    }

    fn reads(&mut self, connection: ConnectionId, octets: &[u8]) {
        let fresh = || FrameReader::new(Limits::default());
        let line = self.lines.entry(connection).or_insert_with(fresh);
        line.push(octets);
        let mut events = Vec::new();
        let broken = loop {
            match line.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        self.input(Input::Msrp { connection, events });
        if broken {
            self.lines.remove(&connection);
            self.input(Input::MsrpLost { connection });
        }
    }

    fn pass(&mut self, span: Duration, most: usize) {
        let span = span.min(Duration::from_secs(4_000));
        let until = self.now.plus(span);
        for _ in 0..most {
            let Some(at) = self.core.next_deadline().filter(|at| *at <= until.instant) else {
                break;
            };
            self.now = self.now.plus(at.since(self.now.instant));
            for turn in 0.. {
                self.core.handle_timeout(self.now);
                self.perform();
                let next = self.core.next_deadline();
                // One more turn may be owed to what the first one did.
                if next.is_none_or(|next| next > self.now.instant) {
                    break;
                }
                assert!(turn < 3, "stands still: {}", self.core.census());
            }
        }
        self.now = self.now.plus(until.instant.since(self.now.instant));
    }

    fn perform(&mut self) {
        let mut count = 0;
        loop {
            while let Some(event) = self.store.poll_event() {
                self.input(Input::Store(event));
            }
            let Some(action) = self.core.poll_action() else {
                break;
            };
            count += 1;
            assert!(count < MOST_ACTIONS, "no end of actions");
            self.act(action);
        }
        let census = self.core.census();
        // CANCELs do not count against the bound.
        assert!(
            census.transactions <= 2 * MOST_TRANSACTIONS as usize,
            "{census}"
        );
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::SendSip { flow, octets } => self.is_sent(flow, octets),
            Action::ConnectMsrp { attempt, .. } => self.attempts.push_back(attempt),
            Action::Resolve { attempt, .. } => self.names.push_back(attempt),
            Action::SendMsrp { connection, octets } => {
                let fresh = || FrameReader::new(Limits::default());
                let echo = self.echoes.entry(connection).or_insert_with(fresh);
                echo.push(&octets.joined());
                while let Some(event) = echo.next().expect("what is sent is MSRP") {
                    if let FrameEvent::Request(head) = event {
                        head.transaction().clone_into(&mut self.transaction);
                    }
                }
                let octets = octets.len();
                self.input(Input::MsrpWritten { connection, octets });
            }
            Action::Store(request) => self.store.handle(request),
            Action::Forward { shard, message } => {
                assert_eq!(shard, 0, "there is one shard");
                self.input(Input::Internal(message));
            }
            Action::CloseMsrp { .. }
            | Action::EndMsrp { .. }
            | Action::StrayMsrp { .. }
            | Action::Answer { .. }
            | Action::Drained => {}
        }
    }

    fn is_sent(&mut self, flow: Flow, octets: Bytes) {
        let message = wire::parse(octets.clone()).expect("what is sent is a message");
        assert_eq!(
            message.bytes().len(),
            octets.len(),
            "octets behind the message"
        );
        if let Some(path) = msrp_path(message.body()) {
            self.path = path;
        }
        if let Ok(to) = message.to()
            && let Some(tag) = to.tag()
        {
            tag.clone_into(&mut self.tag);
        }
        if let Some(contact) = message.header(HeaderName::Contact)
            && let Ok(contact) = NameAddr::parse(contact)
        {
            contact.uri.clone_into(&mut self.contact);
        }
        if !message.is_request() {
            return;
        }
        assert_eq!(
            validate::validate(&message),
            Ok(()),
            "{:?}",
            message.bytes()
        );
        if message.method() != Method::Ack && self.asked.len() < 100 {
            let known = self
                .asked
                .iter()
                .any(|(_, known)| known.bytes() == message.bytes());
            if !known {
                self.asked.push_back((flow, message));
            }
        }
    }
}

fn msrp_path(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("a=path:"))?;
    Some(line.to_owned())
}

/// The digits a text begins with.
fn number(text: &[u8]) -> u64 {
    let digits = text
        .iter()
        .take_while(|octet| octet.is_ascii_digit())
        .take(7);
    digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}
