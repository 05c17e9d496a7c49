//! The mounts of the configuration. Each is made detached ([`prepare`]), while the host's paths are still
//! there, and then moved onto its destination, which is resolved beneath the root ([`Prepared::attach`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, open_tree,
};
use rustix::{fs, io};

use super::inroot::{self, Kind};
use super::options::{self, NODEV, NOEXEC, NOSUID, Options, RDONLY};
use super::report::Teller;
use super::{copyup, labels, mapped, outside, root, sysctl};
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::sys::{self, MountAttr};
use crate::{Error, Result};

/// The option by which the engine names a part of a bind's source, a volume: `x-hull.subpath=a/b`. Whoever writes it gets
/// less than the source and never more: links in it start at the source and do not lead out of it.
pub const SUBPATH: &str = "x-hull.subpath";

/// The type of a mount that shows layers of the engine's, merged: `lowerdir=` for each, uppermost first, and `upperdir=` and
/// `workdir=` for what is written; [`SUBPATH`] where a part of them is meant.
pub const LAYERS: &str = "x-hull.layers";

/// A mount that has a destination, but is not there yet.
pub(super) struct Prepared {
    destination: PathBuf,
    kind: Kind,
    tree: Tree,
    options: Options,
}

enum Tree {
    /// A detached mount.
    Detached(OwnedFd),
    /// A file system of which the context must be made in the network namespace: made when it is attached.
    Sysfs,
    /// What is there already, with other options.
    Remount,
    /// The container's cgroups, which may not be there yet: [`with_cgroups`].
    OfCgroups,
    /// A tmpfs, and a read-only view of the container's own cgroup in each v1 hierarchy.
    Cgroups { tmpfs: OwnedFd, views: Vec<(PathBuf, OwnedFd)> },
}

/// Mounts which can be attached at once, and those which cannot, with what lies below them: `sysfs`, which shows the
/// network namespace that it is mounted in, and the cgroups, which are made meanwhile.
pub(super) struct Sorted {
    pub(super) now: Vec<Prepared>,
    pub(super) later: Vec<Prepared>,
}

/// Prepares every mount of the configuration, in its order; the trees of binds come from outside where that is given.
pub(super) fn prepare_all(spec: &Spec, from_outside: Option<&Teller>) -> Result<Sorted> {
    let trees = from_outside.map_or(Trees::Here, Trees::Outside);
    let mut sorted = Sorted { now: Vec::new(), later: Vec::new() };
    for mount in spec.mounts().iter().flatten() {
        let prepared = prepare(mount, spec, trees)?;
        let waits = matches!(prepared.tree, Tree::Sysfs | Tree::OfCgroups)
            || sorted.later.iter().any(|other| prepared.destination.starts_with(&other.destination));
        if waits { sorted.later.push(prepared) } else { sorted.now.push(prepared) }
    }
    Ok(sorted)
}

/// Prepares those of the mounts that show the cgroups, which are there now.
pub(super) fn with_cgroups(mounts: Vec<Prepared>, cgroup: &Cgroup) -> Result<Vec<Prepared>> {
    let prepare = |mount: Prepared| match mount.tree {
        Tree::OfCgroups => {
            let tree = cgroups(&mount.destination, &mount.options, cgroup)?;
            Ok(Prepared { tree, ..mount })
        }
        _ => Ok(mount),
    };
    mounts.into_iter().map(prepare).collect()
}

/// Prepares the mounts of what is on the disk alone (binds, and layers of images), for a look at a container that does not run.
pub(super) fn prepare_view(spec: &Spec) -> Result<Vec<Prepared>> {
    let is_on_disk =
        |mount: &&Mount| mount.typ().as_deref() == Some(LAYERS) || is_bind(mount, &parsed(mount, spec));
    let mounts = spec.mounts().iter().flatten().filter(is_on_disk);
    mounts.map(|mount| prepare(mount, spec, Trees::AsInside)).collect()
}

/// A mount's options, with the label of its files.
pub(super) fn parsed(mount: &Mount, spec: &Spec) -> Options {
    let mut options = options::parse(mount.options().as_deref().unwrap_or_default());
    options.context = labels::of_mount(mount, &options, spec);
    options
}

/// Where the trees of binds and of layers come from.
#[derive(Clone, Copy)]
enum Trees<'t> {
    /// From the host's paths, as they are.
    Here,
    /// From the parent, which may map their ids.
    Outside(&'t Teller),
    /// From the host's paths, with ids as they are told inside, where that can be.
    AsInside,
}

impl Trees<'_> {
    fn of_bind(self, mount: &Mount, options: &Options) -> Result<OwnedFd> {
        match self {
            Trees::Here => bind_tree(mount, options),
            Trees::Outside(parent) => parent.tree(),
            Trees::AsInside => match outside::bind_tree(mount, options, None) {
                // Files that cannot be told as they are inside are told as they are outside.
                Err(error) if error.errno == Some(libc::EINVAL) => bind_tree(mount, options),
                tree => tree,
            },
        }
    }

    fn of_layers(self, mount: &Mount, options: &Options) -> Result<OwnedFd> {
        match self {
            Trees::Here | Trees::AsInside => layers(mount.destination(), options, None),
            Trees::Outside(parent) => parent.tree(),
        }
    }
}

/// The tree of a mount that another runtime is to be shown as a plain folder or file, and the mount in words that it knows;
/// none where it mounts that itself. So are those that only hull's own words describe (a part of a volume, mapped ids,
/// layers), and in a user namespace (`owner`) every bind: its source may lie where root inside may not go.
pub(crate) fn tree_for_another(
    mount: &mut Mount,
    spec: &Spec,
    owner: Option<&mapped::Owner>,
) -> Result<Option<OwnedFd>> {
    let words = mount.options().clone().unwrap_or_default();
    let options = parsed(mount, spec);
    let (own, tree) = if mount.typ().as_deref() == Some(LAYERS) {
        let own: &[&str] = &["lowerdir", "upperdir", "workdir", SUBPATH];
        (own, layers(mount.destination(), &options, owner)?)
    } else {
        let has_part = options.data.iter().any(|(key, _)| key == SUBPATH);
        let is_mapped = options.id_map.is_some() || mount.uid_mappings().is_some();
        if !is_bind(mount, &options) || !(has_part || is_mapped || owner.is_some()) {
            return Ok(None);
        }
        let own: &[&str] = &["idmap", "ridmap", SUBPATH];
        (own, outside::bind_tree(mount, &options, owner.map(mapped::Owner::namespace))?)
    };
    let is_common = |word: &String| word.split('=').next().is_none_or(|key| !own.contains(&key));
    let mut words: Vec<String> = words.into_iter().filter(is_common).collect();
    if options.bind.is_none() {
        words.push("rbind".to_owned());
    }
    mount.set_typ(Some("bind".to_owned()));
    mount.set_options(Some(words));
    mount.set_uid_mappings(None);
    mount.set_gid_mappings(None);
    Ok(Some(tree))
}

/// Whether the configuration binds something to `/dev` itself; then nothing is added to it.
pub(super) fn binds_dev(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let options = options::parse(mount.options().as_deref().unwrap_or_default());
        mount.destination().components().eq(Path::new("/dev").components()) && is_bind(mount, &options)
    })
}

pub(super) fn is_bind(mount: &Mount, options: &Options) -> bool {
    !options.remount && (options.bind.is_some() || mount.typ().as_deref() == Some("bind"))
}

fn prepare(mount: &Mount, spec: &Spec, trees: Trees<'_>) -> Result<Prepared> {
    let mut options = parsed(mount, spec);
    options.mode_of_place =
        mount.typ().as_deref() == Some("tmpfs") && options.data.iter().all(|(key, _)| key != "mode");
    let destination = mount.destination();
    if destination.components().eq(Path::new("/").components()) {
        return Err(Error::refused("mount on /", "a mount cannot replace the container's root"));
    }
    if options.remount {
        let destination = destination.clone();
        return Ok(Prepared { destination, kind: Kind::Folder, tree: Tree::Remount, options });
    }
    if is_bind(mount, &options) {
        let tree = trees.of_bind(mount, &options)?;
        return bind(mount, options, tree);
    }
    let kind = Kind::Folder;
    let destination = destination.clone();
    let tree = match mount.typ().as_deref().unwrap_or_default() {
        "" => {
            return Err(Error::refused(doing("a mount", &destination), "it has neither a type nor a source"));
        }
        "sysfs" => Tree::Sysfs,
        "cgroup" | "cgroup2" => Tree::OfCgroups,
        LAYERS => {
            let tree = trees.of_layers(mount, &options)?;
            // A part of them may be a file.
            return bind(mount, options, tree);
        }
        kind => {
            let tree = file_system(kind, mount.source().as_deref(), &destination, &options)?;
            labels::label_queues(kind, tree.as_fd(), spec)?;
            Tree::Detached(tree)
        }
    };
    Ok(Prepared { destination, kind, tree, options })
}

fn is_procfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fs::fstatfs(file)?.f_type as u64 == sysctl::PROC_SUPER_MAGIC)
}

/// The mount that a file was opened on: the same file system may be mounted elsewhere too.
fn mount_id(file: BorrowedFd<'_>) -> io::Result<u64> {
    let flags = fs::AtFlags::EMPTY_PATH;
    Ok(fs::statx(file, "", flags, fs::StatxFlags::MNT_ID)?.stx_mnt_id)
}

fn doing(what: &str, destination: &Path) -> String {
    format!("mount {what} on {}", destination.display())
}

/// A detached mount of a new file system.
pub(super) fn file_system(
    kind: &str,
    source: Option<&Path>,
    destination: &Path,
    options: &Options,
) -> Result<OwnedFd> {
    let doing = || doing(kind, destination);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).context(doing)?;
    let failed = |error: io::Errno| Error::kernel(doing(), error).advise(root::said(context.as_fd()));
    if let Some(source) = source {
        fsconfig_set_string(&context, "source", source).map_err(failed)?;
    }
    for (key, value) in parameters(options) {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, key),
        };
        if set == Err(io::Errno::INVAL) && is_passed_over(key, options) {
            // What the kernel has said of it is not said of what comes behind it.
            root::said(context.as_fd());
            continue;
        }
        set.map_err(|error| {
            let word = value.map_or(key.to_owned(), |value| format!("{key}={value}"));
            Error::kernel(format!("{}, option {word:?}", doing()), error).advise(root::said(context.as_fd()))
        })?;
    }
    fsconfig_create(&context).map_err(failed)?;
    // A tmpfs that gets something from its place must be written first; see `Prepared::attach`.
    let later = if options.copy_up || options.mode_of_place { RDONLY } else { 0 };
    let attributes = MountAttrFlags::from_bits_retain((options.attributes.set & !later) as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

/// What a file system is told: the kernel's own words first.
fn parameters(options: &Options) -> impl Iterator<Item = (&str, Option<&str>)> {
    let own = options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
    let context = options.context.as_deref().map(|label| ("context", Some(label)));
    options.file_system.iter().map(|word| (word.as_str(), None)).chain(own).chain(context)
}

/// Whether a file system may not know a word: `mount(2)` has a flag for each of these, and passes it over where it means
/// nothing.
fn is_passed_over(key: &str, options: &Options) -> bool {
    matches!(key, "iversion" | "noiversion" | "acl" | "noacl")
        && options.file_system.iter().any(|word| word == key)
}

/// Those of a bind's options that no bind has, and that are not hull's own words.
pub(crate) fn not_of_a_bind(mount: &Mount) -> Vec<String> {
    let words = mount.options().as_deref().unwrap_or_default();
    let options = options::parse(words);
    if !is_bind(mount, &options) {
        return Vec::new();
    }
    let is_unknown = |word: &&String| {
        let key = word.split('=').next().unwrap_or_default();
        key != SUBPATH && options.data.iter().any(|(other, _)| other == key)
    };
    words.iter().filter(is_unknown).cloned().collect()
}

/// A detached overlay of layers, with the ids of a container in a user namespace where there is such an owner.
pub(super) fn layers(
    destination: &Path,
    options: &Options,
    owner: Option<&mapped::Owner>,
) -> Result<OwnedFd> {
    let named = |name: &str| {
        let paths =
            options.data.iter().filter(|(key, _)| key == name).filter_map(|(_, value)| value.as_ref());
        paths.map(PathBuf::from).collect::<Vec<_>>()
    };
    let (Some(upper), Some(work)) = (named("upperdir").pop(), named("workdir").pop()) else {
        return Err(Error::refused(doing("layers", destination), "it has no upperdir or no workdir"));
    };
    let lower = named("lowerdir");
    let label = options.context.as_deref();
    let tree = match owner {
        Some(owner) => mapped::overlay(&lower, &upper, &work, label, owner)?,
        None => root::overlay(&lower, &upper, &work, label)?,
    };
    let attributes = MountAttr::flags(options.attributes.set, options.attributes.clear);
    sys::mount_setattr(tree.as_fd(), false, &attributes).context(|| doing("layers", destination))?;
    let Some(part) = named(SUBPATH).pop() else { return Ok(tree) };
    // They are merged here for this mount alone: nobody else changes the way to the part.
    let part = inroot::open(tree.as_fd(), &part, OFlags::PATH).context(|| doing("layers", destination))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(part, "", flags | OpenTreeFlags::AT_EMPTY_PATH).context(|| doing("layers", destination))
}

/// A detached copy of a part of the host's tree, as a bind's options want it.
pub(super) fn bind_tree(mount: &Mount, options: &Options) -> Result<OwnedFd> {
    let destination = mount.destination();
    let Some(source) = mount.source() else {
        return Err(Error::refused(doing("a bind", destination), "it has no source"));
    };
    let doing = || doing(&source.display().to_string(), destination);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.bind.unwrap_or(true) {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let (subpaths, data): (Vec<_>, Vec<_>) = options.data.iter().partition(|(key, _)| key == SUBPATH);
    let tree = match subpaths.last() {
        None => open_tree(CWD, source, flags),
        Some((_, subpath)) => {
            let beneath = open_beneath(source, Path::new(subpath.as_deref().unwrap_or_default()));
            beneath.and_then(|beneath| open_tree(beneath, "", flags | OpenTreeFlags::AT_EMPTY_PATH))
        }
    };
    let tree = tree.context(doing)?;
    for (attributes, recursive) in [(options.attributes, false), (options.recursive, true)] {
        if !attributes.is_empty() {
            sys::mount_setattr(tree.as_fd(), recursive, &MountAttr::flags(attributes.set, attributes.clear))
                .context(doing)?;
        }
    }
    if let Some((word, _)) = data.first() {
        return Err(Error::refused(
            format!("{}, option {word:?}", doing()),
            "a bind mount has no such option",
        ));
    }
    Ok(tree)
}

/// What `subpath` names with `source` as its root. It is held open: the containers that share a volume may change the
/// way to it at any moment, so that its path may lead elsewhere right after.
fn open_beneath(source: &Path, subpath: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::openat(CWD, source, flags, Mode::empty())?;
    inroot::open(root.as_fd(), subpath, OFlags::PATH)
}

fn bind(mount: &Mount, options: Options, tree: OwnedFd) -> Result<Prepared> {
    let destination = mount.destination().clone();
    let doing = || doing("a bind", &destination);
    let kind = if inroot::is_folder(&tree).context(doing)? { Kind::Folder } else { Kind::File };
    Ok(Prepared { destination, kind, tree: Tree::Detached(tree), options })
}

/// The container's own cgroups: on v2 its folder; with v1 hierarchies a tmpfs with a folder for each, named as
/// on the host. They are binds of its folders and not new mounts of the hierarchies: the same view from inside
/// a cgroup namespace at a third of the cost, and the right one from outside of one.
fn cgroups(destination: &Path, options: &Options, cgroup: &Cgroup) -> Result<Tree> {
    let attributes = options.attributes.set | NOSUID | NODEV | NOEXEC;
    let view = |path: &Path| -> Result<OwnedFd> {
        let doing = || doing(&format!("the cgroup {}", path.display()), destination);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags).context(doing)?;
        sys::mount_setattr(
            tree.as_fd(),
            false,
            &MountAttr::flags(attributes, options.attributes.clear & !attributes),
        )
        .context(doing)?;
        Ok(tree)
    };
    let folders = cgroup.folders();
    if let [only] = folders.as_slice()
        && only.name.is_none()
    {
        return Ok(Tree::Detached(view(&only.path)?));
    }
    let parameters =
        [("mode".to_owned(), Some("755".to_owned())), ("size".to_owned(), Some("64k".to_owned()))];
    let context = options.context.clone();
    let writable = Options { data: parameters.to_vec(), context, ..Options::default() };
    let tmpfs = file_system("tmpfs", None, destination, &writable)?;
    let making = || format!("make the folders of the cgroups on {}", destination.display());
    let mut views = Vec::with_capacity(folders.len());
    for folder in &folders {
        let name = folder.name.as_deref().unwrap_or("unified");
        fs::mkdirat(&tmpfs, name, Mode::from_raw_mode(0o755)).context(making)?;
        // Co-mounted controllers: cpu -> cpu,cpuacct.
        for link in name.split(',').filter(|link| *link != name) {
            fs::symlinkat(name, &tmpfs, link).context(making)?;
        }
        views.push((destination.join(name), view(&folder.path)?));
    }
    let sealed = MountAttr::flags(attributes, 0);
    sys::mount_setattr(tmpfs.as_fd(), false, &sealed).context(making)?;
    Ok(Tree::Cgroups { tmpfs, views })
}

impl Prepared {
    /// Where it goes.
    pub(super) fn destination(&self) -> &Path {
        &self.destination
    }

    /// The kernel's own file systems go where the container's programs and hull's masks expect them, not where an image's
    /// link leads, behind which another container may change things (CVE-2019-19921).
    fn place(&self, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let at = inroot::ensure(root, &self.destination, self.kind)?;
        if !["/proc", "/sys"].iter().any(|place| self.destination == Path::new(place)) {
            return Ok(at);
        }
        // Opened once more, and what was opened is looked at: it may be exchanged meanwhile.
        let doing = || format!("put the mount on {}", self.destination.display());
        let at = inroot::open(root, &self.destination, OFlags::PATH | OFlags::NOFOLLOW).context(doing)?;
        if inroot::is_folder(&at).context(doing)? {
            return Ok(at);
        }
        Err(Error::refused(doing(), "the image has a symbolic link there: it must be a folder"))
    }

    /// Nothing but a procfs goes onto `/proc`, and next to nothing into it, by whichever link: hull's own masks and
    /// whoever reads `/proc/self` in there would be led astray (CVE-2019-16884). What may, are figures that are told
    /// otherwise to a container, as LXCFS does.
    fn refuse_over_proc(&self, root: BorrowedFd<'_>, tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<()> {
        const MAY: [&str; 11] = [
            "/proc/cpuinfo",
            "/proc/diskstats",
            "/proc/meminfo",
            "/proc/stat",
            "/proc/swaps",
            "/proc/uptime",
            "/proc/loadavg",
            "/proc/slabinfo",
            "/proc/net/dev",
            "/proc/sys/kernel/ns_last_pid",
            "/proc/sys/crypto/fips_enabled",
        ];
        let doing = || format!("put the mount on {}", self.destination.display());
        let refused = |place: &str| {
            let reason = format!("{} cannot be mounted because it is {place}", self.destination.display());
            Err(Error::refused(doing(), reason))
        };
        let goes_to = |place: &str| self.destination.components().eq(Path::new(place).components());
        if goes_to("/proc") {
            return if is_procfs(tree).context(doing)? { Ok(()) } else { refused("not of type proc") };
        }
        // Most are not even on such a file system.
        if !is_procfs(at).context(doing)? {
            return Ok(());
        }
        let proc = match inroot::open(root, Path::new("/proc"), OFlags::PATH) {
            Err(io::Errno::NOENT) => return Ok(()),
            proc => proc.context(doing)?,
        };
        let inside = is_procfs(proc.as_fd()).context(doing)?
            && mount_id(proc.as_fd()).context(doing)? == mount_id(at).context(doing)?;
        if inside && !MAY.iter().any(|place| goes_to(place)) { refused("inside /proc") } else { Ok(()) }
    }

    /// Moves the mount onto its destination, which is created where it is missing.
    pub(super) fn attach(self, root: BorrowedFd<'_>) -> Result<()> {
        if matches!(self.tree, Tree::Remount) {
            return self.remount(root);
        }
        let takes = self.options.copy_up || self.options.mode_of_place;
        let was_there = takes && inroot::open(root, &self.destination, OFlags::PATH).is_ok();
        let at = self.place(root)?;
        let tree = match &self.tree {
            Tree::Detached(tree) => tree,
            Tree::Cgroups { tmpfs, .. } => tmpfs,
            Tree::OfCgroups | Tree::Remount => {
                let doing = format!("put the cgroups on {}", self.destination.display());
                return Err(Error::refused(doing, "they were never prepared; this is a bug"));
            }
            Tree::Sysfs => &file_system("sysfs", Some(Path::new("sysfs")), &self.destination, &self.options)?,
        };
        self.refuse_over_proc(root, tree.as_fd(), at.as_fd())?;
        if takes {
            self.take_from_place(tree.as_fd(), at.as_fd(), was_there)?;
        }
        let doing = || format!("put the mount on {}", self.destination.display());
        root::attach_at(tree.as_fd(), at.as_fd()).map_err(|error| {
            let is_folder = inroot::is_folder(&at).unwrap_or(false);
            let advice = if is_folder == (self.kind == Kind::Folder) {
                ""
            } else {
                "not a directory: are you trying to mount a directory onto a file (or vice-versa)? Check if the \
                 specified host path exists and is the expected type"
            };
            Error::kernel(doing(), error).advise(advice)
        })?;
        for (propagation, recursive) in &self.options.propagation {
            sys::mount_setattr(tree.as_fd(), *recursive, &MountAttr::propagation(*propagation))
                .context(|| format!("set the propagation of {}", self.destination.display()))?;
        }
        if let Tree::Cgroups { views, .. } = &self.tree {
            for (destination, view) in views {
                let at = inroot::ensure(root, destination, Kind::Folder)?;
                root::attach_at(view.as_fd(), at.as_fd())
                    .context(|| format!("put the cgroup on {}", destination.display()))?;
            }
        }
        Ok(())
    }

    /// Gives what is mounted at the destination other options: of a bind the mount's own, else the file system's too.
    fn remount(&self, root: BorrowedFd<'_>) -> Result<()> {
        let doing = || format!("mount {} anew (remount)", self.destination.display());
        let Some(at) = inroot::find(root, &self.destination)? else {
            return Err(Error::refused(doing(), "there is no such place"));
        };
        let explain = |error: std::io::Error| {
            let advice =
                if error.raw_os_error() == Some(libc::EINVAL) { "nothing is mounted there" } else { "" };
            Error::kernel(doing(), error).advise(advice)
        };
        for (attributes, recursive) in [(self.options.attributes, false), (self.options.recursive, true)] {
            if !attributes.is_empty() {
                let attributes = MountAttr::flags(attributes.set, attributes.clear);
                sys::mount_setattr(at.as_fd(), recursive, &attributes).map_err(explain)?;
            }
        }
        for (propagation, recursive) in &self.options.propagation {
            sys::mount_setattr(at.as_fd(), *recursive, &MountAttr::propagation(*propagation))
                .map_err(explain)?;
        }
        if self.options.bind.is_some() || parameters(&self.options).next().is_none() {
            return Ok(());
        }
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        let context = fspick(&at, "", flags).context(doing)?;
        let failed = |error: io::Errno| Error::kernel(doing(), error).advise(root::said(context.as_fd()));
        for (key, value) in parameters(&self.options) {
            let set = match value {
                Some(value) => fsconfig_set_string(&context, key, value),
                None => fsconfig_set_flag(&context, key),
            };
            set.map_err(failed)?;
        }
        fsconfig_reconfigure(&context).map_err(failed)
    }

    /// What a tmpfs gets from its place: the mode, and with `tmpcopyup` all that is there.
    fn take_from_place(&self, tmpfs: BorrowedFd<'_>, place: BorrowedFd<'_>, was_there: bool) -> Result<()> {
        let doing = || format!("make the tmpfs on {} like its place", self.destination.display());
        // The mount's own descriptor is a mere handle.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = fs::openat(tmpfs, ".", flags, Mode::empty()).context(doing)?;
        if self.options.mode_of_place && was_there {
            let mode = Mode::from_raw_mode(fs::fstat(place).context(doing)?.st_mode);
            fs::fchmod(&folder, mode).context(doing)?;
        }
        if self.options.copy_up {
            copyup::copy(place, folder.as_fd()).context(doing)?;
        }
        if self.options.attributes.set & RDONLY != 0 {
            sys::mount_setattr(tmpfs, false, &MountAttr::flags(RDONLY, 0)).context(doing)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mount(destination: &str, source: &Path, options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(destination.into());
        mount.set_source(Some(source.into()));
        mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
        mount
    }

    /// The tree of a bind of a volume's part, as it is after whoever shares the volume has laid links on the way.
    fn tree(volume: &Path, subpath: &str) -> Result<OwnedFd> {
        let option = format!("{SUBPATH}={subpath}");
        let mount = mount("/v", volume, &["rbind", "rprivate", "ro", &option]);
        bind_tree(&mount, &options::parse(mount.options().as_deref().unwrap()))
    }

    #[test]
    fn a_volume_s_part_is_beneath_it_whatever_links_lead_there() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, host) = (folder.path().join("volume"), folder.path().join("host"));
        for place in [volume.join("part/deep"), volume.join("inside/deep"), host.join("deep/secret")] {
            std::fs::create_dir_all(place).unwrap();
        }
        std::fs::write(volume.join("inside/deep/own"), "").unwrap();
        let holds = |tree: &OwnedFd, name: &str| fs::statat(tree, name, fs::AtFlags::empty()).is_ok();
        assert!(!holds(&tree(&volume, "part/deep").unwrap(), "secret"));

        // Exchanged after the engine has looked: to the host by an absolute link, by a relative one, and within.
        std::fs::remove_dir_all(volume.join("part")).unwrap();
        symlink(&host, volume.join("part")).unwrap();
        assert_eq!(tree(&volume, "part/deep").unwrap_err().errno, Some(libc::ENOENT));
        symlink("../host", volume.join("up")).unwrap();
        assert_eq!(tree(&volume, "up/deep").unwrap_err().errno, Some(libc::ENOENT));
        symlink("/inside", volume.join("within")).unwrap();
        assert!(holds(&tree(&volume, "within/deep").unwrap(), "own"));
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        assert!(tree(&volume, "magic").is_err());
        assert!(tree(&volume, "").is_err(), "nothing was named");
    }

    #[test]
    fn a_file_is_a_part_and_its_mount_takes_the_options() {
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join("file"), "text").unwrap();
        let tree = tree(volume.path(), "file").unwrap();
        assert!(!inroot::is_folder(&tree).unwrap());
        let flags = fs::fstatvfs(&tree).unwrap().f_flag;
        assert!(flags.contains(fs::StatVfsMountFlags::RDONLY));
    }

    #[test]
    fn a_bind_has_no_other_options() {
        let volume = tempfile::tempdir().unwrap();
        let mount = mount("/v", volume.path(), &["bind", "x-hull.subpath=.", "size=1"]);
        let refused = bind_tree(&mount, &options::parse(mount.options().as_deref().unwrap())).unwrap_err();
        assert!(refused.to_string().contains("size"), "{refused}");
    }

    #[test]
    fn a_remount_of_dev_binds_nothing_there() {
        let dev = |options: &[&str]| {
            let mut spec = Spec::default();
            spec.set_mounts(Some(vec![mount("/dev/", Path::new("/dev"), options)]));
            binds_dev(&spec)
        };
        assert!(dev(&["bind"]) && dev(&["rbind", "ro"]));
        assert!(!dev(&["remount", "bind", "ro"]) && !dev(&["nosuid"]));
    }
}
