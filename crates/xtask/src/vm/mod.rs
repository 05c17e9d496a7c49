//! `cargo xtask vm-test`: hull in virtual machines, for what this machine's own kernel is not set up to show: cgroup v1 and
//! v2 each alone, systemd as the first process, project quotas of ext4 and xfs, and a reset that takes the page cache along.
//!
//! The machine is QEMU without KVM, so that it runs anywhere, with Debian's cloud kernel and a disk of this machine's
//! own programs ([`disk`]), on which the tests from outside and those of the runtime run as they do here.

mod disk;
mod kernel;
mod machine;
mod reset;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Result;
use crate::shell::{find, heading, target};

use machine::Machine;

/// How control groups are mounted in the guest.
const CGROUPS: [&str; 3] = ["v2", "v1", SYSTEMD];

/// As systemd mounts them, which is the guest's first process then.
const SYSTEMD: &str = "systemd";

/// How long one run of the tests may take: some five minutes on two cores that do nothing else, and twice as much again.
const PATIENCE: Duration = Duration::from_secs(900);

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
    /// The ways of mounting control groups to run the tests with.
    cgroups: Vec<String>,
    /// How many resets; none are made where only a way was asked for.
    resets: u32,
    /// The binary under test.
    binary: PathBuf,
    /// Only the tests with one of these words in their names.
    filters: Vec<String>,
}

impl Asked {
    fn parse(options: &[&str]) -> Result<Self> {
        let mut cgroups = Vec::new();
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
                way if CGROUPS.contains(&way) => cgroups.push(way.to_owned()),
                other => {
                    return Err(
                        format!("vm-test: {other}: v1, v2, systemd, --only, --resets or --binary").into()
                    );
                }
            }
        }
        let all = cgroups.is_empty() && resets.is_none() && filters.is_empty();
        if cgroups.is_empty() && (all || !filters.is_empty()) {
            cgroups = CGROUPS.map(str::to_owned).to_vec();
        }
        Ok(Self { cgroups, resets: resets.unwrap_or(if all { 3 } else { 0 }), binary, filters })
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
    let root = disk::prepare(&folder, &kernel, &asked.binary, &asked.filters)?;
    let mut failed = Vec::new();
    for way in &asked.cgroups {
        heading(&format!("virtual machine: cgroup {way}"));
        let begun = Instant::now();
        let job = format!("hull.cgroup={way} hull.job=tests");
        let machine = Machine::boot(&kernel, &root, None, &job)?;
        match machine.run_to_its_end(PATIENCE) {
            Ok(()) => println!("cgroup {way}: passed in {:.0} s", begun.elapsed().as_secs_f64()),
            Err(error) => {
                println!("cgroup {way}: {error}");
                failed.push(format!("cgroup {way}"));
            }
        }
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
        Ok(()) => run(if all { &[] } else { &["v2", SYSTEMD] }),
        Err(reason) => {
            let what = if all {
                "cgroup v1 and v2 alone, systemd, and resets"
            } else {
                "cgroup v2 alone, and systemd"
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
    use super::{Asked, CGROUPS};

    #[test]
    fn what_is_not_asked_for_is_not_run() {
        let parse = |options: &[&str]| Asked::parse(options).map(|asked| (asked.cgroups, asked.resets));
        let every = || CGROUPS.map(str::to_owned).to_vec();
        assert_eq!(parse(&[]).expect("nothing is everything"), (every(), 3));
        assert_eq!(parse(&["v1"]).expect("one way"), (vec!["v1".to_owned()], 0));
        assert_eq!(parse(&["--resets", "9"]).expect("resets alone"), (vec![], 9));
        assert_eq!(parse(&["--only", "oom"]).expect("some tests"), (every(), 0));
        assert!(parse(&["v3"]).is_err() && parse(&["--only"]).is_err() && parse(&["--resets", "x"]).is_err());
    }
}
