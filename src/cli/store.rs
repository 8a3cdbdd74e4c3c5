//! Commands about the whole store: those that look at a folder while no server runs on it, and those that
//! ask a running server for a copy.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{OperateError, Target};
use super::output;
use crate::registrar::StoredAccount;
use crate::store::archive::Archive;
use crate::store::import::{ImportError, Imported, Told, import};
use crate::store::transfer::{Totals, totals_of};
use crate::store::verify::{Damage, DamageKind, Loss, Report, verify};
use crate::store::{StoreConfig, StoreError, backup};

/// The last line of an export is no longer.
const LAST_LINE: usize = 4 * 1024;
/// How often an import tells how far it is, in lines.
const TELL_EVERY: u64 = 10_000;

/// Where the store is.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The data folder; without it data_dir of the configuration.
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Configuration file of the server that uses it.
    #[arg(short = 'c', long = "config", global = true, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// `restante store`.
#[derive(Args, Debug)]
pub struct StoreArguments {
    /// What to do.
    #[command(subcommand)]
    command: StoreCommand,
    /// Where.
    #[command(flatten)]
    place: Place,
}

/// What to do with the store of a stopped server.
#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read and check every octet; change none. Also for backups.
    ///
    /// Tells each damaged place with file, position and what is lost by it. Exits 0 if the store is
    /// sound, 1 if it is damaged, 2 if it cannot be looked at: there is none, or a server runs on it.
    Verify {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy a backup to where a server shall use it.
    ///
    /// The backup is checked first; a damaged one only with --damaged. The data folder must not be
    /// there, or be empty.
    Restore {
        /// The folder of the backup.
        backup: PathBuf,
        /// Even if it is damaged: what is sound in it is served.
        #[arg(long)]
        damaged: bool,
    },
    /// Write everything as JSON lines, which every version can import.
    ///
    /// Messages with bodies and dates, bindings, accounts: whoever has it has what proves the users.
    Export {
        /// A new file, made with mode 0600; without it stdout.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Take JSON lines into a store, which is made if there is none.
    ///
    /// Messages go behind those that wait, in their order, with their dates; quotas do not count. What
    /// is there already is not taken twice, so an import that broke off is run again. A wrong line is
    /// told with its number and passed over. Exits 0 if every line was taken.
    Import {
        /// The file; without it stdin.
        input: Option<PathBuf>,
    },
}

/// `restante backup`.
#[derive(Args, Debug)]
pub struct BackupArguments {
    /// A new folder, or an empty one.
    folder: PathBuf,
    /// Whom to ask.
    #[command(flatten)]
    target: Target,
}

/// `restante export`.
#[derive(Args, Debug)]
pub struct ExportArguments {
    /// A new file, made with mode 0600; without it stdout.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Whom to ask.
    #[command(flatten)]
    target: Target,
}

impl From<StoreError> for OperateError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { path, source } => {
                let text = format!("{}: {source}", path.display());
                Self::Output(io::Error::new(source.kind(), text))
            }
            error => Self::Misconfigured(error.to_string()),
        }
    }
}

impl Place {
    fn folder(&self) -> Result<PathBuf, OperateError> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        let config = super::load(self.file.as_deref());
        let config = config.map_err(|error| OperateError::Misconfigured(error.to_string()))?;
        Ok(config.data_dir)
    }
}

impl StoreArguments {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let folder = self.place.folder()?;
        match self.command {
            StoreCommand::Verify { json } => {
                let report = look(&folder)?;
                match json {
                    true => output::json(out, &as_json(&report))?,
                    false => as_text(out, &report)?,
                }
                sound(&folder, &report)
            }
            StoreCommand::Restore { backup, damaged } => restore(out, &backup, &folder, damaged),
            StoreCommand::Export { output } => {
                let archive = Archive::open(&folder)?;
                let mut to = sink(output.as_deref(), out)?;
                let totals = archive.export(&mut |octets| to.write_all(&octets))?;
                to.flush()?;
                drop(archive);
                complete(totals)?;
                // What was lost without a trace is not counted there.
                let report = look(&folder)?;
                match report.loses() {
                    false => Ok(()),
                    true => sound(&folder, &report),
                }
            }
            StoreCommand::Import { input } => {
                let imported = match input {
                    Some(file) => {
                        let opened = File::open(&file);
                        let opened = opened.map_err(|error| {
                            OperateError::Misconfigured(format!("{}: {error}", file.display()))
                        })?;
                        take(&folder, &mut BufReader::new(opened))
                    }
                    None => take(&folder, &mut io::stdin().lock()),
                };
                told(out, &imported?)
            }
        }
    }
}

/// What a folder holds, with what the store itself cannot judge: the accounts.
fn look(folder: &Path) -> Result<Report, OperateError> {
    let mut report = verify(folder)?;
    for (name, value) in &report.documents {
        if let Some(Err(error)) = StoredAccount::decode(name, value) {
            let note = format!("the document {name} is no account: {error}; it counts for nothing");
            report.notes.push(note);
        }
    }
    Ok(report)
}

/// Whether an export has everything that waited.
fn complete(totals: Totals) -> Result<(), OperateError> {
    match totals.damaged {
        0 => Ok(()),
        damaged => Err(OperateError::Damaged(format!(
            "{damaged} messages or bindings are damaged and not in it"
        ))),
    }
}

fn sound(folder: &Path, report: &Report) -> Result<(), OperateError> {
    match report.is_sound() {
        true => Ok(()),
        false => Err(OperateError::Damaged(format!(
            "{} is damaged in {} places",
            folder.display(),
            report.damages.len() as u64 + report.more
        ))),
    }
}

fn restore(
    out: &mut impl Write,
    backup: &Path,
    folder: &Path,
    damaged: bool,
) -> Result<(), OperateError> {
    if !backup::is_free(folder)? {
        let folder = folder.display();
        let text = format!("{folder} is not empty; nothing is written over: move it away first");
        return Err(OperateError::Misconfigured(text));
    }
    let report = look(backup)?;
    if !report.is_sound() {
        as_text(out, &report)?;
        if !damaged {
            return sound(backup, &report);
        }
    }
    Archive::open(backup)?.copy_to(folder)?;
    let (messages, folder) = (report.waiting.messages, folder.display());
    writeln!(out, "{folder} has {messages} messages; a server can use it")?;
    Ok(())
}

fn take(folder: &Path, from: &mut dyn BufRead) -> Result<Imported, OperateError> {
    let mut tell = |told: Told<'_>| match told {
        Told::Failed(line, why) => eprintln!("line {line}: {why}"),
        Told::Lines(lines) if lines.is_multiple_of(TELL_EVERY) => eprintln!("{lines} lines"),
        Told::Lines(_) => {}
    };
    import(&StoreConfig::new(folder), from, &mut tell).map_err(|error| match error {
        ImportError::Store(error) => error.into(),
        ImportError::Foreign | ImportError::Newer(_) => {
            OperateError::Misconfigured(error.to_string())
        }
        ImportError::Read(_) | ImportError::Refused(..) => OperateError::Damaged(error.to_string()),
    })
}

fn told(out: &mut impl Write, imported: &Imported) -> Result<(), OperateError> {
    for (word, totals) in [
        ("taken", imported.taken),
        ("there already", imported.present),
    ] {
        let (messages, bindings) = (totals.messages, totals.bindings);
        let documents = totals.documents;
        writeln!(
            out,
            "{word}: {messages} messages, {bindings} bindings, {documents} documents"
        )?;
    }
    match (imported.failed, imported.complete) {
        (0, true) => Ok(()),
        (0, false) => Err(OperateError::Damaged(
            "the last line is missing: this is not all of the export".to_owned(),
        )),
        (failed, _) => Err(OperateError::Damaged(format!(
            "{failed} of {} lines were not taken",
            imported.lines
        ))),
    }
}

/// A new file for its owner only, or what was there before.
fn sink<'a>(file: Option<&Path>, out: &'a mut impl Write) -> io::Result<Box<dyn Write + 'a>> {
    Ok(match file {
        Some(file) => {
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)?;
            Box::new(io::BufWriter::new(file))
        }
        None => Box::new(out),
    })
}

impl BackupArguments {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        if !backup::is_free(&self.folder)? {
            let folder = self.folder.display();
            let text = format!("{folder} is not empty; nothing is written over");
            return Err(OperateError::Misconfigured(text));
        }
        let mut files = self.target.client(true)?.stream("/admin/v1/backup")?;
        backup::unpack(&mut files, &self.folder).map_err(|error| {
            let folder = self.folder.display();
            OperateError::Damaged(format!("{folder} is not whole: {error}"))
        })?;
        let report = look(&self.folder)?;
        match self.target.json {
            true => output::json(out, &as_json(&report))?,
            false => as_text(out, &report)?,
        }
        sound(&self.folder, &report)
    }
}

/// Copies everything; the octets at the end.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<Vec<u8>> {
    let (mut piece, mut end) = (vec![0; 64 * 1024], Vec::new());
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(end);
        }
        to.write_all(&piece[..count])?;
        end.extend_from_slice(&piece[..count]);
        end.drain(..end.len().saturating_sub(LAST_LINE));
    }
}

impl ExportArguments {
    /// Performs the command, writing to `out`.
    pub fn run(self, out: &mut impl Write) -> Result<(), OperateError> {
        let mut lines = self.target.client(true)?.stream("/admin/v1/export")?;
        let mut to = sink(self.output.as_deref(), out)?;
        let end = copy(&mut lines, &mut to)?;
        to.flush()?;
        let totals = totals_of(&end).ok_or_else(|| {
            OperateError::Damaged("the last line is missing: this is not all".to_owned())
        })?;
        complete(totals)
    }
}

fn as_json(report: &Report) -> Value {
    json!({
        "sound": report.is_sound(),
        "log_segments": report.segments.0,
        "body_segments": report.segments.1,
        "octets": report.octets,
        "records": report.records,
        "messages": report.waiting.messages,
        "message_octets": report.waiting.octets,
        "users": report.users,
        "bindings": report.bindings,
        "documents": report.documents.len(),
        "unowned_octets": report.unowned,
        "damages": report.damages.iter().map(damage).collect::<Vec<_>>(),
        "more_damages": report.more,
        "notes": report.notes,
    })
}

fn damage(damage: &Damage) -> Value {
    let kind = match damage.kind {
        DamageKind::Header => "header",
        DamageKind::Record => "record",
        DamageKind::Footer => "footer",
        DamageKind::Body => "body",
        DamageKind::Missing => "missing",
        DamageKind::Stranger => "stranger",
    };
    let mut value = json!({
        "file": damage.file.display().to_string(),
        "offset": damage.offset,
        "octets": damage.octets,
        "kind": kind,
    });
    let lost = match &damage.loss {
        Loss::Nothing => json!({ "lost": "nothing" }),
        Loss::Unknown => json!({ "lost": "unknown" }),
        Loss::Binding { user } => json!({ "lost": "binding", "user": user.as_str() }),
        Loss::Document { name } => json!({ "lost": "document", "name": name }),
        Loss::Message {
            recipient,
            seq,
            message_id,
        } => json!({
            "lost": "message",
            "user": recipient.as_str(),
            "seq": seq.0,
            "message_id": message_id,
        }),
    };
    if let (Some(value), Value::Object(lost)) = (value.as_object_mut(), lost) {
        value.extend(lost);
    }
    value
}

fn as_text(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let places = report.damages.len() as u64 + report.more;
    match report.is_sound() {
        true => writeln!(out, "the store is sound")?,
        false => writeln!(out, "the store is damaged in {places} places")?,
    }
    let (log, body) = report.segments;
    let counts = [
        ("messages that wait", report.waiting.messages),
        ("  octets of them", report.waiting.octets),
        ("  users they wait for", report.users as u64),
        ("bindings of devices", report.bindings),
        (
            "documents (accounts, [traffic])",
            report.documents.len() as u64,
        ),
        ("octets read", report.octets),
        ("  records in them", report.records),
        ("  segments of the log", log as u64),
        ("  segments of large bodies", body as u64),
        ("  octets of no message any more", report.unowned),
    ];
    for (what, count) in counts {
        writeln!(out, "{what:32}  {count}")?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    if !report.is_sound() {
        let damages: Vec<Value> = report.damages.iter().map(damage).collect();
        let columns = [
            ("FILE", "file"),
            ("OFFSET", "offset"),
            ("OCTETS", "octets"),
            ("KIND", "kind"),
            ("LOST", "lost"),
            ("USER", "user"),
            ("SEQ", "seq"),
            ("MESSAGE-ID", "message_id"),
        ];
        output::table(out, &columns, &damages)?;
        if report.more > 0 {
            writeln!(out, "and {} more", report.more)?;
        }
    }
    Ok(())
}
