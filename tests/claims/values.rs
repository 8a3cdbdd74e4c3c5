//! The values of header fields.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use restante::clock::{Now, UnixMillis};
use restante::identity::Identity;
use restante::limits::logins::{self, Logins};
use restante::registrar::{FeatureSet, Preferences, RequestDisposition};
use restante::sip::digest::{Algorithms, Challenger, Digest, DigestSettings, Hashes, Verdict};
use restante::sip::header::{CSeq, NameAddr, Parameters, Via, split_list};
use restante::sip::message::Message;
use restante::sip::{target, wire};
use restante::uri::{Uri, equivalent, tel_digits, unescape};

fn text(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    text.chars().filter(|c| !c.is_control()).collect()
}

fn within(part: &str, whole: &str) {
    assert!(whole.contains(part), "{part:?} is no part of {whole:?}");
}

/// What a view of a value gives is part of the value.
pub fn field_values_are_read_soundly(octets: &[u8]) {
    let value = text(octets);
    for item in split_list(&value) {
        within(item, &value);
        assert_eq!(item.trim(), item);
    }
    if let Ok(via) = Via::parse(&value) {
        within(via.host, &value);
        assert!(!via.host.is_empty());
        if let Some(branch) = via.branch {
            within(branch, &value);
        }
        parameters(via.parameters(), &value);
    }
    if let Ok(address) = NameAddr::parse(&value) {
        within(address.uri, &value);
        parameters(address.parameters, &value);
        if let Some(tag) = address.tag() {
            within(tag, &value);
        }
        let asked = target::as_request_uri(address.uri);
        // What is asked for is read again by others: it has no header fields then either.
        assert!(!Uri::parse(&asked).is_ok_and(|uri| uri.headers().is_some()));
    }
    if let Ok(cseq) = CSeq::parse(&value) {
        within(cseq.method, &value);
        assert!(cseq.number < 1 << 31);
    }
    let _ = target::is_loose_route(&value);
    parameters(Parameters::new(&value), &value);
}

fn parameters(parameters: Parameters<'_>, whole: &str) {
    let _ = parameters.are_sound();
    for (name, value) in parameters.iter().take(40) {
        within(name, whole);
        if let Some(value) = value {
            within(value, whole);
        }
        assert!(parameters.find(name).is_some());
    }
    for written in parameters.written() {
        within(written, whole);
    }
    let _ = FeatureSet::of(&parameters).is_empty();
}

/// Equivalence of URIs is symmetric, and a URI is equivalent to itself; its parts lie inside it. The two
/// URIs are separated by a line end.
pub fn uris_are_compared_alike(octets: &[u8]) {
    let whole = String::from_utf8_lossy(octets);
    let (first, second) = whole.split_once('\n').unwrap_or((&whole, ""));
    let unescaped = unescape(first);
    assert!(unescaped.len() <= first.len() * 3);
    assert!(tel_digits(first).len() <= first.len());
    let (Ok(a), b) = (Uri::parse(first), Uri::parse(second)) else {
        return;
    };
    assert_eq!(a.as_str(), first);
    within(a.host(), first);
    if let Some(user) = a.user() {
        within(user, first);
    }
    assert!(equivalent(&a, &a), "{first:?} differs from itself");
    let Ok(b) = b else { return };
    assert_eq!(
        equivalent(&a, &b),
        equivalent(&b, &a),
        "{first:?} {second:?}"
    );
}

fn digest() -> &'static (Digest, Hashes) {
    static DIGEST: OnceLock<(Digest, Hashes)> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let settings = DigestSettings {
            realm: "im.test".to_owned(),
            key: [7; 32],
            lifetime: Duration::from_secs(600),
            algorithms: Algorithms {
                md5: true,
                sha256: true,
            },
            hosts: vec!["im.test".to_owned()],
            started_at: UnixMillis(1_700_000_000_000),
            logins: Arc::new(Logins::new(logins::Settings {
                failures: 0,
                failures_per_user: 0,
                lockout: Duration::ZERO,
                most: 1,
            })),
        };
        let hashes = Hashes::of_password("alice", "im.test", "no fuzzer guesses this: 7Qe1xP");
        (Digest::new(settings), hashes)
    })
}

/// A whole request around a value.
fn request_with(name: &str, value: &str) -> Option<Message> {
    let text = format!(
        "REGISTER sip:im.test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@im.test>;tag=1\r\nTo: <sip:alice@im.test>\r\nCall-ID: c\r\n\
         CSeq: 1 REGISTER\r\n{name}: {value}\r\nContent-Length: 0\r\n\r\n"
    );
    wire::parse(Bytes::from(text)).ok()
}

/// Who does not know the password is challenged or refused, whatever the credentials say.
pub fn credentials_cannot_be_made_up(octets: &[u8]) {
    let Some(request) = request_with("Authorization", &text(octets)) else {
        return;
    };
    let (digest, hashes) = digest();
    let alice = || Identity::new("alice", "im.test");
    let verdict = digest.check(
        &request,
        IpAddr::from([192, 0, 2, 1]),
        Challenger::Server,
        |name| (name == "alice").then(|| (alice(), hashes)),
        Now {
            wall: UnixMillis(1_700_000_100_000),
            ..Now::default()
        },
    );
    match verdict {
        Verdict::Accepted { identity, .. } => panic!("{identity} was believed"),
        Verdict::Malformed(rejection) => assert_eq!(rejection.status, 400),
        Verdict::Challenge { .. } | Verdict::Failed(_) => {}
        Verdict::Locked(_) => panic!("nobody is locked out here"),
    }
}

/// The targets are some of the contacts, each once, best first. Lines are Accept-Contact values, the
/// last ones contacts.
pub fn preferences_choose_among_the_contacts(octets: &[u8]) {
    let whole = String::from_utf8_lossy(octets);
    let lines: Vec<String> = whole
        .lines()
        .take(6)
        .map(|line| text(line.as_bytes()))
        .collect();
    let contacts: Vec<(FeatureSet, u16)> = lines
        .iter()
        .zip([0, 500, 1000, 1000, 300, 700])
        .map(|(line, q)| (FeatureSet::of(&Parameters::new(line)), q))
        .collect();
    for name in ["Accept-Contact", "Reject-Contact", "Request-Disposition"] {
        for line in &lines {
            let Some(request) = request_with(name, line) else {
                continue;
            };
            let _ = RequestDisposition::of(&request);
            let Ok(preferences) = Preferences::of(&request) else {
                continue;
            };
            let given = contacts.iter().map(|(features, q)| (features, *q));
            let Ok(targets) = preferences.order(given) else {
                continue;
            };
            let mut seen: Vec<usize> = targets.iter().map(|target| target.index).collect();
            assert!(
                targets
                    .iter()
                    .all(|target| (0.0..=1.0).contains(&target.score))
            );
            assert!(targets.windows(2).all(|pair| pair[0].q >= pair[1].q));
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), targets.len());
            assert!(seen.iter().all(|index| *index < contacts.len()));
        }
    }
}
