//! The recipient's say about a request, before any device is tried (cpm-facts §6 rows 8 and 14).
//!
//! What a sender hears tells him no more than the recipient wants: "unavailable" is the 480 of a server
//! that keeps nothing, and a silent block answers like custody, after as long as custody takes. A
//! disposition notification is let in whoever it is from: it speaks of a message the user has sent.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::identity::Identity;
use crate::participating::arrival::ConversationHeaders;
use crate::participating::forward;
use crate::participating::rules::{self, Sender, Verdict};
use crate::participating::service::Service;
use crate::participating::system_message::SystemEvent;
use crate::registrar::Resolved;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::sip::transaction::ServerId;
use crate::sip::warning;
use crate::uri::{Scheme, Uri, tel_digits, unescape};

/// Nobody there, and nothing kept: also what a user says who wants to look like that.
pub const UNAVAILABLE: Rejection = Rejection::new(480, "Temporarily Unavailable");
const FORBIDDEN: Rejection = Rejection::new(403, "Forbidden").with_warning(warning::NOT_AUTHORISED);
/// RFC 5079 §3
const ANONYMITY_DISALLOWED: Rejection =
    Rejection::new(433, "Anonymity Disallowed").with_warning(warning::NO_ANONYMITY);

/// A user is told once in so long that the same person tries to reach him.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Attempts remembered; beyond it a user is not told of new ones.
const MOST_ATTEMPTS: usize = 65_536;
/// A dropped MESSAGE is answered when a kept one would be: a sync takes some milliseconds.
const SYNC: Duration = Duration::from_millis(3);
const SYNC_VARIES_BY: u64 = 5_000;

/// What the recipient's rules make of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes its way.
    Pass,
    /// It is answered like this, and nothing of it remains.
    Refuse(Rejection),
    /// It is answered as if it were kept, and nothing of it remains.
    Drop,
}

/// Of which attempts users have been told, and until when they are not told again.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<(Identity, Identity), Instant, foldhash::fast::RandomState>);

impl Attempts {
    /// Whether the recipient is to be told of this one.
    fn is_news(&mut self, recipient: &Identity, from: &Identity, now: Now) -> bool {
        if self.0.len() >= MOST_ATTEMPTS {
            self.0.retain(|_, until| *until > now.instant);
        }
        let key = (recipient.clone(), from.clone());
        if self.0.get(&key).is_some_and(|until| *until > now.instant)
            || self.0.len() >= MOST_ATTEMPTS
        {
            return false;
        }
        self.0.insert(key, now.instant + TOLD_AGAIN_AFTER);
        true
    }
}

/// Dropped MESSAGEs whose answer is due when a kept one's would be.
pub(super) type Silences = BTreeMap<(Instant, u64), (Message, ServerId, ConversationHeaders)>;

impl Service {
    /// Asks the recipient's rules about a request of `author`.
    pub fn admit(
        &mut self,
        request: &Message,
        author: &Identity,
        recipient: &Identity,
        now: Now,
    ) -> Admission {
        if author == recipient {
            return Admission::Pass;
        }
        let sender = Sender {
            identity: author,
            hidden: forward::is_hidden(request),
        };
        let verdict = rules::verdict(sender, self.settings_of(recipient), |uri| {
            self.person_named(uri)
        });
        tracing::trace!(%recipient, ?verdict, "the recipient's rules");
        match verdict {
            Verdict::Allow => return Admission::Pass,
            Verdict::Unavailable => self.metrics.rules_unavailable.count(),
            Verdict::UnavailableNotify => {
                self.metrics.rules_unavailable.count();
                self.tell_of_attempt(request, sender, recipient, now);
            }
            Verdict::Forbidden | Verdict::AnonymityDisallowed => {
                self.metrics.rules_forbidden.count();
            }
            Verdict::Silent => self.metrics.rules_dropped.count(),
        }
        match verdict {
            Verdict::Forbidden => Admission::Refuse(FORBIDDEN),
            Verdict::AnonymityDisallowed => Admission::Refuse(ANONYMITY_DISALLOWED),
            Verdict::Silent if self.settings.deferral => Admission::Drop,
            _ => Admission::Refuse(UNAVAILABLE),
        }
    }

    /// Whom a URI means: a user of ours by any of his addresses, anybody else by this one.
    fn person_named(&self, uri: &str) -> Option<Identity> {
        let uri = Uri::parse(uri).ok()?;
        if let Resolved::Local(identity) = self.directory.resolve(&uri) {
            return Some(identity);
        }
        let user = uri.user()?;
        Some(match uri.scheme() {
            Scheme::Tel => Identity::new(&tel_digits(user), &self.settings.domain),
            _ => Identity::new(&unescape(user), uri.host()),
        })
    }

    fn tell_of_attempt(
        &mut self,
        request: &Message,
        sender: Sender<'_>,
        recipient: &Identity,
        now: Now,
    ) {
        let nobody = Identity::new("anonymous", "anonymous.invalid");
        let key = if sender.hidden {
            &nobody
        } else {
            sender.identity
        };
        if !self.attempts.is_news(recipient, key, now) {
            return self.metrics.attempts_untold.count();
        }
        let name = match sender.hidden {
            true => "an anonymous sender".to_owned(),
            false => name_of(request, sender.identity),
        };
        let text = format!("attempted contact from {name}");
        self.tell_user(recipient, SystemEvent::AttemptedContact, &text, now);
    }

    /// Answers a MESSAGE as if it had been kept, when that would have been.
    pub(super) fn drop_message(
        &mut self,
        request: Message,
        server: ServerId,
        ids: ConversationHeaders,
        now: Now,
    ) {
        if self.silences.len() >= self.settings.most_under_way || !self.custody.has_room() {
            return self.overloaded(&request, server, now);
        }
        let spread = Duration::from_micros(self.tokens.number() % SYNC_VARIES_BY);
        let number = self.next_number();
        let at = now.instant + SYNC + spread;
        self.silences.insert((at, number), (request, server, ids));
    }

    /// Answers what was dropped long enough ago.
    pub(super) fn answer_silences(&mut self, now: Now) {
        while let Some(entry) = self.silences.first_entry() {
            if entry.key().0 > now.instant {
                return;
            }
            let (request, server, ids) = entry.remove();
            let ids = (ids.conversation.as_str(), ids.contribution.as_str());
            self.accepted(&request, server, Some(ids), now);
        }
    }
}

/// What a sender calls himself, and who he is.
fn name_of(request: &Message, identity: &Identity) -> String {
    let from = request.from().ok();
    let display = from.map_or("", |from| from.display).trim_matches('"');
    let display: String = display
        .chars()
        .filter(|letter| !letter.is_control())
        .take(64)
        .collect();
    match display.trim() {
        "" => format!("sip:{identity}"),
        name => format!("{name} (sip:{identity})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_attempts_is_told_once_a_while() {
        let mut attempts = Attempts::default();
        let (alice, bob) = (
            Identity::new("alice", "im.test"),
            Identity::new("bob", "im.test"),
        );
        assert!(attempts.is_news(&bob, &alice, Now::default()));
        assert!(!attempts.is_news(&bob, &alice, Now::default()));
        assert!(attempts.is_news(&alice, &bob, Now::default()));
        let later = Now::default().plus(TOLD_AGAIN_AFTER);
        assert!(attempts.is_news(&bob, &alice, later));
    }
}
