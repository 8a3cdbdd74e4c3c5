//! Restante: a SIP/MSRP CPM conversation server.
#![warn(missing_docs)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod date;
pub mod identity;
pub mod participating;
pub mod registrar;
pub mod sip;
pub mod store;
pub mod token;
pub mod uri;
