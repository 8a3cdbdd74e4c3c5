//! Pager mode: MESSAGE to people who are there, and to people who are not.

use std::time::Duration;

use restante::demo::{Draft, Failure, PATIENCE, Profile, Reaction, Transport};

use crate::support::{Configuration, on_every_shard_count};

#[test]
fn a_message_reaches_a_device_to_the_last_octet() {
    let everything: Vec<u8> = (0..=255).collect();
    let bodies: [(&str, &[u8]); 4] = [
        ("application/octet-stream", &everything),
        ("text/plain", b"ends with a line end\r\n"),
        ("application/x-unheard-of", b"\0\r\n\r\n\0"),
        ("text/plain", b""),
    ];
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        for (content_type, body) in bodies {
            let sent = alice.sends_body("bob", content_type, body)?;
            sent.expect_status(200)?;
            let message = bob.expect_message()?;
            let same = message.text().body() == body
                && message.text().header("Content-Type") == Some(content_type);
            stage.observe(same, "body and type are the same at the other end")?;
        }
        Ok(())
    });
}

#[test]
fn twenty_thousand_octets_pass_over_tcp() {
    let body: Vec<u8> = (0..20_000u32).map(|n| (n % 253) as u8).collect();
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::Rcs)?;
        bob.registers()?;
        let sent = alice.sends_body("bob", "application/octet-stream", &body)?;
        sent.expect_status(200)?;
        let message = bob.expect_message()?;
        stage.observe(message.text().body() == body, "all of it arrives")
    });
}

#[test]
fn messages_for_someone_away_are_kept_and_come_in_order() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let texts = ["one", "two", "three", "four", "five"];
        for text in texts {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        bob.registers()?;
        for text in texts {
            bob.expect_text(text)?;
        }
        bob.registers()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_kept_message_is_byte_identical_and_survives_a_kill() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let body = b"\xff\0\r\n\r\nend\r\n";
        let sent = alice.sends_body("bob", "application/octet-stream", body)?;
        sent.expect_status(202)?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        let message = bob.expect_message()?;
        stage.observe(message.text().body() == body, "the body is the same")
    });
}

#[test]
fn a_request_that_comes_again_after_two_restarts_is_answered_and_not_delivered_again() {
    let small = Configuration::open().with("store", "segment_size = \"64 KiB\"");
    on_every_shard_count(&small, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let mut first = alice.sends_body("bob", "text/plain", b"first")?;
        first.final_answer(PATIENCE)?;
        // So many that the first segment is worth a compaction once they are delivered, and so few that all is
        // done within the 32 s in which a request may come again (64*T1, RFC 3261 §17.1.2.2).
        let body = [b'x'; 1_000];
        for _ in 0..80 {
            let sent = alice.sends_body("bob", "application/octet-stream", &body)?;
            sent.expect_status(202)?;
        }
        bob.registers()?;
        for _ in 0..81 {
            bob.expect_message()?;
        }
        // What is acknowledged after his answers have come is synced with them or behind them.
        bob.asks_options()?;
        alice.sends_message("carol", "later")?.expect_status(202)?;
        for _ in 0..2 {
            stage.kill9()?;
            stage.restart()?;
            bob.registers()?;
        }
        first.repeats()?;
        let answer = first.final_answer(PATIENCE)?;
        stage.observe(answer.status() == 202, "the repeated request is accepted")?;
        // What he confirmed just before the kill may come again.
        while let Ok(message) = bob.expect_request_within("MESSAGE", Duration::from_millis(500)) {
            stage.observe(message.text().body() != b"first", "he has the first one")?;
        }
        Ok(())
    });
}

#[test]
fn a_device_that_answers_late_settles_the_kept_copy() {
    let impatient = Configuration::open().with("deferral", "answer_within = \"1s\"");
    on_every_shard_count(&impatient, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(Reaction::StaySilent);
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        bob.expect_message()?.answers(200);
        bob.reacts_to_messages(Reaction::Answer(200));
        bob.asks_options()?;
        bob.registers()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_message_waits_behind_one_that_a_device_has_not_answered_yet() {
    let impatient = Configuration::open().with("deferral", "answer_within = \"1s\"");
    on_every_shard_count(&impatient, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(Reaction::StaySilent);
        alice.sends_message("bob", "first")?.expect_status(202)?;
        let first = bob.expect_message()?;
        alice.sends_message("bob", "second")?.expect_status(202)?;
        bob.expect_no("MESSAGE")?;
        bob.reacts_to_messages(Reaction::Answer(200));
        first.answers(200);
        bob.expect_text("second")?;
        Ok(())
    });
}

#[test]
fn a_new_device_gets_at_once_what_waits_behind_one_that_vanished() {
    let impatient = Configuration::open().with("deferral", "answer_within = \"500ms\"");
    on_every_shard_count(&impatient, |stage| {
        let (alice, old) = (stage.agent("alice")?, stage.agent("bob")?);
        old.registers()?;
        old.reacts_to_messages(Reaction::StaySilent);
        alice.sends_message("bob", "first")?.expect_status(202)?;
        alice.sends_message("bob", "second")?.expect_status(202)?;
        let new = stage.agent("bob")?;
        new.registers()?;
        new.expect_text("first")?;
        new.expect_text("second")?;
        Ok(())
    });
}

#[test]
fn a_message_too_long_for_the_device_blocks_nothing_behind_it() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Plain)?;
        let bob = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        bob.registers()?;
        alice
            .sends_message("bob", &"long ".repeat(40_000))?
            .expect_status(202)?;
        alice.sends_message("bob", "short")?.expect_2xx()?;
        bob.expect_text("short")?;
        Ok(())
    });
}

#[test]
fn a_device_that_is_busy_gets_the_message_when_it_registers_again() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for status in [302, 480, 486, 503] {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            bob.registers()?;
            bob.reacts_to_messages(Reaction::Answer(status));
            alice.sends_message("bob", "hello")?.expect_status(202)?;
            bob.expect_text("hello")?;
            bob.reacts_to_messages(Reaction::Answer(200));
            bob.registers()?;
            bob.expect_text("hello")?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn a_device_that_declines_is_believed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(Reaction::Answer(603));
        alice.sends_message("bob", "hello")?.expect_status(603)?;
        Ok(())
    });
}

#[test]
fn an_unknown_user_is_not_found() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        alice.sends_message("nobody", "hello")?.expect_status(404)?;
        Ok(())
    });
}

#[test]
fn a_user_of_another_domain_is_not_found() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let sent = alice.sends_message("sip:bob@elsewhere.test", "hello")?;
        sent.expect_status(404)?;
        Ok(())
    });
}

#[test]
fn a_telephone_number_reaches_its_account() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let sent = alice.sends_message("tel:+46-70-000-002", "hello")?;
        sent.expect_status(200)?;
        bob.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn missing_conversation_headers_are_made_and_a_repeated_request_is_one_message() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let bare = Draft::new("MESSAGE", "sip:bob@im.test").body("text/plain", b"bare");
        let sent = alice.sends(bare)?;
        sent.repeats()?;
        let answer = sent.expect_status(202)?;
        stage.observe(
            answer.header("Conversation-ID").is_some()
                && answer.header("Contribution-ID").is_some(),
            "the answer names the conversation",
        )?;
        bob.registers()?;
        let message = bob.expect_message()?;
        stage.observe(message.text().body() == b"bare", "it is the message")?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn an_assertion_by_an_untrusted_peer_does_not_reach_the_device() {
    on_every_shard_count(&Configuration::open(), |stage| -> Result<(), Failure> {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let forged = Draft::new("MESSAGE", "sip:bob@im.test")
            .header("P-Asserted-Identity", "<sip:mallory@im.test>")
            .body("text/plain", b"hello");
        alice.sends(forged)?.expect_status(200)?;
        let message = bob.expect_message()?;
        stage.observe(
            !message.text().text().contains("mallory"),
            "the assertion is gone",
        )
    });
}
