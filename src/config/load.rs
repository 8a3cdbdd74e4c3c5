//! Reads the file and the environment, and says where a mistake stands.
//!
//! Each source is checked on its own first, so that an error can name it; then the environment is
//! laid over the file.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table};

use super::check;
use super::environment::{covers, key_of_variable, lay_over, read_variable};
use super::schema::{Account, Config};
use super::secret::Secret;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, from 1.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// Nobody wrote it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Default => f.write_str("defaults"),
        }
    }
}

/// Why there is no configuration. Each variant's text is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A value is wrong.
    #[error("{origin}: {}{problem}", prefix(key))]
    Invalid {
        /// Where it stands.
        origin: Origin,
        /// Its dotted key; empty if the text is not TOML.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

fn prefix(key: &str) -> String {
    match key {
        "" => String::new(),
        key => format!("{key}: "),
    }
}

impl Config {
    /// Reads `path`, lays `environment` over it, and checks the whole. Variables that do not begin
    /// with `RESTANTE_` are passed over.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                let path = path.to_owned();
                ConfigError::Unreadable { path, error }
            })?,
            None => String::new(),
        };
        Self::read(path.unwrap_or(Path::new("")), &text, environment)
    }

    /// As [`Config::load`], of a text alone.
    pub fn of_text(text: &str) -> Result<Self, ConfigError> {
        Self::read(Path::new(""), text, std::iter::empty())
    }

    /// As [`Config::load`], of a file whose text is already there.
    fn read(
        path: &Path,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let file = File::parse(path, text)?;
        let mut merged: Table = toml::from_str(text).map_err(|error| file.blame(&error))?;
        let mut variables = BTreeMap::new();
        for (name, value) in environment {
            if let Some(key) = key_of_variable(&name)? {
                lay_over(&mut merged, &key, read_variable(&name, &key, &value)?);
                variables.insert(key, name);
            }
        }
        let origin_of = |key: &str| match variables.iter().find(|(name, _)| covers(name, key)) {
            Some((_, variable)) => Origin::Environment(variable.clone()),
            None => file.origin_of(key),
        };
        let invalid = |(key, problem): (String, String)| ConfigError::Invalid {
            origin: origin_of(&key),
            key,
            problem,
        };
        let mut config: Self = merged
            .try_into()
            .map_err(|error: toml::de::Error| invalid((String::new(), tidy(error.message()))))?;
        read_password_files(&mut config.account, path).map_err(invalid)?;
        if !config.admin.token_file.as_os_str().is_empty() {
            let folder = path.parent().unwrap_or(Path::new(""));
            config.admin.token_file = folder.join(&config.admin.token_file);
        }
        check::check(&config).map_err(invalid)?;
        Ok(config)
    }
}

/// The configuration file, kept with its positions.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

impl<'a> File<'a> {
    fn parse(path: &'a Path, text: &'a str) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = line_of(text, start);
            invalid_at(path, line, String::new(), tidy(error.message()))
        };
        let root = DeTable::parse(text).map_err(syntax)?;
        let file = Self { path, text, root };
        match toml::from_str::<Config>(text) {
            Ok(_) => Ok(file),
            Err(error) => Err(file.blame(&error)),
        }
    }

    /// Turns serde's error into one that names line and key.
    fn blame(&self, error: &toml::de::Error) -> ConfigError {
        let start = error.span().map_or(0, |span| span.start);
        let key = key_at(self.root.get_ref(), start).unwrap_or_default();
        invalid_at(
            self.path,
            line_of(self.text, start),
            key,
            tidy(error.message()),
        )
    }

    /// Where `key` (as in `sip.listen` or `account[1].tel`) stands, or the nearest table above it.
    fn origin_of(&self, key: &str) -> Origin {
        let mut span = None;
        let mut table = Some(self.root.get_ref());
        for part in key.split('.') {
            let (name, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
                Some((name, index)) => (name, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let Some((key, value)) = table.and_then(|table| entry(table, name)) else {
                break;
            };
            span = Some(key.clone());
            let value = match (value.get_ref(), index) {
                (DeValue::Array(array), Some(index)) => array.get(index),
                _ => Some(value),
            };
            if let (Some(value), Some(_)) = (value, index) {
                span = Some(value.span());
            }
            table = value.and_then(|value| value.get_ref().as_table());
        }
        match span {
            Some(span) => Origin::File {
                path: self.path.to_owned(),
                line: line_of(self.text, span.start),
            },
            None => Origin::Default,
        }
    }
}

fn entry<'t, 'a>(
    table: &'t DeTable<'a>,
    name: &str,
) -> Option<(Range<usize>, &'t Spanned<DeValue<'a>>)> {
    table
        .iter()
        .find(|(key, _)| key.get_ref() == name)
        .map(|(key, value)| (key.span(), value))
}

fn invalid_at(path: &Path, line: usize, key: String, problem: String) -> ConfigError {
    let path = path.to_owned();
    let origin = Origin::File { path, line };
    ConfigError::Invalid {
        origin,
        key,
        problem,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The dotted key whose name or value covers `offset`; the deepest one, because the span of a table
/// does not always cover its keys.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        if let Some(deeper) = key_in(value, offset) {
            return Some(format!("{name}{deeper}"));
        }
        let here = key.span().contains(&offset) || value.span().contains(&offset);
        here.then(|| name.to_string())
    })
}

fn key_in(value: &Spanned<DeValue<'_>>, offset: usize) -> Option<String> {
    match value.get_ref() {
        DeValue::Table(table) => key_at(table, offset).map(|key| format!(".{key}")),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(index, value)| {
            let here = || value.span().contains(&offset).then(String::new);
            let deeper = key_in(value, offset).or_else(here)?;
            Some(format!("[{index}]{deeper}"))
        }),
        _ => None,
    }
}

/// serde speaks of fields and of backquotes; the reader knows keys.
pub(super) fn tidy(message: &str) -> String {
    message
        .replacen("unknown field", "unknown key", 1)
        .replacen("missing field", "missing key", 1)
        .replace('\n', " ")
}

/// Fills in the passwords that stand in files of their own.
fn read_password_files(accounts: &mut [Account], config: &Path) -> Result<(), (String, String)> {
    for (index, account) in accounts.iter_mut().enumerate() {
        let Some(file) = &account.password_file else {
            continue;
        };
        let key = format!("account[{index}].password_file");
        if account.password.is_some() {
            return Err((key, "not allowed together with password".to_owned()));
        }
        let path = config.parent().unwrap_or(Path::new("")).join(file);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| (key.clone(), format!("{}: {error}", path.display())))?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() {
            let problem = format!("{}: the first line is empty", path.display());
            return Err((key, problem));
        }
        account.password = Some(Secret::new(password));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Period;
    use proptest::prelude::*;

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::read(Path::new("restante.toml"), text, environment).map_err(|e| e.to_string())
    }

    #[test]
    fn no_file_and_no_environment_is_a_configuration() {
        let config = Config::load(None, std::iter::empty()).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn a_wrong_word_is_named_with_file_line_key_and_what_is_allowed() {
        let text = "domain = \"a.test\"\n[registrar]\nauthentication = \"digset\"\n";
        assert_eq!(
            read(text, &[]).unwrap_err(),
            "restante.toml:3: registrar.authentication: \"digset\" is not allowed; \
             allowed: \"digest\", \"none\""
        );
    }

    /// Keys whose values may hold line ends, for they reach no header field of SIP or MSRP: files, a secret that
    /// clients of the admin interface repeat, what is logged.
    const INSIDE: [&str; 7] = [
        "data_dir",
        "msrp.certificate",
        "msrp.private_key",
        "msrp.authorities",
        "admin.token",
        "admin.token_file",
        "log.filter",
    ];
    const CONTROLS: [&str; 5] = ["\\r\\nX: y", "\\nX: y", "\\r", "\\u0000", "\\u007f"];

    /// Asserts that a key with this value is refused where it stands, with a control character anywhere.
    fn is_refused_with_controls(key: &str, value: &str, text: impl Fn(&str) -> String) {
        for control in CONTROLS {
            for at in (0..=value.len()).filter(|at| value.is_char_boundary(*at)) {
                let (before, after) = value.split_at(at);
                let text = text(&format!("\"{before}{control}{after}\""));
                let error = read(&text, &[]).map(|_| ()).expect_err(&text);
                let place = error.split_once(": ").expect("file and line").1;
                assert!(error.starts_with("restante.toml:"), "{error}");
                assert!(place.starts_with(key), "{text}: {error}");
            }
        }
    }

    #[test]
    fn no_key_lets_a_control_character_into_a_header_field() {
        let defaults = toml::Table::try_from(Config::default()).expect("a table");
        let mut sections = vec![(String::new(), &defaults)];
        for (name, value) in &defaults {
            sections.extend(value.as_table().map(|table| (name.clone(), table)));
        }
        let mut refused = 0;
        for (section, table) in sections {
            for (key, value) in table {
                let (head, name) = match section.as_str() {
                    "" => (String::new(), key.clone()),
                    section => (format!("[{section}]\n"), format!("{section}.{key}")),
                };
                let is_list = value.is_array();
                let first = value.as_array().and_then(|list| list.first());
                let text = first.unwrap_or(value).as_str();
                let known = ["account", "client", "peer"].contains(&name.as_str());
                if INSIDE.contains(&name.as_str()) || known || (text.is_none() && !is_list) {
                    continue;
                }
                is_refused_with_controls(&name, text.unwrap_or("x"), |value| match is_list {
                    true => format!("{head}{key} = [{value}]\n"),
                    false => format!("{head}{key} = {value}\n"),
                });
                refused += 1;
            }
        }
        assert!(refused > 50, "{refused} keys hold text");
    }

    #[test]
    fn no_account_and_no_peer_lets_a_control_character_into_a_header_field() {
        let account = |line: &str| format!("[[account]]\nuser = \"a\"\n{line}");
        for (key, value) in [("content_types", "text/plain"), ("barred_types", "image/*")] {
            let key = format!("account[0].settings.{key}");
            let name = key.rsplit('.').next().expect("a name");
            is_refused_with_controls(&key, value, |value| {
                account(&format!("settings = {{ {name} = [{value}] }}\n"))
            });
        }
        for from in ["sip:b@x.test", "tel:+15550100", "x.test", "anonymous"] {
            is_refused_with_controls("account[0].settings.rules[0].from", from, |from| {
                let rule = format!("{{ from = {from}, action = \"block\" }}");
                account(&format!("settings = {{ rules = [{rule}] }}\n"))
            });
        }
        is_refused_with_controls("account[0].user", "bob", |user| {
            format!("[[account]]\nuser = {user}\n")
        });
        is_refused_with_controls("account[0].tel", "+15550100", |tel| {
            account(&format!("tel = {tel}\n"))
        });
        is_refused_with_controls("peer[0].domain", "x.test", |domain| {
            format!("[[peer]]\ndomain = {domain}\n")
        });
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let error = read("[sip]\n\nlisten_on = []\n", &[]).unwrap_err();
        assert!(
            error.starts_with("restante.toml:3: sip.listen_on: unknown key `listen_on`, expected"),
            "{error}"
        );
        assert!(error.contains("`advertise`"), "{error}");
        let error = read("[spi]\n", &[]).unwrap_err();
        assert!(
            error.starts_with("restante.toml:1: spi: unknown key"),
            "{error}"
        );
    }

    #[test]
    fn a_mistake_inside_a_list_is_named_with_its_place() {
        let text = "[deferral]\nretry = [\n  \"30s\",\n  \"soon\",\n]\n";
        let error = read(text, &[]).unwrap_err();
        assert!(
            error.starts_with("restante.toml:4: deferral.retry[1]: \"soon\" is not a duration"),
            "{error}"
        );
        let text = "[[account]]\nuser = \"a\"\n[[account]]\nusr = \"b\"\n";
        let error = read(text, &[]).unwrap_err();
        assert!(
            error.starts_with("restante.toml:4: account[1].usr: unknown key"),
            "{error}"
        );
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        let error = read("domain = \"a\"\ndata_dir = \n", &[]).unwrap_err();
        assert!(error.starts_with("restante.toml:2: "), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Some(Path::new("/nonexistent/x.toml")), std::iter::empty());
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("/nonexistent/x.toml: cannot be read"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_wins_over_the_file_with_literals_and_bare_strings() {
        let text = "shards = 2\n[deferral]\nlifetime = \"1d\"\nenabled = true\n";
        let config = read(
            text,
            &[
                ("RESTANTE_DEFERRAL__LIFETIME", "2d"),
                ("RESTANTE_DEFERRAL__RETRY", "[\"1s\", \"2s\"]"),
                ("RESTANTE_DEFERRAL__ENABLED", "false"),
                ("RESTANTE_DOMAIN", "\"quoted.test\""),
                ("RESTANTE_REGISTRAR__REALM", "42"),
                ("RESTANTE_SIP__LISTEN", "[\"udp://127.0.0.1:0\"]"),
                ("RESTANTE_ACCOUNT", "[{user = \"bob\", password = \"7\"}]"),
                ("PATH", "/bin"),
            ],
        )
        .unwrap();
        assert_eq!(config.shards, 2);
        assert_eq!(config.deferral.lifetime, Period::seconds(2 * 86_400));
        assert_eq!(config.deferral.retry.len(), 2);
        assert!(!config.deferral.enabled);
        assert_eq!(config.domain, "quoted.test");
        assert_eq!(config.registrar.realm, "42");
        assert_eq!(config.sip.listen.len(), 1);
        assert_eq!(config.account[0].user, "bob");
    }

    #[test]
    fn a_bare_string_may_stand_for_a_list_of_one() {
        let config = read("", &[("RESTANTE_SIP__LISTEN", "udp://127.0.0.1:0")]).unwrap();
        assert_eq!(config.sip.listen.len(), 1);
        let error = read("", &[("RESTANTE_SIP__LISTEN", "5060")]).unwrap_err();
        assert!(error.contains("\"5060\" is not a listener"), "{error}");
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = read("", &[("RESTANTE_SIP__LISTEN", "[\"sip:1\"]")]).unwrap_err();
        assert!(
            error.starts_with(
                "environment variable RESTANTE_SIP__LISTEN: sip.listen: \"sip:1\" is not a listener"
            ),
            "{error}"
        );
        let error = read("", &[("RESTANTE_REGISTRAR__AUTHENTICATION", "digset")]).unwrap_err();
        assert!(error.ends_with("allowed: \"digest\", \"none\""), "{error}");
        let error = read("", &[("RESTANTE_SHARDS", "many")]).unwrap_err();
        assert!(
            error.contains("shards: invalid type: string \"many\", expected u16"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_variable_with_a_section_is_refused_and_a_foreign_one_is_passed_over() {
        let error = read("", &[("RESTANTE_SIP__PORT", "1")]).unwrap_err();
        assert!(error.contains("unknown key sip.port"), "{error}");
        let error = read("", &[("RESTANTE_SIP_LISTEN", "1")]).unwrap_err();
        assert!(
            error.contains("did you mean RESTANTE_SIP__LISTEN?"),
            "{error}"
        );
        read(
            "",
            &[("RESTANTE_SERVICE_HOST", "10.0.0.1"), ("RESTANTE_SIP", "x")],
        )
        .unwrap();
    }

    #[test]
    fn a_broken_rule_between_keys_is_named_where_it_was_written() {
        let text = "[sip]\nlisten = []\n";
        let error = read(text, &[]).unwrap_err();
        assert!(
            error.starts_with("restante.toml:2: sip.listen: "),
            "{error}"
        );
        let error = read(text, &[("RESTANTE_SIP__LISTEN", "[]")]).unwrap_err();
        assert!(
            error.starts_with("environment variable RESTANTE_SIP__LISTEN: sip.listen: "),
            "{error}"
        );
        let text = "[[account]]\nuser = \"bob\"\n\n[[account]]\nuser = \"bob\"\n";
        let error = read(text, &[]).unwrap_err();
        assert!(
            error.starts_with("restante.toml:5: account[1].user: "),
            "{error}"
        );
    }

    #[test]
    fn a_password_file_stands_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bob.secret"), "hunter2\n").unwrap();
        let path = folder.path().join("restante.toml");
        std::fs::write(
            &path,
            "[[account]]\nuser = \"bob\"\npassword_file = \"bob.secret\"\n",
        )
        .unwrap();
        let config = Config::load(Some(&path), std::iter::empty()).unwrap();
        assert_eq!(config.account[0].password, Some(Secret::new("hunter2")));
        std::fs::write(
            &path,
            "[[account]]\nuser = \"bob\"\npassword_file = \"no\"\n",
        )
        .unwrap();
        let error = Config::load(Some(&path), std::iter::empty())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("restante.toml:3: account[0].password_file: "),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_text_and_no_variable_makes_loading_panic(
            text in "(\\[?\\[?[a-z]{1,9}\\]?\\]?( = )?[\"\\[]?\\PC{0,5}\n){0,4}",
            value in "\\PC*",
        ) {
            let _ = read(&text, &[("RESTANTE_SIP__LISTEN", &value), ("RESTANTE_DOMAIN", &value)]);
        }
    }
}
