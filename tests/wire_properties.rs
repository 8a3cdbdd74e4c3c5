//! What holds for the wire layer whatever the octets are.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use restante::sip::header::{CSeq, NameAddr, Via, split_list};
use restante::sip::message::{HeaderName, Message};
use restante::sip::reply::{RequestBuilder, ack_for, cancel_for, response, stamp_source};
use restante::sip::splice::Edit;
use restante::sip::stream::{Framed, StreamFramer};
use restante::sip::{validate, wire};

const SEED: &[u8] = b"MESSAGE sip:bob@im.test;transport=tcp SIP/2.0\r\n\
Via: SIP/2.0/UDP [2001:db8::1]:5060;rport;branch=z9hG4bK1, SIP/2.0/TCP h;branch=z9hG4bK2\r\n\
v: SIP / 2.0 / UDP\r\n  last.test ; branch=z9hG4bK3\r\n\
Max-Forwards: 70\r\nf: \"A, \\\"B\\\"\" <sip:alice@im.test>;tag=1\r\nTo: sip:bob@im.test\r\n\
i: abc@192.0.2.1\r\nCSeq: 7 MESSAGE\r\nP-Asserted-Identity : <tel:+4670>\r\n\
Contact: <sip:a@h;ob>;+sip.instance=\"<urn:uuid:1>\";q=0.5\r\nRoute: <sip:a;lr>,<sip:b;lr>\r\n\
Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";

/// Calls everything that reads octets of a peer.
fn exercise(message: &Message) {
    let _ = validate::validate(message);
    let _ = (message.method(), message.method_str(), message.status());
    let _ = (message.reason(), message.request_uri());
    let _ = (message.top_via().is_ok(), message.from().is_ok());
    let _ = (message.to().is_ok(), message.call_id().is_ok());
    let _ = (message.cseq().is_ok(), message.max_forwards().is_ok());
    for (id, name, _) in message.all_headers() {
        let _ = message.other_header(name);
        for value in message.values(id) {
            let _ = Via::parse(value);
            let _ = CSeq::parse(value);
            if let Ok(address) = NameAddr::parse(value) {
                let _ = (address.parameters.are_sound(), address.tag());
                let _ = restante::uri::Uri::parse(address.uri);
            }
        }
    }
    let _ = stamp_source(message.clone(), ([192, 0, 2, 1], 5060).into());
    let _ = (ack_for(message, message), cancel_for(message));
    let mut edit = Edit::new(message);
    edit.request_uri("sip:x@y")
        .prepend("Via", "SIP/2.0/UDP z")
        .remove_first_value(HeaderName::Route)
        .remove(HeaderName::PAssertedIdentity)
        .replace(HeaderName::MaxForwards, "69");
    let _ = edit.finish();
    let _ = response(message, 400, "Bad Request", Some("t")).build();
}

fn read_any(octets: Vec<u8>) {
    match wire::parse(octets.into()) {
        Ok(message) => {
            exercise(&message);
            let again = Edit::new(&message).finish();
            assert_eq!(&again, message.bytes());
        }
        Err(error) => {
            if let Some(partial) = error.partial {
                exercise(&partial);
            }
        }
    }
}

/// Whether the framer gives the same whatever the cuts; errors included.
fn frames(octets: &[u8], cut: usize) -> (Vec<Framed>, bool) {
    let mut framer = StreamFramer::new(4096);
    let mut frames = Vec::new();
    for piece in octets.chunks(cut.max(1)) {
        framer.push(piece);
        loop {
            match framer.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9.!%*_+`'~-]{1,20}"
}

/// Text as a field value may hold it: not blank at its ends.
fn value() -> impl Strategy<Value = String> {
    "[!-~\u{e4}\u{4f60}]([ -~\t\u{e4}]{0,60}[!-~])?"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_octets_make_nothing_panic(octets in vec(any::<u8>(), 0..300)) {
        read_any(octets);
    }

    #[test]
    fn mutated_messages_make_nothing_panic(
        changes in vec((0..SEED.len(), prop_oneof![any::<u8>(), prop::sample::select(b"\r\n :;,<>\"\\@/=\0".to_vec())]), 1..8),
        end in 0..=SEED.len(),
    ) {
        let mut octets = SEED.to_vec();
        for (at, octet) in changes {
            octets[at] = octet;
        }
        octets.truncate(end.max(SEED.len() / 2));
        read_any(octets);
    }

    #[test]
    fn lines_in_any_order_make_nothing_panic(picks in vec(0..14usize, 0..20)) {
        let lines: Vec<&[u8]> = SEED.split_inclusive(|octet| *octet == b'\n').collect();
        let octets: Vec<u8> = picks.iter().flat_map(|pick| lines[pick % lines.len()]).copied().collect();
        read_any([lines[0], &octets, b"\r\n"].concat());
    }

    #[test]
    fn a_stream_is_cut_alike_however_it_arrives(
        cut in 1..50usize,
        changes in vec((0..2 * SEED.len(), any::<u8>()), 0..3),
        breaks in "(\r\n){0,5}",
    ) {
        let mut octets = [SEED, breaks.as_bytes(), SEED].concat();
        for (at, octet) in changes {
            octets[at] = octet;
        }
        let (whole, whole_failed) = frames(&octets, octets.len());
        let (cut, cut_failed) = frames(&octets, cut);
        // A keep-alive in pieces may be taken for stray line breaks, never for a message.
        let messages = |frames: Vec<Framed>| -> Vec<Bytes> {
            let only = frames.into_iter().filter_map(|frame| match frame {
                Framed::Message(octets) => Some(octets),
                Framed::KeepAlive => None,
            });
            only.collect()
        };
        prop_assert_eq!(messages(whole), messages(cut));
        prop_assert_eq!(whole_failed, cut_failed);
    }

    #[test]
    fn what_is_built_is_read_back(
        method in token(),
        fields in vec((token(), value()), 0..40),
        body in vec(any::<u8>(), 0..200),
    ) {
        let named = |name: &String| HeaderName::parse(name.as_bytes()) == HeaderName::ContentLength;
        let fields: Vec<_> = fields.into_iter().filter(|(name, _)| !named(name)).collect();
        let mut builder = RequestBuilder::new(&method, "sip:bob@im.test");
        for (name, value) in &fields {
            builder = builder.header(name, value);
        }
        let message = wire::parse(builder.body("a/b", &body).build()).expect("legal");
        prop_assert_eq!(message.method_str(), &method);
        prop_assert_eq!(message.body().as_ref(), body.as_slice());
        let read: Vec<_> = message
            .all_headers()
            .take(fields.len())
            .map(|(_, name, value)| (name.to_owned(), String::from_utf8(value.to_vec()).expect("text")))
            .collect();
        prop_assert_eq!(read, fields);
    }

    #[test]
    fn no_value_adds_a_field(text in "[a-z\r\n\0: ]{0,60}") {
        let built = RequestBuilder::new("MESSAGE", &format!("sip:{text}"))
            .header("Subject", &text)
            .body(&text, b"")
            .build();
        let message = wire::parse(built).expect("legal");
        prop_assert_eq!(message.all_headers().count(), 3);
        let mut edit = Edit::new(&message);
        edit.append("X", &text).prepend("Y", &text).replace(HeaderName::Subject, &text);
        let edited = wire::parse(edit.finish()).expect("legal");
        prop_assert_eq!(edited.all_headers().count(), 5);
        let answer = response(&message, 400, &text, Some("t")).build();
        prop_assert_eq!(wire::parse(answer).expect("legal").all_headers().count(), 1);
    }

    #[test]
    fn lists_lose_nothing(text in "[a-z\"\\\\<>,; ]{0,60}") {
        let joined: Vec<_> = split_list(&text).collect();
        let again: Vec<String> = split_list(&joined.join(", ")).map(str::to_owned).collect();
        // An open quote or bracket swallows what follows, so joining cannot separate more.
        prop_assert!(again.len() <= joined.len());
    }
}
