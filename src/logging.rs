//! The log: to stderr, as text or JSON, filtered by `RUST_LOG`.
//!
//! Message bodies and credentials are never logged, at no level: log lines name a peer, a Call-ID or
//! a user, and an outcome.

use std::io;
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log of this process. `filter` counts where the environment has no `RUST_LOG`. Does
/// nothing if there is a log already.
pub fn start(format: Format, filter: &str) {
    let environment = EnvFilter::try_from_default_env();
    let filter = environment.unwrap_or_else(|_| EnvFilter::new(filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // An error means that a log was started before, which is what a test wants.
    let _ = match format {
        Format::Text => lines.with_ansi(false).try_init(),
        Format::Json => lines.json().try_init(),
    };
}
