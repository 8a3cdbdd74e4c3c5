//! `restante demo`: the product's main job on real sockets, with a kill in the middle.
//!
//! Alice writes to Bob while he is away; the server is killed and started again; Bob comes back and
//! gets everything in order; his receipts reach Alice. Every step is observed from outside.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::envelope::{Disposition, Envelope, fresh};
use super::failure::Failure;
use super::ladder::Ladder;
use super::sdp_text::{Setup, attribute};
use super::server_process::ServerProcess;
use super::transcript::Transcript;
use super::user_agent::{Profile, Settings, UserAgent};
use super::wire::{Transport, lock};

/// The whole story takes a few seconds; after this it has failed.
const LONGEST: Duration = Duration::from_secs(60);

/// Plays the story and tells it on standard output. Success only if every step was observed.
pub fn run() -> ExitCode {
    let ladder = Ladder::new();
    ladder.heading();
    let outcome = Stage::new().and_then(|stage| {
        let stage = Arc::new(stage);
        let outcome = play_within(LONGEST, &stage, ladder);
        stage.clear(outcome.is_err());
        outcome
    });
    match outcome {
        Ok(()) => {
            println!("\nEvery step was observed.");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("\nNot observed: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What must be cleared away when the story ends, however it ends.
struct Stage {
    folder: Folder,
    server: Mutex<Option<ServerProcess>>,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            folder: Folder::new()?,
            server: Mutex::new(None),
        })
    }

    /// Ends the server before its folder goes.
    fn clear(&self, failed: bool) {
        if let Some(server) = lock(&self.server).take()
            && failed
        {
            eprintln!("--- the end of the server's log ---\n{}", server.log_tail());
        }
    }
}

fn play_within(bound: Duration, stage: &Arc<Stage>, ladder: Ladder) -> Result<(), Failure> {
    let (ended, outcome) = mpsc::channel();
    let stage = Arc::clone(stage);
    thread::spawn(move || {
        let outcome = play(&stage, ladder);
        drop(stage);
        let _ = ended.send(outcome);
    });
    outcome.recv_timeout(bound).unwrap_or_else(|_| {
        let step = format!("the story did not end within {bound:?}");
        Err(Failure::plain(step))
    })
}

fn play(stage: &Stage, ladder: Ladder) -> Result<(), Failure> {
    let transcript = Transcript::new();
    transcript.watch(move |line| ladder.draw(line));
    let binary = std::env::current_exe()?;
    let folder = &stage.folder;
    let server = ServerProcess::start(&binary, &folder.0, &folder.configuration())?;
    let (udp, tcp) = (
        server.sip_address(Transport::Udp)?,
        server.sip_address(Transport::Tcp)?,
    );
    transcript.note(&format!("The server says: {}", server.ready().line));
    *lock(&stage.server) = Some(server);
    let agent = |user: &str, transport, server| {
        UserAgent::new(Settings {
            user: user.to_owned(),
            domain: "im.test".to_owned(),
            password: Some(format!("{user}-secret")),
            transport,
            profile: Profile::Rcs,
            server,
            transcript: transcript.clone(),
        })
    };
    let story = Story {
        alice: agent("alice", Transport::Udp, udp)?,
        bob: agent("bob", Transport::Tcp, tcp)?,
        transcript: transcript.clone(),
        conversation: fresh("conversation-"),
    };
    let kept = story.bob_goes_away_and_alice_writes()?;
    story.the_server_is_killed_and_comes_back(stage)?;
    story.bob_comes_back_and_gets_everything(&kept)?;
    story.receipts_reach_alice(&kept)?;
    story.nothing_is_left()
}

struct Story {
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
    fn bob_goes_away_and_alice_writes(&self) -> Result<Kept, Failure> {
        let (alice, bob) = (&self.alice, &self.bob);
        self.transcript
            .note("Alice and Bob register; then Bob goes away.");
        alice.registers()?;
        bob.registers()?;
        bob.unregisters()?;

        self.transcript.note(
            "Alice opens a chat; the server answers in Bob's place and keeps what she writes.",
        );
        let call = alice.invites_with("bob", Setup::ActPass, &self.conversation)?;
        let chat = call.expect_accepted()?;
        let texts = [
            "Lunch on Tuesday?",
            "Same place.",
            "I will bring the plans.",
        ];
        let mut sent = Vec::new();
        for (number, text) in texts.into_iter().enumerate() {
            let mut envelope = alice.envelope("bob", text);
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
        let pager = alice.envelope("bob", "Running ten minutes late");
        alice.sends_envelope("bob", &pager)?.expect_status(202)?;
        Ok(Kept { chat: sent, pager })
    }

    fn the_server_is_killed_and_comes_back(&self, stage: &Stage) -> Result<(), Failure> {
        let mut server = lock(&stage.server);
        let server = server
            .as_mut()
            .ok_or_else(|| Failure::plain("the story was ended"))?;
        server.kill9()?;
        self.transcript.note("The server is killed (SIGKILL).");
        server.restart()?;
        self.transcript
            .note("The server is started again on the same folder.");
        Ok(())
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

/// A temporary folder, removed when the story ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(fresh("restante-demo-"));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    fn configuration(&self) -> String {
        let data = self.0.join("data");
        format!(
            r#"domain = "im.test"
data_dir = {data:?}

[sip]
listen = ["udp://127.0.0.1:{{sip_udp}}", "tcp://127.0.0.1:{{sip_tcp}}"]

[msrp]
listen = ["tcp://127.0.0.1:{{msrp}}"]

[admin]
listen = []

[registrar]
authentication = "digest"

[[account]]
user = "alice"
password = "alice-secret"

[[account]]
user = "bob"
password = "bob-secret"
"#
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
