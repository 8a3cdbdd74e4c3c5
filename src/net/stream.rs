//! The octets of a connection, with or without TLS: read and written at the same time by one task.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::buffers::ReadBuffers;
use super::sys;
use super::tls::TlsStream;

/// Entries written with one system call at most.
pub(super) const VECTOR: usize = 64;

/// See the module's text.
#[derive(Debug)]
pub enum Stream {
    /// As they come.
    Plain(TcpStream),
    /// Over TLS.
    Secure(Box<TlsStream>),
}

impl Stream {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(stream) => stream.tcp(),
        }
    }

    /// Waits for octets and appends them to `unfinished`, as [`Self::read`] does, where `buffers` lend room
    /// once there are some. Over TLS the session has buffers of its own.
    pub async fn read_into(
        &self,
        buffers: &ReadBuffers,
        unfinished: &mut BytesMut,
    ) -> io::Result<usize> {
        if let Self::Plain(stream) = self {
            stream.readable().await?;
            buffers.lend(unfinished);
        }
        self.read(unfinished).await
    }

    /// What was read has been handed on: `buffers` get back what was lent and not used.
    pub fn give_back(&self, buffers: &ReadBuffers, unfinished: &mut BytesMut) {
        match self {
            Self::Plain(_) => buffers.take_back(unfinished),
            Self::Secure(_) if unfinished.is_empty() => *unfinished = BytesMut::new(),
            Self::Secure(_) => {}
        }
    }

    /// Waits for octets and appends them; 0 at their end. It may return without any new ones, then
    /// with `WouldBlock`.
    pub async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => {
                stream.readable().await?;
                read_plain(stream, buffer)
            }
            Self::Secure(stream) => stream.read(buffer).await,
        }
    }

    /// Writes everything; fails when the peer takes nothing for `stall`.
    pub async fn write_all(&self, batch: &mut VecDeque<Bytes>, stall: Duration) -> io::Result<()> {
        match self {
            Self::Plain(stream) => write_plain(stream, batch, stall).await,
            Self::Secure(stream) => {
                while !batch.is_empty() {
                    let taken = stream.write(&slices(batch), stall).await?;
                    advance(batch, taken);
                }
                Ok(())
            }
        }
    }

    /// Nothing more will be written.
    pub fn end(&self) -> io::Result<()> {
        if let Self::Secure(stream) = self {
            stream.say_goodbye();
        }
        socket2::SockRef::from(self.tcp()).shutdown(Shutdown::Write)
    }
}

/// Reads what is there. When that does not fill the buffer the socket is empty, and is not asked again to
/// hear it say so.
fn read_plain(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    let mut read = 0;
    let outcome = stream.try_io(Interest::READABLE, || {
        let room = buffer.capacity() - buffer.len();
        read = sys::receive_stream(stream.as_fd(), buffer)?;
        match (1..room).contains(&read) {
            // Nothing is refused: tokio takes this word for an empty socket.
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    });
    match outcome {
        Err(error) if read == 0 => Err(error),
        _ => Ok(read),
    }
}

async fn write_plain(
    stream: &TcpStream,
    batch: &mut VecDeque<Bytes>,
    stall: Duration,
) -> io::Result<()> {
    while !batch.is_empty() {
        match try_write(stream, batch) {
            Ok(written) => advance(batch, written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writable = tokio::time::timeout(stall, stream.writable()).await;
                writable.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn try_write(stream: &TcpStream, batch: &VecDeque<Bytes>) -> io::Result<usize> {
    stream.try_write_vectored(&slices(batch))
}

/// The first of them.
fn slices(batch: &VecDeque<Bytes>) -> SmallVec<[IoSlice<'_>; VECTOR]> {
    let first = batch.iter().take(VECTOR);
    first.map(|octets| IoSlice::new(octets)).collect()
}

fn advance(batch: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = batch.front_mut() {
        if written < front.len() {
            front.advance(written);
            return;
        }
        written -= front.len();
        batch.pop_front();
    }
}
