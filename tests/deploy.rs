//! What is deployed is checked by the tool that will read it, without a container engine; `deploy/test.sh` runs
//! it on one. Without the tools these tests fail: `tests/run` installs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_restante");

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn text_of(name: &str) -> String {
    fs::read_to_string(deployed(name)).expect("it is there")
}

/// A command without the settings of whoever runs the tests.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RESTANTE_") {
            command.env_remove(name);
        }
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn systemd_accepts_the_unit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = text_of("restante.service");
    // The check wants the program to exist; where it is installed is not what is tested.
    let text = text.replace("/usr/bin/restante", BINARY);
    let copy = folder.path().join("restante.service");
    fs::write(&copy, text).expect("the copy is written");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&copy)
        .output()
        .expect("systemd-analyze runs (Debian: systemd)");
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        !said.contains("restante.service"),
        "it has something to say about the unit: {said}"
    );
}

#[test]
fn the_unit_exposes_as_little_as_it_says() {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager", "--threshold=20"])
        .arg(deployed("restante.service"))
        .output()
        .expect("systemd-analyze runs (Debian: systemd)");
    let table = String::from_utf8_lossy(&output.stdout);
    // 10 is a service without any protection; this one needs the network, and nothing else.
    assert!(output.status.success(), "over 2.0 of 10: {table}");
}

/// The compose file as a compose tool understands it, with the settings of this file.
fn composed(settings: &Path) -> String {
    let plugin = command("docker").args(["compose", "version"]).output();
    let mut tool = match plugin.is_ok_and(|output| output.status.success()) {
        true => command("docker"),
        false => command("docker-compose"),
    };
    if tool.get_program() == "docker" {
        tool.arg("compose");
    }
    let output = tool
        .arg("--env-file")
        .arg(settings)
        .arg("-f")
        .arg(deployed("compose.yaml"))
        .args(["--profile", "sipp", "config"])
        .output()
        .expect("a compose tool runs (Debian: docker-compose)");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "", "it warns");
    String::from_utf8(output.stdout).expect("text")
}

/// No settings, and those of the example.
fn both_settings() -> (tempfile::TempDir, [PathBuf; 2]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let none = folder.path().join("none");
    fs::write(&none, "").expect("it is written");
    (folder, [none, deployed("env.example")])
}

/// The values of `RESTANTE_*` keys in what a compose tool printed.
fn variables(composed: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.trim().split_once(": ")?;
        let quoted = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\''));
        let ours = name.starts_with("RESTANTE_");
        ours.then(|| (name.to_owned(), quoted.unwrap_or(value).to_owned()))
    };
    composed.lines().filter_map(pair).collect()
}

#[test]
fn a_compose_tool_accepts_the_compose_file_with_and_without_settings() {
    let (_folder, settings) = both_settings();
    for settings in settings {
        let composed = composed(&settings);
        for wanted in [
            "read_only: true",
            "no-new-privileges:true",
            "restart: unless-stopped",
            "mem_limit",
            "pids_limit",
            "condition: service_healthy",
        ] {
            assert!(composed.contains(wanted), "{wanted}\n{composed}");
        }
        // The server and the scenarios.
        assert_eq!(composed.matches("- ALL").count(), 2, "{composed}");
    }
}

#[test]
fn the_server_accepts_what_the_compose_file_tells_it() {
    let (_folder, settings) = both_settings();
    for settings in settings {
        let variables = variables(&composed(&settings));
        assert_eq!(variables.len(), 5, "{variables:?}");
        let output = command(BINARY)
            .args(["config", "check"])
            .arg(deployed("lab.toml"))
            .envs(variables)
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn the_image_alone_says_what_it_has_to_be_told() {
    let check = |variables: &[(&str, &str)]| {
        let mut check = command(BINARY);
        check
            .args(["config", "check"])
            .arg(deployed("container.toml"));
        let output = check.envs(variables.iter().copied()).output();
        let output = output.expect("it runs");
        (output.status.code(), said(&output))
    };
    let open = ("RESTANTE_REGISTRAR__ALLOW_OPEN", "true");
    let sip = ("RESTANTE_SIP__ADVERTISE", "as1.lab.test");
    let msrp = ("RESTANTE_MSRP__ADVERTISE", "as1.lab.test");
    for (told, missing) in [
        (vec![], "registrar.authentication"),
        (vec![open], "sip.advertise"),
        (vec![open, sip], "msrp.advertise"),
    ] {
        let (code, said) = check(&told);
        assert_eq!(code, Some(2));
        assert!(said.contains(missing), "{said}");
    }
    let (code, said) = check(&[open, sip, msrp]);
    assert_eq!(code, Some(0), "{said}");
}

/// What an image file says after its last `FROM`, without where files are copied from.
fn image(name: &str) -> Vec<String> {
    let text = text_of(name);
    let (_, last) = text.rsplit_once("FROM scratch\n").expect("from scratch");
    let said = last.lines().filter(|line| !line.starts_with("COPY"));
    said.map(str::to_owned).collect()
}

#[test]
fn both_ways_to_build_the_image_say_the_same_of_it() {
    assert_eq!(image("Containerfile"), image("Containerfile.source"));
}

#[test]
fn without_a_container_engine_the_deployment_test_says_so() {
    let output = command("bash")
        .arg(deployed("test.sh"))
        .env("DOCKER_HOST", "unix:///nowhere/engine.sock")
        .output()
        .expect("bash runs");
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("no container engine"), "{said}");
}
