//! Create: from a bundle to a first process that waits to be started.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, poll};

use super::cgroup::NewCgroup;
use super::config::{self, Config};
use super::descriptors::{check_preserved, listen, listen_fds, send_pidfd, send_terminal, take_listen_fds};
use super::file::NewFile;
use super::notify::{self, Notify};
use super::state::{self, Record};
use super::watch::{self, Watched};
use super::{Container, Runtime};
use super::{intel_rdt, net_devices};
use crate::cgroup::{Cgroup, Lacking};
use crate::container::{Child, Held, Hold, Root, Start, Step, Streams, hooks};
use crate::error::Context;
use crate::protocol::Rootfs;
use crate::{Error, Result, container, seccomp, sys};

/// What [`Runtime::create`] is asked for, besides the bundle's configuration.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// The folder of `config.json`.
    pub bundle: PathBuf,
    /// Another file with the configuration.
    pub config: Option<PathBuf>,
    /// Where the master of the container's terminal goes, if the configuration wants one.
    pub console: Option<Console>,
    /// A file that gets the first process's id.
    pub pid_file: Option<PathBuf>,
    /// A socket that gets a pidfd of the first process.
    pub pidfd_socket: Option<PathBuf>,
    /// Whether the configuration's annotations mean what they mean to crun.
    pub crun_annotations: bool,
    /// How many of the caller's descriptors, from 3 on, the command gets.
    pub preserve_fds: u32,
    /// Whether the container may do without a cgroup where the caller may make none; none: unless that is root.
    pub rootless: Option<bool>,
    /// Leave the process with the caller's session keyring.
    pub no_new_keyring: bool,
    /// The caller starts the container itself, by [`Created::start`], which watches that the command is not hull's own
    /// binary. Where that cannot be watched, the calling process is replaced as by [`super::protect_own_binary`]
    /// before anything is made. Who does not say so has called that before.
    pub starts: bool,
    /// Change the root without `pivot_root`.
    pub no_pivot: bool,
    /// Have systemd make the cgroup, as a scope.
    pub systemd_cgroup: bool,
    /// Make none: the container is in its creator's, which limits and counts it.
    pub no_cgroup: bool,
    /// The socket that is to hear when the container is ready: what `NOTIFY_SOCKET` names; see [`super::Notify`].
    pub notify: Option<OsString>,
}

/// Where the master of a terminal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// To whoever listens at this socket.
    Socket(PathBuf),
    /// To the caller of this library, see [`Created::terminal`].
    Caller,
}

/// A container that waits to be started.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// The master of its terminal, for [`Console::Caller`].
    pub terminal: Option<OwnedFd>,
    /// The pidfd of its first process, a child of the caller's.
    pub pidfd: OwnedFd,
    /// What this machine does not grant, and the container does without.
    pub warnings: Vec<String>,
    /// Where it says that it is ready, if it is started by the caller ([`Create::starts`]) and somebody is to be told.
    pub notify: Option<Notify>,
    /// The first process, for who starts it; none: it waits at a socket beside the container's file.
    held: Option<Held>,
    /// It is let go already, and stands still behind its exec.
    watched: Option<Watched>,
    /// Its file systems, held so that its end waits for none of them.
    root: Option<Root>,
    /// Who lets go of them when it has ended.
    unmounting: Option<std::thread::JoinHandle<()>>,
}

impl Runtime {
    /// Makes a container, up to the exec of its command. On failure nothing of it is left. The caller must be
    /// single-threaded.
    ///
    /// # Errors
    /// The configuration is not valid or asks for what this machine has not; there is a container of that id.
    pub fn create(&self, id: &str, create: &Create) -> Result<Created> {
        let Config { mut spec, text, bundle, warnings: mut said, pidfd_receiver } = config::read(create)?;
        let wants_terminal = spec.process().as_ref().and_then(|process| process.terminal()) == Some(true);
        check_console(wants_terminal, create.console.as_ref())?;
        if create.starts && !watch::is_enough(&spec) {
            super::protect_own_binary()?;
        }
        // Those come first, and the caller's count is of what follows them.
        let activated = listen_fds();
        let create =
            &Create { preserve_fds: create.preserve_fds.saturating_add(activated), ..create.clone() };
        check_preserved(create.preserve_fds)?;
        let mut file = NewFile::make(self, id, &text)?;
        let hold = Hold {
            listener: if create.starts { None } else { Some(listen(file.start())?) },
            id: id.to_owned(),
            version: spec.version().clone(),
            bundle,
            annotations: spec.annotations().clone().unwrap_or_default(),
        };
        take_listen_fds(&mut spec, activated);
        let notify = self::notify(&mut spec, &mut file, create)?;
        let begun = if create.no_cgroup {
            Ok(NewCgroup::nowhere())
        } else {
            NewCgroup::begin(&spec, id, create.systemd_cgroup)
        };
        let mut cgroup = match begun {
            Err(error) if may_do_without(&spec, create, &error) => {
                said.push(format!("the container has no cgroup of its own: {error}"));
                NewCgroup::nowhere()
            }
            begun => begun?,
        };
        let mut making =
            Making { spec: &spec, hold: &hold, create, pidfd_receiver, warnings: Vec::new(), hooked: false };
        if cgroup.is_made() {
            file.makes_cgroup()?;
        }
        let child = making.first_process(&mut cgroup)?;
        let mut unkept = UnlessKept { child: Some(child), resctrl: None };
        let made = making.container(&mut unkept, file, &cgroup);
        let Made { container, terminal, watched } = made.inspect_err(|_| making.undo(&unkept))?;
        said.extend(making.warnings);
        cgroup.keep();
        match unkept.child.take() {
            Some(mut child) => {
                let root = child.take_root();
                let (pidfd, held) = if create.starts {
                    let (pidfd, held) = child.into_held();
                    (pidfd, Some(held))
                } else {
                    (child.into_pidfd(), None)
                };
                Ok(Created {
                    container,
                    terminal,
                    pidfd,
                    warnings: said,
                    notify,
                    held,
                    watched,
                    root,
                    unmounting: None,
                })
            }
            None => unreachable!("the child was just put there"),
        }
    }
}

impl Created {
    /// Starts it, as [`Container::start`] does; see [`Create::starts`].
    ///
    /// # Errors
    /// As of that; nothing of the container is left then.
    pub fn start(&mut self) -> Result<()> {
        let Some(held) = &self.held else { return self.container.start() };
        let watched = match self.watched.take() {
            Some(watched) => Ok(Some(watched)),
            None => watch_unless_protected(self.container.record.pid)
                .and_then(|watched| held.let_go().map(|()| watched)),
        };
        let started = watched.and_then(|watched| self.container.start_held(held, watched));
        if started.is_err() {
            // The error of the start is the one to tell.
            let _ = self.container.delete(true);
        }
        started
    }

    /// Waits until it says that it is ready, if somebody is to be told of that, or has ended; see [`Notify::wait`].
    ///
    /// # Errors
    /// As of that.
    pub fn wait_until_ready(&mut self) -> Result<Option<String>> {
        let Some(notify) = &mut self.notify else { return Ok(None) };
        notify.wait(self.pidfd.as_fd(), self.container.record.pid)
    }

    /// Has a thread wait for its end, which takes its mounts apart from then on, beside whatever else is cleared away. It is
    /// made while the container runs: a thread takes as long to begin as all cgroups take to be removed. From here on the
    /// caller has two.
    pub fn unmount_at_end(&mut self) {
        let Some(root) = self.root.take() else { return };
        // Where no descriptor or no thread is to be had, it is done with everything else.
        let Ok(pidfd) = self.pidfd.try_clone() else {
            self.root = Some(root);
            return;
        };
        let wait = move || {
            let ended = &mut [PollFd::new(&pidfd, PollFlags::IN)];
            while matches!(poll(ended, None), Err(rustix::io::Errno::INTR)) {}
            drop(root);
        };
        self.unmounting = std::thread::Builder::new().spawn(wait).ok();
    }

    /// Removes it when it has ended, as [`Container::delete`] does by force, with the same warnings.
    ///
    /// # Errors
    /// As of that.
    pub fn delete(self) -> Result<Vec<String>> {
        let Created { container, root, unmounting, .. } = self;
        drop(root);
        let deleted = container.delete(true);
        // It takes its mounts apart, and what it does cannot fail.
        let _ = unmounting.map(std::thread::JoinHandle::join);
        deleted
    }
}

/// What a first process on its way has become.
struct Made {
    container: Container,
    /// Its terminal, if the caller wants it.
    terminal: Option<OwnedFd>,
    watched: Option<Watched>,
}

/// Watches a process's exec, unless what it could get at thereby cannot be written.
fn watch_unless_protected(pid: i32) -> Result<Option<Watched>> {
    if super::is_protected() { Ok(None) } else { Watched::begin(pid).map(Some) }
}

/// Ends what was made when it is not wanted after all: a child that waits to be started, and its class of `resctrl`.
struct UnlessKept {
    child: Option<Child>,
    resctrl: Option<PathBuf>,
}

impl Drop for UnlessKept {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = rustix::process::pidfd_send_signal(child.pidfd(), rustix::process::Signal::KILL);
            if let Some(class) = &self.resctrl {
                let _ = std::fs::remove_dir(class);
            }
        }
    }
}

/// Whether a container runs without a cgroup that its user may not make: where nobody asked for a certain one.
fn may_do_without(spec: &Spec, create: &Create, error: &Error) -> bool {
    let denied = matches!(error.errno, Some(libc::EACCES | libc::EPERM | libc::EROFS));
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    denied
        && create.rootless.unwrap_or(!rustix::process::geteuid().is_root())
        && asked.is_none_or(|path| path.as_os_str().is_empty())
}

/// A first process on its way to where it waits.
struct Making<'c> {
    spec: &'c Spec,
    hold: &'c Hold,
    create: &'c Create,
    /// Who gets a pidfd of the first process besides the caller's socket.
    pidfd_receiver: Option<PathBuf>,
    warnings: Vec<String>,
    /// The runtime's hooks were called.
    hooked: bool,
}

impl Making<'_> {
    /// Clones it, and makes its cgroup while it mounts.
    fn first_process(&mut self, cgroup: &mut NewCgroup) -> Result<Child> {
        let (spec, create) = (self.spec, self.create);
        let linux = spec.linux().as_ref();
        let filter = linux.and_then(|linux| linux.seccomp().as_ref()).map(seccomp::compile).transpose()?;
        let wants_terminal = spec.process().as_ref().and_then(|process| process.terminal()) == Some(true);
        let streams =
            if wants_terminal { Streams::Terminal { size: console_size(spec) } } else { Streams::Inherited };
        let network_comes_later = self.network_comes_later();
        // A signal would have it stand still while it is traced, until somebody looks; it has its own back at the exec.
        let signals = sys::hold_signals().context(|| "hold signals back".into())?;
        let mut child = container::start(Start {
            spec,
            rootfs: &Rootfs::Path,
            filter: filter.as_ref(),
            streams,
            cgroup: cgroup.cgroup(),
            awaits_cgroup: true,
            is_moved: cgroup.moves(),
            init: false,
            awaits_network: network_comes_later,
            user: None,
            preserved: create.preserve_fds,
            keyring: !create.no_new_keyring,
            hold: Some(self.hold),
            no_pivot: create.no_pivot,
        })?;
        drop(signals);
        cgroup.place(child.pid())?;
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        self.warnings = cgroup.cgroup().complete(resources, Lacking::Refused)?;
        // Before it is let go on: it mounts what shows its network.
        net_devices::move_all(spec, child.pid())?;
        child.cgroup_is_there()?;
        if network_comes_later {
            child.give_network(container::make_network()?.as_fd())?;
        }
        Ok(child)
    }

    /// Whether the network namespace is made while the first process mounts: nobody but that one is shown it, and it does
    /// not belong to a user namespace of the container's.
    fn network_comes_later(&self) -> bool {
        let linux = self.spec.linux().as_ref();
        let mut own = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
        let is_new = own.any(|namespace| {
            namespace.typ() == LinuxNamespaceType::Network
                && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
        });
        is_new && self.asks_for_nothing() && linux.is_none_or(|linux| linux.net_devices().is_none())
    }

    /// Whether the first process asks its parent for nothing but its cgroup and its network: there are no hooks, nobody
    /// who answers its filter, no user namespace, and no ids of mounts to be mapped.
    fn asks_for_nothing(&self) -> bool {
        let linux = self.spec.linux().as_ref();
        let mut namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
        let answered = linux.and_then(|linux| linux.seccomp().as_ref()?.listener_path().as_ref()).is_some();
        let users = namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User);
        let mapped = self
            .spec
            .mounts()
            .iter()
            .flatten()
            .any(|mount| !matches!(container::is_mapped(mount), Ok(false)));
        self.spec.hooks().is_none() && !answered && !users && !mapped
    }

    /// Leads the first process to where it waits, and writes down what the container is.
    fn container(&mut self, unkept: &mut UnlessKept, mut file: NewFile, cgroup: &NewCgroup) -> Result<Made> {
        let Some(child) = &mut unkept.child else { unreachable!("the child was just put there") };
        let record = self.record(child, cgroup)?;
        unkept.resctrl.clone_from(&record.resctrl);
        // The first process mounts meanwhile.
        file.write_ahead(&record)?;
        let watched = self.let_go_early(child)?;
        let terminal = self.lead(child, cgroup.cgroup())?;
        if let Some(file) = &self.create.pid_file {
            write_pid(file, record.pid)?;
        }
        for socket in [&self.create.pidfd_socket, &self.pidfd_receiver].into_iter().flatten() {
            send_pidfd(socket, child.pidfd())?;
        }
        let (file, start) = file.keep()?;
        let container = Container { file, start, record, hooks: Some(self.spec.hooks().clone()) };
        Ok(Made { container, terminal, watched })
    }

    /// Where the exec is watched, a first process that asks for nothing any more need not wait for the start: it stands
    /// still behind the exec, and in between nobody wakes anybody.
    fn let_go_early(&self, child: &Child) -> Result<Option<Watched>> {
        if !self.create.starts || !self.asks_for_nothing() {
            return Ok(None);
        }
        // One that has ended already cannot be watched, and tells why when it is heard.
        let Ok(Some(watched)) = watch_unless_protected(child.pid()) else { return Ok(None) };
        child.let_go()?;
        Ok(Some(watched))
    }

    /// The specification has a failed creation end like a container; the error that led here is the one to tell.
    fn undo(&self, unkept: &UnlessKept) {
        if let (true, Some(hooks), Some(child)) = (self.hooked, self.spec.hooks(), &unkept.child) {
            let _ = rustix::process::pidfd_send_signal(child.pidfd(), rustix::process::Signal::KILL);
            hooks::run_each(hooks.poststop(), &self.hold.state("stopped", 0), "poststop");
        }
    }

    /// What is written down of the container.
    fn record(&self, child: &Child, cgroup: &NewCgroup) -> Result<Record> {
        let (hold, spec, pid) = (self.hold, self.spec, child.pid());
        let (pid_began, _) = state::process_began(pid).ok_or_else(|| {
            Error::refused(format!("create the container {}", hold.id), "its first process ended on its way")
        })?;
        let rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let resctrl = rdt.map(|rdt| intel_rdt::join(rdt, &hold.id, pid)).transpose()?.flatten();
        Ok(Record {
            oci_version: hold.version.clone(),
            id: hold.id.clone(),
            rootfs: rootfs(spec),
            bundle: hold.bundle.clone(),
            pid,
            pid_began,
            created: now(),
            owner: rustix::process::geteuid().as_raw(),
            cgroup: cgroup.cgroup().path().to_owned(),
            unit: cgroup.unit().map(str::to_owned),
            annotations: hold.annotations.clone(),
            resctrl,
            notify: self.create.notify.is_some(),
        })
    }

    /// Answers the first process until it waits. Returns its terminal, if the caller wants it.
    fn lead(&mut self, child: &mut Child, cgroup: &Cgroup) -> Result<Option<OwnedFd>> {
        let mut terminal = None;
        loop {
            let step = match child.step() {
                // It was killed before it had heard everything.
                Err(error) if error.errno == Some(libc::ECONNRESET) => return Err(killed(cgroup)),
                step => step.map_err(of_process)?,
            };
            match step {
                Step::Warning(warning) => self.warnings.push(warning),
                Step::Terminal(master) => match &self.create.console {
                    Some(Console::Socket(path)) => send_terminal(path, &master)?,
                    Some(Console::Caller) | None => terminal = Some(master),
                },
                Step::NeedsHooks => {
                    self.hooked = true;
                    let state = self.hold.state("creating", child.pid());
                    if let Some(hooks) = self.spec.hooks() {
                        run_hooks(hooks, "prestart", &state)?;
                        run_hooks(hooks, "createRuntime", &state)?;
                    }
                    child.hooks_are_done()?;
                }
                Step::Held => return Ok(terminal),
                Step::Running => return Err(killed(cgroup)),
                // It has been given, or is about to be.
                Step::NeedsNetwork => {}
            }
        }
    }
}

/// A failure that a new process has told of, in the words by which runc's callers know it from others.
pub(super) fn of_process(error: Error) -> Error {
    Error { doing: format!("unable to start container process: {}", error.doing), ..error }
}

/// Why a first process has ended without a word.
fn killed(cgroup: &Cgroup) -> Error {
    let for_memory = cgroup.oom_kills().is_ok_and(|kills| kills > 0);
    let reason = if for_memory {
        "its first process was killed for memory: the limit (linux.resources.memory) is too low to begin with"
    } else {
        "its first process was killed on its way"
    };
    Error::refused("create the container", reason)
}

/// Runs the configuration's hooks of one point, up to the first that fails; those of `poststop` see to [`hooks::run_each`].
pub(super) fn run_hooks(all: &Hooks, point: &str, state: &str) -> Result<()> {
    // Called by its name though it is deprecated: there are configurations that have it.
    #[allow(deprecated)]
    let hooks = match point {
        "prestart" => all.prestart(),
        "createRuntime" => all.create_runtime(),
        _ => all.poststart(),
    };
    hooks::run(hooks, state, point)
}

fn check_console(wants_terminal: bool, console: Option<&Console>) -> Result<()> {
    let doing = "the container's terminal";
    match (wants_terminal, console) {
        (true, None) => {
            let advice = "cannot allocate tty if hull will detach without setting console socket: say --console-socket";
            Err(Error::refused(doing, advice))
        }
        (false, Some(Console::Socket(_))) => {
            let advice =
                "cannot use console socket: the configuration asks for no terminal (process.terminal)";
            Err(Error::refused(doing, advice))
        }
        _ => Ok(()),
    }
}

/// Gives the container a socket to say at that it is ready, where somebody wants to hear it. Who starts it listens there:
/// this process, or a later one.
fn notify(spec: &mut Spec, file: &mut NewFile, create: &Create) -> Result<Option<Notify>> {
    let Some(host) = &create.notify else { return Ok(None) };
    file.notifies();
    notify::prepare(spec, file.start())?;
    if create.starts { Notify::listen(file.start(), host).map(Some) } else { Ok(None) }
}

fn console_size(spec: &Spec) -> Option<(u16, u16)> {
    let size = spec.process().as_ref()?.console_size()?;
    Some((u16::try_from(size.width()).ok()?, u16::try_from(size.height()).ok()?))
}

fn rootfs(spec: &Spec) -> PathBuf {
    spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default()
}

fn now() -> String {
    let mut text = Vec::new();
    crate::shim::log::rfc3339(&mut text, crate::shim::now_ns());
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes a process id, whole or not at all.
pub(super) fn write_pid(file: &Path, pid: i32) -> Result<()> {
    let doing = || format!("write the process id to {}", file.display());
    let name = file.file_name().ok_or_else(|| Error::refused(doing(), "this is no name of a file"))?;
    let temporary = file.with_file_name(format!(".{}", name.to_string_lossy()));
    // What lies there is of who was killed on the way, or a trap: nothing is written through it.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::kernel(doing(), error));
        }
        _ => {}
    }
    let mut new = std::fs::File::create_new(&temporary).context(doing)?;
    std::io::Write::write_all(&mut new, pid.to_string().as_bytes()).context(doing)?;
    std::fs::rename(&temporary, file).context(doing)
}
