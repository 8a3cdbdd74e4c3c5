//! A start: what the folder holds, made whole again.
//!
//! Sealed segments tell their contents in their footers. Others are synced, read from the disk
//! record by record, freed of a torn tail and sealed; the last one goes on if it is sound.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::append::{Appender, Folder};
use super::deferred::{Recovered, StoreConfig, StoreError};
use super::files::{self, File, Files};
use super::footer::Line;
use super::index::Index;
use super::newest;
use super::rebuild::Shelf;
use super::record::Kind;
use super::reserve::Reserve;
use super::restore::Restore;
use super::segment::{self, Birth, FORMAT, Read, START, Segment};
use super::shared::Damages;
use crate::identity::Identity;
use crate::token::Tokens;

/// A folder that was made whole.
pub(super) struct Found {
    pub(super) index: Index,
    pub(super) damages: Damages,
    pub(super) recovered: Recovered,
    pub(super) log: Appender,
    pub(super) body: Appender,
    pub(super) log_folder: Folder,
    pub(super) body_folder: Folder,
    pub(super) reserve: Reserve,
}

/// A segment file before its records are known.
struct Opened {
    birth: Option<Birth>,
    segment: Arc<Segment>,
}

/// A log segment's records.
struct Contents {
    lines: Vec<Line>,
    /// Octets of the file.
    total: u64,
    /// Where records may go on, if the segment has no footer and no damage.
    open_end: Option<u64>,
}

/// Makes the folder whole.
pub(super) fn recover(
    config: &StoreConfig,
    files: &Arc<dyn Files>,
    placement: Box<dyn Fn(&Identity) -> u16 + Send>,
) -> Result<Found, StoreError> {
    let log_path = config.data_dir.join("log");
    let body_path = config.data_dir.join("body");
    let damaged_path = config.data_dir.join("damaged");
    for path in [&log_path, &body_path, &damaged_path] {
        files.make_dir(path).map_err(|e| StoreError::io(path, e))?;
    }
    for path in [&log_path, &body_path, &config.data_dir] {
        files.sync_dir(path).map_err(|e| StoreError::io(path, e))?;
    }
    let damages = Damages::new(files.clone(), damaged_path);
    let log_births = births(&**files, &log_path)?;
    let body_births = births(&**files, &body_path)?;
    let salt = log_births
        .iter()
        .chain(&body_births)
        .find_map(|found| match found.read {
            Read::Sound(birth) => Some(birth.salt),
            _ => None,
        });
    let last = |births: &[Birthed]| births.iter().map(|b| b.number).max().unwrap_or(0);
    let newest = newest_begun(&**files, &config.data_dir);
    let there = newest_there(&log_births).map_err(|e| StoreError::io(&log_path, e))?;
    let loses = there < newest;
    if loses {
        damages.lost(there + 1, newest);
    }
    let next_log = last(&log_births).max(newest) + 1;
    let next_body = last(&body_births) + 1;
    let salt_known = salt.is_some();
    let salt = salt.unwrap_or_else(|| Tokens::from_os().number());
    let folder = |path: &Path, newest_in| Folder {
        files: files.clone(),
        path: path.to_path_buf(),
        salt,
        segment_bytes: config.segment_bytes,
        newest_in,
    };
    let log_folder = folder(&log_path, Some(config.data_dir.clone()));
    let body_folder = folder(&body_path, None);
    let log_segments = open_all(&log_folder, log_births, salt_known, &damages)?;
    let body_segments = open_all(&body_folder, body_births, salt_known, &damages)?;

    let shelf = Shelf::new(files.clone(), config.data_dir.clone(), salt);
    let mut index = Index::new(placement, shelf, &config.memory);
    for opened in &body_segments {
        let length = opened.segment.file.length();
        let length = length.map_err(|e| StoreError::io(&opened.segment.path, e))?;
        index.bodies.insert(opened.segment.clone(), length, true);
    }
    let (open, mut recovered) = read_all(config, &mut index, &log_segments, &damages, !loses)?;
    drop_unused_bodies(&mut index, &body_folder)?;
    let next_seq = recovered.next_seq.0;

    let mut reserve = Reserve::open(&**files, &log_path, config.reserve_bytes)
        .map_err(|e| StoreError::io(&log_path, e))?;
    let log = match open {
        Some(open) => Appender::resume(log_folder.clone(), open.segment, open.end, open.lines),
        None => begin(&log_folder, next_log, next_seq, &mut reserve)?,
    };
    let body = begin(&body_folder, next_body, 0, &mut reserve)?;
    index.log.insert_new(&log.segment, log.end);
    index.bodies.insert_new(&body.segment, body.end);
    recovered.damaged = damages.count();
    Ok(Found {
        index,
        damages,
        recovered,
        log,
        body,
        log_folder,
        body_folder,
        reserve,
    })
}

/// The last segment, if it can be appended to.
struct Open {
    segment: Arc<Segment>,
    end: u64,
    lines: Vec<Line>,
}

/// The number of the segment that was begun last, 0 if that is not known.
fn newest_begun(files: &dyn Files, data_dir: &Path) -> u64 {
    let path = data_dir.join(newest::FILE);
    let number = newest::read(files.open(&path)).unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "whether the newest segment is missing cannot be told");
        None
    });
    number.unwrap_or(0)
}

/// The number of the newest segment in which something may be, 0 if there is none.
fn newest_there(births: &[Birthed]) -> std::io::Result<u64> {
    let mut newest = 0;
    for found in births {
        if !found.is_unborn()? {
            newest = newest.max(found.number);
        }
    }
    Ok(newest)
}

/// Reads what all log segments tell, the newest first. Behind what is lost nothing goes on: a new segment is
/// begun, whose number says that the loss was told.
fn read_all(
    config: &StoreConfig,
    index: &mut Index,
    segments: &[Opened],
    damages: &Damages,
    may_go_on: bool,
) -> Result<(Option<Open>, Recovered), StoreError> {
    for opened in segments {
        index.log.insert(opened.segment.clone(), 0, false);
    }
    let births = segments.iter().filter_map(|opened| opened.birth);
    let next_seq = births.map(|birth| birth.next_seq).max().unwrap_or(1);
    let mut restore = Restore::new(index, config, next_seq.max(1));
    let mut sealed: Vec<_> = segments.iter().map(|o| o.segment.clone()).collect();
    let mut open = None;
    let mut torn = 0;
    for (older, opened) in segments.iter().rev().enumerate() {
        let segment = &opened.segment;
        let failed = |error| StoreError::io(&segment.path, error);
        let newest = older == 0;
        let goes_on = newest && may_go_on;
        let found = read_log(opened, goes_on, config.segment_bytes, damages, &mut torn);
        let found = found.map_err(failed)?;
        let is_sealed = found.open_end.is_none();
        restore
            .index
            .log
            .read(segment.number, found.total, is_sealed);
        if !is_sealed {
            sealed.pop();
        }
        if newest && let Some(last) = sealed.last() {
            restore.index.find_view(last.number);
        }
        restore
            .add(segment, &found.lines, is_sealed)
            .map_err(failed)?;
        if let Some(end) = found.open_end {
            open = Some(Open {
                segment: segment.clone(),
                end,
                lines: found.lines,
            });
        }
    }
    let mut recovered = restore.finish(&sealed, damages);
    recovered.torn_octets = torn;
    Ok((open, recovered))
}

fn begin(
    folder: &Folder,
    number: u64,
    next_seq: u64,
    reserve: &mut Reserve,
) -> Result<Appender, StoreError> {
    let made = match Appender::begin(folder.clone(), number, next_seq) {
        Err(error) if files::is_full(&error) && reserve.give(256 * 1024) => {
            Appender::begin(folder.clone(), number, next_seq)
        }
        other => other,
    };
    made.map_err(|e| StoreError::io(&folder.path, e))
}

/// A segment file and what its header says.
struct Birthed {
    number: u64,
    file: Arc<dyn File>,
    read: Read,
}

impl Birthed {
    /// Whether nothing was ever in it: the header is durable before the first record.
    fn is_unborn(&self) -> std::io::Result<bool> {
        Ok(!matches!(self.read, Read::Sound(_)) && self.file.length()? <= START)
    }
}

fn births(files: &dyn Files, folder: &Path) -> Result<Vec<Birthed>, StoreError> {
    let names = files.list(folder).map_err(|e| StoreError::io(folder, e))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
    numbers.sort_unstable();
    let mut births = Vec::new();
    for number in numbers {
        let path = folder.join(segment::file_name(number));
        let file = files.open(&path).map_err(|e| StoreError::io(&path, e))?;
        let read = segment::read_birth(&*file).map_err(|e| StoreError::io(&path, e))?;
        match read {
            Read::Newer(format) => return Err(StoreError::Newer { path, format }),
            Read::Sound(birth) if birth.number != number => {
                let number = birth.number;
                return Err(StoreError::Misnamed { path, number });
            }
            _ => {}
        }
        births.push(Birthed { number, file, read });
    }
    Ok(births)
}

/// Opens every segment whose salt is known; removes those whose birth was interrupted.
fn open_all(
    folder: &Folder,
    births: Vec<Birthed>,
    salt_known: bool,
    damages: &Damages,
) -> Result<Vec<Opened>, StoreError> {
    let mut opened = Vec::new();
    for found in births {
        let path = folder.path.join(segment::file_name(found.number));
        if found.is_unborn().map_err(|e| StoreError::io(&path, e))? {
            let gone = folder.files.unlink(&path);
            gone.map_err(|e| StoreError::io(&path, e))?;
            continue;
        }
        let birth = match found.read {
            Read::Sound(birth) => Some(birth),
            _ => None,
        };
        let salt = birth.map_or(folder.salt, |birth| birth.salt);
        if salt != folder.salt {
            return Err(StoreError::Elsewhere(path));
        }
        let segment = Arc::new(Segment::new(path, found.number, salt, found.file));
        if birth.is_none() {
            damages.report(&segment, 0..START);
            if !salt_known {
                continue;
            }
        }
        opened.push(Opened { birth, segment });
    }
    Ok(opened)
}

fn read_log(
    opened: &Opened,
    may_go_on: bool,
    segment_bytes: u64,
    damages: &Damages,
    torn: &mut u64,
) -> std::io::Result<Contents> {
    let segment = &opened.segment;
    if let Some(lines) = segment.footer()? {
        return Ok(Contents {
            lines,
            total: segment.file.length()?,
            open_end: None,
        });
    }
    // What a killed process wrote may never have reached the disk; and after a failed sync the
    // cache may hold what the disk does not.
    segment.file.sync()?;
    segment.file.drop_cache();
    let Records {
        lines,
        damaged,
        end,
        tail,
    } = read_records(segment)?;
    for range in &damaged {
        damages.report(segment, range.clone());
    }
    if let Some(tail) = &tail {
        *torn += tail.end - tail.start;
        damages.torn(segment, tail.clone());
        segment.file.truncate(end)?;
        segment.file.sync()?;
    }
    let current = opened.birth.is_some_and(|birth| birth.format == FORMAT);
    let sound = damaged.is_empty() && current;
    // A mark does not fill a segment.
    let used = lines.last();
    let used = used.map_or(START, |line| line.position + u64::from(line.length));
    if may_go_on && sound && used < segment_bytes {
        return Ok(Contents {
            lines,
            total: end,
            open_end: Some(end),
        });
    }
    let total = match segment.seal(end, &lines) {
        Ok(total) => total,
        // The next start reads the records again.
        Err(error) if files::is_full(&error) => end,
        Err(error) => return Err(error),
    };
    Ok(Contents {
        lines,
        total,
        open_end: None,
    })
}

/// What a segment without a footer holds.
struct Records {
    lines: Vec<Line>,
    /// What is no sound record, or none that belongs there.
    damaged: Vec<Range<u64>>,
    /// Where the next record goes.
    end: u64,
    /// What lies behind that: a write that never ended.
    tail: Option<Range<u64>>,
}

fn read_records(segment: &Segment) -> std::io::Result<Records> {
    let (mut lines, mut unclear) = (Vec::new(), Vec::new());
    let mut footer: Option<Range<u64>> = None;
    let scan = segment.scan(|found| {
        // Nothing goes on behind a footer.
        unclear.extend(footer.take());
        match found.line() {
            Some(line) => lines.push(line),
            None if found.header.kind == Kind::Synced => {}
            None if found.header.kind == Kind::Footer => footer = Some(found.range()),
            None if found.sound => unclear.push(found.range()),
            None => {}
        }
    })?;
    let mut damaged = scan.damaged;
    damaged.extend(unclear);
    let (end, tail) = match footer {
        // The power was cut while the segment was sealed: the trailer behind the footer is not there.
        Some(footer) => {
            let last = scan.tail.map_or(footer.end, |tail| tail.end);
            (footer.start, Some(footer.start..last))
        }
        None => (scan.end, scan.tail),
    };
    Ok(Records {
        lines,
        damaged,
        end,
        tail,
    })
}

/// Body segments that no message needs hold spools of the past.
fn drop_unused_bodies(index: &mut Index, folder: &Folder) -> Result<(), StoreError> {
    let unused: Vec<u64> = index
        .bodies
        .0
        .iter()
        .filter(|(_, usage)| usage.live == 0)
        .map(|(number, _)| *number)
        .collect();
    for number in &unused {
        let path = folder.path.join(segment::file_name(*number));
        let gone = folder.files.unlink(&path);
        gone.map_err(|e| StoreError::io(&path, e))?;
        index.bodies.0.remove(number);
    }
    if !unused.is_empty() {
        let synced = folder.files.sync_dir(&folder.path);
        synced.map_err(|e| StoreError::io(&folder.path, e))?;
    }
    Ok(())
}
