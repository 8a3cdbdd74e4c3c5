//! The index as all lines of all segments tell it: the second half of a start.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::deferred::{DuplicateKey, Recovered, RecoveredBinding};
use super::footer::About;
use super::index::{BindingEntry, Entry, Index};
use super::manifest::{Manifest, Place};
use super::reader;
use super::record::{BindingRecord, RecordBody};
use super::recover::Contents;
use super::request::Seq;
use super::segment::Segment;
use super::shared::Damages;
use crate::clock::UnixMillis;
use crate::identity::Identity;

/// How long a retransmission may come after the request (RFC 3261 §17.1.2.2: 64 × T1).
const DUPLICATE_WINDOW: std::time::Duration = std::time::Duration::from_secs(32);

/// What is known of one message before it is known whether it is live.
struct Candidate<'a> {
    entry: Entry,
    recipient: &'a Identity,
    segment: &'a Arc<Segment>,
    large: bool,
}

/// Fills the index from all lines of all segments.
pub(super) fn fill(
    index: &mut Index,
    contents: &[Contents],
    now: UnixMillis,
    damages: &Damages,
    next_seq: &mut u64,
) -> Recovered {
    let mut recovered = Recovered::default();
    let settled = settlements(index, contents);
    let mut messages: HashMap<Seq, Candidate, RandomState> = HashMap::default();
    for found in contents {
        for line in &found.lines {
            let place = Place {
                segment: found.segment.number,
                position: line.position,
                length: line.length,
            };
            match &line.about {
                About::Message {
                    seq,
                    generation,
                    recipient,
                    accepted_at,
                    expires_at,
                    duplicate_key,
                    large,
                } => {
                    *next_seq = (*next_seq).max(seq.0 + 1);
                    let cancelled = settled.get(seq).copied().unwrap_or(false);
                    if now.since(*accepted_at) <= DUPLICATE_WINDOW && !cancelled {
                        recovered.duplicate_keys.push(DuplicateKey {
                            recipient: recipient.clone(),
                            key: *duplicate_key,
                            accepted_at: *accepted_at,
                        });
                    }
                    let candidate = Candidate {
                        entry: Entry {
                            place,
                            generation: *generation,
                            expires_at: *expires_at,
                        },
                        recipient,
                        segment: &found.segment,
                        large: *large,
                    };
                    add_candidate(index, &mut messages, *seq, candidate);
                }
                About::Binding {
                    revision,
                    first,
                    user,
                    key,
                    removed,
                } => {
                    *next_seq = (*next_seq).max(revision + 1);
                    let entry = BindingEntry {
                        place,
                        revision: *revision,
                        first: *first,
                        removed: *removed,
                    };
                    index.bind(user.clone(), key.clone(), entry);
                }
                About::Settled { .. } => {}
            }
        }
    }
    for (seq, candidate) in messages {
        if !settled.contains_key(&seq) {
            restore(index, seq, &candidate, damages);
        }
    }
    recovered.bindings = bindings(index, damages);
    recovered.messages = index.messages();
    recovered
}

/// Which messages were settled, and whether by a cancellation.
fn settlements(index: &mut Index, contents: &[Contents]) -> HashMap<Seq, bool, RandomState> {
    let mut settled = HashMap::default();
    for found in contents {
        for line in &found.lines {
            if let About::Settled {
                seq,
                segment,
                cancelled,
            } = line.about
            {
                settled.insert(seq, cancelled);
                let place = Place {
                    segment: found.segment.number,
                    position: line.position,
                    length: line.length,
                };
                index.settled(segment, place);
            }
        }
    }
    settled
}

/// Keeps the newest record of a message, and remembers that there are several.
fn add_candidate<'a>(
    index: &mut Index,
    messages: &mut HashMap<Seq, Candidate<'a>, RandomState>,
    seq: Seq,
    candidate: Candidate<'a>,
) {
    let Some(known) = messages.get_mut(&seq) else {
        messages.insert(seq, candidate);
        return;
    };
    let segments = index.twice.entry(seq).or_default();
    segments.push(known.entry.place.segment);
    segments.push(candidate.entry.place.segment);
    let rank = |c: &Candidate| (c.entry.generation, c.entry.place);
    if rank(&candidate) > rank(known) {
        *known = candidate;
    }
}

fn restore(index: &mut Index, seq: Seq, found: &Candidate, damages: &Damages) {
    let manifest = match found.large {
        false => None,
        true => match reader::read_message(found.segment, found.entry.place) {
            Ok(record) => match record.body {
                RecordBody::Large(manifest) => Some(manifest),
                RecordBody::Inline(_) => None,
            },
            Err(_) => {
                damages.report(found.segment, found.entry.place.range());
                return;
            }
        },
    };
    for place in manifest.iter().flat_map(Manifest::places) {
        index.bodies.keep(place);
    }
    index.put(found.recipient, seq, found.entry, manifest.map(Arc::new));
}

fn bindings(index: &Index, damages: &Damages) -> Vec<RecoveredBinding> {
    let live = index.bindings.iter().filter(|(_, entry)| !entry.removed);
    live.filter_map(|((user, key), entry)| {
        let segment = index.log.segment(entry.place.segment)?;
        let read = segment.read(entry.place.position, entry.place.length);
        let record = match read {
            Ok((kind, payload)) => BindingRecord::decode(kind, &payload),
            Err(_) => None,
        };
        let Some(value) = record.and_then(|record| record.value) else {
            damages.report(&segment, entry.place.range());
            return None;
        };
        Some(RecoveredBinding {
            user: user.clone(),
            key: key.clone(),
            value,
        })
    })
    .collect()
}
