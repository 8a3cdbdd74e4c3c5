//! What the server itself tells a user: a MESSAGE from `sip:system@DOMAIN`, one sentence in text/plain,
//! and `X-IM-Event` for programs. It waits like any message while the user is away.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::identity::Identity;
use crate::imdn::Dispositions;
use crate::participating::arrival;
use crate::participating::internal::InternalMessage;
use crate::participating::service::Service;
use crate::store::request::{Body, DeferredMessage, MessageKind};

/// The user part of its address; no account may have it.
pub const SYSTEM: &str = "system";
/// How long one waits for a user who is away.
const WAITS: Duration = Duration::from_secs(7 * 24 * 3600);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// Somebody to whom the user is unavailable has tried to reach him.
    AttemptedContact,
    /// Messages wait for the user to fetch them.
    Waiting,
}

impl SystemEvent {
    /// As it stands in `X-IM-Event`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AttemptedContact => "attempted-contact",
            Self::Waiting => "waiting",
        }
    }
}

impl Service {
    /// Tells a user of this shard; kept for him while he is away, if anything is kept here at all.
    pub(super) fn tell_user(&mut self, user: &Identity, event: SystemEvent, text: &str, now: Now) {
        if !self.settings.deferral && self.reach(user).is_none() {
            return;
        }
        let message = self.system_message(user, event, now);
        self.metrics.system_messages.count();
        self.forward(InternalMessage::Accept {
            message: Arc::new(message),
            body: Body::Inline(text.as_bytes().to_vec().into()),
            origin: None,
        });
    }

    /// Its header fields.
    pub(super) fn system_message(
        &mut self,
        user: &Identity,
        event: SystemEvent,
        now: Now,
    ) -> DeferredMessage {
        let system = Identity::new(SYSTEM, &self.settings.domain);
        let reference = self.tokens.token();
        let event = format!("{};ref={reference}", event.name());
        DeferredMessage {
            recipient: user.clone(),
            from: format!("<sip:{system}>"),
            to: format!("<sip:{user}>"),
            kind: MessageKind::Pager,
            conversation: arrival::standing_id(&system, user),
            author: system,
            contribution: self.tokens.token(),
            in_reply_to: None,
            headers: vec![("X-IM-Event".to_owned(), event)],
            content_type: "text/plain".to_owned(),
            message_id: reference,
            date_time: None,
            dispositions: Dispositions::default(),
            accepted_at: now.wall,
            expires_at: now.wall.plus(WAITS.min(self.settings.lifetimes.maximum)),
            duplicate_key: 0,
        }
    }
}
