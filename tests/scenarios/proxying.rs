//! What the server passes on without looking inside (RFC 3261 §16).

use restante::demo::Draft;

use crate::support::{Configuration, on_every_shard_count};

const AUDIO: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 49170 RTP/AVP 0\r\n";

#[test]
fn subscriptions_and_other_requests_reach_the_device_and_its_answer_comes_back() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        for method in ["SUBSCRIBE", "INFO", "UNHEARDOF"] {
            let draft = Draft::new(method, "sip:bob@im.test")
                .header("Contact", &format!("<{}>", alice.contact_uri()))
                .header("Event", "presence");
            let sent = alice.sends(draft)?;
            let request = bob.expect_request(method)?;
            stage.observe(
                request.text().header("Max-Forwards") == Some("69"),
                "one hop was counted",
            )?;
            request.answers(200);
            sent.expect_status(200)?;
        }
        Ok(())
    });
}

#[test]
fn an_audio_call_is_proxied_and_its_refusal_acknowledged() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let draft = alice
            .invite_draft("bob", "audio")
            .body("application/sdp", AUDIO.as_bytes());
        let sent = alice.sends(draft)?;
        let request = bob.expect_request("INVITE")?;
        stage.observe(
            request.text().body() == AUDIO.as_bytes(),
            "the offer is untouched",
        )?;
        stage.observe(
            request.text().values("Via").len() == 2,
            "the server put its Via on top",
        )?;
        request.answers(603);
        sent.expect_status(603)?;
        bob.expect_request("ACK")?;
        Ok(())
    });
}

#[test]
fn without_a_device_the_answer_is_480() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let sent = alice.sends(Draft::new("SUBSCRIBE", "sip:bob@im.test"))?;
        sent.expect_status(480)?;
        Ok(())
    });
}

#[test]
fn the_last_hop_goes_no_further() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let draft = Draft::new("INFO", "sip:bob@im.test").max_forwards(0);
        alice.sends(draft)?.expect_status(483)?;
        bob.expect_no("INFO")
    });
}

#[test]
fn an_unknown_method_to_the_server_itself_is_not_allowed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let sent = alice.sends(Draft::new("UNHEARDOF", "sip:im.test"))?;
        let answer = sent.expect_status(501)?;
        stage.observe(answer.header("Allow").is_some(), "Allow says what is")
    });
}
