//! Whether a message is fit to be worked on (RFC 3261 §8.1.1, §16.3 step 1; RFC 4475).

use crate::sip::header::NameAddr;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::rejection::Rejection;
use crate::sip::wire::MAX_LINE;
use crate::uri::Uri;

/// What a branch of RFC 3261 begins with (§8.1.1.7).
const MAGIC_COOKIE: &str = "z9hG4bK";

/// Header fields that may stand only once.
const SINGLE: [HeaderName; 11] = [
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
    HeaderName::MaxForwards,
    HeaderName::ContentType,
    HeaderName::Expires,
    HeaderName::Date,
    HeaderName::ConversationId,
    HeaderName::ContributionId,
    HeaderName::InReplyToContributionId,
];

/// Checks what every request must hold; the rejection says what is wrong.
pub fn validate(message: &Message) -> Result<(), Rejection> {
    if message.repeats_any(&SINGLE) {
        return Err(Rejection::new(400, "Repeated Header"));
    }
    let mut top_branch = None;
    for (at, via) in message.vias().enumerate() {
        let via = via?;
        if !via.parameters().are_sound() {
            return Err(Rejection::new(400, "Malformed Via"));
        }
        if at == 0 {
            top_branch = via.branch;
        }
    }
    if message.is_request() && top_branch == Some(MAGIC_COOKIE) {
        // It claims to be unique and names nothing (RFC 4475 §3.2.1).
        return Err(Rejection::new(400, "Missing Transaction Identifier"));
    }
    check_address(&message.from()?, message.from_uri())?;
    check_address(&message.to()?, message.to_uri())?;
    // RFC 3261 §25.1: a word has none.
    if message
        .call_id()?
        .bytes()
        .any(|byte| byte.is_ascii_control())
    {
        return Err(Rejection::new(400, "Malformed Call-ID"));
    }
    let cseq = message.cseq()?;
    if message.is_request() {
        check_request(message, cseq.method)?;
    }
    Ok(())
}

fn check_request(request: &Message, cseq_method: &str) -> Result<(), Rejection> {
    if request.top_via_line() > MAX_LINE {
        // It was as long as it may be before it said where the request came from.
        return Err(Rejection::new(513, "Message Too Large"));
    }
    if cseq_method != request.method_str() {
        return Err(Rejection::new(400, "CSeq Does Not Match Method"));
    }
    let malformed = Rejection::new(400, "Malformed Request-URI");
    let uri = request.uri().map_err(|_| malformed)?;
    // RFC 3261 §19.1.1: a Request-URI has no header components.
    if uri.headers().is_some() {
        return Err(malformed);
    }
    request.max_forwards()?;
    for (value, address) in request.contacts() {
        let all_bindings = value == "*" && request.method() == Method::Register;
        // What is sent to it must be legal as well.
        let is_address = address.is_some_and(|(it, _)| it.parameters.are_sound());
        if !all_bindings && !is_address {
            return Err(Rejection::new(400, "Malformed Contact"));
        }
    }
    Ok(())
}

fn check_address(address: &NameAddr<'_>, uri: Option<Uri<'_>>) -> Result<(), Rejection> {
    if uri.is_some() && address.parameters.are_sound() {
        Ok(())
    } else {
        Err(Rejection::new(400, "Malformed Address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{reply, wire};

    fn check(change: impl Fn(&str) -> String) -> Result<(), Rejection> {
        let text = "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <tel:+1>\r\nCall-ID: x\r\nCSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\n\r\n";
        validate(&wire::parse(change(text).into()).expect("framed"))
    }

    #[test]
    fn a_whole_request_passes() {
        assert_eq!(check(str::to_owned), Ok(()));
    }

    #[test]
    fn a_via_that_is_too_long_once_it_is_stamped_is_refused() {
        let source = "192.0.2.1:5060".parse().expect("an address");
        let stamp = ";received=192.0.2.1".len();
        let stamped = |length: usize| {
            let head = "Via: SIP/2.0/UDP a;branch=z9hG4bK1;x=";
            let via = format!("{head}{}", "y".repeat(length - head.len()));
            let text = format!(
                "MESSAGE sip:bob@im.test SIP/2.0\r\n{via}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <tel:+1>\r\n\
                 Call-ID: x\r\nCSeq: 1 MESSAGE\r\n\r\n"
            );
            let request = wire::parse(text.into()).expect("framed");
            assert_eq!(validate(&request), Ok(()));
            reply::stamp_source(request, source).expect("stamped")
        };
        let fits = stamped(MAX_LINE - stamp);
        assert_eq!(validate(&fits), Ok(()));
        assert!(wire::parse(fits.bytes().clone()).is_ok());
        for length in [MAX_LINE - stamp + 1, MAX_LINE] {
            let outcome = validate(&stamped(length));
            assert_eq!(outcome.map_err(|rejection| rejection.status), Err(513));
        }
    }

    #[test]
    fn what_is_missing_repeated_or_broken_is_named() {
        let cases = [
            ("Via: SIP/2.0/UDP a;branch=z9hG4bK1\r\n", ""),
            ("From: <sip:a@b>;tag=1\r\n", ""),
            ("Call-ID: x\r\n", ""),
            ("Call-ID: x", "Call-ID: x\0y"),
            ("CSeq: 1 MESSAGE", "CSeq: 1 INVITE"),
            ("CSeq: 1 MESSAGE", "CSeq: 99999999999 MESSAGE"),
            ("To: <tel:+1>", "To: \"Broken <tel:+1>"),
            ("To: <tel:+1>", "To: <tel:+1>\r\nt: <tel:+2>"),
            (
                "To: <tel:+1>",
                "To: <tel:+1>\r\nContribution-ID: a\r\nContribution-ID: b",
            ),
            ("Max-Forwards: 70", "Max-Forwards: 300"),
            ("sip:bob@im.test SIP", "<sip:bob@im.test> SIP"),
            ("sip:bob@im.test SIP", "sip:bob@im.test?Route=x SIP"),
            ("branch=z9hG4bK1", "branch=z9hG4bK"),
            ("branch=z9hG4bK1", ";,;,,"),
            ("tag=1", "tag=\"1"),
            ("To: <tel:+1>", "To: sip:x;y=<sip:z@h>"),
            ("To: <tel:+1>", "To: <tel:+1>\r\nContact: <sip:a@b>;;"),
            ("To: <tel:+1>", "To: <tel:+1>\r\nContact: *"),
            ("To: <tel:+1>", "To: <tel:+1>\r\nm: sip:a@b?Route=c"),
        ];
        for (from, to) in cases {
            let outcome = check(|text| text.replacen(from, to, 1));
            assert_eq!(
                outcome.map_err(|rejection| rejection.status),
                Err(400),
                "{to}"
            );
        }
    }
}
