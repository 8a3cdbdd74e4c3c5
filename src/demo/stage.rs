//! `restante demo`: the story on real sockets, with a server of its own that is killed in the middle, or
//! with one that runs elsewhere.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::elsewhere::{Elsewhere, Login};
use super::envelope::fresh;
use super::failure::Failure;
use super::ladder::Ladder;
use super::server_process::ServerProcess;
use super::story::Story;
use super::transcript::Transcript;
use super::user_agent::{Profile, Settings, UserAgent};
use super::wire::{Transport, lock};

/// The whole story takes a few seconds; after this it has failed.
const LONGEST: Duration = Duration::from_secs(60);

/// Plays the story with a server of its own, which is killed and started again, and tells it on
/// standard output. Success only if every step was observed.
pub fn run() -> ExitCode {
    let outcome = Stage::new().and_then(|stage| {
        let stage = Arc::new(stage);
        let playing = Arc::clone(&stage);
        let outcome = within(LONGEST, move || play(&playing));
        stage.clear(outcome.is_err());
        outcome
    });
    tell(outcome)
}

/// Plays the story against a running server, which is left alone, and tells it on standard output.
pub fn run_against(elsewhere: Elsewhere) -> ExitCode {
    tell(within(LONGEST, move || play_against(&elsewhere)))
}

fn tell(outcome: Result<(), Failure>) -> ExitCode {
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

/// Runs `play` on a thread of its own; fails if it has not ended after `bound`.
pub(super) fn within(
    bound: Duration,
    play: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let (ended, outcome) = mpsc::channel();
    thread::spawn(move || {
        let _ = ended.send(play());
    });
    outcome.recv_timeout(bound).unwrap_or_else(|_| {
        let step = format!("the story did not end within {bound:?}");
        Err(Failure::plain(step))
    })
}

fn play_against(elsewhere: &Elsewhere) -> Result<(), Failure> {
    let transcript = drawn(&elsewhere.alice.user);
    let address = elsewhere.look_up()?;
    transcript.note(&format!("The server is at {address}."));
    let alice = elsewhere.agent(&elsewhere.alice, address, Transport::Udp, &transcript)?;
    let bob = elsewhere.agent(&elsewhere.bob, address, Transport::Tcp, &transcript)?;
    let story = Story::new(alice, bob, &transcript);
    story.play(|_| Ok(()))?;
    story.leave()
}

/// A transcript that is drawn as it is written.
fn drawn(left: &str) -> Transcript {
    let ladder = Ladder::new(left);
    ladder.heading();
    let transcript = Transcript::new();
    transcript.watch(move |line| ladder.draw(line));
    transcript
}

fn play(stage: &Stage) -> Result<(), Failure> {
    let transcript = drawn("alice");
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
        let login = Login::of(user);
        UserAgent::new(Settings {
            user: login.user,
            domain: "im.test".to_owned(),
            password: login.password,
            transport,
            profile: Profile::Rcs,
            server,
            transcript: transcript.clone(),
        })
    };
    let alice = agent("alice", Transport::Udp, udp)?;
    let bob = agent("bob", Transport::Tcp, tcp)?;
    Story::new(alice, bob, &transcript).play(|transcript| stage.kill_and_restart(transcript))
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

    fn kill_and_restart(&self, transcript: &Transcript) -> Result<(), Failure> {
        let mut server = lock(&self.server);
        let server = server
            .as_mut()
            .ok_or_else(|| Failure::plain("the story was ended"))?;
        server.kill9()?;
        transcript.note("The server is killed (SIGKILL).");
        server.restart()?;
        transcript.note("The server is started again on the same folder.");
        Ok(())
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
