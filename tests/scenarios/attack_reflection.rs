//! Requests over UDP with somebody else's address on them: what he gets for them is little.

use std::time::Duration;

use restante::demo::{Failure, fresh};

use crate::support::{Attacker, Configuration, Stage, nonce_in, on_every_shard_count, on_stage};

const VICTIM: &str = "127.0.0.77";
/// Longer than the first retransmissions of a response to INVITE (Timer G: T1, twice T1, four times).
const RETRANSMISSIONS: Duration = Duration::from_millis(500);

/// Who is asked proves who he is; responses are repeated soon.
fn digest() -> Configuration {
    Configuration::digest().with("sip", "t1 = \"50ms\"")
}

/// Sends octets, and again for each of `copies`, and compares their sum with that of all that comes back.
fn expect_little(stage: &Stage, what: &str, octets: &[u8], copies: usize) -> Result<(), Failure> {
    let victim = Attacker::at(stage, VICTIM)?;
    let octets = String::from_utf8_lossy(octets).replace("{victim}", &victim.address().to_string());
    for _ in 0..copies {
        victim.sends(octets.as_bytes())?;
    }
    let silence = match octets.starts_with("INVITE") {
        true => RETRANSMISSIONS,
        false => Duration::from_millis(150),
    };
    let heard = victim.hears_all(silence)?;
    let sum: usize = heard.iter().map(Vec::len).sum();
    let sent = octets.len() * copies;
    stage.observe(
        2 * sum <= 3 * sent,
        &format!("{what}: {sum} octets of answers to {sent}"),
    )
}

/// A request as short as it can be.
fn minimal(method: &str, uri: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nv:SIP/2.0/UDP {{victim}};branch={};rport\r\nf:<sip:a@im.test>;tag=1\r\n\
         t:<sip:a@im.test>\r\ni:{}\r\nCSeq:1 {method}\r\nMax-Forwards:9\r\nl:0\r\n\r\n",
        fresh("z9hG4bK"),
        fresh("c"),
    )
}

#[test]
fn no_answer_to_somebody_unknown_is_worth_forging_an_address() {
    on_every_shard_count(&digest(), |stage| {
        let bob = "sip:bob@im.test";
        let mut requests: Vec<(String, String)> = [
            ("REGISTER", "sip:im.test"),
            ("OPTIONS", "sip:im.test"),
            ("OPTIONS", bob),
            ("MESSAGE", bob),
            ("INVITE", bob),
            ("SUBSCRIBE", bob),
            ("PUBLISH", "sip:im.test"),
            ("BYE", bob),
            ("CANCEL", bob),
            ("BANANA", "sip:im.test"),
            ("MESSAGE", "nobodyknows:opaque"),
            ("MESSAGE", "sip:somebody@elsewhere.test"),
        ]
        .map(|(method, uri)| (format!("{method} {uri}"), minimal(method, uri)))
        .into();
        let mut lines = |name: &str, lines: &str| {
            let end = format!("{lines}l:0\r\n\r\n");
            let request = minimal("MESSAGE", bob).replace("l:0\r\n\r\n", &end);
            requests.push((name.to_owned(), request));
        };
        lines("an extension", "Proxy-Require: a, b, c\r\n");
        lines(
            "malformed credentials",
            "Proxy-Authorization: Digest realm=\"im.test\"\r\n",
        );
        lines(
            "ten hops behind it",
            &"v:SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\n".repeat(10),
        );
        for (what, request) in requests {
            expect_little(stage, &what, request.as_bytes(), 1)?;
        }
        let malformed = minimal("MESSAGE", bob);
        for (what, old, new) in [
            ("no body", "l:0", "l:99"),
            ("a wrong CSeq", "CSeq:1 MESSAGE", "CSeq:1 INVITE"),
            ("no CSeq", "CSeq:1 MESSAGE\r\n", ""),
            ("a wrong version", "SIP/2.0\r\n", "SIP/7.0\r\n"),
            ("a length that is none", "l:0", "l:x"),
        ] {
            expect_little(stage, what, malformed.replacen(old, new, 1).as_bytes(), 1)?;
        }
        Ok(())
    });
}

#[test]
fn repeating_a_request_does_not_multiply_what_comes_back() {
    on_stage(&digest(), 4, |stage| {
        for (method, uri) in [("REGISTER", "sip:im.test"), ("INVITE", "sip:bob@im.test")] {
            let victim = Attacker::at(stage, VICTIM)?;
            let long = victim.request(method, uri, "alice", &format!("X: {}\r\n", "x".repeat(900)));
            victim.sends(long.as_bytes())?;
            // Short ones that name the same transaction.
            let short = long.replace(&format!("X: {}\r\n", "x".repeat(900)), "");
            for _ in 0..20 {
                victim.sends(short.as_bytes())?;
            }
            let heard = victim.hears_all(RETRANSMISSIONS)?;
            let sum: usize = heard.iter().map(Vec::len).sum();
            let sent = long.len() + 20 * short.len();
            stage.observe(!heard.is_empty(), "it is answered at all")?;
            let little = 2 * sum <= 3 * sent;
            stage.observe(
                little,
                &format!("{method}: {sum} octets of answers to {sent}"),
            )?;
        }
        Ok(())
    });
}

#[test]
fn an_ordinary_request_gets_both_challenges_and_a_short_one_a_challenge_all_the_same() {
    on_stage(&Configuration::digest(), 1, |stage| {
        let client = Attacker::at(stage, VICTIM)?;
        let contact = format!(
            "Contact: <sip:alice@{}>\r\nExpires: 3600\r\n",
            client.address()
        );
        let ordinary =
            format!("{contact}User-Agent: a phone/1.0\r\nAllow: INVITE, MESSAGE, BYE\r\n");
        let answer = client.asks(&client.register("alice", &ordinary))?;
        let challenges = answer.headers("WWW-Authenticate").count();
        stage.observe(challenges == 2, &format!("{challenges} challenges"))?;
        // What SIPp and the simplest clients send.
        let answer = client.asks(&client.register("alice", ""))?;
        stage.observe(nonce_in(&answer).is_some(), "a short request is challenged")?;
        let status = client.logs_in("alice", "alice-secret")?.status();
        stage.observe(status == 200, &format!("and can be answered: {status}"))
    });
}

#[test]
fn a_source_gets_only_so_many_answers_before_it_has_proved_anything() {
    let configuration = Configuration::digest()
        .with("limits", "trusted = [\"127.0.0.1\"]")
        .with("limits", "unproven_rate = 10");
    on_stage(&configuration, 4, |stage| {
        let victim = Attacker::at(stage, VICTIM)?;
        for _ in 0..200 {
            victim.sends(victim.register("alice", "").as_bytes())?;
        }
        let heard = victim.hears_all(Duration::from_millis(500))?.len();
        stage.observe((1..100).contains(&heard), &format!("{heard} answers"))?;
        stage.agent("alice")?.registers().map(drop)
    });
}

#[test]
fn a_maddr_sends_answers_to_nobody_else() {
    on_stage(&Configuration::digest(), 1, |stage| {
        let (mallory, victim) = (
            Attacker::at(stage, "127.0.0.2")?,
            Attacker::at(stage, VICTIM)?,
        );
        let via = format!("{};branch=", mallory.address());
        let forged = format!(
            "{};maddr={};branch=",
            mallory.address(),
            victim.address().ip()
        );
        let request = mallory.register("alice", "").replacen(&via, &forged, 1);
        let request = request.replace(
            &format!("UDP {}", mallory.address().ip()),
            &format!("UDP {}", victim.address().ip()),
        );
        mallory.sends(request.as_bytes())?;
        let heard = mallory.hears(Duration::from_secs(10))?;
        stage.observe(heard.is_some(), "who asked is answered")?;
        let heard = victim.hears(Duration::from_millis(100))?;
        stage.observe(heard.is_none(), "and nobody else")
    });
}
