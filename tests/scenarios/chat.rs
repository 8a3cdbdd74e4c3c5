//! One-to-one chat between two people who are both there.

use std::ops::Range;

use restante::demo::{
    Answering, Chat, Disposition, Envelope, Failure, Profile, SESSION_TAG, Setup, Transport, fresh,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

const COMPOSING: &[u8] = b"<?xml version=\"1.0\"?>\r\n\
    <isComposing xmlns=\"urn:ietf:params:xml:ns:im-iscomposing\"><state>active</state></isComposing>";

/// Alice's call to Bob, who answers as told; then `conversation` between them.
fn live(
    stage: &Stage,
    setup: Setup,
    conversation: impl Fn(&LiveChat<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
    let bob = stage.agent("bob")?;
    alice.registers()?;
    bob.registers()?;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.opens_chat("bob"));
        let at_bob = bob.expect_invite()?.answers(setup, "sendrecv")?;
        let at_alice = call.join().expect("the agent does not panic")?;
        conversation(&LiveChat {
            alice: &alice,
            at_alice: &at_alice,
            at_bob: &at_bob,
        })?;
        at_alice.hangs_up()?;
        at_bob.expect_bye()?;
        Ok(())
    })
}

/// A message that its author sends piece by piece, when told.
pub struct Piecemeal<'a> {
    chat: &'a Chat<'a>,
    id: String,
    content_type: &'a str,
    octets: &'a [u8],
}

impl<'a> Piecemeal<'a> {
    pub fn new(chat: &'a Chat<'a>, content_type: &'a str, octets: &'a [u8]) -> Self {
        let id = fresh("m");
        Self {
            chat,
            id,
            content_type,
            octets,
        }
    }

    /// The same message, as one who tells two stories about it would go on.
    pub fn instead(&self, octets: &'a [u8]) -> Self {
        Self {
            id: self.id.clone(),
            octets,
            ..*self
        }
    }

    /// These octets of it, from 0; returns the transaction.
    pub fn sends(&self, range: Range<usize>) -> Result<String, Failure> {
        let (transaction, total) = (fresh("x"), self.octets.len());
        let flag = if range.end == total { '$' } else { '+' };
        let end = match range.is_empty() {
            true => "*".to_owned(),
            false => range.end.to_string(),
        };
        let head = format!(
            "MSRP {transaction} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: {}\r\n\
             Byte-Range: {}-{end}/{total}\r\nContent-Type: {}\r\n\r\n",
            self.chat.msrp.peer_path(),
            self.chat.msrp.path(),
            self.id,
            range.start + 1,
            self.content_type,
        );
        let end = format!("\r\n-------{transaction}{flag}\r\n");
        let frame = [head.as_bytes(), &self.octets[range], end.as_bytes()].concat();
        self.chat.msrp.sends_octets(&frame)?;
        Ok(transaction)
    }
}

struct LiveChat<'a> {
    alice: &'a restante::demo::UserAgent,
    at_alice: &'a restante::demo::Chat<'a>,
    at_bob: &'a restante::demo::Chat<'a>,
}

#[test]
fn a_chat_flows_both_ways_whoever_connects() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        for setup in [Setup::Active, Setup::Passive] {
            live(stage, setup, |chat| {
                for number in 0..5 {
                    chat.at_alice.says(&format!("from alice {number}"))?;
                    chat.at_bob.expect_text(&format!("from alice {number}"))?;
                    chat.at_bob.says(&format!("from bob {number}"))?;
                    chat.at_alice.expect_text(&format!("from bob {number}"))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn typing_and_receipts_pass_inside_the_session() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, Setup::Active, |chat| {
            let typing = chat
                .at_alice
                .msrp
                .sending("application/im-iscomposing+xml", COMPOSING);
            typing.send()?.expect_status(200)?;
            let seen = chat.at_bob.msrp.expect_message()?;
            stage.observe(seen.body == COMPOSING, "Bob sees that Alice types")?;

            let asked = chat.alice.envelope("bob", "hello").asking("display");
            chat.at_alice.sends(&asked)?.expect_status(200)?;
            let got = chat.at_bob.expect_text("hello")?;
            let receipt = got.notification(Disposition::Displayed);
            chat.at_bob.sends(&receipt)?.expect_status(200)?;
            let back = chat.at_alice.msrp.expect_message()?;
            stage.observe(
                back.envelope()
                    .is_some_and(|back| back.notifies("displayed", &asked.message_id)),
                "the receipt reaches Alice in the session",
            )
        })
    });
}

#[test]
fn what_both_take_passes_without_an_envelope_under_the_name_it_was_given() {
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, Setup::Active, |chat| {
            for id in ["0", "0.1", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"] {
                let bare = Piecemeal {
                    chat: chat.at_alice,
                    id: id.to_owned(),
                    content_type: "text/plain",
                    octets: b"no envelope",
                };
                let transaction = bare.sends(0..11)?;
                chat.at_alice.msrp.expect_response(&transaction, 200)?;
                let got = chat.at_bob.msrp.expect_message()?;
                stage.observe(
                    got.body == b"no envelope" && got.message_id == id,
                    "as it was sent",
                )?;
            }
            Ok(())
        })
    });
}

#[test]
fn a_device_that_states_messages_alone_is_still_asked_for_a_chat_unless_the_caller_insists() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent("bob")?;
        alice.registers()?;
        let states = "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"";
        bob.registers_as("messages/1.0", &format!("<{}>;{states}", bob.contact_uri()))?;
        let insisting = alice
            .invite_draft("bob", &fresh("conv-"))
            .header("Accept-Contact", &format!("*;{SESSION_TAG};require"));
        let kept = alice.invites_as("bob", insisting, Setup::ActPass)?;
        kept.expect_accepted()?.hangs_up()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            at_alice.says("after all")?;
            at_bob.expect_text("after all")?;
            at_alice.hangs_up()?;
            at_bob.expect_bye()?;
            Ok(())
        })
    });
}

#[test]
fn chunks_in_any_order_and_reports_pass_through() {
    let long = "a long story ".repeat(8_000);
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, Setup::Passive, |chat| {
            let envelope = chat.alice.envelope("bob", &long);
            for backwards in [false, true] {
                let mut sending = chat
                    .at_alice
                    .msrp
                    .sending("message/cpim", &envelope.to_octets())
                    .in_chunks(2_048)
                    .success_report();
                if backwards {
                    sending = sending.backwards();
                }
                let sent = sending.send()?;
                sent.expect_status(200)?;
                sent.expect_report(200)?;
                let got = chat.at_bob.msrp.expect_message()?;
                stage.observe(got.body == envelope.to_octets(), "it arrives whole")?;
            }
            Ok(())
        })
    });
}

#[test]
fn a_short_message_passes_a_long_one_that_is_still_arriving() {
    let long = "a long story ".repeat(4_000);
    on_every_shard_count(&Configuration::open(), |stage| {
        live(stage, Setup::Active, |chat| {
            let octets = chat.alice.envelope("bob", &long).to_octets();
            let story = Piecemeal::new(chat.at_alice, "message/cpim", &octets);
            let begun = story.sends(0..3_000)?;
            chat.at_alice.msrp.expect_response(&begun, 200)?;
            chat.at_alice.says("meanwhile")?;
            chat.at_bob.expect_text("meanwhile")?;
            let rest = story.sends(3_000..octets.len())?;
            chat.at_alice.msrp.expect_response(&rest, 200)?;
            let got = chat.at_bob.msrp.expect_message()?;
            stage.observe(got.body == octets, "the long one arrives whole")
        })
    });
}

#[test]
fn who_hangs_up_amid_a_long_message_has_the_short_one_behind_it_delivered() {
    let long = "a long story ".repeat(4_000);
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            let octets = alice.envelope("bob", &long).to_octets();
            let story = Piecemeal::new(&at_alice, "message/cpim", &octets);
            let begun = story.sends(0..3_000)?;
            at_alice.msrp.expect_response(&begun, 200)?;
            at_alice.says("before I go")?;
            at_alice.hangs_up()?;
            at_bob.expect_bye()?;
            at_bob.expect_text("before I go").map(|_| ())
        })
    });
}

#[test]
fn a_lost_leg_turns_what_is_unconfirmed_into_custody() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let ringing = bob.expect_invite()?.taking(Answering::Only(1));
            let at_bob = ringing.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            at_alice.says("confirmed")?;
            let held: Envelope = alice.envelope("bob", "not confirmed");
            let sent = at_alice.sends(&held)?;
            at_bob.msrp.expect_message()?;
            at_bob.msrp.expect_message()?;
            at_bob.msrp.drops_connection();
            sent.expect_status(200)?;
            bob.registers()?;
            let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
            let message = replay.msrp.expect_message()?;
            stage.observe(
                message.body == held.to_octets(),
                "the unconfirmed message is replayed whole, the confirmed one is not",
            )?;
            replay.expect_bye()?;
            stage.observe(
                replay
                    .msrp
                    .next_message(std::time::Duration::ZERO)
                    .is_none(),
                "nothing else is replayed",
            )
        })
    });
}

#[test]
fn a_long_message_to_a_caller_who_is_lost_is_kept_whichever_shard_serves_him() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let bob = stage.agent("bob")?;
        bob.registers()?;
        // With four shards each lives on another, and none on Bob's.
        for caller in ["alice", "carol", "dave"] {
            let alice = stage.agent(caller)?;
            std::thread::scope(|scope| {
                let call = scope.spawn(|| {
                    let call = alice.invites("bob")?.taking(Answering::Only(0));
                    call.expect_accepted()
                });
                let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
                let at_alice = call.join().expect("the agent does not panic")?;
                let envelope = bob.envelope(caller, &"a long story ".repeat(8_000));
                let sent = at_bob.sends(&envelope)?;
                at_alice.msrp.expect_message()?;
                at_alice.msrp.drops_connection();
                sent.expect_status(200)?;
                at_bob.expect_bye()?;
                alice.registers()?;
                let replay = alice.expect_invite()?.answers_recvonly(Setup::Active)?;
                let message = replay.msrp.expect_message()?;
                stage.observe(message.body == envelope.to_octets(), "it comes whole")?;
                replay.expect_bye()?;
                alice.unregisters().map(|_| ())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_caller_who_gives_up_stops_the_ringing() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let mut call = alice.invites("bob")?;
        let ringing = bob.expect_invite()?;
        ringing.rings();
        call.expect_ringing()?;
        call.cancels()?;
        ringing.expect_cancel()
    });
}

#[test]
fn a_person_who_declines_a_chat_is_believed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let call = alice.invites("bob")?;
        bob.expect_invite()?.refuses(603);
        call.expect_status(603)?;
        Ok(())
    });
}
