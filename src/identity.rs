//! A user's canonical identity: the key under which bindings, messages and machines are kept.

use std::fmt;
use std::sync::Arc;

/// `user@host`, the host in lower case, escapes of unreserved characters undone. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    /// Joins a user part that is already unescaped and a host.
    pub fn new(user: &str, host: &str) -> Self {
        Self(format!("{user}@{}", host.to_ascii_lowercase()).into())
    }

    /// `user@host`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
