//! Cgroups on v1, v2 and the hybrid of both: make, limit, read, freeze, kill and remove.
//!
//! A [`Cgroup`] is one path (`/hull/ID`) in every hierarchy of this machine that a container needs. It holds no
//! descriptor and no state: whoever knows the path can open it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags, inotify};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::Context;
use crate::{Error, Result};

mod devices;
mod figures;
mod files;
mod further;
mod handed;
mod hierarchy;
mod lacking;
mod limits;
mod memory;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use devices::for_systemd as devices_for_systemd;
use figures::Folders;
pub use figures::{Blkio, Figures};
pub(crate) use further::numbers_of;
pub use further::{Counted, Further};
pub use hierarchy::{Hierarchy, Mode as HierarchyMode, V1, hierarchy};
pub(crate) use lacking::Lacking;
pub(crate) use limits::{io_weight, weight_of_shares};
pub(crate) use memory::swap_alone;
pub use view::{Cpu, Io, Memory, Node, Pids, Swap, Usage, tree, usage_of_process};

/// How long the processes of a cgroup are waited for to freeze, or to be gone at its removal.
const PATIENCE: Duration = Duration::from_secs(10);

/// One path in every hierarchy of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: String,
}

/// A folder of a cgroup as the container sees it.
pub(crate) struct Folder {
    /// The name of a v1 hierarchy's folder; none for the v2 hierarchy.
    pub(crate) name: Option<String>,
    /// Where it is on the host.
    pub(crate) path: PathBuf,
}

impl Cgroup {
    /// Makes the folders of `path` in every hierarchy and sets the limits. What the machine does not have is
    /// a warning in Docker's words. On failure nothing is left.
    pub fn create(path: &str, resources: Option<&LinuxResources>) -> Result<(Cgroup, Vec<String>)> {
        let cgroup = Cgroup::begin(path)?;
        match cgroup.complete(resources, Lacking::Warned) {
            Ok(warnings) => Ok((cgroup, warnings)),
            Err(error) => {
                // The first error is the one to tell.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// The first half of [`Cgroup::create`]: the folder that a process can be cloned into. The other half, which takes
    /// longer, can be done beside that process. On failure nothing is left.
    pub(crate) fn begin(path: &str) -> Result<Cgroup> {
        let cgroup = Cgroup::at(path)?;
        let hierarchy = hierarchy();
        if hierarchy.v1.is_empty() && hierarchy.unified.is_none() {
            let advice = "no cgroup hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup";
            return Err(Error::refused(format!("make the cgroup {path}"), advice));
        }
        if let Some(unified) = &hierarchy.unified
            && let Err(error) = cgroup.make_unified(unified, &hierarchy.unified_controllers)
        {
            // The first error is the one to tell.
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// The other half: the folders of the v1 hierarchies, and the limits. On failure the caller removes it.
    pub(crate) fn complete(
        &self,
        resources: Option<&LinuxResources>,
        lacking: Lacking,
    ) -> Result<Vec<String>> {
        for v1 in self.used() {
            self.make_v1(v1)?;
        }
        match resources {
            Some(resources) => limits::set(self, resources, limits::When::Create, lacking),
            None => Ok(Vec::new()),
        }
    }

    /// Makes a cgroup of one folder: in the v2 hierarchy, or where there is none in the first of v1. It groups processes, so
    /// that they can be found and killed together, and neither counts nor limits anything. What it is below must be there.
    pub fn leaf(path: &str) -> Result<Cgroup> {
        let cgroup = Cgroup::at(path)?;
        let doing = || format!("make the cgroup {path}");
        let Some(folder) = cgroup.everywhere().next() else {
            return Err(Error::refused(doing(), "no cgroup hierarchy is mounted"));
        };
        rustix::fs::mkdir(&folder, Mode::from_raw_mode(0o755)).context(doing)?;
        Ok(cgroup)
    }

    /// Removes a [`Cgroup::leaf`]; false: there are processes in it.
    pub fn remove_leaf(&self) -> bool {
        let removed = |folder| rustix::fs::rmdir(folder) != Err(rustix::io::Errno::BUSY);
        self.everywhere().next().is_none_or(removed)
    }

    /// Moves the calling thread into a [`Cgroup::leaf`], where it was not cloned into it.
    pub(crate) fn join_leaf_self(&self) -> Result<()> {
        match (&hierarchy().unified, hierarchy().used().next()) {
            (None, Some(v1)) => write_process(&self.in_folder(&v1.folder).join("tasks"), 0),
            _ => Ok(()),
        }
    }

    /// No cgroup of one's own, for who may make none: what is in it is where its maker is, and it limits and counts
    /// nothing.
    pub(crate) fn nowhere() -> Cgroup {
        Cgroup { path: String::new() }
    }

    fn is_somewhere(&self) -> bool {
        !self.path.is_empty()
    }

    /// The v1 hierarchies in which it has a folder.
    fn used(&self) -> impl Iterator<Item = &'static V1> + '_ {
        hierarchy().used().filter(|_| self.is_somewhere())
    }

    /// The cgroup at `path`, which must be there in at least one hierarchy.
    pub fn open(path: &str) -> Result<Cgroup> {
        let cgroup = Cgroup::at(path)?;
        if cgroup.everywhere().any(|folder| folder.is_dir()) {
            return Ok(cgroup);
        }
        Err(Error::kernel(format!("open the cgroup {path}"), io::Error::from_raw_os_error(libc::ENOENT)))
    }

    /// The cgroup at `path`, whether it is there or not.
    pub(crate) fn at(path: &str) -> Result<Cgroup> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
        if !path.starts_with('/') || parts.is_empty() || !parts.iter().all(plain) {
            let advice = "a cgroup's path is absolute, below the root, and plain";
            return Err(Error::refused(format!("cgroup {path:?}"), advice));
        }
        Ok(Cgroup { path: path.to_owned() })
    }

    /// Its path, as given; empty for none.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn in_folder(&self, hierarchy: &Path) -> PathBuf {
        hierarchy.join(&self.path[1..])
    }

    /// Its folders in all hierarchies, the v2 one first: what waits for its end waits there.
    fn everywhere(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let v1 = self.used().map(|v1| self.in_folder(&v1.folder));
        self.unified().into_iter().chain(v1)
    }

    /// Its folders as the container is shown them.
    pub(crate) fn folders(&self) -> Vec<Folder> {
        let named = |v1: &V1| {
            let name = v1.folder.file_name().map(|name| name.to_string_lossy().into_owned());
            Folder { name, path: self.in_folder(&v1.folder) }
        };
        let v1 = self.used().map(named);
        v1.chain(self.unified().map(|path| Folder { name: None, path })).collect()
    }

    fn make_v1(&self, v1: &V1) -> Result<()> {
        let cpuset = v1.controllers.iter().any(|controller| controller == "cpuset");
        self.make_in(
            &v1.folder,
            |folder, parent| if cpuset { inherit_cpuset(folder, parent) } else { Ok(()) },
        )
    }

    fn make_unified(&self, unified: &Path, controllers: &[String]) -> Result<()> {
        self.make_in(unified, |_, parent| handed::down(parent, controllers))
    }

    /// Makes the folder, with those above it, each of which `fit` fits to its parent. On the way of a container
    /// only the last is made.
    fn make_in(&self, hierarchy: &Path, fit: impl Fn(&Path, &Path) -> io::Result<()>) -> Result<()> {
        let folder = self.in_folder(hierarchy);
        let doing = |folder: &Path| format!("make the cgroup {}", folder.display());
        let make = |folder: &Path| rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755));
        let mut todo = vec![folder.as_path()];
        while let Some(folder) = todo.pop() {
            let parent = folder.parent().unwrap_or(hierarchy);
            match make(folder) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => fit(folder, parent).context(|| doing(folder))?,
                Err(rustix::io::Errno::NOENT) if parent != hierarchy => todo.extend([folder, parent]),
                Err(error) => return Err(Error::kernel(doing(folder), error)),
            }
        }
        Ok(())
    }

    /// Moves the calling process into it, in every hierarchy. The process must have one thread.
    pub fn join_self(&self) -> Result<()> {
        self.join_v1_self()?;
        match self.unified() {
            Some(folder) => write_process(&folder.join("cgroup.procs"), 0),
            None => Ok(()),
        }
    }

    /// Moves the calling thread in the v1 hierarchies. By `tasks` and not by `cgroup.procs`: for a thread that
    /// moves itself the kernel need not stop all forks and exits of the machine.
    pub(crate) fn join_v1_self(&self) -> Result<()> {
        for v1 in self.used() {
            write_process(&self.in_folder(&v1.folder).join("tasks"), 0)?;
        }
        Ok(())
    }

    /// The folder of the cgroup `below` this one (a path that begins with a slash, or nothing) in a controller's v1
    /// hierarchy; none where it has none there.
    pub(crate) fn v1_below(&self, controller: &str, below: &str) -> Option<PathBuf> {
        let named = |v1: &&V1| {
            v1.controllers
                .iter()
                .any(|own| own.trim_start_matches("name=") == controller.trim_start_matches("name="))
        };
        let v1 = self.used().find(named)?;
        Some(v1.folder.join(format!("{}{below}", &self.path[1..])))
    }

    /// Moves the calling thread into a folder of a v1 hierarchy.
    pub(crate) fn join_folder_self(folder: &Path) -> Result<()> {
        write_process(&folder.join("tasks"), 0)
    }

    /// Moves a process in the v1 hierarchies.
    pub(crate) fn add_v1(&self, pid: i32) -> Result<()> {
        for v1 in self.used() {
            write_process(&self.in_folder(&v1.folder).join("cgroup.procs"), pid)?;
        }
        Ok(())
    }

    /// Lets somebody else divide it, on v2: make cgroups below it and move its processes among them. Its own limits stay
    /// out of their reach. v1 has no such thing.
    pub(crate) fn delegate(&self, (uid, gid): (u32, u32)) -> Result<()> {
        let Some(folder) = self.unified() else { return Ok(()) };
        let known = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
        let listed =
            std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| known.to_owned());
        for name in std::iter::once("").chain(listed.lines()) {
            let path = if name.is_empty() { folder.clone() } else { folder.join(name) };
            match std::os::unix::fs::chown(&path, Some(uid), Some(gid)) {
                // A controller that is not there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !name.is_empty() => {}
                changed => changed.context(|| format!("delegate {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Moves a process into it, in every hierarchy.
    pub fn add(&self, pid: i32) -> Result<()> {
        for folder in self.everywhere() {
            write_process(&folder.join("cgroup.procs"), pid)?;
        }
        Ok(())
    }

    /// Puts a process into it that somebody else has made, and what that has started since: in each hierarchy where it is
    /// not in it, or below it, already. What has ended meanwhile is nowhere.
    pub(crate) fn adopt(&self, pid: i32) -> Result<()> {
        let mut known = std::collections::BTreeSet::new();
        // Until a look finds none that has not been moved: what a moved process starts, starts in here.
        loop {
            let fresh: Vec<i32> =
                family(pid).into_iter().filter(|process| !known.contains(process)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for process in fresh {
                self.adopt_one(process)?;
                known.insert(process);
            }
        }
    }

    fn adopt_one(&self, pid: i32) -> Result<()> {
        for folder in self.everywhere().filter(|folder| folder.is_dir()) {
            let mut inside = Vec::new();
            processes_below(&folder, &mut inside)
                .context(|| format!("list the processes of cgroup {}", self.path))?;
            if inside.contains(&pid) {
                continue;
            }
            match write_process(&folder.join("cgroup.procs"), pid) {
                Err(error) if error.errno == Some(libc::ESRCH) => return Ok(()),
                written => written?,
            }
        }
        Ok(())
    }

    /// Its folder in the v2 hierarchy, for `clone3` into it.
    pub(crate) fn open_unified(&self) -> Result<Option<OwnedFd>> {
        self.unified().map(|folder| open_folder(&folder)).transpose()
    }

    /// Sets new limits; what `resources` does not name stays. Device rules are not changed. What this machine does not
    /// have is left out: whoever calls has told of it.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        limits::set(self, resources, limits::When::Update, Lacking::Warned).map(drop)
    }

    /// [`Cgroup::update`] for who relies on each limit: one that this machine cannot hold is an error. Returns what else
    /// is not heeded.
    pub(crate) fn update_whole(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        limits::set(self, resources, limits::When::Update, Lacking::Refused)
    }

    /// Stops every process in it, and returns when they stand still.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets them run again.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let doing = || format!("{} the cgroup {}", if frozen { "freeze" } else { "thaw" }, self.path);
        if let Some(folder) = self.unified() {
            files::write(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" }).context(doing)?;
            return wait_for_event(&folder, "frozen", u64::from(frozen)).context(doing);
        }
        let Some(folder) = self.v1("freezer") else {
            return Err(Error::refused(doing(), "this machine has neither a v2 hierarchy nor the freezer"));
        };
        let state = folder.join("freezer.state");
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let deadline = Instant::now() + PATIENCE;
        // The v1 freezer tells nobody; a fork may slip through, so the word is repeated until it holds.
        loop {
            files::write(&state, wanted).context(doing)?;
            if files::text(&state).context(doing)?.trim() == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::refused(doing(), "its processes do not stand still"));
            }
            rustix::thread::sched_yield();
        }
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        let doing = || format!("look whether the cgroup {} is frozen", self.path);
        if let Some(folder) = self.unified() {
            return Ok(files::text(&folder.join("cgroup.freeze")).context(doing)?.trim() == "1");
        }
        let Some(folder) = self.v1("freezer") else { return Ok(false) };
        let state = files::text(&folder.join("freezer.state")).context(doing)?;
        // A leaf is not in the freezer's hierarchy, and stands still with what it is below.
        Ok(!matches!(state.trim(), "" | "THAWED"))
    }

    /// Every process in it and in the cgroups below it, in the order of their ids. A cgroup that is gone has
    /// none.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let Some(folder) = self.everywhere().next() else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        processes_below(&folder, &mut pids)
            .context(|| format!("list the processes of cgroup {}", self.path))?;
        pids.sort_unstable();
        Ok(pids)
    }

    /// Kills every process in it and below it, frozen ones too. Returns when the signals are sent, not when
    /// they are all gone.
    pub fn kill_all(&self) -> Result<()> {
        let doing = || format!("kill the processes of cgroup {}", self.path);
        if let Some(folder) = self.unified() {
            match files::write(&folder.join("cgroup.kill"), "1") {
                // Before Linux 5.14, or the cgroup is gone already.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => return result.context(doing),
            }
        }
        // One by one, until a look finds none that has not been killed: a fork may have slipped through.
        let mut killed = std::collections::BTreeSet::new();
        loop {
            let fresh: Vec<i32> = self.processes()?.into_iter().filter(|pid| !killed.contains(pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                kill(pid).context(doing)?;
                killed.insert(pid);
            }
        }
        // On v1 a frozen process dies only when it thaws.
        if self.unified().is_none() && self.is_frozen()? { self.thaw() } else { Ok(()) }
    }

    /// What it uses.
    pub fn figures(&self) -> Result<Figures> {
        figures::read(self).context(|| format!("read the figures of cgroup {}", self.path))
    }

    /// What it uses of swap, of the kernel's memory and of huge pages, where that is counted.
    pub fn further_figures(&self) -> Result<Further> {
        further::read(self).context(|| format!("read the figures of cgroup {}", self.path))
    }

    /// How many processes the kernel killed here for memory.
    pub fn oom_kills(&self) -> Result<u64> {
        let file = match (self.v1("memory"), self.v2("memory")) {
            (Some(folder), _) => folder.join("memory.oom_control"),
            (None, Some(folder)) => folder.join("memory.events"),
            (None, None) => return Ok(0),
        };
        let text = files::text(&file).context(|| format!("read {}", file.display()))?;
        Ok(files::keyed(&text, "oom_kill").unwrap_or(0))
    }

    /// How often its own limit of memory led to a kill, and nobody else's; none: the kernel does not count that, as on v1,
    /// or before Linux 5.2.
    pub(crate) fn own_memory_ends(&self) -> Option<u64> {
        let text = files::text(&self.v2("memory")?.join("memory.events.local")).ok()?;
        files::keyed(&text, "oom")
    }

    /// Whether its memory is accounted for on v1.
    pub(crate) fn has_memory_v1(&self) -> bool {
        self.v1("memory").is_some()
    }

    /// How often a new process was refused for its limit; none: the kernel does not tell.
    pub(crate) fn forks_refused(&self) -> Option<u64> {
        let folder = self.v1("pids").or_else(|| self.v2("pids"))?;
        files::keyed(&files::text(&folder.join("pids.events")).ok()?, "max")
    }

    /// Those that it is below, the nearest first, without the roots.
    pub(crate) fn above(&self) -> impl Iterator<Item = Cgroup> + '_ {
        let paths = std::iter::successors(self.path.rsplit_once('/'), |(path, _)| path.rsplit_once('/'));
        paths
            .map(|(path, _)| path)
            .filter(|path| !path.is_empty())
            .map(|path| Cgroup { path: path.to_owned() })
    }

    /// How long its processes stood waiting for a resource (`cpu`, `memory`, `io`), in the words of the kernel's
    /// `psi.rst`; none where the hierarchy or the kernel does not count that.
    pub fn pressure(&self, resource: &str) -> Option<String> {
        files::text(&self.unified()?.join(format!("{resource}.pressure"))).ok()
    }

    /// Processor time used so far, in nanoseconds.
    pub fn cpu_time_ns(&self) -> Result<u64> {
        figures::cpu_time_ns(self).context(|| format!("read the processor time of cgroup {}", self.path))
    }

    /// Removes it from all hierarchies, with the cgroups that were made below it. Its processes must be dead
    /// or dying: what still dies is waited for, ten seconds at most. One that is not there is removed.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut first = Ok(());
        for folder in self.everywhere() {
            let removed = remove_tree(&folder, deadline).context(|| format!("remove {}", folder.display()));
            first = first.and(removed);
        }
        first
    }

    /// Removes its folders in those hierarchies where it makes none itself: another runtime may have.
    pub fn remove_elsewhere(&self) {
        let is_used = |v1: &V1| hierarchy().used().any(|used| used == v1);
        let deadline = Instant::now() + PATIENCE;
        for v1 in hierarchy().v1.iter().filter(|v1| self.is_somewhere() && !is_used(v1)) {
            // It costs a folder, and holds nobody whom the others do not: what cannot be removed stays.
            let _ = remove_tree(&self.in_folder(&v1.folder), deadline);
        }
    }

    /// Removes its folders in which there is nothing.
    pub fn remove_if_empty(&self) {
        for folder in self.everywhere() {
            // One that is in use stays.
            let _ = rustix::fs::rmdir(folder);
        }
    }

    /// A descriptor that tells of the kernel's kills for memory; none where there is no memory controller.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>> {
        let doing = || format!("watch the cgroup {} for kills for memory", self.path);
        if let Some(folder) = self.v1("memory") {
            let control = folder.join("memory.oom_control");
            let control =
                rustix::fs::open(control, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(doing)?;
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context(doing)?;
            use std::os::fd::AsRawFd;
            let registration = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
            files::write(&folder.join("cgroup.event_control"), &registration).context(doing)?;
            return Ok(Some(OomWatch { fd, events: PollFlags::IN }));
        }
        let Some(folder) = self.v2("memory") else { return Ok(None) };
        let fd =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).context(doing)?;
        inotify::add_watch(&fd, folder.join("memory.events"), inotify::WatchFlags::MODIFY).context(doing)?;
        Ok(Some(OomWatch { fd, events: PollFlags::IN }))
    }
}

impl Folders for Cgroup {
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        hierarchy().v1_of(controller).filter(|_| self.is_somewhere()).map(|v1| self.in_folder(&v1.folder))
    }

    fn unified(&self) -> Option<PathBuf> {
        hierarchy().unified.as_ref().filter(|_| self.is_somewhere()).map(|unified| self.in_folder(unified))
    }
}

/// Tells of the kernel's kills for memory.
///
/// When polled ready, read `fd` empty (it does not block), then ask [`Cgroup::oom_kills`] for the count: not
/// every event is a kill, and on v1 the event comes just before the kill is counted, so ask once more when a
/// process has ended. On v1 `fd` is an eventfd (8 bytes a read), which also fires when the cgroup is removed;
/// on v2 an inotify descriptor.
#[derive(Debug)]
pub struct OomWatch {
    /// What to poll.
    pub fd: OwnedFd,
    /// For what to poll it.
    pub events: PollFlags,
}

impl OomWatch {
    /// Reads it empty. How often it told of something since the last time, which only v1 says.
    pub(crate) fn take(&self) -> u64 {
        let mut events = [0_u8; 512];
        match rustix::io::read(&self.fd, &mut events) {
            // An eventfd's count; inotify's records are longer.
            Ok(8) => u64::from_ne_bytes(*events.first_chunk().unwrap_or(&[0; 8])),
            _ => 0,
        }
    }
}

/// The folder, in the v2 hierarchy, of the cgroup that a process is in.
pub(crate) fn unified_folder_of(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(unified) = &hierarchy().unified else { return Ok(None) };
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&file).context(|| format!("read {file}"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(|path| open_folder(&unified.join(path))).transpose()
}

fn open_folder(folder: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty()).context(|| format!("open the cgroup {}", folder.display()))
}

fn write_process(file: &Path, pid: i32) -> Result<()> {
    files::write(file, &pid.to_string()).context(|| format!("join the cgroup by {}", file.display()))
}

/// A v1 cpuset begins empty, and nothing runs in an empty one: it gets its parent's, and hands it on by itself
/// to those made below it. The parent may be empty as well for a moment, when someone else is just making it.
fn inherit_cpuset(folder: &Path, parent: &Path) -> io::Result<()> {
    let of = |folder: &Path, file: &str| {
        Ok::<String, io::Error>(files::text(&folder.join(file))?.trim().to_owned())
    };
    // The memory nodes are written last: where they are, all is.
    if !of(folder, "cpuset.mems")?.is_empty() {
        return Ok(());
    }
    // A hierarchy's root, which has no such folder above it, is never empty.
    if of(parent, "cpuset.mems")?.is_empty()
        && let Some(above) = parent.parent()
    {
        inherit_cpuset(parent, above)?;
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        files::write(&folder.join(file), &of(parent, file)?)?;
    }
    files::write(&folder.join("cgroup.clone_children"), "1")
}

fn processes_below(folder: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = files::text(&folder.join("cgroup.procs"))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in folders_below(folder)? {
        processes_below(&below, pids)?;
    }
    Ok(())
}

fn folders_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
    }
    Ok(folders)
}

/// A process and all that came of it, as far as their parents live.
fn family(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        next += 1;
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    family
}

fn kill(pid: i32) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    match pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| pidfd_send_signal(pidfd, Signal::KILL)) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a key of `cgroup.events` has a value; the kernel tells of every change.
fn wait_for_event(folder: &Path, key: &str, value: u64) -> io::Result<()> {
    let file =
        rustix::fs::open(folder.join("cgroup.events"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut text = [0; 256];
        let length = rustix::io::pread(&file, &mut text, 0)?;
        if files::keyed(&String::from_utf8_lossy(&text[..length]), key) == Some(value) {
            return Ok(());
        }
        wait_for(file.as_fd(), PollFlags::PRI, deadline)?;
    }
}

fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    match poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&left)) {
        Ok(0) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn remove_tree(folder: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match rustix::fs::rmdir(folder) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
        for below in folders_below(folder)? {
            remove_tree(&below, deadline)?;
        }
        // Whoever is still in it: the end of one of them is what can change the answer.
        let text = files::text(&folder.join("cgroup.procs"))?;
        match text.lines().find_map(|line| line.parse().ok()).and_then(Pid::from_raw) {
            Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => wait_for(pidfd.as_fd(), PollFlags::IN, deadline)?,
                Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            },
            None => rustix::thread::sched_yield(),
        }
        if Instant::now() > deadline {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
    }
}
