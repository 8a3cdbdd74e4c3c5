//! JSON lines (`transfer`) into the folder of a stopped server.
//!
//! Messages keep their dates and their order and go behind what waits already. One that is there is not
//! taken twice, so an import that broke off is run again. Each line stands or falls alone: a message
//! whose pieces are not all there is not taken. Nothing counts as imported before it is durable.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::archive::Archive;
use super::client::StoreClient;
use super::deferred::{Store, StoreConfig, StoreError};
use super::record;
use super::request::{
    Body, DeferredMessage, Quota, Refusal, SpoolId, StoreEvent, StoreRequest, StoreToken,
};
use super::spool::BUFFER;
use super::transfer::{FORM, LONGEST_LINE, Line, Message, Octets, Totals};
use crate::identity::Identity;

/// How long to wait for an answer before asking again for a credit.
const WAIT: Duration = Duration::from_millis(20);

/// What was made of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// New in the store, and durable.
    pub taken: Totals,
    /// There already.
    pub present: Totals,
    /// Lines that were not taken; each was told.
    pub failed: u64,
    /// Lines read.
    pub lines: u64,
    /// The last line was there: nothing is missing at the end.
    pub complete: bool,
}

/// What is told while it goes on.
pub enum Told<'a> {
    /// A line was not taken, and why.
    Failed(u64, &'a str),
    /// So many lines were read.
    Lines(u64),
}

/// Why nothing more could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lines cannot be read.
    #[error("the lines: {0}")]
    Read(#[from] io::Error),
    /// The first line is not that of an export.
    #[error("line 1: this is not an export of a store")]
    Foreign,
    /// By a later version.
    #[error("line 1: form {0} is newer than this program knows")]
    Newer(u32),
    /// The store takes nothing more.
    #[error("line {0}: {1}; what was taken before stays, run the import again to go on")]
    Refused(u64, Refusal),
}

/// Takes lines into a folder, which is made if it is not there.
pub fn import(
    config: &StoreConfig,
    from: &mut dyn BufRead,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<Imported, ImportError> {
    let known = match Archive::open(&config.data_dir) {
        Ok(archive) => Known::of(&archive)?,
        Err(StoreError::Missing(_)) => Known::default(),
        Err(error) => return Err(error.into()),
    };
    let (sender, events) = mpsc::channel();
    let answer = move |event| drop(sender.send(event));
    let (store, clients, _) = Store::open(config, |_| 0, vec![Box::new(answer)])?;
    let outcome = match clients.into_iter().next() {
        Some(client) => Importer::new(client, events, known, tell).run(from),
        None => Ok(Imported::default()),
    };
    // Bindings and marks are durable only now.
    store.close();
    outcome
}

/// What is in the folder before.
#[derive(Default)]
struct Known {
    /// How often each message is there.
    messages: HashMap<u128, u32, RandomState>,
    bindings: HashMap<(Identity, Box<str>), Bytes, RandomState>,
}

impl Known {
    fn of(archive: &Archive) -> Result<Self, io::Error> {
        let contents = archive.contents(|volume| volume.segment.lines())?;
        let mut known = Self::default();
        for live in &contents.messages {
            if let Ok(record) = archive.message(live) {
                let length = record.body.length();
                let message = Message::new(Arc::unwrap_or_clone(record.message), &[], length, None);
                *known.messages.entry(message.known_by()).or_default() += 1;
            }
        }
        for (key, entry) in contents.bindings {
            if let Some(value) = archive.binding(&entry) {
                known.bindings.insert(key, value);
            }
        }
        Ok(known)
    }

    /// Whether a message is there, and not for an earlier line.
    fn has(&mut self, message: &Message) -> bool {
        match self.messages.get_mut(&message.known_by()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }
}

/// What waits for an answer.
enum Waiting {
    Message {
        line: u64,
        recipient: Identity,
        devices: Vec<u64>,
    },
    Document {
        line: u64,
    },
}

/// A message whose pieces are coming.
struct Large {
    line: u64,
    message: Arc<DeferredMessage>,
    devices: Vec<u64>,
    spool: SpoolId,
    length: u64,
    reached: u64,
    /// Its pieces are not wanted: it is there, or a piece was wrong.
    idle: bool,
}

struct Importer<'a> {
    client: StoreClient,
    events: Receiver<Vec<StoreEvent>>,
    known: Known,
    tell: &'a mut dyn FnMut(Told<'_>),
    done: Imported,
    waiting: HashMap<StoreToken, Waiting, RandomState>,
    next: u64,
    large: Option<Large>,
    stopped: Option<(u64, Refusal)>,
}

impl<'a> Importer<'a> {
    fn new(
        client: StoreClient,
        events: Receiver<Vec<StoreEvent>>,
        known: Known,
        tell: &'a mut dyn FnMut(Told<'_>),
    ) -> Self {
        Self {
            client,
            events,
            known,
            tell,
            done: Imported::default(),
            waiting: HashMap::default(),
            next: 0,
            large: None,
            stopped: None,
        }
    }

    fn run(mut self, from: &mut dyn BufRead) -> Result<Imported, ImportError> {
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = take_line(from, &mut text)?;
            if read == Taken::End {
                break;
            }
            self.done.lines += 1;
            let line = match read {
                Taken::TooLong => Err("it is too long".to_owned()),
                _ => serde_json::from_slice::<Line>(&text).map_err(|error| error.to_string()),
            };
            if self.done.lines == 1 {
                match line {
                    Ok(Line::RestanteExport { form: FORM }) => continue,
                    Ok(Line::RestanteExport { form }) => return Err(ImportError::Newer(form)),
                    _ => return Err(ImportError::Foreign),
                }
            }
            self.take(line);
            if let Some((line, refusal)) = self.stopped {
                self.settle();
                return Err(ImportError::Refused(line, refusal));
            }
            (self.tell)(Told::Lines(self.done.lines));
        }
        self.end_large();
        self.settle();
        match self.stopped {
            Some((line, refusal)) => Err(ImportError::Refused(line, refusal)),
            None => Ok(self.done),
        }
    }

    fn take(&mut self, line: Result<Line, String>) {
        if !matches!(line, Ok(Line::Piece { .. })) {
            self.end_large();
        }
        match line {
            Ok(Line::Message(message)) => self.message(*message),
            Ok(Line::Piece { offset, octets }) => self.piece(offset, octets),
            Ok(Line::Document { name, value }) => self.binding(record::nobody(), name, value),
            Ok(Line::Binding { user, key, value }) => match record::identity(&user) {
                Some(user) => self.binding(user, key, value),
                None => self.failed(self.done.lines, "the user makes no sense"),
            },
            Ok(Line::Damaged { recipient, .. }) => {
                let why = format!("a message for {recipient} was damaged when it was exported");
                self.failed(self.done.lines, &why);
            }
            Ok(Line::End(_)) => self.done.complete = true,
            Ok(Line::RestanteExport { .. }) => {
                self.failed(self.done.lines, "a second export begins here");
            }
            Err(why) => self.failed(self.done.lines, &why),
        }
    }

    fn failed(&mut self, line: u64, why: &str) {
        self.done.failed += 1;
        (self.tell)(Told::Failed(line, why));
    }

    fn message(&mut self, mut message: Message) {
        let line = self.done.lines;
        let is_known = self.known.has(&message);
        let (length, body) = (message.length, message.body.take());
        let (message, devices) = match message.read() {
            Ok(read) => read,
            Err(field) => return self.failed(line, &format!("{field} makes no sense")),
        };
        if is_known {
            self.done.present.messages += 1;
        }
        match body {
            None => {
                self.next += 1;
                self.large = Some(Large {
                    line,
                    message: Arc::new(message),
                    devices,
                    spool: SpoolId(self.next),
                    length,
                    reached: 0,
                    idle: is_known,
                });
            }
            Some(Octets(octets)) if octets.len() as u64 != length => {
                self.failed(line, "the body is not as long as length says");
            }
            Some(_) if is_known => {}
            Some(Octets(octets)) => {
                self.put(line, Arc::new(message), devices, Body::Inline(octets));
            }
        }
    }

    fn piece(&mut self, offset: u64, octets: Octets) {
        let Some(large) = &mut self.large else {
            return self.failed(self.done.lines, "a piece of no message");
        };
        if large.idle {
            return;
        }
        let reached = large.reached + octets.0.len() as u64;
        if offset != large.reached || reached > large.length {
            large.idle = true;
            let (line, spool) = (large.line, large.spool);
            self.failed(line, "its pieces do not fit together");
            return self.submit(StoreRequest::Drop { spool });
        }
        large.reached = reached;
        let spool = large.spool;
        for (index, octets) in split(&octets.0).enumerate() {
            let offset = offset + (index * BUFFER) as u64;
            self.submit(StoreRequest::Append {
                spool,
                offset,
                octets,
            });
        }
    }

    /// The message whose pieces came is whole, or not taken.
    fn end_large(&mut self) {
        let Some(large) = self.large.take() else {
            return;
        };
        if large.idle {
            return;
        }
        let (spool, length) = (large.spool, large.length);
        if large.reached != length {
            self.failed(large.line, "the end of its body is missing");
            return self.submit(StoreRequest::Drop { spool });
        }
        let body = Body::Spooled { spool, length };
        self.put(large.line, large.message, large.devices, body);
    }

    fn put(&mut self, line: u64, message: Arc<DeferredMessage>, devices: Vec<u64>, body: Body) {
        let token = self.token();
        let recipient = message.recipient.clone();
        let waiting = Waiting::Message {
            line,
            recipient,
            devices,
        };
        self.waiting.insert(token, waiting);
        self.submit(StoreRequest::Put {
            token,
            message,
            body,
            quota: Quota::NONE,
        });
    }

    fn binding(&mut self, user: Identity, key: Box<str>, Octets(value): Octets) {
        let line = self.done.lines;
        let is_document = user == record::nobody();
        let known = (user, key);
        match self.known.bindings.get(&known) {
            None => {}
            Some(present) if *present == value => {
                let present = &mut self.done.present;
                match is_document {
                    true => present.documents += 1,
                    false => present.bindings += 1,
                }
                return;
            }
            Some(_) => {
                let why = format!("{} is there already, and differs; it stays", known.1);
                return self.failed(line, &why);
            }
        }
        self.known.bindings.insert(known.clone(), value.clone());
        let (user, key) = known;
        if is_document {
            let token = self.token();
            self.waiting.insert(token, Waiting::Document { line });
            self.submit(StoreRequest::PutDocument { token, key, value });
        } else {
            self.done.taken.bindings += 1;
            self.submit(StoreRequest::PutBinding { user, key, value });
        }
    }

    fn token(&mut self) -> StoreToken {
        self.next += 1;
        StoreToken(self.next)
    }

    /// Hands a request over as soon as there is a credit for it.
    fn submit(&mut self, mut request: StoreRequest) {
        while let Err(back) = self.client.try_submit(request) {
            request = back;
            self.hear(WAIT);
        }
        while let Ok(events) = self.events.try_recv() {
            self.all_heard(events);
        }
    }

    /// Waits for every answer.
    fn settle(&mut self) {
        while !self.waiting.is_empty() && self.hear(Duration::from_secs(600)) {}
    }

    /// False if the store is silent.
    fn hear(&mut self, wait: Duration) -> bool {
        match self.events.recv_timeout(wait) {
            Ok(events) => self.all_heard(events),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn all_heard(&mut self, events: Vec<StoreEvent>) {
        for event in events {
            self.heard(event);
        }
    }

    fn heard(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Stored { token, seq } => {
                let Some(Waiting::Message {
                    recipient, devices, ..
                }) = self.waiting.remove(&token)
                else {
                    return;
                };
                self.done.taken.messages += 1;
                for device in devices {
                    let recipient = recipient.clone();
                    self.submit(StoreRequest::Mark {
                        recipient,
                        seq,
                        device,
                    });
                }
            }
            StoreEvent::Changed { token } => {
                let is_ours = self.waiting.remove(&token).is_some();
                self.done.taken.documents += u64::from(is_ours);
            }
            StoreEvent::Refused { token, refusal } => self.refused(token, refusal),
            _ => {}
        }
    }

    fn refused(&mut self, token: StoreToken, refusal: Refusal) {
        let Some(waiting) = self.waiting.remove(&token) else {
            return;
        };
        let (Waiting::Message { line, .. } | Waiting::Document { line }) = waiting;
        match refusal {
            Refusal::Full | Refusal::Poisoned => {
                self.stopped.get_or_insert((line, refusal));
            }
            refusal => self.failed(line, &refusal.to_string()),
        }
    }
}

/// A piece in parts of what one append may have.
fn split(octets: &Bytes) -> impl Iterator<Item = Bytes> {
    let parts = (0..octets.len()).step_by(BUFFER);
    parts.map(|from| octets.slice(from..octets.len().min(from + BUFFER)))
}

#[derive(PartialEq, Eq)]
enum Taken {
    Line,
    TooLong,
    End,
}

/// The next line; of one that is too long only the beginning, the rest is passed over.
fn take_line(from: &mut dyn BufRead, into: &mut Vec<u8>) -> io::Result<Taken> {
    let mut read = false;
    let mut too_long = false;
    loop {
        let available = from.fill_buf()?;
        if available.is_empty() {
            break;
        }
        read = true;
        let end = memchr::memchr(b'\n', available);
        let part = available.get(..end.unwrap_or(available.len()));
        let part = part.unwrap_or_default();
        too_long |= (into.len() + part.len()) as u64 > LONGEST_LINE;
        if !too_long {
            into.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            break;
        }
    }
    Ok(match (read, too_long) {
        (false, _) => Taken::End,
        (true, true) => Taken::TooLong,
        (true, false) => Taken::Line,
    })
}
