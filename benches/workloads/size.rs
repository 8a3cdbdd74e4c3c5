//! What users and messages need (W6), and a start with many messages (W7).

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use restante::clock::{self, Instant};

use super::Options;
use super::cost::memory;
use super::filled;
use super::pager;
use super::report::Report;
use super::rig::{Places, Rig, Setting};

const LOOK: Duration = Duration::from_millis(200);
const MIB: f64 = 1024.0 * 1024.0;
/// Users for whom memory is told.
const PER: f64 = 100_000.0;

/// W6.
pub fn sizes(options: &Options, places: &Places, report: &mut Report) {
    let mut rig = Rig::new(&options.server, places, &Setting::roomy());
    let before = memory(rig.server.pid(), "Pss:");
    report.fact(
        "W6",
        "memory before the first user",
        before as f64 / MIB,
        "MiB",
    );
    pager::register(&mut rig.phones(), options.registered);
    let per_many = |octets: f64| octets / options.registered as f64 * PER / MIB;
    let grown = |rig: &Rig| memory(rig.server.pid(), "Pss:").saturating_sub(before) as f64;
    let what = "100,000 users who have just registered";
    report.fact("W6", what, per_many(grown(&rig)), "MiB");
    wait_for_transactions(&rig, options.settle);
    let what = "the same when their transactions have ended";
    report.fact("W6", what, per_many(grown(&rig)), "MiB");
    let bindings = rig.metric("restante_memory_bytes{kind=\"bindings\"}");
    report.fact(
        "W6",
        "of it bindings, as accounted for",
        per_many(bindings),
        "MiB",
    );
    rig.restart();
    let what = "100,000 users after a restart, which knows no transactions";
    report.fact("W6", what, per_many(grown(&rig)), "MiB");
    let before = rig.metric("restante_store_live_bytes");
    let tally = pager::leave(options, &mut rig.phones());
    let live = rig.metric("restante_store_live_bytes") - before;
    let each = live / tally.done.max(1) as f64;
    report.fact("W6", "disk for a waiting message of 1.2 kB", each, "octets");
}

/// A transaction is kept for 32 seconds, to answer retransmissions (RFC 3261 §17.2.2).
fn wait_for_transactions(rig: &Rig, patience: Duration) {
    let deadline = clock::now().instant + patience;
    while rig.metric("restante_sip_transactions") > 0.0 && clock::now().instant < deadline {
        thread::sleep(LOOK);
    }
}

/// W7.
pub fn start(options: &Options, places: &Places, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    filled::fill(&data, options.waiting);
    let (octets, read) = plain_read(&data);
    report.fact("W7", "waiting messages", options.waiting as f64, "");
    report.fact("W7", "their data folder", octets as f64 / MIB, "MiB");
    let (log, _) = plain_read(&data.join("log"));
    report.fact("W7", "of it the log", log as f64 / MIB, "MiB");
    report.fact(
        "W7",
        "reading the folder, from memory",
        read.as_secs_f64(),
        "s",
    );
    let began = clock::now().instant;
    let mut rig = Rig::on(folder, &options.server, places, &Setting::default());
    started(options, &rig, began, "start until ready", report);
    let began = clock::now().instant;
    rig.restart();
    started(
        options,
        &rig,
        began,
        "start until ready after a kill",
        report,
    );
    let resident = memory(rig.server.pid(), "Rss:");
    report.fact("W7", "resident memory then", resident as f64 / MIB, "MiB");
}

fn started(options: &Options, rig: &Rig, began: Instant, what: &str, report: &mut Report) {
    let (took, cpu) = (clock::now().instant.since(began), rig.subject().used());
    let waiting = rig.metric("restante_waiting_messages") as u64;
    assert_eq!(waiting, options.waiting, "{what}: all wait");
    report.fact("W7", what, took.as_secs_f64(), "s");
    report.fact("W7", format!("{what}: CPU"), cpu.as_secs_f64(), "s");
}

/// How many octets a folder has, and how long reading them takes.
fn plain_read(folder: &Path) -> (u64, Duration) {
    let began = clock::now().instant;
    let mut buffer = vec![0; 1 << 20];
    let octets = read_folder(folder, &mut buffer);
    (octets, clock::now().instant.since(began))
}

fn read_folder(folder: &Path, buffer: &mut [u8]) -> u64 {
    let mut octets = 0;
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            octets += read_folder(&path, buffer);
            continue;
        }
        let mut file = File::open(&path).expect("a file");
        while let Ok(length @ 1..) = file.read(buffer) {
            octets += length as u64;
        }
    }
    octets
}
