//! Message revocation (RCS, cpm-facts §6): the author of a message that waits takes it back by a MESSAGE
//! of type `application/vnd.gsma.rcsrevoke+xml` to its recipient, and hears by MESSAGE whether that
//! succeeded.
//!
//! The recipient's machine decides, once his queue is known: only the author may, and only what is not
//! on its way to a device. How clients name the elements is not documented in public, so the message is
//! found by any element named `Message-ID` in some spelling; the answer repeats that form with a
//! `Result`.

use std::sync::Arc;

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::clock::Now;
use crate::cpim::{self, Envelope};
use crate::identity::Identity;
use crate::imdn::Dispositions;
use crate::participating::arrival::is_type;
use crate::participating::internal::InternalMessage;
use crate::participating::service::Service;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::ServerId;
use crate::store::request::{Body, DeferredMessage, MessageKind, Settlement};

/// The type of a revocation and of its result.
pub const MEDIA_TYPE: &str = "application/vnd.gsma.rcsrevoke+xml";
/// Octets of a document that is read.
const MOST: usize = 16 * 1024;
/// Revocations that wait for one user's queue to be read.
const MOST_WAITING: usize = 64;

/// A revocation that waits until the recipient's queue has been read.
#[derive(Debug)]
pub struct Revocation {
    request: Message,
    server: ServerId,
    author: Identity,
    message_id: String,
}

/// The message that a MESSAGE revokes, which is a revocation by its type.
pub fn revoked_by(request: &Message) -> Result<String, Rejection> {
    let content_type = request.header(HeaderName::ContentType).unwrap_or_default();
    let body = request.body();
    let document = if is_type(content_type, cpim::MEDIA_TYPE) {
        let envelope = Envelope::parse(body).ok();
        envelope.and_then(|envelope| body.get(envelope.content()))
    } else {
        body.get(..)
    };
    let id = document.and_then(message_id);
    id.ok_or(Rejection::new(400, "Malformed Revocation"))
}

/// The text of the first element that names a message; document types are not read.
fn message_id(document: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(document.get(..document.len().min(MOST))?).ok()?;
    let mut reader = Reader::from_str(text);
    let mut is_named = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                let name = start.local_name();
                let name: &str = name.into_inner();
                let letters = name.chars().filter(char::is_ascii_alphanumeric);
                let name: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
                is_named = name == "messageid";
            }
            Event::Text(text) if is_named => {
                let id = text.xml10_content().trim().to_owned();
                return Some(id).filter(|id| !id.is_empty() && id.len() <= 255);
            }
            Event::DocType(_) | Event::Eof => return None,
            _ => {}
        }
    }
}

impl Service {
    /// An author takes a message back.
    pub(super) fn handle_revocation(
        &mut self,
        request: Message,
        server: ServerId,
        (author, recipient): (Identity, &Identity),
        message_id: String,
        now: Now,
    ) {
        if self.revocations.len() >= self.settings.most_under_way {
            return self.overloaded(&request, server, now);
        }
        let waiting = self.revocations.entry(recipient.clone()).or_default();
        if waiting.len() >= MOST_WAITING {
            return self.overloaded(&request, server, now);
        }
        waiting.push(Revocation {
            request,
            server,
            author,
            message_id,
        });
        self.user(recipient);
        self.serve_revocations(recipient, now);
        self.run_user(recipient, now);
    }

    /// Decides the revocations for a user whose queue is known.
    pub(super) fn serve_revocations(&mut self, user: &Identity, now: Now) {
        if !self.revocations.contains_key(user) {
            return;
        }
        let machine = self.users.get_mut(user);
        if !machine.is_some_and(|machine| machine.wants_to_know()) {
            return;
        }
        for revocation in self.revocations.remove(user).unwrap_or_default() {
            self.revoke(&revocation, user, now);
        }
    }

    fn revoke(&mut self, revocation: &Revocation, user: &Identity, now: Now) {
        let Revocation {
            request,
            server,
            author,
            message_id,
        } = revocation;
        let machine = self.users.get(user);
        let held = machine.and_then(|machine| {
            let (key, seq) = machine.waiting_message(author, message_id)?;
            let is_free = !machine.is_in_flight(&key, seq) && !machine.is_marked(&key, seq);
            is_free.then_some((key, seq))
        });
        let is_revoked = held.is_some();
        if let Some((key, seq)) = held {
            tracing::info!(%author, %user, seq = seq.0, "a message is taken back");
            self.take_out(user, &key, seq, Settlement::Withdrawn);
            self.metrics.messages_revoked.count();
        }
        self.tell_of_revocation(request, author, user, message_id, is_revoked, now);
        let octets = self.reply(request, 200, "OK", None).build();
        self.sip.respond(*server, 200, octets, now);
    }

    fn tell_of_revocation(
        &mut self,
        request: &Message,
        author: &Identity,
        user: &Identity,
        revoked: &str,
        is_revoked: bool,
        now: Now,
    ) {
        if !self.is_local(author) {
            return;
        }
        let result = if is_revoked { "success" } else { "failed" };
        let id = quick_xml::escape::escape(revoked);
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
             <imRevoke xmlns=\"urn:gsma:params:xml:ns:rcs:rcs:imrevoke\">\r\n\
             <Message-ID>{id}</Message-ID>\r\n<Result>{result}</Result>\r\n</imRevoke>\r\n"
        );
        let (from, to) = (format!("<sip:{user}>"), format!("<sip:{author}>"));
        let message_id = self.tokens.token();
        let date_time = cpim::format_date_time(now.wall);
        let wrapper = cpim::Wrapper {
            from: &from,
            to: &to,
            date_time: &date_time,
            message_id: &message_id,
            dispositions: Dispositions::default(),
            content_headers: &[("Content-Type", MEDIA_TYPE)],
        };
        let body = Envelope::wrap(&wrapper, document.as_bytes());
        let conversation = request.header(HeaderName::ConversationId);
        let conversation = conversation.map(|id| id.trim().to_owned());
        let message = DeferredMessage {
            recipient: author.clone(),
            author: user.clone(),
            from,
            to,
            kind: MessageKind::Pager,
            conversation: conversation.unwrap_or_else(|| self.tokens.token()),
            contribution: self.tokens.token(),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: cpim::MEDIA_TYPE.to_owned(),
            message_id,
            date_time: Some(date_time),
            dispositions: Dispositions::default(),
            accepted_at: now.wall,
            expires_at: now.wall.plus(self.settings.lifetimes.default),
            duplicate_key: 0,
        };
        self.forward(InternalMessage::Accept {
            message: Arc::new(message),
            body: Body::Inline(body.into()),
            origin: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_found_however_its_element_is_spelled() {
        for name in ["Message-ID", "message-id", "MessageID", "r:Message-ID"] {
            let text = format!("<?xml version=\"1.0\"?><x><a>no</a><{name}> m1 </{name}></x>");
            assert_eq!(message_id(text.as_bytes()).as_deref(), Some("m1"), "{name}");
        }
        for text in [
            "",
            "<x/>",
            "<Message-ID></Message-ID>",
            "<!DOCTYPE x><Message-ID>m1</Message-ID>",
        ] {
            assert_eq!(message_id(text.as_bytes()), None, "{text}");
        }
    }
}
