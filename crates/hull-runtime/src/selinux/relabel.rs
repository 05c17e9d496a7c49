//! Labels for a tree of files. It may be somebody's who exchanges its folders meanwhile: each is opened beneath the one
//! before, no link is followed, and what is labelled is what was opened.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::ATTRIBUTE;
use crate::error::Context as _;
use crate::{Error, Result};

/// What nobody may relabel: the machine would not work any more. It is what other engines do not relabel either.
const NEVER: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// How deep a tree may be: a descriptor is open for each folder on the way.
const DEPTH_MAX: usize = 512;

/// Which files of a tree are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// All.
    Whole,
    /// None where the tree's own folder has the label: it got it last, and what was made in it since has it from there.
    UnlessLabelled,
}

/// Gives a file, or a folder with all that is in it, this label. A file system that has no labels stays as it is.
///
/// # Errors
/// It is a part of the machine that must keep its labels, or one of the files cannot be labelled.
pub fn relabel(path: &Path, label: &str, walk: Walk) -> Result<()> {
    let doing = || format!("label {} {label}", path.display());
    // Opened first: what is asked about is what is labelled, whoever exchanges folders on the way.
    let top = fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("find {}", path.display()))?;
    if is_the_machines(&top).context(doing)? {
        let real = std::fs::read_link(by_number(top.as_fd())).unwrap_or_else(|_| path.to_owned());
        // Docker's words.
        let reason = format!("SELinux relabeling of {} is not allowed", real.display());
        return Err(Error::refused(doing(), reason));
    }
    if walk == Walk::UnlessLabelled && has_label(top.as_fd(), label) {
        return Ok(());
    }
    match label_tree(&top, label, 0) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done.context(doing),
    }
}

/// Whether it is one of those that nobody may relabel, by whatever name it was opened: some are links on some machines,
/// whose targets are meant as well.
fn is_the_machines(file: &OwnedFd) -> rustix::io::Result<bool> {
    let found = fs::fstat(file)?;
    let is = |never: &&str| {
        fs::stat(*never).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (found.st_dev, found.st_ino))
    };
    Ok(NEVER.iter().any(is))
}

/// Labels what was opened, by its number in `/proc`, which leads to that very file, be it a link.
pub(crate) fn label_opened(file: BorrowedFd<'_>, label: &str) -> rustix::io::Result<()> {
    // What has it already need not be written.
    if has_label(file, label) {
        return Ok(());
    }
    fs::setxattr(by_number(file), ATTRIBUTE, label.as_bytes(), XattrFlags::empty())
}

fn by_number(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn has_label(file: BorrowedFd<'_>, label: &str) -> bool {
    let mut current = [0; 256];
    let length = fs::getxattr(by_number(file), ATTRIBUTE, &mut current);
    length.is_ok_and(|length| {
        let current = &current[..length];
        current.strip_suffix(b"\0").unwrap_or(current) == label.as_bytes()
    })
}

fn label_tree(file: &OwnedFd, label: &str, depth: usize) -> rustix::io::Result<()> {
    if FileType::from_raw_mode(fs::fstat(file)?.st_mode) == FileType::Directory {
        label_entries(file, label, depth)?;
    }
    // Last, for it says that the others have it.
    label_opened(file.as_fd(), label)
}

fn label_entries(folder: &OwnedFd, label: &str, depth: usize) -> rustix::io::Result<()> {
    if depth == DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let readable =
        fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&readable, name, flags, Mode::empty()) {
            // Removed meanwhile.
            Err(Errno::NOENT) => {}
            Ok(below) => match label_tree(&below, label, depth + 1) {
                // Another file system, mounted there, that has no labels.
                Err(Errno::OPNOTSUPP) if is_mount_point(&readable, name) => {}
                done => done?,
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether something is mounted there.
fn is_mount_point(folder: &OwnedFd, name: &std::ffi::CStr) -> bool {
    let attributes = fs::StatxFlags::BASIC_STATS;
    let stat = fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, attributes);
    stat.is_ok_and(|stat| stat.stx_attributes.contains(fs::StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_lives_by_is_not_relabelled() {
        let label = "system_u:object_r:container_file_t:s0";
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/usr", link.path().join("link")).unwrap();
        let link = link.path().join("link");
        for path in [Path::new("/"), Path::new("/usr/"), Path::new("/usr/../home"), &link] {
            let refused = relabel(path, label, Walk::Whole).unwrap_err().to_string();
            assert!(
                refused.contains("SELinux relabeling of /") && refused.contains("is not allowed"),
                "{refused}"
            );
        }
        assert!(relabel(Path::new("/no/such/file"), label, Walk::Whole).is_err());
    }

    #[test]
    fn a_tree_is_labelled_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        for file in [tree.join("a/b/file"), outside.clone()] {
            std::fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let of = |path: &Path| {
            let mut value = [0; 256];
            let length = fs::lgetxattr(path, ATTRIBUTE, &mut value).unwrap_or(0);
            String::from_utf8_lossy(&value[..length]).trim_end_matches('\0').to_owned()
        };
        let before = of(&outside);
        match relabel(&tree, label, Walk::UnlessLabelled) {
            Ok(()) => {}
            // Where SELinux is enabled, a label that its policy does not know is refused; without it, root alone may.
            Err(error) => {
                assert!(matches!(error.errno, Some(libc::EINVAL | libc::EPERM)), "{error}");
                eprintln!("left out: this machine lets nobody set such a label ({error})");
                return;
            }
        }
        if of(&tree).is_empty() {
            eprintln!("left out: the file system of {} has no labels", tree.display());
            return;
        }
        for path in ["", "a", "a/b", "a/b/file", "a/link"] {
            let found = of(&tree.join(path));
            assert_eq!(found, label, "{path}");
        }
        assert_eq!(of(&outside), before);
    }
}
