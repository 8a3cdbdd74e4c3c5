//! Octets that mean something to whoever reads what the server writes: logs, headers, a terminal.

use md5::{Digest, Md5};
use restante::demo::{Failure, Profile, Setup, Transport};

use crate::support::{Attacker, Configuration, Stage, on_stage};

/// What could begin a line of its own, colour a terminal, or end a string of JSON.
const EVIL: [&str; 6] = [
    "a%0d%0aINFO%20forged",
    "a\u{1b}[31mred",
    "a\u{9b}31mred",
    "a\",\"level\":\"FORGED",
    "a\u{2028}b\u{202e}c",
    "a\u{7f}\u{8}b",
];

fn noisy(format: &str) -> Configuration {
    Configuration::digest()
        .with("log", &format!("format = \"{format}\""))
        .with("log", "filter = \"trace\"")
}

fn provoke(stage: &Stage) -> Result<(), Failure> {
    let mallory = Attacker::at(stage, "127.0.0.2")?;
    for evil in EVIL {
        let nonce = mallory.nonce()?;
        let quoted = evil.replace('"', "\\\"");
        for line in [
            format!("User-Agent: {evil}\r\n"),
            format!("Subject: {evil}\r\n"),
            format!(
                "Authorization: Digest username=\"{quoted}\", realm=\"im.test\", nonce=\"{nonce}\", \
                 uri=\"sip:im.test\", response=\"{}\", cnonce=\"c\", qop=auth, nc=00000001\r\n",
                "0".repeat(32)
            ),
        ] {
            for _ in 0..6 {
                mallory.sends(mallory.register("alice", &line).as_bytes())?;
            }
        }
        let request = mallory.register("alice", "");
        for (old, new) in [
            ("Call-ID: ", format!("Call-ID: {evil}")),
            ("sip:alice@", format!("sip:{evil}@")),
            ("REGISTER sip:", format!("MESSAGE sip:{evil}@")),
            ("\r\nCSeq: 1", format!("\r\n{evil}\r\nCSeq: 1")),
            ("\r\nTo: ", format!("\rTo: {evil}\nX: ")),
        ] {
            mallory.sends(request.replacen(old, &new, 2).as_bytes())?;
        }
    }
    stage.agent("alice")?.registers().map(drop)
}

#[test]
fn what_peers_write_stays_inside_its_line_of_the_log() {
    for format in ["text", "json"] {
        on_stage(&noisy(format), 1, |stage| {
            provoke(stage)?;
            let log = stage.server().log();
            stage.observe(log.contains("locked out"), "there is something to read")?;
            let control = |letter: char| letter.is_control() && letter != '\n';
            stage.observe(!log.contains(control), "no control characters")?;
            for line in log.lines().filter(|line| !line.is_empty()) {
                let whole = match format {
                    "json" => serde_json::from_str::<serde_json::Value>(line)
                        .is_ok_and(|line| line["level"] != "FORGED"),
                    // Each begins with its time.
                    _ => line.starts_with("20") && line.as_bytes().get(10) == Some(&b'T'),
                };
                stage.observe(whole, &format!("a line of its own: {line:?}"))?;
            }
            Ok(())
        });
    }
}

#[test]
fn no_secret_and_no_message_is_ever_logged() {
    for format in ["text", "json"] {
        on_stage(&noisy(format), 4, |stage| {
            let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
            let bob = stage.agent("bob")?;
            alice.registers()?;
            alice
                .sends_message("bob", "a word in confidence")?
                .expect_2xx()?;
            let chat = alice.opens_chat("bob")?;
            chat.says("another word in confidence")?;
            chat.hangs_up()?;
            bob.registers()?;
            bob.expect_invite()?
                .answers_recvonly(Setup::Active)?
                .expect_text("another word in confidence")?;
            bob.expect_text("a word in confidence")?;
            Attacker::at(stage, "127.0.0.2")?.logs_in("bob", "bobs-wrong-guess")?;

            let log = stage.server().log();
            let hex = |octets: &[u8]| -> String {
                octets.iter().map(|octet| format!("{octet:02x}")).collect()
            };
            let mut secrets: Vec<(&str, String)> = ["alice", "bob", "carol"]
                .map(|user| ("a password", format!("{user}-secret")))
                .into();
            for user in ["alice", "bob"] {
                let ha1 = Md5::digest(format!("{user}:im.test:{user}-secret"));
                secrets.push(("a hash of a password", hex(&ha1)));
            }
            secrets.push(("a wrong password", "bobs-wrong-guess".to_owned()));
            secrets.push(("a message", "word in confidence".to_owned()));
            secrets.push(("credentials", "response=\"".to_owned()));
            secrets.push(("a nonce", "nonce=\"".to_owned()));
            let key = std::fs::read(stage.folder().join("data/nonce.key"))?;
            secrets.push(("the key of the nonces", hex(&key)));
            secrets.push(("the key of the nonces", format!("{key:?}")));
            let token = std::fs::read_to_string(stage.folder().join("data/admin.token"))?;
            secrets.push(("the operator's token", token.trim().to_owned()));
            stage.observe(log.lines().count() > 10, "there is something to read")?;
            for (what, secret) in secrets {
                let lower = log.to_ascii_lowercase();
                let told = lower.contains(&secret.to_ascii_lowercase());
                stage.observe(!told, &format!("{what} is in the log"))?;
            }
            Ok(())
        });
    }
}
