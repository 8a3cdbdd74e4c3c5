//! What waits, the devices it waits for, and the sessions it leaves by.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use restante::demo::{Reaction, Setup};
use serde_json::Value;

use crate::http::Interface;
use crate::support::{Configuration, on_every_shard_count};

#[test]
fn the_operator_sees_what_waits_and_for_what() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        let first = alice.envelope("bob", "first").asking("positive-delivery");
        alice.sends_envelope("bob", &first)?.expect_status(202)?;
        alice.sends_message("bob", "second")?.expect_status(202)?;

        let users = admin.get("/admin/v1/users")?.expect(200)?.json();
        let entry = &users["users"][0];
        stage.observe(entry["user"] == "bob@im.test", "bob is listed")?;
        stage.observe(entry["waiting_messages"] == 2, "with what waits for him")?;

        let page = admin
            .get("/admin/v1/users/bob/messages?limit=1")?
            .expect(200)?;
        let page = page.json();
        let message = &page["messages"][0];
        stage.observe(
            message["message_id"] == first.message_id.as_str(),
            "oldest first",
        )?;
        stage.observe(message["author"] == "alice@im.test", "its author")?;
        stage.observe(message["kind"] == "pager", "its kind")?;
        stage.observe(message["state"] == "waiting", "its state")?;
        stage.observe(message["reason"] == "no-device", "and why")?;
        let next = page["next"].as_str().unwrap_or_default().to_owned();
        let rest = admin.get(&format!("/admin/v1/users/bob/messages?after={next}"))?;
        let rest = rest.expect(200)?.json();
        stage.observe(
            rest["messages"].as_array().map(Vec::len) == Some(1),
            "page two",
        )?;
        stage.observe(rest.get("next").is_none(), "is the last")?;

        let path = format!("/admin/v1/users/bob/messages/{}", message["seq"]);
        let shown = admin.get(&path)?.expect(200)?.json();
        stage.observe(shown["content_type"] == "message/cpim", "its type")?;
        stage.observe(
            shown["dispositions"][0] == "positive-delivery",
            "what was asked",
        )?;
        let body = admin.get(&format!("{path}/body"))?.expect(200)?;
        stage.observe(body.body == first.to_octets(), "the body octet for octet")?;
        let type_of = body.header("content-type");
        stage.observe(
            type_of == Some("application/octet-stream"),
            "never as a page",
        )?;

        bob.registers()?;
        bob.expect_text("first")?;
        bob.expect_text("second")?;
        let empty = |reply: &crate::http::Reply| reply.json()["messages"] == Value::Array(vec![]);
        admin.until("/admin/v1/users/bob/messages", empty)?;
        admin.get(&path)?.expect_problem(404, "not-found")?;
        Ok(())
    });
}

#[test]
fn a_queue_is_exported_whole_and_a_message_as_a_file() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        let admin = Interface::of(stage)?;
        let all: Vec<_> = (0..3)
            .map(|number| alice.envelope("bob", &format!("number {number}")))
            .collect();
        for envelope in &all {
            alice.sends_envelope("bob", envelope)?.expect_status(202)?;
        }
        let export = admin.get("/admin/v1/users/bob/export")?.expect(200)?.text();
        let lines: Vec<Value> = export
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_default())
            .collect();
        stage.observe(lines.len() == 3, "a line for each message")?;
        for (line, envelope) in lines.iter().zip(&all) {
            let body = STANDARD.decode(line["body"].as_str().unwrap_or_default());
            stage.observe(body.ok() == Some(envelope.to_octets()), "with its octets")?;
        }
        let path = format!("/admin/v1/users/bob/messages/{}/export", lines[1]["seq"]);
        let file = admin.get(&path)?.expect(200)?;
        let text = file.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        stage.observe(
            head.contains("\r\nX-Restante-Author: alice@im.test"),
            "its head",
        )?;
        stage.observe(body.as_bytes() == all[1].to_octets(), "and its body")
    });
}

#[test]
fn a_cancelled_message_is_not_delivered_and_its_author_hears_failed() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        alice.registers()?;
        let doomed = alice.envelope("bob", "doomed").asking("negative-delivery");
        alice.sends_envelope("bob", &doomed)?.expect_status(202)?;
        alice.sends_message("bob", "stays")?.expect_status(202)?;
        let waiting = admin
            .get("/admin/v1/users/bob/messages")?
            .expect(200)?
            .json();
        let path = format!(
            "/admin/v1/users/bob/messages/{}",
            waiting["messages"][0]["seq"]
        );
        admin.ask("DELETE", &path, "")?.expect(202)?;
        alice.expect_notification("failed", &doomed.message_id)?;
        admin.until(&path, |reply| reply.status == 404)?;
        bob.registers()?;
        bob.expect_text("stays")?;
        bob.expect_no("MESSAGE")?;
        let cancelled = admin.metric("restante_messages_ended_total{reason=\"cancelled\"}")?;
        stage.observe(cancelled > 0.0, "it is counted")
    });
}

#[test]
fn the_author_of_a_cancelled_message_that_a_device_has_got_hears_no_failed() {
    let every = Configuration::open().with("users", "copy_to = \"every\"");
    on_every_shard_count(&every, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        alice.registers()?;
        let copied = alice.envelope("bob", "copied").asking("negative-delivery");
        alice.sends_envelope("bob", &copied)?.expect_status(202)?;
        bob.registers()?;
        bob.expect_text("copied")?;
        bob.unregisters()?;
        let waiting = admin
            .get("/admin/v1/users/bob/messages")?
            .expect(200)?
            .json();
        let path = format!(
            "/admin/v1/users/bob/messages/{}",
            waiting["messages"][0]["seq"]
        );
        admin.ask("DELETE", &path, "")?.expect(202)?;
        admin.until(&path, |reply| reply.status == 404)?;
        alice.expect_no("MESSAGE")
    });
}

#[test]
fn a_message_gets_another_time_to_expire_at_and_keeps_it_over_a_kill() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        let waiting = admin
            .get("/admin/v1/users/bob/messages")?
            .expect(200)?
            .json();
        let path = format!(
            "/admin/v1/users/bob/messages/{}",
            waiting["messages"][0]["seq"]
        );
        let over = r#"{"expires_at": "2001-01-01T00:00:00Z"}"#;
        let problem = admin
            .ask("PATCH", &path, over)?
            .expect_problem(400, "invalid")?;
        stage.observe(problem["field"] == "expires_at", "the field is named")?;
        let later = r#"{"expires_at": "2199-01-01T00:00:00+01:00"}"#;
        let shown = admin.ask("PATCH", &path, later)?.expect(200)?.json();
        stage.observe(
            shown["expires_at"] == "2198-12-31T23:00:00.000Z",
            "it holds",
        )?;
        stage.kill9()?;
        stage.restart()?;
        let shown = Interface::of(stage)?.get(&path)?.expect(200)?.json();
        stage.observe(
            shown["expires_at"] == "2198-12-31T23:00:00.000Z",
            "it still does",
        )?;
        bob.registers()?;
        bob.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn a_parked_message_says_when_it_is_tried_again_and_a_retry_does_not_wait() {
    let configuration = Configuration::open().with("deferral", "retry = [\"1h\"]");
    on_every_shard_count(&configuration, |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        alice.sends_message("bob", "hello")?.expect_status(202)?;
        let waiting = admin
            .get("/admin/v1/users/bob/messages")?
            .expect(200)?
            .json();
        let seq = waiting["messages"][0]["seq"].clone();
        let retry = format!("/admin/v1/users/bob/messages/{seq}/retry");
        admin
            .ask("POST", &retry, "")?
            .expect_problem(409, "no-device")?;
        bob.reacts_to_messages(Reaction::Answer(480));
        bob.registers()?;
        let parked = |reply: &crate::http::Reply| reply.json()["messages"][0]["state"] == "parked";
        let parked = admin.until("/admin/v1/users/bob/messages", parked)?.json();
        let message = &parked["messages"][0];
        stage.observe(message["reason"] == "refused", "why")?;
        stage.observe(message["attempts"] == 1, "how often")?;
        stage.observe(message["next_attempt"].is_string(), "and when next")?;
        bob.expect_message()?;
        bob.reacts_to_messages(Reaction::Answer(200));
        admin.ask("POST", &retry, "")?.expect(202)?;
        bob.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn a_binding_that_the_operator_removes_is_gone() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        bob.registers()?;
        let path = "/admin/v1/users/bob/bindings";
        let bindings = admin.get(path)?.expect(200)?.json();
        let binding = &bindings["bindings"][0];
        stage.observe(binding["profile"] == "rcs", "how it is spoken to")?;
        let flow = format!("udp://{}", bob.address());
        stage.observe(binding["flow"] == flow.as_str(), "how it is reached")?;
        let id = binding["id"].as_str().unwrap_or_default();
        let id: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        admin
            .ask("DELETE", &format!("{path}/{id}"), "")?
            .expect(204)?;
        admin
            .ask("DELETE", &format!("{path}/{id}"), "")?
            .expect_problem(404, "not-found")?;
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        bob.registers()?;
        bob.expect_text("kept")?;
        let removed = admin.ask("DELETE", path, "")?.expect(200)?.json();
        stage.observe(removed["removed"] == 1, "all of them")
    });
}

#[test]
fn a_chat_that_the_operator_ends_ends_for_both() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            at_alice.says("hello")?;
            at_bob.expect_text("hello")?;
            let sessions = admin.get("/admin/v1/sessions")?.expect(200)?.json();
            let session = &sessions["sessions"][0];
            stage.observe(session["kind"] == "chat", "it is listed")?;
            stage.observe(session["from"] == "alice@im.test", "its caller")?;
            stage.observe(session["to"] == "bob@im.test", "its callee")?;
            stage.observe(session["state"] == "live", "its state")?;
            let id = session["id"].as_str().unwrap_or_default();
            let path = format!("/admin/v1/sessions/{id}");
            admin.ask("DELETE", &path, "")?.expect(204)?;
            at_bob.expect_bye()?;
            at_alice.expect_bye()?;
            let gone =
                |reply: &crate::http::Reply| reply.json()["sessions"] == Value::Array(vec![]);
            admin.until("/admin/v1/sessions", gone)?;
            admin
                .ask("DELETE", &path, "")?
                .expect_problem(404, "not-found")?;
            Ok(())
        })
    });
}
