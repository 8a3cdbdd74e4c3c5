//! The replay: what a device gets when its user comes back, and what its refusals mean.

use std::time::Duration;

use restante::demo::{
    Answering, Disposition, Failure, Profile, Reaction, Setup, Transport, address, attribute,
};

use crate::support::{
    Configuration, Stage, on_every_shard_count, on_stage, writes_while_bob_is_away,
};

/// A settlement follows its 200 within moments; a second is ample and never asserted on.
fn time_to_settle() {
    std::thread::sleep(Duration::from_secs(1));
}

#[test]
fn the_invitation_tells_the_author_and_offers_to_send_only() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["hello"])?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        let invite = call.text();
        let says = |name: &str, uri: &str| address(invite.header_or_empty(name)) == uri;
        stage.observe(says("From", "sip:alice@im.test"), "From is the author")?;
        stage.observe(
            says("Referred-By", "sip:alice@im.test"),
            "Referred-By is the author",
        )?;
        stage.observe(
            says("P-Asserted-Identity", "sip:rcse-standfw@im.test"),
            "the asserted identity is the store-and-forward function",
        )?;
        stage.observe(
            invite.header_or_empty("Content-Type") == "application/sdp",
            "the body is a plain session description",
        )?;
        stage.observe(
            !invite.header_or_empty("Contact").contains("isfocus"),
            "it is not a conference",
        )?;
        let offer = call.offer();
        stage.observe(
            attribute(&offer, "sendonly").is_some()
                && attribute(&offer, "setup") == Some("actpass"),
            "it sends only, and leaves open who connects",
        )?;
        let replay = call.answers_recvonly(Setup::Passive)?;
        replay.expect_text("hello")?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn who_wants_nothing_from_one_author_still_hears_the_other() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        writes_while_bob_is_away(&alice, &["from alice"])?;
        writes_while_bob_is_away(&carol, &["from carol"])?;
        bob.registers()?;
        for _ in 0..2 {
            let call = bob.expect_invite()?;
            if call.text().header_or_empty("From").contains("alice") {
                call.refuses(480);
            } else {
                let replay = call.answers_recvonly(Setup::Active)?;
                replay.expect_text("from carol")?;
                replay.expect_bye()?;
            }
        }
        bob.registers()?;
        let call = bob.expect_invite()?;
        let replay = call.answers_recvonly(Setup::Active)?;
        replay.expect_text("from alice")?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn no_refusal_loses_a_message() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        for status in [480, 486, 600, 603, 408, 503] {
            bob.registers()?;
            bob.expect_invite()?.refuses(status);
            bob.expect_request("ACK")?;
        }
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("one")?;
        replay.expect_text("two")?;
        replay.expect_bye()?;
        Ok(())
    });
}

/// Bob confirms two of five, then `break_it`; when he is back the other three come, and only they.
fn the_rest_comes_again(
    stage: &Stage,
    break_it: impl Fn(&Stage, &restante::demo::Chat<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
    writes_while_bob_is_away(&alice, &["1", "2", "3", "4", "5"])?;
    bob.registers()?;
    let call = bob.expect_invite()?.taking(Answering::Only(2));
    let replay = call.answers_recvonly(Setup::Active)?;
    replay.expect_text("1")?;
    replay.expect_text("2")?;
    time_to_settle();
    break_it(stage, &replay)?;
    bob.registers()?;
    let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
    for text in ["3", "4", "5"] {
        replay.expect_text(text)?;
    }
    replay.expect_bye()?;
    bob.registers()?;
    bob.expect_no("INVITE")
}

#[test]
fn after_a_dropped_connection_the_rest_comes_and_nothing_twice() {
    on_every_shard_count(&Configuration::open(), |stage| {
        the_rest_comes_again(stage, |_, replay| {
            replay.msrp.drops_connection();
            time_to_settle();
            Ok(())
        })
    });
}

#[test]
fn after_a_kill_in_the_middle_the_rest_comes_and_nothing_twice() {
    on_every_shard_count(&Configuration::open(), |stage| {
        the_rest_comes_again(stage, |stage, _| {
            stage.kill9()?;
            stage.restart()
        })
    });
}

#[test]
fn what_was_confirmed_behind_a_message_that_was_put_off_does_not_come_again() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let texts = ["1", "2", "3", "4", "5", "6", "7", "8"];
        writes_while_bob_is_away(&alice, &texts)?;
        bob.registers()?;
        let call = bob.expect_invite()?.taking(Answering::Except(2, 400));
        let replay = call.answers_recvonly(Setup::Active)?;
        for text in texts {
            replay.expect_text(text)?;
        }
        replay.expect_bye()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("3")?;
        replay.expect_bye()?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn what_a_device_confirms_as_it_hangs_up_does_not_come_again() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let texts = ["1", "2", "3", "4", "5", "6"];
        writes_while_bob_is_away(&alice, &texts)?;
        bob.registers()?;
        let pause = Duration::from_millis(10);
        let call = bob.expect_invite()?.taking(Answering::After(pause));
        let replay = call.answers_recvonly(Setup::Active)?;
        replay.expect_text("1")?;
        replay.hangs_up_saying("")?;
        for text in &texts[1..] {
            replay.expect_text(text)?;
        }
        time_to_settle();
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn a_second_registration_during_a_replay_starts_no_second_one() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        bob.registers()?;
        bob.expect_no("INVITE")?;
        let replay = call.answers_recvonly(Setup::Active)?;
        replay.expect_text("one")?;
        replay.expect_text("two")?;
        replay.expect_bye()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn a_phone_without_msrp_gets_the_chat_by_message() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        bob.registers()?;
        bob.expect_text("one")?;
        bob.expect_text("two")?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn an_rcs_e_phone_finds_the_first_message_in_the_invitation() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::RcsE)?;
        writes_while_bob_is_away(&alice, &["the first one", "the second one"])?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        let invite = call.text();
        stage.observe(
            invite
                .header_or_empty("Content-Type")
                .starts_with("multipart/mixed"),
            "the body has parts",
        )?;
        stage.observe(
            invite.text().contains("the first one") && invite.text().contains("m=message"),
            "the parts are the first message and the session description",
        )
    });
}

#[test]
fn a_replay_session_takes_receipts_and_nothing_else() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let chat = alice.opens_chat("bob")?;
        let asked = alice.envelope("bob", "hello").asking("positive-delivery");
        chat.sends(&asked)?.expect_status(200)?;
        chat.hangs_up()?;
        bob.registers()?;
        let call = bob.expect_invite()?.taking(Answering::Only(0));
        let replay = call.answers_recvonly(Setup::Active)?;
        let got = replay.expect_text("hello")?;
        let reply = bob.envelope("alice", "a reply belongs into a session of its own");
        replay.sends(&reply)?.expect_status(403)?;
        let receipt = got.notification(Disposition::Delivered);
        replay.sends(&receipt)?.expect_status(200)?;
        alice.expect_notification("delivered", &asked.message_id)?;
        alice.expect_no("INVITE")
    });
}

#[test]
fn pager_messages_leave_as_message_and_chat_over_msrp() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["chat"])?;
        alice.sends_message("bob", "pager")?.expect_status(202)?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("chat")?;
        replay.expect_bye()?;
        bob.expect_text("pager")?;
        Ok(())
    });
}

#[test]
fn the_retry_timer_calls_again_without_a_registration() {
    let eager = Configuration::open().with("deferral", "retry = [\"1s\", \"2s\"]");
    on_every_shard_count(&eager, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["hello"])?;
        bob.registers()?;
        bob.expect_invite()?.refuses(480);
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("hello")?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn nothing_passes_what_waits_for_somebody_whose_turn_has_not_come() {
    let one = Configuration::open().with("deferral", "replays_at_once = 1");
    on_stage(&one, 1, |stage| {
        let alice = stage.agent("alice")?;
        let (bob, dave) = (stage.agent("bob")?, stage.agent("dave")?);
        alice
            .sends_message("dave", "for dave")?
            .expect_status(202)?;
        alice.sends_message("bob", "old")?.expect_status(202)?;
        dave.reacts_to_messages(Reaction::StaySilent);
        dave.registers()?;
        let first = dave.expect_message()?;
        bob.registers()?;
        alice.sends_message("bob", "new")?.expect_status(202)?;
        bob.expect_no("MESSAGE")?;
        first.answers(200);
        bob.expect_text("old")?;
        bob.expect_text("new")?;
        Ok(())
    });
}

#[test]
fn what_is_left_goes_to_the_device_that_is_there_not_to_the_one_that_was() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (old, new) = (stage.agent("bob")?, stage.agent("bob")?);
        for text in ["one", "two", "three"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        old.reacts_to_messages(Reaction::StaySilent);
        old.registers()?;
        let first = old.expect_message()?;
        old.unregisters()?;
        new.registers()?;
        // Who has left answers all the same.
        first.answers(200);
        new.expect_text("two")?;
        new.expect_text("three")?;
        old.expect_no("MESSAGE")
    });
}
