//! MESSAGE relayed (W1) and kept (W2), REGISTER (W4), and what both cost with many users and messages (W8).

use std::collections::HashMap;
use std::net::SocketAddr;

use md5::{Digest, Md5};

use super::Options;
use super::bounds::Bound;
use super::cost::Subject;
use super::filled;
use super::phones::{Phones, Requests, Side};
use super::report::{Report, Row};
use super::rig::{Places, Rig, Setting};
use super::tally::{Tally, Until, metered};
use super::texts;

/// Requests under way where nothing else is said.
const WINDOW: usize = 64;
/// Users from whom messages come.
const AUTHORS: u64 = 1000;

/// W1.
pub fn relay(options: &Options, places: &Places, report: &mut Report) {
    let rig = Rig::new(&options.server, places, &Setting::default());
    let mut phones = rig.phones();
    register(&mut phones, options.users);
    let (tally, lost) = relayed(options, &mut phones, &rig.subject());
    drop(rig);
    let bound = Bound::forwarder(places, phones.devices.local());
    phones.turn_to(bound.address);
    let (best, _) = relayed(options, &mut phones, &bound.subject);
    report.row(Row {
        lost,
        bound: Some((&best).into()),
        ..Row::new(
            "W1",
            "MESSAGE relayed, 64 at a time",
            places.cores(),
            &tally,
        )
    });
}

/// Messages to those who are there, and how many of them did not arrive.
fn relayed(options: &Options, phones: &mut Phones, subject: &Subject) -> (Tally, u64) {
    let before = phones.arrivals.at.len();
    let tally = metered(subject, || messages(options, phones, "u", WINDOW));
    let arrived = (phones.arrivals.at.len() - before) as u64;
    let lost = tally.done.saturating_sub(arrived);
    (tally, lost)
}

/// W2.
pub fn keep(options: &Options, places: &Places, report: &mut Report) {
    let rig = Rig::new(&options.server, places, &Setting::default());
    let bound = Bound::keeper(places);
    for window in [1, 16, 64] {
        let mut phones = rig.phones();
        let tally = kept(options, &mut phones, &rig, window);
        let waiting = rig.metric("restante_waiting_messages") as u64;
        phones.turn_to(bound.address);
        let best = metered(&bound.subject, || {
            messages(options, &mut phones, "away", window)
        });
        let what = format!("MESSAGE kept, {window} at a time");
        report.row(Row {
            lost: tally.1.saturating_sub(waiting),
            bound: Some((&best).into()),
            ..Row::new("W2", what, places.cores(), &tally.0)
        });
    }
}

/// Messages to those who are away, and how many should wait now.
fn kept(options: &Options, phones: &mut Phones, rig: &Rig, window: usize) -> (Tally, u64) {
    let before = rig.metric("restante_waiting_messages") as u64;
    let tally = metered(&rig.subject(), || messages(options, phones, "away", window));
    let wanted = before + tally.done;
    (tally, wanted)
}

/// Messages to those who are away, as many as come in the time.
pub fn leave(options: &Options, phones: &mut Phones) -> Tally {
    messages(options, phones, "away", WINDOW)
}

/// MESSAGEs to users whose names begin like this.
fn messages(options: &Options, phones: &mut Phones, to: &str, window: usize) -> Tally {
    let users = options.users;
    let until = options.until();
    let mut write = |local: SocketAddr, number: u64| {
        let from = format!("author{}", number % AUTHORS);
        texts::message(local, &from, &format!("{to}{}", number % users), number)
    };
    phones.ask(Side::Authors, window, until, &mut write)
}

/// Users u0, u1 and so on register.
pub fn register(phones: &mut Phones, users: u64) -> Tally {
    let mut next = 0;
    let mut numbers = HashMap::new();
    let mut write = |local: SocketAddr, number: u64| {
        let user = *numbers.entry(number).or_insert_with(|| {
            next += 1;
            next - 1
        });
        let name = format!("u{user}");
        texts::register(local, &name, texts::MESSAGE, (number, 0), "")
    };
    let tally = phones.ask(Side::Devices, WINDOW, Until::count(users), &mut write);
    assert_eq!(tally.done, users, "all register: {:?}", tally.refused);
    tally
}

/// W4.
pub fn registrations(options: &Options, places: &Places, report: &mut Report) {
    let bound = Bound::answerer(places);
    for accounts in [None, Some(options.users)] {
        let setting = Setting {
            accounts,
            ..Setting::default()
        };
        let rig = Rig::new(&options.server, places, &setting);
        let mut phones = rig.phones();
        let tally = registered(options, &mut phones, &rig.subject());
        phones.turn_to(bound.address);
        let best = registered(options, &mut phones, &bound.subject);
        let what = match accounts {
            None => "REGISTER",
            Some(_) => "REGISTER with digest: 401 and 200",
        };
        report.row(Row {
            unit: "users",
            bound: Some((&best).into()),
            ..Row::new("W4", what, places.cores(), &tally)
        });
    }
}

/// Users register again and again.
fn registered(options: &Options, phones: &mut Phones, subject: &Subject) -> Tally {
    let mut requests = Registrations {
        users: options.users,
        answers: HashMap::new(),
    };
    metered(subject, || {
        phones.ask(Side::Devices, WINDOW, options.until(), &mut requests)
    })
}

/// REGISTERs that answer a challenge.
struct Registrations {
    users: u64,
    /// What goes into the second request, by the number of the first.
    answers: HashMap<u64, String>,
}

impl Registrations {
    fn user(&self, number: u64) -> String {
        format!("u{}", number % self.users)
    }
}

impl Requests for Registrations {
    fn write(&mut self, local: SocketAddr, number: u64, step: u8) -> String {
        let authorization = match step {
            0 => "",
            _ => self.answers.get(&number).map_or("", String::as_str),
        };
        let user = self.user(number);
        texts::register(local, &user, texts::MESSAGE, (number, step), authorization)
    }

    fn challenged(&mut self, number: u64, answer: &[u8]) -> bool {
        let text = String::from_utf8_lossy(answer);
        let mut challenges = text.lines().filter_map(|line| {
            let challenge = line.strip_prefix("WWW-Authenticate: Digest ")?;
            challenge.contains("algorithm=MD5").then_some(challenge)
        });
        let Some(nonce) = challenges.next().and_then(nonce_in) else {
            return false;
        };
        let credentials = credentials(&self.user(number), nonce);
        self.answers.insert(number, credentials);
        true
    }
}

fn nonce_in(challenge: &str) -> Option<&str> {
    let (_, rest) = challenge.split_once("nonce=\"")?;
    rest.split('"').next()
}

/// Digest with MD5, which costs the load program least (RFC 7616 §3.4).
fn credentials(user: &str, nonce: &str) -> String {
    let owner = hash(&format!("{user}:im.test:secret-{user}"));
    let request = hash("REGISTER:sip:im.test");
    let response = hash(&format!("{owner}:{nonce}:00000001:load:auth:{request}"));
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"im.test\", nonce=\"{nonce}\", \
         uri=\"sip:im.test\", response=\"{response}\", algorithm=MD5, cnonce=\"load\", qop=auth, \
         nc=00000001\r\n"
    )
}

fn hash(text: &str) -> String {
    let octets = Md5::digest(text);
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// W8.
pub fn scale(options: &Options, places: &Places, report: &mut Report) {
    for users in &options.populations {
        let rig = Rig::new(&options.server, places, &Setting::roomy());
        let scale = Scale {
            users: *users,
            waiting: 0,
        };
        scale.play(options, &rig, report);
    }
    let folder = tempfile::tempdir().expect("a folder");
    filled::fill(&folder.path().join("data"), options.waiting);
    let rig = Rig::on(folder, &options.server, places, &Setting::roomy());
    let scale = Scale {
        users: options.users,
        waiting: options.waiting,
    };
    scale.play(options, &rig, report);
}

/// How many are registered, and how many messages wait for others.
struct Scale {
    users: u64,
    waiting: u64,
}

impl Scale {
    fn play(&self, options: &Options, rig: &Rig, report: &mut Report) {
        let options = Options {
            users: self.users,
            ..options.clone()
        };
        let mut phones = rig.phones();
        register(&mut phones, self.users);
        let Self { users, waiting } = self;
        let what = format!("{users} registered, {waiting} waiting");
        let subject = rig.subject();
        let relays = (0..options.rounds).map(|_| relayed(&options, &mut phones, &subject));
        let relays = relays.collect();
        report.row(median(&format!("relayed, {what}"), rig.cores(), relays));
        let keeps = (0..options.rounds).map(|_| {
            let (tally, wanted) = kept(&options, &mut phones, rig, WINDOW);
            let waiting = rig.metric("restante_waiting_messages") as u64;
            (tally, wanted.saturating_sub(waiting))
        });
        let keeps = keeps.collect();
        report.row(median(&format!("kept, {what}"), rig.cores(), keeps));
    }
}

/// The round that cost neither most nor least; what was lost in all of them.
fn median(what: &str, cores: usize, mut rounds: Vec<(Tally, u64)>) -> Row {
    let lost = rounds.iter().map(|(_, lost)| lost).sum();
    rounds.sort_by(|(one, _), (other, _)| one.cost().total_cmp(&other.cost()));
    let (tally, _) = &rounds[rounds.len() / 2];
    Row {
        lost,
        ..Row::new("W8", what, cores, tally)
    }
}
