//! The life of an open connection, whatever it speaks: reading and writing at once, then an end that
//! loses nothing the peer should still get.

use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;

use super::stream::Stream;
use super::writer::{WriteQueue, Writer};

/// How long the end of a connection may take, once for what is still queued, once for the peer.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a silent connection is believed in before the kernel asks whether the peer is there.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// Which side opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The peer.
    Accepted,
    /// We.
    Opened,
}

/// Reads with `read` and writes what is queued, until either side is done; returns once nothing is
/// left to send. `read` ends when the peer closed or cannot be understood any more; `written` hears
/// what has left ([`WriteQueue::write_to`]).
pub async fn converse(
    stream: &Stream,
    writer: &Writer,
    queue: &mut WriteQueue,
    stall: Duration,
    read: impl Future<Output = ()>,
    written: impl AsyncFnMut(u16, usize),
) {
    tune(stream.tcp(), stall);
    queue.open();
    let mut aborted = pin!(queue.aborted());
    {
        let mut writing = pin!(queue.write_to(stream, stall, written));
        tokio::select! {
            () = &mut aborted => return,
            outcome = &mut writing => {
                if outcome.is_err() {
                    return;
                }
            }
            () = read => {
                writer.close();
                tokio::select! {
                    () = &mut aborted => return,
                    _ = tokio::time::timeout(FAREWELL, writing) => {}
                }
            }
        }
    }
    // The peer learns at once that nothing it sends from here on is read.
    let _ = stream.end();
    // Closing with unread octets would reset the connection and take our last words with it.
    let _ = tokio::time::timeout(FAREWELL, discard(stream.tcp())).await;
}

/// Messages are small and wanted at once; a peer that vanished without a word must be found out.
fn tune(stream: &TcpStream, stall: Duration) {
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_AFTER / 4)
        .with_retries(4);
    // Without these a connection works, only its loss is noticed later.
    let _ = stream.set_nodelay(true);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(stall));
}

async fn discard(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0; 4096]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}
