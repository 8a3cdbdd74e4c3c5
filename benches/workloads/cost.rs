//! What a process or a thread has used so far.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whose CPU time is looked at.
#[derive(Clone, Debug)]
pub struct Subject(PathBuf);

impl Subject {
    /// All threads of a process.
    pub fn process(pid: u32) -> Self {
        Self(format!("/proc/{pid}/task").into())
    }

    /// The calling thread.
    pub fn this_thread() -> Self {
        let name = fs::read_link("/proc/thread-self").expect("Linux");
        Self(PathBuf::from("/proc").join(name))
    }

    /// CPU time so far.
    pub fn used(&self) -> Duration {
        used_in(&self.0)
    }
}

fn used_in(place: &Path) -> Duration {
    if let Ok(text) = fs::read_to_string(place.join("schedstat")) {
        let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
        return Duration::from_nanos(nanos.unwrap_or_default());
    }
    let threads = fs::read_dir(place).into_iter().flatten().flatten();
    threads.map(|thread| used_in(&thread.path())).sum()
}

/// Octets of memory a process has, by kind: `Rss`, `Pss`.
pub fn memory(pid: u32, kind: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(kind));
    let words = line.and_then(|rest| rest.split_whitespace().next());
    words
        .and_then(|word| word.parse::<u64>().ok())
        .expect("a number")
        * 1024
}
