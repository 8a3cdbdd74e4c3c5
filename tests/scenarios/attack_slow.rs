//! Connections that take room and give nothing: slow ones, big promises, and those that come and go.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use restante::clock;
use restante::demo::{Failure, Transport};

use crate::support::{Configuration, Stage, on_stage};

const SLOW: usize = 400;
const PROMISING: usize = 100;
const MIB: u64 = 1 << 20;
/// A promise of 60 MB, and the first octets of it.
const PROMISE: &str = "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\n\
    From: <sip:a@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\nCall-ID: c\r\nCSeq: 1 MESSAGE\r\n\
    Max-Forwards: 70\r\nContent-Length: 60000000\r\n\r\nxxxx";
/// The same over MSRP, for a session that does not exist.
const MSRP_PROMISE: &str = "MSRP a1 SEND\r\nTo-Path: msrp://127.0.0.1:1/nobody;tcp\r\n\
    From-Path: msrp://127.0.0.1:9/mallory;tcp\r\nMessage-ID: 1\r\nByte-Range: 1-60000000/60000000\r\n\
    Content-Type: text/plain\r\n\r\nxxxx";

/// Memory in use, in octets.
fn resident(stage: &Stage) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.server().pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| stage.failure("no VmRSS"))
}

fn descriptors(stage: &Stage) -> Result<usize, Failure> {
    Ok(fs::read_dir(format!("/proc/{}/fd", stage.server().pid()))?.count())
}

/// Waits until so few descriptors are open.
fn expect_released(stage: &Stage, most: usize) -> Result<(), Failure> {
    let until = clock::now().instant + Duration::from_secs(20);
    loop {
        let open = descriptors(stage)?;
        if open <= most {
            return Ok(());
        }
        stage.observe(
            clock::now().instant < until,
            &format!("{open} descriptors are open"),
        )?;
        std::thread::yield_now();
    }
}

fn msrp(stage: &Stage) -> SocketAddr {
    let listener = stage.server().ready().msrp[0].replace("tcp://", "");
    listener.parse().expect("an address")
}

#[test]
fn slow_connections_and_big_promises_keep_nobody_from_being_served() {
    on_stage(&Configuration::digest(), 4, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let sip = stage.server().sip_address(Transport::Tcp)?;
        let (before, open) = (resident(stage)?, descriptors(stage)?);
        let mut held = Vec::new();
        for number in 0..SLOW + PROMISING {
            let (address, octets) = match number {
                0..SLOW if number % 2 == 0 => (sip, "OPTIONS sip:im.test SIP/2.0\r\nVia: SIP/2"),
                0..SLOW => (msrp(stage), "MSRP a786hjs2 SE"),
                _ if number % 2 == 0 => (sip, PROMISE),
                _ => (msrp(stage), MSRP_PROMISE),
            };
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(octets.as_bytes())?;
            held.push(stream);
        }
        for number in 0..10 {
            let text = format!("message {number}");
            alice.sends_message("bob", &text)?.expect_2xx()?;
            bob.expect_text(&text)?;
        }
        let chat = alice.opens_chat("carol")?;
        chat.says("and a chat")?;
        chat.hangs_up()?;
        let grown = resident(stage)?.saturating_sub(before);
        stage.observe(grown < 96 * MIB, &format!("{} MiB more", grown / MIB))?;
        drop(held);
        // Room for the connections of those who talk.
        expect_released(stage, open + 8)
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    on_stage(&Configuration::digest(), 4, |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        let sip = stage.server().sip_address(Transport::Tcp)?;
        let open = descriptors(stage)?;
        for number in 0..1_000 {
            let address = if number % 2 == 0 { sip } else { msrp(stage) };
            let mut stream = TcpStream::connect(address)?;
            match number % 3 {
                0 => {}
                1 => stream.write_all(b"half a w")?,
                // Unread octets make the end a reset.
                _ => {
                    let _ = stream.write_all(b"\r\n\r\n");
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
        }
        alice.asks_options()?;
        expect_released(stage, open + 8)
    });
}
