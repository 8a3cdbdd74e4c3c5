//! What the lines of all segments tell: the second half of a start.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::fast::RandomState;

use super::deferred::{DUPLICATE_WINDOW, DuplicateKey, Recovered, RecoveredBinding, StoreConfig};
use super::footer::{About, Line};
use super::index::{BindingEntry, Index};
use super::manifest::Place;
use super::record::{self, BindingRecord, MarksRecord};
use super::request::Seq;
use super::segment::Segment;
use super::shared::Damages;
use super::survey::{Fate, MessageLine, Survey};
use super::view::{self, Sum};
use crate::clock::{self, Instant, UnixMillis};

/// A start under way. Segments are added newest first; their lines are not kept.
pub(super) struct Restore<'a> {
    pub(super) index: &'a mut Index,
    survey: Survey,
    now: UnixMillis,
    started: Instant,
    compact_after: Duration,
    /// Over the live messages that the view must have.
    expected: Sum,
    /// Marks of messages that may be live, and whether the message was seen to be.
    marks: HashMap<Seq, (MarksRecord, Place, bool), RandomState>,
    duplicate_keys: Vec<DuplicateKey>,
    pub(super) next_seq: u64,
}

impl<'a> Restore<'a> {
    pub(super) fn new(index: &'a mut Index, config: &StoreConfig, next_seq: u64) -> Self {
        Self {
            index,
            survey: Survey::default(),
            now: config.now,
            started: clock::now().instant,
            compact_after: config.compact_after,
            expected: Sum::default(),
            marks: HashMap::default(),
            duplicate_keys: Vec::new(),
            next_seq,
        }
    }

    /// Learns what is in a segment, sealed or still appended to.
    pub(super) fn add(
        &mut self,
        segment: &Segment,
        lines: &[Line],
        sealed: bool,
    ) -> io::Result<()> {
        for line in lines {
            self.add_line(segment.number, line);
        }
        let mut survey = std::mem::take(&mut self.survey);
        let added = survey.add(segment, lines, |message, fate| {
            self.add_message(message, fate, sealed);
        });
        self.survey = survey;
        added
    }

    fn add_line(&mut self, segment: u64, line: &Line) {
        let place = line.place(segment);
        match &line.about {
            About::Settled {
                segment: record_in, ..
            } => self.index.settlement(*record_in, place),
            About::Binding {
                revision,
                first,
                user,
                key,
                removed,
            } => {
                self.next_seq = self.next_seq.max(revision + 1);
                let entry = BindingEntry {
                    place,
                    revision: *revision,
                    first: *first,
                    removed: *removed,
                };
                self.index.bind(user.clone(), key.clone(), entry);
            }
            About::Marks(record) => self.add_marks(record, place),
            About::Message { .. } => {}
        }
    }

    fn add_marks(&mut self, record: &MarksRecord, place: Place) {
        if self.survey.settled(record.seq).is_some() {
            return;
        }
        let found = self.marks.entry(record.seq);
        let found = found.or_insert_with(|| (record.clone(), place, false));
        if (found.0.devices.len(), found.1) < (record.devices.len(), place) {
            (found.0, found.1) = (record.clone(), place);
        }
    }

    /// Keeps the marks of messages that are live: seen to be, or copied to where no marks were known yet.
    fn finish_marks(&mut self) {
        for (seq, (record, place, seen)) in std::mem::take(&mut self.marks) {
            let is_copied = self.survey.copy(seq).is_some();
            if self.survey.settled(seq).is_none() && (seen || is_copied) {
                self.index.log.keep(place);
                self.index.marks.restore(record, place);
            }
        }
    }

    fn add_message(&mut self, message: &MessageLine, fate: Fate, sealed: bool) {
        let (seq, recipient) = (message.seq, message.recipient);
        let place = message.entry.place;
        self.next_seq = self.next_seq.max(seq.0 + 1);
        let cancelled = fate == Fate::Settled { cancelled: true };
        let age = self.now.since(message.accepted_at);
        if age <= DUPLICATE_WINDOW && !cancelled {
            let left = self.compact_after.saturating_sub(age);
            let until = self.started + left;
            self.index.log.repeated_until(place.segment, until);
            self.duplicate_keys.push(DuplicateKey {
                recipient: recipient.clone(),
                key: message.duplicate_key,
                accepted_at: message.accepted_at,
            });
        }
        match fate {
            Fate::Settled { .. } => return,
            Fate::Copied(copy) => {
                let segments = self.index.twice.entry(seq).or_default();
                segments.extend([copy.segment, place.segment]);
                return;
            }
            Fate::Live => {}
        }
        self.index.log.hold(place);
        self.index.bodies.keep_shares(&message.entry.shares);
        self.index.holdings.add(recipient, message.entry.length);
        if let Some(marks) = self.marks.get_mut(&seq) {
            marks.2 = true;
        }
        if !sealed || !view::fits(recipient, &message.entry) {
            self.index.remember(recipient, seq, message.entry.clone());
        } else if self.index.shelf.applied >= place.segment {
            let salt = self.index.shelf.salt;
            self.expected
                .plus(Sum::of(salt, recipient, seq, &message.entry));
        }
    }

    /// Brings the view up, once all segments were added; the sealed ones come oldest first.
    pub(super) fn finish(mut self, sealed: &[Arc<Segment>], damages: &Damages) -> Recovered {
        self.finish_marks();
        let view = self
            .index
            .bring_up(&self.survey, sealed, self.expected, damages);
        let mut duplicate_keys = self.duplicate_keys;
        duplicate_keys.reverse();
        let nobody = record::nobody();
        let (documents, bindings): (Vec<_>, Vec<_>) = bindings(self.index, damages)
            .into_iter()
            .partition(|binding| binding.user == nobody);
        let documents = documents.into_iter();
        Recovered {
            bindings,
            documents: documents.map(|found| (found.key, found.value)).collect(),
            duplicate_keys,
            messages: self.index.messages(),
            waiting: self.index.holdings.users().cloned().collect(),
            next_seq: Seq(self.next_seq),
            view,
            ..Recovered::default()
        }
    }
}

/// The records lie in one piece of memory, which is given back whole: many small ones would leave holes
/// between what the registrar makes of them.
fn bindings(index: &Index, damages: &Damages) -> Vec<RecoveredBinding> {
    let live = index.bindings.iter().filter(|(_, entry)| !entry.removed);
    let lengths = live.clone().map(|(_, entry)| entry.place.length as usize);
    let mut values = BytesMut::with_capacity(lengths.sum());
    let nobody = record::nobody();
    live.filter_map(|((user, key), entry)| {
        let segment = index.log.segment(entry.place.segment)?;
        let read = segment.read(entry.place.position, entry.place.length);
        let record = match read {
            Ok((kind, payload)) => BindingRecord::decode(kind, &payload),
            Err(_) => None,
        };
        let Some(value) = record.and_then(|record| record.value) else {
            damages.report(&segment, entry.place.range());
            return None;
        };
        let mut together = || {
            values.extend_from_slice(&value);
            values.split().freeze()
        };
        Some(RecoveredBinding {
            // A document is kept for longer.
            value: if *user == nobody { value } else { together() },
            user: user.clone(),
            key: key.clone(),
        })
    })
    .collect()
}
