//! A file that is being written, and has no name until all of it is there.
//!
//! Where the file system cannot do that (NFS, FUSE), it has a random one beside its place. What a kill leaves of it there is in
//! the way of nobody.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// How many names are tried that are taken.
const NAMES: u32 = 16;

/// The file. Dropped before [`Unfinished::name_it`], it is gone.
pub(super) struct Unfinished<'a> {
    folder: &'a OwnedFd,
    pub(super) file: File,
    /// Its name for now, where it has one.
    name: Option<String>,
}

impl<'a> Unfinished<'a> {
    /// Makes the file in the folder that its place is in; nobody else reads it.
    pub(super) fn new(folder: &'a OwnedFd) -> io::Result<Unfinished<'a>> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, ".", flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => Ok(Unfinished { folder, file: File::from(file), name: None }),
            // A file system without it, and one that takes the flag for what older kernels took it for.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Unfinished::named(folder),
            Err(error) => Err(error.into()),
        }
    }

    fn named(folder: &'a OwnedFd) -> io::Result<Unfinished<'a>> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let (name, file) =
            under_a_free_name(|name| rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600)))?;
        Ok(Unfinished { folder, file: File::from(file), name: Some(name) })
    }

    /// Gives it its name, instead of whatever file has it.
    pub(super) fn name_it(mut self, name: &OsStr) -> io::Result<()> {
        if self.name.is_none() {
            match self.link(name) {
                Err(Errno::EXIST) => {}
                linked => return Ok(linked?),
            }
            // Only a rename takes the place of another.
            self.name = Some(under_a_free_name(|name| self.link(OsStr::new(name)))?.0);
        }
        if let Some(own) = &self.name {
            rustix::fs::renameat(self.folder, own, self.folder, name)?;
            self.name = None;
        }
        Ok(())
    }

    fn link(&self, name: &OsStr) -> Result<(), Errno> {
        // By its descriptor alone it takes a capability; that way remains where there is no /proc.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match rustix::fs::linkat(CWD, &path, self.folder, name, AtFlags::SYMLINK_FOLLOW) {
            Err(Errno::NOENT) => rustix::fs::linkat(&self.file, "", self.folder, name, AtFlags::EMPTY_PATH),
            linked => linked,
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What went wrong first is what is told.
            let _ = rustix::fs::unlinkat(self.folder, name, AtFlags::empty());
        }
    }
}

/// Makes something under a name that nothing has.
fn under_a_free_name<T>(mut make: impl FnMut(&str) -> Result<T, Errno>) -> io::Result<(String, T)> {
    for _ in 0..NAMES {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let name = format!(".hull-unfinished-{:016x}", u64::from_ne_bytes(bytes));
        match make(&name) {
            Err(Errno::EXIST) => {}
            made => return Ok((name, made?)),
        }
    }
    Err(io::Error::other("no random name is free beside it"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_takes_its_place_whole_or_leaves_nothing() {
        for named in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let opened = OwnedFd::from(File::open(folder.path()).unwrap());
            let make = || if named { Unfinished::named(&opened) } else { Unfinished::new(&opened) };
            fs::create_dir(folder.path().join("d")).unwrap();
            for text in ["new", "newer"] {
                let mut file = make().unwrap();
                file.file.write_all(text.as_bytes()).unwrap();
                file.name_it(OsStr::new("f")).unwrap();
                assert_eq!(fs::read_to_string(folder.path().join("f")).unwrap(), text);
            }
            drop(make().unwrap());
            let error = make().unwrap().name_it(OsStr::new("d")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
            assert_eq!(names(folder.path()), ["d", "f"], "nothing stays beside");
        }
    }

    #[test]
    fn what_another_left_is_in_nobodys_way() {
        let mut tried = Vec::new();
        let (name, ()) = under_a_free_name(|name| {
            tried.push(name.to_owned());
            if tried.len() < 3 { Err(Errno::EXIST) } else { Ok(()) }
        })
        .unwrap();
        assert_eq!(tried[2], name);
        assert!(tried[0] != tried[1] && tried[1] != tried[2], "{tried:?}");
        assert!(under_a_free_name(|_| Err::<(), _>(Errno::EXIST)).is_err());
    }

    #[test]
    fn what_is_half_there_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let opened = OwnedFd::from(File::open(folder.path()).unwrap());
        let flags = OFlags::TMPFILE | OFlags::WRONLY;
        if rustix::fs::openat(&opened, ".", flags, Mode::from_raw_mode(0o600)).is_err() {
            // A file system that cannot.
            return;
        }
        let _half = Unfinished::new(&opened).unwrap();
        assert_eq!(names(folder.path()), Vec::<String>::new(), "a kill leaves nothing");
    }
}
