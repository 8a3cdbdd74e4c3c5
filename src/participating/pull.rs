//! A user fetches what waits for him: `INVITE sip:deferred@DOMAIN` with `a=recvonly` (cpm-facts §7.1, flow
//! F2). The whole queue, one conversation, or chosen messages come in that one session, oldest first.
//!
//! The user's machine lends the messages to the fetch as it does to a replay, so that the two never
//! deliver one message twice; what the device does not confirm stays. Works for users whose messages
//! are pushed as well.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Now;
use crate::config::CopyTo;
use crate::identity::Identity;
use crate::msrp::sdp::{Direction, SessionDescription};
use crate::participating::callee;
use crate::participating::contacts::Target;
use crate::participating::delivery::{Delivery, DeliveryBy, DeliveryId};
use crate::participating::dialogs::DialogUse;
use crate::participating::large::SessionService;
use crate::participating::leg::{Leg, Unacknowledged};
use crate::participating::media::MediaUse;
use crate::participating::outgoing;
use crate::participating::served_user::{RunEnd, RunId};
use crate::participating::service::{Service, Usage};
use crate::participating::session_run::{Phase, SessionRun};
use crate::participating::system_message::SystemEvent;
use crate::registrar::device_number;
use crate::sip::dialog::Dialog;
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::reply;
use crate::sip::session_timer::SessionTimer;
use crate::sip::transaction::ServerId;
use crate::sip::transaction::table::Kind;
use crate::sip::transport::flow::Flow;
use crate::sip::warning;
use crate::store::request::{ConversationKey, Held, Seq};
use crate::uri::{Uri, unescape};

/// The user part of the address; no account may have it.
pub const DEFERRED: &str = "deferred";
/// Message-IDs in one INVITE.
const MOST_CHOSEN: usize = 256;
/// RFC 3261 §21.4.5: nothing of what is asked for waits.
const NOTHING_WAITS: Rejection = Rejection::new(404, "Not Found");

/// Which messages are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All that waits.
    Everything,
    /// One conversation, by its `Conversation-ID`.
    Conversation(Box<str>),
    /// Chosen ones, by their `imdn.Message-ID`.
    Messages(Vec<Box<str>>),
}

impl Wanted {
    /// What an INVITE asks for: its `Message-ID` header fields, else its `Conversation-ID`.
    pub fn of(invite: &Message) -> Result<Self, Rejection> {
        let named = |name: &str| name.eq_ignore_ascii_case("Message-ID");
        let fields = invite.all_headers().filter(|(_, name, _)| named(name));
        let values = fields.map(|(_, _, value)| String::from_utf8_lossy(value).into_owned());
        let mut chosen: Vec<Box<str>> = Vec::new();
        for value in values {
            let ids = value.split(',').map(str::trim).filter(|id| !id.is_empty());
            chosen.extend(ids.map(Box::from));
        }
        if chosen.len() > MOST_CHOSEN {
            return Err(Rejection::new(400, "Too Many Message-IDs"));
        }
        if !chosen.is_empty() {
            return Ok(Self::Messages(chosen));
        }
        let conversation = invite.header(HeaderName::ConversationId);
        Ok(conversation.map_or(Self::Everything, |id| Self::Conversation(id.trim().into())))
    }

    /// Whether this message is among them.
    pub fn fits(&self, held: &Held) -> bool {
        match self {
            Self::Everything => true,
            Self::Conversation(id) => held.conversation.conversation == *id,
            Self::Messages(ids) => ids.contains(&held.message_id),
        }
    }
}

/// A fetch that waits until the user's queue has been read.
#[derive(Debug)]
pub struct Fetch {
    /// The INVITE.
    pub invite: Message,
    /// Its transaction.
    pub server: ServerId,
    /// Where it came from.
    pub flow: Flow,
    /// Its description.
    pub offer: SessionDescription,
    /// What it asks for.
    pub wanted: Wanted,
}

/// What the machine has lent to a fetch.
#[derive(Debug)]
pub(super) struct Pulled {
    runs: Vec<RunId>,
    queue: VecDeque<Held>,
    /// Of each message that was lent, its conversation and its `imdn.Message-ID`.
    keys: BTreeMap<Seq, (ConversationKey, Box<str>)>,
}

impl Pulled {
    fn new(runs: Vec<RunId>, queue: VecDeque<Held>) -> Self {
        let key = |held: &Held| (held.conversation.clone(), held.message_id.clone());
        let keys = queue.iter().map(|held| (held.seq, key(held)));
        Self {
            keys: keys.collect(),
            runs,
            queue,
        }
    }

    /// The next message, oldest first.
    pub(super) fn next(&mut self) -> Option<Held> {
        self.queue.pop_front()
    }

    /// The conversation of a message.
    pub(super) fn key_of(&self, seq: Seq) -> Option<&ConversationKey> {
        self.keys.get(&seq).map(|(key, _)| key)
    }

    /// The conversation of the message with this `imdn.Message-ID`. Of several authors who gave the
    /// same one, the one `named` counts.
    pub(super) fn key_of_message(
        &self,
        message_id: &str,
        named: Option<&Identity>,
    ) -> Option<&ConversationKey> {
        let all = self.keys.values();
        let mut fitting = all
            .filter(|(_, id)| **id == *message_id)
            .map(|(key, _)| key);
        let first = fitting.clone().next();
        fitting.find(|key| Some(&key.author) == named).or(first)
    }

    /// The runs of the machine that it holds.
    pub(super) fn into_runs(self) -> Vec<RunId> {
        self.runs
    }
}

impl Service {
    /// A user of this shard fetches.
    pub fn handle_fetch(&mut self, fetch: Fetch, user: &Identity, now: Now) {
        let open: usize = self.fetches.values().map(Vec::len).sum();
        if open + self.deliveries.len() >= self.settings.most_under_way || self.draining {
            return self.overloaded(&fetch.invite, fetch.server, now);
        }
        if !self.may_receive(user) {
            let barred = Rejection::new(403, "Forbidden").with_warning(warning::NOT_ALLOWED);
            return self.reject(&fetch.invite, fetch.server, &barred, now);
        }
        let receives = fetch.offer.usable().next();
        if !receives.is_some_and(|(_, media)| media.direction.receives()) {
            let unable = Rejection::new(488, "Not Acceptable Here");
            return self.reject(&fetch.invite, fetch.server, &unable, now);
        }
        let trying = self.reply(&fetch.invite, 100, "Trying", None).build();
        self.sip.respond(fetch.server, 100, trying, now);
        self.fetches.entry(user.clone()).or_default().push(fetch);
        self.user(user);
        self.serve_fetches(user, now);
        self.run_user(user, now);
    }

    /// Begins the fetches of a user whose queue is known.
    pub(super) fn serve_fetches(&mut self, user: &Identity, now: Now) {
        if !self.fetches.contains_key(user) {
            return;
        }
        let machine = self.users.get_mut(user);
        if !machine.is_some_and(|machine| machine.wants_to_know()) {
            return;
        }
        for fetch in self.fetches.remove(user).unwrap_or_default() {
            let machine = self.users.get(user);
            if machine.is_none_or(|machine| machine.may_pull(&fetch.wanted)) {
                self.begin_fetch(fetch, user, now);
            } else {
                self.fetches.entry(user.clone()).or_default().push(fetch);
            }
        }
        let waits = self.fetches.contains_key(user);
        if let Some(machine) = self.users.get_mut(user) {
            machine.let_fetches_pass(waits, now);
        }
    }

    /// A fetch that still waits is taken back (RFC 3261 §9.2); false if the INVITE is no such fetch.
    pub(super) fn cancel_fetch(&mut self, invite: ServerId, now: Now) -> bool {
        let named = |fetch: &Fetch| fetch.server == invite;
        let mut all = self.fetches.iter();
        let Some(user) = all.find(|(_, fetches)| fetches.iter().any(named)) else {
            return false;
        };
        let user = user.0.clone();
        let mut fetches = self.fetches.remove(&user).unwrap_or_default();
        if let Some(position) = fetches.iter().position(named) {
            let fetch = fetches.remove(position);
            let terminated = Rejection::new(487, "Request Terminated");
            self.reject(&fetch.invite, fetch.server, &terminated, now);
        }
        if !fetches.is_empty() {
            self.fetches.insert(user.clone(), fetches);
        } else if let Some(machine) = self.users.get_mut(&user) {
            machine.let_fetches_pass(false, now);
        }
        self.run_user_later(&user);
        true
    }

    /// The number of the device that fetches: by its instance or its GRUU, else of the binding with its
    /// Contact or over its flow. One that is not registered has the number it will register with.
    fn device_of_fetch(&self, fetch: &Fetch, user: &Identity) -> Option<u64> {
        let contact = fetch.invite.header(HeaderName::Contact)?;
        let contact = NameAddr::parse(contact).ok()?;
        if let Some(instance) = contact.param("+sip.instance").flatten() {
            return Some(device_number(Some(instance), contact.uri));
        }
        let gruu = Uri::parse(contact.uri).ok();
        let gruu = gruu.and_then(|uri| uri.parameter("gr").flatten().map(unescape));
        if let Some(gruu) = gruu {
            let binding = self.registrar.reachable_by_gruu(user, &gruu, self.time);
            if let Some(binding) = binding {
                return Some(binding.device());
            }
        }
        let reachable = self.registrar.reachable(user, self.time);
        let mut by_uri = reachable.iter().filter(|it| it.uri() == contact.uri);
        let mut by_flow = reachable
            .iter()
            .filter(|it| it.flow() == fetch.flow && it.path().is_empty());
        let known = by_uri.next().or(by_flow.next());
        Some(known.map_or_else(|| device_number(None, contact.uri), |it| it.device()))
    }

    fn begin_fetch(&mut self, fetch: Fetch, user: &Identity, now: Now) {
        let device = match self.settings_of(user).settings.copy_to {
            CopyTo::Every => self.device_of_fetch(&fetch, user),
            CopyTo::First => None,
        };
        let machine = self.users.get_mut(user);
        let lent = machine.and_then(|machine| machine.begin_pull(&fetch.wanted, device));
        let Some((runs, queue)) = lent else {
            return self.reject(&fetch.invite, fetch.server, &NOTHING_WAITS, now);
        };
        let Some(key) = queue.front().map(|held| held.conversation.clone()) else {
            return;
        };
        let id = DeliveryId(self.next_number());
        let run = runs.first().copied().unwrap_or(RunId(0));
        let delivery = Delivery {
            user: user.clone(),
            run,
            key,
            targets: Vec::new(),
            target: 0,
            copies_for: device,
            pulled: Some(Pulled::new(runs, queue)),
            carrier: DeliveryBy::Session(Box::default()),
        };
        tracing::debug!(%user, wanted = ?fetch.wanted, "a fetch begins");
        self.deliveries.insert(id, delivery);
        if !self.answer_fetch(id, &fetch, now) {
            self.end_delivery(id, RunEnd::Done, now);
        }
    }

    /// 200 with `a=sendonly`; false if the INVITE was refused.
    fn answer_fetch(&mut self, id: DeliveryId, fetch: &Fetch, now: Now) -> bool {
        let Fetch {
            invite,
            server,
            flow,
            offer,
            ..
        } = fetch;
        let mut timer = SessionTimer::new(self.settings.timer);
        let fields = match timer.answer(invite, now.instant) {
            Ok(fields) => fields,
            Err(too_small) => {
                self.interval_too_small(invite, *server, too_small, now);
                return false;
            }
        };
        let secure = match self.media.answers_tls(offer) {
            Ok(secure) => secure,
            Err(refusal) => {
                self.reject_description(invite, *server, refusal, now);
                return false;
            }
        };
        let (media_use, remote) = (MediaUse::Replay(id), flow.remote.ip());
        let known_as = self.sip.advertised(flow);
        let (direction, tokens) = (Direction::SendOnly, &mut self.tokens);
        let opened = self
            .media
            .open_over(secure, media_use, remote, known_as, direction, tokens);
        let Some(media) = opened else {
            self.overloaded(invite, *server, now);
            return false;
        };
        self.media
            .offer_types(media, vec!["message/cpim".into()], vec!["*".into()]);
        let sdp = match self.media.answer(media, offer, now) {
            Ok(sdp) => sdp,
            Err(refusal) => {
                self.media.close(media);
                self.reject_description(invite, *server, refusal, now);
                return false;
            }
        };
        let tag = self.tokens.token();
        let Ok(dialog) = Dialog::as_uas(invite, 200, &tag) else {
            self.media.close(media);
            let missing = Rejection::new(400, "Missing Contact");
            self.reject(invite, *server, &missing, now);
            return false;
        };
        let advertised = self.sip.advertised(flow);
        let contact = callee::contact(&self.settings, advertised, flow, SessionService::Chat);
        let mut reply = reply::response(invite, 200, "OK", Some(&tag))
            .header("Contact", &contact)
            .header("Allow", outgoing::ALLOW)
            .header("Supported", "timer");
        for (name, value) in &fields {
            reply = reply.header(name, value);
        }
        let octets = reply.body("application/sdp", sdp.as_bytes()).build();
        let mut leg = Leg::new(dialog, *flow, media, timer);
        leg.learn_methods(invite);
        leg.unacknowledged = Some(Unacknowledged {
            server: *server,
            cseq: invite.cseq().map(|cseq| cseq.number).unwrap_or_default(),
            offered: false,
        });
        self.hold_fetch(id, leg);
        self.sip.respond(*server, 200, octets, now);
        true
    }

    fn hold_fetch(&mut self, id: DeliveryId, leg: Leg) {
        self.dialogs.insert(leg.key.clone(), DialogUse::Replay(id));
        if let Some(run) = self.session_run(id) {
            *run = SessionRun {
                phase: Phase::Answering,
                flow: Some(leg.flow),
                media: Some(leg.media),
                leg: Some(leg),
                ..SessionRun::default()
            };
        }
    }

    /// The ACK of the 200 to a fetch: now the messages go out.
    pub(super) fn fetch_acknowledged(&mut self, id: DeliveryId, now: Now) {
        let waits = |run: &mut SessionRun| run.phase == Phase::Answering;
        if self.session_run(id).is_some_and(waits) {
            self.begin_sending(id, now);
        }
    }

    /// Tells a user who fetches, at his registration and when the first message comes, how many wait.
    /// The notice is about the moment: it is sent to the devices that are there, and not kept.
    pub(super) fn announce_waiting(&mut self, user: &Identity, now: Now) {
        let wants = self.settings_of(user).settings.announce_waiting;
        let machine = self.users.get_mut(user);
        let Some(count) = machine.and_then(|machine| machine.news_of_waiting()) else {
            return;
        };
        if !wants {
            return;
        }
        let text = match count {
            1 => "1 message waits".to_owned(),
            _ => format!("{count} messages wait"),
        };
        let message = self.system_message(user, SystemEvent::Waiting, now);
        let targets: Vec<Target> = self.message_targets(user, None);
        for target in targets {
            let via = self.sip.via(&target.flow, None, &mut self.tokens);
            let domain = &self.settings.domain;
            let body = text.clone().into_bytes().into();
            let octets = outgoing::message(
                &message,
                &body,
                &target,
                &via.value,
                domain,
                &mut self.tokens,
            );
            self.metrics.system_messages.count();
            // One that does not arrive is of no use later.
            let _ = self.sip.send(
                Kind::NonInvite,
                via,
                octets,
                target.flow,
                Usage::Nobody,
                now,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::store::request::MessageKind;

    fn invite(headers: &str) -> Message {
        let text =
            format!("INVITE sip:deferred@im.test SIP/2.0\r\n{headers}Content-Length: 0\r\n\r\n");
        crate::sip::wire::parse(text.into_bytes().into()).expect("legal")
    }

    fn held(conversation: &str, message_id: &str) -> Held {
        Held {
            seq: Seq(1),
            kind: MessageKind::Chat,
            conversation: ConversationKey {
                author: Identity::new("alice", "im.test"),
                conversation: conversation.into(),
            },
            message_id: message_id.into(),
            length: 1,
            expires_at: UnixMillis(u64::MAX),
            marks: Box::default(),
        }
    }

    #[test]
    fn an_invite_asks_for_everything_a_conversation_or_chosen_messages() {
        let everything = Wanted::of(&invite("")).expect("legal");
        assert!(everything.fits(&held("c1", "m1")));
        let conversation = Wanted::of(&invite("Conversation-ID: c1\r\n")).expect("legal");
        assert!(conversation.fits(&held("c1", "m1")));
        assert!(!conversation.fits(&held("c2", "m1")));
        let chosen = "Message-ID: m1, m2\r\nConversation-ID: c9\r\nmessage-id: m3\r\n";
        let chosen = Wanted::of(&invite(chosen)).expect("legal");
        for (id, fits) in [("m1", true), ("m2", true), ("m3", true), ("m4", false)] {
            assert_eq!(chosen.fits(&held("c1", id)), fits, "{id}");
        }
        let many = (0..=MOST_CHOSEN).map(|n| format!("Message-ID: m{n}\r\n"));
        assert!(Wanted::of(&invite(&many.collect::<String>())).is_err());
    }
}
