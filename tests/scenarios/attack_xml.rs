//! Documents made to be dear to read, and bodies made to be unpacked.

use std::time::Duration;

use restante::clock;
use restante::demo::{Disposition, Failure};

use crate::support::{Configuration, Stage, on_every_shard_count};

const OPEN: &str = "<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">";
const REST: &str = "<message-id>a</message-id><datetime>2026-03-02T09:15:04Z</datetime>\
    <delivery-notification><status><delivered/></status></delivery-notification></imdn>";

/// Ten entities, each ten times the one before.
fn laughs() -> String {
    let mut text = "<!DOCTYPE imdn [<!ENTITY l0 \"lol\">".to_owned();
    for level in 1..10 {
        let inner = format!("&l{};", level - 1).repeat(10);
        text.push_str(&format!("<!ENTITY l{level} \"{inner}\">"));
    }
    format!("{text}]>{OPEN}<x>&l9;</x>{REST}")
}

fn documents() -> Vec<(&'static str, String)> {
    vec![
        ("a billion laughs", laughs()),
        ("a quadratic one", {
            let long = "a".repeat(20_000);
            let entity = format!("<!DOCTYPE imdn [<!ENTITY a \"{long}\">]>");
            format!("{entity}{OPEN}<x>{}</x>{REST}", "&a;".repeat(1_000))
        }),
        (
            "a file of the server",
            format!(
                "<!DOCTYPE imdn [<!ENTITY a SYSTEM \"file:///etc/passwd\">]>{OPEN}<x>&a;</x>{REST}"
            ),
        ),
        (
            "a document elsewhere",
            format!("<!DOCTYPE imdn SYSTEM \"http://127.0.0.1:9/x.dtd\">{OPEN}{REST}"),
        ),
        ("an unknown entity", format!("{OPEN}<x>&a;</x>{REST}")),
        ("depth", format!("{OPEN}{}{REST}", "<a>".repeat(5_000))),
        (
            "attributes",
            format!("{OPEN}<a {}/>{REST}", "b=\"c\" ".repeat(3_000)),
        ),
        ("namespaces", {
            let names: String = (0..2_000)
                .map(|n| format!("xmlns:n{n}=\"urn:n{n}\" "))
                .collect();
            format!("{OPEN}<a {names}/>{REST}")
        }),
        ("no end", format!("{OPEN}<!--{}", "x".repeat(20_000))),
        ("no start", "<".repeat(20_000)),
        ("size", format!("{OPEN}<x>{}</x>{REST}", "x".repeat(40_000))),
    ]
}

#[test]
fn no_notification_costs_more_than_its_length() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let message = bob.envelope("alice", "hello");
        for (what, document) in documents() {
            let mut notification = message.notification(Disposition::Delivered);
            notification.content = document.into_bytes();
            let begun = clock::now().instant;
            let mut sent = alice.sends_envelope("bob", &notification)?;
            let status = sent.final_answer(Duration::from_secs(10))?.status();
            stage.observe(
                (200..500).contains(&status),
                &format!("{what}: answered {status}"),
            )?;
            let soon = clock::now().instant.since(begun) < Duration::from_secs(5);
            stage.observe(soon, &format!("{what} took long"))?;
        }
        alice.asks_options()?;
        still_small(stage)
    });
}

#[test]
fn nothing_is_ever_unpacked() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let packed = [&[0x1f, 0x8b, 8, 0][..], &[0; 60]].concat();
        let draft = restante::demo::Draft::new("MESSAGE", "sip:bob@im.test")
            .header("Content-Encoding", "gzip")
            .body("application/octet-stream", &packed);
        let status = alice
            .sends(draft)?
            .final_answer(restante::demo::PATIENCE)?
            .status();
        if status < 300 {
            let message = bob.expect_message()?;
            stage.observe(message.text().body() == packed, "it is passed on as it is")?;
        } else {
            stage.observe(status == 415, &format!("answered {status}"))?;
        }
        still_small(stage)
    });
}

fn still_small(stage: &Stage) -> Result<(), Failure> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.server().pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let mib = kib.unwrap_or(u64::MAX) >> 10;
    stage.observe(mib < 256, &format!("{mib} MiB at most"))
}
