//! Thousands of phones on two sockets: authors who ask and wait for answers, a window of them at a time, and
//! devices that register and answer what is sent to them.

use std::net::SocketAddr;
use std::time::Duration;

use restante::clock::{self, Instant};
use restante::net::sys::Datagram;

use super::line::Line;
use super::sys::{Wish, wait};
use super::tally::{Tally, Until};
use super::texts;

/// What has not been answered for this long is sent again (RFC 3261 §17.1.2.2, without doubling).
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is sent again before it is given up.
const TIMES: u32 = 20;
/// How long one look at the sockets may take.
const LOOK: Duration = Duration::from_millis(20);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Authors,
    Devices,
}

/// What is asked.
pub trait Requests {
    /// The text of a request; `local` is where it leaves, `step` is 1 once it was challenged.
    fn write(&mut self, local: SocketAddr, number: u64, step: u8) -> String;

    /// An answer 401; whether the request is to be sent once more.
    fn challenged(&mut self, _number: u64, _answer: &[u8]) -> bool {
        false
    }
}

/// Requests that never need a second step.
impl<W: FnMut(SocketAddr, u64) -> String> Requests for W {
    fn write(&mut self, local: SocketAddr, number: u64, _step: u8) -> String {
        self(local, number)
    }
}

/// A request without an answer yet.
struct Open {
    number: u64,
    step: u8,
    asked_at: Instant,
    sent_at: Instant,
    times: u32,
}

/// Messages that arrived at the devices, each counted once.
#[derive(Default)]
pub struct Arrivals {
    seen: Vec<u64>,
    /// When each came for the first time.
    pub at: Vec<Instant>,
    /// How many came once more.
    pub again: u64,
}

impl Arrivals {
    /// One has come.
    pub fn count(&mut self, number: u64) {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        match self.seen[word] & bit {
            0 => self.at.push(clock::now().instant),
            _ => self.again += 1,
        }
        self.seen[word] |= bit;
    }
}

/// See the module's text.
pub struct Phones {
    pub authors: Line,
    pub devices: Line,
    server: SocketAddr,
    next: u64,
    pub arrivals: Arrivals,
}

impl Phones {
    /// Phones of the users of a server.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            authors: Line::new(),
            devices: Line::new(),
            server,
            next: 0,
            arrivals: Arrivals::default(),
        }
    }

    /// Where they turn to from now on.
    pub fn turn_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    /// A number that no request has had.
    pub fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Asks, with so many requests under way at a time, and waits for all answers.
    pub fn ask(
        &mut self,
        side: Side,
        window: usize,
        until: Until,
        requests: &mut dyn Requests,
    ) -> Tally {
        let mut asking = Asking {
            side,
            requests,
            open: Vec::with_capacity(window),
            tally: Tally::default(),
        };
        let end = clock::now().instant + until.time;
        let mut came = Vec::new();
        loop {
            let now = clock::now().instant;
            let may_ask = now < end;
            while may_ask && asking.open.len() < window && asking.tally.asked < until.count {
                asking.begin(self, now);
            }
            asking.repeat(self, now);
            if asking.open.is_empty() {
                return asking.tally;
            }
            self.look(side, &mut came);
            for datagram in came.drain(..) {
                asking.take(self, &datagram.octets);
            }
        }
    }

    /// Devices answer until so many messages have arrived, or nothing more comes for `patience`.
    pub fn wait_for_arrivals(&mut self, count: usize, patience: Duration) {
        let mut came = Vec::new();
        let mut deadline = clock::now().instant + patience;
        while self.arrivals.at.len() < count && clock::now().instant < deadline {
            let before = self.arrivals.at.len();
            self.look(Side::Authors, &mut came);
            came.clear();
            if self.arrivals.at.len() > before {
                deadline = clock::now().instant + patience;
            }
        }
    }

    /// Sends what is to be sent, waits a little, lets the devices answer, and gives the answers to `side`.
    fn look(&mut self, side: Side, answers: &mut Vec<Datagram>) {
        self.authors.flush();
        self.devices.flush();
        let wishes = [&self.authors, &self.devices].map(|line| Wish::to_read(line.socket()));
        wait(&wishes, LOOK);
        let mut elsewhere = Vec::new();
        match side {
            Side::Authors => {
                self.authors.receive(answers);
                self.devices.receive(&mut elsewhere);
            }
            Side::Devices => {
                self.devices.receive(answers);
                self.authors.receive(&mut elsewhere);
            }
        }
        for datagram in elsewhere.iter().chain(&*answers) {
            self.serve(datagram);
        }
        self.devices.flush();
    }

    /// A device answers a request.
    fn serve(&mut self, datagram: &Datagram) {
        if datagram.octets.starts_with(b"SIP/2.0 ") {
            return;
        }
        if let Some(number) = texts::message_number(&datagram.octets) {
            self.arrivals.count(number);
        }
        let answer = texts::answer(&datagram.octets, "200 OK", "", "");
        self.devices.send(datagram.remote, answer);
    }
}

/// Requests under way.
struct Asking<'r> {
    side: Side,
    requests: &'r mut dyn Requests,
    open: Vec<Open>,
    tally: Tally,
}

impl Asking<'_> {
    fn begin(&mut self, phones: &mut Phones, now: Instant) {
        let number = phones.fresh();
        self.open.push(Open {
            number,
            step: 0,
            asked_at: now,
            sent_at: now,
            times: 0,
        });
        self.tally.asked += 1;
        self.send(phones, number, 0);
    }

    fn send(&mut self, phones: &mut Phones, number: u64, step: u8) {
        let server = phones.server;
        let line = match self.side {
            Side::Authors => &mut phones.authors,
            Side::Devices => &mut phones.devices,
        };
        let text = self.requests.write(line.local(), number, step);
        line.send(server, text);
    }

    fn repeat(&mut self, phones: &mut Phones, now: Instant) {
        let mut due = Vec::new();
        for open in &mut self.open {
            if now >= open.sent_at + AGAIN {
                open.sent_at = now;
                open.times += 1;
                due.push((open.number, open.step));
            }
        }
        for (number, step) in due {
            self.tally.repeated += 1;
            self.send(phones, number, step);
        }
        let before = self.open.len();
        self.open.retain(|open| open.times <= TIMES);
        self.tally.silent += (before - self.open.len()) as u64;
    }

    fn take(&mut self, phones: &mut Phones, octets: &[u8]) {
        let Some((status @ 200.., number, step)) = texts::answered(octets) else {
            return;
        };
        let is_it = |open: &Open| open.number == number && u64::from(open.step) == step;
        let Some(index) = self.open.iter().position(is_it) else {
            return;
        };
        if status == 401 && self.open[index].step == 0 && self.requests.challenged(number, octets) {
            let open = &mut self.open[index];
            (open.step, open.sent_at) = (1, clock::now().instant);
            return self.send(phones, number, 1);
        }
        let open = self.open.swap_remove(index);
        match status {
            200..300 => self.tally.count(open.asked_at),
            _ => *self.tally.refused.entry(status).or_default() += 1,
        }
    }
}
