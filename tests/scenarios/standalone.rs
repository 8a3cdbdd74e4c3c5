//! Kept standalone messages on their way out: by MESSAGE or in a session of their own, by size and by
//! what the device takes; one pending MESSAGE at a time.

use restante::demo::{
    Draft, Failure, Profile, Reaction, Setup, Transport, UserAgent, services_tag,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// An author over TCP, so that a MESSAGE of any length leaves him whole.
fn author(stage: &Stage, name: &str) -> Result<UserAgent, Failure> {
    stage.agent_with(name, Transport::Tcp, Profile::Rcs)
}

fn in_kind(author: &UserAgent, text: &str, large: bool) -> Result<(), Failure> {
    if !large {
        return author
            .sends_message("bob", text)?
            .expect_status(202)
            .map(drop);
    }
    let session = author.sends_large("bob")?.expect_accepted()?;
    session.says(text)?;
    session.hangs_up()
}

#[test]
fn a_small_pager_message_leaves_as_message_with_the_deferred_service_and_its_end() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (author(stage, "alice")?, stage.agent("bob")?);
        let draft = Draft::new("MESSAGE", "sip:bob@im.test")
            .header("Expires", "86400")
            .body("message/cpim", &alice.envelope("bob", "hello").to_octets());
        alice.sends(draft)?.expect_status(202)?;
        bob.registers_stating(&["msg", "largemsg", "deferred"])?;
        let message = bob.expect_message()?;
        let text = message.text();
        let asserted = text.header_or_empty("P-Asserted-Service");
        let wanted = text.header_or_empty("Accept-Contact");
        stage.observe(
            asserted == "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.deferred"
                && wanted.contains(&services_tag(&["deferred"])),
            "it is marked as deferred",
        )?;
        stage.observe(
            text.header("Expires") == Some("86400") && text.header("Date").is_some(),
            "Expires counts from the Date of its custody",
        )
    });
}

#[test]
fn a_pager_message_over_the_switch_over_size_leaves_in_a_session_of_its_own() {
    let small = Configuration::open().with("deferral", "switchover_size = 400");
    on_every_shard_count(&small, |stage| {
        let alice = author(stage, "alice")?;
        let long = "over the size ".repeat(40);
        for (states, service) in [
            (&["msg", "largemsg", "deferred"][..], "deferred"),
            (&["msg", "largemsg"][..], "largemsg"),
        ] {
            for transport in [Transport::Udp, Transport::Tcp] {
                let bob = stage.agent_with("bob", transport, Profile::Rcs)?;
                for text in [&long, "short", &long] {
                    alice.sends_message("bob", text)?.expect_status(202)?;
                }
                bob.registers_stating(states)?;
                for text in [&long, "short", &long] {
                    if text == "short" {
                        bob.expect_text(text)?;
                        continue;
                    }
                    let call = bob.expect_invite()?;
                    let invite = call.text();
                    let tag = services_tag(&[service]);
                    let asserted = invite.header_or_empty("P-Asserted-Service");
                    stage.observe(
                        asserted.ends_with(&format!("oma.cpm.{service}"))
                            && invite.header_or_empty("Accept-Contact").contains(&tag)
                            && invite.header_or_empty("Contact").contains(&tag),
                        "the INVITE names the service the device states",
                    )?;
                    let session = call.answers_recvonly(Setup::Active)?;
                    session.expect_text(text)?;
                    session.expect_bye()?;
                }
                bob.unregisters()?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_large_message_leaves_as_message_to_a_phone_without_msrp_if_it_fits() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = author(stage, "alice")?;
        let bob = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        in_kind(&alice, "fits", true)?;
        bob.registers()?;
        bob.expect_text("fits")?;
        bob.unregisters()?;
        let long = "does not fit ".repeat(200);
        in_kind(&alice, &long, true)?;
        bob.registers()?;
        bob.expect_no("MESSAGE")?;
        let able = stage.agent("bob")?;
        able.registers_stating(&["largemsg"])?;
        let session = able.expect_invite()?.answers_recvonly(Setup::Passive)?;
        session.expect_text(&long)?;
        session.expect_bye()?;
        Ok(())
    });
}

#[test]
fn small_and_large_ones_of_one_conversation_leave_in_their_order() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (author(stage, "alice")?, stage.agent("bob")?);
        let kinds = [("1", false), ("2", true), ("3", true), ("4", false)];
        for (text, large) in kinds {
            in_kind(&alice, text, large)?;
        }
        bob.registers_stating(&["msg", "largemsg", "deferred"])?;
        for (text, large) in kinds {
            if large {
                let session = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
                session.expect_text(text)?;
                session.expect_bye()?;
            } else {
                bob.expect_text(text)?;
            }
        }
        Ok(())
    });
}

#[test]
fn of_all_conversations_one_message_is_pending_at_a_time_and_the_oldest_goes_first() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, carol) = (author(stage, "alice")?, author(stage, "carol")?);
        let bob = stage.agent("bob")?;
        let all = ["1", "2", "3", "4"];
        for (number, text) in all.iter().enumerate() {
            let from = if number % 2 == 0 { &alice } else { &carol };
            from.sends_message("bob", text)?.expect_status(202)?;
        }
        bob.reacts_to_messages(Reaction::StaySilent);
        bob.registers()?;
        for text in all {
            let message = bob.expect_message()?;
            stage.observe(
                message.envelope()?.content_text() == text,
                "the oldest of all conversations is next",
            )?;
            bob.expect_no("MESSAGE")?;
            message.answers(200);
        }
        Ok(())
    });
}
