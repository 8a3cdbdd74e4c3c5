//! The real server as a child process: started, killed, started again on the same folder.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::clock;

use super::failure::Failure;
use super::wire::{Transport, lock};

/// How long the server may take to say `ready`, and to stop once told.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(15);
const TAIL: usize = 60;

/// A running server. Dropping it kills it.
pub struct ServerProcess {
    binary: PathBuf,
    folder: PathBuf,
    configuration: String,
    child: Child,
    ready: Ready,
    log: Arc<Mutex<Vec<String>>>,
}

/// What the `ready` line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The line itself.
    pub line: String,
    /// Listeners behind `sip=`, as `scheme://address`.
    pub sip: Vec<String>,
    /// Listeners behind `msrp=`.
    pub msrp: Vec<String>,
    /// Listeners behind `admin=`.
    pub admin: Vec<String>,
}

impl Ready {
    /// Reads `ready sip=udp://127.0.0.1:5060,tcp://127.0.0.1:5060 msrp=tcp://127.0.0.1:2855`.
    pub fn read(line: &str) -> Option<Self> {
        let mut words = line.trim_end().split(' ');
        if words.next() != Some("ready") {
            return None;
        }
        let mut ready = Self {
            line: line.trim_end().to_owned(),
            sip: Vec::new(),
            msrp: Vec::new(),
            admin: Vec::new(),
        };
        for word in words {
            let (key, value) = word.split_once('=')?;
            let listeners = value.split(',').map(str::to_owned);
            match key {
                "sip" => ready.sip.extend(listeners),
                "msrp" => ready.msrp.extend(listeners),
                "admin" => ready.admin.extend(listeners),
                _ => {}
            }
        }
        (!ready.sip.is_empty() && !ready.msrp.is_empty()).then_some(ready)
    }

    /// The first SIP listener of this transport.
    pub fn sip_address(&self, transport: Transport) -> Option<SocketAddr> {
        let scheme = match transport {
            Transport::Udp => "udp://",
            Transport::Tcp => "tcp://",
        };
        self.sip
            .iter()
            .find_map(|listener| listener.strip_prefix(scheme)?.parse().ok())
    }
}

impl ServerProcess {
    /// Starts `binary serve` in `folder` and waits for its `ready` line. `{sip_udp}`, `{sip_tcp}`
    /// and `{msrp}` in `configuration` stand for free ports, the same at a restart.
    pub fn start(binary: &Path, folder: &Path, configuration: &str) -> Result<Self, Failure> {
        // Another process may take a port between the look and the start.
        let mut failure = Failure::plain("not started");
        for _ in 0..3 {
            match Self::try_start(binary, folder, configuration) {
                Ok(started) => return Ok(started),
                Err(reason) => failure = reason,
            }
        }
        Err(failure)
    }

    fn try_start(binary: &Path, folder: &Path, configuration: &str) -> Result<Self, Failure> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let configuration = with_ports(configuration, [free_port()?, free_port()?, free_port()?]);
        let (child, ready) = spawn(binary, folder, &configuration, &log)?;
        Ok(Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            configuration,
            child,
            ready,
            log,
        })
    }

    /// What it said once it accepted traffic.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its SIP address.
    pub fn sip_address(&self, transport: Transport) -> Result<SocketAddr, Failure> {
        self.ready.sip_address(transport).ok_or_else(|| {
            let step = format!("\"{}\" names no {transport:?} listener", self.ready.line);
            Failure::plain(step)
        })
    }

    /// The process as the system names it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder it was started in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills it with SIGKILL: nothing is flushed, nothing is said.
    pub fn kill9(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again on the same folder and ports.
    pub fn restart(&mut self) -> Result<(), Failure> {
        let (child, ready) = spawn(&self.binary, &self.folder, &self.configuration, &self.log)?;
        self.child = child;
        self.ready = ready;
        Ok(())
    }

    /// Asks it to drain with SIGTERM.
    pub fn terminate(&self) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).map_err(|_| Failure::plain("no such process"))?;
        // SAFETY: kill(2) takes numbers only, and the child is not reaped yet, so the pid is its.
        match unsafe { libc::kill(pid, libc::SIGTERM) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().into()),
        }
    }

    /// Whether it has ended, by itself or by a signal.
    pub fn has_ended(&mut self) -> Result<bool, Failure> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus, Failure> {
        wait_for(&mut self.child, STOP)
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        lock(&self.log).join("\n")
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = lock(&self.log);
        let skipped = log.len().saturating_sub(TAIL);
        log[skipped..].join("\n")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// Waits for a child within a bound, then kills it.
pub fn wait_for(child: &mut Child, patience: Duration) -> Result<ExitStatus, Failure> {
    let deadline = clock::now().instant + patience;
    while clock::now().instant < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Err(Failure::plain(format!(
        "the process did not end within {patience:?}"
    )))
}

fn spawn(
    binary: &Path,
    folder: &Path,
    configuration: &str,
    log: &Arc<Mutex<Vec<String>>>,
) -> Result<(Child, Ready), Failure> {
    let file = folder.join("restante.toml");
    fs::write(&file, configuration)?;
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RESTANTE_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .arg("serve")
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(stderr) = child.stderr.take() {
        let log = Arc::clone(log);
        thread::spawn(move || keep_log(stderr, &log));
    }
    let (said, heard) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
    }
    match heard.recv_timeout(START).as_deref().map(Ready::read) {
        Ok(Some(ready)) => Ok((child, ready)),
        _ => {
            let _ = child.kill();
            let status = child.wait()?;
            thread::sleep(Duration::from_millis(50));
            Err(Failure::plain(format!(
                "the server did not say ready ({status}); its log ends:\n{}",
                lock(log).join("\n")
            )))
        }
    }
}

fn keep_log(stderr: impl Read, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        lock(log).push(line);
    }
}

fn with_ports(configuration: &str, ports: [u16; 3]) -> String {
    ["{sip_udp}", "{sip_tcp}", "{msrp}"]
        .iter()
        .zip(ports)
        .fold(configuration.to_owned(), |text, (name, port)| {
            text.replace(name, &port.to_string())
        })
}

/// A port nobody listens on, below those the system gives out by itself: while the server is down,
/// no other socket is given its port.
fn free_port() -> Result<u16, Failure> {
    for _ in 0..100 {
        let port = 12_000 + rand::random::<u16>() % 20_000;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::plain("there is no free port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_tells_where_each_listener_is() {
        let ready = Ready::read(
            "ready sip=udp://127.0.0.1:5061,tcp://[::1]:5062 msrp=tcp://127.0.0.1:2855 more=1\n",
        )
        .unwrap();
        let udp = ready.sip_address(Transport::Udp);
        assert_eq!(udp, Some("127.0.0.1:5061".parse().unwrap()));
        let tcp = ready.sip_address(Transport::Tcp);
        assert_eq!(tcp, Some("[::1]:5062".parse().unwrap()));
        assert_eq!(ready.msrp, ["tcp://127.0.0.1:2855"]);
        assert_eq!(Ready::read("starting"), None);
    }
}
