//! Octets of spools that wait for the store, and what must not overtake them: what is asked of spools, and
//! messages for a recipient one of whose messages is among it, for they keep their order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::identity::Identity;
use crate::store::request::{Body, BodySource, StoreRequest, StoreToken};

/// A line of its own, in the order in which things were asked.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    line: VecDeque<StoreRequest>,
    /// The messages that wait in it, by recipient and by who asked.
    recipients: BTreeMap<Identity, usize>,
    tokens: BTreeSet<StoreToken>,
}

impl Bulk {
    /// Whether a request has to stand behind what waits here.
    pub(super) fn holds_back(&self, request: &StoreRequest) -> bool {
        if self.line.is_empty() {
            return false;
        }
        match request {
            StoreRequest::Abandon { token } => self.tokens.contains(token),
            request => {
                is_about_spool(request)
                    || recipient(request).is_some_and(|who| self.recipients.contains_key(who))
            }
        }
    }

    pub(super) fn push(&mut self, request: StoreRequest) {
        if let StoreRequest::Put { token, message, .. } = &request {
            *self
                .recipients
                .entry(message.recipient.clone())
                .or_default() += 1;
            self.tokens.insert(*token);
        }
        self.line.push_back(request);
    }

    pub(super) fn pop(&mut self) -> Option<StoreRequest> {
        let request = self.line.pop_front()?;
        if let StoreRequest::Put { token, message, .. } = &request {
            self.tokens.remove(token);
            if let Some(count) = self.recipients.get_mut(&message.recipient) {
                *count -= 1;
                if *count == 0 {
                    self.recipients.remove(&message.recipient);
                }
            }
        }
        Some(request)
    }

    /// Puts back what was taken out last.
    pub(super) fn push_front(&mut self, request: StoreRequest) {
        self.push(request);
        self.line.rotate_right(1);
    }

    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether nothing is remembered of what waited.
    #[cfg(test)]
    pub(super) fn is_forgotten(&self) -> bool {
        self.line.is_empty() && self.recipients.is_empty() && self.tokens.is_empty()
    }

    /// Memory of the line itself, about.
    pub(super) fn footprint(&self) -> usize {
        self.line.capacity() * size_of::<StoreRequest>()
    }
}

fn is_about_spool(request: &StoreRequest) -> bool {
    match request {
        StoreRequest::Append { .. } | StoreRequest::Sync { .. } | StoreRequest::Drop { .. } => true,
        StoreRequest::Read { source, .. } => matches!(source, BodySource::Spool(_)),
        StoreRequest::Put { body, .. } => matches!(body, Body::Spooled { .. }),
        _ => false,
    }
}

/// Whose queue grows or is read.
fn recipient(request: &StoreRequest) -> Option<&Identity> {
    match request {
        StoreRequest::Put { message, .. } => Some(&message.recipient),
        StoreRequest::Load { recipient, .. } => Some(recipient),
        _ => None,
    }
}
