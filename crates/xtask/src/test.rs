//! `cargo xtask test`: everything that says whether this tree is good.

use crate::shell::{self, find, heading, output, run_command, target};
use crate::{Result, acceptance, vm};

use std::process::Command;

/// A program that the tests run, and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("pgrep", "procps"),
    ("python3", "python3"),
    ("script", "bsdutils"),
    ("setsid", "util-linux"),
    ("socat", "socat"),
    ("ss", "iproute2"),
    ("unshare", "util-linux"),
];

/// A program that some tests run where it is, and what they test. It is not installed: it would come with a service.
const OPTIONAL: &[(&str, &str)] = &[
    ("docker", "Docker's client"),
    ("sshd", "the client by ssh://"),
    ("systemd-socket-activate", "the daemon on sockets that it is handed"),
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
    let machines = options.contains(&"--machines");
    note(packages(options.contains(&"--no-install"), machines, &mut left_out));
    heading("rustfmt");
    note(shell::run("cargo", &["fmt", "--all", "--check"]));
    heading("clippy");
    note(shell::run("cargo", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]));
    heading("cargo deny: licences and advisories");
    dependencies(&mut note, &mut left_out);
    heading("the release binary");
    let built = shell::run("cargo", &["build", "--release", "--package", "hull"]);
    let there = built.is_ok();
    note(built);
    if there {
        note(acceptance::run(&mut left_out));
        if machines {
            note(vm::run_where_possible(&mut left_out));
        } else {
            left_out.push(
                "cgroup v1 and v2 alone, and resets, in virtual machines: --machines (some 20 minutes more)"
                    .to_owned(),
            );
        }
    } else {
        left_out
            .push("the acceptance script and virtual machines: the release binary did not build".to_owned());
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

/// Licences, sources and bans; advisories where their database can be reached.
fn dependencies(note: &mut impl FnMut(Result<()>), left_out: &mut Vec<String>) {
    if find("cargo-deny").is_none() {
        left_out.push("licences and advisories: cargo install cargo-deny --locked (takes long)".to_owned());
        return;
    }
    note(shell::run("cargo", &["deny", "check", "bans", "licenses", "sources"]));
    let fetched = shell::run("cargo", &["deny", "fetch", "db"]).is_ok();
    if fetched {
        note(shell::run("cargo", &["deny", "check", "advisories"]));
    } else {
        left_out.push("advisories: their database could not be fetched".to_owned());
    }
}

/// Installs what is missing, where apt-get is there and the user may.
fn packages(forbidden: bool, machines: bool, left_out: &mut Vec<String>) -> Result<()> {
    let missing = || -> Vec<_> { NEEDED.iter().filter(|(program, _)| find(program).is_none()).collect() };
    // Those for virtual machines are wanted and not needed: without them, the machines are what is left out.
    let for_machines = if machines { vm::NEEDED } else { &[] };
    let all = NEEDED.iter().chain(for_machines).filter(|(program, _)| find(program).is_none());
    let mut wanted: Vec<&str> = all.map(|(_, package)| *package).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let may =
        !wanted.is_empty() && !forbidden && find("apt-get").is_some() && rustix::process::geteuid().is_root();
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
    for (program, what) in OPTIONAL.iter().filter(|(program, _)| find(program).is_none()) {
        left_out.push(format!("{what}: there is no {program}"));
    }
    for (program, package) in missing() {
        left_out.push(format!("tests that run {program}: apt-get install {package}"));
    }
    if missing().is_empty() {
        println!("all there");
        Ok(())
    } else {
        Err("programs that the tests need are missing".into())
    }
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
