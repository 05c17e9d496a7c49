//! Extracts an archive that a container wrote, into a folder of this machine.
//!
//! Whoever rules the container may have made the archive. So every name is resolved by descriptor, beneath the folder
//! and without following a single link; device nodes are refused, and set-id bits are dropped unless owners are kept.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use tar::EntryType;

use super::paths::Plan;
use super::unfinished::Unfinished;
use crate::error::Error;

/// Extracts all of it. With `owners`, users and groups are as in the archive.
pub fn extract(source: impl Read, plan: &Plan, owners: bool) -> Result<(), Error> {
    let folder =
        rustix::fs::openat(CWD, plan.folder.as_str(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| {
                Error::new(format!("cannot extract into {}: {}", plan.folder, crate::error::words(&e.into())))
            })?;
    let mut extraction = Extraction { folder, owners, folders: Vec::new() };
    let mut archive = tar::Archive::new(source);
    let broken = |e: io::Error| Error::new(format!("the archive is broken: {}", crate::error::words(&e)));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let path = renamed(&name, plan)?;
        extraction.one(&mut entry, &path, plan).map_err(|e| {
            Error::new(format!(
                "cannot extract {} into {}: {}",
                path.display(),
                plan.folder,
                crate::error::words(&e)
            ))
        })?;
    }
    extraction.finish()
}

/// The entry's name beneath the folder, with the plan's renaming.
fn renamed(name: &Path, plan: &Plan) -> Result<PathBuf, Error> {
    let mut clean = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(format!(
                    "the archive has the name {}, which leads out",
                    name.display()
                )));
            }
        }
    }
    let Some((from, to)) = &plan.rename else { return Ok(clean) };
    // `.` is a folder's content: it goes below the new name.
    if from == "." || from == "/" {
        return Ok(Path::new(to).join(clean));
    }
    match clean.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => Ok(PathBuf::from(to)),
        Ok(rest) => Ok(Path::new(to).join(rest)),
        Err(_) => {
            Err(Error::new(format!("the archive has the name {}, which was not asked for", name.display())))
        }
    }
}

struct Extraction {
    folder: OwnedFd,
    owners: bool,
    /// Folders get their mode and time last: until then they must take files.
    folders: Vec<(PathBuf, Attributes)>,
}

#[derive(Clone, Copy)]
struct Attributes {
    mode: Mode,
    owner: (u32, u32),
    time: i64,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Extraction {
    fn one(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path, plan: &Plan) -> io::Result<()> {
        let attributes = self.attributes(entry)?;
        let Some(name) = path.file_name() else {
            // The folder itself, whose content was asked for: it stays as it is.
            return Ok(());
        };
        let parent = self.open_folder(path.parent().unwrap_or(Path::new("")))?;
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(&parent, name, path, attributes),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, &parent, name, attributes)
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link to nothing"))?;
                clear(&parent, name)?;
                rustix::fs::symlinkat(&*target, &parent, name)?;
                self.own_link(&parent, name, attributes)
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link to nothing"))?;
                let target = renamed(&target, plan).map_err(|e| io::Error::other(e.to_string()))?;
                let from = self.open_folder(target.parent().unwrap_or(Path::new("")))?;
                let old = target.file_name().ok_or_else(|| io::Error::other("a link to a folder"))?;
                clear(&parent, name)?;
                Ok(rustix::fs::linkat(&from, old, &parent, name, AtFlags::empty())?)
            }
            EntryType::Fifo => {
                clear(&parent, name)?;
                rustix::fs::mknodat(&parent, name, FileType::Fifo, attributes.mode, 0)?;
                self.own_link(&parent, name, attributes)
            }
            EntryType::Char | EntryType::Block => {
                Err(io::Error::other("it is a device node, which a container does not give to its host"))
            }
            EntryType::XGlobalHeader => Ok(()),
            other => Err(io::Error::other(format!("an entry of the unknown kind {other:?}"))),
        }
    }

    fn attributes(&self, entry: &tar::Entry<'_, impl Read>) -> io::Result<Attributes> {
        let header = entry.header();
        // A set-id program of the container's making, owned by whoever calls, would be a way to be him.
        let bits = if self.owners { 0o7777 } else { 0o1777 };
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("an owner out of range"));
        Ok(Attributes {
            mode: Mode::from_raw_mode(header.mode()? & bits),
            owner: (id(header.uid()?)?, id(header.gid()?)?),
            time: i64::try_from(header.mtime()?).unwrap_or(0),
        })
    }

    /// Opens a folder beneath the top; one that the archive did not name before is made.
    fn open_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::openat2(&self.folder, ".", flags, Mode::empty(), ResolveFlags::BENEATH)?;
        for part in path.components() {
            let part = part.as_os_str();
            folder = match rustix::fs::openat2(&folder, part, flags, Mode::empty(), BENEATH) {
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat2(&folder, part, flags, Mode::empty(), BENEATH)?
                }
                opened => opened?,
            };
        }
        Ok(folder)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        attributes: Attributes,
    ) -> io::Result<()> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Ok(_) => return Err(io::Error::other("cannot overwrite non-directory with directory")),
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
            }
            Err(error) => return Err(error.into()),
        }
        self.folders.push((path.to_owned(), attributes));
        Ok(())
    }

    /// Writes a file that gets its name last: what was there stays until all of it has come, and neither a full disk nor a
    /// kill leaves anything half. It is made anew, so its folder must be writable also where the file itself was.
    fn file(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &OsStr,
        attributes: Attributes,
    ) -> io::Result<()> {
        // Before all its bytes are read.
        if rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        {
            return Err(io::Error::other("cannot overwrite directory with non-directory"));
        }
        let mut unfinished = Unfinished::new(parent)?;
        io::copy(entry, &mut unfinished.file)?;
        self.finish_one(&unfinished.file, attributes)?;
        unfinished.name_it(name).map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => io::Error::other("cannot overwrite directory with non-directory"),
            _ => error,
        })
    }

    /// Owner, then mode (a change of owner takes set-id bits away), then time.
    fn finish_one(&self, file: impl std::os::fd::AsFd, attributes: Attributes) -> io::Result<()> {
        if self.owners {
            let (user, group) = attributes.owner;
            rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        rustix::fs::fchmod(&file, attributes.mode)?;
        let time = Timespec { tv_sec: attributes.time, tv_nsec: 0 };
        Ok(rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?)
    }

    fn own_link(&self, parent: &OwnedFd, name: &OsStr, attributes: Attributes) -> io::Result<()> {
        if self.owners {
            let (user, group) = attributes.owner;
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            rustix::fs::chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        for (path, attributes) in self.folders.iter().rev() {
            let done = self.open_folder(path).and_then(|folder| self.finish_one(folder.as_fd(), *attributes));
            done.map_err(|e| {
                Error::new(format!("cannot set the mode of {}: {}", path.display(), crate::error::words(&e)))
            })?;
        }
        Ok(())
    }
}

/// Takes away what is there, so that nothing is written through it. A folder is not replaced by a file.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            Err(io::Error::other("cannot overwrite directory with non-directory"))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, data: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        header.set_size(if link { 0 } else { data.len() as u64 });
        // Written by hand: the builder itself refuses hostile names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if link {
            header.as_mut_bytes()[157..157 + data.len()].copy_from_slice(data.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, if link { &[][..] } else { data.as_bytes() }).unwrap();
    }

    fn run(
        folder: &Path,
        rename: Option<(&str, &str)>,
        entries: &[(EntryType, &str, &str)],
    ) -> Result<(), Error> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, data) in entries {
            entry(&mut builder, *kind, name, data);
        }
        let archive = builder.into_inner().unwrap();
        let rename = rename.map(|(from, to)| (from.to_owned(), to.to_owned()));
        extract(&archive[..], &Plan { folder: folder.to_str().unwrap().to_owned(), rename }, false)
    }

    #[test]
    fn a_tree_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        run(
            folder.path(),
            Some(("d", "new")),
            &[
                (EntryType::Directory, "d/", ""),
                (EntryType::Regular, "d/f", "text"),
                (EntryType::Symlink, "d/l", "f"),
                (EntryType::Link, "d/h", "d/f"),
            ],
        )
        .unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("new/h")).unwrap(), "text");
        assert_eq!(fs::read_link(folder.path().join("new/l")).unwrap(), Path::new("f"));
        let meta = fs::metadata(folder.path().join("new/f")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "the set-id bit is gone");
        assert_eq!(
            meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
            1_000_000_000
        );
    }

    #[test]
    fn hostile_archives_write_nothing_outside() {
        for entries in [
            vec![(EntryType::Regular, "../evil", "x")],
            vec![(EntryType::Regular, "a/../../evil", "x")],
            vec![(EntryType::Symlink, "l", ".."), (EntryType::Regular, "l/evil", "x")],
            vec![(EntryType::Symlink, "l", "../evil"), (EntryType::Directory, "l/", "")],
            vec![(EntryType::Link, "h", "../secret")],
            vec![(EntryType::Symlink, "l", ".."), (EntryType::Link, "h", "l/secret")],
            vec![(EntryType::Block, "dev", "")],
        ] {
            let outside = tempfile::tempdir().unwrap();
            fs::write(outside.path().join("secret"), "secret").unwrap();
            let folder = outside.path().join("in");
            fs::create_dir(&folder).unwrap();
            assert!(run(&folder, None, &entries).is_err(), "{entries:?}");
            let mut names: Vec<_> =
                fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["in", "secret"], "{entries:?}");
            assert!(!folder.join("h").exists(), "{entries:?}");
        }
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("target");
        fs::write(&target, "old").unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join("f")).unwrap();
        run(folder.path(), None, &[(EntryType::Regular, "f", "new")]).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(fs::read_to_string(folder.path().join("f")).unwrap(), "new");
    }

    #[test]
    fn a_file_that_does_not_come_whole_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), "old").unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        entry(&mut builder, EntryType::Regular, "f", &"new".repeat(1000));
        let archive = builder.into_inner().unwrap();
        struct Cut<'a>(&'a [u8]);
        impl Read for Cut<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::Error::other("the line broke")),
                    count => Ok(count),
                }
            }
        }
        let plan = Plan { folder: folder.path().to_str().unwrap().to_owned(), rename: None };
        let error = extract(Cut(&archive[..1000]), &plan, false).unwrap_err();
        assert!(error.to_string().contains("the line broke"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("f")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn kinds_do_not_replace_each_other() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("f"), "").unwrap();
        assert!(run(folder.path(), None, &[(EntryType::Regular, "d", "x")]).is_err());
        assert!(run(folder.path(), None, &[(EntryType::Directory, "f/", "")]).is_err());
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(run(folder.path(), Some(("f", "g")), &[(EntryType::Regular, "other", "x")]).is_err());
    }
}
