//! A program in a cgroup of its own: limited, counted, and gone with all that it started when it ends.

use std::fmt;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::{Kind, program, supervise};
use crate::cgroup::{Cgroup, Usage, hierarchy};
use crate::error::Context as _;
use crate::{Error, Result, sys};

/// The cgroups' name, before the pid namespace of the process that made it and its id there.
const NAME: &str = "hull-run-";

/// How long the kernel may take from its notice to the kill itself.
const NOTICE: Duration = Duration::from_millis(200);

/// The kernel accounts for memory in advance, by so many bytes at a time.
const BATCH: u64 = 1 << 18;

/// What a program may use. What is not named is not limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 is as much swap as there is. By default twice the memory.
    pub memory_swap: Option<i64>,
    /// How many processors.
    pub cpus: Option<f64>,
    /// How many processes and threads.
    pub pids: Option<i64>,
    /// How fast disks are read and written.
    pub io: Vec<Throttle>,
}

/// What a program may do with one disk, in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Bytes read.
    pub rbps: Option<u64>,
    /// Bytes written.
    pub wbps: Option<u64>,
    /// Read operations.
    pub riops: Option<u64>,
    /// Write operations.
    pub wiops: Option<u64>,
}

/// How a limited program ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its exit status; 137 where it was killed for memory.
    pub status: i32,
    /// What it used, to its end.
    pub usage: Usage,
    /// Whose memory it was killed for, if it was.
    pub killed_for: Option<Whose>,
}

/// Whose memory was exhausted when the kernel killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Its own limit.
    Own,
    /// Not its own: that of a cgroup above, or the machine's.
    Outer,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Whose::Own => "its own limit",
            Whose::Outer => "not its own limit, but that of the machine or of a cgroup above it",
        })
    }
}

impl Limits {
    /// As the runtime's configuration words them.
    fn resources(&self) -> Result<LinuxResources> {
        let mut json = serde_json::json!({});
        if self.memory.is_some() || self.memory_swap.is_some() {
            let swap = self.memory_swap.or(self.memory.map(|memory| memory.saturating_mul(2)));
            if let (Some(memory), Some(swap)) = (self.memory, swap)
                && swap != -1
                && swap < memory
            {
                let advice = "it is memory and swap together, so not less than --memory";
                return Err(Error::refused(format!("--memory-swap {swap}"), advice));
            }
            if self.memory.is_none() {
                return Err(Error::refused("--memory-swap", "it needs --memory as well"));
            }
            json["memory"] = serde_json::json!({ "limit": self.memory, "swap": swap });
        }
        if let Some(cpus) = self.cpus {
            const PERIOD: f64 = 100_000.0;
            json["cpu"] = serde_json::json!({ "quota": (cpus * PERIOD) as i64, "period": PERIOD as u64 });
        }
        if let Some(pids) = self.pids {
            json["pids"] = serde_json::json!({ "limit": pids });
        }
        let list = |of: fn(&Throttle) -> Option<u64>| -> Vec<serde_json::Value> {
            let one = |throttle: &Throttle| {
                let rate = of(throttle)?;
                Some(serde_json::json!({ "major": throttle.major, "minor": throttle.minor, "rate": rate }))
            };
            self.io.iter().filter_map(one).collect()
        };
        json["blockIO"] = serde_json::json!({
            "throttleReadBpsDevice": list(|throttle| throttle.rbps),
            "throttleWriteBpsDevice": list(|throttle| throttle.wbps),
            "throttleReadIOPSDevice": list(|throttle| throttle.riops),
            "throttleWriteIOPSDevice": list(|throttle| throttle.wiops),
        });
        if self.memory.is_some() && hierarchy().is_unified("memory") {
            // One process over the limit is the end of all of them: half a program is worth nothing.
            json["unified"] = serde_json::json!({ "memory.oom.group": "1" });
        }
        serde_json::from_value(json).map_err(|error| Error::refused("word the limits", error.to_string()))
    }
}

/// A cgroup that goes with its owner.
struct Owned(Cgroup);

impl Drop for Owned {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one that is made.
        let _ = self.0.kill_all().and_then(|()| self.0.remove());
    }
}

/// Runs the program under the limits. `warn` is told what this machine cannot limit.
///
/// # Errors
/// The cgroup cannot be made; 126 and 127 where the program cannot be executed.
pub fn run(limits: &Limits, words: &[String], warn: impl Fn(&str)) -> Result<Outcome> {
    let resources = limits.resources()?;
    sweep();
    let path = format!("/{}{}", prefix(), std::process::id());
    let (cgroup, warnings) = Cgroup::create(&path, Some(&resources)).map_err(|error| match error.errno {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            error.advise("that needs root, and cgroups that can be written")
        }
        _ => error,
    })?;
    let cgroup = Owned(cgroup);
    warnings.iter().for_each(|warning| warn(warning));
    let watch = cgroup.0.oom_watch()?;
    let go_on = || {
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
            .context(|| "tie it to its parent's life".into())?;
        cgroup.0.join_self()?;
        program::become_program(words)
    };
    let supervised = supervise::start(0, None, |_| Ok(()), go_on)?;
    let mut told = || {
        if let Some(watch) = &watch {
            drain(watch);
        }
        // Those that it shared the memory with end with it. The program's end is what this process waits for.
        if killed_soon(&cgroup.0) {
            let _ = cgroup.0.kill_all();
        }
    };
    let watched = watch.as_ref().map(|watch| supervise::Watch {
        fd: std::os::fd::AsFd::as_fd(&watch.fd),
        events: watch.events,
        told: &mut told,
    });
    let status = supervised.wait(watched)?;
    let usage = cgroup.0.usage()?;
    let killed_for = whose(&usage);
    // What it left behind ends with it; an error of this is one of the command.
    cgroup.0.kill_all()?;
    cgroup.0.remove()?;
    let status = if killed_for.is_some() { 137 } else { status };
    Ok(Outcome { status, usage, killed_for })
}

fn drain(watch: &crate::cgroup::OomWatch) {
    let mut buffer = [0; 4096];
    while rustix::io::read(&watch.fd, &mut buffer).is_ok_and(|length| length > 0) {}
}

/// Whether the kernel has killed here. On v1 its notice comes before the kill, and nothing tells of the kill itself; on
/// v2 there is notice of much else, and the kernel kills all of them by itself.
fn killed_soon(cgroup: &Cgroup) -> bool {
    let patience = if hierarchy().is_unified("memory") { Duration::ZERO } else { NOTICE };
    let deadline = std::time::Instant::now() + patience;
    loop {
        match cgroup.oom_kills() {
            Ok(0) if std::time::Instant::now() < deadline => rustix::thread::sched_yield(),
            Ok(kills) => return kills > 0,
            Err(_) => return false,
        }
    }
}

fn whose(usage: &Usage) -> Option<Whose> {
    let memory = usage.memory.as_ref().filter(|memory| memory.oom_kills > 0)?;
    // Not every kernel counts on v1 how often the limit was met: where the peak is at it, it was.
    let met =
        |max: u64| memory.failures > 0 || memory.peak.is_some_and(|peak| peak.saturating_add(BATCH) >= max);
    let own = memory.max.is_some_and(met);
    Some(if own { Whose::Own } else { Whose::Outer })
}

/// A cgroup's name up to the id of the process that made it. An id means one process in one pid namespace only.
fn prefix() -> String {
    format!("{NAME}{}-", Kind::Pid.inode_of("self").unwrap_or(0))
}

/// Kills and removes what commands left that were killed themselves.
fn sweep() {
    let prefix = prefix();
    let folders = hierarchy().v1.iter().map(|v1| &v1.folder).chain(&hierarchy().unified);
    let entries = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let owned_by_none = |name: &String| {
        let owner = name.strip_prefix(&prefix).and_then(|pid| pid.parse::<u32>().ok());
        owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    };
    for name in names.filter(owned_by_none).collect::<std::collections::BTreeSet<_>>() {
        // What does not go now goes the next time.
        let _ =
            Cgroup::open(&format!("/{name}")).and_then(|left| left.kill_all().and_then(|()| left.remove()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Memory;

    #[test]
    fn limits_in_the_configuration_s_words() {
        let limits = Limits {
            memory: Some(100),
            cpus: Some(0.5),
            pids: Some(10),
            io: vec![Throttle { major: 254, rbps: Some(7), ..Throttle::default() }],
            ..Limits::default()
        };
        let resources = limits.resources().unwrap();
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(100), Some(200)));
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(50_000));
        assert_eq!(resources.pids().unwrap().limit(), 10);
        let io = resources.block_io().as_ref().unwrap();
        assert_eq!(io.throttle_read_bps_device().as_ref().unwrap()[0].rate(), 7);
        assert!(io.throttle_write_bps_device().as_ref().unwrap().is_empty());
        assert!(Limits { memory_swap: Some(5), ..Limits::default() }.resources().is_err());
        assert!(Limits { memory: Some(9), memory_swap: Some(5), ..Limits::default() }.resources().is_err());
    }

    #[test]
    fn whose_memory_it_was() {
        let of = |oom_kills, max, failures, peak| {
            let memory = Memory { oom_kills, max, failures, peak, ..Memory::default() };
            whose(&Usage { memory: Some(memory), ..Usage::default() })
        };
        let limit = Some(50 << 20);
        assert_eq!(of(0, limit, 3, limit), None);
        assert_eq!(of(1, limit, 3, None), Some(Whose::Own));
        assert_eq!(of(1, limit, 0, limit), Some(Whose::Own));
        assert_eq!(of(1, limit, 0, Some(20 << 20)), Some(Whose::Outer));
        assert_eq!(of(1, None, 0, limit), Some(Whose::Outer));
    }
}
