//! One episode: a server with a configuration of its own, a cast that talks, some kills, and at the end the
//! question whether everything that was acknowledged is there.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use restante::clock::{self, Instant};
use restante::demo::Failure;

use super::authors::Author;
use super::devices::devices;
use super::dice::Dice;
use super::faults::Fault;
use super::report::Report;
use super::scene::{Person, Scene};
use super::server::Server;
use crate::support::Configuration;

/// Everything acknowledged must have come so soon after the last thing came.
const COMES_WITHIN: Duration = Duration::from_secs(60);
/// The slowest first answer after a kill that passes; the aim is 2 s.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// The longest that SIGTERM may take.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Looks that must find nothing left to do, so that what was about to happen has happened.
const QUIET_LOOKS: u32 = 8;
/// Difficult devices.
const DIFFICULT: [&str; 1] = ["frank"];
const CAST: [&str; 10] = [
    "alice", "ann", "bob", "carol", "cora", "dave", "eve", "frank", "gina", "hugo",
];

/// Plays it and counts; what is wrong is in the report too.
pub fn play(seed: u64, kills: usize) -> Result<Report, Failure> {
    let mut dice = Dice::of(seed, "episode");
    let shards = dice.weighted(&[(1, 1), (1, 2), (1, 4)]);
    let mut server = Server::start(&configuration(&mut dice), shards)?;
    let people: Result<Vec<_>, Failure> = CAST
        .iter()
        .map(|name| {
            Ok(Person::new(
                name,
                server.agent(name)?,
                DIFFICULT.contains(name),
            ))
        })
        .collect();
    let scene = Arc::new(Scene::new(seed, people?));
    let mut report = Report::default();
    begin(&scene);
    let ended = run(&scene, &mut server, &mut dice, kills, &mut report);
    scene.set(&scene.over);
    let (verdict, counts) = scene.book.judge();
    report.count(&counts);
    for (kind, set) in verdict.sets() {
        let named = set
            .iter()
            .map(|what| format!("seed {seed}: {kind}: {what}"));
        report.faults.extend(named);
    }
    if let Err(failure) = &ended {
        report
            .faults
            .push(format!("seed {seed}: {}", failure.step()));
    }
    if !report.faults.is_empty() {
        report.keep_evidence(seed, &server);
    }
    Ok(report)
}

fn configuration(dice: &mut Dice) -> Configuration {
    let segment = dice.weighted(&[(2, "64 KiB"), (1, "1 MiB"), (1, "64 MiB")]);
    Configuration::open()
        .with("deferral", "retry = [\"1s\", \"2s\"]")
        .with("deferral", "answer_within = \"700ms\"")
        .with("deferral", "ring_timeout = \"2s\"")
        .with("deferral", "custody_after = \"2s\"")
        .with("sip", "t1 = \"100ms\"")
        .with("store", &format!("segment_size = \"{segment}\""))
        .with("store", "reserve = \"1 MiB\"")
}

fn begin(scene: &Arc<Scene>) {
    for person in &scene.people {
        devices(scene, person);
    }
    let author = |from, to, way| Author::new(scene, scene.person(from), scene.person(to), way);
    author("alice", "bob", "pager").pages(scene, false);
    author("ann", "frank", "pager").pages(scene, false);
    author("eve", "hugo", "expiring").pages(scene, true);
    author("carol", "bob", "chat").chats(scene);
    author("cora", "frank", "chat").chats(scene);
    author("dave", "gina", "large").sends_large(scene);
}

fn run(
    scene: &Arc<Scene>,
    server: &mut Server,
    dice: &mut Dice,
    kills: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    for _ in 0..kills {
        thread::sleep(dice.millis(100..1_200));
        befall(scene, server, dice, report)?;
    }
    scene.set(&scene.silence);
    scene.set(&scene.meek);
    settle(scene)?;
    // What has been confirmed does not come again, also after another start.
    stop_and_start(scene, server, report)?;
    settle(scene)
}

/// One kill, by one kind of fault, and the start after it.
fn befall(
    scene: &Scene,
    server: &mut Server,
    dice: &mut Dice,
    report: &mut Report,
) -> Result<(), Failure> {
    let fault = dice.weighted(&Fault::WEIGHTS);
    let order = fault.order(dice);
    server
        .transcript
        .note(&format!("{} follows: {order:?}", fault.name()));
    let began = clock::now().instant;
    match (fault, order) {
        (Fault::Terminated, _) => {
            report.killed(fault);
            return stop_and_start(scene, server, report);
        }
        (Fault::Signal, _) | (_, None) => server.kill()?,
        (Fault::DuringStart, Some(order)) => {
            server.kill()?;
            server.shim.arm(&order);
        }
        (_, Some(order)) if fault.is_of_the_disk() || fault == Fault::ShortWrites => {
            server.shim.arm(&order);
            limp(server, dice)?;
        }
        (_, Some(order)) => {
            server.shim.arm(&order);
            if !server.dies()? {
                report.missed += 1;
            }
        }
    }
    if fault != Fault::DuringStart {
        server.shim.disarm();
    }
    thread::sleep(dice.millis(0..100));
    restart(server, report)?;
    server.shim.disarm();
    report.killed(fault);
    scene
        .book
        .excuse(began, clock::now().instant, fault.is_of_the_disk());
    Ok(())
}

/// Goes on with a bad disk for a while, and is killed.
fn limp(server: &mut Server, dice: &mut Dice) -> Result<(), Failure> {
    let end = clock::now().instant + Duration::from_secs(2);
    while server.shim.struck() == 0 && clock::now().instant < end {
        thread::sleep(Duration::from_millis(2));
    }
    thread::sleep(dice.millis(50..600));
    server.kill()
}

/// SIGTERM under load.
fn stop_and_start(scene: &Scene, server: &mut Server, report: &mut Report) -> Result<(), Failure> {
    let took = server.terminate()?;
    let ended = clock::now().instant;
    report.stopped(took);
    if took > ENDS_WITHIN {
        return Err(Failure::plain(format!("SIGTERM took {took:?}")));
    }
    restart(server, report)?;
    scene.book.excuse_after_stop(ended, clock::now().instant);
    Ok(())
}

fn restart(server: &mut Server, report: &mut Report) -> Result<(), Failure> {
    let (took, failed) = server.restart()?;
    server.transcript.note("the server answers again");
    report.answered(took, failed);
    match took < ANSWERS_WITHIN {
        true => Ok(()),
        false => Err(Failure::plain(format!("the first answer took {took:?}"))),
    }
}

/// Waits until nothing is owed and nobody is about to write.
fn settle(scene: &Scene) -> Result<(), Failure> {
    let (mut last, mut since) = (0, clock::now().instant);
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        thread::sleep(Duration::from_millis(50));
        let (owed, progress) = (scene.book.owed(), scene.book.progress());
        let is_done = owed == 0 && !scene.is_busy();
        quiet = if is_done && progress == last {
            quiet + 1
        } else {
            0
        };
        if progress != last {
            (last, since) = (progress, clock::now().instant);
        }
        if passed(since) > COMES_WITHIN {
            // The judge names them.
            return Err(Failure::plain(format!("{owed} messages are still owed")));
        }
    }
    Ok(())
}

fn passed(since: Instant) -> Duration {
    clock::now().instant.since(since)
}
