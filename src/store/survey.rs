//! Which messages are live, as the lines of segments tell it.
//!
//! Segments are shown newest first. A settlement never lies before the record it settles, and of
//! several records of one message the one written last counts, so each line can be judged as it
//! comes. Kept meanwhile is a number for each settlement, and a place for each copy; never a message.

use std::collections::HashMap;
use std::io;

use foldhash::fast::RandomState;

use super::footer::{About, Line};
use super::manifest::Place;
use super::recent::Entry;
use super::record::Kind;
use super::request::Seq;
use super::segment::{self, Read, Segment};
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// What was learned from the segments shown so far.
#[derive(Default)]
pub(super) struct Survey {
    /// And whether by a cancellation.
    settled: HashMap<Seq, bool, RandomState>,
    /// Where messages are that were copied from elsewhere, or may have been.
    copied: HashMap<Seq, Place, RandomState>,
}

/// A line about a message.
pub(super) struct MessageLine<'a> {
    pub(super) seq: Seq,
    pub(super) recipient: &'a Identity,
    pub(super) entry: Entry,
    pub(super) accepted_at: UnixMillis,
    pub(super) duplicate_key: u128,
    generation: u32,
}

/// What became of a message by its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Live,
    Settled {
        cancelled: bool,
    },
    /// It is elsewhere now; it may have been settled there.
    Copied(Place),
}

impl<'a> MessageLine<'a> {
    /// Of a line, if it is about a message.
    pub(super) fn of(segment: u64, line: &'a Line) -> Option<Self> {
        let About::Message {
            seq,
            generation,
            recipient,
            accepted_at,
            expires_at,
            duplicate_key,
            length,
            shares,
        } = &line.about
        else {
            return None;
        };
        Some(Self {
            seq: *seq,
            recipient,
            entry: Entry {
                place: line.place(segment),
                expires_at: *expires_at,
                length: *length,
                shares: shares.clone(),
            },
            accepted_at: *accepted_at,
            duplicate_key: *duplicate_key,
            generation: *generation,
        })
    }
}

impl Survey {
    /// Learns from the next older segment, and shows its messages, the last first.
    pub(super) fn add(
        &mut self,
        segment: &Segment,
        lines: &[Line],
        mut visit: impl FnMut(&MessageLine, Fate),
    ) -> io::Result<()> {
        self.add_settlements(lines);
        let born = match segment::read_birth(&*segment.file)? {
            Read::Sound(birth) => birth.next_seq,
            _ => u64::MAX,
        };
        for line in lines.iter().rev() {
            let Some(message) = MessageLine::of(segment.number, line) else {
                continue;
            };
            visit(&message, self.fate(message.seq, message.entry.place));
            // Others have no older record.
            if message.seq.0 < born || message.generation > 0 {
                let place = message.entry.place;
                self.copied.entry(message.seq).or_insert(place);
            }
        }
        Ok(())
    }

    /// Learns what was settled, and nothing else.
    pub(super) fn add_settlements(&mut self, lines: &[Line]) {
        for line in lines {
            if let About::Settled { seq, cancelled, .. } = line.about {
                self.settled.entry(seq).or_insert(cancelled);
            }
        }
    }

    /// Whether a message was settled, and whether by a cancellation.
    pub(super) fn settled(&self, seq: Seq) -> Option<bool> {
        self.settled.get(&seq).copied()
    }

    /// Where the record of a message is that was copied from elsewhere, or may have been.
    pub(super) fn copy(&self, seq: Seq) -> Option<Place> {
        self.copied.get(&seq).copied()
    }

    /// What became of a message that had a record at this place.
    pub(super) fn fate(&self, seq: Seq, place: Place) -> Fate {
        match (self.copied.get(&seq), self.settled(seq)) {
            (Some(copy), _) if *copy != place => Fate::Copied(*copy),
            (_, Some(cancelled)) => Fate::Settled { cancelled },
            _ => Fate::Live,
        }
    }
}

impl Segment {
    /// What is in it: by its footer, or by its records if it has none.
    pub(super) fn lines(&self) -> io::Result<Vec<Line>> {
        if let Some(lines) = self.footer()? {
            return Ok(lines);
        }
        let mut lines = Vec::new();
        self.scan(|position, header, payload| {
            if header.kind == Kind::Footer {
                return;
            }
            let length = u32::try_from(header.record_length());
            if let (Some(about), Ok(length)) = (About::read(header.kind, &payload), length) {
                lines.push(Line {
                    position,
                    length,
                    about,
                });
            }
        })?;
        Ok(lines)
    }
}
