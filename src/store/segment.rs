//! One file of the log or of the bodies: a header, records, and for a sealed log segment a footer.
//!
//! The header stands twice, so that one damaged octet does not hide a segment. A trailer at the very
//! end names the footer's position; without a sound one the records are read one by one.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::coding::{Decoder, Encoder};
use super::files::{File, Files};
use super::footer::{self, About, Line};
use super::record::{HEADER, Header, Kind, MARKER, Seal};

/// The format that this code writes and the newest it reads.
pub(super) const FORMAT: u32 = 3;
/// Octets of one copy of the header.
const COPY: usize = 40;
/// Where the records begin.
pub(super) const START: u64 = 2 * COPY as u64;
const MAGIC: [u8; 8] = *b"restante";
const TRAILER: usize = 24;
const WINDOW: usize = 256 * 1024;
/// Damaged messages in a row of which a scan keeps the octets.
const HARMED: usize = 64;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    /// Which records may be in it: those of this format and of older ones.
    pub(super) format: u32,
    /// Part of every record's checksum.
    pub(super) salt: u64,
    pub(super) number: u64,
    /// No `Seq` from this on had been given when the segment was made.
    pub(super) next_seq: u64,
}

/// What came of reading a header.
pub(super) enum Read {
    Sound(Birth),
    /// By a later version of this program.
    Newer(u32),
    /// Both copies are damaged.
    Damaged,
    /// The file was made but never written.
    Empty,
}

/// An open segment.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) seal: Seal,
    pub(super) file: Arc<dyn File>,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// After the last sound record.
    pub(super) end: u64,
    /// What lies between sound records and is none.
    pub(super) damaged: Vec<Range<u64>>,
    /// What lies behind the last sound record and is not zero.
    pub(super) tail: Option<Range<u64>>,
}

/// A record that a scan came by.
pub(super) struct Found {
    pub(super) position: u64,
    pub(super) header: Header,
    pub(super) payload: Bytes,
    /// Its payload is what was written.
    pub(super) sound: bool,
}

impl Found {
    /// What it is about; of a damaged message as much as can be trusted.
    pub(super) fn line(&self) -> Option<Line> {
        let about = match self.sound {
            true => About::read(self.header.kind, &self.payload),
            false => About::salvaged(&self.payload),
        };
        Some(Line {
            position: self.position,
            length: u32::try_from(self.header.record_length()).ok()?,
            about: about?,
        })
    }

    /// Its octets.
    pub(super) fn range(&self) -> Range<u64> {
        self.position..self.position + self.header.record_length()
    }
}

/// Why a record could not be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Damaged,
    Failed(io::Error),
}

/// `NNNNNNNNNNNNNNNN.seg`
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016}.seg")
}

/// The number in a segment's name; no two names have the same.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

impl Segment {
    /// Makes a segment whose header and name are durable when this returns.
    pub(super) fn create(files: &dyn Files, folder: &Path, birth: Birth) -> io::Result<Self> {
        let path = folder.join(file_name(birth.number));
        let file = files.create(&path)?;
        let made = file
            .write_at(&encode_birth(birth), 0)
            .and_then(|()| file.sync())
            .and_then(|()| files.sync_dir(folder));
        if let Err(error) = made {
            // The name would be in the way of the next attempt.
            let _ = files.unlink(&path);
            return Err(error);
        }
        Ok(Self::new(path, birth.number, birth.salt, file))
    }

    /// A segment that is known to be sound in its header.
    pub(super) fn new(path: PathBuf, number: u64, salt: u64, file: Arc<dyn File>) -> Self {
        Self {
            path,
            number,
            seal: Seal {
                salt,
                segment: number,
            },
            file,
        }
    }

    /// The payload of the record at `position`.
    pub(super) fn read(&self, position: u64, length: u32) -> Result<(Kind, Bytes), Unreadable> {
        let mut octets = vec![0; length as usize];
        let count = self
            .file
            .read_at(&mut octets, position)
            .map_err(Unreadable::Failed)?;
        octets.truncate(count);
        let header = self
            .seal
            .header(position, &octets)
            .filter(|header| header.record_length() == u64::from(length))
            .ok_or(Unreadable::Damaged)?;
        let payload = Bytes::from(octets).split_off(HEADER);
        if !header.fits(&payload) {
            return Err(Unreadable::Damaged);
        }
        Ok((header.kind, payload))
    }

    /// The octets of a record's payload as they are, sound or not.
    pub(super) fn read_raw(&self, position: u64, length: u32) -> io::Result<Bytes> {
        let mut octets = vec![0; length as usize];
        let count = self.file.read_at(&mut octets, position)?;
        octets.truncate(count);
        Ok(Bytes::from(octets).split_off(HEADER.min(count)))
    }

    /// Shows every sound record to `visit`, in order; and those between them that are damaged behind
    /// their header, if they hold messages. What follows the last sound one was never acknowledged: a
    /// mark stands behind what was ([`Kind::Synced`]), unless a power cut took that as well.
    pub(super) fn scan(&self, mut visit: impl FnMut(Found)) -> Result<Scan, io::Error> {
        let mut window = Window::new(&*self.file)?;
        let mut scan = Scan {
            end: START,
            ..Scan::default()
        };
        let mut position = START;
        let mut harmed = Vec::new();
        while let Some((found, header)) = self.next_header(&mut window, position)? {
            let payload = window.slice(found + HEADER as u64, header.length as usize)?;
            let sound = payload.len() == header.length as usize && header.fits(payload);
            let payload = Bytes::copy_from_slice(payload);
            let record = Found {
                position: found,
                header,
                payload,
                sound,
            };
            if sound {
                if scan.end < found {
                    scan.damaged.push(scan.end..found);
                }
                for unsound in harmed.drain(..) {
                    visit(unsound);
                }
                visit(record);
                scan.end = found + header.record_length();
            } else if header.kind == Kind::Message && harmed.len() < HARMED {
                harmed.push(record);
            }
            position = found + header.record_length();
        }
        let used = window.used(scan.end)?;
        scan.tail = (used > scan.end).then_some(scan.end..used);
        Ok(scan)
    }

    /// The first sound header at or after `position`.
    fn next_header(
        &self,
        window: &mut Window,
        mut position: u64,
    ) -> io::Result<Option<(u64, Header)>> {
        loop {
            let octets = window.slice(position, HEADER)?;
            if octets.len() < HEADER {
                return Ok(None);
            }
            if let Some(header) = self.seal.header(position, octets) {
                return Ok(Some((position, header)));
            }
            let Some(next) = window.find(position + 1)? else {
                return Ok(None);
            };
            position = next;
        }
    }

    /// Cuts the file to its records, appends the footer and makes both durable. Returns the length.
    pub(super) fn seal(&self, end: u64, lines: &[Line]) -> io::Result<u64> {
        let mut octets = Vec::new();
        self.seal
            .frame(&mut octets, end, Kind::Footer, &footer::encode(lines));
        let mut trailer = Encoder::default();
        trailer.octets(&MAGIC);
        trailer.u64(end);
        trailer.u32(self.seal.segment as u32);
        trailer.u32(crc32c::crc32c(&trailer.0));
        octets.extend_from_slice(&trailer.0);
        self.file.truncate(end)?;
        self.file.write_at(&octets, end)?;
        self.file.sync()?;
        Ok(end + octets.len() as u64)
    }

    /// The footer's lines, if the segment has a sound footer.
    pub(super) fn footer(&self) -> io::Result<Option<Vec<Line>>> {
        let length = self.file.length()?;
        let Some(at) = length.checked_sub(TRAILER as u64) else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER];
        self.file.read_at(&mut trailer, at)?;
        let Some(position) = decode_trailer(&trailer) else {
            return Ok(None);
        };
        let Some(record) = at.checked_sub(position).and_then(|l| u32::try_from(l).ok()) else {
            return Ok(None);
        };
        match self.read(position, record) {
            Ok((Kind::Footer, payload)) => Ok(footer::decode(&payload)),
            Ok(_) | Err(Unreadable::Damaged) => Ok(None),
            Err(Unreadable::Failed(error)) => Err(error),
        }
    }
}

/// Reads the header of a file that calls itself a segment.
pub(super) fn read_birth(file: &dyn File) -> io::Result<Read> {
    let mut octets = [0; 2 * COPY];
    let count = file.read_at(&mut octets, 0)?;
    let octets = octets.get(..count).unwrap_or_default();
    if octets.iter().all(|octet| *octet == 0) {
        return Ok(Read::Empty);
    }
    let mut newer = None;
    for copy in octets.chunks_exact(COPY) {
        match decode_birth(copy) {
            Some(Ok(birth)) => return Ok(Read::Sound(birth)),
            Some(Err(version)) => newer = Some(version),
            None => {}
        }
    }
    Ok(newer.map_or(Read::Damaged, Read::Newer))
}

/// Whether the two copies of a header can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    BothSound,
    Damaged,
}

/// Looks at both copies of a header.
pub(super) fn copies(file: &dyn File) -> io::Result<Copies> {
    let mut octets = [0; 2 * COPY];
    file.read_at(&mut octets, 0)?;
    let mut all = octets.chunks_exact(COPY);
    Ok(match all.all(|copy| decode_birth(copy).is_some()) {
        true => Copies::BothSound,
        false => Copies::Damaged,
    })
}

fn encode_birth(birth: Birth) -> Vec<u8> {
    let mut out = Encoder::default();
    out.octets(&MAGIC);
    out.u32(birth.format);
    out.u64(birth.salt);
    out.u64(birth.number);
    out.u64(birth.next_seq);
    out.u32(crc32c::crc32c(&out.0));
    [out.0.as_slice(), out.0.as_slice()].concat()
}

/// One copy of a header: the newer format's number if it is one, `None` if it is damaged.
fn decode_birth(copy: &[u8]) -> Option<Result<Birth, u32>> {
    let mut from = Decoder(copy.strip_prefix(&MAGIC)?);
    let format = from.u32()?;
    let birth = Birth {
        format,
        salt: from.u64()?,
        number: from.u64()?,
        next_seq: from.u64()?,
    };
    let sound = from.u32()? == crc32c::crc32c(copy.get(..COPY - 4)?);
    // These octets keep their places in every format, so that an old program can tell.
    sound.then_some(if format > FORMAT {
        Err(format)
    } else {
        Ok(birth)
    })
}

fn decode_trailer(octets: &[u8]) -> Option<u64> {
    let mut from = Decoder(octets.strip_prefix(&MAGIC)?);
    let position = from.u64()?;
    from.u32()?;
    let crc = from.u32()?;
    (crc32c::crc32c(octets.get(..TRAILER - 4)?) == crc).then_some(position)
}

/// A part of a file in memory, moved along as a scan goes.
struct Window<'a> {
    file: &'a dyn File,
    length: u64,
    start: u64,
    octets: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Self {
            file,
            length: file.length()?,
            start: 0,
            octets: Vec::new(),
        })
    }

    /// `length` octets from `position`, fewer at the end of the file.
    fn slice(&mut self, position: u64, length: usize) -> io::Result<&[u8]> {
        let end = position.saturating_add(length as u64).min(self.length);
        let wanted = usize::try_from(end.saturating_sub(position)).unwrap_or(0);
        let held = self.start..self.start + self.octets.len() as u64;
        if !(held.contains(&position) && end <= held.end) {
            let ahead = usize::try_from(self.length.saturating_sub(position)).unwrap_or(WINDOW);
            self.octets.resize(wanted.max(WINDOW.min(ahead)), 0);
            let count = self.file.read_at(&mut self.octets, position)?;
            self.octets.truncate(count);
            self.start = position;
        }
        let from = usize::try_from(position - self.start).unwrap_or(0);
        let to = (from + wanted).min(self.octets.len());
        Ok(self.octets.get(from..to).unwrap_or_default())
    }

    /// Where the next marker begins, at or after `position`.
    fn find(&mut self, mut position: u64) -> io::Result<Option<u64>> {
        loop {
            let octets = self.slice(position, WINDOW)?;
            if octets.len() < MARKER.len() {
                return Ok(None);
            }
            if let Some(found) = memchr::memmem::find(octets, &MARKER) {
                return Ok(Some(position + found as u64));
            }
            position += (octets.len() - (MARKER.len() - 1)) as u64;
        }
    }

    /// After the last octet from `position` on that is not zero.
    fn used(&mut self, mut position: u64) -> io::Result<u64> {
        let mut used = position;
        loop {
            let octets = self.slice(position, WINDOW)?;
            if octets.is_empty() {
                return Ok(used);
            }
            if let Some(last) = octets.iter().rposition(|octet| *octet != 0) {
                used = position + last as u64 + 1;
            }
            position += octets.len() as u64;
        }
    }
}
