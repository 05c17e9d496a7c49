//! One target, over and over.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::Target;
use crate::mutate::{Material, Random, mutate};

/// So many inputs that led elsewhere are kept to be mutated on.
const CORPUS: usize = 4096;
/// What takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a target is run.
#[derive(Clone, Debug)]
pub struct Budget {
    /// So many times at most.
    pub runs: u64,
    /// So long at most.
    pub time: Duration,
    /// Which inputs.
    pub seed: u64,
    /// Where the input of each run lies while it is run, and those that failed.
    pub folder: PathBuf,
}

/// What a run of many came to.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// How many.
    pub runs: u64,
    /// How many outcomes there were.
    pub outcomes: usize,
    /// How long the longest took; its input is `slowest`.
    pub slowest: Duration,
}

/// Runs a target for a moment, for its test; as many seconds as `HULL_FUZZ_SECONDS` of the environment says, where it does.
///
/// # Panics
/// An input was found that it does not take as it should; where it lies is told.
pub fn briefly(target: &Target) {
    let folder = std::env::temp_dir().join(format!("hull-fuzz-{}-{}", target.name, std::process::id()));
    let mut budget = Budget { runs: 20_000, time: Duration::from_secs(3), seed: 1, folder };
    if let Some(seconds) = std::env::var("HULL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()) {
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
        budget = Budget { runs: u64::MAX, time: Duration::from_secs(seconds), seed, ..budget };
    }
    let ran = run(target, &budget).unwrap_or_else(|error| panic!("{error}"));
    let _ = std::fs::remove_dir_all(&budget.folder);
    let seeds = (target.seeds)().len() as u64;
    assert!(ran.runs > seeds, "{}: {} runs tell nothing", target.name, ran.runs);
    assert!(ran.outcomes > 1, "{}: every input ends the same: {ran:?}", target.name);
}

/// Runs a target.
///
/// # Errors
/// An input makes it panic (what hangs or takes all memory ends the process, its input is `current`), or inputs cannot be
/// kept.
pub fn run(target: &Target, budget: &Budget) -> Result<Ran, String> {
    let kept = |error: std::io::Error| format!("keep inputs in {}: {error}", budget.folder.display());
    std::fs::create_dir_all(&budget.folder).map_err(kept)?;
    let current = budget.folder.join("current");
    let file = File::create(&current).map_err(kept)?;
    let mut corpus = (target.seeds)();
    let mut random = Random::new(budget.seed);
    let (mut outcomes, mut runs, mut slowest) = (HashSet::new(), 0, Duration::ZERO);
    let progress = watched(target.name, &current);
    let begun = Instant::now();
    let mut once = (target.prepare)();
    while runs < budget.runs && begun.elapsed() < budget.time {
        // The seeds first, as they are.
        let mut input = match corpus.get(runs as usize).filter(|_| runs < corpus.len() as u64) {
            Some(seed) => seed.clone(),
            None => {
                let mut input = random.of(&corpus).cloned().unwrap_or_default();
                let material = Material { corpus: &corpus, words: target.words, block: target.block };
                mutate(&mut random, &mut input, material);
                input
            }
        };
        (target.repair)(&mut input);
        keep(&file, &input).map_err(kept)?;
        let start = Instant::now();
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| once(&input))) else {
            let failed = budget.folder.join(format!("failed-{}-{runs}", budget.seed));
            std::fs::copy(&current, &failed).map_err(kept)?;
            return Err(format!(
                "{}: run {runs} of seed {} panicked; again: cargo xtask fuzz {} --input {}",
                target.name,
                budget.seed,
                target.name,
                failed.display()
            ));
        };
        if start.elapsed() > slowest.max(Duration::from_millis(100)) {
            slowest = start.elapsed();
            std::fs::copy(&current, budget.folder.join("slowest")).map_err(kept)?;
        }
        runs += 1;
        progress.fetch_add(1, Ordering::Relaxed);
        if outcomes.insert(shape(&outcome)) && corpus.len() < CORPUS {
            corpus.push(input);
        }
    }
    // What it made may take long to be removed.
    drop(progress);
    Ok(Ran { runs, outcomes: outcomes.len(), slowest })
}

/// Writes an input down. The file is never empty in between: ext4 would write each to the disk at once then.
fn keep(file: &File, input: &[u8]) -> std::io::Result<()> {
    file.write_all_at(input, 0)?;
    file.set_len(input.len() as u64)
}

/// Whether two outcomes are the same but for numbers, digests and what is quoted.
fn shape(outcome: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (index, part) in outcome.split(['"', '`']).enumerate() {
        // What stands between two marks is the input's own.
        if index % 2 == 0 {
            let words = part.split(|c: char| !c.is_alphanumeric());
            let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
            words.take(40).for_each(|word| word.hash(&mut hasher));
        }
    }
    hasher.finish()
}

/// Counts runs; the process ends where the count stands still, as nothing else would end what hangs.
fn watched(name: &'static str, current: &std::path::Path) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let (watch, current): (Weak<AtomicU64>, _) = (Arc::downgrade(&count), current.to_owned());
    std::thread::spawn(move || {
        let (mut last, mut since) = (0, Instant::now());
        while let Some(count) = watch.upgrade() {
            let now = count.load(Ordering::Relaxed);
            drop(count);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                eprintln!(
                    "{name}: run {now} hangs; again: cargo xtask fuzz {name} --input {}",
                    current.display()
                );
                std::process::abort();
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    });
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Once, as_it_is};

    fn picky() -> Once {
        Box::new(|input| {
            assert!(!input.starts_with(b"bomb"), "found");
            // Each letter that is right leads elsewhere, which is what brings an input nearer to the bomb.
            format!("{} right", "x".repeat(input.iter().zip(b"bomb").take_while(|(a, b)| a == b).count()))
        })
    }

    const PICKY: Target = Target {
        name: "picky",
        about: "what a fuzzer must find",
        seeds: || vec![b"....".to_vec()],
        words: &["b", "o", "m"],
        block: 1,
        repair: as_it_is,
        prepare: picky,
    };

    #[test]
    fn what_panics_is_found_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget {
            runs: 3_000_000,
            time: Duration::from_secs(50),
            seed: 7,
            folder: folder.path().to_owned(),
        };
        let error = run(&PICKY, &budget).unwrap_err();
        assert!(error.contains("panicked; again: cargo xtask fuzz picky --input"), "{error}");
        let failed = error.rsplit(' ').next().unwrap();
        assert!(std::fs::read(failed).unwrap().starts_with(b"bomb"));
    }
}
