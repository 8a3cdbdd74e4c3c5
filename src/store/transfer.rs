//! The whole store as JSON lines: what a line says.
//!
//! First a line with the number of the form, then documents, bindings and messages in their order, at
//! the end a line that counts them. A body over 64 KiB follows its message in pieces. Octets are base64.
//! Nothing depends on the format of the log, so one version can read what another wrote.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record;
use super::request::{DeferredMessage, Dispositions, MessageKind};
use crate::clock::UnixMillis;

/// The number of this form.
pub(super) const FORM: u32 = 1;
/// Octets of a body in one line, at most.
pub(super) const PIECE: usize = 48 * 1024;
/// Octets of a line that is read, at most.
pub(super) const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Line {
    /// The first.
    RestanteExport { form: u32 },
    /// A document of the operator's, such as an account.
    Document { name: Box<str>, value: Octets },
    /// A binding as the registrar keeps it.
    Binding {
        user: String,
        key: Box<str>,
        value: Octets,
    },
    /// A waiting message.
    Message(Box<Message>),
    /// Octets of the body of the message before.
    Piece { offset: u64, octets: Octets },
    /// A message that could not be read.
    Damaged { recipient: String, accepted_at: u64 },
    /// The last.
    End(Totals),
}

/// How much was exported, or imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Waiting messages.
    pub messages: u64,
    /// Bindings of users.
    pub bindings: u64,
    /// Documents of the operator's.
    pub documents: u64,
    /// Messages that could not be read.
    pub damaged: u64,
}

/// What the last line of an export counts, from the octets at its end; `None` if that line is not there.
pub fn totals_of(end: &[u8]) -> Option<Totals> {
    let end = end.strip_suffix(b"\n")?;
    let line = end.rsplit(|octet| *octet == b'\n').next()?;
    match serde_json::from_slice(line).ok()? {
        Line::End(totals) => Some(totals),
        _ => None,
    }
}

/// A waiting message. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) recipient: String,
    author: String,
    from: String,
    to: String,
    kind: KindWord,
    conversation: String,
    contribution: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    in_reply_to: Option<String>,
    message_id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    date_time: Option<String>,
    /// As a set of bits: 1 positive-delivery, 2 negative-delivery, 4 display, 8 processing,
    /// 16 interworking.
    dispositions: u8,
    pub(super) accepted_at: u64,
    expires_at: u64,
    /// 32 hexadecimal digits.
    duplicate_key: String,
    content_type: String,
    headers: Vec<(String, String)>,
    /// Devices that have got it, by the registrar's numbers, 16 hexadecimal digits each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    devices: Vec<String>,
    /// Octets of the body.
    pub(super) length: u64,
    /// The body, unless it follows in pieces.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) body: Option<Octets>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindWord {
    Pager,
    Large,
    Chat,
    Notification,
}

/// Octets, written as base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Octets(pub(super) bytes::Bytes);

impl TryFrom<String> for Octets {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(Self(STANDARD.decode(text)?.into()))
    }
}

impl From<Octets> for String {
    fn from(octets: Octets) -> Self {
        STANDARD.encode(&octets.0)
    }
}

impl Message {
    pub(super) fn new(
        message: DeferredMessage,
        devices: &[u64],
        length: u64,
        body: Option<bytes::Bytes>,
    ) -> Self {
        Self {
            recipient: message.recipient.as_str().to_owned(),
            author: message.author.as_str().to_owned(),
            from: message.from,
            to: message.to,
            kind: match message.kind {
                MessageKind::Pager => KindWord::Pager,
                MessageKind::Large => KindWord::Large,
                MessageKind::Chat => KindWord::Chat,
                MessageKind::Notification => KindWord::Notification,
            },
            conversation: message.conversation,
            contribution: message.contribution,
            in_reply_to: message.in_reply_to,
            message_id: message.message_id,
            date_time: message.date_time,
            dispositions: message.dispositions.0,
            accepted_at: message.accepted_at.0,
            expires_at: message.expires_at.0,
            duplicate_key: format!("{:032x}", message.duplicate_key),
            content_type: message.content_type,
            headers: message.headers,
            devices: devices.iter().map(|d| format!("{d:016x}")).collect(),
            length,
            body: body.map(Octets),
        }
    }

    /// The message and the devices that have got it; says which field makes no sense.
    pub(super) fn read(self) -> Result<(DeferredMessage, Vec<u64>), &'static str> {
        let message = DeferredMessage {
            recipient: record::identity(&self.recipient).ok_or("recipient")?,
            author: record::identity(&self.author).ok_or("author")?,
            from: self.from,
            to: self.to,
            kind: match self.kind {
                KindWord::Pager => MessageKind::Pager,
                KindWord::Large => MessageKind::Large,
                KindWord::Chat => MessageKind::Chat,
                KindWord::Notification => MessageKind::Notification,
            },
            conversation: self.conversation,
            contribution: self.contribution,
            in_reply_to: self.in_reply_to,
            headers: self.headers,
            content_type: self.content_type,
            message_id: self.message_id,
            date_time: self.date_time,
            dispositions: Dispositions(self.dispositions),
            accepted_at: UnixMillis(self.accepted_at),
            expires_at: UnixMillis(self.expires_at),
            duplicate_key: u128::from_str_radix(&self.duplicate_key, 16)
                .map_err(|_| "duplicate_key")?,
        };
        let devices = self.devices.iter().map(|d| u64::from_str_radix(d, 16));
        let devices = devices.collect::<Result<_, _>>().map_err(|_| "devices")?;
        Ok((message, devices))
    }

    /// By which it is known again: all that never changes while it waits.
    pub(super) fn known_by(&self) -> u128 {
        let unchanging = Self {
            expires_at: 0,
            devices: Vec::new(),
            body: None,
            ..self.clone()
        };
        let text = serde_json::to_vec(&unchanging).unwrap_or_default();
        let hash = Sha256::digest(text);
        let first = hash.first_chunk::<16>().copied().unwrap_or_default();
        u128::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::message;

    #[test]
    fn a_message_survives_its_line() {
        let written = Message::new(message("bob", 9), &[7, u64::MAX], 3, Some("abc".into()));
        let line = Line::Message(Box::new(written.clone()));
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with("{\"type\":\"message\",\"recipient\":\"bob@im.test\""));
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        let (read, devices) = written.clone().read().unwrap();
        assert_eq!((read, devices), (message("bob", 9), vec![7, u64::MAX]));
        let mut later = message("bob", 9);
        later.expires_at = UnixMillis(77);
        let later = Message::new(later, &[], 3, None);
        assert_eq!(written.known_by(), later.known_by());
        let other = Message::new(message("bob", 10), &[], 3, None);
        assert_ne!(written.known_by(), other.known_by());
    }

    #[test]
    fn a_field_that_makes_no_sense_is_named() {
        let mut odd = Message::new(message("bob", 9), &[], 0, None);
        odd.duplicate_key = "z".to_owned();
        assert_eq!(odd.read(), Err("duplicate_key"));
        let text = r#"{"type":"piece","offset":0,"octets":"*"}"#;
        assert!(serde_json::from_str::<Line>(text).is_err());
        let text = r#"{"type":"binding","user":"bob@im.test"}"#;
        assert!(serde_json::from_str::<Line>(text).is_err());
    }
}
