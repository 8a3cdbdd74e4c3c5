//! One shard's SIP connections over TCP: accepted, opened, reused, lost (RFC 3261 §18, Decision 13).
//!
//! A connection belongs to the shard that accepted or opened it; every shard can send on it through
//! the [`Registry`]. Next stop: [`super::connection`].

use bytes::Bytes;
use foldhash::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::spawn_local;

use super::connection::Connection;
use super::flow::{ConnectionId, Flow, Transport};
use crate::limits::memory::Account;
use crate::metrics::ShardMetrics;
use crate::net::accept::{Gate, Place, accept};
use crate::net::conversation::Origin;
use crate::net::registry::{Found, Registry};
use crate::net::writer::{Lost, WriteQueue, Writer, writer};
use crate::sip::message::Message;

/// Bounds of a SIP connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a connection may be silent; keep-alives count as life.
    pub idle: Duration,
    /// How long a message may take from its first octet to its last, and a peer that connects to
    /// its first message.
    pub message: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a peer may take nothing of what waits for it.
    pub stall: Duration,
    /// Octets that may wait for a peer.
    pub queue: usize,
    /// Octets in the body of one message.
    pub body: usize,
}

/// Where a connection's messages go.
pub trait Deliver: 'static {
    /// Hands a message to its shard, waiting until there is room; returns which shard that is.
    fn message(&self, flow: Flow, message: Message) -> impl Future<Output = u16>;

    /// Tells `shard` that `flow` is lost, waiting until there is room.
    fn lost(&self, shard: u16, flow: Flow) -> impl Future<Output = ()>;
}

/// What a connection is reused by: the listener whose address we go by, and the peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Index into `[sip] listen`.
    pub listener: u16,
    /// The peer.
    pub address: SocketAddr,
}

/// What all connections of a shard share.
#[derive(Debug)]
pub struct Shared<D> {
    /// The shard.
    pub shard: u16,
    /// Where the memory in use is written down.
    pub memory: Account,
    /// Bounds.
    pub settings: Settings,
    /// The connections of all shards.
    pub registry: Arc<Registry<Remote>>,
    /// Their number.
    pub gate: Gate,
    /// By listener, the address to connect from; `None`: any.
    pub sources: Vec<Option<IpAddr>>,
    /// Where messages go.
    pub deliver: D,
    /// What is counted.
    pub metrics: Arc<ShardMetrics>,
}

/// Sends over connections, opening them where needed; to be used within the shard's `LocalSet`.
#[derive(Debug)]
pub struct TcpTransport<D> {
    shared: Rc<Shared<D>>,
    by_id: HashMap<ConnectionId, Writer>,
    by_remote: HashMap<Remote, Writer>,
}

impl<D: Deliver> TcpTransport<D> {
    /// Without connections yet.
    pub fn new(shared: Shared<D>) -> Self {
        Self {
            shared: Rc::new(shared),
            by_id: HashMap::default(),
            by_remote: HashMap::default(),
        }
    }

    /// Accepts connections on `socket`, which is non-blocking, as those of `listener`.
    pub fn listen(&self, listener: u16, socket: std::net::TcpListener) -> io::Result<()> {
        let socket = TcpListener::from_std(socket)?;
        let shared = Rc::clone(&self.shared);
        let gate = shared.gate.clone();
        let metrics = Arc::clone(&shared.metrics);
        spawn_local(accept(
            socket,
            gate,
            metrics,
            move |stream, address, place| {
                let remote = Remote { listener, address };
                let (writer, queue) = writer(
                    ConnectionId::next(shared.shard),
                    shared.settings.queue,
                    &shared.memory,
                );
                shared.registry.add(remote, writer.clone());
                let connection =
                    Connection::new(Rc::clone(&shared), remote, writer, Origin::Accepted);
                spawn_local(connection.run(stream, queue, place));
            },
        ));
        Ok(())
    }

    /// Queues a message for `flow`; without a connection, for one that is open to the same address
    /// or opened now. What is queued can still be lost; then [`Deliver::lost`] says so.
    pub fn send(&mut self, flow: Flow, octets: Bytes) -> Result<(), Lost> {
        match flow.connection {
            Some(id) => self.send_on(id, octets),
            None => self.send_to(flow, octets),
        }
    }

    /// Drops what is remembered of a lost flow.
    pub fn forget(&mut self, flow: &Flow) {
        match flow.connection {
            Some(id) => self.by_id.remove(&id),
            None => self.by_remote.remove(&remote_of(flow)),
        };
    }

    fn send_on(&mut self, id: ConnectionId, octets: Bytes) -> Result<(), Lost> {
        let shard = self.shared.shard;
        if let Some(writer) = self.by_id.get(&id) {
            return writer.send(shard, octets);
        }
        let writer = self.shared.registry.find(id, shard).ok_or(Lost)?;
        let sent = writer.send(shard, octets);
        self.by_id.insert(id, writer);
        sent
    }

    fn send_to(&mut self, flow: Flow, octets: Bytes) -> Result<(), Lost> {
        let shard = self.shared.shard;
        let remote = remote_of(&flow);
        if let Some(writer) = self.by_remote.get(&remote) {
            if writer.send(shard, octets.clone()).is_ok() {
                return Ok(());
            }
            self.by_remote.remove(&remote);
        }
        let writer = self.find_or_connect(remote).ok_or(Lost)?;
        let sent = writer.send(shard, octets);
        self.by_remote.insert(remote, writer);
        sent
    }

    fn find_or_connect(&self, remote: Remote) -> Option<Writer> {
        let shared = &self.shared;
        let mut opening = None;
        let found = shared.registry.find_or_open(remote, shared.shard, || {
            let place = shared.gate.try_enter()?;
            let (writer, queue) = writer(
                ConnectionId::next(shared.shard),
                shared.settings.queue,
                &shared.memory,
            );
            opening = Some((queue, place));
            Some(writer)
        });
        match (found?, opening) {
            (Found::New(writer), Some((queue, place))) => {
                let connection =
                    Connection::new(Rc::clone(shared), remote, writer.clone(), Origin::Opened);
                let source = shared.sources.get(usize::from(remote.listener)).copied();
                spawn_local(open(connection, source.flatten(), queue, place));
                Some(writer)
            }
            (Found::Open(writer) | Found::New(writer), _) => Some(writer),
        }
    }
}

async fn open<D: Deliver>(
    connection: Connection<D>,
    source: Option<IpAddr>,
    queue: WriteQueue,
    place: Place,
) {
    let limit = connection.shared().settings.connect;
    let connecting = connect(source, connection.remote().address);
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(stream)) => connection.run(stream, queue, place).await,
        Ok(Err(error)) => {
            tracing::debug!(remote = %connection.remote().address, %error, "not connected");
            connection.end(queue).await;
        }
        Err(_) => {
            tracing::debug!(remote = %connection.remote().address, "not connected in time");
            connection.end(queue).await;
        }
    }
}

/// Connects from `source` if it is of the same family: peers know us by that address.
async fn connect(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(to).await
}

fn remote_of(flow: &Flow) -> Remote {
    debug_assert_eq!(flow.transport, Transport::Tcp);
    Remote {
        listener: flow.listener,
        address: flow.remote,
    }
}
