//! Paths in a container's file system, resolved beneath its root by descriptor (`openat2` with
//! `RESOLVE_IN_ROOT`): whatever links an image or a process in the container has laid, nothing outside the
//! root is reached, and no `/proc/…/fd` link is followed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Context;
use crate::{Error, Result};

/// How many links one destination may lead over while it is being created (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// What a destination must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
}

/// Opens `path` beneath `root`; absolute paths and links start at `root`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: something was renamed on the way while it was walked; the kernel asks for another try.
        match fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// A handle (`O_PATH`) of what is at `path`, links followed; nothing if there is nothing.
pub(crate) fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(Error::kernel(format!("open {} in the container", path.display()), error)),
    }
}

/// A handle (`O_PATH`) of the destination of a mount, which is created if it is not there, with the folders
/// above it.
pub(crate) fn ensure(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd> {
    if let Some(found) = find(root, path)? {
        return Ok(found);
    }
    create(root, path, kind).context(|| format!("create the mount point {} in the container", path.display()))
}

/// The folder above `path`, created if needed, and the last name of `path`.
pub(crate) fn ensure_parent<'p>(root: BorrowedFd<'_>, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
    let name = path.file_name().ok_or_else(|| {
        Error::refused(format!("create {} in the container", path.display()), "the path has no last name")
    })?;
    let folder = ensure(root, path.parent().unwrap_or(Path::new("/")), Kind::Folder)?;
    Ok((folder, name))
}

/// Walks `path` from the root, makes what is missing, and resolves by hand the links that lead to what is
/// not there yet (`/var/run -> /run` in an image without `/run`).
fn create(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    let mut todo: Vec<PathBuf> = names(path).rev().collect();
    let mut done = PathBuf::new();
    let mut here = open(root, Path::new("/"), OFlags::PATH)?;
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name.as_os_str() == ".." {
            done.pop();
            here = open(root, &Path::new("/").join(&done), OFlags::PATH)?;
            continue;
        }
        let next = done.join(&name);
        match open(root, &Path::new("/").join(&next), OFlags::PATH) {
            Ok(found) => {
                here = found;
                done = next;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let made = if todo.is_empty() && kind == Kind::File {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            fs::openat(&here, &name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            fs::mkdirat(&here, &name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) => {
                here = fs::openat(
                    &here,
                    &name,
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                done = next;
            }
            Err(Errno::EXIST) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = fs::readlinkat(&here, &name, Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    done.clear();
                    here = open(root, Path::new("/"), OFlags::PATH)?;
                }
                todo.extend(names(target).rev());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(here)
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    })
}

/// Whether the handle is a folder.
pub(crate) fn is_folder(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fs::fstat(fd)?.st_mode).is_dir())
}

/// Whether the handle is the character device `major:minor`.
pub(crate) fn is_device(fd: impl AsFd, major: u32, minor: u32) -> io::Result<bool> {
    let stat = fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == fs::makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let fd = fs::open(folder.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (folder, fd)
    }

    #[test]
    fn folders_and_files_are_made_beneath_the_root() {
        let (folder, fd) = root();
        ensure(fd.as_fd(), Path::new("/a/b/c"), Kind::Folder).unwrap();
        ensure(fd.as_fd(), Path::new("/a/b/file"), Kind::File).unwrap();
        assert!(folder.path().join("a/b/c").is_dir());
        assert!(folder.path().join("a/b/file").is_file());
        assert!(is_folder(ensure(fd.as_fd(), Path::new("/a/b/c"), Kind::Folder).unwrap()).unwrap());
    }

    #[test]
    fn dangling_links_are_created_where_they_point_within_the_root() {
        let (folder, fd) = root();
        std::os::unix::fs::symlink("/run/there", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../../out", folder.path().join("up")).unwrap();
        ensure(fd.as_fd(), Path::new("/link/x"), Kind::Folder).unwrap();
        ensure(fd.as_fd(), Path::new("/up/y"), Kind::Folder).unwrap();
        assert!(folder.path().join("run/there/x").is_dir());
        assert!(folder.path().join("out/y").is_dir());
        assert!(!Path::new("/out").exists());
    }

    #[test]
    fn links_out_of_the_root_lead_back_into_it() {
        let (folder, fd) = root();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("host-etc")).unwrap();
        ensure(fd.as_fd(), Path::new("/host-etc/new"), Kind::File).unwrap();
        assert!(folder.path().join("etc/new").is_file());
        assert!(!Path::new("/etc/new").exists());
    }

    #[test]
    fn loops_end() {
        let (folder, fd) = root();
        std::os::unix::fs::symlink("b", folder.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("b")).unwrap();
        let error = ensure(fd.as_fd(), Path::new("/a/x"), Kind::Folder).unwrap_err();
        assert_eq!(error.errno, Some(libc::ELOOP));
    }
}
