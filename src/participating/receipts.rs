//! Which notifications have reached their author: a message that several devices got is reported by
//! each of them, and the author hears of it once (RFC 5438 §7.2.1.2 wants one of a kind).
//!
//! The table lives on the author's shard, where all notifications for him meet. What it says is a
//! claim: whoever passes a notification on claims it first, and gives the claim back if the author did
//! not get it after all.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::cpim::Envelope;
use crate::identity::Identity;
use crate::imdn::{DispositionNotification, Kind, Status};
use crate::participating::arrival::fold128;

/// How long a notification is remembered: as long as one is kept for an author who is away.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Notifications remembered; beyond it the oldest are forgotten early, and a second one may pass.
const MOST: usize = 262_144;

/// What a notification reports, as far as it tells two of them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who wrote the message it is about.
    pub author: Identity,
    /// Whose devices got it.
    pub recipient: Identity,
    /// `imdn.Message-ID` of the message.
    pub message_id: String,
    /// Delivery, display or processing.
    pub kind: Kind,
    /// What became of it.
    pub status: Status,
}

impl Receipt {
    /// The notification in a message/cpim body from `recipient` to `author`; `None` if it is none that
    /// can be read.
    pub fn read(body: &[u8], author: &Identity, recipient: &Identity) -> Option<Self> {
        let envelope = Envelope::parse(body).ok()?;
        if !crate::imdn::is_notification(envelope.content_type()) {
            return None;
        }
        let notification = DispositionNotification::parse(body.get(envelope.content())?).ok()?;
        Some(Self {
            author: author.clone(),
            recipient: recipient.clone(),
            message_id: notification.message_id,
            kind: notification.kind,
            status: notification.status,
        })
    }
}

/// The notifications that have passed, bounded in number and time.
#[derive(Debug)]
pub struct Receipts {
    passed: HashMap<u128, Status, foldhash::fast::RandomState>,
    order: VecDeque<(Instant, u128)>,
    most: usize,
}

impl Default for Receipts {
    fn default() -> Self {
        Self::with_room_for(MOST)
    }
}

impl Receipts {
    fn with_room_for(most: usize) -> Self {
        Self {
            passed: HashMap::default(),
            order: VecDeque::new(),
            most,
        }
    }

    /// Whether the author has yet to hear this; from here on he counts as having heard it.
    pub fn claim(&mut self, receipt: &Receipt, now: Now) -> bool {
        self.forget_old(now);
        let key = key_of(receipt);
        match self.passed.insert(key, receipt.status) {
            None => {
                self.order.push_back((now.instant + REMEMBERED, key));
                true
            }
            Some(before) if is_news(before, receipt.status) => true,
            Some(before) => {
                self.passed.insert(key, before);
                false
            }
        }
    }

    /// The author did not get it: the next one of its kind may pass.
    pub fn give_back(&mut self, receipt: &Receipt) {
        let key = key_of(receipt);
        if self.passed.get(&key) == Some(&receipt.status) {
            self.passed.remove(&key);
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.passed.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.passed.is_empty()
    }

    fn forget_old(&mut self, now: Now) {
        while let Some((until, oldest)) = self.order.front().copied() {
            if until > now.instant && self.order.len() < self.most {
                return;
            }
            self.order.pop_front();
            self.passed.remove(&oldest);
        }
    }
}

fn key_of(receipt: &Receipt) -> u128 {
    fold128(&[
        receipt.author.as_str().as_bytes(),
        receipt.recipient.as_str().as_bytes(),
        receipt.message_id.as_bytes(),
        &[receipt.kind as u8],
    ])
}

/// Whether an author who heard `before` learns something from `status` of the same kind: one device
/// got what another could not, or the message went on. A failure after a success is of no interest.
fn is_news(before: Status, status: Status) -> bool {
    let is_failure = |status| matches!(status, Status::Failed | Status::Forbidden | Status::Error);
    match before {
        Status::Delivered | Status::Displayed => false,
        _ if is_failure(before) => !is_failure(status),
        _ => status != before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(message_id: &str, kind: Kind, status: Status) -> Receipt {
        Receipt {
            author: Identity::new("alice", "im.test"),
            recipient: Identity::new("bob", "im.test"),
            message_id: message_id.to_owned(),
            kind,
            status,
        }
    }

    fn delivered(message_id: &str) -> Receipt {
        receipt(message_id, Kind::Delivery, Status::Delivered)
    }

    #[test]
    fn of_two_devices_that_report_a_delivery_the_author_hears_one() {
        let mut receipts = Receipts::default();
        assert!(receipts.claim(&delivered("m1"), Now::default()));
        assert!(!receipts.claim(&delivered("m1"), Now::default()));
        assert!(receipts.claim(&delivered("m2"), Now::default()));
    }

    #[test]
    fn each_kind_passes_once() {
        let mut receipts = Receipts::default();
        let displayed = receipt("m1", Kind::Display, Status::Displayed);
        assert!(receipts.claim(&delivered("m1"), Now::default()));
        assert!(receipts.claim(&displayed, Now::default()));
        assert!(!receipts.claim(&displayed, Now::default()));
        let stored = receipt("m1", Kind::Processing, Status::Stored);
        let processed = receipt("m1", Kind::Processing, Status::Processed);
        assert!(receipts.claim(&stored, Now::default()));
        assert!(receipts.claim(&processed, Now::default()));
    }

    #[test]
    fn what_one_device_could_not_show_another_may_but_not_the_other_way_round() {
        let mut receipts = Receipts::default();
        let failed = |id| receipt(id, Kind::Delivery, Status::Failed);
        assert!(receipts.claim(&failed("m1"), Now::default()));
        assert!(!receipts.claim(
            &receipt("m1", Kind::Delivery, Status::Error),
            Now::default()
        ));
        assert!(receipts.claim(&delivered("m1"), Now::default()));
        assert!(!receipts.claim(&failed("m1"), Now::default()));
        assert!(!receipts.claim(&delivered("m1"), Now::default()));
    }

    #[test]
    fn one_that_did_not_reach_its_author_may_come_again() {
        let mut receipts = Receipts::default();
        assert!(receipts.claim(&delivered("m1"), Now::default()));
        receipts.give_back(&delivered("m1"));
        assert!(receipts.claim(&delivered("m1"), Now::default()));
    }

    #[test]
    fn they_are_forgotten_after_a_week_and_when_there_are_too_many() {
        let mut receipts = Receipts::with_room_for(2);
        assert!(receipts.claim(&delivered("m1"), Now::default()));
        assert!(receipts.claim(&delivered("m1"), Now::default().plus(REMEMBERED)));
        for id in ["m2", "m3", "m4"] {
            assert!(receipts.claim(&delivered(id), Now::default()));
        }
        assert_eq!(receipts.len(), 2);
    }

    #[test]
    fn a_notification_is_read_from_its_envelope() {
        let document = DispositionNotification {
            message_id: "m1".to_owned(),
            date_time: None,
            recipient_uri: None,
            kind: Kind::Delivery,
            status: Status::Delivered,
        };
        let body = crate::cpim::wrap_notification(&document, "<sip:b@h>", "<sip:a@h>", "d", "n1");
        let (alice, bob) = (delivered("").author, delivered("").recipient);
        let read = Receipt::read(body.as_ref(), &alice, &bob);
        assert_eq!(read, Some(delivered("m1")));
        assert_eq!(Receipt::read(b"hello", &alice, &bob), None);
    }
}
