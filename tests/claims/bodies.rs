//! Envelopes, notifications, multipart bodies, dates.

use restante::clock::UnixMillis;
use restante::cpim::{self, Envelope, MAX_HEAD};
use restante::date;
use restante::imdn::{self, DispositionNotification, Dispositions};
use restante::multipart::{self, MAX_PARTS};

/// An envelope is a view: its content is the rest of the octets, its values are parts of them, and
/// content that is still arriving changes nothing.
pub fn envelopes_are_read_without_touching_them(octets: &[u8]) {
    let Ok(envelope) = Envelope::parse(octets) else {
        return;
    };
    let content = envelope.content();
    assert_eq!(content.end, octets.len());
    assert!(content.start <= MAX_HEAD + 2, "a head over its bound");
    let head = &octets[..content.start];
    let early = Envelope::parse(head).expect("the head alone is enough");
    let views = [
        envelope.from(),
        envelope.to(),
        envelope.date_time(),
        envelope.imdn_message_id(),
        envelope.unknown_requirement(),
        Some(envelope.content_type()),
    ];
    let again = [
        early.from(),
        early.to(),
        early.date_time(),
        early.imdn_message_id(),
        early.unknown_requirement(),
        Some(early.content_type()),
    ];
    assert_eq!(views, again);
    let head = std::str::from_utf8(head).expect("a head is text");
    for view in views.into_iter().flatten() {
        assert!(head.contains(view) || view.contains(' '), "{view:?}");
        assert!(cpim::unescape(view).len() <= view.len().max(4) * 2);
        assert!(view.contains(cpim::uri_of(view)));
    }
    for uri in envelope.imdn_record_route().chain(envelope.imdn_route()) {
        assert!(head.contains(uri));
    }
    if let Some(line) = envelope.imdn_route_line() {
        // Taken out, one route less is left, and nothing else has changed.
        let rest = [&octets[..line.start], &octets[line.end..]].concat();
        let left = Envelope::parse(&rest).expect("without its top route");
        assert_eq!(left.imdn_route().count() + 1, envelope.imdn_route().count());
        assert_eq!(&rest[left.content()], &octets[content]);
    }
    let asked = envelope.dispositions();
    assert_eq!(Dispositions::parse(&asked.header_value()), asked);
}

/// What is understood is written so that it is understood alike.
pub fn notifications_come_back_as_written(octets: &[u8]) {
    if let Ok(notice) = DispositionNotification::parse(octets) {
        let written = notice.to_xml();
        let again = DispositionNotification::parse(written.as_bytes());
        assert_eq!(again.as_ref(), Ok(&notice), "{written}");
    }
    let kind = "multipart/mixed;boundary=b";
    if let Ok(Some(notices)) = imdn::notices(kind, Some("notification"), octets) {
        assert!((1..=MAX_PARTS).contains(&notices.len()));
    }
}

/// The parts lie inside the body, apart and in order; what we write is cut as it was meant. The first
/// line is the content type.
pub fn multipart_is_cut_within_its_octets(octets: &[u8]) {
    let end = octets.iter().position(|octet| *octet == b'\n');
    let (kind, body) = match end {
        Some(end) => (&octets[..end], &octets[end + 1..]),
        None => (octets, &[][..]),
    };
    let kind = String::from_utf8_lossy(kind);
    let _ = multipart::media_type(&kind);
    let Ok(parts) = multipart::parts(&kind, body) else {
        return;
    };
    assert!(parts.len() <= MAX_PARTS);
    let mut from = 0;
    for part in &parts {
        assert!(from <= part.body.start && part.body.start <= part.body.end);
        assert!(part.body.end <= body.len());
        from = part.body.end;
        for (name, value) in &part.headers {
            assert!(!name.contains('\n') && !value.contains('\n'));
        }
        let _ = part.media_type();
    }
    let boundary = "never-in-the-content-e2b1";
    if body
        .windows(boundary.len())
        .any(|window| window == boundary.as_bytes())
    {
        return;
    }
    let contents: Vec<&[u8]> = parts.iter().map(|part| &body[part.body.clone()]).collect();
    let new: Vec<multipart::NewPart<'_>> = contents
        .iter()
        .map(|content| multipart::NewPart {
            headers: &[("Content-Type", "a/b")],
            content,
        })
        .collect();
    let written = multipart::write(boundary, &new);
    let kind = format!("multipart/mixed;boundary={boundary}");
    let again = multipart::parts(&kind, &written).expect("ours");
    let found: Vec<&[u8]> = again
        .iter()
        .map(|part| &written[part.body.clone()])
        .collect();
    assert_eq!(found, contents);
}

/// A date that is read is written so that it is read alike.
pub fn dates_come_back_as_written(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    if let Some(time) = date::parse(&text) {
        let seconds = UnixMillis(time.0 / 1000 * 1000);
        assert_eq!(date::parse(&date::sip(time)), Some(seconds), "{text}");
    }
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(octets) {
        *to = *from;
    }
    let any = UnixMillis(u64::from_be_bytes(number));
    let _ = (date::sip(any), cpim::format_date_time(any));
}
