//! One SIP connection over TCP: messages cut, parsed and delivered; keep-alives answered.
//!
//! A peer that is slow in either direction costs a bounded amount of memory and time: reading waits
//! for the shard that a message belongs to, a message must be whole in time, writing is bounded by
//! [`crate::net::writer`].

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

use super::flow::{Flow, Transport};
use super::refusal;
use super::tcp::{Deliver, Remote, Shared};
use crate::clock::{Instant, now};
use crate::limits::memory::Kind;
use crate::limits::source::Way;
use crate::limits::sources::{Judgement, Offence};
use crate::net::accept::Place;
use crate::net::conversation::{Origin, converse};
use crate::net::stream::Stream;
use crate::net::writer::{WriteQueue, Writer};
use crate::sip::stream::{Framed, StreamFramer};
use crate::sip::wire::{self, WireError};

/// What a connection costs in memory beside its buffers, in the octets that an optimised build asks for by
/// valgrind's dhat and the allocator's share: its task 4,608, its writer's first block 1,824, its places in tables.
const CONNECTION: usize = 8_192;

/// A connection that is open or being opened.
#[derive(Debug)]
pub struct Connection<D> {
    shared: Rc<Shared<D>>,
    remote: Remote,
    writer: Writer,
    origin: Origin,
    /// The shards that got a message of it.
    served: RefCell<Vec<u16>>,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("closed by the peer")]
    Closed,
    #[error("nothing came for too long")]
    Silent,
    #[error("a message took too long")]
    Slow,
    #[error("its address is banned")]
    Banned,
    #[error("the peer does not read its answers")]
    Deaf,
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl<D: Deliver> Connection<D> {
    /// A connection with `remote` that `writer` writes to.
    pub fn new(shared: Rc<Shared<D>>, remote: Remote, writer: Writer, origin: Origin) -> Self {
        Self {
            shared,
            remote,
            writer,
            origin,
            served: RefCell::default(),
        }
    }

    /// What all connections of the shard share.
    pub fn shared(&self) -> &Shared<D> {
        &self.shared
    }

    /// With whom.
    pub fn remote(&self) -> Remote {
        self.remote
    }

    /// Serves the connection until its end. It keeps its place within the limit as long.
    pub async fn run(self, stream: TcpStream, mut queue: WriteQueue, place: Place) {
        self.shared.metrics.sip_connections.rise();
        let stall = self.shared.settings.stall;
        let stream = Stream::Plain(stream);
        let read = async {
            let stop = self.read(stream.tcp()).await;
            tracing::debug!(remote = %self.remote.address, %stop, "connection ends");
        };
        let written = async |_, _| ();
        converse(&stream, &self.writer, &mut queue, stall, read, written).await;
        self.shared.metrics.sip_connections.fall();
        drop(stream);
        drop(place);
        self.end(queue).await;
    }

    /// Tells everyone concerned that the connection has ended, or was never opened.
    pub async fn end(self, queue: WriteQueue) {
        // From here on sending fails; whoever sent before is told below.
        drop(queue);
        let interested = self.shared.registry.remove(self.writer.id());
        let mut by_id = self.served.into_inner();
        by_id.extend(interested.by_id);
        by_id.sort_unstable();
        by_id.dedup();
        let flow = Flow {
            transport: Transport::Tcp,
            listener: self.remote.listener,
            remote: self.remote.address,
            connection: None,
        };
        for shard in interested.by_key {
            self.shared.deliver.lost(shard, flow).await;
        }
        let connection = Some(self.writer.id());
        for shard in by_id {
            let flow = Flow { connection, ..flow };
            self.shared.deliver.lost(shard, flow).await;
        }
    }

    async fn read(&self, stream: &TcpStream) -> Stop {
        let mut framer = StreamFramer::new(self.shared.settings.body);
        let memory = &self.shared.memory;
        let mut held = memory.hold(Kind::Connections, CONNECTION);
        let mut begun = None;
        let mut idle = match self.origin {
            // Who connects has something to say.
            Origin::Accepted => self.shared.settings.message,
            Origin::Opened => self.shared.settings.idle,
        };
        loop {
            match self.take_all(&mut framer).await {
                Ok(true) => {
                    begun = None;
                    idle = self.shared.settings.idle;
                }
                Ok(false) => {}
                // Where the next message begins is unknown: answer what can be answered, then give up.
                Err(Stop::Wire(error)) => {
                    self.answer(&error);
                    return Stop::Wire(error);
                }
                Err(stop) => return stop,
            }
            let buffer = framer.buffer();
            if buffer.is_empty() {
                // Who is silent holds no buffer.
                *buffer = BytesMut::new();
            }
            held.set(CONNECTION + buffer.capacity());
            let stall = self.shared.settings.stall;
            if self.writer.eased(stall).await.is_err() {
                return Stop::Deaf;
            }
            let limit = if framer.is_partial() {
                self.left(begun.get_or_insert_with(|| now().instant))
            } else {
                begun = None;
                Ok(idle)
            };
            let read = match limit {
                Ok(limit) => read_some(stream, &mut framer, limit).await,
                Err(stop) => Err(stop),
            };
            match read {
                // It stays as large while what was read waits for its turn.
                Ok(()) => held.set(CONNECTION + framer.buffer().capacity()),
                Err(Stop::Silent) if framer.is_partial() => return Stop::Slow,
                Err(stop) => return stop,
            }
        }
    }

    /// How long the message that began at `begun` may still take.
    fn left(&self, begun: &Instant) -> Result<Duration, Stop> {
        let spent = now().instant.since(*begun);
        let left = self.shared.settings.message.checked_sub(spent);
        left.ok_or(Stop::Slow)
    }

    /// Delivers every whole message; `true` if there was one.
    async fn take_all(&self, framer: &mut StreamFramer) -> Result<bool, Stop> {
        let mut any = false;
        while let Some(framed) = framer.next()? {
            any = true;
            match framed {
                // RFC 5626 §3.5.1: a double CRLF is answered by a single one.
                Framed::KeepAlive => self.send(Bytes::from_static(b"\r\n")),
                Framed::Message(octets) => {
                    self.wait_its_turn().await?;
                    self.take(octets).await;
                }
            }
        }
        Ok(any)
    }

    /// Who sends more than a source may is read no further until his time comes.
    async fn wait_its_turn(&self) -> Result<(), Stop> {
        let address = self.remote.address.ip();
        loop {
            let sources = self.shared.gate.sources();
            match sources.message(address, Way::Connections, now().instant) {
                Judgement::Pass(_) => return Ok(()),
                Judgement::Banned => return Err(Stop::Banned),
                Judgement::Wait(time) => {
                    self.shared.metrics.dropped_rate.count();
                    tokio::time::sleep(time).await;
                }
            }
        }
    }

    async fn take(&self, octets: Bytes) {
        match wire::parse(octets) {
            Ok(message) => {
                let flow = Flow {
                    transport: Transport::Tcp,
                    listener: self.remote.listener,
                    remote: self.remote.address,
                    connection: Some(self.writer.id()),
                };
                let shard = self.shared.deliver.message(flow, message).await;
                let mut served = self.served.borrow_mut();
                if !served.contains(&shard) {
                    served.push(shard);
                }
            }
            // The stream is still in step: only this message is refused.
            Err(error) => self.answer(&error),
        }
    }

    fn answer(&self, error: &WireError) {
        self.shared.metrics.sip_malformed.count();
        tracing::debug!(remote = %self.remote.address, %error, "malformed message");
        let (address, now) = (self.remote.address.ip(), now().instant);
        let (way, offence) = (Way::Connections, Offence::Malformed);
        if let Some(ban) = (self.shared.gate.sources()).offend(address, way, offence, now) {
            self.shared.metrics.bans.count();
            ban.tell(now);
        }
        if let Some(answer) = refusal::answer(error, self.remote.address) {
            self.send(answer);
        }
    }

    fn send(&self, octets: Bytes) {
        if self.writer.send(self.shared.shard, octets).is_err() {
            self.shared.metrics.sip_overflows.count();
        }
    }
}

/// Waits at most `limit` for octets and gives them to `framer`.
async fn read_some(
    stream: &TcpStream,
    framer: &mut StreamFramer,
    limit: Duration,
) -> Result<(), Stop> {
    let readable = tokio::time::timeout(limit, stream.readable()).await;
    readable.map_err(|_| Stop::Silent)??;
    let mut scratch = [0; 16 * 1024];
    match stream.try_read(&mut scratch) {
        Ok(0) => Err(Stop::Closed),
        Ok(length) => {
            framer.push(scratch.get(..length).unwrap_or_default());
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tcp::{Settings, TcpTransport};
    use super::*;
    use crate::limits::memory::Account;
    use crate::limits::sources::Sources;
    use crate::metrics::Metrics;
    use crate::net::accept::Gate;
    use crate::sip::message::Message;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::task::LocalSet;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);
    const REQUEST: &[u8] = b"OPTIONS sip:im.test SIP/2.0\r\nContent-Length: 0\r\n\r\n";

    struct Telling {
        tell: UnboundedSender<&'static str>,
        /// No message is ever taken.
        is_stuck: bool,
    }

    impl Deliver for Telling {
        async fn message(&self, _: Flow, _: Message) -> u16 {
            let _ = self.tell.send("message");
            if self.is_stuck {
                std::future::pending::<()>().await;
            }
            0
        }

        async fn lost(&self, _: u16, _: Flow) {
            let _ = self.tell.send("lost");
        }
    }

    type Listening = (
        TcpTransport<Telling>,
        UnboundedReceiver<&'static str>,
        SocketAddr,
    );

    /// A shard that listens, what it delivers, and its address.
    fn listening(idle: Duration, message: Duration) -> Listening {
        listening_as(idle, message, false, &Account::detached())
    }

    fn listening_as(
        idle: Duration,
        message: Duration,
        is_stuck: bool,
        memory: &Account,
    ) -> Listening {
        let (tell, told) = unbounded_channel();
        let transport = TcpTransport::new(Shared {
            shard: 0,
            memory: memory.clone(),
            settings: Settings {
                idle,
                message,
                connect: LONG,
                stall: LONG,
                queue: 1 << 20,
                body: 1000,
            },
            registry: std::sync::Arc::default(),
            gate: Gate::new(10, 10, std::sync::Arc::new(Sources::without_limits())),
            sources: Vec::new(),
            deliver: Telling { tell, is_stuck },
            metrics: Metrics::new(1).shard(0),
        });
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut sockets = crate::net::bind::tcp(loopback, 1).expect("bound");
        let socket = sockets.pop().expect("one for each shard");
        let address = socket.local_addr().expect("bound");
        transport.listen(0, socket).expect("listening");
        (transport, told, address)
    }

    async fn closes(line: &mut TcpStream) {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(LONG, line.read_to_end(&mut rest)).await;
        end.expect("closed in time").expect("an orderly end");
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_answered_before_the_connection_ends() {
        let flood = async {
            let (_transport, _told, address) = listening(LONG, LONG);
            let mut line = TcpStream::connect(address).await.expect("connected");
            let request = format!(
                "OPTIONS sip:im.test SIP/2.0\r\nVia: SIP/2.0/TCP h.test;branch=z9hG4bK1\r\n\
                 From: <sip:a@im.test>;tag=1\r\nTo: <sip:im.test>\r\nCall-ID: c\r\n\
                 CSeq: 1 OPTIONS\r\nSubject: {}",
                "x".repeat(400_000)
            );
            // It reads nothing before it has sent everything.
            line.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            let end = tokio::time::timeout(LONG, line.read_to_end(&mut answer)).await;
            end.expect("closed in time").expect("an orderly end");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("SIP/2.0 513 "), "{answer}");
            assert!(answer.contains("\r\nCall-ID: c\r\n"));
        };
        LocalSet::new().run_until(flood).await;
    }

    #[tokio::test]
    async fn a_message_that_comes_in_drips_ends_the_connection() {
        let drip = async {
            let (_transport, mut told, address) = listening(LONG, SHORT);
            let mut line = TcpStream::connect(address).await.expect("connected");
            line.write_all(REQUEST).await.expect("sent");
            assert_eq!(told.recv().await, Some("message"));
            line.write_all(&REQUEST[..20]).await.expect("sent");
            closes(&mut line).await;
            drop(line);
            assert_eq!(told.recv().await, Some("lost"));
        };
        LocalSet::new().run_until(drip).await;
    }

    #[tokio::test]
    async fn a_peer_that_connects_and_says_nothing_is_let_go() {
        let silence = async {
            let (_transport, _told, address) = listening(LONG, SHORT);
            let mut line = TcpStream::connect(address).await.expect("connected");
            closes(&mut line).await;
        };
        LocalSet::new().run_until(silence).await;
    }

    #[tokio::test]
    async fn a_connection_that_falls_silent_is_closed() {
        let silence = async {
            let (_transport, mut told, address) = listening(SHORT, LONG);
            let mut line = TcpStream::connect(address).await.expect("connected");
            line.write_all(REQUEST).await.expect("sent");
            assert_eq!(told.recv().await, Some("message"));
            closes(&mut line).await;
        };
        LocalSet::new().run_until(silence).await;
    }

    #[tokio::test]
    async fn what_was_read_is_accounted_while_it_waits_for_its_shard() {
        let stuck = async {
            let memory = Account::detached();
            let (_transport, mut told, address) = listening_as(LONG, LONG, true, &memory);
            let mut line = TcpStream::connect(address).await.expect("connected");
            let requests = REQUEST.repeat(100);
            line.write_all(&requests).await.expect("sent");
            assert_eq!(told.recv().await, Some("message"));
            let accounted = memory.ledger().of(Kind::Connections) as usize;
            assert!(accounted >= CONNECTION + requests.len(), "{accounted}");
        };
        LocalSet::new().run_until(stuck).await;
    }
}
