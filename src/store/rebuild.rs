//! How the view comes to be what the log says, and what happens when it is not.
//!
//! The view is a function of the log: of all segments up to the one named in its stamp. Segments are
//! applied whole and in order, by the keeper while running (`feed`) and here at a start.
//!
//! A start has the sum over all live messages of applied segments from the footers; the view must
//! have the same, after what was settled or moved since the stamp is put right. So a view whose last
//! writes were lost, or an older copy of it, is brought up or thrown away, whatever its stamp says.
//! While running, a view that fails, panics or disagrees with the log is thrown away at once and
//! built anew from the footers; everything waits meanwhile, because an answer from half a view would
//! be wrong. After a few of these, or when even a new view fails, all is kept in memory until the
//! next start.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use super::deferred::ViewFound;
use super::files::Files;
use super::footer::Line;
use super::index::Index;
use super::request::Seq;
use super::segment::Segment;
use super::shared::Damages;
use super::survey::{Fate, MessageLine, Survey};
use super::table::Change;
use super::view::{self, Broken, Sum, View};
use crate::identity::Identity;

/// Views replaced while running, at most.
const REPLACEMENTS: u32 = 3;
/// Lines applied with one write.
pub(super) const CHUNK: usize = 1000;
/// Changes to put an old view right, at most; beyond it a new one is as quick.
const CORRECTIONS: usize = 200_000;

/// A segment that is not there, and a message that was in it.
type Missing = (u64, Identity, Seq);

/// Where the view stands, and how far it is.
pub(super) struct Shelf {
    files: Arc<dyn Files>,
    data_dir: PathBuf,
    pub(super) salt: u64,
    view: Option<Arc<View>>,
    /// The last segment that the view has.
    pub(super) applied: u64,
    /// The segment that the keeper is applying.
    feeding: u64,
    replaced: u32,
    off: bool,
}

impl Shelf {
    pub(super) fn new(files: Arc<dyn Files>, data_dir: PathBuf, salt: u64) -> Self {
        Self {
            files,
            data_dir,
            salt,
            view: None,
            applied: 0,
            feeding: 0,
            replaced: 0,
            off: false,
        }
    }

    pub(super) fn view(&self) -> Option<Arc<View>> {
        self.view.clone()
    }

    /// Whether the view may have messages of a segment.
    pub(super) fn may_have(&self, segment: u64) -> bool {
        self.view.is_some() && segment <= self.applied.max(self.feeding)
    }

    fn open(&self, fresh: bool) -> Result<View, Broken> {
        let table = catch_unwind(AssertUnwindSafe(|| self.files.table(&self.data_dir, fresh)));
        match table {
            Ok(Ok(table)) => Ok(View::new(table, self.salt)),
            Ok(Err(error)) => Err(Broken(error.to_string())),
            Err(_) => Err(Broken("it panicked as it was opened".into())),
        }
    }
}

impl From<io::Error> for Broken {
    /// The log could not be read, so that nothing can be built from it.
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// At a start.
impl Index {
    /// Opens the view that is there, if any, and learns how far it is. One that is ahead of the
    /// newest sealed segment belongs to another log.
    pub(super) fn find_view(&mut self, newest: u64) {
        let found = self.shelf.open(false);
        match found.and_then(|view| Ok((view.applied()?, view))) {
            Ok((applied, _)) if applied > newest => {
                tracing::warn!("the index on disk is ahead of the log");
            }
            Ok((applied, view)) => {
                self.shelf.applied = applied;
                self.shelf.view = Some(Arc::new(view));
            }
            Err(Broken(why)) => tracing::warn!(%why, "the index on disk does not open"),
        }
    }

    /// Makes the view what the sealed segments say. They come oldest first; `expected` is the sum
    /// over the live messages of those that the view has by its stamp.
    pub(super) fn bring_up(
        &mut self,
        survey: &Survey,
        sealed: &[Arc<Segment>],
        expected: Sum,
        damages: &Damages,
    ) -> ViewFound {
        let Some(newest) = sealed.last().map(|segment| segment.number) else {
            self.shelf.view = None;
            self.shelf.applied = 0;
            return ViewFound::Unused;
        };
        let stamped = self.shelf.applied;
        let mut found = match stamped {
            0 => ViewFound::Rebuilt,
            stamped if stamped < newest => ViewFound::Behind,
            _ => ViewFound::Sound,
        };
        let result = self.correct(survey, expected);
        if let Ok(missing) = &result
            && stamped == newest
        {
            for (segment, recipient, seq) in missing {
                damages.missing(*segment, recipient, *seq);
            }
        }
        let result = result.and_then(|_| self.catch_up(survey, sealed));
        if let Err(Broken(why)) = result {
            tracing::warn!(%why, "the index on disk is built anew");
            found = ViewFound::Rebuilt;
            self.shelf.applied = 0;
            self.shelf.view = None;
            let rebuilt = self
                .shelf
                .open(true)
                .map(|view| self.shelf.view = Some(Arc::new(view)))
                .and_then(|()| self.catch_up(survey, sealed));
            if let Err(broken) = rebuilt {
                self.stay_in_memory(&broken, survey, sealed);
                found = ViewFound::Off;
            }
        }
        found
    }

    /// Removes from the view what is not live any more, or not there; fails if that does not make it
    /// right. What was neither settled nor copied and is not there is said: by a view that has heard of
    /// every sealed segment it is lost.
    fn correct(&self, survey: &Survey, expected: Sum) -> Result<Vec<Missing>, Broken> {
        let view = self.shelf.view().ok_or(Broken("none opens".into()))?;
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        let mut sum_of_wrong = Sum::default();
        let mut sum = view.audit(&mut |kept| {
            let (seq, segment) = (kept.seq, kept.place.segment);
            let is_live = survey.fate(seq, kept.place) == Fate::Live;
            let applied = segment <= self.shelf.applied;
            let is_there = self.log.0.contains_key(&segment);
            if is_live && applied && is_there {
                return;
            }
            let Some((recipient, entry)) = kept.whole() else {
                return;
            };
            if is_live && applied && missing.len() < CORRECTIONS {
                missing.push((segment, recipient.clone(), seq));
            }
            sum_of_wrong.plus(Sum::of(self.shelf.salt, &recipient, seq, &entry));
            if wrong.len() < CORRECTIONS {
                wrong.extend(view::changes(&recipient, seq, &entry, false));
            }
        })?;
        sum.minus(sum_of_wrong);
        if sum != expected || wrong.len() >= CORRECTIONS {
            return Err(Broken("it is not what the log says".into()));
        }
        for changes in wrong.chunks(CHUNK) {
            view.write(changes.to_vec())?;
        }
        if !wrong.is_empty() {
            view.sync()?;
        }
        Ok(missing)
    }

    /// Applies the sealed segments that the view does not have.
    fn catch_up(&mut self, survey: &Survey, sealed: &[Arc<Segment>]) -> Result<(), Broken> {
        let view = self.shelf.view().ok_or(Broken("none opens".into()))?;
        for segment in sealed {
            if segment.number > self.shelf.applied {
                pour(&view, segment, &segment.lines()?, |message| {
                    survey.fate(message.seq, message.entry.place) == Fate::Live
                })?;
                self.shelf.applied = segment.number;
            }
        }
        Ok(())
    }

    fn stay_in_memory(&mut self, why: &Broken, survey: &Survey, segments: &[Arc<Segment>]) {
        tracing::error!(why = %why.0, "no index on disk: all is kept in memory until the next start");
        self.shelf.off = true;
        self.shelf.view = None;
        for segment in segments {
            let lines = match segment.lines() {
                Ok(lines) => lines,
                Err(error) => {
                    let file = segment.path.display();
                    tracing::error!(%file, %error, "its messages wait for the next start");
                    continue;
                }
            };
            for message in lines
                .iter()
                .filter_map(|line| MessageLine::of(segment.number, line))
            {
                if self.is_for_view(survey, &message) {
                    self.remember(message.recipient, message.seq, message.entry);
                }
            }
        }
        self.recent.gone.clear();
        self.recent.shadows.clear();
    }
}

/// While running.
impl Index {
    /// The view to apply a segment to, a new one before the first; `None` if all stays in memory.
    pub(super) fn begin_feeding(&mut self, segment: u64) -> Option<Arc<View>> {
        if self.shelf.view.is_none() && !self.shelf.off {
            match self.build() {
                Ok(view) => self.shelf.view = Some(view),
                Err(broken) => self.replace_view(&broken),
            }
        }
        self.shelf.feeding = segment;
        self.shelf.view()
    }

    /// A segment is durably in the view, unless that was replaced meanwhile.
    pub(super) fn fed(&mut self, view: &Arc<View>, segment: u64) -> bool {
        let current = self.is_current(view);
        if current {
            self.shelf.applied = segment;
            self.due_from.clear();
        }
        current
    }

    fn is_current(&self, view: &Arc<View>) -> bool {
        let current = self.shelf.view.as_ref();
        current.is_some_and(|current| Arc::ptr_eq(current, view))
    }

    /// Replaces a view unless that was done already.
    pub(super) fn replace_if_current(&mut self, view: &Arc<View>, why: &Broken) {
        if self.is_current(view) {
            self.replace_view(why);
        }
    }

    /// Throws the view away and builds it anew, from the footers up to the last applied segment.
    pub(super) fn replace_view(&mut self, why: &Broken) {
        if self.shelf.off {
            return;
        }
        tracing::error!(why = %why.0, "the index on disk is thrown away and built anew");
        self.shelf.view = None;
        self.due_from.clear();
        self.shelf.replaced += 1;
        let built = match self.shelf.replaced > REPLACEMENTS {
            true => Err(Broken("it failed too often".into())),
            false => self.build(),
        };
        match built {
            Ok(view) => self.shelf.view = Some(view),
            Err(broken) => {
                let survey = self.survey_applied().unwrap_or_else(|error| {
                    tracing::error!(%error, "segments cannot be read");
                    Survey::default()
                });
                let segments = self.applied_segments();
                self.stay_in_memory(&broken, &survey, &segments);
            }
        }
    }

    /// A view as of the last applied segment, without what memory has or was settled since. Copies in
    /// later segments do not count: one may be on its way there and not in memory yet.
    fn build(&self) -> Result<Arc<View>, Broken> {
        let view = self.shelf.open(true)?;
        let survey = self.survey_applied()?;
        for segment in self.applied_segments() {
            pour(&view, &segment, &segment.lines()?, |message| {
                self.is_for_view(&survey, message)
            })?;
        }
        view.stamp(self.shelf.applied)?;
        Ok(Arc::new(view))
    }

    fn is_for_view(&self, survey: &Survey, message: &MessageLine) -> bool {
        survey.fate(message.seq, message.entry.place) == Fate::Live
            && !self.recent.gone.contains_key(&message.seq)
            && self.recent.entry(message.recipient, message.seq).is_none()
    }

    /// Oldest first.
    fn applied_segments(&self) -> Vec<Arc<Segment>> {
        let applied = self.log.0.range(..=self.shelf.applied);
        applied.map(|(_, usage)| usage.segment.clone()).collect()
    }

    fn survey_applied(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        for (number, usage) in self.log.0.iter().rev() {
            let lines = usage.segment.lines()?;
            match *number > self.shelf.applied {
                true => survey.add_settlements(&lines),
                false => survey.add(&usage.segment, &lines, |_, _| {})?,
            }
        }
        Ok(survey)
    }
}

/// Applies a segment's live messages to a view that has nothing of them, and stamps it.
fn pour(
    view: &View,
    segment: &Segment,
    lines: &[Line],
    live: impl Fn(&MessageLine) -> bool,
) -> Result<(), Broken> {
    for chunk in lines.chunks(CHUNK) {
        let messages = chunk
            .iter()
            .filter_map(|line| MessageLine::of(segment.number, line));
        let changes: Vec<Change> = messages
            .filter(|message| live(message) && view::fits(message.recipient, &message.entry))
            .flat_map(|m| view::changes(m.recipient, m.seq, &m.entry, true))
            .collect();
        view.write(changes)?;
    }
    view.stamp(segment.number)
}
