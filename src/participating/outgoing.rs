//! The requests the participating function makes itself to deliver what was kept (cpm-facts §7.2).

use bytes::Bytes;

use crate::date;
use crate::participating::contacts::Target;
use crate::participating::forward::has_privacy_id;
use crate::registrar::Profile;
use crate::sip::reply::RequestBuilder;
use crate::store::request::{DeferredMessage, MessageKind};
use crate::token::Tokens;

/// The prefix of the CPM service identifiers (cpm-facts §2).
const SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.";
/// The same as it stands in a feature tag.
const SERVICE_ESCAPED: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.";
/// Whom an author who asked for privacy is shown as (RFC 3323 §4.1.1.3).
const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";

/// The user part of the participating function's own address.
pub const FUNCTION: &str = "pf";

/// What the participating function says it understands.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, UPDATE";

/// The author as the recipient may see him.
pub fn shown_author(message: &DeferredMessage) -> &str {
    if is_private(message) {
        ANONYMOUS
    } else {
        &message.from
    }
}

/// Whether the author asked to stay unnamed.
pub fn is_private(message: &DeferredMessage) -> bool {
    message
        .headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("Privacy") && has_privacy_id(value))
}

/// A feature tag value that names a CPM service.
pub fn service_tag(service: &str) -> String {
    format!("+g.3gpp.icsi-ref=\"{SERVICE_ESCAPED}{service}\"")
}

/// A kept message on its way to a device by SIP MESSAGE.
pub fn message(
    message: &DeferredMessage,
    body: &Bytes,
    target: &Target,
    via: &str,
    domain: &str,
    tokens: &mut Tokens,
) -> Bytes {
    let mut request = begin("MESSAGE", message, target, via, domain, tokens);
    if target.profile != Profile::MessageOnly && message.kind != MessageKind::Notification {
        let service = "oma.cpm.deferred";
        request = request
            .header("P-Asserted-Service", &format!("{SERVICE}{service}"))
            .header("Accept-Contact", &format!("*;{}", service_tag(service)));
    }
    if !is_private(message) {
        request = request.header("P-Asserted-Identity", &format!("<sip:{}>", message.author));
    }
    request
        .header("Date", &date::sip(message.accepted_at))
        .body(&message.content_type, body)
        .build()
}

/// What the INVITE of a replay is made of.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// The oldest message of the run.
    pub message: &'a DeferredMessage,
    /// The device.
    pub target: &'a Target,
    /// Our Via.
    pub via: &'a str,
    /// Our URI inside the dialog.
    pub contact: &'a str,
    /// The home domain.
    pub domain: &'a str,
    /// Content-Type.
    pub content_type: &'a str,
    /// The session description, alone or with the first message.
    pub body: &'a [u8],
}

/// The INVITE of a replay: the store-and-forward identity asserts it for RCS contacts, and the author
/// is always in From and Referred-By.
pub fn invite(replay: &Replay<'_>, tokens: &mut Tokens) -> Bytes {
    let Replay {
        message,
        target,
        domain,
        ..
    } = *replay;
    let service = "oma.cpm.session";
    let asserted = match target.profile {
        Profile::Rcs | Profile::RcsE => format!("<sip:rcse-standfw@{domain}>"),
        Profile::Cpm | Profile::MessageOnly if is_private(message) => format!("<sip:{domain}>"),
        Profile::Cpm | Profile::MessageOnly => format!("<sip:{}>", message.author),
    };
    let mut request = begin("INVITE", message, target, replay.via, domain, tokens)
        .header(
            "Contact",
            &format!("<{}>;{}", replay.contact, service_tag(service)),
        )
        .header("P-Asserted-Identity", &asserted)
        .header("Referred-By", shown_author(message))
        .header("P-Asserted-Service", &format!("{SERVICE}{service}"))
        .header("Accept-Contact", &format!("*;{}", service_tag(service)));
    if target.profile == Profile::RcsE {
        request = request.header("Accept-Contact", "*;+g.oma.sip-im");
    }
    request
        .header("Date", &date::sip(message.accepted_at))
        .header("Allow", ALLOW)
        .header("Supported", "timer")
        .body(replay.content_type, replay.body)
        .build()
}

fn begin(
    method: &str,
    message: &DeferredMessage,
    target: &Target,
    via: &str,
    domain: &str,
    tokens: &mut Tokens,
) -> RequestBuilder {
    let tag = tokens.token();
    let mut request = RequestBuilder::new(method, &target.uri)
        .header("Via", via)
        .header("Max-Forwards", "70");
    for path in &target.path {
        request = request.header("Route", path);
    }
    request = request
        .header("From", &format!("{};tag={tag}", shown_author(message)))
        .header("To", &message.to)
        .header("Call-ID", &format!("{}@{domain}", tokens.token()))
        .header("CSeq", &format!("1 {method}"))
        .header("Conversation-ID", &message.conversation)
        .header("Contribution-ID", &message.contribution);
    if let Some(in_reply_to) = &message.in_reply_to {
        request = request.header("InReplyTo-Contribution-ID", in_reply_to);
    }
    for (name, value) in &message.headers {
        if method == "MESSAGE" || name == "Subject" || name == "Privacy" {
            request = request.header(name, value);
        }
    }
    request
}
