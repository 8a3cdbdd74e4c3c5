//! Whole conversations against the pure cores of a server, without sockets and without sleeping.
//!
//! `RESTANTE_TEST_SEED` plays one seed again; a seed that found something stands in `FOUND`.

#[path = "support/world.rs"]
mod world;

use world::Faults;
use world::driver::{Script, play};

fn pagers(shards: u16) -> Script {
    Script {
        shards,
        users: 4,
        steps: 150,
        chats: false,
        faults: Faults {
            delay: 30,
            store_delay: 20,
            ..Faults::default()
        },
    }
}

fn play_all(seeds: std::ops::Range<u64>, script: &Script) {
    match std::env::var("RESTANTE_TEST_SEED") {
        Ok(seed) => play(seed.parse().expect("a seed is a number"), script),
        Err(_) => seeds.for_each(|seed| play(seed, script)),
    }
}

#[test]
fn pager_messages_over_good_links_arrive_once_and_in_order() {
    play_all(0..10, &pagers(1));
    play_all(10..20, &pagers(4));
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
        100..120,
        &Script {
            faults,
            ..pagers(1)
        },
    );
    play_all(
        120..140,
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
    play_all(200..206, &script);
    play_all(
        206..212,
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
    play_all(300..315, &script);
    play_all(
        315..330,
        &Script {
            shards: 3,
            ..script
        },
    );
}

/// Seeds beyond those of the test command: `RESTANTE_SOAK=1000..2000 cargo test --test simulation -- --ignored`.
#[test]
#[ignore = "as long as it is let"]
fn soak() {
    let range = std::env::var("RESTANTE_SOAK").unwrap_or_else(|_| "1000..1100".to_owned());
    let (from, to) = range.split_once("..").expect("FROM..TO");
    let seeds = from.parse().expect("a number")..to.parse::<u64>().expect("a number");
    for seed in seeds {
        let faults = Faults {
            loss: (seed % 4 * 5) as u32,
            repeats: (seed % 3 * 5) as u32,
            delay: 10 + seed % 7 * 150,
            store_delay: if seed % 9 == 0 {
                6_000
            } else {
                1 + seed % 5 * 100
            },
            breakage: seed % 8 > 0,
            credits: if seed % 6 == 0 { 3 } else { 0 },
            transactions: if seed % 7 == 0 { 30 } else { 0 },
        };
        let script = Script {
            shards: 1 + (seed % 4) as u16,
            users: 3 + (seed % 3) as usize,
            steps: 200,
            chats: seed % 5 > 0,
            faults,
        };
        let failed = std::panic::catch_unwind(|| play(seed, &script)).is_err();
        assert!(!failed, "seed {seed} of the soak");
    }
}
