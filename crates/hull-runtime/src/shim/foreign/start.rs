//! The start of a container by another runtime: create, which leaves its first process waiting, and start.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::bundle::{Wanted, option, own_user_namespace};
use super::console::Console;
use super::invocation::{Invocation, Output};
use super::{Foreign, MAKING};
use crate::cgroup::{Cgroup, Lacking};
use crate::error::Context;
use crate::protocol::{self, Event, ForeignRuntime, FromShim, Launch, Stdio};
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
    own_user_namespace(spec)?;
    // Whose mappings these are is made by the runtime, and its network namespace with it: both are the container's own.
    let owner = container::Owner::described(spec)?;
    // Before anything else is made: whoever clears up knows where.
    let foreign = Foreign::new(runtime, &launch.id, &launch.runtime_dir)?;
    let mut making = Making { foreign: Some(foreign), cgroup };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    handshake.warnings.extend(cgroup.complete(resources, Lacking::Warned)?);
    let made_here = launch.awaits_network && owner.is_some();
    let network = handshake.network_of(control, launch.awaits_network && !made_here)?;
    let wanted = Wanted {
        rootfs: &launch.rootfs,
        seccomp: &launch.seccomp,
        user: launch.user.as_ref(),
        network: network.as_ref().map(path_of),
        owner: owner.as_ref(),
        size: stdio.size,
    };
    let warnings = making.foreign().bundle.fill(spec.clone(), &wanted)?;
    handshake.warnings.extend(warnings);

    if let Some(owner) = &owner {
        container::give_streams(&streams, owner.root())?;
    }
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
    if made_here {
        give_network(pid, handshake, control)?;
    }
    if let (Some(_), Some(name)) = (&owner, spec.domainname()) {
        name_domain(pid, name)?;
    }
    let foreign = making.foreign();
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

/// Has the daemon give interfaces to the network namespace that the runtime has made, and waits for them.
fn give_network(pid: i32, handshake: &mut Handshake<'_>, control: &OwnedFd) -> Result<()> {
    use std::os::fd::AsFd;
    let path = format!("/proc/{pid}/ns/net");
    let made = std::fs::File::open(&path).context(|| format!("open {path}"))?;
    // A daemon that has gone meanwhile is found out when the network is waited for.
    let _ = protocol::send(control.as_fd(), &FromShim::Event(Event::Network), &[made.as_fd()]);
    handshake.network_of(control, true).map(drop)
}

/// Sets the name of a container's domain, which in a user namespace only the host's root may. On a thread of its own: a
/// thread's UTS namespace is its own.
fn name_domain(pid: i32, name: &str) -> Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    let doing = || format!("set the domain's name {name}");
    let path = format!("/proc/{pid}/ns/uts");
    let namespace = std::fs::File::open(&path).context(|| format!("open {path}"))?;
    let set = || -> Result<()> {
        let kind = Some(LinkNameSpaceType::HostNameAndNISDomainName);
        move_into_link_name_space(namespace.as_fd(), kind).context(doing)?;
        rustix::system::setdomainname(name.as_bytes()).context(doing)
    };
    std::thread::scope(|scope| match scope.spawn(set).join() {
        Ok(set) => set,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Waits for a command, and hears the daemon meanwhile, who may give the start up.
fn follow(mut invocation: Invocation, handshake: &mut Handshake<'_>, control: &OwnedFd) -> Result<()> {
    loop {
        if let Some(ended) = invocation.ended(|| handshake.streams.printed()) {
            return ended;
        }
        let interest = |fd| Interest { fd, events: libc::POLLIN, revents: 0 };
        // poll(2) passes over what is negative.
        let daemon = if handshake.control_open { control.as_raw_fd() } else { -1 };
        let mut all = vec![interest(daemon), interest(invocation.ends().as_raw_fd())];
        all.extend(handshake.streams.read_early_at().map(|stream| interest(stream.as_raw_fd())));
        let patience = invocation.due().saturating_duration_since(Instant::now());
        if kernel::poll(&mut all, Some(patience)).is_err() {
            continue;
        }
        if all[0].revents != 0 {
            handshake.hear_daemon(control)?;
        }
        handshake.streams.read_early();
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
