//! Backups: every segment of an archive, up to where it counts, as one stream of files; and back.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use super::archive::{Archive, Volume};
use super::segment;
use super::ustar;
use crate::clock::UnixMillis;

/// Octets in memory at a time.
const STEP: usize = 256 * 1024;

impl Archive {
    /// The segments as a stream of `tar`: what it unpacks to is the data folder of a server.
    pub fn pack(
        &self,
        now: UnixMillis,
        emit: &mut dyn FnMut(Bytes) -> io::Result<()>,
    ) -> io::Result<()> {
        let log = self.log.iter().map(|volume| ("log", volume));
        let bodies = self.bodies.values().map(|volume| ("body", volume));
        for (folder, volume) in log.chain(bodies) {
            let name = format!("{folder}/{}", segment::file_name(volume.segment.number));
            let header = ustar::header(&name, volume.whole_length(), now.0 / 1000)?;
            emit(Bytes::copy_from_slice(&header))?;
            volume.pour(emit)?;
            emit(vec![0; ustar::padding(volume.whole_length())].into())?;
        }
        emit(Bytes::from_static(&ustar::END))
    }

    /// Copies the segments into a new folder, durable when this returns.
    pub fn copy_to(&self, folder: &Path) -> io::Result<()> {
        make_folders(folder)?;
        let log = self.log.iter().map(|volume| ("log", volume));
        let bodies = self.bodies.values().map(|volume| ("body", volume));
        for (part, volume) in log.chain(bodies) {
            let name = segment::file_name(volume.segment.number);
            let mut file = new_file(&folder.join(part).join(name))?;
            volume.pour(&mut |octets| file.write_all(&octets))?;
            file.sync_all()?;
        }
        sync_folders(folder)
    }
}

impl Volume {
    fn whole_length(&self) -> u64 {
        self.length + self.ending.len() as u64
    }

    fn pour(&self, emit: &mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        let mut position = 0;
        while position < self.length {
            let left = usize::try_from(self.length - position).unwrap_or(STEP);
            let mut octets = vec![0; STEP.min(left)];
            if self.segment.file.read_at(&mut octets, position)? != octets.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            position += octets.len() as u64;
            emit(octets.into())?;
        }
        emit(Bytes::copy_from_slice(&self.ending))
    }
}

/// Unpacks a backup into a new folder, durable when this returns; says how many files. A stream that
/// breaks off is an error.
pub fn unpack(from: &mut impl Read, folder: &Path) -> io::Result<u64> {
    make_folders(folder)?;
    let mut files = 0;
    while let Some((name, length)) = ustar::next(from)? {
        let known = name.split_once('/').filter(|(part, file)| {
            matches!(*part, "log" | "body") && segment::number_of(file).is_some()
        });
        if known.is_none() {
            let text = "a name in it is not that of a segment";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut file = new_file(&folder.join(&name))?;
        if io::copy(&mut from.take(length), &mut file)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.sync_all()?;
        let mut padding = vec![0; ustar::padding(length)];
        from.read_exact(&mut padding)?;
        files += 1;
    }
    sync_folders(folder)?;
    Ok(files)
}

/// Whether nothing would be written over: the folder is not there, or empty.
pub fn is_free(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn make_folders(folder: &Path) -> io::Result<()> {
    for path in [
        folder.to_path_buf(),
        folder.join("log"),
        folder.join("body"),
    ] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
    }
    Ok(())
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for path in [
        folder.join("log"),
        folder.join("body"),
        folder.to_path_buf(),
    ] {
        fs::File::open(path)?.sync_all()?;
    }
    let above = folder.parent().filter(|path| !path.as_os_str().is_empty());
    fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

fn new_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}
