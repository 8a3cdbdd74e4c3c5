//! Backup, restore and move of a server that people use, by the commands of the binary.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use restante::demo::Failure;
use serde_json::Value;

use crate::http::Interface;
use crate::support::{BINARY, Configuration, Stage, on_every_shard_count, on_stage};

/// Runs the binary, for a server only if one is asked.
fn run(arguments: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new(BINARY);
    Ok(command.args(arguments).stdin(Stdio::null()).output()?)
}

/// What it prints, if it exits so.
fn exits(stage: &Stage, code: i32, arguments: &[&str]) -> Result<String, Failure> {
    let output = run(arguments)?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match output.status.code() == Some(code) {
        true => Ok(text(&output.stdout) + &text(&output.stderr)),
        false => {
            let told = text(&output.stderr);
            let status = output.status;
            Err(stage.failure(format!("{arguments:?}: {status}: {told}")))
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The arguments that name the running server.
fn asking(stage: &Stage) -> Result<[String; 4], Failure> {
    let url = format!("http://{}", Interface::of(stage)?.address);
    let file = text(&stage.folder().join("restante.toml"));
    Ok(["--url".to_owned(), url, "-c".to_owned(), file])
}

fn ask(stage: &Stage, arguments: &[&str]) -> Result<String, Failure> {
    let target = asking(stage)?;
    let target = target.iter().map(String::as_str);
    let all: Vec<&str> = arguments.iter().copied().chain(target).collect();
    exits(stage, 0, &all)
}

#[test]
fn a_backup_taken_under_traffic_is_restored_and_serves_what_was_acknowledged_before_it() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        for number in 0..20 {
            let text = format!("before {number}");
            alice.sends_message("bob", &text)?.expect_status(202)?;
        }
        let (backup, data) = (stage.folder().join("backup"), stage.folder().join("data"));
        let mut target = vec!["backup".to_owned(), text(&backup), "--json".to_owned()];
        target.extend(asking(stage)?);
        let mut command = Command::new(BINARY);
        let command = command.args(&target).stdout(Stdio::piped());
        let mut child = command.stdin(Stdio::null()).spawn()?;
        let mut meanwhile = 0;
        while child.try_wait()?.is_none() {
            let text = format!("meanwhile {meanwhile}");
            alice.sends_message("bob", &text)?.expect_status(202)?;
            meanwhile += 1;
        }
        let output = child.wait_with_output()?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        stage.observe(report["sound"] == true, "the backup is sound")?;
        let kept = report["messages"].as_u64().unwrap_or_default();
        let bounds = 20..=20 + meanwhile;
        stage.observe(bounds.contains(&kept), "all that was acknowledged before")?;
        stage.observe(!backup.join("admin.token").exists(), "no token is in it")?;

        let again = exits(
            stage,
            2,
            &[
                "store",
                "restore",
                &text(&backup),
                "--data-dir",
                &text(&data),
            ],
        )?;
        stage.observe(again.contains("not empty"), "nothing is written over")?;
        let running = exits(stage, 2, &["store", "verify", "--data-dir", &text(&data)])?;
        stage.observe(
            running.contains("in use"),
            "a running server's folder is not read",
        )?;
        stage.kill9()?;
        std::fs::rename(&data, stage.folder().join("lost"))?;
        exits(
            stage,
            0,
            &[
                "store",
                "restore",
                &text(&backup),
                "--data-dir",
                &text(&data),
            ],
        )?;
        stage.restart()?;
        bob.registers()?;
        for number in 0..20 {
            bob.expect_text(&format!("before {number}"))?;
        }
        for number in 20..kept {
            bob.expect_text(&format!("meanwhile {}", number - 20))?;
        }
        Ok(())
    });
}

#[test]
fn a_server_moves_by_export_and_import_with_its_accounts_and_messages() {
    on_stage(&Configuration::digest(), 1, |stage| {
        let alice = stage.agent("alice")?;
        alice.registers()?;
        let secret = stage.folder().join("dave.secret");
        std::fs::write(&secret, "dave-secret\n")?;
        ask(
            stage,
            &["account", "add", "dave", "--password-file", &text(&secret)],
        )?;
        alice.sends_message("dave", "moved")?.expect_status(202)?;
        let online = stage.folder().join("online.jsonl");
        ask(stage, &["export", "-o", &text(&online)])?;
        let data = stage.folder().join("data");
        stage.terminates()?;
        let lines = exits(stage, 0, &["store", "export", "--data-dir", &text(&data)])?;
        stage.observe(
            lines == std::fs::read_to_string(&online)?,
            "both say the same",
        )?;
        std::fs::rename(&data, stage.folder().join("old"))?;
        let told = exits(
            stage,
            0,
            &[
                "store",
                "import",
                &text(&online),
                "--data-dir",
                &text(&data),
            ],
        )?;
        stage.observe(
            told.starts_with("taken: 1 messages, 1 bindings, 1 documents"),
            &told,
        )?;
        let told = exits(
            stage,
            0,
            &[
                "store",
                "import",
                &text(&online),
                "--data-dir",
                &text(&data),
            ],
        )?;
        stage.observe(
            told.contains("taken: 0 messages, 0 bindings, 0 documents"),
            &told,
        )?;
        let told = exits(stage, 0, &["store", "verify", "--data-dir", &text(&data)])?;
        stage.observe(told.starts_with("the store is sound\n"), &told)?;
        stage.restart()?;
        let dave = stage.agent("dave")?;
        dave.registers()?;
        dave.expect_text("moved")?;
        Ok(())
    });
}

#[test]
fn an_export_of_a_running_server_exits_1_if_a_message_is_damaged() {
    on_stage(&Configuration::open(), 1, |stage| {
        let alice = stage.agent("alice")?;
        for text in ["lost", "whole"] {
            alice.sends_message("bob", text)?.expect_status(202)?;
        }
        let mut segments = std::fs::read_dir(stage.folder().join("data/log"))?.flatten();
        let file = segments.find(|entry| entry.file_name().to_string_lossy().ends_with(".seg"));
        let file = file.ok_or_else(|| stage.failure("no segment"))?.path();
        let octets = std::fs::read(&file)?;
        let at = octets.windows(4).position(|four| four == b"lost");
        let at = at.ok_or_else(|| stage.failure("no message"))?;
        let log = std::fs::OpenOptions::new().write(true).open(&file)?;
        std::os::unix::fs::FileExt::write_at(&log, b"l0st", at as u64)?;
        let admin = stage.server().ready().admin[0].replace("tcp://", "http://");
        let token = text(&stage.folder().join("data/admin.token"));
        let output = text(&stage.folder().join("all.jsonl"));
        let command = [
            "export",
            "-o",
            &output,
            "--url",
            &admin,
            "--token-file",
            &token,
        ];
        exits(stage, 1, &command)?;
        let written = std::fs::read_to_string(&output)?;
        stage.observe(written.contains("\"damaged\":1"), &written)
    });
}

#[test]
fn a_damaged_store_exits_1_and_one_that_is_not_there_2() {
    on_stage(&Configuration::open(), 1, |stage| {
        let alice = stage.agent("alice")?;
        alice.sends_message("bob", "lost")?.expect_status(202)?;
        stage.terminates()?;
        let data = stage.folder().join("data");
        let mut segments = std::fs::read_dir(data.join("log"))?.flatten();
        let file = segments.find(|entry| entry.file_name().to_string_lossy().ends_with(".seg"));
        let file = file.ok_or_else(|| stage.failure("no segment"))?.path();
        let mut octets = std::fs::read(&file)?;
        let at = octets.windows(4).position(|four| four == b"lost");
        let at = at.ok_or_else(|| stage.failure("no message"))?;
        octets[at] ^= 1;
        std::fs::write(&file, octets)?;
        let folder = text(&data);
        let told = exits(
            stage,
            1,
            &["store", "verify", "--json", "--data-dir", &folder],
        )?;
        let report = told.split("\nrestante: ").next().unwrap_or_default();
        let report: Value = serde_json::from_str(report).unwrap_or_default();
        let damage = &report["damages"][0];
        stage.observe(damage["user"] == "bob@im.test", &told)?;
        stage.observe(damage["message_id"].is_string(), "it is named")?;
        let to = text(&stage.folder().join("restored"));
        exits(stage, 1, &["store", "restore", &folder, "--data-dir", &to])?;
        let told = exits(
            stage,
            0,
            &["store", "restore", &folder, "--damaged", "--data-dir", &to],
        )?;
        stage.observe(told.contains("bob@im.test"), &told)?;
        exits(stage, 1, &["store", "export", "--data-dir", &folder])?;
        // Without its only segment nothing is left of what was lost, and an export seems whole.
        std::fs::remove_file(&file)?;
        let told = exits(stage, 1, &["store", "export", "--data-dir", &folder])?;
        stage.observe(told.contains("\"type\":\"end\""), &told)?;
        let nothing = text(&stage.folder().join("nothing"));
        exits(stage, 2, &["store", "verify", "--data-dir", &nothing])?;
        Ok(())
    });
}
