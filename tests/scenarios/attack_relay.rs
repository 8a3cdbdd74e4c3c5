//! Attempts to make the server send to somebody who has not asked for it, or to itself for ever.

use std::time::Duration;

use restante::demo::{Draft, Failure, PATIENCE, Profile, Transport};

use crate::support::{Attacker, Configuration, Stage, on_every_shard_count};

const VICTIM: &str = "127.0.0.77";

fn spared(stage: &Stage, victim: &Attacker, what: &str) -> Result<(), Failure> {
    // Whatever was going to be sent has been sent before this is answered.
    stage.agent("carol")?.asks_options()?;
    let heard = victim.hears(Duration::from_millis(50))?;
    let heard = heard.map(|octets| String::from_utf8_lossy(&octets).into_owned());
    stage.observe(
        heard.is_none(),
        &format!("{what}: the victim got {heard:?}"),
    )
}

#[test]
fn a_contact_or_a_path_sends_messages_to_nobody_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let victim = Attacker::at(stage, VICTIM)?;
        let there = victim.address();
        let bob = stage.agent("bob")?;
        for (contact, path) in [
            (format!("<sip:alice@{there}>"), None),
            (format!("<sip:alice@{there};transport=udp>"), None),
            (format!("<sip:alice@{there};transport=tcp>"), None),
            (format!("<sip:alice@127.0.0.1:9;maddr={VICTIM}>"), None),
            (
                format!("<sip:alice@127.0.0.1:9?Route=%3Csip:{there}%3E>"),
                None,
            ),
            (
                "<sip:alice@127.0.0.1:9>".to_owned(),
                Some(format!("<sip:{there};lr>")),
            ),
        ] {
            let alice = stage.agent_with("alice", Transport::Udp, Profile::Plain)?;
            let mut draft = Draft::new("REGISTER", "sip:im.test")
                .to_value("<sip:alice@im.test>")
                .header("Contact", &contact)
                .header("Expires", "60")
                .header("Supported", "path");
            if let Some(path) = &path {
                draft = draft.header("Path", path);
            }
            let answer = alice.sends(draft)?.final_answer(PATIENCE)?.status();
            if answer == 200 {
                let message =
                    Draft::new("MESSAGE", "sip:alice@im.test").body("text/plain", b"hello");
                let _ = bob.sends(message)?.final_answer(PATIENCE)?;
                let everything = Draft::new("REGISTER", "sip:im.test")
                    .to_value("<sip:alice@im.test>")
                    .header("Contact", "*")
                    .header("Expires", "0");
                alice.sends(everything)?.expect_status(200)?;
            }
            spared(stage, &victim, &format!("{contact} {path:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_route_or_a_uri_sends_requests_to_nobody_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let victim = Attacker::at(stage, VICTIM)?;
        let there = victim.address();
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        for method in ["MESSAGE", "OPTIONS", "INFO", "BYE", "SUBSCRIBE"] {
            for (uri, route) in [
                (
                    "sip:bob@im.test".to_owned(),
                    Some(format!("<sip:{there};lr>")),
                ),
                ("sip:bob@im.test".to_owned(), Some(format!("<sip:{there}>"))),
                (
                    "sip:bob@im.test".to_owned(),
                    Some(format!("<sip:im.test;lr>, <sip:{there};lr>")),
                ),
                (format!("sip:bob@{there}"), None),
                (format!("sip:{there}"), None),
                (format!("sip:bob@im.test;maddr={VICTIM}"), None),
                (
                    format!("sip:bob@im.test?Route=%3Csip:{there}%3Blr%3E"),
                    None,
                ),
            ] {
                let mut draft = Draft::new(method, &uri).header("Event", "x");
                if let Some(route) = &route {
                    draft = draft.header("Route", route);
                }
                let mut sent = alice.sends(draft)?;
                if uri == "sip:bob@im.test" || uri.contains("maddr") {
                    // It may have gone to Bob's phone, which answers some of these and some not.
                    let _ = sent.final_answer(Duration::from_millis(200));
                } else {
                    sent.final_answer(PATIENCE)?;
                }
                spared(stage, &victim, &format!("{method} {uri} {route:?}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_contact_that_names_the_server_makes_no_loop() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let server = stage.server().sip_address(Transport::Udp)?;
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        // Both name the server itself; Alice even so that it is Bob's turn next, and the other way round.
        for (agent, other) in [(&alice, "bob"), (&bob, "alice")] {
            for name in ["alice", other] {
                agent
                    .sends_register(&format!("<sip:{name}@{server}>"))?
                    .expect_status(403)?;
            }
        }
        let carol = stage.agent("carol")?;
        for _ in 0..3 {
            let answer = carol
                .sends_message("alice", "round and round")?
                .final_answer(PATIENCE)?;
            stage.observe(answer.status() >= 200, "it is answered")?;
            let options = Draft::new("OPTIONS", "sip:alice@im.test").header("Max-Breadth", "60");
            let answer = carol.sends(options)?.final_answer(PATIENCE)?;
            stage.observe(answer.status() >= 400, "a loop is no way to anybody")?;
        }
        let received = super::attack_flood::metric(stage, "restante_udp_datagrams_received_total")?;
        stage.observe(received < 2_000, &format!("{received} datagrams"))
    });
}

/// Bob's device is another server, which keeps for this one what this one keeps for it.
#[test]
fn what_servers_keep_for_each_other_in_a_circle_comes_to_an_end() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let message = |hops: u8| {
            let draft = Draft::new("MESSAGE", "sip:bob@im.test").max_forwards(hops);
            draft.body("text/plain", b"round and round")
        };
        for hops in [3, 2, 1] {
            alice.sends(message(hops))?.expect_status(202)?;
            bob.registers()?;
            let left = bob.expect_message()?;
            let left = left.text().header_or_empty("Max-Forwards").to_owned();
            stage.observe(left == (hops - 1).to_string(), "one hop less")?;
            bob.unregisters()?;
        }
        alice.sends(message(0))?.expect_status(483)?;
        Ok(())
    });
}
