//! The wire layer of SIP.

use bytes::Bytes;
use restante::sip::message::{HeaderName, Message};
use restante::sip::reply::{ack_for, cancel_for, response, stamp_source};
use restante::sip::splice::Edit;
use restante::sip::stream::{Framed, StreamFramer};
use restante::sip::transport::refusal;
use restante::sip::wire::{MAX_FIELDS, MAX_HEAD, WireError};
use restante::sip::{validate, wire};

use super::choices::Choices;

/// Names and values in order.
type Fields = Vec<(String, Vec<u8>)>;

fn fields(message: &Message) -> Fields {
    let fields = message.all_headers();
    fields
        .map(|(_, name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

/// A message that is read has its parts inside its octets, is read alike once more, and its answer
/// repeats what an answer must; what is no message is answered legally or not at all.
pub fn message_is_read_soundly(octets: &[u8]) {
    match wire::parse(Bytes::copy_from_slice(octets)) {
        Ok(message) => sound(&message),
        Err(error) => refused(&error),
    }
}

fn sound(message: &Message) {
    let again = wire::parse(message.bytes().clone()).expect("it was read before");
    assert_eq!(again.bytes(), message.bytes());
    assert_eq!(fields(&again), fields(message));
    assert_eq!(again.body(), message.body());
    assert!(message.bytes().ends_with(message.body()));
    assert!(message.all_headers().count() <= MAX_FIELDS);
    for (name, value) in fields(message) {
        assert!(!name.is_empty() && !name.contains(['\r', '\n', ' ', ':']));
        assert!(!value.contains(&b'\r') && !value.contains(&b'\n'));
    }
    assert_eq!(&Edit::new(message).finish(), message.bytes());
    let head = message.bytes().len() - message.body().len();
    if message.is_request() && validate::validate(message).is_ok() && head + 1_000 < MAX_HEAD {
        answered(message);
    }
}

/// RFC 3261 §8.2.6.2: Via, From, Call-ID and CSeq as they were, the tag alone added to To.
fn answered(request: &Message) {
    let built = response(request, 400, "Bad Request", Some("own")).build();
    let answer = wire::parse(built).expect("an answer is a message");
    assert_eq!(answer.status(), 400);
    let values = |message: &Message, name| {
        let fields = message.all_headers().filter(|field| field.0 == name);
        fields.map(|field| field.2.to_vec()).collect::<Vec<_>>()
    };
    for name in [HeaderName::Via, HeaderName::From, HeaderName::CallId] {
        assert_eq!(values(&answer, name), values(request, name), "{name:?}");
    }
    assert_eq!(
        answer.cseq().map(|cseq| cseq.number),
        request.cseq().map(|cseq| cseq.number)
    );
    assert!(answer.to().expect("To").tag().is_some());
    if let Some(cancel) = cancel_for(request) {
        let cancel = wire::parse(cancel).expect("a CANCEL is a message");
        assert_eq!(validate::validate(&cancel), Ok(()));
    }
    if let Some(ack) = ack_for(request, &answer) {
        let ack = wire::parse(ack).expect("an ACK is a message");
        assert_eq!(validate::validate(&ack), Ok(()));
    }
}

fn refused(error: &WireError) {
    assert!(matches!(error.status, 400 | 413 | 505 | 513), "{error}");
    let source = ([192, 0, 2, 1], 5060).into();
    let _ = refusal::return_address(error, source);
    let Some(answer) = refusal::answer(error, source) else {
        return;
    };
    let answer = wire::parse(answer).expect("an answer is a message");
    assert_eq!(answer.status(), error.status);
    assert_eq!(answer.body().len(), 0);
}

/// Whatever is changed in one place, all other octets stay.
pub fn edit_leaves_the_rest_untouched(octets: &[u8]) {
    let Ok(message) = wire::parse(Bytes::copy_from_slice(octets)) else {
        return;
    };
    let before = fields(&message);
    let mut edit = Edit::new(&message);
    edit.prepend("Via", "SIP/2.0/UDP own;branch=z9hG4bKown")
        .append("X-Own", "1\r\nX-Not: 1")
        .replace(HeaderName::MaxForwards, "69")
        .remove(HeaderName::PAssertedIdentity);
    let edited = match wire::parse(edit.finish()) {
        // As large as one can be, and now larger.
        Err(error) if error.status == 513 => return,
        edited => edited.expect("an edited message is one"),
    };
    assert_eq!(edited.body(), message.body());
    assert_eq!(edited.count(HeaderName::PAssertedIdentity), 0);
    let own = |fields: &Fields, ids: &[&str]| -> Fields {
        let kept = fields.iter().filter(|(name, _)| {
            let id = HeaderName::parse(name.as_bytes());
            !ids.contains(&name.as_str())
                && !matches!(id, HeaderName::MaxForwards | HeaderName::PAssertedIdentity)
        });
        kept.cloned().collect()
    };
    let mut after = fields(&edited);
    assert_eq!(after.remove(0).0, "Via");
    let added = after.iter().rposition(|(name, _)| name == "X-Own");
    after.remove(added.expect("it was added"));
    assert_eq!(own(&after, &[]), own(&before, &[]));
    // The top Via alone changes where a request came from.
    let source = ([192, 0, 2, 1], 5060).into();
    if message.is_request()
        && let Some(stamped) = stamp_source(message.clone(), source)
    {
        let again = wire::parse(stamped.bytes().clone()).expect("a stamped message is one");
        assert_eq!(again, stamped);
        assert_eq!(stamped.body(), message.body());
        let vias = |message: &Message| message.values(HeaderName::Via).count();
        assert_eq!(vias(&stamped), vias(&message));
        let others = |message: &Message| -> Fields {
            let mut all = fields(message);
            all.retain(|(name, _)| HeaderName::parse(name.as_bytes()) != HeaderName::Via);
            all
        };
        assert_eq!(others(&stamped), others(&message));
    }
}

/// Largest body a stream of the claim takes.
const MOST_BODY: usize = 2_000;

fn cut(octets: &[u8], mut sizes: Choices<'_>) -> (Vec<Bytes>, Option<u16>) {
    let mut framer = StreamFramer::new(MOST_BODY);
    let (mut messages, mut rest) = (Vec::new(), octets);
    while !rest.is_empty() {
        let size = (1 + usize::from(sizes.octet())).min(rest.len());
        let (piece, after) = rest.split_at(size);
        framer.push(piece);
        rest = after;
        loop {
            match framer.next() {
                Ok(Some(Framed::Message(octets))) => messages.push(octets),
                Ok(Some(Framed::KeepAlive)) => {}
                Ok(None) => break,
                Err(error) => {
                    refused(&error);
                    return (messages, Some(error.status));
                }
            }
        }
        assert!(framer.buffer().len() <= MAX_HEAD + MOST_BODY, "unbounded");
    }
    (messages, None)
}

/// The first octets say where the rest is split. The same messages come out, in the order of the
/// stream, and each is as long for the parser as it was for the framer.
pub fn stream_is_cut_alike(octets: &[u8]) {
    let (sizes, octets) = octets.split_at(octets.len().min(8));
    let whole = cut(octets, Choices(&[255; 4096]));
    let pieces = cut(octets, Choices(sizes));
    assert_eq!(whole, pieces);
    let mut from = 0;
    for message in &whole.0 {
        let found = memchr_at(&octets[from..], message).expect("a part of the stream");
        from += found + message.len();
        let Ok(read) = wire::parse(message.clone()) else {
            continue;
        };
        // Folded lines are joined, which changes no length.
        let skipped = message.iter().take_while(|octet| b"\r\n".contains(octet));
        assert_eq!(read.bytes().len(), message.len() - skipped.count());
    }
}

fn memchr_at(octets: &[u8], part: &[u8]) -> Option<usize> {
    let mut windows = octets.windows(part.len().max(1));
    windows.position(|window| window == part)
}
