//! The CPM participating function: what it does for the users it serves.
//!
//! What comes in: `pager` (SIP MESSAGE), `chat` (INVITE) and `bridge` (its MSRP). What is decided:
//! `served_user` and `deferral`. What goes out: `message_run`, `session_run`, `disposition`. `service`
//! holds them together, `custody` is the way into the store, `media` the way to MSRP.

mod answering;
pub mod arrival;
mod bridge;
mod bridge_custody;
pub mod callee;
pub mod census;
pub mod chat;
mod chat_answer;
mod chat_end;
pub mod contacts;
mod conversation;
pub mod custody;
pub mod deferral;
pub mod delivery;
pub mod dialogs;
mod disposition;
mod early_receipt;
mod events;
mod eviction;
mod exchange;
pub mod expiry;
mod first_message;
pub mod forward;
mod held;
mod in_dialog;
pub mod internal;
pub mod large;
mod leg;
pub mod media;
mod media_connections;
mod media_exchange;
mod message_run;
pub mod next_hop;
pub mod operator;
pub mod outgoing;
pub mod pager;
mod provisional;
mod reason;
pub mod receipts;
pub mod recent;
mod refresh;
pub mod relay;
mod replay_inbound;
mod replay_invite;
mod replay_sending;
pub mod replay_table;
pub mod served_user;
pub mod service;
mod session_run;
pub mod spool;
mod timeouts;
mod transit;
mod users;
