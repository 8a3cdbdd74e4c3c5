//! Each family of deployed clients gets the whole replay, in order and octet for octet, each in the one
//! form that it takes (cpm-facts §7.2).

use restante::demo::{
    Envelope, Failure, Profile, SESSION_TAG, SipText, Transport, UserAgent, address, attribute,
};

use crate::support::{Configuration, Family, Shown, Stage, on_every_shard_count};

/// The author, whose address is a telephone number: that is how the oldest clients want it.
const AUTHOR: &str = "+4670000001";

/// Texts that a careless hand would change.
const TEXTS: [&str; 4] = [
    "plain",
    "two\r\n\r\nparagraphs\r\n",
    "--boundary\r\nContent-Type: message/cpim\r\n\r\n",
    "Grüße \u{1f98a} \0 und mehr ",
];

/// The author's messages for Bob, who is away; asked for a receipt where `asking` says so.
fn writes(author: &UserAgent, asking: bool) -> Result<Vec<Envelope>, Failure> {
    let chat = author.opens_chat("bob")?;
    let mut sent = Vec::new();
    for text in TEXTS {
        let mut envelope = author.envelope("bob", text);
        if asking {
            envelope = envelope.asking("positive-delivery, display");
        }
        chat.sends(&envelope)?.expect_status(200)?;
        sent.push(envelope);
    }
    chat.hangs_up()?;
    Ok(sent)
}

fn expect_all(stage: &Stage, sent: &[Envelope], shown: &[Shown]) -> Result<(), Failure> {
    let wanted = |envelope: &Envelope| Shown {
        author: format!("sip:{AUTHOR}@im.test"),
        octets: envelope.to_octets(),
    };
    let wanted: Vec<Shown> = sent.iter().map(wanted).collect();
    stage.observe(wanted == shown, &format!("all of it is shown: {shown:?}"))
}

fn the_family_sees_the_whole_replay(configuration: &Configuration, family: Family) {
    on_every_shard_count(configuration, |stage| {
        let author = stage.agent_with(AUTHOR, Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::Plain)?;
        let sent = writes(&author, false)?;
        family.registers(&bob)?;
        let shown = family.takes_replay(&bob, sent.len())?;
        expect_all(stage, &sent, &shown)?;
        family.registers(&bob)?;
        bob.expect_no("INVITE")?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn an_rcs_e_handset_of_the_rcsjta_family_sees_the_whole_replay() {
    the_family_sees_the_whole_replay(&Configuration::open(), Family::RcsJta);
}

#[test]
fn a_strict_cpm_client_sees_the_whole_replay() {
    the_family_sees_the_whole_replay(&Configuration::open(), Family::RustCpm);
}

#[test]
fn a_client_that_takes_everything_for_a_chat_sees_the_whole_replay() {
    the_family_sees_the_whole_replay(&Configuration::open(), Family::LineageOs);
}

#[test]
fn a_telephone_with_message_alone_sees_the_whole_replay() {
    the_family_sees_the_whole_replay(&Configuration::open(), Family::PlainSip);
}

#[test]
fn an_rcs_e_handset_confirms_the_first_message_before_it_answers() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let author = stage.agent_with(AUTHOR, Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::Plain)?;
        author.registers()?;
        let sent = writes(&author, true)?;
        Family::RcsJta.registers(&bob)?;
        let shown = Family::RcsJta.takes_replay(&bob, sent.len())?;
        expect_all(stage, &sent, &shown)?;
        author.expect_notification("delivered", &sent[0].message_id)?;
        Ok(())
    });
}

#[test]
fn a_first_message_too_long_for_an_invitation_goes_into_an_ordinary_chat() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let author = stage.agent_with(AUTHOR, Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::Plain)?;
        let chat = author.opens_chat("bob")?;
        let long = author.envelope("bob", &"long ".repeat(40_000));
        chat.sends(&long)?.expect_status(200)?;
        chat.hangs_up()?;
        Family::RcsJta.registers(&bob)?;
        let shown = Family::RcsJta.takes_replay(&bob, 1)?;
        expect_all(stage, &[long], &shown)
    });
}

/// Over UDP, to a device that takes no connection: a datagram holds less than a record of the store.
#[test]
fn a_first_message_too_long_for_a_datagram_goes_into_an_ordinary_chat() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let author = stage.agent_with(AUTHOR, Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        let chat = author.opens_chat("bob")?;
        let long = author.envelope("bob", &"long ".repeat(12_900));
        chat.sends(&long)?.expect_status(200)?;
        chat.hangs_up()?;
        Family::RcsJta.registers(&bob)?;
        let shown = Family::RcsJta.takes_replay(&bob, 1)?;
        expect_all(stage, &[long], &shown)
    });
}

#[test]
fn the_profile_of_an_account_wins_over_the_tags() {
    let forced = Configuration::digest().for_account("bob", "settings = { profile = \"rcs-e\" }");
    on_every_shard_count(&forced, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.opens_chat("bob")?.says("hello")?;
        bob.registers()?;
        expect_rcs_e(stage, bob.expect_invite()?.text())
    });
}

#[test]
fn the_profile_of_a_make_wins_over_the_tags_and_survives_a_restart() {
    let rule = "[[client]]\nuser_agent = \"lineageos\"\nprofile = \"rcs-e\"\n";
    let eager = Configuration::open().with("deferral", "retry = [\"1s\"]");
    on_every_shard_count(&eager.and(rule), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        Family::LineageOs.registers(&bob)?;
        stage.terminates()?;
        stage.restart()?;
        let call = alice.invites("bob")?;
        bob.expect_invite()?.refuses(480);
        call.expect_accepted()?.says("hello")?;
        // Nobody has registered since the start: the binding still knows its make.
        let invite = bob.expect_invite()?;
        expect_rcs_e(stage, invite.text())
    });
}

fn expect_rcs_e(stage: &Stage, invite: &SipText) -> Result<(), Failure> {
    let content_type = invite.header_or_empty("Content-Type");
    stage.observe(
        content_type.starts_with("multipart/mixed"),
        "the INVITE has the form of RCS-e",
    )
}

/// What the replay INVITE to a contact with these tags says.
fn invitation_says(
    configuration: &Configuration,
    tags: &str,
    check: impl Fn(&Stage, &SipText, &str) -> Result<(), Failure>,
) {
    on_every_shard_count(configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.opens_chat("bob")?.says("hello")?;
        let contact = format!("<{}>{tags}", bob.contact_uri());
        bob.sends_register(&contact)?.expect_status(200)?;
        let call = bob.expect_invite()?;
        check(stage, call.text(), &call.offer())?;
        every_profile(stage, call.text(), &call.offer())
    });
}

/// What all profiles have in common.
fn every_profile(stage: &Stage, invite: &SipText, offer: &str) -> Result<(), Failure> {
    let is = |name: &str, uri: &str| address(invite.header_or_empty(name)) == uri;
    stage.observe(is("From", "sip:alice@im.test"), "From: the author")?;
    stage.observe(
        is("Referred-By", "sip:alice@im.test"),
        "Referred-By: the author",
    )?;
    let contact = invite.header_or_empty("Contact");
    stage.observe(
        contact.contains(SESSION_TAG) && !contact.contains("isfocus"),
        "Contact: the session service, no isfocus",
    )?;
    stage.observe(
        invite.headers("Accept-Contact").next() == Some(&*format!("*;{SESSION_TAG}")),
        "Accept-Contact: the session service",
    )?;
    stage.observe(
        invite.header_or_empty("P-Asserted-Service")
            == "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.session",
        "P-Asserted-Service: the session service",
    )?;
    stage.observe(
        invite.header("Conversation-ID").is_some() && invite.header("Contribution-ID").is_some(),
        "both identifiers",
    )?;
    let origin = offer
        .lines()
        .find(|line| line.starts_with("o="))
        .unwrap_or("");
    let mut words = origin.split(' ').skip(1);
    let mut number = || words.next().is_some_and(|word| word.parse::<u64>().is_ok());
    stage.observe(number() && number(), "o= has numbers")?;
    stage.observe(
        attribute(offer, "sendonly").is_some()
            && attribute(offer, "setup") == Some("actpass")
            && attribute(offer, "accept-types") == Some("message/cpim"),
        "sendonly, actpass, message/cpim",
    )
}

fn asserted(invite: &SipText) -> &str {
    address(invite.header_or_empty("P-Asserted-Identity"))
}

#[test]
fn profile_rcs_has_the_store_and_forward_identity_and_a_plain_description() {
    invitation_says(
        &Configuration::open(),
        &format!(";{SESSION_TAG}"),
        |stage, invite, _| {
            stage.observe(asserted(invite) == "sip:rcse-standfw@im.test", "PAI")?;
            stage.observe(
                invite.header_or_empty("Content-Type") == "application/sdp"
                    && invite.headers("Accept-Contact").count() == 1,
                "plain, and nothing for RCS-e",
            )
        },
    );
}

#[test]
fn profile_rcs_e_has_the_first_message_beside_the_description() {
    invitation_says(
        &Configuration::open(),
        ";+g.oma.sip-im",
        |stage, invite, offer| {
            stage.observe(asserted(invite) == "sip:rcse-standfw@im.test", "PAI")?;
            expect_rcs_e(stage, invite)?;
            stage.observe(
                offer.contains("Content-Type: application/sdp")
                    && offer.contains("Content-Type: message/cpim")
                    && offer.contains("hello"),
                "both parts",
            )?;
            stage.observe(
                invite.headers("Accept-Contact").nth(1) == Some("*;+g.oma.sip-im"),
                "the tag of RCS-e is a second value",
            )
        },
    );
}

#[test]
fn profile_cpm_has_the_author_everywhere() {
    let tagless = Configuration::open().with("registrar", "tagless = \"msrp\"");
    invitation_says(&tagless, "", |stage, invite, _| {
        stage.observe(asserted(invite) == "sip:alice@im.test", "PAI: the author")?;
        stage.observe(
            invite.header_or_empty("Content-Type") == "application/sdp",
            "plain",
        )
    });
}

#[test]
fn profile_message_gets_no_session() {
    let rule = "[[client]]\nuser_agent = \"lineageos\"\nprofile = \"message\"\n";
    on_every_shard_count(&Configuration::open().and(rule), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.opens_chat("bob")?.says("hello")?;
        Family::LineageOs.registers(&bob)?;
        bob.expect_text("hello")?;
        bob.expect_no("INVITE")
    });
}
