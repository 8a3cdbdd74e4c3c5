//! One message on its way through a chat: what has arrived, what the other side has confirmed, and
//! which chunks still wait for their answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Instant;
use crate::msrp::event::{ChunkId, InboundId, OutboundId};
use crate::participating::arrival::Content;
use crate::participating::chat::Side;
use crate::participating::receipts::Receipt;
use crate::participating::spool::{BodySize, Spool};
use crate::store::request::{DeferredMessage, SpoolId, StoreRequest};

/// What decides how a message may end.
#[derive(Debug)]
pub(super) enum Fate {
    /// Short enough to be read before it goes anywhere: it may be a receipt.
    Unread,
    /// A receipt: its author's shard says whether it goes on.
    Asking,
    /// It goes to the other side as it arrives.
    Live(OutboundId),
    /// It will be stored once it is complete.
    Custody,
    /// It is on its way to the disk.
    Storing(Arc<DeferredMessage>, BodySize),
}

/// A message that the other side has: only a REPORT may follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered {
    /// The side that has it.
    pub to: Side,
    /// How it went there.
    pub sent_as: OutboundId,
    /// How it came.
    pub inbound: InboundId,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Transit {
    /// As its sender named it for MSRP: the other side sees the same.
    pub message_id: Option<String>,
    pub content_type: String,
    /// Whether its sender wants a REPORT.
    pub success_report: bool,
    /// How long it will be, if its sender says.
    pub total: Option<u64>,
    /// A receipt that was found fit to go to the author.
    pub receipt: Option<Box<Receipt>>,
    pub fate: Fate,
    /// How it was on its way to the other side before it was to be kept.
    pub was_sent_as: Option<OutboundId>,
    /// The other side has confirmed it all the same.
    pub is_taken: bool,
    /// Its recipient wants nothing of it: its octets are not kept.
    pub discarded: bool,
    /// Its envelope may name an author who hides.
    pub may_name: bool,
    /// Whether its author may send it, and how many of its octets have been counted, is still to be said.
    pub unjudged: bool,
    /// Octets it may have at most, however many it was said to have.
    pub most: u64,
    /// Octets that have been counted for its author; `None`: he is not measured.
    pub counted: Option<u64>,
    pub spool: Spool,
    /// The first octets, for a look at the envelope of a body that lies in the store.
    pub head: Vec<u8>,
    /// So many of them have been judged: they stay as they are.
    pub judged: usize,
    pub covered: Covered,
    /// All octets have come: how many.
    pub complete: Option<u64>,
    pub unanswered: VecDeque<(ChunkId, u64)>,
    /// The other side has confirmed up to here.
    pub confirmed: u64,
    /// The piece from this offset has been asked of the store for the other side.
    pub reading: Option<u64>,
    /// A sync covers up to here; `None` when none is under way.
    pub syncing: Option<u64>,
    /// Without progress by then the other side counts as lost (decision 1).
    pub deadline: Instant,
}

/// Octets of the envelope that are kept for a look.
pub(super) const HEAD: usize = 16 * 1024;

impl Transit {
    /// Nothing has arrived yet.
    pub fn new(content_type: String, fate: Fate, deadline: Instant, spool: Spool) -> Self {
        Self {
            message_id: None,
            content_type,
            success_report: false,
            total: None,
            receipt: None,
            was_sent_as: None,
            is_taken: false,
            fate,
            discarded: false,
            may_name: false,
            unjudged: false,
            most: u64::MAX,
            counted: None,
            spool,
            head: Vec::new(),
            judged: 0,
            covered: Covered::default(),
            complete: None,
            unanswered: VecDeque::new(),
            confirmed: 0,
            reading: None,
            syncing: None,
            deadline,
        }
    }

    /// The first octets, as far as they are here without a gap.
    pub fn first(&self) -> &[u8] {
        let prefix = usize::try_from(self.covered.prefix()).unwrap_or(usize::MAX);
        self.head.get(..prefix).unwrap_or(&self.head)
    }

    /// Whether nothing holds it back: nothing in its envelope names an author who hides, and he may send
    /// it. Until then nothing of it goes on.
    pub fn is_cleared(&self) -> bool {
        !self.may_name && !self.unjudged
    }

    /// What has come of the head has been found fit to go on.
    pub fn pass_judgement(&mut self) {
        (self.may_name, self.unjudged) = (false, false);
        self.judged = self.first().len();
    }

    /// Whether octets would change what has been judged. What comes later wins (RFC 4975 §7.3.1), and nobody
    /// would look at it again.
    pub fn changes_judged(&self, offset: u64, octets: &[u8]) -> bool {
        let judged = self.head.get(..self.judged).unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let known = judged.get(start..).unwrap_or_default();
        known.iter().zip(octets).any(|(old, new)| old != new)
    }

    /// Takes octets in, of which `most` may stay in memory; returns what the store must be told.
    pub fn write(
        &mut self,
        offset: u64,
        octets: Bytes,
        most: u64,
        new_id: impl FnOnce() -> SpoolId,
    ) -> Vec<StoreRequest> {
        self.keep_head(offset, &octets);
        self.covered
            .add(offset, offset.saturating_add(octets.len() as u64));
        if self.discarded {
            return Vec::new();
        }
        self.spool.write(offset, octets, most, new_id)
    }

    /// Chunks come in any order and overlap; what comes later wins here as well.
    fn keep_head(&mut self, offset: u64, octets: &[u8]) {
        let Some(start) = usize::try_from(offset).ok().filter(|start| *start < HEAD) else {
            return;
        };
        let end = start.saturating_add(octets.len()).min(HEAD);
        if self.head.len() < end {
            self.head.resize(end, 0);
        }
        self.head[start..end].copy_from_slice(&octets[..end - start]);
    }

    /// What is complete is to be kept after all: receipts pass a silent block (decision 23). False if it
    /// does not lie whole in the head.
    pub fn restore(&mut self) -> bool {
        let Some(length) = self.complete.and_then(|it| usize::try_from(it).ok()) else {
            return false;
        };
        let Some(octets) = self.head.get(..length) else {
            return false;
        };
        self.discarded = false;
        self.spool.keep(octets);
        true
    }

    /// The way it goes out, while it does.
    pub fn outbound(&self) -> Option<OutboundId> {
        match self.fate {
            Fate::Live(out) => Some(out),
            Fate::Unread | Fate::Asking | Fate::Custody | Fate::Storing(..) => None,
        }
    }

    /// Whether it is a disposition notification, as far as one can see yet.
    pub fn is_notification(&self) -> bool {
        let content = Content::read(&self.content_type, &self.head);
        content.is_ok_and(|content| content.is_notification)
    }

    /// Whether something can be sent on now: octets from `offset`, or word that there are no more. What
    /// is still arriving does not hold up what came after it.
    pub fn has_more_from(&self, offset: u64) -> bool {
        self.is_cleared() && (self.covered.prefix() > offset || self.complete == Some(offset))
    }

    /// Whether the other side may still take it.
    pub fn is_live(&self) -> bool {
        matches!(self.fate, Fate::Live(_))
    }
}

/// Which octets have arrived: those from the start without a gap, and islands behind.
#[derive(Debug, Default)]
pub(super) struct Covered {
    prefix: u64,
    islands: BTreeMap<u64, u64>,
}

impl Covered {
    /// Octets `start..end` are here. The session bounds how many islands there can be.
    pub fn add(&mut self, start: u64, end: u64) {
        if start > self.prefix {
            let island = self.islands.entry(start).or_default();
            *island = (*island).max(end);
            return;
        }
        self.prefix = self.prefix.max(end);
        while let Some((start, end)) = self.islands.first_key_value() {
            if *start > self.prefix {
                break;
            }
            self.prefix = self.prefix.max(*end);
            self.islands.pop_first();
        }
    }

    /// The octets from the start without a gap.
    pub fn prefix(&self) -> u64 {
        self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory::{Account, Kind};

    #[test]
    fn the_head_is_whole_whatever_the_order_of_chunks() {
        let fate = Fate::Custody;
        let spool = Spool::new(Account::detached().hold(Kind::Spools, 0));
        let content_type = "message/cpim".to_owned();
        let mut transit = Transit::new(content_type, fate, Instant::default(), spool);
        let mut write = |offset, octets: &'static [u8]| {
            let none = || panic!("stays in memory");
            transit.write(offset, Bytes::from_static(octets), 10_000, none);
        };
        write(3, b"defg");
        write(0, b"abcX");
        write(3, b"d");
        assert_eq!(transit.head, b"abcdefg");
    }

    #[test]
    fn what_has_been_judged_is_repeated_but_not_changed() {
        let spool = Spool::new(Account::detached().hold(Kind::Spools, 0));
        let content_type = "message/cpim".to_owned();
        let mut transit = Transit::new(content_type, Fate::Custody, Instant::default(), spool);
        let none = || panic!("stays in memory");
        transit.write(0, Bytes::from_static(b"abcdef"), 10_000, none);
        // Behind a gap: not judged.
        transit.write(8, Bytes::from_static(b"ij"), 10_000, none);
        assert!(!transit.changes_judged(0, b"xyz"), "nothing is judged yet");
        transit.pass_judgement();
        assert!(transit.is_cleared());
        for (offset, octets) in [(0, &b"abcdef"[..]), (4, b"efgh"), (6, b"xx"), (8, b"xx")] {
            assert!(!transit.changes_judged(offset, octets), "{offset}");
        }
        for (offset, octets) in [(0, &b"x"[..]), (5, b"xgh"), (0, b"abcdeX")] {
            assert!(transit.changes_judged(offset, octets), "{offset}");
        }
        assert!(!transit.changes_judged(u64::MAX, b"x"));
    }

    #[test]
    fn islands_join_the_prefix_when_the_gap_is_filled() {
        let mut covered = Covered::default();
        covered.add(10, 20);
        covered.add(30, 40);
        assert_eq!(covered.prefix(), 0);
        covered.add(0, 12);
        assert_eq!(covered.prefix(), 20);
        covered.add(18, 30);
        assert_eq!(covered.prefix(), 40);
    }
}
