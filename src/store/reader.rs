//! The thread that reads: queues, messages and bodies, so that a shard never waits for a disk.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;

use super::log::{LogJob, Rewrite};
use super::log_queue::LogSender;
use super::manifest::{Extent, Manifest, Piece, Place};
use super::manifests::Manifests;
use super::record::{self, Kind, MessageRecord, PIECE_HEADER, RecordBody};
use super::request::{
    ConversationKey, DeferredMessage, Held, Refusal, Seq, StoreEvent, StoreToken, Together,
};
use super::segment::{Segment, Unreadable};
use super::shared::Shared;
use super::spool::{BUFFER, IN_MEMORY, Spool};
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// Octets of one answer to `Read`, at most.
const PIECE_LIMIT: usize = 1024 * 1024;

/// A body that is moved so often while it is read is read again by the shard.
const ATTEMPTS: usize = 8;

/// A reading request.
pub(super) struct ReadJob {
    pub(super) shard: u16,
    pub(super) token: StoreToken,
    pub(super) what: What,
}

pub(super) enum What {
    Load {
        recipient: Identity,
        after: Option<Seq>,
        limit: usize,
    },
    Fetch {
        recipient: Identity,
        seq: Seq,
        together: usize,
    },
    Body {
        recipient: Identity,
        seq: Seq,
        offset: u64,
        length: usize,
    },
    Redate {
        recipient: Identity,
        seq: Seq,
        expires_at: UnixMillis,
    },
    Users {
        after: Option<Identity>,
        limit: usize,
    },
    Due {
        now: UnixMillis,
        limit: usize,
    },
    Close,
}

/// Serves until closed.
pub(super) fn run(shared: &Shared, jobs: &Receiver<ReadJob>, log: &LogSender) {
    let mut manifests = Manifests::default();
    for job in jobs {
        let Some(desk) = shared.desks.get(usize::from(job.shard)) else {
            continue;
        };
        let what = match job.what {
            What::Close => return,
            What::Redate {
                recipient,
                seq,
                expires_at,
            } => {
                let asker = (job.shard, job.token);
                if let Err(refusal) = redate(shared, log, asker, (&recipient, seq), expires_at) {
                    desk.refuse_write(0, job.token, refusal);
                }
                continue;
            }
            what => what,
        };
        match answer(shared, &mut manifests, job.shard, job.token, what) {
            Ok(event) => desk.read(event),
            Err(refusal) => desk.refuse_read(job.token, refusal),
        }
    }
}

fn answer(
    shared: &Shared,
    manifests: &mut Manifests,
    shard: u16,
    token: StoreToken,
    what: What,
) -> Result<StoreEvent, Refusal> {
    match what {
        What::Load {
            recipient,
            after,
            limit,
        } => Ok(load(shared, token, &recipient, after, limit)),
        What::Fetch {
            recipient,
            seq,
            together,
        } => fetch(shared, token, &recipient, seq, together),
        What::Body {
            recipient,
            seq,
            offset,
            length,
        } => {
            let octets = read_body(shared, manifests, (&recipient, seq), offset, length)?;
            Ok(StoreEvent::Piece { token, octets })
        }
        What::Due { now, limit } => {
            let due = shared.index().due(shard, now, limit);
            let marked = |seq: &Seq| !shared.index().marks.devices(*seq).is_empty();
            let delivered = due.iter().map(|(_, seq)| *seq).filter(marked).collect();
            let due = due
                .into_iter()
                .filter_map(|(recipient, seq)| {
                    let record = record_of(shared, &recipient, seq).ok()?;
                    Some((seq, record.message))
                })
                .collect();
            Ok(StoreEvent::Due {
                token,
                due,
                delivered,
            })
        }
        What::Users { after, limit } => {
            let wanted = limit.saturating_add(1);
            let mut users = shared.index().users(shard, after.as_ref(), wanted);
            let more = users.len() > limit;
            users.truncate(limit);
            Ok(StoreEvent::Users { token, users, more })
        }
        What::Redate { .. } | What::Close => Err(Refusal::Unknown),
    }
}

/// Hands the message's record with another date to the log, which answers.
fn redate(
    shared: &Shared,
    log: &LogSender,
    (shard, token): (u16, StoreToken),
    (recipient, seq): (&Identity, Seq),
    expires_at: UnixMillis,
) -> Result<(), Refusal> {
    let (from, mut record) = current(shared, recipient, seq)?;
    record.generation += 1;
    Arc::make_mut(&mut record.message).expires_at = expires_at;
    let rewrite = Rewrite {
        shard,
        token,
        from,
        record: Box::new(record),
    };
    let sent = log.send(LogJob::Rewrite(rewrite));
    sent.map_err(|_| Refusal::Poisoned)
}

fn load(
    shared: &Shared,
    token: StoreToken,
    recipient: &Identity,
    after: Option<Seq>,
    limit: usize,
) -> StoreEvent {
    let mut waiting = shared
        .index()
        .queue(recipient, after, limit.saturating_add(1));
    let more = waiting.len() > limit;
    waiting.truncate(limit);
    let held = waiting
        .into_iter()
        .filter_map(|seq| held(shared, recipient, seq))
        .collect();
    StoreEvent::Loaded { token, held, more }
}

fn held(shared: &Shared, recipient: &Identity, seq: Seq) -> Option<Held> {
    let record = record_of(shared, recipient, seq).ok()?;
    let message = Arc::unwrap_or_clone(record.message);
    Some(Held {
        seq,
        kind: message.kind,
        conversation: ConversationKey {
            author: message.author,
            conversation: message.conversation.into(),
        },
        message_id: message.message_id.into(),
        length: record.body.length(),
        expires_at: message.expires_at,
        marks: shared.index().marks.devices(seq),
    })
}

fn fetch(
    shared: &Shared,
    token: StoreToken,
    recipient: &Identity,
    seq: Seq,
    together: usize,
) -> Result<StoreEvent, Refusal> {
    let record = record_of(shared, recipient, seq)?;
    let together = following(shared, &record.message, seq, together);
    let delivered = !shared.index().marks.devices(seq).is_empty();
    let length = record.body.length();
    let body = match record.body {
        RecordBody::Inline(octets) => Some(octets),
        RecordBody::Large(_) => None,
    };
    Ok(StoreEvent::Fetched {
        token,
        message: record.message,
        body,
        length,
        delivered,
        together,
    })
}

/// At most `most` messages that follow one, up to the first of another kind and as far as they are
/// short.
fn following(shared: &Shared, first: &DeferredMessage, after: Seq, most: usize) -> Vec<Together> {
    if most == 0 {
        return Vec::new();
    }
    let recipient = &first.recipient;
    let next = shared.index().queue(recipient, Some(after), most);
    let mut room = BUFFER;
    let read = next.into_iter().map_while(|seq| {
        let record = record_of(shared, recipient, seq).ok()?;
        let RecordBody::Inline(body) = record.body else {
            return None;
        };
        let message = record.message;
        room = room.checked_sub(body.len() + message.field_octets())?;
        if message.kind != first.kind {
            return None;
        }
        Some(Together { seq, message, body })
    });
    read.collect()
}

fn record_of(shared: &Shared, recipient: &Identity, seq: Seq) -> Result<MessageRecord, Refusal> {
    current(shared, recipient, seq).map(|(_, record)| record)
}

/// The record of a message in custody and its place. A damaged one is reported.
pub(super) fn current(
    shared: &Shared,
    recipient: &Identity,
    seq: Seq,
) -> Result<(Place, MessageRecord), Refusal> {
    let (segment, place) = {
        let mut index = shared.index();
        let entry = index.entry(recipient, seq).ok_or(Refusal::Unknown)?;
        let segment = index.log.segment(entry.place.segment);
        (segment.ok_or(Refusal::Unknown)?, entry.place)
    };
    match read_message(&segment, place) {
        Ok(record) if record.seq == seq && record.message.recipient == *recipient => {
            Ok((place, record))
        }
        Ok(_) | Err(Unreadable::Damaged) => {
            let head = salvage(&segment, place, recipient, seq);
            shared.ruined(recipient, seq, &segment, place.range(), head);
            Err(Refusal::Damaged)
        }
        Err(Unreadable::Failed(error)) => {
            tracing::error!(file = %segment.path.display(), %error, "a record cannot be read");
            Err(Refusal::Damaged)
        }
    }
}

/// What a damaged record still says for certain of its message.
pub(super) fn salvage(
    segment: &Segment,
    place: Place,
    recipient: &Identity,
    seq: Seq,
) -> Option<Arc<DeferredMessage>> {
    let payload = segment.read_raw(place.position, place.length).ok()?;
    let (found, _, message) = record::head_of(&payload)?;
    (found == seq && message.recipient == *recipient).then(|| Arc::new(message))
}

/// Reads and checks a message's record.
pub(super) fn read_message(segment: &Segment, place: Place) -> Result<MessageRecord, Unreadable> {
    match segment.read(place.position, place.length)? {
        (Kind::Message, payload) => MessageRecord::decode(&payload).ok_or(Unreadable::Damaged),
        _ => Err(Unreadable::Damaged),
    }
}

fn read_body(
    shared: &Shared,
    manifests: &mut Manifests,
    source: (&Identity, Seq),
    offset: u64,
    length: usize,
) -> Result<Bytes, Refusal> {
    let length = length.min(PIECE_LIMIT);
    let (recipient, seq) = source;
    for _ in 0..ATTEMPTS {
        let entry = shared
            .index()
            .entry(recipient, seq)
            .ok_or(Refusal::Unknown)?;
        let manifest = match manifests.known(seq, entry.place) {
            Some(manifest) => manifest,
            None => match current(shared, recipient, seq)? {
                (_, record) if record.body.length() == 0 => return Ok(Bytes::new()),
                (place, record) => match record.body {
                    RecordBody::Inline(octets) => return Ok(part(&octets, offset, length)),
                    RecordBody::Large(manifest) => manifests.remember(seq, place, manifest),
                },
            },
        };
        // Opened together, while nothing moves: what is open stays readable.
        let segments = {
            let mut index = shared.index();
            let now = index.entry(recipient, seq).ok_or(Refusal::Unknown)?;
            if manifests.known(seq, now.place).is_none() {
                continue;
            }
            let extents = manifest.overlapping(offset, length as u64).iter();
            let segments = extents.map(|extent| index.bodies.segment(extent.place.segment));
            segments.flatten().collect::<Vec<_>>()
        };
        let octets = read_extents(&manifest, offset, length, |place| {
            let mut open = segments.iter();
            let segment = open.find(|segment| segment.number == place.segment);
            read_piece(shared, segment.ok_or(Refusal::Damaged)?, place)
        });
        if octets.is_err() {
            ruined_body(shared, recipient, seq);
        }
        return octets;
    }
    Err(Refusal::Damaged)
}

/// A piece of a body is damaged, the record that says where it lies is not.
fn ruined_body(shared: &Shared, recipient: &Identity, seq: Seq) {
    let Ok((place, record)) = current(shared, recipient, seq) else {
        return;
    };
    let segment = shared.index().log.segment(place.segment);
    if let Some(segment) = segment {
        let message = Some(record.message);
        shared.ruined(recipient, seq, &segment, place.range(), message);
    }
}

fn part(octets: &Bytes, offset: u64, length: usize) -> Bytes {
    let from = usize::try_from(offset).map_or(octets.len(), |from| from.min(octets.len()));
    let to = from.saturating_add(length).min(octets.len());
    octets.slice(from..to)
}

/// Octets of a spool that is still arriving, as many as lie before the first hole.
pub(super) fn read_spool(
    shared: &Shared,
    spool: &Spool,
    offset: u64,
    length: usize,
) -> Result<Bytes, Refusal> {
    let (pieces, in_memory) = spool.layers();
    let manifest = Manifest::flatten(&pieces, reach_of(&pieces)).unwrap_or_default();
    read_extents(&manifest, offset, length, |place| {
        match place.segment == IN_MEMORY {
            true => Ok(in_memory.clone()),
            false => {
                // Nobody drops a segment with pieces of a spool.
                let segment = shared.index().bodies.segment(place.segment);
                let segment = segment.ok_or(Refusal::Damaged)?;
                read_piece(shared, &segment, place)
            }
        }
    })
}

/// How far pieces reach from the first octet without a hole.
fn reach_of(pieces: &[Piece]) -> u64 {
    let mut runs: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.offset, piece.offset + u64::from(piece.length)))
        .collect();
    runs.sort_unstable();
    let mut reach = 0;
    for (start, end) in runs {
        if start > reach {
            break;
        }
        reach = reach.max(end);
    }
    reach
}

pub(super) fn read_extents(
    manifest: &Manifest,
    offset: u64,
    length: usize,
    read: impl Fn(Place) -> Result<Bytes, Refusal>,
) -> Result<Bytes, Refusal> {
    let length = length.min(PIECE_LIMIT) as u64;
    let length = length.min(manifest.length.saturating_sub(offset));
    let mut octets = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    for extent in manifest.overlapping(offset, length) {
        let piece = read(extent.place)?;
        let run = run_of(&piece, extent, offset, length).ok_or(Refusal::Damaged)?;
        octets.extend_from_slice(run);
    }
    Ok(octets.into())
}

/// The octets of a piece that an extent has of the range asked for.
fn run_of<'a>(piece: &'a [u8], extent: &Extent, offset: u64, length: u64) -> Option<&'a [u8]> {
    let start = offset.max(extent.offset);
    let end = (offset + length).min(extent.offset + u64::from(extent.length));
    let skip = u64::from(extent.skip) + (start - extent.offset);
    let from = PIECE_HEADER + usize::try_from(skip).ok()?;
    let to = from + usize::try_from(end.checked_sub(start)?).ok()?;
    piece.get(from..to)
}

fn read_piece(shared: &Shared, segment: &Segment, place: Place) -> Result<Bytes, Refusal> {
    match segment.read(place.position, place.length) {
        Ok((Kind::Piece, payload)) => Ok(payload),
        Ok(_) | Err(Unreadable::Damaged) => {
            shared.damages.report(segment, place.range());
            Err(Refusal::Damaged)
        }
        Err(Unreadable::Failed(error)) => {
            tracing::error!(file = %segment.path.display(), %error, "a body cannot be read");
            Err(Refusal::Damaged)
        }
    }
}
