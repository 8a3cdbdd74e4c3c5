//! The server under load, beside what the machine does at best: `cargo bench --bench load`, or
//! `cargo bench --bench load -- --workload W1 --secs 5`. `docs/performance.md` says what the workloads are.

mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use workloads::report::Report;
use workloads::rig::Places;
use workloads::{ALL, Options, Workload, sys};

/// Runs workloads against the real server and prints what they cost.
#[derive(Debug, Parser)]
struct Arguments {
    /// Workloads to run, such as W1,W3m; all where nothing is said.
    #[arg(long, value_delimiter = ',')]
    workload: Vec<String>,
    /// Seconds each load runs.
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// Users who send and receive.
    #[arg(long, default_value_t = 1000)]
    users: u64,
    /// CPUs of the server; one, and for W1, W2 and W5 two as well, where nothing is said.
    #[arg(long)]
    cores: Option<usize>,
    /// Rounds where the middle one counts (W3, W3m, W8).
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many users are registered (W8).
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    populations: Vec<u64>,
    /// How many messages wait (W7, W8).
    #[arg(long, default_value_t = 1_000_000)]
    waiting: u64,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Another binary of the server.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_restante"))]
    server: PathBuf,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            server: self.server.clone(),
            secs: self.secs,
            count: u64::MAX,
            users: self.users,
            replayed: 1000,
            registered: 100_000,
            populations: self.populations.clone(),
            settle: Duration::from_secs(60),
            waiting: self.waiting,
            large: 10 << 20,
            rounds: self.rounds,
        }
    }

    fn wants(&self, workload: &Workload) -> bool {
        let mut wanted = self.workload.iter();
        self.workload.is_empty() || wanted.any(|name| name.eq_ignore_ascii_case(workload.name))
    }

    /// With how many CPUs a workload is run.
    fn cores(&self, workload: &Workload) -> Vec<usize> {
        match self.cores {
            Some(cores) => vec![cores],
            None if workload.on_two => vec![1, 2],
            None => vec![1],
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    let options = arguments.options();
    let cpus = sys::cpus();
    let mut report = Report::default();
    for workload in ALL.iter().filter(|workload| arguments.wants(workload)) {
        eprintln!("{}: {}", workload.name, workload.what);
        for cores in arguments.cores(workload) {
            (workload.run)(&options, &Places::new(&cpus, cores), &mut report);
        }
    }
    match arguments.json {
        true => println!("{}", serde_json::to_string(&report).expect("plain data")),
        false => print!("{}", report.told()),
    }
}
