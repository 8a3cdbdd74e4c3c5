//! Those who send what nobody should.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use restante::clock::now;
use restante::demo::{Chat, UserAgent};
use socket2::{Domain, Socket, Type};

use crate::claims::msrp_pair::{ALICE, BOB};
use crate::claims::mutator::Mutator;
use crate::claims::seeds;
use crate::report::Report;

/// Where the server is, and from where it is attacked.
pub struct Target {
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    pub msrp: SocketAddr,
    pub sources: Sources,
}

/// The addresses that attacks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// That of the users, which is trusted.
    Users,
    /// Two hundred others, one after the other: most are banned before the next one has its turn.
    Others,
}

/// Inputs before the next address has its turn.
const TURN: u64 = 1_000;
/// Of those who ask for OPTIONS, and of users.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

impl Sources {
    fn address(self, count: u64) -> IpAddr {
        let other = |turn: u64| Ipv4Addr::new(127, 0, 66, 1 + (turn % 200) as u8);
        match self {
            Self::Users => OWN_ADDRESS.into(),
            Self::Others => other(count / TURN).into(),
        }
    }
}

/// Octets of the longest datagram, and of the longest input over a connection.
const DATAGRAM: usize = 8_000;
const STREAM: usize = 40_000;
/// Inputs between two OPTIONS.
const GROUP: u64 = 20;
/// How long an OPTIONS may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests of this domain, so that a mutation is not stopped at the door.
const OWN: [&str; 7] = [
    "INVITE sip:victim@im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKi\nMax-Forwards: 70\nFrom: <sip:mallory@im.test>;tag=1\nTo: <sip:victim@im.test>\nCall-ID: abc@i\nCSeq: 7 INVITE\nContact: <sip:mallory@127.0.0.1>;+g.oma.sip-im\nAccept-Contact: *;+g.oma.sip-im\nConversation-ID: c\nContribution-ID: d\nSupported: timer, 100rel\nSession-Expires: 1800\nContent-Type: application/sdp\nContent-Length: 279\n\nv=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=message 9 TCP/MSRP *\na=accept-types:message/cpim application/im-iscomposing+xml\na=accept-wrapped-types:*\na=path:msrp://127.0.0.1:9/s1abcdefgh;tcp\na=setup:active\na=sendrecv\n",
    "REGISTER sip:im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKr\nMax-Forwards: 70\nFrom: <sip:victim2@im.test>;tag=1\nTo: <sip:victim2@im.test>\nCall-ID: abc@r\nCSeq: 8 REGISTER\nContact: <sip:victim2@127.0.0.1:9>;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\";expires=5\nPath: <sip:127.0.0.1;lr>\nSupported: path, outbound\nContent-Length: 0\n\n",
    "MESSAGE sip:victim@im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKm\nMax-Forwards: 70\nFrom: <sip:mallory@im.test>;tag=1\nTo: <sip:victim@im.test>\nCall-ID: abc@m\nCSeq: 9 MESSAGE\nContent-Type: message/cpim\n\nFrom: <sip:mallory@im.test>\nTo: <sip:victim@im.test>\nNS: imdn <urn:ietf:params:imdn>\nimdn.Message-ID: Xy9z1\nDateTime: 2026-03-02T09:15:04Z\nimdn.Disposition-Notification: positive-delivery\n\nContent-Type: text/plain\n\nhello",
    "MESSAGE sip:mallory@im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKn\nMax-Forwards: 70\nFrom: <sip:victim@im.test>;tag=1\nTo: <sip:mallory@im.test>\nCall-ID: abc@n\nCSeq: 9 MESSAGE\nContent-Type: message/cpim\n\nFrom: <sip:victim@im.test>\nTo: <sip:mallory@im.test>\nNS: imdn <urn:ietf:params:imdn>\nimdn.Message-ID: r1\n\nContent-Type: message/imdn+xml\nContent-Disposition: notification\n\n<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\"><message-id>Xy9z1</message-id><datetime>2026-03-02T09:15:04Z</datetime><delivery-notification><status><delivered/></status></delivery-notification></imdn>",
    "INVITE sip:deferred@im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKf\nMax-Forwards: 70\nFrom: <sip:victim@im.test>;tag=1\nTo: <sip:deferred@im.test>\nCall-ID: abc@f\nCSeq: 7 INVITE\nContact: <sip:victim@127.0.0.1>;+g.oma.sip-im\nContent-Type: multipart/mixed;boundary=b\n\n--b\nContent-Type: application/sdp\n\nv=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=message 9 TCP/MSRP *\na=accept-types:*\na=path:msrp://127.0.0.1:9/s2;tcp\na=setup:active\na=recvonly\n\n--b\nContent-Type: message/cpim\n\nFrom: <sip:a@b>\n\nContent-Type: text/plain\n\nx\n--b--\n",
    "SUBSCRIBE sip:victim@im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKs\nMax-Forwards: 2\nRoute: <sip:127.0.0.1;lr>\nFrom: <sip:mallory@im.test>;tag=1\nTo: <sip:victim@im.test>\nCall-ID: abc@s\nCSeq: 1 SUBSCRIBE\nEvent: presence\nProxy-Require: x\nContent-Length: 0\n\n",
    "BYE sip:im.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKb\nMax-Forwards: 70\nFrom: <sip:mallory@im.test>;tag=1\nTo: <sip:victim@im.test>;tag=2\nCall-ID: abc@b\nCSeq: 8 BYE\nContent-Length: 0\n\n",
];

/// What is mutated: messages of ours, those of the RFCs, and those of the RFCs for this domain.
fn sip() -> Vec<Vec<u8>> {
    let own = OWN
        .iter()
        .map(|text| text.replace('\n', "\r\n").into_bytes());
    let mut all: Vec<Vec<u8>> = own.clone().chain(own.clone()).chain(own).collect();
    for octets in seeds::sip() {
        let adapted = replaced(&octets, b"example.com", b"im.test");
        all.push(replaced(&adapted, b"example.net", b"im.test"));
        all.push(octets);
    }
    all
}

/// The octets with every `from` as `to`.
pub fn replaced(octets: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(octets.len()), octets);
    while let Some((first, after)) = rest.split_first() {
        if rest.starts_with(from) {
            out.extend_from_slice(to);
            rest = &rest[from.len()..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

/// A stream of mutated messages, no two of one transaction.
struct Source {
    mutator: Mutator,
    seeds: Vec<Vec<u8>>,
    serial: u64,
    most: usize,
}

impl Source {
    fn new(seed: u64, seeds: Vec<Vec<u8>>, most: usize) -> Self {
        Self {
            mutator: Mutator::new(seed),
            seeds,
            // Leaves room to count.
            serial: seed >> 1,
            most,
        }
    }

    fn next(&mut self) -> Vec<u8> {
        self.serial += 1;
        let (one, other) = (
            self.mutator.below(self.seeds.len()),
            self.mutator.below(self.seeds.len()),
        );
        let mut octets = self.seeds[one].clone();
        if self.mutator.below(10) > 0 {
            let branch = format!("z9hG4bK{:x}x", self.serial);
            octets = replaced(&octets, b"z9hG4bK", branch.as_bytes());
            let call = format!("Call-ID: {:x}", self.serial);
            octets = replaced(&octets, b"Call-ID: ", call.as_bytes());
        }
        self.mutator.mutate(&octets, &self.seeds[other], self.most)
    }
}

fn options(serial: u64, transport: &str) -> (String, String) {
    let call_id = format!("health-{transport}-{serial}");
    let text = format!(
        "OPTIONS sip:im.test SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1;rport;branch=z9hG4bK{call_id}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:witness@im.test>;tag=1\r\nTo: <sip:im.test>\r\n\
         Call-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    (call_id, text)
}

/// The status of an answer of SIP.
fn status(octets: &[u8]) -> Option<String> {
    let line = octets.split(|octet| *octet == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("SIP/2.0 ")?.get(..3).map(str::to_owned)
}

/// Ends at the first OPTIONS that is not answered: then the storm is lost anyway.
pub fn over_udp(target: &Target, seed: u64, inputs: u64) -> Report {
    let mut source = Source::new(seed, sip(), DATAGRAM);
    let mut report = Report::default();
    let bound = |address| UdpSocket::bind((address, 0)).expect("a socket");
    let mut socket = bound(target.sources.address(0));
    // Who is banned cannot ask; who is not asks behind what he has sent.
    let witness = match target.sources {
        Sources::Users => socket.try_clone().expect("a socket"),
        Sources::Others => bound(OWN_ADDRESS.into()),
    };
    for count in 1..=inputs {
        // A datagram that the system refuses to send is no input.
        if socket.send_to(&source.next(), target.udp).is_ok() {
            report.input("udp");
        }
        if count % GROUP == 0 {
            asks_over_udp(&witness, target, source.serial, &mut report);
        }
        if report.unanswered > 0 {
            break;
        }
        if target.sources == Sources::Others && count % TURN == 0 {
            socket = bound(target.sources.address(count));
        }
    }
    report
}

/// OPTIONS, repeated as RFC 3261 §17.1.2 does it, until it is answered.
fn asks_over_udp(socket: &UdpSocket, target: &Target, serial: u64, report: &mut Report) {
    let (call_id, text) = options(serial, "UDP");
    let begun = now().instant;
    let mut buffer = [0; 65_536];
    let mut wait = Duration::from_millis(500);
    while now().instant.since(begun) < PATIENCE {
        let sent = now().instant;
        let _ = socket.send_to(text.as_bytes(), target.udp);
        while let Some(left) = wait
            .checked_sub(now().instant.since(sent))
            .filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left)).expect("a timeout");
            let Ok(length) = socket.recv(&mut buffer) else {
                break;
            };
            let Some(status) = status(&buffer[..length]) else {
                continue;
            };
            if contains(&buffer[..length], call_id.as_bytes()) {
                report
                    .options
                    .push(now().instant.since(begun).as_micros() as u64);
                return;
            }
            report.answer(&status);
        }
        wait *= 2;
    }
    report.unanswered += 1;
    report.failures.push(format!("no answer to {call_id}"));
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

pub fn over_tcp(target: &Target, seed: u64, inputs: u64) -> Report {
    let mut source = Source::new(!seed, sip(), STREAM);
    let mut report = Report::default();
    let mut count = 0;
    while count < inputs && report.unanswered == 0 {
        let from = target.sources.address(count);
        let Some(mut line) = connect(from, target.tcp, &mut report) else {
            break;
        };
        for _ in 0..1 + source.mutator.below(8) {
            count += 1;
            report.input("tcp");
            if line.write_all(&source.next()).is_err() {
                break;
            }
            if count % GROUP == 0 {
                asks_over_tcp(target, source.serial, &mut report);
            }
        }
        hears(&mut line, &mut report, status);
    }
    report
}

/// A connection that nobody accepts is an OPTIONS that nobody answers.
fn connect(from: IpAddr, to: SocketAddr, report: &mut Report) -> Option<TcpStream> {
    let opened = || -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Else the system takes ports again that have just been used.
        if from != OWN_ADDRESS {
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let line = TcpStream::from(socket);
        line.set_write_timeout(Some(PATIENCE))?;
        line.set_nodelay(true)?;
        Ok(line)
    };
    match opened() {
        Ok(line) => {
            report.connections += 1;
            Some(line)
        }
        Err(error) => {
            report.unanswered += 1;
            report
                .failures
                .push(format!("no connection from {from} to {to}: {error}"));
            None
        }
    }
}

/// Takes what has come, without waiting.
fn hears(line: &mut TcpStream, report: &mut Report, status: impl Fn(&[u8]) -> Option<String>) {
    let mut buffer = [0; 16_384];
    if line.set_nonblocking(true).is_ok()
        && let Ok(length) = line.read(&mut buffer)
        && let Some(status) = status(&buffer[..length])
    {
        report.answer(&status);
    }
}

fn asks_over_tcp(target: &Target, serial: u64, report: &mut Report) {
    let (call_id, text) = options(serial, "TCP");
    let begun = now().instant;
    let answered = connect(OWN_ADDRESS.into(), target.tcp, report).is_some_and(|mut line| {
        let mut heard = Vec::new();
        let mut buffer = [0; 4_096];
        let _ = line.set_read_timeout(Some(PATIENCE));
        if line.write_all(text.as_bytes()).is_err() {
            return false;
        }
        while !contains(&heard, call_id.as_bytes()) {
            match line.read(&mut buffer) {
                Ok(length) if length > 0 => heard.extend_from_slice(&buffer[..length]),
                _ => return false,
            }
        }
        true
    });
    match answered {
        true => report
            .options
            .push(now().instant.since(begun).as_micros() as u64),
        false => {
            report.unanswered += 1;
            let spent = now().instant.since(begun);
            report
                .failures
                .push(format!("no answer to {call_id} in {spent:?}"));
        }
    }
}

/// Half of the frames come on connections of their own, for sessions that do not exist; the others in
/// sessions that do.
pub fn over_msrp(target: &Target, mallory: &UserAgent, seed: u64, inputs: u64) -> Report {
    let frames: Vec<Vec<u8>> = seeds::msrp()
        .into_iter()
        .map(|octets| octets[8..].to_vec())
        .collect();
    let mut source = Source::new(seed ^ 0x5555, frames, STREAM);
    let mut report = Report::default();
    let mut count = 0;
    while count < inputs && report.unanswered == 0 {
        let burst = (1 + source.mutator.below(40)) as u64;
        if source.mutator.below(2) == 0 {
            let from = target.sources.address(count);
            let Some(mut line) = connect(from, target.msrp, &mut report) else {
                break;
            };
            for _ in 0..burst {
                count += 1;
                if line.write_all(&source.next()).is_err() {
                    break;
                }
                report.input("msrp");
            }
            let msrp = |octets: &[u8]| {
                let line = octets.split(|octet| *octet == b'\r').next()?;
                let line = std::str::from_utf8(line).ok()?;
                line.split(' ').nth(2).map(str::to_owned)
            };
            hears(&mut line, &mut report, msrp);
        } else {
            let victim = format!("victim{}", source.mutator.below(50));
            let Ok(chat) = mallory.opens_chat(&victim) else {
                report.failures.push("mallory gets no session".to_owned());
                count += burst;
                continue;
            };
            count += in_a_session(&chat, &mut source, burst, &mut report);
            chat.msrp.drops_connection();
        }
        asks_over_tcp(target, source.serial, &mut report);
    }
    report
}

fn in_a_session(chat: &Chat<'_>, source: &mut Source, burst: u64, report: &mut Report) -> u64 {
    report.connections += 1;
    let (to, from) = (chat.msrp.peer_path(), chat.msrp.path());
    for done in 0..burst {
        let octets = replaced(&source.next(), BOB.as_bytes(), to.as_bytes());
        let octets = replaced(&octets, ALICE.as_bytes(), from.as_bytes());
        if chat.msrp.is_closed() || chat.msrp.sends_octets(&octets).is_err() {
            return done.max(1);
        }
        report.input("msrp in a session");
    }
    burst
}
