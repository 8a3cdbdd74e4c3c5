//! MSRP (RFC 4975), knowing nothing of CPM: URIs, frames, sessions and the SDP that sets them up.

pub mod connection;
pub mod frame;
pub mod listener;
pub mod reader;
pub mod uri;
pub mod writer;
