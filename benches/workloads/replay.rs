//! What waits is replayed when its recipient registers: by MESSAGE (W3) and in a session (W3m).

use std::net::SocketAddr;
use std::time::Duration;

use restante::clock::{self, Instant};

use super::Options;
use super::bounds::Bound;
use super::chat;
use super::msrp::{self, Shape};
use super::phones::{Arrivals, Phones, Side};
use super::report::{Report, Row};
use super::rig::{Places, Rig, Setting};
use super::sessions;
use super::tally::{Tally, Until, metered};
use super::texts;

/// How long nothing may arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Octets of a chat message that waits.
const CHAT: Shape = Shape {
    size: 500,
    chunk: 500,
    window: 16,
};

/// W3.
pub fn by_message(options: &Options, places: &Places, report: &mut Report) {
    let rig = Rig::new(&options.server, places, &Setting::default());
    let mut phones = rig.phones();
    let rounds = (0..options.rounds).map(|round| {
        let user = format!("absent{round}");
        leave_messages(&mut phones, &user, options.replayed);
        replayed(options, &rig, &mut phones, |phones| {
            let number = phones.fresh();
            let local = phones.devices.local();
            let text = texts::register(local, &user, texts::MESSAGE, (number, 0), "");
            phones.devices.tell(rig.address(), text);
            phones.wait_for_arrivals(options.replayed as usize, PATIENCE);
        })
    });
    let tally = middle(rounds.collect());
    let bound = one_by_one(options, places, &mut phones);
    report.row(Row {
        lost: options.replayed - tally.done,
        bound: Some((&bound).into()),
        ..Row::new(
            "W3",
            "MESSAGEs replayed to one user",
            places.cores(),
            &tally,
        )
    });
}

/// Messages for somebody who is away.
fn leave_messages(phones: &mut Phones, user: &str, count: u64) {
    let mut write = |local: SocketAddr, number: u64| texts::message(local, "author", user, number);
    let left = phones.ask(Side::Authors, 16, Until::count(count), &mut write);
    assert_eq!(left.done, count, "all are kept: {:?}", left.refused);
}

/// Plays a replay; what is counted are messages that came for the first time, since its beginning.
fn replayed(
    options: &Options,
    rig: &Rig,
    phones: &mut Phones,
    play: impl FnOnce(&mut Phones),
) -> Tally {
    phones.arrivals = Arrivals::default();
    let began = clock::now().instant;
    let mut tally = metered(&rig.subject(), || {
        play(phones);
        Tally::default()
    });
    arrived(&mut tally, &phones.arrivals, began);
    tally.asked = options.replayed;
    tally
}

fn arrived(tally: &mut Tally, arrivals: &Arrivals, began: Instant) {
    tally.done = arrivals.at.len() as u64;
    tally.repeated = arrivals.again;
    let since = |at: &Instant| at.as_micros() - began.as_micros();
    tally.latencies = arrivals.at.iter().map(since).collect();
}

/// The round that took neither longest nor shortest; of one that lost something, that one.
fn middle(mut rounds: Vec<Tally>) -> Tally {
    rounds.sort_by_key(|tally| tally.wall);
    let broken = rounds.iter().position(|tally| tally.done < tally.asked);
    rounds.swap_remove(broken.unwrap_or(rounds.len() / 2))
}

/// The same messages from a program without a store, each after the answer to the one before.
fn one_by_one(options: &Options, places: &Places, phones: &mut Phones) -> Tally {
    phones.arrivals = Arrivals::default();
    let (device, count) = (phones.devices.local(), options.replayed);
    let bound = Bound::caller(places, device, count);
    let tally = metered(&bound.subject, || {
        phones.wait_for_arrivals(count as usize, PATIENCE);
        Tally {
            done: phones.arrivals.at.len() as u64,
            ..Tally::default()
        }
    });
    drop(bound);
    tally
}

/// W3m.
pub fn in_session(options: &Options, places: &Places, report: &mut Report) {
    let rig = Rig::new(&options.server, places, &Setting::default());
    let mut phones = rig.phones();
    let rounds = (0..options.rounds).map(|round| {
        let user = format!("absent{round}");
        leave_chat(&mut phones, rig.address(), &user, options.replayed);
        replayed(options, &rig, &mut phones, |phones| {
            chat::register(phones, rig.address(), &user);
            let mut leg = chat::take_call(&mut phones.devices, "recvonly");
            msrp::receive(&mut leg, options.replayed as usize, &mut phones.arrivals);
            chat::take_bye(&mut phones.devices);
        })
    });
    let tally = middle(rounds.collect());
    let bound = sessions::forwarded(options, places, sessions::SMALL, 1);
    report.row(Row {
        lost: options.replayed - tally.done,
        bound: Some((&bound.tally).into()),
        ..Row::new(
            "W3m",
            "chat messages replayed over MSRP",
            places.cores(),
            &tally,
        )
    });
}

/// A chat with somebody who is away.
fn leave_chat(phones: &mut Phones, server: SocketAddr, user: &str, count: u64) {
    let session = chat::to_the_absent(phones, server, user);
    let content = |number| sessions::content(user, number, CHAT.size);
    let sent = msrp::send(&mut [session], CHAT, Until::count(count), content);
    assert_eq!(
        sent.tally.done, count,
        "all are kept: {:?}",
        sent.tally.refused
    );
}
