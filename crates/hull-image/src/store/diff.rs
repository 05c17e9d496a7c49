//! What a snapshot changed: its upper folder against the layers below, read without a mount.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Change, ChangeKind, Store};
use crate::archive::lstat;
use crate::archive::pack::{by_number, names, reading};
use crate::layer::extract::{OPAQUE, is_whiteout};
use crate::{Error, Result};

/// Folders deeper than this are refused: each takes a descriptor.
const DEPTH: usize = 900;

/// A path, without the leading slash, and what happened to it.
pub(super) type Changes = BTreeMap<Vec<u8>, ChangeKind>;

impl Store {
    /// What a snapshot changed against its image, sorted by path. It need not be mounted.
    pub fn changes(&self, key: &str) -> Result<Vec<Change>> {
        let changes = self.raw_changes(key)?.into_iter();
        let change = |(path, kind): (Vec<u8>, ChangeKind)| Change {
            path: format!("/{}", String::from_utf8_lossy(&path)),
            kind,
        };
        Ok(changes.map(change).collect())
    }

    /// The same with the names as they are.
    pub(super) fn raw_changes(&self, key: &str) -> Result<Changes> {
        let snapshot = self.snapshot(key)?;
        let upper = open_upper(&snapshot.upper)?;
        let mut changes = Changes::new();
        match snapshot.is_whole {
            true => super::whole::compare(&upper, &snapshot.lower, b"", 0, &mut changes)?,
            false => compare(&upper, &snapshot.lower, false, b"", 0, &mut changes)?,
        }
        Ok(changes)
    }

    /// The bytes of a snapshot's own files, walked; one with several names counts once.
    pub(super) fn walked_size(&self, key: &str) -> Result<u64> {
        let snapshot = self.snapshot(key)?;
        if !snapshot.is_whole {
            return tree_size(&snapshot.upper);
        }
        let upper = open_upper(&snapshot.upper)?;
        let mut total = 0;
        for (path, kind) in self.raw_changes(key)? {
            let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if kind == ChangeKind::Deleted {
                continue;
            }
            if let Ok(file) = fs::openat2(&upper, &path[..], flags, Mode::empty(), resolve)
                && let Ok(stat) = fs::fstat(&file)
                && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            {
                total += u64::try_from(stat.st_size).unwrap_or(0);
            }
        }
        Ok(total)
    }
}

/// The bytes of the files in a folder, walked by descriptor; one with several names counts once, and what is mounted in it
/// not at all.
///
/// # Errors
/// It cannot be read, or is nested too deeply.
pub fn tree_size(folder: &Path) -> Result<u64> {
    let opened = open_upper(folder)?;
    let device = fs::fstat(&opened).map_err(|errno| Error::file("read", folder, errno))?.st_dev;
    size(opened.as_fd(), device, &mut HashSet::new(), 0)
}

pub(super) fn open_upper(upper: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(upper, flags, Mode::empty()).map_err(|errno| Error::file("open", upper, errno))
}

/// Compares a folder of the upper layer with what the lower ones have at its place, uppermost first. `hidden`: a
/// folder above it is opaque, so that nothing of them is seen through it.
fn compare(
    upper: &OwnedFd,
    lower: &[PathBuf],
    hidden: bool,
    path: &[u8],
    depth: usize,
    changes: &mut Changes,
) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(Error::invalid(format!("folders are nested deeper than {DEPTH}: changes are not told")));
    }
    let fail = |errno| reading(path, errno);
    let present = names(upper.as_fd()).map_err(fail)?;
    let hidden = hidden || is_opaque(&by_number(upper));
    if hidden {
        let present: HashSet<&[u8]> = present.iter().map(|name| name.as_bytes()).collect();
        for name in merged_names(lower)? {
            if !present.contains(&name[..]) {
                changes.insert(join(path, &name), ChangeKind::Deleted);
            }
        }
    }
    for name in present {
        let name = name.as_bytes();
        let stat = match lstat(upper.as_fd(), name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(fail(errno)),
        };
        let path = join(path, name);
        let below = find(lower, name)?;
        if is_whiteout(&stat) {
            if below.is_some() {
                changes.insert(path, ChangeKind::Deleted);
            }
            continue;
        }
        let kind = match &below {
            None => Some(ChangeKind::Added),
            Some(below) => (!same(upper, name, &stat, below)).then_some(ChangeKind::Modified),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            changes.extend(kind.map(|kind| (path, kind)));
            continue;
        }
        let folders = below.map(|below| below.folders).unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = match fs::openat(upper, name, flags, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(fail(errno)),
        };
        let before = changes.len();
        compare(&inner, &folders, hidden, &path, depth + 1, changes)?;
        // A folder in which something changed is changed itself.
        let inside = (changes.len() > before).then_some(ChangeKind::Modified);
        changes.extend(kind.or(inside).map(|kind| (path, kind)));
    }
    Ok(())
}

/// What the lower layers, merged, have at a name.
pub(super) struct Below {
    pub(super) stat: Stat,
    pub(super) path: PathBuf,
    /// For a folder: those that are merged, uppermost first.
    pub(super) folders: Vec<PathBuf>,
}

pub(super) fn find(lower: &[PathBuf], name: &[u8]) -> Result<Option<Below>> {
    let mut found: Option<Below> = None;
    for folder in lower {
        let path = folder.join(OsStr::from_bytes(name));
        let stat = match fs::lstat(&path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => continue,
            Err(errno) => return Err(Error::file("read", &path, errno)),
        };
        if is_whiteout(&stat) {
            break;
        }
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let last = !is_folder || path.to_str().is_some_and(is_opaque);
        match &mut found {
            Some(_) if !is_folder => break,
            Some(found) => found.folders.push(path),
            None => {
                let folders = if is_folder { vec![path.clone()] } else { Vec::new() };
                found = Some(Below { stat, path, folders });
            }
        }
        if last {
            break;
        }
    }
    Ok(found)
}

/// The names that folders have when they are merged.
pub(super) fn merged_names(lower: &[PathBuf]) -> Result<BTreeSet<Vec<u8>>> {
    let mut present = BTreeSet::new();
    let mut gone = HashSet::new();
    for folder in lower {
        let fail = |error| Error::file("read", folder, error);
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().as_bytes().to_vec();
            if present.contains(&name) || gone.contains(&name) {
                continue;
            }
            match fs::lstat(folder.join(OsStr::from_bytes(&name))) {
                Ok(stat) if is_whiteout(&stat) => gone.insert(name),
                _ => present.insert(name),
            };
        }
    }
    Ok(present)
}

/// A file that was copied up and is as it was, is not changed.
pub(super) fn same(upper: &OwnedFd, name: &[u8], stat: &Stat, below: &Below) -> bool {
    let other = &below.stat;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let alike = stat.st_mode == other.st_mode && stat.st_uid == other.st_uid && stat.st_gid == other.st_gid;
    if kind == FileType::Directory || !alike {
        return alike;
    }
    let alike = stat.st_rdev == other.st_rdev
        && stat.st_size == other.st_size
        && (stat.st_mtime, stat.st_mtime_nsec) == (other.st_mtime, other.st_mtime_nsec);
    if kind != FileType::RegularFile || !alike {
        return alike;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(file) = fs::openat(upper, name, flags, Mode::empty()) else { return false };
    capability(by_number(&file).as_ref()) == capability(&below.path)
}

fn capability(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 64];
    let length = fs::getxattr(path, "security.capability", &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

pub(super) fn is_opaque(path: &str) -> bool {
    let mut value = [0; 4];
    // `x` marks a folder that holds whiteouts in another form, which is not opaque.
    matches!(fs::getxattr(path, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}

fn size(folder: BorrowedFd<'_>, device: u64, seen: &mut HashSet<(u64, u64)>, depth: usize) -> Result<u64> {
    if depth > DEPTH {
        return Err(Error::invalid(format!("folders are nested deeper than {DEPTH}: the size is not told")));
    }
    let mut total = 0;
    for name in names(folder).map_err(|errno| reading(b"", errno))? {
        let Ok(stat) = fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != device {
            continue;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(inner) = fs::openat(folder, &name, flags, Mode::empty()) {
                total += size(inner.as_fd(), device, seen, depth + 1)?;
            }
        } else if stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino)) {
            total += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
    Ok(total)
}

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
