//! What comes as a datagram while a shard is behind or memory is short: new work is refused as it comes in
//! (RFC 3261 §21.5.4), by a glance at it, before it is read.
//!
//! Nearly all that a refusal here costs is the system's work of sending it; saying nothing would cost more,
//! because who hears nothing asks three times again. What goes on with something is let in and goes before
//! what is new.
//!
//! Who is trusted or has proved who he is is let in however many strangers wait, and stands behind them
//! ([`Stage`]). A source that has sent less than others is let in where others like it are not, so nobody who
//! keeps within `limits.source_rate` takes a shard for himself; who leaves challenges unanswered is refused
//! first.

use std::net::IpAddr;

use super::core_trait::ShardCore;
use super::shell::Shell;
use super::store_queue::StoreGate;
use crate::clock::Now;
use crate::limits::load::{Entry, Pressure, Stage, retry_after};
use crate::limits::reflection;
use crate::limits::sources::Standing;
use crate::net::sys::Datagram;
use crate::sip::glance::{self, Beginning, Glance};

/// Octets of refusals that leave together share memory of this length, about as many as one batch makes.
pub(super) const REFUSALS: usize = 32 * 1024;

/// What becomes of a datagram.
enum Way {
    /// It waits for its turn, and was met so; `true` if more is known of it than that it came.
    In(Entry, bool),
    /// It goes before what is new.
    First,
    /// It was refused, or dropped.
    Away,
}

/// New work that has to stay outside.
struct Unwanted<'a> {
    request: Beginning<'a>,
    key: u64,
    pressure: Pressure,
}

/// Where a datagram came from.
#[derive(Clone, Copy)]
struct Sender {
    address: IpAddr,
    standing: Standing,
}

impl Sender {
    fn is_known(&self) -> bool {
        matches!(self.standing, Standing::Trusted | Standing::Proven)
    }
}

impl<C: ShardCore + 'static, G: StoreGate> Shell<C, G> {
    /// Lets a datagram into the waiting room, or not.
    pub(super) fn let_in(
        &mut self,
        listener: usize,
        datagram: Datagram,
        standing: Standing,
        now: Now,
    ) {
        let sender = Sender {
            address: datagram.remote.ip(),
            standing,
        };
        let least = match standing {
            Standing::Silent => Stage::Silent,
            _ => Stage::Fresh,
        };
        let way = match self.pressure(least, now) {
            None => {
                let entry = self.remember(glance::identity(&datagram.octets));
                Way::In(entry, sender.is_known())
            }
            Some(_) => self.judge(listener, &datagram, sender, now),
        };
        match way {
            Way::In(entry, is_known) => {
                (self.waiting).take_datagram(listener, datagram, entry, is_known, now.instant);
            }
            Way::First => self.waiting.take_urgent(listener, datagram, now.instant),
            Way::Away => self.drop_datagram(listener, datagram),
        }
    }

    /// Nothing of it is needed any more.
    pub(super) fn drop_datagram(&mut self, listener: usize, datagram: Datagram) {
        if let Some(Some(transport)) = self.udp.get_mut(listener) {
            transport.take_back(datagram);
        }
    }

    /// Why new work has to stay outside, if it has to.
    fn pressure(&self, stage: Stage, now: Now) -> Option<Pressure> {
        let waiting = match stage.is_known() {
            true => self.waiting.len_of_known(),
            false => self.waiting.len(),
        };
        let mut core = self.core.borrow_mut();
        let load = core.load();
        let crowded = match load.stands(now.instant) {
            true => self.waiting.is_long(stage),
            false => self.waiting.is_crowded(stage),
        };
        let pressure = load.at_door(waiting, stage, now.instant);
        pressure.or(crowded.then_some(Pressure::Delay))
    }

    fn remember(&mut self, identity: Option<[&str; 2]>) -> Entry {
        let Some(identity) = identity else {
            return Entry::LetIn;
        };
        match self.taken.remember(self.taken.key(identity)) {
            true => Entry::LetIn,
            false => Entry::Again,
        }
    }

    fn judge(&mut self, listener: usize, datagram: &Datagram, sender: Sender, now: Now) -> Way {
        let request = match glance::look(&datagram.octets) {
            Glance::GoesOn => return self.go_on(sender),
            Glance::Stray => {
                self.metrics.strays.count();
                return Way::Away;
            }
            Glance::Unclear => return self.read_later(sender, Entry::Unjudged),
            Glance::Begins(request) => request,
        };
        let Some(identity) = request.identity() else {
            return self.read_later(sender, Entry::Unjudged);
        };
        let key = self.taken.key(identity);
        if self.taken.knows(key) {
            // A refusal now would be taken for the answer to the first; without one it comes again.
            self.taken.remember(key);
            return self.read_later(sender, Entry::Again);
        }
        let stage = self.stage_of(&request, sender, now);
        let Some(pressure) = self.pressure(stage, now) else {
            self.taken.remember(key);
            return Way::In(Entry::LetIn, stage.is_known());
        };
        let is_limited = sender.standing != Standing::Trusted;
        let pressure = match (pressure, stage) {
            (Pressure::Delay, Stage::Silent | Stage::Fresh | Stage::Known) if is_limited => {
                Pressure::Share
            }
            (pressure, _) => pressure,
        };
        let unwanted = Unwanted {
            request,
            key,
            pressure,
        };
        match self.refuse_unread(listener, datagram, &unwanted, now) {
            true => Way::Away,
            false => self.read_later(sender, Entry::Unjudged),
        }
    }

    /// What new work has behind it: who its sender is, less than an equal share of what waits, a challenge of
    /// ours.
    fn stage_of(&self, request: &Beginning<'_>, sender: Sender, now: Now) -> Stage {
        let has_proof = request.makes_room || self.answers(request, sender, now);
        let is_modest = self.waiting.is_modest(sender.address);
        match sender.standing {
            Standing::Trusted | Standing::Proven if request.makes_room => Stage::Leaves,
            Standing::Unknown if is_modest && request.makes_room => Stage::Leaves,
            Standing::Trusted if has_proof || is_modest => Stage::Proven,
            Standing::Proven if is_modest => Stage::Proven,
            Standing::Trusted | Standing::Proven => Stage::Known,
            Standing::Unknown if is_modest && has_proof => Stage::Proven,
            Standing::Unknown if is_modest => Stage::Modest,
            Standing::Unknown => Stage::Fresh,
            Standing::Silent if is_modest && has_proof => Stage::Fresh,
            Standing::Silent => Stage::Silent,
        }
    }

    /// Whether a request answers a challenge that its sender was given. What is right about the answer is found
    /// out when it is read.
    fn answers(&self, request: &Beginning<'_>, sender: Sender, now: Now) -> bool {
        let core = self.core.borrow();
        let mut credentials = request.credentials.iter();
        credentials.any(|value| core.is_answer(value, sender.address, now))
    }

    /// What goes on with something goes before what is new; of each address no more than its share, for whether
    /// it really goes on with anything is found out only when it is read.
    fn go_on(&self, sender: Sender) -> Way {
        let is_trusted = sender.standing == Standing::Trusted;
        let has_room = (self.waiting).has_room_for_urgent(sender.address, is_trusted);
        self.in_or_away(Way::First, has_room)
    }

    /// What cannot be judged at a glance, or must not be refused, waits for its turn while there is room.
    fn read_later(&self, sender: Sender, entry: Entry) -> Way {
        let most = match sender.standing {
            _ if self.waiting.is_modest(sender.address) => Stage::Proven,
            _ if sender.is_known() => Stage::Known,
            _ => Stage::Fresh,
        };
        self.in_or_away(
            Way::In(entry, sender.is_known()),
            !self.waiting.is_crowded(most),
        )
    }

    /// Dropped where there is no room left: what matters comes again.
    fn in_or_away(&self, way: Way, has_room: bool) -> Way {
        if has_room {
            return way;
        }
        self.metrics.dropped_unread.count();
        Way::Away
    }

    /// `false` if that cannot be done without reading it.
    fn refuse_unread(
        &mut self,
        listener: usize,
        datagram: &Datagram,
        unwanted: &Unwanted<'_>,
        now: Now,
    ) -> bool {
        let key = unwanted.key;
        let (answer, source) = (&mut self.refusal, datagram.remote);
        let to = (unwanted.request).refuse(answer, source, key, retry_after(key));
        let most = reflection::allowance(datagram.octets.len());
        let Some(to) = to.filter(|_| answer.len() <= most) else {
            return false;
        };
        if self.core.borrow_mut().load().refused(now.instant) {
            self.metrics.overloaded.rise();
        }
        match unwanted.pressure {
            Pressure::Memory => self.metrics.refused_memory.count(),
            Pressure::Delay => self.metrics.refused_delay.count(),
            Pressure::Share => self.metrics.refused_share.count(),
        }
        if !self.sources.may_answer(datagram.remote.ip(), now.instant) {
            self.metrics.withheld_rate.count();
        } else if let Some(Some(transport)) = self.udp.get_mut(listener) {
            self.metrics.responses_5xx.count();
            self.refusals.extend_from_slice(self.refusal.as_bytes());
            transport.send(to, self.refusals.split().freeze());
        }
        true
    }
}
