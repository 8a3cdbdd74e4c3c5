//! What came of many requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cost::Subject;
use restante::clock::{self, Instant};

/// When to ask no more: after so many, or so long.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    pub count: u64,
    pub time: Duration,
}

impl Until {
    /// So many, however long it takes.
    pub fn count(count: u64) -> Self {
        let time = Duration::from_secs(3600);
        Self { count, time }
    }
}

/// The answers to many requests, and how long they took.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub asked: u64,
    /// Requests that succeeded, or what was counted instead of them.
    pub done: u64,
    /// Other answers.
    pub refused: BTreeMap<u16, u64>,
    /// Requests without any answer.
    pub silent: u64,
    /// Requests that were sent again.
    pub repeated: u64,
    /// Microseconds.
    pub latencies: Vec<u64>,
    pub wall: Duration,
    /// CPU time of who answered.
    pub cpu: Duration,
}

impl Tally {
    /// One more was answered well.
    pub fn count(&mut self, asked_at: Instant) {
        self.done += 1;
        let took = clock::now().instant.as_micros() - asked_at.as_micros();
        self.latencies.push(took);
    }

    /// This part of a hundred took at most so long.
    pub fn percentile(&self, hundredths: usize) -> Duration {
        let mut all = self.latencies.clone();
        all.sort_unstable();
        let index = (all.len().saturating_sub(1)) * hundredths / 100;
        Duration::from_micros(all.get(index).copied().unwrap_or_default())
    }

    /// How many a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.wall.as_secs_f64().max(1e-6)
    }

    /// CPU seconds for ten thousand.
    pub fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() / self.done.max(1) as f64 * 1e4
    }
}

/// The wall and CPU time of `work`.
pub fn metered(subject: &Subject, work: impl FnOnce() -> Tally) -> Tally {
    let (began, before) = (clock::now().instant, subject.used());
    let mut tally = work();
    tally.wall = clock::now().instant.since(began);
    tally.cpu = subject.used().saturating_sub(before);
    tally
}
