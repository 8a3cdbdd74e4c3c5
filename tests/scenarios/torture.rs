//! The messages of RFC 4475 against the real binary: each is answered as its kind demands or left
//! unanswered, and the server goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use restante::demo::{Draft, Failure, Transport, fresh};

use crate::support::{Configuration, Stage, on_every_shard_count};

const PATIENCE: Duration = Duration::from_secs(5);

fn vectors() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/rfc4475");
    let mut vectors: Vec<_> = fs::read_dir(folder)
        .expect("the vectors are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dat"))
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            (name.into_owned(), fs::read(&path).expect("readable"))
        })
        .collect();
    vectors.sort();
    vectors
}

/// The message with `rport` in its top Via, so that the answer comes back here.
fn answerable(octets: &[u8]) -> Vec<u8> {
    let at = octets.windows(8).position(|window| window == b";branch=");
    match at {
        Some(at) => [&octets[..at], b";rport", &octets[at..]].concat(),
        None => octets.to_vec(),
    }
}

fn status(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn still_serves(stage: &Stage) -> Result<(), Failure> {
    stage.agent("alice")?.asks_options().map(|_| ())
}

/// What may be answered: statuses; `-` where nothing may come as well. First to the message as it is, then
/// to the message for our domain, which a user of ours could send. A response is never answered; nor is
/// what has no Via that leads anywhere, or, over TCP, what has no end. Those of RFC 5118 have line ends
/// that are none; mended they have those of SIP, an end, and their true Content-Length. Who registers
/// comes last. Over a stream dblreq is two requests, answered in any order, and inv2543 has a body of no length (400).
const ANSWERS: [(&str, &str, &str); 62] = [
    ("badaspec", "404", "480"),
    ("badbranch", "400", "400"),
    ("baddate", "404", "488"),
    ("baddn", "400,-", "400,-"),
    ("badinv01", "400,-", "400,-"),
    ("badvers", "505", "505"),
    ("bcast", "-", "-"),
    ("bext01", "420", "420"),
    ("bigcode", "-", "-"),
    ("clerr", "400,-", "400,-"),
    ("dblreq", "404", "200,400"),
    ("esc01", "404", "404"),
    ("esc02", "404", "501,405,480"),
    ("escnull", "404", "404"),
    ("escruri", "400", "400"),
    ("insuf", "400", "400"),
    ("intmeth", "404", "480"),
    ("inv2543", "400,-", "400,-"),
    ("invut", "404", "415,480"),
    ("longreq", "404,-", "488,-"),
    ("ltgtruri", "400,-", "400,-"),
    ("lwsdisp", "404", "480"),
    ("lwsruri", "400", "400"),
    ("lwsstart", "400", "400"),
    ("mcl01", "400", "400"),
    ("mismatch01", "400", "400"),
    ("mismatch02", "400", "400"),
    ("mpart01", "404", "202"),
    ("multi01", "400", "400"),
    ("ncl", "400", "400"),
    ("noreason", "-", "-"),
    ("novelsc", "416", "416"),
    ("quotbal", "400", "400"),
    ("regbadct", "400", "400"),
    ("scalar02", "400", "400"),
    ("scalarlg", "-", "-"),
    ("sdp01", "404", "480,488"),
    ("semiuri", "404", "404"),
    ("test", "-", "-"),
    ("transports", "404", "480"),
    ("trws", "400", "400"),
    ("unkscm", "416", "416"),
    ("unksm2", "404", "404,416"),
    ("unreason", "-", "-"),
    ("wsinv", "404", "481"),
    ("zeromf", "483", "483"),
    ("ipv4-mapped-ipv6", "-", "488"),
    ("ipv6-bad", "-", "400"),
    ("ipv6-bug-abnf-3-colons", "-", "400"),
    ("ipv6-correct-abnf-2-colons", "-", "404"),
    ("ipv6-in-sdp", "-", "404"),
    ("mult-ip-in-header", "-", "404"),
    ("mult-ip-in-sdp", "-", "404"),
    ("via-received-param-no-delim", "-", "404,200"),
    ("via-received-param-with-delim", "-", "404,481"),
    ("cparam01", "404", "200"),
    ("cparam02", "404", "200"),
    ("regaut01", "404", "200"),
    ("regescrt", "404", "200"),
    ("ipv6-good", "-", "200"),
    ("port-ambiguous", "-", "200,404"),
    ("port-unambiguous", "-", "200"),
];

/// Whose messages: `im.test` in place of the domains they name.
const DOMAINS: [&str; 6] = [
    "chair-dnrc.example.com",
    "registrar.example.com",
    "example.com",
    "example.net",
    "example.org",
    "company.com",
];

fn vector(name: &str) -> Vec<u8> {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let paths = ["rfc4475", "rfc5118"].map(|folder| data.join(folder).join(format!("{name}.dat")));
    let path = paths
        .iter()
        .find(|path| path.exists())
        .expect("there is such a vector");
    fs::read(path).expect("readable")
}

fn replaced(octets: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), octets);
    while let Some((first, after)) = rest.split_first() {
        if rest.starts_with(from.as_bytes()) {
            out.extend_from_slice(to.as_bytes());
            rest = &rest[from.len()..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

/// For our domain; a message whose line ends are LF is mended.
fn adapted(octets: &[u8]) -> Vec<u8> {
    let mut out = DOMAINS.iter().fold(octets.to_vec(), |out, domain| {
        replaced(&out, domain, "im.test")
    });
    if !out.windows(2).any(|pair| pair == b"\r\n") {
        out = replaced(&out, "\n", "\r\n");
        let end = b"\r\n\r\n";
        let head_end = out.windows(4).position(|window| window == end);
        let head_end = head_end.unwrap_or_else(|| {
            out.extend_from_slice(b"\r\n");
            out.len() - 4
        });
        let length = format!("Content-Length: {}", out.len() - head_end - 4);
        let text = String::from_utf8(out).expect("text");
        let told = text
            .lines()
            .find(|line| line.starts_with("Content-Length:"));
        out = text
            .replacen(told.expect("a length"), &length, 1)
            .into_bytes();
    }
    out
}

/// Of a transaction of its own, and with a Via of this transport that brings the answer back here.
fn fresh_over(octets: &[u8], transport: Transport) -> Vec<u8> {
    // A branch that is nothing but the cookie stays so.
    let branch = replaced(octets, "z9hG4bK\r", "\u{1}\r");
    let branch = replaced(&branch, "z9hG4bK", &fresh("z9hG4bK"));
    let octets = replaced(&branch, "\u{1}\r", "z9hG4bK\r");
    // Else it would be the same request by another way (RFC 3261 §8.2.2.2).
    let call = fresh("call-");
    let octets = replaced(&octets, "Call-ID:  ", "Call-ID: ");
    let octets = replaced(&octets, "Call-ID: ", &format!("Call-ID: {call}"));
    let octets = replaced(&octets, "\r\nI: ", &format!("\r\nI: {call}"));
    match transport {
        Transport::Udp => answerable(&octets),
        Transport::Tcp => replaced(&octets, "SIP/2.0/UDP", "SIP/2.0/TCP"),
    }
}

/// The first final answer; nothing if an OPTIONS sent afterwards is answered and nothing has come.
fn final_answer(
    stage: &Stage,
    transport: Transport,
    octets: &[u8],
    silent: bool,
) -> Result<String, Failure> {
    let server = stage.server().sip_address(transport)?;
    let patience = if silent {
        Duration::from_millis(300)
    } else {
        PATIENCE
    };
    match transport {
        Transport::Udp => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_read_timeout(Some(patience))?;
            socket.send_to(octets, server)?;
            let mut buffer = [0; 65_536];
            while let Ok(length) = socket.recv(&mut buffer) {
                let status = status(&buffer[..length]);
                if !status.starts_with('1') {
                    return Ok(status);
                }
            }
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(octets)?;
            let (mut heard, mut buffer) = (Vec::new(), [0; 4_096]);
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                heard.extend_from_slice(&buffer[..length]);
                let text = String::from_utf8_lossy(&heard);
                let statuses = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("SIP/2.0 "));
                if let Some(found) = statuses
                    .filter_map(|line| line.get(..3))
                    .find(|it| !it.starts_with('1'))
                {
                    return Ok(found.to_owned());
                }
            }
        }
    }
    stage.agent("witness")?.asks_options()?;
    Ok("-".to_owned())
}

fn judged(exact: bool) {
    on_every_shard_count(&Configuration::open(), |stage| {
        let mut wrong = Vec::new();
        for transport in [Transport::Udp, Transport::Tcp] {
            for (name, as_it_is, ours) in ANSWERS {
                let allowed = if exact { as_it_is } else { ours };
                let octets = if exact {
                    vector(name)
                } else {
                    adapted(&vector(name))
                };
                let octets = fresh_over(&octets, transport);
                let got = final_answer(stage, transport, &octets, allowed.contains('-'))?;
                if !allowed.split(',').any(|status| status == got) {
                    wrong.push(format!("{name} over {transport:?}: {got}, not {allowed}"));
                }
            }
            // Those who registered go, so that they are away again for the other transport.
            let gone = Draft::new("REGISTER", "sip:im.test")
                .to_value("<sip:user@im.test>")
                .header("Contact", "*")
                .header("Expires", "0");
            stage.agent("user")?.sends(gone)?.expect_status(200)?;
        }
        stage.observe(wrong.is_empty(), &format!("{wrong:#?}"))?;
        still_serves(stage)
    });
}

#[test]
fn every_message_of_rfc_4475_and_5118_gets_its_answer_as_it_is() {
    judged(true);
}

#[test]
fn every_message_of_rfc_4475_and_5118_gets_its_answer_when_it_is_for_us() {
    judged(false);
}

#[test]
fn no_message_of_rfc_4475_harms_the_server_over_udp_or_tcp() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let udp = stage.server().sip_address(Transport::Udp)?;
        let tcp = stage.server().sip_address(Transport::Tcp)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        for (_, octets) in vectors() {
            socket.send_to(&octets, udp)?;
            let mut stream = TcpStream::connect(tcp)?;
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            stream.write_all(&octets)?;
            let _ = stream.read(&mut [0; 4_096]);
        }
        still_serves(stage)
    });
}

#[test]
fn every_prefix_and_every_broken_octet_of_a_message_is_survived() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let udp = stage.server().sip_address(Transport::Udp)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let whole = vectors().into_iter().find(|(name, _)| name == "wsinv");
        let whole = whole.expect("there is such a vector").1;
        for end in 0..whole.len() {
            socket.send_to(&whole[..end], udp)?;
            let mut broken = whole.clone();
            broken[end] ^= 0xff;
            socket.send_to(&broken, udp)?;
        }
        still_serves(stage)
    });
}
