//! What time does to the participating function: deadlines, the sweep of sessions, expiry, the drain.

use crate::clock::{Instant, Now};
use crate::participating::replay_line::Occasion;
use crate::participating::service::{Service, Waiter};
use crate::store::request::Refusal;
use std::time::Duration;

/// How often expired messages are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the time limits of sessions are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(200);

impl Service {
    /// No new work; what runs may end.
    pub fn drain(&mut self, now: Now) {
        self.draining = true;
        self.end_all_chats(now);
    }

    /// The shard is about to be stopped: what began now would be cut off, and a device could have what its
    /// author hears nothing of.
    pub fn take_nothing_more(&mut self) {
        self.has_drained = true;
    }

    /// Whether everything that had to end before a stop has ended.
    pub fn is_drained(&self) -> bool {
        self.draining
            && self.pagers.is_empty()
            && self.silences.is_empty()
            && self.fetches.is_empty()
            && self.revocations.is_empty()
            && self.receipts.under_way() == 0
            && self.chats.is_empty()
            && self.deliveries.is_empty()
            && self.crowds.is_empty()
            && self.custody.open() == 0
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        [
            self.sip.next_deadline(),
            self.custody.next_deadline(),
            self.registrar.next_deadline(),
            self.pager_deadlines.front().map(|(at, _)| *at),
            self.silences.first_key_value().map(|((at, _), _)| *at),
            self.user_deadlines.first().map(|(at, _)| *at),
            self.line.next_deadline(),
            (self.has_sessions() || !self.reoffers.is_empty()).then_some(self.next_sweep),
            Some(self.next_expiry),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Lets what is due happen.
    pub fn handle_timeout(&mut self, now: Now) {
        self.sip.handle_timeout(now);
        self.time = now.instant;
        self.sweep_sessions(now);
        for registered in self.registrar.handle_timeout(now.instant) {
            self.handle_registered(registered, now);
        }
        for waiter in self.custody.handle_timeout(now) {
            self.handle_refused(waiter, Refusal::Full, now);
        }
        self.handle_pager_timeouts(now);
        self.answer_silences(now);
        self.handle_user_timeouts(now);
        self.serve_line(now);
        self.look_for_expired(now);
        self.run_restless(now);
    }

    /// Whether anything is under way whose time limits are looked after by the sweep.
    fn has_sessions(&self) -> bool {
        !(self.chats.is_empty()
            && self.deliveries.is_empty()
            && self.relays.is_empty()
            && self.media.is_empty())
    }

    /// Sessions are limited by seconds and minutes: one look at all of them now and then costs less
    /// than an ordered set of their deadlines would with every frame.
    fn sweep_sessions(&mut self, now: Now) {
        if self.next_sweep > now.instant {
            return;
        }
        self.next_sweep = now.instant + SWEEP_INTERVAL;
        self.media.handle_timeout(now);
        self.run_media(now);
        self.handle_chat_timeouts(now);
        self.handle_replay_timeouts(now);
        self.handle_leg_timeouts(now);
        self.handle_provisional_timeouts(now);
        self.handle_relay_timeouts(now);
        self.weigh_sessions();
        self.offer_again(now);
    }

    fn handle_user_timeouts(&mut self, now: Now) {
        while self
            .user_deadlines
            .first()
            .is_some_and(|(at, _)| *at <= now.instant)
        {
            let Some((_, identity)) = self.user_deadlines.pop_first() else {
                return;
            };
            let is_there = self.users.contains_key(&identity);
            if is_there && self.line.come(&identity, Occasion::Retry, now.instant) {
                self.retry_user(&identity, now);
            }
        }
    }

    fn look_for_expired(&mut self, now: Now) {
        if self.next_expiry > now.instant {
            return;
        }
        self.next_expiry = now.instant + EXPIRY_INTERVAL;
        self.tell_of_overload(now);
        self.forget_expired(now);
        self.look_what_is_left(now);
        self.tell_again(now);
        self.handle_line_timeouts(now);
        let time = Now {
            wall: self.expiry.read(now),
            ..now
        };
        if self.custody.take_due(Waiter::Due, time).is_err() {
            tracing::debug!("no credit to look for expired messages; asking again");
        }
    }
}
