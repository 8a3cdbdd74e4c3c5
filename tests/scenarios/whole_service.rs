//! Everything at once: three kinds of devices of one user, two authors of whom one hides, a refusal, a
//! crash in the middle, and receipts of every kind.

use std::time::Duration;

use restante::demo::{
    Answering, Disposition, Draft, Envelope, Failure, PAGER_TAG, Profile, Setup, Transport,
    UserAgent, fresh,
};

use crate::support::{Configuration, Family, Shown, Stage, on_every_shard_count};

const NOBODY: &str = "sip:anonymous@anonymous.invalid";
const RECEIPTS: &str = "positive-delivery, negative-delivery, display, processing";

/// Three chat messages for Bob, who is away; the author hears of each that it is stored.
fn writes_to_bob(author: &UserAgent) -> Result<Vec<Envelope>, Failure> {
    let chat = author.opens_chat("bob")?;
    let mut sent = Vec::new();
    for text in ["first", "second\r\n\r\n--cut", "dritte Größe \u{1f98a}"] {
        let envelope = author.envelope("bob", text).asking(RECEIPTS);
        chat.sends(&envelope)?.expect_status(200)?;
        author.expect_notification("stored", &envelope.message_id)?;
        sent.push(envelope);
    }
    chat.hangs_up()?;
    Ok(sent)
}

/// A MESSAGE for Bob from somebody who does not want to be known.
fn writes_unnamed(author: &UserAgent) -> Result<Envelope, Failure> {
    let envelope = Envelope::text(NOBODY, "sip:bob@im.test", "guess who").asking("display");
    let draft = Draft::new("MESSAGE", "sip:bob@im.test")
        .from_value(&format!("<{NOBODY}>;tag={}", fresh("t")))
        .header("Privacy", "id")
        .header("P-Preferred-Identity", &format!("<{}>", author.uri()))
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .body("message/cpim", &envelope.to_octets());
    author.sends(draft)?.expect_status(202)?;
    Ok(envelope)
}

/// A MESSAGE for somebody who never comes, worth two seconds.
fn writes_in_vain(author: &UserAgent) -> Result<Envelope, Failure> {
    let envelope = author
        .envelope("erin", "now or never")
        .asking("negative-delivery");
    let draft = Draft::new("MESSAGE", "sip:erin@im.test")
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .header("Expires", "2")
        .body("message/cpim", &envelope.to_octets());
    author.sends(draft)?.expect_status(202)?;
    Ok(envelope)
}

/// What a device shows of the chat, in order and to the last octet.
fn observe_shown(
    stage: &Stage,
    author: &UserAgent,
    sent: &[Envelope],
    shown: &[Shown],
) -> Result<(), Failure> {
    let wanted = sent.iter().map(|envelope| Shown {
        author: author.uri(),
        octets: envelope.to_octets(),
    });
    let wanted: Vec<Shown> = wanted.collect();
    stage.observe(wanted == shown, &format!("the chat is whole: {shown:?}"))
}

fn expect_unnamed(
    stage: &Stage,
    device: &UserAgent,
    sent: &Envelope,
    author: &UserAgent,
) -> Result<(), Failure> {
    let message = device.expect_message()?;
    let text = String::from_utf8_lossy(message.text().octets()).to_lowercase();
    stage.observe(
        message.text().body() == sent.to_octets() && !text.contains("dora"),
        "what the unnamed author wrote, and nothing of who it is",
    )?;
    stage.observe(
        !text.contains(&author.address().to_string()),
        "nor where it came from",
    )
}

#[test]
fn three_device_families_two_authors_a_refusal_a_crash_and_receipts_of_every_kind() {
    let everywhere = Configuration::open().with("users", "copy_to = \"every\"");
    on_every_shard_count(&everywhere, |stage| {
        let alice = stage.agent("+4670000001")?;
        let (dora, carol) = (stage.agent("dora")?, stage.agent("carol")?);
        let device = || stage.agent_with("bob", Transport::Tcp, Profile::Plain);
        alice.registers()?;
        dora.registers()?;
        let chat = writes_to_bob(&alice)?;
        let unnamed = writes_unnamed(&dora)?;
        let in_vain = writes_in_vain(&alice)?;
        stage.kill9()?;
        stage.restart()?;
        alice.registers()?;
        dora.registers()?;
        // The first device: its user does not want Alice's messages now, and takes the others.
        let strict = device()?;
        Family::RustCpm.registers(&strict)?;
        strict.expect_invite()?.refuses(480);
        expect_unnamed(stage, &strict, &unnamed, &dora)?;
        strict.notifies(&unnamed, Disposition::Displayed)?;
        dora.expect_notification("displayed", &unnamed.message_id)?;
        // Later he does; the server dies when one of them is confirmed.
        Family::RustCpm.registers(&strict)?;
        let call = strict.expect_invite()?.taking(Answering::Only(1));
        let replay = call.answers(Setup::Active, "recvonly")?;
        let first = replay.msrp.expect_message()?;
        stage.observe(first.body == chat[0].to_octets(), "oldest first")?;
        // What one device has got is durable within 5 ms.
        std::thread::sleep(Duration::from_secs(1));
        stage.kill9()?;
        stage.restart()?;
        for agent in [&alice, &dora] {
            agent.registers()?;
        }
        strict.drops_connection();
        Family::RustCpm.registers(&strict)?;
        let rest = Family::RustCpm.takes_replay(&strict, 2)?;
        observe_shown(stage, &alice, &chat[1..], &rest)?;
        // The second device gets all of it, and confirms the first message before it answers.
        let old = device()?;
        Family::RcsJta.registers(&old)?;
        let shown = Family::RcsJta.takes_replay(&old, chat.len())?;
        observe_shown(stage, &alice, &chat, &shown)?;
        expect_unnamed(stage, &old, &unnamed, &dora)?;
        expect_of(&alice, &in_vain, "failed", &chat[0], "delivered")?;
        // The third knows MESSAGE alone.
        let plain = device()?;
        Family::PlainSip.registers(&plain)?;
        let shown = Family::PlainSip.takes_replay(&plain, chat.len())?;
        observe_shown(stage, &alice, &chat, &shown)?;
        expect_unnamed(stage, &plain, &unnamed, &dora)?;
        // One receipt of a kind, from the recipient alone.
        plain.notifies(&chat[0], Disposition::Delivered)?;
        plain.notifies(&chat[1], Disposition::Displayed)?;
        alice.expect_notification("displayed", &chat[1].message_id)?;
        let forged = chat[2].notification(Disposition::Displayed);
        let refusal = carol.sends_envelope(AUTHOR, &forged)?.expect_status(403)?;
        stage.observe(refusal.header("Warning").is_some(), "with a warning")?;
        for each in [&strict, &old, &plain] {
            each.expect_no("INVITE")?;
            each.expect_no("MESSAGE")?;
        }
        alice.expect_no("MESSAGE")?;
        dora.expect_no("MESSAGE")
    });
}

/// The author's address, as others write it.
const AUTHOR: &str = "+4670000001";

/// Two notifications, in whichever order they come.
fn expect_of(
    agent: &UserAgent,
    one: &Envelope,
    status: &str,
    other: &Envelope,
    other_status: &str,
) -> Result<(), Failure> {
    let notices = [
        agent.expect_message()?.envelope()?,
        agent.expect_message()?.envelope()?,
    ];
    let has = |status: &str, of: &Envelope| {
        notices
            .iter()
            .any(|notice| notice.notifies(status, &of.message_id))
    };
    match has(status, one) && has(other_status, other) {
        true => Ok(()),
        false => Err(agent.failure(format!("expected {status} and {other_status}"))),
    }
}
