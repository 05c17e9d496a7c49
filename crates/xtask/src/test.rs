//! `cargo xtask test`: everything that says whether this tree is good.

use crate::shell::{self, find, heading, output, run_command, target};
use crate::{Result, acceptance, vm};

use std::process::Command;

/// A program that the tests run, and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("curl", "curl"),
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("pgrep", "procps"),
    ("python3", "python3"),
    ("runc", "runc"),
    ("script", "bsdutils"),
    ("setsid", "util-linux"),
    ("skopeo", "skopeo"),
    ("socat", "socat"),
    ("ss", "iproute2"),
    ("unshare", "util-linux"),
];

/// A program that some tests run where it is, and what they test. It is not installed: it would come with a service.
const OPTIONAL: &[(&str, &str)] = &[
    ("docker", "Docker's client"),
    ("docker-buildx", "BuildKit's client (also where Docker's plug-ins are)"),
    ("sshd", "the client by ssh://"),
    ("systemd-socket-activate", "the daemon on sockets that it is handed"),
];

/// Runs all checks, those after a failed one too; the test runner's closing lines come last.
fn run_all(options: &[&str]) -> Result<()> {
    let mut left_out: Vec<String> = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    let mut note = |done: Result<()>| {
        if let Err(error) = done {
            println!("FAILED: {error}");
            failed.push(error.to_string());
        }
    };

    heading("what the tests need");
    let may_install = may_install(options);
    note(packages(may_install, &mut left_out));
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
        note(vm::run_where_possible(options.contains(&"--machines"), may_install, &mut left_out));
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

/// Whether apt-get is there and may be used: the user is root, and has not forbidden it.
fn may_install(options: &[&str]) -> bool {
    !options.contains(&"--no-install") && find("apt-get").is_some() && rustix::process::geteuid().is_root()
}

/// Programs that are not there, with their packages.
fn missing(programs: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    programs.iter().copied().filter(|(program, _)| find(program).is_none()).collect()
}

/// Installs the packages of the programs that are missing.
fn install(programs: &[(&'static str, &'static str)]) -> Result<()> {
    let mut wanted: Vec<&str> = missing(programs).into_iter().map(|(_, package)| package).collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(());
    }
    println!("installing {}", wanted.join(" "));
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&wanted);
        run_command(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    if install().is_err() {
        shell::run("apt-get", &["update", "--quiet"])?;
        install()?;
    }
    Ok(())
}

/// Installs what is missing, where that may be.
fn packages(may_install: bool, left_out: &mut Vec<String>) -> Result<()> {
    if may_install {
        install(NEEDED)?;
        // Wanted and not needed: without these, virtual machines are what is left out.
        if let Err(error) = install(vm::NEEDED) {
            println!("{error}");
        }
    }
    for (program, what) in OPTIONAL.iter().filter(|(program, _)| find(program).is_none()) {
        left_out.push(format!("{what}: there is no {program}"));
    }
    for (program, package) in missing(NEEDED) {
        left_out.push(format!("tests that run {program}: apt-get install {package}"));
    }
    if missing(NEEDED).is_empty() {
        println!("all there");
        Ok(())
    } else {
        Err("programs that the tests need are missing".into())
    }
}

/// What tells the tests of BuildKit's protocol that their clients are not there, which is among what is left out.
const NO_CLIENTS: &str = "HULL_NO_BUILDKIT_CLIENTS";

/// Unit tests and tests from outside, by nextest where it is installed.
fn tests() -> Result<()> {
    let runner: &[&str] = match find("cargo-nextest") {
        Some(_) => &["nextest", "run", "--workspace", "--no-fail-fast"],
        None => &["test", "--workspace", "--no-fail-fast"],
    };
    println!("cargo {}", runner.join(" "));
    hull_tests::sweep();
    let mut cargo = Command::new("cargo");
    cargo.args(runner).current_dir(shell::root()).env("HULL_BIN", target().join("release/hull"));
    if find("docker").is_none() || find("docker-buildx").is_none() {
        cargo.env(NO_CLIENTS, "1");
    }
    let done = run_command(&mut cargo);
    hull_tests::sweep();
    done
}

/// `cargo xtask test`, with the machine named first.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    heading("this machine");
    print!("{}", output("uname", &["-srm"])?);
    run_all(options)
}
