//! The real server on a disk that is full, and on one that fails at its n-th call: nothing that was
//! acknowledged is missing, and it serves again when the disk does.

mod support;

#[path = "crash/dice.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod dice;
#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/faults.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod faults;

use std::path::Path;
use std::time::Duration;

use disk::SmallDisk;
use faults::{ANY, Action, Order, SIZE, Shim, WRITE};
use restante::demo::{
    Envelope, Failure, Profile, ServerProcess, Settings, Transcript, Transport, UserAgent,
};
use restante::{clock, demo};
use support::{BINARY, Configuration};

const LONGEST: Duration = Duration::from_secs(30);

/// Either kind of full disk.
enum Disk {
    Small(SmallDisk),
    /// Where this process may not mount: the calls that need room fail.
    Pretended(Shim),
}

impl Disk {
    fn fill(&self) {
        match self {
            Self::Small(disk) => disk.fill_but(600 * 1024),
            Self::Pretended(shim) => shim.arm(&Order {
                lasts: u64::MAX,
                ..Order::at(Action::Enospc, 100, WRITE | SIZE, ANY)
            }),
        }
    }

    fn empty(&self) {
        match self {
            Self::Small(disk) => disk.empty(),
            Self::Pretended(shim) => shim.disarm(),
        }
    }
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_serves_again_with_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let small = SmallDisk::mount(&data);
    let before = small.as_ref().map(SmallDisk::before).unwrap_or_default();
    let (shim, program) =
        Shim::wrap(Path::new(BINARY), folder.path(), &data, &before).expect("a program");
    let disk = small.map_or(Disk::Pretended(shim), Disk::Small);
    println!(
        "the disk: {}",
        match disk {
            Disk::Small(_) => "a tmpfs of 12 MB",
            Disk::Pretended(_) => "calls that fail with ENOSPC, for mounting is not permitted here",
        }
    );
    fills_and_recovers(folder.path(), &program, &disk).expect("it goes as told");
}

fn fills_and_recovers(folder: &Path, program: &Path, disk: &Disk) -> Result<(), Failure> {
    let text = Configuration::open()
        .with("store", "reserve = \"1 MiB\"")
        .with("store", "segment_size = \"256 KiB\"")
        .text(folder, 2);
    let mut server = ServerProcess::start(program, folder, &text)?;
    let (alice, bob) = (agent("alice", &server)?, agent("bob", &server)?);
    let mut kept = Vec::new();
    for _ in 0..20 {
        assert_eq!(pages(&alice, &mut kept)?, 202);
    }
    disk.fill();
    let refusal = loop {
        let status = pages(&alice, &mut kept)?;
        if status != 202 {
            break status;
        }
        assert!(kept.len() < 5_000, "the disk does not fill");
    };
    assert_eq!(refusal, 503);
    // It is there, and goes on refusing.
    alice.asks_options()?;
    assert_eq!(pages(&alice, &mut kept)?, 503);
    if matches!(disk, Disk::Small(_)) {
        server.kill9()?;
        server.restart()?;
        alice.asks_options()?;
    }
    disk.empty();
    let end = clock::now().instant + LONGEST;
    while pages(&alice, &mut kept)? != 202 {
        assert!(clock::now().instant < end, "intake does not resume");
    }
    bob.registers()?;
    for envelope in &kept {
        let came = bob.expect_message()?;
        assert!(
            came.text().body() == envelope.to_octets(),
            "in order, unchanged"
        );
    }
    bob.expect_no("MESSAGE")
}

#[test]
fn a_disk_that_takes_nothing_holds_up_no_replay_and_what_was_confirmed_meanwhile_does_not_come_again()
 {
    let folder = tempfile::tempdir().expect("a folder");
    replays_without_room(folder.path()).expect("it goes as told");
}

/// Not even what devices confirm can be written, so no sync can say that it is durable.
fn replays_without_room(folder: &Path) -> Result<(), Failure> {
    let (shim, program) = Shim::wrap(Path::new(BINARY), folder, &folder.join("data"), "")?;
    let text = Configuration::open().text(folder, 2);
    let mut server = ServerProcess::start(&program, folder, &text)?;
    let (alice, bob) = (agent("alice", &server)?, agent("bob", &server)?);
    let mut kept = Vec::new();
    for _ in 0..60 {
        assert_eq!(pages(&alice, &mut kept)?, 202);
    }
    shim.arm(&Order {
        lasts: u64::MAX,
        ..Order::at(Action::Enospc, 1, WRITE | SIZE, ANY)
    });
    bob.registers()?;
    for envelope in &kept {
        let came = bob.expect_message()?;
        assert!(came.text().body() == envelope.to_octets(), "in order");
    }
    bob.expect_no("MESSAGE")?;
    assert!(shim.struck() > 0, "nothing was to be written");
    shim.disarm();
    // Its answer comes after the sync that covers what was confirmed.
    let end = clock::now().instant + LONGEST;
    let for_carol = alice.envelope("carol", "there is room");
    while alice
        .sends_envelope("carol", &for_carol)?
        .final_answer(LONGEST)?
        .status()
        != 202
    {
        assert!(clock::now().instant < end, "intake does not resume");
    }
    server.kill9()?;
    server.restart()?;
    bob.registers()?;
    bob.expect_no("MESSAGE")
}

/// A message to Bob, remembered if it is acknowledged.
fn pages(alice: &UserAgent, kept: &mut Vec<Envelope>) -> Result<u16, Failure> {
    let envelope = alice.envelope("bob", &format!("{:>900}", kept.len()));
    let mut sent = alice.sends_envelope("bob", &envelope)?;
    let status = sent.final_answer(LONGEST)?.status();
    if status == 202 {
        kept.push(envelope);
    }
    Ok(status)
}

fn agent(user: &str, server: &ServerProcess) -> Result<UserAgent, Failure> {
    UserAgent::new(Settings {
        user: user.to_owned(),
        domain: "im.test".to_owned(),
        password: None,
        transport: Transport::Udp,
        profile: Profile::Rcs,
        server: server.sip_address(Transport::Udp)?,
        transcript: Transcript::new(),
    })
}

/// The n-th write or sync fails, for n from 1 until there is none left: in the server's own process every
/// step is taken (`RESTANTE_EVERY_CALL=1`, as `tests/crash-run` does), in the test command each seventh.
#[test]
fn a_server_whose_disk_fails_at_the_nth_call_loses_nothing() {
    let step = match std::env::var_os("RESTANTE_EVERY_CALL") {
        Some(_) => 1,
        None => 7,
    };
    for action in [Action::Eio, Action::Enospc] {
        let first = 1 + rand::random::<u64>() % step;
        println!("{action:?} from call {first} on, each {step}");
        let mut call = first;
        while fails_at(action, call)
            .unwrap_or_else(|failure| panic!("{action:?} {call}: {failure}"))
        {
            call += step;
        }
        assert!(call > 14, "there are more calls than {call}");
    }
}

/// One intake and replay with that failure, a kill, and what is there afterwards; false if there are fewer calls.
fn fails_at(action: Action, call: u64) -> Result<bool, Failure> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let (shim, program) = Shim::wrap(Path::new(BINARY), folder.path(), &data, "")?;
    let text = Configuration::open().text(folder.path(), 1);
    let mut server = ServerProcess::start(&program, folder.path(), &text)?;
    let (alice, bob) = (agent("alice", &server)?, agent("bob", &server)?);
    shim.arm(&Order::at(
        action,
        call,
        WRITE | faults::SYNC | SIZE | faults::NAME,
        ANY,
    ));
    let (mut kept, mut came) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        pages(&alice, &mut kept)?;
    }
    if let Ok(chat) = alice.opens_chat("bob") {
        let envelope = alice.envelope("bob", &"long ".repeat(30_000));
        if chat.sends(&envelope)?.expect_status(200).is_ok() {
            kept.push(envelope);
        }
        chat.hangs_up()?;
    }
    bob.registers()?;
    if let Ok(message) = bob.expect_request_within("MESSAGE", Duration::from_secs(1)) {
        came.push(message.text().body().to_vec());
    }
    let struck = shim.struck() > 0;
    server.kill9()?;
    shim.disarm();
    server.restart()?;
    bob.registers()?;
    let end = clock::now().instant + LONGEST;
    while kept.iter().any(|one| !came.contains(&one.to_octets())) {
        if clock::now().instant > end {
            return Err(alice.failure("something acknowledged is lost"));
        }
        let wait = Duration::from_millis(20);
        if let Ok(message) = bob.expect_request_within("MESSAGE", wait) {
            came.push(message.text().body().to_vec());
        }
        if let Ok(call) = bob.expect_invite_within(wait)
            && let Ok(session) = call.answers_recvonly(demo::Setup::Active)
            && let Some(message) = session.msrp.next_message(Duration::from_secs(2))
        {
            came.push(message.body);
            let _ = session.expect_bye();
        }
    }
    Ok(struck)
}
