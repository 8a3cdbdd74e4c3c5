//! A core that answers every request with 200, does what a request's body says, and tells the test
//! what it got.

use bytes::Bytes;
use restante::clock::{self, Instant, Now};
use restante::config::Config;
use restante::limits::load::Load;
use restante::participating::internal::InternalMessage;
use restante::server::{Running, Server, ServerError};
use restante::shard::core_trait::ShardCore;
use restante::shard::port::{Action, Attempt, Input};
use restante::sip::message::{Message, Method};
use restante::sip::reply;
use restante::sip::transport::flow::{ConnectionId, Flow, Transport};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Echo {
    shard: u16,
    shards: u16,
    told: Sender<(u16, Input)>,
    actions: VecDeque<Action>,
    deadline: Option<Instant>,
    connected: Option<ConnectionId>,
    /// Told to by a body: whoever asked gets an answer when the timer rings.
    ringing: Option<(Flow, Bytes)>,
    load: Load,
}

impl Echo {
    /// `words` of a body are what to do.
    fn obey(&mut self, flow: Flow, request: &Message, now: Now) {
        let body = String::from_utf8_lossy(request.body()).into_owned();
        let words: Vec<&str> = body.split(' ').collect();
        match words.as_slice() {
            ["flood", count, octets] => {
                let octets = Bytes::from(vec![b'x'; octets.parse().expect("a number")]);
                for _ in 0..count.parse::<usize>().expect("a number") {
                    let octets = octets.clone();
                    self.actions.push_back(Action::SendSip { flow, octets });
                }
            }
            ["send", remote, copies] => {
                let remote = remote.parse().expect("an address");
                let flow = Flow {
                    transport: Transport::Tcp,
                    listener: 1,
                    remote,
                    connection: None,
                };
                let octets = Bytes::from_static(b"OPTIONS sip:x SIP/2.0\r\nl: 0\r\n\r\n");
                for _ in 0..copies.parse::<usize>().expect("a number") {
                    let octets = octets.clone();
                    self.actions.push_back(Action::SendSip { flow, octets });
                }
            }
            ["connect", remote] => self.actions.push_back(Action::ConnectMsrp {
                attempt: Attempt(7),
                remote: remote.parse().expect("an address"),
                secure: None,
            }),
            ["pour", count, octets] => {
                let connection = self.connected.expect("connected before");
                let octets = Bytes::from(vec![b'x'; octets.parse().expect("a number")]);
                for _ in 0..count.parse::<usize>().expect("a number") {
                    let octets = octets.clone().into();
                    self.actions
                        .push_back(Action::SendMsrp { connection, octets });
                }
            }
            ["close"] => {
                let connection = self.connected.expect("connected before");
                self.actions.push_back(Action::CloseMsrp { connection });
            }
            ["resolve", host] => self.actions.push_back(Action::Resolve {
                attempt: Attempt(8),
                host: (*host).to_owned(),
                port: 9,
            }),
            ["forward", shard, count] => {
                for number in 0..count.parse().expect("a number") {
                    let durable = true;
                    let message = Box::new(InternalMessage::Accepted { number, durable });
                    let shard = shard.parse().expect("a number");
                    self.actions.push_back(Action::Forward { shard, message });
                }
            }
            ["work", micros] => {
                // Of each request, not of each turn: a turn takes many.
                let begun = clock::now().instant;
                let end = begun + Duration::from_micros(micros.parse().expect("a number"));
                while clock::now().instant < end {
                    std::hint::spin_loop();
                }
            }
            ["ring", millis] => {
                let wait = Duration::from_millis(millis.parse().expect("a number"));
                self.deadline = Some(now.instant + wait);
                self.ringing = Some((flow, ok(request)));
            }
            _ => {}
        }
    }
}

impl ShardCore for Echo {
    fn handle_input(&mut self, input: Input, now: Now) {
        match &input {
            Input::Sip { flow, message, .. } if message.is_request() => {
                self.obey(*flow, message, now);
                if message.method() != Method::Ack && self.ringing.is_none() {
                    let (flow, octets) = (*flow, ok(message));
                    self.actions.push_back(Action::SendSip { flow, octets });
                }
            }
            Input::MsrpConnected { connection, .. } => self.connected = Some(*connection),
            Input::Drain => self.actions.push_back(Action::Drained),
            _ => {}
        }
        // A test that has seen enough does not listen any more.
        let _ = self.told.send((self.shard, input));
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    fn is_answer(&self, _: &str, _: IpAddr, _: Now) -> bool {
        false
    }

    fn account(&mut self) {}

    fn handle_timeout(&mut self, now: Now) {
        assert!(
            self.deadline.take() <= Some(now.instant),
            "not before it is due"
        );
        if let Some((flow, octets)) = self.ringing.take() {
            self.actions.push_back(Action::SendSip { flow, octets });
        }
    }

    /// The number that the request line names.
    fn owner_of(&self, message: &Message) -> u16 {
        let digits = message.request_uri().trim_start_matches("sip:");
        let digits = digits.split('@').next().unwrap_or_default();
        digits.parse::<u16>().unwrap_or_default() % self.shards
    }
}

fn ok(request: &Message) -> Bytes {
    reply::response(request, 200, "OK", Some("tag")).build()
}

/// A running server of echo cores, and what they tell.
pub struct World {
    pub running: Running,
    pub told: Receiver<(u16, Input)>,
    _folder: tempfile::TempDir,
}

impl World {
    pub fn new(shards: u16) -> Self {
        Self::with(shards, |_| {}).expect("the server starts")
    }

    pub fn with(shards: u16, change: impl FnOnce(&mut Config)) -> Result<Self, ServerError> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config {
            shards,
            data_dir: folder.path().join("data"),
            ..Config::default()
        };
        let parse = |text: &str| text.parse().expect("a listener");
        config.sip.listen = vec![parse("udp://127.0.0.1:0"), parse("tcp://127.0.0.1:0")];
        config.msrp.listen = vec![parse("tcp://127.0.0.1:0")];
        config.admin.listen = Vec::new();
        change(&mut config);
        let (tell, told) = channel();
        let bound = config.limits.queue_delay.duration();
        let running = Server::start(config, move |context| Echo {
            shard: context.shard,
            shards: context.shards,
            told: tell.clone(),
            actions: VecDeque::new(),
            deadline: None,
            connected: None,
            ringing: None,
            load: Load::new(bound),
        })?;
        Ok(Self {
            running,
            told,
            _folder: folder,
        })
    }

    pub fn udp(&self) -> SocketAddr {
        self.running.addresses().sip[0].1
    }

    pub fn tcp(&self) -> SocketAddr {
        self.running.addresses().sip[1].1
    }

    pub fn msrp(&self) -> SocketAddr {
        self.running.addresses().msrp[0]
    }

    /// Waits for the first input that `pick` takes; others are passed over.
    pub fn sees<T>(&self, mut pick: impl FnMut(u16, &Input) -> Option<T>) -> T {
        loop {
            let (shard, input) = self.told.recv_timeout(PATIENCE).expect("it comes in time");
            if let Some(picked) = pick(shard, &input) {
                return picked;
            }
        }
    }

    /// The sum of a metric over all label values.
    pub fn counted(&self, name: &str) -> u64 {
        let samples = self.running.metrics().samples();
        let of = samples.iter().filter(|sample| sample.name == name);
        of.map(|sample| sample.value).sum()
    }
}

/// A MESSAGE as [`message`] writes it, unlike all with another `number`.
pub fn numbered(number: usize, port: u16, body: &str) -> String {
    let branch = format!("branch=z9hG4bKn{port}-{number}");
    message(0, port, "UDP", body).replace("branch=z9hG4bK0", &branch)
}

/// A MESSAGE to user `user` that comes from `port`.
pub fn message(user: u32, port: u16, transport: &str, body: &str) -> String {
    format!(
        "MESSAGE sip:{user}@im.test SIP/2.0\r\n\
         Via: SIP/2.0/{transport} 127.0.0.1:{port};rport;branch=z9hG4bK{user}\r\n\
         From: <sip:alice@im.test>;tag=a\r\nTo: <sip:{user}@im.test>\r\nCall-ID: {user}\r\n\
         CSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
