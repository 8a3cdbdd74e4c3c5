//! What any octets on a disk are read as, in memory: what the fuzzing targets need of the store's formats.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::coding::{Decoder, Encoder};
use super::files::File;
use super::footer;
use super::manifest::Manifest;
use super::record::{self, BindingRecord, Kind, MarksRecord, MessageRecord, SettledRecord};
use super::segment::Segment;

/// Reads a payload as one of the seven things it may be and writes that; `None` if it is refused.
pub fn rewritten(kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let octets = Bytes::copy_from_slice(payload);
    let _ = record::head_of(payload);
    Some(match kind % 7 {
        0 => MessageRecord::decode(&octets)?.encode(),
        1 => SettledRecord::decode(payload)?.encode(),
        2 => BindingRecord::decode(Kind::PutBinding, &octets)?.encode(),
        3 => BindingRecord::decode(Kind::RemoveBinding, &octets)?.encode(),
        4 => MarksRecord::decode(&mut Decoder(payload))?.encode(),
        5 => footer::encode(&footer::decode(payload)?),
        _ => {
            let mut out = Encoder::default();
            Manifest::decode(&mut Decoder(payload))?.encode(&mut out);
            out.0
        }
    })
}

/// Scans octets as a segment file, and gives the places of what is found.
pub fn scanned(octets: &[u8]) -> Vec<Range<u64>> {
    let file = Arc::new(InMemory(octets.to_vec()));
    let segment = Segment::new(PathBuf::new(), 1, 1, file);
    let mut found = Vec::new();
    let scan = segment.scan(|record| {
        let _ = record.line();
        found.push(record.range());
    });
    let _ = (scan, segment.footer());
    found
}

/// A file that is only read.
struct InMemory(Vec<u8>);

impl File for InMemory {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        let octets = self.0.get(from..).unwrap_or_default();
        let count = octets.len().min(into.len());
        into[..count].copy_from_slice(&octets[..count]);
        Ok(count)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn drop_cache(&self) {}
}
