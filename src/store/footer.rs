//! What a segment's footer says of its records, so that a start need not read them all.

use bytes::Bytes;

use super::coding::{Decoder, Encoder};
use super::manifest::{Place, Share};
use super::record::{self, BindingRecord, Kind, MarksRecord, MessageRecord, SettledRecord};
use super::request::{Seq, Settlement};
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// One record of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// First octet of the record.
    pub(super) position: u64,
    /// Octets with the header.
    pub(super) length: u32,
    /// What it says.
    pub(super) about: About,
}

impl Line {
    /// Where the record is, in a segment.
    pub(super) fn place(&self, segment: u64) -> Place {
        Place {
            segment,
            position: self.position,
            length: self.length,
        }
    }
}

/// What a record is about, as far as a start must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    Message {
        seq: Seq,
        generation: u32,
        recipient: Identity,
        accepted_at: UnixMillis,
        expires_at: UnixMillis,
        duplicate_key: u128,
        /// Octets of its body; in footers that did not say so, what it takes on disk.
        length: u64,
        /// What its body has in body segments.
        shares: Box<[Share]>,
    },
    Settled {
        seq: Seq,
        /// Where the message's record is.
        segment: u64,
        /// The message was never acknowledged.
        cancelled: bool,
    },
    Binding {
        revision: u64,
        first: u64,
        user: Identity,
        key: Box<str>,
        removed: bool,
    },
    Marks(MarksRecord),
}

impl About {
    /// Of a message.
    pub(super) fn message(record: &MessageRecord) -> Self {
        Self::Message {
            seq: record.seq,
            generation: record.generation,
            recipient: record.message.recipient.clone(),
            accepted_at: record.message.accepted_at,
            expires_at: record.message.expires_at,
            duplicate_key: record.message.duplicate_key,
            length: record.body.length(),
            shares: record.body.shares(),
        }
    }

    /// Of a settlement.
    pub(super) fn settled(record: &SettledRecord) -> Self {
        Self::Settled {
            seq: record.seq,
            segment: record.segment,
            cancelled: record.settlement == Settlement::Cancelled,
        }
    }

    /// Of a binding.
    pub(super) fn binding(record: &BindingRecord) -> Self {
        Self::Binding {
            revision: record.revision,
            first: record.first,
            user: record.user.clone(),
            key: record.key.clone(),
            removed: record.value.is_none(),
        }
    }

    /// Of a damaged record of a message, if the damage is in the body.
    pub(super) fn salvaged(payload: &[u8]) -> Option<Self> {
        let (seq, generation, message) = record::head_of(payload)?;
        Some(Self::Message {
            seq,
            generation,
            recipient: message.recipient,
            accepted_at: message.accepted_at,
            expires_at: message.expires_at,
            duplicate_key: message.duplicate_key,
            length: payload.len() as u64,
            shares: Box::default(),
        })
    }

    /// Of a record as it was read; `None` if it makes no sense.
    pub(super) fn read(kind: Kind, payload: &Bytes) -> Option<Self> {
        Some(match kind {
            Kind::Message => Self::message(&MessageRecord::decode(payload)?),
            Kind::Settled => Self::settled(&SettledRecord::decode(payload)?),
            Kind::PutBinding | Kind::RemoveBinding => {
                Self::binding(&BindingRecord::decode(kind, payload)?)
            }
            Kind::Marks => Self::Marks(MarksRecord::decode(&mut Decoder(payload))?),
            Kind::Piece | Kind::Footer | Kind::Synced => return None,
        })
    }
}

/// The payload of a footer.
pub(super) fn encode(lines: &[Line]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.count(lines.len());
    for line in lines {
        out.u64(line.position);
        out.u32(line.length);
        encode_about(&line.about, &mut out);
    }
    out.0
}

fn encode_about(about: &About, out: &mut Encoder) {
    match about {
        About::Message {
            seq,
            generation,
            recipient,
            accepted_at,
            expires_at,
            duplicate_key,
            length,
            shares,
        } => {
            out.u8(3);
            out.u64(seq.0);
            out.u32(*generation);
            out.text(recipient.as_str());
            out.u64(accepted_at.0);
            out.u64(expires_at.0);
            out.u128(*duplicate_key);
            out.u64(*length);
            out.count(shares.len());
            for share in shares {
                out.u64(share.segment);
                out.u64(share.octets);
            }
        }
        About::Settled {
            seq,
            segment,
            cancelled,
        } => {
            out.u8(1);
            out.u64(seq.0);
            out.u64(*segment);
            out.u8((*cancelled).into());
        }
        About::Binding {
            revision,
            first,
            user,
            key,
            removed,
        } => {
            out.u8(2);
            out.u64(*revision);
            out.u64(*first);
            out.text(user.as_str());
            out.text(key);
            out.u8((*removed).into());
        }
        About::Marks(record) => {
            out.u8(4);
            record.encode_to(out);
        }
    }
}

/// The lines of a footer; `None` if it makes no sense.
pub(super) fn decode(payload: &[u8]) -> Option<Vec<Line>> {
    let mut from = Decoder(payload);
    let count = from.u32()?;
    let mut lines = Vec::new();
    let mut last = record::nobody();
    for _ in 0..count {
        let (position, length) = (from.u64()?, from.u32()?);
        lines.push(Line {
            position,
            length,
            about: decode_about(&mut from, length, &mut last)?,
        });
    }
    Some(lines)
}

/// Messages of one user often stand together: they share his name, `last`.
fn decode_about(from: &mut Decoder, record_length: u32, last: &mut Identity) -> Option<About> {
    Some(match from.u8()? {
        0 => decode_message(from, Some(record_length), last)?,
        1 => About::Settled {
            seq: Seq(from.u64()?),
            segment: from.u64()?,
            cancelled: from.u8()? == 1,
        },
        2 => About::Binding {
            revision: from.u64()?,
            first: from.u64()?,
            user: record::identity(from.text()?)?,
            key: from.text()?.into(),
            removed: from.u8()? == 1,
        },
        3 => decode_message(from, None, last)?,
        4 => About::Marks(MarksRecord::decode(from)?),
        _ => return None,
    })
}

/// A message's line; `on_disk` where the line does not say how long the body is.
fn decode_message(from: &mut Decoder, on_disk: Option<u32>, last: &mut Identity) -> Option<About> {
    let (seq, generation) = (Seq(from.u64()?), from.u32()?);
    let name = from.text()?;
    if name != last.as_str() {
        *last = record::identity(name)?;
    }
    let recipient = last.clone();
    let (accepted_at, expires_at) = (UnixMillis(from.u64()?), UnixMillis(from.u64()?));
    let duplicate_key = from.u128()?;
    let said = match on_disk {
        Some(_) => None,
        None => Some(from.u64()?),
    };
    let shares = decode_shares(from)?;
    let in_pieces: u64 = shares.iter().map(|share| share.octets).sum();
    let length = said.unwrap_or(u64::from(on_disk.unwrap_or(0)) + in_pieces);
    Some(About::Message {
        seq,
        generation,
        recipient,
        accepted_at,
        expires_at,
        duplicate_key,
        length,
        shares,
    })
}

fn decode_shares(from: &mut Decoder) -> Option<Box<[Share]>> {
    let mut shares = Vec::new();
    for _ in 0..from.u32()? {
        shares.push(Share {
            segment: from.u64()?,
            octets: from.u64()?,
        });
    }
    Some(shares.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_line() -> Line {
        Line {
            position: 80,
            length: 500,
            about: About::Message {
                seq: Seq(7),
                generation: 1,
                recipient: Identity::new("bob", "im.test"),
                accepted_at: UnixMillis(1),
                expires_at: UnixMillis(2),
                duplicate_key: 3,
                length: 100_000,
                shares: Box::new([Share {
                    segment: 4,
                    octets: 100_100,
                }]),
            },
        }
    }

    #[test]
    fn a_footer_survives_its_encoding() {
        let marks = Line {
            position: 580,
            length: 48,
            about: About::Marks(MarksRecord {
                seq: Seq(7),
                devices: Box::new([8, 9]),
            }),
        };
        let lines = vec![message_line(), marks];
        assert_eq!(decode(&encode(&lines)), Some(lines));
    }

    #[test]
    fn a_footer_from_before_it_named_lengths_takes_what_lies_on_disk() {
        let mut line = message_line();
        let mut payload = encode(std::slice::from_ref(&line));
        let kind = 4 + 8 + 4;
        assert_eq!(payload[kind], 3);
        payload[kind] = 0;
        let length = payload.len() - (4 + 16) - 8;
        payload.drain(length..length + 8);
        let About::Message { length, .. } = &mut line.about else {
            unreachable!("it is one");
        };
        *length = 500 + 100_100;
        assert_eq!(decode(&payload), Some(vec![line]));
    }
}
