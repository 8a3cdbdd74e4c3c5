//! The replay table of cpm-facts §7.3 point 2, a test for each answer of a device.

use std::time::Duration;

use restante::demo::{Failure, Profile, Setup, Transport, UserAgent, attribute};

use crate::support::{
    Configuration, Stage, expect_replay, on_every_shard_count, takes_replay,
    writes_while_bob_is_away,
};

/// An answer that agrees to a session in which nothing is sent.
const INACTIVE: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\n\
    a=path:msrp://127.0.0.1:9/inactive;tcp\r\na=setup:active\r\na=inactive\r\n";

/// Retries that no test waits for, so that what comes again comes for another reason.
fn patient() -> Configuration {
    Configuration::open().with("deferral", "retry = [\"1h\"]")
}

/// Retries that come soon.
fn eager() -> Configuration {
    Configuration::open().with("deferral", "retry = [\"1s\", \"3s\"]")
}

/// Alice, who has heard nothing, and Bob's two devices: the first one tried, then the other.
fn two_devices(stage: &Stage) -> Result<(UserAgent, UserAgent, UserAgent), Failure> {
    let alice = stage.agent("alice")?;
    let (second, first) = (stage.agent("bob")?, stage.agent("bob")?);
    alice.registers()?;
    writes_while_bob_is_away(&alice, &["one", "two"])?;
    // Both are there before either is called.
    second.registers()?;
    second.expect_invite()?.refuses(603);
    second.expect_request("ACK")?;
    first.registers()?;
    Ok((alice, first, second))
}

#[test]
fn row_180_a_ringing_device_is_waited_for() {
    let patient = patient().with("deferral", "ring_timeout = \"61s\"");
    on_every_shard_count(&patient, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        call.rings();
        bob.expect_no("CANCEL")?;
        let replay = call.answers_recvonly(Setup::Active)?;
        expect_replay(&replay, &["one", "two"])
    });
}

#[test]
fn row_180_who_rings_too_long_is_cancelled_and_called_again() {
    let quick = patient().with("deferral", "ring_timeout = \"1s\"");
    on_every_shard_count(&quick, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        call.rings();
        call.expect_cancel()?;
        bob.expect_request("ACK")?;
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_200_is_acknowledged_and_replayed() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        bob.registers()?;
        takes_replay(&bob, &["one", "two"])?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn row_200_sendrecv_is_accepted() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        expect_replay(&replay, &["one"])
    });
}

#[test]
fn row_200_inactive_is_ended_and_kept() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        bob.expect_invite()?
            .accepts_with_body("application/sdp", INACTIVE)?;
        bob.expect_request("BYE")?;
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn what_an_accepted_invitation_carried_does_not_come_again() {
    on_every_shard_count(&patient(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::RcsE)?;
        writes_while_bob_is_away(&alice, &["the one inside", "the other"])?;
        bob.registers()?;
        bob.expect_invite()?
            .accepts_with_body("application/sdp", INACTIVE)?;
        bob.expect_request("BYE")?;
        bob.registers()?;
        let again = bob.expect_invite()?;
        stage.observe(
            again.text().text().contains("the other")
                && !again.text().text().contains("the one inside"),
            "what he accepted with the first INVITE is his",
        )
    });
}

#[test]
fn row_200_without_a_usable_description_is_acknowledged_ended_and_kept() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        for (content_type, body) in [
            ("text/plain", "yes, with pleasure"),
            ("application/sdp", "v=0\r\nnonsense\r\n"),
        ] {
            bob.registers()?;
            bob.expect_invite()?.accepts_with_body(content_type, body)?;
            bob.expect_request("BYE")?;
        }
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_480_is_kept_while_the_others_go_on_and_the_author_is_not_told() {
    on_every_shard_count(&eager(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        alice.registers()?;
        let chat = alice.opens_chat("bob")?;
        let asked = alice
            .envelope("bob", "from alice")
            .asking("negative-delivery");
        chat.sends(&asked)?.expect_status(200)?;
        chat.hangs_up()?;
        writes_while_bob_is_away(&carol, &["from carol"])?;
        bob.registers()?;
        for _ in 0..2 {
            let call = bob.expect_invite()?;
            if call.text().header_or_empty("From").contains("alice") {
                call.refuses(480);
            } else {
                let replay = call.answers_recvonly(Setup::Active)?;
                expect_replay(&replay, &["from carol"])?;
            }
        }
        alice.expect_no("MESSAGE")?;
        takes_replay(&bob, &["from alice"])
    });
}

#[test]
fn row_486_backs_off() {
    on_every_shard_count(&eager(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        bob.expect_invite()?.refuses(486);
        bob.expect_invite()?.refuses(486);
        // The second pause is the longer one.
        let early = bob.expect_invite_within(Duration::from_millis(1_500));
        stage.observe(early.is_err(), "the pauses grow")?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_600_and_603_wait_for_the_next_registration() {
    on_every_shard_count(&eager(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        for status in [600, 603] {
            bob.registers()?;
            bob.expect_invite()?.refuses(status);
            let early = bob.expect_invite_within(Duration::from_secs(2));
            stage.observe(early.is_err(), "no retry calls who declined")?;
        }
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_408_430_503_504_the_next_device_is_called() {
    for status in [408, 430, 503, 504] {
        on_every_shard_count(&patient(), |stage| {
            let (_alice, first, second) = two_devices(stage)?;
            first.expect_invite()?.refuses(status);
            takes_replay(&second, &["one", "two"])
        });
    }
}

#[test]
fn row_408_430_503_504_without_another_device_it_is_kept() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        for status in [408, 430, 503, 504] {
            bob.registers()?;
            bob.expect_invite()?.refuses(status);
            bob.expect_request("ACK")?;
        }
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_transport_a_device_that_broke_its_connection_is_passed_over() {
    on_every_shard_count(&patient(), |stage| {
        let alice = stage.agent("alice")?;
        let tablet = stage.agent("bob")?;
        let phone = stage.agent_with("bob", Transport::Tcp, Profile::Rcs)?;
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        tablet.registers()?;
        tablet.expect_invite()?.refuses(603);
        tablet.expect_request("ACK")?;
        phone.registers()?;
        let call = phone.expect_invite()?;
        phone.drops_connection();
        drop(call);
        takes_replay(&tablet, &["one", "two"])
    });
}

#[test]
fn row_404_and_410_drop_the_binding() {
    for status in [404, 410] {
        on_every_shard_count(&patient(), |stage| {
            let (_alice, first, second) = two_devices(stage)?;
            first.expect_invite()?.refuses(status);
            takes_replay(&second, &["one", "two"])?;
            let bindings = second.sends_register("")?.expect_status(200)?;
            stage.observe(
                bindings.values("Contact").len() == 1,
                "the device that is gone is no longer bound",
            )
        });
    }
}

#[test]
fn row_415_488_606_a_simpler_offer_follows() {
    for status in [415, 488, 606] {
        on_every_shard_count(&patient(), |stage| {
            let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
            writes_while_bob_is_away(&alice, &["one", "two"])?;
            bob.registers()?;
            let first = bob.expect_invite()?;
            first.refuses(status);
            let second = bob.expect_invite()?;
            let offer = second.offer();
            stage.observe(
                attribute(&offer, "accept-types") == Some("message/cpim")
                    && attribute(&offer, "accept-wrapped-types") == Some("text/plain")
                    && attribute(&offer, "msrp-cema").is_none()
                    && offer.contains(" TCP/MSRP "),
                "the second offer is as plain as can be",
            )?;
            let same = |name| first.text().header(name) == second.text().header(name);
            stage.observe(same("Call-ID") && same("From"), "it is the same call")?;
            stage.observe(
                second.text().cseq_number() == first.text().cseq_number() + 1,
                "the CSeq is one higher",
            )?;
            let replay = second.answers_recvonly(Setup::Active)?;
            expect_replay(&replay, &["one", "two"])
        });
    }
}

#[test]
fn row_415_488_606_what_fits_leaves_by_message() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        bob.registers()?;
        bob.expect_invite()?.refuses(488);
        bob.expect_invite()?.refuses(488);
        bob.expect_text("one")?;
        bob.expect_text("two")?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn row_415_488_606_what_does_not_fit_is_kept() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let long = "long ".repeat(20_000);
        writes_while_bob_is_away(&alice, &[&long])?;
        bob.registers()?;
        bob.expect_invite()?.refuses(606);
        bob.expect_invite()?.refuses(606);
        bob.expect_no("MESSAGE")?;
        bob.expect_no("INVITE")?;
        bob.registers()?;
        takes_replay(&bob, &[&long])
    });
}

#[test]
fn row_400_is_kept_without_a_loop() {
    on_every_shard_count(&eager(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        bob.expect_invite()?.refuses(400);
        let early = bob.expect_invite_within(Duration::from_secs(2));
        stage.observe(
            early.is_err(),
            "what was refused as malformed is not repeated",
        )?;
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_401_and_407_are_kept_without_a_loop() {
    on_every_shard_count(&eager(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        for status in [401, 407] {
            bob.registers()?;
            let challenge = "Digest realm=\"phone\", nonce=\"1\"".to_owned();
            let name = match status {
                401 => "WWW-Authenticate",
                _ => "Proxy-Authenticate",
            };
            bob.expect_invite()?
                .refuses_with(status, &[(name, challenge)]);
            let early = bob.expect_invite_within(Duration::from_secs(2));
            stage.observe(early.is_err(), "a challenge is not answered by repetition")?;
        }
        bob.registers()?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn row_422_the_interval_that_is_wanted_is_offered() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        bob.expect_invite()?
            .refuses_with(422, &[("Min-SE", "3600".to_owned())]);
        let call = bob.expect_invite()?;
        stage.observe(
            call.text().header("Min-SE") == Some("3600")
                && call
                    .text()
                    .header_or_empty("Session-Expires")
                    .starts_with("3600"),
            "the second INVITE has the interval of the 422",
        )?;
        let replay = call.answers_recvonly(Setup::Active)?;
        expect_replay(&replay, &["one"])
    });
}

#[test]
fn row_491_calls_again_after_a_pause() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        bob.expect_invite()?.refuses(491);
        let early = bob.expect_invite_within(Duration::from_millis(1_500));
        stage.observe(early.is_err(), "not before 2.1 s")?;
        takes_replay(&bob, &["one"])
    });
}

#[test]
fn a_trigger_during_a_run_is_acted_on_after_it() {
    on_every_shard_count(&patient(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        bob.registers()?;
        let call = bob.expect_invite()?;
        bob.registers()?;
        bob.expect_no("INVITE")?;
        call.refuses(486);
        takes_replay(&bob, &["one"])
    });
}
