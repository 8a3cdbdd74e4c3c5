//! Restante: a SIP/MSRP CPM conversation server.
#![warn(missing_docs)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod identity;
pub mod sip;
pub mod store;
pub mod token;
