//! MSRP that no client should send, each piece inside a session of its own: what is answered, and that
//! other sessions go on (RFC 4975 §7.3, §7.1, §9, §12).

use restante::demo::{Chat, Failure, Setup};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// What may come of it.
const CLOSED: &str = "closed";
const SILENCE: &str = "-";

/// Name, frame, what may be answered. `{to}` and `{from}` are the paths of the session, `{t}` the
/// transaction. A `$` at the end of a line that begins with hyphens ends the frame.
const VECTORS: [(&str, &str, &[&str]); 40] = [
    (
        "another's session",
        "SEND\nTo-Path: msrp://127.0.0.1:1/0.AAAAAAAAAAAAAAAA;tcp\nFrom-Path: {from}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["481"],
    ),
    (
        "a guessed session",
        "SEND\nTo-Path: {host}/0.0000000000000000;tcp\nFrom-Path: {from}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["481"],
    ),
    (
        "another's from",
        "SEND\nTo-Path: {to}\nFrom-Path: msrp://127.0.0.1:9/other;tcp\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["481", SILENCE],
    ),
    (
        "no to",
        "SEND\nFrom-Path: {from}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400", "481", SILENCE, CLOSED],
    ),
    (
        "no from",
        "SEND\nTo-Path: {to}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400", "481", SILENCE, CLOSED],
    ),
    (
        "paths in the wrong order",
        "SEND\nFrom-Path: {from}\nTo-Path: {to}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400", "481", SILENCE, CLOSED],
    ),
    (
        "a relay without end",
        "SEND\nTo-Path: {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to} {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400", "481", SILENCE, CLOSED],
    ),
    (
        "a third party behind us",
        "SEND\nTo-Path: {to} msrp://127.0.0.1:9/x;tcp\nFrom-Path: {from}\nMessage-ID: m{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400", "403", "481"],
    ),
    (
        "no Message-ID",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "two Message-IDs",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nMessage-ID: n{t}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a Message-ID of blanks",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: a b c d\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a Message-ID too long",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: {seventy}\nContent-Type: text/plain\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a range that overflows",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 18446744073709551615-*/*\nContent-Type: message/cpim\n\nxx\n-------{t}$\n",
        &["400", "413"],
    ),
    (
        "a range over 64 bits",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 99999999999999999999-*/*\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a range from 0",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 0-1/1\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a negative range",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: -1-1/1\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a range of words",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: one-two/three\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a range backwards",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 5-1/5\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400", "413", "200", SILENCE],
    ),
    (
        "a total of exabytes",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 1-*/18446744073709551615\nContent-Type: message/cpim\n\nx\n-------{t}+\n",
        &["413"],
    ),
    (
        "far behind its beginning",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 9000000000000-*/*\nContent-Type: message/cpim\n\nx\n-------{t}+\n",
        &["413"],
    ),
    (
        "more than its total",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 1-3/3\nContent-Type: message/cpim\n\nmore than three\n-------{t}$\n",
        &["400"],
    ),
    (
        "a type nobody asked for",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 1-1/1\nContent-Type: application/x-evil\n\nx\n-------{t}$\n",
        &["415"],
    ),
    (
        "a body without a type",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 1-1/1\n\nx\n-------{t}$\n",
        &["400", "415"],
    ),
    (
        "no envelope in the envelope",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 1-7/7\nContent-Type: message/cpim\n\nnothing\n-------{t}$\n",
        &["400", "415", "200", SILENCE],
    ),
    (
        "a Success-Report of its own",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nSuccess-Report: perhaps\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a Failure-Report of its own",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nFailure-Report: \u{feff}\nContent-Type: message/cpim\n\nx\n-------{t}$\n",
        &["400"],
    ),
    (
        "a REPORT of what was never sent",
        "REPORT\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: never\nByte-Range: 1-5/5\nStatus: 000 200 OK\n-------{t}$\n",
        &[SILENCE],
    ),
    (
        "a REPORT of nothing",
        "REPORT\nTo-Path: {to}\nFrom-Path: {from}\n-------{t}$\n",
        &[SILENCE],
    ),
    (
        "a REPORT with a long body",
        "REPORT\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: never\nStatus: 000 200 OK\nContent-Type: a/b\n\n{long}\n-------{t}$\n",
        &[SILENCE, CLOSED],
    ),
    (
        "a method of tomorrow",
        "FROBNICATE\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\n-------{t}$\n",
        &["501"],
    ),
    (
        "AUTH to us",
        "AUTH\nTo-Path: {to}\nFrom-Path: {from}\nAuthorization: Digest username=\"x\"\n-------{t}$\n",
        &["501"],
    ),
    (
        "a response to nothing",
        "200 OK\nTo-Path: {to}\nFrom-Path: {from}\n-------{t}$\n",
        &[SILENCE],
    ),
    (
        "a status of tomorrow",
        "999 What\nTo-Path: {to}\nFrom-Path: {from}\n-------{t}$\n",
        &[SILENCE],
    ),
    (
        "a response with a body",
        "200 OK\nTo-Path: {to}\nFrom-Path: {from}\n\nx\n-------{t}$\n",
        &[CLOSED, SILENCE],
    ),
    (
        "a field without a name",
        "SEND\n: x\nTo-Path: {to}\nFrom-Path: {from}\n-------{t}$\n",
        &[CLOSED, "400"],
    ),
    (
        "a field without a colon",
        "SEND\nTo-Path {to}\nFrom-Path: {from}\n-------{t}$\n",
        &[CLOSED, "400"],
    ),
    (
        "a line of 100,000 octets",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nX: {long}{long}{long}{long}{long}\n-------{t}$\n",
        &[CLOSED],
    ),
    (
        "a head without end",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\n{fields}",
        &[CLOSED],
    ),
    (
        "fields folded",
        "SEND\nTo-Path: {to}\n x\nFrom-Path: {from}\n-------{t}$\n",
        &[CLOSED, "400"],
    ),
    (
        "given up at once",
        "SEND\nTo-Path: {to}\nFrom-Path: {from}\nMessage-ID: m{t}\nByte-Range: 1-*/*\nContent-Type: message/cpim\n\nx\n-------{t}#\n",
        &["200", "413", SILENCE],
    ),
];

/// Octets that are no MSRP at all: the connection ends.
const NOISE: [&[u8]; 6] = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"MSRP\r\n\r\n",
    b"MSRP a SEND\r\n\r\n",
    b"MSRP aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa SEND\r\n",
    b"MSRP \xff\xfe\xfd\xfc SEND\r\nTo-Path: x\r\n",
    b"\0\0\0\0\0\0\0\0\r\n\r\n",
];

fn written(chat: &Chat<'_>, frame: &str, transaction: &str) -> Vec<u8> {
    let to = chat.msrp.peer_path();
    let host = to.rsplit_once('/').map_or("", |(host, _)| host);
    let fields: String = (0..200).map(|number| format!("X-{number}: y\n")).collect();
    let text = format!("MSRP {transaction} {frame}")
        .replace("{to}", to)
        .replace("{from}", chat.msrp.path())
        .replace("{host}", host)
        .replace("{t}", transaction)
        .replace("{seventy}", &"a".repeat(70))
        .replace("{long}", &"x".repeat(20_000))
        .replace("{fields}", &fields);
    text.replace('\n', "\r\n").into_bytes()
}

/// A frame that must be answered comes behind; by then everything before has been looked at.
fn became(chat: &Chat<'_>, transaction: &str) -> String {
    let probe = written(
        chat,
        "FROBNICATE\nTo-Path: {to}\nFrom-Path: {from}\n-------{t}$\n",
        "probe123",
    );
    let _ = chat.msrp.sends_octets(&probe);
    match chat.msrp.status_of(transaction, "probe123") {
        Some(status) => status.to_string(),
        None if chat.msrp.is_closed() => CLOSED.to_owned(),
        None => SILENCE.to_owned(),
    }
}

#[test]
fn every_hostile_frame_has_its_answer_and_other_sessions_go_on() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (carol, dave) = (stage.agent("carol")?, stage.agent("dave")?);
        dave.registers()?;
        let call = carol.invites("dave")?;
        let bystander = dave.expect_invite()?.answers(Setup::Passive, "sendrecv")?;
        let chat = call.expect_accepted()?;
        let mut wrong = Vec::new();
        for (index, (name, frame, allowed)) in VECTORS.into_iter().enumerate() {
            let got = alone(stage, index, frame)?;
            if !allowed.contains(&got.as_str()) {
                wrong.push(format!("{name}: {got}, not {allowed:?}"));
            }
            if index % 10 == 0 {
                let text = format!("still here {index}");
                chat.says(&text)?;
                bystander.expect_text(&text)?;
            }
        }
        for noise in NOISE {
            let mallory = stage.agent("mallory")?;
            let chat = mallory.opens_chat("nobody")?;
            chat.msrp.sends_octets(noise)?;
            chat.msrp.expect_closed()?;
        }
        stage.observe(wrong.is_empty(), &format!("{wrong:#?}"))?;
        chat.says("the end")?;
        bystander.expect_text("the end")?;
        chat.hangs_up()
    });
}

fn alone(stage: &Stage, index: usize, frame: &str) -> Result<String, Failure> {
    let mallory = stage.agent("mallory")?;
    let chat = mallory.opens_chat("nobody")?;
    let transaction = format!("hostile{index}");
    let octets = written(&chat, frame, &transaction);
    // The end of the connection may be noticed while writing.
    let _ = chat.msrp.sends_octets(&octets);
    Ok(became(&chat, &transaction))
}
