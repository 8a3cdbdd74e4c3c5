//! Who takes part in an episode, and what they share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use restante::demo::{Envelope, Failure, UserAgent};

use super::dice::Dice;
use super::model::{Book, Stream};

/// One user and the device he has.
pub struct Person {
    pub name: &'static str,
    pub agent: UserAgent,
    /// He refuses, is silent and breaks off from time to time.
    pub difficult: bool,
    /// Receipts that he owes to authors.
    pub receipts: Mutex<VecDeque<Envelope>>,
}

/// What all threads of an episode share.
pub struct Scene {
    pub seed: u64,
    pub book: Book,
    /// Authors write nothing new.
    pub silence: AtomicBool,
    /// Everybody is there and takes everything.
    pub meek: AtomicBool,
    pub over: AtomicBool,
    /// Authors and senders of receipts that still wait for an answer.
    busy: AtomicUsize,
    pub people: Vec<Arc<Person>>,
}

impl Scene {
    pub fn new(seed: u64, people: Vec<Arc<Person>>) -> Self {
        Self {
            people,
            seed,
            book: Book::default(),
            silence: AtomicBool::new(false),
            meek: AtomicBool::new(false),
            over: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
        }
    }

    pub fn is(&self, flag: &AtomicBool) -> bool {
        flag.load(Ordering::SeqCst)
    }

    pub fn set(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
    }

    pub fn dice(&self, role: &str) -> Dice {
        Dice::of(self.seed, role)
    }

    /// Between `begin_work` and `end_work` somebody may still write to the book.
    pub fn begin_work(&self) {
        self.busy.fetch_add(1, Ordering::SeqCst);
    }

    pub fn end_work(&self) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether anybody may still write to the book without being made to.
    pub fn is_busy(&self) -> bool {
        let owes = |person: &Arc<Person>| !person.receipts.lock().expect("held shortly").is_empty();
        self.busy.load(Ordering::SeqCst) > 0 || self.people.iter().any(owes)
    }

    pub fn person(&self, name: &str) -> &Arc<Person> {
        let found = self.people.iter().find(|person| person.name == name);
        found.expect("one of the cast")
    }

    /// Whom an address names.
    pub fn person_in(&self, address: &str) -> Option<Arc<Person>> {
        let is_named = |person: &&Arc<Person>| address.contains(&format!("sip:{}@", person.name));
        self.people.iter().find(is_named).cloned()
    }

    /// Sleeps, shorter if the episode is in a hurry.
    pub fn pause(&self, pause: Duration) {
        let short = Duration::from_millis(20);
        let mut left = pause;
        while !left.is_zero() && !self.is(&self.meek) && !self.is(&self.over) {
            thread::sleep(left.min(short));
            left = left.saturating_sub(short);
        }
    }
}

impl Person {
    pub fn new(name: &'static str, agent: UserAgent, difficult: bool) -> Arc<Self> {
        agent.reacts_to_messages(restante::demo::Reaction::StaySilent);
        Arc::new(Self {
            name,
            agent,
            difficult,
            receipts: Mutex::default(),
        })
    }

    /// What goes from him to another by this way.
    pub fn stream_to(&self, other: &Person, way: &'static str) -> Stream {
        Stream {
            author: self.name,
            recipient: other.name,
            way,
        }
    }
}

/// A thread of the episode. What fails in it is a broken conversation, as kills make them; it goes on.
pub fn play(
    scene: &Arc<Scene>,
    mut turn: impl FnMut(&Scene) -> Result<(), Failure> + Send + 'static,
) -> JoinHandle<()> {
    let scene = Arc::clone(scene);
    thread::spawn(move || {
        while !scene.is(&scene.over) {
            if turn(&scene).is_err() {
                scene.pause(Duration::from_millis(20));
            }
        }
    })
}
