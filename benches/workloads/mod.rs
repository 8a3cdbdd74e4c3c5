//! What users do, many of them, against the real server: `benches/load.rs` runs it, `tests/load.rs` runs a
//! little of it.
//!
//! One thread drives all phones, from a CPU that the server does not use where there are two. Beside each
//! workload stands what the machine does at best (`bounds.rs`): the same datagrams and octets, in the same
//! window, through a program that understands none of them.

pub mod bounds;
pub mod chat;
pub mod cost;
pub mod filled;
pub mod line;
pub mod msrp;
pub mod pager;
pub mod phones;
pub mod replay;
pub mod report;
pub mod rig;
pub mod sessions;
pub mod size;
pub mod sys;
pub mod tally;
pub mod texts;

use std::path::PathBuf;
use std::time::Duration;

use msrp::Shape;
use report::Report;
use rig::Places;
use tally::Until;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's binary.
    pub server: PathBuf,
    /// How long each load runs, and at most how many requests.
    pub secs: f64,
    pub count: u64,
    /// Users who send and receive.
    pub users: u64,
    /// Messages that wait for one who registers.
    pub replayed: u64,
    /// Users who register for W6, and for W8.
    pub registered: u64,
    pub populations: Vec<u64>,
    /// How long is waited for transactions to end.
    pub settle: Duration,
    /// Messages that wait at a start.
    pub waiting: u64,
    /// Octets of a large message.
    pub large: usize,
    /// Rounds where the middle one counts.
    pub rounds: usize,
}

impl Options {
    fn until(&self) -> Until {
        Until {
            count: self.count,
            time: Duration::from_secs_f64(self.secs),
        }
    }

    fn large(&self, shape: Shape) -> Shape {
        Shape {
            size: self.large,
            ..shape
        }
    }
}

/// A workload: its name, what it does, and whether it is run on two cores as well.
pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub on_two: bool,
    pub run: fn(&Options, &Places, &mut Report),
}

/// All there are.
pub const ALL: [Workload; 9] = [
    Workload {
        name: "W1",
        what: "MESSAGE relayed to a device",
        on_two: true,
        run: pager::relay,
    },
    Workload {
        name: "W2",
        what: "MESSAGE kept for somebody who is away",
        on_two: true,
        run: pager::keep,
    },
    Workload {
        name: "W3",
        what: "waiting messages replayed by MESSAGE",
        on_two: false,
        run: replay::by_message,
    },
    Workload {
        name: "W3m",
        what: "waiting chat messages replayed over MSRP",
        on_two: false,
        run: replay::in_session,
    },
    Workload {
        name: "W4",
        what: "REGISTER, without and with digest",
        on_two: false,
        run: pager::registrations,
    },
    Workload {
        name: "W5",
        what: "MSRP between two who are there",
        on_two: true,
        run: sessions::anchored,
    },
    Workload {
        name: "W6",
        what: "memory of users, disk of messages",
        on_two: false,
        run: size::sizes,
    },
    Workload {
        name: "W7",
        what: "a start with many waiting messages",
        on_two: false,
        run: size::start,
    },
    Workload {
        name: "W8",
        what: "the cost of a message with many users and many messages",
        on_two: false,
        run: pager::scale,
    },
];
