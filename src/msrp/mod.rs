//! MSRP (RFC 4975), knowing nothing of CPM: URIs, frames, sessions and the SDP that sets them up.

pub mod connection;
pub mod connection_queue;
pub mod event;
mod field;
pub mod fingerprint;
pub mod frame;
pub mod incoming;
pub mod listener;
pub mod negotiation;
pub mod outgoing;
pub mod reader;
pub mod sdp;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod uri;
pub mod writer;

mod hyphens;
mod outbox;
mod ranges;
