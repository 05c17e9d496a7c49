//! What lies beneath: which file system a folder is on, and what it can do.

mod kernel;
mod limit;
mod reserve;

pub use limit::{Limiter, Usage};
pub use reserve::reserve_log;

use std::path::Path;

use crate::{Error, Result};

/// Removes the subvolume of this name with all that is in it, at once. False: it is none, or that cannot be done.
pub(crate) fn remove_subvolume(folder: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> bool {
    kernel::destroy_subvolume(folder, name).is_ok()
}

/// Whether what is open lies on btrfs and is a subvolume's own folder.
pub(crate) fn is_subvolume(folder: &std::os::fd::OwnedFd) -> bool {
    kernel::is_subvolume(folder)
        && rustix::fs::fstatfs(folder).is_ok_and(|found| found.f_type as u32 == BTRFS)
}

const BTRFS: u32 = 0x9123_683e;

/// A file system, as far as that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 and ext4, which have one number.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// overlayfs: the root of a container.
    Overlay,
    /// Memory.
    Tmpfs,
    /// ZFS.
    Zfs,
    /// F2FS.
    F2fs,
    /// bcachefs.
    Bcachefs,
    /// A server's.
    Nfs,
    /// Another program's (FUSE).
    Fuse,
    /// Whatever else.
    Other,
}

impl FileSystem {
    /// Its name in Docker's words.
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext => "extfs",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
            FileSystem::Overlay => "overlayfs",
            FileSystem::Tmpfs => "tmpfs",
            FileSystem::Zfs => "zfs",
            FileSystem::F2fs => "f2fs",
            FileSystem::Bcachefs => "bcachefs",
            FileSystem::Nfs => "nfs",
            FileSystem::Fuse => "fuse",
            FileSystem::Other => "unknown",
        }
    }
}

/// The file system that a folder is on.
///
/// # Errors
/// It cannot be asked.
pub fn file_system(folder: &Path) -> Result<FileSystem> {
    let found = rustix::fs::statfs(folder).map_err(|errno| Error::file("look at", folder, errno))?;
    // The numbers are 32 bits wide, whatever their type is on a machine.
    Ok(match found.f_type as u32 {
        0xef53 => FileSystem::Ext,
        0x5846_5342 => FileSystem::Xfs,
        BTRFS => FileSystem::Btrfs,
        0x794c_7630 => FileSystem::Overlay,
        0x0102_1994 => FileSystem::Tmpfs,
        0x2fc1_2fc1 => FileSystem::Zfs,
        0xf2f5_2010 => FileSystem::F2fs,
        0xca45_1a4e => FileSystem::Bcachefs,
        0x6969 => FileSystem::Nfs,
        0x6573_5546 => FileSystem::Fuse,
        _ => FileSystem::Other,
    })
}
