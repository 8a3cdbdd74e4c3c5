//! A store looked at from outside: verified, backed up, restored, exported, imported.

#[path = "store/desk.rs"]
mod desk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use desk::{Desk, LARGE, body, config, message, name, octets};
use restante::clock::UnixMillis;
use restante::store::archive::Archive;
use restante::store::backup::unpack;
use restante::store::files::DiskFiles;
use restante::store::import::{ImportError, Imported, Told, import};
use restante::store::request::{Body, Settlement, StoreRequest};
use restante::store::verify::verify;
use restante::store::{StoreConfig, StoreError};

fn small(folder: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 16 * 1024,
        reserve_bytes: 256 * 1024,
        ..config(folder)
    }
}

fn open(folder: &Path) -> Desk {
    Desk::try_open(&small(folder), Arc::new(DiskFiles)).expect("opens")
}

/// Messages of all kinds, some settled, one marked, one redated; bindings and documents.
fn fill(desk: &mut Desk) {
    for number in 0..80 {
        let seq = desk.store(message("bob", number), Body::Inline(body(number)));
        if number % 4 == 0 {
            desk.settle("bob", seq, Settlement::Delivered);
        }
    }
    // The same again, as two notifications of our own may be: both are to be there.
    for _ in 0..2 {
        desk.store(message("carol", 500), Body::Inline(body(500)));
    }
    for number in [LARGE, LARGE + 1] {
        desk.store(
            message("bob", number),
            Body::Inline(octets(number, 150_000)),
        );
    }
    let first = desk.load("bob")[0].seq;
    for device in [3, u64::MAX] {
        desk.ask(StoreRequest::Mark {
            recipient: name("bob"),
            seq: first,
            device,
        });
    }
    let second = desk.load("bob")[1].seq;
    let token = desk.token();
    desk.ask(StoreRequest::Redate {
        token,
        recipient: name("bob"),
        seq: second,
        expires_at: UnixMillis(9_000_000),
    });
    desk.answer();
    for key in ["phone", "tablet"] {
        desk.ask(StoreRequest::PutBinding {
            user: name("bob"),
            key: key.into(),
            value: vec![0, 255, 7].into(),
        });
    }
    let token = desk.token();
    desk.ask(StoreRequest::PutDocument {
        token,
        key: "account/dave".into(),
        value: "{\"user\":\"dave\"}".into(),
    });
    desk.answer();
}

/// What waits for everybody, octet for octet.
fn all(desk: &mut Desk) -> (Vec<u64>, Vec<u64>) {
    (desk.delivered("bob"), desk.delivered("carol"))
}

fn everything() -> (Vec<u64>, Vec<u64>) {
    let bob = (0..80).filter(|number| number % 4 != 0);
    (bob.chain([LARGE, LARGE + 1]).collect(), vec![500, 500])
}

fn export(folder: &Path) -> String {
    let archive = Archive::open(folder).expect("opens");
    let mut lines = Vec::new();
    let exported = archive.export(&mut |octets| {
        lines.extend_from_slice(&octets);
        Ok(())
    });
    assert_eq!(exported.expect("exported").damaged, 0);
    String::from_utf8(lines).expect("text")
}

fn take(folder: &Path, lines: &str) -> (Result<Imported, ImportError>, Vec<(u64, String)>) {
    let mut failed = Vec::new();
    let mut tell = |told: Told<'_>| {
        if let Told::Failed(line, why) = told {
            failed.push((line, why.to_owned()));
        }
    };
    let imported = import(&small(folder), &mut lines.as_bytes(), &mut tell);
    (imported, failed)
}

/// All files below a folder with their octets.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).expect("there") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => left.push(path),
                false => {
                    let octets = std::fs::read(&path).expect("read");
                    found.insert(path, octets);
                }
            }
        }
    }
    found
}

#[test]
fn a_sound_store_is_found_sound_and_not_an_octet_of_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    fill(&mut desk);
    assert!(matches!(verify(folder.path()), Err(StoreError::Locked(_))));
    desk.close();
    for start in 0..2 {
        let before = files(folder.path());
        let report = verify(folder.path()).expect("verified");
        assert_eq!(report.damages, [], "start {start}");
        assert_eq!(report.waiting.messages, 64);
        assert_eq!((report.users, report.bindings), (2, 2));
        assert_eq!(report.documents.len(), 1);
        assert_eq!(report.unowned, 0);
        assert_eq!(files(folder.path()), before);
        open(folder.path()).close();
    }
    let empty = tempfile::tempdir().expect("a folder");
    assert!(matches!(verify(empty.path()), Err(StoreError::Missing(_))));
}

#[test]
fn a_backup_has_all_that_was_acknowledged_before_it_while_more_comes_and_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    fill(&mut desk);
    let archive = desk.store_ref().watch().archive();
    // Everything goes, so that compaction drops the segments that the archive holds.
    for user in ["bob", "carol"] {
        for held in desk.load(user) {
            desk.settle(user, held.seq, Settlement::Delivered);
        }
    }
    for number in 1000..1200 {
        let seq = desk.store(message("bob", number), Body::Inline(body(number)));
        desk.settle("bob", seq, Settlement::Delivered);
    }
    let mut packed = Vec::new();
    let mut emit = |octets: bytes::Bytes| {
        packed.extend_from_slice(&octets);
        Ok(())
    };
    archive.pack(desk::NOW, &mut emit).expect("packed");
    assert_eq!(desk.delivered("bob"), [0; 0]);
    desk.close();

    let copies = tempfile::tempdir().expect("a folder");
    let copy = copies.path().join("copy");
    unpack(&mut packed.as_slice(), &copy).expect("unpacked");
    let report = verify(&copy).expect("verified");
    assert_eq!(report.damages, []);
    assert_eq!(report.waiting.messages, 64);
    let mut desk = open(&copy);
    assert_eq!(desk.recovered.damaged + desk.recovered.torn_octets, 0);
    assert_eq!(desk.recovered.bindings.len(), 2);
    assert_eq!(all(&mut desk), everything());
    desk.close();

    // A stream that breaks off anywhere is no backup.
    for length in [0, 100, 512, 700, packed.len() - 1100, packed.len() - 700] {
        let part = copies.path().join(length.to_string());
        assert!(unpack(&mut &packed[..length], &part).is_err(), "{length}");
    }
}

#[test]
fn export_import_export_is_identical_and_nothing_comes_twice() {
    let folders = tempfile::tempdir().expect("a folder");
    let (first, second) = (folders.path().join("a"), folders.path().join("b"));
    let mut desk = open(&first);
    fill(&mut desk);
    desk.close();
    let lines = export(&first);
    for round in 0..3 {
        let (imported, failed) = take(&second, &lines);
        let imported = imported.expect("imported");
        assert_eq!((imported.failed, failed), (0, vec![]), "round {round}");
        assert!(imported.complete);
        let (new, old) = match round {
            0 => (64, 0),
            _ => (0, 64),
        };
        assert_eq!(
            (imported.taken.messages, imported.present.messages),
            (new, old)
        );
        assert_eq!(imported.taken.documents + imported.present.documents, 1);
        assert_eq!(imported.taken.bindings + imported.present.bindings, 2);
        assert_eq!(export(&second), lines, "round {round}");
    }
    let mut desk = open(&second);
    assert_eq!(all(&mut desk), everything());
    let waiting = desk.load("bob");
    assert_eq!(*waiting[0].marks, [3, u64::MAX]);
    assert_eq!(waiting[1].expires_at, UnixMillis(9_000_000));
    desk.close();
}

#[test]
fn an_import_into_a_store_in_use_goes_behind_what_waits() {
    let folders = tempfile::tempdir().expect("a folder");
    let (first, second) = (folders.path().join("a"), folders.path().join("b"));
    for (folder, numbers) in [(&first, 0..10), (&second, 5..15)] {
        let mut desk = open(folder);
        for number in numbers {
            desk.store(message("bob", number), Body::Inline(body(number)));
        }
        desk.close();
    }
    let (imported, _) = take(&second, &export(&first));
    let imported = imported.expect("imported");
    assert_eq!((imported.taken.messages, imported.present.messages), (5, 5));
    let mut desk = open(&second);
    let expected: Vec<u64> = (5..15).chain(0..5).collect();
    assert_eq!(desk.delivered("bob"), expected);
    let other = take(&second, "").0;
    assert!(matches!(
        other,
        Err(ImportError::Store(StoreError::Locked(_)))
    ));
    desk.close();
}

#[test]
fn a_wrong_line_is_told_with_its_number_and_costs_that_message_alone() {
    let folders = tempfile::tempdir().expect("a folder");
    let first = folders.path().join("a");
    let mut desk = open(&first);
    fill(&mut desk);
    desk.close();
    let text = export(&first);
    let lines: Vec<&str> = text.lines().collect();
    let piece = lines
        .iter()
        .rposition(|line| line.contains("\"type\":\"piece\""));
    let piece = piece.expect("a piece");
    let owner = lines[..piece]
        .iter()
        .rposition(|line| line.contains("\"type\":\"message\""));
    let owner = owner.expect("its message") as u64 + 1;
    let cut = |at: usize, with: &str| {
        let mut lines: Vec<&str> = lines.clone();
        lines[at] = with;
        lines.join("\n")
    };
    let half = &lines[10][..lines[10].len() / 2];
    let cases = [
        (cut(10, half), vec![11], 63),
        (cut(10, "{\"type\":\"nonsense\"}"), vec![11], 63),
        (cut(piece, ""), vec![piece as u64 + 1, owner], 63),
        (lines[..piece].join("\n"), vec![owner], 63),
    ];
    for (case, (lines, expected, messages)) in cases.into_iter().enumerate() {
        let folder = folders.path().join(case.to_string());
        let (imported, failed) = take(&folder, &lines);
        let imported = imported.expect("imported");
        let mut told: Vec<u64> = failed.iter().map(|(line, _)| *line).collect();
        told.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(told, expected, "{case}: {failed:?}");
        assert_eq!(imported.taken.messages, messages, "{case}");
        assert_eq!(imported.complete, case != 3);
        assert_eq!(
            verify(&folder).expect("verified").waiting.messages,
            messages
        );
        // With the whole file the rest is made up for.
        let (imported, _) = take(&folder, &text);
        assert_eq!(imported.expect("imported").taken.messages, 64 - messages);
    }
    let nothing = folders.path().join("none");
    for (text, newer) in [
        ("{\"type\":\"restante-export\",\"form\":2}\n", true),
        ("{\"type\":\"message\"}\n", false),
    ] {
        let refused = take(&nothing, text).0;
        assert_eq!(matches!(refused, Err(ImportError::Newer(2))), newer);
        assert_eq!(matches!(refused, Err(ImportError::Foreign)), !newer);
    }
}
