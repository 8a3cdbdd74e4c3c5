//! The value of an Authorization or Proxy-Authorization header field (RFC 7616 §3.4).

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::sip::rejection::Rejection;

/// The hash functions of a challenge (RFC 8760 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// `MD5`, also where none is named.
    Md5,
    /// `SHA-256`
    Sha256,
}

/// What a client sends to prove who it is. `qop` is `auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials<'a> {
    pub username: Cow<'a, str>,
    pub realm: Cow<'a, str>,
    pub nonce: Cow<'a, str>,
    pub uri: Cow<'a, str>,
    pub response: Cow<'a, str>,
    pub algorithm: Algorithm,
    pub cnonce: Cow<'a, str>,
    /// Eight hex digits as written: they are part of what is hashed.
    pub count_text: Cow<'a, str>,
    pub count: u32,
}

/// The parameters of a `Digest` value; `None` for another scheme.
pub(super) fn parameters(value: &str) -> Option<Result<DigestParameters<'_>, Rejection>> {
    let (scheme, rest) = value.trim_start().split_once([' ', '\t'])?;
    scheme
        .eq_ignore_ascii_case("Digest")
        .then(|| DigestParameters::read(rest))
}

/// Names and unquoted values, each name once.
#[derive(Clone, Debug)]
pub(super) struct DigestParameters<'a>(Vec<(&'a str, Cow<'a, str>)>);

const MALFORMED: Rejection = Rejection::new(400, "Malformed Credentials");
/// More than RFC 7616 knows, and few enough to search.
const MOST_PARAMETERS: usize = 24;

impl<'a> DigestParameters<'a> {
    fn read(mut rest: &'a str) -> Result<Self, Rejection> {
        let mut list = Self(Vec::with_capacity(12));
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Ok(list);
            }
            let at = memchr(b'=', rest.as_bytes()).ok_or(MALFORMED)?;
            let (name, tail) = (&rest[..at], &rest[at + 1..]);
            let name = name.trim_end();
            let (value, tail) = read_value(tail.trim_start()).ok_or(MALFORMED)?;
            let legal = !name.is_empty() && !name.bytes().any(is_no_name);
            if !legal || list.find(name).is_some() || list.0.len() == MOST_PARAMETERS {
                return Err(MALFORMED);
            }
            list.0.push((name, value));
            rest = tail;
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Cow<'a, str>> {
        let named = |parameter: &&(&str, _)| parameter.0.eq_ignore_ascii_case(name);
        self.0.iter().find(named).map(|(_, value)| value)
    }

    /// All that the check needs, or what is missing or not offered.
    pub(super) fn credentials(&self) -> Result<Credentials<'a>, Rejection> {
        let needed = |name| self.find(name).cloned().ok_or(MALFORMED);
        if self.find("username*").is_some() || self.is("userhash", "true") {
            return Err(Rejection::new(400, "Unsupported Form of User Name"));
        }
        if !self.is("qop", "auth") {
            return Err(Rejection::new(400, "Credentials Need qop=auth"));
        }
        let algorithm = match self.find("algorithm").map(|name| name.to_ascii_uppercase()) {
            None => Algorithm::Md5,
            Some(name) if name == "MD5" => Algorithm::Md5,
            Some(name) if name == "SHA-256" => Algorithm::Sha256,
            Some(_) => return Err(Rejection::new(400, "Unsupported Digest Algorithm")),
        };
        let count_text = needed("nc")?;
        Ok(Credentials {
            username: needed("username")?,
            realm: needed("realm")?,
            nonce: needed("nonce")?,
            uri: needed("uri")?,
            response: needed("response")?,
            algorithm,
            cnonce: needed("cnonce")?,
            count: parse_count(&count_text).ok_or(MALFORMED)?,
            count_text,
        })
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.find(name)
            .is_some_and(|own| own.eq_ignore_ascii_case(value))
    }
}

fn is_no_name(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b',' | b'"')
}

/// A token or a quoted string, and what follows. Some clients quote what RFC 7616 §3.4 says must
/// not be quoted, and the other way round; both are read.
fn read_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return (!token.is_empty() && !token.contains('"')).then_some((Cow::Borrowed(token), rest));
    };
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', quoted.as_bytes().get(at..)?)?;
        match quoted.as_bytes()[at] {
            // What stands behind it is not looked at.
            b'\\' => at += 2,
            _ => return Some((without_escapes(&quoted[..at]), &quoted[at + 1..])),
        }
    }
}

fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.extend(match character {
            '\\' => characters.next(),
            other => Some(other),
        });
    }
    Cow::Owned(out)
}

/// Exactly eight hex digits (RFC 7616 §3.5), counting from 1.
fn parse_count(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let count = u32::from_str_radix(text, 16).ok()?;
    (digits && count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &str) -> Result<Credentials<'_>, Rejection> {
        parameters(value).expect("Digest")?.credentials()
    }

    const GOOD: &str = "Digest username=\"bob\", realm=\"im.test\", nonce=\"n\", uri=\"sip:im.test\", \
                        response=\"r\", algorithm=SHA-256, qop=auth, nc=0000000a, cnonce=\"c\"";

    #[test]
    fn parameters_come_in_any_order_quoted_or_not() {
        let credentials = read(GOOD).unwrap();
        assert_eq!(credentials.algorithm, Algorithm::Sha256);
        assert_eq!(credentials.count, 10);
        let other = "dIGEST  cnonce=c ,nc=\"0000000a\",qop=\"auth\", algorithm=\"sha-256\",\
                     response=r,uri=\"sip:im.test\" , nonce = n,realm=\"im.test\",USERNAME=\"bob\",";
        assert_eq!(read(other).unwrap(), credentials);
    }

    #[test]
    fn a_quoted_value_may_hold_commas_and_escapes() {
        let value = GOOD.replace("\"bob\"", "\"b\\\"o, b\\\\\"");
        assert_eq!(read(&value).unwrap().username, "b\"o, b\\");
    }

    #[test]
    fn without_an_algorithm_it_is_md5() {
        let value = GOOD.replace(", algorithm=SHA-256", "");
        assert_eq!(read(&value).unwrap().algorithm, Algorithm::Md5);
    }

    #[test]
    fn what_is_missing_doubled_or_not_offered_is_refused() {
        for (from, to) in [
            ("username=\"bob\", ", ""),
            ("cnonce=\"c\"", "cnonce=\"c"),
            ("nc=0000000a", "nc=a"),
            ("nc=0000000a", "nc=00000000"),
            ("nc=0000000a", "nc=+000000a"),
            ("qop=auth,", ""),
            ("qop=auth", "qop=auth-int"),
            ("SHA-256", "SHA-256-sess"),
            ("realm", "username"),
            ("qop=auth", "qop=auth, userhash=true"),
            ("username=", "username*="),
            ("qop=auth", "qop"),
        ] {
            let value = GOOD.replace(from, to);
            assert_eq!(read(&value).unwrap_err().status, 400, "{value}");
        }
        assert!(parameters("Basic Zm9v").is_none());
        assert!(parameters("Digest").is_none());
    }

    proptest! {
        #[test]
        fn no_value_makes_the_parser_panic(value in "Digest [a-z=\", \\\\\\PC]{0,60}") {
            if let Some(Ok(parameters)) = parameters(&value) {
                let _ = parameters.credentials();
            }
        }
    }
}
