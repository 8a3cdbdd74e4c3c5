//! Sessions of others: guessed, taken over, or none at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use restante::demo::{Failure, MsrpEnd, Setup, Transcript, attribute, fresh};

use crate::support::{Configuration, Stage, on_every_shard_count};

fn server(stage: &Stage) -> String {
    stage.server().ready().msrp[0].replace("tcp://", "")
}

fn connect(stage: &Stage) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(server(stage))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// A SEND to this path.
fn send(to: &str, transaction: &str) -> String {
    format!(
        "MSRP {transaction} SEND\r\nTo-Path: {to}\r\nFrom-Path: msrp://127.0.0.1:9/mallory;tcp\r\n\
         Message-ID: {transaction}\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nhi\r\n\
         -------{transaction}$\r\n"
    )
}

#[test]
fn who_guesses_sessions_is_answered_481_and_let_go() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let mut stream = connect(stage)?;
        for number in 0..64 {
            let to = format!("msrp://{}/{};tcp", server(stage), fresh("guess"));
            // Once it is closed, there is nobody to write to.
            let _ = stream.write_all(send(&to, &format!("guess{number}")).as_bytes());
        }
        let mut heard = Vec::new();
        let end = stream.read_to_end(&mut heard);
        let text = String::from_utf8_lossy(&heard);
        let refused = text.matches(" 481").count();
        let reset = end.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
        stage.observe(
            (1..64).contains(&refused) || reset,
            &format!("{refused} answers"),
        )
    });
}

#[test]
fn a_session_takes_nothing_from_another_connection() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        chat.says("before")?;
        let session = attribute(&chat.sdp, "path").unwrap_or_default().to_owned();
        // Mallory has heard the session-id, but neither the other one nor the connection is hers.
        let end = MsrpEnd::open("mallory", &Transcript::new())?;
        let foreign = end.dials(&session)?;
        let sent = foreign.sending("text/plain", b"forged").send()?;
        let status = [481, 506]
            .into_iter()
            .find(|status| sent.expect_status(*status).is_ok());
        stage.observe(status.is_some(), "a forged message is refused")?;
        chat.says("after")?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("before")?;
        replay.expect_text("after").map(drop)
    });
}

#[test]
fn session_ids_cannot_be_guessed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let chat = alice.opens_chat("bob")?;
            let path = attribute(&chat.sdp, "path").unwrap_or_default();
            let id = path.rsplit_once('/').map_or("", |(_, id)| id);
            let id = id.split(';').next().unwrap_or_default().to_owned();
            // RFC 4975 §14.1: at least 80 bits; six for each letter at most, the shard's number left out.
            stage.observe(id.len() >= 16, &format!("{id} is long enough"))?;
            stage.observe(seen.insert(id), "no two are alike")?;
            chat.hangs_up()?;
        }
        Ok(())
    });
}
