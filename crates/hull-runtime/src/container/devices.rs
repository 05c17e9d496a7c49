//! The files of `/dev`: devices, links, and the terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::inroot::{self, Kind};
use super::root::attach_at;
use crate::error::Context;
use crate::{Error, Result};

/// What every container has: name, major and minor number, all readable and writable by everyone.
pub const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// Makes the default devices and links, and those that the configuration asks for.
pub(super) fn make(spec: &Spec, root: BorrowedFd<'_>) -> Result<()> {
    let dev = inroot::ensure(root, Path::new("/dev"), Kind::Folder)?;
    for (name, major, minor) in DEFAULT {
        make_default(dev.as_fd(), name, major, minor)?;
    }
    for (name, target) in LINKS {
        match fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::kernel(format!("link /dev/{name} to {target}"), error)),
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in devices.into_iter().flatten() {
        // Docker names it among the host's for --privileged; the container's own devpts has it.
        if device.path() == Path::new("/dev/ptmx") {
            continue;
        }
        make_device(device, root)?;
    }
    Ok(())
}

fn make_default(dev: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> Result<()> {
    let doing = || format!("make the device /dev/{name}");
    let everyone = Mode::from_raw_mode(0o666);
    match fs::mknodat(dev, name, FileType::CharacterDevice, everyone, fs::makedev(major, minor)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let there =
                fs::openat(dev, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            if inroot::is_device(there.context(doing)?, major, minor).context(doing)? {
                Ok(())
            } else {
                Err(Error::refused(doing(), "the image has something else there"))
            }
        }
        // Without CAP_MKNOD, or with a device cgroup above that forbids it: the host's own file.
        Err(Errno::PERM) => bind_device(Path::new(&format!("/dev/{name}")), dev, name.as_ref()),
        Err(error) => Err(Error::kernel(doing(), error)),
    }
}

fn make_device(device: &LinuxDevice, root: BorrowedFd<'_>) -> Result<()> {
    let path = device.path();
    let doing = || format!("make the device {}", path.display());
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(Error::refused(doing(), "\"a\" is no type of a device file")),
    };
    let (folder, name) = inroot::ensure_parent(root, path)?;
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    let number = fs::makedev(device.major() as u32, device.minor() as u32);
    match fs::mknodat(&folder, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).context(doing)?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
                return Err(Error::refused(doing(), "the container has something else there"));
            }
        }
        Err(Errno::PERM) => return bind_device(&host_node(path, kind, number), folder.as_fd(), name),
        Err(error) => return Err(Error::kernel(doing(), error)),
    }
    if device.uid().is_some() || device.gid().is_some() {
        let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
        fs::chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).context(doing)?;
    }
    Ok(())
}

/// Where the host has a device that is to have another path in the container.
pub(crate) fn elsewhere(device: &LinuxDevice) -> Option<PathBuf> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P | LinuxDeviceType::A => return None,
    };
    let number = fs::makedev(device.major() as u32, device.minor() as u32);
    Some(host_node(device.path(), kind, number)).filter(|host| host != device.path())
}

/// Where the host has a device: at the same path, or where the kernel says that it is.
fn host_node(path: &Path, kind: FileType, number: fs::Dev) -> PathBuf {
    let is = |path: &Path| {
        fs::stat(path)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == number)
    };
    let folder = if kind == FileType::BlockDevice { "block" } else { "char" };
    let entry = format!("/sys/dev/{folder}/{}:{}/uevent", fs::major(number), fs::minor(number));
    let named = || {
        let text = std::fs::read_to_string(entry).ok()?;
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Path::new("/dev").join(name)).filter(|path| is(path))
    };
    if is(path) { path.to_owned() } else { named().unwrap_or_else(|| path.to_owned()) }
}

fn bind_device(host: &Path, folder: BorrowedFd<'_>, name: &std::ffi::OsStr) -> Result<()> {
    let doing = || format!("bind the device {}", host.display());
    let tree = open_tree(CWD, host, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    put_on_file(tree.context(doing)?.as_fd(), folder, name).context(doing)
}

/// Mounts a detached tree on a file of a folder, which is made if it is not there and is never a link.
fn put_on_file(
    tree: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
) -> rustix::io::Result<()> {
    let make = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match fs::openat(folder, name, make, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let at = fs::openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&at)?.st_mode).is_symlink() {
        return Err(Errno::LOOP);
    }
    attach_at(tree, at.as_fd())
}

/// A new pseudo-terminal of the container's own devpts.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens one. That it is devpts' own multiplexer which was opened is verified: the file system's root is the
/// container's to write.
pub(super) fn open_terminal(root: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<Terminal> {
    const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    let doing = || "open a terminal (/dev/pts/ptmx)".to_owned();
    let handle = inroot::open(root, Path::new("/dev/pts/ptmx"), OFlags::PATH).context(doing)?;
    let is_devpts = fs::fstatfs(&handle).context(doing)?.f_type as u64 == DEVPTS_SUPER_MAGIC;
    if !is_devpts || !inroot::is_device(&handle, 5, 2).context(doing)? {
        return Err(Error::refused(doing(), "it is not the multiplexer of a devpts; mount one on /dev/pts"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = inroot::open(root, Path::new("/dev/pts/ptmx"), flags).context(doing)?;
    if fs::fstatfs(&master).context(doing)?.f_type as u64 != DEVPTS_SUPER_MAGIC
        || !inroot::is_device(&master, 5, 2).context(doing)?
    {
        return Err(Error::refused(doing(), "it changed while it was opened"));
    }
    rustix::pty::unlockpt(&master).context(doing)?;
    // Asked from the master, not by a path which the container could have changed.
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).context(doing)?;
    if let Some((columns, rows)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).context(|| "set the terminal's size".into())?;
    }
    Ok(Terminal { master, slave })
}

/// Puts the terminal on `/dev/console`.
pub(super) fn console(terminal: &Terminal, root: BorrowedFd<'_>) -> Result<()> {
    let doing = || "bind the terminal to /dev/console".to_owned();
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&terminal.slave, "", flags).context(doing)?;
    let dev = inroot::ensure(root, Path::new("/dev"), Kind::Folder)?;
    put_on_file(tree.as_fd(), dev.as_fd(), "console".as_ref()).context(doing)
}
