//! Which devices have got a message that stays in custody for others.
//!
//! Every record names all devices of its message, so one record a message is of use. A device counts
//! from the moment its mark is taken from the queue; the record follows.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::manifest::Place;
use super::record::MarksRecord;
use super::request::{MARKS_LIMIT, Seq};

/// The marks of all messages that have any.
#[derive(Default)]
pub(super) struct Marks(HashMap<Seq, Marked, RandomState>);

struct Marked {
    devices: Vec<u64>,
    /// The record of most use, and how many devices it names.
    written: Option<(usize, Place)>,
}

impl Marks {
    /// The devices that have got a message.
    pub(super) fn devices(&self, seq: Seq) -> Box<[u64]> {
        let marked = self.0.get(&seq);
        marked.map_or(Box::default(), |marked| marked.devices.as_slice().into())
    }

    /// How many messages have any.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Marks a device; the record to write, unless nothing is new.
    pub(super) fn add(&mut self, seq: Seq, device: u64) -> Option<MarksRecord> {
        let marked = self.0.entry(seq).or_insert(Marked {
            devices: Vec::new(),
            written: None,
        });
        if marked.devices.contains(&device) || marked.devices.len() >= MARKS_LIMIT {
            return None;
        }
        marked.devices.push(device);
        Some(MarksRecord {
            seq,
            devices: marked.devices.as_slice().into(),
        })
    }

    /// What a start found.
    pub(super) fn restore(&mut self, record: MarksRecord, place: Place) {
        let marked = Marked {
            written: Some((record.devices.len(), place)),
            devices: record.devices.into(),
        };
        self.0.insert(record.seq, marked);
    }

    /// A record is durable; the place of the one that is of no use from now on.
    pub(super) fn written(&mut self, record: &MarksRecord, place: Place) -> Option<Place> {
        let count = record.devices.len();
        let Some(marked) = self.0.get_mut(&record.seq) else {
            return Some(place);
        };
        if marked.written.is_some_and(|(known, _)| known > count) {
            return Some(place);
        }
        marked.written.replace((count, place)).map(|(_, old)| old)
    }

    /// Whether the record of use is there.
    pub(super) fn is_at(&self, seq: Seq, place: Place) -> bool {
        let marked = self.0.get(&seq).and_then(|marked| marked.written);
        marked.is_some_and(|(_, known)| known == place)
    }

    /// The message left; its record, if it has one.
    pub(super) fn remove(&mut self, seq: Seq) -> Option<Place> {
        let (_, place) = self.0.remove(&seq)?.written?;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: u64) -> Place {
        Place {
            segment: 1,
            position,
            length: 1,
        }
    }

    #[test]
    fn the_record_with_the_most_devices_is_of_use_whatever_is_written_last() {
        let mut marks = Marks::default();
        let one = marks.add(Seq(7), 1).unwrap();
        assert_eq!(marks.written(&one, place(1)), None);
        let both = marks.add(Seq(7), 2).unwrap();
        assert_eq!(marks.written(&both, place(2)), Some(place(1)));
        assert_eq!(
            marks.written(&one, place(3)),
            Some(place(3)),
            "a copy by the keeper that was overtaken"
        );
        assert!(marks.is_at(Seq(7), place(2)));
        assert_eq!(*marks.devices(Seq(7)), [1, 2]);
    }

    #[test]
    fn a_device_is_marked_once_and_no_more_than_a_few_are() {
        let mut marks = Marks::default();
        assert!(marks.add(Seq(7), 1).is_some());
        assert!(marks.add(Seq(7), 1).is_none());
        for device in 2..=MARKS_LIMIT as u64 {
            assert!(marks.add(Seq(7), device).is_some());
        }
        assert!(marks.add(Seq(7), 1_000).is_none());
    }
}
