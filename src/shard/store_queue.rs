//! Requests on their way to the store.
//!
//! The store takes a request only with a credit. The core counts its credits, so requests rarely
//! wait here; but a settlement or an append must not be lost when it does, nor overtaken.

use std::collections::VecDeque;

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
    /// Octets of bodies among it.
    octets: usize,
}

impl<G: StoreGate> StoreQueue<G> {
    /// With nothing waiting.
    pub fn new(gate: G) -> Self {
        Self {
            gate,
            waiting: VecDeque::new(),
            octets: 0,
        }
    }

    /// Hands a request over or lets it wait behind the others. A message without credit is refused
    /// instead: its sender can be told, and try again.
    pub fn submit(&mut self, request: StoreRequest) -> Option<StoreEvent> {
        if !self.waiting.is_empty() {
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
        self.waiting.push_back(request);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Memory in use, about, here and in the store.
    pub fn footprint(&self) -> usize {
        let entries = self.waiting.capacity() * size_of::<StoreRequest>();
        self.gate.octets() + self.octets + entries
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands over what waits as far as there are credits.
    pub fn flush(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            let octets = octets_of(&request);
            if let Err(request) = self.gate.try_submit(request) {
                self.waiting.push_front(request);
                return;
            }
            self.octets -= octets;
        }
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
    use super::*;
    use crate::store::request::{SpoolId, StoreToken};
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Counting {
        credits: Rc<Cell<usize>>,
        taken: Rc<RefCell<Vec<String>>>,
    }

    impl StoreGate for Counting {
        fn try_submit(&self, request: StoreRequest) -> Result<(), StoreRequest> {
            let Some(left) = self.credits.get().checked_sub(1) else {
                return Err(request);
            };
            self.credits.set(left);
            self.taken.borrow_mut().push(format!("{request:?}"));
            Ok(())
        }

        fn octets(&self) -> usize {
            0
        }
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
        assert_eq!(queue.len(), 3);
        gate.credits.set(10);
        queue.flush();
        assert!(queue.is_empty());
        let taken = gate.taken.borrow();
        assert_eq!(taken.len(), 4);
        assert!(taken[3].contains("Sync"));
    }

    #[test]
    fn octets_that_wait_are_accounted_for() {
        let gate = Counting::default();
        let mut queue = StoreQueue::new(gate.clone());
        let append = |offset| StoreRequest::Append {
            spool: SpoolId(1),
            offset,
            octets: vec![0; 100_000].into(),
        };
        for offset in [0, 100_000] {
            assert!(queue.submit(append(offset)).is_none());
        }
        let waiting = queue.footprint();
        assert!(waiting >= 200_000);
        gate.credits.set(1);
        queue.flush();
        assert_eq!(queue.footprint(), waiting - 100_000);
    }
}
