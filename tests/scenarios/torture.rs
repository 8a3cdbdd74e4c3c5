//! The messages of RFC 4475 against the real binary: each is answered as its kind demands or left
//! unanswered, and the server goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use restante::demo::{Failure, Transport};

use crate::support::{Configuration, Stage, on_every_shard_count};

const PATIENCE: Duration = Duration::from_secs(5);

/// What must be answered 400 or 505 by whoever reads it (RFC 4475 §3.1.2, §3.2.1, §3.3), where its Via
/// has room for the `rport` that brings the answer back here.
const REFUSED: [(&str, &str); 15] = [
    ("clerr", "400"),
    ("ncl", "400"),
    ("scalar02", "400"),
    ("quotbal", "400"),
    ("lwsruri", "400"),
    ("lwsstart", "400"),
    ("trws", "400"),
    ("escruri", "400"),
    ("regbadct", "400"),
    ("baddn", "400"),
    ("badvers", "505"),
    ("mismatch01", "400"),
    ("mismatch02", "400"),
    ("badbranch", "400"),
    ("multi01", "400"),
];

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

fn over_udp(server: SocketAddr, octets: &[u8], patience: Duration) -> Result<String, Failure> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(octets, server)?;
    let mut buffer = [0; 65_536];
    match socket.recv(&mut buffer) {
        Ok(length) => Ok(status(&buffer[..length])),
        Err(_) => Ok(String::new()),
    }
}

fn still_serves(stage: &Stage) -> Result<(), Failure> {
    stage.agent("alice")?.asks_options().map(|_| ())
}

#[test]
fn what_rfc_4475_calls_malformed_is_refused_over_udp() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let server = stage.server().sip_address(Transport::Udp)?;
        let vectors = vectors();
        for (name, expected) in REFUSED {
            let octets = vectors.iter().find(|(own, _)| own == name);
            let octets = answerable(&octets.expect("there is such a vector").1);
            let got = over_udp(server, &octets, PATIENCE)?;
            stage.observe(
                got == expected,
                &format!("{name} is answered {expected}, not {got}"),
            )?;
        }
        still_serves(stage)
    });
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
