//! SIP (RFC 3261), knowing nothing of CPM.

pub mod dialog;
pub mod digest;
pub mod endpoint;
pub mod glance;
pub mod header;
pub mod message;
pub mod name;
mod plain_via;
pub mod proxy;
pub mod rejection;
pub mod reliable;
pub mod reply;
pub mod retry_after;
pub mod session_timer;
pub mod splice;
pub mod stream;
pub mod target;
pub mod transaction;
pub mod transport;
pub mod validate;
pub mod warning;
pub mod wire;
