//! Compaction of bodies: pieces go to a segment of the keeper's own, then each message's record is
//! rewritten with the new places, then the old segment goes.

use std::sync::atomic::Ordering;

use super::append::Appender;
use super::compact::{Keeper, Stop};
use super::index::Index;
use super::log::{Copied, Copy};
use super::manifest::Place;
use super::reader;
use super::record::{Kind, RecordBody};
use super::request::Seq;
use super::segment::Unreadable;
use crate::identity::Identity;

impl Keeper {
    /// Moves what is of use out of a body segment and drops it.
    pub(super) fn compact_body(&mut self, number: u64) -> Result<(), Stop> {
        let (segment, messages) = {
            let mut index = self.shared.index();
            let Some(segment) = index.bodies.segment(number) else {
                return Ok(());
            };
            (segment, index.bodies_in(number))
        };
        for (recipient, seq) in messages {
            self.move_body(number, &recipient, seq)?;
        }
        let usage = |index: &Index| index.bodies.0.get(&number).map(|u| u.live);
        if usage(&self.shared.index()) != Some(0) {
            // A message was settled, but not yet durably.
            return Err(Stop::Refused);
        }
        self.unlink(&self.body_folder, &segment)?;
        self.shared.index().bodies.0.remove(&number);
        Ok(())
    }

    /// Copies what a message has in a body segment, then rewrites the message's record.
    fn move_body(&mut self, number: u64, recipient: &Identity, seq: Seq) -> Result<(), Stop> {
        let Ok((from, mut record)) = reader::current(&self.shared, recipient, seq) else {
            return Ok(());
        };
        let RecordBody::Large(manifest) = &mut record.body else {
            return Ok(());
        };
        for place in manifest.places() {
            if place.segment != number {
                continue;
            }
            let moved = self.copy_piece(place)?;
            for extent in &mut manifest.extents {
                if extent.place == place {
                    extent.place = moved;
                }
            }
        }
        if let Some(copies) = &mut self.copies
            && let Err(error) = copies.sync()
        {
            self.shared.poison("sync of copied bodies", &error);
            return Err(error.into());
        }
        record.generation += 1;
        let what = Copied::Message(Box::new(record));
        self.hand_over(vec![Copy { from, what }])
    }

    /// A damaged piece is reported, set aside and from then on nowhere.
    fn copy_piece(&mut self, place: Place) -> Result<Place, Stop> {
        let nowhere = Place {
            segment: 0,
            ..place
        };
        let Some(segment) = self.shared.index().bodies.segment(place.segment) else {
            return Ok(nowhere);
        };
        let payload = match segment.read(place.position, place.length) {
            Ok((_, payload)) => payload,
            Err(Unreadable::Damaged) => {
                self.shared.damages.report(&segment, place.range());
                return Ok(nowhere);
            }
            Err(Unreadable::Failed(error)) => return Err(error.into()),
        };
        let copies = self.copies_appender()?;
        let places = copies.append(&[(Kind::Piece, &payload)])?;
        let end = copies.end;
        if let Some(moved) = places.first() {
            self.shared.index().bodies.grew(moved.segment, end);
        }
        Ok(places.first().copied().unwrap_or(nowhere))
    }

    /// The appender for copies; a full one is sealed and a new one begun.
    fn copies_appender(&mut self) -> Result<&mut Appender, Stop> {
        if self.copies.as_ref().is_some_and(Appender::is_full)
            && let Some(mut full) = self.copies.take()
        {
            full.sync()?;
            let mut index = self.shared.index();
            index.bodies.sealed(full.segment.number, full.end);
        }
        if self.copies.is_none() {
            let number = self.next_body.fetch_add(1, Ordering::Relaxed);
            let appender = Appender::begin(self.body_folder.clone(), number, 0)?;
            let mut index = self.shared.index();
            index
                .bodies
                .insert(appender.segment.clone(), appender.end, false);
            self.copies = Some(appender);
        }
        self.copies.as_mut().ok_or(Stop::Refused)
    }
}
