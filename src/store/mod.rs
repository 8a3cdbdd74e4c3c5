//! The store: what was acknowledged survives.
//!
//! The truth is one append-only log in segments; everything else is a view of it. Read `request`
//! (what is asked and answered), then `deferred` (opening), `client` (credits), `log` and `commit`
//! (one sync for many), `body` (large bodies), `reader`, `recover` and `restore` (a start), `compact`
//! and `relocate` (room comes back).

mod answer;
mod append;
mod body;
pub mod client;
mod coding;
mod commit;
mod compact;
pub mod deferred;
mod feed;
pub mod files;
mod footer;
mod index;
mod log;
mod manifest;
pub mod memory;
mod reader;
mod rebuild;
mod recent;
mod record;
mod recover;
mod relocate;
pub mod request;
mod reserve;
mod restore;
mod segment;
mod shared;
mod spool;
mod survey;
pub mod table;
mod usage;
mod view;

pub use client::StoreClient;
pub use deferred::{
    Health, Recovered, RecoveredBinding, Store, StoreConfig, StoreError, ViewFound,
};
