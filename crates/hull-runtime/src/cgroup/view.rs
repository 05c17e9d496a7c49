//! What a cgroup uses of what it may, in one vocabulary for v1 and v2: v2's words, bytes, and processors.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::figures::{self, Blkio, Folders};
use super::{Cgroup, files, folders_below, hierarchy};
use crate::error::Context;
use crate::{Error, Result};

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use, page cache included.
    pub current: u64,
    /// The most that was; none where the kernel does not tell (v2 before Linux 5.19).
    pub peak: Option<u64>,
    /// The limit; none is no limit.
    pub max: Option<u64>,
    /// How often the limit was met, or that of memory and swap together.
    pub failures: u64,
    /// How many processes the kernel killed here for memory.
    pub oom_kills: u64,
    /// Swap, where the machine counts it.
    pub swap: Option<Swap>,
}

/// Swap alone, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// In use.
    pub current: u64,
    /// The limit; none is no limit. On v1, what the limit of memory and swap together leaves beside that of memory.
    pub max: Option<u64>,
}

/// Processor time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Used.
    pub usage_ns: u64,
    /// The same in user mode.
    pub user_ns: u64,
    /// The same in kernel mode.
    pub system_ns: u64,
    /// Time it had to stand still for its limit.
    pub throttled_ns: u64,
    /// How many processors it may use; none is no limit.
    pub max: Option<f64>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// There are.
    pub current: u64,
    /// The most there were; none where the kernel does not tell (before Linux 6.11).
    pub peak: Option<u64>,
    /// The limit; none is no limit.
    pub max: Option<u64>,
}

/// Disks, in bytes and operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// What a cgroup uses of what it may. What the machine has no controller for is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory.
    pub memory: Option<Memory>,
    /// Processors.
    pub cpu: Option<Cpu>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// Disks.
    pub io: Option<Io>,
}

/// A cgroup in the tree of all hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// Its path; `/` is the root of all.
    pub path: String,
    /// The last part of its path.
    pub name: String,
    /// How many processes are in it, not counting those below.
    pub processes: usize,
    /// What it uses of what it may.
    #[serde(flatten)]
    pub usage: Usage,
    /// Those below it.
    pub children: Vec<Node>,
}

/// The cgroups of one process, which may be others in each v1 hierarchy.
struct OfProcess {
    /// By v1 controller.
    v1: BTreeMap<String, PathBuf>,
    unified: Option<PathBuf>,
}

impl Folders for OfProcess {
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.v1.get(controller).cloned()
    }

    fn unified(&self) -> Option<PathBuf> {
        self.unified.clone()
    }
}

impl OfProcess {
    /// From the text of `/proc/PID/cgroup`.
    fn parse(text: &str) -> OfProcess {
        let mut found = OfProcess { v1: BTreeMap::new(), unified: None };
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                found.unified = hierarchy().unified.as_ref().map(|unified| unified.join(path));
                continue;
            }
            for controller in controllers.split(',') {
                if let Some(v1) = hierarchy().v1_of(controller) {
                    found.v1.insert(controller.to_owned(), v1.folder.join(path));
                }
            }
        }
        found
    }
}

/// What the cgroups of a process use of what they may.
///
/// # Errors
/// There is no such process.
pub fn usage_of_process(pid: i32) -> Result<Usage> {
    let doing = || format!("look up the cgroups of process {pid}");
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::refused(doing(), "there is no such process, or it is gone"),
            _ => Error::kernel(doing(), error),
        })?;
    read(&OfProcess::parse(&text)).context(doing)
}

impl Cgroup {
    /// What it uses of what it may.
    ///
    /// # Errors
    /// Its files cannot be read. One that is gone uses nothing.
    pub fn usage(&self) -> Result<Usage> {
        read(self).context(|| format!("read what cgroup {} uses", self.path))
    }
}

/// Every cgroup of the machine.
///
/// # Errors
/// Their folders cannot be read.
pub fn tree() -> Result<Node> {
    node(String::from("/")).context(|| "read the cgroups".into())
}

fn node(path: String) -> io::Result<Node> {
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let cgroup = Cgroup { path };
    let mut below: Vec<String> = Vec::new();
    let mut processes = Vec::new();
    // All v1 hierarchies, also those in which containers have no folder.
    let v1 = hierarchy().v1.iter().map(|v1| v1.folder.join(&cgroup.path[1..]));
    for folder in cgroup.unified().into_iter().chain(v1) {
        let own = files::text(&folder.join("cgroup.procs")).or_else(threaded)?;
        processes.extend(own.lines().filter_map(|line| line.parse::<i32>().ok()));
        let names = folders_below(&folder)?;
        below.extend(names.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
    }
    processes.sort_unstable();
    processes.dedup();
    below.sort_unstable();
    below.dedup();
    let parent = cgroup.path.trim_end_matches('/');
    let children =
        below.into_iter().map(|name| node(format!("{parent}/{name}"))).collect::<io::Result<Vec<_>>>()?;
    Ok(Node { usage: read(&cgroup)?, processes: processes.len(), name, path: cgroup.path, children })
}

/// A threaded cgroup tells of its threads only.
fn threaded(error: io::Error) -> io::Result<String> {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENODEV) => Ok(String::new()),
        _ => Err(error),
    }
}

fn read(of: &impl Folders) -> io::Result<Usage> {
    // A cgroup need not be in every hierarchy, and a root has not every figure: what is unknown is no zero.
    let with = |folder: Option<PathBuf>, file: &str| folder.filter(|folder| folder.join(file).exists());
    let has = |controller: &str, v1: &str, v2: &str| match of.v1(controller) {
        Some(folder) => with(Some(folder), v1),
        None => with(of.v2(controller), v2),
    };
    let figures = match figures::read(of) {
        // It went while it was read.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => figures::Figures::default(),
        figures => figures?,
    };
    let memory = match has("memory", "memory.usage_in_bytes", "memory.current") {
        Some(folder) => Some(Memory {
            current: figures.memory_usage,
            peak: (figures.memory_max_usage > 0).then_some(figures.memory_max_usage),
            max: (figures.memory_limit != u64::MAX).then_some(figures.memory_limit),
            failures: figures.memory_failcnt + swap_failures(of)?,
            oom_kills: oom_kills(of, &folder)?,
            swap: swap(of, &figures)?,
        }),
        None => None,
    };
    let cpu = match of.v1("cpuacct") {
        Some(folder) => with(Some(folder), "cpuacct.usage"),
        // It is there without the controller, too.
        None => with(of.unified(), "cpu.stat"),
    };
    let cpu = cpu.is_some().then_some(Cpu {
        usage_ns: figures.cpu_total_ns,
        user_ns: figures.cpu_user_ns,
        system_ns: figures.cpu_kernel_ns,
        throttled_ns: figures.throttled_ns,
        max: processors(of)?,
    });
    let pids = match has("pids", "pids.current", "pids.current") {
        Some(folder) => Some(Pids {
            current: figures.pids_current,
            peak: files::number(&folder.join("pids.peak"))?,
            max: (figures.pids_limit > 0).then_some(figures.pids_limit),
        }),
        None => None,
    };
    let total =
        |list: &[Blkio], op: &str| list.iter().filter(|line| line.op == op).map(|line| line.value).sum();
    let io = match of.v1("blkio") {
        Some(folder) => Some(folder).filter(|folder| folder.is_dir()),
        None => with(of.v2("io"), "io.stat"),
    };
    let io = io.is_some().then(|| Io {
        read_bytes: total(&figures.io_service_bytes, "Read"),
        written_bytes: total(&figures.io_service_bytes, "Write"),
        reads: total(&figures.io_serviced, "Read"),
        writes: total(&figures.io_serviced, "Write"),
    });
    Ok(Usage { memory, cpu, pids, io })
}

fn oom_kills(of: &impl Folders, folder: &Path) -> io::Result<u64> {
    let file = if of.v1("memory").is_some() { "memory.oom_control" } else { "memory.events" };
    Ok(files::keyed(&files::text(&folder.join(file))?, "oom_kill").unwrap_or(0))
}

/// How often v1's limit of memory and swap together was met, which is the first where both are the same.
fn swap_failures(of: &impl Folders) -> io::Result<u64> {
    let Some(folder) = of.v1("memory") else { return Ok(0) };
    Ok(files::number(&folder.join("memory.memsw.failcnt"))?.unwrap_or(0))
}

fn swap(of: &impl Folders, figures: &figures::Figures) -> io::Result<Option<Swap>> {
    let limit = |limit: u64| (limit < (i64::MAX as u64) & !0xffff).then_some(limit);
    if let Some(folder) = of.v1("memory") {
        // v1 counts memory and swap together.
        let together = files::number(&folder.join("memory.memsw.usage_in_bytes"))?;
        let max = files::number(&folder.join("memory.memsw.limit_in_bytes"))?.and_then(limit);
        return Ok(together.map(|together| Swap {
            current: together.saturating_sub(figures.memory_usage),
            max: max.map(|max| max.saturating_sub(figures.memory_limit)),
        }));
    }
    let Some(folder) = of.v2("memory") else { return Ok(None) };
    let current = files::number(&folder.join("memory.swap.current"))?;
    let max = files::number(&folder.join("memory.swap.max"))?.and_then(limit);
    Ok(current.map(|current| Swap { current, max }))
}

/// The limit of the processor's time, as a number of processors.
fn processors(of: &impl Folders) -> io::Result<Option<f64>> {
    if let Some(folder) = of.v1("cpu") {
        let quota = files::text(&folder.join("cpu.cfs_quota_us"))?;
        let period = files::text(&folder.join("cpu.cfs_period_us"))?;
        return Ok(ratio(quota.trim(), period.trim()));
    }
    let Some(folder) = of.v2("cpu") else { return Ok(None) };
    let text = files::text(&folder.join("cpu.max"))?;
    Ok(text.trim().split_once(' ').and_then(|(quota, period)| ratio(quota, period)))
}

/// No limit is -1 on v1, `max` on v2.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_processors() {
        assert_eq!(ratio("50000", "100000"), Some(0.5));
        assert_eq!(ratio("-1", "100000"), None);
        assert_eq!(ratio("max", "100000"), None);
    }

    #[test]
    fn this_process_and_the_tree_are_told_alike() {
        let own = usage_of_process(std::process::id().cast_signed()).unwrap();
        assert!(own.cpu.is_some());
        assert!(usage_of_process(4_194_303).unwrap_err().to_string().contains("gone"));
        let root = tree().unwrap();
        assert_eq!((root.path.as_str(), root.name.as_str()), ("/", ""));
        // The kernel does not count the processes of the root.
        assert_eq!(root.usage.pids, None);
        assert!(root.children.iter().all(|child| child.path == format!("/{}", child.name)));
    }
}
