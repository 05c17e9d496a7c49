//! The files that a partial container sees: the host's, a folder's or an image's, with a `/proc` to match and the
//! network's own names.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
};
use rustix::{mount, process};

use crate::container;
use crate::error::Context as _;
use crate::{Error, Result};

/// What becomes of mounts between the new mount namespace and the one that it was copied from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Neither sees what the other mounts.
    #[default]
    Private,
    /// Both do.
    Shared,
    /// The new one sees what the old one mounts.
    Slave,
    /// As each mount was.
    Unchanged,
}

impl Propagation {
    /// unshare's words.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str) -> Result<Propagation> {
        match text {
            "private" => Ok(Propagation::Private),
            "shared" => Ok(Propagation::Shared),
            "slave" => Ok(Propagation::Slave),
            "unchanged" => Ok(Propagation::Unchanged),
            _ => Err(Error::refused(
                format!("propagation {text:?}"),
                "there are private, shared, slave and unchanged",
            )),
        }
    }

    pub(super) fn set(self) -> Result<()> {
        let flag = match self {
            Propagation::Private => MountPropagationFlags::PRIVATE,
            Propagation::Shared => MountPropagationFlags::SHARED,
            Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
            Propagation::Unchanged => return Ok(()),
        };
        mount::mount_change("/", flag | MountPropagationFlags::REC)
            .context(|| "set the propagation of the mounts".into())
    }
}

/// Whose files the program sees, where they are not the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A folder's (chroot).
    Folder(PathBuf),
    /// An image's layers, copy on write.
    Layers {
        /// The image's, uppermost first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// overlayfs's work folder beside it.
        work: PathBuf,
    },
}

/// Makes it the root. What is no file of an image stays the host's: `/dev` and `/sys`; `/proc` is that of the
/// program's own pid namespace.
pub(super) fn change(root: &Root) -> Result<()> {
    match root {
        Root::Folder(folder) => {
            process::chroot(folder).context(|| format!("make {} the root", folder.display()))?;
            process::chdir("/").context(|| "enter the new root".into())
        }
        Root::Layers { lower, upper, work } => {
            let kept = ["dev", "sys"].map(|name| (name, tree_of(&Path::new("/").join(name), true)));
            let layers = container::overlay(lower, upper, work, None)?;
            container::attach(layers.as_fd(), CWD, Path::new("/"))
                .context(|| "put the image's files over the root".into())?;
            container::enter(layers.as_fd(), false)?;
            for (name, tree) in kept {
                place(&tree?, Path::new("/").join(name).as_path(), true)?;
            }
            make_folder(Path::new("/proc"))?;
            mount_proc(Path::new("/proc"))
        }
    }
}

fn tree_of(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    mount::open_tree(CWD, path, flags).context(|| format!("take {} along", path.display()))
}

/// Puts a detached mount at a path of the root that is now the program's; what it is put upon is made.
fn place(tree: &OwnedFd, path: &Path, folder: bool) -> Result<()> {
    if folder {
        make_folder(path)?;
    } else if !path.exists() {
        fs::write(path, "").context(|| format!("make {}", path.display()))?;
    }
    container::attach(tree.as_fd(), CWD, path).context(|| format!("mount upon {}", path.display()))
}

fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).context(|| format!("make {}", path.display()))
}

/// A `/proc` of the pid namespace that this process is in.
pub(super) fn mount_proc(at: &Path) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount::mount("proc", at, "proc", flags, None).context(|| format!("mount proc on {}", at.display()))
}

/// Files that stand for others of the same path, made before the root changes.
pub(super) struct Substitutes {
    files: Vec<(&'static str, OwnedFd)>,
}

impl Substitutes {
    /// Makes them in a file system of their own, which goes with the mount namespace.
    pub(super) fn make(texts: &[(&'static str, &str)]) -> Result<Substitutes> {
        let doing = || "make the network's files".to_owned();
        let context = mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).context(doing)?;
        mount::fsconfig_create(&context).context(doing)?;
        let tmpfs = mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .context(doing)?;
        // Mounted for a moment where every machine has a folder: a file can be taken from a mount that has a place.
        let place = Path::new("/proc");
        container::attach(tmpfs.as_fd(), CWD, place).context(doing)?;
        let made = texts
            .iter()
            .map(|(path, text)| {
                let file = place.join(path.trim_start_matches('/').replace('/', "-"));
                fs::write(&file, text).context(doing)?;
                Ok((*path, tree_of(&file, false)?))
            })
            .collect::<Result<Vec<_>>>();
        mount::unmount(place, mount::UnmountFlags::DETACH).context(doing)?;
        Ok(Substitutes { files: made? })
    }

    /// Puts them over those of the root that is now the program's.
    pub(super) fn put(&self) -> Result<()> {
        self.files.iter().try_for_each(|(path, tree)| place(tree, Path::new(path), false))
    }
}
