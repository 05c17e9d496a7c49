//! `cargo xtask fuzz`: one target for long, or one input again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hull_fuzz::{Budget, Target, run, targets};

/// What a target may take of memory, with its threads' stacks and what they only reserve.
const MEMORY: u64 = 3 << 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match fuzz(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let mut text =
        "usage: cargo xtask fuzz TARGET [--seconds N] [--seed N] | TARGET --input FILE\n\ntargets:\n"
            .to_owned();
    for target in targets() {
        text.push_str(&format!("  {:14}{}\n", target.name, target.about));
    }
    text
}

fn fuzz(arguments: &[String]) -> Result<(), String> {
    let (Some(name), options) = (arguments.first(), arguments.get(1..).unwrap_or_default()) else {
        return Err(usage());
    };
    let target = targets().iter().find(|target| target.name == name).ok_or_else(usage)?;
    let mut budget = Budget {
        runs: u64::MAX,
        time: Duration::from_secs(60),
        seed: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        folder: PathBuf::from("target/fuzz").join(target.name),
    };
    for pair in options.chunks(2) {
        let [option, value] = pair else { return Err(usage()) };
        let number = || value.parse::<u64>().map_err(|_| format!("{option} {value:?}: a number is wanted"));
        match option.as_str() {
            "--seconds" => budget.time = Duration::from_secs(number()?),
            "--seed" => budget.seed = number()?,
            "--input" => return again(target, Path::new(value)),
            _ => return Err(usage()),
        }
    }
    limit_memory()?;
    println!("{}: seed {}, {} seconds", target.name, budget.seed, budget.time.as_secs());
    let ran = run(target, &budget)?;
    let slowest = ran.slowest.as_millis();
    println!(
        "{}: {} runs, {} outcomes, nothing found; the longest took {slowest} ms",
        target.name, ran.runs, ran.outcomes
    );
    Ok(())
}

fn again(target: &Target, input: &Path) -> Result<(), String> {
    let bytes = std::fs::read(input).map_err(|error| format!("read {}: {error}", input.display()))?;
    limit_memory()?;
    println!("{}", (target.prepare)()(&bytes));
    Ok(())
}

fn limit_memory() -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    setrlimit(Resource::As, limit).map_err(|errno| format!("limit the memory: {errno}"))
}
