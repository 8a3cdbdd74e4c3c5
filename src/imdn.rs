//! Instant message disposition notifications (RFC 5438): which were asked for, and the document that
//! gives one.
//!
//! The document travels as `message/imdn+xml` inside a [`crate::cpim`] envelope, alone or with others
//! (`aggregate`). What is read (`document`) is written by strangers: no document type, no entities,
//! bounded size and depth, names by namespace.

use std::fmt::Write as _;

use crate::multipart::is_type;

mod aggregate;
mod document;

pub use aggregate::{is_aggregate, notices};

/// The media type of a disposition notification (RFC 5438 §7.2.1.1).
pub const MEDIA_TYPE: &str = "message/imdn+xml";
/// The namespace of its elements.
pub const NAMESPACE: &str = "urn:ietf:params:xml:ns:imdn";
/// Largest document that is read, in octets.
pub const MAX_DOCUMENT: usize = 16 * 1024;

/// Whether a content type is a disposition notification.
pub fn is_notification(content_type: &str) -> bool {
    is_type(content_type, MEDIA_TYPE)
}

/// Whether a content type is an isComposing state (RFC 3994), which is never kept.
pub fn is_composing(content_type: &str) -> bool {
    is_type(content_type, "application/im-iscomposing+xml")
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
    /// `interworking`, which OMA CPM adds (cpm-facts §8).
    pub const INTERWORKING: Self = Self(16);

    const NAMES: [(&'static str, Self); 5] = [
        ("positive-delivery", Self::POSITIVE),
        ("negative-delivery", Self::NEGATIVE),
        ("display", Self::DISPLAY),
        ("processing", Self::PROCESSING),
        ("interworking", Self::INTERWORKING),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `delivery-notification`
    Delivery,
    /// `display-notification`
    Display,
    /// `processing-notification`
    Processing,
    /// `interworking-notification` of OMA CPM: the message left for another service.
    Interworking,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Delivery,
        Self::Display,
        Self::Processing,
        Self::Interworking,
    ];

    const fn element(self) -> &'static str {
        match self {
            Self::Delivery => "delivery-notification",
            Self::Display => "display-notification",
            Self::Processing => "processing-notification",
            Self::Interworking => "interworking-notification",
        }
    }

    fn of(element: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.element() == element)
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
    /// Which service the message left for; its name stands in the document alone.
    Interworked,
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
            Self::Interworked => "interworked",
        }
    }

    /// What a status element says in `kind`. RFC 5438 §11.1 lists the names of three kinds; those of
    /// `interworking` are not public, so any is taken.
    fn read(element: &str, kind: Kind) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        let known = all.find(|status| status.element() == element && status.fits(kind));
        known.or((kind == Kind::Interworking).then_some(Self::Interworked))
    }

    /// Whether the schema of RFC 5438 §11.1 allows it in `kind`.
    const fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Delivered | Self::Failed => matches!(kind, Kind::Delivery),
            Self::Displayed => matches!(kind, Kind::Display),
            Self::Processed | Self::Stored => matches!(kind, Kind::Processing),
            Self::Forbidden | Self::Error => true,
            Self::Interworked => matches!(kind, Kind::Interworking),
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
    /// Without the `datetime` of the message it speaks of, which must be there (§11.1.3).
    #[error("a notification without datetime")]
    NoDateTime,
    /// An aggregate that cannot be cut into notifications (§8.3).
    #[error("malformed aggregate")]
    BadAggregate,
}

/// One disposition notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispositionNotification {
    /// `imdn.Message-ID` of the message it speaks of.
    pub message_id: String,
    /// DateTime of that message, verbatim.
    pub date_time: String,
    /// Whom the message was for.
    pub recipient_uri: Option<String>,
    /// Which disposition.
    pub kind: Kind,
    /// How it went.
    pub status: Status,
}

impl DispositionNotification {
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
        element("datetime", &self.date_time);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_are_read_and_written_and_the_unknown_ignored() {
        let set = Dispositions::parse(" display,anything, positive-delivery;x=y ,, Processing");
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
}
