//! The client's side of Digest (RFC 7616 §3.4, RFC 8760), computed apart from the server's.

use md5::Md5;
use sha2::{Digest, Sha256};

use super::sip_text::SipText;

/// What an Authorization answers to.
pub(super) struct Question<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
}

/// The name and value of the header that answers the first challenge of `response` this side can
/// answer; the server puts its best first (RFC 8760 §2.4).
pub(super) fn answer(
    response: &SipText,
    question: &Question<'_>,
) -> Option<(&'static str, String)> {
    let (asks, answers) = match response.status() {
        401 => ("WWW-Authenticate", "Authorization"),
        407 => ("Proxy-Authenticate", "Proxy-Authorization"),
        _ => return None,
    };
    response
        .headers(asks)
        .find_map(|challenge| answer_one(challenge, question))
        .map(|value| (answers, value))
}

fn answer_one(challenge: &str, question: &Question<'_>) -> Option<String> {
    let challenge = challenge.strip_prefix("Digest ")?;
    let realm = field(challenge, "realm")?;
    let nonce = field(challenge, "nonce")?;
    let algorithm = field(challenge, "algorithm").unwrap_or("MD5");
    let hash: fn(String) -> String = match algorithm.to_ascii_uppercase().as_str() {
        "MD5" => |text| hex(&Md5::digest(text)),
        "SHA-256" => |text| hex(&Sha256::digest(text)),
        _ => return None,
    };
    let Question {
        user,
        password,
        method,
        uri,
    } = question;
    let ha1 = hash(format!("{user}:{realm}:{password}"));
    let ha2 = hash(format!("{method}:{uri}"));
    let cnonce = format!("{:016x}", rand::random::<u64>());
    let response = hash(format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}"));
    let opaque = field(challenge, "opaque")
        .map(|opaque| format!(", opaque=\"{opaque}\""))
        .unwrap_or_default();
    Some(format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\", algorithm={algorithm}, cnonce=\"{cnonce}\", qop=auth, \
         nc=00000001{opaque}"
    ))
}

fn field<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = challenge;
    while let Some((own, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if own.trim_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value.trim());
        }
        rest = next;
    }
    None
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_quoted_commas() {
        let challenge = "realm=\"a, b\", nonce=\"x=y\", algorithm=SHA-256, qop=\"auth,auth-int\"";
        assert_eq!(field(challenge, "realm"), Some("a, b"));
        assert_eq!(field(challenge, "nonce"), Some("x=y"));
        assert_eq!(field(challenge, "algorithm"), Some("SHA-256"));
        assert_eq!(field(challenge, "opaque"), None);
    }

    #[test]
    fn an_answer_names_the_algorithm_it_was_asked_for() {
        let response = SipText::read(
            b"SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", \
              algorithm=SHA-512-256, qop=\"auth\"\r\nWWW-Authenticate: Digest realm=\"r\", \
              nonce=\"n\", algorithm=MD5, qop=\"auth\"\r\n\r\n",
        )
        .unwrap();
        let question = Question {
            user: "alice",
            password: "secret",
            method: "REGISTER",
            uri: "sip:im.test",
        };
        let (name, value) = answer(&response, &question).unwrap();
        assert_eq!(name, "Authorization");
        assert!(value.contains("algorithm=MD5"));
    }
}
