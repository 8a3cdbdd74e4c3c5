//! An account made while the server runs, as the store keeps it: a document, beside the accounts of the
//! configuration file. Of the password only the hashes of RFC 7616 §3.4.2 are kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::SettingsOverrides;
use crate::identity::Identity;
use crate::sip::digest::Hashes;

/// Names a document that is an account.
const PREFIX: &str = "account/";

/// An account in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAccount {
    /// The user part of the address, unescaped.
    pub user: String,
    /// A telephone number that is an address of the same user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tel: Option<String>,
    /// What this user wants otherwise than `[users]` says.
    #[serde(default)]
    pub settings: SettingsOverrides,
    /// When it was made, in milliseconds since 1970.
    #[serde(default)]
    pub created_at: u64,
    /// When it was changed last.
    #[serde(default)]
    pub changed_at: u64,
    /// The realm that the hashes are for.
    realm: String,
    /// By the names that the user proves to be.
    ha1: Vec<NamedHashes>,
}

/// Hashes of `name:realm:password`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct NamedHashes {
    name: String,
    md5: String,
    sha256: String,
}

impl fmt::Debug for NamedHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl StoredAccount {
    /// An account of this domain; without a password nobody can prove to be the user.
    pub fn new(user: &str, domain: &str, password: Option<&str>, realm: &str) -> Self {
        let mut account = Self {
            user: user.to_owned(),
            tel: None,
            settings: SettingsOverrides::default(),
            created_at: 0,
            changed_at: 0,
            realm: realm.to_owned(),
            ha1: Vec::new(),
        };
        if let Some(password) = password {
            account.set_password(password, domain, realm);
        }
        account
    }

    /// Another password. IMS clients prove to be `user@domain`, others to be `user`.
    pub fn set_password(&mut self, password: &str, domain: &str, realm: &str) {
        let full = Identity::new(&self.user, domain);
        realm.clone_into(&mut self.realm);
        self.ha1 = [self.user.clone(), full.as_str().to_owned()]
            .into_iter()
            .map(|name| {
                let hashes = Hashes::of_password(&name, realm, password);
                NamedHashes {
                    md5: hashes.md5.unwrap_or_default().into(),
                    sha256: hashes.sha256.unwrap_or_default().into(),
                    name,
                }
            })
            .collect();
    }

    /// Whether somebody can prove to be this user in `realm`: the hashes of a password hold for one.
    pub fn can_prove(&self, realm: &str) -> bool {
        !self.ha1.is_empty() && self.realm == realm
    }

    /// The names that the user proves to be, and their hashes.
    pub fn credentials(&self) -> impl Iterator<Item = (&str, Hashes)> {
        self.ha1.iter().map(|named| {
            let hashes = Hashes {
                md5: Some(named.md5.as_str().into()),
                sha256: Some(named.sha256.as_str().into()),
            };
            (named.name.as_str(), hashes)
        })
    }

    /// The name of the document of this user's account.
    pub fn key_of(user: &str) -> Box<str> {
        format!("{PREFIX}{user}").into()
    }

    /// The document's octets.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads a document; `None` if it is no account.
    pub fn decode(key: &str, value: &[u8]) -> Option<Result<Self, serde_json::Error>> {
        key.strip_prefix(PREFIX)?;
        Some(serde_json::from_slice(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_comes_back_as_it_was_kept_and_holds_no_password() {
        let mut account = StoredAccount::new("dave", "im.test", Some("open sesame"), "lab");
        account.tel = Some("+15550".to_owned());
        let octets = account.encode().unwrap();
        assert!(!String::from_utf8_lossy(&octets).contains("sesame"));
        let key = StoredAccount::key_of("dave");
        let back = StoredAccount::decode(&key, &octets).unwrap().unwrap();
        assert_eq!(back, account);
        assert!(back.can_prove("lab") && !back.can_prove("other"));
        assert!(StoredAccount::decode("other/dave", &octets).is_none());
        assert!(StoredAccount::decode(&key, b"{").unwrap().is_err());
        let (_, hashes) = back.credentials().next().unwrap();
        assert!(!format!("{account:?}").contains(&*hashes.md5.unwrap()));
    }
}
