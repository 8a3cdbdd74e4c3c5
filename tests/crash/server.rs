//! The server of an episode: started through the shim, killed, started again, and asked whether it answers.

use std::path::Path;
use std::thread;
use std::time::Duration;

use restante::clock;
use restante::demo::{Failure, ServerProcess, Settings, Transcript, Transport, UserAgent};
use tempfile::TempDir;

use super::faults::Shim;
use crate::support::{BINARY, Configuration};

/// How long after an order of the shim the server may go on; then it is killed anyway.
const STRIKES_WITHIN: Duration = Duration::from_secs(3);
/// Starts that may fail one after the other while a fault is at work.
const STARTS: usize = 5;

pub struct Server {
    process: ServerProcess,
    pub shim: Shim,
    pub transcript: Transcript,
    _folder: TempDir,
    probe: UserAgent,
}

impl Server {
    pub fn start(configuration: &Configuration, shards: u16) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let (shim, program) = Shim::wrap(Path::new(BINARY), folder.path(), &data, "")?;
        let text = configuration.text(folder.path(), shards);
        let process = ServerProcess::start(&program, folder.path(), &text)?;
        let transcript = Transcript::new();
        let settings = settings("probe", &process, &Transcript::new())?;
        Ok(Self {
            probe: UserAgent::new(settings)?,
            process,
            shim,
            transcript,
            _folder: folder,
        })
    }

    /// An RCS phone over UDP.
    pub fn agent(&self, user: &str) -> Result<UserAgent, Failure> {
        UserAgent::new(settings(user, &self.process, &self.transcript)?)
    }

    pub fn kill(&mut self) -> Result<(), Failure> {
        self.process.kill9()
    }

    /// It ends by what the shim was told, or is killed. False if the shim had no part in it.
    pub fn dies(&mut self) -> Result<bool, Failure> {
        let end = clock::now().instant + STRIKES_WITHIN;
        while clock::now().instant < end {
            if self.process.has_ended()? {
                return Ok(self.shim.struck() > 0);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.kill()?;
        Ok(false)
    }

    /// SIGTERM, and how long it took to end.
    pub fn terminate(&mut self) -> Result<Duration, Failure> {
        let began = clock::now().instant;
        self.process.terminate()?;
        let status = self.process.wait()?;
        match status.code() {
            Some(0) => Ok(clock::now().instant.since(began)),
            _ => Err(Failure::plain(format!("SIGTERM ended in {status}"))),
        }
    }

    /// Starts it, again if a fault that is still at work ends it, and says how long the last start took to
    /// its first answer, and how many starts failed.
    pub fn restart(&mut self) -> Result<(Duration, usize), Failure> {
        for failed in 0..STARTS {
            let began = clock::now().instant;
            let started = self.process.restart();
            if started.is_ok() && self.probe.asks_options().is_ok() {
                return Ok((clock::now().instant.since(began), failed));
            }
            if self.shim.struck() == 0 {
                started?;
            }
            self.shim.disarm();
            self.kill()?;
        }
        Err(Failure::plain("it does not start any more"))
    }

    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

fn settings(
    user: &str,
    process: &ServerProcess,
    transcript: &Transcript,
) -> Result<Settings, Failure> {
    Ok(Settings {
        user: user.to_owned(),
        domain: "im.test".to_owned(),
        password: None,
        transport: Transport::Udp,
        profile: restante::demo::Profile::Rcs,
        server: process.sip_address(Transport::Udp)?,
        transcript: transcript.clone(),
    })
}
