//! One MSRP connection: frames cut as they arrive, each piece routed to the shard of its session.
//!
//! Reading waits for that shard's inbox, so a peer is slowed down to what its sessions can take, and
//! a message of any size passes in constant memory.

use bytes::Bytes;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use super::frame::{FrameEvent, shard_of};
use super::listener::{Deliver, Shared};
use super::reader::{FrameError, FrameReader};
use crate::clock::instant;
use crate::limits::memory::Kind;
use crate::limits::source::Way;
use crate::limits::sources::Offence;
use crate::net::accept::Place;
use crate::net::conversation::{Origin, converse};
use crate::net::stream::Stream;
use crate::net::writer::{WriteQueue, Writer};

/// Pieces of frames that are handed on together, at most: a shard has others to serve.
const TOGETHER: usize = 24;
/// What a connection costs in memory beside its buffers, in the octets that an optimised build asks for by
/// valgrind's dhat and the allocator's share: its task, its writer's first block of 1,824, its places in tables.
const CONNECTION: usize = 9_728;

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
                let now = instant();
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
        let mut held = self.shared.memory.hold(Kind::Connections, CONNECTION);
        let mut current = self.shared.shard;
        // Octets that complete nothing are not life: a head in drips ends like silence.
        let (mut alive, mut is_alive) = (instant(), false);
        let mut idle = match self.origin {
            // Who connects has something to say (RFC 4975 §5.4).
            Origin::Accepted => self.shared.settings.first,
            Origin::Opened => self.shared.settings.idle,
        };
        let mut patience = pin!(tokio::time::sleep(idle));
        loop {
            let (address, at) = (self.remote.ip(), instant());
            if std::mem::take(&mut is_alive) {
                alive = at;
            }
            if (self.shared.gate.sources()).is_banned(address, Way::Connections, at) {
                return Err(Stop::Banned);
            }
            tokio::select! {
                biased;
                read = self.read_some(stream, &mut frames) => {
                    read?;
                    // It stays as large while what was read waits for its shard.
                    held.set(CONNECTION + frames.buffer().capacity());
                    let had_any = self.pass_on(&mut frames, &mut current).await;
                    let unfinished = frames.buffer();
                    stream.give_back(&self.shared.buffers, unfinished);
                    held.set(CONNECTION + unfinished.capacity());
                    if had_any? {
                        is_alive = true;
                        let earlier = std::mem::replace(&mut idle, self.shared.settings.idle);
                        if idle < earlier {
                            patience.set(tokio::time::sleep(idle));
                        }
                    }
                }
                () = &mut patience => {
                    // It was set when less was known.
                    let left = idle.checked_sub(instant().since(alive));
                    let left = left.filter(|left| !left.is_zero()).ok_or(Stop::Silent)?;
                    patience.set(tokio::time::sleep(left));
                }
            }
        }
    }

    /// Waits for octets and gives them to `frames`.
    async fn read_some(&self, stream: &Stream, frames: &mut FrameReader) -> Result<(), Stop> {
        let buffers = &self.shared.buffers;
        match stream.read_into(buffers, frames.buffer()).await {
            Ok(0) => Err(Stop::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands on what is complete; tells whether there was anything.
    async fn pass_on(
        &self,
        frames: &mut FrameReader,
        current: &mut u16,
    ) -> Result<bool, FrameError> {
        let mut had_any = false;
        let mut events = Vec::new();
        let end = loop {
            let event = match frames.next() {
                Ok(Some(event)) => event,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            had_any = true;
            let owner = self.owner(&event, *current);
            if owner != *current || events.len() == TOGETHER {
                self.serve(*current, std::mem::take(&mut events)).await;
            }
            *current = owner;
            events.push(event);
        };
        self.serve(*current, events).await;
        end.map(|()| had_any)
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

    async fn serve(&self, shard: u16, events: Vec<FrameEvent>) {
        if events.is_empty() {
            return;
        }
        let known = self.served.borrow().contains(&shard);
        if !known {
            self.served.borrow_mut().push(shard);
            self.introduce(shard).await;
        }
        let id = self.writer.id();
        self.shared.deliver.events(shard, id, events).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;
    use tokio::task::LocalSet;

    use super::super::listener::{HANDSHAKES, MsrpTransport, Settings};
    use super::*;
    use crate::limits::memory::Account;
    use crate::limits::sources::Sources;
    use crate::metrics::Metrics;
    use crate::msrp::reader::Limits;
    use crate::net::accept::Gate;
    use crate::net::buffers::ReadBuffers;
    use crate::net::id::ConnectionId;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);

    struct Nobody;

    impl Deliver for Nobody {
        async fn events(&self, _: u16, _: ConnectionId, _: Vec<FrameEvent>) {}
        async fn written(&self, _: u16, _: ConnectionId, _: usize) {}
        async fn secured(&self, _: u16, _: ConnectionId, _: Option<Bytes>) {}
        async fn lost(&self, _: u16, _: ConnectionId) {}
    }

    #[tokio::test]
    async fn who_has_spoken_may_be_silent_for_less_time_than_who_has_not() {
        let silence = async {
            let transport = MsrpTransport::new(Shared {
                shard: 0,
                shards: 1,
                memory: Account::detached(),
                settings: Settings {
                    first: LONG,
                    idle: SHORT,
                    connect: LONG,
                    stall: LONG,
                    queue: 1 << 20,
                    frames: Limits::default(),
                },
                registry: Arc::default(),
                tls: None,
                gate: Gate::new(10, 10, Arc::new(Sources::without_limits())),
                handshakes: Semaphore::new(HANDSHAKES),
                deliver: Nobody,
                metrics: Metrics::new(1).shard(0),
                buffers: ReadBuffers::default(),
            });
            let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
            let mut sockets = crate::net::bind::tcp(loopback, 1).expect("bound");
            let socket = sockets.pop().expect("one for each shard");
            let address = socket.local_addr().expect("bound");
            transport.listen(socket, false).expect("listening");
            let mut line = TcpStream::connect(address).await.expect("connected");
            let frame = b"MSRP tran1 200 OK\r\nTo-Path: msrp://a:1/x;tcp\r\n\
                From-Path: msrp://b:1/y;tcp\r\n-------tran1$\r\n";
            line.write_all(frame).await.expect("sent");
            let mut rest = Vec::new();
            let end = tokio::time::timeout(LONG / 10, line.read_to_end(&mut rest)).await;
            end.expect("closed in time").expect("an orderly end");
        };
        LocalSet::new().run_until(silence).await;
    }
}
