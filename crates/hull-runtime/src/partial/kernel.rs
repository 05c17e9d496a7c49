//! The kernel calls of a program's parent that rustix lacks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Every signal, blocked, and readable from a descriptor instead.
pub(super) struct Signals {
    before: libc::sigset_t,
    fd: OwnedFd,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Came {
    /// Which.
    pub(super) signal: i32,
    /// The kernel sent it: a terminal's key, which the whole foreground group has got.
    pub(super) from_kernel: bool,
}

impl Signals {
    /// Blocks all of them. Before the program is cloned, so that none is lost.
    pub(super) fn block() -> io::Result<Signals> {
        // SAFETY: both sets are initialised before they are read; the calls touch no other memory.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            // A fault of this process's own must not wait.
            for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
                libc::sigdelset(&raw mut all, fault);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const all, &raw mut before) < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Signals { before, fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// What to poll for the next one.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    /// The next one, if one waits.
    pub(super) fn next(&self) -> io::Result<Option<Came>> {
        let mut info = [0_u8; std::mem::size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut info) {
            Ok(length) if length == info.len() => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The number is the first field, the code the third; each has four bytes.
        let field = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        Ok(Some(Came { signal: field(0), from_kernel: field(8) == libc::SI_KERNEL }))
    }

    /// The mask as it was before: for the program, which must not inherit a blocked signal.
    pub(super) fn restore(&self) -> io::Result<()> {
        // SAFETY: the set was filled by the kernel.
        let result =
            unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// What has become of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// It stands still, and whoever waits for this process is to know.
    Stopped,
    /// It ended with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

/// News of a child; none where there is none yet.
pub(super) fn wait(pid: i32) -> io::Result<Option<Waited>> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    let found = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
    match found {
        0 => Ok(None),
        found if found < 0 => Err(io::Error::last_os_error()),
        _ if libc::WIFSTOPPED(status) => Ok(Some(Waited::Stopped)),
        _ if libc::WIFSIGNALED(status) => Ok(Some(Waited::Signaled(libc::WTERMSIG(status)))),
        _ => Ok(Some(Waited::Exited(libc::WEXITSTATUS(status)))),
    }
}

/// What a namespace's file is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The user namespace that owns it.
    User,
    /// The one that it was made in, of a pid or user namespace.
    Parent,
}

/// A namespace's relative; an error where it is outside of what this process may see.
pub(super) fn namespace_relative(of: BorrowedFd<'_>, which: Ask) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    let request = match which {
        Ask::User => NS_GET_USERNS,
        Ask::Parent => NS_GET_PARENT,
    };
    // SAFETY: the request has no argument, and answers with a new descriptor.
    let fd = unsafe { libc::ioctl(of.as_raw_fd(), request) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user who made a user namespace, as this process's namespace numbers it.
pub(super) fn owner_of(user_namespace: BorrowedFd<'_>) -> io::Result<u32> {
    const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one uid.
    let result = unsafe { libc::ioctl(user_namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(uid) }
}

/// Becomes a user, a group, or none but the group (`setgroups` with an empty list).
pub(super) fn set_ids(uid: Option<u32>, gid: Option<u32>, drop_groups: bool) -> io::Result<()> {
    let checked = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: no memory is involved; this process has one thread.
    unsafe {
        if drop_groups {
            checked(libc::setgroups(0, std::ptr::null()))?;
        }
        if let Some(gid) = gid {
            checked(libc::setresgid(gid, gid, gid))?;
        }
        if let Some(uid) = uid {
            checked(libc::setresuid(uid, uid, uid))?;
        }
    }
    Ok(())
}

/// Becomes a user and a group, and none besides.
pub(crate) fn become_ids(uid: u32, gid: u32) -> io::Result<()> {
    set_ids(Some(uid), Some(gid), true)
}
