//! What users do, and what goes wrong, drawn from a seed; then quiet, and the reckoning.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::RngExt;
use restante::clock::UnixMillis;
use restante::demo::{Disposition, Envelope};

use super::agent::{Dialect, Mood, uri_of};
use super::call::Kind;
use super::ledger::Entry;
use super::{Faults, World};

/// A step of the clock of more than an hour expires nothing until it has held for so long. The server counts in
/// milliseconds, so one shard may take a step of exactly an hour for more, and another not.
const SUSPICIOUS_STEP: Duration = Duration::from_millis(3_599_990);
const MUST_HOLD: Duration = Duration::from_secs(601);

/// A conversation of hours in some hundred steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Script {
    pub shards: u16,
    pub users: usize,
    pub steps: usize,
    pub chats: bool,
    /// Several devices a user, wishes of users, everything a device can do.
    pub wild: bool,
    /// How often everything comes to rest; 0 counts as once.
    pub rests: usize,
    pub faults: Faults,
}

/// A broken promise, and what led to it.
struct Broken {
    fault: String,
    story: String,
    /// Steps that had been done.
    steps: usize,
}

/// Plays a seed to its end; panics with its story if a promise was broken.
pub fn play(seed: u64, script: &Script) {
    let Err(broken) = attempt(seed, script) else {
        return;
    };
    let (steps, broken) = shortest(seed, script, broken);
    panic!(
        "{}\nseed {seed}: {}\nafter {steps} of {} steps of {script:?}\n\
         again: RESTANTE_TEST_SEED={seed} cargo test --test simulation",
        broken.story, broken.fault, script.steps
    );
}

/// A script of fewer steps that breaks a promise as well, if there is one among a few tries.
fn shortest(seed: u64, script: &Script, broken: Broken) -> (usize, Broken) {
    let mut best = (broken.steps, broken);
    for part in [16, 8, 4, 2] {
        let steps = best.0 / part;
        let shorter = Script { steps, ..*script };
        if steps > 0
            && let Err(broken) = attempt(seed, &shorter)
        {
            best = (broken.steps.max(1), broken);
            break;
        }
    }
    best
}

fn attempt(seed: u64, script: &Script) -> Result<(), Broken> {
    let mut world = World::new(seed, script);
    let mut done = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| world.play(script, &mut done)));
    if let Err(panic) = outcome {
        let text = text_of(panic.as_ref());
        world.ledger.fault(format!("the server panicked: {text}"));
    }
    match world.ledger.faults.first() {
        None => Ok(()),
        Some(first) => Err(Broken {
            fault: format!("{first}\nand {:?}", world.ledger.faults.get(1..10)),
            story: world.ledger.story(),
            steps: done,
        }),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

impl World {
    /// Stops at the first broken promise; `done` counts the steps.
    fn play(&mut self, script: &Script, done: &mut usize) {
        let rests = script.rests.max(1);
        for rest in 1..=rests {
            let faults = self.faults;
            for _ in 0..script.steps / rests {
                match script.wild {
                    true => self.wild_step(),
                    false => self.step(script),
                }
                *done += 1;
                let most = if self.chance(5) { 40_000 } else { 1_500 };
                let span = self.rng.random_range(0..most);
                self.pass(Duration::from_millis(span));
                if !self.ledger.faults.is_empty() {
                    return;
                }
            }
            self.come_to_rest(script.wild);
            if self.ledger.faults.is_empty() {
                self.ledger.settle(self.now.wall);
                self.look_for_remains();
            }
            if !self.ledger.faults.is_empty() {
                return;
            }
            if rest < rests {
                self.faults = faults;
            }
        }
    }

    fn step(&mut self, script: &Script) {
        let user = self.rng.random_range(0..self.agents.len());
        match self.rng.random_range(0..100) {
            0..12 => self.register(user, 3600),
            12..18 => self.register(user, 0),
            18..50 => self.write_pager(user),
            50..60 => self.write_receipt(user),
            60..75 if script.chats => self.write_chat(user),
            75..80 if script.chats => self.hang_up_one(user),
            80..100 if script.faults.breakage => self.break_something(user),
            _ => self.write_pager(user),
        }
    }

    pub(super) fn register(&mut self, user: usize, expires: u32) {
        self.with_agent(user, |agent, sight| agent.register(expires, sight));
    }

    pub(super) fn someone_else(&mut self, user: usize) -> usize {
        (user + self.rng.random_range(1..self.users)) % self.users
    }

    pub(super) fn write_pager(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let peer = self.someone_else(user);
        let is_enveloped = self.chance(60);
        let conversation = format!("p{}", self.rng.random_range(0..2));
        let id = self.write(user, peer, &conversation, is_enveloped, false);
        let mut headers = String::new();
        if is_enveloped && self.chance(10) {
            let seconds = self.rng.random_range(5..90);
            self.ledger.entries[id].expires = Some(UnixMillis(self.now.wall.0 + seconds * 1000));
            headers = format!("Expires: {seconds}\r\n");
        }
        let content_type = if is_enveloped {
            "message/cpim"
        } else {
            "text/plain"
        };
        self.with_agent(agent, |agent, sight| {
            agent.send_pager(id, &headers, content_type, sight)
        });
    }

    /// Tells the author of a message that came that it was seen.
    pub(super) fn write_receipt(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let seen = |entry: &Entry| {
            let is_message = !entry.is_notification && !entry.has_receipt;
            entry.recipient == user && entry.received_at.is_some() && is_message
        };
        let Some(about) = self
            .ledger
            .entries
            .iter()
            .rposition(|entry| seen(entry) && entry.message_id.is_some())
        else {
            return;
        };
        self.ledger.entries[about].has_receipt = true;
        let entry = &self.ledger.entries[about];
        let message = Envelope::read(&entry.body).expect("it has an envelope");
        let about = [(about, &message)];
        let now = self.now;
        let id = self
            .ledger
            .write_receipt(&about, Disposition::Displayed, now);
        self.with_agent(agent, |agent, sight| {
            agent.send_pager(id, "", "message/cpim", sight);
        });
    }

    /// Puts a message into the ledger; it is sent by whoever asked for it.
    pub(super) fn write(
        &mut self,
        user: usize,
        peer: usize,
        conversation: &str,
        is_enveloped: bool,
        is_chat: bool,
    ) -> usize {
        let id = self.ledger.entries.len();
        let most = match self.rng.random_range(0..20) {
            0 if is_chat => 150_000,
            0..3 => 5_000,
            _ => 60,
        };
        let filler: Vec<u8> = (0..self.rng.random_range(0..most))
            .map(|_| self.rng.random())
            .collect();
        let content = [format!("~#{id}~").into_bytes(), filler].concat();
        let asks_failure = is_enveloped && self.chance(50);
        let envelope = Envelope {
            from: format!("<{}>", uri_of(user)),
            to: format!("<{}>", uri_of(peer)),
            date_time: "2027-01-15T08:00:00Z".to_owned(),
            message_id: format!("mid{id}x{}", self.seed),
            asks: match (asks_failure, self.asks_more) {
                (true, true) => "negative-delivery, positive-delivery, display".to_owned(),
                (true, false) => "negative-delivery".to_owned(),
                (false, true) => "positive-delivery, display".to_owned(),
                (false, false) => String::new(),
            },
            content_type: "application/octet-stream".to_owned(),
            content_disposition: String::new(),
            content: content.clone(),
        };
        let body = if is_enveloped {
            envelope.to_octets()
        } else {
            content.clone()
        };
        self.ledger.tell(format!(
            "{:?} user{user} writes message {id} to user{peer} in {conversation}",
            self.now.instant
        ));
        self.ledger.entries.push(Entry {
            author: user,
            recipient: peer,
            conversation: conversation.to_owned(),
            body,
            content,
            message_id: is_enveloped.then_some(envelope.message_id),
            asks_failure,
            sent_at: self.now.instant,
            ..Entry::default()
        });
        id
    }

    /// Some messages in a session that stands, or in a new one.
    pub(super) fn write_chat(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let standing = self.agents[agent]
            .calls
            .iter()
            .find(|(_, call)| call.sends && call.peer.is_some() && !call.is_large());
        let found = standing.map(|(number, call)| {
            (
                *number,
                call.peer.unwrap_or_default(),
                call.conversation.clone(),
            )
        });
        let (number, peer, conversation) = match found {
            Some(found) if self.chance(80) => found,
            _ => {
                let peer = self.someone_else(user);
                let conversation = format!("c{}", self.rng.random_range(0..2));
                let mut number = 0;
                self.with_agent(agent, |agent, sight| {
                    number = agent.invite(Kind::Chat(peer), &conversation, sight)
                });
                (number, peer, conversation)
            }
        };
        for _ in 0..self.rng.random_range(1..5) {
            let id = self.write(user, peer, &conversation, true, true);
            if let Some(call) = self.agents[agent].calls.get_mut(&number) {
                call.queue.push_back(id);
            }
        }
        self.with_agent(agent, |agent, sight| agent.send_queued(number, sight));
    }

    pub(super) fn hang_up_one(&mut self, user: usize) {
        let number = self.agents[user].calls.keys().next().copied();
        if let Some(number) = number {
            self.with_agent(user, |agent, sight| agent.cancel(number, sight));
            let with_bye = self.chance(80);
            self.with_agent(user, |agent, sight| agent.hang_up(number, with_bye, sight));
            self.disturb_agent(user);
        }
    }

    pub(super) fn break_something(&mut self, user: usize) {
        self.disturb_agent(user);
        match self.rng.random_range(0..100) {
            0..6 => self.crash(),
            6..8 => self.restart(),
            8..16 => {
                let full = self.chance(50);
                self.disk.fill(full);
            }
            16..18 => {
                self.disk.poison();
            }
            18..30 => {
                let line = self.lines.keys().next().copied();
                if let Some(connection) = line {
                    self.break_line(connection, true);
                }
            }
            30..42 => {
                if let Some(connection) = self.stream_of(user) {
                    self.break_stream(connection, true);
                }
            }
            42..46 => self.jump(),
            _ => self.change_mood(user),
        }
    }

    /// The wall clock is set.
    fn jump(&mut self) {
        let millis = self.rng.random_range(0..20_000);
        let wall = if self.chance(50) {
            UnixMillis(self.now.wall.0 + millis)
        } else {
            UnixMillis(self.now.wall.0 - millis)
        };
        self.set_clock(wall);
    }

    pub(super) fn set_clock(&mut self, wall: UnixMillis) {
        let is_suspicious = wall.since(self.now.wall) > SUSPICIOUS_STEP;
        self.now.wall = wall;
        self.ledger.latest_wall = self.ledger.latest_wall.max(wall);
        let doubted = match is_suspicious {
            true => MUST_HOLD,
            false => Duration::ZERO,
        };
        let steady_since = self.now.instant + doubted;
        self.ledger.steady_since = self.ledger.steady_since.max(steady_since);
    }

    pub(super) fn change_mood(&mut self, user: usize) {
        let refusals = [404, 408, 410, 415, 480, 486, 488, 500, 503, 600, 603, 606];
        let mood = match self.rng.random_range(0..10) {
            0..5 => Mood::Willing,
            5..7 => Mood::Silent,
            7..9 => Mood::Refusing(refusals[self.rng.random_range(0..refusals.len())]),
            _ => Mood::Slow(Duration::from_millis(self.rng.random_range(100..15_000))),
        };
        self.set_mood(user, mood);
    }

    pub(super) fn set_mood(&mut self, agent: usize, mood: Mood) {
        self.disturb_agent(agent);
        let label = self.agents[agent].label();
        self.ledger
            .tell(format!("{:?} {label} is {mood:?}", self.now.instant));
        self.agents[agent].mood = mood;
    }

    /// Nothing goes wrong any more, everybody is there; until nothing happens any more.
    fn come_to_rest(&mut self, wild: bool) {
        self.faults = Faults {
            delay: 20,
            store_delay: 10,
            ..Faults::default()
        };
        self.fuse = None;
        self.disk.fill(false);
        if self.disk.is_poisoned() {
            self.crash();
        }
        if wild {
            self.set_clock(self.ledger.latest_wall);
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].mood = Mood::Willing;
            self.agents[agent].takes_sessions = true;
            self.agents[agent].paused = false;
            if self.agents[agent].dialect == Dialect::Quiet {
                self.agents[agent].dialect = Dialect::Rcs;
            }
            self.disturb_agent(agent);
            let numbers: Vec<u64> = self.agents[agent].calls.keys().copied().collect();
            for number in numbers {
                self.with_agent(agent, |agent, sight| agent.hang_up(number, true, sight));
            }
        }
        for _ in 0..6 {
            for agent in 0..self.agents.len() {
                self.register(agent, 3600);
            }
            self.pass(Duration::from_secs(5));
            self.fetch_for_all();
            self.pass(Duration::from_secs(55));
        }
        if wild {
            self.look_for_stragglers();
            // Copies for devices that may come stay until they expire.
            self.pass(Duration::from_secs(2_100));
        }
        self.pass(Duration::from_secs(400));
        // The store may just be asked for what has expired.
        for _ in 0..5 {
            if self.cores.iter().any(|core| !core.census().is_empty()) {
                self.pass(Duration::from_millis(300));
            }
        }
    }

    /// Nothing may be under way any more.
    fn look_for_remains(&mut self) {
        let mut left: Vec<String> = self
            .cores
            .iter()
            .map(|core| core.census())
            .filter(|census| !census.is_empty())
            .map(|census| census.to_string())
            .collect();
        if self.disk.spools() > 0 {
            left.push(format!("spools={}", self.disk.spools()));
        }
        let waiting = self.disk.waiting();
        left.extend(waiting.map(|(user, body)| match self.ledger.find(body) {
            Some(id) => format!("message {id} for {user}"),
            None => format!("for {user}: {}", String::from_utf8_lossy(body)),
        }));
        let in_use = self.lines_in_use();
        if in_use > 0 {
            left.push(format!("open connections={in_use}"));
        }
        for what in left {
            self.ledger.fault(format!("something is left: {what}"));
        }
    }

    fn fetch_for_all(&mut self) {
        for user in 0..self.users {
            let all = self.agents.iter();
            let devices = all.filter(|agent| agent.user == user && self.ledger.wishes(user).pull);
            for agent in devices.map(|agent| agent.index).collect::<Vec<_>>() {
                let kind = Kind::Fetch(None);
                self.with_agent(agent, |agent, sight| {
                    agent.invite(kind, "", sight);
                });
            }
        }
    }

    /// Everybody has been there for minutes: only copies for devices that may come can still wait.
    fn look_for_stragglers(&mut self) {
        let mut faults = Vec::new();
        for (recipient, body) in self.disk.waiting() {
            let Some(id) = self.ledger.find(body) else {
                continue;
            };
            let entry = &self.ledger.entries[id];
            if !self.ledger.wishes(entry.recipient).every {
                faults.push(format!("message {id} still waits for {recipient}"));
                continue;
            }
            let without = self
                .agents
                .iter()
                .filter(|agent| agent.user == entry.recipient);
            let mut without =
                without.filter(|agent| !entry.received_by.contains_key(&agent.mark()));
            if let Some(agent) = without.next() {
                faults.push(format!("message {id} has no copy at {}", agent.label()));
            }
        }
        for fault in faults {
            self.ledger.fault(fault);
        }
    }
}
