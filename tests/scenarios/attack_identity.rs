//! Who somebody says he is, in every way there is to say it.

use restante::demo::{Draft, Envelope, Failure};

use crate::chat::Piecemeal;
use crate::support::{Attacker, Configuration, Stage, on_every_shard_count};

/// An assertion of another identity, written so that a filter may miss it.
const ASSERTIONS: [&str; 12] = [
    "P-Asserted-Identity: <sip:bob@im.test>\r\n",
    "P-Asserted-Identity : <sip:bob@im.test>\r\n",
    "P-Asserted-Identity\t:\t<sip:bob@im.test>\r\n",
    "P-Asserted-Identity  \t : <sip:bob@im.test>\r\n",
    "p-asserted-identity: <sip:bob@im.test>\r\n",
    "P-ASSERTED-IDENTITY:<sip:bob@im.test>\r\n",
    "P-Asserted-Identity:\r\n <sip:bob@im.test>\r\n",
    "P-Asserted-Identity :\r\n\t<sip:bob@im.test>\r\n",
    "P-Asserted-Identity: <sip:bob@im.test>, <tel:+4670000002>\r\n",
    "P-Asserted-Identity: <sip:bob@im.test>\r\nP-Asserted-Identity: <tel:+4670000002>\r\n",
    "P-Asserted-Identity: <sip:bob@im.test>\r\nX: y\r\np-asserted-identity : <sip:bob@im.test>\r\n",
    "P-Asserted-Identity: \"a\" <sip:bob@im.test>;x=\"\r\n y\"\r\n",
];

#[test]
fn nobody_but_the_server_asserts_an_identity() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let carol = stage.agent("carol")?;
        carol.registers()?;
        let alice = Attacker::at(stage, "127.0.0.2")?;
        for assertion in ASSERTIONS {
            let request = alice.request("MESSAGE", "sip:carol@im.test", "alice", assertion);
            let status = alice.asks(&request)?.status();
            if status >= 300 {
                stage.observe(status == 400, &format!("{assertion}: {status}"))?;
                continue;
            }
            let message = carol.expect_message()?;
            let values: Vec<_> = message.text().headers("P-Asserted-Identity").collect();
            let true_ones = values.iter().all(|value| value.contains("alice@im.test"));
            let text = message.text().text().to_ascii_lowercase();
            let fields = text
                .lines()
                .filter(|line| line.starts_with("p-asserted-identity"));
            stage.observe(
                true_ones && fields.count() == 1 && !text.contains("bob@im.test"),
                &format!("{assertion} became {text}"),
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_login_is_good_for_nobody_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let refused = |draft: Draft, what: &str| -> Result<(), Failure> {
            let status = alice
                .sends(draft)?
                .final_answer(restante::demo::PATIENCE)?
                .status();
            stage.observe(status == 403, &format!("{what}: {status}"))
        };
        let message = || Draft::new("MESSAGE", "sip:carol@im.test").body("text/plain", b"hello");
        for from in [
            "<sip:bob@im.test>;tag=1",
            "\"alice\" <sip:bob@im.test>;tag=1",
            "\"<sip:alice@im.test>\" <sip:bob@im.test>;tag=1",
            "<sip:b%6fb@im.test>;tag=1",
            "<sip:bob@IM.TEST>;tag=1",
            "<tel:+4670000002>;tag=1",
            "<sip:nobody@im.test>;tag=1",
            "<sip:alice@elsewhere.test>;tag=1",
        ] {
            refused(message().from_value(from), from)?;
        }
        let preferred = message().header("P-Preferred-Identity", "<sip:bob@im.test>");
        refused(preferred, "a preferred identity")?;
        let register = |contact: &str, expires: &str| {
            Draft::new("REGISTER", "sip:im.test")
                .to_value("<sip:bob@im.test>")
                .header("Contact", contact)
                .header("Expires", expires)
        };
        refused(register("*", "0"), "to take all bindings of another away")?;
        let own = bob.contact_uri();
        refused(register(&format!("<{own}>"), "0"), "to take one away")?;
        let mine = alice.contact_uri();
        refused(register(&format!("<{mine}>"), "3600"), "to add one")?;
        alice.sends_message("bob", "still there")?.expect_2xx()?;
        bob.expect_text("still there").map(drop)
    });
}

#[test]
fn what_needs_a_login_is_not_done_without_one() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let bob = stage.agent("bob")?;
        bob.registers()?;
        let mallory = Attacker::at(stage, "127.0.0.2")?;
        for method in [
            "MESSAGE",
            "INVITE",
            "SUBSCRIBE",
            "NOTIFY",
            "PUBLISH",
            "REFER",
            "INFO",
            "OPTIONS",
            "UPDATE",
            "BYE",
            "PRACK",
            "BANANA",
        ] {
            let request = mallory.request(method, "sip:bob@im.test", "alice", "");
            let status = mallory.asks(&request)?.status();
            let refused = matches!(status, 401 | 407 | 481 | 405);
            stage.observe(refused, &format!("{method}: {status}"))?;
            nothing_reaches(stage, &bob, method)?;
        }
        Ok(())
    });
}

fn nothing_reaches(
    stage: &Stage,
    bob: &restante::demo::UserAgent,
    method: &str,
) -> Result<(), Failure> {
    // Its answer comes behind whatever was sent to Bob before.
    bob.asks_options()?;
    let heard = bob.expect_request_within(method, std::time::Duration::ZERO);
    stage.observe(heard.is_err(), &format!("{method} reached Bob"))
}

#[test]
fn an_envelope_speaks_in_nobody_elses_name() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let named = |from: &str| Envelope {
            from: format!("<{from}>"),
            ..alice.envelope("bob", "hello")
        };
        for forged in [
            "sip:carol@im.test",
            "sip:ceo@elsewhere.test",
            "tel:+4670000002",
        ] {
            alice
                .sends_envelope("bob", &named(forged))?
                .expect_status(403)?;
        }
        for own in ["sip:alice@im.test", "sip:anonymous@anonymous.invalid"] {
            alice.sends_envelope("bob", &named(own))?.expect_2xx()?;
            bob.expect_text("hello")?;
        }
        let chat = alice.opens_chat("carol")?;
        let forged = named("sip:bob@im.test");
        chat.sends(&forged)?.expect_status(403)?;
        chat.says("mine")?;
        // What has been looked at stays as it is, though what comes later wins.
        let own = alice.envelope("carol", &"hello ".repeat(50)).to_octets();
        let text = String::from_utf8_lossy(&own);
        let forged = text.replacen("alice@im.test", "carol@im.test", 1);
        stage.observe(forged.as_bytes() != own, "it names its author")?;
        let message = Piecemeal::new(&chat, "message/cpim", &own);
        for _ in 0..2 {
            let begun = message.sends(0..own.len() - 10)?;
            chat.msrp.expect_response(&begun, 200)?;
        }
        let changed = message.instead(forged.as_bytes());
        let changed = changed.sends(0..own.len() - 10)?;
        chat.msrp.expect_response(&changed, 400)?;
        chat.says("mine as well").map(drop)
    });
    let any = Configuration::digest().with("registrar", "envelope_from = \"any\"");
    on_every_shard_count(&any, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let envelope = Envelope {
            from: "<sip:carol@im.test>".to_owned(),
            ..alice.envelope("bob", "hello")
        };
        alice.sends_envelope("bob", &envelope)?.expect_2xx()?;
        bob.expect_text("hello").map(drop)
    });
}
