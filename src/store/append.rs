//! The writing end of a folder of segments: where the next record goes, and when it is durable.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{self, Files};
use super::footer::Line;
use super::manifest::Place;
use super::newest;
use super::record::{HEADER, Kind};
use super::segment::{Birth, FORMAT, START, Segment};

/// Room is taken from the file system in steps of this, ahead of the records.
const STEP: u64 = 1024 * 1024;

/// A segment with so many records is full: until it is sealed they are indexed in memory.
const RECORDS: usize = 65_536;

/// What all segments of a folder have in common.
#[derive(Clone)]
pub(super) struct Folder {
    pub(super) files: Arc<dyn Files>,
    pub(super) path: PathBuf,
    pub(super) salt: u64,
    pub(super) segment_bytes: u64,
    /// Where the number of the newest segment is written down, if it is ([`newest`]).
    pub(super) newest_in: Option<PathBuf>,
}

/// Appends records to the newest segment of a folder.
pub(super) struct Appender {
    folder: Folder,
    pub(super) segment: Arc<Segment>,
    /// After the last record.
    pub(super) end: u64,
    allocated: u64,
    /// Written since the last sync.
    dirty: bool,
    /// The last record says that everything before it was synced.
    marked: bool,
    /// What the footer will say; only the log keeps it.
    pub(super) lines: Vec<Line>,
}

/// A segment that is full.
pub(super) struct Full {
    pub(super) segment: Arc<Segment>,
    pub(super) end: u64,
    pub(super) lines: Vec<Line>,
}

impl Appender {
    /// Begins a new segment. Without room, nothing is left of it.
    pub(super) fn begin(folder: Folder, number: u64, next_seq: u64) -> io::Result<Self> {
        let birth = Birth {
            format: FORMAT,
            salt: folder.salt,
            number,
            next_seq,
        };
        let segment = Segment::create(&*folder.files, &folder.path, birth)?;
        if let Some(data_dir) = &folder.newest_in
            && let Err(error) = newest::write(&*folder.files, data_dir, number)
        {
            if files::is_full(&error) {
                // The name would be in the way of the next attempt.
                let _ = folder.files.unlink(&segment.path);
                return Err(error);
            }
            // The number may be on the disk: without the segment it would tell of a loss.
            tracing::warn!(%error, number, "the newest segment's number is not kept: its loss would go unnoticed");
        }
        Ok(Self::resume(folder, Arc::new(segment), START, Vec::new()))
    }

    /// Goes on at the end of a segment whose contents are durable. A mark has no line.
    pub(super) fn resume(
        folder: Folder,
        segment: Arc<Segment>,
        end: u64,
        lines: Vec<Line>,
    ) -> Self {
        let last = lines.last();
        let last = last.map_or(START, |line| line.position + u64::from(line.length));
        Self {
            folder,
            segment,
            end,
            allocated: end,
            dirty: false,
            marked: end == START || end > last,
            lines,
        }
    }

    /// Whether the next record should go to a new segment.
    pub(super) fn is_full(&self) -> bool {
        self.end >= self.folder.segment_bytes || self.lines.len() >= RECORDS
    }

    /// Begins the next segment and returns the last one, durable but without footer.
    pub(super) fn roll(&mut self, number: u64, next_seq: u64) -> io::Result<Full> {
        self.sync()?;
        self.mark_synced()?;
        self.sync()?;
        let next = Self::begin(self.folder.clone(), number, next_seq)?;
        let last = std::mem::replace(self, next);
        Ok(Full {
            segment: last.segment,
            end: last.end,
            lines: last.lines,
        })
    }

    /// Writes records one after the other; says where they are. Not durable before `sync`. After an
    /// error nothing was appended, but `take_back` must remove what may have been written.
    pub(super) fn append(&mut self, records: &[(Kind, &[u8])]) -> io::Result<Vec<Place>> {
        let length = records.iter().map(|(_, payload)| HEADER + payload.len());
        let mut octets = Vec::with_capacity(length.sum());
        let mut places = Vec::with_capacity(records.len());
        for (kind, payload) in records {
            let position = self.end + octets.len() as u64;
            self.segment
                .seal
                .frame(&mut octets, position, *kind, payload);
            places.push(Place {
                segment: self.segment.number,
                position,
                length: u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?,
            });
        }
        let end = self.end + octets.len() as u64;
        self.allocate(end)?;
        (self.dirty, self.marked) = (true, false);
        self.segment.file.write_at(&octets, self.end)?;
        self.end = end;
        Ok(places)
    }

    fn allocate(&mut self, end: u64) -> io::Result<()> {
        if end > self.allocated {
            let allocated = end.next_multiple_of(STEP.min(self.folder.segment_bytes));
            self.segment.file.allocate(allocated)?;
            self.allocated = allocated;
        }
        Ok(())
    }

    /// Writes behind what was synced that it was, so that damage to it later is not taken for a write
    /// that never ended. Not synced itself: the next sync has it, or the system's own writing back.
    /// Without room nothing is written.
    pub(super) fn mark_synced(&mut self) -> io::Result<()> {
        if self.marked || self.dirty {
            return Ok(());
        }
        let mut octets = Vec::new();
        let seal = self.segment.seal;
        seal.frame(&mut octets, self.end, Kind::Synced, &[]);
        let end = self.end + octets.len() as u64;
        let written = self.allocate(end);
        match written.and_then(|()| self.segment.file.write_at(&octets, self.end)) {
            Ok(()) => {
                (self.dirty, self.marked) = (true, true);
                self.end = end;
                Ok(())
            }
            // What was written of it is written over.
            Err(error) if files::is_full(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes everything that was appended durable. Whatever it fails with, even for want of room, nobody knows
    /// afterwards what the disk has: it is no full disk, on which one could go on.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            self.segment.file.sync().map_err(io::Error::other)?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Removes for good what a failed `append` may have left behind the end.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        self.segment.file.truncate(self.end)?;
        self.allocated = self.end;
        self.dirty = true;
        self.sync()
    }
}
