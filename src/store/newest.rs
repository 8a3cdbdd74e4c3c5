//! The number of the newest log segment, kept beside the log, so that its loss is noticed: a segment that was
//! never sealed is named nowhere else.
//!
//! It is written when a segment is begun, before anything in it is acknowledged, and never for a message.
//! A number goes to one of two places in turn, so that a write that never ends spoils the older one at most.
//! It is advice: a store whose number cannot be read or written works without.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::{File, Files};

/// The file in the data folder.
pub(super) const FILE: &str = "newest-segment";
/// One number and its checksum.
const ENTRY: usize = 12;
/// Apart, so that the disk writes each for itself.
const PLACES: [u64; 2] = [0, 4096];

/// Writes the number durably. After an error that does not say that the disk is full it may be on the disk
/// all the same.
pub(super) fn write(files: &dyn Files, data_dir: &Path, number: u64) -> io::Result<()> {
    let path = data_dir.join(FILE);
    let mut entry = [0; ENTRY];
    entry[..8].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c::crc32c(&entry[..8]);
    entry[8..].copy_from_slice(&sum.to_le_bytes());
    let place = PLACES[(number % 2) as usize];
    match files.open(&path) {
        Ok(file) => {
            file.write_at(&entry, place)?;
            file.sync().map_err(io::Error::other)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = files.create(&path)?;
            // Room for both, while there is some.
            file.allocate(PLACES[1] + ENTRY as u64)?;
            file.write_at(&entry, place)?;
            let synced = file.sync().and_then(|()| files.sync_dir(data_dir));
            synced.map_err(io::Error::other)
        }
        Err(error) => Err(error),
    }
}

/// The number that was written last to the file; `None` if there is no such file, as in a backup, or nothing
/// sound in it.
pub(super) fn read(opened: io::Result<Arc<dyn File>>) -> io::Result<Option<u64>> {
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut newest = None;
    for place in PLACES {
        let mut entry = [0; ENTRY];
        let whole = file.read_at(&mut entry, place)? == ENTRY;
        newest = newest.max(number_in(&entry).filter(|_| whole));
    }
    Ok(newest)
}

fn number_in(entry: &[u8; ENTRY]) -> Option<u64> {
    let number: [u8; 8] = entry[..8].try_into().ok()?;
    let sum = crc32c::crc32c(&number).to_le_bytes();
    (entry[8..] == sum).then(|| u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::DiskFiles;

    #[test]
    fn the_number_that_was_written_last_is_read_and_a_torn_one_leaves_that_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let read = || read(DiskFiles.open(&path)).expect("readable");
        assert_eq!(read(), None);
        for number in [1, 2, 3, 7] {
            write(&DiskFiles, folder.path(), number).expect("written");
            assert_eq!(read(), Some(number));
        }
        write(&DiskFiles, folder.path(), 8).expect("written");
        let file = DiskFiles.open(&path).expect("there");
        file.write_at(&[0xff; 5], PLACES[0]).expect("written");
        assert_eq!(read(), Some(7));
        file.truncate(0).expect("cut");
        assert_eq!(read(), None);
    }
}
