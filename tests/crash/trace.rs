//! What a trace of system calls says: whether each acknowledgement left after a sync that covers its message.

use std::collections::{BTreeMap, HashMap};

/// A call of the server that matters, in the order of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Octets came in or went out over a socket, as strace shows them.
    Received(String),
    Sent(String),
    /// Octets went into a file.
    Wrote {
        fd: u32,
        octets: String,
    },
    /// A sync of a file began, or returned without an error.
    Syncing {
        fd: u32,
        thread: u32,
    },
    Synced {
        fd: u32,
        thread: u32,
    },
}

/// Reads the output of `strace -f`; lines `PID call(...) = result`, calls cut in two where another thread's came
/// between.
pub fn read(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut begun: HashMap<u32, (String, Option<usize>)> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let (Ok(thread), rest) = (thread.parse::<u32>(), rest.trim_start()) else {
            continue;
        };
        let is_resumed = rest.starts_with("<... ");
        if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
            let at = begin(head, thread, &mut calls);
            begun.insert(thread, (head.to_owned(), at));
        } else if is_resumed {
            let tail = rest.split_once("resumed>").map_or("", |(_, tail)| tail);
            let (head, at) = begun.remove(&thread).unwrap_or_default();
            let whole = format!("{head}{tail}");
            // Some calls are shown with their octets only once they have returned.
            if let Some(Call::Sent(octets)) = at.and_then(|at| calls.get_mut(at)) {
                *octets = whole.clone();
            }
            end(&whole, thread, &mut calls);
        } else {
            begin(rest, thread, &mut calls);
            end(rest, thread, &mut calls);
        }
    }
    calls
}

/// What counts from its beginning, and its place: octets that leave, and the moment up to which a sync covers
/// writes.
fn begin(call: &str, thread: u32, calls: &mut Vec<Call>) -> Option<usize> {
    let at = calls.len();
    let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
    match name {
        "sendto" | "sendmsg" | "sendmmsg" | "writev" | "write" => {
            calls.push(Call::Sent(arguments.to_owned()));
        }
        "fdatasync" | "fsync" => {
            if let Some(fd) = descriptor(arguments) {
                calls.push(Call::Syncing { fd, thread });
            }
        }
        _ => {}
    }
    (calls.len() > at).then_some(at)
}

/// What counts from its end.
fn end(call: &str, thread: u32, calls: &mut Vec<Call>) {
    let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
    let succeeded = !arguments.contains(") = -1");
    match name {
        "recvfrom" | "recvmsg" | "recvmmsg" | "read" if succeeded => {
            calls.push(Call::Received(arguments.to_owned()));
        }
        "pwrite64" if succeeded => {
            if let Some(fd) = descriptor(arguments) {
                let octets = arguments.to_owned();
                calls.push(Call::Wrote { fd, octets });
            }
        }
        "fdatasync" | "fsync" if succeeded => {
            if let Some(fd) = descriptor(arguments) {
                calls.push(Call::Synced { fd, thread });
            }
        }
        _ => {}
    }
}

fn descriptor(arguments: &str) -> Option<u32> {
    let digits = arguments.split(|it: char| !it.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// A message and what acknowledges it.
#[derive(Clone, Debug)]
pub struct Acknowledgement {
    /// Stands in the message alone: in the request, and in the record that is written.
    pub mark: String,
    /// Stands in the answer alone, such as its first line and the transaction.
    pub answer: Vec<String>,
}

/// Why an acknowledgement came too early, if it did.
pub fn judge(calls: &[Call], wanted: &Acknowledgement) -> Result<(), String> {
    let is_answer = |call: &Call| match call {
        Call::Sent(octets) => wanted
            .answer
            .iter()
            .all(|part| octets.contains(part.as_str())),
        _ => false,
    };
    let mark = &wanted.mark;
    let answered = calls.iter().position(is_answer);
    let answered = answered.ok_or_else(|| format!("{mark} has no answer in the trace"))?;
    let before = &calls[..answered];
    let received = before.iter().position(|call| match call {
        Call::Received(octets) => octets.contains(mark),
        _ => false,
    });
    received.ok_or_else(|| format!("{mark} was not received before its answer"))?;
    // Which files have it, and at which of their syncs' beginnings.
    let mut written: BTreeMap<u32, bool> = BTreeMap::new();
    let mut covering: HashMap<u32, u32> = HashMap::new();
    for call in before {
        match call {
            Call::Wrote { fd, octets } if octets.contains(mark) => {
                written.insert(*fd, false);
            }
            Call::Syncing { fd, thread } if written.contains_key(fd) => {
                covering.insert(*thread, *fd);
            }
            Call::Synced { fd, thread } if covering.get(thread) == Some(fd) => {
                written.insert(*fd, true);
            }
            _ => {}
        }
    }
    match written.values().next() {
        None => Err(format!("{mark} was not written before its answer")),
        Some(_) if written.values().all(|synced| *synced) => Ok(()),
        Some(_) => Err(format!("{mark} was answered before it was synced")),
    }
}
