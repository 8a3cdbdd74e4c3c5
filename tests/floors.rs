//! The floors: a file names only lower floors and its own, and pure files do no I/O.
//!
//! ARCHITECTURE.md shows the table. A new file must be given a row here; until then this fails.

use std::fs;
use std::path::{Path, PathBuf};

/// Which floor a module of the top level stands on.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["uri", "span", "clock", "token", "metrics", "date"]),
    (
        1,
        &["identity", "cpim", "imdn", "multipart", "config", "limits"],
    ),
    (2, &["sip", "msrp", "store", "net"]),
    (3, &["registrar"]),
    (4, &["participating"]),
    (5, &["router"]),
    (
        6,
        &["shard", "admin", "server", "demo", "resolve", "logging"],
    ),
    (7, &["main", "cli", "lib"]),
];

/// Files that may name sockets, tokio, sled and the clock. Everything else is pure.
const SHELLS: &[&str] = &[
    "admin/",
    "clock.rs",
    "cli.rs",
    "cli/",
    "config/load.rs",
    "demo/",
    "logging.rs",
    "main.rs",
    "msrp/connection.rs",
    "msrp/listener.rs",
    "net/",
    "resolve.rs",
    "server.rs",
    "server/",
    "shard/alarm.rs",
    "shard/assembly.rs",
    "shard/deliver.rs",
    "shard/inbox.rs",
    "shard/operator_desk.rs",
    "shard/outbox.rs",
    "shard/perform.rs",
    "shard/shell.rs",
    "shard/store_queue.rs",
    "shard/thread.rs",
    "sip/transport/connection.rs",
    "sip/transport/tcp.rs",
    "sip/transport/udp.rs",
    "store/",
];

/// What only shells name.
const IMPURE: &[&str] = &[
    "tokio::",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "sled::",
    "clock::now",
    "std::fs",
    "std::thread",
];

struct Source {
    /// Relative to `src`.
    path: String,
    /// Without comments and without what stands behind `#[cfg(test)]`.
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(&self.path);
        first.trim_end_matches(".rs")
    }

    /// Test scaffolding of a folder may use whatever it likes.
    fn is_test_code(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.contains("tests") || name.contains("simulation") || name.contains("testing")
    }

    /// The top-level modules named by `crate::`.
    fn named(&self) -> Vec<&str> {
        self.code
            .split("crate::")
            .skip(1)
            .map(|rest| {
                let end = rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
                &rest[..end.unwrap_or(rest.len())]
            })
            .filter(|module| !module.is_empty())
            .collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("it is below src");
            let text = fs::read_to_string(file).expect("a source file is text");
            Source {
                path: path.to_string_lossy().into_owned(),
                code: code_of(&text),
            }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn code_of(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    until_tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(floor, _)| *floor)
}

#[test]
fn every_file_stands_on_a_floor() {
    for source in sources() {
        let module = source.module();
        assert!(
            floor_of(module).is_some(),
            "src/{}: `{module}` is in no row",
            source.path
        );
    }
}

#[test]
fn a_file_names_no_higher_floor() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test_code()) {
        let own = floor_of(source.module()).unwrap_or(0);
        for named in source.named() {
            if floor_of(named).is_some_and(|floor| floor > own) {
                faults.push(format!("src/{} names crate::{named}", source.path));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_pure_file_names_no_socket_no_runtime_no_store_and_no_clock() {
    let is_shell = |path: &str| SHELLS.iter().any(|shell| path.starts_with(shell));
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test_code()) {
        for name in IMPURE {
            if !is_shell(&source.path) && source.code.contains(name) {
                faults.push(format!("src/{} names {name}", source.path));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_agents_share_no_parser_with_the_server() {
    let allowed = ["clock", "demo", "token"];
    for source in sources() {
        if source.module() == "demo" {
            for named in source.named() {
                assert!(
                    allowed.contains(&named),
                    "src/{} names crate::{named}",
                    source.path
                );
            }
        }
    }
}

#[test]
fn every_shell_in_the_list_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for shell in SHELLS {
        assert!(root.join(shell).exists(), "src/{shell} is gone");
    }
}
