//! The connections of the MSRP sessions: who opens them, whose frames they carry, when they end.

use crate::clock::Now;
use crate::limits::source::is_one_host;
use crate::msrp::connection_queue::ConnectionQueue;
use crate::msrp::event::SessionEvent;
use crate::msrp::frame::FrameEvent;
use crate::msrp::session::Session;
use crate::msrp::uri::{first_in_path, session_id_in};
use crate::msrp::writer;
use crate::participating::media::{
    AttemptId, Connection, Media, MediaAction, MediaId, MediaUse, SecurePeer,
};
use crate::sip::transport::flow::ConnectionId;
use crate::token::Tokens;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Pieces of frames kept for a session whose answer is still on its way; the SEND that binds it is two.
const EARLY: usize = 16;
/// Octets of them: a peer binds with a SEND without a body, and may say something short at once.
const EARLY_OCTETS: usize = 32 * 1024;

/// Sessions that do not exist, asked for on one connection, after which it is closed.
const MOST_STRAYS: u32 = 8;
/// Octets for sessions that do not exist: as much as may be on its way to one that has just ended.
const MOST_UNCLAIMED: u64 = 4 * 1024 * 1024;

impl Media {
    /// RFC 6135 §4.2.2: the active side connects to the first URI of the peer's path.
    pub(super) fn connect(&mut self, id: MediaId, host: &str, port: u16) {
        self.last += 1;
        let attempt = AttemptId(self.last);
        self.attempts.insert(attempt, id);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(ip) => self.handle_resolved(attempt, &[SocketAddr::new(ip, port)]),
            Err(_) => {
                let resolve = MediaAction::Resolve(attempt, host.to_owned(), port);
                self.actions.push_back(resolve);
            }
        }
    }

    /// A name was looked up.
    pub fn handle_resolved(&mut self, attempt: AttemptId, addresses: &[SocketAddr]) {
        match addresses.iter().find(|address| is_one_host(**address)) {
            Some(address) => {
                let id = self.attempts.get(&attempt);
                let peer = id.and_then(|id| self.secure(*id));
                self.actions
                    .push_back(MediaAction::Connect(attempt, *address, peer));
            }
            None => self.handle_unreachable(attempt),
        }
    }

    fn secure(&self, id: MediaId) -> Option<SecurePeer> {
        self.entries.get(&id)?.peer.clone()
    }

    /// A connection speaks TLS, and its peer showed this certificate, in DER.
    pub fn handle_secured(&mut self, connection: ConnectionId, certificate: Option<Bytes>) {
        self.certificates.insert(connection, certificate);
    }

    /// RFC 4975 §14.4: a session over TLS takes no connection but one whose peer is the one described.
    fn is_trusted(&self, id: MediaId, connection: ConnectionId) -> bool {
        let Some(entry) = self.entries.get(&id) else {
            return true;
        };
        let own = entry.session.as_ref().and_then(Session::connection);
        if own == Some(connection) || !entry.uri.is_secure() {
            return true;
        }
        let Some(certificate) = self.certificates.get(&connection) else {
            return false;
        };
        let wanted = entry.peer.as_ref().and_then(|it| it.fingerprint.as_ref());
        wanted.is_none_or(|wanted| certificate.as_ref().is_some_and(|it| wanted.matches(it)))
    }

    /// A connection stands.
    pub fn handle_connected(
        &mut self,
        attempt: AttemptId,
        connection: ConnectionId,
        tokens: &mut Tokens,
    ) {
        let Some(id) = self.attempts.remove(&attempt) else {
            return self.close_unused(connection);
        };
        self.attach(id, connection);
        if let Some(session) = self.session(id) {
            session.handle_connected(connection, true, tokens);
        }
    }

    /// The session that asked for the connection has ended before it stood.
    fn close_unused(&mut self, connection: ConnectionId) {
        if !self.connections.contains_key(&connection) {
            self.actions.push_back(MediaAction::Close(connection));
        }
    }

    /// A connection could not be opened: the session is over.
    pub fn handle_unreachable(&mut self, attempt: AttemptId) {
        let Some(id) = self.attempts.remove(&attempt) else {
            return;
        };
        self.lose(id);
    }

    pub(super) fn lose(&mut self, id: MediaId) {
        if let Some(entry) = self.entries.get(&id) {
            let reason = crate::msrp::event::EndReason::ConnectionLost;
            self.events
                .push_back((id, entry.usage, SessionEvent::Ended { reason }));
        }
    }

    fn attach(&mut self, id: MediaId, connection: ConnectionId) {
        self.connection(connection).sessions.insert(id);
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.connections.entry(id).or_insert_with(|| Connection {
            queue: ConnectionQueue::new(self.limits),
            sessions: BTreeSet::new(),
            current: None,
            last_stray: None,
            strays: 0,
            unclaimed: 0,
            abused: false,
        })
    }

    /// A connection has ended, and so have its sessions.
    pub fn handle_lost(&mut self, connection: ConnectionId) {
        self.certificates.remove(&connection);
        let Some(lost) = self.connections.remove(&connection) else {
            return;
        };
        for id in lost.sessions {
            if let Some(session) = self.session(id) {
                session.handle_connection_lost(connection);
            }
        }
    }

    /// Octets have left for the kernel. Tells whose sessions on this connection can be given more.
    pub fn handle_written(
        &mut self,
        connection: ConnectionId,
        octets: usize,
        now: Now,
    ) -> Vec<(MediaId, MediaUse)> {
        let Some(state) = self.connections.get_mut(&connection) else {
            return Vec::new();
        };
        for id in state.queue.written(octets) {
            if let Some(session) = self.session(id) {
                session.handle_written(connection, 1, now.instant);
            }
        }
        self.flush(connection);
        let Some(state) = self.connections.get(&connection) else {
            return Vec::new();
        };
        let used = state.sessions.iter().filter_map(|id| {
            let entry = self.entries.get(id)?;
            entry.can_go_on().then_some((*id, entry.usage))
        });
        used.collect()
    }

    /// A piece of a frame.
    pub fn handle_frame(&mut self, connection: ConnectionId, event: FrameEvent) {
        if self
            .connections
            .get(&connection)
            .is_some_and(|it| it.abused)
        {
            // What it had sent before it hears of its end.
            return;
        }
        let id = match &event {
            FrameEvent::Request(head) => {
                let found = self.session_of(head.to_path());
                if found.is_none()
                    && let Some(refusal) = writer::refuse(head, 481)
                {
                    self.actions
                        .push_back(MediaAction::Send(connection, refusal.into()));
                    self.count_stray(connection, head.to_path());
                }
                found
            }
            FrameEvent::Response(head) => self.session_of(head.to_path()),
            FrameEvent::Data(_) | FrameEvent::End(_) => self.connection(connection).current,
        };
        let ends = matches!(event, FrameEvent::End(_));
        self.connection(connection).current = if ends { None } else { id };
        let Some(id) = id else {
            return self.drop_unclaimed(connection, &event);
        };
        match self.entries.get_mut(&id) {
            Some(entry) if entry.session.is_none() => {
                let octets = entry.early_octets() + event.octets();
                if entry.early.len() < EARLY && octets <= EARLY_OCTETS {
                    entry.early.push((connection, event.detached()));
                } else {
                    // Nor the rest of its frame: with a hole in it that could pass for a whole one.
                    self.connection(connection).current = None;
                }
            }
            _ => self.take_frame(id, connection, event),
        }
    }

    /// Octets for nobody: so many, and no more.
    fn drop_unclaimed(&mut self, connection: ConnectionId, event: &FrameEvent) {
        let FrameEvent::Data(octets) = event else {
            return;
        };
        let state = self.connection(connection);
        state.unclaimed += octets.len() as u64;
        if state.unclaimed > MOST_UNCLAIMED {
            self.close_abused(connection);
        }
    }

    pub(super) fn take_frame(&mut self, id: MediaId, connection: ConnectionId, event: FrameEvent) {
        if !self.is_trusted(id, connection) {
            tracing::warn!("an MSRP peer is not who the session is with; its connection is closed");
            self.actions.push_back(MediaAction::Close(connection));
            return;
        }
        if let Some(session) = self.session(id) {
            session.handle_frame(connection, event);
            if session.is_abused() {
                return self.close_abused(connection);
            }
            if session.connection() == Some(connection) {
                self.attach(id, connection);
                self.connection(connection).unclaimed = 0;
            }
        }
    }

    /// RFC 4975 §10.5: who hears 413 stops. Who does not is let go, whoever else's sessions he has there.
    fn close_abused(&mut self, connection: ConnectionId) {
        if std::mem::replace(&mut self.connection(connection).abused, true) {
            return;
        }
        tracing::warn!("an MSRP peer goes on sending what was refused; its connection is closed");
        self.abused += 1;
        self.actions.push_back(MediaAction::End(connection));
    }

    /// A peer asked for a session that does not exist. What is on its way to one that has just ended keeps
    /// naming the same; who names many is guessing (RFC 4975 §14.1).
    fn count_stray(&mut self, connection: ConnectionId, to_path: &str) {
        let name = crc32c::crc32c(to_path.as_bytes());
        let state = self.connection(connection);
        if state.last_stray == Some(name) {
            return;
        }
        state.last_stray = Some(name);
        state.strays += 1;
        let many = state.strays >= MOST_STRAYS && state.sessions.is_empty();
        self.actions.push_back(MediaAction::Stray(connection));
        if many {
            self.actions.push_back(MediaAction::Close(connection));
        }
    }

    fn session_of(&self, to_path: &str) -> Option<MediaId> {
        let first = first_in_path(to_path)?;
        self.by_session.get(session_id_in(first)?).copied()
    }

    /// RFC 4975 §5.4: a connection that no session uses is closed.
    pub(super) fn leave(&mut self, connection: ConnectionId, id: MediaId) {
        self.flush(connection);
        let Some(state) = self.connections.get_mut(&connection) else {
            return;
        };
        state.sessions.remove(&id);
        if state.sessions.is_empty() {
            self.connections.remove(&connection);
            self.actions.push_back(MediaAction::Close(connection));
        }
    }

    /// Everything that waits goes to the shell, whose own bound holds from here on.
    pub(super) fn flush(&mut self, connection: ConnectionId) {
        if let Some(state) = self.connections.get_mut(&connection) {
            while let Some(octets) = state.queue.poll_transmit() {
                self.actions
                    .push_back(MediaAction::Send(connection, octets));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::event::SessionEvent;
    use crate::msrp::reader::{FrameReader, Limits};
    use crate::msrp::sdp::{Direction, SessionDescription};
    use crate::participating::chat::{ChatId, Side};
    use crate::participating::media::{MediaListener, MediaSettings};
    use std::time::Duration;

    const OFFER: &[u8] =
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
        m=message 7 TCP/MSRP *\r\na=path:msrp://192.0.2.1:7/peer;tcp\r\na=accept-types:*\r\n\
        a=setup:active\r\n";

    fn media() -> Media {
        let settings = MediaSettings {
            fingerprint: None,
            offers_tls: false,
            cema: false,
            chunk: 1_000,
            message: 1_000,
            sessions: 1,
            bind_within: Duration::from_secs(1),
        };
        let listener = MediaListener {
            bound: "0.0.0.0:2855".parse().expect("an address"),
            host: "192.0.2.9".to_owned(),
            port: 2855,
            secure: false,
        };
        Media::new(0, settings, vec![listener])
    }

    /// A session that the peer has offered and we have answered; its path.
    fn session(media: &mut Media) -> String {
        let usage = MediaUse::Chat(ChatId(1), Side::Caller);
        let remote = "192.0.2.1".parse().expect("an address");
        let mut tokens = Tokens::from_seed(1);
        let id = media.open(usage, remote, "", Direction::SendRecv, &mut tokens);
        let id = id.expect("there is room");
        let offer = SessionDescription::parse(OFFER).expect("a description");
        let answer = media.answer(id, &offer, Now::default()).expect("taken");
        let path = answer.lines().find_map(|line| line.strip_prefix("a=path:"));
        path.expect("a path").to_owned()
    }

    fn pour(media: &mut Media, connection: ConnectionId, octets: usize) {
        let octets = Bytes::from(vec![b'x'; octets]);
        media.handle_frame(connection, FrameEvent::Data(octets));
    }

    #[test]
    fn who_pours_for_nobody_is_ended_and_counted_once() {
        let (mut media, connection) = (media(), ConnectionId::new(0, 1));
        for _ in 0..20 {
            pour(&mut media, connection, 1024 * 1024);
        }
        let actions: Vec<_> = std::iter::from_fn(|| media.poll_action()).collect();
        assert_eq!(actions, [MediaAction::End(connection)]);
        assert_eq!(media.take_abused(), 1);
    }

    #[test]
    fn little_is_kept_for_a_session_that_is_not_agreed_on_and_no_half_of_a_message_passes_for_it() {
        let (mut media, connection) = (media(), ConnectionId::new(0, 1));
        let usage = MediaUse::Chat(ChatId(1), Side::Callee);
        let remote = "192.0.2.1".parse().expect("an address");
        let mut tokens = Tokens::from_seed(1);
        let id = media.open(usage, remote, "", Direction::SendRecv, &mut tokens);
        let id = id.expect("there is room");
        let offer = media.offer(id);
        let path = offer.lines().find_map(|line| line.strip_prefix("a=path:"));
        let path = path.expect("a path");
        let send = |number: usize, octets: usize| {
            let body = "x".repeat(octets);
            format!(
                "MSRP tran{number} SEND\r\nTo-Path: {path}\r\nFrom-Path: msrp://192.0.2.1:7/peer;tcp\r\n\
                 Message-ID: m{number}\r\nByte-Range: 1-*/*\r\nContent-Type: message/cpim\r\n\r\n\
                 {body}\r\n-------tran{number}$\r\n"
            )
        };
        let mut reader = FrameReader::new(Limits::default());
        reader.push((send(1, 10) + &send(2, 60_000) + &send(3, 10)).as_bytes());
        while let Some(event) = reader.next().expect("a frame") {
            media.handle_frame(connection, event);
        }
        let kept = media.waiting();
        assert!((20..=EARLY_OCTETS).contains(&kept), "{kept}");
        let answer = SessionDescription::parse(OFFER).expect("a description");
        media.accept(id, &answer, Now::default()).expect("agreed");
        assert_eq!(media.waiting(), 0);
        let session = media.session(id).expect("it is agreed on");
        let told = std::iter::from_fn(|| session.poll_event());
        let whole = told.filter_map(|event| match event {
            SessionEvent::MessageDone { length, .. } => Some(length),
            _ => None,
        });
        assert_eq!(whole.collect::<Vec<_>>(), [10, 10]);
    }

    #[test]
    fn what_comes_late_for_sessions_that_ended_does_not_add_up_while_another_one_lives() {
        let (mut media, connection) = (media(), ConnectionId::new(0, 1));
        let path = session(&mut media);
        for number in 0..10 {
            pour(&mut media, connection, 1024 * 1024);
            let send = format!(
                "MSRP tran{number} SEND\r\nTo-Path: {path}\r\nFrom-Path: msrp://192.0.2.1:7/peer;tcp\r\n\
                 Message-ID: m{number}\r\nByte-Range: 1-2/2\r\nContent-Type: message/cpim\r\n\r\n\
                 hi\r\n-------tran{number}$\r\n"
            );
            let mut reader = FrameReader::new(Limits::default());
            reader.push(send.as_bytes());
            while let Some(event) = reader.next().expect("a frame") {
                media.handle_frame(connection, event);
            }
        }
        assert_eq!(media.take_abused(), 0);
    }
}
