//! The requests the participating function makes itself to deliver what was kept (cpm-facts §7.2).

use bytes::Bytes;

use crate::date;
use crate::participating::arrival;
use crate::participating::contacts::Target;
use crate::participating::forward::has_privacy_id;
use crate::participating::privacy::ANONYMOUS;
use crate::registrar::Profile;
use crate::sip::reply::RequestBuilder;
use crate::sip::session_timer::Field;
use crate::store::request::{DeferredMessage, MessageKind};
use crate::token::Tokens;

/// The prefix of the CPM service identifiers (cpm-facts §2).
pub(super) const SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.";
/// The same as it stands in a feature tag.
const SERVICE_ESCAPED: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.";

/// The user part of the participating function's own address.
pub const FUNCTION: &str = "pf";

/// What the participating function says it understands.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, UPDATE, PRACK";

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
    let call = CallNames::new(domain, tokens);
    let mut request = begin("MESSAGE", message, target, via, &call);
    let is_cpm = target.states_service || target.profile != Profile::MessageOnly;
    if is_cpm && message.kind != MessageKind::Notification {
        let service = "oma.cpm.deferred";
        request = request
            .header("P-Asserted-Service", &format!("{SERVICE}{service}"))
            .header("Accept-Contact", &format!("*;{}", service_tag(service)));
    }
    if !is_private(message) {
        request = request.header("P-Asserted-Identity", &format!("<sip:{}>", message.author));
    }
    // RFC 3428 §4: Expires counts from Date, so that the two together say when it ends.
    let validity = message.expires_at.0.saturating_sub(message.accepted_at.0) / 1000;
    request
        .header("Date", &date::sip(message.accepted_at))
        .header("Expires", &validity.to_string())
        .body(&message.content_type, body)
        .build()
}

/// What repeated INVITEs to one device have in common: "the same value of the Call-ID, To, and From of
/// the previous request, but the CSeq should contain a new sequence number that is one higher"
/// (RFC 3261 §8.1.3.5).
#[derive(Clone, Debug)]
pub struct CallNames {
    call_id: String,
    tag: String,
    cseq: u32,
}

impl CallNames {
    /// Of a first request.
    pub fn new(domain: &str, tokens: &mut Tokens) -> Self {
        Self {
            tag: tokens.token(),
            call_id: format!("{}@{domain}", tokens.token()),
            cseq: 1,
        }
    }

    /// Of the request after it.
    pub fn next(self) -> Self {
        Self {
            cseq: self.cseq.saturating_add(1),
            ..self
        }
    }
}

/// What the INVITE of a replay is made of.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// The oldest message of the run.
    pub message: &'a DeferredMessage,
    /// The end of the service identifier.
    pub service: &'a str,
    /// The device.
    pub target: &'a Target,
    /// Our Via.
    pub via: &'a str,
    /// Call-ID, tag and CSeq.
    pub call: &'a CallNames,
    /// Our URI inside the dialog.
    pub contact: &'a str,
    /// The home domain.
    pub domain: &'a str,
    /// Content-Type.
    pub content_type: &'a str,
    /// The session description, alone or with the first message.
    pub body: &'a [u8],
    /// Session-Expires and Min-SE.
    pub timer: &'a [Field],
}

/// The INVITE of a replay: the store-and-forward identity asserts it for RCS contacts, and the author
/// is always in From and Referred-By.
pub fn invite(replay: &Replay<'_>) -> Bytes {
    let Replay {
        message,
        service,
        target,
        domain,
        ..
    } = *replay;
    // An RCS-e client takes a plain description from the store-and-forward identity for a push of
    // notifications and drops the text in it; without its marks it is an ordinary chat.
    let is_marked =
        target.profile != Profile::RcsE || replay.content_type.starts_with("multipart/");
    let asserted = match target.profile {
        Profile::Rcs | Profile::RcsE if is_marked => format!("<sip:rcse-standfw@{domain}>"),
        _ if is_private(message) => format!("<sip:{domain}>"),
        _ => format!("<sip:{}>", message.author),
    };
    let mut request = begin("INVITE", message, target, replay.via, replay.call)
        .header(
            "Contact",
            &format!("<{}>;{}", replay.contact, service_tag(service)),
        )
        .header("P-Asserted-Identity", &asserted)
        .header("P-Asserted-Service", &format!("{SERVICE}{service}"))
        .header("Accept-Contact", &format!("*;{}", service_tag(service)));
    if is_marked {
        request = request.header("Referred-By", shown_author(message));
    }
    if target.profile == Profile::RcsE {
        request = request.header("Accept-Contact", "*;+g.oma.sip-im");
    }
    for (name, value) in replay.timer {
        request = request.header(name, value);
    }
    request
        .header("Date", &date::sip(message.accepted_at))
        .header("Allow", ALLOW)
        .header("Supported", "timer, 100rel")
        .body(replay.content_type, replay.body)
        .build()
}

fn begin(
    method: &str,
    message: &DeferredMessage,
    target: &Target,
    via: &str,
    call: &CallNames,
) -> RequestBuilder {
    let CallNames { call_id, tag, cseq } = call;
    let mut request = RequestBuilder::new(method, &target.uri)
        .header("Via", via)
        .header("Max-Forwards", &arrival::next_hops(message).to_string());
    for path in &target.path {
        request = request.header("Route", path);
    }
    request = request
        .header("From", &format!("{};tag={tag}", shown_author(message)))
        .header("To", &message.to)
        .header("Call-ID", call_id)
        .header("CSeq", &format!("{cseq} {method}"))
        .header("Conversation-ID", &message.conversation)
        .header("Contribution-ID", &message.contribution);
    if let Some(in_reply_to) = &message.in_reply_to {
        request = request.header("InReplyTo-Contribution-ID", in_reply_to);
    }
    for (name, value) in &message.headers {
        let is_for_device = method == "MESSAGE" && name != arrival::HOPS;
        if is_for_device || name == "Subject" || name == "Privacy" {
            request = request.header(name, value);
        }
    }
    request
}
