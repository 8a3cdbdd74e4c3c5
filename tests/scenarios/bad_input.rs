//! What nobody should send, sent. The server answers or ignores it, and goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use restante::demo::{
    Draft, Failure, MsrpEnd, Profile, Setup, SipText, Transcript, Transport, UserAgent, fresh,
};

use crate::support::{Configuration, Stage, on_every_shard_count};

/// In the manner of RFC 4475 §3.1.2 and §3.3: none of these may do anything but be refused.
const JUNK: [&[u8]; 10] = [
    b"",
    b"\0\0\0\0",
    b"\r\n\r\n",
    b"SIP/2.0\r\n\r\n",
    b"MESSAGE sip:bob@im.test SIP/2.0\r\n\r\n",
    b"MESSAGE sip:bob@im.test SIP/2.0\r\nVia: \r\nFrom\r\n\r\n",
    b"MESSAGE  sip:bob@im.test  SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\r\n",
    b"MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK2\r\n\
      Content-Length: 4294967297\r\nContent-Length: -1\r\n\r\n",
    b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP nobody;branch=z9hG4bKnobody\r\n\
      From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n\r\n",
    b"\xff\xfe\xfd INVITE \x80\x81",
];

/// Something is kept, `harm` is done, and it is still there.
fn nothing_kept_is_touched(
    stage: &Stage,
    harm: impl Fn() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
    alice.sends_message("bob", "kept")?.expect_status(202)?;
    harm()?;
    bob.registers()?;
    bob.expect_text("kept")?;
    bob.expect_no("MESSAGE")
}

#[test]
fn junk_over_udp_and_tcp_harms_nobody() {
    on_every_shard_count(&Configuration::open(), |stage| {
        nothing_kept_is_touched(stage, || {
            for transport in [Transport::Udp, Transport::Tcp] {
                let mallory = stage.agent_with("mallory", transport, Profile::Plain)?;
                for junk in JUNK {
                    mallory.sends_octets(junk)?;
                    // Over TCP junk ends the stream: where the next message begins is lost.
                    mallory.drops_connection();
                }
            }
            Ok(())
        })
    });
}

#[test]
fn a_request_that_contradicts_itself_is_answered_400() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let mallory = stage.agent("mallory")?;
        let head = |cseq: &str, branch: &str| {
            format!(
                "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/UDP {};branch={branch};rport\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:mallory@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\n\
                 Call-ID: {branch}\r\nCSeq: {cseq}\r\n",
                mallory.address()
            )
        };
        for cseq in ["1 INVITE", "banana MESSAGE", "4294967296 MESSAGE"] {
            let octets = format!("{}Content-Length: 0\r\n\r\n", head(cseq, &fresh("z9hG4bK")));
            let answer = mallory.answer_to_octets(octets.as_bytes())?;
            stage.observe(answer.status() == 400, "it is answered 400")?;
        }
        let short = format!(
            "{}Content-Length: 500\r\n\r\nshort",
            head("1 MESSAGE", &fresh("z9hG4bK"))
        );
        let answer = mallory.answer_to_octets(short.as_bytes())?;
        stage.observe(answer.status() == 400, "a missing body is answered 400")
    });
}

#[test]
fn a_body_over_tcp_without_its_length_is_answered_400_and_not_taken() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let bob = stage.agent("bob")?;
        bob.registers()?;
        for line in ["", "Content-Type: text/plain\r\n"] {
            let mallory = stage.agent_with("mallory", Transport::Tcp, Profile::Plain)?;
            let branch = fresh("z9hG4bK");
            let octets = format!(
                "MESSAGE sip:bob@im.test SIP/2.0\r\nVia: SIP/2.0/TCP {};branch={branch};rport\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:mallory@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\n\
                 Call-ID: {branch}\r\nCSeq: 1 MESSAGE\r\n{line}\r\nhello",
                mallory.address()
            );
            let answer = mallory.answer_to_octets(octets.as_bytes())?;
            stage.observe(answer.status() == 400, "it is answered 400")?;
        }
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_request_without_a_sound_start_line_is_answered_400() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for (transport, name) in [(Transport::Udp, "UDP"), (Transport::Tcp, "TCP")] {
            let mallory = stage.agent_with("mallory", transport, Profile::Plain)?;
            for start in [
                "MESSAGE",
                "MESSAGE sip:bob@im.test",
                "<MESSAGE> sip:bob@im.test SIP/2.0",
                "MESSAGE sip:bob@im.test sip:carol@im.test HTTP/1.1",
            ] {
                let branch = fresh("z9hG4bK");
                let octets = format!(
                    "{start}\r\nVia: SIP/2.0/{name} {};branch={branch};rport\r\nMax-Forwards: 70\r\n\
                     From: <sip:mallory@im.test>;tag=1\r\nTo: <sip:bob@im.test>\r\n\
                     Call-ID: {branch}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n",
                    mallory.address()
                );
                let answer = mallory.answer_to_octets(octets.as_bytes())?;
                stage.observe(answer.status() == 400, &format!("{start}: 400"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn another_version_is_answered_505() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let mallory = stage.agent("mallory")?;
        let octets = format!(
            "OPTIONS sip:im.test SIP/3.0\r\nVia: SIP/2.0/UDP {};branch={};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:mallory@im.test>;tag=1\r\nTo: <sip:im.test>\r\n\
             Call-ID: version\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
            mallory.address(),
            fresh("z9hG4bK")
        );
        let answer = mallory.answer_to_octets(octets.as_bytes())?;
        stage.observe(answer.status() == 505, "it is answered 505")
    });
}

#[test]
fn a_request_over_the_limit_is_refused_before_it_is_read() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Rcs)?;
        let draft = Draft::new("MESSAGE", "sip:bob@im.test")
            .body("application/octet-stream", &vec![b'x'; 400_000]);
        let mut sent = alice.sends(draft)?;
        let answer = sent.final_answer(Duration::from_secs(10))?;
        stage.observe(
            matches!(answer.status(), 413 | 513),
            "it is answered 413 or 513",
        )
    });
}

#[test]
fn an_unknown_msrp_session_is_answered_481() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let end = MsrpEnd::open("mallory", &Transcript::new())?;
        let address = stage.server().ready().msrp[0].replace("tcp://", "msrp://");
        let session = end.dials(&format!("{address}/nobody-knows-this-session;tcp"))?;
        session
            .sending("text/plain", b"hello")
            .send()?
            .expect_status(481)
    });
}

#[test]
fn broken_msrp_closes_its_connection_and_no_other() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let chat = alice.opens_chat("bob")?;
        chat.says("before")?;
        let address = stage.server().ready().msrp[0].replace("tcp://", "");
        for junk in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"MSRP\r\n\r\n",
            &[0xff; 70_000],
        ] {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let _ = stream.write_all(junk);
            let closed = matches!(stream.read(&mut [0; 64]), Ok(0))
                || stream
                    .read(&mut [0; 64])
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            stage.observe(closed, "the connection is closed")?;
        }
        chat.says("after")?;
        chat.hangs_up()?;
        bob.registers()?;
        let replay = bob.expect_invite()?.answers_recvonly(Setup::Active)?;
        replay.expect_text("before")?;
        replay.expect_text("after")?;
        Ok(())
    });
}

#[test]
fn what_a_chat_requires_and_we_do_not_know_is_refused_by_name() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let offer = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            m=message 9 TCP/MSRP *\r\na=accept-types:*\r\na=path:msrp://127.0.0.1:9/s;tcp\r\n";
        let draft = alice
            .invite_draft("bob", "conversation")
            .header("Require", "timer, 100rel, precondition, tdialog")
            .body("application/sdp", offer.as_bytes());
        let answer = alice.sends(draft)?.expect_status(420)?;
        stage.observe(
            answer.header("Unsupported") == Some("precondition, tdialog"),
            "what is not supported is named",
        )?;
        let draft = Draft::new("INFO", "sip:bob@im.test").header("Proxy-Require", "privacy");
        let answer = alice.sends(draft)?.expect_status(420)?;
        stage.observe(
            answer.header("Unsupported") == Some("privacy"),
            "what is not supported is named",
        )
    });
}

#[test]
fn addresses_that_nobody_can_reach_are_refused_by_their_kind() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        for (uri, status) in [
            ("sip:nobody@im.test", 404),
            ("sip:somebody@elsewhere.test", 404),
            ("nobodyknows:opaque", 416),
            ("tel:+46701234567", 404),
        ] {
            let draft = Draft::new("MESSAGE", uri).body("text/plain", b"hello");
            alice.sends(draft)?.expect_status(status)?;
        }
        Ok(())
    });
}

/// An INVITE for Bob with that body, and what it is answered.
fn invited(alice: &UserAgent, draft: Draft, status: u16) -> Result<SipText, Failure> {
    alice.sends(draft)?.expect_status(status)
}

#[test]
fn an_invite_from_which_no_session_can_come_is_told_why_when_nobody_is_there() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let draft = || Draft::new("INVITE", "sip:bob@im.test").header("Contact", &alice.contact());
        for draft in [draft(), alice.invite_draft("bob", "c")] {
            let none = invited(&alice, draft, 488)?;
            let warning = none.header_or_empty("Warning");
            stage.observe(warning.starts_with("399 "), "what is missing is named")?;
        }
        let audio = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
            m=audio 9 RTP/AVP 0\r\n";
        let sdp = draft().body("application/sdp", audio.as_bytes());
        let refused = invited(&alice, sdp, 488)?;
        let warning = refused.header_or_empty("Warning");
        stage.observe(warning.starts_with("304 "), "the media is named")?;
        let broken = draft().body("application/sdp", b"v=0\r\nnonsense\r\n");
        invited(&alice, broken, 400)?;
        let text = invited(&alice, draft().body("text/plain", b"hello"), 415)?;
        let accepted = text.header_or_empty("Accept");
        stage.observe(
            accepted.contains("application/sdp"),
            "what is taken is named",
        )
    });
}

#[test]
fn an_invite_for_other_media_goes_to_the_device_that_is_there() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let draft = Draft::new("INVITE", "sip:bob@im.test").header("Contact", &alice.contact());
        let mut sent = alice.sends(draft)?;
        bob.expect_invite()?.refuses(486);
        let answer = sent.final_answer(Duration::from_secs(10))?;
        stage.observe(answer.status() == 486, "the device decides")?;
        // Who asks for a session of ours hears from us what is wrong.
        let broken = alice
            .invite_draft("bob", "c")
            .body("application/sdp", b"v=0\r\nx\r\n");
        invited(&alice, broken, 400)?;
        bob.expect_no("INVITE")
    });
}

#[test]
fn nothing_is_taken_for_an_address_that_promises_tls() {
    on_every_shard_count(&Configuration::open(), |stage| {
        for transport in [Transport::Udp, Transport::Tcp] {
            let alice = stage.agent_with("alice", transport, Profile::Rcs)?;
            for method in ["MESSAGE", "INVITE", "OPTIONS", "INFO"] {
                let draft = Draft::new(method, "sips:bob@im.test").body("text/plain", b"hello");
                let refused = alice.sends(draft)?.expect_status(480)?;
                let warning = refused.header_or_empty("Warning");
                stage.observe(warning.starts_with("380 "), "SIPS is not allowed")?;
            }
            let contact = |uri| {
                let draft = Draft::new("REGISTER", uri).to_value("<sip:alice@im.test>");
                draft.header("Contact", "<sips:alice@127.0.0.1>")
            };
            alice.sends(contact("sip:im.test"))?.expect_status(400)?;
            alice.sends(contact("sips:im.test"))?.expect_status(480)?;
        }
        Ok(())
    });
}

#[test]
fn how_long_something_is_valid_is_a_number() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let message = |expires: &str| {
            let draft = Draft::new("MESSAGE", "sip:bob@im.test").header("Expires", expires);
            draft.body("text/plain", b"hello")
        };
        for expires in ["never", "", "-1", "1 2", "Sat, 21 Nov 2026 10:00:00 GMT"] {
            alice.sends(message(expires))?.expect_status(400)?;
        }
        alice
            .sends(message("99999999999999999999999"))?
            .expect_status(202)?;
        // RFC 3261 §20.10: to a registrar it is an hour.
        let contact = format!("{};expires=never", bob.contact());
        let answer = bob.sends_register(&contact)?.expect_status(200)?;
        let granted = answer.header_or_empty("Contact");
        stage.observe(granted.contains(";expires=3600"), granted)?;
        bob.expect_message()?;
        Ok(())
    });
}

#[test]
fn a_malformed_answer_of_a_device_counts_for_nothing() {
    let configuration = Configuration::open().with("deferral", "answer_within = \"1s\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        bob.reacts_to_messages(restante::demo::Reaction::StaySilent);
        let sent = alice.sends_message("bob", "hello")?;
        let request = bob.expect_message()?;
        let via = request.text().headers("Via");
        let vias: String = via.map(|value| format!("Via: {value}\r\n")).collect();
        let answer = format!(
            "SIP/2.0 200 OK\r\n{vias}From: <sip:a\r\nTo: x\r\nCall-ID: {}\r\nCSeq: banana\r\n\r\n",
            request.text().header_or_empty("Call-ID")
        );
        bob.sends_octets(answer.as_bytes())?;
        sent.expect_status(202)?;
        Ok(())
    });
}

#[test]
fn a_message_over_the_limit_is_refused_by_the_way_it_came() {
    let configuration = Configuration::open().with("sip", "max_message_size = \"2 KiB\"");
    on_every_shard_count(&configuration, |stage| {
        for transport in [Transport::Udp, Transport::Tcp] {
            let alice = stage.agent_with("alice", transport, Profile::Rcs)?;
            let mut sent = alice.sends_body("bob", "text/plain", &[b'x'; 3_000])?;
            let answer = sent.final_answer(Duration::from_secs(10))?;
            let status = answer.status();
            stage.observe(matches!(status, 413 | 513), &format!("not {status}"))?;
            // A stream that carried more than it may is closed.
            alice.drops_connection();
            alice
                .sends_body("bob", "text/plain", &[b'x'; 1_000])?
                .expect_status(202)?;
        }
        Ok(())
    });
}
