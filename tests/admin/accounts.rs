//! Accounts made over the interface.

use serde_json::{Value, json};

use crate::http::Interface;
use crate::support::{Configuration, on_every_shard_count};

const ACCOUNTS: &str = "/admin/v1/accounts";

fn dave() -> String {
    json!({"user": "dave", "password": "dave-secret", "tel": "+4670000009"}).to_string()
}

#[test]
fn an_account_made_here_registers_and_survives_a_kill() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, dave_phone) = (stage.agent("alice")?, stage.agent("dave")?);
        let admin = Interface::of(stage)?;
        alice.registers()?;
        alice
            .sends_message("dave", "too early")?
            .expect_status(404)?;
        let made = admin.ask("POST", ACCOUNTS, &dave())?.expect(201)?;
        stage.observe(
            made.header("location") == Some("/admin/v1/accounts/dave"),
            "where",
        )?;
        stage.observe(!made.text().contains("secret"), "the password is not shown")?;
        alice.sends_message("dave", "kept")?.expect_status(202)?;
        stage.kill9()?;
        stage.restart()?;
        dave_phone.registers()?;
        dave_phone.expect_text("kept")?;
        let shown = Interface::of(stage)?
            .get("/admin/v1/accounts/dave")?
            .expect(200)?;
        stage.observe(shown.json()["tel"] == "+4670000009", "it is whole")?;
        stage.observe(shown.json()["source"] == "store", "it is of the store")?;
        Ok(())
    });
}

#[test]
fn an_account_is_listed_changed_and_checked() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let admin = Interface::of(stage)?;
        admin.ask("POST", ACCOUNTS, &dave())?.expect(201)?;
        admin
            .ask("POST", ACCOUNTS, &dave())?
            .expect_problem(409, "taken")?;
        let number = json!({"user": "eve", "password": "x", "tel": "+46-7000-0001"}).to_string();
        admin
            .ask("POST", ACCOUNTS, &number)?
            .expect_problem(409, "taken")?;
        for (wrong, field) in [
            (json!({"user": "a@b", "password": "x"}), "user"),
            (json!({"user": "eve"}), "password"),
            (json!({"user": "eve", "password": ""}), "password"),
            (json!({"user": "eve", "password": "x", "tel": "112"}), "tel"),
            (
                json!({"user": "eve", "password": "x", "settings": {"delivery": "soon"}}),
                "settings.delivery",
            ),
            (
                json!({"user": "eve", "password": "x",
                    "settings": {"rules": [{"from": "a.test", "action": "kill"}]}}),
                "settings.rules[0].action",
            ),
        ] {
            let problem = admin.ask("POST", ACCOUNTS, &wrong.to_string())?;
            let problem = problem.expect_problem(400, "invalid")?;
            stage.observe(problem["field"] == field, &format!("{field}: {problem}"))?;
        }
        let path = "/admin/v1/accounts/dave";
        let patch = json!({"tel": null, "settings": {"delivery": "pull", "max_size": "1 MiB"}});
        let account = admin
            .ask("PATCH", path, &patch.to_string())?
            .expect(200)?
            .json();
        stage.observe(account.get("tel").is_none(), "the number is gone")?;
        stage.observe(
            account["settings"]["delivery"] == "pull",
            "the setting holds",
        )?;
        let put = json!({"settings": {"copy_to": "every"}}).to_string();
        let account = admin.ask("PUT", path, &put)?.expect(200)?.json();
        stage.observe(
            account["settings"] == json!({"copy_to": "every"}),
            "all is replaced",
        )?;
        let list = admin.get("/admin/v1/accounts?limit=3")?.expect(200)?.json();
        let users: Vec<&Value> = list["accounts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|account| &account["user"])
            .collect();
        stage.observe(
            users == ["alice", "bob", "carol"],
            "the file's too, in order",
        )?;
        let rest = admin
            .get("/admin/v1/accounts?after=carol")?
            .expect(200)?
            .json();
        stage.observe(rest["accounts"][0]["user"] == "dave", "page by page")?;
        let phone = stage.agent("dave")?;
        phone.registers()?;
        let other = json!({"password": "another"}).to_string();
        admin.ask("PATCH", path, &other)?.expect(200)?;
        let refused = phone.sends_register(&phone.contact())?;
        refused.expect_status(401)?;
        Ok(())
    });
}

#[test]
fn an_account_of_the_file_cannot_be_changed_here() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let admin = Interface::of(stage)?;
        let path = "/admin/v1/accounts/alice";
        for (method, body) in [("PATCH", "{}"), ("PUT", "{}"), ("DELETE", "")] {
            let problem = admin.ask(method, path, body)?;
            let problem = problem.expect_problem(409, "of-the-file")?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            stage.observe(detail.contains("configuration file"), "it says why")?;
        }
        admin.get(path)?.expect(200)?;
        admin
            .ask("DELETE", "/admin/v1/accounts/nobody", "")?
            .expect_problem(404, "not-found")?;
        Ok(())
    });
}

#[test]
fn a_deleted_account_takes_its_bindings_and_messages_with_it_and_authors_hear_failed() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let (alice, phone) = (stage.agent("alice")?, stage.agent("dave")?);
        let admin = Interface::of(stage)?;
        admin.ask("POST", ACCOUNTS, &dave())?.expect(201)?;
        alice.registers()?;
        phone.registers()?;
        phone.unregisters()?;
        let doomed = alice.envelope("dave", "doomed").asking("negative-delivery");
        alice.sends_envelope("dave", &doomed)?.expect_status(202)?;
        admin
            .ask("DELETE", "/admin/v1/accounts/dave", "")?
            .expect(204)?;
        alice.expect_notification("failed", &doomed.message_id)?;
        alice.sends_message("dave", "gone")?.expect_status(404)?;
        admin
            .get("/admin/v1/accounts/dave")?
            .expect_problem(404, "not-found")?;
        admin.until("/metrics", |reply| {
            reply.text().contains("\nrestante_waiting_messages 0")
        })?;
        stage.kill9()?;
        stage.restart()?;
        let admin = Interface::of(stage)?;
        admin
            .get("/admin/v1/accounts/dave")?
            .expect_problem(404, "not-found")?;
        // While its messages are still being cancelled, the name is not given away.
        let mut made = admin.ask("POST", ACCOUNTS, &dave())?;
        while made.status == 409 {
            made.expect_problem(409, "deleting")?;
            made = admin.ask("POST", ACCOUNTS, &dave())?;
        }
        made.expect(201)?;
        phone.registers()?;
        phone.expect_no("MESSAGE")
    });
}
