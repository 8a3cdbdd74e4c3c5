//! Instant message disposition notifications (RFC 5438): which were asked for, and the document that
//! gives one.
//!
//! The document travels as `message/imdn+xml` inside a [`crate::cpim`] envelope. What is read here is
//! written by strangers: no document type, no entities, bounded size and depth, names by namespace.

use std::fmt::Write as _;

use quick_xml::NsReader;
use quick_xml::events::{BytesRef, Event};
use quick_xml::name::{Namespace, ResolveResult};

use crate::multipart::media_type;

/// The media type of a disposition notification (RFC 5438 §7.2.1.1).
pub const MEDIA_TYPE: &str = "message/imdn+xml";
/// The namespace of its elements.
pub const NAMESPACE: &str = "urn:ietf:params:xml:ns:imdn";
/// Largest document that is read, in octets.
pub const MAX_DOCUMENT: usize = 16 * 1024;
const MAX_DEPTH: usize = 8;

/// Whether a content type is a disposition notification.
pub fn is_notification(content_type: &str) -> bool {
    media_type(content_type) == MEDIA_TYPE
}

/// Whether a content type is an isComposing state (RFC 3994), which is never kept.
pub fn is_composing(content_type: &str) -> bool {
    media_type(content_type) == "application/im-iscomposing+xml"
}

/// Which notifications the author asked for (RFC 5438 §7.1.1.3): bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dispositions(pub u8);

impl Dispositions {
    /// `positive-delivery`
    pub const POSITIVE: Self = Self(1);
    /// `negative-delivery`
    pub const NEGATIVE: Self = Self(2);
    /// `display`
    pub const DISPLAY: Self = Self(4);
    /// `processing`
    pub const PROCESSING: Self = Self(8);

    const NAMES: [(&'static str, Self); 4] = [
        ("positive-delivery", Self::POSITIVE),
        ("negative-delivery", Self::NEGATIVE),
        ("display", Self::DISPLAY),
        ("processing", Self::PROCESSING),
    ];

    /// Reads the value of a Disposition-Notification header; what is not known is ignored
    /// (RFC 5438 §7.2.1).
    pub fn parse(value: &str) -> Self {
        let known = |token: &str| {
            let mut names = Self::NAMES.into_iter();
            names.find(|(name, _)| *name == token).map(|(_, bit)| bit)
        };
        value
            .split(',')
            .filter_map(|item| known(item.split(';').next().unwrap_or_default().trim()))
            .fold(Self::default(), Self::union)
    }

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing was asked for.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The value of a Disposition-Notification header; empty for the empty set.
    pub fn header_value(self) -> String {
        let set = Self::NAMES
            .into_iter()
            .filter(|(_, bit)| self.contains(*bit));
        set.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }
}

/// Which disposition a notification speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `delivery-notification`
    Delivery,
    /// `display-notification`
    Display,
    /// `processing-notification`
    Processing,
}

impl Kind {
    const fn element(self) -> &'static str {
        match self {
            Self::Delivery => "delivery-notification",
            Self::Display => "display-notification",
            Self::Processing => "processing-notification",
        }
    }

    fn of(element: &str) -> Option<Self> {
        [Self::Delivery, Self::Display, Self::Processing]
            .into_iter()
            .find(|kind| kind.element() == element)
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The device has it.
    Delivered,
    /// It will not be delivered.
    Failed,
    /// The user has seen it.
    Displayed,
    /// An intermediary has handled it.
    Processed,
    /// An intermediary keeps it.
    Stored,
    /// Whoever knows does not tell.
    Forbidden,
    /// It is not known.
    Error,
}

impl Status {
    const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Failed,
        Self::Displayed,
        Self::Processed,
        Self::Stored,
        Self::Forbidden,
        Self::Error,
    ];

    const fn element(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Displayed => "displayed",
            Self::Processed => "processed",
            Self::Stored => "stored",
            Self::Forbidden => "forbidden",
            Self::Error => "error",
        }
    }

    /// Whether the schema of RFC 5438 §11.1 allows it in `kind`.
    const fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Delivered | Self::Failed => matches!(kind, Kind::Delivery),
            Self::Displayed => matches!(kind, Kind::Display),
            Self::Processed | Self::Stored => matches!(kind, Kind::Processing),
            Self::Forbidden | Self::Error => true,
        }
    }
}

/// Why a document was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImdnError {
    /// Over [`MAX_DOCUMENT`] octets, or nested too deep.
    #[error("document too large or too deep")]
    TooLarge,
    /// Not well-formed, or not UTF-8.
    #[error("not well-formed")]
    NotWellFormed,
    /// A document type or an entity of its own.
    #[error("document types and entities are not accepted")]
    Entity,
    /// Well-formed, but no notification.
    #[error("not a disposition notification")]
    NotANotification,
}

/// One disposition notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispositionNotification {
    /// `imdn.Message-ID` of the message it speaks of.
    pub message_id: String,
    /// DateTime of that message, verbatim; some writers leave it out.
    pub date_time: Option<String>,
    /// Whom the message was for.
    pub recipient_uri: Option<String>,
    /// Which disposition.
    pub kind: Kind,
    /// How it went.
    pub status: Status,
}

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
                Event::Start(start) => draft.open(ours.then(|| start.local_name().into_inner()))?,
                Event::Empty(start) => {
                    draft.open(ours.then(|| start.local_name().into_inner()))?;
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

    /// The document, as RFC 5438 §7.2.1.1 shows it.
    pub fn to_xml(&self) -> String {
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<imdn xmlns=\"{NAMESPACE}\">\r\n"
        );
        let mut element = |name: &str, text: &str| {
            let text = quick_xml::escape::escape(text);
            let _ = write!(xml, "<{name}>{text}</{name}>\r\n");
        };
        element("message-id", &self.message_id);
        if let Some(date_time) = &self.date_time {
            element("datetime", date_time);
        }
        if let Some(uri) = &self.recipient_uri {
            element("recipient-uri", uri);
        }
        let (kind, status) = (self.kind.element(), self.status.element());
        let _ = write!(
            xml,
            "<{kind}><status><{status}/></status></{kind}>\r\n</imdn>\r\n"
        );
        xml
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
    fn open(&mut self, name: Option<&str>) -> Result<(), ImdnError> {
        if self.path.len() == MAX_DEPTH {
            return Err(ImdnError::TooLarge);
        }
        if self.closed || (self.path.is_empty() && name != Some("imdn")) {
            return Err(ImdnError::NotANotification);
        }
        self.path.push(name.map(str::to_owned));
        self.text.clear();
        let path: Vec<_> = self.path.iter().map(Option::as_deref).collect();
        if let [_, Some(kind), Some("status"), Some(status)] = path[..]
            && let Some(kind) = Kind::of(kind)
        {
            let known = Status::ALL.into_iter().find(|s| s.element() == status);
            if self.status.is_some() {
                return Err(ImdnError::NotANotification);
            }
            self.status = known.filter(|status| status.fits(kind));
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
                date_time: self.date_time,
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
        assert_eq!(read.date_time.as_deref(), Some("2026-03-02T09:15:04Z"));
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
            <x:any><i:datetime>no</i:datetime></x:any>
            <i:display-notification><i:status><i:displayed></i:displayed></i:status>
            </i:display-notification></i:imdn>"#;
        let read = parse(text).unwrap();
        assert_eq!(read.message_id, "a&bc");
        assert_eq!(read.date_time, None);
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

    #[test]
    fn dispositions_are_read_and_written_and_the_unknown_ignored() {
        let set = Dispositions::parse(" display,interworking, positive-delivery;x=y ,, Processing");
        assert_eq!(set, Dispositions::DISPLAY.union(Dispositions::POSITIVE));
        assert_eq!(set.header_value(), "positive-delivery, display");
        assert!(Dispositions::parse("").is_empty());
    }

    #[test]
    fn content_types_are_recognised_by_any_case_and_with_parameters() {
        assert!(is_composing(
            "Application/IM-isComposing+XML; charset=utf-8"
        ));
        assert!(is_notification("message/imdn+xml"));
        assert!(!is_notification("message/cpim"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            message_id in "[!-~]{1,40}", date_time in "[0-9TZ:.-]{1,20}",
            uri in "sip:[!-~]{1,30}", kind in 0usize..3, status in 0usize..7,
        ) {
            let kind = [Kind::Delivery, Kind::Display, Kind::Processing][kind];
            let status = Status::ALL[status];
            prop_assume!(status.fits(kind));
            let notification = DispositionNotification {
                message_id, date_time: Some(date_time), recipient_uri: Some(uri), kind, status,
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
