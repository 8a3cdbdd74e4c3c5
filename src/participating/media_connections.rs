//! The connections of the MSRP sessions: who opens them, whose frames they carry, when they end.

use crate::clock::Now;
use crate::limits::source::is_one_host;
use crate::msrp::connection_queue::ConnectionQueue;
use crate::msrp::event::SessionEvent;
use crate::msrp::frame::FrameEvent;
use crate::msrp::session::Session;
use crate::msrp::uri::session_id_in;
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

/// Sessions that do not exist, asked for on one connection, after which it is closed.
const MOST_STRAYS: u32 = 8;

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
        let sessions = self
            .connections
            .get(&connection)
            .map(|state| state.sessions.clone());
        let sessions = sessions.unwrap_or_default();
        let used = sessions
            .iter()
            .filter_map(|id| Some((*id, self.entries.get(id)?.usage)));
        used.collect()
    }

    /// A piece of a frame.
    pub fn handle_frame(&mut self, connection: ConnectionId, event: FrameEvent) {
        let id = match &event {
            FrameEvent::Request(head) => {
                let found = self.session_of(head.to_path());
                if found.is_none()
                    && let Some(refusal) = writer::refuse(head, 481)
                {
                    self.actions
                        .push_back(MediaAction::Send(connection, refusal));
                    self.count_stray(connection, head.to_path());
                }
                found
            }
            FrameEvent::Response(head) => self.session_of(head.to_path()),
            FrameEvent::Data(_) | FrameEvent::End(_) => self.connection(connection).current,
        };
        let ends = matches!(event, FrameEvent::End(_));
        self.connection(connection).current = if ends { None } else { id };
        let Some(id) = id else { return };
        match self.entries.get_mut(&id) {
            Some(entry) if entry.session.is_none() => {
                if entry.early.len() < EARLY {
                    entry.early.push((connection, event));
                }
            }
            _ => self.take_frame(id, connection, event),
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
            if session.connection() == Some(connection) {
                self.attach(id, connection);
            }
        }
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
        let first = to_path.split_whitespace().next()?;
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
