//! The one timer of a shard: it rings at the core's next deadline.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::Sleep;

use crate::clock::Instant;

/// Rings at a deadline, or earlier if the deadline has moved back since: the one who is woken looks
/// at the clock anyway, and moving a timer for each message would cost more.
#[derive(Debug, Default)]
pub struct Alarm {
    set: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Alarm {
    /// Ready when the alarm rings; afterwards it has to be asked again. Without a deadline it does
    /// not ring once the one before has passed.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Poll<()> {
        if let Some(deadline) = deadline
            && self.set.as_ref().is_none_or(|(set, _)| deadline < *set)
        {
            let sleep = tokio::time::sleep(deadline.since(now));
            self.set = Some((deadline, Box::pin(sleep)));
        }
        let Some((_, sleep)) = &mut self.set else {
            return Poll::Pending;
        };
        std::task::ready!(sleep.as_mut().poll(context));
        self.set = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test]
    async fn it_rings_at_the_earliest_deadline_it_was_told() {
        let mut alarm = Alarm::default();
        let start = Instant::default();
        let at = |millis| Some(start + Duration::from_millis(millis));
        let waits = poll_fn(|context| {
            assert!(alarm.poll(context, at(600_000), start).is_pending());
            assert!(alarm.poll(context, at(5), start).is_pending());
            Poll::Ready(alarm.poll(context, at(900_000), start).is_pending())
        });
        assert!(waits.await);
        let limit = Duration::from_secs(20);
        let rings = poll_fn(|context| alarm.poll(context, None, start));
        let rang = tokio::time::timeout(limit, rings).await;
        rang.expect("rings after five milliseconds");
        let silent = poll_fn(|context| Poll::Ready(alarm.poll(context, None, start).is_pending()));
        assert!(silent.await);
    }
}
