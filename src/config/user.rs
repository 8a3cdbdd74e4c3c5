//! What each user wants: which messages, when, on which devices, and how much may wait. The section
//! `[users]` holds for everybody; the `settings` of an account win over it.

use serde::{Deserialize, Serialize};

use super::address::is_host;
use super::schema::{
    Blocked, ClientProfile, CopyTo, Delivery, IncomingRule, UserSettings, WhenFull,
};
use super::values::{Period, Size};
use crate::uri::{Scheme, Uri};

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

/// Whom a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleSubject<'a> {
    /// Whoever hides his identity.
    Anonymous,
    /// One person, by a SIP or tel URI.
    Person(&'a str),
    /// Everybody in a domain.
    Domain(&'a str),
}

impl SenderRule {
    /// Whom it is about; what is wrong with `from` if nobody.
    pub fn subject(&self) -> Result<RuleSubject<'_>, &'static str> {
        let from = self.from.as_str();
        if from == "anonymous" {
            return Ok(RuleSubject::Anonymous);
        }
        if !from.contains(':') {
            return match is_host(from) {
                true => Ok(RuleSubject::Domain(from)),
                false => Err("it is no domain"),
            };
        }
        let uri = Uri::parse(from).map_err(|_| "it is no URI")?;
        match (uri.scheme(), uri.user()) {
            (Scheme::Sip | Scheme::Sips, None) => Err("the URI names no person"),
            (Scheme::Sip | Scheme::Sips, Some(_)) => Ok(RuleSubject::Person(from)),
            (Scheme::Tel, Some(number)) if number.starts_with('+') => Ok(RuleSubject::Person(from)),
            (Scheme::Tel, _) => Err("the number is not global: it begins without \"+\""),
            (Scheme::Other, _) => Err("the URI is neither sip nor tel"),
        }
    }
}

/// What an account says about itself; what it leaves out comes from `[users]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsOverrides {
    /// See [`UserSettings::delivery`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// See [`UserSettings::announce_waiting`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce_waiting: Option<bool>,
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
    /// See [`UserSettings::may_send`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_send: Option<bool>,
    /// See [`UserSettings::may_receive`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_receive: Option<bool>,
    /// See [`UserSettings::may_use_presence`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_use_presence: Option<bool>,
    /// See [`UserSettings::max_message_size`].
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_size: Option<Size>,
    /// See [`UserSettings::max_text_length`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_text_length: Option<u32>,
    /// See [`UserSettings::messages_per_period`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_period: Option<u32>,
    /// See [`UserSettings::octets_per_period`].
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_per_period: Option<Size>,
    /// See [`UserSettings::period`].
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
    /// See [`UserSettings::content_types`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_types: Option<Vec<String>>,
    /// See [`UserSettings::barred_types`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub barred_types: Option<Vec<String>>,
    /// See [`UserSettings::requests_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// See [`UserSettings::requests_burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_burst: Option<u32>,
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
                announce_waiting: self.announce_waiting.unwrap_or(defaults.announce_waiting),
                copy_to: self.copy_to.unwrap_or(defaults.copy_to),
                incoming: self.incoming.unwrap_or(defaults.incoming),
                anonymous: self.anonymous.unwrap_or(defaults.anonymous),
                blocked: self.blocked.unwrap_or(defaults.blocked),
                max_messages: self.max_messages.unwrap_or(defaults.max_messages),
                max_size: self.max_size.unwrap_or(defaults.max_size),
                when_full: self.when_full.unwrap_or(defaults.when_full),
                may_send: self.may_send.unwrap_or(defaults.may_send),
                may_receive: self.may_receive.unwrap_or(defaults.may_receive),
                may_use_presence: self.may_use_presence.unwrap_or(defaults.may_use_presence),
                max_message_size: self.max_message_size.unwrap_or(defaults.max_message_size),
                max_text_length: self.max_text_length.unwrap_or(defaults.max_text_length),
                messages_per_period: self
                    .messages_per_period
                    .unwrap_or(defaults.messages_per_period),
                octets_per_period: self.octets_per_period.unwrap_or(defaults.octets_per_period),
                period: self.period.unwrap_or(defaults.period),
                content_types: self
                    .content_types
                    .clone()
                    .unwrap_or_else(|| defaults.content_types.clone()),
                barred_types: self
                    .barred_types
                    .clone()
                    .unwrap_or_else(|| defaults.barred_types.clone()),
                requests_per_second: self
                    .requests_per_second
                    .unwrap_or(defaults.requests_per_second),
                requests_burst: self.requests_burst.unwrap_or(defaults.requests_burst),
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
    #[test]
    fn a_rule_is_about_a_person_a_domain_or_whoever_hides() {
        let rule = |from: &str| SenderRule {
            from: from.to_owned(),
            action: IncomingRule::Block,
        };
        assert_eq!(rule("anonymous").subject(), Ok(RuleSubject::Anonymous));
        assert_eq!(
            rule("spam.test").subject(),
            Ok(RuleSubject::Domain("spam.test"))
        );
        for person in ["sip:a@b.test", "sips:a@b.test", "tel:+46-70-1"] {
            assert_eq!(rule(person).subject(), Ok(RuleSubject::Person(person)));
        }
        for nobody in [
            "",
            "a@b.test",
            "sip:b.test",
            "tel:5550100",
            "mailto:a@b",
            "sip:",
        ] {
            assert!(rule(nobody).subject().is_err(), "{nobody}");
        }
    }
}
