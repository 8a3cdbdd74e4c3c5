//! A user fetches what waits for him, at `sip:deferred@im.test`: before he asks nothing comes, and what
//! he has confirmed never comes again.

use restante::demo::{Answering, Disposition, Draft, Failure, Setup, UserAgent};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// Bob fetches; the others get theirs as it comes.
fn bob_fetches() -> Configuration {
    Configuration::digest().for_account("bob", "settings.delivery = \"pull\"")
}

fn quietly(configuration: Configuration) -> Configuration {
    configuration.with("users", "announce_waiting = false")
}

/// Fetches and expects just these texts, then the BYE.
fn fetches(agent: &UserAgent, headers: &[(&str, &str)], texts: &[&str]) -> Result<(), Failure> {
    let session = agent.fetches(headers)?.expect_accepted()?;
    for text in texts {
        session.expect_text(text)?;
    }
    session.expect_bye().map(|_| ())
}

fn a_notice(stage: &Stage, bob: &UserAgent, text: &str) -> Result<(), Failure> {
    let notice = bob.expect_message()?;
    let notice = notice.text();
    let is_system = notice
        .header_or_empty("From")
        .contains("<sip:system@im.test>")
        && notice
            .header_or_empty("X-IM-Event")
            .starts_with("waiting;ref=");
    stage.observe(is_system, "a system message says that messages wait")?;
    stage.observe(notice.body() == text.as_bytes(), text)
}

#[test]
fn nothing_comes_before_the_user_asks_and_then_everything_in_order() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        alice.sends_message("bob", "one")?.expect_status(202)?;
        carol.sends_message("bob", "two")?.expect_status(202)?;
        let chat = alice.opens_chat("bob")?;
        chat.says("three")?;
        chat.hangs_up()?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        bob.expect_no("MESSAGE")?;
        bob.expect_no("INVITE")?;
        fetches(&bob, &[], &["one", "two", "three"])?;
        bob.fetches(&[])?.expect_status(404)?;
        Ok(())
    });
}

/// Flow F2: the message that was told of, by its Message-ID, and to the last octet.
#[test]
fn a_chosen_message_comes_alone_and_once() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.sends_message("bob", "before")?.expect_status(202)?;
        let asked = alice.envelope("bob", "Welcome back!");
        alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        alice.sends_message("bob", "after")?.expect_status(202)?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        let chosen = [("Message-ID", asked.message_id.as_str())];
        let session = bob.fetches(&chosen)?.expect_accepted()?;
        stage.observe(session.sdp.contains("a=sendonly"), "the answer sends only")?;
        let got = session.msrp.expect_message()?;
        stage.observe(got.body == asked.to_octets(), "octet for octet")?;
        session.expect_bye()?;
        bob.fetches(&chosen)?.expect_status(404)?;
        bob.fetches(&[("Message-ID", "unheard-of")])?
            .expect_status(404)?;
        fetches(&bob, &[], &["before", "after"])
    });
}

#[test]
fn one_conversation_or_several_messages_can_be_asked_for() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        alice
            .sends_message("bob", "from alice")?
            .expect_status(202)?;
        let mut ids = Vec::new();
        for text in ["first", "second", "third"] {
            let envelope = carol.envelope("bob", text);
            carol.sends_envelope("bob", &envelope)?.expect_status(202)?;
            ids.push(envelope.message_id);
        }
        let two = format!("{}, {}", ids[2], ids[0]);
        fetches(&bob, &[("Message-ID", &two)], &["first", "third"])?;
        let conversation = alice.conversation_with("bob");
        fetches(&bob, &[("Conversation-ID", &conversation)], &["from alice"])?;
        fetches(&bob, &[], &["second"])
    });
}

#[test]
fn what_the_device_did_not_confirm_comes_again() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for text in ["one", "two"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let session = bob.fetches(&[])?.expect_accepted()?;
        session.expect_text("one")?;
        session.msrp.drops_connection();
        drop(session);
        // Whether "two" had been confirmed when the connection broke, the server cannot know.
        let again = bob.fetches(&[("Conversation-ID", &alice.conversation_with("bob"))])?;
        match again.expect_accepted() {
            Ok(session) => session.expect_bye().map(|_| ()),
            Err(_) => bob.fetches(&[])?.expect_status(404).map(|_| ()),
        }
    });
}

#[test]
fn a_receipt_comes_by_itself_from_behind_what_waits_in_its_conversation() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = bob
            .envelope("alice", "a question")
            .asking("positive-delivery");
        bob.sends_envelope("alice", &asked)?.expect_status(200)?;
        let got = alice.expect_text("a question")?;
        alice.sends_message("bob", "unasked")?.expect_status(202)?;
        alice.notifies(&got, Disposition::Delivered)?;
        bob.registers()?;
        bob.expect_notification("delivered", &asked.message_id)?;
        bob.expect_no("MESSAGE")?;
        fetches(&bob, &[], &["unasked"])
    });
}

#[test]
fn a_receipt_inside_a_fetch_goes_to_the_author_of_the_message_it_names() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let bob = stage.agent("bob")?;
        let mut authors = Vec::new();
        for name in ["alice", "carol"] {
            let author = stage.agent(name)?;
            author.registers()?;
            let asked = author.envelope("bob", name).asking("positive-delivery");
            author.sends_envelope("bob", &asked)?.expect_status(202)?;
            authors.push(author);
        }
        // Nothing is confirmed, so that the session stays.
        let session = bob.fetches(&[])?.taking(Answering::Only(0));
        let session = session.expect_accepted()?;
        let got = [session.expect_text("alice")?, session.expect_text("carol")?];
        for (author, got) in authors.iter().zip(&got).rev() {
            let receipt = got.notification(Disposition::Delivered);
            session.sends(&receipt)?.expect_status(200)?;
            author.expect_notification("delivered", &got.message_id)?;
        }
        authors[0].expect_no("MESSAGE")?;
        authors[1].expect_no("MESSAGE")
    });
}

#[test]
fn who_is_pushed_to_can_fetch_what_his_device_refused() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        chat.says("hello")?;
        chat.hangs_up()?;
        bob.registers()?;
        bob.expect_invite()?.refuses(480);
        bob.expect_request("ACK")?;
        fetches(&bob, &[], &["hello"])?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn a_user_is_told_how_many_messages_wait_when_he_comes_and_when_the_first_one_does() {
    let bob = "[[account]]\nuser = \"bob\"\nsettings.delivery = \"pull\"\n";
    on_every_shard_count(&Configuration::open().and(bob), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for text in ["one", "two"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        bob.registers()?;
        a_notice(stage, &bob, "2 messages wait")?;
        fetches(&bob, &[], &["one", "two"])?;
        let chat = alice.invites("bob")?;
        bob.expect_invite()?.refuses(480);
        let chat = chat.expect_accepted()?;
        chat.says("three")?;
        a_notice(stage, &bob, "1 message waits")?;
        chat.says("four")?;
        chat.hangs_up()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn who_is_there_gets_live_messages_and_receipts_without_asking() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = bob
            .envelope("alice", "a question")
            .asking("positive-delivery");
        bob.sends_envelope("alice", &asked)?.expect_status(200)?;
        let got = alice.expect_text("a question")?;
        alice.notifies(&got, Disposition::Delivered)?;
        bob.registers()?;
        bob.expect_notification("delivered", &asked.message_id)?;
        alice.sends_message("bob", "live")?.expect_status(200)?;
        bob.expect_text("live")?;
        Ok(())
    });
}

#[test]
fn who_fetches_says_who_he_is_in_from() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        for user in ["alice", "bob", "carol"] {
            let agent = stage.agent(user)?;
            let hidden = agent
                .invite_draft("deferred", "c")
                .from_value("<sip:anonymous@anonymous.invalid>;tag=1")
                .header("Privacy", "id")
                .header("P-Preferred-Identity", &format!("<{}>", agent.uri()));
            agent.sends(hidden)?.expect_status(403)?;
        }
        Ok(())
    });
}

#[test]
fn a_fetch_that_cannot_be_served_is_refused() {
    on_every_shard_count(&quietly(bob_fetches()), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        let without = bob.invite_draft("deferred", "c");
        bob.sends(without)?.expect_status(488)?;
        let message = Draft::new("MESSAGE", "sip:deferred@im.test");
        let refused = bob.sends(message)?.expect_status(405)?;
        stage.observe(refused.header("Allow").is_some(), "it says what is allowed")?;
        // Somebody else's queue is nobody's to fetch.
        let stranger = alice
            .invite_draft("deferred", "c")
            .from_value("<sip:bob@im.test>;tag=1");
        alice.sends(stranger)?.expect_status(403)?;
        alice.fetches(&[])?.expect_status(404)?;
        // A device that takes no such session leaves everything as it is.
        let pending = bob.invites_with("deferred", Setup::ActPass, "nobody-knows-this")?;
        pending.expect_status(404)?;
        fetches(&bob, &[], &["hello"])
    });
}
