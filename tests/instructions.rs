//! How many instructions the core paths take, counted by callgrind: unlike times they do not depend on what
//! else the machine does. `benches/instructions.toml` has what each took at last; one that takes 5% more
//! fails. What this build takes becomes the measure with
//! `RESTANTE_COUNTS=write cargo test --test instructions`.
//!
//! It is the unoptimised build that is counted, because that exists already: a release build would cost the
//! test command minutes. So the counts are no measure of speed, but what is done twice, copied or looked up
//! again shows in them too. The program counts itself: started with `--path NAME ROUNDS` it runs one path.

#[path = "../benches/paths/mod.rs"]
mod paths;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::thread;

use paths::chunks::{Receiver, cut, message};
use paths::core::{AUTHOR, Bench, user};
use paths::store::{BATCH, Desk};
use paths::texts;
use restante::sip::glance::{self, Glance};
use serde::{Deserialize, Serialize};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");
/// Of a hundred: how much more a path may take.
const TOLERANCE: u64 = 5;
/// The same where another compiler made the counts.
const OTHER_COMPILER: u64 = 25;
/// The paths, and the rounds of each that are counted: more where a round is cheap or varies.
const PATHS: [(&str, u64); 8] = [
    ("relay", 60),
    ("keep", 60),
    ("register", 60),
    ("refuse", 640),
    ("store", 640),
    ("settle", 640),
    ("framing", 128),
    ("chunk", 128),
];
/// Rounds before those that are counted: what is done once does not count.
const BEFORE: u64 = 64;
/// Users who are there.
const USERS: u64 = 20;

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
struct Counts {
    /// Which compiler.
    compiler: String,
    /// Instructions for one message, request or chunk.
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--path", path, rounds] => run(path, rounds.parse().expect("a number")),
        // As the test harness understands them.
        _ if arguments.contains(&"--list") => println!("instructions: test"),
        _ if !is_asked(&arguments) => {}
        _ => return check(),
    }
    ExitCode::SUCCESS
}

/// Whether a filter of the command line, if there is one, means this test.
fn is_asked(arguments: &[&str]) -> bool {
    let mut filters = arguments
        .iter()
        .filter(|it| !it.starts_with('-'))
        .peekable();
    filters.peek().is_none() || filters.any(|filter| "instructions".contains(filter))
}

/// One path, so many times.
fn run(path: &str, rounds: u64) {
    match path {
        "relay" | "keep" | "register" => {
            let mut bench = Bench::new(USERS);
            for round in 0..rounds {
                match path {
                    "relay" => bench.relay(round % USERS),
                    "keep" => bench.keep(round % USERS),
                    _ => bench.register(&user(round % USERS)),
                }
            }
        }
        "refuse" => {
            for round in 0..rounds {
                refuse(&texts::message("alice", "bob", round));
            }
        }
        "store" => {
            let mut desk = Desk::new();
            for _ in 0..rounds.div_ceil(BATCH) {
                desk.put();
            }
        }
        "settle" => {
            let mut desk = Desk::new();
            for _ in 0..rounds.div_ceil(BATCH) {
                let all = desk.put();
                desk.settle(all);
                assert_eq!(desk.scan(), 0);
            }
        }
        "framing" => {
            let octets = message("m", 1024, 1024);
            for _ in 0..rounds {
                assert!(cut(&octets) > 1);
            }
        }
        "chunk" => {
            let mut receiver = Receiver::new();
            for round in 0..rounds {
                let octets = message(&format!("m{round}"), 1024, 1024);
                assert_eq!(receiver.take(&octets), 1);
            }
        }
        other => panic!("no path {other}"),
    }
}

/// As a shard does whose line is full, with what comes as a datagram.
fn refuse(text: &str) {
    let source = AUTHOR.parse().expect("an address");
    let Glance::Begins(request) = glance::look(text.as_bytes()) else {
        panic!("a request that begins something");
    };
    assert!(request.identity().is_some());
    let mut answer = String::with_capacity(1024);
    let to = request.refuse(&mut answer, source, 4711, 3);
    assert_eq!(to, Some(source));
}

fn check() -> ExitCode {
    let taken = count_all();
    if std::env::var("RESTANTE_COUNTS").is_ok_and(|it| it == "write") {
        let text = toml::to_string(&taken).expect("plain data");
        std::fs::write(FILE, text).expect("written");
        println!("{FILE} is as it is now");
        return ExitCode::SUCCESS;
    }
    let text = std::fs::read_to_string(FILE).expect("benches/instructions.toml");
    let known: Counts = toml::from_str(&text).expect("benches/instructions.toml");
    let tolerance = match known.compiler == taken.compiler {
        true => TOLERANCE,
        false => OTHER_COMPILER,
    };
    let mut is_well = true;
    for (path, _) in PATHS {
        let (now, before) = (taken.instructions[path], known.instructions[path]);
        let fits = now * 100 <= before * (100 + tolerance);
        is_well &= fits;
        let verdict = if fits { "ok" } else { "TOO MANY" };
        println!("{path}: {now} instructions, {before} before, +{tolerance}% at most: {verdict}");
    }
    if is_well {
        return ExitCode::SUCCESS;
    }
    println!("If that is meant: RESTANTE_COUNTS=write cargo test --test instructions");
    ExitCode::FAILURE
}

fn count_all() -> Counts {
    let taken = thread::scope(|scope| {
        let started = PATHS.map(|(path, rounds)| (path, scope.spawn(move || each(path, rounds))));
        let ended = started.map(|(path, thread)| (path, thread.join().expect("counted")));
        ended.map(|(path, count)| (path.to_owned(), count))
    });
    Counts {
        compiler: compiler(),
        instructions: taken.into_iter().collect(),
    }
}

/// Of one round: what so many more rounds take, divided.
fn each(path: &str, rounds: u64) -> u64 {
    let count = |rounds| counted(path, rounds);
    (count(BEFORE + rounds) - count(BEFORE)) / rounds
}

/// What callgrind counts in a run of this program.
fn counted(path: &str, rounds: u64) -> u64 {
    let program = std::env::current_exe().expect("a program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--path", path, &rounds.to_string()])
        .output()
        .expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {text}");
    let line = text
        .lines()
        .find_map(|line| line.split("Collected :").nth(1));
    let count = line.and_then(|it| it.trim().parse().ok());
    count.unwrap_or_else(|| panic!("no count in: {text}"))
}

fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    version.expect("the compiler that built this")
}
