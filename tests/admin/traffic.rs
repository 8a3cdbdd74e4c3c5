//! What is let through, changed while the server runs: switches, limits of one user, what is counted.

use restante::demo::{Failure, PATIENCE, Setup, UserAgent};
use serde_json::{Value, json};

use crate::http::Interface;
use crate::support::{Configuration, Stage, on_every_shard_count};

const TRAFFIC: &str = "/admin/v1/traffic";
const DAVE: &str = "/admin/v1/accounts/dave";

/// Changes what is let through.
fn switch(stage: &Stage, patch: &Value) -> Result<Value, Failure> {
    let admin = Interface::of(stage)?;
    let reply = admin.ask("PATCH", TRAFFIC, &patch.to_string())?;
    Ok(reply.expect(200)?.json())
}

/// Dave has an account with these settings from here on.
fn dave(stage: &Stage, settings: &Value) -> Result<UserAgent, Failure> {
    let account = json!({"user": "dave", "password": "dave-secret", "settings": settings});
    let admin = Interface::of(stage)?;
    admin
        .ask("POST", "/admin/v1/accounts", &account.to_string())?
        .expect(201)?;
    stage.agent("dave")
}

fn change_dave(stage: &Stage, settings: &Value) -> Result<(), Failure> {
    let patch = json!({ "settings": settings }).to_string();
    let admin = Interface::of(stage)?;
    admin.ask("PATCH", DAVE, &patch)?.expect(200).map(drop)
}

/// The values of `/metrics` that begin like this, added up.
fn metric(stage: &Stage, series: &str) -> Result<f64, Failure> {
    let reply = Interface::of(stage)?.ask_with("GET", "/metrics", "", "")?;
    let text = reply.expect(200)?.text();
    let lines = text.lines().filter(|line| line.starts_with(series));
    Ok(lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum())
}

#[test]
fn sending_is_switched_off_for_everybody_and_for_one_across_a_kill() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let dave = dave(stage, &json!({"may_send": false}))?;
        let refused = dave.sends_message("bob", "no")?.expect_status(403)?;
        let warning = refused.header_or_empty("Warning");
        stage.observe(warning.contains("127 Service not authorised"), "he is told")?;
        alice.sends_message("bob", "one")?.expect_status(202)?;
        let chat = alice.opens_chat("bob")?;
        chat.says("one more")?;
        switch(stage, &json!({"submission": false}))?;
        let barred = alice.envelope("bob", "no");
        chat.sends(&barred)?.expect_status(403)?;
        alice.sends_message("bob", "no")?.expect_status(403)?;
        alice.invites("bob")?.expect_status(403)?;
        stage.kill9()?;
        stage.restart()?;
        alice.sends_message("bob", "no")?.expect_status(403)?;
        let shown = Interface::of(stage)?.get(TRAFFIC)?.expect(200)?.json();
        stage.observe(shown["submission"] == false, "it is visible")?;
        stage.observe(
            shown["changed"] == json!({"submission": false}),
            "as changed",
        )?;
        let shown = switch(stage, &json!({"submission": null}))?;
        stage.observe(shown["submission"] == true, "as configured again")?;
        alice.sends_message("bob", "two")?.expect_status(202)?;
        dave.sends_message("bob", "no")?.expect_status(403)?;
        change_dave(stage, &json!({"may_send": null}))?;
        dave.sends_message("bob", "three")?.expect_status(202)?;
        let refusals = metric(
            stage,
            "restante_traffic_refused_total{reason=\"submission\"}",
        )?;
        stage.observe(refusals == 2.0, "refusals since the restart are counted")
    });
}

#[test]
fn delivery_is_switched_off_and_on_and_what_came_meanwhile_arrives_in_order() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        alice.sends_message("bob", "live")?.expect_status(200)?;
        bob.expect_text("live")?;
        switch(stage, &json!({"delivery": false}))?;
        for text in ["one", "two"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        bob.registers()?;
        stage.kill9()?;
        stage.restart()?;
        bob.registers()?;
        alice.sends_message("bob", "three")?.expect_status(202)?;
        bob.expect_no("MESSAGE")?;
        switch(stage, &json!({"delivery": true}))?;
        for text in ["one", "two", "three"] {
            bob.expect_text(text)?;
        }
        alice.sends_message("bob", "four")?.expect_2xx()?;
        bob.expect_text("four").map(drop)
    });
}

#[test]
fn delivery_is_switched_off_for_one_user_in_the_midst_of_a_chat() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let alice = stage.agent("alice")?;
        let dave = dave(stage, &json!({}))?;
        dave.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.invites("dave")?.expect_accepted());
            let at_dave = dave.expect_invite()?.answers(Setup::Passive, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            at_alice.says("live")?;
            at_dave.expect_text("live")?;
            change_dave(stage, &json!({"may_receive": false}))?;
            at_alice.says("kept")?;
            alice
                .sends_message("dave", "kept too")?
                .expect_status(202)?;
            at_alice.hangs_up()?;
            at_dave.expect_bye()?;
            dave.expect_no("INVITE")?;
            dave.expect_no("MESSAGE")?;
            change_dave(stage, &json!({"may_receive": true}))?;
            let replay = dave.expect_invite()?.answers_recvonly(Setup::Active)?;
            replay.expect_text("kept")?;
            replay.expect_bye()?;
            dave.expect_text("kept too").map(drop)
        })
    });
}

#[test]
fn limits_of_one_user_are_changed_while_running_and_what_he_has_sent_is_shown() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let dave = dave(
            stage,
            &json!({"messages_per_period": 2, "octets_per_period": "1 MiB"}),
        )?;
        let admin = Interface::of(stage)?;
        dave.sends_message("bob", "one")?.expect_status(202)?;
        dave.sends_message("bob", "two")?.expect_status(202)?;
        dave.sends_message("bob", "three")?.expect_status(503)?;
        let shown = admin
            .get("/admin/v1/users/dave/traffic")?
            .expect(200)?
            .json();
        stage.observe(shown["messages"] == 2, "two messages")?;
        stage.observe(shown["octets"].as_u64() > Some(100), "and their octets")?;
        stage.observe(shown["octets_per_period"] == 1_048_576, "of so many")?;
        stage.observe(shown["seconds_left"].as_u64() > Some(80_000), "today")?;
        let of_dave = "restante_traffic_refused_total{reason=\"user-messages\"}";
        stage.observe(metric(stage, of_dave)? == 1.0, "the refusal is counted")?;
        stage.observe(
            metric(stage, "restante_limited_senders")? == 1.0,
            "he alone",
        )?;
        change_dave(stage, &json!({"messages_per_period": 3}))?;
        dave.sends_message("bob", "three")?.expect_status(202)?;
        dave.sends_message("bob", "four")?.expect_status(503)?;
        let wrong = json!({"settings": {"barred_types": ["text"]}}).to_string();
        let problem = admin
            .ask("PATCH", DAVE, &wrong)?
            .expect_problem(400, "invalid")?;
        stage.observe(
            problem["field"] == "settings.barred_types[0]",
            "what is wrong",
        )?;
        let wrong = json!({"messages_per_second": "many"}).to_string();
        let problem = admin
            .ask("PATCH", TRAFFIC, &wrong)?
            .expect_problem(400, "invalid")?;
        stage.observe(problem["field"] == "messages_per_second", "what is wrong")?;
        switch(stage, &json!({"messages_per_second": 1}))?;
        let alice = stage.agent("alice")?;
        let mut answers = Vec::new();
        while answers.last() != Some(&503) {
            stage.observe(answers.len() < 200, "the whole server has a rate")?;
            let mut sent = alice.sends_message("bob", "many")?;
            answers.push(sent.final_answer(PATIENCE)?.status());
        }
        Ok(())
    });
}

/// Messages of Alice to Bob, who is away, that expire at once; she wants to hear so.
fn sends_what_expires(alice: &UserAgent, count: usize) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for number in 0..count {
        let envelope = alice
            .envelope("bob", &format!("number {number}"))
            .asking("negative-delivery");
        alice.sends_envelope("bob", &envelope)?.expect_status(202)?;
        ids.push(envelope.message_id.clone());
    }
    Ok(ids)
}

#[test]
fn in_a_storm_of_failures_authors_are_told_bit_by_bit_and_all_of_them() {
    let configuration = Configuration::digest()
        .with("deferral", "lifetime = \"1s\"")
        .with("traffic", "failures_per_second = 2");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        let sent = sends_what_expires(&alice, 6)?;
        let mut told = Vec::new();
        for _ in 0..sent.len() {
            told.push(alice.expect_message()?.envelope()?);
        }
        for id in &sent {
            let once = told.iter().filter(|it| it.notifies("failed", id)).count();
            stage.observe(once == 1, "each is told once")?;
        }
        let delayed = metric(stage, "restante_failure_notices_delayed_total")?;
        stage.observe(delayed > 0.0, "not all at once")
    });
}

#[test]
fn while_errors_are_suppressed_no_author_hears_that_his_message_failed() {
    let configuration = Configuration::digest().with("deferral", "lifetime = \"1s\"");
    on_every_shard_count(&configuration, |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        switch(stage, &json!({"suppress_errors": true}))?;
        sends_what_expires(&alice, 2)?;
        let suppressed = "\nrestante_errors_suppressed_total{kind=\"notification\"} 2";
        let admin = Interface::of(stage)?;
        admin.until("/metrics", |reply| reply.text().contains(suppressed))?;
        alice.expect_no("MESSAGE")?;
        switch(stage, &json!({"suppress_errors": false}))?;
        let sent = sends_what_expires(&alice, 1)?;
        alice.expect_notification("failed", &sent[0]).map(drop)
    });
}

#[test]
fn while_errors_are_suppressed_what_cannot_be_kept_is_lost_and_counted() {
    let configuration = Configuration::digest()
        .with("deferral", "max_messages = 1")
        .with("traffic", "suppress_errors = true");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for text in ["kept", "lost", "lost too"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let lost = metric(stage, "restante_errors_suppressed_total{kind=\"answer\"}")?;
        stage.observe(lost == 2.0, "two are lost")?;
        bob.registers()?;
        bob.expect_text("kept")?;
        bob.expect_no("MESSAGE")?;
        switch(stage, &json!({"suppress_errors": null}))?;
        let shown = switch(stage, &json!({"suppress_errors": false}))?;
        stage.observe(shown["suppress_errors"] == false, "it is off")
    });
}

#[test]
fn counters_move_with_what_they_count() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let moved = |series: &str, by: f64| {
            let value = metric(stage, series)?;
            stage.observe(value == by, &format!("{series} is {value}, not {by}"))
        };
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        moved("restante_messages_received_total{kind=\"pager\"}", 1.0)?;
        moved("restante_messages_stored_total{kind=\"pager\"}", 1.0)?;
        moved("restante_sip_requests_total{method=\"MESSAGE\"}", 2.0)?;
        for class in ["2xx", "4xx"] {
            let series = format!("restante_sip_responses_total{{class=\"{class}\"}}");
            // Repetitions count, and a slow machine repeats.
            stage.observe(metric(stage, &series)? >= 1.0, &series)?;
        }
        bob.registers()?;
        bob.expect_text("kept")?;
        moved("restante_registrations_total", 1.0)?;
        let admin = Interface::of(stage)?;
        let delivered = "\nrestante_messages_delivered_total 1";
        admin.until("/metrics", |reply| reply.text().contains(delivered))?;
        alice.sends_message("bob", "live")?.expect_status(200)?;
        bob.expect_text("live")?;
        moved("restante_messages_passed_total{kind=\"pager\"}", 1.0)?;
        bob.unregisters()?;
        let chat = alice.opens_chat("bob")?;
        moved("restante_sessions_total{kind=\"chat\"}", 1.0)?;
        moved("restante_chats", 1.0)?;
        chat.says("kept in a chat")?;
        moved("restante_messages_received_total{kind=\"session\"}", 1.0)?;
        moved("restante_messages_stored_total{kind=\"session\"}", 1.0)?;
        moved("restante_waiting_messages", 1.0)?;
        chat.hangs_up()
    });
}
