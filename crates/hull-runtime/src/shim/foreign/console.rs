//! Where a runtime hands over the master of a terminal that it has made: a socket which it is told by its path.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::Context;
use crate::shim::kernel::{self, Interest};
use crate::sys::sockets;
use crate::{Error, Result};

/// How long the terminal is waited for when the runtime has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket that waits for one terminal. It goes with this.
#[derive(Debug)]
pub(super) struct Console {
    folder: OwnedFd,
    name: String,
    listener: OwnedFd,
}

impl Console {
    /// Listens at `name` in a folder.
    pub(super) fn listen(folder: &Path, name: &str) -> Result<Console> {
        let doing = || "make the socket for the terminal".to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty()).context(doing)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let listener = listener.context(doing)?;
        let console = Console { folder, name: name.to_owned(), listener };
        let own = format!("/proc/self/fd/{}/{name}", console.folder.as_raw_fd());
        rustix::net::bind(&console.listener, &SocketAddrUnix::new(own).context(doing)?).context(doing)?;
        rustix::net::listen(&console.listener, 1).context(doing)?;
        Ok(console)
    }

    /// A path to it for other processes, short however long the folder's is: a socket's may have 107 bytes.
    pub(super) fn path(&self) -> PathBuf {
        let own = rustix::process::getpid().as_raw_nonzero();
        PathBuf::from(format!("/proc/{own}/fd/{}/{}", self.folder.as_raw_fd(), self.name))
    }

    /// The terminal, which the runtime has sent before it ended.
    pub(super) fn terminal(&self) -> Result<OwnedFd> {
        let doing = || "take the terminal from the runtime".to_owned();
        let none = || Error::refused(doing(), "it sent none to its --console-socket");
        if !is_readable(&self.listener) {
            return Err(none());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = rustix::net::accept_with(&self.listener, flags).context(doing)?;
        if !is_readable(&connection) {
            return Err(none());
        }
        let mut name = [0; 4096];
        let (_, master) = sockets::receive(connection.as_fd(), &mut name).context(doing)?;
        let master = master.ok_or_else(none)?;
        if !rustix::termios::isatty(&master) {
            return Err(Error::refused(doing(), "what it sent is no terminal"));
        }
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.folder, self.name.as_str(), rustix::fs::AtFlags::empty());
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    let mut interest = [Interest { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    kernel::poll(&mut interest, Some(PATIENCE)).is_ok() && interest[0].revents & libc::POLLIN != 0
}
