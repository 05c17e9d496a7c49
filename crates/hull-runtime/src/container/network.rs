//! A network namespace of a container's own, for who has no network to plug it into: the loopback interface alone.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::namespaces::Entered;
use crate::Result;
use crate::error::Context;

/// Makes one, with its loopback interface up. The caller, which has one thread, is in there meanwhile. It takes the kernel
/// half a millisecond, which passes beside what the first process mounts.
pub(crate) fn make() -> Result<OwnedFd> {
    let entered = Entered::new_network()?;
    let made = File::open("/proc/self/ns/net").context(|| "open the new network namespace".into());
    let up = loopback_up();
    drop(entered);
    up.and(made).map(OwnedFd::from)
}

/// Sets the loopback interface of the caller's network namespace up: a program finds 127.0.0.1 as anywhere.
pub(super) fn loopback_up() -> Result<()> {
    let doing = || "set the loopback interface up".to_owned();
    // A socket of any family leads to the interfaces; this one is there in every kernel.
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .context(doing)?;
    // SAFETY: all zero is a valid value of this structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request lives through the call, with the name and the flags that SIOCSIFFLAGS reads.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done < 0 { Err(std::io::Error::last_os_error()).context(doing) } else { Ok(()) }
}
