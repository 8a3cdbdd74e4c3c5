//! REGISTER, identities and authentication.

use restante::demo::{Draft, Failure, Profile, SESSION_TAG, SipText, Transport, UserAgent};

use crate::support::{Configuration, Stage, on_every_shard_count};

fn contacts(agent: &UserAgent) -> Result<Vec<String>, Failure> {
    let answer = agent.sends_register("")?.expect_status(200)?;
    Ok(answer.values("Contact"))
}

#[test]
fn a_phone_registers_refreshes_asks_and_unregisters() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        alice.registers()?;
        let known = contacts(&alice)?;
        stage.observe(known.len() == 1, "one contact is registered")?;
        stage.observe(
            known[0].contains(SESSION_TAG) && known[0].contains("+sip.instance="),
            "the feature tags are kept as they were written",
        )?;
        alice.unregisters()?;
        stage.observe(contacts(&alice)?.is_empty(), "no contact is left")
    });
}

#[test]
fn two_phones_of_one_user_register_and_a_star_takes_both_away() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let phone = stage.agent("alice")?;
        let tablet = stage.agent_with("alice", Transport::Tcp, Profile::Plain)?;
        phone.registers()?;
        tablet.registers()?;
        stage.observe(contacts(&phone)?.len() == 2, "two contacts are registered")?;
        let everything = Draft::new("REGISTER", "sip:im.test")
            .to_value("<sip:alice@im.test>")
            .header("Contact", "*")
            .header("Expires", "0");
        phone.sends(everything)?.expect_status(200)?;
        stage.observe(contacts(&phone)?.is_empty(), "no contact is left")
    });
}

#[test]
fn a_registration_that_is_too_short_is_answered_423() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let contact = format!("{};expires=5", alice.contact());
        let answer = alice.sends_register(&contact)?.expect_status(423)?;
        stage.observe(
            answer.header("Min-Expires") == Some("60"),
            "Min-Expires says what is enough",
        )
    });
}

#[test]
fn a_lab_offers_md5_alone_to_phones_that_stop_at_sha_256() {
    let configuration = Configuration::digest().with("registrar", "algorithms = [\"md5\"]");
    on_every_shard_count(&configuration, |stage| {
        let stranger = UserAgent::new(stage.settings("alice", Transport::Udp, Profile::Rcs)?)?;
        let challenge = stranger.sends_register("")?.expect_status(401)?;
        let offered: Vec<&str> = challenge.headers("WWW-Authenticate").collect();
        stage.observe(
            offered.len() == 1 && offered[0].contains("algorithm=MD5"),
            "the one challenge is for MD5",
        )?;
        stage.agent("alice")?.registers().map(|_| ())
    });
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_challenged_alike() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let refused = |user: &str| -> Result<SipText, Failure> {
            let mut settings = stage.settings(user, Transport::Udp, Profile::Rcs)?;
            settings.password = Some("wrong".to_owned());
            let agent = UserAgent::new(settings)?;
            agent.sends_register(&agent.contact())?.expect_status(401)
        };
        let (alice, nobody) = (refused("alice")?, refused("nobody")?);
        for answer in [&alice, &nobody] {
            let asked: Vec<&str> = answer.headers("WWW-Authenticate").collect();
            stage.observe(
                asked.len() == 2 && asked[0].contains("SHA-256") && asked[1].contains("MD5"),
                "both algorithms are offered, the better one first",
            )?;
        }
        Ok(())
    });
}

#[test]
fn nobody_sends_as_somebody_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        let forged = Draft::new("MESSAGE", "sip:carol@im.test")
            .from_value("<sip:bob@im.test>;tag=forged")
            .body("text/plain", b"hello");
        let answer = alice.sends(forged)?.expect_status(403)?;
        stage.observe(
            answer.header("Warning").is_some(),
            "the refusal says why, so that phones do not register again",
        )
    });
}

#[test]
fn a_message_without_credentials_is_challenged() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = UserAgent::new(stage.settings("alice", Transport::Udp, Profile::Rcs)?)?;
        alice.sends_message("bob", "hello")?.expect_status(407)?;
        Ok(())
    });
}

#[test]
fn options_tell_what_the_server_can_do() {
    on_every_shard_count(&Configuration::open(), |stage: &Stage| {
        for transport in [Transport::Udp, Transport::Tcp] {
            let alice = stage.agent_with("alice", transport, Profile::Rcs)?;
            let answer = alice.asks_options()?;
            let allow = answer.header_or_empty("Allow").to_owned();
            stage.observe(
                ["INVITE", "MESSAGE", "REGISTER", "OPTIONS"]
                    .iter()
                    .all(|method| allow.contains(method)),
                "Allow names the methods",
            )?;
        }
        Ok(())
    });
}
