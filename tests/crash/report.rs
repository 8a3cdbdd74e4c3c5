//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::faults::Fault;
use super::model::Counts;
use super::server::Server;

/// Of one conversation so many may be out with a device or confirmed and not durable (RELIABILITY.md).
const FORGOTTEN: u64 = 20;
/// So many of what is wrong are printed; the evidence has all.
const SHOWN: usize = 30;

/// Of one episode, or of many.
#[derive(Debug, Default)]
pub struct Report {
    kills: BTreeMap<Fault, u64>,
    /// Orders of the shim that were not carried out in time, so that SIGKILL came at a random moment instead.
    pub missed: u64,
    failed_starts: usize,
    counts: Counts,
    first_answers: Vec<Duration>,
    stops: Vec<Duration>,
    /// What is wrong, with the seed of its episode.
    pub faults: Vec<String>,
}

impl Report {
    pub fn killed(&mut self, fault: Fault) {
        *self.kills.entry(fault).or_default() += 1;
    }

    pub fn answered(&mut self, took: Duration, failed_starts: usize) {
        self.first_answers.push(took);
        self.failed_starts += failed_starts;
    }

    pub fn stopped(&mut self, took: Duration) {
        self.stops.push(took);
    }

    pub fn kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Nothing is wrong, and no kill repeated more of a stream than is promised.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.counts.most_duplicates <= FORGOTTEN
    }

    pub fn acknowledged(&self) -> u64 {
        self.counts.acknowledged
    }

    pub fn count(&mut self, more: &Counts) {
        let own = &mut self.counts;
        own.acknowledged += more.acknowledged;
        own.refused += more.refused;
        own.delivered += more.delivered;
        own.expired += more.expired;
        own.told += more.told;
        own.duplicates += more.duplicates;
        own.said_again += more.said_again;
        for (way, (many, most)) in &more.duplicates_by_way {
            let of_way = own.duplicates_by_way.entry(way).or_default();
            *of_way = (of_way.0 + many, of_way.1.max(*most));
        }
        own.most_duplicates = own.most_duplicates.max(more.most_duplicates);
        own.most_duplicates_of_disk = own
            .most_duplicates_of_disk
            .max(more.most_duplicates_of_disk);
    }

    /// With those of another episode.
    pub fn add(&mut self, other: Self) {
        self.count(&other.counts);
        for (fault, many) in other.kills {
            *self.kills.entry(fault).or_default() += many;
        }
        self.missed += other.missed;
        self.failed_starts += other.failed_starts;
        self.first_answers.extend(other.first_answers);
        self.stops.extend(other.stops);
        self.faults.extend(other.faults);
    }

    /// The server's log and the whole conversation of an episode that went wrong, into files.
    pub fn keep_evidence(&mut self, seed: u64, server: &Server) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{seed}"));
        let mut text = String::new();
        for line in server.transcript.lines() {
            let shown = &line.octets[..line.octets.len().min(1_500)];
            let octets = String::from_utf8_lossy(shown);
            text.push_str(&format!(
                "[{} {:?} {:.3}]\n{octets}\n",
                line.agent,
                line.direction,
                line.at.as_secs_f64()
            ));
        }
        let kept = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("conversation"), text))
            .and_then(|()| std::fs::write(folder.join("log"), server.log_tail()))
            .and_then(|()| std::fs::write(folder.join("faults"), self.faults.join("\n")));
        if kept.is_ok() {
            self.faults
                .push(format!("seed {seed}: see {}", folder.display()));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(f, "kills                {}", self.kills())?;
        for (fault, many) in &self.kills {
            writeln!(f, "  {many:>6}  {}", fault.name())?;
        }
        writeln!(
            f,
            "  {:>6}  of these came at another moment than ordered",
            self.missed
        )?;
        writeln!(f, "  {:>6}  starts were killed too", self.failed_starts)?;
        writeln!(f, "acknowledged         {}", counts.acknowledged)?;
        writeln!(f, "refused              {}", counts.refused)?;
        writeln!(f, "delivered            {}", counts.delivered)?;
        writeln!(
            f,
            "expired              {}, authors told of {}",
            counts.expired, counts.told
        )?;
        writeln!(
            f,
            "duplicates           {}; of one stream after one kill {} at most, {} where the disk refused before",
            counts.duplicates, counts.most_duplicates, counts.most_duplicates_of_disk
        )?;
        for (way, (many, most)) in &counts.duplicates_by_way {
            writeln!(f, "  {many:>6}  by way of {way}, {most} at most")?;
        }
        writeln!(
            f,
            "  {:>6}  more that their authors had said again",
            counts.said_again
        )?;
        let (median, most) = median_and_most(&self.first_answers);
        writeln!(
            f,
            "first answer         median {median:.2?}, at most {most:.2?}"
        )?;
        let (median, most) = median_and_most(&self.stops);
        writeln!(
            f,
            "end after SIGTERM    median {median:.2?}, at most {most:.2?}"
        )?;
        writeln!(
            f,
            "lost, unexpected, reordered, late or untold: {}",
            self.faults.len()
        )?;
        self.faults
            .iter()
            .take(SHOWN)
            .try_for_each(|fault| writeln!(f, "  {fault}"))
    }
}

fn median_and_most(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied();
    (
        median.unwrap_or_default(),
        times.last().copied().unwrap_or_default(),
    )
}
