//! One MSRP connection: frames cut as they arrive, each piece routed to the shard of its session.
//!
//! Reading waits for that shard's inbox, so a peer is slowed down to what its sessions can take, and
//! a message of any size passes in constant memory.

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::frame::{FrameEvent, shard_of};
use super::listener::{Deliver, Shared};
use super::reader::{FrameError, FrameReader};
use crate::clock::now;
use crate::limits::memory::Kind;
use crate::limits::source::Way;
use crate::limits::sources::Offence;
use crate::net::accept::Place;
use crate::net::conversation::{Origin, converse};
use crate::net::stream::Stream;
use crate::net::writer::{WriteQueue, Writer};

/// Octets asked of the socket at once.
const READ: usize = 16 * 1024;
/// Where the last time there were as many as were asked for.
pub const READ_MORE: usize = 64 * 1024;
/// What a connection costs in memory beside its buffers; estimated.
const CONNECTION: usize = 4_096;

/// A connection that is open or being opened.
#[derive(Debug)]
pub struct Connection<D> {
    shared: Rc<Shared<D>>,
    remote: SocketAddr,
    writer: Writer,
    origin: Origin,
    /// The shards that got a frame of it.
    served: RefCell<Vec<u16>>,
    /// Over TLS: what the peer showed.
    secured: Option<Option<Bytes>>,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("closed by the peer")]
    Closed,
    #[error("nothing came for too long")]
    Silent,
    #[error("its address is banned")]
    Banned,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl<D: Deliver> Connection<D> {
    /// A connection with `remote` that `writer` writes to.
    pub fn new(shared: Rc<Shared<D>>, remote: SocketAddr, writer: Writer, origin: Origin) -> Self {
        Self {
            shared,
            remote,
            writer,
            origin,
            served: RefCell::default(),
            secured: None,
        }
    }

    /// What all connections of the shard share.
    pub fn shared(&self) -> &Shared<D> {
        &self.shared
    }

    /// Serves the connection until its end. It keeps its place within the limit as long.
    pub async fn run(mut self, stream: Stream, mut queue: WriteQueue, place: Place) {
        if let Stream::Secure(secure) = &stream {
            self.secured = Some(secure.certificate());
        }
        self.shared.metrics.msrp_connections.rise();
        let (id, stall) = (self.writer.id(), self.shared.settings.stall);
        let read = async {
            let stop = self.read(&stream).await.err().unwrap_or(Stop::Closed);
            if let Stop::Frame(_) = stop {
                self.shared.metrics.msrp_malformed.count();
                let now = now().instant;
                self.shared.offend(self.remote, Offence::Malformed, now);
            }
            tracing::debug!(remote = %self.remote, %stop, "connection ends");
        };
        let deliver = &self.shared.deliver;
        let written = async |shard, octets| deliver.written(shard, id, octets).await;
        converse(&stream, &self.writer, &mut queue, stall, read, written).await;
        self.shared.metrics.msrp_connections.fall();
        drop(stream);
        drop(place);
        self.end(queue).await;
    }

    /// Tells everyone concerned that the connection has ended, or was never opened.
    pub async fn end(self, queue: WriteQueue) {
        // From here on sending fails; whoever sent before is told below.
        drop(queue);
        let interested = self.shared.registry.remove(self.writer.id());
        let mut shards = self.served.into_inner();
        shards.extend(interested.by_id);
        shards.extend(interested.by_key);
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            self.shared.deliver.lost(shard, self.writer.id()).await;
        }
    }

    async fn read(&self, stream: &Stream) -> Result<(), Stop> {
        let mut frames = FrameReader::new(self.shared.settings.frames);
        let memory = &self.shared.memory;
        let mut held = memory.hold(Kind::Connections, CONNECTION);
        let mut current = self.shared.shard;
        // Octets that complete nothing are not life: a head in drips ends like silence.
        let mut alive = now().instant;
        let mut idle = match self.origin {
            // Who connects has something to say (RFC 4975 §5.4).
            Origin::Accepted => self.shared.settings.first,
            Origin::Opened => self.shared.settings.idle,
        };
        let mut most = READ;
        loop {
            while let Some(event) = frames.next()? {
                current = self.owner(&event, current);
                self.serve(current, event).await;
                alive = now().instant;
                idle = self.shared.settings.idle;
            }
            let buffer = frames.buffer();
            if buffer.is_empty() {
                // Who is silent holds no buffer.
                *buffer = BytesMut::new();
            }
            held.set(CONNECTION + buffer.capacity());
            let now = now().instant;
            let address = self.remote.ip();
            if (self.shared.gate.sources()).is_banned(address, Way::Connections, now) {
                return Err(Stop::Banned);
            }
            let silent = now.since(alive);
            let left = idle.checked_sub(silent);
            let read = read_some(stream, &mut frames, most, left.ok_or(Stop::Silent)?).await?;
            most = if read >= READ { READ_MORE } else { READ };
        }
    }

    /// The shard for a piece: data and ends follow their head; a session nobody knows is answered
    /// by this shard.
    fn owner(&self, event: &FrameEvent, current: u16) -> u16 {
        match event {
            FrameEvent::Data(_) | FrameEvent::End(_) => current,
            FrameEvent::Request(_) | FrameEvent::Response(_) => shard_of(event)
                .filter(|shard| *shard < self.shared.shards)
                .unwrap_or(self.shared.shard),
        }
    }

    /// A shard hears whose connection it is before it gets anything from it.
    async fn introduce(&self, shard: u16) {
        if let Some(certificate) = &self.secured {
            let (id, certificate) = (self.writer.id(), certificate.clone());
            self.shared.deliver.secured(shard, id, certificate).await;
        }
    }

    async fn serve(&self, shard: u16, event: FrameEvent) {
        {
            let known = self.served.borrow().contains(&shard);
            if !known {
                self.served.borrow_mut().push(shard);
                self.introduce(shard).await;
            }
        }
        let id = self.writer.id();
        self.shared.deliver.event(shard, id, event).await;
    }
}

/// Waits at most `limit` for octets, about `most` of them, and gives them to `frames`; how many.
async fn read_some(
    stream: &Stream,
    frames: &mut FrameReader,
    most: usize,
    limit: Duration,
) -> Result<usize, Stop> {
    let buffer = frames.buffer();
    let read = async {
        stream.readable().await?;
        if buffer.capacity() - buffer.len() < most / 2 {
            buffer.reserve(most);
        }
        stream.read(buffer).await
    };
    let read = tokio::time::timeout(limit, read).await;
    match read.map_err(|_| Stop::Silent)? {
        Ok(0) => Err(Stop::Closed),
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
