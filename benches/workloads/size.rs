//! What users and messages need (W6), and a start with many messages (W7).

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use restante::clock;

use super::Options;
use super::cost::memory;
use super::filled;
use super::pager;
use super::report::Report;
use super::rig::{Places, Rig, Setting};

const MIB: f64 = 1024.0 * 1024.0;
/// Users for whom memory is told.
const PER: f64 = 100_000.0;

/// W6.
pub fn sizes(options: &Options, places: &Places, report: &mut Report) {
    let rig = Rig::new(&options.server, places, &Setting::default());
    let users = options.registered;
    let before = memory(rig.server.pid(), "Pss:");
    pager::register(&mut rig.phones(), users);
    let grown = memory(rig.server.pid(), "Pss:").saturating_sub(before);
    let accounted = rig.metric("restante_memory_bytes");
    report.fact(
        "W6",
        "memory before the first user",
        before as f64 / MIB,
        "MiB",
    );
    let each = grown as f64 / users as f64;
    report.fact(
        "W6",
        "memory of 100,000 registered users, their transactions included",
        each * PER / MIB,
        "MiB",
    );
    report.fact(
        "W6",
        "of it accounted for",
        accounted / users as f64 * PER / MIB,
        "MiB",
    );
    let before = rig.metric("restante_store_live_bytes");
    let tally = pager::leave(options, &mut rig.phones());
    let live = rig.metric("restante_store_live_bytes") - before;
    report.fact(
        "W6",
        "disk for a waiting message of 1.2 kB",
        live / tally.done as f64,
        "octets",
    );
}

/// W7.
pub fn start(options: &Options, places: &Places, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    filled::fill(&data, options.waiting);
    let (octets, read) = plain_read(&data);
    let began = clock::now().instant;
    let mut rig = Rig::on(folder, &options.server, places, &Setting::default());
    let first = clock::now().instant.since(began);
    let waiting = rig.metric("restante_waiting_messages");
    assert_eq!(waiting as u64, options.waiting, "all wait");
    let began = clock::now().instant;
    rig.restart();
    let again = clock::now().instant.since(began);
    let resident = memory(rig.server.pid(), "Rss:");
    let waiting = rig.metric("restante_waiting_messages");
    assert_eq!(waiting as u64, options.waiting, "all wait after a kill");
    report.fact("W7", "waiting messages", options.waiting as f64, "");
    report.fact("W7", "their data folder", octets as f64 / MIB, "MiB");
    report.fact("W7", "reading it, warm", seconds(read), "s");
    report.fact("W7", "start until ready", seconds(first), "s");
    report.fact("W7", "start until ready after a kill", seconds(again), "s");
    report.fact("W7", "resident memory then", resident as f64 / MIB, "MiB");
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
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
