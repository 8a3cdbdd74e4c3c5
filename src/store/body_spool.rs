//! How the octets of a spool reach the disk, and how its room comes back.

use std::io;
use std::sync::atomic::Ordering;

use super::Health;
use super::body::Bodies;
use super::compact::KeeperJob;
use super::files;
use super::manifest::Piece;
use super::record::{Kind, encode_piece};
use super::request::Refusal;
use super::spool::{BUFFER, Owner, Spool};

/// Buffers of all spools together, at most; beyond it they go to disk at once.
const BUFFERS: usize = 16 * 1024 * 1024;

impl Bodies {
    /// The spool of that name, a new one if there is none.
    pub(super) fn spool(&mut self, owner: Owner) -> u64 {
        if let Some(id) = self.names.get(&owner) {
            return *id;
        }
        let id = self.next_spool;
        self.next_spool += 1;
        self.names.insert(owner, id);
        self.spools.insert(id, (owner, Spool::default()));
        id
    }

    pub(super) fn append(&mut self, id: u64, mut offset: u64, mut octets: &[u8]) {
        if offset.checked_add(octets.len() as u64).is_none() {
            return self.spoil(id, Refusal::Full);
        }
        while !octets.is_empty() {
            let Some((_, spool)) = self.spools.get_mut(&id) else {
                return;
            };
            if spool.failed.is_some() {
                return;
            }
            let taken = spool.extend(offset, octets);
            self.buffered += taken;
            offset += taken as u64;
            octets = octets.get(taken..).unwrap_or_default();
            let full = spool.buffered() == BUFFER || self.buffered > BUFFERS;
            if full || !octets.is_empty() {
                self.flush(id);
            }
        }
    }

    /// Writes a spool's buffer as a piece; not durable before the next sync.
    pub(super) fn flush(&mut self, id: u64) {
        let Some((offset, octets)) = self
            .spools
            .get_mut(&id)
            .and_then(|(_, spool)| spool.flush())
        else {
            return;
        };
        self.buffered -= octets.len();
        match self.write_piece(id, offset, &octets) {
            Ok(piece) => {
                if let Some((_, spool)) = self.spools.get_mut(&id) {
                    spool.add(piece);
                }
            }
            Err(error) if files::is_full(&error) => {
                if let Err(error) = self.appender.take_back() {
                    self.shared.poison("taking back a body", &error);
                }
                self.spoil(id, Refusal::Full);
            }
            Err(error) => {
                self.shared.poison("write of a body", &error);
                self.spoil(id, Refusal::Poisoned);
            }
        }
    }

    fn write_piece(&mut self, id: u64, offset: u64, octets: &[u8]) -> io::Result<Piece> {
        match self.shared.health() {
            Health::Serving => {}
            // What is left on the disk is for settlements.
            Health::Full => return Err(io::ErrorKind::StorageFull.into()),
            Health::Poisoned => return Err(io::Error::other("poisoned before")),
        }
        self.roll_if_full()?;
        let payload = encode_piece(id, offset, octets);
        let places = self.appender.append(&[(Kind::Piece, &payload)])?;
        let place = *places.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut index = self.shared.index();
        index.bodies.grew(place.segment, self.appender.end);
        index.bodies.keep(place);
        index.bodies.pin(place);
        Ok(Piece {
            offset,
            length: u32::try_from(octets.len()).map_err(io::Error::other)?,
            place,
        })
    }

    fn roll_if_full(&mut self) -> io::Result<()> {
        if !self.appender.is_full() {
            return Ok(());
        }
        let number = self.next_segment.fetch_add(1, Ordering::Relaxed);
        let full = self.appender.roll(number, 0)?;
        let segment = self.appender.segment.clone();
        let mut index = self.shared.index();
        index.bodies.insert(segment, self.appender.end, false);
        drop(index);
        let _ = self.keeper.send(KeeperJob::SealBody(full));
        Ok(())
    }

    fn spoil(&mut self, id: u64, why: Refusal) {
        if let Some((_, spool)) = self.spools.get_mut(&id) {
            spool.failed = Some(why);
        }
    }

    /// Releases a spool, or marks it if a `Put` is using it.
    pub(super) fn drop_spool(&mut self, id: u64) {
        match self.spools.get_mut(&id) {
            Some((_, spool)) if spool.taken.is_some() => spool.dropped = true,
            Some(_) => {
                let Some((owner, spool)) = self.spools.remove(&id) else {
                    return;
                };
                self.names.remove(&owner);
                self.buffered -= spool.buffered();
                let mut index = self.shared.index();
                for piece in &spool.pieces {
                    index.bodies.release(piece.place);
                    index.bodies.unpin(piece.place);
                }
                drop(index);
                let _ = self.keeper.send(KeeperJob::Look);
            }
            None => {}
        }
    }
}
