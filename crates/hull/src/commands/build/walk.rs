//! What is in a folder of somebody's sources, walked by several threads: a large one is listed at each build.
//!
//! A folder is a task: its entries are read and looked at by one thread, its subfolders are tasks again. At the end all are
//! put one behind the other in the order of their names, whoever came to which first.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_api::ignore::{Ignore, State};
use hull_api::listing::{Entry, Identity, Kind, Listing};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, open, readlinkat, statat};

use crate::error::words;

/// A file that was changed less than this before it was looked at may be changed again without its time telling: clocks
/// of file systems tick, some of them only every other second.
const TICK: i64 = 2;

/// File systems of this machine's kernel alone, whose times are this machine's: ext, xfs, btrfs, tmpfs, overlay, zfs, f2fs,
/// bcachefs. On others a file may be changed from elsewhere, by another clock.
const LOCAL: [i64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];

/// More threads than this wait for one another in the kernel's cache of names.
const THREADS: usize = 8;

/// All that belongs to the build; none where the file system's word for what was changed is not this machine's.
pub(super) fn listed(folder: &Path, ignore: &Ignore) -> io::Result<Option<Listing>> {
    let kind = rustix::fs::statfs(folder)?.f_type;
    if !LOCAL.contains(&(kind as i64 & 0xffff_ffff)) {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let walk = Walk {
        ignore,
        root: folder,
        device: rustix::fs::stat(folder)?.st_dev,
        before: i64::try_from(now).unwrap_or(0) - TICK,
    };
    walk.all().map(Some)
}

struct Walk<'a> {
    ignore: &'a Ignore,
    root: &'a Path,
    /// The folder's file system: nothing is known of others that are mounted in it.
    device: u64,
    /// What was changed at this second or later may be changed again without telling.
    before: i64,
}

/// A folder to be read.
struct Task {
    /// Its place among what was read.
    number: usize,
    /// Its path beneath the root; empty for the root.
    path: Vec<u8>,
    state: State,
}

/// An entry of a folder that was read.
struct Found {
    entry: Entry,
    /// The folder that it is, by its number.
    inside: Option<usize>,
    /// It is left out, but for what may belong to the build beneath it.
    only_above: bool,
}

/// What is to be done, and what was.
#[derive(Default)]
struct Work {
    waiting: Vec<Task>,
    /// Tasks that were begun and not ended.
    busy: usize,
    read: Vec<Vec<Found>>,
    failed: Option<io::Error>,
}

impl Work {
    fn add(&mut self, path: Vec<u8>, state: State) -> usize {
        let number = self.read.len();
        self.read.push(Vec::new());
        self.waiting.push(Task { number, path, state });
        number
    }
}

impl Walk<'_> {
    fn all(&self) -> io::Result<Listing> {
        let mut first = Work::default();
        first.add(Vec::new(), self.ignore.root());
        let (work, more) = (Mutex::new(first), Condvar::new());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| self.work(&work, &more));
            }
            self.work(&work, &more);
        });
        let work = work.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = work.failed {
            return Err(error);
        }
        let mut read = work.read;
        let mut listing = Listing::default();
        listing.entries.reserve(read.iter().map(Vec::len).sum());
        put(&mut read, 0, &mut listing.entries);
        Ok(listing)
    }

    /// Reads folders until there is none left.
    fn work(&self, work: &Mutex<Work>, more: &Condvar) {
        let mut guard = work.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if guard.failed.is_some() || (guard.waiting.is_empty() && guard.busy == 0) {
                more.notify_all();
                return;
            }
            let Some(task) = guard.waiting.pop() else {
                guard = more.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            guard.busy += 1;
            drop(guard);
            let found = self.folder(&task);
            guard = work.lock().unwrap_or_else(PoisonError::into_inner);
            guard.busy -= 1;
            match found {
                Ok(found) => {
                    let found = found.into_iter().map(|(mut found, state)| {
                        found.inside = state.map(|state| guard.add(found.entry.path.clone(), state));
                        found
                    });
                    let found: Vec<Found> = found.collect();
                    guard.read[task.number] = found;
                }
                Err(error) => drop(guard.failed.get_or_insert(error)),
            }
            more.notify_all();
        }
    }

    /// The entries of a folder in the order of their names; and for those that are to be entered what the patterns say.
    fn folder(&self, task: &Task) -> io::Result<Vec<(Found, Option<State>)>> {
        let path = self.root.join(std::ffi::OsStr::from_bytes(&task.path));
        let failed = |errno: rustix::io::Errno| in_path(&path, errno.into());
        // The root itself may be a link.
        let follow = if task.path.is_empty() { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let opened = open(&path, flags, Mode::empty()).map_err(failed)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                found.extend(self.entry(&opened, name, task, &path)?);
            }
        }
        found.sort_unstable_by(|(a, _), (b, _)| a.entry.path.cmp(&b.entry.path));
        Ok(found)
    }

    fn entry(
        &self,
        folder: &OwnedFd,
        name: &CStr,
        task: &Task,
        place: &Path,
    ) -> io::Result<Option<(Found, Option<State>)>> {
        let path = match task.path.is_empty() {
            true => name.to_bytes().to_vec(),
            false => [&task.path[..], b"/", name.to_bytes()].concat(),
        };
        let in_place = |errno: rustix::io::Errno| {
            in_path(&place.join(std::ffi::OsStr::from_bytes(name.to_bytes())), errno.into())
        };
        let state = self.ignore.enter(&task.state, &path);
        let only_above = state.is_excluded();
        if only_above && !self.ignore.may_include_beneath(&path) {
            return Ok(None);
        }
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(_) if only_above => return Ok(None),
            stat => stat.map_err(in_place)?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Folder,
            // A folder that is left out is entered only for what may not be.
            _ if only_above => return Ok(None),
            FileType::Symlink => {
                Kind::Link(readlinkat(folder, name, Vec::new()).map_err(in_place)?.into_bytes())
            }
            FileType::RegularFile => {
                Kind::File { size: stat.st_size.cast_unsigned(), identity: self.identity(&stat) }
            }
            FileType::Fifo => Kind::Fifo,
            // Sockets and devices are this machine's.
            _ => return Ok(None),
        };
        let entered = (kind == Kind::Folder).then_some(state);
        let entry = Entry { path, kind, mode: stat.st_mode & 0o7777, modified: stat.st_mtime };
        Ok(Some((Found { entry, inside: None, only_above }, entered)))
    }

    fn identity(&self, stat: &Stat) -> Option<Identity> {
        let settled = stat.st_ctime < self.before && stat.st_dev == self.device;
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).ok()?;
        settled.then_some(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            changed: (stat.st_ctime, nanoseconds),
        })
    }
}

/// Puts what is in a folder behind what is there, each subfolder before what is in it. One that is left out is told with
/// what is in it, or not at all.
fn put(read: &mut [Vec<Found>], folder: usize, entries: &mut Vec<Entry>) {
    for found in std::mem::take(&mut read[folder]) {
        let before = entries.len();
        entries.push(found.entry);
        if let Some(inside) = found.inside {
            put(read, inside, entries);
        }
        if found.only_above && entries.len() == before + 1 {
            entries.pop();
        }
    }
}

/// The same error, with the file that it is of.
pub(super) fn in_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {}", path.display(), words(&error)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn paths(folder: &Path, patterns: &str) -> Vec<String> {
        let listing = listed(folder, &Ignore::parse(patterns).unwrap()).unwrap().unwrap();
        let mut bytes = Vec::new();
        listing.write(&mut bytes).unwrap();
        // What is told is what the daemon takes.
        let listing = Listing::read(&mut &bytes[..]).unwrap();
        listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
    }

    #[test]
    fn what_is_left_out_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["a/b/c", "a/empty", "out/in"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["a/b/c/keep", "a/b/drop", "out/in/f", "z"] {
            fs::write(root.join(path), "x").unwrap();
        }
        assert_eq!(paths(root, "out\n**/drop\n"), ["a", "a/b", "a/b/c", "a/b/c/keep", "a/empty", "z"]);
        // Folders on the way to what is wanted are told, and once.
        assert_eq!(paths(root, "*\n!a/b/c/keep\n!z\n"), ["a", "a/b", "a/b/c", "a/b/c/keep", "z"]);
        assert_eq!(paths(root, "*\n!a/b/c/other\n!z\n"), ["z"]);
        // The folder itself may be a link; those in it are links, with what they lead to.
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        assert_eq!(paths(&root.join("link"), ""), ["b", "b/c", "b/c/keep", "b/drop", "empty"]);
        let listing = listed(root, &Ignore::parse("a\nout").unwrap()).unwrap().unwrap();
        assert_eq!(listing.entries[0].kind, Kind::Link(b"a".to_vec()));
    }

    #[test]
    fn many_folders_have_one_order() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..200 {
            let inner = folder.path().join(format!("{n}/x.d"));
            fs::create_dir_all(&inner).unwrap();
            fs::write(inner.join("f"), "x").unwrap();
            fs::write(folder.path().join(format!("{n}/x")), "x").unwrap();
        }
        let first = paths(folder.path(), "");
        assert_eq!(
            (first.len(), &first[..4]),
            (800, &["0", "0/x", "0/x.d", "0/x.d/f"].map(String::from)[..])
        );
        assert_eq!(paths(folder.path(), ""), first);
        // What cannot be read is told, and nobody waits for it.
        assert!(listed(&folder.path().join("nowhere"), &Ignore::default()).is_err());
    }

    #[test]
    fn what_was_changed_just_now_may_be_changed_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "x").unwrap();
        let stat = rustix::fs::stat(&file).unwrap();
        let ignore = Ignore::default();
        let walk = |before, device| Walk { ignore: &ignore, root: folder.path(), device, before };
        assert!(walk(stat.st_ctime, stat.st_dev).identity(&stat).is_none());
        assert!(walk(stat.st_ctime + 1, stat.st_dev).identity(&stat).is_some());
        assert!(walk(stat.st_ctime + 1, stat.st_dev + 1).identity(&stat).is_none());
        let listing = listed(folder.path(), &ignore).unwrap().unwrap();
        assert_eq!(listing.entries[0].kind, Kind::File { size: 1, identity: None });
        assert!(listing.encoded().unwrap().1.is_none());
    }
}
