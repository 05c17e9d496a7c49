//! The start of a container by another runtime: create, which leaves its first process waiting, and start.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::bundle::{Wanted, no_user_namespace, option};
use super::console::Console;
use super::invocation::{Invocation, Output};
use super::{Foreign, MAKING};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::protocol::{ForeignRuntime, Launch, Stdio};
use crate::shim::kernel::{self, Interest};
use crate::shim::start::Handshake;
use crate::{Error, Result, container};

/// What a start by another runtime needs.
pub(in crate::shim) struct Beginning<'a> {
    pub(in crate::shim) runtime: ForeignRuntime,
    pub(in crate::shim) launch: &'a Launch,
    pub(in crate::shim) spec: &'a Spec,
    pub(in crate::shim) cgroup: &'a Cgroup,
    pub(in crate::shim) stdio: &'a Stdio,
    /// The ends of the streams that the first process gets.
    pub(in crate::shim) streams: container::Streams,
    pub(in crate::shim) control: &'a OwnedFd,
}

/// A container whose command has been executed, or as good as: its runtime says so.
pub(in crate::shim) struct Begun {
    pub(in crate::shim) foreign: Foreign,
    pub(in crate::shim) pid: i32,
    pub(in crate::shim) pidfd: OwnedFd,
}

/// A container on its way. Dropped before it has begun, it leaves nothing.
struct Making<'a> {
    foreign: Option<Foreign>,
    cgroup: &'a Cgroup,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if let Some(foreign) = self.foreign.take() {
            foreign.give_up(self.cgroup);
            foreign.unmount();
        }
    }
}

impl Making<'_> {
    fn foreign(&mut self) -> &mut Foreign {
        match &mut self.foreign {
            Some(foreign) => foreign,
            None => unreachable!("only the end of the start takes it"),
        }
    }
}

/// Starts the container. `handshake` hears the daemon meanwhile.
pub(in crate::shim) fn begin(beginning: Beginning<'_>, handshake: &mut Handshake<'_>) -> Result<Begun> {
    let Beginning { runtime, launch, spec, cgroup, stdio, streams, control } = beginning;
    // Before the network is waited for, which such a container would have to make itself.
    no_user_namespace(spec)?;
    // Before anything else is made: whoever clears up knows where.
    let foreign = Foreign::new(runtime, &launch.id, &launch.runtime_dir)?;
    let mut making = Making { foreign: Some(foreign), cgroup };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    handshake.warnings.extend(cgroup.complete(resources)?);
    let network = handshake.network_of(control, launch.awaits_network)?;
    let wanted = Wanted {
        rootfs: &launch.rootfs,
        seccomp: &launch.seccomp,
        user: launch.user.as_ref(),
        network: network.as_ref().map(path_of),
        size: stdio.size,
    };
    let warnings = making.foreign().bundle.fill(spec.clone(), &wanted)?;
    handshake.warnings.extend(warnings);

    let foreign = making.foreign();
    let console = stdio.terminal.then(|| Console::listen(foreign.bundle.folder(), "console")).transpose()?;
    let invocation = foreign.create(streams, console.as_ref())?;
    follow(invocation, handshake, control)?;
    drop(network);
    let (pid, pidfd) = child_in(&foreign.bundle.pid_file("first"))?;
    if let Some(console) = console {
        handshake.streams.set_terminal(console.terminal()?)?;
        if let Some((width, height)) = stdio.size {
            handshake.streams.resize(width, height)?;
        }
    }
    cgroup.adopt(pid)?;
    let invocation = foreign.invoke(("start", "start"), &[], Output::Said, MAKING)?;
    follow(invocation, handshake, control)?;
    match making.foreign.take() {
        Some(foreign) => Ok(Begun { foreign, pid, pidfd }),
        None => unreachable!("only this takes it"),
    }
}

impl Foreign {
    fn create(&self, streams: container::Streams, console: Option<&Console>) -> Result<Invocation> {
        let pid_file = self.bundle.pid_file("first");
        let socket = console.map(Console::path);
        let mut options: Vec<&OsStr> = Vec::new();
        options.extend(option("--bundle", self.bundle.folder()));
        options.extend(option("--pid-file", &pid_file));
        if let Some(socket) = &socket {
            options.extend(option("--console-socket", socket));
        }
        let output = match streams {
            container::Streams::Terminal { .. } => Output::Said,
            streams => Output::Process(streams),
        };
        self.invoke(("create", "create"), &options, output, MAKING)
    }
}

/// Waits for a command, and hears the daemon meanwhile, who may give the start up.
fn follow(mut invocation: Invocation, handshake: &mut Handshake<'_>, control: &OwnedFd) -> Result<()> {
    use std::os::fd::AsFd;
    loop {
        if let Some(ended) = invocation.ended(|| handshake.streams.printed()) {
            return ended;
        }
        let mut both = [
            Interest { fd: invocation.ends().as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 },
            Interest { fd: control.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        let watched = if handshake.control_open { 2 } else { 1 };
        let patience = invocation.due().saturating_duration_since(Instant::now());
        if kernel::poll(&mut both[..watched], Some(patience)).is_ok() && both[1].revents != 0 {
            handshake.hear_daemon(control)?;
        }
    }
}

/// A path to a descriptor of this process, for others.
fn path_of(fd: &OwnedFd) -> PathBuf {
    let own = rustix::process::getpid().as_raw_nonzero();
    PathBuf::from(format!("/proc/{own}/fd/{}", fd.as_raw_fd()))
}

/// The process whose id the runtime has written down. It has become a child of this process, which has not been reaped.
pub(super) fn child_in(pid_file: &Path) -> Result<(i32, OwnedFd)> {
    use std::os::fd::AsFd;
    let doing = || "find the process that the runtime has made".to_owned();
    let text = std::fs::read_to_string(pid_file).context(doing)?;
    let _ = std::fs::remove_file(pid_file);
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0);
    let Some((number, pid)) = pid.and_then(|pid| Some((pid, Pid::from_raw(pid)?))) else {
        return Err(Error::refused(doing(), "its --pid-file holds no process id"));
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context(doing)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(_) => Ok((number, pidfd)),
        Err(rustix::io::Errno::CHILD) => {
            let reason = format!(
                "process {number} of its --pid-file has another parent: a runtime leaves it to who has called it"
            );
            Err(Error::refused(doing(), reason))
        }
        Err(error) => Err(Error::kernel(doing(), error)),
    }
}
