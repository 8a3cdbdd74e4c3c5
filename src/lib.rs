//! Restante: a SIP/MSRP CPM conversation server.
//!
//! The modules stand in the order in which a packet meets them; ARCHITECTURE.md tells the way with
//! function names. Everything that decides is pure: time, randomness and answers of the store are
//! arguments. Sockets, threads and files are in thin shells.
#![warn(missing_docs)]

// The process starts: arguments and exit codes,
pub mod cli;

// the whole configuration as plain data,
pub mod config;

// the log on stderr,
pub mod logging;

// the operator's HTTP interface,
pub mod admin;

// and every part built, started, and ended in order.
pub mod server;

// A packet arrives: sockets without a protocol,
pub mod net;

// the loop that takes it, lets a pure core decide, and does what that wants.
pub mod shard;

// It is read: messages, transactions, dialogs, transports (RFC 3261).
pub mod sip;

// It goes to the function that serves it,
pub mod router;

// the registrar, which knows users and devices,
pub mod registrar;

// or the participating function: passed on, kept, replayed, and the author told.
pub mod participating;

// Chat travels over MSRP: frames, sessions, and the SDP that sets them up (RFC 4975).
pub mod msrp;

// What was acknowledged lies here, on disk before the answer leaves.
pub mod store;

// All of them speak of addresses,
pub mod uri;

// of parts of a text by their places,
pub mod span;

// of users,
pub mod identity;

// of envelopes (RFC 3862),
pub mod cpim;

// of notifications (RFC 5438),
pub mod imdn;

// and of bodies in several parts (RFC 2046).
pub mod multipart;

// How often somebody may ask, and how much may be under way.
pub mod limits;

// Pure code is given the time,
pub mod clock;

// how SIP writes a date,
pub mod date;

// randomness,
pub mod token;

// the addresses of a host name,
pub mod resolve;

// and counters.
pub mod metrics;

// The story on real sockets, played by user agents that share no parser with the server.
pub mod demo;
