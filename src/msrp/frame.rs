//! What one MSRP frame says (RFC 4975 §5.1, §9), as values that own their octets.
//!
//! A frame comes out of the [`super::reader`] in pieces: a head, its data as it arrives, an end. Only
//! faults that leave the framing itself in doubt are errors there; everything a session can answer
//! with 400 is kept in the head and found by the typed views ([`RequestHead::send`],
//! [`RequestHead::report`]).

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use memchr::memchr;
use smallvec::SmallVec;

use super::field::parse_status;
pub use super::field::{
    ByteRange, Continuation, FailureReport, Malformed, ReportFields, SendFields,
};
use super::uri::{
    first_in_path, is_message_id, session_id_in, shard_of_session_id, shard_of_transaction_id,
};

/// A piece of a frame, in the order of arrival: a request is `Request`, any number of `Data`, one
/// `End`; a response is `Response` alone.
#[derive(Clone, Debug)]
pub enum FrameEvent {
    /// A request begins.
    Request(RequestHead),
    /// A whole response.
    Response(ResponseHead),
    /// Octets of the body of the request that began last; never empty.
    Data(Bytes),
    /// The request that began last is over.
    End(Continuation),
}

impl FrameEvent {
    /// Octets of the connection that it keeps.
    pub fn octets(&self) -> usize {
        match self {
            Self::Request(head) => head.head.octets.len(),
            Self::Response(head) => head.head.octets.len(),
            Self::Data(octets) => octets.len(),
            Self::End(_) => 0,
        }
    }

    /// The same in memory of its own: a piece that is kept for long would keep all that was read with it.
    pub fn detached(mut self) -> Self {
        match &mut self {
            Self::Request(head) => head.head.detach(),
            Self::Response(head) => head.head.detach(),
            Self::Data(octets) => *octets = Bytes::copy_from_slice(octets),
            Self::End(_) => {}
        }
        self
    }
}

/// The shard that serves the session a head belongs to: named by the first URI of its To-Path, or,
/// for a response, by our transaction identifier. `None` for data, ends, and heads that are not ours.
pub fn shard_of(event: &FrameEvent) -> Option<u16> {
    match event {
        FrameEvent::Request(head) => shard_of_path(head.to_path()),
        FrameEvent::Response(head) => {
            shard_of_path(head.to_path()).or_else(|| shard_of_transaction_id(head.transaction()))
        }
        FrameEvent::Data(_) | FrameEvent::End(_) => None,
    }
}

fn shard_of_path(path: &str) -> Option<u16> {
    shard_of_session_id(session_id_in(first_in_path(path)?)?)
}

/// Request methods (RFC 4975 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Carries content, or nothing to bind a connection.
    Send,
    /// Tells how a message fared.
    Report,
    /// An extension; answered 501 (RFC 4975 §12).
    Other,
}

/// The header fields this server acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// Where the frame goes; first hop first.
    ToPath,
    /// Where it comes from; last hop first.
    FromPath,
    /// Names the message over all its chunks.
    MessageId,
    /// Which octets of the message this chunk holds.
    ByteRange,
    /// Whether the sender wants a REPORT of success.
    SuccessReport,
    /// Whether the sender wants to hear of failure.
    FailureReport,
    /// How a message fared.
    Status,
    /// What the message is; last header field, only with a body.
    ContentType,
    /// Any other, ignored as RFC 4975 §12 demands.
    Other,
}

impl FieldName {
    const fn bit(self) -> u16 {
        1 << self as u16
    }

    fn of(name: &str) -> Self {
        const NAMES: [(&str, FieldName); 8] = [
            ("To-Path", FieldName::ToPath),
            ("From-Path", FieldName::FromPath),
            ("Message-ID", FieldName::MessageId),
            ("Byte-Range", FieldName::ByteRange),
            ("Success-Report", FieldName::SuccessReport),
            ("Failure-Report", FieldName::FailureReport),
            ("Status", FieldName::Status),
            ("Content-Type", FieldName::ContentType),
        ];
        NAMES
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or(Self::Other, |(_, field)| field)
    }
}

#[derive(Clone, Debug)]
struct Field {
    name: FieldName,
    line: Range<u16>,
    /// Octets of the line before the colon.
    colon: u16,
}

/// Start line and header fields, as one slice of what arrived and positions in it.
#[derive(Clone)]
pub(super) struct Head {
    octets: ByteString,
    transaction: Range<u16>,
    /// The rest of the start line after the transaction identifier.
    start: Range<u16>,
    fields: SmallVec<[Field; 8]>,
    /// The names that there are, a bit each, and those that there are more than once.
    names: u16,
    repeated: u16,
}

impl Head {
    fn detach(&mut self) {
        self.octets = ByteString::from(&*self.octets);
    }

    /// A head whose start line has been checked; `octets` are at most 64 KiB.
    pub(super) fn new(octets: ByteString, transaction: Range<u16>, start: Range<u16>) -> Self {
        Self {
            octets,
            transaction,
            start,
            fields: SmallVec::new(),
            names: 0,
            repeated: 0,
        }
    }

    /// Adds the header field in `line`; false if it has no name.
    pub(super) fn add_field(&mut self, line: Range<u16>) -> bool {
        let text = self.text(&line);
        let Some(colon) = memchr(b':', text.as_bytes()) else {
            return false;
        };
        let name = text.get(..colon).unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return false;
        }
        let name = FieldName::of(name);
        let colon = colon as u16;
        self.repeated |= self.names & name.bit();
        self.names |= name.bit();
        self.fields.push(Field { name, line, colon });
        true
    }

    fn text(&self, range: &Range<u16>) -> &str {
        let place = usize::from(range.start)..usize::from(range.end);
        self.octets.get(place).unwrap_or_default()
    }

    fn transaction(&self) -> &str {
        self.text(&self.transaction)
    }

    fn value(&self, name: FieldName) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        Some(self.split(field).1)
    }

    fn split(&self, field: &Field) -> (&str, &str) {
        let (name, value) = self
            .text(&field.line)
            .split_at_checked(usize::from(field.colon))
            .unwrap_or_default();
        (name, value.get(1..).unwrap_or_default().trim())
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| self.split(field))
    }

    /// RFC 4975 §9: To-Path first, From-Path second, each once.
    fn paths_in_order(&self) -> bool {
        let mut names = self.fields.iter().map(|field| field.name);
        names.next() == Some(FieldName::ToPath)
            && names.next() == Some(FieldName::FromPath)
            && !names.any(|name| matches!(name, FieldName::ToPath | FieldName::FromPath))
    }

    fn at_most_once(&self, names: &[FieldName]) -> bool {
        names.iter().all(|name| self.repeated & name.bit() == 0)
    }
}

/// What a request says before its body.
#[derive(Clone)]
pub struct RequestHead {
    head: Head,
    method: Method,
    has_body: bool,
}

impl RequestHead {
    pub(super) fn new(head: Head, has_body: bool) -> Self {
        let method = match head.text(&head.start) {
            "SEND" => Method::Send,
            "REPORT" => Method::Report,
            _ => Method::Other,
        };
        Self {
            head,
            method,
            has_body,
        }
    }

    /// The transaction identifier, which the response repeats.
    pub fn transaction(&self) -> &str {
        self.head.transaction()
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The method as it was written.
    pub fn method_str(&self) -> &str {
        self.head.text(&self.head.start)
    }

    /// Whether a blank line came after the header fields, so that a body follows, maybe an empty one.
    /// RFC 4975 §7.1 tells requests without a body from requests with an empty one.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// To-Path as written; empty if missing.
    pub fn to_path(&self) -> &str {
        self.field(FieldName::ToPath).unwrap_or_default()
    }

    /// From-Path as written; empty if missing.
    pub fn from_path(&self) -> &str {
        self.field(FieldName::FromPath).unwrap_or_default()
    }

    /// The first value of a header field.
    pub fn field(&self, name: FieldName) -> Option<&str> {
        self.head.value(name)
    }

    /// All header fields in order: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.all()
    }

    /// Failure-Report, with its default (RFC 4975 §7.1.1). A malformed value counts as `yes`, so that
    /// the sender hears of it.
    pub fn failure_report(&self) -> FailureReport {
        let value = self.field(FieldName::FailureReport);
        value
            .and_then(FailureReport::parse)
            .unwrap_or(FailureReport::Yes)
    }

    /// The fields of a SEND, checked (RFC 4975 §7.1.1); an error is to be answered 400.
    pub fn send(&self) -> Result<SendFields<'_>, Malformed> {
        self.check_shape()?;
        let message_id = self.field(FieldName::MessageId);
        if message_id.is_some_and(|id| !is_message_id(id.as_bytes())) {
            return Err(Malformed("Message-ID"));
        }
        let byte_range = self.field(FieldName::ByteRange).map(ByteRange::parse);
        if byte_range == Some(None) {
            return Err(Malformed("Byte-Range"));
        }
        let success_report = match self.field(FieldName::SuccessReport) {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("no") => false,
            Some(value) if value.eq_ignore_ascii_case("yes") => true,
            Some(_) => return Err(Malformed("Success-Report")),
        };
        let failure_report = match self.field(FieldName::FailureReport) {
            None => FailureReport::Yes,
            Some(value) => FailureReport::parse(value).ok_or(Malformed("Failure-Report"))?,
        };
        Ok(SendFields {
            message_id,
            byte_range: byte_range.flatten(),
            success_report,
            failure_report,
            content_type: self.field(FieldName::ContentType),
        })
    }

    /// The fields of a REPORT, checked (RFC 4975 §7.1.2). A REPORT is never answered, so an error
    /// means to drop it.
    pub fn report(&self) -> Result<ReportFields<'_>, Malformed> {
        self.check_shape()?;
        let message_id = self
            .field(FieldName::MessageId)
            .filter(|id| is_message_id(id.as_bytes()))
            .ok_or(Malformed("Message-ID"))?;
        let status = self.field(FieldName::Status).and_then(parse_status);
        let byte_range = match self.field(FieldName::ByteRange) {
            None => None,
            Some(value) => Some(ByteRange::parse(value).ok_or(Malformed("Byte-Range"))?),
        };
        let (namespace, status) = status.ok_or(Malformed("Status"))?;
        Ok(ReportFields {
            message_id,
            byte_range,
            namespace,
            status,
        })
    }

    fn check_shape(&self) -> Result<(), Malformed> {
        const SINGLE: [FieldName; 6] = [
            FieldName::MessageId,
            FieldName::ByteRange,
            FieldName::SuccessReport,
            FieldName::FailureReport,
            FieldName::Status,
            FieldName::ContentType,
        ];
        let no_uri = self.to_path().is_empty() || self.from_path().is_empty();
        if no_uri || !self.head.paths_in_order() {
            return Err(Malformed("To-Path and From-Path"));
        }
        if !self.head.at_most_once(&SINGLE) {
            return Err(Malformed("repeated header field"));
        }
        Ok(())
    }
}

/// Without octets: paths and bodies do not belong in logs.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RequestHead({} {})",
            self.transaction(),
            self.method_str()
        )
    }
}

/// What a response says.
#[derive(Clone)]
pub struct ResponseHead {
    head: Head,
    status: u16,
}

impl ResponseHead {
    pub(super) fn new(head: Head, status: u16) -> Self {
        Self { head, status }
    }

    /// The transaction identifier of the request it answers.
    pub fn transaction(&self) -> &str {
        self.head.transaction()
    }

    /// The status code (RFC 4975 §10).
    pub fn status(&self) -> u16 {
        self.status
    }

    /// To-Path as written; empty if missing.
    pub fn to_path(&self) -> &str {
        self.head.value(FieldName::ToPath).unwrap_or_default()
    }

    /// From-Path as written; empty if missing.
    pub fn from_path(&self) -> &str {
        self.head.value(FieldName::FromPath).unwrap_or_default()
    }

    /// All header fields in order: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.all()
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseHead({} {})", self.transaction(), self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_events_can_be_handed_to_another_thread() {
        fn is_send<T: Send + fmt::Debug + 'static>() {}
        is_send::<FrameEvent>();
    }
}
