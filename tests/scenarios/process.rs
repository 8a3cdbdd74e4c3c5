//! The process: its ready line, its exit codes, its folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use restante::demo::{Failure, ServerProcess, Transport, wait_for};

use crate::support::{BINARY, Configuration, on_every_shard_count};

/// Runs `serve -c FILE` to its end and gives its exit code and what it said on stderr.
fn serve_to_the_end(file: &Path) -> Result<(Option<i32>, String), Failure> {
    let mut child = Command::new(BINARY)
        .args(["serve", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let status = wait_for(&mut child, Duration::from_secs(20))?;
    let said = child.wait_with_output()?.stderr;
    Ok((status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn port_0_means_any_free_port_told_in_the_ready_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = Configuration::open().text_with_any_ports(folder.path(), 1);
    let server = ServerProcess::start(Path::new(BINARY), folder.path(), &text).expect("it starts");
    let ready = server.ready();
    // Labs script against this line.
    assert!(ready.line.starts_with("ready sip="), "{}", ready.line);
    assert!(ready.line.contains(" msrp="), "{}", ready.line);
    for transport in [Transport::Udp, Transport::Tcp] {
        let address = server.sip_address(transport).expect("it is told");
        assert_ne!(address.port(), 0);
    }
    assert_eq!(ready.msrp.len(), 1);
    assert!(!ready.msrp[0].ends_with(":0"), "{}", ready.line);
}

#[test]
fn a_server_told_to_stop_drains_and_exits_0() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        let code = stage.terminates()?;
        stage.observe(code == Some(0), "it exits 0")?;
        stage.restart()?;
        bob.registers()?;
        bob.expect_text("kept")?;
        Ok(())
    });
}

#[test]
fn a_second_server_on_the_same_folder_exits_2() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let file = stage.folder().join("second.toml");
        fs::write(&file, stage.text_of_a_second_server())?;
        let (code, said) = serve_to_the_end(&file)?;
        stage.observe(code == Some(2), &format!("it exits 2; it said: {said}"))
    });
}

#[test]
fn the_folder_is_for_its_owner_only() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let alice = stage.agent("alice")?;
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        let data = stage.folder().join("data");
        let mode = fs::metadata(&data)?.permissions().mode() & 0o777;
        stage.observe(mode == 0o700, "the folder has mode 0700")?;
        for entry in fs::read_dir(&data)? {
            let metadata = entry?.metadata()?;
            let closed = metadata.permissions().mode() & 0o077 == 0;
            stage.observe(closed, "nobody else can read what is in it")?;
        }
        Ok(())
    });
}

#[test]
fn a_registration_survives_a_kill() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        bob.registers()?;
        // New bindings are durable within a second of their 200.
        std::thread::sleep(Duration::from_millis(1_500));
        stage.kill9()?;
        stage.restart()?;
        alice.sends_message("bob", "hello")?.expect_status(200)?;
        bob.expect_text("hello")?;
        Ok(())
    });
}

#[test]
fn a_wrong_configuration_exits_2_and_says_where_and_what_is_allowed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases = [
        (
            "domain = \"im.test\"\n\n[sip]\nlisten = [\"ftp://127.0.0.1:1\"]\n",
            ["listen", ":4"],
        ),
        ("domian = \"im.test\"\n", ["domian", ":1"]),
        ("[deferral]\nlifetime = \"soon\"\n", ["lifetime", ":2"]),
        (
            "[registrar]\nauthentication = \"maybe\"\n",
            ["digest", ":2"],
        ),
    ];
    for (text, expected) in cases {
        let file = folder.path().join("wrong.toml");
        fs::write(&file, text).expect("the file is written");
        let (code, said) = serve_to_the_end(&file).expect("it ends");
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(said.contains("wrong.toml"), "the file is named: {said}");
        for part in expected {
            assert!(said.contains(part), "\"{part}\" is named: {said}");
        }
    }
}

#[test]
fn an_open_server_on_a_public_address_must_be_wanted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("open.toml");
    let data = folder.path().join("data");
    let text = format!("data_dir = {data:?}\n[sip]\nlisten = [\"udp://0.0.0.0:0\"]\n");
    fs::write(&file, text).expect("the file is written");
    let (code, said) = serve_to_the_end(&file).expect("it ends");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("allow_open"), "the way out is named: {said}");
}
