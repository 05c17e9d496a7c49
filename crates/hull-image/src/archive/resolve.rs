//! Paths as a container sees them: symbolic links lead beneath its root, never out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat};
use rustix::io::Errno;

use super::lstat;
use crate::{Error, Result};

/// As many as the kernel follows.
const LINKS: usize = 40;

/// What a path names.
pub(super) struct Resolved {
    /// The folder it lies in, all links followed.
    pub(super) parent: OwnedFd,
    /// Its name there; `.` where the path names the folder itself.
    pub(super) base: Vec<u8>,
    /// The last element as it was asked for: what the entries of an archive begin with.
    pub(super) name: String,
    pub(super) stat: Stat,
}

/// Resolves a path as Docker does: its folder is followed, its last element is not, unless a slash or `/.` comes
/// after it.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &str) -> Result<Resolved> {
    let fail = |errno| failed(path, errno);
    let absolute = clean(path);
    let given = path.trim_end_matches('/');
    let is_dot = given == "." || given.ends_with("/.");
    let is_folder = path.ends_with('/') || is_dot || path.is_empty();
    let (folder, base) = match absolute.rfind('/') {
        Some(slash) if !is_folder && absolute.len() > 1 => (&absolute[..slash], &absolute[slash + 1..]),
        _ => (&absolute[..], "."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let parent = open_in_root(root, folder.as_bytes(), flags).map_err(fail)?;
    let stat = lstat(parent.as_fd(), base.as_bytes()).map_err(fail)?;
    let last = absolute.rsplit('/').next().filter(|last| !last.is_empty()).unwrap_or("/");
    let name = if is_dot { "." } else { last };
    Ok(Resolved { parent, base: base.as_bytes().to_vec(), name: name.to_owned(), stat })
}

/// Opens a path beneath the root, all links followed.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"/" } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere else disturbed the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Where a path leads when every link is followed, as the container would name it. What is not there ends the walk:
/// the rest is kept as it is.
pub(super) fn through_links(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let mut left: Vec<String> = clean(path).split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match &part[..] {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        let folder = format!("/{}", done.join("/"));
        // No element of `done` is a link, unless the container puts one there now: then the walk is in its root still.
        let target =
            open_in_root(root, folder.as_bytes(), OFlags::PATH | OFlags::DIRECTORY).and_then(|folder| {
                match FileType::from_raw_mode(lstat(folder.as_fd(), part.as_bytes())?.st_mode) {
                    FileType::Symlink => readlinkat(&folder, &part, Vec::new()).map(Some),
                    _ => Ok(None),
                }
            });
        match target {
            Ok(Some(target)) => {
                links += 1;
                if links > LINKS {
                    return Err(failed(path, Errno::LOOP));
                }
                let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
                if target.starts_with('/') {
                    done.clear();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR) => done.push(part),
            Err(errno) => return Err(failed(path, errno)),
        }
    }
    Ok(format!("/{}", done.join("/")))
}

/// The path from `/`, without doubled and closing slashes, `.` and `..`, as Go's `filepath.Join("/", path)`.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

pub(super) fn failed(path: &str, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => Error::not_found(format!("Could not find the file {path}")),
        Errno::NOTDIR => Error::invalid(format!("{path}: not a directory")),
        Errno::LOOP => Error::invalid(format!("{path}: too many levels of symbolic links")),
        Errno::NAMETOOLONG | Errno::INVAL => Error::invalid(format!("{path:?}: not a valid path")),
        errno => Error::system(format_args!("open {path} in the container"), errno),
    }
}
