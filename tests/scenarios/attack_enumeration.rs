//! Which users exist is nobody's business who has not logged in.

use restante::demo::{Failure, SipText};

use crate::support::{Attacker, Configuration, Credentials, Stage, on_every_shard_count};

/// Two that exist and two that do not, of the same length.
const NAMES: [&str; 4] = ["alice", "carol", "aline", "cathy"];

/// What is alike for everybody: the status line and each header field without names, tokens and marks.
fn shape(answer: &SipText, name: &str) -> Vec<String> {
    let text = answer.text();
    let lines = text.lines().map(|line| {
        let line = line.replace(name, "NAME");
        let parts = line.split_once(':');
        match parts.map(|(field, value)| (field, value.trim_start())) {
            // Fresh in each answer, and as long.
            Some((field @ ("Via" | "From" | "To" | "Call-ID" | "v" | "f" | "t" | "i"), value)) => {
                format!("{field}: {}", value.len())
            }
            Some((field, value)) => match value.split_once("nonce=\"") {
                Some((before, after)) => {
                    let (nonce, rest) = after.split_once('"').unwrap_or((after, ""));
                    format!("{field}: {before}{}{rest}", nonce.len())
                }
                None => format!("{field}: {value}"),
            },
            None => line,
        }
    });
    lines.collect()
}

fn alike(
    stage: &Stage,
    what: &str,
    ask: impl Fn(&str) -> Result<SipText, Failure>,
) -> Result<(), Failure> {
    let mut shapes = Vec::new();
    for name in NAMES {
        shapes.push(shape(&ask(name)?, name));
    }
    let same = shapes.iter().all(|shape| *shape == shapes[0]);
    stage.observe(same, &format!("{what}: {shapes:#?}"))
}

#[test]
fn before_a_login_nobody_can_tell_who_exists() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let mallory = Attacker::at(stage, "127.0.0.2")?;
        for method in [
            "REGISTER",
            "INVITE",
            "MESSAGE",
            "OPTIONS",
            "SUBSCRIBE",
            "PUBLISH",
            "BYE",
        ] {
            alike(stage, &format!("{method} to the user"), |name| {
                let uri = match method {
                    "REGISTER" => "sip:im.test".to_owned(),
                    _ => format!("sip:{name}@im.test"),
                };
                mallory.asks(&mallory.request(method, &uri, name, ""))
            })?;
            alike(stage, &format!("{method} from the user"), |name| {
                let uri = match method {
                    "REGISTER" => "sip:im.test",
                    _ => "sip:bob@im.test",
                };
                mallory.asks(&mallory.request(method, uri, name, ""))
            })?;
        }
        alike(stage, "REGISTER with a wrong password", |name| {
            mallory.logs_in(name, "guess")
        })?;
        alike(stage, "REGISTER with a nonce of one's own", |name| {
            let line = Credentials::of(name, "guess", &"A".repeat(32)).line();
            mallory.asks(&mallory.register(name, &line))
        })?;
        for _ in 0..4 {
            alike(stage, "REGISTER on the way to a lockout", |name| {
                mallory.logs_in(name, "guess")
            })?;
        }
        alike(stage, "REGISTER of who is locked out", |name| {
            mallory.logs_in(name, "guess")
        })
    });
}
