//! What an agent says when a conversation went another way than told.

use std::fmt;

use super::transcript::Transcript;

/// A step that was not observed, with the conversation up to there.
pub struct Failure {
    step: String,
    conversation: String,
}

impl Failure {
    /// `step` did not happen; the conversation is read from `transcript` now.
    pub fn new(step: impl Into<String>, transcript: &Transcript) -> Self {
        Self {
            step: step.into(),
            conversation: transcript.tail(),
        }
    }

    /// Something went wrong before there was a conversation.
    pub fn plain(step: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            conversation: String::new(),
        }
    }

    /// The step alone, in one sentence.
    pub fn step(&self) -> &str {
        &self.step
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.step, self.conversation)
    }
}

/// As it is displayed: tests print errors by `Debug`, and the transcript must stay readable there.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::plain(error.to_string())
    }
}
