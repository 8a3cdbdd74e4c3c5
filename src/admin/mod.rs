//! The operator's HTTP interface: `/healthz`, `/readyz` and `/metrics` for machines, `/admin/v1` with a
//! bearer token for people and tools. It runs on a thread and a runtime of its own; what it wants to know
//! of users it asks the shards, by ticket.
//!
//! `http` listens, `routes` says what is where, `state` is what all handlers share; then a file a resource.

mod account_book;
mod accounts;
mod backup;
mod bindings;
mod export;
mod exposition;
mod extract;
mod health;
mod http;
mod messages;
mod problem;
mod routes;
mod server;
mod sessions;
mod state;
mod times;
mod token;
mod traffic;
mod users;

pub use account_book::{AccountBook, DocumentError};
pub use http::{AdminThread, start};
pub use routes::{description, paths};
pub use state::{Admin, Parts, Phase};
pub use token::{Token, default_file};
