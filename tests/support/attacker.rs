//! Somebody with a socket and bad intentions: octets go out as they are written, from any address of the
//! loopback network, and what comes back is counted.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use md5::{Digest, Md5};
use restante::clock;
use restante::demo::{Failure, SipText, Transport, fresh};

use super::Stage;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this long a datagram is repeated.
const REPEAT: Duration = Duration::from_millis(500);

/// See the module.
pub struct Attacker {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Attacker {
    /// At this address of the loopback network.
    pub fn at(stage: &Stage, address: &str) -> Result<Self, Failure> {
        let server = stage.server().sip_address(Transport::Udp)?;
        let address: IpAddr = address.parse().expect("an address");
        let socket = UdpSocket::bind((address, 0))?;
        Ok(Self { socket, server })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// Sends octets once.
    pub fn sends(&self, octets: &[u8]) -> Result<(), Failure> {
        self.socket.send_to(octets, self.server)?;
        Ok(())
    }

    /// What comes within this time.
    pub fn hears(&self, patience: Duration) -> Result<Option<Vec<u8>>, Failure> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 65_536];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Ok(Some(buffer[..length].to_vec())),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that comes until nothing has come for this long.
    pub fn hears_all(&self, silence: Duration) -> Result<Vec<Vec<u8>>, Failure> {
        let mut all = Vec::new();
        while let Some(octets) = self.hears(silence)? {
            all.push(octets);
        }
        Ok(all)
    }

    /// Sends a request, again and again, until it is answered finally.
    pub fn asks(&self, request: &str) -> Result<SipText, Failure> {
        let call_id = SipText::read(request.as_bytes())
            .and_then(|request| request.header("Call-ID").map(str::to_owned));
        let until = clock::now().instant + PATIENCE;
        while clock::now().instant < until {
            self.sends(request.as_bytes())?;
            while let Some(octets) = self.hears(REPEAT)? {
                let answer = SipText::read(&octets);
                let Some(answer) = answer else { continue };
                if answer.status() >= 200 && answer.header("Call-ID") == call_id.as_deref() {
                    return Ok(answer);
                }
            }
        }
        Err(Failure::plain(format!("no answer to {request}")))
    }

    /// A request with these lines more; each ends with CRLF.
    pub fn request(&self, method: &str, uri: &str, user: &str, lines: &str) -> String {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch={};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@im.test>;tag={}\r\nTo: <{}>\r\nCall-ID: {}\r\nCSeq: 1 {method}\r\n\
             {lines}Content-Length: 0\r\n\r\n",
            self.address(),
            fresh("z9hG4bK"),
            fresh("f"),
            match method {
                "REGISTER" => format!("sip:{user}@im.test"),
                _ => uri.to_owned(),
            },
            fresh("call-"),
        )
    }

    /// A REGISTER with these lines more.
    pub fn register(&self, user: &str, lines: &str) -> String {
        self.request("REGISTER", "sip:im.test", user, lines)
    }

    /// A nonce for this address.
    pub fn nonce(&self) -> Result<String, Failure> {
        let answer = self.asks(&self.register("nobody", ""))?;
        nonce_in(&answer).ok_or_else(|| Failure::plain("no challenge"))
    }

    /// REGISTER with this password and a fresh nonce; what is answered.
    pub fn logs_in(&self, user: &str, password: &str) -> Result<SipText, Failure> {
        let nonce = self.nonce()?;
        let line = Credentials::of(user, password, &nonce).line();
        self.asks(&self.register(user, &line))
    }
}

/// The nonce of the first challenge in an answer.
pub fn nonce_in(answer: &SipText) -> Option<String> {
    let asks = ["WWW-Authenticate", "Proxy-Authenticate"];
    let challenge = asks.into_iter().find_map(|name| answer.header(name))?;
    let (_, rest) = challenge.split_once("nonce=\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// What a client says of itself, each part of it open to lies. MD5, qop auth.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub user: String,
    pub password: String,
    pub realm: String,
    pub nonce: String,
    pub uri: String,
    pub method: String,
    pub count: String,
    pub algorithm: String,
    /// In place of the right one.
    pub response: Option<String>,
}

impl Credentials {
    /// The truth about a REGISTER.
    pub fn of(user: &str, password: &str, nonce: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            realm: "im.test".to_owned(),
            nonce: nonce.to_owned(),
            uri: "sip:im.test".to_owned(),
            method: "REGISTER".to_owned(),
            count: "00000001".to_owned(),
            algorithm: "MD5".to_owned(),
            response: None,
        }
    }

    /// The value.
    pub fn value(&self) -> String {
        let Self {
            user,
            password,
            realm,
            nonce,
            uri,
            method,
            count,
            algorithm,
            response,
        } = self;
        let ha1 = hash(&format!("{user}:{realm}:{password}"));
        let ha2 = hash(&format!("{method}:{uri}"));
        let right = hash(&format!("{ha1}:{nonce}:{count}:c:auth:{ha2}"));
        let response = response.as_ref().unwrap_or(&right);
        format!(
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm={algorithm}, cnonce=\"c\", qop=auth, nc={count}"
        )
    }

    /// An Authorization line.
    pub fn line(&self) -> String {
        format!("Authorization: {}\r\n", self.value())
    }
}

fn hash(text: &str) -> String {
    let octets = Md5::digest(text);
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
