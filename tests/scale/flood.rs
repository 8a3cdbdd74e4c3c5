//! More requests than the server can serve: refusing costs so much less than serving that most of the server's
//! time stays with what it serves, and the rest hears 503 at once.
//!
//! Everything is told for each second of the server's own CPU, so that other work on the machine does not count.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use super::load::{Phones, Texts, field};
use super::{BINARY, PATIENCE};
use restante::clock::{self, Instant};
use restante::demo::{ServerProcess, Transport};

/// How long one rate is held.
const HELD: Duration = Duration::from_secs(2);
/// What a refusal may cost of what serving costs; on a quiet machine it is about a tenth.
const DEAREST: f64 = 0.3;
/// Rates beyond this are not tried: the driver cannot make more.
const MOST: f64 = 400_000.0;

/// What came back, and at what price.
#[derive(Debug, Default)]
struct Answers {
    good: u64,
    refused: u64,
    /// 503 that does not say when to come back, or has no To tag.
    bare: u64,
    /// CPU seconds of the server.
    cpu: f64,
}

impl Answers {
    /// Good answers for each CPU second.
    fn yield_of_cpu(&self) -> f64 {
        self.good as f64 / self.cpu
    }

    fn take(&mut self, text: &str) {
        if text.starts_with("SIP/2.0 202 ") {
            self.good += 1;
        } else if text.starts_with("SIP/2.0 503 ") {
            self.refused += 1;
            let is_bare = field(text, "Retry-After").is_empty();
            if is_bare || !field(text, "To").contains(";tag=") {
                self.bare += 1;
            }
        }
    }
}

#[test]
fn refusing_what_is_too_much_costs_little_of_what_serving_costs() {
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = format!(
        "domain = \"im.test\"\nshards = 1\ndata_dir = \"{}\"\n\
         [sip]\nlisten = [\"udp://127.0.0.1:{{sip_udp}}\", \"tcp://127.0.0.1:{{sip_tcp}}\"]\n\
         max_transactions = 1000000\n\
         [msrp]\nlisten = [\"tcp://127.0.0.1:{{msrp}}\"]\n\
         [users]\nmax_messages = 4000000000\n[log]\nfilter = \"warn\"\n",
        folder.path().join("data").display()
    );
    let server = ServerProcess::start(Path::new(BINARY), folder.path(), &configuration);
    let server = server.expect("the server starts");
    let mut flood = Flood::new(&server);
    let calm = flood.closed(2_000);
    assert_eq!((calm.good, calm.refused), (2_000, 0));
    let mut rate = 2.0 * calm.yield_of_cpu();
    let over = loop {
        let over = flood.open(rate);
        println!("{rate:.0} a second: {over:?}");
        // Twice as much as can be served: as many are refused as are served.
        if over.refused > over.good {
            break over;
        }
        rate *= 1.5;
        assert!(rate < MOST, "there is a limit to what is served");
    };
    let serving = 1.0 / calm.yield_of_cpu();
    let refusing = (over.cpu - over.good as f64 * serving) / over.refused as f64;
    let price = refusing / serving;
    println!("refusing costs {price:.2} of serving");
    assert_eq!(over.bare, 0, "{over:?}");
    assert!(
        over.good > 0 && price < DEAREST,
        "{price:.2}: {calm:?}, {over:?}"
    );
    flood.recovers();
}

struct Flood {
    server: u32,
    socket: UdpSocket,
    phones: Phones,
    texts: Texts,
    sent: u64,
}

impl Flood {
    fn new(server: &ServerProcess) -> Self {
        let address = server.sip_address(Transport::Udp).expect("an address");
        let phones = Phones::new(address);
        let socket = phones.another_socket();
        socket.set_nonblocking(true).expect("set");
        let port = socket.local_addr().expect("bound").port();
        Self {
            server: server.pid(),
            socket,
            phones,
            texts: Texts::of_port(port),
            sent: 0,
        }
    }

    /// Sixty-four under way until so many were answered.
    fn closed(&mut self, count: u64) -> Answers {
        let before = self.cpu();
        let texts = self.phones.texts();
        let all = (0..count).map(|number| (number, texts.message("a", &to(number), number)));
        self.phones.ask_all(64, all);
        Answers {
            good: self.phones.tally.of(202) as u64,
            refused: self.phones.tally.of(503) as u64,
            bare: self.phones.tally.bare as u64,
            cpu: self.cpu() - before,
        }
    }

    /// So many a second, whatever comes back.
    fn open(&mut self, rate: f64) -> Answers {
        let mut answers = Answers::default();
        let (before, began) = (self.cpu(), now());
        let first = self.sent;
        loop {
            let passed = now().since(began);
            if passed >= HELD {
                break;
            }
            let due = first + (rate * passed.as_secs_f64()) as u64;
            while self.sent < due {
                self.send();
            }
            self.listen(&mut answers);
            std::thread::yield_now();
        }
        answers.cpu = self.cpu() - before;
        answers
    }

    fn send(&mut self) {
        self.sent += 1;
        let text = self.texts.message("a", &to(self.sent), self.sent);
        let text = text.replace("NUMBER", &format!("f{}", self.sent));
        // What the kernel has no room for is lost, as on a network.
        let _ = self.socket.send(text.as_bytes());
    }

    fn listen(&self, answers: &mut Answers) {
        let mut octets = [0; 2_048];
        while let Ok(length) = self.socket.recv(&mut octets) {
            answers.take(&String::from_utf8_lossy(&octets[..length]));
        }
    }

    /// Once the flood is over new work is taken again.
    fn recovers(&mut self) {
        let deadline = now() + PATIENCE;
        loop {
            self.phones.answers.clear();
            let texts = self.phones.texts();
            let message = texts.message("a", "b", 1);
            self.phones.ask_all(1, [(0, message)].into_iter());
            if self.phones.answers.get(&0) == Some(&202) {
                return;
            }
            assert!(now() < deadline, "new work is taken again");
        }
    }

    /// CPU seconds that all threads of the server have had.
    fn cpu(&self) -> f64 {
        let tasks = format!("/proc/{}/task", self.server);
        let tasks = std::fs::read_dir(tasks).expect("the server runs");
        let spent = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        spent.sum::<f64>() / 1e9
    }
}

fn to(number: u64) -> String {
    format!("w{}", number % 100)
}

fn now() -> Instant {
    clock::now().instant
}
