//! The log: to stderr, as text or JSON, filtered by `RUST_LOG`.
//!
//! Message bodies and credentials are never logged, at no level: log lines name a peer, a Call-ID or
//! a user, and an outcome.

use std::io;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log of this process; `RUST_LOG` wins over the configured filter. Does nothing if there
/// is a log already.
pub fn start(log: &Log) {
    let environment = EnvFilter::try_from_default_env();
    let filter = environment.unwrap_or_else(|_| EnvFilter::new(&log.filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // An error means that a log was started before, which is what a test wants.
    let _ = match log.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
