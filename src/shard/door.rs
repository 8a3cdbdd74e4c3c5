//! What comes as a datagram while a shard is behind or memory is short: new work is refused as it comes in
//! (RFC 3261 §21.5.4), by a glance at it, before it is read.
//!
//! Nearly all that a refusal here costs is the system's work of sending it; saying nothing would cost more,
//! because who hears nothing asks three times again. What goes on with something is let in and goes before
//! what is new.

use super::core_trait::ShardCore;
use super::shell::Shell;
use super::store_queue::StoreGate;
use crate::clock::Now;
use crate::limits::load::{Pressure, Stage, retry_after};
use crate::limits::reflection;
use crate::net::sys::Datagram;
use crate::sip::glance::{self, Beginning, Glance};

/// What becomes of a datagram.
enum Way {
    /// It waits for its turn; `true` if it was judged.
    In(bool),
    /// It goes before what is new.
    First,
    /// It was refused.
    Away,
}

impl<C: ShardCore + 'static, G: StoreGate> Shell<C, G> {
    /// Lets a datagram into the waiting room, or not.
    pub(super) fn let_in(&mut self, listener: usize, datagram: Datagram, now: Now) {
        let way = match self.pressure(Stage::Fresh, now) {
            None => {
                self.remember(glance::identity(&datagram.octets));
                Way::In(true)
            }
            Some(pressure) => self.judge(listener, &datagram, pressure, now),
        };
        match way {
            Way::In(judged) => {
                (self.waiting).take_datagram(listener, datagram, judged, now.instant)
            }
            Way::First => self.waiting.take_urgent(listener, datagram, now.instant),
            Way::Away => {}
        }
    }

    /// Why new work has to stay outside, if it has to.
    fn pressure(&self, stage: Stage, now: Now) -> Option<Pressure> {
        let waiting = self.waiting.len();
        let pressure = (self.core.borrow_mut().load()).at_door(waiting, stage, now.instant);
        let crowded = self.waiting.is_crowded().then_some(Pressure::Delay);
        pressure.or(crowded)
    }

    fn remember(&mut self, identity: Option<[&str; 2]>) {
        if let Some(identity) = identity {
            self.taken.remember(self.taken.key(identity));
        }
    }

    fn judge(&mut self, listener: usize, datagram: &Datagram, pressure: Pressure, now: Now) -> Way {
        let request = match glance::look(&datagram.octets) {
            Glance::GoesOn => return Way::First,
            Glance::Unclear => return Way::In(false),
            Glance::Begins(request) => request,
        };
        let Some(identity) = request.identity() else {
            return Way::In(false);
        };
        let key = self.taken.key(identity);
        let may_enter = request.makes_room
            || self.taken.knows(key)
            || request.is_proven && self.pressure(Stage::Proven, now).is_none();
        if may_enter {
            self.taken.remember(key);
            return Way::In(true);
        }
        self.refuse_unread(listener, datagram, &request, key, pressure, now)
    }

    fn refuse_unread(
        &mut self,
        listener: usize,
        datagram: &Datagram,
        request: &Beginning<'_>,
        key: u64,
        pressure: Pressure,
        now: Now,
    ) -> Way {
        let Some((to, answer)) = request.refusal(datagram.remote, key, retry_after(key)) else {
            return Way::In(false);
        };
        if answer.len() > reflection::allowance(datagram.octets.len()) {
            return Way::In(false);
        }
        if self.core.borrow_mut().load().refused(now.instant) {
            self.metrics.overloaded.rise();
        }
        match pressure {
            Pressure::Memory => self.metrics.refused_memory.count(),
            Pressure::Delay => self.metrics.refused_delay.count(),
        }
        if !self.sources.may_answer(datagram.remote.ip(), now.instant) {
            self.metrics.withheld_rate.count();
        } else if let Some(Some(transport)) = self.udp.get_mut(listener) {
            self.metrics.count_response(&answer);
            transport.send(to, answer);
        }
        Way::Away
    }
}
