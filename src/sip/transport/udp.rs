//! One shard's socket of one UDP listener: datagrams in and out, in batches.
//!
//! RFC 3261 §18 leaves retransmission to the transaction layer, so what finds no room here is
//! dropped and counted. Next stop: [`crate::sip::wire`].

use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

use crate::metrics::ShardMetrics;
use crate::net::segments::Grouping;
use crate::net::sys::{self, BATCH, Datagram, ReceiveBuffers};

/// Datagrams that wait for the kernel at most.
const QUEUE: usize = 4096;

/// A socket with what waits to be sent on it.
#[derive(Debug)]
pub struct UdpTransport {
    socket: tokio::net::UdpSocket,
    buffers: ReceiveBuffers,
    outgoing: VecDeque<(SocketAddr, Bytes)>,
    grouping: Grouping,
    metrics: Arc<ShardMetrics>,
}

impl UdpTransport {
    /// Takes a bound, non-blocking socket; to be called within the shard's runtime.
    pub fn new(socket: std::net::UdpSocket, metrics: Arc<ShardMetrics>) -> io::Result<Self> {
        Ok(Self {
            socket: tokio::net::UdpSocket::from_std(socket)?,
            buffers: ReceiveBuffers::default(),
            outgoing: VecDeque::new(),
            grouping: Grouping::default(),
            metrics,
        })
    }

    /// Appends one batch of datagrams to `into`, keep-alives left out; pending when none wait.
    /// `true`: there may be more.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        into: &mut Vec<Datagram>,
    ) -> Poll<io::Result<bool>> {
        let before = into.len();
        loop {
            ready!(self.socket.poll_recv_ready(context))?;
            let mut filled = 0;
            let outcome = self.socket.try_io(Interest::READABLE, || {
                filled = self.buffers.receive(self.socket.as_fd(), into)?;
                if filled < BATCH {
                    // The socket is empty: this saves the call that would only find that out.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    self.metrics.udp_receive_failed.count();
                    return Poll::Ready(Err(error));
                }
                _ if filled == 0 => {}
                _ => {
                    self.metrics.udp_received.add(filled as u64);
                    self.sift(before, into);
                    return Poll::Ready(Ok(filled == BATCH));
                }
            }
        }
    }

    /// Nobody wants a datagram that was received: its memory serves again.
    pub fn take_back(&mut self, datagram: Datagram) {
        self.buffers.take_back(datagram.octets);
    }

    /// Drops what is no message from the datagrams after the first `from`.
    fn sift(&self, from: usize, datagrams: &mut Vec<Datagram>) {
        let mut index = 0;
        datagrams.retain(|datagram| {
            index += 1;
            if index <= from {
                return true;
            }
            if datagram.truncated {
                self.metrics.udp_truncated.count();
            } else if is_keep_alive(&datagram.octets) {
                self.metrics.udp_noise.count();
            } else {
                return true;
            }
            false
        });
    }

    /// Queues a datagram for the next [`UdpTransport::poll_flush`]; with too many waiting it is
    /// dropped.
    pub fn send(&mut self, remote: SocketAddr, octets: Bytes) {
        if self.outgoing.len() < QUEUE {
            self.outgoing.push_back((remote, octets));
        } else {
            self.metrics.udp_send_full.count();
        }
    }

    /// Hands what is queued to the kernel; pending while the kernel has no room.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.outgoing.is_empty() {
            if ready!(self.socket.poll_send_ready(context)).is_err() {
                return Poll::Ready(());
            }
            let batch = self.grouping.next(self.outgoing.make_contiguous());
            let run = |rest: &[(SocketAddr, Bytes)]| self.grouping.run(rest);
            let send = || sys::send(self.socket.as_fd(), batch, run);
            match self.socket.try_io(Interest::WRITABLE, send) {
                Ok(sent) => {
                    self.metrics.udp_sent.add(sent as u64);
                    self.grouping.sent(sent);
                    self.outgoing.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    let together = self.grouping.run(batch);
                    if self.grouping.refused(together) {
                        tracing::debug!(together, %error, "datagrams not sent as one");
                        continue;
                    }
                    // About the first one only: too long, or no route to it.
                    if let Some((remote, octets)) = self.outgoing.pop_front() {
                        tracing::debug!(%remote, length = octets.len(), %error, "datagram not sent");
                    }
                    self.grouping.sent(1);
                    self.metrics.udp_send_failed.count();
                }
            }
        }
        Poll::Ready(())
    }
}

/// Whether a datagram only keeps a path open: nothing but CR, LF, NUL or blanks (RFC 5626 §3.5.1
/// describes the double CRLF), or STUN (RFC 5626 §3.5.2), told by its magic cookie.
fn is_keep_alive(octets: &[u8]) -> bool {
    const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let is_stun = octets.first().is_some_and(|first| first & 0xc0 == 0)
        && octets.get(4..8) == Some(STUN_COOKIE.as_slice());
    is_stun || octets.iter().all(|octet| b"\r\n\0 \t".contains(octet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::net::bind;
    use std::future::poll_fn;

    fn transport() -> (UdpTransport, SocketAddr, Arc<ShardMetrics>) {
        let metrics = Metrics::new(1).shard(0);
        let mut sockets = bind::udp(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("bound");
        let socket = sockets.pop().expect("one for each shard");
        let address = socket.local_addr().expect("bound");
        let transport = UdpTransport::new(socket, Arc::clone(&metrics)).expect("registered");
        (transport, address, metrics)
    }

    #[tokio::test]
    async fn a_thousand_datagrams_pass_in_batches() {
        let (mut near, _, near_metrics) = transport();
        let (mut far, address, far_metrics) = transport();
        let mut got = Vec::new();
        for round in 0..10 {
            for index in 0..100_u32 {
                near.send(address, Bytes::from(format!("{}", round * 100 + index)));
            }
            poll_fn(|context| near.poll_flush(context)).await;
            while got.len() < 100 * (round as usize + 1) {
                let more = poll_fn(|context| far.poll_receive(context, &mut got)).await;
                more.expect("received");
            }
        }
        for (index, datagram) in got.iter().enumerate() {
            assert_eq!(datagram.octets, index.to_string());
        }
        assert_eq!(near_metrics.udp_sent.value(), 1000);
        assert_eq!(far_metrics.udp_received.value(), 1000);
    }

    #[tokio::test]
    async fn keep_alives_are_counted_and_dropped() {
        let (mut near, _, _) = transport();
        let (mut far, address, metrics) = transport();
        let stun = [
            0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
        ];
        for octets in [&b"\r\n\r\n"[..], b"", b"\0\0\0\0", &stun, b"OPTIONS"] {
            near.send(address, Bytes::copy_from_slice(octets));
        }
        poll_fn(|context| near.poll_flush(context)).await;
        let mut got = Vec::new();
        while got.is_empty() {
            let more = poll_fn(|context| far.poll_receive(context, &mut got)).await;
            more.expect("received");
        }
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].octets, "OPTIONS");
        assert_eq!(metrics.udp_noise.value(), 4);
    }

    #[tokio::test]
    async fn a_datagram_that_cannot_be_sent_does_not_hold_up_the_next() {
        let (mut near, _, metrics) = transport();
        let (mut far, address, _) = transport();
        near.send(address, Bytes::from(vec![0; 70_000]));
        near.send(address, Bytes::from_static(b"next"));
        poll_fn(|context| near.poll_flush(context)).await;
        let mut got = Vec::new();
        let more = poll_fn(|context| far.poll_receive(context, &mut got)).await;
        assert!(!more.expect("received"));
        assert_eq!(got[0].octets, "next");
        assert_eq!(metrics.udp_send_failed.value(), 1);
    }

    #[tokio::test]
    async fn what_waits_to_be_sent_is_bounded() {
        let (mut near, address, metrics) = transport();
        for _ in 0..QUEUE + 3 {
            near.send(address, Bytes::from_static(b"x"));
        }
        assert_eq!(metrics.udp_send_full.value(), 3);
    }
}
