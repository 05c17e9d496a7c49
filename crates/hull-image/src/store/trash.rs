//! What is to be removed is renamed away at once; its bytes are removed by threads, behind.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::layer::sweep::Sweep;
use crate::{Error, Result, disk};

/// The folder of what is to be removed, and what empties it.
#[derive(Debug)]
pub(super) struct Trash {
    folder: PathBuf,
    sweep: Sweep,
}

impl Trash {
    /// Opens the folder; what an earlier run left in it is removed too.
    pub(super) fn open(folder: &Path) -> Result<Trash> {
        std::fs::create_dir_all(folder).map_err(|error| Error::file("create", folder, error))?;
        let opened = std::fs::File::open(folder).map_err(|error| Error::file("open", folder, error))?;
        let before = std::fs::read_dir(folder).map_err(|error| Error::file("read", folder, error))?;
        let before: Vec<_> = before.flatten().map(|entry| entry.file_name()).collect();
        let kind = disk::file_system(folder)?;
        // No run has the names of another.
        let number = jiff::Timestamp::now().as_microsecond().cast_unsigned();
        let sweep = Sweep::start(opened.into(), kind, number)
            .map_err(|error| Error::system("start the thread that removes files", error))?;
        let trash = Trash { folder: folder.to_owned(), sweep };
        before.iter().for_each(|name| trash.remove(name.as_bytes()));
        Ok(trash)
    }

    /// Takes what is at `path`. Nothing there is no error: false is returned.
    pub(super) fn take(&self, path: &Path) -> Result<bool> {
        let name = self.sweep.name();
        match std::fs::rename(path, self.folder.join(&name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::file("remove", path, error)),
        }
        self.remove(name.as_bytes());
        Ok(true)
    }

    fn remove(&self, name: &[u8]) {
        // No name of a file has a zero byte.
        if let Ok(name) = CString::new(name) {
            self.sweep.remove(name);
        }
    }
}
