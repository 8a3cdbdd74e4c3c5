//! Custody survives kill -9: whatever was acknowledged arrives, in order, byte-identical, and what
//! was confirmed does not come again.
//!
//! Moments to kill are drawn from a seed, which is printed; `RESTANTE_TEST_SEED` repeats a run.

mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use restante::clock::{self, Instant};
use restante::demo::{Envelope, Failure, Setup, UserAgent, fresh};
use support::{Configuration, Stage, on_stage};

/// Messages of each author; one writes pager messages, the other chats.
const EACH: usize = 500;
const KILLS: usize = 4;
/// A confirmation this shortly before a kill may not have been read by the server any more.
const UNREAD: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(180);

#[test]
fn a_thousand_messages_survive_kills_during_intake_and_replay_on_one_shard() {
    a_thousand_messages(1);
}

#[test]
fn a_thousand_messages_survive_kills_during_intake_and_replay_on_four_shards() {
    a_thousand_messages(4);
}

fn a_thousand_messages(shards: u16) {
    let seed = std::env::var("RESTANTE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("RESTANTE_TEST_SEED={seed}");
    on_stage(&Configuration::open(), shards, |stage| {
        let mut moments = StdRng::seed_from_u64(seed);
        let (alice, carol) = (stage.agent("alice")?, stage.agent("carol")?);
        let taken = Intake::default();
        intake(stage, &mut moments, &alice, &carol, &taken)?;
        let bob = stage.agent("bob")?;
        let arrived = Arrivals::default();
        replay(stage, &mut moments, &bob, &taken, &arrived)?;
        arrived
            .hold_against(&taken)
            .map_err(|fault| stage.failure(format!("with RESTANTE_TEST_SEED={seed}: {fault}")))
    });
}

/// What each author was told is in custody, in the order of the answers.
#[derive(Default)]
struct Intake {
    pager: Mutex<Vec<Envelope>>,
    chat: Mutex<Vec<Envelope>>,
    acknowledged: AtomicUsize,
}

/// What reached Bob, in the order it came, and when the server was gone.
#[derive(Default)]
struct Arrivals {
    pager: Mutex<Vec<Arrival>>,
    chat: Mutex<Vec<Arrival>>,
    distinct: AtomicUsize,
    gone: Mutex<Vec<Gone>>,
}

/// From a kill until the server was ready again.
struct Gone {
    killed: Instant,
    back: Instant,
}

struct Arrival {
    octets: Vec<u8>,
    confirmed_at: Instant,
}

fn intake(
    stage: &Stage,
    moments: &mut StdRng,
    alice: &UserAgent,
    carol: &UserAgent,
    taken: &Intake,
) -> Result<(), Failure> {
    thread::scope(|scope| {
        let pager = scope.spawn(|| writes_pager_messages(alice, taken));
        let chat = scope.spawn(|| chats(carol, taken));
        for moment in draw(moments) {
            while taken.acknowledged.load(Ordering::Relaxed) < moment
                && !(pager.is_finished() && chat.is_finished())
            {
                thread::sleep(Duration::from_millis(1));
            }
            kill_and_restart(stage, moments)?;
        }
        pager.join().expect("the author does not panic")?;
        chat.join().expect("the author does not panic")
    })
}

fn writes_pager_messages(alice: &UserAgent, taken: &Intake) -> Result<(), Failure> {
    let end = clock::now().instant + LONGEST;
    for number in 0..EACH {
        let envelope = alice.envelope("bob", &format!("pager {number}"));
        while clock::now().instant < end {
            let mut sent = alice.sends_envelope("bob", &envelope)?;
            if sent.final_answer(LONGEST)?.status() == 202 {
                lock(&taken.pager).push(envelope);
                taken.acknowledged.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
    }
    Ok(())
}

/// A phone that loses its session invites again and repeats what was not answered.
fn chats(carol: &UserAgent, taken: &Intake) -> Result<(), Failure> {
    let conversation = fresh("conversation-");
    let end = clock::now().instant + LONGEST;
    let mut number = 0;
    let mut unanswered: Option<Envelope> = None;
    while number < EACH && clock::now().instant < end {
        let call = carol.invites_with("bob", Setup::ActPass, &conversation)?;
        let Ok(chat) = call.expect_accepted() else {
            continue;
        };
        while number < EACH {
            let envelope = unanswered
                .take()
                .unwrap_or_else(|| carol.envelope("bob", &format!("chat {number}")));
            let answered = chat
                .sends(&envelope)
                .and_then(|sent| sent.expect_status(200));
            if answered.is_err() {
                unanswered = Some(envelope);
                break;
            }
            lock(&taken.chat).push(envelope);
            taken.acknowledged.fetch_add(1, Ordering::Relaxed);
            number += 1;
        }
        if number == EACH {
            chat.hangs_up()?;
        }
    }
    Ok(())
}

fn replay(
    stage: &Stage,
    moments: &mut StdRng,
    bob: &UserAgent,
    taken: &Intake,
    arrived: &Arrivals,
) -> Result<(), Failure> {
    let expected = taken.acknowledged.load(Ordering::Relaxed);
    let end = clock::now().instant + LONGEST;
    let over =
        || arrived.distinct.load(Ordering::Relaxed) >= expected || clock::now().instant >= end;
    thread::scope(|scope| {
        scope.spawn(|| takes_messages(bob, arrived, &over));
        scope.spawn(|| takes_replays(bob, arrived, &over));
        bob.registers()?;
        for moment in draw(moments) {
            while arrived.distinct.load(Ordering::Relaxed) < moment && !over() {
                thread::sleep(Duration::from_millis(1));
            }
            let gone = kill_and_restart(stage, moments)?;
            lock(&arrived.gone).push(gone);
            bob.registers()?;
        }
        while !over() {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
}

fn takes_messages(bob: &UserAgent, arrived: &Arrivals, over: &impl Fn() -> bool) {
    while !over() {
        let message = bob.expect_request_within("MESSAGE", Duration::from_millis(100));
        if let Ok(message) = message {
            let octets = message.text().body().to_vec();
            arrived.write_down(&arrived.pager, octets, message.arrived_at());
        }
    }
}

fn takes_replays(bob: &UserAgent, arrived: &Arrivals, over: &impl Fn() -> bool) {
    while !over() {
        let Ok(call) = bob.expect_invite_within(Duration::from_millis(100)) else {
            continue;
        };
        let Ok(session) = call.answers_recvonly(Setup::Active) else {
            continue;
        };
        loop {
            if let Some(message) = session.msrp.next_message(Duration::from_millis(20)) {
                if let Some(confirmed_at) = message.confirmed_at {
                    arrived.write_down(&arrived.chat, message.body, confirmed_at);
                }
            } else if session.msrp.is_closed() || session.bye_within(Duration::ZERO).is_some() {
                break;
            }
        }
    }
}

fn kill_and_restart(stage: &Stage, moments: &mut StdRng) -> Result<Gone, Failure> {
    stage.kill9()?;
    let killed = clock::now().instant;
    thread::sleep(Duration::from_millis(moments.random_range(0..200)));
    stage.restart()?;
    let back = clock::now().instant;
    Ok(Gone { killed, back })
}

/// So many messages into a phase, in rising order.
fn draw(moments: &mut StdRng) -> Vec<usize> {
    let mut drawn: Vec<usize> = (0..KILLS)
        .map(|_| moments.random_range(1..2 * EACH))
        .collect();
    drawn.sort_unstable();
    drawn
}

impl Arrivals {
    fn write_down(&self, kind: &Mutex<Vec<Arrival>>, octets: Vec<u8>, confirmed_at: Instant) {
        let mut all = lock(kind);
        if !all.iter().any(|earlier| earlier.octets == octets) {
            self.distinct.fetch_add(1, Ordering::Relaxed);
        }
        all.push(Arrival {
            octets,
            confirmed_at,
        });
    }

    fn hold_against(&self, taken: &Intake) -> Result<(), String> {
        let gone = lock(&self.gone);
        in_order(&lock(&taken.pager), &lock(&self.pager), &gone)?;
        in_order(&lock(&taken.chat), &lock(&self.chat), &gone)
    }
}

/// Every acknowledged message is there byte for byte, first arrivals are in order, and none came
/// again that was confirmed well before a kill, to a server that was there.
fn in_order(taken: &[Envelope], arrived: &[Arrival], gone: &[Gone]) -> Result<(), String> {
    let order: HashMap<Vec<u8>, usize> = taken
        .iter()
        .enumerate()
        .map(|(number, envelope)| (envelope.to_octets(), number))
        .collect();
    let mut confirmed: HashMap<usize, Instant> = HashMap::new();
    let mut last = None;
    for arrival in arrived {
        let number = *order.get(&arrival.octets).ok_or_else(|| {
            let text = String::from_utf8_lossy(&arrival.octets).into_owned();
            format!("this was never acknowledged, or was changed:\n{text}")
        })?;
        if let Some(before) = confirmed.insert(number, arrival.confirmed_at) {
            let excused = gone
                .iter()
                .any(|gone| before <= gone.back && gone.killed.since(before) < UNREAD);
            if !excused {
                return Err(format!(
                    "message {number} came again after its confirmation"
                ));
            }
            continue;
        }
        if last.is_some_and(|last| number < last) {
            return Err(format!("message {number} came after {last:?}"));
        }
        last = Some(number);
    }
    match confirmed.len() == taken.len() {
        true => Ok(()),
        false => Err(format!(
            "{} of {} acknowledged messages arrived",
            confirmed.len(),
            taken.len()
        )),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no author panicked")
}
