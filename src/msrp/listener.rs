//! One shard's MSRP connections: accepted, opened, reused by address, lost (RFC 4975 §5.4, §8).
//!
//! A connection belongs to the shard that accepted or opened it; every shard can send on it through
//! the [`Registry`]. Next stop: [`super::connection`].

use bytes::Bytes;
use foldhash::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_local;

use super::connection::Connection;
use super::frame::FrameEvent;
use super::reader;
use crate::clock::Instant;
use crate::limits::memory::Account;
use crate::limits::source::Way;
use crate::limits::sources::Offence;
use crate::metrics::ShardMetrics;
use crate::net::ConnectionId;
use crate::net::accept::{Gate, Place, accept};
use crate::net::buffers::ReadBuffers;
use crate::net::conversation::Origin;
use crate::net::pieces::Pieces;
use crate::net::registry::{Found, Registry};
use crate::net::stream::Stream;
use crate::net::tls::{Check, Tls};
use crate::net::writer::{Lost, WriteQueue, Writer, writer};

/// TLS handshakes of a shard's accepted connections at once: each costs a signature.
pub const HANDSHAKES: usize = 256;
/// How long one may take, once the peer has begun it.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Bounds of an MSRP connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a peer that connects may take to send its first frame.
    pub first: Duration,
    /// How long a connection may be silent. Sessions end by themselves before that.
    pub idle: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a peer may take nothing of what waits for it.
    pub stall: Duration,
    /// Octets that may wait for a peer.
    pub queue: usize,
    /// Bounds of one frame.
    pub frames: reader::Limits,
}

/// Where a connection's frames go. All of these wait until there is room.
pub trait Deliver: 'static {
    /// Hands pieces of frames to `shard`.
    fn events(
        &self,
        shard: u16,
        connection: ConnectionId,
        events: Vec<FrameEvent>,
    ) -> impl Future<Output = ()>;

    /// Tells `shard` that `octets` of what it handed over have left.
    fn written(
        &self,
        shard: u16,
        connection: ConnectionId,
        octets: usize,
    ) -> impl Future<Output = ()>;

    /// Tells `shard` that a connection speaks TLS, and what its peer showed, before any frame.
    fn secured(
        &self,
        shard: u16,
        connection: ConnectionId,
        certificate: Option<Bytes>,
    ) -> impl Future<Output = ()>;

    /// Tells `shard` that the connection is lost.
    fn lost(&self, shard: u16, connection: ConnectionId) -> impl Future<Output = ()>;
}

/// What a connection is reused by. One over TLS serves the session that it was opened for, because
/// its peer was checked for that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    remote: SocketAddr,
    secure: Option<ConnectionId>,
}

/// To whom a connection over TLS is opened.
#[derive(Clone)]
pub struct SecurePeer {
    /// What its certificate names, unless it is known otherwise.
    pub name: String,
    /// How else it is known.
    pub check: Option<Check>,
}

/// What all connections of a shard share.
#[derive(Debug)]
pub struct Shared<D> {
    /// The shard.
    pub shard: u16,
    /// How many shards there are.
    pub shards: u16,
    /// Where the memory in use is written down.
    pub memory: Account,
    /// Bounds.
    pub settings: Settings,
    /// The connections of all shards.
    pub registry: Arc<Registry<Key>>,
    /// Our certificate, if there is TLS.
    pub tls: Option<Tls>,
    /// Their number.
    pub gate: Gate,
    /// TLS handshakes that may still begin; [`HANDSHAKES`] at first.
    pub handshakes: Semaphore,
    /// Where frames go.
    pub deliver: D,
    /// What is counted.
    pub metrics: Arc<ShardMetrics>,
    /// What connections read into.
    pub buffers: ReadBuffers,
}

impl<D> Shared<D> {
    /// A peer has done harm; the ban that may follow ends its connections.
    pub fn offend(&self, remote: SocketAddr, offence: Offence, now: Instant) {
        let sources = self.gate.sources();
        if let Some(ban) = sources.offend(remote.ip(), Way::Connections, offence, now) {
            self.metrics.bans.count();
            ban.tell(now);
        }
    }
}

/// Sends over connections and opens them; to be used within the shard's `LocalSet`.
#[derive(Debug)]
pub struct MsrpTransport<D> {
    shared: Rc<Shared<D>>,
    writers: HashMap<ConnectionId, Writer>,
}

impl<D: Deliver> MsrpTransport<D> {
    /// Without connections yet.
    pub fn new(shared: Shared<D>) -> Self {
        Self {
            shared: Rc::new(shared),
            writers: HashMap::default(),
        }
    }

    /// Accepts connections on `socket`, which is non-blocking.
    pub fn listen(&self, socket: std::net::TcpListener, secure: bool) -> io::Result<()> {
        let socket = TcpListener::from_std(socket)?;
        let shared = Rc::clone(&self.shared);
        let gate = shared.gate.clone();
        let metrics = Arc::clone(&shared.metrics);
        spawn_local(accept(
            socket,
            gate,
            metrics,
            move |stream, remote, place| {
                let id = ConnectionId::next(shared.shard);
                let (writer, queue) = writer(id, shared.settings.queue, &shared.memory);
                let key = Key {
                    remote,
                    secure: secure.then_some(id),
                };
                shared.registry.add(key, writer.clone());
                let connection =
                    Connection::new(Rc::clone(&shared), remote, writer, Origin::Accepted);
                let tls = shared.tls.clone().filter(|_| secure);
                match tls {
                    Some(tls) => spawn_local(accept_secure(connection, tls, stream, queue, place)),
                    None => spawn_local(connection.run(Stream::Plain(stream), queue, place)),
                };
            },
        ));
        Ok(())
    }

    /// A connection to `remote`, open or being opened (RFC 4975 §5.4: sessions may share one); see
    /// [`Writer::opened`]. `None` at the limit of connections.
    pub fn connect(&self, remote: SocketAddr, secure: Option<SecurePeer>) -> Option<Writer> {
        let shared = &self.shared;
        let id = ConnectionId::next(shared.shard);
        let key = Key {
            remote,
            secure: secure.is_some().then_some(id),
        };
        let mut opening = None;
        let found = shared.registry.find_or_open(key, shared.shard, || {
            let place = shared.gate.try_enter()?;
            let (writer, queue) = writer(id, shared.settings.queue, &shared.memory);
            opening = Some((queue, place));
            Some(writer)
        });
        match (found?, opening) {
            (Found::New(writer), Some((queue, place))) => {
                let connection =
                    Connection::new(Rc::clone(shared), remote, writer.clone(), Origin::Opened);
                spawn_local(open(connection, remote, secure, queue, place));
                Some(writer)
            }
            (Found::Open(writer) | Found::New(writer), _) => Some(writer),
        }
    }

    /// Queues octets; what is queued can still be lost, then [`Deliver::lost`] says so.
    pub fn send(&mut self, connection: ConnectionId, octets: Pieces) -> Result<(), Lost> {
        let shard = self.shared.shard;
        let sent = self.writer(connection)?.send(shard, octets);
        if sent.is_err() {
            self.shared.metrics.msrp_overflows.count();
        }
        sent
    }

    /// This shard needs a connection no more: it is closed once everything queued is written and no
    /// other shard uses it either (RFC 4975 §5.4: sessions may share one).
    pub fn close(&mut self, connection: ConnectionId) {
        self.writers.remove(&connection);
        self.shared.registry.release(connection, self.shared.shard);
    }

    /// Ends a connection at once, for all shards; [`Deliver::lost`] says so.
    pub fn end(&mut self, connection: ConnectionId) {
        if let Ok(writer) = self.writer(connection) {
            writer.abort();
        }
    }

    /// A connection asked for a session that nobody knows.
    pub fn stray(&self, connection: ConnectionId, now: Instant) {
        let key = self.shared.registry.key_of(connection);
        if let Some(key) = key {
            self.shared.offend(key.remote, Offence::UnknownSession, now);
        }
    }

    /// Drops what is remembered of a lost connection.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.writers.remove(&connection);
    }

    fn writer(&mut self, connection: ConnectionId) -> Result<&Writer, Lost> {
        let shared = &self.shared;
        match self.writers.entry(connection) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let found = shared.registry.find(connection, shared.shard).ok_or(Lost)?;
                Ok(place.insert(found))
            }
        }
    }
}

async fn open<D: Deliver>(
    connection: Connection<D>,
    remote: SocketAddr,
    secure: Option<SecurePeer>,
    queue: WriteQueue,
    place: Place,
) {
    let limit = connection.shared().settings.connect;
    let tls = connection.shared().tls.clone();
    match tokio::time::timeout(limit, establish(remote, secure, tls)).await {
        Ok(Ok(stream)) => connection.run(stream, queue, place).await,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "not connected");
            connection.end(queue).await;
        }
        Err(_) => {
            tracing::debug!(%remote, "not connected in time");
            connection.end(queue).await;
        }
    }
}

async fn establish(
    remote: SocketAddr,
    secure: Option<SecurePeer>,
    tls: Option<Tls>,
) -> io::Result<Stream> {
    let stream = TcpStream::connect(remote).await?;
    let Some(peer) = secure else {
        return Ok(Stream::Plain(stream));
    };
    let tls = tls.ok_or(io::ErrorKind::Unsupported)?;
    let secure = tls.connect(stream, &peer.name, peer.check).await?;
    Ok(Stream::Secure(Box::new(secure)))
}

/// Counts as one under way until it is dropped.
struct Handshake<'a> {
    metrics: &'a ShardMetrics,
    /// `None` only if nobody were counted any more.
    _permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Handshake<'a> {
    /// Waits for its turn.
    async fn begin(turns: &'a Semaphore, metrics: &'a ShardMetrics) -> Self {
        let permit = turns.acquire().await.ok();
        metrics.handshakes.rise();
        Self {
            metrics,
            _permit: permit,
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.metrics.handshakes.fall();
    }
}

/// A peer that does not come through the handshake in time is let go. So many handshakes are under way at once;
/// who comes beyond that has less time for his.
async fn accept_secure<D: Deliver>(
    connection: Connection<D>,
    tls: Tls,
    stream: TcpStream,
    queue: WriteQueue,
    place: Place,
) {
    let limit = connection.shared().settings.first;
    let shared = connection.shared();
    let handshake = async {
        // Who says nothing stands in nobody's way; who has begun gets a short time for the costly part.
        stream.readable().await?;
        let _under_way = Handshake::begin(&shared.handshakes, &shared.metrics).await;
        let accepted = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await;
        accepted.unwrap_or_else(|late| Err(late.into()))
    };
    let outcome = tokio::time::timeout(limit, handshake).await;
    match outcome {
        Ok(Ok(secure)) => {
            let stream = Stream::Secure(Box::new(secure));
            connection.run(stream, queue, place).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "no TLS");
            connection.end(queue).await;
        }
        Err(_) => {
            tracing::debug!("no TLS in time");
            connection.end(queue).await;
        }
    }
}
