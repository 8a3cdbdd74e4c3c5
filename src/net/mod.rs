//! Sockets without a protocol: binding, batches of datagrams, accepting within limits, and one
//! writer per connection that any shard can hand octets to.
//!
//! SIP ([`crate::sip::transport`]) and MSRP (`crate::msrp::connection`) stand on it.

pub mod accept;
pub mod bind;
pub mod buffers;
pub mod conversation;
pub mod id;
pub mod pieces;
pub mod registry;
pub mod segments;
pub mod stream;
pub mod sys;
pub mod tls;
pub mod writer;

pub use id::ConnectionId;
