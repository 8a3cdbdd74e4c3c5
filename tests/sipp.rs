//! The scenarios of `sip-scenarios/` played by the real SIPp against the real binary. Without SIPp
//! these tests fail: `tests/run` installs it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use restante::demo::{Failure, Transport, wait_for};
use support::{Configuration, Stage, on_every_shard_count};
use tempfile::TempDir;

/// SIPp with its working folder; its traces are written there.
struct Sipp {
    command: Command,
    folder: TempDir,
}

impl Sipp {
    fn new(stage: &Stage, scenario: &str) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let server = stage.server().sip_address(Transport::Udp)?;
        let mut command = Command::new("sipp");
        command
            .current_dir(folder.path())
            .arg(server.to_string())
            .arg("-sf")
            .arg(file(scenario))
            .args("-m 1 -i 127.0.0.1 -nostdin -timeout 20s -timeout_error".split(' '))
            .args(["-trace_err", "-trace_logs", "-trace_msg"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self { command, folder })
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    fn key(self, name: &str, value: &str) -> Self {
        self.with(&["-key", name, value])
    }

    fn starts(mut self) -> Result<Playing, Failure> {
        let child = self.command.spawn().map_err(|error| {
            Failure::plain(format!("sipp does not start (sip-tester): {error}"))
        })?;
        Ok(Playing {
            child,
            folder: self.folder,
        })
    }

    fn plays(self) -> Result<String, Failure> {
        self.starts()?.ends_well()
    }
}

struct Playing {
    child: Child,
    folder: TempDir,
}

impl Playing {
    /// SIPp ends with 0; gives what the scenario logged.
    fn ends_well(mut self) -> Result<String, Failure> {
        let status = wait_for(&mut self.child, Duration::from_secs(30))?;
        let traces = |kind: &str| traces(self.folder.path(), kind);
        match status.success() {
            true => Ok(traces("_logs.log")),
            false => Err(Failure::plain(format!(
                "sipp ended with {status}\n{}\n{}",
                traces("_errors.log"),
                traces("_messages.log")
            ))),
        }
    }
}

fn traces(folder: &Path, kind: &str) -> String {
    let Ok(entries) = fs::read_dir(folder) else {
        return String::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(kind))
        .map(|entry| {
            let text = fs::read(entry.path()).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        })
        .collect()
}

fn file(scenario: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("sip-scenarios")
        .join(scenario)
}

fn free_port() -> Result<String, Failure> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port().to_string())
}

const ALICE: [&str; 4] = ["-au", "alice", "-ap", "alice-secret"];

#[test]
fn sipp_registers_with_and_without_digest() {
    for configuration in [Configuration::open(), Configuration::md5()] {
        on_every_shard_count(&configuration, |stage| {
            let register = Sipp::new(stage, "register.xml")?.key("user", "alice");
            register.with(&ALICE).plays().map(|_| ())
        });
    }
}

#[test]
fn sipp_takes_a_message_that_sipp_sends() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let port = free_port()?;
        let register = Sipp::new(stage, "register.xml")?.key("user", "bob");
        register.with(&["-p", &port]).plays()?;
        let device = Sipp::new(stage, "pager-online-uas.xml")?
            .with(&["-p", &port])
            .starts()?;
        let author = Sipp::new(stage, "pager-online-uac.xml")?
            .key("user", "alice")
            .key("to", "bob");
        author.key("text", "hello").plays()?;
        let took = device.ends_well()?;
        stage.observe(took.contains("took hello"), "the device has the text")
    });
}

#[test]
fn sipp_gets_what_was_kept_when_it_registers_in_order() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for text in ["first", "second"] {
            let author = Sipp::new(stage, "pager-offline.xml")?
                .key("user", "alice")
                .key("to", "bob");
            author.key("text", text).plays()?;
        }
        let device = file("pager-online-uas.xml");
        let took = Sipp::new(stage, "register-then-delivered.xml")?
            .key("user", "bob")
            .with(&["-oocsf", &device.to_string_lossy()])
            .plays()?;
        stage.observe(
            took.lines().collect::<Vec<_>>() == ["took first", "took second"],
            &format!("both texts arrive in order; the device has:\n{took}"),
        )
    });
}

#[test]
fn sipp_is_told_that_a_user_is_unknown() {
    on_every_shard_count(&Configuration::md5(), |stage| {
        let author = Sipp::new(stage, "unknown-user.xml")?
            .key("user", "alice")
            .key("to", "nobody");
        author.with(&ALICE).plays().map(|_| ())
    });
}

#[test]
fn sipp_is_told_that_a_request_is_bad() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let author = Sipp::new(stage, "bad-request.xml")?
            .key("user", "alice")
            .key("to", "bob");
        author.plays().map(|_| ())
    });
}
