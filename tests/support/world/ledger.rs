//! What was written, what was promised, what arrived: every broken promise is a fault.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use restante::clock::{Instant, Now, UnixMillis};
use restante::demo::{Disposition, Envelope};
use restante::store::request::Settlement;

use super::disk::Disk;

/// A device as the marks of messages name it: which, and at which address if it states no instance.
pub type Device = (usize, u8);

/// One message of one user to another.
#[derive(Debug, Default)]
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
    /// What it tells of which messages, if it is a notification.
    pub tells: Vec<(usize, Disposition)>,
    /// Its recipient has told its author that he saw it; once more would be answered and dropped.
    pub has_receipt: bool,
    /// It asked to hear of its failure.
    pub asks_failure: bool,
    /// It was written in a call that its recipient has opened: it is welcome wherever it comes.
    pub in_his_call: bool,
    pub sent_at: Instant,
    pub expires: Option<UnixMillis>,
    /// The author holds a promise since then.
    pub acknowledged_at: Option<Instant>,
    /// The recipient's first device has it since then.
    pub received_at: Option<Instant>,
    /// The server has known since then that a device has it.
    pub confirmed_at: Option<Instant>,
    /// The same for each device.
    pub received_by: BTreeMap<Device, Instant>,
    pub confirmed_by: BTreeMap<Device, Instant>,
    /// The server has told its sender that it goes no further.
    pub turned_away: bool,
    /// It was sent in a session of its own.
    pub is_large: bool,
    /// A device has last refused it then; and one has refused it for good.
    pub refused_at: Option<Instant>,
    pub refused_for_good: bool,
    /// A crash has undone what the server knew.
    pub may_repeat: bool,
    /// The notifications of its failure that the author got, by their own Message-IDs.
    pub failures: BTreeSet<String>,
    /// The same for its delivery and its display.
    pub delivered: BTreeSet<String>,
    pub displayed: BTreeSet<String>,
    /// Its place in the store ends then.
    pub kept_until: Option<UnixMillis>,
    /// How it left the store last.
    pub settled: Option<Settlement>,
    /// Its author wanted it back.
    pub revoked: bool,
    /// The server has begun to tell its author that it failed, and how that left the store.
    pub told: bool,
    pub told_settled: bool,
}

/// How a message came to a device.
pub struct Delivery<'a> {
    pub octets: &'a [u8],
    /// When the server began to send it.
    pub begun: Instant,
    pub at: Instant,
    pub wall: UnixMillis,
    /// In a session of whoever is not registered, or only without its services; and in one that the
    /// recipient has opened.
    pub unregistered_in_call: bool,
    pub in_own_call: bool,
}

/// What a recipient wants, as far as promises depend on it.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Every device gets its copy.
    pub every: bool,
    /// He fetches.
    pub pull: bool,
    /// His queue is short; the oldest message may go.
    pub short: bool,
    pub drops_oldest: bool,
    /// Authors whose messages must not come.
    pub keeps_away: BTreeSet<usize>,
}

/// What a notification says of one message.
#[derive(Debug, PartialEq, Eq)]
pub struct Word {
    pub message_id: String,
    pub status: String,
}

impl Word {
    /// Every notification in a content.
    pub fn read(xml: &str) -> Vec<Self> {
        let documents = xml.split("<imdn ").skip(1);
        let word = |document: &str| {
            let status = between(document, "<status>", "</status>");
            let status = status.trim().trim_matches(['<', '/', '>', ' ']);
            Self {
                message_id: between(document, "<message-id>", "</message-id>").to_owned(),
                status: status.to_owned(),
            }
        };
        documents.map(word).collect()
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Ledger {
    pub seed: u64,
    pub entries: Vec<Entry>,
    pub faults: Vec<String>,
    /// When a recipient's devices, links or the server last misbehaved.
    pub disturbed: BTreeMap<usize, Instant>,
    pub wishes: Vec<Wishes>,
    /// Since when the wall clock has not been set; and the latest time it has shown.
    pub steady_since: Instant,
    pub latest_wall: UnixMillis,
    /// When the server was killed last.
    pub crashed_at: Option<Instant>,
    /// When the server last forgot, for want of room, what an author had heard of a message.
    pub forgot_at: Option<Instant>,
    /// How late a deadline may be looked at.
    pub lateness: Duration,
    /// The last things that happened, for a fault's story.
    story: std::collections::VecDeque<String>,
}

/// How long a request may be repeated by its sender, or lie on a link.
const LINGERS: Duration = Duration::from_secs(35);
/// Longer messages wait for a device that takes sessions; they and what waits behind them are
/// overtaken while they do.
const FITS_EVERY_DEVICE: usize = 50_000;
/// What came in a session of its own leaves by MESSAGE up to here (`[deferral] switchover_size`).
const SWITCHES_OVER: usize = 1_300;
/// What a device refuses so it will never take.
const FOR_GOOD: [u16; 15] = [
    403, 405, 406, 413, 414, 415, 416, 420, 421, 488, 493, 501, 505, 513, 606,
];
/// For so long what leaves by the other carrier waits behind what is put off (decision 3).
const PATIENCE: Duration = Duration::from_secs(120);
/// The server looks for what has expired once a second, and the store may be slow to say.
const EXPIRY_SLACK: Duration = Duration::from_secs(3);
/// Lines of the story that are kept.
const STORY: usize = 3000;

impl Entry {
    /// From so many octets on it may wait although there is a device.
    fn fits_every_device(&self) -> usize {
        match self.is_large {
            true => SWITCHES_OVER,
            false => FITS_EVERY_DEVICE,
        }
    }

    /// Whether it leaves in a session, if its recipient's devices have the choice.
    fn leaves_in_session(&self) -> bool {
        self.is_large || !(self.is_notification || self.conversation.starts_with('p'))
    }
}

impl Ledger {
    pub fn new(seed: u64, wishes: Vec<Wishes>, wall: UnixMillis, lateness: Duration) -> Self {
        Self {
            seed,
            wishes,
            latest_wall: wall,
            lateness,
            ..Self::default()
        }
    }

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
        let start = memchr::memmem::find(octets, b"~#")? + 2;
        let rest = octets.get(start..)?;
        let end = rest.iter().position(|octet| *octet == b'~')?;
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }

    /// The message with this `imdn.Message-ID`.
    pub fn named(&self, message_id: &str) -> Option<usize> {
        let number = message_id.strip_prefix("mid")?.split('x').next()?;
        let id: usize = number.parse().ok()?;
        (self.entries.get(id)?.message_id.as_deref() == Some(message_id)).then_some(id)
    }

    pub fn wishes(&self, user: usize) -> Wishes {
        self.wishes.get(user).cloned().unwrap_or_default()
    }

    /// A device has something to tell the author of messages it got: an entry of its own.
    pub fn write_receipt(
        &mut self,
        about: &[(usize, &Envelope)],
        disposition: Disposition,
        now: Now,
    ) -> usize {
        let id = self.entries.len();
        let (first, message) = about[0];
        let of = &self.entries[first];
        let (author, recipient, conversation) = (of.recipient, of.author, of.conversation.clone());
        let mark = format!("<!-- ~#{id}~ -->");
        let mut receipt = message.notification(disposition);
        receipt.date_time = message.date_time.clone();
        receipt.message_id = format!("mid{id}x{}", self.seed);
        if about.len() > 1 {
            let mut content = "--all\r\nContent-Type: message/imdn+xml\r\n\r\n".to_owned();
            let documents: Vec<String> = about
                .iter()
                .map(|(_, message)| message.notification(disposition).content_text())
                .collect();
            let between = "\r\n--all\r\nContent-Type: message/imdn+xml\r\n\r\n";
            content.push_str(&documents.join(between));
            content.push_str(&format!("{mark}\r\n--all--\r\n"));
            receipt.content_type = "multipart/mixed; boundary=\"all\"".to_owned();
            receipt.content = content.into_bytes();
        } else {
            receipt.content.extend_from_slice(mark.as_bytes());
        }
        self.tell(format!(
            "{:?} user{author} tells user{recipient} in {id}: {disposition:?} {:?}",
            now.instant,
            about.iter().map(|(id, _)| *id).collect::<Vec<_>>()
        ));
        self.entries.push(Entry {
            author,
            recipient,
            conversation,
            body: receipt.to_octets(),
            content: receipt.content,
            message_id: Some(receipt.message_id),
            is_notification: true,
            tells: about.iter().map(|(id, _)| (*id, disposition)).collect(),
            sent_at: now.instant,
            ..Entry::default()
        });
        id
    }

    /// The author was promised that the message will arrive.
    pub fn acknowledged(&mut self, id: usize, by_server: bool, disk: &Disk, now: Instant) {
        let (author, recipient) = (self.entries[id].author, self.entries[id].recipient);
        let is_dropped = self.wishes(recipient).keeps_away.contains(&author);
        // One that the author has had from another device is answered and goes no further.
        let is_heard = self.entries[id].is_notification && self.is_told_otherwise(id);
        let entry = &mut self.entries[id];
        entry.acknowledged_at.get_or_insert(now);
        let is_safe = if by_server {
            disk.had(&entry.body)
        } else {
            disk.had(&entry.body) || entry.received_at.is_some()
        };
        if !is_safe && !is_heard && !is_dropped {
            self.fault(format!(
                "message {id} was acknowledged and is nowhere durable"
            ));
        }
    }

    /// Whether another receipt than this one says the same.
    fn is_told_otherwise(&self, id: usize) -> bool {
        let own = &self.entries[id];
        let others = self.entries.iter().enumerate();
        others
            .filter(|(other, _)| *other != id)
            .any(|(_, other)| other.tells.iter().any(|word| own.tells.contains(word)))
    }

    /// A device did not take the message.
    pub fn refused(&mut self, octets: &[u8], status: u16, now: Instant) {
        if let Some(id) = self.find(octets) {
            self.tell(format!("{now:?} message {id} is refused with {status}"));
            let entry = &mut self.entries[id];
            entry.refused_at = Some(now);
            entry.refused_for_good |= FOR_GOOD.contains(&status);
        }
    }

    /// A device took the message; whether it is its first time there.
    pub fn received(
        &mut self,
        id: usize,
        recipient: usize,
        device: Device,
        delivery: &Delivery<'_>,
    ) -> bool {
        let Delivery {
            octets,
            begun,
            at: now,
            wall,
            unregistered_in_call,
            in_own_call,
        } = *delivery;
        let Some(author) = self.entries.get(id).map(|entry| entry.author) else {
            self.fault(format!("message {id} does not exist"));
            return false;
        };
        let wishes = self.wishes(recipient);
        let lateness = self.lateness;
        let (steady_since, crashed_at) = (self.steady_since, self.crashed_at);
        let entry = &mut self.entries[id];
        let mut faults = Vec::new();
        if entry.recipient != recipient {
            faults.push(format!("message {id} came to user {recipient}"));
        }
        // Whom he calls himself he hears, also later if the call broke off.
        let is_welcome = entry.is_notification || in_own_call || entry.in_his_call;
        if wishes.keeps_away.contains(&author) && !is_welcome {
            faults.push(format!("message {id} came to who keeps its author away"));
        }
        if octets != entry.body && content_of(octets) != entry.content {
            faults.push(format!("message {id} came with other octets"));
        }
        // What was never kept went to all devices at once.
        let known = match wishes.every || entry.kept_until.is_none() {
            true => entry.confirmed_by.get(&device).copied(),
            false => entry.confirmed_at,
        };
        if known.is_some_and(|at| at < begun) && !entry.may_repeat {
            faults.push(format!("message {id} came again after it was confirmed"));
        }
        if entry.settled == Some(Settlement::Withdrawn) && crashed_at.is_none() {
            faults.push(format!("message {id} came after it was taken back"));
        }
        if let Some(until) = entry.kept_until
            && steady_since < begun
        {
            let begun_wall = wall.0.saturating_sub(millis(now.since(begun)));
            if until.plus(EXPIRY_SLACK + lateness).0 < begun_wall {
                faults.push(format!("message {id} was sent after it had expired"));
            }
        }
        let first = entry.received_at.is_none();
        let first_here = !entry.received_by.contains_key(&device);
        entry.received_at.get_or_insert(now);
        entry.received_by.entry(device).or_insert(now);
        // Who talks without being registered is there for that call: what was kept meanwhile waits on.
        if first && !unregistered_in_call {
            faults.extend(self.overtaken(id, begun, wall));
        }
        for fault in faults {
            self.fault(fault);
        }
        first_here
    }

    /// A message that was acknowledged before this one was written, and has not come yet: whatever its devices do,
    /// that one has to come first (decision 3).
    fn overtaken(&self, id: usize, begun: Instant, wall: UnixMillis) -> Option<String> {
        let new = &self.entries[id];
        let wishes = self.wishes(new.recipient);
        // What waits until he asks is passed by what comes by itself.
        if wishes.pull || wishes.drops_oldest {
            return None;
        }
        let keeps_away = wishes.keeps_away.contains(&new.author);
        let same = |old: &Entry| {
            (old.author, old.recipient) == (new.author, new.recipient)
                && old.conversation == new.conversation
                // Who is kept away is answered, and what he wrote goes nowhere.
                && (!keeps_away || old.is_notification || old.in_his_call)
                && old.acknowledged_at.is_some_and(|at| at < new.sent_at)
                && old.received_at.is_none()
                && old.settled.is_none()
        };
        // What no device takes, and what waits behind it, holds up nothing.
        let waits = |old: &Entry| same(old) && old.body.len() >= old.fits_every_device();
        if self.entries.iter().any(waits) {
            return None;
        }
        let has_tried_patience = |old: &Entry| {
            let is_late = old.acknowledged_at.is_some_and(|at| at + PATIENCE <= begun);
            let is_aside = old.leaves_in_session() != new.leaves_in_session();
            same(old) && is_late && (is_aside || wishes.every)
        };
        if self.entries.iter().any(has_tried_patience) {
            return None;
        }
        let is_over = |at: UnixMillis| at <= wall.max(self.latest_wall).plus(EXPIRY_SLACK);
        // Of what was refused for good a broken disk may not know; or another device may still take it.
        let has_ended = |old: &Entry| {
            old.refused_for_good
                || [old.expires, old.kept_until]
                    .into_iter()
                    .flatten()
                    .any(is_over)
        };
        let calm_since = self.disturbed.get(&new.recipient).copied();
        let older = self.entries.iter().enumerate().position(|(number, old)| {
            same(old)
                && !has_ended(old)
                // They were on their way together when a device refused the older one.
                && old.refused_at.is_none_or(|at| at < begun)
                && !(old.is_notification && self.is_told_otherwise(number))
                && !self.waits_its_turn(number, calm_since)
                // A receipt waits for receipts alone.
                && (old.is_notification || !new.is_notification)
        })?;
        Some(format!("message {id} overtook message {older}"))
    }

    /// Whether a receipt waits behind an older one of its sender that may have been refused: they leave in their
    /// order, whatever their conversations, and what is no receipt waits for none of them.
    fn waits_its_turn(&self, number: usize, calm_since: Option<Instant>) -> bool {
        let own = &self.entries[number];
        let refused = |older: &Entry| {
            older.is_notification
                && (older.author, older.recipient) == (own.author, own.recipient)
                && older.acknowledged_at.is_some()
                && older.received_at.is_none()
                && older.settled.is_none()
                && calm_since.is_some_and(|since| since >= older.sent_at)
        };
        own.is_notification && self.entries[..number].iter().any(refused)
    }

    /// The server heard from the device that it has the message.
    pub fn confirmed(&mut self, id: usize, device: Device, now: Instant) {
        let entry = &mut self.entries[id];
        if entry.received_at.is_some() {
            entry.confirmed_at.get_or_insert(now);
            entry.confirmed_by.entry(device).or_insert(now);
        }
    }

    /// A notification came to a user; `own_id` tells it from others.
    pub fn notified(&mut self, user: usize, own_id: &str, word: &Word) {
        let Word { message_id, status } = word;
        let Some(about) = self.named(message_id) else {
            return self.fault(format!(
                "a notification about an unknown message {message_id}"
            ));
        };
        let forgot_at = self.forgot_at;
        let entry = &mut self.entries[about];
        let own_id = own_id.to_owned();
        let has_forgotten = forgot_at.is_some_and(|at| at >= entry.sent_at);
        let (may_repeat, mut faults) = (entry.may_repeat || has_forgotten, Vec::new());
        if entry.is_notification {
            faults.push(format!("a notification of the notification {about}"));
        }
        if entry.author != user {
            faults.push(format!("user {user} was told of message {about}"));
        }
        let heard = match status.as_str() {
            "failed" => &mut entry.failures,
            "displayed" => &mut entry.displayed,
            _ => &mut entry.delivered,
        };
        heard.insert(own_id);
        let heard = heard.clone();
        // A device may take what its sender is then told to say again, for its answer did not arrive.
        let stands = |own_id: &&String| {
            let own = self.named(own_id);
            own.is_none_or(|own| !self.entries[own].turned_away)
        };
        let standing = heard.iter().filter(stands).count();
        if standing > 1 && !may_repeat && self.crashed_at.is_none() {
            faults.push(format!("message {about}: {status} was heard twice"));
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// The server begins to tell an author that a message failed.
    pub fn telling(&mut self, message_id: &str) {
        let Some(about) = self.named(message_id) else {
            return;
        };
        let every = self.wishes(self.entries[about].recipient).every;
        let entry = &mut self.entries[about];
        entry.told = true;
        if entry.confirmed_at.is_some() && !entry.may_repeat {
            let how = if every { " by one of the devices" } else { "" };
            self.fault(format!(
                "message {about} is called failed and was confirmed{how}"
            ));
        }
    }

    /// A message leaves the store.
    pub fn settled(&mut self, id: usize, how: Settlement, expires_at: UnixMillis) {
        let latest = self.latest_wall;
        let entry = &self.entries[id];
        let wishes = self.wishes(entry.recipient);
        let is_right = match how {
            Settlement::Delivered => {
                entry.received_at.is_some() || self.is_told_otherwise(id) || self.speaks_for(id)
            }
            Settlement::Expired => expires_at <= latest,
            Settlement::Evicted => wishes.drops_oldest || wishes.every || entry.is_notification,
            Settlement::Withdrawn => entry.revoked,
            Settlement::Cancelled => true,
            Settlement::Failed => entry.refused_for_good,
        };
        if !is_right {
            self.fault(format!("message {id} left the store as {how:?}"));
        }
        if how != Settlement::Cancelled {
            self.entries[id].settled = Some(how);
        }
    }

    /// What the server told an author of a message leaves the store.
    pub fn word_settled(&mut self, message_id: &str) {
        if let Some(about) = self.named(message_id) {
            self.entries[about].told_settled = true;
        }
    }

    /// Whether a receipt has said that the recipient has it.
    fn speaks_for(&self, id: usize) -> bool {
        let mut all = self.entries.iter();
        all.any(|entry| entry.tells.iter().any(|(about, _)| *about == id))
    }

    /// What the server had not made durable it may do again: with what is still in custody, with what
    /// an author did not hear of, and with what never was in custody and is still on some link.
    pub fn crashed(&mut self, disk: &Disk, now: Instant) {
        let kept: Vec<usize> = disk.bodies().filter_map(|body| self.find(body)).collect();
        for (id, entry) in self.entries.iter_mut().enumerate() {
            let passed_lately = entry.sent_at + LINGERS > now && !disk.had(&entry.body);
            let unheard = entry.acknowledged_at.is_none();
            entry.may_repeat |= unheard || passed_lately || kept.contains(&id);
            if kept.contains(&id) {
                entry.settled = None;
            }
        }
        self.crashed_at = Some(now);
        for user in 0..64 {
            self.disturbed.insert(user, now);
        }
    }

    /// Everything has been quiet for long: every promise must have been kept.
    pub fn settle(&mut self, wall: UnixMillis) {
        let mut faults = Vec::new();
        for (id, entry) in self.entries.iter().enumerate() {
            if entry.acknowledged_at.is_some() && entry.received_at.is_none() {
                faults.extend(self.unkept(id, entry, wall));
            }
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// What is wrong with a message that was promised and has not come.
    fn unkept(&self, id: usize, entry: &Entry, wall: UnixMillis) -> Option<String> {
        let wishes = self.wishes(entry.recipient);
        if wishes.keeps_away.contains(&entry.author)
            || (entry.is_notification && self.is_told_otherwise(id))
        {
            return None;
        }
        let is_over = |at: UnixMillis| at <= wall.max(self.latest_wall);
        match entry.settled {
            Some(Settlement::Withdrawn) => return None,
            Some(Settlement::Expired | Settlement::Evicted | Settlement::Failed) => {}
            // It expired before it was kept, or was only passed on.
            _ if entry.expires.is_some_and(is_over) => {}
            _ => return Some(format!("message {id} was acknowledged and never came")),
        }
        let author = self.wishes(entry.author);
        let is_told = !entry.failures.is_empty()
            || (entry.told && entry.told_settled)
            || author.short
            || !entry.asks_failure;
        (!is_told).then(|| format!("message {id} is gone and nobody was told"))
    }
}

/// What stands in an envelope.
pub fn content_of(octets: &[u8]) -> Vec<u8> {
    Envelope::read(octets).map_or_else(|| octets.to_vec(), |envelope| envelope.content)
}

pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("", |(inner, _)| inner)
}
