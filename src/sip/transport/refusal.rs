//! The answer to octets that are no SIP message, where there is enough to answer (RFC 3261 §8.2, §21.4.1).
//!
//! It is given without a transaction: a retransmission is as malformed as the first, and answered
//! alike.

use bytes::Bytes;
use std::net::SocketAddr;

use crate::limits::reflection;
use crate::sip::message::Method;
use crate::sip::reply;
use crate::sip::wire::{self, WireError};

/// A response to what `error` is about, for the connection or address it came from. `None` if
/// nothing can be answered: too little was understood, it was a response or an ACK, or what an answer
/// must repeat is more than a message may have.
pub fn answer(error: &WireError, source: SocketAddr) -> Option<Bytes> {
    let request = error.partial.as_deref()?;
    // What kind of request it was may be found in its CSeq alone.
    let named = request.cseq().map(|cseq| cseq.method);
    let is_ack = request.method() == Method::Ack || named == Ok("ACK");
    if !request.is_request() || is_ack || request.top_via().is_err() {
        return None;
    }
    let stamped = reply::stamp_source(request.clone(), source);
    let request = stamped.as_ref().unwrap_or(request);
    // RFC 3261 §8.2.7: a stateless answer gives every copy of a request the same tag.
    let tag = format!("{:08x}", crc32c::crc32c(request.bytes()));
    let answer = reply::response(request, error.status, error.reason, Some(&tag)).build();
    wire::parse(answer.clone()).is_ok().then_some(answer)
}

/// The same for a datagram of `came` octets, whose sender may be sent little.
pub fn answer_datagram(error: &WireError, source: SocketAddr, came: usize) -> Option<Bytes> {
    let most = reflection::allowance(came);
    let answer = answer(error, source)?;
    if answer.len() <= most {
        return Some(answer);
    }
    let request = wire::parse(answer).ok()?;
    let terse = reply::terse(&request, error.status, "", None);
    (terse.len() <= most).then_some(terse)
}

/// Where a response to a malformed datagram from `source` goes: to the very port it came from if the
/// sender asks for that (RFC 3581 §4), else to the one its Via names (RFC 3261 §18.2.2).
pub fn return_address(error: &WireError, source: SocketAddr) -> SocketAddr {
    let partial = error.partial.as_deref();
    let via = partial.and_then(|message| message.top_via().ok());
    match via {
        Some(via) if via.rport.is_none() => SocketAddr::new(source.ip(), via.port.unwrap_or(5060)),
        _ => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.7:4711";

    fn refused(via: &str, method: &str) -> (WireError, SocketAddr) {
        let text = format!(
            "{method} sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:bob@im.test>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 99\r\n\r\n",
        );
        let error = wire::parse(Bytes::from(text)).expect_err("the body is missing");
        (error, SOURCE.parse().expect("an address"))
    }

    fn text(octets: &Bytes) -> &str {
        std::str::from_utf8(octets).expect("text")
    }

    #[test]
    fn a_request_without_its_whole_body_is_answered_400_where_it_came_from() {
        let (error, source) = refused("host.test;rport;branch=z9hG4bKx", "MESSAGE");
        let answered = answer(&error, source).expect("there is enough to answer");
        assert!(text(&answered).starts_with("SIP/2.0 400 "));
        assert!(text(&answered).contains("received=192.0.2.7"));
        assert!(text(&answered).contains("rport=4711"));
        assert!(text(&answered).contains("To: <sip:bob@im.test>;tag="));
        assert_eq!(return_address(&error, source), source);
        assert_eq!(answer(&error, source), Some(answered));
    }

    #[test]
    fn without_rport_the_answer_goes_to_the_port_of_the_via() {
        let (error, source) = refused("host.test:5080;branch=z9hG4bKx", "MESSAGE");
        let to = return_address(&error, source);
        assert_eq!(to, "192.0.2.7:5080".parse().expect("an address"));
        let (error, source) = refused("host.test;branch=z9hG4bKx", "MESSAGE");
        assert_eq!(return_address(&error, source).port(), 5060);
    }

    #[test]
    fn what_stands_there_twice_is_answered_once_and_what_is_too_much_not_at_all() {
        let (error, source) = refused(
            "host.test;branch=z9hG4bKx\r\nFrom: <sip:c@d>;tag=2\r\nTo: <sip:e@f>",
            "MESSAGE",
        );
        let answered = answer(&error, source).expect("there is enough to answer");
        for name in ["\r\nFrom: ", "\r\nTo: ", "\r\nCall-ID: ", "\r\nCSeq: "] {
            assert_eq!(text(&answered).matches(name).count(), 1, "{name}");
        }
        let many = "host.test;branch=z9hG4bKx\r\nVia: SIP/2.0/UDP other.test".to_owned();
        let vias = many + &"\r\nVia: SIP/2.0/UDP other.test".repeat(504);
        let (error, source) = refused(&vias, "MESSAGE");
        assert!(answer(&error, source).is_some());
        let (error, source) = refused(
            &(vias + &"\r\nVia: SIP/2.0/UDP o.test".repeat(4)),
            "MESSAGE",
        );
        assert_eq!(answer(&error, source), None);
    }

    #[test]
    fn a_start_line_that_is_none_is_answered_unless_it_was_an_ack() {
        let source = SOURCE.parse().expect("an address");
        let answered = |method: &str| {
            let text = format!(
                "no start line\r\nVia: SIP/2.0/UDP host.test;branch=z9hG4bKx\r\n\
                 From: <sip:a@b>;tag=1\r\nTo: <sip:bob@im.test>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n\r\n",
            );
            let came = text.len();
            let error = wire::parse(text.into()).expect_err("no start line");
            answer_datagram(&error, source, came)
        };
        let answer = answered("MESSAGE").expect("there is enough to answer");
        assert!(text(&answer).starts_with("SIP/2.0 400 "));
        assert_eq!(answered("ACK"), None);
    }

    #[test]
    fn acks_and_noise_are_not_answered() {
        let (error, source) = refused("host.test;branch=z9hG4bKx", "ACK");
        assert_eq!(answer(&error, source), None);
        for noise in ["hello", "hello\r\n\r\n"] {
            let error = wire::parse(noise.into()).expect_err("no message");
            assert_eq!(answer(&error, source), None);
        }
    }
}
