//! Times that are later than a build's own: what is made at a given moment is not newer than that.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, openat2};
use rustix::io::Errno;

use super::ChangeKind;
use super::diff::{Changes, open_upper};
use crate::Result;
use crate::archive::pack::reading;
use crate::layer::extract::split;

/// Gives what was changed the time `latest`, in seconds since 1970, where its own is later. What is only on its way to it,
/// as it was, keeps its own: it is the layer's below.
///
/// It is done to the files themselves, so that the layer is what an archive of it says.
pub(super) fn clamp(upper: &Path, changes: &Changes, latest: i64) -> Result<()> {
    let root = open_upper(upper)?;
    for (path, _) in changes.iter().filter(|(_, kind)| **kind != ChangeKind::Deleted) {
        clamp_one(&root, path, latest).map_err(|errno| reading(path, errno))?;
    }
    Ok(())
}

fn clamp_one(root: &OwnedFd, path: &[u8], latest: i64) -> Result<(), Errno> {
    let (folder, name) = split(path);
    let folder = if folder.is_empty() { b"." } else { folder };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let folder = openat2(root, folder, flags, Mode::empty(), resolve)?;
    let stat = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_mtime, stat.st_mtime_nsec) <= (latest, 0) {
        return Ok(());
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: latest, tv_nsec: 0 },
    };
    fs::utimensat(&folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn nothing_that_was_changed_is_newer() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("d/e")).unwrap();
        for file in ["d/new", "d/old", "other"] {
            std::fs::write(at(file), "").unwrap();
        }
        symlink("other", at("d/link")).unwrap();
        let old = UNIX_EPOCH + Duration::new(999, 5);
        std::fs::File::open(at("d/old")).unwrap().set_modified(old).unwrap();
        let changed = ["d", "d/e", "d/new", "d/old", "d/link"].map(|path| (path.into(), ChangeKind::Added));
        let gone = ("d/gone".into(), ChangeKind::Deleted);
        clamp(folder.path(), &changed.into_iter().chain([gone]).collect(), 1000).unwrap();
        let time = |path: &str| {
            let found = std::fs::symlink_metadata(at(path)).unwrap();
            (found.mtime(), found.mtime_nsec())
        };
        for path in ["d", "d/e", "d/new", "d/link"] {
            assert_eq!(time(path), (1000, 0), "{path}");
        }
        assert_eq!(time("d/old"), (999, 5));
        assert!(time("other").0 > 1000);
    }
}
