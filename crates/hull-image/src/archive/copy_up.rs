//! Trees copied: what an image holds at a volume's place into the empty volume, and a volume into another.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags, openat2,
};
use rustix::io::Errno;

use super::lstat;
use super::pack::{Of, by_number, names, reading, xattrs};
use super::resolve::open_in_root;
use crate::layer::extract::{OPAQUE, is_whiteout};
use crate::layer::remove::remove_all;
use crate::{Error, Result};

const DEPTH: usize = 400;

/// Copies what is at `path` beneath `root` into the empty folder `destination`, with owners, modes, times, extended
/// attributes, hard links and holes. The folder itself gets the owner and mode of what was copied. Where `path` is
/// not there or is no folder, or `destination` is not empty, nothing happens.
pub fn copy_up(root: BorrowedFd<'_>, path: &str, destination: BorrowedFd<'_>) -> Result<()> {
    let shown = path.as_bytes();
    let source = match open_in_root(root, shown, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(source) => source,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(reading(shown, errno)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let destination =
        fs::openat(destination, ".", flags, Mode::empty()).map_err(|errno| writing(b".", errno))?;
    if !names(destination.as_fd()).map_err(|errno| writing(b".", errno))?.is_empty() {
        return Ok(());
    }
    Copy::into(destination.as_fd(), Of::Overlay).folder(&source, &destination, b"", 0)
}

/// What a copy took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The bytes of files that share their blocks with what they were copied from.
    pub shared: u64,
    /// The bytes of files that were written again; holes are not counted.
    pub copied: u64,
}

/// Copies all that is in the folder `source` into the empty folder `destination`, with owners, modes, times, extended
/// attributes, hard links and holes; the folder itself too. Blocks are shared where the file system can. What is mounted
/// in the source is left out.
///
/// # Errors
/// Something of it cannot be read or written. What was copied before stays.
pub fn clone_tree(source: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> Result<Copied> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = fs::openat(source, ".", flags, Mode::empty()).map_err(|errno| reading(b".", errno))?;
    let destination =
        fs::openat(destination, ".", flags, Mode::empty()).map_err(|errno| writing(b".", errno))?;
    let mut copy = Copy::into(destination.as_fd(), Of::Files);
    copy.folder(&source, &destination, b"", 0)?;
    Ok(copy.copied)
}

/// Puts a layer's files over what is in a tree: what the layer hides goes.
pub(crate) fn merge_layer(layer: BorrowedFd<'_>, tree: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = fs::openat(layer, ".", flags, Mode::empty()).map_err(|errno| reading(b".", errno))?;
    let tree = fs::openat(tree, ".", flags, Mode::empty()).map_err(|errno| writing(b".", errno))?;
    let mut copy = Copy { merges: true, ..Copy::into(tree.as_fd(), Of::Overlay) };
    copy.folder(&layer, &tree, b"", 0)
}

/// Whether something is at a path in a root.
///
/// # Errors
/// The way there cannot be gone.
pub fn has(root: BorrowedFd<'_>, path: &str) -> Result<bool> {
    match open_in_root(root, path.as_bytes(), OFlags::PATH) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(reading(path.as_bytes(), errno)),
    }
}

struct Copy<'a> {
    /// Files with several names, by device and inode: their first name in the destination.
    links: HashMap<(u64, u64), Vec<u8>>,
    destination: BorrowedFd<'a>,
    /// What is read: a container's file system, or files that are nobody's layer.
    of: Of,
    /// A layer is put over what is there.
    merges: bool,
    /// Whether blocks can be shared, as far as is known.
    shares: bool,
    copied: Copied,
}

impl<'a> Copy<'a> {
    fn into(destination: BorrowedFd<'a>, of: Of) -> Copy<'a> {
        let (links, copied) = (HashMap::new(), Copied::default());
        Copy { links, destination, of, merges: false, shares: true, copied }
    }

    /// Opens what is at a name, unless it is mounted there.
    fn open(&self, folder: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.of {
            Of::Overlay => fs::openat(folder, name, flags, Mode::empty()),
            Of::Files => openat2(folder, name, flags, Mode::empty(), ResolveFlags::NO_XDEV),
        }
    }

    fn folder(&mut self, source: &OwnedFd, destination: &OwnedFd, path: &[u8], depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::invalid(format!(
                "folders are nested deeper than {DEPTH}: they are not copied into the volume"
            )));
        }
        for name in names(source.as_fd()).map_err(|errno| reading(path, errno))? {
            let name = name.as_bytes();
            let path = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            self.entry(source, destination, name, &path, depth)?;
        }
        let stat = fs::fstat(source).map_err(|errno| reading(path, errno))?;
        self.dress(source, destination, &stat).map_err(|errno| writing(path, errno))
    }

    fn entry(
        &mut self,
        source: &OwnedFd,
        destination: &OwnedFd,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<()> {
        let stat = match lstat(source.as_fd(), name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(reading(path, errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let written = |result: Result<(), Errno>| result.map_err(|errno| writing(path, errno));
        if self.merges
            && !self.make_room(source, destination, name, &stat).map_err(|errno| writing(path, errno))?
        {
            return Ok(());
        }
        if kind == FileType::Directory {
            let from = match self.open(source, name, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Errno::XDEV) => return written(fs::mkdirat(destination, name, Mode::from(0o755))),
                opened => opened.map_err(|errno| reading(path, errno))?,
            };
            match fs::mkdirat(destination, name, Mode::RWXU) {
                // Another layer's, which is added to.
                Err(Errno::EXIST) if self.merges => {}
                made => written(made)?,
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to =
                fs::openat(destination, name, flags, Mode::empty()).map_err(|errno| writing(path, errno))?;
            return self.folder(&from, &to, path, depth + 1);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return written(fs::linkat(
                    self.destination,
                    &first[..],
                    destination,
                    name,
                    AtFlags::empty(),
                ));
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        match kind {
            FileType::RegularFile => {
                let from = match self.open(source, name, OFlags::RDONLY | OFlags::NONBLOCK) {
                    // A file is mounted on another, which was made for that.
                    Err(Errno::XDEV) => return Ok(()),
                    opened => opened.map_err(|errno| reading(path, errno))?,
                };
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let to = fs::openat(destination, name, flags, Mode::RUSR | Mode::WUSR);
                let to = to.map_err(|errno| writing(path, errno))?;
                let stat = fs::fstat(&from).map_err(|errno| reading(path, errno))?;
                written(self.contents(&from, &to, stat.st_size.cast_unsigned()))?;
                written(self.dress(&from, &to, &stat))
            }
            FileType::Symlink => {
                let link = fs::readlinkat(source, name, Vec::new()).map_err(|errno| reading(path, errno))?;
                written(fs::symlinkat(link.as_c_str(), destination, name))?;
                written(self.dress_name(source, destination, name, &stat))
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                written(fs::mknodat(destination, name, kind, Mode::empty(), stat.st_rdev))?;
                written(self.dress_name(source, destination, name, &stat))
            }
            // A socket's other end is not in an image.
            _ => Ok(()),
        }
    }

    /// Takes away what a layer's entry hides. False: it is a mark of that alone.
    fn make_room(&self, layer: &OwnedFd, tree: &OwnedFd, name: &[u8], stat: &Stat) -> Result<bool, Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        if is_whiteout(stat) {
            remove_all(tree.as_fd(), name).map_err(failed)?;
            return Ok(false);
        }
        let is_folder = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let there = match lstat(tree.as_fd(), name) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        let opaque = || {
            let folder = self.open(layer, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let mut value = [0; 4];
            Ok(matches!(fs::getxattr(by_number(&folder), OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y'))
        };
        if !(is_folder(stat) && is_folder(&there)) || opaque()? {
            remove_all(tree.as_fd(), name).map_err(failed)?;
        }
        Ok(true)
    }

    /// The file's blocks shared, or else what is not a hole copied within the kernel.
    fn contents(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
        if self.shares && size > 0 {
            match fs::ioctl_ficlone(to, from) {
                Ok(()) => {
                    self.copied.shared += size;
                    return Ok(());
                }
                Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                    self.shares = false;
                }
                Err(errno) => return Err(errno),
            }
        }
        self.copied.copied += copy_data(from, to, size)?;
        Ok(())
    }

    /// Owner, mode, attributes and times, from what is open to what is open.
    fn dress(&self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        for (name, value) in xattrs(&by_number(from), self.of)? {
            allowed(&name, fs::fsetxattr(to, OsStr::from_bytes(&name), &value, XattrFlags::empty()))?;
        }
        fs::futimens(to, &times(stat))
    }

    /// The same for what is not opened: links, devices, fifos. The volume is nobody else's yet.
    fn dress_name(&self, from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = fs::openat(to, name, flags, Mode::empty())?;
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            fs::chmodat(CWD, by_number(&node), mode, AtFlags::empty())?;
            let source = fs::openat(from, name, flags, Mode::empty())?;
            for (name, value) in xattrs(&by_number(&source), self.of)? {
                allowed(
                    &name,
                    fs::setxattr(by_number(&node), OsStr::from_bytes(&name), &value, XattrFlags::empty()),
                )?;
            }
        }
        fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Copies what of a file is not a hole, within the kernel; how many bytes that are.
pub(super) fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<u64, Errno> {
    fs::ftruncate(to, size)?;
    let (mut position, mut copied) = (0, 0);
    while position < size {
        let start = match fs::seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => position,
            Err(errno) => return Err(errno),
        };
        let end = fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).clamp(start, size);
        copy_range(from, to, start, end)?;
        copied += end - start;
        position = end.max(start + 1);
    }
    Ok(copied)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let length = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these two file systems.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => break,
            Err(errno) => return Err(errno),
        }
    }
    let mut buffer = vec![0; 128 * 1024];
    while read < end {
        let wanted = buffer.len().min(usize::try_from(end - read).unwrap_or(usize::MAX));
        let count = rustix::io::pread(from, &mut buffer[..wanted], read)?;
        if count == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < count {
            done += rustix::io::pwrite(to, &buffer[done..count], read + done as u64)?;
        }
        read += count as u64;
    }
    Ok(())
}

/// A volume's file system may not know some attributes; a file's capabilities are not lost in silence.
pub(super) fn allowed(name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        other => other,
    }
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
    Timestamps { last_access: time, last_modification: time }
}

fn writing(path: &[u8], errno: Errno) -> Error {
    Error::system(format_args!("write {:?} in the volume", String::from_utf8_lossy(path)), errno)
}
