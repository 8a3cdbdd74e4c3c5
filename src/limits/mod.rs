//! What the server refuses before it does any work: rates, bans, and how much memory may be in use.
//!
//! Everything here is pure and bounded: a table of sources has as many places as the configuration
//! says, and who has none is judged as strictly as the busiest.

pub mod chats;
pub mod ledger;
pub mod load;
pub mod logins;
pub mod memory;
pub mod meters;
pub mod network;
pub mod peers;
pub mod rate;
pub mod reflection;
pub mod shared;
pub mod source;
pub mod sources;
