//! What many users, messages, sessions and deaf peers cost, and that the server stays within
//! `limits.memory`, refuses early, finishes what runs, and recovers.
//!
//! The long form: `cargo test --release --test scale -- --ignored --nocapture`, with
//! `RESTANTE_SCALE_MEMORY` for other bounds in MiB. It needs 14,000 descriptors.

mod flood;
mod load;
mod media;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use load::Phones;
use media::Session;
use restante::clock;
use restante::demo::{ServerProcess, Transport};

/// How long what must happen may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of the messages that ask whether there is room, until there is none.
const PROBE: u64 = 999_999_999;
/// Octets that each of those who fill it adds to its Contact.
const MORE: usize = 2_000;
/// How many of them come, and leave, between two looks.
const BATCH: u64 = 250;
const BINARY: &str = env!("CARGO_BIN_EXE_restante");

/// How much of everything.
struct Scale {
    registered: u64,
    /// Users who are away, and how many messages wait for each.
    absent: u64,
    each: u64,
    sessions: u64,
    deaf: u64,
    /// `limits.memory` in MiB.
    memory: u64,
}

#[test]
fn memory_stays_within_its_bound_and_nothing_taken_is_lost() {
    Run::new(Scale {
        registered: 200,
        absent: 100,
        each: 10,
        sessions: 20,
        deaf: 10,
        memory: 64,
    })
    .play();
}

#[test]
#[ignore = "minutes, and gigabytes of disk"]
fn a_hundred_thousand_users_and_a_million_messages() {
    Run::new(Scale {
        registered: 100_000,
        absent: 100_000,
        each: 10,
        sessions: 10_000,
        deaf: 2_000,
        memory: number("RESTANTE_SCALE_MEMORY", 1_024),
    })
    .play();
}

/// So that `limits.memory` means what it says: what is not accounted for is not refused in time.
#[test]
fn sessions_and_connections_cost_what_is_accounted_for_them() {
    const COUNT: u64 = 300;
    let mut run = Run::new(Scale {
        registered: 0,
        absent: 0,
        each: 0,
        sessions: COUNT,
        deaf: 0,
        memory: 1_024,
    });
    let mut open = |first: u64| {
        let sessions = run.open_sessions(first);
        let server = run.server.sip_address(Transport::Tcp).expect("an address");
        let peers = (first..first + COUNT).map(|number| quiet(server, number));
        let open = (sessions, peers.collect::<Vec<_>>());
        (open, run.look_quietly())
    };
    // What the first of them make the process larger by serves all that follow.
    let (_first, before) = open(0);
    let (_second, after) = open(COUNT);
    let (accounted, resident) = (after.0 - before.0, after.1.saturating_sub(before.1));
    println!(
        "each session and connection: {} octets accounted, {} resident",
        accounted / COUNT,
        resident / COUNT
    );
    assert!(
        resident <= accounted / 10 * 13,
        "{accounted} accounted, {resident} resident"
    );
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

struct Run {
    scale: Scale,
    _folder: tempfile::TempDir,
    server: ServerProcess,
    phones: Phones,
    /// Messages that were answered 202, and those of sessions that were answered 200.
    taken: Vec<u64>,
    arrived: Vec<u64>,
    worst: (u64, u64),
    /// How many registered to fill it, and have not left.
    fillers: u64,
}

impl Run {
    fn new(scale: Scale) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let configuration = format!(
            "domain = \"im.test\"\nshards = 2\ndata_dir = \"{}\"\n\
             [sip]\nlisten = [\"udp://127.0.0.1:{{sip_udp}}\", \"tcp://127.0.0.1:{{sip_tcp}}\"]\n\
             max_transactions = 1000000\nt1 = \"200ms\"\nt2 = \"2s\"\nt4 = \"2s\"\n\
             [msrp]\nlisten = [\"tcp://127.0.0.1:{{msrp}}\"]\nidle_timeout = \"1h\"\n\
             [admin]\nlisten = [\"tcp://127.0.0.1:0\"]\n\
             [limits]\nmemory = \"{} MiB\"\nqueue_delay = \"1s\"\n\
             [log]\nfilter = \"warn\"\n",
            folder.path().join("data").display(),
            scale.memory
        );
        let server = ServerProcess::start(Path::new(BINARY), folder.path(), &configuration);
        let server = server.expect("the server starts");
        let address = server.sip_address(Transport::Udp).expect("an address");
        Self {
            scale,
            _folder: folder,
            server,
            phones: Phones::new(address),
            taken: Vec::new(),
            arrived: Vec::new(),
            worst: (0, 0),
            fillers: 0,
        }
    }

    fn play(mut self) {
        self.look("started");
        self.register();
        self.look("registered");
        self.store();
        self.look("messages wait");
        let first = self.scale.absent * self.scale.each;
        let mut sessions = self.open_sessions(first);
        self.look("sessions open");
        let deaf = self.deaf();
        self.look("deaf peers");
        self.fill();
        self.look("full");
        self.finish(&mut sessions);
        self.look("sessions done");
        drop((sessions, deaf));
        self.recover();
        self.look("recovered");
        self.restart();
        self.deliver();
        self.look("delivered");
        println!(
            "worst: accounted {} KiB, resident {} KiB, of {} MiB",
            self.worst.0 / 1024,
            self.worst.1 / 1024,
            self.scale.memory
        );
    }

    /// Everybody is registered.
    fn register(&mut self) {
        let began = clock::now().instant;
        let texts = self.phones.texts();
        let all = (0..self.scale.registered)
            .map(|number| (number, texts.register(&format!("u{number}"), 3600)));
        self.phones.ask_all(64, all);
        let registered = self.phones.tally.of(200) as u64;
        assert_eq!(registered, self.scale.registered, "{:?}", self.phones.tally);
        println!("registered in {:?}", clock::now().instant.since(began));
    }

    /// Messages wait for people who are away.
    fn store(&mut self) {
        let began = clock::now().instant;
        let deadline = began + PATIENCE * 20;
        let texts = self.phones.texts();
        let (absent, each) = (self.scale.absent, self.scale.each);
        let mut left: Vec<u64> = (0..absent * each).collect();
        // On a busy machine some are told to come again.
        while !left.is_empty() {
            self.phones.answers.clear();
            let all = left.iter().map(|number| {
                let (from, to) = (number % 100, number % absent);
                let message = texts.message(&format!("u{from}"), &format!("w{to}"), *number);
                (*number, message)
            });
            self.phones.ask_all(256, all);
            left.clear();
            for (number, status) in std::mem::take(&mut self.phones.answers) {
                match status {
                    202 => self.taken.push(number),
                    503 => left.push(number),
                    other => panic!("{number}: {other}"),
                }
            }
            assert!(clock::now().instant < deadline, "{:?}", self.phones.tally);
        }
        let (taken, silent) = (self.taken.len() as u64, self.phones.tally.silent);
        assert_eq!((taken, silent), (absent * each, 0));
        println!("stored in {:?}", clock::now().instant.since(began));
    }

    /// Chats with people who are away, each with half of a message sent.
    fn open_sessions(&mut self, first: u64) -> Vec<Session> {
        let server = self.server.sip_address(Transport::Udp).expect("an address");
        let numbers = first..first + self.scale.sessions;
        // Each begins at once: a connection over which nothing comes is no session's for long.
        let begun = numbers.map(|number| {
            let mut session = media::open(server, number).expect("there is room");
            session.begin(20_000, 10_000);
            session
        });
        begun.collect()
    }

    /// Peers who ask and never read an answer.
    fn deaf(&mut self) -> Vec<TcpStream> {
        let server = self.server.sip_address(Transport::Tcp).expect("an address");
        (0..self.scale.deaf)
            .map(|number| deaf(server, number))
            .collect()
    }

    /// More and more users register, until the server says that it is enough.
    fn fill(&mut self) {
        let texts = self.phones.texts();
        while !(self.probe(PROBE) == 503 && self.refused_for_memory() > 0.0) {
            let numbers = self.fillers..self.fillers + BATCH;
            self.fillers = numbers.end;
            assert!(self.fillers < 10_000_000, "there is a bound");
            let all = numbers.map(|number| {
                let user = format!("filler{number}");
                (number, texts.register_more(&user, 3600, MORE))
            });
            self.phones.ask_all(64, all);
            self.look_quietly();
        }
        assert_eq!(self.phones.tally.bare, 0, "Retry-After");
        println!("full with {} more users", self.fillers);
        // A registration that ends frees memory, so it is taken even now.
        self.send_away(10);
        let mut answers = self.phones.answers.values();
        assert!(
            answers.all(|status| *status == 200),
            "{:?}",
            self.phones.answers
        );
    }

    /// The answer to a message for somebody who is away.
    fn probe(&mut self, number: u64) -> u16 {
        self.phones.answers.clear();
        let message = self.phones.texts().message("u1", "w1", number);
        self.phones.ask_all(1, [(0, message)].into_iter());
        let status = self.phones.answers.get(&0).copied().unwrap_or_default();
        if status == 202 {
            self.taken.push(number);
        }
        status
    }

    fn refused_for_memory(&self) -> f64 {
        let refused = self.metric("restante_sip_refused_total{reason=\"memory\"}");
        refused.iter().sum()
    }

    /// Some of those who filled it leave.
    fn send_away(&mut self, count: u64) {
        let texts = self.phones.texts();
        let rest = self.fillers.saturating_sub(count);
        let all = (rest..self.fillers)
            .map(|number| (number, texts.register(&format!("filler{number}"), 0)));
        self.phones.answers.clear();
        self.phones.ask_all(64, all);
        self.fillers = rest;
    }

    /// What runs goes on.
    fn finish(&mut self, sessions: &mut [Session]) {
        let first = self.scale.absent * self.scale.each;
        for (number, session) in (first..).zip(sessions) {
            if let Err(answer) = session.finish() {
                panic!("session {number}: {answer}");
            }
            self.taken.push(number);
        }
    }

    /// Those who filled it leave, and new work is taken again.
    fn recover(&mut self) {
        let deadline = clock::now().instant + PATIENCE;
        let began = clock::now().instant;
        let mut number = u64::from(u32::MAX);
        loop {
            self.send_away(BATCH);
            number += 1;
            match self.probe(number) {
                202 => break,
                503 => self.phones.listen(),
                other => panic!("neither taken nor refused: {other}"),
            }
            assert!(clock::now().instant < deadline, "it recovers");
        }
        println!("recovered in {:?}", clock::now().instant.since(began));
    }

    /// Killed and started again.
    fn restart(&mut self) {
        let began = clock::now().instant;
        self.server.kill9().expect("killed");
        self.server.restart().expect("started again");
        println!("ready again in {:?}", clock::now().instant.since(began));
        self.look("started again");
    }

    /// Everybody comes back at once, and gets all that was taken.
    fn deliver(&mut self) {
        let began = clock::now().instant;
        let away = (0..self.scale.absent).map(|number| format!("w{number}"));
        let first = self.scale.absent * self.scale.each;
        let chatters =
            (first..first + self.scale.sessions).map(|number| format!("chatter{number}"));
        let mut users: Vec<String> = away.chain(chatters).collect();
        let deadline = clock::now().instant + PATIENCE * 10;
        while !users.is_empty() {
            self.phones.answers.clear();
            let texts = self.phones.texts();
            let all = users.iter().map(|user| texts.register(user, 3600));
            self.phones.ask_all(64, (0..).zip(all));
            self.look_quietly();
            let taken = |index: u64| self.phones.answers.get(&index) == Some(&200);
            let mut index = 0..;
            users.retain(|_| !taken(index.next().unwrap_or_default()));
            assert!(clock::now().instant < deadline, "all may register");
        }
        println!("all came back in {:?}", clock::now().instant.since(began));
        let mut next_look = clock::now().instant;
        while let Some(missing) = self.missing() {
            self.phones.listen();
            let now = clock::now().instant;
            assert!(now < deadline, "{missing} did not arrive");
            if now >= next_look {
                next_look = now + Duration::from_secs(1);
                self.look_quietly();
            }
        }
        let twice = self.phones.delivered.values().filter(|times| **times > 1);
        println!(
            "{} delivered in {:?}, {} more than once",
            self.arrived.len(),
            clock::now().instant.since(began),
            twice.count()
        );
    }

    /// The first message that has not arrived.
    fn missing(&mut self) -> Option<u64> {
        while let Some(number) = self.taken.last() {
            if !self.phones.delivered.contains_key(number) {
                return Some(*number);
            }
            self.arrived.push(self.taken.pop()?);
        }
        None
    }

    fn look(&mut self, when: &str) {
        let (accounted, resident) = self.look_quietly();
        println!(
            "{when}: accounted {} KiB, resident {} KiB",
            accounted / 1024,
            resident / 1024
        );
    }

    /// What is accounted for and what the process has, held against the bounds.
    fn look_quietly(&mut self) -> (u64, u64) {
        let accounted = self.metric("restante_memory_bytes").iter().sum::<f64>() as u64;
        let resident = self.metric("restante_resident_memory_bytes")[0] as u64;
        let limit = self.scale.memory << 20;
        assert!(accounted <= limit, "{accounted} of {limit} accounted for");
        assert!(
            resident <= limit / 10 * 12,
            "{resident} of {limit} resident"
        );
        self.worst = (self.worst.0.max(accounted), self.worst.1.max(resident));
        (accounted, resident)
    }

    /// All series of this name.
    fn metrics(&self, name: &str) -> String {
        let admin = self.server.ready().admin.first().expect("an interface");
        let url = format!("http://{}/metrics", admin.trim_start_matches("tcp://"));
        let answer = ureq::get(&url).call().expect("the metrics");
        let text = answer.into_body().read_to_string().expect("a text");
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Their values.
    fn metric(&self, name: &str) -> Vec<f64> {
        let text = self.metrics(name);
        let values = (text.lines()).filter_map(|line| line.rsplit_once(' ')?.1.parse().ok());
        values.collect()
    }
}

fn question(number: u64, index: u64) -> String {
    format!(
        "OPTIONS sip:im.test SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKd{number}x{index}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:deaf@im.test>;tag=d\r\nTo: <sip:im.test>\r\n\
         Call-ID: deaf{number}x{index}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A connection over which one asks once, and hears the answer.
fn quiet(server: SocketAddr, number: u64) -> TcpStream {
    let mut stream = TcpStream::connect(server).expect("connected");
    let asked = stream.write_all(question(number, 0).as_bytes());
    asked.expect("sent");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(stream.read(&mut [0; 4_096]).expect("an answer") > 0);
    stream
}

/// A connection over which one asks until nothing more is taken, and reads nothing.
fn deaf(server: SocketAddr, number: u64) -> TcpStream {
    let mut stream = TcpStream::connect(server).expect("connected");
    let text: String = (0..2_000).map(|index| question(number, index)).collect();
    stream.set_nonblocking(true).expect("set");
    match stream.write(text.as_bytes()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("not taken: {error}"),
    }
    stream
}
