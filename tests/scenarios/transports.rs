//! Framing, keep-alives, the way back of answers, and long requests (RFC 3261 §18, RFC 3581,
//! RFC 5626 §3.5.1).

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use restante::demo::{Failure, Profile, Transport, fresh};

use crate::support::{Configuration, Stage, on_every_shard_count};

fn options(transport: &str, sent_by: &str, more: &str) -> String {
    format!(
        "OPTIONS sip:im.test SIP/2.0\r\nVia: SIP/2.0/{transport} {sent_by};branch={}{more}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@im.test>;tag=1\r\nTo: <sip:im.test>\r\n\
         Call-ID: {}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
        fresh("z9hG4bK"),
        fresh("call-"),
    )
}

fn connect(stage: &Stage) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(stage.server().sip_address(Transport::Tcp)?)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Reads until `count` answers 200 have come.
fn read_answers(stream: &mut TcpStream, count: usize) -> Result<String, Failure> {
    let mut text = String::new();
    let mut buffer = [0; 4_096];
    while text.matches("SIP/2.0 200 ").count() < count || !text.ends_with("\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(Failure::plain("the stream ended"));
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    Ok(text)
}

#[test]
fn a_stream_is_cut_into_messages_however_it_arrives() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let mut stream = connect(stage)?;
        let both = [
            options("TCP", "127.0.0.1:9", ""),
            options("TCP", "127.0.0.1:9", ""),
        ]
        .concat();
        stream.write_all(both.as_bytes())?;
        read_answers(&mut stream, 2)?;
        for octet in options("TCP", "127.0.0.1:9", "").as_bytes() {
            stream.write_all(&[*octet])?;
        }
        read_answers(&mut stream, 1)?;
        Ok(())
    });
}

#[test]
fn a_double_crlf_on_a_stream_is_answered_by_a_single_one() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let mut stream = connect(stage)?;
        stream.write_all(b"\r\n\r\n")?;
        let mut pong = [0; 2];
        stream.read_exact(&mut pong)?;
        stage.observe(&pong == b"\r\n", "the pong is a CRLF")?;
        stream.write_all(options("TCP", "127.0.0.1:9", "").as_bytes())?;
        read_answers(&mut stream, 1)?;
        Ok(())
    });
}

#[test]
fn an_answer_goes_where_rport_or_the_via_says() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let server = stage.server().sip_address(Transport::Udp)?;
        let (near, named) = (
            UdpSocket::bind("127.0.0.1:0")?,
            UdpSocket::bind("127.0.0.1:0")?,
        );
        let mut buffer = [0; 4_096];
        for (more, heard) in [(";rport", &near), ("", &named)] {
            heard.set_read_timeout(Some(Duration::from_secs(10)))?;
            let sent_by = format!("10.9.8.7:{}", named.local_addr()?.port());
            near.send_to(options("UDP", &sent_by, more).as_bytes(), server)?;
            let length = heard.recv(&mut buffer)?;
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            stage.observe(answer.contains(";received=127.0.0.1"), "received is told")?;
            let rport = format!(";rport={}", near.local_addr()?.port());
            stage.observe(
                answer.contains(&rport) != more.is_empty(),
                "rport is told to who asks",
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_long_message_to_a_phone_that_has_only_udp_arrives_once() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        let bob = stage.agent("bob")?;
        bob.registers()?;
        let text = "long ".repeat(1_000);
        alice.sends_message("bob", &text)?.expect_status(200)?;
        bob.expect_text(&text)?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_body_in_an_unknown_encoding_passes_untouched() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let body: Vec<u8> = (0..=255).cycle().take(700).collect();
        let draft = restante::demo::Draft::new("MESSAGE", "sip:bob@im.test")
            .header("Content-Encoding", "x-secret")
            .header("Expires", "3600")
            .header("Date", "Sat, 13 Nov 2010 23:29:00 GMT")
            .body("application/x-blob", &body);
        alice.sends(draft)?.expect_status(200)?;
        let seen = bob.expect_message()?;
        stage.observe(seen.text().body() == body, "the body is the same")?;
        stage.observe(
            seen.text().header("Content-Encoding") == Some("x-secret")
                && seen.text().header("Expires") == Some("3600")
                && seen.text().header("Date").is_some(),
            "and so are its header fields",
        )
    });
}
