//! The first message of a chat inside its INVITE: to devices, and to people who are away.

use std::time::Duration;

use restante::demo::{Answering, Disposition, Profile, Setup, Transport};

use crate::support::{Configuration, on_every_shard_count};

#[test]
fn row_1_the_text_of_an_invite_to_someone_away_is_kept_before_what_follows_it() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        for text_first in [false, true] {
            let first = alice.envelope("bob", "the first one");
            let call = alice.invites_saying("bob", &first, text_first)?;
            let chat = call.expect_accepted()?;
            let second = chat.says("the second one")?;
            stage.kill9()?;
            stage.restart()?;
            bob.registers()?;
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            for envelope in [&first, &second] {
                let message = replay.msrp.expect_message()?;
                stage.observe(message.body == envelope.to_octets(), "byte-identical")?;
            }
            replay.expect_bye()?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn rows_3a_and_4a_a_text_no_device_takes_is_kept_and_the_invite_answered_486() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for status in [480, 486, 503, 415] {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            bob.registers()?;
            let first = alice.envelope("bob", "hello");
            let call = alice.invites_saying("bob", &first, false)?;
            bob.expect_invite()?.refuses(status);
            call.expect_status(486)?;
            stage.kill9()?;
            stage.restart()?;
            bob.registers()?;
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            let message = replay.msrp.expect_message()?;
            stage.observe(message.body == first.to_octets(), "it is kept")?;
            replay.expect_bye()?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn row_5_a_text_the_user_declines_is_not_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let call = alice.invites_saying("bob", &alice.envelope("bob", "hello"), false)?;
        bob.expect_invite()?.refuses(603);
        call.expect_status(603)?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn row_11_the_text_of_a_cancelled_invite_is_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let first = alice.envelope("bob", "are you there");
        let mut call = alice.invites_saying("bob", &first, false)?;
        let ringing = bob.expect_invite()?;
        ringing.rings();
        call.expect_ringing()?;
        call.cancels()?;
        ringing.expect_cancel()?;
        ringing.refuses(487);
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("are you there")?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn what_a_device_accepted_as_the_call_was_cancelled_does_not_come_again() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::RcsE)?;
        bob.registers()?;
        let first = alice.envelope("bob", "are you there");
        let mut call = alice.invites_saying("bob", &first, false)?;
        let ringing = bob.expect_invite()?;
        ringing.picks_up();
        ringing.rings();
        call.expect_ringing()?;
        call.cancels()?;
        ringing.expect_cancel()?;
        // Its author has heard 487, so it has been kept; the device says only now that it took the call.
        ringing.accepts_with_body("application/sdp", &ringing.offer())?;
        bob.expect_request("BYE")?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn a_device_that_takes_it_in_the_invite_finds_it_there_and_nothing_is_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::RcsE)?;
        bob.registers()?;
        let first = alice.envelope("bob", "the first one");
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                let call = alice.invites_saying("bob", &first, true)?;
                call.expect_accepted()
            });
            let ringing = bob.expect_invite()?;
            let text = ringing.text().text().to_owned();
            let verbatim = String::from_utf8_lossy(&first.to_octets()).into_owned();
            stage.observe(
                text.contains(&verbatim) && text.contains("Content-ID: <text@bob>"),
                "the INVITE carries the part as it was",
            )?;
            let at_bob = ringing.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            at_alice.says("the second one")?;
            at_bob.expect_text("the second one")?;
            at_alice.hangs_up()?;
            bob.registers()?;
            bob.expect_no("INVITE")
        })
    });
}

#[test]
fn a_device_that_wants_plain_sdp_gets_it_as_the_first_message_of_the_session() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let first = alice.envelope("bob", "the first one");
        for setup in [Setup::Active, Setup::Passive] {
            std::thread::scope(|scope| {
                let call = scope.spawn(|| {
                    let call = alice.invites_saying("bob", &first, false)?;
                    let chat = call.expect_accepted()?;
                    chat.says("the second one")?;
                    Ok::<_, restante::demo::Failure>(chat)
                });
                let ringing = bob.expect_invite()?;
                stage.observe(
                    ringing.text().header("Content-Type") == Some("application/sdp"),
                    "the INVITE carries a description alone",
                )?;
                let at_bob = ringing.answers(setup, "sendrecv")?;
                let message = at_bob.msrp.expect_message()?;
                stage.observe(message.body == first.to_octets(), "the text comes first")?;
                at_bob.expect_text("the second one")?;
                let at_alice = call.join().expect("the agent does not panic")?;
                at_alice.hangs_up()
            })?;
        }
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn row_12_a_text_the_device_takes_and_does_not_confirm_is_kept_before_the_200() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let mut call = alice.invites_saying("bob", &alice.envelope("bob", "one"), false)?;
        let ringing = bob.expect_invite()?.taking(Answering::Only(0));
        let at_bob = ringing.answers(Setup::Active, "sendrecv")?;
        at_bob.msrp.expect_message()?;
        call.expect_no_answer(Duration::from_millis(300))?;
        at_bob.msrp.drops_connection();
        let chat = call.expect_accepted()?;
        chat.says("two")?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("one")?;
        replay.expect_text("two")?;
        Ok(())
    });
}

#[test]
fn row_13_a_text_the_device_refuses_is_refused_and_not_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let call = alice.invites_saying("bob", &alice.envelope("bob", "hello"), false)?;
        let ringing = bob.expect_invite()?.taking(Answering::Status(415));
        let at_bob = ringing.answers(Setup::Active, "sendrecv")?;
        call.expect_status(415)?;
        at_bob.expect_bye()?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn row_15_a_text_over_the_recipients_quota_is_refused_with_a_warning() {
    let full = Configuration::open().with("users", "max_messages = 1");
    on_every_shard_count(&full, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice
            .sends_message("bob", "the only one")?
            .expect_status(202)?;
        let call = alice.invites_saying("bob", &alice.envelope("bob", "one more"), false)?;
        let answer = call.expect_status(403)?;
        stage.observe(
            answer
                .header_or_empty("Warning")
                .contains("133 Size exceeded"),
            "the Warning says why",
        )?;
        bob.registers()?;
        bob.expect_text("the only one")?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn an_invite_repeated_after_a_restart_is_one_message() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let first = alice.envelope("bob", "once");
        let conversation = alice.conversation_with("bob");
        for _ in 0..2 {
            let draft = alice.invite_draft("bob", &conversation);
            let call = alice.invites_drafted("bob", draft, &first, false)?;
            call.expect_accepted()?;
            stage.kill9()?;
            stage.restart()?;
        }
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("once")?;
        replay.expect_bye()?;
        stage.observe(
            replay.msrp.next_message(Duration::ZERO).is_none(),
            "it comes once",
        )
    });
}

#[test]
fn a_receipt_while_it_rings_cancels_the_copy_that_would_be_held() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::RcsE)?;
        alice.registers()?;
        bob.registers()?;
        for disposition in [Disposition::Delivered, Disposition::Displayed] {
            let first = alice
                .envelope("bob", "hello")
                .asking("positive-delivery, display");
            let call = alice.invites_saying("bob", &first, false)?;
            let ringing = bob.expect_invite()?;
            bob.notifies(&first, disposition)?;
            alice.expect_message()?;
            // The receipt may pass by another shard than the INVITE; a round trip later it is there.
            bob.asks_options()?;
            ringing.refuses(486);
            call.expect_status(486)?;
            bob.registers()?;
            bob.expect_no("INVITE")?;
        }
        Ok(())
    });
}

#[test]
fn a_receipt_after_the_486_cancels_the_held_copy() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::RcsE)?;
        alice.registers()?;
        bob.registers()?;
        let first = alice.envelope("bob", "hello").asking("positive-delivery");
        let call = alice.invites_saying("bob", &first, false)?;
        bob.expect_invite()?.refuses(486);
        call.expect_status(486)?;
        bob.notifies(&first, Disposition::Delivered)?;
        alice.expect_message()?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn an_author_who_hides_stays_hidden_in_the_replay() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let hidden = alice.envelope("bob", "guess who");
        let draft = alice.invite_draft("bob", "c").header("Privacy", "id");
        let call = alice.invites_drafted("bob", draft, &hidden, false)?;
        call.expect_accepted()?.hangs_up()?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        stage.observe(
            call.text()
                .header_or_empty("From")
                .contains("anonymous.invalid")
                && !call.text().header_or_empty("Referred-By").contains("alice"),
            "the INVITE names nobody",
        )?;
        let replay = call.answers_recvonly(Setup::Active)?;
        replay.expect_text("guess who")?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_kept_whole_is_refused_with_415() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let body = "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\n\
                    c=IN IP4 127.0.0.1\r\nt=0 0\r\nm=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\n\
                    a=path:msrp://127.0.0.1:9/s;tcp\r\n\r\n--b\r\nContent-Type: message/cpim\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\nRnJvbQ==\r\n--b--\r\n";
        let draft = alice.invite_draft("bob", "c");
        let draft = draft.body("multipart/mixed;boundary=b", body.as_bytes());
        alice.sends(draft)?.expect_status(415)?;
        Ok(())
    });
}

#[test]
fn a_text_for_a_device_that_holds_at_once_is_kept_and_the_device_let_go() {
    let short = Configuration::open().with("deferral", "custody_after = \"1s\"");
    on_every_shard_count(&short, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let first = alice.envelope("bob", "the first one");
        let call = alice.invites_saying("bob", &first, false)?;
        let at_bob = bob.expect_invite()?.answers(Setup::Active, "inactive")?;
        let at_alice = call.expect_accepted()?;
        at_bob.expect_bye()?;
        let second = at_alice.says("the second one")?;
        at_alice.hangs_up()?;
        bob.registers()?;
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            while let Some(message) = replay.msrp.next_message(Duration::from_secs(1)) {
                seen.push(message.body);
            }
        }
        stage.observe(
            seen == [first.to_octets(), second.to_octets()],
            "both are kept, and follow in order",
        )
    });
}
