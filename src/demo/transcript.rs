//! Everything the agents of one conversation sent and received, whole and in order.
//!
//! The ladder watches it to draw arrows while the story runs; a failure prints its end.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Instant};

/// Which way a message went, seen from its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The agent sent it.
    Sent,
    /// The agent received it.
    Received,
    /// Nothing went over the wire: a remark of the story.
    Note,
}

/// One message, or a remark.
#[derive(Clone, Debug)]
pub struct Line {
    /// Time since the transcript began.
    pub at: Duration,
    /// The agent's name.
    pub agent: String,
    /// Which way.
    pub direction: Direction,
    /// The message to the last octet.
    pub octets: Vec<u8>,
}

impl Line {
    /// The first line of the message.
    pub fn start_line(&self) -> String {
        let end = self
            .octets
            .iter()
            .position(|octet| matches!(octet, b'\r' | b'\n'))
            .unwrap_or(self.octets.len());
        String::from_utf8_lossy(&self.octets[..end]).into_owned()
    }
}

type Watcher = Box<dyn Fn(&Line) + Send>;

struct Book {
    lines: Vec<Line>,
    watcher: Option<Watcher>,
}

/// A shared record; clones write into the same one.
#[derive(Clone)]
pub struct Transcript {
    began: Instant,
    book: Arc<Mutex<Book>>,
}

/// How many arrows, and of those how many whole messages, a failure shows.
const TAIL_ARROWS: usize = 40;
const TAIL_WHOLE: usize = 6;
const WHOLE_LIMIT: usize = 3_000;

impl Transcript {
    /// An empty one that begins now.
    pub fn new() -> Self {
        Self {
            began: clock::now().instant,
            book: Arc::new(Mutex::new(Book {
                lines: Vec::new(),
                watcher: None,
            })),
        }
    }

    /// Calls `watcher` for each line from here on, in order.
    pub fn watch(&self, watcher: impl Fn(&Line) + Send + 'static) {
        self.book().watcher = Some(Box::new(watcher));
    }

    /// Writes a message down.
    pub fn record(&self, agent: &str, direction: Direction, octets: &[u8]) {
        let line = Line {
            at: clock::now().instant.since(self.began),
            agent: agent.to_owned(),
            direction,
            octets: octets.to_vec(),
        };
        let mut book = self.book();
        if let Some(watcher) = &book.watcher {
            watcher(&line);
        }
        book.lines.push(line);
    }

    /// Writes a remark down.
    pub fn note(&self, text: &str) {
        self.record("", Direction::Note, text.as_bytes());
    }

    /// A copy of everything so far.
    pub fn lines(&self) -> Vec<Line> {
        self.book().lines.clone()
    }

    /// The last arrows, then the last few messages whole, for people to read.
    pub fn tail(&self) -> String {
        let book = self.book();
        let mut text = String::from("--- the conversation so far ---\n");
        let skipped = book.lines.len().saturating_sub(TAIL_ARROWS);
        for line in &book.lines[skipped..] {
            let arrow = match line.direction {
                Direction::Sent => "-->",
                Direction::Received => "<--",
                Direction::Note => "---",
            };
            let _ = writeln!(
                text,
                "{:8.3}  {:8} {arrow} {}",
                line.at.as_secs_f64(),
                line.agent,
                line.start_line()
            );
        }
        text.push_str("--- the last messages ---\n");
        let skipped = book.lines.len().saturating_sub(TAIL_WHOLE);
        for line in &book.lines[skipped..] {
            let shown = &line.octets[..line.octets.len().min(WHOLE_LIMIT)];
            let _ = writeln!(
                text,
                "[{} {:?} at {:.3}]\n{}",
                line.agent,
                line.direction,
                line.at.as_secs_f64(),
                String::from_utf8_lossy(shown)
            );
        }
        text
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}
