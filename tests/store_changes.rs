//! What changes about waiting messages while they wait, and what the operator keeps beside them: another
//! date, the devices that have got one, documents, and how much waits for whom.

#[path = "store/cut.rs"]
mod cut;
#[path = "store/desk.rs"]
mod desk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cut::{CutFiles, Mutant};
use desk::{Desk, LARGE, body, config, message, name, octets};
use restante::clock::UnixMillis;
use restante::identity::Identity;
use restante::store::files::DiskFiles;
use restante::store::request::{
    Body, DOCUMENT_LIMIT, Refusal, Seq, Settlement, StoreEvent, StoreRequest, StoreToken, Usage,
};
use restante::store::{StoreConfig, ViewFound};

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

/// Asks for a change and waits until it is durable.
fn change(desk: &mut Desk, ask: impl FnOnce(StoreToken) -> StoreRequest) -> Result<(), Refusal> {
    let token = desk.token();
    desk.ask(ask(token));
    match desk.answer() {
        StoreEvent::Changed { token: of } if of == token => Ok(()),
        StoreEvent::Refused { token: of, refusal } if of == token => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn redate(desk: &mut Desk, user: &str, seq: Seq, expires_at: u64) -> Result<(), Refusal> {
    change(desk, |token| StoreRequest::Redate {
        token,
        recipient: name(user),
        seq,
        expires_at: UnixMillis(expires_at),
    })
}

fn put_document(desk: &mut Desk, key: &str, value: &'static [u8]) -> Result<(), Refusal> {
    change(desk, |token| StoreRequest::PutDocument {
        token,
        key: key.into(),
        value: value.into(),
    })
}

fn mark(desk: &Desk, user: &str, seq: Seq, device: u64) {
    desk.ask(StoreRequest::Mark {
        recipient: name(user),
        seq,
        device,
    });
}

fn due(desk: &mut Desk, now: u64) -> Vec<Seq> {
    let (token, now) = (desk.token(), UnixMillis(now));
    desk.ask(StoreRequest::TakeDue {
        token,
        now,
        limit: 1_000,
    });
    match desk.answer() {
        StoreEvent::Due { due, .. } => due.into_iter().map(|(seq, _)| seq).collect(),
        other => panic!("{other:?}"),
    }
}

fn users(desk: &mut Desk, after: Option<Identity>, limit: usize) -> (Vec<(Identity, Usage)>, bool) {
    let token = desk.token();
    desk.ask(StoreRequest::ListUsers {
        token,
        after,
        limit,
    });
    match desk.answer() {
        StoreEvent::Users { users, more, .. } => (users, more),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_with_another_date_expires_by_that_one_before_and_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    let seqs: Vec<Seq> = (0..3)
        .map(|number| desk.store(message("bob", number), Body::Inline(body(number))))
        .collect();
    assert_eq!(redate(&mut desk, "bob", seqs[0], 9_000_000), Ok(()));
    assert_eq!(redate(&mut desk, "bob", seqs[2], 1_500_000), Ok(()));
    let unknown = redate(&mut desk, "carol", seqs[1], 9_000_000);
    assert_eq!(unknown, Err(Refusal::Unknown));
    for _ in 0..2 {
        assert_eq!(due(&mut desk, 1_500_000), [seqs[2]]);
        assert_eq!(due(&mut desk, 2_000_010), [seqs[2], seqs[1]]);
        assert_eq!(due(&mut desk, 9_000_000).len(), 3);
        assert_eq!(desk.delivered("bob"), [0, 1, 2], "the order stays");
        let dates: Vec<u64> = desk.load("bob").iter().map(|h| h.expires_at.0).collect();
        assert_eq!(dates, [9_000_000, 2_000_001, 1_500_000]);
        desk.close();
        desk = open(folder.path());
    }
    desk.settle("bob", seqs[0], Settlement::Withdrawn);
    assert_eq!(redate(&mut desk, "bob", seqs[0], 1), Err(Refusal::Unknown));
    desk.close();
    let mut desk = open(folder.path());
    assert_eq!(desk.delivered("bob"), [1, 2], "what left stays away");
    desk.close();
}

#[test]
fn a_large_body_keeps_its_octets_when_its_message_gets_another_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    let whole = octets(LARGE, 300_000);
    let seq = desk.store(message("bob", LARGE), Body::Inline(whole));
    for date in [3_000_000, 4_000_000] {
        assert_eq!(redate(&mut desk, "bob", seq, date), Ok(()));
    }
    desk.close();
    let mut desk = open(folder.path());
    assert_eq!(desk.delivered("bob"), [LARGE]);
    desk.close();
}

#[test]
fn a_device_that_has_a_message_is_known_until_the_message_leaves() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    let seqs: Vec<Seq> = (0..2)
        .map(|number| desk.store(message("bob", number), Body::Inline(body(number))))
        .collect();
    assert!(desk.load("bob").iter().all(|held| held.marks.is_empty()));
    for device in [7, 8, 7] {
        mark(&desk, "bob", seqs[0], device);
    }
    mark(&desk, "carol", seqs[1], 7);
    for _ in 0..2 {
        let marks: Vec<_> = desk.load("bob").into_iter().map(|h| h.marks).collect();
        assert_eq!(marks, [vec![7, 8].into(), Box::default()]);
        desk.close();
        desk = open(folder.path());
    }
    mark(&desk, "bob", seqs[0], 9);
    desk.settle("bob", seqs[0], Settlement::Delivered);
    mark(&desk, "bob", seqs[0], 10);
    desk.close();
    let mut desk = open(folder.path());
    assert_eq!(desk.delivered("bob"), [1]);
    desk.close();
}

#[test]
fn documents_come_back_as_they_were_last_put() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    for (key, value) in [
        ("account/bob", &b"1"[..]),
        ("account/carol", b"2"),
        ("account/bob", b"3"),
    ] {
        assert_eq!(put_document(&mut desk, key, value), Ok(()));
    }
    for key in ["account/carol", "account/nobody"] {
        let removed = change(&mut desk, |token| StoreRequest::RemoveDocument {
            token,
            key: key.into(),
        });
        assert_eq!(removed, Ok(()));
    }
    let too_large = vec![0; DOCUMENT_LIMIT];
    let refused = change(&mut desk, |token| StoreRequest::PutDocument {
        token,
        key: "k".into(),
        value: too_large.into(),
    });
    assert_eq!(refused, Err(Refusal::TooLarge));
    // Binding and document may have one name.
    desk.ask(StoreRequest::PutBinding {
        user: name("bob"),
        key: "account/bob".into(),
        value: "binding".into(),
    });
    desk.close();
    for _ in 0..2 {
        let mut desk = open(folder.path());
        let documents = desk.recovered.documents.clone();
        assert_eq!(documents, [("account/bob".into(), "3".into())]);
        assert_eq!(desk.recovered.bindings.len(), 1);
        // So much comes and goes that every segment is compacted.
        churn(&mut desk, 200);
        desk.close();
    }
}

fn churn(desk: &mut Desk, count: u64) {
    for number in 0..count {
        let seq = desk.store(message("erin", number), Body::Inline(body(number)));
        desk.settle("erin", seq, Settlement::Delivered);
    }
}

#[test]
fn the_users_for_whom_messages_wait_are_listed_by_name_with_how_much_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    for (user, number) in [("bob", 1), ("carol", 2), ("bob", 3), ("dave", LARGE)] {
        let octets = if number == LARGE {
            100_000
        } else {
            10 * number as usize
        };
        desk.store(message(user, number), Body::Inline(octets_of(octets)));
    }
    let gone = desk.store(message("erin", 4), Body::Inline(body(4)));
    desk.settle("erin", gone, Settlement::Evicted);
    let usage = |messages, octets| Usage { messages, octets };
    let all = [
        (name("bob"), usage(2, 40)),
        (name("carol"), usage(1, 20)),
        (name("dave"), usage(1, 100_000)),
    ];
    for _ in 0..2 {
        assert_eq!(users(&mut desk, None, 10), (all.to_vec(), false));
        assert_eq!(users(&mut desk, None, 2), (all[..2].to_vec(), true));
        let rest = users(&mut desk, Some(name("bob")), 2);
        assert_eq!(rest, (all[1..].to_vec(), false));
        assert_eq!(desk.store_ref().usage(), usage(4, 100_060));
        desk.close();
        desk = open(folder.path());
    }
    desk.close();
}

fn octets_of(length: usize) -> bytes::Bytes {
    vec![b'x'; length].into()
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (self.0 >> 33) % bound
    }
}

/// What the store must say of a message.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    number: u64,
    expires_at: u64,
    marks: Vec<u64>,
}

type Model = BTreeMap<Seq, Known>;

fn one_of(model: &Model, dice: &mut Dice) -> Option<Seq> {
    let place = dice.below(model.len().max(1) as u64) as usize;
    model.keys().nth(place).copied()
}

fn step(desk: &mut Desk, model: &mut Model, dice: &mut Dice, number: u64) {
    let chosen = one_of(model, dice);
    match (dice.below(10), chosen) {
        (0..=3, Some(seq)) => {
            desk.settle("bob", seq, Settlement::Delivered);
            model.remove(&seq);
        }
        (4..=5, Some(seq)) => {
            let expires_at = 2_000_000 + dice.below(1_000_000);
            assert_eq!(redate(desk, "bob", seq, expires_at), Ok(()));
            model.get_mut(&seq).expect("chosen").expires_at = expires_at;
        }
        (6, Some(seq)) => {
            let device = dice.below(4);
            mark(desk, "bob", seq, device);
            let marks = &mut model.get_mut(&seq).expect("chosen").marks;
            if !marks.contains(&device) {
                marks.push(device);
            }
        }
        (choice, _) => {
            let (number, body) = match choice {
                9 => (LARGE + number, octets(LARGE + number, 70_000)),
                _ => (number, body(number)),
            };
            let seq = desk.store(message("bob", number), Body::Inline(body));
            let known = Known {
                number,
                expires_at: 2_000_000 + number,
                marks: Vec::new(),
            };
            model.insert(seq, known);
        }
    }
}

fn compare(desk: &mut Desk, model: &Model) {
    let numbers: Vec<u64> = model.values().map(|known| known.number).collect();
    assert_eq!(desk.delivered("bob"), numbers);
    let mut octets = 0;
    for held in desk.load("bob") {
        let known = &model[&held.seq];
        let found = Known {
            number: held.message_id.parse().expect("a number"),
            expires_at: held.expires_at.0,
            marks: held.marks.to_vec(),
        };
        assert_eq!(found, *known, "{:?}", held.seq);
        octets += held.length;
    }
    let messages = model.len() as u64;
    assert_eq!(desk.store_ref().usage(), Usage { messages, octets });
    let now = 2_500_000;
    let mut expired: Vec<_> = model.iter().filter(|(_, k)| k.expires_at <= now).collect();
    expired.sort_by_key(|(seq, known)| (known.expires_at, **seq));
    let expired: Vec<Seq> = expired.into_iter().map(|(seq, _)| *seq).collect();
    let mut found = due(desk, now);
    found.sort_by_key(|seq| (model.get(seq).map(|known| known.expires_at), *seq));
    assert_eq!(found, expired);
}

#[test]
fn dates_marks_and_sums_stay_right_through_compaction_restarts_and_a_lost_index() {
    for seed in 0..12 {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut dice, mut model) = (Dice(seed * 7919 + 1), Model::new());
        let mut desk = open(folder.path());
        for number in 0..400 {
            step(&mut desk, &mut model, &mut dice, number);
            if dice.below(60) == 0 {
                compare(&mut desk, &model);
                desk.close();
                let removes = dice.below(3) == 0;
                if removes {
                    // Not there before the first segment is full.
                    let _ = std::fs::remove_dir_all(folder.path().join("view"));
                }
                desk = open(folder.path());
                let rebuilt = desk.recovered.view == ViewFound::Rebuilt;
                assert!(removes || !rebuilt, "the index was not what the log says");
                compare(&mut desk, &model);
            }
        }
        compare(&mut desk, &model);
        desk.close();
    }
}

/// What was acknowledged as changed is so after a power cut; says what is wrong otherwise.
fn changes_survive_a_cut(mutant: Mutant, seed: u64) -> Result<(), String> {
    let files = CutFiles::new(mutant);
    let small = small_segments(Path::new("/cut"));
    let mut desk = Desk::try_open(&small, Arc::new(files.clone())).expect("opens");
    let seq = desk.store(message("bob", 1), Body::Inline(body(1)));
    churn(&mut desk, seed % 40);
    let (date, value) = (5_000_000 + seed, seed.to_string());
    redate(&mut desk, "bob", seq, date).map_err(|refusal| refusal.to_string())?;
    let put = change(&mut desk, |token| StoreRequest::PutDocument {
        token,
        key: "account/bob".into(),
        value: value.clone().into(),
    });
    put.map_err(|refusal| refusal.to_string())?;
    files.freeze();
    desk.close();
    let folder = tempfile::tempdir().expect("a folder");
    files.materialise(Path::new("/cut"), folder.path(), Some(seed));
    let opened = Desk::try_open(&small_segments(folder.path()), Arc::new(DiskFiles));
    let mut desk = opened.map_err(|error| error.to_string())?;
    let dates: Vec<u64> = desk.load("bob").iter().map(|h| h.expires_at.0).collect();
    let documents = desk.recovered.documents.clone();
    desk.close();
    let as_asked = dates == [date] && documents == [("account/bob".into(), value.into())];
    as_asked
        .then_some(())
        .ok_or(format!("{dates:?} {documents:?}"))
}

#[test]
fn a_change_that_was_acknowledged_survives_a_power_cut() {
    for seed in 0..100 {
        let kept = changes_survive_a_cut(Mutant::None, seed);
        kept.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn without_the_sync_of_the_log_changes_are_lost() {
    assert!((0..200).any(|seed| changes_survive_a_cut(Mutant::LogData, seed).is_err()));
}

/// Asks whether what was told before is durable.
fn flush(desk: &mut Desk) -> Result<(), Refusal> {
    let token = desk.token();
    desk.ask(StoreRequest::Flush { token });
    match desk.answer() {
        StoreEvent::Synced { token: of } if of == token => Ok(()),
        StoreEvent::Refused { token: of, refusal } if of == token => Err(refusal),
        other => panic!("{other:?}"),
    }
}

/// Whether a settlement and a mark are there after a power cut that follows the answer to a flush.
fn told_survives_a_cut(mutant: Mutant, seed: u64) -> Result<(), String> {
    let files = CutFiles::new(mutant);
    let opened = Desk::try_open(&small_segments(Path::new("/cut")), Arc::new(files.clone()));
    let mut desk = opened.map_err(|error| error.to_string())?;
    let seqs: Vec<Seq> = (0..2)
        .map(|number| desk.store(message("bob", number), Body::Inline(body(number))))
        .collect();
    desk.settle("bob", seqs[0], Settlement::Delivered);
    mark(&desk, "bob", seqs[1], 7);
    flush(&mut desk).map_err(|refusal| refusal.to_string())?;
    files.freeze();
    desk.close();
    let folder = tempfile::tempdir().expect("a folder");
    files.materialise(Path::new("/cut"), folder.path(), Some(seed));
    let opened = Desk::try_open(&small_segments(folder.path()), Arc::new(DiskFiles));
    let mut desk = opened.map_err(|error| error.to_string())?;
    let held = desk.load("bob");
    desk.close();
    let found: Vec<_> = held.iter().map(|held| (held.seq, &*held.marks)).collect();
    let is_told = found == [(seqs[1], &[7][..])];
    is_told.then_some(()).ok_or(format!("{found:?}"))
}

#[test]
fn what_was_told_before_a_flush_is_durable_when_that_is_answered() {
    for seed in 0..20 {
        let kept = told_survives_a_cut(Mutant::None, seed);
        assert_eq!(kept, Ok(()), "seed {seed}");
    }
    assert!((0..50).any(|seed| told_survives_a_cut(Mutant::LogData, seed).is_err()));
}

#[test]
fn a_flush_is_answered_at_once_if_nothing_waits_and_refused_once_the_disk_has_failed() {
    let files = CutFiles::new(Mutant::None);
    let config = small_segments(Path::new("/cut"));
    let mut desk = Desk::try_open(&config, Arc::new(files.clone())).expect("opens");
    assert_eq!(flush(&mut desk), Ok(()));
    let seq = desk.store(message("bob", 1), Body::Inline(body(1)));
    files.fail_at(Some((1, std::io::ErrorKind::Other)));
    desk.settle("bob", seq, Settlement::Delivered);
    assert_eq!(flush(&mut desk), Err(Refusal::Poisoned));
    assert_eq!(flush(&mut desk), Err(Refusal::Poisoned));
}
