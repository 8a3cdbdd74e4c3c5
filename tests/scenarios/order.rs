//! Order between two people when devices put messages off or refuse them for good (decision 3).

use restante::demo::{Answering, Chat, Disposition, Envelope, Failure, Reaction, Setup, UserAgent};

use crate::support::{Configuration, Stage, on_every_shard_count, takes_replay};

/// Retries that no test waits for, except those that something new brings about within seconds.
fn patient() -> Configuration {
    Configuration::open().with("deferral", "retry = [\"30s\"]")
}

/// Bob puts off the next message.
fn puts_off(bob: &UserAgent, status: u16, text: &str) -> Result<(), Failure> {
    let request = bob.expect_message()?;
    request.answers(status);
    bob.expect_wrapped(&request.envelope()?, text)
}

/// A message that asks to hear of its failure.
fn asking(author: &UserAgent, text: &str) -> Envelope {
    author.envelope("bob", text).asking("negative-delivery")
}

#[test]
fn what_comes_behind_a_message_that_was_put_off_waits_for_it_and_brings_it_soon() {
    for status in [480, 486, 503] {
        on_every_shard_count(&patient(), |stage| {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            bob.registers()?;
            bob.reacts_to_messages(Reaction::StaySilent);
            let one = alice.sends_message("bob", "one")?;
            puts_off(&bob, status, "one")?;
            one.expect_status(202)?;
            bob.reacts_to_messages(Reaction::Answer(200));
            for text in ["two", "three"] {
                alice.sends_message("bob", text)?.expect_status(202)?;
            }
            for text in ["one", "two", "three"] {
                bob.expect_text(text)?;
            }
            alice.sends_message("bob", "four")?.expect_2xx()?;
            bob.expect_text("four")?;
            Ok(())
        });
    }
}

#[test]
fn a_device_that_asks_for_time_is_not_tried_meanwhile() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.sends_message("bob", "one")?.expect_status(202)?;
        bob.reacts_to_messages(Reaction::StaySilent);
        bob.registers()?;
        let asked = [("Retry-After", "3600".to_owned())];
        bob.expect_message()?.answers_with(503, &asked, b"");
        alice.sends_message("bob", "two")?.expect_status(202)?;
        let early = bob.expect_request_within("MESSAGE", std::time::Duration::from_secs(5));
        stage.observe(early.is_err(), "it has the time that it asked for")?;
        bob.reacts_to_messages(Reaction::Answer(200));
        bob.registers()?;
        bob.expect_text("one")?;
        bob.expect_text("two")?;
        Ok(())
    });
}

#[test]
fn a_device_that_asks_for_time_as_the_message_first_comes_is_not_tried_meanwhile() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(Reaction::StaySilent);
        let sent = alice.sends_message("bob", "one")?;
        let asked = [("Retry-After", "3600".to_owned())];
        bob.expect_message()?.answers_with(503, &asked, b"");
        sent.expect_status(202)?;
        alice.sends_message("bob", "two")?.expect_status(202)?;
        let early = bob.expect_request_within("MESSAGE", std::time::Duration::from_secs(5));
        stage.observe(early.is_err(), "it has the time that it asked for")?;
        bob.reacts_to_messages(Reaction::Answer(200));
        bob.registers()?;
        bob.expect_text("one")?;
        bob.expect_text("two")?;
        Ok(())
    });
}

#[test]
fn what_comes_behind_a_message_that_was_declined_waits_for_the_next_registration() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.sends_message("bob", "one")?.expect_status(202)?;
        bob.reacts_to_messages(Reaction::Answer(603));
        bob.registers()?;
        bob.expect_text("one")?;
        bob.reacts_to_messages(Reaction::Answer(200));
        bob.expect_no("MESSAGE")?;
        alice.sends_message("bob", "two")?.expect_status(202)?;
        bob.expect_no("MESSAGE")?;
        bob.registers()?;
        bob.expect_text("one")?;
        bob.expect_text("two")?;
        Ok(())
    });
}

/// A chat between Alice and Bob in the conversation of her messages, with its first message said.
fn live(
    stage: &Stage,
    then: impl Fn(&UserAgent, &UserAgent, &Chat<'_>, &Chat<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
    alice.registers()?;
    bob.registers()?;
    let draft = alice.invite_draft("bob", &alice.conversation_with("bob"));
    let hello = alice.envelope("bob", "hello");
    let call = alice.invites_drafted("bob", draft, &hello, false)?;
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| call.expect_accepted());
        let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        at_bob.expect_text("hello")?;
        let at_alice = accepted.join().expect("the agent does not panic")?;
        then(&alice, &bob, &at_alice, &at_bob)
    })
}

#[test]
fn a_live_chat_goes_on_in_order_behind_a_message_that_was_put_off() {
    on_every_shard_count(&patient(), |stage| {
        live(stage, |alice, bob, at_alice, at_bob| {
            bob.reacts_to_messages(Reaction::StaySilent);
            let one = alice.sends_message("bob", "one")?;
            puts_off(bob, 480, "one")?;
            one.expect_status(202)?;
            bob.reacts_to_messages(Reaction::Answer(200));
            at_alice.says("two")?;
            bob.expect_text("one")?;
            takes_replay(bob, &["two"])?;
            at_bob.says("and back")?;
            at_alice.expect_text("and back")?;
            at_alice.says("three")?;
            at_bob.expect_text("three")?;
            Ok(())
        })
    });
}

#[test]
fn the_first_message_of_a_chat_waits_behind_one_that_was_put_off() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(Reaction::StaySilent);
        let one = alice.sends_message("bob", "one")?;
        puts_off(&bob, 480, "one")?;
        one.expect_status(202)?;
        bob.reacts_to_messages(Reaction::Answer(200));
        let draft = alice.invite_draft("bob", &alice.conversation_with("bob"));
        let two = alice.envelope("bob", "two");
        let call = alice.invites_drafted("bob", draft, &two, false)?;
        let chat = call.expect_accepted()?;
        bob.expect_text("one")?;
        takes_replay(&bob, &["two"])?;
        chat.hangs_up()
    });
}

#[test]
fn a_message_that_its_only_device_refuses_for_good_has_failed_and_the_next_one_comes() {
    for status in [403, 405, 413, 415, 488, 606] {
        on_every_shard_count(&patient(), |stage| {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            let refused = asking(&alice, "no");
            alice.sends_envelope("bob", &refused)?.expect_status(202)?;
            alice.sends_message("bob", "yes")?.expect_status(202)?;
            alice.registers()?;
            bob.reacts_to_messages(Reaction::StaySilent);
            bob.registers()?;
            bob.expect_message()?.answers(status);
            let next = bob.expect_message()?;
            bob.expect_wrapped(&next.envelope()?, "yes")?;
            next.answers(200);
            alice.expect_notification("failed", &refused.message_id)?;
            let name = "restante_messages_ended_total{reason=\"refused\"}";
            let counted = super::attack_flood::metric(stage, name)?;
            stage.observe(counted == 1, "the operator sees it")?;
            bob.registers()?;
            bob.expect_no("MESSAGE")
        });
    }
}

#[test]
fn a_message_that_one_device_refuses_for_good_goes_to_the_other() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, tablet, phone) = (
            stage.agent("alice")?,
            stage.agent("bob")?,
            stage.agent("bob")?,
        );
        let message = asking(&alice, "for the other");
        alice.registers()?;
        tablet.registers()?;
        phone.registers()?;
        for device in [&phone, &tablet] {
            device.reacts_to_messages(Reaction::Answer(480));
        }
        alice.sends_envelope("bob", &message)?.expect_status(202)?;
        for device in [&phone, &tablet] {
            device.expect_text("for the other")?;
        }
        phone.reacts_to_messages(Reaction::Answer(413));
        tablet.reacts_to_messages(Reaction::Answer(200));
        phone.registers()?;
        phone.expect_text("for the other")?;
        tablet.expect_text("for the other")?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn what_a_device_refuses_for_good_waits_for_the_one_that_only_put_it_off() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, tablet, phone) = (
            stage.agent("alice")?,
            stage.agent("bob")?,
            stage.agent("bob")?,
        );
        let message = asking(&alice, "later");
        alice.registers()?;
        alice.sends_envelope("bob", &message)?.expect_status(202)?;
        tablet.reacts_to_messages(Reaction::Answer(503));
        phone.reacts_to_messages(Reaction::Answer(413));
        tablet.registers()?;
        tablet.expect_text("later")?;
        phone.registers()?;
        phone.expect_text("later")?;
        tablet.expect_text("later")?;
        alice.expect_no("MESSAGE")?;
        tablet.reacts_to_messages(Reaction::Answer(200));
        tablet.registers()?;
        tablet.expect_text("later")?;
        Ok(())
    });
}

#[test]
fn a_chat_message_that_its_only_device_refuses_for_good_has_failed_and_the_others_come() {
    for status in [403, 413, 415] {
        on_every_shard_count(&patient(), |stage| {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            let refused = asking(&alice, "two");
            let chat = alice.opens_chat("bob")?;
            chat.says("one")?;
            chat.sends(&refused)?.expect_status(200)?;
            chat.says("three")?;
            chat.hangs_up()?;
            alice.registers()?;
            bob.registers()?;
            let call = bob.expect_invite()?.taking(Answering::Except(1, status));
            let replay = call.answers_recvonly(Setup::Active)?;
            for text in ["one", "two", "three"] {
                replay.expect_text(text)?;
            }
            replay.expect_bye()?;
            alice.expect_notification("failed", &refused.message_id)?;
            bob.registers()?;
            bob.expect_no("INVITE")
        });
    }
}

#[test]
fn a_chat_message_that_one_device_refuses_for_good_goes_to_the_other() {
    on_every_shard_count(&patient(), |stage| {
        let alice = stage.agent("alice")?;
        let (tablet, phone) = (stage.agent("bob")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        chat.sends(&asking(&alice, "for the other"))?
            .expect_status(200)?;
        chat.hangs_up()?;
        alice.registers()?;
        tablet.registers()?;
        tablet.expect_invite()?.refuses(486);
        tablet.expect_request("ACK")?;
        phone.registers()?;
        let call = phone.expect_invite()?.taking(Answering::Status(415));
        let replay = call.answers_recvonly(Setup::Active)?;
        replay.expect_text("for the other")?;
        takes_replay(&tablet, &["for the other"])?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn a_receipt_passes_messages_that_were_put_off() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let asked = alice.envelope("bob", "hello").asking("display");
        alice.sends_envelope("bob", &asked)?.expect_status(200)?;
        bob.expect_text("hello")?;
        alice.reacts_to_messages(Reaction::StaySilent);
        let one = bob.sends_message("alice", "one")?;
        puts_off(&alice, 480, "one")?;
        one.expect_status(202)?;
        alice.reacts_to_messages(Reaction::Answer(200));
        bob.notifies(&asked, Disposition::Displayed)?;
        alice.expect_notification("displayed", &asked.message_id)?;
        Ok(())
    });
}

#[test]
fn a_message_that_has_come_to_one_device_has_not_failed_because_another_refuses_it() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, phone) = (stage.agent("alice")?, stage.agent("bob")?);
        let tablet = stage.agent("bob")?;
        let message = asking(&alice, "once");
        alice.registers()?;
        for device in [&phone, &tablet] {
            device.reacts_to_messages(Reaction::StaySilent);
        }
        phone.registers()?;
        alice.sends_envelope("bob", &message)?.expect_status(202)?;
        let at_phone = phone.expect_message()?;
        phone.unregisters()?;
        tablet.registers()?;
        let at_tablet = tablet.expect_message()?;
        at_phone.answers(200);
        // Its answer has been heard by then.
        phone.unregisters()?;
        at_tablet.answers(415);
        alice.expect_no("MESSAGE")
    });
}
