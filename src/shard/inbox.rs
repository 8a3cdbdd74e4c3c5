//! How a shard is reached from other threads and from its own connections.
//!
//! Lanes keep what must get through apart from what may have to wait: `work` and `media` from peers
//! are bounded and slow them down (or, for datagrams, they are dropped); `notices` are about things this shard asked
//! for; `internal` comes from other shards; `store` has room for every answer the store owes,
//! because the store gives no more credits than that. A shard always takes the last three, so no
//! two shards can wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

use super::port::Input;
use crate::msrp::frame::FrameEvent;
use crate::store::request::StoreEvent;

/// Entries taken from one lane in one turn, so that no lane starves another.
const BATCH: usize = 64;

/// Readings of MSRP connections that wait for a shard, at most: a sender that is faster than its shard must
/// not stand before everybody else.
const MEDIA: usize = 128;
/// Of which so many are taken in one turn; each is some dozen pieces of frames.
const MEDIA_BATCH: usize = 16;

/// Room in the lanes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// SIP messages of peers.
    pub work: usize,
    /// Outcomes of what the shard asked for.
    pub notices: usize,
    /// Messages of other shards.
    pub internal: usize,
}

/// The sending ends; cheap to clone.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// SIP messages of peers.
    pub work: mpsc::Sender<Input>,
    /// MSRP of peers; see [`Lanes::send_media`].
    pub media: mpsc::Sender<Input>,
    /// Octets that wait there.
    media_octets: Arc<AtomicUsize>,
    /// Outcomes of what the shard asked for.
    pub notices: mpsc::Sender<Input>,
    /// From other shards.
    pub internal: mpsc::Sender<Input>,
    /// From the store, which bounds itself by its credits.
    pub store: mpsc::UnboundedSender<Vec<StoreEvent>>,
}

/// The receiving ends.
#[derive(Debug)]
pub struct Inbox {
    work: mpsc::Receiver<Input>,
    media: mpsc::Receiver<Input>,
    media_octets: Arc<AtomicUsize>,
    notices: mpsc::Receiver<Input>,
    internal: mpsc::Receiver<Input>,
    store: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    events: Vec<Vec<StoreEvent>>,
}

/// Both ends of a shard's inbox.
pub fn inbox(sizes: Sizes) -> (Lanes, Inbox) {
    let (work, work_end) = mpsc::channel(sizes.work.max(1));
    let (media, media_end) = mpsc::channel(sizes.work.clamp(1, MEDIA));
    let (notices, notices_end) = mpsc::channel(sizes.notices.max(1));
    let (internal, internal_end) = mpsc::channel(sizes.internal.max(1));
    let (store, store_end) = mpsc::unbounded_channel();
    let media_octets = Arc::<AtomicUsize>::default();
    let lanes = Lanes {
        work,
        media,
        media_octets: Arc::clone(&media_octets),
        notices,
        internal,
        store,
    };
    let inbox = Inbox {
        work: work_end,
        media: media_end,
        media_octets,
        notices: notices_end,
        internal: internal_end,
        store: store_end,
        events: Vec::with_capacity(BATCH),
    };
    (lanes, inbox)
}

impl Lanes {
    /// Puts MSRP of a peer into its lane, once there is room.
    pub async fn send_media(&self, input: Input) {
        // Whose connection ends while he waits puts nothing there, so it is not counted before. Without a place the
        // shard has ended.
        if let Ok(place) = self.media.reserve().await {
            self.media_octets
                .fetch_add(octets_of(&input), Ordering::Relaxed);
            place.send(input);
        }
    }
}

/// Octets of a connection that an input keeps.
fn octets_of(input: &Input) -> usize {
    match input {
        Input::Msrp { events, .. } => {
            events.capacity() * size_of::<FrameEvent>()
                + events.iter().map(FrameEvent::octets).sum::<usize>()
        }
        _ => 0,
    }
}

impl Inbox {
    /// Memory that what waits in the lanes takes, about: octets of MSRP as they are, SIP messages of peers as if
    /// each had a usual length.
    pub fn footprint(&self) -> usize {
        const OCTETS: usize = 768;
        let sip = self.work.len() * (size_of::<Input>() + OCTETS);
        let octets = self.media_octets.load(Ordering::Relaxed);
        let media = self.media.len() * size_of::<Input>() + octets;
        let rest = self.notices.len() + self.internal.len();
        sip + media + rest * size_of::<Input>() + self.store.len() * size_of::<StoreEvent>()
    }

    /// Appends at most `most` SIP messages of peers to `into`; pending if there are none.
    pub fn poll_work(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
        into: &mut Vec<Input>,
    ) -> Poll<usize> {
        match most {
            0 => Poll::Pending,
            _ => self.work.poll_recv_many(context, into, most),
        }
    }

    /// Appends a batch of every lane but work to `into`, of the media lane only if `media`; pending if
    /// there was nothing. Wakes the task when something comes in one of the lanes asked.
    pub fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        media: bool,
        into: &mut Vec<Input>,
    ) -> Poll<()> {
        let before = into.len();
        if let Poll::Ready(1..) = self.store.poll_recv_many(context, &mut self.events, BATCH) {
            into.extend(self.events.drain(..).flatten().map(Input::Store));
        }
        // An end of a lane cannot come: the shell holds the lanes of all shards.
        let _ = self.notices.poll_recv_many(context, into, BATCH);
        let _ = self.internal.poll_recv_many(context, into, BATCH);
        if media {
            let before = into.len();
            let _ = self.media.poll_recv_many(context, into, MEDIA_BATCH);
            let taken = into.iter().skip(before).map(octets_of).sum();
            self.media_octets.fetch_sub(taken, Ordering::Relaxed);
        }
        if into.len() > before {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ConnectionId;
    use crate::participating::internal::InternalMessage;
    use crate::store::request::StoreToken;
    use std::future::poll_fn;

    const SIZES: Sizes = Sizes {
        work: 1000,
        notices: 4,
        internal: 2,
    };

    #[tokio::test]
    async fn a_flood_of_work_does_not_hold_up_answers_and_notices() {
        let (lanes, mut inbox) = inbox(SIZES);
        for _ in 0..MEDIA {
            lanes.media.try_send(Input::Drain).expect("there is room");
        }
        let token = StoreToken(1);
        let event = StoreEvent::Synced { token };
        lanes.store.send(vec![event]).expect("open");
        let (number, durable) = (1, true);
        let message = Box::new(InternalMessage::Accepted { number, durable });
        let input = Input::Internal(message);
        lanes.internal.try_send(input).expect("there is room");
        let mut taken = Vec::new();
        poll_fn(|context| inbox.poll_take(context, true, &mut taken)).await;
        assert!(taken.len() <= 3 * BATCH);
        assert!(matches!(taken[0], Input::Store(_)));
        assert!(matches!(taken[1], Input::Internal(_)));
    }

    #[tokio::test]
    async fn octets_of_media_are_counted_until_they_are_taken() {
        let (lanes, mut inbox) = inbox(SIZES);
        let nothing = inbox.footprint();
        for octets in [10, 60_000] {
            let input = Input::Msrp {
                connection: ConnectionId::new(0, 1),
                events: vec![FrameEvent::Data(vec![b'x'; octets].into())],
            };
            lanes.send_media(input).await;
        }
        let counted = inbox.footprint() - nothing;
        assert!((60_010..62_000).contains(&counted), "{counted}");
        let mut taken = Vec::new();
        poll_fn(|context| inbox.poll_take(context, true, &mut taken)).await;
        assert_eq!((taken.len(), inbox.footprint()), (2, nothing));
    }

    #[tokio::test]
    async fn who_is_gone_before_there_was_room_is_not_counted() {
        let (lanes, inbox) = inbox(Sizes { work: 1, ..SIZES });
        let piece = || Input::Msrp {
            connection: ConnectionId::new(0, 1),
            events: vec![FrameEvent::Data(vec![b'x'; 1000].into())],
        };
        lanes.send_media(piece()).await;
        let full = inbox.footprint();
        let mut waiting = Box::pin(lanes.send_media(piece()));
        let is_waiting =
            poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending()));
        assert!(is_waiting.await);
        drop(waiting);
        assert_eq!(inbox.footprint(), full);
    }

    #[tokio::test]
    async fn media_waits_while_it_is_not_asked_for() {
        let (lanes, mut inbox) = inbox(SIZES);
        lanes.media.try_send(Input::Drain).expect("there is room");
        let mut taken = Vec::new();
        let refused = poll_fn(|context| {
            Poll::Ready(inbox.poll_take(context, false, &mut taken).is_pending())
        });
        assert!(refused.await);
        poll_fn(|context| inbox.poll_take(context, true, &mut taken)).await;
        assert_eq!(taken.len(), 1);
    }
}
