//! Everything that devices can do and that can go wrong, drawn from a seed.

use std::time::Duration;

use rand::RngExt;
use restante::clock::UnixMillis;
use restante::demo::{Disposition, Envelope};

use super::World;
use super::agent::{Mood, Purpose, uri_of};
use super::call::Kind;

impl World {
    /// One step of a wild script.
    pub(super) fn wild_step(&mut self) {
        let agent = self.rng.random_range(0..self.agents.len());
        match self.rng.random_range(0..100) {
            0..10 => self.register_somehow(agent),
            10..14 => self.register(agent, 0),
            14..18 => self.flap(agent),
            18..40 => self.write_pager(agent),
            40..46 => self.write_receipt(agent),
            46..48 => self.write_aggregate(agent),
            48..60 => self.write_chat(agent),
            60..64 => self.hang_up_one(agent),
            64..68 => self.fetch(agent),
            68..70 => self.cancel_something(agent),
            70..74 => self.revoke(agent),
            74..79 => self.write_first(agent),
            79..82 => self.write_large(agent),
            _ if self.faults.breakage => self.break_anything(agent),
            _ => self.write_pager(agent),
        }
    }

    /// Again, from another address, without its service tags, or with them again.
    fn register_somehow(&mut self, agent: usize) {
        match self.rng.random_range(0..10) {
            0..2 => {
                if let Some(connection) = self.stream_of(agent) {
                    self.break_stream(connection, true);
                }
                self.agents[agent].moves_away();
                self.disturb_agent(agent);
            }
            2 => self.agents[agent].paused = true,
            _ => self.agents[agent].paused = false,
        }
        if self.agents[agent].paused {
            self.disturb_agent(agent);
        }
        self.register(agent, 3600);
    }

    /// There, gone, there.
    fn flap(&mut self, agent: usize) {
        self.disturb_agent(agent);
        for _ in 0..self.rng.random_range(1..4) {
            let gone = self.chance(50);
            self.register(agent, if gone { 0 } else { 3600 });
            let span = self.rng.random_range(0..400);
            self.pass(Duration::from_millis(span));
        }
        self.register(agent, 3600);
    }

    /// One document that tells an author of two of his messages.
    fn write_aggregate(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let seen = self.ledger.entries.iter().enumerate().rev();
        let mut seen = seen.filter(|(_, entry)| {
            let is_message = !entry.is_notification && !entry.has_receipt;
            let came = entry.recipient == user && entry.received_at.is_some();
            is_message && came && entry.message_id.is_some()
        });
        let Some((one, first)) = seen.next() else {
            return;
        };
        let author = first.author;
        let Some((two, _)) = seen.find(|(_, entry)| entry.author == author) else {
            return;
        };
        let read = |id: usize| Envelope::read(&self.ledger.entries[id].body).expect("written here");
        let (first, second) = (read(one), read(two));
        let about = [(two, &second), (one, &first)];
        let now = self.now;
        let id = self
            .ledger
            .write_receipt(&about, Disposition::Displayed, now);
        for (id, _) in about {
            self.ledger.entries[id].has_receipt = true;
        }
        self.with_agent(agent, |agent, sight| {
            agent.send_pager(id, "", "message/cpim", sight);
        });
    }

    fn fetch(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let mut all = self.ledger.entries.iter().rev();
        let waits = all.find(|entry| entry.recipient == user && entry.received_at.is_none());
        let wanted = match (self.rng.random_range(0..6), waits) {
            (0, Some(entry)) => Some(format!("Conversation-ID: {}", entry.conversation)),
            (1, Some(entry)) => entry
                .message_id
                .as_ref()
                .map(|id| format!("Message-ID: {id}")),
            _ => None,
        };
        let mut number = 0;
        let kind = Kind::Fetch(wanted);
        self.with_agent(agent, |agent, sight| {
            number = agent.invite(kind, "", sight);
        });
        if self.chance(30) {
            // Perhaps before the queue has been read.
            let span = self.rng.random_range(0..60);
            self.pass(Duration::from_millis(span));
            self.with_agent(agent, |agent, sight| agent.cancel(number, sight));
        }
    }

    fn cancel_something(&mut self, agent: usize) {
        let number = self.agents[agent].calls.keys().last().copied();
        if let Some(number) = number {
            self.with_agent(agent, |agent, sight| agent.cancel(number, sight));
        }
    }

    /// An author wants the last message that has not come back.
    fn revoke(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let mut all = self.ledger.entries.iter_mut().enumerate().rev();
        let found = all.find(|(_, entry)| {
            entry.author == user && !entry.is_notification && entry.message_id.is_some()
        });
        let Some((id, entry)) = found else {
            return;
        };
        entry.revoked = true;
        let message_id = entry.message_id.clone().unwrap_or_default();
        let (recipient, conversation) = (entry.recipient, entry.conversation.clone());
        let document = format!(
            "<imRevoke xmlns=\"urn:gsma:params:xml:ns:rcs:rcs:imrevoke\">\
             <Message-ID>{message_id}</Message-ID></imRevoke>"
        );
        self.with_agent(agent, |agent, sight| {
            let (branch, number) = (agent.branch(), agent.number());
            let (from, to) = (agent.uri(), uri_of(recipient));
            let request = format!(
                "MESSAGE {to} SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: <{from}>;tag=v{number}\r\n\
                 To: <{to}>\r\nCall-ID: revoke-{}-{number}\r\nCSeq: 1 MESSAGE\r\n\
                 Conversation-ID: {conversation}\r\nContribution-ID: v{number}\r\n\
                 Content-Type: application/vnd.gsma.rcsrevoke+xml\r\nContent-Length: {}\r\n\r\n{document}",
                agent.via(&branch),
                agent.index,
                document.len()
            );
            agent.start(branch, request.into_bytes(), Purpose::Revoke(id), sight);
        });
    }

    /// A chat whose first message is in its INVITE.
    fn write_first(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let peer = self.someone_else(user);
        let conversation = format!("c{}", self.rng.random_range(0..2));
        let id = self.write(user, peer, &conversation, true, false);
        let kind = Kind::First(peer, id);
        self.with_agent(agent, |agent, sight| {
            agent.invite(kind, &conversation, sight);
        });
    }

    /// One message in a session of its own.
    fn write_large(&mut self, agent: usize) {
        let user = self.agents[agent].user;
        let peer = self.someone_else(user);
        let conversation = format!("p{}", self.rng.random_range(0..2));
        let id = self.write(user, peer, &conversation, true, true);
        self.ledger.entries[id].is_large = true;
        self.with_agent(agent, |agent, sight| {
            let number = agent.invite(Kind::Large(peer), &conversation, sight);
            if let Some(call) = agent.calls.get_mut(&number) {
                call.queue.push_back(id);
            }
        });
    }

    fn break_anything(&mut self, agent: usize) {
        match self.rng.random_range(0..100) {
            0..8 => {
                // Perhaps between two things that follow from one event.
                self.disturb_agent(agent);
                self.fuse = Some(self.rng.random_range(0..200));
            }
            8..14 => {
                let line = self.lines.keys().next_back().copied();
                if let Some(connection) = line {
                    self.cut_line(connection);
                }
            }
            14..18 if self.faults.time_travel => self.travel(),
            18..30 => self.refuse_somehow(agent),
            _ => self.break_something(agent),
        }
    }

    /// The wall clock is set by minutes, hours or days.
    fn travel(&mut self) {
        let unit = [60_000, 3_600_000, 86_400_000][self.rng.random_range(0..3)];
        let span = self.rng.random_range(1..20) * unit;
        let wall = match self.chance(50) {
            true => UnixMillis(self.now.wall.0 + span),
            false => UnixMillis(self.now.wall.0 - span),
        };
        self.ledger.tell(format!(
            "the clock is set from {:?} to {wall:?}",
            self.now.wall
        ));
        self.set_clock(wall);
    }

    /// Every row of the replay table.
    fn refuse_somehow(&mut self, agent: usize) {
        const ALL: [u16; 24] = [
            400, 401, 403, 404, 407, 408, 410, 413, 415, 420, 422, 430, 480, 481, 486, 488, 491,
            500, 501, 503, 504, 600, 603, 606,
        ];
        let status = ALL[self.rng.random_range(0..ALL.len())];
        self.set_mood(agent, Mood::Refusing(status));
    }
}
