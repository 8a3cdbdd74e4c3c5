//! What happens to a session between its first answer and its end: descriptions exchanged again, hold,
//! another address, reliable ringing, and the end with messages on their way.

use std::time::Duration;

use restante::demo::{
    Answering, Chat, Disposition, Draft, Failure, Setup, SipText, UserAgent, attribute, fresh,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

const COMPLETED: &str = "SIP;cause=200;text=\"Call completed\"";

/// Alice and Bob in a live chat.
fn live(
    stage: &Stage,
    conversation: impl Fn(&UserAgent, &mut Chat<'_>, &mut Chat<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
    alice.registers()?;
    bob.registers()?;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.opens_chat("bob"));
        let mut at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        let mut at_alice = call.join().expect("the agent does not panic")?;
        conversation(&bob, &mut at_alice, &mut at_bob)
    })
}

/// Each says something that the other reads.
fn talk(alice: &Chat<'_>, bob: &Chat<'_>) -> Result<(), Failure> {
    alice.says("from alice")?;
    bob.expect_text("from alice")?;
    bob.says("from bob")?;
    alice.expect_text("from bob").map(|_| ())
}

fn reason(bye: &SipText) -> &str {
    bye.header_or_empty("Reason")
}

/// Bob's phone registers again and gets these texts in a replay.
fn replays(bob: &UserAgent, texts: &[&str]) -> Result<(), Failure> {
    bob.registers()?;
    let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
    for text in texts {
        replay.expect_text(text)?;
    }
    replay.expect_bye().map(|_| ())
}

#[test]
fn an_offer_that_changes_nothing_keeps_the_connection() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        live(stage, |_, alice, bob| {
            let path = attribute(&alice.sdp, "path").map(str::to_owned);
            for chat in [&*alice, &*bob] {
                let answer = chat.offers(&chat.own_sdp)?;
                stage.observe(
                    attribute(&answer, "path") == attribute(&chat.sdp, "path"),
                    "the server keeps its path",
                )?;
                let update = chat.draft("UPDATE").header("Contact", &chat.contact());
                let agreed = chat.agent().sends(update)?.expect_status(200)?;
                stage.observe(agreed.body().is_empty(), "no offer, no answer")?;
                let update = chat.draft("UPDATE").header("Contact", &chat.contact());
                let update = update.body("application/sdp", chat.own_sdp.as_bytes());
                let agreed = chat.agent().sends(update)?.expect_status(200)?;
                stage.observe(!agreed.body().is_empty(), "an offer is answered")?;
            }
            stage.observe(path.is_some(), "there was a path")?;
            let long = "a long story ".repeat(30_000);
            alice.says(&long)?;
            bob.expect_text(&long)?;
            talk(alice, bob)
        })
    });
}

#[test]
fn an_invite_without_an_offer_gets_one_and_its_answer_comes_in_the_ack() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |_, alice, bob| {
            for chat in [&*alice, &*bob] {
                let offer = chat.asks_for_offer(&chat.own_sdp)?;
                let path = attribute(&offer, "path");
                stage.observe(
                    path == attribute(&chat.sdp, "path") && path.is_some(),
                    "what stands is offered",
                )?;
                stage.observe(
                    attribute(&offer, "setup") == Some("actpass"),
                    "as offers are",
                )?;
            }
            talk(alice, bob)
        })
    });
}

#[test]
fn what_a_dialog_does_not_know_is_refused_by_its_kind_and_the_session_goes_on() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |_, alice, bob| {
            let draft = |method| alice.draft(method).header("Contact", &alice.contact());
            let agent = alice.agent();
            for method in ["UPDATE", "INFO"] {
                let required = draft(method).header("Require", "timer, tdialog");
                let refused = agent.sends(required)?.expect_status(420)?;
                let tags = refused.header("Unsupported");
                stage.observe(tags == Some("tdialog"), "what is not known is named")?;
            }
            agent.sends(draft("UNHEARDOF"))?.expect_status(501)?;
            agent.sends(draft("REFER"))?.expect_status(405)?;
            let text = draft("UPDATE").body("text/plain", b"hello");
            let refused = agent.sends(text)?.expect_status(415)?;
            let taken = refused.header_or_empty("Accept");
            stage.observe(taken.contains("application/sdp"), "what is taken is named")?;
            talk(alice, bob)
        })
    });
}

#[test]
fn an_offer_no_session_can_come_of_is_refused_and_the_session_goes_on() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |_, alice, bob| {
            let audio = alice.own_sdp.replace("m=message", "m=audio");
            let refusal = alice.offers_in_vain(&audio, 488)?;
            stage.observe(
                refusal.header_or_empty("Warning").starts_with("304 "),
                "and it is said why",
            )?;
            alice.offers_in_vain("not a description", 400)?;
            talk(alice, bob)
        })
    });
}

#[test]
fn a_phone_that_moves_takes_its_session_along_and_loses_nothing() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |_, alice, bob| {
            talk(alice, bob)?;
            bob.msrp.answers_messages(Answering::Only(0));
            let envelope = alice.msrp_envelope("bob", "while bob moves");
            let sent = alice.sends(&envelope)?;
            let first = bob.msrp.expect_message()?;
            bob.moves()?;
            let again = bob.msrp.expect_message()?;
            stage.observe(
                first.body == again.body,
                "it is sent again, octet for octet",
            )?;
            stage.observe(
                first.message_id == again.message_id,
                "under the same Message-ID",
            )?;
            sent.expect_status(200)?;
            alice.moves()?;
            talk(alice, bob)?;
            alice.hangs_up_saying("")?;
            bob.expect_bye().map(|_| ())
        })
    });
}

#[test]
fn what_is_for_a_held_side_waits_and_follows_when_it_resumes() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |_, alice, bob| {
            for hold in ["sendonly", "inactive"] {
                let offer = bob.described(hold);
                let answer = bob.offers(&offer)?;
                let mirrored = if hold == "sendonly" {
                    "recvonly"
                } else {
                    "inactive"
                };
                stage.observe(attribute(&answer, mirrored).is_some(), "hold is confirmed")?;
                let asked = alice.msrp_envelope("bob", "are you there?");
                let sent = alice.sends(&asked)?;
                let receipt = bob.msrp_envelope("alice", "x");
                let receipt = receipt.notification(Disposition::Delivered);
                alice.sends(&receipt)?.expect_status(200)?;
                let passed = bob.msrp.expect_message()?.envelope();
                stage.observe(
                    passed.is_some_and(|it| it.content_text().contains("imdn")),
                    "a receipt is not held back",
                )?;
                let offer = bob.described("sendrecv");
                bob.offers(&offer)?;
                bob.expect_text("are you there?")?;
                sent.expect_status(200)?;
            }
            talk(alice, bob)
        })
    });
}

#[test]
fn what_a_held_side_does_not_take_in_time_is_kept() {
    let short = Configuration::open().with("deferral", "custody_after = \"1s\"");
    on_every_shard_count(&short, |stage| {
        live(stage, |phone, alice, bob| {
            let offer = bob.described("inactive");
            bob.offers(&offer)?;
            alice.says("for later")?;
            let replay = phone.expect_invite()?.answers_recvonly(Setup::Active)?;
            replay.expect_text("for later")?;
            replay.expect_bye().map(|_| ())
        })
    });
}

#[test]
fn no_live_message_overtakes_what_is_kept_for_the_caller() {
    let short = Configuration::open().with("deferral", "custody_after = \"1s\"");
    on_every_shard_count(&short, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
            let mut at_alice = call.join().expect("the agent does not panic")?;
            talk(&at_alice, &at_bob)?;
            let hold = at_alice.described("inactive");
            at_alice.offers(&hold)?;
            at_bob.says("first")?;
            let replay = alice.expect_invite()?;
            let resume = at_alice.described("sendrecv");
            at_alice.offers(&resume)?;
            at_bob.says("second")?;
            let replay = replay.answers_recvonly(Setup::Active)?;
            replay.expect_text("first")?;
            replay.expect_text("second")?;
            replay.expect_bye()?;
            talk(&at_alice, &at_bob)
        })
    });
}

#[test]
fn who_hangs_up_with_messages_for_him_on_their_way_finds_them_later() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        live(stage, |phone, alice, bob| {
            bob.msrp.answers_messages(Answering::Only(0));
            let envelope = alice.msrp_envelope("bob", "too late");
            let sent = alice.sends(&envelope)?;
            bob.msrp.expect_message()?;
            let declined = "SIP;cause=603;text=\"Declined\"";
            bob.hangs_up_saying(declined)?;
            sent.expect_status(200)?;
            let bye = alice.expect_bye()?;
            stage.observe(reason(&bye) == declined, "she hears why he hung up")?;
            replays(phone, &["too late"])
        })
    });
}

#[test]
fn who_hangs_up_at_once_is_still_heard() {
    let short = Configuration::open().with("deferral", "custody_after = \"1s\"");
    on_every_shard_count(&short, |stage| {
        live(stage, |phone, alice, bob| {
            bob.msrp.answers_messages(Answering::Only(0));
            let envelope = alice.msrp_envelope("bob", "last words");
            let sent = alice.sends(&envelope)?;
            bob.msrp.expect_message()?;
            alice.hangs_up_saying("")?;
            let bye = bob.expect_bye()?;
            stage.observe(
                reason(&bye).starts_with("SIP;cause=408;"),
                "his phone confirmed nothing",
            )?;
            sent.expect_status(200)?;
            replays(phone, &["last words"])
        })
    });
}

#[test]
fn a_chat_in_which_nothing_happens_ends_as_handsets_expect() {
    let short = Configuration::open().with("msrp", "idle_timeout = \"1s\"");
    on_every_shard_count(&short, |stage| {
        live(stage, |_, alice, bob| {
            for chat in [&*alice, &*bob] {
                let bye = chat.expect_bye()?;
                stage.observe(reason(&bye) == COMPLETED, "a normal end")?;
            }
            Ok(())
        })
    });
}

#[test]
fn a_leg_without_its_connection_ends_as_lost_and_the_other_goes_on_in_custody() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |phone, alice, bob| {
            bob.msrp.drops_connection();
            let bye = bob.expect_bye()?;
            stage.observe(
                reason(&bye) == "SIP;cause=480;text=\"Bearer unavailable\"",
                "his bearer is lost",
            )?;
            alice.says("kept")?;
            let replay = phone.expect_invite_within(Duration::from_secs(10));
            let replay = replay?.answers_recvonly(Setup::Active)?;
            replay.expect_text("kept")?;
            Ok(())
        })
    });
}

#[test]
fn a_device_that_rings_reliably_gets_a_prack() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let ringing = bob.expect_invite()?;
            for rseq in [17, 18] {
                ringing.rings_reliably(rseq);
                let prack = bob.expect_request("PRACK")?;
                stage.observe(
                    prack.text().header_or_empty("RAck") == format!("{rseq} 1 INVITE"),
                    "it names the response",
                )?;
                prack.answers(200);
            }
            let at_bob = ringing.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            talk(&at_alice, &at_bob)?;
            at_alice.hangs_up()?;
            let bye = at_bob.expect_bye()?;
            stage.observe(
                bye.cseq_number() > 3,
                "the dialog goes on counting behind its PRACKs",
            )
        })
    });
}

#[test]
fn a_caller_who_requires_it_hears_the_ringing_reliably() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let offer = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\n\
            a=path:msrp://127.0.0.1:9/s;tcp\r\na=setup:active\r\n";
        let draft = alice
            .invite_draft("bob", &fresh("conversation-"))
            .header("Require", "100rel")
            .body("application/sdp", offer.as_bytes());
        let mut sent = alice.sends(draft)?;
        let invite = bob.expect_invite()?;
        invite.rings();
        let ringing = alice.expect_answer(180)?;
        stage.observe(
            ringing.header_or_empty("Require") == "100rel",
            "it is sent reliably",
        )?;
        let prack = |rseq: &str, cseq: u32| {
            Draft::new("PRACK", ringing.contact_uri())
                .from_value(ringing.header_or_empty("From"))
                .to_value(ringing.header_or_empty("To"))
                .call_id(ringing.header_or_empty("Call-ID"))
                .cseq(cseq)
                .header("RAck", &format!("{rseq} {} INVITE", ringing.cseq_number()))
        };
        let cseq = ringing.cseq_number();
        alice.sends(prack("1", cseq + 1))?.expect_status(481)?;
        let rseq = ringing.header_or_empty("RSeq").to_owned();
        alice.sends(prack(&rseq, cseq + 2))?.expect_status(200)?;
        alice.sends(prack(&rseq, cseq + 3))?.expect_status(481)?;
        invite.refuses(486);
        let last = sent.final_answer(Duration::from_secs(10))?;
        stage.observe(last.status() == 486, "the refusal is passed on")
    });
}

#[test]
fn a_device_moves_and_holds_in_the_middle_of_a_replay() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        for number in 0..4 {
            chat.says(&format!("number {number}"))?;
        }
        chat.hangs_up()?;
        bob.registers()?;
        let call = bob.expect_invite()?.taking(Answering::Only(1));
        let mut replay = call.answers_recvonly(Setup::Active)?;
        replay.expect_text("number 0")?;
        let hold = replay.described("inactive");
        replay.offers(&hold)?;
        replay.moves()?;
        for number in 1..4 {
            replay.expect_text(&format!("number {number}"))?;
        }
        replay.expect_bye().map(|_| ())
    });
}
