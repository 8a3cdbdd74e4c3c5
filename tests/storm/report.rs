//! What the storm was, and what became of it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// A process as the system sees it.
pub struct Process(u32);

/// What it has at a moment.
pub struct Look {
    /// Resident octets.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Process {
    pub fn of(pid: u32) -> Self {
        Self(pid)
    }

    pub fn look(&self) -> Look {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.0));
        Look {
            memory: kib.unwrap_or_default() * 1024,
            descriptors: descriptors.map_or(0, Iterator::count),
        }
    }
}

/// Counts of one seed, or of all.
#[derive(Debug, Default)]
pub struct Report {
    /// Mutated inputs, by way.
    pub inputs: BTreeMap<&'static str, u64>,
    /// Answers to them, by status class.
    pub answers: BTreeMap<String, u64>,
    /// Connections opened for them.
    pub connections: u64,
    /// How long each OPTIONS took, in microseconds.
    pub options: Vec<u64>,
    /// OPTIONS without an answer.
    pub unanswered: u64,
    /// Requests of users that went as they should.
    pub served: u64,
    /// And those that did not.
    pub failed: u64,
    /// What was wrong with the first of them.
    pub failures: Vec<String>,
    /// Largest resident memory.
    pub peak: u64,
    /// How long it took.
    pub spent: Duration,
}

impl Report {
    pub fn add(&mut self, other: Self) {
        for (way, count) in other.inputs {
            *self.inputs.entry(way).or_default() += count;
        }
        for (class, count) in other.answers {
            *self.answers.entry(class).or_default() += count;
        }
        self.connections += other.connections;
        self.options.extend(other.options);
        self.unanswered += other.unanswered;
        self.served += other.served;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(5);
        self.peak = self.peak.max(other.peak);
        self.spent += other.spent;
    }

    pub fn input(&mut self, way: &'static str) {
        *self.inputs.entry(way).or_default() += 1;
    }

    /// Counts an answer of SIP or MSRP by its status.
    pub fn answer(&mut self, status: &str) {
        let class = format!("{}xx", status.get(..1).unwrap_or("?"));
        *self.answers.entry(class).or_default() += 1;
    }

    fn options_at(&self, share: usize) -> f64 {
        let mut all = self.options.clone();
        all.sort_unstable();
        let at = all.len() * share / 1000;
        all.get(at)
            .or(all.last())
            .map_or(0.0, |micros| *micros as f64 / 1000.0)
    }

    pub fn line(&self) -> String {
        format!(
            "{} inputs in {:.1} s, peak {} MiB, OPTIONS median {:.1} ms, users {} served, {} failed",
            self.inputs.values().sum::<u64>(),
            self.spent.as_secs_f64(),
            self.peak >> 20,
            self.options_at(500),
            self.served,
            self.failed
        )
    }

    pub fn text(&self, before: &Look, after: &Look) -> String {
        format!(
            "--- the storm ---\n\
             inputs       {:?}, {} connections, in {:.1} s\n\
             answers      {:?}\n\
             OPTIONS      {} answered, {} not; median {:.1} ms, 99 % within {:.1} ms\n\
             users        {} requests served, {} failed {:?}\n\
             memory       {} MiB before, {} at most, {} after\n\
             descriptors  {} before, {} after",
            self.inputs,
            self.connections,
            self.spent.as_secs_f64(),
            self.answers,
            self.options.len(),
            self.unanswered,
            self.options_at(500),
            self.options_at(990),
            self.served,
            self.failed,
            self.failures,
            before.memory >> 20,
            self.peak >> 20,
            after.memory >> 20,
            before.descriptors,
            after.descriptors
        )
    }
}
