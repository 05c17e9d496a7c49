//! The files of a container as archives: for `docker cp`, `export`, and a volume's first filling.
//!
//! All is resolved beneath a root that is given as a descriptor; the container may run and change things meanwhile.

mod copy_in;
mod copy_up;
mod ids;
pub(crate) mod pack;
mod resolve;
mod tree;

use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, OFlags, statat};
use serde::{Deserialize, Serialize};

pub use self::copy_in::{Chmod, Clause, CopyOptions, copy_in, make_folder, make_plain_path, write_file};
pub(crate) use self::copy_up::merge_layer;
pub use self::copy_up::{Copied, clone_tree, copy_up, has};
pub use self::ids::IdMap;
use self::pack::Packer;
pub use self::resolve::clean;
pub(crate) use self::resolve::open_in_root;
use self::resolve::{Resolved, resolve, through_links};
pub use self::tree::{DigestOptions, Entering, Found, Known, LeftOut, digest, find, matches};
use crate::layer::extract::{Extractor, Rules};
use crate::layer::stream::Compression;
use crate::tar::Reader;
use crate::{Error, Result};

/// What a path is, as Docker's `X-Docker-Container-Path-Stat` header says it: serialise it to JSON, then base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// The last element of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode` bits.
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a symbolic link leads, resolved within the root; empty where it is none.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

/// How [`put`] treats what is there, and owners.
#[derive(Clone, Debug, Default)]
pub struct Put {
    /// A folder is not replaced by what is none, nor the other way round: an error instead.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything gets this owner, user and group. `None`: the owners that the archive names, as Docker does where
    /// `copyUIDGID` is not asked for, or the container runs as root.
    pub owner: Option<(u32, u32)>,
    /// How these are told on the host. Where they are others there, the caller makes files as whoever is root inside.
    pub ids: IdMap,
    /// Devices are refused: who made the archive is nobody who may have them.
    pub no_devices: bool,
    /// The end-of-archive marker may be missing: that all of it came is known otherwise.
    pub may_lack_end: bool,
}

/// What is at `path` beneath `root`; its last element is not followed.
///
/// # Errors
/// `NotFound`: `Could not find the file <path>`; the caller knows in which container.
pub fn stat(root: BorrowedFd<'_>, path: &str) -> Result<PathStat> {
    let resolved = resolve(root, path)?;
    let link_target = match FileType::from_raw_mode(resolved.stat.st_mode) {
        FileType::Symlink => through_links(root, path)?,
        _ => String::new(),
    };
    let mtime = jiff::Timestamp::new(resolved.stat.st_mtime, resolved.stat.st_mtime_nsec as i32);
    Ok(PathStat {
        name: resolved.name,
        size: resolved.stat.st_size,
        mode: go_mode(resolved.stat.st_mode),
        mtime: mtime.unwrap_or_default().to_string(),
        link_target,
    })
}

/// Writes the file or folder at `path` as a tar, as Docker's `GET /containers/{id}/archive`: the entries begin with
/// the last element of the path; `/` and what ends in `/.` give the contents of the folder.
pub fn get(root: BorrowedFd<'_>, path: &str, ids: &IdMap, out: &mut dyn Write) -> Result<()> {
    let Resolved { parent, base, name, .. } = resolve(root, path)?;
    let mut packer = Packer::new(out, false).telling(ids);
    packer.pack(parent.as_fd(), &base, name.as_bytes())?;
    packer.finish()?;
    Ok(())
}

/// Unpacks a tar (plain or compressed) into the folder at `path`, links in which are followed beneath the root.
///
/// # Errors
/// `NotFound` where there is nothing at `path`, `InvalidParameter` where it is no folder, or for what the archive or
/// [`Put`] forbids. What was unpacked before an error stays.
pub fn put(root: BorrowedFd<'_>, path: &str, tar: &mut dyn Read, options: Put) -> Result<()> {
    let folder =
        open_in_root(root, path.as_bytes(), OFlags::PATH).map_err(|errno| resolve::failed(path, errno))?;
    let stat = rustix::fs::fstat(&folder).map_err(|errno| resolve::failed(path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Error::invalid("extraction point is not a directory"));
    }
    let rules = Rules::Container {
        no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
        owner: options.owner,
        ids: &options.ids,
        no_devices: options.no_devices,
    };
    unpack(Extractor::new(root, path.as_bytes(), rules), tar, options.may_lack_end, u64::MAX)
}

/// What is unpacked of an archive, which may not have more bytes than `limit`.
struct Bounded<R> {
    from: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            std::io::Error::other(format!(
                "unpacked the archive has more than the {} bytes that it may have",
                self.limit
            ))
        })?;
        Ok(count)
    }
}

fn unpack(mut extractor: Extractor<'_>, tar: &mut dyn Read, may_lack_end: bool, limit: u64) -> Result<()> {
    let mut source = BufReader::with_capacity(128 * 1024, tar);
    let start = std::io::BufRead::fill_buf(&mut source).map_err(Error::archive)?;
    // Nothing at all is nothing to extract.
    if start.is_empty() {
        return Ok(());
    }
    let compression = Compression::sniff(start)?;
    let decoded = compression.decoder(source).map_err(Error::archive)?;
    let decoded = Bounded { from: decoded, limit, left: limit };
    let mut reader = Reader::new(BufReader::with_capacity(128 * 1024, decoded), ());
    while let Some(entry) = reader.next().map_err(Error::archive)? {
        extractor.entry(entry, &mut reader, |()| 0)?;
    }
    if !reader.finish().map_err(Error::archive)?.0 && !may_lack_end {
        return Err(Error::invalid("invalid tar archive: it is truncated (it has no end-of-archive marker)"));
    }
    extractor.finish()?;
    Ok(())
}

/// Writes a volume as a tar: all that is in its folder `root`, and the folder itself as `./`, with owners, modes, times to
/// the nanosecond, extended attributes, hard links and holes. What is mounted in it is left out.
///
/// # Errors
/// Something of it cannot be read, or nobody takes the archive.
pub fn export_volume(root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<()> {
    let mut packer = Packer::of_files(out);
    packer.pack(root, b".", b"./")?;
    packer.finish()?;
    Ok(())
}

/// The extended attributes of what is at a name in a folder, which is not followed; without those of overlayfs and of SELinux.
///
/// # Errors
/// They cannot be read.
pub fn attributes(folder: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let path = [format!("/proc/self/fd/{number}/").as_bytes(), name].concat();
    pack::attributes_of(&path, pack::Of::Overlay, false).map_err(Into::into)
}

/// Writes the files of a tree but for some paths, those of a folder of the name `beneath` where there is one; the archive has no
/// end yet ([`end_files`]).
///
/// # Errors
/// They cannot be read, or nobody reads.
pub fn export_files(
    root: BorrowedFd<'_>,
    without: std::collections::HashSet<Vec<u8>>,
    beneath: Option<&str>,
    out: &mut dyn Write,
) -> Result<()> {
    let prefix = beneath.map(|name| format!("{name}/")).unwrap_or_default();
    let without = without.into_iter().map(|path| [prefix.as_bytes(), &path].concat()).collect();
    let mut packer = Packer::new(std::io::BufWriter::with_capacity(256 * 1024, out), true).without(without);
    if beneath.is_some() {
        packer.entry(&crate::tar::Entry::new(&prefix, crate::tar::Kind::Directory, 0o755, 0, 0))?;
    }
    let folder = open_in_root(root, b"/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(whole)?;
    for name in pack::names(folder.as_fd()).map_err(whole)? {
        packer.pack(root, name.as_bytes(), &[prefix.as_bytes(), name.as_bytes()].concat())?;
    }
    packer.leave().map(drop)
}

/// Ends an archive of files.
///
/// # Errors
/// Nobody reads.
pub fn end_files(out: &mut dyn Write) -> Result<()> {
    crate::tar::Writer::new(out).finish().map(drop).map_err(|error| Error::system("write the archive", error))
}

/// Unpacks a tar (plain or compressed) into a volume's folder, which gets the owner and mode of the archive's `./`.
///
/// # Errors
/// The archive is malformed or leads out of the volume, or the disk fails. What was unpacked before stays.
pub fn import_volume(root: BorrowedFd<'_>, tar: &mut dyn Read) -> Result<()> {
    unpack(Extractor::new(root, b"", Rules::Volume { no_devices: false }), tar, false, u64::MAX)
}

/// The same of an archive that somebody else may have made: devices are refused, and more bytes than `limit`, unpacked.
///
/// # Errors
/// As [`import_volume`].
pub fn import_files(root: BorrowedFd<'_>, tar: &mut dyn Read, limit: u64) -> Result<()> {
    unpack(Extractor::new(root, b"", Rules::Volume { no_devices: true }), tar, false, limit)
}

/// The paths, without links, that are not there on the way to `path`, and that itself where it is not there.
///
/// # Errors
/// The way cannot be gone.
pub fn missing(root: BorrowedFd<'_>, path: &str) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut path = through_links(root, path)?;
    while path != "/" && !has(root, &path)? {
        let parent =
            path.rfind('/').map_or("/", |slash| if slash == 0 { "/" } else { &path[..slash] }).to_owned();
        missing.push(std::mem::replace(&mut path, parent));
    }
    Ok(missing)
}

/// Opens a source where it is an archive, plain or compressed; none where it is something else.
///
/// # Errors
/// It cannot be read.
pub fn open_archive(root: BorrowedFd<'_>, source: &Found) -> Result<Option<std::fs::File>> {
    let (parent, name) = tree::parent_of(root, &source.path)?;
    let open = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, rustix::fs::Mode::empty())
            .map(std::fs::File::from)
            .map_err(|errno| pack::reading(source.path.as_bytes(), errno))
    };
    let file = open()?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let start = std::io::BufRead::fill_buf(&mut reader).map_err(Error::archive)?;
    // What cannot be unpacked is copied as it is.
    let Ok(compression) = Compression::sniff(start) else { return Ok(None) };
    let Ok(decoded) = compression.decoder(reader) else { return Ok(None) };
    let mut archive = Reader::new(BufReader::with_capacity(64 * 1024, decoded), ());
    Ok(if matches!(archive.next(), Ok(Some(_))) { Some(open()?) } else { None })
}

/// Writes the whole tree as a tar; what is mounted in it is left out.
pub fn export(root: BorrowedFd<'_>, ids: &IdMap, out: &mut dyn Write) -> Result<()> {
    export_with(root, Packer::new(out, true).telling(ids))
}

pub(crate) fn export_with<W: Write>(root: BorrowedFd<'_>, mut packer: Packer<W>) -> Result<()> {
    // As in Docker there is no entry for the root itself.
    for name in
        pack::names(open_in_root(root, b"/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(whole)?.as_fd())
            .map_err(whole)?
    {
        packer.pack(root, name.as_bytes(), name.as_bytes())?;
    }
    packer.finish()?;
    Ok(())
}

fn whole(errno: rustix::io::Errno) -> Error {
    pack::reading(b"/", errno)
}

/// The mode as Go's `os.FileMode` has it.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let bit = |unix: u32, go: u32| if mode & unix != 0 { 1 << go } else { 0 };
    kind | bit(0o4000, 23) | bit(0o2000, 22) | bit(0o1000, 20) | mode & 0o777
}

/// What is at a name, not followed.
pub(crate) fn lstat(folder: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<rustix::fs::Stat> {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::go_mode;

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o120_777), 1 << 27 | 0o777);
    }
}
