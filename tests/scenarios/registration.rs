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
            offered.iter().any(|value| value.contains("algorithm=MD5"))
                && !offered.iter().any(|value| value.contains("SHA-256")),
            "only MD5 is offered",
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

#[test]
fn a_late_register_of_the_same_call_changes_nothing() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let register = |cseq, expires: &str| {
            Draft::new("REGISTER", "sip:im.test")
                .to_value("<sip:alice@im.test>")
                .call_id("registration-of-alice")
                .cseq(cseq)
                .header("Contact", &format!("{};expires={expires}", alice.contact()))
        };
        alice.sends(register(10, "3600"))?.expect_status(200)?;
        let late = alice.sends(register(9, "0"))?;
        late.expect_status(500)?;
        stage.observe(contacts(&alice)?.len() == 1, "the contact is still there")
    });
}

#[test]
fn more_contacts_than_allowed_are_refused() {
    let configuration = Configuration::open().with("registrar", "max_contacts = 2");
    on_every_shard_count(&configuration, |stage| {
        let phones: Vec<_> = (0..3)
            .map(|_| stage.agent_with("alice", Transport::Udp, Profile::Plain))
            .collect::<Result<_, _>>()?;
        phones[0].registers()?;
        phones[1].registers()?;
        let mut third = phones[2].sends_register(&phones[2].contact())?;
        let answer = third.final_answer(std::time::Duration::from_secs(10))?;
        stage.observe(answer.status() >= 400, "the third is refused")?;
        stage.observe(contacts(&phones[0])?.len() == 2, "the first two stay")
    });
}

#[test]
fn a_path_is_kept_told_and_visited() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let paths = ["<sip:edge1.test;lr>", "<sip:edge2.test;lr>"];
        let register = Draft::new("REGISTER", "sip:im.test")
            .to_value("<sip:bob@im.test>")
            .header("Contact", &bob.contact())
            .header("Supported", "path")
            .header("Path", paths[0])
            .header("Path", paths[1]);
        let answer = bob.sends(register)?.expect_status(200)?;
        stage.observe(answer.values("Path") == paths, "the path is told")?;
        alice.sends_message("bob", "hello")?.expect_status(200)?;
        let request = bob.expect_message()?;
        stage.observe(
            request.text().values("Route") == paths,
            "the request visits the path in order",
        )
    });
}

#[test]
fn a_third_party_registers_nobody_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = Draft::new("REGISTER", "sip:im.test")
            .to_value("<sip:bob@im.test>")
            .header("Contact", &alice.contact());
        let answer = alice.sends(draft)?.expect_status(403)?;
        stage.observe(
            answer.header_or_empty("Warning").contains("127 "),
            "the refusal says why",
        )
    });
}

#[test]
fn an_identity_is_asserted_by_us_and_by_nobody_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let claiming = |header: &str, value: &str| {
            Draft::new("MESSAGE", "sip:bob@im.test")
                .header(header, value)
                .body("text/plain", b"hello")
        };
        let forged = claiming("P-Asserted-Identity", "<sip:carol@im.test>");
        alice.sends(forged)?.expect_status(200)?;
        let asserted = bob.expect_message()?.text().values("P-Asserted-Identity");
        stage.observe(asserted == ["<sip:alice@im.test>"], "it is Alice who wrote")?;
        let preferred = claiming("P-Preferred-Identity", "<sip:carol@im.test>");
        alice.sends(preferred)?.expect_status(403)?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn credentials_used_twice_are_challenged_again() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let proven = alice.sends(Draft::new("OPTIONS", "sip:im.test"))?;
        let mut proven = proven;
        let answer = proven.final_answer(std::time::Duration::from_secs(10))?;
        stage.observe(answer.status() == 200, "the credentials are good")?;
        let stranger = UserAgent::new(stage.settings("alice", Transport::Udp, Profile::Rcs)?)?;
        let name = "Authorization";
        let replayed = Draft::new("OPTIONS", "sip:im.test")
            .header(name, proven.request().header_or_empty(name));
        stranger.sends(replayed)?.expect_status(401)?;
        Ok(())
    });
}

#[test]
fn a_nonce_from_before_a_restart_is_stale_and_not_forged() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let mut proven = alice.sends(Draft::new("OPTIONS", "sip:im.test"))?;
        let answer = proven.final_answer(std::time::Duration::from_secs(10))?;
        stage.observe(answer.status() == 200, "the credentials are good")?;
        stage.kill9()?;
        stage.restart()?;
        let name = "Authorization";
        let stranger = UserAgent::new(stage.settings("alice", Transport::Udp, Profile::Rcs)?)?;
        let again = Draft::new("OPTIONS", "sip:im.test")
            .header(name, proven.request().header_or_empty(name));
        let answer = stranger.sends(again)?.expect_status(401)?;
        let challenge = answer.header_or_empty("WWW-Authenticate").to_owned();
        stage.observe(challenge.contains("stale=true"), "the nonce is stale")
    });
}

#[test]
fn a_gruu_means_one_device_of_its_user() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        phone.registers()?;
        let register = Draft::new("REGISTER", "sip:im.test")
            .to_value("<sip:bob@im.test>")
            .header("Supported", "gruu")
            .header("Contact", &tablet.contact());
        let answer = tablet.sends(register)?.expect_status(200)?;
        let contacts = answer.values("Contact");
        let port = format!(":{}>", tablet.address().port());
        let own = contacts.iter().find(|contact| contact.contains(&port));
        let gruu = own.and_then(|contact| contact.split("pub-gruu=\"").nth(1)?.split('"').next());
        let gruu = gruu.ok_or_else(|| stage.failure("the tablet is given a GRUU"))?;
        alice
            .sends_message(gruu, "for the tablet")?
            .expect_status(200)?;
        tablet.expect_text("for the tablet")?;
        phone.expect_no("MESSAGE")
    });
}

#[test]
fn a_contact_that_is_the_server_itself_is_refused() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let bob = stage.agent("bob")?;
        let server = stage.server().sip_address(Transport::Udp)?;
        let contact = format!("<sip:bob@{server}>");
        let answer = bob.sends_register(&contact)?.expect_status(403)?;
        stage.observe(
            answer.header_or_empty("Warning").contains("122"),
            "a Warning says what is wrong",
        )?;
        stage.observe(contacts(&bob)?.is_empty(), "nothing is registered")
    });
}
