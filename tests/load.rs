//! The load program against the server of the test build, a few hundred messages for each workload: nothing
//! about time, only that all workloads run and nothing is lost.

#[path = "../benches/workloads/mod.rs"]
mod workloads;

use std::time::Duration;

use workloads::report::{Fact, Report};
use workloads::rig::Places;
use workloads::{ALL, Options, sys};

fn a_little() -> Options {
    Options {
        server: env!("CARGO_BIN_EXE_restante").into(),
        secs: 60.0,
        count: 200,
        users: 100,
        replayed: 50,
        registered: 2000,
        populations: vec![100, 200],
        settle: Duration::ZERO,
        waiting: 2000,
        large: 1 << 20,
        rounds: 1,
    }
}

/// The workload of this name, with as many CPUs for the server as the load program gives it.
fn run(name: &str) -> Report {
    let workload = ALL.iter().find(|workload| workload.name == name);
    let workload = workload.expect("there is one");
    let mut report = Report::default();
    let cores = if workload.on_two { 2 } else { 1 };
    let places = Places::new(&sys::cpus(), cores);
    (workload.run)(&a_little(), &places, &mut report);
    report
}

#[test]
fn every_workload_is_explained() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let text = std::fs::read_to_string(file).expect("a text");
    for workload in &ALL {
        let row = format!("| {} | {}", workload.name, workload.what);
        assert!(text.contains(&row), "no row: {row}");
    }
}

fn all_arrives(name: &str, rows: usize) {
    let report = run(name);
    assert_eq!(report.rows.len(), rows);
    for row in &report.rows {
        assert!(row.done > 0 && row.cpu_per_10k > 0.0, "{row:?}");
        assert_eq!((row.refused, row.lost), (0, 0), "{row:?}");
        assert!(row.p50 <= row.p99 && row.p99 <= row.max, "{row:?}");
    }
    assert!(report.told().contains(name));
}

#[test]
fn messages_are_relayed() {
    all_arrives("W1", 1);
}

#[test]
fn messages_are_kept() {
    all_arrives("W2", 3);
}

#[test]
fn messages_are_replayed_by_message() {
    all_arrives("W3", 1);
}

#[test]
fn messages_are_replayed_in_a_session() {
    all_arrives("W3m", 1);
}

#[test]
fn users_register_with_and_without_digest() {
    all_arrives("W4", 2);
}

#[test]
fn chats_pass_through() {
    all_arrives("W5", 2);
}

#[test]
fn the_cost_is_taken_at_every_size() {
    all_arrives("W8", 6);
}

#[test]
fn sizes_and_starts_are_told() {
    for (name, facts) in [("W6", 6), ("W7", 9)] {
        let report = run(name);
        assert_eq!(report.facts.len(), facts);
        for fact in &report.facts {
            assert!(fact.value > 0.0 || grew(fact), "{fact:?}");
        }
    }
}

/// The memory so few users need is less than what a process has more or less of by chance, so nothing may be left
/// of a difference; the other facts are sizes and times, of which there is something always.
fn grew(fact: &Fact) -> bool {
    fact.workload == "W6" && fact.unit == "MiB" && fact.value == 0.0
}
