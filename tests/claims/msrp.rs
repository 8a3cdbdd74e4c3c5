//! What is read of MSRP: the stream, URIs, session descriptions.

use restante::msrp::frame::{Continuation, FrameEvent, RequestHead, shard_of};
use restante::msrp::negotiation::{Local, accept_answer, answer, offer};
use restante::msrp::reader::{FrameError, FrameReader, Limits};
use restante::msrp::sdp::{Direction, MAX_DESCRIPTION, SessionDescription};
use restante::msrp::uri::{MAX_PATH, MAX_URI, MsrpPath, MsrpUri};

use super::choices::Choices;

/// Bounds small enough to be met.
const LIMITS: Limits = Limits {
    line: 200,
    fields: 12,
    head: 1_000,
    other_body: 100,
};

/// A frame as it was understood: the data of one request together.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Request(String, Vec<(String, String)>, bool),
    Response(u16, Vec<(String, String)>),
    Data(Vec<u8>),
    End(Continuation),
}

fn fields<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    fields.map(owned).collect()
}

fn viewed(head: &RequestHead) {
    let _ = (head.method(), head.failure_report());
    if let Ok(send) = head.send() {
        if let Some(range) = send.byte_range {
            assert!(range.start >= 1);
        }
        assert!(!head.to_path().is_empty() && !head.from_path().is_empty());
    }
    let _ = head.report();
}

fn read(octets: &[u8], mut sizes: Choices<'_>) -> (Vec<Piece>, Option<FrameError>) {
    let mut reader = FrameReader::new(LIMITS);
    let (mut pieces, mut rest) = (Vec::new(), octets);
    let mut is_open = false;
    while !rest.is_empty() {
        let size = (1 + usize::from(sizes.octet())).min(rest.len());
        let (piece, after) = rest.split_at(size);
        reader.push(piece);
        rest = after;
        loop {
            let event = match reader.next() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next().err(), Some(error), "an error is for ever");
                    return (pieces, Some(error));
                }
            };
            let _ = shard_of(&event);
            match event {
                FrameEvent::Request(head) => {
                    assert!(!is_open, "a request inside another");
                    viewed(&head);
                    is_open = true;
                    let name = format!("{} {}", head.transaction(), head.method_str());
                    pieces.push(Piece::Request(name, fields(head.fields()), head.has_body()));
                }
                FrameEvent::Response(head) => {
                    assert!(!is_open, "a response inside a request");
                    pieces.push(Piece::Response(head.status(), fields(head.fields())));
                }
                FrameEvent::Data(octets) => {
                    assert!(is_open && !octets.is_empty());
                    match pieces.last_mut() {
                        Some(Piece::Data(whole)) => whole.extend_from_slice(&octets),
                        _ => pieces.push(Piece::Data(octets.to_vec())),
                    }
                }
                FrameEvent::End(flag) => {
                    assert!(is_open, "an end without a beginning");
                    is_open = false;
                    pieces.push(Piece::End(flag));
                }
            }
        }
        assert!(reader.buffered() <= LIMITS.head + 300, "unbounded");
    }
    (pieces, None)
}

/// The first octets say where the rest is split: the same frames come out, with the same data, and what
/// waits inside is bounded.
pub fn stream_is_read_alike(octets: &[u8]) {
    let (sizes, octets) = octets.split_at(octets.len().min(8));
    let whole = read(octets, Choices(&[255; 4096]));
    let pieces = read(octets, Choices(sizes));
    // An error may be seen before data that came with it is handed on.
    if whole.1.is_none() || pieces.1.is_none() {
        assert_eq!(whole, pieces);
    }
    assert_eq!(whole.1.is_some(), pieces.1.is_some());
}

/// What is read is written as it was; equality is an equivalence; the parts lie inside.
pub fn uris_and_paths_are_read_soundly(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
    let (a, b) = (MsrpUri::parse(first), MsrpUri::parse(second));
    if let Ok(a) = &a {
        assert_eq!(a.as_str(), first);
        assert!(first.len() <= MAX_URI && first.contains(a.host()));
        assert!(a.session_id().is_none_or(|id| first.contains(id)));
        assert!(a.matches(first));
        if let Ok(b) = &b {
            let (there, back) = (a.matches(second), b.matches(first));
            assert_eq!((there, back), (a == b, a == b));
        }
    }
    if let Ok(path) = MsrpPath::parse(&text) {
        assert!((1..=MAX_PATH).contains(&path.uris().len()));
        assert!(path.matches(&text));
        assert_eq!(MsrpPath::parse(&path.to_string()), Ok(path));
    }
}

/// Whatever a description says: our answer to it can be read, has as many sections, and no line that is
/// not ours; what was agreed on leads somewhere.
pub fn descriptions_are_answered_soundly(octets: &[u8]) {
    let Ok(theirs) = SessionDescription::parse(octets) else {
        return;
    };
    assert!(octets.len() <= MAX_DESCRIPTION);
    let uri = MsrpUri::parse("msrp://127.0.0.1:2855/0.own;tcp").expect("ours");
    for (direction, cema) in [(Direction::default(), false), (Direction::default(), true)] {
        let local = Local {
            uri: &uri,
            accept_types: &["message/cpim", "application/im-iscomposing+xml"],
            accept_wrapped_types: &["*"],
            direction,
            max_size: Some(1000),
            fingerprint: None,
            cema,
            session: 1,
            version: 1,
        };
        let ours = SessionDescription::parse(offer(&local).as_bytes()).expect("ours can be read");
        assert_eq!(ours.usable().count(), 1);
        let _ = accept_answer(&local, &theirs);
        let Ok((text, agreement)) = answer(&theirs, &local) else {
            continue;
        };
        let read = SessionDescription::parse(text.as_bytes()).expect("our answer can be read");
        assert_eq!(read.sections.len(), theirs.sections.len());
        assert_eq!(read.usable().count(), 1);
        let lines = text.matches('\n').count();
        assert_eq!(lines, text.matches("\r\n").count());
        assert!(
            lines <= 5 + 8 + theirs.sections.len(),
            "lines that are not ours"
        );
        assert!(!agreement.meets_at.0.is_empty() && !agreement.accept_types.is_empty());
        assert!(agreement.peer.first().port().is_some());
    }
}
