//! The store: what was acknowledged survives.
//!
//! The truth is one append-only log in segments; everything else is a view of it. Read `request`
//! (what is asked and answered), then `deferred` (opening), `client` (credits), `log` and `commit`
//! (one sync for many), `body` (large bodies), `index` (what waits for whom: `recent` in memory, `view`
//! on disk in `blocks` of a `table`, `feed` from one to the other, `rebuild` when in doubt), `reader`, `recover`,
//! `restore` and `survey` (a start), `compact` and `relocate` (room comes back, as `usage` says), `archive`
//! (a store looked at from outside: `verify`, `backup`, `export`; `import` is the way back).

mod answer;
mod append;
pub mod archive;
pub mod backup;
mod blocks;
mod body;
mod body_put;
mod body_spool;
pub mod client;
mod coding;
mod commit;
mod compact;
pub mod deferred;
mod export;
mod feed;
pub mod files;
mod footer;
mod holdings;
pub mod import;
mod index;
mod log;
mod log_queue;
mod manifest;
mod manifests;
mod marks;
pub mod memory;
mod newest;
mod reader;
#[doc(hidden)]
pub mod reading;
mod rebuild;
mod recent;
mod record;
mod recover;
mod relocate;
pub mod request;
mod reserve;
mod restore;
mod segment;
mod seldom;
mod shared;
mod spool;
mod survey;
pub mod table;
pub mod transfer;
mod usage;
mod ustar;
pub mod verify;
mod view;
mod watch;

pub use client::StoreClient;
pub use deferred::{
    Health, Recovered, RecoveredBinding, Store, StoreConfig, StoreError, ViewFound,
};
pub use watch::StoreWatch;
