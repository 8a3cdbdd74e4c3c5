//! Everything over the loopback address of IPv6.

use restante::demo::{Profile, Setup, Transport};

use crate::support::{Configuration, on_every_shard_count};

#[test]
fn registration_messages_and_custody_work_over_ipv6() {
    on_every_shard_count(&Configuration::digest().on_ipv6(), |stage| {
        for transport in [Transport::Udp, Transport::Tcp] {
            let alice = stage.agent_with("alice", transport, Profile::Rcs)?;
            let bob = stage.agent_with("bob", transport, Profile::Rcs)?;
            stage.observe(alice.address().is_ipv6(), "the agents speak IPv6")?;
            alice.sends_message("bob", "kept")?.expect_status(202)?;
            bob.registers()?;
            bob.expect_text("kept")?;
            // If Bob's answer to the kept one is still on its way, this one waits behind it.
            alice.sends_message("bob", "live")?.expect_2xx()?;
            bob.expect_text("live")?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn a_chat_and_its_replay_work_over_ipv6() {
    on_every_shard_count(&Configuration::open().on_ipv6(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let away = alice.opens_chat("bob")?;
        away.says("kept")?;
        away.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("kept")?;
        replay.expect_bye()?;
        let call = alice.invites("bob")?;
        let answering = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        let calling = call.expect_accepted()?;
        calling.says("hello")?;
        answering.expect_text("hello")?;
        answering.says("and back")?;
        calling.expect_text("and back")?;
        calling.hangs_up()?;
        answering.expect_bye()?;
        Ok(())
    });
}
