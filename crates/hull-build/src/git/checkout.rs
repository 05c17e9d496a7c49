//! The files of a commit, written beneath a folder by descriptors: nothing that a tree says leads out of it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::BufWriter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, mkdirat, openat, openat2, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::object::{Commit, Entry, Kind, Oid, entries};
use super::pack::Pack;
use super::room::{Bounded, Room};
use super::submodule;
use crate::failure::{Failure, Result};

/// Folders may not be nested deeper: each takes a descriptor.
const DEPTH: usize = 300;
/// A link's target may not be longer.
const LINK: usize = 4096;
/// A repository with its submodules may not have more files and folders: a pack of two kilobytes can name them by the
/// billion.
pub(super) const ENTRIES: u64 = 4_000_000;
/// The trees of a folder and of those that it is in may not be larger, in bytes.
const OPEN: usize = 256 << 20;

/// What was written.
#[derive(Default)]
pub(super) struct Written {
    /// The submodules among it.
    pub(super) links: Vec<Link>,
    /// Which repositories they are, by their paths.
    pub(super) modules: BTreeMap<String, String>,
    /// The files, for git's own list of them, where it is wanted.
    pub(super) files: Option<Vec<Filed>>,
}

/// A submodule.
pub(super) struct Link {
    /// Where it goes, beneath the folder that is written.
    pub(super) path: String,
    /// Where it is in its repository.
    pub(super) whole_path: String,
    pub(super) commit: Oid,
}

/// A file of the commit.
pub(super) struct Filed {
    pub(super) path: Vec<u8>,
    pub(super) mode: u32,
    pub(super) oid: Oid,
}

/// What is written, and where.
pub(super) struct Checkout<'a> {
    pub(super) pack: &'a Pack,
    pub(super) commit: Oid,
    /// The one folder of it that is written; empty: all.
    pub(super) subdir: &'a str,
    pub(super) root: BorrowedFd<'a>,
    /// Beneath the root.
    pub(super) at: &'a str,
    /// Its files are told ([`Written::files`]).
    pub(super) lists_files: bool,
    /// So many files and folders may still be written, with those of other repositories.
    pub(super) left: &'a AtomicU64,
    pub(super) stop: &'a AtomicBool,
}

/// Writes the files of a commit, as far as there is room for them. All get the time of the commit: the same commit
/// makes the same files.
pub(super) fn write(checkout: &Checkout<'_>, room: Room) -> Result<Written> {
    let Checkout { pack, subdir, root, at, .. } = *checkout;
    let commit = Commit::parse(&pack.object(checkout.commit, Kind::Commit)?)?;
    let mut written = Written { files: checkout.lists_files.then(Vec::new), ..Written::default() };
    let mut tree = commit.tree;
    if let Some(modules) =
        entry(pack, tree, b".gitmodules")?.filter(|(mode, _)| mode & 0o170_000 == 0o100_000)
    {
        let bytes = pack.object(modules.1, Kind::Blob)?;
        written.modules = submodule::parse(&String::from_utf8_lossy(&bytes));
    }
    let mut whole_path = String::new();
    for part in subdir.split('/').filter(|part| !matches!(*part, "" | ".")) {
        tree = match entry(pack, tree, part.as_bytes())? {
            Some((0o040_000, tree)) => tree,
            _ => return Err(Failure::invalid(format!("it has no folder {subdir:?}"))),
        };
        whole_path.push_str(part);
        whole_path.push('/');
    }
    let at = if at.is_empty() { "." } else { at };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let folder =
        openat2(root, at, flags, Mode::empty(), resolve).map_err(|errno| failed(at.as_bytes(), errno))?;
    let time = Timespec { tv_sec: commit.time.max(0), tv_nsec: 0 };
    let mut writer = Writer {
        pack,
        stop: checkout.stop,
        left: checkout.left,
        open: 0,
        room,
        times: Timestamps { last_access: time, last_modification: time },
        whole_path,
        written,
    };
    writer.tree(tree, &folder, b"", 0)?;
    Ok(writer.written)
}

fn failed(path: &[u8], error: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("write {}: {error}", String::from_utf8_lossy(path)))
}

/// An entry of a tree: its mode and its name.
fn entry(pack: &Pack, tree: Oid, name: &[u8]) -> Result<Option<(u32, Oid)>> {
    let bytes = pack.object(tree, Kind::Tree)?;
    let found = entries(&bytes)?.into_iter().find(|entry| entry.name == name);
    Ok(found.map(|entry| (entry.mode, entry.oid)))
}

struct Writer<'a> {
    pack: &'a Pack,
    stop: &'a AtomicBool,
    left: &'a AtomicU64,
    /// Bytes of the trees that are being written.
    open: usize,
    /// What may still be written.
    room: Room,
    times: Timestamps,
    /// The path of what is written in its repository, with a slash at its end.
    whole_path: String,
    written: Written,
}

impl Writer<'_> {
    fn tree(&mut self, tree: Oid, folder: &OwnedFd, path: &[u8], depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Failure::invalid(format!("folders are nested deeper than {DEPTH}")));
        }
        let bytes = self.pack.object(tree, Kind::Tree)?;
        self.open += bytes.len();
        if self.open > OPEN {
            return Err(Failure::invalid(format!("its trees in each other are longer than {OPEN} bytes")));
        }
        for entry in entries(&bytes)? {
            crate::build::wanted(self.stop)?;
            if self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
                return Err(Failure::invalid(format!("it has more than {ENTRIES} files and folders")));
            }
            let path = if path.is_empty() { entry.name.to_vec() } else { [path, b"/", entry.name].concat() };
            self.entry(&entry, folder, &path, depth)?;
        }
        self.open -= bytes.len();
        // Last: what was written into it has changed its time.
        utimensat(folder, ".", &self.times, AtFlags::empty()).map_err(|errno| failed(path, errno))
    }

    fn entry(&mut self, entry: &Entry<'_>, folder: &OwnedFd, path: &[u8], depth: usize) -> Result<()> {
        let failed = |errno: Errno| failed(path, errno);
        let name = CString::new(entry.name).map_err(|_| Failure::invalid("a name has a zero in it"))?;
        match entry.mode & 0o170_000 {
            0o040_000 => {
                self.folder(folder, &name).and_then(|()| self.opened(folder, &name)).map_err(failed)?;
                let inner = self.opened(folder, &name).map_err(failed)?;
                return self.tree(entry.oid, &inner, path, depth + 1);
            }
            0o160_000 => {
                self.folder(folder, &name).map_err(failed)?;
                let text = String::from_utf8(path.to_vec())
                    .map_err(|_| Failure::invalid("the path of a submodule is no text"))?;
                let whole_path = format!("{}{text}", self.whole_path);
                self.written.links.push(Link { path: text, whole_path, commit: entry.oid });
                self.filed(path, 0o160_000, entry.oid);
                return Ok(());
            }
            0o120_000 => {
                let target = self.pack.object(entry.oid, Kind::Blob)?;
                let text = CString::new(target.as_slice())
                    .ok()
                    .filter(|text| (1..=LINK).contains(&text.count_bytes()));
                let text = text.ok_or_else(|| Failure::invalid("a symbolic link leads to no path"))?;
                symlinkat(&text, folder, &name).map_err(failed)?;
            }
            0o100_000 => {
                let mode = if entry.mode & 0o100 != 0 { 0o755 } else { 0o644 };
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(folder, &name, flags, Mode::from_raw_mode(mode)).map_err(failed)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
                let out = Bounded { out: File::from(file), room: &mut self.room, stop: self.stop };
                let mut out = BufWriter::with_capacity(128 << 10, out);
                self.pack.blob(entry.oid, &mut out)?;
                out.into_inner().map_err(|error| Failure::invalid(format!("write a file: {error}")))?;
            }
            _ => return Err(Failure::invalid(format!("{} is of no kind", String::from_utf8_lossy(path)))),
        }
        utimensat(folder, &name, &self.times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let mode = match entry.mode & 0o170_000 {
            0o120_000 => 0o120_000,
            _ if entry.mode & 0o100 != 0 => 0o100_755,
            _ => 0o100_644,
        };
        self.filed(path, mode, entry.oid);
        Ok(())
    }

    fn filed(&mut self, path: &[u8], mode: u32, oid: Oid) {
        self.written.files.iter_mut().for_each(|files| files.push(Filed { path: path.to_vec(), mode, oid }));
    }

    fn folder(&self, folder: &OwnedFd, name: &CString) -> rustix::io::Result<()> {
        mkdirat(folder, name, Mode::from_raw_mode(0o755))?;
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(0o755), AtFlags::empty())
    }

    fn opened(&self, folder: &OwnedFd, name: &CString) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(folder.as_fd(), name, flags, Mode::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::Naming;
    use super::super::pack::tests::{compressed, opened};
    use super::*;

    fn object(kind: Kind, number: u8, bytes: &[u8]) -> (Oid, Vec<u8>) {
        let mut naming = Naming::of(kind, bytes.len() as u64);
        naming.add(bytes);
        let size = bytes.len() as u8;
        let head = [0x80 | (number << 4) | (size & 15), size >> 4];
        (naming.finish().unwrap(), [&head, compressed(bytes).as_slice()].concat())
    }

    /// Trees in each other, each with two entries that are the same: as many files as two to the power of their number.
    fn bomb(levels: usize) -> (Oid, Vec<Vec<u8>>) {
        let (mut inner, blob) = object(Kind::Blob, 3, b"x");
        let (mut mode, mut objects) = ("100644", vec![blob]);
        for _ in 0..levels {
            let entry = |name: &str| [format!("{mode} {name}\0").as_bytes(), &inner.0].concat();
            let (tree, bytes) = object(Kind::Tree, 2, &[entry("a"), entry("b")].concat());
            (inner, mode) = (tree, "40000");
            objects.push(bytes);
        }
        let commit = format!("tree {inner}\nauthor a <a@e> 1 +0000\ncommitter a <a@e> 1 +0000\n\n");
        let (commit, bytes) = object(Kind::Commit, 1, commit.as_bytes());
        objects.push(bytes);
        (commit, objects)
    }

    #[test]
    fn a_few_trees_that_name_each_other_end_at_a_limit() {
        let (commit, objects) = bomb(20);
        let pack = opened(&objects).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let (left, stop) = (AtomicU64::new(100), AtomicBool::new(false));
        let checkout = |left| Checkout {
            pack: &pack,
            commit,
            subdir: "a/a/a/a/a/a/a/a/a/a/a/a/a/a/a",
            root: root.as_fd(),
            at: "",
            lists_files: false,
            left,
            stop: &stop,
        };
        // Five levels are left: 62 entries.
        let room = Room::of(1000);
        assert!(write(&checkout(&left), room).unwrap().files.is_none());
        assert_eq!(left.load(Relaxed), 38);
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let left = AtomicU64::new(100);
        let whole = Checkout { subdir: "", root: root.as_fd(), ..checkout(&left) };
        let error = write(&whole, room).err().unwrap();
        assert!(error.message.contains("more than"), "{}", error.message);
        // 32 files of a byte are left, for fewer of which there is room.
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let left = AtomicU64::new(100);
        let part = Checkout { root: root.as_fd(), ..checkout(&left) };
        let error = write(&part, Room::of(31)).err().unwrap();
        assert!(error.message.contains("there is room for 31 bytes"), "{}", error.message);
    }
}
