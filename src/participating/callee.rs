//! What the recipient's side of a chat looks like from the outside: our Contact, the INVITE to a
//! device, its refusal as the caller sees it.

use bytes::Bytes;

use crate::participating::chat::Chat;
use crate::participating::contacts::Target;
use crate::participating::forward::wants_privacy;
use crate::participating::large::SessionService;
use crate::participating::outgoing::{self, SERVICE, service_tag};
use crate::participating::privacy::ANONYMOUS;
use crate::participating::service::Settings;
use crate::sip::dialog::OWN_CONTACT;
use crate::sip::message::{HeaderName, Message};
use crate::sip::reply::{self, RequestBuilder};
use crate::sip::session_timer::Field;
use crate::sip::transport::flow::{Flow, Transport};
use crate::token::Tokens;

/// The user part of our Contact: it names the shard, so that requests in a dialog find it.
pub fn contact_user(shard: u16) -> String {
    format!("{OWN_CONTACT}{shard}")
}

/// The shard that a Contact user part of ours names.
pub fn shard_of_contact(user: &str) -> Option<u16> {
    user.strip_prefix(OWN_CONTACT)?.parse().ok()
}

/// Our URI for requests inside a dialog.
pub(super) fn contact_uri(settings: &Settings, advertised: &str, flow: &Flow) -> String {
    let transport = match flow.transport {
        Transport::Udp => "",
        Transport::Tcp => ";transport=tcp",
    };
    format!(
        "sip:{}@{advertised}{transport}",
        contact_user(settings.shard)
    )
}

/// Our Contact.
pub(super) fn contact(
    settings: &Settings,
    advertised: &str,
    flow: &Flow,
    service: SessionService,
) -> String {
    let uri = contact_uri(settings, advertised, flow);
    format!("<{uri}>;{}", service_tag(service.name()))
}

/// The INVITE of a chat to one of the recipient's devices.
#[expect(
    clippy::too_many_arguments,
    reason = "what an INVITE is made of, each named once"
)]
pub(super) fn invite(
    chat: &Chat,
    target: &Target,
    via: &str,
    contact: &str,
    local_tag: &str,
    body: (&str, &[u8]),
    call_id: &str,
    timer: &[Field],
) -> Bytes {
    let caller = &chat.invite;
    let value =
        |name| crate::participating::arrival::without_tag(caller.header(name).unwrap_or_default());
    let hops = caller
        .max_forwards()
        .ok()
        .flatten()
        .unwrap_or(70)
        .saturating_sub(1);
    let mut invite = RequestBuilder::new("INVITE", &target.uri)
        .header("Via", via)
        .header("Max-Forwards", &hops.to_string());
    for path in &target.path {
        invite = invite.header("Route", path);
    }
    let from = match wants_privacy(caller) {
        true => ANONYMOUS.to_owned(),
        false => value(HeaderName::From),
    };
    invite = invite
        .header("From", &format!("{from};tag={local_tag}"))
        .header("To", &value(HeaderName::To))
        .header("Call-ID", call_id)
        .header("CSeq", "1 INVITE")
        .header("Contact", contact)
        .header("Conversation-ID", &chat.ids.conversation)
        .header("Contribution-ID", &chat.ids.contribution);
    if let Some(in_reply_to) = &chat.ids.in_reply_to {
        invite = invite.header("InReplyTo-Contribution-ID", in_reply_to);
    }
    if !wants_privacy(caller) {
        invite = invite.header("P-Asserted-Identity", &format!("<sip:{}>", chat.caller));
    }
    let own = format!("{SERVICE}{}", chat.service.name());
    let preferred = caller.header(HeaderName::PPreferredService);
    let preferred = preferred.filter(|_| chat.service == SessionService::Chat);
    invite = invite.header("P-Asserted-Service", preferred.unwrap_or(&own));
    for (id, name) in [
        (HeaderName::AcceptContact, "Accept-Contact"),
        (HeaderName::Subject, "Subject"),
        (HeaderName::Privacy, "Privacy"),
    ] {
        for value in caller.headers(id) {
            invite = invite.header(name, value);
        }
    }
    for (name, value) in timer {
        invite = invite.header(name, value);
    }
    invite
        .header("Allow", outgoing::ALLOW)
        .header("Supported", "timer, 100rel")
        .body(body.0, body.1)
        .build()
}

/// A device's refusal as the caller gets it: the status, the phrase and the warnings.
pub(super) fn refusal(chat: &Chat, best: &Message) -> Bytes {
    let mut reply = reply::response(&chat.invite, best.status(), best.reason(), Some(&chat.tag));
    for (id, name) in [
        (HeaderName::Warning, "Warning"),
        (HeaderName::RetryAfter, "Retry-After"),
        (HeaderName::Reason, "Reason"),
    ] {
        for value in best.headers(id) {
            reply = reply.header(name, value);
        }
    }
    reply.build()
}

/// A new Call-ID.
pub(super) fn call_id(domain: &str, tokens: &mut Tokens) -> String {
    format!("{}@{domain}", tokens.token())
}
