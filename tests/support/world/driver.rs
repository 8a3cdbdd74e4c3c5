//! What users do, and what goes wrong, drawn from a seed; then quiet, and the reckoning.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use restante::clock::UnixMillis;
use restante::demo::{Disposition, Envelope};

use super::agent::{Mood, uri_of};
use super::ledger::Entry;
use super::{Faults, World};

/// A conversation of hours in some hundred steps.
pub struct Script {
    pub shards: u16,
    pub users: usize,
    pub steps: usize,
    pub chats: bool,
    pub faults: Faults,
}

/// Plays a seed to its end; panics with its story if a promise was broken.
pub fn play(seed: u64, script: &Script) {
    let mut world = World::new(seed, script.shards, script.users, script.faults);
    for _ in 0..script.steps {
        world.step(script);
        let most = if world.chance(5) { 40_000 } else { 1_500 };
        let span = world.rng.random_range(0..most);
        world.pass(Duration::from_millis(span));
        world.check();
    }
    world.come_to_rest();
    world.ledger.settle(world.now.wall);
    world.check();
}

impl World {
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

    fn register(&mut self, user: usize, expires: u32) {
        self.with_agent(user, |agent, sight| agent.register(expires, sight));
    }

    fn someone_else(&mut self, user: usize) -> usize {
        (user + self.rng.random_range(1..self.agents.len())) % self.agents.len()
    }

    fn write_pager(&mut self, user: usize) {
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
        self.with_agent(user, |agent, sight| {
            agent.send_pager(id, &headers, content_type, sight)
        });
    }

    /// Tells the author of a message that came that it was seen.
    fn write_receipt(&mut self, user: usize) {
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
        let (author, conversation) = (entry.author, entry.conversation.clone());
        let message = Envelope::read(&entry.body).expect("it has an envelope");
        let id = self.write(user, author, &conversation, true, false);
        let mut receipt = message.notification(Disposition::Displayed);
        receipt.date_time = message.date_time.clone();
        receipt.message_id = format!("mid{id}x{}", self.seed);
        receipt
            .content
            .extend_from_slice(format!("<!-- ~#{id}~ -->").as_bytes());
        let entry = &mut self.ledger.entries[id];
        entry.body = receipt.to_octets();
        entry.content = receipt.content;
        entry.is_notification = true;
        entry.asks_failure = false;
        self.with_agent(user, |agent, sight| {
            agent.send_pager(id, "", "message/cpim", sight);
        });
    }

    /// Puts a message into the ledger; it is sent by whoever asked for it.
    fn write(
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
            asks: if asks_failure {
                "negative-delivery".to_owned()
            } else {
                String::new()
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
            is_notification: false,
            has_receipt: false,
            asks_failure,
            sent_at: self.now.instant,
            expires: None,
            acknowledged_at: None,
            received_at: None,
            confirmed_at: None,
            may_repeat: false,
            failures: BTreeSet::new(),
        });
        id
    }

    /// Some messages in a session that stands, or in a new one.
    fn write_chat(&mut self, user: usize) {
        let standing = self.agents[user]
            .calls
            .iter()
            .find(|(_, call)| call.sends && call.peer.is_some());
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
                self.with_agent(user, |agent, sight| {
                    number = agent.invite(peer, &conversation, sight)
                });
                (number, peer, conversation)
            }
        };
        for _ in 0..self.rng.random_range(1..5) {
            let id = self.write(user, peer, &conversation, true, true);
            if let Some(call) = self.agents[user].calls.get_mut(&number) {
                call.queue.push_back(id);
            }
        }
        self.with_agent(user, |agent, sight| agent.send_queued(number, sight));
    }

    fn hang_up_one(&mut self, user: usize) {
        let number = self.agents[user].calls.keys().next().copied();
        if let Some(number) = number {
            self.with_agent(user, |agent, sight| agent.cancel(number, sight));
            let with_bye = self.chance(80);
            self.with_agent(user, |agent, sight| agent.hang_up(number, with_bye, sight));
            self.disturb(user);
        }
    }

    fn disturb(&mut self, user: usize) {
        self.ledger.disturbed.insert(user, self.now.instant);
    }

    fn break_something(&mut self, user: usize) {
        self.disturb(user);
        match self.rng.random_range(0..100) {
            0..6 => self.crash(),
            6..8 => self.restart(),
            8..16 => {
                let full = self.chance(50);
                self.disk.fill(full);
            }
            16..18 => self.disk.poison(),
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
        self.now.wall = if self.chance(50) {
            UnixMillis(self.now.wall.0 + millis)
        } else {
            UnixMillis(self.now.wall.0 - millis)
        };
    }

    fn change_mood(&mut self, user: usize) {
        let refusals = [404, 408, 410, 415, 480, 486, 488, 500, 503, 600, 603, 606];
        let mood = match self.rng.random_range(0..10) {
            0..5 => Mood::Willing,
            5..7 => Mood::Silent,
            7..9 => Mood::Refusing(refusals[self.rng.random_range(0..refusals.len())]),
            _ => Mood::Slow(Duration::from_millis(self.rng.random_range(100..15_000))),
        };
        self.ledger
            .tell(format!("{:?} user{user} is {mood:?}", self.now.instant));
        self.agents[user].mood = mood;
    }

    /// Nothing goes wrong any more, everybody is there; until nothing happens any more.
    pub fn come_to_rest(&mut self) {
        self.faults = Faults {
            delay: 20,
            store_delay: 10,
            ..Faults::default()
        };
        self.disk.fill(false);
        if self.disk.is_poisoned() {
            self.crash();
        }
        for user in 0..self.agents.len() {
            self.agents[user].mood = Mood::Willing;
            self.agents[user].takes_sessions = true;
            self.disturb(user);
            for number in self.agents[user].calls.keys().copied().collect::<Vec<_>>() {
                self.with_agent(user, |agent, sight| agent.hang_up(number, true, sight));
            }
        }
        for _ in 0..6 {
            for user in 0..self.agents.len() {
                self.register(user, 3600);
            }
            self.pass(Duration::from_secs(60));
            self.check();
        }
        self.pass(Duration::from_secs(400));
        // The store may just be asked for what has expired.
        for _ in 0..5 {
            if self.cores.iter().any(|core| !core.census().is_empty()) {
                self.pass(Duration::from_millis(300));
            }
        }
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
        let in_use = self.lines_in_use();
        if in_use > 0 {
            left.push(format!("open connections={in_use}"));
        }
        for what in left {
            self.ledger.fault(format!("something is left: {what}"));
        }
    }
}
