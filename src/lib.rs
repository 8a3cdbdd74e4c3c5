//! Restante: a SIP/MSRP CPM conversation server.
#![warn(missing_docs)]

pub mod clock;
pub mod date;
pub mod identity;
pub mod participating;
pub mod sip;
pub mod store;
pub mod token;
pub mod uri;
