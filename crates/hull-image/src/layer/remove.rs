//! Removing trees of any depth by descriptor, following no link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::disk::{is_subvolume, remove_subvolume};

/// Folders deeper than this below the one that is removed are moved up, so that neither descriptors nor the stack
/// run out.
pub(super) const DEPTH: usize = 32;

/// Removes a tree of any depth, following no link; one that is not there is no error. What a container wrote may be
/// deeper than the stack of a thread is for whoever removes it by recursion.
///
/// # Errors
/// Something of it cannot be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    match std::fs::File::open(parent) {
        Ok(parent) => remove_all(parent.as_fd(), name.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes all that is in a folder, following no link; the folder stays.
///
/// # Errors
/// Something in it cannot be removed.
pub fn empty_folder(path: &Path) -> io::Result<()> {
    let folder = std::fs::File::open(path)?;
    empty(folder.as_fd(), folder.as_fd(), 0)
}

/// Removes what is at `name` in `parent`, with all that is beneath it. Nothing there is no error.
pub(crate) fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let is_folder = match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(errno @ (Errno::ISDIR | Errno::PERM)) => errno,
        Err(errno) => return Err(errno.into()),
    };
    let Some(folder) = open_folder(parent, name, is_folder)? else { return Ok(()) };
    if is_subvolume(&folder) && remove_subvolume(parent, name) {
        return Ok(());
    }
    empty(folder.as_fd(), folder.as_fd(), 0)?;
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes all that is in `folder`. What lies too deep is moved into `top`, which is emptied until it is empty.
fn empty(folder: BorrowedFd<'_>, top: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    loop {
        let mut moved = false;
        for (name, kind) in names(folder)? {
            let name = name.as_bytes();
            let mut is_folder = Errno::ISDIR;
            if kind != FileType::Directory {
                match unlinkat(folder, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(errno @ (Errno::ISDIR | Errno::PERM)) => is_folder = errno,
                    Err(errno) => return Err(errno.into()),
                }
            }
            if depth >= DEPTH {
                static COUNT: AtomicU64 = AtomicU64::new(0);
                let up = format!(".hull-removed-{}", COUNT.fetch_add(1, Ordering::Relaxed));
                renameat(folder, name, top, up.as_str())?;
                continue;
            }
            let Some(child) = open_folder(folder, name, is_folder)? else { continue };
            if is_subvolume(&child) && remove_subvolume(folder, name) {
                moved = true;
                continue;
            }
            empty(child.as_fd(), top, depth + 1)?;
            drop(child);
            match unlinkat(folder, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => moved = true,
                Err(errno) => return Err(errno.into()),
            }
        }
        // Only the top can have got something new, and only from a folder that was emptied.
        if depth > 0 || !moved || names(folder)?.is_empty() {
            return Ok(());
        }
    }
}

/// The names in a folder, all read before anything is removed.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Opens what may be a folder, for it could not be unlinked; why not is the error where it is none.
pub(super) fn open_folder(
    parent: BorrowedFd<'_>,
    name: &[u8],
    unlinked: Errno,
) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => Err(unlinked.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_very_deep_tree_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(scratch.path()).unwrap();
        let mut folder: OwnedFd = root.try_clone().unwrap().into();
        for depth in 0..5000 {
            rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
            if depth % 100 == 0 {
                openat(&folder, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            }
            folder = openat(&folder, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_all(root.as_fd(), b"d").unwrap();
        assert!(remove_all(root.as_fd(), b"not there").is_ok());
        assert_eq!(names(root.as_fd()).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_removed_is_told_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(scratch.path().join("f")).unwrap();
        let flags = |flags| rustix::fs::ioctl_setflags(&file, flags);
        if flags(rustix::fs::IFlags::IMMUTABLE).is_err() {
            // A file system without such files.
            return;
        }
        let removed = [empty_folder(scratch.path()), remove_tree(&scratch.path().join("f"))];
        flags(rustix::fs::IFlags::empty()).unwrap();
        for removed in removed {
            assert_eq!(removed.unwrap_err().raw_os_error(), Some(Errno::PERM.raw_os_error()));
        }
    }
}
