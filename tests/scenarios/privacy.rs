//! Authors who asked to stay unnamed, and authors who take back what they wrote.

use restante::demo::{
    Draft, Envelope, Failure, PAGER_TAG, Profile, Setup, Transport, UserAgent, fresh,
};

use crate::chat::Piecemeal;
use crate::support::{Configuration, Stage, on_every_shard_count};

const NOBODY: &str = "sip:anonymous@anonymous.invalid";

/// From and Privacy of somebody who hides.
fn hiding(draft: Draft) -> Draft {
    let from = format!("\"Anonymous\" <{NOBODY}>;tag={}", fresh("f"));
    draft.from_value(&from).header("Privacy", "id")
}

fn message(from: &str, agent: &UserAgent, text: &str) -> (Draft, Envelope) {
    let envelope = Envelope::text(from, "sip:bob@im.test", text);
    let draft = Draft::new("MESSAGE", "sip:bob@im.test")
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .header("User-Agent", "alice-phone")
        .header("Contribution-ID", &fresh("contr-"))
        .header("P-Preferred-Identity", &format!("<{}>", agent.uri()))
        .body("message/cpim", &envelope.to_octets());
    (draft, envelope)
}

/// Nothing that Bob gets says who wrote it, in any header field or in the body.
fn says_nothing(stage: &Stage, octets: &[u8], alice: &UserAgent) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(octets).to_lowercase();
    let address = alice.address().to_string();
    stage.observe(!text.contains("alice"), "her name is nowhere")?;
    stage.observe(!text.contains(&address), "nor is her address")?;
    stage.observe(!text.contains("+4670000001"), "nor is her number")
}

#[test]
fn a_live_message_of_somebody_who_hides_names_nobody() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        // Whether she hides her name herself, or leaves all of it to the server.
        for from in [NOBODY.to_owned(), alice.uri()] {
            let (draft, _) = message(&from, &alice, "guess who");
            let draft = match from == NOBODY {
                true => hiding(draft),
                false => draft.header("Privacy", "id"),
            };
            let answer = alice.sends(draft)?.expect_status(200)?;
            stage.observe(
                answer.header("Conversation-ID").is_some(),
                "she hears the Conversation-ID she was given",
            )?;
            let got = bob.expect_message()?;
            says_nothing(stage, got.text().octets(), &alice)?;
            let envelope = got.envelope()?;
            stage.observe(
                got.text().header_or_empty("From").contains(NOBODY)
                    && got.text().header("P-Asserted-Identity").is_none()
                    && envelope.from == format!("<{NOBODY}>")
                    && envelope.content == b"guess who",
                "it is from nobody, and says what she wrote",
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_kept_message_of_somebody_who_hides_names_nobody_by_message() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let (draft, _) = message(&alice.uri(), &alice, "guess who");
        alice
            .sends(draft.header("Privacy", "id"))?
            .expect_status(202)?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        let got = bob.expect_message()?;
        says_nothing(stage, got.text().octets(), &alice)?;
        stage.observe(
            got.envelope()?.content == b"guess who",
            "it says what she wrote",
        )
    });
}

/// A chat INVITE of somebody who hides, taken in Bob's place or by his device.
fn opens_hidden_chat<'a>(
    alice: &'a UserAgent,
    answered: impl FnOnce() -> Result<(), Failure>,
) -> Result<restante::demo::Chat<'a>, Failure> {
    let draft = hiding(alice.invite_draft("bob", &fresh("conv-")));
    let call = alice.invites_as("bob", draft, Setup::ActPass)?;
    answered()?;
    call.expect_accepted()
}

#[test]
fn a_kept_chat_of_somebody_who_hides_names_nobody_to_any_family_of_clients() {
    let profiles = [Profile::Rcs, Profile::RcsE, Profile::Plain];
    for profile in profiles {
        let configuration = Configuration::digest().with("registrar", "tagless = \"msrp\"");
        on_every_shard_count(&configuration, |stage| {
            let alice = stage.agent("alice")?;
            let bob = stage.agent_with("bob", Transport::Udp, profile)?;
            let chat = opens_hidden_chat(&alice, || Ok(()))?;
            let hidden = Envelope::text(NOBODY, "sip:bob@im.test", "guess who");
            chat.sends(&hidden)?.expect_status(200)?;
            chat.hangs_up()?;
            stage.kill9()?;
            stage.restart()?;
            bob.registers()?;
            let call = bob.expect_invite()?;
            says_nothing(stage, call.text().octets(), &alice)?;
            stage.observe(
                call.text().header_or_empty("From").contains(NOBODY)
                    && call.text().header_or_empty("Referred-By").contains(NOBODY),
                "the invitation is from nobody",
            )?;
            if profile == Profile::RcsE {
                let body = call.offer();
                stage.observe(body.contains("guess who"), "the message is inside")?;
                call.refuses(486);
                return Ok(());
            }
            let replay = call.answers_recvonly(Setup::Active)?;
            let got = replay.msrp.expect_message()?;
            says_nothing(stage, &got.body, &alice)?;
            replay.expect_bye().map(|_| ())
        });
    }
}

#[test]
fn a_live_chat_of_somebody_who_hides_names_nobody_and_refuses_what_would() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let draft = alice
            .invite_draft("bob", &fresh("conv-"))
            .header("Privacy", "id");
        let call = alice.invites_as("bob", draft, Setup::ActPass)?;
        let invite = bob.expect_invite()?;
        says_nothing(stage, invite.text().octets(), &alice)?;
        let theirs = invite.answers(Setup::Active, "sendrecv")?;
        let chat = call.expect_accepted()?;
        let hidden = Envelope::text(NOBODY, "sip:bob@im.test", "guess who");
        chat.sends(&hidden)?.expect_status(200)?;
        theirs.expect_text("guess who")?;
        let named = alice.envelope("bob", "it is me");
        chat.sends(&named)?.expect_status(403)?;
        chat.sends(&hidden)?.expect_status(200)?;
        theirs.expect_text("guess who")?;
        Ok(())
    });
}

#[test]
fn in_a_hidden_chat_a_message_without_an_end_of_its_header_is_refused() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let mut theirs = None;
        let chat = opens_hidden_chat(&alice, || {
            theirs = Some(bob.expect_invite()?.answers(Setup::Active, "sendrecv")?);
            Ok(())
        })?;
        let theirs = theirs.expect("Bob has answered");
        let endless = format!("From: <{NOBODY}>\r\nTo: <sip:bob@im.test>\r\n");
        let sending = chat.msrp.sending("message/cpim", endless.as_bytes());
        sending.send()?.expect_status(400)?;
        let hidden = Envelope::text(NOBODY, "sip:bob@im.test", "guess who");
        chat.sends(&hidden)?.expect_status(200)?;
        theirs.expect_text("guess who")?;
        Ok(())
    });
}

#[test]
fn in_a_hidden_chat_a_header_that_comes_in_pieces_is_kept_until_it_is_whole() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        for length in [10, 20_000] {
            let mut theirs = None;
            let chat = opens_hidden_chat(&alice, || {
                theirs = Some(bob.expect_invite()?.answers(Setup::Active, "sendrecv")?);
                Ok(())
            })?;
            let hidden = Envelope::text(NOBODY, "sip:bob@im.test", &"w".repeat(length));
            let octets = hidden.to_octets();
            let message = Piecemeal::new(&chat, "message/cpim", &octets);
            for range in [0..30, 30..octets.len()] {
                let sent = message.sends(range)?;
                chat.msrp.expect_response(&sent, 200)?;
            }
            chat.hangs_up()?;
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            let got = replay.msrp.expect_message()?;
            stage.observe(got.body == octets, "Bob gets it whole")?;
            replay.expect_bye()?;
        }
        Ok(())
    });
}

#[test]
fn a_passing_request_of_somebody_who_hides_names_nobody_in_its_routes() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let sdp = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            m=audio 9 RTP/AVP 0\r\n";
        let draft = Draft::new("INVITE", "sip:bob@im.test")
            .header("Privacy", "id")
            .header("Contact", "<sip:nobody@127.0.0.1:9>")
            .body("application/sdp", sdp);
        let _sent = alice.sends(draft)?;
        let invite = bob.expect_invite()?;
        let routes = invite.text().values("Record-Route").join(" ");
        // "alice" as it stands in our routes.
        stage.observe(!routes.contains("616c696365"), "the routes do not name her")?;
        stage.observe(
            invite.text().header("P-Asserted-Identity").is_none(),
            "nobody asserts who she is",
        )?;
        invite.refuses(486);
        Ok(())
    });
}

#[test]
fn only_ones_own_identity_can_be_preferred() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let own = Draft::new("MESSAGE", "sip:bob@im.test")
            .header("P-Preferred-Identity", "<tel:+4670000001>")
            .body("text/plain", b"hello");
        alice.sends(own)?.expect_status(200)?;
        let got = bob.expect_message()?;
        stage.observe(
            got.text()
                .header_or_empty("P-Asserted-Identity")
                .contains("sip:alice@im.test"),
            "the server asserts who she is",
        )?;
        let others = Draft::new("MESSAGE", "sip:bob@im.test")
            .header("P-Preferred-Identity", "<sip:carol@im.test>")
            .body("text/plain", b"hello");
        alice.sends(others)?.expect_status(403)?;
        Ok(())
    });
}

/// A revocation of this message, as RCS clients send it to its recipient.
fn revocation(agent: &UserAgent, message_id: &str) -> Draft {
    let document = format!(
        "<?xml version=\"1.0\"?><imRevoke xmlns=\"urn:gsma:params:xml:ns:rcs:rcs:imrevoke\">\
         <Message-ID>{message_id}</Message-ID></imRevoke>"
    );
    let envelope = Envelope::new(
        &agent.uri(),
        "sip:bob@im.test",
        "application/vnd.gsma.rcsrevoke+xml",
        document.as_bytes(),
    );
    Draft::new("MESSAGE", "sip:bob@im.test")
        .header("Conversation-ID", &agent.conversation_with("bob"))
        .header("Contribution-ID", &fresh("contr-"))
        .body("message/cpim", &envelope.to_octets())
}

fn hears(stage: &Stage, agent: &UserAgent, result: &str, id: &str) -> Result<(), Failure> {
    let told = agent.expect_message()?.envelope()?;
    let text = told.content_text();
    stage.observe(
        told.content_type == "application/vnd.gsma.rcsrevoke+xml"
            && text.contains(&format!("<Result>{result}</Result>"))
            && text.contains(&format!("<Message-ID>{id}</Message-ID>")),
        result,
    )
}

#[test]
fn an_author_takes_back_what_still_waits_and_only_that() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let carol = stage.agent("carol")?;
        alice.registers()?;
        carol.registers()?;
        let (first, second) = (
            alice.envelope("bob", "first"),
            alice.envelope("bob", "second"),
        );
        for envelope in [&first, &second] {
            alice.sends_envelope("bob", envelope)?.expect_status(202)?;
        }
        stage.kill9()?;
        stage.restart()?;
        carol
            .sends(revocation(&carol, &first.message_id))?
            .expect_status(200)?;
        hears(stage, &carol, "failed", &first.message_id)?;
        alice
            .sends(revocation(&alice, &first.message_id))?
            .expect_status(200)?;
        hears(stage, &alice, "success", &first.message_id)?;
        alice
            .sends(revocation(&alice, &first.message_id))?
            .expect_status(200)?;
        hears(stage, &alice, "failed", &first.message_id)?;
        bob.registers()?;
        bob.expect_text("second")?;
        bob.expect_no("MESSAGE")?;
        alice
            .sends(revocation(&alice, &second.message_id))?
            .expect_status(200)?;
        hears(stage, &alice, "failed", &second.message_id)
    });
}
