//! A running server and the agents of one scenario.

use std::cell::{Ref, RefCell};
use std::path::Path;

use restante::demo::{Failure, Profile, ServerProcess, Settings, Transcript, Transport, UserAgent};
use tempfile::TempDir;

use super::Configuration;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_restante");

/// One server in a folder of its own, and the transcript of everyone who talks to it.
pub struct Stage {
    server: RefCell<ServerProcess>,
    configuration: Configuration,
    transcript: Transcript,
    folder: TempDir,
    shards: u16,
}

/// Plays the scenario with 1 shard and with 4; a failure prints the conversation and the log.
pub fn on_every_shard_count(
    configuration: &Configuration,
    scenario: impl Fn(&Stage) -> Result<(), Failure>,
) {
    for shards in [1, 4] {
        on_stage(configuration, shards, &scenario);
    }
}

/// Plays the scenario once.
pub fn on_stage(
    configuration: &Configuration,
    shards: u16,
    scenario: impl Fn(&Stage) -> Result<(), Failure>,
) {
    let stage = match Stage::open(configuration, shards) {
        Ok(stage) => stage,
        Err(failure) => panic!("with {shards} shards: {failure}"),
    };
    if let Err(failure) = scenario(&stage) {
        panic!(
            "with {shards} shards: {failure}\n--- the end of the server's log ---\n{}",
            stage.server().log_tail()
        );
    }
}

impl Stage {
    fn open(configuration: &Configuration, shards: u16) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let text = configuration.text(folder.path(), shards);
        let server = ServerProcess::start(Path::new(BINARY), folder.path(), &text)?;
        Ok(Self {
            server: RefCell::new(server),
            configuration: configuration.clone(),
            transcript: Transcript::new(),
            folder,
            shards,
        })
    }

    /// An RCS phone over UDP.
    pub fn agent(&self, user: &str) -> Result<UserAgent, Failure> {
        self.agent_with(user, Transport::Udp, Profile::Rcs)
    }

    /// A phone of this kind, with its own password.
    pub fn agent_with(
        &self,
        user: &str,
        transport: Transport,
        profile: Profile,
    ) -> Result<UserAgent, Failure> {
        UserAgent::new(Settings {
            password: Some(format!("{user}-secret")),
            ..self.settings(user, transport, profile)?
        })
    }

    /// What a phone without a password is made of.
    pub fn settings(
        &self,
        user: &str,
        transport: Transport,
        profile: Profile,
    ) -> Result<Settings, Failure> {
        Ok(Settings {
            user: user.to_owned(),
            domain: "im.test".to_owned(),
            password: None,
            transport,
            profile,
            server: self.server().sip_address(transport)?,
            transcript: self.transcript.clone(),
        })
    }

    /// The process.
    pub fn server(&self) -> Ref<'_, ServerProcess> {
        self.server.borrow()
    }

    /// Kills the server with SIGKILL.
    pub fn kill9(&self) -> Result<(), Failure> {
        self.transcript.note("the server is killed");
        self.server.borrow_mut().kill9()
    }

    /// Starts it again on the same folder and ports.
    pub fn restart(&self) -> Result<(), Failure> {
        self.server.borrow_mut().restart()?;
        self.transcript.note("the server is started again");
        Ok(())
    }

    /// SIGTERM, and the exit code.
    pub fn terminates(&self) -> Result<Option<i32>, Failure> {
        self.server().terminate()?;
        Ok(self.server.borrow_mut().wait()?.code())
    }

    /// The folder with the configuration and the data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file of a second server on the same data.
    pub fn text_of_a_second_server(&self) -> String {
        self.configuration
            .text_with_any_ports(self.folder(), self.shards)
    }

    /// A failure with the conversation so far.
    pub fn failure(&self, step: impl Into<String>) -> Failure {
        Failure::new(step, &self.transcript)
    }

    /// Fails unless this was seen.
    pub fn observe(&self, seen: bool, what: &str) -> Result<(), Failure> {
        match seen {
            true => Ok(()),
            false => Err(self.failure(what)),
        }
    }
}
