//! Copies into a root that is somebody else's: every path is resolved beneath it, links never lead out of it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;

use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::copy_up::{allowed, copy_data, times};
use super::lstat;
use super::pack::{Of, by_number, names, reading, xattrs};
use super::resolve::open_in_root;
use super::tree::{DEPTH, Entering, Found, LeftOut, check, join, parent_of};
use crate::{Error, Result};

/// How a copy differs from its source.
#[derive(Clone, Default)]
pub struct CopyOptions {
    /// Whose everything is; none: as in the source.
    pub owner: Option<(u32, u32)>,
    /// The modes of what is copied; none: as in the source.
    pub mode: Option<Chmod>,
    /// The folder itself is copied, not what is in it.
    pub whole_folder: bool,
}

/// A change of modes: a number, or as `u=rwX,go=rX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// The mode itself.
    Octal(u32),
    /// Clauses, applied one after the other.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Whose bits: a mask of user, group and others, each with its special bit.
    who: u32,
    /// `+`, `-` or `=`.
    operator: char,
    /// The bits, for everybody.
    bits: u32,
    /// `X`: execution, for folders and what somebody may execute.
    execute_if_any: bool,
}

impl std::str::FromStr for Chmod {
    type Err = Error;

    fn from_str(text: &str) -> Result<Chmod> {
        let wrong = || {
            Error::invalid(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            ))
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?;
            return Ok(Chmod::Octal(mode));
        }
        let clauses = text.split(',').map(|clause| Clause::parse(clause).ok_or_else(wrong));
        Ok(Chmod::Symbolic(clauses.collect::<Result<_>>()?))
    }
}

impl Clause {
    fn parse(text: &str) -> Option<Clause> {
        let at = text.find(['+', '-', '='])?;
        let mut who = 0;
        for letter in text[..at].chars() {
            who |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        let mut clause = Clause {
            who: if at == 0 { 0o7777 } else { who },
            operator: text[at..].chars().next()?,
            bits: 0,
            execute_if_any: false,
        };
        for letter in text[at + 1..].chars() {
            match letter {
                'r' => clause.bits |= 0o444,
                'w' => clause.bits |= 0o222,
                'x' => clause.bits |= 0o111,
                's' => clause.bits |= 0o6000,
                't' => clause.bits |= 0o1000,
                'X' => clause.execute_if_any = true,
                _ => return None,
            }
        }
        Some(clause)
    }
}

impl Chmod {
    /// The mode of something that had another.
    pub fn applied(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Chmod::Octal(mode) => *mode,
            Chmod::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| {
                let execute =
                    if clause.execute_if_any && (is_folder || mode & 0o111 != 0) { 0o111 } else { 0 };
                let bits = (clause.bits | execute) & clause.who;
                match clause.operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => (mode & !clause.who) | bits,
                }
            }),
        }
    }
}

/// Opens a folder beneath a root, links followed beneath it; what is missing on the way is made, for `owner`.
///
/// # Errors
/// Something on the way is no folder.
pub fn make_folder(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> Result<OwnedFd> {
    let fail = |errno| writing(path.as_bytes(), errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_in_root(root, path.as_bytes(), flags) {
        Ok(folder) => return Ok(folder),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(fail(errno)),
    }
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    if matches!(name, "" | "." | "..") {
        return Err(fail(Errno::NOENT));
    }
    let parent = make_folder(root, parent, owner)?;
    match fs::mkdirat(&parent, name, Mode::from(0o755)) {
        Ok(()) => {
            let made = fs::openat(
                &parent,
                name,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(fail)?;
            fs::fchmod(&made, Mode::from(0o755)).map_err(fail)?;
            fs::fchown(&made, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))).map_err(fail)?;
        }
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(fail(errno)),
    }
    open_in_root(root, path.as_bytes(), flags).map_err(fail)
}

/// Makes a path that has folders only, for what follows no link: what is none on the way is replaced by one. The last
/// element is the copy's own, unless the path ends in a slash.
///
/// # Errors
/// It cannot be made.
pub fn make_plain_path(root: BorrowedFd<'_>, path: &str, owner: (u32, u32)) -> Result<()> {
    let fail = |errno| writing(path.as_bytes(), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = open_in_root(root, b"/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    for name in folders.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name == ".." {
            return Err(fail(Errno::INVAL));
        }
        folder = match fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                clear(folder.as_fd(), name.as_bytes()).map_err(fail)?;
                fs::mkdirat(&folder, name, Mode::from(0o755)).map_err(fail)?;
                let made = fs::openat(&folder, name, flags, Mode::empty()).map_err(fail)?;
                fs::fchmod(&made, Mode::from(0o755)).map_err(fail)?;
                fs::fchown(&made, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
                    .map_err(fail)?;
                made
            }
            Err(errno) => return Err(fail(errno)),
        };
    }
    Ok(())
}

/// Writes a file of one's own beneath a root; the folders on the way are made.
///
/// # Errors
/// It cannot be written.
pub fn write_file(
    root: BorrowedFd<'_>,
    path: &str,
    bytes: &[u8],
    mode: u32,
    owner: (u32, u32),
) -> Result<()> {
    let fail = |errno| writing(path.as_bytes(), errno);
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = make_folder(root, folder, owner)?;
    clear(folder.as_fd(), name.as_bytes()).map_err(fail)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest).map_err(fail)?;
        rest = &rest[count..];
    }
    fs::fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))).map_err(fail)?;
    fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(fail)
}

/// Copies a source beneath a root to `destination` beneath another. What is in a folder goes into the destination, which
/// becomes one; a file goes into it where it is a folder or ends in a slash, and becomes it otherwise.
///
/// # Errors
/// A folder is where a file is to be or the other way round, something cannot be read or written, or the work was
/// stopped.
pub fn copy_in(
    from: BorrowedFd<'_>,
    source: &Found,
    to: BorrowedFd<'_>,
    destination: &str,
    options: &CopyOptions,
    left_out: LeftOut<'_>,
    stop: &AtomicBool,
) -> Result<()> {
    let owner = options.owner.unwrap_or((0, 0));
    let (parent, name) = parent_of(from, &source.path)?;
    let mut copy = CopyIn { options, left_out, stop, links: HashMap::new() };
    let fail = |errno| reading(source.path.as_bytes(), errno);
    let stat = lstat(parent.as_fd(), name.as_bytes()).map_err(fail)?;
    let last = source.named.rsplit('/').next().unwrap_or_default();
    if source.is_folder && !options.whole_folder {
        let was_there = open_in_root(to, destination.as_bytes(), OFlags::PATH | OFlags::DIRECTORY).is_ok();
        let target = make_folder(to, destination, owner)?;
        let inner =
            copy.open(parent.as_fd(), name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
        copy.folder(&inner, &target, b"", 0)?;
        if !was_there {
            let target = copy.reopened(&target).map_err(|errno| writing(destination.as_bytes(), errno))?;
            copy.dress(&inner, &target, &stat).map_err(|errno| writing(destination.as_bytes(), errno))?;
        }
        return Ok(());
    }
    let into = destination.ends_with('/')
        || open_in_root(to, destination.as_bytes(), OFlags::PATH | OFlags::DIRECTORY).is_ok();
    let (folder, target) = match into {
        true => (destination, last),
        false => destination.rsplit_once('/').unwrap_or(("", destination)),
    };
    let folder = make_folder(to, folder, owner)?;
    copy.entry(parent.as_fd(), name.as_bytes(), &folder, target.as_bytes(), b"", 0)
}

struct CopyIn<'a> {
    options: &'a CopyOptions,
    left_out: LeftOut<'a>,
    stop: &'a AtomicBool,
    /// Files with several names: their first copy's folder and name.
    links: HashMap<(u64, u64), (std::rc::Rc<OwnedFd>, Vec<u8>)>,
}

impl CopyIn<'_> {
    fn open(&self, folder: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        fs::openat(folder, name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
    }

    /// A folder that is open by its path only, to be read and changed.
    fn reopened(&self, folder: &OwnedFd) -> Result<OwnedFd, Errno> {
        self.open(folder.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn folder(&mut self, source: &OwnedFd, destination: &OwnedFd, path: &[u8], depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::invalid(format!(
                "folders are nested deeper than {DEPTH}: they are not copied"
            )));
        }
        for name in names(source.as_fd()).map_err(|errno| reading(path, errno))? {
            let name = name.as_bytes();
            self.entry(source.as_fd(), name, destination, name, &join(path, name), depth)?;
        }
        Ok(())
    }

    /// Copies what is at `name` to `target`; `path` is empty for what was asked for by itself.
    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        name: &[u8],
        destination: &OwnedFd,
        target: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<()> {
        check(self.stop)?;
        let stat = lstat(source, name).map_err(|errno| reading(path, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_folder = kind == FileType::Directory;
        let entering = if path.is_empty() { Entering::Take } else { (self.left_out)(path, is_folder) };
        let written = |result: Result<(), Errno>| result.map_err(|errno| writing(target, errno));
        if is_folder {
            if entering == Entering::Leave {
                return Ok(());
            }
            return self.inner_folder(source, name, destination, target, path, depth, &stat);
        }
        if entering != Entering::Take {
            return Ok(());
        }
        match lstat(destination.as_fd(), target) {
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                let target = String::from_utf8_lossy(target);
                return Err(Error::invalid(format!("cannot copy to {target:?}: a folder is there")));
            }
            Ok(_) => written(clear(destination.as_fd(), target))?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(writing(target, errno)),
        }
        if stat.st_nlink > 1 {
            if let Some((folder, first)) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return written(fs::linkat(&**folder, &first[..], destination, target, AtFlags::empty()));
            }
            let folder =
                destination.try_clone().map_err(|error| Error::system("keep a folder open", error))?;
            self.links.insert((stat.st_dev, stat.st_ino), (std::rc::Rc::new(folder), target.to_vec()));
        }
        match kind {
            FileType::RegularFile => {
                let from = self.open(source, name, OFlags::RDONLY).map_err(|errno| reading(path, errno))?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let to = fs::openat(destination, target, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|errno| writing(target, errno))?;
                let stat = fs::fstat(&from).map_err(|errno| reading(path, errno))?;
                written(contents(&from, &to, stat.st_size.cast_unsigned()))?;
                written(self.dress(&from, &to, &stat))
            }
            FileType::Symlink => {
                let link = fs::readlinkat(source, name, Vec::new()).map_err(|errno| reading(path, errno))?;
                written(fs::symlinkat(link.as_c_str(), destination, target))?;
                let (uid, gid) = self.owner(&stat);
                written(fs::chownat(destination, target, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
                written(fs::utimensat(destination, target, &times(&stat), AtFlags::SYMLINK_NOFOLLOW))
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                written(fs::mknodat(destination, target, kind, Mode::empty(), stat.st_rdev))?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let node = fs::openat(destination, target, flags, Mode::empty())
                    .map_err(|errno| writing(target, errno))?;
                let (uid, gid) = self.owner(&stat);
                written(fs::chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH))?;
                written(fs::chmodat(CWD, by_number(&node), self.mode(&stat), AtFlags::empty()))?;
                written(fs::utimensat(CWD, by_number(&node), &times(&stat), AtFlags::empty()))
            }
            // A socket's other end is not in a file system.
            _ => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an entry and where it goes, as of `entry`")]
    fn inner_folder(
        &mut self,
        source: BorrowedFd<'_>,
        name: &[u8],
        destination: &OwnedFd,
        target: &[u8],
        path: &[u8],
        depth: usize,
        stat: &Stat,
    ) -> Result<()> {
        let folder = OFlags::RDONLY | OFlags::DIRECTORY;
        let from = self.open(source, name, folder).map_err(|errno| reading(path, errno))?;
        let made = match fs::mkdirat(destination, target, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(writing(target, errno)),
        };
        let to = match self.open(destination.as_fd(), target, folder) {
            Ok(to) => to,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let target = String::from_utf8_lossy(target);
                return Err(Error::invalid(format!("cannot copy to non-directory: {target}")));
            }
            Err(errno) => return Err(writing(target, errno)),
        };
        self.folder(&from, &to, path, depth + 1)?;
        if !made {
            return Ok(());
        }
        // One that was entered for nothing is not there, either.
        if !path.is_empty()
            && (self.left_out)(path, true) == Entering::Look
            && fs::unlinkat(destination, target, AtFlags::REMOVEDIR).is_ok()
        {
            return Ok(());
        }
        self.dress(&from, &to, stat).map_err(|errno| writing(target, errno))
    }

    fn owner(&self, stat: &Stat) -> (Uid, Gid) {
        let (uid, gid) = self.options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }

    fn mode(&self, stat: &Stat) -> Mode {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mode = stat.st_mode & 0o7777;
        Mode::from_raw_mode(self.options.mode.as_ref().map_or(mode, |chmod| chmod.applied(mode, is_folder)))
    }

    fn dress(&self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        let (uid, gid) = self.owner(stat);
        fs::fchown(to, Some(uid), Some(gid))?;
        fs::fchmod(to, self.mode(stat))?;
        for (name, value) in xattrs(&by_number(from), Of::Overlay)? {
            let name_of = std::os::unix::ffi::OsStrExt::from_bytes(&name[..]);
            let name_of: &std::ffi::OsStr = name_of;
            allowed(&name, fs::fsetxattr(to, name_of, &value, fs::XattrFlags::empty()))?;
        }
        fs::futimens(to, &times(stat))
    }
}

/// The file's blocks shared where the file system can, or else what is not a hole copied within the kernel.
fn contents(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    if size > 0 && fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    copy_data(from, to, size).map(drop)
}

/// Takes away what is no folder.
fn clear(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn writing(path: &[u8], errno: Errno) -> Error {
    let path = String::from_utf8_lossy(path);
    match errno {
        Errno::NOTDIR => Error::invalid(format!("cannot copy to {path:?}: not a directory")),
        Errno::LOOP => Error::invalid(format!("cannot copy to {path:?}: too many levels of symbolic links")),
        errno => Error::system(format_args!("write {path:?}"), errno),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, read, read_to_string, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::tree::find;
    use super::*;

    fn copied(from: &std::path::Path, pattern: &str, to: &std::path::Path, destination: &str) -> Result<()> {
        let (from, to) = (std::fs::File::open(from).unwrap(), std::fs::File::open(to).unwrap());
        for found in find(from.as_fd(), pattern)? {
            let take =
                |path: &[u8], _: bool| if path.ends_with(b".no") { Entering::Leave } else { Entering::Take };
            let options = CopyOptions { owner: None, ..CopyOptions::default() };
            copy_in(from.as_fd(), &found, to.as_fd(), destination, &options, &take, &AtomicBool::new(false))?;
        }
        Ok(())
    }

    #[test]
    fn files_and_folders_go_where_they_belong() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        create_dir_all(from.join("d/inner")).unwrap();
        write(from.join("d/inner/f"), "f").unwrap();
        write(from.join("d/x.no"), "").unwrap();
        write(from.join("one"), "1").unwrap();
        std::fs::hard_link(from.join("one"), from.join("d/linked")).unwrap();
        copied(from, "d", to, "/a/b").unwrap();
        assert_eq!(read_to_string(to.join("a/b/inner/f")).unwrap(), "f");
        assert!(!to.join("a/b/x.no").exists());
        copied(from, "one", to, "/a/b/").unwrap();
        copied(from, "one", to, "/a").unwrap();
        copied(from, "one", to, "/renamed").unwrap();
        for path in ["a/b/one", "a/one", "renamed"] {
            assert_eq!(read_to_string(to.join(path)).unwrap(), "1", "{path}");
        }
        assert!(copied(from, "one", to, "/renamed/x").unwrap_err().message.contains("not a directory"));
        assert!(copied(from, "d", to, "/renamed").unwrap_err().message.contains("not a directory"));
    }

    #[test]
    fn links_in_the_destination_lead_nowhere_outside() {
        let (from, to, outside) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(from.path().join("f"), "f").unwrap();
        symlink(outside.path(), to.path().join("out")).unwrap();
        symlink("../../..", to.path().join("up")).unwrap();
        symlink(outside.path().join("file"), to.path().join("file")).unwrap();
        // Beneath the root there is no such folder, and it is not made through a link.
        assert!(copied(from.path(), "f", to.path(), "/out/").is_err());
        copied(from.path(), "f", to.path(), "/up/x/").unwrap();
        assert_eq!(read(to.path().join("x/f")).unwrap(), b"f");
        copied(from.path(), "f", to.path(), "/file").unwrap();
        assert_eq!(read(to.path().join("file")).unwrap(), b"f");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn modes_change_by_number_and_by_clause() {
        let of = |text: &str, mode, folder| text.parse::<Chmod>().unwrap().applied(mode, folder);
        assert_eq!(of("0751", 0o644, false), 0o751);
        assert_eq!(of("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(of("u=rwX,go=rX", 0o700, true), 0o755);
        assert_eq!(of("+x", 0o644, false), 0o755);
        assert_eq!(of("go-rwx", 0o755, false), 0o700);
        for wrong in ["x", "0999", "77777", "z+x", "u+q", ""] {
            assert!(wrong.parse::<Chmod>().is_err() || wrong.is_empty(), "{wrong}");
        }
        let root = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(root.path()).unwrap();
        write_file(folder.as_fd(), "/a/b", b"x", 0o751, (0, 0)).unwrap();
        let mode = std::fs::metadata(root.path().join("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o751);
    }
}
