//! Why a session ends, as handsets read it in the Reason header field of a BYE (RFC 3326,
//! cpm-facts §5).

use crate::sip::message::{HeaderName, Message};

/// Why we send BYE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The session has done what it was for, or nothing happens in it any more.
    Completed,
    /// The peer leaves something unanswered: a refresh, messages.
    TimedOut,
    /// The peer does not know the MSRP session any more.
    Gone,
    /// Its MSRP connection is lost or never came.
    BearerLost,
    /// No session came of its description.
    NotAcceptable,
    /// What the other side's BYE said.
    Relayed(String),
}

impl Reason {
    /// What the other side of a chat hears when one hangs up with this BYE.
    pub(super) fn of_bye(bye: &Message) -> Self {
        let given = bye.header(HeaderName::Reason);
        given.map_or(Self::Completed, |value| Self::Relayed(value.to_owned()))
    }

    /// The value of the header field.
    pub(super) fn value(&self) -> &str {
        match self {
            Self::Completed => "SIP;cause=200;text=\"Call completed\"",
            Self::TimedOut => "SIP;cause=408;text=\"Request timeout\"",
            Self::Gone => "SIP;cause=410;text=\"Gone\"",
            Self::BearerLost => "SIP;cause=480;text=\"Bearer unavailable\"",
            Self::NotAcceptable => "SIP;cause=488;text=\"Not Acceptable Here\"",
            Self::Relayed(value) => value,
        }
    }
}
