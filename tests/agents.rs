//! The test agents against each other, without a server between them: what the black-box tests
//! rely on is tested itself.

use std::net::SocketAddr;
use std::time::Duration;

use restante::demo::{
    Answering, Disposition, Draft, Failure, Profile, Reaction, Settings, Setup, Transcript,
    Transport, UserAgent,
};

/// Two agents, each the other's server.
fn alice_and_bob(transport: Transport) -> Result<(UserAgent, UserAgent), Failure> {
    let transcript = Transcript::new();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let agent = |user: &str| {
        UserAgent::new(Settings {
            user: user.to_owned(),
            domain: "im.test".to_owned(),
            password: None,
            transport,
            profile: Profile::Rcs,
            server: nowhere,
            transcript: transcript.clone(),
        })
    };
    let (alice, bob) = (agent("alice")?, agent("bob")?);
    alice.use_server(bob.address());
    bob.use_server(alice.address());
    Ok((alice, bob))
}

#[test]
fn a_message_arrives_to_the_last_octet_over_udp_and_tcp() -> Result<(), Failure> {
    for transport in [Transport::Udp, Transport::Tcp] {
        let (alice, bob) = alice_and_bob(transport)?;
        let body = b"\0\x01\r\n\r\n\xff\r\n";
        alice
            .sends_body("bob", "application/octet-stream", body)?
            .expect_status(200)?;
        assert_eq!(bob.expect_message()?.text().body(), body);
    }
    Ok(())
}

#[test]
fn a_repeated_request_is_answered_alike_and_taken_once() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    let sent = alice.sends_message("bob", "hello")?;
    sent.repeats()?;
    sent.expect_status(200)?;
    bob.expect_text("hello")?;
    bob.expect_no("MESSAGE")
}

#[test]
fn a_silent_agent_answers_late() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    bob.reacts_to_messages(Reaction::StaySilent);
    let sent = alice.sends_message("bob", "hello")?;
    let message = bob.expect_message()?;
    message.answers(480);
    sent.expect_status(480).map(|_| ())
}

#[test]
fn a_chat_comes_up_whoever_connects() -> Result<(), Failure> {
    for transport in [Transport::Udp, Transport::Tcp] {
        for setup in [Setup::Active, Setup::Passive] {
            let (alice, bob) = alice_and_bob(transport)?;
            let calling = std::thread::scope(|scope| {
                let call = scope.spawn(|| alice.opens_chat("bob"));
                let chat = bob.expect_invite()?.answers(setup, "sendrecv")?;
                let from_alice = call.join().expect("no panic")?;
                from_alice.says("one")?;
                chat.says("two")?;
                chat.expect_text("one")?;
                from_alice.expect_text("two")?;
                from_alice.hangs_up()?;
                chat.expect_bye()
            });
            calling?;
        }
    }
    Ok(())
}

#[test]
fn chunks_are_put_together_in_any_order() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.opens_chat("bob"));
        let chat = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        let from_alice = call.join().expect("no panic")?;
        let body: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let sent = from_alice
            .msrp
            .sending("application/octet-stream", &body)
            .in_chunks(2_048)
            .backwards()
            .success_report()
            .send()?;
        sent.expect_status(200)?;
        sent.expect_report(200)?;
        let message = chat.msrp.expect_message()?;
        assert_eq!((message.body, message.chunks), (body, 49));
        Ok(())
    })
}

#[test]
fn failure_report_no_gets_no_answer_and_a_limit_ends_answers() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| alice.opens_chat("bob"));
        let chat = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
        let from_alice = call.join().expect("no panic")?;
        let quiet = from_alice.msrp.sending("text/plain", b"quiet");
        let quiet = quiet.failure_report("no").send()?;
        quiet.expect_no_answer(Duration::from_millis(200))?;
        chat.msrp.expect_message()?;
        chat.msrp.answers_messages(Answering::Only(1));
        from_alice.says("confirmed")?;
        let unanswered = from_alice.sends(&alice.envelope("bob", "not confirmed"))?;
        unanswered.expect_no_answer(Duration::from_millis(200))?;
        assert!(chat.msrp.expect_message()?.confirmed_at.is_some());
        assert!(chat.msrp.expect_message()?.confirmed_at.is_none());
        chat.msrp.drops_connection();
        from_alice.msrp.expect_closed()
    })
}

#[test]
fn a_cancelled_invitation_ends_with_487() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    let mut call = alice.invites("bob")?;
    let ringing = bob.expect_invite()?;
    ringing.rings();
    call.expect_ringing()?;
    call.cancels()?;
    ringing.expect_cancel()
}

#[test]
fn a_refused_invitation_is_acknowledged() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    let call = alice.invites("bob")?;
    bob.expect_invite()?.refuses(486);
    call.expect_status(486)?;
    bob.expect_request("ACK").map(|_| ())
}

#[test]
fn a_notification_names_the_message_it_is_about() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Tcp)?;
    let asked = alice.envelope("bob", "hello").asking("positive-delivery");
    alice.sends_envelope("bob", &asked)?.expect_status(200)?;
    let got = bob.expect_text("hello")?;
    assert_eq!(got, asked);
    bob.notifies(&got, Disposition::Delivered)?;
    alice
        .expect_notification("delivered", &asked.message_id)
        .map(|_| ())
}

#[test]
fn what_is_expected_and_does_not_come_is_told_with_the_conversation() -> Result<(), Failure> {
    let (alice, bob) = alice_and_bob(Transport::Udp)?;
    alice.sends(Draft::new("INFO", "sip:bob@im.test"))?;
    let missing = bob.expect_request_within("MESSAGE", Duration::from_millis(100));
    let failure = missing.err().expect("there was no MESSAGE");
    assert_eq!(failure.step(), "bob got no MESSAGE");
    assert!(failure.to_string().contains("INFO sip:bob@im.test SIP/2.0"));
    Ok(())
}
