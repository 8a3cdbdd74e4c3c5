//! One person's part of the story, so that both can be played on different hosts, while somebody kills the
//! server or cuts a network.
//!
//! Alice says `wrote` for each message that the server has acknowledged, Bob `took` for each one he
//! confirmed: KIND MESSAGE-ID SHA-256. Nothing was lost if both have said the same.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock;

use super::call::Chat;
use super::elsewhere::Elsewhere;
use super::envelope::{Disposition, Envelope};
use super::failure::Failure;
use super::msrp_receiving::Answering;
use super::sdp_text::Setup;
use super::stage::within;
use super::transcript::Transcript;
use super::user_agent::UserAgent;
use super::wire::Transport;

/// A part with an outage in it takes a minute; after this it has failed.
const LONGEST: Duration = Duration::from_secs(180);
/// After so long without anything Bob looks whether he is still registered.
const QUIET: Duration = Duration::from_secs(3);
/// How often Bob looks for both calls and messages.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Between two attempts to register.
const AGAIN: Duration = Duration::from_millis(500);

/// Whose part is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// She writes so many chat messages and one by MESSAGE, and ends when the receipts of all are here.
    Alice {
        /// Chat messages.
        messages: usize,
    },
    /// He registers, takes as many, tells Alice, and ends when nothing comes a second time. If his
    /// network or the server goes away he comes back, as a phone does.
    Bob {
        /// Chat messages.
        messages: usize,
        /// How long he takes over each before he confirms it.
        pause: Duration,
    },
}

/// Plays one part against a running server. Success only if everything that was written was taken.
pub fn run_part(elsewhere: Elsewhere, part: Part) -> ExitCode {
    let outcome = within(LONGEST, move || match part {
        Part::Alice { messages } => play_alice(&elsewhere, messages),
        Part::Bob { messages, pause } => play_bob(&elsewhere, messages, pause),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("Not observed: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn play_alice(elsewhere: &Elsewhere, messages: usize) -> Result<(), Failure> {
    let transcript = Transcript::new();
    let server = elsewhere.look_up()?;
    let alice = elsewhere.agent(&elsewhere.alice, server, Transport::Udp, &transcript)?;
    let bob = alice.uri_of(&elsewhere.bob.user);
    alice.registers()?;
    let chat = alice.opens_chat(&bob)?;
    let mut open = HashSet::new();
    for number in 1..=messages {
        let text = format!("Message {number} of {messages}");
        let envelope = alice.envelope(&bob, &text).asking("positive-delivery");
        chat.sends(&envelope)?.expect_status(200)?;
        say("wrote", "chat", &envelope.message_id, &envelope.to_octets());
        open.insert(envelope.message_id);
    }
    chat.hangs_up()?;
    let pager = alice
        .envelope(&bob, "By MESSAGE")
        .asking("positive-delivery");
    alice.sends_envelope(&bob, &pager)?.expect_2xx()?;
    say("wrote", "pager", &pager.message_id, &pager.to_octets());
    open.insert(pager.message_id);
    while !open.is_empty() {
        let receipt = alice
            .expect_request_within("MESSAGE", LONGEST)?
            .envelope()?;
        open.retain(|message_id| !receipt.notifies("delivered", message_id));
    }
    alice.unregisters().map(|_| ())
}

fn play_bob(elsewhere: &Elsewhere, messages: usize, pause: Duration) -> Result<(), Failure> {
    let transcript = Transcript::new();
    let server = elsewhere.look_up()?;
    let reader = Reader {
        elsewhere,
        bob: elsewhere.agent(&elsewhere.bob, server, Transport::Tcp, &transcript)?,
        pause,
    };
    let mut taken = Taken::default();
    while taken.envelopes.len() <= messages {
        reader.comes_back();
        reader.takes_what_comes(&mut taken, messages);
    }
    for envelope in &taken.envelopes {
        reader.tells_author(envelope);
    }
    reader.bob.registers()?;
    reader.bob.expect_no("INVITE")?;
    reader.bob.expect_no("MESSAGE")?;
    reader.bob.unregisters().map(|_| ())
}

/// What Bob has, without what came a second time because its confirmation was lost.
#[derive(Default)]
struct Taken {
    envelopes: Vec<Envelope>,
}

impl Taken {
    fn add(&mut self, kind: &str, body: &[u8]) {
        let Some(envelope) = Envelope::read(body) else {
            return;
        };
        let known = |had: &Envelope| had.message_id == envelope.message_id;
        if envelope.is_notification() || self.envelopes.iter().any(known) {
            return;
        }
        say("took", kind, &envelope.message_id, body);
        self.envelopes.push(envelope);
    }
}

struct Reader<'a> {
    elsewhere: &'a Elsewhere,
    bob: UserAgent,
    pause: Duration,
}

impl Reader<'_> {
    /// Registers, as often as it takes.
    fn comes_back(&self) {
        while self.bob.registers().is_err() {
            self.tries_again();
        }
    }

    /// With a new connection, and to a new address if the server has one.
    fn tries_again(&self) {
        std::thread::sleep(AGAIN);
        match self.elsewhere.look_up() {
            Ok(server) => self.bob.use_server(server),
            Err(_) => self.bob.drops_connection(),
        }
    }

    /// Until he has everything or nothing has come for a while.
    fn takes_what_comes(&self, taken: &mut Taken, messages: usize) {
        let mut heard = clock::now().instant;
        while taken.envelopes.len() <= messages && clock::now().instant.since(heard) < QUIET {
            while let Ok(message) = self.bob.expect_request_within("MESSAGE", Duration::ZERO) {
                taken.add("pager", message.text().body());
                heard = clock::now().instant;
            }
            let Ok(call) = self.bob.expect_invite_within(LOOK_UP) else {
                continue;
            };
            let call = call.taking(Answering::After(self.pause));
            if let Ok(replay) = call.answers_recvonly(Setup::Active) {
                self.takes_replay(&replay, taken);
            }
            heard = clock::now().instant;
        }
    }

    /// Until the server ends the session, or nothing comes for a while.
    fn takes_replay(&self, replay: &Chat<'_>, taken: &mut Taken) {
        let patience = QUIET + self.pause;
        let mut heard = clock::now().instant;
        while clock::now().instant.since(heard) < patience && !replay.msrp.is_closed() {
            while let Some(message) = replay.msrp.next_message(LOOK_UP) {
                taken.add("chat", &message.body);
                heard = clock::now().instant;
            }
        }
        replay.msrp.drops_connection();
        // What was confirmed at the last moment counts.
        while let Some(message) = replay.msrp.next_message(LOOK_UP + self.pause) {
            taken.add("chat", &message.body);
        }
    }

    /// His device has it; as often as it takes.
    fn tells_author(&self, envelope: &Envelope) {
        while self.bob.notifies(envelope, Disposition::Delivered).is_err() {
            self.tries_again();
        }
    }
}

fn say(what: &str, kind: &str, message_id: &str, octets: &[u8]) {
    let hash: String = Sha256::digest(octets)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    println!("{what} {kind} {message_id} {hash}");
}
