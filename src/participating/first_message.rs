//! The first message of a chat, inside its INVITE (cpm-facts §5, §6 rows 1, 3a, 4a, 11).
//!
//! An RCS-e device gets it in the INVITE; to another that accepts it goes as the first SEND, and the
//! caller hears 200 only when that is confirmed. If no device takes it, it is durable before the
//! caller hears 200 or 486.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Now;
use crate::msrp::event::InboundId;
use crate::msrp::frame::FailureReport;
use crate::msrp::outgoing::OutboundMessage;
use crate::multipart::{self, NewPart};
use crate::participating::answering::SIZE_EXCEEDED;
use crate::participating::arrival::Content;
use crate::participating::chat::{Chat, ChatId, ChatState, Side};
use crate::participating::privacy;
use crate::participating::reason::Reason;
use crate::participating::service::{Service, Waiter};
use crate::participating::transit::{Fate, Transit};
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::store::request::{Refusal, Seq, Settlement, StoreRequest};

/// The transit of the first message: no session of the caller's brought it.
pub(super) const FIRST: InboundId = InboundId::OUTSIDE;

/// The type of the part.
const CPIM: &str = "message/cpim";

/// A message as it lies in an INVITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstMessage {
    /// The MIME header fields of its part.
    headers: Vec<(String, String)>,
    /// Its Content-Type, parameters included.
    content_type: String,
    octets: Bytes,
    /// `imdn.Message-ID`
    message_id: Option<String>,
    /// It is a disposition notification.
    is_receipt: bool,
}

impl FirstMessage {
    /// The message beside the session description, wherever it stands among the parts; `None` if there
    /// is none. What cannot be kept to the last octet is refused, so that it is never lost.
    pub fn read(invite: &Message) -> Result<Option<Self>, Rejection> {
        let content_type = invite.header(HeaderName::ContentType).unwrap_or_default();
        let Ok(parts) = multipart::parts(content_type, invite.body()) else {
            return Ok(None);
        };
        // RFC 3261 §20.11: what must be handled and is not understood is refused, not dropped.
        let is_optional = |value: &str| value.to_ascii_lowercase().contains("handling=optional");
        let known = |part: &&multipart::Part| {
            let media_type = part.media_type();
            let disposition = part.header("Content-Disposition");
            media_type == CPIM
                || media_type == "application/sdp"
                || disposition.is_some_and(is_optional)
        };
        if !parts.iter().all(|part| known(&part)) {
            return Err(Rejection::new(415, "Unsupported Media Type"));
        }
        let mut all = parts.iter().filter(|part| part.media_type() == CPIM);
        let Some(part) = all.next() else {
            return Ok(None);
        };
        let identity = |coding: &str| {
            let coding = coding.to_ascii_lowercase();
            matches!(coding.as_str(), "7bit" | "8bit" | "binary")
        };
        let is_plain = part
            .header("Content-Transfer-Encoding")
            .is_none_or(identity);
        if all.next().is_some() || !is_plain {
            return Err(Rejection::new(415, "Unsupported Media Type"));
        }
        let octets = invite.body().slice(part.body.clone());
        let content = Content::read(CPIM, &octets)?;
        Ok(Some(Self {
            content_type: part.header("Content-Type").unwrap_or(CPIM).to_owned(),
            headers: part.headers.clone(),
            octets,
            message_id: content.message_id,
            is_receipt: content.is_notification,
        }))
    }

    /// Without the name of an author who hides.
    pub fn hide_author(&mut self) {
        if let Some(hidden) = privacy::hide_author(&self.octets) {
            self.octets = hidden.into();
        }
    }

    /// Its type and its octets, if it is a message and no receipt.
    pub(super) fn submitted(&self) -> Option<(&str, &[u8])> {
        (!self.is_receipt).then_some((&self.content_type, &self.octets))
    }

    /// `imdn.Message-ID`, if it has one.
    pub fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    /// The body of an INVITE that carries it beside our description: its part keeps its header fields
    /// and its octets.
    pub fn beside(&self, sdp: &str, boundary: &str) -> (String, Vec<u8>) {
        let headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let parts = [
            NewPart {
                headers: &[("Content-Type", "application/sdp")],
                content: sdp.as_bytes(),
            },
            NewPart {
                headers: &headers,
                content: &self.octets,
            },
        ];
        let octets = multipart::write(boundary, &parts);
        (format!("multipart/mixed;boundary=\"{boundary}\""), octets)
    }
}

/// What the caller hears once the first message is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// 200: we take the session in the recipient's place.
    TakeSession,
    /// This refusal.
    Refuse(u16),
}

/// The first message of a chat that is being set up.
#[derive(Debug)]
pub(super) struct First {
    pub message: FirstMessage,
    /// A device of the recipient's has it, as a receipt or the answer to the INVITE that carried it has
    /// said: no copy is owed.
    pub confirmed: bool,
    /// What follows once it is safe.
    pub then: Then,
}

impl Service {
    /// Takes the message of the INVITE in. One that was kept a moment ago, before a restart or under
    /// another INVITE, is not kept twice (decision 12).
    pub(super) fn take_first(&mut self, id: ChatId, message: FirstMessage, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.first = Some(First {
            message,
            confirmed: false,
            then: Then::TakeSession,
        });
        self.begin_first(id, now);
        self.await_receipt(id);
        let kept = self.kept_message(id, Side::Caller, FIRST, now);
        let key = kept.ok().flatten().map(|message| message.duplicate_key);
        let known = key.is_some_and(|key| self.recent.find(key).is_some());
        if let Some(first) = self.chats.get_mut(&id).and_then(|it| it.first.as_mut()) {
            first.confirmed = known;
        }
    }

    /// The octets of the first message become a transit, so that they can go out or be stored.
    fn begin_first(&mut self, id: ChatId, now: Now) {
        let deadline = now.instant + self.settings.custody_after;
        let (spool, most) = (self.new_spool(), self.room_for_spool());
        let custody = &mut self.custody;
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let key = (Side::Caller, FIRST);
        let Some(first) = chat.first.as_ref() else {
            return;
        };
        let octets = first.message.octets.clone();
        let content_type = first.message.content_type.clone();
        let mut transit = Transit::new(content_type, Fate::Custody, deadline, spool);
        transit.discarded = chat.silent;
        transit.complete = Some(octets.len() as u64);
        for request in transit.write(0, octets, most, || custody.new_spool()) {
            custody.tell(request);
        }
        chat.transits.insert(key, Box::new(transit));
        self.expect_receipts_of_chat(id, Side::Caller, FIRST, now);
    }

    /// A device has answered the INVITE: the first message goes to it before the caller is answered.
    /// False if there is none, or if it went with the INVITE.
    pub(super) fn send_first(&mut self, id: ChatId, carried: bool, now: Now) -> bool {
        let Some(chat) = self.chats.get_mut(&id) else {
            return false;
        };
        let is_owed = |first: &First| !first.confirmed && !carried;
        if !chat.first.as_ref().is_some_and(is_owed) {
            self.drop_first(id);
            return false;
        }
        let deadline = now.instant + self.settings.custody_after;
        let media = self.media_of(id, Side::Callee);
        let Some(transit) = self.transit(id, Side::Caller, FIRST) else {
            return false;
        };
        let outbound = OutboundMessage {
            message_id: None,
            content_type: transit.content_type.clone(),
            length: transit.complete,
            success_report: false,
            failure_report: FailureReport::Yes,
        };
        let session = media.and_then(|media| self.media.session(media));
        let out = session.map(|session| session.send(outbound, &mut self.tokens));
        if let (Some(out), Some(transit)) = (out, self.transit(id, Side::Caller, FIRST)) {
            transit.deadline = deadline;
            transit.fate = Fate::Live(out);
        }
        if let Some(chat) = self.chats.get_mut(&id) {
            chat.state = ChatState::Settling;
        }
        self.pump(id, Side::Callee, now);
        true
    }

    /// The device has confirmed it: now the caller hears 200.
    pub(super) fn first_delivered(&mut self, id: ChatId, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.first = None;
        if chat.state == ChatState::Settling {
            chat.state = ChatState::Live;
            self.answer_caller(id, now);
        }
    }

    /// Row 13 of cpm-facts §6: the device refused it; so is the INVITE, and nothing is kept.
    pub(super) fn first_refused(&mut self, id: ChatId, status: u16, now: Now) {
        if let Some(leg) = self.take_leg(id, Side::Callee) {
            self.hang_up(leg, &Reason::Completed, now);
        }
        self.drop_first(id);
        let status = if (400..700).contains(&status) {
            status
        } else {
            488
        };
        self.refuse_chat(id, &refusal(status), now);
    }

    /// Makes the first message durable, then does what the table says; without one, or with one that
    /// the recipient has, at once.
    pub(super) fn keep_first(&mut self, id: ChatId, then: Then, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let Some(first) = chat.first.as_mut() else {
            return self.first_safe(id, then, now);
        };
        first.then = then;
        if first.confirmed {
            return self.first_safe(id, then, now);
        }
        chat.state = ChatState::Settling;
        self.store_first(id, now);
    }

    /// Hands the first message to the store.
    pub(super) fn store_first(&mut self, id: ChatId, now: Now) {
        let then = match self.chats.get(&id).and_then(|chat| chat.first.as_ref()) {
            Some(first) if first.confirmed => return self.first_safe(id, first.then, now),
            Some(first) => first.then,
            None => return,
        };
        let message = match self.kept_message(id, Side::Caller, FIRST, now) {
            Ok(Some(message)) => Arc::new(message),
            Ok(None) => return self.first_safe(id, then, now),
            Err(_) => return self.first_not_stored(id, None, now),
        };
        if self.recent.find(message.duplicate_key).is_some() {
            return self.first_safe(id, then, now);
        }
        let Some(body) = self.begin_storing(id, Side::Caller, FIRST, &message) else {
            return;
        };
        let waiter = Waiter::Transit(id, Side::Caller, FIRST);
        if !self.begin_custody(&message, body, waiter, now) {
            self.first_not_stored(id, Some(Refusal::Full), now);
        }
    }

    /// It is durable: only now the caller is answered.
    pub(super) fn first_stored(&mut self, id: ChatId, seq: Seq, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let first = chat.first.as_ref();
        let (confirmed, then) =
            first.map_or((false, Then::TakeSession), |it| (it.confirmed, it.then));
        // What the devices have just refused is not offered to them again at once.
        let tried = then == Then::Refuse(486);
        let transit = chat.transits.remove(&(Side::Caller, FIRST));
        if let Some(Fate::Storing(message, size)) = transit.map(|transit| transit.fate) {
            self.recent.add(message.duplicate_key, seq, now);
            if confirmed {
                self.settle(&message.recipient, seq, Settlement::Delivered);
                self.end_storing(&message, size, now);
            } else {
                self.tell_stored(&message, now);
                self.hold_first(id, message, (seq, size), tried, now);
            }
        }
        self.first_safe(id, then, now);
    }

    /// It could not be stored, or nothing may be: the caller still has it.
    pub(super) fn first_not_stored(&mut self, id: ChatId, why: Option<Refusal>, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        let cancelled = chat
            .first
            .as_ref()
            .is_some_and(|first| first.then == Then::Refuse(487));
        let transit = chat.transits.remove(&(Side::Caller, FIRST));
        if let Some(Fate::Storing(message, size)) = transit.map(|transit| transit.fate) {
            self.end_storing(&message, size, now);
        }
        let rejection = match why {
            _ if cancelled => refusal(487),
            // Row 15 of cpm-facts §6.
            Some(Refusal::TooLarge | Refusal::OverQuota) => {
                refusal(403).with_warning(SIZE_EXCEEDED)
            }
            Some(_) => refusal(503),
            None => refusal(480),
        };
        self.refuse_chat(id, &rejection, now);
    }

    /// Nothing is owed for the first message any more.
    fn first_safe(&mut self, id: ChatId, then: Then, now: Now) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.state = ChatState::Custody;
        self.drop_first(id);
        match then {
            Then::TakeSession if self.custody.has_room() => {
                self.answer_caller(id, now);
            }
            Then::TakeSession => self.refuse_chat(id, &refusal(503), now),
            Then::Refuse(status) => self.refuse_chat(id, &refusal(status), now),
        }
    }

    /// The first message is of no more use here; nor are its octets.
    pub(super) fn drop_first(&mut self, id: ChatId) {
        let Some(chat) = self.chats.get_mut(&id) else {
            return;
        };
        chat.first = None;
        let transit = chat.transits.remove(&(Side::Caller, FIRST));
        if let Some(spool) = transit.and_then(|transit| transit.spool.id()) {
            self.custody.tell(StoreRequest::Drop { spool });
        }
    }

    /// The chat is to end with this refusal as soon as its first message is safe; false if no first
    /// message is on its way.
    pub(super) fn refuse_when_safe(&mut self, id: ChatId, status: u16, now: Now) -> bool {
        let Some(chat) = self.chats.get_mut(&id) else {
            return false;
        };
        if chat.state != ChatState::Settling {
            return false;
        }
        if let Some(first) = chat.first.as_mut() {
            first.then = Then::Refuse(status);
        }
        if let Some(leg) = self.take_leg(id, Side::Callee) {
            self.hang_up(leg, &Reason::Completed, now);
            self.store_first(id, now);
        }
        true
    }

    /// The leg to the device is lost while the first message is on its way to it; false if none is.
    pub(super) fn first_leg_lost(&mut self, id: ChatId, now: Now) -> bool {
        let settling = |chat: &Chat| chat.state == ChatState::Settling;
        if !self.chats.get(&id).is_some_and(settling) {
            return false;
        }
        if let Some(leg) = self.take_leg(id, Side::Callee) {
            self.hang_up(leg, &Reason::BearerLost, now);
            self.store_first(id, now);
        }
        true
    }
}

fn refusal(status: u16) -> Rejection {
    let reason = match status {
        403 => "Forbidden",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        480 => "Temporarily Unavailable",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        503 => "Service Unavailable",
        _ => "Not Taken",
    };
    Rejection::new(status, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPIM_TEXT: &str = "From: <sip:a@b>\r\nTo: <sip:c@d>\r\nNS: imdn <urn:ietf:params:imdn>\r\n\
                             imdn.Message-ID: m1\r\n\r\nContent-Type: text/plain\r\n\r\nhello";

    fn invite(parts: &[(&str, &str)]) -> Message {
        let mut body = String::new();
        for (headers, content) in parts {
            body.push_str(&format!("--b\r\n{headers}\r\n\r\n{content}\r\n"));
        }
        body.push_str("--b--\r\n");
        let text = format!(
            "INVITE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\
             Content-Type: multipart/mixed;boundary=b\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        crate::sip::wire::parse(text.into()).unwrap()
    }

    #[test]
    fn the_message_is_found_wherever_it_stands_and_keeps_its_header_fields() {
        let sdp = ("Content-Type: application/sdp", "v=0\r\n");
        let cpim = (
            "Content-Type: message/cpim; charset=utf-8\r\nContent-ID: <1@b>\r\nContent-Length: 112",
            CPIM_TEXT,
        );
        for parts in [[sdp, cpim], [cpim, sdp]] {
            let first = FirstMessage::read(&invite(&parts)).unwrap().unwrap();
            assert_eq!(first.octets, CPIM_TEXT.as_bytes());
            assert_eq!(first.content_type, "message/cpim; charset=utf-8");
            assert_eq!(first.message_id.as_deref(), Some("m1"));
            let (_, body) = first.beside("v=0\r\n", "other");
            let body = String::from_utf8(body).unwrap();
            assert!(body.contains("Content-ID: <1@b>\r\n"), "{body}");
            assert!(body.contains(&format!("\r\n\r\n{CPIM_TEXT}\r\n--other--")));
        }
    }

    #[test]
    fn an_invite_without_a_message_has_none() {
        let alone = invite(&[("Content-Type: application/sdp", "v=0\r\n")]);
        assert_eq!(FirstMessage::read(&alone), Ok(None));
    }

    #[test]
    fn what_could_not_be_kept_to_the_last_octet_is_refused() {
        let cpim = ("Content-Type: message/cpim", CPIM_TEXT);
        let status = |parts: &[(&str, &str)]| {
            let read = FirstMessage::read(&invite(parts));
            read.map(|_| ()).map_err(|rejection| rejection.status)
        };
        assert_eq!(status(&[cpim, cpim]), Err(415));
        let coded = "Content-Type: message/cpim\r\nContent-Transfer-Encoding: base64";
        assert_eq!(status(&[(coded, "RnJvbQ==")]), Err(415));
        assert_eq!(
            status(&[("Content-Type: message/cpim", "nothing")]),
            Err(400)
        );
    }
}
