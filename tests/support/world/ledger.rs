//! What was written, what was promised, what arrived: every broken promise is a fault.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use restante::clock::{Instant, UnixMillis};

use super::disk::Disk;

/// One message of one user to another.
#[derive(Debug)]
pub struct Entry {
    pub author: usize,
    pub recipient: usize,
    pub conversation: String,
    /// The whole body, as it was sent.
    pub body: Vec<u8>,
    /// What stands in its envelope, or the body itself.
    pub content: Vec<u8>,
    /// `imdn.Message-ID`, if it has one.
    pub message_id: Option<String>,
    pub is_notification: bool,
    /// Its recipient has told its author that he saw it; once more would be answered and dropped.
    pub has_receipt: bool,
    /// It asked to hear of its failure.
    pub asks_failure: bool,
    pub sent_at: Instant,
    pub expires: Option<UnixMillis>,
    /// The author holds a promise since then.
    pub acknowledged_at: Option<Instant>,
    /// The recipient's device has it since then.
    pub received_at: Option<Instant>,
    /// The server has known since then that the device has it.
    pub confirmed_at: Option<Instant>,
    /// A crash has undone what the server knew.
    pub may_repeat: bool,
    /// The notifications of its failure that the author got, by their own Message-IDs.
    pub failures: BTreeSet<String>,
}

/// How a message came to a device.
pub struct Delivery<'a> {
    pub octets: &'a [u8],
    /// When the server began to send it.
    pub begun: Instant,
    pub at: Instant,
    /// In a session that the recipient has opened.
    pub unregistered_in_call: bool,
}

/// See the module's text.
#[derive(Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
    pub faults: Vec<String>,
    /// When a recipient's devices, links or the server last misbehaved.
    pub disturbed: BTreeMap<usize, Instant>,
    /// The last things that happened, for a fault's story.
    story: std::collections::VecDeque<String>,
}

/// How long a request may be repeated by its sender, or lie on a link.
const LINGERS: Duration = Duration::from_secs(35);
/// Longer messages wait for a device that takes sessions; they and what waits behind them are
/// overtaken while they do.
const FITS_EVERY_DEVICE: usize = 50_000;
/// Lines of the story that are kept.
const STORY: usize = 3000;

impl Ledger {
    pub fn fault(&mut self, text: String) {
        self.tell(format!("FAULT {text}"));
        self.faults.push(text);
    }

    pub fn tell(&mut self, line: String) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story.push_back(line);
    }

    pub fn story(&self) -> String {
        self.story.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The message these octets belong to: its number stands between tildes.
    pub fn find(&self, octets: &[u8]) -> Option<usize> {
        let start = octets.windows(2).position(|pair| pair == b"~#")? + 2;
        let rest = octets.get(start..)?;
        let end = rest.iter().position(|octet| *octet == b'~')?;
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }

    /// The author was promised that the message will arrive.
    pub fn acknowledged(&mut self, id: usize, by_server: bool, disk: &Disk, now: Instant) {
        let entry = &mut self.entries[id];
        entry.acknowledged_at.get_or_insert(now);
        let is_safe = if by_server {
            disk.had(&entry.body)
        } else {
            disk.had(&entry.body) || entry.received_at.is_some()
        };
        if !is_safe {
            self.fault(format!(
                "message {id} was acknowledged and is nowhere durable"
            ));
        }
    }

    /// A device took the message.
    pub fn received(&mut self, id: usize, recipient: usize, delivery: &Delivery<'_>) {
        let Delivery {
            octets,
            begun,
            at: now,
            unregistered_in_call,
        } = *delivery;
        let entry = &mut self.entries[id];
        let mut faults = Vec::new();
        if entry.recipient != recipient {
            faults.push(format!("message {id} came to user {recipient}"));
        }
        if octets != entry.body && content_of(octets) != entry.content {
            faults.push(format!("message {id} came with other octets"));
        }
        if entry.confirmed_at.is_some_and(|at| at < begun) && !entry.may_repeat {
            faults.push(format!("message {id} came again after it was confirmed"));
        }
        let first = entry.received_at.is_none();
        entry.received_at.get_or_insert(now);
        // Who talks without being registered is there for that call: what was kept meanwhile waits on.
        if first && !unregistered_in_call {
            faults.extend(self.overtaken(id));
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// A message that was acknowledged before this one was written, and has not come yet.
    fn overtaken(&self, id: usize) -> Option<String> {
        let new = &self.entries[id];
        let calm_since = self.disturbed.get(&new.recipient).copied();
        let same = |old: &Entry| {
            (old.author, old.recipient) == (new.author, new.recipient)
                && old.conversation == new.conversation
                && old.acknowledged_at.is_some_and(|at| at < new.sent_at)
                && old.received_at.is_none()
        };
        let waits = |old: &Entry| same(old) && old.body.len() >= FITS_EVERY_DEVICE;
        if self.entries.iter().any(waits) {
            return None;
        }
        let older = self.entries.iter().position(|old| {
            same(old) && old.expires.is_none() && calm_since.is_none_or(|since| since < old.sent_at)
        })?;
        Some(format!("message {id} overtook message {older}"))
    }

    /// The server heard from the device that it has the message.
    pub fn confirmed(&mut self, id: usize, now: Instant) {
        let entry = &mut self.entries[id];
        if entry.received_at.is_some() {
            entry.confirmed_at.get_or_insert(now);
        }
    }

    /// A notification came to the author; `own_id` tells it from others.
    pub fn notified(&mut self, own_id: &str, message_id: &str, status: &str) {
        let about = self
            .entries
            .iter()
            .position(|entry| entry.message_id.as_deref() == Some(message_id));
        let Some(about) = about else {
            return self.fault(format!(
                "a notification about an unknown message {message_id}"
            ));
        };
        if self.entries[about].is_notification {
            self.fault(format!("a notification of the notification {about}"));
        }
        if status == "failed" {
            let entry = &mut self.entries[about];
            entry.failures.insert(own_id.to_owned());
            if entry.failures.len() > 1 && !entry.may_repeat {
                self.fault(format!("message {about} failed twice"));
            }
        }
    }

    /// What the server had not made durable it may do again: with what is still in custody, with what
    /// an author did not hear of, and with what never was in custody and is still on some link.
    pub fn crashed(&mut self, disk: &Disk, now: Instant) {
        let kept: Vec<usize> = disk.bodies().filter_map(|body| self.find(body)).collect();
        for (id, entry) in self.entries.iter_mut().enumerate() {
            let passed_lately = entry.sent_at + LINGERS > now && !disk.had(&entry.body);
            let unheard = entry.acknowledged_at.is_none();
            entry.may_repeat |= unheard || passed_lately || kept.contains(&id);
        }
        for user in 0..64 {
            self.disturbed.insert(user, now);
        }
    }

    /// Everything has been quiet for long: every promise must have been kept.
    pub fn settle(&mut self, wall: UnixMillis) {
        let mut faults = Vec::new();
        for (id, entry) in self.entries.iter().enumerate() {
            if entry.acknowledged_at.is_none() || entry.received_at.is_some() {
                continue;
            }
            match entry.expires {
                None => faults.push(format!("message {id} was acknowledged and never came")),
                Some(at) if at > wall => {
                    faults.push(format!("message {id} is lost before its time"))
                }
                Some(_) if entry.asks_failure && entry.failures.is_empty() => {
                    faults.push(format!("message {id} expired and nobody was told"));
                }
                Some(_) => {}
            }
        }
        for fault in faults {
            self.fault(fault);
        }
    }
}

/// What stands in an envelope.
pub fn content_of(octets: &[u8]) -> Vec<u8> {
    restante::demo::Envelope::read(octets)
        .map_or_else(|| octets.to_vec(), |envelope| envelope.content)
}
