//! Messages for another shard that wait until its inbox has room.
//!
//! Handing over never blocks. A shard that has too many waiting takes no work from peers until they
//! are gone, but goes on taking what other shards send it; so pressure goes back to the peers, and
//! two shards never wait for each other.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{OwnedPermit, Sender, error::SendError};

type Reserving<T> = Pin<Box<dyn Future<Output = Result<OwnedPermit<T>, SendError<()>>>>>;

/// What waits for one other shard.
pub struct Outbox<T> {
    lane: Sender<T>,
    waiting: VecDeque<T>,
    reserving: Option<Reserving<T>>,
}

impl<T> fmt::Debug for Outbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({} waiting)", self.waiting.len())
    }
}

impl<T: 'static> Outbox<T> {
    /// For the shard at the end of `lane`.
    pub fn new(lane: Sender<T>) -> Self {
        Self {
            lane,
            waiting: VecDeque::new(),
            reserving: None,
        }
    }

    /// Queues a message for the next [`Outbox::poll_flush`].
    pub fn push(&mut self, message: T) {
        self.waiting.push_back(message);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands over what waits, in order; pending while the other inbox is full.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(message) = self.waiting.pop_front() {
            let permit = match self.poll_permit(context) {
                Poll::Ready(permit) => permit,
                Poll::Pending => {
                    self.waiting.push_front(message);
                    return Poll::Pending;
                }
            };
            // Without a permit the other shard has ended: so does this one, in a moment.
            if let Some(permit) = permit {
                permit.send(message);
            }
        }
        Poll::Ready(())
    }

    fn poll_permit(&mut self, context: &mut Context<'_>) -> Poll<Option<OwnedPermit<T>>> {
        if self.reserving.is_none()
            && let Ok(permit) = self.lane.clone().try_reserve_owned()
        {
            return Poll::Ready(Some(permit));
        }
        let lane = &self.lane;
        let reserving = self
            .reserving
            .get_or_insert_with(|| Box::pin(lane.clone().reserve_owned()));
        let permit = std::task::ready!(reserving.as_mut().poll(context));
        self.reserving = None;
        Poll::Ready(permit.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn what_finds_no_room_waits_and_keeps_its_order() {
        let (lane, mut other) = mpsc::channel(2);
        let mut outbox = Outbox::new(lane);
        for number in 0..10 {
            outbox.push(number);
        }
        let full = poll_fn(|context| Poll::Ready(outbox.poll_flush(context).is_pending()));
        assert!(full.await);
        assert_eq!(outbox.len(), 8);
        let mut got = Vec::new();
        let receive = async {
            while got.len() < 10 {
                got.push(other.recv().await.expect("open"));
            }
        };
        tokio::join!(poll_fn(|context| outbox.poll_flush(context)), receive);
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        assert!(outbox.is_empty());
    }

    #[tokio::test]
    async fn messages_for_a_shard_that_has_ended_are_let_go() {
        let (lane, other) = mpsc::channel(1);
        let mut outbox = Outbox::new(lane);
        drop(other);
        outbox.push(1);
        outbox.push(2);
        poll_fn(|context| outbox.poll_flush(context)).await;
        assert!(outbox.is_empty());
    }
}
