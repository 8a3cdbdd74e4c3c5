//! One writer per connection: any shard hands octets over, one task writes them in order.
//!
//! The queue is bounded by octets. A peer that reads too slowly overflows it and loses the
//! connection, so that it cannot hold our memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

use super::id::ConnectionId;
use super::pieces::Pieces;
use super::stream::{Stream, VECTOR};
use crate::limits::memory::{Account, Kind, Room};

/// What an entry of the queue costs besides its octets, so that many small ones are bounded too.
const ENTRY: usize = 64;
/// Over so many waiting octets, or any at all while memory is short, nothing more is read from a peer
/// that answers are queued for.
const CROWDED: usize = 64 * 1024;
/// The connection is closed, or was closed just now because its queue overflowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is lost")]
pub struct Lost;

/// Hands octets to a connection; cheap to clone, usable from every shard.
#[derive(Clone, Debug)]
pub struct Writer {
    id: ConnectionId,
    queue: mpsc::UnboundedSender<Entry>,
    state: Arc<State>,
}

/// The receiving end, for the connection's writing task.
#[derive(Debug)]
pub struct WriteQueue {
    queue: mpsc::UnboundedReceiver<Entry>,
    state: Arc<State>,
}

#[derive(Debug)]
enum Entry {
    Octets { from: u16, octets: Pieces },
    Close,
}

#[derive(Debug)]
struct State {
    queued: AtomicUsize,
    limit: usize,
    account: Account,
    /// Told after each write.
    eased: Notify,
    abort: Notify,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Ended,
}

/// Both ends of the queue of connection `id`, which holds about `limit` octets; while memory is short,
/// an eighth of it.
pub fn writer(id: ConnectionId, limit: usize, account: &Account) -> (Writer, WriteQueue) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let state = Arc::new(State {
        queued: AtomicUsize::new(0),
        limit,
        account: account.clone(),
        eased: Notify::new(),
        abort: Notify::new(),
        phase: watch::Sender::new(Phase::Opening),
    });
    let writer = Writer {
        id,
        queue: sender,
        state: Arc::clone(&state),
    };
    let queue = WriteQueue {
        queue: receiver,
        state,
    };
    (writer, queue)
}

impl Writer {
    /// Of which connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Queues `octets` of shard `from`. One entry of any size fits an empty queue.
    pub fn send(&self, from: u16, octets: impl Into<Pieces>) -> Result<(), Lost> {
        let octets = octets.into();
        let cost = octets.len() + ENTRY;
        let before = self.state.queued.fetch_add(cost, Ordering::Relaxed);
        if before > 0 && before.saturating_add(cost) > self.state.limit() {
            self.state.queued.fetch_sub(cost, Ordering::Relaxed);
            self.abort();
            return Err(Lost);
        }
        self.state.account.add(Kind::WriteQueues, cost);
        let entry = Entry::Octets { from, octets };
        self.queue.send(entry).map_err(|_| {
            self.state.settle(cost);
            Lost
        })
    }

    /// Waits while too much is queued for a peer to take more from it: who does not read answers
    /// should not be read from. Fails when that lasts for `stall`.
    pub async fn eased(&self, stall: Duration) -> Result<(), Lost> {
        while self.state.is_crowded() {
            let eased = self.state.eased.notified();
            if !self.state.is_crowded() {
                break;
            }
            let eased = tokio::time::timeout(stall, eased).await;
            eased.map_err(|_| Lost)?;
        }
        Ok(())
    }

    /// Whether octets can leave already.
    pub fn is_open(&self) -> bool {
        *self.state.phase.borrow() == Phase::Open
    }

    /// Waits until the connection is open, or has ended.
    pub async fn opened(&self) -> Result<(), Lost> {
        let mut phase = self.state.phase.subscribe();
        let phase = phase.wait_for(|phase| *phase != Phase::Opening).await;
        match phase.map(|phase| *phase) {
            Ok(Phase::Open) => Ok(()),
            _ => Err(Lost),
        }
    }

    /// Closes the connection once everything queued before is written.
    pub fn close(&self) {
        // A failure means that it is closed already.
        let _ = self.queue.send(Entry::Close);
    }

    /// Closes the connection at once.
    pub fn abort(&self) {
        self.state.abort.notify_one();
    }
}

impl State {
    fn limit(&self) -> usize {
        match self.account.ledger().room() {
            Room::None => self.limit / 8,
            Room::Ample | Room::Scarce => self.limit,
        }
    }

    fn is_crowded(&self) -> bool {
        let queued = self.queued.load(Ordering::Relaxed);
        match self.account.ledger().room() {
            Room::None => queued > 0,
            Room::Ample | Room::Scarce => queued > CROWDED,
        }
    }

    /// Octets have left, or will not.
    fn settle(&self, cost: usize) {
        self.queued.fetch_sub(cost, Ordering::Relaxed);
        self.account.take(Kind::WriteQueues, cost);
    }
}

impl WriteQueue {
    /// The connection is open now.
    pub fn open(&self) {
        self.state.phase.send_replace(Phase::Open);
    }

    /// Whether the next entry is the order to close.
    #[cfg(test)]
    pub(super) fn is_closing(&mut self) -> bool {
        matches!(self.queue.try_recv(), Ok(Entry::Close))
    }

    /// Ends when [`Writer::abort`] was called.
    pub fn aborted(&self) -> impl Future<Output = ()> + use<> {
        let state = Arc::clone(&self.state);
        async move { state.abort.notified().await }
    }

    /// Writes what is queued until [`Writer::close`], then closes our direction. Fails when the
    /// connection does, or when the peer takes nothing for `stall`. After each write `written`
    /// hears how many octets of which shard have left.
    pub async fn write_to(
        &mut self,
        stream: &Stream,
        stall: Duration,
        mut written: impl AsyncFnMut(u16, usize),
    ) -> io::Result<()> {
        // Grows with what comes: most connections wait here with nothing to write.
        let mut entries = Vec::new();
        let mut batch = VecDeque::new();
        let mut totals: Vec<(u16, usize)> = Vec::new();
        loop {
            if self.queue.recv_many(&mut entries, VECTOR).await == 0 {
                return Ok(());
            }
            let mut close = false;
            let mut cost = 0;
            for entry in entries.drain(..) {
                match entry {
                    Entry::Octets { from, octets } if !close => {
                        cost += octets.len() + ENTRY;
                        add(&mut totals, from, octets.len());
                        batch.extend(octets);
                    }
                    Entry::Octets { .. } => {}
                    Entry::Close => close = true,
                }
            }
            stream.write_all(&mut batch, stall).await?;
            self.state.settle(cost);
            self.state.eased.notify_waiters();
            for (shard, octets) in totals.drain(..) {
                written(shard, octets).await;
            }
            if close {
                return stream.end();
            }
        }
    }
}

impl Drop for WriteQueue {
    fn drop(&mut self) {
        self.queue.close();
        while let Ok(entry) = self.queue.try_recv() {
            if let Entry::Octets { octets, .. } = entry {
                self.state.settle(octets.len() + ENTRY);
            }
        }
        self.state.eased.notify_waiters();
        self.state.phase.send_replace(Phase::Ended);
    }
}

fn add(totals: &mut Vec<(u16, usize)>, shard: u16, octets: usize) {
    match totals.iter_mut().find(|(known, _)| *known == shard) {
        Some((_, total)) => *total += octets,
        None => totals.push((shard, octets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn connected() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let near = Stream::Plain(near.expect("connected"));
        (near, far.expect("accepted").0)
    }

    #[tokio::test]
    async fn octets_leave_in_order_and_are_reported_by_shard() {
        let (near, mut far) = connected().await;
        let (writer, mut queue) = writer(ConnectionId::new(0, 1), 1 << 20, &Account::detached());
        let mut expected = Vec::new();
        for index in 0..500_u16 {
            let octets = vec![index as u8; usize::from(index)];
            expected.extend_from_slice(&octets);
            writer
                .send(index % 2, Bytes::from(octets))
                .expect("there is room");
        }
        writer.close();
        writer
            .send(0, Bytes::from_static(b"too late"))
            .expect("queued, not written");
        let mut totals = [0, 0];
        let mut got = Vec::new();
        let stall = Duration::from_secs(10);
        let (sent, read) = tokio::join!(
            queue.write_to(&near, stall, async |shard, octets| totals
                [usize::from(shard)] +=
                octets),
            far.read_to_end(&mut got),
        );
        sent.expect("written");
        read.expect("read to the end");
        assert_eq!(got, expected);
        assert_eq!(totals.iter().sum::<usize>(), expected.len());
        assert_eq!(totals[0], (0..500).step_by(2).sum::<usize>());
    }

    #[tokio::test]
    async fn those_who_wait_for_a_connection_hear_how_it_went() {
        let (first, queue) = writer(ConnectionId::new(0, 1), 1000, &Account::detached());
        assert!(!first.is_open());
        queue.open();
        assert_eq!(first.opened().await, Ok(()));
        let (second, queue) = writer(ConnectionId::new(0, 2), 1000, &Account::detached());
        let (outcome, ()) = tokio::join!(second.opened(), async { drop(queue) });
        assert_eq!(outcome, Err(Lost));
    }

    #[tokio::test]
    async fn overflow_closes_the_connection() {
        let (writer, queue) = writer(ConnectionId::new(0, 1), 1000, &Account::detached());
        let octets = Bytes::from(vec![0; 5000]);
        writer
            .send(0, octets.clone())
            .expect("one entry of any size fits");
        assert_eq!(writer.send(0, octets), Err(Lost));
        queue.aborted().await;
    }

    #[tokio::test]
    async fn many_small_entries_are_bounded_too() {
        let (writer, _queue) = writer(ConnectionId::new(0, 1), 64 * 100, &Account::detached());
        let sent = (0..1000).take_while(|_| writer.send(0, Bytes::new()).is_ok());
        assert_eq!(sent.count(), 100);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (near, far) = connected().await;
        let (writer, mut queue) = writer(ConnectionId::new(0, 1), 1 << 30, &Account::detached());
        let octets = Bytes::from(vec![0; 64 << 20]);
        writer.send(0, octets).expect("queued");
        let stall = Duration::from_millis(50);
        let error = queue.write_to(&near, stall, async |_, _| ()).await;
        assert_eq!(error.expect_err("stalled").kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
