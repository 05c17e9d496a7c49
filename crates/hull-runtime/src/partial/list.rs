//! Which namespaces there are and who is in them, and a process's ids, one in each pid namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};

use serde::Serialize;

use super::Kind;
use super::kernel::{self, Ask};
use crate::error::Context as _;
use crate::{Error, Result};

/// A namespace that processes are in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its kind, as `/proc` calls it.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its inode.
    pub inode: u64,
    /// The user who made the user namespace that it belongs to; none where that is out of sight.
    pub owner: Option<u32>,
    /// How many processes are in it.
    pub processes: usize,
    /// The first of them.
    pub pid: i32,
    /// What that one is.
    pub command: String,
    /// It is that of the machine's first process.
    pub host: bool,
    /// The containers whose processes are in it, by their ids; none for the host's.
    pub containers: BTreeSet<String>,
}

/// Every namespace that has a process which this one may look at, by kind and inode.
///
/// # Errors
/// There is no `/proc`.
pub fn namespaces() -> Result<Vec<Namespace>> {
    let mut found: BTreeMap<(Kind, u64), Namespace> = BTreeMap::new();
    for pid in processes()? {
        let process = pid.to_string();
        let container = container_of(pid);
        for kind in Kind::ALL {
            // A process that ends meanwhile, or another user's, is not counted.
            let Some(inode) = kind.inode_of(&process) else { continue };
            let namespace = found.entry((kind, inode)).or_insert_with(|| Namespace {
                kind: kind.name(),
                inode,
                owner: owner(kind, pid),
                processes: 0,
                pid,
                command: command(pid),
                host: kind.inode_of("1").or_else(|| kind.inode_of("self")) == Some(inode),
                containers: BTreeSet::new(),
            });
            namespace.processes += 1;
            if !namespace.host {
                namespace.containers.extend(container.clone());
            }
        }
    }
    Ok(found.into_values().collect())
}

fn processes() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context(|| "list the processes".into())?;
    let mut pids: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The container whose cgroup a process is in: its id is the folder's name.
pub fn container_of(pid: i32) -> Option<String> {
    container_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The container's id in the text of a `/proc/PID/cgroup`.
fn container_in(text: &str) -> Option<String> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).find_map(container_id).map(str::to_owned)
}

/// The container's id that the name of a cgroup's folder is, or ends with (`docker-ID.scope`).
pub fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").map_or(name, |scope| scope.rsplit('-').next().unwrap_or(scope));
    let is_id = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(name)
}

fn owner(kind: Kind, pid: i32) -> Option<u32> {
    let namespace = OwnedFd::from(File::open(format!("/proc/{pid}/ns/{}", kind.name())).ok()?);
    if kind == Kind::User {
        return kernel::owner_of(namespace.as_fd()).ok();
    }
    let user = kernel::namespace_relative(namespace.as_fd(), Ask::User).ok()?;
    kernel::owner_of(user.as_fd()).ok()
}

/// The words of its command line; a kernel thread's name in brackets.
fn command(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = words
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).replace(|c: char| c.is_control(), " "))
        .collect();
    if !words.is_empty() {
        return words.join(" ");
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("[{}]", name.trim_end())
}

/// A process's id in one pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Level {
    /// How deep that namespace is: 0 is the caller's.
    pub level: usize,
    /// The namespace's inode; none where it is out of sight.
    pub namespace: Option<u64>,
    /// The id.
    pub pid: i32,
}

/// Its id at every level, the outermost first.
///
/// # Errors
/// There is no such process.
pub fn ids(pid: i32) -> Result<Vec<Level>> {
    let doing = || format!("look up the ids of process {pid}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::refused(doing(), "there is no such process, or it is gone"),
        _ => Error::kernel(doing(), error),
    })?;
    let pids = parse_ids(&status);
    if pids.is_empty() {
        return Err(Error::refused(doing(), "this kernel does not tell (NSpid)"));
    }
    let mut inodes = lineage(pid);
    inodes.resize(pids.len(), None);
    inodes.reverse();
    let levels = pids.into_iter().zip(inodes).enumerate();
    Ok(levels.map(|(level, (pid, namespace))| Level { level, namespace, pid }).collect())
}

fn parse_ids(status: &str) -> Vec<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// The inodes of a process's pid namespaces, the innermost first, as far out as this process sees.
fn lineage(pid: i32) -> Vec<Option<u64>> {
    let mut inodes = Vec::new();
    let mut next = File::open(format!("/proc/{pid}/ns/pid")).map(OwnedFd::from).ok();
    while let Some(namespace) = next {
        inodes.push(rustix::fs::fstat(&namespace).ok().map(|stat| stat.st_ino));
        next = kernel::namespace_relative(namespace.as_fd(), Ask::Parent).ok();
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_namespaces_of_every_kind() {
        let all = namespaces().unwrap();
        for kind in Kind::ALL {
            let own = kind.inode_of("self").unwrap();
            let found = all.iter().find(|one| one.kind == kind.name() && one.inode == own);
            assert!(found.is_some_and(|one| one.processes > 0), "{kind:?}");
        }
    }

    #[test]
    fn ids_of_this_process_and_of_none() {
        let own = std::process::id().cast_signed();
        let levels = ids(own).unwrap();
        assert_eq!((levels[0].level, levels[0].pid), (0, own));
        assert_eq!(levels.last().unwrap().namespace, Kind::Pid.inode_of("self"));
        assert!(ids(4_194_303).unwrap_err().to_string().contains("gone"));
        assert_eq!(parse_ids("Name:\tx\nNSpid:\t9\t5\t1\n"), [9, 5, 1]);
    }

    #[test]
    fn containers_by_their_cgroup() {
        let id = "0f".repeat(32);
        assert_eq!(container_in(&format!("4:memory:/hull/{id}\n0::/hull/{id}/exec-1\n")), Some(id));
        assert_eq!(container_in("4:memory:/user.slice\n0::/\n"), None);
        let id = "0f".repeat(32);
        assert_eq!(container_id(&format!("docker-{id}.scope")), Some(id.as_str()));
        assert_eq!(container_id("session-1.scope"), None);
    }
}
