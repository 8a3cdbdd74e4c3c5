//! The same verbs as commands of the binary.

use std::process::{Command, Output, Stdio};

use restante::demo::{Failure, Setup};
use serde_json::Value;

use crate::http::Interface;
use crate::support::{BINARY, Configuration, Stage, on_every_shard_count};

/// Runs the binary with the address and the token of the stage's server.
fn run(stage: &Stage, arguments: &[&str]) -> Result<Output, Failure> {
    let admin = Interface::of(stage)?;
    let url = format!("http://{}", admin.address);
    let file = stage.folder().join("restante.toml");
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .args(["--url", &url])
        .arg("-c")
        .arg(file);
    Ok(command.stdin(Stdio::null()).output()?)
}

/// What it prints, if it exits with 0.
fn said(stage: &Stage, arguments: &[&str]) -> Result<String, Failure> {
    let output = run(stage, arguments)?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        code => {
            let told = text(&output.stderr);
            Err(stage.failure(format!("{arguments:?} exits {code:?}: {told}")))
        }
    }
}

fn json(stage: &Stage, arguments: &[&str]) -> Result<Value, Failure> {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let text = said(stage, &arguments)?;
    serde_json::from_str(&text).map_err(|error| stage.failure(format!("{error}: {text}")))
}

#[test]
fn accounts_by_command() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let secret = stage.folder().join("dave.secret");
        std::fs::write(&secret, "dave-secret\n")?;
        let file = secret.to_string_lossy().into_owned();
        said(
            stage,
            &[
                "account",
                "add",
                "dave",
                "--password-file",
                &file,
                "--tel",
                "+4670000009",
            ],
        )?;
        stage.agent("dave")?.registers()?;
        let rules = [
            "account",
            "set",
            "dave",
            "--rule",
            "spam.test=block",
            "--delivery",
            "pull",
        ];
        said(stage, &rules)?;
        let shown = json(stage, &["account", "show", "dave"])?;
        stage.observe(
            shown["settings"]["rules"][0]["from"] == "spam.test",
            "the rule",
        )?;
        stage.observe(shown["settings"]["delivery"] == "pull", "the setting")?;
        said(
            stage,
            &[
                "account", "set", "dave", "--unset", "delivery", "--unset", "tel",
            ],
        )?;
        let shown = json(stage, &["account", "show", "dave"])?;
        stage.observe(
            shown["settings"].get("delivery").is_none(),
            "the default again",
        )?;
        stage.observe(shown.get("tel").is_none(), "no number")?;
        let table = said(stage, &["account", "list"])?;
        stage.observe(table.starts_with("USER "), "a table has a heading")?;
        stage.observe(table.lines().count() == 5, "and a line for each")?;
        let output = run(stage, &["account", "set", "alice", "--delivery", "pull"])?;
        stage.observe(output.status.code() == Some(1), "a refusal exits 1")?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        stage.observe(told.contains("configuration file"), "and says why")?;
        said(stage, &["account", "remove", "dave"])?;
        let output = run(stage, &["account", "show", "dave"])?;
        stage.observe(output.status.code() == Some(1), "it is gone")
    });
}

#[test]
fn messages_by_command() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let empty = run(stage, &["messages", "list", "bob"])?;
        stage.observe(empty.status.success(), "without logins everybody is a user")?;
        stage.observe(
            empty.stderr == b"no messages\n",
            "nothing waits, and it says so",
        )?;
        for text in ["one", "two", "three"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let table = said(stage, &["messages", "list", "bob"])?;
        stage.observe(table.lines().count() == 4, "three wait")?;
        stage.observe(table.contains("no-device"), "and why")?;
        stage.observe(said(stage, &["users"])?.contains("bob@im.test"), "for bob")?;
        let list = json(stage, &["messages", "list", "bob"])?;
        let seq = |index: usize| list["messages"][index]["seq"].to_string();
        let shown = said(stage, &["messages", "show", "bob", &seq(0)])?;
        stage.observe(shown.contains("alice@im.test"), "one is shown")?;
        let day = ["messages", "redate", "bob", &seq(0), "--in", "1d"];
        let redated = json(stage, &day)?;
        stage.observe(
            redated["expires_at"] != list["messages"][0]["expires_at"],
            "redated",
        )?;
        said(stage, &["messages", "cancel", "bob", &seq(1)])?;
        let file = stage.folder().join("queue.ndjson");
        let path = file.to_string_lossy().into_owned();
        said(stage, &["messages", "export", "bob", "-o", &path])?;
        stage.observe(
            std::fs::read_to_string(&file)?.lines().count() == 2,
            "exported",
        )?;
        let eml = said(stage, &["messages", "export", "bob", &seq(2)])?;
        stage.observe(eml.ends_with("three"), "one as a file")?;
        let output = run(stage, &["messages", "retry", "bob", &seq(0)])?;
        stage.observe(output.status.code() == Some(1), "nobody is there")?;
        bob.registers()?;
        bob.expect_text("one")?;
        bob.expect_text("three")?;
        bob.expect_no("MESSAGE")?;
        let bindings = json(stage, &["bindings", "list", "bob"])?;
        let id = bindings["bindings"][0]["id"].as_str().unwrap_or_default();
        said(stage, &["bindings", "remove", "bob", id])?;
        let bindings = json(stage, &["bindings", "list", "bob"])?;
        stage.observe(
            bindings["bindings"] == Value::Array(vec![]),
            "the binding is gone",
        )?;
        said(stage, &["bindings", "remove", "bob", "--all"])?;
        Ok(())
    });
}

#[test]
fn sessions_by_command() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        std::thread::scope(|scope| {
            let call = scope.spawn(|| alice.opens_chat("bob"));
            let at_bob = bob.expect_invite()?.answers(Setup::Active, "sendrecv")?;
            let at_alice = call.join().expect("the agent does not panic")?;
            at_alice.says("hello")?;
            at_bob.expect_text("hello")?;
            stage.observe(
                said(stage, &["sessions", "list"])?.contains("live"),
                "a table",
            )?;
            let sessions = json(stage, &["sessions", "list"])?;
            let id = sessions["sessions"][0]["id"].as_str().unwrap_or_default();
            said(stage, &["sessions", "end", id])?;
            at_alice.expect_bye()?;
            at_bob.expect_bye()?;
            Ok(())
        })
    });
}

#[test]
fn health_and_drain_by_command() {
    on_every_shard_count(&Configuration::open(), |stage| {
        said(stage, &["health"])?;
        let status = said(stage, &["status"])?;
        stage.observe(status.contains(env!("CARGO_PKG_VERSION")), "the version")?;
        let metrics = said(stage, &["metrics"])?;
        stage.observe(metrics.ends_with("# EOF\n"), "the metrics whole")?;
        said(stage, &["drain"])?;
        let output = run(stage, &["health"])?;
        stage.observe(
            output.status.code() == Some(1),
            "not healthy while it drains",
        )?;
        said(stage, &["health", "--live"])?;
        Ok(())
    });
}

#[test]
fn a_command_that_cannot_ask_says_why_and_exits_by_kind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let exits = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.current_dir(folder.path()).args(arguments);
        let output = command.output().expect("it runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, told) = exits(&["users"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("admin.token"),
        "it names the file it looked for: {told}"
    );
    let (code, told) = exits(&["users", "--url", "http://127.0.0.1:1", "--token", "x"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("127.0.0.1:1"),
        "it names whom it asked: {told}"
    );
    let (code, _) = exits(&["health", "--url", "http://127.0.0.1:1"]);
    assert_eq!(code, Some(1));
    let (code, _) = exits(&["messages", "show", "bob"]);
    assert_eq!(code, Some(2));
}

#[test]
fn traffic_by_command() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let set = ["traffic", "set", "--delivery", "false"];
        let rate = ["--messages-per-second", "7"];
        let changed = json(stage, &[&set[..], &rate[..]].concat())?;
        stage.observe(changed["delivery"] == false, "delivery is off")?;
        stage.observe(changed["messages_per_second"] == 7, "with a rate")?;
        let unset = ["traffic", "set", "--unset", "messages-per-second"];
        let changed = json(stage, &unset)?;
        stage.observe(changed["messages_per_second"] == 0, "without one")?;
        let shown = json(stage, &["traffic", "show"])?;
        stage.observe(shown["delivery"] == false, "it stays off")?;
        let account = ["account", "add", "dave", "--password", "dave-secret"];
        let limits = ["--may-send", "false", "--barred-type", "image/*"];
        let made = json(stage, &[&account[..], &limits[..]].concat())?;
        let expected = serde_json::json!({"may_send": false, "barred_types": ["image/*"]});
        stage.observe(made["settings"] == expected, "an account with limits")?;
        let sent = json(stage, &["traffic", "sent", "dave"])?;
        stage.observe(
            sent["may_send"] == false && sent["messages"] == 0,
            "his state",
        )
    });
}
