//! The operator's interface, over HTTP and by the commands, against the real binary.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod backup;
mod commands;
mod exposition;
mod hostile;
mod http;
mod messages;
mod operation;
mod traffic;
