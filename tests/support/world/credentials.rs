//! The client's side of Digest (RFC 7616), for devices of users with passwords.

use md5::{Digest, Md5};
use restante::demo::SipText;

/// The header field that answers the MD5 challenge of a response; the client's nonce is a count.
pub fn answer(
    response: &SipText,
    request: &SipText,
    (user, password): (&str, &str),
    count: u32,
) -> Option<String> {
    let (asks, answers) = match response.status() {
        401 => ("WWW-Authenticate", "Authorization"),
        _ => ("Proxy-Authenticate", "Proxy-Authorization"),
    };
    let mut challenges = response.headers(asks);
    let challenge = challenges.find(|challenge| challenge.contains("MD5"))?;
    let (realm, nonce) = (quoted(challenge, "realm")?, quoted(challenge, "nonce")?);
    let (method, uri) = (request.method()?, request.request_uri());
    let secret = hash(&format!("{user}:{realm}:{password}"));
    let what = hash(&format!("{method}:{uri}"));
    let proof = hash(&format!(
        "{secret}:{nonce}:00000001:{count:08x}:auth:{what}"
    ));
    Some(format!(
        "{answers}: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{proof}\", algorithm=MD5, cnonce=\"{count:08x}\", qop=auth, nc=00000001\r\n"
    ))
}

/// A request as it is sent once more: the next CSeq, a branch of its own, and these credentials.
pub fn request_again(request: &[u8], old_branch: &str, branch: &str, line: &str) -> Vec<u8> {
    let end = memchr::memmem::find(request, b"\r\n\r\n").expect("we wrote it") + 2;
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let head = head.replacen(old_branch, branch, 1);
    let mut again = String::with_capacity(head.len() + line.len());
    for field in head.split_inclusive("\r\n") {
        match field
            .strip_prefix("CSeq: ")
            .and_then(|value| value.split_once(' '))
        {
            Some((number, method)) => {
                let number: u32 = number.parse().expect("we wrote it");
                again.push_str(&format!("CSeq: {} {method}", number + 1));
            }
            None => again.push_str(field),
        }
    }
    again.push_str(line);
    [again.as_bytes(), &request[end..]].concat()
}

fn quoted<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

fn hash(text: &str) -> String {
    let digest = Md5::digest(text);
    digest.iter().map(|octet| format!("{octet:02x}")).collect()
}
