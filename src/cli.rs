//! The command line: its arguments, the commands that need no server, and those that ask a running one
//! (`operate`).
//!
//! Exit codes: 0 all went well, 1 it failed while running, or the server that was asked refused or
//! cannot be reached, 2 the arguments or the configuration are wrong, or the data folder is in use.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, ConfigError};
use crate::demo::{Elsewhere, Login, Part};

mod client;
mod operate;
mod output;
mod store;

pub use client::{OperateError, Target};
use operate::{
    AccountCommand, BansCommand, BindingsCommand, Group, HealthArguments, MessagesCommand,
    SessionsCommand, Single, TrafficCommand,
};
use store::{BackupArguments, ExportArguments, StoreArguments};

const EXIT_CODES: &str = "\
Exit codes:
  0  ended as asked
  1  failed while running; the server refused, cannot be reached, or is not healthy; the store is damaged
  2  wrong arguments or configuration, the data folder in use or of a later version";

/// A SIP/MSRP CPM conversation server: keeps one-to-one chat for people who are away and replays
/// it in order when they come back.
#[derive(Debug, Parser)]
#[command(name = "restante", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server until SIGTERM or SIGINT.
    ///
    /// Prints one line on stdout once it accepts traffic: `ready sip=... msrp=...`. Logs go to
    /// stderr. On SIGTERM or SIGINT it takes no new work, lets running replays finish or leaves
    /// them safely, for at most `shutdown_timeout`, and exits 0.
    Serve(ConfigurationFile),
    /// Play the whole story on free loopback ports and show it live.
    ///
    /// Alice writes to Bob while he is away; the server keeps the messages, is killed and started
    /// again; Bob registers and gets them in order; his receipts reach Alice. Everything goes over
    /// real sockets with a temporary store. Exits 0 only if every step was observed.
    ///
    /// With --server it is played against a running server, which nobody kills.
    Demo(DemoArguments),
    /// Show or check the configuration.
    ///
    /// Without a subcommand: print the whole configuration in effect (file, environment, defaults)
    /// as TOML with a comment for each key. Secrets are masked.
    #[command(args_conflicts_with_subcommands = true)]
    Config(ConfigArguments),
    /// Accounts: list, show, add, set, remove.
    ///
    /// Accounts made here are durable and live beside those of the configuration file, which cannot be
    /// changed here. The admin interface of a running server does the work.
    Account(Box<Group<AccountCommand>>),
    /// Bindings of a user: list, remove.
    Bindings(Group<BindingsCommand>),
    /// Waiting messages: list, show, retry, redate, cancel, export.
    Messages(Group<MessagesCommand>),
    /// Chats and replays under way: list, end.
    Sessions(Group<SessionsCommand>),
    /// Banned addresses and users locked out: list, remove, unlock.
    Bans(Group<BansCommand>),
    /// What is let through: show, set, and what a user has sent.
    Traffic(Group<TrafficCommand>),
    /// List users with a binding or waiting messages.
    Users(Single),
    /// Show version, uptime, shards and messages in custody; with --json the configuration too.
    Status(Single),
    /// Take no new work from here on: live chats end, running replays finish, /readyz says 503.
    ///
    /// The process goes on until SIGTERM or SIGINT; a restart ends the drain.
    Drain(Single),
    /// Exit 0 if the server is ready for traffic, else 1; for container health checks.
    Health(HealthArguments),
    /// Print the metrics as Prometheus reads them.
    Metrics(Single),
    /// Back a running server up into a new folder, and check the backup.
    ///
    /// What was acknowledged before is in it. It can be used as a data folder: `restante store restore`.
    Backup(BackupArguments),
    /// Write everything in the store of a running server as JSON lines; `restante store import` reads them.
    Export(ExportArguments),
    /// The store of a stopped server, or a backup: verify, restore, export, import.
    Store(StoreArguments),
}

impl Command {
    /// Performs a command of an operator, writing to `out`; `None` for the others.
    pub fn operate(self, out: &mut impl Write) -> Option<Result<(), OperateError>> {
        Some(match self {
            Self::Serve(_) | Self::Demo(_) | Self::Config(_) => return None,
            Self::Account(group) => group.run(out),
            Self::Bindings(group) => group.run(out),
            Self::Messages(group) => group.run(out),
            Self::Sessions(group) => group.run(out),
            Self::Bans(group) => group.run(out),
            Self::Traffic(group) => group.run(out),
            Self::Users(single) => single.users(out),
            Self::Status(single) => single.status(out),
            Self::Drain(single) => single.drain(out),
            Self::Health(arguments) => arguments.run(out),
            Self::Metrics(single) => single.metrics(out),
            Self::Backup(arguments) => arguments.run(out),
            Self::Export(arguments) => arguments.run(out),
            Self::Store(arguments) => arguments.run(out),
        })
    }
}

/// Where the configuration comes from.
#[derive(Args, Debug)]
pub struct ConfigurationFile {
    /// Configuration file (TOML); without it the defaults hold.
    ///
    /// Every key is also an environment variable RESTANTE_SECTION__KEY, which wins over the file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl ConfigurationFile {
    /// Reads the configuration from here and from the environment of the process.
    pub fn load(&self) -> Result<Config, ConfigError> {
        load(self.file.as_deref())
    }
}

/// Arguments of `restante demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArguments {
    /// Play against this running server, over UDP and TCP, with agents on this host.
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The domain it serves.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "im.test",
        requires = "server"
    )]
    domain: String,
    /// Who writes; without a password it is USER-secret.
    #[arg(
        long,
        value_name = "USER[:PASSWORD]",
        default_value = "alice",
        requires = "server"
    )]
    alice: Login,
    /// Who is away at first.
    #[arg(
        long,
        value_name = "USER[:PASSWORD]",
        default_value = "bob",
        requires = "server"
    )]
    bob: Login,
    /// Play only this person's part; the other one is played elsewhere.
    ///
    /// Alice writes and waits for the receipts; Bob takes what waits for him, and comes back if his
    /// network or the server goes away. Each prints a line for each message: wrote or took, chat or
    /// pager, its Message-ID, its SHA-256.
    #[arg(long, requires = "server")]
    part: Option<PartName>,
    /// Chat messages of a part; one by MESSAGE comes on top.
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "part")]
    messages: usize,
    /// Milliseconds that Bob takes over each chat message before he confirms it.
    #[arg(
        long,
        value_name = "MILLISECONDS",
        default_value_t = 0,
        requires = "part"
    )]
    pause: u64,
}

/// Whose part it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    /// The author.
    Alice,
    /// The reader.
    Bob,
}

impl DemoArguments {
    /// The server that runs already, if one was named.
    pub fn elsewhere(self) -> Option<Elsewhere> {
        Some(Elsewhere {
            server: self.server?,
            domain: self.domain,
            alice: self.alice,
            bob: self.bob,
        })
    }

    /// The part to be played; `None` is the whole story.
    pub fn part(&self) -> Option<Part> {
        let messages = self.messages;
        Some(match self.part? {
            PartName::Alice => Part::Alice { messages },
            PartName::Bob => Part::Bob {
                messages,
                pause: Duration::from_millis(self.pause),
            },
        })
    }
}

/// Arguments of `restante config`.
#[derive(Args, Debug)]
pub struct ConfigArguments {
    /// What to do instead of printing.
    #[command(subcommand)]
    pub command: Option<ConfigCommand>,
    /// Where it comes from.
    #[command(flatten)]
    pub configuration: ConfigurationFile,
}

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a file, together with the environment, as `serve -c FILE` would read it.
    ///
    /// Exits 0 if it is valid; else 2, naming file, line, key and what is allowed.
    Check {
        /// The file to check.
        file: PathBuf,
    },
}

impl ConfigArguments {
    /// Performs the command, writing to `out`. The caller turns a [`ConfigError`] into exit code 2.
    pub fn run(&self, out: &mut impl Write) -> Result<io::Result<()>, ConfigError> {
        match &self.command {
            None => {
                let document = self.configuration.load()?.document();
                Ok(out.write_all(document.as_bytes()))
            }
            Some(ConfigCommand::Check { file }) => {
                let config = load(Some(file))?;
                let warnings = config.warnings().into_iter();
                let lines = warnings.map(|it| format!("{}: warning: {it}\n", file.display()));
                let lines: String = lines.collect();
                Ok(writeln!(out, "{lines}{}: valid", file.display()))
            }
        }
    }
}

fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let environment = std::env::vars_os().map(|(name, value)| {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        (text(name), text(value))
    });
    Config::load(file, environment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Command {
        Arguments::try_parse_from(line.split(' ')).unwrap().command
    }

    fn run(line: &str) -> Result<String, String> {
        let Command::Config(arguments) = parse(line) else {
            panic!("not a config command: {line}");
        };
        let mut out = Vec::new();
        match arguments.run(&mut out) {
            Ok(written) => written.unwrap(),
            Err(error) => return Err(error.to_string()),
        }
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_forms_are_understood() {
        assert!(matches!(parse("restante serve"), Command::Serve(f) if f.file.is_none()));
        assert!(matches!(parse("restante serve -c x.toml"), Command::Serve(f) if f.file.is_some()));
        assert!(matches!(parse("restante demo"), Command::Demo(d) if d.part().is_none()));
        let Command::Demo(part) = parse("restante demo --server as1:5060 --part bob --pause 5")
        else {
            panic!("not a demo");
        };
        let pause = Duration::from_millis(5);
        assert_eq!(part.part(), Some(Part::Bob { messages: 3, pause }));
        let elsewhere = part.elsewhere().unwrap();
        assert_eq!(elsewhere.server, "as1:5060");
        assert_eq!(elsewhere.alice, Login::of("alice"));
        let alone = ["restante", "demo", "--part", "bob"];
        assert!(Arguments::try_parse_from(alone).is_err());
        assert!(matches!(
            parse("restante account list -c x.toml"),
            Command::Account(_)
        ));
        assert!(matches!(
            parse("restante messages retry bob 7 --json"),
            Command::Messages(_)
        ));
        assert!(matches!(
            parse("restante health --url http://[::1]:1"),
            Command::Health(_)
        ));
        let neither = ["restante", "bindings", "remove", "bob"];
        assert!(Arguments::try_parse_from(neither).is_err());
        assert!(Arguments::try_parse_from(["restante"]).is_err());
        assert!(Arguments::try_parse_from(["restante", "config", "check"]).is_err());
    }

    #[test]
    fn config_prints_what_it_reads_and_check_accepts_what_config_prints() {
        let printed = run("restante config").unwrap();
        assert!(printed.contains("[deferral]"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("restante.toml");
        std::fs::write(&file, printed).unwrap();
        let answer = run(&format!("restante config check {}", file.display())).unwrap();
        assert!(answer.ends_with("restante.toml: valid\n") && !answer.contains("warning"));
        let odd = "[registrar]\nauthentication = \"digest\"\n[limits]\nqueue_delay = \"0s\"\n";
        std::fs::write(&file, odd).unwrap();
        let answer = run(&format!("restante config check {}", file.display())).unwrap();
        assert_eq!(answer.matches("warning").count(), 2, "{answer}");
        assert!(answer.ends_with("restante.toml: valid\n"));
        std::fs::write(&file, "[sip]\nlisten = 5\n").unwrap();
        let error = run(&format!("restante config -c {}", file.display())).unwrap_err();
        assert!(error.contains("restante.toml:2: sip.listen: "), "{error}");
    }
}
