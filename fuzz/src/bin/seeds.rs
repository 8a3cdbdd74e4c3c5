//! Writes the seeds of every claim as files: `seeds FOLDER`.

use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_default());
    for claim in restante_fuzz::claims::ALL {
        let own = folder.join(claim.name);
        fs::create_dir_all(&own)?;
        for (index, octets) in (claim.seeds)().into_iter().enumerate() {
            fs::write(own.join(format!("seed-{index}")), octets)?;
        }
    }
    Ok(())
}
