//! SIP as the agents read it: text cut at line ends, nothing shared with the server's parser.
//!
//! Deliberately plain. Two readers of one grammar, written apart, find each other's mistakes.

/// A SIP message: its octets, and a reading of them.
#[derive(Clone, Debug)]
pub struct SipText {
    octets: Vec<u8>,
    start_line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl SipText {
    /// Reads a whole message; `None` if it has no header section.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let end = find(octets, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&octets[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let start_line = lines.next()?.to_owned();
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let folded = &mut headers.last_mut()?.1;
                folded.push(' ');
                folded.push_str(line.trim());
            } else {
                let (name, value) = line.split_once(':')?;
                headers.push((long_name(name.trim()).to_owned(), value.trim().to_owned()));
            }
        }
        Some(Self {
            octets: octets.to_vec(),
            start_line,
            headers,
            body: octets[end + 4..].to_vec(),
        })
    }

    /// Every octet, as it was on the wire.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The whole message for a person to read.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.octets).into_owned()
    }

    /// The request line or status line.
    pub fn start_line(&self) -> &str {
        &self.start_line
    }

    /// The method, or `None` in a response.
    pub fn method(&self) -> Option<&str> {
        match self.start_line.split_once(' ')? {
            ("SIP/2.0", _) => None,
            (method, _) => Some(method),
        }
    }

    /// The Request-URI; empty in a response.
    pub fn request_uri(&self) -> &str {
        match self.method() {
            Some(_) => self.start_line.split(' ').nth(1).unwrap_or(""),
            None => "",
        }
    }

    /// The status code; 0 in a request.
    pub fn status(&self) -> u16 {
        self.start_line
            .strip_prefix("SIP/2.0 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or(0)
    }

    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// The first field of this name, or nothing as text.
    pub fn header_or_empty(&self, name: &str) -> &str {
        self.header(name).unwrap_or("")
    }

    /// Every field of this name, in order. The name is the long one.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.to_owned();
        self.headers
            .iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(&name))
            .map(|(_, value)| value.as_str())
    }

    /// Every value of this name: fields cut at commas outside of `"` and `<>`.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.headers(name).flat_map(comma_separated).collect()
    }

    /// The body to the last octet.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The number in CSeq.
    pub fn cseq_number(&self) -> u32 {
        let cseq = self.header_or_empty("CSeq");
        cseq.split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    }

    /// The method in CSeq.
    pub fn cseq_method(&self) -> &str {
        let cseq = self.header_or_empty("CSeq");
        cseq.rsplit(' ').next().unwrap_or("")
    }

    /// The branch of the top Via.
    pub fn branch(&self) -> &str {
        parameter(self.header_or_empty("Via"), "branch").unwrap_or("")
    }

    /// The tag of From.
    pub fn from_tag(&self) -> &str {
        tag(self.header_or_empty("From"))
    }

    /// The tag of To; empty outside of a dialog.
    pub fn to_tag(&self) -> &str {
        tag(self.header_or_empty("To"))
    }

    /// The URI of the first Contact.
    pub fn contact_uri(&self) -> &str {
        address(self.header_or_empty("Contact"))
    }
}

/// How many octets the message at the front of a stream has; `None` while it is incomplete.
pub(super) fn message_length(stream: &[u8]) -> Option<usize> {
    let end = find(stream, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&stream[..end]);
    let body = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| long_name(name.trim()).eq_ignore_ascii_case("Content-Length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    (stream.len() >= end + body).then_some(end + body)
}

/// The URI inside of `<>`, or the value up to its parameters.
pub fn address(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or(""),
        None => value.split(';').next().unwrap_or("").trim(),
    }
}

/// A parameter of a header value, quotes taken off; parameters inside of `<>` are the URI's.
pub fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let after_uri = value.rsplit_once('>').map_or(value, |(_, rest)| rest);
    after_uri.split(';').skip(1).find_map(|part| {
        let (own, value) = part.split_once('=').unwrap_or((part, ""));
        own.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().trim_matches('"'))
    })
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn tag(value: &str) -> &str {
    parameter(value, "tag").unwrap_or("")
}

fn comma_separated(field: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let (mut quoted, mut angled) = (false, false);
    for character in field.chars() {
        match character {
            '"' => quoted = !quoted,
            '<' if !quoted => angled = true,
            '>' if !quoted => angled = false,
            ',' if !quoted && !angled => {
                values.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(value) = values.last_mut() {
            value.push(character);
        }
    }
    values.iter().map(|value| value.trim().to_owned()).collect()
}

fn long_name(name: &str) -> &str {
    match name {
        "v" | "V" => "Via",
        "f" | "F" => "From",
        "t" | "T" => "To",
        "i" | "I" => "Call-ID",
        "m" | "M" => "Contact",
        "l" | "L" => "Content-Length",
        "c" | "C" => "Content-Type",
        "e" | "E" => "Content-Encoding",
        "k" | "K" => "Supported",
        "s" | "S" => "Subject",
        "o" | "O" => "Event",
        "a" | "A" => "Accept-Contact",
        "b" | "B" => "Referred-By",
        "x" | "X" => "Session-Expires",
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"SIP/2.0 200 OK\r\nv: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKa;rport\r\n\
        Contact: \"A, B\" <sip:a@h;x=1,2>;q=1, <sip:c@d>;\r\n +sip.instance=\"<urn:uuid:1>\"\r\n\
        To: <sip:a@h;tag=no>;tag=yes\r\nCSeq: 7 MESSAGE\r\nl: 3\r\n\r\na\0b";

    #[test]
    fn compact_names_folds_and_quoted_commas_are_read() {
        let sip = SipText::read(SAMPLE).unwrap();
        assert_eq!(sip.status(), 200);
        assert_eq!(sip.method(), None);
        assert_eq!(sip.branch(), "z9hG4bKa");
        assert_eq!(sip.to_tag(), "yes");
        assert_eq!((sip.cseq_number(), sip.cseq_method()), (7, "MESSAGE"));
        assert_eq!(sip.body(), b"a\0b");
        let contacts = sip.values("Contact");
        assert_eq!(contacts.len(), 2);
        assert_eq!(address(&contacts[0]), "sip:a@h;x=1,2");
        assert!(contacts[1].contains("+sip.instance"));
    }

    #[test]
    fn a_stream_is_cut_where_content_length_says() {
        assert_eq!(message_length(SAMPLE), Some(SAMPLE.len()));
        assert_eq!(message_length(&SAMPLE[..SAMPLE.len() - 1]), None);
        let two = [SAMPLE, b"SIP/2.0"].concat();
        assert_eq!(message_length(&two), Some(SAMPLE.len()));
    }
}
