//! An archive as JSON lines (`transfer`).

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::archive::{Archive, Live};
use super::record::{self, RecordBody};
use super::request::Refusal;
use super::transfer::{FORM, Line, Message, Octets, PIECE, Totals};

type Emit<'a> = &'a mut dyn FnMut(Bytes) -> io::Result<()>;

impl Archive {
    /// Everything that is live, line by line; a body is never in memory as a whole. A message that is
    /// damaged on disk is a line that says so.
    pub fn export(&self, emit: Emit<'_>) -> io::Result<Totals> {
        let contents = self.contents(|volume| volume.segment.lines())?;
        let mut totals = Totals::default();
        write(emit, &Line::RestanteExport { form: FORM })?;
        let nobody = record::nobody();
        for ((user, key), entry) in &contents.bindings {
            let Some(value) = self.binding(entry) else {
                totals.damaged += 1;
                continue;
            };
            let (key, value) = (key.clone(), Octets(value));
            let line = match *user == nobody {
                true => {
                    totals.documents += 1;
                    Line::Document { name: key, value }
                }
                false => {
                    totals.bindings += 1;
                    let user = user.as_str().to_owned();
                    Line::Binding { user, key, value }
                }
            };
            write(emit, &line)?;
        }
        for live in &contents.messages {
            let marks = contents.marks.get(&live.seq);
            let devices = marks.map_or(&[][..], |record| &record.devices);
            match self.write_message(live, devices, emit)? {
                true => totals.messages += 1,
                false => totals.damaged += 1,
            }
        }
        write(emit, &Line::End(totals))?;
        Ok(totals)
    }

    /// False if it is damaged.
    fn write_message(&self, live: &Live, devices: &[u64], emit: Emit<'_>) -> io::Result<bool> {
        let Ok(record) = self.message(live) else {
            let (recipient, accepted_at) = self.salvaged(live);
            let line = Line::Damaged {
                recipient,
                accepted_at,
            };
            write(emit, &line)?;
            return Ok(false);
        };
        let (message, length) = (Arc::unwrap_or_clone(record.message), record.body.length());
        let manifest = match record.body {
            RecordBody::Inline(octets) => {
                let line = Message::new(message, devices, length, Some(octets));
                write(emit, &Line::Message(Box::new(line)))?;
                return Ok(true);
            }
            RecordBody::Large(manifest) => manifest,
        };
        let piece = |offset| self.body(&manifest, offset, PIECE);
        // All of it is looked at before the first line is out.
        let whole = offsets(length).try_for_each(|offset| piece(offset).map(drop));
        if whole.is_err() {
            let line = Line::Damaged {
                recipient: message.recipient.as_str().to_owned(),
                accepted_at: message.accepted_at.0,
            };
            write(emit, &line)?;
            return Ok(false);
        }
        let line = Message::new(message, devices, length, None);
        write(emit, &Line::Message(Box::new(line)))?;
        for offset in offsets(length) {
            let octets = piece(offset).map_err(|refusal: Refusal| io::Error::other(refusal))?;
            let octets = Octets(octets);
            write(emit, &Line::Piece { offset, octets })?;
        }
        Ok(true)
    }

    /// Whose a damaged message was, and when it came, if that can be read.
    fn salvaged(&self, live: &Live) -> (String, u64) {
        let volume = self.volume(live.place.segment);
        let payload = volume.and_then(|volume| {
            let (position, length) = (live.place.position, live.place.length);
            volume.segment.read_raw(position, length).ok()
        });
        let head = payload.and_then(|payload| record::head_of(&payload));
        head.map_or((String::new(), 0), |(_, _, message)| {
            (message.recipient.as_str().to_owned(), message.accepted_at.0)
        })
    }
}

fn offsets(length: u64) -> impl Iterator<Item = u64> {
    (0..length).step_by(PIECE)
}

fn write(emit: Emit<'_>, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    emit(text.into())
}
