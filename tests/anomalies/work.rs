//! How much work an input is, by its size.

use std::fs;
use std::thread;

use bytes::Bytes;
use restante::cpim::Envelope;
use restante::imdn::DispositionNotification;
use restante::msrp::reader::{FrameReader, Limits};
use restante::msrp::sdp::SessionDescription;
use restante::msrp::uri::MsrpPath;
use restante::registrar::{FeatureSet, Preferences};
use restante::sip::header::{NameAddr, Parameters, Via, split_list};
use restante::sip::message::HeaderName;
use restante::sip::stream::StreamFramer;
use restante::sip::{validate, wire};
use restante::uri::{Uri, equivalent};
use restante::{date, multipart};

/// What is read, the smaller of its two sizes, and the work of one size.
type Case = (&'static str, usize, fn(usize));

/// Four times the size is four times the work, or five with a logarithm; sixteen if it is quadratic.
const MOST: u64 = 9;
/// Nanoseconds of work that are nothing to worry about, whatever the ratio.
const NOTHING: u64 = 2_000_000;
/// The least of so many measurements is what it takes: all else is others' work.
const ROUNDS: usize = 5;

const CASES: [Case; 16] = [
    ("parameters of a URI, compared", 2_000, |size| {
        let one = format!("sip:h{}", numbered(";p", size));
        let other = format!("sip:h{};q", numbered(";P", size));
        let (one, other) = (
            Uri::parse(&one).expect("one"),
            Uri::parse(&other).expect("one"),
        );
        assert!(equivalent(&one, &other));
    }),
    ("header fields of a URI, compared", 2_000, |size| {
        let one = format!("sip:h?a=1{}", numbered("&p=", size));
        let other = format!("sip:h?b=1{}", numbered("&p=", size));
        let (one, other) = (
            Uri::parse(&one).expect("one"),
            Uri::parse(&other).expect("one"),
        );
        assert!(!equivalent(&one, &other));
    }),
    ("a list in quotes", 4_000, |size| {
        let value = format!("\"{}\"{}", ",".repeat(size), "\"a\",".repeat(size));
        assert_eq!(split_list(&value).count(), size);
    }),
    ("parameters of a header", 4_000, |size| {
        let text = numbered(";+sip.p=", size);
        let parameters = Parameters::new(&text);
        assert!(parameters.are_sound() && !FeatureSet::of(&parameters).is_empty());
    }),
    ("nested quotes of a name", 8_000, |size| {
        let value = format!("\"{}\" <sip:a@b>", "\\\"".repeat(size));
        assert_eq!(NameAddr::parse(&value).expect("one").uri, "sip:a@b");
        let _ = NameAddr::parse(&"<".repeat(size)).is_ok();
    }),
    ("a Via with many parameters", 2_000, |size| {
        let value = format!("SIP/2.0/UDP h{};branch=z9hG4bK1", numbered(";p=", size));
        assert_eq!(Via::parse(&value).expect("one").branch, Some("z9hG4bK1"));
    }),
    ("header fields of a message", 120, |size| {
        let message = wire::parse(sip_message(
            &numbered("Via: SIP/2.0/UDP h;branch=", size),
            ";\r\n",
        ));
        let message = message.expect("a message");
        let _ = validate::validate(&message).is_ok();
        assert_eq!(message.values(HeaderName::Via).count(), size);
    }),
    ("values of one header field", 300, |size| {
        let list = format!("Route: {}\r\n", ",<sip:a;lr>".repeat(size));
        let message = wire::parse(sip_message(&list, "")).expect("a message");
        assert_eq!(message.values(HeaderName::Route).count(), size);
    }),
    ("folded lines", 900, |size| {
        let message = wire::parse(sip_message(
            &format!("X: a{}\r\n", "\r\n b".repeat(size)),
            "",
        ));
        assert!(message.is_ok());
    }),
    ("preferences", 300, |size| {
        let value = format!("Accept-Contact: *{}\r\n", numbered(";+sip.p=", size));
        let message = wire::parse(sip_message(&value, "")).expect("a message");
        let stated = FeatureSet::of(&Parameters::new(&numbered(";+sip.p=", size)));
        let order = Preferences::of(&message).expect("some");
        assert!(order.order([(&stated, 1_000)].into_iter()).is_ok());
    }),
    ("a stream of SIP, octet by octet", 2_000, |size| {
        let fields = "X:\r\n".repeat(size);
        let length = fields.len();
        let text =
            format!("MESSAGE sip:a SIP/2.0\r\n{fields}Content-Length: {length}\r\n\r\n{fields}");
        let mut framer = StreamFramer::new(1 << 20);
        let mut messages = 0;
        for octet in text.as_bytes() {
            framer.push(&[*octet]);
            messages += usize::from(framer.next().expect("no error").is_some());
        }
        assert_eq!(messages, 1);
    }),
    ("a stream of MSRP, octet by octet", 4_000, |size| {
        let body = "\r\n-------a786hjs2x".repeat(size);
        let text = format!(
            "MSRP a786hjs2 SEND\r\nTo-Path: msrp://b:1/1;tcp\r\nFrom-Path: msrp://a:1/1;tcp\r\nContent-Type: a/b\r\n\r\n{body}"
        );
        let mut reader = FrameReader::new(Limits::default());
        for octet in text.as_bytes() {
            reader.push(&[*octet]);
            while reader.next().expect("no error").is_some() {}
        }
    }),
    ("a session description", 60, |size| {
        let lines = numbered("a=accept-types:a/", size);
        let path = "msrp://h:1/s;tcp ".repeat(size);
        let text = format!(
            "v=0\r\nm=message 1 TCP/MSRP *\r\n{}a=path:{path}\r\n",
            lines.replace("a=", "\r\na=")
        );
        let _ = SessionDescription::parse(text.as_bytes()).is_ok();
        let _ = MsrpPath::parse(&path).is_ok();
    }),
    ("a body in parts", 4_000, |size| {
        let body = format!("{}\r\n--b--", "\r\n--bb --b- --b".repeat(size));
        assert!(multipart::parts("multipart/mixed;boundary=b", body.as_bytes()).is_ok());
        let parameters = numbered(";p=", size);
        let _ = multipart::parameter(&format!("a/b{parameters}"), "boundary");
    }),
    ("an envelope", 200, |size| {
        let required = numbered(",n.p", size);
        let spaces = "NS: n <u>\r\n".repeat(30);
        let text = format!("{spaces}Require: {required}\r\n\r\nContent-Type: a/b\r\n\r\n");
        let _ = Envelope::parse(text.as_bytes()).is_ok();
        let _ = date::parse(&"1 ".repeat(size)).is_some();
    }),
    ("a notification", 150, |size| {
        let spaces = numbered(" xmlns:p", size)
            .replace(" xmlns", "=\"u\" xmlns")
            .replacen("=\"u\"", "", 1);
        let inside = "<p1:a/>".repeat(size);
        let text =
            format!("<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\"{spaces}=\"u\">{inside}</imdn>");
        let _ = DispositionNotification::parse(text.as_bytes()).is_ok();
    }),
];

/// A text so many times, each with another number.
fn numbered(text: &str, count: usize) -> String {
    (0..count).map(|number| format!("{text}{number}")).collect()
}

/// A request with these lines in it.
fn sip_message(lines: &str, end: &str) -> Bytes {
    let lines = lines.replace("Via:", &format!("{end}Via:"));
    let lines = lines.strip_prefix(end).unwrap_or(&lines);
    Bytes::from(format!("MESSAGE sip:a SIP/2.0\r\n{lines}{end}\r\n"))
}

/// Nanoseconds that this thread has worked.
fn worked() -> u64 {
    // The system counts up to the last time it looked.
    thread::yield_now();
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = text.split(' ').next().expect("three numbers");
    first.parse().expect("a number")
}

fn measured(work: fn(usize), size: usize) -> u64 {
    let once = |_| {
        let begun = worked();
        work(size);
        worked() - begun
    };
    (0..ROUNDS).map(once).min().expect("some rounds")
}

#[test]
fn four_times_the_input_is_nowhere_near_sixteen_times_the_work() {
    let mut faults = Vec::new();
    for (what, size, work) in CASES {
        let (small, large) = (measured(work, size), measured(work, 4 * size));
        println!("{what}: {} µs, {} µs", small / 1_000, large / 1_000);
        if large > NOTHING && large > MOST * small {
            faults.push(what);
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}
