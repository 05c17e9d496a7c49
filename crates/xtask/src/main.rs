//! The project's own commands: `cargo xtask test`, `vm-test`, `fuzz`, `corpus`, `bench`, `oci-reference`, `dist`.

mod acceptance;
mod bench;
mod corpus;
mod dist;
mod reference;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

/// What went wrong, in words for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test             all checks and tests; installs what they need with apt-get where it may
      --no-install     installs nothing
      --machines       all of `vm-test`, not v2, systemd and SELinux alone
  vm-test [v1] [v2] [systemd] [selinux]
                   tests in virtual machines: cgroup v1 and v2 alone, systemd, SELinux, resets that lose the disk's
                   cache (or: vm)
      --only WORD      the tests whose name holds WORD (may be repeated)
      --resets N       N resets (default: 3)
      --binary PATH    the binary under test (default: target/release/hull)
  fuzz TARGET      what reads others' words, given what nobody should write (no TARGET: their names)
      --seconds N      for so long (default: 60)
      --seed N         the inputs of that seed (default: the time)
      --input FILE     one input again
  corpus [WORD]... the Dockerfiles of crates/hull-tests/corpus built from the package registries, and run
  bench            measures hull, the kernel's floor, and the other engines that are installed
      --only WORD      the rows whose name holds WORD (may be repeated)
      --rounds N       how many rounds (default: 20)
      --long           also what takes minutes: the 1000th container
      --keep           writes docs/bench.json too
  oci-reference [runc] [crun]
                   the conformance tests of hull oci with the field's own runtimes, and what these do otherwise
  dist             a static binary with its unit files, manual pages and completions, in dist/";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["test", options @ ..] => test::run(options),
        ["vm-test" | "vm", options @ ..] => vm::run(options),
        ["fuzz", options @ ..] => fuzz(options),
        ["corpus", words @ ..] => corpus::check(words),
        ["bench", options @ ..] => bench::run(options),
        ["oci-reference", runtimes @ ..] => reference::run(runtimes),
        ["dist"] => dist::run(),
        // Not for people: what the others run in a process of its own.
        ["acceptance", script, client] => acceptance::run_here(script, client),
        ["floor", options @ ..] => bench::floor::run(options),
        ["peak", command @ ..] => bench::floor::peak(command),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Fuzzes with what `cargo test` builds: with overflow checks, and at once.
fn fuzz(options: &[&str]) -> Result<()> {
    let words = ["run", "--quiet", "--package", "hull-fuzz", "--"];
    shell::run("cargo", &[&words, options].concat())
}
