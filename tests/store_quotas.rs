//! How much may wait, and what the store says of messages it can no longer read.

#[path = "store/desk.rs"]
mod desk;

use std::sync::Arc;

use desk::{Desk, LARGE, body, config, message, octets};
use restante::store::files::DiskFiles;
use restante::store::request::{
    Body, BodySource, MessageKind, Quota, Refusal, Settlement, StoreEvent, StoreRequest,
};

fn quota(messages: u64, octets: u64) -> Quota {
    Quota { messages, octets }
}

fn of_length(length: usize) -> Body {
    Body::Inline(octets(7, length))
}

#[test]
fn as_many_messages_wait_for_a_user_as_may_and_not_one_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    desk.quota = quota(3, 1_000);
    let seqs: Vec<_> = (0..3)
        .map(|number| desk.store(message("bob", number), of_length(10)))
        .collect();
    for _ in 0..2 {
        let refused = desk.try_store(message("bob", 3), of_length(10));
        assert_eq!(refused, Err(Refusal::OverQuota));
        desk.store(message("carol", 3), of_length(10));
        desk.close();
        desk = Desk::open(folder.path());
        desk.quota = quota(3, 1_000);
    }
    // In the order of the requests: the settlement makes room at once.
    desk.settle("bob", seqs[1], Settlement::Delivered);
    desk.store(message("bob", 4), of_length(10));
    desk.close();
}

#[test]
fn octets_are_bounded_and_a_message_over_the_whole_bound_is_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    desk.quota = quota(100, 1_000);
    desk.store(message("bob", 1), of_length(600));
    let refused = desk.try_store(message("bob", 2), of_length(401));
    assert_eq!(refused, Err(Refusal::OverQuota));
    let refused = desk.try_store(message("bob", 2), of_length(1_001));
    assert_eq!(refused, Err(Refusal::TooLarge));
    desk.store(message("bob", 3), of_length(400));
    // A large body goes by another thread, and counts alike.
    desk.quota = quota(100, 200_000);
    let refused = desk.try_store(message("bob", LARGE), of_length(199_001));
    assert_eq!(refused, Err(Refusal::OverQuota));
    desk.store(message("bob", LARGE), of_length(199_000));
    desk.close();
}

#[test]
fn messages_that_are_stored_at_once_never_exceed_the_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    for number in 0..200 {
        let length = if number % 3 == 0 { 70_000 } else { 10 };
        let token = desk.token();
        desk.ask(StoreRequest::Put {
            token,
            message: Arc::new(message("bob", number)),
            body: of_length(length),
            quota: quota(20, 500_000),
        });
    }
    let answers: Vec<_> = (0..200).map(|_| desk.answer()).collect();
    let stored = answers
        .iter()
        .filter(|e| matches!(e, StoreEvent::Stored { .. }));
    let usage = desk.store_ref().usage();
    assert_eq!(stored.count() as u64, usage.messages);
    assert!(usage.messages <= 20 && usage.octets <= 500_000, "{usage:?}");
    assert!(usage.messages >= 7, "{usage:?}");
    desk.close();
}

#[test]
fn what_is_refused_or_taken_back_does_not_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    desk.quota = quota(1, 100);
    let token = desk.token();
    desk.ask(StoreRequest::Put {
        token,
        message: Arc::new(message("bob", 1)),
        body: of_length(10),
        quota: desk.quota,
    });
    desk.ask(StoreRequest::Abandon { token });
    desk.answer();
    assert_eq!(desk.load("bob"), []);
    desk.store(message("bob", 2), of_length(10));
    assert_eq!(desk.store_ref().usage().messages, 1);
    desk.close();
}

#[test]
fn a_notification_has_a_quarter_more_room_so_that_authors_hear_of_their_messages() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    desk.quota = quota(20, 100_000);
    let notification = |number| {
        let mut message = message("bob", number);
        message.kind = MessageKind::Notification;
        message
    };
    for number in 0..20 {
        desk.store(message("bob", number), of_length(10));
    }
    for number in 20..25 {
        desk.store(notification(number), of_length(10));
    }
    let refused = desk.try_store(notification(25), of_length(10));
    assert_eq!(refused, Err(Refusal::OverQuota));
    desk.close();
}

#[test]
fn in_all_no_more_waits_than_may_whoever_it_is_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.quota = quota(2, 1_000);
    for _ in 0..2 {
        let mut desk = Desk::try_open(&config, Arc::new(DiskFiles)).expect("opens");
        for number in desk.store_ref().usage().messages..2 {
            desk.store(message(&format!("user{number}"), number), of_length(10));
        }
        let refused = desk.try_store(message("bob", 3), of_length(10));
        assert_eq!(
            refused,
            Err(Refusal::Full),
            "it passes, so: try again later"
        );
        desk.close();
    }
}

/// Flips an octet of the only log segment.
fn flip(folder: &std::path::Path, kind: &str, at: impl Fn(&[u8]) -> usize) {
    let mut files: Vec<_> = std::fs::read_dir(folder.join(kind))
        .expect("there")
        .map(|entry| entry.expect("read").path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    files.sort();
    let mut octets = std::fs::read(&files[0]).expect("read");
    let at = at(&octets);
    octets[at] ^= 4;
    std::fs::write(&files[0], octets).expect("written");
}

fn position(octets: &[u8], wanted: &[u8]) -> usize {
    let mut all = octets.windows(wanted.len());
    all.position(|window| window == wanted).expect("written")
}

/// A sealed segment with one message of Bob's, and four of Carol's.
fn sealed_with_one(folder: &std::path::Path) {
    let mut small = config(folder);
    small.segment_bytes = 2_000;
    let mut desk = Desk::try_open(&small, Arc::new(DiskFiles)).expect("opens");
    let mut first = message("bob", 1);
    first.message_id = "the-first".into();
    desk.store(first, Body::Inline(octets(7, 1_000)));
    for number in 2..6 {
        desk.store(message("carol", number), Body::Inline(body(number)));
    }
    desk.close();
    Desk::try_open(&small, Arc::new(DiskFiles))
        .expect("opens")
        .close();
}

#[test]
fn a_message_with_a_damaged_body_is_told_with_its_author_and_stays_until_it_is_settled() {
    let folder = tempfile::tempdir().expect("a folder");
    sealed_with_one(folder.path());
    let inside = octets(7, 1_000);
    flip(folder.path(), "log", |all| position(all, &inside[500..600]));
    for settles in [false, true] {
        let mut desk = Desk::open(folder.path());
        for _ in 0..2 {
            assert_eq!(desk.load("bob"), []);
        }
        let ruined = desk.ruined.take();
        assert_eq!(ruined.len(), 1, "told once");
        let (seq, found) = &ruined[0];
        let found = found.as_ref().expect("known");
        assert_eq!(found.message_id, "the-first");
        assert_eq!(found.author, desk::name("alice"));
        assert_eq!(desk.store_ref().damaged(), 1);
        if settles {
            desk.settle("bob", *seq, Settlement::Failed);
        }
        desk.close();
    }
    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.load("bob"), []);
    assert_eq!(desk.ruined.take(), [], "it has left");
    assert_eq!(desk.load("carol").len(), 4);
    desk.close();
}

#[test]
fn a_message_whose_author_s_name_may_be_damaged_is_told_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    sealed_with_one(folder.path());
    flip(folder.path(), "log", |all| position(all, b"the-first"));
    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.load("bob"), []);
    let ruined = desk.ruined.take();
    assert!(matches!(ruined.as_slice(), [(_, None)]), "{ruined:?}");
    desk.close();
}

#[test]
fn a_message_that_is_damaged_in_the_last_segment_is_told_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let inside = octets(7, 1_000);
    for number in 1..4 {
        desk.store(message("bob", number), Body::Inline(octets(number, 1_000)));
    }
    desk.store(message("bob", 7), Body::Inline(inside.clone()));
    desk.store(message("bob", 8), Body::Inline(body(8)));
    desk.close();
    flip(folder.path(), "log", |all| position(all, &inside[500..600]));
    let mut desk = Desk::open(folder.path());
    let found: Vec<_> = desk.load("bob").into_iter().map(|h| h.message_id).collect();
    assert_eq!(found.join(" "), "1 2 3 8");
    let ruined = desk.ruined.take();
    let [(_, Some(message))] = ruined.as_slice() else {
        panic!("{ruined:?}");
    };
    assert_eq!(&*message.message_id, "7");
    desk.close();
}

#[test]
fn damage_in_a_large_body_is_told_when_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::open(folder.path());
    let whole = octets(LARGE, 200_000);
    let seq = desk.store(message("bob", LARGE), Body::Inline(whole.clone()));
    desk.close();
    flip(folder.path(), "body", |all| {
        position(all, &whole[150_000..150_100])
    });
    let mut desk = Desk::open(folder.path());
    assert_eq!(desk.load("bob").len(), 1);
    let recipient = desk::name("bob");
    let read = desk.read(BodySource::Message { recipient, seq }, 200_000);
    assert_eq!(read, Err(Refusal::Damaged));
    let ruined = desk.ruined.take();
    let [(found, Some(message))] = ruined.as_slice() else {
        panic!("{ruined:?}");
    };
    assert_eq!((*found, &*message.message_id), (seq, "1000000"));
    desk.close();
}
