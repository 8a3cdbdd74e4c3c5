//! Secrets that never print themselves.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// What stands in place of a secret wherever it would be shown.
const MASK: &str = "********";

/// A password. `Debug` and serialisation show a mask.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether nobody gave one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret itself; for computing with it, not for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { MASK })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Hashes of `user:realm:password` (RFC 7616 §3.4.2), kept instead of a password: MD5 (32 hex
/// digits), SHA-256 (64), or both.
#[derive(Clone, PartialEq, Eq)]
pub struct Ha1 {
    md5: Option<String>,
    sha256: Option<String>,
}

impl Ha1 {
    /// The MD5 hash in lower-case hex.
    pub fn md5(&self) -> Option<&str> {
        self.md5.as_deref()
    }

    /// The SHA-256 hash in lower-case hex.
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    fn from_hashes(hashes: &[String]) -> Option<Self> {
        let mut ha1 = Self {
            md5: None,
            sha256: None,
        };
        for hash in hashes {
            let slot = match hash.len() {
                32 => &mut ha1.md5,
                64 => &mut ha1.sha256,
                _ => return None,
            };
            if slot.is_some() || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            *slot = Some(hash.to_ascii_lowercase());
        }
        (!hashes.is_empty()).then_some(ha1)
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Ha1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Ha1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a string or a list of strings")]
        enum Written {
            One(String),
            Several(Vec<String>),
        }
        let hashes = match Written::deserialize(deserializer)? {
            Written::One(hash) => vec![hash],
            Written::Several(hashes) => hashes,
        };
        Self::from_hashes(&hashes).ok_or_else(|| {
            D::Error::custom(
                "not a digest hash; allowed: 32 hex digits (MD5), 64 hex digits (SHA-256), \
                 or a list of one of each",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_only_when_asked() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "********");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_hash_is_recognised_by_its_length() {
        let md5 = "0123456789ABCDEF0123456789abcdef".to_owned();
        let sha256 = md5.repeat(2);
        let both = Ha1::from_hashes(&[sha256.clone(), md5.clone()]).unwrap();
        assert_eq!(both.md5(), Some(md5.to_ascii_lowercase().as_str()));
        assert_eq!(both.sha256(), Some(sha256.to_ascii_lowercase().as_str()));
        assert_eq!(Ha1::from_hashes(&[]), None);
        assert_eq!(Ha1::from_hashes(&[md5.clone(), md5]), None);
        assert_eq!(Ha1::from_hashes(&["x".repeat(32)]), None);
    }
}
