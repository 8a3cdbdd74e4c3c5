//! The rules of disposition notifications (RFC 5438, cpm-facts §8): who may send which, that each
//! reaches the author once and in order, and what an early one means for a kept message.

use std::time::Duration;

use restante::demo::{
    Chat, Disposition, Draft, Envelope, Failure, PAGER_TAG, Profile, Reaction, Setup, Transport,
    UserAgent, fresh,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// Alice and Bob are there; Alice's message has reached Bob.
fn message_at_bob(alice: &UserAgent, bob: &UserAgent) -> Result<Envelope, Failure> {
    let asked = alice
        .envelope("bob", "hello")
        .asking("positive-delivery, display");
    alice.sends_envelope("bob", &asked)?.expect_status(200)?;
    bob.expect_text("hello")
}

/// Alice, who hears no answer from Bob because he is away, with what she wrote.
fn message_kept_for_bob(alice: &UserAgent) -> Result<Envelope, Failure> {
    let asked = alice
        .envelope("bob", "hello")
        .asking("positive-delivery, negative-delivery");
    alice.sends_envelope("bob", &asked)?.expect_status(202)?;
    Ok(asked)
}

/// What follows a 2xx inside the server takes moments; a second is ample and never asserted on.
fn time_to_settle() {
    std::thread::sleep(Duration::from_secs(1));
}

fn sends_expiring(author: &UserAgent, envelope: &Envelope, to: &str) -> Result<(), Failure> {
    let draft = Draft::new("MESSAGE", &author.uri_of(to))
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .header("Conversation-ID", &fresh("conv-"))
        .header("Contribution-ID", &fresh("contr-"))
        .header("Expires", "1")
        .body("message/cpim", &envelope.to_octets());
    author.sends(draft)?.expect_status(202).map(|_| ())
}

#[test]
fn every_kind_reaches_the_author_exactly_once() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        for (kind, status) in [
            ("processing", "processed"),
            ("processing", "stored"),
            ("processing", "forbidden"),
            ("processing", "error"),
            ("interworking", "legacy-sms"),
            ("delivery", "delivered"),
            ("delivery", "failed"),
            ("delivery", "forbidden"),
            ("delivery", "error"),
            ("display", "displayed"),
            ("display", "forbidden"),
            ("display", "error"),
        ] {
            let got = message_at_bob(&alice, &bob)?;
            let receipt = got.notification_of(kind, status);
            bob.sends_envelope("alice", &receipt)?.expect_2xx()?;
            alice.expect_notification(status, &got.message_id)?;
            let again = got.notification_of(kind, status);
            bob.sends_envelope("alice", &again)?.expect_2xx()?;
            alice.expect_no("MESSAGE")?;
        }
        Ok(())
    });
}

#[test]
fn several_devices_of_one_recipient_give_one_receipt() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let tablet = stage.agent("bob")?;
        alice.registers()?;
        bob.registers()?;
        tablet.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        tablet.expect_text("hello")?;
        let first = got.notification(Disposition::Delivered);
        let second = got.notification(Disposition::Delivered);
        let first = bob.sends_envelope("alice", &first)?;
        let second = tablet.sends_envelope("alice", &second)?;
        first.expect_2xx()?;
        second.expect_2xx()?;
        alice.expect_notification("delivered", &got.message_id)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn a_receipt_from_somebody_who_is_not_the_recipient_is_refused() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        alice.registers()?;
        bob.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        let forged = got.notification(Disposition::Displayed);
        let refusal = carol.sends_envelope("alice", &forged)?.expect_status(403)?;
        stage.observe(
            refusal.header_or_empty("Warning").contains("127"),
            "clients find the reason in the warning",
        )?;
        alice.expect_no("MESSAGE")?;
        bob.notifies(&got, Disposition::Displayed)?;
        alice.expect_notification("displayed", &got.message_id)?;
        Ok(())
    });
}

#[test]
fn after_a_restart_a_replayed_message_has_its_recipient_again() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        let kept = message_kept_for_bob(&alice)?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        bob.expect_text("hello")?;
        bob.notifies(&kept, Disposition::Delivered)?;
        let forged = kept.notification(Disposition::Displayed);
        carol.sends_envelope("alice", &forged)?.expect_status(403)?;
        alice.registers()?;
        alice.expect_notification("delivered", &kept.message_id)?;
        Ok(())
    });
}

#[test]
fn a_receipt_of_an_unknown_message_is_forwarded() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let never_sent = alice.envelope("bob", "from another server");
        bob.notifies(&never_sent, Disposition::Delivered)?;
        alice.expect_notification("delivered", &never_sent.message_id)?;
        bob.notifies(&never_sent, Disposition::Delivered)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn what_the_recipient_has_confirmed_is_not_replayed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        for disposition in [Disposition::Delivered, Disposition::Displayed] {
            let kept = message_kept_for_bob(&alice)?;
            bob.notifies(&kept, disposition)?;
            let said = match disposition {
                Disposition::Delivered => "delivered",
                Disposition::Displayed => "displayed",
            };
            alice.expect_notification(said, &kept.message_id)?;
        }
        time_to_settle();
        bob.registers()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn nobody_else_and_no_other_message_cancels_what_is_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        let kept = message_kept_for_bob(&alice)?;
        let forged = kept.notification(Disposition::Delivered);
        carol.sends_envelope("alice", &forged)?.expect_status(403)?;
        let other = alice.envelope("bob", "another");
        bob.notifies(&other, Disposition::Delivered)?;
        let bad_news = kept.notification_of("delivery", "error");
        bob.sends_envelope("alice", &bad_news)?.expect_2xx()?;
        bob.registers()?;
        bob.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn a_confirmed_message_does_not_expire_later() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let confirmed = alice.envelope("bob", "one").asking("negative-delivery");
        sends_expiring(&alice, &confirmed, "bob")?;
        bob.notifies(&confirmed, Disposition::Delivered)?;
        alice.expect_notification("delivered", &confirmed.message_id)?;
        let lost = alice.envelope("bob", "two").asking("negative-delivery");
        sends_expiring(&alice, &lost, "bob")?;
        alice.expect_notification("failed", &lost.message_id)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn a_late_delivered_follows_our_failed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = alice
            .envelope("bob", "hello")
            .asking("positive-delivery, negative-delivery");
        sends_expiring(&alice, &asked, "bob")?;
        alice.expect_notification("failed", &asked.message_id)?;
        bob.sends_envelope("alice", &asked.notification_of("delivery", "failed"))?
            .expect_2xx()?;
        bob.notifies(&asked, Disposition::Delivered)?;
        alice.expect_notification("delivered", &asked.message_id)?;
        bob.notifies(&asked, Disposition::Delivered)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn receipts_of_one_recipient_arrive_in_their_order() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        alice.reacts_to_messages(Reaction::StaySilent);
        let delivered = got.notification(Disposition::Delivered);
        let displayed = got.notification(Disposition::Displayed);
        let first = bob.sends_envelope("alice", &delivered)?;
        let unanswered = alice.expect_message()?;
        let second = bob.sends_envelope("alice", &displayed)?;
        alice.expect_no("MESSAGE")?;
        alice.reacts_to_messages(Reaction::Answer(200));
        unanswered.answers(200);
        first.expect_2xx()?;
        second.expect_2xx()?;
        stage.observe(
            unanswered
                .envelope()?
                .notifies("delivered", &got.message_id),
            "the first to come is delivered",
        )?;
        alice.expect_notification("displayed", &got.message_id)?;
        Ok(())
    });
}

#[test]
fn kept_receipts_leave_in_their_order_whatever_their_conversation() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        let mut conversations = Vec::new();
        for disposition in [Disposition::Delivered, Disposition::Displayed] {
            let conversation = fresh("conv-");
            let receipt = got.notification(disposition);
            let draft = Draft::new("MESSAGE", "sip:alice@im.test")
                .header("Conversation-ID", &conversation)
                .body("message/cpim", &receipt.to_octets());
            let answer = bob.sends(draft)?.expect_status(202)?;
            stage.observe(
                answer.header("Conversation-ID") == Some(conversation.as_str()),
                "the answer names the conversation",
            )?;
            conversations.push(conversation);
        }
        alice.registers()?;
        for (said, conversation) in ["delivered", "displayed"].iter().zip(&conversations) {
            let message = alice.expect_message()?;
            stage.observe(
                message.envelope()?.notifies(said, &got.message_id)
                    && message.text().values("Conversation-ID") == [conversation.clone()],
                &format!("{said} comes next, in its own conversation"),
            )?;
        }
        Ok(())
    });
}

#[test]
fn an_aggregate_is_forwarded_octet_for_octet() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let (one, two) = (message_at_bob(&alice, &bob)?, message_at_bob(&alice, &bob)?);
        let mut content = String::new();
        for message in [&one, &two] {
            let document = message.notification(Disposition::Delivered).content_text();
            content.push_str(&format!(
                "--cut\r\nContent-Type: message/imdn+xml\r\n\r\n{document}\r\n"
            ));
        }
        content.push_str("--cut--\r\n");
        let mut both = one.notification(Disposition::Delivered);
        both.content_type = "multipart/mixed; boundary=\"cut\"".to_owned();
        both.content = content.into_bytes();
        bob.sends_envelope("alice", &both)?.expect_2xx()?;
        let got = alice.expect_message()?;
        stage.observe(
            got.text().body() == both.to_octets(),
            "nothing of it is changed",
        )?;
        bob.notifies(&two, Disposition::Delivered)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn malformed_receipts_are_refused() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        let good = got.notification(Disposition::Delivered);
        let date_time = format!("<datetime>{}</datetime>", got.date_time);
        for bad in [
            good.content_text().replace(&date_time, ""),
            good.content_text().replace("</imdn>", ""),
            good.content_text().replace("<imdn", "<!DOCTYPE imdn><imdn"),
            good.content_text().replace("<delivered/>", "<displayed/>"),
        ] {
            let mut receipt = good.clone();
            receipt.content = bad.into_bytes();
            bob.sends_envelope("alice", &receipt)?.expect_status(400)?;
        }
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn a_kept_receipt_expires_without_a_word() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        let receipt = got
            .notification(Disposition::Delivered)
            .asking("negative-delivery");
        sends_expiring(&bob, &receipt, "alice")?;
        let sentinel = bob.envelope("carol", "later").asking("negative-delivery");
        sends_expiring(&bob, &sentinel, "carol")?;
        bob.expect_notification("failed", &sentinel.message_id)?;
        bob.expect_no("MESSAGE")?;
        alice.registers()?;
        alice.expect_no("MESSAGE")
    });
}

/// A live chat between Alice, who called, and Bob.
fn live(
    stage: &Stage,
    conversation: impl Fn(&Chat<'_>, &Chat<'_>, &UserAgent, &UserAgent) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
    let bob = stage.agent("bob")?;
    alice.registers()?;
    bob.registers()?;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.opens_chat("bob"));
        let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        let at_alice = call.join().expect("the agent does not panic")?;
        conversation(&at_alice, &at_bob, &alice, &bob)?;
        at_alice.hangs_up()?;
        at_bob.expect_bye()?;
        Ok(())
    })
}

fn expect_notification(chat: &Chat<'_>, status: &str, about: &Envelope) -> Result<(), Failure> {
    let envelope = chat.msrp.expect_message()?.envelope();
    match envelope.is_some_and(|got| got.notifies(status, &about.message_id)) {
        true => Ok(()),
        false => Err(Failure::plain(format!("no {status} in the session"))),
    }
}

#[test]
fn in_a_chat_each_receipt_passes_once_by_whichever_way_it_comes() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |at_alice, at_bob, alice, bob| {
            let asked = alice.envelope("bob", "hello").asking("display");
            at_alice.sends(&asked)?.expect_status(200)?;
            let got = at_bob.expect_text("hello")?;
            let again = got.notification(Disposition::Delivered);
            at_bob
                .sends(&got.notification(Disposition::Delivered))?
                .expect_status(200)?;
            expect_notification(at_alice, "delivered", &got)?;
            at_bob.sends(&again)?.expect_status(200)?;
            bob.notifies(&got, Disposition::Delivered)?;
            at_bob
                .sends(&got.notification(Disposition::Displayed))?
                .expect_status(200)?;
            expect_notification(at_alice, "displayed", &got)?;
            bob.notifies(&got, Disposition::Displayed)?;
            alice.expect_no("MESSAGE")?;

            let back = bob.envelope("alice", "hi").asking("display");
            at_bob.sends(&back)?.expect_status(200)?;
            let got = at_alice.expect_text("hi")?;
            at_alice
                .sends(&got.notification(Disposition::Displayed))?
                .expect_status(200)?;
            expect_notification(at_bob, "displayed", &got)
        })
    });
}

#[test]
fn in_a_chat_a_receipt_of_somebody_elses_message_and_a_malformed_one_are_refused() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let carol = stage.agent("carol")?;
        carol.registers()?;
        live(stage, |at_alice, at_bob, alice, _| {
            let asked = alice.envelope("carol", "secret").asking("display");
            alice.sends_envelope("carol", &asked)?.expect_status(200)?;
            let got = carol.expect_text("secret")?;
            let forged = got.notification(Disposition::Displayed);
            at_bob.sends(&forged)?.expect_status(403)?;
            let mut malformed = got.notification(Disposition::Displayed);
            malformed.content = b"<imdn".to_vec();
            at_bob.sends(&malformed)?.expect_status(400)?;
            at_bob.says("hello")?;
            at_alice.expect_text("hello")?;
            Ok(())
        })
    });
}

#[test]
fn in_a_chat_a_receipt_in_chunks_arrives_whole() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, |at_alice, at_bob, alice, _| {
            let asked = alice.envelope("bob", "hello").asking("display");
            at_alice.sends(&asked)?.expect_status(200)?;
            let got = at_bob.expect_text("hello")?;
            let receipt = got.notification(Disposition::Displayed).to_octets();
            let sent = at_bob.msrp.sending("message/cpim", &receipt).in_chunks(300);
            sent.send()?.expect_status(200)?;
            expect_notification(at_alice, "displayed", &got)
        })
    });
}

#[test]
fn a_receipt_routed_through_the_server_goes_on_without_that_route() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let got = message_at_bob(&alice, &bob)?;
        for (to, disposition, said) in [
            ("sip:im.test", Disposition::Delivered, "delivered"),
            ("sip:alice@im.test", Disposition::Displayed, "displayed"),
        ] {
            let plain = got.notification(disposition).to_octets();
            let plain = String::from_utf8_lossy(&plain).into_owned();
            let routes = "NS: imdn <urn:ietf:params:imdn>\r\nimdn.IMDN-Route: <sip:pf@im.test>\r\n";
            let routed = plain.replacen("NS: imdn <urn:ietf:params:imdn>\r\n", routes, 1);
            let draft = Draft::new("MESSAGE", to).body("message/cpim", routed.as_bytes());
            bob.sends(draft)?.expect_2xx()?;
            let message = alice.expect_message()?;
            stage.observe(
                message.text().body() == plain.as_bytes(),
                "nothing but the route is gone",
            )?;
            stage.observe(
                message.envelope()?.notifies(said, &got.message_id),
                "it is the receipt",
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_receipt_for_an_unnamed_author_finds_its_way_back() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        alice.registers()?;
        let unnamed = "sip:anonymous@anonymous.invalid";
        let asked = Envelope::text(unnamed, "sip:bob@im.test", "guess who").asking("display");
        let draft = Draft::new("MESSAGE", "sip:bob@im.test")
            .from_value(&format!("<{unnamed}>;tag=1"))
            .header("Privacy", "id")
            .body("message/cpim", &asked.to_octets());
        alice.sends(draft)?.expect_status(202)?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        let message = bob.expect_message()?;
        stage.observe(
            !message.text().text().contains("alice"),
            "Bob does not see who wrote it",
        )?;
        let receipt = message.envelope()?.notification(Disposition::Displayed);
        carol
            .sends_envelope(unnamed, &receipt)?
            .expect_status(404)?;
        bob.sends_envelope(unnamed, &receipt)?.expect_2xx()?;
        alice.registers()?;
        alice.expect_notification("displayed", &asked.message_id)?;
        Ok(())
    });
}
