//! Restante: a SIP/MSRP CPM conversation server.
#![warn(missing_docs)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod cpim;
pub mod date;
pub mod demo;
pub mod identity;
pub mod imdn;
pub mod logging;
pub mod metrics;
pub mod msrp;
pub mod multipart;
pub mod net;
pub mod participating;
pub mod registrar;
pub mod resolve;
pub mod router;
pub mod server;
pub mod shard;
pub mod sip;
pub mod store;
pub mod token;
pub mod uri;
