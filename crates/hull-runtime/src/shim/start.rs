//! Starting: from the launch message to the exec of the first process.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use oci_spec::runtime::{Process, Spec};

use super::ending::ExitRecord;
use super::foreign::{self, Beginning, Begun, Foreign};
use super::kernel::{self, Interest};
use super::log::Sink;
use super::relay::Relays;
use super::streams::{self, Streams};
use crate::cgroup::{Cgroup, Lacking};
use crate::container::{Child, Start, Step};
use crate::error::Context;
use crate::protocol::{
    self, Attach, Event, ForeignRuntime, FromShim, Launch, ReceiveError, Reply, Request, Seccomp,
};
use crate::{Error, Result, container, seccomp};

/// A container whose first process has been executed.
pub(super) struct Started {
    pub(super) id: String,
    pub(super) folder: OwnedFd,
    pub(super) exit_record: ExitRecord,
    pub(super) listener: OwnedFd,
    pub(super) cgroup: Cgroup,
    pub(super) streams: Streams,
    pub(super) log: Option<Sink>,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) init: bool,
    pub(super) at_ns: u64,
    pub(super) limits: protocol::Limits,
    pub(super) reserved: Vec<OwnedFd>,
    /// Those of the host's ports that the shim answers at.
    pub(super) relays: Relays,
    /// The container's file systems, see [`container::Child::take_root`].
    pub(super) root: Option<container::Root>,
    /// The runtime that has made it, where that is another one.
    pub(super) foreign: Option<Box<Foreign>>,
    /// Readable when a child has ended.
    pub(super) children: OwnedFd,
    pub(super) warnings: Vec<String>,
    /// The filter that the spec asks for, for execs of its kind.
    pub(super) filter: Option<seccomp::Filter>,
    /// The control socket is still open.
    pub(super) control_open: bool,
}

/// The first process, when it has been executed.
struct First {
    pid: i32,
    pidfd: OwnedFd,
    root: Option<container::Root>,
    foreign: Option<Box<Foreign>>,
}

/// What a failed start takes back.
struct Undo {
    folder: OwnedFd,
    cgroup: Option<Cgroup>,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // The error of the start is the one to tell.
        let _ = super::remove(self.folder.as_fd(), super::SOCKET);
        let _ = super::remove(self.folder.as_fd(), ExitRecord::TEMPORARY);
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.remove();
        }
    }
}

/// Clients that are attached once the container runs. Should it never, their connections end: the daemon may
/// hold the sockets as well, so closing them would not do that.
struct Waiting(Vec<(Attach, OwnedFd)>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for (_, socket) in &self.0 {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }
}

/// A process that can become a shim: what it does before it knows of which container.
pub(crate) struct Ready {
    /// Readable when a child has ended.
    children: OwnedFd,
    /// Closed when the start is through: the launcher forks the next one then.
    pub(crate) word: Option<OwnedFd>,
}

impl Ready {
    /// Makes this process, just forked by the launcher, one of its own.
    pub(crate) fn up() -> Result<Ready> {
        // It fails only for who leads a session already.
        let _ = rustix::process::setsid();
        // From the first fork on: what has ended must wait to be reaped.
        let children = kernel::child_signals().context(|| "listen to the ends of processes".into())?;
        detach_from_launcher()?;
        Ok(Ready { children, word: None })
    }
}

/// Starts the container. On failure nothing of it is left.
pub(super) fn start(
    launch: Launch,
    control: &OwnedFd,
    mut others: Vec<OwnedFd>,
    ready: Ready,
) -> Result<Started> {
    let mut launch = launch;
    if others.len() != launch.reserved + launch.attach.len() {
        let (reserved, clients) = (launch.reserved, launch.attach.len());
        let reason = format!("{} descriptors came for {reserved} ports and {clients} clients", others.len());
        return Err(Error::refused("start the container", reason));
    }
    let mut clients = Waiting(
        std::mem::take(&mut launch.attach).into_iter().zip(others.split_off(launch.reserved)).collect(),
    );
    let relays = Relays::new(&launch.relays, &mut others)?;
    clients.0.iter().try_for_each(|(attach, _)| streams::check(attach, false))?;
    let doing = || format!("prepare {}", launch.runtime_dir.display());
    let folder = super::open_folder(&launch.runtime_dir).context(doing)?;
    super::remove(folder.as_fd(), super::EXIT).context(doing)?;
    let exit_record = ExitRecord::reserve(folder.as_fd())?;
    let listener = super::listen(folder.as_fd()).context(doing)?;
    let folder_kept = folder.try_clone().context(doing)?;
    let mut undo = Undo { folder, cgroup: None, armed: true };

    let mut spec = std::mem::take(&mut launch.spec);
    // Inherited from the launcher, the shim's own protection would protect the container as well.
    if let Some(process) = spec.process_mut() {
        default_score(process);
    }
    let cgroup = Cgroup::begin(&cgroup_path(&spec, &launch.id))?;
    undo.cgroup = Some(cgroup.clone());
    let log = Sink::open(launch.log.clone())?;
    let filter = match launch.seccomp {
        Seccomp::Default => Some(seccomp::default_filter(&bounding(spec.process().as_ref()))?),
        Seccomp::Spec => spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref())
            .map(seccomp::compile)
            .transpose()?,
        Seccomp::Unconfined => None,
    };
    let (mut streams, theirs) = Streams::new(launch.stdio.clone())?;
    let mut handshake =
        Handshake { streams: &mut streams, warnings: Vec::new(), network: None, control_open: true };
    let runtime = launch.runtime.take();
    let making = Making { launch: &launch, spec: &spec, cgroup: &cgroup, control };
    let First { pid, pidfd, root, foreign } = match runtime {
        None => making.own(filter.as_ref(), theirs, &mut handshake)?,
        Some(runtime) => making.foreign(runtime, theirs, &mut handshake)?,
    };
    let Handshake { warnings, control_open, .. } = handshake;
    for (attach, socket) in std::mem::take(&mut clients.0) {
        streams.attach(attach, socket, None);
    }
    undo.armed = false;
    Ok(Started {
        id: launch.id,
        folder: folder_kept,
        exit_record,
        listener,
        cgroup,
        streams,
        log,
        pid,
        pidfd,
        init: launch.init,
        at_ns: super::now_ns(),
        limits: launch.limits,
        reserved: others,
        relays,
        root,
        foreign,
        children: ready.children,
        warnings,
        filter: if launch.seccomp == Seccomp::Spec { filter } else { None },
        control_open,
    })
}

/// A container whose first process is to be made.
struct Making<'a> {
    launch: &'a Launch,
    spec: &'a Spec,
    cgroup: &'a Cgroup,
    control: &'a OwnedFd,
}

impl Making<'_> {
    /// By this runtime: the first process mounts while its cgroup is made.
    fn own(
        &self,
        filter: Option<&seccomp::Filter>,
        streams: container::Streams,
        handshake: &mut Handshake<'_>,
    ) -> Result<First> {
        let Making { launch, spec, cgroup, control } = *self;
        let mut child = container::start(Start {
            spec,
            rootfs: &launch.rootfs,
            filter,
            streams,
            cgroup,
            awaits_cgroup: true,
            is_moved: false,
            init: launch.init,
            awaits_network: launch.awaits_network,
            user: launch.user.as_ref(),
            preserved: 0,
            keyring: true,
            hold: None,
            no_pivot: false,
        })?;
        if launch.awaits_network
            && let Some(network) = child.network()?
        {
            // A daemon that has gone meanwhile is found out when the network is waited for.
            let _ = protocol::send(control.as_fd(), &FromShim::Event(Event::Network), &[network.as_fd()]);
        }
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        handshake.warnings = cgroup.complete(resources, Lacking::Warned)?;
        child.cgroup_is_there()?;
        handshake.run(&mut child, control, launch.awaits_network)?;
        Ok(First { pid: child.pid(), root: child.take_root(), pidfd: child.into_pidfd(), foreign: None })
    }

    /// By another one.
    fn foreign(
        &self,
        runtime: ForeignRuntime,
        streams: container::Streams,
        handshake: &mut Handshake<'_>,
    ) -> Result<First> {
        let Making { launch, spec, cgroup, control } = *self;
        let stdio = &launch.stdio;
        let beginning = Beginning { runtime, launch, spec, cgroup, stdio, streams, control };
        let Begun { foreign, pid, pidfd } = foreign::begin(beginning, handshake)?;
        Ok(First { pid, pidfd, root: None, foreign: Some(Box::new(foreign)) })
    }
}

/// What a forked shim has of its launcher and must not keep.
fn detach_from_launcher() -> Result<()> {
    let doing = || "leave the launcher".to_owned();
    rustix::process::chdir("/").context(doing)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Whoever waits for the end of the daemon's output must not wait for containers.
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").context(doing)?;
    rustix::stdio::dup2_stdin(&null).context(doing)?;
    rustix::stdio::dup2_stdout(&null).context(doing)?;
    rustix::stdio::dup2_stderr(&null).context(doing)?;
    // What an exec leaves behind in the host's pid namespace comes here to be reaped.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context(doing)
}

/// A process that asks for no score of its own gets 0.
pub(super) fn default_score(process: &mut Process) {
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(Some(0));
    }
}

fn cgroup_path(spec: &Spec, id: &str) -> String {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_ref()).and_then(|path| path.to_str());
    path.map_or_else(|| format!("/hull/{id}"), str::to_owned)
}

/// The capabilities of a process's bounding set.
pub(super) fn bounding(process: Option<&Process>) -> Vec<oci_spec::runtime::Capability> {
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    bounding.into_iter().flatten().copied().collect()
}

/// Leads the first process to its exec, with what the daemon has to say meanwhile.
pub(super) struct Handshake<'s> {
    pub(super) streams: &'s mut Streams,
    pub(super) warnings: Vec<String>,
    network: Option<OwnedFd>,
    pub(super) control_open: bool,
}

impl Handshake<'_> {
    fn run(&mut self, child: &mut Child, control: &OwnedFd, awaits_network: bool) -> Result<()> {
        let mut asked = false;
        loop {
            let mut both = [
                Interest { fd: child.sync().as_raw_fd(), events: libc::POLLIN, revents: 0 },
                Interest { fd: control.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            ];
            let watched = if self.control_open { 2 } else { 1 };
            if kernel::poll(&mut both[..watched], None).is_err() {
                continue;
            }
            if both[1].revents != 0 {
                self.hear_daemon(control)?;
                self.check_network(awaits_network)?;
            }
            if both[0].revents != 0 {
                match child.step()? {
                    Step::Warning(warning) => self.warnings.push(warning),
                    Step::NeedsNetwork => asked = true,
                    Step::Terminal(master) => self.streams.set_terminal(master)?,
                    Step::Running => return Ok(()),
                    Step::NeedsHooks | Step::Held => {
                        let reason = "its first process asks for what only an OCI runtime's callers have";
                        return Err(Error::refused("start the container", reason));
                    }
                }
            }
            if let Some(network) = self.network.take_if(|_| asked) {
                child.give_network(network.as_fd())?;
                asked = false;
            }
        }
    }

    /// The network namespace, once it is made; none where it is not waited for.
    pub(super) fn network_of(&mut self, control: &OwnedFd, awaits_network: bool) -> Result<Option<OwnedFd>> {
        while awaits_network && self.network.is_none() {
            let mut daemon = [Interest { fd: control.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            if kernel::poll(&mut daemon, None).is_ok() {
                self.hear_daemon(control)?;
                self.check_network(awaits_network)?;
            }
        }
        Ok(self.network.take())
    }

    /// A daemon that is gone makes no network any more.
    fn check_network(&self, awaits_network: bool) -> Result<()> {
        if !self.control_open && awaits_network && self.network.is_none() {
            let reason = "the daemon ended before its network was made";
            return Err(Error::refused("start the container", reason));
        }
        Ok(())
    }

    pub(super) fn hear_daemon(&mut self, control: &OwnedFd) -> Result<()> {
        match protocol::receive::<Request>(control.as_fd()) {
            Ok(Some((Request::Network, mut descriptors))) => match descriptors.pop() {
                Some(network) => self.network = Some(network),
                None => {
                    return Err(Error::refused("join the network", "the message came without a namespace"));
                }
            },
            Ok(Some((Request::NetworkFailed(error), _))) => return Err(error),
            // What it mounts may be where nobody answers; the first process is killed with the start.
            Ok(Some((Request::KillAll, _))) => {
                return Err(Error::refused(
                    "start the container",
                    "it was given up: a user ended it meanwhile",
                ));
            }
            Ok(Some(_)) => {
                let error = Error::refused("ask the shim", "the container is starting");
                // A daemon that does not take the answer is found gone at the next look.
                let _ = protocol::send(control.as_fd(), &FromShim::Reply(Reply::Failed(error)), &[]);
            }
            Ok(None) | Err(ReceiveError::Broken(_)) => self.control_open = false,
            Err(ReceiveError::WouldBlock) => {}
        }
        Ok(())
    }
}
