//! An overlay for a container in a user namespace: its layers' ids are mapped, so that root's files on the disk are root's
//! inside, what root makes inside is root's on the disk, and nothing is copied or changes hands for it.
//!
//! overlayfs itself maps no ids; it takes layers from mounts that do (Linux 5.19). Before Linux 6.15 these must be mounted
//! somewhere, so a process of its own mounts them in a mount namespace of its own and hands over the overlay alone. What
//! overlayfs does by itself (copying a file up, its work folder) it does as who has mounted it: that is the mapped root,
//! for the host's root has no id on such a layer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::options::Options;
use super::report::Heard;
use super::{labels, mounts, outside, report, root, userns};
use crate::error::Context;
use crate::protocol::Rootfs;
use crate::sys::{self, MountAttr};
use crate::{Error, Result};

/// Whose the files are to be.
pub(crate) struct Owner {
    /// The user namespace, which has its mappings.
    namespace: OwnedFd,
    /// Its root, user and group, as this process sees them.
    root: (u32, u32),
}

impl Owner {
    /// That of a process in a user namespace.
    pub(crate) fn of(pid: i32) -> Result<Owner> {
        Ok(Owner { namespace: userns::of_process(pid)?, root: userns::root_of(pid)? })
    }

    /// That of the user namespace which a configuration describes, and which is made later by somebody else: the kernel
    /// goes by the mappings, not by the namespace. None where it describes none.
    pub(crate) fn described(spec: &Spec) -> Result<Option<Owner>> {
        let mappings = outside::mappings(spec);
        let Some(root) = mappings.root() else { return Ok(None) };
        Ok(Some(Owner { namespace: mappings.handle()?, root }))
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Its root, user and group.
    pub(crate) fn root(&self) -> (u32, u32) {
        self.root
    }
}

/// A container's root file system, its ids mapped where they are to be. The caller is single-threaded.
pub(crate) fn root_tree(spec: &Spec, rootfs: &Rootfs, owner: Option<&Owner>) -> Result<OwnedFd> {
    match (rootfs, owner) {
        (Rootfs::Overlay { lower, upper, work, mapped: true }, Some(owner)) => {
            overlay(lower, upper, work, labels::of_mounts(spec), owner)
        }
        (Rootfs::MappedPath, Some(owner)) => {
            let path = root::path_of(spec)?;
            let tree = mapped(path, owner)?;
            sys::mount_setattr(tree.as_fd(), false, &MountAttr::propagation(libc::MS_PRIVATE))
                .context(|| format!("make the root {} private", path.display()))?;
            Ok(tree)
        }
        (rootfs, _) => root::detached(spec, rootfs),
    }
}

/// A detached overlay of the layers, uppermost first. The caller is single-threaded.
pub(crate) fn overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    label: Option<&str>,
    owner: &Owner,
) -> Result<OwnedFd> {
    overlay_by(lower, upper, work, owner, |lower, upper, work| root::overlay(lower, upper, work, label))
}

/// The same, by one of the kernel's ways to mount it.
fn overlay_by(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    owner: &Owner,
    mount: impl FnOnce(&[PathBuf], &Path, &Path) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let child = super::clone(libc::CLONE_NEWNS, None, |teller| {
        let overlay = assemble(lower, upper, work, owner, mount)?;
        teller.root(overlay.as_fd())?;
        sys::exit_now(0)
    });
    let child = child.context(|| "clone a process to map the layers' ids".into())?;
    match report::hear(child.sync())? {
        Heard::Root(overlay) => Ok(overlay),
        Heard::NeedsOutside | Heard::Step(_) => {
            Err(Error::refused("map the layers' ids", "the process that was to do it was killed"))
        }
    }
}

/// In a process of its own: the layers' mounts go with it, but for what the overlay holds.
fn assemble(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    owner: &Owner,
    mount: impl FnOnce(&[PathBuf], &Path, &Path) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    root::cut_propagation(&Spec::default())?;
    let base = beside(upper, work)?;
    let layers = lower.iter().map(|layer| mapped(layer, owner)).collect::<Result<Vec<_>>>()?;
    let writable = mapped(base, owner)?;

    // Places for them all, upon the folder of the writable layer, which is there already as a mount of its own.
    let places = mounts::file_system("tmpfs", None, base, &Options::default())?;
    root::attach(places.as_fd(), CWD, base).context(|| format!("mount places on {}", base.display()))?;
    let mut attached = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        attached.push(attach(layer, &places, base, &index.to_string())?);
    }
    let writable = attach(&writable, &places, base, "writable")?;
    let [upper, work] = [upper, work].map(|path| writable.join(path.strip_prefix(base).unwrap_or(path)));
    sys::act_on_files_as(owner.root.0, owner.root.1).context(|| "act as the container's root".into())?;
    mount(&attached, &upper, &work)
}

/// The folder that has both: they must be on one mount.
fn beside<'p>(upper: &'p Path, work: &Path) -> Result<&'p Path> {
    match upper.parent() {
        Some(base) if work.parent() == Some(base) => Ok(base),
        _ => {
            let doing = format!("map the ids of {}", upper.display());
            Err(Error::refused(doing, format!("{} is not beside it", work.display())))
        }
    }
}

/// A detached copy of a folder's mount, from that folder on, with mapped ids.
fn mapped(folder: &Path, owner: &Owner) -> Result<OwnedFd> {
    let doing = || format!("map the ids of {}", folder.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, folder, flags).context(doing)?;
    sys::mount_setattr(tree.as_fd(), false, &MountAttr::id_map(owner.namespace.as_fd())).map_err(
        |error| {
            let advice = advice(error.raw_os_error());
            Error::kernel(doing(), error).advise(advice)
        },
    )?;
    Ok(tree)
}

/// What a failure to map the ids of a mount comes from.
pub(super) fn advice(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EINVAL) => "its file system cannot map ids on this kernel",
        Some(libc::EPERM) => "its ids are mapped already, or not by the host's root",
        _ => "",
    }
}

fn attach(layer: &OwnedFd, places: &OwnedFd, base: &Path, name: &str) -> Result<PathBuf> {
    let doing = || format!("mount the layer {name}");
    mkdirat(places, name, Mode::from_raw_mode(0o700)).context(doing)?;
    root::attach(layer.as_fd(), places.as_fd(), Path::new(name)).context(doing)?;
    Ok(base.join(name))
}

/// A detached file system in memory for other mounts' places alone: everybody may go through it.
pub(crate) fn small_tmpfs(destination: &Path) -> Result<OwnedFd> {
    let parameters = [("mode", "711"), ("size", "64k")];
    let data = parameters.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec();
    mounts::file_system("tmpfs", None, destination, &Options { data, ..Options::default() })
}

/// Whether what is made beneath `folder` can be a container's with these mappings: tried, on folders that are made there
/// and removed. It is layers; where the file system carries none, or with `trees`, whole trees. The caller is
/// single-threaded.
///
/// # Errors
/// It cannot, and why.
pub fn probe(folder: &Path, users: &[[u32; 3]], groups: &[[u32; 3]], trees: bool) -> Result<()> {
    let doing = || format!("try mapped ids in {}", folder.display());
    let base = folder.join(".userns-probe");
    // What one has left that was killed.
    let _ = std::fs::remove_dir_all(&base);
    let folders = ["lower", "upper", "work"].map(|name| base.join(name));
    folders.iter().try_for_each(std::fs::create_dir_all).context(doing)?;
    let tried = userns::handle_of(users, groups).and_then(|(namespace, root)| {
        let owner = Owner { namespace, root };
        let [lower, upper, work] = &folders;
        let lower = std::slice::from_ref(lower);
        let root = if trees { mapped(&lower[0], &owner) } else { overlay(lower, upper, work, None, &owner) };
        let root = match root {
            // Not the ids are what stands in the way.
            Err(_) if !trees && root::overlay(lower, upper, work, None).is_err() => mapped(&lower[0], &owner),
            root => root,
        };
        let found = rustix::fs::fstat(&root?).context(doing)?.st_uid;
        match found == owner.root.0 {
            true => Ok(()),
            false => {
                Err(Error::refused(doing(), format!("its root is {found}'s and not {}'s", owner.root.0)))
            }
        }
    });
    let removed = std::fs::remove_dir_all(&base).context(doing);
    tried.and(removed)
}

/// Does something on a thread of its own, which makes files as this user and group; of a thread's privileges it has all.
///
/// # Errors
/// There is no such thread, or it may not do that.
pub fn as_owner<T: Send>((uid, gid): (u32, u32), work: impl FnOnce() -> T + Send) -> Result<T> {
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("owner".into()).spawn_scoped(scope, move || {
            sys::act_on_files_as(uid, gid)?;
            Ok(work())
        });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(error),
        }
    });
    done.context(|| format!("make files as user {uid} and group {gid}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use rustix::fs::{AtFlags, OFlags, fstat, openat, statat};

    use super::*;

    type Mount = fn(&[PathBuf], &Path, &Path) -> Result<OwnedFd>;

    /// What is seen of two layers and the writable one through mapped ids, and what is on the disk behind it.
    fn tried(mount: Mount) {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, upper, work] =
            ["one", "two", "u/upper", "u/work"].map(|name| folder.path().join(name));
        for path in [&one, &two, &upper, &work] {
            std::fs::create_dir_all(path).unwrap();
        }
        for (path, owner) in
            [(one.join("of-root"), 0), (two.join("of-seven"), 7), (two.join("of-many"), 70_000)]
        {
            std::fs::write(&path, "text").unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
        }
        let lower = [one.clone(), two.clone()];
        let outcome = super::super::tests::in_a_shim(|outcome| {
            let range = [[0, 100_000, 65_536]];
            let (namespace, root) = userns::handle_of(&range, &range)?;
            let owner = Owner { namespace, root };
            let overlay = overlay_by(&lower, &upper, &work, &owner, mount)?;
            for name in ["", "of-root", "of-seven", "of-many"] {
                let found = statat(&overlay, name, AtFlags::EMPTY_PATH).unwrap();
                outcome.output.push_str(&format!("{}:{} ", found.st_uid, found.st_gid));
            }
            // Copied up, and new.
            as_owner(root, || {
                let flags = OFlags::CREATE | OFlags::WRONLY;
                for name in ["of-root", "of-seven", "new"] {
                    let file = openat(&overlay, name, flags, Mode::from_raw_mode(0o644)).unwrap();
                    outcome.output.push_str(&format!("{} ", fstat(&file).unwrap().st_uid));
                }
            })
        });
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        let nobody = "65534:65534";
        let seen = format!("100000:100000 100000:100000 100007:100007 {nobody} 100000 100007 100000 ");
        assert_eq!(outcome.output, seen);
        let on_disk = |name: &str| std::fs::metadata(upper.join(name)).unwrap().uid();
        assert_eq!(["of-root", "of-seven", "new"].map(on_disk), [0, 7, 0]);
        assert_eq!(std::fs::metadata(two.join("of-seven")).unwrap().uid(), 7);
    }

    #[test]
    fn files_are_the_container_s_and_stay_whose_they_are() {
        tried(|lower, upper, work| root::overlay(lower, upper, work, None));
    }

    #[test]
    fn by_the_old_call_it_is_the_same() {
        tried(|lower, upper, work| root::overlay_by_mount(lower, upper, work, None));
    }

    #[test]
    fn what_cannot_be_mapped_is_told() {
        let outcome = super::super::tests::in_a_shim(|_| {
            let range = [[0, 100_000, 65_536]];
            probe(Path::new("/proc/self"), &range, &range, false)
        });
        let error = outcome.error.unwrap().to_string();
        assert!(error.starts_with("try mapped ids in /proc/self"), "{error}");
        let outcome = super::super::tests::in_a_shim(|_| {
            let (namespace, root) = userns::handle_of(&[[0, 100_000, 9]], &[[0, 100_000, 9]])?;
            let owner = Owner { namespace, root };
            overlay(&["/proc".into()], Path::new("/tmp/u/a"), Path::new("/tmp/w/a"), None, &owner).map(drop)
        });
        assert!(outcome.error.unwrap().to_string().contains("is not beside it"));
    }
}
