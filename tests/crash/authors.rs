//! The authors: pager messages, chats, large messages, messages that expire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use restante::clock;
use restante::demo::{Chat, Draft, Envelope, Failure, PAGER_TAG, SentRequest, Setup, fresh};

use super::dice::Dice;
use super::model::Stream;
use super::scene::{Person, Scene, play};

/// The same request is repeated so long, over all restarts, until it is answered.
const LONGEST: Duration = Duration::from_secs(60);

/// Octets of a chunk.
const CHUNK: usize = 8_192;

/// One author of one stream.
pub struct Author {
    me: Arc<Person>,
    peer: Arc<Person>,
    stream: Stream,
    dice: Dice,
    /// Written and not answered 200; said again in the next session.
    unanswered: VecDeque<Envelope>,
}

impl Author {
    pub fn new(scene: &Scene, me: &Arc<Person>, peer: &Arc<Person>, way: &'static str) -> Self {
        let role = format!("{way} {} {}", me.name, peer.name);
        Self {
            stream: me.stream_to(peer, way),
            me: Arc::clone(me),
            peer: Arc::clone(peer),
            dice: scene.dice(&role),
            unanswered: VecDeque::new(),
        }
    }

    /// Pager messages one after the other; with `lives`, for so long.
    pub fn pages(mut self, scene: &Arc<Scene>, lives: bool) -> JoinHandle<()> {
        play(scene, move |scene| {
            scene.pause(self.dice.millis(0..25));
            if self.rests(scene) {
                return Ok(());
            }
            let lives = match lives {
                true => Some(Duration::from_secs(self.dice.between(1..5))),
                false => None,
            };
            let envelope = self.write(scene, 900, lives);
            scene.begin_work();
            let sent = self.page(scene, &envelope, lives);
            scene.end_work();
            sent
        })
    }

    /// Chats of some messages each.
    pub fn chats(mut self, scene: &Arc<Scene>) -> JoinHandle<()> {
        let conversation = fresh("conversation-");
        play(scene, move |scene| {
            scene.pause(self.dice.millis(0..60));
            if self.rests(scene) {
                return Ok(());
            }
            scene.begin_work();
            let chatted = self.chat(scene, &conversation);
            scene.end_work();
            chatted
        })
    }

    /// Large messages in sessions of their own.
    pub fn sends_large(mut self, scene: &Arc<Scene>) -> JoinHandle<()> {
        play(scene, move |scene| {
            scene.pause(self.dice.millis(50..300));
            if self.rests(scene) {
                return Ok(());
            }
            scene.begin_work();
            let sent = self.send_large(scene);
            scene.end_work();
            sent
        })
    }

    /// Nothing new is to be written, and nothing old to be said again.
    fn rests(&self, scene: &Scene) -> bool {
        let rests = scene.is(&scene.silence) && self.unanswered.is_empty();
        if rests {
            std::thread::sleep(Duration::from_millis(20));
        }
        rests
    }

    fn write(&mut self, scene: &Scene, largest: u64, lives: Option<Duration>) -> Envelope {
        let length = match self.dice.percent(5) {
            true => self.dice.between(1_400..5_000),
            false => self.dice.between(0..largest),
        };
        let mut content = scene.book.next_name(self.stream).into_bytes();
        content.extend(self.dice.octets(length as usize));
        let (from, to) = (self.me.agent.uri(), self.me.agent.uri_of(self.peer.name));
        let envelope = Envelope::new(&from, &to, "application/octet-stream", &content);
        let envelope = match lives.is_some() || self.dice.percent(40) {
            true => envelope.asking("positive-delivery, negative-delivery"),
            false => envelope,
        };
        scene.book.begin(self.stream, &envelope, lives);
        envelope
    }

    fn page(
        &mut self,
        scene: &Scene,
        envelope: &Envelope,
        lives: Option<Duration>,
    ) -> Result<(), Failure> {
        let (me, peer) = (Arc::clone(&self.me), Arc::clone(&self.peer));
        let end = clock::now().instant + LONGEST;
        while clock::now().instant < end {
            let mut sent = me.agent.sends(pager_draft(&me, &peer, envelope, lives))?;
            self.repeat_by_mistake(&sent)?;
            let status = sent.final_answer(LONGEST)?.status();
            self.repeat_by_mistake(&sent)?;
            match status {
                200..300 => {
                    scene.book.acknowledged(envelope, clock::now().instant);
                    return Ok(());
                }
                // Not now: the same message again, in a request of its own. A disk that failed may have kept
                // it all the same.
                503 => {
                    scene.book.put_off(envelope, clock::now().instant);
                    scene.pause(Duration::from_millis(100));
                }
                _ => {
                    scene.book.refused(envelope, clock::now().instant);
                    return Ok(());
                }
            }
        }
        Err(me.agent.failure("a MESSAGE was not taken in time"))
    }

    /// A network that repeats datagrams.
    fn repeat_by_mistake(&mut self, sent: &SentRequest<'_>) -> Result<(), Failure> {
        match self.dice.percent(5) {
            true => sent.repeats(),
            false => Ok(()),
        }
    }

    fn chat(&mut self, scene: &Scene, conversation: &str) -> Result<(), Failure> {
        let me = Arc::clone(&self.me);
        let call = me
            .agent
            .invites_with(self.peer.name, Setup::ActPass, conversation)?;
        let chat = call.expect_accepted()?;
        let mut left = self.dice.between(1..30);
        while left > 0 || !self.unanswered.is_empty() {
            let wanted = self.dice.between(1..6).min(left) as usize;
            while self.unanswered.len() < wanted && !scene.is(&scene.silence) {
                let largest = self.dice.weighted(&[(8, 1_000), (1, 20_000), (1, 150_000)]);
                let envelope = self.write(scene, largest, None);
                self.unanswered.push_back(envelope);
            }
            left = left.saturating_sub(wanted as u64);
            self.say_unanswered(scene, &chat)?;
            if scene.is(&scene.silence) {
                break;
            }
            scene.pause(self.dice.millis(0..20));
        }
        chat.hangs_up()
    }

    /// All of them one behind the other, then the answers. What is not answered is said again in the next
    /// session, behind what was.
    fn say_unanswered(&mut self, scene: &Scene, chat: &Chat<'_>) -> Result<(), Failure> {
        let mut sent = Vec::new();
        for envelope in &self.unanswered {
            let octets = envelope.to_octets();
            let message = chat.msrp.sending("message/cpim", &octets);
            sent.push(message.in_chunks(CHUNK).send()?);
        }
        let mut broken = None;
        for (message, envelope) in sent.iter().zip(std::mem::take(&mut self.unanswered)) {
            match message.expect_status(200) {
                Ok(()) => {
                    scene.book.acknowledged(&envelope, clock::now().instant);
                    self.unanswered
                        .iter()
                        .for_each(|older| scene.book.out_of_line(older));
                }
                Err(failure) => {
                    broken = Some(failure);
                    scene.book.said_again(&envelope);
                    self.unanswered.push_back(envelope);
                }
            }
        }
        // A short one can be kept before the long one in front of it.
        let is_long = |envelope: &Envelope| envelope.content.len() > CHUNK / 2;
        if self.unanswered.iter().any(is_long) {
            self.unanswered
                .iter()
                .for_each(|each| scene.book.out_of_line(each));
        }
        broken.map_or(Ok(()), Err)
    }

    fn send_large(&mut self, scene: &Scene) -> Result<(), Failure> {
        if self.unanswered.is_empty() {
            let envelope = self.write(scene, 400_000, None);
            self.unanswered.push_back(envelope);
        }
        let me = Arc::clone(&self.me);
        let session = me.agent.sends_large(self.peer.name)?.expect_accepted()?;
        self.say_unanswered(scene, &session)?;
        session.hangs_up()
    }
}

fn pager_draft(me: &Person, peer: &Person, envelope: &Envelope, lives: Option<Duration>) -> Draft {
    let draft = Draft::new("MESSAGE", &me.agent.uri_of(peer.name))
        .header("Accept-Contact", &format!("*;{PAGER_TAG}"))
        .header("Conversation-ID", &me.agent.conversation_with(peer.name))
        .header("Contribution-ID", &fresh("contr-"));
    let draft = match lives {
        Some(lives) => draft.header("Expires", &lives.as_secs().to_string()),
        None => draft,
    };
    draft.body("message/cpim", &envelope.to_octets())
}
