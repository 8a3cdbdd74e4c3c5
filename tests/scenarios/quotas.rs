//! How much may wait: for one user, for all; what becomes of messages that are too many, too large, too
//! old or damaged, and what their authors hear.

use std::collections::BTreeSet;
use std::time::Duration;

use restante::demo::{
    Draft, Envelope, Failure, PAGER_TAG, PATIENCE, Reaction, SipText, UserAgent, fresh,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

fn two_for_bob(when_full: &str) -> Configuration {
    Configuration::open()
        .with("users", "max_messages = 2")
        .with("users", &format!("when_full = \"{when_full}\""))
}

/// What Alice's MESSAGE to this user is answered.
fn answer_to(author: &UserAgent, to: &str, text: &str) -> Result<SipText, Failure> {
    author.sends_message(to, text)?.final_answer(PATIENCE)
}

/// The refusal of a message for which there is no room in the recipient's queue.
fn is_over_quota(answer: &SipText) -> bool {
    let warning = answer.header_or_empty("Warning");
    answer.status() == 413 && warning.contains("399") && warning.contains("133 Size exceeded")
}

/// Bob is away until now and gets these, in order.
fn bob_gets(stage: &Stage, texts: &[&str]) -> Result<(), Failure> {
    let bob = stage.agent("bob")?;
    bob.registers()?;
    for text in texts {
        bob.expect_text(text)?;
    }
    bob.expect_no("MESSAGE")?;
    bob.unregisters()?;
    Ok(())
}

#[test]
fn a_message_for_a_full_queue_is_answered_413_with_the_warning_clients_look_for() {
    on_every_shard_count(&two_for_bob("refuse-new"), |stage| {
        let alice = stage.agent("alice")?;
        for text in ["one", "two"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let refused = answer_to(&alice, "bob", "three")?;
        stage.observe(is_over_quota(&refused), "it is over the quota")?;
        stage.observe(
            refused.header("Retry-After").is_some(),
            "there may be room later",
        )?;
        alice
            .sends_message("carol", "hers is empty")?
            .expect_status(202)?;
        stage.kill9()?;
        stage.restart()?;
        let refused = answer_to(&alice, "bob", "three")?;
        stage.observe(is_over_quota(&refused), "a restart makes no room")?;
        bob_gets(stage, &["one", "two"])?;
        alice
            .sends_message("bob", "there is room again")?
            .expect_status(202)?;
        Ok(())
    });
}

#[test]
fn a_message_larger_than_the_whole_quota_is_refused_for_good() {
    let small = Configuration::open().with("users", "max_size = \"1 KiB\"");
    on_every_shard_count(&small, |stage| {
        let alice = stage.agent("alice")?;
        let refused = answer_to(&alice, "bob", &"x".repeat(1_100))?;
        stage.observe(is_over_quota(&refused), "it is over the quota")?;
        stage.observe(refused.header("Retry-After").is_none(), "it will never fit")?;
        alice.sends_message("bob", "short")?.expect_status(202)?;
        bob_gets(stage, &["short"])
    });
}

#[test]
fn in_a_chat_with_someone_away_what_is_over_the_quota_is_answered_413_and_the_chat_goes_on() {
    let small = Configuration::open().with("users", "max_size = \"2 KiB\"");
    on_every_shard_count(&small, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        chat.says("one")?;
        let long = alice.envelope("bob", &"x".repeat(1_800));
        chat.sends(&long)?.expect_status(413)?;
        chat.says("two")?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob
            .expect_invite()?
            .answers_recvonly(restante::demo::Setup::Active)?;
        replay.expect_text("one")?;
        replay.expect_text("two")?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn row_15_an_invite_whose_message_is_over_the_quota_is_answered_403_with_the_warning() {
    on_every_shard_count(&two_for_bob("refuse-new"), |stage| {
        let alice = stage.agent("alice")?;
        for text in ["one", "two"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let first = alice.envelope("bob", "three");
        let refused = alice
            .invites_saying("bob", &first, false)?
            .expect_status(403)?;
        let warning = refused.header_or_empty("Warning");
        stage.observe(warning.contains("133 Size exceeded"), "it says why")?;
        bob_gets(stage, &["one", "two"])
    });
}

#[test]
fn the_oldest_message_makes_room_and_its_author_hears_that_it_failed() {
    on_every_shard_count(&two_for_bob("drop-oldest"), |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        alice.registers()?;
        let oldest = alice.envelope("bob", "one").asking("negative-delivery");
        alice.sends_envelope("bob", &oldest)?.expect_status(202)?;
        carol.sends_message("bob", "two")?.expect_status(202)?;
        carol.sends_message("bob", "three")?.expect_status(202)?;
        alice.expect_notification("failed", &oldest.message_id)?;
        // Nobody asked to hear of the next one.
        carol.sends_message("bob", "four")?.expect_status(202)?;
        bob_gets(stage, &["three", "four"])?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn in_a_chat_too_the_oldest_make_room_and_their_author_is_told() {
    on_every_shard_count(&two_for_bob("drop-oldest"), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let chat = alice.opens_chat("bob")?;
        let texts = ["one", "two", "three", "four"];
        let said: Vec<Envelope> = texts
            .iter()
            .map(|text| alice.envelope("bob", text).asking("negative-delivery"))
            .collect();
        for envelope in &said {
            chat.sends(envelope)?.expect_status(200)?;
        }
        for lost in &said[..2] {
            alice.expect_notification("failed", &lost.message_id)?;
        }
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob
            .expect_invite()?
            .answers_recvonly(restante::demo::Setup::Active)?;
        replay.expect_text("three")?;
        replay.expect_text("four")?;
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn a_longer_message_pushes_out_as_many_as_it_takes_and_no_more() {
    let small = Configuration::open()
        .with("users", "max_size = \"2 KiB\"")
        .with("users", "when_full = \"drop-oldest\"");
    on_every_shard_count(&small, |stage| {
        let alice = stage.agent("alice")?;
        let text = |letter: &str, octets: usize| {
            let envelope = alice.envelope("bob", "");
            letter.repeat(octets - envelope.to_octets().len())
        };
        let (first, second) = (text("a", 400), text("b", 800));
        let (third, fourth) = (text("c", 500), text("d", 300));
        for text in [&first, &second, &third, &fourth] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let longer = text("z", 1_200);
        alice.sends_message("bob", &longer)?.expect_status(202)?;
        bob_gets(stage, &[&third, &fourth, &longer])
    });
}

#[test]
fn long_messages_of_a_chat_push_each_other_out_and_arrive_whole() {
    let small = Configuration::open()
        .with("users", "max_size = \"250 KiB\"")
        .with("users", "when_full = \"drop-oldest\"");
    on_every_shard_count(&small, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let chat = alice.opens_chat("bob")?;
        let said: Vec<Envelope> = ["a", "b", "c", "d"]
            .iter()
            .map(|letter| {
                let envelope = alice.envelope("bob", &letter.repeat(100_000));
                envelope.asking("negative-delivery")
            })
            .collect();
        for envelope in &said {
            chat.sends(envelope)?.expect_status(200)?;
        }
        for lost in &said[..2] {
            alice.expect_notification("failed", &lost.message_id)?;
        }
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob
            .expect_invite()?
            .answers_recvonly(restante::demo::Setup::Active)?;
        for envelope in &said[2..] {
            let message = replay.msrp.expect_message()?;
            stage.observe(message.body == envelope.to_octets(), "whole")?;
        }
        replay.expect_bye()?;
        Ok(())
    });
}

#[test]
fn what_is_on_its_way_to_a_device_makes_no_room() {
    on_every_shard_count(&two_for_bob("drop-oldest"), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for text in ["one", "two"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        bob.reacts_to_messages(Reaction::StaySilent);
        bob.registers()?;
        let out = bob.expect_message()?;
        stage.observe(
            out.envelope()?.content_text() == "one",
            "the oldest is out with a delivery",
        )?;
        alice.sends_message("bob", "three")?.expect_status(202)?;
        bob.reacts_to_messages(Reaction::Answer(200));
        out.answers(200);
        bob.expect_text("three")?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn receipts_that_an_author_never_fetches_do_not_keep_his_messages_in_the_queues_of_others() {
    let one = Configuration::open()
        .with("users", "max_messages = 1")
        .with("users", "when_full = \"drop-oldest\"");
    on_every_shard_count(&one, |stage| {
        let alice = stage.agent("alice")?;
        for number in 0..10 {
            let text = format!("text {number}");
            let asked = alice.envelope("bob", &text).asking("negative-delivery");
            alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        }
        bob_gets(stage, &["text 9"])?;
        alice.registers()?;
        let receipts = collect(&alice);
        stage.observe(
            receipts.len() == 5,
            "one message may wait for her, and four receipts more",
        )
    });
}

#[test]
fn an_account_s_own_quota_goes_before_everybody_s() {
    let configuration = Configuration::digest()
        .with("users", "max_messages = 1")
        .for_account(
            "carol",
            "settings = { max_messages = 2, when_full = \"drop-oldest\" }",
        );
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        alice.sends_message("bob", "one")?.expect_status(202)?;
        let refused = answer_to(&alice, "bob", "two")?;
        stage.observe(is_over_quota(&refused), "one for Bob")?;
        for text in ["one", "two", "three"] {
            alice.sends_message("carol", text)?.expect_status(202)?;
        }
        bob_gets(stage, &["one"])?;
        let carol = stage.agent("carol")?;
        carol.registers()?;
        carol.expect_text("two")?;
        carol.expect_text("three")?;
        Ok(())
    });
}

#[test]
fn beyond_what_may_wait_in_all_everybody_is_asked_to_try_again_later() {
    let little = Configuration::open().with("deferral", "max_messages = 2");
    on_every_shard_count(&little, |stage| {
        let alice = stage.agent("alice")?;
        for user in ["bob", "carol"] {
            alice.sends_message(user, "one")?.expect_status(202)?;
        }
        for user in ["bob", "dave"] {
            let refused = answer_to(&alice, user, "too many")?;
            let later = refused.header("Retry-After").is_some();
            stage.observe(
                refused.status() == 503 && later,
                "503, and when to try again",
            )?;
        }
        bob_gets(stage, &["one"])?;
        alice
            .sends_message("dave", "there is room again")?
            .expect_status(202)?;
        Ok(())
    });
}

#[test]
fn of_messages_sent_at_once_as_many_are_kept_as_may_and_not_one_more() {
    let ten = Configuration::open().with("users", "max_messages = 10");
    on_every_shard_count(&ten, |stage| {
        let authors = (0..8)
            .map(|number| stage.agent(&format!("author{number}")))
            .collect::<Result<Vec<_>, _>>()?;
        let kept = std::thread::scope(|scope| {
            let sending: Vec<_> = authors
                .iter()
                .map(|author| {
                    scope.spawn(move || {
                        (0..5)
                            .map(|number| answer_to(author, "bob", &format!("{number}")))
                            .collect::<Result<Vec<_>, _>>()
                    })
                })
                .collect();
            let mut kept = 0;
            for answers in sending {
                for answer in answers.join().expect("the agent does not panic")? {
                    if answer.status() == 202 {
                        kept += 1;
                    } else {
                        stage.observe(is_over_quota(&answer), "202 or over the quota")?;
                    }
                }
            }
            Ok::<_, Failure>(kept)
        })?;
        stage.observe(kept == 10, &format!("{kept} were kept, 10 may be"))
    });
}

/// The MESSAGE requests that arrive at an agent until there are no more.
fn collect(agent: &UserAgent) -> Vec<Envelope> {
    let patience = Duration::from_secs(3);
    std::iter::from_fn(|| agent.expect_request_within("MESSAGE", patience).ok())
        .filter_map(|request| request.envelope().ok())
        .collect()
}

#[test]
fn whatever_the_moment_of_a_crash_each_message_is_either_delivered_or_told_as_failed() {
    let eight = Configuration::open()
        .with("users", "max_messages = 8")
        .with("users", "when_full = \"drop-oldest\"");
    on_every_shard_count(&eight, |stage| {
        for (round, count) in [9, 10, 14].into_iter().enumerate() {
            let (author, reader) = (format!("author{round}"), format!("reader{round}"));
            let (author, reader) = (stage.agent(&author)?, stage.agent(&reader)?);
            let to = format!("reader{round}");
            let mut kept = Vec::new();
            for number in 0..count {
                let envelope = author.envelope(&to, &format!("text {number}"));
                let envelope = envelope.asking("negative-delivery");
                author.sends_envelope(&to, &envelope)?.expect_status(202)?;
                kept.push(envelope.message_id);
            }
            // The last receipts and settlements may be on their way to the disk.
            stage.kill9()?;
            stage.restart()?;
            author.registers()?;
            reader.registers()?;
            let delivered: BTreeSet<String> = collect(&reader)
                .into_iter()
                .map(|got| got.message_id)
                .collect();
            let receipts = collect(&author);
            let is_told = |id: &String| receipts.iter().any(|got| got.notifies("failed", id));
            let lost = kept
                .iter()
                .find(|id| !delivered.contains(*id) && !is_told(id));
            stage.observe(lost.is_none(), "each is delivered or told")?;
            let newest = kept.iter().rev().take(8);
            let all = newest.into_iter().all(|id| delivered.contains(id));
            stage.observe(all, "the newest eight are delivered")?;
        }
        Ok(())
    });
}

#[test]
fn an_expired_chat_message_is_told_as_failed() {
    let short = Configuration::open().with("deferral", "lifetime = \"2s\"");
    on_every_shard_count(&short, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let chat = alice.opens_chat("bob")?;
        let asked = alice.envelope("bob", "hello").asking("negative-delivery");
        chat.sends(&asked)?.expect_status(200)?;
        chat.hangs_up()?;
        alice.expect_notification("failed", &asked.message_id)?;
        bob.registers()?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn no_message_lives_longer_than_the_longest_lifetime_whatever_its_author_says() {
    let short = Configuration::open()
        .with("deferral", "lifetime = \"1s\"")
        .with("deferral", "max_lifetime = \"2s\"");
    on_every_shard_count(&short, |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        // The longest that RFC 3261 §20.19 allows, and a Date far ahead.
        for (name, value) in [
            ("Expires", "4294967295"),
            ("Date", "Sat, 13 Nov 2100 23:29:00 GMT"),
        ] {
            let asked = alice.envelope("bob", "hello").asking("negative-delivery");
            let draft = Draft::new("MESSAGE", "sip:bob@im.test")
                .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
                .header("Conversation-ID", &fresh("conv-"))
                .header("Contribution-ID", &fresh("contr-"))
                .header(name, value)
                .body("message/cpim", &asked.to_octets());
            alice.sends(draft)?.expect_status(202)?;
            alice.expect_notification("failed", &asked.message_id)?;
        }
        Ok(())
    });
}

/// Flips an octet of a text in the log.
fn damage(stage: &Stage, text: &str) -> Result<(), Failure> {
    let mut found = false;
    for entry in std::fs::read_dir(stage.folder().join("data/log"))? {
        let path = entry?.path();
        let mut octets = std::fs::read(&path)?;
        let places = octets.windows(text.len());
        let Some(at) = places.clone().position(|window| window == text.as_bytes()) else {
            continue;
        };
        octets[at] ^= 4;
        std::fs::write(&path, octets)?;
        found = true;
    }
    stage.observe(found, "the text is in the log")
}

#[test]
fn a_message_that_is_damaged_on_disk_is_told_as_failed_and_the_others_arrive() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        let asked = alice
            .envelope("bob", "to be damaged")
            .asking("negative-delivery");
        alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        alice.sends_message("bob", "sound")?.expect_status(202)?;
        alice.unregisters()?;
        stage.kill9()?;
        damage(stage, "to be damaged")?;
        stage.restart()?;
        bob_gets(stage, &["sound"])?;
        alice.registers()?;
        alice.expect_notification("failed", &asked.message_id)?;
        Ok(())
    });
}

/// The refusal of a chat, with the warning of too many.
fn is_one_too_many(answer: &SipText) -> bool {
    let warning = answer.header_or_empty("Warning");
    warning.contains("399") && warning.contains("102 Too many participants")
}

#[test]
fn one_chat_more_than_a_user_may_have_is_refused_until_another_ends() {
    let configuration = Configuration::open().with("limits", "chats_per_user = 2");
    on_every_shard_count(&configuration, |stage| {
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        // Who is called is away: the server answers, and keeps what is said.
        let first = alice.opens_chat("bob")?;
        let second = alice.opens_chat("dave")?;
        let refused = alice.invites("erin")?.expect_status(503)?;
        stage.observe(
            is_one_too_many(&refused),
            "the caller has as many as he may",
        )?;
        let third = carol.opens_chat("bob")?;
        let frank = stage.agent("frank")?;
        let refused = frank.invites("bob")?.expect_status(486)?;
        stage.observe(
            is_one_too_many(&refused),
            "the callee has as many as he may",
        )?;
        let envelope = frank.envelope("bob", "is not kept");
        let refused = frank.invites_saying("bob", &envelope, false)?;
        let refused = refused.expect_status(503)?;
        stage.observe(
            is_one_too_many(&refused),
            "the callee has as many as he may",
        )?;
        let counted = super::attack_flood::metric(
            stage,
            "restante_traffic_refused_total{reason=\"user-chats\"}",
        )?;
        stage.observe(counted == 3, "they are counted")?;
        first.hangs_up()?;
        let again = frank.opens_chat("bob")?;
        alice.opens_chat("erin")?.hangs_up()?;
        again.hangs_up()?;
        second.hangs_up()?;
        third.hangs_up()
    });
}
