//! What a recipient's rules say about a sender: pure, and the same for every kind of request.
//!
//! The first of the account's rules that fits holds; without one `anonymous` or `incoming` does. Who
//! hides his identity is known to the server, so a rule that keeps a person or a domain away holds for
//! him too; one that lets him in, or that would tell the recipient of him, would say who he is: it does
//! not fit. Hiding never gets a sender further than showing himself: of `anonymous` and `incoming` the
//! stricter one holds for him.

use crate::config::{Blocked, EffectiveSettings, IncomingRule, RuleSubject};
use crate::identity::Identity;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// As proved, or in open mode as believed; a telephone number is resolved to its user.
    pub identity: &'a Identity,
    /// He asked to stay unnamed, or named himself anonymous.
    pub hidden: bool,
}

/// What becomes of his request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes its way.
    Allow,
    /// 480, as if nobody were there and nothing were kept.
    Unavailable,
    /// The same, and the recipient hears of the attempt.
    UnavailableNotify,
    /// 403.
    Forbidden,
    /// 433: whoever shows himself may be let in (RFC 5079).
    AnonymityDisallowed,
    /// It is answered as if it had been taken, and dropped.
    Silent,
}

/// What the settings say about a sender. `resolve` gives the identity that a URI means.
pub fn verdict(
    sender: Sender<'_>,
    wants: &EffectiveSettings,
    resolve: impl Fn(&str) -> Option<Identity>,
) -> Verdict {
    let mut fitting = wants.rules.iter().filter_map(|rule| {
        let subject = rule.subject().ok()?;
        let named = subject != RuleSubject::Anonymous;
        let fits = match subject {
            RuleSubject::Anonymous => sender.hidden,
            RuleSubject::Person(uri) => resolve(uri).as_ref() == Some(sender.identity),
            RuleSubject::Domain(domain) => sender.identity.host().eq_ignore_ascii_case(domain),
        };
        let action = match (named && sender.hidden, rule.action) {
            (true, IncomingRule::Allow | IncomingRule::UnavailableNotify) => return None,
            (_, action) => action,
        };
        fits.then_some((action, named))
    });
    let (action, named) = fitting.next().unwrap_or_else(|| default_for(sender, wants));
    match (action, wants.settings.blocked) {
        (IncomingRule::Allow, _) => Verdict::Allow,
        (IncomingRule::Unavailable, _) => Verdict::Unavailable,
        (IncomingRule::UnavailableNotify, _) => Verdict::UnavailableNotify,
        (IncomingRule::Block, Blocked::Silent) => Verdict::Silent,
        (IncomingRule::Block, Blocked::Forbidden) if named => Verdict::Forbidden,
        (IncomingRule::Block, Blocked::Forbidden) => Verdict::AnonymityDisallowed,
    }
}

/// Without a rule; and whether it is the person that counts, or only that he hides.
fn default_for(sender: Sender<'_>, wants: &EffectiveSettings) -> (IncomingRule, bool) {
    let (everybody, anonymous) = (wants.settings.incoming, wants.settings.anonymous);
    match sender.hidden && strictness(anonymous) > strictness(everybody) {
        true => (anonymous, false),
        false => (everybody, true),
    }
}

fn strictness(rule: IncomingRule) -> u8 {
    match rule {
        IncomingRule::Allow => 0,
        IncomingRule::UnavailableNotify => 1,
        IncomingRule::Unavailable => 2,
        IncomingRule::Block => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SettingsOverrides, UserSettings};

    fn says(text: &str, who: &str, hidden: bool) -> Verdict {
        let overrides: SettingsOverrides = toml::from_str(text).expect("legal settings");
        let wants = overrides.over(&UserSettings::default());
        let (user, host) = who.split_once('@').expect("user@host");
        let identity = Identity::new(user, host);
        let sender = Sender {
            identity: &identity,
            hidden,
        };
        verdict(sender, &wants, |uri| match uri {
            "tel:+46-70-1" => Some(Identity::new("alice", "im.test")),
            _ => {
                let (user, host) = uri.strip_prefix("sip:")?.split_once('@')?;
                Some(Identity::new(user, host))
            }
        })
    }

    fn rule(from: &str, action: &str) -> String {
        format!("{{ from = \"{from}\", action = \"{action}\" }}")
    }

    #[test]
    fn without_a_word_everybody_is_let_in() {
        assert_eq!(says("", "alice@im.test", false), Verdict::Allow);
        assert_eq!(says("", "alice@im.test", true), Verdict::Allow);
    }

    #[test]
    fn each_value_has_its_outcome() {
        for (value, verdict) in [
            ("allow", Verdict::Allow),
            ("unavailable", Verdict::Unavailable),
            ("unavailable-notify", Verdict::UnavailableNotify),
            ("block", Verdict::Forbidden),
        ] {
            let everybody = format!("incoming = \"{value}\"");
            assert_eq!(says(&everybody, "alice@im.test", false), verdict);
        }
        let silent = "incoming = \"block\"\nblocked = \"silent\"";
        assert_eq!(says(silent, "alice@im.test", false), Verdict::Silent);
    }

    #[test]
    fn the_first_rule_that_fits_holds() {
        let rules = format!(
            "rules = [{}, {}, {}]",
            rule("sip:alice@im.test", "allow"),
            rule("im.test", "unavailable"),
            rule("sip:carol@im.test", "block")
        );
        assert_eq!(says(&rules, "alice@im.test", false), Verdict::Allow);
        assert_eq!(says(&rules, "carol@im.test", false), Verdict::Unavailable);
        assert_eq!(says(&rules, "carol@else.test", false), Verdict::Allow);
    }

    #[test]
    fn a_person_is_known_by_number_too_and_a_domain_without_case() {
        let number = format!("rules = [{}]", rule("tel:+46-70-1", "block"));
        assert_eq!(says(&number, "alice@im.test", false), Verdict::Forbidden);
        let domain = format!("rules = [{}]", rule("IM.Test", "block"));
        assert_eq!(says(&domain, "alice@im.test", false), Verdict::Forbidden);
        assert_eq!(says(&domain, "alice@sub.im.test", false), Verdict::Allow);
    }

    #[test]
    fn who_hides_is_asked_to_show_himself_when_only_that_counts() {
        let block = "anonymous = \"block\"";
        assert_eq!(says(block, "alice@im.test", false), Verdict::Allow);
        assert_eq!(
            says(block, "alice@im.test", true),
            Verdict::AnonymityDisallowed
        );
        let rules = format!("rules = [{}]", rule("anonymous", "block"));
        assert_eq!(
            says(&rules, "alice@im.test", true),
            Verdict::AnonymityDisallowed
        );
        assert_eq!(says(&rules, "alice@im.test", false), Verdict::Allow);
    }

    #[test]
    fn hiding_neither_passes_a_block_nor_lets_a_rule_say_who_it_is() {
        let block = format!("rules = [{}]", rule("sip:alice@im.test", "block"));
        assert_eq!(says(&block, "alice@im.test", true), Verdict::Forbidden);
        assert_eq!(
            says("incoming = \"block\"", "alice@im.test", true),
            Verdict::Forbidden
        );
        let open = format!(
            "anonymous = \"unavailable\"\nrules = [{}]",
            rule("sip:alice@im.test", "allow")
        );
        assert_eq!(says(&open, "alice@im.test", false), Verdict::Allow);
        assert_eq!(says(&open, "alice@im.test", true), Verdict::Unavailable);
        let told = format!(
            "rules = [{}]",
            rule("sip:alice@im.test", "unavailable-notify")
        );
        assert_eq!(says(&told, "alice@im.test", true), Verdict::Allow);
    }
}
