//! Two ends of a session over a link without sockets or sleep, and single ends fed frame by frame.

use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;

use super::connection_queue::{ConnectionQueue, QueueLimits};
use super::event::{ChunkId, EndReason, InboundId, OutboundId, SessionEvent};
use super::frame::{ByteRange, FailureReport, FrameEvent};
use super::incoming::IncomingLimits;
use super::outgoing::{MAX_CHUNK, OutboundMessage, OutgoingLimits, RESPONSE_TIMEOUT};
use super::reader::{FrameReader, Limits};
use super::session::{Session, SessionConfig};
use super::uri::{MsrpPath, MsrpUri};
use crate::clock::Instant;
use crate::token::Tokens;

const ALICE: &str = "msrp://alice.example:7777/2.alice;tcp";
const BOB: &str = "msrp://bob.example:8888/5.bob;tcp";
/// The connection everything goes over, unless a test says otherwise.
const LINK: u8 = 1;

fn config(local: &str, remote: &str) -> SessionConfig {
    SessionConfig {
        local: MsrpUri::parse(local).unwrap(),
        remote: MsrpPath::parse(remote).unwrap(),
        accept_types: vec!["message/cpim".into(), "text/plain".into()],
        incoming: IncomingLimits::default(),
        outgoing: OutgoingLimits::default(),
    }
}

fn message(length: Option<u64>) -> OutboundMessage {
    OutboundMessage {
        message_id: None,
        content_type: "text/plain".into(),
        length,
        success_report: false,
        failure_report: FailureReport::Yes,
    }
}

/// Bob's end alone; what Alice would send is written by hand.
struct Bob {
    session: Session<u8>,
    tokens: Tokens,
    now: Instant,
}

impl Bob {
    fn new() -> Self {
        Self::with(config(BOB, ALICE))
    }

    fn with(config: SessionConfig) -> Self {
        Self {
            session: Session::new(config),
            tokens: Tokens::from_seed(5),
            now: Instant::default(),
        }
    }

    fn receives_on(&mut self, connection: u8, octets: &[u8]) {
        let mut reader = FrameReader::new(Limits::default());
        reader.push(octets);
        while let Some(event) = reader.next().unwrap() {
            self.session.handle_frame(connection, event);
        }
    }

    fn receives(&mut self, frame: &str) {
        self.receives_on(LINK, frame.as_bytes());
    }

    /// A SEND of Alice; `fields` are whole lines.
    fn receives_send(&mut self, tid: &str, fields: &str, body: &str, flag: char) {
        let head = format!("MSRP {tid} SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n");
        let end = format!("\r\n-------{tid}{flag}\r\n");
        self.receives(&format!(
            "{head}{fields}Content-Type: text/plain\r\n\r\n{body}{end}"
        ));
    }

    /// Everything written so far, with its connection.
    fn writes(&mut self) -> Vec<(u8, String)> {
        let mut out = Vec::new();
        while let Some(transmit) = self.session.poll_transmit() {
            let text = String::from_utf8(transmit.octets.joined().to_vec()).unwrap();
            self.session
                .handle_written(transmit.connection, 1, self.now);
            out.push((transmit.connection, text));
        }
        out
    }

    /// Start lines of everything written so far.
    fn says(&mut self) -> Vec<String> {
        let line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        self.writes()
            .into_iter()
            .map(|(_, text)| line(text))
            .collect()
    }

    fn told(&mut self) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }
}

fn chunks(events: &[SessionEvent]) -> Vec<ChunkId> {
    let chunk = |event: &SessionEvent| match event {
        SessionEvent::ChunkDone { chunk, .. } => Some(*chunk),
        _ => None,
    };
    events.iter().filter_map(chunk).collect()
}

fn done(events: &[SessionEvent]) -> Option<(InboundId, u64)> {
    events.iter().find_map(|event| match event {
        SessionEvent::MessageDone { message, length } => Some((*message, *length)),
        _ => None,
    })
}

fn aborted(events: &[SessionEvent]) -> Option<Option<u16>> {
    events.iter().find_map(|event| match event {
        SessionEvent::MessageAborted { status, .. } => Some(*status),
        _ => None,
    })
}

#[test]
fn a_message_in_one_chunk_is_taken_answered_and_reported() {
    let mut bob = Bob::new();
    bob.receives_send(
        "d93kswow",
        "Message-ID: 12339sdqwer\r\nByte-Range: 1-5/5\r\nSuccess-Report: yes\r\n",
        "Hello",
        '$',
    );
    let events = bob.told();
    assert!(matches!(events[0], SessionEvent::Bound));
    let SessionEvent::MessageBegun {
        content_type,
        total,
        message_id,
        ..
    } = &events[1]
    else {
        panic!("{events:?}");
    };
    assert_eq!((content_type.as_str(), *total), ("text/plain", Some(5)));
    assert_eq!(message_id, "12339sdqwer");
    let SessionEvent::Data { offset, octets, .. } = &events[2] else {
        panic!("{events:?}");
    };
    assert_eq!((*offset, &octets[..]), (0, b"Hello".as_slice()));
    let (id, length) = done(&events).unwrap();
    assert_eq!(length, 5);
    assert!(
        bob.says().is_empty(),
        "nothing is answered before the user decides"
    );
    bob.session.report_success(id, &mut bob.tokens);
    bob.session.settle(id, 200);
    let writes = bob.writes();
    assert!(writes[0].1.contains(" REPORT\r\n"));
    assert!(
        writes[0]
            .1
            .contains("Message-ID: 12339sdqwer\r\nByte-Range: 1-5/5\r\n")
    );
    assert!(writes[0].1.contains("Status: 000 200 OK\r\n"));
    assert!(writes[0].1.contains(&format!("To-Path: {ALICE}\r\n")));
    let response = format!(
        "MSRP d93kswow 200 OK\r\nTo-Path: {ALICE}\r\nFrom-Path: {BOB}\r\n-------d93kswow$\r\n"
    );
    assert_eq!(writes[1].1, response);
}

/// A message in two chunks, cut inside the headers of its envelope (cpm-facts §12.4).
#[test]
fn an_envelope_cut_inside_its_headers_is_put_together() {
    const ONE: &str = "From: <sip:alice@im.example>\r\nTo: <sip:bob@im.example>\r\n\
        DateTime: 2026-03-02T09:15:31Z\r\nNS: imdn <urn:ie";
    const TWO: &str = "tf:params:imdn>\r\nimdn.Message-ID: Tn5c7WxE0pL9\r\n\
        imdn.Disposition-Notification: positive-delivery, negative-delivery\r\n\r\n\
        Content-Type: text/plain; charset=UTF-8\r\nContent-Length: 11\r\n\r\nSame place.";
    let mut bob = Bob::new();
    bob.receives_send(
        "c1Fz8Hj5Wd0m",
        "Message-ID: rp02\r\nByte-Range: 1-*/297\r\n",
        ONE,
        '+',
    );
    bob.receives_send(
        "c2Gy7Kk4Xe1n",
        "Message-ID: rp02\r\nByte-Range: 105-297/297\r\n",
        TWO,
        '$',
    );
    let mut octets = vec![0; 297];
    for event in bob.told() {
        match event {
            SessionEvent::Data {
                offset,
                octets: data,
                ..
            } => {
                octets[offset as usize..][..data.len()].copy_from_slice(&data);
            }
            SessionEvent::MessageDone { length, .. } => assert_eq!(length, 297),
            _ => {}
        }
    }
    let envelope = crate::cpim::Envelope::parse(&octets).unwrap();
    assert_eq!(envelope.imdn_message_id(), Some("Tn5c7WxE0pL9"));
    assert_eq!(&octets[envelope.content()], b"Same place.");
}

#[test]
fn a_missing_byte_range_means_the_whole_message() {
    let mut bob = Bob::new();
    bob.receives_send("aaaa", "Message-ID: m1m1\r\n", "Hello", '$');
    assert_eq!(done(&bob.told()).unwrap().1, 5);
    // Later chunks must have one (RFC 4975 §7.1.1).
    bob.receives_send("bbbb", "Message-ID: m2m2\r\n", "Hel", '+');
    bob.receives_send("cccc", "Message-ID: m2m2\r\n", "lo", '$');
    assert_eq!(bob.says(), ["MSRP cccc 400 Bad Request"]);
}

#[test]
fn an_empty_message_is_a_message() {
    let mut bob = Bob::new();
    bob.receives_send("aaaa", "Message-ID: m1m1\r\nByte-Range: 1-0/0\r\n", "", '$');
    assert_eq!(done(&bob.told()).unwrap().1, 0);
}

#[test]
fn a_bodiless_send_binds_and_is_answered_at_once() {
    let mut bob = Bob::new();
    let frame = format!(
        "MSRP k2Vb SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: bnd4\r\n\
         Byte-Range: 1-0/0\r\n-------k2Vb$\r\n"
    );
    bob.receives(&frame);
    assert!(matches!(bob.told()[..], [SessionEvent::Bound]));
    assert_eq!(bob.says(), ["MSRP k2Vb 200 OK"]);
    bob.receives(&frame);
    assert!(bob.told().is_empty());
}

/// AG Projects' msrplib closes a connection on which anything precedes the answer to its binding SEND.
#[test]
fn the_answer_to_a_bodiless_send_precedes_what_waited_for_the_binding() {
    let mut bob = Bob::new();
    let out = bob.session.send(message(Some(5)), &mut bob.tokens);
    let frame = format!(
        "MSRP k2Vb SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: bnd4\r\n\
         Byte-Range: 1-0/0\r\n-------k2Vb$\r\n"
    );
    let mut reader = FrameReader::new(Limits::default());
    reader.push(frame.as_bytes());
    while let Some(event) = reader.next().unwrap() {
        bob.session.handle_frame(LINK, event);
        if bob.session.wants().is_some() {
            let octets = Bytes::from_static(b"hello");
            bob.session.supply(out, &octets, &mut bob.tokens);
        }
    }
    let said = bob.says();
    assert_eq!(said[0], "MSRP k2Vb 200 OK");
    assert!(said[1].ends_with(" SEND"), "{said:?}");
}

/// RFC 4975 §7.3.1: the actual length counts, not the promised one.
#[test]
fn an_interrupted_chunk_counts_for_what_it_holds() {
    let mut bob = Bob::new();
    bob.receives_send(
        "aaaa",
        "Message-ID: m1m1\r\nByte-Range: 1-9/9\r\n",
        "abcd",
        '+',
    );
    bob.receives_send(
        "bbbb",
        "Message-ID: m1m1\r\nByte-Range: 5-9/9\r\n",
        "efghi",
        '$',
    );
    let events = bob.told();
    assert_eq!(done(&events).unwrap().1, 9);
    let ranges: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            SessionEvent::ChunkDone { range, .. } => Some(range.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(ranges, ["1-4/9", "5-9/9"]);
}

/// cpm-facts §9.3, RFC 4975 §5.3, §7.1.3, §7.1.4, §7.2: every combination of what the sender asks for.
#[test]
fn answers_and_reports_follow_the_matrix() {
    for (failure, answers_ok, answers_error) in [
        ("", true, true),
        ("Failure-Report: yes\r\n", true, true),
        ("Failure-Report: partial\r\n", false, true),
        ("Failure-Report: no\r\n", false, false),
    ] {
        for (success, reports) in [
            ("", false),
            ("Success-Report: no\r\n", false),
            ("Success-Report: yes\r\n", true),
        ] {
            for status in [200, 413] {
                let mut bob = Bob::new();
                let fields = format!("Message-ID: m1m1\r\nByte-Range: 1-2/2\r\n{failure}{success}");
                bob.receives_send("aaaa", &fields, "hi", '$');
                let (id, _) = done(&bob.told()).unwrap();
                bob.session.settle(id, status);
                let answered = !bob.says().is_empty();
                let expected = if status == 200 {
                    answers_ok
                } else {
                    answers_error
                };
                assert_eq!(answered, expected, "{fields} {status}");
                bob.session.report(id, status, None, &mut bob.tokens);
                let reported = !bob.says().is_empty();
                let expected = if status == 200 {
                    reports
                } else {
                    answers_error
                };
                assert_eq!(reported, expected, "report {fields} {status}");
            }
        }
    }
}

#[test]
fn a_report_is_never_answered_and_never_reported() {
    let mut bob = Bob::new();
    for fields in [
        "Message-ID: nope\r\nStatus: 000 200 OK\r\n",
        "Status: x\r\n",
        "",
    ] {
        let head = format!("MSRP aaaa REPORT\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n");
        bob.receives(&format!("{head}{fields}-------aaaa$\r\n"));
        let stray = format!("MSRP aaaa REPORT\r\nTo-Path: {ALICE}\r\nFrom-Path: {ALICE}\r\n");
        bob.receives(&format!("{stray}{fields}-------aaaa$\r\n"));
    }
    assert!(bob.says().is_empty());
}

#[test]
fn an_unknown_method_gets_501_and_its_body_is_skipped() {
    let mut bob = Bob::new();
    bob.receives(&format!(
        "MSRP aaaa NICKNAME\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nContent-Type: a/b\r\n\r\n\
         x\r\n-------aaaa$\r\n"
    ));
    assert_eq!(bob.says(), ["MSRP aaaa 501 Not Implemented"]);
    assert!(matches!(bob.told()[..], [SessionEvent::Bound]));
}

/// RFC 4975 §5.4, §7.3
#[test]
fn strangers_get_481_and_a_second_connection_506() {
    let mut bob = Bob::new();
    let send = |to: &str, from: &str, failure: &str| {
        format!("MSRP aaaa SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{failure}-------aaaa$\r\n")
    };
    let other = BOB.replace("5.bob", "5.BOB");
    bob.receives(&send(&other, ALICE, ""));
    bob.receives(&send(BOB, &other, ""));
    bob.receives(&send(&format!("{BOB} {BOB}"), ALICE, ""));
    bob.receives(&send(&other, ALICE, "Failure-Report: no\r\n"));
    assert_eq!(bob.says(), ["MSRP aaaa 481 Session Does Not Exist"; 3]);
    assert!(bob.told().is_empty(), "a stranger binds nothing");
    bob.receives(&send(BOB, ALICE, ""));
    assert_eq!(bob.says(), ["MSRP aaaa 200 OK"]);
    bob.receives_on(2, send(BOB, ALICE, "").as_bytes());
    let writes = bob.writes();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].0, 2);
    assert!(writes[0].1.starts_with("MSRP aaaa 506 "));
}

#[test]
fn a_frame_on_another_connection_does_not_disturb_the_one_arriving() {
    let mut bob = Bob::new();
    let head = format!(
        "MSRP aaaa SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: m1m1\r\n\
         Content-Type: text/plain\r\n\r\nHel"
    );
    let mut reader = FrameReader::new(Limits::default());
    reader.push(head.as_bytes());
    while let Some(event) = reader.next().unwrap() {
        bob.session.handle_frame(LINK, event);
    }
    let stray = head.replace("aaaa", "bbbb") + "xx\r\n-------bbbb$\r\n";
    bob.receives_on(2, stray.as_bytes());
    reader.push(b"lo\r\n-------aaaa$\r\n");
    while let Some(event) = reader.next().unwrap() {
        bob.session.handle_frame(LINK, event);
    }
    assert_eq!(done(&bob.told()).unwrap().1, 5);
    assert_eq!(bob.says(), ["MSRP bbbb 506 Session Already in Use"]);
}

#[test]
fn a_type_that_is_not_taken_gets_415_for_every_chunk() {
    let mut bob = Bob::new();
    bob.session.set_accept_types(vec!["message/cpim".into()]);
    bob.receives_send(
        "aaaa",
        "Message-ID: m1m1\r\nByte-Range: 1-2/4\r\n",
        "ab",
        '+',
    );
    bob.receives_send(
        "bbbb",
        "Message-ID: m1m1\r\nByte-Range: 3-4/4\r\n",
        "cd",
        '$',
    );
    let answer = |tid| format!("MSRP {tid} 415 Unsupported Media Type");
    assert_eq!(bob.says(), [answer("aaaa"), answer("bbbb")]);
    assert!(matches!(bob.told()[..], [SessionEvent::Bound]));
}

#[test]
fn malformed_sends_get_400() {
    let mut bob = Bob::new();
    bob.receives_send("aaaa", "", "x", '$');
    bob.receives_send("bbbb", "Message-ID: m1m1\r\nByte-Range: x\r\n", "x", '$');
    bob.receives(&format!(
        "MSRP cccc SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: m1m1\r\n\r\n\
         x\r\n-------cccc$\r\n"
    ));
    let answer = |tid| format!("MSRP {tid} 400 Bad Request");
    assert_eq!(bob.says(), [answer("aaaa"), answer("bbbb"), answer("cccc")]);
}

#[test]
fn messages_over_the_limit_get_413_declared_or_not() {
    let mut config = config(BOB, ALICE);
    config.incoming.message = 10;
    let mut bob = Bob::with(config);
    bob.receives_send(
        "aaaa",
        "Message-ID: m1m1\r\nByte-Range: 1-2/11\r\n",
        "ab",
        '+',
    );
    bob.receives_send(
        "bbbb",
        "Message-ID: m2m2\r\nByte-Range: 11-11/*\r\n",
        "a",
        '+',
    );
    assert_eq!(
        bob.says(),
        [
            "MSRP aaaa 413 Message Too Large",
            "MSRP bbbb 413 Message Too Large",
        ]
    );
    bob.told();
    let huge = format!("Message-ID: m3m3\r\nByte-Range: {}-*/*\r\n", u64::MAX);
    bob.receives_send("cccc", &huge, "a", '+');
    bob.receives_send(
        "dddd",
        "Message-ID: m4m4\r\nByte-Range: 1-*/*\r\n",
        "abcdef",
        '+',
    );
    bob.receives_send(
        "eeee",
        "Message-ID: m4m4\r\nByte-Range: 7-*/*\r\n",
        "ghijk",
        '+',
    );
    bob.receives_send(
        "ffff",
        "Message-ID: m4m4\r\nByte-Range: 12-*/*\r\n",
        "l",
        '$',
    );
    let answers = bob.says();
    assert_eq!(answers.len(), 4);
    assert!(
        answers.iter().all(|answer| answer.contains(" 413 ")),
        "{answers:?}"
    );
    assert_eq!(aborted(&bob.told()), Some(Some(413)));
}

#[test]
fn a_total_that_is_not_what_came_is_refused_and_never_answered_as_whole() {
    let cases: [&[(&str, &str, char)]; 4] = [
        &[("1-*/9", "short", '$')],
        &[("1-*/3", "longer", '+')],
        &[("1-3/6", "abc", '+'), ("4-*/7", "def", '$')],
        &[("1-*/*", "abc", '+'), ("4-*/9", "def", '$')],
    ];
    for chunks in cases {
        let mut bob = Bob::new();
        for (number, (range, body, flag)) in chunks.iter().enumerate() {
            let fields = format!("Message-ID: m1m1\r\nByte-Range: {range}\r\n");
            bob.receives_send(&format!("aaa{number}"), &fields, body, *flag);
        }
        let told = bob.told();
        assert_eq!(aborted(&told), Some(Some(400)), "{chunks:?}");
        assert_eq!(done(&told), None, "{chunks:?}");
        let answers = bob.says();
        let is_400 = answers.iter().all(|answer| answer.contains(" 400 "));
        assert!(is_400 && answers.len() == chunks.len(), "{answers:?}");
    }
}

#[test]
fn who_goes_on_sending_what_was_refused_is_found_out() {
    let mut config = config(BOB, ALICE);
    (config.incoming.message, config.incoming.refused) = (10, 1_000);
    let mut bob = Bob::with(config);
    let send = |bob: &mut Bob, tid: &str, id: &str, body: &str| {
        let fields = format!("Message-ID: {id}\r\nByte-Range: 1-*/*\r\n");
        bob.receives_send(tid, &fields, body, '+');
    };
    // What was on its way when it heard of the refusal is read and dropped.
    send(&mut bob, "aaaa", "m1m1", &"x".repeat(900));
    assert!(!bob.session.is_abused());
    send(&mut bob, "bbbb", "m2m2", "short");
    for tid in ["cccc", "dddd", "eeee"] {
        send(&mut bob, tid, "m1m1", &"x".repeat(400));
    }
    assert!(bob.session.is_abused());
}

#[test]
fn holes_and_messages_in_progress_are_bounded() {
    let mut config = config(BOB, ALICE);
    config.incoming.pieces = 4;
    config.incoming.arriving = 2;
    let mut bob = Bob::with(config);
    for at in 0..5 {
        let fields = format!("Message-ID: m1m1\r\nByte-Range: {}-*/*\r\n", at * 2 + 1);
        bob.receives_send(&format!("aaa{at}"), &fields, "x", '+');
    }
    assert_eq!(aborted(&bob.told()), Some(Some(413)));
    assert_eq!(bob.says().len(), 5, "all chunks of it are answered");
    for id in ["m2m2", "m3m3", "m4m4"] {
        bob.receives_send(
            id,
            &format!("Message-ID: {id}\r\nByte-Range: 1-*/*\r\n"),
            "x",
            '+',
        );
    }
    assert_eq!(bob.says(), ["MSRP m4m4 413 Message Too Large"]);
}

#[test]
fn what_a_message_takes_of_the_bounds_is_given_back() {
    let mut config = config(BOB, ALICE);
    config.incoming.arriving = 1;
    config.incoming.unanswered = 2;
    config.incoming.unsettled = 1;
    let mut bob = Bob::with(config);
    for number in 0..10 {
        let id = format!("m{number:03}");
        bob.receives_send(
            "aaaa",
            &format!("Message-ID: {id}\r\nByte-Range: 1-2/4\r\n"),
            "ab",
            '+',
        );
        for chunk in chunks(&bob.told()) {
            bob.session.answer(chunk, 200);
        }
        bob.receives_send(
            "bbbb",
            &format!("Message-ID: {id}\r\nByte-Range: 3-4/4\r\n"),
            "cd",
            '$',
        );
        let (message, _) = done(&bob.told()).unwrap();
        bob.session
            .settle(message, if number % 2 == 0 { 200 } else { 413 });
        bob.receives_send(
            "cccc",
            &format!("Message-ID: x{id}\r\nByte-Range: 1-*/*\r\n"),
            "ab",
            '+',
        );
        bob.receives_send(
            "dddd",
            &format!("Message-ID: x{id}\r\nByte-Range: 3-*/*\r\n"),
            "",
            '#',
        );
        assert_eq!(aborted(&bob.told()), Some(None));
        assert_eq!(bob.says().len(), 4);
    }
    // Two unanswered chunks are as many as may be.
    for tid in ["aaaa", "bbbb", "cccc"] {
        bob.receives_send(tid, "Message-ID: mmmm\r\nByte-Range: 1-*/*\r\n", "ab", '+');
    }
    assert_eq!(bob.says(), ["MSRP cccc 413 Message Too Large"]);
}

#[test]
fn another_message_under_a_name_that_was_used_is_not_taken_for_the_first() {
    let mut bob = Bob::new();
    bob.receives_send(
        "tid1",
        "Message-ID: same\r\nByte-Range: 1-3/3\r\n",
        "abc",
        '$',
    );
    let (message, _) = done(&bob.told()).unwrap();
    bob.session.settle(message, 200);
    bob.receives_send(
        "tid2",
        "Message-ID: same\r\nByte-Range: 1-3/3\r\n",
        "abc",
        '$',
    );
    bob.receives_send(
        "tid3",
        "Message-ID: same\r\nByte-Range: 1-4/4\r\n",
        "abcd",
        '$',
    );
    let others = [("tid4", "xyz"), ("tid5", "abcd"), ("tid6", "abc")];
    for (tid, body) in others {
        bob.receives_send(tid, "Message-ID: same\r\n", body, '$');
    }
    bob.receives_send(
        "tid7",
        "Message-ID: same\r\nByte-Range: 1-2/3\r\n",
        "ab",
        '+',
    );
    assert_eq!(done(&bob.told()), None);
    let expected = [
        "MSRP tid1 200 OK",
        "MSRP tid2 200 OK",
        "MSRP tid3 400 Bad Request",
        "MSRP tid4 400 Bad Request",
        "MSRP tid5 400 Bad Request",
        "MSRP tid6 200 OK",
        "MSRP tid7 200 OK",
    ];
    assert_eq!(bob.says(), expected);
}

#[test]
fn another_message_under_the_name_of_one_that_waits_for_its_answer_is_refused() {
    let mut bob = Bob::new();
    bob.receives_send("tid1", "Message-ID: same\r\n", "abc", '$');
    let (message, _) = done(&bob.told()).unwrap();
    for (tid, body) in [("tid2", "xyz"), ("tid3", "abcd"), ("tid4", "abc")] {
        bob.receives_send(tid, "Message-ID: same\r\n", body, '$');
    }
    let refused = ["MSRP tid2 400 Bad Request", "MSRP tid3 400 Bad Request"];
    assert_eq!(bob.says(), refused);
    // One is still arriving when the first is answered.
    let mut reader = FrameReader::new(Limits::default());
    let head = format!(
        "MSRP tid5 SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: same\r\n\
         Content-Type: text/plain\r\n\r\n"
    );
    for piece in [&head, "xyz", "\r\n-------tid5$\r\n"] {
        reader.push(piece.as_bytes());
        while let Some(event) = reader.next().unwrap() {
            bob.session.handle_frame(LINK, event);
        }
        if piece == "xyz" {
            bob.session.settle(message, 200);
        }
    }
    let mut said = bob.says();
    said.sort();
    let expected = [
        "MSRP tid1 200 OK",
        "MSRP tid4 200 OK",
        "MSRP tid5 400 Bad Request",
    ];
    assert_eq!(said, expected);
}

#[test]
fn the_user_may_refuse_a_message_while_it_arrives() {
    let mut bob = Bob::new();
    let mut reader = FrameReader::new(Limits::default());
    reader.push(
        format!(
            "MSRP aaaa SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: m1m1\r\n\
             Byte-Range: 1-*/9\r\nContent-Type: text/plain\r\n\r\nabc"
        )
        .as_bytes(),
    );
    while let Some(event) = reader.next().unwrap() {
        bob.session.handle_frame(LINK, event);
    }
    let events = bob.told();
    let SessionEvent::MessageBegun { message, .. } = &events[1] else {
        panic!("{events:?}");
    };
    bob.session.settle(*message, 403);
    assert_eq!(bob.says(), ["MSRP aaaa 403 Forbidden"]);
    reader.push(b"def\r\n-------aaaa+\r\n");
    while let Some(event) = reader.next().unwrap() {
        bob.session.handle_frame(LINK, event);
    }
    bob.receives_send(
        "bbbb",
        "Message-ID: m1m1\r\nByte-Range: 7-9/9\r\n",
        "ghi",
        '$',
    );
    assert_eq!(bob.says(), ["MSRP bbbb 403 Forbidden"]);
    assert!(bob.told().is_empty());
}

#[test]
fn an_aborted_message_is_forgotten_and_its_chunks_answered() {
    let mut bob = Bob::new();
    bob.receives_send(
        "aaaa",
        "Message-ID: m1m1\r\nByte-Range: 1-*/9\r\n",
        "abc",
        '+',
    );
    bob.receives_send(
        "bbbb",
        "Message-ID: m1m1\r\nByte-Range: 4-*/9\r\n",
        "d",
        '#',
    );
    assert_eq!(aborted(&bob.told()), Some(None));
    assert_eq!(bob.says(), ["MSRP aaaa 200 OK", "MSRP bbbb 200 OK"]);
    bob.receives_send(
        "cccc",
        "Message-ID: m1m1\r\nByte-Range: 1-3/3\r\n",
        "abc",
        '$',
    );
    assert_eq!(done(&bob.told()).unwrap().1, 3);
}

#[test]
fn a_repeated_message_is_answered_as_the_first_was() {
    let mut bob = Bob::new();
    let fields = "Message-ID: m1m1\r\nByte-Range: 1-2/2\r\n";
    bob.receives_send("aaaa", fields, "hi", '$');
    let events = bob.told();
    let (id, _) = done(&events).unwrap();
    bob.receives_send("bbbb", fields, "hi", '$');
    let again = bob.told();
    assert_eq!(chunks(&again).len(), 1);
    assert_eq!(again.len(), 1, "no data, and not done twice");
    bob.session.answer(chunks(&events)[0], 200);
    bob.session.answer(chunks(&events)[0], 200);
    assert_eq!(bob.says(), ["MSRP aaaa 200 OK"]);
    bob.session.settle(id, 200);
    assert_eq!(bob.says(), ["MSRP bbbb 200 OK"]);
    bob.receives_send("cccc", fields, "hi", '$');
    assert_eq!(bob.says(), ["MSRP cccc 200 OK"]);
    assert!(bob.told().is_empty());
}

#[test]
fn a_length_that_contradicts_itself_is_refused() {
    let mut bob = Bob::new();
    bob.receives_send(
        "aaaa",
        "Message-ID: m1m1\r\nByte-Range: 5-6/*\r\n",
        "ef",
        '+',
    );
    bob.receives_send(
        "bbbb",
        "Message-ID: m1m1\r\nByte-Range: 3-4/4\r\n",
        "cd",
        '$',
    );
    assert_eq!(aborted(&bob.told()), Some(Some(400)));
    assert_eq!(bob.says().len(), 2);
}

proptest! {
    /// RFC 4975 §7.3.1 against a buffer that is simply written to.
    #[test]
    fn chunk_storms_assemble_what_a_naive_buffer_does(
        chunks in proptest::collection::vec((0usize..40, 0usize..20, any::<u8>()), 1..30),
        order in any::<u64>(),
    ) {
        const LENGTH: usize = 60;
        let mut model = [None; LENGTH];
        let mut bob = Bob::new();
        let mut user = [None; LENGTH];
        let (mut model_ended, mut completed) = (false, 0);
        for (number, (start, length, fill)) in chunks.iter().enumerate() {
            let last = (order >> (number % 60)) & 3 == 0;
            let start = if last { LENGTH - length } else { *start };
            let body = char::from(b'a' + fill % 26).to_string().repeat(*length);
            let fields = format!("Message-ID: m1m1\r\nByte-Range: {}-*/*\r\n", start + 1);
            let complete_before = model_ended && model.iter().all(Option::is_some);
            bob.receives_send("aaaa", &fields, &body, if last { '$' } else { '+' });
            if !complete_before {
                model[start..start + length].fill(body.bytes().next());
                model_ended |= last;
            }
            for event in bob.told() {
                match event {
                    SessionEvent::Data { offset, octets, .. } => {
                        for (at, octet) in octets.iter().enumerate() {
                            user[offset as usize + at] = Some(*octet);
                        }
                    }
                    SessionEvent::MessageDone { length, .. } => {
                        prop_assert_eq!(length, LENGTH as u64);
                        completed += 1;
                    }
                    SessionEvent::MessageAborted { .. } => prop_assert!(false, "aborted"),
                    _ => {}
                }
            }
            prop_assert_eq!(user, model);
            let complete = model_ended && model.iter().all(Option::is_some);
            prop_assert_eq!(completed, usize::from(complete));
        }
    }

    #[test]
    fn any_sequence_of_frames_leaves_the_machine_standing(
        frames in proptest::collection::vec(
            (0usize..3, 0u64..50, 0usize..20, 0usize..3, 0usize..6, any::<bool>()), 0..40),
    ) {
        let mut bob = Bob::new();
        for (id, start, length, flag, action, body) in frames {
            let fields = format!("Message-ID: m{id}m{id}\r\nByte-Range: {start}-*/*\r\n");
            let flag = ['$', '+', '#'][flag];
            if body {
                bob.receives_send("aaaa", &fields, &"x".repeat(length), flag);
            } else {
                bob.receives(&format!(
                    "MSRP aaaa SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n{fields}-------aaaa{flag}\r\n"
                ));
            }
            for event in bob.told() {
                if let SessionEvent::ChunkDone { chunk, message, .. } = event {
                    match action {
                        0 => bob.session.answer(chunk, 200),
                        1 => bob.session.settle(message, 413),
                        2 => bob.session.settle(message, 200),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Both ends, their readers and queues, and a link that loses nothing.
struct Pair {
    alice: End,
    bob: End,
    now: Instant,
    /// Most octets that were ever buffered between the two users.
    peak: usize,
}

struct End {
    session: Session<u8>,
    queue: ConnectionQueue<u8>,
    reader: FrameReader,
    tokens: Tokens,
    events: Vec<SessionEvent>,
    /// Octets of the message being received, if the test wants them.
    received: Option<Vec<u8>>,
    /// What each chunk is answered; `None` keeps silent.
    answer: Option<u16>,
}

impl End {
    fn new(local: &str, remote: &str, seed: u64) -> Self {
        Self {
            session: Session::new(config(local, remote)),
            queue: ConnectionQueue::new(QueueLimits::default()),
            reader: FrameReader::new(Limits::default()),
            tokens: Tokens::from_seed(seed),
            events: Vec::new(),
            received: None,
            answer: Some(200),
        }
    }

    fn handle_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match (&event, self.answer) {
                (SessionEvent::Data { offset, octets, .. }, _) => {
                    if let Some(received) = &mut self.received {
                        let at = *offset as usize;
                        received.resize(received.len().max(at + octets.len()), 0);
                        received[at..at + octets.len()].copy_from_slice(octets);
                    }
                    continue;
                }
                (SessionEvent::ChunkDone { chunk, .. }, Some(status)) => {
                    self.session.answer(*chunk, status);
                    continue;
                }
                (SessionEvent::MessageDone { message, .. }, Some(status)) => {
                    self.session.report_success(*message, &mut self.tokens);
                    self.session.settle(*message, status);
                }
                _ => {}
            }
            self.events.push(event);
        }
    }

    /// Moves frames towards the socket; what the socket takes at once.
    fn transmit(&mut self, now: Instant) -> Vec<u8> {
        while self.queue.has_room(0) {
            let Some(transmit) = self.session.poll_transmit() else {
                break;
            };
            self.queue.push(0, transmit.octets).unwrap();
        }
        let mut wire = Vec::new();
        while let Some(frame) = self.queue.poll_transmit() {
            wire.extend_from_slice(&frame.joined());
        }
        let frames = self.queue.written(wire.len()).len();
        self.session.handle_written(LINK, frames, now);
        wire
    }

    fn receive(&mut self, wire: &[u8]) {
        self.reader.push(wire);
        while let Some(event) = self.reader.next().unwrap() {
            self.session.handle_frame(LINK, event);
            self.handle_events();
        }
    }

    fn delivered(&self, id: OutboundId) -> usize {
        let of_it =
            |e: &&SessionEvent| matches!(e, SessionEvent::Delivered { message } if *message == id);
        self.events.iter().filter(of_it).count()
    }
}

impl Pair {
    /// Alice connects to Bob.
    fn connected() -> Self {
        let mut pair = Self {
            alice: End::new(ALICE, BOB, 1),
            bob: End::new(BOB, ALICE, 2),
            now: Instant::default(),
            peak: 0,
        };
        let tokens = &mut pair.alice.tokens;
        pair.alice.session.handle_connected(LINK, true, tokens);
        pair.drive();
        assert!(pair.alice.session.is_bound() && pair.bob.session.is_bound());
        pair
    }

    /// Steps until both ends are quiet.
    fn drive(&mut self) {
        loop {
            let there = self.alice.transmit(self.now);
            let back = self.bob.transmit(self.now);
            let waiting = self.alice.session.buffered() + self.bob.session.buffered();
            let readers = self.alice.reader.buffered() + self.bob.reader.buffered();
            self.peak = self.peak.max(waiting + readers + there.len() + back.len());
            if there.is_empty() && back.is_empty() {
                break;
            }
            self.bob.receive(&there);
            self.alice.receive(&back);
            self.alice.handle_events();
            self.bob.handle_events();
        }
    }

    /// Alice sends `body`, as fast as she is asked for it.
    fn alice_sends(&mut self, message: OutboundMessage, body: &[u8]) -> OutboundId {
        let alice = &mut self.alice;
        let id = alice.session.send(message, &mut alice.tokens);
        loop {
            let alice = &mut self.alice;
            let want = alice.session.wants_of(id);
            let at = want.map(|want| (want.offset as usize, want.max));
            match at {
                Some((at, max)) if at < body.len() => {
                    let piece = &body[at..body.len().min(at + max)];
                    let piece = Bytes::copy_from_slice(piece);
                    alice.session.supply(id, &piece, &mut alice.tokens);
                }
                Some(_) => {
                    alice.session.end(id, &mut alice.tokens);
                    break;
                }
                None if self.alice.session.unconfirmed().any(|open| open == id) => {
                    self.drive();
                    if self.alice.session.wants_of(id).is_none() {
                        break;
                    }
                }
                None => break,
            }
        }
        self.drive();
        id
    }
}

#[test]
fn a_message_is_delivered_once_every_chunk_is_answered() {
    let mut pair = Pair::connected();
    pair.bob.received = Some(Vec::new());
    let body: Vec<u8> = (0..10_000u32).flat_map(u32::to_be_bytes).collect();
    let id = pair.alice_sends(message(Some(body.len() as u64)), &body);
    assert_eq!(pair.alice.delivered(id), 1);
    assert_eq!(pair.bob.received.as_deref(), Some(&body[..]));
    assert_eq!(pair.alice.session.unconfirmed().count(), 0);
}

#[test]
fn a_message_of_unknown_length_is_delivered_when_it_ends() {
    for length in [0, 1, 2047, 2048, 2049, 4096, 9999] {
        let mut pair = Pair::connected();
        pair.bob.received = Some(Vec::new());
        let body = vec![b'x'; length];
        let id = pair.alice_sends(message(None), &body);
        assert_eq!(pair.alice.delivered(id), 1, "{length}");
        assert_eq!(pair.bob.received.as_deref(), Some(&body[..]));
        assert_eq!(done(&pair.bob.events).unwrap().1, length as u64);
    }
}

#[test]
fn chunks_have_exact_ranges_of_at_most_2048_octets() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let id = bob.session.send(message(Some(5000)), &mut bob.tokens);
    let body = Bytes::from(vec![b'x'; 5000]);
    let mut ranges = Vec::new();
    while let Some(want) = bob.session.wants() {
        let at = want.offset as usize;
        let piece = body.slice(at..at + want.max);
        bob.session.supply(id, &piece, &mut bob.tokens);
    }
    for (_, text) in bob.writes() {
        let range = text
            .lines()
            .find_map(|line| line.strip_prefix("Byte-Range: "));
        ranges.push(range.unwrap().to_owned());
        assert!(
            text.starts_with("MSRP ") && text.contains(".5 SEND\r\n"),
            "names the shard"
        );
    }
    assert_eq!(ranges, ["1-2048/5000", "2049-4096/5000", "4097-5000/5000"]);
}

#[test]
fn a_long_chunk_leaves_in_the_pieces_that_it_came_in() {
    let mut config = config(BOB, ALICE);
    config.outgoing.chunk = 16 * 1024;
    let mut bob = Bob::with(config);
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let body: Vec<u8> = (0..40_000_u32).map(|at| b'a' + (at % 23) as u8).collect();
    let body = Bytes::from(body);
    let id = bob.session.send(message(Some(40_000)), &mut bob.tokens);
    for (from, to) in [
        (0, 9_000),
        (9_000, 9_100),
        (9_100, 25_000),
        (25_000, 40_000),
    ] {
        let piece = body.slice(from..to);
        bob.session.supply(id, &piece, &mut bob.tokens);
    }
    let mut reader = FrameReader::new(Limits::default());
    let (mut came, mut frames) = (Vec::new(), 0);
    while let Some(transmit) = bob.session.poll_transmit() {
        let mut pieces = transmit.octets.iter();
        assert!(pieces.any(|piece| body.as_ptr_range().contains(&piece.as_ptr())));
        reader.push(&transmit.octets.joined());
        while let Some(event) = reader.next().unwrap() {
            match event {
                FrameEvent::Data(octets) => came.extend_from_slice(&octets),
                FrameEvent::End(_) => frames += 1,
                _ => {}
            }
        }
    }
    assert_eq!(frames, 3);
    assert!(came == body);
}

/// RFC 4975 §7.1: the end-line must not occur in the body.
#[test]
fn a_transaction_identifier_that_occurs_in_the_body_is_not_used() {
    let mut foreseen = Tokens::from_seed(5);
    let message_id = foreseen.token();
    let body = format!("-------{}.5$ and more", foreseen.token());
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let length = Some(body.len() as u64);
    let id = bob.session.send(message(length), &mut bob.tokens);
    let octets = Bytes::from(body.clone());
    bob.session.supply(id, &octets, &mut bob.tokens);
    let writes = bob.writes();
    assert!(
        writes[0]
            .1
            .contains(&format!("Message-ID: {message_id}\r\n"))
    );
    let tid = writes[0].1.split(' ').nth(1).unwrap();
    assert!(!body.contains(tid));
    assert_eq!(writes[0].1.matches(tid).count(), 2);
}

#[test]
fn larger_chunks_leave_their_end_open() {
    let mut config = config(BOB, ALICE);
    config.outgoing.chunk = MAX_CHUNK;
    let mut bob = Bob::with(config);
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let id = bob.session.send(message(Some(3000)), &mut bob.tokens);
    bob.session
        .supply(id, &Bytes::from(vec![b'x'; 3000]), &mut bob.tokens);
    let writes = bob.writes();
    assert_eq!(writes.len(), 1);
    assert!(writes[0].1.contains("Byte-Range: 1-*/3000\r\n"));
}

#[test]
fn ten_megabytes_pass_in_constant_memory() {
    let mut pair = Pair::connected();
    let body = vec![b'\n'; 10 * 1024 * 1024];
    let id = pair.alice_sends(message(Some(body.len() as u64)), &body);
    assert_eq!(pair.alice.delivered(id), 1);
    assert_eq!(done(&pair.bob.events).unwrap().1, body.len() as u64);
    assert!(pair.peak < 64 * 1024, "peak {}", pair.peak);
}

#[test]
fn the_window_bounds_what_is_unanswered() {
    let mut pair = Pair::connected();
    pair.bob.answer = None;
    let body = vec![b'x'; 1024 * 1024];
    let id = pair.alice_sends(message(Some(body.len() as u64)), &body);
    assert_eq!(pair.alice.session.wants(), None);
    assert_eq!(pair.alice.delivered(id), 0);
    let window = OutgoingLimits::default().window;
    let chunks = pair.bob.events.iter();
    let chunks = chunks.filter(|event| matches!(event, SessionEvent::ChunkDone { .. }));
    assert_eq!(chunks.count(), window);
}

#[test]
fn a_success_report_alone_delivers_a_message_that_gets_no_responses() {
    let mut pair = Pair::connected();
    let outbound = OutboundMessage {
        success_report: true,
        failure_report: FailureReport::No,
        ..message(Some(5000))
    };
    let id = pair.alice_sends(outbound, &[b'x'; 5000]);
    assert_eq!(pair.alice.delivered(id), 1);
    let reported = pair.alice.events.iter().any(|event| {
        matches!(event, SessionEvent::Report { message, status: 200, .. } if *message == id)
    });
    assert!(reported);
}

#[test]
fn a_report_comes_through_after_the_responses() {
    let mut pair = Pair::connected();
    let outbound = OutboundMessage {
        success_report: true,
        ..message(Some(5000))
    };
    let id = pair.alice_sends(outbound, &[b'x'; 5000]);
    assert_eq!(pair.alice.delivered(id), 1);
    let report = |event: &&SessionEvent| matches!(event, SessionEvent::Report { .. });
    assert_eq!(pair.alice.events.iter().filter(report).count(), 1);
}

#[test]
fn nothing_is_awaited_with_failure_report_no_or_partial() {
    for failure_report in [FailureReport::No, FailureReport::Partial] {
        let mut pair = Pair::connected();
        pair.bob.answer = None;
        let outbound = OutboundMessage {
            failure_report,
            ..message(Some(5000))
        };
        let id = pair.alice_sends(outbound, &[b'x'; 5000]);
        assert_eq!(pair.alice.delivered(id), 1);
        assert_eq!(pair.alice.session.next_deadline(), None);
    }
}

#[test]
fn a_refusal_is_heard_with_failure_report_partial() {
    let mut pair = Pair::connected();
    pair.bob.answer = Some(413);
    let outbound = OutboundMessage {
        failure_report: FailureReport::Partial,
        ..message(Some(50))
    };
    let id = pair.alice_sends(outbound, &[b'x'; 50]);
    assert!(pair.alice.events.iter().any(|event| {
        matches!(event, SessionEvent::Refused { message, status: 413 } if *message == id)
    }));
}

/// RFC 4975 §10.5: after a 413 no further chunks of the message are sent.
#[test]
fn a_refused_message_stops_and_the_next_goes_on() {
    for status in [400, 403, 413, 415] {
        let mut pair = Pair::connected();
        pair.bob.answer = Some(status);
        let id = pair.alice_sends(message(Some(100_000)), &vec![b'x'; 100_000]);
        let refused = |event: &&SessionEvent| matches!(event, SessionEvent::Refused { message, status: s } if *message == id && *s == status);
        assert_eq!(pair.alice.events.iter().filter(refused).count(), 1);
        assert_eq!(pair.alice.session.wants(), None);
        pair.bob.answer = Some(200);
        let next = pair.alice_sends(message(Some(5)), b"hello");
        assert_eq!(pair.alice.delivered(next), 1);
    }
}

#[test]
fn chunks_that_have_not_been_taken_are_withdrawn_after_a_413() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let id = bob.session.send(message(Some(6000)), &mut bob.tokens);
    bob.session
        .supply(id, &Bytes::from(vec![b'x'; 6000]), &mut bob.tokens);
    let first = bob.session.poll_transmit().unwrap().octets;
    let first = String::from_utf8(first.joined().to_vec()).unwrap();
    let tid = first.split(' ').nth(1).unwrap();
    bob.receives(&format!(
        "MSRP {tid} 413 No\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n-------{tid}$\r\n"
    ));
    assert!(bob.session.poll_transmit().is_none());
    assert_eq!(bob.session.buffered(), 0);
}

#[test]
fn an_unanswered_chunk_times_out_thirty_seconds_after_it_left() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let id = bob.session.send(message(Some(2)), &mut bob.tokens);
    bob.session
        .supply(id, &Bytes::from_static(b"hi"), &mut bob.tokens);
    assert_eq!(bob.session.next_deadline(), None);
    let transmit = bob.session.poll_transmit().unwrap();
    assert_eq!(
        bob.session.next_deadline(),
        None,
        "the timer starts when it has left"
    );
    bob.now = bob.now + Duration::from_secs(7);
    bob.session.handle_written(transmit.connection, 1, bob.now);
    let deadline = bob.session.next_deadline().unwrap();
    assert_eq!(deadline, bob.now + RESPONSE_TIMEOUT);
    bob.session
        .handle_timeout(deadline - Duration::from_micros(1));
    assert!(bob.told().is_empty());
    bob.session.handle_timeout(deadline);
    assert!(matches!(bob.told()[..], [SessionEvent::TimedOut { message }] if message == id));
    assert_eq!(bob.session.next_deadline(), None);
}

#[test]
fn a_binding_that_is_not_answered_ends_the_session() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, true, &mut bob.tokens);
    assert_eq!(bob.says().len(), 1);
    bob.session.handle_timeout(bob.now + RESPONSE_TIMEOUT);
    let silent = EndReason::Silent;
    assert!(matches!(bob.told()[..], [SessionEvent::Ended { reason }] if reason == silent));
}

#[test]
fn a_session_the_peer_does_not_know_is_over() {
    for (status, expected) in [(481, EndReason::Unknown), (506, EndReason::Elsewhere)] {
        let mut pair = Pair::connected();
        pair.bob.answer = Some(status);
        let id = pair.alice_sends(message(Some(5)), b"hello");
        let ended = |event: &SessionEvent| matches!(event, SessionEvent::Ended { reason } if *reason == expected);
        assert!(pair.alice.events.iter().any(ended));
        assert_eq!(pair.alice.session.unconfirmed().collect::<Vec<_>>(), [id]);
        assert_eq!(pair.alice.session.wants(), None);
    }
}

#[test]
fn a_lost_connection_ends_the_session_and_leaves_the_unconfirmed() {
    let mut pair = Pair::connected();
    pair.bob.answer = None;
    let id = pair.alice_sends(message(Some(5)), b"hello");
    let alice = &mut pair.alice.session;
    alice.handle_connection_lost(9);
    assert!(alice.poll_event().is_none());
    alice.handle_connection_lost(LINK);
    let lost = EndReason::ConnectionLost;
    assert!(matches!(alice.poll_event(), Some(SessionEvent::Ended { reason }) if reason == lost));
    assert_eq!(alice.unconfirmed().collect::<Vec<_>>(), [id]);
    assert_eq!(alice.next_deadline(), None);
}

#[test]
fn a_message_given_up_by_its_sender_is_aborted_at_the_other_end() {
    let mut pair = Pair::connected();
    let alice = &mut pair.alice;
    let id = alice.session.send(message(None), &mut alice.tokens);
    for _ in 0..2 {
        let piece = Bytes::from(vec![b'x'; 2048]);
        alice.session.supply(id, &piece, &mut alice.tokens);
    }
    alice.session.abort(id, &mut alice.tokens);
    pair.drive();
    assert_eq!(aborted(&pair.bob.events), Some(None));
    assert_eq!(pair.alice.delivered(id), 0);
    assert_eq!(pair.alice.session.unconfirmed().count(), 0);
    let leaves_room = |event: &SessionEvent| match event {
        SessionEvent::Progress { message, confirmed } => *message == id && *confirmed == 0,
        _ => false,
    };
    assert!(pair.alice.events.iter().any(leaves_room));
    let next = pair.alice_sends(message(Some(2)), b"hi");
    assert_eq!(pair.alice.delivered(next), 1);
}

#[test]
fn a_message_of_which_nothing_was_sent_vanishes_silently() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let id = bob.session.send(message(None), &mut bob.tokens);
    bob.session
        .supply(id, &Bytes::from_static(b"hi"), &mut bob.tokens);
    bob.session.abort(id, &mut bob.tokens);
    assert!(bob.says().is_empty());
}

/// RFC 4975 §7.3.2: a failure REPORT counts as a response with that code.
#[test]
fn a_failure_report_refuses_a_message() {
    for (status, timed_out) in [(413, false), (408, true)] {
        let mut pair = Pair::connected();
        pair.bob.answer = None;
        let outbound = OutboundMessage {
            message_id: Some("m1m1".into()),
            ..message(Some(5))
        };
        let id = pair.alice_sends(outbound, b"hello");
        let range = ByteRange::parse("1-5/5");
        let (message, _) = done(&pair.bob.events).unwrap();
        let bob = &mut pair.bob;
        bob.session.report(message, status, range, &mut bob.tokens);
        pair.drive();
        let ours = |event: &SessionEvent| match event {
            SessionEvent::Refused { message, status: s } => {
                !timed_out && *message == id && *s == status
            }
            SessionEvent::TimedOut { message } => timed_out && *message == id,
            _ => false,
        };
        assert!(pair.alice.events.iter().any(ours));
    }
}

/// RFC 4975 §7.1.3: a success may be reported piece by piece.
#[test]
fn success_reports_for_all_pieces_deliver_a_message() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let outbound = OutboundMessage {
        message_id: Some("m1m1".into()),
        success_report: true,
        failure_report: FailureReport::No,
        ..message(Some(10))
    };
    let id = bob.session.send(outbound, &mut bob.tokens);
    bob.session
        .supply(id, &Bytes::from_static(b"0123456789"), &mut bob.tokens);
    bob.says();
    let mut delivered = Vec::new();
    for range in ["6-10/10", "6-7/10", "1-4/10", "5-5/10"] {
        bob.receives(&format!(
            "MSRP aaaa REPORT\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\nMessage-ID: m1m1\r\n\
             Byte-Range: {range}\r\nStatus: 000 200 OK\r\n-------aaaa$\r\n"
        ));
        let of_it =
            |e: &SessionEvent| matches!(e, SessionEvent::Delivered { message } if *message == id);
        delivered.push(bob.told().iter().any(of_it));
    }
    assert_eq!(delivered, [false, false, false, true]);
}

#[test]
fn both_ends_may_send_at_once() {
    let mut pair = Pair::connected();
    let bob = &mut pair.bob;
    let theirs = bob.session.send(message(Some(4)), &mut bob.tokens);
    bob.session
        .supply(theirs, &Bytes::from_static(b"ping"), &mut bob.tokens);
    let ours = pair.alice_sends(message(Some(4)), b"pong");
    assert_eq!(
        (pair.alice.delivered(ours), pair.bob.delivered(theirs)),
        (1, 1)
    );
}

#[test]
fn a_passive_end_sends_nothing_before_it_is_bound() {
    let mut bob = Bob::new();
    let id = bob.session.send(message(Some(2)), &mut bob.tokens);
    assert_eq!(bob.session.wants(), None);
    bob.receives(&format!(
        "MSRP aaaa SEND\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n-------aaaa$\r\n"
    ));
    assert_eq!(bob.session.wants().unwrap().message, id);
}

#[test]
fn a_closed_session_answers_481_and_writes_nothing_else() {
    let mut bob = Bob::new();
    bob.receives_send("aaaa", "Message-ID: m1m1\r\n", "hi", '$');
    let (id, _) = done(&bob.told()).unwrap();
    bob.session.close();
    bob.session.settle(id, 200);
    bob.receives_send("bbbb", "Message-ID: m2m2\r\n", "hi", '$');
    assert_eq!(bob.says(), ["MSRP bbbb 481 Session Does Not Exist"]);
    assert!(bob.told().is_empty());
}

#[test]
fn a_response_to_nothing_is_ignored() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    bob.receives(&format!(
        "MSRP aaaa 481 No\r\nTo-Path: {BOB}\r\nFrom-Path: {ALICE}\r\n-------aaaa$\r\n"
    ));
    assert!(bob.told().is_empty());
    assert!(!bob.session.is_bound());
}

const ALICE_AGAIN: &str = "msrp://alice.example:7779/3.alice;tcp";
const BOB_AGAIN: &str = "msrp://bob.example:8888/6.bob;tcp";

impl Bob {
    fn rebinds(&mut self) -> Option<u8> {
        let (local, remote) = (MsrpUri::parse(BOB_AGAIN), MsrpPath::parse(ALICE_AGAIN));
        self.session
            .rebind(local.unwrap(), remote.unwrap(), &mut self.tokens)
    }
}

#[test]
fn what_was_not_confirmed_is_sent_again_on_another_connection_under_its_message_id() {
    let mut bob = Bob::new();
    bob.session.handle_connected(LINK, false, &mut bob.tokens);
    let body = Bytes::from_static(b"hello");
    let first = bob.session.send(message(Some(5)), &mut bob.tokens);
    bob.session.supply(first, &body, &mut bob.tokens);
    let (_, sent) = bob.writes().remove(0);
    let message_id = |frame: &str| {
        let mut lines = frame.lines();
        let line = lines.find(|line| line.starts_with("Message-ID: "));
        line.unwrap().to_owned()
    };
    assert_eq!(bob.rebinds(), Some(LINK));
    assert_eq!(bob.session.wants(), None, "it has no connection yet");
    bob.session.handle_connected(2, false, &mut bob.tokens);
    let want = bob.session.wants().unwrap();
    assert_eq!((want.message, want.offset, want.max), (first, 0, 5));
    bob.session.supply(first, &body, &mut bob.tokens);
    let (connection, again) = bob.writes().remove(0);
    assert_eq!(connection, 2);
    assert!(again.contains(&format!(
        "To-Path: {ALICE_AGAIN}\r\nFrom-Path: {BOB_AGAIN}\r\n"
    )));
    assert_eq!(message_id(&again), message_id(&sent));
}

#[test]
fn what_had_arrived_is_answered_when_it_comes_again_on_another_connection() {
    let mut bob = Bob::new();
    bob.receives_send("tid1", "Message-ID: whole\r\n", "abc", '$');
    bob.receives_send(
        "tid2",
        "Message-ID: half\r\nByte-Range: 1-*/6\r\n",
        "abc",
        '+',
    );
    let (arrived, _) = done(&bob.told()).unwrap();
    bob.rebinds();
    assert!(aborted(&bob.told()).is_some(), "the half one is given up");
    let again = |fields: &str, tid: &str| {
        format!(
            "MSRP {tid} SEND\r\nTo-Path: {BOB_AGAIN}\r\nFrom-Path: {ALICE_AGAIN}\r\n{fields}\
             Content-Type: text/plain\r\n\r\nabc\r\n-------{tid}$\r\n"
        )
    };
    bob.receives_on(2, again("Message-ID: whole\r\n", "tid3").as_bytes());
    assert_eq!(done(&bob.told()), None, "it is a repetition");
    bob.session.settle(arrived, 200);
    bob.receives_on(2, again("Message-ID: half\r\n", "tid4").as_bytes());
    assert!(done(&bob.told()).is_some());
    assert_eq!(bob.says(), ["MSRP tid3 200 OK"]);
}
