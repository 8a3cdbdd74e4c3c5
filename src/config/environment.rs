//! Environment variables: which key each stands for, and the value it gives.
//!
//! Values are TOML literals; what does not fit as one is taken as a bare string, or as a list of
//! that one string.

use toml::{Table, Value};

use super::load::{ConfigError, Origin, tidy};
use super::schema::Config;

const PREFIX: &str = "RESTANTE_";

/// The dotted key a variable stands for; `None` if it is not ours.
///
/// A name without `__` that is no key is passed over, because Kubernetes sets such variables for a
/// service that is called `restante`; the likely slip of a single `_` is refused.
pub(super) fn key_of_variable(variable: &str) -> Result<Option<String>, ConfigError> {
    let Some(name) = variable.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    let key = name.to_ascii_lowercase().replace("__", ".");
    if is_key(&key) {
        return Ok(Some(key));
    }
    let problem = match meant(&key) {
        Some(meant) => format!("unknown; did you mean {meant}?"),
        None if key.contains('.') => {
            format!("unknown key {key}; `restante config` prints all keys")
        }
        None => return Ok(None),
    };
    Err(ConfigError::Invalid {
        origin: Origin::Environment(variable.to_owned()),
        key: String::new(),
        problem,
    })
}

fn is_key(key: &str) -> bool {
    match key.split_once('.') {
        None => {
            let section = Config::SECTIONS.iter().any(|(section, _)| *section == key);
            !section && Config::KEYS.iter().any(|(name, _)| *name == key)
        }
        Some((section, key)) => Config::SECTIONS
            .iter()
            .filter(|(name, _)| *name == section)
            .any(|(_, keys)| keys.iter().any(|(name, _)| *name == key)),
    }
}

fn meant(key: &str) -> Option<String> {
    Config::SECTIONS.iter().find_map(|(section, keys)| {
        let name = key.strip_prefix(section)?.strip_prefix('_')?;
        let known = keys.iter().any(|(key, _)| *key == name);
        let (section, name) = (section.to_ascii_uppercase(), name.to_ascii_uppercase());
        known.then(|| format!("{PREFIX}{section}__{name}"))
    })
}

/// The value of a variable: the TOML literal if that fits the key, else the bare string, else a list
/// of that one string.
pub(super) fn read_variable(variable: &str, key: &str, text: &str) -> Result<Value, ConfigError> {
    let fits = |value: &Value| {
        let mut table = Table::new();
        lay_over(&mut table, key, value.clone());
        table.try_into::<Config>().map(|_| ())
    };
    let bare = Value::String(text.to_owned());
    let list = Value::Array(vec![bare.clone()]);
    let mut problems = Vec::new();
    for value in text.parse().into_iter().chain([bare, list]) {
        match fits(&value) {
            Ok(()) => return Ok(value),
            Err(error) => problems.push(tidy(error.message())),
        }
    }
    // What is wrong with the value says more than that its type is wrong.
    let telling = problems.iter().position(|p| !p.starts_with("invalid type"));
    Err(ConfigError::Invalid {
        origin: Origin::Environment(variable.to_owned()),
        key: key.to_owned(),
        problem: problems.swap_remove(telling.unwrap_or(0)),
    })
}

/// Whether a variable for `set` decides `key`: the same key, or a part of a list.
pub(super) fn covers(set: &str, key: &str) -> bool {
    key.strip_prefix(set)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
}

pub(super) fn lay_over(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, key)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                inner.insert(key.to_owned(), value);
            }
        }
    }
}
