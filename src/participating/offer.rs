//! The session description in a request, or why none can be used: 400 for what cannot be read, 415 for a body
//! of another type, 488 where no session with us can come of it (RFC 3261 §8.2.3 and §13.3.1.3, cpm-facts §11).

use crate::clock::Now;
use crate::msrp::negotiation::SdpRefusal;
use crate::msrp::sdp::SessionDescription;
use crate::multipart::{self, media_type};
use crate::participating::service::Service;
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::sip::transaction::ServerId;

/// What the requests of a session with us may require (RFC 4028, RFC 3262).
pub const SESSION_EXTENSIONS: [&str; 2] = ["timer", "100rel"];

/// Why a description comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It cannot be read, or is none.
    Unread(Rejection),
    /// No session can come of it.
    Refused(SdpRefusal),
}

const SDP: &str = "application/sdp";
const OTHER_TYPE: Unusable = Unusable::Unread(Rejection::new(415, "Unsupported Media Type"));
/// It is for other media.
pub const NO_MSRP: Unusable = Unusable::Refused(SdpRefusal::NO_MSRP);
const NO_OFFER: Unusable = Unusable::Refused(SdpRefusal::NO_OFFER);

/// The offer of an INVITE for a session with us, which has MSRP in it.
pub fn of_session(invite: &Message) -> Result<SessionDescription, Unusable> {
    let offer = description(invite)?;
    let has_msrp = offer.usable().next().is_some();
    (has_msrp.then_some(offer)).ok_or(NO_MSRP)
}

/// The session description of a message, alone or in a multipart body.
pub fn description(message: &Message) -> Result<SessionDescription, Unusable> {
    let body = message.body();
    if body.is_empty() {
        return Err(NO_OFFER);
    }
    let mut codings = message.values(HeaderName::ContentEncoding);
    if codings.any(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        return Err(OTHER_TYPE);
    }
    // RFC 3261 §7.4.1: the type of a body must be given.
    let content_type = message.header(HeaderName::ContentType);
    let content_type = content_type.ok_or(malformed("Missing Content-Type"))?;
    let kind = media_type(content_type);
    let sdp = match kind.as_str() {
        SDP => body.as_ref(),
        _ if kind.starts_with("multipart/") => {
            let parts = multipart::parts(content_type, body);
            let parts = parts.map_err(|_| malformed("Malformed Body"))?;
            let part = parts.iter().find(|part| part.media_type() == SDP);
            let part = part.and_then(|part| body.get(part.body.clone()));
            part.ok_or(NO_OFFER)?
        }
        _ => return Err(OTHER_TYPE),
    };
    SessionDescription::parse(sdp).map_err(|_| malformed("Malformed Session Description"))
}

const fn malformed(reason: &'static str) -> Unusable {
    Unusable::Unread(Rejection::new(400, reason))
}

impl Service {
    /// Says why no session comes of a request.
    pub fn refuse_offer(
        &mut self,
        request: &Message,
        server: ServerId,
        unusable: Unusable,
        now: Now,
    ) {
        match unusable {
            Unusable::Unread(rejection) => self.reject(request, server, &rejection, now),
            Unusable::Refused(refusal) => self.reject_description(request, server, refusal, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::wire;

    const MSRP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
        m=message 9 TCP/MSRP *\r\na=accept-types:*\r\na=path:msrp://127.0.0.1:9/s;tcp\r\n";

    fn offered(fields: &str, body: &str) -> Result<(), Unusable> {
        let text = format!("INVITE sip:bob@im.test SIP/2.0\r\n{fields}\r\n{body}");
        let invite = wire::parse(text.into()).expect("framed");
        of_session(&invite).map(|_| ())
    }

    fn status(outcome: Result<(), Unusable>) -> u16 {
        match outcome {
            Ok(()) => 200,
            Err(Unusable::Unread(rejection)) => rejection.status,
            Err(Unusable::Refused(refusal)) => refusal.warning,
        }
    }

    #[test]
    fn what_is_wrong_with_an_offer_is_told_by_its_kind() {
        let sdp = "Content-Type: application/sdp\r\n";
        let mixed = "Content-Type: multipart/mixed;boundary=b\r\n";
        let text = "--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n";
        let whole = format!("--b\r\nContent-Type: application/sdp\r\n\r\n{MSRP}\r\n--b--\r\n");
        let cases = [
            (sdp, MSRP, 200),
            (mixed, &whole, 200),
            (sdp, "", 399),
            ("", "", 399),
            (mixed, text, 399),
            (mixed, "no parts", 400),
            (sdp, "v=1\r\n", 400),
            (sdp, "hello", 400),
            ("", MSRP, 400),
            (
                sdp,
                &MSRP.replace("m=message 9 TCP/MSRP *", "m=audio 9 RTP/AVP 0"),
                304,
            ),
            (sdp, &MSRP.replace("m=message 9", "m=message 0"), 304),
            ("Content-Type: text/plain\r\n", "hello", 415),
            ("c: application/sdp\r\ne: gzip\r\n", MSRP, 415),
            ("c: application/sdp\r\ne: identity\r\n", MSRP, 200),
        ];
        for (fields, body, expected) in cases {
            assert_eq!(status(offered(fields, body)), expected, "{fields}{body}");
        }
    }
}
