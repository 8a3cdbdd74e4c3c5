//! One valid message of each kind, and every anomaly of a list in every one of its fields.
//!
//! Where `tests/mutation.rs` draws, this goes through a table. Whatever comes of it, the claims of `tests/claims`
//! hold: an error that can be answered, or a message that is written again octet for octet. What must be
//! refused is. And four times as much of anything costs nowhere near sixteen times the work.

mod claims;

#[path = "anomalies/anomaly.rs"]
mod anomaly;
#[path = "anomalies/messages.rs"]
mod messages;
#[path = "anomalies/work.rs"]
mod work;

use anomaly::{ALL, Anomaly, Head};
use bytes::{Bytes, BytesMut};
use claims::{msrp, msrp_pair, sip};
use restante::msrp::frame::{Continuation, FrameEvent, Method, RequestHead};
use restante::msrp::reader::{FrameError, FrameReader, Limits};
use restante::msrp::writer::{SendHead, write_end_line, write_send_head};
use restante::sip::{validate, wire};

/// Leads the octets of a claim that reads in pieces: each octet is a piece.
const EACH_OCTET: [u8; 8] = [0; 8];

fn sip_claims_hold(octets: &[u8]) {
    sip::message_is_read_soundly(octets);
    sip::edit_leaves_the_rest_untouched(octets);
    sip::stream_is_cut_alike(&[&EACH_OCTET, octets].concat());
}

fn msrp_claims_hold(octets: &[u8]) {
    let pieces = [&EACH_OCTET, octets].concat();
    msrp::stream_is_read_alike(&pieces);
    msrp_pair::session_survives_any_peer(&pieces);
}

fn is_refused(octets: &[u8]) -> bool {
    let read = wire::parse(Bytes::copy_from_slice(octets));
    read.map_or(true, |message| validate::validate(&message).is_err())
}

#[test]
fn every_anomaly_of_every_field_of_sip_is_refused_or_comes_back_as_it_was() {
    let (cases, refused) = tally(
        messages::sip(),
        is_refused,
        |name, message, anomaly, octets| {
            sip_claims_hold(octets);
            !message.starts_with(b"SIP/2.0") && must_be_refused(name, anomaly)
        },
    );
    assert!(cases > 2_000 && refused > cases / 4 && refused < cases);
}

/// How many cases there are of each anomaly in each field, and how many of them are refused: at least those of
/// which `look` says that they must be.
fn tally(
    messages: Vec<Vec<u8>>,
    is_refused: impl Fn(&[u8]) -> bool,
    look: impl Fn(&str, &[u8], Anomaly, &[u8]) -> bool,
) -> (usize, usize) {
    let (mut cases, mut refused) = (0, 0);
    for message in messages {
        assert!(!is_refused(&message), "{}", show(&message));
        let head = Head::of(&message);
        for (place, (name, _)) in head.fields.iter().enumerate() {
            for anomaly in ALL {
                let octets = head.with(place, anomaly);
                let demanded = look(name, &message, anomaly, &octets);
                let is_refused = is_refused(&octets);
                let shown = || format!("{anomaly:?} {name}: {}", show(&octets));
                assert!(is_refused || !demanded, "{}", shown());
                cases += 1;
                refused += usize::from(is_refused);
            }
        }
    }
    println!("{cases} cases, {refused} refused");
    (cases, refused)
}

/// What no request can be worked on with (RFC 3261 §8.1.1, §20).
fn must_be_refused(name: &str, anomaly: Anomaly) -> bool {
    use Anomaly::*;
    let needed = ["Via", "From", "To", "Call-ID", "CSeq"].contains(&name);
    let single = needed && name != "Via" || ["Max-Forwards", "Content-Type"].contains(&name);
    let number = ["CSeq", "Max-Forwards", "Content-Length"].contains(&name);
    match anomaly {
        Missing => needed,
        Empty => needed || name == "Max-Forwards" || name == "Content-Length",
        Doubled => single,
        // No line is that long.
        Huge | HugeTail => true,
        Negative | Overflow32 | Overflow64 | Fraction => number,
        Nul | NotUtf8 | LoneLineEnd => needed,
        // A quote is a character of a word like any other.
        Quote => needed && name != "Call-ID",
    }
}

#[test]
fn a_request_whose_body_is_not_as_long_as_it_says_is_refused() {
    let text = String::from_utf8(messages::sip_request("MESSAGE")).expect("text");
    for wrong in [
        "6",
        "99999999",
        "-5",
        "+5",
        "5 5",
        "18446744073709551621",
        "0x5",
        "",
    ] {
        let octets = text.replace("Content-Length: 5", &format!("Content-Length: {wrong}"));
        sip_claims_hold(octets.as_bytes());
        assert!(is_refused(octets.as_bytes()), "{wrong}");
    }
    // A datagram may be longer than its message (RFC 3261 §18.3).
    let shorter = text.replace("Content-Length: 5", "Content-Length: 4");
    let read = wire::parse(shorter.into()).expect("a message");
    assert_eq!(&read.body()[..], b"hell");
}

#[test]
fn a_message_of_sip_cut_off_at_any_octet_is_refused() {
    for message in messages::sip() {
        for end in 0..message.len() {
            let octets = &message[..end];
            sip::message_is_read_soundly(octets);
            sip::stream_is_cut_alike(&[&EACH_OCTET, octets].concat());
            assert!(
                wire::parse(Bytes::copy_from_slice(octets)).is_err(),
                "{}",
                show(octets)
            );
        }
    }
}

/// The requests that were read, and what ended the reading.
fn frames(octets: &[u8]) -> (Vec<(RequestHead, Option<Continuation>)>, Option<FrameError>) {
    let mut reader = FrameReader::new(Limits::default());
    reader.push(octets);
    let mut requests: Vec<(RequestHead, Option<Continuation>)> = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(FrameEvent::Request(head))) => requests.push((head, None)),
            Ok(Some(FrameEvent::End(flag))) => {
                requests.last_mut().expect("a request ends").1 = Some(flag);
            }
            Ok(Some(FrameEvent::Data(_) | FrameEvent::Response(_))) => {}
            Ok(None) => return (requests, None),
            Err(error) => return (requests, Some(error)),
        }
    }
}

/// Whether nothing comes of the request but an error or an answer that says so.
fn request_is_refused(octets: &[u8]) -> bool {
    let (requests, error) = frames(octets);
    let [(head, _)] = &requests[..] else {
        return error.is_some();
    };
    match head.method() {
        Method::Report => head.report().is_err(),
        _ => head.send().is_err(),
    }
}

/// A SEND that is understood is written again, and understood alike.
fn comes_back(octets: &[u8]) {
    for (head, flag) in frames(octets).0 {
        let (Ok(send), Method::Send) = (head.send(), head.method()) else {
            continue;
        };
        let (Some(message_id), Some(byte_range)) = (send.message_id, send.byte_range) else {
            continue;
        };
        let mut out = BytesMut::new();
        let written = SendHead {
            transaction: head.transaction(),
            to_path: head.to_path(),
            from_path: head.from_path(),
            message_id,
            byte_range,
            success_report: send.success_report,
            failure_report: send.failure_report,
            content_type: send.content_type.filter(|_| head.has_body()),
        };
        write_send_head(&mut out, &written);
        let flag = flag.unwrap_or(Continuation::Last);
        write_end_line(&mut out, head.transaction(), false, flag);
        let (again, error) = frames(&out);
        assert_eq!((again.len(), error), (1, None), "{}", show(&out));
        assert_eq!(again[0].1, Some(flag));
        let again = again[0].0.send().expect("what is written is understood");
        assert_eq!(again.message_id, send.message_id);
        assert_eq!(again.byte_range, send.byte_range);
        assert_eq!(again.success_report, send.success_report);
        assert_eq!(again.failure_report, send.failure_report);
        let text = written.content_type.map(before_control);
        assert_eq!(again.content_type, text);
    }
}

/// Nothing that could begin another field is ever written.
fn before_control(text: &str) -> &str {
    text.split(char::is_control).next().unwrap_or_default()
}

#[test]
fn every_anomaly_of_every_field_of_msrp_is_refused_or_comes_back_as_it_was() {
    let look = |name: &str, message: &[u8], anomaly, octets: &[u8]| {
        msrp_claims_hold(octets);
        comes_back(octets);
        !message.starts_with(b"MSRP a786hjs2 2") && must_be_refused_in_msrp(name, anomaly)
    };
    let (cases, refused) = tally(messages::msrp(), request_is_refused, look);
    assert!(cases > 200 && refused > cases / 4 && refused < cases);
}

/// RFC 4975 §7.1, §9.
fn must_be_refused_in_msrp(name: &str, anomaly: Anomaly) -> bool {
    use Anomaly::*;
    let path = ["To-Path", "From-Path"].contains(&name);
    let ident = name == "Message-ID";
    let number = ["Byte-Range", "Status"].contains(&name);
    match anomaly {
        Huge | HugeTail | NotUtf8 | LoneLineEnd => true,
        Missing => path,
        Empty => path || ident || number,
        Doubled => path || ident || number || name == "Content-Type",
        Nul | Quote => ident || number,
        Negative | Overflow32 | Overflow64 | Fraction => number,
    }
}

#[test]
fn a_byte_range_that_cannot_be_is_refused() {
    let text = String::from_utf8(messages::msrp_send()).expect("text");
    let ranges = [
        "0-5/5",
        "-1-5/5",
        "1--5/5",
        "5",
        "1-5",
        "1-5/",
        "/",
        "-/*",
        "*-*/*",
        "1-*/-1",
        "a-b/c",
        "18446744073709551616-*/*",
        "1-18446744073709551616/*",
        "1-5/18446744073709551616",
        "1-5/5/5",
        "1 - 5 / 5x",
    ];
    for range in ranges {
        let octets = text.replace("1-5/5", range);
        msrp_claims_hold(octets.as_bytes());
        comes_back(octets.as_bytes());
        assert!(request_is_refused(octets.as_bytes()), "{range}");
    }
}

#[test]
fn a_frame_ends_at_its_own_end_line_and_nowhere_else() {
    let text = String::from_utf8(messages::msrp_send()).expect("text");
    let end = "-------a786hjs2$\r\n";
    for wrong in [
        "",
        "-------a786hjs2",
        "-------a786hjs2!\r\n",
        "-------a786hjs3$\r\n",
        "-------a786hjs2x$\r\n",
        "------a786hjs2$\r\n",
        "-------A786HJS2$\r\n",
        "-------a786hjs2 $\r\n",
        "-------a786hjs2$\n",
    ] {
        let octets = text.replace(end, wrong);
        msrp_claims_hold(octets.as_bytes());
        comes_back(octets.as_bytes());
        let (requests, error) = frames(octets.as_bytes());
        assert_eq!(error, None);
        assert!(requests.iter().all(|(_, flag)| flag.is_none()), "{wrong:?}");
        // What follows belongs to the body until the end comes.
        let whole = [octets.as_bytes(), b"\r\n", end.as_bytes()].concat();
        let (requests, error) = frames(&whole);
        assert_eq!((requests.len(), error), (1, None), "{wrong:?}");
        assert_eq!(requests[0].1, Some(Continuation::Last));
    }
}

#[test]
fn a_frame_of_msrp_cut_off_at_any_octet_has_no_end() {
    for message in messages::msrp() {
        for end in 0..message.len() {
            let octets = &message[..end];
            msrp_claims_hold(octets);
            let (requests, error) = frames(octets);
            assert_eq!(error, None, "{}", show(octets));
            assert!(
                requests.iter().all(|(_, flag)| flag.is_none()),
                "{}",
                show(octets)
            );
        }
    }
}

fn show(octets: &[u8]) -> String {
    String::from_utf8_lossy(&octets[..octets.len().min(1_500)]).into_owned()
}
