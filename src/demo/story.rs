//! The product's main job, as two people see it.
//!
//! Alice writes to Bob while he is away; Bob comes back and gets everything in order; his receipts
//! reach Alice. Every step is observed from outside. [`super::stage`] says on which server.

use super::envelope::{Disposition, Envelope, fresh};
use super::failure::Failure;
use super::sdp_text::{Setup, attribute};
use super::transcript::Transcript;
use super::user_agent::UserAgent;

/// The two people and what they say.
pub(super) struct Story {
    alice: UserAgent,
    bob: UserAgent,
    transcript: Transcript,
    conversation: String,
}

/// What Alice was told is in custody.
struct Kept {
    chat: Vec<Envelope>,
    pager: Envelope,
}

impl Story {
    pub(super) fn new(alice: UserAgent, bob: UserAgent, transcript: &Transcript) -> Self {
        Self {
            alice,
            bob,
            transcript: transcript.clone(),
            conversation: fresh("conversation-"),
        }
    }

    /// Plays it; `meanwhile` happens between custody and replay.
    pub(super) fn play(
        &self,
        meanwhile: impl FnOnce(&Transcript) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let kept = self.bob_goes_away_and_alice_writes()?;
        meanwhile(&self.transcript)?;
        self.bob_comes_back_and_gets_everything(&kept)?;
        self.receipts_reach_alice(&kept)?;
        self.nothing_is_left()
    }

    /// Takes both registrations away from a server that goes on without them.
    pub(super) fn leave(&self) -> Result<(), Failure> {
        self.transcript.note("Both go.");
        self.alice.unregisters()?;
        self.bob.unregisters().map(|_| ())
    }

    fn bob_goes_away_and_alice_writes(&self) -> Result<Kept, Failure> {
        let (alice, bob) = (&self.alice, &self.bob);
        let to_bob = bob.uri();
        self.transcript
            .note("Alice and Bob register; then Bob goes away.");
        alice.registers()?;
        bob.registers()?;
        bob.unregisters()?;

        self.transcript.note(
            "Alice opens a chat; the server answers in Bob's place and keeps what she writes.",
        );
        let call = alice.invites_with(&to_bob, Setup::ActPass, &self.conversation)?;
        let chat = call.expect_accepted()?;
        let texts = [
            "Lunch on Tuesday?",
            "Same place.",
            "I will bring the plans.",
        ];
        let mut sent = Vec::new();
        for (number, text) in texts.into_iter().enumerate() {
            let mut envelope = alice.envelope(&to_bob, text);
            if number == 0 {
                envelope = envelope.asking("positive-delivery, display, processing");
            }
            chat.sends(&envelope)?.expect_status(200)?;
            sent.push(envelope);
        }
        alice.expect_notification("stored", &sent[0].message_id)?;
        chat.hangs_up()?;

        self.transcript
            .note("Alice also sends a pager message: accepted, not yet delivered.");
        let pager = alice.envelope(&to_bob, "Running ten minutes late");
        alice.sends_envelope(&to_bob, &pager)?.expect_status(202)?;
        Ok(Kept { chat: sent, pager })
    }

    fn bob_comes_back_and_gets_everything(&self, kept: &Kept) -> Result<(), Failure> {
        let bob = &self.bob;
        self.transcript
            .note("Bob comes back; the server calls him and replays over MSRP.");
        bob.registers()?;
        let call = bob.expect_invite()?;
        self.observe(
            attribute(&call.offer(), "sendonly").is_some(),
            "the replay INVITE offers a=sendonly",
        )?;
        self.observe(
            call.text().header("Conversation-ID") == Some(&self.conversation),
            "the replay INVITE carries the stored Conversation-ID",
        )?;
        let replay = call.answers_recvonly(Setup::Active)?;
        for envelope in &kept.chat {
            let message = replay.msrp.expect_message()?;
            self.observe(
                message.body == envelope.to_octets(),
                "each message arrives in order and byte-identical",
            )?;
        }
        replay.expect_bye()?;
        let message = bob.expect_message()?;
        self.observe(
            message.text().body() == kept.pager.to_octets(),
            "the pager message arrives byte-identical",
        )
    }

    fn receipts_reach_alice(&self, kept: &Kept) -> Result<(), Failure> {
        let Some(asked) = kept.chat.first() else {
            return Ok(());
        };
        self.transcript
            .note("Bob's receipts go to Alice, each by a MESSAGE of its own.");
        for (disposition, status) in [
            (Disposition::Delivered, "delivered"),
            (Disposition::Displayed, "displayed"),
        ] {
            self.bob.notifies(asked, disposition)?;
            self.alice.expect_notification(status, &asked.message_id)?;
        }
        Ok(())
    }

    fn nothing_is_left(&self) -> Result<(), Failure> {
        self.transcript
            .note("Bob registers again; nothing comes a second time.");
        self.bob.registers()?;
        self.bob.expect_no("INVITE")?;
        self.bob.expect_no("MESSAGE")
    }

    fn observe(&self, seen: bool, what: &str) -> Result<(), Failure> {
        match seen {
            true => Ok(()),
            false => Err(Failure::new(what, &self.transcript)),
        }
    }
}
