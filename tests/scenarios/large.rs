//! Large-message mode: one message in an MSRP session of its own, to devices and to who is away.

use restante::demo::{Answering, Setup, attribute, services_tag};

use crate::support::{Configuration, on_every_shard_count};

#[test]
fn a_large_message_for_someone_away_is_taken_confirmed_and_kept() {
    let text = "a long story ".repeat(30_000);
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let session = alice.sends_large("bob")?.expect_accepted()?;
        stage.observe(
            attribute(&session.sdp, "recvonly").is_some(),
            "the server only receives",
        )?;
        let envelope = alice.envelope("bob", &text);
        session.sends(&envelope)?.expect_status(200)?;
        session.hangs_up()?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers_stating(&["largemsg"])?;
        let call = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        let message = call.msrp.expect_message()?;
        stage.observe(message.body == envelope.to_octets(), "it is kept whole")?;
        call.expect_bye()?;
        Ok(())
    });
}

#[test]
fn a_device_that_states_large_messages_gets_the_invite_and_the_message() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers_stating(&["msg", "largemsg"])?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.sends_large("bob")?.expect_accepted());
            let ringing = bob.expect_invite()?;
            let (invite, large) = (ringing.text(), services_tag(&["largemsg"]));
            let asserted = invite.header_or_empty("P-Asserted-Service");
            stage.observe(
                asserted.ends_with("oma.cpm.largemsg")
                    && invite.header_or_empty("Contact").contains(&large)
                    && invite.header_or_empty("Accept-Contact").contains(&large),
                "the INVITE names the service",
            )?;
            let offer = ringing.offer();
            stage.observe(attribute(&offer, "sendonly").is_some(), "it only sends")?;
            let at_bob = ringing.answers_recvonly(Setup::Passive)?;
            let at_alice = call.join().expect("the agent does not panic")?;
            let envelope = alice.envelope("bob", &"large ".repeat(5_000));
            at_alice.sends(&envelope)?.expect_status(200)?;
            let message = at_bob.msrp.expect_message()?;
            stage.observe(message.body == envelope.to_octets(), "it arrives whole")?;
            at_alice.hangs_up()?;
            at_bob.expect_bye()?;
            bob.registers_stating(&["msg", "largemsg"])?;
            bob.expect_no("INVITE")
        })
    });
}

#[test]
fn of_several_devices_the_first_that_accepts_takes_it_and_the_others_are_cancelled() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        let pager = stage.agent("bob")?;
        phone.registers_stating(&["session", "largemsg"])?;
        tablet.registers()?;
        pager.registers_stating(&["msg"])?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.sends_large("bob")?.expect_accepted());
            let at_phone = phone.expect_invite()?;
            at_phone.rings();
            let at_tablet = tablet.expect_invite()?.answers_recvonly(Setup::Active)?;
            at_phone.expect_cancel()?;
            at_phone.refuses(487);
            let at_alice = call.join().expect("the agent does not panic")?;
            let envelope = alice.envelope("bob", "for one of them");
            at_alice.sends(&envelope)?.expect_status(200)?;
            at_tablet.expect_text("for one of them")?;
            pager.expect_no("INVITE")?;
            at_alice.hangs_up()
        })
    });
}

#[test]
fn rows_3_4_and_7_a_large_message_no_device_takes_is_taken_in_the_recipients_place() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for status in [480, 486, 503, 488] {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            bob.registers_stating(&["largemsg"])?;
            let call = alice.sends_large("bob")?;
            bob.expect_invite()?.refuses(status);
            let session = call.expect_accepted()?;
            let envelope = alice.envelope("bob", "kept");
            session.sends(&envelope)?.expect_status(200)?;
            session.hangs_up()?;
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            replay.expect_text("kept")?;
            replay.expect_bye()?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn row_5_who_declines_a_large_message_is_believed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers_stating(&["largemsg"])?;
        let call = alice.sends_large("bob")?;
        bob.expect_invite()?.refuses(603);
        call.expect_status(603)?;
        Ok(())
    });
}

#[test]
fn row_12_a_device_lost_in_the_middle_leaves_the_rest_to_the_server() {
    let text = "a long story ".repeat(10_000);
    on_every_shard_count(&Configuration::open(), |stage| {
        for hangs_up in [false, true] {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            bob.registers_stating(&["largemsg"])?;
            std::thread::scope(|scope| {
                let call = scope.spawn(|| alice.sends_large("bob")?.expect_accepted());
                let ringing = bob.expect_invite()?.taking(Answering::Only(0));
                let at_bob = ringing.answers_recvonly(Setup::Active)?;
                let at_alice = call.join().expect("the agent does not panic")?;
                let envelope = alice.envelope("bob", &text);
                let sent = at_alice.sends(&envelope)?;
                at_bob.msrp.expect_message()?;
                if hangs_up {
                    at_bob.hangs_up()?;
                } else {
                    at_bob.msrp.drops_connection();
                }
                sent.expect_status(200)?;
                at_alice.hangs_up()?;
                let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
                let message = replay.msrp.expect_message()?;
                stage.observe(message.body == envelope.to_octets(), "it comes whole")?;
                replay.expect_bye()?;
                bob.unregisters()?;
                Ok::<_, restante::demo::Failure>(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn row_13_what_the_device_refuses_is_refused_to_the_author_and_not_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers_stating(&["largemsg"])?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.sends_large("bob")?.expect_accepted());
            let ringing = bob.expect_invite()?.taking(Answering::Status(413));
            let _at_bob = ringing.answers_recvonly(Setup::Active)?;
            let at_alice = call.join().expect("the agent does not panic")?;
            let envelope = alice.envelope("bob", "too much");
            at_alice.sends(&envelope)?.expect_status(413)?;
            at_alice.hangs_up()?;
            bob.registers_stating(&["largemsg"])?;
            bob.expect_no("INVITE")
        })
    });
}

#[test]
fn a_session_used_for_more_than_one_message_is_tolerated() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let session = alice.sends_large("bob")?.expect_accepted()?;
        session.says("one")?;
        session.says("two")?;
        session.hangs_up()?;
        bob.registers_stating(&["largemsg"])?;
        for text in ["one", "two"] {
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            replay.expect_text(text)?;
            replay.expect_bye()?;
        }
        Ok(())
    });
}
