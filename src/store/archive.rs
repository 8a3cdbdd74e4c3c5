//! A store looked at without changing it: the folder of a stopped one, or a running one at one moment.
//!
//! An archive holds every segment open and knows how far it counts, so nothing that is appended or
//! compacted away meanwhile matters. What is live is judged by `survey`, as at a start. In memory are a
//! few numbers for each waiting message and the names of the bindings, never a body.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::deferred::StoreError;
use super::files::{self, File};
use super::footer::{About, Line};
use super::holdings::Holdings;
use super::index::{BindingEntry, Index};
use super::manifest::{Manifest, Place};
use super::newest;
use super::reader;
use super::record::{BindingRecord, Kind, MarksRecord, MessageRecord};
use super::request::{Refusal, Seq};
use super::segment::{self, Birth, Read, START, Segment};
use super::survey::{Fate, Survey};
use super::view;

/// Segments held open, and how far each counts.
pub struct Archive {
    /// Oldest first.
    pub(super) log: Vec<Volume>,
    pub(super) bodies: BTreeMap<u64, Volume>,
    /// Files that call themselves segments and are none of this store's.
    pub(super) strangers: Vec<Stranger>,
    /// Names that no store makes.
    pub(super) foreign: Vec<PathBuf>,
    _lock: Option<fs::File>,
}

/// One segment.
pub(super) struct Volume {
    pub(super) segment: Segment,
    /// `None` if both copies of its header are damaged.
    pub(super) birth: Option<Birth>,
    pub(super) length: u64,
    /// What a copy of it ends with: a mark behind what is durable, where nothing else tells.
    pub(super) ending: Vec<u8>,
}

/// A segment file that cannot be read as what its name says.
pub(super) struct Stranger {
    pub(super) path: PathBuf,
    pub(super) length: u64,
    pub(super) why: Strange,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strange {
    /// Its header says that it is another segment.
    Misnamed,
    /// Its header says that it is of another folder.
    Elsewhere,
    /// No header of the folder can be read.
    Unreadable,
}

/// A waiting message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) seq: Seq,
    pub(super) place: Place,
    /// It has a body in body segments.
    pub(super) large: bool,
    /// The view can hold it.
    pub(super) fits: bool,
}

/// What is live in an archive.
#[derive(Default)]
pub(super) struct Contents {
    /// By their place in the order.
    pub(super) messages: Vec<Live>,
    pub(super) holdings: Holdings,
    pub(super) marks: HashMap<Seq, MarksRecord, RandomState>,
    /// Of users and of nobody.
    pub(super) bindings: BTreeMap<(crate::identity::Identity, Box<str>), BindingEntry>,
    pub(super) survey: Survey,
}

/// A file up to a length; it cannot be written.
struct Upto {
    file: Arc<dyn File>,
    length: u64,
}

impl File for Upto {
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = into.len().min(left);
        let into = into.get_mut(..wanted).unwrap_or_default();
        self.file.read_at(into, position)
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn drop_cache(&self) {}
}

impl Archive {
    /// Opens the folder of a stopped server, or a backup. Nothing is written, not even a lock.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let (log, body) = (folder.join("log"), folder.join("body"));
        if !log.is_dir() {
            return Err(StoreError::Missing(folder.to_path_buf()));
        }
        let lock = lock(folder)?;
        let mut archive = Self {
            log: Vec::new(),
            bodies: BTreeMap::new(),
            strangers: Vec::new(),
            foreign: foreign(folder)?,
            _lock: lock,
        };
        let mut volumes = archive.read(&log)?;
        let bodies = match body.is_dir() {
            true => archive.read(&body)?,
            false => Vec::new(),
        };
        let births = volumes.iter().chain(&bodies);
        let salt = births
            .filter_map(|v| v.birth)
            .map(|birth| birth.salt)
            .next();
        volumes.retain_mut(|volume| archive.settle_salt(volume, salt));
        archive.log = volumes;
        for mut volume in bodies {
            if archive.settle_salt(&mut volume, salt) {
                archive.bodies.insert(volume.segment.number, volume);
            }
        }
        Ok(archive)
    }

    /// A running store as it is now: everything that was acknowledged before.
    pub(super) fn of_running(index: &Index) -> Self {
        let volumes = |segments: &super::usage::Segments, marked: bool| {
            let all = segments.0.values();
            all.map(|usage| {
                let mut volume = Volume::upto(&usage.segment, usage.total);
                if marked && !usage.sealed {
                    let seal = volume.segment.seal;
                    seal.frame(&mut volume.ending, volume.length, Kind::Synced, &[]);
                }
                volume
            })
            .collect::<Vec<_>>()
        };
        let bodies = volumes(&index.bodies, false);
        Self {
            log: volumes(&index.log, true),
            bodies: bodies.into_iter().map(|v| (v.segment.number, v)).collect(),
            strangers: Vec::new(),
            foreign: Vec::new(),
            _lock: None,
        }
    }

    fn read(&mut self, folder: &Path) -> Result<Vec<Volume>, StoreError> {
        let mut volumes = Vec::new();
        let mut numbers = Vec::new();
        for name in names(folder)? {
            match segment::number_of(&name) {
                Some(number) => numbers.push(number),
                None if name == "reserve" => {}
                None => self.foreign.push(folder.join(name)),
            }
        }
        numbers.sort_unstable();
        for number in numbers {
            let path = folder.join(segment::file_name(number));
            let file = files::open_to_read(&path).map_err(|e| StoreError::io(&path, e))?;
            let length = file.length().map_err(|e| StoreError::io(&path, e))?;
            let birth = match segment::read_birth(&*file).map_err(|e| StoreError::io(&path, e))? {
                Read::Sound(birth) => Some(birth),
                Read::Newer(format) => return Err(StoreError::Newer { path, format }),
                // Made, and never written to: there was no record in it.
                Read::Damaged | Read::Empty if length <= START => continue,
                Read::Damaged | Read::Empty => None,
            };
            if birth.is_some_and(|birth| birth.number != number) {
                let why = Strange::Misnamed;
                self.strangers.push(Stranger { path, length, why });
                continue;
            }
            let salt = birth.map_or(0, |birth| birth.salt);
            let file = Arc::new(Upto { file, length });
            volumes.push(Volume {
                segment: Segment::new(path, number, salt, file),
                birth,
                length,
                ending: Vec::new(),
            });
        }
        Ok(volumes)
    }

    /// A segment with a damaged header has the salt of the others; false if it is not one of theirs.
    fn settle_salt(&mut self, volume: &mut Volume, salt: Option<u64>) -> bool {
        let why = match (volume.birth, salt) {
            (Some(birth), Some(salt)) if birth.salt != salt => Strange::Elsewhere,
            (Some(_), _) => return true,
            (None, Some(salt)) => {
                volume.segment.seal.salt = salt;
                return true;
            }
            (None, None) => Strange::Unreadable,
        };
        self.strangers.push(Stranger {
            path: volume.segment.path.clone(),
            length: volume.length,
            why,
        });
        false
    }

    /// What is live, from lines that are asked for segment by segment, the newest first.
    pub(super) fn contents(
        &self,
        mut lines_of: impl FnMut(&Volume) -> io::Result<Vec<Line>>,
    ) -> io::Result<Contents> {
        let mut contents = Contents::default();
        for volume in self.log.iter().rev() {
            let lines = lines_of(volume)?;
            contents.add(volume, &lines)?;
        }
        contents.messages.sort_unstable_by_key(|live| live.seq);
        let messages = &contents.messages;
        contents
            .marks
            .retain(|seq, _| messages.binary_search_by_key(seq, |live| live.seq).is_ok());
        contents.bindings.retain(|_, entry| !entry.removed);
        Ok(contents)
    }

    pub(super) fn volume(&self, number: u64) -> Option<&Volume> {
        let found = self.log.binary_search_by_key(&number, |v| v.segment.number);
        self.log.get(found.ok()?)
    }

    /// The record of a message.
    pub(super) fn message(&self, live: &Live) -> Result<MessageRecord, Refusal> {
        let volume = self.volume(live.place.segment).ok_or(Refusal::Damaged)?;
        let record = reader::read_message(&volume.segment, live.place);
        record.map_err(|_| Refusal::Damaged)
    }

    /// The value of a binding.
    pub(super) fn binding(&self, entry: &BindingEntry) -> Option<Bytes> {
        let volume = self.volume(entry.place.segment)?;
        let read = volume
            .segment
            .read(entry.place.position, entry.place.length);
        let (kind, payload) = read.ok()?;
        BindingRecord::decode(kind, &payload)?.value
    }

    /// Octets of a large body.
    pub(super) fn body(
        &self,
        manifest: &Manifest,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, Refusal> {
        reader::read_extents(manifest, offset, length, |place| {
            let volume = self.bodies.get(&place.segment);
            let volume = volume.ok_or(Refusal::Damaged)?;
            match volume.segment.read(place.position, place.length) {
                Ok((Kind::Piece, payload)) => Ok(payload),
                _ => Err(Refusal::Damaged),
            }
        })
    }
}

impl Volume {
    fn upto(segment: &Segment, length: u64) -> Self {
        let file = Arc::new(Upto {
            file: segment.file.clone(),
            length,
        });
        let (path, number, salt) = (segment.path.clone(), segment.number, segment.seal.salt);
        Self {
            segment: Segment::new(path, number, salt, file),
            birth: None,
            length,
            ending: Vec::new(),
        }
    }
}

impl Contents {
    fn add(&mut self, volume: &Volume, lines: &[Line]) -> io::Result<()> {
        for line in lines {
            let place = line.place(volume.segment.number);
            match &line.about {
                About::Binding {
                    revision,
                    first,
                    user,
                    key,
                    removed,
                } => {
                    let entry = BindingEntry {
                        place,
                        revision: *revision,
                        first: *first,
                        removed: *removed,
                    };
                    let known = self.bindings.entry((user.clone(), key.clone()));
                    let known = known.or_insert(entry);
                    if (known.revision, known.place) < (entry.revision, entry.place) {
                        *known = entry;
                    }
                }
                About::Marks(record) => {
                    let known = self.marks.entry(record.seq);
                    let known = known.or_insert_with(|| record.clone());
                    if known.devices.len() < record.devices.len() {
                        *known = record.clone();
                    }
                }
                About::Message { .. } | About::Settled { .. } => {}
            }
        }
        let (messages, holdings) = (&mut self.messages, &mut self.holdings);
        self.survey.add(&volume.segment, lines, |message, fate| {
            if fate == Fate::Live {
                holdings.add(message.recipient, message.entry.length);
                messages.push(Live {
                    seq: message.seq,
                    place: message.entry.place,
                    large: !message.entry.shares.is_empty(),
                    fits: view::fits(message.recipient, &message.entry),
                });
            }
        })
    }
}

/// Keeps a server from starting meanwhile; a running one holds the lock itself.
fn lock(folder: &Path) -> Result<Option<fs::File>, StoreError> {
    let path = folder.join("lock");
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(&path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked(folder.to_path_buf())),
        // Some file systems have no locks; nothing is written here.
        Err(fs::TryLockError::Error(_)) => Ok(None),
    }
}

fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    };
    read().map_err(|e| StoreError::io(folder, e))
}

/// What else lies in the folder.
fn foreign(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    const OURS: [&str; 8] = [
        "log",
        "body",
        "view",
        "damaged",
        "lock",
        "nonce.key",
        "admin.token",
        newest::FILE,
    ];
    let names = names(folder)?.into_iter();
    let foreign = names.filter(|name| !OURS.contains(&name.as_str()));
    Ok(foreign.map(|name| folder.join(name)).collect())
}
