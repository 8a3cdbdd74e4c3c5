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
/// Then it asks so often at most, a while apart: one question or answer that is lost ends nothing.
const PROBES: u32 = 4;
const PROBE_AGAIN: Duration = Duration::from_secs(15);

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
    tune(stream.tcp());
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
fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_AGAIN)
        .with_retries(PROBES);
    // The kernel lets this time alone decide, also over the probes (tcp(7)): it has to leave room for them.
    let believed = PROBE_AFTER + PROBE_AGAIN * PROBES;
    // Without these a connection works, only its loss is noticed later.
    let _ = stream.set_nodelay(true);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(believed));
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_lost_probe_or_two_end_no_silent_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("connected");
        tune(&stream);
        let socket = socket2::SockRef::from(&stream);
        let first = socket.tcp_keepalive_time().expect("set");
        let again = socket.tcp_keepalive_interval().expect("set");
        let most = socket.tcp_user_timeout().expect("set").expect("bounded");
        assert!(most > first + 2 * again, "{most:?}");
        assert!(socket.keepalive().expect("set"));
    }
}
