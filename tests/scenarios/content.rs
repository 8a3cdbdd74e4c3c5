//! What a message may hold, and how much: any content, of any size the operator allows, in order.

use std::fs;
use std::path::Path;

use restante::demo::{Answering, Envelope, Failure, Profile, Setup, Transport};

use crate::support::{Configuration, Stage, on_every_shard_count, on_stage};

/// Octets that repeat in no short period, and hold every value.
fn picture(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Text, picture, film and sound in one message, with the plan of their showing first.
fn slide_show() -> (&'static str, Vec<u8>) {
    let mut body = b"--cut\r\nContent-Type: application/smil\r\n\r\n\
        <smil><body><seq><text src=\"cid:1\"/><img src=\"cid:2\"/></seq></body></smil>\r\n\
        --cut\r\nContent-Type: text/plain\r\nContent-ID: <1>\r\n\r\nLook!\r\n"
        .to_vec();
    for (content_type, seed) in [("image/jpeg", 700), ("video/mp4", 900), ("audio/wav", 500)] {
        body.extend(format!("--cut\r\nContent-Type: {content_type}\r\n\r\n").into_bytes());
        body.extend(picture(seed));
        body.extend(b"\r\n");
    }
    body.extend(b"--cut--\r\n");
    ("multipart/mixed; boundary=cut", body)
}

#[test]
fn any_content_arrives_unchanged_whether_the_recipient_is_there_or_away() {
    let (mixed, show) = slide_show();
    let contents: [(&str, Vec<u8>); 5] = [
        ("text/html", b"<p>Gr\xc3\xbc\xc3\x9fe</p>".to_vec()),
        (
            "text/vcard",
            b"BEGIN:VCARD\r\nFN:Bob\r\nEND:VCARD\r\n".to_vec(),
        ),
        ("image/jpeg", picture(9_000)),
        ("application/x-never-heard-of", picture(300)),
        (mixed, show),
    ];
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::Rcs)?;
        for is_there in [false, true] {
            if is_there {
                bob.registers()?;
            }
            for (content_type, body) in &contents {
                let sent = alice.sends_body("bob", content_type, body)?;
                sent.expect_status(if is_there { 200 } else { 202 })?;
            }
            if !is_there {
                bob.registers()?;
            }
            for (content_type, body) in &contents {
                let message = bob.expect_message()?;
                let same = message.text().body() == *body
                    && message.text().header("Content-Type") == Some(*content_type);
                stage.observe(
                    same,
                    &format!("{content_type} is the same at the other end"),
                )?;
            }
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn a_picture_of_five_megabytes_is_kept_and_replayed_intact() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let (from, to) = (alice.uri(), bob.uri());
        let envelope = Envelope::new(&from, &to, "image/jpeg", &picture(5_000_000));
        let chat = alice.opens_chat("bob")?;
        let sent = chat.msrp.sending("message/cpim", &envelope.to_octets());
        sent.in_chunks(60_000).send()?.expect_status(200)?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        let message = replay.msrp.expect_message()?;
        stage.observe(
            message.body == envelope.to_octets(),
            "it comes as it was sent",
        )?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn messages_stay_in_order_while_the_recipient_comes_and_goes() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for round in 0..5 {
            for number in 0..50 {
                alice
                    .sends_message("bob", &format!("{round}-away-{number}"))?
                    .expect_2xx()?;
            }
            bob.registers()?;
            for number in 0..50 {
                alice
                    .sends_message("bob", &format!("{round}-back-{number}"))?
                    .expect_2xx()?;
            }
            for (when, number) in (0..50)
                .map(|n| ("away", n))
                .chain((0..50).map(|n| ("back", n)))
            {
                bob.expect_text(&format!("{round}-{when}-{number}"))?;
            }
            bob.unregisters()?;
        }
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_reply_during_a_replay_is_a_session_of_its_own() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        chat.says("are you there?")?;
        chat.hangs_up()?;
        alice.registers()?;
        bob.registers()?;
        // He confirms nothing yet, so the replay stays open.
        let call = bob.expect_invite()?.taking(Answering::Only(0));
        let replay = call.answers_recvonly(Setup::Active)?;
        let reply = bob.invites("alice")?;
        let answering = alice.expect_invite()?.answers(Setup::Passive, "sendrecv")?;
        let chat = reply.expect_accepted()?;
        chat.says("now I am")?;
        answering.expect_text("now I am")?;
        chat.hangs_up()?;
        answering.expect_bye()?;
        drop(replay);
        Ok(())
    });
}

#[test]
fn each_conversation_comes_with_an_invitation_of_its_own() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for (conversation, texts) in [("first", ["one", "two"].as_slice()), ("second", &["three"])]
        {
            let chat = alice.invites_with("bob", Setup::ActPass, conversation)?;
            let chat = chat.expect_accepted()?;
            for text in texts {
                chat.says(text)?;
            }
            chat.hangs_up()?;
        }
        bob.registers()?;
        let calls = [bob.expect_invite()?, bob.expect_invite()?];
        for call in calls {
            let texts: &[&str] = match call.text().header("Conversation-ID") {
                Some("first") => &["one", "two"],
                Some("second") => &["three"],
                _ => return stage.observe(false, "the invitation names a conversation"),
            };
            let replay = call.answers_recvonly(Setup::Active)?;
            for text in texts {
                replay.expect_text(text)?;
            }
            replay.expect_bye()?;
        }
        bob.expect_no("INVITE")
    });
}

#[test]
fn without_deferral_nothing_is_kept_and_the_sender_hears_480() {
    let configuration = Configuration::open().with("deferral", "enabled = false");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let secret = "nobody shall keep this sentence";
        alice.sends_message("bob", secret)?.expect_status(480)?;
        alice.invites("bob")?.expect_status(480)?;
        stage.terminates()?;
        stage.observe(
            !is_on_disk(stage.folder(), secret)?,
            "no file of the server holds it",
        )
    });
}

/// Whether any file below `folder` holds these octets.
fn is_on_disk(folder: &Path, text: &str) -> Result<bool, Failure> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => is_on_disk(&path, text)?,
            false => fs::read(&path)?
                .windows(text.len())
                .any(|part| part == text.as_bytes()),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_hundred_megabytes_pass_through_memory_that_stays_flat() {
    on_stage(&Configuration::open(), 1, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let envelope = Envelope::new(
            &alice.uri(),
            &bob.uri(),
            "application/octet-stream",
            &picture(100_000_000),
        );
        let octets = envelope.to_octets();
        let chat = alice.opens_chat("bob")?;
        let sent = chat.msrp.sending("message/cpim", &octets);
        sent.in_chunks(60_000).send()?.expect_status(200)?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        let message = replay.msrp.expect_message()?;
        stage.observe(message.body == octets, "all of it arrives")?;
        replay.expect_bye()?;
        let peak = peak_memory(stage)?;
        stage.observe(
            peak < 64 * 1024,
            &format!("the server never held much of it: {peak} KiB at its peak"),
        )
    });
}

/// The most memory the server ever had resident, in KiB.
fn peak_memory(stage: &Stage) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.server().pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| stage.failure("reading VmHWM"))
}
