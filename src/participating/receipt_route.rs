//! Receipts that are not addressed to their author: their top `IMDN-Route` names us (RFC 5438 §8), or
//! their author is unnamed to who sends them. They are kept at the author's shard and delivered there.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use crate::clock::Now;
use crate::cpim::{self, Envelope};
use crate::identity::Identity;
use crate::multipart::is_type;
use crate::participating::arrival::{self, ConversationHeaders};
use crate::participating::internal::ReceiptOutcome;
use crate::participating::pager::read_receipt;
use crate::participating::receipt_lane::{Asker, NOT_THE_RECIPIENT};
use crate::participating::receipts::Notice;
use crate::participating::service::Service;
use crate::sip::message::{HeaderName, Message};
use crate::sip::splice::Edit;
use crate::sip::transaction::table::ServerId;
use crate::sip::wire;

/// The way a notification is to go on, by its own headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRoute {
    /// The URI of the top `IMDN-Route`.
    pub top: String,
    /// Where it goes when that is taken off: the next `IMDN-Route`, or the `To` of the envelope.
    pub next: Option<String>,
}

impl ReceiptRoute {
    /// Reads it; `None` if the request carries no notification with a route.
    pub fn read(request: &Message) -> Option<Self> {
        static NAME: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"IMDN-Route"));
        NAME.find(request.body())?;
        let envelope = envelope_of(request)?;
        let mut routes = envelope.imdn_route().map(cpim::uri_of);
        let top = routes.next()?.to_owned();
        let next = routes.next().or(envelope.to().map(cpim::uri_of));
        let next = next.map(str::to_owned);
        Some(Self { top, next })
    }
}

fn envelope_of(request: &Message) -> Option<Envelope<'_>> {
    let content_type = request.header(HeaderName::ContentType)?;
    if !is_type(content_type, cpim::MEDIA_TYPE) {
        return None;
    }
    let envelope = Envelope::parse(request.body()).ok()?;
    let disposition = envelope.content_header("Content-Disposition");
    let inner = envelope.content_type();
    let is_receipt =
        crate::imdn::is_notification(inner) || crate::imdn::is_aggregate(inner, disposition);
    is_receipt.then_some(envelope)
}

/// The request without the line of its top `IMDN-Route`; every other octet of the body stays.
pub fn without_top_route(request: &Message) -> Option<Message> {
    let line = envelope_of(request)?.imdn_route_line()?;
    let body = request.body();
    let body = [body.get(..line.start)?, body.get(line.end..)?].concat();
    let mut edit = Edit::new(request);
    edit.replace(HeaderName::ContentLength, &body.len().to_string());
    let edited = edit.finish();
    let head = edited.get(..edited.len().checked_sub(request.body().len())?)?;
    wire::parse(Bytes::from([head, &body].concat())).ok()
}

impl Service {
    /// Who wrote the message a receipt speaks of, when its sender, a user of this shard, was not told.
    pub fn hidden_author(&self, speaker: &Identity, request: &Message) -> Option<Identity> {
        let content_type = request.header(HeaderName::ContentType)?;
        let disposition = request.header(HeaderName::ContentDisposition);
        let notices = Notice::read(content_type, disposition, request.body()).ok()?;
        let first = notices.first()?;
        self.hidden.author(speaker, &first.message_id).cloned()
    }

    /// A receipt goes on to an author who may live on another shard; its sender hears 202 when it is
    /// durable there.
    pub fn hand_on_receipt(
        &mut self,
        request: Message,
        server: ServerId,
        speaker: &Identity,
        author: &Identity,
        now: Now,
    ) {
        let read = self.read_message(&request).and_then(|content| {
            let receipt = read_receipt(&request, speaker, author)?;
            let lifetimes = self.settings.lifetimes;
            let tokens = &mut self.tokens;
            let ids = ConversationHeaders::read(&request, speaker, author, tokens)?;
            let parties = (speaker, author);
            let message =
                arrival::of_message(&request, parties, ids, content, lifetimes, tokens, now);
            Ok((receipt, message))
        });
        match read {
            Ok((receipt, message)) => {
                let body = self.custody_body(request.body().clone());
                let asker = Asker::Request(Box::new(request), server);
                self.hand_receipt(receipt, message, body, asker);
            }
            Err(rejection) => self.reject(&request, server, &rejection, now),
        }
    }

    /// The author's shard has decided.
    pub(super) fn handle_handed_on(
        &mut self,
        request: &Message,
        server: ServerId,
        outcome: ReceiptOutcome,
        now: Now,
    ) {
        match outcome {
            ReceiptOutcome::Taken | ReceiptOutcome::Passed => {
                self.accepted(request, server, None, now);
            }
            ReceiptOutcome::NotTheRecipient => {
                self.reject(request, server, &NOT_THE_RECIPIENT, now);
            }
            ReceiptOutcome::NotKept => self.overloaded(request, server, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Message {
        let text = format!(
            "MESSAGE sip:im.test SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
             From: <sip:bob@im.test>;tag=1\r\nTo: <sip:im.test>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n\
             Content-Type: message/cpim\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    const BODY: &str = "From: <sip:bob@im.test>\r\nTo: <sip:alice@im.test>\r\n\
        NS: x <urn:ietf:params:imdn>\r\nx.IMDN-Route: <sip:im.test>\r\n\
        x.IMDN-Route: Next <sip:next@im.test>\r\n\r\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>";

    #[test]
    fn the_routes_are_taken_off_from_the_top_and_to_comes_last() {
        let both = request(BODY);
        let route = ReceiptRoute::read(&both).unwrap();
        assert_eq!(route.top, "sip:im.test");
        assert_eq!(route.next.as_deref(), Some("sip:next@im.test"));
        let one = without_top_route(&both).unwrap();
        let route = ReceiptRoute::read(&one).unwrap();
        assert_eq!(route.top, "sip:next@im.test");
        assert_eq!(route.next.as_deref(), Some("sip:alice@im.test"));
        let none = without_top_route(&one).unwrap();
        assert_eq!(ReceiptRoute::read(&none), None);
        let kept = BODY.lines().filter(|line| !line.contains("IMDN-Route"));
        let kept: Vec<_> = kept.collect();
        assert_eq!(none.body().as_ref(), kept.join("\r\n").as_bytes());
        assert!(without_top_route(&none).is_none());
    }

    #[test]
    fn a_message_that_is_no_notification_has_no_route() {
        let text = BODY.replace("message/imdn+xml", "text/plain");
        assert_eq!(ReceiptRoute::read(&request(&text)), None);
    }
}
