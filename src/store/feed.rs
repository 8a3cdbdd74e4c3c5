//! The keeper applies a sealed segment to the view.
//!
//! Changes are made from what memory knows of the segment's messages at that moment: only those that
//! are still live are added, so a message delivered before never touches the disk's index. What is
//! settled while its segment is being applied is remembered as gone, as if it had been applied.

use std::sync::Arc;

use super::append::Full;
use super::compact::Keeper;
use super::footer::{About, Line};
use super::index::Index;
use super::rebuild::CHUNK;
use super::recent::Entry;
use super::survey::MessageLine;
use super::table::Change;
use super::view::{self, Broken, View};

/// A view that is replaced again and again ends as none.
const ATTEMPTS: usize = 8;

impl Keeper {
    /// Moves what is known of a sealed segment from memory to the view.
    pub(super) fn feed(&self, full: &Full) {
        let number = full.segment.number;
        for _ in 0..ATTEMPTS {
            let Some(view) = self.shared.index().begin_feeding(number) else {
                return;
            };
            if let Err(broken) = self.pour_recent(&view, full) {
                self.shared.index().replace_if_current(&view, &broken);
            } else if self.shared.index().fed(&view, number) {
                for lines in full.lines.chunks(CHUNK) {
                    self.shared.index().evict(number, lines);
                }
                return;
            }
        }
    }

    fn pour_recent(&self, view: &Arc<View>, full: &Full) -> Result<(), Broken> {
        for lines in full.lines.chunks(CHUNK) {
            let changes = self
                .shared
                .index()
                .changes(view, full.segment.number, lines)?;
            view.write(changes)?;
        }
        view.stamp(full.segment.number)
    }
}

impl Index {
    /// What the view must learn from these lines.
    fn changes(&self, view: &View, segment: u64, lines: &[Line]) -> Result<Vec<Change>, Broken> {
        let mut changes = Vec::new();
        for line in lines {
            if let Some(message) = MessageLine::of(segment, line) {
                if self.is_here(&message.entry, &message) {
                    let (recipient, seq) = (message.recipient, message.seq);
                    // Its body may have been elsewhere before.
                    if self.recent.shadows.contains(&seq)
                        && let Some(old) = view.entry(recipient, seq)?
                    {
                        changes.extend(view::changes(recipient, seq, &old, false));
                    }
                    changes.extend(view::changes(recipient, seq, &message.entry, true));
                }
            } else if let About::Settled { seq, .. } = &line.about
                && let Some(gone) = self.recent.gone.get(seq)
            {
                if (gone.shadowed || !gone.entry.shares.is_empty())
                    && let Some(old) = view.entry(&gone.recipient, *seq)?
                {
                    changes.extend(view::changes(&gone.recipient, *seq, &old, false));
                }
                changes.extend(view::changes(&gone.recipient, *seq, &gone.entry, false));
            }
        }
        Ok(changes)
    }

    /// Whether a message is live at that place, and for the view.
    fn is_here(&self, entry: &Entry, message: &MessageLine) -> bool {
        view::fits(message.recipient, entry)
            && self.recent.entry(message.recipient, message.seq) == Some(entry)
    }

    /// The view knows these now.
    fn evict(&mut self, segment: u64, lines: &[Line]) {
        for line in lines {
            if let Some(message) = MessageLine::of(segment, line) {
                if self.is_here(&message.entry, &message) {
                    self.forget(message.recipient, message.seq);
                    self.recent.shadows.remove(&message.seq);
                }
            } else if let About::Settled { seq, .. } = &line.about
                && let Some(gone) = self.recent.gone.get(seq)
                && gone.segment == Some(segment)
            {
                self.recent.gone.remove(seq);
            }
        }
    }
}
