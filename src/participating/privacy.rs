//! Authors who asked to stay unnamed (RFC 3323, RFC 3325): what they wrote reaches the recipient without a
//! trace of who they are. Pure.
//!
//! The server acts as the privacy service of RFC 3323 §5: it answers in the author's place, so the
//! recipient sees our Via and Call-ID. Each CPIM `From` that would name the author is rewritten, nothing
//! else of the envelope; in a session, whose octets are already counted, a message with such a `From` is
//! refused: if hiding cannot be offered, it is not delivered.

use bytes::Bytes;

use crate::cpim::Envelope;
use crate::participating::arrival::{ConversationHeaders, without_tag};
use crate::participating::contacts::Target;
use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message};
use crate::sip::reply::{self, RequestBuilder};
use crate::sip::splice::Edit;
use crate::token::Tokens;
use crate::uri::Uri;

/// Whom they are shown as (RFC 3323 §4.1.1.3).
pub const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";
/// The same in an envelope.
const ANONYMOUS_URI: &str = "<sip:anonymous@anonymous.invalid>";

/// Header fields of a MESSAGE that say nothing of who wrote it.
const SHOWN: [(HeaderName, &str); 13] = [
    (HeaderName::ConversationId, "Conversation-ID"),
    (HeaderName::ContributionId, "Contribution-ID"),
    (
        HeaderName::InReplyToContributionId,
        "InReplyTo-Contribution-ID",
    ),
    (HeaderName::Privacy, "Privacy"),
    (HeaderName::AcceptContact, "Accept-Contact"),
    (HeaderName::PPreferredService, "P-Asserted-Service"),
    (HeaderName::Subject, "Subject"),
    (HeaderName::Date, "Date"),
    (HeaderName::Expires, "Expires"),
    (HeaderName::ContentDisposition, "Content-Disposition"),
    (HeaderName::ContentEncoding, "Content-Encoding"),
    (HeaderName::ContentLanguage, "Content-Language"),
    (HeaderName::MimeVersion, "MIME-Version"),
];

/// A MESSAGE as it goes to a device.
pub fn message_to_device(
    request: &Message,
    target: &Target,
    via: &str,
    domain: &str,
    tokens: &mut Tokens,
) -> Bytes {
    let hops = request.max_forwards().ok().flatten().unwrap_or(70);
    let mut out = RequestBuilder::new("MESSAGE", &target.uri)
        .header("Via", via)
        .header("Max-Forwards", &hops.saturating_sub(1).to_string());
    for path in &target.path {
        out = out.header("Route", path);
    }
    out = out
        .header("From", &format!("{ANONYMOUS};tag={}", tokens.token()))
        .header(
            "To",
            &without_tag(request.header(HeaderName::To).unwrap_or_default()),
        )
        .header("Call-ID", &format!("{}@{domain}", tokens.token()))
        .header("CSeq", "1 MESSAGE");
    for (id, name) in SHOWN {
        for value in request.headers(id) {
            out = out.header(name, value);
        }
    }
    let content_type = request.header(HeaderName::ContentType);
    out.body(content_type.unwrap_or("text/plain"), request.body())
        .build()
}

/// A device's answer as the author gets it: to the request that he knows, with the conversation header
/// fields that were given to it.
pub fn answer_to_author(
    request: &Message,
    response: &Message,
    given: Option<&ConversationHeaders>,
) -> Bytes {
    let tag = response.to().ok().and_then(|to| to.tag());
    let mut out = reply::response(request, response.status(), response.reason(), tag);
    for (id, name) in [
        (HeaderName::Warning, "Warning"),
        (HeaderName::RetryAfter, "Retry-After"),
        (HeaderName::Reason, "Reason"),
        (HeaderName::Accept, "Accept"),
        (HeaderName::Unsupported, "Unsupported"),
    ] {
        for value in response.headers(id) {
            out = out.header(name, value);
        }
    }
    if let Some(ids) = given {
        out = out
            .header("Conversation-ID", &ids.conversation)
            .header("Contribution-ID", &ids.contribution);
    }
    out.build()
}

/// Whether an envelope names its author, in whichever `From` a device may show (RFC 3862 §2.4 allows a
/// header more than once).
pub fn names_author(envelope: &Envelope<'_>) -> bool {
    envelope.any_from().any(names_somebody)
}

fn names_somebody(from: &str) -> bool {
    let uri = NameAddr::parse(from).map_or(from, |address| address.uri);
    let host = Uri::parse(uri).ok().map(|uri| uri.host());
    !host.is_some_and(|host| host.eq_ignore_ascii_case("anonymous.invalid"))
}

/// The envelope with another value in every `From` that names its author; `None` if none does.
pub fn hide_author(octets: &[u8]) -> Option<Vec<u8>> {
    let envelope = Envelope::parse(octets).ok()?;
    let mut hidden = Vec::new();
    let mut copied = 0;
    for from in envelope.any_from().filter(|from| names_somebody(from)) {
        // The value is a slice of the octets, so that its place follows from where it lies.
        let start = (from.as_ptr() as usize).checked_sub(octets.as_ptr() as usize)?;
        hidden.extend_from_slice(octets.get(copied..start)?);
        hidden.extend_from_slice(ANONYMOUS_URI.as_bytes());
        copied = start + from.len();
    }
    hidden.extend_from_slice(octets.get(copied..)?);
    (copied > 0).then_some(hidden)
}

/// A request whose envelope names its author, without that; the rest as it came. `None` if there is
/// nothing to hide.
pub fn hide_author_of(request: &Message) -> Option<Message> {
    let body = hide_author(request.body())?;
    let mut edit = Edit::new(request);
    edit.replace(HeaderName::ContentLength, &body.len().to_string());
    let changed = edit.finish();
    let head = changed.len().checked_sub(request.body().len())?;
    let octets = [changed.get(..head)?, body.as_slice()].concat();
    crate::sip::wire::parse(octets.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &str = "From: Alice <sip:alice@im.test>\r\nTo: <sip:bob@im.test>\r\n\
                         Subject: <sip:alice@im.test>\r\n\r\nContent-Type: text/plain\r\n\r\nhi \0";

    #[test]
    fn only_the_from_of_an_envelope_is_rewritten() {
        let hidden = hide_author(NAMED.as_bytes()).expect("it names her");
        let expected = NAMED.replacen("Alice <sip:alice@im.test>", ANONYMOUS_URI, 1);
        assert_eq!(String::from_utf8_lossy(&hidden), expected);
        assert_eq!(hide_author(&hidden), None, "nothing is left to hide");
        assert_eq!(hide_author(b"hello"), None);
    }

    #[test]
    fn every_from_that_a_device_may_show_is_rewritten() {
        let alice = "Alice <sip:alice@im.test>";
        let named = format!(
            "From: {ANONYMOUS_URI}\r\nFrom: {alice}\r\nfrom: {alice}\r\nNS: x <urn:x>\r\n\
             x.From: {alice}\r\nFrom: {ANONYMOUS_URI}\r\n\r\nContent-Type: text/plain\r\n\r\nFrom: {alice}"
        );
        let envelope = Envelope::parse(named.as_bytes()).expect("an envelope");
        assert!(names_author(&envelope));
        let hidden = hide_author(named.as_bytes()).expect("it names her");
        let expected = named.replacen(alice, ANONYMOUS_URI, 3);
        assert_eq!(String::from_utf8_lossy(&hidden), expected);
        assert_eq!(hide_author(&hidden), None, "nothing is left to hide");
    }

    #[test]
    fn a_request_keeps_its_length_right() {
        let text = format!(
            "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\
             Content-Type: message/cpim\r\nl: {}\r\n\r\n{NAMED}",
            NAMED.len()
        );
        let request = crate::sip::wire::parse(text.into_bytes().into()).expect("legal");
        let hidden = hide_author_of(&request).expect("it names her");
        assert_eq!(
            hidden.body().as_ref(),
            hide_author(NAMED.as_bytes()).expect("it does")
        );
        let length = hidden.header(HeaderName::ContentLength);
        assert_eq!(length, Some(hidden.body().len().to_string().as_str()));
    }
}
