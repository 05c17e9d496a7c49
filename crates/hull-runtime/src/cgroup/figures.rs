//! What a cgroup uses, as the kernel counts it.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{keyed, number, text};
use super::hierarchy::hierarchy;

/// One line of `blkio`'s lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blkio {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard` or `Total` on v1; `Read`, `Write` on v2.
    pub op: String,
    /// Bytes or operations.
    pub value: u64,
}

/// What a cgroup uses: everything that `docker stats` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Processor time, in nanoseconds.
    pub cpu_total_ns: u64,
    /// The same in user mode.
    pub cpu_user_ns: u64,
    /// The same in kernel mode.
    pub cpu_kernel_ns: u64,
    /// The same for each processor; empty on v2.
    pub cpu_per_cpu_ns: Vec<u64>,
    /// Periods of CFS bandwidth control that were begun.
    pub throttling_periods: u64,
    /// Periods in which the limit was hit.
    pub throttled_periods: u64,
    /// Time throttled, in nanoseconds.
    pub throttled_ns: u64,
    /// Memory in use, in bytes (page cache included).
    pub memory_usage: u64,
    /// The highest `memory_usage`; 0 on v2 kernels without `memory.peak`.
    pub memory_max_usage: u64,
    /// The limit, in bytes; `u64::MAX` where there is none.
    pub memory_limit: u64,
    /// Times the limit was hit.
    pub memory_failcnt: u64,
    /// `memory.stat` as the kernel names it.
    pub memory_stat: Vec<(String, u64)>,
    /// Processes and threads.
    pub pids_current: u64,
    /// Their limit; 0 where there is none.
    pub pids_limit: u64,
    /// Bytes read and written by device.
    pub io_service_bytes: Vec<Blkio>,
    /// Operations by device.
    pub io_serviced: Vec<Blkio>,
}

/// v1 shows no limit as the highest page-aligned 63-bit number.
const V1_NO_LIMIT: u64 = (i64::MAX as u64) & !0xffff;

/// Where the files of one cgroup are: one path in every hierarchy, or a process's cgroups, which may differ.
pub(super) trait Folders {
    /// Its folder in a v1 controller's hierarchy, if that is mounted.
    fn v1(&self, controller: &str) -> Option<PathBuf>;
    /// Its folder in the v2 hierarchy.
    fn unified(&self) -> Option<PathBuf>;
    /// Its folder in the v2 hierarchy, if a controller is there.
    fn v2(&self, controller: &str) -> Option<PathBuf> {
        self.unified().filter(|_| hierarchy().is_unified(controller))
    }
}

pub(super) fn read(cgroup: &impl Folders) -> io::Result<Figures> {
    let mut figures = Figures { memory_limit: u64::MAX, ..Figures::default() };
    processor(cgroup, &mut figures)?;
    memory(cgroup, &mut figures)?;
    if let Some(folder) = cgroup.v1("pids").or_else(|| cgroup.v2("pids")) {
        figures.pids_current = number(&folder.join("pids.current"))?.unwrap_or(0);
        figures.pids_limit =
            number(&folder.join("pids.max"))?.filter(|limit| *limit != u64::MAX).unwrap_or(0);
    }
    input_output(cgroup, &mut figures)?;
    Ok(figures)
}

pub(super) fn cpu_time_ns(cgroup: &impl Folders) -> io::Result<u64> {
    if let Some(folder) = cgroup.v1("cpuacct") {
        return Ok(number(&folder.join("cpuacct.usage"))?.unwrap_or(0));
    }
    // `cpu.stat` is there on v2 without the controller, too.
    let Some(folder) = cgroup.unified() else { return Ok(0) };
    Ok(keyed(&text(&folder.join("cpu.stat"))?, "usage_usec").unwrap_or(0) * 1000)
}

fn processor(cgroup: &impl Folders, figures: &mut Figures) -> io::Result<()> {
    figures.cpu_total_ns = cpu_time_ns(cgroup)?;
    if let Some(folder) = cgroup.v1("cpuacct") {
        figures.cpu_user_ns = number(&folder.join("cpuacct.usage_user"))?.unwrap_or(0);
        figures.cpu_kernel_ns = number(&folder.join("cpuacct.usage_sys"))?.unwrap_or(0);
        let per_cpu = text(&folder.join("cpuacct.usage_percpu"))?;
        figures.cpu_per_cpu_ns = per_cpu.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    }
    if let Some(folder) = cgroup.v1("cpu") {
        let stat = text(&folder.join("cpu.stat"))?;
        figures.throttling_periods = keyed(&stat, "nr_periods").unwrap_or(0);
        figures.throttled_periods = keyed(&stat, "nr_throttled").unwrap_or(0);
        figures.throttled_ns = keyed(&stat, "throttled_time").unwrap_or(0);
    } else if let Some(folder) = cgroup.unified() {
        let stat = text(&folder.join("cpu.stat"))?;
        figures.cpu_user_ns = keyed(&stat, "user_usec").unwrap_or(0) * 1000;
        figures.cpu_kernel_ns = keyed(&stat, "system_usec").unwrap_or(0) * 1000;
        figures.throttling_periods = keyed(&stat, "nr_periods").unwrap_or(0);
        figures.throttled_periods = keyed(&stat, "nr_throttled").unwrap_or(0);
        figures.throttled_ns = keyed(&stat, "throttled_usec").unwrap_or(0) * 1000;
    }
    Ok(())
}

fn memory(cgroup: &impl Folders, figures: &mut Figures) -> io::Result<()> {
    let folder = match (cgroup.v1("memory"), cgroup.v2("memory")) {
        (Some(folder), _) => {
            figures.memory_usage = number(&folder.join("memory.usage_in_bytes"))?.unwrap_or(0);
            figures.memory_max_usage = number(&folder.join("memory.max_usage_in_bytes"))?.unwrap_or(0);
            let limit = number(&folder.join("memory.limit_in_bytes"))?;
            figures.memory_limit = limit.filter(|limit| *limit < V1_NO_LIMIT).unwrap_or(u64::MAX);
            figures.memory_failcnt = number(&folder.join("memory.failcnt"))?.unwrap_or(0);
            folder
        }
        (None, Some(folder)) => {
            figures.memory_usage = number(&folder.join("memory.current"))?.unwrap_or(0);
            figures.memory_max_usage = number(&folder.join("memory.peak"))?.unwrap_or(0);
            figures.memory_limit = number(&folder.join("memory.max"))?.unwrap_or(u64::MAX);
            let events = text(&folder.join("memory.events"))?;
            figures.memory_failcnt = keyed(&events, "max").unwrap_or(0);
            folder
        }
        (None, None) => return Ok(()),
    };
    let stat = text(&folder.join("memory.stat"))?;
    let line =
        |line: &str| line.split_once(' ').and_then(|(key, value)| Some((key.into(), value.parse().ok()?)));
    figures.memory_stat = stat.lines().filter_map(line).collect();
    Ok(())
}

fn input_output(cgroup: &impl Folders, figures: &mut Figures) -> io::Result<()> {
    if let Some(folder) = cgroup.v1("blkio") {
        figures.io_service_bytes = v1_list(&folder, "io_service_bytes_recursive")?;
        figures.io_serviced = v1_list(&folder, "io_serviced_recursive")?;
    } else if let Some(folder) = cgroup.v2("io") {
        let stat = text(&folder.join("io.stat"))?;
        figures.io_service_bytes = v2_list(&stat, "rbytes", "wbytes");
        figures.io_serviced = v2_list(&stat, "rios", "wios");
    }
    Ok(())
}

/// The BFQ scheduler's count where it has one, otherwise the throttling layer's.
fn v1_list(folder: &Path, name: &str) -> io::Result<Vec<Blkio>> {
    for prefix in ["blkio.bfq", "blkio.throttle"] {
        let list = parse_v1_list(&text(&folder.join(format!("{prefix}.{name}")))?);
        if !list.is_empty() {
            return Ok(list);
        }
    }
    Ok(Vec::new())
}

fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines such as `254:0 Read 4096`; the last, `Total 4096`, is of no device.
fn parse_v1_list(text: &str) -> Vec<Blkio> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = device(words.next()?)?;
        Some(Blkio { major, minor, op: words.next()?.to_owned(), value: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// Lines such as `254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn v2_list(text: &str, read: &str, write: &str) -> Vec<Blkio> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let op = if key == read {
                "Read"
            } else if key == write {
                "Write"
            } else {
                continue;
            };
            list.extend(value.parse().ok().map(|value| Blkio { major, minor, op: op.to_owned(), value }));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_devices() {
        let v1 = parse_v1_list("254:0 Read 4096\n254:0 Total 4096\nTotal 4096\n");
        assert_eq!(v1.len(), 2);
        assert_eq!(v1[0], Blkio { major: 254, minor: 0, op: "Read".into(), value: 4096 });
        let v2 = v2_list("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:1 \n", "rios", "wios");
        assert_eq!(
            v2.iter().map(|line| (line.op.as_str(), line.value)).collect::<Vec<_>>(),
            [("Read", 3), ("Write", 4)]
        );
    }
}
