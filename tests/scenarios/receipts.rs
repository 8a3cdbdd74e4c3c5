//! Disposition notifications (RFC 5438): to the author, kept if the author is away, never of
//! themselves.

use restante::demo::{Disposition, Draft, PAGER_TAG, Reaction, fresh};

use crate::support::{Configuration, on_every_shard_count};

#[test]
fn a_receipt_reaches_an_author_who_is_there() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let asked = alice.envelope("bob", "hello").asking("display");
        alice.sends_envelope("bob", &asked)?.expect_status(200)?;
        let got = bob.expect_text("hello")?;
        bob.notifies(&got, Disposition::Displayed)?;
        alice.expect_notification("displayed", &asked.message_id)?;
        Ok(())
    });
}

#[test]
fn a_receipt_for_an_author_who_is_away_is_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let asked = alice.envelope("bob", "hello").asking("positive-delivery");
        alice.sends_envelope("bob", &asked)?.expect_status(200)?;
        let got = bob.expect_text("hello")?;
        bob.notifies(&got, Disposition::Delivered)?;
        stage.kill9()?;
        stage.restart()?;
        alice.registers()?;
        alice.expect_notification("delivered", &asked.message_id)?;
        alice.registers()?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn who_asks_is_told_once_that_a_message_is_stored() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = alice.envelope("bob", "hello").asking("processing");
        alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        alice.expect_notification("stored", &asked.message_id)?;
        bob.registers()?;
        bob.expect_text("hello")?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn who_asks_is_told_that_a_message_expired() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = alice.envelope("bob", "hello").asking("negative-delivery");
        let draft = Draft::new("MESSAGE", "sip:bob@im.test")
            .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
            .header("Conversation-ID", &fresh("conv-"))
            .header("Contribution-ID", &fresh("contr-"))
            .header("Expires", "2")
            .body("message/cpim", &asked.to_octets());
        alice.sends(draft)?.expect_status(202)?;
        alice.expect_notification("failed", &asked.message_id)?;
        bob.registers()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn what_has_just_expired_is_not_delivered_before_it_is_cleared_away() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        // The queue is looked through once a second; of some moments most are before such a look.
        for _ in 0..4 {
            let asked = alice.envelope("bob", "hello").asking("negative-delivery");
            let draft = Draft::new("MESSAGE", "sip:bob@im.test")
                .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
                .header("Conversation-ID", &fresh("conv-"))
                .header("Contribution-ID", &fresh("contr-"))
                .header("Expires", "1")
                .body("message/cpim", &asked.to_octets());
            alice.sends(draft)?.expect_status(202)?;
            // Time itself is what is tested.
            std::thread::sleep(std::time::Duration::from_millis(1_010));
            bob.registers()?;
            bob.expect_no("MESSAGE")?;
            bob.unregisters()?;
            alice.registers()?;
            alice.expect_notification("failed", &asked.message_id)?;
            alice.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn a_receipt_begets_no_receipt() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let asked = alice.envelope("bob", "hello").asking("positive-delivery");
        alice.sends_envelope("bob", &asked)?.expect_status(200)?;
        let got = bob.expect_text("hello")?;
        let receipt = got
            .notification(Disposition::Delivered)
            .asking("processing, positive-delivery, negative-delivery, display");
        bob.sends_envelope("alice", &receipt)?.expect_2xx()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn two_devices_report_a_delivery_and_the_author_hears_of_it_once() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        for agent in [&alice, &phone, &tablet] {
            agent.registers()?;
        }
        let asked = alice
            .envelope("bob", "hello")
            .asking("positive-delivery, display");
        alice.sends_envelope("bob", &asked)?.expect_2xx()?;
        let got = [phone.expect_text("hello")?, tablet.expect_text("hello")?];
        for disposition in [Disposition::Delivered, Disposition::Displayed] {
            phone.notifies(&got[0], disposition)?;
            tablet.notifies(&got[1], disposition)?;
        }
        alice.expect_notification("delivered", &asked.message_id)?;
        alice.expect_notification("displayed", &asked.message_id)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn a_second_receipt_waits_for_what_becomes_of_the_first_one() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        for agent in [&alice, &phone, &tablet] {
            agent.registers()?;
        }
        let asked = alice
            .envelope("bob", "hello")
            .asking("positive-delivery, display");
        alice.sends_envelope("bob", &asked)?.expect_2xx()?;
        alice.reacts_to_messages(Reaction::StaySilent);
        let first = phone.sends_envelope("alice", &asked.notification(Disposition::Delivered))?;
        let at_alice = alice.expect_message()?;
        let second = tablet.sends_envelope("alice", &asked.notification(Disposition::Delivered))?;
        tablet.asks_options()?;
        at_alice.answers(200);
        first.expect_status(200)?;
        second.expect_status(202)?;
        // What she refused of one device she may be told by the other.
        let first = phone.sends_envelope("alice", &asked.notification(Disposition::Displayed))?;
        let at_alice = alice.expect_message()?;
        let second = tablet.sends_envelope("alice", &asked.notification(Disposition::Displayed))?;
        tablet.asks_options()?;
        at_alice.answers(603);
        first.expect_status(603)?;
        alice.expect_message()?.answers(200);
        second.expect_status(200)?;
        Ok(())
    });
}
