//! A disk of 12 MB of its own for one server: a tmpfs in a mount namespace that nobody else sees.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Held until dropped.
pub struct SmallDisk {
    holder: Child,
    data: PathBuf,
}

impl SmallDisk {
    /// Mounted at `data`; `None` where this process may not mount.
    pub fn mount(data: &Path) -> Option<Self> {
        fs::create_dir_all(data).ok()?;
        let script =
            format!("mount -t tmpfs -o size=12m tmpfs {data:?} && echo up && exec sleep 600");
        let holder = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare is part of every Linux (util-linux)");
        let mut disk = Self {
            holder,
            data: data.to_owned(),
        };
        let mut said = String::new();
        let output = disk.holder.stdout.take()?;
        let _ = BufReader::new(output).read_line(&mut said);
        (said.trim() == "up").then_some(disk)
    }

    /// What stands before the server on its command line, so that it sees this disk.
    pub fn before(&self) -> String {
        format!("nsenter -t {} -m --", self.holder.id())
    }

    /// Fills it but for so many octets.
    pub fn fill_but(&self, octets: u64) {
        let mut ballast = File::create(self.ballast()).expect("the disk can be written to");
        let step = vec![0; 64 * 1024];
        let mut length = 0;
        while ballast.write_all(&step).is_ok() {
            length += step.len() as u64;
        }
        ballast
            .set_len(length.saturating_sub(octets))
            .expect("the disk can be written to");
    }

    pub fn empty(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    /// As it is seen from outside of the namespace.
    fn ballast(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        let inside = self.data.strip_prefix("/").expect("an absolute path");
        Path::new(&root).join(inside).join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
