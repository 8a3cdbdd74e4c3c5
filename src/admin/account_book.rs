//! What the operator changes while the server runs: `[traffic]`, and the accounts. Those of the
//! configuration file stay as they are, those made here are documents in the store. One change at a time; a
//! change is durable before any shard hears of it, and every shard has heard of it before the operator does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::config::{Account, Config, TrafficOverrides};
use crate::identity::Identity;
use crate::registrar::{Directory, StoredAccount};

/// Names a document that says whose account is being deleted.
const DELETING: &str = "deleting-account/";

/// A document of the store is no account of this server.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error("the account {key} cannot be read: {error}")]
    Unreadable {
        /// Its name.
        key: Box<str>,
        /// Why.
        error: serde_json::Error,
    },
    /// The configuration file has the user, or the telephone number.
    #[error("the account {0} is set aside: the configuration file has its user or its number")]
    Taken(Box<str>),
}

/// All accounts.
pub struct AccountBook {
    config: Arc<Config>,
    state: Mutex<State>,
    /// Held over a whole change, from the check to the last shard.
    pub(super) changing: tokio::sync::Mutex<()>,
}

struct State {
    directory: Arc<Directory>,
    stored: BTreeMap<String, StoredAccount>,
    /// Users whose messages are being cancelled, because their account was deleted.
    deleting: Vec<String>,
    /// What has been changed of `[traffic]`.
    traffic: TrafficOverrides,
}

/// An account and where it is from.
pub(super) enum Found {
    /// The configuration file.
    File(Account),
    /// Made here.
    Stored(StoredAccount),
}

impl Found {
    pub(super) fn user(&self) -> &str {
        match self {
            Self::File(account) => &account.user,
            Self::Stored(account) => &account.user,
        }
    }
}

impl AccountBook {
    /// The accounts of the file, and those among the documents of the store; documents that cannot be
    /// used are told.
    pub fn restore(
        config: Arc<Config>,
        documents: &[(Box<str>, Bytes)],
    ) -> (Self, Vec<DocumentError>) {
        let mut directory = Directory::new(&config);
        let (mut stored, mut deleting) = (BTreeMap::new(), Vec::new());
        let mut errors = Vec::new();
        for (key, value) in documents {
            if let Some(user) = key.strip_prefix(DELETING) {
                deleting.push(user.to_owned());
            }
            let account = match StoredAccount::decode(key, value) {
                Some(Ok(account)) => account,
                Some(Err(error)) => {
                    let key = key.clone();
                    errors.push(DocumentError::Unreadable { key, error });
                    continue;
                }
                None => continue,
            };
            let identity = Identity::new(&account.user, &config.domain);
            let number = account.tel.as_deref();
            let taken = number
                .and_then(|tel| directory.owner_of_number(tel))
                .is_some();
            if taken || directory.has_account(&identity) {
                errors.push(DocumentError::Taken(key.clone()));
                continue;
            }
            directory = directory.with(&account);
            stored.insert(account.user.clone(), account);
        }
        let state = State {
            directory: Arc::new(directory),
            stored,
            deleting,
            traffic: TrafficOverrides::of(documents),
        };
        let book = Self {
            config,
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::default(),
        };
        (book, errors)
    }

    /// Who the users are.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.state().directory)
    }

    /// What has been changed of `[traffic]`.
    pub(super) fn traffic(&self) -> TrafficOverrides {
        self.state().traffic.clone()
    }

    /// It is durable.
    pub(super) fn set_traffic(&self, traffic: TrafficOverrides) {
        self.state().traffic = traffic;
    }

    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.state().directory.accounts()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a user exists.
    pub fn knows(&self, user: &Identity) -> bool {
        self.state().directory.knows(user)
    }

    /// Users whose messages are still to be cancelled, because their account was deleted.
    pub fn deleting(&self) -> Vec<String> {
        self.state().deleting.clone()
    }

    pub(super) fn find(&self, user: &str) -> Option<Found> {
        let of_file = self.config.account.iter();
        let mut of_file = of_file.filter(|account| account.user == user);
        if let Some(account) = of_file.next() {
            return Some(Found::File(account.clone()));
        }
        let state = self.state();
        state.stored.get(user).cloned().map(Found::Stored)
    }

    /// Accounts in order of their users, after one, at most `limit`.
    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> Vec<Found> {
        let is_after = |user: &str| after.is_none_or(|after| user > after);
        let of_file = self.config.account.iter();
        let of_file = of_file.filter(|account| is_after(&account.user)).cloned();
        let state = self.state();
        let from = match after {
            Some(after) => std::ops::Bound::Excluded(after),
            None => std::ops::Bound::Unbounded,
        };
        let stored = state
            .stored
            .range::<str, _>((from, std::ops::Bound::Unbounded))
            .take(limit);
        let mut page: Vec<Found> = of_file
            .map(Found::File)
            .chain(stored.map(|(_, account)| Found::Stored(account.clone())))
            .collect();
        page.sort_by(|one, other| one.user().cmp(other.user()));
        page.truncate(limit);
        page
    }

    pub(super) fn is_deleting(&self, user: &str) -> bool {
        self.state().deleting.iter().any(|other| other == user)
    }

    /// How many accounts were made here.
    pub(super) fn stored(&self) -> usize {
        self.state().stored.len()
    }

    /// An account is durable: the users as they are from here on.
    pub(super) fn put(&self, account: StoredAccount) -> Arc<Directory> {
        let mut state = self.state();
        state.directory = Arc::new(state.directory.with(&account));
        state.stored.insert(account.user.clone(), account);
        Arc::clone(&state.directory)
    }

    /// An account is gone for good: the users as they are from here on.
    pub(super) fn remove(&self, user: &Identity) -> Arc<Directory> {
        let mut state = self.state();
        state.directory = Arc::new(state.directory.without(user));
        state.stored.remove(user.user());
        Arc::clone(&state.directory)
    }

    pub(super) fn begin_deleting(&self, user: &str) {
        self.state().deleting.push(user.to_owned());
    }

    pub(super) fn end_deleting(&self, user: &str) {
        self.state().deleting.retain(|other| other != user);
    }

    pub(super) fn deleting_key(user: &str) -> Box<str> {
        format!("{DELETING}{user}").into()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(user: &str, tel: Option<&str>) -> (Box<str>, Bytes) {
        let mut account = StoredAccount::new(user, "im.test", Some("secret"), "im.test");
        account.tel = tel.map(str::to_owned);
        (
            StoredAccount::key_of(user),
            account.encode().unwrap().into(),
        )
    }

    fn book(documents: &[(Box<str>, Bytes)]) -> (AccountBook, Vec<DocumentError>) {
        let file = "[registrar]\nauthentication = \"digest\"\n\
            [[account]]\nuser = \"bob\"\npassword = \"b\"\ntel = \"+15550100\"\n";
        AccountBook::restore(Arc::new(toml::from_str(file).unwrap()), documents)
    }

    #[test]
    fn accounts_of_the_store_live_beside_those_of_the_file() {
        let (book, errors) = book(&[document("alice", None), document("carol", Some("+1"))]);
        assert!(errors.is_empty());
        let users: Vec<String> = (book.page(None, 10).iter())
            .map(|found| found.user().to_owned())
            .collect();
        assert_eq!(users, ["alice", "bob", "carol"]);
        assert_eq!(book.page(Some("alice"), 1)[0].user(), "bob");
        assert!(book.knows(&Identity::new("carol", "im.test")));
        let carol = Identity::new("carol", "im.test");
        assert!(!book.remove(&carol).knows(&carol));
        assert!(book.find("carol").is_none());
    }

    #[test]
    fn the_file_wins_and_what_cannot_be_read_is_told() {
        let broken = ("account/eve".into(), Bytes::from_static(b"{"));
        let other = ("something/else".into(), Bytes::new());
        let deleting = ("deleting-account/zoe".into(), Bytes::new());
        let number = document("dave", Some("+1-555-0100"));
        let all = [document("bob", None), number, broken, other, deleting];
        let (book, errors) = book(&all);
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(matches!(book.find("bob"), Some(Found::File(_))));
        assert_eq!((book.len(), book.stored()), (1, 0));
        assert_eq!(book.deleting(), ["zoe"]);
    }
}
