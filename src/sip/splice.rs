//! A message changed in places: untouched octets are copied as they are, never written anew.

use bytes::Bytes;
use memchr::memchr3;
use smallvec::SmallVec;

use crate::sip::header::split_list;
use crate::sip::message::{HeaderName, Message, StartLine};

/// A change of one message (see [`Edit::finish`]).
#[derive(Debug)]
pub struct Edit<'a> {
    message: &'a Message,
    request_uri: Option<String>,
    /// Lines before the first field.
    front: Vec<u8>,
    /// Lines behind the last field.
    back: Vec<u8>,
    changes: SmallVec<[(HeaderName, Change); 8]>,
}

#[derive(Debug)]
enum Change {
    Remove,
    /// Drop so many elements from the front.
    Front(usize),
    Replace(String),
}

impl<'a> Edit<'a> {
    /// Nothing changed yet.
    pub fn new(message: &'a Message) -> Self {
        Self {
            message,
            request_uri: None,
            front: Vec::new(),
            back: Vec::new(),
            changes: SmallVec::new(),
        }
    }

    /// Replaces the Request-URI.
    pub fn request_uri(&mut self, uri: &str) -> &mut Self {
        self.request_uri = Some(without_line_ends(uri));
        self
    }

    /// Adds a field before the first one; the one prepended last stands on top.
    pub fn prepend(&mut self, name: &str, value: &str) -> &mut Self {
        let mut line = Vec::with_capacity(name.len() + value.len() + 4 + self.front.len());
        write_field(&mut line, name, value);
        line.append(&mut self.front);
        self.front = line;
        self
    }

    /// Adds a field behind the last one.
    pub fn append(&mut self, name: &str, value: &str) -> &mut Self {
        write_field(&mut self.back, name, value);
        self
    }

    /// Removes every field of this name.
    pub fn remove(&mut self, name: HeaderName) -> &mut Self {
        self.changes.push((name, Change::Remove));
        self
    }

    /// Removes the first element of the list that all fields of this name make up; a field left without
    /// elements goes. Asked again, it removes the next.
    pub fn remove_first_value(&mut self, name: HeaderName) -> &mut Self {
        let known = self.changes.iter_mut().find(|(other, _)| *other == name);
        match known {
            Some((_, Change::Front(count))) => *count += 1,
            _ => self.changes.push((name, Change::Front(1))),
        }
        self
    }

    /// Gives the first field of this name another value and removes the others; adds the field behind
    /// the last one if there is none.
    pub fn replace(&mut self, name: HeaderName, value: &str) -> &mut Self {
        match (self.message.count(name), name.long()) {
            (0, Some(long)) => self.append(long, value),
            _ => {
                let change = Change::Replace(without_line_ends(value));
                self.changes.push((name, change));
                self
            }
        }
    }

    /// The changed message, in one new buffer.
    pub fn finish(mut self) -> Bytes {
        let message = self.message;
        let extra =
            self.front.len() + self.back.len() + self.request_uri.as_ref().map_or(0, String::len);
        let mut out = Vec::with_capacity(message.bytes().len() + extra + 256);
        self.write_start(&mut out);
        out.extend_from_slice(&self.front);
        self.write_fields(&mut out);
        out.extend_from_slice(&self.back);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(message.body());
        out.into_boxed_slice().into()
    }

    fn write_start(&self, out: &mut Vec<u8>) {
        let message = self.message;
        match (&self.request_uri, &message.parts().start) {
            (Some(new), StartLine::Request { uri, .. }) => {
                out.extend_from_slice(message.slice(&(0..uri.start)));
                out.extend_from_slice(new.as_bytes());
                out.extend_from_slice(message.slice(&(uri.end..message.parts().fields_at)));
            }
            _ => out.extend_from_slice(message.slice(&(0..message.parts().fields_at))),
        }
    }

    fn write_fields(&mut self, out: &mut Vec<u8>) {
        let message = self.message;
        // Runs of untouched lines are copied in one go.
        let fields_at = message.parts().fields_at;
        let mut run = fields_at..fields_at;
        for field in message.parts().fields.all() {
            let change = self
                .changes
                .iter_mut()
                .find(|(name, _)| *name == field.id && *name != HeaderName::Other);
            let value = match change {
                None => Outcome::Kept,
                Some((_, change)) => change.apply(message.slice(&field.value)),
            };
            if let Outcome::Kept = value {
                run.end = field.line.end;
                continue;
            }
            out.extend_from_slice(message.slice(&run));
            run = field.line.end..field.line.end;
            if let Outcome::Changed(value) = value {
                out.extend_from_slice(message.slice(&field.name));
                out.extend_from_slice(b": ");
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(message.slice(&run));
    }
}

/// What becomes of one field.
enum Outcome {
    Kept,
    Gone,
    Changed(String),
}

impl Change {
    /// Applies to the next field of its name and remembers what is done.
    fn apply(&mut self, value: &[u8]) -> Outcome {
        match self {
            Self::Remove => Outcome::Gone,
            Self::Replace(new) => {
                let new = std::mem::take(new);
                *self = Self::Remove;
                Outcome::Changed(new)
            }
            Self::Front(0) => Outcome::Kept,
            Self::Front(count) => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                let here = split_list(text).count();
                let dropped = here.min(*count);
                *count -= dropped;
                let left: Vec<&str> = split_list(text).skip(dropped).collect();
                if left.is_empty() {
                    Outcome::Gone
                } else {
                    Outcome::Changed(left.join(", "))
                }
            }
        }
    }
}

/// One line; what could end it early is left out, so that no value can add a field.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    write_value(out, value);
    out.extend_from_slice(b"\r\n");
}

fn write_value(out: &mut Vec<u8>, value: &str) {
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    match memchr3(b'\r', b'\n', 0, value.as_bytes()) {
        None => out.extend_from_slice(value.as_bytes()),
        Some(_) => out.extend(value.bytes().filter(|byte| !is_line_end(byte))),
    }
}

fn without_line_ends(value: &str) -> String {
    match memchr3(b'\r', b'\n', 0, value.as_bytes()) {
        None => value.to_owned(),
        Some(_) => value.replace(['\r', '\n', '\0'], ""),
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
