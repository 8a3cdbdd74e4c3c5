//! Large-message mode: one message in an MSRP session of its own (cpm-facts §4), and how an INVITE
//! says that it is one (§2).
//!
//! Towards devices and in custody it is a chat with one direction; `chat` and `bridge` carry it. What
//! differs is the service that is asked for, which devices take it, and its column of the deferral
//! table.

use crate::msrp::sdp::{Direction, SessionDescription};
use crate::participating::chat::{Chat, Side};
use crate::sip::message::{HeaderName, Message};

/// The prefix of the CPM service identifiers, decoded and in lower case.
const SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.";

/// What an INVITE with MSRP is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionService {
    /// A one-to-one session: `oma.cpm.session`.
    Chat,
    /// A large standalone message: `oma.cpm.largemsg`.
    Large,
}

impl SessionService {
    /// What the INVITE asks for: what is asserted of it, else what its author prefers, else whom he
    /// wants, else what its description looks like. One client says `oma.cpm.msg` in Accept-Contact
    /// of a chat: what names neither service says nothing.
    pub fn of(invite: &Message, offer: &SessionDescription) -> Self {
        let says = [
            HeaderName::PAssertedService,
            HeaderName::PPreferredService,
            HeaderName::AcceptContact,
        ];
        let said = says.into_iter().find_map(|name| {
            let mut named = Vec::new();
            for value in invite.headers(name) {
                named.extend(named_by(value));
            }
            let chat = named.contains(&Self::Chat);
            if chat {
                Some(Self::Chat)
            } else {
                named.first().copied()
            }
        });
        said.unwrap_or_else(|| Self::of_shape(offer))
    }

    /// Whoever only sends does not chat.
    fn of_shape(offer: &SessionDescription) -> Self {
        let direction = offer.usable().next().map(|(_, media)| media.direction);
        match direction {
            Some(Direction::SendOnly) => Self::Large,
            _ => Self::Chat,
        }
    }

    /// The end of its service identifier.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "oma.cpm.session",
            Self::Large => "oma.cpm.largemsg",
        }
    }

    /// Which way payload goes between the author's leg and us, as we see it.
    pub fn from_author(self) -> Direction {
        match self {
            Self::Chat => Direction::SendRecv,
            Self::Large => Direction::RecvOnly,
        }
    }

    /// Which way payload goes between us and a device.
    pub fn to_device(self) -> Direction {
        match self {
            Self::Chat => Direction::SendRecv,
            Self::Large => Direction::SendOnly,
        }
    }
}

impl Chat {
    /// Whether a large message is still coming, so that what a device leaves of it is ours.
    pub(super) fn collects(&self) -> bool {
        let mut transits = self.transits.keys();
        self.service == SessionService::Large && transits.any(|(side, _)| *side == Side::Caller)
    }
}

/// The services a header field value names: equal ones, whatever their case and escapes, never by
/// prefix (cpm-facts §2). The RCS-e session tag names a chat.
fn named_by(value: &str) -> Vec<SessionService> {
    let value = crate::uri::unescape(value).to_ascii_lowercase();
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".:-_+".contains(c);
    let words = value.split(|c| !is_part(c));
    words
        .filter_map(|word| match word.strip_prefix(SERVICE) {
            Some("session") => Some(SessionService::Chat),
            Some("largemsg") => Some(SessionService::Large),
            _ if word == "+g.oma.sip-im" => Some(SessionService::Chat),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm";
    const ESCAPED: &str = "urn%3Aurn-7%3a3gpp-service.ims.icsi.oma.cpm";

    fn service(headers: &[String], direction: &str) -> SessionService {
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=message 9 TCP/MSRP *\r\na=accept-types:message/cpim\r\n\
             a=path:msrp://127.0.0.1:9/s;tcp\r\na={direction}\r\n"
        );
        let mut text = "INVITE sip:b@d SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
                        From: <sip:a@d>;tag=1\r\nTo: <sip:b@d>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n"
            .to_owned();
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        let invite = crate::sip::wire::parse(text.into()).unwrap();
        let offer = SessionDescription::parse(sdp.as_bytes()).unwrap();
        SessionService::of(&invite, &offer)
    }

    #[test]
    fn what_is_asserted_counts_before_what_is_preferred_before_whom_the_author_wants() {
        let asserted = format!("P-Asserted-Service: {PREFIX}.largemsg");
        let preferred = format!("P-Preferred-Service: {PREFIX}.session");
        let wanted = format!("Accept-Contact: *;+g.3gpp.icsi-ref=\"{ESCAPED}.largemsg\"");
        let all = [asserted.clone(), preferred.clone(), wanted.clone()];
        assert_eq!(service(&all, "sendrecv"), SessionService::Large);
        let hints = [preferred, wanted.clone()];
        assert_eq!(service(&hints, "sendonly"), SessionService::Chat);
        assert_eq!(service(&[wanted], "sendrecv"), SessionService::Large);
    }

    #[test]
    fn a_client_that_wants_the_pager_service_for_its_chat_is_believed_by_its_preference() {
        let preferred = format!("P-Preferred-Service: {PREFIX}.session");
        let wanted = format!("Accept-Contact: *;+g.3gpp.icsi-ref=\"{ESCAPED}.msg\"");
        assert_eq!(
            service(&[preferred, wanted.clone()], "sendrecv"),
            SessionService::Chat
        );
        assert_eq!(service(&[wanted], "sendrecv"), SessionService::Chat);
    }

    #[test]
    fn without_a_word_of_it_the_description_decides() {
        assert_eq!(service(&[], "sendonly"), SessionService::Large);
        assert_eq!(service(&[], "sendrecv"), SessionService::Chat);
        let im = "Accept-Contact: *;+g.oma.sip-im".to_owned();
        assert_eq!(service(&[im], "sendonly"), SessionService::Chat);
    }

    #[test]
    fn a_service_is_equal_or_another_whatever_its_case() {
        let named = |name: &str| named_by(&format!("*;+g.3gpp.icsi-ref=\"{ESCAPED}.{name}\""));
        assert_eq!(named("LargeMsg"), [SessionService::Large]);
        assert!(named("largemsg.group").is_empty());
        assert!(named("session.group").is_empty());
        let list = format!("*;+g.3gpp.icsi-ref=\"{ESCAPED}.msg, {ESCAPED}.largemsg\"");
        assert_eq!(named_by(&list), [SessionService::Large]);
    }
}
