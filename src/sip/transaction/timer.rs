//! T1, T2, T4, the lettered timers, and the deadlines of all transactions.
//!
//! A deadline is a value in a `Timers` lane, never a task. Nothing is ever cancelled: a record whose
//! transaction is gone, or whose machine has no arrow for it, means nothing when it comes up.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// The timers of RFC 3261 §17 and RFC 6026 by their letters, and four that the texts left unnamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// INVITE client: retransmit the request (doubling, unreliable transports).
    A,
    /// INVITE client: give up on any response.
    B,
    /// INVITE client: absorb retransmissions of a non-2xx final response.
    D,
    /// Non-INVITE client: retransmit the request (doubling up to T2, unreliable transports).
    E,
    /// Non-INVITE client: E once a provisional response came (always T2).
    EProceeding,
    /// Non-INVITE client: give up on a final response.
    F,
    /// INVITE server: retransmit a non-2xx final response (doubling up to T2, unreliable transports).
    G,
    /// INVITE server: give up on the ACK.
    H,
    /// INVITE server: absorb retransmissions of the ACK.
    I,
    /// Non-INVITE server: absorb retransmissions of the request.
    J,
    /// INVITE server: absorb retransmissions of the INVITE after a 2xx (RFC 6026 §7.1).
    L,
    /// INVITE client: accept further 2xx responses (RFC 6026 §7.2).
    M,
    /// INVITE server: retransmit our own 2xx (doubling up to T2, every transport; RFC 3261 §13.3.1.4).
    Success,
    /// INVITE server: send 100 (Trying) if the user did not answer in 200 ms (RFC 3261 §17.2.1).
    InviteTrying,
    /// Non-INVITE server: send 100 (Trying) once Timer E has reached T2 (RFC 4320 §4.1).
    Trying,
    /// Non-INVITE server, after `Trying`: the client has given up by now (RFC 4320 §4.2).
    Expiry,
    /// INVITE client: give up on a cancelled request (RFC 3261 §9.1).
    Cancelled,
}

impl Timer {
    /// Whether its next interval depends on the one before.
    pub const fn retransmits(self) -> bool {
        matches!(
            self,
            Self::A | Self::E | Self::EProceeding | Self::G | Self::Success
        )
    }

    /// Whether it is one of the client figures'.
    pub(super) const fn is_clients(self) -> bool {
        match self {
            Self::A
            | Self::B
            | Self::D
            | Self::E
            | Self::EProceeding
            | Self::F
            | Self::M
            | Self::Cancelled => true,
            Self::G
            | Self::H
            | Self::I
            | Self::J
            | Self::L
            | Self::Success
            | Self::InviteTrying
            | Self::Trying
            | Self::Expiry => false,
        }
    }
}

/// The three base values of RFC 3261 §17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerConfig {
    /// Estimate of the round-trip time.
    pub t1: Duration,
    /// Longest interval between retransmissions of non-INVITE requests and INVITE responses.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
}

impl Default for TimerConfig {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl TimerConfig {
    /// These values, made safe: a T1 of zero would retransmit without end.
    pub fn bounded(self) -> Self {
        let t1 = self.t1.max(Duration::from_millis(1));
        Self {
            t1,
            t2: self.t2.max(t1),
            t4: self.t4,
        }
    }

    /// How long a transaction waits for its peer at most.
    pub fn sixty_four_t1(&self) -> Duration {
        self.t1 * 64
    }

    /// The time a client's Timer E takes to be reset to T2 (RFC 4320 §4.1): 3.5 s by default.
    pub fn until_t2(&self) -> Duration {
        let (mut interval, mut sum) = (self.t1, Duration::ZERO);
        while interval < self.t2 && !interval.is_zero() {
            sum += interval;
            interval *= 2;
        }
        sum
    }

    /// For how long `timer` runs. `previous` is the interval that a retransmission timer ran before,
    /// zero at its first start. `None`: the timer does not exist on this kind of transport.
    pub fn duration(&self, timer: Timer, previous: Duration, reliable: bool) -> Option<Duration> {
        let doubled = if previous.is_zero() {
            self.t1
        } else {
            previous * 2
        };
        let linger = |duration| Some(if reliable { Duration::ZERO } else { duration });
        match timer {
            Timer::A => (!reliable).then_some(doubled),
            Timer::E | Timer::G => (!reliable).then_some(doubled.min(self.t2)),
            Timer::EProceeding => (!reliable).then_some(self.t2),
            Timer::Success => Some(doubled.min(self.t2)),
            // RFC 3261 §17.1.1.2: at least 32 s, because the server's T1 is unknown.
            Timer::D => linger(self.sixty_four_t1().max(Duration::from_secs(32))),
            Timer::I => linger(self.t4),
            Timer::J => linger(self.sixty_four_t1()),
            Timer::InviteTrying => Some(Duration::from_millis(200)),
            Timer::Trying => Some(self.until_t2().min(self.sixty_four_t1())),
            // 64*T1 after the request.
            Timer::Expiry => Some(self.sixty_four_t1().saturating_sub(self.until_t2())),
            Timer::B | Timer::F | Timer::H | Timer::L | Timer::M | Timer::Cancelled => {
                Some(self.sixty_four_t1())
            }
        }
    }
}

/// A deadline of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<Id> {
    pub at: Instant,
    pub owner: Id,
    pub timer: Timer,
}

/// The deadlines of one timer that run for the same time, the earliest first.
#[derive(Debug)]
struct Lane<Id> {
    timer: Timer,
    duration: Duration,
    queue: VecDeque<(Instant, Id)>,
}

/// All deadlines. There are only a few timers in use, with few different durations, and time does not go
/// back: one queue for each is sorted by itself, so starting and firing a timer cost the same however many
/// run, and a deadline is no more than a time and whose it is.
#[derive(Debug)]
pub(super) struct Timers<Id> {
    lanes: Vec<Lane<Id>>,
    /// Deadlines held, those that mean nothing any more included.
    records: usize,
}

impl<Id: Copy> Timers<Id> {
    pub fn new() -> Self {
        Self {
            lanes: Vec::new(),
            records: 0,
        }
    }

    pub fn start(&mut self, owner: Id, timer: Timer, duration: Duration, now: Instant) {
        let is_it = |lane: &Lane<Id>| lane.timer == timer && lane.duration == duration;
        let index = self.lanes.iter().position(is_it).unwrap_or_else(|| {
            self.lanes.push(Lane {
                timer,
                duration,
                queue: VecDeque::new(),
            });
            self.lanes.len() - 1
        });
        let queue = &mut self.lanes[index].queue;
        // A caller whose time stepped back must not leave a lane unsorted.
        let at = queue
            .back()
            .map_or(now + duration, |(last, _)| (now + duration).max(*last));
        queue.push_back((at, owner));
        self.records += 1;
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let heads = self.lanes.iter().filter_map(|lane| lane.queue.front());
        heads.map(|(at, _)| *at).min()
    }

    /// Takes the earliest deadline that is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<Record<Id>> {
        let due = self.lanes.iter_mut().filter_map(|lane| {
            let (at, _) = *lane.queue.front()?;
            (at <= now).then_some((at, lane))
        });
        let (_, lane) = due.min_by_key(|(at, _)| *at)?;
        let (at, owner) = lane.queue.pop_front()?;
        give_back(&mut lane.queue);
        self.records -= 1;
        let timer = lane.timer;
        Some(Record { at, owner, timer })
    }

    /// Forgets the deadlines of transactions that are gone, once they outnumber the live ones.
    pub fn compact(&mut self, live: usize, is_alive: impl Fn(Timer, Id) -> bool) {
        if self.records < 1024 + 6 * live {
            return;
        }
        for lane in &mut self.lanes {
            lane.queue.retain(|(_, owner)| is_alive(lane.timer, *owner));
            give_back(&mut lane.queue);
        }
        self.records = self.lanes.iter().map(|lane| lane.queue.len()).sum();
    }
}

/// Gives back the memory that a queue took in a storm.
pub(super) fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 1024 && queue.capacity() > 8 * queue.len() {
        queue.shrink_to(2 * queue.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn millis(value: u64) -> Option<Duration> {
        Some(Duration::from_millis(value))
    }

    #[test]
    fn timer_a_doubles_without_a_cap_and_e_and_g_stop_at_t2() {
        let config = TimerConfig::default();
        let mut a = ZERO;
        let mut e = ZERO;
        let mut seen = Vec::new();
        for _ in 0..6 {
            a = config.duration(Timer::A, a, false).unwrap();
            e = config.duration(Timer::E, e, false).unwrap();
            seen.push((a.as_millis(), e.as_millis()));
        }
        let expected = [
            (500, 500),
            (1000, 1000),
            (2000, 2000),
            (4000, 4000),
            (8000, 4000),
            (16000, 4000),
        ];
        assert_eq!(seen, expected);
        assert_eq!(
            config.duration(Timer::G, Duration::from_secs(3), false),
            millis(4000)
        );
    }

    #[test]
    fn reliable_transports_have_no_retransmission_and_do_not_linger() {
        let config = TimerConfig::default();
        for timer in [Timer::A, Timer::E, Timer::EProceeding, Timer::G] {
            assert_eq!(config.duration(timer, ZERO, true), None, "{timer:?}");
        }
        for timer in [Timer::D, Timer::I, Timer::J] {
            assert_eq!(config.duration(timer, ZERO, true), Some(ZERO), "{timer:?}");
        }
        assert_eq!(config.duration(Timer::Success, ZERO, true), millis(500));
    }

    #[test]
    fn timer_d_is_never_below_32_seconds() {
        let config = TimerConfig {
            t1: Duration::from_millis(10),
            ..TimerConfig::default()
        };
        assert_eq!(config.duration(Timer::D, ZERO, false), millis(32_000));
        assert_eq!(config.duration(Timer::J, ZERO, false), millis(640));
    }

    #[test]
    fn timer_e_reaches_t2_after_three_and_a_half_seconds() {
        assert_eq!(
            TimerConfig::default().until_t2(),
            Duration::from_millis(3500)
        );
        let zero = TimerConfig {
            t1: ZERO,
            ..TimerConfig::default()
        };
        assert_eq!(zero.until_t2(), ZERO);
    }

    #[test]
    fn a_server_waits_64_t1_for_its_user_in_all_whatever_t2_is() {
        for (t1, t2) in [(500, 4_000), (1, 60_000), (60_000, 60_000)] {
            let config = TimerConfig {
                t1: Duration::from_millis(t1),
                t2: Duration::from_millis(t2),
                ..TimerConfig::default()
            };
            let runs = |timer| config.duration(timer, ZERO, false).unwrap();
            let both = runs(Timer::Trying) + runs(Timer::Expiry);
            assert_eq!(both, config.sixty_four_t1());
        }
    }

    #[test]
    fn deadlines_come_up_in_order_whatever_their_duration() {
        let mut timers = Timers::new();
        let start = Instant::default();
        timers.start(1, Timer::F, Duration::from_secs(32), start);
        timers.start(2, Timer::E, Duration::from_millis(500), start);
        timers.start(3, Timer::I, Duration::from_secs(5), start);
        assert_eq!(
            timers.next_deadline(),
            Some(start + Duration::from_millis(500))
        );
        let late = start + Duration::from_secs(40);
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_due(late))
            .map(|record| record.owner)
            .collect();
        assert_eq!(order, [2, 3, 1]);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn dead_deadlines_are_forgotten_once_they_outnumber_the_live() {
        let mut timers = Timers::new();
        for owner in 0..2000u32 {
            timers.start(owner, Timer::F, Duration::from_secs(32), Instant::default());
        }
        timers.compact(1, |_, owner| owner == 1999);
        assert_eq!(timers.records, 1);
        assert!(timers.lanes[0].queue.capacity() <= 1024);
    }
}
