//! Restante: a SIP/MSRP CPM conversation server.
#![warn(missing_docs)]

pub mod clock;
pub mod demo;
pub mod identity;
pub mod sip;
pub mod store;
pub mod token;
