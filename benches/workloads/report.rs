//! What a run found, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::tally::Tally;

/// What one workload did.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub workload: &'static str,
    pub what: String,
    /// CPUs the server had.
    pub cores: usize,
    /// Of what the rate and the cost are.
    pub unit: &'static str,
    pub done: u64,
    pub per_second: f64,
    /// CPU seconds of the server for 10,000.
    pub cpu_per_10k: f64,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    /// Requests that were answered otherwise, or not at all.
    pub refused: u64,
    pub repeated: u64,
    /// Messages that did not arrive though they were answered.
    pub lost: u64,
    /// What the machine does at best.
    pub bound: Option<Best>,
}

/// What a program does that understands nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Best {
    pub per_second: f64,
    pub cpu_per_10k: f64,
}

impl From<&Tally> for Best {
    fn from(tally: &Tally) -> Self {
        Self {
            per_second: tally.rate(),
            cpu_per_10k: tally.cost(),
        }
    }
}

/// A size or a time that is no rate.
#[derive(Clone, Debug, Serialize)]
pub struct Fact {
    pub workload: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
}

/// All that a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    pub facts: Vec<Fact>,
}

impl Row {
    /// What a tally says.
    pub fn new(
        workload: &'static str,
        what: impl Into<String>,
        cores: usize,
        tally: &Tally,
    ) -> Self {
        Self {
            workload,
            what: what.into(),
            cores,
            unit: "messages",
            done: tally.done,
            per_second: tally.rate(),
            cpu_per_10k: tally.cost(),
            p50: millis(tally.percentile(50)),
            p99: millis(tally.percentile(99)),
            max: millis(tally.percentile(100)),
            refused: tally.refused.values().sum::<u64>() + tally.silent,
            repeated: tally.repeated,
            lost: 0,
            bound: None,
        }
    }

    fn told(&self) -> String {
        let bound = self.bound.map_or("|".to_owned(), |bound| {
            format!("{:.0} | {:.3}", bound.per_second, bound.cpu_per_10k)
        });
        format!(
            "| {} | {} | {} | {:.0} {} | {:.3} | {:.2} | {:.2} | {:.2} | {bound} | {} |",
            self.workload,
            self.what,
            self.cores,
            self.per_second,
            self.unit,
            self.cpu_per_10k,
            self.p50,
            self.p99,
            self.max,
            self.troubles()
        )
    }

    fn troubles(&self) -> String {
        let all = [
            (self.refused, "refused"),
            (self.repeated, "sent again"),
            (self.lost, "LOST"),
        ];
        let told = all.iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        told.join(", ")
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Report {
    /// A size or a time.
    pub fn fact(
        &mut self,
        workload: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        let what = what.into();
        eprintln!("{workload} {what}: {value:.2} {unit}");
        self.facts.push(Fact {
            workload,
            what,
            value,
            unit,
        });
    }

    /// A rate; it is told at once, for a run takes minutes.
    pub fn row(&mut self, row: Row) {
        eprintln!("{}", row.told());
        self.rows.push(row);
    }

    /// As tables.
    pub fn told(&self) -> String {
        let mut text = String::new();
        if !self.rows.is_empty() {
            text.push_str(
                "| workload | | cores | a second | CPU s/10k | p50 ms | p99 ms | max ms \
                 | bound: a second | CPU s/10k | |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
            );
        }
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.told());
        }
        if !self.facts.is_empty() {
            text.push_str("\n| workload | | |\n|---|---|---|\n");
        }
        for fact in &self.facts {
            let Fact {
                workload,
                what,
                value,
                unit,
            } = fact;
            let _ = writeln!(text, "| {workload} | {what} | {value:.2} {unit} |");
        }
        text
    }
}
