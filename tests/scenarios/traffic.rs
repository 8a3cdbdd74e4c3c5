//! What the operator lets through: peers, what each user may send, what the whole server passes on, and the
//! switches for sending, delivery and errors.

use std::time::Duration;

use restante::demo::{
    Disposition, Draft, Envelope, Failure, PAGER_TAG, PATIENCE, Setup, SipText, UserAgent,
    attribute, fresh,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// Alice's settings, as her account has them.
fn alice_with(lines: &[&str]) -> Configuration {
    let account = |configuration: Configuration, line: &&str| {
        configuration.for_account("alice", &format!("settings.{line}"))
    };
    lines.iter().fold(Configuration::digest(), account)
}

/// A MESSAGE of somebody of another domain, who is believed.
fn message_of(from: &str) -> Draft {
    let envelope = Envelope::text(from, "<sip:bob@im.test>", "hello");
    Draft::new("MESSAGE", "sip:bob@im.test")
        .from_value(&format!("<{from}>;tag={}", fresh("f")))
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .body("message/cpim", &envelope.to_octets())
}

fn warns(stage: &Stage, answer: &SipText, text: &str) -> Result<(), Failure> {
    let expected = format!("399 im.test \"{text}\"");
    stage.observe(answer.header_or_empty("Warning") == expected, &expected)
}

/// After how many seconds to try again.
fn wait_of(stage: &Stage, answer: &SipText) -> Result<u64, Failure> {
    let wait = answer.header_or_empty("Retry-After").parse();
    wait.map_err(|_| stage.failure("a 503 says when to try again"))
}

/// Sends messages until one is refused with 503; how many were taken. However slow the machine is, a
/// limit of a few a second is met before long.
fn taken_before_refusal(stage: &Stage, from: &UserAgent, to: &str) -> Result<usize, Failure> {
    for taken in 0..200 {
        let answer = from.sends_message(to, "many")?.final_answer(PATIENCE)?;
        if answer.status() == 503 {
            let wait = wait_of(stage, &answer)?;
            stage.observe((1..=60).contains(&wait), "the wait is short")?;
            return Ok(taken);
        }
        stage.observe(answer.status() == 202, "it is kept")?;
    }
    Err(stage.failure("none of 200 messages was refused"))
}

/// Sends messages until one is taken again.
fn is_taken_again(stage: &Stage, from: &UserAgent, to: &str) -> Result<(), Failure> {
    for _ in 0..400 {
        let answer = from.sends_message(to, "again")?.final_answer(PATIENCE)?;
        if answer.status() == 202 {
            return Ok(());
        }
        stage.observe(answer.status() == 503, "it has to wait")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(stage.failure("no message is taken again"))
}

#[test]
fn a_denied_network_is_refused_with_a_warning_and_an_allowed_one_is_served() {
    let denied = [
        Configuration::open().and("[[peer]]\nnetwork = \"127.0.0.0/8\"\naction = \"deny\"\n"),
        Configuration::open().with("traffic", "unlisted_networks = \"deny\""),
    ];
    for configuration in &denied {
        on_every_shard_count(configuration, |stage| {
            let alice = stage.agent("alice")?;
            let refused = alice.sends_message("bob", "hello")?.expect_status(403)?;
            warns(stage, &refused, "127 Service not authorised")?;
            alice.invites("bob")?.expect_status(403)?;
            Ok(())
        });
    }
    let listed = Configuration::open()
        .with("traffic", "unlisted_networks = \"deny\"")
        .and("[[peer]]\nnetwork = \"127.0.0.1\"\n")
        .and("[[peer]]\nnetwork = \"127.0.0.0/8\"\naction = \"deny\"\n");
    on_every_shard_count(&listed, |stage| {
        let alice = stage.agent("alice")?;
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        Ok(())
    });
}

#[test]
fn a_network_over_its_rate_waits_and_is_served_again() {
    let configuration =
        Configuration::open().and("[[peer]]\nnetwork = \"127.0.0.0/8\"\nrate = 1\nburst = 3\n");
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        let taken = taken_before_refusal(stage, &alice, "bob")?;
        stage.observe(taken >= 3, "the burst passes")?;
        is_taken_again(stage, &carol, "bob")
    });
}

#[test]
fn a_user_over_his_rate_waits_while_others_are_served() {
    let configuration = alice_with(&["requests_per_second = 1", "requests_burst = 2"]);
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        let taken = taken_before_refusal(stage, &alice, "bob")?;
        stage.observe(taken >= 2, "the burst passes")?;
        for _ in 0..10 {
            carol.sends_message("bob", "hello")?.expect_status(202)?;
        }
        is_taken_again(stage, &alice, "bob")
    });
}

#[test]
fn a_domain_is_denied_or_limited_while_others_are_served() {
    let configuration = Configuration::open()
        .and("[[peer]]\ndomain = \"denied.test\"\naction = \"deny\"\n")
        .and("[[peer]]\ndomain = \"busy.test\"\nrate = 1\n");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let denied = alice
            .sends(message_of("sip:eve@denied.test"))?
            .expect_status(403)?;
        warns(stage, &denied, "127 Service not authorised")?;
        let asserted =
            message_of("sip:eve@other.test").header("P-Asserted-Identity", "<sip:eve@denied.test>");
        alice.sends(asserted)?.expect_status(403)?;
        let mut answers = Vec::new();
        while answers.last() != Some(&503) {
            stage.observe(answers.len() < 200, "a domain over its rate is refused")?;
            let mut sent = alice.sends(message_of("sip:eve@busy.test"))?;
            answers.push(sent.final_answer(PATIENCE)?.status());
        }
        stage.observe(answers.first() == Some(&202), "the first passes")?;
        for from in ["sip:eve@other.test", "sip:alice@im.test"] {
            alice.sends(message_of(from))?.expect_status(202)?;
        }
        Ok(())
    });
}

#[test]
fn size_length_count_and_type_limit_the_user_they_are_set_for_and_nobody_else() {
    let configuration = alice_with(&[
        "max_message_size = \"2 KiB\"",
        "max_text_length = 100",
        "barred_types = [\"text/html\", \"image/*\"]",
        "messages_per_period = 2",
    ]);
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        let texts = ["x".repeat(101), "x".repeat(3_000)];
        let of = |agent: &UserAgent, content_type: &str, octets: &[u8]| {
            let (from, to) = (agent.uri(), agent.uri_of("bob"));
            Envelope::new(&from, &to, content_type, octets).to_octets()
        };
        let plain = of(&alice, "text/plain", "é".repeat(100).as_bytes());
        alice
            .sends_body("bob", "message/cpim", &plain)?
            .expect_status(202)?;
        for text in &texts {
            let refused = alice.sends_message("bob", text)?.expect_status(413)?;
            warns(stage, &refused, "133 Size exceeded")?;
        }
        for content_type in ["text/html", "image/png"] {
            let body = of(&alice, content_type, b"x");
            alice
                .sends_body("bob", "message/cpim", &body)?
                .expect_status(415)?;
            alice
                .sends_body("bob", content_type, b"x")?
                .expect_status(415)?;
            let body = of(&carol, content_type, b"x");
            carol
                .sends_body("bob", "message/cpim", &body)?
                .expect_status(202)?;
        }
        alice
            .sends_message("bob", "the second")?
            .expect_status(202)?;
        let third = alice
            .sends_message("bob", "the third")?
            .expect_status(503)?;
        stage.observe(wait_of(stage, &third)? > 80_000, "the next day")?;
        for text in &texts {
            carol.sends_message("bob", text)?.expect_status(202)?;
        }
        alice.invites("bob")?.expect_status(503)?;
        Ok(())
    });
}

#[test]
fn one_message_more_than_a_period_allows_waits_for_the_next_period() {
    let configuration = alice_with(&["messages_per_period = 2", "period = \"2s\""]);
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let taken = taken_before_refusal(stage, &alice, "bob")?;
        stage.observe(taken >= 2, "two are taken")?;
        is_taken_again(stage, &alice, "bob")
    });
}

#[test]
fn octets_over_the_volume_of_a_period_are_refused() {
    let configuration = alice_with(&["octets_per_period = \"4 KiB\""]);
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        let long = "x".repeat(3_000);
        alice.sends_message("bob", &long)?.expect_status(202)?;
        let refused = alice.sends_message("bob", &long)?.expect_status(503)?;
        wait_of(stage, &refused)?;
        alice.sends_message("bob", "short")?.expect_status(202)?;
        // It would not fit into any period.
        let never = alice
            .sends_message("bob", &"x".repeat(5_000))?
            .expect_status(413)?;
        stage.observe(never.header("Retry-After").is_none(), "never")?;
        carol.sends_message("bob", &long)?.expect_status(202)?;
        Ok(())
    });
}

#[test]
fn in_a_chat_each_side_keeps_to_its_own_limits() {
    let configuration = alice_with(&[
        "max_message_size = \"2 KiB\"",
        "max_text_length = 100",
        "content_types = [\"text/plain\"]",
        "messages_per_period = 3",
    ])
    .for_account("bob", "settings.max_message_size = \"4 KiB\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.invites("bob")?.expect_accepted());
            let at_bob = bob.expect_invite()?.answers(Setup::Passive, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            let most = attribute(&at_alice.sdp, "max-size");
            stage.observe(most == Some("2048"), "she hears what she may send")?;
            at_alice.says("one")?;
            at_bob.expect_text("one")?;
            for text in ["x".repeat(101), "x".repeat(1_000), "x".repeat(3_000)] {
                let envelope = alice.envelope("bob", &text);
                at_alice.sends(&envelope)?.expect_status(413)?;
            }
            let html = Envelope::new(&alice.uri(), &alice.uri_of("bob"), "text/html", b"x");
            at_alice.sends(&html)?.expect_status(415)?;
            let asking = alice.envelope("bob", "two").asking("positive-delivery");
            at_alice.sends(&asking)?.expect_status(200)?;
            at_bob.expect_text("two")?;
            // A receipt is none of his messages, and none of hers.
            let receipt = asking.notification(Disposition::Delivered);
            at_bob.sends(&receipt)?.expect_status(200)?;
            let long = bob.envelope("alice", &"y".repeat(3_000));
            at_bob.sends(&long)?.expect_status(200)?;
            let longer = bob.envelope("alice", &"y".repeat(5_000)).to_octets();
            let unsaid = at_bob.msrp.sending("message/cpim", &longer).without_total();
            unsaid.send()?.expect_status(413)?;
            at_alice.says("three")?;
            at_bob.expect_text("three")?;
            let fourth = alice.envelope("bob", "four");
            at_alice.sends(&fourth)?.expect_status(413)?;
            at_alice.hangs_up()?;
            at_bob.expect_bye()?;
            Ok(())
        })
    });
}

#[test]
fn the_first_message_of_a_chat_is_limited_like_any_other() {
    let configuration = alice_with(&["max_text_length = 10", "barred_types = [\"text/html\"]"]);
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let long = alice.envelope("bob", "more than ten");
        alice
            .invites_saying("bob", &long, true)?
            .expect_status(413)?;
        let html = Envelope::new(&alice.uri(), &alice.uri_of("bob"), "text/html", b"x");
        alice
            .invites_saying("bob", &html, false)?
            .expect_status(415)?;
        let short = alice.envelope("bob", "short");
        let chat = alice
            .invites_saying("bob", &short, true)?
            .expect_accepted()?;
        chat.hangs_up()
    });
}

#[test]
fn a_file_is_refused_by_what_its_description_says_of_it() {
    let configuration = alice_with(&[
        "max_message_size = \"2 KiB\"",
        "barred_types = [\"image/gif\"]",
    ]);
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        let invite = |agent: &UserAgent, selector: &str, status: u16| {
            let sdp = format!(
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                 m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\n\
                 a=accept-wrapped-types:*\r\na=sendonly\r\na=setup:active\r\n\
                 a=path:msrp://127.0.0.1:9/s1;tcp\r\na=file-selector:{selector}\r\n"
            );
            let draft = agent.invite_draft("bob", &fresh("conv-"));
            let sent = agent.sends(draft.body("application/sdp", sdp.as_bytes()))?;
            sent.expect_status(status)
        };
        let large = "name:\"a size:1 b.png\" type:image/png size:2049";
        let refused = invite(&alice, large, 413)?;
        warns(stage, &refused, "133 Size exceeded")?;
        invite(&alice, "name:\"a.gif\" type:image/gif size:9", 415)?;
        invite(&alice, "name:\"a.png\" type:image/png size:9", 200)?;
        invite(&carol, large, 200)?;
        Ok(())
    });
}

#[test]
fn presence_is_barred_without_messages_and_messages_without_presence() {
    let configuration =
        alice_with(&["may_use_presence = false"]).for_account("carol", "settings.may_send = false");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        let publish = |agent: &UserAgent| {
            let draft = Draft::new("PUBLISH", &agent.uri()).header("Event", "presence");
            agent.sends(draft)?.final_answer(PATIENCE)
        };
        let barred = publish(&alice)?;
        stage.observe(barred.status() == 403, "presence is barred")?;
        warns(stage, &barred, "122 Function not allowed")?;
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        stage.observe(publish(&carol)?.status() != 403, "hers is not")?;
        let barred = carol.sends_message("bob", "hello")?.expect_status(403)?;
        warns(stage, &barred, "127 Service not authorised")?;
        carol.invites("bob")?.expect_status(403)?;
        // What she has got she may confirm.
        carol.registers()?;
        bob.registers()?;
        bob.expect_text("hello")?;
        let asking = bob.envelope("carol", "read?").asking("positive-delivery");
        bob.sends_envelope("carol", &asking)?.expect_status(200)?;
        carol.expect_text("read?")?;
        carol.notifies(&asking, Disposition::Delivered)?;
        Ok(())
    });
}

#[test]
fn what_comes_for_someone_who_may_not_receive_is_kept_and_cannot_be_fetched() {
    let configuration = Configuration::digest().for_account("bob", "settings.may_receive = false");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        bob.registers()?;
        carol.registers()?;
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        let chat = alice.opens_chat("bob")?;
        chat.says("kept too")?;
        chat.hangs_up()?;
        bob.fetches(&[])?.expect_status(403)?;
        alice.sends_message("carol", "live")?.expect_status(200)?;
        carol.expect_text("live")?;
        bob.expect_no("MESSAGE")?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn over_the_rate_of_the_whole_server_some_wait_and_everything_admitted_arrives() {
    for limit in ["messages_per_second = 2", "octets_per_second = \"1 KiB\""] {
        let configuration = Configuration::open().with("traffic", limit);
        on_every_shard_count(&configuration, |stage| {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            bob.registers()?;
            let (mut taken, mut refused) = (0, 0);
            for number in 0..200 {
                let text = format!("number {number}");
                let answer = alice.sends_message("bob", &text)?.final_answer(PATIENCE)?;
                match answer.status() {
                    200 => {
                        bob.expect_text(&text)?;
                        taken += 1;
                    }
                    503 => {
                        stage.observe(wait_of(stage, &answer)? == 1, "a second")?;
                        refused += 1;
                    }
                    _ => return Err(stage.failure("it is neither taken nor told to wait")),
                }
                if refused >= 3 {
                    break;
                }
            }
            stage.observe(taken >= 2 && refused >= 3, "some pass, some wait")?;
            bob.expect_no("MESSAGE")
        });
    }
}

#[test]
fn while_errors_are_suppressed_a_sender_hears_202_whoever_is_to_blame() {
    let configuration = Configuration::digest()
        .with("deferral", "enabled = false")
        .with("traffic", "suppress_errors = true")
        .for_account("carol", "settings.incoming = \"unavailable\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        carol.registers()?;
        let mut answers = Vec::new();
        for to in ["bob", "carol"] {
            let answer = alice.sends_message(to, "hello")?.expect_status(202)?;
            stage.observe(answer.header("Warning").is_none(), "no word of why")?;
            let text = answer.text();
            let names = text.lines().filter_map(|line| {
                let name = line.split_once(':')?.0;
                Some(name.to_owned())
            });
            answers.push(names.collect::<Vec<_>>());
        }
        let (nobody, rule) = (&answers[0], &answers[1]);
        stage.observe(nobody == rule, "a rule looks like nobody being there")?;
        carol.expect_no("MESSAGE")?;
        // What a sender does wrong he still hears.
        alice.sends_message("nobody", "hello")?.expect_status(404)?;
        Ok(())
    });
}
