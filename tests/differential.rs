//! Our reading of a message against that of `rsip`, on what `rsip` can read: `sip:` URIs with host
//! names, long header names, known methods, nothing folded.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use restante::sip::message::HeaderName;
use restante::sip::{validate, wire};
use rsip::prelude::*;

#[derive(Clone, Debug)]
struct Plain {
    method: &'static str,
    user: String,
    host: String,
    port: Option<u16>,
    tag: String,
    call_id: String,
    number: u32,
    vias: Vec<String>,
    body: String,
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,11}"
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}\\.(example|test)",
        (1..255u8, 0..255u8).prop_map(|(a, b)| format!("192.0.{b}.{a}")),
    ]
}

fn plain() -> impl Strategy<Value = Plain> {
    let methods = vec![
        "INVITE",
        "MESSAGE",
        "OPTIONS",
        "REGISTER",
        "BYE",
        "SUBSCRIBE",
        "NOTIFY",
    ];
    let via = (host(), word())
        .prop_map(|(host, word)| format!("SIP/2.0/UDP {host};branch=z9hG4bK{word}"));
    let head = (
        prop::sample::select(methods),
        word(),
        host(),
        prop::option::of(1u16..),
    );
    let identifiers = (word(), "[a-z0-9]{1,16}@[a-z]{1,8}", 0..1u32 << 31);
    (head, identifiers, vec(via, 1..4), "[ -~]{0,40}").prop_map(
        |(head, identifiers, vias, body)| {
            let (method, user, host, port) = head;
            let (tag, call_id, number) = identifiers;
            Plain {
                method,
                user,
                host,
                port,
                tag,
                call_id,
                number,
                vias,
                body,
            }
        },
    )
}

impl Plain {
    fn text(&self) -> String {
        let Self {
            method,
            user,
            host,
            tag,
            call_id,
            number,
            body,
            ..
        } = self;
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let vias: String = self
            .vias
            .iter()
            .map(|via| format!("Via: {via}\r\n"))
            .collect();
        format!(
            "{method} sip:{user}@{host}{port} SIP/2.0\r\n{vias}Max-Forwards: 70\r\n\
             From: <sip:{user}@{host}>;tag={tag}\r\nTo: <sip:{host}@{host}>\r\n\
             Call-ID: {call_id}\r\nCSeq: {number} {method}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn both_read_the_same(plain in plain()) {
        let text = plain.text();
        let theirs = rsip::Request::try_from(text.as_str()).expect("rsip reads it");
        let ours = wire::parse(Bytes::from(text)).expect("we read it");
        prop_assert_eq!(validate::validate(&ours), Ok(()));

        let method = theirs.method.to_string();
        prop_assert_eq!(ours.method_str(), method);
        prop_assert_eq!(ours.request_uri(), theirs.uri.to_string());
        let call_id = theirs.call_id_header().expect("Call-ID");
        prop_assert_eq!(ours.call_id(), Ok(call_id.value()));
        let from = theirs.from_header().expect("From").typed().expect("From");
        let tag = from.tag().map(|tag| tag.value().to_owned());
        prop_assert_eq!(ours.from().expect("From").tag().map(str::to_owned), tag);
        prop_assert_eq!(ours.from().expect("From").uri, from.uri.to_string());
        let cseq = theirs.cseq_header().expect("CSeq").typed().expect("CSeq");
        prop_assert_eq!(ours.cseq().map(|cseq| cseq.number), Ok(cseq.seq));
        let vias = theirs.headers.iter().filter(|header| matches!(header, rsip::Header::Via(_)));
        prop_assert_eq!(ours.values(HeaderName::Via).count(), vias.count());
        let via = theirs.via_header().expect("Via").typed().expect("Via");
        let branch = via.branch().map(|branch| branch.value().to_owned());
        prop_assert_eq!(ours.top_via().expect("Via").branch.map(str::to_owned), branch);
        prop_assert_eq!(ours.body().as_ref(), theirs.body.as_slice());
    }
}
