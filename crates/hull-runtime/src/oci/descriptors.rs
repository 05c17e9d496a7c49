//! Descriptors that come from the caller or go to others: those that are handed on to the command, the terminal and the
//! pidfd for who listens at a socket, and the socket at which a first process waits.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::Context;
use crate::sys::sockets;
use crate::{Error, Result};

/// Descriptors that are to be handed on must be there: another one that is opened meanwhile would get their place.
pub(super) fn check_preserved(count: u32) -> Result<()> {
    for fd in 3..count.saturating_add(3) {
        let path = format!("/proc/self/fd/{fd}");
        if std::fs::symlink_metadata(&path).is_err() {
            let doing = format!("hand on {count} descriptors from 3 on (--preserve-fds)");
            return Err(Error::refused(doing, format!("{fd} is not open")));
        }
    }
    Ok(())
}

/// How many sockets this process was given by systemd's protocol of socket activation. One that was meant for another
/// process is none of its own.
pub(super) fn listen_fds() -> u32 {
    let variable = |name: &str| std::env::var(name).ok();
    let own = std::process::id().to_string();
    if variable("LISTEN_PID").is_some_and(|pid| pid != own) {
        return 0;
    }
    variable("LISTEN_FDS").and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Socket activation goes on: the variables name the sockets to the command, which is process 1 in there.
pub(super) fn take_listen_fds(spec: &mut Spec, count: u32) {
    let (Some(process), true) = (spec.process_mut(), count > 0) else { return };
    let mut environment = process.env().clone().unwrap_or_default();
    environment.push(format!("LISTEN_FDS={count}"));
    environment.push("LISTEN_PID=1".to_owned());
    if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
        environment.push(format!("LISTEN_FDNAMES={names}"));
    }
    process.set_env(Some(environment));
}

/// Hands the master of a terminal to whoever listens at a socket. Other runtimes send the terminal's name along.
pub(super) fn send_terminal(path: &Path, master: &OwnedFd) -> Result<()> {
    let doing = || format!("hand the terminal to the console socket {}", path.display());
    send_descriptor(path, b"/dev/ptmx", master.as_fd()).context(doing)
}

/// Hands a pidfd to whoever listens at a socket.
pub(super) fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<()> {
    let doing = || format!("hand the pidfd to the socket {}", path.display());
    send_descriptor(path, b"pidfd", pidfd).context(doing)
}

/// A descriptor goes with a byte at least, by which the one who gets it may know what it is.
fn send_descriptor(path: &Path, name: &[u8], descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    sockets::send(socket.as_fd(), name, Some(descriptor))
}

/// The socket at which the first process waits. The path to it is a short one, however long the root's is.
pub(super) fn listen(place: &Path) -> Result<OwnedFd> {
    let doing = || format!("make {}", place.display());
    let (folder, name) = socket_at(place).context(doing)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(doing)?;
    rustix::net::bind(&socket, &address(&folder, &name).context(doing)?).context(doing)?;
    rustix::net::listen(&socket, 1).context(doing)?;
    Ok(socket)
}

/// The folder that a socket is in, held open, and its name there.
pub(super) fn socket_at(place: &Path) -> rustix::io::Result<(OwnedFd, String)> {
    use rustix::fs::{Mode, OFlags};
    let folder = place.parent().unwrap_or(Path::new("."));
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((folder, name))
}

pub(super) fn address(folder: &OwnedFd, name: &str) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}
