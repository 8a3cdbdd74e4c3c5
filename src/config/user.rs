//! What each user wants: which messages, when, on which devices, and how much may wait. The section
//! `[users]` holds for everybody; the `settings` of an account win over it.

use serde::{Deserialize, Serialize};

use super::schema::{
    Blocked, ClientProfile, CopyTo, Delivery, IncomingRule, UserSettings, WhenFull,
};
use super::values::Size;

/// One rule of a user about some senders; the first that fits holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SenderRule {
    /// A SIP or tel URI (one person), a domain (everybody in it), or `anonymous`.
    pub from: String,
    /// What becomes of their messages.
    pub action: IncomingRule,
}

/// In which dialect the devices of one make are spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientRule {
    /// A part of the User-Agent they register with; letters of either case are the same.
    pub user_agent: String,
    /// How they are spoken to, whatever tags they register.
    pub profile: ClientProfile,
}

/// What an account says about itself; what it leaves out comes from `[users]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsOverrides {
    /// See [`UserSettings::delivery`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// See [`UserSettings::copy_to`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_to: Option<CopyTo>,
    /// See [`UserSettings::incoming`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming: Option<IncomingRule>,
    /// See [`UserSettings::anonymous`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<IncomingRule>,
    /// See [`UserSettings::blocked`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// See [`UserSettings::max_messages`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u32>,
    /// See [`UserSettings::max_size`].
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// See [`UserSettings::when_full`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
    /// Speaks to all devices of this user in one dialect, whatever tags they register.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<ClientProfile>,
    /// Rules about some senders, before `incoming` and `anonymous`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<SenderRule>,
}

/// The settings of one user that are in effect.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveSettings {
    /// Each key from the account, else from `[users]`.
    pub settings: UserSettings,
    /// See [`SettingsOverrides::profile`].
    pub profile: Option<ClientProfile>,
    /// See [`SettingsOverrides::rules`].
    pub rules: Vec<SenderRule>,
}

impl SettingsOverrides {
    /// What holds for this user.
    pub fn over(&self, defaults: &UserSettings) -> EffectiveSettings {
        EffectiveSettings {
            settings: UserSettings {
                delivery: self.delivery.unwrap_or(defaults.delivery),
                copy_to: self.copy_to.unwrap_or(defaults.copy_to),
                incoming: self.incoming.unwrap_or(defaults.incoming),
                anonymous: self.anonymous.unwrap_or(defaults.anonymous),
                blocked: self.blocked.unwrap_or(defaults.blocked),
                max_messages: self.max_messages.unwrap_or(defaults.max_messages),
                max_size: self.max_size.unwrap_or(defaults.max_size),
                when_full: self.when_full.unwrap_or(defaults.when_full),
            },
            profile: self.profile,
            rules: self.rules.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_account_leaves_out_comes_from_the_defaults() {
        let text = "delivery = \"pull\"\nrules = [{ from = \"spam.test\", action = \"block\" }]\n";
        let overrides: SettingsOverrides = toml::from_str(text).unwrap();
        let effective = overrides.over(&UserSettings::default());
        assert_eq!(effective.settings.delivery, Delivery::Pull);
        assert_eq!(effective.settings.incoming, IncomingRule::Allow);
        assert_eq!(effective.rules[0].action, IncomingRule::Block);
    }
}
