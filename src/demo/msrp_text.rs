//! MSRP as the agents read it: a frame ends where its own end-line stands (RFC 4975 §9).

use super::sip_text::find;

/// A frame: its octets, and a reading of them.
#[derive(Clone, Debug)]
pub struct MsrpText {
    octets: Vec<u8>,
    transaction: String,
    method_or_status: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    flag: char,
}

impl MsrpText {
    /// Takes the first whole frame off a stream. `Ok(None)`: more octets are needed; `Err`: this is
    /// not MSRP.
    pub(super) fn take(stream: &mut Vec<u8>) -> Result<Option<Self>, ()> {
        let Some(line_end) = find(stream, b"\r\n") else {
            return Ok(None);
        };
        let start = String::from_utf8_lossy(&stream[..line_end]).into_owned();
        let mut words = start.split(' ');
        let (Some("MSRP"), Some(transaction), Some(word)) =
            (words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        let end_line = format!("\r\n-------{transaction}");
        let Some((at, flag)) = find_end(stream, line_end, end_line.as_bytes()) else {
            return Ok(None);
        };
        let whole = at + end_line.len() + 3;
        let octets: Vec<u8> = stream.drain(..whole).collect();
        let inside = octets.get(line_end + 2..at).unwrap_or(&[]);
        let (head, body) = match find(inside, b"\r\n\r\n") {
            Some(split) => (&inside[..split], Some(inside[split + 4..].to_vec())),
            None => (inside, None),
        };
        let headers = String::from_utf8_lossy(head)
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Some(Self {
            transaction: transaction.to_owned(),
            method_or_status: word.to_owned(),
            headers,
            body,
            flag,
            octets,
        }))
    }

    /// Every octet, as it was on the wire.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The transaction identifier.
    pub fn transaction(&self) -> &str {
        &self.transaction
    }

    /// Whether it is a request of this method.
    pub fn is(&self, method: &str) -> bool {
        self.method_or_status == method
    }

    /// The status of a response; 0 in a request.
    pub fn status(&self) -> u16 {
        self.method_or_status.parse().unwrap_or(0)
    }

    /// The value of a header, or nothing as text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(own, _)| own == name)
            .map_or("", |(_, value)| value)
    }

    /// The body; `None` in a bodiless frame.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// `$`, `+` or `#`.
    pub fn flag(&self) -> char {
        self.flag
    }

    /// The first octet of this chunk, counted from 0.
    pub fn offset(&self) -> usize {
        self.header("Byte-Range")
            .split('-')
            .next()
            .and_then(|start| start.parse::<usize>().ok())
            .map_or(0, |start| start.saturating_sub(1))
    }

    /// The total in Byte-Range, if it says one.
    pub fn total(&self) -> Option<usize> {
        let (_, total) = self.header("Byte-Range").rsplit_once('/')?;
        total.parse().ok()
    }
}

/// Where the end-line begins and its flag. What only looks like one is data.
fn find_end(stream: &[u8], from: usize, end_line: &[u8]) -> Option<(usize, char)> {
    let mut from = from;
    loop {
        let at = from + find(stream.get(from..)?, end_line)?;
        let tail = stream.get(at + end_line.len()..at + end_line.len() + 3)?;
        if let [flag @ (b'$' | b'+' | b'#'), b'\r', b'\n'] = tail {
            return Some((at, char::from(*flag)));
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_at_its_own_end_line_only() {
        let mut stream = b"MSRP abcd SEND\r\nTo-Path: x\r\nByte-Range: 3-9/20\r\n\
            Content-Type: text/plain\r\n\r\na\r\n-------abcde$\r\n\r\n-------abcd+\r\nMSRP"
            .to_vec();
        let frame = MsrpText::take(&mut stream).unwrap().unwrap();
        assert_eq!(frame.body(), Some(&b"a\r\n-------abcde$\r\n"[..]));
        assert_eq!(
            (frame.flag(), frame.offset(), frame.total()),
            ('+', 2, Some(20))
        );
        assert_eq!(stream, b"MSRP");
        assert!(MsrpText::take(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_bodiless_frame_and_an_empty_body_differ() {
        let mut stream = b"MSRP abcd SEND\r\nTo-Path: x\r\n-------abcd$\r\n\
            MSRP abce SEND\r\nContent-Type: a/b\r\n\r\n\r\n-------abce$\r\n"
            .to_vec();
        assert_eq!(MsrpText::take(&mut stream).unwrap().unwrap().body(), None);
        let empty = MsrpText::take(&mut stream).unwrap().unwrap();
        assert_eq!(empty.body(), Some(&b""[..]));
    }
}
