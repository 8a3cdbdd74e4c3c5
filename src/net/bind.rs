//! Sockets bound once per shard to the same address.
//!
//! `SO_REUSEPORT` lets the kernel spread peers over the shards' sockets, but would also let a second
//! process of the same user join them unnoticed. So the first socket is bound without it, which
//! fails if the address is taken, and gets the option before the others are bound.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// Room for a burst while a shard is busy: about 3,000 requests. The kernel may grant less.
const UDP_RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Answers leave in batches; this absorbs a slow interface.
const UDP_SEND_BUFFER: usize = 1024 * 1024;
/// Connections that wait to be accepted, per shard.
const BACKLOG: i32 = 1024;

/// A UDP socket for each of `shards`, all on `address`; port 0 becomes one free port for all.
pub fn udp(address: SocketAddr, shards: u16) -> io::Result<Vec<UdpSocket>> {
    let sockets = bind_all(address, shards, Type::DGRAM, Protocol::UDP)?;
    for socket in &sockets {
        // Best effort: net.core.rmem_max decides.
        let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER);
        let _ = socket.set_send_buffer_size(UDP_SEND_BUFFER);
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// A listening TCP socket for each of `shards`, all on `address`; port 0 becomes one free port for
/// all.
pub fn tcp(address: SocketAddr, shards: u16) -> io::Result<Vec<TcpListener>> {
    let sockets = bind_all(address, shards, Type::STREAM, Protocol::TCP)?;
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

fn bind_all(
    mut address: SocketAddr,
    shards: u16,
    kind: Type,
    protocol: Protocol,
) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::with_capacity(usize::from(shards));
    for _ in 0..shards {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            // An IPv4 listener on the same port is a listener of its own.
            socket.set_only_v6(true)?;
        }
        if kind == Type::STREAM {
            // A restart must not wait for the old connections' TIME-WAIT.
            socket.set_reuse_address(true)?;
        }
        let first = sockets.is_empty();
        if !first {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        if first {
            socket.set_reuse_port(true)?;
            address = local_address(&socket)?;
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::Duration;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn datagrams_of_many_peers_reach_every_shard() {
        let sockets = udp(loopback(), 4).expect("bound");
        let to = sockets[0].local_addr().expect("bound");
        assert!(sockets.iter().all(|one| one.local_addr().ok() == Some(to)));
        for _ in 0..200 {
            let peer = UdpSocket::bind(loopback()).expect("bound");
            peer.send_to(b"x", to).expect("sent");
        }
        for socket in &sockets {
            socket.recv(&mut [0; 8]).expect("every shard gets some");
        }
    }

    #[test]
    fn connections_of_many_peers_reach_every_shard() {
        let listeners = tcp(loopback(), 4).expect("bound");
        let to = listeners[0].local_addr().expect("bound");
        let peers: Vec<_> = (0..200)
            .map(|_| TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("connected"))
            .collect();
        for listener in &listeners {
            listener.accept().expect("every shard gets some");
        }
        drop(peers);
    }

    #[test]
    fn an_address_in_use_is_an_error_even_for_the_same_user() {
        let taken = udp(loopback(), 2).expect("bound");
        let address = taken[0].local_addr().expect("bound");
        let error = udp(address, 2).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        let taken = tcp(loopback(), 2).expect("bound");
        let address = taken[0].local_addr().expect("bound");
        let error = tcp(address, 2).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
