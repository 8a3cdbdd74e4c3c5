//! Black-box conversations with the real binary over real sockets, told as sentences. Each plays
//! with one shard and with four.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod chat;
mod content;
mod custody;
mod dialogs;
mod ipv6;
mod pager;
mod process;
mod proxying;
mod receipts;
mod registration;
mod replay;
mod secure_media;
mod session_life;
mod torture;
mod transports;
