//! Chat with someone who is away: the server answers in their place and keeps what is written.

use std::time::Duration;

use restante::demo::{Draft, Setup, fresh};

use crate::chat::Piecemeal;
use crate::support::{Configuration, on_every_shard_count};

#[test]
fn a_chat_to_someone_away_is_kept_whoever_connects() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        for setup in [Setup::ActPass, Setup::Active] {
            let conversation = fresh("conversation-");
            let chat = alice.invites_with("bob", setup, &conversation)?;
            let chat = chat.expect_accepted()?;
            let sent = [chat.says("one")?, chat.says("two")?, chat.says("three")?];
            chat.hangs_up()?;
            bob.registers()?;
            let call = bob.expect_invite()?;
            stage.observe(
                call.text().header("Conversation-ID") == Some(&conversation),
                "the conversation keeps its name",
            )?;
            let replay = call.answers_recvonly(Setup::Active)?;
            for envelope in &sent {
                let message = replay.msrp.expect_message()?;
                stage.observe(
                    message.body == envelope.to_octets(),
                    "oldest first, byte-identical",
                )?;
            }
            replay.expect_bye()?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn chunks_are_confirmed_and_reported_once_the_message_is_kept() {
    let long = "a long story ".repeat(80_000);
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        let envelopes = [alice.envelope("bob", &long), alice.envelope("bob", &long)];
        for (envelope, backwards) in envelopes.iter().zip([false, true]) {
            let mut sending = chat
                .msrp
                .sending("message/cpim", &envelope.to_octets())
                .in_chunks(20_000)
                .success_report();
            if backwards {
                sending = sending.backwards();
            }
            let sent = sending.send()?;
            sent.expect_status(200)?;
            sent.expect_report(200)?;
        }
        chat.hangs_up()?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Passive)?;
        for envelope in &envelopes {
            let message = replay.msrp.expect_message()?;
            stage.observe(message.body == envelope.to_octets(), "it is kept whole")?;
        }
        replay.expect_bye()?;
        Ok(())
    });
}

/// RFC 4975 §7.1.1 lets the sender stop a chunk before its first octet.
#[test]
fn an_empty_first_chunk_is_confirmed_and_the_rest_is_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        let octets = alice.envelope("bob", "after nothing").to_octets();
        let message = Piecemeal::new(&chat, "message/cpim", &octets);
        let empty = message.sends(0..0)?;
        chat.msrp.expect_response(&empty, 200)?;
        let whole = message.sends(0..octets.len())?;
        chat.msrp.expect_response(&whole, 200)?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Passive)?;
        let kept = replay.msrp.expect_message()?;
        stage.observe(kept.body == octets, "it is kept whole")
    });
}

#[test]
fn who_wants_no_answer_gets_none() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        for wish in ["no", "partial"] {
            let quiet = alice.envelope("bob", "quiet");
            let sending = chat.msrp.sending("message/cpim", &quiet.to_octets());
            let sent = sending.failure_report(wish).send()?;
            sent.expect_no_answer(Duration::from_millis(300))?;
        }
        chat.says("an answered one comes after them")?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("quiet")?;
        replay.expect_text("quiet")?;
        replay.expect_text("an answered one comes after them")?;
        Ok(())
    });
}

#[test]
fn typing_is_never_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        let typing = chat
            .msrp
            .sending("application/im-iscomposing+xml", b"<isComposing/>");
        typing.send()?.expect_status(200)?;
        chat.hangs_up()?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn an_offer_nobody_could_accept_is_refused_with_a_warning() {
    let offers = [
        "m=message 9 TCP/MSRP *\r\na=accept-types:video/mp4\r\na=path:msrp://127.0.0.1:9/s;tcp\r\n",
        "m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\n",
    ];
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        for section in offers {
            let sdp = format!(
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{section}"
            );
            let draft: Draft = alice
                .invite_draft("bob", "c")
                .body("application/sdp", sdp.as_bytes());
            let answer = alice.sends(draft)?.expect_status(488)?;
            stage.observe(answer.header("Warning").is_some(), "Warning says why")?;
        }
        Ok(())
    });
}

#[test]
fn a_message_over_the_limit_is_answered_413_and_the_session_goes_on() {
    let small = Configuration::open().with("msrp", "max_message_size = \"64 KiB\"");
    on_every_shard_count(&small, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        let large = alice.envelope("bob", &"x".repeat(100_000));
        chat.sends(&large)?.expect_status(413)?;
        chat.says("small")?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("small")?;
        Ok(())
    });
}
