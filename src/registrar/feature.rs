//! Feature parameters of a Contact, and their comparison (RFC 3840 §9, RFC 3841 §7.2.4).

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use crate::sip::header::Parameters;
use crate::uri::unescape;

/// The tags of RFC 3840 §9 that are written without a plus.
const BASE_TAGS: [&str; 20] = [
    "audio",
    "automata",
    "class",
    "duplex",
    "data",
    "control",
    "mobility",
    "description",
    "events",
    "priority",
    "methods",
    "schemes",
    "application",
    "video",
    "language",
    "type",
    "isfocus",
    "actor",
    "text",
    "extensions",
];

/// Values in one tag, and tags in one set, that are looked at.
const MOST: usize = 64;

/// One value of a feature tag.
#[derive(Clone, Debug, PartialEq)]
pub enum FeatureValue {
    /// A token or a service URN: lower case, escapes undone, so that both forms of an ICSI compare
    /// equal (RFC 6050 §4.3 compares service URNs without case).
    Token(String),
    /// `<text>`: compared with case.
    Text(String),
    /// `#=1`, `#>=1`, `#<=1`, `#1:2`: from, to.
    Range(f64, f64),
    /// `!value`
    Not(Box<FeatureValue>),
}

impl Hash for FeatureValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Token(text) | Self::Text(text) => text.hash(state),
            Self::Range(from, to) => (from.to_bits(), to.to_bits()).hash(state),
            Self::Not(value) => value.hash(state),
        }
    }
}

impl FeatureValue {
    fn parse(text: &str) -> Self {
        if let Some(rest) = text.strip_prefix('!') {
            return Self::Not(Box::new(Self::parse_plain(rest)));
        }
        Self::parse_plain(text)
    }

    fn parse_plain(text: &str) -> Self {
        if let Some(range) = text.strip_prefix('#').and_then(parse_range) {
            return range;
        }
        let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
        match inner {
            Some(inner) => Self::Text(inner.to_owned()),
            None => Self::Token(unescape(text).to_ascii_lowercase()),
        }
    }

    /// Whether something can be both: the test of RFC 2533 for two simple filters.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Not(_), Self::Not(_)) => true,
            (Self::Not(not), plain) | (plain, Self::Not(not)) => not.as_ref() != plain,
            (Self::Range(from, to), Self::Range(other_from, other_to)) => {
                from <= other_to && other_from <= to
            }
            (one, other) => one == other,
        }
    }
}

fn parse_range(text: &str) -> Option<FeatureValue> {
    let number = |text: &str| {
        let value: f64 = text.parse().ok()?;
        value.is_finite().then_some(value)
    };
    let (from, to) = if let Some(rest) = text.strip_prefix(">=") {
        (number(rest)?, f64::INFINITY)
    } else if let Some(rest) = text.strip_prefix("<=") {
        (f64::NEG_INFINITY, number(rest)?)
    } else if let Some(rest) = text.strip_prefix('=') {
        (number(rest)?, number(rest)?)
    } else {
        let (from, to) = text.split_once(':')?;
        (number(from)?, number(to)?)
    };
    Some(FeatureValue::Range(from, to))
}

/// A feature tag with its values; a tag written without a value is TRUE.
#[derive(Clone, Debug, Hash, PartialEq)]
pub(super) struct Feature {
    /// In lower case, with its plus if it has one.
    pub name: String,
    pub values: Vec<FeatureValue>,
}

impl Feature {
    /// Whether a device that states `stated` fits `self`.
    pub fn meets(&self, stated: &Self) -> bool {
        self.values
            .iter()
            .any(|value| stated.values.iter().any(|other| value.meets(other)))
    }
}

/// The feature tags of a contact or of one Accept-Contact value; a tag repeated adds its values.
#[derive(Clone, Debug, Default, Hash, PartialEq)]
pub struct FeatureSet(Vec<Feature>);

impl FeatureSet {
    /// Picks the feature tags out of header parameters. `+sip.instance` and `+sip.pub-gruu` name a
    /// device and say nothing of what it can do, so they are left out: a contact with nothing else
    /// is one without features.
    pub fn of(parameters: &Parameters<'_>) -> Self {
        let mut set = Self::default();
        for (name, value) in parameters.iter() {
            let name = name.to_ascii_lowercase();
            let tag = name.starts_with('+') || BASE_TAGS.contains(&name.as_str());
            if tag && !["+sip.instance", "+sip.pub-gruu"].contains(&name.as_str()) {
                set.add(name, value);
            }
        }
        // They live as long as the binding does.
        for feature in &mut set.0 {
            feature.values.shrink_to_fit();
        }
        set.0.shrink_to_fit();
        set
    }

    fn add(&mut self, name: String, value: Option<&str>) {
        let at = match self.0.iter().position(|feature| feature.name == name) {
            Some(at) => at,
            None if self.0.len() < MOST => {
                let values = Vec::new();
                self.0.push(Feature { name, values });
                self.0.len() - 1
            }
            None => return,
        };
        let Some(feature) = self.0.get_mut(at) else {
            return;
        };
        for text in values_of(value) {
            let value = FeatureValue::parse(&text);
            if feature.values.len() < MOST && !feature.values.contains(&value) {
                feature.values.push(value);
            }
        }
    }

    /// Whether no tag is stated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the tag is stated with exactly this token among its values.
    pub fn states(&self, name: &str, token: &str) -> bool {
        let is_token =
            |value: &FeatureValue| matches!(value, FeatureValue::Token(own) if own == token);
        self.find(name)
            .is_some_and(|feature| feature.values.iter().any(is_token))
    }

    /// Whether any stated tag begins with `prefix`, its plus included.
    pub fn states_any(&self, prefix: &str) -> bool {
        self.0
            .iter()
            .any(|feature| feature.name.starts_with(prefix))
    }

    pub(super) fn find(&self, name: &str) -> Option<&Feature> {
        self.0.iter().find(|feature| feature.name == name)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Feature> {
        self.0.iter()
    }

    pub(super) fn method(method: &str) -> Self {
        let mut set = Self::default();
        set.add("methods".to_owned(), Some(method));
        set
    }

    pub(super) fn add_event(&mut self, event: &str) {
        self.add("events".to_owned(), Some(event));
    }
}

/// A quoted list apart; what stands in angle brackets is one text and keeps its commas.
fn values_of(value: Option<&str>) -> Vec<Cow<'_, str>> {
    match value.map(str::trim) {
        None | Some("") => vec![Cow::Borrowed("true")],
        Some(text) if text.starts_with('<') && text.ends_with('>') => vec![Cow::Borrowed(text)],
        Some(list) => list
            .split(',')
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(Cow::Borrowed)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(parameters: &str) -> FeatureSet {
        FeatureSet::of(&Parameters::new(parameters))
    }

    const ICSI: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.session";

    #[test]
    fn an_icsi_is_recognised_in_every_form_clients_write() {
        for parameters in [
            ";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session\"",
            ";+G.3GPP.ICSI-REF=\"urn%3aurn-7%3a3gpp-service.ims.icsi.oma.cpm.session\"",
            ";+g.3gpp.icsi-ref=\"urn:urn-7:3gpp-service.ims.icsi.oma.cpm.session\"",
            ";+g.3gpp.icsi-ref=\"urn:x, urn:urn-7:3gpp-service.ims.icsi.OMA.cpm.session\"",
            ";+g.3gpp.icsi-ref=\"a\";q=1;+g.3gpp.icsi-ref=\"urn:urn-7:3gpp-service.ims.icsi.oma.cpm.session\"",
        ] {
            assert!(
                set(parameters).states("+g.3gpp.icsi-ref", ICSI),
                "{parameters}"
            );
        }
    }

    #[test]
    fn a_longer_icsi_is_another_one() {
        let group =
            set(";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.session.group\"");
        assert!(!group.states("+g.3gpp.icsi-ref", ICSI));
    }

    #[test]
    fn only_feature_tags_are_picked_out() {
        assert!(set(";expires=60;q=0.5;+sip.instance=\"<urn:uuid:1>\";reg-id=1").is_empty());
        let some = set(";audio;+sip.message=\"TRUE\";other-param=1");
        assert_eq!(some.iter().len(), 2);
        assert!(some.states("audio", "true") && some.states("+sip.message", "true"));
        assert!(some.states_any("+sip.") && !some.states_any("+g."));
    }

    #[test]
    fn values_compare_by_their_kind() {
        let meets = |wanted: &str, stated: &str| {
            FeatureValue::parse(wanted).meets(&FeatureValue::parse(stated))
        };
        assert!(meets("Fixed", "fixed"));
        assert!(meets("<Aa>", "<Aa>") && !meets("<Aa>", "<aa>") && !meets("<a>", "a"));
        assert!(meets("#=5", "#>=4") && !meets("#=3", "#>=4") && meets("#1:5", "#5:9"));
        assert!(meets("!a", "b") && !meets("!a", "a") && meets("b", "!a"));
        assert!(meets("#5", "#5"));
    }

    proptest! {
        #[test]
        fn no_parameters_make_it_panic(text in "(;[+a-z.]{0,9}=?[\"<!#>=0-9,:a-z%\\PC]{0,9}){0,5}") {
            let stated = set(&text);
            for feature in stated.iter() {
                let _ = feature.meets(feature);
            }
        }
    }
}
