//! Whether a shard keeps up, and what it refuses when it does not.
//!
//! The measure is how long what peers send waits for the shard. A queue that empties now and then
//! is a burst, and bursts are let pass; one that has stood for `STANDING` times the bound holds more
//! than can be served, and from then on no new work is taken that would wait longer than the bound
//! (controlled delay, K. Nichols and V. Jacobson, "Controlling Queue Delay", 2012, with the two bounds
//! that B. Maurer, "Fail at Scale", 2015, gives for requests). So the queue stays short, what is taken
//! is served in time, and refusing ends as soon as there is less to do: when now and then nothing waits at all,
//! for a short queue may be empty for a moment although twice as much comes as can be done.
//!
//! Datagrams are refused as they come in ([`Load::at_door`]), by how many wait and how long each was found to
//! take, because that costs least there. What came by other ways is judged when its turn has come, by how long
//! it has waited ([`Load::verdict`]).

use std::time::Duration;

use crate::clock::Instant;
use crate::limits::memory::Room;

/// A queue that has not been empty for so many times the bound stands.
const STANDING: u32 = 5;
/// Strangers make a queue that stands no longer than so many times the bound.
const STRANGERS: u32 = 2;
/// How long a piece of work takes is told by the last so many.
const MEASURED: u32 = 1024;
/// No piece of work counts for longer.
const PIECE_AT_MOST: Duration = Duration::from_millis(10);
/// Nobody waits longer than so many times the bound for an answer that is a refusal anyway.
const HOPELESS: u32 = 50;

/// Why new work is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// More comes than the shard can do.
    Delay,
    /// So it does, and more than an equal share of it from where this came from.
    Share,
    /// There is no room in memory.
    Memory,
}

/// A queue that has stood does so until nothing waited in this many of the last sixteen looks,
const EMPTY_AGAIN: u32 = 4;
/// or for so long: who has nothing to do looks seldom.
const QUIET: Duration = Duration::from_millis(100);

/// How a piece of new work is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It begins.
    Take,
    /// It is answered 503.
    Refuse(Pressure),
    /// It waited so long that its sender has sent it again: it vanishes.
    Ignore,
}

/// How what is taken next was met when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// Nobody has looked at it.
    #[default]
    Unjudged,
    /// It was judged and let in.
    LetIn,
    /// It was let in before: this is a retransmission, and is not refused, since its sender would take that for
    /// the answer to the first one. If it is new all the same, and new work is refused, it is ignored.
    Again,
}

/// What a piece of work has behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Less than nothing: its sender has left many challenges unanswered. Half of the bound.
    Silent,
    /// Nothing: its sender has done no more than to send it. The bound.
    Fresh,
    /// Nothing, but its sender has sent less than others. Twice the bound, so strangers alone make the queue no
    /// longer.
    Modest,
    /// Its sender is trusted or has proved who he is, and sends more than others. Twice the bound, without what
    /// strangers make of the queue.
    Known,
    /// Its sender is known and sends less than others, or it answers a challenge of ours, so that half of the
    /// work is done. Three times the bound, without what strangers make of the queue.
    Proven,
    /// It takes away what is in memory, and its sender is known or sends less than others: as for that, and
    /// memory does not matter.
    Leaves,
}

impl Stage {
    /// Whether strangers do not count among those before it.
    pub fn is_known(self) -> bool {
        matches!(self, Self::Known | Self::Proven | Self::Leaves)
    }
}

/// The state of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    bound: Duration,
    /// Since when something has been waiting all the time.
    standing_since: Option<Instant>,
    /// Since when nothing waits.
    empty_since: Option<Instant>,
    /// A queue has stood and it is not seen yet that it is over.
    has_stood: bool,
    /// The last looks since then, one bit each: whether nothing waited.
    empty: u16,
    /// How long what was taken last had waited.
    delay: Duration,
    /// How what was taken last was met at the door.
    entry: Entry,
    room: Room,
    /// The time that so many pieces of work took, with everything done between them.
    spent: Duration,
    served: u32,
    /// Refused since somebody asked.
    refused: u64,
    /// When the last one was refused, while an overload lasts.
    refused_at: Option<Instant>,
}

impl Load {
    /// Work may wait for `bound`.
    pub fn new(bound: Duration) -> Self {
        Self {
            bound,
            standing_since: None,
            empty_since: None,
            has_stood: false,
            empty: 0,
            delay: Duration::ZERO,
            entry: Entry::Unjudged,
            room: Room::Ample,
            spent: Duration::ZERO,
            served: 0,
            refused: 0,
            refused_at: None,
        }
    }

    /// All that had come has been taken.
    pub fn caught_up(&mut self, now: Instant) {
        self.standing_since = None;
        self.empty_since.get_or_insert(now);
        self.delay = Duration::ZERO;
    }

    /// Something waits that will be taken later.
    pub fn is_behind(&mut self, now: Instant) {
        self.standing_since.get_or_insert(now);
        self.has_stood &= !self.is_quiet(now);
        self.empty_since = None;
    }

    /// A look, to be had at regular intervals: whether nothing waits.
    pub fn sample(&mut self, is_empty: bool, now: Instant) {
        if self.has_stood {
            self.empty = self.empty << 1 | u16::from(is_empty);
            self.has_stood = self.empty.count_ones() < EMPTY_AGAIN && !self.is_quiet(now);
        } else if self.stands(now) {
            (self.has_stood, self.empty) = (true, 0);
        }
    }

    /// How much memory there is.
    pub fn set_room(&mut self, room: Room) {
        self.room = room;
    }

    /// How much memory there is.
    pub fn room(&self) -> Room {
        self.room
    }

    /// What is taken next has waited for so long.
    pub fn waited(&mut self, delay: Duration, entry: Entry) {
        self.delay = delay;
        self.entry = entry;
    }

    /// Whether what was taken last is a retransmission of what was let in.
    pub fn is_again(&self) -> bool {
        self.entry == Entry::Again
    }

    /// So many pieces of work took so long, one right after the other. A pause of the whole machine says
    /// nothing about the next piece.
    pub fn served(&mut self, count: u32, took: Duration) {
        self.spent += took.min(PIECE_AT_MOST.saturating_mul(count));
        self.served += count;
        if self.served > MEASURED {
            self.spent /= 2;
            self.served /= 2;
        }
    }

    /// Why new work that comes behind so many others is not let in, if it is not. Strangers are counted only for
    /// strangers.
    pub fn at_door(&self, waiting: usize, stage: Stage, now: Instant) -> Option<Pressure> {
        if self.lacks_memory(stage) {
            return Some(Pressure::Memory);
        }
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        // Without a division: this is asked for everything that comes.
        let wait = self.spent.saturating_mul(waiting);
        let most = self.bound_of(stage, now).saturating_mul(self.served.max(1));
        (wait > most).then_some(Pressure::Delay)
    }

    /// New work was refused; `true` if it is the first of an overload.
    pub fn refused(&mut self, now: Instant) -> bool {
        self.refused += 1;
        self.refused_at.replace(now).is_none()
    }

    /// How many were refused since this was asked last.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// When new work was refused last, while an overload lasts.
    pub fn refused_at(&self) -> Option<Instant> {
        self.refused_at
    }

    /// The overload is over.
    pub fn calmed(&mut self) {
        self.refused_at = None;
        self.refused = 0;
    }

    /// How long what was taken last had waited.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Whether new work is being refused.
    pub fn is_over(&self, now: Instant) -> bool {
        self.room == Room::None || (self.stands(now) && self.delay > self.bound)
    }

    /// Whether work of our own that can wait should: half of the bound is used up.
    pub fn is_busy(&self) -> bool {
        self.room == Room::None || self.delay > self.bound / 2
    }

    /// Whether whatever comes is taken, without a further look.
    pub fn is_calm(&self) -> bool {
        let is_in_time = self.entry == Entry::LetIn || self.delay <= self.bound;
        self.room != Room::None && is_in_time
    }

    /// What becomes of new work that is taken now.
    pub fn verdict(&self, stage: Stage, now: Instant) -> Verdict {
        if self.delay > self.bound * HOPELESS {
            Verdict::Ignore
        } else if self.entry != Entry::LetIn && self.delay > self.age_of(stage, now) {
            Verdict::Refuse(Pressure::Delay)
        } else if self.lacks_memory(stage) {
            Verdict::Refuse(Pressure::Memory)
        } else {
            Verdict::Take
        }
    }

    fn lacks_memory(&self, stage: Stage) -> bool {
        self.room == Room::None && stage != Stage::Leaves
    }

    fn bound_of(&self, stage: Stage, now: Instant) -> Duration {
        match stage {
            Stage::Silent => self.bound / 2,
            Stage::Fresh if self.stands(now) => self.bound,
            Stage::Modest | Stage::Known if self.stands(now) => self.bound * STRANGERS,
            Stage::Proven | Stage::Leaves if self.stands(now) => {
                self.bound * (STANDING - STRANGERS)
            }
            _ => self.bound * STANDING,
        }
    }

    /// How old new work may be: what strangers may make of the queue counts there.
    fn age_of(&self, stage: Stage, now: Instant) -> Duration {
        let behind = if stage.is_known() { STRANGERS } else { 0 };
        self.bound_of(stage, now) + self.bound * behind
    }

    /// Whether more waits than can be served: no passing burst.
    pub fn stands(&self, now: Instant) -> bool {
        let standing = self.bound * STANDING;
        let since = self.standing_since;
        let has_stood = self.has_stood && !self.is_quiet(now);
        has_stood || since.is_some_and(|since| now.since(since) >= standing)
    }

    fn is_quiet(&self, now: Instant) -> bool {
        let since = self.empty_since;
        since.is_some_and(|since| now.since(since) >= QUIET)
    }
}

/// Seconds after which the sender of refused work may come back: spread by its own number, so that
/// those refused together do not return together. One digit, so that refusals have one length and go to the
/// kernel together ([`crate::net::segments`]).
pub fn retry_after(number: u64) -> u16 {
    const SOONEST: u64 = 2;
    const SPREAD: u64 = 8;
    (SOONEST + number % SPREAD) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(20);

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    #[test]
    fn one_long_pause_turns_nobody_away() {
        let mut load = Load::new(Duration::from_millis(200));
        load.served(1, Duration::from_secs(60));
        assert_eq!(load.at_door(20, Stage::Fresh, Instant::default()), None);
    }

    #[test]
    fn a_burst_is_served_and_a_standing_queue_is_cut() {
        let mut load = Load::new(BOUND);
        load.is_behind(at(0));
        load.waited(BOUND * 2, Entry::Unjudged);
        assert_eq!(load.verdict(Stage::Fresh, at(40)), Verdict::Take);
        load.is_behind(at(99));
        assert_eq!(load.verdict(Stage::Fresh, at(99)), Verdict::Take);
        let refused = Verdict::Refuse(Pressure::Delay);
        assert_eq!(load.verdict(Stage::Fresh, at(100)), refused);
        assert!(load.is_over(at(100)));
        load.waited(BOUND, Entry::Unjudged);
        assert_eq!(load.verdict(Stage::Fresh, at(110)), Verdict::Take);
        load.waited(BOUND * 2, Entry::Unjudged);
        load.caught_up(at(119));
        load.is_behind(at(120));
        load.waited(BOUND * 2, Entry::Unjudged);
        assert_eq!(load.verdict(Stage::Fresh, at(121)), Verdict::Take);
    }

    #[test]
    fn a_short_queue_that_is_empty_for_a_moment_still_stands() {
        let mut load = Load::new(BOUND);
        load.is_behind(at(0));
        load.sample(false, at(100));
        load.caught_up(at(100));
        assert!(
            load.stands(at(101)) && !load.stands(at(200)),
            "nothing came"
        );
        let looks = |load: &mut Load, empties: &[bool]| {
            for is_empty in empties {
                load.sample(*is_empty, at(110));
            }
            load.stands(at(110))
        };
        assert!(looks(&mut load, &[false; 16]), "it lasts");
        assert!(looks(&mut load, &[true, false, true, true]));
        assert!(!looks(&mut load, &[false, true]), "there is less to do");
        assert!(!looks(&mut load, &[false; 16]), "a burst");
    }

    #[test]
    fn who_answers_a_challenge_is_served_before_others() {
        let mut load = Load::new(BOUND);
        load.is_behind(at(0));
        load.waited(BOUND * 2, Entry::Unjudged);
        assert_eq!(load.verdict(Stage::Proven, at(200)), Verdict::Take);
        load.waited(BOUND * 6, Entry::Unjudged);
        let refused = Verdict::Refuse(Pressure::Delay);
        assert_eq!(load.verdict(Stage::Proven, at(200)), refused);
        load.waited(BOUND * 51, Entry::Unjudged);
        assert_eq!(load.verdict(Stage::Proven, at(200)), Verdict::Ignore);
    }

    #[test]
    fn while_a_queue_stands_strangers_leave_room_behind_them_for_who_is_known() {
        let mut load = Load::new(BOUND);
        load.is_behind(at(0));
        let wait_of = |stage| {
            let tenths = (1..=60).take_while(|tenths| {
                let mut load = load;
                load.waited(BOUND * *tenths / 10, Entry::Unjudged);
                load.verdict(stage, at(200)) == Verdict::Take
            });
            tenths.count()
        };
        assert_eq!(wait_of(Stage::Silent), 5);
        assert_eq!(wait_of(Stage::Fresh), 10);
        assert_eq!(wait_of(Stage::Modest), 20);
        assert_eq!(wait_of(Stage::Known), 40);
        assert_eq!(wait_of(Stage::Proven), 50);
    }

    #[test]
    fn at_the_door_it_counts_how_long_one_would_wait() {
        let mut load = Load::new(BOUND);
        assert_eq!(load.at_door(1_000_000, Stage::Fresh, at(0)), None);
        for _ in 0..100 {
            load.served(64, Duration::from_micros(6_400));
        }
        load.is_behind(at(0));
        // A tenth of a millisecond each: 200 make the bound, 1,000 what a burst may be, give or take what
        // halving loses.
        assert_eq!(load.at_door(990, Stage::Fresh, at(99)), None);
        let refused = Some(Pressure::Delay);
        assert_eq!(load.at_door(1_010, Stage::Fresh, at(99)), refused);
        assert_eq!(load.at_door(198, Stage::Fresh, at(100)), None);
        assert_eq!(load.at_door(202, Stage::Fresh, at(100)), refused);
        assert_eq!(load.at_door(396, Stage::Known, at(100)), None);
        assert_eq!(load.at_door(404, Stage::Known, at(100)), refused);
        assert_eq!(load.at_door(594, Stage::Proven, at(100)), None);
        assert_eq!(load.at_door(606, Stage::Proven, at(100)), refused);
        for _ in 0..100 {
            load.served(64, Duration::from_micros(640));
        }
        assert_eq!(load.at_door(1_900, Stage::Fresh, at(100)), None);
    }

    #[test]
    fn what_was_let_in_is_not_refused_for_its_delay() {
        let mut load = Load::new(BOUND);
        load.is_behind(at(0));
        load.waited(BOUND * 2, Entry::LetIn);
        assert!(load.is_calm());
        assert_eq!(load.verdict(Stage::Fresh, at(200)), Verdict::Take);
    }

    #[test]
    fn an_overload_begins_with_its_first_refusal() {
        let mut load = Load::new(BOUND);
        assert!(load.refused(at(1)) && !load.refused(at(2)));
        assert_eq!((load.refused_at(), load.take_refused()), (Some(at(2)), 2));
        assert_eq!(load.take_refused(), 0);
        load.calmed();
        assert!(load.refused(at(9)));
    }

    #[test]
    fn without_memory_everything_new_is_refused() {
        let mut load = Load::new(BOUND);
        load.set_room(Room::Scarce);
        assert_eq!(load.verdict(Stage::Proven, at(0)), Verdict::Take);
        load.set_room(Room::None);
        let refused = Verdict::Refuse(Pressure::Memory);
        assert_eq!(load.verdict(Stage::Proven, at(0)), refused);
        assert_eq!(
            load.at_door(0, Stage::Proven, at(0)),
            Some(Pressure::Memory)
        );
        assert!(load.is_over(at(0)) && load.is_busy());
        assert_eq!(load.verdict(Stage::Leaves, at(0)), Verdict::Take);
        assert_eq!(load.at_door(0, Stage::Leaves, at(0)), None);
    }

    #[test]
    fn who_repeats_himself_gets_round_no_limit() {
        let mut load = Load::new(BOUND);
        load.is_behind(at(0));
        load.waited(BOUND, Entry::Again);
        assert!(load.is_calm() && load.is_again());
        load.waited(BOUND * 2, Entry::Again);
        let refused = Verdict::Refuse(Pressure::Delay);
        assert!(!load.is_calm());
        assert_eq!(load.verdict(Stage::Fresh, at(200)), refused);
        load.waited(BOUND, Entry::Again);
        load.set_room(Room::None);
        let refused = Verdict::Refuse(Pressure::Memory);
        assert!(!load.is_calm());
        assert_eq!(load.verdict(Stage::Fresh, at(200)), refused);
    }

    #[test]
    fn those_refused_together_do_not_return_together() {
        let mut times: Vec<u16> = (0..100).map(retry_after).collect();
        times.sort_unstable();
        times.dedup();
        assert_eq!(times, [2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
