//! The index on disk from outside: memory stays bounded, and whatever becomes of the index, no
//! message is lost, delivered twice or out of order.

#[path = "store/desk.rs"]
mod desk;
#[path = "store/faulty.rs"]
mod faulty;
#[path = "store/view.rs"]
mod view;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use desk::{Desk, LARGE, body, config, message, name, octets};
use faulty::{Fault, FaultyFiles};
use restante::clock::UnixMillis;
use restante::store::files::{DiskFiles, Files};
use restante::store::request::{Body, Quota, Seq, Settlement, StoreEvent, StoreRequest};
use restante::store::{StoreConfig, ViewFound};
use view::{Contents, Harm};

const USERS: [&str; 4] = ["bob", "carol", "dave", "erin"];

fn small_segments(folder: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 16 * 1024,
        reserve_bytes: 256 * 1024,
        ..config(folder)
    }
}

fn open(folder: &Path) -> Desk {
    Desk::try_open(&small_segments(folder), Arc::new(DiskFiles)).expect("opens")
}

/// Asks until the index in memory is as small as that, or gives up.
fn shrinks_to(desk: &mut Desk, bound: usize) -> bool {
    (0..200_000).any(|_| {
        desk.load("nobody");
        desk.store_ref().in_memory() <= bound
    })
}

/// Stores without waiting for each answer.
fn store_many(desk: &mut Desk, numbers: std::ops::Range<u64>, user: impl Fn(u64) -> String) {
    let mut waiting = 0;
    for number in numbers {
        let token = desk.token();
        desk.ask(StoreRequest::Put {
            token,
            message: Arc::new(message(&user(number), number)),
            body: Body::Inline(body(number)),
            quota: Quota::NONE,
        });
        waiting += 1;
        while waiting > 500 {
            assert!(matches!(desk.answer(), StoreEvent::Stored { .. }));
            waiting -= 1;
        }
    }
    for _ in 0..waiting {
        assert!(matches!(desk.answer(), StoreEvent::Stored { .. }));
    }
}

#[test]
fn of_50_000_messages_only_those_of_the_last_segment_are_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = StoreConfig {
        segment_bytes: 256 * 1024,
        ..config(folder.path())
    };
    let user = |number: u64| format!("u{}", number % 100);
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    store_many(&mut desk, 0..50_000, user);
    assert_eq!(desk.store_ref().messages(), 50_000);
    assert!(
        shrinks_to(&mut desk, 1_000),
        "{}",
        desk.store_ref().in_memory()
    );
    let of_seven: Vec<u64> = (0..500).map(|number| number * 100 + 7).collect();
    assert_eq!(desk.delivered("u7"), of_seven);
    desk.close();

    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    let recovered = &desk.recovered;
    assert_eq!((recovered.messages, recovered.waiting.len()), (50_000, 100));
    assert!(matches!(
        recovered.view,
        ViewFound::Sound | ViewFound::Behind
    ));
    assert!(desk.store_ref().in_memory() <= 1_000);
    assert_eq!(desk.delivered("u7"), of_seven);
    desk.close();

    // Without it, it is built anew, and memory holds no more for that.
    std::fs::remove_dir_all(folder.path().join("view")).expect("removed");
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    assert_eq!(desk.recovered.view, ViewFound::Rebuilt);
    assert!(desk.store_ref().in_memory() <= 1_000);
    assert_eq!(desk.delivered("u7"), of_seven);
    desk.close();
}

#[test]
fn what_is_delivered_before_its_segment_is_full_never_touches_the_disk_s_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = FaultyFiles::new(Fault::None);
    let mut desk =
        Desk::try_open(&small_segments(folder.path()), Arc::new(files.clone())).expect("opens");
    for number in 0..400 {
        let seq = desk.store(message("bob", number), Body::Inline(body(number)));
        desk.settle("bob", seq, Settlement::Delivered);
    }
    desk.close();
    let (added, stored) = (files.added(), 400);
    assert!(added * 10 < stored, "{added} of {stored} were written");
}

#[test]
fn messages_that_get_another_date_while_their_segments_are_compacted_are_not_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = FaultyFiles::new(Fault::None);
    let mut desk =
        Desk::try_open(&small_segments(folder.path()), Arc::new(files.clone())).expect("opens");
    let kept: Vec<Seq> = (0..20)
        .map(|number| desk.store(message("bob", number), Body::Inline(body(number))))
        .collect();
    let (mut asked, mut answered) = (0, 0);
    for round in 0..400 {
        for seq in &kept {
            if (round + seq.0) % 3 == 0 {
                let token = desk.token();
                desk.ask(StoreRequest::Redate {
                    token,
                    recipient: name("bob"),
                    seq: *seq,
                    expires_at: UnixMillis(3_000_000 + round),
                });
                asked += 1;
            }
        }
        let token = desk.token();
        desk.ask(StoreRequest::Put {
            token,
            message: Arc::new(message("carol", round)),
            body: Body::Inline(body(round)),
            quota: Quota::NONE,
        });
        let mut is_stored = false;
        while !is_stored || asked - answered > 100 {
            match desk.answer() {
                StoreEvent::Changed { .. } => answered += 1,
                StoreEvent::Stored { seq, .. } => {
                    desk.settle("carol", seq, Settlement::Delivered);
                    is_stored = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    while answered < asked {
        assert!(matches!(desk.answer(), StoreEvent::Changed { .. }));
        answered += 1;
    }
    assert_eq!(desk.delivered("bob"), (0..20).collect::<Vec<_>>());
    assert!(files.fresh() <= 1, "the index was thrown away");
    let (total, _) = desk.store_ref().disk_use();
    assert!(total < 40 * 16 * 1024, "{total} octets on disk");
    desk.close();
}

/// What the store must say, kept the simple way.
#[derive(Default)]
struct Model {
    /// By user and place in the order: the number.
    waiting: BTreeMap<(&'static str, Seq), u64>,
}

impl Model {
    fn of(&self, user: &str) -> Vec<u64> {
        let waiting = self.waiting.iter().filter(|((of, _), _)| *of == user);
        waiting.map(|(_, number)| *number).collect()
    }

    /// Loads, fetches and asks what is due, and compares.
    fn compare(&self, desk: &mut Desk, about: &str) {
        for user in USERS {
            assert_eq!(desk.delivered(user), self.of(user), "{about}: {user}");
        }
        assert_eq!(desk.store_ref().messages(), self.waiting.len(), "{about}");
        let token = desk.token();
        let now = UnixMillis(2_000_150);
        desk.ask(StoreRequest::TakeDue {
            token,
            now,
            limit: 10_000,
        });
        let StoreEvent::Due { due, .. } = desk.answer() else {
            panic!("due")
        };
        let mut numbers: Vec<u64> = due
            .iter()
            .map(|(_, message)| message.message_id.parse().expect("a number"))
            .collect();
        numbers.sort_unstable();
        let mut expected: Vec<u64> = self.waiting.values().copied().collect();
        expected.retain(|number| 2_000_000 + number <= now.0);
        expected.sort_unstable();
        assert_eq!(numbers, expected, "{about}");
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(99);
        (self.0 >> 33) % bound
    }
}

/// Some intake and settlements.
fn churn(desk: &mut Desk, model: &mut Model, dice: &mut Dice, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let user = USERS[dice.below(4) as usize];
        let (number, body) = match dice.below(40) {
            0 => (LARGE + number, Body::Inline(octets(LARGE + number, 70_000))),
            _ => (number, Body::Inline(body(number))),
        };
        let seq = desk.store(message(user, number), body);
        model.waiting.insert((user, seq), number);
        // The old ones rather than the new, so that they are in the view.
        while dice.below(10) < 5 && model.waiting.len() > 60 {
            let nth = dice.below(model.waiting.len() as u64) as usize;
            let (user, seq) = *model.waiting.keys().nth(nth).expect("there");
            desk.settle(user, seq, Settlement::Delivered);
            model.waiting.remove(&(user, seq));
        }
    }
}

#[test]
fn churn_restarts_and_harm_to_the_index_lose_and_repeat_nothing() {
    for seed in 0..10 {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut model, mut dice) = (Model::default(), Dice(seed));
        let mut older = Contents::new();
        for round in 0..6 {
            let harm = Harm::ALL[dice.below(5) as usize];
            harm.befall(folder.path(), &older, |bound| dice.below(bound));
            let mut desk = open(folder.path());
            let about = format!("seed {seed} round {round} {harm:?}");
            model.compare(&mut desk, &about);
            let numbers = round * 150..(round + 1) * 150;
            churn(&mut desk, &mut model, &mut dice, numbers);
            model.compare(&mut desk, &about);
            desk.close();
            if round % 2 == 1 {
                older = view::read_files(folder.path());
            }
        }
    }
}

#[test]
fn an_older_copy_of_the_index_is_caught_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    store_many(&mut desk, 0..200, |_| "bob".into());
    assert!(shrinks_to(&mut desk, 60));
    desk.close();
    let older = view::read_files(folder.path());
    let mut desk = open(folder.path());
    for held in desk.load("bob").iter().take(150) {
        desk.settle("bob", held.seq, Settlement::Delivered);
    }
    store_many(&mut desk, 200..400, |_| "bob".into());
    assert!(shrinks_to(&mut desk, 60));
    desk.close();
    Harm::Older.befall(folder.path(), &older, |_| 0);
    let mut desk = open(folder.path());
    assert_eq!(desk.recovered.view, ViewFound::Behind);
    assert_eq!(desk.delivered("bob"), (150..400).collect::<Vec<_>>());
    desk.close();
}

/// Intake, settlements and restarts while the table misbehaves.
fn survives(fault: Fault) -> FaultyFiles {
    let folder = tempfile::tempdir().expect("a folder");
    let files = FaultyFiles::new(fault);
    let (mut model, mut dice) = (Model::default(), Dice(7));
    for round in 0..3 {
        let config = small_segments(folder.path());
        let shared: Arc<dyn Files> = Arc::new(files.clone());
        let mut desk = Desk::try_open(&config, shared).expect("opens");
        let about = format!("{fault:?} round {round}");
        model.compare(&mut desk, &about);
        let numbers = round * 150..(round + 1) * 150;
        churn(&mut desk, &mut model, &mut dice, numbers);
        model.compare(&mut desk, &about);
        desk.close();
    }
    files
}

#[test]
fn an_index_that_panics_is_replaced_and_nothing_is_lost() {
    for call in [1, 2, 3, 5, 8, 13, 21, 55, 144, 377] {
        assert!(survives(Fault::PanicAt(call)).has_struck());
    }
}

#[test]
fn an_index_that_fails_is_replaced_and_nothing_is_lost() {
    for call in [1, 2, 4, 7, 20, 100] {
        assert!(survives(Fault::FailAt(call)).has_struck());
    }
}

#[test]
fn without_a_usable_index_all_is_kept_in_memory() {
    assert!(survives(Fault::PanicAlways).has_struck());
    assert!(survives(Fault::FailAlways).has_struck());
}

#[test]
fn an_index_that_says_what_the_log_does_not_is_replaced() {
    for call in [1, 2, 5, 30, 100] {
        assert!(survives(Fault::LieAt(call)).has_struck());
    }
}

#[test]
fn an_index_that_forgets_messages_costs_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = FaultyFiles::new(Fault::Forget);
    let config = small_segments(folder.path());
    let mut desk = Desk::try_open(&config, Arc::new(files.clone())).expect("opens");
    let mut kept = Vec::new();
    for number in 0..300 {
        let seq = desk.store(message("bob", number), Body::Inline(body(number)));
        match number % 5 {
            0 => kept.push(number),
            _ => desk.settle("bob", seq, Settlement::Delivered),
        }
    }
    assert!(shrinks_to(&mut desk, 100));
    desk.close();
    assert!(files.has_struck());
    // Segments whose messages it has forgotten were not dropped; the next start knows better.
    let mut desk = open(folder.path());
    assert_eq!(desk.delivered("bob"), kept);
    desk.close();
}
