//! Whole conversations against the pure cores of a server, without sockets and without sleeping.
//!
//! A broken promise prints its seed, its script and its story, of as few steps as a few tries find.
//! `RESTANTE_TEST_SEED` plays one seed with the scripts of the tests that are asked for;
//! `RESTANTE_TEST_SEEDS` says how many seeds drawn at random are played beside the fixed ones. A seed
//! that found something stands in `FOUND` or `FOUND_WILD`.

#[path = "support/world.rs"]
mod world;

use world::Faults;
use world::driver::{Script, play};

/// Seeds drawn at random in each run, if nobody says how many: one with single devices, the others with several.
const EXPLORED: u64 = 3;

fn pagers(shards: u16) -> Script {
    Script {
        shards,
        users: 4,
        steps: 150,
        faults: Faults {
            delay: 30,
            store_delay: 20,
            ..Faults::default()
        },
        ..Script::default()
    }
}

fn play_all(seeds: std::ops::Range<u64>, script: &Script) {
    match one_seed() {
        Some(seed) => play(seed, script),
        None => seeds.for_each(|seed| play(seed, script)),
    }
}

fn one_seed() -> Option<u64> {
    let seed = std::env::var("RESTANTE_TEST_SEED").ok()?;
    Some(seed.parse().expect("a seed is a number"))
}

#[test]
fn pager_messages_over_good_links_arrive_once_and_in_order() {
    play_all(0..3, &pagers(1));
    play_all(10..13, &pagers(4));
}

#[test]
fn pager_messages_survive_lossy_links_refusals_and_crashes() {
    let faults = Faults {
        loss: 10,
        repeats: 10,
        delay: 700,
        store_delay: 200,
        breakage: true,
        ..Faults::default()
    };
    play_all(
        100..104,
        &Script {
            faults,
            ..pagers(1)
        },
    );
    play_all(
        120..124,
        &Script {
            faults,
            ..pagers(3)
        },
    );
}

#[test]
fn chats_over_good_links_arrive_once_and_in_order() {
    let script = Script {
        chats: true,
        ..pagers(1)
    };
    play_all(200..202, &script);
    play_all(
        206..209,
        &Script {
            shards: 4,
            ..script
        },
    );
}

#[test]
fn chats_survive_lossy_links_resets_and_crashes() {
    let faults = Faults {
        loss: 5,
        repeats: 5,
        delay: 300,
        store_delay: 100,
        breakage: true,
        ..Faults::default()
    };
    let script = Script {
        chats: true,
        faults,
        ..pagers(1)
    };
    play_all(300..302, &script);
    play_all(
        315..318,
        &Script {
            shards: 3,
            ..script
        },
    );
}

/// Several devices a user, of every kind; copies, fetches, receipts, revocations, rules, quotas.
#[test]
fn everything_a_device_can_do_over_good_links_keeps_every_promise() {
    let script = |seed: u64| {
        let wild = wild(seed);
        let faults = Faults {
            delay: 30,
            store_delay: 20,
            ..Faults::default()
        };
        Script { faults, ..wild }
    };
    match one_seed() {
        Some(seed) => play(seed, &script(seed)),
        None => (400..403).for_each(|seed| play(seed, &script(seed))),
    }
}

#[test]
fn everything_a_device_can_do_survives_everything_that_goes_wrong() {
    match one_seed() {
        Some(seed) => play(seed, &wild(seed)),
        None => (500..503).for_each(|seed| play(seed, &wild(seed))),
    }
}

/// What is under way comes back to nothing each time, however long the server runs.
#[test]
fn a_long_run_with_many_rests_leaves_nothing_behind() {
    let script = |seed: u64| Script {
        steps: 160,
        rests: 2,
        ..wild(seed)
    };
    play_all(600..601, &script(600));
}

/// Seeds nobody has played before; how many is bounded, unless `RESTANTE_TEST_SEEDS` says otherwise.
#[test]
fn seeds_drawn_at_random_find_nothing() {
    if let Some(seed) = one_seed() {
        play(seed, &drawn(seed));
        return;
    }
    let count = std::env::var("RESTANTE_TEST_SEEDS").ok();
    let count: u64 = count.map_or(EXPLORED, |count| count.parse().expect("a number"));
    let first = u64::from(rand::random::<u32>()) / 4 * 4;
    for seed in first..first + count {
        println!("seed {seed}");
        play(seed, &drawn(seed));
    }
}

/// Seeds of the soak that found something, and what it was.
const FOUND: [(u64, &str); 8] = [
    (1044, "a callee's message in the recipient's own call"),
    (
        1104,
        "a replay without store credit was started again for ever",
    ),
    (
        1107,
        "an unread piece of a message discarded the one behind it",
    ),
    (1232, "an INVITE without room left its MSRP session behind"),
    (3008, "spools of messages that were not kept"),
    (5059, "a device bound its session before its answer arrived"),
    (
        200_396,
        "a receipt waited behind an older one that was refused: the model took it for overtaken",
    ),
    (
        2_547_924_292,
        "a message that was refused for good had ended on a disk that took nothing: the model took it for overtaken",
    ),
];

/// The same of seeds with several devices a user.
const FOUND_WILD: [(u64, &str); 33] = [
    (
        50026,
        "a device said late that it had a kept message, which then went to another one too",
    ),
    (
        50029,
        "a device that was gone without a word held up the copies of all others",
    ),
    (50037, "the same, of a kept receipt"),
    (
        60026,
        "a queue was read before the store had the mark of a device",
    ),
    (
        60082,
        "an author heard a word twice, for the table had no room: the model allows it then",
    ),
    (
        60170,
        "who calls from a paused device is there for that call: the model knew it of absent ones only",
    ),
    (
        60194,
        "a message of somebody who is kept away was overtaken: the model took it for kept",
    ),
    (
        60203,
        "a receipt was taken, turned away for want of that answer, and said by another device: the model \
         did not know the second",
    ),
    (
        60205,
        "a device that had moved sent from its old address: the model moved what was on its way",
    ),
    (60385, "the same as 60194"),
    (
        70131,
        "tries of a device's old address held all sessions of its user",
    ),
    (
        71038,
        "a start took a given-up message for kept when it came again: the model's store, not the real one",
    ),
    (
        71545,
        "a message was confirmed while the store read it to make room: its author heard that it had failed",
    ),
    (
        71582,
        "the clock was set by exactly an hour: the model did not know that a millisecond decides",
    ),
    (
        150_849_170,
        "a device moved before the server had its confirmation: the model took it for the moved one's",
    ),
    (
        81172,
        "a message of a session of its own was too long for MESSAGE by datagram: the model took it for overtaken",
    ),
    (
        81514,
        "killed before the next sync, a start knew a given-up message: the model's store, not the real one",
    ),
    (
        81101,
        "a call of a killed server was bound to the next one: the model's device did not take 481 for its end",
    ),
    (
        71181,
        "a kept message was read with the queue and replayed while devices could still take it as it came",
    ),
    (
        200_019,
        "a device left while its call with a message inside was out, took both, and was not believed: the author \
         heard that it had failed",
    ),
    (
        200_035,
        "the same: the message came again once the device was back",
    ),
    (
        200_089,
        "a device closed the connection that two replays shared: the model did not know that one broke off",
    ),
    (
        200_353,
        "no session was to be had for ten seconds: a message passed what waited for one",
    ),
    (
        200_443,
        "a device accepted a call with a message inside after it was cancelled: that came again",
    ),
    (
        200_598,
        "the same, while the kept message was being read for another device",
    ),
    (
        300_543,
        "what was kept behind a message that a device had declined was overtaken: the model took it for free to leave",
    ),
    (
        300_575,
        "two sessions of a user filled what may be unsynced: nobody asked the store again, and both stood still",
    ),
    (
        300_795,
        "a device moved while it was called at its old address: the model took that call for one to the new",
    ),
    (
        500_546,
        "a device moved while a MESSAGE was on its way to its old address: the model took it for one to the new",
    ),
    (1_227_389_133, "the same"),
    (
        500_299,
        "an answer came over a connection that the server had given up: the model took it for in use again",
    ),
    (
        501_806,
        "a device registered elsewhere before a message sent to its old address was kept: that waited for the next \
         try, and was overtaken",
    ),
    (
        200_949,
        "a message expired while one device was tried, and then went to the next",
    ),
];

#[test]
fn seeds_that_found_something_find_nothing() {
    for (seed, what) in FOUND {
        println!("seed {seed}: {what}");
        play(seed, &soaked(seed));
    }
    for (seed, what) in FOUND_WILD {
        println!("seed {seed}: {what}");
        play(seed, &wild(seed));
    }
}

/// Of seeds drawn at random, some play what single devices do, the others everything.
fn drawn(seed: u64) -> Script {
    match seed % 4 {
        0 => soaked(seed),
        _ => wild(seed),
    }
}

/// What a seed of the soak plays: all kinds of shortage and breakage take turns.
fn soaked(seed: u64) -> Script {
    let of = |period: u64| u32::try_from(seed % period).expect("small");
    Script {
        shards: 1 + u16::try_from(seed % 4).expect("small"),
        users: 3 + usize::try_from(seed % 3).expect("small"),
        steps: 200,
        chats: of(5) > 0,
        faults: Faults {
            loss: of(4) * 5,
            repeats: of(3) * 5,
            delay: 10 + seed % 7 * 150,
            store_delay: if of(9) == 0 {
                6_000
            } else {
                1 + seed % 5 * 100
            },
            credits: if of(6) == 0 { 3 } else { 0 },
            transactions: if of(7) == 0 { 30 } else { 0 },
            breakage: of(8) > 0,
            ..Faults::default()
        },
        ..Script::default()
    }
}

/// The same with several devices a user, late timers, slow shards and a clock that is set.
fn wild(seed: u64) -> Script {
    let of = |period: u64| seed / 3 % period;
    let soaked = soaked(seed / 3);
    Script {
        wild: true,
        shards: 1 + u16::try_from(of(3)).expect("small"),
        steps: 150,
        faults: Faults {
            lateness: if of(5) == 0 { 2_000 } else { 0 },
            crowding: if of(7) == 0 { 3_000 } else { 0 },
            time_travel: of(4) == 0,
            ..soaked.faults
        },
        ..soaked
    }
}
