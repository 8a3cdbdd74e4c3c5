//! A storm of mutated SIP and MSRP against the real binary, while users are served throughout.
//!
//! The test command plays a short form. The long one, a million inputs over ten seeds:
//! `cargo test --release --test storm -- --ignored --nocapture`, with `RESTANTE_STORM` and
//! `RESTANTE_STORM_SEEDS` for other numbers and `RESTANTE_TEST_SEED` for the first seed. There the attackers
//! come from the address of the users, which no limit holds for, so that every input is read. From addresses that
//! are limited and banned: `RESTANTE_STORM=100000 cargo test --release --test storm limited -- --nocapture`.

mod claims;
mod support;

#[path = "storm/attack.rs"]
mod attack;
#[path = "storm/report.rs"]
mod report;
#[path = "storm/users.rs"]
mod users;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use attack::{Sources, Target};
use report::{Process, Report};
use restante::clock::now;
use restante::demo::{Failure, Transport};
use support::{Configuration, Stage, on_stage};

/// What the process may grow by, in octets.
const GROWTH: u64 = 64 << 20;
/// How long connections and sessions may take to go once the storm is over.
const CALM: Duration = Duration::from_secs(60);
/// Descriptors that may be more after the storm than before: idle connections of users.
const DESCRIPTORS: usize = 12;

/// Two storms at once would show what the machine can do.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Transactions end after 64 × T1, so that the storm is about what comes, not about what is remembered
/// of it; queues are short, because most of what is kept is for nobody.
fn configuration() -> Configuration {
    Configuration::open()
        .with("sip", "t1 = \"100ms\"")
        .with("sip", "t2 = \"1s\"")
        .with("sip", "t4 = \"1s\"")
        .with("msrp", "binding_timeout = \"5s\"")
        .with("users", "max_messages = 20")
}

/// The same, and of the loopback network only the users' own address is trusted.
fn limited() -> Configuration {
    configuration()
        .with("limits", "trusted = [\"127.0.0.1\"]")
        .with("limits", "source_rate = 500")
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn users_are_served_through_a_storm_of_broken_messages() {
    storm(&configuration(), Sources::Users, 16_000, 2);
}

#[test]
fn users_are_served_through_a_storm_from_addresses_that_are_limited() {
    storm(
        &limited(),
        Sources::Others,
        number("RESTANTE_STORM", 8_000),
        1,
    );
}

/// The long form.
#[test]
#[ignore = "takes a quarter of an hour; the test command plays sixteen thousand inputs"]
fn users_are_served_through_a_million_broken_messages() {
    let inputs = number("RESTANTE_STORM", 1_000_000);
    let seeds = number("RESTANTE_STORM_SEEDS", 10);
    storm(&configuration(), Sources::Users, inputs, seeds);
}

fn storm(configuration: &Configuration, sources: Sources, inputs: u64, seeds: u64) {
    let _alone = ONE_AT_A_TIME.lock();
    let first = number("RESTANTE_TEST_SEED", now().wall.0);
    println!("RESTANTE_TEST_SEED={first}");
    on_stage(configuration, 2, |stage| {
        let mut whole = Report::default();
        let process = Process::of(stage.server().pid());
        let calm = thread::scope(|_| users::warm_up(stage))?;
        let before = process.look();
        for seed in first..first + seeds {
            let part = one_seed(stage, sources, (seed, inputs / seeds), &process)?;
            println!("seed {seed}: {}", part.line());
            whole.add(part);
        }
        calm.ends()?;
        let after = settled(&process, before.descriptors + DESCRIPTORS);
        println!("{}", whole.text(&before, &after));
        judge(stage, &whole, &before, &after)?;
        match sources {
            Sources::Users => Ok(()),
            Sources::Others => limits_worked(stage),
        }
    });
}

/// Waits until the process has let go what the storm left.
fn settled(process: &Process, most: usize) -> report::Look {
    let begun = now().instant;
    loop {
        let look = process.look();
        if look.descriptors <= most || now().instant.since(begun) > CALM {
            return look;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn judge(
    stage: &Stage,
    report: &Report,
    before: &report::Look,
    after: &report::Look,
) -> Result<(), Failure> {
    let grown = report.peak.saturating_sub(before.memory);
    stage.observe(
        grown <= GROWTH,
        &format!("it grows by {grown} octets at most"),
    )?;
    let left = after.descriptors.saturating_sub(before.descriptors);
    stage.observe(
        left <= DESCRIPTORS,
        &format!("{left} descriptors more are few"),
    )?;
    let (served, failed) = (report.served, report.failed);
    stage.observe(served > 0, "users are served")?;
    let text = format!(
        "{failed} failed requests of {} are under 1 %: {:?}",
        served + failed,
        report.failures
    );
    stage.observe(failed * 100 <= served + failed, &text)?;
    let text = format!("every OPTIONS is answered: {:?}", report.failures);
    stage.observe(report.unanswered == 0, &text)?;
    stage.agent("witness")?.asks_options().map(|_| ())
}

/// Somebody was banned, and what he sent afterwards was not read.
fn limits_worked(stage: &Stage) -> Result<(), Failure> {
    let admin = stage.server().ready().admin[0].replace("tcp://", "http://");
    let metrics = ureq::get(format!("{admin}/metrics"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .map_err(|error| stage.failure(error.to_string()))?;
    for name in ["restante_bans_total", "restante_source_refused_total"] {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        let counts: Vec<&str> = lines.collect();
        println!("{}", counts.join("\n"));
        let some = |line: &&str| !line.ends_with(" 0");
        stage.observe(counts.iter().any(some), &format!("{name}: {counts:?}"))?;
    }
    Ok(())
}

/// The seed, and how many inputs it gives.
type Part = (u64, u64);

fn one_seed(
    stage: &Stage,
    sources: Sources,
    (seed, inputs): Part,
    process: &Process,
) -> Result<Report, Failure> {
    let target = Target {
        udp: stage.server().sip_address(Transport::Udp)?,
        tcp: stage.server().sip_address(Transport::Tcp)?,
        msrp: stage.server().ready().msrp[0]
            .trim_start_matches("tcp://")
            .parse()
            .map_err(|_| Failure::plain("no MSRP address"))?,
        sources,
    };
    let callers = users::Callers::new(stage)?;
    let mallory = stage.agent("mallory")?;
    let (over, peak) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begun = now().instant;
    let mut report = thread::scope(|scope| {
        let attackers = [
            scope.spawn(|| attack::over_udp(&target, seed, inputs / 2)),
            scope.spawn(|| attack::over_tcp(&target, seed, inputs / 4)),
            scope.spawn(|| attack::over_msrp(&target, &mallory, seed, inputs / 4)),
        ];
        let users = callers.spawn(scope, &over);
        let watch = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(process.look().memory as usize, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let mut report = Report::default();
        let attackers = attackers.map(|attacker| attacker.join());
        // Whatever happened to them, nobody waits for ever.
        over.store(true, Ordering::Relaxed);
        for attacker in attackers {
            report.add(attacker.expect("an attacker does not panic"));
        }
        for user in users {
            report.add(user.join().expect("a user does not panic"));
        }
        watch.join().expect("looking does not panic");
        report
    });
    callers.leave()?;
    report.peak = peak.into_inner() as u64;
    report.spent = now().instant.since(begun);
    Ok(report)
}
