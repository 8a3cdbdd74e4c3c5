//! Challenges and their check.

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::clock::{Now, UnixMillis};
use crate::identity::Identity;
use crate::limits::logins::{Lockout, Logins, SourceTag};
use crate::limits::source::Source;
use crate::sip::digest::credentials::{Algorithm, Credentials, parameters};
use crate::sip::digest::nonce::{
    NonceId, NonceMaker, UsedCounts, constant_time_eq, from_hex, to_hex,
};
use crate::sip::message::{HeaderName, Message};
use crate::sip::rejection::Rejection;
use crate::token::Tokens;
use crate::uri::{Uri, equivalent, unescape};

/// Nonces whose used counts are remembered at once.
const MOST_NONCES: usize = 1 << 16;

/// Which algorithms are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithms {
    /// MD5.
    pub md5: bool,
    /// SHA-256.
    pub sha256: bool,
}

/// How many credentials of one request are looked at: each costs a hash, and who has passed eight servers that asked
/// for some has none left for this one.
pub const MOST_CREDENTIALS: usize = 8;

/// As what the server asks for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenger {
    /// As a user agent server, of requests addressed to itself such as REGISTER (RFC 3261 §22.2).
    Server,
    /// As a proxy, of requests for somebody else (RFC 3261 §22.3).
    Proxy,
}

impl Challenger {
    /// Status and reason phrase of the challenge.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Server => (401, "Unauthorized"),
            Self::Proxy => (407, "Proxy Authentication Required"),
        }
    }

    /// The header field the challenges stand in, a line each.
    pub const fn challenge_header(self) -> &'static str {
        match self {
            Self::Server => "WWW-Authenticate",
            Self::Proxy => "Proxy-Authenticate",
        }
    }

    /// The header field the credentials come in.
    pub const fn credentials_header(self) -> HeaderName {
        match self {
            Self::Server => HeaderName::Authorization,
            Self::Proxy => HeaderName::ProxyAuthorization,
        }
    }
}

/// H(A1) of one user name (RFC 7616 §3.4.2), in lower-case hex, by algorithm.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hashes {
    /// By MD5.
    pub md5: Option<Box<str>>,
    /// By SHA-256.
    pub sha256: Option<Box<str>>,
}

impl Hashes {
    /// Both hashes of a password.
    pub fn of_password(username: &str, realm: &str, password: &str) -> Self {
        let a1 = [username, realm, password];
        Self {
            md5: Some(Algorithm::Md5.hash(&a1).into()),
            sha256: Some(Algorithm::Sha256.hash(&a1).into()),
        }
    }

    fn by(&self, algorithm: Algorithm) -> Option<&str> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_deref(),
            Algorithm::Sha256 => self.sha256.as_deref(),
        }
    }
}

impl fmt::Debug for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// The hash of the parts joined by colons, in lower-case hex.
    fn hash(self, parts: &[&str]) -> String {
        match self {
            Self::Md5 => to_hex(&hash_joined::<Md5>(parts).finalize()),
            Self::Sha256 => to_hex(&hash_joined::<Sha256>(parts).finalize()),
        }
    }

    /// Whether a response in hex is the hash of these parts.
    fn is_hash(self, response: &str, parts: &[&str]) -> bool {
        match self {
            Self::Md5 => {
                let expected = hash_joined::<Md5>(parts).finalize();
                from_hex::<16>(response).is_some_and(|it| constant_time_eq(&it, &expected))
            }
            Self::Sha256 => {
                let expected = hash_joined::<Sha256>(parts).finalize();
                from_hex::<32>(response).is_some_and(|it| constant_time_eq(&it, &expected))
            }
        }
    }
}

fn hash_joined<D: sha2::Digest>(parts: &[&str]) -> D {
    let mut hasher = D::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hasher.update(b":");
        }
        hasher.update(part.as_bytes());
    }
    hasher
}

/// What came of checking a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes from this user.
    Accepted {
        /// Who.
        identity: Identity,
        /// The nonce was given to the address that the answer came from. A datagram can name any address, but
        /// who is not there does not get the nonce.
        is_from_here: bool,
    },
    /// Ask (again) with fresh challenges; `stale` where only the nonce was wrong.
    Challenge {
        /// Tells the client to try again without asking its user (RFC 7616 §3.3).
        stale: bool,
    },
    /// The answer to a challenge of ours is wrong; to be challenged as ever.
    Failed(Option<Lockout>),
    /// Whoever got the challenge is locked out for so long (RFC 3261 §21.4.4 tells him not to repeat it).
    Locked(Duration),
    /// The credentials break the rules.
    Malformed(Rejection),
}

/// What a [`Digest`] is made from.
#[derive(Clone, Debug)]
pub struct DigestSettings {
    /// The protection space, without quotes and backslashes.
    pub realm: String,
    /// Keys the MAC of the nonces; kept over restarts, so that an old nonce is known as stale.
    pub key: [u8; 32],
    /// How long a nonce can be used.
    pub lifetime: Duration,
    /// What is offered.
    pub algorithms: Algorithms,
    /// Host names and addresses that mean this server in a digest-uri, IPv6 without brackets.
    pub hosts: Vec<String>,
    /// When the process started: older nonces are stale.
    pub started_at: UnixMillis,
    /// Who guesses.
    pub logins: Arc<Logins>,
}

/// Challenges and checks; shared by all shards.
pub struct Digest {
    realm: String,
    algorithms: Algorithms,
    hosts: Vec<String>,
    nonces: NonceMaker,
    used: UsedCounts,
    logins: Arc<Logins>,
    tags: foldhash::quality::FixedState,
    /// Stands in for an unknown user, so that the work is the same.
    nobody: Hashes,
}

impl Digest {
    /// Starts with an empty table of used nonces.
    pub fn new(settings: DigestSettings) -> Self {
        let nobody = to_hex(&settings.key);
        Self {
            nonces: NonceMaker::new(&settings.key, settings.lifetime, settings.started_at),
            used: UsedCounts::new(MOST_NONCES, settings.lifetime),
            logins: settings.logins,
            tags: foldhash::quality::FixedState::with_seed(
                (settings.key.first_chunk()).map_or(0, |seed| u64::from_be_bytes(*seed)),
            ),
            nobody: Hashes::of_password("", &settings.realm, &nobody),
            realm: settings.realm,
            algorithms: settings.algorithms,
            hosts: settings.hosts,
        }
    }

    /// The values of the challenge header fields, the preferred algorithm first (RFC 8760 §2.3).
    /// They are for whoever sent from `address`.
    pub fn challenges(
        &self,
        stale: bool,
        address: IpAddr,
        now: UnixMillis,
        tokens: &mut Tokens,
    ) -> Vec<String> {
        let nonce = self.nonces.make(self.tag(address), now, tokens);
        let offered = [
            (Algorithm::Sha256, self.algorithms.sha256),
            (Algorithm::Md5, self.algorithms.md5),
        ];
        let write = |algorithm: Algorithm| {
            let (realm, name) = (&self.realm, algorithm.name());
            let stale = if stale { ", stale=true" } else { "" };
            format!(
                "Digest realm=\"{realm}\", nonce=\"{nonce}\", qop=\"auth\", algorithm={name}{stale}"
            )
        };
        let offered = offered.into_iter().filter(|(_, offered)| *offered);
        offered.map(|(algorithm, _)| write(algorithm)).collect()
    }

    fn tag(&self, address: IpAddr) -> SourceTag {
        SourceTag(self.tags.hash_one(Source::of(address)) as u32)
    }

    /// Whether credentials answer a challenge that was given to whoever sends from `address`. Whether the answer
    /// is right is not looked at.
    pub fn is_answer(&self, credentials: &str, address: IpAddr, now: UnixMillis) -> bool {
        let Some(Ok(parameters)) = parameters(credentials) else {
            return false;
        };
        let nonce = parameters.find("nonce");
        nonce.is_some_and(|nonce| self.nonces.is_for(nonce, self.tag(address), now))
    }

    /// Checks the credentials in `request`, which came from `address`. `lookup` gives the user and the
    /// hashes of a user name.
    ///
    /// Accepting uses the nonce-count up: call it once for a transaction, and never for ACK or
    /// CANCEL, which cannot be challenged (RFC 3261 §22.1).
    pub fn check<'d>(
        &self,
        request: &Message,
        address: IpAddr,
        challenger: Challenger,
        lookup: impl FnOnce(&str) -> Option<(Identity, &'d Hashes)>,
        now: Now,
    ) -> Verdict {
        let credentials = match self.find(request, challenger.credentials_header()) {
            Ok(Some(credentials)) => credentials,
            Ok(None) => return Verdict::Challenge { stale: false },
            Err(rejection) => return Verdict::Malformed(rejection),
        };
        if !self.is_same_resource(&credentials.uri, request.request_uri()) {
            return Verdict::Malformed(Rejection::new(400, "Digest URI Mismatch"));
        }
        // RFC 7616 §3.3: stale says only that the nonce was. Whether the answer to it was right is not
        // told, or passwords could be guessed with nonces that nobody gave out.
        let Some(nonce) = self.nonces.recognise(&credentials.nonce, now.wall) else {
            return Verdict::Challenge { stale: true };
        };
        let user = lookup(&credentials.username);
        let name = match &user {
            Some((identity, _)) => identity.as_str(),
            None => &credentials.username,
        };
        if let Some(left) = self.logins.locked(name, nonce.tag(), now.instant) {
            return Verdict::Locked(left);
        }
        let hashes = user.as_ref().map_or(&self.nobody, |(_, hashes)| *hashes);
        let right = is_right(&credentials, hashes, request.method_str());
        match user {
            Some((identity, _)) if right => {
                let is_from_here = nonce.tag() == self.tag(address);
                self.spend(&credentials, nonce, identity, is_from_here, now)
            }
            _ => {
                let source = Source::of(address);
                Verdict::Failed((self.logins).failed(name, nonce.tag(), source, now.instant))
            }
        }
    }

    fn find<'m>(
        &self,
        request: &'m Message,
        header: HeaderName,
    ) -> Result<Option<Credentials<'m>>, Rejection> {
        for value in request.headers(header).take(MOST_CREDENTIALS) {
            let Some(parameters) = parameters(value) else {
                continue;
            };
            let parameters = parameters?;
            // Credentials for other realms may stand beside ours (RFC 3261 §22.3).
            let ours = |realm: &std::borrow::Cow<'_, str>| realm.as_ref() == self.realm;
            if !parameters.find("realm").is_some_and(ours) {
                continue;
            }
            let credentials = parameters.credentials()?;
            let offered = match credentials.algorithm {
                Algorithm::Md5 => self.algorithms.md5,
                Algorithm::Sha256 => self.algorithms.sha256,
            };
            if !offered {
                return Err(Rejection::new(400, "Unsupported Digest Algorithm"));
            }
            return Ok(Some(credentials));
        }
        Ok(None)
    }

    /// Whether the digest-uri names what the request asks for: an equal URI, or, as RFC 3261 §22.4
    /// lets a server decide, one that names this server and no other user. SIPp, for one, writes
    /// the address it sends to.
    fn is_same_resource(&self, digest_uri: &str, request_uri: &str) -> bool {
        if digest_uri == request_uri {
            return true;
        }
        let (Ok(named), Ok(asked)) = (Uri::parse(digest_uri), Uri::parse(request_uri)) else {
            return false;
        };
        let is_here = |uri: &Uri<'_>| {
            let host = uri.host();
            self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
        };
        let same_user =
            named.user().is_none() || named.user().map(unescape) == asked.user().map(unescape);
        equivalent(&named, &asked) || (is_here(&named) && is_here(&asked) && same_user)
    }

    /// The response is right; it counts if this count of the nonce is new.
    fn spend(
        &self,
        credentials: &Credentials<'_>,
        nonce: NonceId,
        identity: Identity,
        is_from_here: bool,
        now: Now,
    ) -> Verdict {
        if !self.used.admit(nonce, credentials.count, now.wall) {
            return Verdict::Challenge { stale: true };
        }
        self.logins.succeeded(identity.as_str(), nonce.tag());
        Verdict::Accepted {
            identity,
            is_from_here,
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Digest");
        out.field("realm", &self.realm).finish_non_exhaustive()
    }
}

/// RFC 7616 §3.4.1, for qop `auth`.
fn is_right(credentials: &Credentials<'_>, hashes: &Hashes, method: &str) -> bool {
    let algorithm = credentials.algorithm;
    let a2 = algorithm.hash(&[method, &credentials.uri]);
    let parts = [
        hashes.by(algorithm).unwrap_or_default(),
        &credentials.nonce,
        &credentials.count_text,
        &credentials.cnonce,
        "auth",
        &a2,
    ];
    let same = algorithm.is_hash(&credentials.response, &parts);
    same && hashes.by(algorithm).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;
    use crate::limits::logins;
    use crate::sip::wire;
    use bytes::Bytes;
    use std::net::Ipv4Addr;

    const NOW: Now = Now {
        instant: Instant::from_micros(1_000_000),
        wall: UnixMillis(1_700_000_000_000),
    };
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn digest(algorithms: Algorithms) -> Digest {
        Digest::new(DigestSettings {
            realm: "im.test".to_owned(),
            key: [7; 32],
            lifetime: Duration::from_secs(600),
            algorithms,
            hosts: vec!["im.test".to_owned(), "127.0.0.1".to_owned()],
            started_at: NOW.wall,
            logins: Arc::new(Logins::new(logins::Settings {
                failures: 5,
                failures_per_user: 100,
                lockout: Duration::from_secs(60),
                most: 1_000,
            })),
        })
    }

    fn both() -> Digest {
        digest(Algorithms {
            md5: true,
            sha256: true,
        })
    }

    fn nonce_of(digest: &Digest) -> String {
        let challenges = digest.challenges(false, HERE, NOW.wall, &mut Tokens::from_seed(3));
        let (_, rest) = challenges[0].split_once("nonce=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    struct Client<'a> {
        algorithm: Algorithm,
        user: &'a str,
        password: &'a str,
        uri: &'a str,
        count: u32,
        nonce: &'a str,
    }

    impl<'a> Client<'a> {
        fn new(nonce: &'a str) -> Self {
            Self {
                algorithm: Algorithm::Sha256,
                user: "bob",
                password: "zanzibar",
                uri: "sip:im.test",
                count: 1,
                nonce,
            }
        }

        fn credentials(&self) -> String {
            let algorithm = self.algorithm;
            let a1 = algorithm.hash(&[self.user, "im.test", self.password]);
            let a2 = algorithm.hash(&["REGISTER", self.uri]);
            let count = format!("{:08x}", self.count);
            let response = algorithm.hash(&[&a1, self.nonce, &count, "c", "auth", &a2]);
            format!(
                "Digest username=\"{}\", realm=\"im.test\", nonce=\"{}\", uri=\"{}\", qop=auth, \
                 nc={count}, cnonce=\"c\", algorithm={}, response=\"{response}\"",
                self.user,
                self.nonce,
                self.uri,
                algorithm.name()
            )
        }
    }

    fn request(authorization: &str) -> Message {
        let text = format!(
            "REGISTER sip:im.test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{authorization}\
             From: <sip:bob@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\nCall-ID: 1\r\n\
             CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        wire::parse(Bytes::from(text)).unwrap()
    }

    fn check_line(digest: &Digest, line: &str) -> Verdict {
        check_from(HERE, digest, line)
    }

    fn check_from(address: IpAddr, digest: &Digest, line: &str) -> Verdict {
        let hashes = Hashes::of_password("bob", "im.test", "zanzibar");
        let lookup =
            |name: &str| (name == "bob").then(|| (Identity::new("bob", "im.test"), &hashes));
        digest.check(&request(line), address, Challenger::Server, lookup, NOW)
    }

    fn check(digest: &Digest, client: &Client<'_>) -> Verdict {
        check_line(
            digest,
            &format!("Authorization: {}\r\n", client.credentials()),
        )
    }

    fn accepted() -> Verdict {
        accepted_from(true)
    }

    fn accepted_from(is_from_here: bool) -> Verdict {
        Verdict::Accepted {
            identity: Identity::new("bob", "im.test"),
            is_from_here,
        }
    }

    #[test]
    fn an_answer_proves_an_address_only_if_the_nonce_was_given_there() {
        let digest = both();
        let nonce = nonce_of(&digest);
        let mut client = Client::new(&nonce);
        let line = |client: &Client<'_>| format!("Authorization: {}\r\n", client.credentials());
        let elsewhere = IpAddr::from([192, 0, 2, 99]);
        let verdict = check_from(elsewhere, &digest, &line(&client));
        assert_eq!(verdict, accepted_from(false));
        client.count = 2;
        assert_eq!(check_line(&digest, &line(&client)), accepted_from(true));
    }

    #[test]
    fn a_few_credentials_of_others_may_stand_before_ours() {
        let digest = both();
        let nonce = nonce_of(&digest);
        let own = format!("Authorization: {}\r\n", Client::new(&nonce).credentials());
        let others = |count| "Authorization: Digest realm=\"other\"\r\n".repeat(count);
        let many = others(MOST_CREDENTIALS) + &own;
        let challenged = Verdict::Challenge { stale: false };
        assert_eq!(check_line(&digest, &many), challenged);
        let few = others(MOST_CREDENTIALS - 1) + &own;
        assert_eq!(check_line(&digest, &few), accepted_from(true));
    }

    #[test]
    fn only_a_young_nonce_that_was_given_to_an_address_makes_credentials_an_answer() {
        let digest = both();
        let nonce = nonce_of(&digest);
        let guess = Client {
            password: "guess",
            ..Client::new(&nonce)
        };
        let credentials = guess.credentials();
        let elsewhere = IpAddr::from([192, 0, 2, 99]);
        assert!(digest.is_answer(&credentials, HERE, NOW.wall));
        assert!(!digest.is_answer(&credentials, elsewhere, NOW.wall));
        let later = NOW.wall.plus(Duration::from_secs(86_400));
        assert!(!digest.is_answer(&credentials, HERE, later));
        let mut forged = nonce.clone();
        forged.replace_range(..1, if nonce.starts_with('A') { "B" } else { "A" });
        let forged = Client::new(&forged).credentials();
        for made_up in [
            forged.as_str(),
            "Digest nonce=\"x\"",
            "Digest x=y",
            "Basic Zm9v",
            "",
        ] {
            assert!(!digest.is_answer(made_up, HERE, NOW.wall), "{made_up}");
        }
    }

    #[test]
    fn the_vectors_of_rfc_7616_section_3_9_1() {
        let value = "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", \
            uri=\"/dir/index.html\", algorithm=ALG, \
            nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
            cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"RES\", \
            opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
        let hashes = Hashes::of_password("Mufasa", "http-auth@example.org", "Circle of Life");
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let value = value.replace("ALG", algorithm).replace("RES", response);
            let credentials = parameters(&value).unwrap().unwrap().credentials().unwrap();
            assert!(is_right(&credentials, &hashes, "GET"), "{algorithm}");
            assert!(!is_right(&credentials, &hashes, "PUT"), "{algorithm}");
        }
    }

    #[test]
    fn challenges_offer_sha_256_before_md5_and_one_nonce() {
        let challenges = both().challenges(true, HERE, NOW.wall, &mut Tokens::from_seed(1));
        assert_eq!(challenges.len(), 2);
        assert!(challenges[0].contains("algorithm=SHA-256, stale=true"));
        assert!(challenges[1].contains("algorithm=MD5"));
        assert!(
            challenges
                .iter()
                .all(|value| value.contains("qop=\"auth\""))
        );
        let one = digest(Algorithms {
            md5: false,
            sha256: true,
        });
        assert_eq!(
            one.challenges(false, HERE, NOW.wall, &mut Tokens::from_seed(1))
                .len(),
            1
        );
    }

    #[test]
    fn a_right_answer_is_accepted_with_either_algorithm() {
        let digest = both();
        let nonce = nonce_of(&digest);
        for (count, algorithm) in [(1, Algorithm::Md5), (2, Algorithm::Sha256)] {
            let client = Client {
                algorithm,
                count,
                ..Client::new(&nonce)
            };
            assert_eq!(check(&digest, &client), accepted());
        }
    }

    #[test]
    fn no_credentials_and_those_for_another_realm_are_challenged() {
        let digest = both();
        let challenge = Verdict::Challenge { stale: false };
        assert_eq!(check_line(&digest, ""), challenge);
        let other = "Authorization: Digest realm=\"elsewhere\"\r\nAuthorization: Basic Zm9v\r\n";
        assert_eq!(check_line(&digest, other), challenge);
        let nonce = nonce_of(&digest);
        let ours = Client::new(&nonce).credentials();
        let line = format!("{other}Authorization: {ours}\r\n");
        assert_eq!(check_line(&digest, &line), accepted());
    }

    #[test]
    fn a_wrong_password_and_an_unknown_user_get_the_same_answer() {
        let digest = both();
        let nonce = nonce_of(&digest);
        let wrong = Client {
            password: "guess",
            ..Client::new(&nonce)
        };
        let unknown = Client {
            user: "mallory",
            ..Client::new(&nonce)
        };
        assert_eq!(check(&digest, &wrong), check(&digest, &unknown));
        assert_eq!(check(&digest, &wrong), Verdict::Failed(None));
        assert_eq!(check(&digest, &Client::new(&nonce)), accepted());
    }

    #[test]
    fn a_replayed_count_and_a_foreign_nonce_are_stale() {
        let digest = both();
        let nonce = nonce_of(&digest);
        assert_eq!(check(&digest, &Client::new(&nonce)), accepted());
        let stale = Verdict::Challenge { stale: true };
        assert_eq!(check(&digest, &Client::new(&nonce)), stale);
        assert_eq!(check(&digest, &Client::new("0000")), stale);
    }

    #[test]
    fn a_nonce_that_nobody_gave_out_does_not_tell_whether_the_password_is_right() {
        let digest = both();
        let wrong = Client {
            password: "guess",
            ..Client::new("0000")
        };
        for _ in 0..20 {
            assert_eq!(check(&digest, &wrong), check(&digest, &Client::new("0000")));
        }
        let nonce = nonce_of(&digest);
        assert_eq!(check(&digest, &Client::new(&nonce)), accepted());
    }

    #[test]
    fn after_five_wrong_answers_the_right_one_does_not_help_and_nobody_knows_who_exists() {
        let digest = both();
        for user in ["bob", "mallory"] {
            let nonce = nonce_of(&digest);
            let wrong = Client {
                user,
                password: "guess",
                ..Client::new(&nonce)
            };
            let verdicts: Vec<_> = (0..5).map(|_| check(&digest, &wrong)).collect();
            assert!(verdicts[..4].iter().all(|it| *it == Verdict::Failed(None)));
            assert!(matches!(verdicts[4], Verdict::Failed(Some(_))));
            let right = Client {
                user,
                ..Client::new(&nonce)
            };
            let locked = Verdict::Locked(Duration::from_secs(60));
            assert_eq!(check(&digest, &right), locked);
        }
    }

    #[test]
    fn who_was_given_a_challenge_elsewhere_is_not_locked_out_with_the_others() {
        let digest = both();
        let nonce = nonce_of(&digest);
        let wrong = Client {
            password: "guess",
            ..Client::new(&nonce)
        };
        for _ in 0..9 {
            check(&digest, &wrong);
        }
        let there = IpAddr::from([192, 0, 2, 2]);
        let mut tokens = Tokens::from_seed(2);
        let other = digest.challenges(false, there, NOW.wall, &mut tokens);
        let other = other[0].split_once("nonce=\"").expect("a nonce").1;
        let other = other.split_once('"').expect("a nonce").0;
        assert_eq!(check(&digest, &Client::new(other)), accepted_from(false));
    }

    #[test]
    fn the_digest_uri_names_the_request_or_at_least_this_server() {
        let digest = both();
        let nonce = nonce_of(&digest);
        for (count, uri) in [(1, "sip:IM.test"), (2, "sip:127.0.0.1:5060")] {
            let client = Client {
                uri,
                count,
                ..Client::new(&nonce)
            };
            assert_eq!(check(&digest, &client), accepted(), "{uri}");
        }
        for uri in [
            "sip:elsewhere.test",
            "sip:eve@im.test",
            "sips:x@im.test",
            "nonsense",
        ] {
            let client = Client {
                uri,
                count: 9,
                ..Client::new(&nonce)
            };
            let verdict = check(&digest, &client);
            assert!(
                matches!(verdict, Verdict::Malformed(_)),
                "{uri}: {verdict:?}"
            );
        }
    }

    #[test]
    fn an_algorithm_that_was_not_offered_is_refused() {
        let digest = digest(Algorithms {
            md5: false,
            sha256: true,
        });
        let nonce = nonce_of(&digest);
        let client = Client {
            algorithm: Algorithm::Md5,
            ..Client::new(&nonce)
        };
        assert!(matches!(check(&digest, &client), Verdict::Malformed(_)));
    }

    #[test]
    fn hashes_do_not_show_themselves() {
        let hashes = Hashes::of_password("bob", "im.test", "zanzibar");
        assert_eq!(format!("{hashes:?}"), "********");
    }
}
