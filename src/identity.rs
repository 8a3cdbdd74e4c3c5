//! A user's canonical identity: the key under which bindings, messages and machines are kept.

use std::fmt;
use std::sync::Arc;

/// `user@host`, the host in lower case, escapes of unreserved characters undone. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    /// Joins a user part that is already unescaped and a host.
    pub fn new(user: &str, host: &str) -> Self {
        let mut text = String::with_capacity(user.len() + 1 + host.len());
        text.push_str(user);
        text.push('@');
        text.push_str(host);
        text[user.len() + 1..].make_ascii_lowercase();
        Self(text.into())
    }

    /// Reads what [`Self::as_str`] gave.
    pub fn read(text: &str) -> Option<Self> {
        let host = text.rfind('@')? + 1;
        if text[host..].bytes().any(|octet| octet.is_ascii_uppercase()) {
            return Some(Self::new(&text[..host - 1], &text[host..]));
        }
        Some(Self(text.into()))
    }

    /// The host.
    pub fn host(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, host)| host)
    }

    /// The user part, unescaped.
    pub fn user(&self) -> &str {
        self.0.rsplit_once('@').map_or(&*self.0, |(user, _)| user)
    }

    /// `user@host`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shard of `user` among `shards`: by identity alone, so that every shard, the store and every
/// start with as many shards agree.
pub fn shard_of(user: &Identity, shards: u16) -> u16 {
    let hash = u64::from(crc32c::crc32c(user.as_str().as_bytes()));
    // The upper bits of the product, instead of a remainder: no division, and all bits count.
    ((hash * u64::from(shards)) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_spread_over_the_shards() {
        let mut counts = [0u32; 4];
        for number in 0..4000 {
            let user = Identity::new(&format!("u{number}"), "im.test");
            counts[usize::from(shard_of(&user, 4))] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_parts_of_an_identity_are_found() {
        let odd = Identity::new("a@b", "IM.Test");
        assert_eq!((odd.user(), odd.host()), ("a@b", "im.test"));
        assert_eq!(Identity::read(odd.as_str()).as_ref(), Some(&odd));
        assert_eq!(Identity::read("a@b@IM.test"), Some(odd));
        assert_eq!(Identity::read("nobody"), None);
    }
}
