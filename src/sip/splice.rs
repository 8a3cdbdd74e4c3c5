//! A message changed in places: untouched octets are copied as they are, never written anew.

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr3;
use smallvec::SmallVec;

use crate::sip::header::split_list;
use crate::sip::message::{HeaderName, Message, StartLine};

/// A change of one message (see [`Edit::finish`]).
#[derive(Debug)]
pub struct Edit<'a> {
    message: &'a Message,
    /// What is written anew, piece behind piece.
    text: Vec<u8>,
    request_uri: Option<Piece>,
    /// Lines before the first field, the topmost last.
    front: SmallVec<[Piece; 4]>,
    /// Lines behind the last field.
    back: SmallVec<[Piece; 4]>,
    changes: SmallVec<[(HeaderName, Change); 8]>,
    /// A bit for each name that has a change.
    changed: u64,
}

#[derive(Debug)]
enum Change {
    Remove,
    /// Drop so many elements from the front.
    Front(usize),
    /// What stands behind the name.
    Replace(Piece),
}

/// Octets of the message, or of the text written anew.
#[derive(Clone, Debug)]
enum Piece {
    Old(Range<u32>),
    New(Range<u32>),
}

impl<'a> Edit<'a> {
    /// Nothing changed yet.
    pub fn new(message: &'a Message) -> Self {
        Self {
            message,
            text: Vec::new(),
            request_uri: None,
            front: SmallVec::new(),
            back: SmallVec::new(),
            changes: SmallVec::new(),
            changed: 0,
        }
    }

    /// Replaces the Request-URI.
    pub fn request_uri(&mut self, uri: &str) -> &mut Self {
        self.request_uri = Some(self.write(|text| write_value(text, uri)));
        self
    }

    /// Adds a field before the first one; the one prepended last stands on top.
    pub fn prepend(&mut self, name: &str, value: &str) -> &mut Self {
        let line = self.write(|text| write_field(text, name, value));
        self.front.push(line);
        self
    }

    /// Adds a field behind the last one.
    pub fn append(&mut self, name: &str, value: &str) -> &mut Self {
        let line = self.write(|text| write_field(text, name, value));
        self.back.push(line);
        self
    }

    /// Removes every field of this name.
    pub fn remove(&mut self, name: HeaderName) -> &mut Self {
        self.change(name, Change::Remove);
        self
    }

    /// Removes the first element of the list that all fields of this name make up; a field left without
    /// elements goes. Asked again, it removes the next.
    pub fn remove_first_value(&mut self, name: HeaderName) -> &mut Self {
        let known = self.changes.iter_mut().find(|(other, _)| *other == name);
        match known {
            Some((_, Change::Front(count))) => *count += 1,
            _ => self.change(name, Change::Front(1)),
        }
        self
    }

    /// Gives the first field of this name another value and removes the others; adds the field behind
    /// the last one if there is none.
    pub fn replace(&mut self, name: HeaderName, value: &str) -> &mut Self {
        match (self.message.count(name), name.long()) {
            (0, Some(long)) => self.append(long, value),
            _ => {
                let rest = self.write(|text| write_field(text, "", value));
                self.change(name, Change::Replace(rest));
                self
            }
        }
    }

    /// The changed message, in one new buffer of just the right size.
    pub fn finish(mut self) -> Bytes {
        let mut pieces = SmallVec::<[Piece; 24]>::new();
        self.add_start(&mut pieces);
        pieces.extend(self.front.drain(..).rev());
        self.add_fields(&mut pieces);
        pieces.append(&mut self.back);
        // The empty line and the body.
        let (length, body) = (self.message.bytes().len(), self.message.body().len());
        pieces.push(Piece::Old(
            (length - body).saturating_sub(2) as u32..length as u32,
        ));
        let length = pieces.iter().map(|piece| self.octets_of(piece).len()).sum();
        let mut out = Vec::with_capacity(length);
        for piece in &pieces {
            out.extend_from_slice(self.octets_of(piece));
        }
        out.into()
    }

    fn octets_of(&self, piece: &Piece) -> &[u8] {
        match piece {
            Piece::Old(range) => self.message.slice(range),
            Piece::New(range) => &self.text[range.start as usize..range.end as usize],
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Piece {
        // Most changes are small and few.
        if self.text.capacity() == 0 {
            self.text.reserve(512);
        }
        let start = self.text.len() as u32;
        write(&mut self.text);
        Piece::New(start..self.text.len() as u32)
    }

    fn change(&mut self, name: HeaderName, change: Change) {
        // What has no name of its own here is left alone.
        if name != HeaderName::Other {
            self.changes.push((name, change));
            self.changed |= 1 << name as usize;
        }
    }

    fn add_start(&mut self, pieces: &mut SmallVec<[Piece; 24]>) {
        let parts = self.message.parts();
        match (self.request_uri.take(), &parts.start) {
            (Some(new), StartLine::Request { uri, .. }) => pieces.extend([
                Piece::Old(0..uri.start),
                new,
                Piece::Old(uri.end..parts.fields_at),
            ]),
            _ => pieces.push(Piece::Old(0..parts.fields_at)),
        }
    }

    fn add_fields(&mut self, pieces: &mut SmallVec<[Piece; 24]>) {
        let message = self.message;
        // Runs of untouched lines are copied in one go.
        let fields_at = message.parts().fields_at;
        let mut run = fields_at..fields_at;
        for field in message.parts().fields.all() {
            let outcome = match self.changed & 1 << field.id as usize {
                0 => Outcome::Kept,
                _ => self.outcome(field.id, message.slice(&field.value())),
            };
            if let Outcome::Kept = outcome {
                run.end = field.end();
                continue;
            }
            pieces.push(Piece::Old(run));
            run = field.end()..field.end();
            if let Outcome::Changed(rest) = outcome {
                pieces.extend([Piece::Old(field.name()), rest]);
            }
        }
        pieces.push(Piece::Old(run));
    }

    /// Applies the change of this name to its next field and remembers what is done.
    fn outcome(&mut self, name: HeaderName, value: &[u8]) -> Outcome {
        let change = self.changes.iter_mut().find(|(other, _)| *other == name);
        let Some((_, change)) = change else {
            return Outcome::Kept;
        };
        match change {
            Change::Remove => Outcome::Gone,
            Change::Replace(_) => match std::mem::replace(change, Change::Remove) {
                Change::Replace(rest) => Outcome::Changed(rest),
                _ => Outcome::Gone,
            },
            Change::Front(0) => Outcome::Kept,
            Change::Front(count) => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                let here = split_list(text).count();
                let dropped = here.min(*count);
                *count -= dropped;
                let left: SmallVec<[&str; 4]> = split_list(text).skip(dropped).collect();
                match left.is_empty() {
                    true => Outcome::Gone,
                    false => {
                        let left = left.join(", ");
                        Outcome::Changed(self.write(|text| write_field(text, "", &left)))
                    }
                }
            }
        }
    }
}

/// What becomes of one field.
enum Outcome {
    Kept,
    Gone,
    Changed(Piece),
}

/// One line; what could end it early is left out, so that no value can add a field.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    write_field_of(out, name, &[value]);
}

/// As [`write_field`], the value in parts.
pub(super) fn write_field_of(out: &mut Vec<u8>, name: &str, parts: &[&str]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    write_values(out, parts);
    out.extend_from_slice(b"\r\n");
}

fn write_value(out: &mut Vec<u8>, value: &str) {
    write_values(out, &[value]);
}

fn write_values(out: &mut Vec<u8>, parts: &[&str]) {
    let start = out.len();
    out.reserve(parts.iter().map(|part| part.len()).sum());
    (parts.iter()).for_each(|part| out.extend_from_slice(part.as_bytes()));
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    if memchr3(b'\r', b'\n', 0, &out[start..]).is_some() {
        let written = out.split_off(start);
        out.extend(written.into_iter().filter(|byte| !is_line_end(byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    const TEXT: &str = "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP a, SIP/2.0/UDP b\r\nv: SIP/2.0/UDP c\r\nX-Odd :  kept  \r\nMax-Forwards: 70\r\nRoute: <sip:us;lr>\r\n\r\nbody\r\n";

    fn message() -> Message {
        wire::parse(Bytes::from_static(TEXT.as_bytes())).expect("legal")
    }

    #[test]
    fn no_change_is_no_change() {
        assert_eq!(Edit::new(&message()).finish(), TEXT.as_bytes());
    }

    #[test]
    fn a_hop_is_spliced_in_and_the_rest_stays() {
        let message = message();
        let mut edit = Edit::new(&message);
        edit.request_uri("sip:bob@192.0.2.1")
            .prepend("Via", "SIP/2.0/UDP us");
        edit.replace(HeaderName::MaxForwards, "69")
            .remove(HeaderName::Route)
            .append("X", "y");
        let expected = "MESSAGE sip:bob@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP us\r\nVia: SIP/2.0/UDP a, SIP/2.0/UDP b\r\nv: SIP/2.0/UDP c\r\nX-Odd :  kept  \r\nMax-Forwards: 69\r\nX: y\r\n\r\nbody\r\n";
        assert_eq!(edit.finish(), expected.as_bytes());
    }

    #[test]
    fn the_first_of_a_list_goes_and_then_the_field() {
        let message = message();
        let mut edit = Edit::new(&message);
        edit.remove_first_value(HeaderName::Via)
            .remove_first_value(HeaderName::Route);
        let out = wire::parse(edit.finish()).expect("legal");
        let vias: Vec<&str> = out.values(HeaderName::Via).collect();
        assert_eq!(vias, ["SIP/2.0/UDP b", "SIP/2.0/UDP c"]);
        assert_eq!(out.count(HeaderName::Route), 0);
    }

    #[test]
    fn asked_again_the_next_element_goes_too() {
        let message = message();
        let mut edit = Edit::new(&message);
        for _ in 0..2 {
            edit.remove_first_value(HeaderName::Via);
        }
        let out = wire::parse(edit.finish()).expect("legal");
        let vias: Vec<&str> = out.values(HeaderName::Via).collect();
        assert_eq!(vias, ["SIP/2.0/UDP c"]);
    }

    #[test]
    fn a_header_with_a_blank_before_its_colon_is_removed_all_the_same() {
        let text = "MESSAGE sip:a@b SIP/2.0\r\nP-Asserted-Identity : <sip:boss@b>\r\np-asserted-identity\t:<tel:+1>\r\n\r\n";
        let message = wire::parse(Bytes::from_static(text.as_bytes())).expect("legal");
        let mut edit = Edit::new(&message);
        edit.remove(HeaderName::PAssertedIdentity);
        assert_eq!(edit.finish(), b"MESSAGE sip:a@b SIP/2.0\r\n\r\n".as_slice());
    }

    #[test]
    fn a_field_that_is_replaced_but_missing_is_added() {
        let message = message();
        let mut edit = Edit::new(&message);
        edit.replace(HeaderName::Expires, "7");
        let out = wire::parse(edit.finish()).expect("legal");
        assert_eq!(out.header(HeaderName::Expires), Some("7"));
    }

    #[test]
    fn a_value_cannot_add_a_field() {
        let message = message();
        let mut edit = Edit::new(&message);
        edit.append("X", "a\r\nP-Asserted-Identity: <sip:boss@im.test>");
        let out = wire::parse(edit.finish()).expect("legal");
        assert_eq!(out.count(HeaderName::PAssertedIdentity), 0);
    }
}
