//! Tests of the machine: what it lets go when.

use std::time::Duration;

use super::*;
use crate::clock::UnixMillis;
use crate::identity::Identity;
use crate::participating::pull::Wanted;
use crate::store::request::MessageKind;

const BOTH: Reach = Reach {
    session: true,
    message: Some(60_000),
    standalone: true,
    switch_over: 1300,
};

fn key(author: &str) -> ConversationKey {
    ConversationKey {
        author: Identity::new(author, "im.test"),
        conversation: "c1".into(),
    }
}

fn held(seq: u64, author: &str, kind: MessageKind) -> Held {
    Held {
        seq: Seq(seq),
        kind,
        conversation: key(author),
        message_id: format!("m{seq}").into(),
        length: 100,
        expires_at: UnixMillis(u64::MAX),
        marks: Box::default(),
    }
}

fn policy(retry: RetrySchedule) -> ReplayPolicy {
    ReplayPolicy {
        retry,
        per_device: 2,
        per_user: 2,
    }
}

fn user() -> ServedUser {
    let retry = RetrySchedule::new(&[Duration::from_secs(30), Duration::from_secs(300)]);
    ServedUser::new(false, policy(retry))
}

fn started(user: &mut ServedUser) -> Vec<(RunId, String, Carrier)> {
    std::iter::from_fn(|| user.poll_action())
        .filter_map(|action| match action {
            UserAction::Start {
                run, key, carrier, ..
            } => Some((run, key.author.to_string(), carrier)),
            UserAction::Load { .. } | UserAction::Resume { .. } => None,
        })
        .collect()
}

fn take_all(user: &mut ServedUser, run: RunId) -> Vec<u64> {
    std::iter::from_fn(|| user.next_message(run))
        .map(|held| held.seq.0)
        .collect()
}

/// A user with these devices, each of which gets copies.
fn copying(devices: &[(u64, Reach)]) -> ServedUser {
    let mut user = user();
    let devices = devices.iter().map(|(device, reach)| DeviceReach {
        device: *device,
        reach: *reach,
    });
    user.set_copies(Some(devices.collect()));
    user
}

/// The device, conversation and messages of each run, all of them confirmed.
fn copied(user: &mut ServedUser) -> Vec<(u64, Vec<u64>)> {
    let mut all = Vec::new();
    while let Some(action) = user.poll_action() {
        let UserAction::Start {
            run, key, device, ..
        } = action
        else {
            continue;
        };
        let device = device.expect("it is for one device");
        let seqs = take_all(user, run);
        for seq in &seqs {
            user.handle_marked(&key, Seq(*seq), device);
        }
        all.push((device, seqs));
        user.handle_run_ended(run, RunEnd::Done, Now::default());
    }
    all
}

#[test]
fn each_device_gets_each_message_once() {
    let now = Now::default();
    let mut user = copying(&[(7, BOTH), (8, BOTH)]);
    for seq in 1..=2 {
        let held = held(seq, "alice", MessageKind::Chat);
        user.handle_stored(held, false, false, now);
    }
    user.handle_reach(BOTH, now);
    assert_eq!(copied(&mut user), [(7, vec![1, 2]), (8, vec![1, 2])]);
    assert!(user.is_idle(), "all that is there have all");
    assert!(!user.holds_nothing(), "others may come");
    assert!(user.may_pass(&key("alice"), Carrier::Message));
    user.handle_reach(BOTH, now);
    assert!(copied(&mut user).is_empty());
    user.handle_stored(held(3, "alice", MessageKind::Chat), false, false, now);
    assert_eq!(copied(&mut user), [(7, vec![3]), (8, vec![3])]);
}

#[test]
fn a_device_passes_over_what_it_cannot_take() {
    let now = Now::default();
    let small = Reach {
        session: false,
        standalone: false,
        message: Some(100),
        ..BOTH
    };
    let mut user = copying(&[(7, small)]);
    let mut large = held(1, "alice", MessageKind::Pager);
    large.length = 101;
    user.handle_stored(large, false, false, now);
    user.handle_stored(held(2, "alice", MessageKind::Pager), false, false, now);
    user.handle_reach(BOTH, now);
    assert_eq!(copied(&mut user), [(7, vec![2])]);
}

#[test]
fn a_device_that_refuses_waits_while_the_others_get_theirs() {
    let mut now = Now::default();
    let mut user = copying(&[(7, BOTH), (8, BOTH)]);
    user.handle_stored(held(1, "alice", MessageKind::Chat), false, false, now);
    user.handle_reach(BOTH, now);
    let Some(UserAction::Start { run, .. }) = user.poll_action() else {
        panic!("a run");
    };
    assert_eq!(take_all(&mut user, run), [1]);
    user.handle_run_ended(run, RunEnd::Parked, now);
    assert_eq!(copied(&mut user), [(8, vec![1])]);
    now.instant = user.next_deadline().expect("a retry step");
    user.handle_timeout(now);
    assert_eq!(copied(&mut user), [(7, vec![1])]);
}

/// The runs that begin: for which device, and whose messages.
fn begun(user: &mut ServedUser) -> Vec<(RunId, u64, String)> {
    let mut all = Vec::new();
    while let Some(action) = user.poll_action() {
        if let UserAction::Start {
            run, key, device, ..
        } = action
        {
            let device = device.expect("it is for one device");
            for seq in take_all(user, run) {
                all.push((run, device, format!("{seq} of {}", key.author)));
            }
        }
    }
    all
}

#[test]
fn a_device_that_is_gone_without_a_word_holds_up_only_its_own_copies() {
    let now = Now::default();
    let mut user = copying(&[(7, BOTH), (8, BOTH)]);
    for (seq, author) in [(1, "alice"), (2, "carol")] {
        user.handle_stored(held(seq, author, MessageKind::Pager), false, false, now);
    }
    user.handle_reach(BOTH, now);
    let first = begun(&mut user);
    let [(silent, 7, _), (answered, 8, from)] = &first[..] else {
        panic!("{first:?}");
    };
    assert_eq!(from, "2 of carol@im.test");
    user.handle_marked(&key("carol"), Seq(2), 8);
    user.handle_run_ended(*answered, RunEnd::Done, now);
    assert!(
        begun(&mut user).is_empty(),
        "one MESSAGE to a device at a time"
    );
    // Another device registers meanwhile, so that all are tried again: the silent one last.
    user.handle_reach(BOTH, now);
    user.handle_run_ended(*silent, RunEnd::Parked, now);
    let then = begun(&mut user);
    let [(_, 8, one), (_, 7, two)] = &then[..] else {
        panic!("{then:?}");
    };
    assert_eq!(
        (&**one, &**two),
        ("1 of alice@im.test", "2 of carol@im.test")
    );
}

#[test]
fn a_device_that_is_gone_without_a_word_leaves_a_session_to_the_others() {
    let now = Now::default();
    let mut user = copying(&[(7, BOTH), (8, BOTH)]);
    for (seq, author) in [(1, "alice"), (2, "carol"), (3, "dave")] {
        user.handle_stored(held(seq, author, MessageKind::Chat), false, false, now);
        user.handle_marked(&key(author), Seq(seq), 8);
    }
    user.handle_reach(BOTH, now);
    let first = begun(&mut user);
    let [(one, 7, _), (two, 7, _)] = &first[..] else {
        panic!("{first:?}");
    };
    user.handle_run_ended(*one, RunEnd::Parked, now);
    user.handle_run_ended(*two, RunEnd::Parked, now);
    let then = begun(&mut user);
    let [(_, 7, _)] = &then[..] else {
        panic!("{then:?}");
    };
    let new = held(4, "erin", MessageKind::Chat);
    user.handle_stored(new, false, false, now);
    let last = begun(&mut user);
    let [(_, 8, from)] = &last[..] else {
        panic!("{last:?}");
    };
    assert_eq!(from, "4 of erin@im.test");
}

#[test]
fn a_device_has_so_many_sessions_and_the_next_waits_for_its_turn() {
    let now = Now::default();
    let mut user = user();
    user.policy.per_device = 1;
    for (seq, author) in [(1, "alice"), (2, "carol")] {
        let held = held(seq, author, MessageKind::Chat);
        user.handle_stored(held, false, false, now);
    }
    user.handle_reach(BOTH, now);
    let runs = started(&mut user);
    assert!(user.claim_device(runs[0].0, 7, DeliveryId(1)));
    assert!(!user.claim_device(runs[1].0, 7, DeliveryId(2)));
    assert!(
        user.claim_device(runs[0].0, 7, DeliveryId(1)),
        "it is its own"
    );
    assert_eq!(user.poll_action(), None);
    assert!(user.claim_device(runs[0].0, 8, DeliveryId(1)));
    let resume = UserAction::Resume {
        delivery: DeliveryId(2),
    };
    assert_eq!(user.poll_action(), Some(resume));
    assert!(user.claim_device(runs[1].0, 7, DeliveryId(2)));
}

#[test]
fn receipts_leave_in_their_order_across_conversations() {
    let mut user = user();
    let receipt = |seq, conversation: &str| {
        let mut held = held(seq, "bob", MessageKind::Notification);
        held.conversation.conversation = conversation.into();
        held
    };
    user.handle_storing(&receipt(1, "c1").conversation, false);
    assert!(!user.may_pass_receipt(&key("bob").author));
    for held in [receipt(1, "c1"), receipt(2, "c2"), receipt(3, "c1")] {
        user.handle_stored(held, false, false, Now::default());
    }
    assert!(!user.may_pass_receipt(&key("bob").author));
    assert!(user.may_pass_receipt(&key("carol").author));
    user.handle_reach(BOTH, Now::default());
    let mut order = Vec::new();
    while let Some((run, _, _)) = started(&mut user).pop() {
        while let Some(held) = user.next_message(run) {
            user.handle_settled(&held.conversation, held.seq);
            order.push(held.seq.0);
        }
        user.handle_run_ended(run, RunEnd::Done, Now::default());
    }
    assert_eq!(order, [1, 2, 3]);
    assert!(user.may_pass_receipt(&key("bob").author));
}

#[test]
fn a_held_message_is_found_by_its_author_and_identifier() {
    let mut user = user();
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    let (alice, bob) = (key("alice").author, key("bob").author);
    assert_eq!(user.find_held(&alice, "m1"), Some((key("alice"), Seq(1))));
    assert_eq!(user.find_held(&bob, "m1"), None);
    assert_eq!(user.find_held(&alice, "m2"), None);
}

#[test]
fn a_run_without_room_begins_again_soon_and_nothing_passes_it() {
    let mut user = user();
    let mut now = Now::default();
    user.handle_stored(held(1, "alice", MessageKind::Chat), false, false, now);
    user.handle_reach(BOTH, now);
    let (run, ..) = started(&mut user)[0].clone();
    user.handle_run_ended(run, RunEnd::Shortage, now);
    assert!(started(&mut user).is_empty());
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    let soon = user.next_deadline().expect("it begins again by itself");
    assert!(soon.since(now.instant) <= Duration::from_secs(1));
    now.instant = soon;
    user.handle_timeout(now);
    assert_eq!(started(&mut user).len(), 1);
}

#[test]
fn a_shortage_that_does_not_end_waits_for_the_retry_step() {
    let mut user = user();
    let mut now = Now::default();
    user.handle_stored(held(1, "alice", MessageKind::Chat), false, false, now);
    user.handle_reach(BOTH, now);
    for _ in 0..100 {
        for (run, ..) in started(&mut user) {
            user.handle_run_ended(run, RunEnd::Shortage, now);
        }
        let until = user.next_deadline().expect("a pause");
        if until.since(now.instant) == Duration::from_secs(30) {
            let held_up = now.instant.since(Now::default().instant);
            return assert_eq!(held_up, Duration::from_secs(610), "it is begun so often");
        }
        now.instant = user.next_deadline().expect("a pause");
        user.handle_timeout(now);
    }
    panic!("it is tried for ever");
}

#[test]
fn of_all_conversations_one_message_is_out_at_a_time_and_the_oldest_goes_first() {
    let now = Now::default();
    let mut user = user();
    for (seq, author) in [(1, "alice"), (2, "bob"), (3, "alice"), (4, "bob")] {
        user.handle_stored(held(seq, author, MessageKind::Pager), false, false, now);
    }
    user.handle_reach(BOTH, now);
    let mut order = Vec::new();
    loop {
        let runs = started(&mut user);
        let [(run, _, Carrier::Message)] = &runs[..] else {
            assert!(runs.is_empty(), "one at a time");
            break;
        };
        while let Some(next) = user.next_message(*run) {
            order.push(next.seq.0);
            user.handle_settled(&next.conversation, next.seq);
        }
        user.handle_run_ended(*run, RunEnd::Done, now);
    }
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn a_large_message_is_alone_in_its_session() {
    let now = Now::default();
    let mut user = user();
    for seq in [1, 2] {
        user.handle_stored(held(seq, "alice", MessageKind::Large), false, false, now);
    }
    user.handle_reach(BOTH, now);
    for seq in [1, 2] {
        let (run, _, carrier) = started(&mut user)[0].clone();
        assert_eq!(carrier, Carrier::Standalone);
        assert_eq!(user.next_message(run).map(|held| held.seq.0), Some(seq));
        user.handle_settled(&key("alice"), Seq(seq));
        assert_eq!(user.next_message(run), None);
        user.handle_run_ended(run, RunEnd::Done, now);
    }
    assert!(started(&mut user).is_empty());
}

#[test]
fn what_was_kept_while_away_is_run_at_registration_oldest_first() {
    let mut user = user();
    for seq in 1..=3 {
        user.handle_stored(
            held(seq, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
    }
    assert!(started(&mut user).is_empty());
    user.handle_reach(BOTH, Now::default());
    let runs = started(&mut user);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].2, Carrier::Session);
    assert_eq!(take_all(&mut user, runs[0].0), [1, 2, 3]);
}

#[test]
fn a_message_never_overtakes_one_that_is_being_stored_or_replayed() {
    let mut user = user();
    user.handle_reach(BOTH, Now::default());
    assert!(user.may_pass(&key("alice"), Carrier::Message));
    user.handle_storing(&key("alice"), false);
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    assert!(user.may_pass(&key("carol"), Carrier::Message));
    user.handle_stored(
        held(1, "alice", MessageKind::Pager),
        false,
        false,
        Now::default(),
    );
    let runs = started(&mut user);
    assert_eq!(take_all(&mut user, runs[0].0), [1]);
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    user.handle_settled(&key("alice"), Seq(1));
    user.handle_run_ended(runs[0].0, RunEnd::Done, Now::default());
    assert!(user.may_pass(&key("alice"), Carrier::Message));
    assert!(user.is_idle());
}

#[test]
fn a_message_never_overtakes_one_a_device_may_still_take() {
    let pager = |seq| held(seq, "alice", MessageKind::Pager);
    let mut user = user();
    user.handle_reach(BOTH, Now::default());
    for seq in [1, 2] {
        user.handle_storing(&key("alice"), false);
        user.handle_trying(&key("alice"), Seq(seq));
    }
    user.handle_storing(&key("alice"), false);
    user.handle_stored(pager(3), false, false, Now::default());
    assert!(started(&mut user).is_empty());
    user.handle_settled(&key("alice"), Seq(1));
    user.handle_not_stored(&key("alice"), false, Now::default());
    assert!(started(&mut user).is_empty());
    user.handle_reach(BOTH, Now::default());
    user.handle_stored(pager(2), false, true, Now::default());
    let runs = started(&mut user);
    assert_eq!(take_all(&mut user, runs[0].0), [2, 3]);
}

#[test]
fn a_device_that_says_when_it_may_be_tried_again_is_not_tried_before_by_anything_new() {
    let mut user = user();
    let now = Now::default();
    user.handle_reach(BOTH, now);
    let stores = |user: &mut ServedUser, seq, tried, now| {
        user.handle_storing(&key("alice"), false);
        user.handle_stored(held(seq, "alice", MessageKind::Pager), false, tried, now);
    };
    stores(&mut user, 1, true, now);
    user.handle_asked(&key("alice"), Duration::from_secs(600), now);
    let soon = now.plus(Duration::from_secs(60));
    stores(&mut user, 2, false, soon);
    let then = now.plus(Duration::from_secs(600));
    assert_eq!(user.next_deadline(), Some(then.instant));
    assert!(started(&mut user).is_empty());
    user.handle_timeout(then);
    let runs = started(&mut user);
    assert_eq!(take_all(&mut user, runs[0].0), [1, 2]);
}

#[test]
fn a_refused_run_is_parked_until_retry_or_registration_and_blocks_only_its_own_conversation() {
    let mut user = user();
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    user.handle_stored(
        held(2, "carol", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    user.handle_reach(BOTH, Now::default());
    let runs = started(&mut user);
    assert_eq!(runs.len(), 2);
    assert_eq!(take_all(&mut user, runs[0].0), [1]);
    user.handle_run_ended(runs[0].0, RunEnd::Parked, Now::default());
    assert!(started(&mut user).is_empty());
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    assert!(!user.may_pass(&key("alice"), Carrier::Session));
    assert!(user.may_pass(&key("dave"), Carrier::Message));
    let after = Now::default().plus(Duration::from_secs(30));
    assert_eq!(user.next_deadline(), Some(after.instant));
    user.handle_timeout(after);
    let again = started(&mut user);
    assert_eq!(take_all(&mut user, again[0].0), [1]);
    user.handle_run_ended(again[0].0, RunEnd::Parked, after);
    assert_eq!(
        user.next_deadline(),
        Some(after.plus(Duration::from_secs(300)).instant)
    );
    user.handle_reach(BOTH, after);
    assert_eq!(started(&mut user).len(), 1);
}

/// A user whose devices have put off the message 1 of alice's, at `now`.
fn put_off(kind: MessageKind, end: RunEnd, now: Now) -> ServedUser {
    let mut user = user();
    user.handle_stored(held(1, "alice", kind), false, false, now);
    user.handle_reach(BOTH, now);
    refuses(&mut user, end, now);
    user
}

/// The run that has begun carries this and ends so.
fn refuses(user: &mut ServedUser, end: RunEnd, now: Now) {
    let run = started(user)[0].0;
    assert_eq!(take_all(user, run).first(), Some(&1));
    user.handle_run_ended(run, end, now);
}

fn comes(user: &mut ServedUser, seq: u64, kind: MessageKind, now: Now) {
    user.handle_storing(&key("alice"), false);
    user.handle_stored(held(seq, "alice", kind), false, false, now);
}

#[test]
fn what_comes_behind_a_parked_run_brings_its_next_try_about() {
    let kind = MessageKind::Pager;
    let now = Now::default();
    let mut user = put_off(kind, RunEnd::Parked, now);
    let later = now.plus(Duration::from_secs(10));
    comes(&mut user, 2, kind, later);
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1, 2]);
}

#[test]
fn a_flood_behind_a_parked_run_is_no_flood_of_tries() {
    let kind = MessageKind::Pager;
    let mut now = Now::default();
    let mut user = put_off(kind, RunEnd::Parked, now);
    let mut tries = 0;
    for seq in 2..=600 {
        comes(&mut user, seq, kind, now);
        if user.next_deadline().is_some_and(|at| at <= now.instant) {
            user.handle_timeout(now);
        }
        for (run, ..) in started(&mut user) {
            tries += 1;
            user.handle_run_ended(run, RunEnd::Parked, now);
        }
        now = now.plus(Duration::from_millis(100));
    }
    assert_eq!(
        tries, 10,
        "in a minute: every three seconds at first, then every thirty"
    );
}

#[test]
fn a_device_that_asks_for_time_has_it() {
    let asked = Duration::from_secs(60);
    let kind = MessageKind::Pager;
    let now = Now::default();
    let mut user = put_off(kind, RunEnd::Parked.after(Some(asked)), now);
    comes(&mut user, 2, kind, now.plus(Duration::from_secs(30)));
    assert!(started(&mut user).is_empty());
    let until = user.next_deadline().expect("it is tried again");
    assert_eq!(until.since(now.instant), asked);
}

#[test]
fn who_had_no_time_for_a_call_is_not_called_again_for_each_new_message() {
    let now = Now::default();
    let mut user = put_off(MessageKind::Chat, RunEnd::Busy, now);
    comes(
        &mut user,
        2,
        MessageKind::Chat,
        now.plus(Duration::from_secs(29)),
    );
    assert!(started(&mut user).is_empty());
    let until = user.next_deadline().expect("it is tried again");
    assert_eq!(until.since(now.instant), Duration::from_secs(30));
}

#[test]
fn what_comes_behind_a_declined_run_waits_for_the_registration_too() {
    let kind = MessageKind::Pager;
    let now = Now::default();
    let mut user = put_off(kind, RunEnd::Declined, now);
    let later = now.plus(Duration::from_secs(600));
    comes(&mut user, 2, kind, later);
    assert!(started(&mut user).is_empty());
    assert!(!user.may_pass(&key("alice"), Carrier::Session));
    user.handle_reach(BOTH, later);
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1, 2]);
}

#[test]
fn after_two_minutes_of_refusals_what_leaves_by_the_other_carrier_goes_on() {
    let now = Now::default();
    let mut user = put_off(MessageKind::Pager, RunEnd::Parked, now);
    let soon = now.plus(Duration::from_secs(10));
    comes(&mut user, 2, MessageKind::Chat, soon);
    refuses(&mut user, RunEnd::Parked, soon);
    assert!(
        !user.may_pass(&key("alice"), Carrier::Session),
        "order comes first"
    );
    let late = now.plus(Duration::from_secs(120));
    comes(&mut user, 3, MessageKind::Pager, late);
    refuses(&mut user, RunEnd::Parked, late);
    let run = started(&mut user)[0].0;
    assert_eq!(
        take_all(&mut user, run),
        [2],
        "the session carries what is a chat's"
    );
    assert!(!user.may_pass(&key("alice"), Carrier::Session));
    user.handle_settled(&key("alice"), Seq(2));
    user.handle_run_ended(run, RunEnd::Done, late);
    assert!(started(&mut user).is_empty());
    assert!(user.may_pass(&key("alice"), Carrier::Session));
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    let again = user.next_deadline().expect("a retry step");
    let later = late.plus(again.since(late.instant));
    user.handle_timeout(later);
    let run = started(&mut user)[0].0;
    assert!(!user.may_pass(&key("alice"), Carrier::Session));
    assert_eq!(take_all(&mut user, run), [1, 3]);
}

#[test]
fn while_both_carriers_are_put_off_nothing_is_tried_in_between() {
    let now = Now::default().plus(Duration::from_secs(1));
    let mut user = put_off(MessageKind::Pager, RunEnd::Parked, now);
    let late = now.plus(Duration::from_secs(120));
    comes(&mut user, 2, MessageKind::Chat, late);
    refuses(&mut user, RunEnd::Parked, late);
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [2]);
    user.handle_run_ended(run, RunEnd::Parked, late);
    assert!(started(&mut user).is_empty());
    assert!(user.next_deadline().is_some_and(|at| at > late.instant));
}

#[test]
fn a_receipt_passes_messages_that_were_put_off() {
    let user = put_off(MessageKind::Chat, RunEnd::Parked, Now::default());
    assert!(user.lets_receipts_by(&key("alice")));
}

#[test]
fn a_message_that_no_device_takes_blocks_nothing() {
    let now = Now::default();
    let mut user = user();
    let mut large = held(1, "alice", MessageKind::Chat);
    large.length = 100_000;
    user.handle_stored(large, false, false, now);
    let small = Reach {
        session: false,
        standalone: false,
        ..BOTH
    };
    user.handle_reach(small, now);
    assert!(started(&mut user).is_empty());
    assert!(user.may_pass(&key("alice"), Carrier::Message));
}

#[test]
fn a_copy_that_a_device_refused_for_good_is_not_offered_to_it_again() {
    let now = Now::default();
    let mut user = copying(&[(7, BOTH)]);
    for seq in [1, 2] {
        user.handle_stored(held(seq, "alice", MessageKind::Pager), false, false, now);
    }
    user.handle_refused(&key("alice"), Seq(1), 7);
    user.handle_reach(BOTH, now);
    assert_eq!(copied(&mut user), [(7, vec![1, 2])], "it has registered");
    user.handle_stored(held(3, "alice", MessageKind::Pager), false, false, now);
    let Some(UserAction::Start { run, key, .. }) = user.poll_action() else {
        panic!("a run");
    };
    assert_eq!(take_all(&mut user, run), [3]);
    user.handle_refused(&key, Seq(3), 7);
    user.handle_run_ended(run, RunEnd::Done, now);
    assert!(copied(&mut user).is_empty());
    assert!(user.may_pass(&key, Carrier::Message), "the others go on");
}

#[test]
fn a_declined_run_waits_for_the_next_registration() {
    let mut user = user();
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    user.handle_reach(BOTH, Now::default());
    let run = started(&mut user)[0].0;
    user.handle_run_ended(run, RunEnd::Declined, Now::default());
    assert_eq!(user.next_deadline(), None);
    user.handle_reach(BOTH, Now::default());
    assert_eq!(started(&mut user).len(), 1);
}

#[test]
fn a_trigger_during_a_run_is_remembered() {
    let mut user = user();
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    user.handle_reach(BOTH, Now::default());
    let run = started(&mut user)[0].0;
    user.handle_reach(BOTH, Now::default());
    assert!(started(&mut user).is_empty());
    user.handle_run_ended(run, RunEnd::Parked, Now::default());
    assert_eq!(started(&mut user).len(), 1);
}

#[test]
fn mixed_kinds_leave_as_alternating_runs_in_order() {
    let mut user = user();
    let kinds = [MessageKind::Chat, MessageKind::Pager, MessageKind::Chat];
    for (seq, kind) in (1..).zip(kinds) {
        user.handle_stored(held(seq, "alice", kind), false, false, Now::default());
    }
    user.handle_reach(BOTH, Now::default());
    for (seq, carrier) in (1..).zip([Carrier::Session, Carrier::Message, Carrier::Session]) {
        let runs = started(&mut user);
        assert_eq!((runs.len(), runs[0].2), (1, carrier));
        assert_eq!(take_all(&mut user, runs[0].0), [seq]);
        user.handle_settled(&key("alice"), Seq(seq));
        user.handle_run_ended(runs[0].0, RunEnd::Done, Now::default());
    }
    assert!(user.is_idle());
}

#[test]
fn a_refused_session_leaves_by_message_if_it_fits() {
    let mut user = user();
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    user.handle_reach(BOTH, Now::default());
    let run = started(&mut user)[0].0;
    user.handle_run_ended(run, RunEnd::OtherWay, Now::default());
    let runs = started(&mut user);
    assert_eq!(runs[0].2, Carrier::Message);
}

#[test]
fn what_no_device_can_take_waits_without_a_retry() {
    let mut user = user();
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    let small = Reach {
        session: false,
        message: Some(10),
        standalone: false,
        switch_over: 10,
    };
    user.handle_reach(small, Now::default());
    assert!(started(&mut user).is_empty());
    assert_eq!(user.next_deadline(), None);
    user.handle_reach(BOTH, Now::default());
    assert_eq!(started(&mut user).len(), 1);
}

#[test]
fn a_message_stored_while_the_queue_is_loading_is_taken_once() {
    let retry = RetrySchedule::new(&[]);
    let mut user = ServedUser::new(true, policy(retry));
    user.handle_reach(BOTH, Now::default());
    assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    user.handle_storing(&key("alice"), false);
    user.handle_stored(
        held(2, "alice", MessageKind::Pager),
        false,
        false,
        Now::default(),
    );
    user.handle_loaded(
        vec![held(1, "alice", MessageKind::Pager)],
        false,
        Now::default(),
    );
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1, 2]);
}

#[test]
fn what_was_read_early_waits_for_the_devices_that_may_still_take_it() {
    let now = Now::default();
    let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
    user.handle_reach(BOTH, now);
    assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
    user.handle_storing(&key("alice"), false);
    user.handle_trying(&key("alice"), Seq(1));
    user.handle_loaded(vec![held(1, "alice", MessageKind::Pager)], false, now);
    assert!(started(&mut user).is_empty());
    user.handle_stored(held(1, "alice", MessageKind::Pager), false, false, now);
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1]);
}

#[test]
fn a_copy_that_a_device_took_as_it_came_counts_although_the_queue_was_read_meanwhile() {
    let now = Now::default();
    let mut user = copying(&[(7, BOTH), (8, BOTH)]);
    user.handle_storing(&key("alice"), false);
    user.handle_trying(&key("alice"), Seq(1));
    user.handle_loaded(vec![held(1, "alice", MessageKind::Pager)], false, now);
    let taken = Held {
        marks: Box::new([7]),
        ..held(1, "alice", MessageKind::Pager)
    };
    user.handle_stored(taken, false, false, now);
    user.handle_reach(BOTH, now);
    assert_eq!(copied(&mut user), [(8, vec![1])]);
}

#[test]
fn while_a_fetch_waits_nothing_more_leaves_unasked() {
    let now = Now::default();
    let mut user = user();
    user.set_pull(true);
    for (seq, author) in [(1, "alice"), (2, "carol")] {
        let receipt = held(seq, author, MessageKind::Notification);
        user.handle_stored(receipt, false, false, now);
    }
    user.handle_reach(BOTH, now);
    let first = started(&mut user);
    assert_eq!(first.len(), 1, "one MESSAGE at a time");
    let run = first[0].0;
    assert_eq!(take_all(&mut user, run), [1]);
    user.let_fetches_pass(true, now);
    user.handle_run_ended(run, RunEnd::Parked, now);
    assert!(started(&mut user).is_empty());
    user.let_fetches_pass(false, now);
    assert_eq!(started(&mut user).len(), 1);
}

#[test]
fn a_page_that_ran_ahead_of_the_answer_counts_once() {
    let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
    user.handle_reach(BOTH, Now::default());
    user.handle_storing(&key("alice"), false);
    user.handle_loaded(
        vec![held(1, "alice", MessageKind::Pager)],
        false,
        Now::default(),
    );
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1]);
    user.handle_settled(&key("alice"), Seq(1));
    user.handle_stored(
        held(1, "alice", MessageKind::Pager),
        false,
        false,
        Now::default(),
    );
    assert_eq!(user.next_message(run), None);
}

#[test]
fn messages_taken_by_a_broken_run_come_again_except_the_confirmed() {
    let mut user = user();
    for seq in 1..=3 {
        user.handle_stored(
            held(seq, "alice", MessageKind::Chat),
            false,
            false,
            Now::default(),
        );
    }
    user.handle_reach(BOTH, Now::default());
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1, 2, 3]);
    user.handle_settled(&key("alice"), Seq(1));
    user.handle_run_ended(run, RunEnd::Parked, Now::default());
    user.handle_reach(BOTH, Now::default());
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [2, 3]);
}

#[test]
fn a_long_message_is_not_overtaken_on_its_way_to_the_disk() {
    let mut user = user();
    user.handle_reach(BOTH, Now::default());
    user.handle_storing(&key("alice"), true);
    user.handle_storing(&key("alice"), false);
    user.handle_stored(
        held(2, "alice", MessageKind::Chat),
        false,
        false,
        Now::default(),
    );
    assert!(started(&mut user).is_empty());
    user.handle_stored(
        held(1, "alice", MessageKind::Chat),
        true,
        false,
        Now::default(),
    );
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [1, 2]);
}

#[test]
fn the_queue_of_an_absent_user_is_not_read_and_never_read_twice() {
    let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
    user.handle_storing(&key("alice"), false);
    let stored = held(2, "alice", MessageKind::Chat);
    user.handle_stored(stored, false, false, Now::default());
    assert_eq!(user.poll_action(), None);
    assert!(user.is_idle());
    user.handle_reach(BOTH, Now::default());
    assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
    user.handle_unreachable();
    assert!(!user.is_idle(), "the answer must still find it");
}
fn pulling(held: Vec<Held>) -> ServedUser {
    let mut user = ServedUser::new(true, policy(RetrySchedule::new(&[])));
    user.set_pull(true);
    user.handle_reach(BOTH, Now::default());
    assert_eq!(user.poll_action(), Some(UserAction::Load { after: None }));
    user.handle_loaded(held, false, Now::default());
    user
}

#[test]
fn what_a_user_fetches_does_not_leave_by_itself_but_receipts_do() {
    let mut user = pulling(vec![
        held(1, "alice", MessageKind::Chat),
        held(2, "carol", MessageKind::Notification),
    ]);
    assert_eq!(user.news_of_waiting(), Some(1));
    assert_eq!(user.news_of_waiting(), None, "he knows");
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [2]);
    assert!(started(&mut user).is_empty());
}

#[test]
fn a_fetch_has_all_conversations_in_order_and_no_run_has_them_too() {
    let mut user = pulling(vec![
        held(1, "alice", MessageKind::Chat),
        held(2, "carol", MessageKind::Pager),
        held(3, "alice", MessageKind::Chat),
    ]);
    let (runs, queue) = user
        .begin_pull(&Wanted::Everything, None)
        .expect("three wait");
    let order: Vec<u64> = queue.iter().map(|held| held.seq.0).collect();
    assert_eq!(order, [1, 2, 3]);
    assert!(user.begin_pull(&Wanted::Everything, None).is_none());
    assert!(!user.may_pass(&key("alice"), Carrier::Message));
    assert!(user.is_in_flight(&key("alice"), Seq(3)));
    user.handle_settled(&key("alice"), Seq(1));
    user.set_pull(false);
    for run in runs {
        user.handle_run_ended(run, RunEnd::Done, Now::default());
    }
    let (_, rest) = user
        .begin_pull(&Wanted::Messages(vec!["m3".into()]), None)
        .unwrap_or_default();
    assert!(rest.is_empty(), "a run has it again");
    assert_eq!(started(&mut user).len(), 2);
}

#[test]
fn receipts_leave_from_behind_what_the_user_has_not_fetched_and_nothing_else_does() {
    let mut user = pulling(vec![
        held(1, "alice", MessageKind::Chat),
        held(2, "alice", MessageKind::Notification),
        held(3, "alice", MessageKind::Pager),
        held(4, "alice", MessageKind::Notification),
    ]);
    let run = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, run), [2, 4]);
    assert!(user.is_in_flight(&key("alice"), Seq(2)));
    assert!(!user.is_in_flight(&key("alice"), Seq(3)));
    assert!(!user.may_pull(&Wanted::Everything), "its end is near");
    for seq in [2, 4] {
        user.handle_settled(&key("alice"), Seq(seq));
    }
    user.handle_run_ended(run, RunEnd::Done, Now::default());
    assert!(started(&mut user).is_empty());
    let (_, queue) = user
        .begin_pull(&Wanted::Everything, None)
        .expect("two wait");
    let order: Vec<u64> = queue.iter().map(|held| held.seq.0).collect();
    assert_eq!(order, [1, 3]);
    assert!(user.may_pull(&Wanted::Everything));
}

#[test]
fn a_receipt_that_every_device_has_lets_nothing_behind_it_leave_before_the_fetch() {
    let now = Now::default();
    let mut user = copying(&[(7, BOTH), (8, BOTH)]);
    user.set_pull(true);
    let receipt = held(1, "alice", MessageKind::Notification);
    user.handle_stored(receipt, false, false, now);
    user.handle_reach(BOTH, now);
    assert_eq!(copied(&mut user), [(7, vec![1]), (8, vec![1])]);
    user.handle_stored(held(2, "alice", MessageKind::Chat), false, false, now);
    assert!(copied(&mut user).is_empty());
    user.handle_reach(BOTH, now);
    assert!(copied(&mut user).is_empty());
    let receipt = held(3, "alice", MessageKind::Notification);
    user.handle_stored(receipt, false, false, now);
    assert_eq!(copied(&mut user), [(7, vec![3]), (8, vec![3])]);
}

#[test]
fn a_message_stored_while_the_queue_is_loaded_is_held_though_younger_ones_came_first() {
    let now = Now::default();
    let retry = RetrySchedule::new(&[Duration::from_secs(30)]);
    let mut user = ServedUser::new(true, policy(retry));
    // A long message is on its way to the disk, a short one behind it is there already.
    user.handle_storing(&key("alice"), true);
    user.handle_storing(&key("alice"), false);
    user.handle_reach(BOTH, now);
    user.handle_stored(held(2, "alice", MessageKind::Chat), false, false, now);
    user.handle_loaded(vec![held(2, "alice", MessageKind::Chat)], true, now);
    user.handle_stored(held(1, "alice", MessageKind::Chat), true, false, now);
    user.handle_loaded(Vec::new(), false, now);
    let runs = started(&mut user);
    assert_eq!(runs.len(), 1);
    assert_eq!(take_all(&mut user, runs[0].0), [1, 2]);
}

#[test]
fn what_waits_aside_is_tried_again_although_its_conversation_ran_while_another_was_tried() {
    let now = Now::default();
    let mut user = put_off(MessageKind::Pager, RunEnd::Parked, now);
    let late = now.plus(Duration::from_secs(120));
    comes(&mut user, 2, MessageKind::Chat, late);
    refuses(&mut user, RunEnd::Parked, late);
    let chat = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, chat), [2]);
    user.handle_stored(held(10, "bob", MessageKind::Pager), false, false, late);
    let bob = started(&mut user)[0].0;
    user.handle_run_ended(bob, RunEnd::Parked, late);
    let at = user.next_deadline().expect("bob's retry step");
    let later = late.plus(at.since(late.instant));
    user.handle_timeout(later);
    let bob = started(&mut user)[0].0;
    assert_eq!(take_all(&mut user, bob), [10]);
    user.handle_settled(&key("bob"), Seq(10));
    user.handle_run_ended(bob, RunEnd::Done, later);
    user.handle_settled(&key("alice"), Seq(2));
    user.handle_run_ended(chat, RunEnd::Done, later);
    assert!(user.next_deadline().is_some(), "the message 1 waits for it");
}

#[test]
fn what_waits_aside_is_tried_again_although_no_device_takes_what_is_behind_it() {
    let now = Now::default();
    let mut user = put_off(MessageKind::Pager, RunEnd::Parked, now);
    let late = now.plus(Duration::from_secs(120));
    let mut large = held(2, "alice", MessageKind::Pager);
    (large.kind, large.length) = (MessageKind::Chat, 100_000);
    user.handle_reach(
        Reach {
            session: false,
            ..BOTH
        },
        late,
    );
    user.handle_stored(large, false, false, late);
    refuses(&mut user, RunEnd::Parked, late);
    assert!(started(&mut user).is_empty());
    assert!(user.next_deadline().is_some(), "the message 1 waits for it");
}

#[test]
fn what_devices_put_off_behind_a_message_that_none_takes_is_neither_overtaken_nor_forgotten() {
    let now = Now::default();
    let mut user = user();
    let mut large = held(1, "alice", MessageKind::Chat);
    large.length = 100_000;
    user.handle_stored(large, false, false, now);
    user.handle_reach(
        Reach {
            session: false,
            standalone: false,
            ..BOTH
        },
        now,
    );
    assert!(user.may_pass(&key("alice"), Carrier::Message));
    user.handle_storing(&key("alice"), false);
    user.handle_stored(held(2, "alice", MessageKind::Pager), false, true, now);
    assert!(
        !user.may_pass(&key("alice"), Carrier::Message),
        "2 was first"
    );
    assert!(user.next_deadline().is_some(), "2 is tried again");
}
