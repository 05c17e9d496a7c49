//! The container's first process, from clone to exec; and another process in a container that runs.
//!
//! [`start`] and [`exec`] run in the shim and return a [`Child`]: the half-started process, which tells what
//! it has come to over a socket. [`Child::step`] is called until [`Step::Running`].

use std::os::fd::{BorrowedFd, OwnedFd};

use oci_spec::runtime::{Process, Spec};

use crate::protocol::Rootfs;
use crate::{Error, Result, cgroup, seccomp};

/// What [`start`] needs.
pub struct Start<'a> {
    /// The container.
    pub spec: &'a Spec,
    /// Where its root file system comes from.
    pub rootfs: &'a Rootfs,
    /// The system call filter, or none.
    pub filter: Option<&'a seccomp::Filter>,
    /// The standard streams.
    pub streams: Streams,
    /// The cgroup, made already.
    pub cgroup: &'a cgroup::Cgroup,
    /// Whether a small init stands as process 1 in front of the command.
    pub init: bool,
    /// Whether the network namespace comes later, by [`Child::give_network`].
    pub awaits_network: bool,
}

/// The standard streams of the new process.
pub enum Streams {
    /// The child's ends of three pipes (or files). They are closed in the caller when the call returns.
    Pipes {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A pseudo-terminal of the container's own devpts; the master comes as [`Step::Terminal`].
    Terminal {
        /// Columns and rows.
        size: Option<(u16, u16)>,
    },
}

/// What a half-started process has come to.
#[derive(Debug)]
pub enum Step {
    /// The machine does not grant something that the container then runs without.
    Warning(String),
    /// It waits for [`Child::give_network`].
    NeedsNetwork,
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// Exec has succeeded.
    Running,
}

/// A process on its way to exec. Dropped before [`Step::Running`], it is killed and reaped.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    sync: OwnedFd,
}

impl Child {
    /// Its process id, in the caller's namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its pidfd: readable when it ends; `waitid(P_PIDFD)` reaps it.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.pidfd)
    }

    /// Readable when [`Child::step`] will not block.
    pub fn sync(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.sync)
    }

    /// Waits for the next thing that the child has to tell. An error is the child's own, or says how it died;
    /// the child is dead and reaped then.
    pub fn step(&mut self) -> Result<Step> {
        Err(Error::refused("start the container", "not there yet"))
    }

    /// Gives a child that asked with [`Step::NeedsNetwork`] its network namespace.
    pub fn give_network(&mut self, netns: BorrowedFd<'_>) -> Result<()> {
        let _ = netns;
        Err(Error::refused("start the container", "not there yet"))
    }

    /// The pidfd alone, once it runs. The process goes on; who holds the pidfd reaps it.
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }
}

/// Clones the container's first process into its namespaces.
pub fn start(start: Start<'_>) -> Result<Child> {
    let _ = start.spec;
    Err(Error::refused("start the container", "not there yet"))
}

/// What [`exec`] needs.
pub struct ExecIn<'a> {
    /// The container's first process, in the caller's namespace.
    pub target_pid: i32,
    /// Its pidfd.
    pub target_pidfd: BorrowedFd<'a>,
    /// The new process.
    pub process: &'a Process,
    /// The system call filter, or none.
    pub filter: Option<&'a seccomp::Filter>,
    /// The standard streams.
    pub streams: Streams,
    /// The container's cgroup.
    pub cgroup: &'a cgroup::Cgroup,
}

/// Starts another process in a running container. It is a child of the caller, who reaps it.
pub fn exec(exec: ExecIn<'_>) -> Result<Child> {
    let _ = exec.process;
    Err(Error::refused("execute in the container", "not there yet"))
}

/// Mounts a container's root file system and bind mounts in a mount namespace of the calling process's own,
/// and returns the root folder. The caller is a process forked for this: it does not come back to its old
/// namespace.
pub fn view(spec: &Spec, rootfs: &Rootfs) -> Result<OwnedFd> {
    let _ = (spec, rootfs);
    Err(Error::refused("view the container", "not there yet"))
}
