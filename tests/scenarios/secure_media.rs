//! MSRP over TLS (RFC 4975 §14.4): certificates that the session descriptions vouch for.

use restante::demo::{Failure, MediaTls, Setup, UserAgent, attribute};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// A phone whose MSRP goes over TLS.
fn secure(stage: &Stage, user: &str) -> Result<UserAgent, Failure> {
    let agent = stage.agent(user)?;
    agent.secures_media(MediaTls::fresh()?);
    agent.registers()?;
    Ok(agent)
}

#[test]
fn a_chat_over_tls_is_answered_over_tls_and_offered_so_where_configured() {
    let offering = Configuration::open()
        .with_tls()
        .with("msrp", "offer = \"tls\"");
    on_every_shard_count(&offering, |stage| {
        let (alice, bob) = (secure(stage, "alice")?, secure(stage, "bob")?);
        for setup in [Setup::Active, Setup::Passive] {
            std::thread::scope(|scope| {
                let call = scope.spawn(|| alice.opens_chat("bob"));
                let invite = bob.expect_invite()?;
                let offer = invite.offer();
                stage.observe(offer.contains(" TCP/TLS/MSRP *"), "TLS is offered")?;
                stage.observe(
                    attribute(&offer, "fingerprint").is_some_and(|it| it.starts_with("SHA-256 ")),
                    "with the fingerprint of the certificate",
                )?;
                let at_bob = invite.answers(setup, "sendrecv")?;
                let at_alice = call.join().expect("the agent does not panic")?;
                stage.observe(
                    attribute(&at_alice.sdp, "path").is_some_and(|it| it.starts_with("msrps:")),
                    "and answered",
                )?;
                let long = "long and secret ".repeat(20_000);
                at_alice.says(&long)?;
                at_bob.expect_text(&long)?;
                at_bob.says("short")?;
                at_alice.expect_text("short")?;
                at_alice.hangs_up()?;
                at_bob.expect_bye().map(|_| ())
            })?;
        }
        Ok(())
    });
}

#[test]
fn who_offers_tls_gets_it_and_who_offers_tcp_gets_that() {
    on_every_shard_count(&Configuration::open().with_tls(), |stage| {
        let alice = secure(stage, "alice")?;
        let plain = stage.agent("carol")?;
        for caller in [&alice, &plain] {
            let chat = caller.opens_chat("bob")?;
            chat.says("for later")?;
            chat.hangs_up()?;
        }
        let bob = stage.agent("bob")?;
        bob.registers()?;
        for _ in 0..2 {
            let invite = bob.expect_invite()?;
            stage.observe(
                invite.offer().contains(" TCP/MSRP *"),
                "replays are offered as the configuration says",
            )?;
            let replay = invite.answers_recvonly(Setup::Active)?;
            replay.expect_text("for later")?;
            replay.expect_bye()?;
        }
        Ok(())
    });
}

#[test]
fn a_replay_over_tls_goes_to_nobody_but_the_phone_that_answered() {
    let offering = Configuration::open()
        .with_tls()
        .with("msrp", "offer = \"tls\"")
        .with("msrp", "binding_timeout = \"1s\"")
        .with("deferral", "retry = [\"300ms\"]");
    on_every_shard_count(&offering, |stage| {
        let alice = secure(stage, "alice")?;
        let chat = alice.opens_chat("bob")?;
        let sent = chat.says("for bob alone")?;
        chat.hangs_up()?;
        let bob = stage.agent("bob")?;
        for setup in [Setup::Active, Setup::Passive] {
            bob.secures_media(MediaTls::impostor()?);
            bob.registers()?;
            let invite = bob.expect_invite()?;
            let stopped = invite.answers_recvonly(setup);
            stage.observe(stopped.is_err(), "another certificate than told is refused")?;
            bob.unregisters()?;
        }
        bob.secures_media(MediaTls::fresh()?);
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Passive)?;
        let message = replay.msrp.expect_message()?;
        stage.observe(message.body == sent.to_octets(), "the message was kept")?;
        replay.expect_bye().map(|_| ())
    });
}

#[test]
fn an_offer_of_tls_to_a_server_without_is_refused() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = secure(stage, "alice")?;
        let refusal = alice.invites("bob")?.expect_status(488)?;
        stage.observe(
            refusal.header_or_empty("Warning").starts_with("302 "),
            "the transport is what is wrong",
        )
    });
}
