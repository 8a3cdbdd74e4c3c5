//! Dialogs between two phones that pass through the server: their later requests find the other
//! end, in both directions, whatever the transports (RFC 3261 §16, RFC 5658).

use restante::demo::{Draft, Failure, Profile, SipText, Transport, UserAgent};

use crate::support::{Configuration, Stage, on_every_shard_count};

const AUDIO: &[u8] = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 49170 RTP/AVP 0\r\n";

/// A dialog as one of its ends sees it.
struct End {
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
}

impl End {
    fn of_caller(answer: &SipText) -> Self {
        let mut routes = answer.values("Record-Route");
        routes.reverse();
        Self {
            call_id: answer.header_or_empty("Call-ID").to_owned(),
            local: answer.header_or_empty("From").to_owned(),
            remote: answer.header_or_empty("To").to_owned(),
            target: answer.contact_uri().to_owned(),
            routes,
        }
    }

    fn of_callee(request: &SipText, answer: &SipText) -> Self {
        Self {
            call_id: answer.header_or_empty("Call-ID").to_owned(),
            local: answer.header_or_empty("To").to_owned(),
            remote: answer.header_or_empty("From").to_owned(),
            target: request.contact_uri().to_owned(),
            routes: request.values("Record-Route"),
        }
    }

    fn draft(&self, method: &str, cseq: u32) -> Draft {
        let draft = Draft::new(method, &self.target)
            .from_value(&self.local)
            .to_value(&self.remote)
            .call_id(&self.call_id)
            .cseq(cseq);
        let routes = self.routes.iter();
        routes.fold(draft, |draft, route| draft.header("Route", route))
    }
}

fn contact(uri: &str) -> (&'static str, String) {
    ("Contact", format!("<{uri}>"))
}

/// Alice's request of `method` begins a dialog that Bob accepts; each is known by this Contact.
fn begin(
    stage: &Stage,
    method: &str,
    (alice, at): (&UserAgent, &str),
    (bob, bob_at): (&UserAgent, &str),
) -> Result<(End, End), Failure> {
    let draft = Draft::new(method, "sip:bob@im.test")
        .cseq(1)
        .header("Contact", &format!("<{at}>"))
        .header("Event", "presence")
        .body("application/sdp", AUDIO);
    let sent = alice.sends(draft)?;
    let answer = std::thread::scope(|scope| {
        let caller = scope.spawn(|| sent.expect_status(200));
        let request = bob.expect_request(method)?;
        request.answers_with(200, &[contact(bob_at)], &[]);
        let answer = caller.join().expect("the caller does not panic")?;
        Ok::<_, Failure>((request.text().clone(), answer))
    });
    let (request, answer) = answer?;
    stage.observe(
        request.values("Record-Route").len() == 2,
        "the server stays on the path, once for each side",
    )?;
    let (near, far) = (End::of_caller(&answer), End::of_callee(&request, &answer));
    if method == "INVITE" {
        alice.sends(near.draft("ACK", 1))?;
        bob.expect_request("ACK")?;
    }
    Ok((near, far))
}

/// One end asks and the other answers 200.
fn asks(from: &UserAgent, to: &UserAgent, draft: Draft, method: &str) -> Result<SipText, Failure> {
    let sent = from.sends(draft)?;
    let request = to.expect_request(method)?;
    if method != "BYE" {
        request.answers(200);
    }
    sent.expect_status(200)?;
    Ok(request.text().clone())
}

#[test]
fn a_call_lives_and_ends_from_either_side_with_digest() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        for transports in [
            (Transport::Udp, Transport::Udp),
            (Transport::Udp, Transport::Tcp),
            (Transport::Tcp, Transport::Udp),
            (Transport::Tcp, Transport::Tcp),
        ] {
            let alice = stage.agent_with("alice", transports.0, Profile::Plain)?;
            let bob = stage.agent_with("bob", transports.1, Profile::Plain)?;
            bob.registers()?;
            let (at, bob_at) = (alice.contact_uri(), bob.contact_uri());
            let (near, far) = begin(stage, "INVITE", (&alice, &at), (&bob, &bob_at))?;
            let seen = asks(&alice, &bob, near.draft("INFO", 2), "INFO")?;
            stage.observe(seen.values("Route").is_empty(), "our routes are taken off")?;
            stage.observe(seen.request_uri() == bob_at, "it is for his Contact")?;
            let seen = asks(&bob, &alice, far.draft("INFO", 101), "INFO")?;
            stage.observe(seen.values("Route").is_empty(), "our routes are taken off")?;
            asks(&bob, &alice, far.draft("BYE", 102), "BYE")?;
            bob.unregisters()?;
        }
        Ok(())
    });
}

#[test]
fn a_phone_behind_tcp_is_reached_over_its_connection_whatever_its_contact_says() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Plain)?;
        let bob = stage.agent_with("bob", Transport::Tcp, Profile::Plain)?;
        bob.registers()?;
        // Nobody listens there; neither of the two is registered.
        let at = "sip:alice@127.0.0.1:9;transport=tcp";
        let bob_at = "sip:elsewhere@127.0.0.1:9;transport=tcp";
        let (near, far) = begin(stage, "INVITE", (&alice, at), (&bob, bob_at))?;
        asks(&alice, &bob, near.draft("INFO", 2), "INFO")?;
        asks(&bob, &alice, far.draft("INFO", 101), "INFO")?;
        asks(&alice, &bob, near.draft("BYE", 3), "BYE")?;
        Ok(())
    });
}

#[test]
fn a_caller_who_registers_again_over_another_connection_is_found_there() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent_with("alice", Transport::Tcp, Profile::Plain)?;
        let bob = stage.agent("bob")?;
        alice.registers()?;
        bob.registers()?;
        let (at, bob_at) = (alice.contact_uri(), bob.contact_uri());
        let (near, far) = begin(stage, "SUBSCRIBE", (&alice, &at), (&bob, &bob_at))?;
        asks(&bob, &alice, far.draft("NOTIFY", 1), "NOTIFY")?;
        alice.drops_connection();
        alice.registers()?;
        asks(&bob, &alice, far.draft("NOTIFY", 2), "NOTIFY")?;
        asks(&alice, &bob, near.draft("SUBSCRIBE", 2), "SUBSCRIBE")?;
        Ok(())
    });
}

#[test]
fn a_contact_that_is_a_host_name_is_looked_up() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let at = format!("sip:alice@localhost:{}", alice.address().port());
        let bob_at = format!("sip:bob@localhost:{}", bob.address().port());
        let (near, far) = begin(stage, "INVITE", (&alice, &at), (&bob, &bob_at))?;
        asks(&alice, &bob, near.draft("INFO", 2), "INFO")?;
        asks(&bob, &alice, far.draft("BYE", 101), "BYE")?;
        Ok(())
    });
}

#[test]
fn a_contact_whose_name_has_no_address_fails_that_request_alone() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let at = "sip:alice@nowhere.invalid";
        let bob_at = bob.contact_uri();
        let (near, far) = begin(stage, "SUBSCRIBE", (&alice, at), (&bob, &bob_at))?;
        bob.sends(far.draft("NOTIFY", 101))?.expect_status(500)?;
        asks(&alice, &bob, near.draft("SUBSCRIBE", 2), "SUBSCRIBE")?;
        Ok(())
    });
}

#[test]
fn nobody_enters_a_dialog_without_its_route_nor_claims_an_identity_in_it() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let (at, bob_at) = (alice.contact_uri(), bob.contact_uri());
        let (near, _) = begin(stage, "INVITE", (&alice, &at), (&bob, &bob_at))?;
        let claiming = near
            .draft("INFO", 2)
            .header("P-Asserted-Identity", "<sip:carol@im.test>");
        let seen = asks(&alice, &bob, claiming, "INFO")?;
        let claim = seen.header("P-Asserted-Identity");
        stage.observe(claim.is_none(), "what a user asserts is taken off")?;
        let mallory = UserAgent::new(stage.settings("mallory", Transport::Udp, Profile::Plain)?)?;
        let foreign = near.draft("INFO", 3).call_id("another-call");
        mallory.sends(foreign)?.expect_status(407)?;
        bob.expect_no("INFO")
    });
}

#[test]
fn a_forked_call_rings_everywhere_and_the_first_answer_ends_the_other() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let phone = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        let tablet = stage.agent_with("bob", Transport::Tcp, Profile::Plain)?;
        phone.registers()?;
        tablet.registers()?;
        let draft = Draft::new("INVITE", "sip:bob@im.test")
            .cseq(1)
            .header("Contact", &format!("<{}>", alice.contact_uri()))
            .body("application/sdp", AUDIO);
        let sent = alice.sends(draft)?;
        let ringing = phone.expect_request("INVITE")?;
        ringing.answers(180);
        let taken = tablet.expect_request("INVITE")?;
        let answer = std::thread::scope(|scope| {
            let caller = scope.spawn(|| sent.expect_status(200));
            taken.answers_with(200, &[contact(&tablet.contact_uri())], &[]);
            caller.join().expect("the caller does not panic")
        })?;
        phone.expect_request("CANCEL")?;
        let near = End::of_caller(&answer);
        alice.sends(near.draft("ACK", 1))?;
        tablet.expect_request("ACK")?;
        asks(&alice, &tablet, near.draft("BYE", 2), "BYE")?;
        Ok(())
    });
}

#[test]
fn a_caller_who_gives_up_stops_the_ringing() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let draft = Draft::new("INVITE", "sip:bob@im.test")
            .header("Contact", &format!("<{}>", alice.contact_uri()))
            .body("application/sdp", AUDIO);
        let mut sent = alice.sends(draft)?;
        bob.expect_request("INVITE")?.answers(180);
        let invite = sent.request();
        let cancel = format!(
            "CANCEL {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {} CANCEL\r\nContent-Length: 0\r\n\r\n",
            invite.request_uri(),
            invite.header_or_empty("Via"),
            invite.header_or_empty("From"),
            invite.header_or_empty("To"),
            invite.header_or_empty("Call-ID"),
            invite.cseq_number(),
        );
        alice.sends_octets(cancel.as_bytes())?;
        bob.expect_request("CANCEL")?;
        let answer = sent.final_answer(std::time::Duration::from_secs(10))?;
        stage.observe(answer.status() == 487, "the INVITE is answered 487")
    });
}
