//! One source that sends too much, or nothing but harm.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use restante::clock;
use restante::demo::{Failure, Profile, Transport};

use crate::support::{Attacker, Configuration, Stage, on_every_shard_count, on_stage};

const SOURCE: &str = "127.0.0.66";
/// How long a flood may take to have its effect.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everybody is limited but the agents at 127.0.0.1.
fn limited(limits: &str) -> Configuration {
    let configuration = Configuration::digest().with("limits", "trusted = [\"127.0.0.1\"]");
    configuration.with("limits", limits)
}

/// The value of a metric, all labels added up.
pub fn metric(stage: &Stage, name: &str) -> Result<u64, Failure> {
    let admin = stage.server().ready().admin[0].replace("tcp://", "http://");
    let text = ureq::get(format!("{admin}/metrics"))
        .call()
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .map_err(|error| stage.failure(error.to_string()))?;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    Ok(values.sum())
}

#[test]
fn a_flood_from_one_source_leaves_the_others_served() {
    // How far a slow build of the server falls behind is not the question here.
    let configuration = limited("source_rate = 200").with("limits", "queue_delay = \"10s\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let flood = Attacker::at(stage, SOURCE)?;
        for number in 0..20 {
            for _ in 0..500 {
                flood.sends(flood.register("alice", "").as_bytes())?;
            }
            let text = format!("message {number}");
            alice.sends_message("bob", &text)?.expect_2xx()?;
            bob.expect_text(&text)?;
        }
        let dropped = metric(stage, "restante_source_refused_total{reason=\"rate\"}")?;
        // The kernel drops some of its own before the server sees them.
        stage.observe(dropped > 100, &format!("{dropped} datagrams were dropped"))
    });
}

/// Requests of strangers from a hundred addresses, so many of each under way until `done`, and no longer than
/// anybody waits for it.
fn strangers_ask(server: SocketAddr, done: &AtomicBool) -> std::io::Result<()> {
    let sockets = (1..=100).map(|last| UdpSocket::bind((format!("127.0.77.{last}"), 0)));
    let sockets: Vec<UdpSocket> = sockets.collect::<Result<_, _>>()?;
    for socket in &sockets {
        socket.set_nonblocking(true)?;
    }
    let mut answer = [0; 2_048];
    let end = clock::now().instant + PATIENCE * 2;
    for number in 0_usize.. {
        if done.load(Ordering::Relaxed) || clock::now().instant > end {
            break;
        }
        let socket = &sockets[number % sockets.len()];
        let heard = std::iter::from_fn(|| socket.recv(&mut answer).ok()).count();
        let first = number < 3 * sockets.len();
        for copy in 0..heard + usize::from(first) {
            let here = socket.local_addr()?;
            let request = format!(
                "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP {here};rport;branch=z9hG4bKs{number}-{copy}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:mallory@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\n\
                 Call-ID: s{number}-{copy}\r\nCSeq: 1 MESSAGE\r\nSubject: {:600}\r\nContent-Length: 0\r\n\r\n",
                "so long that a challenge may be sent for it"
            );
            // The kernel may have no room; that is what a flood is.
            let _ = socket.send_to(request.as_bytes(), server);
        }
    }
    Ok(())
}

#[test]
fn who_has_logged_in_is_served_while_strangers_are_refused() {
    let configuration = Configuration::digest()
        .with("limits", "trusted = []")
        .with("limits", "source_rate = 0")
        .with("limits", "unproven_rate = 0")
        .with("limits", "queue_delay = \"1ms\"");
    on_stage(&configuration, 1, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let server = stage.server().sip_address(Transport::Udp)?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let strangers = scope.spawn(|| strangers_ask(server, &done));
            let served = (|| {
                let refused = || metric(stage, "restante_sip_refused_total");
                let end = clock::now().instant + PATIENCE;
                while refused()? < 500 {
                    stage.observe(clock::now().instant < end, "strangers are refused")?;
                    std::thread::yield_now();
                }
                for number in 0..20 {
                    let text = format!("message {number}");
                    alice.sends_message("bob", &text)?.expect_2xx()?;
                    bob.expect_text(&text)?;
                }
                Ok(())
            })();
            done.store(true, Ordering::Relaxed);
            let asked = strangers.join();
            asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            served
        })
    });
}

#[test]
fn a_flood_over_tcp_waits_and_is_served_in_the_end() {
    on_stage(&limited("source_rate = 50"), 1, |stage| {
        // Through the agent's own connection, which comes from 127.0.0.1: here nobody is trusted.
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        for _ in 0..20 {
            alice.asks_options()?;
        }
        Ok(())
    });
    let untrusting = Configuration::digest()
        .with("limits", "trusted = []")
        .with("limits", "source_rate = 20");
    on_stage(&untrusting, 1, |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        // Each costs two requests: 80 of them, 40 at once and 20 a second.
        for _ in 0..40 {
            alice.asks_options()?;
        }
        let waited = metric(stage, "restante_source_refused_total{reason=\"rate\"}")?;
        stage.observe(waited > 0, "some had to wait")
    });
}

#[test]
fn who_sends_nothing_but_noise_is_banned_until_the_operator_pardons_him() {
    let configuration = limited("offences = 50").with("limits", "ban = \"1h\"");
    on_every_shard_count(&configuration, |stage| {
        let mallory = Attacker::at(stage, SOURCE)?;
        mallory.nonce()?;
        for _ in 0..60 {
            mallory.sends(b"INVITE banana\r\n\r\n")?;
        }
        let silent = || -> Result<bool, Failure> {
            mallory.sends(mallory.register("alice", "").as_bytes())?;
            Ok(mallory.hears(Duration::from_millis(300))?.is_none())
        };
        let mut tries = 0;
        while !silent()? {
            tries += 1;
            stage.observe(tries < 30, "he is heard no more")?;
        }
        let banned = metric(stage, "restante_bans_total")?;
        stage.observe(banned == 1, &format!("{banned} bans"))?;
        let log = stage.server().log_tail();
        stage.observe(log.matches("banned").count() == 1, "one line of the log")?;
        stage.agent("alice")?.registers()?;

        let listed = operator(stage, &["bans", "list"])?;
        stage.observe(listed.contains(SOURCE), &listed)?;
        operator(stage, &["bans", "remove", SOURCE])?;
        mallory.nonce()?;
        let listed = operator(stage, &["bans", "list"])?;
        stage.observe(!listed.contains(SOURCE), &listed)
    });
}

#[test]
fn the_operator_lets_a_user_in_again() {
    on_stage(&Configuration::digest(), 1, |stage| {
        let alice = Attacker::at(stage, SOURCE)?;
        for _ in 0..5 {
            alice.logs_in("alice", "guess")?;
        }
        let status = alice.logs_in("alice", "alice-secret")?.status();
        stage.observe(status == 403, &format!("locked out: {status}"))?;
        let listed = operator(stage, &["bans", "list"])?;
        let told = listed.contains("alice@im.test") && listed.contains(SOURCE);
        stage.observe(told, &listed)?;
        operator(stage, &["bans", "unlock", "alice"])?;
        let status = alice.logs_in("alice", "alice-secret")?.status();
        stage.observe(status == 200, &format!("let in: {status}"))
    });
}

/// What a command of the operator prints; it must succeed.
fn operator(stage: &Stage, command: &[&str]) -> Result<String, Failure> {
    let admin = stage.server().ready().admin[0].replace("tcp://", "http://");
    let token = stage.folder().join("data/admin.token");
    let output = std::process::Command::new(crate::support::BINARY)
        .args(command)
        .arg("--url")
        .arg(admin)
        .arg("--token-file")
        .arg(token)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    stage.observe(
        output.status.success(),
        &format!("{command:?}: {said}{error}"),
    )?;
    Ok(said)
}
