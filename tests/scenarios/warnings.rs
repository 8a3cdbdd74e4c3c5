//! The answers to bad input, row by row of the table (cpm-facts §11), with what clients look for in them.

use restante::demo::{Draft, Envelope, Failure, SipText, UserAgent, fresh};

use crate::support::{Configuration, Stage, on_every_shard_count};

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n";

fn has(stage: &Stage, answer: &SipText, name: &str, part: &str) -> Result<(), Failure> {
    let seen = answer
        .header(name)
        .is_some_and(|value| value.contains(part));
    stage.observe(seen, &format!("{name} says {part}"))
}

fn message(agent: &UserAgent, content_type: &str, body: &[u8]) -> Draft {
    let draft = Draft::new("MESSAGE", &agent.uri_of("bob"));
    draft.body(content_type, body)
}

#[test]
fn who_may_not_do_it_hears_403_with_a_warning() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let as_carol = message(&alice, "text/plain", b"x").from_value("<sip:carol@im.test>;tag=1");
        let refused = alice.sends(as_carol)?.expect_status(403)?;
        has(
            stage,
            &refused,
            "Warning",
            "399 im.test \"127 Service not authorised\"",
        )?;
        let register = Draft::new("REGISTER", "sip:im.test")
            .to_value("<sip:bob@im.test>")
            .header("Contact", &alice.contact());
        let refused = alice.sends(register)?.expect_status(403)?;
        has(
            stage,
            &refused,
            "Warning",
            "399 im.test \"127 Service not authorised\"",
        )
    });
}

#[test]
fn a_message_too_large_is_answered_413_with_a_warning() {
    let small = Configuration::digest().with("sip", "max_message_size = \"2KiB\"");
    on_every_shard_count(&small, |stage| {
        let alice = stage.agent("alice")?;
        let body = vec![b'x'; 2_500];
        let refused = alice
            .sends(message(&alice, "text/plain", &body))?
            .expect_status(413)?;
        has(
            stage,
            &refused,
            "Warning",
            "399 im.test \"133 Size exceeded\"",
        )
    });
}

#[test]
fn who_hides_where_that_is_not_wanted_hears_433_with_a_warning() {
    let configuration = Configuration::digest().with("users", "anonymous = \"block\"");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let hidden = message(&alice, "text/plain", b"x").header("Privacy", "id");
        let refused = alice.sends(hidden)?.expect_status(433)?;
        has(
            stage,
            &refused,
            "Warning",
            "399 im.test \"119 Anonymity not allowed\"",
        )
    });
}

#[test]
fn missing_conversation_headers_are_given_and_told_whether_the_message_is_delivered_or_kept() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        carol.registers()?;
        let kept = alice
            .sends(message(&alice, "text/plain", b"one"))?
            .expect_status(202)?;
        bob.registers()?;
        let first = bob.expect_message()?;
        let draft = Draft::new("MESSAGE", "sip:carol@im.test").body("text/plain", b"two");
        let live = alice.sends(draft)?.expect_status(200)?;
        let second = carol.expect_message()?;
        for (answer, got) in [(&kept, &first), (&live, &second)] {
            for name in ["Conversation-ID", "Contribution-ID"] {
                let told = answer.header(name);
                let same = told.is_some() && told == got.text().header(name);
                stage.observe(same, &format!("author and recipient have the same {name}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn malformed_conversation_headers_are_answered_400_with_or_without_a_device() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for is_there in [false, true] {
            if is_there {
                bob.registers()?;
            }
            for id in ["not allowed", &"x".repeat(256)] {
                let draft = message(&alice, "text/plain", b"x").header("Conversation-ID", id);
                alice.sends(draft)?.expect_status(400)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_malformed_envelope_is_answered_400() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        for body in ["", "no colon\r\n\r\n", "From: <sip:alice@im.test>\r\n\r\n"] {
            let draft = message(&alice, "message/cpim", body.as_bytes());
            alice.sends(draft)?.expect_status(400)?;
        }
        Ok(())
    });
}

#[test]
fn an_envelope_in_an_unknown_encoding_is_answered_415_with_what_is_known() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let envelope = Envelope::text("sip:alice@im.test", "sip:bob@im.test", "hello");
        let draft = message(&alice, "message/cpim", &envelope.to_octets());
        let refused = alice
            .sends(draft.header("Content-Encoding", "gzip"))?
            .expect_status(415)?;
        has(stage, &refused, "Accept", "message/cpim")?;
        has(stage, &refused, "Accept-Encoding", "identity")
    });
}

#[test]
fn what_must_be_understood_and_is_not_is_answered_420_by_name() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = message(&alice, "text/plain", b"x").header("Proxy-Require", "unheard-of");
        let refused = alice.sends(draft)?.expect_status(420)?;
        has(stage, &refused, "Unsupported", "unheard-of")
    });
}

#[test]
fn a_method_that_is_known_but_not_for_us_is_answered_405_and_an_unknown_one_501() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        for (method, status) in [("SUBSCRIBE", 405), ("INVITE", 405), ("UNHEARDOF", 501)] {
            let refused = alice
                .sends(Draft::new(method, "sip:im.test"))?
                .expect_status(status)?;
            has(stage, &refused, "Allow", "OPTIONS")?;
        }
        Ok(())
    });
}

#[test]
fn a_scheme_that_is_neither_sip_nor_tel_is_answered_416() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = Draft::new("MESSAGE", "mailto:bob@im.test").body("text/plain", b"x");
        alice.sends(draft)?.expect_status(416)?;
        Ok(())
    });
}

#[test]
fn nobody_by_that_name_is_answered_404() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        alice.sends_message("nobody", "hello")?.expect_status(404)?;
        alice.sends_message("system", "hello")?.expect_status(404)?;
        Ok(())
    });
}

#[test]
fn no_hops_left_is_answered_483() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = message(&alice, "text/plain", b"x").max_forwards(0);
        alice.sends(draft)?.expect_status(483)?;
        Ok(())
    });
}

#[test]
fn a_session_without_a_description_is_answered_488() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let invite = alice.invite_draft("bob", &fresh("conv-"));
        alice.sends(invite)?.expect_status(488)?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn media_that_cannot_be_shared_are_answered_488_with_304_or_305() {
    let types = "m=message 9 TCP/MSRP *\r\na=accept-types:model/vrml\r\na=path:msrp://127.0.0.1:9/s;tcp\r\n";
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let sdp = format!("{SDP}{types}");
        let invite = alice
            .invite_draft("bob", &fresh("conv-"))
            .body("application/sdp", sdp.as_bytes());
        let refused = alice.sends(invite)?.expect_status(488)?;
        let warning = refused.header_or_empty("Warning");
        let code = ["304 im.test \"", "305 im.test \""];
        stage.observe(
            code.iter().any(|code| warning.starts_with(code)),
            "304 or 305 says why",
        )?;
        Ok(())
    });
}

#[test]
fn who_has_not_proved_who_he_is_is_challenged_with_the_best_algorithm_first() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let stranger = restante::demo::UserAgent::new(stage.settings(
            "alice",
            restante::demo::Transport::Udp,
            restante::demo::Profile::Rcs,
        )?)?;
        let challenged = stranger.sends_message("bob", "hello")?.expect_status(407)?;
        let challenges: Vec<&str> = challenged.headers("Proxy-Authenticate").collect();
        stage.observe(
            challenges.len() == 2
                && challenges[0].contains("SHA-256")
                && challenges[1].contains("MD5")
                && challenges.iter().all(|each| each.contains("qop=\"auth\"")),
            "SHA-256 stands above MD5, and both want qop",
        )?;
        let own = stranger
            .sends_register(&stranger.contact())?
            .expect_status(401)?;
        stage.observe(
            own.header("WWW-Authenticate").is_some(),
            "for the server itself 401",
        )
    });
}

#[test]
fn a_dialog_that_nobody_knows_is_answered_481() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = Draft::new("BYE", "sip:bob@im.test").to_value("<sip:bob@im.test>;tag=gone");
        alice.sends(draft)?.expect_status(481)?;
        Ok(())
    });
}

#[test]
fn who_is_not_there_while_nothing_is_kept_is_answered_480() {
    let keeps_nothing = Configuration::digest().with("deferral", "enabled = false");
    on_every_shard_count(&keeps_nothing, |stage| {
        let alice = stage.agent("alice")?;
        alice.sends_message("bob", "hello")?.expect_status(480)?;
        alice.invites("bob")?.expect_status(480)?;
        Ok(())
    });
}

#[test]
fn too_much_at_once_is_answered_503_with_retry_after() {
    let tight = Configuration::digest().with("limits", "sessions = 1");
    on_every_shard_count(&tight, |stage| {
        let alice = stage.agent("alice")?;
        let _open = alice.opens_chat("bob")?;
        let refused = alice.invites("bob")?.expect_status(503)?;
        let pause = refused.header("Retry-After").and_then(|it| it.parse().ok());
        let fits = pause.is_some_and(|seconds: u64| (2..=10).contains(&seconds));
        stage.observe(fits, "some seconds, not the same for all")
    });
}

#[test]
fn what_a_kept_message_requires_and_nobody_understands_is_answered_420() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = Draft::new("MESSAGE", "sip:bob@im.test")
            .header("Require", "recipient-list-message")
            .body("text/plain", b"to all");
        let refused = alice.sends(draft)?.expect_status(420)?;
        has(stage, &refused, "Unsupported", "recipient-list-message")
    });
}

#[test]
fn content_beside_a_description_that_cannot_be_kept_is_answered_415_with_what_can() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let body = "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n\
            s=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=message 9 TCP/MSRP *\r\n\
            a=accept-types:message/cpim\r\na=path:msrp://127.0.0.1:9/x;tcp\r\n\r\n\
            --b\r\nContent-Type: text/plain\r\n\r\nnot to be lost\r\n--b--\r\n";
        let draft = alice
            .invite_draft("bob", &fresh("conv-"))
            .body("multipart/mixed; boundary=b", body.as_bytes());
        let refused = alice.sends(draft)?.expect_status(415)?;
        has(stage, &refused, "Accept", "message/cpim")
    });
}
