//! Accepting connections within a limit, shared by all shards.
//!
//! At the limit, or when the process has no descriptor left, accepting pauses until a connection
//! ends; the kernel's backlog holds the peers meanwhile. Nothing spins.

use foldhash::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::clock::now;
use crate::limits::source::{Source, Way};
use crate::limits::sources::{Judgement, Sources};
use crate::metrics::ShardMetrics;

/// How long accepting rests when descriptors ran out and no connection of ours ends.
const PAUSE: Duration = Duration::from_millis(250);

/// Counts the open connections over all shards, and those of each address.
#[derive(Clone)]
pub struct Gate {
    room: Arc<Semaphore>,
    released: Arc<Notify>,
    per_address: usize,
    addresses: Arc<Mutex<HashMap<Source, usize>>>,
    sources: Arc<Sources>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Gate");
        out.field("room", &self.room).finish_non_exhaustive()
    }
}

/// A place within the limit; given back on drop.
#[derive(Debug)]
pub struct Place {
    gate: Gate,
    address: Option<Source>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.gate.leave(address);
        }
        self.gate.released.notify_waiters();
    }
}

impl Gate {
    /// Lets `limit` connections in, `per_address` of them from one address that is not trusted.
    pub fn new(limit: usize, per_address: usize, sources: Arc<Sources>) -> Self {
        Self {
            room: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            released: Arc::new(Notify::new()),
            per_address,
            addresses: Arc::default(),
            sources,
        }
    }

    /// How busy and how harmful each source is.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The same, to be kept.
    pub fn shared_sources(&self) -> Arc<Sources> {
        Arc::clone(&self.sources)
    }

    /// Whether a connection from `address` is taken at all.
    fn admits(&self, address: IpAddr, metrics: &ShardMetrics) -> bool {
        let judgement = (self.sources).message(address, Way::Connections, now().instant);
        match judgement {
            Judgement::Pass(_) => {}
            Judgement::Wait(_) => metrics.dropped_rate.count(),
            Judgement::Banned => metrics.dropped_banned.count(),
        }
        matches!(judgement, Judgement::Pass(_))
    }

    /// Waits for a place.
    pub async fn enter(&self) -> Place {
        let permit = Arc::clone(&self.room).acquire_owned().await;
        self.place(permit.expect("the gate is never closed"))
    }

    /// A place, if there is one now; for connections of our own.
    pub fn try_enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place {
            gate: self.clone(),
            address: None,
            _permit: permit,
        }
    }

    async fn rest(&self) {
        let _ = tokio::time::timeout(PAUSE, self.released.notified()).await;
    }

    fn leave(&self, address: Source) {
        let mut addresses = self.addresses();
        if let Some(count) = addresses.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        let addresses = self.addresses.lock();
        addresses.expect("no code that holds this lock panics")
    }
}

impl Place {
    /// Counts this place as one of `address`; gives it back if that address has too many.
    fn of(mut self, address: IpAddr) -> Option<Self> {
        if self.gate.sources.is_trusted(address) {
            return Some(self);
        }
        let address = Source::of(address);
        let mut addresses = self.gate.addresses();
        let count = addresses.entry(address).or_default();
        if *count >= self.gate.per_address {
            return None;
        }
        *count += 1;
        drop(addresses);
        self.address = Some(address);
        Some(self)
    }
}

/// Accepts for ever; `open` gets each connection with its place. At the limit one connection is
/// held here until there is a place for it: a place reserved by every listener that waits for peers
/// would be lost to the others.
pub async fn accept(
    listener: TcpListener,
    gate: Gate,
    metrics: Arc<ShardMetrics>,
    mut open: impl FnMut(TcpStream, SocketAddr, Place),
) {
    loop {
        match listener.accept().await {
            // This one is closed, and so is one too many.
            Ok((_, remote)) if !gate.admits(remote.ip(), &metrics) => {}
            Ok((stream, remote)) => match gate.enter().await.of(remote.ip()) {
                Some(place) => open(stream, remote, place),
                None => {
                    metrics.dropped_crowded.count();
                    tracing::debug!(%remote, "too many connections of one address");
                }
            },
            Err(error) if is_exhausted(&error) => {
                tracing::warn!(%error, "accepting rests");
                gate.rest().await;
            }
            // The peer went away while it waited: the next one, please.
            Err(error) => tracing::debug!(%error, "a connection was not accepted"),
        }
    }
}

/// Whether the process or the system has no room for another descriptor.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use tokio::sync::mpsc;

    fn free() -> Arc<Sources> {
        Arc::new(Sources::without_limits())
    }

    #[tokio::test]
    async fn accepting_pauses_at_the_limit_and_resumes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let gate = Gate::new(2, 2, free());
        let (opened, mut accepted) = mpsc::unbounded_channel();
        let metrics = Metrics::new(1).shard(0);
        tokio::spawn(accept(
            listener,
            gate.clone(),
            metrics,
            move |stream, _, place| {
                let _ = opened.send((stream, place));
            },
        ));
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(TcpStream::connect(address).await.expect("connected"));
        }
        let first = accepted.recv().await.expect("accepted");
        let _second = accepted.recv().await.expect("accepted");
        assert!(gate.try_enter().is_none(), "the third has to wait");
        assert!(accepted.try_recv().is_err());
        drop(first);
        accepted.recv().await.expect("accepted once there is room");
    }

    #[tokio::test]
    async fn one_address_cannot_take_all_places() {
        let gate = Gate::new(4, 1, free());
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = gate.enter().await.of(here).expect("there is room");
        assert!(gate.enter().await.of(here).is_none());
        let _other = gate.enter().await.of(there).expect("another address");
        drop(first);
        assert!(gate.enter().await.of(here).is_some());
        assert_eq!(gate.addresses().len(), 1);
    }

    #[tokio::test]
    async fn one_connection_too_many_of_an_address_is_closed_and_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let gate = Gate::new(4, 1, free());
        let metrics = Metrics::new(1).shard(0);
        let (opened, mut accepted) = mpsc::unbounded_channel();
        let accepting = accept(
            listener,
            gate,
            Arc::clone(&metrics),
            move |stream, _, place| {
                let _ = opened.send((stream, place));
            },
        );
        tokio::spawn(accepting);
        let _first = TcpStream::connect(address).await.expect("connected");
        let _open = accepted.recv().await.expect("accepted");
        let second = TcpStream::connect(address).await.expect("connected");
        second.readable().await.expect("something comes");
        assert_eq!(second.try_read(&mut [0]).expect("the end"), 0);
        assert_eq!(metrics.dropped_crowded.value(), 1);
    }

    #[test]
    fn only_a_lack_of_descriptors_or_memory_is_exhaustion() {
        assert!(is_exhausted(&io::Error::from_raw_os_error(libc::EMFILE)));
        let aborted = io::Error::from_raw_os_error(libc::ECONNABORTED);
        assert!(!is_exhausted(&aborted));
    }
}
