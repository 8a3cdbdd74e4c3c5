//! message/cpim (RFC 3862) and message/imdn+xml (RFC 5438) as the agents write and read them.

use crate::clock;

use super::sip_text::find;

/// A CPIM wrapper around one content part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `From`, with its brackets.
    pub from: String,
    /// `To`, with its brackets.
    pub to: String,
    /// `DateTime`.
    pub date_time: String,
    /// `imdn.Message-ID`; empty if there is none.
    pub message_id: String,
    /// `imdn.Disposition-Notification`; empty if nothing is asked for.
    pub asks: String,
    /// The part's Content-Type.
    pub content_type: String,
    /// The part's Content-Disposition; empty if there is none.
    pub content_disposition: String,
    /// The part to the last octet.
    pub content: Vec<u8>,
}

/// What a disposition notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The device took the message.
    Delivered,
    /// The user saw it.
    Displayed,
}

impl Envelope {
    /// A text from one URI to another, with a fresh Message-ID, asking for nothing.
    pub fn text(from: &str, to: &str, text: &str) -> Self {
        Self::new(from, to, "text/plain; charset=UTF-8", text.as_bytes())
    }

    /// Any content.
    pub fn new(from: &str, to: &str, content_type: &str, content: &[u8]) -> Self {
        Self {
            from: format!("<{from}>"),
            to: format!("<{to}>"),
            date_time: now_as_text(),
            message_id: fresh("m"),
            asks: String::new(),
            content_type: content_type.to_owned(),
            content_disposition: String::new(),
            content: content.to_vec(),
        }
    }

    /// Asks for dispositions, for example `"positive-delivery, display"`.
    pub fn asking(mut self, dispositions: &str) -> Self {
        self.asks = dispositions.to_owned();
        self
    }

    /// With this imdn.Message-ID.
    pub fn with_message_id(mut self, message_id: &str) -> Self {
        self.message_id = message_id.to_owned();
        self
    }

    /// The notification of `disposition` for this message, from its recipient to its author.
    pub fn notification(&self, disposition: Disposition) -> Self {
        match disposition {
            Disposition::Delivered => self.notification_of("delivery", "delivered"),
            Disposition::Displayed => self.notification_of("display", "displayed"),
        }
    }

    /// A notification of any kind and status, as their elements are called (RFC 5438 §11.1).
    pub fn notification_of(&self, kind: &str, status: &str) -> Self {
        let recipient = bare(&self.to);
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
             <imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">\r\n\
             <message-id>{}</message-id>\r\n<datetime>{}</datetime>\r\n\
             <recipient-uri>{recipient}</recipient-uri>\r\n\
             <{kind}-notification><status><{status}/></status></{kind}-notification>\r\n</imdn>",
            self.message_id, self.date_time
        );
        Self {
            content_disposition: "notification".to_owned(),
            ..Self::new(
                recipient,
                bare(&self.from),
                "message/imdn+xml",
                xml.as_bytes(),
            )
        }
    }

    /// As it goes over the wire.
    pub fn to_octets(&self) -> Vec<u8> {
        let mut head = format!(
            "From: {}\r\nTo: {}\r\nDateTime: {}\r\nNS: imdn <urn:ietf:params:imdn>\r\n",
            self.from, self.to, self.date_time
        );
        for (name, value) in [
            ("imdn.Message-ID", &self.message_id),
            ("imdn.Disposition-Notification", &self.asks),
        ] {
            if !value.is_empty() {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("\r\nContent-Type: {}\r\n", self.content_type));
        if !self.content_disposition.is_empty() {
            head.push_str(&format!(
                "Content-Disposition: {}\r\n",
                self.content_disposition
            ));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.content.len()));
        [head.into_bytes(), self.content.clone()].concat()
    }

    /// Reads one; `None` if it is not an envelope around a part.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let headers_end = find(octets, b"\r\n\r\n")?;
        let headers = std::str::from_utf8(&octets[..headers_end]).ok()?;
        let rest = &octets[headers_end + 4..];
        let part_end = find(rest, b"\r\n\r\n")?;
        let part = std::str::from_utf8(&rest[..part_end]).ok()?;
        Some(Self {
            from: field(headers, "From")?,
            to: field(headers, "To")?,
            date_time: field(headers, "DateTime").unwrap_or_default(),
            message_id: imdn_field(headers, "Message-ID"),
            asks: imdn_field(headers, "Disposition-Notification"),
            content_type: field(part, "Content-Type")?,
            content_disposition: field(part, "Content-Disposition").unwrap_or_default(),
            content: rest[part_end + 4..].to_vec(),
        })
    }

    /// The part as text.
    pub fn content_text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// Whether the part is a disposition notification.
    pub fn is_notification(&self) -> bool {
        self.content_type.starts_with("message/imdn+xml")
    }

    /// Whether the part notifies `status` (`delivered`, `displayed`, `stored`, `failed`...) of the
    /// message called `message_id`.
    pub fn notifies(&self, status: &str, message_id: &str) -> bool {
        let xml = self.content_text();
        self.is_notification()
            && element(&xml, "message-id") == Some(message_id)
            && element(&xml, "status").is_some_and(|inner| {
                inner
                    .trim_start()
                    .strip_prefix('<')
                    .and_then(|inner| inner.split(['/', ' ', '>']).next())
                    == Some(status)
            })
    }
}

/// A token nobody else has: the prefix and 64 random bits in hex.
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}", rand::random::<u64>())
}

fn now_as_text() -> String {
    let millis = clock::now().wall.0;
    i64::try_from(millis / 1000 * 1000)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map(|timestamp| timestamp.to_string())
        .unwrap_or_default()
}

fn bare(address: &str) -> &str {
    super::sip_text::address(address)
}

fn field(headers: &str, name: &str) -> Option<String> {
    headers
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

/// A header of the IMDN namespace, whatever prefix its `NS` line gave it (RFC 3862 §2.2).
fn imdn_field(headers: &str, name: &str) -> String {
    let prefix = headers
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("NS:"))
        .find(|value| value.contains("<urn:ietf:params:imdn>"))
        .and_then(|value| value.split('<').next())
        .map_or("imdn", str::trim);
    field(headers, &format!("{prefix}.{name}")).unwrap_or_default()
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_reads_back_as_it_was_written() {
        let sent =
            Envelope::text("sip:a@im.test", "sip:b@im.test", "hi\r\n\r\n\0").asking("display");
        assert_eq!(Envelope::read(&sent.to_octets()), Some(sent));
    }

    #[test]
    fn a_notification_goes_back_to_the_author_and_names_the_message() {
        let sent = Envelope::text("sip:a@im.test", "sip:b@im.test", "hi");
        let back = sent.notification(Disposition::Displayed);
        assert_eq!(
            (back.from.as_str(), back.to.as_str()),
            ("<sip:b@im.test>", "<sip:a@im.test>")
        );
        assert!(back.notifies("displayed", &sent.message_id));
        assert!(!back.notifies("delivered", &sent.message_id));
        assert_ne!(back.message_id, sent.message_id);
    }
}
