//! What the wire layer makes of each message of RFC 4475.
//!
//! A message that is legal, or whose fault is for a higher layer to find, must come out whole; a
//! malformed request must be refused with the status the RFC gives and enough of it to answer; a
//! malformed response must be dropped.

use std::path::PathBuf;

use bytes::Bytes;
use restante::sip::header::NameAddr;
use restante::sip::message::{HeaderName, Message, Method};
use restante::sip::splice::Edit;
use restante::sip::stream::{Framed, StreamFramer};
use restante::sip::{validate, wire};
use restante::uri::{Scheme, Uri};

/// The right end of a message in the wire layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Handed up: legal, or refused above for what it asks.
    Accepted,
    /// A request that is answered so.
    Refused(u16),
    /// A response that nobody hears of.
    Dropped,
}

use Fate::{Accepted, Dropped, Refused};

/// Name, section, fate.
const VECTORS: [(&str, &str, Fate); 49] = [
    ("wsinv", "3.1.1.1", Accepted),
    ("intmeth", "3.1.1.2", Accepted),
    ("esc01", "3.1.1.3", Accepted),
    ("escnull", "3.1.1.4", Accepted),
    ("esc02", "3.1.1.5", Accepted),
    ("lwsdisp", "3.1.1.6", Accepted),
    ("longreq", "3.1.1.7", Accepted),
    ("dblreq", "3.1.1.8", Accepted),
    ("semiuri", "3.1.1.9", Accepted),
    ("transports", "3.1.1.10", Accepted),
    ("mpart01", "3.1.1.11", Accepted),
    ("unreason", "3.1.1.12", Accepted),
    ("noreason", "3.1.1.13", Accepted),
    ("badinv01", "3.1.2.1", Refused(400)),
    ("clerr", "3.1.2.2", Refused(400)),
    ("ncl", "3.1.2.3", Refused(400)),
    ("scalar02", "3.1.2.4", Refused(400)),
    ("scalarlg", "3.1.2.5", Dropped),
    ("quotbal", "3.1.2.6", Refused(400)),
    ("ltgtruri", "3.1.2.7", Refused(400)),
    ("lwsruri", "3.1.2.8", Refused(400)),
    ("lwsstart", "3.1.2.9", Refused(400)),
    ("trws", "3.1.2.10", Refused(400)),
    ("escruri", "3.1.2.11", Refused(400)),
    // The date matters only to whoever uses it.
    ("baddate", "3.1.2.12", Accepted),
    ("regbadct", "3.1.2.13", Refused(400)),
    // The RFC allows to ignore the blanks.
    ("badaspec", "3.1.2.14", Accepted),
    // The RFC allows to infer the missing quotes, but in its archive the empty line is missing too.
    ("baddn", "3.1.2.15", Refused(400)),
    ("badvers", "3.1.2.16", Refused(505)),
    ("mismatch01", "3.1.2.17", Refused(400)),
    ("mismatch02", "3.1.2.18", Refused(400)),
    ("bigcode", "3.1.2.19", Dropped),
    ("badbranch", "3.2.1", Refused(400)),
    ("insuf", "3.3.1", Refused(400)),
    ("unkscm", "3.3.2", Accepted),
    ("novelsc", "3.3.3", Accepted),
    ("unksm2", "3.3.4", Accepted),
    ("bext01", "3.3.5", Accepted),
    ("invut", "3.3.6", Accepted),
    ("regaut01", "3.3.7", Accepted),
    ("multi01", "3.3.8", Refused(400)),
    ("mcl01", "3.3.9", Refused(400)),
    ("bcast", "3.3.10", Accepted),
    ("zeromf", "3.3.11", Accepted),
    ("cparam01", "3.3.12", Accepted),
    ("cparam02", "3.3.13", Accepted),
    ("regescrt", "3.3.14", Accepted),
    ("sdp01", "3.3.15", Accepted),
    ("inv2543", "3.4.1", Accepted),
];

fn octets(name: &str) -> Bytes {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/rfc4475");
    let path = folder.join(name).with_extension("dat");
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

fn legal(name: &str) -> Message {
    wire::parse(octets(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn fate(octets: Bytes) -> Fate {
    let (outcome, message) = match wire::parse(octets) {
        Ok(message) => (
            validate::validate(&message).map_err(|fault| fault.status),
            Some(message),
        ),
        Err(error) => (Err(error.status), error.partial.map(|partial| *partial)),
    };
    let answerable = message.is_some_and(|message| message.is_request());
    match outcome {
        Ok(()) => Accepted,
        Err(status) if answerable => Refused(status),
        Err(_) => Dropped,
    }
}

#[test]
fn every_message_of_rfc_4475_has_the_right_fate() {
    for (name, section, expected) in VECTORS {
        assert_eq!(fate(octets(name)), expected, "{name} (RFC 4475 §{section})");
    }
}

#[test]
fn every_accepted_message_passes_through_unchanged() {
    for (name, section, _) in VECTORS.iter().filter(|vector| vector.2 == Accepted) {
        let message = wire::parse(octets(name)).expect(name);
        let again = Edit::new(&message).finish();
        assert_eq!(&again, message.bytes(), "{name} (RFC 4475 §{section})");
    }
}

#[test]
fn a_refused_request_keeps_the_via_its_answer_takes() {
    // badinv01 has no Via that could be used.
    let refused = VECTORS
        .iter()
        .filter(|(name, _, fate)| matches!(fate, Refused(_)) && *name != "badinv01");
    for (name, section, _) in refused {
        let message = match wire::parse(octets(name)) {
            Ok(message) => message,
            Err(error) => *error.partial.expect("a request"),
        };
        assert!(message.top_via().is_ok(), "{name} (RFC 4475 §{section})");
    }
}

#[test]
fn what_the_ugly_invite_says_is_understood() {
    let message = legal("wsinv");
    let from = message.from().expect("From");
    assert_eq!(from.uri, "sip:jdrosen@example.com");
    assert_eq!(from.tag(), Some("98asjd8"));
    assert_eq!(message.to().expect("To").tag(), Some("1918181833n"));
    assert_eq!(message.max_forwards(), Ok(Some(68)));
    assert_eq!(message.cseq().map(|cseq| cseq.number), Ok(9));
    let branches: Vec<_> = message
        .values(HeaderName::Via)
        .map(|via| restante::sip::header::Via::parse(via).expect("Via").branch)
        .collect();
    assert_eq!(
        branches,
        [
            Some("390skdjuw"),
            Some("z9hG4bK9ikj8"),
            Some("z9hG4bK30239")
        ]
    );
    assert_eq!(message.body().len(), 150);
    let contact = message.values(HeaderName::Contact).next().expect("Contact");
    let contact = NameAddr::parse(contact).expect("Contact");
    assert_eq!(contact.param("newparam"), Some(Some("newvalue")));
    assert_eq!(contact.param("q"), Some(Some("0.33")));
    let routes: Vec<_> = message.values(HeaderName::Route).collect();
    assert_eq!(routes.len(), 1);
}

#[test]
fn odd_names_are_kept_as_they_are() {
    let message = legal("intmeth");
    assert_eq!(message.method(), Method::Other);
    let method = "!interesting-Method0123456789_*+`.%indeed'~";
    assert_eq!(message.method_str(), method);
    assert_eq!(message.cseq().map(|cseq| cseq.method), Ok(method));
    assert!(message.other_header("extensionHeader-!.%*+_`'~").is_some());
    assert_eq!(
        message.from().expect("From").tag(),
        Some("_token~1'+`*%!-.")
    );
    // An escape does not make another method or another user.
    assert_eq!(legal("esc02").method_str(), "RE%47IST%45R");
    let escaped = legal("esc01");
    assert_eq!(
        escaped.request_uri(),
        "sip:sips%3Auser%40example.com@example.net"
    );
    assert_eq!(
        escaped.to().map(|to| to.uri),
        Ok("sip:%75se%72@example.com")
    );
}

#[test]
fn schemes_are_told_apart() {
    let scheme = |name| {
        Uri::parse(legal(name).request_uri())
            .expect("a URI")
            .scheme()
    };
    assert_eq!(scheme("unkscm"), Scheme::Other);
    assert_eq!(scheme("novelsc"), Scheme::Other);
    assert_eq!(scheme("semiuri"), Scheme::Sip);
}

#[test]
fn reasons_may_be_missing_or_not_ascii() {
    assert_eq!(legal("noreason").reason(), "");
    assert!(legal("unreason").reason().ends_with("простое"));
}

#[test]
fn contact_parameters_belong_where_they_are_written() {
    let contact = |name| {
        let message = legal(name);
        let value = message.header(HeaderName::Contact).expect("Contact");
        let contact = NameAddr::parse(value).expect("Contact");
        (
            contact.uri.to_owned(),
            contact.param("unknownparam").is_some(),
        )
    };
    assert_eq!(
        contact("cparam01"),
        ("sip:+19725552222@gw1.example.net".to_owned(), true)
    );
    let (uri, of_header) = contact("cparam02");
    assert!(uri.ends_with(";unknownparam") && !of_header, "{uri}");
}

#[test]
fn only_the_first_request_of_a_datagram_is_taken() {
    let message = legal("dblreq");
    assert_eq!(message.method(), Method::Register);
    assert!(message.body().is_empty());
}

#[test]
fn a_stream_gives_back_what_was_put_in_octet_by_octet() {
    let mut framer = StreamFramer::new(1 << 20);
    for name in ["wsinv", "mpart01", "longreq", "unreason"] {
        let whole = octets(name);
        let mut framed = None;
        for octet in &whole {
            assert_eq!(framed, None, "{name} ended early");
            framer.push(&[*octet]);
            framed = framer.next().expect(name);
        }
        assert_eq!(framed, Some(Framed::Message(whole)), "{name}");
    }
}
