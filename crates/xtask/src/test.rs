//! `cargo xtask test`: everything that says whether this tree is good.

use crate::shell::{self, find, heading, output, run_command, target};
use crate::{Result, acceptance};

use std::process::Command;

/// A program that the tests run, and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("nft", "nftables"),
    ("pgrep", "procps"),
    ("python3", "python3"),
    ("script", "bsdutils"),
    ("setsid", "util-linux"),
    ("socat", "socat"),
    ("ss", "iproute2"),
    ("unshare", "util-linux"),
];

/// Runs all checks, those after a failed one too; the test runner's closing lines come last.
fn run_all(options: &[&str]) -> Result<()> {
    let mut left_out = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    let mut note = |done: Result<()>| {
        if let Err(error) = done {
            println!("FAILED: {error}");
            failed.push(error.to_string());
        }
    };

    heading("what the tests need");
    note(packages(options.contains(&"--no-install"), &mut left_out));
    heading("rustfmt");
    note(shell::run("cargo", &["fmt", "--all", "--check"]));
    heading("clippy");
    note(shell::run("cargo", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]));
    heading("cargo deny: licences and advisories");
    match find("cargo-deny") {
        Some(_) => note(shell::run("cargo", &["deny", "check"])),
        None => left_out.push("licences and advisories: cargo-deny is not installed".to_owned()),
    }
    heading("the release binary");
    let built = shell::run("cargo", &["build", "--release", "--package", "hull"]);
    let there = built.is_ok();
    note(built);
    if there {
        note(acceptance::run(&mut left_out));
    } else {
        left_out.push("the acceptance script: the release binary did not build".to_owned());
    }
    heading("left out");
    left_out.iter().for_each(|what| println!("- {what}"));
    if left_out.is_empty() {
        println!("nothing");
    }
    heading("tests");
    note(tests());
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join("; ")).into()) }
}

/// Installs what is missing, where apt-get is there and the user may.
fn packages(forbidden: bool, left_out: &mut Vec<String>) -> Result<()> {
    let missing = || -> Vec<_> { NEEDED.iter().filter(|(program, _)| find(program).is_none()).collect() };
    let mut wanted: Vec<&str> = missing().iter().map(|(_, package)| *package).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        println!("all there");
        return Ok(());
    }
    let may = !forbidden && find("apt-get").is_some() && rustix::process::geteuid().is_root();
    if may {
        println!("installing {}", wanted.join(" "));
        let apt = |args: &[&str]| {
            run_command(
                Command::new("apt-get").args(args).args(&wanted).env("DEBIAN_FRONTEND", "noninteractive"),
            )
        };
        let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
        if apt(&install).is_err() {
            shell::run("apt-get", &["update", "--quiet"])?;
            apt(&install)?;
        }
    }
    for (program, package) in missing() {
        left_out.push(format!("tests that run {program}: apt-get install {package}"));
    }
    if missing().is_empty() { Ok(()) } else { Err("programs that the tests need are missing".into()) }
}

/// Unit tests and tests from outside, by nextest where it is installed.
fn tests() -> Result<()> {
    let runner: &[&str] = match find("cargo-nextest") {
        Some(_) => &["nextest", "run", "--workspace", "--no-fail-fast"],
        None => &["test", "--workspace", "--no-fail-fast"],
    };
    println!("cargo {}", runner.join(" "));
    hull_tests::sweep();
    let done = run_command(
        Command::new("cargo")
            .args(runner)
            .current_dir(shell::root())
            .env("HULL_BIN", target().join("release/hull")),
    );
    hull_tests::sweep();
    done
}

/// `cargo xtask test`, with the machine named first.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    heading("this machine");
    print!("{}", output("uname", &["-srm"])?);
    run_all(options)
}
