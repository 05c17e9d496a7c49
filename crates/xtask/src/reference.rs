//! `cargo xtask oci-reference`: the conformance tests of an OCI runtime, with another runtime than hull. What the field's
//! own runtimes do otherwise is written down, each with its reason (`crates/hull-tests/reference/RUNTIME.txt`): a test
//! that fails and does not stand there expects what the field does not do, and one that stands there and passes is a
//! difference that is no more. A reason that begins with `sometimes` is a race of theirs: the test may pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::shell::{self, find, heading, output};

/// The tests: what needs systemd as the first process, and engines that run hull, is not about the runtime alone.
const TESTS: &str = "binary(/^oci_/) - binary(oci_systemd) - binary(oci_runtime_of)";

/// Runs them with each of the runtimes, or with those that are installed.
pub(crate) fn run(runtimes: &[&str]) -> Result<()> {
    let all = ["runc", "crun"];
    let installed = || all.into_iter().filter(|name| find(name).is_some()).collect();
    let runtimes: Vec<&str> = if runtimes.is_empty() { installed() } else { runtimes.to_vec() };
    if runtimes.is_empty() {
        return Err("neither runc nor crun is here: apt-get install runc crun".into());
    }
    let mut wrong = 0;
    for runtime in runtimes {
        heading(&format!("the conformance tests, with {runtime}"));
        print!("{}", output(runtime, &["--version"])?);
        let known = known(&known_file(runtime))?;
        let ended = with(runtime)?;
        wrong += told(&known, &ended);
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} tests end otherwise than written down").into()) }
}

fn known_file(runtime: &str) -> PathBuf {
    shell::root().join(format!("crates/hull-tests/reference/{runtime}.txt"))
}

/// The tests that are known to fail, each with the reason.
fn known(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    parse_known(&text).map_err(|line| format!("{}: {line:?}: TEST: REASON is wanted", file.display()).into())
}

fn parse_known(text: &str) -> std::result::Result<BTreeMap<String, String>, &str> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (test, reason) = line.split_once(": ").ok_or(line)?;
            Ok((test.to_owned(), reason.to_owned()))
        })
        .collect()
}

/// Runs the tests with a runtime: whether each passed.
fn with(runtime: &str) -> Result<BTreeMap<String, bool>> {
    let mut words = vec!["cargo", "nextest", "run", "-p", "hull-tests", "--no-fail-fast", "-E", TESTS];
    // crun takes no machine that mounts cgroups of both versions: the v2 tree is hidden from it.
    let hidden = runtime == "crun" && Path::new(V2_BESIDE_V1).join("cgroup.procs").exists();
    let umount = format!("umount {V2_BESIDE_V1} && mount --make-rshared / && exec \"$@\"");
    if hidden {
        words.splice(0..0, ["unshare", "--mount", "sh", "-c", &umount, "sh"]);
    }
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir(shell::root())
        .env("HULL_TEST_OCI_RUNTIME", runtime)
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let log = shell::target().join(format!("oci-reference-{runtime}.log"));
    std::fs::write(&log, said.as_bytes()).map_err(|error| format!("{}: {error}", log.display()))?;
    println!("what the tests said: {}", log.display());
    let ended = parse_ended(&said);
    if ended.is_empty() {
        return Err(format!("no test was run: {}", said.trim()).into());
    }
    Ok(ended)
}

/// Where the v2 tree is on a machine with both versions.
const V2_BESIDE_V1: &str = "/sys/fs/cgroup/unified";

/// What nextest prints of each test: `PASS [ 0.1s] (1/9) hull-tests::oci_exec NAME`.
fn parse_ended(said: &str) -> BTreeMap<String, bool> {
    let mut ended = BTreeMap::new();
    for line in said.lines() {
        let mut words = line.split_whitespace();
        let passed = match words.next() {
            Some("PASS") => true,
            Some("FAIL" | "TIMEOUT" | "SIGABRT" | "SIGSEGV") => false,
            _ => continue,
        };
        let words: Vec<&str> = words.collect();
        if let [.., binary, name] = words.as_slice() {
            ended.insert(format!("{}::{name}", binary.trim_start_matches("hull-tests::")), passed);
        }
    }
    ended
}

/// Says what is otherwise than written down; how many tests that are.
fn told(known: &BTreeMap<String, String>, ended: &BTreeMap<String, bool>) -> usize {
    let mut wrong = 0;
    for (test, passed) in ended {
        match (passed, known.get(test)) {
            (false, Some(reason)) => println!("otherwise: {test}: {reason}"),
            (false, None) => {
                println!("FAILED: {test}");
                wrong += 1;
            }
            (true, Some(reason)) if reason.starts_with("sometimes ") => {}
            (true, Some(_)) => {
                println!("PASSED, and is written down as otherwise: {test}");
                wrong += 1;
            }
            (true, None) => {}
        }
    }
    for test in known.keys().filter(|test| !ended.contains_key(*test)) {
        println!("NOT RUN, and is written down: {test}");
        wrong += 1;
    }
    let passed = ended.values().filter(|passed| **passed).count();
    println!("{passed} of {} tests pass", ended.len());
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_otherwise_is_counted() {
        let known =
            parse_known("# words\n\na::one: says less\na::two: knows no such command\na::gone: x\na::three: sometimes late\n").unwrap();
        let said = "    PASS [   0.1s] (1/4) hull-tests::a three\n    FAIL [   0.1s] (2/4) hull-tests::a one\n\
                    noise\n    PASS [   0.1s] (3/4) hull-tests::a two\n    FAIL [   1s] (4/4) hull-tests::a four\n";
        let ended = parse_ended(said);
        assert_eq!(ended.len(), 4);
        assert_eq!(told(&known, &ended), 3, "two passes, four fails, gone is not run");
        assert_eq!(parse_known("a::one\n"), Err("a::one"));
    }
}
