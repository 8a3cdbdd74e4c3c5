//! Every kind of damage to a data folder: what a verification says of it, what the start does, and that
//! nothing else is lost by it.

#[path = "store/desk.rs"]
mod desk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use desk::{Desk, LARGE, body, config, message, name, octets};
use restante::store::files::DiskFiles;
use restante::store::request::{Body, StoreRequest};
use restante::store::verify::{DamageKind, Loss, Report, verify};
use restante::store::{StoreConfig, StoreError, ViewFound};

fn small(folder: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 8 * 1024,
        reserve_bytes: 0,
        ..config(folder)
    }
}

fn open(folder: &Path) -> Desk {
    Desk::try_open(&small(folder), Arc::new(DiskFiles)).expect("opens")
}

/// A stopped store with several sealed segments, a body segment and a view.
struct Lab {
    folder: tempfile::TempDir,
    numbers: Vec<u64>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let numbers: Vec<u64> = (0..60).chain([LARGE]).collect();
        let mut desk = open(folder.path());
        for number in &numbers {
            let body = match *number {
                LARGE => octets(LARGE, 150_000),
                number => body(number),
            };
            desk.store(message("bob", *number), Body::Inline(body));
        }
        desk.ask(StoreRequest::PutBinding {
            user: name("bob"),
            key: "phone".into(),
            value: "a binding".into(),
        });
        desk.close();
        // Every full segment has a footer from here on.
        open(folder.path()).close();
        Self { folder, numbers }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn segments(&self, part: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.path().join(part))
            .expect("there")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "seg"))
            .collect();
        files.sort();
        files
    }

    fn change(&self, file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut octets = std::fs::read(file).expect("read");
        change(&mut octets);
        std::fs::write(file, octets).expect("written");
    }

    fn verify(&self) -> Report {
        verify(self.path()).expect("it can be looked at")
    }

    /// The next start serves everything but these messages.
    fn serves_without(&self, lost: &[u64]) -> Desk {
        let mut desk = open(self.path());
        let kept = self.numbers.iter().filter(|number| !lost.contains(number));
        assert_eq!(desk.delivered("bob"), kept.copied().collect::<Vec<_>>());
        desk
    }

    fn aside(&self) -> usize {
        std::fs::read_dir(self.path().join("damaged"))
            .expect("there")
            .count()
    }
}

/// The records in a segment file: where each begins, and its kind.
fn records(octets: &[u8]) -> Vec<(usize, u8)> {
    const MARKER: [u8; 4] = [0xA7, b'R', b's', 0x1E];
    let mut found = Vec::new();
    let mut at = 80;
    while octets.get(at..at + 4) == Some(&MARKER) {
        let length = u32::from_le_bytes(octets[at + 4..at + 8].try_into().expect("four"));
        found.push((at, octets[at + 8]));
        at += 20 + length as usize;
    }
    found
}

/// Where the first message's record in a segment begins.
fn first_message(file: &Path) -> usize {
    let octets = std::fs::read(file).expect("read");
    let mut all = records(&octets).into_iter();
    all.find(|(_, kind)| *kind == 1).expect("a message").0
}

fn lost_ids(report: &Report) -> Vec<u64> {
    let ids = report
        .damages
        .iter()
        .filter_map(|damage| match &damage.loss {
            Loss::Message { message_id, .. } => message_id.as_ref()?.parse().ok(),
            _ => None,
        });
    ids.collect()
}

#[test]
fn a_flipped_bit_in_a_body_is_found_before_delivery_and_its_author_can_be_told() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(0);
    let octets = std::fs::read(&file).expect("read");
    let at = first_message(&file);
    let length = u32::from_le_bytes(octets[at + 4..at + 8].try_into().expect("four"));
    let end = at + 20 + length as usize;
    lab.change(&file, |octets| octets[end - 1] ^= 4);
    let report = lab.verify();
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
    assert_eq!(report.damages[0].kind, DamageKind::Record);
    assert_eq!(report.damages[0].file, file);
    let (offset, octets) = (report.damages[0].offset, report.damages[0].octets);
    assert_eq!((offset, offset + octets), (at as u64, end as u64));
    assert_eq!(lost_ids(&report), [0]);
    let desk = lab.serves_without(&[0]);
    let ruined = desk.ruined.borrow();
    let head = ruined[0].1.as_ref().expect("its head is sound");
    assert_eq!(
        (head.message_id.as_str(), &head.author),
        ("0", &name("alice"))
    );
    assert_eq!(desk.store_ref().damaged(), 1);
    drop(ruined);
    desk.close();
    assert_eq!(lab.aside(), 1);
}

#[test]
fn a_flipped_bit_in_a_record_header_is_told_with_whose_message_it_was() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(0);
    let at = first_message(&file);
    lab.change(&file, |octets| octets[at + 5] ^= 1);
    let report = lab.verify();
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
    let loss = &report.damages[0].loss;
    assert!(matches!(loss, Loss::Message { recipient, .. } if *recipient == name("bob")));
    lab.serves_without(&[0]).close();
}

#[test]
fn one_damaged_copy_of_a_segment_header_costs_nothing_and_both_cost_nothing() {
    for copies in [&[8][..], &[8, 48]] {
        let lab = Lab::new();
        let file = lab.segments("log").remove(0);
        lab.change(&file, |octets| {
            copies.iter().for_each(|at| octets[*at] ^= 1)
        });
        let report = lab.verify();
        assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
        assert_eq!(report.damages[0].kind, DamageKind::Header);
        assert_eq!(report.damages[0].loss, Loss::Nothing);
        let desk = lab.serves_without(&[]);
        assert_eq!(desk.recovered.damaged, copies.len() as u64 - 1);
        desk.close();
    }
}

#[test]
fn a_damaged_footer_costs_nothing() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(0);
    lab.change(&file, |octets| {
        let at = octets.len() - 40;
        octets[at] ^= 1;
    });
    let report = lab.verify();
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
    assert_eq!(report.damages[0].kind, DamageKind::Footer);
    assert_eq!(report.damages[0].loss, Loss::Nothing);
    lab.serves_without(&[]).close();
    assert!(lab.verify().is_sound(), "the start has made it again");
}

#[test]
fn sealing_that_a_power_cut_ended_is_no_damage() {
    const TRAILER: usize = 24;
    // The trailer is not there, is zero, or does not stand at the end: the cut to length never got to the disk.
    let harms: [fn(&mut Vec<u8>); 3] = [
        |octets| octets.truncate(octets.len() - TRAILER),
        |octets| {
            let at = octets.len() - TRAILER;
            octets[at..].fill(0);
        },
        |octets| octets.resize(octets.len() + 1000, 0),
    ];
    for harm in harms {
        let lab = Lab::new();
        let file = lab.segments("log").remove(1);
        lab.change(&file, harm);
        let desk = lab.serves_without(&[]);
        assert_eq!(desk.recovered.damaged, 0);
        assert!(desk.recovered.torn_octets > 0, "it is set aside");
        desk.close();
        assert!(lab.verify().is_sound(), "the start has sealed it again");
    }
}

#[test]
fn a_zeroed_block_costs_the_messages_in_it_and_they_are_named() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(1);
    lab.change(&file, |octets| octets[2048..4096].fill(0));
    let report = lab.verify();
    let lost = report
        .damages
        .iter()
        .filter(|d| matches!(d.loss, Loss::Message { .. }));
    let lost = lost.count();
    assert!((1..20).contains(&lost), "{:?}", report.damages);
    let mut desk = open(lab.path());
    assert_eq!(desk.delivered("bob").len(), lab.numbers.len() - lost);
    assert!(desk.store_ref().damaged() >= 1);
    desk.close();
}

#[test]
fn a_truncated_sealed_segment_costs_what_was_cut_off_and_the_index_names_it() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(1);
    lab.change(&file, |octets| octets.truncate(4096));
    let report = lab.verify();
    assert!(!report.is_sound());
    let mut desk = open(lab.path());
    let found = desk.delivered("bob");
    assert!(
        found.len() < lab.numbers.len() && found.len() > 40,
        "{}",
        found.len()
    );
    assert!(found.is_sorted());
    assert!(desk.recovered.damaged + desk.recovered.torn_octets > 0);
    desk.close();
}

#[test]
fn a_missing_segment_is_told_message_by_message() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(1);
    let octets = std::fs::read(&file).expect("read");
    let inside = records(&octets)
        .iter()
        .filter(|(_, kind)| *kind == 1)
        .count();
    std::fs::remove_file(&file).expect("removed");
    let report = lab.verify();
    assert_eq!(report.damages.len(), inside, "{:?}", report.damages);
    assert!(report.damages.iter().all(|d| d.kind == DamageKind::Missing));
    let mut desk = open(lab.path());
    assert_eq!(desk.delivered("bob").len(), lab.numbers.len() - inside);
    assert_eq!(desk.recovered.damaged, inside as u64);
    desk.close();
}

#[test]
fn a_damaged_or_missing_body_segment_costs_the_messages_in_it_and_their_authors_can_be_told() {
    for missing in [false, true] {
        let lab = Lab::new();
        let file = lab.segments("body").remove(0);
        match missing {
            true => std::fs::remove_file(&file).expect("removed"),
            false => lab.change(&file, |octets| octets[1000] ^= 1),
        }
        let report = lab.verify();
        assert_eq!(
            lost_ids(&report).first(),
            Some(&LARGE),
            "{:?}",
            report.damages
        );
        let kind = if missing {
            DamageKind::Missing
        } else {
            DamageKind::Body
        };
        assert!(report.damages.iter().all(|damage| damage.kind == kind));
        let desk = lab.serves_without(&[LARGE]);
        let told = desk.ruined.borrow();
        let head = told[0].1.as_ref().expect("the record is sound");
        assert_eq!(head.message_id, LARGE.to_string());
        drop(told);
        desk.close();
    }
}

#[test]
fn what_is_behind_the_last_mark_is_an_unfinished_write_and_set_aside() {
    let lab = Lab::new();
    let file = lab.segments("log").pop().expect("one");
    let octets = std::fs::read(&file).expect("read");
    let used = octets.iter().rposition(|octet| *octet != 0).expect("used") + 1;
    lab.change(&file, |octets| {
        octets.resize(octets.len().max(used + 100), 0);
        octets[used + 30..used + 60].fill(7);
    });
    let report = lab.verify();
    assert!(report.is_sound());
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("unfinished write"))
    );
    let desk = lab.serves_without(&[]);
    assert_eq!(desk.recovered.damaged, 0);
    assert!(desk.recovered.torn_octets >= 30);
    desk.close();
    assert_eq!(lab.aside(), 1);
}

#[test]
fn a_segment_under_a_wrong_name_or_of_another_folder_is_refused_and_left_alone() {
    let lab = Lab::new();
    let file = lab.segments("log").remove(0);
    let copy = lab.path().join("log/0000000000000777.seg");
    std::fs::copy(&file, &copy).expect("copied");
    let report = lab.verify();
    assert_eq!(report.damages.len(), 1);
    assert_eq!(report.damages[0].kind, DamageKind::Stranger);
    let refused = Desk::try_open(&small(lab.path()), Arc::new(DiskFiles)).map(|_| ());
    assert!(matches!(
        refused,
        Err(StoreError::Misnamed { number: 1, .. })
    ));
    assert_eq!(
        std::fs::read(&copy).expect("read"),
        std::fs::read(&file).expect("read")
    );

    let other = Lab::new();
    std::fs::remove_file(&copy).expect("removed");
    let newest = lab.segments("log").len() as u64 + 1;
    let foreign = lab.path().join(format!("log/{newest:016}.seg"));
    let from = other.path().join(format!("log/{newest:016}.seg"));
    let from = match from.exists() {
        true => from,
        false => other.segments("log").pop().expect("one"),
    };
    std::fs::copy(&from, &foreign).expect("copied");
    let refused = Desk::try_open(&small(lab.path()), Arc::new(DiskFiles)).map(|_| ());
    assert!(matches!(
        refused,
        Err(StoreError::Elsewhere(_) | StoreError::Misnamed { .. })
    ));
    std::fs::remove_file(&foreign).expect("removed");

    // Two names for one number: only the one we would write counts.
    std::fs::copy(&file, lab.path().join("log/1.seg")).expect("copied");
    std::fs::write(lab.path().join("notes.txt"), "mine").expect("written");
    let report = lab.verify();
    assert!(report.is_sound());
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
    lab.serves_without(&[]).close();
}

#[test]
fn a_lost_or_garbled_index_is_made_again() {
    for garbled in [false, true] {
        let lab = Lab::new();
        let view = lab.path().join("view");
        std::fs::remove_dir_all(&view).expect("removed");
        if garbled {
            std::fs::create_dir_all(view.join("1")).expect("made");
            std::fs::write(view.join("1/db"), octets(9, 5000)).expect("written");
        }
        assert!(lab.verify().is_sound());
        let desk = lab.serves_without(&[]);
        assert_eq!(desk.recovered.view, ViewFound::Rebuilt);
        desk.close();
        let report = lab.verify();
        assert_eq!(report.notes, [""; 0]);
    }
}

#[test]
fn a_lock_file_that_was_left_behind_is_in_nobodys_way() {
    let lab = Lab::new();
    assert!(lab.path().join("lock").exists());
    assert!(lab.verify().is_sound());
    lab.serves_without(&[]).close();
}

#[test]
fn modes_that_let_others_in_are_told_and_folders_are_closed_by_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let log = lab.path().join("log");
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&log, open_to_all).expect("set");
    let report = lab.verify();
    assert!(report.is_sound());
    assert!(
        report.notes.iter().any(|note| note.contains("mode 755")),
        "{:?}",
        report.notes
    );
    lab.serves_without(&[]).close();
    let mode = std::fs::metadata(&log).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn the_loss_of_the_newest_segment_or_of_the_whole_log_is_told() {
    let missing = |lab: &Lab| {
        let damages = lab.verify().damages.into_iter();
        let lost = damages.filter(|it| it.kind == DamageKind::Missing && it.loss == Loss::Unknown);
        lost.count()
    };
    let lab = Lab::new();
    assert_eq!(missing(&lab), 0);
    let newest = lab.segments("log").pop().expect("one");
    std::fs::write(&newest, "").expect("emptied");
    assert_eq!(missing(&lab), 1, "it is there, and nothing is in it");
    std::fs::remove_file(&newest).expect("removed");
    assert_eq!(missing(&lab), 1);
    let desk = open(lab.path());
    assert_eq!(desk.recovered.damaged, 1);
    desk.close();
    assert!(!newest.exists(), "its number is not used again");
    assert_eq!(missing(&lab), 0, "another segment was begun");

    let lab = Lab::new();
    let newest = lab.segments("log").pop().expect("one");
    lab.change(&newest, |octets| octets.truncate(30));
    assert_eq!(missing(&lab), 1, "less than a header is left");
    let desk = open(lab.path());
    assert_eq!(desk.recovered.damaged, 1);
    desk.close();

    let lab = Lab::new();
    std::fs::remove_dir_all(lab.path().join("log")).expect("removed");
    std::fs::create_dir(lab.path().join("log")).expect("made");
    let desk = open(lab.path());
    assert_eq!(desk.recovered.damaged, 1, "told as one");
    desk.close();
    assert_eq!(missing(&lab), 0, "another segment was begun");
}

/// A store with two segments of the log, neither of them sealed: killed as the second was begun.
#[test]
fn behind_a_lost_segment_another_is_begun_and_its_number_is_not_used_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = open(folder.path());
    desk.store(message("bob", 1), Body::Inline(body(1)));
    desk.close();
    let first = folder.path().join("log/0000000000000001.seg");
    let unsealed = std::fs::read(&first).expect("read");
    let mut desk = open(folder.path());
    for number in 2..40 {
        desk.store(message("bob", number), Body::Inline(body(number)));
        if folder.path().join("log/0000000000000002.seg").exists() {
            break;
        }
    }
    desk.close();
    std::fs::write(&first, unsealed).expect("written");
    let second = folder.path().join("log/0000000000000002.seg");
    std::fs::remove_file(&second).expect("removed");
    let mut desk = open(folder.path());
    assert_eq!(desk.recovered.damaged, 1);
    assert_eq!(desk.delivered("bob"), [1]);
    desk.close();
    assert!(!second.exists());
    assert!(folder.path().join("log/0000000000000003.seg").exists());
    let desk = open(folder.path());
    assert_eq!(desk.recovered.damaged, 0, "it was told");
    desk.close();
}

#[test]
fn a_store_whose_newest_segments_number_cannot_be_read_or_written_works_without() {
    let lab = Lab::new();
    let number = lab.path().join("newest-segment");
    std::fs::remove_file(&number).expect("removed");
    std::fs::create_dir(&number).expect("made");
    let report = lab.verify();
    assert!(report.is_sound());
    let told = |note: &String| note.contains("newest-segment");
    assert!(report.notes.iter().any(told), "{:?}", report.notes);
    let mut desk = lab.serves_without(&[]);
    for number in 100..140 {
        desk.store(message("bob", number), Body::Inline(body(number)));
    }
    desk.close();
}

#[test]
fn a_verification_opens_nothing_to_write() {
    let lab = Lab::new();
    let number = lab.path().join("newest-segment");
    std::fs::remove_file(&number).expect("removed");
    // A program that runs can be opened to read only, by whomever.
    let program = std::env::current_exe().expect("there is one");
    std::os::unix::fs::symlink(program, &number).expect("linked");
    let report = lab.verify();
    let told = |note: &String| note.contains("missing cannot be told");
    assert!(!report.notes.iter().any(told), "{:?}", report.notes);
}
