//! The agents' SIP sockets: blocking, a thread for each, closed when the agent is dropped.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::sip_text::message_length;

/// What an agent speaks SIP over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// One stream to the server, and a listener for streams from it.
    Tcp,
}

/// The way a message came, on which its answer goes back.
#[derive(Clone, Debug)]
pub(super) enum Route {
    Udp(SocketAddr),
    Tcp(Arc<TcpStream>),
}

/// Told each whole message.
pub(super) type Receiver = Arc<dyn Fn(Route, &[u8]) + Send + Sync>;

/// How often a waiting thread looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(50);
const LARGEST_DATAGRAM: usize = 65_536;

pub(super) struct Wire {
    local: SocketAddr,
    server: Mutex<SocketAddr>,
    udp: Option<UdpSocket>,
    stream: Arc<Mutex<Option<Arc<TcpStream>>>>,
    receiver: Receiver,
    closed: Arc<AtomicBool>,
}

impl Wire {
    /// Opens sockets on a free port of the address that reaches the server, and starts to listen.
    pub(super) fn open(
        transport: Transport,
        server: SocketAddr,
        receiver: Receiver,
    ) -> io::Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let any = (address_towards(server)?, 0);
        let (local, udp) = match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(any)?;
                socket.set_read_timeout(Some(LOOK_UP))?;
                let reader = socket.try_clone()?;
                let (receiver, closed) = (Arc::clone(&receiver), Arc::clone(&closed));
                thread::spawn(move || read_datagrams(&reader, &receiver, &closed));
                (socket.local_addr()?, Some(socket))
            }
            Transport::Tcp => {
                let listener = TcpListener::bind(any)?;
                listener.set_nonblocking(true)?;
                let local = listener.local_addr()?;
                let (receiver, closed) = (Arc::clone(&receiver), Arc::clone(&closed));
                thread::spawn(move || accept_streams(&listener, &receiver, &closed));
                (local, None)
            }
        };
        Ok(Self {
            local,
            server: Mutex::new(server),
            udp,
            stream: Arc::new(Mutex::new(None)),
            receiver,
            closed,
        })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Where requests go from here on.
    pub(super) fn use_server(&self, server: SocketAddr) {
        *lock(&self.server) = server;
        self.drop_stream();
    }

    /// Sends a request to the server, opening the stream if there is none.
    pub(super) fn send(&self, octets: &[u8]) -> io::Result<()> {
        let server = *lock(&self.server);
        if let Some(udp) = &self.udp {
            return udp.send_to(octets, server).map(|_| ());
        }
        let stream = self.open_stream(server)?;
        if (&*stream).write_all(octets).is_ok() {
            return Ok(());
        }
        self.drop_stream();
        (&*self.open_stream(server)?).write_all(octets)
    }

    /// Sends an answer the way its request came.
    pub(super) fn send_back(&self, route: &Route, octets: &[u8]) -> io::Result<()> {
        match (route, &self.udp) {
            (Route::Udp(peer), Some(udp)) => udp.send_to(octets, peer).map(|_| ()),
            (Route::Tcp(stream), _) => (&**stream).write_all(octets),
            (Route::Udp(_), None) => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the stream to the server, as a lost network does.
    pub(super) fn drop_stream(&self) {
        if let Some(stream) = lock(&self.stream).take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn open_stream(&self, server: SocketAddr) -> io::Result<Arc<TcpStream>> {
        let mut current = lock(&self.stream);
        if let Some(stream) = &*current {
            return Ok(Arc::clone(stream));
        }
        let stream = Arc::new(TcpStream::connect_timeout(&server, Duration::from_secs(5))?);
        stream.set_nodelay(true)?;
        *current = Some(Arc::clone(&stream));
        let (reader, slot) = (Arc::clone(&stream), Arc::clone(&self.stream));
        let (receiver, closed) = (Arc::clone(&self.receiver), Arc::clone(&self.closed));
        thread::spawn(move || {
            read_stream(&reader, &receiver, &closed);
            let mut current = lock(&slot);
            if current
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, &reader))
            {
                *current = None;
            }
        });
        Ok(stream)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        self.drop_stream();
    }
}

/// The address of this host from which `peer` is reached.
fn address_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Nothing is sent: connecting a datagram socket only chooses the route.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

fn read_datagrams(socket: &UdpSocket, receiver: &Receiver, closed: &AtomicBool) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    while !closed.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            receiver(Route::Udp(peer), &buffer[..length]);
        }
    }
}

fn accept_streams(listener: &TcpListener, receiver: &Receiver, closed: &Arc<AtomicBool>) {
    while !closed.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stream = Arc::new(stream);
                let (receiver, closed) = (Arc::clone(receiver), Arc::clone(closed));
                thread::spawn(move || read_stream(&stream, &receiver, &closed));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn read_stream(stream: &Arc<TcpStream>, receiver: &Receiver, closed: &AtomicBool) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(LOOK_UP)));
    let mut unread = Vec::new();
    let mut buffer = [0; 16_384];
    while ready.is_ok() && !closed.load(Ordering::Relaxed) {
        match (&**stream).read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => unread.extend_from_slice(&buffer[..length]),
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
        while let Some(octets) = next_message(&mut unread) {
            receiver(Route::Tcp(Arc::clone(stream)), &octets);
        }
    }
}

/// Takes the first whole message; keep-alives before it (RFC 5626 §4.4.1) are dropped.
fn next_message(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let keep_alive = unread
        .iter()
        .take_while(|octet| matches!(octet, b'\r' | b'\n'))
        .count();
    unread.drain(..keep_alive);
    let length = message_length(unread)?;
    Some(unread.drain(..length).collect())
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
