//! Cgroups on v1, v2 and the hybrid of both: make, limit, read, freeze, kill and remove.
//!
//! A [`Cgroup`] is one path (`/hull/ID`) in every hierarchy that this machine has.

use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxResources;

use crate::{Error, Result};

/// One path in every hierarchy of this machine.
#[derive(Clone, Debug)]
pub struct Cgroup {}

/// How the hierarchies are mounted on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every controller has a v1 hierarchy.
    V1,
    /// One v2 hierarchy.
    V2,
    /// Controllers on v1, and a v2 hierarchy beside them.
    Hybrid,
}

/// The hierarchies of this machine, and which controller is in which.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// How they are mounted.
    pub mode: Mode,
}

/// The hierarchies of this machine; looked up once in a process.
pub fn hierarchy() -> &'static Hierarchy {
    static HIERARCHY: Hierarchy = Hierarchy { mode: Mode::Hybrid };
    &HIERARCHY
}

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

fn soon<T>() -> Result<T> {
    Err(Error::refused("cgroup", "not there yet"))
}

impl Cgroup {
    /// Makes the folders of `path` in every hierarchy and sets the limits. What the machine does not have is
    /// a warning in Docker's words.
    pub fn create(path: &str, resources: Option<&LinuxResources>) -> Result<(Cgroup, Vec<String>)> {
        let _ = (path, resources);
        soon()
    }
    /// The cgroup at `path`, which must be there in at least one hierarchy.
    pub fn open(path: &str) -> Result<Cgroup> {
        let _ = path;
        soon()
    }
    /// Its path, as given.
    pub fn path(&self) -> &str {
        ""
    }
    /// Moves the calling process into it, in every hierarchy.
    pub fn join_self(&self) -> Result<()> {
        soon()
    }
    /// Moves a process into it, in every hierarchy.
    pub fn add(&self, pid: i32) -> Result<()> {
        let _ = pid;
        soon()
    }
    /// Sets new limits; what `resources` does not name stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let _ = resources;
        soon()
    }
    /// Stops every process in it, and returns when they stand still.
    pub fn freeze(&self) -> Result<()> {
        soon()
    }
    /// Lets them run again.
    pub fn thaw(&self) -> Result<()> {
        soon()
    }
    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        soon()
    }
    /// Every process in it and in the cgroups below it.
    pub fn processes(&self) -> Result<Vec<i32>> {
        soon()
    }
    /// Kills every process in it and below it, frozen ones too. Returns when the signals are sent, not when
    /// they are all gone.
    pub fn kill_all(&self) -> Result<()> {
        soon()
    }
    /// What it uses.
    pub fn figures(&self) -> Result<Figures> {
        soon()
    }
    /// How many processes the kernel killed here for memory.
    pub fn oom_kills(&self) -> Result<u64> {
        soon()
    }
    /// Processor time used so far, in nanoseconds.
    pub fn cpu_time_ns(&self) -> Result<u64> {
        soon()
    }
    /// Removes it from all hierarchies, with the cgroups that were made below it. Its processes must be dead
    /// or dying.
    pub fn remove(&self) -> Result<()> {
        soon()
    }
    /// A descriptor that tells of the kernel's kills for memory.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        soon()
    }
}

/// Tells of the kernel's kills for memory.
#[derive(Debug)]
pub struct OomWatch {
    /// Poll this for [`OomWatch::events`]. On v1 it is an eventfd on `memory.oom_control`: after it was
    /// readable, read its 8 bytes, then ask [`Cgroup::oom_kills`] for the count. On v2 it is an inotify
    /// descriptor on `memory.events`: read it empty, then ask likewise (not every change is a kill).
    pub fd: OwnedFd,
}
