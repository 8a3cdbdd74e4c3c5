//! What one shard tells another about a user's messages.

/// A message for a user of another shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalMessage;
