//! Multipart bodies (RFC 2046 §5.1) as far as SIP needs them: an INVITE that carries its SDP together
//! with a first message, and aggregated notifications. Bounded, read-only, and never recursive.

use std::ops::Range;

use memchr::memmem;

/// Most parts of one body.
pub const MAX_PARTS: usize = 64;
/// Most octets of the header section of one part.
const MAX_HEAD: usize = 8 * 1024;

/// Why a body was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// Not `multipart/...` with a usable boundary (RFC 2046 §5.1.1: 1 to 70 characters).
    #[error("no multipart content type with a boundary")]
    NoBoundary,
    /// The closing delimiter is missing.
    #[error("not closed")]
    NotClosed,
    /// More than [`MAX_PARTS`] parts.
    #[error("too many parts")]
    TooMany,
    /// The header section of a part is malformed or over its bound.
    #[error("malformed part")]
    BadPart,
}

/// One part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// MIME header fields in order: name and value, folding undone.
    pub headers: Vec<(String, String)>,
    /// Where its content lies in the body.
    pub body: Range<usize>,
}

impl Part {
    /// The first value of a MIME header field, by any case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Content-Type without parameters, in lower case; `text/plain` if missing (RFC 2045 §5.2).
    pub fn media_type(&self) -> String {
        media_type(self.header("Content-Type").unwrap_or("text/plain"))
    }
}

/// The type and subtype of a Content-Type value, in lower case.
pub fn media_type(content_type: &str) -> String {
    let end = content_type.find(';').unwrap_or(content_type.len());
    let media = content_type.get(..end).unwrap_or_default();
    media.trim().to_ascii_lowercase()
}

/// Whether a Content-Type value names this media type, whatever its parameters.
pub fn is_type(content_type: &str, wanted: &str) -> bool {
    let end = memchr::memchr(b';', content_type.as_bytes()).unwrap_or(content_type.len());
    let essence = content_type[..end].trim_ascii();
    essence.len() == wanted.len() && essence.eq_ignore_ascii_case(wanted)
}

/// A parameter of a Content-Type value, unquoted.
pub fn parameter(content_type: &str, name: &str) -> Option<String> {
    let mut rest = content_type.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (value, next) = after.split_at(end);
                (value.trim_end().to_owned(), next)
            }
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = next.split_once(';')?.1;
    }
}

/// The text up to the closing quote, escapes undone, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// Cuts a multipart body into its parts. Line ends may be LF alone; preamble and epilogue are skipped.
pub fn parts(content_type: &str, body: &[u8]) -> Result<Vec<Part>, MultipartError> {
    if !media_type(content_type).starts_with("multipart/") {
        return Err(MultipartError::NoBoundary);
    }
    let boundary = parameter(content_type, "boundary")
        .filter(|b| (1..=70).contains(&b.len()) && b.is_ascii())
        .ok_or(MultipartError::NoBoundary)?;
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut open: Option<usize> = None;
    for found in memmem::find_iter(body, delimiter.as_bytes()) {
        let Some(line) = Delimiter::at(body, found, delimiter.len()) else {
            continue;
        };
        if let Some(start) = open {
            if parts.len() == MAX_PARTS {
                return Err(MultipartError::TooMany);
            }
            parts.push(part(body, start..line.start.max(start))?);
        }
        if line.closes {
            return Ok(parts);
        }
        open = Some(line.end);
    }
    Err(MultipartError::NotClosed)
}

/// A delimiter line, with the line end before it, which belongs to it (RFC 2046 §5.1.1).
struct Delimiter {
    start: usize,
    end: usize,
    closes: bool,
}

impl Delimiter {
    /// The delimiter line that begins at `at`, if it stands alone on its line.
    fn at(body: &[u8], at: usize, length: usize) -> Option<Self> {
        let before = body.get(..at)?;
        let start = match before {
            [] => 0,
            [.., b'\r', b'\n'] => at - 2,
            [.., b'\n'] => at - 1,
            _ => return None,
        };
        let after = body.get(at + length..)?;
        let closes = after.starts_with(b"--");
        let after = if closes { after.get(2..)? } else { after };
        let blanks = after
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
        let line_end = match after.get(blanks..)? {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            [] if closes => 0,
            _ => return None,
        };
        let end = body.len() - after.len() + blanks + line_end;
        Some(Self { start, end, closes })
    }
}

fn part(body: &[u8], range: Range<usize>) -> Result<Part, MultipartError> {
    let octets = body.get(range.clone()).ok_or(MultipartError::BadPart)?;
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut at = 0;
    while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty()) {
        let feed = memchr::memchr(b'\n', rest).map(|feed| feed + 1);
        let line = rest.get(..feed.unwrap_or(rest.len())).unwrap_or_default();
        at += line.len();
        if at > MAX_HEAD {
            return Err(MultipartError::BadPart);
        }
        let line = std::str::from_utf8(line).map_err(|_| MultipartError::BadPart)?;
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            let (_, value) = headers.last_mut().ok_or(MultipartError::BadPart)?;
            value.push(' ');
            value.push_str(line.trim());
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(MultipartError::BadPart)?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(Part {
        headers,
        body: range.start + at..range.end,
    })
}

/// A part to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewPart<'a> {
    /// MIME header fields: name and value; control characters are left out.
    pub headers: &'a [(&'a str, &'a str)],
    /// Its content.
    pub content: &'a [u8],
}

/// Writes a multipart body. `boundary` must not occur in any content: a fresh token will do.
pub fn write(boundary: &str, parts: &[NewPart<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        for (name, value) in part.headers {
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(part.content);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_invite_with_sdp_and_a_first_message_is_cut_in_two() {
        let body =
            b"preamble\r\n--bound\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n--bound\r\n\
            content-type: Message/CPIM;\r\n x=1\r\n\r\nFrom: <sip:a@b>\r\n--bound--\r\nepilogue";
        let parts = parts("multipart/mixed; boundary=\"bound\"", body).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].media_type(), "application/sdp");
        assert_eq!(&body[parts[0].body.clone()], b"v=0\r\n");
        assert_eq!(parts[1].media_type(), "message/cpim");
        assert_eq!(parts[1].header("Content-Type"), Some("Message/CPIM; x=1"));
        assert_eq!(&body[parts[1].body.clone()], b"From: <sip:a@b>");
    }

    #[test]
    fn line_feeds_alone_and_an_empty_part_are_tolerated() {
        let body = b"--b\n\n--b\nA: 1\n\nx\n--b--";
        let parts = parts("multipart/mixed;boundary=b", body).unwrap();
        assert!(parts[0].body.is_empty());
        assert_eq!(&body[parts[1].body.clone()], b"x");
    }

    #[test]
    fn a_boundary_inside_a_line_is_content() {
        let body = b"--b\r\n\r\na --b\r\n--bc\r\n--b--\r\n";
        let parts = parts("multipart/mixed; boundary=b", body).unwrap();
        assert_eq!(&body[parts[0].body.clone()], b"a --b\r\n--bc");
    }

    #[test]
    fn bodies_that_cannot_be_cut_are_refused_by_kind() {
        assert_eq!(parts("text/plain", b""), Err(MultipartError::NoBoundary));
        let mixed = "multipart/mixed; boundary=b";
        assert_eq!(
            parts("multipart/mixed", b"--b--"),
            Err(MultipartError::NoBoundary)
        );
        assert_eq!(
            parts(mixed, b"--b\r\n\r\nx"),
            Err(MultipartError::NotClosed)
        );
        assert_eq!(
            parts(mixed, b"--b\r\nno header\r\n\r\nx\r\n--b--"),
            Err(MultipartError::BadPart)
        );
        let many = b"--b\r\n\r\nx\r\n".repeat(MAX_PARTS + 2);
        assert_eq!(parts(mixed, &many), Err(MultipartError::TooMany));
    }

    #[test]
    fn parameters_are_found_quoted_and_bare() {
        let value = "multipart/mixed; a=\"x;\\\"boundary=no\"; Boundary = yes ;c=d";
        assert_eq!(parameter(value, "boundary").as_deref(), Some("yes"));
        assert_eq!(parameter(value, "a").as_deref(), Some("x;\"boundary=no"));
        assert_eq!(parameter(value, "q"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(contents in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..60), 1..5)) {
            let headers: &[(&str, &str)] = &[("Content-Type", "x/y")];
            let written: Vec<_> = contents.iter().map(|content| NewPart { headers, content }).collect();
            let body = write("Zk3fresh9token", &written);
            let read = parts("multipart/mixed; boundary=Zk3fresh9token", &body).unwrap();
            prop_assert_eq!(read.len(), contents.len());
            for (part, content) in read.iter().zip(&contents) {
                prop_assert_eq!(&body[part.body.clone()], content.as_slice());
            }
        }

        #[test]
        fn cutting_never_panics(body in "(--b|\r\n|\n|-|a: b|x| ){0,30}") {
            let _ = parts("multipart/mixed; boundary=b", body.as_bytes());
        }

        #[test]
        fn content_types_never_panic(text in "\\PC{0,60}") {
            let _ = parameter(&text, "boundary");
            let _ = media_type(&text);
        }
    }
}
