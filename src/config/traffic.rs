//! Who may send how much: peers in the configuration, and the switches an operator turns while the server
//! runs.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::schema::{Access, Traffic};
use super::values::Size;
use crate::limits::network::Network;

/// What holds for the requests of a network, or of the senders of a domain: one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRule {
    /// Where requests come from: devices, a neighbouring proxy, a trunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Whose they are, by the domain of From and P-Asserted-Identity; this server's own, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Whether they are let in.
    #[serde(default = "allow")]
    pub action: Access,
    /// Requests outside dialogs a second, of all together; 0: no limit.
    #[serde(default)]
    pub rate: u32,
    /// Of these, so many at once; 0: as many as in a second.
    #[serde(default)]
    pub burst: u32,
}

fn allow() -> Access {
    Access::Allow
}

/// What the operator has changed of `[traffic]` while the server ran; the rest is as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficOverrides {
    /// See [`Traffic::submission`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submission: Option<bool>,
    /// See [`Traffic::delivery`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<bool>,
    /// See [`Traffic::suppress_errors`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress_errors: Option<bool>,
    /// See [`Traffic::messages_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<u32>,
    /// See [`Traffic::octets_per_second`].
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_per_second: Option<Size>,
    /// See [`Traffic::failures_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_per_second: Option<u32>,
}

impl TrafficOverrides {
    /// The name of the operator's document that holds them.
    pub const DOCUMENT: &str = "traffic";

    /// What the operator's documents say; nothing without one.
    pub fn of(documents: &[(Box<str>, Bytes)]) -> Self {
        let mut all = documents.iter();
        let Some((_, value)) = all.find(|(key, _)| **key == *Self::DOCUMENT) else {
            return Self::default();
        };
        serde_json::from_slice(value).unwrap_or_else(|error| {
            tracing::error!(%error, "what was changed of [traffic] cannot be read");
            Self::default()
        })
    }

    /// What holds.
    pub fn over(&self, configured: &Traffic) -> Traffic {
        Traffic {
            submission: self.submission.unwrap_or(configured.submission),
            delivery: self.delivery.unwrap_or(configured.delivery),
            suppress_errors: self.suppress_errors.unwrap_or(configured.suppress_errors),
            messages_per_second: self
                .messages_per_second
                .unwrap_or(configured.messages_per_second),
            octets_per_second: self
                .octets_per_second
                .unwrap_or(configured.octets_per_second),
            failures_per_second: self
                .failures_per_second
                .unwrap_or(configured.failures_per_second),
            ..configured.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_has_not_changed_is_as_configured() {
        let configured = Traffic {
            messages_per_second: 7,
            ..Traffic::default()
        };
        let overrides: TrafficOverrides = serde_json::from_str("{\"delivery\": false}").unwrap();
        let traffic = overrides.over(&configured);
        assert!(!traffic.delivery && traffic.submission);
        assert_eq!(traffic.messages_per_second, 7);
    }
}
