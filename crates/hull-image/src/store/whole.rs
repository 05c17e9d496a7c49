//! What a snapshot that is a whole tree changed against its layers.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::ChangeKind;
use super::diff::{Changes, find, join, merged_names, same};
use crate::archive::lstat;
use crate::archive::pack::{names, reading};
use crate::{Error, Result};

/// Folders deeper than this are refused: each takes a descriptor.
const DEPTH: usize = 900;

/// Compares a folder of the tree with what the layers have at its place, uppermost first.
pub(super) fn compare(
    tree: &OwnedFd,
    lower: &[PathBuf],
    path: &[u8],
    depth: usize,
    changes: &mut Changes,
) -> Result<()> {
    if depth > DEPTH {
        return Err(Error::invalid(format!("folders are nested deeper than {DEPTH}: changes are not told")));
    }
    let fail = |errno| reading(path, errno);
    let present = names(tree.as_fd()).map_err(fail)?;
    let kept: HashSet<&[u8]> = present.iter().map(|name| name.as_bytes()).collect();
    for name in merged_names(lower)?.iter().filter(|name| !kept.contains(&name[..])) {
        changes.insert(join(path, name), ChangeKind::Deleted);
    }
    for name in present {
        let name = name.as_bytes();
        let stat = match lstat(tree.as_fd(), name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(fail(errno)),
        };
        let path = join(path, name);
        let below = find(lower, name)?;
        let kind = match &below {
            None => Some(ChangeKind::Added),
            Some(below) => (!same(tree, name, &stat, below)).then_some(ChangeKind::Modified),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            changes.extend(kind.map(|kind| (path, kind)));
            continue;
        }
        let folders = below.map(|below| below.folders).unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = match fs::openat(tree, name, flags, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(fail(errno)),
        };
        let before = changes.len();
        compare(&inner, &folders, &path, depth + 1, changes)?;
        // A folder in which something changed is changed itself.
        let inside = (changes.len() > before).then_some(ChangeKind::Modified);
        changes.extend(kind.or(inside).map(|kind| (path, kind)));
    }
    Ok(())
}
