//! Envelopes this server writes (RFC 3862 §2): around a content that has none, and around a notification.

use std::borrow::Cow;

use super::{Envelope, IMDN_NAMESPACE};
use crate::clock::UnixMillis;
use crate::imdn::{self, DispositionNotification, Dispositions};

/// Escapes what a header value may not hold (RFC 3862 §2.3.1), so that nothing can add a header.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// What goes around a content that has no envelope yet.
#[derive(Clone, Copy, Debug)]
pub struct Wrapper<'a> {
    /// A name-addr or a bare URI.
    pub from: &'a str,
    /// A name-addr or a bare URI.
    pub to: &'a str,
    /// RFC 3339; see [`format_date_time`].
    pub date_time: &'a str,
    /// `imdn.Message-ID`.
    pub message_id: &'a str,
    /// Asked of the recipient; the header is left out if empty.
    pub dispositions: Dispositions,
    /// MIME headers of the content, without Content-Length.
    pub content_headers: &'a [(&'a str, &'a str)],
}

impl Envelope<'_> {
    /// Writes an envelope around `content`, which stays as it is.
    pub fn wrap(wrapper: &Wrapper<'_>, content: &[u8]) -> Vec<u8> {
        let mut out = Self::wrap_head(wrapper, content.len() as u64);
        out.extend_from_slice(content);
        out
    }

    /// Writes all of an envelope that goes before its content of `length` octets.
    pub fn wrap_head(wrapper: &Wrapper<'_>, length: u64) -> Vec<u8> {
        let mut head = String::with_capacity(512);
        let mut put = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(&escape(value));
            head.push_str("\r\n");
        };
        put("From", &bracketed(wrapper.from));
        put("To", &bracketed(wrapper.to));
        put("DateTime", wrapper.date_time);
        put("NS", &format!("imdn <{IMDN_NAMESPACE}>"));
        put("imdn.Message-ID", wrapper.message_id);
        if !wrapper.dispositions.is_empty() {
            let value = wrapper.dispositions.header_value();
            put("imdn.Disposition-Notification", &value);
        }
        head.push_str("\r\n");
        for (name, value) in wrapper.content_headers {
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
        head.into_bytes()
    }
}

/// A disposition notification in its envelope: the body of the MESSAGE that carries it. `message_id` is
/// the notification's own; it asks for no notification itself (RFC 5438 §7.2.1).
pub fn wrap_notification(
    notification: &DispositionNotification,
    from: &str,
    to: &str,
    date_time: &str,
    message_id: &str,
) -> Vec<u8> {
    let wrapper = Wrapper {
        from,
        to,
        date_time,
        message_id,
        dispositions: Dispositions::default(),
        content_headers: &[
            ("Content-Type", imdn::MEDIA_TYPE),
            ("Content-Disposition", "notification"),
        ],
    };
    Envelope::wrap(&wrapper, notification.to_xml().as_bytes())
}

fn bracketed(address: &str) -> Cow<'_, str> {
    if address.contains('<') {
        Cow::Borrowed(address)
    } else {
        Cow::Owned(format!("<{address}>"))
    }
}

/// A time as DateTime has it (RFC 3862 §4.4, RFC 3339), in UTC and whole seconds.
pub fn format_date_time(time: UnixMillis) -> String {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::super::unescape;
    use super::*;
    use crate::imdn::{Kind, Status};
    use proptest::prelude::*;

    /// RFC 3862 §2.3.1
    #[test]
    fn a_value_cannot_add_a_header() {
        assert_eq!(escape("a\r\nTo: x\u{1}"), "a\\r\\nTo: x\\u0001");
    }

    #[test]
    fn what_is_wrapped_is_read_again_and_its_content_is_untouched() {
        let wrapper = Wrapper {
            from: "sip:alice@im.example",
            to: "\"Bob\" <sip:bob@im.example>",
            date_time: &format_date_time(UnixMillis(1_772_442_904_999)),
            message_id: "Qm8v2RtK1zB4",
            dispositions: Dispositions::NEGATIVE.union(Dispositions::DISPLAY),
            content_headers: &[("Content-Type", "text/plain\r\nX: y")],
        };
        let content = b"\x00\xff\r\n\r\n";
        let octets = Envelope::wrap(&wrapper, content);
        let envelope = Envelope::parse(&octets).unwrap();
        assert_eq!(envelope.from(), Some("<sip:alice@im.example>"));
        assert_eq!(envelope.to(), Some("\"Bob\" <sip:bob@im.example>"));
        assert_eq!(envelope.date_time(), Some("2026-03-02T09:15:04Z"));
        assert_eq!(envelope.imdn_message_id(), Some("Qm8v2RtK1zB4"));
        assert_eq!(envelope.dispositions(), wrapper.dispositions);
        assert_eq!(envelope.content_header("X"), None);
        assert_eq!(envelope.content_header("Content-Length"), Some("6"));
        assert_eq!(&octets[envelope.content()], content);
    }

    #[test]
    fn a_wrapped_notification_asks_for_none_itself() {
        let notification = DispositionNotification {
            message_id: "Qm8v2RtK1zB4".into(),
            date_time: "2026-03-02T09:15:04Z".into(),
            recipient_uri: Some("sip:bob@im.example".into()),
            kind: Kind::Delivery,
            status: Status::Failed,
        };
        let octets = wrap_notification(
            &notification,
            "sip:pf@a",
            "sip:al@a",
            "2026-03-02T09:15:04Z",
            "Dv3k8SnH6yU1",
        );
        let envelope = Envelope::parse(&octets).unwrap();
        assert!(imdn::is_notification(envelope.content_type()));
        assert_eq!(
            envelope.content_header("Content-Disposition"),
            Some("notification")
        );
        assert_eq!(envelope.imdn_message_id(), Some("Dv3k8SnH6yU1"));
        assert!(envelope.dispositions().is_empty());
        let read = DispositionNotification::parse(&octets[envelope.content()]);
        assert_eq!(read, Ok(notification));
    }

    proptest! {
        #[test]
        fn any_text_survives_escaping(text in "[^\\\\]{0,40}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['\r', '\n']));
            prop_assert_eq!(unescape(&escaped), text);
        }
    }
}
