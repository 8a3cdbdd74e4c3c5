//! The machine that keeps one user's messages in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use restante::clock::{Instant, Now, UnixMillis};
use restante::identity::Identity;
use restante::participating::served_user::{
    Reach, ReplayPolicy, RetrySchedule, RunEnd, RunId, ServedUser, UserAction,
};
use restante::store::request::{ConversationKey, Held, MessageKind, Seq};

use super::choices::Choices;

const AUTHORS: [&str; 3] = ["alice", "carol", "dave"];
/// Messages in one page of the queue.
const PAGE: usize = 2;

/// Everything is taken, by session or by MESSAGE.
const BOTH: Reach = Reach {
    session: true,
    message: Some(60_000),
    standalone: true,
    switch_over: 1_300,
};

/// The machine, and the service around it as far as it counts.
struct Service {
    user: ServedUser,
    now: Now,
    last: u64,
    /// On their way to the disk, of no order yet.
    storing: Vec<(ConversationKey, bool)>,
    /// Durable, their answers still on the way.
    answers: VecDeque<(Held, bool)>,
    /// Durable and not settled.
    durable: BTreeMap<Seq, Held>,
    /// Of those, what the machine was told of.
    told: BTreeSet<Seq>,
    loads: VecDeque<Option<Seq>>,
    runs: BTreeMap<RunId, (ConversationKey, Vec<Seq>)>,
}

/// Whatever happens in whatever order: one run a conversation, nothing handed out twice or out of
/// order, deadlines move on; and once the devices take everything, everything has left.
pub fn keeps_the_order(octets: &[u8]) {
    let mut choices = Choices(octets);
    let retry = RetrySchedule::new(&[Duration::from_secs(30), Duration::from_secs(300)]);
    let policy = ReplayPolicy {
        retry,
        per_device: 2,
        per_user: 3,
    };
    let mut service = Service {
        user: ServedUser::new(choices.yes(), policy),
        now: Now {
            instant: Instant::from_micros(1_000_000),
            wall: UnixMillis(1_800_000_000_000),
        },
        last: 0,
        storing: Vec::new(),
        answers: VecDeque::new(),
        durable: BTreeMap::new(),
        told: BTreeSet::new(),
        loads: VecDeque::new(),
        runs: BTreeMap::new(),
    };
    for _ in 0..300 {
        if choices.is_over() {
            break;
        }
        service.step(&mut choices);
        service.act();
    }
    service.everything_leaves();
}

fn key(choice: usize) -> ConversationKey {
    ConversationKey {
        author: Identity::new(AUTHORS[choice % 3], "im.test"),
        conversation: ["c1", "c2"][choice / 3 % 2].into(),
    }
}

impl Service {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(10) {
            0 => {
                let (key, is_long) = (key(choices.below(6)), choices.yes());
                self.user.handle_storing(&key, is_long);
                self.storing.push((key, is_long));
            }
            1 => self.becomes_durable(choices),
            2 => self.hears_of_one(choices.below(4) == 0),
            3 => {
                if let Some((key, is_long)) = self.storing.pop() {
                    self.user.handle_not_stored(&key, is_long, self.now);
                }
            }
            4 => {
                let reach = Reach {
                    session: choices.yes(),
                    message: choices.yes().then_some(1_000),
                    ..BOTH
                };
                self.user.handle_reach(reach, self.now);
            }
            5 if choices.below(3) == 0 => self.user.handle_unreachable(),
            5 | 6 => self.delivers(choices),
            7 => self.loads_a_page(),
            8 => self.ends_a_run(choices),
            _ => {
                let span = Duration::from_millis(choices.number() * 10);
                self.pass(span);
                if choices.below(4) == 0 {
                    self.user.handle_retry(&key(choices.below(6)), self.now);
                }
            }
        }
    }

    fn becomes_durable(&mut self, choices: &mut Choices<'_>) {
        if self.storing.is_empty() {
            return;
        }
        let (conversation, is_long) = self
            .storing
            .remove(choices.below(self.storing.len().min(256)));
        self.last += 1;
        let kinds = [MessageKind::Chat, MessageKind::Notification];
        let held = Held {
            seq: Seq(self.last),
            kind: kinds[choices.below(2)],
            conversation,
            message_id: format!("m{}", self.last).into(),
            length: 100 + 500 * choices.below(4) as u64,
            expires_at: UnixMillis(u64::MAX),
            marks: Box::default(),
        };
        self.durable.insert(held.seq, held.clone());
        self.answers.push_back((held, is_long));
    }

    fn hears_of_one(&mut self, tried: bool) {
        if let Some((held, is_long)) = self.answers.pop_front() {
            self.told.insert(held.seq);
            self.user.handle_stored(held, is_long, tried, self.now);
        }
    }

    fn loads_a_page(&mut self) {
        let Some(after) = self.loads.pop_front() else {
            return;
        };
        let rest: Vec<&Held> = self
            .durable
            .values()
            .filter(|held| after.is_none_or(|after| held.seq > after))
            .collect();
        let more = rest.len() > PAGE;
        let page: Vec<Held> = rest.into_iter().take(PAGE).cloned().collect();
        self.told.extend(page.iter().map(|held| held.seq));
        self.user.handle_loaded(page, more, self.now);
    }

    fn act(&mut self) {
        while let Some(action) = self.user.poll_action() {
            match action {
                UserAction::Load { after } => {
                    assert!(self.loads.is_empty(), "asks twice at once");
                    self.loads.push_back(after);
                }
                UserAction::Start { run, key, .. } => {
                    let busy = self.runs.values().any(|(other, _)| *other == key);
                    assert!(!busy, "two runs of one conversation");
                    assert!(self.runs.insert(run, (key, Vec::new())).is_none());
                }
                UserAction::Resume { .. } => panic!("nobody waits for a device"),
            }
        }
    }

    /// A run takes its next message, and perhaps what it has is confirmed.
    fn delivers(&mut self, choices: &mut Choices<'_>) {
        let Some(run) = self.runs.keys().nth(choices.below(4)).copied() else {
            return;
        };
        self.takes(run);
        if choices.yes() {
            let (key, handed) = self.runs.get_mut(&run).expect("it runs");
            if !handed.is_empty() {
                let seq = handed.remove(0);
                self.durable.remove(&seq);
                let key = key.clone();
                self.user.handle_settled(&key, seq);
            }
        }
    }

    fn takes(&mut self, run: RunId) -> bool {
        let Some(held) = self.user.next_message(run) else {
            return false;
        };
        let (key, handed) = self.runs.get_mut(&run).expect("it runs");
        assert_eq!(held.conversation, *key, "somebody else's message");
        assert!(
            self.durable.contains_key(&held.seq),
            "a message that is gone"
        );
        assert!(!handed.contains(&held.seq), "handed out twice");
        let older = self.durable.range(..held.seq).find(|(seq, other)| {
            let waits = self.told.contains(seq) && !handed.contains(seq);
            other.conversation == *key && waits && !self.user.steps_over(run, other)
        });
        assert!(older.is_none(), "{:?} before {older:?}", held.seq);
        handed.push(held.seq);
        true
    }

    fn ends_a_run(&mut self, choices: &mut Choices<'_>) {
        let Some(run) = self.runs.keys().nth(choices.below(4)).copied() else {
            return;
        };
        let ends = [
            RunEnd::Parked,
            RunEnd::Shortage,
            RunEnd::Declined,
            RunEnd::OtherWay,
            RunEnd::PutOff(Duration::from_secs(60)),
        ];
        self.runs.remove(&run);
        self.user
            .handle_run_ended(run, ends[choices.below(5)], self.now);
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now.plus(span);
        let mut turns = 0;
        while let Some(at) = self.user.next_deadline().filter(|at| *at <= until.instant) {
            self.now = self.now.plus(at.since(self.now.instant));
            self.user.handle_timeout(self.now);
            self.act();
            let next = self.user.next_deadline();
            assert!(
                next.is_none_or(|next| next > self.now.instant),
                "stands still"
            );
            turns += 1;
            assert!(turns < 1_000, "no end");
        }
        self.now = until;
    }

    fn everything_leaves(&mut self) {
        while let Some((key, is_long)) = self.storing.pop() {
            self.user.handle_not_stored(&key, is_long, self.now);
        }
        while !self.answers.is_empty() {
            self.hears_of_one(false);
        }
        self.user.handle_reach(BOTH, self.now);
        for _ in 0..1_000 {
            self.act();
            self.loads_a_page();
            for run in self.runs.keys().copied().collect::<Vec<_>>() {
                while self.takes(run) {}
                let (key, handed) = self.runs.remove(&run).expect("it runs");
                for seq in handed {
                    self.durable.remove(&seq);
                    self.user.handle_settled(&key, seq);
                }
                self.user.handle_run_ended(run, RunEnd::Done, self.now);
            }
            self.pass(Duration::from_secs(1));
            if self.durable.is_empty() && self.runs.is_empty() && self.loads.is_empty() {
                break;
            }
        }
        let left: Vec<_> = self.durable.keys().collect();
        assert!(left.is_empty(), "{left:?} never leave");
        self.act();
        assert!(self.user.is_idle() && self.user.holds_nothing());
    }
}
