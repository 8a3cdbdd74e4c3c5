//! The deferral table (cpm-facts §6) over the wire: what the author hears, and what comes later. The
//! rows themselves are unit tests beside the table, in `participating::deferral`.

use restante::demo::{Profile, Reaction, Setup, Transport};

use crate::support::{Configuration, on_every_shard_count};

#[test]
fn row_3_a_session_no_device_can_be_reached_for_is_taken_in_the_recipients_place() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let call = alice.invites("bob")?;
        bob.expect_invite()?.refuses(480);
        let chat = call.expect_accepted()?;
        chat.says("kept")?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("kept")?;
        Ok(())
    });
}

#[test]
fn rows_4_to_6_an_answer_about_the_person_or_the_target_is_relayed_to_the_caller() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        for status in [486, 603, 600, 484, 604] {
            let call = alice.invites("bob")?;
            bob.expect_invite()?.refuses(status);
            call.expect_status(status)?;
        }
        Ok(())
    });
}

#[test]
fn row_6_a_message_for_an_unknown_target_is_relayed_and_nothing_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(Reaction::Answer(484));
        alice.sends_message("bob", "hello")?.expect_status(484)?;
        bob.expect_text("hello")?;
        bob.reacts_to_messages(Reaction::Answer(200));
        bob.registers()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn row_7_a_message_every_device_refuses_waits_for_another_kind_of_device() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for status in [403, 415, 488] {
            let (alice, phone) = (stage.agent("alice")?, stage.agent("bob")?);
            phone.registers()?;
            phone.reacts_to_messages(Reaction::Answer(status));
            alice.sends_message("bob", "hello")?.expect_status(202)?;
            phone.expect_text("hello")?;
            phone.unregisters()?;
            let other = stage.agent_with("bob", Transport::Tcp, Profile::Plain)?;
            other.registers()?;
            other.expect_text("hello")?;
            other.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn row_7_a_session_every_device_refuses_is_taken_in_the_recipients_place() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let call = alice.invites("bob")?;
        bob.expect_invite()?.refuses(488);
        let chat = call.expect_accepted()?;
        chat.says("kept")?;
        chat.hangs_up()
    });
}

#[test]
fn a_device_that_is_gone_says_less_than_one_that_may_come_back() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (gone, away) = (stage.agent("bob")?, stage.agent("bob")?);
        for (device, status) in [(&gone, 404), (&away, 480)] {
            device.registers()?;
            device.reacts_to_messages(Reaction::Answer(status));
        }
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        Ok(())
    });
}
