//! What a session wants to tell its user and its peer, in order.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::event::{OutboundId, SessionEvent};
use super::writer::write_response;
use crate::net::pieces::Pieces;

/// Why a frame was written: what to do once it has left, and when to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A response or REPORT: nothing follows.
    Plain,
    /// A chunk of this message, or a bodiless SEND: the response timer starts when it has left.
    Request {
        serial: u64,
        message: Option<OutboundId>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) events: VecDeque<SessionEvent>,
    frames: VecDeque<(Pieces, Tag)>,
    octets: usize,
}

impl Outbox {
    pub(super) fn tell(&mut self, event: SessionEvent) {
        self.events.push_back(event);
    }

    pub(super) fn write(&mut self, frame: impl Into<Pieces>, tag: Tag) {
        let frame = frame.into();
        self.octets += frame.len();
        self.frames.push_back((frame, tag));
    }

    pub(super) fn respond(&mut self, transaction: &str, status: u16, to: &str, from: &str) {
        let mut out = BytesMut::with_capacity(256);
        write_response(&mut out, transaction, status, to, from);
        self.write(out.freeze(), Tag::Plain);
    }

    pub(super) fn next_frame(&mut self) -> Option<(Pieces, Tag)> {
        let (frame, tag) = self.frames.pop_front()?;
        self.octets -= frame.len();
        Some((frame, tag))
    }

    /// Takes back the chunks of a message that have not been taken yet (RFC 4975 §10.5: no further
    /// chunks after a 413).
    pub(super) fn withdraw(&mut self, withdrawn: OutboundId) {
        let of_it =
            |tag: &Tag| matches!(tag, Tag::Request { message: Some(m), .. } if *m == withdrawn);
        self.frames.retain(|(_, tag)| !of_it(tag));
        self.octets = self.frames.iter().map(|(frame, _)| frame.len()).sum();
    }

    pub(super) fn clear_frames(&mut self) {
        self.frames.clear();
        self.octets = 0;
    }

    /// Octets of frames that have not been taken yet.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }
}
