//! Whether a folder is sound: every octet of it is read and checked, and none is changed.
//!
//! Records are read one by one, whatever the footers say; footers must say the same. The body of every
//! waiting message is read as its delivery would. The view is judged in a copy. Damage to what nobody
//! needs any more is reported as such: it loses nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::archive::{Archive, Contents, Strange, Volume};
use super::deferred::StoreError;
use super::files;
use super::footer::{About, Line};
use super::manifest::Place;
use super::newest;
use super::record::{self, Kind, RecordBody};
use super::request::{Seq, Usage};
use super::segment::{self, Copies, Found, START};
use super::survey::Fate;
use super::table::SledTable;
use super::view::{Broken, View};
use crate::identity::Identity;
use crate::token::Tokens;

/// Damages that are listed; the rest is counted.
const LISTED: usize = 10_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Segments of the log, and of large bodies.
    pub segments: (usize, usize),
    /// Octets in all of them.
    pub octets: u64,
    /// Records of the log that can be read.
    pub records: u64,
    /// What waits.
    pub waiting: Usage,
    /// For how many users.
    pub users: usize,
    /// Bindings of users.
    pub bindings: u64,
    /// All documents, by name.
    pub documents: Vec<(Box<str>, Bytes)>,
    /// Octets of bodies that no message needs.
    pub unowned: u64,
    /// What is damaged.
    pub damages: Vec<Damage>,
    /// Damages that are not listed.
    pub more: u64,
    /// What is odd and no damage.
    pub notes: Vec<String>,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Its first octet.
    pub offset: u64,
    /// How many octets.
    pub octets: u64,
    /// What it was.
    pub kind: DamageKind,
    /// What is lost by it.
    pub loss: Loss,
}

/// What was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// One copy of a segment's header, or both.
    Header,
    /// Records of the log.
    Record,
    /// A segment's list of its records.
    Footer,
    /// A piece of a large body.
    Body,
    /// A segment is not there.
    Missing,
    /// A file has the name of another segment, or is of another folder.
    Stranger,
}

/// What is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing that is needed.
    Nothing,
    /// A message; its author hears `failed` if the rest of its record can be read.
    Message {
        /// Whose.
        recipient: Identity,
        /// Which.
        seq: Seq,
        /// imdn.Message-ID, if that can be read.
        message_id: Option<String>,
    },
    /// A binding: the device registers again.
    Binding {
        /// Whose.
        user: Identity,
    },
    /// A document.
    Document {
        /// Its name.
        name: Box<str>,
    },
    /// What was there cannot be told.
    Unknown,
}

impl Report {
    /// Whether anything is lost by the damage.
    pub fn loses(&self) -> bool {
        self.more > 0 || (self.damages.iter()).any(|damage| damage.loss != Loss::Nothing)
    }

    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }

    fn add(&mut self, damage: Damage) {
        match self.damages.len() < LISTED {
            true => self.damages.push(damage),
            false => self.more += 1,
        }
    }
}

/// Reads and checks everything in the folder of a stopped server, or in a backup.
pub fn verify(folder: &Path) -> Result<Report, StoreError> {
    let archive = Archive::open(folder)?;
    let mut check = Check {
        archive: &archive,
        report: Report::default(),
        broken: Vec::new(),
        needed: BTreeSet::new(),
        sealed: HashSet::default(),
        ruined: BTreeSet::new(),
    };
    check.strangers();
    check.lost(folder);
    check.run().map_err(|error| StoreError::io(folder, error))?;
    let mut report = check.report;
    modes(folder, &mut report.notes);
    Ok(report)
}

/// Octets of the log that are no sound record, and what may have been there.
struct BrokenRange {
    segment: u64,
    range: Range<u64>,
    /// Damaged messages whose heads can be read.
    heads: Vec<Line>,
    /// What the footer has there.
    listed: Vec<Line>,
}

struct Check<'a> {
    archive: &'a Archive,
    report: Report,
    broken: Vec<BrokenRange>,
    /// Sound pieces that live bodies need.
    needed: BTreeSet<Place>,
    /// Log segments with a list of their records.
    sealed: HashSet<u64, RandomState>,
    /// Places of body segments that were reported with their message.
    ruined: BTreeSet<Place>,
}

impl Check<'_> {
    fn run(&mut self) -> io::Result<()> {
        let archive = self.archive;
        let newest = archive.log.last().map(|volume| volume.segment.number);
        let contents = archive.contents(|volume| {
            let newest = Some(volume.segment.number) == newest;
            self.log_segment(volume, newest)
        })?;
        self.report.segments = (archive.log.len(), archive.bodies.len());
        let all = archive.log.iter().chain(archive.bodies.values());
        self.report.octets = all.map(|volume| volume.length).sum();
        self.report.waiting = contents.holdings.total();
        self.report.users = contents.holdings.users().count();
        self.tell_broken(&contents);
        self.messages(&contents);
        self.bindings(&contents);
        for volume in archive.bodies.values() {
            self.body_segment(volume)?;
        }
        self.view(&contents);
        Ok(())
    }

    fn strangers(&mut self) {
        for stranger in &self.archive.strangers {
            self.report.add(Damage {
                file: stranger.path.clone(),
                offset: 0,
                octets: stranger.length,
                kind: match stranger.why {
                    Strange::Misnamed | Strange::Elsewhere => DamageKind::Stranger,
                    Strange::Unreadable => DamageKind::Header,
                },
                loss: Loss::Unknown,
            });
        }
        for path in &self.archive.foreign {
            let note = format!("{}: not a file of this store", path.display());
            self.report.notes.push(note);
        }
    }

    /// Segments that were begun last and are not there.
    fn lost(&mut self, folder: &Path) {
        let path = folder.join(newest::FILE);
        let begun = newest::read(files::open_to_read(&path)).unwrap_or_else(|error| {
            let path = path.display();
            let note =
                format!("{path}: {error}: whether the newest segment is missing cannot be told");
            self.report.notes.push(note);
            None
        });
        let begun = begun.unwrap_or(0);
        let sound = (self.archive.log.iter()).map(|volume| volume.segment.number);
        let sound = sound.max().unwrap_or(0);
        let name = |number| Path::new("log").join(segment::file_name(number));
        // One that cannot be read is told as such.
        let is_there = |number: &u64| {
            fs::metadata(folder.join(name(*number))).is_ok_and(|found| found.len() > START)
        };
        let there = (sound + 1..=begun).rev().find(is_there).unwrap_or(sound);
        if there >= begun {
            return;
        }
        if there + 1 < begun {
            let (first, last) = (name(there + 1), name(begun));
            let note = format!("{} up to {}: missing", first.display(), last.display());
            self.report.notes.push(note);
        }
        self.report.add(Damage {
            file: name(begun),
            offset: 0,
            octets: 0,
            kind: DamageKind::Missing,
            loss: Loss::Unknown,
        });
    }

    fn header(&mut self, volume: &Volume) -> io::Result<()> {
        let copies = segment::copies(&*volume.segment.file)?;
        if copies != Copies::BothSound {
            self.report.add(Damage {
                file: volume.segment.path.clone(),
                offset: 0,
                octets: START,
                kind: DamageKind::Header,
                loss: Loss::Nothing,
            });
        }
        Ok(())
    }

    /// A log segment's lines as its records say them.
    fn log_segment(&mut self, volume: &Volume, newest: bool) -> io::Result<Vec<Line>> {
        self.header(volume)?;
        let segment = &volume.segment;
        let mut lines = Vec::new();
        let mut heads = Vec::new();
        let mut unclear = Vec::new();
        let mut records = 0;
        let scan = segment.scan(|found: Found| {
            records += u64::from(found.sound);
            match found.line() {
                Some(line) if found.sound => lines.push(line),
                Some(line) => heads.push(line),
                None if matches!(found.header.kind, Kind::Synced | Kind::Footer) => {}
                None if found.sound => unclear.push(found.range()),
                None => {}
            }
        })?;
        self.report.records += records;
        let footer = segment.footer()?;
        let mut ranges = scan.damaged;
        ranges.extend(unclear);
        if let Some(tail) = scan.tail.filter(|_| footer.is_none()) {
            self.tail(volume, tail, newest);
        }
        let inside = |line: &Line, range: &Range<u64>| range.contains(&line.position);
        for range in ranges {
            let of = |lines: &[Line]| {
                let lines = lines.iter().filter(|line| inside(line, &range));
                lines.cloned().collect::<Vec<_>>()
            };
            self.broken.push(BrokenRange {
                segment: segment.number,
                heads: of(&heads),
                listed: of(footer.as_deref().unwrap_or_default()),
                range,
            });
        }
        if let Some(footer) = &footer {
            self.sealed.insert(segment.number);
            self.compare(volume, footer, &lines);
        } else if !newest {
            let file = segment.path.display();
            let note = format!("{file}: no list of its records; the next start makes one");
            self.report.notes.push(note);
        }
        // The next start would still find these messages, and tell their authors.
        lines.extend(heads);
        lines.sort_unstable_by_key(|line| line.position);
        Ok(lines)
    }

    /// What follows the last sound record: a write that never ended, or in an older segment a list of
    /// records that is damaged.
    fn tail(&mut self, volume: &Volume, tail: Range<u64>, newest: bool) {
        let segment = &volume.segment;
        if newest {
            let file = segment.path.display();
            let octets = tail.end - tail.start;
            let note = format!(
                "{file}: {octets} octets of an unfinished write at {}",
                tail.start
            );
            return self.report.notes.push(note);
        }
        self.report.add(Damage {
            file: segment.path.clone(),
            offset: tail.start,
            octets: tail.end - tail.start,
            kind: DamageKind::Footer,
            loss: Loss::Nothing,
        });
    }

    /// The footer must have what the records say, and nothing else but what is damaged.
    fn compare(&mut self, volume: &Volume, footer: &[Line], lines: &[Line]) {
        let number = volume.segment.number;
        let damaged = |line: &Line| {
            let here = self.broken.iter().filter(|broken| broken.segment == number);
            let mut here = here.map(|broken| &broken.range);
            here.any(|range| range.contains(&line.position))
        };
        let name = |line: &Line| (line.position, line.length, seq_of(line));
        let listed = footer.iter().filter(|line| !damaged(line)).map(name);
        if listed.eq(lines.iter().map(name)) {
            return;
        }
        self.report.add(Damage {
            file: volume.segment.path.clone(),
            offset: 0,
            octets: 0,
            kind: DamageKind::Footer,
            loss: Loss::Unknown,
        });
    }

    /// Tells the damage in the log, now that it is known what is live.
    fn tell_broken(&mut self, contents: &Contents) {
        for broken in std::mem::take(&mut self.broken) {
            let mut losses = Vec::new();
            let known: BTreeMap<u64, &Line> = broken
                .listed
                .iter()
                .chain(&broken.heads)
                .map(|line| (line.position, line))
                .collect();
            for line in known.values() {
                let place = line.place(broken.segment);
                losses.extend(self.loss(contents, line, place));
            }
            let file = self.archive.volume(broken.segment);
            let file = file.map_or_else(PathBuf::new, |v| v.segment.path.clone());
            if losses.is_empty() {
                losses.push(match known.is_empty() {
                    true => Loss::Unknown,
                    false => Loss::Nothing,
                });
            }
            for loss in losses {
                self.report.add(Damage {
                    file: file.clone(),
                    offset: broken.range.start,
                    octets: broken.range.end - broken.range.start,
                    kind: DamageKind::Record,
                    loss,
                });
            }
        }
    }

    fn loss(&self, contents: &Contents, line: &Line, place: Place) -> Option<Loss> {
        match &line.about {
            About::Message { seq, recipient, .. } => {
                let live = contents.survey.fate(*seq, place) == Fate::Live;
                live.then(|| Loss::Message {
                    recipient: recipient.clone(),
                    seq: *seq,
                    message_id: self.message_id(place),
                })
            }
            About::Binding {
                user,
                key,
                revision,
                ..
            } => {
                let known = contents.bindings.get(&(user.clone(), key.clone()));
                let older = known.is_some_and(|entry| entry.revision > *revision);
                (!older).then(|| loss_of_binding(user, key))
            }
            // That a message was delivered or got by a device: it may be delivered again.
            About::Settled { .. } | About::Marks(_) => None,
        }
    }

    fn message_id(&self, place: Place) -> Option<String> {
        let segment = &self.archive.volume(place.segment)?.segment;
        let payload = segment.read_raw(place.position, place.length).ok()?;
        let (_, _, message) = record::head_of(&payload)?;
        Some(message.message_id)
    }

    /// Reads every large body as its delivery would.
    fn messages(&mut self, contents: &Contents) {
        for live in contents.messages.iter().filter(|live| live.large) {
            let Ok(record) = self.archive.message(live) else {
                continue;
            };
            let RecordBody::Large(manifest) = &record.body else {
                continue;
            };
            for place in manifest.places() {
                match self.archive.bodies.get(&place.segment) {
                    Some(volume) if piece_is_sound(volume, place) => {
                        self.needed.insert(place);
                    }
                    found => {
                        let kind = match found {
                            Some(_) => DamageKind::Body,
                            None => DamageKind::Missing,
                        };
                        self.ruined.insert(place);
                        self.report.add(Damage {
                            file: self.body_path(place.segment),
                            offset: place.position,
                            octets: place.length.into(),
                            kind,
                            loss: Loss::Message {
                                recipient: record.message.recipient.clone(),
                                seq: live.seq,
                                message_id: Some(record.message.message_id.clone()),
                            },
                        });
                    }
                }
            }
        }
    }

    fn body_path(&self, segment: u64) -> PathBuf {
        Path::new("body").join(segment::file_name(segment))
    }

    fn bindings(&mut self, contents: &Contents) {
        for ((user, key), entry) in &contents.bindings {
            // One that is damaged was told as a record.
            let Some(value) = self.archive.binding(entry) else {
                continue;
            };
            match *user == record::nobody() {
                true => self.report.documents.push((key.clone(), value)),
                false => self.report.bindings += 1,
            }
        }
    }

    /// Damage where no message lies, and octets that nobody needs.
    fn body_segment(&mut self, volume: &Volume) -> io::Result<()> {
        self.header(volume)?;
        let number = volume.segment.number;
        let mut unowned = 0;
        let needed = &self.needed;
        let scan = volume.segment.scan(|found: Found| {
            let place = Place {
                segment: number,
                position: found.position,
                length: u32::try_from(found.header.record_length()).unwrap_or(u32::MAX),
            };
            if found.header.kind == Kind::Piece && !needed.contains(&place) {
                unowned += u64::from(place.length);
            }
        })?;
        self.report.unowned += unowned;
        for range in scan.damaged.into_iter().chain(scan.tail) {
            let mut told = self.ruined.iter();
            let is_told =
                told.any(|place| place.segment == number && range.contains(&place.position));
            if !is_told {
                self.report.add(Damage {
                    file: volume.segment.path.clone(),
                    offset: range.start,
                    octets: range.end - range.start,
                    kind: DamageKind::Body,
                    loss: Loss::Nothing,
                });
            }
        }
        Ok(())
    }

    /// The index must know no message that the log has not: then a segment is missing.
    fn view(&mut self, contents: &Contents) {
        let Some(data) = self
            .archive
            .log
            .first()
            .and_then(|v| v.segment.path.parent()?.parent())
        else {
            return;
        };
        let salt = self.archive.log.first().map_or(0, |v| v.segment.seal.salt);
        let (data, folder) = (data.to_path_buf(), data.join("view"));
        if !folder.is_dir() {
            return;
        }
        let judged = in_a_copy(&folder, |copy| {
            let view = View::new(Box::new(SledTable::open(copy, false)?), salt);
            Ok(self.judge(&view, contents))
        });
        let problem = match judged {
            Ok(Ok((applied, 0))) => self.behind(applied),
            Ok(Ok((_, _))) => Some("it is not what the log says".to_owned()),
            Ok(Err(Broken(why))) => Some(why),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let folder = data.join("view");
            let note = format!(
                "{}: {problem}; the next start puts it right",
                folder.display()
            );
            self.report.notes.push(note);
        }
    }

    fn behind(&self, applied: u64) -> Option<String> {
        let newest = self.sealed.iter().copied().max()?;
        (applied < newest).then(|| "it is behind the log".to_owned())
    }

    /// How far the view is, and how many of its messages are not live, or are not in it.
    fn judge(&mut self, view: &View, contents: &Contents) -> Result<(u64, usize), Broken> {
        let applied = view.applied()?;
        let mut wrong = 0;
        let mut right = 0;
        let mut missing = HashMap::<u64, Vec<(Identity, Seq)>, RandomState>::default();
        view.audit(&mut |kept| {
            let number = kept.place.segment;
            match contents.survey.fate(kept.seq, kept.place) {
                Fate::Live if self.archive.volume(number).is_some() => right += 1,
                Fate::Live if number <= applied => match kept.whole() {
                    Some((recipient, _)) => {
                        missing
                            .entry(number)
                            .or_default()
                            .push((recipient, kept.seq));
                    }
                    None => wrong += 1,
                },
                _ => wrong += 1,
            }
        })?;
        for (number, messages) in missing {
            for (recipient, seq) in messages {
                self.report.add(Damage {
                    file: Path::new("log").join(segment::file_name(number)),
                    offset: 0,
                    octets: 0,
                    kind: DamageKind::Missing,
                    loss: Loss::Message {
                        recipient,
                        seq,
                        message_id: None,
                    },
                });
            }
        }
        let expected = contents.messages.iter().filter(|live| {
            let number = live.place.segment;
            live.fits && number <= applied && self.sealed.contains(&number)
        });
        let expected = expected.count();
        Ok((applied, wrong + expected.abs_diff(right)))
    }
}

fn seq_of(line: &Line) -> Option<Seq> {
    match &line.about {
        About::Message { seq, .. } | About::Settled { seq, .. } => Some(*seq),
        About::Marks(record) => Some(record.seq),
        About::Binding { .. } => None,
    }
}

fn loss_of_binding(user: &Identity, key: &str) -> Loss {
    match *user == record::nobody() {
        true => Loss::Document { name: key.into() },
        false => Loss::Binding { user: user.clone() },
    }
}

fn piece_is_sound(volume: &Volume, place: Place) -> bool {
    let read = volume.segment.read(place.position, place.length);
    matches!(read, Ok((Kind::Piece, _)))
}

/// Opening a table changes its files, so it is done elsewhere.
fn in_a_copy<T>(folder: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let name = format!("restante-verify-{:016x}", Tokens::from_os().number());
    let copy = std::env::temp_dir().join(name);
    let outcome = copy_folder(folder, &copy).and_then(|()| look(&copy));
    let _ = fs::remove_dir_all(&copy);
    outcome
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// What others could read.
fn modes(folder: &Path, notes: &mut Vec<String>) {
    for name in [
        "",
        "log",
        "body",
        "view",
        "damaged",
        "nonce.key",
        "admin.token",
        newest::FILE,
    ] {
        let path = folder.join(name);
        let Ok(found) = fs::metadata(&path) else {
            continue;
        };
        if found.permissions().mode() & 0o077 != 0 {
            let mode = found.permissions().mode() & 0o777;
            notes.push(format!("{}: mode {mode:o} lets others in", path.display()));
        }
    }
}
