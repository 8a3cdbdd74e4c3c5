//! The store from outside: what a shard asks, what it hears, what a restart finds.

#[path = "store/cut.rs"]
mod cut;
#[path = "store/desk.rs"]
mod desk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cut::{CutFiles, Mutant};
use desk::{Desk, LARGE, body, config, message, name, octets};
use restante::clock::{self, UnixMillis};
use restante::store::deferred::DUPLICATE_WINDOW;
use restante::store::files::DiskFiles;
use restante::store::request::{
    Body, BodySource, MessageKind, Quota, Refusal, Settlement, SpoolId, StoreEvent, StoreRequest,
    StoreToken,
};
use restante::store::{Health, StoreConfig, StoreError};

#[test]
fn what_was_stored_is_there_after_a_restart_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    for number in 0..50 {
        desk.store(message("bob", number), Body::Inline(body(number)));
    }
    let all = desk.load("bob");
    assert_eq!(all.len(), 50);
    desk.settle("bob", all[3].seq, Settlement::Delivered);
    desk.close();

    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.recovered.messages, 49);
    let numbers: Vec<u64> = (0..50).filter(|number| *number != 3).collect();
    assert_eq!(desk.delivered("bob"), numbers);
    assert_eq!(desk.load("bob")[0].conversation.author, name("alice"));
    desk.close();
}

#[test]
fn messages_that_follow_one_are_read_with_it_as_far_as_they_are_short() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let first = desk.store(message("bob", 0), Body::Inline(body(0)));
    desk.store(message("carol", 1), Body::Inline(body(1)));
    let kept = [2, 3, 4].map(|number| {
        let size = if number == 4 { 60_000 } else { 10_000 };
        let octets = octets(number, size);
        desk.store(message("bob", number), Body::Inline(octets))
    });
    let mut together = |most| {
        let token = desk.token();
        desk.ask(StoreRequest::Fetch {
            token,
            recipient: name("bob"),
            seq: first,
            together: most,
        });
        let StoreEvent::Fetched { together, .. } = desk.answer() else {
            panic!("fetched");
        };
        together
    };
    assert!(together(0).is_empty());
    assert_eq!(together(1).len(), 1);
    // The third does not fit any more.
    let all = together(15);
    let seqs: Vec<_> = all.iter().map(|each| each.seq).collect();
    assert_eq!(seqs, kept[..2]);
    assert_eq!(*all[1].message, message("bob", 3));
    assert_eq!(all[1].body, octets(3, 10_000));
    desk.close();
}

#[test]
fn of_what_follows_a_message_another_kind_or_long_header_fields_are_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let mut kept = Vec::new();
    for number in 0..6 {
        let mut message = message("bob", number);
        match number {
            1 => message.conversation = "another one".into(),
            2 => message.kind = MessageKind::Pager,
            5 => message.headers = vec![("Subject".into(), "x".repeat(64 * 1024))],
            _ => {}
        }
        kept.push(desk.store(message, Body::Inline(body(number))));
    }
    for (first, expected) in [(0, &kept[1..2]), (1, &[]), (2, &[]), (3, &kept[4..5])] {
        let token = desk.token();
        desk.ask(StoreRequest::Fetch {
            token,
            recipient: name("bob"),
            seq: kept[first],
            together: 15,
        });
        let StoreEvent::Fetched { together, .. } = desk.answer() else {
            panic!("fetched");
        };
        let seqs: Vec<_> = together.iter().map(|each| each.seq).collect();
        assert_eq!(seqs, expected);
    }
    desk.close();
}

#[test]
fn large_bodies_and_spools_come_back_byte_for_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let whole = octets(LARGE, 3_000_000);
    desk.store(message("bob", LARGE), Body::Inline(whole.clone()));
    let spool = SpoolId(7);
    let whole = octets(LARGE + 1, 1_000_000);
    for from in (0..whole.len()).step_by(2_000).rev() {
        desk.append(spool, from as u64, whole.slice(from..from + 2_000));
        assert!(matches!(desk.hear(), StoreEvent::Appended { .. }));
    }
    let spooled = desk.read(BodySource::Spool(spool), 100_000).expect("read");
    assert_eq!(spooled, whole.slice(..100_000));
    let token = desk.token();
    desk.ask(StoreRequest::Sync { token, spool });
    assert!(matches!(desk.answer(), StoreEvent::Synced { .. }));
    let length = whole.len() as u64;
    desk.store(message("bob", LARGE + 1), Body::Spooled { spool, length });
    // A small spool becomes a small message, without a body segment.
    let small = SpoolId(8);
    desk.append(small, 0, body(3));
    let length = body(3).len() as u64;
    let small = Body::Spooled {
        spool: small,
        length,
    };
    desk.store(message("bob", 3), small);
    desk.close();

    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.delivered("bob"), [LARGE, LARGE + 1, 3]);
    desk.close();
}

#[test]
fn a_spool_with_a_hole_or_a_wrong_name_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    desk.append(SpoolId(1), 10, body(1));
    for spool in [SpoolId(1), SpoolId(2)] {
        let refused = desk.try_store(message("bob", 1), Body::Spooled { spool, length: 30 });
        assert_eq!(refused, Err(Refusal::Unknown));
    }
    desk.ask(StoreRequest::Drop { spool: SpoolId(1) });
    desk.close();
}

#[test]
fn a_second_start_finds_the_folder_locked() {
    let folder = tempfile::tempdir().expect("a folder");
    let desk = Desk::open(folder.path());
    let second = Desk::try_open(&config(folder.path()), Arc::new(DiskFiles));
    assert!(matches!(second, Err(StoreError::Locked(_))));
    desk.close();
    Desk::open(folder.path()).close();
}

#[test]
fn the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut desk = Desk::open(&data);
    desk.store(message("bob", 1), Body::Inline(body(1)));
    desk.close();
    for name in ["", "log", "body", "damaged"] {
        let mode = std::fs::metadata(data.join(name))
            .expect("there")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o700, "{name}");
    }
    for file in segments(&data, "log") {
        let mode = std::fs::metadata(&file).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
}

#[test]
fn a_folder_of_a_later_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    Desk::open(folder.path()).close();
    let path = segments(folder.path(), "log").remove(0);
    let mut octets = std::fs::read(&path).expect("read");
    for copy in [0, 40] {
        octets[copy + 8] = 4;
        let crc = crc32c::crc32c(&octets[copy..copy + 36]).to_le_bytes();
        octets[copy + 36..copy + 40].copy_from_slice(&crc);
    }
    std::fs::write(&path, &octets).expect("written");
    let refused = Desk::try_open(&config(folder.path()), Arc::new(DiskFiles)).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Newer { format: 4, .. })));
    assert_eq!(std::fs::read(&path).expect("read"), octets);
}

#[test]
fn bindings_come_back_as_they_were_last_put() {
    let folder = tempfile::tempdir().expect("a folder");
    let desk = Desk::open(folder.path());
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        desk.ask(StoreRequest::PutBinding {
            user: name("bob"),
            key: key.into(),
            value: value.into(),
        });
    }
    desk.ask(StoreRequest::RemoveBinding {
        user: name("bob"),
        key: "b".into(),
    });
    desk.close();
    for _ in 0..2 {
        let desk = Desk::open(folder.path());
        let found: Vec<_> = desk
            .recovered
            .bindings
            .iter()
            .map(|binding| (&*binding.key, &*binding.value))
            .collect();
        assert_eq!(found, [("a", b"3".as_slice()), ("c", b"4")]);
        desk.close();
    }
}

#[test]
fn duplicates_are_known_after_a_restart_for_32_seconds_unless_cancelled() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let delivered = desk.store(message("bob", 1), Body::Inline(body(1)));
    let cancelled = desk.store(message("bob", 2), Body::Inline(body(2)));
    desk.settle("bob", delivered, Settlement::Delivered);
    desk.settle("bob", cancelled, Settlement::Cancelled);
    desk.close();
    for (later, keys) in [(32_000, vec![1]), (32_001, vec![])] {
        let mut config = config(folder.path());
        config.now = UnixMillis(desk::NOW.0 + later);
        let desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
        let found: Vec<_> = desk
            .recovered
            .duplicate_keys
            .iter()
            .map(|d| d.key)
            .collect();
        assert_eq!(found, keys);
        desk.close();
    }
}

/// Stores and settles one after the other, until the first log segment is dropped or so many came; false if it
/// still stands.
fn churn_until_the_first_segment_goes(desk: &mut Desk, data: &Path, most: u64) -> bool {
    let first = segments(data, "log").remove(0);
    (0..most).any(|number| {
        let seq = desk.store(message("bob", number), Body::Inline(body(number)));
        desk.settle("bob", seq, Settlement::Delivered);
        !first.exists()
    })
}

#[test]
fn what_was_delivered_a_moment_ago_is_known_after_two_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.segment_bytes = 64 * 1024;
    // Longer than the slowest disk takes for this.
    config.compact_after = Duration::from_secs(600);
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    let seq = desk.store(message("bob", LARGE), Body::Inline(body(1)));
    desk.settle("bob", seq, Settlement::Delivered);
    for _ in 0..2 {
        let has_gone = churn_until_the_first_segment_goes(&mut desk, folder.path(), 500);
        assert!(!has_gone, "with the first message in it");
        desk.close();
        desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
        let mut known = desk.recovered.duplicate_keys.iter();
        assert!(known.any(|found| found.key == u128::from(LARGE)));
    }
    desk.close();
    // A minute later nothing comes again, and the room comes back.
    let config = StoreConfig {
        now: UnixMillis(desk::NOW.0 + 60_000),
        compact_after: DUPLICATE_WINDOW,
        ..config
    };
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    let has_gone = churn_until_the_first_segment_goes(&mut desk, folder.path(), 100_000);
    assert!(has_gone, "nothing comes again");
    desk.close();
}

#[test]
fn room_comes_back_without_further_work_once_no_request_can_come_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.segment_bytes = 64 * 1024;
    config.compact_after = Duration::from_millis(300);
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    let first = segments(folder.path(), "log").remove(0);
    for number in 0..300 {
        let seq = desk.store(message("bob", number), Body::Inline(body(number)));
        desk.settle("bob", seq, Settlement::Delivered);
    }
    let end = clock::now().instant + Duration::from_secs(60);
    while first.exists() {
        assert!(clock::now().instant < end, "it stays");
        std::thread::yield_now();
    }
    desk.close();
}

#[test]
fn an_abandoned_put_is_never_delivered() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let small = Body::Inline(body(1));
    let large = Body::Inline(octets(LARGE, 200_000));
    for (number, body) in [(1, small), (LARGE, large)] {
        let token = desk.token();
        let message = Arc::new(message("bob", number));
        desk.ask(StoreRequest::Put {
            token,
            message,
            body,
            quota: Quota::NONE,
        });
        desk.ask(StoreRequest::Abandon { token });
        assert!(matches!(
            desk.answer(),
            StoreEvent::Stored { .. } | StoreEvent::Refused { .. }
        ));
    }
    desk.store(message("bob", 2), Body::Inline(body(2)));
    desk.close();
    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.delivered("bob"), [2]);
    desk.close();
}

#[test]
fn what_expired_is_due_to_its_shard_until_it_is_settled() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    for number in 0..5 {
        desk.store(message("bob", number), Body::Inline(body(number)));
    }
    for (expected, settles) in [
        (vec!["0", "1"], false),
        (vec!["0", "1"], true),
        (vec!["1"], false),
    ] {
        let token = desk.token();
        let (now, limit) = (UnixMillis(2_000_001), 10);
        desk.ask(StoreRequest::TakeDue { token, now, limit });
        let StoreEvent::Due { due, .. } = desk.answer() else {
            panic!("due")
        };
        let found: Vec<_> = due.iter().map(|(_, m)| m.message_id.as_str()).collect();
        assert_eq!(found, expected);
        if settles {
            desk.settle("bob", due[0].0, Settlement::Expired);
        }
    }
    desk.close();
}

#[test]
fn without_a_credit_a_request_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = CutFiles::new(Mutant::None);
    let mut config = config(folder.path());
    config.credits = 2;
    let mut desk = Desk::try_open(&config, Arc::new(files.clone())).expect("opens");
    let gate = files.close_gate();
    for number in 0..2 {
        let token = desk.token();
        desk.ask(put(token, number));
    }
    let token = desk.token();
    assert!(desk.client.try_submit(put(token, 2)).is_err());
    drop(gate);
    assert!(matches!(desk.answer(), StoreEvent::Stored { .. }));
    assert!(desk.client.try_submit(put(token, 2)).is_ok());
    desk.close();
}

#[test]
fn one_sync_serves_all_that_wait() {
    let files = CutFiles::new(Mutant::None);
    let mut desk =
        Desk::try_open(&config(Path::new("/cut")), Arc::new(files.clone())).expect("opens");
    let gate = files.close_gate();
    let before = files.syncs();
    for number in 0..500 {
        let token = desk.token();
        desk.ask(put(token, number));
    }
    drop(gate);
    for _ in 0..500 {
        assert!(matches!(desk.answer(), StoreEvent::Stored { .. }));
    }
    let syncs = files.syncs() - before;
    assert!((1..=3).contains(&syncs), "{syncs} syncs for 500 messages");
    desk.close();
}

fn put(token: StoreToken, number: u64) -> StoreRequest {
    StoreRequest::Put {
        token,
        message: Arc::new(message("bob", number)),
        body: Body::Inline(body(number)),
        quota: Quota::NONE,
    }
}

#[test]
fn any_flipped_bit_costs_one_record_at_most_and_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let numbers: Vec<u64> = (0..8).collect();
    for number in &numbers {
        desk.store(message("bob", *number), Body::Inline(body(*number)));
    }
    desk.close();
    let path = segments(folder.path(), "log").remove(0);
    let sound = std::fs::read(&path).expect("read");
    let used = sound
        .iter()
        .rposition(|octet| *octet != 0)
        .expect("written");
    let mark = sound.windows(MARKER.len()).rposition(|four| four == MARKER);
    let mark = mark.expect("a mark behind what was synced");
    for at in (0..=used).step_by(7) {
        let copy = copy_of(folder.path());
        let mut octets = sound.clone();
        octets[at] ^= 1 << (at % 8);
        let name = path.file_name().expect("a name");
        std::fs::write(copy.path().join("log").join(name), octets).expect("written");
        let mut desk = Desk::open(copy.path());
        let delivered = desk.delivered("bob");
        let missing = numbers.len() - delivered.len();
        assert!(missing <= 1, "octet {at}: {delivered:?}");
        assert!(delivered.is_sorted());
        // The last one too is known to have been acknowledged: only the mark behind it can be torn.
        let found = &desk.recovered;
        assert_eq!(at >= mark, found.torn_octets > 0, "octet {at}");
        assert!(missing as u64 <= found.damaged, "octet {at}");
        let reported = found.damaged + u64::from(found.torn_octets > 0);
        assert_eq!(reported, u64::from(at >= HEADERS), "octet {at}");
        let aside = std::fs::read_dir(copy.path().join("damaged")).expect("there");
        assert_eq!(aside.count() as u64, reported, "octet {at}");
        // What was found stays found, and new messages go on.
        desk.store(message("bob", 99), Body::Inline(body(99)));
        desk.close();
        let mut desk = Desk::open(copy.path());
        assert_eq!(desk.delivered("bob"), [delivered, vec![99]].concat());
        desk.close();
    }
}

#[test]
fn damage_in_a_sealed_segment_is_met_when_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.segment_bytes = 4096;
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    for number in 0..40 {
        desk.store(message("bob", number), Body::Inline(body(number)));
    }
    desk.close();
    // The first start gives every segment a footer.
    Desk::try_open(&config, Arc::new(DiskFiles))
        .expect("opens")
        .close();
    let path = segments(folder.path(), "log").remove(0);
    let mut octets = std::fs::read(&path).expect("read");
    octets[300] ^= 4;
    std::fs::write(&path, octets).expect("written");
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    assert_eq!(desk.delivered("bob"), (1..40).collect::<Vec<_>>());
    assert_eq!(desk.store_ref().damaged(), 1);
    desk.close();
}

/// What became of some messages.
#[derive(Default)]
struct Fates {
    stored: Vec<u64>,
    settled: Vec<u64>,
    /// For want of room: never to be seen.
    refused: Vec<u64>,
    /// The store has given up.
    failed: bool,
}

/// Intake and settlement of small and large messages.
fn intake_and_settle(desk: &mut Desk) -> Fates {
    let Fates {
        mut stored,
        mut settled,
        mut refused,
        mut failed,
    } = Fates::default();
    for number in 0..12 {
        let (number, body) = match number % 4 {
            3 => (LARGE + number, Body::Inline(octets(LARGE + number, 70_000))),
            _ => (number, Body::Inline(body(number))),
        };
        match desk.try_store(message("bob", number), body) {
            Ok(_) if failed && desk.store_ref().health() == Health::Poisoned => {
                panic!("acknowledged after a failure");
            }
            Ok(seq) => {
                stored.push(number);
                if number % 3 == 0 {
                    desk.settle("bob", seq, Settlement::Delivered);
                    settled.push(number);
                }
            }
            Err(Refusal::Poisoned) => failed = true,
            // No room is no failure: it goes on once there is some.
            Err(Refusal::Full) => refused.push(number),
            Err(refusal) => panic!("{refusal}"),
        }
    }
    Fates {
        stored,
        settled,
        refused,
        failed,
    }
}

#[test]
fn a_failure_of_any_write_or_sync_loses_nothing_that_was_acknowledged() {
    every_call_fails(std::io::ErrorKind::Other);
}

#[test]
fn no_room_at_any_write_or_sync_loses_nothing_and_nothing_that_was_refused_comes() {
    every_call_fails(std::io::ErrorKind::StorageFull);
}

fn every_call_fails(kind: std::io::ErrorKind) {
    let mut survived = 0;
    for call in 1..400 {
        let files = CutFiles::new(Mutant::None);
        let mut config = config(Path::new("/cut"));
        config.segment_bytes = 4 * 1024;
        let mut desk = Desk::try_open(&config, Arc::new(files.clone())).expect("opens");
        files.fail_at(Some((call, kind)));
        let Fates {
            stored,
            settled,
            refused,
            failed,
        } = intake_and_settle(&mut desk);
        assert!(files.has_failed() || !failed && refused.is_empty());
        desk.close();
        let done = !files.has_failed();
        files.fail_at(None);
        // Cut off, with all and with some of what was not synced gone; and killed.
        for seed in [Some(None), Some(Some(call as u64)), None] {
            let folder = tempfile::tempdir().expect("a folder");
            match seed {
                Some(seed) => files.materialise(Path::new("/cut"), folder.path(), seed),
                None => files.materialise_seen(Path::new("/cut"), folder.path()),
            }
            let mut config = config.clone();
            config.data_dir = folder.path().into();
            let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
            if seed.is_none() {
                assert_eq!(desk.recovered.damaged, 0, "call {call}: nothing is missing");
            }
            let found = desk.delivered("bob");
            assert!(found.is_sorted_by_key(|number| number % LARGE), "{found:?}");
            for number in stored.iter().filter(|number| !settled.contains(number)) {
                assert!(
                    found.contains(number),
                    "call {call} {seed:?}: {number} is lost"
                );
            }
            for number in &refused {
                assert!(
                    !found.contains(number),
                    "call {call} {seed:?}: {number} was refused"
                );
            }
            desk.close();
        }
        survived += 1;
        if done {
            break;
        }
    }
    assert!((30..399).contains(&survived), "{survived} calls");
}

#[test]
fn a_full_disk_refuses_intake_settles_on_and_recovers_by_itself() {
    let files = CutFiles::new(Mutant::None);
    let mut config = config(Path::new("/cut"));
    config.segment_bytes = 256 * 1024;
    config.reserve_bytes = 512 * 1024;
    // What may come again keeps no room from what comes.
    config.compact_after = DUPLICATE_WINDOW;
    let mut desk = Desk::try_open(&config, Arc::new(files.clone())).expect("opens");
    files.set_room(Some(700 * 1024));
    let mut stored = Vec::new();
    let refusal = loop {
        let number = stored.len() as u64;
        match desk.try_store(message("bob", number), Body::Inline(octets(number, 20_000))) {
            Ok(seq) => stored.push(seq),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, Refusal::Full);
    assert!(stored.len() > 10, "{}", stored.len());
    assert_eq!(desk.store_ref().health(), Health::Full);
    let refused = desk.try_store(message("bob", LARGE), Body::Inline(octets(LARGE, 200_000)));
    assert_eq!(refused, Err(Refusal::Full));
    // Settling needs no free room, and gives room back by and by.
    for seq in &stored {
        desk.settle("bob", *seq, Settlement::Delivered);
    }
    assert_eq!(desk.load("bob").len(), 0);
    let patience = 1_000_000;
    let again = (0..patience).find(|_| {
        std::thread::yield_now();
        desk.try_store(message("bob", 1), Body::Inline(body(1)))
            .is_ok()
    });
    assert!(again.is_some(), "intake resumes");
    assert_eq!(desk.store_ref().health(), Health::Serving);
    desk.close();
    let folder = tempfile::tempdir().expect("a folder");
    files.materialise(Path::new("/cut"), folder.path(), None);
    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.delivered("bob"), [1]);
    desk.close();
}

#[test]
fn churn_stays_within_twice_the_live_octets_and_two_segments() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.segment_bytes = 128 * 1024;
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    let mut open = std::collections::VecDeque::new();
    let mut kept = Vec::new();
    for number in 0..3_000 {
        let (number, body) = match number % 100 {
            7 => (
                LARGE + number,
                Body::Inline(octets(LARGE + number, 100_000)),
            ),
            _ => (number, Body::Inline(body(number))),
        };
        let seq = desk.store(message("bob", number), body);
        match number % 50 {
            // Some stay for ever, spread over all segments.
            0 | 7 => kept.push(number),
            _ => open.push_back(seq),
        }
        if open.len() > 100 {
            let seq = open.pop_front().expect("not empty");
            desk.settle("bob", seq, Settlement::Delivered);
        }
    }
    for seq in open {
        desk.settle("bob", seq, Settlement::Delivered);
    }
    // Each store makes the keeper look; compaction needs a few commits to get there.
    let bound = |desk: &Desk| {
        let (total, live) = desk.store_ref().disk_use();
        (total, 2 * live + 4 * config.segment_bytes)
    };
    let settled = (0..10_000).any(|_| {
        let seq = desk.store(message("carol", 1), Body::Inline(body(1)));
        desk.settle("carol", seq, Settlement::Delivered);
        let (total, allowed) = bound(&desk);
        total <= allowed
    });
    assert!(settled, "{:?}", bound(&desk));
    desk.close();
    let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
    assert_eq!(desk.delivered("bob"), kept);
    desk.close();
}

/// The segment files of a folder, oldest first.
fn segments(data: &Path, folder: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(data.join(folder))
        .expect("there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    files
}

/// How a record begins.
const MARKER: [u8; 4] = [0xA7, b'R', b's', 0x1E];
/// Octets of the two headers of a segment; one of them may be damaged.
const HEADERS: usize = 80;

fn copy_of(data: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for folder in ["log", "body"] {
        std::fs::create_dir(copy.path().join(folder)).expect("made");
        for file in segments(data, folder) {
            let name = file.file_name().expect("a name");
            std::fs::copy(&file, copy.path().join(folder).join(name)).expect("copied");
        }
    }
    copy
}
