//! Masked and read-only paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};

use super::options::{NODEV, NOEXEC, NOSUID, RDONLY};
use super::root::attach_at;
use super::{inroot, labels};
use crate::error::Context;
use crate::sys::{self, MountAttr};
use crate::{Error, Result};

/// What masks: an empty read-only folder and a null device. The first of each that is mounted is the pattern of
/// the others: a pattern that is mounted nowhere would cost a grace period of RCU to let go of.
pub(super) struct Masks {
    folder: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

impl Masks {
    pub(super) fn new() -> Masks {
        Masks { folder: None, null: None }
    }

    /// Masks and write-protects the paths for which `chosen` holds.
    pub(super) fn hide(
        &mut self,
        spec: &Spec,
        root: BorrowedFd<'_>,
        chosen: impl Fn(&Path) -> bool,
    ) -> Result<()> {
        let Some(linux) = spec.linux() else { return Ok(()) };
        let chosen = |path: &&String| chosen(Path::new(path.as_str()));
        for path in linux.readonly_paths().iter().flatten().filter(chosen) {
            write_protect(Path::new(path), root)?;
        }
        for path in linux.masked_paths().iter().flatten().filter(chosen) {
            self.mask(Path::new(path), root, labels::of_mounts(spec))?;
        }
        Ok(())
    }

    fn mask(&mut self, path: &Path, root: BorrowedFd<'_>, label: Option<&str>) -> Result<()> {
        let doing = || format!("mask {}", path.display());
        let Some(at) = inroot::find(root, path)? else { return Ok(()) };
        let pattern = if inroot::is_folder(&at).context(doing)? { &mut self.folder } else { &mut self.null };
        if let Some(pattern) = pattern {
            let tree = clone(pattern.as_fd()).context(doing)?;
            return attach_at(tree.as_fd(), at.as_fd()).context(doing);
        }
        let tree = if inroot::is_folder(&at).context(doing)? {
            empty_folder(label).context(doing)?
        } else {
            null_device(root)?
        };
        attach_at(tree.as_fd(), at.as_fd()).context(doing)?;
        *pattern = Some(tree);
        Ok(())
    }
}

fn clone(tree: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(tree, "", flags)
}

fn empty_folder(label: Option<&str>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "nr_inodes", "1")?;
    fsconfig_set_string(&context, "mode", "555")?;
    if let Some(label) = label {
        fsconfig_set_string(&context, "context", label)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain((RDONLY | NOSUID | NODEV | NOEXEC) as u32);
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(mounted)
}

/// The container's own null device, or the host's where it has none: verified to be one, for a file that
/// merely stands there would show what was to be hidden, or let it be written. Read-only, so that its mode
/// and owner cannot be changed through the mask; writing to the device is not affected.
fn null_device(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let doing = || "find the null device".to_owned();
    let is_null = |fd: &OwnedFd| inroot::is_device(fd, 1, 3).unwrap_or(false);
    let own =
        inroot::open(root, Path::new("/dev/null"), OFlags::PATH | OFlags::NOFOLLOW).ok().filter(is_null);
    let tree = match own {
        Some(own) => clone(own.as_fd()).context(doing)?,
        None => {
            open_tree(CWD, "/dev/null", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .context(doing)?
        }
    };
    if !is_null(&tree) {
        return Err(Error::refused(doing(), "/dev/null is not the null device"));
    }
    sys::mount_setattr(tree.as_fd(), false, &MountAttr::flags(RDONLY | NOSUID | NOEXEC, 0)).context(doing)?;
    Ok(tree)
}

fn write_protect(path: &Path, root: BorrowedFd<'_>) -> Result<()> {
    let doing = || format!("make {} read-only", path.display());
    let Some(at) = inroot::find(root, path)? else { return Ok(()) };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&at, "", flags).context(doing)?;
    sys::mount_setattr(tree.as_fd(), true, &MountAttr::flags(RDONLY, 0)).context(doing)?;
    attach_at(tree.as_fd(), at.as_fd()).context(doing)
}
