//! Folders of every format that was ever written are read; see `tests/data/store/README.md`.

#[path = "store/desk.rs"]
mod desk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use desk::{Desk, LARGE, body, config, message, name, octets};
use restante::store::StoreConfig;
use restante::store::files::DiskFiles;
use restante::store::request::{Body, Settlement, StoreRequest};

/// The format that this version writes.
const NEWEST: u32 = 3;

fn folder_of(format: u32) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store");
    data.join(format!("format-{format}"))
}

fn small(folder: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 8 * 1024,
        reserve_bytes: 0,
        ..config(folder)
    }
}

/// Copies the segments of a folder; the view is not kept, and is made again.
fn copy(from: &Path, to: &Path) {
    for part in ["log", "body"] {
        std::fs::create_dir_all(to.join(part)).expect("made");
        for entry in std::fs::read_dir(from.join(part)).expect("there") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|ending| ending == "seg") {
                let name = path.file_name().expect("a name");
                std::fs::copy(&path, to.join(part).join(name)).expect("copied");
            }
        }
    }
}

#[test]
fn folders_of_all_formats_are_read_and_go_on_in_this_one() {
    for format in 2..=NEWEST {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&folder_of(format), folder.path());
        for start in 0..2 {
            let mut desk =
                Desk::try_open(&small(folder.path()), Arc::new(DiskFiles)).expect("opens");
            let found = &desk.recovered;
            assert_eq!((found.damaged, found.torn_octets), (0, 0), "{format}");
            let bindings: Vec<_> = found
                .bindings
                .iter()
                .map(|b| (&*b.key, &*b.value))
                .collect();
            assert_eq!(bindings, [("phone", b"a binding".as_slice())], "{format}");
            let documents = [(Box::from("account/dave"), Bytes::from_static(b"{}"))];
            assert_eq!(found.documents, documents, "{format}");
            let kept = (0..40).filter(|number| number % 3 != 0);
            let mut expected: Vec<u64> = kept.chain([LARGE]).collect();
            expected.extend((start == 1).then_some(99));
            assert_eq!(desk.delivered("bob"), expected, "{format}");
            let marks = &desk.load("bob")[0].marks;
            assert_eq!(**marks, [7, 8], "{format}");
            if start == 0 {
                desk.store(message("bob", 99), Body::Inline(body(99)));
            }
            desk.close();
        }
    }
}

/// Run by hand when the format changes: `cargo test --test store_formats -- --ignored`.
#[test]
#[ignore = "writes the folder of this version's format into tests/data"]
fn make_the_folder_of_this_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk::try_open(&small(folder.path()), Arc::new(DiskFiles)).expect("opens");
    let stored: Vec<_> = (0..40)
        .map(|number| desk.store(message("bob", number), Body::Inline(body(number))))
        .collect();
    for seq in stored.iter().step_by(3) {
        desk.settle("bob", *seq, Settlement::Delivered);
    }
    desk.store(message("bob", LARGE), Body::Inline(octets(LARGE, 70_000)));
    for device in [7, 8] {
        desk.ask(StoreRequest::Mark {
            recipient: name("bob"),
            seq: stored[1],
            device,
        });
    }
    for (key, value) in [
        ("phone", Some("a binding")),
        ("tablet", Some("x")),
        ("tablet", None),
    ] {
        let (user, key) = (name("bob"), key.into());
        desk.ask(match value {
            Some(value) => {
                let value = value.into();
                StoreRequest::PutBinding { user, key, value }
            }
            None => StoreRequest::RemoveBinding { user, key },
        });
    }
    let token = desk.token();
    let (key, value) = ("account/dave".into(), Bytes::from_static(b"{}"));
    desk.ask(StoreRequest::PutDocument { token, key, value });
    desk.answer();
    desk.close();
    copy(folder.path(), &folder_of(NEWEST));
}
