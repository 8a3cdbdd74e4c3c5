//! From a request as it came in to a message as it is kept.

use std::time::Duration;

use crate::clock::{Now, UnixMillis};
use crate::cpim::Envelope;
use crate::identity::Identity;
use crate::imdn::Dispositions;
pub use crate::multipart::is_type;
use crate::participating::{forward, revocation};
use crate::sip::message::HeaderName;
use crate::sip::message::Message;
use crate::sip::rejection::Rejection;
use crate::store::request::{ConversationKey, DeferredMessage, Held, MessageKind, Seq};
use crate::token::Tokens;

/// The longest Conversation-ID and Contribution-ID taken (cpm-facts §3).
const LONGEST_ID: usize = 255;

/// Header fields that are kept with a message and given to the recipient again.
const KEPT_HEADERS: [(HeaderName, &str); 6] = [
    (HeaderName::Subject, "Subject"),
    (HeaderName::Privacy, "Privacy"),
    (HeaderName::ContentDisposition, "Content-Disposition"),
    (HeaderName::ContentEncoding, "Content-Encoding"),
    (HeaderName::ContentLanguage, "Content-Language"),
    (HeaderName::MimeVersion, "MIME-Version"),
];

/// The name under which the hops of a message are kept.
pub(super) const HOPS: &str = "Max-Forwards";
/// Where Max-Forwards starts (RFC 3261 §8.1.1.6); no request goes further.
const MOST_HOPS: u8 = 70;

/// How long messages live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Without a word of the sender.
    pub default: Duration,
    /// At most.
    pub maximum: Duration,
    /// How long after a message's own time its receipts are kept track of.
    pub receipts: Duration,
}

/// The conversation header fields of a request; generated where the author gave none, so that the
/// messages between two people without them still form one ordered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationHeaders {
    /// `Conversation-ID`
    pub conversation: String,
    /// `Contribution-ID`
    pub contribution: String,
    /// `InReplyTo-Contribution-ID`
    pub in_reply_to: Option<String>,
}

impl ConversationHeaders {
    /// Reads them; malformed ones are refused (cpm-facts §11).
    pub fn read(
        request: &Message,
        author: &Identity,
        recipient: &Identity,
        tokens: &mut Tokens,
    ) -> Result<Self, Rejection> {
        let conversation = identifier(request, HeaderName::ConversationId)?;
        let contribution = identifier(request, HeaderName::ContributionId)?;
        let in_reply_to = identifier(request, HeaderName::InReplyToContributionId)?;
        Ok(Self {
            // Who hides must not be found out by trying whose it would be.
            conversation: conversation.unwrap_or_else(|| match forward::is_hidden(request) {
                true => tokens.token(),
                false => standing_id(author, recipient),
            }),
            contribution: contribution.unwrap_or_else(|| tokens.token()),
            in_reply_to,
        })
    }
}

/// The Conversation-ID of two people whose clients give none: the same for every message from the
/// one to the other.
pub(super) fn standing_id(author: &Identity, recipient: &Identity) -> String {
    let digest = fold128(&[author.as_str().as_bytes(), recipient.as_str().as_bytes()]);
    format!("{digest:032x}")
}

fn identifier(request: &Message, name: HeaderName) -> Result<Option<String>, Rejection> {
    let Some(value) = request.header(name) else {
        return Ok(None);
    };
    let value = value.trim();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+=/@".contains(&byte);
    if value.is_empty() || value.len() > LONGEST_ID || !value.bytes().all(legal) {
        return Err(Rejection::new(400, "Bad Conversation Header"));
    }
    Ok(Some(value.to_owned()))
}

/// What the body of a message says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// `imdn.Message-ID`
    pub message_id: Option<String>,
    /// `DateTime`, verbatim.
    pub date_time: Option<String>,
    /// Notifications asked for.
    pub dispositions: Dispositions,
    /// It is itself a notification.
    pub is_notification: bool,
    /// It says that somebody is typing: never kept (RFC 3994).
    pub is_composing: bool,
    /// It takes an earlier message back.
    pub is_revocation: bool,
}

impl Content {
    /// Looks into a body of the given type; a CPIM envelope that cannot be read is refused.
    pub fn read(content_type: &str, body: &[u8]) -> Result<Self, Rejection> {
        if !is_type(content_type, "message/cpim") {
            return Ok(Self {
                is_notification: crate::imdn::is_notification(content_type),
                is_composing: is_type(content_type, "application/im-iscomposing+xml"),
                is_revocation: is_type(content_type, revocation::MEDIA_TYPE),
                ..Self::default()
            });
        }
        let envelope =
            Envelope::parse(body).map_err(|_| Rejection::new(400, "Malformed message/cpim"))?;
        let inner = envelope.content_type();
        let disposition = envelope.content_header("Content-Disposition");
        let is_notification =
            crate::imdn::is_notification(inner) || crate::imdn::is_aggregate(inner, disposition);
        Ok(Self {
            message_id: envelope.imdn_message_id().map(str::to_owned),
            date_time: envelope.date_time().map(str::to_owned),
            // RFC 5438 §7.1: a notification never asks for notifications.
            dispositions: if is_notification {
                Dispositions::default()
            } else {
                envelope.dispositions()
            },
            is_notification,
            is_composing: is_type(inner, "application/im-iscomposing+xml"),
            is_revocation: is_type(inner, revocation::MEDIA_TYPE),
        })
    }
}

/// Whether a content of this type can be, or hold, a disposition notification.
pub fn may_be_receipt(content_type: &str) -> bool {
    is_type(content_type, crate::cpim::MEDIA_TYPE) || crate::imdn::is_notification(content_type)
}

/// The message of a SIP MESSAGE request.
pub fn of_message(
    request: &Message,
    (author, recipient): (&Identity, &Identity),
    ids: ConversationHeaders,
    content: Content,
    lifetimes: Lifetimes,
    tokens: &mut Tokens,
    now: Now,
) -> DeferredMessage {
    let kind = if content.is_notification {
        MessageKind::Notification
    } else {
        MessageKind::Pager
    };
    let content_type = request.header(HeaderName::ContentType);
    DeferredMessage {
        recipient: recipient.clone(),
        author: author.clone(),
        from: without_tag(request.header(HeaderName::From).unwrap_or_default()),
        to: without_tag(request.header(HeaderName::To).unwrap_or_default()),
        kind,
        conversation: ids.conversation,
        contribution: ids.contribution,
        in_reply_to: ids.in_reply_to,
        headers: kept_headers(request),
        content_type: content_type.unwrap_or("text/plain").to_owned(),
        message_id: content.message_id.unwrap_or_else(|| tokens.token()),
        date_time: content.date_time,
        dispositions: content.dispositions,
        accepted_at: now.wall,
        expires_at: expiry(request, lifetimes, now),
        duplicate_key: duplicate_key(request),
    }
}

/// What the recipient's machine needs to know of a message.
pub fn held(seq: Seq, message: &DeferredMessage, length: u64) -> Held {
    Held {
        seq,
        kind: message.kind,
        conversation: conversation_key(message),
        message_id: message.message_id.as_str().into(),
        length,
        expires_at: message.expires_at,
        marks: Box::default(),
    }
}

/// The conversation a message belongs to.
pub fn conversation_key(message: &DeferredMessage) -> ConversationKey {
    ConversationKey {
        author: message.author.clone(),
        conversation: message.conversation.as_str().into(),
    }
}

/// What of the INVITE of a session is kept with each of its messages: its Privacy, and its hops.
pub fn headers_of_session(invite: &Message) -> Vec<(String, String)> {
    let privacy = invite.header(HeaderName::Privacy);
    let privacy = privacy.map(|value| ("Privacy".to_owned(), value.to_owned()));
    privacy.into_iter().chain(hops_of(invite)).collect()
}

/// How far a request may still go, kept with its message where it is less than usual: a message that servers
/// keep for each other in a circle is a new request each time, and must come to an end all the same.
fn hops_of(request: &Message) -> Option<(String, String)> {
    let hops = request.max_forwards().ok().flatten()?;
    (hops < MOST_HOPS).then(|| (HOPS.to_owned(), hops.to_string()))
}

/// Max-Forwards of the request that a kept message leaves in (RFC 3261 §16.6 step 3).
pub(super) fn next_hops(message: &DeferredMessage) -> u8 {
    let mut headers = message.headers.iter();
    let kept = headers.find(|(name, _)| name == HOPS);
    let kept = kept.and_then(|(_, value)| value.parse().ok());
    kept.unwrap_or(MOST_HOPS).saturating_sub(1)
}

/// The address in a From or To value: what stands in CPIM headers.
pub fn address_of(value: &str) -> String {
    match crate::sip::header::NameAddr::parse(value) {
        Ok(address) => format!("<{}>", address.uri),
        Err(_) => value.to_owned(),
    }
}

/// Which header fields come with the message when it is delivered later.
fn kept_headers(request: &Message) -> Vec<(String, String)> {
    KEPT_HEADERS
        .iter()
        .filter_map(|(id, name)| {
            let value = request.header(*id)?;
            Some(((*name).to_owned(), value.to_string()))
        })
        .chain(hops_of(request))
        .collect()
}

/// For how many seconds a message is worth anything: delta-seconds (RFC 3261 §20.19); a larger number than they
/// can be is the largest, and what is no number is answered 400, lest a message outlive what its author meant.
pub(super) fn validity(request: &Message) -> Result<Option<u64>, Rejection> {
    if request.count(HeaderName::Expires) == 0 {
        return Ok(None);
    }
    let value = request.header(HeaderName::Expires).unwrap_or_default();
    let value = value.trim();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Rejection::new(400, "Malformed Expires"));
    }
    let most = u64::from(u32::MAX);
    Ok(Some(
        value.parse().map_or(most, |seconds: u64| seconds.min(most)),
    ))
}

/// RFC 3428 §5: Expires counts from Date if that is given, else from arrival.
pub(super) fn expiry(request: &Message, lifetimes: Lifetimes, now: Now) -> UnixMillis {
    let Some(seconds) = validity(request).ok().flatten() else {
        return now.wall.plus(lifetimes.default.min(lifetimes.maximum));
    };
    let from = request
        .header(HeaderName::Date)
        .and_then(crate::date::parse)
        .map_or(now.wall, |date| date.min(now.wall));
    let latest = now.wall.plus(lifetimes.maximum);
    from.plus(Duration::from_secs(seconds)).min(latest)
}

/// Recognises the same request again after a restart: its Via branch, Call-ID and CSeq (decision 12).
pub fn duplicate_key(request: &Message) -> u128 {
    let via = request.top_via().ok();
    let branch = via.as_ref().and_then(|via| via.branch).unwrap_or_default();
    let call_id = request.header(HeaderName::CallId).unwrap_or_default();
    let cseq = request.header(HeaderName::CSeq).unwrap_or_default();
    fold128(&[branch.as_bytes(), call_id.as_bytes(), cseq.as_bytes()])
}

/// What makes a chat message the same as an earlier one.
#[derive(Clone, Copy, Debug)]
pub struct ChatMessage<'a> {
    /// Who wrote it.
    pub author: &'a Identity,
    /// Whom it is for.
    pub recipient: &'a Identity,
    /// `imdn.Message-ID`
    pub message_id: &'a str,
    /// Its first octets: a client that gives one identifier to two messages loses neither.
    pub head: &'a [u8],
    /// Octets.
    pub length: u64,
}

/// Recognises the same chat message again, sent once more after a lost connection or a restart
/// (decision 12).
pub fn chat_duplicate_key(message: &ChatMessage<'_>) -> u128 {
    fold128(&[
        message.author.as_str().as_bytes(),
        message.recipient.as_str().as_bytes(),
        message.message_id.as_bytes(),
        message.head,
        &message.length.to_be_bytes(),
    ])
}

/// The first 128 bits of a SHA-256 over length-prefixed parts: stable over restarts, and not to be
/// forged into somebody else's key.
pub(super) fn fold128(parts: &[&[u8]]) -> u128 {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut first = [0u8; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

/// A From or To value as it is shown again: without its tag.
pub fn without_tag(value: &str) -> String {
    let Some((start, end)) = tag_range(value) else {
        return value.to_owned();
    };
    format!("{}{}", &value[..start], &value[end..])
}

/// The octets of `;tag=…` among the header parameters.
fn tag_range(value: &str) -> Option<(usize, usize)> {
    let parameters = match value.rfind('>') {
        Some(at) => at + 1,
        None => 0,
    };
    let mut start = parameters;
    while let Some(offset) = value[start..].find(';') {
        let begin = start + offset;
        let rest = &value[begin + 1..];
        let end = begin + 1 + rest.find(';').unwrap_or(rest.len());
        let name = value[begin + 1..end].split('=').next().unwrap_or_default();
        if name.trim().eq_ignore_ascii_case("tag") {
            return Some((begin, end));
        }
        start = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_left_out_of_what_is_shown_again() {
        assert_eq!(without_tag("<sip:a@b>;tag=1"), "<sip:a@b>");
        assert_eq!(
            without_tag("\"A;tag=x\" <sip:a@b;tag=no>;x=1;tag=1;y"),
            "\"A;tag=x\" <sip:a@b;tag=no>;x=1;y"
        );
        assert_eq!(without_tag("sip:a@b;tag=1"), "sip:a@b");
        assert_eq!(without_tag("<tel:+1>"), "<tel:+1>");
    }

    #[test]
    fn people_without_conversation_headers_still_have_one_conversation() {
        let alice = Identity::new("alice", "im.test");
        let bob = Identity::new("bob", "im.test");
        assert_eq!(standing_id(&alice, &bob), standing_id(&alice, &bob));
        assert_ne!(standing_id(&alice, &bob), standing_id(&bob, &alice));
    }

    #[test]
    fn a_kept_message_goes_on_with_one_hop_less_than_it_came_with() {
        let kept = |hops: &str| {
            let text = format!(
                "MESSAGE sip:bob@im.test SIP/2.0\r\nFrom: <sip:a@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\n\
                 {hops}Privacy: id\r\n\r\n"
            );
            let request = crate::sip::wire::parse(text.into()).expect("framed");
            let (author, recipient) = (
                Identity::new("a", "im.test"),
                Identity::new("bob", "im.test"),
            );
            let content = Content::read("text/plain", request.body()).expect("sound");
            let lifetimes = Lifetimes {
                default: Duration::from_secs(60),
                maximum: Duration::from_secs(60),
                receipts: Duration::from_secs(60),
            };
            let (mut tokens, now) = (Tokens::from_seed(1), crate::clock::now());
            let parties = (&author, &recipient);
            let ids = ConversationHeaders::read(&request, &author, &recipient, &mut tokens);
            let ids = ids.expect("sound");
            let mut message =
                of_message(&request, parties, ids, content, lifetimes, &mut tokens, now);
            let by_message = next_hops(&message);
            message.headers = headers_of_session(&request);
            assert_eq!(next_hops(&message), by_message);
            by_message
        };
        assert_eq!(kept(""), 69);
        assert_eq!(kept("Max-Forwards: 70\r\n"), 69);
        assert_eq!(kept("Max-Forwards: 255\r\n"), 69);
        assert_eq!(kept("Max-Forwards: 69\r\n"), 68);
        assert_eq!(kept("Max-Forwards: 1\r\n"), 0);
    }

    #[test]
    fn media_types_compare_without_case_and_parameters() {
        assert!(is_type("Message/CPIM; charset=utf-8", "message/cpim"));
        assert!(!is_type("message/cpimx", "message/cpim"));
    }
}
