//! Passwords guessed, credentials forged, nonces replayed.

use std::time::Duration;

use restante::clock;
use restante::demo::Failure;

use crate::support::{Attacker, Configuration, Credentials, Stage, on_every_shard_count, on_stage};

const HERE: &str = "127.0.0.2";
const THERE: &str = "127.0.0.3";

fn expect(stage: &Stage, status: u16, wanted: u16, what: &str) -> Result<(), Failure> {
    stage.observe(
        status == wanted,
        &format!("{what}: {status} in place of {wanted}"),
    )
}

#[test]
fn the_fifth_wrong_password_locks_the_user_out_there_and_nowhere_else() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (mallory, alice) = (Attacker::at(stage, HERE)?, Attacker::at(stage, THERE)?);
        for user in ["alice", "nobody-at-all"] {
            for _ in 0..5 {
                let answer = mallory.logs_in(user, "guess")?;
                expect(stage, answer.status(), 401, "a wrong password")?;
            }
            let answer = mallory.logs_in(user, "alice-secret")?;
            expect(stage, answer.status(), 403, "the next one")?;
            let seconds = answer.header("Retry-After").map(str::parse);
            let told = matches!(seconds, Some(Ok(1..=60_u32)));
            stage.observe(told, "it says when to try again")?;
        }
        let answer = mallory.logs_in("bob", "bob-secret")?;
        expect(
            stage,
            answer.status(),
            200,
            "another user at the same address",
        )?;
        let answer = alice.logs_in("alice", "alice-secret")?;
        expect(stage, answer.status(), 200, "the user elsewhere")
    });
}

#[test]
fn a_lockout_ends_by_itself() {
    let configuration = Configuration::digest().with("limits", "lockout = \"1s\"");
    on_stage(&configuration, 1, |stage| {
        let alice = Attacker::at(stage, HERE)?;
        for _ in 0..5 {
            alice.logs_in("alice", "guess")?;
        }
        let begun = clock::now().instant;
        while alice.logs_in("alice", "alice-secret")?.status() != 200 {
            let patient = clock::now().instant.since(begun) < Duration::from_secs(20);
            stage.observe(patient, "the lockout ends")?;
        }
        Ok(())
    });
}

#[test]
fn wrong_passwords_now_and_then_are_forgiven_by_the_right_one() {
    on_stage(&Configuration::digest(), 4, |stage| {
        let alice = Attacker::at(stage, HERE)?;
        for _ in 0..3 {
            for _ in 0..4 {
                let answer = alice.logs_in("alice", "guess")?;
                expect(stage, answer.status(), 401, "a wrong password")?;
            }
            let answer = alice.logs_in("alice", "alice-secret")?;
            expect(stage, answer.status(), 200, "the right password")?;
        }
        Ok(())
    });
}

#[test]
fn guesses_with_somebody_elses_address_on_them_lock_nobody_out() {
    on_stage(&Configuration::digest(), 1, |stage| {
        // One socket stands for the forger, who got his nonce, and for his victim, whose address he writes.
        let (forger, victim) = (Attacker::at(stage, HERE)?, Attacker::at(stage, THERE)?);
        let nonce = forger.nonce()?;
        for _ in 0..9 {
            let line = Credentials::of("alice", "guess", &nonce).line();
            victim.asks(&victim.register("alice", &line))?;
        }
        let answer = victim.logs_in("alice", "alice-secret")?;
        expect(stage, answer.status(), 200, "the victim")?;
        let answer = forger.logs_in("alice", "alice-secret")?;
        expect(stage, answer.status(), 403, "the forger")
    });
}

#[test]
fn credentials_that_prove_nothing_are_refused() {
    let configuration = Configuration::digest().with("limits", "failed_logins = 1000");
    on_every_shard_count(&configuration, |stage| {
        let mallory = Attacker::at(stage, HERE)?;
        let nonce = mallory.nonce()?;
        let right = Credentials::of("alice", "alice-secret", &nonce);
        let with = |change: &dyn Fn(&mut Credentials)| {
            let mut credentials = right.clone();
            change(&mut credentials);
            credentials.line()
        };
        let without = |name: &str| {
            let value = right.value();
            let parts = value.trim_start_matches("Digest ").split(", ");
            let parts: Vec<_> = parts.filter(|part| !part.starts_with(name)).collect();
            format!("Authorization: Digest {}\r\n", parts.join(", "))
        };
        let lies = [
            ("no user", with(&|it| it.user.clear())),
            ("the null user", with(&|it| it.user = "\\\0".to_owned())),
            ("a blank user", with(&|it| it.user = " ".to_owned())),
            ("user missing", without("username")),
            ("response missing", without("response")),
            ("nonce missing", without("nonce")),
            ("uri missing", without("uri")),
            ("qop missing", without("qop")),
            ("count missing", without("nc")),
            ("cnonce missing", without("cnonce")),
            (
                "an empty response",
                with(&|it| it.response = Some(String::new())),
            ),
            (
                "a short response",
                with(&|it| it.response = Some("0".to_owned())),
            ),
            ("zeroes", with(&|it| it.response = Some("0".repeat(32)))),
            (
                "algorithm none",
                with(&|it| it.algorithm = "none".to_owned()),
            ),
            (
                "an empty algorithm",
                with(&|it| it.algorithm = "\"\"".to_owned()),
            ),
            ("MD5-sess", with(&|it| it.algorithm = "MD5-sess".to_owned())),
            (
                "a nonce of one's own",
                with(&|it| it.nonce = "AAAA".repeat(8)),
            ),
            ("an empty nonce", with(&|it| it.nonce.clear())),
            (
                "another method",
                with(&|it| it.method = "MESSAGE".to_owned()),
            ),
            (
                "another user's URI",
                with(&|it| it.uri = "sip:bob@im.test".to_owned()),
            ),
            (
                "another domain",
                with(&|it| it.uri = "sip:elsewhere.test".to_owned()),
            ),
            ("an empty password", with(&|it| it.password.clear())),
            (
                "count zero and wrong",
                with(&|it| {
                    it.count = "00000000".to_owned();
                    it.password = "guess".to_owned();
                }),
            ),
            (
                "a count that is none",
                with(&|it| it.count = "banana".to_owned()),
            ),
            (
                "another scheme",
                "Authorization: Basic YWxpY2U6YWxpY2Utc2VjcmV0\r\n".to_owned(),
            ),
            ("a bare word", "Authorization: Digest\r\n".to_owned()),
        ];
        for (what, line) in lies {
            let answer = mallory.asks(&mallory.register("alice", &line))?;
            let status = answer.status();
            let refused = matches!(status, 400 | 401);
            stage.observe(refused, &format!("{what}: {status}"))?;
        }
        let answer = mallory.asks(&mallory.register("alice", &right.line()))?;
        expect(stage, answer.status(), 200, "the truth")
    });
}

#[test]
fn credentials_that_were_heard_are_worth_nothing() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = Attacker::at(stage, HERE)?;
        let mallory = Attacker::at(stage, THERE)?;
        let nonce = alice.nonce()?;
        let line = Credentials::of("alice", "alice-secret", &nonce).line();
        let answer = alice.asks(&alice.register("alice", &line))?;
        expect(stage, answer.status(), 200, "the first time")?;
        for thief in [&alice, &mallory] {
            let answer = thief.asks(&thief.register("alice", &line))?;
            expect(stage, answer.status(), 401, "the same once more")?;
            let stale = answer
                .header_or_empty("WWW-Authenticate")
                .contains("stale=true");
            stage.observe(stale, "it is stale")?;
        }
        // Right for a REGISTER of Alice, so for nothing of Bob's.
        let mut credentials = Credentials::of("alice", "alice-secret", &nonce);
        credentials.count = "00000002".to_owned();
        let request = mallory.register("bob", &credentials.line());
        let answer = mallory.asks(&request)?;
        expect(
            stage,
            answer.status(),
            403,
            "another user's address of record",
        )
    });
}
