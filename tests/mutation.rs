//! Every claim of `tests/claims` against mutations of its seeds and against the whole corpus of `fuzz/`.
//!
//! So many mutations of each claim are the same in every run. `RESTANTE_TEST_SECONDS` lets all claims together be
//! mutated for so long with a new seed, which is printed; `RESTANTE_TEST_SEED` plays one again,
//! `RESTANTE_TEST_CLAIM` one claim alone.

mod claims;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use claims::Claim;
use claims::mutator::Mutator;
use restante::clock::now;

/// Octets of the longest mutation.
const LONGEST: usize = 100_000;
/// Mutations of each claim if nobody says for how long.
const ROUNDS: u64 = 400;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

fn chosen() -> Vec<Claim> {
    let name = std::env::var("RESTANTE_TEST_CLAIM").unwrap_or_default();
    let all = claims::ALL
        .iter()
        .filter(|claim| claim.name.contains(&name));
    all.copied().collect()
}

fn corpus(kind: &str, claim: &Claim) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(kind)
        .join(claim.name);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = paths
        .map(|path| (path.clone(), fs::read(path).expect("readable")))
        .collect();
    files.sort();
    files
}

/// Shows octets to a claim; where it fails, they are written where they can be looked at.
fn show(claim: &Claim, octets: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (claim.check)(octets))) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.bin", claim.name));
        fs::write(&path, octets).expect("written");
        println!("{} fails with {what}: {}", claim.name, path.display());
        println!(
            "{}",
            String::from_utf8_lossy(&octets[..octets.len().min(4_000)])
        );
        resume_unwind(panic);
    }
}

#[test]
fn every_claim_holds_for_its_seeds_and_for_all_that_was_found() {
    for claim in chosen() {
        for octets in (claim.seeds)() {
            show(&claim, &octets, "a seed");
        }
        for kind in ["corpus", "found"] {
            for (path, octets) in corpus(kind, &claim) {
                show(&claim, &octets, &path.display().to_string());
            }
        }
    }
}

#[test]
fn every_claim_holds_for_mutations() {
    let span = number("RESTANTE_TEST_SECONDS").map(Duration::from_secs);
    let fresh = if span.is_some() { now().wall.0 } else { 1 };
    let seed = number("RESTANTE_TEST_SEED").unwrap_or(fresh);
    println!("RESTANTE_TEST_SEED={seed}");
    let all = chosen();
    let each = span.map(|span| span / u32::try_from(all.len()).expect("few") * 2);
    let (front, back) = all.split_at(all.len() / 2);
    thread::scope(|scope| {
        for half in [front, back] {
            scope.spawn(move || half.iter().for_each(|claim| mutate(claim, seed, each)));
        }
    });
}

fn mutate(claim: &Claim, seed: u64, span: Option<Duration>) {
    let mut sources = (claim.seeds)();
    sources.extend(
        corpus("corpus", claim)
            .into_iter()
            .map(|(_, octets)| octets),
    );
    let begun = now().instant;
    let mut round = 0;
    let goes_on = |round| span.map_or(round < ROUNDS, |span| now().instant.since(begun) < span);
    while goes_on(round) {
        // Each round has a seed of its own, so that a failing one can be played alone.
        let mut mutator = Mutator::new(seed.wrapping_add(round));
        let (one, other) = (mutator.below(sources.len()), mutator.below(sources.len()));
        let octets = mutator.mutate(&sources[one], &sources[other], LONGEST);
        show(
            claim,
            &octets,
            &format!("RESTANTE_TEST_SEED={}", seed.wrapping_add(round)),
        );
        round += 1;
    }
    println!("{}: {round}", claim.name);
}
