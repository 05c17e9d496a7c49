//! The files that came, beneath a folder of the daemon's: every path is a client's, and leads nowhere else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use bollard_buildkit_proto::fsutil::types::Stat;
use hull_build::Failure;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, fchmod,
    fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// The kinds of files in Go's words for modes.
pub(super) mod go {
    pub(in crate::filesync) const DIR: u32 = 1 << 31;
    pub(in crate::filesync) const SYMLINK: u32 = 1 << 27;
    pub(in crate::filesync) const DEVICE: u32 = 1 << 26;
    pub(in crate::filesync) const PIPE: u32 = 1 << 25;
    pub(in crate::filesync) const SOCKET: u32 = 1 << 24;
    pub(in crate::filesync) const SETUID: u32 = 1 << 23;
    pub(in crate::filesync) const SETGID: u32 = 1 << 22;
    pub(in crate::filesync) const CHAR_DEVICE: u32 = 1 << 21;
    pub(in crate::filesync) const STICKY: u32 = 1 << 20;
    pub(in crate::filesync) const IRREGULAR: u32 = 1 << 19;

    /// The bits of a kernel's mode that stand elsewhere in Go's.
    pub(in crate::filesync) fn special(mode: u32) -> u32 {
        let bits = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
        bits.into_iter().filter(|(bit, _)| mode & bit != 0).map(|(_, flag)| flag).sum()
    }
}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    Symlink,
    HardLink,
    Pipe,
    Socket,
    Regular,
    Other,
}

fn kind(stat: &Stat) -> Kind {
    match stat.mode {
        mode if mode & go::DIR != 0 => Kind::Folder,
        mode if mode & go::SYMLINK != 0 => Kind::Symlink,
        mode if mode & go::PIPE != 0 => Kind::Pipe,
        mode if mode & go::SOCKET != 0 => Kind::Socket,
        mode if mode & (go::DEVICE | go::CHAR_DEVICE | go::IRREGULAR) != 0 => Kind::Other,
        _ if !stat.linkname.is_empty() => Kind::HardLink,
        _ => Kind::Regular,
    }
}

/// The kernel's mode of one of Go's.
fn mode(go_mode: u32) -> Mode {
    let mut bits = go_mode & 0o777;
    for (flag, bit) in [(go::SETUID, 0o4000), (go::SETGID, 0o2000), (go::STICKY, 0o1000)] {
        if go_mode & flag != 0 {
            bits |= bit;
        }
    }
    Mode::from_raw_mode(bits)
}

/// Whether an extended attribute is kept: the others are the client's machine's own.
fn is_kept(xattr: &str) -> bool {
    xattr.starts_with("user.") || xattr == "security.capability"
}

/// Takes away what is not kept of a file's description, however long that is.
pub(crate) fn trim(stat: &mut Stat) {
    stat.xattrs.retain(|name, _| is_kept(name));
}

/// A folder that becomes what its client has.
pub(crate) struct Tree {
    root: OwnedFd,
    /// What it was before.
    before: HashMap<String, Stat>,
    /// What it becomes.
    now: Vec<Stat>,
    paths: HashSet<String>,
    /// Files that are not what they were.
    changed: HashSet<String>,
    /// The folder that was looked up last: files come folder by folder.
    last: Option<(String, OwnedFd)>,
}

impl Tree {
    pub(crate) fn open(folder: &Path, before: HashMap<String, Stat>) -> Result<Tree, Failure> {
        let root = File::open(folder)
            .map_err(|error| Failure::system(format_args!("open {}", folder.display()), error))?;
        let (now, paths, changed) = (Vec::new(), HashSet::new(), HashSet::new());
        Ok(Tree { root: root.into(), before, now, paths, changed, last: None })
    }

    /// Makes room for a file, and makes it but for its contents. Whether those are wanted.
    pub(crate) fn place(&mut self, stat: &Stat) -> Result<bool, Failure> {
        check(&stat.path)?;
        if !self.paths.insert(stat.path.clone()) {
            return Err(Failure::invalid(format!("the client sent {:?} twice", stat.path)));
        }
        self.now.push(stat.clone());
        let wanted = kind(stat);
        let before = self.before.get(&stat.path);
        let same = match wanted {
            Kind::Folder => before.is_some_and(|before| kind(before) == Kind::Folder),
            Kind::HardLink => before == Some(stat) && !self.changed.contains(&stat.linkname),
            // What was refused or left out before was not made.
            Kind::Socket | Kind::Other => false,
            _ => before == Some(stat),
        };
        if same {
            return Ok(false);
        }
        let there = before.is_some();
        self.changed.insert(stat.path.clone());
        let (folder, name) = split(&stat.path);
        let folder = self.folder(folder)?;
        let fail = |errno| writing(&stat.path, errno);
        if there {
            clear(folder, name).map_err(fail)?;
        }
        match wanted {
            Kind::Folder => mkdirat(folder, name, Mode::RWXU).map_err(fail)?,
            Kind::Symlink => symlinkat(&stat.linkname, folder, name).map_err(fail)?,
            Kind::Pipe => {
                mknodat(folder, name, FileType::Fifo, mode(stat.mode), 0).map_err(fail)?;
            }
            Kind::HardLink => {
                let (from_folder, from) = split(&stat.linkname);
                if !self.paths.contains(&stat.linkname) {
                    return Err(writing(&stat.path, Errno::NOENT));
                }
                let from_folder = open_folder(&self.root, from_folder).map_err(fail)?;
                let folder = open_folder(&self.root, split(&stat.path).0).map_err(fail)?;
                linkat(&from_folder, from, &folder, name, AtFlags::empty()).map_err(fail)?;
            }
            Kind::Regular => {
                drop(openat(folder, name, creating(), Mode::RUSR | Mode::WUSR).map_err(fail)?);
                return Ok(true);
            }
            // As in an archive of a context: a socket is nothing without its listener.
            Kind::Socket => {}
            Kind::Other => {
                return Err(Failure::invalid(format!(
                    "{} is a device or of a kind that no context has: leave it out with .dockerignore",
                    stat.path
                )));
            }
        }
        Ok(false)
    }

    /// Opens a file whose contents come now.
    pub(crate) fn create(&mut self, stat: &Stat) -> Result<File, Failure> {
        let (folder, name) = split(&stat.path);
        let folder = self.folder(folder)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(folder, name, flags, Mode::empty()).map(File::from).map_err(|errno| writing(&stat.path, errno))
    }

    /// So many bytes came of the file of this number. Where that is not what was told, it was changed since: it counts as
    /// long as it is, and is asked for the next time.
    pub(crate) fn came(&mut self, number: usize, bytes: u64) {
        if let Some(stat) = self.now.get_mut(number) {
            stat.size = i64::try_from(bytes).unwrap_or(i64::MAX);
        }
    }

    /// A file's contents are all there.
    pub(crate) fn complete(&self, stat: &Stat, file: &File) -> Result<(), Failure> {
        let fail = |errno| writing(&stat.path, errno);
        for (name, value) in &stat.xattrs {
            if is_kept(name) {
                match fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(fail(errno)),
                }
            }
        }
        fchmod(file, mode(stat.mode)).map_err(fail)?;
        futimens(file, &times(stat)).map_err(fail)
    }

    /// Removes what the client has no more, and gives folders their modes and times.
    pub(crate) fn finish(self) -> Result<Vec<Stat>, Failure> {
        for path in self.before.keys().filter(|path| !self.paths.contains(*path)) {
            let (folder, name) = split(path);
            // What was in a folder that is gone went with it.
            let Ok(folder) = open_folder(&self.root, folder) else { continue };
            clear(folder.as_fd(), name).map_err(|errno| writing(path, errno))?;
        }
        // Those inside first: writing into a folder changes its time.
        for stat in self.now.iter().rev().filter(|stat| kind(stat) == Kind::Folder) {
            let fail = |errno| writing(&stat.path, errno);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder =
                openat2(&self.root, stat.path.as_str(), flags, Mode::empty(), beneath()).map_err(fail)?;
            fchmod(&folder, mode(stat.mode)).map_err(fail)?;
            futimens(&folder, &times(stat)).map_err(fail)?;
        }
        Ok(self.now)
    }

    fn folder(&mut self, path: &str) -> Result<std::os::fd::BorrowedFd<'_>, Failure> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let folder = open_folder(&self.root, path).map_err(|errno| writing(path, errno))?;
            self.last = Some((path.to_owned(), folder));
        }
        match &self.last {
            Some((_, folder)) => Ok(folder.as_fd()),
            None => Ok(self.root.as_fd()),
        }
    }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
}

fn creating() -> OFlags {
    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn open_folder(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    openat2(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), beneath())
}

/// Removes what has that name, whatever it is.
fn clear(folder: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            // By the descriptor: nobody else has a say over what is above.
            let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
            hull_image::remove_tree(Path::new(&path))
                .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        }
        Err(errno) => Err(errno),
    }
}

/// A path must be plain: no way up, none from the root.
fn check(path: &str) -> Result<(), Failure> {
    let plain = !path.is_empty()
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain {
        Ok(())
    } else {
        Err(Failure::invalid(format!("the client sent {path:?}, which is no path of a context")))
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modified }
}

fn writing(path: &str, errno: Errno) -> Failure {
    Failure::system(format_args!("write {path} of the build context"), std::io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn stat(path: &str, mode: u32) -> Stat {
        Stat { path: path.to_owned(), mode, mod_time: 1_500_000_000, ..Stat::default() }
    }

    fn link(path: &str, mode: u32, to: &str) -> Stat {
        Stat { linkname: to.to_owned(), ..stat(path, mode) }
    }

    /// Sends these files, each with its own name in it; which ones were asked for.
    fn sync(folder: &Path, before: &[Stat], now: &[Stat]) -> Result<(Vec<Stat>, Vec<String>), Failure> {
        let before = before.iter().map(|stat| (stat.path.clone(), stat.clone())).collect();
        let mut tree = Tree::open(folder, before)?;
        let mut asked = Vec::new();
        for stat in now {
            if tree.place(stat)? {
                let mut file = tree.create(stat)?;
                file.write_all(stat.path.as_bytes()).unwrap();
                tree.complete(stat, &file)?;
                asked.push(stat.path.clone());
            }
        }
        Ok((tree.finish()?, asked))
    }

    #[test]
    fn only_what_changed_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let first = [
            stat("a", go::DIR | 0o750),
            stat("a/x", 0o640),
            link("a/y", 0o640, "a/x"),
            stat("b", go::SETUID | 0o755),
            link("l", go::SYMLINK | 0o777, "/etc/passwd"),
        ];
        let (now, asked) = sync(folder.path(), &[], &first).unwrap();
        assert_eq!(asked, ["a/x", "b"]);
        let metadata = std::fs::metadata(at("a/y")).unwrap();
        assert_eq!((metadata.nlink(), metadata.mtime(), metadata.mtime_nsec()), (2, 1, 500_000_000));
        assert_eq!(std::fs::metadata(at("b")).unwrap().permissions().mode() & 0o7777, 0o4755);
        assert_eq!(std::fs::metadata(at("a")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(sync(folder.path(), &now, &first).unwrap().1, [""; 0]);
        // A file is another, one is a folder, one is gone.
        let mut second = first.to_vec();
        second[1].size = 7;
        second[3] = stat("b", go::DIR | 0o755);
        second.pop();
        let (_, asked) = sync(folder.path(), &now, &second).unwrap();
        assert_eq!(asked, ["a/x"]);
        assert!(at("b").is_dir() && std::fs::symlink_metadata(at("l")).is_err());
        assert_eq!(std::fs::metadata(at("a/y")).unwrap().nlink(), 2, "the link is the new file's");
    }

    #[test]
    fn no_path_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "a//b", "a\0"] {
            assert!(sync(folder.path(), &[], &[stat(path, 0o644)]).is_err(), "{path:?}");
        }
        let out = outside.path().to_str().unwrap();
        let through = [link("l", go::SYMLINK | 0o777, out), stat("l/x", 0o644)];
        assert!(sync(folder.path(), &[], &through).is_err());
        let linked = [link("h", 0o644, &format!("{out}/x"))];
        assert!(sync(folder.path(), &[], &linked).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_a_folder_goes_with_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = [stat("a", go::DIR | 0o755), stat("a/b", go::DIR | 0o755), stat("a/b/c", 0o644)];
        let (now, _) = sync(folder.path(), &[], &first).unwrap();
        let (now, asked) = sync(folder.path(), &now, &[stat("a", 0o644)]).unwrap();
        assert_eq!(asked, ["a"]);
        assert_eq!(now.len(), 1);
        assert_eq!(std::fs::read_to_string(folder.path().join("a")).unwrap(), "a");
    }
}
