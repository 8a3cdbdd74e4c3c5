//! What devices put off: the retry schedule, how long they rest, when something new brings the next try about, and
//! what goes aside so that the rest of its conversation goes on (decision 3 of ARCHITECTURE.md).

use std::sync::Arc;
use std::time::Duration;

use super::{Conversation, State, own_carrier};
use crate::clock::{Instant, Now};
use crate::participating::served_user::{Carrier, RunEnd};
use crate::store::request::{Held, Seq};

/// How soon a run that we had no room for is begun again, for so many times in a row; and after them.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(500);
const SHORT_PAUSES: u8 = 20;
const LONG_SHORTAGE_PAUSE: Duration = Duration::from_secs(10);
/// How often in all, ten minutes long, before it waits for the next retry step like a refused one: what never
/// finds room must not hold up its conversation for ever.
const MOST_SHORTAGES: u8 = 80;
/// For so long everything younger waits behind a message that devices put off. If it is refused once more
/// after that, what leaves by the other carrier goes on without it: a device that never takes the one must not
/// hold up the other for ever.
const PATIENCE: Duration = Duration::from_secs(120);
/// The part of a retry step, and at most how long, for which a device that has just refused is not tried again,
/// whatever comes: a flood of new messages is no flood of tries. Who was called and had no time has the whole step.
const REST_PART: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The waiting times before a parked run is tried again; the last one repeats.
#[derive(Clone, Debug)]
pub struct RetrySchedule(Arc<[Duration]>);

impl RetrySchedule {
    /// In order; an empty list means "at the next registration only".
    pub fn new(waits: &[Duration]) -> Self {
        Self(waits.into())
    }

    pub(in crate::participating) fn wait(&self, attempt: usize) -> Option<Duration> {
        self.0.get(attempt).or_else(|| self.0.last()).copied()
    }
}

/// How long something is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::participating) struct Pause {
    /// Until the retry step; without one, until the next registration.
    pub(in crate::participating) until: Option<Instant>,
    /// From then on something new brings the next try about.
    rests_until: Instant,
    /// It has lasted, with its tries, for longer than [`PATIENCE`].
    is_long: bool,
}

impl Pause {
    /// Only a registration ends it.
    pub(in crate::participating) fn for_good(now: Now) -> Self {
        Self {
            until: None,
            rests_until: now.instant,
            is_long: false,
        }
    }

    /// Something new waits: it ends as soon as the device has had its rest. Whether that is now.
    fn hasten(&mut self, now: Now) -> bool {
        let Some(until) = &mut self.until else {
            return false;
        };
        *until = (*until).min(self.rests_until);
        *until <= now.instant
    }
}

/// What waits aside, because its carrier was put off for longer than [`PATIENCE`], and blocks only its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::participating) struct Aside {
    carrier: Carrier,
    pause: Pause,
}

impl Conversation {
    /// For how long it rests if no device takes what is not aside: as long as what is.
    pub(in crate::participating) fn pause_beyond(&self, now: Now) -> Pause {
        let aside = self.aside.map(|aside| aside.pause);
        aside.unwrap_or_else(|| Pause::for_good(now))
    }

    /// Whether the others go on without this message.
    pub(in crate::participating) fn is_aside(&self, held: &Held) -> bool {
        self.carrier_aside() == Some(own_carrier(held.kind))
    }

    /// Whose messages wait aside.
    pub(in crate::participating) fn carrier_aside(&self) -> Option<Carrier> {
        self.aside.map(|aside| aside.carrier)
    }

    /// Whether all that waits does so aside, and what comes by `carrier` need not.
    pub(in crate::participating) fn lets_by(&self, carrier: Carrier) -> bool {
        let blocks = |aside: Carrier| aside == carrier;
        self.state == State::Ready
            && self.storing == 0
            && self.carrier_aside().is_some_and(|aside| !blocks(aside))
            && self.held.iter().all(|held| self.is_aside(held))
    }

    /// Whether its oldest message was put off once more, after those behind it had waited for [`PATIENCE`].
    pub(in crate::participating) fn has_tried_patience(&self) -> bool {
        matches!(self.state, State::Parked(pause) if pause.is_long)
    }

    /// Something new waits behind what devices have put off, or aside with it; whether that is to be tried again
    /// at once.
    pub(in crate::participating) fn hasten(&mut self, carrier: Carrier, now: Now) -> bool {
        match (&mut self.state, &mut self.aside) {
            (State::Parked(pause), _) => pause.hasten(now),
            (State::Ready, Some(aside)) if aside.carrier == carrier => aside.pause.hasten(now),
            _ => false,
        }
    }

    /// What waited aside is in line again.
    pub(in crate::participating) fn rejoin(&mut self) {
        self.aside = None;
    }

    /// Devices have changed, or have taken something: what they refused before says nothing any more.
    pub(in crate::participating) fn forgive(&mut self) {
        self.attempt = 0;
        self.steps = 0;
        self.step_ends = None;
    }

    /// When it is offered again by itself.
    pub(in crate::participating) fn waits_until(&self) -> Option<Instant> {
        match self.state {
            State::Parked(pause) => pause.until,
            State::Short { until } => Some(until),
            State::Ready => self.aside.and_then(|aside| aside.pause.until),
            State::Running(_) => None,
        }
    }

    /// What is put off is put off for so long at least.
    pub(in crate::participating) fn leave_alone(&mut self, asked: Duration, now: Now) {
        if let State::Parked(pause) = &mut self.state {
            let end = now.instant + asked;
            pause.rests_until = pause.rests_until.max(end);
            pause.until = pause.until.map(|until| until.max(end));
        }
    }
}

/// Our own shortage is not the device's refusal: order is kept for the while that it lasts.
pub(in crate::participating) fn pause(
    conversation: &mut Conversation,
    retry: &RetrySchedule,
    now: Now,
) {
    if conversation.shortages >= MOST_SHORTAGES {
        return park(conversation, retry, RunEnd::Parked, now);
    }
    conversation.shortages += 1;
    let pause = match conversation.shortages {
        ..=SHORT_PAUSES => SHORTAGE_PAUSE,
        _ => LONG_SHORTAGE_PAUSE,
    };
    let until = now.instant + pause;
    conversation.state = State::Short { until };
}

/// The devices put it off, as the `end` of the run says. What waits for longer than [`PATIENCE`] goes
/// aside, if there is one who could go on without it.
pub(in crate::participating) fn park(
    conversation: &mut Conversation,
    retry: &RetrySchedule,
    end: RunEnd,
    now: Now,
) {
    conversation.attempt += 1;
    conversation.shortages = 0;
    let stands = conversation.step_ends.filter(|at| *at > now.instant);
    if stands.is_none() {
        let wait = retry.wait(conversation.steps);
        conversation.step_ends = wait.map(|wait| now.instant + wait);
        conversation.steps += 1;
    }
    let step = retry.wait(conversation.steps.saturating_sub(1));
    let step = step.unwrap_or_default();
    let (rest, asked) = match end {
        RunEnd::Busy => (step, Duration::ZERO),
        RunEnd::PutOff(asked) => (step / REST_PART, asked),
        _ => (step / REST_PART, Duration::ZERO),
    };
    let rests_until = now.instant + rest.min(LONGEST_REST).max(asked);
    let until = conversation.step_ends.map(|at| at.max(now.instant + asked));
    note_put_off(conversation, now);
    let waited = |(_, since): (Seq, Instant)| now.instant.since(since) >= PATIENCE;
    let is_long = conversation.put_off.is_some_and(waited);
    conversation.state = State::Parked(Pause {
        until,
        rests_until,
        is_long,
    });
}

/// From here on its oldest message is one that devices put off.
pub(in crate::participating) fn note_put_off(conversation: &mut Conversation, now: Now) {
    if conversation.aside.is_some() {
        return;
    }
    let first = conversation.first_within_reach().map(|held| held.seq);
    if conversation.put_off.map(|(seq, _)| seq) != first {
        conversation.put_off = first.map(|seq| (seq, now.instant));
    }
}

/// What was just parked, and has tried the patience of those behind it, goes aside; whether it does. One carrier
/// at a time: while both are put off, all of the conversation waits.
pub(in crate::participating) fn step_aside(conversation: &mut Conversation) -> bool {
    let first = conversation.first_within_reach();
    let first = first.map(|held| own_carrier(held.kind));
    let pause = match conversation.state {
        State::Parked(pause) if conversation.aside.is_none() && pause.is_long => pause,
        _ => return false,
    };
    conversation.aside = first.map(|carrier| Aside { carrier, pause });
    conversation.aside.is_some()
}
