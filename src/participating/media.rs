//! The MSRP sessions of a shard: which connection carries which, who opens it, and whose frame it is.
//!
//! Pure: frames come in piece by piece, octets to be written go out in [`MediaAction`]. A session is
//! opened before its description is sent, so that a peer can never be faster than we are.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::{FixedState, RandomState};
use smallvec::SmallVec;

use crate::clock::{Instant, Now};
use crate::limits::memory::Room;
use crate::msrp::connection_queue::{ConnectionQueue, QueueLimits};
use crate::msrp::event::SessionEvent;
use crate::msrp::fingerprint::Fingerprint;
use crate::msrp::frame::FrameEvent;
use crate::msrp::incoming::IncomingLimits;
use crate::msrp::negotiation::{self, Agreement, Local, Role, SdpRefusal};
use crate::msrp::outgoing::OutgoingLimits;
use crate::msrp::sdp::{Direction, SessionDescription};
use crate::msrp::session::{Session, SessionConfig};
use crate::msrp::uri::{MsrpUri, new_session_id};
use crate::net::pieces::Pieces;
use crate::participating::chat::{ChatId, Side};
use crate::participating::delivery::DeliveryId;
use crate::sip::transport::flow::ConnectionId;
use crate::token::Tokens;

/// Names a session of this shard; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaId(u64);

/// Names an attempt to connect or to look up a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// Whom a session serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaUse {
    /// One side of a chat.
    Chat(ChatId, Side),
    /// A replay.
    Replay(DeliveryId),
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaAction {
    /// Write octets.
    Send(ConnectionId, Pieces),
    /// Open a connection; over TLS to this peer, if one is given.
    Connect(AttemptId, SocketAddr, Option<SecurePeer>),
    /// Look up a name.
    Resolve(AttemptId, String, u16),
    /// Close a connection once its octets are written.
    Close(ConnectionId),
    /// End a connection at once, whoever else uses it.
    End(ConnectionId),
    /// A connection asked for a session that does not exist.
    Stray(ConnectionId),
}

/// How the peer of a TLS connection is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurePeer {
    /// The host in its path: its certificate has to name it, unless there is a fingerprint.
    pub name: String,
    /// What its certificate hashes to.
    pub fingerprint: Option<Fingerprint>,
}

/// One of our MSRP listeners as peers see it.
#[derive(Clone, Debug)]
pub struct MediaListener {
    /// Where it is bound; its family decides whom it can serve.
    pub bound: SocketAddr,
    /// The host in our paths.
    pub host: String,
    /// The port in our paths.
    pub port: u16,
    /// Whether it speaks TLS.
    pub secure: bool,
}

/// Bounds and times.
#[derive(Clone, Debug)]
pub struct MediaSettings {
    /// `a=fingerprint` of our certificate.
    pub fingerprint: Option<Arc<str>>,
    /// Whether we offer sessions over TLS.
    pub offers_tls: bool,
    /// Whether we do CEMA (RFC 6714).
    pub cema: bool,
    /// Octets of a chunk we send.
    pub chunk: usize,
    /// Largest message taken, in octets.
    pub message: u64,
    /// Sessions at once.
    pub sessions: usize,
    /// How long a session may wait for its connection.
    pub bind_within: Duration,
}

/// The types we take (RFC 4975 §8.6): an envelope with anything inside, and typing.
const ACCEPT_TYPES: [&str; 2] = ["message/cpim", "application/im-iscomposing+xml"];
const ACCEPT_WRAPPED: [&str; 1] = ["*"];
/// Chunks that may be unanswered.
const WINDOW: usize = 16;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) usage: MediaUse,
    pub(super) uri: MsrpUri,
    pub(super) description: Description,
    pub(super) session: Option<Session<ConnectionId>>,
    /// Until then the peer must have spoken.
    pub(super) bind_by: Option<Instant>,
    /// Pieces of frames from a peer that was faster than its answer to our offer.
    pub(super) early: Vec<(ConnectionId, FrameEvent)>,
    /// Who the peer is, for a session over TLS that is agreed on.
    pub(super) peer: Option<SecurePeer>,
    /// It may have frames to write or events to tell, and stands among those that are looked at.
    pub(super) is_stirred: bool,
}

#[derive(Debug)]
pub(super) struct Description {
    /// Which way both sides let payload go, from our side.
    pub(super) agreed: Direction,
    /// Without what some clients do not take.
    plain: bool,
    /// The types that the peer takes, once it has said so.
    peer_takes: Vec<String>,
    accept: Vec<String>,
    wrapped: Vec<String>,
    /// Octets of the largest message taken in this session, if it takes less than others.
    most: Option<u64>,
    direction: Direction,
    number: u64,
    version: u64,
    /// As it was written last: with the same text goes the same version (RFC 4975 §8.4).
    text: String,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) queue: ConnectionQueue<MediaId>,
    pub(super) sessions: BTreeSet<MediaId>,
    /// Whose frame is arriving.
    pub(super) current: Option<MediaId>,
    /// A hash of the last session asked for that does not exist.
    pub(super) last_stray: Option<u32>,
    /// How many of those there were.
    pub(super) strays: u32,
    /// Octets that came for nobody since something came for a session.
    pub(super) unclaimed: u64,
    /// Its peer went on sending what was refused; it is being ended.
    pub(super) abused: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Media {
    pub(super) shard: u16,
    pub(super) settings: MediaSettings,
    pub(super) listeners: Vec<MediaListener>,
    pub(super) last: u64,
    /// Numbers of ours, which nobody chooses so that they meet.
    pub(super) entries: HashMap<MediaId, Entry, FixedState>,
    pub(super) by_session: HashMap<String, MediaId, RandomState>,
    pub(super) connections: HashMap<ConnectionId, Connection, FixedState>,
    /// Connections over TLS, and the certificates that their peers showed.
    pub(super) certificates: BTreeMap<ConnectionId, Option<Bytes>>,
    pub(super) attempts: BTreeMap<AttemptId, MediaId>,
    pub(super) events: VecDeque<(MediaId, MediaUse, SessionEvent)>,
    pub(super) actions: VecDeque<MediaAction>,
    /// Sessions that may have frames to write or events to tell, each once.
    pub(super) stirred: VecDeque<MediaId>,
    /// Bounds of each connection.
    pub(super) limits: QueueLimits,
    /// Peers that went on sending what was refused, since somebody asked.
    pub(super) abused: u64,
}

impl Media {
    /// No sessions yet.
    pub fn new(shard: u16, settings: MediaSettings, listeners: Vec<MediaListener>) -> Self {
        Self {
            shard,
            settings,
            listeners,
            last: 0,
            entries: HashMap::default(),
            by_session: HashMap::default(),
            connections: HashMap::default(),
            certificates: BTreeMap::new(),
            attempts: BTreeMap::new(),
            events: VecDeque::new(),
            actions: VecDeque::new(),
            stirred: VecDeque::new(),
            limits: QueueLimits::default(),
            abused: 0,
        }
    }

    /// Connections closed because their peer went on sending what was refused, since the last call.
    pub fn take_abused(&mut self) -> u64 {
        std::mem::take(&mut self.abused)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There is so much room in memory.
    pub fn set_room(&mut self, room: Room) {
        let limits = QueueLimits::with(room);
        if self.limits == limits {
            return;
        }
        self.limits = limits;
        for connection in self.connections.values_mut() {
            connection.queue.set_limits(limits);
        }
    }

    /// Octets that wait for all connections, and for sessions that are not agreed on.
    pub fn waiting(&self) -> usize {
        let connections = self.connections.values();
        let leaving = connections.map(|connection| connection.queue.waiting());
        let early = self.entries.values().map(Entry::early_octets);
        leaving.sum::<usize>() + early.sum::<usize>()
    }

    /// How many connections carry them.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another session can begin.
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.settings.sessions
    }

    /// Prepares a session that we offer to a peer at `remote` that knows our SIP listener as `known_as`
    /// (`host:port`), as the configuration says; `None` when there is no room for one.
    pub fn open(
        &mut self,
        usage: MediaUse,
        remote: IpAddr,
        known_as: &str,
        direction: Direction,
        tokens: &mut Tokens,
    ) -> Option<MediaId> {
        self.open_over(
            self.offers_tls(),
            usage,
            remote,
            known_as,
            direction,
            tokens,
        )
    }

    /// Whether we offer TLS.
    pub fn offers_tls(&self) -> bool {
        self.settings.offers_tls && self.listeners.iter().any(|listener| listener.secure)
    }

    /// Whether an offer is answered over TLS: by the first of its sections that a listener of ours
    /// speaks.
    pub fn answers_tls(&self, offer: &SessionDescription) -> Result<bool, SdpRefusal> {
        let spoken = |secure| self.listeners.iter().any(|it| it.secure == secure);
        let sections: Vec<bool> = offer.usable().map(|(_, media)| media.secure).collect();
        let found = sections.iter().find(|secure| spoken(**secure)).copied();
        found.ok_or(if sections.is_empty() {
            SdpRefusal::NO_MSRP
        } else {
            SdpRefusal::NO_TLS
        })
    }

    /// Prepares a session whose offer asks for the least: without CEMA, and without TLS if a listener of
    /// ours speaks none.
    pub fn open_plain(
        &mut self,
        usage: MediaUse,
        remote: IpAddr,
        known_as: &str,
        direction: Direction,
        tokens: &mut Tokens,
    ) -> Option<MediaId> {
        let secure = !self.listeners.iter().any(|listener| !listener.secure);
        let id = self.open_over(secure, usage, remote, known_as, direction, tokens)?;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.description.plain = true;
        }
        Some(id)
    }

    /// Prepares a session with or without TLS.
    pub fn open_over(
        &mut self,
        secure: bool,
        usage: MediaUse,
        remote: IpAddr,
        known_as: &str,
        direction: Direction,
        tokens: &mut Tokens,
    ) -> Option<MediaId> {
        if !self.has_room() {
            return None;
        }
        let listener = self.listener_for(secure, remote, known_as)?;
        let session_id = new_session_id(self.shard, tokens);
        let of_session = if secure {
            MsrpUri::of_secure_session
        } else {
            MsrpUri::of_session
        };
        let uri = of_session(&listener.host, listener.port, &session_id).ok()?;
        self.last += 1;
        let id = MediaId(self.last);
        let number = tokens.number() >> 2;
        let owned = |types: &[&str]| types.iter().map(|each| (*each).to_owned()).collect();
        let entry = Entry {
            usage,
            uri,
            description: Description {
                accept: owned(&ACCEPT_TYPES),
                wrapped: owned(&ACCEPT_WRAPPED),
                most: None,
                direction,
                number,
                version: number,
                text: String::new(),
                agreed: direction,
                peer_takes: Vec::new(),
                plain: false,
            },
            session: None,
            bind_by: None,
            early: Vec::new(),
            peer: None,
            is_stirred: false,
        };
        self.entries.insert(id, entry);
        self.by_session.insert(session_id, id);
        Some(id)
    }

    /// The listener that the peer can reach: of its family, and best of the host by which it reaches our
    /// SIP, since a server on several networks has another one on each.
    fn listener_for(&self, secure: bool, remote: IpAddr, known_as: &str) -> Option<&MediaListener> {
        let host = known_as.rsplit_once(':').map_or(known_as, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let same_family = |listener: &&MediaListener| listener.bound.is_ipv4() == remote.is_ipv4();
        let spoken = || self.listeners.iter().filter(|it| it.secure == secure);
        let fitting = || spoken().filter(same_family);
        fitting()
            .find(|listener| listener.host.eq_ignore_ascii_case(host))
            .or_else(|| fitting().next())
            .or_else(|| spoken().next())
    }

    /// Offers just these types.
    pub fn offer_types(&mut self, id: MediaId, accept: Vec<String>, wrapped: Vec<String>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.description.accept = accept;
            entry.description.wrapped = wrapped;
        }
    }

    /// Takes the types that the other end of the bridge said it takes: what it gets is what comes here.
    pub fn take_what(&mut self, device: MediaId, id: MediaId) {
        let device = self.entries.get(&device);
        let types = device.map(|device| device.description.peer_takes.clone());
        if let (Some(types), Some(entry)) = (types, self.entries.get_mut(&id)) {
            entry.description.accept = types;
        }
    }

    /// Takes no larger messages in this session, and inside envelopes only these types, if any are named.
    pub fn take_only(&mut self, id: MediaId, most: Option<u64>, wrapped: Vec<String>) {
        let largest = self.settings.message;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.description.most = most.map(|most| most.min(largest));
            if !wrapped.is_empty() {
                entry.description.wrapped = wrapped;
            }
        }
    }

    /// Our offer.
    pub fn offer(&mut self, id: MediaId) -> String {
        let most = &self.settings;
        let Some(entry) = self.entries.get_mut(&id) else {
            return String::new();
        };
        entry.write(most, negotiation::offer)
    }

    /// Our answer to an offer; the session stands from then on.
    pub fn answer(
        &mut self,
        id: MediaId,
        offer: &SessionDescription,
        now: Now,
    ) -> Result<String, SdpRefusal> {
        let most = &self.settings;
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(String::new());
        };
        let (text, agreement) = entry.write_answer(most, offer)?;
        self.begin(id, agreement, now);
        Ok(text)
    }

    /// The answer to our offer came.
    pub fn accept(
        &mut self,
        id: MediaId,
        answer: &SessionDescription,
        now: Now,
    ) -> Result<Direction, SdpRefusal> {
        let Some(entry) = self.entries.get(&id) else {
            return Ok(Direction::Inactive);
        };
        let most = &self.settings;
        let agreement = entry.describe(most, |local| negotiation::accept_answer(local, answer))?;
        let direction = agreement.direction;
        self.begin(id, agreement, now);
        Ok(direction)
    }

    fn begin(&mut self, id: MediaId, agreement: Agreement, now: Now) {
        let settings = self.settings.clone();
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.session.is_some() {
            return;
        }
        let (host, port) = agreement.meets_at.clone();
        entry.peer = secure_peer(&entry.uri, &agreement);
        entry.description.agreed = agreement.direction;
        entry.description.peer_takes = agreement.peer_types;
        entry.bind_by = Some(now.instant + settings.bind_within);
        entry.session = Some(Session::new(SessionConfig {
            local: entry.uri.clone(),
            remote: agreement.peer,
            accept_types: agreement.accept_types,
            incoming: IncomingLimits {
                message: entry.description.most.unwrap_or(settings.message),
                ..IncomingLimits::default()
            },
            outgoing: OutgoingLimits {
                chunk: settings.chunk,
                window: WINDOW,
            },
        }));
        let early = std::mem::take(&mut entry.early);
        for (connection, event) in early {
            self.take_frame(id, connection, event);
        }
        if agreement.role == Role::Active {
            self.connect(id, &host, port);
        }
    }

    /// Whether the peer takes user payload at the moment (RFC 4975 §8.9).
    pub fn may_send(&self, id: MediaId) -> bool {
        let entry = self.entries.get(&id);
        entry.is_none_or(|entry| entry.description.agreed.sends())
    }

    /// The machine of a session; whoever asks may make it say something.
    pub fn session(&mut self, id: MediaId) -> Option<&mut Session<ConnectionId>> {
        let entry = self.entries.get_mut(&id)?;
        if !std::mem::replace(&mut entry.is_stirred, true) {
            self.stirred.push_back(id);
        }
        entry.session.as_mut()
    }

    /// The session is not needed any more; what was handed to it for writing is still written.
    pub fn close(&mut self, id: MediaId) {
        self.drain_session(id);
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        if let Some(session_id) = entry.uri.session_id() {
            self.by_session.remove(session_id);
        }
        self.attempts.retain(|_, waiting| *waiting != id);
        let used: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, state)| state.sessions.contains(&id))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in used {
            self.leave(connection, id);
        }
    }

    /// What happened in some session.
    pub fn poll_event(&mut self) -> Option<(MediaId, MediaUse, SessionEvent)> {
        if self.events.is_empty() {
            self.settle_stirred();
        }
        self.events.pop_front()
    }

    /// What the shell is to do.
    pub fn poll_action(&mut self) -> Option<MediaAction> {
        if self.actions.is_empty() {
            self.settle_stirred();
        }
        self.actions.pop_front()
    }

    /// Takes events and frames from every session that may have some.
    fn settle_stirred(&mut self) {
        while let Some(id) = self.stirred.pop_front() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.is_stirred = false;
            }
            self.drain_session(id);
        }
    }

    pub(super) fn drain_session(&mut self, id: MediaId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Some(session) = entry.session.as_mut() else {
            return;
        };
        while let Some(event) = session.poll_event() {
            if matches!(event, SessionEvent::Bound) {
                entry.bind_by = None;
            }
            self.events.push_back((id, entry.usage, event));
        }
        let mut touched: SmallVec<[ConnectionId; 2]> = SmallVec::new();
        let mut overfull = None;
        while let Some(frame) = session.poll_transmit() {
            let state = self
                .connections
                .entry(frame.connection)
                .or_insert_with(|| Connection {
                    queue: ConnectionQueue::new(self.limits),
                    sessions: BTreeSet::new(),
                    current: None,
                    last_stray: None,
                    strays: 0,
                    unclaimed: 0,
                    abused: false,
                });
            if !touched.contains(&frame.connection) {
                touched.push(frame.connection);
            }
            if state.queue.push(id, frame.octets).is_err() {
                overfull = Some(frame.connection);
                break;
            }
        }
        for connection in touched {
            self.flush(connection);
        }
        if let Some(connection) = overfull {
            tracing::warn!("an MSRP peer asks faster than it reads; its connection is closed");
            self.actions.push_back(MediaAction::Close(connection));
            self.handle_lost(connection);
        }
    }

    /// Whether a session is worth supplying with more octets.
    pub fn has_room_for(&self, id: MediaId) -> bool {
        let connection = self
            .entries
            .get(&id)
            .and_then(|entry| entry.session.as_ref()?.connection());
        let state = connection.and_then(|connection| self.connections.get(&connection));
        state.is_none_or(|state| state.queue.has_room(id))
    }

    /// Lets sessions time out; called a few times a second while there are any.
    pub fn handle_timeout(&mut self, now: Now) {
        let mut all: Vec<MediaId> = self.entries.keys().copied().collect();
        all.sort_unstable();
        for id in all {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let unbound = entry.bind_by.is_some_and(|at| at <= now.instant);
            let due = entry.session.as_ref().and_then(Session::next_deadline);
            if unbound {
                entry.bind_by = None;
                self.lose(id);
            } else if due.is_some_and(|at| at <= now.instant)
                && let Some(session) = self.session(id)
            {
                session.handle_timeout(now.instant);
            }
        }
    }
}

/// Who the peer of a session over TLS has to be.
pub(super) fn secure_peer(own: &MsrpUri, agreement: &Agreement) -> Option<SecurePeer> {
    own.is_secure().then(|| SecurePeer {
        name: agreement.peer.first().host().to_owned(),
        fingerprint: agreement.fingerprint.clone(),
    })
}

impl Entry {
    pub(super) fn early_octets(&self) -> usize {
        self.early.iter().map(|(_, event)| event.octets()).sum()
    }

    /// Whether room on its connection may be of use.
    pub(super) fn can_go_on(&self) -> bool {
        match self.usage {
            MediaUse::Chat(..) => {
                let session = self.session.as_ref();
                session.is_some_and(|session| session.wants().is_some())
            }
            MediaUse::Replay(_) => true,
        }
    }

    pub(super) fn describe<T>(
        &self,
        most: &MediaSettings,
        write: impl FnOnce(&Local<'_>) -> T,
    ) -> T {
        let accept: Vec<&str> = self.description.accept.iter().map(String::as_str).collect();
        let wrapped: Vec<&str> = self
            .description
            .wrapped
            .iter()
            .map(String::as_str)
            .collect();
        write(&Local {
            uri: &self.uri,
            accept_types: &accept,
            accept_wrapped_types: &wrapped,
            direction: self.description.direction,
            max_size: Some(self.description.most.unwrap_or(most.message)),
            fingerprint: most.fingerprint.as_deref(),
            cema: most.cema && !self.description.plain,
            session: self.description.number,
            version: self.description.version,
        })
    }

    /// A description that differs from the one before gets the next version (RFC 3264 §8).
    pub(super) fn write(
        &mut self,
        most: &MediaSettings,
        write: impl Fn(&Local<'_>) -> String,
    ) -> String {
        let mut text = self.describe(most, &write);
        if !self.description.text.is_empty() && self.description.text != text {
            self.description.version += 1;
            text = self.describe(most, &write);
        }
        self.description.text.clone_from(&text);
        text
    }

    pub(super) fn write_answer(
        &mut self,
        most: &MediaSettings,
        offer: &SessionDescription,
    ) -> Result<(String, Agreement), SdpRefusal> {
        let (_, agreement) = self.describe(most, |local| negotiation::answer(offer, local))?;
        let text = self.write(most, |local| {
            negotiation::answer(offer, local).map_or_else(|_| String::new(), |(text, _)| text)
        });
        Ok((text, agreement))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_offered_the_listener_on_the_network_where_it_reaches_our_sip() {
        let listener = |bound: &str, host: &str, port| MediaListener {
            bound: bound.parse().expect("an address"),
            host: host.to_owned(),
            port,
            secure: false,
        };
        let settings = MediaSettings {
            fingerprint: None,
            offers_tls: false,
            cema: false,
            chunk: 1,
            message: 1,
            sessions: 1,
            bind_within: Duration::from_secs(1),
        };
        let media = Media::new(
            0,
            settings,
            vec![
                listener("0.0.0.0:2855", "inside.test", 2855),
                listener("0.0.0.0:2856", "outside.test", 12856),
                listener("[::]:2855", "2001:db8::1", 2855),
            ],
        );
        let four: IpAddr = "192.0.2.7".parse().expect("an address");
        let six: IpAddr = "2001:db8::7".parse().expect("an address");
        for (remote, known_as, port, host) in [
            (four, "Outside.test:15060", 12856, "outside.test"),
            (four, "inside.test:5060", 2855, "inside.test"),
            (four, "elsewhere.test:5060", 2855, "inside.test"),
            (six, "[2001:db8::1]:5060", 2855, "2001:db8::1"),
            (six, "inside.test:5060", 2855, "2001:db8::1"),
        ] {
            let found = media.listener_for(false, remote, known_as);
            let found = found.map(|found| (found.host.as_str(), found.port));
            assert_eq!(found, Some((host, port)), "{remote} {known_as}");
        }
    }
}
