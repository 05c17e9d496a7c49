//! How a container's file system is made of layers: by an overlay, as a snapshot of btrfs's, or as a copy.
//!
//! Layers lie on the disk in one form, that of overlayfs. Where it cannot be mounted, or another driver is asked for, a
//! snapshot is a whole tree: the layers merged into one, with what each hides gone. On btrfs that is done once for an
//! image's uppermost layer, in the subvolume `merged/<number>`, of which each container gets a snapshot at once; a copy
//! is made for each, and shares its blocks where the file system can.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::Store;
use super::state::{Base, base36};
use crate::archive::merge_layer;
use crate::disk::{FileSystem, file_system};
use crate::{Error, Result};

/// How snapshots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// An overlay of the layers' folders.
    Overlay,
    /// A snapshot of a subvolume in which the layers are merged.
    Btrfs,
    /// A copy of them.
    Copies,
}

impl Driver {
    /// Its name, which is Docker's.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Overlay => "overlayfs",
            Driver::Btrfs => "btrfs",
            Driver::Copies => "vfs",
        }
    }

    /// The driver that was asked for, if the file system beneath `root` carries it; without one, the best that it does.
    ///
    /// # Errors
    /// There is no such driver, or the file system does not carry it.
    pub(super) fn choose(asked: Option<&str>, root: &Path) -> Result<Driver> {
        let (beneath, probe) = (file_system(root)?, root.join("tmp/overlay-probe"));
        let driver = match asked {
            None => match (overlay_works(&probe), beneath) {
                (Ok(()), _) => Driver::Overlay,
                (Err(_), FileSystem::Btrfs) => Driver::Btrfs,
                (Err(error), _) => {
                    tracing::warn!(
                        "overlayfs cannot be mounted beneath {}: {error}; layers are copied",
                        root.display()
                    );
                    Driver::Copies
                }
            },
            Some("overlayfs" | "overlay2" | "overlay") => {
                overlay_works(&probe).map_err(|error| refused(asked, root, beneath, &error.to_string()))?;
                Driver::Overlay
            }
            Some("btrfs") if beneath == FileSystem::Btrfs => Driver::Btrfs,
            Some("btrfs") => return Err(refused(asked, root, beneath, "it is not btrfs")),
            Some("vfs") => Driver::Copies,
            Some(other) => {
                return Err(Error::new(
                    crate::Kind::NotImplemented,
                    format!("the storage driver {other} is not there: there are overlayfs, btrfs and vfs"),
                ));
            }
        };
        Ok(driver)
    }
}

fn refused(asked: Option<&str>, root: &Path, beneath: FileSystem, why: &str) -> Error {
    Error::invalid(format!(
        "the storage driver {} cannot be used in {}, which is on {}: {why}; leave it out, and the best that can is taken",
        asked.unwrap_or_default(),
        root.display(),
        beneath.name()
    ))
}

/// Tries in a new folder: which file systems can be written to through an overlay, the kernel alone knows.
fn overlay_works(folder: &Path) -> Result<(), Errno> {
    let made = |name: &str| match std::fs::create_dir_all(folder.join(name)) {
        Ok(()) => Ok(folder.join(name)),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    let tried = || {
        let (lower, upper, work) = (made("lower")?, made("upper")?, made("work")?);
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "lowerdir", &lower)?;
        fsconfig_set_string(&context, "upperdir", &upper)?;
        fsconfig_set_string(&context, "workdir", &work)?;
        fsconfig_create(&context)?;
        // Nobody sees it, and it goes with its descriptor.
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        // A file system that takes the mount may still not know the attributes; then nothing can be written.
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&mounted, "file", flags, Mode::RUSR)?;
        drop(file);
        rustix::fs::unlinkat(&mounted, "file", rustix::fs::AtFlags::empty())
    };
    let tried = tried();
    if let Err(error) = crate::layer::remove::remove_tree(folder) {
        tracing::warn!("remove {}: {error}", folder.display());
    }
    tried
}

impl Store {
    /// How snapshots are made here.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Whether a snapshot on this is an overlay. The machine's own files are too many to be copied: one of them always is.
    ///
    /// # Errors
    /// It has to be one and cannot.
    pub(super) fn is_overlaid(&self, base: &Base) -> Result<bool> {
        if self.driver == Driver::Overlay || *base != Base::Host {
            return Ok(self.driver == Driver::Overlay);
        }
        let probe = self.root.join("tmp").join(base36(self.next_number()));
        overlay_works(&probe).map(|()| true).map_err(|errno| {
            Error::new(
                crate::Kind::NotImplemented,
                format!(
                    "hull/host needs an overlay, whatever the storage driver, and none can be mounted in {}: {}; give \
                     --data-root a place on ext4, xfs or btrfs",
                    self.root.display(),
                    std::io::Error::from(errno)
                ),
            )
        })
    }

    /// Makes the whole tree of a snapshot at `tree`, out of its layers, uppermost first.
    pub(super) fn make_whole(&self, lower: &[PathBuf], tree: &Path) -> Result<()> {
        if self.driver != Driver::Btrfs {
            return make_merged(lower, tree, |folder| {
                std::fs::create_dir(folder).map_err(|error| Error::file("create", folder, error))
            });
        }
        let merged = self.merged(lower)?;
        match self.limiter.snapshot(&merged, tree, None)? {
            true => Ok(()),
            false => Err(Error::new(crate::Kind::System, format!("{} is no subvolume", merged.display()))),
        }
    }

    /// The subvolume in which these layers are merged, made where it is not there.
    fn merged(&self, lower: &[PathBuf]) -> Result<PathBuf> {
        let top = lower.first().and_then(|folder| folder.file_name());
        let top = top.ok_or_else(|| Error::invalid("a snapshot has at least one layer"))?;
        let place = self.root.join("merged").join(top);
        // One after the other: two containers of one new image need it once.
        let _turn = self.merging.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if place.is_dir() {
            return Ok(place);
        }
        let folder = self.temporary()?;
        let made = folder.join("tree");
        let done = make_merged(lower, &made, |folder| {
            self.limiter.make_for_snapshots(folder, Mode::from(0o755), None)
        });
        let done = done.and_then(|()| {
            std::fs::rename(&made, &place).map_err(|error| Error::file("create", &place, error))
        });
        self.discard(&folder);
        done.map(|()| place)
    }
}

/// Merges layers, uppermost first, into a folder that `make` makes.
fn make_merged(lower: &[PathBuf], tree: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    make(tree)?;
    let open = |folder: &Path| {
        openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::file("open", folder, errno))
    };
    let into = open(tree)?;
    for layer in lower.iter().rev() {
        merge_layer(open(layer)?.as_fd(), into.as_fd())?;
    }
    Ok(())
}
