//! The story against a server that runs already: whole, and one person's part in a process of its own, as
//! `deploy/test.sh` plays it across containers.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use restante::demo::{Failure, ServerProcess, Transport, wait_for};
use support::BINARY;

/// Longer than any part.
const PATIENCE: Duration = Duration::from_secs(60);

/// UDP and TCP on one port, as `--server` expects.
fn server(folder: &Path) -> Result<ServerProcess, Failure> {
    let data = folder.join("data");
    let configuration = format!(
        r#"data_dir = {data:?}
[sip]
listen = ["udp://127.0.0.1:{{sip_udp}}", "tcp://127.0.0.1:{{sip_udp}}"]
[msrp]
listen = ["tcp://127.0.0.1:{{msrp}}"]
[admin]
listen = []
[registrar]
authentication = "digest"
[[account]]
user = "ann"
password = "ann-secret"
[[account]]
user = "ben"
password = "another"
"#
    );
    ServerProcess::start(Path::new(BINARY), folder, &configuration)
}

/// `restante demo` against that server, with Ann and Ben as Alice and Bob.
fn demo(server: &ServerProcess, arguments: &[&str]) -> Result<Child, Failure> {
    let address = server.sip_address(Transport::Tcp)?.to_string();
    let child = Command::new(BINARY)
        .args(["demo", "--server", &address])
        .args(["--alice", "ann", "--bob", "ben:another"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok(child)
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout: Option<ChildStdout> = child.stdout.take();
    stdout
        .into_iter()
        .flat_map(|stdout| BufReader::new(stdout).lines().map_while(Result::ok))
}

#[test]
fn the_whole_story_is_played_against_a_running_server_and_leaves_nobody_registered()
-> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let server = server(folder.path())?;
    // Twice: what the first play left behind would disturb the second.
    for _ in 0..2 {
        let mut story = demo(&server, &[])?;
        let told: Vec<String> = lines(&mut story).collect();
        let status = wait_for(&mut story, PATIENCE)?;
        assert!(
            status.success(),
            "{}\n{}",
            told.join("\n"),
            server.log_tail()
        );
        assert_eq!(
            told.last().map(String::as_str),
            Some("Every step was observed.")
        );
    }
    Ok(())
}

#[test]
fn two_processes_play_a_part_each_through_a_kill_and_say_the_same() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let mut server = server(folder.path())?;
    let mut alice = demo(&server, &["--part", "alice", "--messages", "5"])?;
    let wrote: Vec<String> = lines(&mut alice).take(6).collect();
    server.kill9()?;
    server.restart()?;
    let slowly = ["--part", "bob", "--messages", "5", "--pause", "20"];
    let mut bob = demo(&server, &slowly)?;
    let took: Vec<String> = lines(&mut bob).collect();
    for part in [&mut bob, &mut alice] {
        let status = wait_for(part, PATIENCE)?;
        assert!(status.success(), "{status}\n{}", server.log_tail());
    }
    for kind in ["chat", "pager"] {
        let of_kind = |lines: &[String], verb: &str| -> Vec<String> {
            let prefix = format!("{verb} {kind} ");
            let of_kind = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
            of_kind.map(str::to_owned).collect()
        };
        let (wrote, took) = (of_kind(&wrote, "wrote"), of_kind(&took, "took"));
        assert_eq!(wrote, took, "{kind}");
        assert_eq!(wrote.len(), if kind == "chat" { 5 } else { 1 });
    }
    Ok(())
}
