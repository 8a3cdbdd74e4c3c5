//! A socket of many phones: datagrams in batches, in and out.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bytes::Bytes;
use restante::net::sys::{self, BATCH, Datagram, ReceiveBuffers};

use super::sys::{Wish, wait};

/// Room in the kernel, so that a burst is not lost.
const ROOM: usize = 4 << 20;
/// How long one message of a conversation may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module's text.
pub struct Line {
    socket: UdpSocket,
    local: SocketAddr,
    buffers: ReceiveBuffers,
    out: Vec<(SocketAddr, Bytes)>,
}

impl Line {
    /// A socket on a free port.
    pub fn new() -> Self {
        let kind = socket2::Type::DGRAM;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).expect("a socket");
        socket.set_recv_buffer_size(ROOM).expect("a buffer");
        socket.set_send_buffer_size(ROOM).expect("a buffer");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("bound");
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(true).expect("set");
        Self {
            local: socket.local_addr().expect("bound"),
            socket,
            buffers: ReceiveBuffers::default(),
            out: Vec::with_capacity(BATCH),
        }
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Leaves with the next `flush`.
    pub fn send(&mut self, to: SocketAddr, octets: impl Into<Bytes>) {
        self.out.push((to, octets.into()));
    }

    /// Sends what is to be sent. What the kernel has no room for is lost, as on any network.
    pub fn flush(&mut self) {
        let mut rest = self.out.as_slice();
        while let Ok(sent @ 1..) = sys::send(self.socket.as_fd(), rest, |_| 1) {
            rest = &rest[sent..];
            if rest.is_empty() {
                break;
            }
        }
        self.out.clear();
    }

    /// What has come, without waiting.
    pub fn receive(&mut self, into: &mut Vec<Datagram>) {
        while let Ok(BATCH) = self.buffers.receive(self.socket.as_fd(), into) {}
    }

    /// Sends one message now.
    pub fn tell(&mut self, to: SocketAddr, octets: impl Into<Bytes>) {
        self.send(to, octets);
        self.flush();
    }

    /// The next message for which `is_it` says so; others are passed over.
    pub fn hear(&mut self, is_it: impl Fn(&[u8]) -> bool) -> Datagram {
        let deadline = restante::clock::now().instant + PATIENCE;
        let mut came = Vec::new();
        while restante::clock::now().instant < deadline {
            wait(&[Wish::to_read(self.socket())], PATIENCE);
            self.receive(&mut came);
            if let Some(found) = came.drain(..).find(|datagram| is_it(&datagram.octets)) {
                return found;
            }
        }
        panic!("what was waited for did not come");
    }
}
