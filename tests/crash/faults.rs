//! What befalls the server: the shim between it and its disk, and how a fault is drawn.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::dice::Dice;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/shim.c");
/// As in `shim.c`.
const SLOTS: usize = 8;
const SEEN: usize = 6;
const STRUCK: usize = 7;

/// Which calls, as in `shim.c`.
pub const WRITE: u64 = 1;
pub const SYNC: u64 = 2;
pub const SIZE: u64 = 4;
pub const NAME: u64 = 8;
/// Which files, as in `shim.c`.
pub const LOG: u64 = 1;
pub const BODY: u64 = 2;
pub const VIEW: u64 = 4;
pub const OTHER: u64 = 8;
pub const ANY: u64 = LOG | BODY | VIEW | OTHER;

/// What the shim does to a call, as in `shim.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    KillBefore = 1,
    KillAfter = 2,
    Tear = 3,
    Short = 4,
    Eio = 5,
    Enospc = 6,
    Erofs = 7,
    /// A sync that says it was done and was not.
    Forget = 8,
}

/// What the shim is told.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub action: Action,
    /// At the n-th call that fits, from 1.
    pub countdown: u64,
    /// So many calls that fit, from that one on.
    pub lasts: u64,
    pub calls: u64,
    pub files: u64,
    /// Thousandths of a torn or short write that are done.
    pub share: u64,
}

impl Order {
    /// One call.
    pub fn at(action: Action, countdown: u64, calls: u64, files: u64) -> Self {
        Self {
            action,
            countdown,
            lasts: 1,
            calls,
            files,
            share: 500,
        }
    }
}

/// The file that test and shim share.
pub struct Shim {
    slots: File,
}

impl Shim {
    /// A program in `folder` that is the server with the shim before it; `before` stands in front of it on its
    /// command line, as `strace -o FILE` does. `data` is the folder the shim watches.
    pub fn wrap(
        binary: &Path,
        folder: &Path,
        data: &Path,
        before: &str,
    ) -> std::io::Result<(Self, PathBuf)> {
        let control = folder.join("faults");
        fs::write(&control, [0; SLOTS * 8])?;
        let program = folder.join("restante-with-shim");
        let text = format!(
            "#!/bin/sh\nexport FAULTS={control:?} DATA={data:?}\n\
             exec {before} env LD_PRELOAD={:?} {binary:?} \"$@\"\n",
            library()
        );
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let slots = File::options().read(true).write(true).open(&control)?;
        Ok((Self { slots }, program))
    }

    /// From the next call on; the counts begin at 0.
    pub fn arm(&self, order: &Order) {
        self.disarm();
        for (slot, value) in [
            (1, order.countdown),
            (2, order.lasts),
            (3, order.calls),
            (4, order.files),
            (5, order.share),
            (SEEN, 0),
            (STRUCK, 0),
            (0, order.action as u64),
        ] {
            self.put(slot, value);
        }
    }

    pub fn disarm(&self) {
        self.put(0, 0);
    }

    /// Calls that were struck since it was armed.
    pub fn struck(&self) -> u64 {
        self.get(STRUCK)
    }

    fn put(&self, slot: usize, value: u64) {
        self.slots
            .write_all_at(&value.to_ne_bytes(), slot as u64 * 8)
            .expect("the slots are a file");
    }

    fn get(&self, slot: usize) -> u64 {
        let mut octets = [0; 8];
        self.slots
            .read_exact_at(&mut octets, slot as u64 * 8)
            .expect("the slots are a file");
        u64::from_ne_bytes(octets)
    }
}

/// The shim as a library, compiled once by the `cc` that links Rust programs too.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let name = format!("crash-shim-{}.so", std::process::id());
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let status = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(SOURCE)
            .arg("-ldl")
            .status()
            .expect("a C compiler, cc, is needed");
        assert!(status.success(), "shim.c does not compile");
        library
    })
}

/// One way for the server to end, or to go on badly until it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL at any moment.
    Signal,
    /// SIGKILL between a write and its sync.
    BeforeSync,
    /// SIGKILL after a sync, before what follows from it.
    AfterSync,
    /// SIGKILL in the middle of a write: a part of it is there.
    TornWrite,
    /// SIGKILL around a write.
    AroundWrite,
    /// SIGKILL around a change of names or lengths: a segment born, sealed, dropped.
    AroundName,
    /// SIGKILL during the start that follows another kill.
    DuringStart,
    /// One write or sync fails with EIO; killed a while later.
    InputOutput,
    /// No room for a while; killed after there is room again, or before.
    NoRoom,
    /// The disk turns read-only; killed a while later.
    ReadOnly,
    /// Writes are done in parts for a while; killed then.
    ShortWrites,
    /// SIGTERM under load.
    Terminated,
}

impl Fault {
    /// As often as each befalls.
    pub const WEIGHTS: [(u64, Self); 12] = [
        (30, Self::Signal),
        (12, Self::BeforeSync),
        (12, Self::AfterSync),
        (10, Self::TornWrite),
        (8, Self::AroundWrite),
        (5, Self::AroundName),
        (6, Self::DuringStart),
        (5, Self::InputOutput),
        (4, Self::NoRoom),
        (3, Self::ReadOnly),
        (2, Self::ShortWrites),
        (3, Self::Terminated),
    ];

    /// As a report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "SIGKILL at a random moment",
            Self::BeforeSync => "SIGKILL between write and sync",
            Self::AfterSync => "SIGKILL between sync and answer",
            Self::TornWrite => "SIGKILL within a write (torn)",
            Self::AroundWrite => "SIGKILL around a write",
            Self::AroundName => "SIGKILL around a create, unlink, truncate",
            Self::DuringStart => "SIGKILL during the start after a kill",
            Self::InputOutput => "I/O error, then SIGKILL",
            Self::NoRoom => "no room for a while, then SIGKILL",
            Self::ReadOnly => "read-only disk, then SIGKILL",
            Self::ShortWrites => "short writes, then SIGKILL",
            Self::Terminated => "SIGTERM",
        }
    }

    /// Whether the disk refuses for a while before the process ends, so that confirmations of that while
    /// are forgotten.
    pub fn is_of_the_disk(self) -> bool {
        matches!(self, Self::InputOutput | Self::NoRoom | Self::ReadOnly)
    }

    /// What the shim is told for it; `None` if the shim has no part in it.
    pub fn order(self, dice: &mut Dice) -> Option<Order> {
        let countdown = dice.between(1..40);
        let files = dice.weighted(&[(7, LOG | BODY), (2, BODY), (1, ANY)]);
        let around = dice.weighted(&[(1, Action::KillBefore), (1, Action::KillAfter)]);
        let order = match self {
            Self::Signal | Self::Terminated => return None,
            Self::BeforeSync => Order::at(Action::KillBefore, countdown, SYNC, files),
            Self::AfterSync => Order::at(Action::KillAfter, countdown, SYNC, files),
            Self::TornWrite => Order::at(Action::Tear, countdown, WRITE, files),
            Self::AroundWrite => Order::at(around, countdown, WRITE, files),
            Self::AroundName => Order::at(around, dice.between(1..6), SIZE | NAME, ANY),
            Self::DuringStart => {
                Order::at(around, dice.between(1..16), WRITE | SYNC | SIZE | NAME, ANY)
            }
            Self::InputOutput => Order::at(Action::Eio, countdown, WRITE | SYNC, files),
            Self::NoRoom => Order {
                lasts: dice.between(1..60),
                ..Order::at(Action::Enospc, countdown, WRITE | SIZE, ANY)
            },
            Self::ReadOnly => Order {
                lasts: u64::MAX,
                ..Order::at(Action::Erofs, countdown, WRITE | SIZE | NAME, ANY)
            },
            Self::ShortWrites => Order {
                lasts: 200,
                ..Order::at(Action::Short, 1, WRITE, files)
            },
        };
        Some(Order {
            share: dice.between(0..1000),
            ..order
        })
    }
}
