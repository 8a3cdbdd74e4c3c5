//! Several devices of one user: who gets what, which answer counts, and login sessions that pause
//! (C12, GU-6a, GU-6b).

use restante::demo::{
    Disposition, Failure, Profile, Reaction, SESSION_TAG, Setup, Transport, UserAgent,
};

use crate::support::{Configuration, on_every_shard_count, takes_replay, writes_while_bob_is_away};

/// Every device of a user gets its copy.
fn every() -> Configuration {
    Configuration::open()
        .with("users", "copy_to = \"every\"")
        .with("deferral", "retry = [\"1s\"]")
}

#[test]
fn a_message_rings_every_capable_contact_and_the_first_2xx_goes_upstream() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        phone.registers()?;
        tablet.registers()?;
        let sent = alice.sends_message("bob", "hello")?;
        phone.expect_text("hello")?;
        tablet.expect_text("hello")?;
        sent.expect_status(200)?;
        // Nothing was kept, so nothing comes again.
        phone.registers()?;
        phone.expect_no("MESSAGE")
    });
}

#[test]
fn the_first_device_to_answer_a_call_wins_and_the_others_are_cancelled() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        phone.registers()?;
        tablet.registers()?;
        let call = alice.invites("bob")?;
        let on_phone = phone.expect_invite()?;
        let on_tablet = tablet.expect_invite()?;
        on_tablet.rings();
        let theirs = on_phone.answers(Setup::Active, "sendrecv")?;
        let ours = call.expect_accepted()?;
        on_tablet.expect_cancel()?;
        ours.says("hello")?;
        theirs.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn a_device_that_wanted_another_interval_is_not_called_again_once_another_one_has_the_call() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        phone.registers()?;
        tablet.registers()?;
        let call = alice.invites("bob")?;
        let on_phone = phone.expect_invite()?;
        let on_tablet = tablet.expect_invite()?;
        // Its 422 crosses the CANCEL.
        on_tablet.picks_up();
        on_tablet.rings();
        let theirs = on_phone.answers(Setup::Active, "sendrecv")?;
        let ours = call.expect_accepted()?;
        on_tablet.expect_cancel()?;
        on_tablet.refuses_with(422, &[("Min-SE", "3600".to_owned())]);
        ours.says("hello")?;
        theirs.expect_text("hello")?;
        tablet.expect_no("INVITE")
    });
}

#[test]
fn a_second_200_is_acknowledged_and_ended() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        phone.registers()?;
        tablet.registers()?;
        let call = alice.invites("bob")?;
        let on_phone = phone.expect_invite()?;
        // Its 200 crosses the CANCEL.
        let on_tablet = tablet.expect_invite()?;
        on_tablet.picks_up();
        let theirs = on_phone.answers(Setup::Active, "sendrecv")?;
        let ours = call.expect_accepted()?;
        on_tablet.accepts_with_body("application/sdp", &on_tablet.offer())?;
        tablet.expect_request("BYE")?;
        ours.says("hello")?;
        theirs.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn by_default_the_first_device_gets_what_was_kept() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        phone.registers()?;
        takes_replay(&phone, &["one"])?;
        tablet.registers()?;
        tablet.expect_no("INVITE")
    });
}

/// T1 is so long that nobody gives a silent device up within the patience of a test.
fn patient() -> Configuration {
    Configuration::open().with("sip", "t1 = \"2s\"")
}

#[test]
fn what_a_device_took_as_it_left_does_not_come_again() {
    on_every_shard_count(&patient(), |stage| {
        let alice = stage.agent("alice")?;
        let bob = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        bob.reacts_to_messages(Reaction::StaySilent);
        bob.registers()?;
        let message = bob.expect_message()?;
        bob.unregisters()?;
        message.answers(200);
        bob.reacts_to_messages(Reaction::Answer(200));
        bob.asks_options()?;
        bob.registers()?;
        bob.expect_no("MESSAGE")
    });
}

#[test]
fn a_message_that_is_kept_for_want_of_an_answer_goes_to_the_device_that_came_before_that() {
    let configuration = patient().with("deferral", "answer_within = \"1s\"");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        let (old, new) = (stage.agent("bob")?, stage.agent("bob")?);
        old.reacts_to_messages(Reaction::StaySilent);
        old.registers()?;
        let sent = alice.sends_message("bob", "hello")?;
        old.expect_message()?;
        old.unregisters()?;
        new.registers()?;
        sent.expect_status(202)?;
        new.expect_text("hello").map(drop)
    });
}

#[test]
fn a_device_that_is_replaced_gives_up_the_session_it_was_offered() {
    on_every_shard_count(&patient(), |stage| {
        let alice = stage.agent("alice")?;
        let (old, new) = (stage.agent("bob")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        old.registers()?;
        let offered = old.expect_invite()?;
        offered.rings();
        old.unregisters()?;
        offered.expect_cancel()?;
        new.registers()?;
        takes_replay(&new, &["one"])
    });
}

#[test]
fn a_call_to_a_device_that_is_gone_goes_on_without_it() {
    let configuration = patient().with("deferral", "ring_timeout = \"2m\"");
    on_every_shard_count(&configuration, |stage| {
        let (alice, old) = (stage.agent("alice")?, stage.agent("bob")?);
        old.registers()?;
        let call = alice.invites("bob")?;
        let offered = old.expect_invite()?;
        offered.rings();
        old.unregisters()?;
        offered.expect_cancel()?;
        call.expect_accepted()?.says("kept").map(drop)
    });
}

#[test]
fn with_copies_every_device_gets_each_message_once() {
    on_every_shard_count(&every(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        let plain = stage.agent_with("bob", Transport::Udp, Profile::Plain)?;
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        alice.sends_message("bob", "three")?.expect_status(202)?;
        phone.registers()?;
        takes_replay(&phone, &["one", "two"])?;
        phone.expect_text("three")?;
        tablet.registers()?;
        takes_replay(&tablet, &["one", "two"])?;
        tablet.expect_text("three")?;
        plain.registers()?;
        for text in ["one", "two", "three"] {
            plain.expect_text(text)?;
        }
        for device in [&phone, &tablet, &plain] {
            device.registers()?;
            device.expect_no("INVITE")?;
            device.expect_no("MESSAGE")?;
        }
        Ok(())
    });
}

#[test]
fn what_a_device_has_got_is_remembered_over_a_kill() {
    on_every_shard_count(&every(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        phone.registers()?;
        takes_replay(&phone, &["one"])?;
        // A mark follows its BYE within moments; a second is ample and never asserted on.
        std::thread::sleep(std::time::Duration::from_secs(1));
        stage.kill9()?;
        stage.restart()?;
        phone.registers()?;
        phone.expect_no("INVITE")?;
        tablet.registers()?;
        takes_replay(&tablet, &["one"])
    });
}

#[test]
fn a_device_that_wants_nothing_now_does_not_keep_copies_from_the_others() {
    on_every_shard_count(&every(), |stage| {
        let alice = stage.agent("alice")?;
        let (tablet, phone) = (stage.agent("bob")?, stage.agent("bob")?);
        tablet.registers()?;
        phone.registers()?;
        let call = alice.invites("bob")?;
        phone.expect_invite()?.refuses(480);
        tablet.expect_invite()?.refuses(480);
        let chat = call.expect_accepted()?;
        chat.says("one")?;
        chat.hangs_up()?;
        phone.expect_invite()?.refuses(480);
        takes_replay(&tablet, &["one"])?;
        takes_replay(&phone, &["one"])
    });
}

#[test]
fn new_messages_go_straight_to_the_devices_while_copies_wait_for_others() {
    on_every_shard_count(&every(), |stage| {
        let alice = stage.agent("alice")?;
        let phone = stage.agent("bob")?;
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        phone.registers()?;
        phone.expect_text("kept")?;
        // Once it is settled: a round trip is not enough for the machine to have heard the 200.
        phone.asks_options()?;
        alice.sends_message("bob", "live")?.expect_2xx()?;
        phone.expect_text("live")?;
        phone.expect_no("MESSAGE")
    });
}

#[test]
fn a_message_that_one_device_got_expires_without_a_failure() {
    on_every_shard_count(&every(), |stage| {
        let (alice, phone) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        let asked = alice
            .envelope("bob", "short-lived")
            .asking("negative-delivery");
        let draft = restante::demo::Draft::new("MESSAGE", &alice.uri_of("bob"))
            .header("Expires", "3")
            .body("message/cpim", &asked.to_octets());
        alice.sends(draft)?.expect_status(202)?;
        phone.registers()?;
        phone.expect_text("short-lived")?;
        // It expires; the store is asked every second.
        std::thread::sleep(std::time::Duration::from_secs(5));
        alice.expect_no("MESSAGE")?;
        let tablet = stage.agent("bob")?;
        tablet.registers()?;
        tablet.expect_no("MESSAGE")
    });
}

#[test]
fn copies_to_two_devices_give_the_author_one_receipt() {
    on_every_shard_count(&every(), |stage| {
        let alice = stage.agent("alice")?;
        let devices = [stage.agent("bob")?, stage.agent("bob")?];
        alice.registers()?;
        let asked = alice.envelope("bob", "hello").asking("positive-delivery");
        alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        for device in &devices {
            device.registers()?;
            let got = device.expect_text("hello")?;
            device.notifies(&got, Disposition::Delivered)?;
        }
        alice.expect_notification("delivered", &asked.message_id)?;
        alice.expect_no("MESSAGE")
    });
}

/// Fetches and expects just these texts, then the BYE.
fn fetches(device: &UserAgent, texts: &[&str]) -> Result<(), Failure> {
    let session = device.fetches(&[])?.expect_accepted()?;
    for text in texts {
        session.expect_text(text)?;
    }
    session.expect_bye().map(|_| ())
}

#[test]
fn with_copies_a_device_fetches_what_it_lacks_and_the_others_still_get_theirs() {
    on_every_shard_count(&every(), |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one"])?;
        phone.registers()?;
        takes_replay(&phone, &["one"])?;
        phone.asks_options()?;
        phone.fetches(&[])?.expect_status(404)?;
        alice.sends_message("bob", "two")?.expect_2xx()?;
        phone.expect_text("two")?;
        tablet.registers()?;
        takes_replay(&tablet, &["one"])
    });
}

#[test]
fn a_fetch_takes_nothing_from_the_other_devices_that_get_copies() {
    let quiet = every()
        .with("users", "delivery = \"pull\"")
        .with("users", "announce_waiting = false");
    on_every_shard_count(&quiet, |stage| {
        let alice = stage.agent("alice")?;
        let (phone, tablet) = (stage.agent("bob")?, stage.agent("bob")?);
        writes_while_bob_is_away(&alice, &["one", "two"])?;
        phone.registers()?;
        tablet.registers()?;
        fetches(&phone, &["one", "two"])?;
        phone.fetches(&[])?.expect_status(404)?;
        fetches(&tablet, &["one", "two"])?;
        tablet.fetches(&[])?.expect_status(404)?;
        Ok(())
    });
}

#[test]
fn a_suspended_login_session_is_bound_and_gets_nothing_until_it_resumes() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let paused = format!("{};im-suspended", bob.contact());
        let answer = bob.sends_register(&paused)?.expect_status(200)?;
        stage.observe(
            answer.header_or_empty("Contact").contains("im-suspended"),
            "the binding stays",
        )?;
        alice.sends_message("bob", "pager")?.expect_status(202)?;
        writes_while_bob_is_away(&alice, &["chat"])?;
        bob.expect_no("MESSAGE")?;
        bob.expect_no("INVITE")?;
        bob.registers()?;
        bob.expect_text("pager")?;
        takes_replay(&bob, &["chat"])
    });
}

#[test]
fn a_device_that_takes_its_services_back_is_paused_not_downgraded() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let full = bob.contact();
        let bare = full.replace(&format!(";{SESSION_TAG}"), "");
        stage.observe(bare != full, "the tag is gone")?;
        bob.sends_register(&bare)?.expect_status(200)?;
        alice.sends_message("bob", "pager")?.expect_status(202)?;
        bob.expect_no("MESSAGE")?;
        bob.registers()?;
        bob.expect_text("pager")?;
        Ok(())
    });
}

#[test]
fn a_suspension_outlives_a_restart() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        let bare = bob.contact().replace(&format!(";{SESSION_TAG}"), "");
        bob.sends_register(&bare)?.expect_status(200)?;
        stage.terminates()?;
        stage.restart()?;
        alice.sends_message("bob", "pager")?.expect_status(202)?;
        bob.expect_no("MESSAGE")?;
        bob.registers()?;
        bob.expect_text("pager")?;
        Ok(())
    });
}

#[test]
fn one_device_gets_so_many_replays_at_once_and_the_next_when_one_ends() {
    let limits = Configuration::open()
        .with("deferral", "replays_per_device = 1")
        .with("deferral", "replays_per_user = 3");
    on_every_shard_count(&limits, |stage| {
        let bob = stage.agent("bob")?;
        for author in ["alice", "carol", "dave"] {
            writes_while_bob_is_away(&stage.agent(author)?, &[author])?;
        }
        bob.registers()?;
        let first = bob.expect_invite()?;
        bob.expect_no("INVITE")?;
        first.refuses(480);
        for author in ["carol", "dave"] {
            takes_replay(&bob, &[author])?;
        }
        Ok(())
    });
}

#[test]
fn a_run_that_moves_to_another_device_frees_its_place() {
    let limits = Configuration::open().with("deferral", "replays_per_device = 1");
    on_every_shard_count(&limits, |stage| {
        let (tablet, phone) = (stage.agent("bob")?, stage.agent("bob")?);
        for author in ["alice", "carol"] {
            writes_while_bob_is_away(&stage.agent(author)?, &[author])?;
        }
        tablet.registers()?;
        tablet.expect_invite()?.refuses(603);
        tablet.expect_invite()?.refuses(603);
        phone.registers()?;
        phone.expect_invite()?.refuses(503);
        takes_replay(&phone, &["carol"])?;
        takes_replay(&tablet, &["alice"])
    });
}

#[test]
fn copies_that_a_device_has_got_make_room_without_a_failure() {
    let small = every().with("users", "max_messages = 2");
    on_every_shard_count(&small, |stage| {
        let (alice, phone) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.registers()?;
        for text in ["one", "two"] {
            let asked = alice.envelope("bob", text).asking("negative-delivery");
            alice.sends_envelope("bob", &asked)?.expect_status(202)?;
        }
        let third = alice
            .sends_message("bob", "three")?
            .final_answer(restante::demo::PATIENCE)?;
        stage.observe(third.status() >= 300, "what nobody has got makes no room")?;
        phone.registers()?;
        phone.expect_text("one")?;
        phone.expect_text("two")?;
        phone.unregisters()?;
        alice.sends_message("bob", "four")?.expect_status(202)?;
        alice.expect_no("MESSAGE")?;
        phone.registers()?;
        phone.expect_text("four")?;
        phone.expect_no("MESSAGE")
    });
}

#[test]
fn a_device_that_takes_a_kept_message_late_leaves_their_copies_to_the_others() {
    let impatient = Configuration::open()
        .with("users", "copy_to = \"every\"")
        .with("deferral", "answer_within = \"1s\"");
    on_every_shard_count(&impatient, |stage| {
        let alice = stage.agent("alice")?;
        let (late, other) = (stage.agent("bob")?, stage.agent("bob")?);
        late.registers()?;
        other.registers()?;
        late.reacts_to_messages(Reaction::StaySilent);
        other.reacts_to_messages(Reaction::Answer(480));
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        other.expect_text("hello")?;
        late.expect_message()?.answers(200);
        late.asks_options()?;
        other.reacts_to_messages(Reaction::Answer(200));
        other.registers()?;
        other.expect_text("hello")?;
        let new = stage.agent("bob")?;
        new.registers()?;
        new.expect_text("hello")?;
        late.registers()?;
        late.expect_no("MESSAGE")
    });
}
