//! `cargo xtask vm-test`: hull in virtual machines, for what this machine's own kernel is not set up to show: cgroup v1 and
//! v2 each alone, systemd as the first process, SELinux, project quotas of ext4 and xfs, and a reset that takes the
//! page cache along.
//!
//! The machine is QEMU without KVM, so that it runs anywhere, with Debian's cloud kernel and a disk of this machine's
//! own programs ([`disk`]), on which the tests from outside and those of the runtime run as they do here.

mod disk;
mod kernel;
mod machine;
mod policy;
mod reset;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Result;
use crate::shell::{find, heading, target};

use machine::Machine;

/// What the guests are told apart by: how control groups are mounted, and with SELinux as the last they are v2.
const MACHINES: [&str; 4] = ["v2", "v1", SYSTEMD, SELINUX];

/// Without `--machines`.
const USUAL: [&str; 3] = ["v2", SYSTEMD, SELINUX];

/// As systemd mounts them, which is the guest's first process then.
const SYSTEMD: &str = "systemd";

/// With SELinux instead of AppArmor, and a policy of the tests' own.
const SELINUX: &str = "selinux";

/// The security modules of that guest, which has but one of the two.
const WITH_SELINUX: &str = "lsm=landlock,lockdown,yama,integrity,selinux,bpf";

/// How long the guest may print nothing. Every test prints a line at its end, and the longest takes half a minute on cores
/// that do nothing else: a machine that works for others as well makes a run longer, and does not end it.
const SILENCE: Duration = Duration::from_secs(300);

/// A program that is needed, and the Debian package that has it.
pub(crate) const NEEDED: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("strip", "binutils"),
    ("systemctl", "systemd"),
];

/// What is asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// The machines to run tests in.
    machines: Vec<String>,
    /// How many resets; none are made where only a way was asked for.
    resets: u32,
    /// The binary under test.
    binary: PathBuf,
    /// Only the tests with one of these words in their names.
    filters: Vec<String>,
}

impl Asked {
    fn parse(options: &[&str]) -> Result<Self> {
        let mut machines = Vec::new();
        let mut resets = None;
        let mut binary = target().join("release/hull");
        let mut filters = Vec::new();
        let mut rest = options.iter();
        while let Some(&option) = rest.next() {
            match option {
                "--binary" => binary = rest.next().ok_or("--binary needs a path")?.into(),
                "--only" => filters.push((*rest.next().ok_or("--only needs a word")?).to_owned()),
                "--resets" => {
                    let number = rest.next().ok_or("--resets needs a number")?;
                    resets = Some(number.parse().map_err(|_| format!("--resets: {number} is no number"))?);
                }
                way if MACHINES.contains(&way) => machines.push(way.to_owned()),
                other => {
                    return Err(format!(
                        "vm-test: {other}: v1, v2, systemd, selinux, --only, --resets or --binary"
                    )
                    .into());
                }
            }
        }
        let all = machines.is_empty() && resets.is_none() && filters.is_empty();
        if machines.is_empty() && (all || !filters.is_empty()) {
            machines = MACHINES.map(str::to_owned).to_vec();
        }
        Ok(Self { machines, resets: resets.unwrap_or(if all { 3 } else { 0 }), binary, filters })
    }
}

/// Boots the machines and runs in them what was asked for: by default the tests on v2 and on v1, and resets.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let asked = Asked::parse(options)?;
    if let Some(lacking) = lacking() {
        return Err(lacking.into());
    }
    if !asked.binary.is_file() {
        return Err(format!("{}: not there; cargo build --release first", asked.binary.display()).into());
    }
    let folder = target().join("vm");
    let kernel = kernel::prepare(&folder)?;
    let root = disk::prepare(&folder, &kernel, &asked.binary, &asked.machines, &asked.filters)?;
    let mut failed = Vec::new();
    let mut tested = 0;
    for way in &asked.machines {
        heading(&format!("virtual machine: {way}"));
        let begun = Instant::now();
        let (cgroup, modules) = if way == SELINUX { ("v2", WITH_SELINUX) } else { (way.as_str(), "") };
        let job = format!("hull.cgroup={cgroup} hull.tests={way} hull.job=tests {modules}");
        let machine = Machine::boot(&kernel, &root, None, &job)?;
        match machine.run_to_its_end(SILENCE) {
            Ok(passed) => {
                tested += passed;
                println!("{way}: {passed} passed in {:.0} s", begun.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("{way}: {error}");
                failed.push(way.clone());
            }
        }
    }
    if failed.is_empty() && tested == 0 && !asked.machines.is_empty() {
        return Err(nothing_tested(&asked).into());
    }
    if asked.resets > 0 {
        heading("virtual machine: resets");
        if let Err(error) = reset::run(&folder, &kernel, &root, asked.resets) {
            println!("resets: {error}");
            failed.push("resets".to_owned());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("in virtual machines: {}", failed.join(", ")).into()) }
}

/// What is wrong where all went well and nothing was tested.
fn nothing_tested(asked: &Asked) -> String {
    let machines = asked.machines.join(", ");
    match asked.filters.as_slice() {
        [] => format!("vm-test: not one test was run ({machines})"),
        words => format!(
            "vm-test: no test's name holds {}: not one was run ({machines}); the names are those of functions, with their \
             modules in hull-runtime's",
            words.join(" or ")
        ),
    }
}

/// Runs the tests on cgroup v2, or with `all` everything, where virtual machines can be had; where they cannot, that is
/// added to the list. With `may_update`, apt-get may fetch its lists for the kernel's package.
pub(crate) fn run_where_possible(all: bool, may_update: bool, left_out: &mut Vec<String>) -> Result<()> {
    if !all {
        left_out.push(
            "cgroup v1 alone, and resets, in virtual machines: --machines (some 6 minutes more)".to_owned(),
        );
    }
    let prepare = || kernel::prepare(&target().join("vm")).map(drop).map_err(|error| error.to_string());
    let updated = |reason| if may_update && update() { prepare() } else { Err(reason) };
    match lacking().map_or_else(|| prepare().or_else(updated), Err) {
        Ok(()) => run(if all { &[] } else { &USUAL }),
        Err(reason) => {
            let what = if all {
                "cgroup v1 and v2 alone, systemd, SELinux, and resets"
            } else {
                "cgroup v2 alone, systemd, and SELinux"
            };
            left_out.push(format!("{what}, in virtual machines: {}", reason.trim()));
            Ok(())
        }
    }
}

/// Whether apt-get has fetched its lists.
fn update() -> bool {
    crate::shell::run("apt-get", &["update", "--quiet"]).is_ok()
}

/// What stands in the way of virtual machines here, with what to do.
pub(crate) fn lacking() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("virtual machines are made for x86_64 only".to_owned());
    }
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    (!missing.is_empty()).then(|| format!("virtual machines need: apt-get install {}", missing.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::{Asked, MACHINES, nothing_tested};

    #[test]
    fn what_is_not_asked_for_is_not_run() {
        let parse = |options: &[&str]| Asked::parse(options).map(|asked| (asked.machines, asked.resets));
        let every = || MACHINES.map(str::to_owned).to_vec();
        assert_eq!(parse(&[]).expect("nothing is everything"), (every(), 3));
        assert_eq!(parse(&["v1"]).expect("one way"), (vec!["v1".to_owned()], 0));
        assert_eq!(parse(&["--resets", "9"]).expect("resets alone"), (vec![], 9));
        assert_eq!(parse(&["--only", "oom"]).expect("some tests"), (every(), 0));
        assert_eq!(parse(&["selinux"]).expect("SELinux"), (vec!["selinux".to_owned()], 0));
        assert!(parse(&["v3"]).is_err() && parse(&["--only"]).is_err() && parse(&["--resets", "x"]).is_err());
    }

    #[test]
    fn nothing_tested_is_told_with_the_words_that_matched_nothing() {
        let asked = Asked::parse(&["v2", "--only", "nonesuch", "--only", "x"]).expect("two words");
        let told = nothing_tested(&asked);
        assert!(told.contains("no test's name holds nonesuch or x") && told.contains("(v2)"), "{told}");
        assert!(nothing_tested(&Asked::parse(&[]).expect("everything")).contains("not one test was run"));
    }
}
