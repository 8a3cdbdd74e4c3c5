//! The devices: they come and go, take messages and sessions, refuse some, and send receipts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use restante::clock::{self, Instant};
use restante::demo::{
    Answering, Chat, Disposition, Envelope, Failure, IncomingCall, IncomingRequest, Setup,
};

use super::dice::Dice;
use super::scene::{Person, Scene, play};

const LOOK_UP: Duration = Duration::from_millis(50);
/// Sessions that a device may have at once.
const SESSIONS: usize = 4;
/// Longer than the server waits before it keeps a message (`answer_within` of the episode).
const LATE: Duration = Duration::from_millis(1_000);
const LONGEST: Duration = Duration::from_secs(60);

/// What a difficult device does.
#[derive(Clone, Copy)]
enum Mood {
    Take,
    Refuse(u16),
    Silent,
    Late,
    BreakOff,
}

/// All threads of a person's device.
pub fn devices(scene: &Arc<Scene>, person: &Arc<Person>) -> Vec<JoinHandle<()>> {
    let mut threads = vec![
        comes_and_goes(scene, person),
        takes_messages(scene, person),
        sends_receipts(scene, person),
    ];
    threads.extend((0..SESSIONS).map(|which| takes_sessions(scene, person, which)));
    threads
}

fn comes_and_goes(scene: &Arc<Scene>, person: &Arc<Person>) -> JoinHandle<()> {
    let mut dice = scene.dice(&format!("presence {}", person.name));
    let person = Arc::clone(person);
    play(scene, move |scene| {
        person.agent.registers()?;
        match scene.is(&scene.meek) {
            // Again and again: a kill may have forgotten it.
            true => thread::sleep(Duration::from_millis(200)),
            false => scene.pause(dice.millis(50..700)),
        }
        if dice.percent(40) && !scene.is(&scene.meek) {
            person.agent.unregisters()?;
            scene.pause(dice.millis(50..900));
        }
        Ok(())
    })
}

fn takes_messages(scene: &Arc<Scene>, person: &Arc<Person>) -> JoinHandle<()> {
    let mut dice = scene.dice(&format!("messages {}", person.name));
    let (scene, person) = (Arc::clone(scene), Arc::clone(person));
    thread::spawn(move || {
        // Shown, and to be taken later.
        let mut late: VecDeque<(Instant, IncomingRequest<'_>)> = VecDeque::new();
        while !scene.is(&scene.over) {
            let next = person.agent.expect_request_within("MESSAGE", LOOK_UP);
            let now = clock::now().instant;
            while let Some((shown, message)) = late.pop_front_if(|(at, _)| *at + LATE <= now) {
                take(&scene, &person, &message, shown);
            }
            let Ok(message) = next else { continue };
            match mood_for(&scene, &person, &mut dice) {
                Mood::Refuse(status) => message.answers(status),
                Mood::Silent => {}
                Mood::Late => late.push_back((now, message)),
                Mood::Take | Mood::BreakOff => take(&scene, &person, &message, now),
            }
        }
    })
}

fn take(scene: &Scene, person: &Person, message: &IncomingRequest<'_>, shown: Instant) {
    let now = clock::now().instant;
    let is_new = scene.book.arrived(message.text().body(), shown, now);
    message.answers(200);
    owe_receipt(person, message.text().body(), is_new);
}

/// A message that asks for it, and that was not had before, is confirmed to its author.
fn owe_receipt(person: &Person, octets: &[u8], is_new: bool) {
    let envelope = Envelope::read(octets).filter(|it| it.asks.contains("positive-delivery"));
    if let Some(envelope) = envelope.filter(|_| is_new) {
        let receipt = envelope.notification(Disposition::Delivered);
        person
            .receipts
            .lock()
            .expect("held shortly")
            .push_back(receipt);
    }
}

fn takes_sessions(scene: &Arc<Scene>, person: &Arc<Person>, which: usize) -> JoinHandle<()> {
    let mut dice = scene.dice(&format!("sessions {} {which}", person.name));
    let person = Arc::clone(person);
    play(scene, move |scene| {
        let Ok(call) = person.agent.expect_invite_within(LOOK_UP) else {
            return Ok(());
        };
        match mood_for(scene, &person, &mut dice) {
            Mood::Refuse(status) => call.refuses(status),
            // It rings until the caller gives up.
            Mood::Silent => call.rings(),
            Mood::BreakOff => {
                let taken = Answering::Only(dice.between(0..4) as usize);
                let session = answer(call.taking(taken), &mut dice)?;
                take_session(scene, &person, &session, LATE);
                session.msrp.drops_connection();
            }
            Mood::Take | Mood::Late => {
                let session = answer(call, &mut dice)?;
                take_session(scene, &person, &session, LONGEST);
            }
        }
        Ok(())
    })
}

fn answer<'a>(call: IncomingCall<'a>, dice: &mut Dice) -> Result<Chat<'a>, Failure> {
    let direction = match call.offer().contains("a=sendonly") {
        true => "recvonly",
        false => "sendrecv",
    };
    let setup = dice.weighted(&[(1, Setup::Active), (1, Setup::Passive)]);
    call.answers(setup, direction)
}

/// Until the session ends, or for so long.
fn take_session(scene: &Scene, person: &Person, session: &Chat<'_>, patience: Duration) {
    let end = clock::now().instant + patience;
    loop {
        let is_over = session.msrp.is_closed()
            || session.bye_within(Duration::ZERO).is_some()
            || clock::now().instant >= end;
        while let Some(message) = session.msrp.next_message(Duration::from_millis(10)) {
            if let Some(at) = message.confirmed_at {
                let is_new = scene.book.arrived(&message.body, at, at);
                owe_receipt(person, &message.body, is_new);
            }
        }
        if is_over {
            return;
        }
    }
}

fn sends_receipts(scene: &Arc<Scene>, person: &Arc<Person>) -> JoinHandle<()> {
    let person = Arc::clone(person);
    play(scene, move |scene| {
        scene.begin_work();
        let next = person.receipts.lock().expect("held shortly").pop_front();
        let sent = next.map(|receipt| send_receipt(scene, &person, &receipt));
        scene.end_work();
        match sent {
            Some(sent) => sent,
            None => {
                thread::sleep(Duration::from_millis(5));
                Ok(())
            }
        }
    })
}

fn send_receipt(scene: &Scene, person: &Person, receipt: &Envelope) -> Result<(), Failure> {
    let Some(author) = scene.person_in(&receipt.to) else {
        return Ok(());
    };
    let stream = person.stream_to(&author, "receipt");
    scene.book.begin(stream, receipt, None);
    loop {
        let mut sent = person.agent.sends_envelope(author.name, receipt)?;
        match sent.final_answer(LONGEST)?.status() {
            200..300 => {
                scene.book.acknowledged(receipt, clock::now().instant);
                return Ok(());
            }
            503 => {
                scene.book.put_off(receipt, clock::now().instant);
                scene.pause(Duration::from_millis(100));
            }
            _ => {
                scene.book.refused(receipt, clock::now().instant);
                return Ok(());
            }
        }
    }
}

fn mood_for(scene: &Scene, person: &Person, dice: &mut Dice) -> Mood {
    if !person.difficult || scene.is(&scene.meek) {
        return Mood::Take;
    }
    dice.weighted(&[
        (55, Mood::Take),
        (10, Mood::Refuse(480)),
        (10, Mood::Refuse(486)),
        (5, Mood::Refuse(603)),
        (5, Mood::Refuse(503)),
        (4, Mood::Silent),
        (5, Mood::Late),
        (6, Mood::BreakOff),
    ])
}
