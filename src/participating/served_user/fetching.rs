//! What the user fetches: lent to the fetch as to a run, and what he is told of what waits.

use crate::clock::Now;
use crate::participating::conversation::{State, leaves_by_itself};
use crate::participating::pull::Wanted;
use crate::store::request::Held;
use std::collections::VecDeque;

use super::{Carrier, Claim, Loading, Run, RunId, ServedUser, UserAction};

impl ServedUser {
    /// Whether the user fetches what waits, from here on.
    pub fn set_pull(&mut self, pull: bool) {
        self.pull = pull;
        self.ready.look_again();
    }

    /// Whether the queue is known; if not, it is read.
    pub fn wants_to_know(&mut self) -> bool {
        if self.loading == Loading::Needed {
            self.loading = Loading::Asked;
            self.actions.push_back(UserAction::Load { after: None });
        }
        self.loading == Loading::Complete
    }

    /// Whether none of `wanted` stands behind a receipt that is just on its way to a device; if not,
    /// the fetch waits for the end of that run.
    pub fn may_pull(&self, wanted: &Wanted) -> bool {
        let mut unasked = self.runs.values().filter(|run| run.unasked);
        !unasked.any(|run| {
            let conversation = self.conversations.get(&run.key);
            let mut held = conversation.into_iter().flat_map(|each| &each.held);
            held.any(|held| wanted.fits(held) && !leaves_by_itself(held))
        })
    }

    /// While a fetch waits for the runs that go on unasked, no further one begins: runs to a device that
    /// does not answer would follow each other, and the fetch would never have its turn.
    pub fn let_fetches_pass(&mut self, waiting: bool, now: Now) {
        let is_over = std::mem::replace(&mut self.fetch_waits, waiting) && !waiting;
        if is_over {
            self.start_runs(now);
        }
    }

    /// Lends what waits of `wanted` to a fetch, oldest first: no other run has it until
    /// [`Self::handle_run_ended`] gives each of these runs back. `None` when nothing of it waits. Where
    /// every device gets a copy, it is what `device` lacks.
    pub fn begin_pull(
        &mut self,
        wanted: &Wanted,
        device: Option<u64>,
    ) -> Option<(Vec<RunId>, VecDeque<Held>)> {
        let lacks = |held: &Held| device.is_none_or(|device| !held.marks.contains(&device));
        let mut lent: Vec<Held> = Vec::new();
        let mut runs = Vec::new();
        for (key, conversation) in &mut self.conversations {
            if matches!(conversation.state, State::Running(_)) {
                continue;
            }
            let before = lent.len();
            let all = conversation.held.iter();
            let fitting =
                all.filter(|held| wanted.fits(held) && lacks(held) && conversation.may_leave(held));
            lent.extend(fitting.cloned());
            if lent.len() == before {
                continue;
            }
            if let Some(first) = conversation.held.front() {
                self.ready.remove(first.seq);
            }
            let run = RunId(self.next_run);
            self.next_run += 1;
            conversation.state = State::Running(run);
            conversation.handed = 0;
            let started = Run {
                key: key.clone(),
                carrier: Carrier::Session,
                copies_for: None,
                claim: Claim::None,
                begun: true,
                triggered_again: false,
                is_pull: true,
                unasked: false,
                aside: None,
            };
            self.runs.insert(run, started);
            runs.push(run);
        }
        lent.sort_by_key(|held| held.seq);
        (!runs.is_empty()).then(|| (runs, lent.into()))
    }

    /// How many messages wait for the user to fetch them, if he is there and does not know.
    pub fn news_of_waiting(&mut self) -> Option<usize> {
        if !self.pull || self.reach.is_none() || self.loading != Loading::Complete {
            return None;
        }
        let held = self.conversations.values().flat_map(|each| &each.held);
        let count = held.filter(|held| !leaves_by_itself(held)).count();
        let was_announced = std::mem::replace(&mut self.announced, count > 0);
        (count > 0 && !was_announced).then_some(count)
    }
}
