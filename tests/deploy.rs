//! What is deployed is checked by the tool that will read it. Without it the test fails:
//! `tests/run` installs it.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn systemd_accepts_the_unit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/restante.service");
    let text = fs::read_to_string(unit).expect("the unit is there");
    // The check wants the program to exist; where it is installed is not what is tested.
    let text = text.replace("/usr/bin/restante", env!("CARGO_BIN_EXE_restante"));
    let copy = folder.path().join("restante.service");
    fs::write(&copy, text).expect("the copy is written");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&copy)
        .output()
        .expect("systemd-analyze runs (Debian: systemd)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        !said.contains("restante.service"),
        "it has something to say about the unit: {said}"
    );
}
