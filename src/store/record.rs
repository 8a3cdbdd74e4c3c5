//! What a record says, and the octets of it.
//!
//! A record is a 20-octet header and a payload. The header holds a marker, the payload's length, the
//! kind, the version, the CRC32C of the payload, and the CRC32C of all that together with the
//! folder's secret salt, the segment and the position. So damage is detected, the records behind it
//! are found again at their markers, and octets inside a body can never pass for a record.

use std::sync::Arc;

use bytes::Bytes;

use super::coding::{Decoder, Encoder};
use super::manifest::{Manifest, Place, Share};
use super::request::{DeferredMessage, Dispositions, MessageKind, Seq, Settlement};
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// Octets before the payload.
pub(super) const HEADER: usize = 20;
/// How a record begins; looked for after damage.
pub(super) const MARKER: [u8; 4] = [0xA7, b'R', b's', 0x1E];
const VERSION: u8 = 1;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Settled,
    PutBinding,
    RemoveBinding,
    Piece,
    Footer,
    Marks,
    /// Everything before it was synced; without a payload.
    Synced,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Message,
        Self::Settled,
        Self::PutBinding,
        Self::RemoveBinding,
        Self::Piece,
        Self::Footer,
        Self::Marks,
        Self::Synced,
    ];

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// What binds a record to its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal {
    /// Of the data folder.
    pub(super) salt: u64,
    /// Number of the segment.
    pub(super) segment: u64,
}

/// A header that verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Octets of the payload.
    pub(super) length: u32,
    payload_crc: u32,
}

impl Header {
    /// Octets of the whole record.
    pub(super) fn record_length(self) -> u64 {
        HEADER as u64 + u64::from(self.length)
    }

    /// Whether this is the payload it was written with.
    pub(super) fn fits(self, payload: &[u8]) -> bool {
        crc32c::crc32c(payload) == self.payload_crc
    }
}

impl Seal {
    /// Appends a record that will lie at `position`.
    pub(super) fn frame(self, out: &mut Vec<u8>, position: u64, kind: Kind, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MARKER);
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8] = kind.code();
        header[9] = VERSION;
        header[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let crc = self.crc(position, &header[..16]);
        header[16..].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
    }

    /// The header of the record at `position`, if there is one.
    pub(super) fn header(self, position: u64, octets: &[u8]) -> Option<Header> {
        let header = octets.first_chunk::<HEADER>()?;
        let mut rest = Decoder(header);
        if rest.u32()?.to_le_bytes() != MARKER {
            return None;
        }
        let length = rest.u32()?;
        let kind = rest.u8()?;
        let version = rest.u8()?;
        rest.0 = rest.0.get(2..)?;
        let payload_crc = rest.u32()?;
        let sound = rest.u32()? == self.crc(position, &header[..16]) && version == VERSION;
        sound.then_some(Header {
            kind: Kind::from_code(kind)?,
            length,
            payload_crc,
        })
    }

    fn crc(self, position: u64, header: &[u8]) -> u32 {
        let mut crc = crc32c::crc32c(&self.salt.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.segment.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &position.to_le_bytes());
        crc32c::crc32c_append(crc, header)
    }
}

/// The octets of a message, or where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordBody {
    Inline(Bytes),
    Large(Manifest),
}

impl RecordBody {
    /// Octets of the body.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Inline(octets) => octets.len() as u64,
            Self::Large(manifest) => manifest.length,
        }
    }

    /// What it has in each body segment.
    pub(super) fn shares(&self) -> Box<[Share]> {
        match self {
            Self::Inline(_) => Box::default(),
            Self::Large(manifest) => manifest.shares(),
        }
    }
}

/// Octets that the head of most messages fits into.
const ROOM: usize = 1024;

/// A message in custody. Of several records with one `seq` the highest `generation` counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageRecord {
    pub(super) seq: Seq,
    pub(super) generation: u32,
    pub(super) message: Arc<DeferredMessage>,
    pub(super) body: RecordBody,
}

impl MessageRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let message = &self.message;
        let inline = match &self.body {
            RecordBody::Inline(octets) => octets.len(),
            RecordBody::Large(_) => 0,
        };
        let mut out = Encoder(Vec::with_capacity(ROOM + inline));
        out.u64(self.seq.0);
        out.u32(self.generation);
        out.u8(kind_code(message.kind));
        out.u8(message.dispositions.0);
        out.u64(message.accepted_at.0);
        out.u64(message.expires_at.0);
        out.u128(message.duplicate_key);
        out.text(message.recipient.as_str());
        out.text(message.author.as_str());
        out.text(&message.from);
        out.text(&message.to);
        out.text(&message.conversation);
        out.text(&message.contribution);
        out.optional(message.in_reply_to.as_deref());
        out.text(&message.content_type);
        out.text(&message.message_id);
        out.optional(message.date_time.as_deref());
        out.count(message.headers.len());
        for (name, value) in &message.headers {
            out.text(name);
            out.text(value);
        }
        let head = crc32c::crc32c(&out.0);
        match &self.body {
            RecordBody::Inline(octets) => {
                out.u8(2);
                out.u32(head);
                out.octets(octets);
            }
            RecordBody::Large(manifest) => {
                out.u8(3);
                out.u32(head);
                manifest.encode(&mut out);
            }
        }
        out.0
    }

    pub(super) fn decode(payload: &Bytes) -> Option<Self> {
        let mut from = Decoder(payload);
        let seq = Seq(from.u64()?);
        let generation = from.u32()?;
        let message = decode_message(&mut from)?;
        let tag = from.u8()?;
        if tag >= 2 {
            from.u32()?;
        }
        let body = match tag {
            // As records were written before their heads had a checksum.
            0 | 2 => RecordBody::Inline(payload.slice_ref(from.0)),
            1 | 3 => RecordBody::Large(Manifest::decode(&mut from)?),
            _ => return None,
        };
        Some(Self {
            seq,
            generation,
            message: Arc::new(message),
            body,
        })
    }
}

/// What a damaged record still says of its message, if the damage is behind that.
pub(super) fn head_of(payload: &[u8]) -> Option<(Seq, u32, DeferredMessage)> {
    let mut from = Decoder(payload);
    let seq = Seq(from.u64()?);
    let generation = from.u32()?;
    let message = decode_message(&mut from)?;
    let head = payload.get(..payload.len() - from.0.len())?;
    let has_checksum = matches!(from.u8()?, 2 | 3);
    let sound = has_checksum && from.u32()? == crc32c::crc32c(head);
    sound.then_some((seq, generation, message))
}

/// Octets of a message's payload before its recipient.
const BEFORE_RECIPIENT: usize = 46;

/// How far into a record's payload [`says`] looks.
pub(super) fn says_length(recipient: &Identity) -> usize {
    BEFORE_RECIPIENT + 4 + recipient.as_str().len()
}

/// Whether a message's payload, or the first octets of one, names this message.
pub(super) fn says(payload: &[u8], seq: Seq, expires_at: UnixMillis, recipient: &Identity) -> bool {
    let mut from = Decoder(payload);
    let named = from.u64() == Some(seq.0);
    let mut expiry = Decoder(payload.get(22..).unwrap_or_default());
    let mut text = Decoder(payload.get(BEFORE_RECIPIENT..).unwrap_or_default());
    named && expiry.u64() == Some(expires_at.0) && text.text() == Some(recipient.as_str())
}

fn decode_message(from: &mut Decoder) -> Option<DeferredMessage> {
    let kind = kind_from_code(from.u8()?)?;
    let dispositions = Dispositions(from.u8()?);
    let accepted_at = UnixMillis(from.u64()?);
    let expires_at = UnixMillis(from.u64()?);
    let duplicate_key = from.u128()?;
    let mut message = DeferredMessage {
        recipient: identity(from.text()?)?,
        author: identity(from.text()?)?,
        from: from.text()?.into(),
        to: from.text()?.into(),
        kind,
        conversation: from.text()?.into(),
        contribution: from.text()?.into(),
        in_reply_to: from.optional()?.map(Into::into),
        headers: Vec::new(),
        content_type: from.text()?.into(),
        message_id: from.text()?.into(),
        date_time: from.optional()?.map(Into::into),
        dispositions,
        accepted_at,
        expires_at,
        duplicate_key,
    };
    for _ in 0..from.u32()? {
        let (name, value) = (from.text()?, from.text()?);
        message.headers.push((name.into(), value.into()));
    }
    Some(message)
}

/// A message left custody. Kept as long as `segment`, which holds the message's record, exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SettledRecord {
    pub(super) seq: Seq,
    pub(super) segment: u64,
    pub(super) settlement: Settlement,
}

impl SettledRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.seq.0);
        out.u64(self.segment);
        out.u8(match self.settlement {
            Settlement::Delivered => 0,
            Settlement::Expired => 1,
            Settlement::Failed => 2,
            Settlement::Cancelled => 3,
            Settlement::Evicted => 4,
            Settlement::Withdrawn => 5,
        });
        out.0
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut from = Decoder(payload);
        Some(Self {
            seq: Seq(from.u64()?),
            segment: from.u64()?,
            settlement: match from.u8()? {
                0 => Settlement::Delivered,
                1 => Settlement::Expired,
                2 => Settlement::Failed,
                3 => Settlement::Cancelled,
                4 => Settlement::Evicted,
                5 => Settlement::Withdrawn,
                _ => return None,
            },
        })
    }
}

/// The devices that have got a message. Each record names all of them, so the one with the most counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MarksRecord {
    pub(super) seq: Seq,
    pub(super) devices: Box<[u64]>,
}

impl MarksRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        self.encode_to(&mut out);
        out.0
    }

    pub(super) fn encode_to(&self, out: &mut Encoder) {
        out.u64(self.seq.0);
        out.count(self.devices.len());
        for device in &self.devices {
            out.u64(*device);
        }
    }

    pub(super) fn decode(from: &mut Decoder) -> Option<Self> {
        let seq = Seq(from.u64()?);
        let mut devices = Vec::new();
        for _ in 0..from.u32()? {
            devices.push(from.u64()?);
        }
        Some(Self {
            seq,
            devices: devices.into(),
        })
    }
}

/// Whose bindings the documents are: nobody's, since every user has a host.
pub(super) fn nobody() -> Identity {
    Identity::new("", "")
}

/// A binding put (with a value) or removed. Of several for one key the highest `revision` counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BindingRecord {
    /// From the same count as `Seq`.
    pub(super) revision: u64,
    /// The oldest segment that may hold an earlier record of the same key.
    pub(super) first: u64,
    pub(super) user: Identity,
    pub(super) key: Box<str>,
    pub(super) value: Option<Bytes>,
}

impl BindingRecord {
    pub(super) fn kind(&self) -> Kind {
        match self.value {
            Some(_) => Kind::PutBinding,
            None => Kind::RemoveBinding,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.revision);
        out.u64(self.first);
        out.text(self.user.as_str());
        out.text(&self.key);
        out.octets(self.value.as_deref().unwrap_or_default());
        out.0
    }

    pub(super) fn decode(kind: Kind, payload: &Bytes) -> Option<Self> {
        let mut from = Decoder(payload);
        Some(Self {
            revision: from.u64()?,
            first: from.u64()?,
            user: identity(from.text()?)?,
            key: from.text()?.into(),
            value: (kind == Kind::PutBinding).then(|| payload.slice_ref(from.0)),
        })
    }
}

/// The payload of a piece of a body: where it belongs, for repair by hand, then its octets.
pub(super) fn encode_piece(body: u64, offset: u64, octets: &[u8]) -> Vec<u8> {
    let mut out = Encoder(Vec::with_capacity(PIECE_HEADER + octets.len()));
    out.u64(body);
    out.u64(offset);
    out.octets(octets);
    out.0
}

/// Octets of a piece's payload before the octets of the body.
pub(super) const PIECE_HEADER: usize = 16;

/// An identity as `Identity::as_str` wrote it.
pub(super) fn identity(text: &str) -> Option<Identity> {
    Identity::read(text)
}

fn kind_code(kind: MessageKind) -> u8 {
    match kind {
        MessageKind::Pager => 0,
        MessageKind::Large => 1,
        MessageKind::Chat => 2,
        MessageKind::Notification => 3,
    }
}

fn kind_from_code(code: u8) -> Option<MessageKind> {
    Some(match code {
        0 => MessageKind::Pager,
        1 => MessageKind::Large,
        2 => MessageKind::Chat,
        3 => MessageKind::Notification,
        _ => return None,
    })
}

impl Place {
    /// Its first octet and the one after its last.
    pub(super) fn range(self) -> std::ops::Range<u64> {
        self.position..self.position + u64::from(self.length)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) fn message(recipient: &str, number: u128) -> DeferredMessage {
        DeferredMessage {
            recipient: Identity::new(recipient, "im.test"),
            author: Identity::new("alice", "im.test"),
            from: "\"Alice\" <sip:alice@im.test>".into(),
            to: "<sip:bob@im.test>".into(),
            kind: MessageKind::Pager,
            conversation: "conversation".into(),
            contribution: "contribution".into(),
            in_reply_to: Some("earlier".into()),
            headers: vec![("Subject".into(), "hi".into())],
            content_type: "message/cpim".into(),
            message_id: format!("id-{number}"),
            date_time: None,
            dispositions: Dispositions::POSITIVE.union(Dispositions::DISPLAY),
            accepted_at: UnixMillis(1_000),
            expires_at: UnixMillis(2_000),
            duplicate_key: number,
        }
    }

    #[test]
    fn a_message_record_survives_its_encoding() {
        for body in [
            RecordBody::Inline(Bytes::from_static(b"\r\n\0\xFF")),
            RecordBody::Large(Manifest::default()),
        ] {
            let record = MessageRecord {
                seq: Seq(7),
                generation: 3,
                message: Arc::new(message("bob", 9)),
                body,
            };
            let payload = Bytes::from(record.encode());
            assert_eq!(MessageRecord::decode(&payload), Some(record));
        }
    }

    #[test]
    fn a_record_damaged_in_its_body_still_says_whose_it_was_and_one_damaged_before_that_does_not() {
        let record = MessageRecord {
            seq: Seq(7),
            generation: 3,
            message: Arc::new(message("bob", 9)),
            body: RecordBody::Inline(Bytes::from_static(b"body")),
        };
        let mut payload = record.encode();
        let body = payload.len() - b"body".len();
        for at in 0..payload.len() {
            payload[at] ^= 4;
            let head = (at >= body).then(|| (Seq(7), 3, message("bob", 9)));
            assert_eq!(head_of(&payload), head, "octet {at}");
            payload[at] ^= 4;
        }
    }

    #[test]
    fn a_record_from_before_heads_had_a_checksum_is_read() {
        let body = RecordBody::Inline(Bytes::from_static(b"body"));
        let record = MessageRecord {
            seq: Seq(7),
            generation: 3,
            message: Arc::new(message("bob", 9)),
            body,
        };
        let mut payload = record.encode();
        let tag = payload.len() - b"body".len() - 5;
        assert_eq!(payload[tag], 2);
        payload[tag] = 0;
        payload.drain(tag + 1..tag + 5);
        assert_eq!(MessageRecord::decode(&payload.into()), Some(record));
    }

    #[test]
    fn the_first_octets_of_a_message_say_whose_it_is() {
        let record = MessageRecord {
            seq: Seq(7),
            generation: 3,
            message: Arc::new(message("bob", 9)),
            body: RecordBody::Inline(Bytes::from_static(b"body")),
        };
        let (bob, carol) = (
            Identity::new("bob", "im.test"),
            Identity::new("carol", "im.test"),
        );
        let payload = record.encode();
        let first = &payload[..says_length(&bob)];
        let expiry = record.message.expires_at;
        assert!(says(first, Seq(7), expiry, &bob));
        assert!(!says(first, Seq(8), expiry, &bob));
        assert!(!says(first, Seq(7), UnixMillis(1), &bob));
        assert!(!says(first, Seq(7), expiry, &carol));
    }

    #[test]
    fn every_prefix_of_a_record_is_refused_without_panic() {
        let record = MessageRecord {
            seq: Seq(7),
            generation: 3,
            message: Arc::new(message("bob", 9)),
            body: RecordBody::Large(Manifest::default()),
        };
        let payload = Bytes::from(record.encode());
        for end in 0..payload.len() {
            assert_eq!(MessageRecord::decode(&payload.slice(..end)), None);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let seal = Seal {
            salt: 5,
            segment: 6,
        };
        let mut octets = Vec::new();
        seal.frame(&mut octets, 100, Kind::Settled, b"payload");
        assert!(
            seal.header(100, &octets)
                .is_some_and(|h| h.fits(b"payload"))
        );
        assert!(seal.header(101, &octets).is_none(), "at another position");
        for bit in 0..HEADER * 8 {
            octets[bit / 8] ^= 1 << (bit % 8);
            assert!(seal.header(100, &octets).is_none(), "bit {bit}");
            octets[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
