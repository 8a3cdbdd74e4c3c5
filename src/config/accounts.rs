//! Rules of the accounts.

use std::collections::BTreeSet;

use super::check::{Checked, between, rule};
use super::schema::{Account, Authentication, Config, DigestAlgorithm, UserSettings};
use super::user::{SenderRule, SettingsOverrides};
use super::values::Period;

/// The longest text, in characters, that a user can be limited to: in a chat it is counted before
/// anything of it goes on, in the first octets that are held back.
const LONGEST_LIMITED_TEXT: u32 = 3_500;

/// The first rule that an account breaks.
pub(super) fn accounts(config: &Config) -> Checked {
    let digest = config.registrar.authentication == Authentication::Digest;
    let mut users = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, account) in config.account.iter().enumerate() {
        let key = |name: &str| format!("account[{index}].{name}");
        let user = account.user.as_str();
        check_names(user, account.tel.as_deref())
            .map_err(|(name, problem)| (key(name), problem))?;
        check_settings(&account.settings, &key("settings"))?;
        rule(users.insert(user), &key("user"), || {
            format!("\"{user}\" has an account already")
        })?;
        if let Some(tel) = &account.tel {
            rule(numbers.insert(digits(tel)), &key("tel"), || {
                format!("\"{tel}\" belongs to another account already")
            })?;
        }
        one_secret(account, digest).map_err(|problem| (key("user"), problem))?;
    }
    a_common_algorithm(config, digest)
}

/// Names in the domain behind which the server answers: messages of its own, what waits, whoever hides.
pub fn is_reserved(user: &str) -> bool {
    ["system", "deferred", "pf", "rcse-standfw"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(user))
}

/// The first rule that an account's settings break; the error names the setting below `key`.
pub fn check_settings(settings: &SettingsOverrides, key: &str) -> Result<(), (String, String)> {
    sender_rules(&settings.rules, &format!("{key}.rules"))?;
    sending(&settings.over(&UserSettings::default()).settings, key)
}

/// What a user may send must be possible to hold him to.
pub(super) fn sending(settings: &UserSettings, key: &str) -> Checked {
    let longest = LONGEST_LIMITED_TEXT;
    rule(
        settings.max_text_length <= longest,
        &format!("{key}.max_text_length"),
        || {
            let length = settings.max_text_length;
            format!("{length} is not allowed; allowed: 0 to {longest}")
        },
    )?;
    let (least, most) = (Period::seconds(1), Period::seconds(366 * 86_400));
    between(&format!("{key}.period"), settings.period, least, most)?;
    for (name, types) in [
        ("content_types", &settings.content_types),
        ("barred_types", &settings.barred_types),
    ] {
        for (index, pattern) in types.iter().enumerate() {
            rule(
                is_type_pattern(pattern),
                &format!("{key}.{name}[{index}]"),
                || {
                    format!(
                        "\"{pattern}\" is not allowed; allowed: such as \"text/plain\", \"image/*\""
                    )
                },
            )?;
        }
    }
    Ok(())
}

/// Whether this is a media type without parameters, or all of one kind.
fn is_type_pattern(pattern: &str) -> bool {
    let is_token = |part: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(legal)
    };
    let parts = pattern.split_once('/');
    parts.is_some_and(|(kind, subtype)| is_token(kind) && (subtype == "*" || is_token(subtype)))
}

/// Each rule must be about somebody; the error names the rule below `key`.
fn sender_rules(rules: &[SenderRule], key: &str) -> Result<(), (String, String)> {
    for (index, each) in rules.iter().enumerate() {
        if let Err(problem) = each.subject() {
            let key = format!("{key}[{index}].from");
            let allowed = "a URI such as \"sip:alice@example.com\" or \"tel:+15550100\", a domain, \
                           or \"anonymous\"";
            let text = format!(
                "\"{}\" is not allowed: {problem}; allowed: {allowed}",
                each.from
            );
            return Err((key, text));
        }
    }
    Ok(())
}

fn one_secret(account: &Account, needed: bool) -> Result<(), String> {
    let user = &account.user;
    match (&account.password, &account.ha1) {
        (Some(_), Some(_)) => Err(format!(
            "\"{user}\" has two secrets; allowed: one of password, password_file, ha1"
        )),
        (Some(password), None) if password.is_empty() => Err(format!(
            "\"{user}\" has an empty password; allowed: one character or more"
        )),
        (None, None) if needed => Err(format!(
            "\"{user}\" has no secret, which authentication = \"digest\" needs; allowed: one of \
             password, password_file, ha1"
        )),
        _ => Ok(()),
    }
}

/// A challenge goes out before the user is known, so there must be an algorithm all can answer.
fn a_common_algorithm(config: &Config, needed: bool) -> Checked {
    let offered = &config.registrar.algorithms;
    let hashes = || {
        config
            .account
            .iter()
            .filter_map(|account| account.ha1.as_ref())
    };
    let common = offered.iter().any(|algorithm| match algorithm {
        DigestAlgorithm::Md5 => hashes().all(|ha1| ha1.md5().is_some()),
        DigestAlgorithm::Sha256 => hashes().all(|ha1| ha1.sha256().is_some()),
    });
    rule(common || !needed, "account", || {
        "no algorithm in registrar.algorithms is one that every ha1 is given for; allowed: at \
         least one that all accounts have"
            .to_owned()
    })
}

/// The first rule that the names of an account break: the key, and what is wrong with it.
pub fn check_names(user: &str, tel: Option<&str>) -> Result<(), (&'static str, String)> {
    if !is_user(user) {
        let allowed = "allowed: the user part of an address, without \"@\"";
        return Err(("user", format!("\"{user}\" is not allowed; {allowed}")));
    }
    if is_reserved(user) {
        let problem = format!("\"{user}\" is not allowed: the server itself uses that name");
        return Err(("user", problem));
    }
    match tel {
        Some(tel) if !is_global_number(tel) => Err((
            "tel",
            format!("\"{tel}\" is not allowed; allowed: a global number such as \"+15550100\""),
        )),
        _ => Ok(()),
    }
}

fn is_user(user: &str) -> bool {
    !user.is_empty()
        && user.len() <= 255
        && !user
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "@:;?<>\"\\".contains(c))
}

fn is_global_number(tel: &str) -> bool {
    tel.strip_prefix('+').is_some_and(|rest| {
        rest.bytes()
            .all(|byte| byte.is_ascii_digit() || b"-.()".contains(&byte))
            && (1..=32).contains(&digits(rest).len())
    })
}

fn digits(tel: &str) -> String {
    tel.chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> (String, String) {
        let config: Config = toml::from_str(text).unwrap();
        accounts(&config).unwrap_err()
    }

    fn holds(text: &str) {
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(accounts(&config), Ok(()));
    }

    #[test]
    fn under_digest_each_account_has_exactly_one_secret() {
        let digest = "[registrar]\nauthentication = \"digest\"\n[[account]]\nuser = \"bob\"\n";
        assert!(broken(digest).1.contains("no secret"));
        holds("[[account]]\nuser = \"bob\"\n");
        holds(&format!("{digest}password = \"x\"\n"));
        assert!(
            broken(&format!("{digest}password = \"\"\n"))
                .1
                .contains("empty password")
        );
        let hash = "0".repeat(32);
        let two = format!("{digest}password = \"x\"\nha1 = \"{hash}\"\n");
        assert!(broken(&two).1.contains("two secrets"));
    }

    #[test]
    fn all_accounts_can_answer_one_challenge() {
        let (md5, sha256) = ("0".repeat(32), "0".repeat(64));
        let text = format!(
            "[registrar]\nauthentication = \"digest\"\n\
             [[account]]\nuser = \"a\"\nha1 = \"{md5}\"\n[[account]]\nuser = \"b\"\n"
        );
        assert_eq!(broken(&format!("{text}ha1 = \"{sha256}\"\n")).0, "account");
        holds(&format!("{text}ha1 = [\"{md5}\", \"{sha256}\"]\n"));
        let only_sha256 = text.replace(
            "[[account]]\nuser = \"a\"",
            "algorithms = [\"sha-256\"]\n[[account]]\nuser = \"a\"",
        );
        assert_eq!(
            broken(&format!("{only_sha256}password = \"x\"\n")).0,
            "account"
        );
    }

    #[test]
    fn users_and_numbers_belong_to_one_account() {
        let twice = "[[account]]\nuser = \"a\"\n[[account]]\nuser = \"a\"\n";
        assert_eq!(broken(twice).0, "account[1].user");
        let number = "[[account]]\nuser = \"a\"\ntel = \"+1 5\"\n";
        assert_eq!(broken(number).0, "account[0].tel");
        let same = "[[account]]\nuser = \"a\"\ntel = \"+1-5\"\n\
                    [[account]]\nuser = \"b\"\ntel = \"+15\"\n";
        assert_eq!(broken(same).0, "account[1].tel");
        assert_eq!(broken("[[account]]\nuser = \"a@b\"\n").0, "account[0].user");
    }
    #[test]
    fn names_the_server_uses_itself_are_taken() {
        for name in ["system", "deferred", "Deferred"] {
            let text = format!("[[account]]\nuser = \"{name}\"\n");
            let (key, problem) = broken(&text);
            assert_eq!(key, "account[0].user");
            assert!(problem.contains("itself"), "{problem}");
        }
    }

    #[test]
    fn a_rule_about_nobody_is_found() {
        let rules = |from: &str| {
            format!(
                "[[account]]\nuser = \"a\"\n[account.settings]\nrules = [\
                 {{ from = \"x.test\", action = \"allow\" }}, \
                 {{ from = \"{from}\", action = \"block\" }}]\n"
            )
        };
        holds(&rules("sip:b@x.test"));
        let (key, problem) = broken(&rules("b@x.test"));
        assert_eq!(key, "account[0].settings.rules[1].from");
        assert!(problem.contains("no domain"), "{problem}");
    }
}
