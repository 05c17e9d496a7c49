//! Takes away all that a daemon of a test may have left: processes, cgroups, mounts, folders. Its network is gone with
//! the network namespace that it had to itself, once its processes are.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::PATIENCE;
use crate::kernel::readable;

/// The variable that marks every process of a test's daemon (not those of its containers, whose environment is theirs).
pub(crate) const MARK: &str = "HULL_TESTS_DIR";

/// Where the tests' daemons have their folders.
pub(crate) fn base() -> PathBuf {
    std::env::temp_dir().join("hull-tests")
}

/// The folders `instance` in the cgroup file systems of this machine: v1, v2, or both.
pub fn cgroups_of(instance: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let kind = right.split(' ').next()?;
            matches!(kind, "cgroup" | "cgroup2")
                .then(|| Path::new(left.split(' ').nth(4).unwrap_or("/")).join(instance))
        })
        .filter(|path| path.is_dir())
        .collect();
    found.dedup();
    found
}

/// Clears away what tests left that were killed: each folder is named by the process that made it.
pub fn sweep() {
    for entry in fs::read_dir(base()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((owner, _)) = name.split_once('-') else { continue };
        if owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists() {
            clear(&entry.path());
        }
    }
}

/// Removes what a daemon that has ended leaves in a network that is not its own: its bridge and its table.
pub(crate) fn clear_network(instance: &str) {
    let bridge = instance.replacen('-', "", 1);
    let link = ["ip", "link", "delete", bridge.as_str()];
    let table = ["nft", "delete", "table", "inet", instance];
    let removals: [&[&str]; 2] = [&link, &table];
    for command in removals {
        // Either may be gone already.
        let _ = std::process::Command::new(command[0])
            .args(&command[1..])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

/// Ends all that belongs to the daemon whose roots are in this folder, and removes the folder.
pub(crate) fn clear(dir: &Path) {
    let cgroups = cgroups_of(&crate::daemon::instance_of(dir));
    for cgroup in &cgroups {
        thaw(cgroup);
    }
    // Marked processes first: a shim whose container dies would start it again.
    kill_all(marked(dir));
    kill_all(cgroups.iter().flat_map(|cgroup| members(cgroup)).collect());
    cgroups.iter().for_each(|cgroup| remove_cgroup(cgroup));
    unmount_beneath(dir);
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("hull-tests: {} stays behind: {error}", dir.display());
    }
}

/// The processes whose environment carries the mark of this folder.
pub(crate) fn marked(dir: &Path) -> Vec<i32> {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    processes().filter(|pid| holds(&format!("/proc/{pid}/environ"), &mark)).collect()
}

/// The ids of all processes.
pub(crate) fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

fn holds(file: &str, variable: &[u8]) -> bool {
    fs::read(file).is_ok_and(|environment| environment.split(|&b| b == 0).any(|entry| entry == variable))
}

/// The processes in a cgroup and all beneath it.
fn members(cgroup: &Path) -> Vec<i32> {
    let here = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = here.lines().filter_map(|line| line.parse().ok()).collect();
    children(cgroup).for_each(|child| found.extend(members(&child)));
    found
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn thaw(cgroup: &Path) {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if cgroup.join(file).exists() {
            fs::write(cgroup.join(file), word).ok();
        }
    }
    children(cgroup).for_each(|child| thaw(&child));
}

pub(crate) fn remove_cgroup(cgroup: &Path) {
    children(cgroup).for_each(|child| remove_cgroup(&child));
    fs::remove_dir(cgroup).ok();
}

/// Kills them and waits for each, so that what they held can be removed.
fn kill_all(pids: Vec<i32>) {
    let waiting: Vec<_> = pids
        .into_iter()
        .filter(|&pid| pid != 0)
        .filter_map(Pid::from_raw)
        .filter_map(|pid| {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            kill_process(pid, Signal::KILL).ok()?;
            Some(pidfd)
        })
        .collect();
    for pidfd in &waiting {
        if !readable(&[pidfd], PATIENCE)[0] {
            eprintln!("hull-tests: a process does not die");
        }
    }
}

/// Detaches every mount in this folder, the newest first.
fn unmount_beneath(dir: &Path) {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for line in mounts.lines().rev() {
        let target = Path::new(line.split(' ').nth(4).unwrap_or("/"));
        if target.starts_with(dir) {
            rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}
