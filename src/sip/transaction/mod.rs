//! The transaction layer (RFC 3261 §17 with RFC 6026, RFC 4320 and RFC 3581), without I/O.
//!
//! Four machines, one figure each: [`invite_client`], [`client`], [`invite_server`], [`server`]. Each
//! is a state and a flat match that names the [`action`]s of a transition. The [`table`] holds every
//! live transaction, finds the one a message belongs to by its [`key`], and keeps the [`timer`]s.

pub mod action;
pub mod branch;
pub mod client;
mod client_machine;
mod clients;
mod index;
pub mod invite_client;
pub mod invite_server;
pub mod key;
mod outbox;
mod packed_flow;
pub mod reply_flow;
pub mod server;
mod server_machine;
mod servers;
mod slab;
pub mod table;
pub mod timer;

pub use action::GoneReason;
pub use table::{
    Busy, ClientId, Kind, RequestOutcome, ResponseOutcome, ServerId, TransactionEvent,
    TransactionTable,
};
pub use timer::TimerConfig;

#[cfg(test)]
mod simulation;
