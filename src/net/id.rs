//! The name of a TCP connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// One TCP connection of this process, SIP or MSRP. The upper 16 bits name the shard that owns the
/// socket; an identifier is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The `serial`th connection of `shard`.
    pub const fn new(shard: u16, serial: u64) -> Self {
        Self(((shard as u64) << 48) | (serial & 0xffff_ffff_ffff))
    }

    /// The next connection of `shard`; unique in this process.
    pub fn next(shard: u16) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Self::new(shard, SERIAL.fetch_add(1, Ordering::Relaxed))
    }

    /// As a number, to be written down.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From what [`ConnectionId::number`] gave.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The shard whose runtime reads and writes the socket.
    pub const fn shard(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_names_its_shard_and_is_not_used_twice() {
        let first = ConnectionId::next(65_535);
        assert_eq!(first.shard(), 65_535);
        assert_ne!(first, ConnectionId::next(65_535));
        assert_eq!(ConnectionId::new(3, u64::MAX).shard(), 3);
    }
}
