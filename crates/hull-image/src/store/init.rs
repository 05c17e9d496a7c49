//! The init layer: the lowest of every snapshot. It holds empty files and folders where a container gets mounts, so
//! that mount points are there without being seen as a change. An image's own entries, being above, win.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, chmod, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use super::{Image, Store};
use crate::{Error, Result};

const FOLDERS: &[&str] = &["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: &[&str] = &[".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];
const LINKS: &[(&str, &str)] = &[("etc/mtab", "/proc/mounts")];

impl Store {
    /// Makes what is not there; it is the same for all containers and never written to.
    pub(super) fn make_init_layer(&self) -> Result<()> {
        fill(&self.init_layer())
    }

    /// The paths where a snapshot of an image has something only to be mounted on: the image itself has nothing there.
    ///
    /// # Errors
    /// Its layers cannot be read.
    pub fn mount_points(&self, image: &Image) -> Result<BTreeSet<&'static str>> {
        let mut points = BTreeSet::new();
        for path in places() {
            match self.parts_at(image, path) {
                Ok(_) => {}
                Err(error) if error.kind == crate::Kind::NotFound => drop(points.insert(path)),
                Err(error) => return Err(error),
            }
        }
        Ok(points)
    }

    pub(super) fn init_layer(&self) -> PathBuf {
        self.root.join("layers/0")
    }
}

/// The paths that may be there only to be mounted on.
pub(super) fn places() -> impl Iterator<Item = &'static str> {
    FOLDERS.iter().chain(FILES).copied().chain(LINKS.iter().map(|(link, _)| *link))
}

/// Fills a folder with the mount points of a container.
pub(super) fn fill(root: &Path) -> Result<()> {
    let made = |path: &Path, result: Result<(), Errno>| match result {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::file("create", path, errno)),
    };
    for folder in [""].iter().chain(FOLDERS) {
        let path = root.join(folder);
        made(&path, mkdirat(CWD, &path, Mode::from(0o755)))?;
        made(&path, chmod(&path, Mode::from(0o755)))?;
    }
    for file in FILES {
        let path = root.join(file);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        made(&path, openat(CWD, &path, flags, Mode::from(0o644)).map(drop))?;
        made(&path, chmod(&path, Mode::from(0o644)))?;
    }
    for (link, target) in LINKS {
        let path = root.join(link);
        made(&path, symlinkat(*target, CWD, &path))?;
    }
    Ok(())
}
