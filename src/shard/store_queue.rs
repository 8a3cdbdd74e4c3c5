//! Requests on their way to the store.
//!
//! The store takes a request only with a credit. The core counts its credits, so requests rarely
//! wait here; but a settlement or an append must not be lost when it does, nor overtaken. Where a lost session
//! leaves a great many octets to be appended, they have a line of their own: small requests do not wait for them.

use std::collections::VecDeque;

use super::bulk::Bulk;
use crate::store::StoreClient;
use crate::store::request::{Body, Refusal, StoreEvent, StoreRequest};

/// The store as a shard sees it.
pub trait StoreGate {
    /// Hands a request over, or gives it back if there is no credit for it; never waits.
    fn try_submit(&self, request: StoreRequest) -> Result<(), StoreRequest>;

    /// Octets of what was handed over and is not done.
    fn octets(&self) -> usize;
}

impl StoreGate for StoreClient {
    fn try_submit(&self, request: StoreRequest) -> Result<(), StoreRequest> {
        Self::try_submit(self, request)
    }

    fn octets(&self) -> usize {
        Self::octets(self)
    }
}

/// A store's gate and what waits before it.
#[derive(Debug)]
pub struct StoreQueue<G> {
    gate: G,
    waiting: VecDeque<StoreRequest>,
    bulk: Bulk,
    /// Octets of bodies among both.
    octets: usize,
}

impl<G: StoreGate> StoreQueue<G> {
    /// With nothing waiting.
    pub fn new(gate: G) -> Self {
        Self {
            gate,
            waiting: VecDeque::new(),
            bulk: Bulk::default(),
            octets: 0,
        }
    }

    /// Hands a request over or lets it wait behind the others. A message without credit is refused
    /// instead: its sender can be told, and try again.
    pub fn submit(&mut self, request: StoreRequest) -> Option<StoreEvent> {
        if !self.is_empty() {
            // What has waited takes the room that there is by now.
            self.flush();
        }
        // What stands in the first line may belong before it in the second.
        if !self.waiting.is_empty() || self.bulk.holds_back(&request) {
            self.wait(request);
            return None;
        }
        match self.gate.try_submit(request) {
            Ok(()) => None,
            Err(StoreRequest::Put { token, .. }) => Some(StoreEvent::Refused {
                token,
                refusal: Refusal::Full,
            }),
            Err(request) => {
                self.wait(request);
                None
            }
        }
    }

    fn wait(&mut self, request: StoreRequest) {
        self.octets += octets_of(&request);
        let is_bulk = matches!(request, StoreRequest::Append { .. });
        if self.waiting.is_empty() && (is_bulk || self.bulk.holds_back(&request)) {
            self.bulk.push(request);
        } else {
            self.waiting.push_back(request);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.bulk.len()
    }

    /// How many wait, not counting octets of spools and what stands behind them.
    pub fn len_of_small(&self) -> usize {
        self.waiting.len()
    }

    /// Octets of bodies among what waits.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Memory in use, about, here and in the store.
    pub fn footprint(&self) -> usize {
        let entries = self.waiting.capacity() * size_of::<StoreRequest>();
        self.gate.octets() + self.octets + entries + self.bulk.footprint()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands over what waits as far as there are credits.
    pub fn flush(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            if self.bulk.holds_back(&request) {
                self.bulk.push(request);
            } else if let Err(request) = self.hand_over(request) {
                match request {
                    StoreRequest::Append { .. } => self.bulk.push(request),
                    request => return self.waiting.push_front(request),
                }
            }
        }
        while let Some(request) = self.bulk.pop() {
            if let Err(request) = self.hand_over(request) {
                return self.bulk.push_front(request);
            }
        }
    }

    fn hand_over(&mut self, request: StoreRequest) -> Result<(), StoreRequest> {
        let octets = octets_of(&request);
        self.gate.try_submit(request)?;
        self.octets -= octets;
        Ok(())
    }
}

/// Octets of a message that a request holds.
fn octets_of(request: &StoreRequest) -> usize {
    match request {
        StoreRequest::Append { octets, .. }
        | StoreRequest::Put {
            body: Body::Inline(octets),
            ..
        } => octets.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Identity;
    use crate::store::request::{
        DeferredMessage, MessageKind, Quota, Seq, Settlement, SpoolId, StoreToken,
    };
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Counting {
        credits: Rc<Cell<usize>>,
        appends: Rc<Cell<usize>>,
        taken: Rc<RefCell<Vec<String>>>,
    }

    impl StoreGate for Counting {
        fn try_submit(&self, request: StoreRequest) -> Result<(), StoreRequest> {
            let credits = match request {
                StoreRequest::Append { .. } => &self.appends,
                _ => &self.credits,
            };
            let Some(left) = credits.get().checked_sub(1) else {
                return Err(request);
            };
            credits.set(left);
            self.taken.borrow_mut().push(name(&request));
            Ok(())
        }

        fn octets(&self) -> usize {
            0
        }
    }

    fn name(request: &StoreRequest) -> String {
        match request {
            StoreRequest::Append { offset, .. } => format!("append {offset}"),
            StoreRequest::Put { token, .. } => format!("put {}", token.0),
            StoreRequest::Abandon { token } => format!("abandon {}", token.0),
            StoreRequest::Load { recipient, .. } => format!("load {}", recipient.user()),
            StoreRequest::Settle { .. } => "settle".to_owned(),
            StoreRequest::Sync { .. } => "sync".to_owned(),
            StoreRequest::Drop { spool } => format!("drop {}", spool.0),
            other => panic!("{other:?}"),
        }
    }

    const SPOOL: SpoolId = SpoolId(1);

    fn append(offset: u64) -> StoreRequest {
        StoreRequest::Append {
            spool: SPOOL,
            offset,
            octets: vec![0; 100_000].into(),
        }
    }

    fn put(token: u64, user: &str, body: Body) -> StoreRequest {
        let message = DeferredMessage::empty("alice", user, MessageKind::Chat);
        StoreRequest::Put {
            token: StoreToken(token),
            message: Arc::new(message),
            body,
            quota: Quota::NONE,
        }
    }

    fn short() -> Body {
        Body::Inline("hello".into())
    }

    fn spooled() -> Body {
        let length = 300_000;
        Body::Spooled {
            spool: SPOOL,
            length,
        }
    }

    fn settle() -> StoreRequest {
        StoreRequest::Settle {
            recipient: Identity::new("bob", "im.test"),
            seq: Seq(1),
            settlement: Settlement::Delivered,
        }
    }

    fn load(user: &str) -> StoreRequest {
        StoreRequest::Load {
            token: StoreToken(90),
            recipient: Identity::new(user, "im.test"),
            after: None,
            limit: 1,
        }
    }

    /// What is handed over of these while one append has room, and what once all have.
    fn handed_over(requests: Vec<StoreRequest>) -> (Vec<String>, Vec<String>) {
        let gate = Counting::default();
        gate.credits.set(100);
        gate.appends.set(1);
        let mut queue = StoreQueue::new(gate.clone());
        for request in requests {
            assert!(queue.submit(request).is_none(), "nothing is refused");
        }
        queue.flush();
        let at_once = std::mem::take(&mut *gate.taken.borrow_mut());
        gate.appends.set(100);
        queue.flush();
        assert!(queue.is_empty());
        assert_eq!((queue.octets, queue.bulk.is_forgotten()), (0, true));
        let later = std::mem::take(&mut *gate.taken.borrow_mut());
        (at_once, later)
    }

    #[test]
    fn small_requests_do_not_wait_for_octets_of_spools() {
        let small = vec![
            append(0),
            append(1),
            put(1, "bob", short()),
            settle(),
            load("bob"),
            StoreRequest::Abandon {
                token: StoreToken(1),
            },
        ];
        let (at_once, later) = handed_over(small);
        let expected = ["append 0", "put 1", "settle", "load bob", "abandon 1"];
        assert_eq!(at_once, expected);
        assert_eq!(later, ["append 1"]);
    }

    #[test]
    fn what_names_a_spool_and_the_order_of_its_recipient_wait_for_its_octets() {
        let token = StoreToken(2);
        let requests = vec![
            append(0),
            append(1),
            StoreRequest::Sync {
                token,
                spool: SPOOL,
            },
            append(2),
            put(1, "bob", spooled()),
            put(2, "bob", short()),
            load("bob"),
            put(3, "carol", short()),
            settle(),
            StoreRequest::Abandon {
                token: StoreToken(1),
            },
            StoreRequest::Drop { spool: SPOOL },
        ];
        let (at_once, later) = handed_over(requests);
        assert_eq!(at_once, ["append 0", "put 3", "settle"]);
        let expected = [
            "append 1",
            "sync",
            "append 2",
            "put 1",
            "put 2",
            "load bob",
            "abandon 1",
            "drop 1",
        ];
        assert_eq!(later, expected);
    }

    #[test]
    fn octets_behind_a_request_without_credit_let_those_behind_them_pass() {
        let gate = Counting::default();
        let mut queue = StoreQueue::new(gate.clone());
        for request in [settle(), append(0), settle(), put(1, "bob", spooled())] {
            assert!(queue.submit(request).is_none());
        }
        assert_eq!(queue.len_of_small(), 4);
        gate.credits.set(100);
        queue.flush();
        assert_eq!(*gate.taken.borrow(), ["settle", "settle"]);
        assert_eq!((queue.len_of_small(), queue.len()), (0, 2));
        gate.appends.set(1);
        queue.flush();
        assert_eq!(gate.taken.borrow()[2..], ["append 0", "put 1"]);
    }

    #[test]
    fn what_is_asked_of_a_spool_keeps_its_order_while_small_requests_stand_before_some_of_it() {
        let gate = Counting::default();
        let mut queue = StoreQueue::new(gate.clone());
        for request in [settle(), append(0), settle(), append(1)] {
            assert!(queue.submit(request).is_none());
        }
        gate.credits.set(1);
        queue.flush();
        assert_eq!((queue.len_of_small(), queue.len()), (2, 3));
        let token = StoreToken(7);
        let spool = SPOOL;
        for request in [
            append(2),
            StoreRequest::Sync { token, spool },
            put(1, "bob", spooled()),
            StoreRequest::Drop { spool },
        ] {
            assert!(queue.submit(request).is_none());
        }
        gate.credits.set(100);
        gate.appends.set(100);
        queue.flush();
        assert!(queue.is_empty());
        let expected = [
            "append 0", "append 1", "append 2", "sync", "put 1", "drop 1",
        ];
        assert_eq!(gate.taken.borrow()[2..], expected);
    }

    #[test]
    fn who_comes_takes_no_credit_from_who_waits() {
        let gate = Counting::default();
        let mut queue = StoreQueue::new(gate.clone());
        for request in [append(0), put(1, "bob", spooled())] {
            assert!(queue.submit(request).is_none());
        }
        gate.appends.set(1);
        gate.credits.set(1);
        let refused = queue.submit(put(2, "carol", short()));
        let is_refused =
            |event: StoreEvent| matches!(event, StoreEvent::Refused { token, .. } if token.0 == 2);
        assert!(refused.is_some_and(is_refused));
        assert_eq!(*gate.taken.borrow(), ["append 0", "put 1"]);
    }

    #[test]
    fn requests_without_credit_wait_in_order() {
        let gate = Counting::default();
        gate.credits.set(1);
        let mut queue = StoreQueue::new(gate.clone());
        let token = StoreToken(1);
        for spool in (0..3).map(SpoolId) {
            assert!(queue.submit(StoreRequest::Drop { spool }).is_none());
        }
        let spool = SpoolId(9);
        queue.submit(StoreRequest::Sync { token, spool });
        assert_eq!(queue.len_of_small(), 3);
        gate.credits.set(10);
        queue.flush();
        assert!(queue.is_empty());
        let taken = gate.taken.borrow();
        assert_eq!(taken.len(), 4);
        assert_eq!(taken[3], "sync");
    }

    #[test]
    fn octets_that_wait_are_accounted_for() {
        let gate = Counting::default();
        let mut queue = StoreQueue::new(gate.clone());
        for offset in [0, 100_000] {
            assert!(queue.submit(append(offset)).is_none());
        }
        let waiting = queue.footprint();
        assert!(waiting >= 200_000);
        gate.appends.set(1);
        queue.flush();
        assert_eq!(queue.footprint(), waiting - 100_000);
    }
}
