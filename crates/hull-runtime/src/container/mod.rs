//! The container's first process, from clone to exec; and another process in a container that runs.
//!
//! [`start`] and [`exec`] run in the shim and return a [`Child`]: the half-started process, which tells what
//! it has come to over a socket. [`Child::step`] is called until [`Step::Running`].

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::error::Context;
use crate::protocol::{Rootfs, UserLookup};
use crate::sys::{self, Cloned, sockets};
use crate::{Error, Result, cgroup, seccomp};

mod between;
mod capabilities;
mod copyup;
mod devices;
mod diagnose;
mod first;
mod granted;
mod hide;
mod hold;
pub mod hooks;
pub mod init;
mod inroot;
mod joined;
mod labels;
mod mapped;
mod mounts;
mod namespaces;
mod network;
mod notify;
pub(crate) mod options;
mod outside;
mod process;
mod report;
mod root;
mod scheduling;
mod streams;
mod supported;
mod sysctl;
#[cfg(test)]
mod tests;
mod user;
mod userns;

pub(crate) use capabilities::{lacking as capabilities_lacking, names as capability_names};
pub use capabilities::{name_of as capability_name, names_in as capabilities_in};
pub use devices::DEFAULT as DEFAULT_DEVICES;
pub(crate) use devices::elsewhere as device_elsewhere;
pub(crate) use granted::cut_to_granted;
pub(crate) use hold::state_for_hooks;
pub use hold::{Held, Hold, start_held};
pub use labels::check_apparmor;
pub(crate) use mapped::{Owner, root_tree, small_tmpfs};
pub use mapped::{as_owner, probe as probe_mapped};
pub use mounts::{LAYERS, SUBPATH};
pub(crate) use mounts::{not_of_a_bind, tree_for_another};
use namespaces::{Entered, Namespaces};
pub(crate) use network::make as make_network;
use outside::Outside;
pub(crate) use outside::is_mapped;
pub(crate) use root::{attach, enter, overlay, overlay_reads_parameters};
pub(crate) use user::looked_up_beneath;
pub(crate) use userns::{give as give_streams, root_of, write_by_helper};

use report::{Heard, Teller};

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
    /// The cgroup: made already, or at least its folder in the v2 hierarchy.
    pub cgroup: &'a cgroup::Cgroup,
    /// Whether the rest of the cgroup is made while the first process mounts: it waits for [`Child::cgroup_is_there`].
    pub awaits_cgroup: bool,
    /// Whether whoever makes the cgroup moves the first process into it meanwhile, and it is cloned where its parent is.
    pub is_moved: bool,
    /// Whether a small init stands as process 1 in front of the command.
    pub init: bool,
    /// Whether the network namespace comes later, by [`Child::give_network`]. In a user namespace it is made with the
    /// process ([`Child::network`]), and comes back.
    pub awaits_network: bool,
    /// Whom the command runs as, looked up inside; none: the spec's numeric user.
    pub user: Option<&'a UserLookup>,
    /// How many of the caller's descriptors, from 3 on, the command gets.
    pub preserved: u32,
    /// Whether the process gets a session keyring of its own.
    pub keyring: bool,
    /// Whether the command waits to be started, and lives on without its parent; none: neither.
    pub hold: Option<&'a Hold>,
    /// Whether the root is only changed (`chroot`) and the host's kept beneath it, for a caller whose root is the
    /// initial ram file system, which `pivot_root` cannot leave.
    pub no_pivot: bool,
}

impl<'a> Start<'a> {
    /// A start that waits for nothing: no filter, no init, the spec's own user, a keyring of its own.
    pub fn plain(spec: &'a Spec, rootfs: &'a Rootfs, streams: Streams, cgroup: &'a cgroup::Cgroup) -> Self {
        Self {
            spec,
            rootfs,
            filter: None,
            streams,
            cgroup,
            awaits_cgroup: false,
            is_moved: false,
            init: false,
            awaits_network: false,
            user: None,
            preserved: 0,
            keyring: true,
            hold: None,
            no_pivot: false,
        }
    }
}

/// The standard streams of the new process.
pub enum Streams {
    /// The caller's own.
    Inherited,
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
    /// It waits for [`Child::hooks_are_done`]: the runtime's hooks, which run before the host's root is left.
    NeedsHooks,
    /// It waits to be started, see [`Hold`]. It lives on without its parent from here.
    Held,
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// Exec has succeeded.
    Running,
}

/// A process on its way to exec. Dropped before [`Step::Running`], it is killed and reaped.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    /// None once it was handed out.
    pidfd: Option<OwnedFd>,
    sync: OwnedFd,
    root: Option<Root>,
    /// What is done for it from here, for one in a user namespace.
    outside: Option<Outside>,
    running: bool,
}

/// What of a container's file systems is to be held until its end has been told to everyone.
#[derive(Debug)]
pub struct Root {
    /// The root folder: the last to let go of an overlay waits until the kernel has written out the whole file system
    /// that the writable layer is on.
    _folder: OwnedFd,
    /// The mount namespace: the last to let go of it unmounts everything and waits for all processors. None where the
    /// first process has ended already.
    _mounts: Option<OwnedFd>,
}

impl Child {
    /// Its process id, in the caller's namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its pidfd: readable when it ends; `waitid(P_PIDFD)` reaps it.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        match &self.pidfd {
            Some(pidfd) => pidfd.as_fd(),
            // Only `into_pidfd` takes it, and that takes the child with it.
            None => unreachable!("a child without its pidfd"),
        }
    }

    /// Readable when [`Child::step`] will not block.
    pub fn sync(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }

    /// Waits for the next thing that the child has to tell. An error is the child's own. A child that was
    /// killed on its way (by the kernel for memory, by someone's signal) counts as running: the status that it
    /// is reaped with says what happened. After an error, drop the child: that reaps it.
    pub fn step(&mut self) -> Result<Step> {
        loop {
            match report::hear(self.sync.as_fd())? {
                Heard::Root(folder) => {
                    let mounts = std::fs::File::open(format!("/proc/{}/ns/mnt", self.pid));
                    self.root = Some(Root { _folder: folder, _mounts: mounts.ok().map(OwnedFd::from) });
                }
                Heard::NeedsOutside => {
                    let Some(outside) = &self.outside else {
                        let reason = "it waits for what it can do itself";
                        return Err(Error::refused("start the first process", reason));
                    };
                    outside.serve(self.pid, self.sync.as_fd())?;
                }
                Heard::Step(step) => {
                    self.running = matches!(step, Step::Running | Step::Held);
                    return Ok(step);
                }
            }
        }
    }

    /// The network namespace of its own that it was born with, in its user namespace. None: it has no user namespace, or
    /// somebody else's network.
    pub fn network(&self) -> Result<Option<OwnedFd>> {
        if !self.outside.as_ref().is_some_and(Outside::in_user_namespace) {
            return Ok(None);
        }
        let path = format!("/proc/{}/ns/net", self.pid);
        std::fs::File::open(&path).map(OwnedFd::from).map(Some).context(|| format!("open {path}"))
    }

    /// Lets a child go on that waits for its cgroup, see [`Start::awaits_cgroup`].
    pub fn cgroup_is_there(&mut self) -> Result<()> {
        self.join_cgroup()?;
        report::cgroup_is_there(self.sync.as_fd())
    }

    /// Puts a child into its cgroup that has no right to join it by itself.
    fn join_cgroup(&self) -> Result<()> {
        self.outside.as_ref().map_or(Ok(()), |outside| outside.join_cgroup(self.pid))
    }

    /// Starts a child that waits for that, or is about to, with nothing else left that it asks for; see [`Held`].
    pub(crate) fn let_go(&self) -> Result<()> {
        report::start(self.sync.as_fd())
    }

    /// Lets a child go on that asked with [`Step::NeedsHooks`], and tells it its process id.
    pub fn hooks_are_done(&mut self) -> Result<()> {
        report::hooks_are_done(self.sync.as_fd(), self.pid)
    }

    /// Gives a child that asked with [`Step::NeedsNetwork`] its network namespace.
    pub fn give_network(&mut self, netns: BorrowedFd<'_>) -> Result<()> {
        report::give_network(self.sync.as_fd(), netns)
    }

    /// Handles of the container's file systems, which a child of [`start`] has given when it is [`Step::Running`]. To be
    /// held until the container's end has been told to everyone: its first process would wait for what they cost on its
    /// way out.
    pub fn take_root(&mut self) -> Option<Root> {
        self.root.take()
    }

    /// The pidfd alone, once it runs. The process goes on; who holds the pidfd reaps it.
    pub fn into_pidfd(mut self) -> OwnedFd {
        self.running = true;
        match self.pidfd.take() {
            Some(pidfd) => pidfd,
            None => unreachable!("a child without its pidfd"),
        }
    }

    /// One that waits to be started by its maker, and its pidfd.
    pub fn into_held(mut self) -> (OwnedFd, Held) {
        self.running = true;
        match self.pidfd.take() {
            Some(pidfd) => (pidfd, Held::of(self)),
            None => unreachable!("a child without its pidfd"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.as_ref().filter(|_| !self.running) else { return };
        // It may have ended by itself; then the signal finds a zombie, and reaping is all there is to do.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    }
}

/// Clones the container's first process into its namespaces. The caller must be single-threaded.
pub fn start(start: Start<'_>) -> Result<Child> {
    supported::check(start.spec, start.hold.is_some())?;
    let namespaces = Namespaces::of(start.spec, start.awaits_network)?;
    sysctl::check(start.spec, &namespaces)?;
    let outside = Outside::of(start.spec, start.rootfs, start.cgroup, &namespaces)?;
    let folder = if start.is_moved { None } else { start.cgroup.open_unified()? };
    let entered = namespaces.enter_before()?;
    let folder = folder.as_ref().map(AsFd::as_fd);
    let main = |teller: &Teller| first::run(&start, &namespaces, teller, outside.as_ref());
    let child = if namespaces.joins_user() {
        between::clone(&namespaces, folder, main)
    } else {
        clone(namespaces.new, folder, main).context(|| "clone the container's first process".into())
    };
    drop(entered);
    let mut child = child?;
    if let Some(outside) = &outside {
        outside.give(&start.streams, child.pid)?;
    }
    child.outside = outside;
    if !start.awaits_cgroup {
        child.join_cgroup()?;
    }
    Ok(child)
}

/// Clones a process which runs `main` and never returns from it.
fn clone(
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
    main: impl FnOnce(&Teller) -> Result<Infallible>,
) -> std::io::Result<Child> {
    let (sync, childs) = sockets::packet_pair()?;
    match sys::clone3(namespaces, cgroup)? {
        Cloned::Parent { pid, pidfd } => {
            Ok(Child { pid, pidfd: Some(pidfd), sync, root: None, outside: None, running: false })
        }
        Cloned::Child => {
            drop(sync);
            be_child(&Teller::new(childs), main)
        }
    }
}

fn be_child(teller: &Teller, main: impl FnOnce(&Teller) -> Result<Infallible>) -> ! {
    let error = match catch_unwind(AssertUnwindSafe(|| main(teller))) {
        Ok(Err(error)) => error,
        Ok(Ok(never)) => match never {},
        Err(_) => Error::refused("start the process", "hull itself failed on the way; this is a bug"),
    };
    teller.failed(&error);
    sys::exit_now(i32::from(error.exit_status))
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
    /// The container's cgroup, or one below it that counts and limits by itself.
    pub cgroup: &'a cgroup::Cgroup,
    /// Folders of v1 hierarchies below that cgroup's, into which it goes there instead.
    pub apart: &'a [PathBuf],
    /// A cgroup below that one which merely holds the new process and what comes of it ([`cgroup::Cgroup::leaf`]).
    pub leaf: Option<&'a cgroup::Cgroup>,
    /// Whom it runs as, looked up inside; none: the process's numeric user.
    pub user: Option<&'a UserLookup>,
    /// How many of the caller's descriptors, from 3 on, it gets.
    pub preserved: u32,
    /// Whether it lives on without its parent.
    pub detached: bool,
    /// The container's state, for who answers a filter's questions.
    pub state: Option<&'a ContainerState>,
}

/// A container's state, as the runtime specification words it.
#[derive(Clone, Debug)]
pub struct ContainerState {
    /// The version of the specification.
    pub version: String,
    /// All of it, as JSON.
    pub json: String,
}

/// Starts another process in a running container. It is a child of the caller, who reaps it and must be
/// single-threaded.
pub fn exec(exec: ExecIn<'_>) -> Result<Child> {
    labels::check(exec.process)?;
    let entered = Entered::enter(oci_spec::runtime::LinuxNamespaceType::Pid, exec.target_pidfd)?;
    let child = clone_entered(&exec);
    drop(entered);
    child
}

/// Clones the process of an exec whose caller has entered the container's pid namespace.
fn clone_entered(exec: &ExecIn<'_>) -> Result<Child> {
    let main = |teller: &Teller| joined::run(exec, teller);
    let folder = exec.leaf.unwrap_or(exec.cgroup).open_unified()?;
    let child = match clone(0, folder.as_ref().map(AsFd::as_fd), main) {
        // On v2 a cgroup that hands controllers to cgroups below it holds no process itself: the container
        // has moved its own into one of these, and the new one joins its first process there.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let folder = cgroup::unified_folder_of(exec.target_pid)?;
            clone(0, folder.as_ref().map(AsFd::as_fd), main)
        }
        // The namespace takes no process any more from the moment on when its first one began to end.
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && is_ending(exec.target_pid) => {
            Err(std::io::Error::from_raw_os_error(libc::ESRCH))
        }
        child => child,
    };
    child.context(|| "clone a process into the container".to_owned())
}

/// Whether a process has ended or is about to: `PF_EXITING` of `include/linux/sched.h`, in the ninth field of its
/// `/proc/PID/stat` (the second may hold anything, and ends with the last parenthesis).
fn is_ending(pid: i32) -> bool {
    const PF_EXITING: u64 = 0x4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let flags =
        stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// Mounts a container's root file system and bind mounts in a mount namespace of the calling process's own,
/// and returns the root folder. The caller is a process forked for this: it does not come back to its old
/// namespace, and what it shows is there as long as it lives.
pub fn view(spec: &Spec, rootfs: &Rootfs) -> Result<OwnedFd> {
    sys::unshare_namespaces(libc::CLONE_NEWNS).context(|| "make a mount namespace".into())?;
    root::cut_propagation(spec)?;
    // First: where something is mounted upon the root, no user namespace is made any more, which mapped ids need.
    let binds = mounts::prepare_view(spec)?;
    let root = root::assemble(root::detached(spec, rootfs)?)?;
    for bind in binds {
        bind.attach(root.as_fd())?;
    }
    Ok(root)
}
