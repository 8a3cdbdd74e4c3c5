//! Who wrote the messages whose authors stay unnamed to their recipients (RFC 3323, RFC 3325). Pure.
//!
//! A recipient addresses his receipt to `sip:anonymous@anonymous.invalid`, for that is all he was shown.
//! His own shard knows by the message it speaks of whom it is for. Bounded like the table of receipts.

use std::collections::{BTreeMap, HashMap};

use crate::clock::UnixMillis;
use crate::identity::Identity;
use crate::participating::receipts::{LONGEST_ID, MessageRef, Sent};

/// See the module's text.
#[derive(Debug)]
pub struct HiddenAuthors {
    authors: HashMap<(Identity, Box<str>), (Identity, Place), foldhash::fast::RandomState>,
    order: BTreeMap<Place, (Identity, Box<str>)>,
    most: usize,
    last: u64,
}

/// The end of an entry's time, and a number of its own.
type Place = (UnixMillis, u64);

impl HiddenAuthors {
    /// Remembers at most so many messages.
    pub fn new(most: usize) -> Self {
        Self {
            authors: HashMap::default(),
            order: BTreeMap::new(),
            most,
            last: 0,
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A message of an unnamed author goes to a recipient.
    pub fn sent(&mut self, sent: &Sent, now: UnixMillis) {
        let MessageRef {
            author,
            recipient,
            message_id,
        } = &sent.message;
        if message_id.len() > LONGEST_ID || self.most == 0 {
            return;
        }
        let key = (recipient.clone(), message_id.clone());
        if let Some((_, place)) = self.authors.remove(&key) {
            self.order.remove(&place);
        }
        while let Some(oldest) = self.order.first_entry() {
            if oldest.key().0 > now && self.authors.len() < self.most {
                break;
            }
            self.authors.remove(&oldest.remove());
        }
        self.last += 1;
        let place = (sent.until, self.last);
        self.order.insert(place, key.clone());
        self.authors.insert(key, (author.clone(), place));
    }

    /// Who wrote this message to this recipient, if its author is unnamed to him.
    pub fn author(&self, recipient: &Identity, message_id: &str) -> Option<&Identity> {
        let key = (recipient.clone(), message_id.into());
        self.authors.get(&key).map(|(author, _)| author)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(author: &str, recipient: &str, id: &str, until: u64) -> Sent {
        Sent {
            message: MessageRef {
                author: Identity::new(author, "im.test"),
                recipient: Identity::new(recipient, "im.test"),
                message_id: id.into(),
            },
            until: UnixMillis(until),
        }
    }

    #[test]
    fn only_the_recipient_finds_the_author_of_what_he_got() {
        let mut hidden = HiddenAuthors::new(10);
        hidden.sent(&sent("alice", "bob", "m1", 10), UnixMillis(1));
        let of = |user: &str, id: &str| {
            let found = hidden.author(&Identity::new(user, "im.test"), id);
            found.map(ToString::to_string)
        };
        assert_eq!(of("bob", "m1").as_deref(), Some("alice@im.test"));
        assert_eq!(of("carol", "m1"), None);
        assert_eq!(of("bob", "m2"), None);
    }

    #[test]
    fn entries_end_with_their_time_and_the_bound_holds() {
        let mut hidden = HiddenAuthors::new(2);
        hidden.sent(&sent("alice", "bob", "m1", 10), UnixMillis(1));
        hidden.sent(&sent("alice", "bob", "m1", 50), UnixMillis(1));
        hidden.sent(&sent("alice", "bob", "m2", 60), UnixMillis(20));
        hidden.sent(&sent("alice", "bob", "m3", 70), UnixMillis(30));
        let bob = Identity::new("bob", "im.test");
        assert!(hidden.author(&bob, "m1").is_none());
        assert!(hidden.author(&bob, "m2").is_some() && hidden.author(&bob, "m3").is_some());
        hidden.sent(&sent("alice", "bob", "m4", 99), UnixMillis(65));
        assert_eq!((hidden.authors.len(), hidden.order.len()), (2, 2));
    }
}
