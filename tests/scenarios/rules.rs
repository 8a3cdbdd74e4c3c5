//! The recipient's rules: who gets through to him, what the others hear, and what is left of it.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use restante::demo::{Disposition, Draft, Failure, PAGER_TAG, SipText, UserAgent, fresh};

use crate::chat::Piecemeal;
use crate::support::{Configuration, Stage, on_every_shard_count, on_stage};

/// Bob's settings, as his account has them.
fn bob(line: &str) -> Configuration {
    Configuration::digest().for_account("bob", line)
}

fn bobs_rule(from: &str, action: &str) -> Configuration {
    bob(&format!(
        "settings.rules = [{{ from = \"{from}\", action = \"{action}\" }}]"
    ))
}

/// A MESSAGE of somebody who hides.
fn anonymous(text: &str, agent: &UserAgent) -> Draft {
    let envelope = agent.envelope("bob", text);
    let from = format!(
        "\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag={}",
        fresh("f")
    );
    Draft::new("MESSAGE", "sip:bob@im.test")
        .from_value(&from)
        .header("Privacy", "id")
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .body("message/cpim", &envelope.to_octets())
}

/// Fails unless the answer warns with this number.
fn warns(stage: &Stage, answer: &SipText, text: &str) -> Result<(), Failure> {
    let expected = format!("399 im.test \"{text}\"");
    stage.observe(answer.header_or_empty("Warning") == expected, &expected)
}

/// Whether these octets lie anywhere in the data folder.
fn is_on_disk(folder: &Path, needle: &[u8]) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => is_on_disk(&path, needle),
            false => fs::read(&path)
                .is_ok_and(|octets| octets.windows(needle.len()).any(|part| part == needle)),
        }
    })
}

#[test]
fn who_is_blocked_is_refused_with_a_warning_and_others_get_through() {
    on_every_shard_count(&bobs_rule("sip:alice@im.test", "block"), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        for is_there in [false, true] {
            if is_there {
                bob.registers()?;
            }
            let refused = alice.sends_message("bob", "hello")?.expect_status(403)?;
            warns(stage, &refused, "127 Service not authorised")?;
            let refused = alice.invites("bob")?.expect_status(403)?;
            warns(stage, &refused, "127 Service not authorised")?;
        }
        carol
            .sends_message("bob", "from carol")?
            .expect_status(200)?;
        bob.expect_text("from carol")?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_person_is_known_by_number_and_a_domain_is_everybody_in_it() {
    for from in ["tel:+46-70-000-001", "im.test"] {
        on_every_shard_count(&bobs_rule(from, "block"), |stage| {
            let alice = stage.agent("alice")?;
            alice.sends_message("bob", "hello")?.expect_status(403)?;
            Ok(())
        });
    }
}

/// The 480s that a MESSAGE and an INVITE to Bob get, without what differs from request to request.
fn refusals(configuration: &Configuration) -> Vec<String> {
    let heard = RefCell::new(Vec::new());
    on_stage(configuration, 1, |stage| {
        let alice = stage.agent("alice")?;
        let message = alice.sends_message("bob", "hello")?.expect_status(480)?;
        let invite = alice.invites("bob")?.expect_status(480)?;
        for answer in [message, invite] {
            let own = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
            let text = answer.text();
            let rest = text
                .lines()
                .filter(|line| !own.iter().any(|name| line.starts_with(name)));
            heard.borrow_mut().push(rest.collect::<Vec<_>>().join("\n"));
            let to = answer.header_or_empty("To").to_owned();
            let tag = answer.to_tag().to_owned();
            heard
                .borrow_mut()
                .push(to.replace(&tag, &"t".repeat(tag.len())));
        }
        Ok(())
    });
    heard.into_inner()
}

#[test]
fn unavailable_looks_like_a_server_that_keeps_nothing() {
    let keeps_nothing = Configuration::digest().with("deferral", "enabled = false");
    let without = refusals(&keeps_nothing);
    for value in ["unavailable", "unavailable-notify"] {
        let by_rule = refusals(&bobs_rule("sip:alice@im.test", value));
        assert_eq!(by_rule, without, "{value}");
        let by_default = refusals(&bob(&format!("settings.incoming = \"{value}\"")));
        assert_eq!(by_default, without, "{value}");
    }
    // A silent block on a server that keeps nothing must not stand out either.
    let silent = keeps_nothing
        .with("users", "blocked = \"silent\"")
        .for_account("bob", "settings.incoming = \"block\"");
    assert_eq!(refusals(&silent), without);
}

#[test]
fn what_comes_to_someone_unavailable_is_neither_delivered_nor_stored() {
    let configuration = bob("settings.incoming = \"unavailable\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice
            .sends_message("bob", "nobody-reads-this")?
            .expect_status(480)?;
        bob.registers()?;
        alice
            .sends_message("bob", "nobody-reads-this")?
            .expect_status(480)?;
        bob.expect_no("MESSAGE")?;
        let data = stage.folder().join("data");
        stage.observe(
            !is_on_disk(&data, b"nobody-reads-this"),
            "nothing is stored",
        )
    });
}

#[test]
fn who_is_unavailable_is_told_once_who_tried() {
    let configuration = bobs_rule("im.test", "unavailable-notify");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for _ in 0..3 {
            alice.sends_message("bob", "hello")?.expect_status(480)?;
            alice.invites("bob")?.expect_status(480)?;
        }
        // The notice waits for him like any message, and outlives a crash.
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        let notice = bob.expect_message()?;
        let text = notice.text();
        stage.observe(
            text.body() == b"attempted contact from sip:alice@im.test",
            "one readable sentence names her",
        )?;
        stage.observe(
            text.header_or_empty("From")
                .contains("<sip:system@im.test>")
                && text.header_or_empty("Content-Type") == "text/plain"
                && text
                    .header_or_empty("X-IM-Event")
                    .starts_with("attempted-contact;ref="),
            "it is a system message",
        )?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn who_hides_stays_unnamed_in_the_notice_too() {
    let configuration = bob("settings.anonymous = \"unavailable-notify\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        alice
            .sends(anonymous("hello", &alice))?
            .expect_status(480)?;
        let notice = bob.expect_message()?;
        stage.observe(
            notice.text().body() == b"attempted contact from an anonymous sender"
                && !notice.text().text().contains("alice"),
            "the notice does not say who it was",
        )
    });
}

#[test]
fn a_silent_block_answers_like_custody_and_keeps_nothing() {
    let configuration = bob("settings.incoming = \"block\"\nsettings.blocked = \"silent\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = alice
            .envelope("bob", "nobody-reads-this")
            .asking("processing, negative-delivery");
        let taken = alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        stage.observe(
            taken.header("Conversation-ID").is_some() && taken.header("Contribution-ID").is_some(),
            "the answer has what a kept message's has",
        )?;
        let chat = alice.opens_chat("bob")?;
        chat.says("nobody-reads-this")?;
        let long = "nobody-reads-this".repeat(20_000);
        let long = alice.envelope("bob", &long).to_octets();
        let sending = chat.msrp.sending("message/cpim", &long);
        sending
            .in_chunks(10_000)
            .success_report()
            .send()?
            .expect_report(200)?;
        chat.hangs_up()?;
        bob.registers()?;
        bob.expect_no("INVITE")?;
        bob.expect_no("MESSAGE")?;
        alice.expect_no("MESSAGE")?;
        let data = stage.folder().join("data");
        stage.observe(
            !is_on_disk(&data, b"nobody-reads-this"),
            "nothing is stored",
        )
    });
}

#[test]
fn under_a_silent_block_a_chunk_behind_a_gap_waits_for_what_is_missing() {
    let configuration = bob("settings.incoming = \"block\"\nsettings.blocked = \"silent\"");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let chat = alice.opens_chat("bob")?;
        let octets = alice.envelope("bob", &"long ".repeat(60)).to_octets();
        let message = Piecemeal::new(&chat, "message/cpim", &octets);
        let behind = message.sends(100..200)?;
        // What is said and answered meanwhile shows that the chunk has been looked at.
        chat.says("in between")?;
        let before = message.sends(0..100)?;
        chat.msrp.expect_response(&before, 200)?;
        chat.msrp.expect_response(&behind, 200)?;
        let rest = message.sends(200..octets.len())?;
        chat.msrp.expect_response(&rest, 200)
    });
}

#[test]
fn under_a_silent_block_a_receipt_in_a_session_still_arrives() {
    let configuration = bob("settings.incoming = \"block\"\nsettings.blocked = \"silent\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        for in_pieces in [false, true] {
            let asked = bob.envelope("alice", "hello").asking("positive-delivery");
            bob.sends_envelope("alice", &asked)?.expect_status(200)?;
            let got = alice.expect_text("hello")?;
            let receipt = got.notification(Disposition::Delivered).to_octets();
            let chat = alice.opens_chat("bob")?;
            let message = Piecemeal::new(&chat, "message/cpim", &receipt);
            let end = match in_pieces {
                true => 30,
                false => receipt.len(),
            };
            for range in [0..end, end..receipt.len()] {
                if !range.is_empty() {
                    let sent = message.sends(range)?;
                    chat.msrp.expect_response(&sent, 200)?;
                }
            }
            bob.expect_notification("delivered", &asked.message_id)?;
            chat.hangs_up()?;
        }
        Ok(())
    });
}

#[test]
fn who_hides_is_asked_to_show_himself() {
    let configuration = bob("settings.anonymous = \"block\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let refused = alice
            .sends(anonymous("hello", &alice))?
            .expect_status(433)?;
        warns(stage, &refused, "119 Anonymity not allowed")?;
        alice.sends_message("bob", "it is me")?.expect_status(200)?;
        bob.expect_text("it is me")?;
        Ok(())
    });
}

#[test]
fn a_receipt_of_someone_blocked_still_arrives() {
    let configuration = bobs_rule("sip:alice@im.test", "block");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        bob.registers()?;
        let asked = bob.envelope("alice", "hello").asking("positive-delivery");
        bob.sends_envelope("alice", &asked)?.expect_status(200)?;
        let got = alice.expect_text("hello")?;
        alice.notifies(&got, Disposition::Delivered)?;
        bob.expect_notification("delivered", &asked.message_id)?;
        Ok(())
    });
}

#[test]
fn what_only_passes_obeys_the_rules_too() {
    let configuration = bobs_rule("sip:alice@im.test", "unavailable");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        for method in ["OPTIONS", "INFO", "REFER", "SUBSCRIBE"] {
            let draft = Draft::new(method, "sip:bob@im.test");
            alice.sends(draft)?.expect_status(480)?;
        }
        bob.expect_no("INFO")
    });
}
