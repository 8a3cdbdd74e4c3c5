//! The operator's commands: each asks the admin interface of a running server.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, OperateError, Target, segment};
use super::output::{self, fields, table};
use crate::clock;
use crate::config::Period;

/// A group of commands about one thing.
#[derive(Args, Debug)]
pub struct Group<C: Subcommand> {
    /// What to do.
    #[command(subcommand)]
    pub command: C,
    /// Whom to ask.
    #[command(flatten)]
    pub target: Target,
}

/// A command that needs nothing but the server.
#[derive(Args, Debug)]
pub struct Single {
    /// Whom to ask.
    #[command(flatten)]
    pub target: Target,
}

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// List all accounts, those of the configuration file too.
    List,
    /// Show one account with its settings; never its password.
    Show {
        /// The user part of the address.
        user: String,
    },
    /// Make an account; it is durable when this returns.
    Add {
        /// The user part of the address.
        user: String,
        /// What it is.
        #[command(flatten)]
        settings: AccountArguments,
    },
    /// Change an account; what is not named stays.
    Set {
        /// The user part of the address.
        user: String,
        /// What changes.
        #[command(flatten)]
        settings: AccountArguments,
    },
    /// Delete an account with its bindings and waiting messages; authors who asked hear `failed`.
    Remove {
        /// The user part of the address.
        user: String,
    },
}

/// What an account can be told.
#[derive(Args, Debug)]
pub struct AccountArguments {
    /// The password. Other users of the machine can see arguments: prefer the next two.
    #[arg(long, conflicts_with_all = ["password_file", "password_stdin"])]
    password: Option<String>,
    /// A file whose first line is the password.
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    password_file: Option<PathBuf>,
    /// Read the password from the first line of stdin.
    #[arg(long)]
    password_stdin: bool,
    /// A telephone number in the global form that is an address of the same user.
    #[arg(long, value_name = "NUMBER")]
    tel: Option<String>,
    /// When kept messages are delivered: push, pull.
    #[arg(long, value_name = "WORD")]
    delivery: Option<String>,
    /// Which devices get a kept message: first, every.
    #[arg(long, value_name = "WORD")]
    copy_to: Option<String>,
    /// Messages from people without a rule: allow, unavailable, unavailable-notify, block.
    #[arg(long, value_name = "WORD")]
    incoming: Option<String>,
    /// The same for senders who hide who they are.
    #[arg(long, value_name = "WORD")]
    anonymous: Option<String>,
    /// What a blocked sender hears: forbidden, silent.
    #[arg(long, value_name = "WORD")]
    blocked: Option<String>,
    /// Messages that may wait for this user.
    #[arg(long, value_name = "NUMBER")]
    max_messages: Option<u32>,
    /// Octets that may wait for this user, such as "64 MiB".
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// What happens at these bounds: refuse-new, drop-oldest.
    #[arg(long, value_name = "WORD")]
    when_full: Option<String>,
    /// How all devices are spoken to: rcs, rcs-e, cpm, message.
    #[arg(long, value_name = "WORD")]
    profile: Option<String>,
    /// Whether this user may send messages and begin chats: true, false.
    #[arg(long, value_name = "BOOL")]
    may_send: Option<bool>,
    /// Whether this user gets messages: true, false (they are kept).
    #[arg(long, value_name = "BOOL")]
    may_receive: Option<bool>,
    /// Whether this user may send PUBLISH and SUBSCRIBE: true, false.
    #[arg(long, value_name = "BOOL")]
    may_use_presence: Option<bool>,
    /// Largest message this user may send, such as "100 KiB"; 0: no limit of his own.
    #[arg(long, value_name = "SIZE")]
    max_message_size: Option<String>,
    /// Characters of a text this user may send, up to 3500; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    max_text_length: Option<u32>,
    /// Messages this user may send in each period; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    messages_per_period: Option<u32>,
    /// Octets of messages this user may send in each period; 0: no limit.
    #[arg(long, value_name = "SIZE")]
    octets_per_period: Option<String>,
    /// How long such a period is, such as 1d.
    #[arg(long, value_name = "PERIOD")]
    period: Option<String>,
    /// A content type this user may send, such as text/plain or image/*; given once or more, no others.
    #[arg(long = "content-type", value_name = "TYPE")]
    content_types: Vec<String>,
    /// A content type this user may not send.
    #[arg(long = "barred-type", value_name = "TYPE")]
    barred_types: Vec<String>,
    /// Requests outside dialogs this user may send a second; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    requests_per_second: Option<u32>,
    /// Of these, so many at once.
    #[arg(long, value_name = "NUMBER")]
    requests_burst: Option<u32>,
    /// A rule about some senders, FROM=ACTION: a SIP or tel URI, a domain or "anonymous", and allow,
    /// unavailable, unavailable-notify or block. Given once or more it replaces all rules; the first
    /// that fits holds.
    #[arg(long = "rule", value_name = "FROM=ACTION")]
    rules: Vec<String>,
    /// Take a value away, so that the default holds again: tel, rules, or an option above.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

/// What to do with traffic.
#[derive(Debug, Subcommand)]
pub enum TrafficCommand {
    /// Show what is let through, and what of it was changed while running.
    Show,
    /// Change what is let through; it is durable when this returns. What is not named stays.
    Set(TrafficArguments),
    /// Show what a user has sent in his running period, if he has a limit.
    Sent {
        /// `bob` or `bob@im.test`.
        user: String,
    },
}

/// What of the traffic can be changed.
#[derive(Args, Debug)]
pub struct TrafficArguments {
    /// Whether anybody may send messages and begin chats: true, false.
    #[arg(long, value_name = "BOOL")]
    submission: Option<bool>,
    /// Whether messages are delivered: true, false (they are kept).
    #[arg(long, value_name = "BOOL")]
    delivery: Option<bool>,
    /// Answer 202 instead of errors, and tell no author of a failure: true (messages are lost), false.
    #[arg(long, value_name = "BOOL")]
    suppress_errors: Option<bool>,
    /// Messages through the whole server each second; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    messages_per_second: Option<u32>,
    /// Octets of messages through the whole server each second, such as "10 MiB"; 0: no limit.
    #[arg(long, value_name = "SIZE")]
    octets_per_second: Option<String>,
    /// Notifications each second that a message failed; 0: no limit.
    #[arg(long, value_name = "NUMBER")]
    failures_per_second: Option<u32>,
    /// Take a value away, so that the configuration holds again: an option above.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

impl TrafficArguments {
    /// As the body of a request: only what is named.
    fn patch(self) -> Value {
        let named = [
            ("submission", self.submission.map(Value::from)),
            ("delivery", self.delivery.map(Value::from)),
            ("suppress_errors", self.suppress_errors.map(Value::from)),
            (
                "messages_per_second",
                self.messages_per_second.map(Value::from),
            ),
            ("octets_per_second", self.octets_per_second.map(Value::from)),
            (
                "failures_per_second",
                self.failures_per_second.map(Value::from),
            ),
        ];
        let named = named.into_iter().filter_map(|(key, value)| {
            let value = value?;
            Some((key.to_owned(), value))
        });
        let unset = self.unset.iter();
        let unset = unset.map(|name| (name.replace('-', "_"), Value::Null));
        Value::Object(named.chain(unset).collect())
    }
}

impl Group<TrafficCommand> {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        const TRAFFIC: &str = "/admin/v1/traffic";
        let client = self.target.client(true)?;
        let json = self.target.json;
        let answer = match self.command {
            TrafficCommand::Show => client.json("GET", TRAFFIC, None)?,
            TrafficCommand::Set(wanted) => client.json("PATCH", TRAFFIC, Some(&wanted.patch()))?,
            TrafficCommand::Sent { user } => {
                client.json("GET", &format!("{}/traffic", user_path(&user)), None)?
            }
        };
        Printer { out, json }.one(&answer)
    }
}

/// What to do with bindings.
#[derive(Debug, Subcommand)]
pub enum BindingsCommand {
    /// List the bindings of a user.
    List {
        /// `bob` or `bob@im.test`.
        user: String,
    },
    /// Remove bindings of a user; the devices come back when they register again.
    Remove {
        /// `bob` or `bob@im.test`.
        user: String,
        /// Which one, as the list names it.
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All of them.
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

/// What to do with waiting messages.
#[derive(Debug, Subcommand)]
pub enum MessagesCommand {
    /// List what waits for a user, oldest first, with state, reason and next attempt.
    List {
        /// `bob` or `bob@im.test`.
        user: String,
    },
    /// Show one message with its header fields; never its body.
    Show(OneMessage),
    /// Offer the message's conversation to the user's devices now.
    Retry(OneMessage),
    /// Give a message another time to expire at.
    Redate {
        /// Which message.
        #[command(flatten)]
        message: OneMessage,
        /// The time, RFC 3339, such as 2026-12-24T18:00:00Z.
        #[arg(long, value_name = "TIME", required_unless_present = "within")]
        at: Option<String>,
        /// The time from now on, such as 12h or 7d.
        #[arg(long = "in", value_name = "PERIOD", conflicts_with = "at")]
        within: Option<String>,
    },
    /// Cancel a message; its author hears `failed`, if he asked to hear.
    Cancel(OneMessage),
    /// Write one message as an .eml file, or a whole queue as a line of JSON for each message.
    Export {
        /// `bob` or `bob@im.test`.
        user: String,
        /// Which message, as the list names it; without it the whole queue.
        seq: Option<u64>,
        /// Where to; without it stdout. The file must not exist.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Which message.
#[derive(Args, Debug)]
pub struct OneMessage {
    /// `bob` or `bob@im.test`.
    user: String,
    /// Which, as the list names it.
    seq: u64,
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// List chats and replays under way.
    List,
    /// End one with BYE. What has arrived is kept; what was to be replayed waits again.
    End {
        /// As the list names it.
        id: String,
    },
}

/// What to do with bans.
#[derive(Debug, Subcommand)]
pub enum BansCommand {
    /// List banned addresses and users locked out.
    List,
    /// Hear an address again.
    Remove {
        /// As the list names it, or any address of the network.
        address: String,
    },
    /// Let a user in again wherever he was locked out.
    Unlock {
        /// `bob` or `bob@im.test`, or as the list names him.
        user: String,
    },
}

/// Arguments of `restante health`.
#[derive(Args, Debug)]
pub struct HealthArguments {
    /// Ask whether the process is alive, not whether it takes traffic.
    #[arg(long)]
    pub live: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub target: Target,
}

impl OneMessage {
    fn path(&self) -> String {
        format!("{}/messages/{}", user_path(&self.user), self.seq)
    }
}

fn user_path(user: &str) -> String {
    format!("/admin/v1/users/{}", segment(user))
}

fn account_path(user: &str) -> String {
    format!("/admin/v1/accounts/{}", segment(user))
}

/// Where answers go, and in which form.
struct Printer<'o, W: Write> {
    out: &'o mut W,
    json: bool,
}

impl<W: Write> Printer<'_, W> {
    fn list(
        &mut self,
        key: &str,
        columns: &[(&str, &str)],
        entries: Vec<Value>,
    ) -> Result<(), OperateError> {
        match self.json {
            true => output::json(self.out, &json!({ key: entries }))?,
            false => {
                table(self.out, columns, &entries)?;
                if entries.is_empty() {
                    // Not among the answers: a script finds the heading alone.
                    eprintln!("no {key}");
                }
            }
        }
        Ok(())
    }

    fn one(&mut self, object: &Value) -> Result<(), OperateError> {
        match self.json {
            true => output::json(self.out, object)?,
            false => fields(self.out, object)?,
        }
        Ok(())
    }

    /// Something was done; machines see it by the exit code.
    fn done(&mut self, text: &str) -> Result<(), OperateError> {
        if !self.json {
            writeln!(self.out, "{text}")?;
        }
        Ok(())
    }
}

impl Group<AccountCommand> {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let client = self.target.client(true)?;
        let json = self.target.json;
        let mut printer = Printer { out, json };
        match self.command {
            AccountCommand::List => {
                let columns = [
                    ("USER", "user"),
                    ("TEL", "tel"),
                    ("SOURCE", "source"),
                    ("CHANGED", "changed_at"),
                ];
                let entries = client.all("/admin/v1/accounts", "accounts")?;
                printer.list("accounts", &columns, entries)
            }
            AccountCommand::Show { user } => {
                printer.one(&client.json("GET", &account_path(&user), None)?)
            }
            AccountCommand::Add { user, settings } => {
                let mut account = settings.patch()?;
                account.insert("user".to_owned(), user.into());
                let account = Value::Object(account);
                printer.one(&client.json("POST", "/admin/v1/accounts", Some(&account))?)
            }
            AccountCommand::Set { user, settings } => {
                let patch = Value::Object(settings.patch()?);
                printer.one(&client.json("PATCH", &account_path(&user), Some(&patch))?)
            }
            AccountCommand::Remove { user } => {
                client.json("DELETE", &account_path(&user), None)?;
                printer.done(&format!("{user} is deleted"))
            }
        }
    }
}

impl AccountArguments {
    /// As the body of a request: only what is named.
    fn patch(self) -> Result<Map<String, Value>, OperateError> {
        let mut patch = Map::new();
        let mut settings = Map::new();
        if let Some(password) = self.password()? {
            patch.insert("password".to_owned(), password.into());
        }
        patch.extend(self.tel.map(|tel| ("tel".to_owned(), tel.into())));
        let limits = [
            ("may_send", self.may_send.map(Value::from)),
            ("may_receive", self.may_receive.map(Value::from)),
            ("may_use_presence", self.may_use_presence.map(Value::from)),
            ("max_text_length", self.max_text_length.map(Value::from)),
            (
                "messages_per_period",
                self.messages_per_period.map(Value::from),
            ),
            (
                "requests_per_second",
                self.requests_per_second.map(Value::from),
            ),
            ("requests_burst", self.requests_burst.map(Value::from)),
        ];
        for (key, value) in limits {
            settings.extend(value.map(|value| (key.to_owned(), value)));
        }
        for (key, types) in [
            ("content_types", self.content_types),
            ("barred_types", self.barred_types),
        ] {
            if !types.is_empty() {
                settings.insert(key.to_owned(), types.into());
            }
        }
        let words = [
            ("max_message_size", self.max_message_size),
            ("octets_per_period", self.octets_per_period),
            ("period", self.period),
            ("delivery", self.delivery),
            ("copy_to", self.copy_to),
            ("incoming", self.incoming),
            ("anonymous", self.anonymous),
            ("blocked", self.blocked),
            ("max_size", self.max_size),
            ("when_full", self.when_full),
            ("profile", self.profile),
        ];
        for (key, word) in words {
            settings.extend(word.map(|word| (key.to_owned(), word.into())));
        }
        let most = self.max_messages;
        settings.extend(most.map(|most| ("max_messages".to_owned(), most.into())));
        if !self.rules.is_empty() {
            let rules: Result<Vec<Value>, _> =
                self.rules.iter().map(|rule| read_rule(rule)).collect();
            settings.insert("rules".to_owned(), rules?.into());
        }
        for name in self.unset {
            let name = name.replace('-', "_");
            match name.as_str() {
                "tel" => patch.insert(name, Value::Null),
                _ => settings.insert(name, Value::Null),
            };
        }
        if !settings.is_empty() {
            patch.insert("settings".to_owned(), settings.into());
        }
        Ok(patch)
    }

    fn password(&self) -> Result<Option<String>, OperateError> {
        let mut line = String::new();
        if let Some(file) = &self.password_file {
            let wrong = |error: io::Error| {
                OperateError::Misconfigured(format!("{}: {error}", file.display()))
            };
            let file = File::open(file).map_err(wrong)?;
            io::BufReader::new(file)
                .read_line(&mut line)
                .map_err(wrong)?;
        } else if self.password_stdin {
            io::stdin().lock().read_line(&mut line)?;
        } else {
            return Ok(self.password.clone());
        }
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// `sip:eve@im.test=block`; the action has no equals sign, the URI may.
fn read_rule(rule: &str) -> Result<Value, OperateError> {
    let wrong = || OperateError::Misconfigured(format!("\"{rule}\" is not FROM=ACTION"));
    let (from, action) = rule.rsplit_once('=').ok_or_else(wrong)?;
    Ok(json!({ "from": from, "action": action }))
}

impl Group<BindingsCommand> {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let client = self.target.client(true)?;
        let json = self.target.json;
        let mut printer = Printer { out, json };
        match self.command {
            BindingsCommand::List { user } => {
                let path = format!("{}/bindings", user_path(&user));
                let columns = [
                    ("ID", "id"),
                    ("CONTACT", "contact"),
                    ("FLOW", "flow"),
                    ("PROFILE", "profile"),
                    ("SUSPENDED", "suspended"),
                    ("EXPIRES", "expires_at"),
                ];
                let entries = entries(&client, &path, "bindings")?;
                printer.list("bindings", &columns, entries)
            }
            BindingsCommand::Remove { user, id, all: _ } => {
                let path = format!("{}/bindings", user_path(&user));
                match id {
                    Some(id) => {
                        client.json("DELETE", &format!("{path}/{}", segment(&id)), None)?;
                        printer.done("the binding is removed")
                    }
                    None => printer.one(&client.json("DELETE", &path, None)?),
                }
            }
        }
    }
}

/// The entries of a list without pages.
fn entries(client: &Client, path: &str, key: &str) -> Result<Vec<Value>, OperateError> {
    let mut answer = client.json("GET", path, None)?;
    match answer.get_mut(key).map(Value::take) {
        Some(Value::Array(entries)) => Ok(entries),
        _ => Ok(Vec::new()),
    }
}

impl Group<MessagesCommand> {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let client = self.target.client(true)?;
        let json = self.target.json;
        let mut printer = Printer { out, json };
        match self.command {
            MessagesCommand::List { user } => {
                let columns = [
                    ("SEQ", "seq"),
                    ("STATE", "state"),
                    ("REASON", "reason"),
                    ("ATTEMPTS", "attempts"),
                    ("NEXT ATTEMPT", "next_attempt"),
                    ("EXPIRES", "expires_at"),
                    ("KIND", "kind"),
                    ("SIZE", "size"),
                    ("AUTHOR", "author"),
                    ("MESSAGE-ID", "message_id"),
                ];
                let path = format!("{}/messages", user_path(&user));
                let entries = client.all(&path, "messages")?;
                printer.list("messages", &columns, entries)
            }
            MessagesCommand::Show(message) => {
                printer.one(&client.json("GET", &message.path(), None)?)
            }
            MessagesCommand::Retry(message) => {
                client.json("POST", &format!("{}/retry", message.path()), None)?;
                printer.done("it is offered")
            }
            MessagesCommand::Redate {
                message,
                at,
                within,
            } => {
                let at = match within {
                    Some(within) => from_now(&within)?,
                    None => at.unwrap_or_default(),
                };
                let body = json!({ "expires_at": at });
                printer.one(&client.json("PATCH", &message.path(), Some(&body))?)
            }
            MessagesCommand::Cancel(message) => {
                client.json("DELETE", &message.path(), None)?;
                printer.done("it is cancelled")
            }
            MessagesCommand::Export { user, seq, output } => {
                let path = match seq {
                    Some(seq) => format!("{}/messages/{seq}/export", user_path(&user)),
                    None => format!("{}/export", user_path(&user)),
                };
                let mut octets = client.stream(&path)?;
                match output {
                    Some(file) => {
                        let mut options = OpenOptions::new();
                        let options = options.write(true).create_new(true).mode(0o600);
                        let mut file = options.open(file)?;
                        io::copy(&mut octets, &mut file)?;
                        file.sync_all()?;
                    }
                    None => drop(io::copy(&mut octets, printer.out)?),
                }
                Ok(())
            }
        }
    }
}

/// The time after a period, RFC 3339.
fn from_now(period: &str) -> Result<String, OperateError> {
    let period: Result<Period, _> = period.parse();
    let period = period.map_err(|error| OperateError::Misconfigured(error.to_string()))?;
    let at = clock::now().wall.plus(period.duration());
    Ok(crate::cpim::format_date_time(at))
}

impl Group<SessionsCommand> {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let client = self.target.client(true)?;
        let json = self.target.json;
        let mut printer = Printer { out, json };
        match self.command {
            SessionsCommand::List => {
                let columns = [
                    ("ID", "id"),
                    ("STATE", "state"),
                    ("FROM", "from"),
                    ("TO", "to"),
                    ("MESSAGES", "messages"),
                    ("ACTIVE", "active_at"),
                    ("CONVERSATION", "conversation"),
                ];
                let entries = entries(&client, "/admin/v1/sessions", "sessions")?;
                printer.list("sessions", &columns, entries)
            }
            SessionsCommand::End { id } => {
                client.json(
                    "DELETE",
                    &format!("/admin/v1/sessions/{}", segment(&id)),
                    None,
                )?;
                printer.done("it is ending")
            }
        }
    }
}

impl Group<BansCommand> {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let client = self.target.client(true)?;
        let json = self.target.json;
        let mut printer = Printer { out, json };
        match self.command {
            BansCommand::List if json => {
                let answer = client.json("GET", "/admin/v1/bans", None)?;
                Ok(output::json(printer.out, &answer)?)
            }
            BansCommand::List => {
                let columns = [
                    ("ADDRESS", "address"),
                    ("BY", "transport"),
                    ("UNTIL", "until"),
                    ("TIMES", "times"),
                ];
                printer.list(
                    "bans",
                    &columns,
                    entries(&client, "/admin/v1/bans", "bans")?,
                )?;
                let columns = [
                    ("LOCKED OUT", "user"),
                    ("AT", "address"),
                    ("UNTIL", "until"),
                    ("TIMES", "times"),
                ];
                let lockouts = entries(&client, "/admin/v1/bans", "lockouts")?;
                printer.list("lockouts", &columns, lockouts)
            }
            BansCommand::Remove { address } => {
                let path = format!("/admin/v1/bans/{}", segment(&address));
                client.json("DELETE", &path, None)?;
                printer.done("it is heard again")
            }
            BansCommand::Unlock { user } => {
                let path = format!("/admin/v1/lockouts/{}", segment(&user));
                client.json("DELETE", &path, None)?;
                printer.done("he may try again")
            }
        }
    }
}

impl Single {
    /// `restante users`.
    pub fn users(self, out: &mut impl Write) -> Result<(), OperateError> {
        let client = self.target.client(true)?;
        let columns = [
            ("USER", "user"),
            ("CONTACTS", "contacts"),
            ("WAITING", "waiting_messages"),
            ("OCTETS", "waiting_bytes"),
        ];
        let entries = client.all("/admin/v1/users", "users")?;
        let json = self.target.json;
        Printer { out, json }.list("users", &columns, entries)
    }

    /// `restante status`.
    pub fn status(self, out: &mut impl Write) -> Result<(), OperateError> {
        let mut server = self
            .target
            .client(true)?
            .json("GET", "/admin/v1/server", None)?;
        let json = self.target.json;
        if let Some(server) = server.as_object_mut().filter(|_| !json) {
            server.remove("configuration");
        }
        Printer { out, json }.one(&server)
    }

    /// `restante drain`.
    pub fn drain(self, out: &mut impl Write) -> Result<(), OperateError> {
        let answer = self
            .target
            .client(true)?
            .json("POST", "/admin/v1/drain", None)?;
        let json = self.target.json;
        Printer { out, json }.one(&answer)
    }

    /// `restante metrics`.
    pub fn metrics(self, out: &mut impl Write) -> Result<(), OperateError> {
        let mut text = self.target.client(false)?.stream("/metrics")?;
        io::copy(&mut text, out)?;
        Ok(())
    }
}

impl HealthArguments {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let path = if self.live { "/healthz" } else { "/readyz" };
        let health = self.target.client(false)?.json("GET", path, None)?;
        let json = self.target.json;
        Printer { out, json }.one(&health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_cut_at_its_last_equals_sign() {
        let rule = read_rule("sip:eve@im.test;x=1=block").unwrap();
        assert_eq!(
            rule,
            json!({"from": "sip:eve@im.test;x=1", "action": "block"})
        );
        assert_eq!(read_rule("block").unwrap_err().exit_code(), 2);
    }
}
