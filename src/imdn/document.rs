//! The `message/imdn+xml` document, read (RFC 5438 §11).

use quick_xml::NsReader;
use quick_xml::events::{BytesRef, Event};
use quick_xml::name::{Namespace, ResolveResult};

use super::{DispositionNotification, ImdnError, Kind, MAX_DOCUMENT, NAMESPACE, Status};

/// Most elements inside each other.
const MAX_DEPTH: usize = 8;

impl DispositionNotification {
    /// Reads a `message/imdn+xml` document.
    pub fn parse(document: &[u8]) -> Result<Self, ImdnError> {
        if document.len() > MAX_DOCUMENT {
            return Err(ImdnError::TooLarge);
        }
        let text = std::str::from_utf8(document).map_err(|_| ImdnError::NotWellFormed)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = NsReader::from_str(text);
        let mut draft = Draft::default();
        loop {
            let event = reader.read_resolved_event();
            let (namespace, event) = event.map_err(|_| ImdnError::NotWellFormed)?;
            let ours =
                matches!(&namespace, ResolveResult::Bound(Namespace(name)) if *name == NAMESPACE);
            match event {
                Event::Start(start) => draft.open(start.local_name().into_inner(), ours)?,
                Event::Empty(start) => {
                    draft.open(start.local_name().into_inner(), ours)?;
                    draft.close();
                }
                Event::End(_) => draft.close(),
                Event::Text(text) => draft.text.push_str(&text.xml10_content()),
                Event::CData(text) => draft.text.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => draft.text.push(resolve(&reference)?),
                Event::DocType(_) => return Err(ImdnError::Entity),
                Event::Eof => return draft.finish(),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            }
        }
    }
}

/// The five references of XML itself, and characters by number.
fn resolve(reference: &BytesRef<'_>) -> Result<char, ImdnError> {
    match reference.resolve_char_ref() {
        Ok(Some(c)) => return Ok(c),
        Ok(None) => {}
        Err(_) => return Err(ImdnError::NotWellFormed),
    }
    match &*reference.xml10_content() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => Err(ImdnError::Entity),
    }
}

/// What has been understood so far. Elements of other namespaces are skipped with all they hold.
#[derive(Default)]
struct Draft {
    /// Names of the open elements; `None` for those of other namespaces.
    path: Vec<Option<String>>,
    text: String,
    message_id: Option<String>,
    date_time: Option<String>,
    recipient_uri: Option<String>,
    kind: Option<Kind>,
    status: Option<Status>,
    closed: bool,
}

impl Draft {
    /// An element begins; `interworking-notification` and what it holds have a namespace of OMA's.
    fn open(&mut self, name: &str, ours: bool) -> Result<(), ImdnError> {
        if self.path.len() == MAX_DEPTH {
            return Err(ImdnError::TooLarge);
        }
        let interworking = Kind::Interworking.element();
        let inside = self.path.get(1).and_then(Option::as_deref) == Some(interworking);
        let begins = self.path.len() == 1 && name == interworking;
        let name = (ours || inside || begins).then_some(name);
        if self.closed || (self.path.is_empty() && name != Some("imdn")) {
            return Err(ImdnError::NotANotification);
        }
        self.path.push(name.map(str::to_owned));
        self.text.clear();
        let path: Vec<_> = self.path.iter().map(Option::as_deref).collect();
        if let [_, Some(kind), Some("status"), Some(status)] = path[..]
            && let Some(kind) = Kind::of(kind)
        {
            if self.kind.is_some() {
                return Err(ImdnError::NotANotification);
            }
            self.status = Status::read(status, kind);
            self.kind = Some(kind);
        }
        Ok(())
    }

    fn close(&mut self) {
        let name = self.path.pop().flatten();
        let text = std::mem::take(&mut self.text);
        let text = || Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        match (self.path.len(), name.as_deref()) {
            (1, Some("message-id")) => self.message_id = text(),
            (1, Some("datetime")) => self.date_time = text(),
            (1, Some("recipient-uri")) => self.recipient_uri = text(),
            (0, _) => self.closed = true,
            _ => {}
        }
    }

    fn finish(self) -> Result<DispositionNotification, ImdnError> {
        if !self.path.is_empty() {
            return Err(ImdnError::NotWellFormed);
        }
        match (self.message_id, self.kind, self.status) {
            (Some(message_id), Some(kind), Some(status)) => Ok(DispositionNotification {
                message_id,
                date_time: self.date_time.ok_or(ImdnError::NoDateTime)?,
                recipient_uri: self.recipient_uri,
                kind,
                status,
            }),
            _ => Err(ImdnError::NotANotification),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<imdn xmlns="urn:ietf:params:xml:ns:imdn">
<message-id>Qm8v2RtK1zB4</message-id>
<datetime>2026-03-02T09:15:04Z</datetime>
<recipient-uri>sip:bob@im.example</recipient-uri>
<delivery-notification><status><delivered/></status></delivery-notification>
</imdn>
"#;

    fn parse(text: &str) -> Result<DispositionNotification, ImdnError> {
        DispositionNotification::parse(text.as_bytes())
    }

    #[test]
    fn the_sample_notification_is_read() {
        let read = parse(SAMPLE).unwrap();
        assert_eq!(read.message_id, "Qm8v2RtK1zB4");
        assert_eq!(read.date_time, "2026-03-02T09:15:04Z");
        assert_eq!(read.recipient_uri.as_deref(), Some("sip:bob@im.example"));
        assert_eq!(
            (read.kind, read.status),
            (Kind::Delivery, Status::Delivered)
        );
    }

    #[test]
    fn elements_are_known_by_namespace_and_foreign_ones_are_skipped() {
        let text = r#"<i:imdn xmlns:i="urn:ietf:params:xml:ns:imdn" xmlns:x="urn:x">
            <x:message-id>no</x:message-id><i:message-id>a&amp;&#98;<![CDATA[c]]></i:message-id>
            <x:any><i:datetime>no</i:datetime></x:any><i:datetime>yes</i:datetime>
            <i:display-notification><i:status><i:displayed></i:displayed></i:status>
            </i:display-notification></i:imdn>"#;
        let read = parse(text).unwrap();
        assert_eq!(read.message_id, "a&bc");
        assert_eq!(read.date_time, "yes");
        assert_eq!((read.kind, read.status), (Kind::Display, Status::Displayed));
        let foreign = SAMPLE.replace("urn:ietf:params:xml:ns:imdn", "urn:x");
        assert_eq!(parse(&foreign), Err(ImdnError::NotANotification));
    }

    #[test]
    fn document_types_and_entities_are_refused() {
        let bomb = SAMPLE.replace("<imdn", "<!DOCTYPE imdn [<!ENTITY a 'b'>]><imdn");
        assert_eq!(parse(&bomb), Err(ImdnError::Entity));
        let entity = SAMPLE.replace("Qm8v2RtK1zB4", "&a;");
        assert_eq!(parse(&entity), Err(ImdnError::Entity));
    }

    #[test]
    fn every_kind_and_status_of_the_schema_is_read() {
        let delivery =
            "<delivery-notification><status><delivered/></status></delivery-notification>";
        let rows = [
            ("delivery", "delivered", Kind::Delivery, Status::Delivered),
            ("delivery", "failed", Kind::Delivery, Status::Failed),
            ("delivery", "forbidden", Kind::Delivery, Status::Forbidden),
            ("delivery", "error", Kind::Delivery, Status::Error),
            ("display", "displayed", Kind::Display, Status::Displayed),
            ("display", "forbidden", Kind::Display, Status::Forbidden),
            ("display", "error", Kind::Display, Status::Error),
            (
                "processing",
                "processed",
                Kind::Processing,
                Status::Processed,
            ),
            ("processing", "stored", Kind::Processing, Status::Stored),
            (
                "processing",
                "forbidden",
                Kind::Processing,
                Status::Forbidden,
            ),
            ("processing", "error", Kind::Processing, Status::Error),
            (
                "interworking",
                "legacy-sms",
                Kind::Interworking,
                Status::Interworked,
            ),
            ("interworking", "error", Kind::Interworking, Status::Error),
        ];
        for (element, said, kind, status) in rows {
            let text = format!(
                "<{element}-notification><status><{said}/></status></{element}-notification>"
            );
            let read = parse(&SAMPLE.replace(delivery, &text)).unwrap();
            assert_eq!((read.kind, read.status), (kind, status), "{element} {said}");
        }
        let oma = "<o:interworking-notification xmlns:o=\"urn:oma\"><o:status><o:legacy-mms/>\
            </o:status></o:interworking-notification>";
        let read = parse(&SAMPLE.replace(delivery, oma)).unwrap();
        assert_eq!(read.kind, Kind::Interworking);
    }

    /// cpm-facts §8: the date of the message is mandatory, and client parsers fail without it.
    #[test]
    fn a_notification_without_datetime_is_refused() {
        let without = SAMPLE.replace("<datetime>2026-03-02T09:15:04Z</datetime>", "");
        assert_eq!(parse(&without), Err(ImdnError::NoDateTime));
        let empty = SAMPLE.replace("2026-03-02T09:15:04Z", " ");
        assert_eq!(parse(&empty), Err(ImdnError::NoDateTime));
    }

    #[test]
    fn documents_are_bounded_in_size_and_depth() {
        let long = format!("{SAMPLE}{}", " ".repeat(MAX_DOCUMENT));
        assert_eq!(parse(&long), Err(ImdnError::TooLarge));
        let deep = SAMPLE.replace("<datetime>", &format!("<datetime>{}", "<a>".repeat(9)));
        assert_eq!(parse(&deep), Err(ImdnError::TooLarge));
    }

    #[test]
    fn what_is_no_notification_is_refused() {
        for text in [
            "",
            "<a/>",
            r#"<imdn xmlns="urn:ietf:params:xml:ns:imdn"/>"#,
            &SAMPLE.replace("<delivered/>", "<displayed/>"),
            &SAMPLE.replace("<delivered/>", "<delivered/><failed/>"),
            &SAMPLE.replace("<delivered/>", "<nonsense/><delivered/>"),
            &SAMPLE.replace("<message-id>Qm8v2RtK1zB4</message-id>", ""),
            &format!("{SAMPLE}<imdn/>"),
        ] {
            assert_eq!(parse(text), Err(ImdnError::NotANotification), "{text}");
        }
        assert_eq!(parse("<imdn"), Err(ImdnError::NotWellFormed));
        assert_eq!(
            parse(&SAMPLE[..SAMPLE.len() - 9]),
            Err(ImdnError::NotWellFormed)
        );
        assert_eq!(
            DispositionNotification::parse(b"\xff"),
            Err(ImdnError::NotWellFormed)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            message_id in "[!-~]{1,40}", date_time in "[0-9TZ:.-]{1,20}",
            uri in "sip:[!-~]{1,30}", kind in 0usize..4, status in 0usize..7,
        ) {
            let kind = Kind::ALL[kind];
            let status = Status::ALL[status];
            prop_assume!(status.fits(kind));
            let notification = DispositionNotification {
                message_id, date_time, recipient_uri: Some(uri), kind, status,
            };
            prop_assert_eq!(parse(&notification.to_xml()), Ok(notification));
        }

        #[test]
        fn parsing_never_panics(text in "(<|>|/|imdn|status|x:|&|;|#|\"|'|=| |xmlns|!\\[CDATA\\[|\\]\\]|\\?|!--){0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_damaged_document_never_panics(at in 0usize..300, octet: u8) {
            let mut document = SAMPLE.as_bytes().to_vec();
            let length = document.len();
            document[at % length] = octet;
            let _ = DispositionNotification::parse(&document);
        }
    }
}
