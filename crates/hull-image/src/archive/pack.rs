//! A tree as an archive, walked by descriptor while others may change it.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, openat2};
use rustix::io::Errno;

use super::IdMap;
use crate::tar::{Entry, Kind, Writer};
use crate::{Error, Result};

/// Folders deeper than this are refused: each takes a descriptor.
const DEPTH: usize = 900;

/// What files are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// A container's file system or a layer: overlayfs's own attributes are none of it, times are told in seconds, as
    /// Docker does.
    Overlay,
    /// A volume: all that is there, to the nanosecond.
    Files,
}

/// Writes trees to an archive.
pub(crate) struct Packer<W> {
    out: Writer<W>,
    /// Files with several names, by device and inode: the name that was written first.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// What is mounted in the tree is left out.
    one_file_system: bool,
    of: Of,
    /// How the owners are told.
    ids: IdMap,
    /// Paths that are left out, with all that is beneath them.
    without: HashSet<Vec<u8>>,
    /// The device of the last folder, and whether it shows the kernel's state.
    last_device: Option<(u64, bool)>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(out: W, one_file_system: bool) -> Packer<W> {
        let (links, buffer) = (HashMap::new(), vec![0; 128 * 1024]);
        let ids = IdMap::default();
        let without = HashSet::new();
        let (out, of, last_device) = (Writer::new(out), Of::Overlay, None);
        Packer { out, links, one_file_system, of, ids, without, last_device, buffer }
    }

    /// Writes a volume.
    pub(crate) fn of_files(out: W) -> Packer<W> {
        Packer { of: Of::Files, ..Packer::new(out, true) }
    }

    /// Owners are told as they are inside of a user namespace.
    pub(crate) fn telling(self, ids: &IdMap) -> Packer<W> {
        Packer { ids: ids.clone(), ..self }
    }

    /// Some paths are left out.
    pub(crate) fn without(self, without: HashSet<Vec<u8>>) -> Packer<W> {
        Packer { without, ..self }
    }

    /// Leaves the archive without an end: more comes behind.
    pub(crate) fn leave(self) -> Result<W> {
        self.out.leave().map_err(sending)
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> Result<W> {
        self.out.finish().map_err(sending)
    }

    /// Writes what is at `name` in `folder`, under the name `path`, with all that is beneath it.
    pub(crate) fn pack(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        self.tree(folder, name, path, 0)
    }

    fn tree(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &[u8], depth: usize) -> Result<()> {
        if self.without.contains(path) {
            return Ok(());
        }
        let Some(inner) = self.one(folder, name, path)? else { return Ok(()) };
        if depth >= DEPTH {
            return Err(Error::invalid(format!(
                "folders are nested deeper than {DEPTH}: the archive is not made"
            )));
        }
        let path =
            if path.is_empty() || path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() };
        for name in names(inner.as_fd()).map_err(|errno| reading(&path, errno))? {
            self.tree(inner.as_fd(), name.as_bytes(), &[&path, name.as_bytes()].concat(), depth + 1)?;
        }
        Ok(())
    }

    /// Writes one entry; a folder is returned open, for what is in it.
    pub(crate) fn one(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<OwnedFd>> {
        let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went while the folder was read.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(reading(path, errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.folder(folder, name, path, &stat),
            FileType::RegularFile => self.file(folder, name, path, &stat).map(|()| None),
            _ => self.special(folder, name, path, &stat).map(|()| None),
        }
    }

    fn folder(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<Option<OwnedFd>> {
        let path = if path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() };
        match self.open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => {
                let stat = fs::fstat(&folder).map_err(|errno| reading(&path, errno))?;
                let mut entry = self.told(&path, Kind::Directory, &stat);
                entry.xattrs = self.xattrs(&folder).map_err(|errno| reading(&path, errno))?;
                self.out.header(&entry).map_err(sending)?;
                // What the kernel makes up is no part of a container's files, and much of it cannot be read.
                let is_shown = self.one_file_system || !self.is_of_the_kernel(&folder, &stat);
                Ok(is_shown.then_some(folder))
            }
            Err(Errno::XDEV) => {
                self.out.header(&self.told(&path, Kind::Directory, stat)).map_err(sending)?;
                Ok(None)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(reading(&path, errno)),
        }
    }

    /// Whether a folder is in a file system that shows the kernel's state; asked once for the folders of one device.
    fn is_of_the_kernel(&mut self, folder: &OwnedFd, stat: &Stat) -> bool {
        if let Some((device, known)) = self.last_device
            && device == stat.st_dev
        {
            return known;
        }
        let found = fs::fstatfs(folder).is_ok_and(|system| shows_the_kernel(system.f_type));
        self.last_device = Some((stat.st_dev, found));
        found
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        let file = match self.open(parent, name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(Errno::XDEV) => {
                // Beneath the mount is an empty file, made to be mounted on.
                let entry = Entry { size: 0, ..self.told(path, Kind::File, stat) };
                return self.out.header(&entry).map_err(sending);
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(reading(path, errno)),
        };
        let stat = fs::fstat(&file).map_err(|errno| reading(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        if self.known_link(&stat, path)? {
            return Ok(());
        }
        let mut entry = self.told(path, Kind::File, &stat);
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        entry.xattrs = self.xattrs(&file).map_err(|errno| reading(path, errno))?;
        entry.sparse = pieces(&file, &stat);
        self.out.header(&entry).map_err(sending)?;
        let whole = [(0, entry.size)];
        let mut stored = 0;
        for &(offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
            self.contents(&file, path, offset, length)?;
            stored += length;
        }
        self.out.pad(stored).map_err(sending)
    }

    /// A file that shrinks meanwhile is filled with zeros: its header is written already.
    fn contents(&mut self, file: &OwnedFd, path: &[u8], offset: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            let wanted = self.buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let mut count = match rustix::io::pread(file, &mut self.buffer[..wanted], offset + done) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(reading(path, errno)),
            };
            if count == 0 {
                self.buffer[..wanted].fill(0);
                count = wanted;
            }
            self.out.contents(&self.buffer[..count]).map_err(sending)?;
            done += count as u64;
        }
        Ok(())
    }

    /// Symbolic links, devices and fifos. Sockets are not kept in archives.
    fn special(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(()),
        };
        let mut entry = self.told(path, kind, stat);
        if kind == Kind::Symlink {
            entry.link = match fs::readlinkat(parent, name, Vec::new()) {
                Ok(link) => link.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(errno) => return Err(reading(path, errno)),
            };
        } else if self.known_link(stat, path)? {
            return Ok(());
        }
        if matches!(kind, Kind::Character | Kind::Block) {
            entry.device = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        }
        self.out.header(&entry).map_err(sending)
    }

    /// Writes a further name of a file that was written before.
    fn known_link(&mut self, stat: &Stat, path: &[u8]) -> Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) else {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
            return Ok(false);
        };
        let entry = Entry { link: first.clone(), ..self.told(path, Kind::HardLink, stat) };
        self.out.header(&entry).map_err(sending)?;
        Ok(true)
    }

    /// An entry of what a file is.
    fn told(&self, path: &[u8], kind: Kind, stat: &Stat) -> Entry {
        let (uid, gid) = self.ids.inside(stat.st_uid, stat.st_gid);
        let nanoseconds = match self.of {
            Of::Overlay => 0,
            Of::Files => u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        };
        Entry {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            size: 0,
            mtime: (stat.st_mtime, nanoseconds),
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    /// Writes an entry of one's own making.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.out.header(entry).map_err(sending)
    }

    fn xattrs(&self, file: &OwnedFd) -> Result<Xattrs, Errno> {
        let found = xattrs(&by_number(file), self.of)?;
        let told = |(name, value): (Vec<u8>, Vec<u8>)| {
            let value = self.ids.attribute_inside(&name, value);
            (name, value)
        };
        Ok(found.into_iter().map(told).collect())
    }

    fn open(&self, folder: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !self.one_file_system || name == b"." {
            return fs::openat(folder, name, flags, Mode::empty());
        }
        openat2(folder, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
    }
}

/// Where a file with holes has data; `None` where it has no holes worth the name.
fn pieces(file: &OwnedFd, stat: &Stat) -> Option<Vec<(u64, u64)>> {
    let size = u64::try_from(stat.st_size).ok()?;
    if size < 64 * 1024 || stat.st_blocks.cast_unsigned() * 512 + 32 * 1024 > size {
        return None;
    }
    let mut pieces = Vec::new();
    let mut position = 0;
    while position < size && pieces.len() < 10_000 {
        let data = match fs::seek(file, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => {
                // Nothing but a hole up to the end, which the map marks with an empty piece.
                pieces.push((size, 0));
                return Some(pieces);
            }
            Err(_) => return None,
        };
        let hole = fs::seek(file, SeekFrom::Hole(data)).ok()?.min(size);
        if data >= size || hole <= data {
            pieces.push((size, 0));
            return Some(pieces);
        }
        pieces.push((data, hole - data));
        position = hole;
    }
    (position >= size).then_some(pieces)
}

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The extended attributes of what is at a path. A link at its end is not followed, but for those of `/proc`, which lead to what
/// is open.
pub(crate) fn xattrs(path: &str, of: Of) -> Result<Xattrs, Errno> {
    attributes_of(path.as_bytes(), of, true)
}

/// The same of what is at a name in a folder, which is not followed.
pub(crate) fn attributes_of(path: &[u8], of: Of, follow: bool) -> Result<Xattrs, Errno> {
    let mut list = vec![0; 1024];
    let length = loop {
        let listed = match follow {
            true => fs::listxattr(path, &mut list[..]),
            false => fs::llistxattr(path, &mut list[..]),
        };
        match listed {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 1 << 20 => list.resize(list.len() * 4, 0),
            Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    };
    let mut found = Vec::new();
    for name in list[..length].split(|&byte| byte == 0) {
        let overlays = of == Of::Overlay && name.starts_with(b"trusted.overlay.");
        if name.is_empty() || overlays || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; 256];
        loop {
            let read = match follow {
                true => fs::getxattr(path, name, &mut value[..]),
                false => fs::lgetxattr(path, name, &mut value[..]),
            };
            match read {
                Ok(length) => {
                    value.truncate(length);
                    found.push((name.to_vec(), value));
                    break;
                }
                Err(Errno::RANGE) if value.len() < 1 << 20 => value.resize(value.len() * 8, 0),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => break,
                Err(errno) => return Err(errno),
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn by_number(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The file systems that show the kernel's state, by the numbers that `linux/magic.h` has for them.
const OF_THE_KERNEL: [(&str, fs::FsWord); 9] = [
    ("proc", 0x9fa0),
    ("sysfs", 0x6265_6572),
    ("cgroup", 0x27_e0eb),
    ("cgroup2", 0x6367_7270),
    ("devpts", 0x1cd1),
    ("mqueue", 0x1980_0202),
    ("debugfs", 0x6462_6720),
    ("tracefs", 0x7472_6163),
    ("securityfs", 0x7363_6673),
];

fn shows_the_kernel(magic: fs::FsWord) -> bool {
    OF_THE_KERNEL.iter().any(|(_, of_the_kernel)| *of_the_kernel == magic)
}

pub(crate) fn reading(path: &[u8], errno: Errno) -> Error {
    Error::system(format_args!("read {:?}", String::from_utf8_lossy(path)), errno)
}

fn sending(error: io::Error) -> Error {
    Error::system("write the archive", error)
}
