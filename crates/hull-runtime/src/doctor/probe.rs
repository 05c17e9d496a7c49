//! Tries, each in a child of its own, whose namespaces, mounts and filters go with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, OpenTreeFlags};

use crate::container;
use crate::partial::{Kind, Range, Users};
use crate::sys::{self, Cloned, MountAttr};

/// The exit status of a try whose failure has no errno.
const NO_ERRNO: i32 = 255;

/// Does it in a child, which has its own memory and ends with it.
pub(super) fn apart(attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let Some(pid) = sys::fork()? else {
        let status = match attempt() {
            Ok(()) => 0,
            Err(error) => {
                error.raw_os_error().filter(|errno| (1..NO_ERRNO).contains(errno)).unwrap_or(NO_ERRNO)
            }
        };
        sys::exit_now(status);
    };
    ended(pid)
}

/// Waits for the child and makes an error of its status.
fn ended(pid: i32) -> io::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let status = loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            waited => break waited?,
        }
    };
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(NO_ERRNO) | None => Err(io::Error::other("the try ended by itself")),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The kernel's reason, in its words.
pub(super) fn reason(error: &io::Error) -> String {
    crate::error::words(error).to_lowercase()
}

pub(super) fn namespace(kind: Kind) -> io::Result<()> {
    apart(|| sys::unshare_namespaces(kind.flag()))
}

/// What a user without any privilege may.
pub(super) fn user_namespace_of_nobody() -> io::Result<()> {
    apart(|| {
        if rustix::process::geteuid().is_root() {
            crate::partial::become_ids(65534, 65534)?;
        }
        sys::unshare_namespaces(libc::CLONE_NEWUSER)
    })
}

pub(super) fn in_a_network(attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    apart(|| {
        sys::unshare_namespaces(libc::CLONE_NEWNET)?;
        attempt()
    })
}

/// A mount namespace of its own, with an empty file system at the path that it returns.
fn with_tmpfs() -> io::Result<PathBuf> {
    sys::unshare_namespaces(libc::CLONE_NEWNS)?;
    mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let place = Path::new("/proc");
    mount::move_mount(&tmpfs()?, "", CWD, place, mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(place.to_owned())
}

fn tmpfs() -> io::Result<OwnedFd> {
    let context = mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount::fsconfig_create(&context)?;
    Ok(mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

pub(super) fn overlay() -> io::Result<()> {
    apart(|| {
        let base = with_tmpfs()?;
        let folders = ["lower", "upper", "work"].map(|name| base.join(name));
        folders.iter().try_for_each(fs::create_dir)?;
        let [lower, upper, work] = folders;
        fs::write(lower.join("file"), "")?;
        let mounted = container::overlay(&[lower], &upper, &work, None)
            .map_err(|error| io::Error::from_raw_os_error(error.errno.unwrap_or(libc::EINVAL)))?;
        rustix::fs::statat(&mounted, "file", rustix::fs::AtFlags::empty())?;
        Ok(())
    })
}

/// An idmapped clone of a mount: that of a path, or a new tmpfs.
pub(super) fn idmapped(place: &str) -> io::Result<()> {
    apart(|| {
        sys::unshare_namespaces(libc::CLONE_NEWNS)?;
        let tree = match place {
            "tmpfs" => tmpfs()?,
            path => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                mount::open_tree(CWD, path, flags)?
            }
        };
        let (pid, users) = user_namespace()?;
        let mapped = sys::mount_setattr(tree.as_fd(), false, &MountAttr::id_map(users.as_fd()));
        sys::kill(pid, libc::SIGKILL)?;
        mapped
    })
}

/// A user namespace with a map; it is held by a child, which waits to be killed.
fn user_namespace() -> io::Result<(i32, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::clone3(libc::CLONE_NEWUSER, None)? {
        Cloned::Child => {
            drop(write);
            // The end of the other side, when this try ends, ends it as well.
            let _ = rustix::io::read(&read, &mut [0]);
            sys::exit_now(0);
        }
        Cloned::Parent { pid, .. } => {
            let range = vec![Range { inside: 0, outside: 100_000, count: 65_536 }];
            let users = Users { uids: range.clone(), gids: range, setgroups: None };
            users
                .write(pid)
                .map_err(|error| io::Error::from_raw_os_error(error.errno.unwrap_or(libc::EINVAL)))?;
            let namespace = File::open(format!("/proc/{pid}/ns/user"))?;
            // Kept until this try's process ends.
            let _ = std::os::fd::IntoRawFd::into_raw_fd(write);
            Ok((pid, namespace.into()))
        }
    }
}

pub(super) fn openat2() -> io::Result<()> {
    apart(|| {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(&root, "../..", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        Ok(())
    })
}

/// A filter that allows everything.
pub(super) fn seccomp() -> io::Result<()> {
    apart(|| {
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        let allow = libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        sys::install_filter(&[allow], 0).map(drop)
    })
}

/// The same with a listener that is asked.
pub(super) fn seccomp_notification() -> io::Result<()> {
    apart(|| sys::seccomp_has_action(libc::SECCOMP_RET_USER_NOTIF))
}
