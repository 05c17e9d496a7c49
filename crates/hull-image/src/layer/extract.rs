//! One entry after another from an archive into a folder, by descriptor, never outside of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    openat2,
};
use rustix::io::Errno;

use super::remove::remove_all;
use super::split::kept_name;
use crate::archive::IdMap;
use crate::archive::pack::by_number;
use crate::tar::{Entry, Kind, Reader, Record};
use crate::{Error, Result};

/// Overlayfs's mark of a folder that hides what is below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Zeros are left out as holes in pieces of this size.
const HOLE: usize = 64 * 1024;

/// Whose folder it is that is written to.
pub(crate) enum Rules<'a> {
    /// A layer that nobody else sees yet: whiteouts become overlayfs's, symbolic links lead to its own folders alone,
    /// replaced files go to the folder `kept`.
    Layer { kept: &'a Path },
    /// A container's file system, in use: parents are resolved as the container sees them.
    Container {
        /// A folder and what is none do not replace each other.
        no_overwrite_dir_non_dir: bool,
        /// Everything gets this owner; `None`: the archive's.
        owner: Option<(u32, u32)>,
        /// How owners are told on the host.
        ids: &'a IdMap,
        /// Devices are refused.
        no_devices: bool,
    },
    /// A volume, which may be in use: parents are resolved beneath it, its own folder is part of the archive, and
    /// overlayfs's attributes are its users' own.
    Volume {
        /// Devices are refused.
        no_devices: bool,
    },
}

/// Extracts entries beneath a folder.
pub(crate) struct Extractor<'a> {
    root: BorrowedFd<'a>,
    /// Where in the root the archive belongs; empty or ending in a slash.
    prefix: Vec<u8>,
    rules: Rules<'a>,
    /// Folders that were opened lately.
    open: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    /// What folders get when all is in them.
    folders: HashMap<Vec<u8>, Entry>,
    /// The bytes of the files.
    pub(crate) size: u64,
}

impl<'a> Extractor<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, prefix: &[u8], rules: Rules<'a>) -> Extractor<'a> {
        let mut prefix = prefix.to_vec();
        if !prefix.is_empty() && !prefix.ends_with(b"/") {
            prefix.push(b'/');
        }
        Extractor { root, prefix, rules, open: Vec::new(), folders: HashMap::new(), size: 0 }
    }

    fn is_layer(&self) -> bool {
        matches!(self.rules, Rules::Layer { .. })
    }

    /// Extracts one entry, its contents from the reader. `written` tells how many contents were recorded before.
    pub(crate) fn entry<R: BufRead, S: Record>(
        &mut self,
        entry: Entry,
        reader: &mut Reader<R, S>,
        written: impl Fn(&S) -> u64,
    ) -> Result<()> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            // The root itself is what it is, as in Docker; but a volume's.
            if matches!(self.rules, Rules::Volume { .. }) && entry.kind == Kind::Directory {
                self.folders.insert(Vec::new(), entry);
            }
            return Ok(());
        }
        let (folder, path) = self.place(path)?;
        let (parent, name) = split(&path);
        let shown = || format!("extract {:?}", String::from_utf8_lossy(&path));
        if self.is_layer() && name.starts_with(WHITEOUT) {
            return self.whiteout(&folder, parent, name);
        }
        let replaced = written(&reader.record);
        let done = match entry.kind {
            Kind::Directory => self.directory(&folder, &path, name, replaced, entry),
            Kind::File => self.file(&folder, &path, name, replaced, &entry, reader),
            Kind::HardLink => self.hard_link(&folder, &path, name, replaced, &entry),
            Kind::Symlink | Kind::Character | Kind::Block | Kind::Fifo => {
                self.special(&folder, &path, name, replaced, &entry)
            }
        };
        done.map_err(|failure| failure.told(shown))
    }

    /// Gives the folders their owners, modes, attributes and times, now that nothing more is put into them.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.open.clear();
        for (path, entry) in std::mem::take(&mut self.folders) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = match self.open_beneath(&path, flags) {
                Ok(folder) => folder,
                // Another has removed it meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.is_layer() => continue,
                Err(errno) => return Err(Failure::from(errno).told(|| shown(&path))),
            };
            self.dress(&folder, &entry).map_err(|failure| failure.told(|| shown(&path)))?;
        }
        Ok(self.size)
    }

    /// The folder that an entry lies in, and the path that it really has: layers have entries beneath symbolic links of their
    /// own, as beneath `lib` that leads to `usr/lib`. The archive can only be given back from where its files are.
    fn place(&mut self, path: Vec<u8>) -> Result<(Rc<OwnedFd>, Vec<u8>)> {
        let (parent, name) = split(&path);
        match self.folder(parent) {
            Ok(folder) => Ok((folder, path)),
            Err(failure) if self.is_layer() && failure.is(Errno::LOOP) => {
                let real = self.led(parent).map_err(|failure| failure.told(|| shown(parent)))?;
                let folder = self.folder(&real).map_err(|failure| failure.told(|| shown(&real)))?;
                Ok((folder, join(&real, name)))
            }
            Err(failure) => Err(failure.told(|| shown(parent))),
        }
    }

    /// Where in a layer a path to a folder leads by way of its symbolic links; the folder itself need not be there.
    fn led(&self, path: &[u8]) -> Result<Vec<u8>, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let nowhere = |path: &[u8]| {
            Failure::Refused(format!(
                "{:?} is a symbolic link that leads to no folder of the archive",
                String::from_utf8_lossy(path)
            ))
        };
        let from_root = if path.is_empty() { b"." } else { path };
        match openat2(self.root, from_root, flags, Mode::empty(), resolve) {
            Ok(folder) => return Ok(self.real_path(&folder)?),
            Err(Errno::NOENT) if !path.is_empty() => {}
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(nowhere(path)),
            Err(errno) => return Err(errno.into()),
        }
        let (parent, name) = split(path);
        let real = join(&self.led(parent)?, name);
        match self.open_beneath(&real, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC) {
            // A link, which leads nowhere.
            Ok(_) => Err(nowhere(path)),
            Err(Errno::NOENT) => Ok(real),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The path beneath the root of a folder there that is open.
    fn real_path(&self, folder: &OwnedFd) -> Result<Vec<u8>, Errno> {
        let root = fs::readlink(by_number(&self.root), Vec::new())?.into_bytes();
        let path = fs::readlink(by_number(folder), Vec::new())?.into_bytes();
        let beneath = path.strip_prefix(&root[..]).ok_or(Errno::XDEV)?;
        Ok(beneath.strip_prefix(b"/").unwrap_or(beneath).to_vec())
    }

    /// A folder beneath the root; the missing ones on the way are made.
    fn folder(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Failure> {
        if let Some(index) = self.open.iter().position(|(known, _)| known == path) {
            let last = self.open.len() - 1;
            self.open.swap(index, last);
            return Ok(Rc::clone(&self.open[last].1));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match self.open_beneath(path, flags) {
            Ok(folder) => folder,
            Err(Errno::NOENT) if !path.is_empty() => {
                let (parent, name) = split(path);
                let parent = self.folder(parent)?;
                match fs::mkdirat(&*parent, name, Mode::from(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.open_beneath(path, flags)?
            }
            Err(errno @ (Errno::NOTDIR | Errno::XDEV)) if self.is_layer() => {
                let what = if errno == Errno::XDEV { "outside of its root" } else { "not a folder" };
                let path = String::from_utf8_lossy(path);
                return Err(Failure::Refused(format!("an entry lies beneath {path:?}, which is {what}")));
            }
            Err(errno) => return Err(errno.into()),
        };
        if self.open.len() >= 8 {
            self.open.remove(0);
        }
        let folder = Rc::new(folder);
        self.open.push((path.to_vec(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = match self.rules {
            Rules::Layer { .. } => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Rules::Container { .. } | Rules::Volume { .. } => {
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
            }
        };
        let path: Vec<u8> = [&self.prefix[..], path].concat();
        let path = if path.is_empty() { b"." } else { &path[..] };
        loop {
            match openat2(self.root, path, flags, Mode::empty(), resolve) {
                // A rename somewhere else disturbed the walk.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// `.wh.name` hides what lower layers have there; what this layer itself has there stays.
    fn whiteout(&mut self, folder: &OwnedFd, parent: &[u8], name: &[u8]) -> Result<()> {
        let shown = || shown(&[parent, b"/", name].concat());
        if name == WHITEOUT_OPAQUE {
            return make_opaque(folder).map_err(|errno| Failure::from(errno).told(shown));
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.starts_with(WHITEOUT) {
            // Bookkeeping of aufs, which Docker passes over too.
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            let path = String::from_utf8_lossy(name);
            return Err(Error::invalid(format!("invalid archive: the whiteout {path:?} hides no name")));
        }
        let made = match fs::mknodat(folder, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            // On overlayfs nobody may make its mark. No archive has sockets: one without any permission stands for it.
            Err(Errno::PERM) => fs::mknodat(folder, hidden, FileType::Socket, Mode::empty(), 0),
            made => made,
        };
        match made {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match fs::openat(folder, hidden, flags, Mode::empty()) {
                    Ok(there) => make_opaque(&there).map_err(|errno| Failure::from(errno).told(shown)),
                    Err(_) => Ok(()),
                }
            }
            Err(errno) => Err(Failure::from(errno).told(shown)),
        }
    }

    fn directory(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        replaced: u64,
        entry: Entry,
    ) -> Result<(), Failure> {
        match fs::mkdirat(folder, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let was_whiteout = is_whiteout(&there);
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    if let Rules::Container { no_overwrite_dir_non_dir: true, .. } = self.rules {
                        return Err(Failure::Refused(format!(
                            "cannot overwrite non-directory {:?} with directory",
                            String::from_utf8_lossy(path)
                        )));
                    }
                    self.replace(folder, path, name, replaced)?;
                    fs::mkdirat(folder, name, Mode::RWXU)?;
                    if was_whiteout && self.is_layer() {
                        // What the whiteout hid stays hidden beneath the new folder.
                        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        make_opaque(&fs::openat(folder, name, flags, Mode::empty())?)?;
                    }
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        self.folders.insert(path.to_vec(), entry);
        Ok(())
    }

    fn file<R: BufRead, S: Record>(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        replaced: u64,
        entry: &Entry,
        reader: &mut Reader<R, S>,
    ) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => {
                self.make_room(folder, path, name, replaced)?;
                fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?
            }
            opened => opened?,
        };
        write_contents(&file, path, entry, reader)?;
        self.size += entry.size;
        self.dress(&file, entry)
    }

    fn hard_link(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        replaced: u64,
        entry: &Entry,
    ) -> Result<(), Failure> {
        let target = clean(&entry.link).map_err(|error| Failure::Refused(error.message))?;
        if target == path {
            return Ok(());
        }
        let (target_parent, target_name) = split(&target);
        let missing = || {
            let target = String::from_utf8_lossy(&target);
            Failure::Refused(format!(
                "it is a hard link to {target:?}, which is not in the archive before it"
            ))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match self.open_beneath(target_parent, flags) {
            // Beneath a link of the layer's own.
            Err(Errno::LOOP) if self.is_layer() => {
                let Ok(real) = self.led(target_parent) else { return Err(missing()) };
                if join(&real, target_name) == path {
                    return Ok(());
                }
                self.open_beneath(&real, flags)
            }
            opened => opened,
        };
        let target_folder = match opened {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(missing()),
            Err(errno) => return Err(errno.into()),
        };
        for again in [false, true] {
            match fs::linkat(&target_folder, target_name, folder, name, AtFlags::empty()) {
                Ok(()) => break,
                Err(Errno::EXIST) if !again => self.make_room(folder, path, name, replaced)?,
                Err(Errno::NOENT) => return Err(missing()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Symbolic links, devices and fifos.
    fn special(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        replaced: u64,
        entry: &Entry,
    ) -> Result<(), Failure> {
        let make = || match entry.kind {
            Kind::Symlink => fs::symlinkat(&entry.link[..], folder, name),
            Kind::Fifo => fs::mknodat(folder, name, FileType::Fifo, Mode::empty(), 0),
            kind => {
                let kind =
                    if kind == Kind::Block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let device = fs::makedev(entry.device.0, entry.device.1);
                fs::mknodat(folder, name, kind, Mode::empty(), device)
            }
        };
        if matches!(
            self.rules,
            Rules::Container { no_devices: true, .. } | Rules::Volume { no_devices: true }
        ) && matches!(entry.kind, Kind::Character | Kind::Block)
        {
            return Err(Failure::Refused("it is a device, and devices are not taken from here".to_owned()));
        }
        if entry.kind == Kind::Symlink && (entry.link.is_empty() || entry.link.contains(&0)) {
            return Err(Failure::Refused("it is a symbolic link that leads nowhere".to_owned()));
        }
        match make() {
            Err(Errno::EXIST) => {
                self.make_room(folder, path, name, replaced)?;
                make()?;
            }
            made => made?,
        }
        // By descriptor: in a container that runs, another may stand at the name by now.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = fs::openat(folder, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(fs::fstat(&node)?.st_mode);
        if (kind == FileType::Symlink) != (entry.kind == Kind::Symlink) {
            return Ok(());
        }
        self.dress_path(&node, entry)
    }

    /// Takes away what stands where something that is no folder is to be.
    fn make_room(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        replaced: u64,
    ) -> Result<(), Failure> {
        if let Rules::Container { no_overwrite_dir_non_dir: true, .. } = self.rules {
            let there = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                return Err(Failure::Refused(format!(
                    "cannot overwrite directory {:?} with non-directory",
                    String::from_utf8_lossy(path)
                )));
            }
        }
        self.replace(folder, path, name, replaced)
    }

    fn replace(&mut self, folder: &OwnedFd, path: &[u8], name: &[u8], replaced: u64) -> Result<(), Failure> {
        let beneath = [path, b"/"].concat();
        self.open.retain(|(known, _)| known != path && !known.starts_with(&beneath));
        self.folders.retain(|known, _| known != path && !known.starts_with(&beneath));
        if let Rules::Layer { kept } = self.rules {
            keep_files(folder.as_fd(), name, path, kept, replaced)?;
        }
        remove_all(folder.as_fd(), name)?;
        Ok(())
    }

    /// Owner, mode, attributes and times by an open descriptor.
    fn dress(&self, file: &OwnedFd, entry: &Entry) -> Result<(), Failure> {
        let (uid, gid) = self.owner(entry)?;
        if !self.is_layer() || (uid, gid) != (0, 0) {
            fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        fs::fchmod(file, Mode::from(entry.mode))?;
        for (name, value) in &entry.xattrs {
            let value = self.attribute(name, value);
            xattr_result(name, fs::fsetxattr(file, self.xattr_name(name)?, &value, XattrFlags::empty()))?;
        }
        fs::futimens(file, &times(entry))?;
        Ok(())
    }

    /// The same for what cannot be opened, by way of its `O_PATH` descriptor.
    fn dress_path(&self, node: &OwnedFd, entry: &Entry) -> Result<(), Failure> {
        let (uid, gid) = self.owner(entry)?;
        fs::chownat(node, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        let by_number = by_number(node);
        if entry.kind != Kind::Symlink {
            fs::chmodat(CWD, &by_number[..], Mode::from(entry.mode), AtFlags::empty())?;
        }
        for (name, value) in &entry.xattrs {
            let value = self.attribute(name, value);
            xattr_result(
                name,
                fs::setxattr(&by_number[..], self.xattr_name(name)?, &value, XattrFlags::empty()),
            )?;
        }
        fs::utimensat(CWD, &by_number[..], &times(entry), AtFlags::empty())?;
        Ok(())
    }

    /// Overlayfs's own attributes would change what the layers above and below it mean.
    fn xattr_name<'n>(&self, name: &'n [u8]) -> Result<&'n OsStr, Failure> {
        let overlays = name.starts_with(b"trusted.overlay.") && !matches!(self.rules, Rules::Volume { .. });
        if overlays || name.contains(&0) {
            return Err(Failure::Refused(format!(
                "the attribute {:?} is not allowed",
                String::from_utf8_lossy(name)
            )));
        }
        Ok(OsStr::from_bytes(name))
    }

    fn owner(&self, entry: &Entry) -> Result<(u32, u32), Failure> {
        let named = (entry.uid, entry.gid);
        match self.rules {
            Rules::Layer { .. } | Rules::Volume { .. } => Ok(named),
            Rules::Container { owner, ids, .. } => {
                let (uid, gid) = owner.unwrap_or(named);
                ids.outside(uid, gid).map_err(|error| Failure::Refused(error.to_string()))
            }
        }
    }

    fn attribute<'v>(&self, name: &[u8], value: &'v [u8]) -> Cow<'v, [u8]> {
        match self.rules {
            Rules::Container { ids, .. } if !ids.is_hosts() => ids.attribute_outside(name, value).into(),
            _ => value.into(),
        }
    }
}

/// Writes the contents of a file; long runs of zeros become holes.
fn write_contents<R: BufRead, S: Record>(
    file: &OwnedFd,
    path: &[u8],
    entry: &Entry,
    reader: &mut Reader<R, S>,
) -> Result<(), Failure> {
    let whole = [(0, entry.size)];
    let pieces = entry.sparse.as_deref().unwrap_or(&whole);
    let mut written_to = 0;
    for &(offset, length) in pieces {
        reader.record.contents(path, offset, length)?;
        let mut done = 0;
        while done < length {
            let bytes = reader.data()?;
            if bytes.is_empty() {
                break;
            }
            let count = bytes.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            written_to = write_around_holes(file, &bytes[..count], offset + done)?.unwrap_or(written_to);
            reader.consume(count);
            done += count as u64;
        }
    }
    if written_to < entry.size {
        fs::ftruncate(file, entry.size)?;
    }
    Ok(())
}

/// Writes bytes at an offset, leaving out pieces that are zeros. Returns where the last write ended.
fn write_around_holes(file: &OwnedFd, bytes: &[u8], offset: u64) -> Result<Option<u64>, Errno> {
    let mut end = None;
    let mut start = 0;
    while start < bytes.len() {
        if is_zeros(&bytes[start..bytes.len().min(start + HOLE)]) {
            start = bytes.len().min(start + HOLE);
            continue;
        }
        let mut stop = bytes.len().min(start + HOLE);
        while stop < bytes.len() && !is_zeros(&bytes[stop..bytes.len().min(stop + HOLE)]) {
            stop = bytes.len().min(stop + HOLE);
        }
        let mut done = start;
        while done < stop {
            match rustix::io::pwrite(file, &bytes[done..stop], offset + done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        end = Some(offset + stop as u64);
        start = stop;
    }
    Ok(end)
}

/// Only runs that fill a page are worth a hole.
fn is_zeros(bytes: &[u8]) -> bool {
    bytes.len() >= 4096 && bytes[0] == 0 && bytes[..bytes.len() - 1] == bytes[1..]
}

/// Moves the files at and beneath a name that is to go to where the archive can be given back from.
fn keep_files(
    folder: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    kept: &Path,
    replaced: u64,
) -> Result<(), Failure> {
    let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            match fs::mkdirat(CWD, kept, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            fs::renameat(folder, name, CWD, kept.join(kept_name(path, replaced)))?;
        }
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = fs::openat(folder, name, flags, Mode::empty())?;
            for entry in fs::Dir::read_from(&inner)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    keep_files(inner.as_fd(), name, &[path, b"/", name].concat(), kept, replaced)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// By way of its number, since the descriptor may be an `O_PATH` one.
fn make_opaque(folder: &OwnedFd) -> Result<(), Errno> {
    fs::setxattr(by_number(folder), OPAQUE, b"y", XattrFlags::empty())
}

/// A character device 0:0 is overlayfs's word for: nothing here. On overlayfs itself it is a socket without any permission.
pub(crate) fn is_whiteout(stat: &fs::Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::Socket => stat.st_mode & 0o7777 == 0,
        _ => false,
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

/// A file system without some kind of attributes does not have them; a file's capabilities are never lost in silence.
fn xattr_result(name: &[u8], result: Result<(), Errno>) -> Result<(), Failure> {
    match result {
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        // The kernel allows user attributes on files and folders only.
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        other => Ok(other?),
    }
}

/// A path of an archive, cleaned: no leading or doubled slashes, no `.`; `..` is refused.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>> {
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => {
                let path = String::from_utf8_lossy(path);
                return Err(Error::invalid(format!(
                    "invalid archive: the path {path:?} leads out of its root"
                )));
            }
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

/// A cleaned path's folder and name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder.is_empty() {
        true => name.to_vec(),
        false => [folder, b"/", name].concat(),
    }
}

fn shown(path: &[u8]) -> String {
    format!("extract {:?}", String::from_utf8_lossy(path))
}

/// Why an entry could not be extracted.
enum Failure {
    /// The kernel or the archive's stream.
    Io(io::Error),
    /// What the archive asks is not done.
    Refused(String),
}

impl Failure {
    fn is(&self, errno: Errno) -> bool {
        matches!(self, Failure::Io(error) if Errno::from_io_error(error) == Some(errno))
    }

    fn told(self, doing: impl Fn() -> String) -> Error {
        match self {
            Failure::Io(error) if error.raw_os_error().is_none() => Error::archive(error),
            // What a name or a size of the archive's own making brought about.
            Failure::Io(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NAMETOOLONG | Errno::FBIG | Errno::INVAL | Errno::NOTDIR | Errno::LOOP)
                ) =>
            {
                Error { kind: crate::Kind::InvalidParameter, ..Error::system(doing(), error) }
            }
            Failure::Io(error) => Error::system(doing(), error),
            Failure::Refused(why) => Error::invalid(format!("{}: {why}", doing())),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Io(errno.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(clean(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert!(clean(b"a/../b").is_err());
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }

    #[test]
    fn zeros_are_seen() {
        assert!(is_zeros(&[0; 4096]));
        assert!(!is_zeros(&[0; 4095]));
        let mut bytes = [0; 8192];
        bytes[8191] = 1;
        assert!(!is_zeros(&bytes));
    }
}
