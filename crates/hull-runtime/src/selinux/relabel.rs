//! Labels for a tree of files. It may be somebody's who exchanges its folders meanwhile: each is opened beneath the one
//! before, no link is followed, and what is labelled is what was opened.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::ATTRIBUTE;
use crate::error::Context as _;
use crate::{Error, Result};

/// What nobody may relabel: the machine would not work any more. What is in these folders may be.
const NEVER: [&str; 42] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/dev/shm",
    "/etc",
    "/etc/docker",
    "/etc/group",
    "/etc/gshadow",
    "/etc/hull",
    "/etc/passwd",
    "/etc/pki",
    "/etc/selinux",
    "/etc/shadow",
    "/etc/ssh",
    "/etc/ssl",
    "/etc/sudoers",
    "/etc/systemd",
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
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// What nobody may relabel, nor anything in it: programs, what they are linked with, and what the kernel shows.
const NEVER_IN: [&str; 19] = [
    "/bin",
    "/boot",
    "/etc/pam.d",
    "/etc/security",
    "/etc/selinux",
    "/etc/ssh",
    "/etc/sudoers.d",
    "/lib",
    "/lib64",
    "/proc",
    "/run/dbus",
    "/run/systemd",
    "/sbin",
    "/sys",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/sbin",
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

/// Gives a file, or a folder with all that is in it, this label. A file system that has no labels stays as it is. `kept`:
/// folders that must keep theirs, with what is in them, beside what the machine lives by.
///
/// # Errors
/// It is a part of the machine that must keep its labels, or has to do with those folders, or one of the files cannot be
/// labelled.
pub fn relabel(path: &Path, label: &str, walk: Walk, kept: &[&Path]) -> Result<()> {
    let doing = || format!("label {} {label}", path.display());
    let top = open_top(path)?;
    check_opened(&top, path, label, kept)?;
    if walk == Walk::UnlessLabelled && has_label(top.as_fd(), label) {
        return Ok(());
    }
    match label_tree(&top, label, 0) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done.context(doing),
    }
}

/// Whether [`relabel`] would begin, of what is mounted elsewhere: there it has another name.
///
/// # Errors
/// As that has.
pub fn check_relabel(path: &Path, label: &str, kept: &[&Path]) -> Result<()> {
    check_opened(&open_top(path)?, path, label, kept)
}

/// Opened first: what is asked about is what is labelled, whoever exchanges folders on the way.
fn open_top(path: &Path) -> Result<OwnedFd> {
    fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("find {}", path.display()))
}

fn check_opened(top: &OwnedFd, path: &Path, label: &str, kept: &[&Path]) -> Result<()> {
    let doing = || format!("label {} {label}", path.display());
    let real = std::fs::read_link(by_number(top.as_fd())).unwrap_or_else(|_| path.to_owned());
    if is_the_machines(top, &real).context(doing)? {
        // Docker's words.
        let reason = format!("SELinux relabeling of {} is not allowed", real.display());
        return Err(Error::refused(doing(), reason));
    }
    // Whoever labels a folder above labels these, too.
    let touches = |kept: &&Path| {
        let kept = kept.canonicalize().unwrap_or_else(|_| (*kept).to_owned());
        real.starts_with(&kept) || kept.starts_with(&real)
    };
    if let Some(kept) = kept.iter().copied().find(touches) {
        let reason = format!(
            "SELinux relabeling of {} is not allowed: hull's own files are in {}, and volumes are mounted by their names",
            real.display(),
            kept.display()
        );
        return Err(Error::refused(doing(), reason));
    }
    Ok(())
}

/// Whether it is one of those that nobody may relabel, by whatever name it was opened: some are links on some machines,
/// whose targets are meant as well.
fn is_the_machines(file: &OwnedFd, real: &Path) -> rustix::io::Result<bool> {
    let found = fs::fstat(file)?;
    let is = |never: &&str| {
        fs::stat(*never).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (found.st_dev, found.st_ino))
    };
    // Devices are the kernel's; shared memory beside them is whose it is.
    let is_device = real.starts_with("/dev") && !real.starts_with("/dev/shm");
    Ok(is_device
        || NEVER_IN.iter().any(|never| real.starts_with(never))
        || NEVER.iter().chain(&NEVER_IN).any(is))
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
        // What was opened has its real name: on a machine where /lib is a link that is beneath /usr/lib.
        let of_the_machine = [
            "/",
            "/usr/",
            "/usr/../home",
            "/usr/lib",
            "/usr/bin/env",
            "/lib/../lib",
            "/proc/self/status",
            "/dev/null",
            "/dev/shm",
        ];
        for path in of_the_machine.iter().map(Path::new).chain([link.as_path()]) {
            let refused = relabel(path, label, Walk::Whole, &[]).unwrap_err().to_string();
            assert!(
                refused.contains("SELinux relabeling of /") && refused.contains("is not allowed"),
                "{refused}"
            );
        }
        assert!(relabel(Path::new("/no/such/file"), label, Walk::Whole, &[]).is_err());
    }

    #[test]
    fn what_is_to_keep_its_labels_does_whichever_way_one_comes() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("hull");
        std::fs::create_dir_all(root.join("image")).unwrap();
        std::fs::create_dir(folder.path().join("hull-2")).unwrap();
        std::os::unix::fs::symlink(&root, folder.path().join("link")).unwrap();
        let check = |path: &str| {
            let label = "system_u:object_r:container_file_t:s0";
            let kept = folder.path().join("link");
            check_relabel(&folder.path().join(path), label, &[&kept]).map_err(|error| error.to_string())
        };
        for path in ["", "hull", "hull/image", "link/image"] {
            let refused = check(path).unwrap_err();
            assert!(refused.contains("hull's own files are in"), "{path}: {refused}");
        }
        assert_eq!(check("hull-2"), Ok(()));
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
        match relabel(&tree, label, Walk::UnlessLabelled, &[]) {
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
