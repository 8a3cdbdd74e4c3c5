//! MSRP between two who are there, through a session that is anchored at the server (W5).

use std::net::SocketAddr;

use super::Options;
use super::bounds::Bound;
use super::chat;
use super::cost::Subject;
use super::msrp::{self, Exchanged, Leg, Session, Shape};
use super::phones::Phones;
use super::report::{Report, Row};
use super::rig::{Places, Rig, Setting};
use super::tally::{Tally, metered};
use super::texts;

/// Messages of 1 kB.
pub const SMALL: Shape = Shape {
    size: 1024,
    chunk: 1024,
    window: 8,
};
/// Messages of 10 MB.
const LARGE: Shape = Shape {
    size: 10 << 20,
    chunk: 64 * 1024,
    window: 4,
};
/// Sessions with small messages.
const SESSIONS: usize = 8;

/// W5.
pub fn anchored(options: &Options, places: &Places, report: &mut Report) {
    let rig = Rig::new(&options.server, places, &Setting::default());
    let mut phones = rig.phones();
    let cases = [
        ("1 kB, 8 sessions, 8 at a time", SMALL, SESSIONS),
        ("10 MB in chunks of 64 kB", options.large(LARGE), 1),
    ];
    for (what, shape, count) in cases {
        let mut sessions = open(&mut phones, rig.address(), count);
        let sent = exchanged(options, &mut sessions, shape, &rig.subject());
        let bound = forwarded(options, places, shape, count);
        report.row(Row {
            lost: lost(&sent, shape),
            bound: Some((&in_unit(bound.tally, shape)).into()),
            unit: unit(shape),
            ..Row::new("W5", what, places.cores(), &in_unit(sent.tally, shape))
        });
    }
}

/// Messages that were confirmed and did not come whole.
fn lost(sent: &Exchanged, shape: Shape) -> u64 {
    sent.tally
        .done
        .saturating_sub(sent.octets / shape.size as u64)
}

/// Large messages are counted in megabytes.
fn unit(shape: Shape) -> &'static str {
    match shape.size == SMALL.size {
        true => "messages",
        false => "MB",
    }
}

fn in_unit(tally: Tally, shape: Shape) -> Tally {
    let done = match unit(shape) {
        "MB" => tally.done * shape.size as u64 / 1_000_000,
        _ => tally.done,
    };
    Tally { done, ..tally }
}

/// Chats between users who are there.
fn open(phones: &mut Phones, server: SocketAddr, count: usize) -> Vec<Session> {
    let numbers = 0..count;
    let sessions = numbers.map(|_| {
        let user = format!("chatter{}", phones.fresh());
        chat::register(phones, server, &user);
        chat::to_the_present(phones, server, &user)
    });
    sessions.collect()
}

/// The same through a program that passes octets on.
pub fn forwarded(options: &Options, places: &Places, shape: Shape, count: usize) -> Exchanged {
    let bound = Bound::stream_forwarder(places);
    let leg = || {
        let path = "msrp://127.0.0.1:9/bound;tcp".to_owned();
        Leg::new(bound.address, path.clone(), path)
    };
    let sessions = (0..count).map(|_| Session::new(leg(), Some(leg())));
    let mut sessions: Vec<Session> = sessions.collect();
    exchanged(options, &mut sessions, shape, &bound.subject)
}

fn exchanged(
    options: &Options,
    sessions: &mut [Session],
    shape: Shape,
    subject: &Subject,
) -> Exchanged {
    let mut octets = 0;
    let tally = metered(subject, || {
        let content = |number| content("chatter", number, shape.size);
        let sent = msrp::send(sessions, shape, options.until(), content);
        octets = sent.octets;
        sent.tally
    });
    Exchanged { tally, octets }
}

/// An envelope of so many octets in all.
pub fn content(to: &str, number: u64, size: usize) -> Vec<u8> {
    let bare = texts::envelope("author", to, number, 0, "display").len();
    // The length is written with more digits then.
    let digits = |length: usize| length.to_string().len() - 1;
    let mut length = size.saturating_sub(bare);
    length -= digits(length);
    texts::envelope("author", to, number, length, "display").into_bytes()
}
